//! Ramps by a clock that is turned by hand, with requests out of an urn.
//!
//! Whether anybody is moved is tested where requests are.

use super::*;
use crate::algo::dice;
use crate::value::{LabelText, Place, Share, SourceId, Spanned, Whole};

const MINUTE: Duration = Duration::from_secs(60);

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(value, Place::new(SourceId(0), 0..0))
}

fn settings(steps: &[u32]) -> Settings {
    Settings {
        arm: spanned(LabelText("canary".to_owned())),
        steps: spanned(steps.iter().map(|&percent| spanned(Share::percent(percent))).collect()),
        every: MINUTE * 10,
        start: None,
        abort: Some(Abort {
            errors_over: Some(spanned(Share::percent(2))),
            p99_over: Some(spanned(Slower::Times(1500))),
            min_requests: Whole(500),
            window: None,
        }),
        on_abort: OnAbort::Zero,
        notify: None,
    }
}

/// A ramp, a clock, and what its arms have come to so far.
struct Run {
    ramp: Ramp,
    at: Moment,
    arm: Tally,
    control: Tally,
    dice: u64,
}

/// How one arm fares: the share of errors, the median time, and how far times are from it.
#[derive(Clone, Copy)]
struct Fares {
    errors: f64,
    median: f64,
    spread: f64,
}

const WELL: Fares = Fares { errors: 0.03, median: 0.02, spread: 0.8 };

impl Run {
    fn of(settings: Settings) -> Self {
        Self::restored(settings, None, Moment { now: Instant::now(), wall: SystemTime::UNIX_EPOCH + MINUTE })
    }

    fn restored(settings: Settings, saved: Option<&Saved>, at: Moment) -> Self {
        let ramp = Ramp::new(settings, Vec::new(), None, 1, saved, at);
        Self { ramp, at, arm: Tally::default(), control: Tally::default(), dice: 7 }
    }

