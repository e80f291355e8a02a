//! `attache run`: start, serve, end with the right exit code.
//!
//! Only ties supervisor and admin together.

use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::Pid;
use tokio::sync::mpsc;

use super::{CUT_OFF, fail, named_or_default, show};
use crate::admin;
use crate::supervisor::{Companion, End, Origin, Supervisor};

pub(super) fn run(paths: Vec<PathBuf>, exit_with: Option<Pid>) -> ExitCode {
    let paths = match named_or_default(paths) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    serve(Origin::Paths(paths), exit_with, |_| {})
}

/// `announce` is told every address that listens, as the system says it is.
pub(super) fn serve(origin: Origin, exit_with: Option<Pid>, announce: impl Fn(&str)) -> ExitCode {
    // First of all: it may end while we start.
    let companion = match exit_with.map(Companion::find).transpose() {
        Ok(companion) => companion,
        Err(reason) => {
            let pid = exit_with.map_or(0, |pid| pid.as_raw_nonzero().get());
            return fail(&format!("cannot exit with process {pid}: {reason}"));
        }
    };
    raise_open_files();
    decline_huge_pages();
    // Two sockets at most are on their way to the admin's thread.
    let (tell_admin, admin_sockets) = mpsc::channel(2);
    let supervisor = match Supervisor::start(origin, tell_admin) {
        Ok((supervisor, sources, warnings)) => {
            show(&sources, &warnings);
            supervisor
        }
        Err(not_started) => {
            show(&not_started.sources, &not_started.found);
            return fail("not started");
        }
    };
    let handle = supervisor.handle();
    if let Err(error) = admin::start(handle.clone(), admin_sockets) {
        return fail(&format!("cannot start the admin API: {error}"));
    }
    let generation = handle.live.pin();
    for listener in &generation.listeners {
        for key in &listener.sockets {
            let address = handle.local_address(key).unwrap_or_else(|| key.address.to_string());
            tracing::info!(listener = listener.name, address, tls = listener.tls.is_some(), "listening");
            announce(&address);
        }
    }
    drop(generation);
    let ended =
        tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| runtime.block_on(supervisor.run(companion)));
    match ended {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::CutOff(_)) => ExitCode::from(CUT_OFF),
        Err(error) => fail(&error.to_string()),
    }
}

/// Takes as many open files as the system lets us have: each connection is one, and its way to an
/// endpoint another.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        let raised = Rlimit { current: limit.maximum.or(Some(1 << 20)), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "cannot raise the limit of open files");
        }
    }
}

/// Where the system gives huge pages to everybody, a heap is rounded up to 2 MiB for each thread and
/// each burst. A proxy's heap is small and lives long: it gains less than it costs.
fn decline_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "cannot decline huge pages");
    }
}
