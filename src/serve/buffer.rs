//! Byte buffers and the per-worker stock they come from.
//!
//! Knows nothing of messages. Buffers are zeroed once, when made, and reused ever after.

use std::cell::RefCell;

/// What one read usually takes in. Most heads and short bodies fit.
pub const SMALL: usize = 16 << 10;
/// For long bodies: fewer system calls per byte.
pub const LARGE: usize = 64 << 10;
/// Buffers kept for reuse, of each size.
const KEPT_MAX: usize = 64;

/// Bytes that were read and not yet used: `bytes[start..end]`.
#[derive(Default)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// Whoever writes to us writes much: take a large buffer the next time.
    is_wide: bool,
}

impl Buffer {
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
    fn space(&mut self, most: usize, stock: &Buffers) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = stock.take(if self.is_wide { LARGE } else { SMALL });
        }
        if self.end == self.bytes.len() {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else if self.bytes.len() < most {
                let next = if self.bytes.len() < LARGE { LARGE } else { self.bytes.len() * 2 };
                self.grow(next.min(most), stock);
            }
        }
        &mut self.bytes[self.end..]
    }

    fn grow(&mut self, size: usize, stock: &Buffers) {
        let mut larger = stock.take(size);
        let held = self.end - self.start;
        larger[..held].copy_from_slice(&self.bytes[self.start..self.end]);
        stock.give(std::mem::replace(&mut self.bytes, larger));
        self.start = 0;
        self.end = held;
    }

    /// Runs `read` on the free space and counts what it put there.
    pub fn fill<T>(&mut self, most: usize, stock: &Buffers, read: impl FnOnce(&mut [u8]) -> (usize, T)) -> T {
        let (count, result) = read(self.space(most, stock));
        self.end += count;
        result
    }

    /// Whether the last read left no room, so that more was probably waiting.
    pub fn is_full(&self) -> bool {
        self.end == self.bytes.len() && !self.bytes.is_empty()
    }

    /// Makes room for long reads.
    pub fn widen(&mut self, stock: &Buffers) {
        self.is_wide = true;
        if !self.bytes.is_empty() && self.bytes.len() < LARGE {
            self.grow(LARGE, stock);
        }
    }

    /// The next reads are short ones again.
    pub fn narrow(&mut self) {
        self.is_wide = false;
    }

    /// Gives the memory back; only when nothing is in it.
    pub fn release(&mut self, stock: &Buffers) {
        if self.is_empty() && !self.bytes.is_empty() {
            stock.give(std::mem::take(&mut self.bytes));
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
    output: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    fn take(&self, size: usize) -> Box<[u8]> {
        let kept = match size {
            SMALL => self.small.borrow_mut().pop(),
            LARGE => self.large.borrow_mut().pop(),
            _ => None,
        };
        kept.unwrap_or_else(|| vec![0; size].into_boxed_slice())
    }

    fn give(&self, bytes: Box<[u8]>) {
        let shelf = match bytes.len() {
            SMALL => &self.small,
            LARGE => &self.large,
            _ => return,
        };
        let mut shelf = shelf.borrow_mut();
        if shelf.len() < KEPT_MAX {
            shelf.push(bytes);
        }
    }

    pub fn take_output(&self) -> Vec<u8> {
        self.output.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SMALL))
    }

    pub fn give_output(&self, mut bytes: Vec<u8>) {
        let mut shelf = self.output.borrow_mut();
        if bytes.capacity() > 0 && bytes.capacity() <= 2 * SMALL && shelf.len() < KEPT_MAX {
            bytes.clear();
            shelf.push(bytes);
        }
    }
}
