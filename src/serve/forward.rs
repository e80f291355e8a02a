//! Sends a request to an endpoint, and to another where that is allowed and may help.
//!
//! Owns the lease and the choice of connection; knows nothing of routes. What comes back, `answer` passes on.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::call::Call;
use super::compose::Persistence;
use super::connect::Carrier;
use super::connection::Client;
use super::exchange::{self, After, Ending, Outcome};
use super::h2::endpoint::Stream;
use super::hedge::{Hedge, Link as Hedged, Won};
use super::keep::Keep;
use super::link::Link;
use super::open;
use super::side::{Far, Side};
use super::tape::Tape;
use super::tries::{Cause, Tries};
use super::waits::{Early, poll_deadlines};
use crate::proto::http1::{BodyFraming, ResponseHead, response_framing};
use crate::refusal::Refusal;
use crate::services::{self, Unwanted};
use crate::telemetry::metrics;
use crate::upstream::{Endpoint, Lease, Pool, SendProxy};

/// One request on its way, with its client.
pub struct Job<'a, S> {
    pub call: Call<'a>,
    pub client: &'a mut Client<S>,
    /// What becomes of the client's connection if nothing goes wrong.
    pub keep: Persistence,
    pub response: &'a mut ResponseHead,
    /// As the call's; none once an answer has begun that is not meant to end.
    pub deadline: Option<Instant>,
    /// What services on the way tell.
    pub told: &'a services::Told,
    /// A field for the client, if it is to be bound to its endpoint; a line.
    pub cookie: Vec<u8>,
    /// What was taken of the body, where it may be needed again.
    pub tape: &'a mut Tape,
    /// Whether somebody else may be asked where the pool has nobody that can be reached.
    pub goes_on: bool,
    /// Answers that the client does not get, since somebody else is asked then.
    pub unwanted: Unwanted,
    /// Keeps the answer's beginning, where somebody wants to look at it.
    pub kept: Option<&'a mut Keep>,
}

/// So much of a body is kept for whoever is asked next, where the pool says nothing of that.
const REPLAY: usize = 64 << 10;

/// An answer that is not wanted is read to its end if all of it is here and no more than this.
const UNWANTED_MAX: u64 = 16 << 10;

