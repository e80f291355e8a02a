//! The keys that are asked for most, among any number of keys, in bounded memory.
//!
//! Space-Saving: Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005. What
//! it counts too much for a key is at most the total divided by its counters. Knows no clock: whoever counts says when to forget.

use std::collections::HashMap;

use foldhash::fast::FixedState;

/// Bytes of a key that are kept to show it.
pub const TEXT_MAX: usize = 64;

/// Keys with their counts.
pub struct TopKeys {
    counters: Vec<Counter>,
    /// Places of counters, the smallest count first: a heap.
    heap: Vec<u32>,
    /// Which counter a key has.
    places: HashMap<u64, u32, FixedState>,
    most: usize,
    total: u64,
}

/// How often a key was counted.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    pub hash: u64,
    pub count: u64,
    /// It may be so much less.
    pub error: u64,
    /// Bytes of the key, of which only the beginning is kept.
    pub length: u32,
    text: [u8; TEXT_MAX],
    /// Its place in the heap.
    rank: u32,
}

impl Counter {
    /// The beginning of the key.
    pub fn text(&self) -> &[u8] {
        &self.text[..TEXT_MAX.min(self.length as usize)]
    }

    /// What it was counted at least.
    pub fn sure(&self) -> u64 {
        self.count - self.error
    }

    fn set_text(&mut self, key: &[u8]) {
        let length = key.len().min(TEXT_MAX);
        self.text[..length].copy_from_slice(&key[..length]);
        self.length = key.len() as u32;
    }
}

impl TopKeys {
    /// With so many counters, at least one.
    pub fn new(counters: usize) -> Self {
        let most = counters.max(1);
        Self {
            counters: Vec::with_capacity(most),
            heap: Vec::with_capacity(most),
            places: HashMap::with_capacity_and_hasher(most, FixedState::default()),
            most,
            total: 0,
        }
    }

    /// Of all keys.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Those that have a counter, in no order.
    pub fn counters(&self) -> &[Counter] {
        &self.counters
    }

    pub fn get(&self, hash: u64) -> Option<&Counter> {
        self.places.get(&hash).map(|&place| &self.counters[place as usize])
    }

    /// Counts a key once more.
    pub fn add(&mut self, hash: u64, key: &[u8]) {
        self.total += 1;
        if let Some(&place) = self.places.get(&hash) {
            let counter = &mut self.counters[place as usize];
            counter.count += 1;
            let rank = counter.rank;
            self.sink(rank as usize);
            return;
        }
        if self.counters.len() < self.most {
            let place = self.counters.len() as u32;
            let mut counter = Counter { hash, count: 1, error: 0, length: 0, text: [0; TEXT_MAX], rank: place };
            counter.set_text(key);
            self.counters.push(counter);
            self.heap.push(place);
            self.places.insert(hash, place);
            self.rise(place as usize);
            return;
        }
        // Whoever has the least gives up its counter, and what it counted is the doubt about the new one.
        let place = self.heap[0];
        let counter = &mut self.counters[place as usize];
        self.places.remove(&counter.hash);
        counter.hash = hash;
        counter.error = counter.count;
        counter.count += 1;
        counter.set_text(key);
        self.places.insert(hash, place);
        self.sink(0);
    }

    /// Halves every count, so that what was before counts for less and less.
    pub fn age(&mut self) {
        // Halves are in the same order.
        for counter in &mut self.counters {
            counter.count = counter.count.div_ceil(2);
            counter.error /= 2;
        }
        self.total /= 2;
    }

    fn count(&self, rank: usize) -> u64 {
        self.counters[self.heap[rank] as usize].count
    }

    fn rise(&mut self, mut rank: usize) {
        while rank > 0 && self.count(rank) < self.count((rank - 1) / 2) {
            self.swap(rank, (rank - 1) / 2);
            rank = (rank - 1) / 2;
        }
    }

    fn sink(&mut self, mut rank: usize) {
        loop {
            let children = [2 * rank + 1, 2 * rank + 2].into_iter().filter(|&child| child < self.heap.len());
            let Some(least) = children.min_by_key(|&child| self.count(child)) else { return };
            if self.count(least) >= self.count(rank) {
                return;
            }
            self.swap(rank, least);
            rank = least;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        for rank in [one, other] {
            self.counters[self.heap[rank] as usize].rank = rank as u32;
        }
    }

    /// Memory, in bytes, near enough.
    pub fn bytes(&self) -> usize {
        self.counters.capacity() * size_of::<Counter>()
            + self.heap.capacity() * size_of::<u32>()
            + self.places.capacity() * (size_of::<(u64, u32)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algo::dice;

    /// Keys of a Zipf distribution with exponent 1 over `keys`, by inversion.
    fn zipf(keys: usize, draws: usize, mut see: impl FnMut(usize)) {
        let mut ends = Vec::with_capacity(keys);
        let mut sum = 0.0;
        for rank in 1..=keys {
            sum += 1.0 / rank as f64;
            ends.push(sum);
        }
        let mut state = 5;
        for _ in 0..draws {
            let at = (dice::roll(&mut state) >> 11) as f64 / (1u64 << 53) as f64 * sum;
            see(ends.partition_point(|&end| end < at).min(keys - 1));
        }
    }

    #[test]
    fn whoever_has_a_hundredth_is_found_with_its_count() {
        let (keys, draws) = (100_000, 200_000);
        let mut top = TopKeys::new(1000);
        let mut exact = vec![0_u64; keys];
        zipf(keys, draws, |key| {
            exact[key] += 1;
            top.add(key as u64, key.to_string().as_bytes());
        });
        assert_eq!(top.total(), draws as u64);
        let frequent: Vec<usize> = (0..keys).filter(|&key| exact[key] >= draws as u64 / 100).collect();
        assert!(frequent.len() >= 5, "{frequent:?}");
        for key in frequent {
            let counter = top.get(key as u64).expect("a hundredth is ten times what a counter may miss");
            assert_eq!(counter.text(), key.to_string().as_bytes());
            assert!(counter.sure() <= exact[key] && exact[key] <= counter.count, "{key}: {counter:?}, {}", exact[key]);
            assert!(counter.error <= draws as u64 / 1000);
        }
    }

    #[test]
    fn memory_does_not_grow_with_the_keys() {
        let mut top = TopKeys::new(1000);
        for key in 0..100_000_u64 {
            top.add(key, &[b'x'; 500]);
        }
        assert_eq!(top.counters().len(), 1000);
        assert!(top.bytes() <= 256 << 10, "{}", top.bytes());
        assert_eq!(top.get(99_999).map(|counter| counter.text().len()), Some(TEXT_MAX));
    }

    #[test]
    fn what_was_hot_is_forgotten() {
        let mut top = TopKeys::new(10);
        for _ in 0..1000 {
            top.add(1, b"old");
        }
        for _ in 0..12 {
            top.age();
        }
        for _ in 0..100 {
            top.add(2, b"new");
        }
        let count = |hash| top.get(hash).map_or(0, Counter::sure);
        assert!(count(1) <= 1 && count(2) == 100, "{} {}", count(1), count(2));
        assert_eq!(top.total(), 100);
    }
}
