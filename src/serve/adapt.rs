//! What adapters answer: how things are, and metrics of other programs.
//!
//! Asks nobody: `upkeep` does, and this waits for it no longer than the scraper does.

use std::future::{Future as _, poll_fn};
use std::io::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::spawn_blocking;
use tokio::time::{timeout, timeout_at};

use super::compose::{self, Own, Persistence, client_body};
use super::connection::Client;
use super::exchange::{self, After, Ending, Outcome, local};
use super::fan::{Reply, lines};
use super::pump::Encoder;
use super::side::Side;
use super::timer::Stall;
use super::worker::Worker;
use crate::generation::Listener;
use crate::proto::http1::{BodyFraming, LAST_CHUNK, RequestFraming};
use crate::route::Head;
use crate::route::key::write_decoded;
use crate::services::logs::Logs;
use crate::services::metrics::process::Settings;
use crate::services::metrics::process::topz::{self, Shape, Sort};
use crate::services::metrics::{Collected, Format, Metrics, Page, Probes, Source, TARGETS_ASKED_MAX, Wait};
use crate::services::{Adapter, Body, Report};

/// So much sooner than the scraper gives up, a page has to be on its way.
const MARGIN: Duration = Duration::from_millis(100);
/// Shorter pages are not compressed.
const COMPRESSED_MIN: usize = 1024;

/// What an adapter is asked by a client.
pub struct Ask<'a> {
    pub worker: &'a Worker,
    pub listener: &'a Listener,
    pub adapter: &'a Adapter<'a>,
    pub head: &'a Head<'a>,
    /// If it was read.
    pub body: Option<Body<'a>>,
    pub deadline: Option<Instant>,
}

/// Asks the adapter and answers the client.
pub async fn answer<S: Side>(client: &mut Client<S>, ask: Ask<'_>, reply: &Reply<'_>) -> Outcome {
    let Ask { worker, listener, adapter, head, body, deadline } = ask;
    if let (Adapter::Logs(logs), b"GET") = (adapter, head.method)
        && matches!(head.query_values(b"follow").next(), Some(b"1" | b"true"))
    {
        return follow(client, worker, listener, logs, head, reply).await;
    }
    let report = report(adapter, head, body, deadline).await;
    let fields = reply.edits.all(&report.fields, reply.lookup, reply.more);
    let own = Own { status: report.status, fields: &fields, body: &report.body };
    worker.with_date(|date| own.write(head.method, reply.keep, date, client.link.output()));
    let body_out = if head.method == b"HEAD" { 0 } else { report.body.len() as u64 };
    let read = match body {
        Some(Body::Is(_)) => RequestFraming { body: BodyFraming::None, ..*reply.framing },
        _ => *reply.framing,
    };
    let body_in = if let Some(Body::Is(body)) = body { body.len() as u64 } else { 0 };
    let outcome = local(client, listener, &read, reply.keep, report.status, body_out, None).await;
    Outcome { body_in: outcome.body_in + body_in, ..outcome }
}