pub async fn forward<S: Side>(mut job: Job<'_, S>, pool: &Pool) -> Outcome {
    // A request taken back before we came to it: nobody need be asked. Nothing is read to know it.
    if poll_fn(|cx| Poll::Ready(job.client.link.has_left(cx, false))).await {
        return Outcome::gone(0);
    }
    let _place = if pool.admission.is_some() {
        // Here and below: what is rarely waited for is on the heap then, and not a part of every exchange.
        match Box::pin(job.wait_for(open::enter(pool))).await {
            Ok(Ok(place)) => place,
            Ok(Err(refusal)) => return job.refuse(refusal, 0, None, 0, true).await,
            Err(Kept::Late) => return job.refuse(Refusal::RouteTimeout, 0, None, 0, true).await,
            Err(Kept::Gone) => return Outcome::gone(0),
        }
    } else {
        None
    };
    let greeting = job.greeting(pool);
    let stuck = job.call.stuck(pool);
    let mut started = Instant::now();
    let mut tries = Tries::new(pool, job.call.worker, job.call.is_single, started);
    if job.call.framing.body != BodyFraming::None && !job.tape.is_whole() {
        let replay = pool.policy.retry.as_ref().map(|retry| retry.replay.bytes()).or(job.goes_on.then_some(REPLAY));
        if let Some(replay) = replay {
            let most_held = job.call.worker.pin().file.process.max_memory_bodies.0;
            job.tape.record_from_here(&job.call.worker.shared.held, replay, most_held);
        }
    }
    loop {
        let worker = job.call.worker;
        let lease = if let Some(lease) = worker.lease(pool, &tries.tried, stuck, started) {
            lease
        } else {
            match Box::pin(job.wait_for(open::lease(worker, pool, &tries.tried, stuck))).await {
                Ok(Some(lease)) => lease,
                Ok(None) => return job.refuse(Refusal::NoEndpoint, 0, None, tries.attempts, true).await,
                Err(Kept::Late) => return job.refuse(Refusal::RouteTimeout, 0, None, tries.attempts, true).await,
                Err(Kept::Gone) => return Outcome { attempts: tries.attempts, ..Outcome::gone(0) },
            }
        };
        tries.begin();
        let endpoint = Arc::clone(lease.endpoint());
        job.bind(pool, &lease);
        // The usual way first, which waits for nothing.
        let may_reuse = tries.may_reuse() && pool.policy.send_proxy == SendProxy::Off;
        let connected = if let Some(wire) = job.call.reuse(&endpoint, may_reuse, started) {
            Ok((Carrier::Wire(wire), true))
        } else {
            let call = job.call;
            // It ends by itself in time; only the client may want it to end sooner.
            match Box::pin(job.wait_for(call.connect(&endpoint, pool, &greeting, may_reuse, started))).await {
                Ok(connected) => connected,
                Err(Kept::Gone) => return Outcome { endpoint: Some(endpoint), attempts: tries.attempts, ..Outcome::gone(0) },
                Err(Kept::Late) => Err(Refusal::RouteTimeout),
            }
        };
        let tried = match connected {
            Ok((carrier, is_reused)) => {
                let attempt = Attempt { pool, lease, started, is_reused };
                let tried = match carrier {
                    Carrier::Wire(wire) => job.attempt(Link::new(wire, job.call.stock()), attempt, &mut tries).await,
                    // On the heap: exchanges over HTTP/1 should not be as large as one of these.
                    Carrier::Place(place) => {
                        let stream = Stream::new(place, endpoint.tls.is_some());
                        Box::pin(job.attempt(stream, attempt, &mut tries)).await
                    }
                };
                // What carried it may be idle now, and give its place to another.
                if let Some(connections) = &pool.connections {
                    connections.freed(worker.index).notify_one();
                }
                tried
            }
            Err(refusal) => {
                open::settle_unopened(lease, refusal, pool, started);
                let pause = Cause::of_unopened(refusal).and_then(|cause| tries.again(cause, endpoint.id, Instant::now()));
                match pause {
                    Some(pause) => Tried::Again(pause),
                    None => return job.refuse(refusal, 0, Some(endpoint), tries.attempts, true).await,
                }
            }
        };
        match tried {
            Tried::Done(outcome) => return outcome,
            Tried::Again(pause) => match Box::pin(job.pause(pause)).await {
                Ok(()) => started = Instant::now(),
                Err(Kept::Gone) => return Outcome { endpoint: Some(endpoint), attempts: tries.attempts, ..Outcome::gone(0) },
                Err(Kept::Late) => return job.refuse(Refusal::RouteTimeout, 0, Some(endpoint), tries.attempts, true).await,
            },
        }
    }
}

/// Why a request does not go on.
enum Kept {
    /// Its time is over.
    Late,
    /// Its client has left.
    Gone,
}

/// One request to one endpoint.
struct Attempt<'a> {
    pool: &'a Pool,
    lease: Lease,
    started: Instant,
    /// What carries it was used before.
    is_reused: bool,
}

/// What an attempt came to.
enum Tried {
    Done(Outcome),
    /// It goes out again, after a pause.
    Again(Duration),
}

/// What an exchange leaves of what carried it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Both messages ended on it.
    Clean,
    /// The answer did.
    Used,
    Broken,
}

