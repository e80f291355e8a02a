//! Shares of requests: each user in one arm, whichever process is asked.
//!
//! Which arm a key is in depends on the configuration alone. Where that arm has nobody, the request goes to the control arm, and
//! counts as the arm's failure. Deciding changes nothing: whoever sends the request says so, by [`Way::sent`].

pub mod ramp;
mod settings;

use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use xxhash_rust::xxh3::xxh3_64;

use ramp::{Event, Moment, Order, Ramp, Senseless};
pub use settings::{ArmSettings, Arms, Compat, Cookie, Force, Settings};

use super::{Asked, Decision, Passed, Service, Told, Way};
use crate::algo::split;
use crate::refusal::Refusal;
use crate::route::key::{self, Found};
use crate::route::{Head, Matchers};
use crate::telemetry::metrics::ArmMetrics;
use crate::value::RequestKey;

/// A compiled split.
pub struct Split {
    pub name: String,
    /// In the order of the file.
    pub arms: Vec<Arm>,
    /// The arm that has the rest, or else the largest: it takes requests whose own arm has nobody.
    pub control: u16,
    lie: Lie,
    key: Option<RequestKey>,
    only: Option<Matchers>,
    force: Option<Force>,
    issue: Option<Cookie>,
    sticky: Option<Cookie>,
    is_exposed: bool,
}

/// Where the arms' ranges lie.
enum Lie {
    Always(Ranges),
    /// For now.
    Ramped {
        ramp: Arc<Ramp>,
        arm: u16,
        ranges: ArcSwap<Ranges>,
    },
}

/// Ranges and the shares that they are of.
struct Ranges {
    split: split::Split,
    /// Millionths, of all arms.
    shares: Vec<u32>,
}

impl Ranges {
    fn new(hashing: split::Hashing, written: &[Option<u32>]) -> Self {
        let rest = split::BUCKETS.saturating_sub(written.iter().flatten().sum());
        Self { split: split::Split::new(hashing, written), shares: written.iter().map(|share| share.unwrap_or(rest)).collect() }
    }
}

pub struct Arm {
    /// Its service's name, or its address as written.
    pub name: String,
    pub service: Arc<Service>,
    pub metrics: Arc<ArmMetrics>,
    /// What a cookie says that names it. Other after a change of the salt, so that the users of an experiment that is over are free.
    token: String,
}

impl Arm {
    pub fn new(name: String, salt: &str, service: Arc<Service>, metrics: Arc<ArmMetrics>) -> Self {
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_.:/[]".contains(char);
        let plain: String = name.chars().map(|char| if is_plain(char) { char } else { '_' }).collect();
        let token = format!("{plain}.{:04x}", xxh3_64(salt.as_bytes()) & 0xffff);
        Self { name, service, metrics, token }
    }
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
    /// A cookie names the arm that it was in.
    Remembered,
    /// It is none of those that are divided.
    Outside,
}

impl Because {
    pub fn word(self) -> &'static str {
        match self {
            Self::Forced => "forced",
            Self::Key => "key",
            Self::Issued => "issued",
            Self::Chance => "chance",
            Self::Remembered => "remembered",
            Self::Outside => "outside",
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
                let bucket = self.split.with_ranges(|ranges| ranges.split.position(key));
                let _ = write!(told.to_endpoint, "X-Attache-Bucket: {}={bucket}\r\n", self.split.name);
            }
        }
        if let (Because::Issued, Some(issue), Some(key)) = (self.because, &self.split.issue, key) {
            set_cookie(issue, &String::from_utf8_lossy(key), is_secure, told);
        }
        if let (Because::Key | Because::Issued | Because::Chance, Some(sticky)) = (self.because, &self.split.sticky) {
            let own = self.instead_of.unwrap_or(self.arm);
            set_cookie(sticky, &self.split.arms[usize::from(own)].token, is_secure, told);
        }
    }

    pub(super) fn finished(&self, worker: usize, status: u16, took: Duration) {
        // Whoever only helps out, or was never in the experiment, says nothing of how its arms fare.
        let is_compared = self.instead_of.is_none() && self.because != Because::Outside;
        self.arm().metrics.finished(worker, status, took, is_compared);
    }
}

