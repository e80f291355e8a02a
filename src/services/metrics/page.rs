//! Series of many names, as a page that Prometheus reads: text 0.0.4, or `OpenMetrics` 1.0.
//!
//! Bounded by a number of series; what is beyond is counted and left out. Keeps no times: series are as old as the page.

use std::fmt::Write as _;
use std::time::Instant;

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
    /// Regexes that fit nowhere in what a source said.
    pub unmatched: u64,
    /// When nobody waits for it any more.
    deadline: Option<Instant>,
    /// How often it was asked whether that is now.
    asked: u32,
}

/// Who makes a page looks at the clock once for so many pieces of it.
const PIECES_PER_LOOK: u32 = 256;

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

    /// For somebody who waits no longer than this.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Whether there is time for another piece. A thread that makes a page cannot be stopped from outside.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn in_time(&mut self) -> Result<(), String> {
        self.asked = self.asked.wrapping_add(1);
        match self.deadline {
            Some(deadline) if self.asked % PIECES_PER_LOOK == 1 && Instant::now() >= deadline => {
                Err("what it says takes too long to read".to_owned())
            }
            _ => Ok(()),
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a series. Characters that names cannot have become `_`. Of labels that have one name then, the last keeps it and others go by
    /// `exported_` and that name, as where this is scraped: whoever adds labels of ours adds them last.
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
        let names = unique_names(labels.iter().map(|(name, _)| plain_name(name.as_ref(), false)).collect());
        let labels: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(labels.iter().map(|(_, value)| value.as_ref())).collect();
        write_labels(&labels, &mut key);
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

    /// Adds what another page has, and says how many of its series are here already. Where both have a family, the kind of the first stays.
    pub fn append(&mut self, other: &Self) -> u64 {
        let mut twice = 0;
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
                    indexmap::map::Entry::Occupied(_) => twice += 1,
                }
            }
        }
        self.left_out += other.left_out;
        self.twice += twice;
        twice
    }

    /// Another value for a series that is here.
    pub fn set<L: AsRef<str>, V: AsRef<str>>(&mut self, about: About<'_>, labels: &[(L, V)], value: f64) {
        let mut key = String::new();
        write_labels(labels, &mut key);
        if let Some(known) = self.families.get_mut(about.name).and_then(|family| family.series.get_mut(&key)) {
            *known = value;
        }
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

/// What stands for the metric's own name where labels are told.
const NAME: &str = "__name__";

/// The last of those with one name keeps it. A page with a label twice is refused as a whole.
fn unique_names(mut names: Vec<String>) -> Vec<String> {
    let is_taken = |names: &[String], at: usize| names[at] == NAME || names[at + 1..].contains(&names[at]);
    let taken: Vec<usize> = (0..names.len()).filter(|at| is_taken(&names, *at)).collect();
    for at in taken {
        while names[at] == NAME || names.iter().enumerate().any(|(other, name)| other != at && *name == names[at]) {
            names[at].insert_str(0, "exported_");
        }
    }
    names
}

/// `OpenMetrics` names the family of a counter without `_total`, and has no counters of other names.
fn declared(name: &str, kind: Kind, format: Format) -> (&str, &'static str) {
    match (format, kind, name.strip_suffix("_total")) {
        (Format::OpenMetrics, Kind::Counter, Some(base)) => (base, "counter"),
        (Format::OpenMetrics, Kind::Counter | Kind::Untyped, _) => (name, "unknown"),
        (_, kind, _) => (name, kind.word()),
    }
}
