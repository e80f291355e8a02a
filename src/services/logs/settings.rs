//! Logs as they are written: where lines come from, what is read of them, where they go.
//!
//! Opens nothing: files and peers are `upkeep`'s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;

use super::place::{FieldPlace, Hideable};
use super::sinks::SinkSettings;
use crate::proto::exposition::plain_name;
use crate::proto::logs::{Group, OWN, Parsers};
use crate::services::metrics::{Buckets, LabelName, MetricName};
use crate::tls::ConnectorSettings;
use crate::value::{
    Address, Choice, Decode, EarKey, EarKeys, Fields, Grace, Item, Key, Pattern, Place, Reader, Server, ServerKind, Share, Size, Spanned,
    Value, Whole,
};
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

impl Files {
    fn finds(&self, path: &Path) -> bool {
        glob::Pattern::new(&self.pattern.to_string_lossy()).is_ok_and(|pattern| pattern.matches_path(path))
    }
}

/// Where lines come from.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    pub origin: Origin,
    /// What `source` says in records. Default: the path, or who sent it.
    pub name: Option<String>,
    pub tls: Option<Spanned<ConnectorSettings>>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    File(Files),
    /// Slow commands of a Redis.
    Slowlog(Server, Duration),
    Stdin,
    /// What programs send to these sockets.
    Syslog(EarKeys),
    /// Lines that clients post to the service.
    Http,
}

/// Files that are followed.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// A path, which may have `*`, `?`, `[…]` and `**`.
    pub pattern: PathBuf,
    /// What is not known yet is read from its end on.
    pub from_end: bool,
    /// For how long a file that went away is still read.
    pub rotate_wait: Duration,
}

const SOURCES: Choice<'_> = Choice {
    kinds: &["file", "redis_slowlog", "syslog", "stdin", "http"],
    rule: "a source is one thing, this is",
    missing: "nothing says where lines come from",
    example: "file = \"/var/log/app/*.log\"",
};

impl Decode for SourceSettings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "a source of logs", reader)?;
        let place = fields.place();
        let kinds = SOURCES.take(&mut fields);
        let start = fields.optional::<Spanned<String>>("start", reader);
        let rotate_wait = fields.optional::<Spanned<Grace>>("rotate_wait", reader);
        let interval = fields.optional::<Spanned<Duration>>("interval", reader);
        let name = fields.optional::<String>("name", reader);
        let tls = fields.optional::<Spanned<ConnectorSettings>>("tls", reader);
        fields.finish(reader)?;
        let (kind, entry) = SOURCES.only(&kinds, place, reader)?;
        let (start, rotate_wait, interval) = (start?, rotate_wait?, interval?);
        let of_files = start.as_ref().map(|start| ("start", start.place)).or(rotate_wait.as_ref().map(|wait| ("rotate_wait", wait.place)));
        if let (Some((key, place)), true) = (of_files, kind != "file") {
            reader.error(place, format!("`{key}` is for `file`, this is `{kind}`")).help("remove it");
            return None;
        }
        if let (Some(interval), true) = (&interval, kind != "redis_slowlog") {
            reader.error(interval.place, format!("`interval` is for `redis_slowlog`, this is `{kind}`")).help("remove it");
            return None;
        }
        let origin = match kind {
            "file" => {
                let pattern = PathBuf::decode(&entry.item, reader)?;
                let valid = glob::Pattern::new(&pattern.to_string_lossy()).map_err(|error| format!("this is no pattern: {}", error.msg));
                reader.accept(valid, entry.item.place, "write \"/var/log/app/*.log\"")?;
                let rotate_wait = rotate_wait.map_or(Duration::from_secs(5), |wait| wait.value.0);
                let from_end = is_second(start, ["beginning", "end"], reader)?;
                Origin::File(Files { pattern, from_end, rotate_wait })
            }
            "redis_slowlog" => {
                let text = String::decode(&entry.item, reader)?;
                let server = reader.accept(ServerKind::REDIS.parse(&text), entry.item.place, "remove what does not belong there")?;
                Origin::Slowlog(server, interval.map_or(Duration::from_secs(1), |interval| interval.value))
            }
            "syslog" => Origin::Syslog(EarKeys::decode(&entry.item, reader)?),
            word => {
                if !bool::decode(&entry.item, reader)? {
                    reader.error(entry.item.place, format!("`{word} = false` is no source")).help("remove it");
                    return None;
                }
                if word == "stdin" { Origin::Stdin } else { Origin::Http }
            }
        };
        let source = Self { origin, name: name?, tls: tls?, place };
        if let (Some(tls), None) = (&source.tls, source.tls_address()) {
            reader.error(tls.place, "this source is not spoken to with TLS").help("remove `tls`, or write rediss://");
            return None;
        }
        Some(source)
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

impl SourceSettings {
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| match &self.origin {
            Origin::File(files) => format!("file {}", files.pattern.display()),
            Origin::Slowlog(server, _) => format!("redis_slowlog {server}"),
            Origin::Stdin => "stdin".to_owned(),
            Origin::Syslog(ears) => format!("syslog {ears}"),
            Origin::Http => "http".to_owned(),
        })
    }

    /// Who is asked inside TLS.
    pub fn tls_address(&self) -> Option<&Address> {
        match &self.origin {
            Origin::Slowlog(server, _) => server.is_tls.then_some(&server.address),
            Origin::File(_) | Origin::Stdin | Origin::Syslog(_) | Origin::Http => None,
        }
    }
}

impl Settings {
    /// Files that are read with the configuration.
    pub fn files(&self) -> impl Iterator<Item = &Spanned<PathBuf>> {
        let sources = self.from.value.iter().filter_map(|source| source.tls.as_ref());
        sources.chain(self.to.iter().filter_map(SinkSettings::tls)).flat_map(|tls| tls.value.files())
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
        let plain = |settings: &Self| {
            let mut settings = settings.clone();
            settings.from.place = nowhere();
            for source in &mut settings.from.value {
                source.place = nowhere();
                if let Origin::Syslog(ears) = &mut source.origin {
                    ears.0.iter_mut().for_each(|ear| ear.place = nowhere());
                }
            }
            settings.count.place = nowhere();
            settings.count.value.iter_mut().for_each(|count| count.name.place = nowhere());
            settings.line.place = nowhere();
            if let Some(checkpoint) = &mut settings.checkpoint {
                checkpoint.place = nowhere();
            }
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
        // What it writes it would read, and write again.
        let written = self.to.iter().filter_map(|sink| if let SinkSettings::File(path) = sink { Some(path) } else { None });
        for path in written.chain(self.checkpoint.iter().map(|path| &path.value)) {
            let reads = |source: &&SourceSettings| match &source.origin {
                Origin::File(files) => files.finds(path),
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
            if is_histogram && count.value.is_none() {
                reader.error(name.place, "a histogram needs a value").help("write value = \"/duration\"");
                return None;
            }
        }
        Some(self)
    }
}
