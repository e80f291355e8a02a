//! Lines that others bring: standard input, syslog by datagrams and streams.
//!
//! Holds what waits within a bound; while nobody takes it, streams are not read, and of datagrams the kernel drops what it cannot hold.
//! Ends no stream because a log is written otherwise: the next one goes on with it, in the middle of a message if need be.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::{ARRIVED_KIB_MAX, Arrived, What};
use crate::proto::logs::Frames;
use crate::telemetry::metrics::LogMetrics;
use crate::upkeep::Ear;
use crate::value::EarKey;

const DATAGRAM_BYTES_MAX: usize = 64 << 10;
/// Of one socket.
const CONNECTIONS_MAX: usize = 256;
const PAUSE: Duration = Duration::from_millis(100);

/// What a line is from, and where it goes.
#[derive(Clone)]
pub(super) struct Road {
    /// Else it is who sent it.
    pub(super) name: Option<Arc<str>>,
    pub(super) sender: mpsc::Sender<Arrived>,
    /// KiB that may wait.
    pub(super) room: Arc<Semaphore>,
    /// Of a line.
    pub(super) bytes_max: usize,
    /// Lines without anything are brought, too.
    pub(super) keeps_empty: bool,
    pub(super) metrics: Arc<LogMetrics>,
    /// Whether somebody else hears from now on.
    pub(super) stopped: watch::Receiver<bool>,
}

/// A stream that nobody has ended: for who hears by the same socket next.
pub(super) struct Left {
    key: EarKey,
    stream: Stood,
    frames: Frames,
    from: String,
}

/// A stream without a runtime.
enum Stood {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Road {
    /// What comes of this, unless it is over first: nothing is taken from a socket any more then that could not be brought.
    pub(super) async fn unless_stopped<T>(&self, hearing: impl Future<Output = T>) -> Option<T> {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => None,
            heard = hearing => Some(heard),
        }
    }

    /// `false` if nobody takes any more.
    async fn bring(&self, from: &str, stream: u64, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.is_empty() && !self.keeps_empty {
            return true;
        }
        let source = self.name.as_ref().map_or_else(|| from.into(), Arc::clone);
        self.send(source, stream, line.len(), What::Line(line.to_vec())).await
    }

    /// `false` if nobody takes any more. Waits until there is room for so many bytes.
    pub(super) async fn send(&self, source: Arc<str>, stream: u64, length: usize, what: What) -> bool {
        let kib = u32::try_from(length / 1024 + 1).unwrap_or(u32::MAX).min(ARRIVED_KIB_MAX as u32);
        // Nobody closes it.
        let Ok(held) = Arc::clone(&self.room).acquire_many_owned(kib).await else { return false };
        self.sender.send(Arrived { source, stream, what, _held: held }).await.is_ok()
    }

    async fn bring_all(&self, from: &str, stream: u64, frames: &mut Frames) -> bool {
        while let Some(message) = frames.message() {
            if !self.bring(from, stream, message).await {
                return false;
            }
        }
        true
    }
}

/// What the process has on its standard input, for one log at a time.
struct Stdin {
    pieces: mpsc::Receiver<Vec<u8>>,
    /// What was read of a line that is not whole.
    begun: Vec<u8>,
}

/// While no log reads it. Started by the first.
static STDIN: Mutex<Option<Stdin>> = Mutex::new(None);
static STDIN_HAS_BEGUN: Mutex<bool> = Mutex::new(false);
/// Pieces that wait.
const PIECES_MAX: usize = 16;
const PIECE_BYTES: usize = 16 << 10;

