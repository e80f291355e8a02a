//! A request that attache makes itself, on its way to a service: copies, and what leaves are asked.
//!
//! Goes the same way as a client's, whose place a [`Ghost`] takes. Nobody hears the answer but whoever keeps it.

use std::cell::Cell;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::accept::Bound;
use super::adapt;
use super::call::Call;
use super::check::{Handshake, check};
use super::compose::{self, Persistence};
use super::connection::{Client, Ends};
use super::exchange::Ending;
use super::fan::{self, Gathered};
use super::forward::{self, Job};
use super::ghost::{Feed, Ghost};
use super::keep::Keep;
use super::onward::{self, PASSED_MAX, nothing_to_read};
use super::peek::{self, Bounds, Peeked};
use super::side::Side;
use super::tape::Tape;
use super::timer::Timer;
use super::worker::{Scratch, Worker};
use crate::generation::{Form, Listener};
use crate::refusal::Refusal;
use crate::route::{Head, HeadLookup, Headers, TlsFacts};
use crate::services::scatter::Scatter;
use crate::services::{Asked, Body, Decision, Service, Told, Unwanted, Way};
use crate::upstream::EndpointId;
use crate::upstream::hedge::Hedging;

/// Whose request it goes back to.
#[derive(Clone)]
pub struct Whose {
    pub bound: Rc<Bound>,
    pub peer: Option<IpAddr>,
    pub named: Option<Rc<Ends>>,
    pub tls: Option<Rc<TlsFacts>>,
    pub tls_policy: u64,
    pub is_tls: bool,
}

impl Whose {
    /// `tls` is what was taken of the client.
    pub fn of<S: Side>(client: &Client<S>, tls: Option<&Rc<TlsFacts>>) -> Self {
        Self {
            bound: Rc::clone(&client.bound),
            peer: client.peer,
            named: client.named.clone().or_else(|| client.link.ends().map(Rc::new)),
            tls: tls.cloned(),
            tls_policy: client.tls_policy,
            is_tls: client.link.is_tls(),
        }
    }

    fn client(&self, feed: Rc<Feed>) -> Client<Ghost> {
        Client {
            link: Ghost::new(feed, self.is_tls),
            timer: Timer::default(),
            bound: Rc::clone(&self.bound),
            peer: self.peer,
            named: self.named.clone(),
            tls: self.tls.clone(),
            tls_policy: self.tls_policy,
        }
    }
}

/// Where it goes, and under which conditions.
pub struct Inner<'a> {
    pub worker: &'a Rc<Worker>,
    pub listener: &'a Arc<Listener>,
    /// Whether its route does to it what it does to those of clients.
    pub is_routed: bool,
    pub service: &'a Service,
    pub whose: &'a Whose,
    /// More fields, each a line.
    pub told: &'a [u8],
    pub deadline: Option<Instant>,
    /// Asked once, whatever the pool says.
    pub is_single: bool,
    /// No other endpoint of a pool will do.
    pub only: Option<EndpointId>,
    /// As the call's.
    pub hedging: Option<(&'a Hedging, &'a Cell<u32>)>,
    /// Scatters on the way to this one.
    pub depth: u8,
}

/// What became of it.
#[derive(Default)]
pub struct Ended {
    /// The answer is all there. Of what was kept, the beginning may be all there is.
    pub is_answered: bool,
    pub refusal: Option<Refusal>,
}

impl Ended {
    fn refused(refusal: Refusal) -> Self {
        Self { is_answered: false, refusal: Some(refusal) }
    }
}

/// Scatters within scatters; more would be a request without an end.
const DEPTH_MAX: u8 = 4;

