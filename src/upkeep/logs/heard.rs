//! Lines that others bring: standard input, syslog by datagrams and streams.
//!
//! Holds what waits within a bound; while nobody takes it, streams are not read, and of datagrams the kernel drops what it cannot hold.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Arrived, What};
use crate::upkeep::Ear;

const DATAGRAM_BYTES_MAX: usize = 64 << 10;
/// Of one socket.
const CONNECTIONS_MAX: usize = 256;
const PAUSE: Duration = Duration::from_millis(100);
/// A longer count of octets is none.
const COUNT_DIGITS_MAX: usize = 8;

/// What a line is from, and where it goes.
#[derive(Clone)]
pub(super) struct Road {
    /// Else it is who sent it.
    pub(super) name: Option<Arc<str>>,
    pub(super) sender: mpsc::Sender<Arrived>,
    /// Of a line.
    pub(super) bytes_max: usize,
    /// Whether somebody else hears from now on.
    pub(super) stopped: watch::Receiver<bool>,
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
    async fn bring(&self, from: &str, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.is_empty() {
            return true;
        }
        let source = self.name.as_ref().map_or_else(|| from.into(), Arc::clone);
        self.sender.send(Arrived { source, what: What::Line(line.to_vec()) }).await.is_ok()
    }
}

/// For as long as there is some.
pub(super) async fn stdin(road: Road) {
    let lines = BufReader::new(tokio::io::stdin());
    road.unless_stopped(read_lines(lines, "stdin", &road)).await;
}

/// By this socket, which is somebody else's again when this is dropped.
pub(super) async fn syslog(ear: Arc<Ear>, road: Road) {
    let ended = match ear.share() {
        Ok(Ear::Udp(socket)) => udp(UdpSocket::from_std(socket), &road).await,
        Ok(Ear::UnixDatagram(socket)) => local(UnixDatagram::from_std(socket), &road).await,
        Ok(Ear::Tcp(socket)) => road.unless_stopped(tcp(TcpListener::from_std(socket), &road)).await.unwrap_or(Ok(())),
        Ok(Ear::UnixStream(socket)) => road.unless_stopped(unix(UnixListener::from_std(socket), &road)).await.unwrap_or(Ok(())),
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::error!(%error, "syslog is not heard any more");
    }
    drop(ear);
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
        if !road.bring(&sender_of(from), &room[..length]).await {
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
        if !road.bring(LOCAL, &room[..length]).await {
            return Ok(());
        }
    }
}

async fn tcp(listener: io::Result<TcpListener>, road: &Road) -> io::Result<()> {
    let listener = listener?;
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if streams.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, from)) => {
                    let road = road.clone();
                    streams.spawn(async move { read_frames(stream, &sender_of(from), &road).await });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn unix(listener: io::Result<UnixListener>, road: &Road) -> io::Result<()> {
    let listener = listener?;
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if streams.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let road = road.clone();
                    streams.spawn(async move { read_frames(stream, LOCAL, &road).await });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

/// Messages with their lengths before them (RFC 6587 §3.4.1) or with a line end behind them, as each begins.
async fn read_frames(stream: impl AsyncRead + Unpin, from: &str, road: &Road) {
    let mut stream = BufReader::new(stream);
    loop {
        let Ok(room) = stream.fill_buf().await else { return };
        match room.first() {
            None => return,
            Some(b'1'..=b'9') => {}
            Some(_) => {
                if !read_line(&mut stream, from, road).await {
                    return;
                }
                continue;
            }
        }
        let mut count = Vec::new();
        let counted = (&mut stream).take(COUNT_DIGITS_MAX as u64 + 1).read_until(b' ', &mut count).await;
        let length = std::str::from_utf8(&count).ok().and_then(|count| count.strip_suffix(' ')?.parse::<usize>().ok());
        let (Ok(_), Some(length)) = (counted, length) else {
            // A line that begins with a digit, such as a year.
            let mut rest = count;
            if !read_rest(&mut stream, &mut rest, from, road).await {
                return;
            }
            continue;
        };
        let kept = length.min(road.bytes_max + 1);
        let mut message = Vec::new();
        let Ok(_) = (&mut stream).take(kept as u64).read_to_end(&mut message).await else { return };
        if message.len() < kept || !skip(&mut stream, length - kept).await || !road.bring(from, &message).await {
            return;
        }
    }
}

async fn skip(stream: &mut (impl AsyncRead + Unpin), length: usize) -> bool {
    tokio::io::copy(&mut stream.take(length as u64), &mut tokio::io::sink()).await.is_ok_and(|skipped| skipped == length as u64)
}

async fn read_lines<R: AsyncRead + Unpin>(mut stream: BufReader<R>, from: &str, road: &Road) {
    while read_line(&mut stream, from, road).await {}
}

async fn read_line<R: AsyncRead + Unpin>(stream: &mut BufReader<R>, from: &str, road: &Road) -> bool {
    read_rest(stream, &mut Vec::new(), from, road).await
}

/// Up to the end of a line, of which some is there. Of a long one the end is skipped. `false` if there is no more.
async fn read_rest<R: AsyncRead + Unpin>(stream: &mut BufReader<R>, line: &mut Vec<u8>, from: &str, road: &Road) -> bool {
    let mut has_more = true;
    loop {
        let Ok(room) = stream.fill_buf().await else { return false };
        let end = memchr::memchr(b'\n', room);
        let (length, taken) = (end.unwrap_or(room.len()), end.map_or(room.len(), |end| end + 1));
        has_more &= taken > 0;
        // One byte more than a line may have says that it was cut.
        let kept = length.min((road.bytes_max + 1).saturating_sub(line.len()));
        line.extend_from_slice(&room[..kept]);
        stream.consume(taken);
        if end.is_some() || taken == 0 {
            break;
        }
    }
    road.bring(from, line).await && has_more
}
