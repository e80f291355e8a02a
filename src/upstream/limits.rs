//! How much may be asked of a pool at once, and who waits for a place.
//!
//! Refuses nobody itself and waits for nothing: it hands out places, or tickets for them in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::algo::gradient::Gradient;
use crate::settings;
use crate::value::Whole;

settings! {
    /// What may be asked of a pool at once. Without this table nothing limits it.
    #[derive(Eq)]
    pub struct Settings as "limits of a pool" {
        /// Connections to its endpoints, idle ones included; divided among the workers, one each at least.
        connections: Whole<1, 1_000_000> = Whole(1024),
        /// Requests in flight.
        requests: Whole<1, 1_000_000> = Whole(4096),
        /// Requests that may wait for their turn; beyond: 503 at once.
        queue: Whole<0, 1_000_000> = Whole(1024),
        /// How long they may wait; beyond: 503.
        wait: Duration = Duration::from_secs(1),
        /// Lets in fewer than `requests` where answers become slow, as many as the endpoints can do well.
        adaptive: bool = false,
    }
}

/// Places for requests in flight.
pub struct Admission {
    limit: AtomicU32,
    inside: AtomicU32,
    waiting: AtomicU32,
    queue: Mutex<VecDeque<oneshot::Sender<Place>>>,
    queue_max: usize,
    learning: Option<Mutex<Learning>>,
}

/// One place; dropping it gives it to whoever has waited longest.
pub struct Place(Option<Arc<Admission>>);

pub enum Entry {
    Inside(Place),
    /// In the queue: the place comes through here.
    Waiting(oneshot::Receiver<Place>),
    /// Too many wait already.
    Full,
}

struct Learning {
    gradient: Gradient,
    window: Instant,
    seconds: f64,
    count: u32,
    most_inside: u32,
}

/// What is learnt from at once.
const WINDOW: Duration = Duration::from_millis(100);
const SAMPLES_MIN: u32 = 10;

impl Admission {
    pub fn new(settings: &Settings, now: Instant) -> Arc<Self> {
        let gradient = settings.adaptive.then(|| Gradient::new(settings.requests.0));
        let limit = gradient.map_or(settings.requests.0, |gradient| gradient.limit());
        let learning = gradient.map(|gradient| Mutex::new(Learning { gradient, window: now, seconds: 0.0, count: 0, most_inside: 0 }));
        Arc::new(Self {
            limit: AtomicU32::new(limit),
            inside: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            queue: Mutex::default(),
            queue_max: settings.queue.0 as usize,
            learning,
        })
    }

    /// A place, or a ticket for one; nobody overtakes who waits.
    pub fn enter(self: &Arc<Self>) -> Entry {
        if self.waiting.load(Ordering::SeqCst) == 0 && self.take() {
            return Entry::Inside(Place(Some(Arc::clone(self))));
        }
        let receiver = {
            let mut queue = self.queue();
            if queue.len() >= self.queue_max {
                // Whoever gave up waiting is no queue.
                queue.retain(|ticket| !ticket.is_closed());
            }
            if queue.len() >= self.queue_max {
                self.waiting.store(queue.len() as u32, Ordering::SeqCst);
                return Entry::Full;
            }
            let (sender, receiver) = oneshot::channel();
            queue.push_back(sender);
            self.waiting.store(queue.len() as u32, Ordering::SeqCst);
            receiver
        };
        // Who left in between saw nobody waiting.
        self.hand_out();
        Entry::Waiting(receiver)
    }

    /// Those in flight, those that wait, and how many may be in flight.
    pub fn counts(&self) -> (u32, u32, u32) {
        (self.inside.load(Ordering::Relaxed), self.waiting.load(Ordering::Relaxed), self.limit.load(Ordering::Relaxed))
    }

