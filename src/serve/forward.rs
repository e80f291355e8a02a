//! Sends a request to an endpoint and its answer to the client, both bodies at once.
//!
//! Owns the lease, the choice of connection and the one quiet retry; knows nothing of routes.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::compose::{self, Forwarding, Persistence, Relay};
use super::connect::Carrier;
use super::connection::Client;
use super::exchange::{self, After, Ending, Outcome};
use super::h2::endpoint::Stream;
use super::link::Link;
use super::open::{self, CONNECT_ATTEMPTS};
use super::pump::{Pump, PumpError};
use super::side::{Far, Side};
use super::waits::{Early, Waits, poll_deadlines, poll_upload};
use super::worker::Worker;
use crate::generation::{Listener, Route};
use crate::proto::http1::{BodyFraming, Known, Limits, Progress, RequestFraming, ResponseHead, Version, response_framing};
use crate::refusal::Refusal;
use crate::route::{Captures, Head, HeadLookup};
use crate::telemetry::metrics;
use crate::upstream::{Endpoint, Lease, Pool, SendProxy};
use crate::value::{Address, BodyLimit};

/// One request on its way.
pub struct Job<'a, S> {
    pub worker: &'a Rc<Worker>,
    pub client: &'a mut Client<S>,
    pub listener: &'a Listener,
    pub head: &'a Head<'a>,
    pub route: &'a Route,
    pub captures: &'a Captures<'a>,
    pub framing: &'a RequestFraming,
    pub version: Version,
    /// What the connection is to go on with, if the endpoint agrees.
    pub upgrade: Option<&'a [u8]>,
    pub peer_is_trusted: bool,
    /// What becomes of the client's connection if nothing goes wrong.
    pub keep: Persistence,
    pub response: &'a mut ResponseHead,
    /// When the whole exchange must be over.
    pub deadline: Option<Instant>,
}

/// What an endpoint's head may be; ours to bound, not the operator's yet.
const RESPONSE_LIMITS: Limits = Limits { header_bytes: 256 << 10, headers: 1000, uri_bytes: 0 };
/// Interim answers to one request.
const INTERIM_MAX: u32 = 32;
/// Times that a request goes out again, because the endpoint cannot have acted on it.
const REPEATS_MAX: u32 = 3;

pub async fn forward<S: Side>(mut job: Job<'_, S>, pool: &Pool) -> Outcome {
    let mut attempts = 0;
    let mut connects = 0;
    let mut repeats = 0;
    let mut avoid: Option<Arc<Endpoint>> = None;
    // A request taken back before we came to it: nobody need be asked. Nothing is read to know it.
    if poll_fn(|cx| Poll::Ready(job.client.link.has_left(cx, false))).await {
        return Outcome::gone(0);
    }
    loop {
        let Some(lease) = pool.pick(job.worker.index, avoid.as_deref()) else {
            return job.refuse(Refusal::NoEndpoint, 0, None, attempts, true).await;
        };
        attempts += 1;
        let started = Instant::now();
        // The usual way first, which waits for nothing.
        let may_reuse = repeats == 0 && pool.send_proxy == SendProxy::Off;
        let connected = match job.reuse(lease.endpoint(), may_reuse, started) {
            Some(wire) => Ok((Carrier::Wire(wire), true)),
            None => job.connect(lease.endpoint(), pool, may_reuse, started).await,
        };
        let (carrier, is_reused) = match connected {
            Ok(connected) => connected,
            Err(refusal) => {
                let endpoint = Arc::clone(lease.endpoint());
                open::settle(lease, open::outcome(refusal), pool, job.worker, started.elapsed());
                connects += 1;
                let is_another = avoid.as_ref().is_none_or(|avoid| avoid.id != endpoint.id) && pool.members().len() > 1;
                if connects < CONNECT_ATTEMPTS && is_another && refusal != Refusal::RouteTimeout {
                    pool.metrics.retried(job.worker.index, metrics::Retry::Connect);
                    avoid = Some(endpoint);
                    continue;
                }
                return job.refuse(refusal, 0, Some(endpoint), attempts, true).await;
            }
        };
        let attempt = Attempt { pool, lease, started, attempts, is_reused, is_last: repeats == REPEATS_MAX };
        let outcome = match carrier {
            Carrier::Wire(wire) => job.attempt(Link::new(wire, Rc::clone(&job.worker.stock)), attempt).await,
            // On the heap: exchanges over HTTP/1 should not be as large as one of these.
            Carrier::Place(place) => {
                let stream = Stream::new(place, attempt.lease.endpoint().tls.is_some());
                Box::pin(job.attempt(stream, attempt)).await
            }
        };
        if let Some(outcome) = outcome {
            return outcome;
        }
        pool.metrics.retried(job.worker.index, metrics::Retry::Reset);
        repeats += 1;
    }
}

