//! What the operator calls something: a listener, a route, an endpoint.
//!
//! Two of one name are not noticed here; whoever keeps the names does.

use super::{Decode, Item, Reader, Spanned};

/// What something is called in logs and metrics.
pub type Label = Spanned<LabelText>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelText(pub String);

impl Decode for LabelText {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let problem = if text.is_empty() {
            "a name cannot be empty"
        } else if text.chars().any(char::is_control) {
            "a name cannot hold control characters"
        } else {
            return Some(Self(text));
        };
        reader.error(item.place, problem).help("write a short word, or remove the key for the default");
        None
    }
}
