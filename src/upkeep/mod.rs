//! Keeps pools true: asks endpoints how they are, and names where their endpoints are.
//!
//! Runs on one thread of its own, so that neither ever delays a request. Decides nothing about requests: it tells pools and
//! endpoints what it found.

mod discover;
mod dns;
mod probe;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::upstream::Pool;

/// The thread, for as long as this lives.
pub struct Upkeep {
    pools: watch::Sender<Vec<Arc<Pool>>>,
    _thread: JoinHandle<()>,
}

impl Upkeep {
    pub fn start() -> io::Result<Self> {
        let (pools, followed) = watch::channel(Vec::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("upkeep".to_owned()).spawn(move || runtime.block_on(follow(followed)))?;
        Ok(Self { pools, _thread: thread })
    }

    /// These pools serve from now on, and no others. What is known of those that stay is kept.
    pub fn follow(&self, pools: Vec<Arc<Pool>>) {
        self.pools.send_replace(pools);
    }
}

/// Work for one pool; given up when dropped.
struct Work(Vec<AbortHandle>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

async fn follow(mut followed: watch::Receiver<Vec<Arc<Pool>>>) {
    let mut working: HashMap<*const Pool, (Arc<Pool>, Work)> = HashMap::new();
    while followed.changed().await.is_ok() {
        let pools = followed.borrow_and_update().clone();
        working.retain(|_, (pool, _)| pools.iter().any(|stays| Arc::ptr_eq(stays, pool)));
        for pool in pools {
            // The pool is kept beside its address, which no other can have meanwhile.
            working.entry(Arc::as_ptr(&pool)).or_insert_with(|| {
                let work = Work(probe::watch(&pool).into_iter().chain(discover::watch(&pool)).collect());
                (pool, work)
            });
        }
    }
}
