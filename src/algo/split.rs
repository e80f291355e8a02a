//! Which arm of an experiment a key is in.
//!
//! A pure function of shares, salt and key: two processes agree, and a restart changes nothing. Does not know who the arms are, nor how
//! they fare.

use std::io::Write as _;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use xxhash_rust::xxh3::xxh3_64;

use super::placement::hashes::{KeyHash, murmur2};

/// Keys are told apart this finely: a bucket is a ten-thousandth of a per cent.
pub const BUCKETS: u32 = 1_000_000;

/// How a key becomes a position among shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// XXH3-64 of the salt, a zero and the key. Ranges are anchored: see [`Split::new`].
    Own { salt: Vec<u8> },
    /// `split_clients`: `MurmurHash2` of the key alone.
    Nginx,
    /// SHA-1 of `prefix`, a point and the key; the prefix is `flag.salt`, or a seed.
    LaunchDarkly { prefix: Vec<u8> },
    /// Hash version 2: FNV-1a in 32 bits, twice.
    GrowthBook2 { seed: Vec<u8> },
    /// `MurmurHash3` in 32 bits of `group:key`.
    Unleash { group: Vec<u8> },
}

impl Hashing {
    /// Millionths that are the least it tells apart.
    pub fn resolution(&self) -> u32 {
        match self {
            Self::Own { .. } => 1,
            Self::LaunchDarkly { .. } => 10,
            Self::Nginx | Self::GrowthBook2 { .. } => 100,
            Self::Unleash { .. } => 10_000,
        }
    }

    /// Where the key is, from 0 to [`Hashing::whole`]; the same scale as the ends of ranges.
    pub fn position(&self, key: &[u8]) -> f64 {
        match self {
            Self::Own { salt } => f64::from(bucket(salt, key)),
            Self::Nginx => f64::from(murmur2(0, key)),
            Self::LaunchDarkly { prefix } => {
                let digest = with_joined(prefix, b'.', key, |text| digest(&SHA1_FOR_LEGACY_USE_ONLY, text));
                let first = digest.as_ref().first_chunk().expect("SHA-1 has twenty bytes");
                // Fifteen hexadecimal digits.
                (u64::from_be_bytes(*first) >> 4) as f64 / ((1_u64 << 60) - 1) as f64
            }
            Self::GrowthBook2 { seed } => {
                let first = joined_fnv(seed, key);
                let mut digits = [0; 10];
                let mut rest = &mut digits[..];
                write!(rest, "{first}").expect("ten digits hold 32 bits");
                let left = rest.len();
                let second = KeyHash::Fnv1a32.of(&digits[..digits.len() - left], false);
                f64::from(second % 10_000) / 10_000.0
            }
            Self::Unleash { group } => f64::from(with_joined(group, b':', key, |text| murmur3(0, text)) % 100),
        }
    }

    /// The end of a range that begins at `start` and holds so many millionths, rounded as the original rounds.
    fn end(&self, start: f64, share: u32) -> f64 {
        let part = f64::from(share) / f64::from(BUCKETS);
        match self {
            Self::Own { .. } => start + f64::from(share),
            // A percentage is a whole number of hundredths there, and each range is rounded down.
            Self::Nginx => start + (u64::from(share / 100) * u64::from(u32::MAX) / 10_000) as f64,
            Self::LaunchDarkly { .. } => start + f64::from(share / 10) / 100_000.0,
            Self::GrowthBook2 { .. } => start + part,
            Self::Unleash { .. } => start + f64::from(share / 10_000),
        }
    }
}

/// The bucket of a key, below [`BUCKETS`]: the upper bits of XXH3-64 of the salt, a zero and the key.
pub fn bucket(salt: &[u8], key: &[u8]) -> u32 {
    let hash = with_joined(salt, 0, key, xxh3_64);
    ((u128::from(hash) * u128::from(BUCKETS)) >> 64) as u32
}

/// Texts up to this length are put together on the stack.
const SHORT: usize = 256;

/// Runs `use_text` on the two with `between` between them.
fn with_joined<T>(first: &[u8], between: u8, second: &[u8], use_text: impl FnOnce(&[u8]) -> T) -> T {
    let length = first.len() + 1 + second.len();
    let mut short = [0; SHORT];
    let mut long = Vec::new();
    let text = if let Some(text) = short.get_mut(..length) {
        text
    } else {
        long.resize(length, 0);
        &mut long[..]
    };
    text[..first.len()].copy_from_slice(first);
    text[first.len()] = between;
    text[first.len() + 1..].copy_from_slice(second);
    use_text(text)
}

