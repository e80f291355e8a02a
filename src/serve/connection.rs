//! One client connection: waits for requests and has each one exchanged, in order.
//!
//! Reads heads; what a request means and where it goes is `exchange`'s.

use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::accept::Bound;
use super::exchange::{self, After};
use super::link::Link;
use super::timer::Timer;
use super::worker::{LINGER, Scratch, Worker};
use crate::generation::{Generation, Listener};
use crate::proto::http1::{HeadError, Progress};
use crate::refusal::Refusal;
use crate::route::TlsFacts;

/// The client's side of an exchange.
pub struct Client {
    pub link: Link,
    pub timer: Timer,
    pub bound: Rc<Bound>,
    /// The client's address, or what a PROXY header says it is. `None` on a unix socket.
    pub peer: Option<IpAddr>,
    pub tls: Option<Box<TlsFacts>>,
    /// Which clients the TLS handshake let in; 0 without TLS.
    pub tls_policy: u64,
}

/// How long a connection whose listener is gone may stay idle before it is closed.
const RETIRED_IDLE: Duration = Duration::from_secs(2);
/// How long and how much is read after the last answer, so that closing does not destroy it on its way.
const LAST_READS: Duration = Duration::from_secs(2);
const LAST_READS_BYTES: u64 = 1 << 20;

/// Serves requests until one side has had enough.
pub async fn serve(worker: &Rc<Worker>, mut client: Client, mut listener: Arc<Listener>) {
    loop {
        if !wait(worker, &mut client, &listener).await {
            return;
        }
        let mut scratch = worker.scratch();
        let after = one(worker, &mut client, &mut listener, &mut scratch).await;
        worker.give_scratch(scratch);
        match after {
            After::Keep => client.link.release_buffers(),
            After::Close => return close(&mut client).await,
            After::Abort => return,
        }
    }
}

/// Waits until a request begins. `false` when the connection is over instead.
async fn wait(worker: &Rc<Worker>, client: &mut Client, listener: &Listener) -> bool {
    if !client.link.input().is_empty() {
        return true;
    }
    let idle_until = Instant::now() + listener.timeouts.idle;
    let mut place = None;
    let is_readable = poll_fn(|cx| {
        match client.link.poll_fill(cx, super::buffer::SMALL) {
            Poll::Ready(read) => return Poll::Ready(matches!(read, Ok(count) if count > 0)),
            Poll::Pending => {}
        }
        if place.is_none() {
            place = Some(worker.wait(cx.waker()));
        }
        let mut until = idle_until;
        if let Some(since) = worker.draining_since() {
            until = until.min(since + LINGER);
        }
        if let Some(since) = client.bound.retired_since() {
            until = until.min(since + RETIRED_IDLE);
        }
        client.timer.poll(cx, until).map(|()| false)
    })
    .await;
    if let Some(place) = place {
        worker.stop_waiting(place);
    }
    if !is_readable && !client.link.is_ended {
        // A polite end: the peer reads it as "no more requests", TLS peers as no truncation.
        let _ = client.timer.limit(Instant::now() + Duration::from_secs(1), poll_fn(|cx| client.link.poll_shutdown(cx))).await;
    }
    is_readable
}

/// Reads one head and has it exchanged.
async fn one(worker: &Rc<Worker>, client: &mut Client, listener: &mut Arc<Listener>, scratch: &mut Scratch) -> After {
    let started = Instant::now();
    // The listener may have changed while the connection was idle; the newest one decides.
    let generation = worker.pin();
    let is_current = adopt(&generation, client, listener);
    let read = read_head(client, listener, scratch, started).await;
    match read {
        Ok(()) => {}
        Err(Unread::Gone) => return After::Abort,
        Err(Unread::Refused(refusal)) => {
            return exchange::refuse_unparsed(worker, client, listener, scratch, refusal, started).await;
        }
    }
    // Pinned anew: a slow head may have outlived the generation it began under.
    let generation = worker.pin();
    let is_current = adopt(&generation, client, listener) && is_current;
    exchange::run(worker, client, listener, &generation, scratch, started, is_current).await
}

/// Takes over the listener that now stands at the connection's socket. `false` if there is none
/// any more: the old one answers a last request.
fn adopt(generation: &Generation, client: &Client, listener: &mut Arc<Listener>) -> bool {
    let Some(current) = generation.listener_at(&client.bound.key) else { return false };
    if !Arc::ptr_eq(current, listener) {
        *listener = Arc::clone(current);
    }
    current.tls.is_some() == client.tls.is_some() && client.bound.retired_since().is_none()
}

enum Unread {
    /// Nobody is there to read a refusal.
    Gone,
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
            Err(error) => return Err(Unread::Refused(refusal_of(error))),
        }
        let read = poll_fn(|cx| match client.link.poll_fill(cx, most) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending => client.timer.poll(cx, deadline).map(|()| None),
        });
        match read.await {
            None => return Err(Unread::Refused(Refusal::HeaderTimeout)),
            Some(Ok(count)) if count > 0 => {
                // Bytes that keep coming must not put the deadline off.
                if Instant::now() >= deadline {
                    return Err(Unread::Refused(Refusal::HeaderTimeout));
                }
            }
            Some(Ok(_)) if client.link.input().is_empty() => return Err(Unread::Gone),
            Some(Ok(_)) => return Err(Unread::Refused(Refusal::Incomplete)),
            Some(Err(_)) => return Err(Unread::Gone),
        }
    }
    let length = scratch.request.bytes;
    scratch.request_bytes.extend_from_slice(&client.link.input()[..length]);
    client.link.consume(length);
    Ok(())
}

fn refusal_of(error: HeadError) -> Refusal {
    match error {
        HeadError::TargetTooLong => Refusal::UriTooLong,
        HeadError::HeadTooLarge | HeadError::TooManyHeaders => Refusal::HeadTooLarge,
        HeadError::UnsupportedVersion => Refusal::VersionUnsupported,
        _ => Refusal::BadHead,
    }
}

/// Closes so that the last answer arrives: says "no more", then reads on until the client closes,
/// since closing with unread bytes would reset the connection under the answer.
async fn close(client: &mut Client) {
    let deadline = Instant::now() + LAST_READS;
    let link = &mut client.link;
    let most = link.read_total + LAST_READS_BYTES;
    let lingering = async {
        if poll_fn(|cx| link.poll_shutdown(cx)).await.is_err() {
            return;
        }
        while !link.is_ended && link.read_total < most {
            link.consume(link.input().len());
            if poll_fn(|cx| link.poll_fill(cx, super::buffer::SMALL)).await.is_err() {
                return;
            }
        }
    };
    let _ = client.timer.limit(deadline, lingering).await;
}
