//! One HTTP/2 connection to an endpoint: who may use it, and the task that drives it.
//!
//! Knows no request. A connection is closed by its own task: when it was idle for too long, when its endpoint is gone, when
//! nobody answers a ping.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::group::Group;
use crate::dial::Wire;
use crate::serve::timer::{Stall, Timer};
use crate::tls::Failure;

/// Streams at once on one connection, whatever more an endpoint would take.
const STREAMS_MAX: usize = 100;
/// What an endpoint may send ahead of a client that takes nothing.
const STREAM_WINDOW: u32 = 64 << 10;
/// As much as all streams together, so that clients that take nothing hold up nobody else. It bounds what a connection holds.
const CONNECTION_WINDOW: u32 = STREAMS_MAX as u32 * STREAM_WINDOW;
const FRAME_BYTES: u32 = 16 << 10;
/// What one stream may have waiting to be written.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Of the fields of an answer, as HTTP/2 counts them.
const HEADER_LIST_BYTES: u32 = 256 << 10;
/// Streams that we reset, whose last frames may still come.
const RESETS_REMEMBERED: usize = 256;
/// Silence, while an answer is awaited, after which an endpoint is asked whether it is there.
const QUIET: Duration = Duration::from_secs(20);
/// The same, when it was there and said nothing since. gRPC's servers take three pings in five minutes for an attack.
const QUIET_AGAIN: Duration = Duration::from_secs(310);
/// How long it may take to answer.
const PONG: Duration = Duration::from_secs(20);
/// How long the last frames may take.
const LAST_FRAMES: Duration = Duration::from_secs(1);

/// A connection as those who use it see it.
pub struct Connection {
    /// `None` once there are to be no more streams.
    send: RefCell<Option<SendRequest<Bytes>>>,
    /// Streams that are open, and how many may be since the endpoint refused one.
    open: Cell<usize>,
    open_max: Cell<usize>,
    is_used: Cell<bool>,
    idle_until: Cell<Instant>,
    watch: Rc<Watch>,
    /// Of the task that drives it.
    waker: RefCell<Waker>,
}

impl Connection {
    /// Whether a stream may be opened, now or when there is room.
    pub fn is_usable(&self, now: Instant) -> bool {
        if self.open.get() == 0 && self.is_used.get() && self.idle_until.get() <= now {
            return false;
        }
        // An error here is a connection that ended, or an endpoint that said it would.
        let mut cx = Context::from_waker(Waker::noop());
        self.send.borrow_mut().as_mut().is_some_and(|send| !matches!(send.poll_ready(&mut cx), Poll::Ready(Err(_))))
    }

    /// Nobody has a stream on it.
    pub fn is_idle(&self) -> bool {
        self.open.get() == 0
    }

    /// Until the endpoint has said how many streams it takes, only one that does not wait for it.
    pub fn has_room(&self) -> bool {
        let most = match &*self.send.borrow() {
            Some(send) if self.has_settings() => send.current_max_send_streams().min(self.open_max.get()),
            Some(_) => 1,
            None => 0,
        };
        self.open.get() < most
    }

    /// Whether the endpoint has said how many streams it takes: it says that first of all.
    pub fn has_settings(&self) -> bool {
        self.watch.read.get() > 0
    }

    /// Whether nothing waits to be read on an idle connection, asking the kernel: its end could.
    pub fn is_silent_for_certain(&self) -> bool {
        self.open.get() > 0 || !self.is_used.get() || self.watch.wire.borrow().as_ref().is_some_and(Wire::has_nothing_to_read)
    }

    /// No new streams; the connection ends with the last one.
    pub fn retire(&self) {
        self.send.borrow_mut().take();
        self.waker.borrow().wake_by_ref();
    }

    /// What kept the endpoint from talking to us, if it is known.
    pub fn failure(&self) -> Option<Failure> {
        self.watch.failure.borrow().clone()
    }
}

/// A place for one stream; given back when dropped.
pub struct Place {
    connection: Rc<Connection>,
    group: Rc<Group>,
    /// Somebody used the connection before.
    pub is_reused: bool,
    /// How long the connection may be idle after this.
    pub idle: Duration,
    /// What had come on the connection before.
    read_before: u64,
}

