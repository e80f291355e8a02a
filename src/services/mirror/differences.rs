//! Differences between answers, of many requests: which of them mean something, and examples.
//!
//! Bounded in places and in examples for each. Compares nothing itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::compare::Difference;
use crate::algo::compare::as_likely;

/// What was found since the mirror was written like that.
#[derive(Debug, Default)]
pub struct Differences(Mutex<Found>);

#[derive(Clone, Debug, Default)]
struct Found {
    compared: u64,
    /// Where a second answer of the same program was there to compare with.
    controlled: u64,
    places: BTreeMap<String, Place>,
    /// Differences at places for which there was no room.
    elsewhere: u64,
}

#[derive(Clone, Debug, Default)]
struct Place {
    /// Comparisons in which it differed, and in which it differed without being different.
    different: u64,
    noise: u64,
    examples: VecDeque<Example>,
}

/// One difference that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub at: SystemTime,
    /// Method and target.
    pub request: String,
    pub primary: String,
    pub candidate: String,
}

/// One place, for people.
#[derive(Clone, Debug)]
pub struct Reported {
    pub path: String,
    pub different: u64,
    pub noise: u64,
    /// It is more than noise.
    pub is_real: bool,
    pub examples: Vec<Example>,
}

/// All of it, for people.
#[derive(Clone, Debug)]
pub struct Report {
    pub compared: u64,
    pub controlled: u64,
    pub elsewhere: u64,
    /// The most frequent first; noise last.
    pub places: Vec<Reported>,
}

const PLACES_MAX: usize = 1000;
/// The latest ones of a place.
const EXAMPLES_MAX: usize = 5;
/// Beyond noise: by a fifth, by three in ten thousand comparisons (Diffy's defaults), and not by chance.
const BEYOND: f64 = 1.2;
const SHARE_MIN: f64 = 0.0003;
const CHANCE: f64 = 0.001;

impl Differences {
    /// Takes in one comparison. `noise` is what a second answer of the same program differs in, if there was one.
    pub fn take(&self, request: &str, found: Vec<Difference>, noise: Option<&[Difference]>, at: SystemTime) {
        let mut inner = self.lock();
        inner.compared += 1;
        inner.controlled += u64::from(noise.is_some());
        for path in paths(noise.unwrap_or_default()) {
            if let Some(place) = inner.place(path) {
                place.noise += 1;
            }
        }
        for path in paths(&found) {
            if let Some(place) = inner.place(path) {
                place.different += 1;
            }
        }
        for Difference { path, primary, candidate } in found {
            if let Some(place) = inner.places.get_mut(&path) {
                if place.examples.len() >= EXAMPLES_MAX {
                    place.examples.pop_front();
                }
                place.examples.push_back(Example { at, request: request.to_owned(), primary, candidate });
            }
        }
    }

    pub fn report(&self) -> Report {
        let Found { compared, controlled, places, elsewhere } = self.lock().clone();
        let reported = |(path, place): (String, Place)| {
            let Place { different, noise, examples } = place;
            let is_real = is_real(different, noise, compared, controlled);
            Reported { path, different, noise, is_real, examples: if is_real { examples.into() } else { Vec::new() } }
        };
        let mut places: Vec<Reported> = places.into_iter().map(reported).collect();
        places.sort_by_key(|place| (!place.is_real, std::cmp::Reverse(place.different)));
        Report { compared, controlled, elsewhere, places }
    }

    /// Nothing behind this lock is left half done by a panic.
    fn lock(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Found {
    fn place(&mut self, path: &str) -> Option<&mut Place> {
        if !self.places.contains_key(path) {
            if self.places.len() >= PLACES_MAX {
                self.elsewhere += 1;
                return None;
            }
            self.places.insert(path.to_owned(), Place::default());
        }
        self.places.get_mut(path)
    }
}

/// Each once: an array may differ in many items.
fn paths(found: &[Difference]) -> Vec<&str> {
    let mut paths: Vec<&str> = found.iter().map(|difference| difference.path.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn is_real(different: u64, noise: u64, compared: u64, controlled: u64) -> bool {
    if different == 0 {
        return false;
    }
    if noise == 0 {
        return different as f64 > compared as f64 * SHARE_MIN;
    }
    let (share, noisy) = (different as f64 / compared as f64, noise as f64 / controlled as f64);
    share > noisy * BEYOND && share - noisy > SHARE_MIN && as_likely(different, compared, noise, controlled) < CHANCE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(paths: &[&str]) -> Vec<Difference> {
        let difference = |path: &&str| Difference { path: (*path).to_owned(), primary: "1".to_owned(), candidate: "2".to_owned() };
        paths.iter().map(difference).collect()
    }

    fn real(differences: &Differences) -> Vec<String> {
        differences.report().places.into_iter().filter(|place| place.is_real).map(|place| place.path).collect()
    }

    #[test]
    fn what_always_differs_is_noise_and_what_differs_once_is_not() {
        let differences = Differences::default();
        for number in 0..1000 {
            let seeded: &[&str] = if number == 500 { &["/at", "/price"] } else { &["/at"] };
            differences.take("GET /", found(seeded), Some(&found(&["/at"])), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(real(&differences), ["/price"]);
        let report = differences.report();
        assert_eq!((report.compared, report.controlled), (1000, 1000));
        assert_eq!((report.places[0].examples.len(), report.places[1].examples.len()), (1, 0));
    }

    #[test]
    fn what_is_left_to_chance_is_noise() {
        let mut dice = 1;
        let differences = Differences::default();
        for _ in 0..2000 {
            let mut coin = || crate::algo::dice::roll(&mut dice).is_multiple_of(2);
            let of = |is_different: bool| found(if is_different { &["/coin"] } else { &[] });
            let (candidate, control) = (coin(), coin());
            differences.take("GET /", of(candidate), Some(&of(control)), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(real(&differences), Vec::<String>::new());
    }

    #[test]
    fn more_than_noise_is_a_difference() {
        let differences = Differences::default();
        for number in 0..1000 {
            let noise = found(if number % 50 == 0 { &["/cache"] } else { &[] });
            differences.take("GET /", found(&["/cache"]), Some(&noise), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(real(&differences), ["/cache"]);
    }

    #[test]
    fn places_and_examples_are_bounded() {
        let differences = Differences::default();
        for number in 0..2000 {
            differences.take("GET /", found(&[&format!("/{number}"), "/same"]), None, SystemTime::UNIX_EPOCH);
        }
        let report = differences.report();
        assert_eq!(report.places.len(), PLACES_MAX);
        assert_eq!(report.elsewhere, 2001 - PLACES_MAX as u64);
        assert_eq!((report.places[0].path.as_str(), report.places[0].examples.len()), ("/same", EXAMPLES_MAX));
    }
}
