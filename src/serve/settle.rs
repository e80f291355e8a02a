//! The end of an exchange: what is counted, and its line in the log.
//!
//! Gives back no lease; whoever took one does.

use std::time::Instant;

use super::exchange::{Ending, Outcome};
use super::worker::Worker;
use crate::generation::{Generation, Listener, Route};
use crate::proto::http1::{Known, RequestHead, Version};
use crate::refusal::Refusal;
use crate::route::Head;
use crate::services::Way;
use crate::telemetry::{access, clock};

/// What the log says of a request.
pub struct Told<'a> {
    pub head: &'a Head<'a>,
    pub request: &'a RequestHead,
    pub route: Option<&'a Route>,
    pub target: &'a [u8],
}

/// Counts the exchange and writes its record.
pub fn settle(
    worker: &Worker,
    listener: &Listener,
    generation: &Generation,
    told: &Told<'_>,
    way: &Way<'_>,
    outcome: &Outcome,
    started: Instant,
) {
    let took = outcome.ended.saturating_duration_since(started);
    let metrics = told.route.map_or(&listener.unrouted, |route| &route.metrics);
    if outcome.status > 0 {
        metrics.finished(worker.index, outcome.status, took);
        way.finished(worker.index, outcome.status, took);
    }
    if let Some(refusal) = outcome.refusal {
        listener.metrics.refused(worker.index, refusal.index());
    }
    let Some(format) = generation.file.log.access.format() else { return };
    let head = told.head;
    let arm = way.arm();
    let known = |known| head.headers.fields.iter().find(|field| field.known == known).map(|field| field.value.of(head.headers.bytes));
    let record = access::Record {
        time: clock::unix_now(),
        client: head.client,
        method: head.method,
        host: present(head.authority),
        target: told.target,
        protocol: match told.request.version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2.0",
        },
        status: outcome.status,
        bytes_in: outcome.body_in,
        bytes_out: outcome.body_out,
        duration: took,
        listener: &listener.name,
        route: told.route.map_or("", |route| route.name.as_str()),
        service: told.route.map_or("", |route| route.service_name.as_str()),
        arm: arm.as_deref(),
        leaves: outcome.leaves.as_deref(),
        endpoint: outcome.endpoint.as_ref().map(|endpoint| endpoint.name.as_str()),
        attempts: outcome.attempts,
        request_id: present(head.request_id),
        refusal: outcome.refusal.map(Refusal::label),
        outcome: match outcome.ending {
            Ending::Complete => access::Outcome::Complete,
            Ending::ClientGone => access::Outcome::ClientGone,
            Ending::Cut | Ending::OutOfTime | Ending::Refused => access::Outcome::Cut,
        },
        user_agent: known(Known::UserAgent),
        referer: known(Known::Referer),
        tls: head.tls.map(|tls| access::Tls { version: tls.version, sni: tls.sni.as_deref() }),
    };
    worker.record(format, &record);
}

/// Empty is as good as absent.
fn present(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}
