//! Keeps what was taken of a request's body, so that it can be sent again.
//!
//! Bounded: a body that outgrows the tape is sent on and not kept. Knows neither framing nor endpoints; the bytes are the
//! client's own, as they came.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use super::side::Source;
use super::tee::Tee;

/// Bodies that the process holds in memory, all together.
#[derive(Default)]
pub struct Held {
    bytes: AtomicU64,
}

impl Held {
    fn take(&self, bytes: u64, most: u64) -> bool {
        let took = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| Some(held + bytes).filter(|&held| held <= most));
        took.is_ok()
    }

    fn give(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Room for one body among those that the process and a request may hold; given back when dropped.
pub struct Permits {
    held: Arc<Held>,
    /// What the request has left.
    left: Rc<Cell<u64>>,
    most_held: u64,
    taken: u64,
}

impl Permits {
    pub fn new(held: &Arc<Held>, left: Rc<Cell<u64>>, most_held: u64) -> Self {
        Self { held: Arc::clone(held), left, most_held, taken: 0 }
    }

    /// Whether there is room for so many bytes more.
    pub fn take(&mut self, bytes: u64) -> bool {
        let Some(left) = self.left.get().checked_sub(bytes) else { return false };
        if !self.held.take(bytes, self.most_held) {
            return false;
        }
        self.left.set(left);
        self.taken += bytes;
        true
    }
}

impl Permits {
    /// So many of those that were taken.
    pub fn give(&mut self, bytes: u64) {
        let bytes = bytes.min(self.taken);
        self.taken -= bytes;
        self.held.give(bytes);
        self.left.set(self.left.get() + bytes);
    }

    pub fn give_back(&mut self) {
        self.give(self.taken);
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// What was taken of one body.
#[derive(Default)]
pub struct Tape {
    bytes: Vec<u8>,
    /// What is before it has been read again.
    at: usize,
    /// Where trailers begin, once the body has ended.
    trailers_at: Option<usize>,
    /// A replay has just ended, and whoever reads has not looked at what its client has sent meanwhile.
    has_ended: bool,
    /// `None` for one that keeps nothing.
    recording: Option<Recording>,
    /// Copies get what passes.
    pub tee: Option<Box<Tee>>,
}

struct Recording {
    held: Arc<Held>,
    /// For this body.
    most: usize,
    /// For all bodies of the process.
    most_held: u64,
}

/// A replay reads on from its client in pieces of this size until what was kept makes sense.
const PIECE: usize = 4 << 10;

impl Tape {
    /// Keeps up to `most` bytes, as long as the process holds no more than `most_held` in all.
    pub fn record(held: &Arc<Held>, most: usize, most_held: u64) -> Self {
        let mut tape = Self::default();
        tape.recording = Some(Recording { held: Arc::clone(held), most, most_held });
        tape
    }

    /// As [`Tape::record`], for a tape that copies may hang on.
    pub fn record_from_here(&mut self, held: &Arc<Held>, most: usize, most_held: u64) {
        let tee = self.tee.take();
        *self = Self::record(held, most, most_held);
        self.tee = tee;
    }

    /// Whether everything that was taken is here.
    pub fn is_whole(&self) -> bool {
        self.recording.is_some()
    }

    /// Begins again at the first byte.
    pub fn rewind(&mut self) {
        debug_assert!(self.is_whole() || self.at == self.bytes.len(), "only what is whole is read again");
        self.at = 0;
        self.has_ended = false;
        if let Some(tee) = &mut self.tee {
            tee.again();
        }
    }

    pub fn of<'t, S: Source>(&'t mut self, source: &'t mut S) -> Taped<'t, S> {
        Taped { tape: self, source }
    }

    fn is_replaying(&self) -> bool {
        self.at < self.bytes.len()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let Some(recording) = &self.recording else { return };
        let fits = self.bytes.len() + bytes.len() <= recording.most && recording.held.take(bytes.len() as u64, recording.most_held);
        if fits {
            self.bytes.extend_from_slice(bytes);
            self.at = self.bytes.len();
        } else {
            self.forget();
        }
    }

    /// Gives the memory back; from now on bytes only pass through.
    fn forget(&mut self) {
        if let Some(recording) = self.recording.take() {
            recording.held.give(self.bytes.len() as u64);
        }
        self.bytes = Vec::new();
        self.at = 0;
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        if self.recording.is_some() {
            self.forget();
        }
    }
}

/// A source that is kept, or read again.
pub struct Taped<'t, S> {
    tape: &'t mut Tape,
    source: &'t mut S,
}

impl<S: Source> Source for Taped<'_, S> {
    fn input(&self) -> &[u8] {
        if !self.tape.is_replaying() {
            return self.source.input();
        }
        let end = self.tape.trailers_at.filter(|&trailers| self.tape.at < trailers).unwrap_or(self.tape.bytes.len());
        &self.tape.bytes[self.tape.at..end]
    }

    fn consume(&mut self, count: usize) {
        if self.tape.is_replaying() {
            self.tape.at += count;
            self.tape.has_ended = !self.tape.is_replaying();
            return;
        }
        self.tape.has_ended = false;
        if self.tape.recording.is_some() {
            if self.source.is_ended() && self.tape.trailers_at.is_none() {
                self.tape.trailers_at = Some(self.tape.bytes.len());
            }
            self.tape.keep(&self.source.input()[..count]);
        }
        self.source.consume(count);
    }

    /// In a replay, what was kept may end in the middle of something: then what follows is kept behind it.
    fn poll_fill(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        if !self.tape.is_replaying() {
            let unseen = self.source.input().len();
            if std::mem::take(&mut self.tape.has_ended) && unseen > 0 {
                return Poll::Ready(Ok(unseen));
            }
            return self.source.poll_fill(cx, most);
        }
        if self.source.input().is_empty() && ready!(self.source.poll_fill(cx, most))? == 0 {
            return Poll::Ready(Ok(0));
        }
        let piece = self.source.input().len().min(PIECE);
        let at = self.tape.at;
        if let Some(recording) = &mut self.tape.recording {
            // A piece more than was asked for: the replay could not go on without.
            recording.most = recording.most.max(self.tape.bytes.len() + piece);
        }
        let unread = self.tape.bytes[at..].to_vec();
        self.tape.keep(&self.source.input()[..piece]);
        if self.tape.recording.is_some() {
            self.tape.at = at;
        } else {
            // Nothing more is kept, but what was not read yet must be.
            self.tape.bytes = unread;
            self.tape.bytes.extend_from_slice(&self.source.input()[..piece]);
        }
        self.source.consume(piece);
        Poll::Ready(Ok(piece))
    }

    fn widen_if_full(&mut self) {
        self.source.widen_if_full();
    }

    /// In a replay, the end comes where it came.
    fn is_ended(&self) -> bool {
        match self.tape.trailers_at {
            Some(trailers) if self.tape.is_whole() => self.tape.at >= trailers,
            _ => !self.tape.is_replaying() && self.source.is_ended(),
        }
    }

    fn read_total(&self) -> u64 {
        self.source.read_total()
    }
}
