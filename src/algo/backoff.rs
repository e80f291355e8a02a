//! How long to wait before trying again: longer each time, and never all at once.
//!
//! Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", 2015). Knows no clock.

use std::time::Duration;

/// From nothing to `base` × 2^(`tries` − 1), but at most ten times `base`, by 32 random bits.
pub fn pause(base: Duration, tries: u32, dice: u32) -> Duration {
    let longest = base.saturating_mul(1 << tries.saturating_sub(1).min(4)).min(base.saturating_mul(10));
    longest.mul_f64(f64::from(dice) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_times_the_first() {
        let base = Duration::from_millis(25);
        let longest: Vec<u128> = (1..=6).map(|tries| pause(base, tries, u32::MAX).as_millis()).collect();
        assert_eq!(longest, [25, 50, 100, 200, 250, 250]);
        assert_eq!(pause(base, 3, 0), Duration::ZERO);
    }
}
