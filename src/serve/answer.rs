//! The answer: waits for its head while the request flows, and passes it on while the rest of both flows.
//!
//! Sends nothing twice and chooses nobody: `forward` does.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::compose::{self, Persistence, Relay};
use super::exchange::{self, After, Ending, Outcome};
use super::forward::{Job, Left};
use super::hedge::Hedge;
use super::pump::{Pump, PumpError};
use super::side::{Far, Side};
use super::waits::{Early, Waits, poll_deadlines, poll_upload};
use super::watched::Watched;
use crate::proto::http1::{BodyFraming, Known, Limits, Progress, ResponseHead, Version, response_framing};
use crate::refusal::Refusal;
use crate::route::HeadLookup;
use crate::upstream::{Endpoint, Pool};

/// What an endpoint's head may be; ours to bound, not the operator's yet.
pub const RESPONSE_LIMITS: Limits = Limits { header_bytes: 256 << 10, headers: 1000, uri_bytes: 0 };
/// Interim answers to one request.
pub const INTERIM_MAX: u32 = 32;

impl<S: Side> Job<'_, S> {
    /// Sends the request and waits for the head of the final answer; interim ones go to the client.
    pub async fn until_final_head<E: Far>(
        &mut self,
        link: &mut E,
        upload: &mut Pump<'_>,
        pool: &Pool,
        hedge: &mut Option<Hedge<'_>>,
    ) -> Result<(), Early> {
        let mut waits = Waits::default();
        for _ in 0..=INTERIM_MAX {
            self.response.clear();
            poll_fn(|cx| match (self.poll_head(cx, link, upload, pool, &mut waits), hedge.as_mut()) {
                (Poll::Pending, Some(hedge)) => hedge.poll(cx).map(|()| Err(Early::Overtaken)),
                (polled, _) => polled,
            })
            .await?;
            match self.response.status {
                101 => return if self.is_granted(link) { Ok(()) } else { Err(Early::Broken(Refusal::BrokenResponse)) },
                100..=199 => {
                    let framing = response_framing(self.response, link.input(), false);
                    if !framing.map_err(|_| Early::Broken(Refusal::BrokenResponse))?.keep_alive {
                        link.doubt();
                    }
                    if self.call.version != Version::Http10 {
                        compose::interim(self.response, link.input(), self.client.link.output());
                    }
                    link.consume(self.response.bytes);
                }
                // HTTP/2 would take it for a 101 (RFC 8441 §5).
                200..=299 if self.call.upgrade.is_some() && self.call.version == Version::Http2 => {
                    return Err(Early::Broken(Refusal::BrokenResponse));
                }
                _ => return Ok(()),
            }
        }
        Err(Early::Broken(Refusal::BrokenResponse))
    }

    fn poll_head<E: Far>(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut E,
        upload: &mut Pump<'_>,
        pool: &Pool,
        waits: &mut Waits,
    ) -> Poll<Result<(), Early>> {
        let client = &mut *self.client;
        // The request goes first, but an answer that overtakes it must not wait until a client that
        // sends without a pause is done.
        let is_first = !std::mem::replace(&mut waits.upload_began, true);
        if is_first {
            poll_upload(cx, client, self.tape, link, upload, waits)?;
        }
        // While the client does not take an interim answer, the next one waits at the endpoint.
        let mut is_blocked = false;
        if client.link.has_unsent() {
            match client.link.poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Early::ClientGone)),
                Poll::Pending => is_blocked = true,
            }
        }
        loop {
            if is_blocked {
                break;
            }
            match self.response.parse(link.input(), &RESPONSE_LIMITS) {
                Ok(Progress::Complete) => return Poll::Ready(Ok(())),
                Ok(Progress::Partial) => {}
                Err(error) => {
                    tracing::debug!(service = pool.name, reason = error.as_str(), "broken answer");
                    return Poll::Ready(Err(Early::Broken(Refusal::BrokenResponse)));
                }
            }
            match link.poll_fill(cx, RESPONSE_LIMITS.header_bytes + 1) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(read) => return Poll::Ready(Err(link.ended_early(read.err()))),
                Poll::Pending => break,
            }
        }
        if !is_first {
            poll_upload(cx, client, self.tape, link, upload, waits)?;
        }
        if client.link.has_left(cx, upload.is_taken()) {
            return Poll::Ready(Err(Early::ClientGone));
        }
        let waits_for_body = upload.waits_for_source && !upload.is_taken();
        let body = waits.body.deadline(waits_for_body, client.link.read_total(), self.call.listener.timeouts.body);
        let answer = waits.endpoint.deadline(!waits_for_body && !is_blocked, link.written_total(), answer_limit(pool));
        let write = waits.client.deadline(is_blocked, client.link.written_total(), self.call.listener.timeouts.write);
        let deadlines = [
            (write, None),
            (client.link.gone_at(), None),
            (body, Some(Refusal::BodyTimeout)),
            (answer, Some(Refusal::ResponseTimeout)),
            (self.deadline, Some(Refusal::RouteTimeout)),
        ];
        poll_deadlines(cx, client, deadlines).map(|refusal| match refusal {
            None => Err(Early::ClientGone),
            Some(Refusal::BodyTimeout) => Err(Early::Refused(Refusal::BodyTimeout)),
            Some(refusal) => Err(Early::TimedOut(refusal)),
        })
    }

    /// Sends the answer to the client while the rest of the request still flows.
    pub async fn relay<E: Far>(
        &mut self,
        link: &mut E,
        upload: &mut Pump<'_>,
        pool: &Pool,
        endpoint: &Arc<Endpoint>,
        attempts: u32,
    ) -> (Outcome, Left) {
        let endpoint_for_log = Some(Arc::clone(endpoint));
        let is_head = self.call.head.method == b"HEAD";
        let Ok(framing) = response_framing(self.response, link.input(), is_head) else {
            let outcome = self.refuse(Refusal::BrokenResponse, upload.moved, endpoint_for_log, attempts, upload.is_taken()).await;
            return (outcome, Left::Broken);
        };
        if let Some(kept) = &mut self.kept {
            kept.begin(self.response, link.input());
        }
        let status = self.response.status;
        if is_event_stream(self.response, link.input()) {
            // A stream of events is as long as it likes; silence still ends it.
            self.deadline = None;
        }
        let body = compose::client_body(framing.body, self.call.version);
        // An answer that overtakes its request leaves a connection whose next bytes are no request.
        let may_keep = upload.is_taken() && body != BodyFraming::UntilClose && !self.client.is_leaving(self.call.worker);
        let keep = if may_keep { self.keep } else { Persistence::Closed };
        let lookup = HeadLookup { head: self.call.head, route: &self.call.route.name };
        self.call.worker.with_date(|date| {
            let relay = Relay {
                response: self.response,
                bytes: link.input(),
                edits: &self.call.route.response_edits,
                lookup: &lookup,
                body,
                // RFC 9110 §8.6: never in a 204.
                keeps_length: (is_head && status != 204) || status == 304,
                persistence: keep,
                date,
                fields: &[&self.told.to_client, &self.cookie],
            };
            compose::response(&relay, self.client.link.output());
        });
        link.consume(self.response.bytes);
        let mut download = Pump::new(E::decoder(framing.body), S::encoder(body), u64::MAX, &self.call.route.response_edits);
        let mut waits = Waits::default();
        let ending = poll_fn(|cx| self.poll_bodies(cx, link, upload, &mut download, pool, &mut waits)).await;
        if let (Ending::Complete, Some(kept)) = (ending, &mut self.kept) {
            kept.finish();
        }
        let after = match (ending, keep) {
            (Ending::Complete, Persistence::Closed) => After::Close,
            (Ending::Complete, _) => After::Keep,
            (Ending::ClientGone, _) => After::Abort,
            (Ending::Cut | Ending::OutOfTime | Ending::Refused, _) => {
                // What came of the answer is the client's; that there is no more of it shows by the end.
                exchange::flush(self.client, self.call.listener.timeouts.write).await;
                if body == BodyFraming::UntilClose {
                    // Only a reset tells this client that the end is not the end.
                    self.client.link.cut();
                }
                After::Abort
            }
        };
        let is_clean = upload.is_done() && framing.keep_alive && framing.body != BodyFraming::UntilClose;
        let left = match ending {
            Ending::Complete if is_clean => Left::Clean,
            Ending::Complete => Left::Used,
            Ending::ClientGone | Ending::Cut | Ending::OutOfTime | Ending::Refused => Left::Broken,
        };
        let outcome = Outcome {
            status,
            body_in: upload.moved,
            body_out: download.moved,
            refusal: None,
            ending,
            after,
            ended: Instant::now(),
            endpoint: endpoint_for_log,
            attempts,
            goes_on: false,
            leaves: None,
        };
        (outcome, left)
    }

    fn poll_bodies<E: Far>(
        &mut self,
        cx: &mut Context<'_>,
        link: &mut E,
        upload: &mut Pump<'_>,
        download: &mut Pump<'_>,
        pool: &Pool,
        waits: &mut Waits,
    ) -> Poll<Ending> {
        let client = &mut *self.client;
        let polled = match &mut self.kept {
            None => download.poll(cx, link, &mut client.link),
            Some(kept) => download.poll(cx, link, &mut Watched { by: &mut **kept, sink: &mut client.link }),
        };
        match polled {
            Poll::Ready(Ok(())) => return Poll::Ready(Ending::Complete),
            Poll::Ready(Err(PumpError::Sink(_))) => return Poll::Ready(Ending::ClientGone),
            Poll::Ready(Err(error)) => {
                tracing::debug!(service = pool.name, ?error, "answer cut short");
                return Poll::Ready(Ending::Cut);
            }
            Poll::Pending => {}
        }
        match poll_upload(cx, client, self.tape, link, upload, waits) {
            Ok(()) => {}
            Err(Early::ClientGone) => return Poll::Ready(Ending::ClientGone),
            Err(_) => return Poll::Ready(Ending::Refused),
        }
        if client.link.has_left(cx, upload.is_taken()) {
            return Poll::Ready(Ending::ClientGone);
        }
        let timeouts = &self.call.listener.timeouts;
        let waits_for_body = upload.waits_for_source && !upload.is_taken();
        let blocked = client.link.has_unsent() || !download.waits_for_source;
        let write = waits.client.deadline(blocked, client.link.written_total(), timeouts.write);
        let silent = waits.endpoint.deadline(download.waits_for_source, link.read_total(), pool.policy.timeouts.idle);
        let body = waits.body.deadline(waits_for_body, client.link.read_total(), timeouts.body);
        let deadlines = [(write, Ending::ClientGone), (silent, Ending::Cut), (body, Ending::Refused), (self.deadline, Ending::OutOfTime)];
        let ending = std::task::ready!(poll_deadlines(cx, client, deadlines));
        if ending == Ending::ClientGone {
            // Without a reset, a client that takes up reading again could believe it has all there is,
            // and until then the kernel would hold what it does not read.
            client.link.cut();
        }
        Poll::Ready(ending)
    }
}

/// How long an endpoint may take to answer, in one attempt.
fn answer_limit(pool: &Pool) -> Duration {
    let per_try = pool.policy.retry.as_ref().and_then(|retry| retry.per_try);
    per_try.map_or(pool.policy.timeouts.response, |per_try| per_try.min(pool.policy.timeouts.response))
}

/// WHATWG HTML §9.2: an answer that is not meant to end.
fn is_event_stream(response: &ResponseHead, bytes: &[u8]) -> bool {
    const KIND: &[u8] = b"text/event-stream";
    let mut kinds =
        response.fields.iter().filter(|field| field.known == Known::Other && field.name.of(bytes).eq_ignore_ascii_case(b"content-type"));
    kinds.any(|field| field.value.of(bytes).get(..KIND.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(KIND)))
}
