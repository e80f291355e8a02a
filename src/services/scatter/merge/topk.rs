//! The best rows of all leaves: `offset` of them left out, then `k`.
//!
//! Keeps no more rows than it may need. Equal rows stay in the order of leaves and of rows within one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use serde_json::Value;

use super::settings::{COUNT_MAX, Count, Order, Topk};
use super::{Answer, Ask, Misfit, Reason, json};

/// A row with what it is ordered by.
struct Row<'a> {
    keys: Vec<Value>,
    /// Leaf, and row within it.
    place: (usize, usize),
    text: &'a str,
    order: &'a Order,
}

impl Ord for Row<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        for (by, (one, other)) in self.order.0.iter().zip(self.keys.iter().zip(&other.keys)) {
            let ordering = compare(one, other);
            // A missing key is last either way.
            let ordering = if by.is_descending && !one.is_null() && !other.is_null() { ordering.reverse() } else { ordering };
            if ordering != Ordering::Equal {
                return ordering;
            }
        }
        self.place.cmp(&other.place)
    }
}

impl PartialOrd for Row<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Row<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Row<'_> {}

/// Numbers before texts before everything else before nothing; texts by their code points.
fn compare(one: &Value, other: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Null => 3,
        _ => 2,
    };
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => one.cmp(&other),
            _ => one.as_f64().unwrap_or_default().total_cmp(&other.as_f64().unwrap_or_default()),
        },
        (Value::String(one), Value::String(other)) => one.cmp(other),
        (one, other) if rank(one) == rank(other) => one.to_string().cmp(&other.to_string()),
        (one, other) => rank(one).cmp(&rank(other)),
    }
}

pub(super) fn merge(answers: &[Answer<'_>], topk: &Topk, ask: &Ask<'_>) -> Result<Vec<u8>, Misfit> {
    let (k, offset) = (count(&topk.k, 10, ask), count(&topk.offset, 0, ask));
    let most = k.saturating_add(offset);
    // The worst of those that are kept is on top.
    let mut best: BinaryHeap<Row<'_>> = BinaryHeap::with_capacity(most.min(1024) + 1);
    for (number, answer) in answers.iter().enumerate() {
        for (at, row) in json::rows(number, answer, &topk.at)?.into_iter().enumerate() {
            let value: Value = serde_json::from_str(row.get()).map_err(|_| Misfit { answer: number, reason: Reason::NotJson })?;
            let key = |place: &super::settings::Place| {
                place.0.iter().try_fold(&value, |value, key| value.get(key.as_str())).cloned().unwrap_or_default()
            };
            let row = Row {
                keys: topk.sort.0.iter().map(|by| key(&by.place)).collect(),
                place: (number, at),
                text: row.get(),
                order: &topk.sort,
            };
            if best.len() < most {
                best.push(row);
            } else if best.peek().is_some_and(|worst| row < *worst) {
                best.pop();
                best.push(row);
            }
        }
    }
    let sorted = best.into_sorted_vec();
    let mut out = Vec::new();
    json::array(&topk.at, sorted.iter().skip(offset).map(|row| row.text), &mut out);
    Ok(out)
}

/// What a query says that is no count, counts for nothing.
fn count(count: &Count, usual: usize, ask: &Ask<'_>) -> usize {
    match count {
        Count::Fixed(count) => *count,
        Count::Query(name) => {
            let mut pairs = ask.query.unwrap_or_default().split(|&byte| byte == b'&');
            let value = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
            let number = value.and_then(|value| std::str::from_utf8(value).ok()).and_then(|value| value.parse::<usize>().ok());
            number.unwrap_or(usual).min(COUNT_MAX)
        }
    }
}
