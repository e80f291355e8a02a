//! Byte buffers and the per-worker stock they come from.
//!
//! Knows nothing of messages. Buffers are zeroed once, when made, and reused ever after.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What one read usually takes in. Most heads and short bodies fit.
pub const SMALL: usize = 16 << 10;
/// For long bodies: fewer system calls per byte.
pub const LARGE: usize = 64 << 10;
/// For very long ones that move fast.
const HUGE: usize = 256 << 10;
/// Huge buffers that one worker may have in use; who comes later has to do with large ones. What slow
/// clients can hold of a worker's memory in this way is 8 MiB.
const HUGE_MAX: usize = 32;
/// Buffers kept for reuse: small ones for every request, others for bursts.
const SMALL_KEPT_MAX: usize = 64;
const LARGE_KEPT_MAX: usize = 32;
const HUGE_KEPT_MAX: usize = 4;

/// Bytes that were read and not yet used: `bytes[start..end]`.
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// How much to take the next time: more if whoever writes to us writes much.
    width: usize,
    stock: Rc<Buffers>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.stock.give(std::mem::take(&mut self.bytes));
    }
}

impl Buffer {
    pub fn new(stock: Rc<Buffers>) -> Self {
        Self { bytes: Box::default(), start: 0, end: 0, width: SMALL, stock }
    }

    pub fn stock(&self) -> &Buffers {
        &self.stock
    }

    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end, "only what is there can be consumed");
        if self.start >= self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room to read into; never empty unless the buffer holds `most` bytes already.
    fn space(&mut self, most: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = self.stock.take(self.width_now());
        }
        if self.end == self.bytes.len() {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else if self.bytes.len() < most {
                let next = if self.bytes.len() < LARGE { LARGE } else { self.bytes.len() * 2 };
                self.grow(next.min(most));
            }
        }
        &mut self.bytes[self.end..]
    }

    fn grow(&mut self, size: usize) {
        let mut larger = self.stock.take(size);
        let held = self.end - self.start;
        larger[..held].copy_from_slice(&self.bytes[self.start..self.end]);
        self.stock.give(std::mem::replace(&mut self.bytes, larger));
        self.start = 0;
        self.end = held;
    }

    /// Runs `read` on the free space and counts what it put there.
    pub fn fill<T>(&mut self, most: usize, read: impl FnOnce(&mut [u8]) -> (usize, T)) -> T {
        let (count, result) = read(self.space(most));
        self.end += count;
        result
    }

    /// Whether the last read left no room, so that more was probably waiting.
    pub fn is_full(&self) -> bool {
        self.end == self.bytes.len() && !self.bytes.is_empty()
    }

    /// Makes room for longer reads.
    pub fn widen(&mut self) {
        self.width = if self.width < LARGE { LARGE } else { HUGE };
        let width = self.width_now();
        if !self.bytes.is_empty() && self.bytes.len() < width {
            self.grow(width);
        }
    }

    fn width_now(&self) -> usize {
        if self.width == HUGE && self.stock.huge_in_use.get() >= HUGE_MAX { LARGE } else { self.width }
    }

    /// The next reads are short ones again.
    pub fn narrow(&mut self) {
        self.width = SMALL;
    }

    /// Gives the memory back; only when nothing is in it.
    pub fn release(&mut self) {
        if self.is_empty() && !self.bytes.is_empty() {
            self.stock.give(std::mem::take(&mut self.bytes));
            self.start = 0;
            self.end = 0;
        }
    }
}

/// A worker's stock of buffers.
#[derive(Default)]
pub struct Buffers {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    huge: RefCell<Vec<Box<[u8]>>>,
    huge_in_use: Cell<usize>,
    output: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    fn take(&self, size: usize) -> Box<[u8]> {
        let kept = match size {
            SMALL => self.small.borrow_mut().pop(),
            LARGE => self.large.borrow_mut().pop(),
            HUGE => {
                self.huge_in_use.set(self.huge_in_use.get() + 1);
                self.huge.borrow_mut().pop()
            }
            _ => None,
        };
        kept.unwrap_or_else(|| vec![0; size].into_boxed_slice())
    }

    fn give(&self, bytes: Box<[u8]>) {
        let (shelf, kept_max) = match bytes.len() {
            SMALL => (&self.small, SMALL_KEPT_MAX),
            LARGE => (&self.large, LARGE_KEPT_MAX),
            HUGE => {
                self.huge_in_use.set(self.huge_in_use.get() - 1);
                (&self.huge, HUGE_KEPT_MAX)
            }
            _ => return,
        };
        let mut shelf = shelf.borrow_mut();
        if shelf.len() < kept_max {
            shelf.push(bytes);
        }
    }

    pub fn take_output(&self) -> Vec<u8> {
        self.output.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SMALL))
    }

    pub fn give_output(&self, mut bytes: Vec<u8>) {
        let mut shelf = self.output.borrow_mut();
        if bytes.capacity() > 0 && bytes.capacity() <= 2 * SMALL && shelf.len() < SMALL_KEPT_MAX {
            bytes.clear();
            shelf.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length of the buffer that a fast sender is read into.
    fn widest(buffer: &mut Buffer) -> usize {
        let mut length = 0;
        for _ in 0..3 {
            buffer.fill(LARGE, |space| {
                length = space.len();
                (length, ())
            });
            buffer.consume(length);
            buffer.widen();
        }
        length
    }

    #[test]
    fn fast_senders_are_read_in_huge_pieces_as_long_as_there_are_few() {
        let stock = Rc::new(Buffers::default());
        let mut busy: Vec<_> = (0..=HUGE_MAX).map(|_| Buffer::new(Rc::clone(&stock))).collect();
        let lengths: Vec<usize> = busy.iter_mut().map(widest).collect();
        assert_eq!(lengths[..HUGE_MAX], [HUGE; HUGE_MAX]);
        assert_eq!(lengths[HUGE_MAX], LARGE);
        // However a connection ends, its place is free again.
        busy.truncate(1);
        assert_eq!(widest(&mut Buffer::new(Rc::clone(&stock))), HUGE);
        busy.clear();
        assert_eq!(stock.huge_in_use.get(), 0);
        assert_eq!(stock.huge.borrow().len(), HUGE_KEPT_MAX);
    }
}
