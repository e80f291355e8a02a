//! Adds up what programs send by statsd, as series of a page.
//!
//! Reads no socket: `upkeep::statsd` does, and brings lines. What was heard is kept as long as its source is written the same.

mod series;
pub mod settings;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;

pub use settings::{Buckets, Settings};

use super::page::{About, Page};
use crate::proto::exposition::{Kind as FamilyKind, plain_name, write_labels};
use crate::proto::statsd::{self, Kind, Line, Metric, Wrong};
use series::{Cell, Series};

/// Labels of one series, and how long each may be: they come from anybody.
const LABELS_MAX: usize = 32;
const LABEL_BYTES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 512;
/// How many ways of writing each of its series are remembered.
const WRITTEN_PER_SERIES: usize = 2;
const WRITTEN_MIN: usize = 1024;
/// Longer ones are read anew each time.
const WRITTEN_BYTES_MAX: usize = 1024;
/// How often it is looked for series to forget, where there is no room.
const SWEEP: Duration = Duration::from_secs(1);
/// Over how long different values are told apart.
pub const SET_WINDOW: Duration = Duration::from_secs(60);
/// Of all sets together.
const SET_VALUES_MAX: usize = 100_000;

/// What was heard for one source.
pub struct Heard {
    settings: Settings,
    max_series: AtomicUsize,
    /// Inodes of the sockets that datagrams come by, to ask the kernel about.
    sockets: Mutex<Vec<u64>>,
    inner: Mutex<Inner>,
}

struct Inner {
    series: Vec<Option<Series>>,
    free: Vec<u32>,
    count: usize,
    /// By name and labels as they are written on the page.
    slots: HashMap<String, u32>,
    families: HashMap<String, Family>,
    /// Names that lines of the page have, whatever family they are of.
    claimed: HashSet<String>,
    /// What lines are beside their values, and what that means.
    written: HashMap<Box<[u8]>, Meaning, FixedState>,
    /// The same, being put together.
    scratch: Vec<u8>,
    swept: Option<Instant>,
    set_values: usize,
    counts: Counts,
}

struct Family {
    kind: Kind,
    help: String,
    series: usize,
}

/// What becomes of a line.
#[derive(Clone, Copy)]
enum Meaning {
    Counted { slot: u32, kind: Kind, rate: f64 },
    Dropped,
}

/// What is said about a source.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub lines: u64,
    /// By [`Wrong`].
    pub malformed: [u64; Wrong::ALL.len()],
    pub left_out: u64,
    pub dropped: u64,
    pub ignored: u64,
    pub connections: u64,
    pub connections_refused: u64,
    /// By the kernel, which nobody of ours has seen.
    pub lost: u64,
}

/// What every page says of its statsd sources, with a label `source`.
pub const ABOUT: [About<'static>; 8] = [
    About::counter("attache_statsd_lines_total", "Lines of statsd that were heard."),
    About::counter("attache_statsd_malformed_total", "Lines that are none, by the part that is wrong."),
    About::counter("attache_statsd_left_out_total", "Lines of series beyond max_series, and values of sets beyond their bound."),
    About::counter("attache_statsd_dropped_total", "Lines that a mapping drops."),
    About::counter("attache_statsd_ignored_total", "Events and service checks, which are no metrics."),
    About::counter("attache_statsd_connections_total", "Connections that statsd came by."),
    About::counter("attache_statsd_connections_refused_total", "Connections beyond those that may be open."),
    About::counter("attache_statsd_datagrams_lost_total", "Datagrams that the kernel dropped, since its buffer was full."),
];

impl Counts {
    /// With the source's name.
    pub fn write(&self, source: &str, page: &mut Page) {
        let [lines, malformed, left_out, dropped, ignored, connections, refused, lost] = ABOUT;
        for (about, count) in [
            (lines, self.lines),
            (left_out, self.left_out),
            (dropped, self.dropped),
            (ignored, self.ignored),
            (connections, self.connections),
            (refused, self.connections_refused),
            (lost, self.lost),
        ] {
            page.add(about, &[("source", source)], count as f64);
        }
        for (wrong, count) in Wrong::ALL.iter().zip(self.malformed) {
            page.add(malformed, &[("source", source), ("reason", wrong.word())], count as f64);
        }
    }
}

impl Heard {
    pub fn new(settings: &Settings, max_series: usize) -> Self {
        let inner = Inner {
            series: Vec::new(),
            free: Vec::new(),
            count: 0,
            slots: HashMap::new(),
            families: HashMap::new(),
            claimed: HashSet::new(),
            written: HashMap::with_hasher(FixedState::default()),
            scratch: Vec::new(),
            swept: None,
            set_values: 0,
            counts: Counts::default(),
        };
        Self { settings: settings.clone(), max_series: AtomicUsize::new(max_series), sockets: Mutex::default(), inner: Mutex::new(inner) }
    }

    /// Series beyond this stay, if they are there.
    pub fn set_max_series(&self, most: usize) {
        self.max_series.store(most, Ordering::Relaxed);
    }

