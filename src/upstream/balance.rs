//! Whose turn it is: the ways to choose among endpoints that are preferred alike.
//!
//! Reads no clock and rolls no dice of its own. Turns are each worker's own; requests in flight and latencies are all
//! workers' together, so that the whole is as fair as each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::member::{Membership, Tier};
use super::sticky::Stuck;
use super::{Endpoint, Pool, Tried};
use crate::algo::dice;
use crate::words;

words! {
    /// How a pool chooses.
    pub enum Balance as "a way to balance" {
        /// In turns, smooth and weighted.
        RoundRobin = "round-robin",
        /// The fewest requests in flight for its weight, where those of a clearly slower endpoint count for more; turns where
        /// that is even.
        LeastRequests = "least-requests",
        /// The better one, in that sense, of two that the dice name.
        P2c = "p2c",
        /// The one that promises an answer sooner of two that the dice name: latency times requests in flight.
        Ewma = "ewma",
        /// The dice alone.
        Random = "random",
    }
}

/// What a choice depends on beside the pool itself.
pub struct Ask<'a> {
    pub worker: usize,
    pub now: Instant,
    /// 64 random bits.
    pub dice: u64,
    /// Endpoints to pass over as long as there are others.
    pub tried: &'a Tried,
    /// What binds the request to an endpoint.
    pub stuck: Stuck<'a>,
}

/// Whose turn it is, one for each worker: no cache line is shared on the hot path.
pub struct Turns(Box<[Turn]>);

#[repr(align(128))]
struct Turn {
    next: AtomicUsize,
    /// The turns of those that may not take a request go around too, or whoever comes next would get them all.
    detour: AtomicUsize,
}

/// How many endpoints `least-requests` compares at most. Comparing a thousand would cost microseconds.
const COMPARED_MAX: usize = 32;
/// In larger pools it compares so many that the dice name: two are nearly as good as all (Mitzenmacher, "The Power of Two
/// Choices in Randomized Load Balancing", 2001), and each costs some 40 ns.
const SAMPLED: usize = 3;
/// Rolls for an endpoint that may take a request, before all of them are looked at.
const ROLLS_MAX: u32 = 8;
/// An answer that refuses work says nothing of how fast work is done: it counts as this slow.
const REFUSED_AS: Duration = Duration::from_secs(1);
/// What is in flight before the first answer counts as this slow.
const UNKNOWN_AS: f64 = 0.1;
/// Promises less than this factor apart are as good as each other: chance decides, and equals get equal shares.
const NEARLY: f64 = 1.25;
/// Endpoints whose latencies are less than this factor apart count as equally fast.
const CLEARLY: f64 = 2.0;
/// And so do those that are so few seconds apart.
const NOTHING: f64 = 0.001;
/// A zone is overloaded when its endpoint has twice the requests of one elsewhere, and at least so many.
const CROWD: f64 = 8.0;

impl Turns {
    pub fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Turn { next: AtomicUsize::new(usize::MAX), detour: AtomicUsize::new(0) }).collect())
    }

    fn of(&self, worker: usize) -> &Turn {
        &self.0[worker % self.0.len()]
    }

    /// The next place of `length`. Workers start at different places, or each would send its first request to the same endpoint.
    fn next(&self, worker: usize, length: usize) -> usize {
        // Only this worker moves this counter, so a load and a store lose no turn.
        let turn = &self.of(worker).next;
        let at = match turn.load(Ordering::Relaxed) {
            usize::MAX => (worker % self.0.len()) * length / self.0.len(),
            at if at >= length => 0,
            at => at,
        };
        turn.store(at + 1, Ordering::Relaxed);
        at
    }
}

/// One choice: what it is made among, and by which rolls.
struct Choice<'m, 'a> {
    membership: &'m Membership,
    pool: &'a Pool,
    ask: &'a Ask<'a>,
    dice: u64,
}

