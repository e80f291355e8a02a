//! Copies of a request, for the mirrors on its way: each is a request of attache's own.
//!
//! Begins them and brings answers together that are compared. The original never waits for any of this, nor fails with it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::connection::Client;
use super::exchange::{Ending, Outcome};
use super::ghost::{End, Feed};
use super::inner::{Inner, Whose};
use super::keep::Keep;
use super::side::Side;
use super::tape::Tape;
use super::tee::Tee;
use super::worker::{Scratch, Worker};
use crate::generation::Listener;
use crate::proto::http1::{BodyFraming, RequestFraming, RequestHead};
use crate::refusal::Refusal;
use crate::route::{Head, TlsFacts};
use crate::services::mirror::{Comparison, Copies, InFlight, Seen};
use crate::services::{Service, Way};
use crate::telemetry::metrics::{Compared, Copied};

/// What the endpoint of a copy hears of it.
const MARKER: &[u8] = b"X-Attache-Mirror: 1\r\n";

/// What copies begin from.
pub struct Original<'a, S> {
    pub worker: &'a Rc<Worker>,
    pub client: &'a Client<S>,
    pub listener: &'a Arc<Listener>,
    pub request: &'a RequestHead,
    pub bytes: &'a [u8],
    pub head: &'a Head<'a>,
    pub tls: Option<&'a Rc<TlsFacts>>,
    pub framing: &'a RequestFraming,
}

/// Copies of one request, for as long as the original takes.
pub struct Copying {
    /// Of the original's answer.
    pub keep: Option<Keep>,
    /// Of those that have begun.
    meetings: Vec<Rc<Meeting>>,
    is_begun: bool,
}

/// Where answers wait for each other.
struct Meeting {
    copies: Arc<Copies>,
    request: String,
    answers: RefCell<Answers>,
}

#[derive(Default)]
struct Answers {
    primary: Option<Arc<Seen>>,
    candidate: Option<Arc<Seen>>,
    control: Option<Arc<Seen>>,
    is_over: bool,
}

/// Whose answer it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Primary,
    Candidate,
    Control,
}

impl Meeting {
    /// An answer has come, or it is certain that none will: then there is nothing to compare.
    fn bring(&self, worker: &Worker, who: Who, answer: Option<Arc<Seen>>) {
        let mut answers = self.answers.borrow_mut();
        if answers.is_over {
            return;
        }
        let Some(answer) = answer else {
            *answers = Answers { is_over: true, ..Answers::default() };
            return self.copies.metrics.compared(Compared::Skipped);
        };
        match who {
            Who::Primary => answers.primary = Some(answer),
            Who::Candidate => answers.candidate = Some(answer),
            Who::Control => answers.control = Some(answer),
        }
        let has_control = self.copies.comparing.as_ref().is_some_and(|comparing| comparing.control.is_some());
        let Answers { primary: Some(primary), candidate: Some(candidate), control, .. } = &*answers else { return };
        if has_control && control.is_none() {
            return;
        }
        let comparison = Comparison {
            copies: Arc::clone(&self.copies),
            request: self.request.clone(),
            primary: Arc::clone(primary),
            candidate: Arc::clone(candidate),
            control: control.clone(),
        };
        *answers = Answers { is_over: true, ..Answers::default() };
        if worker.shared.comparisons.try_send(comparison).is_err() {
            self.copies.metrics.compared(Compared::Skipped);
        }
    }
}

impl Copying {
    /// For the mirrors on `way`. With a body, copies begin now, since it passes once, by `tape`; all others when the original has its answer,
    /// so that it need not share the processor with them.
    #[cold]
    pub fn new<S: Side>(original: &Original<'_, S>, way: &Way<'_>, tape: &mut Tape) -> Self {
        let rules = way.mirrors().filter_map(|mirror| mirror.copies.comparing.as_ref()).map(|comparing| comparing.rules.body.bytes());
        let mut copying = Self { keep: rules.max().map(Keep::new), meetings: Vec::new(), is_begun: false };
        if original.framing.body != BodyFraming::None {
            copying.begin(original, way, tape);
        }
        copying
    }

    /// The original has its answer, or has none.
    #[cold]
    pub fn end<S: Side>(mut self, original: &Original<'_, S>, way: &Way<'_>, tape: &mut Tape, outcome: &Outcome) {
        if !self.is_begun && outcome.status > 0 {
            self.begin(original, way, tape);
        }
        let worker = original.worker;
        let is_answered = outcome.refusal.is_none() && outcome.ending == Ending::Complete;
        let answer = self.keep.map(Keep::into_seen).filter(|seen| is_answered && seen.status > 0).map(Arc::new);
        for meeting in self.meetings {
            meeting.bring(worker, Who::Primary, answer.clone());
        }
    }

