//! Metrics of other programs, on one page.
//!
//! Asks nobody: `upkeep::collect` does when a scrape wants it, once for all that want it at that time.

pub mod documents;
mod page;
pub mod probe;
pub mod process;
pub mod redis;
mod relabel;
mod settings;
pub mod sql;
pub mod statsd;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

pub use crate::proto::exposition::Kind;
pub use page::{About, Format, Page};
pub use probe::{Probes, TARGETS_ASKED_MAX};
pub use settings::{Document, LabelName, MetricName, Printed, Program, Query, Question, Settings, SourceSettings};
pub use statsd::{Buckets, Heard};

use crate::tls::Peer;

/// A compiled page.
pub struct Metrics {
    pub name: String,
    pub sources: Vec<Arc<Source>>,
    /// Those that whoever scrapes may name.
    pub probes: Option<Arc<Probes>>,
    /// For how long a scrape waits.
    pub timeout: Duration,
}

/// One source, and what it said last. Kept as long as it is written the same.
pub struct Source {
    pub name: String,
    pub settings: SourceSettings,
    pub timeout: Duration,
    min_interval: Duration,
    pub max_series: usize,
    /// For who is asked inside TLS.
    pub peer: Option<Peer>,
    /// What was sent, for a source that is not asked.
    pub heard: Option<Arc<Heard>>,
    /// What is known of processes since the last time.
    pub known: Arc<process::Known>,
    /// A scrape waits for news.
    pub wanted: Notify,
    latest: watch::Sender<Option<Arc<Collected>>>,
    failures: AtomicU64,
    /// It was told so, and has not answered yet.
    is_asked: AtomicBool,
    /// Of those that whoever scrapes names: no more of them are asked at once than this lets through.
    gate: Option<Arc<Semaphore>>,
    /// While it is asked.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

/// Why there is nothing yet.
pub enum Wait {
    /// It is asked, and says something by this.
    News(watch::Receiver<Option<Arc<Collected>>>),
    /// It is not: too many others are.
    Crowd,
}

/// What a source said.
pub struct Collected {
    /// When it was asked.
    pub began: Instant,
    pub took: Duration,
    pub page: Page,
    /// Of processes.
    pub table: Option<process::Table>,
    /// Why it said nothing.
    pub error: Option<String>,
}

/// What every page says of its sources, with a label `source`.
pub const ABOUT_SOURCES: [About<'static>; 8] = [
    About::gauge("attache_source_up", "Whether a source of this page answered."),
    About::counter("attache_source_errors_total", "Times that a source had no answer."),
    About::gauge("attache_source_duration_seconds", "How long a source took to answer."),
    About::gauge("attache_source_age_seconds", "How old an answer is."),
    About::gauge("attache_source_series", "Series of a source on this page."),
    About::gauge("attache_source_series_left_out", "Series beyond max_series."),
    SERIES_TWICE,
    About::gauge("attache_source_unmatched", "Those of a source's `match` that fit nowhere in what it said."),
];

const SERIES_TWICE: About<'static> =
    About::gauge("attache_source_series_twice", "Series that a source had twice, or that the page had of others.");

impl Source {
    pub fn new(page: &Settings, settings: &SourceSettings, peer: Option<Peer>) -> Self {
        Self {
            name: settings.label(),
            heard: match &settings.question {
                Question::Statsd(statsd) => Some(Arc::new(Heard::new(statsd, page.max_series.0 as usize))),
                _ => None,
            },
            known: Arc::default(),
            settings: settings.clone(),
            timeout: page.timeout,
            min_interval: page.min_interval.0,
            max_series: page.max_series.0 as usize,
            peer,
            wanted: Notify::new(),
            latest: watch::Sender::new(None),
            failures: AtomicU64::new(0),
            is_asked: AtomicBool::new(false),
            gate: None,
            permit: Mutex::default(),
        }
    }

    /// Only when `gate` lets it.
    #[must_use]
    pub fn behind(self, gate: Arc<Semaphore>) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// Whether `other` would ask the same and keep it as long.
    pub fn is_as(&self, other: &Self) -> bool {
        let rest = |source: &Self| (source.timeout, source.min_interval, source.max_series);
        self.asks_as(other) && rest(self) == rest(other)
    }

    /// Whether it is written the same, wherever that is.
    fn asks_as(&self, other: &Self) -> bool {
        let written = |source: &Self| SourceSettings { place: self.settings.place, ..source.settings.clone() };
        written(self) == written(other) && Peer::are_alike(self.peer.as_ref(), other.peer.as_ref())
    }

    /// Takes over what was heard and counted for `known`, if it would ask the same: that a page waits otherwise is no reason to forget it.
    #[must_use]
    pub fn heir_of(self, known: &Self) -> Self {
        if !self.asks_as(known) {
            return self;
        }
        let failures = AtomicU64::new(known.failures.load(Ordering::Relaxed));
        Self { heard: known.heard.clone(), known: Arc::clone(&known.known), failures, ..self }
    }

    /// An empty page for what it will say. What is heard is bounded where it is heard.
    pub fn blank(&self, now: Instant) -> Page {
        Page::new(if self.heard.is_some() { usize::MAX } else { self.max_series }).until(now + self.timeout)
    }