impl Balance {
    /// `None` if nobody may take the request. Somebody who was tried already, if nobody else may.
    pub(super) fn choose<'m>(self, membership: &'m Membership, turns: &Turns, pool: &Pool, ask: &Ask<'_>) -> Option<&'m Arc<Endpoint>> {
        let mut choice = Choice { membership, pool, ask, dice: ask.dice };
        let (index, tier) = match membership.tiers() {
            [only] => (0, only),
            _ => membership.tier(choice.roll()),
        };
        let chosen = self.among(tier, turns, &mut choice).or_else(|| choice.anybody());
        let chosen = chosen?;
        // One's own zone is preferred, but not at any price.
        let other = match membership.elsewhere(index) {
            Some(elsewhere) if choice.load(chosen) >= CROWD => self.among(elsewhere, turns, &mut choice),
            _ => None,
        };
        let other = other.filter(|&other| choice.load(chosen) > CLEARLY * choice.load(other));
        Some(membership.endpoint(other.unwrap_or(chosen)))
    }

    fn among(self, tier: &Tier, turns: &Turns, choice: &mut Choice<'_, '_>) -> Option<u32> {
        if tier.schedule.is_empty() {
            return None;
        }
        match self {
            Self::RoundRobin => choice.in_turn(tier, turns),
            Self::LeastRequests => choice.least(tier, turns),
            Self::Random => choice.rolled(tier, None),
            Self::P2c => {
                let one = choice.rolled(tier, None)?;
                let Some(other) = choice.rolled(tier, Some(one)) else { return Some(one) };
                Some(if choice.is_better(other, one) { other } else { one })
            }
            Self::Ewma => {
                let one = choice.rolled(tier, None)?;
                let Some(other) = choice.rolled(tier, Some(one)) else { return Some(one) };
                Some(if choice.promise(other) * NEARLY < choice.promise(one) { other } else { one })
            }
        }
    }

    /// Takes in how long an answer took.
    pub(super) fn learn(self, endpoint: &Endpoint, status: u16, waited: Duration, now: Instant) {
        if !self.learns() {
            return;
        }
        let at = endpoint.since_birth(now);
        if status == 429 || status == 503 {
            endpoint.record.refused(waited.max(REFUSED_AS), at);
        } else {
            endpoint.record.answered_after(waited, at);
        }
    }

    /// Whether latencies matter.
    pub(super) fn learns(self) -> bool {
        matches!(self, Self::Ewma | Self::P2c | Self::LeastRequests)
    }
}

impl Choice<'_, '_> {
    fn roll(&mut self) -> u32 {
        (dice::roll(&mut self.dice) >> 32) as u32
    }

    fn fits(&mut self, index: u32) -> bool {
        let endpoint = self.membership.endpoint(index);
        if !self.ask.tried.is_empty() && self.ask.tried.has(endpoint.id) {
            return false;
        }
        endpoint.is_unbarred() || {
            let dice = self.roll();
            self.pool.lets_through(endpoint, self.ask.now, dice)
        }
    }

    /// Requests in flight for its weight, with one more.
    fn load(&self, index: u32) -> f64 {
        f64::from(self.membership.endpoint(index).in_flight() + 1) / f64::from(self.membership.weight(index).max(1))
    }

    /// How long an answer would take there, by what is known.
    fn promise(&self, index: u32) -> f64 {
        let endpoint = self.membership.endpoint(index);
        let latency = endpoint.record.latency(endpoint.since_birth(self.ask.now));
        let is_unknown = latency == 0.0 && endpoint.in_flight() > 0;
        (if is_unknown { UNKNOWN_AS } else { latency + NOTHING }) * self.load(index)
    }

    /// Fewer requests in flight; where one is clearly slower, the sooner answer. Endpoints that are slow would otherwise look
    /// as good as any whenever the others are busy.
    fn is_better(&self, index: u32, than: u32) -> bool {
        let (one, other) = (self.usual_latency(index) + NOTHING, self.usual_latency(than) + NOTHING);
        if one > other * CLEARLY || other > one * CLEARLY {
            return one * self.load(index) < other * self.load(than);
        }
        self.load(index) < self.load(than)
    }

