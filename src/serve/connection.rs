//! One client connection: waits for requests and has each one exchanged, in order.
//!
//! Reads heads; what a request means and where it goes is `exchange`'s.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::accept::Bound;
use super::exchange::{self, After};
use super::h2;
use super::link::Link;
use super::side::Side;
use super::timer::Timer;
use super::worker::{LINGER, Scratch, Waiting, Worker};
use crate::generation::Listener;
use crate::proto::http1::{HeadError, Progress};
use crate::proto::http2::PREFACE_LINE;
use crate::refusal::Refusal;
use crate::route::TlsFacts;

/// The client of an exchange: a connection, or one stream of it.
pub struct Client<S = Link> {
    pub link: S,
    pub timer: Timer,
    pub bound: Rc<Bound>,
    /// The client's address, or what a PROXY header says it is. `None` on a unix socket.
    pub peer: Option<IpAddr>,
    /// Both ends of the client's connection, if a PROXY header named them or somebody looked.
    pub named: Option<Rc<Ends>>,
    pub tls: Option<Rc<TlsFacts>>,
    /// Which clients the TLS handshake let in; 0 without TLS.
    pub tls_policy: u64,
}

/// The client's address, and the one it connected to.
pub type Ends = (SocketAddr, SocketAddr);

impl<S: Side> Client<S> {
    pub fn ends(&self) -> Option<Ends> {
        self.named.as_deref().copied().or_else(|| self.link.ends())
    }

    /// Whether an answer that is about to be written must say that it is the last.
    pub fn is_leaving(&self, worker: &Worker) -> bool {
        left_since(worker, &self.bound, self.link.is_tls()).is_some()
    }
}

/// Since when a connection has no future: the process drains, or nobody stands at its socket any more.
/// With the idle time that it has left from then on.
pub fn left_since(worker: &Worker, bound: &Bound, is_tls: bool) -> Option<(Instant, Duration)> {
    let draining = worker.draining_since().map(|since| (since, LINGER));
    draining.or_else(|| bound.left_since(is_tls).map(|since| (since, RETIRED_IDLE)))
}

/// How long a connection whose listener is gone may stay idle before it is closed.
const RETIRED_IDLE: Duration = Duration::from_secs(2);
/// How long a client that was told the end may say nothing before the connection is closed.
const LAST_SILENCE: Duration = Duration::from_secs(2);
/// How long it may go on sending what nobody wants, such as the rest of a refused upload. Many clients
/// read no answer before they have sent everything.
pub const LAST_READS: Duration = Duration::from_secs(30);
/// The same for who was too slow to send a request.
pub const LAST_READS_DISMISSED: Duration = Duration::from_millis(500);
/// A connection that was idle for so long gives back the memory that requests need.
const LULL: Duration = Duration::from_secs(1);

/// Serves requests until one side has had enough.
///
/// While a connection is idle this future is all it has, so it is kept small: what requests need is
/// on the heap, and only from the first request to the next lull. A lull and not each request, since
/// a busy connection should not allocate; with very many of them, each request, since so much memory
/// would not come back.
pub async fn serve(worker: &Rc<Worker>, mut client: Box<Client>) {
    if client.link.wire.has_chosen_http2() {
        return Box::pin(h2::serve(worker, client)).await;
    }
    let after = loop {
        match wait(worker, &mut client, Until::Over).await {
            Waited::Request => {}
            Waited::Lull | Waited::Over => return Box::pin(end(&mut client)).await,
            Waited::Gone => return,
        }
        match Box::pin(requests(worker, &mut client)).await {
            After::Keep => {}
            after => break after,
        }
    };
    match after {
        After::Close => Box::pin(close(worker, &mut client.link, &mut client.timer, LAST_READS)).await,
        After::Dismiss => Box::pin(close(worker, &mut client.link, &mut client.timer, LAST_READS_DISMISSED)).await,
        After::SpeakHttp2 => Box::pin(h2::serve(worker, client)).await,
        After::Keep | After::Part | After::Abort => {}
    }
}