impl Place {
    pub fn new(connection: &Rc<Connection>, group: &Rc<Group>) -> Self {
        connection.open.set(connection.open.get() + 1);
        let is_reused = connection.is_used.replace(true);
        let read_before = connection.watch.read.get();
        Self { connection: Rc::clone(connection), group: Rc::clone(group), is_reused, idle: Duration::ZERO, read_before }
    }

    pub fn send(&self) -> Option<SendRequest<Bytes>> {
        self.connection.send.borrow().clone()
    }

    /// The endpoint takes fewer streams than it said: no more here than there are beside this one.
    pub fn refused(&self) {
        let others = self.connection.open.get().saturating_sub(1);
        self.connection.open_max.set(others);
        if others == 0 {
            self.connection.retire();
        }
    }

    /// No answer came in time. If nothing else did either, there may be nobody at the other end any more,
    /// and the next request should not wait for that too.
    pub fn timed_out(&self) {
        if self.connection.watch.read.get() == self.read_before {
            self.connection.retire();
        }
    }

    pub fn failure(&self) -> Option<Failure> {
        self.connection.failure()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = self.connection.open.get() - 1;
        self.connection.open.set(open);
        if open == 0 {
            self.connection.idle_until.set(Instant::now() + self.idle);
            self.connection.waker.borrow().wake_by_ref();
        }
        self.group.has_room();
    }
}

/// Begins to speak HTTP/2 over `wire`, in a task of its own, and gives the first place.
pub async fn start(wire: Wire, group: &Rc<Group>) -> Result<Place, h2::Error> {
    let watch =
        Rc::new(Watch { wire: RefCell::new(Some(wire)), read: Cell::default(), failure: RefCell::default(), is_broken: Cell::default() });
    let (send, mut driven) = builder().handshake::<_, Bytes>(Tap(Rc::clone(&watch))).await?;
    let connection = Rc::new(Connection {
        send: RefCell::new(Some(send)),
        open: Cell::new(0),
        open_max: Cell::new(STREAMS_MAX),
        is_used: Cell::new(false),
        idle_until: Cell::new(Instant::now()),
        watch,
        waker: RefCell::new(Waker::noop().clone()),
    });
    let place = group.add(&connection);
    let pings = driven.ping_pong();
    let mut driver = Driver {
        driven,
        pings,
        connection,
        group: Rc::clone(group),
        stall: Stall::default(),
        asked: Asked::No,
        has_settings: false,
        ending: None,
        timer: Timer::default(),
    };
    tokio::task::spawn_local(async move { poll_fn(|cx| driver.poll(cx)).await });
    Ok(place)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_concurrent_streams(0)
        .initial_max_send_streams(STREAMS_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        // They are counted for the life of a connection, and one answer that is malformed must not end its neighbours.
        .max_local_error_reset_streams(None);
    builder
}

/// Whether the endpoint was asked if it is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    Yes,
    /// It was, when so many bytes had been read.
    Answered(u64),
}

