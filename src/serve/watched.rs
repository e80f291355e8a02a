//! A sink that somebody looks at: what passes is seen, and nothing of it changes.
//!
//! Knows neither who looks nor what for.

use std::io;
use std::task::{Context, Poll, ready};

use super::side::Sink;

/// Who looks at a body.
pub trait Watch {
    /// Ready when more may pass.
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()>;

    /// These bytes have passed.
    ///
    /// # Errors
    ///
    /// When nothing that could follow is of any use.
    fn passed(&mut self, data: &[u8]) -> io::Result<()>;
}

pub struct Watched<'w, W, S> {
    pub by: &'w mut W,
    pub sink: &'w mut S,
}

impl<W: Watch, S: Sink> Sink for Watched<'_, W, S> {
    fn output(&mut self) -> &mut Vec<u8> {
        self.sink.output()
    }

    fn has_unsent(&self) -> bool {
        self.sink.has_unsent()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.by.poll_turn(cx));
        let count = ready!(self.sink.poll_send(cx, data))?;
        self.by.passed(&data[..count])?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink.poll_flush(cx)
    }

    fn end(&mut self, trailers: &[u8]) {
        self.sink.end(trailers);
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink.poll_shutdown(cx)
    }

    fn written_total(&self) -> u64 {
        self.sink.written_total()
    }
}
