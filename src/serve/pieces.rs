//! Lines on their way from many leaves to one client.
//!
//! Bounded: who has more to say waits until the client has taken what there is. Knows no leaf.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};

use crate::services::scatter::{Misfit, line};

/// What may wait for the client; a line more, at most.
const WAITING_MAX: usize = 64 << 10;

#[derive(Default)]
pub struct Pieces {
    bytes: RefCell<Vec<u8>>,
    /// Who waits for room.
    waiting: RefCell<Vec<Waker>>,
}

impl Pieces {
    pub fn is_empty(&self) -> bool {
        self.bytes.borrow().is_empty()
    }

    /// Adds each document as a line.
    pub fn add(&self, documents: &[u8]) -> Result<(), Misfit> {
        let mut bytes = self.bytes.borrow_mut();
        let before = bytes.len();
        line(0, documents, &mut bytes).inspect_err(|_| bytes.truncate(before))
    }

    /// Ready when there is room.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.bytes.borrow().len() < WAITING_MAX {
            return Poll::Ready(());
        }
        self.waiting.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }

    /// All there is.
    pub fn take(&self) -> Vec<u8> {
        let bytes = self.bytes.take();
        self.waiting.take().into_iter().for_each(Waker::wake);
        bytes
    }
}
