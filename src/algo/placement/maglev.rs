//! Maglev's table: members take turns at places, each in its own order of them.
//!
//! Eisenbud et al., "Maglev", 2016, listing 1; with weights as Envoy has them: who has less passes turns by, so that shares are as
//! exact as the number of places allows. Hashes no names.

use crate::algo::dice;

/// Each place's member.
pub struct Maglev {
    places: Box<[u16]>,
    retry: Retry,
}

/// How a key goes on to another place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// By a hash of its hash.
    Mixed,
    /// As Envoy does.
    Envoy,
}

/// One member's order of places, and how often it is its turn.
pub struct Turns {
    member: u16,
    at: u64,
    skip: u64,
    weight: f64,
    /// Its weight times the round must be this much for another turn.
    due: f64,
}

impl Turns {
    /// From hashes of its name.
    pub fn new(member: u16, offset: u64, skip: u64, weight: f64, size: u32) -> Self {
        let size = u64::from(size);
        Self { member, at: offset % size, skip: skip % (size - 1) + 1, weight, due: 0.0 }
    }
}

const FREE: u16 = u16::MAX;

impl Maglev {
    /// `size` is a prime, and `members` are not empty; the first has the first turn.
    pub fn fill(size: u32, mut members: Vec<Turns>, retry: Retry) -> Self {
        let mut places = vec![FREE; size as usize].into_boxed_slice();
        let most = members.iter().map(|member| member.weight).fold(0.0, f64::max);
        let mut left = size;
        let mut round = 0_u32;
        while left > 0 {
            round += 1;
            for member in &mut members {
                if f64::from(round) * member.weight < member.due {
                    continue;
                }
                member.due += most;
                while places[member.at as usize] != FREE {
                    member.at = (member.at + member.skip) % u64::from(size);
                }
                places[member.at as usize] = member.member;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Self { places, retry }
    }

    pub fn at(&self, hash: u64) -> u16 {
        self.places[(hash % self.places.len() as u64) as usize]
    }

    /// The first try is number 0.
    pub fn retry(&self, hash: u64, number: u64) -> u16 {
        let hash = match (number, self.retry) {
            (0, _) => hash,
            (_, Retry::Mixed) => dice::roll(&mut (hash ^ number)),
            (_, Retry::Envoy) => hash ^ (u64::MAX - number + 1),
        };
        self.at(hash)
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&*self.places)
    }
}
