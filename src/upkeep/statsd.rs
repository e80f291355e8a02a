//! Hears statsd, on a thread of its own: however much comes, no probe and no check waits for it.
//!
//! Knows lines by their ends only; what they say, `services::metrics::statsd` adds up.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncReadExt as _, Interest};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Ear, Work};
use crate::proto::statsd::LINE_BYTES_MAX;
use crate::services::metrics::{Heard, Question, Source};
use crate::value::EarKey;

/// Read before others have a turn.
const TURN: usize = 64;
/// The longest there is.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;
/// Of one ear.
const CONNECTIONS_MAX: usize = 256;
/// Who says nothing for so long is not there any more, as far as we can tell.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// Before the next one where no connection can be taken, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Everything that is heard.
#[derive(Default)]
pub(super) struct Hearing {
    ears: HashMap<EarKey, Listening>,
    thread: Option<Thread>,
}

/// By one ear. Who it is for may change while it goes on, and connections with it.
struct Listening {
    target: Arc<ArcSwap<Heard>>,
    _work: Work,
}

struct Thread {
    runtime: Handle,
    /// The thread ends with it.
    _stop: oneshot::Sender<()>,
    _joined: JoinHandle<()>,
}

impl Thread {
    fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("statsd".to_owned()).spawn(move || {
            // An error is that nobody needs it any more.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { runtime: handle, _stop: stop, _joined: thread })
    }
}

impl Hearing {
    /// These sources are heard for from now on, by these ears.
    pub(super) fn follow(&mut self, sources: &[Arc<Source>], ears: &[(EarKey, Arc<Ear>)]) {
        let mut wanted: HashMap<EarKey, Arc<Heard>> = HashMap::new();
        for source in sources {
            let (Question::Statsd(settings), Some(heard)) = (&source.settings.question, &source.heard) else { continue };
            let bound = |key: &EarKey| ears.iter().find(|(bound, _)| bound == key).and_then(|(_, ear)| inode(udp(ear)?));
            // Here and not where it is compiled, for that may come to nothing.
            heard.set_max_series(source.max_series);
            heard.set_sockets(settings.ears.0.iter().filter_map(|key| bound(&key.value)).collect());
            wanted.extend(settings.ears.0.iter().map(|key| (key.value.clone(), Arc::clone(heard))));
        }
        self.ears.retain(|key, _| wanted.contains_key(key));
        for (key, heard) in wanted {
            if let Some(known) = self.ears.get(&key) {
                known.target.store(heard);
                continue;
            }
            let Some((_, ear)) = ears.iter().find(|(bound, _)| *bound == key) else { continue };
            if let Err(error) = self.hear(key.clone(), Arc::clone(ear), heard) {
                tracing::error!(ear = %key, %error, "statsd is not heard");
            }
        }
        if self.ears.is_empty() {
            self.thread = None;
        }
    }

    fn hear(&mut self, key: EarKey, ear: Arc<Ear>, heard: Arc<Heard>) -> io::Result<()> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => Thread::start()?,
        };
        let target = Arc::new(ArcSwap::new(heard));
        let task = thread.runtime.spawn(run(ear, Arc::clone(&target)));
        self.thread = Some(thread);
        self.ears.insert(key, Listening { target, _work: Work(vec![task.abort_handle()]) });
        Ok(())
    }
}

/// `ear` is kept until all that was made of it is closed, since the supervisor waits for that.
async fn run(ear: Arc<Ear>, target: Arc<ArcSwap<Heard>>) {
    let ended = match ear.share() {
        Ok(Ear::Udp(socket)) => hear_datagrams(tokio::net::UdpSocket::from_std(socket), &target).await,
        Ok(Ear::UnixDatagram(socket)) => hear_local(tokio::net::UnixDatagram::from_std(socket), &target).await,
        Ok(Ear::Tcp(socket)) => hear_streams(tokio::net::TcpListener::from_std(socket), &target).await,
        // Settings have none.
        Ok(Ear::UnixStream(_)) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::error!(%error, "statsd is not heard any more");
    }
}

