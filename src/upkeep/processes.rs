//! Reads who runs on this machine from where its kernel tells.
//!
//! Adds nothing up: `services::metrics::process` does.

use std::path::Path;
use std::time::Instant;

use procfs::process::all_processes_with_root;
use procfs::{FromRead as _, FromReadSI as _, KernelStats, LoadAverage, Meminfo};

use crate::services::metrics::process::{Machine, Process, Reading, Settings};

/// Threads of the kernel itself.
const KERNEL_THREAD: u32 = 0x0020_0000;
/// More of a command line says nothing more.
const COMMAND_CHARS_MAX: usize = 1024;

/// Blocks for some milliseconds.
pub(super) fn read(settings: &Settings) -> Result<Reading, String> {
    let root = &settings.proc;
    let failed = |error: procfs::ProcError| format!("cannot read {}: {error}", root.display());
    let booted = KernelStats::from_file(root.join("stat"), procfs::current_system_info()).map_err(failed)?.btime as f64;
    let ticks = procfs::ticks_per_second() as f64;
    let page = procfs::page_size();
    let mut processes = Vec::new();
    for process in all_processes_with_root(root).map_err(failed)? {
        // Whoever ends while we look is not there.
        let Ok(process) = process else { continue };
        let Ok(stat) = process.stat() else { continue };
        if stat.flags & KERNEL_THREAD != 0 {
            continue;
        }
        processes.push(Process {
            pid: stat.pid,
            birth: stat.starttime,
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            resident: stat.rss * page,
            virtual_bytes: stat.vsize,
            descriptors: process.fd_count().ok().map(|count| count as u64),
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            started: booted + stat.starttime as f64 / ticks,
            command: if settings.command { process.cmdline().ok().map(|words| shortened(&words.join(" "))) } else { None },
            name: stat.comm,
        });
    }
    Ok(Reading { at: Instant::now(), processes, machine: machine(root) })
}

fn shortened(command: &str) -> String {
    command.chars().take(COMMAND_CHARS_MAX).collect()
}

/// What can be read of it.
fn machine(root: &Path) -> Machine {
    let load = LoadAverage::from_file(root.join("loadavg")).ok();
    let memory = Meminfo::from_file(root.join("meminfo")).ok();
    Machine {
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        // In hundredths, as it is written there.
        load: load.map(|load| [load.one, load.five, load.fifteen].map(|load| (f64::from(load) * 100.0).round() / 100.0)),
        memory: memory.as_ref().map(|memory| memory.mem_total),
        memory_available: memory.and_then(|memory| memory.mem_available),
    }
}
