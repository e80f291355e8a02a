//! Asks a scatter's leaves, all at once, and makes one answer of theirs in time.
//!
//! Writes nothing to the client: `exchange` does. Which answers are enough, and how they become one, the scatter says.

mod decode;
mod leaf;
pub mod lines;
mod questions;
mod reply;

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, Stream as _};

use super::connection::Client;
use super::inner::Whose;
use super::pieces::Pieces;
use super::side::Side;
use super::worker::Worker;
use crate::filters::headers::Edits;
use crate::generation::Listener;
use crate::refusal::Refusal;
use crate::route::{Head, HeadLookup};
use crate::services::scatter::{Answer, Ask, Merged, Mode, Scatter, vote};
use crate::telemetry::metrics::LeafOutcome;
use leaf::{Asking, Budget, Good, Landed};
use questions::Question;
pub use reply::{Reply, answer};

/// One request to a scatter.
pub struct Gather<'a> {
    pub worker: &'a Rc<Worker>,
    pub listener: &'a Arc<Listener>,
    pub scatter: &'a Scatter,
    pub head: &'a Head<'a>,
    /// All of it.
    pub body: &'a [u8],
    pub whose: &'a Whose,
    /// Of the whole exchange.
    pub deadline: Option<Instant>,
    pub started: Instant,
    /// Scatters on the way, this one included.
    pub depth: u8,
    /// Where answers go at once that are put together one by one.
    pub pieces: Option<&'a Rc<Pieces>>,
}

/// What leaves have come to.
pub struct Gathered {
    pub status: u16,
    /// Names and values of the answer's fields.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Why there is no answer, if there is none.
    pub refusal: Option<Refusal>,
    /// What is missing, for answers whose head is written before that is known.
    pub missing: Vec<String>,
    pub total: usize,
    /// How each leaf fared, for the log.
    pub leaves: Option<Box<str>>,
}

impl Gathered {
    /// As they are written, with what a route makes of them and `more`, each a line.
    pub fn fields(&self, edits: &Edits, lookup: &HeadLookup<'_, '_>, more: &[u8]) -> Vec<u8> {
        edits.all(&self.fields, lookup, more)
    }
}

