//! Keeps pools true: asks endpoints how they are, and names where their endpoints are. Makes the checks of health reports, asks
//! programs for their metrics, has ramps go on.
//!
//! Runs on one thread of its own, so that neither ever delays a request. Decides nothing about requests: it tells pools and
//! endpoints what it found.

mod checks;
mod collect;
mod discover;
mod dns;
mod ear;
mod fetch;
pub mod kept;
mod logs;
mod probe;
mod processes;
mod program;
mod ramps;
mod statsd;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::services::Service;
use crate::services::health::Check;
use crate::services::logs::Flow;
use crate::services::metrics::{Probes, Source};
use crate::services::mirror::Comparison;
use crate::services::split::ramp::{Moment, Saved};
use crate::upstream::Pool;
use crate::value::EarKey;
pub use ear::Ear;
use kept::Keeper;
use logs::Running;

/// The thread, for as long as this lives.
pub struct Upkeep {
    followed: watch::Sender<Followed>,
    /// Each log that is at work holds this, and so does who starts them.
    logs: Arc<()>,
    _thread: JoinHandle<()>,
}

/// What is kept true.
#[derive(Clone, Default)]
pub struct Followed {
    pub pools: Vec<Arc<Pool>>,
    /// Of health reports.
    pub checks: Vec<Arc<Check>>,
    /// Of pages of metrics.
    pub sources: Vec<Arc<Source>>,
    /// Sources that turn up when somebody names them.
    pub probes: Vec<Arc<Probes>>,
    /// Sockets that adapters hear by, by what their services call them. Those that are here no more are to be let go of.
    pub ears: Vec<(EarKey, Arc<Ear>)>,
    /// Of logs.
    pub flows: Vec<Arc<Flow>>,
    /// Splits that have ramps.
    pub ramped: Vec<Arc<Service>>,
    /// Where it is written down how far ramps have come.
    pub state: Option<PathBuf>,
}

impl Upkeep {
    /// With where answers go that are to be compared.
    pub fn start() -> io::Result<(Self, mpsc::Sender<Comparison>)> {
        let (compare, comparisons) = mpsc::channel(COMPARISONS_MAX);
        let (sender, followed) = watch::channel(Followed::default());
        let logs = Arc::new(());
        let alive = Arc::clone(&logs);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("upkeep".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::spawn(run_comparisons(comparisons));
                follow(followed, alive).await;
            });
        })?;
        Ok((Self { followed: sender, logs, _thread: thread }, compare))
    }

    /// Nothing is kept true any more. Waits for logs, which have the last of what they were brought taken, but no longer than this.
    pub async fn end(&self, most: Duration) {
        self.follow(Followed::default());
        let ended = async {
            // It has to be told first.
            tokio::time::sleep(Duration::from_millis(20)).await;
            while Arc::strong_count(&self.logs) > 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(most, ended).await;
    }

    /// Whether a log is at work.
    pub fn has_logs(&self) -> bool {
        Arc::strong_count(&self.logs) > 2
    }

    /// These serve from now on, and no others. What is known of those that stay is kept.
    pub fn follow(&self, followed: Followed) {
        self.followed.send_replace(followed);
    }
}

/// Answers that wait to be compared; beyond that, they are not.
const COMPARISONS_MAX: usize = 64;

async fn run_comparisons(mut comparisons: mpsc::Receiver<Comparison>) {
    while let Some(comparison) = comparisons.recv().await {
        comparison.run(SystemTime::now());
        // A probe may be due.
        tokio::task::yield_now().await;
    }
}

/// Work for one pool, check or split; given up when dropped.
struct Work(Vec<AbortHandle>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Work that requests of the generation before may still wait for; given up a while after it was dropped.
struct Lingering(AbortHandle);

const LINGER: Duration = Duration::from_secs(60);

impl Drop for Lingering {
    fn drop(&mut self) {
        let work = self.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            work.abort();
        });
    }
}

