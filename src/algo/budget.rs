//! How many extra requests there may be: a share of the usual ones, and a few beyond for who has few.
//!
//! Knows no clock; whoever keeps a purse says how much time has passed. (As Finagle's retry budget: what is earned is good
//! for about ten seconds, so that a burst of failures may be repeated and a standing failure is not.)

use std::time::Duration;

/// What was earned is forgotten by two thirds after so long.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// Beyond the share: for a service with a request a minute, a share of requests is nothing. Refilled by one a second.
const RESERVE: f64 = 10.0;

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Purse {
    earned: f64,
    reserve: f64,
}

impl Default for Purse {
    fn default() -> Self {
        Self { earned: 0.0, reserve: RESERVE }
    }
}

impl Purse {
    pub fn from_bits(bits: [u64; 2]) -> Self {
        Self { earned: f64::from_bits(bits[0]), reserve: f64::from_bits(bits[1]) }
    }

    pub fn to_bits(self) -> [u64; 2] {
        [self.earned.to_bits(), self.reserve.to_bits()]
    }

    #[must_use]
    pub fn after(self, passed: Duration) -> Self {
        let seconds = passed.as_secs_f64();
        let earned = self.earned * (-seconds / GOOD_FOR.as_secs_f64()).exp();
        Self { earned, reserve: (self.reserve + seconds).min(RESERVE) }
    }

    /// For one usual request.
    #[must_use]
    pub fn earn(self, share: f64) -> Self {
        Self { earned: self.earned + share, ..self }
    }

    /// For one extra request; `None` if there is nothing left for it.
    pub fn spend(self) -> Option<Self> {
        if self.earned >= 1.0 {
            return Some(Self { earned: self.earned - 1.0, ..self });
        }
        (self.reserve >= 1.0).then_some(Self { reserve: self.reserve - 1.0, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Extra requests that so many usual ones a second allow for a minute, if every one fails.
    fn spent(each_second: u32, share: f64) -> u32 {
        let mut purse = Purse::default();
        let mut spent = 0;
        for _ in 0..60 * each_second {
            purse = purse.after(Duration::from_secs_f64(1.0 / f64::from(each_second))).earn(share);
            if let Some(left) = purse.spend() {
                purse = left;
                spent += 1;
            }
        }
        spent
    }

    #[test]
    fn a_storm_of_failures_is_not_repeated_beyond_the_share() {
        let spent = spent(1000, 0.2);
        assert!((12_000..=12_080).contains(&spent), "{spent}");
    }

    #[test]
    fn who_has_few_requests_may_repeat_each() {
        assert_eq!(spent(1, 0.2), 60);
    }

    #[test]
    fn a_burst_may_be_repeated_whole() {
        let mut purse = Purse::default();
        for _ in 0..10_000 {
            purse = purse.after(Duration::from_millis(1)).earn(0.2);
        }
        let mut count = 0;
        while let Some(left) = purse.spend() {
            purse = left;
            count += 1;
        }
        assert!(count > 1_000, "{count}");
    }
}
