//! One request with its answer, from parsed head to log line.
//!
//! Checks what the grammar could not, asks the walk where to go, and has somebody go there. Moves no
//! body itself: `forward` does.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::adapt;
use super::call::{Call, deadline, is_grpc};
use super::check::{Handshake, check};
use super::compose::{self, Fixed, Own, Persistence};
use super::connection::Client;
use super::copies::{Copying, Original};
use super::fan::{self, Gather, Reply};
use super::forward::{self, Job};
use super::inner::Whose;
use super::onward::{self, PASSED_MAX, nothing_to_read};
use super::peek::{self, Bounds, Peeked, Unread};
use super::settle::{Told, settle};
use super::side::Side;
use super::tape::Tape;
use super::timer::Stall;
use super::worker::{Scratch, Worker};
use crate::generation::{Generation, Listener, Walk};
use crate::proto::grpc;
use crate::proto::http1::{BodyFraming, Known, RequestFraming, Version, upgrade};
use crate::refusal::Refusal;
use crate::route::{Captures, Head, HeadLookup, Headers};

use crate::services::{Asked, Body, Decision, Unwanted, Way};
use crate::upstream::Endpoint;

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Keep,
    /// The answer said so; close when it has arrived.
    Close,
    /// As [`After::Close`], for a client whose slowness is why: it has had its time.
    Dismiss,
    /// As [`After::Close`], but the client has said all it had to say, and knows.
    Part,
    /// What came is no request: the client speaks HTTP/2 without having asked (RFC 9113 §3.3).
    SpeakHttp2,
    /// Nobody is there, or the answer was cut short and must look it.
    Abort,
}

/// How an exchange ended for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Complete,
    ClientGone,
    /// The answer began and could not be finished.
    Cut,
    /// Nor could this one, and the endpoint is not to blame: the time of the route or of the client was over.
    OutOfTime,
    /// Nor this one: the rest of the request is broken, too much or too late.
    Refused,
}

/// What an exchange came to.
pub struct Outcome {
    pub status: u16,
    pub body_in: u64,
    pub body_out: u64,
    pub refusal: Option<Refusal>,
    pub ending: Ending,
    pub after: After,
    /// When all was sent, or given up.
    pub ended: Instant,
    pub endpoint: Option<Arc<Endpoint>>,
    pub attempts: u32,
    /// Nothing was sent to the client: the request is to go on to somebody else, and `refusal` says why.
    pub goes_on: bool,
    /// How each leaf of a scatter fared, where that is logged.
    pub leaves: Option<Box<str>>,
}

impl Outcome {
    fn after(&self) -> After {
        match (self.after, self.refusal) {
            (After::Close, Some(Refusal::HeaderTimeout | Refusal::BodyTimeout)) => After::Dismiss,
            (after, _) => after,
        }
    }

    pub fn passed_on(refusal: Option<Refusal>, attempts: u32) -> Self {
        Self { refusal, goes_on: true, attempts, ..Self::gone(0) }
    }

    pub fn gone(body_in: u64) -> Self {
        Self {
            status: 0,
            body_in,
            body_out: 0,
            refusal: None,
            ending: Ending::ClientGone,
            after: After::Abort,
            ended: Instant::now(),
            endpoint: None,
            attempts: 0,
            goes_on: false,
            leaves: None,
        }
    }
}

/// A request body this long is read and thrown away to keep the connection; a longer one costs it.
const DISCARDED_MAX: u64 = 64 << 10;

