//! Merges of JSON documents.
//!
//! What is only moved is not parsed: it is found to be JSON, and copied as it is.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::settings::{Fold, Mean, OnConflict, Place, Set};
use super::{Answer, Misfit, Reason};

fn misfit(answer: usize, reason: Reason) -> Misfit {
    Misfit { answer, reason }
}

/// What is at `place` in a document, as it is written there.
fn raw_at<'a>(answer: usize, body: &'a [u8], place: &Place) -> Result<&'a RawValue, Misfit> {
    let mut value: &RawValue = serde_json::from_slice(body).map_err(|_| misfit(answer, Reason::NotJson))?;
    for key in &place.0 {
        let fields: HashMap<std::borrow::Cow<'a, str>, &'a RawValue> =
            serde_json::from_str(value.get()).map_err(|_| misfit(answer, Reason::Mismatch))?;
        value = fields.get(key.as_str()).copied().ok_or(misfit(answer, Reason::Mismatch))?;
    }
    Ok(value)
}

fn raw_items<'a>(answer: usize, body: &'a [u8], place: &Place) -> Result<Vec<&'a RawValue>, Misfit> {
    let array = raw_at(answer, body, place)?;
    serde_json::from_str(array.get()).map_err(|_| misfit(answer, Reason::Mismatch))
}

/// Opens objects around what will be at `place`, and gives what closes them.
fn open(place: &Place, out: &mut Vec<u8>) -> String {
    for key in &place.0 {
        out.push(b'{');
        out.extend_from_slice(Value::String(key.clone()).to_string().as_bytes());
        out.push(b':');
    }
    "}".repeat(place.0.len())
}

/// Writes an array of these at `place`.
pub(super) fn array<'a>(place: &Place, items: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) {
    let close = open(place, out);
    out.push(b'[');
    for (number, item) in items.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item.as_bytes());
    }
    out.push(b']');
    out.extend_from_slice(close.as_bytes());
}

/// Where `part` is in `body`, of which it is a part.
fn range(body: &[u8], part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - body.as_ptr().addr();
    start..start + part.len()
}

/// What is between the brackets of the array at `place`, all of it at once.
pub(super) fn inside(body: &[u8], place: &Place) -> Result<Range<usize>, Reason> {
    let array = raw_at(0, body, place).map_err(|misfit| misfit.reason)?.get();
    let inside = array.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or(Reason::Mismatch)?;
    Ok(range(body, inside.trim()))
}

pub(super) fn document(body: &[u8]) -> Result<Range<usize>, Reason> {
    let document = raw_at(0, body, &Place::default()).map_err(|misfit| misfit.reason)?;
    Ok(range(body, document.get()))
}

