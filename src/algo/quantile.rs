//! How long nearly all of the latest answers took: a histogram that forgets.
//!
//! Buckets grow by an eighth, so a quantile is at most so much too long; halving all of them makes old answers count less.
//! Knows no clock.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// From 16 µs to about 2 minutes: 8 buckets for each doubling.
pub const BUCKETS: usize = 8 * 23;
const FIRST_MICROS: u64 = 16;
/// With so many, all are halved: quantiles are of about the last thousand.
const HALVED_AT: u32 = 1024;
/// Fewer say nothing of a quantile.
const KNOWN_FROM: u32 = 20;

/// Written by one worker, so loads and stores lose nothing.
pub struct Latencies {
    counts: [AtomicU32; BUCKETS],
    total: AtomicU32,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: [const { AtomicU32::new(0) }; BUCKETS], total: AtomicU32::new(0) }
    }
}

/// Where such a time is counted.
pub fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(FIRST_MICROS);
    let octave = (micros / FIRST_MICROS).ilog2();
    // The three bits below the highest say which eighth of the octave.
    let eighth = (micros >> (octave + FIRST_MICROS.ilog2() - 3)) & 7;
    (octave as usize * 8 + eighth as usize).min(BUCKETS - 1)
}

/// The longest time that falls into a bucket.
pub fn upper(bucket: usize) -> Duration {
    let (octave, eighth) = (bucket / 8, bucket as u64 % 8);
    Duration::from_micros((FIRST_MICROS << octave) / 8 * (9 + eighth))
}

impl Latencies {
    pub fn record(&self, took: Duration) {
        let count = &self.counts[bucket(took)];
        count.store(count.load(Relaxed) + 1, Relaxed);
        let total = self.total.load(Relaxed) + 1;
        self.total.store(total, Relaxed);
        if total >= HALVED_AT {
            let halve = |count: &AtomicU32| {
                let half = count.load(Relaxed) / 2;
                count.store(half, Relaxed);
                half
            };
            self.total.store(self.counts.iter().map(halve).sum(), Relaxed);
        }
    }

    /// The time that this share of answers took no longer than; `None` while too few are known.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total = self.total.load(Relaxed);
        if total < KNOWN_FROM {
            return None;
        }
        let wanted = (f64::from(total) * share).ceil() as u32;
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count.load(Relaxed);
            seen >= wanted
        });
        Some(upper(found.unwrap_or(BUCKETS - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_within_an_eighth_of_its_buckets_bound() {
        for micros in [16, 17, 31, 32, 100, 1_000, 12_345, 1_000_000, 60_000_000] {
            let took = Duration::from_micros(micros);
            let bound = upper(bucket(took));
            assert!(bound >= took && bound.as_secs_f64() <= took.as_secs_f64() * 1.126, "{took:?} {bound:?}");
        }
    }

    #[test]
    fn a_quantile_of_few_is_unknown_and_of_many_near() {
        let latencies = Latencies::default();
        (0..19).for_each(|_| latencies.record(Duration::from_millis(1)));
        assert_eq!(latencies.quantile(0.95), None);
        (0..800).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let p95 = latencies.quantile(0.95).expect("enough are known");
        assert!((Duration::from_millis(740)..Duration::from_millis(880)).contains(&p95), "{p95:?}");
    }

    #[test]
    fn old_answers_are_forgotten() {
        let latencies = Latencies::default();
        (0..1_000).for_each(|_| latencies.record(Duration::from_secs(1)));
        (0..10_000).for_each(|_| latencies.record(Duration::from_millis(1)));
        assert!(latencies.quantile(0.99).is_some_and(|p99| p99 < Duration::from_millis(2)));
    }
}