/// Answers requests as long as they come. [`After::Keep`] once they pause.
async fn requests(worker: &Rc<Worker>, client: &mut Client) -> After {
    loop {
        let in_flight = worker.begin();
        let mut scratch = worker.scratch();
        let after = one(worker, client, &mut scratch).await;
        worker.give_scratch(scratch);
        drop(in_flight);
        if after != After::Keep {
            return after;
        }
        client.link.release_buffers();
        let Some(_warm) = worker.stay_warm() else { return After::Keep };
        match wait(worker, client, Until::Lull).await {
            Waited::Request => {}
            Waited::Lull => return After::Keep,
            Waited::Over => {
                end(client).await;
                return After::Abort;
            }
            Waited::Gone => return After::Abort,
        }
    }
}

enum Waited {
    Request,
    /// Nothing came for [`LULL`], which was asked for.
    Lull,
    /// Nothing came for so long as the connection may be idle.
    Over,
    /// The client closed, or the connection broke.
    Gone,
}

/// How long to wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// As long as the connection may be idle.
    Over,
    /// For [`LULL`].
    Lull,
}

/// Waits until a request begins.
fn wait<'a>(worker: &'a Rc<Worker>, client: &'a mut Client, until: Until) -> Wait<'a> {
    let since = Instant::now();
    // An idle connection must not keep a generation in memory.
    let idle = client.bound.listener_for(&worker.pin(), client.link.wire.is_tls()).0.timeouts.idle;
    Wait { worker, client, since, idle, until, waiting: None }
}

/// What an idle connection is, beside its socket and timer. Written out, since an async function would
/// hold most of this twice.
struct Wait<'a> {
    worker: &'a Rc<Worker>,
    client: &'a mut Client,
    since: Instant,
    idle: Duration,
    until: Until,
    waiting: Option<Waiting>,
}

impl Future for Wait<'_> {
    type Output = Waited;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Waited> {
        let Self { worker, client, since, idle, until: wanted, waiting } = self.get_mut();
        if !client.link.input().is_empty() {
            return Poll::Ready(Waited::Request);
        }
        match client.link.poll_fill(cx, super::buffer::SMALL) {
            Poll::Ready(Ok(count)) if count > 0 => return Poll::Ready(Waited::Request),
            Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(Waited::Gone),
            Poll::Pending => {}
        }
        if waiting.is_none() {
            *waiting = Some(worker.wait(cx.waker()));
        }
        let mut until = *since + *idle;
        if let Some((left, idle)) = left_since(worker, &client.bound, client.link.is_tls()) {
            // Counted from the last answer, if that came later: who got it may be about to ask again.
            until = until.min(left.max(*since) + idle);
        }
        let lull = *since + LULL;
        if *wanted == Until::Lull && lull < until {
            return client.timer.poll(cx, lull).map(|()| Waited::Lull);
        }
        client.timer.poll(cx, until).map(|()| Waited::Over)
    }
}

/// A polite end: the peer reads it as "no more requests", TLS peers as no truncation.
async fn end(client: &mut Client) {
    let link = &mut client.link;
    let _ = client.timer.limit(Instant::now() + Duration::from_secs(1), poll_fn(|cx| link.poll_shutdown(cx))).await;
}

/// Reads one head and has it exchanged.
async fn one(worker: &Rc<Worker>, client: &mut Client, scratch: &mut Scratch) -> After {
    let started = Instant::now();
    let is_tls = client.link.wire.is_tls();
    // The listener may have changed while the connection was idle; the newest one decides.
    let generation = worker.pin();
    let (listener, is_current) = client.bound.listener_for(&generation, is_tls);
    match read_head(client, &listener, scratch, started).await {
        Ok(()) => {}
        Err(Unread::Gone) => return After::Abort,
        Err(Unread::Preface) => return After::SpeakHttp2,
        Err(Unread::Refused(refusal)) => {
            let input = client.link.input();
            scratch.request_bytes.extend_from_slice(&input[..input.len().min(1 << 10)]);
            return exchange::refuse_unparsed(worker, client, &listener, scratch, refusal, started).await;
        }
    }
    // Pinned anew: a slow head may have outlived the generation it began under.
    let now = worker.pin();
    if now.number == generation.number {
        return exchange::run(worker, client, &listener, &generation, scratch, started, is_current).await;
    }
    let (listener, is_current) = client.bound.listener_for(&now, is_tls);
    exchange::run(worker, client, &listener, &now, scratch, started, is_current).await
}

