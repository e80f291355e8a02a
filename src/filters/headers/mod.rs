//! Sets, adds and removes header fields.
//!
//! Does not write messages: `serve` asks it about each field while it writes a head.

use indexmap::IndexMap;

use crate::proto::http1::{Known, is_token};
use crate::settings;
use crate::value::{Decode, Item, Key, Lookup, Reader, Spanned, Template};

settings! {
    /// Edits of a head. `remove` comes first, then `set`, then `add`.
    pub struct Settings as "header edits" {
        /// Replaces every field of that name, or adds one.
        set: IndexMap<Name, Template> = IndexMap::new(),
        /// Adds a field and leaves others of that name alone.
        add: IndexMap<Name, Vec<Template>> = IndexMap::new(),
        /// Removes every field of that name.
        remove: Vec<Name> = Vec::new(),
    }
}

/// The name of a field that may be edited, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(String);

impl Key for Name {
    fn read(name: Spanned<String>, reader: &mut Reader<'_>) -> Option<Self> {
        check_name(&name, reader)?;
        Some(Self(name.value.to_ascii_lowercase()))
    }
}

impl Decode for Name {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let name = Spanned::<String>::decode(item, reader)?;
        Self::read(name, reader)
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
    pub fn compile(settings: &Settings) -> Self {
        let add = settings.add.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value.clone())));
        Self::of(&settings.remove, settings.set.iter().map(|(name, value)| (name, value.clone())), add)
    }

    /// `remove` comes first, then `set`, then `add`.
    pub fn of<'n>(
        remove: &'n [Name],
        set: impl Iterator<Item = (&'n Name, Template)>,
        add: impl Iterator<Item = (&'n Name, Template)>,
    ) -> Self {
        let mut edits = Self::default();
        for Name(name) in remove {
            edits.drop(name);
        }
        for (Name(name), value) in set {
            edits.drop(name);
            edits.written.push((name.as_bytes().into(), value));
        }
        edits.written.extend(add.map(|(Name(name), value)| (name.as_bytes().into(), value)));
        edits
    }

    /// Fields that are not copied from anybody, edited, and `more`, each a line.
    pub fn all<N: AsRef<str>>(&self, fields: &[(N, String)], lookup: &impl Lookup, more: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields {
            let name = name.as_ref().as_bytes();
            if !self.drops(Known::of(name), name) {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(value.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
        self.write(lookup, &mut out);
        out.extend_from_slice(more);
        out
    }

    fn drop(&mut self, name: &str) {
        self.dropped.push(name.as_bytes().into());
        self.dropped_known |= 1 << Known::of(name.as_bytes()) as u8;
    }

    /// Names of fields that are taken away, those included that are written anew.
    pub fn dropped(&self) -> impl Iterator<Item = String> {
        self.dropped.iter().map(|name| String::from_utf8_lossy(name).into_owned())
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
    pub fn write(&self, lookup: &impl Lookup, out: &mut Vec<u8>) {
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

fn check_name(name: &Spanned<String>, reader: &mut Reader<'_>) -> Option<()> {
    if !is_token(name.as_bytes()) {
        reader.error(name.place, format!("`{}` is not a header's name", name.value)).help("use letters, digits and `-`");
        return None;
    }
    let lower = name.to_ascii_lowercase();
    if OURS.contains(&lower.as_str()) {
        let note = reader.error(name.place, format!("`{lower}` belongs to the connection and cannot be edited"));
        note.help(if lower == "host" { "use rewrite = { host = \"…\" }" } else { "remove it; attache writes it as the message needs" });
        return None;
    }
    Some(())
}
