//! Asks the admin API of a running attache, or whether some other program is well; for the command line.
//!
//! One request, one connection, blocking, with a deadline for all of it. Follows no redirect and speaks no TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::proto::http1::{BodyFraming, Limits, Progress, ResponseHead, response_framing};
use crate::value::Address;

const LIMITS: Limits = Limits { header_bytes: 64 << 10, headers: 100, uri_bytes: 0 };
const BODY_MAX: u64 = 64 << 20;
/// Interim answers before the one that counts.
const INTERIM_MAX: u32 = 32;

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Sends `method target` and reads the whole answer, within `timeout`. The admin API frames its answers by length.
pub fn ask(address: &Address, method: &str, target: &str, timeout: Duration) -> io::Result<Answer> {
    let host = match address {
        Address::Unix(_) => "localhost".to_owned(),
        address => address.to_string(),
    };
    over(address, Instant::now() + timeout, |stream| {
        send(stream, &host, method, target)?;
        let mut bytes = Vec::new();
        let mut head = ResponseHead::new();
        read_head(stream, &mut bytes, &mut head)?;
        let framing = response_framing(&head, &bytes, method == "HEAD").map_err(|_| broken())?;
        let mut body = bytes.split_off(head.bytes);
        stream.take(BODY_MAX).read_to_end(&mut body)?;
        match framing.body {
            BodyFraming::Length(length) if (body.len() as u64) < length => Err(io::ErrorKind::UnexpectedEof.into()),
            BodyFraming::Chunked => Err(broken()),
            _ => Ok(Answer { status: head.status, body }),
        }
    })
}

/// Sends `GET target` and reads the status of the answer, within `timeout`; however its body is framed, none of it is waited
/// for. `host` is what the program takes itself for.
pub fn status(address: &Address, host: &str, target: &str, timeout: Duration) -> io::Result<u16> {
    over(address, Instant::now() + timeout, |stream| {
        send(stream, host, "GET", target)?;
        let mut bytes = Vec::new();
        let mut head = ResponseHead::new();
        for _ in 0..=INTERIM_MAX {
            read_head(stream, &mut bytes, &mut head)?;
            if !(100..200).contains(&head.status) {
                return Ok(head.status);
            }
            bytes.drain(..head.bytes);
            head.clear();
        }
        Err(broken())
    })
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP/1.1; is this the right address?")
}

fn late(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

fn send(stream: &mut impl Write, host: &str, method: &str, target: &str) -> io::Result<()> {
    let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
    // Whole, so that one segment holds it.
    stream.write_all(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{length}Connection: close\r\n\r\n").as_bytes())
}

/// Reads until a head is whole. What came behind it is in `bytes` too.
fn read_head(stream: &mut impl Read, bytes: &mut Vec<u8>, head: &mut ResponseHead) -> io::Result<()> {
    loop {
        match head.parse(bytes, &LIMITS) {
            Ok(Progress::Complete) => return Ok(()),
            Ok(Progress::Partial) => {}
            Err(_) => return Err(broken()),
        }
        let mut piece = [0; 4 << 10];
        match stream.read(&mut piece)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer")),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// A connection and the end of all patience with it.
struct Limited {
    socket: Socket,
    deadline: Instant,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Limited {
    fn limit(&self) -> io::Result<()> {
        let left = Some(remaining(self.deadline)?);
        match &self.socket {
            Socket::Tcp(stream) => stream.set_read_timeout(left).and_then(|()| stream.set_write_timeout(left)),
            Socket::Unix(stream) => stream.set_read_timeout(left).and_then(|()| stream.set_write_timeout(left)),
        }
    }
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.limit()?;
        let read = match &mut self.socket {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        };
        read.map_err(in_time)
    }
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit()?;
        let written = match &mut self.socket {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        };
        written.map_err(in_time)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket whose time is over says that it would block.
fn in_time(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { late("no answer in time") } else { error }
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late("no answer in time")) } else { Ok(left) }
}

/// Talks over a connection; where a name has several addresses, over the first that can be talked with.
fn over<T>(address: &Address, deadline: Instant, talk: impl Fn(&mut Limited) -> io::Result<T>) -> io::Result<T> {
    let over_tcp = |tcp: &SocketAddr, patience: Duration| {
        let socket = Socket::Tcp(TcpStream::connect_timeout(tcp, patience)?);
        talk(&mut Limited { socket, deadline })
    };
    match address {
        Address::Tcp(tcp) => over_tcp(tcp, remaining(deadline)?),
        Address::Unix(path) => talk(&mut Limited { socket: Socket::Unix(UnixStream::connect(path)?), deadline }),
        Address::Name(host, port) => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            let found = look_up(host, *port, deadline)?;
            for (tcp, left) in found.iter().zip((1..=found.len()).rev()) {
                // One that swallows everything leaves time for the others.
                let share = remaining(deadline)? / u32::try_from(left).unwrap_or(u32::MAX);
                match over_tcp(tcp, share) {
                    Err(error) => last = error,
                    talked => return talked,
                }
            }
            Err(last)
        }
    }
}

/// On a thread of its own, since the system's resolver has a patience of its own too, and a long one.
fn look_up(host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    let (tell, told) = mpsc::sync_channel(1);
    let host = host.to_owned();
    std::thread::Builder::new().name("look-up".to_owned()).spawn(move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // Nobody may be waiting any more.
        let _ = tell.send(found);
    })?;
    told.recv_timeout(remaining(deadline)?).unwrap_or_else(|_| Err(late("the name was not looked up in time")))
}
