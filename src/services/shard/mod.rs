//! The same key, the same member: consistent hashing over services, or over the endpoints of one pool.
//!
//! Whom a key belongs to depends on the configuration alone; who is down is passed over along the key's own order. Counts nothing
//! and remembers nothing: whoever sends the request tells [`Shard::sent`].

pub mod method;
mod settings;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

pub use settings::{Hot, Keyless, MemberSettings, OnDown, Over, Settings};

use super::{Asked, Decision, Service, Step, Way};
use crate::algo::placement::{Hashed, Table};
use crate::refusal::Refusal;
use crate::route::key::{self, Found};
use crate::telemetry::metrics::ShardMetrics;
use crate::upstream::{Aim, Pool};
use crate::value::RequestKey;

/// A compiled shard.
pub struct Shard {
    pub name: String,
    pub key: RequestKey,
    pub over: Members,
    pub on_down: OnDown,
    pub keyless: Keyless,
}

/// Whom keys are placed on.
pub enum Members {
    Services {
        /// In the order of the file.
        members: Vec<Member>,
        table: Table,
    },
    /// The pool has the table, and makes a new one when its members change.
    Pool { pool: Arc<Pool>, rule: u16 },
}

pub struct Member {
    /// What it is known by.
    pub name: String,
    pub weight: u32,
    pub service: Arc<Service>,
    pub metrics: Arc<ShardMetrics>,
}

impl Shard {
    /// `members` were resolved from `settings`, in their order. The error says why keys cannot be placed so.
    pub fn over_services(name: &str, salt: &str, settings: &Settings, members: Vec<Member>) -> Result<Self, String> {
        let Over::Members(written) = &settings.over.value else { return Err("there are no members".to_owned()) };
        let table = settings.table(written, settings.salt(salt))?;
        Ok(Self::new(name, settings, Members::Services { members, table }))
    }

    /// `rule` is the number of this shard's rule in the pool.
    pub fn over_pool(name: &str, settings: &Settings, pool: Arc<Pool>, rule: u16) -> Self {
        Self::new(name, settings, Members::Pool { pool, rule })
    }

    fn new(name: &str, settings: &Settings, over: Members) -> Self {
        Self { name: name.to_owned(), key: settings.by.value.clone(), over, on_down: settings.on_down, keyless: settings.keyless }
    }

    pub fn decide<'g>(&'g self, asked: &Asked<'g, '_>, way: &mut Way<'g>) -> Decision<'g> {
        let start = way.keys.len();
        let is_found = match key::find(&self.key, asked.head, asked.body, &mut way.keys) {
            Found::Here => true,
            Found::Nowhere if self.keyless == Keyless::Refuse => return Decision::Refuse(Refusal::KeyMissing),
            Found::Nowhere => false,
            Found::InBody(most) => return Decision::Read(most),
        };
        let key = start..way.keys.len();
        match &self.over {
            Members::Services { members, table } => {
                // A random key has a random order, by the members' weights.
                let hashed = if is_found { table.hash(&way.keys[key.clone()]) } else { table.hash(&asked.dice.to_le_bytes()) };
                self.among(members, table, hashed, key, asked, way)
            }
            Members::Pool { pool, rule } => {
                if !is_found {
                    return Decision::Forward(pool, None);
                }
                let membership = pool.membership();
                let hashed = membership.placement(*rule).hash(&way.keys[key.clone()]);
                way.push(Step { shard: self, member: None, key, hashed });
                Decision::Forward(pool, Some(Aim { rule: *rule, key: hashed, or_next: self.on_down == OnDown::Next }))
            }
        }
    }

    fn among<'g>(
        &'g self,
        members: &'g [Member],
        table: &Table,
        hashed: Hashed,
        key: Range<usize>,
        asked: &Asked<'g, '_>,
        way: &mut Way<'g>,
    ) -> Decision<'g> {
        for index in table.order(hashed) {
            let is_passed = asked.passed.iter().any(|&(shard, member)| std::ptr::eq(shard, self) && member == index);
            let service = &members[index as usize].service;
            if !is_passed && service.may_serve(asked.now) {
                let before = way.mark();
                way.push(Step { shard: self, member: Some(index), key: key.clone(), hashed });
                match service.decide(asked, way) {
                    Decision::Refuse(Refusal::NoEndpoint) => way.back(before),
                    decision => return decision,
                }
            }
            if self.on_down == OnDown::Fail {
                return Decision::Refuse(Refusal::ShardDown);
            }
        }
        Decision::Refuse(Refusal::NoEndpoint)
    }

    /// A request goes to this member; if a pool chooses it, the pool counts it.
    pub(super) fn sent(&self, worker: usize, member: Option<u32>) {
        if let (Members::Services { members, .. }, Some(member)) = (&self.over, member) {
            members[member as usize].metrics.sent(worker);
        }
    }

    /// Whether a request may go on to somebody.
    pub(super) fn may_serve(&self, now: Instant) -> bool {
        match &self.over {
            Members::Services { members, .. } => members.iter().any(|member| member.weight > 0 && member.service.may_serve(now)),
            Members::Pool { pool, .. } => pool.may_serve(now),
        }
    }
}
