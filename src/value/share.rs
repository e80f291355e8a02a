//! `"10%" "0.5%"`.
//!
//! A share of requests or of endpoints, to a millionth; bare numbers are refused, since `0.5` could mean half.

use std::fmt;

use super::{Decode, Item, Reader, Value};

/// A part of a whole, in millionths: 0 to 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

const WHOLE: u32 = 1_000_000;

impl Share {
    /// `percent` is at most 100.
    pub const fn percent(percent: u32) -> Self {
        assert!(percent <= 100);
        Self(percent * 10_000)
    }

    /// Digits, perhaps a point and up to four more, and a per cent sign; at most 100 %.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_suffix('%')?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits(whole) || !are_digits(fraction) || fraction.len() > 4 {
            return None;
        }
        let whole: u32 = whole.parse().ok().filter(|&whole| whole <= 100)?;
        let fraction: u32 = format!("{fraction:0<4}").parse().ok()?;
        Some(Self(whole * 10_000 + fraction)).filter(|share| share.0 <= WHOLE)
    }

    pub fn millionths(self) -> u32 {
        self.0
    }

    /// Of one: 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    /// Whether `part` of `whole` is more than this share.
    pub fn is_below(self, part: u64, whole: u64) -> bool {
        u128::from(part) * u128::from(WHOLE) > u128::from(self.0) * u128::from(whole)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10_000.0)
    }
}

impl Decode for Share {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let help = "write a number from 0 to 100 with its sign, such as \"10%\" or \"0.5%\"";
        match &item.value {
            Value::String(text) => {
                let parsed = Self::parse(&text.value);
                if parsed.is_none() {
                    reader.error(item.place, format!("`{}` is not a share", text.value)).help(help);
                }
                parsed
            }
            Value::Integer(number) => {
                reader.error(item.place, "a share needs its sign").help(format!("write \"{number}%\""));
                None
            }
            _ => {
                reader.error(item.place, format!("expected a share, found {}", item.kind())).help(help);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_hundredths_with_up_to_four_digits_more() {
        for (text, millionths) in [("0%", 0), ("0.0001%", 1), ("0.5%", 5_000), ("10%", 100_000), ("99.9%", 999_000), ("100%", WHOLE)] {
            assert_eq!(Share::parse(text), Some(Share(millionths)), "{text}");
            assert_eq!(Share(millionths).to_string(), text);
        }
        for wrong in ["", "%", "10", "0.1", "-1%", "100.1%", "101%", "1.%", ".5%", "1.23456%", "1 %", "99999999999%"] {
            assert_eq!(Share::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_part_is_compared_exactly() {
        let half = Share::percent(50);
        assert!(!half.is_below(1, 2) && half.is_below(2, 3) && !half.is_below(0, 0));
    }
}
