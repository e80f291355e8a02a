//! Who runs on this machine and what that takes, as metrics by name and as a table of processes.
//!
//! Reads no file: `upkeep::processes` does. Knows one reading and what it has to keep of those before.

pub mod topz;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::page::{About, Page};
use crate::settings;
use crate::value::{Decode, Item, Reader, Value, Whole};

settings! {
    /// A `process` source.
    pub struct Settings as "processes" {
        /// How many are in the table that `/topz` shows.
        top: Whole<1, 1000> = Whole(20),
        /// Where the kernel tells of them.
        proc: PathBuf = PathBuf::from("/proc"),
        /// Whether command lines are shown, which may hold secrets.
        command: bool = false,
    }
}

impl Settings {
    /// `true`, or a table.
    pub fn of(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        match &item.value {
            Value::Bool(true) => Some(Self { top: Whole(20), proc: PathBuf::from("/proc"), command: false }),
            Value::Table(_) => Self::decode(item, reader),
            _ => {
                reader.error(item.place, "processes are looked at or left out").help("write process = true, or remove it");
                None
            }
        }
    }
}

/// One process.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    pub pid: i32,
    /// What tells it from one before that had its number: ticks since the machine's start.
    pub birth: u64,
    pub name: String,
    pub cpu_seconds: f64,
    pub resident: u64,
    pub virtual_bytes: u64,
    /// Where we may look.
    pub descriptors: Option<u64>,
    pub threads: u64,
    /// Seconds since 1970.
    pub started: f64,
    pub command: Option<String>,
}

/// The machine as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    pub cpus: usize,
    pub load: Option<[f64; 3]>,
    pub memory: Option<u64>,
    pub memory_available: Option<u64>,
}

/// What was seen at one time.
#[derive(Clone, Debug)]
pub struct Reading {
    pub at: Instant,
    pub processes: Vec<Process>,
    pub machine: Machine,
}

/// A reading, with what each process has done since the one before.
#[derive(Clone, Debug)]
pub struct Table {
    pub rows: Vec<Row>,
    pub machine: Machine,
    pub processes: usize,
    pub threads: u64,
    pub resident: u64,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub process: Process,
    /// CPUs that it kept busy: 1.5 is one and a half.
    pub cpu: f64,
}

/// Shares over a shorter time say nothing: the kernel counts in hundredths of a second.
pub const SHORTEST: Duration = Duration::from_millis(250);
/// Shares over a longer time say nothing of now.
pub const LONGEST: Duration = Duration::from_secs(60);
/// More names go by one.
const NAMES_MAX: usize = 1000;
const OTHERS: &str = "others";

/// What is kept between readings.
#[derive(Default)]
pub struct Known {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: Option<Last>,
    /// CPU seconds of all that ever had a name, since a counter must not go down when one ends.
    names: HashMap<String, f64>,
}

struct Last {
    at: Instant,
    cpu_seconds: HashMap<(i32, u64), f64>,
}

/// All that have one name.
#[derive(Default)]
struct Group {
    count: u64,
    resident: u64,
    virtual_bytes: u64,
    descriptors: u64,
    threads: u64,
    oldest: f64,
}

impl Known {
    /// How long ago the last reading was.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.last.as_ref().map(|last| now.saturating_duration_since(last.at))
    }

    /// Adds metrics by name, and gives the table.
    pub fn take(&self, reading: Reading, ours: &[(String, String)], page: &mut Page) -> Table {
        let Reading { at, processes, machine } = reading;
        let inner = &mut *self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let before = inner.last.take();
        let seconds = before.as_ref().map_or(0.0, |last| at.saturating_duration_since(last.at).as_secs_f64());
        let mut cpu_seconds = HashMap::with_capacity(processes.len());
        let mut groups: HashMap<&str, Group> = HashMap::new();
        let alive: HashSet<&str> = processes.iter().map(|process| process.name.as_str()).collect();
        let new = alive.iter().filter(|name| !inner.names.contains_key(**name)).count();
        if inner.names.len() + new > NAMES_MAX {
            // Those of programs that are gone make room; their counters would begin anew, as after a restart.
            inner.names.retain(|name, _| name == OTHERS || alive.contains(name.as_str()));
        }
        let mut rows = Vec::with_capacity(processes.len());
        for process in &processes {
            let key = (process.pid, process.birth);
            let known = before.as_ref().and_then(|last| last.cpu_seconds.get(&key)).copied();
            let more = (process.cpu_seconds - known.unwrap_or(0.0)).max(0.0);
            cpu_seconds.insert(key, process.cpu_seconds);
            let is_known = inner.names.contains_key(&process.name) || inner.names.len() < NAMES_MAX;
            let name = if is_known { process.name.as_str() } else { OTHERS };
            *inner.names.entry(name.to_owned()).or_default() += more;
            let group = groups.entry(name).or_default();
            group.oldest = if group.count == 0 { process.started } else { group.oldest.min(process.started) };
            group.count += 1;
            group.resident += process.resident;
            group.virtual_bytes += process.virtual_bytes;
            group.descriptors += process.descriptors.unwrap_or(0);
            group.threads += process.threads;
            // One that is new has done all of it since.
            let cpu = if seconds > 0.0 { more / seconds } else { 0.0 };
            rows.push(Row { process: process.clone(), cpu });
        }
        inner.last = Some(Last { at, cpu_seconds });
        write_groups(&inner.names, &groups, ours, page);
        write_machine(&machine, ours, page);
        let threads = processes.iter().map(|process| process.threads).sum();
        let resident = processes.iter().map(|process| process.resident).sum();
        for (name, help, value) in [
            ("processes", "Processes there are.", processes.len() as f64),
            ("processes_all_threads", "Threads of all processes.", threads as f64),
            ("processes_all_resident_memory_bytes", "Resident memory of all processes; what they share counts for each.", resident as f64),
        ] {
            page.add(About::gauge(name, help), ours, value);
        }
        Table { rows, machine, processes: processes.len(), threads, resident }
    }
}

