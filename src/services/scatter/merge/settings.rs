//! A merge as it is written: a word, or a table with one key for those with options.
//!
//! Merges nothing.

use indexmap::IndexMap;

use crate::value::{Decode, Entry, Item, Reader, Spanned, Value, Whole, json_parts, nearest};
use crate::{settings, words};

/// How answers become one.
#[derive(Clone, Debug, PartialEq)]
pub enum Merge {
    First,
    /// Arrays, one behind the other; where they are, and where they come to be.
    Concat(Place),
    /// Objects, one in the other.
    Object(OnConflict),
    /// An object with each leaf's answer under its name.
    Keyed,
    /// Numbers of all, made one: everywhere in objects, or in these places only.
    Fold(Fold, Vec<Place>),
    /// Means of numbers.
    Mean(Mean),
    Union(Set),
    Intersect(Set),
    Topk(Topk),
    /// What most say.
    Quorum,
    Ndjson,
    Multipart,
    Prometheus,
    Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    Sum,
    Min,
    Max,
}

/// A place in a document, from its root: keys of objects. Empty for the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place(pub Vec<String>);

impl Decode for Place {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        if text.is_empty() {
            return Some(Self::default());
        }
        if !text.starts_with('/') {
            reader.error(item.place, format!("`{text}` does not begin with a slash")).help("write \"/hits\", or \"/data/items\"");
            return None;
        }
        Some(Self(json_parts(&text)))
    }
}

words! {
    /// What becomes of a key that two leaves have.
    pub enum OnConflict as "what becomes of a conflict" {
        /// The later leaf has failed.
        Error = "error",
        First = "first",
        Last = "last",
        Array = "array",
    }
}

settings! {
    /// Members of sets.
    pub struct Set as "a set" {
        /// Where the arrays are.
        at: Place = Place::default(),
        /// What members are the same by; by default, all of them.
        by: Option<Place> = None,
    }
}

settings! {
    /// Means of what leaves have.
    pub struct Mean as "a mean" {
        /// Where the numbers are.
        at: Vec<Place>,
        /// How much a leaf's numbers count: of how many they are the mean already. Default: those of all leaves as much.
        by: Option<Place> = None,
    }
}

settings! {
    /// The best of all.
    pub struct Topk as "the best of all" {
        /// Where the arrays are.
        at: Place = Place::default(),
        /// What rows are ordered by: `"/score desc"`, or a list.
        sort: Order,
        /// How many rows the answer has.
        k: Count = Count::Fixed(10),
        /// How many are left out before them.
        offset: Count = Count::Fixed(0),
    }
}

/// A number, or a parameter of the query that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Count {
    Fixed(usize),
    Query(String),
}

/// More rows than that are no page.
pub const COUNT_MAX: usize = 100_000;

impl Decode for Count {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(item.value, Value::Integer(_)) {
            return Whole::<0, { COUNT_MAX as u32 }>::decode(item, reader).map(|count| Self::Fixed(count.0 as usize));
        }
        let text = String::decode(item, reader)?;
        let name = text.strip_prefix("query:").filter(|name| !name.is_empty());
        if name.is_none() {
            reader.error(item.place, format!("`{text}` is no count")).help("write 10, or \"query:size\" for what the query says");
        }
        name.map(|name| Self::Query(name.to_owned()))
    }
}

/// By which places rows are ordered, the first one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order(pub Vec<By>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    pub place: Place,
    pub is_descending: bool,
}

impl Decode for Order {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let texts = if matches!(item.value, Value::Array(_)) {
            Vec::<Spanned<String>>::decode(item, reader)?
        } else {
            vec![Spanned::<String>::decode(item, reader)?]
        };
        let help = "write \"/score desc\", or [\"/score desc\", \"/id\"]";
        if texts.is_empty() {
            reader.error(item.place, "rows have no order").help(help);
            return None;
        }
        let mut order = Vec::with_capacity(texts.len());
        for text in texts {
            let (place, direction) = text.value.trim().split_once(' ').unwrap_or((text.value.trim(), "asc"));
            let is_descending = match direction.trim() {
                "asc" => false,
                "desc" => true,
                other => {
                    reader.error(text.place, format!("`{other}` is neither `asc` nor `desc`")).help(help);
                    return None;
                }
            };
            if !place.starts_with('/') {
                reader.error(text.place, format!("`{place}` does not begin with a slash")).help(help);
                return None;
            }
            order.push(By { place: Place(json_parts(place)), is_descending });
        }
        Some(Self(order))
    }
}

