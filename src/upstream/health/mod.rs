//! What probes found out about an endpoint, and when that changes its standing.
//!
//! Sends no probe and reads no clock; `upkeep` does.

pub(in crate::upstream) mod settings;

use std::time::Instant;

pub use settings::{HttpProbe, Interval, Login, Probe, Settings, Statuses, check_timeout, grpc_service};

use super::{Bar, Endpoint, Pool};

/// The latest findings about one endpoint. Kept for as long as the endpoint is, so that a reload forgets nothing.
#[derive(Debug, Default)]
pub struct Health {
    /// `None` until the first probe has ended.
    pub is_well: Option<bool>,
    /// Findings in a row that say otherwise.
    streak: u32,
    pub last: Option<Finding>,
    /// What it says of leading the pool.
    pub claim: super::leader::Claim,
}

/// What one probe came to.
#[derive(Clone, Debug)]
pub struct Finding {
    pub at: Instant,
    /// Why the probe failed.
    pub result: Result<(), Reason>,
}

/// Why a probe failed, in words that may be shown: short, on one line, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Box<str>);

/// What an endpoint says of itself may be long.
const REASON_CHARS_MAX: usize = 160;

impl Reason {
    pub fn new(text: impl AsRef<str>) -> Self {
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        Self(text.as_ref().chars().take(REASON_CHARS_MAX).map(shown).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a finding changed an endpoint's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The first finding of all.
    First {
        is_well: bool,
    },
    Recovered,
    Fell,
}

impl Health {
    /// Takes in a finding. The first one decides at once; then it takes `fall` failures in a row to be sick, and `rise`
    /// successes to be well.
    pub fn take(&mut self, finding: Finding, rise: u32, fall: u32) -> Option<Turn> {
        let is_well = finding.result.is_ok();
        self.last = Some(finding);
        let Some(was_well) = self.is_well else {
            self.is_well = Some(is_well);
            return Some(Turn::First { is_well });
        };
        if is_well == was_well {
            self.streak = 0;
            return None;
        }
        self.streak = self.streak.saturating_add(1);
        if self.streak < if was_well { fall } else { rise } {
            return None;
        }
        self.is_well = Some(is_well);
        self.streak = 0;
        Some(if is_well { Turn::Recovered } else { Turn::Fell })
    }
}

impl Settings {
    /// Takes in what a probe of `endpoint` found, and lets `pool` know if that changes who may take requests.
    pub fn judge(&self, pool: &Pool, endpoint: &Endpoint, result: Result<(), Reason>, now: Instant) {
        endpoint.metrics.checked(result.is_ok());
        let reason = result.as_ref().err().cloned();
        let turn = endpoint.health().take(Finding { at: now, result }, self.rise, self.fall);
        let (service, name) = (&pool.name, &endpoint.name);
        let was_unproven = endpoint.has(Bar::Unproven);
        match turn {
            None => return,
            Some(Turn::First { is_well: true } | Turn::Recovered) => {
                pool.readmit(endpoint, Bar::Sick, now);
                pool.readmit(endpoint, Bar::Unproven, now);
            }
            Some(Turn::First { is_well: false } | Turn::Fell) => {
                // In this order, so that there is no moment without a bar.
                pool.bar(endpoint, Bar::Sick);
                pool.readmit(endpoint, Bar::Unproven, now);
            }
        }
        match (turn, reason) {
            (_, Some(reason)) => tracing::warn!(service, endpoint = name, %reason, "sick"),
            (Some(Turn::Recovered), None) => tracing::info!(service, endpoint = name, "well again, after {} probes in a row", self.rise),
            (_, None) if was_unproven => tracing::info!(service, endpoint = name, "well, and takes requests from now on"),
            // What everybody expects when a pool begins to serve.
            (_, None) => tracing::debug!(service, endpoint = name, "well"),
        }
    }
}

/// Nobody asks `pool`'s endpoints how they are any more: what was found is forgotten.
pub fn forget(pool: &Pool, now: Instant) {
    for member in pool.membership().members() {
        let endpoint = &member.endpoint;
        {
            let mut health = endpoint.health();
            health.is_well = None;
            health.streak = 0;
            health.last = None;
        }
        pool.readmit(endpoint, Bar::Sick, now);
        pool.readmit(endpoint, Bar::Unproven, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RISE: u32 = 2;
    const FALL: u32 = 3;

    /// What each finding of `findings` (`+` well, `-` not) leads to: `W` well, `S` sick, `.` no change.
    #[track_caller]
    fn check(findings: &str, turns: &str) {
        let mut health = Health::default();
        let at = Instant::now();
        let turn = |finding: char| {
            let result = if finding == '+' { Ok(()) } else { Err(Reason::new("no")) };
            match health.take(Finding { at, result }, RISE, FALL) {
                None => '.',
                Some(Turn::First { is_well: true } | Turn::Recovered) => 'W',
                Some(Turn::First { is_well: false } | Turn::Fell) => 'S',
            }
        };
        assert_eq!(findings.chars().map(turn).collect::<String>(), turns, "{findings}");
    }

    #[test]
    fn the_first_finding_decides_at_once() {
        check("+", "W");
        check("-", "S");
    }

    #[test]
    fn it_takes_fall_failures_in_a_row_to_be_sick() {
        check("+--", "W..");
        check("+---", "W..S");
        check("+--+--+---", "W........S");
        check("+----", "W..S.");
    }

    #[test]
    fn it_takes_rise_successes_in_a_row_to_be_well() {
        check("-+", "S.");
        check("-++", "S.W");
        check("-+-+-++", "S.....W");
        check("-+++---", "S.W...S");
    }

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(Reason::new("-ERR no\r\nx\u{1b}").as_str(), "-ERR no  x ");
        assert_eq!(Reason::new("é".repeat(1000)).as_str().chars().count(), REASON_CHARS_MAX);
    }
}
