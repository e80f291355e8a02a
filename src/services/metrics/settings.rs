//! Metrics of other programs as they are written: whom to ask, and what to make of the answers.
//!
//! Knows what may be asked; how each question is asked, `upkeep` knows.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;

use super::relabel::Rule;
use super::{probe, process, statsd};
use crate::proto::exposition::{Kind, plain_name};
use crate::tls::ConnectorSettings;
use crate::value::{
    Address, Choice, Decode, EarKey, EarKeys, Entry, Fields, Grace, Item, Jq, Key, Pattern, Place, Reader, Server, ServerKind, Size,
    SourceId, Spanned, Url, Whole,
};
use crate::{settings, words};

settings! {
    /// A page of metrics.
    pub struct Settings as "metrics" {
        /// Whom to ask; up to 64.
        from: Spanned<Vec<SourceSettings>> = Spanned::new(Vec::new(), Place::new(SourceId(0), 0..0)),
        /// Sources whose address whoever scrapes may say.
        probe: probe::Modules = IndexMap::new(),
        /// For whoever does not answer; sooner if the scraper says so.
        timeout: Duration = Duration::from_secs(10),
        /// A source is not asked again sooner; who scrapes meanwhile gets what there is.
        min_interval: Grace = Grace(Duration::ZERO),
        /// Of each source; more are left out and counted.
        max_series: Whole<1, 1_000_000> = Whole(10_000),
    }
}

/// One source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    pub question: Question,
    /// What it is called in series about it. Default: its kind and its address.
    pub name: Option<String>,
    /// Of all its series.
    pub labels: Vec<(String, String)>,
    pub tls: Option<Spanned<ConnectorSettings>>,
    /// Where it is written.
    pub place: Place,
}

/// Who is asked, and what for.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    Redis(Server),
    Memcached(Server),
    /// A page of metrics.
    Prometheus(Document, Vec<Rule>),
    Json(Document, Vec<Mapping>),
    Text(Document, Vec<Match>),
    Mysql(Server, Vec<Query>),
    Postgres(Server, Vec<Query>),
    Exec(Program),
    /// Who runs on this machine.
    Process(process::Settings),
    /// What is sent here.
    Statsd(statsd::Settings),
}

/// What is run, and what it may print.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    pub words: Vec<String>,
    pub printed: Printed,
    /// More is no answer.
    pub most: usize,
}

/// How a program prints.
#[derive(Clone, Debug, PartialEq)]
pub enum Printed {
    Page(Vec<Rule>),
    Json(Vec<Mapping>),
    Text(Vec<Match>),
}

/// Where a document is.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub url: Url,
    /// More is no answer.
    pub most: usize,
}

settings! {
    /// What becomes a series of a JSON document.
    pub struct Mapping as "a mapping" {
        /// Of the metric.
        name: MetricName,
        /// A number, or text that is one; `true` is 1.
        value: Jq,
        /// What `value` and `labels` look at, one after the other. Default: the document.
        each: Option<Jq> = None,
        labels: IndexMap<LabelName, Jq> = IndexMap::new(),
        r#type: MetricType = MetricType::Gauge,
        help: String = String::new(),
    }
}

words! {
    /// What a series counts.
    pub enum MetricType as "a type" {
        Gauge = "gauge",
        Counter = "counter",
        Untyped = "untyped",
    }
}

impl MetricType {
    pub fn kind(self) -> Kind {
        match self {
            Self::Gauge => Kind::Gauge,
            Self::Counter => Kind::Counter,
            Self::Untyped => Kind::Untyped,
        }
    }
}

settings! {
    /// What becomes a series of a text.
    pub struct Match as "a match" {
        /// Of the metric.
        name: MetricName,
        /// Wherever it fits: the group `value` is the value, others with names are labels.
        regex: WithValue,
        labels: IndexMap<LabelName, String> = IndexMap::new(),
        r#type: MetricType = MetricType::Gauge,
        help: String = String::new(),
    }
}

settings! {
    /// What becomes series of rows.
    pub struct Query as "a query" {
        /// Of the metrics: with `_` and the column behind it, unless that is called `value`.
        name: MetricName,
        sql: String,
        /// Columns that are labels; the others are values, where they have numbers.
        labels: Vec<String> = Vec::new(),
        r#type: MetricType = MetricType::Gauge,
        help: String = String::new(),
    }
}

