//! From a listening socket to a connection that can be served: accept, PROXY header, TLS.
//!
//! Survives everything `accept` can return. Binding is the supervisor's work.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::SocketFlags;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;

use super::connection::{self, Client};
use super::link::Link;
use super::timer::Timer;
use super::worker::Worker;
use crate::dial::{Socket, Wire};
use crate::generation::{Listener, SocketKey};
use crate::proto::proxy_header::{self, Parsed};
use crate::route::TlsFacts;
use crate::telemetry::metrics::{AcceptError, Handshake};
use crate::tls;
use crate::value::Address;

/// Open connections of one socket, counted over all workers.
#[derive(Default)]
pub struct Gate {
    open: AtomicUsize,
    freed: Notify,
}

/// One place among a listener's connections; dropping it makes room.
struct Permit(Arc<Gate>);

impl Gate {
    /// Waits until fewer than `limit()` are open. The limit is asked again each time: it may change.
    async fn enter(self: &Arc<Self>, limit: impl Fn() -> usize) -> Permit {
        loop {
            let freed = self.freed.notified();
            let entered = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < limit()).then_some(open + 1));
            if entered.is_ok() {
                return Permit(Arc::clone(self));
            }
            // The limit may have been raised while everybody stays: look again now and then.
            let _ = tokio::time::timeout(Duration::from_secs(1), freed).await;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

/// A worker's view of one listening socket.
pub struct Bound {
    pub key: SocketKey,
    gate: Arc<Gate>,
    /// Who stood at this socket last; serves what is left in the queue of a retired one.
    last: RefCell<Arc<Listener>>,
    retired: Cell<Option<Instant>>,
    retire: Notify,
}

impl Bound {
    pub fn new(key: SocketKey, gate: Arc<Gate>, listener: Arc<Listener>) -> Rc<Self> {
        Rc::new(Self { key, gate, last: RefCell::new(listener), retired: Cell::new(None), retire: Notify::new() })
    }

    pub fn retired_since(&self) -> Option<Instant> {
        self.retired.get()
    }

    /// Stops accepting once the queue is empty.
    pub fn retire(&self, now: Instant) {
        self.retired.set(Some(now));
        self.retire.notify_one();
    }