/// One request to one endpoint.
struct Attempt<'a> {
    pool: &'a Pool,
    lease: Lease,
    started: Instant,
    /// This one and those before it.
    attempts: u32,
    /// What carries it was used before.
    is_reused: bool,
    is_last: bool,
}

/// What an exchange leaves of what carried it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Both messages ended on it.
    Clean,
    /// The answer did.
    Used,
    Broken,
}

impl<'a, S: Side> Job<'a, S> {
    /// `None` if the request can be sent again as if for the first time.
    async fn attempt<E: Far>(&mut self, mut link: E, attempt: Attempt<'_>) -> Option<Outcome> {
        let Attempt { pool, lease, started, attempts, is_reused, is_last } = attempt;
        let endpoint = Arc::clone(lease.endpoint());
        let mut upload = self.begin::<E>(&endpoint, link.output());
        let early = match self.until_final_head(&mut link, &mut upload, pool).await {
            Ok(()) => {
                let (outcome, left) = if self.response.status == 101 {
                    (self.switch(&mut link, pool, &endpoint, attempts).await, Left::Broken)
                } else {
                    self.relay(&mut link, &mut upload, pool, &endpoint, attempts).await
                };
                if left != Left::Broken
                    && let Some(wire) = link.release(left == Left::Clean && pool.send_proxy == SendProxy::Off)
                {
                    self.worker.idle.put(endpoint.id, wire, Instant::now() + pool.timeouts.idle);
                    self.worker.sweep_later();
                }
                let reported = match outcome.ending {
                    Ending::Cut => metrics::Outcome::Reset,
                    _ if outcome.refusal.is_some() => metrics::Outcome::Broken,
                    _ if outcome.status >= 500 => metrics::Outcome::Status5xx,
                    _ => metrics::Outcome::Ok,
                };
                open::settle(lease, reported, pool, self.worker, outcome.ended.saturating_duration_since(started));
                return Some(outcome);
            }
            Err(early) => early,
        };
        let body_in = upload.moved;
        let body_is_taken = upload.is_taken();
        let may_repeat = !is_last && upload.is_untouched && link.may_repeat(is_reused, self.is_idempotent());
        if let Early::TimedOut(_) = early {
            link.timed_out();
        }
        // What is left of the request is taken back before anything else is waited for.
        drop(link);
        let settle = |lease, outcome| open::settle(lease, outcome, pool, self.worker, started.elapsed());
        let (refusal, body_is_taken) = match early {
            Early::Dead | Early::Unwelcome(_) if may_repeat => {
                // The connection died while it was idle, or the endpoint says that it never saw this request.
                settle(lease, metrics::Outcome::Reset);
                return None;
            }
            Early::Dead => {
                settle(lease, metrics::Outcome::Reset);
                (Refusal::EndpointReset, body_is_taken)
            }
            Early::Unwelcome(failure) => {
                settle(lease, metrics::Outcome::TlsFailed);
                open::complain(self.worker, &failure, pool, &endpoint);
                (failure.refusal, body_is_taken)
            }
            Early::Broken(refusal) => {
                settle(lease, metrics::Outcome::Broken);
                (refusal, body_is_taken)
            }
            Early::TimedOut(refusal) => {
                settle(lease, metrics::Outcome::Timeout);
                (refusal, body_is_taken)
            }
            // Not the endpoint's fault: the lease is dropped, which reports a cancelled request.
            Early::Refused(refusal) => {
                drop(lease);
                (refusal, false)
            }
            Early::ClientGone => return Some(Outcome { endpoint: Some(endpoint), attempts, ..Outcome::gone(body_in) }),
        };
        Some(self.refuse(refusal, body_in, Some(endpoint), attempts, body_is_taken).await)
    }