    fn max_series(&self) -> usize {
        self.max_series.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One or several lines, the last of which may have no end.
    pub fn hear(&self, lines: &[u8], now: Instant) {
        let inner = &mut *self.lock();
        let mut rest = lines;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            rest = rest.get(end + 1..).unwrap_or_default();
            if line.is_empty() {
                continue;
            }
            inner.counts.lines += 1;
            if let Err(wrong) = self.take(inner, line, now) {
                inner.malformed(wrong);
            }
        }
    }

    /// A line that went on for too long.
    pub fn hear_long(&self) {
        let inner = &mut *self.lock();
        inner.counts.lines += 1;
        inner.malformed(Wrong::Long);
    }

    pub fn connected(&self) {
        self.lock().counts.connections += 1;
    }

    pub fn refused(&self) {
        self.lock().counts.connections_refused += 1;
    }

    pub fn set_sockets(&self, inodes: Vec<u64>) {
        *self.sockets.lock().unwrap_or_else(PoisonError::into_inner) = inodes;
    }

    pub fn sockets(&self) -> Vec<u64> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many datagrams the kernel says that it dropped.
    pub fn lost(&self, datagrams: u64) {
        self.lock().counts.lost = datagrams;
    }

    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Most lines have been seen before, but for their values.
    fn take(&self, inner: &mut Inner, line: &[u8], now: Instant) -> Result<(), Wrong> {
        let mut is_known_way = false;
        if let Some((start, end)) = statsd::values_at(line).filter(|(start, end)| line.len() - (end - start) <= WRITTEN_BYTES_MAX) {
            inner.scratch.clear();
            inner.scratch.extend_from_slice(&line[..start]);
            inner.scratch.extend_from_slice(&line[end..]);
            is_known_way = true;
            if let Some(meaning) = inner.written.get(inner.scratch.as_slice()) {
                return inner.count(*meaning, statsd::Values(&line[start..end]), now);
            }
        }
        let Line::Metric(metric) = statsd::read(line)? else {
            inner.counts.ignored += 1;
            return Ok(());
        };
        let Some(meaning) = self.meaning(inner, &metric, now)? else {
            inner.counts.left_out += 1;
            return Ok(());
        };
        if is_known_way {
            if inner.written.len() >= (self.max_series() * WRITTEN_PER_SERIES).max(WRITTEN_MIN) {
                // Times and containers make every line another: then remembering is no use, and starting over is cheap.
                inner.written.clear();
            }
            let key = inner.scratch.as_slice().into();
            inner.written.insert(key, meaning);
        }
        inner.count(meaning, metric.values, now)
    }

    /// `None` where there is no room for its series.
    fn meaning(&self, inner: &mut Inner, metric: &Metric<'_>, now: Instant) -> Result<Option<Meaning>, Wrong> {
        if metric.name.len() > NAME_BYTES_MAX {
            return Err(Wrong::Long);
        }
        let written = String::from_utf8_lossy(metric.name);
        let rule = self.settings.mapping.iter().find_map(|rule| Some((rule, rule.apply(&written)?)));
        if rule.as_ref().is_some_and(|(rule, _)| rule.written.drop) {
            return Ok(Some(Meaning::Dropped));
        }
        let (rule, name, mut labels) = match rule {
            Some((rule, mapped)) => (Some(&rule.written), mapped.name, mapped.labels),
            None => (None, written.into_owned(), Vec::new()),
        };
        let name = plain_name(&name, true);
        for (label, value) in statsd::pairs(metric.tags, b':').chain(statsd::pairs(metric.name_tags, b'=')) {
            let mut label = plain_name(&String::from_utf8_lossy(label), false);
            if matches!(label.as_str(), "le" | "quantile") {
                label.insert_str(0, "exported_");
            }
            if label.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX || labels.len() >= LABELS_MAX {
                return Err(Wrong::Long);
            }
            if !labels.iter().any(|(known, _)| *known == label) {
                labels.push((label, String::from_utf8_lossy(value).into_owned()));
            }
        }
        // Tags are the same in any order.
        labels.sort_unstable();
        let mut key = name.clone();
        write_labels(&labels, &mut key);
        if let Some(slot) = inner.slots.get(&key).copied() {
            let family = inner.families.get(&name).map(|family| family.kind);
            let meaning = Meaning::Counted { slot, kind: metric.kind, rate: metric.rate };
            return if family == Some(like(metric.kind)) { Ok(Some(meaning)) } else { Err(Wrong::Conflict) };
        }
        // Else whoever sends what is none would have a series of it.
        if !metric.values.iter().next().is_some_and(|value| Cell::takes(value, metric.kind)) {
            return Err(Wrong::Value);
        }
        if inner.count >= self.max_series() && !inner.sweep(now) {
            return Ok(None);
        }
        inner.claim(&name, like(metric.kind), rule.map_or("", |rule| rule.help.as_str()))?;
        let bounds = rule.and_then(|rule| rule.buckets.as_ref()).unwrap_or(&self.settings.buckets);
        let ttl = rule.and_then(|rule| rule.ttl).or(self.settings.ttl);
        let series = Series::new(name, labels, Cell::new(metric.kind, &bounds.0), ttl, now);
        let slot = inner.put(key, series);
        Ok(Some(Meaning::Counted { slot, kind: metric.kind, rate: metric.rate }))
    }