/// How often it is looked whether the process ends.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Sends the latest records and then those that come, until the client leaves, the log is written otherwise, or the process drains.
async fn follow<S: Side>(
    client: &mut Client<S>,
    worker: &Worker,
    listener: &Listener,
    logs: &Logs,
    head: &Head<'_>,
    reply: &Reply<'_>,
) -> Outcome {
    // Before the latest are looked at, so that none is missed in between; one may be told twice.
    let mut news = logs.flow.follow();
    let report = latest(logs, head);
    let level = head.query_values(b"level").next().map(|value| String::from_utf8_lossy(value).into_owned());
    let framing = client_body(BodyFraming::Chunked, reply.version);
    let encoder = S::encoder(framing);
    let keep = if framing == BodyFraming::UntilClose { Persistence::Closed } else { reply.keep };
    let fields = reply.edits.all(&report.fields, reply.lookup, reply.more);
    if report.status != 200 {
        let own = Own { status: report.status, fields: &fields, body: &report.body };
        worker.with_date(|date| own.write(head.method, reply.keep, date, client.link.output()));
        return local(client, listener, reply.framing, reply.keep, report.status, report.body.len() as u64, None).await;
    }
    worker.with_date(|date| compose::own_head(200, &fields, framing, keep, date, client.link.output()));
    let mut sent = report.body.len() as u64;
    lines::write(encoder, &report.body, client.link.output());
    let write_limit = listener.timeouts.write;
    let mut stall = Stall::default();
    loop {
        if worker.draining_since().is_some() {
            break;
        }
        let Some(news) = &mut news else { break };
        let mut hearing = pin!(timeout(LOOK_INTERVAL, news.recv()));
        let heard = poll_fn(|cx| {
            let is_blocked = client.link.has_unsent() && client.link.poll_flush(cx).is_pending();
            // While the client takes nothing, batches wait where they are bounded.
            if !is_blocked && let Poll::Ready(heard) = hearing.as_mut().poll(cx) {
                return Poll::Ready(Some(heard));
            }
            if client.link.has_left(cx, true) {
                return Poll::Ready(None);
            }
            let late = stall.deadline(is_blocked, client.link.written_total(), write_limit);
            match [late, client.link.gone_at()].into_iter().flatten().min() {
                Some(until) => client.timer.poll(cx, until).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await;
        let piece = match heard {
            None => {
                client.link.cut();
                return Outcome { body_out: sent, status: 200, ..Outcome::gone(0) };
            }
            Some(Ok(Ok(batch))) => {
                let wanted = |record: &&str| level.as_ref().is_none_or(|level| has_level(record, level));
                batch.records().filter(wanted).collect::<String>()
            }
            Some(Ok(Err(RecvError::Lagged(missed)))) => format!("{{\"_missed\":{missed}}}\n"),
            Some(Err(_)) => continue,
            Some(Ok(Err(RecvError::Closed))) => break,
        };
        sent += piece.len() as u64;
        lines::write(encoder, piece.as_bytes(), client.link.output());
    }
    if encoder == Encoder::Chunked {
        client.link.output().extend_from_slice(LAST_CHUNK);
        client.link.output().extend_from_slice(b"\r\n");
    }
    let (ending, after) = match (exchange::finish(client, write_limit).await, keep) {
        (true, Persistence::Closed) => (Ending::Complete, After::Close),
        (true, _) => (Ending::Complete, After::Keep),
        (false, _) => (Ending::ClientGone, After::Abort),
    };
    Outcome { status: 200, body_out: sent, ending, after, ..Outcome::gone(0) }
}

/// Whether a record has this level, which is its second field if it has one.
fn has_level(record: &str, level: &str) -> bool {
    let wanted = format!("\"level\":\"{}\"", crate::proto::logs::level(level));
    record.split(',').nth(1).is_some_and(|field| field.trim_end_matches(['}', '\n']) == wanted)
}

/// What an adapter says, at once.
pub async fn report(adapter: &Adapter<'_>, head: &Head<'_>, body: Option<Body<'_>>, deadline: Option<Instant>) -> Report {
    match adapter {
        Adapter::Health(health) => health.report(head, Instant::now()),
        Adapter::Logs(logs) => match (head.method, body) {
            (b"GET" | b"HEAD", _) => latest(logs, head),
            (b"POST", Some(Body::Is(lines))) if logs.flow.hears_posts() => taken(logs, lines, head, deadline).await,
            _ => Report::of_method(),
        },
        Adapter::Metrics(_) if !matches!(head.method, b"GET" | b"HEAD") => Report::of_method(),
        Adapter::Metrics(metrics) => match (last_part(head.path), metrics.processes(), &metrics.probes) {
            (b"topz", Some((source, settings)), _) => topz(metrics, source, settings, head, deadline).await,
            (b"probe", _, Some(probes)) => probe(metrics, probes, head, deadline).await,
            _ => page(metrics, head, deadline).await,
        },
    }
}

/// The latest records of a log, `limit` of them, with such a `level`.
fn latest(logs: &Logs, head: &Head<'_>) -> Report {
    let value = |name: &'static [u8]| head.query_values(name).next().map(|value| String::from_utf8_lossy(value).into_owned());
    let mut records = logs.flow.recent();
    if let Some(level) = value(b"level") {
        records.retain(|record| has_level(record, &level));
    }
    match value(b"limit").map(|limit| limit.parse::<usize>()) {
        Some(Ok(limit)) => {
            records.drain(..records.len().saturating_sub(limit));
        }
        Some(Err(_)) => return plain(400, "`limit` is a whole number"),
        None => {}
    }
    let body = records.iter().flat_map(|record| record.bytes()).collect();
    let fields = vec![("Content-Type", "application/x-ndjson".to_owned()), ("Cache-Control", "no-store".to_owned())];
    Report { status: 200, fields, body }
}

/// How long a client waits for sinks.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Lines that a client posts; it is told when every sink has them.
async fn taken(logs: &Logs, lines: &[u8], head: &Head<'_>, deadline: Option<Instant>) -> Report {
    if head.headers.first(b"content-encoding").is_some() {
        return plain(415, "lines are taken as they are, without Content-Encoding");
    }
    let until = Instant::now() + TAKEN_WITHIN;
    let until = deadline.map_or(until, |deadline| deadline.min(until));
    let source = head.client.map_or_else(|| "http".to_owned(), |client| format!("http {client}"));
    if let Some(told) = logs.flow.post(lines, source)
        && let Ok(Ok(())) = timeout_at(until.into(), told).await
    {
        return Report { status: 204, fields: Vec::new(), body: Vec::new() };
    }
    // They may arrive all the same: whoever sends them again may have them twice.
    let mut report = plain(503, "sinks have not taken these yet");
    report.fields.push(("Retry-After", "1".to_owned()));
    report
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
    let asked = source.ask(now);
    if matches!(asked, Err(Wait::Crowd)) {
        return plain(503, &format!("{TARGETS_ASKED_MAX} targets are being asked already; ask for this one later"));
    }
    let said = heard(asked, until(metrics, head, now, deadline)).await;
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

/// What a source says by then.
async fn heard(asked: Result<Arc<Collected>, Wait>, until: Instant) -> Option<Arc<Collected>> {
    match asked {
        Ok(collected) => Some(collected),
        Err(Wait::Crowd) => None,
        Err(Wait::News(mut news)) => match timeout_at(until.into(), news.changed()).await {
            Ok(Ok(())) => news.borrow().clone(),
            Ok(Err(_)) | Err(_) => None,
        },
    }
}

/// Whether `what` is in the list, and not with a weight of 0, which says that it is not wanted (RFC 9110 §12.4.2).
fn accepts(head: &Head<'_>, name: &'static str, what: &str) -> bool {
    head.headers.all(name.as_bytes()).any(|value| is_wanted(&String::from_utf8_lossy(value), what))
}

fn is_wanted(list: &str, what: &str) -> bool {
    list.split(',').any(|element| {
        let mut parts = element.split(';').map(str::trim);
        let is_what = parts.next().is_some_and(|part| part.eq_ignore_ascii_case(what));
        let weight = |part: &str| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="))?.parse::<f32>().ok();
        is_what && !parts.any(|part| weight(part) == Some(0.0))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_weighs_nothing_is_not_wanted() {
        for list in ["gzip", "br, GZIP;q=0.1", "gzip; q=1", "deflate,gzip ;q=0.001"] {
            assert!(is_wanted(list, "gzip"), "{list}");
        }
        for list in ["gzip;q=0", "gzip; q=0.000", "br, gzip;Q=0", "x-gzip-like", ""] {
            assert!(!is_wanted(list, "gzip"), "{list}");
        }
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert!(is_wanted(prometheus, "application/openmetrics-text") && !is_wanted(prometheus, "text/html"));
    }
}
