//! The machine the tests run on: how busy it is, and what it lets us have.
//!
//! A claim about time can only be tested as far as the machine keeps time itself.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Held by tests that measure or press hard, so that they do not measure each other. A lock on a
/// file, since some run each test in a process of its own.
pub fn alone() -> File {
    let file = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone.lock")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    file
}

/// Whether a program is there; says so if not.
pub fn has(program: &str, flag: &str) -> bool {
    let found = Command::new(program).arg(flag).stdin(Stdio::null()).output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Watches how late this machine wakes a thread, which no program on it can better.
pub struct Lateness {
    is_over: Arc<AtomicBool>,
    watcher: JoinHandle<Duration>,
}

impl Lateness {
    pub fn watch() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let watcher = std::thread::spawn(move || {
            let nap = Duration::from_millis(5);
            let mut worst = Duration::ZERO;
            while !until.load(Ordering::Relaxed) {
                let slept = Instant::now();
                std::thread::sleep(nap);
                worst = worst.max(slept.elapsed().saturating_sub(nap));
            }
            worst
        });
        Self { is_over, watcher }
    }

    /// The worst that was seen.
    pub fn end(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        self.watcher.join().unwrap()
    }
}

/// Lets this process open as many files as `wanted`, if it may.
pub fn raise_open_files(wanted: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= wanted {
        return true;
    }
    let most = limit.maximum.unwrap_or(u64::MAX);
    most >= wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).is_ok()
}
