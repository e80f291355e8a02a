//! A wire with its buffers: what was read and not used, what was written and not sent.
//!
//! Moves bytes and knows no message; an idle link holds no memory but its wire.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffer::{Buffer, Buffers};
use crate::dial::Wire;

/// Data up to this size is copied behind what waits to be sent: cheaper than a second slice.
const COPIED_MAX: usize = 4 << 10;

pub struct Link {
    pub wire: Wire,
    input: Buffer,
    output: Vec<u8>,
    sent: usize,
    /// The peer will send no more.
    pub is_ended: bool,
    /// When a client that will send no more is taken for gone.
    pub gone_at: Option<Instant>,
    /// What the peer said leaves doubt about where its next message begins.
    pub is_doubtful: bool,
    /// The last read left no room: more was probably waiting.
    pub filled_up: bool,
    /// Bytes read and written since the link was made; a stall is when neither moves.
    pub read_total: u64,
    pub written_total: u64,
}

impl Link {
    pub fn new(wire: Wire, stock: Rc<Buffers>) -> Self {
        Self {
            wire,
            input: Buffer::new(stock),
            output: Vec::new(),
            sent: 0,
            is_ended: false,
            gone_at: None,
            is_doubtful: false,
            filled_up: false,
            read_total: 0,
            written_total: 0,
        }
    }

    pub fn input(&self) -> &[u8] {
        self.input.filled()
    }

    pub fn consume(&mut self, count: usize) {
        self.input.consume(count);
    }

    /// From now on reads take in more at once.
    pub fn widen_reads(&mut self) {
        self.input.widen();
    }

    /// Reads once, into at most `most` bytes of buffer. 0 is the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let wire = Pin::new(&mut self.wire);
        let read = self.input.fill(most, |space| {
            debug_assert!(!space.is_empty(), "a full buffer would look like the end of the stream");
            let mut space = ReadBuf::new(space);
            let polled = wire.poll_read(cx, &mut space);
            let count = space.filled().len();
            (count, polled.map_ok(|()| count))
        });
        let Poll::Ready(read) = read else {
            // Whoever waits needs no memory, and the next to read finds this buffer warm.
            self.input.release();
            return Poll::Pending;
        };
        let count = read?;
        self.is_ended |= count == 0;
        self.filled_up = self.input.is_full();
        self.read_total += count as u64;
        Poll::Ready(Ok(count))
    }

    /// What is written to the peer next; sent by [`Link::poll_flush`] or along with body bytes.
    pub fn output(&mut self) -> &mut Vec<u8> {
        if self.output.capacity() == 0 {
            self.output = self.input.stock().take_output();
        }
        &mut self.output
    }

    pub fn has_unsent(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Forgets what was not sent, so that another answer can take its place.
    fn discard_output(&mut self) {
        self.output.clear();
        self.sent = 0;
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.output.len() {
            let count = ready!(Pin::new(&mut self.wire).poll_write(cx, &self.output[self.sent..]))?;
            self.wrote(count)?;
            self.sent += count;
        }
        self.release_output();
        match self.wire {
            Wire::Plain(_) => Poll::Ready(Ok(())),
            Wire::Tls(_) => Pin::new(&mut self.wire).poll_flush(cx),
        }
    }

    /// Takes some of `data` behind what waits to be sent. At least one byte, or pending.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let waiting = self.output.len() - self.sent;
            if data.len() <= COPIED_MAX && waiting + data.len() <= super::buffer::SMALL {
                self.output().extend_from_slice(data);
                return Poll::Ready(Ok(data.len()));
            }
            let mut wire = Pin::new(&mut self.wire);
            let count = if waiting == 0 {
                ready!(wire.poll_write(cx, data))?
            } else {
                let slices = [IoSlice::new(&self.output[self.sent..]), IoSlice::new(data)];
                ready!(wire.as_mut().poll_write_vectored(cx, &slices))?
            };
            self.wrote(count)?;
            if count < waiting {
                self.sent += count;
                continue;
            }
            self.discard_output();
            if count > waiting {
                return Poll::Ready(Ok(count - waiting));
            }
        }
    }

    fn wrote(&mut self, count: usize) -> io::Result<()> {
        self.written_total += count as u64;
        if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    /// Says that nothing more will be sent.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }

    fn release_output(&mut self) {
        self.sent = 0;
        if self.output.capacity() > 0 {
            self.input.stock().give_output(std::mem::take(&mut self.output));
        }
    }

    /// Gives back what an idle connection does not need.
    pub fn release_buffers(&mut self) {
        self.input.narrow();
        self.input.release();
        if !self.has_unsent() {
            self.release_output();
        }
    }

    /// The bare wire, and what was read from it and not used.
    pub fn into_parts(self) -> (Wire, Vec<u8>) {
        let unread = self.input().to_vec();
        (self.wire, unread)
    }

    /// The bare wire, if it may carry another message and nothing is left in the buffers.
    pub fn into_wire(mut self) -> Option<Wire> {
        if !self.input.is_empty() || self.has_unsent() || self.is_ended || self.is_doubtful {
            return None;
        }
        self.release_buffers();
        Some(self.wire)
    }
}