pub async fn run<S: Side>(
    worker: &Rc<Worker>,
    client: &mut Client<S>,
    listener: &Arc<Listener>,
    generation: &Generation,
    scratch: &mut Scratch,
    started: Instant,
    is_current: bool,
) -> After {
    let Scratch { request, request_bytes, response, request_id, compare_path, keys, .. } = scratch;
    let bytes: &[u8] = request_bytes;
    let handshake = Handshake { facts: client.tls.as_deref(), policy: client.tls_policy };
    let checked = check(request, bytes, listener, handshake, compare_path);
    let headers = Headers { bytes, fields: &request.fields };
    let (ip, peer_is_trusted) = compose::client_ip(listener, client.peer, headers);
    choose_request_id(worker, headers, peer_is_trusted, request_id);
    let method = request.method.of(bytes);
    // The facts of the handshake are lent to the head while the client itself is written to.
    let tls = client.tls.take();
    let (authority, host, path, query) = match &checked {
        Ok(checked) => (checked.authority, checked.host, checked.path, checked.query),
        Err(_) => (&b""[..], &b""[..], request.target.of(bytes), None),
    };
    let head = Head {
        method,
        scheme: if tls.is_some() { "https" } else { "http" },
        authority,
        host,
        path,
        query,
        compare_path: if compare_path.is_empty() { path } else { compare_path },
        headers,
        client: ip,
        tls: tls.as_deref(),
        request_id,
        listener: &listener.name,
    };
    let mut way = Way::new(std::mem::take(keys));
    // Once, so that what is left to chance stays when it is asked again.
    let dice = worker.roll();
    let Walk { route, captures, mut decision } = match &checked {
        Ok(checked) => {
            let body = nothing_to_read(&checked.framing);
            listener.walk(&Asked { head: &head, now: started, worker: worker.index, dice, body, passed: &[] }, &mut way)
        }
        Err(refusal) => Walk { route: None, captures: Captures::default(), decision: Decision::Refuse(*refusal) },
    };
    let framing = checked.as_ref().ok().map(|checked| &checked.framing);
    let wants_more = is_current && worker.draining_since().is_none() && framing.is_some_and(|framing| framing.keep_alive);
    let keep = match (wants_more, request.version) {
        (false, _) => Persistence::Closed,
        (true, Version::Http11 | Version::Http2) => Persistence::Kept,
        (true, Version::Http10) => Persistence::KeptAloud,
    };
    let mut tape = Tape::default();
    let mut copying: Option<Box<Copying>> = None;
    let mut passed = Vec::new();
    let mut attempts = 0;
    let mut peeked: Option<Peeked> = None;
    let mut outcome = loop {
        if let (Decision::Read(most), Some(route), Some(framing)) = (&decision, route, framing) {
            let bounds = Bounds {
                most: *most,
                limit: listener.body.most(),
                held: &worker.shared.held,
                most_held: generation.file.process.max_memory_bodies.0,
                timeout: listener.timeouts.body,
                deadline: deadline(route, &head, request.version, started),
            };
            match Box::pin(peek::peek(client, &mut tape, framing, &bounds)).await {
                Ok(read) => {
                    let body = peeked.insert(read).body();
                    let asked = Asked { head: &head, now: Instant::now(), worker: worker.index, dice, body, passed: &passed };
                    decision = route.decide(&asked, &mut way);
                }
                Err(Unread::Refused(refusal)) => decision = Decision::Refuse(refusal),
                Err(Unread::ClientGone) => break Outcome::gone(0),
            }
            continue;
        }
        // Nobody knows how much of a body that was read for its key is still to come.
        let local_keep = if peeked.is_some() { Persistence::Closed } else { keep };
        let may_go_on = way.sent(worker.index, started);
        let told = way.told(head.scheme == "https");
        if let (true, None, Some(framing)) = (way.is_copied, &copying, framing)
            && !framing.has_upgrade
        {
            let original = Original { worker, client, listener, request, bytes, head: &head, tls: tls.as_ref(), framing };
            copying = Some(Box::new(Copying::new(&original, &way, &mut tape)));
        }
        let outcome = match (&decision, route, framing) {
            (Decision::Forward(pool, aim), Some(route), Some(framing)) => {
                let deadline = deadline(route, &head, request.version, started);
                let call = Call {
                    worker,
                    listener,
                    head: &head,
                    route,
                    captures: &captures,
                    framing,
                    version: request.version,
                    upgrade: if framing.has_upgrade && framing.body == BodyFraming::None {
                        upgrade::wanted(&request.fields, bytes)
                    } else {
                        None
                    },
                    peer: client.peer,
                    peer_is_trusted,
                    deadline,
                    aim: *aim,
                    told: &told.to_endpoint,
                    is_continued: peeked.as_ref().is_some_and(|peeked| peeked.has_told),
                    only: None,
                    is_single: false,
                    hedging: None,
                };
                let goes_on = may_go_on && passed.len() < PASSED_MAX;
                let unwanted = way.unwanted.map_or(Unwanted::Nothing, |(_, _, unwanted)| unwanted);
                let job = Job {
                    call,
                    client,
                    keep,
                    response,
                    deadline,
                    told: &told,
                    cookie: Vec::new(),
                    tape: &mut tape,
                    goes_on,
                    unwanted,
                    kept: copying.as_mut().and_then(|copying| copying.keep.as_mut()),
                };
                forward::forward(job, pool).await
            }
            (Decision::Answer(respond), Some(route), Some(framing)) => {
                let lookup = HeadLookup { head: &head, route: &route.name };
                let keep = keep_after_local(local_keep, framing);
                let fixed = Fixed { respond, lookup: &lookup, edits: &route.response_edits, ours: &told.to_client };
                worker.with_date(|date| fixed.write(method, keep, date, client.link.output()));
                let body_out = if method == b"HEAD" { 0 } else { respond.body.len() as u64 };
                local(client, listener, framing, keep, respond.status, body_out, None).await
            }
            (Decision::Report(adapter), Some(route), Some(framing)) => {
                let deadline = deadline(route, &head, request.version, started);
                let body = peeked.as_ref().map(Peeked::body);
                let ask = adapt::Ask { worker, listener, adapter, head: &head, body, deadline };
                let lookup = HeadLookup { head: &head, route: &route.name };
                let keep = if body.is_some() { keep } else { keep_after_local(local_keep, framing) };
                let (edits, more) = (&route.response_edits, &told.to_client);
                let reply = Reply { version: request.version, framing, keep, edits, lookup: &lookup, more };
                Box::pin(adapt::answer(client, ask, &reply)).await
            }
            (Decision::Scatter(scatter), Some(route), Some(framing)) => {
                let body = peeked.as_ref().and_then(|peeked| peeked.body.as_deref()).unwrap_or_default();
                let whose = Whose::of(client, tls.as_ref());
                let deadline = deadline(route, &head, request.version, started);
                let gather =
                    Gather { worker, listener, scatter, head: &head, body, whose: &whose, deadline, started, depth: 1, pieces: None };
                let lookup = HeadLookup { head: &head, route: &route.name };
                let (edits, more) = (&route.response_edits, &told.to_client);
                let reply = Reply { version: request.version, framing, keep, edits, lookup: &lookup, more };
                Box::pin(fan::answer(client, gather, &reply)).await
            }
            (Decision::Redirect(redirect), Some(route), Some(framing)) => {
                let lookup = HeadLookup { head: &head, route: &route.name };
                let keep = keep_after_local(local_keep, framing);
                let mut fields = Vec::new();
                if !route.response_edits.drops(Known::Other, b"location") {
                    fields.extend_from_slice(b"Location: ");
                    redirect.write(&lookup, &mut fields);
                    fields.extend_from_slice(b"\r\n");
                }
                route.response_edits.write(&lookup, &mut fields);
                fields.extend_from_slice(&told.to_client);
                let own = Own { status: redirect.status, fields: &fields, body: b"" };
                worker.with_date(|date| own.write(method, keep, date, client.link.output()));
                local(client, listener, framing, keep, redirect.status, 0, None).await
            }
            (decision, _, _) => {
                let refusal = if let Decision::Refuse(refusal) = decision { *refusal } else { Refusal::NoRoute };
                let keep = match framing {
                    Some(framing) if refusal == Refusal::NoRoute => keep_after_local(local_keep, framing),
                    // Of a body, some may have been sent to somebody.
                    Some(framing) if onward::is_of_way(refusal) && framing.body == BodyFraming::None => keep,
                    _ => Persistence::Closed,
                };
                let status = refuse(worker, client, method, headers, refusal, &told.to_client, keep);
                local(client, listener, framing.unwrap_or(&RequestFraming::UNREAD), keep, status, 0, Some(refusal)).await
            }
        };
        let (true, Some(route)) = (outcome.goes_on, route) else { break outcome };
        attempts += outcome.attempts;
        let body = match &peeked {
            Some(peeked) => peeked.body(),
            None => framing.map_or(Body::Unread, nothing_to_read),
        };
        decision = onward::go_on(
            route.service(),
            outcome.refusal,
            &Asked { head: &head, now: Instant::now(), worker: worker.index, dice, body, passed: &[] },
            &mut passed,
            &mut way,
        );
    };
    outcome.attempts += attempts;
    if let (Some(copying), Some(framing)) = (copying, framing) {
        let original = Original { worker, client, listener, request, bytes, head: &head, tls: tls.as_ref(), framing };
        copying.end(&original, &way, &mut tape, &outcome);
    }
    let after = match (outcome.after(), framing) {
        (After::Close, Some(asked)) if !asked.keep_alive && asked.body == BodyFraming::None && client.link.has_said_all() => After::Part,
        (after, _) => after,
    };
    let told = Told { head: &head, request, route, target: request.target.of(bytes) };
    settle(worker, listener, generation, &told, &way, &outcome, started);
    *keys = way.into_keys();
    client.tls = tls;
    after
}