impl Inner<'_> {
    /// Sends what `scratch` holds as a client's request. Its body comes by `feed`.
    pub async fn send(&self, feed: Rc<Feed>, scratch: &mut Scratch, mut keep: Option<&mut Keep>) -> Ended {
        let Scratch { request, request_bytes, response, request_id, compare_path, .. } = scratch;
        let (worker, listener, started) = (self.worker, self.listener, Instant::now());
        let mut client = self.whose.client(feed);
        let bytes: &[u8] = request_bytes;
        let handshake = Handshake { facts: client.tls.as_deref(), policy: client.tls_policy };
        let checked = match check(request, bytes, listener, handshake, compare_path) {
            Ok(checked) => checked,
            Err(refusal) => return Ended::refused(refusal),
        };
        let headers = Headers { bytes, fields: &request.fields };
        let (ip, peer_is_trusted) = compose::client_ip(listener, client.peer, headers);
        let tls = client.tls.take();
        let head = Head {
            method: request.method.of(bytes),
            scheme: if tls.is_some() { "https" } else { "http" },
            authority: checked.authority,
            host: checked.host,
            path: checked.path,
            query: checked.query,
            compare_path: if compare_path.is_empty() { checked.path } else { compare_path },
            headers,
            client: ip,
            tls: tls.as_deref(),
            request_id,
            listener: &listener.name,
        };
        let (route, captures) = listener.find(&head);
        let plain = Form::default();
        let form = route.filter(|_| self.is_routed).map_or(&plain, |route| &route.form);
        let framing = &checked.framing;
        let mut way = Way::default();
        let mut tape = Tape::default();
        let asked =
            Asked { head: &head, now: started, worker: worker.index, dice: worker.roll(), body: nothing_to_read(framing), passed: &[] };
        let mut decision = self.service.decide(&asked, &mut way);
        let mut peeked: Option<Peeked> = None;
        if let Decision::Read(most) = decision {
            let bounds = Bounds {
                most,
                limit: listener.body.most(),
                held: &worker.shared.held,
                most_held: worker.pin().file.process.max_memory_bodies.0,
                timeout: listener.timeouts.body,
                deadline: self.deadline,
            };
            let Ok(read) = Box::pin(peek::peek(&mut client, &mut tape, framing, &bounds)).await else { return Ended::default() };
            let body: Body<'_> = peeked.insert(read).body();
            way.clear();
            decision = self.service.decide(&Asked { body, now: Instant::now(), ..asked }, &mut way);
        }
        let mut passed = Vec::new();
        loop {
            let may_go_on = way.sent(worker.index, started);
            let (pool, aim) = match &decision {
                Decision::Forward(pool, aim) => (*pool, *aim),
                Decision::Answer(respond) => {
                    if let Some(keep) = &mut keep {
                        let lookup = HeadLookup { head: &head, route: "" };
                        keep.take(respond.status, respond.fields(&lookup), &respond.body);
                    }
                    return Ended { is_answered: true, refusal: None };
                }
                Decision::Report(adapter) => {
                    let report = Box::pin(adapt::report(adapter, &head, peeked.as_ref().map(Peeked::body), self.deadline)).await;
                    if let Some(keep) = &mut keep {
                        let lower = |(name, value): (&str, String)| (name.to_ascii_lowercase(), value);
                        keep.take(report.status, report.fields.into_iter().map(lower).collect(), &report.body);
                    }
                    return Ended { is_answered: true, refusal: None };
                }
                Decision::Scatter(_) if self.depth >= DEPTH_MAX => return Ended::refused(Refusal::LeavesFailed),
                Decision::Scatter(scatter) => {
                    let body = peeked.as_ref().and_then(|peeked| peeked.body.as_deref()).unwrap_or_default();
                    return self.scatter(scatter, &head, body, started, keep).await;
                }
                Decision::Redirect(_) => return Ended::refused(Refusal::BrokenResponse),
                Decision::Refuse(refusal) => return Ended::refused(*refusal),
                Decision::Read(_) => return Ended::default(),
            };
            let mut told = Told { to_client: Vec::new(), ..way.told(head.scheme == "https") };
            told.to_endpoint.extend_from_slice(self.told);
            let call = Call {
                worker,
                listener,
                head: &head,
                route: form,
                captures: &captures,
                framing,
                version: request.version,
                upgrade: None,
                peer: client.peer,
                peer_is_trusted,
                deadline: self.deadline,
                told: &told.to_endpoint,
                aim,
                only: self.only,
                // The client itself has been told, or waits for whom its own request goes to.
                is_continued: true,
                is_single: self.is_single,
                hedging: self.hedging,
            };
            let job = Job {
                call,
                client: &mut client,
                keep: Persistence::Kept,
                response: &mut *response,
                deadline: self.deadline,
                told: &told,
                cookie: Vec::new(),
                tape: &mut tape,
                goes_on: may_go_on && !self.is_single && passed.len() < PASSED_MAX,
                unwanted: way.unwanted.map_or(Unwanted::Nothing, |(_, _, unwanted)| unwanted),
                kept: keep.as_deref_mut(),
            };
            let outcome = forward::forward(job, pool).await;
            if !outcome.goes_on {
                way.finished(worker.index, outcome.status, outcome.ended.saturating_duration_since(started));
                let is_answered = outcome.refusal.is_none() && outcome.ending == Ending::Complete;
                return Ended { is_answered, refusal: outcome.refusal };
            }
            let body = peeked.as_ref().map_or_else(|| nothing_to_read(framing), Peeked::body);
            let asked = Asked { body, now: Instant::now(), ..asked };
            decision = onward::go_on(self.service, outcome.refusal, &asked, &mut passed, &mut way);
        }
    }

    /// What the leaves of a leaf say.
    async fn scatter(&self, scatter: &Scatter, head: &Head<'_>, body: &[u8], started: Instant, keep: Option<&mut Keep>) -> Ended {
        let gather = fan::Gather {
            worker: self.worker,
            listener: self.listener,
            scatter,
            head,
            body,
            whose: self.whose,
            deadline: self.deadline,
            started,
            depth: self.depth + 1,
            pieces: None,
        };
        // Without a size of its own, since a leaf may be a scatter again.
        let gathering: Pin<Box<dyn Future<Output = Gathered> + '_>> = Box::pin(fan::gather(gather));
        let gathered = gathering.await;
        if let Some(refusal) = gathered.refusal {
            return Ended::refused(refusal);
        }
        if let Some(keep) = keep {
            let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
            keep.take(gathered.status, gathered.fields.into_iter().map(lower).collect(), &gathered.body);
        }
        Ended { is_answered: true, refusal: None }
    }
}
