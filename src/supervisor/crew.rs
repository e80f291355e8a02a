//! How many workers a machine is good for.
//!
//! Starts none; `serve` does.

/// CPUs this process may use: affinity and cgroup quota counted, at least one.
pub fn available_cpus() -> usize {
    // std counts affinity and cgroup v1 and v2 quotas (rounded down, at least one).
    std::thread::available_parallelism().map_or(1, usize::from)
}
