//! A client that is attache itself: its request is a copy of another one, and nobody reads its answer.
//!
//! To the exchange it is a side like any other. Waits for nobody: what comes faster than it is taken is given up.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::connection::Ends;
use super::pump::{Decoder, Encoder};
use super::side::{Side, Sink, Source};
use crate::proto::http1::BodyFraming;

/// Body on its way from an original to a copy of it.
pub struct Feed {
    state: RefCell<State>,
    /// Bytes that may be on their way.
    most: usize,
}

struct State {
    bytes: Vec<u8>,
    given: u64,
    taken: u64,
    end: End,
    waker: Option<Waker>,
}

/// How much more will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Open,
    /// Nothing: this is all.
    Whole,
    /// Nothing, since the original was cut.
    Cut,
    /// Nothing, since too much waited.
    Overflowed,
}

impl Feed {
    pub fn new(most: usize) -> Rc<Self> {
        let state = State { bytes: Vec::new(), given: 0, taken: 0, end: End::Open, waker: None };
        Rc::new(Self { state: RefCell::new(state), most })
    }

    /// All of a body, however long.
    pub fn whole(body: &[u8]) -> Rc<Self> {
        let feed = Self::new(body.len());
        feed.give(body);
        feed.finish(End::Whole);
        feed
    }

    /// Takes in what follows; gives up if there is no room for it.
    pub fn give(&self, data: &[u8]) {
        let mut state = self.state.borrow_mut();
        if state.end != End::Open {
            return;
        }
        if state.waiting() + data.len() > self.most {
            state.finish(End::Overflowed);
            return;
        }
        state.bytes.extend_from_slice(data);
        state.given += data.len() as u64;
        state.wake();
    }

    pub fn finish(&self, end: End) {
        let mut state = self.state.borrow_mut();
        if state.end == End::Open {
            state.finish(end);
        }
    }

    pub fn end(&self) -> End {
        self.state.borrow().end
    }

    /// Whether it is worth to let the copy have a turn, so that there is room. Bytes that were taken tell one such moment from the next.
    pub fn is_filling(&self) -> Option<u64> {
        let state = self.state.borrow();
        (state.end == End::Open && state.waiting() > self.most / 2).then_some(state.taken)
    }
}

impl State {
    fn waiting(&self) -> usize {
        usize::try_from(self.given - self.taken).unwrap_or(usize::MAX)
    }

    fn finish(&mut self, end: End) {
        self.end = end;
        if end != End::Whole {
            self.bytes = Vec::new();
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The client's end of a copy.
pub struct Ghost {
    feed: Rc<Feed>,
    chunk: Vec<u8>,
    at: usize,
    read_total: u64,
    is_ended: bool,
    /// Heads of answers, thrown away.
    output: Vec<u8>,
    written_total: u64,
    is_tls: bool,
}

impl Ghost {
    pub fn new(feed: Rc<Feed>, is_tls: bool) -> Self {
        Self { feed, chunk: Vec::new(), at: 0, read_total: 0, is_ended: false, output: Vec::new(), written_total: 0, is_tls }
    }
}

impl Source for Ghost {
    fn input(&self) -> &[u8] {
        &self.chunk[self.at..]
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
        self.feed.state.borrow_mut().taken += count as u64;
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, _most: usize) -> Poll<io::Result<usize>> {
        let mut state = self.feed.state.borrow_mut();
        if !state.bytes.is_empty() {
            debug_assert_eq!(self.at, self.chunk.len(), "a chunk follows when the last one is used up");
            self.chunk.clear();
            self.at = 0;
            std::mem::swap(&mut self.chunk, &mut state.bytes);
            self.read_total += self.chunk.len() as u64;
            return Poll::Ready(Ok(self.chunk.len()));
        }
        match state.end {
            End::Open => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            End::Whole => {
                self.is_ended = true;
                Poll::Ready(Ok(0))
            }
            End::Cut | End::Overflowed => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    fn widen_if_full(&mut self) {}

    fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn read_total(&self) -> u64 {
        self.read_total
    }
}

impl Sink for Ghost {
    fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    fn has_unsent(&self) -> bool {
        false
    }

    fn poll_send(&mut self, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.written_total += data.len() as u64;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.written_total += self.output.len() as u64;
        self.output.clear();
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, _: &[u8]) {}

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn written_total(&self) -> u64 {
        self.written_total
    }
}

impl Side for Ghost {
    fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The original's, whoever knows them.
    fn ends(&self) -> Option<Ends> {
        None
    }

    fn decoder(framing: BodyFraming) -> Decoder {
        if framing == BodyFraming::None { Decoder::None } else { Decoder::Frames }
    }

    fn encoder(_: BodyFraming) -> Encoder {
        Encoder::Frames
    }

    /// With its original, if that was cut, or with what there was no room for.
    fn has_left(&mut self, cx: &mut Context<'_>, is_taken: bool) -> bool {
        let mut state = self.feed.state.borrow_mut();
        if state.end == End::Open {
            // Whoever waits for the endpoint is to notice too.
            state.waker = Some(cx.waker().clone());
        }
        !is_taken && matches!(state.end, End::Cut | End::Overflowed)
    }

    fn gone_at(&self) -> Option<Instant> {
        None
    }

    fn cut(&mut self) {}

    fn has_said_all(&mut self) -> bool {
        true
    }
}
