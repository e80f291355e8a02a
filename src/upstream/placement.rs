//! Endpoints by key: what a shard over a pool's endpoints has the pool choose.
//!
//! A table is made with each membership, by whoever changes that, so that requests only look things up. Knows no requests.

use std::sync::Arc;

use super::Member;
use crate::algo::placement::{self, Hashed, Method, Order, Table};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::ShardMetrics;

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
}

/// Which endpoint of a pool a request is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// Which of the pool's rules places it.
    pub rule: u16,
    pub key: Hashed,
    /// Whether the next in the key's order may take it where its own may not.
    pub or_next: bool,
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
        Self { table, metrics: members.iter().map(|member| metrics.shard(&rule.shard, &member.endpoint.name)).collect() }
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

    /// A request goes to this member.
    pub(super) fn sent(&self, worker: usize, member: u32) {
        self.metrics[member as usize].sent(worker);
    }
}
