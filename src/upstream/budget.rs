//! A pool's budget for extra requests: retries, hedges.
//!
//! One purse for each worker, so that no request writes what another worker's do. How much there is, `algo::budget` says.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::algo::budget::Purse;
use crate::value::Share;

pub struct Budget {
    share: f64,
    since: Instant,
    purses: Box<[Kept]>,
}

/// Written by its worker only.
#[repr(align(128))]
struct Kept {
    purse: [AtomicU64; 2],
    /// Nanoseconds since `since`.
    at: AtomicU64,
}

/// Time is let pass in steps, since a request every few microseconds need not compute what nobody sees.
const STEP: Duration = Duration::from_millis(50);

impl Budget {
    pub fn new(share: Share, workers: usize, now: Instant) -> Self {
        let kept = || Kept { purse: Purse::default().to_bits().map(AtomicU64::new), at: AtomicU64::new(0) };
        Self { share: share.fraction(), since: now, purses: (0..workers.max(1)).map(|_| kept()).collect() }
    }

    /// A usual request has come.
    pub fn earn(&self, worker: usize, now: Instant) {
        let (kept, purse) = self.purse(worker, now);
        kept.put(purse.earn(self.share));
    }

    /// Whether there may be an extra one.
    pub fn spend(&self, worker: usize, now: Instant) -> bool {
        let (kept, purse) = self.purse(worker, now);
        let left = purse.spend();
        kept.put(left.unwrap_or(purse));
        left.is_some()
    }

    fn purse(&self, worker: usize, now: Instant) -> (&Kept, Purse) {
        let kept = &self.purses[worker % self.purses.len()];
        let purse = Purse::from_bits([kept.purse[0].load(Relaxed), kept.purse[1].load(Relaxed)]);
        let now = u64::try_from(now.saturating_duration_since(self.since).as_nanos()).unwrap_or(u64::MAX);
        let passed = Duration::from_nanos(now.saturating_sub(kept.at.load(Relaxed)));
        if passed < STEP {
            return (kept, purse);
        }
        kept.at.store(now, Relaxed);
        (kept, purse.after(passed))
    }
}

impl Kept {
    fn put(&self, purse: Purse) {
        for (kept, bits) in self.purse.iter().zip(purse.to_bits()) {
            kept.store(bits, Relaxed);
        }
    }
}
