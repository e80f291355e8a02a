//! Connections to endpoints that wait for their next request, one set per worker.
//!
//! An [`EndpointId`] stands for one TLS identity as well, so that what was made under one is never used under another.
//! Starts no task and no timer: `serve` calls [`Idle::sweep`] while there is something to sweep.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Wire;
use crate::upstream::EndpointId;

/// Idle connections kept per endpoint and worker; more are closed when their request ends.
const KEPT_MAX: usize = 512;

#[derive(Default)]
pub struct Idle {
    by_endpoint: RefCell<HashMap<EndpointId, Vec<Parked>, foldhash::fast::FixedState>>,
}

struct Parked {
    wire: Wire,
    until: Instant,
}

impl Idle {
    /// The connection that was used last, so that the rest may age; what is dead or due is dropped on
    /// the way.
    pub fn take(&self, endpoint: EndpointId, now: Instant) -> Option<Wire> {
        let mut by_endpoint = self.by_endpoint.borrow_mut();
        let parked = by_endpoint.get_mut(&endpoint)?;
        while let Some(mut candidate) = parked.pop() {
            if candidate.until > now && candidate.wire.is_silent() {
                return Some(candidate.wire);
            }
            candidate.wire.say_goodbye();
        }
        None
    }

    pub fn put(&self, endpoint: EndpointId, mut wire: Wire, until: Instant) {
        let mut by_endpoint = self.by_endpoint.borrow_mut();
        let parked = by_endpoint.entry(endpoint).or_default();
        if parked.len() < KEPT_MAX {
            parked.push(Parked { wire, until });
        } else {
            wire.say_goodbye();
        }
    }

    /// Closes what is due, dead, or belongs to an endpoint that is no more.
    pub fn sweep(&self, now: Instant, is_known: impl Fn(EndpointId) -> bool) {
        self.by_endpoint.borrow_mut().retain(|&endpoint, parked| {
            let is_known = is_known(endpoint);
            parked.retain_mut(|connection| {
                let stays = is_known && connection.until > now && connection.wire.is_silent();
                if !stays {
                    connection.wire.say_goodbye();
                }
                stays
            });
            !parked.is_empty()
        });
    }

    /// Closes one connection to any of these endpoints, to make room for another. `false` if none is idle.
    pub fn evict(&self, mut endpoints: impl Iterator<Item = EndpointId>) -> bool {
        let mut by_endpoint = self.by_endpoint.borrow_mut();
        // The oldest of the first that has one: what was used last is worth most.
        let evicted = endpoints
            .find_map(|endpoint| by_endpoint.get_mut(&endpoint).filter(|parked| !parked.is_empty()).map(|parked| parked.remove(0)));
        evicted.map(|mut parked| parked.wire.say_goodbye()).is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.by_endpoint.borrow().is_empty()
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.by_endpoint.get_mut().values_mut().flatten().for_each(|parked| parked.wire.say_goodbye());
    }
}

/// How often idle connections are looked at.
pub const SWEEP_EVERY: Duration = Duration::from_secs(5);
