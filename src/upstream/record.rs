//! What requests found out about an endpoint: failures in a row, their share of late, how long answers take.
//!
//! Shared by all workers and written without locks: a lost update among thousands changes no decision. Judges nothing.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::algo::ewma;

/// How long a window of outcomes is.
const WINDOW: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Record {
    /// Failures since the last success.
    consecutive: AtomicU32,
    /// When the window began, in units of [`WINDOW`] since the endpoint's birth.
    window: AtomicU64,
    total: AtomicU32,
    failed: AtomicU32,
    /// Average of seconds to an answer's head, as bits of an `f64`; 0 while nothing is known. From below: slow is who was slow
    /// several times.
    usual: AtomicU64,
    /// The same, of which late answers count at once and fade soon.
    peak: AtomicU64,
    /// Nanoseconds since the endpoint's birth when these two were last fed.
    fed: AtomicU64,
    /// Times it was ejected, less one for each time that it served so long without.
    pub ejections: AtomicU32,
    /// Nanoseconds since the endpoint's birth until which it is ejected, or was.
    pub ejected_until: AtomicU64,
}

/// A sample counts for no more than so many times what is usual, and so many seconds more.
const OUTLIER: f64 = 8.0;
const OUTLIER_SECONDS: f64 = 0.01;

/// What the window says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub total: u32,
    pub failed: u32,
}

impl Record {
    /// Returns how many failures there were in a row, this one included.
    pub fn failed(&self) -> u32 {
        self.consecutive.fetch_add(1, Relaxed).saturating_add(1)
    }

    pub fn succeeded(&self) {
        // Nearly always true already, and a load is cheaper than a store that other workers' caches hear of.
        if self.consecutive.load(Relaxed) != 0 {
            self.consecutive.store(0, Relaxed);
        }
    }

    /// Adds an outcome to the window that `now` is in, and returns what it holds. `now` is since the endpoint's birth, in nanoseconds.
    pub fn count(&self, now: u64, is_failure: bool) -> Window {
        let window = now / WINDOW.as_nanos() as u64;
        if self.window.swap(window, Relaxed) != window {
            self.total.store(0, Relaxed);
            self.failed.store(0, Relaxed);
        }
        let total = self.total.fetch_add(1, Relaxed).saturating_add(1);
        let failed = if is_failure { self.failed.fetch_add(1, Relaxed).saturating_add(1) } else { self.failed.load(Relaxed) };
        Window { total, failed }
    }

    /// Forgets failures: what happened before an ejection is no reason for the next one.
    pub fn forget_failures(&self) {
        self.consecutive.store(0, Relaxed);
        self.total.store(0, Relaxed);
        self.failed.store(0, Relaxed);
    }

    /// Feeds the averages. `now` as in [`Record::count`].
    pub fn answered_after(&self, waited: Duration, now: u64) {
        // One answer that took a hundred times as long as usual says little of the next one.
        self.feed(now, |usual| waited.as_secs_f64().min(usual * OUTLIER + OUTLIER_SECONDS));
    }

    /// The same for an answer that says that there will be none: it counts whole.
    pub fn refused(&self, counts_as: Duration, now: u64) {
        self.feed(now, |_| counts_as.as_secs_f64());
    }

    fn feed(&self, now: u64, sample: impl FnOnce(f64) -> f64) {
        let since = Duration::from_nanos(now.saturating_sub(self.fed.swap(now, Relaxed)));
        let usual = ewma::decayed(f64::from_bits(self.usual.load(Relaxed)), since, ewma::DECAY);
        let sample = sample(usual);
        let peak = f64::from_bits(self.peak.load(Relaxed));
        self.peak.store(ewma::peak(peak, sample, since).to_bits(), Relaxed);
        self.usual.store(ewma::smoothed(usual, sample).to_bits(), Relaxed);
    }

    /// Seconds that an answer usually takes, as of `now`: less than that while few are known.
    pub fn usual_latency(&self, now: u64) -> f64 {
        let since = Duration::from_nanos(now.saturating_sub(self.fed.load(Relaxed)));
        ewma::decayed(f64::from_bits(self.usual.load(Relaxed)), since, ewma::DECAY)
    }

    /// Seconds that an answer may take, as of `now`; 0 while nothing is known.
    pub fn latency(&self, now: u64) -> f64 {
        let since = Duration::from_nanos(now.saturating_sub(self.fed.load(Relaxed)));
        let peak = ewma::decayed(f64::from_bits(self.peak.load(Relaxed)), since, ewma::PEAK_DECAY);
        peak.max(self.usual_latency(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_ends_a_row_of_failures() {
        let record = Record::default();
        assert_eq!((record.failed(), record.failed()), (1, 2));
        record.succeeded();
        assert_eq!(record.failed(), 1);
    }

    #[test]
    fn a_window_forgets_the_one_before() {
        let record = Record::default();
        let window = WINDOW.as_nanos() as u64;
        assert_eq!(record.count(0, true), Window { total: 1, failed: 1 });
        assert_eq!(record.count(window - 1, false), Window { total: 2, failed: 1 });
        assert_eq!(record.count(window, false), Window { total: 1, failed: 0 });
    }

    #[test]
    fn one_slow_answer_makes_nobody_slow() {
        let record = Record::default();
        (0..50).for_each(|_| record.answered_after(Duration::from_millis(1), 1));
        record.answered_after(Duration::from_secs(10), 1);
        assert!(record.usual_latency(1) < 0.003, "{}", record.usual_latency(1));
        (0..20).for_each(|_| record.answered_after(Duration::from_millis(10), 1));
        assert!(record.usual_latency(1) > 0.006);
    }

    #[test]
    fn a_late_answer_counts_at_once_and_fades() {
        let record = Record::default();
        (0..50).for_each(|_| record.answered_after(Duration::from_millis(10), 1));
        record.answered_after(Duration::from_millis(80), 2);
        assert!(record.latency(2) > 0.079);
        assert!(record.latency(10_000_000_000) < 0.01);
    }

    #[test]
    fn a_refusal_counts_whole() {
        let record = Record::default();
        (0..50).for_each(|_| record.answered_after(Duration::from_millis(1), 1));
        record.refused(Duration::from_secs(1), 2);
        assert!(record.latency(2) > 0.999 && record.usual_latency(2) > 0.05);
    }
}
