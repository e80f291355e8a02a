//! Shares of requests: each user in one arm, whichever process is asked.
//!
//! Which arm a key is in depends on the configuration alone. Where that arm has nobody, the request goes to the control arm, and
//! counts as the arm's failure. Deciding changes nothing: whoever sends the request says so, by [`Way::sent`].

mod settings;

use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use settings::{ArmSettings, Arms, Compat, Force, Issue, Settings};

use super::{Asked, Decision, Passed, Service, Told, Way};
use crate::algo::split;
use crate::refusal::Refusal;
use crate::route::Head;
use crate::route::key::{self, Found};
use crate::telemetry::metrics::ArmMetrics;
use crate::value::RequestKey;

/// A compiled split.
pub struct Split {
    pub name: String,
    /// In the order of the file.
    pub arms: Vec<Arm>,
    /// The arm that has the rest, or else the largest: it takes requests whose own arm has nobody.
    pub control: u16,
    ranges: split::Split,
    key: Option<RequestKey>,
    force: Option<Force>,
    issue: Option<Issue>,
    is_exposed: bool,
}

pub struct Arm {
    /// Its service's name, or its address as written.
    pub name: String,
    /// Millionths.
    pub share: u32,
    pub service: Arc<Service>,
    pub metrics: Arc<ArmMetrics>,
}

/// One choice on the way.
pub struct Step<'g> {
    pub split: &'g Split,
    pub arm: u16,
    /// Whose request it is, where `arm` only helps out.
    pub instead_of: Option<u16>,
    /// Of the way's keys.
    pub key: Option<Range<usize>>,
    pub because: Because,
}

/// What decided the arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// The request names it.
    Forced,
    Key,
    /// It had no key, and gets one.
    Issued,
    /// It has no key.
    Chance,
}

impl Because {
    pub fn word(self) -> &'static str {
        match self {
            Self::Forced => "forced",
            Self::Key => "key",
            Self::Issued => "issued",
            Self::Chance => "chance",
        }
    }
}

impl<'g> Step<'g> {
    /// The arm's.
    pub fn name(&self) -> &'g str {
        &self.arm().name
    }

    fn arm(&self) -> &'g Arm {
        &self.split.arms[usize::from(self.arm)]
    }

    /// What the endpoint and the client hear of it; `keys` are the way's.
    pub(super) fn tell(&self, keys: &[u8], is_secure: bool, told: &mut Told) {
        let key = self.key.as_ref().map(|key| &keys[key.clone()]);
        if self.split.is_exposed {
            let name = self.name();
            for to in [&mut told.to_endpoint, &mut told.to_client] {
                let _ = write!(to, "X-Attache-Arm: {name}\r\n");
            }
            if let Some(key) = key {
                let bucket = self.split.ranges.position(key);
                let _ = write!(told.to_endpoint, "X-Attache-Bucket: {}={bucket}\r\n", self.split.name);
            }
        }
        if let (Because::Issued, Some(Issue { cookie, ttl, secure }), Some(key)) = (self.because, &self.split.issue, key) {
            let id = String::from_utf8_lossy(key);
            let secure = if secure.unwrap_or(is_secure) { "; Secure" } else { "" };
            let seconds = ttl.as_secs();
            let _ = write!(told.to_client, "Set-Cookie: {cookie}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}\r\n");
        }
    }

    pub(super) fn finished(&self, worker: usize, status: u16, took: Duration) {
        self.arm().metrics.finished(worker, status, took);
    }
}

impl Split {
    /// `arms` were resolved from the settings, in their order; `salt` is for where the settings have none.
    pub fn new(name: &str, salt: &str, settings: &Settings, arms: Vec<Arm>) -> Self {
        let shares: Vec<Option<u32>> = settings.arms.value.0.iter().map(|arm| arm.share).collect();
        let largest = || (0..arms.len()).rev().max_by_key(|&arm| arms[arm].share).unwrap_or_default();
        let control = shares.iter().position(Option::is_none).unwrap_or_else(largest) as u16;
        Self {
            name: name.to_owned(),
            control,
            ranges: split::Split::new(settings.hashing(salt), &shares),
            key: settings.key(),
            force: settings.force.clone(),
            issue: settings.issue.clone(),
            is_exposed: settings.expose,
            arms,
        }
    }

    pub fn decide<'g>(&'g self, asked: &Asked<'g, '_>, way: &mut Way<'g>) -> Decision<'g> {
        let start = way.keys.len();
        let (chosen, key, because) = if let Some(arm) = self.forced(asked.head) {
            (arm, None, Because::Forced)
        } else {
            let found = self.key.as_ref().map_or(Found::Nowhere, |key| key::find(key, asked.head, asked.body.read(), &mut way.keys));
            match found {
                Found::Here => (self.ranges.arm(&way.keys[start..]) as u16, Some(start..way.keys.len()), Because::Key),
                Found::Nowhere if self.issue.is_some() => {
                    // Not for secrets: an id only has to be another one than everybody else's.
                    let _ = write!(way.keys, "{:016x}", asked.dice);
                    (self.ranges.arm(&way.keys[start..]) as u16, Some(start..way.keys.len()), Because::Issued)
                }
                Found::Nowhere => (self.ranges.arm(&asked.dice.to_le_bytes()) as u16, None, Because::Chance),
                Found::InBody(most) => return Decision::Read(most),
            }
        };
        let before = way.mark();
        for arm in [chosen, self.control] {
            let service = &self.arms[usize::from(arm)].service;
            if asked.passed.iter().any(|passed| passed.is_arm(self, arm)) || !service.may_serve(asked.now) {
                continue;
            }
            let instead_of = (arm != chosen).then_some(chosen);
            way.push(super::Step::Split(Step { split: self, arm, instead_of, key: key.clone(), because }));
            match service.decide(asked, way) {
                Decision::Refuse(Refusal::NoEndpoint | Refusal::ShardDown) => way.back(before),
                decision => return decision,
            }
        }
        Decision::Refuse(Refusal::NoEndpoint)
    }

    /// The arm that a request names.
    fn forced(&self, head: &Head<'_>) -> Option<u16> {
        let force = self.force.as_ref()?;
        let header = force.header.as_ref().and_then(|name| head.headers.first(name.0.as_bytes()));
        let cookie = || force.cookie.as_ref().and_then(|name| head.headers.cookies(name.0.as_bytes()).next());
        let query = || force.query.as_ref().and_then(|name| head.query_values(name.0.as_bytes()).next());
        let named = header.or_else(cookie).or_else(query)?;
        self.arms.iter().position(|arm| arm.name.as_bytes() == named).map(|arm| arm as u16)
    }

    /// Whom a request that could not be served by `step` leaves behind, if there is another arm for it.
    pub fn passed<'g>(step: &Step<'g>) -> Option<Passed<'g>> {
        (step.arm != step.split.control).then_some(Passed::Arm(step.split, step.arm))
    }

    /// A request goes this way.
    pub(super) fn sent(&self, step: &Step<'_>, worker: usize) {
        self.arms[usize::from(step.arm)].metrics.sent(worker);
        if let Some(missing) = step.instead_of {
            self.arms[usize::from(missing)].metrics.failed_over(worker);
        }
    }

    /// Whether a request may go on to somebody.
    pub(super) fn may_serve(&self, now: Instant) -> bool {
        self.arms.iter().any(|arm| arm.service.may_serve(now))
    }
}
