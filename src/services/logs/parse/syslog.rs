//! Syslog: RFC 5424 with its structured data, and RFC 3164 as programs write it, with or without a priority.
//!
//! Not a crate: those that are kept bring their own dates and many parsers of small parts, for two formats of a few words.

use std::borrow::Cow;

use super::plain;
use crate::services::logs::record::{Record, Value};
use crate::services::logs::time;

const SEVERITIES: [&str; 8] = ["fatal", "fatal", "fatal", "error", "warn", "info", "info", "debug"];
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp", "audit", "alert", "clock",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
/// Elements and parameters of structured data.
const DATA_MAX: usize = 256;

pub(super) fn parse<'a>(text: &'a str, now: &str) -> Option<Record<'a>> {
    let mut record = Record::default();
    let mut rest = text;
    let priority = text.strip_prefix('<').and_then(|behind| behind.split_once('>')).and_then(|(number, behind)| {
        let fits = number.len() <= 3 && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        Some((number.parse::<u8>().ok().filter(|number| fits && *number < 192)?, behind))
    });
    if let Some((number, behind)) = priority {
        record.level = Some(Cow::Borrowed(SEVERITIES[usize::from(number & 7)]));
        field(&mut record, "facility", FACILITIES[usize::from(number >> 3)]);
        rest = behind;
    }
    match rest.strip_prefix("1 ").filter(|_| priority.is_some()) {
        Some(rest) => modern(record, rest),
        None => old(record, rest, now, priority.is_some()),
    }
}

fn field<'a>(record: &mut Record<'a>, name: &'static str, text: &'a str) {
    if text != "-" && !text.is_empty() {
        record.fields.push((Cow::Borrowed(name), plain(text)));
    }
}

fn modern<'a>(mut record: Record<'a>, rest: &'a str) -> Option<Record<'a>> {
    let mut words = rest.splitn(6, ' ');
    let at = words.next()?;
    if at != "-" {
        record.ts = Some(time::time(at)?);
    }
    for name in ["host", "app", "pid", "msgid"] {
        field(&mut record, name, words.next()?);
    }
    let rest = words.next()?;
    let rest = match rest.strip_prefix('-') {
        Some(rest) => rest,
        None => data(&mut record, rest)?,
    };
    let msg = rest.strip_prefix(' ').unwrap_or(rest);
    record.msg = Some(Cow::Borrowed(msg.strip_prefix('\u{feff}').unwrap_or(msg)));
    Some(record)
}

/// `[id name="value" …][…]`: fields called `id.name`.
fn data<'a>(record: &mut Record<'a>, mut rest: &'a str) -> Option<&'a str> {
    let mut count = 0;
    while let Some(inner) = rest.strip_prefix('[') {
        let end = inner.find([' ', ']'])?;
        let id = &inner[..end];
        rest = &inner[end..];
        while let Some(parameter) = rest.strip_prefix(' ') {
            count += 1;
            if count > DATA_MAX {
                return None;
            }
            let (name, behind) = parameter.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = behind.char_indices();
            rest = loop {
                match chars.next()? {
                    (at, '"') => break &behind[at + 1..],
                    (_, '\\') => match chars.next()?.1 {
                        escaped @ ('"' | '\\' | ']') => value.push(escaped),
                        other => value.extend(['\\', other]),
                    },
                    (_, char) => value.push(char),
                }
            };
            record.fields.push((Cow::Owned(format!("{id}.{name}")), Value::Text(Cow::Owned(value))));
        }
        rest = rest.strip_prefix(']')?;
    }
    (rest.is_empty() || rest.starts_with(' ')).then_some(rest)
}

/// `Jan  2 03:04:05 host app[pid]: message`, where the time may be RFC 3339 and the host may be missing.
fn old<'a>(mut record: Record<'a>, text: &'a str, now: &str, has_priority: bool) -> Option<Record<'a>> {
    let short = text.get(..15).and_then(|at| Some((time::without_year(at, now)?, text.get(15..)?.strip_prefix(' ')?)));
    let long = || {
        let (at, rest) = text.split_once(' ')?;
        Some((time::time(at)?, rest))
    };
    let rest = match short.or_else(long) {
        Some((ts, rest)) => {
            record.ts = Some(ts);
            let (host, behind) = rest.split_once(' ').unwrap_or((rest, ""));
            if host.ends_with(':') {
                rest
            } else {
                field(&mut record, "host", host);
                behind
            }
        }
        // Without a time there has to be something else that says it is syslog.
        None if has_priority => text,
        None => return None,
    };
    let is_tag = |tag: &&str| !tag.is_empty() && tag.len() <= 64 && !tag.contains(' ');
    match rest.split_once(':').filter(|(tag, _)| is_tag(tag)) {
        Some((tag, msg)) => {
            match tag.strip_suffix(']').and_then(|tag| tag.split_once('[')) {
                Some((app, pid)) => {
                    field(&mut record, "app", app);
                    field(&mut record, "pid", pid);
                }
                None => field(&mut record, "app", tag),
            }
            record.msg = Some(Cow::Borrowed(msg.strip_prefix(' ').unwrap_or(msg)));
        }
        None => record.msg = Some(Cow::Borrowed(rest)),
    }
    Some(record)
}
