//! A place in JSON, or many: `/items/*/price` (RFC 6901, and `*` for any key or index).
//!
//! Names a place; looks at no JSON.

use crate::value::{Decode, Item, Reader, json_parts};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Of a text that begins with a slash.
    pub(super) fn of(text: &str) -> Self {
        Self(json_parts(text))
    }

    /// Whether this names the place `path`, or one above it.
    pub fn covers(&self, path: &[String]) -> bool {
        self.0.len() <= path.len() && self.0.iter().zip(path).all(|(pattern, part)| pattern == "*" || pattern == part)
    }

    /// Whether this names the place `path`.
    pub fn is(&self, path: &[String]) -> bool {
        self.0.len() == path.len() && self.covers(path)
    }
}

impl Decode for Pointer {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        if !text.starts_with('/') {
            let problem = if text.is_empty() {
                "an empty place is the whole body".to_owned()
            } else {
                format!("`{text}` does not begin with a slash")
            };
            reader.error(item.place, problem).help("write \"/timestamp\", or \"/items/*/price\" for every item's");
            return None;
        }
        Some(Self::of(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_part() {
        let pointer = Pointer::of("/items/*/price");
        let path = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
        assert!(pointer.is(&path("items/0/price")) && pointer.covers(&path("items/17/price/currency")));
        assert!(
            !pointer.is(&path("items/0/price/currency")) && !pointer.covers(&path("items/0")) && !pointer.covers(&path("item/0/price"))
        );
    }
}
