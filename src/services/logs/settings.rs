//! Logs as they are written: where lines come from, what is read of them, where they go.
//!
//! Opens nothing: files and peers are `upkeep`'s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;

use super::place::{FieldPlace, Hideable};
use super::sinks::SinkSettings;
use super::sources::{Origin, SourceSettings};
use crate::proto::exposition::plain_name;
use crate::proto::logs::{Group, OWN, Parsers};
use crate::services::metrics::{Buckets, LabelName, MetricName};
use crate::value::{Decode, EarKey, Fields, Item, Key, Pattern, Place, Reader, Share, Size, Spanned, Value, Whole};
use crate::{settings, words};

settings! {
    /// One log.
    pub struct Settings as "logs" {
        /// Where lines come from; up to 64.
        from: Spanned<Vec<SourceSettings>>,
        /// What is read of a line: the first that fits. Default: nothing, the line is `msg`.
        parse: Parsers = Parsers::raw(),
        /// Lines that belong together.
        multiline: Option<Multiline> = None,
        /// Where records go, beside those who ask for the latest; up to 8.
        to: Vec<SinkSettings> = Vec::new(),
        /// Where it is written down how far sinks have taken what was read. Without it a restart begins anew.
        checkpoint: Option<Spanned<PathBuf>> = None,
        /// Fields that get another name.
        rename: IndexMap<Renamed, Word> = IndexMap::new(),
        /// Fields that are left out.
        drop: Vec<Hideable> = Vec::new(),
        /// What nobody may read.
        redact: Vec<Redact> = Vec::new(),
        /// Records of which only a share is kept; the others are counted.
        sample: Vec<Sample> = Vec::new(),
        /// Series on the metrics page of this process, made of records.
        count: Spanned<Vec<Count>> = Spanned::new(Vec::new(), nowhere()),
        /// So many of the latest records can be asked for.
        keep: Whole<1, 100_000> = Whole(1000),
        /// A longer line is cut, and marked with `truncated`.
        line: Spanned<Size> = Spanned::new(Size::mib(1), nowhere()),
    }
}

/// What a checkpoint that is written anew is called besides, until it is whole.
pub const FRESH: &str = ".new";
const LINE_MIN: Size = Size(64);
const LINE_MAX: Size = Size::mib(16);
const SOURCES_MAX: usize = 64;
const SINKS_MAX: usize = 8;

fn nowhere() -> Place {
    Place::new(crate::value::SourceId(0), 0..0)
}

/// What somebody calls something: not empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Word(pub String);

impl Key for Word {
    fn read(name: Spanned<String>, reader: &mut Reader<'_>) -> Option<Self> {
        if name.value.is_empty() {
            reader.error(name.place, "this name is empty").help("write one");
            return None;
        }
        Some(Self(name.value))
    }
}

impl Decode for Word {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        Self::read(Spanned::decode(item, reader)?, reader)
    }
}

impl std::borrow::Borrow<str> for Word {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A field that is to have another name: not one that every record calls the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Renamed(Word);

impl Key for Renamed {
    fn read(name: Spanned<String>, reader: &mut Reader<'_>) -> Option<Self> {
        if OWN.contains(&name.value.as_str()) {
            let message = format!("`{}` has this name in every record", name.value);
            reader.error(name.place, message).help("have whoever takes records rename it");
            return None;
        }
        Word::read(name, reader).map(Self)
    }
}

impl std::borrow::Borrow<str> for Renamed {
    fn borrow(&self) -> &str {
        &self.0.0
    }
}

settings! {
    /// Lines that are one record together.
    pub struct Multiline as "multiline" {
        /// A line that this fits begins a record; the others go on with the one before.
        start: Pattern,
        /// A record is whole when nothing has come for so long.
        flush: Duration = Duration::from_secs(1),
        /// A record of more lines is cut into several.
        lines: Whole<1, 100_000> = Whole(1000),
    }
}

impl Multiline {
    pub fn group(&self) -> Group<'_> {
        Group { start: &self.start.0, flush: self.flush, lines: self.lines.0 }
    }
}

/// What is replaced before anybody sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Redact {
    /// All of a field.
    Field(Hideable, String),
    /// Wherever it fits, in the message and in the text of every field.
    Text(Pattern, String),
}

