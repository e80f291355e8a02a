//! How many connections a listener has open, over all its sockets and workers.
//!
//! Carried from one generation to the next by the listener's name. Waits for nobody: `serve` does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

#[derive(Default)]
pub struct Gate {
    open: AtomicUsize,
    /// Told each time a place becomes free.
    pub freed: Notify,
}

/// One place among a listener's connections; dropping it makes room.
pub struct Permit(Arc<Gate>);

impl Gate {
    /// `None` while `limit` or more are open.
    pub fn enter(self: &Arc<Self>, limit: usize) -> Option<Permit> {
        let entered = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < limit).then_some(open + 1));
        entered.ok().map(|_| Permit(Arc::clone(self)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_permit_is_dropped() {
        let gate = Arc::new(Gate::default());
        let one = gate.enter(1);
        assert!(one.is_some() && gate.enter(1).is_none());
        drop(one);
        assert!(gate.enter(1).is_some());
    }

    #[test]
    fn a_place_is_free_again_after_a_panic() {
        let gate = Arc::new(Gate::default());
        let held = gate.enter(1);
        let task = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = held;
            std::panic::resume_unwind(Box::new("a bug"));
        }));
        assert!(task.is_err() && gate.enter(1).is_some());
    }
}
