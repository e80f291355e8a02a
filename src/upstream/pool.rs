//! A set of replicated endpoints and whose turn it is.
//!
//! Built whole from settings; a changed pool is a new pool that shares the unchanged endpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Endpoint, Lease};
use crate::algo::weighted;
use crate::telemetry::metrics::ServiceMetrics;
use crate::{settings, words};

settings! {
    /// How long a pool waits for its endpoints.
    #[derive(Copy, Eq)]
    pub struct Timeouts as "timeouts" {
        /// Until a connection stands, TLS included. Beyond: 504.
        connect: Duration = Duration::from_secs(3),
        /// From the whole request sent (or the last of it moved) to the head of the answer. Beyond: 504.
        response: Duration = Duration::from_secs(60),
        /// How long a connection may carry nothing: unused between requests, or silent in the
        /// middle of an answer.
        idle: Duration = Duration::from_secs(300),
    }
}

words! {
    /// Whether endpoints are told who the client is before its first byte.
    pub enum SendProxy as "a way to send PROXY headers" {
        Off = "off",
        /// PROXY protocol, version 2.
        V2 = "v2",
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), response: Duration::from_secs(60), idle: Duration::from_secs(300) }
    }
}

/// An endpoint's part in one pool.
#[derive(Clone)]
pub struct Member {
    pub endpoint: Arc<Endpoint>,
    /// Share of the turns; 0 takes none.
    pub weight: u32,
}

pub struct Pool {
    pub name: String,
    pub timeouts: Timeouts,
    /// A connection that was opened in one client's name carries nothing of another's.
    pub send_proxy: SendProxy,
    pub metrics: Arc<ServiceMetrics>,
    members: Vec<Member>,
    schedule: Vec<u32>,
    /// Whose turn it is, one counter per worker: no cache line is shared on the hot path.
    turns: Box<[Turn]>,
}

#[repr(align(128))]
struct Turn(AtomicUsize);

impl Pool {
    pub fn new(
        name: String,
        members: Vec<Member>,
        timeouts: Timeouts,
        send_proxy: SendProxy,
        metrics: Arc<ServiceMetrics>,
        workers: usize,
    ) -> Self {
        let weights: Vec<u32> = members.iter().map(|m| m.weight).collect();
        let schedule = weighted::schedule(&weights);
        // Workers start at different places, or each would send its first request to the same endpoint.
        let start = |worker: usize| worker * schedule.len() / workers.max(1);
        let turns = (0..workers.max(1)).map(|worker| Turn(AtomicUsize::new(start(worker)))).collect();
        Self { name, timeouts, send_proxy, metrics, members, schedule, turns }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether any endpoint may take requests.
    pub fn is_ready(&self) -> bool {
        self.members.iter().any(|member| member.weight > 0)
    }

    /// The next endpoint in turn, other than `avoid` if there is any other. `None` if nobody may
    /// take a request.
    pub fn pick(&self, worker: usize, avoid: Option<&Endpoint>) -> Option<Lease> {
        let turn = &self.turns[worker % self.turns.len()].0;
        let length = self.schedule.len();
        let mut fallback = None;
        for _ in 0..length {
            // Only this worker moves this counter, so a load and a store lose no turn.
            let at = turn.load(Ordering::Relaxed);
            turn.store(if at + 1 >= length { 0 } else { at + 1 }, Ordering::Relaxed);
            let endpoint = &self.members[self.schedule[at] as usize].endpoint;
            if avoid.is_none_or(|avoid| avoid.id != endpoint.id) {
                return Some(Lease::take(endpoint, worker));
            }
            fallback = Some(endpoint);
        }
        fallback.map(|endpoint| Lease::take(endpoint, worker))
    }
}
