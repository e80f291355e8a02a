//! One request to an endpoint, with its answer.
//!
//! Looks like a link to `forward`: the head of the request is written in HTTP/1's form and read back here, that of the answer is
//! written in it, bodies pass through with the windows of the protocol as back-pressure. Dropping it takes the request back.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::uri::Scheme;

use super::connection::Place;
use crate::dial::Wire;
use crate::proto::http1::{BodyFraming, Progress, RequestHead};
use crate::proto::http2;
use crate::refusal::Refusal;
use crate::serve::buffer::SMALL;
use crate::serve::h2::sending::{self, End, OURS, broken};
use crate::serve::pump::{Decoder, Encoder, TRAILERS};
use crate::serve::side::{Far, Sink, Source};
use crate::serve::waits::Early;

/// How a stream came to an end that is none of an answer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    /// The endpoint says that it did nothing (RFC 9113 §8.7).
    Unseen,
    /// The connection broke.
    Lost,
    /// The endpoint reset the stream.
    Reset,
    /// What came was no answer.
    Malformed,
}

pub struct Stream {
    place: Place,
    scheme: Scheme,
    request_is_head: bool,
    /// The answer's head, while it is awaited.
    answer: Option<ResponseFuture>,
    body: Option<RecvStream>,
    /// Heads in HTTP/1's form that were not consumed yet; what else came stands behind them.
    heads: Vec<u8>,
    /// What came of the body and was not consumed; its window is given back as it is.
    chunk: Bytes,
    trailers: Vec<u8>,
    is_ended: bool,
    read_total: u64,
    /// Once the request's head is sent.
    send: Option<SendStream<Bytes>>,
    /// Head and body in HTTP/1's form, as they were written.
    output: Vec<u8>,
    /// Body that waits for the endpoint's window.
    pending: Bytes,
    end: End,
    written_total: u64,
    fate: Fate,
}

impl Stream {
    pub fn new(place: Place, is_tls: bool) -> Self {
        Self {
            place,
            scheme: if is_tls { Scheme::HTTPS } else { Scheme::HTTP },
            request_is_head: false,
            answer: None,
            body: None,
            heads: Vec::new(),
            chunk: Bytes::new(),
            trailers: Vec::new(),
            is_ended: false,
            read_total: 0,
            send: None,
            output: Vec::new(),
            pending: Bytes::new(),
            end: End::Open,
            written_total: 0,
            fate: Fate::Open,
        }
    }

    /// Takes note of why the stream ended.
    fn failed(&mut self, error: h2::Error) -> io::Error {
        if self.fate == Fate::Open {
            let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
            self.fate = match error.is_remote() {
                true if error.is_go_away() || is_refused => Fate::Unseen,
                true => Fate::Reset,
                false if error.is_io() => Fate::Lost,
                false => Fate::Malformed,
            };
            if is_refused && error.is_remote() {
                self.place.refused();
            }
        }
        broken(error)
    }

    /// Sends the head at the front of the output; what is left there is body.
    fn send_head(&mut self) -> io::Result<()> {
        if self.send.is_some() || self.output.is_empty() {
            return Ok(());
        }
        let mut head = RequestHead::new();
        let is_whole = matches!(head.parse(&self.output, &OURS), Ok(Progress::Complete));
        let request = is_whole.then(|| http2::request(&head, &self.output, self.scheme.clone())).flatten();
        let Some(request) = request else {
            self.fate = Fate::Malformed;
            return Err(io::ErrorKind::InvalidData.into());
        };
        self.request_is_head = request.method() == http::Method::HEAD;
        self.output.drain(..head.bytes);
        let is_all = self.output.is_empty() && matches!(self.end, End::Bare);
        let Some(mut connection) = self.place.send() else {
            self.fate = Fate::Unseen;
            return Err(io::ErrorKind::NotConnected.into());
        };
        let (answer, send) = match connection.send_request(request, is_all) {
            Ok(opened) => opened,
            Err(error) => {
                let error = self.failed(error);
                // Whatever it was: nothing of this request was sent.
                self.fate = Fate::Unseen;
                return Err(error);
            }
        };
        self.written_total += head.bytes as u64;
        (self.answer, self.send) = (Some(answer), Some(send));
        if is_all {
            self.end = End::Said;
        }
        Ok(())
    }

