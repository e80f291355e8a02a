//! The only layer that moves client bytes.
//!
//! A [`Crew`] of workers, one thread each; the supervisor tells them what to listen on and when to
//! stop. Reads no configuration text and binds no socket.

pub mod accept;
mod adapt;
mod answer;
mod buffer;
mod call;
pub mod check;
pub mod compose;
mod connect;
mod connection;
mod copies;
mod exchange;
mod fan;
mod forward;
mod ghost;
mod h2;
mod hedge;
mod inner;
mod keep;
mod link;
mod onward;
mod open;
mod peek;
mod pieces;
mod pump;
mod settle;
mod side;
mod stream;
mod switch;
mod tape;
mod tee;
mod timer;
mod tries;
mod tunnel;
mod waits;
mod watched;
mod worker;

pub use connection::refusal_of;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use accept::{Accepting, Bound, Closing};
use worker::Worker;
pub use worker::{AccessLog, LINGER, Shared};

use crate::generation::{Listener, SocketKey};

/// Orders to a worker. They are few and in order; the queue is bounded all the same.
enum Order {
    /// Accept on this socket.
    Listen { socket: OwnedFd, key: SocketKey, listener: Arc<Listener> },
    /// Accept what is queued and close the socket.
    Retire(SocketKey, Closing),
    /// A new generation serves: let go of the old one. Answered when done.
    Refresh(oneshot::Sender<()>),
    /// Finish what is in flight and end; cut off what is left at the deadline.
    Drain { deadline: Instant },
    /// End at once.
    Stop,
}

const ORDERS_MAX: usize = 4096;

/// All workers.
pub struct Crew {
    workers: Vec<Hand>,
}

struct Hand {
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// Tells of a thread's end, also when it is a panic: whoever waits for all of them must not wait for ever.
struct Ended {
    tell: mpsc::Sender<usize>,
    cut_off: usize,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.tell.blocking_send(self.cut_off);
    }
}

impl Crew {
    /// Starts `count` threads. They serve nothing until told to listen. `ended` hears of each that
    /// ends, with the number of requests it had to cut off.
    pub fn start(count: usize, shared: &Arc<Shared>, ended: &mpsc::Sender<usize>) -> io::Result<Self> {
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let (orders, received) = mpsc::channel(ORDERS_MAX);
            let (shared, ended) = (Arc::clone(shared), ended.clone());
            let work = move || {
                let mut ended = Ended { tell: ended, cut_off: 0 };
                ended.cut_off = run(index, shared, received);
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(work)?;
            workers.push(Hand { orders, thread: Some(thread) });
        }
        Ok(Self { workers })
    }

    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// Has each worker accept on its own one of `sockets`.
    pub async fn listen(&self, key: &SocketKey, sockets: Vec<OwnedFd>, listener: &Arc<Listener>) {
        debug_assert_eq!(sockets.len(), self.workers.len(), "a socket for each worker");
        for (hand, socket) in self.workers.iter().zip(sockets) {
            let order = Order::Listen { socket, key: key.clone(), listener: Arc::clone(listener) };
            let _ = hand.orders.send(order).await;
        }
    }

    /// Has each worker close its socket once its queue is empty. What is returned ends when all have.
    pub async fn retire(&self, key: &SocketKey) -> mpsc::Receiver<()> {
        let (closing, closed) = mpsc::channel(1);
        for hand in &self.workers {
            let _ = hand.orders.send(Order::Retire(key.clone(), closing.clone())).await;
        }
        closed
    }

    /// Returns when no worker holds an older generation except for requests in flight.
    pub async fn refresh(&self) {
        let mut done = Vec::with_capacity(self.workers.len());
        for hand in &self.workers {
            let (tell, told) = oneshot::channel();
            let _ = hand.orders.send(Order::Refresh(tell)).await;
            done.push(told);
        }
        for told in done {
            let _ = told.await;
        }
    }

    pub async fn drain(&self, deadline: Instant) {
        for hand in &self.workers {
            let _ = hand.orders.send(Order::Drain { deadline }).await;
        }
    }

    pub async fn stop(&self) {
        for hand in &self.workers {
            let _ = hand.orders.send(Order::Stop).await;
        }
    }

    /// Waits for every thread that was told to end.
    pub fn join(&mut self) {
        for hand in &mut self.workers {
            if let Some(Err(_)) = hand.thread.take().map(JoinHandle::join) {
                tracing::error!("a worker thread panicked outside of any connection");
            }
        }
    }
}

/// A worker's whole life. Returns the number of requests that were cut off.
fn run(index: usize, shared: Arc<Shared>, orders: mpsc::Receiver<Order>) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default());
    match runtime {
        Ok(runtime) => {
            let left = runtime.block_on(obey(Worker::new(index, shared), orders));
            // Not by dropping it, which would wait for a page that is still being written, to nobody.
            runtime.shutdown_background();
            left
        }
        Err(error) => {
            tracing::error!(index, %error, "cannot start a worker");
            0
        }
    }
}

async fn obey(worker: Rc<Worker>, mut orders: mpsc::Receiver<Order>) -> usize {
    let mut bound: HashMap<SocketKey, Rc<Bound>> = HashMap::new();
    let mut deadline = None;
    loop {
        if deadline.is_some() && worker.is_done() {
            return 0;
        }
        let order = tokio::select! {
            biased;
            order = orders.recv() => order.unwrap_or(Order::Stop),
            () = worker.done.notified(), if deadline.is_some() => continue,
            () = sleep_until(deadline), if deadline.is_some() => Order::Stop,
        };
        match order {
            Order::Listen { socket, key, listener } => {
                let here = Bound::new(key.clone(), listener, socket);
                bound.insert(key, Rc::clone(&here));
                tokio::task::spawn_local(accept::accept(Accepting::new(&worker), here));
            }
            Order::Retire(key, closing) => {
                if let Some(here) = bound.remove(&key) {
                    here.retire(Instant::now(), Some(closing));
                    worker.wake_idle();
                }
            }
            Order::Refresh(done) => {
                let generation = worker.pin();
                let left_behind = bound.values().filter(|here| here.renew(&generation)).count();
                if left_behind > 0 {
                    worker.wake_idle();
                }
                worker.forget_endpoints(&generation);
                let _ = done.send(());
            }
            Order::Drain { deadline: until } => {
                let now = Instant::now();
                for here in bound.values() {
                    here.retire(now, None);
                }
                worker.drain(now);
                deadline = Some(until);
            }
            Order::Stop => return worker.in_flight.get(),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}
