//! The physical floor: an epoll loop that copies bytes and parses nothing.
//!
//! One thread, one endpoint connection per client connection. Not a proxy: it is what a proxy's
//! CPU time per request is compared with.
//!
//! `null_relay LISTEN ENDPOINT`, such as `null_relay 127.0.0.1:8081 127.0.0.1:8000`.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// Many clients of the bench connect at once.
const BACKLOG: i32 = 4096;

struct Half {
    stream: TcpStream,
    other: RawFd,
    /// Read and not yet written to the other side.
    pending: Vec<u8>,
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(listen), Some(endpoint)) = (args.next(), args.next()) else {
        return Err(io::Error::other("usage: null_relay LISTEN ENDPOINT"));
    };
    let listener = TcpListener::bind(listen)?;
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let listening = listener.as_raw_fd();
    epoll::add(&poll, &listener, EventData::new_u64(listening as u64), EventFlags::IN)?;
    let mut halves: HashMap<RawFd, Half> = HashMap::new();
    let mut buffer = vec![0u8; 64 << 10];
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            // A tracer stopped us for a moment.
            Err(rustix::io::Errno::INTR) => continue,
            outcome => outcome?,
        };
        for event in &events {
            let fd = event.data.u64() as RawFd;
            if fd == listening {
                while let Ok((client, _)) = listener.accept() {
                    open(&poll, &mut halves, client, &endpoint)?;
                }
            } else if relay(&mut halves, fd, &mut buffer).is_err() {
                // Dropping a stream takes it out of the epoll set.
                if let Some(half) = halves.remove(&fd) {
                    halves.remove(&half.other);
                }
            }
        }
    }
}

fn open(poll: &impl std::os::fd::AsFd, halves: &mut HashMap<RawFd, Half>, client: TcpStream, endpoint: &str) -> io::Result<()> {
    let server = TcpStream::connect(endpoint)?;
    let fds = (client.as_raw_fd(), server.as_raw_fd());
    for (stream, other) in [(client, fds.1), (server, fds.0)] {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let fd = stream.as_raw_fd();
        epoll::add(poll, &stream, EventData::new_u64(fd as u64), EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
        halves.insert(fd, Half { stream, other, pending: Vec::new() });
    }
    Ok(())
}

/// Moves what can be moved from `fd` to its other side, and what waited to be written to `fd`.
fn relay(halves: &mut HashMap<RawFd, Half>, fd: RawFd, buffer: &mut [u8]) -> io::Result<()> {
    let other = halves.get(&fd).ok_or(io::ErrorKind::NotFound)?.other;
    for (from, to) in [(fd, other), (other, fd)] {
        let mut pending = std::mem::take(&mut halves.get_mut(&from).ok_or(io::ErrorKind::NotFound)?.pending);
        let sink = &mut halves.get_mut(&to).ok_or(io::ErrorKind::NotFound)?.stream;
        // Nobody will say once more that there is something to read.
        let was_stuck = !pending.is_empty();
        if !write(sink, &mut pending)? {
            halves.get_mut(&from).ok_or(io::ErrorKind::NotFound)?.pending = pending;
            continue;
        }
        if from != fd && !was_stuck {
            continue;
        }
        loop {
            let count = match halves.get_mut(&from).ok_or(io::ErrorKind::NotFound)?.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let sink = &mut halves.get_mut(&to).ok_or(io::ErrorKind::NotFound)?.stream;
            let written = match sink.write(&buffer[..count]) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            if written < count {
                halves.get_mut(&from).ok_or(io::ErrorKind::NotFound)?.pending = buffer[written..count].to_vec();
                break;
            }
            // A short read emptied the socket; edge-triggered epoll says when there is more.
            if count < buffer.len() {
                break;
            }
        }
    }
    Ok(())
}

/// Whether all of it could be written.
fn write(sink: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<bool> {
    while !pending.is_empty() {
        match sink.write(pending) {
            Ok(count) => drop(pending.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
