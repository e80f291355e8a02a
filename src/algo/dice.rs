//! A small fast generator of random numbers for things that need not be secret.
//!
//! `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). Never
//! for keys or tokens.

use std::time::Duration;

/// Advances `state` and returns 64 random bits.
pub fn roll(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A time, give or take a tenth.
pub fn jittered(state: &mut u64, time: Duration) -> Duration {
    let roll = (roll(state) >> 32) as f64 / f64::from(u32::MAX);
    time.mul_f64(0.9 + 0.2 * roll)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_published_sequence_comes_out() {
        let mut state = 1_234_567;
        let rolls: Vec<u64> = (0..3).map(|_| super::roll(&mut state)).collect();
        assert_eq!(rolls, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