    fn usual_latency(&self, index: u32) -> f64 {
        let endpoint = self.membership.endpoint(index);
        endpoint.record.usual_latency(endpoint.since_birth(self.ask.now))
    }

    fn in_turn(&mut self, tier: &Tier, turns: &Turns) -> Option<u32> {
        let length = tier.schedule.len();
        // A second attempt is nobody's turn: it would take that of whoever is next, and the first turns of all would go to
        // an endpoint that fails.
        if self.ask.tried.is_empty() {
            let chosen = tier.schedule[turns.next(self.ask.worker, length)];
            if self.fits(chosen) {
                return Some(chosen);
            }
        }
        let detour = &turns.of(self.ask.worker).detour;
        for _ in 0..length {
            let at = detour.load(Ordering::Relaxed) % length;
            detour.store(at + 1, Ordering::Relaxed);
            let chosen = tier.schedule[at];
            if self.fits(chosen) {
                return Some(chosen);
            }
        }
        None
    }

    fn least(&mut self, tier: &Tier, turns: &Turns) -> Option<u32> {
        let mut best = None;
        if tier.members.len() <= COMPARED_MAX {
            let mut fitting = [0; COMPARED_MAX];
            let mut count = 0;
            for &index in &tier.members {
                if self.fits(index) {
                    fitting[count] = index;
                    count += 1;
                }
            }
            // Turns among those only, or whoever stands behind one that is out would win twice as many ties.
            let from = if count > 0 { turns.next(self.ask.worker, count) } else { 0 };
            for step in 0..count {
                let index = fitting[(from + step) % count];
                if best.is_none_or(|best| self.is_better(index, best)) {
                    best = Some(index);
                }
            }
            return best;
        }
        for _ in 0..SAMPLED {
            let at = self.roll() as usize % tier.schedule.len();
            let index = tier.schedule[at];
            if self.fits(index) && best.is_none_or(|best| self.is_better(index, best)) {
                best = Some(index);
            }
        }
        best.or_else(|| self.first_fit(&tier.schedule))
    }

    /// Somebody by the dice, other than `avoided`. Places in the schedule are as many as the weight, so a roll is fair by
    /// itself, and rolling again for somebody who may not is fair among the others.
    fn rolled(&mut self, tier: &Tier, avoided: Option<u32>) -> Option<u32> {
        if tier.members.len() < 2 && avoided.is_some() {
            return None;
        }
        for _ in 0..ROLLS_MAX {
            let at = ((u64::from(self.roll()) * tier.schedule.len() as u64) >> 32) as usize;
            let index = tier.schedule[at];
            if avoided != Some(index) && self.fits(index) {
                return Some(index);
            }
        }
        match avoided {
            Some(_) => None,
            None => self.first_fit(&tier.schedule),
        }
    }

    /// The first that fits from a place that the dice name.
    fn first_fit(&mut self, schedule: &[u32]) -> Option<u32> {
        let from = self.roll() as usize % schedule.len();
        (0..schedule.len()).map(|step| schedule[(from + step) % schedule.len()]).find(|&index| self.fits(index))
    }

    /// Whoever may take the request in any tier; then whoever was tried or gets fewer than its share; then whoever may be well,
    /// lest somebody who takes the place of all others begins with refusals; and last, if the pool says so, whoever there is.
    fn anybody(&mut self) -> Option<u32> {
        let membership = self.membership;
        let all: Vec<u32> = membership.tiers().iter().flat_map(|tier| tier.members.iter().copied()).collect();
        if all.is_empty() {
            return None;
        }
        // By the dice: another turn, after the one that found nobody, would be the same endpoint's each time in a pool of two.
        let from = self.roll() as usize % all.len();
        let mut order = (0..all.len()).map(|step| all[(from + step) % all.len()]);
        let second = order.clone().find(|&index| membership.endpoint(index).is_open());
        let last = if self.pool.policy.fails_open { order.clone().next() } else { None };
        let third = order.clone().find(|&index| membership.endpoint(index).is_only_unproven());
        order.find(|&index| self.fits(index)).or(second).or(third).or(last)
    }
}
