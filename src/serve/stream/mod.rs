//! One stream of bytes between a client and an endpoint, from the handshake to the log line.
//!
//! Chooses the endpoint once, before the first byte goes there; moving bytes is [`relay`]'s. A stream that is not finished
//! looks it to both sides: they are reset.

mod hello;
mod relay;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::accept::Standing;
use super::buffer::Buffer;
use super::connection::{Client, Ends};
use super::open::{self, Room};
use super::tries::{Cause, Tries};
use super::worker::Worker;
use crate::dial::{Opening, Wire};
use crate::generation::Listener;
use crate::proto::proxy_header::{self, Extensions};
use crate::refusal::Refusal;
use crate::route::{Head, Headers, TlsFacts, key};
use crate::services::{Asked, Body, Decision, Way};
use crate::telemetry::metrics::{self, ListenerMetrics};
use crate::telemetry::{access, clock};
use crate::upstream::sticky::{self, Stuck};
use crate::upstream::{Endpoint, Lease, Pool, SendProxy};
use relay::{End, Relay};

/// Serves a client whose handshake is over, until both sides have said all they had to say.
pub async fn serve(worker: &Rc<Worker>, client: Box<Client>, listener: Standing) {
    let mut told = Told::new(worker, &listener, &client);
    let ends = client.ends();
    let Client { link, mut timer, bound, peer, tls, .. } = *client;
    let (mut wire, mut first) = (link.wire, Buffer::new(Rc::clone(&worker.stock)));
    let asked = match &tls {
        Some(tls) => Ok(tls.sni.clone()),
        None if listener.reads_hello => hello::read(worker, &mut wire, &mut first, &mut timer, listener.timeouts.handshake).await,
        None => Ok(None),
    };
    let in_flight = worker.begin();
    let sni = match asked {
        Ok(sni) => sni,
        Err(refusal) => return told.refuse(refusal, &wire),
    };
    let walked = walk(&listener, sni.as_deref(), peer, tls.as_deref(), &mut told);
    told.sni = sni;
    let (pool, key) = match walked {
        Ok(walked) => walked,
        Err(refusal) => return told.refuse(refusal, &wire),
    };
    let timeouts = listener.timeouts;
    let is_tls = listener.tls.is_some();
    // A stream may last for days and should not keep its generation's routes in memory.
    drop(listener);
    let _place = match open::enter(&pool).await {
        Ok(place) => place,
        Err(refusal) => return told.refuse(refusal, &wire),
    };
    let (lease, since, endpoint) = match connect(worker, &pool, &wire, ends, key, &mut told).await {
        Ok(connected) => connected,
        Err(refusal) => return told.refuse(refusal, &wire),
    };
    let mut relay = Relay::new(wire, endpoint, first, &worker.stock);
    let end = relay.run(worker, &bound, is_tls, &timeouts, &mut timer, &mut told).await;
    drop(relay);
    let (reported, outcome) = match end {
        End::Complete => (Some(metrics::Outcome::Ok), access::Outcome::Complete),
        End::ClientGone => (None, access::Outcome::ClientGone),
        End::EndpointGone => (Some(metrics::Outcome::Reset), access::Outcome::Cut),
        End::Silent => (Some(metrics::Outcome::Timeout), access::Outcome::Cut),
        // Not the endpoint's fault.
        End::Left => (None, access::Outcome::Cut),
    };
    told.outcome = outcome;
    match reported {
        Some(reported) => open::settle(lease, reported, &pool, since, since.elapsed()),
        // A lease that is dropped reports that the client left.
        None => drop(lease),
    }
    drop(in_flight);
}

/// What binds a stream to an endpoint: a key, if the pool has one that streams have. There are no cookies here.
fn key_of(pool: &Pool, head: &Head<'_>) -> Option<u64> {
    let Some(sticky::Settings::Key { by, .. }) = &pool.policy.sticky else { return None };
    let mut key = Vec::new();
    (key::find(by, head, Some(b""), &mut key) == key::Found::Here).then(|| sticky::hash(&pool.name, &key))
}

/// Where the stream goes, by the same walk as a request: its only host is the name that TLS asked for.
fn walk(
    listener: &Listener,
    sni: Option<&str>,
    client: Option<IpAddr>,
    tls: Option<&TlsFacts>,
    told: &mut Told,
) -> Result<(Arc<Pool>, Option<u64>), Refusal> {
    let name = sni.unwrap_or_default().as_bytes();
    let head = Head {
        method: b"",
        scheme: "tcp",
        authority: name,
        host: name,
        path: b"",
        query: None,
        compare_path: b"",
        headers: Headers { bytes: b"", fields: &[] },
        client,
        tls,
        request_id: b"",
        listener: &listener.name,
    };
    let asked = Asked { head: &head, now: Instant::now(), worker: 0, dice: 0, body: Body::Is(b""), passed: &[] };
    let walk = listener.walk(&asked, &mut Way::default());
    if let Some(route) = walk.route {
        told.route.clone_from(&route.name);
        told.service.clone_from(&route.service_name);
    }
    match walk.decision {
        Decision::Forward(pool, _) => Ok((Arc::clone(pool), key_of(pool, &head))),
        Decision::Refuse(refusal) => Err(refusal),
        Decision::Answer(_) | Decision::Redirect(_) | Decision::Report(_) | Decision::Scatter(_) | Decision::Read(_) => {
            debug_assert!(false, "a listener for streams was compiled with pools only");
            Err(Refusal::NoRoute)
        }
    }
}

