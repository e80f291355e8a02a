//! Lines of words: logfmt, the access logs of web servers, CSV.
//!
//! Scans from left to right, once; nothing here goes back.

use std::borrow::Cow;

use super::{Record, Value, plain, time};

/// `key=value key="quoted value" flag`; at least one has a value.
pub(super) fn logfmt(text: &str) -> Option<Record<'_>> {
    let mut record = Record::default();
    let mut rest = text.trim();
    let mut has_value = false;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let name = &rest[..end];
        if name.is_empty() || name.contains('"') {
            return None;
        }
        let Some(behind) = rest[end..].strip_prefix('=') else {
            record.put(Cow::Borrowed(name), Value::Json(Cow::Borrowed("true")));
            rest = rest[end..].trim_start();
            continue;
        };
        has_value = true;
        let (value, behind) = if behind.starts_with('"') {
            let (text, behind) = quoted(behind)?;
            (Value::Text(text), behind)
        } else {
            let end = behind.find(|c: char| c.is_ascii_whitespace()).unwrap_or(behind.len());
            (plain(&behind[..end]), &behind[end..])
        };
        record.put(Cow::Borrowed(name), value);
        if !behind.is_empty() && !behind.starts_with(|c: char| c.is_ascii_whitespace()) {
            return None;
        }
        rest = behind.trim_start();
    }
    has_value.then_some(record)
}

/// What is between this quote and the next that is not escaped, and what is behind it.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut from = 0;
    let mut is_escaped = false;
    loop {
        let at = from + memchr::memchr2(b'"', b'\\', &inner.as_bytes()[from..])?;
        if inner.as_bytes()[at] == b'"' {
            let behind = &inner[at + 1..];
            if !is_escaped {
                return Some((Cow::Borrowed(&inner[..at]), behind));
            }
            return Some((Cow::Owned(unescaped(&inner[..at])), behind));
        }
        is_escaped = true;
        from = at + 2;
        if from > inner.len() || !inner.is_char_boundary(from) {
            // A character of several bytes behind the backslash: on to its end.
            while from < inner.len() && !inner.is_char_boundary(from) {
                from += 1;
            }
        }
        if from > inner.len() {
            return None;
        }
    }
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, if char == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => plain.push('\n'),
            ('\\', Some('t')) => plain.push('\t'),
            ('\\', Some('r')) => plain.push('\r'),
            ('\\', Some(kind @ ('x' | 'u'))) => {
                let rest = chars.as_str();
                let digits = rest.get(..if kind == 'x' { 2 } else { 4 });
                match digits.and_then(|digits| char::from_u32(u32::from_str_radix(digits, 16).ok()?)) {
                    // A byte that may be a part of a character stays as it is written.
                    Some(char) if kind == 'u' || char.is_ascii() => {
                        plain.push(char);
                        chars = rest[digits.map_or(0, str::len)..].chars();
                    }
                    _ => plain.extend(['\\', kind]),
                }
            }
            ('\\', Some(other)) => plain.push(other),
            (char, _) => plain.push(char),
        }
    }
    plain
}

/// Common and combined log format of Apache and nginx.
pub(super) fn combined(text: &str) -> Option<Record<'_>> {
    let (client, rest) = text.split_once(' ')?;
    let (_ident, rest) = rest.split_once(' ')?;
    let (user, rest) = rest.split_once(" [")?;
    let (at, rest) = rest.split_once("] ")?;
    let ts = time::time(at)?;
    let (request, rest) = quoted(rest)?;
    let rest = rest.strip_prefix(' ')?;
    let (status, rest) = rest.split_once(' ')?;
    // With a zero before it, it would be no number of JSON.
    let code: u16 = status.parse().ok().filter(|code| (100..1000).contains(code) && status.len() == 3)?;
    let (bytes, mut rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let level = if code >= 500 {
        "error"
    } else if code >= 400 {
        "warn"
    } else {
        "info"
    };
    let mut fields = Vec::with_capacity(10);
    let mut field = |name: &'static str, value: Value<'_>| {
        if !matches!(&value, Value::Text(text) if text == "-" || text.is_empty()) {
            fields.push((Cow::Borrowed(name), owned(value)));
        }
    };
    field("client", Value::Text(Cow::Borrowed(client)));
    field("user", Value::Text(Cow::Borrowed(user)));
    let words: Vec<&str> = request.split(' ').collect();
    if let &[method, path, protocol] = words.as_slice() {
        field("method", Value::Text(Cow::Borrowed(method)));
        field("path", Value::Text(Cow::Borrowed(path)));
        field("protocol", Value::Text(Cow::Borrowed(protocol)));
    }
    field("status", Value::Json(Cow::Borrowed(status)));
    if bytes != "-" {
        bytes.parse::<u64>().ok()?;
        field("bytes", plain(bytes));
    }
    for name in ["referer", "agent"] {
        if rest.starts_with('"') {
            let (text, behind) = quoted(rest)?;
            field(name, Value::Text(text));
            rest = behind.trim_start();
        }
    }
    field("rest", Value::Text(Cow::Borrowed(rest)));
    Some(Record { ts: Some(ts), level: Some(Cow::Borrowed(level)), msg: Some(request.clone()), fields, ..Record::default() })
}

/// Ends the borrow of a local.
fn owned<'a>(value: Value<'_>) -> Value<'a> {
    match value {
        Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
        Value::Json(text) => Value::Json(Cow::Owned(text.into_owned())),
    }
}

/// As many columns as there are names; quotes as RFC 4180 has them.
pub(super) fn csv<'a>(text: &'a str, columns: &'a [String], separator: u8) -> Option<Record<'a>> {
    let mut record = Record::default();
    let mut rest = Some(text);
    for name in columns {
        let at = rest?;
        let (value, behind) = match at.strip_prefix('"') {
            Some(inner) => column(inner, separator)?,
            None => match memchr::memchr(separator, at.as_bytes()) {
                Some(end) => (Cow::Borrowed(&at[..end]), Some(&at[end + 1..])),
                None => (Cow::Borrowed(at), None),
            },
        };
        rest = behind;
        let value = match value {
            Cow::Borrowed(text) => plain(text),
            Cow::Owned(text) => Value::Text(Cow::Owned(text)),
        };
        record.put(Cow::Borrowed(name), value);
    }
    rest.is_none().then_some(record)
}

/// Behind the first quote, to the last, and what is behind the separator.
fn column(inner: &str, separator: u8) -> Option<(Cow<'_, str>, Option<&str>)> {
    let mut text = String::new();
    let mut rest = inner;
    loop {
        let end = memchr::memchr(b'"', rest.as_bytes())?;
        text.push_str(&rest[..end]);
        let behind = &rest[end + 1..];
        if let Some(more) = behind.strip_prefix('"') {
            text.push('"');
            rest = more;
        } else if behind.is_empty() {
            return Some((Cow::Owned(text), None));
        } else {
            return behind.strip_prefix(char::from(separator)).map(|behind| (Cow::Owned(text), Some(behind)));
        }
    }
}
