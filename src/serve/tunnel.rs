//! What follows a 101: bytes of a protocol that only the two ends know, both ways at once.
//!
//! Looks into none of them. How the two agreed on it is `switch`'s.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::connection::{Client, left_since};
use super::exchange::Ending;
use super::pump::{Pump, PumpError};
use super::side::{Far, Side, Sink, Source};
use super::timer::Stall;
use super::worker::{LINGER, Worker};
use crate::filters::headers::Edits;
use crate::proto::http1::BodyFraming;

pub struct Timeouts {
    /// How long neither side may say anything.
    pub idle: Duration,
    /// How long a side may take nothing.
    pub write: Duration,
}

/// What a tunnel came to.
pub struct Tunnel {
    pub up: u64,
    pub down: u64,
    pub ending: Ending,
}

/// How long both sides may take to hear of the end.
const LAST_BYTES: Duration = Duration::from_millis(300);

/// Runs until both sides have said their last, one of them broke off, or nothing moves any more. When
/// the process drains, or nobody stands at the socket any more, it goes on for the time that requests
/// have, and is closed a little before that is over: both sides hear of an end, not of a break.
pub async fn run<S: Side, E: Far>(worker: &Rc<Worker>, client: &mut Client<S>, link: &mut E, timeouts: &Timeouts) -> Tunnel {
    let no_edits = Edits::default();
    let mut up = Direction::new(Pump::new(S::decoder(BodyFraming::UntilClose), E::encoder(BodyFraming::UntilClose), u64::MAX, &no_edits));
    let mut down = Direction::new(Pump::new(E::decoder(BodyFraming::UntilClose), S::encoder(BodyFraming::UntilClose), u64::MAX, &no_edits));
    let mut waiting = None;
    let mut heard = (Instant::now(), 0);
    let ending = poll_fn(|cx| {
        if waiting.is_none() {
            waiting = Some(worker.wait(cx.waker()));
        }
        let up_polled = up.poll(cx, &mut client.link, link);
        let down_polled = down.poll(cx, link, &mut client.link);
        match (up_polled, down_polled) {
            (Poll::Ready(Err(PumpError::Source(_))), _) | (_, Poll::Ready(Err(PumpError::Sink(_)))) => {
                return Poll::Ready(Some(Ending::ClientGone));
            }
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(Some(Ending::Cut)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Some(Ending::Complete)),
            _ => {}
        }
        let moved = up.pump.moved + down.pump.moved;
        if moved > heard.1 {
            heard = (Instant::now(), moved);
        }
        let mut due = (heard.0 + timeouts.idle, None);
        let stuck = [
            (up.stall.deadline(link.has_unsent() || up.is_full(), link.written_total(), timeouts.write), Ending::Cut),
            (
                down.stall.deadline(client.link.has_unsent() || down.is_full(), client.link.written_total(), timeouts.write),
                Ending::ClientGone,
            ),
        ];
        for (at, ending) in stuck {
            if let Some(at) = at.filter(|&at| at < due.0) {
                due = (at, Some(ending));
            }
        }
        if let Some((since, _)) = left_since(worker, &client.bound, client.link.is_tls()) {
            let until = since + worker.pin().file.process.drain.0.saturating_sub(LINGER);
            if until < due.0 {
                due = (until, None);
            }
        }
        client.timer.poll(cx, due.0).map(|()| due.1)
    })
    .await;
    match ending {
        Some(Ending::Complete) => {}
        // Only a reset tells a side that the end of the other was none.
        Some(_) => {
            client.link.cut();
            link.cut();
        }
        None => {
            let until = Instant::now() + LAST_BYTES;
            let Client { link: client_link, timer, .. } = client;
            client_link.end(b"");
            let last = poll_fn(|cx| {
                let is_told = [client_link.poll_shutdown(cx).is_ready(), link.poll_shutdown(cx).is_ready()];
                if is_told == [true; 2] { Poll::Ready(()) } else { Poll::Pending }
            });
            let _ = timer.limit(until, last).await;
        }
    }
    Tunnel { up: up.pump.moved, down: down.pump.moved, ending: ending.unwrap_or(Ending::Complete) }
}

/// One way, to the end of what comes and its passing on.
struct Direction<'a> {
    pump: Pump<'a>,
    stall: Stall,
    is_shut: bool,
}

impl<'a> Direction<'a> {
    fn new(pump: Pump<'a>) -> Self {
        Self { pump, stall: Stall::default(), is_shut: false }
    }

    /// Whether bytes have come that the sink does not take.
    fn is_full(&self) -> bool {
        !self.pump.waits_for_source && !self.is_shut
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut impl Source, to: &mut impl Sink) -> Poll<Result<(), PumpError>> {
        if self.is_shut {
            return Poll::Ready(Ok(()));
        }
        if !self.pump.is_done() {
            ready!(self.pump.poll(cx, from, to))?;
        }
        ready!(to.poll_shutdown(cx)).map_err(PumpError::Sink)?;
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}
