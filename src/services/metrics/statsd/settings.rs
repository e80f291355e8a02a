//! What is heard by statsd as it is written: where, and what becomes of names.
//!
//! Maps one name at a time and remembers none.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use regex::Regex;

use super::super::relabel::braced;
use super::super::settings::LabelName;
use crate::settings;
use crate::value::{Decode, EarKey, EarKeys, Item, Pattern, Reader, Spanned, Value};

/// One `statsd` source.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub ears: EarKeys,
    /// The first that fits says what becomes of a name.
    pub mapping: Vec<Mapping>,
    pub buckets: Buckets,
    /// A series that nothing was heard of for so long goes. Without it, none does.
    pub ttl: Option<Duration>,
}

settings! {
    /// As written.
    pub struct Written as "a mapping" {
        /// A name in which `*` is any one of its parts between dots.
        r#match: Option<Spanned<String>> = None,
        /// The same as a regex, which has to fit all of it.
        regex: Option<Spanned<String>> = None,
        /// Of the metric; `$1` is the first part or group.
        name: Option<Spanned<String>> = None,
        labels: IndexMap<LabelName, String> = IndexMap::new(),
        /// What fits is not wanted.
        drop: bool = false,
        ttl: Option<Duration> = None,
        buckets: Option<Buckets> = None,
        help: String = String::new(),
    }
}

/// A rule for names.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub written: Arc<Written>,
    pattern: Regex,
}

impl PartialEq for Mapping {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

/// What a name becomes.
#[derive(Debug)]
pub struct Mapped {
    pub name: String,
    pub labels: Vec<(String, String)>,
}

impl Mapping {
    /// `None` where it does not fit.
    pub fn apply(&self, name: &str) -> Option<Mapped> {
        let captures = self.pattern.captures(name)?;
        let expand = |template: &str| {
            let mut out = String::new();
            captures.expand(&braced(template), &mut out);
            out
        };
        let mapped = self.written.name.as_ref().map_or(Cow::Borrowed(name), |template| Cow::Owned(expand(&template.value)));
        let labels = self.written.labels.iter().map(|(label, template)| (label.0.clone(), expand(template))).collect();
        Some(Mapped { name: mapped.into_owned(), labels })
    }
}

impl Decode for Mapping {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let written = Written::decode(item, reader)?;
        let (pattern, place) = match (&written.r#match, &written.regex) {
            (Some(glob), None) => (of_glob(&glob.value), glob.place),
            (None, Some(regex)) => (regex.value.clone(), regex.place),
            (Some(_), Some(regex)) => {
                reader.error(regex.place, "a mapping has `match` or `regex`, this has both").help("remove one of them");
                return None;
            }
            (None, None) => {
                reader.error(item.place, "nothing says which names are meant").help("write match = \"api.*.requests\"");
                return None;
            }
        };
        let parsed = Pattern::parse(&format!("^(?s:{pattern})$"));
        let Pattern(pattern) = reader.accept(parsed, place, "write one such as \"api\\\\.(.*)\\\\.requests\"")?;
        match (&written.name, written.drop) {
            (None, false) => {
                reader.error(item.place, "nothing says what these names become").help("write name = \"…\", or drop = true");
                return None;
            }
            (Some(name), true) => {
                reader.error(name.place, "what is dropped needs no name").help("remove `name`, or `drop`");
                return None;
            }
            _ => {}
        }
        Some(Self { written: Arc::new(written), pattern })
    }
}

fn of_glob(glob: &str) -> String {
    glob.split('*').map(regex::escape).collect::<Vec<_>>().join("([^.]*)")
}

/// Upper bounds, ascending; the last one, infinity, is not written.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets(pub Arc<[f64]>);

/// As Prometheus's own libraries have them, for seconds.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const BUCKETS_MAX: usize = 100;

impl Default for Buckets {
    fn default() -> Self {
        Self(BUCKETS.into())
    }
}

impl Decode for Buckets {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let help = "write ascending numbers, such as [0.01, 0.1, 1, 10]";
        let Value::Array(items) = &item.value else {
            reader.error(item.place, format!("expected a list of numbers, found {}", item.kind())).help(help);
            return None;
        };
        let mut bounds: Vec<f64> = Vec::with_capacity(items.len());
        for item in items {
            let bound = match item.value {
                Value::Integer(number) => number as f64,
                Value::Float(number) if number.is_finite() => number,
                _ => {
                    reader.error(item.place, format!("expected a number, found {}", item.kind())).help(help);
                    return None;
                }
            };
            if bounds.last().is_some_and(|last| *last >= bound) {
                reader.error(item.place, "each bucket's bound is above the one before").help(help);
                return None;
            }
            bounds.push(bound);
        }
        if bounds.is_empty() || bounds.len() > BUCKETS_MAX {
            reader.error(item.place, format!("a histogram has 1 to {BUCKETS_MAX} buckets, this has {}", bounds.len())).help(help);
            return None;
        }
        Some(Self(bounds.into()))
    }
}

impl Settings {
    /// `written` are its own keys beside `statsd`.
    pub fn of(
        ears: EarKeys,
        mapping: Vec<Mapping>,
        buckets: Option<Buckets>,
        ttl: Option<Duration>,
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        if let Some(stream) = ears.0.iter().find(|ear| matches!(ear.value, EarKey::UnixStream(_))) {
            reader.error(stream.place, "statsd comes by UDP, TCP and unix datagrams").help("write \"unix:/run/attache/statsd.sock\"");
            return None;
        }
        Some(Self { ears, mapping, buckets: buckets.unwrap_or_default(), ttl })
    }
}