/// A regex with a group `value`.
#[derive(Clone, Debug, PartialEq)]
pub struct WithValue(pub Pattern);

impl Decode for WithValue {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let help = "write one such as 'Active connections: (?<value>\\d+)'";
        let pattern = reader.accept(Pattern::parse(&text), item.place, help)?;
        if !pattern.0.capture_names().flatten().any(|name| name == "value") {
            reader.error(item.place, "no group of this regex is called `value`").help(help);
            return None;
        }
        Some(Self(pattern))
    }
}

/// What a metric can be called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MetricName(pub String);

impl Decode for MetricName {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let plain = plain_name(&text, true);
        if plain != text {
            reader.error(item.place, format!("`{}` is not a name for a metric", text.escape_debug())).help(format!("write \"{plain}\""));
            return None;
        }
        Some(Self(text))
    }
}

/// What a label can be called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelName(pub String);

impl Key for LabelName {
    fn read(name: Spanned<String>, reader: &mut Reader<'_>) -> Option<Self> {
        let plain = plain_name(&name.value, false);
        if plain != name.value || plain.starts_with("__") {
            reader.error(name.place, format!("`{}` is not a name for a label", name.value)).help("use letters, digits and `_`");
            return None;
        }
        Some(Self(name.value))
    }
}

const KINDS: Choice<'_> = Choice {
    kinds: &["redis", "memcached", "mysql", "postgres", "prometheus", "json", "text", "exec", "process", "statsd"],
    rule: "a source is one thing, this is",
    missing: "nothing says who is asked",
    example: "redis = \"127.0.0.1:6379\"",
};
const BODY: Size = Size::mib(16);
const SOURCES_MAX: usize = 64;