/// Refuses a request whose head could not be read. What was read of it, `scratch` holds, and is logged.
pub async fn refuse_unparsed<S: Side>(
    worker: &Rc<Worker>,
    client: &mut Client<S>,
    listener: &Listener,
    scratch: &mut Scratch,
    refusal: Refusal,
    started: Instant,
) -> After {
    let generation = worker.pin();
    let Scratch { request, request_bytes, request_id, .. } = scratch;
    let bytes: &[u8] = request_bytes;
    let status = refuse(worker, client, request.method.of(bytes), Headers { bytes, fields: &[] }, refusal, &[], Persistence::Closed);
    let outcome = local(client, listener, &RequestFraming::UNREAD, Persistence::Closed, status, 0, Some(refusal)).await;
    let head = Head {
        method: request.method.of(bytes),
        scheme: if client.tls.is_some() { "https" } else { "http" },
        authority: b"",
        host: b"",
        path: request.target.of(bytes),
        query: None,
        compare_path: b"",
        headers: Headers { bytes, fields: &[] },
        client: client.peer,
        tls: client.tls.as_deref(),
        request_id,
        listener: &listener.name,
    };
    let told = Told { head: &head, request, route: None, target: request.target.of(bytes) };
    settle(worker, listener, &generation, &told, &Way::default(), &outcome, started);
    outcome.after()
}

