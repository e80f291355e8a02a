//! Pages of metrics in the text format, version 0.0.4: reads them, and spells names, labels and values.
//!
//! Forgets times: what is read now is as old as now. Decides nothing about series.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

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

/// One series of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Of the family; `suffix` is what follows in names of parts of histograms and summaries.
    pub name: String,
    pub suffix: &'static str,
    pub kind: Kind,
    /// Of all its series: of a page that has a million of them, each would have its own.
    pub help: Arc<str>,
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

/// Of one series. Rules look at each, and at all others for each.
const LABELS_MAX: usize = 256;
/// What is behind is not kept: a line for people.
const HELP_BYTES_MAX: usize = 4096;

/// Gives each series to `take`.
///
/// # Errors
///
/// The number of the first line that is none of a page.
pub fn read(text: &str, mut take: impl FnMut(Sample)) -> Result<(), String> {
    try_read(text, |sample| {
        take(sample);
        Ok(())
    })
}

/// As [`read`], to the first one that `take` does not want.
///
/// # Errors
///
/// As [`read`]; or what `take` says.
pub fn try_read(text: &str, mut take: impl FnMut(Sample) -> Result<(), String>) -> Result<(), String> {
    let mut kinds: HashMap<&str, Kind> = HashMap::new();
    let mut helps: HashMap<&str, Arc<str>> = HashMap::new();
    let none: Arc<str> = Arc::from("");
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            if let Some((name, word)) = rest.trim().split_once([' ', '\t']) {
                kinds.insert(name, Kind::of(word.trim()));
            }
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
            helps.insert(name, unescaped(help).into());
        } else if !line.is_empty() && !line.starts_with('#') {
            let (name, labels, value) = sample(line).map_err(|why| format!("line {} of its page {why}", index + 1))?;
            let (family, suffix, kind) = family_of(name, &kinds);
            let help = Arc::clone(helps.get(family).unwrap_or(&none));
            take(Sample { name: family.to_owned(), suffix, kind, help, labels, value })?;
        }
    }
    Ok(())
}

/// `\n` is a new line and `\\` is `\`, each read once.
fn unescaped(help: &str) -> String {
    let mut text = String::new();
    let mut chars = help.chars();
    while let Some(char) = chars.next().filter(|_| text.len() < HELP_BYTES_MAX) {
        match (char, chars.as_str().chars().next()) {
            ('\\', Some(escaped @ ('n' | '\\'))) => {
                chars.next();
                text.push(if escaped == 'n' { '\n' } else { escaped });
            }
            _ => text.push(char),
        }
    }
    text
}

type Labels = Vec<(String, String)>;
type Parts<'a> = (&'a str, Labels, f64);

const NO_METRIC: &str = "is no metric";

fn sample(line: &str) -> Result<Parts<'_>, String> {
    let end = line.find(|char: char| char == '{' || char.is_ascii_whitespace()).ok_or(NO_METRIC)?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':') {
        return Err(NO_METRIC.to_owned());
    }
    let rest = rest.trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => read_labels(inside)?,
        None => (Vec::new(), rest),
    };
    let value = match rest.split_ascii_whitespace().next().ok_or(NO_METRIC)? {
        "+Inf" | "Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().map_err(|_| NO_METRIC)?,
    };
    Ok((name, labels, value))
}

/// Up to the closing brace, and what follows it.
fn read_labels(mut rest: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    loop {
        rest = rest.trim_start_matches(|char: char| char == ',' || char.is_ascii_whitespace());
        if let Some(behind) = rest.strip_prefix('}') {
            return Ok((labels, behind));
        }
        if labels.len() >= LABELS_MAX {
            return Err(format!("has more than {LABELS_MAX} labels"));
        }
        let (name, behind) = rest.split_once('=').ok_or(NO_METRIC)?;
        let name = name.trim();
        if labels.iter().any(|(known, _)| known == name) {
            return Err(format!("has the label `{name:.40}` twice"));
        }
        let quoted = behind.trim_start().strip_prefix('"').ok_or(NO_METRIC)?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next().ok_or(NO_METRIC)? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().ok_or(NO_METRIC)?.1 {
                    'n' => '\n',
                    char => char,
                }),
                (_, char) => value.push(char),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &quoted[end + 1..];
    }
}

/// Which family a series belongs to: parts of histograms and summaries have names of their own.
fn family_of<'a>(name: &'a str, kinds: &HashMap<&'a str, Kind>) -> (&'a str, &'static str, Kind) {
    if let Some(kind) = kinds.get(name) {
        return (name, "", *kind);
    }
    for suffix in ["_bucket", "_sum", "_count"] {
        if let Some(base) = name.strip_suffix(suffix)
            && let Some(kind @ (Kind::Histogram | Kind::Summary)) = kinds.get(base)
        {
            return (base, suffix, *kind);
        }
    }
    (name, "", Kind::Untyped)
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

/// In braces, if there are any.
pub fn write_labels<L: AsRef<str>, V: AsRef<str>>(labels: &[(L, V)], out: &mut String) {
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

pub fn write_value(value: f64, out: &mut String) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        let _ = write!(out, "{value}");
    }
}
