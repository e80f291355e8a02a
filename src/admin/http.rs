//! A small HTTP/1.1 server for answers that are made here: the admin API and `attache origin`.
//!
//! Reads a request whole, within bounds, and writes its answer whole. Not for client traffic.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;

use crate::proto::http1::{
    BodyFraming, ChunkStep, ChunkedDecoder, HeadError, Limits, Progress, RequestHead, TrailerLimits, request_framing,
};
use crate::refusal;
use crate::supervisor::AdminSocket;

/// A whole request.
pub struct Request {
    pub method: String,
    pub target: String,
    /// As they came, in order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    /// Whole fields, each with its CRLF.
    pub fields: &'static str,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", fields: "", body: body.into().into_bytes() }
    }

    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        let mut body = serde_json::to_vec_pretty(body).unwrap_or_default();
        body.push(b'\n');
        Self { status, content_type: "application/json", fields: "", body }
    }
}

pub enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    pub fn new(socket: AdminSocket) -> io::Result<Self> {
        Ok(match socket {
            AdminSocket::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            AdminSocket::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        })
    }
}

const LIMITS: Limits = Limits { header_bytes: 64 << 10, headers: 100, uri_bytes: 16 << 10 };
const BODY_MAX: u64 = 16 << 20;
const TRAILERS: TrailerLimits = TrailerLimits { bytes: 4 << 10, fields: 16 };
/// One request from first to last byte, the wait for it, and its answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who is connected.
pub struct Served {
    most: usize,
    seats: Mutex<VecDeque<Arc<Seat>>>,
    left: Notify,
}

struct Seat {
    is_asking: AtomicBool,
    leave: Notify,
}

impl Served {
    pub fn new(most: usize) -> Self {
        Self { most, seats: Mutex::default(), left: Notify::new() }
    }

    fn seats(&self) -> MutexGuard<'_, VecDeque<Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever has sat longest without a whole request makes room, so that many who ask nothing, or ask slowly,
    /// cannot keep out one who does. Where everybody is being answered, the newcomer has to go.
    fn sit(self: &Arc<Self>) -> Option<Sitting> {
        let mut seats = self.seats();
        if seats.len() >= self.most {
            let at = seats.iter().position(|seat| !seat.is_asking.load(Ordering::Relaxed))?;
            if let Some(idle) = seats.remove(at) {
                idle.leave.notify_one();
            }
        }
        let seat = Arc::new(Seat { is_asking: AtomicBool::new(false), leave: Notify::new() });
        seats.push_back(Arc::clone(&seat));
        Some(Sitting { served: Arc::clone(self), seat })
    }

    /// Returns once nobody is connected.
    pub async fn nobody(&self) {
        loop {
            let left = self.left.notified();
            if self.seats().is_empty() {
                return;
            }
            left.await;
        }
    }
}

/// A connection's place; free again when dropped.
struct Sitting {
    served: Arc<Served>,
    seat: Arc<Seat>,
}

impl Drop for Sitting {
    fn drop(&mut self) {
        self.served.seats().retain(|seat| !Arc::ptr_eq(seat, &self.seat));
        self.served.left.notify_waiters();
    }
}

/// Serves until dropped; connections live on until they have been answered.
pub async fn serve<F, A>(listening: Listening, answer: Arc<F>, served: Arc<Served>)
where
    F: Fn(Request) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    loop {
        let accepted = match &listening {
            Listening::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                let _ = stream.set_nodelay(true);
                seat(stream, &answer, &served);
            }),
            Listening::Unix(listener) => listener.accept().await.map(|(stream, _)| seat(stream, &answer, &served)),
        };
        if accepted.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn seat<S, F, A>(stream: S, answer: &Arc<F>, served: &Arc<Served>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let Some(sitting) = served.sit() else { return };
    let answer = Arc::clone(answer);
    tokio::spawn(async move {
        let seat = Arc::clone(&sitting.seat);
        tokio::select! {
            () = connection(stream, answer, &seat) => {}
            () = seat.leave.notified() => {}
        }
        drop(sitting);
    });
}