fn write_groups(names: &HashMap<String, f64>, groups: &HashMap<&str, Group>, ours: &[(String, String)], page: &mut Page) {
    let none = Group::default();
    let mut sorted: Vec<(&String, &f64)> = names.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    for (name, cpu_seconds) in sorted {
        let mut labels = vec![("name".to_owned(), name.clone())];
        labels.extend_from_slice(ours);
        let group = groups.get(name.as_str()).unwrap_or(&none);
        page.add(
            About::counter("processes_cpu_seconds_total", "CPU time of all processes that ever had this name."),
            &labels,
            *cpu_seconds,
        );
        for (name, help, value) in [
            ("processes_count", "Processes of this name.", group.count),
            (
                "processes_resident_memory_bytes",
                "Resident memory of processes of this name; what they share counts for each.",
                group.resident,
            ),
            ("processes_virtual_memory_bytes", "Virtual memory of processes of this name.", group.virtual_bytes),
            ("processes_open_fds", "Descriptors of processes of this name that we may look at.", group.descriptors),
            ("processes_threads", "Threads of processes of this name.", group.threads),
        ] {
            page.add(About::gauge(name, help), &labels, value as f64);
        }
        if group.count > 0 {
            let about = About::gauge("processes_oldest_start_time_seconds", "When the oldest process of this name began.");
            page.add(about, &labels, group.oldest);
        }
    }
}

fn write_machine(machine: &Machine, ours: &[(String, String)], page: &mut Page) {
    page.add(About::gauge("machine_cpus", "CPUs that there are for us."), ours, machine.cpus as f64);
    for (name, load) in ["machine_load1", "machine_load5", "machine_load15"].into_iter().zip(machine.load.into_iter().flatten()) {
        page.add(About::gauge(name, "Processes that ran or waited to, on average over as many minutes."), ours, load);
    }
    for (name, help, bytes) in [
        ("machine_memory_bytes", "Memory of the machine.", machine.memory),
        ("machine_memory_available_bytes", "Memory that can be had without swapping.", machine.memory_available),
    ] {
        if let Some(bytes) = bytes {
            page.add(About::gauge(name, help), ours, bytes as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn process(pid: i32, birth: u64, name: &str, cpu_seconds: f64) -> Process {
        Process {
            pid,
            birth,
            name: name.to_owned(),
            cpu_seconds,
            resident: 100,
            virtual_bytes: 1000,
            descriptors: Some(3),
            threads: 2,
            started: 5.0,
            command: None,
        }
    }

    fn take(known: &Known, at: Instant, processes: Vec<Process>) -> (Table, String) {
        let mut page = Page::new(usize::MAX);
        let table = known.take(Reading { at, processes, machine: Machine::default() }, &[], &mut page);
        (table, page.write(Format::Text))
    }

    #[test]
    fn what_a_name_has_used_does_not_go_down_when_its_process_ends() {
        let known = Known::default();
        let now = Instant::now();
        take(&known, now, vec![process(1, 1, "a", 5.0), process(2, 1, "a", 1.0)]);
        let (table, page) = take(&known, now + Duration::from_secs(2), vec![process(1, 1, "a", 8.0)]);
        assert!((table.rows[0].cpu - 1.5).abs() < 1e-9);
        assert!(page.contains("processes_cpu_seconds_total{name=\"a\"} 9\n") && page.contains("processes_count{name=\"a\"} 1\n"), "{page}");
        // The number is another process's now, and all that this one used is new.
        let (_, page) = take(&known, now + Duration::from_secs(3), vec![process(1, 7, "a", 1.0)]);
        assert!(page.contains("processes_cpu_seconds_total{name=\"a\"} 10\n"), "{page}");
        let (_, page) = take(&known, now + Duration::from_secs(4), Vec::new());
        assert!(
            page.contains("processes_cpu_seconds_total{name=\"a\"} 10\n") && page.contains("processes_count{name=\"a\"} 0\n"),
            "{page}"
        );
    }

    /// They were forgotten with half as many: those that were known counted twice.
    #[test]
    fn names_of_programs_that_are_gone_stay_while_there_is_room() {
        let known = Known::default();
        let named = |from: usize, to: usize| {
            (from..to).map(|pid| process(i32::try_from(pid).unwrap(), 1, &format!("n{pid}"), 1.0)).collect::<Vec<_>>()
        };
        let now = Instant::now();
        take(&known, now, named(0, NAMES_MAX));
        let (_, page) = take(&known, now + Duration::from_secs(1), named(1, NAMES_MAX));
        assert!(page.contains("processes_count{name=\"n0\"} 0\n"), "{page}");
        let (_, page) = take(&known, now + Duration::from_secs(2), named(1, NAMES_MAX + 1));
        assert!(!page.contains("{name=\"n0\"}") && page.contains(&format!("processes_count{{name=\"n{NAMES_MAX}\"}} 1\n")), "{page}");
    }

    #[test]
    fn too_many_names_go_by_one() {
        let known = Known::default();
        let many = (0..NAMES_MAX + 5).map(|pid| process(i32::try_from(pid).unwrap(), 1, &format!("n{pid}"), 1.0)).collect();
        let (_, page) = take(&known, Instant::now(), many);
        assert!(page.contains("processes_count{name=\"others\"} 5\n"), "{page}");
    }
}
