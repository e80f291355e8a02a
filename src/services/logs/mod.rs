//! Logs of other programs, as lines of JSON with stable fields.
//!
//! Reads no file and writes none: `upkeep::logs` brings lines here and takes records away.

mod counts;
mod parse;
mod place;
mod settings;
mod shape;
mod sinks;
mod sources;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};

pub use counts::Counts;
pub use settings::{FRESH, Settings};
pub use shape::Batch;
pub use sinks::{Posting, SinkSettings, Telling, Transport};
pub use sources::{COMPRESSED, Files, Origin, SourceSettings};

use crate::refusal::Refusal;
use crate::services::{Adapter, Asked, Body, Decision};
use crate::telemetry::metrics::LogMetrics;
use crate::tls::Peer;

/// A compiled log.
pub struct Logs {
    pub name: String,
    pub flow: Arc<Flow>,
}

/// What flows from sources to sinks, and what is known of it. Kept as long as it is written the same.
pub struct Flow {
    pub name: String,
    pub settings: Arc<Settings>,
    pub peers: Peers,
    pub metrics: Arc<LogMetrics>,
    counts: Mutex<Counts>,
    /// Stay with the name, too.
    recent: Arc<Mutex<VecDeque<Arc<str>>>>,
    /// `None`: nobody brings anything any more.
    news: Mutex<Option<broadcast::Sender<Arc<Batch>>>>,
    /// How far sources were taken; stays with the name, whatever else changes.
    pub positions: Arc<Mutex<BTreeMap<String, serde_json::Value>>>,
    posted: mpsc::Sender<Posted>,
    post_room: Arc<Semaphore>,
    posts: Mutex<Option<mpsc::Receiver<Posted>>>,
    /// For samples.
    dice: AtomicU64,
}

/// Who is asked inside TLS, in the order that they are written in; `None` for the others.
#[derive(Default)]
pub struct Peers {
    pub sources: Vec<Option<Peer>>,
    pub sinks: Vec<Option<Peer>>,
}

impl Peers {
    fn are_as(&self, other: &Self) -> bool {
        let are_alike = |ours: &[Option<Peer>], theirs: &[Option<Peer>]| {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(our, their)| Peer::are_alike(our.as_ref(), their.as_ref()))
        };
        are_alike(&self.sources, &other.sources) && are_alike(&self.sinks, &other.sinks)
    }
}

/// Lines that a client posted.
pub struct Posted {
    pub lines: Vec<u8>,
    /// Who did.
    pub source: String,
    /// Sinks have them.
    pub taken: oneshot::Sender<()>,
    _held: OwnedSemaphorePermit,
}

/// Of one post.
const POST_BYTES_MAX: u64 = 8 << 20;
/// Of batches that who follows has not read yet.
const NEWS_MAX: usize = 64;
/// Posts that nobody has read yet, and their KiB: those beyond are told at once that they were not taken.
const POSTS_MAX: usize = 256;
const POSTS_KIB_MAX: usize = 16 << 10;
/// Of the latest records, all together.
const RECENT_BYTES_MAX: usize = 4 << 20;

impl Logs {
    /// Lines that are posted are wanted as a whole; everything else is told the latest records.
    pub fn decide<'g>(&'g self, asked: &Asked<'g, '_>) -> Decision<'g> {
        let is_post = asked.head.method == b"POST" && self.flow.hears_posts();
        match asked.body {
            Body::Unread if is_post => Decision::Read(POST_BYTES_MAX),
            Body::TooLong if is_post => Decision::Refuse(Refusal::BodyTooLarge),
            _ => Decision::Report(Adapter::Logs(self)),
        }
    }
}

impl Flow {
    pub fn new(name: &str, settings: &Arc<Settings>, peers: Peers, metrics: Arc<LogMetrics>, previous: Option<&Self>) -> Self {
        let (posted, posts) = mpsc::channel(POSTS_MAX);
        let positions = previous.map(|previous| Arc::clone(&previous.positions)).unwrap_or_default();
        Self {
            name: name.to_owned(),
            settings: Arc::clone(settings),
            peers,
            metrics,
            counts: Mutex::new(Counts::new(&settings.count.value)),
            recent: previous.map(|previous| Arc::clone(&previous.recent)).unwrap_or_default(),
            news: Mutex::new(Some(broadcast::Sender::new(NEWS_MAX))),
            positions,
            posted,
            post_room: Arc::new(Semaphore::new(POSTS_KIB_MAX)),
            posts: Mutex::new(Some(posts)),
            dice: AtomicU64::new(0),
        }
    }

    /// Whether another one would do the same.
    pub fn is_as(&self, settings: &Settings, peers: &Peers) -> bool {
        self.settings.is_as(settings) && self.peers.are_as(peers)
    }

    /// What clients post; for who started it first.
    pub fn posts(&self) -> Option<mpsc::Receiver<Posted>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether lines may be posted.
    pub fn hears_posts(&self) -> bool {
        self.settings.from.value.iter().any(|source| source.origin == Origin::Http)
    }

    /// Where to hear that sinks have these lines; `None` if there is no room for them now.
    pub fn post(&self, lines: &[u8], source: String) -> Option<oneshot::Receiver<()>> {
        let kib = u32::try_from(lines.len() / 1024 + 1).ok()?;
        let held = Arc::clone(&self.post_room).try_acquire_many_owned(kib).ok()?;
        let (taken, told) = oneshot::channel();
        self.posted.try_send(Posted { lines: lines.to_vec(), source, taken, _held: held }).ok()?;
        Some(told)
    }

    /// Sinks have these.
    pub fn publish(&self, batch: Arc<Batch>) {
        self.metrics.sent(batch.len() as u64, batch.bytes().len() as u64);
        let keep = self.settings.keep.0 as usize;
        {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let skipped = batch.len().saturating_sub(keep);
            recent.extend(batch.records().skip(skipped).map(Arc::from));
            let mut bytes: usize = recent.iter().map(|record| record.len()).sum();
            while recent.len() > keep || bytes > RECENT_BYTES_MAX {
                let Some(oldest) = recent.pop_front() else { break };
                bytes -= oldest.len();
            }
        }
        if let Some(news) = self.news().as_ref().filter(|news| news.receiver_count() > 0) {
            // Nobody may follow any more, which is as well.
            let _ = news.send(batch);
        }
    }

    /// The latest records, the oldest first.
    pub fn recent(&self) -> Vec<Arc<str>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// What comes from now on; `None` where nothing will.
    pub fn follow(&self) -> Option<broadcast::Receiver<Arc<Batch>>> {
        self.news().as_ref().map(broadcast::Sender::subscribe)
    }

    /// Nothing comes any more: whoever follows is told.
    pub fn close(&self) {
        self.news().take();
    }

    fn news(&self) -> MutexGuard<'_, Option<broadcast::Sender<Arc<Batch>>>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// 64 bits that differ from call to call.
    fn roll(&self) -> u64 {
        let mut state = self.dice.fetch_add(1, Ordering::Relaxed);
        crate::algo::dice::roll(&mut state)
    }

    /// Series made of records, as Prometheus reads them.
    pub fn write_counts(&self) -> String {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).write(&self.settings.count.value)
    }
}
