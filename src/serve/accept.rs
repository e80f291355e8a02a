//! From a listening socket to a connection that can be served: accept, PROXY header, TLS.
//!
//! Survives everything `accept` can return. Binding is the supervisor's work.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::net::SocketFlags;
use socket2::SockFilter;
use tokio::io::AsyncReadExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, mpsc};

use super::connection::{self, Client, Ends};
use super::link::Link;
use super::stream;
use super::timer::Timer;
use super::worker::Worker;
use crate::config::listener::Protocol;
use crate::dial::{Socket, Stream, Wire};
use crate::generation::{Generation, Listener, Permit, SocketKey};
use crate::proto::proxy_header::{self, Parsed};
use crate::route::TlsFacts;
use crate::telemetry::metrics::{AcceptError, Handshake, ListenerMetrics};
use crate::tls;
use crate::value::Address;

/// Dropped when a retired socket is closed in one worker; whoever retired it waits for all of them.
pub type Closing = mpsc::Sender<()>;

/// A listener as one worker holds it: in an `Rc`, so that a request does not touch a count that other
/// workers touch.
pub type Standing = Rc<Arc<Listener>>;

/// A worker's view of one listening socket.
pub struct Bound {
    pub key: SocketKey,
    /// The socket itself, until its accept loop has ended.
    listening: RefCell<Option<Rc<OwnedFd>>>,
    /// Who stands at this socket, or stood here last.
    last: RefCell<Standing>,
    /// Who stood here before for HTTP without TLS, and for HTTP with it, if clients of another transport came since.
    before: RefCell<[Option<Standing>; 2]>,
    /// When the transport changed: TLS or not, HTTP or not.
    changed: Cell<Option<Instant>>,
    /// The generation that `last` is of, or that has nobody here.
    seen: Cell<u64>,
    /// Whether that generation has anybody here.
    is_taken: Cell<bool>,
    retired: Cell<Option<Instant>>,
    retire: Notify,
    closing: RefCell<Option<Closing>>,
}

impl Bound {
    pub fn new(key: SocketKey, listener: Arc<Listener>, listening: OwnedFd) -> Rc<Self> {
        Rc::new(Self {
            key,
            listening: RefCell::new(Some(Rc::new(listening))),
            last: RefCell::new(Rc::new(listener)),
            before: RefCell::default(),
            changed: Cell::new(None),
            seen: Cell::new(0),
            is_taken: Cell::new(false),
            retired: Cell::new(None),
            retire: Notify::new(),
            closing: RefCell::default(),
        })
    }

    /// Stops accepting once everybody is in who was told "connected". `closing` is dropped then.
    pub fn retire(&self, now: Instant, closing: Option<Closing>) {
        if self.retired.get().is_none() {
            self.retired.set(Some(now));
            if let Some(listening) = self.listening.borrow().as_ref() {
                turn_away(listening, &self.key);
                *self.closing.borrow_mut() = closing;
            }
            self.retire.notify_one();
        }
    }

    /// Since when nobody stands here any more for HTTP over this transport.
    pub fn left_since(&self, is_tls: bool) -> Option<Instant> {
        self.left(Protocol::Http, is_tls)
    }

    /// The same for connections of any protocol.
    pub fn left(&self, protocol: Protocol, is_tls: bool) -> Option<Instant> {
        let is_other = !speaks(&self.last.borrow(), protocol, is_tls);
        self.retired.get().or(self.changed.get().filter(|_| is_other))
    }