/// As [`gather`], as long as the client is there: `None` once it has left, and then nobody is asked any more.
async fn attend<S: Side>(client: &mut Client<S>, ask: Gather<'_>) -> Option<Gathered> {
    let mut gathering = std::pin::pin!(gather(ask));
    poll_fn(|cx| {
        if let Poll::Ready(gathered) = gathering.as_mut().poll(cx) {
            return Poll::Ready(Some(gathered));
        }
        if client.link.has_left(cx, true) {
            return Poll::Ready(None);
        }
        match client.link.gone_at() {
            Some(gone) => client.timer.poll(cx, gone).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

/// Kept back of the time that there is, so that the answer is there when it is due.
const RESERVE_MIN: Duration = Duration::from_millis(5);
const RESERVE_PART: u32 = 20;

/// How one leaf fared.
#[derive(Default)]
struct Fared {
    /// `None` as long as it is awaited.
    outcome: Option<LeafOutcome>,
    /// Why there is no good answer, in a word.
    reason: &'static str,
    took: Duration,
    answer: Option<Good>,
    /// Of an answer that is not a good one.
    status: u16,
}

/// What a wait for leaves ends with.
enum Landing {
    Leaf(usize, Landed),
    /// Nobody is asked any more.
    Nobody,
    Late,
    /// The soft deadline is over.
    Soft,
}

pub async fn gather(gather: Gather<'_>) -> Gathered {
    let Gather { scatter, started, worker, .. } = gather;
    let questions = match questions::questions(&gather) {
        Some(questions) if !questions.is_empty() => questions,
        Some(_) if scatter.mode != Mode::Each => return refused(Refusal::NoEndpoint, Vec::new()),
        _ => return refused(Refusal::BadItems, Vec::new()),
    };
    let due = due(&gather);
    let soft = scatter.soft_deadline.and_then(|soft| started.checked_add(soft)).filter(|soft| *soft < due);
    let budget = Budget::new(worker, scatter);
    let hedged = Cell::new(0);
    let asking = Asking { gather: &gather, budget: &budget, hedged: &hedged, due };
    let mut fared: Vec<Fared> = questions.iter().map(|_| Fared::default()).collect();
    let mut timer = std::pin::pin!(tokio::time::sleep_until(due.into()));
    let mut soft_timer = std::pin::pin!(tokio::time::sleep_until(soft.unwrap_or(due).into()));
    let mut is_soft_over = false;
    let mut asked = 0;
    // Those that try the others' fate, if there are any, and then all others at once.
    for last in [scatter.canary.min(questions.len()), questions.len()] {
        let mut flying: FuturesUnordered<_> = (asked..last).map(|index| asking.ask(index, &questions[index])).collect();
        asked = last;
        loop {
            let landing = poll_fn(|cx| {
                if let Poll::Ready(landed) = Pin::new(&mut flying).poll_next(cx) {
                    return Poll::Ready(landed.map_or(Landing::Nobody, |(index, landed)| Landing::Leaf(index, landed)));
                }
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Landing::Late);
                }
                if !is_soft_over && soft.is_some() && soft_timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Landing::Soft);
                }
                Poll::Pending
            })
            .await;
            match landing {
                Landing::Leaf(index, landed) => {
                    fared[index].land(landed);
                    if let Some(pieces) = gather.pieces {
                        fared[index].pass(pieces);
                    }
                }
                Landing::Nobody | Landing::Late => break,
                Landing::Soft => is_soft_over = true,
            }
            if is_decided(scatter, &questions, &fared, is_soft_over) {
                break;
            }
        }
        // Whoever has not answered is not waited for: its connection closes here.
        drop(flying);
        if last < questions.len() && last > 0 && !fared[..last].iter().any(|fared| fared.answer.is_some()) {
            break;
        }
        if asked == questions.len() {
            break;
        }
    }
    let is_late = Instant::now() >= due;
    for (index, fared) in fared.iter_mut().enumerate().filter(|(_, fared)| fared.outcome.is_none()) {
        let was_asked = index < asked;
        // Past either deadline it is the leaf that was slow.
        let is_slow = was_asked && (is_late || is_soft_over);
        fared.outcome = Some(if is_slow { LeafOutcome::Timeout } else { LeafOutcome::Cancelled });
        fared.reason = if is_slow { "timeout" } else { "cancelled" };
        fared.took = started.elapsed();
    }
    let mut gathered = conclude(&gather, &questions, &mut fared, hedged.get());
    if gather.depth == 1 && worker.pin().file.log.access.format().is_some() {
        gathered.leaves = Some(logged(&questions, &fared));
    }
    for (question, fared) in questions.iter().zip(&fared).take(asked) {
        question.metrics(scatter).finished(worker.index, fared.outcome.unwrap_or(LeafOutcome::Failed), fared.took);
    }
    gathered
}

/// When leaves must have answered: sooner than the whole is due.
fn due(gather: &Gather<'_>) -> Instant {
    let own = gather.started + gather.scatter.deadline;
    let due = gather.deadline.map_or(own, |deadline| deadline.min(own));
    let time = due.saturating_duration_since(gather.started);
    let reserve = (time / RESERVE_PART).max(RESERVE_MIN).min(time / 2);
    due.checked_sub(reserve).unwrap_or(due)
}

impl Fared {
    fn land(&mut self, landed: Landed) {
        self.took = landed.took;
        match landed.answer {
            Ok(good) => {
                self.outcome = Some(LeafOutcome::Ok);
                self.answer = Some(good);
            }
            Err(bad) => {
                self.outcome = Some(if bad.is_late { LeafOutcome::Timeout } else { LeafOutcome::Failed });
                self.reason = bad.reason;
                self.status = bad.status;
            }
        }
    }

    /// Hands a good answer on, and keeps nothing of it.
    fn pass(&mut self, pieces: &Pieces) {
        let Some(good) = &mut self.answer else { return };
        let passed = pieces.add(&good.body);
        good.forget();
        if let Err(misfit) = passed {
            self.fail(misfit.reason.word());
        }
    }

    fn fail(&mut self, reason: &'static str) {
        self.outcome = Some(LeafOutcome::Failed);
        self.reason = reason;
        self.answer = None;
    }
}

fn said<'f>(question: &'f Question<'_>, good: &'f Good) -> Answer<'f> {
    Answer { leaf: &question.name, status: good.status, content_type: good.content_type(), body: &good.body, part: good.part.clone() }
}

