//! Looks at this machine: files, room on file systems, and what a program says.
//!
//! Asks the file system on another thread, since it may take its time; never twice at once. So does whoever runs a filter.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use crate::services::health::{Facts, Room};
use crate::upkeep::program;
use crate::upstream::health::Reason;

/// Whether one check still waits for an answer from another thread: of a file system, or of a filter that does not end.
#[derive(Default)]
pub(super) struct Busy(Arc<AtomicBool>);

impl Busy {
    /// Whether it is there, and young enough.
    pub(super) async fn file(&self, path: &Path, max_age: Option<Duration>, most: Duration) -> Result<Facts, Reason> {
        let path = path.to_owned();
        let modified = self.ask(most, move || std::fs::metadata(path)?.modified()).await?;
        let age = SystemTime::now().duration_since(modified).unwrap_or_default();
        if let Some(max) = max_age.filter(|max| age > *max) {
            return Err(Reason::new(format!("was written to {} s ago, expected {} s at most", age.as_secs(), max.as_secs())));
        }
        Ok(Facts { detail: Some(format!("written to {} s ago", age.as_secs())), ..Facts::default() })
    }

    /// Whether there is room for whoever is not root.
    pub(super) async fn free(&self, path: &Path, at_least: Room, most: Duration) -> Result<Facts, Reason> {
        let path = path.to_owned();
        let stat = self.ask(most, move || Ok(rustix::fs::statvfs(&path)?)).await?;
        let (free, all) = (stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize));
        let share = if all == 0 { 0.0 } else { free as f64 / all as f64 };
        let found = format!("{:.1} % free, {} MiB", share * 100.0, free >> 20);
        let is_enough = match at_least {
            Room::Share(least) => share >= least.fraction(),
            Room::Bytes(least) => free >= least,
        };
        if is_enough { Ok(Facts { detail: Some(found), ..Facts::default() }) } else { Err(Reason::new(found)) }
    }

    /// On another thread; if it takes longer, nothing more is asked until it has ended.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        most: Duration,
        question: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Reason> {
        if self.0.swap(true, Ordering::Relaxed) {
            return Err(Reason::new("the last question has not been answered yet"));
        }
        let busy = Arc::clone(&self.0);
        let asking = tokio::task::spawn_blocking(move || {
            let answer = question();
            busy.store(false, Ordering::Relaxed);
            answer
        });
        match timeout(most, asking).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => Err(Reason::new(error.to_string())),
            Ok(Err(error)) => Err(Reason::new(error.to_string())),
            Err(_) => Err(Reason::new(format!("no answer within {most:?}"))),
        }
    }
}

/// Of what a program says, this much is looked at.
const OUTPUT_BYTES_MAX: usize = 4096;

/// Runs it without a shell.
pub(super) async fn exec(words: &[String], most: Duration) -> Result<Facts, Reason> {
    let ended = program::run(words, most, OUTPUT_BYTES_MAX).await?;
    let said = String::from_utf8_lossy(&ended.said).lines().next().unwrap_or_default().trim().to_owned();
    if let Some(how) = ended.failure {
        return Err(Reason::new(if said.is_empty() { how } else { format!("{how}: {said}") }));
    }
    let detail = (!said.is_empty()).then(|| Reason::new(said).as_str().to_owned());
    Ok(Facts { detail, ..Facts::default() })
}
