//! From document to settings: typed reading that reports every mistake in one pass.
//!
//! Does not stop at an error and does not invent values: a field that cannot be read makes its
//! whole settings `None`, while its neighbours are still read for their own mistakes.

use std::collections::HashSet;
use std::hash::Hash;
use std::path::PathBuf;

use indexmap::IndexMap;

use super::later::is_later;
use super::{Diagnostic, Diagnostics, Entry, Item, Place, Sources, Spanned, Table, Value};

/// What a parser needs beside the item itself.
pub struct Reader<'a> {
    pub sources: &'a Sources,
    pub found: &'a mut Diagnostics,
    /// Every service that was mentioned by name, to be looked up when all are known.
    pub service_names: Vec<Spanned<String>>,
}

impl<'a> Reader<'a> {
    pub fn new(sources: &'a Sources, found: &'a mut Diagnostics) -> Self {
        Self { sources, found, service_names: Vec::new() }
    }

    pub fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Diagnostic {
        self.found.error(place, message)
    }

    pub fn warn(&mut self, place: Place, message: impl Into<String>) -> &mut Diagnostic {
        self.found.warn(place, message)
    }

    /// The value of a parse, or a note of why there is none.
    pub fn accept<T>(&mut self, parsed: Result<T, String>, place: Place, help: &str) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(reason) => {
                self.error(place, reason).help(help);
                None
            }
        }
    }

    fn expected(&mut self, what: &str, item: &Item) -> &mut Diagnostic {
        self.error(item.place, format!("expected {what}, found {}", item.kind()))
    }
}

/// Something that can be read from a document. `None` means the reason is already in `found`.
pub trait Decode: Sized {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self>;
}

/// The keys of one table while they are being read. [`Fields::finish`] reports what nobody asked for.
pub struct Fields<'i> {
    table: &'i Table,
    place: Place,
    asked: Vec<&'static str>,
    taken: HashSet<&'i str>,
    missing: Vec<&'static str>,
}

impl<'i> Fields<'i> {
    /// `None` and an error if `item` is not a table. `what` names it: "a pool", "a listener".
    pub fn of(item: &'i Item, what: &str, reader: &mut Reader<'_>) -> Option<Self> {
        if let Value::Table(table) = &item.value {
            Some(Self::table(table, item.place))
        } else {
            reader.expected(&format!("{what} in a table"), item);
            None
        }
    }

    pub fn table(table: &'i Table, place: Place) -> Self {
        Self { table, place, asked: Vec::new(), taken: HashSet::new(), missing: Vec::new() }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// The entry of a key, which from now on counts as known.
    pub fn take(&mut self, key: &'static str) -> Option<&'i Entry> {
        self.asked.push(key);
        let (name, entry) = self.table.entries.get_key_value(key)?;
        self.taken.insert(name);
        Some(entry)
    }

    /// Outer `None`: present but wrong, already reported. Inner `None`: absent.
    pub fn optional<T: Decode>(&mut self, key: &'static str, reader: &mut Reader<'_>) -> Option<Option<T>> {
        match self.take(key) {
            Some(entry) => T::decode(&entry.item, reader).map(Some),
            None => Some(None),
        }
    }

    pub fn or<T: Decode>(&mut self, key: &'static str, default: T, reader: &mut Reader<'_>) -> Option<T> {
        self.optional(key, reader).map(|value| value.unwrap_or(default))
    }

    pub fn required<T: Decode>(&mut self, key: &'static str, reader: &mut Reader<'_>) -> Option<T> {
        let value = self.optional(key, reader)?;
        if value.is_none() {
            self.missing.push(key);
        }
        value
    }

    /// Reports every key that was not asked for, with the nearest one that was, and every required one that is not there.
    pub fn finish(self, reader: &mut Reader<'_>) -> Option<()> {
        let mut clean = Some(());
        // A key that is there but misspelt, or one that does its work in a later version, is one mistake and not two.
        let mut is_explained = false;
        for (name, entry) in &self.table.entries {
            if self.taken.contains(name.as_str()) {
                continue;
            }
            clean = None;
            if is_later(name, &self.asked) {
                is_explained = true;
                reader.error(entry.key_place, format!("`{name}` is not supported by this version")).help("remove it");
                continue;
            }
            let note = reader.error(entry.key_place, format!("unknown key `{name}`"));
            match nearest(name, self.asked.iter().copied()) {
                Some(known) => {
                    is_explained |= self.missing.contains(&known);
                    note.help(format!("did you mean `{known}`?"));
                }
                None => {
                    note.help(format!("known keys here: {}", quoted(&self.asked)));
                }
            }
        }
        if !self.missing.is_empty() {
            clean = None;
        }
        for key in self.missing.iter().filter(|_| !is_explained) {
            reader.error(self.place, format!("missing key `{key}`")).help(format!("write {key} = … here"));
        }
        clean
    }
}

/// The candidate a typing mistake away from `word`, if any is.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word = word.to_ascii_lowercase();
    let word = word.as_str();
    let allowed = 1 + word.chars().count() / 4;
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|&(distance, candidate)| {
            distance <= allowed || (word.len() >= 3 && (candidate.starts_with(word) || word.starts_with(candidate)))
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

impl Decode for String {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if let Value::String(text) = &item.value {
            return Some(text.value.clone());
        }
        let note = reader.expected("a string", item);
        match &item.value {
            Value::Integer(number) => note.help(format!("put it between quotes: \"{number}\"")),
            Value::Float(_) | Value::Bool(_) | Value::Datetime(_) => note.help("put it between quotes"),
            Value::Array(_) => note.help("write one string, without brackets"),
            _ => note,
        };
        None
    }
}

impl Decode for bool {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if let Value::Bool(value) = &item.value {
            return Some(*value);
        }
        reader.expected("true or false", item).help("written without quotes");
        None
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> Decode for Whole<MIN, MAX> {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Integer(number) = item.value else {
            reader.expected("a whole number", item).help("write digits alone, without quotes or a decimal point");
            return None;
        };
        let fits = u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number));
        if fits.is_none() {
            reader.error(item.place, format!("{number} is out of range")).help(format!("{MIN} to {MAX}"));
        }
        fits.map(Self)
    }
}

