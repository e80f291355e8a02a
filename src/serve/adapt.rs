//! What adapters answer: how things are, and metrics of other programs.
//!
//! Asks nobody: `upkeep` does, and this waits for it no longer than the scraper does.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

use crate::route::Head;
use crate::services::metrics::{Collected, Format, Metrics, Source};
use crate::services::{Adapter, Report};

/// So much sooner than the scraper gives up, a page has to be on its way.
const MARGIN: Duration = Duration::from_millis(100);
/// Shorter pages are not compressed.
const COMPRESSED_MIN: usize = 1024;

pub async fn report(adapter: &Adapter<'_>, head: &Head<'_>, deadline: Option<Instant>) -> Report {
    match adapter {
        Adapter::Health(health) => health.report(head, Instant::now()),
        Adapter::Metrics(_) if !matches!(head.method, b"GET" | b"HEAD") => Report::of_method(),
        Adapter::Metrics(metrics) => page(metrics, head, deadline).await,
    }
}

async fn page(metrics: &Metrics, head: &Head<'_>, deadline: Option<Instant>) -> Report {
    let now = Instant::now();
    let patience = patience(metrics, head);
    let until = deadline.map_or(now + patience, |deadline| deadline.min(now + patience));
    // All of them are asked before anybody is waited for.
    let asked: Vec<_> = metrics.sources.iter().map(|source| source.ask(now)).collect();
    let mut said: Vec<(Arc<Source>, Option<Arc<Collected>>)> = Vec::with_capacity(asked.len());
    for (source, asked) in metrics.sources.iter().zip(asked) {
        let collected = match asked {
            Ok(collected) => Some(collected),
            Err(mut news) => match timeout_at(until.into(), news.changed()).await {
                Ok(Ok(())) => news.borrow().clone(),
                Ok(Err(_)) | Err(_) => None,
            },
        };
        said.push((Arc::clone(source), collected));
    }
    let accepts =
        |name: &'static str, what: &str| head.headers.all(name.as_bytes()).any(|value| String::from_utf8_lossy(value).contains(what));
    let format = if accepts("accept", "application/openmetrics-text") { Format::OpenMetrics } else { Format::Text };
    let may_compress = accepts("accept-encoding", "gzip");
    // A page of many thousand series takes longer than the requests that this worker has in flight may wait.
    let written = spawn_blocking(move || {
        let page = Metrics::page(&said, Instant::now()).write(format).into_bytes();
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

/// What Prometheus says that it will wait, less a margin.
fn patience(metrics: &Metrics, head: &Head<'_>) -> Duration {
    let written = head.headers.first(b"x-prometheus-scrape-timeout-seconds");
    let seconds = written.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse::<f64>().ok());
    let theirs = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|theirs| !theirs.is_zero());
    theirs.map_or(metrics.timeout, |theirs| theirs.saturating_sub(MARGIN).max(theirs / 2).min(metrics.timeout))
}
