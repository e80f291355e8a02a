//! Bugs: a panic ends one connection's task; this has it counted and logged.
//!
//! Contains nothing itself: the runtime catches what a task lets go of.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use std::sync::Arc;

use super::Metrics;

/// From now on every panic of the process is one line in its log and one in `attache_panics_total`.
pub fn watch(metrics: Arc<Metrics>) {
    std::panic::set_hook(Box::new(move |panic| {
        metrics.panicked();
        let thread = std::thread::current();
        let at = panic.location().map_or_else(String::new, ToString::to_string);
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(thread = thread.name(), at, backtrace, "a bug, please report it: {}", message(panic));
    }));
}

fn message<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
