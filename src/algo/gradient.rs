//! How many requests may be in flight, found out from how long they take.
//!
//! Netflix's Gradient2 limiter (concurrency-limits, 2018): where answers take no longer than they used to, a little more
//! is let in; where they take longer, less. Knows no clock.

/// What is known so far. Times are in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Gradient {
    limit: f64,
    most: f64,
    /// Slow average: what is usual.
    usual: f64,
}

/// Never less, or nothing would be learnt.
pub const LEAST: u32 = 4;
/// Where nothing is known.
const FIRST: f64 = 64.0;
/// Slower than usual by this factor is no reason to let in less.
const TOLERANCE: f64 = 1.5;
/// Weight of one window in what is usual, and in the limit.
const USUAL_WEIGHT: f64 = 0.02;
const LIMIT_WEIGHT: f64 = 0.2;

impl Gradient {
    pub fn new(most: u32) -> Self {
        let most = f64::from(most.max(LEAST));
        Self { limit: FIRST.min(most), most, usual: 0.0 }
    }

    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Takes in a window: how long requests took on average, and how many were in flight at most.
    pub fn update(&mut self, seconds: f64, in_flight: u32) {
        if seconds <= 0.0 {
            return;
        }
        self.usual = if self.usual == 0.0 { seconds } else { self.usual * (1.0 - USUAL_WEIGHT) + seconds * USUAL_WEIGHT };
        // After a long time under pressure, what became usual is forgotten sooner.
        if self.usual > 2.0 * seconds {
            self.usual *= 0.95;
        }
        let gradient = (TOLERANCE * self.usual / seconds).clamp(0.5, 1.0);
        // Who does not use what there is, needs no more.
        if gradient >= 1.0 && f64::from(in_flight) < self.limit / 2.0 {
            return;
        }
        let wanted = self.limit * gradient + self.limit.sqrt();
        let limit = self.limit * (1.0 - LIMIT_WEIGHT) + wanted * LIMIT_WEIGHT;
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
        assert!((100..400).contains(&limit), "{limit}");
    }

    #[test]
    fn the_limit_stays_within_its_bounds() {
        assert_eq!(settled(1_000_000.0, 500), 500);
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
