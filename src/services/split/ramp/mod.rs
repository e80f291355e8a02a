//! An arm that grows step by step, as long as its requests fare no worse than the control arm's.
//!
//! Judges and counts steps by the times it is told. What was seen of the arms, whoever asks it brings along; it moves nobody itself.

mod census;
mod judge;
pub mod settings;
mod state;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub use census::Census;
use judge::{CHANCE, complaint};
pub use judge::{Summary, Verdict};
pub use settings::{Abort, Hook, OnAbort, Settings, Slower};
pub use state::Saved;
use state::{State, Window, since_1970};

use crate::algo::compare::{Tally, as_expected};
use crate::tls::Peer;

/// A ramp of one split.
pub struct Ramp {
    pub settings: Settings,
    /// What the split was like that it ramps, by the arms' names and shares.
    pub arms: Vec<(String, Option<u32>)>,
    /// For a hook that speaks TLS.
    pub peer: Option<Peer>,
    pub census: Census,
    /// Somebody has steered it.
    pub steered: Notify,
    state: Mutex<State>,
}

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: Instant,
    pub wall: SystemTime,
}

impl Moment {
    pub fn read() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now() }
    }
}

/// How a ramp is getting on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its start is still to come.
    Waiting,
    Running,
    /// It goes no further until it is resumed, and is judged all the same.
    Paused,
    /// Ended by what was seen of the arm, or by hand.
    Aborted,
    /// The last step has had its time.
    Done,
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Aborted => "aborted",
            Self::Done => "done",
        }
    }
}

/// What happened to a ramp.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The arm has another share, in millionths.
    Stepped(u32),
    Done,
    Aborted(String),
    Paused,
    Resumed,
    /// Keys are not distributed as the shares say, which chance does with this probability.
    Mismatch(f64),
}

impl Event {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stepped(_) => "stepped",
            Self::Done => "done",
            Self::Aborted(_) => "aborted",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Mismatch(_) => "mismatch",
        }
    }
}

/// What an operator can ask of a ramp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Pause,
    Resume,
    Abort,
    /// To this step, counted from 0, or to the next one.
    Step(Option<usize>),
}

/// How a ramp is, for people.
pub struct View {
    pub phase: Phase,
    pub step: usize,
    pub share: u32,
    /// Until the next step may come.
    pub left: Option<Duration>,
    pub bad: u32,
    pub judged: u32,
    pub last: Option<Verdict>,
    pub reason: Option<String>,
}

