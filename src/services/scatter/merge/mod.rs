//! How leaves' answers become one: always in the order of the leaves, whichever came first.
//!
//! Pure: what is wrong with an answer is the leaf's failure, and whether that matters, the scatter says.

mod json;
mod prometheus;
pub mod settings;
mod texts;
mod topk;

use std::ops::Range;

pub use json::line;
pub use settings::{Merge, OnConflict};
pub use texts::vote;

/// One leaf's answer.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// The leaf's name.
    pub leaf: &'a str,
    pub status: u16,
    pub content_type: &'a str,
    pub body: &'a [u8],
    /// Where in it is what [`Merge::part`] found.
    pub part: Range<usize>,
}

impl<'a> Answer<'a> {
    fn part(&self) -> &'a [u8] {
        self.body.get(self.part.clone()).unwrap_or_default()
    }
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// Whose answer does not fit, and why, in a word for metrics and people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Its place among the answers.
    pub answer: usize,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    NotJson,
    /// Something else stands where an array, a number or an object is needed.
    Mismatch,
    /// Two leaves say different things of the same.
    Conflict,
    NotMetrics,
}

impl Reason {
    pub fn word(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::Mismatch => "mismatch",
            Self::Conflict => "conflict",
            Self::NotMetrics => "not_metrics",
        }
    }
}

const JSON: &str = "application/json";

impl Merge {
    /// Whether answers are put together as soon as each is there, each on its own.
    pub fn streams(&self) -> bool {
        matches!(self, Self::Ndjson)
    }

    /// Which part of an answer is moved as it is, where the merge only moves: looked for as soon as the answer is there, so that little is
    /// left to do when the last one is. All of it where the merge looks closer by itself.
    ///
    /// # Errors
    ///
    /// When there is no such part.
    pub fn part(&self, body: &[u8]) -> Result<Range<usize>, Reason> {
        match self {
            Self::Concat(at) => json::inside(body, at),
            Self::Keyed => json::document(body),
            _ => Ok(0..body.len()),
        }
    }

    /// Whether an answer in JSON, alone, could be merged.
    ///
    /// # Errors
    ///
    /// When it could not, in whichever company.
    pub fn fits(&self, body: &[u8]) -> Result<(), Reason> {
        let answer = Answer { leaf: "", status: 200, content_type: JSON, body, part: self.part(body)? };
        self.merge(&[answer], &Ask { query: None, boundary: 0 }).map(drop).map_err(|misfit| misfit.reason)
    }

    /// Makes one answer of those that there are, of which there is at least one. `fill` stands for each leaf that has none, if anything does.
    pub fn merge(&self, answers: &[Answer<'_>], ask: &Ask<'_>) -> Result<Merged, Misfit> {
        let json = |body: Vec<u8>| Merged { status: 200, content_type: JSON.to_owned(), body };
        match self {
            Self::First => {
                let first = answers.first().ok_or(Misfit { answer: 0, reason: Reason::Mismatch })?;
                Ok(Merged { status: first.status, content_type: first.content_type.to_owned(), body: first.body.to_vec() })
            }
            Self::Concat(at) => Ok(json(json::concat(answers, at))),
            Self::Keyed => Ok(json(json::keyed(answers))),
            Self::Object(on_conflict) => json::object(answers, *on_conflict).map(json),
            Self::Fold(fold, places) => json::fold(answers, *fold, places).map(json),
            Self::Mean(mean) => json::mean(answers, mean).map(json),
            Self::Union(set) => json::union(answers, set).map(json),
            Self::Intersect(set) => json::intersect(answers, set).map(json),
            Self::Topk(topk) => topk::merge(answers, topk, ask).map(json),
            Self::Ndjson => json::lines(answers).map(|body| Merged { status: 200, content_type: "application/x-ndjson".to_owned(), body }),
            Self::Multipart => Ok(texts::multipart(answers, ask.boundary)),
            Self::Bytes => Ok(texts::bytes(answers)),
            Self::Prometheus => prometheus::merge(answers),
            Self::Quorum => Ok(texts::majority(answers)),
        }
    }
}

/// What merging takes from the request.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// As it was written, without its question mark.
    pub query: Option<&'a [u8]>,
    /// Sixteen characters that no part has, most likely.
    pub boundary: u64,
}

#[cfg(test)]
mod tests;