    /// Takes note of who stands here in `generation`. `true` if connections of another transport
    /// were left behind.
    pub fn renew(&self, generation: &Generation) -> bool {
        if self.seen.replace(generation.number) == generation.number {
            return false;
        }
        let current = generation.listener_at(&self.key);
        self.is_taken.set(current.is_some());
        let Some(current) = current else { return false };
        let mut last = self.last.borrow_mut();
        let old = std::mem::replace(&mut *last, Rc::new(Arc::clone(current)));
        let is_other = !speaks(current, old.protocol, old.tls.is_some());
        if is_other {
            // Streams ask nobody any more once they have begun.
            if old.protocol == Protocol::Http {
                let is_tls = old.tls.is_some();
                self.before.borrow_mut()[usize::from(is_tls)] = Some(old);
            }
            self.changed.set(Some(Instant::now()));
        }
        is_other
    }

    /// Who answers an HTTP connection of this transport, and whether it may expect more answers. A listener
    /// that went away, or changed to TLS or back, answers a last request: its clients knew no better.
    pub fn listener_for(&self, generation: &Generation, is_tls: bool) -> (Standing, bool) {
        self.renew(generation);
        let last = self.last.borrow();
        if speaks(&last, Protocol::Http, is_tls) {
            let is_current = self.retired.get().is_none() && self.is_taken.get();
            return (Rc::clone(&last), is_current);
        }
        let before = &self.before.borrow()[usize::from(is_tls)];
        debug_assert!(before.is_some(), "a connection was made under one of them");
        (Rc::clone(before.as_ref().unwrap_or(&last)), false)
    }

    /// The listener that stands here now, or stood here last.
    fn listener(&self, worker: &Worker) -> Standing {
        self.renew(&worker.pin());
        Rc::clone(&self.last.borrow())
    }
}

fn speaks(listener: &Listener, protocol: Protocol, is_tls: bool) -> bool {
    listener.protocol == protocol && listener.tls.is_some() == is_tls
}

/// After an error that will not go away at once, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// Accepts in a row before others get their turn.
const BATCH: usize = 64;
/// A retired socket is closed after so long: by then whoever was answered by the kernel before new
/// ones were turned away has finished the handshake and is in the queue.
pub const HANDSHAKES: Duration = Duration::from_millis(200);

/// How long a handshake may take once the process drains.
const LAST_HANDSHAKES: Duration = Duration::from_millis(800);

/// Has the kernel drop new connections before it answers them, and let those through that it has
/// answered.
///
/// Closing a listening socket resets whoever is in its queue, and under load somebody always is. A
/// client whose first packet was dropped sends it again a second later, and is refused then, or
/// served by whoever has the address by then. Unix sockets need none: their path is gone already.
fn turn_away(listening: &OwnedFd, key: &SocketKey) {
    // Of a TCP header's flags: a SYN without an ACK is dropped, everything else passes.
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let filter = [
        SockFilter::new(0x30, 0, 0, FLAGS_AT),  // load the byte
        SockFilter::new(0x54, 0, 0, SYN | ACK), // and with
        SockFilter::new(0x15, 0, 1, SYN),       // if equal, the next, else the one after
        SockFilter::new(0x06, 0, 0, 0),         // drop
        SockFilter::new(0x06, 0, 0, u32::MAX),  // pass
    ];
    if matches!(key.address, Address::Unix(_)) {
        return;
    }
    // Without it, whoever comes in the instant between the last accept and the close is reset.
    if let Err(error) = socket2::SockRef::from(listening).attach_filter(&filter) {
        tracing::debug!(address = %key.address, %error, "cannot turn new connections away before closing");
    }
}

/// Counts an accept loop as long as it runs: a worker does not end before its queues are empty.
pub struct Accepting(Rc<Worker>);

impl Accepting {
    pub fn new(worker: &Rc<Worker>) -> Self {
        worker.accepting.set(worker.accepting.get() + 1);
        Self(Rc::clone(worker))
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.set(self.0.accepting.get() - 1);
        self.0.tell_if_done();
    }
}

