//! One HTTP/2 connection: takes in streams, gives each a task, and knows when it is time to end.
//!
//! Looks into no request; `stream` does, through `exchange`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;

use super::guard::{Guard, Watch};
use super::stream;
use crate::generation::Listener;
use crate::refusal::Refusal;
use crate::route::TlsFacts;
use crate::serve::accept::{Bound, in_time};
use crate::serve::connection::{Client, Ends, LAST_READS, LAST_READS_DISMISSED, close, left_since};
use crate::serve::link::Link;
use crate::serve::side::Side as _;
use crate::serve::timer::{Stall, Timer};
use crate::serve::worker::{LINGER, Waiting, Worker};

/// What a stream may send ahead of us, and all streams together: this bounds what a client's uploads hold of memory.
/// The one for streams is the protocol's own, in force before a client has heard of it.
const STREAM_WINDOW: u32 = 65_535;
const CONNECTION_WINDOW: u32 = 1 << 20;
const FRAME_BYTES: u32 = 16 << 10;
/// What one stream may have waiting to be written.
const SEND_BUFFER_BYTES: usize = 32 << 10;
/// Streams that a client had us reset by breaking rules (CVE-2025-8671), in the life of a connection, which for
/// a balancer in front is long. What resets leave running, the limit on tasks bounds.
const LOCAL_RESETS_MAX: usize = 1000;
/// Requests taken back before we came to them (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 100;
/// What small frames may cost beyond their bytes while they wait: some 8,000 of them.
const SMALL_FRAMES_BUDGET: usize = 2 << 20;
/// How long the last frames may take.
const LAST_FRAMES: Duration = Duration::from_secs(1);

/// What the streams of a connection have in common.
pub struct Session {
    pub bound: Rc<Bound>,
    pub peer: Option<IpAddr>,
    pub ends: Option<Rc<Ends>>,
    pub is_tls: bool,
    pub tls: Option<Rc<TlsFacts>>,
    pub tls_policy: u64,
    /// Tasks that run. Not streams that are open: a client can have those closed as fast as it opens them.
    running: Cell<usize>,
    /// When the last of them ended.
    idle_since: Cell<Instant>,
    waker: RefCell<Waker>,
}

/// Counts a stream's task as long as it runs, however it ends.
pub struct Running(Rc<Session>);

impl Running {
    fn new(session: &Rc<Session>) -> Self {
        session.running.set(session.running.get() + 1);
        Self(Rc::clone(session))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        if self.0.running.get() == 0 {
            self.0.idle_since.set(Instant::now());
            self.0.waker.borrow().wake_by_ref();
        }
    }
}

/// How a connection came to its end.
enum Ended {
    /// Both sides know.
    Told,
    /// The client was told to stop what it does.
    Flood,
    /// Nobody is there.
    Gone,
    /// The client takes nothing.
    Stalled,
}

/// Serves a client that speaks HTTP/2, until one side has had enough.
pub async fn serve(worker: &Rc<Worker>, client: Box<Client>) {
    let ends = client.ends().map(Rc::new);
    let Client { link, mut timer, bound, peer, tls, tls_policy, .. } = *client;
    let is_tls = link.is_tls();
    let (listener, _) = bound.listener_for(&worker.pin(), is_tls);
    let now = Instant::now();
    let (wire, unread) = link.into_parts();
    let watch = Rc::new(Watch::new(wire, unread, now));
    let handshake = builder(&listener).handshake::<_, Bytes>(Guard(Rc::clone(&watch)));
    let (streams_max, deadline) = (listener.streams_max, now + listener.timeouts.handshake);
    // A connection must not keep a generation in memory.
    drop(listener);
    let Some(Ok(connection)) = in_time(worker, &mut timer, deadline, handshake).await else { return };
    let session = Session {
        bound,
        peer,
        ends,
        is_tls,
        tls,
        tls_policy,
        running: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        waker: RefCell::new(Waker::noop().clone()),
    };
    let session = Rc::new(session);
    let mut served = Served {
        worker: Rc::clone(worker),
        session: Rc::clone(&session),
        watch: Rc::clone(&watch),
        connection,
        streams_max,
        phase: Phase::Open,
        stall: Stall::default(),
        timer,
        waiting: None,
    };
    let ended = poll_fn(|cx| served.poll(cx)).await;
    let Served { connection, mut timer, .. } = served;
    drop(connection);
    // Whoever still works for this client notices that nobody waits for it.
    poll_fn(|cx| session.poll_idle(cx)).await;
    let Some(wire) = watch.into_wire() else { return };
    let mut link = Link::new(wire, Rc::clone(&worker.stock));
    match ended {
        Ended::Told => close(worker, &mut link, &mut timer, LAST_READS).await,
        Ended::Flood => close(worker, &mut link, &mut timer, LAST_READS_DISMISSED).await,
        Ended::Stalled => link.cut(),
        Ended::Gone => {}
    }
}

