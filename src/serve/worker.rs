//! One thread that serves: its runtime's shared state and its life.
//!
//! Everything in a [`Worker`] belongs to one thread; what threads share is behind `Arc`s that are
//! read per request without locks.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::buffer::Buffers;
use super::h2::endpoint::Connections;
use super::tape::Held;
use crate::algo::dice;
use crate::dial::{Idle, SWEEP_EVERY};
use crate::generation::{Generation, Live};
use crate::proto::http1::{RequestHead, ResponseHead};
use crate::services::mirror::Comparison;
use crate::telemetry::{HttpDate, Metrics, Sink, Stamps, access, clock};
use crate::upstream::sticky::Stuck;
use crate::upstream::{Ask, EndpointId, Lease, Membership, Pool, Tried};

/// How long an idle connection stays open for one more request once the process drains: a client
/// that was just about to send one gets its answer, with `Connection: close`.
pub const LINGER: Duration = Duration::from_millis(500);

/// Errors of `accept` come many times a second while there are any.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

/// What is common to all workers.
pub struct Shared {
    pub live: Arc<Live>,
    pub metrics: Arc<Metrics>,
    pub access: Arc<AccessLog>,
    /// Bodies in memory.
    pub held: Arc<Held>,
    /// Answers that wait to be compared.
    pub comparisons: mpsc::Sender<Comparison>,
}

/// Where access records go and how they look; both can change while records are written.
pub struct AccessLog {
    pub sink: arc_swap::ArcSwapOption<Sink>,
}

pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub stock: Rc<Buffers>,
    pub idle: Idle,
    /// Connections to endpoints that many requests share.
    pub http2: Connections,
    pinned: RefCell<Rc<Pinned>>,
    #[expect(clippy::vec_box, reason = "they are handed out and moved whole")]
    scratch: RefCell<Vec<Box<Scratch>>>,
    /// Idle client connections, to be woken when the worker's phase changes.
    waiting: RefCell<Wakers>,
    draining_since: Cell<Option<Instant>>,
    /// Open client connections.
    pub open: Cell<usize>,
    /// Accept loops.
    pub accepting: Cell<usize>,
    /// Requests from their first byte to the last of their answer.
    pub in_flight: Cell<usize>,
    /// Idle connections that keep what requests need.
    warm: Cell<usize>,
    /// Woken when nothing is left to do while draining.
    pub done: tokio::sync::Notify,
    complained: Cell<Option<Instant>>,
    date: RefCell<HttpDate>,
    stamps: RefCell<Stamps>,
    dice: Cell<u64>,
    is_sweeping: Cell<bool>,
}

/// A generation in one worker's hands. Its count of users is the worker's own: workers that counted
/// on the shared `Arc` per request would fight over one cache line.
pub struct Pinned(Arc<Generation>);

impl std::ops::Deref for Pinned {
    type Target = Generation;
    fn deref(&self) -> &Generation {
        &self.0
    }
}

/// What one exchange works with; reused, so that a request allocates nothing.
#[derive(Default)]
pub struct Scratch {
    pub request: RequestHead,
    /// The request head's bytes; spans of `request` point here.
    pub request_bytes: Vec<u8>,
    pub response: ResponseHead,
    pub response_bytes: Vec<u8>,
    pub request_id: Vec<u8>,
    pub compare_path: Vec<u8>,
    /// Room for the keys of a request.
    pub keys: Vec<u8>,
}

impl Scratch {
    fn clear(&mut self) {
        self.request.clear();
        self.request_bytes.clear();
        self.response.clear();
        self.response_bytes.clear();
        self.request_id.clear();
        self.compare_path.clear();
        self.keys.clear();
    }
}

/// Idle connections that keep what requests need, about 2 KiB each: as many as are usually busy at once.
const WARM_MAX: usize = 256;
/// Scratch spaces kept for reuse.
const SCRATCH_KEPT_MAX: usize = 64;

impl Worker {
    pub fn new(index: usize, shared: Arc<Shared>) -> Rc<Self> {
        let pinned = RefCell::new(Rc::new(Pinned(shared.live.pin())));
        let now = clock::unix_now();
        Rc::new(Self {
            index,
            shared,
            stock: Rc::default(),
            idle: Idle::default(),
            http2: Connections::default(),
            pinned,
            scratch: RefCell::default(),
            waiting: RefCell::default(),
            draining_since: Cell::new(None),
            open: Cell::new(0),
            accepting: Cell::new(0),
            in_flight: Cell::new(0),
            warm: Cell::new(0),
            done: tokio::sync::Notify::new(),
            complained: Cell::new(None),
            date: RefCell::new(HttpDate::new()),
            stamps: RefCell::new(Stamps::new()),
            dice: Cell::new(now.as_nanos() as u64 ^ (index as u64) << 56 ^ u64::from(std::process::id()) << 32),
            is_sweeping: Cell::new(false),
        })
    }