fn choose_request_id(worker: &Worker, headers: Headers<'_>, is_trusted: bool, out: &mut Vec<u8>) {
    let theirs = headers.fields.iter().find(|field| field.known == Known::XRequestId).map(|field| field.value.of(headers.bytes));
    match theirs {
        Some(id) if is_trusted && !id.is_empty() => out.extend_from_slice(id),
        _ => {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            let mut id = [0; 32];
            for half in id.as_chunks_mut::<16>().0 {
                let mut roll = worker.roll();
                for digit in half {
                    *digit = DIGITS[(roll & 15) as usize];
                    roll >>= 4;
                }
            }
            out.extend_from_slice(&id);
        }
    }
}

/// After an answer that did not read the request's body, the connection is worth keeping only if
/// what remains of it is short.
fn keep_after_local(keep: Persistence, framing: &RequestFraming) -> Persistence {
    match framing.body {
        BodyFraming::None => keep,
        BodyFraming::Length(length) if length <= DISCARDED_MAX && !framing.expect_continue => keep,
        _ => Persistence::Closed,
    }
}

/// Puts a refusal into the client's output, and gives the status that it gets; `ours` are more fields, each a line. gRPC's clients read a
/// status of their own.
pub fn refuse<S: Side>(
    worker: &Worker,
    client: &mut Client<S>,
    method: &[u8],
    headers: Headers<'_>,
    refusal: Refusal,
    ours: &[u8],
    keep: Persistence,
) -> u16 {
    if is_grpc(headers) {
        let status = match refusal {
            Refusal::RouteTimeout => grpc::Status::DeadlineExceeded,
            refusal => grpc::Status::of_http(refusal.status().code()),
        };
        let fields = format!("Content-Type: application/grpc\r\ngrpc-status: {}\r\ngrpc-message: {}\r\n", status as u8, refusal.phrase());
        let own = Own { status: 200, fields: &[fields.as_bytes(), ours].concat(), body: b"" };
        worker.with_date(|date| own.write(method, keep, date, client.link.output()));
        return own.status;
    }
    let body = format!("{}\n", refusal.phrase());
    let fields: &[u8] = match refusal {
        // RFC 9110 §15.5.6: a 405 says what is allowed.
        Refusal::MethodRefused => b"Content-Type: text/plain\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n",
        Refusal::NoEndpoint | Refusal::ShardDown | Refusal::Overloaded => b"Content-Type: text/plain\r\nRetry-After: 1\r\n",
        _ => b"Content-Type: text/plain\r\n",
    };
    let fields = [fields, ours].concat();
    let own = Own { status: refusal.status().code(), fields: &fields, body: body.as_bytes() };
    worker.with_date(|date| own.write(method, keep, date, client.link.output()));
    own.status
}

