//! Keys that the contract has and this version has not, so that whoever copies one is told which of the two is wrong.
//!
//! Changes no verdict: such a key is refused as any unknown one is. Remove an entry when its key is read.

/// A key, and a neighbour that tells in which table it stands.
const LATER: &[(&str, &str)] = &[];

/// Words of closed sets: a listener's protocols.
const LATER_WORDS: &[(&str, &str)] = &[("redis", "http"), ("memcached", "http")];

/// Whether `key` belongs to a later version in the table that has the keys `known`.
pub(super) fn is_later(key: &str, known: &[&str]) -> bool {
    has(LATER, key, known)
}

/// Whether `word` belongs to a later version of the set that has the words `known`.
pub fn is_later_word(word: &str, known: &[&str]) -> bool {
    has(LATER_WORDS, word, known)
}

fn has(later: &[(&str, &str)], name: &str, known: &[&str]) -> bool {
    later.iter().any(|&(later, neighbour)| later == name && known.contains(&neighbour))
}
