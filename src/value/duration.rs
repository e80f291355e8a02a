//! `"250ms" "10s" "5m" "1h"`.
//!
//! Whole numbers with exactly one unit: `1.5h` or `1h30m` would need a rule to remember.

use std::time::Duration;

use super::{Decode, Item, Reader, Value};

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
fn shape(text: &str) -> Option<(&str, &str)> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - unit.len()];
    (!digits.is_empty() && ["us", "ms", "s", "m", "h", "d"].contains(&unit)).then_some((digits, unit))
}

/// A timeout: `"0s"` would end everything it bounds before it begins, and nobody means that.
impl Decode for Duration {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let duration = Grace::decode(item, reader)?.0;
        if duration.is_zero() {
            reader
                .error(item.place, "a timeout of nothing lets nothing happen")
                .help("write a longer one, or remove the key for the default");
            return None;
        }
        Some(duration)
    }
}

/// A time that may be none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace(pub Duration);

impl Decode for Grace {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let help = "write a whole number with its unit, such as \"250ms\", \"10s\", \"5m\" or \"1h\"";
        match &item.value {
            Value::String(text) => {
                let parsed = parse_duration(&text.value).map(Self);
                if parsed.is_none() {
                    let is_long = shape(&text.value).is_some();
                    let problem = if is_long { "is longer than a year" } else { "is not a duration" };
                    reader.error(item.place, format!("`{}` {problem}", text.value)).help(if is_long {
                        "write at most \"365d\""
                    } else {
                        help
                    });
                }
                parsed
            }
            Value::Integer(n) => {
                reader
                    .error(item.place, "a duration needs a unit")
                    .help(format!("write \"{n}s\" for seconds or \"{n}ms\" for milliseconds"));
                None
            }
            _ => {
                reader.error(item.place, format!("expected a duration, found {}", item.kind())).help(help);
                None
            }
        }
    }
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