impl Stdin {
    /// `None` while another log has it.
    fn take() -> Option<Self> {
        if std::mem::replace(&mut *STDIN_HAS_BEGUN.lock().unwrap_or_else(PoisonError::into_inner), true) {
            return STDIN.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        // For as long as the process lives: a read of it cannot be taken back.
        let reading = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            let mut room = vec![0; PIECE_BYTES];
            let mut input = io::stdin().lock();
            loop {
                match input.read(&mut room) {
                    Ok(0) => return,
                    Ok(length) => {
                        if sender.blocking_send(room[..length].to_vec()).is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return tracing::error!(%error, "standard input cannot be read any more"),
                }
            }
        });
        if let Err(error) = reading {
            tracing::error!(%error, "standard input has no thread");
        }
        Some(Self { pieces, begun: Vec::new() })
    }

    fn give_back(self) {
        *STDIN.lock().unwrap_or_else(PoisonError::into_inner) = Some(self);
    }
}

/// For as long as there is some. Leaves no stream: what is begun is kept here.
pub(super) async fn stdin(road: Road) -> Vec<Left> {
    const FROM: &str = "stdin";
    let mut stdin = loop {
        match Stdin::take() {
            Some(stdin) => break stdin,
            // Who had it before is about to give it back.
            None if road.unless_stopped(tokio::time::sleep(PAUSE)).await.is_none() => return Vec::new(),
            None => {}
        }
    };
    let mut frames = Frames::lines(road.bytes_max);
    frames.room().append(&mut stdin.begun);
    loop {
        if !road.bring_all(FROM, 0, &mut frames).await {
            break;
        }
        match road.unless_stopped(stdin.pieces.recv()).await {
            Some(Some(piece)) => frames.room().extend_from_slice(&piece),
            Some(None) => {
                if !frames.rest().is_empty() {
                    road.bring(FROM, 0, frames.rest()).await;
                }
                frames = Frames::lines(road.bytes_max);
                break;
            }
            None => break,
        }
    }
    stdin.begun = frames.rest().to_vec();
    stdin.give_back();
    Vec::new()
}

/// By this socket, which is somebody else's again when this is dropped. Gives back the streams that have not ended.
pub(super) async fn syslog(key: EarKey, ear: Arc<Ear>, left: Vec<Left>, road: Road) -> Vec<Left> {
    let heard = match ear.share() {
        Ok(Ear::Udp(socket)) => udp(UdpSocket::from_std(socket), &road).await.map(|()| Vec::new()),
        Ok(Ear::UnixDatagram(socket)) => local(UnixDatagram::from_std(socket), &road).await.map(|()| Vec::new()),
        Ok(Ear::Tcp(socket)) => streams(TcpListener::from_std(socket).map(Listener::Tcp), key, left, &road).await,
        Ok(Ear::UnixStream(socket)) => streams(UnixListener::from_std(socket).map(Listener::Unix), key, left, &road).await,
        Err(error) => Err(error),
    };
    drop(ear);
    heard.unwrap_or_else(|error| {
        tracing::error!(%error, "syslog is not heard any more");
        Vec::new()
    })
}

impl Left {
    pub(super) fn is_of(&self, key: &EarKey) -> bool {
        self.key == *key
    }
}

fn sender_of(address: SocketAddr) -> String {
    format!("syslog {}", address.ip())
}

const LOCAL: &str = "syslog local";

async fn udp(socket: io::Result<UdpSocket>, road: &Road) -> io::Result<()> {
    let socket = socket?;
    let mut room = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Some(heard) = road.unless_stopped(socket.recv_from(&mut room)).await else { return Ok(()) };
        // An error was some sender's.
        let Ok((length, from)) = heard else { continue };
        if !road.bring(&sender_of(from), 0, &room[..length]).await {
            return Ok(());
        }
    }
}

async fn local(socket: io::Result<UnixDatagram>, road: &Road) -> io::Result<()> {
    let socket = socket?;
    let mut room = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Some(heard) = road.unless_stopped(socket.recv(&mut room)).await else { return Ok(()) };
        let length = heard?;
        if !road.bring(LOCAL, 0, &room[..length]).await {
            return Ok(());
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, from)| (Stream::Tcp(stream), sender_of(from))),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| (Stream::Unix(stream), LOCAL.to_owned())),
        }
    }
}