    /// Adds what there is.
    pub fn write(&self, ours: &[(String, String)], page: &mut Page, now: Instant) {
        let inner = &mut *self.lock();
        inner.forget_stale(now);
        let Inner { series, families, set_values, .. } = inner;
        for series in series.iter_mut().flatten() {
            *set_values -= series.forget_values(now);
            let help = families.get(&series.name).map_or("", |family| family.help.as_str());
            series.write(help, ours, page);
        }
    }
}

/// Timers and histograms are written alike.
fn like(kind: Kind) -> Kind {
    if kind == Kind::Timer { Kind::Histogram } else { kind }
}

impl Inner {
    fn malformed(&mut self, wrong: Wrong) {
        let at = Wrong::ALL.iter().position(|known| *known == wrong).unwrap_or_default();
        self.counts.malformed[at] += 1;
    }

    fn count(&mut self, meaning: Meaning, values: statsd::Values<'_>, now: Instant) -> Result<(), Wrong> {
        let Meaning::Counted { slot, kind, rate } = meaning else {
            self.counts.dropped += 1;
            return Ok(());
        };
        let Some(series) = self.series.get_mut(slot as usize).and_then(Option::as_mut) else { return Ok(()) };
        series.touched = now;
        for value in values.iter() {
            if kind == Kind::Set {
                let room = SET_VALUES_MAX - self.set_values.min(SET_VALUES_MAX);
                match series.see(value, room, now) {
                    Some(more) => self.set_values += usize::from(more),
                    None => self.counts.left_out += 1,
                }
            } else {
                series.add(value, kind, rate)?;
            }
        }
        Ok(())
    }

    /// Has a family of this kind, unless its names are those of another one's lines.
    fn claim(&mut self, name: &str, kind: Kind, help: &str) -> Result<(), Wrong> {
        if let Some(family) = self.families.get_mut(name) {
            if family.kind != kind {
                return Err(Wrong::Conflict);
            }
            family.series += 1;
            return Ok(());
        }
        let names = claims(name, kind);
        if names.iter().any(|name| self.claimed.contains(name)) {
            return Err(Wrong::Conflict);
        }
        self.claimed.extend(names);
        self.families.insert(name.to_owned(), Family { kind, help: help.to_owned(), series: 1 });
        Ok(())
    }

    fn put(&mut self, key: String, series: Series) -> u32 {
        self.count += 1;
        let slot = if let Some(slot) = self.free.pop() {
            self.series[slot as usize] = Some(series);
            slot
        } else {
            self.series.push(Some(series));
            (self.series.len() - 1) as u32
        };
        self.slots.insert(key, slot);
        slot
    }

    /// Whether there is room now. Not at every line: who sends too many series sends them often.
    fn sweep(&mut self, now: Instant) -> bool {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP) {
            return false;
        }
        self.swept = Some(now);
        self.forget_stale(now)
    }

    /// Whether any was.
    fn forget_stale(&mut self, now: Instant) -> bool {
        let stale: HashSet<u32> = (0_u32..)
            .zip(&self.series)
            .filter(|(_, series)| series.as_ref().is_some_and(|series| series.is_stale(now)))
            .map(|(slot, _)| slot)
            .collect();
        if stale.is_empty() {
            return false;
        }
        // Whoever writes to one of these makes it anew.
        self.written.clear();
        self.slots.retain(|_, slot| !stale.contains(slot));
        for slot in stale {
            let Some(series) = self.series[slot as usize].take() else { continue };
            self.free.push(slot);
            self.count -= 1;
            self.set_values -= series.values();
            let Some(family) = self.families.get_mut(&series.name) else { continue };
            family.series -= 1;
            if family.series == 0 {
                let kind = family.kind;
                self.families.remove(&series.name);
                // By their names: there may be as many families as series, and all of them may go at once.
                for name in claims(&series.name, kind) {
                    self.claimed.remove(&name);
                }
            }
        }
        true
    }
}

/// Names that a family's lines have in either format.
fn claims(name: &str, kind: Kind) -> Vec<String> {
    match kind {
        Kind::Timer | Kind::Histogram => ["", "_bucket", "_sum", "_count", "_created"].map(|suffix| format!("{name}{suffix}")).to_vec(),
        Kind::Counter => std::iter::once(name).chain(name.strip_suffix("_total")).map(str::to_owned).collect(),
        Kind::Gauge | Kind::Set => vec![name.to_owned()],
    }
}

/// As the page calls it.
fn family_kind(kind: Kind) -> FamilyKind {
    match kind {
        Kind::Counter => FamilyKind::Counter,
        Kind::Gauge | Kind::Set => FamilyKind::Gauge,
        Kind::Timer | Kind::Histogram => FamilyKind::Histogram,
    }
}

#[cfg(test)]
mod tests;
