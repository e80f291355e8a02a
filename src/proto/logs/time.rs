//! Times and levels as programs write them, made the same.
//!
//! Reads no clock: a time without a year is no time here, but for who knows the year.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

/// RFC 3339 of what reads as a time; one without a zone is taken for UTC.
pub fn time(text: &str) -> Option<Cow<'_, str>> {
    let text = text.trim();
    let bytes = text.as_bytes();
    if bytes.len() < 8 || bytes.len() > 40 || !bytes[0].is_ascii_digit() {
        return None;
    }
    if bytes.get(4) == Some(&b'-') {
        if let Ok(read) = text.parse::<Timestamp>() {
            // With `T` and a zone it is RFC 3339 already.
            return Some(if is_exact(bytes) { Cow::Borrowed(text) } else { Cow::Owned(read.to_string()) });
        }
        let comma = text.replace(',', ".");
        return of_utc(comma.parse::<DateTime>().ok()?);
    }
    if bytes.get(2) == Some(&b'/') {
        return Timestamp::strptime("%d/%b/%Y:%H:%M:%S %z", text).ok().map(|read| Cow::Owned(read.to_string()));
    }
    if bytes.get(4) == Some(&b'/') {
        let read = strtime::parse("%Y/%m/%d %H:%M:%S%.f", text).ok()?.to_datetime().ok()?;
        return of_utc(read);
    }
    epoch(text)
}

/// Whether it is as RFC 3339 has it, and not as only its kin do.
fn is_exact(bytes: &[u8]) -> bool {
    let fits = |bytes: &[u8], shape: &[u8]| {
        bytes.len() == shape.len()
            && bytes.iter().zip(shape).all(|(byte, want)| if *want == b'0' { byte.is_ascii_digit() } else { byte == want })
    };
    let Some((at, zone)) = bytes.split_at_checked(19) else { return false };
    let fraction = zone.iter().skip(1).take_while(|byte| byte.is_ascii_digit()).count();
    let zone = if zone.first() == Some(&b'.') && fraction > 0 { &zone[1 + fraction..] } else { zone };
    fits(at, b"0000-00-00T00:00:00") && (zone == b"Z" || fits(zone, b"+00:00") || fits(zone, b"-00:00"))
}

fn of_utc(read: DateTime) -> Option<Cow<'static, str>> {
    let read = read.to_zoned(TimeZone::UTC).ok()?;
    Some(Cow::Owned(read.timestamp().to_string()))
}

/// Seconds since 1970, with a fraction perhaps; milli-, micro- or nanoseconds where there are too many for that.
pub fn epoch(text: &str) -> Option<Cow<'static, str>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    // From 2001 to 2286 each unit has its number of digits.
    let unit = match whole.len() {
        10 => 1_000_000_000,
        13 => 1_000_000,
        16 => 1_000,
        19 => 1,
        _ => return None,
    };
    let number: i128 = whole.parse().ok()?;
    let parts: i128 = format!("{fraction:0<9.9}").parse().ok()?;
    let read = Timestamp::from_nanosecond(number * unit + parts * unit / 1_000_000_000).ok()?;
    Some(Cow::Owned(read.to_string()))
}

/// `Jan  2 03:04:05` of RFC 3164, in UTC. The year is the one that `now` (RFC 3339) is nearest to.
pub fn without_year(text: &str, now: &str) -> Option<Cow<'static, str>> {
    let year: i16 = now.get(..4)?.parse().ok()?;
    let now: Timestamp = now.parse().ok()?;
    let nearest = [year - 1, year, year + 1]
        .into_iter()
        .filter_map(|year| strtime::parse("%Y %b %d %H:%M:%S", format!("{year} {text}")).ok()?.to_datetime().ok())
        .filter_map(|read| Some(read.to_zoned(TimeZone::UTC).ok()?.timestamp()))
        .min_by_key(|read| read.duration_since(now).abs())?;
    Some(Cow::Owned(nearest.to_string()))
}

/// A level in the words that all use here; any other in lower case.
pub fn level(text: &str) -> Cow<'_, str> {
    const KNOWN: [(&str, &str); 26] = [
        ("trace", "trace"),
        ("t", "trace"),
        ("10", "trace"),
        ("debug", "debug"),
        ("d", "debug"),
        ("20", "debug"),
        ("info", "info"),
        ("i", "info"),
        ("30", "info"),
        ("notice", "info"),
        ("information", "info"),
        ("warn", "warn"),
        ("w", "warn"),
        ("40", "warn"),
        ("warning", "warn"),
        ("error", "error"),
        ("e", "error"),
        ("50", "error"),
        ("err", "error"),
        ("fatal", "fatal"),
        ("f", "fatal"),
        ("60", "fatal"),
        ("critical", "fatal"),
        ("crit", "fatal"),
        ("alert", "fatal"),
        ("emerg", "fatal"),
    ];
    match KNOWN.iter().find(|(known, _)| known.eq_ignore_ascii_case(text)) {
        Some((_, word)) => Cow::Borrowed(word),
        None if text.eq_ignore_ascii_case("panic") => Cow::Borrowed("fatal"),
        None if text.bytes().any(|byte| byte.is_ascii_uppercase()) => Cow::Owned(text.to_ascii_lowercase()),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_many_kinds_are_one() {
        for (written, meant) in [
            ("2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05.123456789Z"),
            ("2026-01-02T03:04:05+01:00", "2026-01-02T03:04:05+01:00"),
            ("2026-01-02 03:04:05,123", "2026-01-02T03:04:05.123Z"),
            ("2026-01-02 03:04:05", "2026-01-02T03:04:05Z"),
            ("2026-01-02 03:04:05+01:00", "2026-01-02T02:04:05Z"),
            ("2026-01-02T03:04:05+0100", "2026-01-02T02:04:05Z"),
            ("2026-01-02T03:04:05,123Z", "2026-01-02T03:04:05.123Z"),
            ("2026-01-02T03Z", "2026-01-02T03:00:00Z"),
            ("2026/01/02 03:04:05", "2026-01-02T03:04:05Z"),
            ("10/Oct/2000:13:55:36 -0700", "2000-10-10T20:55:36Z"),
            ("1767323045", "2026-01-02T03:04:05Z"),
            ("1767323045.25", "2026-01-02T03:04:05.25Z"),
            ("1767323045123", "2026-01-02T03:04:05.123Z"),
            ("1767323045123456789", "2026-01-02T03:04:05.123456789Z"),
        ] {
            assert_eq!(time(written).as_deref(), Some(meant), "{written}");
        }
        for other in [
            "",
            "now",
            "12345",
            "2026-13-02T03:04:05Z",
            "10/Foo/2000:13:55:36 -0700",
            "99999999999999999999999999",
            "1767323045.1.2",
            "é026-01-02",
        ] {
            assert_eq!(time(other), None, "{other}");
        }
    }

    #[test]
    fn a_time_without_a_year_is_near() {
        let at = |text: &str, now: &str| without_year(text, now).map(Cow::into_owned);
        assert_eq!(at("Dec 31 23:59:59", "2026-01-01T00:00:05Z").as_deref(), Some("2025-12-31T23:59:59Z"));
        assert_eq!(at("Jan  2 03:04:05", "2026-01-02T03:04:06Z").as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(at("Foo  2 03:04:05", "2026-01-02T03:04:06Z"), None);
    }

    #[test]
    fn levels_are_six_words() {
        for (written, meant) in
            [("WARNING", "warn"), ("Err", "error"), ("I", "info"), ("50", "error"), ("panic", "fatal"), ("Verbose", "verbose")]
        {
            assert_eq!(level(written), meant);
        }
    }
}
