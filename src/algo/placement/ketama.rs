//! Ketama and its family: rings of MD5 points, as libketama, libmemcached and twemproxy make them.
//!
//! Their arithmetic is in parts that of 32-bit floats, and has to be. Hashes of keys are `hashes`'.

use md5::{Digest, Md5};

use super::nginx::Modulo;
use super::points::Points;
use super::{Hash, KeyHash, Member};

#[derive(Clone, Debug, PartialEq)]
pub struct Twemproxy {
    pub hash: KeyHash,
    pub distribution: Distribution,
    /// Bytes from 0x80 on count as negative, as where `char` is signed.
    pub signed_char: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    Ketama,
    Modula,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Libmemcached {
    /// Of keys, and of points where those are not MD5's.
    pub hash: KeyHash,
    /// `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED`: keys and points are hashed by MD5.
    pub weighted: bool,
    /// Names of points as spymemcached makes them.
    pub spy: bool,
    pub signed_char: bool,
}

/// The port that memcached has unless told otherwise, which is no part of a name then.
const USUAL_PORT: &str = ":11211";
/// Points that one digest makes.
const PER_DIGEST: usize = 4;
/// Strings for each server without weights.
const UNWEIGHTED: u32 = 100;
/// Digests for each server if all weights are equal: 160 points.
const DIGESTS: f32 = 40.0;

/// libketama's ring: servers are known by their address, whatever their name.
pub fn libketama(members: &[Member<'_>]) -> Points {
    let total: u32 = members.iter().map(|member| member.weight).sum();
    let serving = serving(members);
    let name = |member: &Member<'_>| member.address.to_owned();
    let digests = |member: &Member<'_>| {
        let share = member.weight as f32 / total as f32;
        (f64::from(share) * f64::from(DIGESTS) * f64::from(serving)) as f32
    };
    ring(members, name, digests)
}

/// twemproxy's.
pub fn twemproxy(members: &[Member<'_>]) -> Points {
    weighted(members, name)
}

/// twemproxy's other distribution: it sorts servers by the length of their names, then by the names.
pub fn modula(members: &[Member<'_>]) -> Modulo {
    let mut order: Vec<(String, usize)> = members.iter().map(name).zip(0..).collect();
    order.sort_by(|(one, _), (other, _)| one.len().cmp(&other.len()).then_with(|| one.cmp(other)));
    Modulo::plain(members, order.into_iter().map(|(_, index)| index))
}

fn name(member: &Member<'_>) -> String {
    if member.has_name { member.name.to_owned() } else { without_usual_port(member.address) }
}

/// As many digests as the share of a server says, rounded down with a grain of salt.
fn weighted(members: &[Member<'_>], name: impl Fn(&Member<'_>) -> String) -> Points {
    let total: u32 = members.iter().map(|member| member.weight).sum();
    let serving = serving(members) as f32;
    let digests = |member: &Member<'_>| {
        let share = member.weight as f32 / total as f32;
        (f64::from(share * 160.0 / 4.0 * serving) + 1e-10) as f32
    };
    ring(members, name, digests)
}

impl Libmemcached {
    pub(super) fn points(&self, members: &[Member<'_>]) -> Points {
        if self.spy {
            return ring(members, |member| format!("/{}", member.address), |_| DIGESTS);
        }
        if self.is_weighted(members) {
            return weighted(members, name);
        }
        let mut all = Vec::new();
        for (index, member) in members.iter().enumerate().filter(|(_, member)| member.weight > 0) {
            let name = name(member);
            let point = |number| self.hash.of(format!("{name}-{number}").as_bytes(), self.signed_char);
            all.extend((0..UNWEIGHTED).map(|number| (point(number), index as u16)));
        }
        sorted(all)
    }

    /// One weight above 1 is enough.
    fn is_weighted(&self, members: &[Member<'_>]) -> bool {
        self.weighted || members.iter().any(|member| member.weight > 1)
    }

    pub(super) fn hash(&self, members: &[Member<'_>]) -> Hash {
        let hash = if self.is_weighted(members) { KeyHash::Md5 } else { self.hash };
        Hash::Key { hash, signed_char: self.signed_char }
    }
}

fn serving(members: &[Member<'_>]) -> u32 {
    members.iter().filter(|member| member.weight > 0).count() as u32
}

fn without_usual_port(address: &str) -> String {
    address.strip_suffix(USUAL_PORT).unwrap_or(address).to_owned()
}

/// Four points of each digest of a name and a number.
fn ring(members: &[Member<'_>], name: impl Fn(&Member<'_>) -> String, digests: impl Fn(&Member<'_>) -> f32) -> Points {
    let mut all = Vec::new();
    for (index, member) in members.iter().enumerate().filter(|(_, member)| member.weight > 0) {
        let name = name(member);
        for number in 0..digests(member).floor() as u32 {
            let digest = Md5::digest(format!("{name}-{number}"));
            all.extend(digest.as_chunks::<PER_DIGEST>().0.iter().map(|point| (u32::from_le_bytes(*point), index as u16)));
        }
    }
    sorted(all)
}

fn sorted(mut all: Vec<(u32, u16)>) -> Points {
    all.sort_by_key(|(value, _)| *value);
    Points::sorted(&all)
}
