//! nginx's two ways to hash: a ring of CRC-32, and a modulo that hashes again.
//!
//! `ngx_http_upstream_hash_module`, version 1.22 and its neighbours. Knows servers as they are written, not the addresses behind them.

use crc32fast::Hasher;

use super::points::Points;
use super::{Hashed, Member};

/// Points for each unit of weight.
pub const POINTS: u64 = 160;
/// Tries before nginx gives up and takes turns.
pub const TRIES: u64 = 20;

/// The ring of `hash … consistent`.
pub fn points(members: &[Member<'_>]) -> Points {
    let mut all = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let (host, port) = split(member.name);
        let mut base = Hasher::new();
        base.update(host.as_bytes());
        base.update(&[0]);
        base.update(port.as_bytes());
        let mut previous = 0_u32;
        for _ in 0..u64::from(member.weight) * POINTS {
            let mut point = base.clone();
            point.update(&previous.to_le_bytes());
            previous = point.finalize();
            all.push((previous, index as u16));
        }
    }
    // Stable, as sorting is there for all but large rings; of equal points the first stays.
    all.sort_by_key(|(value, _)| *value);
    all.dedup_by_key(|(value, _)| *value);
    Points::sorted(&all)
}

/// As `server` is read there: a port is what follows the last colon, if it is digits up to the end.
fn split(server: &str) -> (&str, &str) {
    if let Some(path) = server.strip_prefix("unix:") {
        return (path, "");
    }
    match server.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (server, ""),
    }
}

/// Members in an order, each so often as its weight.
pub struct Modulo {
    /// The sum of weights up to and with each member.
    ends: Box<[(u32, u16)]>,
    total: u32,
    /// Hashes are shortened as nginx does, and a key is hashed again for each try.
    rehashes: bool,
}

impl Modulo {
    /// nginx's, of members in the order of the file.
    pub fn rehashing(members: &[Member<'_>]) -> Self {
        Self::new(members, 0..members.len(), true)
    }

    /// twemproxy's, which has no second try and its own order.
    pub fn plain(members: &[Member<'_>], order: impl Iterator<Item = usize>) -> Self {
        Self::new(members, order, false)
    }

    fn new(members: &[Member<'_>], order: impl Iterator<Item = usize>, rehashes: bool) -> Self {
        let mut total = 0;
        let mut ends = Vec::new();
        for index in order.filter(|&index| members[index].weight > 0) {
            total += members[index].weight;
            ends.push((total, index as u16));
        }
        Self { ends: ends.into(), total, rehashes }
    }

    /// `sum` is what the tries before added up to.
    pub fn retry(&self, key: Hashed, number: u64, sum: &mut u32) -> Option<u16> {
        if self.rehashes {
            *sum = sum.wrapping_add((crc_of_try(key, number) >> 16) & 0x7fff);
        } else if number > 0 {
            return None;
        } else {
            *sum = key.value as u32;
        }
        let place = *sum % self.total;
        Some(self.ends[self.ends.partition_point(|&(end, _)| end <= place)].1)
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&*self.ends)
    }
}

/// The CRC-32 of the number of the try, in decimal, and the key behind it; of the key alone for the first.
fn crc_of_try(key: Hashed, number: u64) -> u32 {
    if number == 0 {
        return key.value as u32;
    }
    let mut digits = itoa::Buffer::new();
    let mut both = Hasher::new();
    both.update(digits.format(number).as_bytes());
    both.combine(&Hasher::new_with_initial_len(key.value as u32, key.length.into()));
    both.finalize()
}
