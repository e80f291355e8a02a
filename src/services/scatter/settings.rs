//! A scatter as it is written.
//!
//! Checks what can be seen in one table; whether its leaves exist, compiling says.

use std::time::Duration;

use indexmap::IndexMap;

use super::merge::Merge;
use crate::filters::headers::Name;
use crate::upstream::hedge;
use crate::value::{Decode, Fields, Item, LabelText, LeafTemplate, Reader, ServiceRef, Share, Size, Spanned, Value, Whole, json_parts};
use crate::{settings, words};

settings! {
    /// One question to many.
    pub struct Settings as "a scatter" {
        /// Services or addresses, or `{ pool = "leaves" }` for each endpoint of a pool.
        over: Spanned<Over>,
        /// Who is asked what, and whose answers count.
        mode: Spanned<Mode> = Spanned::new(Mode::All, crate::value::Place::new(crate::value::SourceId(0), 0..0)),
        /// Where the items are that `mode = "each"` asks for, one at a time.
        each: Option<Spanned<Each>> = None,
        /// How answers become one. Required where more than one answer counts.
        merge: Option<Spanned<Merge>> = None,
        /// When the answer is due.
        deadline: Duration = Duration::from_secs(5),
        /// From when on the answer does not wait for more than is required.
        soft_deadline: Option<Spanned<Duration>> = None,
        /// Leaves without which there is no answer.
        require: Spanned<Require> = Spanned::new(Require::All, crate::value::Place::new(crate::value::SourceId(0), 0..0)),
        /// When another endpoint of a leaf's pool is asked the same, whatever that pool says.
        hedge: Option<Spanned<hedge::Settings>> = None,
        /// Leaves that are asked first; the others only if one of these answers.
        canary: Whole<0, 1000> = Whole(0),
        /// Of a leaf's answer.
        leaf_body: Size = Size::mib(1),
        /// Of all answers to one request.
        body: Size = Size::mib(16),
        /// Of the request's own body, which all leaves get.
        replay: Size = Size::kib(64),
        /// Edits of what leaves are asked.
        request_headers: LeafEdits = LeafEdits::default(),
        /// What leaves are asked for, instead of what was: a path with its query.
        path: Option<LeafTemplate> = None,
        /// JSON in the place of a leaf's answer that is missing.
        fill: Option<Spanned<Fill>> = None,
        /// Say of every answer how each leaf fared.
        report: bool = false,
    }
}

words! {
    /// Who is asked what, and whose answers count.
    pub enum Mode as "a mode" {
        /// All leaves the same, and every answer counts.
        All = "all",
        /// The only member of `over` is asked once for each item.
        Each = "each",
        /// All leaves the same, and the first good answer counts.
        Race = "race",
        /// All leaves the same, and what most of them say counts.
        Quorum = "quorum",
    }
}

settings! {
    /// What is written instead of, and beside, the fields of a request.
    pub struct LeafEdits as "header edits" {
        set: IndexMap<Name, LeafTemplate> = IndexMap::new(),
        add: IndexMap<Name, Vec<LeafTemplate>> = IndexMap::new(),
        remove: Vec<Name> = Vec::new(),
    }
}

impl Default for LeafEdits {
    fn default() -> Self {
        Self { set: IndexMap::new(), add: IndexMap::new(), remove: Vec::new() }
    }
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Over {
    Services(Vec<LeafSettings>),
    /// Each endpoint of this pool.
    Pool(Spanned<ServiceRef>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct LeafSettings {
    pub service: Spanned<ServiceRef>,
    pub name: Option<LabelText>,
}

/// More would be a mistake.
const LEAVES_MAX: usize = 1000;

impl Decode for LeafSettings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if !matches!(item.value, Value::Table(_)) {
            return Some(Self { service: Spanned::decode(item, reader)?, name: None });
        }
        let mut fields = Fields::of(item, "a leaf", reader)?;
        let service = fields.required::<Spanned<ServiceRef>>("service", reader);
        let name = fields.optional::<LabelText>("name", reader);
        fields.finish(reader)?;
        Some(Self { service: service?, name: name? })
    }
}

impl LeafSettings {
    pub fn label(&self) -> String {
        self.name.as_ref().map_or_else(|| self.service.value.to_string(), |name| name.0.clone())
    }
}

impl Decode for Over {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(item.value, Value::Table(_)) {
            let mut fields = Fields::of(item, "leaves", reader)?;
            let pool = fields.required::<Spanned<ServiceRef>>("pool", reader);
            fields.finish(reader)?;
            return pool.map(Self::Pool);
        }
        let leaves = Vec::<LeafSettings>::decode(item, reader)?;
        if leaves.is_empty() || leaves.len() > LEAVES_MAX {
            reader
                .error(item.place, format!("a scatter has 1 to {LEAVES_MAX} leaves, this has {}", leaves.len()))
                .help("write over = [\"leaf-0\", \"leaf-1\"], or over = { pool = \"leaves\" }");
            return None;
        }
        let twice = leaves.iter().enumerate().find(|(at, leaf)| leaves[..*at].iter().any(|other| other.label() == leaf.label()));
        if let Some((_, leaf)) = twice {
            reader
                .error(leaf.service.place, format!("two leaves are called `{}`", leaf.label()))
                .help("write { service = \"…\", name = \"…\" }");
            return None;
        }
        Some(Self::Services(leaves))
    }
}

