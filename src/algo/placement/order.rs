//! A key's own order of all members.
//!
//! Goes on as the method does where there is somebody to go on to; after so many tries whoever is left comes by name, from a place
//! that the key says. Allocates for more than 128 members only, and not for the first.

use super::{Hashed, Places, Table, jump, nginx};
use crate::algo::{dice, rendezvous};

/// Tries of methods that choose again by another hash, before whoever is left is taken in turn.
const TRIES_MAX: u64 = 64;

/// An iterator over members, by their place among those that the table was built of.
pub struct Order<'t> {
    table: &'t Table,
    key: Hashed,
    /// Tries so far.
    tried: u64,
    /// Where a ring was entered.
    from: usize,
    /// How far the last of a rendezvous was.
    distance: f64,
    /// Sum of what a modulo was made of.
    sum: u32,
    /// Of those that are taken in turn.
    turn: usize,
    /// Not yet among the seen, since most want the first only.
    last: Option<u16>,
    seen: Seen,
}

impl<'t> Order<'t> {
    pub(super) fn new(table: &'t Table, key: Hashed) -> Self {
        Self { table, key, tried: 0, from: 0, distance: f64::NEG_INFINITY, sum: 0, turn: 0, last: None, seen: Seen::default() }
    }

    /// The next that the method itself would try, who may have been tried before. `None` when it gives up.
    fn try_next(&mut self) -> Option<u16> {
        let number = self.tried;
        self.tried += 1;
        // Another number for each try.
        let mixed = || {
            let mut state = self.key.value ^ number;
            if number == 0 { self.key.value } else { dice::roll(&mut state) }
        };
        match &self.table.places {
            Places::Nowhere => None,
            Places::Maglev(maglev) => (number < TRIES_MAX).then(|| maglev.retry(self.key.value, number)),
            Places::Jump(members) => (number < TRIES_MAX).then(|| members[jump(mixed(), members.len() as u32) as usize]),
            Places::Slots(slots) => (number == 0).then(|| slots[(self.key.value % slots.len() as u64) as usize]),
            Places::Points(points) => {
                if number == 0 {
                    self.from = points.find(self.key.value as u32);
                }
                ((number as usize) < points.len()).then(|| points.at((self.from + number as usize) % points.len()))
            }
            Places::WidePoints(points) => {
                if number == 0 {
                    self.from = points.find(self.key.value);
                }
                ((number as usize) < points.len()).then(|| points.at((self.from + number as usize) % points.len()))
            }
            Places::Modulo(modulo) => {
                if number > nginx::TRIES {
                    return None;
                }
                modulo.retry(self.key, number, &mut self.sum)
            }
            Places::Rendezvous(members) => {
                let key = self.key.value;
                let is_even = members.iter().all(|&(_, weight, _)| weight == members[0].1);
                let distances = members.iter().map(|&(hash, weight, member)| {
                    (if is_even { rendezvous::even_distance(key, hash) } else { rendezvous::distance(key, hash, weight) }, member)
                });
                let next = distances.filter(|&(distance, _)| distance > self.distance).min_by(|(one, _), (other, _)| one.total_cmp(other));
                let (distance, member) = next?;
                self.distance = distance;
                Some(member)
            }
        }
    }
}

impl Iterator for Order<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if let Some(last) = self.last.take() {
            self.seen.add(last);
        }
        while let Some(member) = self.try_next() {
            if !self.seen.has(member) {
                self.last = Some(member);
                return Some(member.into());
            }
            if self.seen.count == self.table.known.len() {
                return None;
            }
        }
        let known = &self.table.known;
        while self.turn < known.len() {
            let member = known[(self.key.value as usize % known.len() + self.turn) % known.len()];
            self.turn += 1;
            if !self.seen.has(member) {
                self.last = Some(member);
                return Some(member.into());
            }
        }
        None
    }
}

/// Members that were named.
#[derive(Default)]
struct Seen {
    first: [u64; 2],
    others: Vec<u64>,
    count: usize,
}

impl Seen {
    fn has(&self, member: u16) -> bool {
        let (word, bit) = (usize::from(member) / 64, 1 << (member % 64));
        let word = if word < 2 { self.first[word] } else { self.others.get(word - 2).copied().unwrap_or(0) };
        word & bit != 0
    }

    fn add(&mut self, member: u16) {
        let (word, bit) = (usize::from(member) / 64, 1 << (member % 64));
        self.count += 1;
        if word < 2 {
            self.first[word] |= bit;
            return;
        }
        if self.others.len() < word - 1 {
            self.others.resize(word - 1, 0);
        }
        self.others[word - 2] |= bit;
    }
}