impl Decode for SourceSettings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "a source of metrics", reader)?;
        let place = fields.place();
        let kinds = KINDS.take(&mut fields);
        let (relabel, map, matches, query) = (fields.take("relabel"), fields.take("map"), fields.take("match"), fields.take("query"));
        let (mapping, buckets, ttl) = (fields.take("mapping"), fields.take("buckets"), fields.take("ttl"));
        let body = fields.optional::<Spanned<Size>>("body", reader);
        let name = fields.optional::<String>("name", reader);
        let labels = fields.or("labels", IndexMap::<LabelName, String>::new(), reader);
        let tls = fields.optional::<Spanned<ConnectorSettings>>("tls", reader);
        fields.finish(reader)?;
        let (kind, entry) = KINDS.only(&kinds, place, reader)?;
        let options: [(&str, Option<&Entry>, &[&str]); 7] = [
            ("relabel", relabel, &["prometheus", "exec"]),
            ("map", map, &["json", "exec"]),
            ("match", matches, &["text", "exec"]),
            ("query", query, &["mysql", "postgres"]),
            ("mapping", mapping, &["statsd"]),
            ("buckets", buckets, &["statsd"]),
            ("ttl", ttl, &["statsd"]),
        ];
        for (key, written, wanted) in options {
            match written {
                Some(entry) if !wanted.contains(&kind) => {
                    reader
                        .error(entry.key_place, format!("`{key}` is for `{}`, this is `{kind}`", wanted.join("` and `")))
                        .help("remove it");
                    return None;
                }
                None if matches!((key, kind), ("map", "json") | ("match", "text")) => {
                    reader.error(place, "nothing says what becomes a metric").help(format!("write {key} = [{{ name = \"…\", … }}]"));
                    return None;
                }
                _ => {}
            }
        }
        let body = body?;
        let reads_document = matches!(kind, "prometheus" | "json" | "text" | "exec");
        if let Some(body) = body.as_ref().filter(|_| !reads_document) {
            reader.error(body.place, format!("`body` is for documents, this is `{kind}`")).help("remove it");
            return None;
        }
        let body = body.map_or(BODY, |body| body.value).bytes();
        let question = match kind {
            "redis" => server(ServerKind::REDIS, &entry.item, reader).map(Question::Redis),
            "memcached" => server(ServerKind::MEMCACHED, &entry.item, reader).map(Question::Memcached),
            "prometheus" => {
                let rules = relabel.map_or(Some(Vec::new()), |entry| Vec::decode(&entry.item, reader));
                Some(Question::Prometheus(document(&entry.item, body, reader)?, rules?))
            }
            "mysql" | "postgres" => {
                let scheme = if kind == "mysql" { ServerKind::MYSQL } else { ServerKind::POSTGRES };
                let server = server(scheme, &entry.item, reader)?;
                if server.login.user.is_none() {
                    reader
                        .error(entry.item.place, "nobody can ask it anything without a login")
                        .help(format!("write \"{kind}://user:password@host/database\""));
                    return None;
                }
                let queries = query.map_or(Some(Vec::new()), |entry| Vec::decode(&entry.item, reader))?;
                Some(if kind == "mysql" { Question::Mysql(server, queries) } else { Question::Postgres(server, queries) })
            }
            "exec" => {
                let words = Vec::<String>::decode(&entry.item, reader)?;
                if words.first().is_none_or(String::is_empty) {
                    reader.error(entry.item.place, "this names no program").help("write exec = [\"/usr/local/bin/report\", \"argument\"]");
                    return None;
                }
                let printed = match (relabel, map, matches) {
                    (None, Some(map), None) => Printed::Json(Vec::decode(&map.item, reader)?),
                    (None, None, Some(matches)) => Printed::Text(Vec::decode(&matches.item, reader)?),
                    (Some(relabel), None, None) => Printed::Page(Vec::decode(&relabel.item, reader)?),
                    (None, None, None) => Printed::Page(Vec::new()),
                    _ => {
                        reader.error(place, "a program prints one thing").help("keep one of `relabel`, `map` and `match`");
                        return None;
                    }
                };
                Some(Question::Exec(Program { words, printed, most: body }))
            }
            "process" => process::Settings::of(&entry.item, reader).map(Question::Process),
            "statsd" => {
                let ears = EarKeys::decode(&entry.item, reader)?;
                let mapping = mapping.map_or(Some(Vec::new()), |entry| Vec::decode(&entry.item, reader))?;
                let buckets = buckets.map_or(Some(None), |entry| Option::decode(&entry.item, reader))?;
                let ttl = ttl.map_or(Some(None), |entry| Option::decode(&entry.item, reader))?;
                statsd::Settings::of(ears, mapping, buckets, ttl, reader).map(Question::Statsd)
            }
            "json" => Some(Question::Json(document(&entry.item, body, reader)?, Vec::decode(&map?.item, reader)?)),
            _ => Some(Question::Text(document(&entry.item, body, reader)?, Vec::decode(&matches?.item, reader)?)),
        }?;
        let tls: Option<Spanned<ConnectorSettings>> = tls?;
        if let Some(tls) = tls.as_ref().filter(|_| question.tls_address().is_none()) {
            reader.error(tls.place, "this source is not spoken to with TLS").help("remove `tls`, or write https:// or rediss://");
            return None;
        }
        let labels: Vec<(String, String)> = labels?.into_iter().map(|(name, value)| (name.0, value)).collect();
        if let Some((label, _)) = labels.iter().find(|(label, _)| matches!(label.as_str(), "le" | "quantile")) {
            reader.error(place, format!("`{label}` is what tells parts of histograms and summaries apart")).help("call it by another name");
            return None;
        }
        Some(Self { question, name: name?, labels, tls, place })
    }
}

fn server(kind: ServerKind, item: &Item, reader: &mut Reader<'_>) -> Option<Server> {
    let text = String::decode(item, reader)?;
    reader.accept(kind.parse(&text), item.place, "remove what does not belong there")
}

fn document(item: &Item, most: usize, reader: &mut Reader<'_>) -> Option<Document> {
    let text = String::decode(item, reader)?;
    let parsed = Url::parse(&text).map(|url| Document { url, most });
    if parsed.is_none() {
        // Not what it is: it may come from the environment, and hold a password.
        reader
            .error(item.place, "this is not a URL that can be asked for; a URL has no login")
            .help("write \"http://127.0.0.1:9090/metrics\", or https://");
    }
    parsed
}

