//! The same key, the same member: consistent hashing over services, or over the endpoints of one pool.
//!
//! Whom a key belongs to depends on the configuration alone; who is down is passed over along the key's own order. Deciding changes
//! nothing: whoever sends the request says so, by [`Way::sent`].

mod hot;
pub mod method;
pub mod migrate;
mod settings;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

pub use hot::{Frequent, HotKeys};
pub use migrate::Migration;
pub use settings::{Bound, Hot, Keyless, MemberSettings, OnDown, Over, Settings};

use super::{Asked, Decision, Service, Unwanted, Way};
use crate::algo::placement::choose::{self, Choice, Rules, choose};
use crate::algo::placement::{Hashed, Method, Table};
use crate::refusal::Refusal;
use crate::route::key::{self, Found};
use crate::telemetry::metrics::{ShardMetrics, SpreadMetrics};
use crate::upstream::{Aim, Pool};
use crate::value::RequestKey;

/// A compiled shard.
pub struct Shard {
    pub name: String,
    pub key: RequestKey,
    pub method: Method,
    pub over: Members,
    pub on_down: OnDown,
    pub keyless: Keyless,
    pub bound: Option<u32>,
    pub hot: Option<Arc<HotKeys>>,
    pub migration: Option<Migration>,
    metrics: Arc<SpreadMetrics>,
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
    /// Requests, where they are bounded.
    pub in_flight: AtomicU32,
}

/// What a shard is besides its members.
pub struct Parts<'a> {
    pub name: &'a str,
    pub settings: &'a Settings,
    pub hot: Option<Arc<HotKeys>>,
    pub migration: Option<Migration>,
    pub metrics: Arc<SpreadMetrics>,
}

/// One choice on the way.
pub struct Step<'g> {
    pub shard: &'g Shard,
    /// `None` where a pool is to choose along the key's order.
    pub member: Option<u32>,
    /// Of the way's keys; none if the request had none.
    pub key: Option<Range<usize>>,
    pub hashed: Hashed,
    /// So many members share this key's requests.
    pub spread: u32,
    /// Somebody before had too many.
    pub is_spilled: bool,
    /// Once it was sent.
    busy: Option<Busy<'g>>,
}

/// A request counted at a member, until this is dropped.
pub struct Busy<'g>(&'g AtomicU32);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shard {
    /// `members` were resolved from the settings, in their order; `salt` is for where the settings have none. The error says why keys
    /// cannot be placed so.
    pub fn over_services(parts: Parts<'_>, salt: &str, members: Vec<Member>) -> Result<Self, String> {
        let Over::Members(written) = &parts.settings.over.value else { return Err("there are no members".to_owned()) };
        let table = parts.settings.table(written, parts.settings.salt(salt))?;
        Ok(Self::new(parts, Members::Services { members, table }))
    }

    /// `rule` is the number of this shard's rule in the pool.
    pub fn over_pool(parts: Parts<'_>, pool: Arc<Pool>, rule: u16) -> Self {
        Self::new(parts, Members::Pool { pool, rule })
    }

    fn new(Parts { name, settings, hot, migration, metrics }: Parts<'_>, over: Members) -> Self {
        Self {
            name: name.to_owned(),
            key: settings.by.value.clone(),
            method: settings.method(),
            over,
            on_down: settings.on_down,
            keyless: settings.keyless,
            bound: settings.bound.as_ref().map(|bound| bound.value.0),
            hot,
            migration,
            metrics,
        }
    }

    pub fn decide<'g>(&'g self, asked: &Asked<'g, '_>, way: &mut Way<'g>) -> Decision<'g> {
        let decision = self.decide_by_key(asked, way);
        match (&self.migration, &decision) {
            // Nobody is there to miss it.
            (Some(migration), Decision::Refuse(Refusal::NoEndpoint | Refusal::ShardDown)) if way.unwanted_of(self) == Unwanted::Missed => {
                way.unwanted = None;
                migration.with_old(asked, way)
            }
            _ => decision,
        }
    }

