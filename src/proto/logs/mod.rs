//! Lines of logs ↔ records: what is read of a line by the first parser that fits, and how it is written.
//!
//! Keeps nothing from one line to the next; `assemble` puts together what belongs together.

mod assemble;
mod frames;
mod json;
mod pattern;
mod record;
mod syslog;
mod time;
mod words;

use std::borrow::Cow;

pub use assemble::{Assembler, Entry, Group, Rules};
pub use frames::Frames;
pub use json::{edited, parse as json, plainly};
pub use pattern::{Grok, GrokError, Named};
pub use record::{OWN, Record, Value};
pub use syslog::write as write_syslog;
pub use time::level;

/// One after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsers(pub Vec<Parser>);

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

impl Parsers {
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
    /// One that has no settings.
    pub fn of_word(word: &str) -> Option<Self> {
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
    /// Gives fields other names. What is called `ts`, `level` or `msg` then is that, unless something is already.
    pub fn rename(&mut self, renamed: impl Fn(&str) -> Option<&'a str>) {
        for (name, value) in std::mem::take(&mut self.fields) {
            match renamed(&name) {
                Some(own @ ("ts" | "level" | "msg")) => self.put(Cow::Borrowed(own), value),
                Some(other) => self.fields.push((Cow::Borrowed(other), value)),
                None => self.fields.push((name, value)),
            }
        }
    }

    /// Puts a field where it belongs: the time, the level and the message have places of their own, which of several that may be one the
    /// first of these names has.
    fn put(&mut self, name: Cow<'a, str>, mut value: Value<'a>) {
        if let Some(rank) = rank(&TIMES, &name).filter(|rank| self.ts.is_none() || *rank < self.ranks[0]) {
            let read = match &value {
                Value::Text(Cow::Borrowed(text)) => time::time(text),
                Value::Text(Cow::Owned(text)) => time::time(text).map(|read| Cow::Owned(read.into_owned())),
                Value::Json(text) => time::epoch(text),
            };
            if let Some(read) = read {
                let (before, was) = (self.ts.replace(read), std::mem::replace(&mut self.ranks[0], rank));
                self.fields.extend(before.map(|before| (Cow::Borrowed(TIMES[was]), Value::Text(before))));
                return;
            }
        } else if let Some(rank) = rank(&LEVELS, &name).filter(|rank| self.level.is_none() || *rank < self.ranks[1]) {
            let level = match value {
                Value::Text(Cow::Borrowed(text)) => level(text),
                Value::Text(Cow::Owned(text)) => Cow::Owned(level(&text).into_owned()),
                Value::Json(text) => Cow::Owned(level(&text).into_owned()),
            };
            let (before, was) = (self.level.replace(level), std::mem::replace(&mut self.ranks[1], rank));
            self.fields.extend(before.map(|before| (Cow::Borrowed(LEVELS[was]), Value::Text(before))));
            return;
        } else if let (Some(rank), Value::Text(text)) =
            (rank(&MESSAGES, &name).filter(|rank| self.msg.is_none() || *rank < self.ranks[2]), &mut value)
        {
            let text = std::mem::take(text);
            let (before, was) = (self.msg.replace(text), std::mem::replace(&mut self.ranks[2], rank));
            self.fields.extend(before.map(|before| (Cow::Borrowed(MESSAGES[was]), Value::Text(before))));
            return;
        }
        self.fields.push((name, value));
    }
}

/// What the time, the level and the message of a line are called, the best name first.
const TIMES: [&str; 6] = ["ts", "time", "timestamp", "@timestamp", "t", "date"];
pub const LEVELS: [&str; 6] = ["level", "lvl", "severity", "loglevel", "log.level", "levelname"];
pub const MESSAGES: [&str; 5] = ["msg", "message", "event", "log", "body"];

fn rank(names: &[&str], name: &str) -> Option<usize> {
    names.iter().position(|known| *known == name)
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