/// An order that makes no sense now.
#[derive(Debug, PartialEq, Eq)]
pub struct Senseless(pub &'static str);

impl fmt::Display for Senseless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Bad windows in a row that end a ramp.
const BAD_MAX: u32 = 2;
/// Orders that wait to be told of.
const ORDERED_MAX: usize = 16;
/// How often a window that is over is looked at, until enough requests have come.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Ramp {
    /// Goes on where `saved` left off, if that was a ramp of the same arm. An ended one begins anew only with other steps.
    pub fn new(
        settings: Settings,
        arms: Vec<(String, Option<u32>)>,
        peer: Option<Peer>,
        workers: usize,
        saved: Option<&Saved>,
        at: Moment,
    ) -> Self {
        let state = saved.and_then(|saved| State::restored(saved, &settings, at)).unwrap_or_else(|| State::begun(&settings, at));
        Self { settings, arms, peer, census: Census::new(workers), steered: Notify::new(), state: Mutex::new(state) }
    }

    /// Millionths that its arm has now.
    pub fn share(&self) -> u32 {
        self.share_of(&self.state())
    }

    fn share_of(&self, state: &State) -> u32 {
        match state.phase {
            Phase::Waiting => 0,
            Phase::Aborted if self.settings.on_abort == OnAbort::Zero => 0,
            _ => self.settings.step(state.step),
        }
    }

    pub fn saved(&self, at: Moment) -> Saved {
        let state = self.state();
        Saved {
            arm: self.settings.arm.value.0.clone(),
            steps: self.settings.steps.value.iter().map(|step| step.value.millionths()).collect(),
            phase: state.phase,
            step: state.step,
            spent: state.spent_at(at.now).as_secs_f64(),
            at: since_1970(at.wall),
            reason: state.reason.clone(),
        }
    }

    pub fn view(&self, at: Moment) -> View {
        let state = self.state();
        View {
            phase: state.phase,
            step: state.step,
            share: self.share_of(&state),
            left: (state.phase == Phase::Running).then(|| self.settings.every.saturating_sub(state.spent_at(at.now))),
            bad: state.bad,
            judged: state.judged,
            last: state.last.clone(),
            reason: state.reason.clone(),
        }
    }

    /// When it is worth to ask again what has happened.
    pub fn next(&self, at: Moment) -> Instant {
        let state = self.state();
        let mut next = at.now + Duration::from_secs(60);
        match state.phase {
            Phase::Waiting => next = next.min(at.now + self.until_start(at.wall)),
            Phase::Running => {
                next = next.min((at.now + self.settings.every.saturating_sub(state.spent_at(at.now))).max(at.now + LOOK_EVERY));
            }
            Phase::Paused | Phase::Done | Phase::Aborted => {}
        }
        if self.settings.abort.is_some()
            && let Some(window) = &state.window
        {
            next = next.min((window.began + self.settings.window()).max(at.now + LOOK_EVERY));
        }
        next
    }

    fn until_start(&self, wall: SystemTime) -> Duration {
        self.settings.start.map_or(Duration::ZERO, |start| start.0.duration_since(wall).unwrap_or_default())
    }

    /// Takes in what was counted of the arm and of the control arm since the process began.
    pub fn turn(&self, at: Moment, arm: &Tally, control: &Tally) -> Vec<Event> {
        let mut events = Vec::new();
        let mut state = self.state();
        if state.phase == Phase::Waiting {
            if !self.until_start(at.wall).is_zero() {
                return events;
            }
            state.phase = Phase::Running;
            state.enter(0, at.now);
            events.push(Event::Stepped(self.settings.step(0)));
        }
        if let Some(abort) = &self.settings.abort
            && matches!(state.phase, Phase::Running | Phase::Paused | Phase::Done)
        {
            let fresh = || Window { began: at.now, arm: arm.clone(), control: control.clone() };
            let window = state.window.get_or_insert_with(fresh);
            let seen = arm.since(&window.arm);
            let is_over = at.now.saturating_duration_since(window.began) >= self.settings.window();
            if is_over && seen.requests >= u64::from(abort.min_requests.0) {
                let other = control.since(&window.control);
                let complaint = complaint(abort, &seen, &other);
                state.window = Some(fresh());
                state.judged += 1;
                state.bad = if complaint.is_some() { state.bad + 1 } else { 0 };
                state.last =
                    Some(Verdict { at: at.wall, arm: Summary::of(&seen), control: Summary::of(&other), complaint: complaint.clone() });
                if let (Some(complaint), true) = (complaint, state.bad >= BAD_MAX) {
                    state.end(complaint.clone(), at.now);
                    state.is_fresh = true;
                    events.push(Event::Aborted(complaint));
                    return events;
                }
            }
        }
        let is_time = state.phase == Phase::Running && state.spent_at(at.now) >= self.settings.every;
        // Nobody goes further into what nobody has looked at.
        let is_trusted = self.settings.abort.is_none() || (state.judged > 0 && state.bad == 0);
        if is_time && is_trusted {
            let next = state.step + 1;
            if next < self.settings.steps.value.len() {
                state.enter(next, at.now);
                events.push(Event::Stepped(self.settings.step(next)));
            } else {
                state.phase = Phase::Done;
                events.push(Event::Done);
            }
        }
        state.is_fresh |= !events.is_empty();
        events
    }

    /// Looks whether keys are distributed as shares say; says so once in each step.
    pub fn count(&self, shares: &[u32]) -> Option<Event> {
        let probability = self.mismatch(shares).filter(|probability| *probability < CHANCE)?;
        let is_known = std::mem::replace(&mut self.state().is_mismatch_known, true);
        (!is_known).then_some(Event::Mismatch(probability))
    }

    /// How probable it is that keys are distributed by chance as they are. `None` while too few are known.
    pub fn mismatch(&self, shares: &[u32]) -> Option<f64> {
        let shares: Vec<f64> = shares.iter().map(|&share| f64::from(share)).collect();
        let counts = self.census.counts(shares.len());
        let total: u64 = counts.iter().sum();
        let least = shares.iter().copied().filter(|share| *share > 0.0).fold(f64::MAX, f64::min) / shares.iter().sum::<f64>();
        // Pearson's test wants five of each.
        (total as f64 * least >= 5.0).then(|| as_expected(&counts, &shares))
    }

    pub fn steer(&self, order: Order, at: Moment) -> Result<Event, Senseless> {
        let mut state = self.state();
        let event = match (order, state.phase) {
            (Order::Pause, Phase::Running) => {
                state.stop(at.now);
                state.phase = Phase::Paused;
                Event::Paused
            }
            (Order::Pause, _) => return Err(Senseless("only a running ramp can be paused")),
            (Order::Resume, Phase::Paused | Phase::Aborted) => {
                if state.phase == Phase::Aborted {
                    let step = state.step;
                    state.enter(step, at.now);
                }
                state.since = Some(at.now);
                state.phase = Phase::Running;
                state.reason = None;
                Event::Resumed
            }
            (Order::Resume, _) => return Err(Senseless("only a ramp that is paused or aborted can be resumed")),
            (Order::Abort, Phase::Aborted) => return Err(Senseless("it is aborted already")),
            (Order::Abort, _) => {
                state.end("by hand".to_owned(), at.now);
                Event::Aborted("by hand".to_owned())
            }
            (Order::Step(to), phase) => {
                let next = if phase == Phase::Waiting { 0 } else { state.step + 1 };
                let to = to.unwrap_or(next);
                if to >= self.settings.steps.value.len() {
                    return Err(Senseless("there is no such step"));
                }
                state.enter(to, at.now);
                if phase == Phase::Paused {
                    state.stop(at.now);
                } else {
                    state.phase = Phase::Running;
                }
                state.reason = None;
                Event::Stepped(self.settings.step(to))
            }
        };
        state.is_fresh = true;
        if state.ordered.len() < ORDERED_MAX {
            state.ordered.push(event.clone());
        }
        drop(state);
        self.steered.notify_one();
        Ok(event)
    }

    /// What was ordered since this was asked.
    pub fn take_orders(&self) -> Vec<Event> {
        std::mem::take(&mut self.state().ordered)
    }

    /// Whether something that is kept has changed since this was asked.
    pub fn has_changed(&self) -> bool {
        std::mem::take(&mut self.state().is_fresh)
    }

    /// Nothing behind this lock is left half done by a panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
