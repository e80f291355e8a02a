//! Metrics of documents: JSON by filters of jq, text by regexes, pages of others, and what memcached says of itself.
//!
//! Fetches nothing.

use jaq_json::{Num, Val};

use super::page::{About, Page};
use super::relabel::{Rule, relabel};
use super::settings::{Mapping, Match};
use crate::proto::exposition::{self, Kind, Sample};
use crate::value::jq;

type Labels = [(String, String)];

/// A page of another program, relabelled.
///
/// # Errors
///
/// When it is none.
pub fn prometheus(text: &str, rules: &[Rule], ours: &Labels, page: &mut Page) -> Result<(), String> {
    exposition::try_read(text, |sample| {
        page.in_time()?;
        let Some(Sample { name, suffix, kind, help, mut labels, value }) = relabel(rules, sample) else { return Ok(()) };
        labels.extend_from_slice(ours);
        page.add_part(About { name: &name, kind, help: &help }, suffix, &labels, value);
        Ok(())
    })
}

/// Of one document: a filter may go on forever.
const ITEMS_MAX: usize = 1_000_000;

/// # Errors
///
/// When this is no JSON, or a filter fails.
pub fn json(document: &[u8], mappings: &[Mapping], ours: &Labels, page: &mut Page) -> Result<(), String> {
    let document = jq::read(document)?;
    for mapping in mappings {
        let mut add = |item: Val| -> Result<(), String> {
            page.in_time()?;
            let Some(value) = mapping.value.run(item.clone()).next().transpose()?.as_ref().and_then(number) else { return Ok(()) };
            let mut labels = Vec::with_capacity(mapping.labels.len() + ours.len());
            for (name, filter) in &mapping.labels {
                let text = filter.run(item.clone()).next().transpose()?.map(|value| text(&value)).unwrap_or_default();
                labels.push((name.0.clone(), text));
            }
            labels.extend_from_slice(ours);
            let about = About { name: &mapping.name.0, kind: mapping.r#type.kind(), help: &mapping.help };
            page.add(about, &labels, value);
            Ok(())
        };
        let named = |error: String| format!("`{}`: {error}", mapping.name.0);
        match &mapping.each {
            None => add(document.clone()).map_err(named)?,
            Some(each) => {
                for (number, item) in each.run(document.clone()).enumerate() {
                    if number >= ITEMS_MAX {
                        return Err(format!("`{}`: `each` gives more than {ITEMS_MAX} values", mapping.name.0));
                    }
                    item.and_then(&mut add).map_err(named)?;
                }
            }
        }
    }
    Ok(())
}

/// `None` for what is no number.
fn number(value: &Val) -> Option<f64> {
    match value {
        Val::Bool(is_true) => Some(f64::from(u8::from(*is_true))),
        Val::Num(Num::Float(number)) => Some(*number),
        Val::Num(number) => number.to_string().parse().ok(),
        Val::TStr(_) | Val::BStr(_) => text(value).trim().parse().ok(),
        Val::Null | Val::Arr(_) | Val::Obj(_) => None,
    }
}

/// Text as it is, anything else as JSON.
fn text(value: &Val) -> String {
    match value {
        Val::TStr(bytes) | Val::BStr(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::Null => String::new(),
        value => value.to_string(),
    }
}

/// Every place where a regex fits. One that fits nowhere is counted: what others find is no less true.
///
/// # Errors
///
/// When none of them fits anywhere, or what one finds is no number.
pub fn text_matches(text: &str, matches: &[Match], ours: &Labels, page: &mut Page) -> Result<(), String> {
    let mut fits = false;
    for wanted in matches {
        let mut found = false;
        for captures in wanted.regex.0.0.captures_iter(text) {
            page.in_time()?;
            let written = captures.name("value").map_or("", |value| value.as_str());
            let value: f64 = written.trim().parse().map_err(|_| format!("`{}`: `{written:.40}` is no number", wanted.name.0))?;
            let groups = wanted.regex.0.0.capture_names().flatten().filter(|name| *name != "value");
            let mut labels: Vec<(String, String)> = groups
                .map(|name| (name.to_owned(), captures.name(name).map_or_else(String::new, |group| group.as_str().to_owned())))
                .collect();
            labels.extend(wanted.labels.iter().map(|(name, value)| (name.0.clone(), value.clone())));
            labels.extend_from_slice(ours);
            page.add(About { name: &wanted.name.0, kind: wanted.r#type.kind(), help: &wanted.help }, &labels, value);
            found = true;
        }
        fits |= found;
        page.unmatched += u64::from(!found);
    }
    match matches.first() {
        Some(first) if !fits => Err(format!("`{}` fits nowhere in its answer", first.name.0)),
        _ => Ok(()),
    }
}

/// What memcached counts with the names that `memcached_exporter` gives that, and their units.
const COUNTS: &[(&str, &str, Kind, f64)] = &[
    ("uptime", "uptime_seconds", Kind::Counter, 1.0),
    ("time", "time_seconds", Kind::Gauge, 1.0),
    ("curr_connections", "current_connections", Kind::Gauge, 1.0),
    ("total_connections", "connections_total", Kind::Counter, 1.0),
    ("rejected_connections", "connections_rejected_total", Kind::Counter, 1.0),
    ("conn_yields", "connections_yielded_total", Kind::Counter, 1.0),
    ("listen_disabled_num", "connections_listener_disabled_total", Kind::Counter, 1.0),
    ("max_connections", "max_connections", Kind::Gauge, 1.0),
    ("curr_items", "current_items", Kind::Gauge, 1.0),
    ("total_items", "items_total", Kind::Counter, 1.0),
    ("evictions", "items_evicted_total", Kind::Counter, 1.0),
    ("reclaimed", "items_reclaimed_total", Kind::Counter, 1.0),
    ("bytes", "current_bytes", Kind::Gauge, 1.0),
    ("limit_maxbytes", "limit_bytes", Kind::Gauge, 1.0),
    ("bytes_read", "read_bytes_total", Kind::Counter, 1.0),
    ("bytes_written", "written_bytes_total", Kind::Counter, 1.0),
    ("threads", "threads", Kind::Gauge, 1.0),
    ("accepting_conns", "accepting_connections", Kind::Gauge, 1.0),
    ("rusage_user", "process_user_cpu_seconds_total", Kind::Counter, 1.0),
    ("rusage_system", "process_system_cpu_seconds_total", Kind::Counter, 1.0),
];

/// Commands by what became of them.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("get_hits", "get", "hit"),
    ("get_misses", "get", "miss"),
    ("get_expired", "get", "expired"),
    ("get_flushed", "get", "flushed"),
    ("delete_hits", "delete", "hit"),
    ("delete_misses", "delete", "miss"),
    ("incr_hits", "incr", "hit"),
    ("incr_misses", "incr", "miss"),
    ("decr_hits", "decr", "hit"),
    ("decr_misses", "decr", "miss"),
    ("cas_hits", "cas", "hit"),
    ("cas_misses", "cas", "miss"),
    ("cas_badval", "cas", "badval"),
    ("touch_hits", "touch", "hit"),
    ("touch_misses", "touch", "miss"),
    ("cmd_flush", "flush", "hit"),
    ("cmd_set", "set", "hit"),
];

/// `STAT name value`, a line each.
pub fn memcached(stats: &str, ours: &Labels, page: &mut Page) {
    let pairs: Vec<(&str, &str)> = stats.lines().filter_map(|line| line.trim_end().strip_prefix("STAT ")?.split_once(' ')).collect();
    let value = |wanted: &str| pairs.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    for (stat, name, kind, unit) in COUNTS {
        if let Some(number) = value(stat).and_then(|text| text.parse::<f64>().ok()) {
            page.add(About { name: &format!("memcached_{name}"), kind: *kind, help: stat }, ours, number * unit);
        }
    }
    for (stat, command, status) in COMMANDS {
        if let Some(number) = value(stat).and_then(|text| text.parse::<f64>().ok()) {
            let mut labels = vec![("command".to_owned(), (*command).to_owned()), ("status".to_owned(), (*status).to_owned())];
            labels.extend_from_slice(ours);
            let help = "Total number of all requests broken down by command (get, set, etc.) and status.";
            page.add(About::counter("memcached_commands_total", help), &labels, number);
        }
    }
    if let Some(version) = value("version") {
        let mut labels = vec![("version".to_owned(), version.to_owned())];
        labels.extend_from_slice(ours);
        page.add(About::gauge("memcached_version", "The version of this memcached server."), &labels, 1.0);
    }
}