    /// Writes the request's head and prepares its body.
    fn begin<E: Far>(&self, endpoint: &Endpoint, out: &mut Vec<u8>) -> Pump<'a> {
        let endpoint_host = match &endpoint.address {
            Address::Unix(_) => "localhost".to_owned(),
            address if self.head.authority.is_empty() => address.to_string(),
            _ => String::new(),
        };
        compose::request(
            &Forwarding {
                head: self.head,
                route: self.route,
                captures: self.captures,
                body: self.framing.body,
                // RFC 9110 §10.1.1: not without a body.
                expects_continue: self.framing.expect_continue && self.framing.body != BodyFraming::None,
                upgrade: self.upgrade.filter(|_| E::SWITCHES),
                version: self.version,
                peer: self.client.peer,
                peer_is_trusted: self.peer_is_trusted,
                endpoint_host: &endpoint_host,
            },
            out,
        );
        let limit = match self.listener.body {
            BodyLimit::None => u64::MAX,
            BodyLimit::Bytes(most) => most,
        };
        Pump::new(S::decoder(self.framing.body), E::encoder(self.framing.body), limit, &self.route.request_edits)
    }

    /// RFC 9110 §9.2.2.
    pub fn is_idempotent(&self) -> bool {
        matches!(self.head.method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
    }

    /// Sends the request and waits for the head of the final answer; interim ones go to the client.
    async fn until_final_head<E: Far>(&mut self, link: &mut E, upload: &mut Pump<'_>, pool: &Pool) -> Result<(), Early> {
        let mut waits = Waits::default();
        for _ in 0..=INTERIM_MAX {
            self.response.clear();
            poll_fn(|cx| self.poll_head(cx, link, upload, pool, &mut waits)).await?;
            match self.response.status {
                101 => return if self.is_granted(link) { Ok(()) } else { Err(Early::Broken(Refusal::BrokenResponse)) },
                100..=199 => {
                    let framing = response_framing(self.response, link.input(), false);
                    if !framing.map_err(|_| Early::Broken(Refusal::BrokenResponse))?.keep_alive {
                        link.doubt();
                    }
                    if self.version != Version::Http10 {
                        compose::interim(self.response, link.input(), self.client.link.output());
                    }
                    link.consume(self.response.bytes);
                }
                // HTTP/2 would take it for a 101 (RFC 8441 §5).
                200..=299 if self.upgrade.is_some() && self.version == Version::Http2 => {
                    return Err(Early::Broken(Refusal::BrokenResponse));
                }
                _ => return Ok(()),
            }
        }
        Err(Early::Broken(Refusal::BrokenResponse))
    }

    fn poll_head<E: Far>(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut E,
        upload: &mut Pump<'_>,
        pool: &Pool,
        waits: &mut Waits,
    ) -> Poll<Result<(), Early>> {
        let client = &mut *self.client;
        // The request goes first, but an answer that overtakes it must not wait until a client that
        // sends without a pause is done.
        let is_first = !std::mem::replace(&mut waits.upload_began, true);
        if is_first {
            poll_upload(cx, client, link, upload, waits)?;
        }
        // While the client does not take an interim answer, the next one waits at the endpoint.
        let mut is_blocked = false;
        if client.link.has_unsent() {
            match client.link.poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Early::ClientGone)),
                Poll::Pending => is_blocked = true,
            }
        }
        loop {
            if is_blocked {
                break;
            }
            match self.response.parse(link.input(), &RESPONSE_LIMITS) {
                Ok(Progress::Complete) => return Poll::Ready(Ok(())),
                Ok(Progress::Partial) => {}
                Err(error) => {
                    tracing::debug!(service = pool.name, reason = error.as_str(), "broken answer");
                    return Poll::Ready(Err(Early::Broken(Refusal::BrokenResponse)));
                }
            }
            match link.poll_fill(cx, RESPONSE_LIMITS.header_bytes + 1) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(read) => return Poll::Ready(Err(link.ended_early(read.err()))),
                Poll::Pending => break,
            }
        }
        if !is_first {
            poll_upload(cx, client, link, upload, waits)?;
        }
        if client.link.has_left(cx, upload.is_taken()) {
            return Poll::Ready(Err(Early::ClientGone));
        }
        let waits_for_body = upload.waits_for_source && !upload.is_taken();
        let body = waits.body.deadline(waits_for_body, client.link.read_total(), self.listener.timeouts.body);
        let answer = waits.endpoint.deadline(!waits_for_body && !is_blocked, link.written_total(), pool.timeouts.response);
        let write = waits.client.deadline(is_blocked, client.link.written_total(), self.listener.timeouts.write);
        let deadlines = [
            (write, None),
            (client.link.gone_at(), None),
            (body, Some(Refusal::BodyTimeout)),
            (answer, Some(Refusal::ResponseTimeout)),
            (self.deadline, Some(Refusal::RouteTimeout)),
        ];
        poll_deadlines(cx, client, deadlines).map(|refusal| match refusal {
            None => Err(Early::ClientGone),
            Some(Refusal::BodyTimeout) => Err(Early::Refused(Refusal::BodyTimeout)),
            Some(refusal) => Err(Early::TimedOut(refusal)),
        })
    }

    /// Sends the answer to the client while the rest of the request still flows.
    async fn relay<E: Far>(
        &mut self,
        link: &mut E,
        upload: &mut Pump<'_>,
        pool: &Pool,
        endpoint: &Arc<Endpoint>,
        attempts: u32,
    ) -> (Outcome, Left) {
        let endpoint_for_log = Some(Arc::clone(endpoint));
        let is_head = self.head.method == b"HEAD";
        let Ok(framing) = response_framing(self.response, link.input(), is_head) else {
            let outcome = self.refuse(Refusal::BrokenResponse, upload.moved, endpoint_for_log, attempts, upload.is_taken()).await;
            return (outcome, Left::Broken);
        };
        let status = self.response.status;
        if is_event_stream(self.response, link.input()) {
            // A stream of events is as long as it likes; silence still ends it.
            self.deadline = None;
        }
        let body = compose::client_body(framing.body, self.version);
        // An answer that overtakes its request leaves a connection whose next bytes are no request.
        let may_keep = upload.is_taken() && body != BodyFraming::UntilClose && !self.client.is_leaving(self.worker);
        let keep = if may_keep { self.keep } else { Persistence::Closed };
        let lookup = HeadLookup { head: self.head, route: &self.route.name };
        self.worker.with_date(|date| {
            let relay = Relay {
                response: self.response,
                bytes: link.input(),
                edits: &self.route.response_edits,
                lookup: &lookup,
                body,
                // RFC 9110 §8.6: never in a 204.
                keeps_length: (is_head && status != 204) || status == 304,
                persistence: keep,
                date,
            };
            compose::response(&relay, self.client.link.output());
        });
        link.consume(self.response.bytes);
        let mut download = Pump::new(E::decoder(framing.body), S::encoder(body), u64::MAX, &self.route.response_edits);
        let mut waits = Waits::default();
        let ending = poll_fn(|cx| self.poll_bodies(cx, link, upload, &mut download, pool, &mut waits)).await;
        let after = match (ending, keep) {
            (Ending::Complete, Persistence::Closed) => After::Close,
            (Ending::Complete, _) => After::Keep,
            (Ending::ClientGone, _) => After::Abort,
            (Ending::Cut, _) => {
                // What came of the answer is the client's; that there is no more of it shows by the end.
                exchange::flush(self.client, self.listener.timeouts.write).await;
                if body == BodyFraming::UntilClose {
                    // Only a reset tells this client that the end is not the end.
                    self.client.link.cut();
                }
                After::Abort
            }
        };
        let is_clean = upload.is_done() && framing.keep_alive && framing.body != BodyFraming::UntilClose;
        let left = match ending {
            Ending::Complete if is_clean => Left::Clean,
            Ending::Complete => Left::Used,
            Ending::ClientGone | Ending::Cut => Left::Broken,
        };
        let outcome = Outcome {
            status,
            body_in: upload.moved,
            body_out: download.moved,
            refusal: None,
            ending,
            after,
            ended: Instant::now(),
            endpoint: endpoint_for_log,
            attempts,
        };
        (outcome, left)
    }

    fn poll_bodies<E: Far>(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut E,
        upload: &mut Pump<'_>,
        download: &mut Pump<'_>,
        pool: &Pool,
        waits: &mut Waits,
    ) -> Poll<Ending> {
        let client = &mut *self.client;
        match download.poll(cx, link, &mut client.link) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ending::Complete),
            Poll::Ready(Err(PumpError::Sink(_))) => return Poll::Ready(Ending::ClientGone),
            Poll::Ready(Err(error)) => {
                tracing::debug!(service = pool.name, ?error, "answer cut short");
                return Poll::Ready(Ending::Cut);
            }
            Poll::Pending => {}
        }
        match poll_upload(cx, client, link, upload, waits) {
            Ok(()) => {}
            Err(Early::ClientGone) => return Poll::Ready(Ending::ClientGone),
            Err(_) => return Poll::Ready(Ending::Cut),
        }
        if client.link.has_left(cx, upload.is_taken()) {
            return Poll::Ready(Ending::ClientGone);
        }
        let timeouts = &self.listener.timeouts;
        let waits_for_body = upload.waits_for_source && !upload.is_taken();
        let blocked = client.link.has_unsent() || !download.waits_for_source;
        let write = waits.client.deadline(blocked, client.link.written_total(), timeouts.write);
        let silent = waits.endpoint.deadline(download.waits_for_source, link.read_total(), pool.timeouts.idle);
        let body = waits.body.deadline(waits_for_body, client.link.read_total(), timeouts.body);
        let deadlines = [(write, Ending::ClientGone), (silent, Ending::Cut), (body, Ending::Cut), (self.deadline, Ending::Cut)];
        let ending = std::task::ready!(poll_deadlines(cx, client, deadlines));
        if ending == Ending::ClientGone {
            // Without a reset, a client that takes up reading again could believe it has all there is,
            // and until then the kernel would hold what it does not read.
            client.link.cut();
        }
        Poll::Ready(ending)
    }

    /// Answers in the endpoint's place. `body_is_taken`: nothing of the request is left unread.
    async fn refuse(
        &mut self,
        refusal: Refusal,
        body_in: u64,
        endpoint: Option<Arc<Endpoint>>,
        attempts: u32,
        body_is_taken: bool,
    ) -> Outcome {
        let is_read = body_is_taken && (body_in > 0 || self.framing.body == BodyFraming::None);
        let keep = if is_read { self.keep } else { Persistence::Closed };
        let status = exchange::refuse(self.worker, self.client, self.head.method, self.head.headers, refusal, keep);
        let is_sent = exchange::finish(self.client, self.listener.timeouts.write).await;
        Outcome {
            status,
            body_in,
            body_out: 0,
            refusal: Some(refusal),
            ending: if is_sent { Ending::Complete } else { Ending::ClientGone },
            after: match (is_sent, keep) {
                (false, _) => After::Abort,
                (true, Persistence::Closed) => After::Close,
                (true, _) => After::Keep,
            },
            ended: Instant::now(),
            endpoint,
            attempts,
        }
    }
}

/// WHATWG HTML §9.2: an answer that is not meant to end.
fn is_event_stream(response: &ResponseHead, bytes: &[u8]) -> bool {
    const KIND: &[u8] = b"text/event-stream";
    let mut kinds =
        response.fields.iter().filter(|field| field.known == Known::Other && field.name.of(bytes).eq_ignore_ascii_case(b"content-type"));
    kinds.any(|field| field.value.of(bytes).get(..KIND.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(KIND)))
}
