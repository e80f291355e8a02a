//! What was read of a line, and how it is written: one JSON object with stable names.
//!
//! Borrows from the line; nothing nested is taken apart, it is moved as it came.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write as _;

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Text(Cow<'a, str>),
    /// The text of one JSON value that is no string.
    Json(Cow<'a, str>),
}

/// What was read of a line, or of several that belong together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record<'a> {
    /// RFC 3339.
    pub ts: Option<Cow<'a, str>>,
    /// `trace` `debug` `info` `warn` `error` `fatal`, or as it was written, in lower case.
    pub level: Option<Cow<'a, str>>,
    pub msg: Option<Cow<'a, str>>,
    pub fields: Vec<(Cow<'a, str>, Value<'a>)>,
    /// Of the names that the first three were read from, the place among those they may have.
    pub ranks: [usize; 3],
}

/// So many fields are looked through one by one.
const FIELDS_FEW: usize = 32;

/// What `source` and the others are called; nothing else has these names in what is written.
pub const OWN: [&str; 4] = ["ts", "level", "msg", "source"];

impl Record<'_> {
    /// One JSON object and a line end: `ts`, `level`, `msg` and `source` first. `arrived` is for lines that say no time.
    pub fn write(&self, source: &str, arrived: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ts\":");
        text(self.ts.as_deref().unwrap_or(arrived), out);
        if let Some(level) = &self.level {
            out.extend_from_slice(b",\"level\":");
            text(level, out);
        }
        if let Some(msg) = &self.msg {
            out.extend_from_slice(b",\"msg\":");
            text(msg, out);
        }
        out.extend_from_slice(b",\"source\":");
        text(source, out);
        // Of two of one name the last counts.
        let last: Option<HashMap<&str, usize>> =
            (self.fields.len() > FIELDS_FEW).then(|| self.fields.iter().enumerate().map(|(at, (name, _))| (&**name, at)).collect());
        let is_taken = |name: &str| match &last {
            Some(last) => last.contains_key(name),
            None => self.fields.iter().any(|(taken, _)| taken == name),
        };
        for (at, (name, value)) in self.fields.iter().enumerate() {
            let comes_again = match &last {
                Some(last) => last.get(&**name).is_some_and(|last| *last > at),
                None => self.fields[at + 1..].iter().any(|(later, _)| later == name),
            };
            if comes_again {
                continue;
            }
            out.push(b',');
            if OWN.contains(&&**name) {
                let mut other = format!("{name}_");
                while is_taken(&other) {
                    other.push('_');
                }
                text(&other, out);
            } else {
                text(name, out);
            }
            out.push(b':');
            match value {
                Value::Text(value) => text(value, out),
                Value::Json(value) => out.extend_from_slice(value.as_bytes()),
            }
        }
        out.extend_from_slice(b"}\n");
    }
}

/// Bytes that are looked at together.
const PIECE_BYTES: usize = 32;

/// A JSON string.
fn text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let is_plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    let (mut plain, mut at) = (0, 0);
    while at < bytes.len() {
        // Many at once, without a branch for each, while nothing has to be escaped.
        if let Some(piece) = bytes.get(at..at + PIECE_BYTES)
            && piece.iter().map(|byte| u8::from(!is_plain(*byte))).sum::<u8>() == 0
        {
            at += PIECE_BYTES;
            continue;
        }
        let byte = &bytes[at];
        at += 1;
        if is_plain(*byte) {
            continue;
        }
        let at = at - 1;
        out.extend_from_slice(&bytes[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => {
                // A vector takes whatever is written.
                let _ = write!(out, "\\u{byte:04x}");
            }
        }
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<'a>(name: &'a str, json: &'a str) -> (Cow<'a, str>, Value<'a>) {
        (name.into(), Value::Json(json.into()))
    }

    #[test]
    fn a_record_has_each_name_once() {
        let fields = vec![field("a", "1"), field("source", "2"), field("source_", "3"), field("a", "4")];
        let record = Record { msg: Some("x\"\u{1}é".into()), fields, ..Record::default() };
        let mut out = Vec::new();
        record.write("app", "2026-01-02T03:04:05Z", &mut out);
        let line = "{\"ts\":\"2026-01-02T03:04:05Z\",\"msg\":\"x\\\"\\u0001é\",\"source\":\"app\",\"source__\":2,\"source_\":3,\"a\":4}\n";
        assert_eq!(String::from_utf8(out).unwrap(), line);
    }
}
