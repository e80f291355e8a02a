//! Watches a client's frames go by and tells when they are a flood.
//!
//! Follows the nine bytes before each frame and nothing else: what frames mean is the `h2` crate's, which
//! bounds what they make it hold, but not how often a client may have it do nothing of use.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::dial::Wire;

/// `PRI * HTTP/2.0` and what belongs to it (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;

// Frame types (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;

/// Frames that carry nothing: PING, SETTINGS, PRIORITY, CONTINUATION, empty DATA, unknown ones. Browsers and
/// gRPC send a few in a second, and a burst of a hundred when they begin.
const IDLE_FRAMES: (u32, Duration) = (1000, Duration::from_secs(1));
/// Requests taken back. Who leaves a large page takes back a hundred at once.
const RESETS: (u32, Duration) = (500, Duration::from_secs(5));
/// Careful clients send two for each frame of data, be it small; more come with more data.
const WINDOW_UPDATES: (u32, Duration) = (2000, Duration::from_secs(1));
/// So many bytes sent to a client buy it one more `WINDOW_UPDATE`.
const BYTES_PER_WINDOW_UPDATE: u64 = 128;

/// A connection as the `h2` crate sees it, and how it does.
pub struct Watch {
    wire: RefCell<Wire>,
    /// Read from the wire before it came here.
    unread: RefCell<Vec<u8>>,
    frames: RefCell<Frames>,
    is_flood: Cell<bool>,
    is_blocked: Cell<bool>,
    written: Cell<u64>,
}

impl Watch {
    pub fn new(wire: Wire, unread: Vec<u8>, now: Instant) -> Self {
        let mut frames = Frames::new(now);
        let is_flood = frames.pass(&unread, 0, || now);
        Self {
            wire: RefCell::new(wire),
            unread: RefCell::new(unread),
            frames: RefCell::new(frames),
            is_flood: Cell::new(is_flood),
            is_blocked: Cell::default(),
            written: Cell::default(),
        }
    }

    /// Nothing is read any more once this is so.
    pub fn is_flood(&self) -> bool {
        self.is_flood.get()
    }

    /// The client does not take what it is sent; with what it has taken.
    pub fn is_blocked(&self) -> (bool, u64) {
        (self.is_blocked.get(), self.written.get())
    }

    /// The bare wire again, once nobody else watches.
    pub fn into_wire(self: Rc<Self>) -> Option<Wire> {
        Rc::into_inner(self).map(|watch| watch.wire.into_inner())
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        self.is_blocked.set(written.is_pending());
        if let Poll::Ready(Ok(count)) = written {
            self.written.set(self.written.get() + *count as u64);
        }
    }
}

/// The byte stream handed to the `h2` crate.
pub struct Guard(pub Rc<Watch>);

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let watch = &self.0;
        if watch.is_flood.get() {
            // Nobody needs waking: who polls this looks at the flood next.
            return Poll::Pending;
        }
        let mut unread = watch.unread.borrow_mut();
        if !unread.is_empty() {
            let count = unread.len().min(buffer.remaining());
            buffer.put_slice(&unread[..count]);
            unread.drain(..count);
            if unread.is_empty() {
                *unread = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        let held = buffer.filled().len();
        let polled = Pin::new(&mut *watch.wire.borrow_mut()).poll_read(cx, buffer);
        let is_flood = watch.frames.borrow_mut().pass(&buffer.filled()[held..], watch.written.get(), Instant::now);
        watch.is_flood.set(is_flood);
        polled
    }
}

impl AsyncWrite for Guard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.0.wire.borrow_mut()).poll_write(cx, bytes);
        self.0.wrote(&written);
        written
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.0.wire.borrow_mut()).poll_write_vectored(cx, slices);
        self.0.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut *self.0.wire.borrow_mut()).poll_flush(cx);
        self.0.is_blocked.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.wire.borrow_mut()).poll_shutdown(cx)
    }
}

/// Where in the stream of frames we are, and what has come of each kind.
struct Frames {
    preface_left: usize,
    head: [u8; HEAD_BYTES],
    head_held: usize,
    payload_left: usize,
    idle: Budget,
    resets: Budget,
    window_updates: Budget,
    /// What had been sent when `WINDOW_UPDATE`s were last counted from nought.
    written_before: u64,
}

/// So many in so much time.
struct Budget {
    most: u32,
    period: Duration,
    spent: u32,
    since: Instant,
}

impl Budget {
    fn new((most, period): (u32, Duration), now: Instant) -> Self {
        Self { most, period, spent: 0, since: now }
    }