async fn follow(mut followed: watch::Receiver<Followed>, alive: Arc<()>) {
    let keeper = Arc::<Keeper>::default();
    let mut pools: HashMap<*const Pool, (Arc<Pool>, Work)> = HashMap::new();
    let mut checks: HashMap<*const Check, (Arc<Check>, Work)> = HashMap::new();
    let mut running: HashMap<String, (Arc<Flow>, Running)> = HashMap::new();
    let mut sources: HashMap<*const Source, (Arc<Source>, Lingering)> = HashMap::new();
    let mut probes: HashMap<*const Probes, (Arc<Probes>, Lingering)> = HashMap::new();
    let mut hearing = statsd::Hearing::default();
    let mut ramps: HashMap<*const Service, (Arc<Service>, Work)> = HashMap::new();
    while followed.changed().await.is_ok() {
        let Followed { pools: wanted, checks: asked, sources: scraped, probes: named, ears, flows, ramped, state } =
            followed.borrow_and_update().clone();
        pools.retain(|_, (pool, _)| wanted.iter().any(|stays| Arc::ptr_eq(stays, pool)));
        for pool in wanted {
            // The pool is kept beside its address, which no other can have meanwhile.
            pools.entry(Arc::as_ptr(&pool)).or_insert_with(|| {
                let work = Work(probe::watch(&pool).into_iter().chain(discover::watch(&pool)).collect());
                (pool, work)
            });
        }
        checks.retain(|_, (check, _)| {
            let stays = asked.iter().any(|stays| Arc::ptr_eq(stays, check));
            check.set_made(stays);
            stays
        });
        for check in asked {
            checks.entry(Arc::as_ptr(&check)).or_insert_with(|| {
                check.set_made(true);
                let work = Work(vec![checks::watch(&check)]);
                (check, work)
            });
        }
        hearing.follow(&scraped, &ears);
        let mut ended: HashMap<String, Running> = HashMap::new();
        running = running
            .into_iter()
            .filter_map(|(name, (flow, work))| {
                if flows.iter().any(|stays| Arc::ptr_eq(stays, &flow)) {
                    return Some((name, (flow, work)));
                }
                flow.close();
                ended.insert(name, work);
                None
            })
            .collect();
        for flow in flows {
            running.entry(flow.name.clone()).or_insert_with(|| {
                let theirs = ears.iter().filter(|(key, _)| flow.settings.ears().any(|wanted| wanted.value == *key)).cloned().collect();
                let work = Running::start(&flow, ended.remove(&flow.name), theirs, Arc::clone(&alive));
                (flow, work)
            });
        }
        drop(ended);
        drop(ears);
        sources.retain(|_, (source, _)| scraped.iter().any(|stays| Arc::ptr_eq(stays, source)));
        for source in scraped {
            sources.entry(Arc::as_ptr(&source)).or_insert_with(|| {
                let work = Lingering(collect::watch(&source));
                (source, work)
            });
        }
        probes.retain(|_, (known, _)| named.iter().any(|stays| Arc::ptr_eq(stays, known)));
        for named in named {
            probes.entry(Arc::as_ptr(&named)).or_insert_with(|| {
                let work = Lingering(collect::watch_named(&named));
                (named, work)
            });
        }
        ramps.retain(|_, (service, _)| ramped.iter().any(|stays| Arc::ptr_eq(stays, service)));
        keeper.follow(state, ramped.iter().filter_map(|service| saved(service)).collect::<BTreeMap<_, _>>());
        for service in ramped {
            ramps.entry(Arc::as_ptr(&service)).or_insert_with(|| {
                let work = Work(ramps::watch(&service, &keeper).into_iter().collect());
                (service, work)
            });
        }
    }
}

fn saved(service: &Service) -> Option<(String, Saved)> {
    let Service::Split(split) = service else { return None };
    split.ramp().map(|ramp| (split.name.clone(), ramp.saved(Moment::read())))
}
