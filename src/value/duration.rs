//! `"250ms" "10s" "5m" "1h"`.
//!
//! Whole numbers with exactly one unit: `1.5h` or `1h30m` would need a rule to remember.

use std::time::Duration;

use super::{Decode, Item, Reader, Value};

/// Longest accepted duration. Deadlines are added to clock readings, which must not overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Parses a number and one of `us ms s m h d`; `None` if it is anything else or over a year.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok()?;
    let duration = match &text[digits..] {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        "d" => Duration::from_secs(number.checked_mul(24 * 3600)?),
        _ => return None,
    };
    (duration <= LONGEST).then_some(duration)
}

impl Decode for Duration {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let help = "write a whole number with its unit, such as \"250ms\", \"10s\", \"5m\" or \"1h\"";
        match &item.value {
            Value::String(text) => {
                let parsed = parse_duration(&text.value);
                if parsed.is_none() {
                    reader.error(item.place, format!("`{}` is not a duration", text.value)).help(help);
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