impl Decode for Redact {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "what is redacted", reader)?;
        let place = fields.place();
        let field = fields.optional::<Hideable>("field", reader);
        let regex = fields.optional::<Pattern>("regex", reader);
        let with = fields.or("with", "[redacted]".to_owned(), reader);
        fields.finish(reader)?;
        match (field?, regex?, with?) {
            (Some(field), None, with) => Some(Self::Field(field, with)),
            (None, Some(regex), with) => Some(Self::Text(regex, with)),
            _ => {
                reader.error(place, "one thing is redacted at a time").help("write { field = \"password\" } or { regex = '\\d{16}' }");
                None
            }
        }
    }
}

/// What a record has to say: each of these fields has such a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct When(pub Vec<(FieldPlace, Wanted)>);

/// `"error"` exactly, `"*"` any, `"~^5"` a regex.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    Any,
    Exactly(String),
    Fits(Pattern),
}

impl Decode for Wanted {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = match &item.value {
            // Numbers and booleans are compared as they are written.
            Value::Integer(number) => return Some(Self::Exactly(number.to_string())),
            Value::Bool(truth) => return Some(Self::Exactly(truth.to_string())),
            _ => String::decode(item, reader)?,
        };
        match text.strip_prefix('~') {
            _ if text == "*" => Some(Self::Any),
            Some(regex) => reader.accept(Pattern::parse(regex), item.place, "write \"~^5\", or \"text\"").map(Self::Fits),
            None => Some(Self::Exactly(text)),
        }
    }
}

impl Decode for When {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Table(table) = &item.value else {
            reader.error(item.place, format!("expected a table, found {}", item.kind())).help("write when = { level = \"error\" }");
            return None;
        };
        let wanted = table.entries.iter().map(|(name, entry)| {
            let place = FieldPlace::parse(name).map_err(|reason| reader.error(entry.key_place, reason).help("write a name, or /a/b")).ok();
            Some((place?, Wanted::decode(&entry.item, reader)?))
        });
        wanted.collect::<Vec<_>>().into_iter().collect::<Option<_>>().map(Self)
    }
}

settings! {
    /// Of these records, a share is kept.
    pub struct Sample as "a sample" {
        when: When = When::default(),
        keep: Share,
    }
}

words! {
    /// What is made of records.
    pub enum CountType as "a type" {
        Counter = "counter",
        Histogram = "histogram",
    }
}

settings! {
    /// Series made of records.
    pub struct Count as "a count" {
        /// Of the metric.
        name: Spanned<MetricName>,
        when: When = When::default(),
        labels: IndexMap<LabelName, FieldPlace> = IndexMap::new(),
        /// The field that is added up. Default: each record counts one.
        value: Option<FieldPlace> = None,
        r#type: CountType = CountType::Counter,
        /// Of a histogram.
        buckets: Buckets = Buckets::default(),
        help: String = String::new(),
    }
}

/// Whether it is the second of two words.
pub(super) fn is_second(written: Option<Spanned<String>>, words: [&str; 2], reader: &mut Reader<'_>) -> Option<bool> {
    let Some(written) = written else { return Some(false) };
    let found = words.iter().position(|word| *word == written.value);
    if found.is_none() {
        reader.error(written.place, format!("`{}` is not known here", written.value)).help(format!("\"{}\" or \"{}\"", words[0], words[1]));
    }
    found.map(|at| at == 1)
}

impl Settings {
    /// Files that are read with the configuration.
    pub fn files(&self) -> impl Iterator<Item = &Spanned<PathBuf>> {
        let sources = self.from.value.iter().filter_map(|source| source.tls.as_ref());
        sources.chain(self.to.iter().filter_map(SinkSettings::tls)).flat_map(|tls| tls.value.files())
    }

    /// What it writes itself.
    pub fn own_paths(&self) -> Vec<PathBuf> {
        let sinks = self.to.iter().filter_map(|sink| if let SinkSettings::File(path) = sink { Some(path.clone()) } else { None });
        let checkpoint = self.checkpoint.iter().flat_map(|path| {
            let mut fresh = path.value.clone().into_os_string();
            fresh.push(FRESH);
            [path.value.clone(), fresh.into()]
        });
        sinks.chain(checkpoint).collect()
    }

