//! Passive ejection: an endpoint at which requests fail gets none for a while.
//!
//! Judges outcomes only. Never ejects the last endpoint, nor more than a share of them: ejecting everybody is how a brief
//! stall becomes an outage.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Bar, Endpoint, Pool};
use crate::settings;
use crate::telemetry::metrics::{Ejection, Outcome};
use crate::value::{Share, Whole};

settings! {
    /// When an endpoint gets no requests for a while.
    pub struct Settings as "how to eject endpoints" {
        /// Failures in a row: connections refused, resets, timeouts, broken answers, statuses from 500.
        consecutive: Whole<1, 1_000_000> = Whole(5),
        /// Beyond this share of failures within 10 s. Off unless written.
        errors_over: Option<Share> = None,
        /// Requests within these 10 s, before their share says anything.
        min_requests: Whole<1, 1_000_000> = Whole(20),
        /// For so long the first time; each time again adds as much, up to ten times.
        r#for: Duration = Duration::from_secs(30),
        /// Of the pool at once.
        max: Share = Share::percent(50),
    }
}

/// An endpoint that fails for ever is tried again at least so often.
const LONGEST: u32 = 10;

impl Settings {
    /// Takes in what came of a request, and ejects the endpoint if that was the last straw.
    pub fn judge(&self, pool: &Pool, endpoint: &Endpoint, outcome: Outcome, now: Instant) {
        let is_failure = match outcome {
            Outcome::Ok => false,
            Outcome::ClientGone | Outcome::Overtaken | Outcome::OutOfTime => return,
            _ => true,
        };
        let reason = self.reason(endpoint, is_failure, now);
        if let Some(reason) = reason
            && !endpoint.has(Bar::Ejected)
            && self.has_room(pool, endpoint)
        {
            self.eject(pool, endpoint, reason, now);
        }
    }

    fn reason(&self, endpoint: &Endpoint, is_failure: bool, now: Instant) -> Option<Ejection> {
        let record = &endpoint.record;
        let mut reason = None;
        if is_failure {
            if record.failed() >= self.consecutive.0 {
                reason = Some(Ejection::Consecutive);
            }
        } else {
            record.succeeded();
        }
        if let Some(most) = self.errors_over {
            let window = record.count(endpoint.since_birth(now), is_failure);
            let is_known = window.total >= self.min_requests.0;
            if reason.is_none() && is_failure && is_known && most.is_below(u64::from(window.failed), u64::from(window.total)) {
                reason = Some(Ejection::ErrorShare);
            }
        }
        reason
    }

    /// Whether the pool can do without this endpoint too.
    fn has_room(&self, pool: &Pool, endpoint: &Endpoint) -> bool {
        let membership = pool.membership();
        let serving = membership.members().iter().filter(|member| member.weight > 0);
        let (mut all, mut ejected, mut others_open) = (0u64, 0u64, 0u64);
        for member in serving {
            all += 1;
            ejected += u64::from(member.endpoint.has(Bar::Ejected));
            others_open += u64::from(member.endpoint.id != endpoint.id && member.endpoint.is_open());
        }
        // One may always go, where another is left: in a pool of three, a share of 30 % means one.
        others_open > 0 && (ejected == 0 || !self.max.is_below(ejected + 1, all))
    }

    fn eject(&self, pool: &Pool, endpoint: &Endpoint, reason: Ejection, now: Instant) {
        let record = &endpoint.record;
        let at = endpoint.since_birth(now);
        let step = u64::try_from(self.r#for.as_nanos()).unwrap_or(u64::MAX).max(1);
        // Each time that it served for as long as an ejection takes, an earlier one is forgotten.
        let served = at.saturating_sub(record.ejected_until.load(Relaxed)) / step;
        let earlier = record.ejections.load(Relaxed).saturating_sub(u32::try_from(served).unwrap_or(u32::MAX));
        let times = (earlier + 1).min(LONGEST);
        record.ejections.store(times, Relaxed);
        record.ejected_until.store(at.saturating_add(step.saturating_mul(u64::from(times))), Relaxed);
        record.forget_failures();
        endpoint.metrics.ejected(reason);
        pool.bar(endpoint, Bar::Ejected);
        tracing::warn!(service = pool.name, endpoint = endpoint.name, reason = reason.as_str(), "ejected for {:?}", self.r#for * times);
    }
}

/// When an ejection has lasted as long as it was meant to; `None` for an endpoint that is not ejected.
pub fn end(endpoint: &Endpoint) -> Option<Instant> {
    endpoint.has(Bar::Ejected).then(|| endpoint.born() + Duration::from_nanos(endpoint.record.ejected_until.load(Relaxed)))
}

/// Whether an ejection has lasted as long as it was meant to.
pub fn is_over(endpoint: &Endpoint, now: Instant) -> bool {
    end(endpoint).is_some_and(|end| end <= now)
}
