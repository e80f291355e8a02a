//! From an endpoint to something that carries one request: a connection, or a place on one that others use too.
//!
//! Decides what may be used again and who dials; what goes wrong there, and whether to try another endpoint, is `forward`'s.

use std::rc::Rc;
use std::time::Instant;

use super::call::Call;
use super::forward::Job;
use super::h2::endpoint::{self, Group, Place};
use super::open::{self, Room};
use super::side::Side;
use crate::dial::{Opening, Wire};
use crate::proto::proxy_header::{self, Extensions};
use crate::refusal::Refusal;
use crate::tls::Failure;
use crate::upstream::{Endpoint, Pool, Protocol, SendProxy};

/// What carries a request.
pub enum Carrier {
    /// HTTP/1.
    Wire(Wire),
    /// HTTP/2.
    Place(Place),
}

/// How long connecting may take, and what it is called when it takes longer.
struct Limit {
    until: Instant,
    beyond: Refusal,
}

impl Call<'_> {
    /// An idle connection that speaks HTTP/1, for an endpoint that speaks nothing else.
    pub fn reuse(&self, endpoint: &Endpoint, may_reuse: bool, now: Instant) -> Option<Wire> {
        if may_reuse && endpoint.protocol == Protocol::Http1 { self.take(endpoint, now) } else { None }
    }

    /// With whether the carrier was used before. [`Job::reuse`] found none.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        pool: &Pool,
        greeting: &[u8],
        may_reuse: bool,
        now: Instant,
    ) -> Result<(Carrier, bool), Refusal> {
        if endpoint.protocol != Protocol::Http1 {
            return Box::pin(self.connect_shared(endpoint, pool, greeting, may_reuse, now)).await;
        }
        let limit = self.limit(pool);
        self.dial(endpoint, pool, greeting, may_reuse, &limit).await.map(|wire| (Carrier::Wire(wire), false))
    }

    fn take(&self, endpoint: &Endpoint, now: Instant) -> Option<Wire> {
        while let Some(mut wire) = self.worker.idle.take(endpoint.id, now) {
            // What cannot be sent twice goes only where somebody is certain to read it.
            if self.is_harmless() || wire.is_silent_for_certain() {
                return Some(wire);
            }
        }
        None
    }

    /// As [`Job::connect`], where requests may share connections. While one request dials, the others wait for what it gets.
    async fn connect_shared(
        &self,
        endpoint: &Endpoint,
        pool: &Pool,
        greeting: &[u8],
        may_reuse: bool,
        mut now: Instant,
    ) -> Result<(Carrier, bool), Refusal> {
        let group = self.worker.http2.with(endpoint.id);
        let limit = self.limit(pool);
        let failures = group.failures();
        loop {
            if let Some(mut place) = group.take(!self.is_harmless(), now) {
                place.idle = pool.policy.timeouts.idle;
                let is_reused = place.is_reused;
                return Ok((Carrier::Place(place), is_reused));
            }
            if may_reuse
                && endpoint.protocol == Protocol::Auto
                && let Some(wire) = self.take(endpoint, now)
            {
                return Ok((Carrier::Wire(wire), true));
            }
            if let Some(dialling) = group.dial() {
                // What was idle is asked for above, whatever it speaks.
                let dialled = self.dial(endpoint, pool, greeting, false, &limit).await;
                let carrier = match dialled {
                    Ok(wire) => self.agreed(endpoint, wire, &group, pool, &limit).await,
                    Err(refusal) => Err(refusal),
                };
                match &carrier {
                    Ok(carrier) => dialling.agreed_on_http1(matches!(carrier, Carrier::Wire(_))),
                    // Which is this request's own.
                    Err(Refusal::RouteTimeout) => drop(dialling),
                    Err(refusal) => dialling.failed(*refusal),
                }
                return carrier.map(|carrier| (carrier, false));
            }
            if tokio::time::timeout_at(limit.until.into(), group.changed()).await.is_err() {
                return Err(limit.beyond);
            }
            if let Some(refusal) = group.failure_since(failures) {
                return Err(refusal);
            }
            now = Instant::now();
        }
    }

    /// What a new connection speaks.
    async fn agreed(&self, endpoint: &Endpoint, wire: Wire, group: &Rc<Group>, pool: &Pool, limit: &Limit) -> Result<Carrier, Refusal> {
        match (endpoint.protocol, wire.is_tls(), wire.has_chosen_http2()) {
            (Protocol::Http1, ..) | (Protocol::Auto, _, false) => return Ok(Carrier::Wire(wire)),
            (Protocol::Http2, true, false) => {
                let failure = Failure::without_http2();
                open::complain(self.worker, &failure, pool, endpoint);
                return Err(failure.refusal);
            }
            (Protocol::Http2, false, _) | (_, _, true) => {}
        }
        match tokio::time::timeout_at(limit.until.into(), endpoint::start(wire, group)).await {
            Ok(Ok(mut place)) => {
                place.idle = pool.policy.timeouts.idle;
                self.worker.sweep_later();
                Ok(Carrier::Place(place))
            }
            Ok(Err(error)) => {
                tracing::debug!(service = pool.name, endpoint = endpoint.name, %error, "cannot begin to speak HTTP/2");
                Err(Refusal::ConnectFailed)
            }
            Err(_) => Err(limit.beyond),
        }
    }

    fn limit(&self, pool: &Pool) -> Limit {
        let per_try = pool.policy.retry.as_ref().and_then(|retry| retry.per_try);
        let timeout = per_try.map_or(pool.policy.timeouts.connect, |per_try| per_try.min(pool.policy.timeouts.connect));
        let connect = Limit { until: Instant::now() + timeout, beyond: Refusal::ConnectTimeout };
        match self.deadline {
            Some(deadline) if deadline < connect.until => Limit { until: deadline, beyond: Refusal::RouteTimeout },
            _ => connect,
        }
    }

    async fn dial(&self, endpoint: &Endpoint, pool: &Pool, greeting: &[u8], may_reuse: bool, limit: &Limit) -> Result<Wire, Refusal> {
        let reuse = || if may_reuse { self.take(endpoint, Instant::now()) } else { None };
        let seat = match open::room(self.worker, pool, reuse).await? {
            Room::Seat(seat) => seat,
            Room::Wire(wire) => return Ok(wire),
        };
        let timeout = limit.until.saturating_duration_since(Instant::now());
        let opening = Opening { greeting, alpn: None, timeout, seat };
        open::open(self.worker, pool, endpoint, opening).await.map_err(|refusal| match refusal {
            Refusal::ConnectTimeout => limit.beyond,
            refusal => refusal,
        })
    }
}

impl<S: Side> Job<'_, S> {
    /// What an endpoint is told of the client before anything else.
    pub fn greeting(&self, pool: &Pool) -> Vec<u8> {
        let mut greeting = Vec::new();
        if pool.policy.send_proxy == SendProxy::V2 {
            let sni = self.call.head.tls.and_then(|tls| tls.sni.as_deref());
            // What the client speaks with us is not what we speak with the endpoint.
            let extensions = Extensions { alpn: None, authority: sni.map(str::as_bytes) };
            proxy_header::write_v2(self.client.ends(), extensions, &mut greeting);
        }
        greeting
    }
}
