//! A second attempt while the first one still runs: whoever answers first is listened to, the other one is cancelled.
//!
//! For requests without a body that may be sent twice. Talks to no client: interim answers on this way are not passed on.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::answer::{INTERIM_MAX, RESPONSE_LIMITS};
use super::call::Call;
use super::connect::Carrier;
use super::h2::endpoint::Stream;
use super::link;
use super::open;
use super::side::Far;
use super::tries::Tries;
use crate::proto::http1::{Progress, ResponseHead};
use crate::telemetry::metrics::{Outcome, Retry};
use crate::upstream::sticky::Stuck;
use crate::upstream::{Lease, Pool, SendProxy, Tried};

/// An attempt that begins when the first one has taken long.
pub struct Hedge<'a> {
    racing: Pin<Box<dyn Future<Output = Option<Won>> + 'a>>,
    /// The second endpoint has been chosen.
    has_begun: Rc<Cell<bool>>,
    won: Option<Won>,
    is_over: bool,
}

/// An answer's head, and what carries the rest.
pub struct Won {
    pub link: Link,
    pub response: ResponseHead,
    pub lease: Lease,
    pub started: Instant,
}

pub enum Link {
    Wire(link::Link),
    Place(Stream),
}

impl<'a> Hedge<'a> {
    /// `None` for a request that is not asked twice.
    pub fn of(call: Call<'a>, pool: &'a Pool, tries: &Tries<'_>, first: &Lease, started: Instant) -> Option<Self> {
        let hedging = call.hedging(pool)?;
        // Who is bound to an endpoint has something there that no other one has.
        if first.is_stuck || !call.is_harmless() || call.upgrade.is_some() || call.is_single || pool.policy.send_proxy != SendProxy::Off {
            return None;
        }
        hedging.budget.earn(call.worker.index, started);
        let delay = hedging.delay(call.worker.index)?;
        let mut tried = tries.tried.clone();
        tried.add(first.endpoint().id);
        let has_begun = Rc::<Cell<bool>>::default();
        let racing = Box::pin(race(call, pool, tried, started + delay, Rc::clone(&has_begun)));
        Some(Self { racing, has_begun, won: None, is_over: false })
    }

    /// Ready once an answer has come this way.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_over {
            return Poll::Pending;
        }
        self.won = ready!(self.racing.as_mut().poll(cx));
        self.is_over = true;
        if self.won.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    pub fn won(self) -> Option<Won> {
        self.won
    }

    /// The answer that this way leads to, where the first attempt led to none. `None` too if it has not begun.
    pub async fn finish(self) -> Option<Won> {
        if self.is_over || !self.has_begun.get() { self.won } else { self.racing.await }
    }
}

/// `None` if this way leads to no answer: then the first attempt has to.
async fn race(call: Call<'_>, pool: &Pool, tried: Tried, begin: Instant, has_begun: Rc<Cell<bool>>) -> Option<Won> {
    tokio::time::sleep_until(begin.into()).await;
    let now = Instant::now();
    let mut lease = call.worker.lease(pool, &tried, Stuck::Free, now)?;
    lease.means_when_dropped(Outcome::Overtaken);
    let endpoint = lease.endpoint();
    // The same one twice would only make it slower.
    if tried.has(endpoint.id) || !call.hedging(pool)?.budget.spend(call.worker.index, now) {
        lease.withdraw();
        return None;
    }
    has_begun.set(true);
    if let Some((_, count)) = call.hedging {
        count.set(count.get() + 1);
    }
    pool.metrics.retried(call.worker.index, Retry::Hedge);
    let carrier = match call.reuse(endpoint, true, now) {
        Some(wire) => Carrier::Wire(wire),
        None => match call.connect(endpoint, pool, &[], true, now).await {
            Ok((carrier, _)) => carrier,
            Err(refusal) => {
                open::settle_unopened(lease, refusal, pool, now);
                return None;
            }
        },
    };
    let is_tls = endpoint.tls.is_some();
    let (link, response) = match carrier {
        Carrier::Wire(wire) => {
            let mut link = link::Link::new(wire, call.stock());
            let response = head(&call, pool, &lease, &mut link).await;
            (Link::Wire(link), response)
        }
        Carrier::Place(place) => {
            let mut stream = Stream::new(place, is_tls);
            let response = head(&call, pool, &lease, &mut stream).await;
            (Link::Place(stream), response)
        }
    };
    let Some(response) = response else {
        open::settle(lease, Outcome::Reset, pool, now, now.elapsed());
        return None;
    };
    // The first one may still do better.
    if response.status >= 500 {
        open::settle(lease, Outcome::Status5xx, pool, now, now.elapsed());
        return None;
    }
    lease.means_when_dropped(Outcome::ClientGone);
    Some(Won { link, response, lease, started: now })
}

/// Sends the request and waits for the head of its final answer.
async fn head<E: Far>(call: &Call<'_>, pool: &Pool, lease: &Lease, link: &mut E) -> Option<ResponseHead> {
    call.write_head::<E>(lease.endpoint(), link.output());
    link.end(b"");
    let mut response = ResponseHead::new();
    let answered = async {
        for _ in 0..=INTERIM_MAX {
            response.clear();
            poll_fn(|cx| poll_head(cx, link, &mut response)).await?;
            match response.status {
                101 => return None,
                100..=199 => link.consume(response.bytes),
                _ => return Some(()),
            }
        }
        None
    };
    tokio::time::timeout(pool.policy.timeouts.response, answered).await.ok()??;
    Some(response)
}

fn poll_head<E: Far>(cx: &mut Context<'_>, link: &mut E, response: &mut ResponseHead) -> Poll<Option<()>> {
    if link.has_unsent() && matches!(link.poll_flush(cx), Poll::Ready(Err(_))) {
        return Poll::Ready(None);
    }
    loop {
        match response.parse(link.input(), &RESPONSE_LIMITS) {
            Ok(Progress::Complete) => return Poll::Ready(Some(())),
            Ok(Progress::Partial) => {}
            Err(_) => return Poll::Ready(None),
        }
        match ready!(link.poll_fill(cx, RESPONSE_LIMITS.header_bytes + 1)) {
            Ok(count) if count > 0 => {}
            _ => return Poll::Ready(None),
        }
    }
}