enum Unread {
    /// Nobody is there to read a refusal.
    Gone,
    /// Not HTTP/1 but the beginning of HTTP/2.
    Preface,
    Refused(Refusal),
}

async fn read_head(client: &mut Client, listener: &Listener, scratch: &mut Scratch, started: Instant) -> Result<(), Unread> {
    let deadline = started + listener.timeouts.header;
    // One byte more than a head may have, so that the parser and not the buffer says it is too long.
    let most = listener.limits.header_bytes + 1;
    loop {
        match scratch.request.parse(client.link.input(), &listener.limits) {
            Ok(Progress::Complete) => break,
            Ok(Progress::Partial) => {}
            Err(HeadError::UnsupportedVersion) if is_preface(&client.link) => return Err(Unread::Preface),
            Err(error) => return Err(Unread::Refused(refusal_of(error))),
        }
        let read = poll_fn(|cx| match client.link.poll_fill(cx, most) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending => client.timer.poll(cx, deadline).map(|()| None),
        });
        match read.await {
            // Empty lines are no beginning of a request: old clients send one behind a body.
            None | Some(Ok(0)) if is_blank(client.link.input()) => return Err(Unread::Gone),
            None => return Err(Unread::Refused(Refusal::HeaderTimeout)),
            Some(Ok(count)) if count > 0 => {
                // Bytes that keep coming must not put the deadline off.
                if Instant::now() >= deadline {
                    return Err(Unread::Refused(Refusal::HeaderTimeout));
                }
            }
            Some(Ok(_)) => return Err(Unread::Refused(Refusal::Incomplete)),
            Some(Err(_)) => return Err(Unread::Gone),
        }
    }
    let length = scratch.request.bytes;
    scratch.request_bytes.extend_from_slice(&client.link.input()[..length]);
    client.link.consume(length);
    Ok(())
}

/// RFC 9113 §3.3: a client that knows us begins so, on a connection without TLS. Whoever speaks HTTP/1 never
/// gets here, and so never waits for bytes that tell the two apart.
fn is_preface(link: &Link) -> bool {
    let is_first = link.read_total == link.input().len() as u64;
    is_first && !link.wire.is_tls() && link.input().starts_with(PREFACE_LINE)
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

pub fn refusal_of(error: HeadError) -> Refusal {
    match error {
        HeadError::TargetTooLong => Refusal::UriTooLong,
        HeadError::HeadTooLarge | HeadError::TooManyHeaders => Refusal::HeadTooLarge,
        HeadError::UnsupportedVersion => Refusal::VersionUnsupported,
        _ => Refusal::BadHead,
    }
}

/// Closes so that the last answer arrives: says "no more", then reads on until the client closes,
/// since closing with unread bytes would reset the connection under the answer.
pub async fn close(worker: &Rc<Worker>, link: &mut Link, timer: &mut Timer, patience: Duration) {
    let since = Instant::now();
    let mut heard = since;
    let mut waiting = None;
    let mut is_shut = false;
    poll_fn(|cx| {
        if waiting.is_none() {
            waiting = Some(worker.wait(cx.waker()));
        }
        loop {
            let polled = if is_shut {
                link.consume(link.input().len());
                link.poll_fill(cx, super::buffer::SMALL).map_ok(drop)
            } else {
                link.poll_shutdown(cx)
            };
            match polled {
                Poll::Ready(Ok(())) => is_shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
            if link.is_ended {
                return Poll::Ready(());
            }
            heard = Instant::now();
        }
        let mut until = (heard + LAST_SILENCE).min(since + patience);
        // A process that ends waits less for clients that do not close.
        if let Some(draining) = worker.draining_since() {
            until = until.min(draining.max(since) + LINGER);
        }
        timer.poll(cx, until)
    })
    .await;
}
