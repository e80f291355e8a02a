//! The words a configuration may contain, each of which parses itself.
//!
//! Nothing here knows what a word is used for, opens a file or fails on the first mistake: every
//! parser notes what is wrong in a [`Diagnostics`] and lets the rest go on.

mod address;
mod decode;
mod diagnostic;
mod document;
mod duration;
mod ear;
mod grace;
pub mod jq;
mod key;
mod label;
mod later;
mod login;
mod pattern;
mod place;
mod server;
mod share;
mod size;
mod template;
mod toggle;
mod url;

pub use address::{Address, EndpointAddress, Scheme, ServiceRef};
pub use decode::{Choice, Decode, Fields, Key, Reader, Whole, nearest, plain};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
#[cfg(test)]
pub use document::decoded;
pub use document::{Entry, Item, Table, Text, Value};
pub use duration::{DURATION_MAX, parse_duration};
pub use ear::{EarKey, EarKeys};
pub use grace::Grace;
pub use jq::Jq;
pub use key::{KeySource, Parameter, Query, RequestKey, json_parts};
pub use label::{Label, LabelText};
pub use later::is_later_word;
pub use login::Login;
pub use pattern::Pattern;
pub use place::{Included, Place, SourceId, SourceText, Sources, Spanned};
pub use server::{Server, ServerKind};
pub use share::Share;
pub use size::Size;
pub use template::{LeafTemplate, Lookup, Template, Variable};
pub use toggle::BodyLimit;
pub use url::Url;
