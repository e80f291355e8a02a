//! Bytes in both directions at once, with ends and resets passed on as they come.
//!
//! Each direction has one buffer, so a side that does not read stops the other from sending. Knows no message.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::accept::Bound;
use super::super::buffer::{Buffer, Buffers, LARGE, SMALL};
use super::super::timer::{Stall, Timer};
use super::super::worker::Worker;
use super::Told;
use crate::config::listener::{Protocol, Timeouts};
use crate::dial::Wire;
use crate::telemetry::metrics::Direction;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides said that they are done, and have heard it of the other.
    Complete,
    ClientGone,
    EndpointGone,
    /// Nothing moved for too long, or the endpoint took nothing.
    Silent,
    /// The listener is gone, and the time to finish is over.
    Left,
}

/// Bytes that one direction may move before others get their turn.
const TURN: u64 = 1 << 20;

/// Both wires. Dropped before its end, it resets them.
pub struct Relay {
    client: Wire,
    endpoint: Wire,
    up: Flow,
    down: Flow,
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Who was told the end has all there is, perhaps not yet out of our kernel.
        if self.down.state != State::Shut {
            self.client.reset_on_close();
        }
        if self.up.state != State::Shut {
            self.endpoint.reset_on_close();
        }
    }
}

impl Relay {
    /// `first` was read from the client already.
    pub fn new(client: Wire, endpoint: Wire, first: Buffer, stock: &Rc<Buffers>) -> Self {
        Self { client, endpoint, up: Flow::new(first), down: Flow::new(Buffer::new(Rc::clone(stock))) }
    }

    pub async fn run(
        &mut self,
        worker: &Rc<Worker>,
        bound: &Bound,
        is_tls: bool,
        timeouts: &Timeouts,
        timer: &mut Timer,
        told: &mut Told,
    ) -> End {
        let mut waiting = None;
        let mut moved_at = Instant::now();
        // By the time that the generation without our listener gives us.
        let mut leave_by = None;
        poll_fn(|cx| {
            if waiting.is_none() {
                waiting = Some(worker.wait(cx.waker()));
            }
            let before = self.up.moved + self.down.moved;
            let polled = self.poll_flows(cx);
            if self.up.moved + self.down.moved > before {
                moved_at = Instant::now();
                tell(worker, told, self.up.moved, self.down.moved);
            }
            if let Poll::Ready(end) = polled {
                return Poll::Ready(end);
            }
            let mut soonest = (moved_at + timeouts.idle, End::Silent);
            for (flow, end) in [(&mut self.up, End::Silent), (&mut self.down, End::ClientGone)] {
                if let Some(stuck) = flow.stall.deadline(flow.is_blocked, flow.moved, timeouts.write)
                    && stuck < soonest.0
                {
                    soonest = (stuck, end);
                }
            }
            // While the process drains, its own deadline cuts us off, and counts us.
            if let (Some(since), None) = (bound.left(Protocol::Tcp, is_tls), worker.draining_since()) {
                let until = *leave_by.get_or_insert_with(|| since + worker.pin().file.process.drain.0);
                if until < soonest.0 {
                    soonest = (until, End::Left);
                }
            }
            timer.poll(cx, soonest.0).map(|()| soonest.1)
        })
        .await
    }

    fn poll_flows(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let up = self.up.poll(cx, &mut self.client, &mut self.endpoint);
        let down = self.down.poll(cx, &mut self.endpoint, &mut self.client);
        match (up, down) {
            (Poll::Ready(Err(Broken::Source)), _) | (_, Poll::Ready(Err(Broken::Sink))) => Poll::Ready(End::ClientGone),
            (Poll::Ready(Err(Broken::Sink)), _) | (_, Poll::Ready(Err(Broken::Source))) => Poll::Ready(End::EndpointGone),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Complete),
            _ => Poll::Pending,
        }
    }
}

/// Counts while the stream goes on: it may last for days.
fn tell(worker: &Worker, told: &mut Told, up: u64, down: u64) {
    told.metrics.streamed(worker.index, Direction::In, up - told.bytes_in);
    told.metrics.streamed(worker.index, Direction::Out, down - told.bytes_out);
    (told.bytes_in, told.bytes_out) = (up, down);
}

/// Which side of a direction is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Source,
    Sink,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The source will send no more; the sink has not heard of it.
    Ended,
    Shut,
}

/// One direction.
struct Flow {
    buffer: Buffer,
    state: State,
    moved: u64,
    /// Whether something waits for the sink.
    is_blocked: bool,
    stall: Stall,
    /// Bytes that TLS may still hold.
    is_unflushed: bool,
    /// What the last read brought.
    last_read: usize,
}

impl Flow {
    fn new(buffer: Buffer) -> Self {
        Self { buffer, state: State::Open, moved: 0, is_blocked: false, stall: Stall::default(), is_unflushed: false, last_read: 0 }
    }

    /// Ready once the sink has everything and knows it, or when a side broke.
    fn poll(&mut self, cx: &mut Context<'_>, source: &mut Wire, sink: &mut Wire) -> Poll<Result<(), Broken>> {
        let turn = self.moved + TURN;
        self.is_blocked = true;
        loop {
            ready!(self.poll_deliver(cx, sink)).map_err(|_| Broken::Sink)?;
            match self.state {
                State::Open => {}
                State::Ended => {
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(|_| Broken::Sink)?;
                    self.state = State::Shut;
                    continue;
                }
                State::Shut => {
                    self.is_blocked = false;
                    self.buffer.release();
                    return Poll::Ready(Ok(()));
                }
            }
            if self.moved >= turn {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Poll::Ready(read) = poll_fill(cx, source, &mut self.buffer, LARGE) else { break };
            self.last_read = read.map_err(|_| Broken::Source)?;
            if self.last_read == 0 {
                self.state = State::Ended;
            }
        }
        // Whoever waits needs no memory, and the next to read finds this buffer warm.
        self.buffer.release();
        if self.last_read < SMALL {
            self.buffer.narrow();
        }
        if self.is_unflushed {
            ready!(Pin::new(sink).poll_flush(cx)).map_err(|_| Broken::Sink)?;
            self.is_unflushed = false;
        }
        self.is_blocked = false;
        Poll::Pending
    }

    /// Ready when the buffer is empty.
    fn poll_deliver(&mut self, cx: &mut Context<'_>, sink: &mut Wire) -> Poll<io::Result<()>> {
        let was_full = self.buffer.is_full();
        while !self.buffer.is_empty() {
            let count = ready!(Pin::new(&mut *sink).poll_write(cx, self.buffer.filled()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.consume(count);
            self.moved += count as u64;
            self.is_unflushed = sink.is_tls();
        }
        if was_full {
            self.buffer.widen();
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads once into `buffer`, which holds less than `most`. 0 is the end.
pub fn poll_fill(cx: &mut Context<'_>, wire: &mut Wire, buffer: &mut Buffer, most: usize) -> Poll<io::Result<usize>> {
    buffer.fill(most, |space| {
        debug_assert!(!space.is_empty(), "a full buffer would look like the end of the stream");
        let mut space = ReadBuf::new(space);
        let polled = Pin::new(wire).poll_read(cx, &mut space);
        let count = space.filled().len();
        (count, polled.map_ok(|()| count))
    })
}