/// Accepts until the socket is retired and its queue is empty.
pub async fn accept(accepting: Accepting, bound: Rc<Bound>) {
    let worker = Rc::clone(&accepting.0);
    let Some(listening) = bound.listening.borrow().clone() else { return };
    #[expect(deprecated, reason = "its unsafe successor asks that the descriptor stays the same; an OwnedFd's does")]
    let registered = AsyncFd::with_interest(listening, Interest::READABLE);
    match registered {
        Ok(listening) => accept_all(&worker, &bound, &listening).await,
        Err(error) => tracing::error!(address = %bound.key.address, %error, "cannot watch a listening socket"),
    }
    drop(bound.listening.take());
    drop(bound.closing.take());
}

async fn accept_all(worker: &Rc<Worker>, bound: &Rc<Bound>, listening: &AsyncFd<Rc<OwnedFd>>) {
    let mut in_row = 0;
    loop {
        let readable = match bound.retired.get() {
            None => tokio::select! {
                readable = listening.readable() => readable,
                () = bound.retire.notified() => continue,
            },
            Some(since) => match tokio::time::timeout_at((since + HANDSHAKES).into(), listening.readable()).await {
                Ok(readable) => readable,
                Err(_) => break,
            },
        };
        let Ok(mut guard) = readable else { return };
        if !accept_next(worker, bound, listening.get_ref()).await {
            guard.clear_ready();
        }
        in_row += 1;
        if in_row % BATCH == 0 {
            tokio::task::yield_now().await;
        }
    }
    // Nobody new can come; whoever is still in the queue is taken in without asking whether there is
    // anybody: an event may be on its way to us.
    while accept_next(worker, bound, listening.get_ref()).await {}
}

/// Waits until the listener may have one more connection.
async fn room(worker: &Worker, bound: &Bound) -> Permit {
    loop {
        let listener = bound.listener(worker);
        let freed = listener.gate.freed.notified();
        if let Some(permit) = listener.gate.enter(listener.connections_max) {
            return permit;
        }
        // The limit may have been raised while everybody stays: look again now and then.
        let _ = tokio::time::timeout(Duration::from_secs(1), freed).await;
    }
}

