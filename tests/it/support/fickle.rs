//! An endpoint whose mood a test changes: well, stalling, resetting, failing, gone.
//!
//! One thread for all of its connections, since what is gone must be gone at once. Knows only requests without bodies.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{eventually, free_address};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    Well,
    /// Takes requests and does not answer.
    Stalling,
    /// Takes requests and resets their connections.
    Resetting,
    /// Answers 500.
    Failing,
    /// Resets every connection and does not listen.
    Gone,
}

const MOODS: [Mood; 5] = [Mood::Well, Mood::Stalling, Mood::Resetting, Mood::Failing, Mood::Gone];
/// Not a mood: the test is over.
const OVER: u8 = u8::MAX;
/// How long a change of mood may go unnoticed.
const NOTICES_WITHIN: Duration = Duration::from_millis(10);

pub struct Fickle {
    pub address: SocketAddr,
    /// The body of its answers.
    pub name: String,
    shared: Arc<Shared>,
    living: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    wanted: AtomicU8,
    /// The mood it is in.
    current: AtomicU8,
    asked: AtomicUsize,
    probed: AtomicUsize,
    /// Why it does not live any more.
    failure: Mutex<Option<String>>,
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// What has become whole.
#[derive(Default)]
struct Came {
    requests: usize,
    probes: usize,
}

/// What probes ask for.
const PROBE: &[u8] = b"GET /health ";

impl Fickle {
    pub fn start(name: impl Into<String>) -> Self {
        let (address, name, shared) = (free_address(), name.into(), Arc::<Shared>::default());
        let (living, body) = (Arc::clone(&shared), name.clone());
        let listener = listen(address).unwrap();
        let living = std::thread::spawn(move || {
            if let Err(error) = living.live(address, listener, &body) {
                *living.failure.lock().unwrap() = Some(error.to_string());
            }
        });
        Self { address, name, shared, living: Some(living) }
    }

    /// Changes its mood, and waits until it has.
    #[track_caller]
    pub fn is(&self, mood: Mood) {
        self.shared.wanted.store(mood as u8, SeqCst);
        eventually("its mood changes", || {
            assert_eq!(*self.shared.failure.lock().unwrap(), None, "{} died", self.name);
            self.shared.current.load(SeqCst) == mood as u8
        });
    }

    /// Requests that have come, answered or not. Probes are none.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(SeqCst)
    }

    /// Probes that have come, answered or not.
    pub fn probed(&self) -> usize {
        self.shared.probed.load(SeqCst)
    }
}

impl Drop for Fickle {
    fn drop(&mut self) {
        self.shared.wanted.store(OVER, SeqCst);
        if let Some(living) = self.living.take() {
            let _ = living.join();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // std's queue of 128 makes a crowd wait a second for its second SYN.
    socket2::SockRef::from(&listener).listen(4096)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Shared {
    fn live(&self, address: SocketAddr, first: TcpListener, name: &str) -> io::Result<()> {
        let mut listener = Some(first);
        let mut connections: Vec<Connection> = Vec::new();
        loop {
            let wanted = self.wanted.load(SeqCst);
            let Some(&mood) = MOODS.get(usize::from(wanted)) else { return Ok(()) };
            match &listener {
                Some(_) if mood == Mood::Gone => {
                    listener = None;
                    connections.drain(..).for_each(Connection::reset);
                }
                None if mood != Mood::Gone => listener = Some(listen(address)?),
                _ => {}
            }
            self.current.store(wanted, SeqCst);
            wait(listener.as_ref(), &connections)?;
            while let Some((stream, _)) = listener.as_ref().and_then(|listener| listener.accept().ok()) {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                connections.push(Connection { stream, received: Vec::new() });
            }
            let mut stay = Vec::with_capacity(connections.len());
            for mut connection in connections {
                match connection.requests() {
                    Some(Came { requests, probes }) => {
                        self.asked.fetch_add(requests, SeqCst);
                        self.probed.fetch_add(probes, SeqCst);
                        stay.extend((0..requests + probes).try_fold(connection, |connection, _| connection.answer(mood, name)));
                    }
                    None => drop(connection),
                }
            }
            connections = stay;
        }
    }
}

/// Until something comes, or for a moment.
fn wait(listener: Option<&TcpListener>, connections: &[Connection]) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = connections.iter().map(|connection| PollFd::new(&connection.stream, PollFlags::IN)).collect();
    fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(NOTICES_WITHIN.subsec_nanos()) };
    match poll(&mut fds, Some(&limit)) {
        Err(rustix::io::Errno::INTR) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Connection {
    /// `None` at the connection's end.
    fn requests(&mut self) -> Option<Came> {
        let mut piece = [0; 4096];
        let mut came = Came::default();
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(length) => self.received.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(came),
                Err(_) => return None,
            }
            while let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                let is_probe = self.received.starts_with(PROBE);
                came.probes += usize::from(is_probe);
                came.requests += usize::from(!is_probe);
                self.received.drain(..end + 4);
            }
        }
    }

    /// `None` if that was its end.
    fn answer(mut self, mood: Mood, name: &str) -> Option<Self> {
        let status = match mood {
            Mood::Well => "200 OK",
            Mood::Failing => "500 Internal Server Error",
            Mood::Stalling => return Some(self),
            Mood::Resetting | Mood::Gone => {
                self.reset();
                return None;
            }
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        // So little fits into any socket's buffer.
        self.stream.write_all(answer.as_bytes()).is_ok().then_some(self)
    }

    fn reset(self) {
        // With nothing to linger for, closing is resetting.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}
