//! One address that answers requests: whether it may take one, how many are with it, and the lease that says so.
//!
//! The only place that counts requests in flight. Finds out nothing by itself: probes, outcomes and elections tell it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::health::Health;
use super::record::Record;
use crate::telemetry::metrics::{EndpointMetrics, Outcome};
use crate::tls::Peer;
use crate::value::Address;
use crate::words;

/// Identity of an endpoint for as long as the process lives; idle connections are kept under it. TLS is part of it: an
/// endpoint that is to be believed or spoken to differently is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(u64);

#[cfg(test)]
impl EndpointId {
    pub fn of_test(number: u64) -> Self {
        Self(number)
    }
}

words! {
    /// What endpoints are spoken to in.
    pub enum Protocol as "a protocol of endpoints" {
        Http1 = "http/1.1",
        Http2 = "h2",
        /// What TLS agrees on.
        Auto = "auto",
    }
}

/// Why an endpoint takes no requests, or fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Bar {
    /// Its probe fails.
    Sick = 1,
    /// It joined a pool that serves already, and its first probe is still out.
    Unproven = 2,
    /// Requests failed there, one after another.
    Ejected = 4,
    /// Another endpoint leads.
    Follower = 8,
    /// It came back a moment ago and gets fewer requests than its share. The only bar that lets some through.
    Warming = 16,
}

/// Bars that let nothing through.
const SHUT: u32 = Bar::Sick as u32 | Bar::Unproven as u32 | Bar::Ejected as u32 | Bar::Follower as u32;

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
    /// What probes found, and when.
    pub health: Mutex<Health>,
    /// What requests found.
    pub record: Record,
    born: Instant,
    /// Of [`Bar`]. Zero is the usual case, which a pick sees with one load.
    bars: AtomicU32,
    /// Nanoseconds since `born` when the slow start began.
    warming_since: AtomicU64,
    in_flight: AtomicU32,
}

impl Endpoint {
    pub fn new(address: Address, tls: Option<Peer>, protocol: Protocol, name: String, metrics: Arc<EndpointMetrics>, now: Instant) -> Self {
        let id = EndpointId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        Self {
            id,
            address,
            tls,
            protocol,
            name,
            metrics,
            health: Mutex::default(),
            record: Record::default(),
            born: now,
            bars: AtomicU32::new(0),
            warming_since: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
        }
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Nothing keeps requests away, and nothing makes them fewer.
    pub fn is_unbarred(&self) -> bool {
        self.bars.load(Ordering::Relaxed) == 0
    }

    /// Some requests may go there, though perhaps fewer than its share.
    pub fn is_open(&self) -> bool {
        self.bars.load(Ordering::Relaxed) & SHUT == 0
    }

    /// Nothing but the first probe, which is still out, keeps requests away.
    pub fn is_only_unproven(&self) -> bool {
        self.bars.load(Ordering::Relaxed) & SHUT == Bar::Unproven as u32
    }

    pub fn has(&self, bar: Bar) -> bool {
        self.bars.load(Ordering::Relaxed) & bar as u32 != 0
    }

    /// Whether the bar is new. Whoever bars or unbars tells the pool, by [`super::Pool::recount`].
    pub fn bar(&self, bar: Bar) -> bool {
        self.bars.fetch_or(bar as u32, Ordering::Relaxed) & bar as u32 == 0
    }

    /// Whether the bar was there.
    pub fn unbar(&self, bar: Bar) -> bool {
        self.bars.fetch_and(!(bar as u32), Ordering::Relaxed) & bar as u32 != 0
    }

    /// Fewer requests than its share from `now` on, for the pool's `slow_start`.
    pub fn warm_up(&self, now: Instant) {
        self.warming_since.store(self.since_birth(now), Ordering::Relaxed);
        self.bar(Bar::Warming);
    }

    /// The part of its share that an endpoint gets that is warming up: from a tenth to all of it. At the end of `slow_start`
    /// it is warm.
    pub fn warmth(&self, slow_start: Duration, now: Instant) -> f64 {
        let since = Duration::from_nanos(self.since_birth(now).saturating_sub(self.warming_since.load(Ordering::Relaxed)));
        if since >= slow_start {
            self.unbar(Bar::Warming);
            return 1.0;
        }
        (since.as_secs_f64() / slow_start.as_secs_f64()).max(0.1)
    }

    pub fn born(&self) -> Instant {
        self.born
    }

    /// Nanoseconds since it was made, so that times fit into atomics.
    pub fn since_birth(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_nanos()).unwrap_or(u64::MAX)
    }

    /// In one word, for people: why it takes no requests, or `up`.
    pub fn state(&self) -> &'static str {
        const NAMES: [(Bar, &str); 5] = [
            (Bar::Sick, "sick"),
            (Bar::Unproven, "unproven"),
            (Bar::Ejected, "ejected"),
            (Bar::Follower, "follower"),
            (Bar::Warming, "warming"),
        ];
        NAMES.into_iter().find(|&(bar, _)| self.has(bar)).map_or("up", |(_, name)| name)
    }

    /// Nothing behind this lock is left half done by a panic.
    pub fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to send one request to one endpoint.
///
/// Settling it, by [`super::Pool::settle`], reports the outcome; dropping it unsettled means the exchange was
/// cancelled, and that is reported too.
pub struct Lease {
    endpoint: Arc<Endpoint>,
    worker: usize,
    /// The request was bound to this endpoint.
    pub is_stuck: bool,
    /// What it means that nobody settled it.
    unsettled: Option<Outcome>,
}

impl Lease {
    pub fn take(endpoint: &Arc<Endpoint>, worker: usize) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { endpoint: Arc::clone(endpoint), worker, is_stuck: false, unsettled: Some(Outcome::ClientGone) }
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub fn worker(&self) -> usize {
        self.worker
    }

    /// What is reported if it is dropped. Unless this is said, that the client left.
    pub fn means_when_dropped(&mut self, outcome: Outcome) {
        self.unsettled = Some(outcome);
    }

    /// Gives the right back unused: nothing is reported.
    pub fn withdraw(mut self) {
        self.unsettled = None;
    }

    pub(super) fn end(mut self, outcome: Outcome) {
        self.unsettled = None;
        self.endpoint.metrics.attempt(self.worker, outcome);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(outcome) = self.unsettled {
            self.endpoint.metrics.attempt(self.worker, outcome);
        }
    }
}
