//! What an exchange waits for while bodies flow, and for how long.
//!
//! Polls and judges; what becomes of the exchange then, `forward` decides.

use std::task::{Context, Poll};
use std::time::Instant;

use super::connection::Client;
use super::pump::{Pump, PumpError};
use super::side::{Side, Sink};
use super::tape::Tape;
use super::tee::Tee;
use super::timer::Stall;
use super::watched::Watched;
use crate::refusal::Refusal;
use crate::tls::Failure;

/// Why there is no head of an answer.
pub enum Early {
    ClientGone,
    Refused(Refusal),
    /// Closed or reset before the first byte of an answer.
    Dead,
    /// The endpoint refuses us by TLS, which it can do after the handshake.
    Unwelcome(Failure),
    /// Closed, reset or nonsense in the middle of a head.
    Broken(Refusal),
    TimedOut(Refusal),
    /// Another endpoint that was asked the same has answered.
    Overtaken,
}

/// What is being waited for, and since when.
#[derive(Default)]
pub struct Waits {
    pub body: Stall,
    pub endpoint: Stall,
    pub client: Stall,
    pub upload_began: bool,
    /// The endpoint takes no more of the request; its answer may still come.
    pub upload_failed: bool,
}

/// Moves on with the request's body, unless the endpoint has stopped taking it.
pub fn poll_upload<S: Side>(
    cx: &mut Context<'_>,
    client: &mut Client<S>,
    tape: &mut Tape,
    link: &mut impl Sink,
    upload: &mut Pump<'_>,
    waits: &mut Waits,
) -> Result<(), Early> {
    if upload.is_done() || waits.upload_failed {
        return Ok(());
    }
    let polled = match tape.tee.take() {
        None => upload.poll(cx, &mut tape.of(&mut client.link), link),
        Some(tee) => poll_teed(cx, client, tape, link, upload, tee),
    };
    match polled {
        Poll::Ready(Err(PumpError::Source(_))) => Err(Early::ClientGone),
        // It sends no more but may still read.
        Poll::Ready(Err(PumpError::Short)) => Err(Early::Refused(Refusal::Incomplete)),
        Poll::Ready(Err(PumpError::Chunk(_))) => Err(Early::Refused(Refusal::BadChunk)),
        Poll::Ready(Err(PumpError::TooLarge)) => Err(Early::Refused(Refusal::BodyTooLarge)),
        Poll::Ready(Err(PumpError::Sink(_))) => {
            waits.upload_failed = true;
            Ok(())
        }
        Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
    }
}

/// As [`Pump::poll`], with copies that get the same.
#[cold]
fn poll_teed<S: Side>(
    cx: &mut Context<'_>,
    client: &mut Client<S>,
    tape: &mut Tape,
    link: &mut impl Sink,
    upload: &mut Pump<'_>,
    mut tee: Box<Tee>,
) -> Poll<Result<(), PumpError>> {
    let polled = upload.poll(cx, &mut tape.of(&mut client.link), &mut Watched { by: &mut *tee, sink: link });
    if upload.is_taken() {
        tee.finish();
    }
    tape.tee = Some(tee);
    polled
}

/// Ready with what the soonest deadline means, once it has passed.
pub fn poll_deadlines<T, S, const N: usize>(cx: &mut Context<'_>, client: &mut Client<S>, deadlines: [(Option<Instant>, T); N]) -> Poll<T> {
    let soonest =
        deadlines.into_iter().filter_map(|(deadline, meaning)| deadline.map(|deadline| (deadline, meaning))).min_by_key(|&(d, _)| d);
    match soonest {
        Some((deadline, meaning)) => client.timer.poll(cx, deadline).map(|()| meaning),
        None => Poll::Pending,
    }
}
