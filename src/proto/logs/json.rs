//! Lines that are JSON objects.
//!
//! Takes apart the object itself; what is nested in it stays as it is written.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Peeled, Record, Value};

/// A name, borrowed where nothing in it is escaped.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::with_capacity(12);
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

fn value(raw: &RawValue) -> Value<'_> {
    let text = raw.get();
    let Some(quoted) = text.strip_prefix('"') else {
        // White space between lines of one object would be line ends in ours.
        return Value::Json(if text.contains(['\n', '\r']) { Cow::Owned(text.replace(['\n', '\r'], " ")) } else { Cow::Borrowed(text) });
    };
    let quoted = &quoted[..quoted.len() - 1];
    if memchr::memchr(b'\\', quoted.as_bytes()).is_none() {
        return Value::Text(Cow::Borrowed(quoted));
    }
    let read = serde_json::from_str::<String>(text).or_else(|_| serde_json::from_str(&without_halves(text)));
    read.map_or(Value::Json(Cow::Borrowed("null")), |text| Value::Text(Cow::Owned(text)))
}

/// JSON has two escapes for one character beyond 16 bits. Programs write one of them, which stands for a byte that was no character.
fn without_halves(text: &str) -> String {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(next) = memchr::memchr(b'\\', &text.as_bytes()[at..]).map(|next| at + next) {
        out.push_str(&text[at..next]);
        at = match (unit(next), unit(next + 6)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => next + 12,
            (Some(0xd800..0xe000), _) => {
                out.push('\u{fffd}');
                at = next + 6;
                continue;
            }
            (Some(_), _) => next + 6,
            // Two bytes, of which the second is one of ASCII.
            (None, _) => (next + 2).min(text.len()),
        };
        out.push_str(text.get(next..at).unwrap_or_default());
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

/// JSON without escapes that nothing needs: so that what is looked for in its text is found.
pub fn plainly(text: &str) -> Cow<'_, str> {
    if memchr::memmem::find(text.as_bytes(), b"\\u00").is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let byte =
            rest.get(at + 2..at + 6).filter(|_| rest[at..].starts_with("\\u00")).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let end = match byte {
            Some(byte) if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\') => {
                out.push(char::from(byte));
                rest = &rest[at + 6..];
                continue;
            }
            _ => rest[at..].char_indices().nth(2).map_or(rest.len(), |(length, _)| at + length),
        };
        out.push_str(&rest[at..end]);
        rest = &rest[end..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// An object; anything else does not fit.
pub fn parse(text: &str) -> Option<Record<'_>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let Object(members) = serde_json::from_str(text).ok()?;
    let mut record = Record { fields: Vec::with_capacity(members.len()), ..Record::default() };
    for (name, raw) in members {
        record.put(name, value(raw));
    }
    Some(record)
}

/// A JSON value without what is at `path` in it, or with another value (JSON) there; `None` if nothing is there. All else stays as it
/// is written.
pub fn edited(text: &str, path: &[String], with: Option<&str>) -> Option<String> {
    let [part, path @ ..] = path else { return with.map(str::to_owned) };
    let mut out = String::with_capacity(text.len());
    let mut is_found = false;
    // What is written of one that may be meant, or `None` if nothing is.
    let mut member = |is_meant: bool, raw: &RawValue| {
        if !is_meant {
            return Some(raw.get().to_owned());
        }
        if path.is_empty() {
            is_found = true;
            return with.map(str::to_owned);
        }
        let edited = edited(raw.get(), path, with);
        is_found |= edited.is_some();
        Some(edited.unwrap_or_else(|| raw.get().to_owned()))
    };
    if text.starts_with('{') {
        let Object(members) = serde_json::from_str(text).ok()?;
        out.push('{');
        for (name, raw) in members {
            let Some(value) = member(name == *part, raw) else { continue };
            out.push_str(if out.len() > 1 { "," } else { "" });
            out.push_str(&serde_json::to_string(&name).ok()?);
            out.push(':');
            out.push_str(&value);
        }
        out.push('}');
    } else {
        let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
        let at: usize = part.parse().ok()?;
        out.push('[');
        for (index, raw) in elements.into_iter().enumerate() {
            let Some(value) = member(index == at, raw) else { continue };
            out.push_str(if out.len() > 1 { "," } else { "" });
            out.push_str(&value);
        }
        out.push(']');
    }
    is_found.then_some(out)
}

/// What Docker's `json-file` driver writes.
pub(super) fn docker(line: &str) -> Option<Peeled<'_>> {
    let Object(members) = serde_json::from_str(line).ok()?;
    let text = |wanted: &str| {
        let (_, raw) = members.iter().find(|(name, _)| name == wanted)?;
        match value(raw) {
            Value::Text(text) => Some(text),
            Value::Json(_) => None,
        }
    };
    let mut log = text("log")?;
    let is_partial = !log.ends_with('\n');
    if !is_partial {
        match &mut log {
            Cow::Borrowed(log) => *log = &log[..log.len() - 1],
            Cow::Owned(log) => {
                log.pop();
            }
        }
    }
    Some(Peeled { text: log, ts: text("time"), stream: text("stream").unwrap_or_default(), is_partial })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, place: &str, with: Option<&str>, wanted: Option<&str>) {
        let path: Vec<String> = place.split('/').map(str::to_owned).collect();
        assert_eq!(edited(text, &path, with).as_deref(), wanted, "{text} {place}");
    }

    #[test]
    fn what_is_nested_is_taken_out_and_the_rest_stays() {
        let text = r#"{ "a" : {"b":1.50, "c\n":[10, {"d":"x"}]}, "e":12345678901234567890}"#;
        check(text, "a/b", None, Some(r#"{"a":{"c\n":[10, {"d":"x"}]},"e":12345678901234567890}"#));
        check(text, "a/c\n/1/d", Some("\"-\""), Some(r#"{"a":{"b":1.50,"c\n":[10,{"d":"-"}]},"e":12345678901234567890}"#));
        check(text, "a/c\n/0", None, Some(r#"{"a":{"b":1.50,"c\n":[{"d":"x"}]},"e":12345678901234567890}"#));
        check(r#"{"a":1,"a":2}"#, "a", None, Some("{}"));
        for place in ["b", "a/x", "a/b/c", "a/c\n/7", "a/c\n/x"] {
            check(text, place, None, None);
        }
        check("1", "a", None, None);
    }

    #[test]
    fn escapes_that_nothing_needs_go() {
        assert_eq!(plainly(r#"{"a":"\u0034\u00e9\u0022\\u0034\n\u0041"}"#), r#"{"a":"4\u00e9\u0022\\u0034\nA"}"#);
        assert!(matches!(plainly(r#""\n""#), Cow::Borrowed(_)));
    }

    #[test]
    fn half_a_character_is_one_that_is_unknown() {
        let msg = |line: &str| parse(line).and_then(|record| record.msg.map(Cow::into_owned));
        assert_eq!(msg(r#"{"msg":"a \udcff.txt \ud83d\ude00 \\udcff"}"#).as_deref(), Some("a \u{fffd}.txt 😀 \\udcff"));
    }
}
