//! The life of the process: start, reload, drain, end.
//!
//! One loop owns all process state and takes one event at a time, so reloads never overlap. Moves no
//! client byte, and does not know that an admin API exists: it hands out a [`Handle`].

pub mod assemble;
mod companion;
mod crew;
mod ears;
mod reload;
mod sockets;
pub mod watch;

pub use assemble::{Assembled, Carried, Failed, Origin, assemble};
pub use companion::Companion;
pub use crew::available_cpus;
pub use reload::{LastReload, Planned, Reloaded};
pub use sockets::AdminSocket;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::generation::{Live, SocketKey};
use crate::refusal::Refusal;
use crate::serve::{AccessLog, Crew, Shared};
use crate::telemetry::Metrics;
use crate::telemetry::log::{self, Log};
use crate::upkeep::Upkeep;
use crate::value::{Diagnostics, Sources};
use sockets::Sockets;
use watch::Watch;

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Starting,
    Serving,
    /// Still accepting, already unready.
    LameDuck,
    Draining,
}

/// What others may know of the process and ask of it.
#[derive(Clone)]
pub struct Handle {
    pub live: Arc<Live>,
    pub metrics: Arc<Metrics>,
    pub started: SystemTime,
    state: Arc<State>,
    asks: mpsc::Sender<Ask>,
}

struct State {
    phase: AtomicU8,
    last_reload: Mutex<LastReload>,
    local: Mutex<HashMap<SocketKey, String>>,
}

enum Ask {
    Reload(oneshot::Sender<Reloaded>),
    /// What a reload would do.
    Plan(oneshot::Sender<Result<Planned, Vec<String>>>),
    Drain,
    Quit,
}

impl Handle {
    pub fn phase(&self) -> Phase {
        match self.state.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            2 => Phase::LameDuck,
            _ => Phase::Draining,
        }
    }

    pub fn last_reload(&self) -> LastReload {
        self.state.last_reload.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The address a socket really has.
    pub fn local_address(&self, key: &SocketKey) -> Option<String> {
        self.state.local.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(key).cloned()
    }

    /// `None` if the process is ending.
    pub async fn reload(&self) -> Option<Reloaded> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Reload(answer)).await.ok()?;
        answered.await.ok()
    }

    /// What a reload would do; `Err` with every reason why there would be none. `None` if the process is ending.
    pub async fn plan(&self) -> Option<Result<Planned, Vec<String>>> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Plan(answer)).await.ok()?;
        answered.await.ok()
    }

    pub async fn drain(&self) {
        let _ = self.asks.send(Ask::Drain).await;
    }

    pub async fn quit(&self) {
        let _ = self.asks.send(Ask::Quit).await;
    }
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// So many requests were cut off at the drain deadline, or by a second signal.
    CutOff(usize),
}

/// Why the process did not start.
pub struct NotStarted {
    pub sources: Sources,
    pub found: Diagnostics,
}

pub struct Supervisor {
    origin: Origin,
    carried: Carried,
    sockets: Sockets,
    crew: Crew,
    ended: mpsc::Receiver<usize>,
    handle: Handle,
    asked: mpsc::Receiver<Ask>,
    changed: mpsc::Receiver<()>,
    watch: Option<Watch>,
    admin: mpsc::Sender<Option<AdminSocket>>,
    upkeep: Upkeep,
    access: Arc<AccessLog>,
    /// The process's own log; `None` if somebody else set one up.
    log: Option<Log>,
}

/// Asks that may wait; whoever asks more waits to ask.
const ASKS_MAX: usize = 64;

