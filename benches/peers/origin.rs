//! The program behind every proxy: answers at once, and costs so little that the proxies are what limits a run.
//!
//! One thread. `/bytes/N` answers N bytes, every other path 100; a request's body is read and forgotten. A request to upgrade is
//! granted, and what follows is sent back as it came. Trusts its clients: it knows no chunks, no pipelining and no bad requests.
//!
//! `origin LISTEN [DELAY_MS]`, such as `origin 127.0.0.1:8000`. With a delay, each answer comes that much later, and says how many
//! there have been.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

const SMALL: usize = 100;
const BYTES_MAX: usize = 1 << 20;
const BACKLOG: i32 = 4096;

struct Connection {
    stream: TcpStream,
    /// A head that is not complete yet.
    head: Vec<u8>,
    /// Bytes of the request's body still to come.
    body_left: usize,
    answer: Option<Answer>,
    /// After a 101.
    is_echo: bool,
    /// When the answer may go out; none at once.
    due: Option<Instant>,
}

/// Answers that wait, in the order in which they are due, since all wait for as long.
struct Delays {
    delay: Duration,
    waiting: VecDeque<(Instant, RawFd)>,
    count: u64,
}

/// What is being written.
struct Answer {
    head: Vec<u8>,
    body: usize,
    written: usize,
    is_last: bool,
}

impl Answer {
    fn switching() -> Self {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n".to_vec();
        Self { head, body: 0, written: 0, is_last: false }
    }

    fn to(head: &[u8], delays: Option<&Delays>) -> Self {
        let head = String::from_utf8_lossy(head);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let asked = path.strip_prefix("/bytes/").and_then(|count| count.parse().ok());
        let body = asked.unwrap_or(SMALL).min(BYTES_MAX);
        let is_last = field(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let close = if is_last { "Connection: close\r\n" } else { "" };
        let count = delays.map(|delays| format!("X-Count: {}\r\n", delays.count)).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: {body}\r\n{count}{close}\r\n"
        );
        Self { head: head.into_bytes(), body, written: 0, is_last }
    }
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let value = |line: &'h str| {
        let (have, value) = line.split_once(':')?;
        have.eq_ignore_ascii_case(name).then(|| value.trim())
    };
    head.lines().find_map(value)
}

fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: origin LISTEN [DELAY_MS]");
    let mut args = std::env::args().skip(1);
    let listen = args.next().ok_or_else(usage)?;
    let delay = args.next().map(|text| text.parse().map(Duration::from_millis)).transpose().map_err(|_| usage())?;
    let mut delays = delay.map(|delay| Delays { delay, waiting: VecDeque::new(), count: 0 });
    if delays.is_some() {
        // The kernel may otherwise wake a sleeper 50 µs late.
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    }
    let listener = TcpListener::bind(listen)?;
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let listening = listener.as_raw_fd();
    epoll::add(&poll, &listener, EventData::new_u64(listening as u64), EventFlags::IN)?;
    let mut connections: HashMap<RawFd, Connection> = HashMap::new();
    let mut buffer = vec![0; 64 << 10];
    let body: Vec<u8> = (0..BYTES_MAX).map(|at| b'0' + (at % 10) as u8).collect();
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        let left = delays.as_ref().and_then(Delays::left);
        let left = left.map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) });
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), left.as_ref()) {
            // A tracer stopped us for a moment.
            Err(rustix::io::Errno::INTR) => continue,
            outcome => outcome?,
        };
        for event in &events {
            let fd = event.data.u64() as RawFd;
            if fd == listening {
                while let Ok((stream, _)) = listener.accept() {
                    accept(&poll, &mut connections, stream)?;
                }
            } else if let Some(connection) = connections.get_mut(&fd) {
                let outcome = connection.work(&mut buffer, &body, &mut delays);
                end_if_over(&mut connections, fd, &outcome);
            }
        }
        while let Some(fd) = delays.as_mut().and_then(Delays::next_due) {
            let Some(connection) = connections.get_mut(&fd) else { continue };
            connection.due = None;
            let outcome = connection.work(&mut buffer, &body, &mut delays);
            end_if_over(&mut connections, fd, &outcome);
        }
    }
}