/// Where items are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Each {
    /// Values of this parameter, each a list with commas.
    Query(String),
    /// Members of this array in the body, by their place.
    Json(Vec<String>),
}

impl Decode for Each {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        if let Some(name) = text.strip_prefix("query:").filter(|name| !name.is_empty()) {
            return Some(Self::Query(name.to_owned()));
        }
        if let Some(place) = text.strip_prefix("json:").filter(|place| place.starts_with('/')) {
            return Some(Self::Json(json_parts(place)));
        }
        reader.error(item.place, format!("`{text}` is no place for items")).help("write \"query:ids\" or \"json:/ids\"");
        None
    }
}

/// Without whom there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Require {
    All,
    Count(usize),
    Share(Share),
    Named { leaves: Vec<Spanned<String>>, at_least: usize },
}

impl Decode for Require {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        match &item.value {
            Value::String(text) if text.value == "all" => Some(Self::All),
            Value::String(text) if text.value.ends_with('%') => Share::decode(item, reader).map(Self::Share),
            Value::Integer(_) => Whole::<0, 1000>::decode(item, reader).map(|count| Self::Count(count.0 as usize)),
            Value::Table(_) => {
                let mut fields = Fields::of(item, "what is required", reader)?;
                let leaves = fields.or("leaves", Vec::<Spanned<String>>::new(), reader);
                let at_least = fields.or("at_least", Whole::<0, 1000>(0), reader);
                fields.finish(reader)?;
                Some(Self::Named { leaves: leaves?, at_least: at_least?.0 as usize })
            }
            _ => {
                reader
                    .error(item.place, "expected what is required of the leaves")
                    .help("write \"all\", a count such as 3, a share such as \"80%\", or { leaves = [\"leaf-0\"], at_least = 2 }");
                None
            }
        }
    }
}

/// A document in the place of one that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill(pub String);

impl Decode for Fill {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&text) {
            reader.error(item.place, format!("this is no JSON: {error}")).help("write fill = '{\"hits\": []}'");
            return None;
        }
        Some(Self(text))
    }
}

impl Settings {
    /// What no field can tell alone.
    pub fn checked(self, reader: &mut Reader<'_>) -> Option<Self> {
        let mode = self.mode.value;
        match (&self.each, mode) {
            (None, Mode::Each) => {
                reader.error(self.mode.place, "mode = \"each\" needs to know the items").help("write each = \"query:ids\"");
                return None;
            }
            (Some(each), Mode::All | Mode::Race | Mode::Quorum) => {
                reader.error(each.place, format!("`each` is for mode = \"each\", this is \"{}\"", mode.word())).help("remove it");
                return None;
            }
            _ => {}
        }
        match (&self.merge, mode) {
            (None, Mode::All | Mode::Each) => {
                reader
                    .error(self.over.place, "nothing says how the answers become one")
                    .help("write merge = \"concat\", \"keyed\", or another way");
                return None;
            }
            (Some(merge), Mode::Race | Mode::Quorum) => {
                reader.error(merge.place, format!("with mode = \"{}\", one answer counts as it is", mode.word())).help("remove `merge`");
                return None;
            }
            _ => {}
        }
        if let (Mode::Each, Over::Services(leaves)) = (mode, &self.over.value)
            && leaves.len() != 1
        {
            reader
                .error(self.over.place, format!("items are asked of one service, this has {}", leaves.len()))
                .help("write over = [\"docs\"], where docs is a shard");
            return None;
        }
        if let (Mode::Each, Over::Pool(pool)) = (mode, &self.over.value) {
            reader
                .error(pool.place, "items are asked of one service")
                .help("write over = [\"docs\"], where docs is a shard over that pool");
            return None;
        }
        if let (Some(hedge), Over::Pool(_)) = (&self.hedge, &self.over.value) {
            reader
                .error(hedge.place, "each endpoint of the pool is a leaf, so there is no other one to ask")
                .help("write over = [\"part-0\", …], where each part is a pool of replicas");
            return None;
        }
        if let (Some(fill), Some(merge)) = (&self.fill, &self.merge)
            && let Err(reason) = merge.value.fits(fill.value.0.as_bytes())
        {
            reader
                .error(fill.place, format!("this does not fit what it is merged with ({})", reason.word()))
                .related(merge.place, "the merge")
                .help("write what a leaf would answer that has nothing to say");
            return None;
        }
        if let Some(soft) = self.soft_deadline.as_ref().filter(|soft| soft.value >= self.deadline) {
            reader.error(soft.place, "the soft deadline is not before the deadline").help("write a shorter one, or remove it");
            return None;
        }
        if let (Over::Services(leaves), Require::Named { leaves: wanted, .. }) = (&self.over.value, &self.require.value)
            && let Some(unknown) = wanted.iter().find(|wanted| !leaves.iter().any(|leaf| leaf.label() == wanted.value))
        {
            reader.error(unknown.place, format!("`{}` is none of the leaves", unknown.value)).help("name one of `over`");
            return None;
        }
        if let Over::Services(leaves) = &self.over.value {
            let most = leaves.len();
            let wanted = match &self.require.value {
                Require::Count(count) | Require::Named { at_least: count, .. } => *count,
                Require::All | Require::Share(_) => 0,
            };
            if wanted > most && mode != Mode::Each {
                reader
                    .error(self.require.place, format!("{wanted} leaves are required, and there are {most}"))
                    .help(format!("write at most {most}"));
                return None;
            }
        }
        Some(self)
    }
}
