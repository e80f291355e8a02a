//! How the things are that a program needs, answered from memory.
//!
//! Asks nobody: `upkeep::checks` does, in the background, and tells what it found.

mod report;
mod settings;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use settings::{CheckSettings, HttpQuestion, Question, Role, Room, ServerQuestion, Settings};

use crate::telemetry::metrics::CheckMetrics;
use crate::tls::Peer;
use crate::upstream::health::{self, Finding, Reason, Turn};

/// A compiled report.
pub struct Health {
    pub name: String,
    pub checks: Vec<Arc<Check>>,
}

/// One check, and what it has found. Kept as long as it is written the same, so that a reload forgets nothing.
pub struct Check {
    pub name: String,
    /// The report that it is for.
    service: String,
    pub settings: CheckSettings,
    pub interval: Duration,
    pub timeout: Duration,
    rise: u32,
    fall: u32,
    /// For whom is asked inside TLS.
    pub peer: Option<Peer>,
    metrics: Arc<CheckMetrics>,
    state: Mutex<State>,
}

/// What is known.
#[derive(Default)]
struct State {
    health: health::Health,
    facts: Facts,
    took: Duration,
    /// Of the latest turn.
    since: Option<SystemTime>,
}

/// What an answer says beside that it is a good one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub role: Option<Role>,
    /// How far a replica is behind.
    pub lag: Option<Duration>,
    /// For people.
    pub detail: Option<String>,
}

/// How one check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Ok,
    Failing,
    /// Nothing is known yet.
    Starting,
    /// What is known is too old to be believed.
    Stale,
}

impl Standing {
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing => "failing",
            Self::Starting => "starting",
            Self::Stale => "stale",
        }
    }
}

/// What was found is believed for so many intervals.
const INTERVALS_FRESH: u32 = 3;

impl Health {
    /// `checks` were compiled from the settings, in their order.
    pub fn new(name: &str, checks: Vec<Arc<Check>>) -> Self {
        Self { name: name.to_owned(), checks }
    }

    pub fn check(&self, name: &str) -> Option<&Arc<Check>> {
        self.checks.iter().find(|check| check.name == name)
    }
}

impl Check {
    pub fn new(
        service: &str,
        name: &str,
        report: &Settings,
        settings: &CheckSettings,
        peer: Option<Peer>,
        metrics: Arc<CheckMetrics>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            service: service.to_owned(),
            settings: settings.clone(),
            interval: settings.interval.unwrap_or(report.interval.0),
            timeout: report.timeout(settings),
            rise: settings.rise.unwrap_or(report.rise.0),
            fall: settings.fall.unwrap_or(report.fall.0),
            peer,
            metrics,
            state: Mutex::default(),
        }
    }

    /// Whether `other` would ask the same, as often, and judge alike.
    pub fn is_as(&self, other: &Self) -> bool {
        let rest = |check: &Self| (check.interval, check.timeout, check.rise, check.fall);
        self.settings == other.settings && rest(self) == rest(other) && Peer::are_alike(self.peer.as_ref(), other.peer.as_ref())
    }

    /// Takes in what was found, and judges it.
    pub fn take(&self, found: Result<Facts, Reason>, took: Duration, now: Instant, wall: SystemTime) {
        let judged = found.as_ref().map_err(Clone::clone).and_then(|facts| self.settings.question.judge(facts));
        let reason = judged.as_ref().err().cloned();
        let finding = Finding { at: now, result: judged };
        let mut state = self.state();
        let turn = state.health.take(finding, self.rise, self.fall);
        state.took = took;
        match found {
            // Even if they are none that are expected: who says that it has another role has that one.
            Ok(facts) => state.facts = facts,
            // One that says nothing and is well all the same has the role that it had.
            Err(_) if state.health.is_well == Some(true) => {}
            // Who cannot be asked has no role any more that anybody could rely on.
            Err(_) => state.facts = Facts::default(),
        }
        if turn.is_some() {
            state.since = Some(wall);
        }
        let is_well = state.health.is_well == Some(true);
        drop(state);
        self.metrics.found(reason.is_none(), is_well, took);
        let (service, check) = (&self.service, &self.name);
        match (turn, reason) {
            (None, _) => {}
            (Some(Turn::First { is_well: false } | Turn::Fell), Some(reason)) => tracing::warn!(service, check, %reason, "check fails"),
            (Some(Turn::Recovered), _) => tracing::info!(service, check, "check is well again, after {} in a row", self.rise),
            (Some(_), _) => tracing::debug!(service, check, "check is well"),
        }
    }

    /// Somebody makes it from now on, or nobody does.
    pub fn set_made(&self, is_made: bool) {
        self.metrics.set_made(is_made);
    }

    pub fn standing(&self, now: Instant) -> Standing {
        self.state().standing(self, now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    fn judge(&self, facts: &Facts) -> Result<(), Reason> {
        match self {
            Self::Redis(asked) | Self::Mysql(asked) | Self::Postgres(asked) => asked.judge(facts),
            _ => Ok(()),
        }
    }
}

impl ServerQuestion {
    /// Whether the first value of the first row is the one that is expected.
    ///
    /// # Errors
    ///
    /// When it is another one.
    pub fn check(&self, found: Option<&str>) -> Result<(), Reason> {
        match (&self.expect, found) {
            (Some(expected), Some(found)) if expected != found => Err(Reason::new(format!("answered `{found}`, expected `{expected}`"))),
            (Some(expected), None) => Err(Reason::new(format!("answered nothing, expected `{expected}`"))),
            _ => Ok(()),
        }
    }

    /// Whether a server is what it is expected to be.
    ///
    /// # Errors
    ///
    /// When it has another role, or is too far behind.
    pub fn judge(&self, facts: &Facts) -> Result<(), Reason> {
        match (self.role, facts.role) {
            (Some(wanted), Some(role)) if wanted != role => {
                return Err(Reason::new(format!("is a {}, expected a {}", role.word(), wanted.word())));
            }
            (Some(_), None) => return Err(Reason::new("does not say which role it has")),
            _ => {}
        }
        match (self.max_lag, facts.lag) {
            (Some(most), Some(lag)) if lag > most => {
                Err(Reason::new(format!("is {} s behind, expected {} s at most", lag.as_secs(), most.as_secs())))
            }
            (Some(_), None) if facts.role == Some(Role::Replica) => Err(Reason::new("does not say how far behind it is")),
            _ => Ok(()),
        }
    }
}

impl State {
    fn standing(&self, check: &Check, now: Instant) -> Standing {
        let Some(last) = &self.health.last else { return Standing::Starting };
        if now.saturating_duration_since(last.at) > check.interval * INTERVALS_FRESH {
            return Standing::Stale;
        }
        if self.health.is_well == Some(true) { Standing::Ok } else { Standing::Failing }
    }
}

#[cfg(test)]
mod tests;
