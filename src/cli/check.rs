//! `attache check`: read, parse and compile, then show what was found.
//!
//! Binds nothing and writes nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{FAILED, default_paths, out, show};
use crate::refusal::Refusal;
use crate::supervisor::{Carried, Origin, assemble, available_cpus};
use crate::telemetry::Metrics;
use crate::tls::Sessions;

pub(super) fn check(paths: Vec<PathBuf>, strict: bool) -> ExitCode {
    let paths = if paths.is_empty() {
        match default_paths() {
            Ok(paths) => paths,
            Err(code) => return code,
        }
    } else {
        paths
    };
    let workers = available_cpus();
    let carried = Carried { metrics: Metrics::new(workers, Refusal::LABELS), sessions: Sessions::new(), workers };
    let (sources, found) = match assemble(&Origin::Paths(paths), &carried, None) {
        Ok(assembled) => (assembled.sources, assembled.found),
        Err(failed) => (failed.sources, failed.found),
    };
    show(&sources, &found);
    if found.has_errors() || (strict && !found.is_empty()) {
        return ExitCode::from(FAILED);
    }
    out("configuration ok\n");
    ExitCode::SUCCESS
}