    fn decide_by_key<'g>(&'g self, asked: &Asked<'g, '_>, way: &mut Way<'g>) -> Decision<'g> {
        let start = way.keys.len();
        let is_found = match key::find(&self.key, asked.head, asked.body.read(), &mut way.keys) {
            Found::Here => true,
            Found::Nowhere if self.keyless == Keyless::Refuse => return Decision::Refuse(Refusal::KeyMissing),
            Found::Nowhere => false,
            Found::InBody(most) => {
                let most_told = self.migration.as_ref().map_or(0, |migration| migration.settings.body.0);
                return Decision::Read(most.max(most_told));
            }
        };
        let key = start..way.keys.len();
        if let Some(migration) = &self.migration {
            let hashed = is_found.then(|| self.hash(&way.keys[key.clone()]));
            if let Some(decision) = migration.decide(self, hashed, asked, way) {
                return decision;
            }
        }
        match &self.over {
            Members::Services { members, table } => {
                // A random key has a random order, by the members' weights.
                let hashed = if is_found { table.hash(&way.keys[key.clone()]) } else { table.hash(&asked.dice.to_le_bytes()) };
                self.among(members, table, hashed, is_found.then_some(&key), asked, way)
            }
            Members::Pool { pool, .. } if !is_found => Decision::Forward(pool, None),
            Members::Pool { pool, rule } => {
                let hashed = pool.membership().placement(*rule).hash(&way.keys[key.clone()]);
                let spread = self.spread(asked, hashed);
                way.push(super::Step::Shard(Step {
                    shard: self,
                    member: None,
                    key: Some(key),
                    hashed,
                    spread,
                    is_spilled: false,
                    busy: None,
                }));
                Decision::Forward(
                    pool,
                    Some(Aim { rule: *rule, key: hashed, or_next: self.on_down == OnDown::Next, spread, bound: self.bound }),
                )
            }
        }
    }

