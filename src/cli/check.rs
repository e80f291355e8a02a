//! `attache check`: read, parse and compile, then show what was found.
//!
//! Binds nothing and writes nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{FAILED, named_or_default, out, show};
use crate::refusal::Refusal;
use crate::supervisor::{Carried, Origin, assemble, available_cpus};
use crate::telemetry::Metrics;
use crate::tls::Sessions;

pub(super) fn check(paths: Vec<PathBuf>, strict: bool) -> ExitCode {
    let paths = match named_or_default(paths) {
        Ok(paths) => paths,
        Err(code) => return code,
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
