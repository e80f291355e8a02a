//! Settings that are durations: timeouts, and times that may be none at all.
//!
//! How one is spelled, `duration` knows.

use std::time::Duration;

use super::duration::shape;
use super::{Decode, Item, Reader, Value, parse_duration};

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
