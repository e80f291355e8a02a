//! Reads the beginning of a request's body before it is known where it goes, for keys that are in it.
//!
//! Bounded in bytes and in time. Takes nothing away: what it reads is on the tape, and goes out from there.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::connection::Client;
use super::pump::{Encoder, Pump, PumpError};
use super::side::{Side, Sink};
use super::tape::{Held, Tape};
use super::timer::Stall;
use super::waits::poll_deadlines;
use crate::filters::headers::Edits;
use crate::proto::http1::{BodyFraming, RequestFraming};
use crate::refusal::Refusal;
use crate::services::Body;

/// Within which bounds a body is read.
pub struct Bounds<'a> {
    /// Bytes of the body.
    pub most: u64,
    /// Bytes that the listener takes of any body.
    pub limit: u64,
    pub held: &'a Arc<Held>,
    /// Bytes of all bodies that the process holds.
    pub most_held: u64,
    /// Between two reads.
    pub timeout: Duration,
    /// Of the whole exchange.
    pub deadline: Option<Instant>,
}

/// What was read.
pub struct Peeked {
    /// The whole body; `None` if it is longer than the bounds.
    pub body: Option<Vec<u8>>,
    /// The client waited to be told to go on, and was.
    pub has_told: bool,
}

impl Peeked {
    pub fn body(&self) -> Body<'_> {
        self.body.as_deref().map_or(Body::TooLong, Body::Is)
    }
}

/// Why there is no body.
pub enum Unread {
    Refused(Refusal),
    ClientGone,
}

/// What a chunk of one byte takes on the wire, and a little for trailers: the tape holds what came, not what it meant.
const OVERHEAD: u64 = 6;
const TRAILERS: u64 = 16 << 10;

/// Reads a body, unless it says that it is longer than the bounds.
pub async fn peek<S: Side>(
    client: &mut Client<S>,
    tape: &mut Tape,
    framing: &RequestFraming,
    bounds: &Bounds<'_>,
) -> Result<Peeked, Unread> {
    if let BodyFraming::Length(length) = framing.body
        && length > bounds.most
    {
        return Ok(Peeked { body: None, has_told: false });
    }
    if framing.expect_continue {
        client.link.output().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    let edits = Edits::default();
    let mut taken = Taken { bytes: Vec::new(), most: bounds.most, is_longer: false, nothing: Vec::new() };
    let mut pump = Pump::new(S::decoder(framing.body), Encoder::Identity, bounds.limit, &edits);
    let mut stall = Stall::default();
    *tape = Tape::record(bounds.held, usize::try_from(bounds.most * OVERHEAD + TRAILERS).unwrap_or(usize::MAX), bounds.most_held);
    let read = poll_fn(|cx| {
        if client.link.has_unsent()
            && let Poll::Ready(Err(_)) = client.link.poll_flush(cx)
        {
            return Poll::Ready(Err(Unread::ClientGone));
        }
        match pump.poll(cx, &mut tape.of(&mut client.link), &mut taken) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => {
                return Poll::Ready(match error {
                    // It had enough.
                    PumpError::Sink(_) => Ok(()),
                    PumpError::Source(_) => Err(Unread::ClientGone),
                    PumpError::Short => Err(Unread::Refused(Refusal::Incomplete)),
                    PumpError::Chunk(_) => Err(Unread::Refused(Refusal::BadChunk)),
                    PumpError::TooLarge => Err(Unread::Refused(Refusal::BodyTooLarge)),
                });
            }
            Poll::Pending => {}
        }
        let late = stall.deadline(true, client.link.read_total(), bounds.timeout);
        let deadlines = [(late, Refusal::BodyTimeout), (bounds.deadline, Refusal::RouteTimeout)];
        poll_deadlines(cx, client, deadlines).map(|refusal| Err(Unread::Refused(refusal)))
    })
    .await;
    read?;
    if !tape.is_whole() {
        // What did not fit is lost for whoever it was meant for.
        return Err(Unread::Refused(Refusal::Overloaded));
    }
    Ok(Peeked { body: (!taken.is_longer).then_some(taken.bytes), has_told: framing.expect_continue })
}

/// Takes a body in.
struct Taken {
    bytes: Vec<u8>,
    most: u64,
    is_longer: bool,
    nothing: Vec<u8>,
}

impl Sink for Taken {
    fn output(&mut self) -> &mut Vec<u8> {
        &mut self.nothing
    }

    fn has_unsent(&self) -> bool {
        false
    }

    fn poll_send(&mut self, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if (self.bytes.len() + data.len()) as u64 > self.most {
            self.is_longer = true;
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        self.bytes.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, _: &[u8]) {}

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn written_total(&self) -> u64 {
        self.bytes.len() as u64
    }
}
