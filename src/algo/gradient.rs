//! How many requests may be in flight, found out from how long they take.
//!
//! A gradient limiter as Netflix's (concurrency-limits, 2018) with a measured baseline as Envoy's (adaptive concurrency):
//! where answers take no longer than with half as many in flight, a little more is let in; where they take longer, less.
//! The baseline is measured again and again, since an average would come to take a standing queue for usual. Knows no clock.

/// What is known so far. Times are in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Gradient {
    limit: f64,
    most: f64,
    /// How long answers take where there are few; 0 while nothing is known.
    baseline: f64,
    /// Windows since the baseline was measured.
    windows: u32,
}

/// Never less, or nothing would be learnt.
pub const LEAST: u32 = 4;
/// Where nothing is known.
const FIRST: f64 = 64.0;
/// Slower than the baseline by this factor is no reason to let in less.
const TOLERANCE: f64 = 1.5;
/// Weight of one window in the limit.
const WEIGHT: f64 = 0.2;
/// Windows from one measurement of the baseline to the next, and how many it takes: in the first of these, requests that
/// came before still leave.
const MEASURED_EVERY: u32 = 50;
const MEASURED_IN: u32 = 2;

impl Gradient {
    pub fn new(most: u32) -> Self {
        let most = f64::from(most.max(LEAST));
        Self { limit: FIRST.min(most), most, baseline: 0.0, windows: 0 }
    }

    /// Half of it while the baseline is measured.
    pub fn limit(&self) -> u32 {
        let limit = if self.is_measuring() { self.limit / 2.0 } else { self.limit };
        (limit as u32).max(LEAST)
    }

    fn is_measuring(&self) -> bool {
        self.windows >= MEASURED_EVERY
    }

    /// Takes in a window: how long requests took on average, and how many were in flight at most.
    pub fn update(&mut self, seconds: f64, in_flight: u32) {
        if seconds <= 0.0 {
            return;
        }
        self.windows += 1;
        if self.windows > MEASURED_EVERY {
            if self.windows == MEASURED_EVERY + MEASURED_IN {
                self.baseline = seconds;
                self.windows = 0;
            }
            return;
        }
        if self.baseline == 0.0 || seconds < self.baseline {
            self.baseline = seconds;
        }
        let gradient = (TOLERANCE * self.baseline / seconds).clamp(0.5, 1.0);
        // Who does not use what there is, needs no more.
        if gradient >= 1.0 && f64::from(in_flight) < self.limit / 2.0 {
            return;
        }
        let wanted = self.limit * gradient + self.limit.sqrt();
        let limit = self.limit * (1.0 - WEIGHT) + wanted * WEIGHT;
        self.limit = limit.clamp(f64::from(LEAST), self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that does `slots` requests at once in 10 ms each, and lets the others queue.
    fn settled(slots: f64, most: u32) -> u32 {
        let mut gradient = Gradient::new(most);
        for _ in 0..2_000 {
            let in_flight = gradient.limit();
            gradient.update(0.01 * (f64::from(in_flight) / slots).max(1.0), in_flight);
        }
        gradient.limit()
    }

    #[test]
    fn the_limit_settles_near_what_a_server_can_do() {
        let limit = settled(100.0, 10_000);
        assert!((100..300).contains(&limit), "{limit}");
    }

    #[test]
    fn the_limit_stays_within_its_bounds() {
        assert!(settled(1_000_000.0, 500) >= 250);
        let mut gradient = Gradient::new(500);
        gradient.update(0.001, 500);
        for _ in 0..200 {
            gradient.update(10.0, 500);
        }
        assert!(gradient.limit() >= LEAST);
    }

    #[test]
    fn who_uses_little_gets_no_more() {
        let mut gradient = Gradient::new(1000);
        (0..1000).for_each(|_| gradient.update(0.01, 3));
        assert_eq!(gradient.limit(), 64);
    }
}
