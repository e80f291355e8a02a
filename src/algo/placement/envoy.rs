//! Envoy's two ways to hash: its ring, and its table of Maglev's.
//!
//! `ring_hash_lb.cc` and `maglev_lb.cc` of Envoy 1.40, with hosts known by their address, in one locality.

use xxhash_rust::xxh64::xxh64;

use super::Member;
use super::maglev::{Maglev, Retry, Turns};
use super::points::WidePoints;

#[derive(Clone, Debug, PartialEq)]
pub struct EnvoyRing {
    pub hash: EnvoyHash,
    /// Points in all, at least.
    pub min_size: u64,
    pub max_size: u64,
}

/// What points are hashed by; and keys, which Envoy hashes by xxHash whatever its ring does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvoyHash {
    XxHash64,
    MurmurHash2,
}

impl EnvoyRing {
    pub(super) fn points(&self, members: &[Member<'_>]) -> WidePoints {
        let serving = || members.iter().enumerate().filter(|(_, member)| member.weight > 0);
        let total: u32 = serving().map(|(_, member)| member.weight).sum();
        let share = |member: &Member<'_>| f64::from(member.weight) / f64::from(total);
        let least = serving().map(|(_, member)| share(member)).fold(1.0, f64::min);
        let scale = ((least * self.min_size as f64).ceil() / least).min(self.max_size as f64);
        let mut all = Vec::with_capacity(scale.ceil() as usize);
        // Sums over all members, so that what is rounded up for one is not for the next.
        let (mut have, mut want) = (0.0, 0.0);
        for (index, member) in serving() {
            want += scale * share(member);
            let mut number = 0;
            let mut text = Vec::new();
            while have < want {
                text.clear();
                text.extend_from_slice(member.name.as_bytes());
                text.push(b'_');
                text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
                let value = match self.hash {
                    EnvoyHash::XxHash64 => xxh64(&text, 0),
                    EnvoyHash::MurmurHash2 => murmur(&text),
                };
                all.push((value, index as u16));
                number += 1;
                have += 1.0;
            }
        }
        all.sort_by_key(|(value, _)| *value);
        WidePoints::sorted(&all)
    }
}

/// `known` are members with a weight, by name, as Envoy sorts hosts.
pub fn maglev(size: u32, members: &[Member<'_>], known: &[u16]) -> Maglev {
    let total: u32 = known.iter().map(|index| members[usize::from(*index)].weight).sum();
    let turns = |index: &u16| {
        let Member { name, weight, .. } = members[usize::from(*index)];
        let name = name.as_bytes();
        Turns::new(*index, xxh64(name, 0), xxh64(name, 1), f64::from(weight) / f64::from(total), size)
    };
    Maglev::fill(size, known.iter().map(turns).collect(), Retry::Envoy)
}

/// `MurmurHash64A` as libstdc++ has it in `std::hash`, with the seed of that.
fn murmur(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ (value >> 47);
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash ^= mix(u64::from_le_bytes(*word).wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
        hash = hash.wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
    }
    mix(mix(hash).wrapping_mul(FACTOR))
}
