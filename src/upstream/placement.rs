//! Endpoints by key: what a shard over a pool's endpoints has the pool choose.
//!
//! A table is made with each membership, by whoever changes that, so that requests only look things up. Knows no requests.

use std::sync::Arc;

use super::{Ask, Member, Membership, Pool};
use crate::algo::placement::choose::{self, Choice, Rules, choose};
use crate::algo::placement::{self, Hashed, Method, Order, Table};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{ShardMetrics, SpreadMetrics};

/// One shard's way to place keys on the endpoints of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The shard's name.
    pub shard: String,
    pub method: Method,
    pub salt: u64,
}

/// A rule applied to the members that there are.
pub struct Placement {
    table: Table,
    /// By member.
    metrics: Vec<Arc<ShardMetrics>>,
    spread: Arc<SpreadMetrics>,
}

/// Which endpoint of a pool a request is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// Which of the pool's rules places it.
    pub rule: u16,
    pub key: Hashed,
    /// Whether the next in the key's order may take it where its own may not.
    pub or_next: bool,
    /// So many of the first share the key's requests.
    pub spread: u32,
    /// In per cent of the average, what an endpoint has at most.
    pub bound: Option<u32>,
}

/// Runs `place` with members as placing sees them.
pub(super) fn with_members<T>(members: &[Member], place: impl FnOnce(&[placement::Member<'_>]) -> T) -> T {
    let addresses: Vec<String> = members.iter().map(|member| member.endpoint.address.to_string()).collect();
    let mut placed = Vec::with_capacity(members.len());
    for (member, address) in members.iter().zip(&addresses) {
        let name = &member.endpoint.name;
        placed.push(placement::Member { name, address, has_name: name != address, weight: member.weight });
    }
    place(&placed)
}

impl Placement {
    pub(super) fn new(rule: &Rule, members: &[Member], metrics: &Metrics) -> Self {
        let table = with_members(members, |members| Table::build(&rule.method, rule.salt, members));
        let by_member = members.iter().map(|member| metrics.shard(&rule.shard, &member.endpoint.name)).collect();
        Self { table, metrics: by_member, spread: metrics.spread(&rule.shard) }
    }

    pub fn hash(&self, key: &[u8]) -> Hashed {
        self.table.hash(key)
    }

    /// Members in the key's own order.
    pub fn order(&self, key: Hashed) -> Order<'_> {
        self.table.order(key)
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// A request goes to the member that was chosen.
    pub(super) fn sent(&self, worker: usize, choice: Choice) {
        self.metrics[choice.member as usize].sent(worker);
        if choice.is_spilled {
            self.spread.spilled(worker);
        }
    }
}

impl Aim {
    /// Whom it means among these, or the next in the key's order where that may be.
    pub(super) fn choose(self, pool: &Pool, membership: &Membership, ask: &Ask<'_>) -> Option<Choice> {
        let rules = Rules { or_next: self.or_next, spread: self.spread, dice: ask.dice, bound: self.bound };
        choose(membership.placement(self.rule).order(self.key), rules, &Aimed { pool, membership, aim: self, ask })
    }
}

/// Endpoints as a request finds them that is meant for one of them.
struct Aimed<'a> {
    pool: &'a Pool,
    membership: &'a Membership,
    aim: Aim,
    ask: &'a Ask<'a>,
}

impl choose::Members for Aimed<'_> {
    fn is_up(&self, member: u32) -> bool {
        // Who is tried again is the same, where no other may be.
        let was_tried = self.aim.or_next && self.ask.tried.has(self.membership.endpoint(member).id);
        !was_tried && self.pool.lets_through(self.membership.endpoint(member), self.ask.now, 0)
    }

    fn in_flight(&self, member: u32) -> u32 {
        self.membership.endpoint(member).in_flight()
    }

    fn weight(&self, member: u32) -> u32 {
        self.membership.weight(member)
    }

    fn count(&self) -> u32 {
        self.membership.members().len() as u32
    }
}
