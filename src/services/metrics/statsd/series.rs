//! One series that is added to: a counter, a gauge, a histogram or a set.
//!
//! Knows nothing of the others.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;

use super::super::page::{About, Page};
use super::{SET_WINDOW, family_kind};
use crate::proto::statsd::{Kind, Wrong, number};

pub(super) struct Series {
    pub(super) name: String,
    labels: Vec<(String, String)>,
    cell: Cell,
    ttl: Option<Duration>,
    pub(super) touched: Instant,
}

pub(super) enum Cell {
    Counter(f64),
    Gauge(f64),
    Histogram {
        bounds: Arc<[f64]>,
        /// Of values at most its bound, and above the one before; the last is for all beyond.
        counts: Box<[u64]>,
        sum: f64,
    },
    /// Values by their hashes, and when each was last seen.
    Set(HashMap<u64, Instant>),
}

/// A rate that stands for more is a mistake.
const WEIGHT_MAX: f64 = 1e6;
const MILLISECONDS: f64 = 1e3;

impl Cell {
    pub(super) fn new(kind: Kind, bounds: &Arc<[f64]>) -> Self {
        match kind {
            Kind::Counter => Self::Counter(0.0),
            Kind::Gauge => Self::Gauge(0.0),
            Kind::Timer | Kind::Histogram => {
                Self::Histogram { bounds: Arc::clone(bounds), counts: vec![0; bounds.len() + 1].into(), sum: 0.0 }
            }
            Kind::Set => Self::Set(HashMap::new()),
        }
    }

    /// Whether this is a value of such a series.
    pub(super) fn takes(value: &[u8], kind: Kind) -> bool {
        match kind {
            Kind::Set => true,
            // What goes down is no counter.
            Kind::Counter => number(value).is_some_and(|value| value >= 0.0),
            Kind::Gauge | Kind::Timer | Kind::Histogram => number(value).is_some(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Counter(_) => Kind::Counter,
            Self::Gauge(_) => Kind::Gauge,
            Self::Histogram { .. } => Kind::Histogram,
            Self::Set(_) => Kind::Set,
        }
    }
}

impl Series {
    pub(super) fn new(name: String, labels: Vec<(String, String)>, cell: Cell, ttl: Option<Duration>, now: Instant) -> Self {
        Self { name, labels, cell, ttl, touched: now }
    }

    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.ttl.is_some_and(|ttl| now.saturating_duration_since(self.touched) >= ttl)
    }

    /// Adds a value to what is no set.
    pub(super) fn add(&mut self, text: &[u8], kind: Kind, rate: f64) -> Result<(), Wrong> {
        let value = number(text).filter(|_| Cell::takes(text, kind)).ok_or(Wrong::Value)?;
        match &mut self.cell {
            Cell::Counter(total) => *total += value / rate.max(1.0 / WEIGHT_MAX),
            Cell::Gauge(current) if matches!(text.first(), Some(b'+' | b'-')) => *current += value,
            Cell::Gauge(current) => *current = value,
            Cell::Histogram { bounds, counts, sum } => {
                let value = if kind == Kind::Timer { value / MILLISECONDS } else { value };
                let weight = (1.0 / rate).round().clamp(1.0, WEIGHT_MAX);
                let at = bounds.partition_point(|bound| *bound < value);
                counts[at] += weight as u64;
                *sum += value * weight;
            }
            Cell::Set(_) => {}
        }
        Ok(())
    }

    /// Notes a value of a set: whether it is new, and `None` where there is no room for a new one.
    pub(super) fn see(&mut self, value: &[u8], room: usize, now: Instant) -> Option<bool> {
        let Cell::Set(seen) = &mut self.cell else { return Some(false) };
        let hash = FixedState::default().hash_one(value);
        if let Some(last) = seen.get_mut(&hash) {
            *last = now;
            return Some(false);
        }
        (room > 0).then(|| seen.insert(hash, now).is_none())
    }

    pub(super) fn values(&self) -> usize {
        match &self.cell {
            Cell::Set(seen) => seen.len(),
            _ => 0,
        }
    }

    /// How many values of a set have not been seen for too long.
    pub(super) fn forget_values(&mut self, now: Instant) -> usize {
        let before = self.values();
        if let Cell::Set(seen) = &mut self.cell {
            seen.retain(|_, last| now.saturating_duration_since(*last) < SET_WINDOW);
        }
        before - self.values()
    }

    pub(super) fn write(&self, help: &str, ours: &[(String, String)], page: &mut Page) {
        let about = About { name: &self.name, kind: family_kind(self.cell.kind()), help };
        let labels: Vec<(&str, &str)> = self.labels.iter().chain(ours).map(|(name, value)| (name.as_str(), value.as_str())).collect();
        match &self.cell {
            Cell::Counter(value) | Cell::Gauge(value) => page.add(about, &labels, *value),
            Cell::Set(seen) => page.add(about, &labels, seen.len() as f64),
            Cell::Histogram { bounds, counts, sum } => {
                let mut total = 0;
                let bounds: Vec<String> = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]).collect();
                for (bound, count) in bounds.iter().zip(counts) {
                    total += count;
                    let mut labels = labels.clone();
                    labels.push(("le", bound));
                    page.add_part(about, "_bucket", &labels, total as f64);
                }
                page.add_part(about, "_sum", &labels, *sum);
                page.add_part(about, "_count", &labels, total as f64);
            }
        }
    }
}
