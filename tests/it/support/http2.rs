//! HTTP/2 clients: the `h2` crate's for what clients do, and raw frames for what they should not.

use std::future::{Future, poll_fn};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::task::JoinHandle;

use super::PATIENCE;

/// Runs one test's clients, for no longer than anything may take.
#[track_caller]
pub fn run<F: Future>(clients: F) -> F::Output {
    run_for(PATIENCE, clients)
}

#[track_caller]
pub fn run_for<F: Future>(patience: Duration, clients: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    let done = tasks.block_on(&runtime, async { tokio::time::timeout(patience, clients).await });
    done.expect("the clients came to no end")
}

/// One connection: requests go through `send`; `connection` ends with it.
pub struct Http2 {
    pub send: SendRequest<Bytes>,
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

/// One whole answer.
#[derive(Debug)]
pub struct Answer2 {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Status codes of the answers before it.
    pub interim: Vec<u16>,
}

impl Answer2 {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request to `a.example`, over plain HTTP.
pub fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://a.example{path}")).body(()).unwrap()
}

impl Http2 {
    /// By prior knowledge.
    pub async fn plain(address: SocketAddr) -> Self {
        Self::plain_with(address, &Builder::new()).await
    }

    pub async fn plain_with(address: SocketAddr, builder: &Builder) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, builder).await
    }

    /// By ALPN, believing any certificate.
    pub async fn tls(address: SocketAddr, server_name: &str) -> Self {
        let mut config = (*super::trusting_config(None)).clone();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        // Else each end of a window waits 40 ms for an acknowledgement.
        stream.set_nodelay(true).unwrap();
        let name = rustls::pki_types::ServerName::try_from(server_name.to_owned()).unwrap();
        let stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(stream, &Builder::new()).await
    }

    async fn over(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static, builder: &Builder) -> Self {
        let (send, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
        Self { send, connection: tokio::task::spawn_local(connection) }
    }

    /// Sends a request without a body.
    pub async fn ask(&mut self, request: Request<()>) -> Result<Answer2, h2::Error> {
        self.ask_with(request, &[], None).await
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer2, h2::Error> {
        self.ask(request("GET", path)).await
    }

    /// Sends a request with its body in these pieces, each a frame or more, and trailers.
    pub async fn ask_with(&mut self, request: Request<()>, body: &[&[u8]], trailers: Option<HeaderMap>) -> Result<Answer2, h2::Error> {
        let is_whole = body.is_empty() && trailers.is_none();
        let mut send = self.send.clone().ready().await?;
        let (answer, mut stream) = send.send_request(request, is_whole)?;
        if !is_whole {
            let pieces = body.iter().map(|piece| Bytes::copy_from_slice(piece)).collect::<Vec<_>>();
            tokio::task::spawn_local(async move { send_all(&mut stream, pieces, trailers).await });
        }
        read_answer(answer).await
    }
}

/// Sends a body as the windows allow.
pub async fn send_all(stream: &mut SendStream<Bytes>, pieces: Vec<Bytes>, trailers: Option<HeaderMap>) -> Result<(), h2::Error> {
    let count = pieces.len();
    for (number, mut piece) in pieces.into_iter().enumerate() {
        let is_last = number + 1 == count && trailers.is_none();
        while !piece.is_empty() {
            let room = room(stream, piece.len()).await?;
            let part = piece.split_to(room.min(piece.len()));
            let is_end = is_last && piece.is_empty();
            stream.send_data(part, is_end)?;
        }
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None if count == 0 => stream.send_data(Bytes::new(), true),
        None => Ok(()),
    }
}

/// Waits for a window.
pub async fn room(stream: &mut SendStream<Bytes>, wanted: usize) -> Result<usize, h2::Error> {
    stream.reserve_capacity(wanted);
    poll_fn(|cx| {
        loop {
            if stream.capacity() > 0 {
                return Poll::Ready(Ok(stream.capacity()));
            }
            match std::task::ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(h2::Reason::STREAM_CLOSED.into())),
            }
        }
    })
    .await
}

pub async fn read_answer(answer: h2::client::ResponseFuture) -> Result<Answer2, h2::Error> {
    let mut answer = pin!(answer);
    let mut interim = Vec::new();
    let answer = poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(early))) = answer.poll_informational(cx) {
            interim.push(early.status().as_u16());
        }
        answer.as_mut().poll(cx)
    })
    .await?;
    let (parts, mut body) = answer.into_parts();
    let bytes = read_body(&mut body).await?;
    let trailers = body.trailers().await?;
    Ok(Answer2 { status: parts.status.as_u16(), fields: parts.headers, body: bytes, trailers, interim })
}

async fn read_body(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

// Raw frames.

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Fields as literals that no table remembers (RFC 7541 §6.2.2).
pub fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let string = |text: &str, block: &mut Vec<u8>| {
        // RFC 7541 §5.1, with a prefix of seven bits.
        let mut length = text.len();
        if length < 127 {
            block.push(length as u8);
        } else {
            block.push(127);
            length -= 127;
            while length >= 128 {
                block.push((length % 128 + 128) as u8);
                length /= 128;
            }
            block.push(length as u8);
        }
        block.extend_from_slice(text.as_bytes());
    };
    for (name, value) in fields {
        block.push(0);
        string(name, &mut block);
        string(value, &mut block);
    }
    block
}

/// A request for `path`, as a field block.
pub fn head(path: &str) -> Vec<u8> {
    literals(&[(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "a.example")])
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a reset or a GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap()))
    }
}

/// A client that sends frames as they are.
pub struct Raw {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects and says what every client says first.
    pub fn connect(address: SocketAddr) -> Self {
        let mut raw = Self::silent(address);
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).unwrap();
        raw
    }

    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// As [`Raw::connect`], with a kernel that takes little before it is read.
    pub fn narrow(address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        socket.connect(&address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut raw = Self { stream, buffer: Vec::new() };
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).unwrap();
        raw
    }

    /// The other side: a connection whose client has said what every client says first.
    pub fn accept(mut stream: TcpStream) -> Option<Self> {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).ok()?;
        (preface == PREFACE).then_some(Self { stream, buffer: Vec::new() })
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame; `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let [a, b, c, kind, flags, s1, s2, s3, s4, ..] = self.buffer[..] {
                let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.buffer.len() >= end {
                    let payload = self.buffer[9..end].to_vec();
                    self.buffer.drain(..end);
                    return Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes([s1, s2, s3, s4]), payload }));
                }
            }
            let mut piece = [0; 16 << 10];
            let count = self.stream.read(&mut piece)?;
            if count == 0 {
                return Ok(None);
            }
            self.buffer.extend_from_slice(&piece[..count]);
        }
    }

    /// The next frame for which `wanted` is true; `None` if the connection ends first.
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            match self.next() {
                Ok(Some(frame)) if wanted(&frame) => return Some(frame),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("nothing comes any more"),
                Err(_) => return None,
            }
        }
    }

    /// What a stream is answered with first, other than windows: its frame's kind, and the code of a reset.
    pub fn answer(&mut self, stream: u32) -> Option<Frame> {
        self.until(|frame| (frame.stream == stream && frame.kind != WINDOW_UPDATE) || frame.kind == GOAWAY)
    }
}
