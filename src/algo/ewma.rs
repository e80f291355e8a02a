//! Averages that forget: one of what is usual, and one that jumps up with a slow sample and comes down with time.
//!
//! The second is Peak EWMA, as in Finagle's and linkerd's balancers: what matters is how bad it may be. Knows no clock, and
//! takes samples as they are: whoever feeds it says what an outlier counts for.

use std::time::Duration;

/// After so long, two thirds of what is usual are forgotten.
pub const DECAY: Duration = Duration::from_secs(10);
/// And two thirds of a peak: a stall of a moment should not keep an endpoint without requests for a minute.
pub const PEAK_DECAY: Duration = Duration::from_secs(2);

/// The average after one more `sample`, `since` the last one.
pub fn peak(average: f64, sample: f64, since: Duration) -> f64 {
    if sample >= average {
        return sample;
    }
    let keeps = kept(since, PEAK_DECAY);
    average * keeps + sample * (1.0 - keeps)
}

/// The average after one more `sample`, each of which weighs a sixteenth.
pub fn smoothed(average: f64, sample: f64) -> f64 {
    average + (sample - average) / 16.0
}

/// The average with nothing new for so long: it fades, so that whoever was slow is tried again.
pub fn decayed(average: f64, since: Duration, decay: Duration) -> f64 {
    average * kept(since, decay)
}

fn kept(since: Duration, decay: Duration) -> f64 {
    (-since.as_secs_f64() / decay.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_whole_and_time_heals() {
        let is_near = |one: f64, other: f64| (one - other).abs() < 1e-12;
        assert!(is_near(peak(0.1, 2.0, Duration::ZERO), 2.0));
        let after = peak(2.0, 0.1, PEAK_DECAY);
        assert!(is_near(after, 2.0 * (-1.0f64).exp() + 0.1 * (1.0 - (-1.0f64).exp())));
        assert!(is_near(peak(2.0, 0.1, Duration::ZERO), 2.0));
    }
}