async fn hear_datagrams(socket: io::Result<tokio::net::UdpSocket>, target: &ArcSwap<Heard>) -> io::Result<()> {
    let socket = socket?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        socket.readable().await?;
        hear_turn(target, &mut buffer, |buffer| socket.try_recv(buffer));
        tokio::task::yield_now().await;
    }
}

async fn hear_local(socket: io::Result<tokio::net::UnixDatagram>, target: &ArcSwap<Heard>) -> io::Result<()> {
    let socket = socket?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        socket.ready(Interest::READABLE).await?;
        hear_turn(target, &mut buffer, |buffer| socket.try_recv(buffer));
        tokio::task::yield_now().await;
    }
}

fn hear_turn(target: &ArcSwap<Heard>, buffer: &mut [u8], mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>) {
    let (heard, now) = (target.load(), Instant::now());
    for _ in 0..TURN {
        // Nothing more, or an error that was some sender's.
        let Ok(length) = receive(buffer) else { return };
        heard.hear(&buffer[..length], now);
    }
}

async fn hear_streams(listener: io::Result<tokio::net::TcpListener>, target: &Arc<ArcSwap<Heard>>) -> io::Result<()> {
    let listener = listener?;
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(_) if streams.len() >= CONNECTIONS_MAX => target.load().refused(),
                Ok((stream, _)) => {
                    target.load().connected();
                    streams.spawn(hear_stream(stream, Arc::clone(target)));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn hear_stream(mut stream: impl AsyncRead + Unpin, target: Arc<ArcSwap<Heard>>) {
    let mut buffer = vec![0; 2 * LINE_BYTES_MAX];
    let mut filled = 0;
    let mut is_too_long = false;
    loop {
        let read = timeout(IDLE_MAX, stream.read(&mut buffer[filled..])).await;
        let Ok(Ok(length @ 1..)) = read else { break };
        filled += length;
        let heard = target.load();
        let whole = memchr::memrchr(b'\n', &buffer[..filled]).map_or(0, |at| at + 1);
        if whole > 0 {
            // What is left of a line that was given up.
            let skipped = if is_too_long { memchr::memchr(b'\n', &buffer[..whole]).map_or(whole, |at| at + 1) } else { 0 };
            is_too_long = false;
            heard.hear(&buffer[skipped..whole], Instant::now());
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
        }
        if filled > LINE_BYTES_MAX {
            if !is_too_long {
                heard.hear_long();
            }
            is_too_long = true;
            filled = 0;
        }
        drop(heard);
        tokio::task::yield_now().await;
    }
    if !is_too_long {
        target.load().hear(&buffer[..filled], Instant::now());
    }
}

/// What the kernel has dropped of what came by these sockets.
pub(super) fn lost(inodes: &[u64]) -> u64 {
    if inodes.is_empty() {
        return 0;
    }
    ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|table| drops(&table, inodes))
        .sum()
}

fn udp(ear: &Ear) -> Option<BorrowedFd<'_>> {
    match ear {
        Ear::Udp(socket) => Some(socket.as_fd()),
        _ => None,
    }
}

fn inode(socket: BorrowedFd<'_>) -> Option<u64> {
    rustix::fs::fstat(socket).ok().map(|status| status.st_ino)
}

/// `sl local remote st tx:rx tr:when retrnsmt uid timeout inode ref pointer drops`
fn drops(table: &str, inodes: &[u64]) -> u64 {
    let of = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let inode: u64 = fields.get(9)?.parse().ok()?;
        inodes.contains(&inode).then(|| fields.last()?.parse::<u64>().ok())?
    };
    table.lines().skip(1).filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::drops;

    #[test]
    fn drops_are_found_by_their_socket() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
             2405: 0100007F:1FBD 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 35843 2 0000000000000000 17\n\
             2406: 0100007F:1FBE 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 35844 2 0000000000000000 4\n";
        assert_eq!((drops(table, &[35843]), drops(table, &[35843, 35844]), drops(table, &[1])), (17, 21, 0));
    }
}
