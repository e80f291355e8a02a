//! Whether an arm fares worse than the control arm, by what was seen of both in one window.
//!
//! Ends nothing: one bad window may be an accident.

use std::time::{Duration, SystemTime};

use super::settings::{Abort, Slower};
use crate::algo::compare::{Tally, as_likely, as_likely_as};

/// What two arms came to in one window.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub at: SystemTime,
    pub arm: Summary,
    pub control: Summary,
    /// Why the window is a bad one.
    pub complaint: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Summary {
    pub requests: u64,
    pub errors: u64,
    pub p99: Option<Duration>,
}

impl Summary {
    pub(super) fn of(tally: &Tally) -> Self {
        Self { requests: tally.requests, errors: tally.errors, p99: tally.quantile(0.99) }
    }
}

/// A difference is none if chance alone would make one in a thousand windows look like that.
pub(super) const CHANCE: f64 = 0.001;
/// What is wrong with the arm, if something is: beyond what the settings allow, and beyond what chance makes of the control arm.
pub(super) fn complaint(abort: &Abort, arm: &Tally, control: &Tally) -> Option<String> {
    let likely = |part: u64, other: u64, share: f64| {
        if control.requests == 0 { as_likely_as(part, arm.requests, share) } else { as_likely(part, arm.requests, other, control.requests) }
    };
    if let Some(limit) = &abort.errors_over
        && limit.is_below(arm.errors, arm.requests)
        && likely(arm.errors, control.errors, limit.fraction()) < CHANCE
    {
        let percent = |tally: &Tally| tally.error_share() * 100.0;
        return Some(format!("{:.2}% errors, and {:.2}% in the control arm", percent(arm), percent(control)));
    }
    let limit = match abort.p99_over.as_ref()?.value {
        Slower::Than(limit) => Some(limit),
        Slower::Times(thousandths) => control.quantile(0.99).map(|p99| p99 * thousandths / 1000),
    }?;
    let (slow, others) = (arm.slower_than(limit), control.slower_than(limit));
    let is_slow = arm.quantile(0.99).is_some_and(|p99| p99 > limit) && slow * 100 > arm.requests;
    if is_slow && likely(slow.min(arm.requests), others.min(control.requests), 0.01) < CHANCE {
        let millis = |tally: &Tally| tally.quantile(0.99).map_or(0.0, |p99| p99.as_secs_f64() * 1e3);
        return Some(format!("a p99 of {:.1} ms, and {:.1} ms in the control arm", millis(arm), millis(control)));
    }
    None
}
