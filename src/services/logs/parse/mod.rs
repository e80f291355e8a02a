//! What is read of a line: the first parser that fits.
//!
//! Keeps nothing from one line to the next; `assemble` puts together what belongs together.

mod json;
mod pattern;
mod syslog;
mod words;

use std::borrow::Cow;

use indexmap::IndexMap;

use super::record::{Record, Value};
use super::settings::Word;
use super::time;
use crate::value::{self, Decode, Fields, Item, Reader, nearest};
pub use json::parse as json;
use pattern::Named;

/// One after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsers(Vec<Parser>);

/// How a line is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Parser {
    /// All of it is `msg`.
    Text,
    Json,
    Logfmt,
    Combined,
    Syslog,
    Envelope(Envelope),
    Pattern(Named),
    /// Names of columns, and what is between them.
    Csv(Vec<String>, u8),
}

/// What a container runtime wraps lines in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    Cri,
    Docker,
}

/// A line without its envelope.
pub struct Peeled<'a> {
    pub text: Cow<'a, str>,
    pub ts: Option<Cow<'a, str>>,
    pub stream: Cow<'a, str>,
    /// More of it follows in the next line of the stream.
    pub is_partial: bool,
}

const WORDS: [&str; 7] = ["json", "logfmt", "combined", "syslog", "cri", "docker", "text"];
const TABLES: value::Choice<'_> = value::Choice {
    kinds: &["regex", "grok", "csv"],
    rule: "a parser is one thing, this is",
    missing: "nothing says how lines are read",
    example: "regex = '^(?<level>\\w+) (?<msg>.*)$'",
};
const PARSERS_MAX: usize = 32;

impl Decode for Parser {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if let value::Value::String(_) = &item.value {
            let text = String::decode(item, reader)?;
            return Self::of_word(&text).or_else(|| {
                let near = nearest(&text, WORDS);
                let help = near.map_or_else(|| format!("one of {}", WORDS.join(", ")), |word| format!("did you mean \"{word}\"?"));
                reader.error(item.place, format!("`{}` is no parser", text.escape_debug())).help(help);
                None
            });
        }
        let mut fields = Fields::of(item, "a parser", reader)?;
        let place = fields.place();
        let kinds = TABLES.take(&mut fields);
        let patterns = fields.take("patterns");
        let separator = fields.take("separator");
        fields.finish(reader)?;
        let (kind, entry) = TABLES.only(&kinds, place, reader)?;
        for (key, written, wanted) in [("patterns", patterns, "grok"), ("separator", separator, "csv")] {
            if let Some(entry) = written.filter(|_| kind != wanted) {
                reader.error(entry.key_place, format!("`{key}` is for `{wanted}`, this is `{kind}`")).help("remove it");
                return None;
            }
        }
        match kind {
            "regex" => {
                let text = String::decode(&entry.item, reader)?;
                reader.accept(Named::regex(&text), entry.item.place, "write one such as '^(?<level>\\w+) (?<msg>.*)$'").map(Self::Pattern)
            }
            "grok" => {
                let text = String::decode(&entry.item, reader)?;
                let own = patterns.map_or(Some(IndexMap::new()), |entry| IndexMap::<Word, String>::decode(&entry.item, reader))?;
                reader
                    .accept(Named::grok(&text, &own), entry.item.place, "write one such as \"%{IP:client} %{WORD:method}\"")
                    .map(Self::Pattern)
            }
            _ => {
                let columns = Vec::<String>::decode(&entry.item, reader)?;
                let separator = separator.map_or(Some(",".to_owned()), |entry| String::decode(&entry.item, reader))?;
                let &[separator] = separator.as_bytes() else {
                    reader.error(place, "a separator is one character of ASCII").help("write separator = \";\"");
                    return None;
                };
                if columns.is_empty() || columns.iter().any(String::is_empty) {
                    reader.error(entry.item.place, "every column needs a name").help("write csv = [\"ts\", \"level\", \"msg\"]");
                    return None;
                }
                Some(Self::Csv(columns, separator))
            }
        }
    }
}

impl Decode for Parsers {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let parsers = match &item.value {
            value::Value::Array(items) => {
                let parsers: Vec<Option<Parser>> = items.iter().map(|item| Parser::decode(item, reader)).collect();
                parsers.into_iter().collect::<Option<Vec<_>>>()?
            }
            _ => vec![Parser::decode(item, reader)?],
        };
        if parsers.is_empty() || parsers.len() > PARSERS_MAX {
            reader
                .error(item.place, format!("a list of parsers has 1 to {PARSERS_MAX}, this has {}", parsers.len()))
                .help("write parse = \"json\"");
            return None;
        }
        if parsers.iter().skip(1).any(|parser| matches!(parser, Parser::Envelope(_))) {
            reader.error(item.place, "what lines are wrapped in comes first").help("write parse = [\"cri\", \"json\"]");
            return None;
        }
        Some(Self(parsers))
    }
}

