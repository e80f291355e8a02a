//! The process that this one lives as long as: `--exit-with`.
//!
//! Notices an end and no more. Nobody is signalled, and how the other process ended only its parent learns.

use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How often a kernel that cannot tell of an end is asked.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Companion {
    pid: Pid,
    /// Readable from the end of the process on, and of no other one that gets its number later. `None` where the kernel has no such
    /// thing (before Linux 5.3), or does not let us have it.
    descriptor: Option<OwnedFd>,
}

/// Why there is nobody to live as long as.
#[derive(Debug, PartialEq, Eq)]
pub enum Unaccompanied {
    NoProcess,
    Unwatchable(Errno),
}

impl fmt::Display for Unaccompanied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProcess => f.write_str("there is no such process"),
            Self::Unwatchable(error) => write!(f, "it cannot be watched: {error}"),
        }
    }
}

impl Companion {
    pub fn find(pid: Pid) -> Result<Self, Unaccompanied> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(Self { pid, descriptor: Some(descriptor) }),
            Err(Errno::SRCH) => Err(Unaccompanied::NoProcess),
            Err(Errno::NOSYS | Errno::PERM) if is_there(pid) => Ok(Self { pid, descriptor: None }),
            Err(Errno::NOSYS | Errno::PERM) => Err(Unaccompanied::NoProcess),
            Err(error) => Err(Unaccompanied::Unwatchable(error)),
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Returns once the process has ended.
    pub(super) async fn ended(&self) {
        if let Some(descriptor) = &self.descriptor
            && let Ok(registered) = register(descriptor.as_fd())
            && registered.readable().await.is_ok()
        {
            return;
        }
        while is_there(self.pid) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[expect(deprecated, reason = "its successor is unsafe since a descriptor may be closed while registered, which a borrowed one is not")]
fn register(descriptor: BorrowedFd<'_>) -> std::io::Result<AsyncFd<BorrowedFd<'_>>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// Somebody else's process cannot be signalled, and is there.
fn is_there(pid: Pid) -> bool {
    test_kill_process(pid) != Err(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn child() -> Child {
        // Ends with its input.
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn pid_of(child: &Child) -> Pid {
        Pid::from_raw(child.id().cast_signed()).unwrap()
    }

    /// Whether the end of `child` is noticed, and not before.
    fn check(companion: &Companion, mut child: Child) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut ended = std::pin::pin!(companion.ended());
            tokio::select! {
                biased;
                () = &mut ended => panic!("it has not ended yet"),
                () = tokio::task::yield_now() => {}
            }
            drop(child.stdin.take());
            child.wait().unwrap();
            ended.await;
        });
    }

    #[test]
    fn an_end_is_noticed() {
        let child = child();
        let companion = Companion::find(pid_of(&child)).unwrap();
        check(&companion, child);
    }

    #[test]
    fn an_end_is_noticed_without_a_descriptor_too() {
        let child = child();
        check(&Companion { pid: pid_of(&child), descriptor: None }, child);
    }

    #[test]
    fn a_process_that_is_gone_is_nobody_to_live_with() {
        let mut child = child();
        let pid = pid_of(&child);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(Companion::find(pid).unwrap_err(), Unaccompanied::NoProcess);
    }
}
