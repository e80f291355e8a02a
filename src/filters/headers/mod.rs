//! Sets, adds and removes header fields.
//!
//! Does not write messages: `serve` asks it about each field while it writes a head.

use indexmap::IndexMap;

use crate::proto::http1::Known;
use crate::route::{HeadLookup, is_token};
use crate::settings;
use crate::value::{Decode, Item, Reader, Spanned, Template};

settings! {
    /// Edits of a head. `remove` comes first, then `set`, then `add`.
    pub struct Settings as "header edits" {
        /// Replaces every field of that name, or adds one.
        set: IndexMap<Spanned<String>, Template> = IndexMap::new(),
        /// Adds a field and leaves others of that name alone.
        add: IndexMap<Spanned<String>, Vec<Template>> = IndexMap::new(),
        /// Removes every field of that name.
        remove: Vec<Name> = Vec::new(),
    }
}

/// The name of a field that may be edited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Spanned<String>);

impl Decode for Name {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        Spanned::<String>::decode(item, reader).map(Self)
    }
}

/// Fields that frame the message or belong to one connection: attache writes them itself, and an
/// edit of them would desynchronise somebody.
const OURS: &[&str] =
    &["connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// Compiled edits.
#[derive(Default)]
pub struct Edits {
    /// Names whose fields are not copied, lower case.
    dropped: Vec<Box<[u8]>>,
    /// The same, for the names that were recognised while parsing.
    dropped_known: u64,
    written: Vec<(Box<[u8]>, Template)>,
}

impl Edits {
    /// `None` if a name is wrong; every wrong name is in `reader` by then.
    pub fn compile(settings: &Settings, reader: &mut Reader<'_>) -> Option<Self> {
        let mut edits = Self::default();
        let mut clean = Some(());
        let names = settings.remove.iter().map(|name| &name.0).chain(settings.set.keys());
        for name in names.clone().chain(settings.add.keys()) {
            clean = clean.and(check_name(name, reader));
        }
        for name in names {
            edits.dropped.push(lower(name));
            edits.dropped_known |= 1 << Known::of(name.as_bytes()) as u8;
        }
        edits.written.extend(settings.set.iter().map(|(name, value)| (lower(name), value.clone())));
        for (name, values) in &settings.add {
            edits.written.extend(values.iter().map(|value| (lower(name), value.clone())));
        }
        clean.map(|()| edits)
    }

    pub fn is_empty(&self) -> bool {
        self.dropped.is_empty() && self.written.is_empty()
    }

    /// Whether a field that came in, or that attache adds by itself, must not be written.
    #[inline]
    pub fn drops(&self, known: Known, name: &[u8]) -> bool {
        if self.dropped.is_empty() {
            return false;
        }
        (self.dropped_known & (1 << known as u8) != 0 && self.dropped.iter().any(|dropped| dropped.eq_ignore_ascii_case(name)))
            || (known == Known::Other && name.contains(&b'_') && self.dropped.iter().any(|dropped| is_alias(name, dropped)))
    }

    /// Appends the fields that are set and added.
    pub fn write(&self, lookup: &HeadLookup<'_, '_>, out: &mut Vec<u8>) {
        for (name, value) in &self.written {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            value.write(lookup, out);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Whether programs that turn names into variables, as CGI does, take `name` for `ours`.
fn is_alias(name: &[u8], ours: &[u8]) -> bool {
    let is_like = |(theirs, ours): (&u8, &u8)| theirs.eq_ignore_ascii_case(ours) || (*theirs == b'_' && *ours == b'-');
    name.len() == ours.len() && name.iter().zip(ours).all(is_like)
}

fn lower(name: &str) -> Box<[u8]> {
    name.to_ascii_lowercase().into_bytes().into()
}

fn check_name(name: &Spanned<String>, reader: &mut Reader<'_>) -> Option<()> {
    if !is_token(name.as_bytes()) {
        reader.error(name.place, format!("`{}` is not a header's name", name.value));
        return None;
    }
    let lower = name.to_ascii_lowercase();
    if OURS.contains(&lower.as_str()) {
        let note = reader.error(name.place, format!("`{lower}` belongs to the connection and cannot be edited"));
        if lower == "host" {
            note.help("use rewrite = { host = \"…\" }");
        }
        return None;
    }
    Some(())
}