fn set_cookie(cookie: &Cookie, value: &str, is_secure: bool, told: &mut Told) {
    let Cookie { name, ttl, secure } = cookie;
    let secure = if secure.unwrap_or(is_secure) { "; Secure" } else { "" };
    let seconds = ttl.as_secs();
    let _ = write!(told.to_client, "Set-Cookie: {name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}\r\n");
}

impl Split {
    /// `arms` were resolved from the settings, in their order; `salt` is for where the settings have none.
    pub fn new(name: &str, salt: &str, settings: &Settings, arms: Vec<Arm>, ramp: Option<Arc<Ramp>>) -> Self {
        let mut written = settings.shares();
        let largest = || (0..arms.len()).rev().max_by_key(|&arm| written[arm]).unwrap_or_default();
        let control = written.iter().position(Option::is_none).unwrap_or_else(largest) as u16;
        let hashing = settings.hashing(salt);
        let ramped = ramp.and_then(|ramp| {
            let arm = arms.iter().position(|arm| arm.name == ramp.settings.arm.value.0)?;
            Some((ramp, arm))
        });
        let lie = match ramped {
            None => Lie::Always(Ranges::new(hashing, &written)),
            Some((ramp, arm)) => {
                written[arm] = Some(ramp.share());
                Lie::Ramped { ramp, arm: arm as u16, ranges: ArcSwap::from_pointee(Ranges::new(hashing, &written)) }
            }
        };
        Self {
            name: name.to_owned(),
            control,
            lie,
            key: settings.key(),
            only: settings.only.as_ref().map(|only| only.0.clone()),
            force: settings.force.as_ref().map(|force| force.value.clone()),
            issue: settings.issue.as_ref().map(|issue| issue.value.clone()),
            sticky: settings.sticky.as_ref().map(|sticky| sticky.value.clone()),
            is_exposed: settings.expose,
            arms,
        }
    }

    fn with_ranges<T>(&self, look: impl FnOnce(&Ranges) -> T) -> T {
        match &self.lie {
            Lie::Always(ranges) => look(ranges),
            Lie::Ramped { ranges, .. } => look(&ranges.load()),
        }
    }

    /// What each arm has now, in millionths.
    pub fn shares(&self) -> Vec<u32> {
        self.with_ranges(|ranges| ranges.shares.clone())
    }

    /// Has metrics tell the shares.
    pub fn publish(&self) {
        for (arm, share) in self.arms.iter().zip(self.shares()) {
            arm.metrics.set_share(share);
        }
    }

    pub fn ramp(&self) -> Option<&Arc<Ramp>> {
        match &self.lie {
            Lie::Always(_) => None,
            Lie::Ramped { ramp, .. } => Some(ramp),
        }
    }

    /// Has the ramp look at how its arm fares, and the ranges lie as it says.
    pub fn turn(&self, at: Moment) -> Vec<Event> {
        let Lie::Ramped { ramp, arm, .. } = &self.lie else { return Vec::new() };
        let tally = |arm: u16| self.arms[usize::from(arm)].metrics.tally();
        let mut events = ramp.turn(at, &tally(*arm), &tally(self.control));
        self.follow();
        events.extend(ramp.count(&self.shares()));
        events
    }

    pub fn steer(&self, order: Order, at: Moment) -> Result<Event, Senseless> {
        let Lie::Ramped { ramp, .. } = &self.lie else { return Err(Senseless("this split has no ramp")) };
        let event = ramp.steer(order, at)?;
        self.follow();
        Ok(event)
    }

