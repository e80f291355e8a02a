//! Merges of answers that are no JSON, or need not be.
//!
//! Reads nothing inside of them, but where a majority is looked for.

use std::collections::HashMap;

use serde_json::Value;

use super::{Answer, Merged};

/// One behind the other; of the first one's type.
pub(super) fn bytes(answers: &[Answer<'_>]) -> Merged {
    let content_type = answers.first().map_or("application/octet-stream", |answer| answer.content_type).to_owned();
    Merged { status: 200, content_type, body: answers.iter().map(|answer| answer.body).collect::<Vec<_>>().concat() }
}

/// RFC 2046 §5.1.3: a part for each, that says whose it is.
pub(super) fn multipart(answers: &[Answer<'_>], boundary: u64) -> Merged {
    let boundary = format!("attache-{boundary:016x}");
    let mut body = Vec::new();
    for answer in answers {
        body.extend_from_slice(format!("--{boundary}\r\nContent-Disposition: inline; name=\"{}\"\r\n", quoted(answer.leaf)).as_bytes());
        if !answer.content_type.is_empty() {
            body.extend_from_slice(format!("Content-Type: {}\r\n", answer.content_type).as_bytes());
        }
        body.extend_from_slice(b"\r\n");
        body.extend_from_slice(answer.body);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Merged { status: 200, content_type: format!("multipart/mixed; boundary={boundary}"), body }
}

fn quoted(name: &str) -> String {
    name.replace(['"', '\\', '\r', '\n'], "_")
}

/// What a vote counts as the same: JSON by what it means, everything else by its bytes.
pub fn vote(answer: &Answer<'_>) -> (u16, Vec<u8>) {
    let meaning = serde_json::from_slice::<Value>(answer.body).ok().filter(|_| answer.content_type.contains("json"));
    (answer.status, meaning.map_or_else(|| answer.body.to_vec(), |value| value.to_string().into_bytes()))
}

/// The answer that most leaves gave; of several such, the first leaf's.
pub(super) fn majority(answers: &[Answer<'_>]) -> Merged {
    let votes: Vec<(u16, Vec<u8>)> = answers.iter().map(vote).collect();
    let mut counts: HashMap<&(u16, Vec<u8>), usize> = HashMap::new();
    for vote in &votes {
        *counts.entry(vote).or_default() += 1;
    }
    let most = counts.values().copied().max().unwrap_or_default();
    let winner = votes.iter().position(|vote| counts.get(vote) == Some(&most)).and_then(|at| answers.get(at));
    winner.map_or_else(
        || Merged { status: 502, content_type: String::new(), body: Vec::new() },
        |answer| Merged { status: answer.status, content_type: answer.content_type.to_owned(), body: answer.body.to_vec() },
    )
}
