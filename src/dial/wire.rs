//! A byte stream to a peer, whichever side opened it.
//!
//! No buffers of its own: an idle connection is only its socket (and its TLS state).

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use crate::upstream::limits::Seat;

/// A connected socket.
pub struct Socket {
    stream: Stream,
    /// Its place among the connections that a pool may have; free again when the socket closes.
    _seat: Option<Seat>,
}

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub fn new(stream: Stream, seat: Option<Seat>) -> Self {
        Self { stream, _seat: seat }
    }
}

/// A socket, or TLS over one.
pub enum Wire {
    Plain(Socket),
    /// With a client, or with an endpoint. Boxed: TLS state is large and plain connections should not pay for it.
    Tls(Box<TlsStream<Socket>>),
}

impl Socket {
    /// Reads what is there without waiting.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => stream.try_read(buffer),
            Stream::Unix(stream) => stream.try_read(buffer),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => stream.try_write(bytes),
            Stream::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// As [`Socket::try_read`], asking the kernel even if nothing was reported since the last read.
    fn read_now(&self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        let flags = flags | RecvFlags::DONTWAIT;
        let (_, received) = match &self.stream {
            Stream::Tcp(stream) => recv(stream, buffer, flags)?,
            Stream::Unix(stream) => recv(stream, buffer, flags)?,
        };
        Ok(received)
    }
}

impl Wire {
    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether an idle connection to an endpoint may carry another request: silent and open.
    ///
    /// Costs no system call unless the socket was reported readable since it was last read.
    pub fn is_silent(&mut self) -> bool {
        match self {
            Self::Plain(socket) => is_waiting(&socket.try_read(&mut [0])),
            Self::Tls(stream) => is_tls_silent(stream, Socket::try_read),
        }
    }

    /// As [`Wire::is_silent`], asking the kernel in any case: for requests that must not be sent twice.
    pub fn is_silent_for_certain(&mut self) -> bool {
        match self {
            Self::Plain(socket) => is_waiting(&socket.read_now(&mut [0], RecvFlags::PEEK)),
            Self::Tls(stream) => is_tls_silent(stream, |socket, buffer| socket.read_now(buffer, RecvFlags::empty())),
        }
    }

    /// Whether neither bytes nor an end wait to be read, asking the kernel. Reads nothing.
    pub fn has_nothing_to_read(&self) -> bool {
        is_waiting(&self.socket().read_now(&mut [0], RecvFlags::PEEK))
    }

    /// Tells an endpoint that the end is meant (RFC 8446 §6.1), if that can be sent at once.
    pub fn say_goodbye(&mut self) {
        if let Self::Tls(stream) = self
            && let TlsStream::Client(stream) = stream.as_mut()
        {
            let (socket, session) = stream.get_mut();
            session.send_close_notify();
            // An endpoint that is gone does not mind.
            let _ = session.write_tls(&mut AtOnce(socket, Socket::try_read));
        }
    }

    /// Makes closing a reset: for an end that must not be taken for the end of the data, and for a peer
    /// that takes nothing, lest the kernel keep what was meant for it.
    pub fn reset_on_close(&self) {
        if let Stream::Tcp(stream) = &self.socket().stream {
            // A socket that refuses is one that is gone already.
            let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The peer's address and our own, if they have any.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match &self.socket().stream {
            Stream::Tcp(stream) => stream.peer_addr().ok().zip(stream.local_addr().ok()),
            Stream::Unix(_) => None,
        }
    }

    /// The protocol that was agreed on inside TLS.
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// What the peer has shown of itself inside TLS, in DER.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first().map(AsRef::as_ref),
        }
    }

    /// Whether TLS resumed an earlier session; `None` without TLS.
    pub fn is_resumed(&self) -> Option<bool> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)),
        }
    }

    /// Whether the handshake agreed on HTTP/2 (ALPN).
    pub fn has_chosen_http2(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2"))
    }
}

fn is_waiting(read: &io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Reads of an idle TLS connection before it counts as one that talks. An endpoint sends a few tickets, a few hundred bytes
/// each; rustls reads 4 KiB at once.
const IDLE_READS_MAX: usize = 16;

/// What makes a TLS connection readable may be no data: session tickets come when the endpoint likes. Takes those in, so
/// that the next handshake can resume; data or an end is no silence.
fn is_tls_silent(stream: &mut TlsStream<Socket>, read: fn(&Socket, &mut [u8]) -> io::Result<usize>) -> bool {
    let TlsStream::Client(stream) = stream else { return false };
    let (socket, session) = stream.get_mut();
    for _ in 0..IDLE_READS_MAX {
        // First of all, what came with the end of the answer before.
        match session.process_new_packets() {
            Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
            _ => return false,
        }
        match session.read_tls(&mut AtOnce(socket, read)) {
            Ok(count) if count > 0 => {}
            read => return is_waiting(&read),
        }
    }
    false
}

/// A socket for rustls, which reads and writes where nobody can wait.
struct AtOnce<'a>(&'a Socket, fn(&Socket, &mut [u8]) -> io::Result<usize>);

impl io::Read for AtOnce<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1(self.0, buffer)
    }
}

impl io::Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().stream {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