impl SourceSettings {
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| match &self.question {
            Question::Redis(server) => format!("redis {server}"),
            Question::Memcached(server) => format!("memcached {server}"),
            Question::Mysql(server, _) => format!("mysql {server}"),
            Question::Postgres(server, _) => format!("postgres {server}"),
            Question::Exec(program) => format!("exec {}", program.words.first().map_or("", String::as_str)),
            Question::Process(_) => "process".to_owned(),
            Question::Statsd(statsd) => format!("statsd {}", statsd.ears),
            Question::Prometheus(at, _) | Question::Json(at, _) | Question::Text(at, _) => {
                let scheme = if at.url.is_tls { "https" } else { "http" };
                format!("{} {scheme}://{}{}", self.question.word(), at.url.authority, at.url.path.path())
            }
        })
    }
}

impl Question {
    /// In a word, as it is written.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Memcached(_) => "memcached",
            Self::Prometheus(..) => "prometheus",
            Self::Json(..) => "json",
            Self::Text(..) => "text",
            Self::Mysql(..) => "mysql",
            Self::Postgres(..) => "postgres",
            Self::Exec(..) => "exec",
            Self::Process(_) => "process",
            Self::Statsd(_) => "statsd",
        }
    }

    /// Whether it looks for places where regexes fit.
    pub fn has_matches(&self) -> bool {
        matches!(self, Self::Text(..) | Self::Exec(Program { printed: Printed::Text(_), .. }))
    }

    /// Who is asked inside TLS.
    pub fn tls_address(&self) -> Option<&Address> {
        match self {
            Self::Redis(server) => server.is_tls.then_some(&server.address),
            Self::Memcached(_) | Self::Mysql(..) | Self::Postgres(..) | Self::Exec(..) | Self::Process(_) | Self::Statsd(_) => None,
            Self::Prometheus(at, _) | Self::Json(at, _) | Self::Text(at, _) => at.url.tls_address(),
        }
    }
}

/// What tells series of one kind of source from those of another.
type Series<'a> = (&'static str, &'a [(String, String)]);

impl Settings {
    /// Files that are read with the configuration.
    pub fn files(&self) -> impl Iterator<Item = &Spanned<PathBuf>> {
        let sources = self.from.value.iter().chain(self.probe.values().map(|module| &module.source));
        sources.filter_map(|source| source.tls.as_ref()).flat_map(|tls| tls.value.files())
    }

    /// Sockets that it hears by.
    pub fn ears(&self) -> impl Iterator<Item = &Spanned<EarKey>> {
        self.from.value.iter().flat_map(|source| match &source.question {
            Question::Statsd(statsd) => statsd.ears.0.as_slice(),
            _ => &[],
        })
    }

    /// What no field can tell alone.
    pub fn checked(self, place: Place, reader: &mut Reader<'_>) -> Option<Self> {
        let sources = &self.from.value;
        if self.from.place.end == 0 && self.probe.is_empty() {
            reader.error(place, "missing key `from`").help("write from = [{ redis = \"127.0.0.1:6379\" }], or a `probe`");
            return None;
        }
        if (sources.is_empty() && self.probe.is_empty()) || sources.len() > SOURCES_MAX {
            reader
                .error(self.from.place, format!("a page has 1 to {SOURCES_MAX} sources, this has {}", sources.len()))
                .help("write from = [{ redis = \"127.0.0.1:6379\" }]");
            return None;
        }
        let mut names: HashMap<String, &SourceSettings> = HashMap::new();
        let mut alike: HashMap<Series<'_>, &SourceSettings> = HashMap::new();
        for source in sources {
            if let Some(first) = names.insert(source.label(), source) {
                let name = source.label();
                reader
                    .error(source.place, format!("two sources are called `{name}`"))
                    .related(first.place, "the first")
                    .help("give one a `name`");
                return None;
            }
            // What these say has the same names whoever says it.
            let is_fixed = matches!(
                source.question,
                Question::Redis(_) | Question::Memcached(_) | Question::Mysql(..) | Question::Postgres(..) | Question::Process(_)
            );
            if let (true, Some(first)) = (is_fixed, alike.insert((source.question.word(), &source.labels), source)) {
                reader
                    .error(source.place, format!("two sources of `{}` whose series nobody could tell apart", source.question.word()))
                    .related(first.place, "the first")
                    .help("give them different labels, such as labels = { instance = \"a\" }");
                return None;
            }
        }
        Some(self)
    }
}
