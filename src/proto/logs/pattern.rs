//! Lines that a regex fits, or a grok pattern, which becomes one.
//!
//! Linear in the length of a line, whatever is written: no look-around, no references back. Compiles no regex: who does can say what is wrong with it.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use regex::Regex;

use super::{Record, plain};

/// A regex with names.
#[derive(Clone, Debug)]
pub struct Named {
    regex: Regex,
    /// Of each group that has one.
    names: Vec<(usize, String)>,
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names && self.regex.as_str() == other.regex.as_str()
    }
}

/// A grok pattern as a regex, and what its groups are called.
#[derive(Debug)]
pub struct Grok {
    pub regex: String,
    names: Vec<String>,
}

/// Why something is no grok pattern.
#[derive(Debug, PartialEq, Eq)]
pub enum GrokError {
    Unclosed,
    /// Nobody knows a pattern of this name.
    Unknown(String),
    /// This pattern is made of itself, or of too much.
    TooDeep(String),
}

impl fmt::Display for GrokError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed => f.write_str("a `%{` has no `}`"),
            Self::Unknown(name) => write!(f, "there is no pattern `{name}`"),
            Self::TooDeep(name) => write!(f, "`{name}` is made of itself, or of too much"),
        }
    }
}

const EXPANSIONS_MAX: usize = 1000;
const DEPTH_MAX: usize = 20;

impl Grok {
    /// `%{PATTERN:field}`, from the patterns that everybody knows and `own`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn expand<'o>(text: &str, own: impl Fn(&str) -> Option<&'o str>) -> Result<Self, GrokError> {
        let mut expansion = Expansion { own, left: EXPANSIONS_MAX, names: Vec::new() };
        let regex = expansion.of(text, 0)?;
        Ok(Self { regex, names: expansion.names })
    }

    /// Names of the patterns that everybody knows.
    pub fn known() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, _)| *name)
    }
}

impl Named {
    /// By the names of its groups; `None` if none has one.
    pub fn regex(regex: Regex) -> Option<Self> {
        Self::of(regex, str::to_owned)
    }

    /// `regex` is that of `grok`, compiled.
    pub fn grok(grok: &Grok, regex: Regex) -> Option<Self> {
        Self::of(regex, |name| {
            let number = name.strip_prefix("g_").and_then(|number| number.parse::<usize>().ok());
            number.and_then(|number| grok.names.get(number).cloned()).unwrap_or_else(|| name.to_owned())
        })
    }

    fn of(regex: Regex, called: impl Fn(&str) -> String) -> Option<Self> {
        let names: Vec<(usize, String)> = regex.capture_names().enumerate().filter_map(|(at, name)| Some((at, called(name?)))).collect();
        (!names.is_empty()).then_some(Self { regex, names })
    }

    pub(super) fn parse<'a>(&'a self, text: &'a str) -> Option<Record<'a>> {
        let found = self.regex.captures(text)?;
        let mut record = Record::default();
        for (at, name) in &self.names {
            if let Some(value) = found.get(*at) {
                let value = value.as_str();
                record.put(Cow::Borrowed(name), plain(value));
            }
        }
        if record.msg.is_none() {
            record.msg = Some(Cow::Borrowed(text));
        }
        Some(record)
    }
}

struct Expansion<F> {
    own: F,
    left: usize,
    names: Vec<String>,
}

impl<'o, F: Fn(&str) -> Option<&'o str>> Expansion<F> {
    fn of(&mut self, text: &str, depth: usize) -> Result<String, GrokError> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("%{") {
            out.push_str(&rest[..at]);
            let (inside, behind) = rest[at + 2..].split_once('}').ok_or(GrokError::Unclosed)?;
            rest = behind;
            let mut parts = inside.split(':');
            let (pattern, field) = (parts.next().unwrap_or_default(), parts.next());
            self.left = self.left.checked_sub(1).filter(|_| depth < DEPTH_MAX).ok_or_else(|| GrokError::TooDeep(pattern.to_owned()))?;
            let Some(meaning) = (self.own)(pattern).or_else(|| known(pattern)) else {
                return Err(GrokError::Unknown(pattern.to_owned()));
            };
            let meaning = self.of(meaning, depth + 1)?;
            if let Some(field) = field {
                let _ = write!(out, "(?<g_{}>{meaning})", self.names.len());
                self.names.push(field.to_owned());
            } else {
                let _ = write!(out, "(?:{meaning})");
            }
        }
        out.push_str(rest);
        Ok(out)
    }
}

fn known(name: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| *known == name).map(|(_, meaning)| *meaning)
}

