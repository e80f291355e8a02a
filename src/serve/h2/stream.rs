//! One stream: a request and its answer, in a task of its own.
//!
//! Looks like a link to the exchange, so it does as for HTTP/1: heads are written in HTTP/1's form and read
//! back here, bodies pass through with the windows of the protocol as back-pressure.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Request;

use super::connection::{Running, Session};
use super::sending::{self, End, OURS, broken};
use crate::proto::http1::{BodyFraming, Progress, ResponseHead};
use crate::proto::http2::{self, WebSocket};
use crate::serve::buffer::{Buffers, SMALL};
use crate::serve::connection::{Client, Ends, refusal_of};
use crate::serve::exchange::{self, After};
use crate::serve::pump::{Decoder, Encoder, TRAILERS};
use crate::serve::side::{Side, Sink, Source};
use crate::serve::timer::Timer;
use crate::serve::worker::{Scratch, Worker};

/// Fields that most answers have no more of.
const FIELDS_USUAL: usize = 16;

/// Serves one request from its head to the last of its answer.
pub async fn serve(
    worker: Rc<Worker>,
    session: Rc<Session>,
    _running: Running,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let started = Instant::now();
    let _in_flight = worker.begin();
    let mut scratch = worker.scratch();
    let (request, body) = {
        let (parts, body) = request.into_parts();
        (Request::from_parts(parts, ()), body)
    };
    // Whatever the connection began under: the newest generation decides, for each request anew.
    let generation = worker.pin();
    let (listener, is_current) = session.bound.listener_for(&generation, session.is_tls);
    let stream = Stream::new(body, respond, Rc::clone(&worker.stock), session.is_tls);
    let mut client = Client {
        link: stream,
        timer: Timer::default(),
        bound: Rc::clone(&session.bound),
        peer: session.peer,
        named: session.ends.clone(),
        tls: session.tls.clone(),
        tls_policy: session.tls_policy,
    };
    let body_follows = !client.link.body.is_end_stream();
    let is_socket = request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == WebSocket::PROTOCOL);
    let socket = is_socket.then(|| WebSocket::new([worker.roll(), worker.roll()]));
    let Scratch { request: head, request_bytes, .. } = &mut *scratch;
    let read = http2::read_request(&request, body_follows, socket.as_ref(), &listener.limits, head, request_bytes);
    drop(request);
    let after = match read {
        Ok(()) => exchange::run(&worker, &mut client, &listener, &generation, &mut scratch, started, is_current).await,
        Err(error) => exchange::refuse_unparsed(&worker, &mut client, &listener, &mut scratch, refusal_of(error), started).await,
    };
    worker.give_scratch(scratch);
    if after == After::Abort {
        // A reset throws away what was not sent yet; the connection's own task gets a turn first.
        tokio::task::yield_now().await;
        client.link.reset();
    }
}

pub struct Stream {
    body: RecvStream,
    /// What came of the body and was not consumed; its window is given back as it is.
    chunk: Bytes,
    trailers: Vec<u8>,
    is_ended: bool,
    read_total: u64,
    respond: SendResponse<Bytes>,
    /// Once the head of the final answer is sent.
    send: Option<SendStream<Bytes>>,
    /// Heads and body in HTTP/1's form, as they were written.
    output: Vec<u8>,
    stock: Rc<Buffers>,
    /// Body that waits for the client's window.
    pending: Bytes,
    end: End,
    written_total: u64,
    is_tls: bool,
    /// Why the stream is reset, if it is.
    reason: Reason,
}

impl Stream {
    fn new(body: RecvStream, respond: SendResponse<Bytes>, stock: Rc<Buffers>, is_tls: bool) -> Self {
        Self {
            body,
            chunk: Bytes::new(),
            trailers: Vec::new(),
            is_ended: false,
            read_total: 0,
            respond,
            send: None,
            output: Vec::new(),
            stock,
            pending: Bytes::new(),
            end: End::Open,
            written_total: 0,
            is_tls,
            reason: Reason::INTERNAL_ERROR,
        }
    }

    fn reset(&mut self) {
        self.respond.send_reset(self.reason);
    }