    /// Counts one more. The clock is read only when the count is reached, which a client with manners
    /// does not bring about. `None` if it was reached too soon, else whether a new period began.
    fn spend(&mut self, extra: u32, now: impl Fn() -> Instant) -> Option<bool> {
        if self.spent < self.most.saturating_add(extra) {
            self.spent += 1;
            return Some(false);
        }
        let now = now();
        if now.saturating_duration_since(self.since) < self.period {
            return None;
        }
        self.since = now;
        self.spent = 1;
        Some(true)
    }
}

impl Frames {
    fn new(now: Instant) -> Self {
        Self {
            preface_left: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            head_held: 0,
            payload_left: 0,
            idle: Budget::new(IDLE_FRAMES, now),
            resets: Budget::new(RESETS, now),
            window_updates: Budget::new(WINDOW_UPDATES, now),
            written_before: 0,
        }
    }

    /// Follows `bytes`. `written`: how many have been sent the other way. Whether it has become a flood.
    fn pass(&mut self, mut bytes: &[u8], written: u64, now: impl Fn() -> Instant) -> bool {
        skip(&mut bytes, &mut self.preface_left);
        loop {
            skip(&mut bytes, &mut self.payload_left);
            let wanted = (HEAD_BYTES - self.head_held).min(bytes.len());
            let (part, rest) = bytes.split_at(wanted);
            self.head[self.head_held..self.head_held + wanted].copy_from_slice(part);
            self.head_held += wanted;
            bytes = rest;
            if self.head_held < HEAD_BYTES {
                return false;
            }
            self.head_held = 0;
            let [a, b, c, kind, flags, ..] = self.head;
            self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if self.count(kind, flags, written, &now).is_none() {
                return true;
            }
        }
    }

    fn count(&mut self, kind: u8, flags: u8, written: u64, now: impl Fn() -> Instant) -> Option<()> {
        match kind {
            // Of use, or bounded elsewhere: by windows, by the number of streams.
            HEADERS => {}
            DATA if self.payload_left > 0 || flags & END_STREAM != 0 => {}
            RST_STREAM => {
                self.resets.spend(0, now)?;
            }
            WINDOW_UPDATE => {
                let extra = (written - self.written_before) / BYTES_PER_WINDOW_UPDATE;
                if self.window_updates.spend(u32::try_from(extra).unwrap_or(u32::MAX), now)? {
                    self.written_before = written;
                }
            }
            _ => {
                self.idle.spend(0, now)?;
            }
        }
        Some(())
    }
}

fn skip(bytes: &mut &[u8], left: &mut usize) {
    let count = bytes.len().min(*left);
    *bytes = &bytes[count..];
    *left -= count;
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        frame.extend(vec![PING; payload]);
        frame
    }

    /// How many of the same frame pass before it is a flood, in pieces of `piece` bytes, `gap` apart; at most 5000.
    fn passes(frame: &[u8], piece: usize, gap: Duration, written: u64) -> usize {
        let began = Instant::now();
        let mut frames = Frames::new(began);
        assert!(!frames.pass(&[b'x'; PREFACE_BYTES], 0, || began));
        for number in 0..5000 {
            let now = began + gap * number;
            let is_flood = frame.chunks(piece).any(|piece| frames.pass(piece, written * u64::from(number), || now));
            if is_flood {
                return number as usize;
            }
        }
        5000
    }

    #[test]
    fn frames_are_followed_however_they_arrive() {
        for piece in [1, 2, 8, 9, 10, 100] {
            assert_eq!(passes(&frame(PING, 0, 8), piece, Duration::ZERO, 0), 1000, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_of_use_is_no_flood_and_what_is_not_is_one() {
        let check = |kind, flags, payload, wanted| assert_eq!(passes(&frame(kind, flags, payload), 100, Duration::ZERO, 0), wanted);
        check(HEADERS, 0, 20, 5000);
        check(DATA, 0, 1, 5000);
        check(DATA, END_STREAM, 0, 5000);
        check(DATA, 0, 0, 1000);
        check(RST_STREAM, 0, 4, 500);
        check(WINDOW_UPDATE, 0, 4, 2000);
        for kind in [2, 4, 5, 6, 7, 9, 10, 200] {
            check(kind, 0, 4, 1000);
        }
    }

    #[test]
    fn who_takes_time_or_data_may_send_more() {
        assert_eq!(passes(&frame(PING, 0, 8), 100, Duration::from_millis(1), 0), 5000);
        assert_eq!(passes(&frame(RST_STREAM, 0, 4), 100, Duration::from_millis(10), 0), 5000);
        assert_eq!(passes(&frame(RST_STREAM, 0, 4), 100, Duration::from_millis(9), 0), 500);
        assert_eq!(passes(&frame(WINDOW_UPDATE, 0, 4), 100, Duration::ZERO, BYTES_PER_WINDOW_UPDATE), 5000);
        assert_eq!(passes(&frame(WINDOW_UPDATE, 0, 4), 100, Duration::ZERO, BYTES_PER_WINDOW_UPDATE / 2), 4000);
    }
}