impl Stream {
    async fn read(&mut self, room: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read_buf(room).await,
            Self::Unix(stream) => stream.read_buf(room).await,
        }
    }

    /// Out of its runtime.
    fn stood(self) -> io::Result<Stood> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(Stood::Tcp),
            Self::Unix(stream) => stream.into_std().map(Stood::Unix),
        }
    }

    /// Into this runtime.
    fn resumed(stood: Stood) -> io::Result<Self> {
        match stood {
            Stood::Tcp(stream) => TcpStream::from_std(stream).map(Self::Tcp),
            Stood::Unix(stream) => UnixStream::from_std(stream).map(Self::Unix),
        }
    }
}

/// A stream that is heard.
struct Heard {
    stream: Stream,
    frames: Frames,
    from: String,
    /// Of this one, among those of its socket.
    number: u64,
    /// When it said something last.
    news: Arc<Mutex<Instant>>,
}

async fn streams(listener: io::Result<Listener>, key: EarKey, left: Vec<Left>, road: &Road) -> io::Result<Vec<Left>> {
    let listener = listener?;
    let mut heard = JoinSet::new();
    let mut all: Vec<(AbortHandle, Arc<Mutex<Instant>>)> = Vec::new();
    let mut number = 0;
    let mut begin = |heard: &mut JoinSet<_>, stream, frames, from| {
        number += 1;
        let news = Arc::new(Mutex::new(Instant::now()));
        let handle = heard.spawn(hear(Heard { stream, frames, from, number, news: Arc::clone(&news) }, road.clone()));
        all.retain(|(handle, _)| !handle.is_finished());
        if all.len() >= CONNECTIONS_MAX
            && let Some(longest) = all.iter().enumerate().min_by_key(|(_, (_, news))| *lock(news)).map(|(at, _)| at)
        {
            // Whoever has been silent for longest makes room: connections that say nothing must not keep others out.
            let (handle, _) = all.swap_remove(longest);
            handle.abort();
            road.metrics.failed();
        }
        all.push((handle, news));
    };
    for left in left {
        if let Ok(stream) = Stream::resumed(left.stream) {
            begin(&mut heard, stream, left.frames, left.from);
        }
    }
    let mut left = Vec::new();
    let mut leave = |ended: Result<Option<Heard>, JoinError>| {
        let Ok(Some(Heard { stream, frames, from, .. })) = ended else { return };
        if let Ok(stream) = stream.stood() {
            left.push(Left { key: key.clone(), stream, frames, from });
        }
    };
    loop {
        let accepted = tokio::select! {
            accepted = road.unless_stopped(listener.accept()) => accepted,
            // One may know sooner than we do that it is somebody else's.
            Some(ended) = heard.join_next() => {
                leave(ended);
                continue;
            }
        };
        match accepted {
            Some(Ok((stream, from))) => begin(&mut heard, stream, Frames::messages(road.bytes_max), from),
            Some(Err(_)) => tokio::time::sleep(PAUSE).await,
            None => break,
        }
    }
    while let Some(ended) = heard.join_next().await {
        leave(ended);
    }
    Ok(left)
}

/// Until it ends, or is somebody else's.
async fn hear(mut heard: Heard, road: Road) -> Option<Heard> {
    loop {
        if !road.bring_all(&heard.from, heard.number, &mut heard.frames).await {
            return None;
        }
        match road.unless_stopped(heard.stream.read(heard.frames.room())).await {
            None => return Some(heard),
            Some(Ok(length)) if length > 0 => *lock(&heard.news) = Instant::now(),
            Some(_) => {
                if !heard.frames.rest().is_empty() {
                    road.bring(&heard.from, heard.number, heard.frames.rest()).await;
                }
                return None;
            }
        }
    }
}

fn lock(news: &Mutex<Instant>) -> MutexGuard<'_, Instant> {
    news.lock().unwrap_or_else(PoisonError::into_inner)
}