/// Takes one in. `false` if nobody is there.
async fn accept_next(worker: &Rc<Worker>, bound: &Rc<Bound>, listening: &OwnedFd) -> bool {
    // Room is asked for only when somebody is at the door: a worker that waits with a place in its
    // hand would keep it from the others.
    let permit = room(worker, bound).await;
    match accept_one(listening, &bound.key) {
        Ok((socket, peer)) => spawn(worker, bound, permit, socket, peer),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
        // The client gave up between its handshake and our accept.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
        Err(error) => {
            drop(permit);
            bound.listener(worker).metrics.accept_error(worker.index, AcceptError::of(&error));
            if worker.may_complain() {
                tracing::warn!(address = %bound.key.address, %error, "cannot accept; trying again until it works");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    true
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
        return Ok((Socket::new(Stream::Unix(UnixStream::from_std(fd.into())?), None), None));
    }
    let peer = from.and_then(|from| std::net::SocketAddr::try_from(from).ok()).map(|from| from.ip().to_canonical());
    Ok((Socket::new(Stream::Tcp(TcpStream::from_std(fd.into())?), None), peer))
}

/// Counts a connection as long as it lives, however its task ends.
struct Opened {
    worker: Rc<Worker>,
    /// Not the listener: an idle connection must not keep an old generation's routes in memory.
    metrics: Arc<ListenerMetrics>,
    _permit: Permit,
}

impl Opened {
    fn new(worker: &Rc<Worker>, listener: &Listener, permit: Permit) -> Self {
        worker.open.set(worker.open.get() + 1);
        listener.metrics.opened(worker.index);
        Self { worker: Rc::clone(worker), metrics: Arc::clone(&listener.metrics), _permit: permit }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.worker.open.set(self.worker.open.get() - 1);
        self.metrics.closed(self.worker.index);
        self.worker.tell_if_done();
    }
}

fn spawn(worker: &Rc<Worker>, bound: &Rc<Bound>, permit: Permit, socket: Socket, peer: Option<IpAddr>) {
    let listener = bound.listener(worker);
    let opened = Opened::new(worker, &listener, permit);
    let bound = Rc::clone(bound);
    if listener.protocol == Protocol::Tcp {
        tokio::task::spawn_local(async move {
            if let Some(client) = Box::pin(handshake(&opened.worker, bound, socket, peer, Rc::clone(&listener))).await {
                Box::pin(stream::serve(&opened.worker, client, listener)).await;
            }
        });
        return;
    }
    if listener.tls.is_none() && !listener.requires_proxy_header {
        let link = Link::new(Wire::Plain(socket), Rc::clone(&worker.stock));
        // Boxed: futures hold each of their arguments twice.
        let client = Box::new(Client { link, timer: Timer::default(), bound, peer, named: None, tls: None, tls_policy: 0 });
        tokio::task::spawn_local(async move { connection::serve(&opened.worker, client).await });
        return;
    }
    tokio::task::spawn_local(async move {
        // On the heap, since it is large and soon over.
        if let Some(client) = Box::pin(handshake(&opened.worker, bound, socket, peer, listener)).await {
            connection::serve(&opened.worker, client).await;
        }
    });
}

/// PROXY header and TLS, within the handshake's time.
async fn handshake(worker: &Rc<Worker>, bound: Rc<Bound>, socket: Socket, peer: Option<IpAddr>, listener: Standing) -> Option<Box<Client>> {
    let deadline = Instant::now() + listener.timeouts.handshake;
    let mut timer = Timer::default();
    let (mut peer, mut named) = (peer, None);
    let socket = if listener.requires_proxy_header {
        let (socket, ends) = in_time(worker, &mut timer, deadline, proxy_header(socket)).await??;
        if let Some(ends) = ends {
            peer = Some(ends.0.ip().to_canonical());
            named = Some(Rc::new(ends));
        }
        socket
    } else {
        socket
    };
    let Some(acceptor) = &listener.tls else {
        let link = Link::new(Wire::Plain(socket), Rc::clone(&worker.stock));
        return Some(Box::new(Client { link, timer, bound, peer, named, tls: None, tls_policy: 0 }));
    };
    let accepting = tokio_rustls::TlsAcceptor::from(acceptor.config()).accept(socket);
    let stream = match in_time(worker, &mut timer, deadline, accepting).await {
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
    let link = Link::new(Wire::Tls(Box::new(stream.into())), Rc::clone(&worker.stock));
    Some(Box::new(Client { link, timer, bound, peer, named, tls: Some(Rc::new(facts)), tls_policy: acceptor.client_policy() }))
}

/// Waits for a step of a handshake. Not for long once the process drains: whoever connected and says
/// nothing has no request in flight.
pub async fn in_time<F: Future>(worker: &Rc<Worker>, timer: &mut Timer, deadline: Instant, step: F) -> Option<F::Output> {
    let since = Instant::now();
    let mut step = std::pin::pin!(step);
    let mut waiting = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = step.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if waiting.is_none() {
            waiting = Some(worker.wait(cx.waker()));
        }
        let until = worker.draining_since().map_or(deadline, |draining| deadline.min(draining.max(since) + LAST_HANDSHAKES));
        timer.poll(cx, until).map(|()| None)
    })
    .await
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
/// Returns the addresses it names, if it names any.
async fn proxy_header(mut socket: Socket) -> Option<(Socket, Option<Ends>)> {
    let mut header = Vec::new();
    loop {
        match proxy_header::parse(&header) {
            Ok(Parsed::Complete { source, destination, .. }) => return Some((socket, source.zip(destination))),
            Ok(Parsed::Partial) => {}
            Err(_) => return None,
        }
        let held = header.len();
        header.resize(held + proxy_header::least_missing(&header), 0);
        let count = socket.read(&mut header[held..]).await.ok().filter(|&count| count > 0)?;
        header.truncate(held + count);
    }
}