fn end_if_over(connections: &mut HashMap<RawFd, Connection>, fd: RawFd, outcome: &io::Result<bool>) {
    match outcome {
        Ok(true) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        // Dropping the stream takes it out of the epoll set.
        _ => drop(connections.remove(&fd)),
    }
}

impl Delays {
    fn begin(&mut self, fd: RawFd) -> Instant {
        let due = Instant::now() + self.delay;
        self.waiting.push_back((due, fd));
        self.count += 1;
        due
    }

    fn left(&self) -> Option<Duration> {
        self.waiting.front().map(|(due, _)| due.saturating_duration_since(Instant::now()))
    }

    fn next_due(&mut self) -> Option<RawFd> {
        let &(due, fd) = self.waiting.front()?;
        (due <= Instant::now()).then(|| self.waiting.pop_front())?;
        Some(fd)
    }
}

fn accept(poll: impl AsFd, connections: &mut HashMap<RawFd, Connection>, stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let fd = stream.as_raw_fd();
    epoll::add(poll, &stream, EventData::new_u64(fd as u64), EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
    connections.insert(fd, Connection { stream, head: Vec::new(), body_left: 0, answer: None, is_echo: false, due: None });
    Ok(())
}

impl Connection {
    /// Answers and reads until there is nothing more to do, which is `WouldBlock` or `true`; `false` ends the connection.
    fn work(&mut self, buffer: &mut [u8], body: &[u8], delays: &mut Option<Delays>) -> io::Result<bool> {
        let mut is_emptied = false;
        loop {
            if self.body_left == 0 && self.due.is_none() && !self.write(body)? {
                return Ok(false);
            }
            if is_emptied {
                return Ok(true);
            }
            let count = self.stream.read(buffer)?;
            if count == 0 {
                return Ok(false);
            }
            if self.is_echo {
                // Small messages fit into any socket's empty buffer.
                self.stream.write_all(&buffer[..count])?;
            } else {
                self.take(&buffer[..count], delays)?;
            }
            // Edge-triggered epoll says when there is more.
            is_emptied = count < buffer.len();
        }
    }

    fn take(&mut self, mut received: &[u8], delays: &mut Option<Delays>) -> io::Result<()> {
        if self.answer.is_none() {
            let before = self.head.len();
            self.head.extend_from_slice(received);
            let Some(end) = memchr::memmem::find(&self.head, b"\r\n\r\n") else { return Ok(()) };
            let end = end + 4;
            received = &received[end - before..];
            self.head.truncate(end);
            let text = String::from_utf8_lossy(&self.head);
            self.body_left = field(&text, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
            self.is_echo = field(&text, "upgrade").is_some();
            self.due = delays.as_mut().map(|delays| delays.begin(self.stream.as_raw_fd()));
            self.answer = Some(if self.is_echo { Answer::switching() } else { Answer::to(&self.head, delays.as_ref()) });
            self.head.clear();
        }
        self.body_left = self.body_left.checked_sub(received.len()).ok_or_else(|| io::Error::other("more than one request at once"))?;
        Ok(())
    }

    /// Writes the answer, if there is one. Whether the connection goes on.
    fn write(&mut self, body: &[u8]) -> io::Result<bool> {
        let Some(answer) = &mut self.answer else { return Ok(true) };
        let length = answer.head.len() + answer.body;
        while answer.written < length {
            let head = &answer.head[answer.written.min(answer.head.len())..];
            let body = &body[answer.written.saturating_sub(answer.head.len())..answer.body];
            answer.written += self.stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
        }
        let is_last = answer.is_last;
        self.answer = None;
        Ok(!is_last)
    }
}
