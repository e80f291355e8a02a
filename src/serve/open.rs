//! What a request needs before its first byte goes out: a place, an endpoint, a connection; and what becomes known on the way.
//!
//! Waits within bounds and keeps nothing: whoever forwards does.

use std::time::{Duration, Instant};

use super::worker::Worker;
use crate::dial::{self, DialError, Opening, Step, Wire};
use crate::refusal::Refusal;
use crate::telemetry::metrics::{Handshake, Outcome};
use crate::tls::Failure;
use crate::upstream::limits::{Entry, Place, Seat};
use crate::upstream::sticky::Stuck;
use crate::upstream::{Endpoint, Lease, Pool, Tried};

/// Endpoints tried when connecting fails: nothing was sent, so anything may go to another.
pub const CONNECT_ATTEMPTS: u32 = 3;

pub async fn open(worker: &Worker, pool: &Pool, endpoint: &Endpoint, opening: Opening<'_>) -> Result<Wire, Refusal> {
    let shook_hands = |outcome| endpoint.metrics.handshake(worker.index, outcome);
    match dial::dial(&endpoint.address, endpoint.tls.as_ref(), opening).await {
        Ok(wire) => {
            if let Some(is_resumed) = wire.is_resumed() {
                shook_hands(if is_resumed { Handshake::Resumed } else { Handshake::Full });
            }
            Ok(wire)
        }
        Err(DialError::TimedOut(step)) => {
            if step == Step::Handshake {
                shook_hands(Handshake::Timeout);
            }
            Err(Refusal::ConnectTimeout)
        }
        Err(DialError::Tls(failure)) => {
            shook_hands(Handshake::Failed);
            complain(worker, &failure, pool, endpoint);
            Err(failure.refusal)
        }
        Err(DialError::Failed(error)) => {
            tracing::debug!(service = pool.name, endpoint = endpoint.name, %error, "cannot connect");
            Err(Refusal::ConnectFailed)
        }
    }
}

/// Requests that wait for somebody who may take them, in one pool.
const WAITING_MAX: u32 = 1024;

/// An endpoint, as soon as somebody may take a request, where that is to be expected: [`Worker::lease`] gave nobody.
pub async fn lease(worker: &Worker, pool: &Pool, tried: &Tried, stuck: Stuck<'_>) -> Option<Lease> {
    let wait = pool.expects_somebody()?;
    let _waiting = pool.wait(WAITING_MAX)?;
    let somebody = async {
        loop {
            let changed = pool.changed.notified();
            if let Some(lease) = worker.lease(pool, tried, stuck, Instant::now()) {
                return lease;
            }
            changed.await;
        }
    };
    tokio::time::timeout(wait, somebody).await.ok()
}

/// A place among the requests that a pool takes at once, as soon as there is one; none where it takes any number.
pub async fn enter(pool: &Pool) -> Result<Option<Place>, Refusal> {
    let (Some(admission), Some(limits)) = (&pool.admission, &pool.policy.limits) else { return Ok(None) };
    match admission.enter() {
        Entry::Inside(place) => Ok(Some(place)),
        Entry::Full => Err(Refusal::Overloaded),
        // A ticket whose place is gone was never handed in.
        Entry::Waiting(ticket) => {
            let place = tokio::time::timeout(limits.wait, ticket).await;
            place.ok().and_then(Result::ok).map(Some).ok_or(Refusal::Overloaded)
        }
    }
}

/// What a request gets that needs a connection.
pub enum Room {
    /// A place for a new one; none where the pool limits nothing.
    Seat(Option<Seat>),
    /// One that has become idle meanwhile.
    Wire(Wire),
}

/// Room for a connection: a free place, that of an idle connection to another endpoint, or what comes first in time, a place
/// that becomes free or a connection that `reuse` finds.
pub async fn room(worker: &Worker, pool: &Pool, reuse: impl Fn() -> Option<Wire>) -> Result<Room, Refusal> {
    let (Some(connections), Some(limits)) = (&pool.connections, &pool.policy.limits) else { return Ok(Room::Seat(None)) };
    let taken = async {
        loop {
            let freed = connections.freed(worker.index).notified();
            if let Some(seat) = connections.take(worker.index) {
                return Room::Seat(Some(seat));
            }
            if let Some(wire) = reuse() {
                return Room::Wire(wire);
            }
            let membership = pool.membership();
            let ids = || membership.members().iter().map(|member| member.endpoint.id);
            if !worker.idle.evict(ids()) {
                // Its place is free when it has closed.
                worker.http2.evict(ids());
                drop(membership);
                freed.await;
            }
        }
    };
    tokio::time::timeout(limits.wait, taken).await.map_err(|_| Refusal::Overloaded)
}

/// What an attempt came to that ended in [`open`]. `None` where the endpoint was not asked.
fn outcome(refusal: Refusal) -> Option<Outcome> {
    match refusal {
        Refusal::ConnectFailed => Some(Outcome::ConnectFailed),
        Refusal::ConnectTimeout => Some(Outcome::ConnectTimeout),
        Refusal::RouteTimeout => Some(Outcome::OutOfTime),
        Refusal::Overloaded => None,
        _ => Some(Outcome::TlsFailed),
    }
}

/// Says why there is no TLS with an endpoint: a mistake in the configuration, or soon in somebody's calendar.
pub fn complain(worker: &Worker, failure: &Failure, pool: &Pool, endpoint: &Endpoint) {
    let (service, endpoint, reason) = (&pool.name, &endpoint.name, &failure.reason);
    if worker.may_complain() {
        tracing::warn!(service, endpoint, "no TLS with the endpoint: {reason}");
    } else {
        tracing::debug!(service, endpoint, "no TLS with the endpoint: {reason}");
    }
}

/// Reports an attempt that began at `since`.
pub fn settle(lease: Lease, outcome: Outcome, pool: &Pool, since: Instant, took: Duration) {
    pool.settle(lease, outcome, since, took);
}

/// As [`settle`], of an attempt that ended in [`open`].
pub fn settle_unopened(lease: Lease, refusal: Refusal, pool: &Pool, since: Instant) {
    match outcome(refusal) {
        Some(outcome) => settle(lease, outcome, pool, since, since.elapsed()),
        None => lease.withdraw(),
    }
}