    fn begin<S: Side>(&mut self, original: &Original<'_, S>, way: &Way<'_>, tape: &mut Tape) {
        let has_body = original.framing.body != BodyFraming::None;
        let now = Instant::now();
        let mut feeds = Vec::new();
        self.is_begun = true;
        for mirror in way.mirrors() {
            let copies = &mirror.copies;
            let comparing = copies.comparing.as_ref();
            let control = comparing.and_then(|comparing| comparing.control.as_ref());
            // Both or none: one of them alone is not worth its work.
            let wanted = 1 + usize::from(control.is_some());
            let places: Vec<InFlight> = (0..wanted).map_while(|_| copies.begin(now)).collect();
            if places.len() < wanted {
                copies.metrics.copied(Copied::Dropped);
                continue;
            }
            let meeting = comparing.map(|_| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let request = format!("{} {}", text(original.head.method), text(original.request.target.of(original.bytes)));
                Rc::new(Meeting { copies: Arc::clone(copies), request, answers: RefCell::default() })
            });
            for (who, place) in [Who::Candidate, Who::Control].into_iter().zip(places) {
                let service = if who == Who::Control { control.unwrap_or(&copies.copy) } else { &copies.copy };
                let feed = Feed::new(copies.buffer);
                if has_body {
                    feeds.push(Rc::clone(&feed));
                } else {
                    feed.finish(End::Whole);
                }
                let copy = Copy {
                    worker: Rc::clone(original.worker),
                    listener: Arc::clone(original.listener),
                    service: Arc::clone(service),
                    copies: Arc::clone(copies),
                    who,
                    meeting: meeting.clone(),
                    feed,
                    _place: place,
                };
                copy.spawn(original);
            }
            self.meetings.extend(meeting);
        }
        if !feeds.is_empty() {
            tape.tee = Some(Box::new(Tee::new(feeds)));
        }
    }
}

/// One copy on its way.
struct Copy {
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    service: Arc<Service>,
    copies: Arc<Copies>,
    who: Who,
    meeting: Option<Rc<Meeting>>,
    feed: Rc<Feed>,
    _place: InFlight,
}

impl Copy {
    fn spawn<S: Side>(self, original: &Original<'_, S>) {
        let mut scratch = self.worker.scratch();
        scratch.request.clone_from(original.request);
        scratch.request_bytes.extend_from_slice(original.bytes);
        scratch.request_id.extend_from_slice(original.head.request_id);
        let whose = Whose::of(original.client, original.tls);
        tokio::task::spawn_local(async move {
            let mut answer = None;
            let outcome = self.run(&whose, &mut scratch, &mut answer).await;
            self.worker.give_scratch(scratch);
            if self.who == Who::Candidate {
                self.copies.metrics.copied(outcome);
            }
            if let Some(meeting) = &self.meeting {
                meeting.bring(&self.worker, self.who, answer.map(Arc::new));
            }
        });
    }

    async fn run(&self, whose: &Whose, scratch: &mut Scratch, answer: &mut Option<Seen>) -> Copied {
        let inner = Inner {
            worker: &self.worker,
            listener: &self.listener,
            is_routed: true,
            service: &self.service,
            whose,
            told: MARKER,
            deadline: Instant::now().checked_add(self.copies.timeout),
            is_single: true,
            only: None,
            hedging: None,
            depth: 0,
        };
        let mut keep = self.copies.comparing.as_ref().map(|comparing| Keep::new(comparing.rules.body.bytes()));
        let ended = inner.send(Rc::clone(&self.feed), scratch, keep.as_mut()).await;
        if self.who == Who::Candidate {
            let is_unreached = matches!(ended.refusal, Some(Refusal::NoEndpoint | Refusal::ConnectFailed | Refusal::ConnectTimeout));
            self.copies.reached(!is_unreached, Instant::now());
        }
        if !ended.is_answered {
            return self.unanswered();
        }
        *answer = keep.map(Keep::into_seen);
        Copied::Answered
    }

    fn unanswered(&self) -> Copied {
        match self.feed.end() {
            End::Overflowed => Copied::Dropped,
            End::Cut => Copied::Cut,
            End::Open | End::Whole => Copied::Failed,
        }
    }
}
