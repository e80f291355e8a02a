//! One address that answers requests, and the lease that says a request is with it.
//!
//! The only place that counts requests in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::telemetry::metrics::{EndpointMetrics, Outcome};
use crate::tls::Peer;
use crate::value::Address;
use crate::words;

/// Identity of an endpoint for as long as the process lives; idle connections are kept under it. TLS is part of it: an
/// endpoint that is to be believed or spoken to differently is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId(u64);

words! {
    /// What endpoints are spoken to in.
    pub enum Protocol as "a protocol of endpoints" {
        Http1 = "http/1.1",
        Http2 = "h2",
        /// What TLS agrees on.
        Auto = "auto",
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Lives across generations for as long as its service keeps naming it.
pub struct Endpoint {
    pub id: EndpointId,
    pub address: Address,
    /// `None` speaks without TLS.
    pub tls: Option<Peer>,
    pub protocol: Protocol,
    /// Name in logs and metrics; the address as written unless the operator gave another.
    pub name: String,
    pub metrics: Arc<EndpointMetrics>,
    in_flight: AtomicU32,
}

impl Endpoint {
    pub fn new(address: Address, tls: Option<Peer>, protocol: Protocol, name: String, metrics: Arc<EndpointMetrics>) -> Self {
        let id = EndpointId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        Self { id, address, tls, protocol, name, metrics, in_flight: AtomicU32::new(0) }
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// The right to send one request to one endpoint.
///
/// Settling reports the outcome; dropping it unsettled means the exchange was cancelled, and that
/// is reported too.
pub struct Lease {
    endpoint: Arc<Endpoint>,
    worker: usize,
    is_settled: bool,
}

impl Lease {
    pub fn take(endpoint: &Arc<Endpoint>, worker: usize) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { endpoint: Arc::clone(endpoint), worker, is_settled: false }
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub fn settle(mut self, outcome: Outcome, _took: Duration) {
        self.is_settled = true;
        self.endpoint.metrics.attempt(self.worker, outcome);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.is_settled {
            self.endpoint.metrics.attempt(self.worker, Outcome::ClientGone);
        }
    }
}
