//! From an endpoint to a connection: dialling, and keeping what can be used again.
//!
//! Belongs to one worker: nothing here is shared between threads. Knows no HTTP.

mod idle;
mod wire;

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

pub use idle::{Idle, SWEEP_EVERY};
pub use wire::{Socket, Stream, Wire};

use crate::tls::{Failure, Peer};
use crate::upstream::limits::Seat;
use crate::value::Address;

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    TimedOut(Step),
    Failed(io::Error),
    /// There was one, but no TLS over it.
    Tls(Failure),
}

/// How far a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Connect,
    Handshake,
}

/// How a connection begins.
pub struct Opening<'a> {
    /// Sent before anything else, TLS included: a PROXY header. Empty for none.
    pub greeting: &'a [u8],
    /// Offered inside TLS instead of what the endpoint's TLS offers.
    pub alpn: Option<Vec<Vec<u8>>>,
    pub timeout: Duration,
    /// The connection's place, where the pool limits them.
    pub seat: Option<Seat>,
}

/// Opens a connection in time, TLS included. A name is resolved each time; every address it has is tried
/// in the resolver's order.
pub async fn dial(address: &Address, tls: Option<&Peer>, opening: Opening<'_>) -> Result<Wire, DialError> {
    let deadline = Instant::now() + opening.timeout;
    let connecting = async {
        let mut socket = Socket::new(connect(address).await?, opening.seat);
        if !opening.greeting.is_empty() {
            socket.write_all(opening.greeting).await?;
        }
        Ok(socket)
    };
    let socket = match timeout_at(deadline, connecting).await {
        Ok(connected) => connected.map_err(DialError::Failed)?,
        Err(_) => return Err(DialError::TimedOut(Step::Connect)),
    };
    let Some(peer) = tls else { return Ok(Wire::Plain(socket)) };
    // On the heap, since it is large and soon over.
    let connector = TlsConnector::from(peer.config());
    let handshake = Box::pin(match opening.alpn {
        Some(alpn) => connector.with_alpn(alpn).connect(peer.name(), socket),
        None => connector.connect(peer.name(), socket),
    });
    match timeout_at(deadline, handshake).await {
        Ok(Ok(stream)) => Ok(Wire::Tls(Box::new(stream.into()))),
        Ok(Err(error)) => Err(DialError::Tls(Failure::of_handshake(&error))),
        Err(_) => Err(DialError::TimedOut(Step::Handshake)),
    }
}

async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Tcp(address) => tcp(TcpStream::connect(address).await?),
        Address::Name(host, port) => tcp(TcpStream::connect((host.as_str(), *port)).await?),
        Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
    }
}

fn tcp(stream: TcpStream) -> io::Result<Stream> {
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}
