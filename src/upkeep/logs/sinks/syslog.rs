//! Records as messages of syslog: RFC 5424, over UDP (RFC 5426), TCP (RFC 6587), TLS (RFC 5425) and unix sockets.
//!
//! Keeps no stream: syslog has no acknowledgement but that who was told everything closes, so each batch has a connection of its own.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UdpSocket, UnixDatagram, lookup_host};
use tokio::time::timeout;

use crate::dial::Wire;
use crate::proto::logs::write_syslog;
use crate::services::logs::{Batch, Flow, Telling, Transport};
use crate::tls::Peer;
use crate::upkeep::probe::line::Line;
use crate::upstream::health::Reason;
use crate::value::Address;

/// Who is told.
pub(in crate::upkeep::logs) struct Told {
    telling: Telling,
    peer: Option<Peer>,
    host: String,
    /// Of datagrams, kept while it works.
    socket: Option<Socket>,
}

enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

/// A batch as messages.
pub(super) struct Messages {
    bytes: Vec<u8>,
    /// Where each datagram ends; a stream is sent as a whole.
    ends: Vec<usize>,
    /// So many datagrams were sent.
    sent: usize,
}

/// UDP takes no more at once, headers included.
const DATAGRAM_BYTES_MAX: usize = 65_000;

impl Told {
    pub(super) fn new(telling: &Telling, peer: Option<&Peer>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { telling: telling.clone(), peer: peer.cloned(), host, socket: None }
    }

    pub(super) fn is_stream(&self) -> bool {
        self.telling.transport != Transport::Datagrams
    }

    pub(super) fn messages(&self, batch: &Batch, flow: &Flow) -> Messages {
        let mut messages = Messages { bytes: Vec::with_capacity(batch.bytes().len() * 2), ends: Vec::new(), sent: 0 };
        let mut message = Vec::new();
        for record in batch.records() {
            message.clear();
            write_syslog(record, &self.host, &flow.name, &mut message);
            if self.is_stream() {
                messages.bytes.extend_from_slice(format!("{} ", message.len()).as_bytes());
            } else if message.len() > DATAGRAM_BYTES_MAX {
                flow.metrics.cut();
                message.truncate(DATAGRAM_BYTES_MAX);
                // Not within a character.
                message.truncate(message.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len()));
            }
            messages.bytes.extend_from_slice(&message);
            messages.ends.push(messages.bytes.len());
        }
        messages
    }

    pub(super) async fn tell(&mut self, messages: &mut Messages, flow: &Flow) -> Result<(), Reason> {
        if self.is_stream() {
            return self.stream(&messages.bytes).await;
        }
        let told = timeout(self.telling.timeout, self.datagrams(messages, flow)).await;
        let told = told.unwrap_or_else(|_| Err(Reason::new(format!("it takes no datagrams within {:?}", self.telling.timeout))));
        if told.is_err() {
            self.socket = None;
        }
        told
    }

    /// Whoever has read everything closes. One that does not within the time has been told all the same, as far as anybody knows.
    async fn stream(&self, bytes: &[u8]) -> Result<(), Reason> {
        let line = Line::to(self.telling.address.clone(), self.peer.as_ref(), self.telling.timeout);
        let mut wire = line.open(Some(&[])).await?;
        let failed = |error: io::Error| Reason::new(format!("cannot send: {error}"));
        line.in_time(async {
            wire.write_all(bytes).await.map_err(failed)?;
            wire.flush().await.map_err(failed)?;
            wire.shutdown().await.map_err(failed)
        })
        .await?;
        timeout(self.telling.timeout, closed(&mut wire))
            .await
            .unwrap_or(Ok(()))
            .map_err(|error| Reason::new(format!("it did not read all: {error}")))
    }

    async fn datagrams(&mut self, messages: &mut Messages, flow: &Flow) -> Result<(), Reason> {
        let failed = |error: io::Error| Reason::new(format!("cannot send: {error}"));
        if self.socket.is_none() {
            self.socket = Some(connect(&self.telling.address).await.map_err(|error| Reason::new(format!("cannot connect: {error}")))?);
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        while let Some(&end) = messages.ends.get(messages.sent) {
            let start = messages.sent.checked_sub(1).map_or(0, |before| messages.ends[before]);
            match socket.send(&messages.bytes[start..end]).await {
                Ok(()) => messages.sent += 1,
                // It will never be shorter.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::MSGSIZE) => {
                    flow.metrics.dropped(1);
                    tracing::warn!(log = flow.name, bytes = end - start, "a record is too long for a datagram; it is dropped");
                    messages.sent += 1;
                }
                Err(error) => {
                    // Of UDP this is what became of the one before.
                    if matches!(socket, Socket::Udp(_)) && error.kind() == io::ErrorKind::ConnectionRefused {
                        messages.sent = messages.sent.saturating_sub(1);
                    }
                    return Err(failed(error));
                }
            }
        }
        Ok(())
    }
}

async fn closed(wire: &mut Wire) -> io::Result<()> {
    let mut room = [0; 1024];
    loop {
        match wire.read(&mut room).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // Without a goodbye of TLS it is an end all the same: nothing is read here.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

impl Socket {
    async fn send(&self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(message).await.map(drop),
            Self::Unix(socket) => socket.send(message).await.map(drop),
        }
    }
}

/// A name is resolved each time.
async fn connect(address: &Address) -> io::Result<Socket> {
    let resolved = match address {
        Address::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            return Ok(Socket::Unix(socket));
        }
        Address::Tcp(address) => *address,
        Address::Name(host, port) => {
            lookup_host((host.as_str(), *port)).await?.next().ok_or_else(|| io::Error::other(format!("`{host}` has no address")))?
        }
    };
    let socket = if resolved.is_ipv4() {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?
    } else {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await?
    };
    socket.connect(resolved).await?;
    Ok(Socket::Udp(socket))
}