    fn roll(&mut self) -> f64 {
        (dice::roll(&mut self.dice) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// So many requests to each.
    fn serve(&mut self, arm: (u64, Fares), control: (u64, Fares)) {
        for (is_arm, (count, fares)) in [(true, arm), (false, control)] {
            for _ in 0..count {
                let is_error = self.roll() < fares.errors;
                // Of a log-normal distribution, by Box and Muller.
                let normal = (-2.0 * self.roll().max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * self.roll()).cos();
                let took = Duration::from_secs_f64(fares.median * (fares.spread * normal).exp());
                if is_arm { self.arm.add(is_error, took) } else { self.control.add(is_error, took) }
            }
        }
    }

    fn pass(&mut self, time: Duration) -> Vec<Event> {
        self.at = Moment { now: self.at.now + time, wall: self.at.wall + time };
        self.ramp.turn(self.at, &self.arm, &self.control)
    }

    /// Passes minutes with traffic, until something happens.
    fn until_event(&mut self, arm: (u64, Fares), control: (u64, Fares), minutes: u32) -> (u32, Vec<Event>) {
        self.pass(Duration::ZERO);
        for minute in 1..=minutes {
            self.serve(arm, control);
            let events = self.pass(MINUTE);
            if !events.is_empty() {
                return (minute, events);
            }
        }
        (minutes, Vec::new())
    }
}

#[test]
fn an_arm_that_fares_well_grows_to_its_last_step() {
    let mut run = Run::of(settings(&[1, 5, 50]));
    assert_eq!(run.ramp.share(), 10_000);
    assert_eq!(run.until_event((600, WELL), (5000, WELL), 30), (10, vec![Event::Stepped(50_000)]));
    assert_eq!(run.until_event((600, WELL), (5000, WELL), 30), (10, vec![Event::Stepped(500_000)]));
    assert_eq!(run.until_event((600, WELL), (5000, WELL), 30), (10, vec![Event::Done]));
    assert_eq!((run.ramp.share(), run.ramp.view(run.at).phase), (500_000, Phase::Done));
}

#[test]
fn a_thousand_quiet_runs_abort_nothing() {
    let mut aborted = 0;
    for number in 0..1000 {
        let mut run = Run::of(settings(&[10]));
        run.dice = number;
        // Errors above the limit, which both arms have: what is behind both is to blame.
        let (_, events) = run.until_event((500, WELL), (1500, WELL), 10);
        aborted += usize::from(events.iter().any(|event| matches!(event, Event::Aborted(_))));
        assert!(events.contains(&Event::Done) || !events.is_empty(), "{number}");
    }
    assert_eq!(aborted, 0);
}

#[test]
fn an_arm_with_more_errors_is_ended_in_two_windows() {
    for errors in [0.06, 0.08, 0.2, 1.0] {
        let mut run = Run::of(settings(&[10, 50]));
        let fares = Fares { errors, ..WELL };
        let quiet = Fares { errors: 0.001, ..WELL };
        let (minutes, events) = run.until_event((500, fares), (4500, quiet), 10);
        assert_eq!(minutes, 2, "{errors}");
        assert!(matches!(events.as_slice(), [Event::Aborted(reason)] if reason.contains("errors")), "{events:?}");
        assert_eq!(run.ramp.share(), 0);
    }
}

#[test]
fn an_arm_that_is_slower_is_ended_in_two_windows() {
    let mut run = Run::of(settings(&[10, 50]));
    let slow = Fares { median: WELL.median * 3.0, ..WELL };
    let (minutes, events) = run.until_event((1000, slow), (9000, WELL), 10);
    assert_eq!(minutes, 2);
    assert!(matches!(events.as_slice(), [Event::Aborted(reason)] if reason.contains("p99")), "{events:?}");
}

#[test]
fn one_bad_window_ends_nothing_and_holds_the_step() {
    let mut run = Run::of(Settings { every: MINUTE * 2, ..settings(&[10, 50]) });
    let bad = Fares { errors: 0.2, ..WELL };
    run.pass(Duration::ZERO);
    run.serve((500, WELL), (4500, WELL));
    assert_eq!(run.pass(MINUTE), []);
    run.serve((500, bad), (4500, WELL));
    // It would be time for the next step, but not after such a window.
    assert_eq!(run.pass(MINUTE), []);
    assert_eq!(run.ramp.view(run.at).bad, 1);
    run.serve((500, WELL), (4500, WELL));
    assert_eq!(run.pass(MINUTE), [Event::Stepped(500_000)]);
}

#[test]
fn without_requests_nothing_is_judged_and_nothing_grows() {
    let mut run = Run::of(settings(&[10, 50]));
    let bad = Fares { errors: 1.0, ..WELL };
    run.pass(Duration::ZERO);
    for _ in 0..24 {
        run.serve((20, bad), (180, WELL));
        assert_eq!(run.pass(MINUTE), []);
    }
    // A window is as long as it takes; the second one ends it.
    run.serve((20, bad), (180, WELL));
    assert_eq!(run.pass(MINUTE), []);
    assert_eq!((run.ramp.view(run.at).judged, run.ramp.view(run.at).bad), (1, 1));
    let (minutes, events) = run.until_event((20, bad), (180, WELL), 60);
    assert_eq!((minutes, events.len()), (25, 1));
    assert_eq!(run.ramp.share(), 0);
}

#[test]
fn without_a_control_arm_the_limits_count_alone() {
    let mut run = Run::of(settings(&[100]));
    let (minutes, events) = run.until_event((1000, Fares { errors: 0.1, ..WELL }), (0, WELL), 10);
    assert_eq!((minutes, events.len()), (2, 1));
    let mut run = Run::of(settings(&[100]));
    let (_, events) = run.until_event((1000, Fares { errors: 0.015, ..WELL }), (0, WELL), 10);
    assert_eq!(events, [Event::Done]);
}

#[test]
fn an_aborted_arm_may_keep_what_it_has() {
    let mut run = Run::of(Settings { on_abort: OnAbort::Hold, ..settings(&[10, 50]) });
    run.until_event((500, Fares { errors: 0.2, ..WELL }), (4500, WELL), 10);
    assert_eq!((run.ramp.view(run.at).phase, run.ramp.share()), (Phase::Aborted, 100_000));
}

#[test]
fn a_ramp_can_be_steered() {
    let mut run = Run::of(Settings { abort: None, ..settings(&[10, 20, 50]) });
    let at = run.at;
    assert_eq!(
        run.ramp.steer(Order::Resume, at).map_err(|senseless| senseless.0),
        Err("only a ramp that is paused or aborted can be resumed")
    );
    assert_eq!(run.pass(MINUTE * 4), []);
    assert_eq!(run.ramp.steer(Order::Pause, run.at), Ok(Event::Paused));
    // What passes while it is paused does not count.
    assert_eq!(run.pass(MINUTE * 100), []);
    assert_eq!(run.ramp.steer(Order::Resume, run.at), Ok(Event::Resumed));
    assert_eq!(run.pass(MINUTE * 5), []);
    assert_eq!(run.pass(MINUTE), [Event::Stepped(200_000)]);
    assert_eq!(run.ramp.steer(Order::Step(None), run.at), Ok(Event::Stepped(500_000)));
    assert_eq!(run.ramp.steer(Order::Step(None), run.at), Err(Senseless("there is no such step")));
    assert_eq!(run.ramp.steer(Order::Step(Some(0)), run.at), Ok(Event::Stepped(100_000)));
    assert_eq!(run.ramp.steer(Order::Abort, run.at), Ok(Event::Aborted("by hand".to_owned())));
    assert_eq!(run.ramp.share(), 0);
    assert_eq!(run.ramp.steer(Order::Resume, run.at), Ok(Event::Resumed));
    assert_eq!(run.ramp.share(), 100_000);
    assert_eq!(run.ramp.take_orders().len(), 6);
}

#[test]
fn a_ramp_goes_on_where_its_process_ended() {
    let mut run = Run::of(Settings { abort: None, ..settings(&[10, 20, 50]) });
    run.pass(MINUTE * 10);
    run.pass(MINUTE * 3);
    let saved = run.ramp.saved(run.at);
    let text = serde_json::to_string(&saved).unwrap();
    let saved: Saved = serde_json::from_str(&text).unwrap();
    // The time between counts too.
    let later = Moment { now: run.at.now + MINUTE, wall: run.at.wall + MINUTE * 5 };
    let mut next = Run::restored(Settings { abort: None, ..settings(&[10, 20, 50]) }, Some(&saved), later);
    assert_eq!(next.ramp.share(), 200_000);
    assert_eq!(next.pass(MINUTE), []);
    assert_eq!(next.pass(MINUTE), [Event::Stepped(500_000)]);
}

#[test]
fn other_steps_send_nobody_back() {
    let mut run = Run::of(Settings { abort: None, ..settings(&[10, 20, 50]) });
    run.pass(MINUTE * 10);
    let saved = run.ramp.saved(run.at);
    for (steps, share) in [(&[5, 25, 30][..], 250_000), (&[20, 40], 200_000), (&[5, 10], 100_000)] {
        assert_eq!(Run::restored(settings(steps), Some(&saved), run.at).ramp.share(), share);
    }
}

#[test]
fn an_aborted_ramp_stays_so_until_somebody_changes_it() {
    let run = Run::of(settings(&[10, 20]));
    run.ramp.steer(Order::Abort, run.at).unwrap();
    let saved = run.ramp.saved(run.at);
    assert_eq!(Run::restored(settings(&[10, 20]), Some(&saved), run.at).ramp.share(), 0);
    assert_eq!(Run::restored(settings(&[10, 30]), Some(&saved), run.at).ramp.share(), 100_000);
}

#[test]
fn a_ramp_waits_for_its_start() {
    use crate::services::shard::migrate;
    let start = SystemTime::UNIX_EPOCH + MINUTE * 5;
    let mut run = Run::of(Settings { start: Some(migrate::Moment(start)), abort: None, ..settings(&[10, 20]) });
    assert_eq!((run.ramp.share(), run.ramp.view(run.at).phase), (0, Phase::Waiting));
    assert_eq!(run.pass(MINUTE * 3), []);
    assert_eq!(run.pass(MINUTE), [Event::Stepped(100_000)]);
    assert_eq!(run.pass(MINUTE * 10), [Event::Stepped(200_000)]);
}

#[test]
fn users_that_are_missing_in_an_arm_are_noticed_once() {
    let run = Run::of(settings(&[50]));
    for key in 0..2000_u32 {
        // A tenth of those who should be in the first arm never come back.
        if !key.is_multiple_of(20) {
            run.ramp.census.saw(0, &key.to_le_bytes(), (key % 2) as u16);
        }
    }
    assert_eq!(run.ramp.count(&[500_000, 500_000]), None);
    for key in 2000..8000_u32 {
        if !key.is_multiple_of(10) {
            run.ramp.census.saw(0, &key.to_le_bytes(), (key % 2) as u16);
        }
    }
    assert!(matches!(run.ramp.count(&[500_000, 500_000]), Some(Event::Mismatch(probability)) if probability < 0.001));
    assert_eq!(run.ramp.count(&[500_000, 500_000]), None);
}
