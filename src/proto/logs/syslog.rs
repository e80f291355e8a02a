//! Syslog: RFC 5424 with its structured data, and RFC 3164 as programs write it, with or without a priority. Written is RFC 5424.
//!
//! Not a crate: those that are kept bring their own dates and many parsers of small parts, for two formats of a few words.

use std::borrow::Cow;
use std::io::Write as _;

use jiff::Timestamp;

use super::{Record, Value, json, plain, time};

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

/// Of what nobody says a facility of; RFC 5424, 6.2.1.
const USER: usize = 1;
/// Of what nobody says a level of, as `syslog(3)` has it.
const NOTICE: usize = 5;
/// The longest words of a header; RFC 5424, 6.
const HOST_BYTES_MAX: usize = 255;
const APP_BYTES_MAX: usize = 48;
const PID_BYTES_MAX: usize = 128;

/// A record of ours, which is JSON, as a message of RFC 5424: the whole of it, behind a header of what it says; `host` and `app`
/// are for what it does not say. No structured data: its names would need a number of ours.
pub fn write(record: &str, host: &str, app: &str, out: &mut Vec<u8>) {
    let record = record.trim_end();
    let read = json::parse(record).unwrap_or_default();
    let field = |wanted: &str| {
        read.fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| match value {
            Value::Text(text) | Value::Json(text) => &**text,
        })
    };
    let facility = field("facility").and_then(|word| FACILITIES.iter().position(|known| *known == word)).unwrap_or(USER);
    let severity = match read.level.as_deref() {
        Some("fatal") => 2,
        Some("error") => 3,
        Some("warn") => 4,
        Some("info") => 6,
        Some("debug" | "trace") => 7,
        _ => NOTICE,
    };
    // No more than microseconds.
    let at = read.ts.as_deref().and_then(|ts| Timestamp::from_microsecond(ts.parse::<Timestamp>().ok()?.as_microsecond()).ok());
    let at = at.map(|at| at.to_string()).filter(|at| at.starts_with(|c: char| c.is_ascii_digit())).unwrap_or_else(|| "-".to_owned());
    // A vector takes whatever is written.
    let _ = write!(out, "<{}>1 {at}", facility * 8 + severity);
    word(field("host").unwrap_or(host), HOST_BYTES_MAX, out);
    word(field("app").unwrap_or(app), APP_BYTES_MAX, out);
    word(field("pid").unwrap_or_default(), PID_BYTES_MAX, out);
    out.extend_from_slice(b" - - ");
    out.extend_from_slice(record.as_bytes());
}

/// Of a header: visible characters of ASCII.
fn word(text: &str, bytes_max: usize, out: &mut Vec<u8>) {
    out.push(b' ');
    let start = out.len();
    out.extend(text.bytes().take(bytes_max).map(|byte| if byte.is_ascii_graphic() { byte } else { b'_' }));
    if out.len() == start {
        out.push(b'-');
    }
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

#[cfg(test)]
mod tests {
    use super::write;

    #[track_caller]
    fn check(record: &str, header: &str) {
        let mut out = Vec::new();
        write(&format!("{record}\n"), "box", "a log", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{header} - - {record}"));
    }

    #[test]
    fn a_record_is_a_message() {
        check(
            r#"{"ts":"2026-01-02T03:04:05.123456789Z","level":"error","msg":"a","source":"s"}"#,
            "<11>1 2026-01-02T03:04:05.123456Z box a_log -",
        );
        check(
            r#"{"ts":"2026-01-02T03:04:05+01:00","msg":"a","source":"s","facility":"mail","host":"h é","app":"","pid":12}"#,
            "<21>1 2026-01-02T02:04:05Z h___ - 12",
        );
        check("no record", "<13>1 - box a_log -");
    }
}
