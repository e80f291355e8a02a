//! A new connection to an endpoint, with what becomes known on the way: metrics, refusals, complaints.
//!
//! Does not choose the endpoint and keeps no lease: whoever forwards does.

use std::time::{Duration, Instant};

use super::worker::Worker;
use crate::dial::{self, DialError, Opening, Step, Wire};
use crate::refusal::Refusal;
use crate::telemetry::metrics::{Handshake, Outcome};
use crate::tls::Failure;
use crate::upstream::{Endpoint, Lease, Pool};

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

/// What an attempt came to that ended in [`open`].
pub fn outcome(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::ConnectFailed => Outcome::ConnectFailed,
        Refusal::ConnectTimeout | Refusal::RouteTimeout => Outcome::ConnectTimeout,
        _ => Outcome::TlsFailed,
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

pub fn settle(lease: Lease, outcome: Outcome, pool: &Pool, took: Duration) {
    pool.settle(lease, outcome, took, Instant::now());
}
