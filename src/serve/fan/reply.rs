//! What the client of a scatter is sent.
//!
//! Asks nobody; writes what was gathered, and has lines go out as they come.

use std::rc::Rc;

use super::lines::{Streamed, stream};
use super::{Gather, attend};
use crate::filters::headers::Edits;
use crate::proto::http1::{BodyFraming, RequestFraming, Version};
use crate::route::HeadLookup;
use crate::serve::compose::{Own, Persistence};
use crate::serve::connection::Client;
use crate::serve::exchange::{Outcome, local, refuse};
use crate::serve::pieces::Pieces;
use crate::serve::side::Side;

/// How the client is answered.
pub struct Reply<'a> {
    pub version: Version,
    /// The request's.
    pub framing: &'a RequestFraming,
    pub keep: Persistence,
    pub edits: &'a Edits,
    pub lookup: &'a HeadLookup<'a, 'a>,
    /// More fields, each a line.
    pub more: &'a [u8],
}

/// Asks the leaves and answers the client.
pub async fn answer<S: Side>(client: &mut Client<S>, ask: Gather<'_>, reply: &Reply<'_>) -> Outcome {
    let Gather { worker, listener, head, body, .. } = ask;
    let body_in = body.len() as u64;
    let pieces = Rc::<Pieces>::default();
    let streamed = if ask.scatter.merge.streams() && head.method != b"HEAD" {
        stream(client, Gather { pieces: Some(&pieces), ..ask }, &pieces, reply).await
    } else {
        attend(client, ask).await.map_or(Streamed::ClientGone, Streamed::Unbegun)
    };
    let gathered = match streamed {
        Streamed::ClientGone => return Outcome::gone(body_in),
        Streamed::Over(outcome) => return Outcome { body_in, ..outcome },
        Streamed::Unbegun(gathered) => gathered,
    };
    let fields = gathered.fields(reply.edits, reply.lookup, reply.more);
    let status = if let Some(refusal) = gathered.refusal {
        refuse(worker, client, head.method, head.headers, refusal, &fields, reply.keep)
    } else {
        let own = Own { status: gathered.status, fields: &fields, body: &gathered.body };
        worker.with_date(|date| own.write(head.method, reply.keep, date, client.link.output()));
        gathered.status
    };
    // All of the request has been read.
    let read = RequestFraming { body: BodyFraming::None, ..*reply.framing };
    let body_out = gathered.body.len() as u64;
    let leaves = gathered.leaves;
    Outcome { body_in, leaves, ..local(client, listener, &read, reply.keep, status, body_out, gathered.refusal).await }
}
