//! Asks at a fixed rate, however slowly answers come: the load of the fixed-rate case.
//!
//! Open loop: a request is due at its time, and waits for a free connection if need be; its latency counts from when it
//! was due. Sleeps between requests instead of spinning, since the origin shares its core.
//!
//! `paced ADDRESS PATH RATE CONNECTIONS SECONDS` prints JSON.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

mod answer;

/// How long answers may still come after the last request.
const PATIENCE: Duration = Duration::from_secs(2);
/// A sent request that is later than this says that the generator itself was too slow.
const LATE: Duration = Duration::from_millis(1);

/// What one connection waits for.
#[derive(Default)]
struct Exchange {
    /// When the request was due; none while the connection is idle.
    due: Option<Instant>,
    received: Vec<u8>,
}

struct Load<'s> {
    streams: &'s [TcpStream],
    request: Vec<u8>,
    exchanges: Vec<Exchange>,
    idle: VecDeque<usize>,
    /// Requests that are due while every connection is busy.
    waiting: VecDeque<Instant>,
    latencies_us: Vec<u64>,
    late: u64,
}

impl Load<'_> {
    fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.idle.len() == self.streams.len()
    }

    fn start(&mut self, due: Instant) -> io::Result<()> {
        let Some(at) = self.idle.pop_front() else {
            self.waiting.push_back(due);
            return Ok(());
        };
        self.late += u64::from(due.elapsed() > LATE);
        self.exchanges[at].due = Some(due);
        // A request fits into any socket's empty buffer.
        (&self.streams[at]).write_all(&self.request)
    }

    fn read(&mut self, at: usize) -> io::Result<()> {
        let exchange = &mut self.exchanges[at];
        let mut buffer = [0; 4096];
        let count = (&self.streams[at]).read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        exchange.received.extend_from_slice(&buffer[..count]);
        if answer::length(&exchange.received)?.is_none_or(|length| exchange.received.len() < length) {
            return Ok(());
        }
        exchange.received.clear();
        let due = exchange.due.take().ok_or_else(|| io::Error::other("an answer to no request"))?;
        self.latencies_us.push(due.elapsed().as_micros() as u64);
        self.idle.push_back(at);
        match self.waiting.pop_front() {
            Some(due) => self.start(due),
            None => Ok(()),
        }
    }
}

/// Asks until `end`; what is not answered `PATIENCE` later never will be.
fn run(load: &mut Load<'_>, interval: Duration, end: Instant) -> io::Result<()> {
    let streams = load.streams;
    let mut fds: Vec<PollFd<'_>> = streams.iter().map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
    let mut next = Instant::now();
    loop {
        while next <= Instant::now() && next < end {
            load.start(next)?;
            next += interval;
        }
        let deadline = if next < end { next } else { end + PATIENCE };
        let left = deadline.saturating_duration_since(Instant::now());
        if next >= end && (load.is_over() || left.is_zero()) {
            return Ok(());
        }
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        poll(&mut fds, Some(&left))?;
        for (at, fd) in fds.iter().enumerate() {
            if !fd.revents().is_empty() {
                load.read(at)?;
            }
        }
    }
}

fn percentile(sorted: &[u64], share: f64) -> Option<u64> {
    sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1))).copied()
}

fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: paced ADDRESS PATH RATE CONNECTIONS SECONDS");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, path, rate, connections, seconds] = &args[..] else { return Err(usage()) };
    let rate: f64 = rate.parse().map_err(|_| usage())?;
    let connections: usize = connections.parse().map_err(|_| usage())?;
    let time = Duration::from_secs_f64(seconds.parse().map_err(|_| usage())?);

    // The kernel may otherwise wake a sleeper 50 µs late.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let streams = (0..connections).map(|_| TcpStream::connect(address)).collect::<io::Result<Vec<_>>>()?;
    for stream in &streams {
        stream.set_nodelay(true)?;
    }
    let mut load = Load {
        streams: &streams,
        request: format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes(),
        exchanges: streams.iter().map(|_| Exchange::default()).collect(),
        idle: (0..connections).collect(),
        waiting: VecDeque::new(),
        latencies_us: Vec::new(),
        late: 0,
    };
    let interval = Duration::from_secs_f64(1.0 / rate);
    // Each connection's first request pays for what is opened and allocated only once.
    run(&mut load, interval, Instant::now() + interval * 2 * connections as u32)?;
    load.latencies_us.clear();
    load.late = 0;
    let start = Instant::now();
    let outcome = run(&mut load, interval, start + time);
    let seconds = start.elapsed().as_secs_f64();

    let unanswered = load.waiting.len() + (connections - load.idle.len());
    load.latencies_us.sort_unstable();
    let line = serde_json::json!({
        "requests": load.latencies_us.len(),
        "errors": unanswered as u64 + u64::from(outcome.is_err()),
        "error": outcome.err().map(|error| error.to_string()),
        "late": load.late,
        "seconds": seconds,
        "p50_us": percentile(&load.latencies_us, 0.50),
        "p99_us": percentile(&load.latencies_us, 0.99),
        "p999_us": percentile(&load.latencies_us, 0.999),
    });
    writeln!(io::stdout(), "{line}")
}
