//! A regex, as it is written where lines and names are matched.
//!
//! Says in a line what is wrong with one; routes have paths of their own, which are no such values.

use regex::Regex;

use super::{Decode, Item, Reader};

/// Equal to another one that is written alike.
#[derive(Clone, Debug)]
pub struct Pattern(pub Regex);

impl Pattern {
    /// # Errors
    ///
    /// What is wrong with it, without the drawing of where.
    pub fn parse(text: &str) -> Result<Self, String> {
        Regex::new(text).map(Self).map_err(|error| {
            let error = error.to_string();
            format!("this is no regex: {}", error.lines().last().unwrap_or_default().trim_start_matches("error: "))
        })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Decode for Pattern {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        reader.accept(Self::parse(&text), item.place, "write one such as '^\\d{4}-'")
    }
}