settings! {
    pub struct ObjectOptions as "options of `object`" {
        on_conflict: OnConflict = OnConflict::Error,
    }
}

const WORDS: [&str; 15] = [
    "concat",
    "object",
    "keyed",
    "sum",
    "min",
    "max",
    "avg",
    "union",
    "intersect",
    "topk",
    "first",
    "quorum",
    "ndjson",
    "multipart",
    "prometheus",
];
const LAST: &str = "bytes";

impl Decode for Merge {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let nothing = Item { value: Value::Table(crate::value::Table::default()), place: item.place };
        let (word, place, options): (String, _, Option<&Item>) = match &item.value {
            Value::Table(table) if table.entries.len() == 1 => {
                let entries: &IndexMap<String, Entry> = &table.entries;
                let (word, entry) = entries.first()?;
                (word.clone(), entry.key_place, Some(&entry.item))
            }
            Value::Table(_) => {
                reader.error(item.place, "a merge with options is a table with one key").help("write merge = { concat = \"/hits\" }");
                return None;
            }
            _ => (String::decode(item, reader)?, item.place, None),
        };
        let bare = |merge: Self, reader: &mut Reader<'_>| match options {
            None => Some(merge),
            Some(options) => {
                reader.error(options.place, format!("`{word}` takes no options")).help(format!("write merge = \"{word}\""));
                None
            }
        };
        let set = |reader: &mut Reader<'_>| match options {
            Some(Item { value: Value::String(_), .. }) => Place::decode(options.unwrap_or(&nothing), reader).map(|at| Set { at, by: None }),
            options => Set::decode(options.unwrap_or(&nothing), reader),
        };
        let fold = |fold: Fold, reader: &mut Reader<'_>| {
            let places = match options {
                None => Vec::new(),
                Some(item @ Item { value: Value::Array(_), .. }) => Vec::<Place>::decode(item, reader)?,
                Some(item) => vec![Place::decode(item, reader)?],
            };
            Some(Self::Fold(fold, places))
        };
        match word.as_str() {
            "concat" => match options {
                None => Some(Self::Concat(Place::default())),
                Some(options) => Place::decode(options, reader).map(Self::Concat),
            },
            "object" => ObjectOptions::decode(options.unwrap_or(&nothing), reader).map(|options| Self::Object(options.on_conflict)),
            "sum" => fold(Fold::Sum, reader),
            "min" => fold(Fold::Min, reader),
            "max" => fold(Fold::Max, reader),
            "avg" => match options {
                None => {
                    reader
                        .error(place, "`avg` needs to know of what")
                        .help("write merge = { avg = \"/mean\" }, or { avg = { at = \"/mean\", by = \"/count\" } }");
                    None
                }
                Some(item @ Item { value: Value::Table(_), .. }) => Mean::decode(item, reader).map(Self::Mean),
                Some(item) => Vec::<Place>::decode(item, reader).map(|at| Self::Mean(Mean { at, by: None })),
            },
            "union" => set(reader).map(Self::Union),
            "intersect" => set(reader).map(Self::Intersect),
            "topk" => {
                if options.is_none() {
                    reader
                        .error(place, "`topk` needs an order")
                        .help("write merge = { topk = { at = \"/hits\", sort = \"/score desc\", k = 10 } }");
                    return None;
                }
                Topk::decode(options.unwrap_or(&nothing), reader).map(Self::Topk)
            }
            "keyed" => bare(Self::Keyed, reader),
            "first" => bare(Self::First, reader),
            "quorum" => bare(Self::Quorum, reader),
            "ndjson" => bare(Self::Ndjson, reader),
            "multipart" => bare(Self::Multipart, reader),
            "prometheus" => bare(Self::Prometheus, reader),
            "bytes" => bare(Self::Bytes, reader),
            other => {
                let note = reader.error(place, format!("`{other}` is not a way to merge"));
                match nearest(other, WORDS.into_iter().chain([LAST])) {
                    Some(known) => note.help(format!("did you mean \"{known}\"?")),
                    None => note.help(format!("one of \"{}\", \"{LAST}\"", WORDS.join("\", \""))),
                };
                None
            }
        }
    }
}