/// A path, relative to the file that names it.
impl Decode for PathBuf {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        if text.is_empty() {
            reader.error(item.place, "a path cannot be empty");
            return None;
        }
        Some(reader.sources.directory(item.place.source).join(text))
    }
}

impl<T: Decode> Decode for Spanned<T> {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        T::decode(item, reader).map(|value| Spanned::new(value, item.place))
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        T::decode(item, reader).map(Some)
    }
}

/// A list; one value alone stands for a list of one.
impl<T: Decode> Decode for Vec<T> {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Array(items) = &item.value else {
            return T::decode(item, reader).map(|one| vec![one]);
        };
        let read: Vec<Option<T>> = items.iter().map(|item| T::decode(item, reader)).collect();
        read.into_iter().collect()
    }
}

/// Keys of which a table has one, which says what it is.
pub struct Choice<'c> {
    pub kinds: &'c [&'static str],
    /// Of a table with two: "a check asks one thing, this has".
    pub rule: &'c str,
    /// Of a table with none.
    pub missing: &'c str,
    /// One that is written.
    pub example: &'c str,
}

impl Choice<'_> {
    /// Those that are written.
    pub fn take<'i>(&self, fields: &mut Fields<'i>) -> Vec<(&'static str, &'i Entry)> {
        self.kinds.iter().filter_map(|&kind| Some((kind, fields.take(kind)?))).collect()
    }

    /// The one that is.
    pub fn only<'i>(
        &self,
        written: &[(&'static str, &'i Entry)],
        place: Place,
        reader: &mut Reader<'_>,
    ) -> Option<(&'static str, &'i Entry)> {
        match written {
            [kind] => return Some(*kind),
            [] => {
                let help = format!("write one of `{}`, such as {}", self.kinds.join("`, `"), self.example);
                reader.error(place, self.missing).help(help);
            }
            [(first, earlier), (second, later), ..] => {
                reader.error(later.key_place, format!("{} `{first}` and `{second}`", self.rule)).related(earlier.key_place, "the first");
            }
        }
        None
    }
}

