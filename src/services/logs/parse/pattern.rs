//! Lines that a regex fits, or a grok pattern, which becomes one.
//!
//! Linear in the length of a line, whatever is written: no look-around, no references back.

use std::borrow::Cow;
use std::fmt::Write as _;

use indexmap::IndexMap;
use regex::Regex;

use super::plain;
use crate::services::logs::record::Record;
use crate::services::logs::settings::Word;
use crate::value::Pattern;

/// A regex with names.
#[derive(Clone, Debug)]
pub struct Named {
    written: String,
    regex: Regex,
    /// Of each group that has one.
    names: Vec<(usize, String)>,
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written && self.names == other.names && self.regex.as_str() == other.regex.as_str()
    }
}

const EXPANSIONS_MAX: usize = 1000;

impl Named {
    pub(super) fn regex(text: &str) -> Result<Self, String> {
        let Pattern(regex) = Pattern::parse(text)?;
        let names: Vec<(usize, String)> = regex.capture_names().enumerate().filter_map(|(at, name)| Some((at, name?.to_owned()))).collect();
        if names.is_empty() {
            return Err("no group of this regex has a name".to_owned());
        }
        Ok(Self { written: text.to_owned(), regex, names })
    }

    /// `%{PATTERN:field}`, from the patterns that everybody knows and `own`.
    pub(super) fn grok(text: &str, own: &IndexMap<Word, String>) -> Result<Self, String> {
        let mut names = Vec::new();
        let mut left = EXPANSIONS_MAX;
        let expanded = expand(text, own, 0, &mut left, &mut names)?;
        let Pattern(regex) = Pattern::parse(&expanded)?;
        let groups: Vec<(usize, String)> = regex
            .capture_names()
            .enumerate()
            .filter_map(|(at, name)| {
                let name = name?;
                let number = name.strip_prefix("g_").and_then(|number| number.parse::<usize>().ok());
                Some((at, number.and_then(|number| names.get(number).cloned()).unwrap_or_else(|| name.to_owned())))
            })
            .collect();
        if groups.is_empty() {
            return Err("nothing in this pattern has a name".to_owned());
        }
        Ok(Self { written: text.to_owned(), regex, names: groups })
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

fn expand(text: &str, own: &IndexMap<Word, String>, depth: usize, left: &mut usize, names: &mut Vec<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("%{") {
        out.push_str(&rest[..at]);
        let (inside, behind) = rest[at + 2..].split_once('}').ok_or("a `%{` has no `}`")?;
        rest = behind;
        let mut parts = inside.split(':');
        let (pattern, field) = (parts.next().unwrap_or_default(), parts.next());
        *left = left.checked_sub(1).filter(|_| depth < 20).ok_or_else(|| format!("`{pattern}` is made of itself, or of too much"))?;
        let Some(meaning) = own.get(pattern).map(String::as_str).or_else(|| known(pattern)) else {
            let all = own.keys().map(|name| name.0.as_str()).chain(KNOWN.iter().map(|(name, _)| *name));
            let help = crate::value::nearest(pattern, all).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            return Err(format!("there is no pattern `{pattern}`{help}"));
        };
        let meaning = expand(meaning, own, depth + 1, left, names)?;
        if let Some(field) = field {
            let _ = write!(out, "(?<g_{}>{meaning})", names.len());
            names.push(field.to_owned());
        } else {
            let _ = write!(out, "(?:{meaning})");
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn known(name: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| *known == name).map(|(_, meaning)| *meaning)
}

/// The names that Logstash made common, meaning what its manual says, written without look-around.
pub(super) const KNOWN: [(&str, &str); 52] = [
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