    /// Learns from an answer that took so long to begin.
    pub fn answered(self: &Arc<Self>, waited: Duration, now: Instant) {
        // A sample that would have to wait is not worth it.
        let Some(Ok(mut learning)) = self.learning.as_ref().map(Mutex::try_lock) else { return };
        learning.seconds += waited.as_secs_f64();
        learning.count += 1;
        learning.most_inside = learning.most_inside.max(self.inside.load(Ordering::Relaxed));
        if learning.count < SAMPLES_MIN || now.saturating_duration_since(learning.window) < WINDOW {
            return;
        }
        let (seconds, most_inside) = (learning.seconds / f64::from(learning.count), learning.most_inside);
        learning.gradient.update(seconds, most_inside);
        let limit = learning.gradient.limit();
        *learning = Learning { gradient: learning.gradient, window: now, seconds: 0.0, count: 0, most_inside: 0 };
        drop(learning);
        if self.limit.swap(limit, Ordering::SeqCst) < limit {
            self.hand_out();
        }
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<oneshot::Sender<Place>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        self.inside.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |inside| (inside < limit).then_some(inside + 1)).is_ok()
    }

    /// Gives free places to whoever has waited longest.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let ticket = {
                let mut queue = self.queue();
                if queue.is_empty() || !self.take() {
                    return;
                }
                let ticket = queue.pop_front();
                self.waiting.store(queue.len() as u32, Ordering::SeqCst);
                ticket
            };
            let refused = ticket.and_then(|ticket| ticket.send(Place(Some(Arc::clone(self)))).err());
            if let Some(mut place) = refused {
                // Nobody waits there any more. Not by dropping it, which would come back here for each of many.
                place.0 = None;
                self.inside.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(admission) = &self.0 {
            admission.inside.fetch_sub(1, Ordering::SeqCst);
            if admission.waiting.load(Ordering::SeqCst) > 0 {
                admission.hand_out();
            }
        }
    }
}

/// Places for connections, each worker's own: one that is idle elsewhere could not be used here.
pub struct Connections {
    each: u32,
    workers: Box<[Open]>,
}

#[repr(align(128))]
struct Open {
    count: AtomicU32,
    /// Told when a place becomes free, or a connection idle.
    freed: Notify,
}

/// One connection's place, for as long as it is open.
pub struct Seat {
    connections: Arc<Connections>,
    worker: usize,
}

impl Connections {
    pub fn new(settings: &Settings, workers: usize) -> Arc<Self> {
        let workers = workers.max(1);
        let each = settings.connections.0.div_ceil(workers as u32);
        Arc::new(Self { each, workers: (0..workers).map(|_| Open { count: AtomicU32::new(0), freed: Notify::new() }).collect() })
    }

    /// `None` while all places of this worker are taken.
    pub fn take(self: &Arc<Self>, worker: usize) -> Option<Seat> {
        let open = &self.workers[worker % self.workers.len()];
        let taken = open.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < self.each).then_some(count + 1));
        taken.ok().map(|_| Seat { connections: Arc::clone(self), worker })
    }

    /// Told when a place of this worker becomes free, or one of its connections idle.
    pub fn freed(&self, worker: usize) -> &Notify {
        &self.workers[worker % self.workers.len()].freed
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let open = &self.connections.workers[self.worker % self.connections.workers.len()];
        open.count.fetch_sub(1, Ordering::Relaxed);
        open.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(requests: u32, queue: u32) -> Arc<Admission> {
        let settings = Settings {
            connections: Whole(1),
            requests: Whole(requests),
            queue: Whole(queue),
            wait: Duration::from_secs(1),
            adaptive: false,
        };
        Admission::new(&settings, Instant::now())
    }

    #[track_caller]
    fn inside(entry: Entry) -> Place {
        match entry {
            Entry::Inside(place) => place,
            Entry::Waiting(_) | Entry::Full => panic!("there is a place"),
        }
    }

    #[track_caller]
    fn waiting(entry: Entry) -> oneshot::Receiver<Place> {
        match entry {
            Entry::Waiting(ticket) => ticket,
            Entry::Inside(_) | Entry::Full => panic!("there is a queue"),
        }
    }

    #[test]
    fn who_waits_longest_is_next_and_nobody_overtakes() {
        let admission = admission(1, 2);
        let first = inside(admission.enter());
        let (mut second, mut third) = (waiting(admission.enter()), waiting(admission.enter()));
        assert!(matches!(admission.enter(), Entry::Full));
        drop(first);
        let place = second.try_recv().expect("the second is in");
        assert!(third.try_recv().is_err());
        let fourth = admission.enter();
        assert!(matches!(fourth, Entry::Waiting(_)));
        drop(place);
        assert!(third.try_recv().is_ok());
    }

    #[test]
    fn who_gave_up_keeps_nobody_waiting() {
        let admission = admission(1, 2);
        let first = inside(admission.enter());
        drop((waiting(admission.enter()), waiting(admission.enter())));
        let mut third = waiting(admission.enter());
        drop(first);
        assert!(third.try_recv().is_ok());
        drop(third);
        inside(admission.enter());
    }

    #[test]
    fn without_a_queue_beyond_is_full() {
        let admission = admission(1, 0);
        let place = inside(admission.enter());
        assert!(matches!(admission.enter(), Entry::Full));
        drop(place);
        inside(admission.enter());
    }
}
