//! Limits that may be switched off by a word.
//!
//! Only what several features share; a feature's own words live with the feature.

use super::{Decode, Item, Reader, Size, Value};

/// `"none"`, or the most bytes a body may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLimit {
    None,
    Bytes(u64),
}

impl BodyLimit {
    /// In bytes.
    pub fn most(self) -> u64 {
        match self {
            Self::None => u64::MAX,
            Self::Bytes(most) => most,
        }
    }
}

impl Decode for BodyLimit {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        match &item.value {
            Value::String(text) if text.value == "none" => Some(Self::None),
            _ => Size::decode(item, reader).map(|size| Self::Bytes(size.0)),
        }
    }
}
