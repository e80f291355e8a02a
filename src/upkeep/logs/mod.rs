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

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::proto::logs::{Assembler, Entry};
use crate::services::logs::{Batch, Flow, Origin};
use crate::tls::Peer;
use crate::upkeep::Ear;
use crate::value::EarKey;
use checkpoint::Checkpoint;
use files::{Followed, SCAN_INTERVAL};
use heard::Left;
use sinks::Sink;

/// A log at work; ends when dropped.
pub(super) struct Running {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Vec<Left>>>,
}

impl Running {
    /// After `before` has ended, which may have the same files.
    pub(super) fn start(flow: &Arc<Flow>, before: Option<Self>, ears: Vec<(EarKey, Arc<Ear>)>, alive: Arc<()>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let flow = Arc::clone(flow);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let left = before.map(Self::end).unwrap_or_default();
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(log = flow.name, %error, "a log cannot be read");
                    return Vec::new();
                }
            };
            let left = runtime.block_on(run(flow, ears, left, stopped));
            // Names may still be looked up.
            runtime.shutdown_background();
            drop(alive);
            left
        });
        if let Err(error) = &thread {
            tracing::error!(%error, "a log has no thread");
        }
        Self { stop, thread: thread.ok() }
    }

    /// Has it write down how far it came, and waits for that and for what it leaves.
    fn end(mut self) -> Vec<Left> {
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

/// What others than files bring.
struct Arrived {
    source: Arc<str>,
    what: What,
}

enum What {
    /// One line, without its end.
    Line(Vec<u8>),
    /// Whole documents, and whom to tell that sinks have them.
    Posted(Vec<u8>, oneshot::Sender<()>),
    /// Of a Redis, and how far that is.
    Slow(Vec<String>, String, slowlog::Seen),
}

/// That wait to be read.
const ARRIVED_MAX: usize = 1024;
/// Bytes of lines in a batch.
const BATCH_BYTES: usize = 256 << 10;
/// Sources with lines that are waited for more of; whoever sends datagrams can claim to be many.
const PENDING_MAX: usize = 1024;
/// A batch of few waits for more, so long where each costs.
const LINGER_NEAR: Duration = Duration::from_millis(10);
const LINGER_FAR: Duration = Duration::from_millis(200);
/// How long sinks may take for what is left at the end.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// A checkpoint that cannot be opened is tried again.
const RETRY: Duration = Duration::from_secs(1);

async fn run(flow: Arc<Flow>, ears: Vec<(EarKey, Arc<Ear>)>, mut left: Vec<Left>, mut stopped: watch::Receiver<bool>) -> Vec<Left> {
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
            return left;
        }
    };
    let (sender, mut arrivals) = mpsc::channel(ARRIVED_MAX);
    let road = |name| {
        let (sender, stopped) = (sender.clone(), stopped.clone());
        heard::Road { name, sender, bytes_max: settings.line.value.bytes(), stopped }
    };
    let mut followed = Vec::new();
    let mut hearing = JoinSet::new();
    for (source, peer) in settings.from.value.iter().zip(&flow.peers.sources) {
        let name: Option<Arc<str>> = source.name.as_deref().map(Arc::from);
        match &source.origin {
            Origin::File(files) => match Followed::new(files, name) {
                Ok(files) => followed.push(files),
                Err(error) => tracing::error!(log = flow.name, error, "files cannot be looked for"),
            },
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
    let alarms: Vec<_> = followed.iter().filter_map(|files| register(files.inotify()?.as_fd().try_clone_to_owned().ok()?).ok()).collect();
    let mut room = Vec::new();
    let mut assemblers = Assemblers::new();
    let mut scanned: Option<Instant> = None;
    let mut began: Option<Instant> = None;
    let mut batch = Batch::default();
    let mut waiting = Waiting::default();
    let (mut is_last, mut ends) = (false, None);
    loop {
        let now = Instant::now();
        let arrived = Timestamp::now().to_string();
        let mut has_moved = false;
        for files in &mut followed {
            has_moved |= files.hear(&mut checkpoint, now);
        }
        if has_moved || scanned.is_none_or(|scanned| now.saturating_duration_since(scanned) >= SCAN_INTERVAL) {
            scanned = Some(now);
            for files in &mut followed {
                files.scan(&mut checkpoint, now);
            }
            let standing: Vec<(u64, u64)> = followed.iter().map(Followed::standing).collect();
            flow.metrics.stands(standing.iter().map(|(files, _)| files).sum(), standing.iter().map(|(_, lag)| lag).sum());
        }
        // New files are known before anything of them is out.
        note(&mut checkpoint, &flow);
        let mut has_more = false;
        for files in &mut followed {
            // Files can be gone on with another time.
            has_more |= !is_last && files.read(&flow, &mut room, &arrived, now, &mut batch);
        }
        while batch.read < BATCH_BYTES {
            let Ok(next) = arrivals.try_recv() else { break };
            waiting.take(next, &flow, &mut assemblers, &arrived, now, &mut batch);
        }
        // What others brought is nowhere else: it goes out before the end.
        is_last |= *stopped.borrow();
        let is_full = assemblers.len() > PENDING_MAX;
        assemblers.retain(|source, assembler| {
            let take = &mut |entry: Entry<'_>| flow.take(&entry, source, &arrived, &mut batch);
            if is_last || is_full {
                assembler.flush(take);
            } else {
                assembler.flush_idle(flow.rules(), now, take);
            }
            assembler.begins().is_some()
        });
        if !batch.is_empty() && began.is_none() {
            began = Some(now);
        }
        let is_due = is_last || batch.read >= BATCH_BYTES || began.is_some_and(|began| now.saturating_duration_since(began) >= linger);
        if is_due || (batch.is_empty() && !has_more) {
            if !batch.is_empty() {
                let taken = async {
                    for sink in &mut sinks {
                        sink.deliver(&batch, &flow).await;
                    }
                };
                // Whoever ends now, and cannot have them taken soon, has not said that they are.
                let ending = async {
                    let _ = stopped.wait_for(|stopped| *stopped).await;
                    tokio::time::sleep(LAST_WORDS).await;
                };
                tokio::select! {
                    () = taken => {}
                    () = ending => break,
                }
                began = None;
            }
            // At once: a kill between the two would repeat the batch.
            for files in &mut followed {
                files.commit(&mut checkpoint, now);
            }
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
            if (arrivals.is_closed() && arrivals.is_empty()) || *ends.get_or_insert(now + LAST_WORDS) <= now {
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
            () = woken(&alarms) => tokio::time::sleep(LINGER_NEAR).await,
            () = tokio::time::sleep(pause) => {}
        }
    }
    // Whoever waits to bring something is told that nobody takes it.
    drop(arrivals);
    let mut left = Vec::new();
    while let Some(theirs) = hearing.join_next().await {
        left.append(&mut theirs.unwrap_or_default());
    }
    left
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

/// When one of these has something to say.
async fn woken(alarms: &[AsyncFd<OwnedFd>]) {
    let ready = alarms.iter().map(|alarm| Box::pin(alarm.readable()));
    if alarms.is_empty() {
        return std::future::pending().await;
    }
    let (ready, ..) = futures_util::future::select_all(ready).await;
    // The events are read by who is woken.
    if let Ok(mut ready) = ready {
        ready.clear_ready();
    }
}

/// Who is to be told when sinks have a batch.
#[derive(Default)]
struct Waiting {
    told: Vec<oneshot::Sender<()>>,
    seen: Vec<(String, slowlog::Seen)>,
}

type Assemblers = std::collections::HashMap<Arc<str>, Assembler>;

impl Waiting {
    fn take(&mut self, arrived: Arrived, flow: &Flow, assemblers: &mut Assemblers, at: &str, now: Instant, batch: &mut Batch) {
        let Arrived { source, what } = arrived;
        match what {
            What::Line(line) => {
                let assembler = assemblers.entry(Arc::clone(&source)).or_default();
                assembler.bytes(flow.rules(), &line, 0, now, &mut |entry: Entry<'_>| flow.take(&entry, &source, at, batch));
            }
            What::Posted(lines, taken) => {
                let mut assembler = Assembler::default();
                for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    assembler.bytes(flow.rules(), line, 0, now, &mut |entry: Entry<'_>| flow.take(&entry, &source, at, batch));
                }
                assembler.flush(&mut |entry| flow.take(&entry, &source, at, batch));
                self.told.push(taken);
            }
            What::Slow(lines, name, seen) => {
                for line in lines {
                    flow.take_json(&line, &source, at, batch);
                }
                self.seen.push((name, seen));
            }
        }
    }

    fn commit(&mut self, checkpoint: &mut Checkpoint) {
        for (name, seen) in self.seen.drain(..) {
            checkpoint.put(&name, serde_json::to_value(seen).ok());
        }
    }

    fn tell(&mut self) {
        for told in self.told.drain(..) {
            // It may have gone.
            let _ = told.send(());
        }
    }
}

async fn hear_posts(mut posts: mpsc::Receiver<crate::services::logs::Posted>, road: heard::Road) {
    while let Some(Some(posted)) = road.unless_stopped(posts.recv()).await {
        let source = road.name.clone().unwrap_or_else(|| posted.source.into());
        let arrived = Arrived { source, what: What::Posted(posted.lines, posted.taken) };
        if road.sender.send(arrived).await.is_err() {
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
    loop {
        match slowlog::look(&server, peer.as_ref(), &seen).await {
            Ok(found) => {
                pause = if found.is_fast { (pause / 2).max(interval / 16) } else { interval };
                flow.metrics.lost(found.lost);
                if found.seen != seen {
                    seen = found.seen.clone();
                    let what = What::Slow(found.lines, key.clone(), found.seen);
                    if road.sender.send(Arrived { source: Arc::clone(&source), what }).await.is_err() {
                        return;
                    }
                }
            }
            Err(reason) => {
                pause = interval;
                flow.metrics.failed();
                tracing::debug!(log = flow.name, %reason, "slow commands cannot be read");
            }
        }
        tokio::time::sleep(pause).await;
    }
}
