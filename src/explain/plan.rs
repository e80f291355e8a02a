//! What another configuration would change: each difference with its effect, and which keys of which shard would move.
//!
//! Compares two compiled configurations; reads nothing and changes nothing.

use std::collections::HashMap;

use serde::Serialize;

use crate::algo::dice;
use crate::config::{self, Change};
use crate::generation::Generation;
use crate::services::Service;
use crate::services::shard::{Members, Shard};

/// What would change.
#[derive(Debug, Serialize)]
pub struct Plan {
    pub changes: Vec<Change>,
    /// One for each shard that is in both.
    pub shards: Vec<Moves>,
    /// What else an operator should know.
    pub notes: Vec<String>,
}

/// What becomes of one shard's keys.
#[derive(Debug, Serialize)]
pub struct Moves {
    pub service: String,
    /// Of all keys, 0 to 1, by so many generated ones.
    pub moved: f64,
    pub keys: usize,
    /// Nineteen of twenty such estimates are no more than this away.
    pub error: f64,
    /// From whom to whom, the largest share first; those that stay are left out.
    pub matrix: Vec<Move>,
    pub before: Balance,
    pub after: Balance,
    /// Of keys that somebody gave.
    pub given: Option<Given>,
    pub note: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Move {
    pub from: String,
    pub to: String,
    /// Of all keys.
    pub share: f64,
}

/// How keys lie.
#[derive(Debug, Serialize)]
pub struct Balance {
    pub method: &'static str,
    pub members: Vec<Share>,
    /// The largest share in relation to its weight, where 1 is even.
    pub peak: f64,
}

#[derive(Debug, Serialize)]
pub struct Share {
    pub name: String,
    pub weight: u32,
    pub share: f64,
}

/// What becomes of the keys of a list, each counted as often as it is there.
#[derive(Debug, Serialize)]
pub struct Given {
    pub keys: usize,
    pub different: usize,
    pub moved: f64,
    /// Those that move, the most frequent first.
    pub hottest: Vec<Mover>,
}

#[derive(Debug, Serialize)]
pub struct Mover {
    pub key: String,
    pub count: usize,
    pub from: String,
    pub to: String,
}

/// As many keys say a share to a fifth of a per cent.
const SAMPLE: usize = 1 << 18;
/// Movers and pairs that are shown.
const SHOWN: usize = 10;

impl Moves {
    /// The larger of what was estimated and what became of the given keys.
    pub fn worst(&self) -> f64 {
        self.given.as_ref().map_or(self.moved, |given| given.moved.max(self.moved))
    }
}

/// `keys` are as a shard would read them.
pub fn plan(old: &Generation, new: &Generation, keys: Option<&[Vec<u8>]>) -> Plan {
    let mut notes = Vec::new();
    let counted = keys.map(count);
    let both = new.shards().filter_map(|shard| Some((old.shard(&shard.name)?, shard)));
    let shards: Vec<Moves> = both.map(|(old, new)| moves(old, new, counted.as_ref())).collect();
    for shard in new.shards().filter(|shard| old.shard(&shard.name).is_none()) {
        let names = |shard: &Shard| shard.members().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let was = old.shards().find(|other| new.shard(&other.name).is_none() && names(other) == names(shard));
        notes.push(match was {
            Some(was) => format!(
                "shard {} is new and {} is gone: if it is the same under another name, its keys move unless it has salt = \"{}\"",
                shard.name, was.name, was.name
            ),
            None => format!("shard {} is new", shard.name),
        });
    }
    for shard in new.shards() {
        if let Members::Pool { pool, .. } = &shard.over
            && !pool.discovery().sources().is_empty()
        {
            notes.push(format!("shard {}: endpoints that are discovered count as far as they are known here", shard.name));
        }
    }
    Plan { changes: config::changes(&old.file, &new.file), shards, notes }
}

impl Generation {
    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.others.iter().filter_map(|other| match &*other.service {
            Service::Shard(shard) => Some(shard),
            _ => None,
        })
    }
}

/// Keys with how often each is there, the most frequent first.
type Counted<'k> = Vec<(&'k [u8], usize)>;

