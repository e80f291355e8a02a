//! Runs a program and takes what it says, without a shell.
//!
//! When its time is over it ends, with all that it has started. Makes nothing of what it says.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::upstream::health::Reason;

/// What became of it.
pub(super) struct Ended {
    /// No more than was asked for.
    pub(super) said: Vec<u8>,
    /// It said more than that.
    pub(super) is_cut: bool,
    /// How it ended, if not with 0.
    pub(super) failure: Option<String>,
}

/// Takes up to `bytes` of what it says on its standard output; the rest goes nowhere, so that it can end.
pub(super) async fn run(words: &[String], most: Duration, bytes: usize) -> Result<Ended, Reason> {
    let Some((program, arguments)) = words.split_first() else { return Err(Reason::new("there is no program")) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0).kill_on_drop(true);
    let child = command.spawn().map_err(|error| Reason::new(format!("cannot start it: {error}")))?;
    let mut group = Group { leader: child.id(), child };
    let run = async {
        let mut said = Vec::new();
        let mut is_cut = false;
        if let Some(output) = group.child.stdout.take() {
            let mut output = output.take(bytes as u64);
            let _ = output.read_to_end(&mut said).await;
            is_cut = tokio::io::copy(&mut output.into_inner(), &mut tokio::io::sink()).await.is_ok_and(|more| more > 0);
        }
        (group.child.wait().await, said, is_cut)
    };
    let (status, said, is_cut) = timeout(most, run).await.map_err(|_| Reason::new(format!("did not end within {most:?}")))?;
    let status = status.map_err(|error| Reason::new(error.to_string()))?;
    let how = || status.code().map_or_else(|| "was killed".to_owned(), |code| format!("ended with {code}"));
    Ok(Ended { said, is_cut, failure: (!status.success()).then(how) })
}

/// A program with all that it has started.
struct Group {
    leader: Option<u32>,
    child: Child,
}

impl Drop for Group {
    fn drop(&mut self) {
        // Once its leader has been waited for, the number may be somebody else's.
        let is_running = self.child.id().is_some();
        let leader = self.leader.filter(|_| is_running).and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(leader) = leader {
            // It may have ended by itself just now.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