    /// What there is, if that is young enough; else somebody is told that it is wanted, and news come by this.
    ///
    /// # Errors
    ///
    /// Where to wait, if somebody may.
    pub fn ask(&self, now: Instant) -> Result<Arc<Collected>, Wait> {
        let mut news = self.latest.subscribe();
        let latest = news.borrow_and_update().clone();
        if let Some(latest) = latest.filter(|latest| now.saturating_duration_since(latest.began) < self.min_interval) {
            return Ok(latest);
        }
        let permit = match self.gate.as_ref().map(|gate| Arc::clone(gate).try_acquire_owned()) {
            Some(Err(_)) if !self.is_asked.load(Ordering::Acquire) => return Err(Wait::Crowd),
            Some(Err(_)) | None => None,
            Some(Ok(permit)) => Some(permit),
        };
        // Who comes while it is asked waits for the same answer.
        if (permit.is_some() || self.gate.is_none()) && !self.is_asked.swap(true, Ordering::AcqRel) {
            self.hold(permit);
            self.wanted.notify_one();
        }
        Err(Wait::News(news))
    }

    fn hold(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }

    pub fn publish(&self, collected: Collected) {
        if collected.error.is_some() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        self.hold(None);
        // First, so that whoever comes from now on and does not see this answer has it asked again.
        self.is_asked.store(false, Ordering::Release);
        self.latest.send_replace(Some(Arc::new(collected)));
    }
}

impl Metrics {
    /// `sources` were compiled from the settings, in their order.
    pub fn new(name: &str, settings: &Settings, sources: Vec<Arc<Source>>, probes: Option<Arc<Probes>>) -> Self {
        Self { name: name.to_owned(), sources, probes, timeout: settings.timeout }
    }

    /// The one that looks at processes.
    pub fn processes(&self) -> Option<(&Arc<Source>, &process::Settings)> {
        self.sources.iter().find_map(|source| match &source.settings.question {
            Question::Process(settings) => Some((source, settings)),
            _ => None,
        })
    }

    pub fn source(&self, name: &str) -> Option<&Arc<Source>> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// What a source that was named said, and whether it did.
    pub fn page_of_probe(source: &Arc<Source>, said: Option<Arc<Collected>>, took: Duration, now: Instant) -> Page {
        let is_up = said.as_ref().is_some_and(|said| said.error.is_none());
        let mut page = Page::new(usize::MAX);
        let none: [(&str, &str); 0] = [];
        page.add(About::gauge("probe_success", "Whether the target answered."), &none, f64::from(is_up));
        page.add(About::gauge("probe_duration_seconds", "How long this took."), &none, took.as_secs_f64());
        fill(&mut page, &[(Arc::clone(source), said)], now);
        page
    }

    /// One page of what each of these sources said; `None` for who has not answered in time.
    pub fn page(said: &[(Arc<Source>, Option<Arc<Collected>>)], now: Instant) -> Page {
        let mut page = Page::new(usize::MAX);
        fill(&mut page, said, now);
        page
    }
}

/// What we say of the sources first: of two series of one name the first stays, and what one source says is no word about another.
fn fill(page: &mut Page, said: &[(Arc<Source>, Option<Arc<Collected>>)], now: Instant) {
    for (source, said) in said {
        about(source, said.as_deref(), now, page);
    }
    for (source, said) in said {
        if let Some(said) = said {
            let twice = said.page.twice + page.append(&said.page);
            page.set(SERIES_TWICE, &[("source", source.name.as_str())], twice as f64);
        }
    }
}

fn about(source: &Source, said: Option<&Collected>, now: Instant, page: &mut Page) {
    let own = &source.settings.labels;
    let is_up = said.is_some_and(|said| said.error.is_none());
    let up = match source.settings.question {
        Question::Redis(_) => Some(About::gauge("redis_up", "Information about the Redis instance")),
        Question::Memcached(_) => Some(About::gauge("memcached_up", "Could the memcached server be reached.")),
        Question::Mysql(..) => Some(About::gauge("mysql_up", "Whether the MySQL server is up.")),
        Question::Postgres(..) => {
            Some(About::gauge("pg_up", "Whether the last scrape of metrics from PostgreSQL was able to connect to the server."))
        }
        Question::Prometheus(..)
        | Question::Json(..)
        | Question::Text(..)
        | Question::Exec(..)
        | Question::Process(_)
        | Question::Statsd(_) => None,
    };
    if let Some(up) = up {
        page.add(up, own, f64::from(is_up));
    }
    if let (Question::Redis(_), Some(said)) = (&source.settings.question, said) {
        redis::about_scrape(said.error.as_deref(), said.took, own, page);
    }
    if let Some(heard) = &source.heard {
        heard.counts().write(&source.name, page);
    }
    let age = said.map(|said| now.saturating_duration_since(said.began).saturating_sub(said.took));
    for (about, value) in ABOUT_SOURCES.iter().zip([
        Some(f64::from(is_up)),
        Some(source.failures.load(Ordering::Relaxed) as f64),
        said.map(|said| said.took.as_secs_f64()),
        age.map(|age| age.as_secs_f64()),
        said.map(|said| said.page.len() as f64),
        said.map(|said| said.page.left_out as f64),
        // Not known before it is on the page.
        said.map(|_| 0.0),
        said.filter(|_| source.settings.question.has_matches()).map(|said| said.page.unmatched as f64),
    ]) {
        if let Some(value) = value {
            page.add(*about, &[("source", source.name.as_str())], value);
        }
    }
}

#[cfg(test)]
mod tests;