    fn among<'g>(
        &'g self,
        members: &'g [Member],
        table: &Table,
        hashed: Hashed,
        key: Option<&Range<usize>>,
        asked: &Asked<'g, '_>,
        way: &mut Way<'g>,
    ) -> Decision<'g> {
        let spread = if key.is_some() { self.spread(asked, hashed) } else { 1 };
        let rules = Rules { or_next: self.on_down == OnDown::Next, spread, dice: asked.dice, bound: self.bound };
        let mut dead = Vec::new();
        loop {
            let up = Up { shard: self, members, asked, dead: &dead };
            let Some(Choice { member, is_spilled }) = choose(table.order(hashed), rules, &up) else { return self.nobody() };
            let before = way.mark();
            way.push(super::Step::Shard(Step {
                shard: self,
                member: Some(member),
                key: key.cloned(),
                hashed,
                spread,
                is_spilled,
                busy: None,
            }));
            match members[member as usize].service.decide(asked, way) {
                Decision::Refuse(Refusal::NoEndpoint) if rules.or_next => {
                    way.back(before);
                    dead.push(member);
                }
                Decision::Refuse(Refusal::NoEndpoint) => return self.nobody(),
                decision => return decision,
            }
        }
    }

    /// The hash of a key, as it would be read from a request.
    pub fn hash(&self, key: &[u8]) -> Hashed {
        match &self.over {
            Members::Services { table, .. } => table.hash(key),
            Members::Pool { pool, rule } => pool.membership().placement(*rule).hash(key),
        }
    }

    /// Every member with its weight, in the order of the file or of the pool.
    pub fn members(&self) -> Vec<(String, u32)> {
        match &self.over {
            Members::Services { members, .. } => members.iter().map(|member| (member.name.clone(), member.weight)).collect(),
            Members::Pool { pool, .. } => {
                pool.membership().members().iter().map(|member| (member.endpoint.name.clone(), member.weight)).collect()
            }
        }
    }

    /// Whom each of these keys belongs to, by its place in [`Shard::members`]; health is not asked.
    pub fn owners<K: AsRef<[u8]>>(&self, keys: impl Iterator<Item = K>) -> Vec<Option<u32>> {
        match &self.over {
            Members::Services { table, .. } => keys.map(|key| table.pick(table.hash(key.as_ref()))).collect(),
            Members::Pool { pool, rule } => {
                let membership = pool.membership();
                let table = membership.placement(*rule).table();
                keys.map(|key| table.pick(table.hash(key.as_ref()))).collect()
            }
        }
    }

    /// The members that a key belongs to first, by name, whether they are up or not.
    pub fn first_members(&self, key: Hashed, count: usize) -> Vec<String> {
        match &self.over {
            Members::Services { members, table } => {
                table.order(key).take(count).map(|member| members[member as usize].name.clone()).collect()
            }
            Members::Pool { pool, rule } => {
                let membership = pool.membership();
                let order = membership.placement(*rule).order(key);
                order.take(count).map(|member| membership.endpoint(member).name.clone()).collect()
            }
        }
    }

    fn nobody(&self) -> Decision<'_> {
        Decision::Refuse(if self.on_down == OnDown::Fail { Refusal::ShardDown } else { Refusal::NoEndpoint })
    }

    /// So many members share the reads of this key.
    fn spread(&self, asked: &Asked<'_, '_>, hashed: Hashed) -> u32 {
        match &self.hot {
            Some(hot) if matches!(asked.head.method, b"GET" | b"HEAD") && hot.is_hot(asked.worker, hashed.value) => hot.settings.replicas.0,
            _ => 1,
        }
    }

    /// A request goes this way; `keys` are the way's.
    pub(super) fn sent<'g>(&'g self, step: &mut Step<'g>, keys: &[u8], worker: usize, now: Instant) {
        if let (Some(hot), Some(key)) = (&self.hot, &step.key) {
            hot.saw(worker, step.hashed, &keys[key.clone()], step.spread > 1, now);
        }
        if step.is_spilled {
            self.metrics.spilled(worker);
        }
        // Where a pool chooses, it counts.
        let (Members::Services { members, .. }, Some(member)) = (&self.over, step.member) else { return };
        let member = &members[member as usize];
        member.metrics.sent(worker);
        if self.bound.is_some() && step.busy.is_none() {
            member.in_flight.fetch_add(1, Ordering::Relaxed);
            step.busy = Some(Busy(&member.in_flight));
        }
    }

    /// Whether a request may go on to somebody.
    pub(super) fn may_serve(&self, now: Instant) -> bool {
        if self.migration.as_ref().is_some_and(|migration| migration.may_serve(now)) {
            return true;
        }
        match &self.over {
            Members::Services { members, .. } => members.iter().any(|member| member.weight > 0 && member.service.may_serve(now)),
            Members::Pool { pool, .. } => pool.may_serve(now),
        }
    }
}

/// Members as one request finds them.
struct Up<'s, 'g, 'a> {
    shard: &'g Shard,
    members: &'g [Member],
    asked: &'s Asked<'g, 'a>,
    /// Who said that there is nobody.
    dead: &'s [u32],
}

impl choose::Members for Up<'_, '_, '_> {
    fn is_up(&self, member: u32) -> bool {
        !self.dead.contains(&member)
            && !self.asked.passed.iter().any(|passed| passed.is_member(self.shard, member))
            && self.members[member as usize].service.may_serve(self.asked.now)
    }

    fn in_flight(&self, member: u32) -> u32 {
        self.members[member as usize].in_flight.load(Ordering::Relaxed)
    }

    fn weight(&self, member: u32) -> u32 {
        self.members[member as usize].weight
    }

    fn count(&self) -> u32 {
        self.members.len() as u32
    }
}