    /// The generation that serves now, for as long as the caller keeps it.
    pub fn pin(&self) -> Rc<Pinned> {
        let mut pinned = self.pinned.borrow_mut();
        if pinned.number != self.shared.live.number() {
            *pinned = Rc::new(Pinned(self.shared.live.pin()));
        }
        Rc::clone(&pinned)
    }

    pub fn scratch(&self) -> Box<Scratch> {
        self.scratch.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give_scratch(&self, mut scratch: Box<Scratch>) {
        let mut kept = self.scratch.borrow_mut();
        if kept.len() < SCRATCH_KEPT_MAX && scratch.request_bytes.capacity() <= 64 << 10 {
            scratch.clear();
            kept.push(scratch);
        }
    }

    pub fn roll(&self) -> u64 {
        let mut state = self.dice.get();
        let rolled = dice::roll(&mut state);
        self.dice.set(state);
        rolled
    }

    /// An endpoint of `pool` for one more attempt, other than those that were tried if there is any other.
    pub fn lease(&self, pool: &Pool, tried: &Tried, stuck: Stuck<'_>, now: Instant) -> Option<Lease> {
        pool.pick(&Ask { worker: self.index, now, dice: self.roll(), tried, stuck })
    }

    /// Runs `use_date` with today's `Date`.
    pub fn with_date<T>(&self, use_date: impl FnOnce(&[u8]) -> T) -> T {
        use_date(self.date.borrow_mut().refresh(clock::unix_now().as_secs()))
    }

    pub fn draining_since(&self) -> Option<Instant> {
        self.draining_since.get()
    }

    pub fn drain(&self, now: Instant) {
        if self.draining_since.get().is_none() {
            self.draining_since.set(Some(now));
        }
        self.wake_idle();
    }

    /// No connection is open and none can come.
    pub fn is_done(&self) -> bool {
        self.open.get() == 0 && self.accepting.get() == 0
    }

    pub fn tell_if_done(&self) {
        if self.is_done() && self.draining_since().is_some() {
            self.done.notify_one();
        }
    }

    /// Whether it is time to log once more what goes wrong many times a second.
    pub fn may_complain(&self) -> bool {
        let now = Instant::now();
        let may = self.complained.get().is_none_or(|last| now.duration_since(last) >= COMPLAIN_EVERY);
        if may {
            self.complained.set(Some(now));
        }
        may
    }

    /// Has every idle connection look again at what it waits for.
    pub fn wake_idle(&self) {
        for waker in self.waiting.borrow().iter() {
            waker.wake_by_ref();
        }
    }

    /// Has [`Worker::wake_idle`] wake a task until what is returned is dropped.
    pub fn wait(self: &Rc<Self>, waker: &Waker) -> Waiting {
        Waiting { place: self.waiting.borrow_mut().insert(waker.clone()), worker: Rc::clone(self) }
    }

    /// Lets an idle connection keep what requests need, unless too many do.
    pub fn stay_warm(&self) -> Option<Warm<'_>> {
        let warm = self.warm.get();
        (warm < WARM_MAX).then(|| {
            self.warm.set(warm + 1);
            Warm(self)
        })
    }

    /// Counts a request until what is returned is dropped.
    pub fn begin(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(Rc::clone(self))
    }

    /// Closes idle connections to endpoints that `generation` does not know.
    pub fn forget_endpoints(&self, generation: &Generation) {
        self.sweep(|| known_endpoints(generation));
    }

    fn sweep<K: Fn(EndpointId) -> bool>(&self, known: impl FnOnce() -> K) {
        if self.idle.is_empty() && self.http2.is_empty() {
            return;
        }
        let known = known();
        self.idle.sweep(Instant::now(), &known);
        self.http2.sweep(&known);
    }

