//! What adapters answer: how things are, and metrics of other programs.
//!
//! Asks nobody: `upkeep` does, and this waits for it no longer than the scraper does.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

use crate::route::Head;
use crate::route::key::write_decoded;
use crate::services::metrics::process::Settings;
use crate::services::metrics::process::topz::{self, Shape, Sort};
use crate::services::metrics::{Collected, Format, Metrics, Page, Probes, Source};
use crate::services::{Adapter, Report};

/// So much sooner than the scraper gives up, a page has to be on its way.
const MARGIN: Duration = Duration::from_millis(100);
/// Shorter pages are not compressed.
const COMPRESSED_MIN: usize = 1024;

pub async fn report(adapter: &Adapter<'_>, head: &Head<'_>, deadline: Option<Instant>) -> Report {
    match adapter {
        Adapter::Health(health) => health.report(head, Instant::now()),
        Adapter::Metrics(_) if !matches!(head.method, b"GET" | b"HEAD") => Report::of_method(),
        Adapter::Metrics(metrics) => match (last_part(head.path), metrics.processes(), &metrics.probes) {
            (b"topz", Some((source, settings)), _) => topz(metrics, source, settings, head, deadline).await,
            (b"probe", _, Some(probes)) => probe(metrics, probes, head, deadline).await,
            _ => page(metrics, head, deadline).await,
        },
    }
}

/// Behind the last slash.
fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

async fn page(metrics: &Metrics, head: &Head<'_>, deadline: Option<Instant>) -> Report {
    let now = Instant::now();
    let until = until(metrics, head, now, deadline);
    // All of them are asked before anybody is waited for.
    let asked: Vec<_> = metrics.sources.iter().map(|source| source.ask(now)).collect();
    let mut said: Vec<(Arc<Source>, Option<Arc<Collected>>)> = Vec::with_capacity(asked.len());
    for (source, asked) in metrics.sources.iter().zip(asked) {
        said.push((Arc::clone(source), heard(asked, until).await));
    }
    written(head, move || Metrics::page(&said, Instant::now())).await
}

/// One source, which the request names.
async fn probe(metrics: &Metrics, probes: &Probes, head: &Head<'_>, deadline: Option<Instant>) -> Report {
    let value = |name: &'static [u8]| {
        let mut decoded = Vec::new();
        write_decoded(head.query_values(name).next()?, &mut decoded);
        String::from_utf8(decoded).ok()
    };
    let source = match probes.source(value(b"module").as_deref(), value(b"target").as_deref()) {
        Ok(source) => source,
        Err(refused) => return plain(refused.status(), &refused.text()),
    };
    let now = Instant::now();
    let said = heard(source.ask(now), until(metrics, head, now, deadline)).await;
    let took = now.elapsed();
    written(head, move || Metrics::page_of_probe(&source, said, took, Instant::now())).await
}

async fn topz(metrics: &Metrics, source: &Source, settings: &Settings, head: &Head<'_>, deadline: Option<Instant>) -> Report {
    let shape = match head.query_values(b"format").next() {
        Some(b"json") => Shape::Json,
        Some(b"html") => Shape::Html,
        Some(b"text") => Shape::Text,
        Some(_) => return plain(400, "`format` is json, html or text"),
        None if accepts(head, "accept", "text/html") => Shape::Html,
        None if accepts(head, "accept", "application/json") => Shape::Json,
        None => Shape::Text,
    };
    let sort = match head.query_values(b"sort").next() {
        None => Sort::Cpu,
        Some(word) => match std::str::from_utf8(word).ok().and_then(Sort::of) {
            Some(sort) => sort,
            None => return plain(400, "`sort` is cpu, memory, fds or threads"),
        },
    };
    let now = Instant::now();
    let Some(said) = heard(source.ask(now), until(metrics, head, now, deadline)).await else {
        return plain(503, "the processes were not looked at in time");
    };
    let Some(table) = &said.table else { return plain(503, said.error.as_deref().unwrap_or("there are no processes")) };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let body = topz::write(table, settings.top.0 as usize, sort, shape, seconds).into_bytes();
    let fields = vec![
        ("Content-Type", shape.content_type().to_owned()),
        ("Cache-Control", "no-store".to_owned()),
        ("Vary", "Accept".to_owned()),
        // Nothing on the page may do anything, whatever a process is called.
        ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'".to_owned()),
    ];
    Report { status: 200, fields, body }
}

fn plain(status: u16, text: &str) -> Report {
    Report { status, fields: vec![("Content-Type", "text/plain; charset=utf-8".to_owned())], body: format!("{text}\n").into_bytes() }
}

type News = watch::Receiver<Option<Arc<Collected>>>;

/// What a source says by then.
async fn heard(asked: Result<Arc<Collected>, News>, until: Instant) -> Option<Arc<Collected>> {
    match asked {
        Ok(collected) => Some(collected),
        Err(mut news) => match timeout_at(until.into(), news.changed()).await {
            Ok(Ok(())) => news.borrow().clone(),
            Ok(Err(_)) | Err(_) => None,
        },
    }
}

fn accepts(head: &Head<'_>, name: &'static str, what: &str) -> bool {
    head.headers.all(name.as_bytes()).any(|value| String::from_utf8_lossy(value).contains(what))
}

/// A page as whoever asks can read it.
async fn written(head: &Head<'_>, page: impl FnOnce() -> Page + Send + 'static) -> Report {
    let format = if accepts(head, "accept", "application/openmetrics-text") { Format::OpenMetrics } else { Format::Text };
    let may_compress = accepts(head, "accept-encoding", "gzip");
    // A page of many thousand series takes longer than the requests that this worker has in flight may wait.
    let written = spawn_blocking(move || {
        let page = page().write(format).into_bytes();
        let compressed = if may_compress && page.len() >= COMPRESSED_MIN { compressed(&page) } else { None };
        match compressed {
            Some(compressed) => (compressed, true),
            None => (page, false),
        }
    });
    let Ok((body, is_compressed)) = written.await else {
        return Report { status: 500, fields: Vec::new(), body: Vec::new() };
    };
    let mut fields = vec![
        ("Content-Type", format.content_type().to_owned()),
        ("Cache-Control", "no-store".to_owned()),
        ("Vary", "Accept, Accept-Encoding".to_owned()),
    ];
    if is_compressed {
        fields.push(("Content-Encoding", "gzip".to_owned()));
    }
    Report { status: 200, fields, body }
}

fn compressed(page: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(page.len() / 4), Compression::fast());
    encoder.write_all(page).ok()?;
    encoder.finish().ok()
}

fn until(metrics: &Metrics, head: &Head<'_>, now: Instant, deadline: Option<Instant>) -> Instant {
    let patience = patience(metrics, head);
    deadline.map_or(now + patience, |deadline| deadline.min(now + patience))
}

/// What Prometheus says that it will wait, less a margin.
fn patience(metrics: &Metrics, head: &Head<'_>) -> Duration {
    let written = head.headers.first(b"x-prometheus-scrape-timeout-seconds");
    let seconds = written.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse::<f64>().ok());
    let theirs = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|theirs| !theirs.is_zero());
    theirs.map_or(metrics.timeout, |theirs| theirs.saturating_sub(MARGIN).max(theirs / 2).min(metrics.timeout))
}
