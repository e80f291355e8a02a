//! Series of many names, as a page that Prometheus reads: text 0.0.4, or `OpenMetrics` 1.0.
//!
//! Bounded by a number of series; what is beyond is counted and left out. Keeps no times: series are as old as the page.

use std::fmt::Write as _;

use indexmap::IndexMap;

use crate::proto::exposition::{Kind, plain_name, write_labels, write_value};

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