    /// Sockets that it hears by.
    pub fn ears(&self) -> impl Iterator<Item = &Spanned<EarKey>> {
        self.from.value.iter().flat_map(|source| match &source.origin {
            Origin::Syslog(ears) => ears.0.as_slice(),
            _ => &[],
        })
    }

    /// Whether both mean the same, wherever they are written.
    pub fn is_as(&self, other: &Self) -> bool {
        // Of what is `Spanned`, places do not count anyway.
        let plain = |settings: &Self| {
            let mut settings = settings.clone();
            settings.from.value.iter_mut().for_each(|source| source.place = nowhere());
            settings
        };
        plain(self) == plain(other)
    }

    /// What no field can tell alone.
    pub fn checked(self, reader: &mut Reader<'_>) -> Option<Self> {
        let sources = &self.from.value;
        if sources.is_empty() || sources.len() > SOURCES_MAX {
            reader
                .error(self.from.place, format!("a log has 1 to {SOURCES_MAX} sources, this has {}", sources.len()))
                .help("write from = [{ file = \"/var/log/app/*.log\" }]");
            return None;
        }
        if self.to.len() > SINKS_MAX {
            reader.error(self.from.place, format!("a log has at most {SINKS_MAX} sinks, this has {}", self.to.len())).help("remove some");
            return None;
        }
        for (index, source) in sources.iter().enumerate() {
            if let Some(first) = sources[..index].iter().find(|first| first.origin == source.origin) {
                reader.error(source.place, "this is read twice").related(first.place, "the first").help("remove one");
                return None;
            }
        }
        for (index, sink) in self.to.iter().enumerate() {
            if self.to[..index].contains(sink) {
                reader.error(self.from.place, format!("this log has the same `{}` sink twice", sink.word())).help("remove one");
                return None;
            }
        }
        let is_sink = |path: &Path| self.to.iter().any(|sink| matches!(sink, SinkSettings::File(sink) if sink == path));
        if let Some(checkpoint) = self.checkpoint.as_ref().filter(|checkpoint| is_sink(&checkpoint.value)) {
            reader.error(checkpoint.place, "records are written to this file").help("write what is known elsewhere");
            return None;
        }
        // What it writes it would read, and write again.
        for path in self.own_paths() {
            let reads = |source: &&SourceSettings| match &source.origin {
                Origin::File(files) => files.finds(&path),
                _ => false,
            };
            if let Some(source) = sources.iter().find(reads) {
                reader
                    .error(source.place, format!("this finds `{}`, which this log writes itself", path.display()))
                    .help("write it elsewhere, or read less");
                return None;
            }
        }
        for told in self.to.iter().filter_map(|sink| if let SinkSettings::Syslog(telling) = sink { Some(telling) } else { None }) {
            if let Some(ear) = self.ears().find(|ear| told.is_heard_by(&ear.value)) {
                reader
                    .error(ear.place, format!("this hears `{told}`, which this log tells itself"))
                    .related(told.place.place, "here")
                    .help("tell somebody else");
                return None;
            }
        }
        let line = self.line.value;
        if !(LINE_MIN..=LINE_MAX).contains(&line) {
            reader.error(self.line.place, format!("`{line}` is out of range")).help(format!("\"{LINE_MIN}\" to \"{LINE_MAX}\""));
            return None;
        }
        for (index, count) in self.count.value.iter().enumerate() {
            let name = &count.name;
            if name.value.0.starts_with("attache_") || name.value.0.starts_with("process_") {
                reader
                    .error(name.place, format!("`{}` could be taken for one of attache's own metrics", name.value.0))
                    .help(format!("write \"app_{}\"", plain_name(&name.value.0, true)));
                return None;
            }
            if let Some(first) = self.count.value[..index].iter().find(|first| first.name.value == name.value) {
                reader.error(name.place, format!("two counts are called `{}`", name.value.0)).related(first.name.place, "the first");
                return None;
            }
            let is_histogram = count.r#type == CountType::Histogram;
            if let Some(label) = count.labels.keys().find(|label| is_histogram && label.0 == "le") {
                let message = format!("`{}` is what Prometheus calls the bounds of a histogram's buckets", label.0);
                reader.error(name.place, message).help("give this label another name");
                return None;
            }
            if is_histogram && count.value.is_none() {
                reader.error(name.place, "a histogram needs a value").help("write value = \"/duration\"");
                return None;
            }
        }
        Some(self)
    }
}
