//! Pages of metrics made one: counters, histograms and summaries' sums are added up, gauges stay apart by a label `leaf`.
//!
//! The text format, version 0.0.4. A metric whose type nobody says is taken for a gauge: to add up what should not be is worse.

use std::collections::HashMap;
use std::fmt::Write as _;

use indexmap::IndexMap;

use super::{Answer, Merged, Misfit, Reason};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    Counter,
    #[default]
    Gauge,
    Histogram,
    Summary,
}

#[derive(Default)]
struct Family<'a> {
    kind: Kind,
    word: &'a str,
    help: Option<&'a str>,
    /// By name and labels, as they are written.
    series: IndexMap<String, f64>,
}

pub(super) fn merge(answers: &[Answer<'_>]) -> Result<Merged, Misfit> {
    let mut families: IndexMap<&str, Family<'_>> = IndexMap::new();
    for (number, answer) in answers.iter().enumerate() {
        let misfit = || Misfit { answer: number, reason: Reason::NotMetrics };
        let text = std::str::from_utf8(answer.body).map_err(|_| misfit())?;
        let mut kinds: HashMap<&str, Kind> = HashMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, word) = rest.trim().split_once(' ').ok_or_else(misfit)?;
                let word = word.trim();
                let kind = match word {
                    "counter" => Kind::Counter,
                    "histogram" => Kind::Histogram,
                    "summary" => Kind::Summary,
                    _ => Kind::Gauge,
                };
                kinds.insert(name, kind);
                let family = families.entry(name).or_default();
                if !family.word.is_empty() && family.kind != kind {
                    return Err(Misfit { answer: number, reason: Reason::Conflict });
                }
                (family.kind, family.word) = (kind, word);
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                families.entry(name).or_default().help.get_or_insert(help);
            } else if !line.starts_with('#') {
                let sample = sample(line).ok_or_else(misfit)?;
                let (family_name, kind) = family_of(sample.name, &kinds);
                let family = families.entry(family_name).or_default();
                let is_added = match kind {
                    Kind::Counter | Kind::Histogram => true,
                    // Quantiles of different programs have no sum.
                    Kind::Summary => sample.name.len() > family_name.len(),
                    Kind::Gauge => false,
                };
                if is_added {
                    *family.series.entry(format!("{}{}", sample.name, labels(sample.labels, None))).or_default() += sample.value;
                } else {
                    family.series.insert(format!("{}{}", sample.name, labels(sample.labels, Some(answer.leaf))), sample.value);
                }
            }
        }
    }
    let mut body = String::new();
    for (name, family) in &families {
        if family.series.is_empty() {
            continue;
        }
        if let Some(help) = family.help {
            let _ = writeln!(body, "# HELP {name} {help}");
        }
        if !family.word.is_empty() {
            let _ = writeln!(body, "# TYPE {name} {}", family.word);
        }
        for (series, value) in &family.series {
            let _ = writeln!(body, "{series} {}", shown(*value));
        }
    }
    Ok(Merged { status: 200, content_type: "text/plain; version=0.0.4; charset=utf-8".to_owned(), body: body.into_bytes() })
}

struct Sample<'a> {
    name: &'a str,
    /// Between the braces.
    labels: &'a str,
    value: f64,
}

/// A line of a page; its time, if it has one, is forgotten.
fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(|char: char| char == '{' || char.is_ascii_whitespace())?;
    let (name, rest) = line.split_at(end);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    if name.is_empty() || !name.bytes().all(is_name) {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        None => ("", rest),
        Some(inside) => {
            let mut is_quoted = false;
            let mut is_escaped = false;
            let end = inside.bytes().position(|byte| {
                let was_escaped = is_escaped;
                is_escaped = is_quoted && byte == b'\\' && !was_escaped;
                if byte == b'"' && !was_escaped {
                    is_quoted = !is_quoted;
                }
                byte == b'}' && !is_quoted
            })?;
            (&inside[..end], &inside[end + 1..])
        }
    };
    let value = match rest.split_ascii_whitespace().next()? {
        "+Inf" | "Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().ok()?,
    };
    Some(Sample { name, labels: labels.trim().trim_end_matches(','), value })
}

/// Which metric a series belongs to: those of histograms and summaries have names of their own.
fn family_of<'a>(name: &'a str, kinds: &HashMap<&'a str, Kind>) -> (&'a str, Kind) {
    if let Some(kind) = kinds.get(name) {
        return (name, *kind);
    }
    for suffix in ["_bucket", "_sum", "_count"] {
        if let Some(base) = name.strip_suffix(suffix)
            && let Some(kind @ (Kind::Histogram | Kind::Summary)) = kinds.get(base)
        {
            return (base, *kind);
        }
    }
    (name, Kind::Gauge)
}

fn labels(written: &str, leaf: Option<&str>) -> String {
    match (written, leaf.map(|leaf| leaf.replace('\\', "\\\\").replace('"', "\\\""))) {
        ("", None) => String::new(),
        (written, None) => format!("{{{written}}}"),
        ("", Some(leaf)) => format!("{{leaf=\"{leaf}\"}}"),
        (written, Some(leaf)) => format!("{{{written},leaf=\"{leaf}\"}}"),
    }
}

fn shown(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        value.to_string()
    }
}