/// Whether more answers would change nothing.
fn is_decided(scatter: &Scatter, questions: &[Question<'_>], fared: &[Fared], is_soft_over: bool) -> bool {
    let awaited = fared.iter().filter(|fared| fared.outcome.is_none()).count();
    match scatter.mode {
        Mode::Race => fared.iter().any(|fared| fared.answer.is_some()),
        Mode::Quorum => {
            let most = most_votes(questions, fared);
            most * 2 > fared.len() || (most + awaited) * 2 <= fared.len()
        }
        Mode::All | Mode::Each => {
            let good = |if_awaited: bool| -> Vec<(&str, bool)> {
                let is_good = |fared: &Fared| fared.answer.is_some() || (if_awaited && fared.outcome.is_none());
                questions.iter().zip(fared).map(|(question, fared)| (question.name.as_str(), is_good(fared))).collect()
            };
            if is_soft_over && scatter.is_met(&good(false)) {
                return true;
            }
            // What all of them refuse alike is an answer too, so that is waited for.
            !scatter.is_met(&good(true)) && same_refusal(fared.iter().filter(|fared| fared.outcome.is_some())).is_none()
        }
    }
}

/// The status that all of these have been refused with, if it is one: a client's mistake.
fn same_refusal<'f>(fared: impl Iterator<Item = &'f Fared>) -> Option<u16> {
    let mut same = None;
    for fared in fared {
        match (same, fared.status) {
            (None, status @ 400..=499) => same = Some(status),
            (Some(known), status) if known == status => {}
            _ => return None,
        }
    }
    same
}

fn most_votes(questions: &[Question<'_>], fared: &[Fared]) -> usize {
    let mut votes: HashMap<(u16, Vec<u8>), usize> = HashMap::new();
    for (question, good) in questions.iter().zip(fared).filter_map(|(question, fared)| Some((question, fared.answer.as_ref()?))) {
        *votes.entry(vote(&said(question, good))).or_default() += 1;
    }
    votes.into_values().max().unwrap_or_default()
}

/// What all of it comes to.
fn conclude(gather: &Gather<'_>, questions: &[Question<'_>], fared: &mut [Fared], hedged: u32) -> Gathered {
    let scatter = gather.scatter;
    let merged = loop {
        let good: Vec<(&str, bool)> =
            questions.iter().zip(&*fared).map(|(question, fared)| (question.name.as_str(), fared.answer.is_some())).collect();
        let is_met = match scatter.mode {
            Mode::Quorum => most_votes(questions, fared) * 2 > fared.len(),
            Mode::All | Mode::Each | Mode::Race => scatter.is_met(&good),
        };
        if !is_met {
            break None;
        }
        let mut of = Vec::with_capacity(fared.len());
        let mut answers: Vec<Answer<'_>> = Vec::with_capacity(fared.len());
        for (index, (question, fared)) in questions.iter().zip(&*fared).enumerate() {
            match (&fared.answer, &scatter.fill) {
                (Some(good), _) => answers.push(said(question, good)),
                (None, Some(fill)) if scatter.mode != Mode::Race => {
                    // A filling that does not fit helps nobody.
                    let Ok(part) = scatter.merge.part(fill.as_bytes()) else { continue };
                    answers.push(Answer {
                        leaf: &question.name,
                        status: 200,
                        content_type: "application/json",
                        body: fill.as_bytes(),
                        part,
                    });
                }
                (None, _) => continue,
            }
            of.push(index);
        }
        if gather.pieces.is_some() {
            // All of it is on its way.
            break Some(Merged { status: 200, content_type: String::new(), body: Vec::new() });
        }
        let ask = Ask { query: gather.head.query, boundary: gather.worker.roll() };
        match scatter.merge.merge(&answers, &ask) {
            Ok(merged) => break Some(merged),
            // A filling that does not fit helps nobody; without it there is one answer less to merge.
            Err(misfit) => match of.get(misfit.answer) {
                Some(&index) if fared[index].answer.is_some() => fared[index].fail(misfit.reason.word()),
                _ => break None,
            },
        }
    };
    let count = |outcome: LeafOutcome| fared.iter().filter(|fared| fared.outcome == Some(outcome)).count();
    let is_partial = scatter.mode != Mode::Race && count(LeafOutcome::Ok) < fared.len();
    let mut fields = Vec::new();
    if is_partial || scatter.reports || merged.is_none() {
        let cancelled = count(LeafOutcome::Cancelled);
        let mut total = format!(
            "total={}, ok={}, failed={}, timeout={}",
            fared.len(),
            count(LeafOutcome::Ok),
            count(LeafOutcome::Failed),
            count(LeafOutcome::Timeout)
        );
        if cancelled > 0 {
            let _ = write!(total, ", cancelled={cancelled}");
        }
        if hedged > 0 {
            let _ = write!(total, ", hedged={hedged}");
        }
        fields.push(("X-Attache-Leaves".to_owned(), total));
        let missing: Vec<&str> = questions
            .iter()
            .zip(&*fared)
            .filter(|(_, fared)| fared.answer.is_none() && fared.outcome != Some(LeafOutcome::Cancelled))
            .map(|(question, _)| question.name.as_str())
            .collect();
        if !missing.is_empty() {
            fields.push(("X-Attache-Missing".to_owned(), header_safe(&missing.join(", "))));
        }
    }
    if scatter.reports {
        fields.push(("Server-Timing".to_owned(), timings(questions, fared)));
    }
    let Some(merged) = merged else {
        if let Some(status) = same_refusal(fared.iter()) {
            fields.push(("Content-Type".to_owned(), "text/plain".to_owned()));
            let body = format!("{}\n", crate::refusal::reason(status).to_lowercase());
            return Gathered {
                status,
                fields,
                body: body.into_bytes(),
                refusal: None,
                missing: Vec::new(),
                total: fared.len(),
                leaves: None,
            };
        }
        let is_late = fared.iter().any(|fared| fared.outcome == Some(LeafOutcome::Timeout));
        return refused(if is_late { Refusal::LeavesTimeout } else { Refusal::LeavesFailed }, fields);
    };
    if !merged.content_type.is_empty() {
        fields.push(("Content-Type".to_owned(), header_safe(&merged.content_type)));
    }
    if is_partial {
        fields.push(("Cache-Control".to_owned(), "no-store".to_owned()));
    }
    let mut body = merged.body;
    if scatter.reports && merged.content_type == "application/json" {
        report_into(&mut body, questions, fared);
    }
    let missing: Vec<String> = if is_partial {
        questions.iter().zip(&*fared).filter(|(_, fared)| fared.answer.is_none()).map(|(question, _)| question.name.clone()).collect()
    } else {
        Vec::new()
    };
    Gathered { status: merged.status, fields, body, refusal: None, missing, total: fared.len(), leaves: None }
}

