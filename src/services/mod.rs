//! The catalogue of things that answer requests.
//!
//! Services decide and never do: nothing here awaits, opens a socket or writes a byte.

pub mod pool;
pub mod redirect;
pub mod respond;

use std::sync::Arc;

use crate::refusal::Refusal;
use crate::value::{Entry, Fields, Item, Reader, Value, nearest};

/// Kinds that are written under a key of their own. A pool is not: the table with `endpoints` or `discover` is the pool.
pub const KINDS: &[&str] = &["respond", "redirect"];

/// One service as it is written: exactly one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Settings {
    /// Shared with the generation: a thousand endpoints need not be written down twice.
    Pool(Arc<pool::Settings>),
    Respond(respond::Settings),
    Redirect(redirect::Settings),
}

impl Settings {
    /// Reads `[service.NAME]`.
    pub fn named(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        use crate::value::Decode;
        let Value::Table(table) = &item.value else {
            reader.error(item.place, format!("expected a service in a table, found {}", item.kind()));
            return None;
        };
        let kinds: Vec<(&'static str, &Entry)> =
            KINDS.iter().filter_map(|&kind| table.entries.get(kind).map(|entry| (kind, entry))).collect();
        match kinds.as_slice() {
            [] => {
                let misspelt = table.entries.iter().find_map(|(key, entry)| Some((key, entry, nearest(key, KINDS.iter().copied())?)));
                if let (Some((key, entry, kind)), false) =
                    (misspelt, ["endpoints", "discover"].iter().any(|key| table.entries.contains_key(*key)))
                {
                    reader.error(entry.key_place, format!("unknown key `{key}`")).help(format!("did you mean `{kind}`?"));
                    return None;
                }
                pool::Settings::decode(item, reader).map(Arc::new).map(Self::Pool)
            }
            [(kind, entry)] => {
                let mut fields = Fields::table(table, item.place);
                fields.take(kind);
                let settings = Self::kind(kind, &entry.item, reader);
                fields.finish(reader)?;
                settings
            }
            [(first, entry), (second, other), ..] => {
                reader
                    .error(other.key_place, format!("a service has one kind, this has `{first}` and `{second}`"))
                    .related(entry.key_place, "the first kind");
                None
            }
        }
    }

    /// Takes an inline service out of another table, such as a route's.
    pub fn inline(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Option<Self>> {
        let mut found: Option<(&'static str, &Entry)> = None;
        for &kind in KINDS {
            let Some(entry) = fields.take(kind) else { continue };
            if let Some((first, earlier)) = found {
                reader
                    .error(entry.key_place, format!("a route has one service, this has `{first}` and `{kind}`"))
                    .related(earlier.key_place, "the first service");
                return None;
            }
            found = Some((kind, entry));
        }
        match found {
            Some((kind, entry)) => Self::kind(kind, &entry.item, reader).map(Some),
            None => Some(None),
        }
    }

    fn kind(kind: &str, item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        use crate::value::Decode;
        match kind {
            "respond" => respond::Settings::decode(item, reader)?.checked(reader).map(Self::Respond),
            _ => redirect::Settings::decode(item, reader).map(Self::Redirect),
        }
    }
}

/// A compiled service.
pub enum Service {
    Pool(pool::Pool),
    Respond(respond::Respond),
    Redirect(redirect::Redirect),
}

/// A service's verdict on one request.
pub enum Decision<'g> {
    /// Send it to an endpoint of this pool.
    Forward(&'g pool::Pool),
    Answer(&'g respond::Respond),
    Redirect(&'g redirect::Redirect),
    Refuse(Refusal),
}

impl Service {
    pub fn decide(&self) -> Decision<'_> {
        match self {
            Self::Pool(pool) => Decision::Forward(pool),
            Self::Respond(respond) => Decision::Answer(respond),
            Self::Redirect(redirect) => Decision::Redirect(redirect),
        }
    }
}
