//! Counters and histograms that are made of records.
//!
//! Bounded: series beyond are left out and counted. Knows no time, so a series stays until its log is written otherwise.

use std::fmt::Write as _;

use indexmap::IndexMap;

use super::settings::{Count, CountType};
use crate::proto::exposition::{write_labels, write_value};
use crate::proto::logs::Record;

/// Series of one log.
#[derive(Debug)]
pub struct Counts {
    /// One for each count, in their order.
    families: Vec<Family>,
}

#[derive(Debug, Default)]
struct Family {
    /// By labels as they are written, without braces.
    series: IndexMap<String, Series>,
}

#[derive(Debug, Default)]
struct Series {
    sum: f64,
    count: u64,
    /// Not added up.
    buckets: Vec<u64>,
}

/// Of one count.
const SERIES_MAX: usize = 10_000;
const LABEL_BYTES_MAX: usize = 256;

impl Counts {
    pub fn new(counts: &[Count]) -> Self {
        Self { families: counts.iter().map(|_| Family::default()).collect() }
    }

    /// `at` is the place of a count among those these were made for. `false` if there is no room for one more series.
    pub fn add(&mut self, at: usize, count: &Count, record: &Record<'_>) -> bool {
        let Some(family) = self.families.get_mut(at) else { return true };
        let value = match &count.value {
            None => 1.0,
            Some(place) => match place.of(record).and_then(|text| text.trim().parse::<f64>().ok()).filter(|value| value.is_finite()) {
                // A counter never goes down.
                Some(value) if value >= 0.0 || count.r#type == CountType::Histogram => value,
                _ => return true,
            },
        };
        let mut labels = Vec::with_capacity(count.labels.len());
        for (name, place) in &count.labels {
            let mut text = place.of(record).unwrap_or_default().into_owned();
            while text.len() > LABEL_BYTES_MAX {
                text.pop();
            }
            labels.push((name.0.as_str(), text));
        }
        let mut key = String::new();
        write_labels(&labels, &mut key);
        if family.series.len() >= SERIES_MAX && !family.series.contains_key(&key) {
            return false;
        }
        let series = family.series.entry(key).or_default();
        series.sum += value;
        series.count += 1;
        if count.r#type == CountType::Histogram {
            series.buckets.resize(count.buckets.0.len(), 0);
            if let Some(bucket) = count.buckets.0.iter().position(|bound| value <= *bound) {
                series.buckets[bucket] += 1;
            }
        }
        true
    }

    /// As Prometheus reads it.
    pub fn write(&self, counts: &[Count]) -> String {
        let mut out = String::new();
        for (count, family) in counts.iter().zip(&self.families).filter(|(_, family)| !family.series.is_empty()) {
            let name = &count.name.value.0;
            if !count.help.is_empty() {
                let _ = writeln!(out, "# HELP {name} {}", count.help.replace('\\', "\\\\").replace('\n', "\\n"));
            }
            let word = if count.r#type == CountType::Counter { "counter" } else { "histogram" };
            let _ = writeln!(out, "# TYPE {name} {word}");
            for (labels, series) in &family.series {
                let mut line = |suffix: &str, labels: &str, value: f64| {
                    let _ = write!(out, "{name}{suffix}{labels} ");
                    write_value(value, &mut out);
                    out.push('\n');
                };
                if count.r#type == CountType::Counter {
                    line("", labels, series.sum);
                    continue;
                }
                let within = |bound: &str| match labels.strip_suffix('}') {
                    Some(labels) => format!("{labels},le=\"{bound}\"}}"),
                    None => format!("{{le=\"{bound}\"}}"),
                };
                let mut so_far = 0;
                for (bound, inside) in count.buckets.0.iter().zip(&series.buckets) {
                    so_far += inside;
                    line("_bucket", &within(&bound.to_string()), so_far as f64);
                }
                line("_bucket", &within("+Inf"), series.count as f64);
                line("_sum", labels, series.sum);
                line("_count", labels, series.count as f64);
            }
        }
        out
    }
}