/// A member `_leaves` of an answer that is an object.
fn report_into(body: &mut Vec<u8>, questions: &[Question<'_>], fared: &[Fared]) {
    if body.first() != Some(&b'{') || body.last() != Some(&b'}') {
        return;
    }
    let leaf = |(question, fared): (&Question<'_>, &Fared)| {
        let outcome = fared.outcome.map_or("", LeafOutcome::as_str);
        serde_json::json!({ "leaf": question.name, "outcome": outcome, "reason": fared.reason, "ms": fared.took.as_secs_f64() * 1e3 })
    };
    let leaves = serde_json::Value::Array(questions.iter().zip(fared).map(leaf).collect());
    body.pop();
    if body.len() > 1 {
        body.push(b',');
    }
    body.extend_from_slice(format!("\"_leaves\":{leaves}}}").as_bytes());
}

fn logged(questions: &[Question<'_>], fared: &[Fared]) -> Box<str> {
    let leaf = |(question, fared): (&Question<'_>, &Fared)| {
        let outcome = fared.outcome.map_or("", LeafOutcome::as_str);
        let why = if fared.reason.is_empty() || fared.reason == outcome { String::new() } else { format!(" ({})", fared.reason) };
        format!("{} {outcome}{why} {:.1}", question.name, fared.took.as_secs_f64() * 1e3)
    };
    questions.iter().zip(fared).map(leaf).collect::<Vec<_>>().join(", ").into()
}

/// W3C Server Timing.
fn timings(questions: &[Question<'_>], fared: &[Fared]) -> String {
    let timing = |(question, fared): (&Question<'_>, &Fared)| {
        let is_token = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char);
        let name: String = question.name.chars().map(|char| if is_token(char) { char } else { '_' }).collect();
        let why = if fared.reason.is_empty() { String::new() } else { format!(";desc=\"{}\"", fared.reason) };
        format!("{name};dur={:.1}{why}", fared.took.as_secs_f64() * 1e3)
    };
    questions.iter().zip(fared).map(timing).collect::<Vec<_>>().join(", ")
}

/// Names of leaves may be items of a client, which are anything.
fn header_safe(text: &str) -> String {
    text.chars().map(|char| if char.is_ascii_graphic() || char == ' ' { char } else { '_' }).collect()
}

fn refused(refusal: Refusal, fields: Vec<(String, String)>) -> Gathered {
    Gathered { status: 0, fields, body: Vec::new(), refusal: Some(refusal), missing: Vec::new(), total: 0, leaves: None }
}
