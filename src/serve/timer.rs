//! One timer per connection for all its deadlines.
//!
//! A deadline that moves away costs nothing: the timer is only armed again when it fires too early
//! or has to fire sooner. Knows nothing of what the deadlines mean.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

pub struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// When the sleep fires, if it is registered to.
    armed: Option<Instant>,
}

impl Default for Timer {
    fn default() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(Instant::now().into())), armed: None }
    }
}

impl Timer {
    /// Ready once `deadline` has passed; wakes the task then.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        loop {
            match self.armed {
                // Registered with this task's waker already, and early enough.
                Some(armed) if armed <= deadline && !self.sleep.is_elapsed() => return Poll::Pending,
                Some(armed) if armed <= deadline => {
                    self.armed = None;
                    if Instant::now() >= deadline {
                        return Poll::Ready(());
                    }
                }
                _ => {
                    self.sleep.as_mut().reset(deadline.into());
                    self.armed = Some(deadline);
                    // Whatever else the task did this turn: a sleep that is out of budget registers
                    // nothing, and would be taken for armed from then on.
                    if std::pin::pin!(tokio::task::unconstrained(self.sleep.as_mut())).poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Waits for `future` until `deadline`; `None` if that came first.
    pub async fn limit<F: Future>(&mut self, deadline: Instant, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll(cx, deadline).map(|()| None),
        })
        .await
    }
}

/// Notices when something that is waited for does not move.
#[derive(Default)]
pub struct Stall {
    since: Option<Instant>,
    mark: u64,
}

impl Stall {
    /// When the wait becomes too long; `None` while nothing is waited for. `progress` is any count
    /// that grows when the thing moves.
    pub fn deadline(&mut self, is_waiting: bool, progress: u64, limit: Duration) -> Option<Instant> {
        if !is_waiting {
            self.since = None;
            return None;
        }
        if self.since.is_none() || self.mark != progress {
            self.since = Some(Instant::now());
            self.mark = progress;
        }
        self.since.map(|since| since + limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    /// How long a timer takes that is armed first when the task has used up its turn.
    fn fires_after(deadline: Duration) -> Duration {
        const LONG: Duration = Duration::from_secs(20);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let began = Instant::now();
        runtime.block_on(async {
            let mut timer = Timer::default();
            let mut is_first = true;
            let armed = poll_fn(|cx| {
                while std::mem::take(&mut is_first) || tokio::task::coop::has_budget_remaining() {
                    let mut step = std::pin::pin!(tokio::task::consume_budget());
                    if step.as_mut().poll(cx).is_pending() {
                        break;
                    }
                }
                timer.poll(cx, began + deadline)
            });
            let _ = tokio::time::timeout(LONG, armed).await;
        });
        began.elapsed()
    }

    #[test]
    fn a_busy_task_is_woken_in_time_too() {
        assert!(fires_after(Duration::from_millis(20)) < Duration::from_secs(10));
    }
}