    /// Waits for a head, be it of an interim answer.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.send_head()?;
        let Some(answer) = &mut self.answer else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        if let Poll::Ready(Some(interim)) = answer.poll_informational(cx) {
            let interim = interim.map_err(|error| self.failed(error))?;
            http2::read_response(&interim, false, self.request_is_head, &mut self.heads);
        } else {
            let response = ready!(Pin::new(answer).poll(cx)).map_err(|error| self.failed(error))?;
            http2::read_response(&response, response.body().is_end_stream(), self.request_is_head, &mut self.heads);
            self.answer = None;
            self.body = Some(response.into_body());
        }
        self.read_total += self.heads.len() as u64;
        Poll::Ready(Ok(self.heads.len()))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        debug_assert!(self.chunk.is_empty(), "a frame follows when the last one is used up");
        let Some(body) = &mut self.body else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        while let Some(chunk) = ready!(body.poll_data(cx)) {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return Poll::Ready(Err(self.failed(error))),
            };
            if !chunk.is_empty() {
                self.read_total += chunk.len() as u64;
                self.chunk = chunk;
                return Poll::Ready(Ok(self.chunk.len()));
            }
        }
        match ready!(body.poll_trailers(cx)) {
            Ok(Some(trailers)) => {
                if http2::read_trailers(&trailers, &TRAILERS, &mut self.trailers).is_err() {
                    // RFC 9113 §8.1.1: malformed.
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
            Ok(None) => {}
            Err(error) => return Poll::Ready(Err(self.failed(error))),
        }
        self.is_ended = true;
        Poll::Ready(Ok(0))
    }
}

impl Source for Stream {
    fn input(&self) -> &[u8] {
        match (self.heads.is_empty(), self.is_ended) {
            (false, _) => &self.heads,
            (true, false) => &self.chunk,
            (true, true) => &self.trailers,
        }
    }

    fn consume(&mut self, count: usize) {
        if !self.heads.is_empty() {
            self.heads.drain(..count);
        } else if self.is_ended {
            self.trailers.drain(..count);
        } else {
            self.chunk.advance(count);
            if let Some(body) = &mut self.body {
                // Fails only for a stream that is over.
                let _ = body.flow_control().release_capacity(count);
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, _most: usize) -> Poll<io::Result<usize>> {
        if self.body.is_some() { self.poll_body(cx) } else { self.poll_answer(cx) }
    }

    fn widen_if_full(&mut self) {}

    fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn read_total(&self) -> u64 {
        self.read_total
    }
}

impl Sink for Stream {
    fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    fn has_unsent(&self) -> bool {
        !self.output.is_empty() || !self.pending.is_empty() || self.end.is_unsaid()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        // First the head: if it cannot be sent, the body is still the client's.
        self.send_head()?;
        if self.output.len() >= SMALL {
            ready!(self.poll_flush(cx))?;
        }
        let count = data.len().min(SMALL - self.output.len());
        self.output.extend_from_slice(&data[..count]);
        Poll::Ready(Ok(count))
    }

    /// Hands everything on to the connection, as far as the endpoint's windows allow.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send_head()?;
        let Self { send, pending, output, end, written_total, .. } = self;
        let Some(send) = send else { return Poll::Ready(Ok(())) };
        sending::poll_body(send, cx, pending, output, end, written_total)
    }

    fn end(&mut self, trailers: &[u8]) {
        self.end = End::with(trailers);
    }

    /// The last frame has said it.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }

    fn written_total(&self) -> u64 {
        self.written_total
    }
}

impl Far for Stream {
    const SWITCHES: bool = false;

    /// Dropped before its end, it is reset.
    fn cut(&mut self) {}

    fn decoder(framing: BodyFraming) -> Decoder {
        if framing == BodyFraming::None { Decoder::None } else { Decoder::Frames }
    }

    fn encoder(_: BodyFraming) -> Encoder {
        Encoder::Frames
    }

    fn ended_early(&self, _: Option<io::Error>) -> Early {
        match self.fate {
            Fate::Malformed => Early::Broken(Refusal::BrokenResponse),
            Fate::Lost => self.place.failure().map_or(Early::Dead, Early::Unwelcome),
            Fate::Open | Fate::Unseen | Fate::Reset => Early::Dead,
        }
    }

    fn may_repeat(&self, is_reused: bool, is_idempotent: bool) -> bool {
        match self.fate {
            Fate::Unseen => true,
            Fate::Lost => is_reused && self.read_total == 0 && is_idempotent,
            Fate::Open | Fate::Reset | Fate::Malformed => false,
        }
    }

    /// A stream carries one message.
    fn doubt(&mut self) {}

    fn timed_out(&mut self) {
        self.place.timed_out();
    }

    fn release(self, _is_clean: bool) -> Option<Wire> {
        None
    }
}
