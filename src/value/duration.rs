//! `"250ms" "10s" "5m" "1h"`.
//!
//! Whole numbers with exactly one unit: `1.5h` or `1h30m` would need a rule to remember. Only text: `grace` reads settings, and
//! the fuzz crate takes this file in without the others.

use std::time::Duration;

/// Longest accepted duration. Deadlines are added to clock readings, which must not overflow.
pub const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Parses a number and one of `us ms s m h d`; `None` if it is anything else or over a year.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = shape(text)?;
    let number: u64 = digits.parse().ok()?;
    let duration = match unit {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        "d" => Duration::from_secs(number.checked_mul(24 * 3600)?),
        _ => return None,
    };
    (duration <= DURATION_MAX).then_some(duration)
}

/// Digits and a unit, however long a time that is.
pub(super) fn shape(text: &str) -> Option<(&str, &str)> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - unit.len()];
    (!digits.is_empty() && ["us", "ms", "s", "m", "h", "d"].contains(&unit)).then_some((digits, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_one_unit() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("5m"), Some(Duration::from_secs(300)));
        for wrong in ["", "5", "s", "1.5s", "-1s", "1h30m", "5 s", "99999999999999999999s", "366d"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