/// FNV-1a of the two, one behind the other.
fn joined_fnv(first: &[u8], second: &[u8]) -> u32 {
    first.iter().chain(second).fold(2_166_136_261_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
}

/// Austin Appleby, `MurmurHash3_x86_32`, 2011.
fn murmur3(seed: u32, key: &[u8]) -> u32 {
    let scramble = |word: u32| word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = seed;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        hash ^= scramble(u32::from_le_bytes(*word));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let mut word = [0; 4];
    word[..rest.len()].copy_from_slice(rest);
    hash ^= scramble(u32::from_le_bytes(word));
    hash ^= key.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// Ranges of positions, each an arm's.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    hashing: Hashing,
    /// By their ends; the last one has none.
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    end: f64,
    arm: u16,
}

impl Split {
    /// `shares` are millionths, in the order of the arms; `None` for the one that gets what the others leave. Without one, the last arm
    /// gets what rounding leaves.
    ///
    /// Our own ranges are anchored: each arm grows from a place that its number alone decides, past those before it, and whoever gets
    /// the rest has what is between. So an arm that grows only gains, and one that is added last takes from the rest alone. The first two
    /// grow towards each other from both ends and never meet; those after them in pairs from a half, a quarter, three quarters and so
    /// on (van der Corput's sequence), where a large earlier arm may reach them, and then has their keys.
    pub fn new(hashing: Hashing, shares: &[Option<u32>]) -> Self {
        debug_assert!(!shares.is_empty() && u16::try_from(shares.len()).is_ok());
        debug_assert!(shares.iter().flatten().sum::<u32>() <= BUCKETS);
        let remainder = shares.iter().position(Option::is_none).unwrap_or(shares.len().saturating_sub(1)) as u16;
        let written = shares.iter().enumerate().filter_map(|(arm, share)| Some((arm as u16, (*share)?)));
        let mut parts = Vec::new();
        if let Hashing::Own { .. } = hashing {
            let mut taken = Vec::new();
            for (number, (arm, share)) in written.enumerate() {
                take(&mut taken, number as u32, arm, share);
            }
            let mut at = 0;
            for range in taken {
                if range.start > at {
                    parts.push(Part { end: f64::from(range.start), arm: remainder });
                }
                parts.push(Part { end: f64::from(range.end), arm: range.arm });
                at = range.end;
            }
        } else {
            let mut end = 0.0;
            for (arm, share) in written.filter(|(_, share)| *share > 0) {
                end = hashing.end(end, share);
                parts.push(Part { end, arm });
            }
        }
        parts.push(Part { end: f64::INFINITY, arm: remainder });
        Self { hashing, parts }
    }

    pub fn hashing(&self) -> &Hashing {
        &self.hashing
    }

    /// Where a key is among the ranges, in the units of its hashing.
    pub fn position(&self, key: &[u8]) -> f64 {
        self.hashing.position(key)
    }

    /// The arm of a key, by its number.
    pub fn arm(&self, key: &[u8]) -> usize {
        let position = self.hashing.position(key);
        let part = self.parts.iter().find(|part| position < part.end).expect("the last part has no end");
        usize::from(part.arm)
    }
}

/// Buckets of one arm, the end excluded.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u32,
    end: u32,
    arm: u16,
}