impl<S: Side> Job<'_, S> {
    /// Waits for something other than bytes, as long as the client does and there is time.
    async fn wait_for<F: Future>(&mut self, something: F) -> Result<F::Output, Kept> {
        let mut something = std::pin::pin!(something);
        let client = &mut *self.client;
        // A body that was not asked for yet stays where it is.
        let is_all_here = self.call.framing.body == BodyFraming::None;
        poll_fn(|cx| {
            if let Poll::Ready(output) = something.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if client.link.has_left(cx, is_all_here) {
                return Poll::Ready(Err(Kept::Gone));
            }
            let deadlines = [(self.deadline, Kept::Late), (client.link.gone_at(), Kept::Gone)];
            poll_deadlines(cx, client, deadlines).map(Err)
        })
        .await
    }

    async fn pause(&mut self, pause: Duration) -> Result<(), Kept> {
        if pause.is_zero() {
            return Ok(());
        }
        self.wait_for(tokio::time::sleep(pause)).await
    }

    async fn attempt<E: Far>(&mut self, mut link: E, attempt: Attempt<'_>, tries: &mut Tries<'_>) -> Tried {
        let Attempt { pool, lease, started, is_reused } = attempt;
        let endpoint = Arc::clone(lease.endpoint());
        self.call.write_head::<E>(&endpoint, link.output());
        self.tape.rewind();
        let mut upload = self.call.upload::<S, E>();
        // Connecting is not what makes an answer slow.
        let sent = if pool.learns() { Instant::now() } else { started };
        let mut hedge = Hedge::of(self.call, pool, tries, &lease, started);
        let early = match self.until_final_head(&mut link, &mut upload, pool, &mut hedge).await {
            Ok(()) => {
                drop(hedge);
                self.heard(pool, &endpoint, sent);
                let status = self.response.status;
                if self.unwanted.is(status) && (upload.is_untouched || self.tape.is_whole()) {
                    let is_clean = upload.is_done() && self.discards_answer(&mut link);
                    self.keep(pool, &endpoint, link, is_clean);
                    let reported = if status >= 500 { metrics::Outcome::Status5xx } else { metrics::Outcome::Ok };
                    open::settle(lease, reported, pool, started, started.elapsed());
                    return Tried::Done(Outcome { endpoint: Some(endpoint), ..Outcome::passed_on(None, tries.attempts) });
                }
                if status >= 400
                    && (upload.is_untouched || self.tape.is_whole())
                    && self.call.is_idempotent()
                    && let Some(pause) = tries.again(Cause::Status(status), endpoint.id, Instant::now())
                {
                    let is_clean = upload.is_done() && self.discards_answer(&mut link);
                    self.keep(pool, &endpoint, link, is_clean);
                    let reported = if status >= 500 { metrics::Outcome::Status5xx } else { metrics::Outcome::Ok };
                    open::settle(lease, reported, pool, started, started.elapsed());
                    return Tried::Again(pause);
                }
                let (outcome, left) = if status == 101 {
                    (self.switch(&mut link, pool, &endpoint, tries.attempts).await, Left::Broken)
                } else {
                    self.relay(&mut link, &mut upload, pool, &endpoint, tries.attempts).await
                };
                if left != Left::Broken {
                    self.keep(pool, &endpoint, link, left == Left::Clean);
                }
                report(lease, &outcome, pool, started);
                return Tried::Done(outcome);
            }
            Err(early) => early,
        };
        let body_in = upload.moved;
        let body_is_taken = upload.is_taken();
        let is_here = upload.is_untouched || self.tape.is_whole();
        let may_repeat = tries.may_repeat() && is_here && link.may_repeat(is_reused, self.call.is_idempotent());
        if let Early::TimedOut(_) = early {
            link.timed_out();
        }
        // What is left of the request is taken back before anything else is waited for.
        drop(link);
        let settle = |lease, outcome| open::settle(lease, outcome, pool, started, started.elapsed());
        let (refusal, cause, body_is_taken) = match early {
            Early::Dead | Early::Unwelcome(_) if may_repeat => {
                // The connection died while it was idle, or the endpoint says that it never saw this request.
                settle(lease, metrics::Outcome::Reset);
                tries.repeat();
                return Tried::Again(Duration::ZERO);
            }
            Early::Dead => {
                settle(lease, metrics::Outcome::Reset);
                (Refusal::EndpointReset, Some(Cause::Reset), body_is_taken)
            }
            Early::Unwelcome(failure) => {
                settle(lease, metrics::Outcome::TlsFailed);
                open::complain(self.call.worker, &failure, pool, &endpoint);
                (failure.refusal, None, body_is_taken)
            }
            Early::Broken(refusal) => {
                settle(lease, metrics::Outcome::Broken);
                (refusal, (refusal == Refusal::EndpointReset).then_some(Cause::Reset), body_is_taken)
            }
            Early::TimedOut(refusal) => {
                let is_theirs = refusal == Refusal::ResponseTimeout;
                settle(lease, if is_theirs { metrics::Outcome::Timeout } else { metrics::Outcome::OutOfTime });
                (refusal, is_theirs.then_some(Cause::Timeout), body_is_taken)
            }
            // Not the endpoint's fault: the lease is dropped, which reports a cancelled request.
            Early::Refused(refusal) => {
                drop(lease);
                (refusal, None, false)
            }
            Early::ClientGone => {
                return Tried::Done(Outcome { endpoint: Some(endpoint), attempts: tries.attempts, ..Outcome::gone(body_in) });
            }
            Early::Overtaken => {
                settle(lease, metrics::Outcome::Overtaken);
                let won = hedge.and_then(Hedge::won).expect("only a hedge that has won overtakes");
                tries.begin();
                return Tried::Done(Box::pin(self.hedged(won, pool, tries.attempts)).await);
            }
        };
        if let (Some(_), Some(hedge)) = (cause, hedge) {
            match Box::pin(self.wait_for(hedge.finish())).await {
                Ok(Some(won)) => {
                    tries.begin();
                    return Tried::Done(Box::pin(self.hedged(won, pool, tries.attempts)).await);
                }
                Err(Kept::Gone) => {
                    return Tried::Done(Outcome { endpoint: Some(endpoint), attempts: tries.attempts, ..Outcome::gone(body_in) });
                }
                // Then as if there had been none; a deadline that is over ends the next attempt.
                Ok(None) | Err(Kept::Late) => {}
            }
        }
        let is_repeatable = self.call.is_idempotent() && is_here;
        if let Some(cause) = cause.filter(|_| is_repeatable)
            && let Some(pause) = tries.again(cause, endpoint.id, Instant::now())
        {
            return Tried::Again(pause);
        }
        Tried::Done(self.refuse(refusal, body_in, Some(endpoint), tries.attempts, body_is_taken).await)
    }

    /// Passes on the answer of an endpoint that was asked second and answered first.
    async fn hedged(&mut self, won: Won, pool: &Pool, attempts: u32) -> Outcome {
        let Won { link, response, lease, started } = won;
        *self.response = response;
        let endpoint = Arc::clone(lease.endpoint());
        self.bind(pool, &lease);
        self.heard(pool, &endpoint, started);
        let outcome = match link {
            Hedged::Wire(link) => self.pass_on(link, pool, &endpoint, attempts).await,
            Hedged::Place(stream) => self.pass_on(stream, pool, &endpoint, attempts).await,
        };
        report(lease, &outcome, pool, started);
        outcome
    }

    async fn pass_on<E: Far>(&mut self, mut link: E, pool: &Pool, endpoint: &Arc<Endpoint>, attempts: u32) -> Outcome {
        // There is no body, or there would have been no hedge.
        let mut upload = self.call.upload::<S, E>();
        let _ = poll_fn(|cx| Poll::Ready(upload.poll(cx, &mut self.client.link, &mut link))).await;
        let (outcome, left) = self.relay(&mut link, &mut upload, pool, endpoint, attempts).await;
        if left != Left::Broken {
            self.keep(pool, endpoint, link, left == Left::Clean);
        }
        outcome
    }

    /// The client is with this endpoint from now on, if the pool has such clients.
    fn bind(&mut self, pool: &Pool, lease: &Lease) {
        if pool.policy.sticky.is_some() {
            self.cookie = if lease.is_stuck { Vec::new() } else { self.call.set_cookie(pool, lease.endpoint()) };
        }
    }

    /// The head of an answer has come.
    fn heard(&self, pool: &Pool, endpoint: &Endpoint, sent: Instant) {
        if let Some((hedging, _)) = self.call.hedging {
            hedging.answered(self.call.worker.index, sent.elapsed());
        }
        if pool.learns() {
            let now = Instant::now();
            pool.answered(self.call.worker.index, endpoint, self.response.status, now.saturating_duration_since(sent), now);
        }
    }

    /// Keeps what may carry another request.
    fn keep<E: Far>(&self, pool: &Pool, endpoint: &Endpoint, link: E, is_clean: bool) {
        if let Some(wire) = link.release(is_clean && pool.policy.send_proxy == SendProxy::Off) {
            self.call.worker.idle.put(endpoint.id, wire, Instant::now() + pool.policy.timeouts.idle);
            self.call.worker.sweep_later();
        }
    }

    /// Takes in an answer that nobody gets, if all of it is here. Whether what carried it is good for another one.
    fn discards_answer<E: Far>(&self, link: &mut E) -> bool {
        let Ok(framing) = response_framing(self.response, link.input(), self.call.head.method == b"HEAD") else { return false };
        let length = match framing.body {
            BodyFraming::None => 0,
            BodyFraming::Length(length) if length <= UNWANTED_MAX => length as usize,
            _ => return false,
        };
        let all = self.response.bytes + length;
        if link.input().len() < all {
            return false;
        }
        link.consume(all);
        framing.keep_alive
    }

    /// Whether somebody else may do what nobody here has done.
    fn may_go_on(&self, refusal: Refusal, body_in: u64) -> bool {
        match refusal {
            Refusal::NoEndpoint | Refusal::ConnectFailed | Refusal::ConnectTimeout => true,
            Refusal::EndpointReset => self.call.is_idempotent() && (body_in == 0 || self.tape.is_whole()),
            _ => false,
        }
    }

    /// Answers in the endpoint's place. `body_is_taken`: nothing of the request is left unread.
    pub async fn refuse(
        &mut self,
        refusal: Refusal,
        body_in: u64,
        endpoint: Option<Arc<Endpoint>>,
        attempts: u32,
        body_is_taken: bool,
    ) -> Outcome {
        if (self.goes_on && self.may_go_on(refusal, body_in)) || self.unwanted == Unwanted::Everything {
            return Outcome { endpoint, ..Outcome::passed_on(Some(refusal), attempts) };
        }
        let is_read = body_is_taken && (body_in > 0 || self.call.framing.body == BodyFraming::None);
        let keep = if is_read { self.keep } else { Persistence::Closed };
        let status = exchange::refuse(
            self.call.worker,
            self.client,
            self.call.head.method,
            self.call.head.headers,
            refusal,
            &self.told.to_client,
            keep,
        );
        let is_sent = exchange::finish(self.client, self.call.listener.timeouts.write).await;
        Outcome {
            status,
            body_in,
            body_out: 0,
            refusal: Some(refusal),
            ending: if is_sent { Ending::Complete } else { Ending::ClientGone },
            after: match (is_sent, keep) {
                (false, _) => After::Abort,
                (true, Persistence::Closed) => After::Close,
                (true, _) => After::Keep,
            },
            ended: Instant::now(),
            endpoint,
            attempts,
            goes_on: false,
            leaves: None,
        }
    }
}

/// Reports the end of a lease whose answer was passed on.
fn report(lease: Lease, outcome: &Outcome, pool: &Pool, started: Instant) {
    let reported = match outcome.ending {
        Ending::Cut => metrics::Outcome::Reset,
        Ending::OutOfTime => metrics::Outcome::OutOfTime,
        // As where it is refused before an answer begins.
        Ending::Refused => metrics::Outcome::ClientGone,
        _ if outcome.refusal.is_some() => metrics::Outcome::Broken,
        _ if outcome.status >= 500 => metrics::Outcome::Status5xx,
        _ => metrics::Outcome::Ok,
    };
    open::settle(lease, reported, pool, started, outcome.ended.saturating_duration_since(started));
}
