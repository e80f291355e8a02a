//! Gives a request's body to its copies as it passes.
//!
//! Holds nothing up but for one turn: whoever cannot follow is left behind.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::ghost::{End, Feed};
use super::watched::Watch;

/// Gives a request's body to its copies, too.
pub struct Tee {
    feeds: Vec<Rc<Feed>>,
    /// Of this attempt, and the most that any attempt came to: what is sent again is not given again.
    at: u64,
    given: u64,
    /// What the copies had taken when they had their last turn.
    turn: u64,
}

impl Tee {
    pub fn new(feeds: Vec<Rc<Feed>>) -> Self {
        Self { feeds, at: 0, given: 0, turn: u64::MAX }
    }

    /// The body is sent again from its beginning.
    pub fn again(&mut self) {
        self.at = 0;
    }

    /// All of the body has passed.
    pub fn finish(&self) {
        self.feeds.iter().for_each(|feed| feed.finish(End::Whole));
    }

    /// Whether copies that have not had a turn since they last took something should have one.
    fn yields(&mut self) -> bool {
        let taken: Option<u64> = self.feeds.iter().filter_map(|feed| feed.is_filling()).max();
        taken.is_some_and(|taken| std::mem::replace(&mut self.turn, taken) != taken)
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.feeds.iter().for_each(|feed| feed.finish(End::Cut));
    }
}

impl Watch for Tee {
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.yields() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn passed(&mut self, data: &[u8]) -> io::Result<()> {
        let known = usize::try_from(self.given - self.at).unwrap_or(usize::MAX).min(data.len());
        self.at += data.len() as u64;
        self.given = self.given.max(self.at);
        for feed in &self.feeds {
            feed.give(&data[known..]);
        }
        Ok(())
    }
}
