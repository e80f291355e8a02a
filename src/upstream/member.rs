//! Who belongs to a pool, and in which order they are preferred.
//!
//! A membership is built whole and never changes; health is not part of it, only counted over it.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use rustls::pki_types::ServerName;

use super::placement;
use super::sticky::{self, Sticky, Token};
use super::{Bar, Endpoint, EndpointId, Placement, Protocol, Rule};
use crate::algo::placement::Method;
use crate::algo::{rendezvous, weighted};
use crate::telemetry::Metrics;
use crate::tls::Connector;
use crate::value::Address;

/// One endpoint as it is to be, wherever that was written or found.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub address: Address,
    /// The name that TLS must prove; `None` speaks without TLS.
    pub tls: Option<ServerName<'static>>,
    /// [`Protocol::Auto`] only where there is TLS.
    pub protocol: Protocol,
    /// In logs and metrics; unique in its pool.
    pub name: String,
    /// Share of the requests relative to the others; 0 takes none.
    pub weight: u32,
    /// Where it stands, if somebody said so.
    pub zone: Option<String>,
    /// As in SRV records: those with the lowest are asked as long as any of them may take requests.
    pub priority: u16,
}

/// What every endpoint of one pool in one generation has in common.
pub struct Recipe {
    pub service: String,
    /// `None` if no endpoint speaks TLS.
    pub connector: Option<Connector>,
    pub metrics: Arc<Metrics>,
    /// An endpoint that joins a pool which serves already proves itself first.
    pub is_probed: bool,
    /// Requests go to one endpoint only, once it is known which.
    pub is_led: bool,
    /// Where this process stands.
    pub zone: Option<String>,
    pub sticky: Option<Arc<Sticky>>,
    pub subset: Option<Subset>,
    /// Of shards over its endpoints.
    pub rules: Vec<Rule>,
}

/// The part of a large pool that one process asks, so that a thousand processes need not each have connections to a thousand
/// endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Endpoints, of each zone and priority.
    pub size: u32,
    /// Different for each process, and the same for as long as it has its name.
    pub seed: u64,
}

/// An endpoint's part in one pool.
#[derive(Clone)]
pub struct Member {
    pub endpoint: Arc<Endpoint>,
    /// Share of the turns; 0 takes none.
    pub weight: u32,
    pub zone: Option<String>,
    pub priority: u16,
    /// Its name as a key's order of endpoints knows it.
    pub hash: u64,
    /// Its name in cookies, where there are any.
    pub token: Option<Token>,
}

/// All of a pool's members at one time.
pub struct Membership {
    members: Vec<Member>,
    /// The preferred one first; never empty, though perhaps of nobody.
    tiers: Vec<Tier>,
    by_token: HashMap<Token, u32>,
    /// As the recipe's rules.
    placements: Vec<Placement>,
}

/// Members that are preferred alike.
pub struct Tier {
    /// Indices of members, in the order of their turns.
    pub schedule: Vec<u32>,
    /// Indices of members with a weight, each once.
    pub members: Vec<u32>,
    priority: u16,
    weight: u32,
    /// Weight of those that may take requests now; counted by [`Membership::recount`].
    open: AtomicU32,
}

/// Of a tier's weight, so much must be open for it to take all requests: with a little room left, nobody is sent beside the
/// subset or to another zone. (Envoy's overprovisioning factor of 1.4, the other way around.)
const ENOUGH: f64 = 1.0 / 1.4;

impl Recipe {
    /// Members as `specs` say, with the endpoints of `previous` that are as they should be.
    pub fn members(&self, specs: &[Spec], previous: &[Member], now: Instant) -> Vec<Member> {
        let member = |spec: &Spec| {
            let carried = previous.iter().map(|member| &member.endpoint).find(|endpoint| self.is_as(endpoint, spec));
            let endpoint = carried.map_or_else(|| self.endpoint(spec, !previous.is_empty(), now), Arc::clone);
            let token = self.sticky.as_ref().and_then(|sticky| sticky.token(&self.service, &spec.name));
            let hash = sticky::hash(&self.service, spec.name.as_bytes());
            Member { endpoint, weight: spec.weight, zone: spec.zone.clone(), priority: spec.priority, hash, token }
        };
        specs.iter().map(member).collect()
    }

    /// Whether an endpoint is what `spec` asks for, TLS included: its connections may be used then.
    pub fn is_as(&self, endpoint: &Endpoint, spec: &Spec) -> bool {
        let is_same_tls = match (&endpoint.tls, &spec.tls, &self.connector) {
            (None, None, _) => true,
            (Some(peer), Some(name), Some(connector)) => peer.is_as(connector, name),
            _ => false,
        };
        is_same_tls && endpoint.address == spec.address && endpoint.name == spec.name && endpoint.protocol == spec.protocol
    }

    /// Whether these members are what `specs` say, in the same order.
    pub fn is_made_of(&self, members: &[Member], specs: &[Spec]) -> bool {
        let is_as = |(member, spec): (&Member, &Spec)| {
            self.is_as(&member.endpoint, spec) && (member.weight, member.priority, &member.zone) == (spec.weight, spec.priority, &spec.zone)
        };
        members.len() == specs.len() && members.iter().zip(specs).all(is_as)
    }

    /// A membership of these.
    pub fn membership(&self, members: Vec<Member>) -> Membership {
        let placements = self.rules.iter().map(|rule| Placement::new(rule, &members, &self.metrics)).collect();
        Membership { placements, ..Membership::new(members, self.zone.as_deref(), self.subset) }
    }

