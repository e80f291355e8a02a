//! Answers that are put together one by one: each leaf's lines go to the client as they come.
//!
//! What is missing is not known when the head is written; the last line says it. Waits for the client between two pieces, and holds
//! what came meanwhile, within the bounds of bodies.

use std::future::{Future as _, poll_fn};
use std::task::Poll;

use super::reply::Reply;
use super::{Gather, Gathered, gather};
use crate::proto::http1::{BodyFraming, Known, LAST_CHUNK, write_chunk_header};
use crate::serve::compose::{self, Persistence, client_body};
use crate::serve::connection::Client;
use crate::serve::exchange::{self, After, Ending, Outcome};
use crate::serve::pieces::Pieces;
use crate::serve::pump::Encoder;
use crate::serve::side::Side;
use crate::serve::timer::Stall;

/// What came of it.
pub enum Streamed {
    /// Nothing was sent yet: there is no answer, or none with a line.
    Unbegun(Gathered),
    Over(Outcome),
    ClientGone,
}

/// As [`super::attend`], with each leaf's lines written as it answers.
pub async fn stream<S: Side>(client: &mut Client<S>, ask: Gather<'_>, pieces: &Pieces, reply: &Reply<'_>) -> Streamed {
    let (worker, write_limit) = (ask.worker, ask.listener.timeouts.write);
    let body = client_body(BodyFraming::Chunked, reply.version);
    let encoder = S::encoder(body);
    let keep = if body == BodyFraming::UntilClose { Persistence::Closed } else { reply.keep };
    let mut gathering = std::pin::pin!(gather(ask));
    let mut has_begun = false;
    let mut sent = 0;
    let mut stall = Stall::default();
    loop {
        let gathered = poll_fn(|cx| {
            let polled = gathering.as_mut().poll(cx);
            // While the client takes nothing, what comes waits where it is bounded.
            let is_blocked = client.link.has_unsent() && client.link.poll_flush(cx).is_pending();
            if let Poll::Ready(gathered) = polled {
                return Poll::Ready(Ok(Some(gathered)));
            }
            if !is_blocked && !pieces.is_empty() {
                return Poll::Ready(Ok(None));
            }
            if client.link.has_left(cx, true) {
                return Poll::Ready(Err(()));
            }
            let late = stall.deadline(is_blocked, client.link.written_total(), write_limit);
            match [late, client.link.gone_at()].into_iter().flatten().min() {
                Some(until) => client.timer.poll(cx, until).map(|()| Err(())),
                None => Poll::Pending,
            }
        })
        .await;
        let Ok(gathered) = gathered else { return Streamed::ClientGone };
        let piece = pieces.take();
        if !has_begun && (piece.is_empty() || gathered.as_ref().is_some_and(|gathered| gathered.refusal.is_some())) {
            match gathered {
                Some(gathered) => return Streamed::Unbegun(gathered),
                None => continue,
            }
        }
        if !std::mem::replace(&mut has_begun, true) {
            let mut fields = b"Content-Type: application/x-ndjson\r\n".to_vec();
            if reply.edits.drops(Known::Other, b"content-type") {
                fields.clear();
            }
            reply.edits.write(reply.lookup, &mut fields);
            fields.extend_from_slice(reply.more);
            worker.with_date(|date| compose::own_head(200, &fields, body, keep, date, client.link.output()));
        }
        sent += piece.len() as u64;
        write(encoder, &piece, client.link.output());
        let Some(gathered) = gathered else { continue };
        let is_met = gathered.refusal.is_none();
        if is_met && !gathered.missing.is_empty() {
            let last = serde_json::json!({ "_leaves": { "total": gathered.total, "missing": gathered.missing } });
            let line = format!("{last}\n");
            sent += line.len() as u64;
            write(encoder, line.as_bytes(), client.link.output());
        }
        if is_met && encoder == Encoder::Chunked {
            client.link.output().extend_from_slice(LAST_CHUNK);
            client.link.output().extend_from_slice(b"\r\n");
        }
        let is_sent = if is_met { exchange::finish(client, write_limit).await } else { exchange::flush(client, write_limit).await };
        if !is_met {
            // Less than was required, and the head has said otherwise: only an end that looks like none is true.
            client.link.cut();
        }
        let (ending, after) = match (is_met, is_sent, keep) {
            (true, true, Persistence::Closed) => (Ending::Complete, After::Close),
            (true, true, _) => (Ending::Complete, After::Keep),
            (true, false, _) => (Ending::ClientGone, After::Abort),
            (false, ..) => (Ending::Cut, After::Abort),
        };
        return Streamed::Over(Outcome {
            status: 200,
            body_out: sent,
            refusal: gathered.refusal,
            ending,
            after,
            leaves: gathered.leaves,
            ..Outcome::gone(0)
        });
    }
}

/// A piece of a body.
pub fn write(encoder: Encoder, piece: &[u8], out: &mut Vec<u8>) {
    if piece.is_empty() {
        return;
    }
    if encoder == Encoder::Chunked {
        write_chunk_header(piece.len(), out);
    }
    out.extend_from_slice(piece);
    if encoder == Encoder::Chunked {
        out.extend_from_slice(b"\r\n");
    }
}
