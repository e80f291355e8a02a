//! Pages of metrics made one: counters, histograms and summaries' sums are added up, gauges stay apart by a label `leaf`.
//!
//! A metric whose type nobody says is taken for a gauge: to add up what should not be is worse.

use std::fmt::Write as _;
use std::sync::Arc;

use indexmap::IndexMap;

use super::{Answer, Merged, Misfit, Reason};
use crate::proto::exposition::{Kind, Sample, read, write_labels, write_value};

#[derive(Default)]
struct Family {
    kind: Kind,
    help: Arc<str>,
    /// By what is behind the name, with labels as they are written.
    series: IndexMap<String, f64>,
}

pub(super) fn merge(answers: &[Answer<'_>]) -> Result<Merged, Misfit> {
    let mut families: IndexMap<String, Family> = IndexMap::new();
    for (number, answer) in answers.iter().enumerate() {
        let misfit = |reason| Misfit { answer: number, reason };
        let text = std::str::from_utf8(answer.body).map_err(|_| misfit(Reason::NotMetrics))?;
        let mut is_other = false;
        read(text, |sample| is_other |= !add(&mut families, sample, answer.leaf)).map_err(|_| misfit(Reason::NotMetrics))?;
        if is_other {
            return Err(misfit(Reason::Conflict));
        }
    }
    let mut body = String::new();
    for (name, family) in &families {
        if !family.help.is_empty() {
            let _ = writeln!(body, "# HELP {name} {}", family.help.replace('\\', "\\\\").replace('\n', "\\n"));
        }
        if family.kind != Kind::Untyped {
            let _ = writeln!(body, "# TYPE {name} {}", family.kind.word());
        }
        for (key, value) in &family.series {
            let _ = write!(body, "{name}{key} ");
            write_value(*value, &mut body);
            body.push('\n');
        }
    }
    Ok(Merged { status: 200, content_type: "text/plain; version=0.0.4; charset=utf-8".to_owned(), body: body.into_bytes() })
}

/// `false` if another leaf says that this is something else.
fn add(families: &mut IndexMap<String, Family>, sample: Sample, leaf: &str) -> bool {
    let Sample { name, suffix, kind, help, mut labels, value } = sample;
    let family = families.entry(name).or_insert_with(|| Family { kind, help, series: IndexMap::new() });
    if family.kind != kind {
        return false;
    }
    let is_added = match kind {
        Kind::Counter | Kind::Histogram => true,
        // Quantiles of different programs have no sum.
        Kind::Summary => !suffix.is_empty(),
        Kind::Gauge | Kind::Untyped => false,
    };
    if !is_added {
        labels.push(("leaf".to_owned(), leaf.to_owned()));
    }
    let mut key = suffix.to_owned();
    write_labels(&labels, &mut key);
    let known = family.series.entry(key).or_default();
    *known = if is_added { *known + value } else { value };
    true
}
