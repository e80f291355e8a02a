//! How often a request was sent, and whether it may be sent again.
//!
//! Counts and judges; what can be sent again at all, `forward` knows.

use std::time::{Duration, Instant};

use super::open::CONNECT_ATTEMPTS;
use super::worker::Worker;
use crate::algo::backoff;
use crate::refusal::Refusal;
use crate::telemetry::metrics::Retry;
use crate::upstream::retry::On;
use crate::upstream::{EndpointId, Pool, Tried};

/// Times that a request goes out again, because the endpoint cannot have acted on it. An endpoint that ends connections after a few
/// requests, as nginx may, can turn the same one away several times where many share a connection.
const REPEATS_MAX: u32 = 8;

pub struct Tries<'p> {
    pool: &'p Pool,
    worker: &'p Worker,
    /// All there were, as the log tells it.
    pub attempts: u32,
    pub tried: Tried,
    /// Those that went out for one reason or another of `retry`; the first one included.
    counted: u32,
    repeats: u32,
    /// It is not worth a second attempt.
    is_single: bool,
}

/// Why an attempt came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There is no connection.
    Connect,
    /// It ended before an answer began.
    Reset,
    /// No answer began in time.
    Timeout,
    /// An answer that is as good as none.
    Status(u16),
}

impl<'p> Tries<'p> {
    /// `is_single`: there is no second attempt, whatever the pool says.
    pub fn new(pool: &'p Pool, worker: &'p Worker, is_single: bool, now: Instant) -> Self {
        if let Some(retries) = &pool.retries {
            retries.earn(worker.index, now);
        }
        Self { pool, worker, attempts: 0, tried: Tried::default(), counted: 0, repeats: 0, is_single }
    }

    /// Whether connections that were used before may carry it: not after one turned out to be dead.
    pub fn may_reuse(&self) -> bool {
        self.repeats == 0
    }

    pub fn begin(&mut self) {
        self.attempts += 1;
        self.counted += 1;
    }

    /// Whether it may go out again as if for the first time: it reached nobody.
    pub fn may_repeat(&self) -> bool {
        self.repeats < REPEATS_MAX
    }

    /// It goes out again as if for the first time.
    pub fn repeat(&mut self) {
        self.pool.metrics.retried(self.worker.index, Retry::Reset);
        self.repeats += 1;
        self.counted -= 1;
    }

    /// How long to wait before the next attempt; `None` if there may be none. Spends of the budget.
    pub fn again(&mut self, cause: Cause, failed: EndpointId, now: Instant) -> Option<Duration> {
        if self.is_single {
            return None;
        }
        let is_new = !self.tried.has(failed);
        if is_new {
            self.tried.add(failed);
        }
        let has_others = self.has_others();
        if !has_others {
            // Another round, which does not begin with who failed last.
            self.tried = Tried::default();
            self.tried.add(failed);
        }
        match &self.pool.policy.retry {
            // Nothing was sent, so whatever it is may go to somebody else.
            None if cause == Cause::Connect && is_new && self.counted < CONNECT_ATTEMPTS && has_others => {}
            None => return None,
            Some(retry) => {
                let is_wanted = match cause {
                    Cause::Connect => retry.has(On::Connect),
                    Cause::Reset => retry.has(On::Reset),
                    // Whoever limits one try means to have another.
                    Cause::Timeout => retry.per_try.is_some() || retry.has(On::Timeout),
                    Cause::Status(status) => retry.has_status(status),
                };
                let has_budget = || self.pool.retries.as_ref().is_some_and(|budget| budget.spend(self.worker.index, now));
                if !is_wanted || self.counted >= retry.attempts.0 || !has_budget() {
                    return None;
                }
            }
        }
        self.pool.metrics.retried(
            self.worker.index,
            match cause {
                Cause::Connect => Retry::Connect,
                Cause::Reset => Retry::Reset,
                Cause::Timeout => Retry::Timeout,
                Cause::Status(_) => Retry::Status,
            },
        );
        // Somebody else may be asked at once where nobody was; who failed is given a moment.
        if cause == Cause::Connect && is_new && has_others {
            return Some(Duration::ZERO);
        }
        let base = self.pool.policy.retry.as_ref().map_or(Duration::ZERO, |retry| retry.backoff);
        Some(backoff::pause(base, self.counted, (self.worker.roll() >> 32) as u32))
    }

    fn has_others(&self) -> bool {
        let membership = self.pool.membership();
        membership.members().iter().any(|member| member.weight > 0 && !self.tried.has(member.endpoint.id))
    }
}

impl Cause {
    /// Of what stood in the way of a connection. `None` if another attempt would change nothing.
    pub fn of_unopened(refusal: Refusal) -> Option<Self> {
        match refusal {
            Refusal::RouteTimeout | Refusal::Overloaded => None,
            _ => Some(Self::Connect),
        }
    }
}