/// A key that is the operator's own name for something.
pub trait Key: Sized + Eq + Hash {
    /// `None` means the reason is already in `found`.
    fn read(name: Spanned<String>, reader: &mut Reader<'_>) -> Option<Self>;
}

impl Key for Spanned<String> {
    fn read(name: Spanned<String>, _: &mut Reader<'_>) -> Option<Self> {
        Some(name)
    }
}

/// A table whose keys are the operator's own names.
impl<K: Key, T: Decode> Decode for IndexMap<K, T> {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Table(table) = &item.value else {
            reader.expected("a table", item).help("write { name = … }");
            return None;
        };
        let mut whole = Some(IndexMap::new());
        for (name, entry) in &table.entries {
            let key = K::read(Spanned::new(name.clone(), entry.key_place), reader);
            let value = T::decode(&entry.item, reader);
            match (&mut whole, key, value) {
                (Some(map), Some(key), Some(value)) => {
                    // TOML knows nothing of names that are the same in another case.
                    if map.insert(key, value).is_some() {
                        reader.error(entry.key_place, format!("`{name}` is set twice")).help("keep one of them");
                        whole = None;
                    }
                }
                _ => whole = None,
            }
        }
        whole
    }
}

/// A field's name as it is written in the configuration: Rust marks those that are its own words.
pub fn plain(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// Declares a table of settings: its struct, its reading, its defaults.
///
/// A field without a default is required. The docs of each field are the manual.
#[macro_export]
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $name:ident as $what:literal {
            $( $(#[$field_meta:meta])* $field:ident : $type:ty $(= $default:expr)? ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $type, )* }

        impl $crate::value::Decode for $name {
            fn decode(item: &$crate::value::Item, reader: &mut $crate::value::Reader<'_>) -> Option<Self> {
                let mut fields = $crate::value::Fields::of(item, $what, reader)?;
                $( let $field: Option<$type> = $crate::settings!(@read fields reader $field $($default)?); )*
                let complete = fields.finish(reader);
                complete?;
                Some(Self { $( $field: $field?, )* })
            }
        }
    };
    // Keeps what reads well and puts defaults elsewhere, so that the rest can be looked at further. For parts of a `File`,
    // which is not whole then and never serves.
    (
        $(#[$meta:meta])*
        pub struct $name:ident as $what:literal or its parts {
            $( $(#[$field_meta:meta])* $field:ident : $type:ty $(= $default:expr)? ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $type, )* }

        impl $crate::value::Decode for $name {
            fn decode(item: &$crate::value::Item, reader: &mut $crate::value::Reader<'_>) -> Option<Self> {
                let mut fields = $crate::value::Fields::of(item, $what, reader)?;
                $( let $field: Option<$type> = $crate::settings!(@read fields reader $field $($default)?); )*
                let _ = fields.finish(reader);
                Some(Self { $( $field: $crate::settings!(@part $field $($default)?), )* })
            }
        }
    };
    (@part $field:ident $default:expr) => {
        $field.unwrap_or($default)
    };
    (@part $field:ident) => {
        $field?
    };
    (@read $fields:ident $reader:ident $field:ident $default:expr) => {
        $fields.or($crate::value::plain(stringify!($field)), $default, $reader)
    };
    (@read $fields:ident $reader:ident $field:ident) => {
        $fields.required($crate::value::plain(stringify!($field)), $reader)
    };
}

/// Declares a closed set of words: `"off" | "require"`.
#[macro_export]
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident as $what:literal { $( $(#[$variant_meta:meta])* $variant:ident = $word:literal ),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[$variant_meta])* $variant, )* }

        impl $name {
            /// As it is written in the configuration.
            pub fn word(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }

        impl $crate::value::Decode for $name {
            fn decode(item: &$crate::value::Item, reader: &mut $crate::value::Reader<'_>) -> Option<Self> {
                let text = <String as $crate::value::Decode>::decode(item, reader)?;
                match text.as_str() {
                    $( $word => Some(Self::$variant), )*
                    _ => {
                        let known = [$( $word ),*];
                        if $crate::value::is_later_word(&text, &known) {
                            let note = reader.error(item.place, format!("\"{text}\" is not supported by this version"));
                            note.help(format!("write \"{}\"", known.join("\" or \"")));
                            return None;
                        }
                        let note = reader.error(item.place, format!("`{text}` is not {}", $what));
                        match $crate::value::nearest(&text, known) {
                            Some(word) => note.help(format!("did you mean \"{word}\"?")),
                            None => note.help(format!("one of \"{}\"", known.join("\", \""))),
                        };
                        None
                    }
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typing_mistake_finds_its_word() {
        let known = ["listen", "service", "timeouts", "limits"];
        assert_eq!(nearest("lisen", known), Some("listen"));
        assert_eq!(nearest("timeout", known), Some("timeouts"));
        assert_eq!(nearest("srevice", known), Some("service"));
        assert_eq!(nearest("colour", known), None);
    }
}
