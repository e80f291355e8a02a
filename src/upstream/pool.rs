//! A set of replicated endpoints: who is in it, who may take a request, and what came of one.
//!
//! A changed pool is a new pool that shares the unchanged endpoints; only its membership may change while it lives. Whose
//! turn it is, `balance` says.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::balance::{Ask, Balance, Turns};
use super::budget::Budget;
use super::current::{Current, Reading};
use super::discover::{Answer, Moment, News};
use super::hedge::{self, Hedging};
use super::limits::{self, Admission, Connections};
use super::sticky::{Stuck, Token};
use super::{Aim, Discovery, Endpoint, EndpointId, Lease, Membership, Recipe, Spec, eject, health, leader, retry, sticky};
use crate::algo::rendezvous;
use crate::telemetry::metrics::{self, Outcome, ServiceMetrics};
use crate::value::Whole;
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

/// `subset`.
pub type SubsetSize = Whole<1, 1_000_000>;

/// How a pool treats its endpoints, whoever they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub balance: Balance,
    /// So many endpoints of each zone and priority are asked, as long as enough of them may take requests.
    pub subset: Option<SubsetSize>,
    pub timeouts: Timeouts,
    /// A connection that was opened in one client's name carries nothing of another's.
    pub send_proxy: SendProxy,
    pub eject: Option<eject::Settings>,
    pub retry: Option<retry::Settings>,
    pub hedge: Option<hedge::Settings>,
    pub limits: Option<limits::Settings>,
    pub sticky: Option<sticky::Settings>,
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
            subset: None,
            timeouts: Timeouts::default(),
            send_proxy: SendProxy::Off,
            eject: None,
            retry: None,
            hedge: None,
            limits: None,
            sticky: None,
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
    /// Endpoints that the configuration names, where others may be found.
    named: Vec<Spec>,
    discovery: Discovery,
    membership: Current,
    turns: Turns,
    /// With `retry`: what it allows.
    pub retries: Option<Arc<Budget>>,
    pub hedging: Option<Arc<Hedging>>,
    /// With `limits`: places for requests, and for connections.
    pub admission: Option<Arc<Admission>>,
    pub connections: Option<Arc<Connections>>,
    waiting: AtomicU32,
    born: Instant,
    /// Nanoseconds since `born` when the next ejection ends; [`NEVER`] where nobody is ejected.
    ejection_ends: AtomicU64,
    /// Held while counting, so that the last to count has seen every bar.
    counting: Mutex<()>,
    /// Told when somebody may take requests who could not before, and when members come or go. Shared with the pool that takes
    /// this one's place: whoever waits here has the same endpoints, and others find out about them then.
    pub changed: Arc<Notify>,
}

const NEVER: u64 = u64::MAX;

