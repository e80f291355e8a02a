//! A set of replicated endpoints: who is in it, who may take a request, and what came of one.
//!
//! A changed pool is a new pool that shares the unchanged endpoints; only its membership may change while it lives. Whose
//! turn it is, `balance` says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

use super::balance::{Ask, Balance, Turns};
use super::{Endpoint, EndpointId, Lease, Member, Membership, Recipe, Spec, eject, health, leader};
use crate::telemetry::metrics::{Outcome, ServiceMetrics};
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

/// How a pool treats its endpoints, whoever they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub balance: Balance,
    pub timeouts: Timeouts,
    /// A connection that was opened in one client's name carries nothing of another's.
    pub send_proxy: SendProxy,
    pub eject: Option<eject::Settings>,
    /// How endpoints are asked whether they are well.
    pub health: Option<health::Settings>,
    /// How endpoints are asked which of them leads.
    pub leader: Option<leader::Settings>,
    /// How long an endpoint that comes back gets fewer requests than its share; zero for not at all.
    pub slow_start: Duration,
    /// Requests go to the endpoints all the same when none may take one.
    pub fails_open: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            balance: Balance::RoundRobin,
            timeouts: Timeouts::default(),
            send_proxy: SendProxy::Off,
            eject: None,
            health: None,
            leader: None,
            slow_start: Duration::ZERO,
            fails_open: false,
        }
    }
}

pub struct Pool {
    pub name: String,
    pub policy: Policy,
    pub metrics: Arc<ServiceMetrics>,
    recipe: Recipe,
    /// Endpoints that the configuration names; others may be found.
    named: Vec<Spec>,
    membership: ArcSwap<Membership>,
    turns: Turns,
    /// Held while counting, so that the last to count has seen every bar.
    counting: Mutex<()>,
    /// Told when somebody may take requests who could not before, and when members come or go.
    pub changed: Notify,
}

impl Pool {
    /// `previous` are the members of the pool that this one takes the place of, as far as they are still wanted.
    pub fn new(recipe: Recipe, named: Vec<Spec>, policy: Policy, previous: &[Member], workers: usize, now: Instant) -> Self {
        let members = recipe.members(&named, previous, now);
        let membership = Membership::new(members, recipe.zone.as_deref());
        Self {
            name: recipe.service.clone(),
            policy,
            metrics: recipe.metrics.service(&recipe.service),
            membership: ArcSwap::from_pointee(membership),
            recipe,
            named,
            turns: Turns::new(workers),
            counting: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub fn membership(&self) -> Guard<Arc<Membership>> {
        self.membership.load()
    }

    /// Whether this pool would make of its endpoints what another recipe would: nothing about them changed.
    pub fn is_made_as(&self, recipe: &Recipe) -> bool {
        self.recipe.zone == recipe.zone
            && self.recipe.is_probed == recipe.is_probed
            && self.recipe.is_led == recipe.is_led
            && self.named.iter().zip(self.membership().members()).all(|(spec, member)| recipe.is_as(&member.endpoint, spec))
    }

    /// Takes in what was found beside the endpoints that are named. Those that stay are the same as before.
    pub fn find(&self, found: Vec<Spec>, now: Instant) {
        let previous = self.membership.load_full();
        let mut specs = self.named.clone();
        specs.extend(found.into_iter().filter(|spec| !self.named.iter().any(|named| named.name == spec.name)));
        let members = self.recipe.members(&specs, previous.members(), now);
        self.membership.store(Arc::new(Membership::new(members, self.recipe.zone.as_deref())));
        self.recount();
    }

    /// How long a request may wait for a leader, where one leads; [`Pool::changed`] tells when to look again.
    pub fn leader_wait(&self) -> Option<Duration> {
        self.policy.leader.as_ref().map(|leader| leader.wait)
    }

    /// Whether anybody may take a request.
    pub fn is_ready(&self) -> bool {
        self.membership().has_open()
    }

    /// The endpoint whose turn it is. `None` if nobody may take a request.
    pub fn pick(&self, ask: &Ask<'_>) -> Option<Lease> {
        let membership = self.membership.load();
        let endpoint = self.policy.balance.choose(&membership, &self.turns, self, ask)?;
        Some(Lease::take(endpoint, ask.worker))
    }

    /// Whether an endpoint may take this request, a bar that is over being taken away on the way.
    pub(super) fn lets_through(&self, endpoint: &Endpoint, now: Instant, dice: u32) -> bool {
        if endpoint.is_unbarred() {
            return true;
        }
        if eject::is_over(endpoint, now) {
            self.readmit(endpoint, super::Bar::Ejected, now);
        }
        if !endpoint.is_open() {
            return false;
        }
        !endpoint.has(super::Bar::Warming) || f64::from(dice) < endpoint.warmth(self.policy.slow_start, now) * f64::from(u32::MAX)
    }

    /// Takes a bar away; what serves again may begin slowly.
    pub fn readmit(&self, endpoint: &Endpoint, bar: super::Bar, now: Instant) {
        if !endpoint.unbar(bar) {
            return;
        }
        if endpoint.is_open() && !self.policy.slow_start.is_zero() {
            endpoint.warm_up(now);
        }
        self.recount();
    }

    /// Bars an endpoint.
    pub fn bar(&self, endpoint: &Endpoint, bar: super::Bar) {
        if endpoint.bar(bar) {
            self.recount();
        }
    }

    /// Counts again who may take requests, after a bar came or went, and tells whoever waits for that.
    pub fn recount(&self) {
        let counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        let membership = self.membership.load();
        membership.recount();
        for member in membership.members() {
            member.endpoint.metrics.set_up(member.endpoint.is_open());
        }
        drop(counting);
        self.changed.notify_waiters();
    }

    /// Reports what came of a request, the end of its lease.
    pub fn settle(&self, lease: Lease, outcome: Outcome, took: Duration, now: Instant) {
        self.metrics.attempted(lease.worker(), took);
        if let Some(eject) = &self.policy.eject {
            eject.judge(self, lease.endpoint(), outcome, now);
        }
        lease.end(outcome);
    }

    /// Reports the head of an answer, `waited` after the request was sent.
    pub fn answered(&self, endpoint: &Endpoint, status: u16, waited: Duration, now: Instant) {
        self.policy.balance.learn(endpoint, status, waited, now);
    }
}

/// Endpoints that were tried for a request.
#[derive(Default)]
pub struct Tried(Vec<EndpointId>);

impl Tried {
    pub fn add(&mut self, endpoint: EndpointId) {
        self.0.push(endpoint);
    }

    pub fn has(&self, endpoint: EndpointId) -> bool {
        self.0.contains(&endpoint)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