/// The task of a connection.
struct Driver {
    driven: h2::client::Connection<Tap, Bytes>,
    pings: Option<PingPong>,
    connection: Rc<Connection>,
    group: Rc<Group>,
    /// Of hearing nothing from the endpoint.
    stall: Stall,
    asked: Asked,
    has_settings: bool,
    ending: Option<Instant>,
    timer: Timer,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.connection.retire();
        self.group.remove(&self.connection);
        self.group.has_changed();
    }
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.connection.waker.borrow_mut().clone_from(cx.waker());
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut self.driven).poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(%error, "an HTTP/2 connection to an endpoint broke");
                }
                return Poll::Ready(());
            }
            let read = self.connection.watch.read.get();
            if read > 0 && !self.has_settings {
                self.has_settings = true;
                self.group.has_changed();
            }
            self.listen(cx, read);
            let Some((deadline, due)) = self.deadline(read) else { return Poll::Pending };
            std::task::ready!(self.timer.poll(cx, deadline));
            match due {
                Due::Ask => {
                    self.asked = Asked::Yes;
                    if let Some(pings) = &mut self.pings {
                        // Fails only while another one is on its way.
                        let _ = pings.send_ping(Ping::opaque());
                    }
                }
                Due::Leave => {
                    self.connection.retire();
                    self.ending = Some(Instant::now() + LAST_FRAMES);
                }
                Due::End => return Poll::Ready(()),
            }
        }
    }

    /// Takes in the answer to a ping.
    fn listen(&mut self, cx: &mut Context<'_>, read: u64) {
        match self.asked {
            Asked::Yes => {
                if self.pings.as_mut().is_some_and(|pings| pings.poll_pong(cx).is_ready()) {
                    self.asked = Asked::Answered(read);
                }
            }
            Asked::Answered(before) if before != read => self.asked = Asked::No,
            Asked::Answered(_) | Asked::No => {}
        }
    }

    fn deadline(&mut self, read: u64) -> Option<(Instant, Due)> {
        let is_busy = self.connection.open.get() > 0;
        let (quiet, due) = match self.asked {
            Asked::No => (QUIET, Due::Ask),
            Asked::Answered(_) => (QUIET_AGAIN, Due::Ask),
            Asked::Yes => (QUIET + PONG, Due::End),
        };
        let silent = self.stall.deadline(is_busy, read, quiet).map(|at| (at, due));
        if is_busy {
            return silent;
        }
        self.ending.map(|at| (at, Due::End)).or(Some((self.connection.idle_until.get(), Due::Leave)))
    }
}

/// What a connection's deadline means.
#[derive(Clone, Copy)]
enum Due {
    Ask,
    Leave,
    End,
}

/// What is seen of a connection below its frames.
struct Watch {
    /// `None` once it is closed.
    wire: RefCell<Option<Wire>>,
    read: Cell<u64>,
    failure: RefCell<Option<Failure>>,
    /// The endpoint takes nothing any more.
    is_broken: Cell<bool>,
}

/// The byte stream handed to the `h2` crate; closed when it is dropped.
struct Tap(Rc<Watch>);

impl Drop for Tap {
    fn drop(&mut self) {
        let wire = self.0.wire.borrow_mut().take();
        if let Some(mut wire) = wire {
            wire.say_goodbye();
        }
    }
}

impl Tap {
    /// What an endpoint said before it closed, a GOAWAY above all, must be read even if there is no writing to it any more: so
    /// the reader is left to find the end.
    fn wrote(&self, written: Poll<io::Result<usize>>, wanted: usize) -> Poll<io::Result<usize>> {
        written.map(|written| match written {
            Ok(count) if count > 0 || wanted == 0 => Ok(count),
            _ => {
                self.0.is_broken.set(true);
                Ok(wanted)
            }
        })
    }
}

fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl AsyncRead for Tap {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let watch = &self.0;
        let held = buffer.filled().len();
        let mut wire = watch.wire.borrow_mut();
        let polled = Pin::new(wire.as_mut().ok_or_else(closed)?).poll_read(cx, buffer);
        watch.read.set(watch.read.get() + (buffer.filled().len() - held) as u64);
        if let Poll::Ready(Err(error)) = &polled
            && let Some(failure) = Failure::of_first_read(error)
        {
            watch.failure.replace(Some(failure));
        }
        polled
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.0.is_broken.get() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(self.0.wire.borrow_mut().as_mut().ok_or_else(closed)?).poll_write(cx, bytes);
        self.wrote(written, bytes.len())
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        if self.0.is_broken.get() {
            return Poll::Ready(Ok(wanted));
        }
        let written = Pin::new(self.0.wire.borrow_mut().as_mut().ok_or_else(closed)?).poll_write_vectored(cx, slices);
        self.wrote(written, wanted)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.is_broken.get() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(self.0.wire.borrow_mut().as_mut().ok_or_else(closed)?).poll_flush(cx);
        self.wrote(flushed.map_ok(|()| 1), 1).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.wire.borrow_mut().as_mut().ok_or_else(closed)?).poll_shutdown(cx)
    }
}