fn builder(listener: &Listener) -> Builder {
    let mut builder = Builder::new();
    // Extended CONNECT (RFC 8441) is not offered, so the crate refuses `:protocol`; plain CONNECT, `check` does.
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_header_list_size(u32::try_from(listener.limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(listener.streams_max)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .data_frame_budget(SMALL_FRAMES_BUDGET)
        // WebSockets (RFC 8441).
        .enable_connect_protocol();
    builder
}

impl Session {
    fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.running.get() == 0 {
            return Poll::Ready(());
        }
        self.waker.borrow_mut().clone_from(cx.waker());
        Poll::Pending
    }
}

#[derive(Clone, Copy)]
enum Phase {
    Open,
    /// The client was told to go elsewhere with new requests, at this time.
    Leaving(Instant),
    /// The last frames are on their way, until this time.
    Ending(Instant),
}

/// A connection being served.
struct Served {
    worker: Rc<Worker>,
    session: Rc<Session>,
    watch: Rc<Watch>,
    connection: Connection<Guard, Bytes>,
    streams_max: u32,
    phase: Phase,
    /// Of writing to the client.
    stall: Stall,
    timer: Timer,
    waiting: Option<Waiting>,
}

impl Served {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.waiting.is_none() {
            self.waiting = Some(self.worker.wait(cx.waker()));
            self.session.waker.borrow_mut().clone_from(cx.waker());
        }
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.open(request, respond);
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.failed(&error)),
                Poll::Ready(None) => return Poll::Ready(Ended::Told),
                Poll::Pending => {}
            }
            if self.watch.is_flood() && !matches!(self.phase, Phase::Ending(_)) {
                return Poll::Ready(ready!(self.poll_flood(cx)));
            }
            if matches!(self.phase, Phase::Open) && left_since(&self.worker, &self.session.bound, self.session.is_tls).is_some() {
                self.leave();
                continue;
            }
            match ready!(self.poll_deadline(cx)) {
                Due::Stalled => return Poll::Ready(Ended::Stalled),
                Due::Leave => self.leave(),
                Due::End => self.end(Reason::NO_ERROR),
            }
        }
    }

    /// Gives a request a task, if there are not too many of them.
    fn open(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if self.session.running.get() >= self.streams_max as usize {
            // Streams that the client took back still cost us something; it may ask again (RFC 9113 §8.7).
            respond.send_reset(Reason::REFUSED_STREAM);
            return;
        }
        let (worker, session) = (Rc::clone(&self.worker), Rc::clone(&self.session));
        let running = Running::new(&session);
        tokio::task::spawn_local(stream::serve(worker, session, running, request, respond));
    }

    /// RFC 9113 §6.8: no new requests, but those that are on their way are served.
    fn leave(&mut self) {
        self.connection.graceful_shutdown();
        self.phase = Phase::Leaving(Instant::now());
    }

    fn end(&mut self, reason: Reason) {
        self.connection.abrupt_shutdown(reason);
        self.phase = Phase::Ending(Instant::now() + LAST_FRAMES);
    }

    fn poll_flood(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.count_flood();
        self.end(Reason::ENHANCE_YOUR_CALM);
        // One turn is enough for whoever reads what it is sent; the others are not waited for.
        let _ = self.connection.poll_closed(cx);
        Poll::Ready(Ended::Flood)
    }

    fn failed(&self, error: &h2::Error) -> Ended {
        tracing::debug!(%error, "an HTTP/2 connection broke");
        if error.is_io() {
            return Ended::Gone;
        }
        if error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
            self.count_flood();
        }
        Ended::Flood
    }

    fn count_flood(&self) {
        let (listener, _) = self.session.bound.listener_for(&self.worker.pin(), self.session.is_tls);
        listener.metrics.refused(self.worker.index, Refusal::Flood.index());
    }

    /// Ready with what is to be done, once it is time for something.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        let (listener, _) = self.session.bound.listener_for(&self.worker.pin(), self.session.is_tls);
        let timeouts = listener.timeouts;
        drop(listener);
        let (is_blocked, written) = self.watch.is_blocked();
        let stalled = self.stall.deadline(is_blocked, written, timeouts.write).map(|at| (at, Due::Stalled));
        let is_idle = self.session.running.get() == 0;
        let idle_since = self.session.idle_since.get();
        let phase = match self.phase {
            Phase::Open => is_idle.then_some((idle_since + timeouts.idle, Due::Leave)),
            // For a client that does not confirm: what it sent before it knew has arrived by then.
            // Until it has taken what is its own, only the time for writing or the process's ends it.
            Phase::Leaving(since) => (is_idle && !is_blocked).then_some((since.max(idle_since) + LINGER, Due::End)),
            Phase::Ending(until) => Some((until, Due::Stalled)),
        };
        match stalled.into_iter().chain(phase).min_by_key(|&(at, _)| at) {
            Some((at, due)) => self.timer.poll(cx, at).map(|()| due),
            None => Poll::Pending,
        }
    }
}

/// What a connection's deadline means.
#[derive(Clone, Copy)]
enum Due {
    Leave,
    End,
    Stalled,
}
