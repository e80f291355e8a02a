//! How many different keys each arm had: a sample of them, drawn by the keys themselves.
//!
//! Counts keys and not requests, since one user may ask as often as a thousand. Keeps hashes and no keys.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Keys that a worker remembers; when it knows more, every second one is forgotten and not taken in any more.
const KEPT_MAX: usize = 4096;
/// Not what places keys in arms, or the sample would be one of some arms only.
const SEED: u64 = 0x5ca1_ab1e;

#[derive(Debug)]
pub struct Census {
    workers: Box<[Worker]>,
}

/// Two lines of the processor's cache apart from the next.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Worker(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Arms by the hash of the key.
    arms: HashMap<u64, u16, FixedState>,
    /// Hashes begin with so many zeros.
    level: u32,
}

impl Census {
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers.max(1)).map(|_| Worker::default()).collect() }
    }

    /// A request with this key went to this arm.
    pub fn saw(&self, worker: usize, key: &[u8], arm: u16) {
        let hash = xxh3_64_with_seed(key, SEED);
        let mut seen = self.of(worker);
        if hash.leading_zeros() < seen.level {
            return;
        }
        seen.arms.insert(hash, arm);
        if seen.arms.len() > KEPT_MAX {
            seen.rise();
        }
    }

    /// Different keys of each of so many arms, in the sample.
    pub fn counts(&self, arms: usize) -> Vec<u64> {
        let mut all: HashMap<u64, u16, FixedState> = HashMap::default();
        let level = (0..self.workers.len()).map(|worker| self.of(worker).level).max().unwrap_or_default();
        for worker in 0..self.workers.len() {
            all.extend(self.of(worker).arms.iter().filter(|(hash, _)| hash.leading_zeros() >= level));
        }
        let mut counts = vec![0; arms];
        for arm in all.into_values() {
            if let Some(count) = counts.get_mut(usize::from(arm)) {
                *count += 1;
            }
        }
        counts
    }

    /// Begins anew: shares have changed.
    pub fn clear(&self) {
        for worker in 0..self.workers.len() {
            let mut seen = self.of(worker);
            seen.arms.clear();
            seen.level = 0;
        }
    }

    /// Nothing behind these locks is left half done by a panic.
    fn of(&self, worker: usize) -> MutexGuard<'_, Seen> {
        self.workers[worker % self.workers.len()].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn rise(&mut self) {
        while self.arms.len() > KEPT_MAX / 2 && self.level < 63 {
            self.level += 1;
            let level = self.level;
            self.arms.retain(|hash, _| hash.leading_zeros() >= level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_count_once_however_many_there_are() {
        let census = Census::new(2);
        for round in 0..3 {
            for key in 0..100_000_u32 {
                census.saw((key % 2) as usize, format!("user-{key}").as_bytes(), u16::from(key.is_multiple_of(10)));
                // Seen by the other worker too: still one key.
                census.saw(round % 2, b"often", 1);
            }
        }
        let counts = census.counts(2);
        let total: u64 = counts.iter().sum();
        assert!((500..=2 * KEPT_MAX as u64).contains(&total), "{counts:?}");
        // Six standard deviations of a share of a tenth.
        let share = counts[1] as f64 / total as f64;
        assert!((share - 0.1).abs() < 6.0 * (0.09 / total as f64).sqrt(), "{counts:?}");
        census.clear();
        assert_eq!(census.counts(2), [0, 0]);
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let census = Census::new(1);
        for key in 0..1000_u32 {
            census.saw(0, &key.to_le_bytes(), (key % 3) as u16);
        }
        assert_eq!(census.counts(3), [334, 333, 333]);
    }
}