/// Sends an answer of our own and gets past the request's body.
pub async fn local<S: Side>(
    client: &mut Client<S>,
    listener: &Listener,
    framing: &RequestFraming,
    keep: Persistence,
    status: u16,
    body_out: u64,
    refusal: Option<Refusal>,
) -> Outcome {
    let is_sent = finish(client, listener.timeouts.write).await;
    let (ending, after) = if is_sent { (Ending::Complete, After::Close) } else { (Ending::ClientGone, After::Abort) };
    let mut outcome = Outcome { status, body_out, refusal, ending, after, ..Outcome::gone(0) };
    if !is_sent || keep == Persistence::Closed {
        return outcome;
    }
    outcome.after = After::Keep;
    if let BodyFraming::Length(length) = framing.body {
        outcome.body_in = length;
        if !discard(client, length, listener.timeouts.body).await {
            outcome.after = After::Abort;
        }
    }
    outcome
}

/// Sends an answer that is whole in the client's output. `false` if it cannot be sent.
pub async fn finish<S: Side>(client: &mut Client<S>, timeout: Duration) -> bool {
    client.link.end(b"");
    flush(client, timeout).await
}

/// Sends everything in the client's output. `false` if it cannot be sent.
pub async fn flush<S: Side>(client: &mut Client<S>, timeout: Duration) -> bool {
    let mut stall = Stall::default();
    poll_fn(|cx| match client.link.poll_flush(cx) {
        Poll::Ready(flushed) => Poll::Ready(flushed.is_ok()),
        Poll::Pending => match stall.deadline(true, client.link.written_total(), timeout) {
            Some(deadline) => client.timer.poll(cx, deadline).map(|()| {
                // The kernel would go on holding what this client does not read.
                client.link.cut();
                false
            }),
            None => Poll::Pending,
        },
    })
    .await
}

/// Reads `length` body bytes and forgets them. `false` if they do not come.
async fn discard<S: Side>(client: &mut Client<S>, mut length: u64, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let take = client.link.input().len().min(usize::try_from(length).unwrap_or(usize::MAX));
        client.link.consume(take);
        length -= take as u64;
        if length == 0 {
            return true;
        }
        let read = poll_fn(|cx| match client.link.poll_fill(cx, super::buffer::SMALL) {
            Poll::Ready(read) => Poll::Ready(read.unwrap_or(0)),
            Poll::Pending => client.timer.poll(cx, deadline).map(|()| 0),
        });
        if read.await == 0 {
            return false;
        }
    }
}
