//! Which of a shard's keys are hot: asked for in more than their share of the requests.
//!
//! Each worker counts what it sees, and judges by that; nothing is shared while requests are served. Chooses nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::settings::Hot;
use crate::algo::placement::Hashed;
use crate::algo::topk::{Counter, TopKeys};
use crate::telemetry::metrics::SpreadMetrics;

pub struct HotKeys {
    pub settings: Hot,
    workers: Box<[Worker]>,
    metrics: Arc<SpreadMetrics>,
}

/// Two lines of the processor's cache apart from the next.
#[repr(align(128))]
struct Worker(Mutex<Seen>);

struct Seen {
    top: TopKeys,
    /// When hot keys were last counted.
    counted: Instant,
    counts: u32,
}

/// A key that was seen often.
pub struct Frequent {
    pub hashed: Hashed,
    /// The beginning of the key.
    pub text: Vec<u8>,
    /// Recent requests, older ones counting for less; `error` of them may be another key's.
    pub count: u64,
    pub error: u64,
    /// Whether any worker spreads it.
    pub is_hot: bool,
}

/// A key of a thousandth is found among so many counters, of ten for each key that could be hot.
const COUNTERS_MAX: usize = 1000;
/// Fewer requests than that make no key hot.
const SURE_MIN: u64 = 8;
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// Every so many seconds what was before counts half.
const AGE_EVERY: u32 = 10;

impl HotKeys {
    pub fn new(settings: Hot, workers: usize, metrics: Arc<SpreadMetrics>, now: Instant) -> Self {
        let counters = ((10.0 / settings.share.0.fraction()) as usize).clamp(100, COUNTERS_MAX);
        let worker = || Worker(Mutex::new(Seen { top: TopKeys::new(counters), counted: now, counts: 0 }));
        Self { settings, workers: (0..workers.max(1)).map(|_| worker()).collect(), metrics }
    }

    /// As a worker sees it.
    pub fn is_hot(&self, worker: usize, hash: u64) -> bool {
        let seen = self.of(worker);
        seen.top.get(hash).is_some_and(|counter| self.judge(&seen, counter))
    }

    /// A request with this key is sent. `is_spread`: it is one that a hot key's reads are spread for.
    pub fn saw(&self, worker: usize, hashed: Hashed, key: &[u8], is_spread: bool, now: Instant) {
        let mut seen = self.of(worker);
        seen.top.add(hashed.value, key);
        if is_spread {
            self.metrics.spread(worker);
        }
        if now.saturating_duration_since(seen.counted) >= COUNT_EVERY {
            seen.counted = now;
            seen.counts += 1;
            let hot = seen.top.counters().iter().filter(|counter| self.judge(&seen, counter)).count();
            self.metrics.set_hot_keys(worker, hot as u64);
            if seen.counts.is_multiple_of(AGE_EVERY) {
                seen.top.age();
            }
        }
    }

    /// All that have a counter with any worker, the most frequent first; and how many requests there were.
    pub fn frequent(&self) -> (Vec<Frequent>, u64) {
        let mut all: Vec<Frequent> = Vec::new();
        let mut total = 0;
        for index in 0..self.workers.len() {
            let seen = self.of(index);
            total += seen.top.total();
            for counter in seen.top.counters() {
                let is_hot = self.judge(&seen, counter);
                match all.iter_mut().find(|known| known.hashed.value == counter.hash) {
                    Some(known) => {
                        known.count += counter.count;
                        known.error += counter.error;
                        known.is_hot |= is_hot;
                    }
                    None => all.push(Frequent {
                        hashed: Hashed { value: counter.hash, length: counter.length },
                        text: counter.text().to_vec(),
                        count: counter.count,
                        error: counter.error,
                        is_hot,
                    }),
                }
            }
        }
        all.sort_by_key(|key| std::cmp::Reverse(key.count - key.error));
        (all, total)
    }

    fn judge(&self, seen: &Seen, counter: &Counter) -> bool {
        counter.sure() >= SURE_MIN && self.settings.share.0.is_below(counter.sure(), seen.top.total())
    }

    /// Nothing behind these locks is left half done by a panic.
    fn of(&self, worker: usize) -> MutexGuard<'_, Seen> {
        self.workers[worker % self.workers.len()].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