    /// Starts sweeping idle connections to endpoints, unless that is going on.
    pub fn sweep_later(self: &Rc<Self>) {
        if self.is_sweeping.replace(true) {
            return;
        }
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            while !worker.idle.is_empty() || !worker.http2.is_empty() {
                tokio::time::sleep(SWEEP_EVERY).await;
                worker.sweep(|| known_endpoints(&worker.pin()));
            }
            worker.is_sweeping.set(false);
        });
    }

    /// Writes one access record, if they are wanted.
    pub fn record(&self, format: access::Format, record: &access::Record<'_>) {
        if let Some(sink) = self.shared.access.sink.load().as_ref() {
            sink.append(self.index, |out| record.write(format, &mut self.stamps.borrow_mut(), out));
        }
    }
}

fn known_endpoints(generation: &Generation) -> impl Fn(EndpointId) -> bool + use<> {
    let memberships = generation.pools.iter().map(|named| named.pool.membership());
    let ids = |known: &mut HashSet<EndpointId>, membership: &Membership| known.extend(membership.members().iter().map(|m| m.endpoint.id));
    let known = memberships.fold(HashSet::new(), |mut known, membership| {
        ids(&mut known, &membership);
        known
    });
    move |endpoint| known.contains(&endpoint)
}

/// A place among the idle; given back when dropped, however the task ends.
pub struct Waiting {
    worker: Rc<Worker>,
    place: usize,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.worker.waiting.borrow_mut().remove(self.place);
    }
}

/// A place among the idle connections that keep what requests need.
pub struct Warm<'a>(&'a Worker);

impl Drop for Warm<'_> {
    fn drop(&mut self) {
        self.0.warm.set(self.0.warm.get() - 1);
    }
}

/// A request in flight.
pub struct InFlight(Rc<Worker>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// Wakers in numbered places that are reused.
#[derive(Default)]
struct Wakers {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Wakers {
    fn insert(&mut self, waker: Waker) -> usize {
        if let Some(place) = self.free.pop() {
            self.places[place] = Some(waker);
            return place;
        }
        self.places.push(Some(waker));
        self.places.len() - 1
    }

    fn remove(&mut self, place: usize) {
        self.places[place] = None;
        self.free.push(place);
    }

    fn iter(&self) -> impl Iterator<Item = &Waker> {
        self.places.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::config::{self, File};
    use crate::generation::{Inputs, compile};
    use crate::tls::Sessions;
    use crate::value::Diagnostics;

    fn worker() -> Rc<Worker> {
        let text = "[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"127.0.0.1:1\"\n";
        let Ok(loaded) = config::from_text("<test>", text, &|_| None) else { unreachable!("the text is right") };
        let mut found = Diagnostics::default();
        let parsed = File::parse(&loaded.root, &loaded.sources, &mut found);
        let metrics = Metrics::new(1, &[]);
        let inputs = Inputs {
            sources: &loaded.sources,
            hash: String::new(),
            document: serde_json::Value::Null,
            read: &|_| Err(std::io::ErrorKind::NotFound.into()),
            previous: None,
            kept: &HashMap::new(),
            metrics: &metrics,
            sessions: &Sessions::new(),
            workers: 1,
            identity: String::new(),
            now: SystemTime::UNIX_EPOCH,
            started: Instant::now(),
        };
        let generation = compile(parsed, &inputs, &mut found).expect("the text is right");
        let access = Arc::new(AccessLog { sink: arc_swap::ArcSwapOption::empty() });
        let live = Arc::new(Live::new(Arc::new(generation)));
        let (comparisons, _) = mpsc::channel(1);
        Worker::new(0, Arc::new(Shared { live, metrics, access, held: Arc::default(), comparisons }))
    }

    fn worker_has_a_bug() -> bool {
        std::hint::black_box(true)
    }

    #[test]
    fn a_panic_ends_its_task_and_gives_back_what_that_held() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let worker = worker();
        let tasks = tokio::task::LocalSet::new();
        let ended = tasks.block_on(&runtime, async {
            let inside = Rc::clone(&worker);
            let task = tokio::task::spawn_local(async move {
                let _in_flight = inside.begin();
                let _warm = inside.stay_warm();
                let _waiting = inside.wait(Waker::noop());
                if worker_has_a_bug() {
                    std::panic::resume_unwind(Box::new("a bug"));
                }
            });
            task.await
        });
        assert!(ended.is_err_and(|error| error.is_panic()));
        assert_eq!((worker.in_flight.get(), worker.warm.get(), worker.waiting.borrow().iter().count()), (0, 0, 0));
    }
}