    /// The listener that stands here now, or stood here last.
    fn listener(&self, worker: &Worker) -> Arc<Listener> {
        let mut last = self.last.borrow_mut();
        if let (None, Some(current)) = (self.retired.get(), worker.pin().listener_at(&self.key))
            && !Arc::ptr_eq(&last, current)
        {
            *last = Arc::clone(current);
        }
        Arc::clone(&last)
    }
}

/// After an error that will not go away at once, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// Accepts in a row before others get their turn.
const BATCH: usize = 64;
/// A retired socket is closed when nobody has come for so long: what is in its queue, and who was
/// told "connected" a moment ago, is served first.
pub const QUIET: Duration = Duration::from_millis(50);

/// Accepts until the socket is retired and its queue is empty.
pub async fn accept(worker: Rc<Worker>, listening: OwnedFd, bound: Rc<Bound>) {
    #[expect(deprecated, reason = "its unsafe successor asks that the descriptor stays the same; an OwnedFd's does")]
    let registered = AsyncFd::new(listening);
    let listening = match registered {
        Ok(listening) => listening,
        Err(error) => return tracing::error!(address = %bound.key.address, %error, "cannot watch a listening socket"),
    };
    let mut in_row = 0;
    loop {
        let readable = if bound.retired.get().is_some() {
            match tokio::time::timeout(QUIET, listening.readable()).await {
                Ok(readable) => readable,
                Err(_) => return,
            }
        } else {
            tokio::select! {
                readable = listening.readable() => readable,
                () = bound.retire.notified() => continue,
            }
        };
        // Room is asked for only when somebody is at the door: a worker that waits with a place in
        // its hand would keep it from the others.
        let permit = bound.gate.enter(|| bound.listener(&worker).connections_max).await;
        let accepted = readable.map(|mut guard| guard.try_io(|fd| accept_one(fd.get_ref(), &bound.key)));
        match accepted {
            Ok(Ok(Ok((socket, peer)))) => {
                spawn(&worker, &bound, permit, socket, peer);
                in_row += 1;
                if in_row % BATCH == 0 {
                    tokio::task::yield_now().await;
                }
            }
            // The queue is empty, or the client gave up between its handshake and our accept.
            Ok(Err(_)) => {}
            Ok(Ok(Err(error))) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Ok(Ok(Err(error))) | Err(error) => {
                bound.listener(&worker).metrics.accept_error(worker.index, AcceptError::of(&error));
                tracing::warn!(address = %bound.key.address, %error, "cannot accept");
                drop(permit);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn accept_one(listening: &OwnedFd, key: &SocketKey) -> io::Result<(Socket, Option<IpAddr>)> {
    use rustix::io::Errno;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, from) = rustix::net::acceptfrom_with(listening, flags).map_err(|errno| match errno {
        // accept(2), "Error handling": errors of the new connection, not of the socket.
        Errno::INTR | Errno::PROTO | Errno::NETDOWN | Errno::HOSTDOWN | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::PERM => {
            io::ErrorKind::ConnectionAborted.into()
        }
        other => io::Error::from(other),
    })?;
    if matches!(key.address, Address::Unix(_)) {
        return Ok((Socket::Unix(UnixStream::from_std(fd.into())?), None));
    }
    let peer = from.and_then(|from| std::net::SocketAddr::try_from(from).ok()).map(|from| from.ip().to_canonical());
    Ok((Socket::Tcp(TcpStream::from_std(fd.into())?), peer))
}

/// Counts a connection as long as it lives, however its task ends.
struct Opened {
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    _permit: Permit,
}

impl Opened {
    fn new(worker: &Rc<Worker>, listener: &Arc<Listener>, permit: Permit) -> Self {
        worker.open.set(worker.open.get() + 1);
        listener.metrics.opened(worker.index);
        Self { worker: Rc::clone(worker), listener: Arc::clone(listener), _permit: permit }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let open = self.worker.open.get() - 1;
        self.worker.open.set(open);
        self.listener.metrics.closed(self.worker.index);
        if open == 0 && self.worker.draining_since().is_some() {
            self.worker.closed.notify_one();
        }
    }
}

fn spawn(worker: &Rc<Worker>, bound: &Rc<Bound>, permit: Permit, socket: Socket, peer: Option<IpAddr>) {
    let listener = bound.listener(worker);
    let opened = Opened::new(worker, &listener, permit);
    let worker = Rc::clone(worker);
    let bound = Rc::clone(bound);
    tokio::task::spawn_local(async move {
        let _opened = opened;
        if let Some(client) = handshake(&worker, bound, socket, peer, &listener).await {
            connection::serve(&worker, client, listener).await;
        }
    });
}

/// PROXY header and TLS, within the handshake's time.
async fn handshake(
    worker: &Rc<Worker>,
    bound: Rc<Bound>,
    socket: Socket,
    peer: Option<IpAddr>,
    listener: &Arc<Listener>,
) -> Option<Client> {
    let deadline = Instant::now() + listener.timeouts.handshake;
    let mut timer = Timer::default();
    let mut peer = peer;
    let socket = if listener.requires_proxy_header {
        let (socket, source) = timer.limit(deadline, proxy_header(socket)).await??;
        peer = source.or(peer);
        socket
    } else {
        socket
    };
    let Some(acceptor) = &listener.tls else {
        let link = Link::new(Wire::Plain(socket), Rc::clone(&worker.stock));
        return Some(Client { link, timer, bound, peer, tls: None, tls_policy: 0 });
    };
    let accepting = tokio_rustls::TlsAcceptor::from(acceptor.config()).accept(socket);
    let stream = match timer.limit(deadline, accepting).await {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => {
            listener.metrics.handshake(worker.index, Handshake::Failed);
            tracing::debug!(listener = listener.name, %error, "TLS handshake failed");
            return None;
        }
        None => {
            listener.metrics.handshake(worker.index, Handshake::Timeout);
            return None;
        }
    };
    let session = stream.get_ref().1;
    let is_resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    listener.metrics.handshake(worker.index, if is_resumed { Handshake::Resumed } else { Handshake::Full });
    let facts = TlsFacts {
        sni: session.server_name().map(str::to_owned),
        version: version_name(session),
        subject: tls::client_identity(session).map(|identity| identity.subject),
    };
    let link = Link::new(Wire::Tls(Box::new(stream)), Rc::clone(&worker.stock));
    Some(Client { link, timer, bound, peer, tls: Some(Box::new(facts)), tls_policy: acceptor.client_policy() })
}

fn version_name(session: &rustls::ServerConnection) -> &'static str {
    match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    }
}

/// Reads exactly the PROXY header, so that nothing of what follows is taken: it may be TLS.
///
/// Returns the address it names, if it names one.
async fn proxy_header(mut socket: Socket) -> Option<(Socket, Option<IpAddr>)> {
    let mut header = Vec::new();
    loop {
        match proxy_header::parse(&header) {
            Ok(Parsed::Complete { source, .. }) => return Some((socket, source.map(|source| source.ip().to_canonical()))),
            Ok(Parsed::Partial) => {}
            Err(_) => return None,
        }
        let held = header.len();
        header.resize(held + proxy_header::least_missing(&header), 0);
        let count = socket.read(&mut header[held..]).await.ok().filter(|&count| count > 0)?;
        header.truncate(held + count);
    }
}
