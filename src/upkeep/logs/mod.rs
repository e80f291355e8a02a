//! Brings lines to logs and takes records away: a thread for each, so that none ever delays a probe or another log.
//!
//! What is read is written down as read once every sink has it, so a kill repeats a little and loses nothing. Makes nothing of lines:
//! `services::logs` does.

mod checkpoint;
mod files;
mod heard;
mod sinks;
mod slowlog;
mod tail;
mod waiting;
mod walk;

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::proto::logs::Entry;
use crate::services::logs::{Batch, Flow, Origin};
use crate::tls::Peer;
use crate::upkeep::Ear;
use crate::value::EarKey;
use checkpoint::Checkpoint;
use files::{Followed, SCAN_INTERVAL};
use heard::Left;
use sinks::Sink;
use waiting::{Arrived, Assemblers, Heard, Waiting, What};

/// A log at work; ends when dropped.
pub(super) struct Running {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Remains>>,
    /// Somebody takes what it leaves.
    has_heir: Arc<AtomicBool>,
}

impl Running {
    /// After `before` has ended, which may have the same files.
    pub(super) fn start(flow: &Arc<Flow>, before: Option<Self>, ears: Vec<(EarKey, Arc<Ear>)>, alive: Arc<()>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let flow = Arc::clone(flow);
        let has_heir = Arc::new(AtomicBool::new(false));
        let inherited = Arc::clone(&has_heir);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let before = before.map(Self::end).unwrap_or_default();
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(log = flow.name, %error, "a log cannot be read");
                    return before;
                }
            };
            let mut remains = runtime.block_on(run(Arc::clone(&flow), ears, before, stopped));
            // Names may still be looked up.
            runtime.shutdown_background();
            let lost = remains.lines.len() as u64;
            if lost > 0 && !inherited.load(Ordering::SeqCst) {
                flow.metrics.lost(lost);
                tracing::warn!(
                    log = flow.name,
                    lines = lost,
                    "lines that were heard are lost: sinks did not take them before this log ended"
                );
                remains.lines.clear();
            }
            drop(alive);
            remains
        });
        if let Err(error) = &thread {
            tracing::error!(%error, "a log has no thread");
        }
        Self { stop, thread: thread.ok(), has_heir }
    }

    /// Has it write down how far it came, and waits for that and for what it leaves.
    fn end(mut self) -> Remains {
        self.has_heir.store(true, Ordering::SeqCst);
        self.stop.send_replace(true);
        // A panic was told.
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// What a log leaves to the one that follows.
#[derive(Default)]
struct Remains {
    streams: Vec<Left>,
    /// Lines that were heard, and that sinks have not taken.
    lines: VecDeque<Heard>,
}

/// That wait to be read, and their bytes in KiB: more than the longest line and the longest post have.
const ARRIVED_MAX: usize = 1024;
const ARRIVED_KIB_MAX: usize = 24 << 10;
/// Sources with lines that are waited for more of; whoever sends datagrams can claim to be many.
const PENDING_MAX: usize = 1024;
/// A batch of few waits for more, so long where each costs.
const LINGER_NEAR: Duration = Duration::from_millis(10);
const LINGER_FAR: Duration = Duration::from_millis(200);
/// How long sinks may take for what is left at the end.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// A checkpoint that cannot be opened is tried again.
const RETRY: Duration = Duration::from_secs(1);

async fn run(flow: Arc<Flow>, ears: Vec<(EarKey, Arc<Ear>)>, before: Remains, mut stopped: watch::Receiver<bool>) -> Remains {
    let Remains { streams: mut left, lines: mut inherited } = before;
    let settings = Arc::clone(&flow.settings);
    let path = settings.checkpoint.as_ref().map(|path| path.value.as_path());
    let mut checkpoint = loop {
        match Checkpoint::open(path, Arc::clone(&flow.positions), Instant::now()) {
            Ok(checkpoint) => break checkpoint,
            Err(error) => {
                flow.metrics.failed();
                tracing::error!(log = flow.name, path = ?path, %error, "a checkpoint cannot be opened; nothing is read");
            }
        }
        if timeout(RETRY, stopped.wait_for(|stopped| *stopped)).await.is_ok() {
            return Remains { streams: left, lines: inherited };
        }
    };
    let (sender, mut arrivals) = mpsc::channel(ARRIVED_MAX);
    let room = Arc::new(Semaphore::new(ARRIVED_KIB_MAX));
    let road = |name| heard::Road {
        name,
        sender: sender.clone(),
        room: Arc::clone(&room),
        bytes_max: settings.line.value.bytes(),
        // A line without anything is a part of a record that is several.
        keeps_empty: settings.multiline.is_some(),
        stopped: stopped.clone(),
        metrics: Arc::clone(&flow.metrics),
    };
    let mut files = Vec::new();
    let mut hearing = JoinSet::new();
    for (source, peer) in settings.from.value.iter().zip(&flow.peers.sources) {
        let name: Option<Arc<str>> = source.name.as_deref().map(Arc::from);
        match &source.origin {
            Origin::File(wanted) => files.push((wanted.clone(), name)),
            Origin::Stdin => {
                hearing.spawn(heard::stdin(road(name)));
            }
            Origin::Http => {
                if let Some(posts) = flow.posts() {
                    tokio::spawn(hear_posts(posts, road(name)));
                }
            }
            Origin::Syslog(keys) => {
                for key in &keys.0 {
                    if let Some((key, ear)) = ears.iter().find(|(bound, _)| *bound == key.value) {
                        let theirs = left.extract_if(.., |left| left.is_of(key)).collect();
                        hearing.spawn(heard::syslog(key.clone(), Arc::clone(ear), theirs, road(name.clone())));
                    }
                }
            }
            Origin::Slowlog(server, interval) => {
                let looked =
                    Looked { server: server.clone(), peer: peer.clone(), interval: *interval, key: format!("redis_slowlog {server}") };
                let seen = checkpoint.get(&looked.key).and_then(|seen| serde_json::from_value(seen).ok()).unwrap_or_default();
                let (flow, road) = (Arc::clone(&flow), road(name));
                tokio::spawn(async move { road.unless_stopped(hear_slowlog(flow, looked, seen, &road)).await });
            }
        }
    }
    // The others have theirs. Streams that came by sockets that are not wanted any more end here.
    drop((sender, left));
    let mut sinks: Vec<Sink> = settings.to.iter().zip(&flow.peers.sinks).map(|(sink, peer)| Sink::new(sink, peer.as_ref())).collect();
    let linger = if sinks.iter().any(Sink::is_far) { LINGER_FAR } else { LINGER_NEAR };
    let mut followed = Followed::new(files.into_iter(), settings.own_paths(), &checkpoint);
    let alarm = followed.inotify().and_then(|inotify| register(inotify.as_fd().try_clone_to_owned().ok()?).ok());
    let mut room = Vec::new();
    let mut assemblers = Assemblers::new();
    let mut scanned: Option<Instant> = None;
    let mut began: Option<Instant> = None;
    let mut batch = Batch::default();
    let mut waiting = Waiting::default();
    let (mut is_last, mut ends) = (false, None);
    'log: loop {
        let now = Instant::now();
        let arrived = Timestamp::now().to_string();
        look(&mut followed, &mut scanned, &mut checkpoint, &flow, now);
        // What others brought first: there is always more of files.
        while !batch.is_full() {
            if let Some(line) = inherited.pop_front() {
                waiting.line(line, &flow, &mut assemblers, &arrived, now, &mut batch);
                continue;
            }
            if waiting.give(&flow, &arrived, now, &mut batch) {
                continue;
            }
            let Ok(next) = arrivals.try_recv() else { break };
            waiting.take(next, &flow, &mut assemblers, &arrived, now, &mut batch);
        }
        let mut has_more = waiting.has_more() || !inherited.is_empty();
        // Files can be gone on with another time.
        has_more |= !is_last && followed.read(&flow, &mut room, &arrived, now, &mut batch);
        // What others brought is nowhere else: it goes out before the end.
        is_last |= *stopped.borrow();
        let is_crowded = assemblers.len() > PENDING_MAX;
        assemblers.retain(|(source, _), assembler| {
            let take = &mut |entry: Entry<'_>| flow.take(&entry, source, &arrived, &mut batch);
            if is_last || is_crowded {
                assembler.flush(take);
            } else {
                assembler.flush_idle(flow.rules(), now, take);
            }
            assembler.begins().is_some()
        });
        if !batch.is_empty() && began.is_none() {
            began = Some(now);
        }
        let is_due = is_last || batch.is_full() || began.is_some_and(|began| now.saturating_duration_since(began) >= linger);
        if is_due || (batch.is_empty() && !has_more) {
            if !batch.is_empty() {
                let taken = async {
                    for sink in &mut sinks {
                        sink.deliver(&batch, &flow).await;
                    }
                };
                // Whoever ends now, and cannot have them taken soon, has not said that they are.
                let mut stopping = stopped.clone();
                let ending = async {
                    let _ = stopping.wait_for(|stopped| *stopped).await;
                    tokio::time::sleep(LAST_WORDS).await;
                };
                let (mut taken, mut ending) = (pin!(taken), pin!(ending));
                loop {
                    tokio::select! {
                        biased;
                        () = &mut taken => break,
                        () = &mut ending => break 'log,
                        // Files that come and go meanwhile are known by name later on only if they are opened now.
                        () = woken_late(alarm.as_ref()) => {}
                        () = tokio::time::sleep(SCAN_INTERVAL) => {}
                    }
                    look(&mut followed, &mut scanned, &mut checkpoint, &flow, Instant::now());
                }
                began = None;
            }
            // At once: a kill between the two would repeat the batch.
            followed.commit(&mut checkpoint, now);
            waiting.commit(&mut checkpoint);
            note(&mut checkpoint, &flow);
            if checkpoint.is_sync_due(now) {
                let synced = sinks.iter_mut().try_for_each(Sink::sync).and_then(|()| checkpoint.sync(now));
                if let Err(error) = synced {
                    tracing::warn!(log = flow.name, %error, "what was taken is not safe on disk");
                }
            }
            if !batch.is_empty() {
                flow.publish(Arc::new(std::mem::take(&mut batch)));
            }
            waiting.tell();
            batch.read = 0;
        }
        if is_last {
            // Until whoever hears has said all that it has heard.
            let is_done = arrivals.is_closed() && arrivals.is_empty() && inherited.is_empty() && !waiting.has_more();
            if is_done || *ends.get_or_insert(now + LAST_WORDS) <= now {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        if has_more {
            // Others on this thread may have something.
            tokio::task::yield_now().await;
            continue;
        }
        let pause = if began.is_some() { linger } else { SCAN_INTERVAL };
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => {}
            Some(next) = arrivals.recv() => waiting.take(next, &flow, &mut assemblers, &arrived, now, &mut batch),
            () = woken_late(alarm.as_ref()) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    // Files have theirs still, and whoever posts is told; what was heard is nowhere else.
    let mut lines: VecDeque<Heard> = waiting.heard.into();
    lines.append(&mut inherited);
    let mut heard = |arrived: Arrived| {
        if let Arrived { source, stream, what: What::Line(line), .. } = arrived {
            lines.push_back(Heard { source, stream, line });
        }
    };
    let mut streams = Vec::new();
    // Whoever waits for room has it now.
    loop {
        tokio::select! {
            biased;
            Some(arrived) = arrivals.recv() => heard(arrived),
            Some(theirs) = hearing.join_next() => streams.append(&mut theirs.unwrap_or_default()),
            else => break,
        }
    }
    Remains { streams, lines }
}

/// Has files found, and what is known of them written down before anything of them is out.
fn look(followed: &mut Followed, scanned: &mut Option<Instant>, checkpoint: &mut Checkpoint, flow: &Flow, now: Instant) {
    let has_moved = followed.hear(checkpoint, now);
    if has_moved || scanned.is_none_or(|scanned| now.saturating_duration_since(scanned) >= SCAN_INTERVAL) {
        *scanned = Some(now);
        followed.scan(checkpoint, now);
        let (files, lag) = followed.standing();
        flow.metrics.stands(files, lag);
    }
    note(checkpoint, flow);
}

fn note(checkpoint: &mut Checkpoint, flow: &Flow) {
    if let Err(error) = checkpoint.commit() {
        flow.metrics.failed();
        tracing::warn!(log = flow.name, %error, "a checkpoint cannot be written; a restart would repeat records");
    }
}

#[expect(deprecated, reason = "its successor is unsafe since a descriptor may be closed while registered, which one that is owned is not")]
fn register(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// When it has something to say.
async fn woken(alarm: Option<&AsyncFd<OwnedFd>>) {
    let Some(alarm) = alarm else { return std::future::pending().await };
    // The events are read by who is woken.
    if let Ok(mut ready) = alarm.readable().await {
        ready.clear_ready();
    }
}

/// A little later: who writes often is not looked at for each line.
async fn woken_late(alarm: Option<&AsyncFd<OwnedFd>>) {
    woken(alarm).await;
    tokio::time::sleep(LINGER_NEAR).await;
}

async fn hear_posts(mut posts: mpsc::Receiver<crate::services::logs::Posted>, road: heard::Road) {
    while let Some(Some(posted)) = road.unless_stopped(posts.recv()).await {
        let source = road.name.clone().unwrap_or_else(|| posted.source.into());
        let length = posted.lines.len();
        if !road.send(source, 0, length, What::Posted(posted.lines, posted.taken)).await {
            return;
        }
    }
}

/// Whose slow commands are looked at, how often, and what the checkpoint calls them.
struct Looked {
    server: crate::value::Server,
    peer: Option<Peer>,
    interval: Duration,
    key: String,
}

async fn hear_slowlog(flow: Arc<Flow>, looked: Looked, mut seen: slowlog::Seen, road: &heard::Road) {
    let Looked { server, peer, interval, key } = looked;
    let source = road.name.clone().unwrap_or_else(|| key.as_str().into());
    let mut pause = interval;
    let (mut most, mut is_said) = (slowlog::ENTRIES_MAX, false);
    loop {
        match slowlog::look(&server, peer.as_ref(), &seen, &mut most).await {
            Ok(found) => {
                if std::mem::take(&mut is_said) {
                    tracing::info!(log = flow.name, "slow commands are read again");
                }
                pause = if found.is_fast { (pause / 2).max(interval / 16) } else { interval };
                flow.metrics.lost(found.lost);
                if found.seen != seen {
                    seen = found.seen.clone();
                    let length = found.lines.iter().map(String::len).sum();
                    let what = What::Slow(found.lines, key.clone(), found.seen);
                    if !road.send(Arc::clone(&source), 0, length, what).await {
                        return;
                    }
                }
            }
            Err(reason) => {
                pause = interval;
                flow.metrics.failed();
                if !std::mem::replace(&mut is_said, true) {
                    tracing::warn!(log = flow.name, %reason, "slow commands cannot be read");
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}
