//! Looks at bodies as they pass: gives a request's to its copies, and keeps the beginning of an answer to be compared.
//!
//! Holds nothing up but for one turn: whoever cannot follow is left behind.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::ghost::{End, Feed};
use super::pieces::Pieces;
use super::side::Sink;
use super::tape::Permits;
use crate::proto::http1::{Known, ResponseHead};
use crate::services::mirror::Seen;

/// Gives a request's body to its copies, too.
pub struct Tee {
    feeds: Vec<Rc<Feed>>,
    /// Of this attempt, and the most that any attempt came to: what is sent again is not given again.
    at: u64,
    given: u64,
    /// What the copies had taken when they had their last turn.
    turn: u64,
}

impl Tee {
    pub fn new(feeds: Vec<Rc<Feed>>) -> Self {
        Self { feeds, at: 0, given: 0, turn: u64::MAX }
    }

    /// The body is sent again from its beginning.
    pub fn again(&mut self) {
        self.at = 0;
    }

    pub fn of<'t, S: Sink>(&'t mut self, sink: &'t mut S) -> Teed<'t, S> {
        Teed { tee: self, sink }
    }

    /// All of the body has passed.
    pub fn finish(&self) {
        self.feeds.iter().for_each(|feed| feed.finish(End::Whole));
    }

    fn pass(&mut self, data: &[u8]) {
        let known = usize::try_from(self.given - self.at).unwrap_or(usize::MAX).min(data.len());
        self.at += data.len() as u64;
        self.given = self.given.max(self.at);
        for feed in &self.feeds {
            feed.give(&data[known..]);
        }
    }

    /// Whether copies that have not had a turn since they last took something should have one.
    fn yields(&mut self) -> bool {
        let taken: Option<u64> = self.feeds.iter().filter_map(|feed| feed.is_filling()).max();
        taken.is_some_and(|taken| std::mem::replace(&mut self.turn, taken) != taken)
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.feeds.iter().for_each(|feed| feed.finish(End::Cut));
    }
}

/// A sink whose copies get the same.
pub struct Teed<'t, S> {
    tee: &'t mut Tee,
    sink: &'t mut S,
}

