//! What both kinds of streams do to send a message: wait for windows, and say the end once.
//!
//! Knows no side; `stream` and `endpoint` do.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;

use crate::proto::http1::Limits;
use crate::proto::http2;
use crate::serve::buffer::SMALL;

/// Bodies up to this size are copied out of the output, which is used again then.
const COPIED_MAX: usize = 4 << 10;
/// The most asked for of a window at once.
const RESERVED_MAX: usize = SMALL;
/// For heads that we composed ourselves.
pub const OURS: Limits = Limits { header_bytes: usize::MAX, headers: usize::MAX, uri_bytes: usize::MAX };

/// What is still to be said about the end of a message.
pub enum End {
    /// It is not known to be whole.
    Open,
    Bare,
    Trailers(HeaderMap),
    Said,
}

impl End {
    /// From trailers as lines, if there are any.
    pub fn with(trailers: &[u8]) -> Self {
        match http2::trailers(trailers) {
            Some(trailers) if !trailers.is_empty() => Self::Trailers(trailers),
            _ => Self::Bare,
        }
    }

    pub fn is_unsaid(&self) -> bool {
        matches!(self, Self::Bare | Self::Trailers(_))
    }

    /// Says it, behind everything else.
    pub fn say(&mut self, send: &mut SendStream<Bytes>) -> io::Result<()> {
        match std::mem::replace(self, Self::Said) {
            Self::Bare => send.send_data(Bytes::new(), true).map_err(broken),
            Self::Trailers(trailers) => send.send_trailers(trailers).map_err(broken),
            Self::Open => {
                *self = Self::Open;
                Ok(())
            }
            Self::Said => Ok(()),
        }
    }
}

pub fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}

/// Hands body on as far as the peer's windows allow, and then says the end. `pending` comes before what is in `output`.
pub fn poll_body(
    send: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    pending: &mut Bytes,
    output: &mut Vec<u8>,
    end: &mut End,
    written_total: &mut u64,
) -> Poll<io::Result<()>> {
    loop {
        if pending.is_empty() && !output.is_empty() {
            *pending = take_output(output);
        }
        if pending.is_empty() {
            return Poll::Ready(end.say(send));
        }
        let room = ready!(poll_room(send, cx, pending.len()))?;
        let piece = pending.split_to(room.min(pending.len()));
        let is_last = pending.is_empty() && output.is_empty() && matches!(end, End::Bare);
        *written_total += piece.len() as u64;
        send.send_data(piece, is_last).map_err(broken)?;
        if is_last {
            *end = End::Said;
        }
    }
}

/// The body in the output, to be sent without another copy if it is long.
fn take_output(output: &mut Vec<u8>) -> Bytes {
    if output.len() <= COPIED_MAX {
        let body = Bytes::copy_from_slice(output);
        output.clear();
        return body;
    }
    Bytes::from(std::mem::take(output))
}

/// Waits until the peer's windows let us send something of `wanted` bytes.
fn poll_room(send: &mut SendStream<Bytes>, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
    send.reserve_capacity(wanted.min(RESERVED_MAX));
    loop {
        let capacity = send.capacity();
        if capacity > 0 {
            return Poll::Ready(Ok(capacity));
        }
        match ready!(send.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}