    /// Sends the heads at the front of the output; what is left there is body.
    fn send_heads(&mut self) -> io::Result<()> {
        while self.send.is_none() && !self.output.is_empty() {
            let mut head = ResponseHead::new();
            head.fields.reserve(FIELDS_USUAL);
            let is_whole = matches!(head.parse(&self.output, &OURS), Ok(Progress::Complete));
            let response = is_whole.then(|| http2::response(&head, &self.output)).flatten();
            debug_assert!(response.is_some(), "a head that we composed");
            let response = response.ok_or(io::ErrorKind::InvalidData)?;
            self.output.drain(..head.bytes);
            self.written_total += head.bytes as u64;
            if response.status().is_informational() {
                self.respond.send_informational(response).map_err(broken)?;
                continue;
            }
            let is_all = self.output.is_empty() && matches!(self.end, End::Bare);
            self.send = Some(self.respond.send_response(response, is_all).map_err(broken)?);
            if is_all {
                self.end = End::Said;
            }
        }
        Ok(())
    }

    fn release_output(&mut self) {
        if self.output.capacity() > 0 {
            self.stock.give_output(std::mem::take(&mut self.output));
        }
    }
}

impl Source for Stream {
    fn input(&self) -> &[u8] {
        if self.is_ended { &self.trailers } else { &self.chunk }
    }

    fn consume(&mut self, count: usize) {
        if self.is_ended {
            self.trailers.drain(..count);
            return;
        }
        self.chunk.advance(count);
        // Fails only for a stream that is over.
        let _ = self.body.flow_control().release_capacity(count);
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, _most: usize) -> Poll<io::Result<usize>> {
        debug_assert!(self.chunk.is_empty(), "a frame follows when the last one is used up");
        while let Some(chunk) = ready!(self.body.poll_data(cx)) {
            let chunk = chunk.map_err(broken)?;
            if !chunk.is_empty() {
                self.read_total += chunk.len() as u64;
                self.chunk = chunk;
                return Poll::Ready(Ok(self.chunk.len()));
            }
        }
        if let Some(trailers) = ready!(self.body.poll_trailers(cx)).map_err(broken)?
            && http2::read_trailers(&trailers, &TRAILERS, &mut self.trailers).is_err()
        {
            // RFC 9113 §8.1.1: malformed.
            self.reason = Reason::PROTOCOL_ERROR;
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        self.is_ended = true;
        Poll::Ready(Ok(0))
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
        if self.output.capacity() == 0 {
            self.output = self.stock.take_output();
        }
        &mut self.output
    }

    fn has_unsent(&self) -> bool {
        !self.output.is_empty() || !self.pending.is_empty() || self.end.is_unsaid()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.output.len() >= SMALL || !self.pending.is_empty() {
            ready!(self.poll_flush(cx))?;
        }
        let count = data.len().min(SMALL - self.output.len());
        self.output().extend_from_slice(&data[..count]);
        Poll::Ready(Ok(count))
    }

    /// Hands everything on to the connection, as far as the client's windows allow.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send_heads()?;
        let Self { send, pending, output, end, written_total, .. } = self;
        let flushed = match send {
            Some(send) => sending::poll_body(send, cx, pending, output, end, written_total),
            None => Poll::Ready(Ok(())),
        };
        if self.output.is_empty() {
            self.release_output();
        }
        flushed
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

impl Side for Stream {
    fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// A matter of the connection.
    fn ends(&self) -> Option<Ends> {
        None
    }

    fn decoder(framing: BodyFraming) -> Decoder {
        if framing == BodyFraming::None { Decoder::None } else { Decoder::Frames }
    }

    fn encoder(_: BodyFraming) -> Encoder {
        Encoder::Frames
    }

    fn has_left(&mut self, cx: &mut Context<'_>, _is_taken: bool) -> bool {
        match &mut self.send {
            Some(send) => send.poll_reset(cx).is_ready(),
            None => self.respond.poll_reset(cx).is_ready(),
        }
    }

    /// The end of a request is no end of its client.
    fn gone_at(&self) -> Option<Instant> {
        None
    }

    fn cut(&mut self) {
        self.reason = Reason::CANCEL;
    }

    /// It is a matter of the connection, which outlives this.
    fn has_said_all(&mut self) -> bool {
        false
    }
}