    /// Has the ranges lie as the ramp says.
    pub fn follow(&self) {
        let Lie::Ramped { ramp, arm, ranges } = &self.lie else { return };
        let before = ranges.load_full();
        ranges.rcu(|known| {
            let share = ramp.share();
            if known.shares[usize::from(*arm)] == share {
                return Arc::clone(known);
            }
            let others = |at: usize| if at == usize::from(self.control) { None } else { Some(known.shares[at]) };
            let written: Vec<Option<u32>> =
                (0..self.arms.len()).map(|at| if at == usize::from(*arm) { Some(share) } else { others(at) }).collect();
            Arc::new(Ranges::new(known.split.hashing().clone(), &written))
        });
        if before.shares != ranges.load().shares {
            ramp.census.clear();
            self.publish();
        }
    }

    pub fn decide<'g>(&'g self, asked: &Asked<'g, '_>, way: &mut Way<'g>) -> Decision<'g> {
        let start = way.keys.len();
        let (chosen, key, because) = if let Some(arm) = self.forced(asked.head) {
            (arm, None, Because::Forced)
        } else if self.only.as_ref().is_some_and(|only| !only.fit(asked.head)) {
            (self.control, None, Because::Outside)
        } else if let Some(arm) = self.remembered(asked.head) {
            (arm, None, Because::Remembered)
        } else {
            let found = self.key.as_ref().map_or(Found::Nowhere, |key| key::find(key, asked.head, asked.body.read(), &mut way.keys));
            let because = match found {
                Found::Here => Because::Key,
                Found::Nowhere if self.issue.is_some() => {
                    // Not for secrets: an id only has to be another one than everybody else's.
                    let _ = write!(way.keys, "{:016x}", asked.dice);
                    Because::Issued
                }
                Found::Nowhere => Because::Chance,
                Found::InBody(most) => return Decision::Read(most),
            };
            let arm = |key: &[u8]| self.with_ranges(|ranges| ranges.split.arm(key) as u16);
            match because {
                Because::Chance => (arm(&asked.dice.to_le_bytes()), None, because),
                _ => (arm(&way.keys[start..]), Some(start..way.keys.len()), because),
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
        let mut named = header.or_else(cookie).or_else(query)?;
        if let Some(secret) = &force.secret {
            let at = named.len().checked_sub(secret.len())?;
            let (before, given) = named.split_at(at);
            named = before.strip_suffix(b":")?;
            verify_slices_are_equal(given, secret.as_bytes()).ok()?;
        }
        self.arms.iter().position(|arm| arm.name.as_bytes() == named).map(|arm| arm as u16)
    }

    /// The arm that a cookie of ours names, as long as anybody is in it.
    fn remembered(&self, head: &Head<'_>) -> Option<u16> {
        let token = head.headers.cookies(self.sticky.as_ref()?.name.as_bytes()).next()?;
        let arm = self.arms.iter().position(|arm| arm.token.as_bytes() == token)?;
        self.with_ranges(|ranges| ranges.shares[arm] > 0).then_some(arm as u16)
    }

    /// Whom a request that could not be served by `step` leaves behind, if there is another arm for it.
    pub fn passed<'g>(step: &Step<'g>) -> Option<Passed<'g>> {
        (step.arm != step.split.control).then_some(Passed::Arm(step.split, step.arm))
    }

    /// A request goes this way.
    pub(super) fn sent(&self, step: &Step<'_>, keys: &[u8], worker: usize) {
        self.arms[usize::from(step.arm)].metrics.sent(worker);
        if let (Lie::Ramped { ramp, .. }, Some(key)) = (&self.lie, &step.key) {
            ramp.census.saw(worker, &keys[key.clone()], step.arm);
        }
        if let Some(missing) = step.instead_of {
            self.arms[usize::from(missing)].metrics.failed_over(worker);
        }
    }

    /// Whether a request may go on to somebody.
    pub(super) fn may_serve(&self, now: Instant) -> bool {
        self.arms.iter().any(|arm| arm.service.may_serve(now))
    }
}
