//! `x-request-timeout`: how long a client will wait for the whole of an answer.
//!
//! Reads the value and no more: that it only ever shortens a route's own time is the exchange's business.

use std::time::Duration;

use crate::value::{DURATION_MAX, parse_duration};

/// As it is compared, without case.
pub const NAME: &[u8] = b"x-request-timeout";

/// Digits behind the point that mean something: those of a nanosecond.
const FRACTION_DIGITS: usize = 9;

/// `250ms`, as durations are written in the configuration, or seconds in decimal: `2`, `1.5`. `None` if it is something
/// else, no time at all, or over a year: a client that asks for that has not thought of us.
pub fn parse(value: &[u8]) -> Option<Duration> {
    let text = str::from_utf8(value).ok()?;
    let timeout = parse_duration(text).or_else(|| decimal_seconds(text))?;
    (!timeout.is_zero() && timeout <= DURATION_MAX).then_some(timeout)
}

fn decimal_seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !fraction.is_none_or(is_number) {
        return None;
    }
    let digits = fraction.unwrap_or_default().bytes().chain(std::iter::repeat(b'0')).take(FRACTION_DIGITS);
    let nanoseconds = digits.fold(0, |count, digit| count * 10 + u32::from(digit - b'0'));
    Some(Duration::new(whole.parse().ok()?, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: u64 = 365 * 24 * 3600;

    #[track_caller]
    fn check(text: &str, wanted: Option<Duration>) {
        assert_eq!(parse(text.as_bytes()), wanted, "{text:?}");
    }

    #[test]
    fn a_time_has_a_unit_or_is_seconds() {
        check("250ms", Some(Duration::from_millis(250)));
        check("2s", Some(Duration::from_secs(2)));
        check("5m", Some(Duration::from_secs(300)));
        check("1us", Some(Duration::from_micros(1)));
        check("2", Some(Duration::from_secs(2)));
        check("1.5", Some(Duration::from_millis(1500)));
        check("0.25", Some(Duration::from_millis(250)));
        check("007.50", Some(Duration::from_millis(7500)));
    }

    #[test]
    fn anything_else_is_no_time() {
        for text in
            ["", " ", ".", ".5", "1.", "1..5", "1.5s", "1,5", "-1", "+1", "1e3", "0x1", "inf", "NaN", "s", "1 s", " 1", "1S", "1h30m", "٣"]
        {
            check(text, None);
        }
        assert_eq!(parse(b"\xff1"), None);
    }

    #[test]
    fn no_time_at_all_is_none() {
        for text in ["0", "0.0", "0s", "0ms", "0.0000000009"] {
            check(text, None);
        }
        check("0.000000001", Some(Duration::from_nanos(1)));
        check("0.0000000019", Some(Duration::from_nanos(1)));
    }

    #[test]
    fn a_year_is_the_longest() {
        check("365d", Some(Duration::from_secs(YEAR)));
        check("366d", None);
        check(&YEAR.to_string(), Some(Duration::from_secs(YEAR)));
        check(&format!("{YEAR}.0"), Some(Duration::from_secs(YEAR)));
        check(&format!("{YEAR}.000000001"), None);
        check(&(YEAR + 1).to_string(), None);
        check("99999999999999999999", None);
        check("18446744073709551615.999999999", None);
    }
}
