//! A bound socket that an adapter hears by.
//!
//! Bound by the supervisor, which keeps it as long as its address is wanted. Whoever hears by it clones it into a runtime of its own and
//! lets go of the clone when told to follow something else, so that what waits in it is heard by the next one.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};

/// Non-blocking; streams listen already.
#[derive(Debug)]
pub enum Ear {
    Udp(UdpSocket),
    Tcp(TcpListener),
    UnixDatagram(UnixDatagram),
    UnixStream(UnixListener),
}

impl Ear {
    /// Another handle of the same socket.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn share(&self) -> io::Result<Self> {
        match self {
            Self::Udp(socket) => socket.try_clone().map(Self::Udp),
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::UnixDatagram(socket) => socket.try_clone().map(Self::UnixDatagram),
            Self::UnixStream(socket) => socket.try_clone().map(Self::UnixStream),
        }
    }
}
