//! From an endpoint to a connection: dialling, and keeping what can be used again.
//!
//! Belongs to one worker: nothing here is shared between threads. Knows no HTTP.

mod idle;
mod wire;

use std::io;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

pub use idle::{Idle, SWEEP_EVERY};
pub use wire::{Socket, Wire};

use crate::value::Address;

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    TimedOut,
    Failed(io::Error),
}

/// Opens a connection within `timeout`. A name is resolved each time; every address it has is tried
/// in the resolver's order.
pub async fn dial(address: &Address, timeout: Duration) -> Result<Wire, DialError> {
    let connecting = async {
        match address {
            Address::Tcp(address) => tcp(TcpStream::connect(address).await?),
            Address::Name(host, port) => tcp(TcpStream::connect((host.as_str(), *port)).await?),
            Address::Unix(path) => Ok(Wire::Plain(Socket::Unix(UnixStream::connect(path).await?))),
        }
    };
    match tokio::time::timeout(timeout, connecting).await {
        Ok(Ok(wire)) => Ok(wire),
        Ok(Err(error)) => Err(DialError::Failed(error)),
        Err(_) => Err(DialError::TimedOut),
    }
}

fn tcp(stream: TcpStream) -> io::Result<Wire> {
    stream.set_nodelay(true)?;
    Ok(Wire::Plain(Socket::Tcp(stream)))
}