/// Of what is [`inside`] of each.
pub(super) fn concat(answers: &[Answer<'_>], at: &Place) -> Vec<u8> {
    let mut out = Vec::with_capacity(answers.iter().map(|answer| answer.part.len() + 1).sum::<usize>() + 2);
    let close = open(at, &mut out);
    out.push(b'[');
    let mut is_first = true;
    for part in answers.iter().map(Answer::part).filter(|part| !part.is_empty()) {
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        out.extend_from_slice(part);
    }
    out.push(b']');
    out.extend_from_slice(close.as_bytes());
    out
}

/// Of each [`document`].
pub(super) fn keyed(answers: &[Answer<'_>]) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (number, answer) in answers.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        out.extend_from_slice(Value::String(answer.leaf.to_owned()).to_string().as_bytes());
        out.push(b':');
        out.extend_from_slice(answer.part());
    }
    out.push(b'}');
    out
}

/// One document in a line, for each.
pub(super) fn lines(answers: &[Answer<'_>]) -> Result<Vec<u8>, Misfit> {
    let mut out = Vec::new();
    for (number, answer) in answers.iter().enumerate() {
        line(number, answer.body, &mut out)?;
    }
    Ok(out)
}

/// Lines of a leaf that answers in lines, or its document in one.
pub fn line(number: usize, body: &[u8], out: &mut Vec<u8>) -> Result<(), Misfit> {
    let mut documents = serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>();
    for document in &mut documents {
        let text = document.map_err(|_| misfit(number, Reason::NotJson))?.get();
        // A line end inside a document can only be white space between its parts.
        if text.contains(['\n', '\r']) {
            let value: Value = serde_json::from_str(text).map_err(|_| misfit(number, Reason::NotJson))?;
            out.extend_from_slice(value.to_string().as_bytes());
        } else {
            out.extend_from_slice(text.as_bytes());
        }
        out.push(b'\n');
    }
    Ok(())
}

fn parsed(number: usize, answer: &Answer<'_>) -> Result<Value, Misfit> {
    serde_json::from_slice(answer.body).map_err(|_| misfit(number, Reason::NotJson))
}

pub(super) fn object(answers: &[Answer<'_>], on_conflict: OnConflict) -> Result<Vec<u8>, Misfit> {
    let mut all = Map::new();
    // Which values are arrays that a conflict has made, by their address in the document.
    let mut made = HashSet::new();
    for (number, answer) in answers.iter().enumerate() {
        let Value::Object(fields) = parsed(number, answer)? else { return Err(misfit(number, Reason::Mismatch)) };
        let mut path = String::new();
        merge_into(&mut all, fields, on_conflict, &mut path, &mut made).map_err(|reason| misfit(number, reason))?;
    }
    Ok(Value::Object(all).to_string().into_bytes())
}

fn merge_into(
    all: &mut Map<String, Value>,
    fields: Map<String, Value>,
    on_conflict: OnConflict,
    path: &mut String,
    made: &mut HashSet<String>,
) -> Result<(), Reason> {
    for (key, value) in fields {
        let before = path.len();
        path.push('/');
        path.push_str(&key.replace('~', "~0").replace('/', "~1"));
        match (all.get_mut(&key), value) {
            (None, value) => {
                all.insert(key, value);
            }
            (Some(Value::Object(known)), Value::Object(more)) if !made.contains(path.as_str()) => {
                merge_into(known, more, on_conflict, path, made)?;
            }
            (Some(known), value) if *known == value && on_conflict != OnConflict::Array => {}
            (Some(known), value) => match on_conflict {
                OnConflict::Error => return Err(Reason::Conflict),
                OnConflict::First => {}
                OnConflict::Last => *known = value,
                OnConflict::Array => {
                    if made.insert(path.clone()) {
                        *known = Value::Array(vec![known.take(), value]);
                    } else if let Value::Array(values) = known {
                        values.push(value);
                    }
                }
            },
        }
        path.truncate(before);
    }
    Ok(())
}

pub(super) fn fold(answers: &[Answer<'_>], fold: Fold, places: &[Place]) -> Result<Vec<u8>, Misfit> {
    let mut all: Option<Value> = None;
    for (number, answer) in answers.iter().enumerate() {
        let document = parsed(number, answer)?;
        let document = if places.is_empty() { document } else { only(document, places).ok_or(misfit(number, Reason::Mismatch))? };
        all = Some(match all {
            None => document,
            Some(all) => folded(all, document, fold).map_err(|reason| misfit(number, reason))?,
        });
    }
    Ok(all.unwrap_or_default().to_string().into_bytes())
}

/// A document with nothing but numbers in these places. `None` if one of them is none.
fn only(mut document: Value, places: &[Place]) -> Option<Value> {
    let mut all = Value::Null;
    for place in places {
        let found = place.0.iter().try_fold(&mut document, |value, key| value.get_mut(key.as_str()))?;
        if !found.is_number() {
            return None;
        }
        put(&mut all, place, found.take());
    }
    Some(all)
}

/// Makes objects on the way of whatever is there.
fn put(document: &mut Value, place: &Place, value: Value) {
    let mut target = document;
    for key in &place.0 {
        if !target.is_object() {
            *target = Value::Object(Map::new());
        }
        let Value::Object(fields) = target else { return };
        target = fields.entry(key.clone()).or_insert(Value::Null);
    }
    *target = value;
}

/// Each leaf's numbers count as much as it says. Without anything that counts there is no mean: `null`.
pub(super) fn mean(answers: &[Answer<'_>], mean: &Mean) -> Result<Vec<u8>, Misfit> {
    let mut sums = vec![0.0; mean.at.len()];
    let mut weights = 0.0;
    for (number, answer) in answers.iter().enumerate() {
        let document = parsed(number, answer)?;
        let at = |place: &Place| {
            let found = place.0.iter().try_fold(&document, |value, key| value.get(key.as_str()));
            found.and_then(Value::as_f64).ok_or(misfit(number, Reason::Mismatch))
        };
        let weight = mean.by.as_ref().map_or(Ok(1.0), at)?;
        if weight < 0.0 {
            return Err(misfit(number, Reason::Mismatch));
        }
        for (sum, place) in sums.iter_mut().zip(&mean.at) {
            *sum += at(place)? * weight;
        }
        weights += weight;
    }
    let mut all = Value::Null;
    for (sum, place) in sums.into_iter().zip(&mean.at) {
        let mean = if weights > 0.0 { Number::from_f64(sum / weights) } else { None };
        put(&mut all, place, mean.map_or(Value::Null, Value::Number));
    }
    if let Some(by) = &mean.by {
        // Whole counts are written as such.
        let whole = (weights.fract() == 0.0 && weights < 9e15).then(|| Number::from(weights as u64));
        put(&mut all, by, whole.or_else(|| Number::from_f64(weights)).map_or(Value::Null, Value::Number));
    }
    Ok(all.to_string().into_bytes())
}

fn folded(one: Value, other: Value, fold: Fold) -> Result<Value, Reason> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => number(&one, &other, fold).map(Value::Number).ok_or(Reason::Mismatch),
        (Value::Object(mut all), Value::Object(more)) => {
            for (key, value) in more {
                let folded = match all.get_mut(&key) {
                    None => value,
                    Some(known) => folded(known.take(), value, fold)?,
                };
                all.insert(key, folded);
            }
            Ok(Value::Object(all))
        }
        // Beside the numbers, leaves have to say the same.
        (one, other) if one == other => Ok(one),
        (Value::Number(_) | Value::Object(_), _) | (_, Value::Number(_) | Value::Object(_)) => Err(Reason::Mismatch),
        _ => Err(Reason::Conflict),
    }
}

/// Whole numbers stay whole as long as they fit.
fn number(one: &Number, other: &Number, fold: Fold) -> Option<Number> {
    if let (Some(one), Some(other)) = (one.as_i128(), other.as_i128()) {
        let whole = match fold {
            Fold::Sum => one + other,
            Fold::Min => one.min(other),
            Fold::Max => one.max(other),
        };
        if let Some(whole) = Number::from_i128(whole) {
            return Some(whole);
        }
    }
    let (one, other) = (one.as_f64()?, other.as_f64()?);
    Number::from_f64(match fold {
        Fold::Sum => one + other,
        Fold::Min => one.min(other),
        Fold::Max => one.max(other),
    })
}

/// What a member of a set is known by: of equal ones, white space and the order of keys do not matter.
fn identity(number: usize, item: &RawValue, by: Option<&Place>) -> Result<String, Misfit> {
    let value: Value = serde_json::from_str(item.get()).map_err(|_| misfit(number, Reason::NotJson))?;
    let known = match by {
        None => &value,
        Some(place) => place.0.iter().try_fold(&value, |value, key| value.get(key.as_str())).ok_or(misfit(number, Reason::Mismatch))?,
    };
    Ok(known.to_string())
}

pub(super) fn union(answers: &[Answer<'_>], set: &Set) -> Result<Vec<u8>, Misfit> {
    let mut seen = HashSet::new();
    let mut members = Vec::new();
    for (number, answer) in answers.iter().enumerate() {
        for item in raw_items(number, answer.body, &set.at)? {
            if seen.insert(identity(number, item, set.by.as_ref())?) {
                members.push(item.get());
            }
        }
    }
    let mut out = Vec::new();
    array(&set.at, members.into_iter(), &mut out);
    Ok(out)
}

pub(super) fn intersect(answers: &[Answer<'_>], set: &Set) -> Result<Vec<u8>, Misfit> {
    let mut common: Option<HashSet<String>> = None;
    let mut first: Vec<(String, &str)> = Vec::new();
    for (number, answer) in answers.iter().enumerate() {
        let mut members = HashSet::new();
        for item in raw_items(number, answer.body, &set.at)? {
            let identity = identity(number, item, set.by.as_ref())?;
            if number == 0 && !members.contains(&identity) {
                first.push((identity.clone(), item.get()));
            }
            members.insert(identity);
        }
        common = Some(match common {
            None => members,
            Some(common) => common.intersection(&members).cloned().collect(),
        });
    }
    let common = common.unwrap_or_default();
    let mut out = Vec::new();
    array(&set.at, first.iter().filter(|(identity, _)| common.contains(identity)).map(|(_, item)| *item), &mut out);
    Ok(out)
}

/// For `topk`: rows with their text.
pub(super) fn rows<'a>(number: usize, answer: &Answer<'a>, at: &Place) -> Result<Vec<&'a RawValue>, Misfit> {
    raw_items(number, answer.body, at)
}