impl<S: Sink> Sink for Teed<'_, S> {
    fn output(&mut self) -> &mut Vec<u8> {
        self.sink.output()
    }

    fn has_unsent(&self) -> bool {
        self.sink.has_unsent()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.tee.yields() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = ready!(self.sink.poll_send(cx, data))?;
        self.tee.pass(&data[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink.poll_flush(cx)
    }

    fn end(&mut self, trailers: &[u8]) {
        self.sink.end(trailers);
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink.poll_shutdown(cx)
    }

    fn written_total(&self) -> u64 {
        self.sink.written_total()
    }
}

/// A body whose length is not known is given room in steps of this, at least.
const STEP: usize = 16 << 10;

/// Keeps what is compared of an answer.
pub struct Keep {
    pub seen: Seen,
    most: usize,
    is_longer: bool,
    /// For answers that are of no use unless they are whole: room for them.
    permits: Option<Permits>,
    gave_up: Option<&'static str>,
    /// Where whole lines go at once, of an answer that comes in lines.
    lines: Option<Rc<Pieces>>,
    comes_in_lines: bool,
}

impl Keep {
    /// As [`Keep::new`], for an answer that ends where it is too long, or where there is no room for it.
    pub fn strict(most: usize, permits: Permits, lines: Option<Rc<Pieces>>) -> Self {
        Self { permits: Some(permits), lines, ..Self::new(most) }
    }

    /// Why the answer was ended, in a word.
    pub fn gave_up(&self) -> Option<&'static str> {
        self.gave_up
    }

    /// What was kept, and its room.
    pub fn into_parts(self) -> (Seen, Permits) {
        (self.seen, self.permits.expect("a strict one"))
    }

    /// An answer that was not sent by anybody.
    pub fn take(&mut self, status: u16, fields: Vec<(String, String)>, body: &[u8]) {
        self.seen = Seen { status, fields, body: Vec::new(), is_whole: false };
        self.is_longer = false;
        let _ = self.pass(body);
        self.finish();
    }

    /// `most` bytes of the body.
    pub fn new(most: usize) -> Self {
        Self { seen: Seen::default(), most, is_longer: false, permits: None, gave_up: None, lines: None, comes_in_lines: false }
    }

    /// An answer begins, instead of any before.
    pub fn begin(&mut self, response: &ResponseHead, bytes: &[u8]) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let fields = response.fields.iter().filter(|field| field.known != Known::Connection);
        self.seen = Seen {
            status: response.status,
            fields: fields.map(|field| (text(field.name.of(bytes)).to_ascii_lowercase(), text(field.value.of(bytes)))).collect(),
            body: Vec::new(),
            is_whole: false,
        };
        self.is_longer = false;
        let has = |name: &str, one_of: &[&str]| {
            let value = self.seen.fields.iter().find(|(have, _)| have == name).map_or("", |(_, value)| value.as_str());
            one_of.contains(&value.split(';').next().unwrap_or_default().trim())
        };
        self.comes_in_lines = (200..300).contains(&response.status)
            && has("content-type", &["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"])
            && has("content-encoding", &["", "identity"]);
        self.expect();
    }

    /// All of the answer has passed.
    pub fn finish(&mut self) {
        self.seen.is_whole = !self.is_longer;
    }

    pub fn of<'t, S: Sink>(&'t mut self, sink: &'t mut S) -> Kept<'t, S> {
        Kept { keep: self, sink }
    }

    /// Takes room for a body whose length is known, before any of it is read.
    fn expect(&mut self) {
        let length = self.seen.fields.iter().find(|(name, _)| name == "content-length").and_then(|(_, length)| length.parse::<u64>().ok());
        let (Some(length), false) = (length, self.permits.is_none() || self.comes_in_lines) else { return };
        match usize::try_from(length) {
            Ok(length) if length <= self.most => self.grow(length),
            _ => self.give_up("too_large"),
        }
    }

    /// Has room for so many bytes in all, and no more: what a vector grows by itself would be nobody's.
    fn grow(&mut self, wanted: usize) {
        let had = self.seen.body.capacity();
        if wanted <= had {
            return;
        }
        if self.permits.as_mut().is_none_or(|permits| permits.take((wanted - had) as u64)) {
            self.seen.body.reserve_exact(wanted - self.seen.body.len());
        } else {
            self.give_up("no_memory");
        }
    }

    fn give_up(&mut self, reason: &'static str) {
        self.is_longer = true;
        self.seen.body = Vec::new();
        self.gave_up = self.permits.is_some().then_some(reason);
        if let Some(permits) = &mut self.permits {
            permits.give_back();
        }
    }

    /// `false` if the answer is of no use any more.
    fn pass(&mut self, data: &[u8]) -> bool {
        let wanted = self.seen.body.len() + data.len();
        if wanted > self.most {
            self.give_up("too_large");
        } else if !self.is_longer && wanted > self.seen.body.capacity() {
            // By a quarter, so that long bodies are not copied for each piece of them.
            let capacity = self.seen.body.capacity();
            self.grow((capacity + (capacity / 4).max(STEP)).min(self.most).max(wanted));
        }
        if !self.is_longer {
            self.seen.body.extend_from_slice(data);
            self.hand_on();
        }
        self.gave_up.is_none()
    }

    /// Has whole lines go on, and keeps nothing of them.
    fn hand_on(&mut self) {
        let (Some(lines), true) = (&self.lines, self.comes_in_lines) else { return };
        let Some(end) = self.seen.body.iter().rposition(|&byte| byte == b'\n').map(|end| end + 1) else { return };
        if lines.add(&self.seen.body[..end]).is_err() {
            self.gave_up = Some("not_json");
        }
        self.seen.body.drain(..end);
    }
}

/// A sink of which the beginning is kept.
pub struct Kept<'t, S> {
    keep: &'t mut Keep,
    sink: &'t mut S,
}

impl<S: Sink> Sink for Kept<'_, S> {
    fn output(&mut self) -> &mut Vec<u8> {
        self.sink.output()
    }

    fn has_unsent(&self) -> bool {
        self.sink.has_unsent()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if let (Some(lines), true) = (&self.keep.lines, self.keep.comes_in_lines) {
            ready!(lines.poll_room(cx));
        }
        let count = ready!(self.sink.poll_send(cx, data))?;
        if !self.keep.pass(&data[..count]) {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink.poll_flush(cx)
    }

    fn end(&mut self, trailers: &[u8]) {
        self.sink.end(trailers);
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink.poll_shutdown(cx)
    }

    fn written_total(&self) -> u64 {
        self.sink.written_total()
    }
}