impl Parsers {
    /// One that has no settings.
    pub fn of_word(word: &str) -> Option<Self> {
        Parser::of_word(word).map(|parser| Self(vec![parser]))
    }

    pub fn raw() -> Self {
        Self(vec![Parser::Text])
    }

    /// What lines are wrapped in.
    pub fn envelope(&self) -> Option<Envelope> {
        match self.0.first() {
            Some(Parser::Envelope(envelope)) => Some(*envelope),
            _ => None,
        }
    }

    /// `None` if none of them fits. `now` is when it arrived (RFC 3339), for times without a year.
    pub fn parse<'a>(&'a self, text: &'a str, now: &str) -> Option<Record<'a>> {
        self.0.iter().find_map(|parser| parser.parse(text, now))
    }

    /// What was in an envelope, by the parsers behind it; a line's own time is better than that of the envelope.
    pub fn parse_within<'a>(&'a self, text: &'a str, ts: Option<&'a str>, stream: &'a str, now: &str) -> Option<Record<'a>> {
        let inner = self.0.get(1..).unwrap_or_default();
        let mut record = if inner.is_empty() {
            Record { msg: Some(Cow::Borrowed(text)), ..Record::default() }
        } else {
            inner.iter().find_map(|parser| parser.parse(text, now))?
        };
        if record.ts.is_none() {
            record.ts = ts.and_then(time::time);
        }
        if !stream.is_empty() {
            record.fields.push((Cow::Borrowed("stream"), Value::Text(Cow::Borrowed(stream))));
        }
        Some(record)
    }
}

impl Parser {
    fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "json" => Self::Json,
            "logfmt" => Self::Logfmt,
            "combined" | "common" => Self::Combined,
            "syslog" => Self::Syslog,
            "cri" => Self::Envelope(Envelope::Cri),
            "docker" => Self::Envelope(Envelope::Docker),
            "text" => Self::Text,
            _ => return None,
        })
    }

    fn parse<'a>(&'a self, text: &'a str, now: &str) -> Option<Record<'a>> {
        match self {
            Self::Text | Self::Envelope(_) => Some(Record { msg: Some(Cow::Borrowed(text)), ..Record::default() }),
            Self::Json => json::parse(text),
            Self::Logfmt => words::logfmt(text),
            Self::Combined => words::combined(text),
            Self::Syslog => syslog::parse(text, now),
            Self::Pattern(named) => named.parse(text),
            Self::Csv(columns, separator) => words::csv(text, columns, *separator),
        }
    }
}

impl Envelope {
    pub fn peel(self, line: &str) -> Option<Peeled<'_>> {
        match self {
            Self::Cri => {
                let mut words = line.splitn(4, ' ');
                let (ts, stream, tags) = (words.next()?, words.next()?, words.next()?);
                let text = words.next().unwrap_or_default();
                let is_partial = match tags.split(':').next()? {
                    "P" => true,
                    "F" => false,
                    _ => return None,
                };
                time::time(ts)?;
                Some(Peeled { text: text.into(), ts: Some(ts.into()), stream: stream.into(), is_partial })
            }
            Self::Docker => json::docker(line),
        }
    }
}

impl<'a> Record<'a> {
    /// Puts a field where it belongs: the time, the level and the message have places of their own.
    fn put(&mut self, name: Cow<'a, str>, value: Value<'a>) {
        match &*name {
            "ts" | "time" | "timestamp" | "@timestamp" | "t" | "date" if self.ts.is_none() => {
                let read = match &value {
                    Value::Text(Cow::Borrowed(text)) => time::time(text),
                    Value::Text(Cow::Owned(text)) => time::time(text).map(|read| Cow::Owned(read.into_owned())),
                    Value::Json(text) => time::epoch(text),
                };
                if let Some(read) = read {
                    self.ts = Some(read);
                    return;
                }
            }
            "level" | "lvl" | "severity" | "loglevel" | "log.level" | "levelname" if self.level.is_none() => {
                match value {
                    Value::Text(Cow::Borrowed(text)) => self.level = Some(time::level(text)),
                    Value::Text(Cow::Owned(text)) => self.level = Some(Cow::Owned(time::level(&text).into_owned())),
                    Value::Json(text) => self.level = Some(Cow::Owned(time::level(&text).into_owned())),
                }
                return;
            }
            "msg" | "message" | "event" | "log" | "body" if self.msg.is_none() => {
                if let Value::Text(text) = value {
                    self.msg = Some(text);
                    return;
                }
            }
            _ => {}
        }
        self.fields.push((name, value));
    }
}

/// A number as JSON has it, kept as it is written; anything else is text.
fn plain(text: &str) -> Value<'_> {
    if is_number(text) { Value::Json(Cow::Borrowed(text)) } else { Value::Text(Cow::Borrowed(text)) }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits(whole) && are_digits(fraction) && (whole == "0" || !whole.starts_with('0')) && text.len() <= 32
}

#[cfg(test)]
mod tests;