async fn connection<S, F, A>(mut stream: S, answer: Arc<F>, seat: &Seat)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request) -> A,
    A: Future<Output = Answer>,
{
    let mut input = Vec::new();
    loop {
        let read = match tokio::time::timeout(PATIENCE, read(&mut stream, &mut input)).await {
            Ok(Ok(Some(read))) => read,
            Ok(Err(status)) => {
                let refusal = Answer::text(status, format!("{}\n", refusal::reason(status)));
                let _ = tokio::time::timeout(PATIENCE, write(&mut stream, &refusal, false, false)).await;
                return;
            }
            Ok(Ok(None)) | Err(_) => return,
        };
        let (request, keep_alive) = read;
        let is_head = request.method == "HEAD";
        seat.is_asking.store(true, Ordering::Relaxed);
        let answer = answer(request).await;
        seat.is_asking.store(false, Ordering::Relaxed);
        let written = tokio::time::timeout(PATIENCE, write(&mut stream, &answer, keep_alive, is_head)).await;
        if !keep_alive || !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

/// One request; `None` at the end of the stream, a status where the request is refused.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, input: &mut Vec<u8>) -> Result<Option<(Request, bool)>, u16> {
    let mut head = RequestHead::new();
    loop {
        match head.parse(input, &LIMITS) {
            Ok(Progress::Complete) => break,
            Ok(Progress::Partial) => {}
            Err(HeadError::TargetTooLong) => return Err(414),
            Err(HeadError::HeadTooLarge | HeadError::TooManyHeaders) => return Err(431),
            Err(_) => return Err(400),
        }
        if stream.read_buf(input).await.unwrap_or(0) == 0 {
            return Ok(None);
        }
    }
    let framing = request_framing(&head, input).map_err(|_| 400u16)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut request = Request {
        method: text(head.method.of(input)),
        target: text(head.target.of(input)),
        headers: head.fields.iter().map(|field| (text(field.name.of(input)), text(field.value.of(input)))).collect(),
        body: Vec::new(),
    };
    input.drain(..head.bytes);
    if framing.expect_continue && framing.body != BodyFraming::None {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(|_| 400u16)?;
    }
    let is_whole = match framing.body {
        BodyFraming::None | BodyFraming::UntilClose => true,
        BodyFraming::Length(length) if length > BODY_MAX => return Err(413),
        BodyFraming::Length(length) => {
            while (input.len() as u64) < length && stream.read_buf(input).await.unwrap_or(0) > 0 {}
            let is_whole = input.len() as u64 >= length;
            request.body = input.drain(..(length as usize).min(input.len())).collect();
            is_whole
        }
        BodyFraming::Chunked => read_chunks(stream, input, &mut request.body).await?,
    };
    Ok(is_whole.then_some((request, framing.keep_alive)))
}

async fn read_chunks<S: AsyncRead + Unpin>(stream: &mut S, input: &mut Vec<u8>, body: &mut Vec<u8>) -> Result<bool, u16> {
    let mut decoder = ChunkedDecoder::new(TRAILERS);
    loop {
        match decoder.next(input).map_err(|_| 400u16)? {
            ChunkStep::Data { consumed, data } => {
                body.extend_from_slice(&input[consumed..consumed + data]);
                input.drain(..consumed + data);
                if body.len() as u64 > BODY_MAX {
                    return Err(413);
                }
            }
            ChunkStep::More { consumed } => {
                input.drain(..consumed);
                if stream.read_buf(input).await.unwrap_or(0) == 0 {
                    return Ok(false);
                }
            }
            ChunkStep::End { consumed, .. } => {
                input.drain(..consumed);
                return Ok(true);
            }
        }
    }
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, answer: &Answer, keep_alive: bool, is_head: bool) -> io::Result<()> {
    let connection = if keep_alive { "" } else { "Connection: close\r\n" };
    let mut out = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\n{}Content-Length: {}\r\n{connection}\r\n",
        answer.status,
        refusal::reason(answer.status),
        answer.content_type,
        answer.fields,
        answer.body.len(),
    )
    .into_bytes();
    if !is_head {
        out.extend_from_slice(&answer.body);
    }
    stream.write_all(&out).await?;
    stream.flush().await
}
