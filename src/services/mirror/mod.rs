//! Copies of requests for a program that nobody hears: one service answers, another one gets the same and may be compared.
//!
//! Decides which requests are copied. Copies none: `serve::copies` does, and never has the original wait for it.

mod compare;
mod differences;
mod pointer;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use xxhash_rust::xxh3::xxh3_64;

pub use compare::{Difference, Incomparable, Seen};
pub use differences::{Differences, Example, Report, Reported};
pub use settings::{Compare, Settings};

use super::{Asked, Decision, Service, Way};
use crate::algo::split::{BUCKETS, bucket};
use crate::route::Method;
use crate::route::key::{self, Found};
use crate::telemetry::metrics::{Compared, MirrorMetrics};
use crate::value::RequestKey;

/// A compiled mirror.
pub struct Mirror {
    pub name: String,
    /// Answers.
    pub to: Arc<Service>,
    pub to_name: String,
    /// Millionths.
    pub share: u32,
    pub copies: Arc<Copies>,
    key: Option<RequestKey>,
    methods: Vec<Method>,
}

/// What copies need while they are on their way, which may be longer than the mirror serves.
pub struct Copies {
    /// The mirror's.
    pub name: String,
    pub copy_name: String,
    pub copy: Arc<Service>,
    /// Bytes of a body that may wait.
    pub buffer: usize,
    pub timeout: Duration,
    pub metrics: Arc<MirrorMetrics>,
    pub comparing: Option<Comparing>,
    in_flight_max: u32,
    in_flight: AtomicU32,
    /// Copies in a row that reached nobody.
    unreached: AtomicU32,
    /// No copies before this many microseconds after `made`.
    paused_until: AtomicU64,
    made: Instant,
}

/// What becomes of answers that are compared.
pub struct Comparing {
    pub rules: Compare,
    /// Gets another copy.
    pub control: Option<Arc<Service>>,
    pub differences: Arc<Differences>,
}

/// One request on its way through a mirror.
pub struct Step<'g> {
    pub mirror: &'g Mirror,
    pub is_copied: bool,
}

impl Mirror {
    pub fn new(name: &str, settings: &Settings, to: (String, Arc<Service>), copies: Copies) -> Self {
        Self {
            name: name.to_owned(),
            to_name: to.0,
            to: to.1,
            share: settings.share.millionths(),
            copies: Arc::new(copies),
            key: settings.by.as_ref().map(|by| by.value.clone()),
            methods: settings.methods.0.clone(),
        }
    }

    pub fn decide<'g>(&'g self, asked: &Asked<'g, '_>, way: &mut Way<'g>) -> Decision<'g> {
        let mut is_copied = self.methods.iter().any(|method| method.0.as_bytes() == asked.head.method);
        if is_copied && self.share < BUCKETS {
            let start = way.keys.len();
            let found = self.key.as_ref().map_or(Found::Nowhere, |key| key::find(key, asked.head, asked.body.read(), &mut way.keys));
            let place = match found {
                Found::Here => bucket(self.name.as_bytes(), &way.keys[start..]),
                // Other dice than those of a split on the same way.
                Found::Nowhere => bucket(self.name.as_bytes(), &xxh3_64(&asked.dice.to_le_bytes()).to_le_bytes()),
                Found::InBody(most) => return Decision::Read(most),
            };
            way.keys.truncate(start);
            is_copied = place < self.share;
        }
        way.push(super::Step::Mirror(Step { mirror: self, is_copied }));
        way.is_copied |= is_copied;
        self.to.decide(asked, way)
    }

    pub(super) fn may_serve(&self, now: Instant) -> bool {
        self.to.may_serve(now)
    }
}

impl Copies {
    pub fn new(
        name: &str,
        settings: &Settings,
        copy: (String, Arc<Service>),
        metrics: Arc<MirrorMetrics>,
        comparing: Option<Comparing>,
        now: Instant,
    ) -> Self {
        Self {
            name: name.to_owned(),
            copy_name: copy.0,
            copy: copy.1,
            buffer: settings.buffer.bytes(),
            timeout: settings.timeout,
            metrics,
            comparing,
            in_flight_max: settings.in_flight.0,
            in_flight: AtomicU32::new(0),
            unreached: AtomicU32::new(0),
            paused_until: AtomicU64::new(0),
            made: now,
        }
    }

    /// The right to have one more copy on its way, or none if there are too many, or if there is nobody to copy to.
    pub fn begin(self: &Arc<Self>, now: Instant) -> Option<InFlight> {
        if self.micros(now) < self.paused_until.load(Relaxed) {
            return None;
        }
        let room = self.in_flight.fetch_update(Relaxed, Relaxed, |now| (now < self.in_flight_max).then_some(now + 1));
        room.is_ok().then(|| InFlight(Arc::clone(self)))
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// A copy reached somebody, or not. When several in a row did not, the next ones are spared the way for a while.
    pub fn reached(&self, is_reached: bool, now: Instant) {
        if is_reached {
            if self.unreached.load(Relaxed) > 0 {
                self.unreached.store(0, Relaxed);
            }
            return;
        }
        let beyond = (self.unreached.fetch_add(1, Relaxed) + 1).saturating_sub(UNREACHED_MAX);
        if beyond > 0 {
            let pause = PAUSE.saturating_mul(1 << beyond.min(8)).min(PAUSE_MAX);
            self.paused_until.store(self.micros(now + pause), Relaxed);
        }
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.made).as_micros()).unwrap_or(u64::MAX)
    }
}

/// Copies in a row that reach nobody, before there is a pause.
const UNREACHED_MAX: u32 = 5;
/// The first pause is twice this; each one doubles.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A copy on its way.
pub struct InFlight(Arc<Copies>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Answers to the same request, that wait to be compared.
pub struct Comparison {
    pub copies: Arc<Copies>,
    /// Method and target.
    pub request: String,
    pub primary: Arc<Seen>,
    pub candidate: Arc<Seen>,
    pub control: Option<Arc<Seen>>,
}

impl Comparison {
    /// Compares them and keeps what differs.
    pub fn run(self, at: SystemTime) {
        let Some(Comparing { rules, differences, .. }) = &self.copies.comparing else { return };
        let noise = self.control.as_ref().map(|control| compare::compare(rules, &self.primary, control)).transpose();
        let (Ok(found), Ok(noise)) = (compare::compare(rules, &self.primary, &self.candidate), noise) else {
            return self.copies.metrics.compared(Compared::Skipped);
        };
        self.copies.metrics.compared(if found.is_empty() { Compared::Same } else { Compared::Different });
        differences.take(&without_secrets(&self.request), found, noise.as_deref(), at);
    }
}

/// A request's line with no values of parameters that are nobody's business.
fn without_secrets(request: &str) -> String {
    let Some((path, query)) = request.split_once('?') else { return request.to_owned() };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if compare::is_secret(name) => format!("{name}={}", compare::HIDDEN),
        _ => pair.to_owned(),
    };
    let pairs: Vec<String> = query.split('&').map(hide).collect();
    format!("{path}?{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_no_part_of_a_request_that_is_shown() {
        assert_eq!(without_secrets("GET /a?b=1&token=x&c"), "GET /a?b=1&token=***&c");
        assert_eq!(without_secrets("GET /a"), "GET /a");
    }
}