/// Takes `share` buckets that nobody has, from the arm's anchor on, and sorts them in.
fn take(taken: &mut Vec<Range>, number: u32, arm: u16, share: u32) {
    let anchor = ((u64::from((number / 2).reverse_bits()) * u64::from(BUCKETS)) >> 32) as u32;
    let is_upwards = number.is_multiple_of(2);
    let mut free: Vec<(u32, u32)> = Vec::new();
    for (low, high) in [(anchor, BUCKETS), (0, anchor)] {
        let mut at = low;
        for range in taken.iter().filter(|range| range.end > low && range.start < high) {
            free.push((at, range.start.max(at)));
            at = range.end.min(high);
        }
        free.push((at, high));
    }
    if !is_upwards {
        // From the last one before the anchor down, and on from the top.
        free.reverse();
    }
    let mut left = share;
    for (low, high) in free {
        let part = left.min(high - low);
        left -= part;
        if part > 0 {
            let (start, end) = if is_upwards { (low, low + part) } else { (high - part, high) };
            taken.push(Range { start, end, arm });
        }
    }
    debug_assert_eq!(left, 0, "shares are at most the whole");
    taken.sort_unstable_by_key(|range| range.start);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn own(salt: &str, shares: &[Option<u32>]) -> Split {
        Split::new(Hashing::Own { salt: salt.as_bytes().to_vec() }, shares)
    }

    /// The arm of each bucket.
    fn arms(shares: &[Option<u32>]) -> Vec<u16> {
        let split = own("", shares);
        let mut arms = Vec::with_capacity(BUCKETS as usize);
        for part in &split.parts {
            let end = if part.end.is_finite() { part.end as usize } else { BUCKETS as usize };
            arms.resize(end, part.arm);
        }
        arms
    }

    fn held(arms: &[u16], arm: u16) -> usize {
        arms.iter().filter(|&&other| other == arm).count()
    }

    /// The largest member's share of the mean, where a shard takes what an arm gets.
    #[test]
    fn a_shard_below_an_arm_is_as_balanced_as_alone() {
        use crate::algo::placement::{Member, Method, Table};
        let names: Vec<String> = (0..8).map(|number| format!("10.0.0.{number}:80")).collect();
        let members: Vec<Member<'_>> = names.iter().map(|name| Member { name, address: name, has_name: false, weight: 1 }).collect();
        let split = own("checkout", &[Some(200_000), None]);
        // The worst case of salts: the shard has the split's.
        for salt in [0, xxh3_64(b"checkout"), xxh3_64(b"cache")] {
            for method in [Method::Maglev, Method::Rendezvous] {
                let table = Table::build(&method, salt, &members);
                let mut counts = [0_u32; 8];
                for number in 0..500_000 {
                    let key = format!("user-{number}");
                    if split.arm(key.as_bytes()) == 0 {
                        counts[table.pick(table.hash(key.as_bytes())).unwrap() as usize] += 1;
                    }
                }
                let mean = f64::from(counts.iter().sum::<u32>()) / 8.0;
                let peak = f64::from(counts.into_iter().max().unwrap()) / mean;
                assert!(peak <= 1.05, "{method:?}, salt {salt:x}: {peak}");
            }
        }
    }

    #[test]
    fn launchdarkly_places_its_own_test_users() {
        let hashing = Hashing::LaunchDarkly { prefix: b"hashKey.saltyA".to_vec() };
        for (key, expected) in [("userKeyA", 0.421_575_87), ("userKeyB", 0.670_848_5), ("userKeyC", 0.103_431_06)] {
            assert!((hashing.position(key.as_bytes()) - expected).abs() < 1e-7, "{key}: {}", hashing.position(key.as_bytes()));
        }
    }

    #[test]
    fn growthbook_places_its_own_test_users() {
        let hashing = Hashing::GrowthBook2 { seed: b"seed".to_vec() };
        assert_eq!((hashing.position(b"a"), hashing.position(b"b")), (0.0505, 0.2696));
    }

    #[test]
    fn unleash_places_its_own_test_users() {
        // Counted from 1 there.
        for (group, key, expected) in [("gr1", "123", 73), ("groupX", "999", 25)] {
            assert_eq!(Hashing::Unleash { group: group.as_bytes().to_vec() }.position(key.as_bytes()) as u32 + 1, expected);
        }
    }

    #[test]
    fn nginx_rounds_each_range_down() {
        assert_eq!((murmur2(0, b"apple"), murmur2(0, b"user1")), (3_133_660_156, 245_918_201));
        let split = Split::new(Hashing::Nginx, &[Some(100_000), None, Some(5_000)]);
        let ends: Vec<(f64, u16)> = split.parts.iter().map(|part| (part.end, part.arm)).collect();
        assert_eq!(ends, [(429_496_729.0, 0), (429_496_729.0 + 21_474_836.0, 2), (f64::INFINITY, 1)]);
    }

    #[test]
    fn salt_and_key_do_not_run_into_each_other() {
        let long = "x".repeat(SHORT);
        assert_ne!(bucket(b"a", b"bc"), bucket(b"ab", b"c"));
        assert_ne!(bucket(long.as_bytes(), b"c"), bucket(long.as_bytes(), b"d"));
    }

    #[test]
    fn texts_are_hashed_alike_on_both_sides_of_the_short_ones() {
        for length in [SHORT - 3, SHORT - 2, SHORT - 1, SHORT] {
            let key = vec![b'k'; length];
            let whole = [b"s".as_slice(), b"\0", &key].concat();
            assert_eq!(bucket(b"s", &key), ((u128::from(xxh3_64(&whole)) * u128::from(BUCKETS)) >> 64) as u32, "{length}");
        }
    }

    fn chi_square(counts: &[u32]) -> f64 {
        let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
        counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
    }

    /// Chi-square with 99 degrees of freedom is above this once in a thousand times.
    const RARE_99: f64 = 148.23;
    /// The same with one degree of freedom.
    const RARE_1: f64 = 10.83;

    #[test]
    fn a_million_keys_fill_shares_and_buckets_evenly() {
        let split = own("checkout", &[Some(100_000), None]);
        let mut state = 7;
        let random: Vec<String> = (0..1_000_000).map(|_| format!("{:016x}", crate::algo::dice::roll(&mut state))).collect();
        let sequential: Vec<String> = (0..1_000_000).map(|id| id.to_string()).collect();
        for keys in [random, sequential] {
            let canary = keys.iter().filter(|key| split.arm(key.as_bytes()) == 0).count();
            assert!((99_000..=101_000).contains(&canary), "{canary} of a million at 10 %");
            let mut counts = vec![0; 100];
            for key in &keys {
                counts[(bucket(b"checkout", key.as_bytes()) / 10_000) as usize] += 1;
            }
            assert!(chi_square(&counts) < RARE_99, "{}", chi_square(&counts));
        }
    }

    #[test]
    fn two_salts_are_independent() {
        let splits = ["checkout", "search"].map(|salt| own(salt, &[Some(500_000), None]));
        let mut counts = [0; 4];
        for id in 0..1_000_000 {
            let key = id.to_string();
            counts[splits[0].arm(key.as_bytes()) * 2 + splits[1].arm(key.as_bytes())] += 1;
        }
        let total = f64::from(counts.iter().sum::<u32>());
        let of = |a: usize, b: usize| f64::from(counts[a * 2 + b]);
        let statistic = total * (of(0, 0) * of(1, 1) - of(0, 1) * of(1, 0)).powi(2)
            / ((of(0, 0) + of(0, 1)) * (of(1, 0) + of(1, 1)) * (of(0, 0) + of(1, 0)) * (of(0, 1) + of(1, 1)));
        assert!(statistic < RARE_1, "{statistic}");
    }

    #[test]
    fn shares_without_a_rest_are_exact() {
        for shares in [vec![Some(BUCKETS)], vec![Some(330_000), Some(330_000), Some(340_000)], vec![Some(600_000), Some(400_000)]] {
            let arms = arms(&shares);
            for (arm, share) in shares.iter().enumerate() {
                assert_eq!(held(&arms, arm as u16), share.unwrap_or_default() as usize);
            }
        }
    }

    #[test]
    fn a_ramp_never_sends_anybody_back() {
        let ramp = [0, 10_000, 100_000, 200_000, 500_000, BUCKETS].map(|share| arms(&[Some(share), None]));
        for (before, after) in ramp.iter().zip(&ramp[1..]) {
            assert!(before.iter().zip(after).all(|(before, after)| *before != 0 || *after == 0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn two_arms_never_take_from_each_other(first in 0..=BUCKETS, second in 0..=BUCKETS, more in 0..=BUCKETS) {
            let second = second.min(BUCKETS - first);
            let grown = first + more.min(BUCKETS - first - second);
            for (before, after) in [([first, second], [grown, second]), ([second, first], [second, grown])] {
                let [before, after] = [before, after].map(|[a, b]| arms(&[Some(a), Some(b), None]));
                prop_assert!(before.iter().zip(&after).all(|(&before, &after)| before == 2 || before == after));
            }
        }

        #[test]
        fn adding_an_arm_moves_nobody_between_the_others(shares in proptest::collection::vec(0..300_000_u32, 1..8), added in 0..=BUCKETS) {
            let mut left = BUCKETS;
            let mut fitting = |share: u32| { let share = share.min(left); left -= share; Some(share) };
            let mut shares: Vec<Option<u32>> = std::iter::once(None).chain(shares.into_iter().map(&mut fitting)).collect();
            let added = fitting(added);
            let before = arms(&shares);
            shares.push(added);
            let after = arms(&shares);
            let new = shares.len() as u16 - 1;
            prop_assert!(before.iter().zip(&after).all(|(&before, &after)| before == after || (before, after) == (0, new)));
            for (arm, share) in shares.iter().enumerate().skip(1) {
                prop_assert_eq!(held(&after, arm as u16), share.unwrap_or_default() as usize);
            }
        }

        #[test]
        fn an_arm_that_grows_only_gains(shares in proptest::collection::vec(0..200_000_u32, 2..6), which in 0..5_usize, more in 0..=BUCKETS) {
            let which = which % shares.len();
            let mut shares: Vec<Option<u32>> = shares.into_iter().map(Some).collect();
            let free = BUCKETS.saturating_sub(shares.iter().flatten().sum());
            shares.push(None);
            prop_assume!(free > 0);
            let before = arms(&shares);
            shares[which] = shares[which].map(|share| share + more.min(free));
            let after = arms(&shares);
            prop_assert!(before.iter().zip(&after).all(|(&before, &after)| usize::from(before) != which || before == after));
        }
    }
}
