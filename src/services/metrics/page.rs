//! Series of many names, as a page that Prometheus reads: text 0.0.4, or `OpenMetrics` 1.0.
//!
//! Bounded by a number of series; what is beyond is counted and left out. Keeps no times: series are as old as the page.

use std::fmt::Write as _;

use indexmap::IndexMap;

/// What a series counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    #[default]
    Untyped,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Untyped => "untyped",
        }
    }

    pub fn of(word: &str) -> Self {
        match word {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            _ => Self::Untyped,
        }
    }
}

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    OpenMetrics,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Series by name.
#[derive(Debug, Default)]
pub struct Page {
    families: IndexMap<String, Family>,
    count: usize,
    most: usize,
    /// Beyond the bound.
    pub left_out: u64,
    /// Of a name and labels that were there already.
    pub twice: u64,
}

#[derive(Debug, Default)]
struct Family {
    kind: Kind,
    help: String,
    /// By what is behind the name, with labels as they are written.
    series: IndexMap<String, f64>,
}

/// What a family is.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pub name: &'a str,
    pub kind: Kind,
    pub help: &'a str,
}

impl<'a> About<'a> {
    pub const fn gauge(name: &'a str, help: &'a str) -> Self {
        Self { name, kind: Kind::Gauge, help }
    }

    pub const fn counter(name: &'a str, help: &'a str) -> Self {
        Self { name, kind: Kind::Counter, help }
    }
}

impl Page {
    /// For at most so many series.
    pub fn new(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a series. Characters that names cannot have become `_`.
    pub fn add<L: AsRef<str>, V: AsRef<str>>(&mut self, about: About<'_>, labels: &[(L, V)], value: f64) {
        self.add_part(about, "", labels, value);
    }

    /// Adds a part of a histogram or summary: `_bucket`, `_sum`, `_count`.
    pub fn add_part<L: AsRef<str>, V: AsRef<str>>(&mut self, about: About<'_>, suffix: &str, labels: &[(L, V)], value: f64) {
        if self.count >= self.most {
            self.left_out += 1;
            return;
        }
        let mut key = suffix.to_owned();
        write_labels(labels, &mut key);
        let name = plain_name(about.name, true);
        let family =
            self.families.entry(name).or_insert_with(|| Family { kind: about.kind, help: about.help.to_owned(), ..Family::default() });
        match family.series.entry(key) {
            indexmap::map::Entry::Vacant(vacant) => {
                vacant.insert(value);
                self.count += 1;
            }
            indexmap::map::Entry::Occupied(_) => self.twice += 1,
        }
    }

    /// Adds what another page has. Where both have a family, the kind of the first stays.
    pub fn append(&mut self, other: &Self) {
        for (name, theirs) in &other.families {
            let ours = self.families.entry(name.clone()).or_insert_with(|| Family {
                kind: theirs.kind,
                help: theirs.help.clone(),
                series: IndexMap::new(),
            });
            for (key, value) in &theirs.series {
                match ours.series.entry(key.clone()) {
                    indexmap::map::Entry::Vacant(vacant) => {
                        vacant.insert(*value);
                        self.count += 1;
                    }
                    indexmap::map::Entry::Occupied(_) => self.twice += 1,
                }
            }
        }
        self.left_out += other.left_out;
    }

    pub fn write(&self, format: Format) -> String {
        let mut out = String::new();
        for (name, family) in &self.families {
            if format == Format::OpenMetrics && family.is_odd_summary() {
                // There, quantiles are parts of one, and what has others is nothing in particular, part by part.
                for suffix in ["", "_sum", "_count"] {
                    let of_part = |key: &str| key.strip_prefix(suffix).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
                    family.write(&format!("{name}{suffix}"), Kind::Untyped, format, suffix.len(), of_part, &mut out);
                }
            } else {
                family.write(name, family.kind, format, 0, |_| true, &mut out);
            }
        }
        if format == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }
}

impl Family {
    /// Series whose key is one of `these`, less its first `skipped` bytes, which are in the name already.
    fn write(&self, name: &str, kind: Kind, format: Format, skipped: usize, these: impl Fn(&str) -> bool, out: &mut String) {
        let mut series = self.series.iter().filter(|(key, _)| these(key)).peekable();
        if series.peek().is_none() {
            return;
        }
        let (base, kind) = declared(name, kind, format);
        if !self.help.is_empty() {
            let _ = writeln!(out, "# HELP {base} {}", self.help.replace('\\', "\\\\").replace('\n', "\\n"));
        }
        let _ = writeln!(out, "# TYPE {base} {kind}");
        for (key, value) in series {
            let _ = write!(out, "{name}{} ", &key[skipped..]);
            write_value(*value, out);
            out.push('\n');
        }
    }

    fn is_odd_summary(&self) -> bool {
        let quantile = |key: &str| key.split_once("quantile=\"")?.1.split('"').next()?.parse::<f64>().ok();
        self.kind == Kind::Summary && self.series.keys().any(|key| quantile(key).is_some_and(|quantile| !(0.0..=1.0).contains(&quantile)))
    }
}

/// `OpenMetrics` names the family of a counter without `_total`, and has no counters of other names.
fn declared(name: &str, kind: Kind, format: Format) -> (&str, &'static str) {
    match (format, kind, name.strip_suffix("_total")) {
        (Format::OpenMetrics, Kind::Counter, Some(base)) => (base, "counter"),
        (Format::OpenMetrics, Kind::Counter | Kind::Untyped, _) => (name, "unknown"),
        (_, kind, _) => (name, kind.word()),
    }
}

/// A name that a metric (with `:`) or a label may have.
pub fn plain_name(written: &str, is_metric: bool) -> String {
    let is_fit = |(index, char): (usize, char)| {
        char == '_' || char.is_ascii_alphabetic() || (char == ':' && is_metric) || (index > 0 && char.is_ascii_digit())
    };
    let mut name: String = written.char_indices().map(|(index, char)| if is_fit((index, char)) { char } else { '_' }).collect();
    if name.is_empty() {
        name.push('_');
    }
    name
}

fn write_labels<L: AsRef<str>, V: AsRef<str>>(labels: &[(L, V)], out: &mut String) {
    if labels.is_empty() {
        return;
    }
    for (index, (name, value)) in labels.iter().enumerate() {
        out.push(if index == 0 { '{' } else { ',' });
        out.push_str(&plain_name(name.as_ref(), false));
        out.push_str("=\"");
        for char in value.as_ref().chars() {
            match char {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                char => out.push(char),
            }
        }
        out.push('"');
    }
    out.push('}');
}

fn write_value(value: f64, out: &mut String) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        let _ = write!(out, "{value}");
    }
}
