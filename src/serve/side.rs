//! The two ends of an exchange, whatever is spoken there.
//!
//! HTTP/1 speaks through a [`Link`], HTTP/2 through a stream of either kind. Generic and not an enum, so that the way
//! that nearly all requests go is compiled as if there were no other.

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::buffer::SMALL;
use super::connection::Ends;
use super::link::Link;
use super::pump::{Decoder, Encoder};
use super::waits::Early;
use crate::dial::Wire;
use crate::proto::http1::BodyFraming;
use crate::refusal::Refusal;
use crate::tls::Failure;

/// How long a client that has ended its sending may wait for the head of an answer. Whether it still listens cannot be
/// seen: half a close and a whole one look alike. Those that listen ask what is answered soon, and a request whose client
/// has left should not keep an endpoint busy.
const HALF_CLOSED_MAX: Duration = Duration::from_millis(500);

/// Where a body comes from.
pub trait Source {
    /// What has come and was not consumed yet.
    fn input(&self) -> &[u8];
    fn consume(&mut self, count: usize);
    /// Waits for more, into at most `most` bytes of buffer. 0 is the end of all that comes.
    fn poll_fill(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>>;
    /// Lets the next reads take in more, if the last one could have.
    fn widen_if_full(&mut self);
    /// The end has come; what is left in the input are trailers.
    fn is_ended(&self) -> bool;
    /// Grows with each byte that comes.
    fn read_total(&self) -> u64;
}

/// Where a message goes.
pub trait Sink {
    /// Heads, as HTTP/1 writes them, and what follows them.
    fn output(&mut self) -> &mut Vec<u8>;
    fn has_unsent(&self) -> bool;
    /// Takes some of `data` behind what waits to be sent. At least one byte, or pending.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>>;
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// The message is whole with these trailers, each a line. Says nothing where the bytes have said it.
    fn end(&mut self, trailers: &[u8]);
    /// Says that nothing more will be sent, once all is.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Grows with each byte that is taken from us.
    fn written_total(&self) -> u64;
}

/// The client's end.
pub trait Side: Source + Sink {
    fn is_tls(&self) -> bool;
    /// Both ends of the connection, as far as this knows of one.
    fn ends(&self) -> Option<Ends>;
    /// How the body of a request ends, that its head frames like this.
    fn decoder(framing: BodyFraming) -> Decoder;
    /// How the client is told where a body ends, that the head it was sent frames like this.
    fn encoder(framing: BodyFraming) -> Encoder;
    /// Whether the client has left. `is_taken`: nothing of its request is still to come.
    fn has_left(&mut self, cx: &mut Context<'_>, is_taken: bool) -> bool;
    /// When a client that may have left is taken for gone, unless the head of its answer has come by then.
    fn gone_at(&self) -> Option<Instant>;
    /// Has the end of this look like no end: for an answer that is not whole, and for a client that takes nothing.
    fn cut(&mut self);
    /// Whether nothing more of this client is here, so that closing resets nothing.
    fn has_said_all(&mut self) -> bool;
}

/// The endpoint's end.
pub trait Far: Source + Sink {
    /// Whether it can go on with another protocol.
    const SWITCHES: bool;
    /// Has the end of this look like no end.
    fn cut(&mut self);
    /// How the body of an answer ends, that its head frames like this.
    fn decoder(framing: BodyFraming) -> Decoder;
    /// How the endpoint is told where a body ends, that the head it was sent frames like this.
    fn encoder(framing: BodyFraming) -> Encoder;
    /// What it means that no answer begins: the end came, or this error.
    fn ended_early(&self, error: Option<io::Error>) -> Early;
    /// Whether a second try is the first one for the endpoint, or harmless. `is_reused`: the connection may have died before
    /// the request was sent.
    fn may_repeat(&self, is_reused: bool, is_idempotent: bool) -> bool;
    /// What the endpoint said leaves doubt about where its next message begins.
    fn doubt(&mut self);
    /// No answer came in time.
    fn timed_out(&mut self);
    /// Ends the exchange. What carries another request on its own comes back, if `is_clean`.
    fn release(self, is_clean: bool) -> Option<Wire>;
}

impl Source for Link {
    fn input(&self) -> &[u8] {
        self.input()
    }

    fn consume(&mut self, count: usize) {
        self.consume(count);
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        self.poll_fill(cx, most)
    }

    fn widen_if_full(&mut self) {
        // A body that fills small reads is a long one.
        if self.filled_up {
            self.widen_reads();
        }
    }

    fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn read_total(&self) -> u64 {
        self.read_total
    }
}

impl Sink for Link {
    fn output(&mut self) -> &mut Vec<u8> {
        self.output()
    }

    fn has_unsent(&self) -> bool {
        self.has_unsent()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, data)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }

    fn end(&mut self, _: &[u8]) {}

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown(cx)
    }

    fn written_total(&self) -> u64 {
        self.written_total
    }
}

impl Side for Link {
    fn is_tls(&self) -> bool {
        self.wire.is_tls()
    }

    fn ends(&self) -> Option<Ends> {
        self.wire.ends()
    }

    fn decoder(framing: BodyFraming) -> Decoder {
        Decoder::of(framing)
    }

    fn encoder(framing: BodyFraming) -> Encoder {
        Encoder::of(framing)
    }

    /// Reads ahead while an answer is awaited: pipelined requests, and whether the client is still
    /// there. A reset is a sign of leaving. The end of its sending may be one, so that a time begins.
    fn has_left(&mut self, cx: &mut Context<'_>, is_taken: bool) -> bool {
        if !is_taken {
            // Another request than the one that the time began with.
            self.gone_at = None;
            return false;
        }
        while !self.is_ended && self.input().len() < SMALL {
            match self.poll_fill(cx, SMALL) {
                // The end too, of TLS that took no leave.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => self.is_ended = true,
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        if self.is_ended && self.gone_at.is_none() {
            self.gone_at = Some(Instant::now() + HALF_CLOSED_MAX);
        }
        false
    }

    fn gone_at(&self) -> Option<Instant> {
        self.gone_at
    }

    fn cut(&mut self) {
        self.wire.reset_on_close();
    }

    /// Not known of TLS, whose own good-bye is still to come.
    fn has_said_all(&mut self) -> bool {
        self.input().is_empty() && !self.wire.is_tls() && self.wire.is_silent_for_certain()
    }
}

impl Far for Link {
    const SWITCHES: bool = true;

    fn cut(&mut self) {
        self.wire.reset_on_close();
    }

    fn decoder(framing: BodyFraming) -> Decoder {
        Decoder::of(framing)
    }

    fn encoder(framing: BodyFraming) -> Encoder {
        Encoder::of(framing)
    }

    fn ended_early(&self, error: Option<io::Error>) -> Early {
        if !self.input().is_empty() {
            return Early::Broken(Refusal::EndpointReset);
        }
        error.and_then(|error| Failure::of_first_read(&error)).map_or(Early::Dead, Early::Unwelcome)
    }

    fn may_repeat(&self, is_reused: bool, is_idempotent: bool) -> bool {
        is_reused && self.read_total == 0 && (is_idempotent || self.written_total == 0)
    }

    fn doubt(&mut self) {
        self.is_doubtful = true;
    }

    /// It is not used again in any case.
    fn timed_out(&mut self) {}

    fn release(mut self, is_clean: bool) -> Option<Wire> {
        if is_clean {
            return self.into_wire();
        }
        self.wire.say_goodbye();
        None
    }
}