fn count(keys: &[Vec<u8>]) -> Counted<'_> {
    let mut counts: HashMap<&[u8], usize> = HashMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    let mut counted: Counted<'_> = counts.into_iter().collect();
    counted.sort_by(|(one, count), (other, than)| than.cmp(count).then_with(|| one.cmp(other)));
    counted
}

fn moves(old: &Shard, new: &Shard, given: Option<&Counted<'_>>) -> Moves {
    let (before, after) = (old.members(), new.members());
    let sample = || {
        let mut state = 1;
        (0..SAMPLE).map(move |_| dice::roll(&mut state).to_le_bytes())
    };
    let (from, to) = (old.owners(sample()), new.owners(sample()));
    let name = |members: &[(String, u32)], owner: Option<u32>| {
        owner.map_or_else(|| "nobody".to_owned(), |owner| members[owner as usize].0.clone())
    };
    let is_moved = |from: Option<u32>, to: Option<u32>| name(&before, from) != name(&after, to);
    let mut pairs: HashMap<(Option<u32>, Option<u32>), usize> = HashMap::new();
    for (&from, &to) in from.iter().zip(&to) {
        *pairs.entry((from, to)).or_default() += 1;
    }
    let share = |count: usize| count as f64 / SAMPLE as f64;
    let mut matrix: Vec<Move> = pairs
        .iter()
        .filter(|((from, to), _)| is_moved(*from, *to))
        .map(|((from, to), count)| Move { from: name(&before, *from), to: name(&after, *to), share: share(*count) })
        .collect();
    matrix.sort_by(|one, other| other.share.total_cmp(&one.share).then_with(|| (&one.from, &one.to).cmp(&(&other.from, &other.to))));
    // From one sum to the next, a key that is read elsewhere is another key.
    let reads_otherwise = old.key != new.key;
    let moved = if reads_otherwise { 1.0 } else { matrix.iter().map(|one| one.share).sum() };
    let given = given.map(|counted| {
        let owners = |shard: &Shard| shard.owners(counted.iter().map(|(key, _)| key));
        let (from, to) = (owners(old), owners(new));
        let keys: usize = counted.iter().map(|(_, count)| count).sum();
        let movers = || counted.iter().zip(from.iter().zip(&to)).filter(|(_, (from, to))| is_moved(**from, **to));
        let gone: usize = movers().map(|((_, count), _)| count).sum();
        let hottest = movers().take(SHOWN).map(|((key, count), (from, to))| Mover {
            key: String::from_utf8_lossy(key).into_owned(),
            count: *count,
            from: name(&before, *from),
            to: name(&after, *to),
        });
        Given { keys, different: counted.len(), moved: if keys == 0 { 0.0 } else { gone as f64 / keys as f64 }, hottest: hottest.collect() }
    });
    Moves {
        service: new.name.clone(),
        moved,
        keys: SAMPLE,
        error: if reads_otherwise { 0.0 } else { 1.96 * (moved * (1.0 - moved) / SAMPLE as f64).sqrt() },
        matrix,
        before: balance(old, &before, &from),
        after: balance(new, &after, &to),
        given,
        note: reads_otherwise.then(|| "`by` changed: requests have other keys, and where each goes is as good as new".to_owned()),
    }
}

fn balance(shard: &Shard, members: &[(String, u32)], owners: &[Option<u32>]) -> Balance {
    let mut counts = vec![0_usize; members.len()];
    for owner in owners.iter().flatten() {
        counts[*owner as usize] += 1;
    }
    let total: f64 = members.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let share = |((name, weight), count): (&(String, u32), &usize)| Share {
        name: name.clone(),
        weight: *weight,
        share: *count as f64 / owners.len().max(1) as f64,
    };
    let members: Vec<Share> = members.iter().zip(&counts).map(share).collect();
    let even = |member: &Share| if member.weight == 0 { 0.0 } else { member.share / (f64::from(member.weight) / total) };
    let peak = members.iter().map(even).fold(0.0, f64::max);
    Balance { method: shard.method.name(), members, peak }
}