impl Supervisor {
    /// Assembles, binds and starts serving. `admin` receives the admin API's socket, now and after
    /// each reload that changes it. Warnings of the configuration are in the returned diagnostics.
    pub fn start(origin: Origin, admin: mpsc::Sender<Option<AdminSocket>>) -> Result<(Self, Sources, Diagnostics), NotStarted> {
        let cpus = available_cpus();
        let sessions = crate::tls::Sessions::new();
        // How many workers there are decides the shape of the metrics, and is itself configured:
        // a first look at the file, whose mistakes the second look reports.
        let workers = peek_workers(&origin).unwrap_or(cpus);
        let metrics = Metrics::new(workers, Refusal::LABELS);
        let carried = Carried { metrics: Arc::clone(&metrics), sessions, workers };
        let assembled = assemble(&origin, &carried, None).map_err(|failed| NotStarted { sources: failed.sources, found: failed.found })?;
        let Assembled { generation, sources, mut found, watched } = assembled;
        let level = generation.file.log.level;
        let level_override = std::env::var("ATTACHE_LOG").ok();
        let log = log::init(level, level_override.as_deref(), metrics.log_dropped()).or_else(|message| {
            // Better the configured level than silence.
            found.warn(None, message);
            log::init(level, None, metrics.log_dropped())
        });
        let log = log.ok();
        if log.is_some() {
            crate::telemetry::panics::watch(Arc::clone(&metrics));
        }
        let mut sockets = Sockets::default();
        let Some(staged) = sockets.stage(&generation, workers, &mut found) else { return Err(NotStarted { sources, found }) };
        let sink = match reload::open_sink(&generation.file.log, workers, &metrics) {
            Ok(sink) => sink,
            Err(error) => {
                found.error(generation.file.log.to.place, format!("cannot open the access log: {error}"));
                return Err(NotStarted { sources, found });
            }
        };
        let generation = Arc::new(generation);
        let live = Arc::new(Live::new(Arc::clone(&generation)));
        let access = Arc::new(AccessLog { sink: arc_swap::ArcSwapOption::from(sink) });
        let (upkeep, comparisons) = match Upkeep::start() {
            Ok(upkeep) => upkeep,
            Err(error) => {
                found.error(None, format!("cannot start: {error}"));
                return Err(NotStarted { sources, found });
            }
        };
        let shared = Arc::new(Shared {
            live: Arc::clone(&live),
            metrics: Arc::clone(&metrics),
            access: Arc::clone(&access),
            held: Arc::default(),
            comparisons,
        });
        let (tell_ended, ended) = mpsc::channel(workers);
        let crew = match Crew::start(workers, &shared, &tell_ended) {
            Ok(crew) => crew,
            Err(error) => {
                found.error(None, format!("cannot start {workers} workers: {error}")).help("lower [process] workers");
                return Err(NotStarted { sources, found });
            }
        };
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let (tell_changed, changed) = mpsc::channel(1);
        let state = Arc::new(State {
            phase: AtomicU8::new(Phase::Starting as u8),
            last_reload: Mutex::new(LastReload::first(generation.loaded_at)),
            local: Mutex::default(),
        });
        let handle = Handle { live, metrics, started: generation.loaded_at, state, asks };
        let watch = match &origin {
            Origin::Paths(_) => start_watch(tell_changed, &watched),
            Origin::Text { .. } => None,
        };
        let mut supervisor = Self { origin, carried, sockets, crew, ended, handle, asked, changed, watch, admin, upkeep, access, log };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(supervisor.apply_sockets(&generation, staged)),
            Err(error) => {
                found.error(None, format!("cannot start: {error}"));
                return Err(NotStarted { sources, found });
            }
        }
        supervisor.note_generation(&generation);
        Ok((supervisor, sources, found))
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until told to end, or until `companion` has ended.
    pub async fn run(mut self, companion: Option<Companion>) -> std::io::Result<End> {
        let companion = companion.as_ref();
        let mut signals = Signals::new()?;
        self.set_phase(Phase::Serving);
        loop {
            tokio::select! {
                Some(ask) = self.asked.recv() => match ask {
                    Ask::Reload(answer) => {
                        let reloaded = self.reload("request").await;
                        let _ = answer.send(reloaded);
                    }
                    Ask::Plan(answer) => {
                        let _ = answer.send(self.plan());
                    }
                    Ask::Drain => return self.finish(&mut signals, Stay::UntilTold(companion)).await,
                    Ask::Quit => return self.finish(&mut signals, Stay::No).await,
                },
                Some(()) = self.changed.recv() => {
                    self.reload_if_changed().await;
                }
                _ = signals.hangup.recv() => {
                    self.reload("SIGHUP").await;
                }
                _ = signals.reopen.recv() => self.reopen_log(),
                _ = signals.terminate.recv() => return self.finish(&mut signals, Stay::No).await,
                _ = signals.interrupt.recv() => return self.finish(&mut signals, Stay::No).await,
                () = end_of(companion) => return self.finish(&mut signals, Stay::No).await,
            }
        }
    }