/// The names that Logstash made common, meaning what its manual says, written without look-around.
const KNOWN: [(&str, &str); 52] = [
    ("USERNAME", r"[a-zA-Z0-9._-]+"),
    ("USER", "%{USERNAME}"),
    ("EMAILADDRESS", r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~.-]+@%{HOSTNAME}"),
    ("INT", r"[+-]?[0-9]+"),
    ("POSINT", r"\b[1-9][0-9]*\b"),
    ("NONNEGINT", r"\b[0-9]+\b"),
    ("BASE10NUM", r"[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"),
    ("NUMBER", "%{BASE10NUM}"),
    ("BASE16NUM", r"[+-]?(?:0x)?[0-9A-Fa-f]+"),
    ("WORD", r"\b\w+\b"),
    ("NOTSPACE", r"\S+"),
    ("SPACE", r"\s*"),
    ("DATA", r".*?"),
    ("GREEDYDATA", r".*"),
    ("QUOTEDSTRING", r#""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"#),
    ("QS", "%{QUOTEDSTRING}"),
    ("UUID", r"[A-Fa-f0-9]{8}-(?:[A-Fa-f0-9]{4}-){3}[A-Fa-f0-9]{12}"),
    ("MAC", r"(?:[A-Fa-f0-9]{2}[:-]){5}[A-Fa-f0-9]{2}"),
    ("IPV6", r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%\w+)?"),
    ("IPV4", r"(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})\.){3}(?:25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})"),
    ("IP", "(?:%{IPV6}|%{IPV4})"),
    ("HOSTNAME", r"\b[0-9A-Za-z][0-9A-Za-z-]{0,62}(?:\.[0-9A-Za-z][0-9A-Za-z-]{0,62})*\.?"),
    ("HOST", "%{HOSTNAME}"),
    ("IPORHOST", "(?:%{IP}|%{HOSTNAME})"),
    ("HOSTPORT", "%{IPORHOST}:%{POSINT}"),
    ("PATH", "(?:%{UNIXPATH}|%{WINPATH})"),
    ("UNIXPATH", r"(?:/[\w_%!$@:.,+~-]*)+"),
    ("WINPATH", r"(?:[A-Za-z]+:|\\)(?:\\[^\\?*]*)+"),
    ("URIPROTO", r"[A-Za-z][A-Za-z0-9+.-]+"),
    ("URIHOST", "%{IPORHOST}(?::%{POSINT})?"),
    ("URIPATH", r"(?:/[A-Za-z0-9$.+!*'(){},~:;=@#%&_-]*)+"),
    ("URIPARAM", r"\?[A-Za-z0-9$.+!*'|(){},~@#%&/=:;_?\[\]<>-]*"),
    ("URIPATHPARAM", "%{URIPATH}(?:%{URIPARAM})?"),
    ("URI", "%{URIPROTO}://(?:%{USER}(?::[^@]*)?@)?(?:%{URIHOST})?(?:%{URIPATHPARAM})?"),
    ("MONTH", r"\b(?:[Jj]an|[Ff]eb|[Mm]ar|[Aa]pr|[Mm]ay|[Jj]un|[Jj]ul|[Aa]ug|[Ss]ep|[Oo]ct|[Nn]ov|[Dd]ec)[a-z]*\b"),
    ("MONTHNUM", r"(?:0?[1-9]|1[0-2])"),
    ("MONTHDAY", r"(?:0[1-9]|[12][0-9]|3[01]|[1-9])"),
    ("DAY", r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"),
    ("YEAR", r"[0-9]{4}|[0-9]{2}"),
    ("HOUR", r"(?:2[0123]|[01]?[0-9])"),
    ("MINUTE", r"[0-5][0-9]"),
    ("SECOND", r"(?:[0-5]?[0-9]|60)(?:[:.,][0-9]+)?"),
    ("TIME", "%{HOUR}:%{MINUTE}(?::%{SECOND})"),
    ("ISO8601_TIMEZONE", r"(?:Z|[+-]%{HOUR}(?::?%{MINUTE}))"),
    ("TIMESTAMP_ISO8601", "%{YEAR}-%{MONTHNUM}-%{MONTHDAY}[T ]%{HOUR}:?%{MINUTE}(?::?%{SECOND})?%{ISO8601_TIMEZONE}?"),
    ("HTTPDATE", "%{MONTHDAY}/%{MONTH}/%{YEAR}:%{TIME} %{INT}"),
    ("SYSLOGTIMESTAMP", "%{MONTH} +%{MONTHDAY} %{TIME}"),
    ("PROG", r"[\x21-\x5a\x5c\x5e-\x7e]+"),
    ("SYSLOGPROG", r"%{PROG:program}(?:\[%{POSINT:pid}\])?"),
    ("LOGLEVEL", r"(?i:alert|trace|debug|notice|info(?:rmation)?|warn(?:ing)?|err(?:or)?|crit(?:ical)?|fatal|severe|emerg(?:ency)?)"),
    (
        "COMMONAPACHELOG",
        r#"%{IPORHOST:clientip} %{NOTSPACE:ident} %{NOTSPACE:auth} \[%{HTTPDATE:timestamp}\] "(?:%{WORD:verb} %{NOTSPACE:request}(?: HTTP/%{NUMBER:httpversion})?|%{DATA:rawrequest})" %{NUMBER:response} (?:%{NUMBER:bytes}|-)"#,
    ),
    ("COMBINEDAPACHELOG", r"%{COMMONAPACHELOG} %{QS:referrer} %{QS:agent}"),
];