    fn endpoint(&self, spec: &Spec, is_late: bool, now: Instant) -> Arc<Endpoint> {
        let tls = match (&spec.tls, &self.connector) {
            (Some(name), Some(connector)) => Some(connector.peer(name.clone())),
            _ => None,
        };
        let metrics = self.metrics.endpoint(&self.service, &spec.name);
        let endpoint = Endpoint::new(spec.address.clone(), tls, spec.protocol, spec.name.clone(), metrics, now);
        if is_late && self.is_probed {
            endpoint.bar(Bar::Unproven);
        }
        if self.is_led {
            endpoint.bar(Bar::Follower);
        }
        Arc::new(endpoint)
    }
}

impl Subset {
    /// The first of each place, in an order of the process's own: who joins or leaves moves nobody else.
    fn of<P: Eq + Hash>(self, members: &[Member], place: impl Fn(&Member) -> P) -> HashSet<EndpointId> {
        let mut by_place: HashMap<P, Vec<&Member>> = HashMap::new();
        for member in members.iter().filter(|member| member.weight > 0) {
            by_place.entry(place(member)).or_default().push(member);
        }
        let distance = |member: &Member| rendezvous::distance(self.seed, member.hash, member.weight);
        let first = |mut members: Vec<&Member>| {
            members.sort_by(|one, other| distance(one).total_cmp(&distance(other)));
            members.truncate(self.size as usize);
            members.into_iter().map(|member| member.endpoint.id).collect::<Vec<_>>()
        };
        by_place.into_values().flat_map(first).collect()
    }
}

impl Membership {
    pub fn new(members: Vec<Member>, own_zone: Option<&str>, subset: Option<Subset>) -> Self {
        let place = |member: &Member| {
            let is_elsewhere = own_zone.is_some() && member.zone.as_deref() != own_zone;
            (member.priority, is_elsewhere)
        };
        let chosen = subset.map(|subset| subset.of(&members, place));
        let preference = |member: &Member| {
            let (priority, is_elsewhere) = place(member);
            let is_spare = chosen.as_ref().is_some_and(|chosen| !chosen.contains(&member.endpoint.id));
            (priority, is_elsewhere, is_spare)
        };
        let mut preferences: Vec<_> = members.iter().filter(|member| member.weight > 0).map(preference).collect();
        preferences.sort_unstable();
        preferences.dedup();
        let tier = |wanted: (u16, bool, bool)| {
            let inside = |member: &Member| member.weight > 0 && preference(member) == wanted;
            let indices: Vec<u32> = (0u32..).zip(&members).filter(|(_, member)| inside(member)).map(|(index, _)| index).collect();
            let weights: Vec<u32> = members.iter().map(|member| if inside(member) { member.weight } else { 0 }).collect();
            let weight = weights.iter().sum();
            Tier { schedule: weighted::schedule(&weights), members: indices, priority: wanted.0, weight, open: AtomicU32::new(weight) }
        };
        let mut tiers: Vec<Tier> = preferences.into_iter().map(tier).collect();
        if tiers.is_empty() {
            tiers.push(Tier { schedule: Vec::new(), members: Vec::new(), priority: 0, weight: 0, open: AtomicU32::new(0) });
        }
        let by_token = (0u32..).zip(&members).filter_map(|(index, member)| Some((member.token?, index))).collect();
        let membership = Self { members, tiers, by_token, placements: Vec::new() };
        membership.recount();
        membership
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whom a cookie names.
    pub fn by_token(&self, token: &[u8]) -> Option<u32> {
        self.by_token.get(token).copied()
    }

    /// By the number of the rule.
    pub fn placement(&self, rule: u16) -> &Placement {
        &self.placements[usize::from(rule)]
    }

    /// Whether keys can be placed on these members so; the error says why not.
    pub fn check(&self, method: &Method) -> Result<(), String> {
        placement::with_members(&self.members, |members| method.check(members))
    }

    pub fn endpoint(&self, index: u32) -> &Arc<Endpoint> {
        &self.members[index as usize].endpoint
    }

    pub fn weight(&self, index: u32) -> u32 {
        self.members[index as usize].weight
    }

    /// Counts again who may take requests.
    pub fn recount(&self) {
        for tier in &self.tiers {
            let open = tier.members.iter().filter(|&&index| self.endpoint(index).is_open()).map(|&index| self.weight(index)).sum();
            tier.open.store(open, Ordering::Relaxed);
        }
    }

    /// Whether anybody may take a request.
    pub fn has_open(&self) -> bool {
        self.tiers.iter().any(|tier| tier.open.load(Ordering::Relaxed) > 0)
    }

    /// Whose turn it is among the tiers, by 32 random bits; the next one if all of them is closed. The first of all where
    /// nobody is open.
    ///
    /// Between zones, and between a subset and the rest, a tier without enough that is open shares in proportion; between
    /// priorities (RFC 2782), as long as one is open the others wait.
    pub fn tier(&self, dice: u32) -> (usize, &Tier) {
        let last = self.tiers.len() - 1;
        for (index, tier) in self.tiers.iter().enumerate() {
            let open = tier.open.load(Ordering::Relaxed);
            if open == 0 {
                continue;
            }
            let is_last_of_priority = index == last || self.tiers[index + 1].priority != tier.priority;
            if is_last_of_priority || self.tiers[index + 1].open.load(Ordering::Relaxed) == 0 {
                return (index, tier);
            }
            let share = f64::from(open) / (f64::from(tier.weight) * ENOUGH);
            if share >= 1.0 || f64::from(dice) < share * f64::from(u32::MAX) {
                return (index, tier);
            }
        }
        (0, &self.tiers[0])
    }

    /// The tier after this one among those of the same priority, if anybody there is open: those beside the subset, or another zone.
    pub fn elsewhere(&self, index: usize) -> Option<&Tier> {
        let other = self.tiers.get(index + 1)?;
        (other.priority == self.tiers[index].priority && other.open.load(Ordering::Relaxed) > 0).then_some(other)
    }

    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }
}