    fn set_phase(&self, phase: Phase) {
        self.handle.state.phase.store(phase as u8, Ordering::Release);
    }

    fn reopen_log(&self) {
        if let Some(sink) = self.access.sink.load_full()
            && let Err(error) = sink.reopen()
        {
            tracing::error!(%error, "cannot reopen the access log");
        }
    }

    /// Unready, lame duck, drain, end.
    async fn finish(mut self, signals: &mut Signals, stay: Stay<'_>) -> std::io::Result<End> {
        let process = self.handle.live.pin().file.process.clone();
        tracing::info!(lame_duck = ?process.lame_duck.0, drain = ?process.drain.0, "draining");
        self.set_phase(Phase::LameDuck);
        let mut is_hurried = false;
        if !process.lame_duck.0.is_zero() {
            is_hurried = signals.within(process.lame_duck.0, &mut self.asked).await;
        }
        self.set_phase(Phase::Draining);
        self.sockets.remove_files();
        let deadline = Instant::now() + process.drain.0;
        self.crew.drain(deadline).await;
        let mut left = self.crew.count();
        let mut cut_off = 0;
        if is_hurried {
            self.crew.stop().await;
        }
        while left > 0 {
            tokio::select! {
                Some(count) = self.ended.recv() => {
                    left -= 1;
                    cut_off += count;
                }
                () = signals.end(&mut self.asked), if !is_hurried => {
                    is_hurried = true;
                    self.crew.stop().await;
                }
            }
        }
        if let (Stay::UntilTold(companion), false) = (stay, is_hurried) {
            tokio::select! {
                () = signals.end(&mut self.asked) => {}
                () = end_of(companion) => {}
            }
        }
        self.crew.join();
        if self.upkeep.has_logs() {
            self.upkeep.end(LOGS_END).await;
        }
        if let Some(sink) = self.access.sink.swap(None) {
            sink.flush_and_stop(Duration::from_secs(1));
        }
        tracing::info!(cut_off, "ended");
        if let Some(log) = &self.log {
            log.stop(Duration::from_millis(200));
        }
        Ok(if cut_off > 0 { End::CutOff(cut_off) } else { End::Done })
    }
}

/// How long logs may take to have taken what was brought to them.
const LOGS_END: Duration = Duration::from_secs(4);

/// What becomes of the process once it has drained.
enum Stay<'a> {
    No,
    /// Until a signal, somebody who asks, or the end of the companion.
    UntilTold(Option<&'a Companion>),
}

async fn end_of(companion: Option<&Companion>) {
    let Some(companion) = companion else { return std::future::pending().await };
    companion.ended().await;
    tracing::info!(pid = companion.pid(), "the process to exit with has ended");
}

fn start_watch(tell: mpsc::Sender<()>, watched: &[PathBuf]) -> Option<Watch> {
    // A change that comes while one is waiting to be looked at is seen with it.
    let on_change = move || {
        let _ = tell.try_send(());
    };
    match watch::start(on_change) {
        Ok(watch) => {
            watch.follow(watched);
            Some(watch)
        }
        Err(error) => {
            tracing::warn!(%error, "cannot watch the configuration; reload with SIGHUP");
            None
        }
    }
}

fn peek_workers(origin: &Origin) -> Option<usize> {
    let environment = |name: &str| std::env::var(name).ok();
    let loaded = match origin {
        Origin::Paths(paths) => crate::config::load(paths, &environment).ok()?,
        Origin::Text { name, text } => crate::config::from_text(name, text, &environment).ok()?,
    };
    let parsed = crate::config::File::parse(&loaded.root, &loaded.sources, &mut Diagnostics::default());
    parsed.file.process.workers.map(|workers| workers.0 as usize)
}

/// The signals of CONFIG §6.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for a signal to end, or for somebody to ask for it.
    async fn end(&mut self, asked: &mut mpsc::Receiver<Ask>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // Too late for a reload; dropping the ask answers it.
                Some(ask) = asked.recv() => if matches!(ask, Ask::Quit) { return },
                _ = self.hangup.recv() => {}
                _ = self.reopen.recv() => {}
            }
        }
    }

    /// Whether the end was asked for within `duration`.
    async fn within(&mut self, duration: Duration, asked: &mut mpsc::Receiver<Ask>) -> bool {
        tokio::time::timeout(duration, self.end(asked)).await.is_ok()
    }
}
