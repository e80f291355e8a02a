//! One leaf: its question goes out, its answer comes in, within what memory there is.
//!
//! Judges an answer by itself; whether it goes with the others, merging says.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Gather;
use super::decode::{Undecodable, decode};
use super::questions::Question;
use crate::generation::Generation;
use crate::proto::http1::{Limits, Progress};
use crate::refusal::Refusal;
use crate::serve::ghost::Feed;
use crate::serve::inner::Inner;
use crate::serve::keep::Keep;
use crate::serve::tape::Permits;
use crate::serve::worker::Worker;
use crate::services::scatter::Scatter;

/// What all leaves of one request have in common.
pub struct Asking<'a> {
    pub gather: &'a Gather<'a>,
    pub budget: &'a Budget,
    /// How often a leaf was asked twice.
    pub hedged: &'a Cell<u32>,
    /// When leaves must have answered.
    pub due: Instant,
}

/// Memory for answers: of this request, and of the process.
pub struct Budget {
    left: Rc<Cell<u64>>,
    most_held: u64,
}

impl Budget {
    pub fn new(worker: &Worker, scatter: &Scatter) -> Self {
        let generation: &Generation = &worker.pin();
        Self { left: Rc::new(Cell::new(scatter.body)), most_held: generation.file.process.max_memory_bodies.0 }
    }
}

/// A leaf that is not awaited any more.
pub struct Landed {
    pub answer: Result<Good, Bad>,
    pub took: Duration,
}

/// An answer to merge.
pub struct Good {
    pub status: u16,
    fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What of it is merged.
    pub part: Range<usize>,
    permits: Permits,
}

impl Good {
    /// Gives its memory back.
    pub fn forget(&mut self) {
        self.body = Vec::new();
        self.permits.give_back();
    }

    pub fn content_type(&self) -> &str {
        field(&self.fields, "content-type")
    }
}

/// Why there is none.
pub struct Bad {
    pub reason: &'static str,
    pub is_late: bool,
    /// Of an answer that cannot be used; 0 if there is none.
    pub status: u16,
}

fn field<'f>(fields: &'f [(String, String)], name: &str) -> &'f str {
    fields.iter().find(|(have, _)| have == name).map_or("", |(_, value)| value.as_str())
}

/// For heads that we composed ourselves.
const LIMITS: Limits = Limits { header_bytes: 1 << 20, headers: 10_000, uri_bytes: 1 << 20 };

impl Asking<'_> {
    /// Asks, and says whose answer it is.
    pub async fn ask(&self, index: usize, question: &Question<'_>) -> (usize, Landed) {
        let began = Instant::now();
        let answer = self.answer(question).await;
        (index, Landed { answer, took: began.elapsed() })
    }

    async fn answer(&self, question: &Question<'_>) -> Result<Good, Bad> {
        let Gather { worker, listener, whose, scatter, head, depth, pieces, .. } = *self.gather;
        let mut scratch = worker.scratch();
        scratch.request_bytes.extend_from_slice(&question.head);
        scratch.request_id.extend_from_slice(head.request_id);
        if !matches!(scratch.request.parse(&question.head, &LIMITS), Ok(Progress::Complete)) {
            // A template has made of a client's words what is no request.
            worker.give_scratch(scratch);
            return Err(Bad { reason: "bad_question", is_late: false, status: 0 });
        }
        let permits = Permits::new(&worker.shared.held, Rc::clone(&self.budget.left), self.budget.most_held);
        let mut keep = Keep::strict(scatter.leaf_body, permits, pieces.map(Rc::clone));
        let inner = Inner {
            worker,
            listener,
            is_routed: false,
            service: question.service,
            whose,
            told: b"",
            deadline: Some(self.due),
            is_single: false,
            only: question.only,
            hedging: question.hedging.map(|hedging| (hedging, self.hedged)),
            depth,
        };
        let ended = inner.send(Feed::whole(&question.body), &mut scratch, Some(&mut keep)).await;
        worker.give_scratch(scratch);
        let bad = |reason| Bad { reason, is_late: false, status: 0 };
        if let Some(refusal) = ended.refusal {
            let is_late =
                matches!(refusal, Refusal::RouteTimeout | Refusal::ResponseTimeout | Refusal::ConnectTimeout | Refusal::LeavesTimeout);
            return Err(Bad { is_late, ..bad(refusal.label()) });
        }
        if let Some(reason) = keep.gave_up() {
            return Err(bad(reason));
        }
        if !ended.is_answered {
            let is_late = Instant::now() >= self.due;
            return Err(Bad { is_late, ..bad(if is_late { "timeout" } else { "cut" }) });
        }
        let (seen, permits) = keep.into_parts();
        if !(200..300).contains(&seen.status) {
            return Err(Bad { status: seen.status, ..bad("status") });
        }
        let body = decode(field(&seen.fields, "content-encoding"), seen.body, scatter.leaf_body).map_err(|error| {
            bad(match error {
                Undecodable::TooLarge => "too_large",
                Undecodable::Broken => "bad_coding",
                Undecodable::Unknown => "unknown_coding",
            })
        })?;
        let part = scatter.merge.part(&body).map_err(|reason| bad(reason.word()))?;
        Ok(Good { status: seen.status, fields: seen.fields, body, part, permits })
    }
}