async fn connect(
    worker: &Rc<Worker>,
    pool: &Pool,
    client: &Wire,
    ends: Option<Ends>,
    key: Option<u64>,
    told: &mut Told,
) -> Result<(Lease, Instant, Wire), Refusal> {
    let mut greeting = Vec::new();
    if pool.policy.send_proxy == SendProxy::V2 {
        let extensions = Extensions { alpn: client.alpn(), authority: told.sni.as_deref().map(str::as_bytes) };
        proxy_header::write_v2(ends, extensions, &mut greeting);
    }
    let mut tries = Tries::new(pool, worker, false, Instant::now());
    let stuck = key.map_or(Stuck::Free, Stuck::Key);
    loop {
        let since = Instant::now();
        let lease = match worker.lease(pool, &tries.tried, stuck, since) {
            Some(lease) => lease,
            None => open::lease(worker, pool, &tries.tried, stuck).await.ok_or(Refusal::NoEndpoint)?,
        };
        tries.begin();
        let endpoint = Arc::clone(lease.endpoint());
        told.attempts = tries.attempts;
        told.endpoint = Some(Arc::clone(&endpoint));
        // What the client and we agreed on is what the endpoint will hear; of anything else we know nothing.
        let alpn = client.alpn().map(<[u8]>::to_vec).into_iter().collect();
        let opening = Opening { greeting: &greeting, alpn: Some(alpn), timeout: pool.policy.timeouts.connect, seat: None };
        let opened = match open::room(worker, pool, || None).await {
            Ok(Room::Seat(seat)) => open::open(worker, pool, &endpoint, Opening { seat, ..opening }).await,
            Ok(Room::Wire(_)) => Err(Refusal::Overloaded),
            Err(refusal) => Err(refusal),
        };
        let refusal = match opened {
            Ok(wire) => return Ok((lease, since, wire)),
            Err(refusal) => refusal,
        };
        open::settle_unopened(lease, refusal, pool, since);
        let pause = Cause::of_unopened(refusal).and_then(|cause| tries.again(cause, endpoint.id, Instant::now()));
        tokio::time::sleep(pause.ok_or(refusal)?).await;
    }
}

/// What the log and the metrics hear of a stream: at its end, whoever ends it.
struct Told {
    worker: Rc<Worker>,
    started: Instant,
    client: Option<IpAddr>,
    listener: String,
    metrics: Arc<ListenerMetrics>,
    route: String,
    service: String,
    endpoint: Option<Arc<Endpoint>>,
    attempts: u32,
    sni: Option<String>,
    /// Version of the TLS that ended here.
    tls: Option<&'static str>,
    refusal: Option<Refusal>,
    bytes_in: u64,
    bytes_out: u64,
    outcome: access::Outcome,
}

impl Told {
    fn new(worker: &Rc<Worker>, listener: &Listener, client: &Client) -> Self {
        Self {
            worker: Rc::clone(worker),
            started: Instant::now(),
            client: client.peer,
            listener: listener.name.clone(),
            metrics: Arc::clone(&listener.metrics),
            route: String::new(),
            service: String::new(),
            endpoint: None,
            attempts: 0,
            sni: None,
            tls: client.tls.as_ref().map(|tls| tls.version),
            refusal: None,
            bytes_in: 0,
            bytes_out: 0,
            outcome: access::Outcome::Cut,
        }
    }

    /// There is no answer to write: the client is reset, which no protocol takes for one.
    fn refuse(&mut self, refusal: Refusal, client: &Wire) {
        self.refusal = Some(refusal);
        self.metrics.refused(self.worker.index, refusal.index());
        client.reset_on_close();
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let Some(format) = self.worker.pin().file.log.access.format() else { return };
        let sni = self.sni.as_deref();
        let record = access::Record {
            time: clock::unix_now(),
            client: self.client,
            method: b"",
            host: sni.map(str::as_bytes),
            target: b"",
            protocol: "tcp",
            status: 0,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration: self.started.elapsed(),
            listener: &self.listener,
            route: &self.route,
            service: &self.service,
            arm: None,
            leaves: None,
            endpoint: self.endpoint.as_ref().map(|endpoint| endpoint.name.as_str()),
            attempts: self.attempts,
            request_id: None,
            refusal: self.refusal.map(Refusal::label),
            user_agent: None,
            referer: None,
            tls: self.tls.map(|version| access::Tls { version, sni }),
            outcome: self.outcome,
        };
        self.worker.record(format, &record);
    }
}
