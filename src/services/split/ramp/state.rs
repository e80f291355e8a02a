//! How far a ramp has come, and what is kept of that.
//!
//! Decides nothing; counts the time of a step, whoever ends it.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::judge::Verdict;
use super::settings::Settings;
use super::{Event, Moment, Phase};
use crate::algo::compare::Tally;

pub(super) struct State {
    pub(super) phase: Phase,
    /// Counted from 0.
    pub(super) step: usize,
    /// Of this step: what had passed, and since when more does.
    pub(super) spent: Duration,
    pub(super) since: Option<Instant>,
    /// Windows of this step that were judged, and how many bad ones there are in a row.
    pub(super) judged: u32,
    pub(super) bad: u32,
    pub(super) window: Option<Window>,
    pub(super) last: Option<Verdict>,
    pub(super) reason: Option<String>,
    /// That keys are not distributed as they should be was said already.
    pub(super) is_mismatch_known: bool,
    /// Something that is kept has changed since somebody asked.
    pub(super) is_fresh: bool,
    /// What was ordered, and nobody has told of yet.
    pub(super) ordered: Vec<Event>,
}

/// What was counted when a window began.
pub(super) struct Window {
    pub(super) began: Instant,
    pub(super) arm: Tally,
    pub(super) control: Tally,
}

/// What is kept of a ramp when its process ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    pub arm: String,
    /// Millionths.
    pub steps: Vec<u32>,
    pub phase: Phase,
    pub step: usize,
    /// Seconds of this step.
    pub spent: f64,
    /// Seconds since 1970 when this was written.
    pub at: f64,
    pub reason: Option<String>,
}

impl State {
    pub(super) fn begun(settings: &Settings, at: Moment) -> Self {
        let is_early = settings.start.is_some_and(|start| start.0 > at.wall);
        Self {
            phase: if is_early { Phase::Waiting } else { Phase::Running },
            step: 0,
            spent: Duration::ZERO,
            since: Some(at.now),
            judged: 0,
            bad: 0,
            window: None,
            last: None,
            reason: None,
            is_mismatch_known: false,
            is_fresh: true,
            ordered: Vec::new(),
        }
    }

    pub(super) fn restored(saved: &Saved, settings: &Settings, at: Moment) -> Option<Self> {
        let steps: Vec<u32> = settings.steps.value.iter().map(|step| step.value.millionths()).collect();
        let is_same = saved.steps == steps;
        if saved.arm != settings.arm.value.0 || saved.phase == Phase::Waiting || (saved.phase == Phase::Aborted && !is_same) {
            return None;
        }
        let share = saved.steps.get(saved.step).copied()?;
        // With other steps it goes on where nobody has to go back.
        let step = if is_same { saved.step } else { steps.iter().position(|&step| step >= share).unwrap_or(steps.len() - 1) };
        let passed = (since_1970(at.wall) - saved.at).max(0.0);
        let runs = saved.phase == Phase::Running || (saved.phase == Phase::Done && !is_same);
        let spent = Duration::try_from_secs_f64(saved.spent + if runs { passed } else { 0.0 }).unwrap_or_default();
        Some(Self {
            phase: if runs { Phase::Running } else { saved.phase },
            step,
            spent,
            since: runs.then_some(at.now),
            reason: saved.reason.clone(),
            ..Self::begun(settings, at)
        })
    }

    pub(super) fn spent_at(&self, now: Instant) -> Duration {
        self.spent + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    pub(super) fn stop(&mut self, now: Instant) {
        self.spent = self.spent_at(now);
        self.since = None;
    }

    /// A step begins; what was seen of another one says nothing of it.
    pub(super) fn enter(&mut self, step: usize, now: Instant) {
        self.step = step;
        self.spent = Duration::ZERO;
        self.since = Some(now);
        self.judged = 0;
        self.bad = 0;
        self.window = None;
        self.is_mismatch_known = false;
    }

    pub(super) fn end(&mut self, reason: String, now: Instant) {
        self.stop(now);
        self.phase = Phase::Aborted;
        self.reason = Some(reason);
        self.window = None;
    }
}

pub(super) fn since_1970(wall: SystemTime) -> f64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
