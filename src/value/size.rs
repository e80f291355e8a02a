//! `"512B" "64KiB" "1MiB"`.
//!
//! Powers of two only: `KB` is refused with the spelling that was probably meant.

use std::fmt;

use super::{Decode, Item, Reader, Value};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = text[..digits].parse().ok()?;
        let shift = match &text[digits..] {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return None,
        };
        let bytes = number.checked_mul(1 << shift)?;
        // Lengths are compared as i64 elsewhere; nobody needs half of all bytes there can be.
        i64::try_from(bytes).is_ok().then_some(Self(bytes))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl Decode for Size {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let help = "write a whole number with its unit, such as \"512B\", \"64KiB\" or \"1MiB\"";
        match &item.value {
            Value::String(text) => {
                let parsed = Self::parse(&text.value);
                if parsed.is_none() {
                    reader.error(item.place, format!("`{}` is not a size", text.value)).help(help);
                }
                parsed
            }
            Value::Integer(n) => {
                reader.error(item.place, "a size needs a unit").help(format!("write \"{n}B\" or \"{n}KiB\""));
                None
            }
            _ => {
                reader.error(item.place, format!("expected a size, found {}", item.kind())).help(help);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!(Size::parse("64KiB"), Some(Size::kib(64)));
        assert_eq!(Size::parse("0B"), Some(Size(0)));
        for wrong in ["", "64", "64KB", "64K", "1.5MiB", "-1B", "99999999999TiB"] {
            assert_eq!(Size::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_print_as_they_are_written() {
        for text in ["1B", "64KiB", "3MiB", "1GiB", "1025B"] {
            assert_eq!(Size::parse(text).map(|s| s.to_string()).as_deref(), Some(text));
        }
    }
}