impl Pool {
    /// `previous` is the pool that this one takes the place of: what is still wanted of it stays as it is, endpoints, budgets,
    /// places and who is stuck to whom.
    pub fn new(
        mut recipe: Recipe,
        named: Vec<Spec>,
        discovery: Discovery,
        policy: Policy,
        previous: Option<&Self>,
        workers: usize,
        now: Instant,
    ) -> Self {
        let old = previous.map(|previous| &previous.policy);
        let membership = previous.map(Self::membership);
        let previous_members = membership.as_ref().map_or(&[][..], |membership| membership.members());
        recipe.sticky = policy.sticky.as_ref().map(|settings| {
            let kept =
                previous.filter(|_| old.is_some_and(|old| old.sticky == policy.sticky)).and_then(|previous| previous.recipe.sticky.clone());
            kept.unwrap_or_else(|| Arc::new(sticky::Sticky::new(settings)))
        });
        let retries = policy.retry.as_ref().map(|retry| {
            let kept = previous.filter(|_| old.and_then(|old| old.retry.as_ref()).is_some_and(|old| old.budget == retry.budget));
            kept.and_then(|previous| previous.retries.clone()).unwrap_or_else(|| Arc::new(Budget::new(retry.budget, workers, now)))
        });
        let hedging = policy.hedge.as_ref().map(|hedge| {
            let kept = previous.filter(|_| old.is_some_and(|old| old.hedge == policy.hedge)).and_then(|previous| previous.hedging.clone());
            kept.unwrap_or_else(|| Arc::new(Hedging::new(hedge, workers, now)))
        });
        let limited = previous.filter(|_| old.is_some_and(|old| old.limits == policy.limits));
        let admission = policy
            .limits
            .as_ref()
            .map(|limits| limited.and_then(|previous| previous.admission.clone()).unwrap_or_else(|| Admission::new(limits, now)));
        let connections = policy
            .limits
            .as_ref()
            .map(|limits| limited.and_then(|previous| previous.connections.clone()).unwrap_or_else(|| Connections::new(limits, workers)));
        let members = recipe.members(&together(&named, discovery.specs()), previous_members, now);
        let membership = recipe.membership(members);
        Self {
            name: recipe.service.clone(),
            metrics: recipe.metrics.service(&recipe.service),
            membership: Current::new(membership, !discovery.sources().is_empty()),
            recipe,
            named: if discovery.sources().is_empty() { Vec::new() } else { named },
            discovery,
            turns: Turns::new(workers),
            retries,
            hedging,
            admission,
            connections,
            waiting: AtomicU32::new(0),
            born: now,
            ejection_ends: AtomicU64::new(NEVER),
            counting: Mutex::default(),
            changed: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.changed)),
            policy,
        }
    }

    pub fn membership(&self) -> Reading<'_> {
        self.membership.read()
    }

    /// Whether this pool made of the endpoints that are named what another recipe would: nothing about them changed.
    pub fn is_made_as(&self, recipe: &Recipe, named: &[Spec]) -> bool {
        let is_same_tls = match (&self.recipe.connector, &recipe.connector) {
            (Some(ours), Some(theirs)) => ours.is_as(theirs),
            (None, None) => true,
            _ => false,
        };
        // Also for endpoints that are still to be found.
        is_same_tls
            && self.recipe.zone == recipe.zone
            && self.recipe.is_probed == recipe.is_probed
            && self.recipe.is_led == recipe.is_led
            && self.recipe.subset == recipe.subset
            && self.recipe.rules == recipe.rules
            && named.iter().zip(self.membership().members()).all(|(spec, member)| recipe.is_as(&member.endpoint, spec))
    }

    /// Takes in what was found beside the endpoints that are named. Those that stay are the same as before.
    pub fn find(&self, found: Vec<Spec>, now: Instant) {
        let previous = Arc::clone(&self.membership());
        let specs = together(&self.named, found);
        if self.recipe.is_made_of(previous.members(), &specs) {
            return;
        }
        let members = self.recipe.members(&specs, previous.members(), now);
        self.membership.replace(self.recipe.membership(members));
        self.recount();
        drop(previous);
        // Addresses come and go for as long as the process lives; their series must not stay.
        self.recipe.metrics.retain_live();
    }

    pub fn discovery(&self) -> &Discovery {
        &self.discovery
    }

    /// Takes in what a source said, or why it said nothing: then everybody stays who was found before.
    pub fn discovered(&self, source: usize, answer: Result<Answer, String>, moment: Moment) {
        let (is_good, reason) = (answer.is_ok(), answer.as_ref().err().cloned().unwrap_or_default());
        self.metrics.discovered(if is_good { metrics::Discovery::Ok } else { metrics::Discovery::Failed });
        let news = self.discovery.take_in(source, answer, moment);
        let (service, source) = (&self.name, &self.discovery.sources()[source]);
        match news {
            News::FirstFailure => tracing::warn!(service, %source, reason, "cannot discover endpoints; those known before are kept"),
            News::Recovered => tracing::info!(service, %source, "discovers endpoints again"),
            News::None => {}
        }
        if is_good {
            self.find(self.discovery.specs(), moment.now);
        }
        // Also those who wait for a first answer that does not come.
        self.changed.notify_waiters();
    }

    /// Every place to look for endpoints has answered once or failed to, so that who is not known is not there.
    pub fn is_looked_up(&self) -> bool {
        self.discovery.is_looked_up()
    }

    /// How long a request may wait for `changed` where [`Pool::pick`] gives nobody, since the first answer about endpoints is
    /// still out.
    pub fn discovery_wait(&self) -> Option<Duration> {
        (!self.is_looked_up()).then_some(self.policy.timeouts.connect)
    }

    /// How long a request may wait for a leader, where one leads; [`Pool::changed`] tells when to look again.
    pub fn leader_wait(&self) -> Option<Duration> {
        self.policy.leader.as_ref().map(|leader| leader.wait)
    }

    /// Whether anybody may take a request.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.end_ejections(now);
        self.membership().has_open()
    }

    /// Whether a request has business here: somebody may take it, or may be about to, or is to be asked whatever happens.
    pub fn may_serve(&self, now: Instant) -> bool {
        self.is_ready(now) || self.policy.fails_open || self.expects_somebody().is_some()
    }

    /// How long to wait for somebody, where nobody may take requests but that is about to change.
    pub fn expects_somebody(&self) -> Option<Duration> {
        self.discovery_wait().into_iter().chain(self.leader_wait()).max()
    }

    /// A place among those who wait for somebody, of which there are `most`.
    pub fn wait(&self, most: u32) -> Option<Waiting<'_>> {
        let entered = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| (waiting < most).then_some(waiting + 1));
        entered.ok().map(|_| Waiting(&self.waiting))
    }

    /// The endpoint that the request is stuck to, or whose turn it is. `None` if nobody may take a request.
    pub fn pick(&self, ask: &Ask<'_>) -> Option<Lease> {
        self.end_ejections(ask.now);
        let membership = self.membership.read();
        let stuck = match ask.stuck {
            Stuck::Free => None,
            Stuck::Token(token) => membership.by_token(token).filter(|&index| self.fits(&membership, index, ask)),
            Stuck::Key(key) => self.by_key(&membership, key, ask),
            Stuck::Only(id) => {
                let index = (0u32..).zip(membership.members()).find(|(_, member)| member.endpoint.id == id).map(|(index, _)| index);
                let index = index.filter(|&index| self.fits(&membership, index, ask))?;
                let mut lease = Lease::take(membership.endpoint(index), ask.worker);
                lease.is_stuck = true;
                return Some(lease);
            }
            Stuck::Aimed(aim) => {
                let choice = aim.choose(self, &membership, ask)?;
                membership.placement(aim.rule).sent(ask.worker, choice);
                let mut lease = Lease::take(membership.endpoint(choice.member), ask.worker);
                lease.is_stuck = true;
                return Some(lease);
            }
        };
        if let Some(index) = stuck {
            let mut lease = Lease::take(membership.endpoint(index), ask.worker);
            lease.is_stuck = true;
            return Some(lease);
        }
        let endpoint = self.policy.balance.choose(&membership, &self.turns, self, ask)?;
        Some(Lease::take(endpoint, ask.worker))
    }

    fn fits(&self, membership: &Membership, index: u32, ask: &Ask<'_>) -> bool {
        let endpoint = membership.endpoint(index);
        // Who belongs there goes there at once, slow start or not.
        !ask.tried.has(endpoint.id) && self.lets_through(endpoint, ask.now, 0)
    }

    /// The first in the key's own order who may take the request. Who had to go to another for that stays there.
    fn by_key(&self, membership: &Membership, key: u64, ask: &Ask<'_>) -> Option<u32> {
        let (sticky, Some(sticky::Settings::Key { ttl, .. })) = (self.recipe.sticky.as_ref()?, &self.policy.sticky) else { return None };
        let members = membership.members();
        if let Some(moved) = sticky.moved(key, ask.now)
            && let Some(index) = (0u32..).zip(members).find(|(_, member)| member.endpoint.id == moved).map(|(index, _)| index)
            && self.fits(membership, index, ask)
        {
            sticky.moves(key, moved, *ttl, ask.now);
            return Some(index);
        }
        let serving = || (0u32..).zip(members).filter(|(_, member)| member.weight > 0);
        let distance = |index: &u32| {
            let member = &members[*index as usize];
            rendezvous::distance(key, member.hash, member.weight)
        };
        let nearest = |indices: &mut dyn Iterator<Item = u32>| indices.min_by(|one, other| distance(one).total_cmp(&distance(other)));
        let owner = nearest(&mut serving().map(|(index, _)| index))?;
        if self.fits(membership, owner, ask) {
            return Some(owner);
        }
        let next = nearest(&mut serving().map(|(index, _)| index).filter(|&index| self.fits(membership, index, ask)))?;
        if !membership.endpoint(owner).is_open() {
            sticky.moves(key, membership.endpoint(next).id, *ttl, ask.now);
        }
        Some(next)
    }

    /// The endpoint that a shard means, as things are now. Leases nothing.
    pub fn aimed(&self, aim: Aim, now: Instant) -> Option<Arc<Endpoint>> {
        let membership = self.membership.read();
        let tried = Tried::default();
        let choice = aim.choose(self, &membership, &Ask { worker: 0, now, dice: 0, tried: &tried, stuck: Stuck::Free })?;
        Some(Arc::clone(membership.endpoint(choice.member)))
    }

    /// The cookie that keeps a client with an endpoint: its name, its value and how long it lasts. `None` where there is none.
    pub fn cookie(&self, endpoint: &Endpoint) -> Option<(&str, Token, Option<Duration>)> {
        let Some(sticky::Settings::Cookie { name, ttl, .. }) = &self.policy.sticky else { return None };
        let token = self.recipe.sticky.as_ref()?.token(&self.name, &endpoint.name)?;
        Some((name, token, *ttl))
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

    /// Has those serve again whose ejection is over. A choice looks at nobody of a tier that is closed, and would not notice.
    fn end_ejections(&self, now: Instant) {
        let ends = self.ejection_ends.load(Ordering::Relaxed);
        if ends == NEVER || now.saturating_duration_since(self.born) < Duration::from_nanos(ends) {
            return;
        }
        for member in self.membership().members() {
            if eject::is_over(&member.endpoint, now) {
                self.readmit(&member.endpoint, super::Bar::Ejected, now);
            }
        }
        // Also where another pool with the same endpoints was quicker.
        self.recount();
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
        let membership = self.membership.read();
        membership.recount();
        for member in membership.members() {
            member.endpoint.metrics.set_up(member.endpoint.is_open());
        }
        let ends = membership.members().iter().filter_map(|member| eject::end(&member.endpoint)).min();
        let ends = ends.and_then(|end| u64::try_from(end.saturating_duration_since(self.born).as_nanos()).ok());
        self.ejection_ends.store(ends.unwrap_or(NEVER), Ordering::Relaxed);
        self.metrics.set_endpoints(membership.members().len());
        drop(counting);
        self.changed.notify_waiters();
    }

    /// Reports what came of a request that began at `since`, the end of its lease.
    pub fn settle(&self, lease: Lease, outcome: Outcome, since: Instant, took: Duration) {
        self.metrics.attempted(lease.worker(), took);
        if let Some(eject) = &self.policy.eject {
            eject.judge(self, lease.endpoint(), outcome, since + took);
        }
        lease.end(outcome);
    }

    /// Whether [`Pool::answered`] has any use.
    pub fn learns(&self) -> bool {
        self.hedging.is_some() || self.admission.is_some() || self.policy.balance.learns()
    }

    /// Reports the head of an answer, `waited` after its attempt began.
    pub fn answered(&self, worker: usize, endpoint: &Endpoint, status: u16, waited: Duration, now: Instant) {
        self.policy.balance.learn(endpoint, status, waited, now);
        if let Some(hedging) = &self.hedging {
            hedging.answered(worker, waited);
        }
        if let Some(admission) = &self.admission {
            admission.answered(waited, now);
        }
    }
}

/// One who waits; given back when dropped.
pub struct Waiting<'p>(&'p AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is named comes first, and wins over what was found under the same name.
fn together(named: &[Spec], found: Vec<Spec>) -> Vec<Spec> {
    let is_new = |spec: &Spec| !named.iter().any(|named| named.name == spec.name);
    named.iter().cloned().chain(found.into_iter().filter(is_new)).collect()
}

/// Endpoints that were tried for a request.
#[derive(Clone, Default)]
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
