//! Where log lines go without anyone waiting for them.
//!
//! A worker appends to a bounded buffer of its own; one thread writes the buffers out. When the buffer is full, since the
//! file, pipe or terminal behind it is slow or full, records are thrown away and counted. Knows nothing of what a line says.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::value::{Decode, Item, Reader};

/// Per worker. At 400 bytes a line and 20,000 lines a second, about 130 ms of a sink that stands still.
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// The writer is woken early at this size.
const BUFFER_BYTES_HURRY: usize = BUFFER_BYTES_MAX / 2;
/// What a buffer may keep while nothing is logged.
const BUFFER_BYTES_IDLE: usize = 64 << 10;
/// Lines that come within this time leave in one write.
const COALESCE: Duration = Duration::from_millis(10);
/// After an error such as a full disk, before the next attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// Destination of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// `"stdout"`, `"stderr"`, or a path relative to the file that names it.
impl Decode for To {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        match String::decode(item, reader)?.as_str() {
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            _ => PathBuf::decode(item, reader).map(Self::File),
        }
    }
}

/// One destination with its writing thread. Dropped, it still writes what it was given.
#[derive(Debug)]
pub struct Sink {
    to: To,
    shared: Arc<Shared>,
    writer: Thread,
}

#[derive(Debug)]
struct Shared {
    buffers: Box<[Buffer]>,
    /// The writer is parked or about to be; whoever changes that owes it a wake-up.
    is_asleep: AtomicBool,
    is_stopping: AtomicBool,
    /// The deadline has passed; what is left is lost.
    is_abandoned: AtomicBool,
    /// Takes the old file's place at the writer's next turn.
    reopened: Mutex<Option<File>>,
    dropped: Arc<AtomicU64>,
    is_done: Mutex<bool>,
    done: Condvar,
}

/// On cache lines of its own, since another worker's lock is next to it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Buffer(Mutex<Vec<u8>>);

impl Sink {
    /// `dropped` counts the records that are thrown away.
    pub fn open(to: &To, workers: usize, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let file = match to {
            // Not through std's handles: their locks would be held while a write is stuck.
            To::Stdout => io::stdout().as_fd().try_clone_to_owned()?.into(),
            To::Stderr => io::stderr().as_fd().try_clone_to_owned()?.into(),
            To::File(path) => open_file(path)?,
        };
        Self::start(to.clone(), file, workers, dropped)
    }

    fn start(to: To, file: File, workers: usize, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            buffers: (0..workers.max(1)).map(|_| Buffer::default()).collect(),
            is_asleep: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            reopened: Mutex::new(None),
            dropped,
            is_done: Mutex::new(false),
            done: Condvar::new(),
        });
        let writer = Writer { shared: Arc::clone(&shared), file, is_torn: false };
        let thread = thread::Builder::new().name("attache-log".to_owned()).spawn(move || writer.run())?;
        Ok(Self { to, shared, writer: thread.thread().clone() })
    }

    pub fn to(&self) -> &To {
        &self.to
    }

    /// `write` appends one record with its line end, unless the worker's buffer is full. Never waits for the destination.
    pub fn append(&self, worker: usize, write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(worker < self.shared.buffers.len());
        let Some(Buffer(buffer)) = self.shared.buffers.get(worker) else { return self.shared.drop_records(1) };
        let mut bytes = lock(buffer);
        let before = bytes.len();
        if before >= BUFFER_BYTES_MAX {
            return self.shared.drop_records(1);
        }
        write(&mut bytes);
        let after = bytes.len();
        if after > BUFFER_BYTES_MAX {
            bytes.truncate(before);
            bytes.shrink_to(BUFFER_BYTES_MAX);
            return self.shared.drop_records(1);
        }
        drop(bytes);
        let is_urgent = before < BUFFER_BYTES_HURRY && after >= BUFFER_BYTES_HURRY;
        // The writer says that it sleeps before it looks into the buffers one last time. Either it saw this record there,
        // or the lock on the buffer shows us that it sleeps.
        if is_urgent || self.shared.is_asleep.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Opens the path anew, after a log was rotated. On an error the old file stays. Streams have nothing to reopen.
    pub fn reopen(&self) -> io::Result<()> {
        if let To::File(path) = &self.to {
            *lock(&self.shared.reopened) = Some(open_file(path)?);
            self.wake();
        }
        Ok(())
    }

    /// Writes what is there and ends the thread. False if that took longer than `deadline`, and the rest is lost.
    pub fn flush_and_stop(&self, deadline: Duration) -> bool {
        self.stop();
        let done = lock(&self.shared.is_done);
        let waited = self.shared.done.wait_timeout_while(done, deadline, |done| !*done);
        let is_done = *waited.unwrap_or_else(PoisonError::into_inner).0;
        self.shared.is_abandoned.store(!is_done, Ordering::SeqCst);
        is_done
    }

    fn stop(&self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        self.shared.is_asleep.store(false, Ordering::SeqCst);
        self.writer.unpark();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Without waiting for a reader, if it is a FIFO: an error says so.
fn open_file(path: &Path) -> io::Result<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits();
    OpenOptions::new().append(true).create(true).custom_flags(nonblocking.cast_signed()).open(path)
}

impl Shared {
    fn drop_records(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Nothing to do. Gives memory back on the way, as there may be nothing to do for long.
    fn is_idle(&self) -> bool {
        let is_empty = |Buffer(buffer): &Buffer| {
            let mut bytes = lock(buffer);
            if bytes.is_empty() && bytes.capacity() > BUFFER_BYTES_IDLE {
                *bytes = Vec::new();
            }
            bytes.is_empty()
        };
        !self.is_stopping() && lock(&self.reopened).is_none() && self.buffers.iter().all(is_empty)
    }
}

struct Writer {
    shared: Arc<Shared>,
    file: File,
    /// What was last written did not end its line.
    is_torn: bool,
}

impl Writer {
    fn run(mut self) {
        let mut chunk = Vec::new();
        loop {
            // Read before the buffers: what was appended before the stop is in them.
            let is_stopping = self.shared.is_stopping();
            if !self.write_buffers(&mut chunk) {
                if is_stopping {
                    break;
                }
                chunk = Vec::new();
                self.sleep();
            }
            if !is_stopping {
                thread::park_timeout(COALESCE);
            }
        }
        *lock(&self.shared.is_done) = true;
        self.shared.done.notify_all();
    }

    /// Until somebody appends, reopens or stops.
    fn sleep(&self) {
        self.shared.is_asleep.store(true, Ordering::SeqCst);
        if self.shared.is_idle() {
            while self.shared.is_asleep.load(Ordering::SeqCst) {
                thread::park();
            }
        }
        self.shared.is_asleep.store(false, Ordering::SeqCst);
    }

    /// False if there was nothing to write.
    fn write_buffers(&mut self, chunk: &mut Vec<u8>) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut has_written = false;
        self.adopt_reopened();
        for Buffer(buffer) in &shared.buffers {
            // The worker goes on with the buffer that was just written out.
            std::mem::swap(&mut *lock(buffer), chunk);
            if chunk.is_empty() {
                continue;
            }
            has_written = true;
            self.adopt_reopened();
            let written = self.write(chunk);
            if written < chunk.len() {
                let lost = memchr::memchr_iter(b'\n', &chunk[written..]).count();
                shared.drop_records(lost as u64);
                self.pause();
            }
            chunk.clear();
        }
        has_written
    }

    fn adopt_reopened(&mut self) {
        if let Some(file) = lock(&self.shared.reopened).take() {
            self.file = file;
            self.is_torn = false;
        }
    }

    /// How many bytes were taken before an error, or all.
    fn write(&mut self, bytes: &[u8]) -> usize {
        if self.is_torn && self.write_some(b"\n") == 1 {
            self.is_torn = false;
        }
        let written = if self.is_torn { 0 } else { self.write_some(bytes) };
        if written > 0 {
            self.is_torn = bytes[written - 1] != b'\n';
        }
        written
    }

    fn write_some(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A FIFO or a terminal somebody made nonblocking: slow, not broken.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.shared.is_abandoned.load(Ordering::SeqCst) => {
                    thread::park_timeout(COALESCE);
                }
                Err(_) => break,
            }
        }
        written
    }

    fn pause(&self) {
        let end = Instant::now() + PAUSE;
        while !self.shared.is_stopping() && lock(&self.shared.reopened).is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }
}

/// A record that panicked while it was written may be torn; the log goes on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Read as _;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn start(file: File, workers: usize) -> (Sink, Arc<AtomicU64>) {
        let dropped = Arc::new(AtomicU64::new(0));
        (Sink::start(To::Stdout, file, workers, Arc::clone(&dropped)).unwrap(), dropped)
    }

    fn open(path: &Path) -> (Sink, Arc<AtomicU64>) {
        let dropped = Arc::new(AtomicU64::new(0));
        (Sink::open(&To::File(path.to_owned()), 2, Arc::clone(&dropped)).unwrap(), dropped)
    }

    fn append(sink: &Sink, worker: usize, line: &str) {
        sink.append(worker, |out| out.extend_from_slice(format!("{line}\n").as_bytes()));
    }

    /// Every thread's lines are whole and in order; returns how many there are.
    #[track_caller]
    fn check_lines(text: &str) -> u64 {
        let mut last: HashMap<&str, u64> = HashMap::new();
        let mut count = 0;
        for line in text.lines() {
            let (thread, number) = line.split_once(' ').unwrap();
            let number: u64 = number.parse().unwrap();
            assert!(last.insert(thread, number).is_none_or(|before| before < number), "{line}");
            count += 1;
        }
        count
    }

    #[test]
    fn no_line_is_lost_or_torn_while_the_sink_keeps_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let (sink, dropped) = open(&path);
        thread::scope(|scope| {
            for worker in 0..2 {
                let sink = &sink;
                // 8 to 10 bytes a line: all of them fit into the buffer, however slow the disk.
                scope.spawn(move || (0..100_000).for_each(|n| append(sink, worker, &format!("{worker} {n}"))));
            }
        });
        assert!(sink.flush_and_stop(LONG));
        assert_eq!(check_lines(&std::fs::read_to_string(&path).unwrap()), 200_000);
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_stuck_sink_drops_instead_of_blocking_and_counts_what_it_drops() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (sink, dropped) = start(File::from(std::os::fd::OwnedFd::from(writer)), 1);
        let padding = "0".repeat(100);
        for n in 0..50_000 {
            append(&sink, 0, &format!("{padding} {n}"));
        }
        let lost = dropped.load(Ordering::Relaxed);
        assert!(lost > 0, "5 MB do not fit");
        assert!(!sink.flush_and_stop(Duration::from_millis(1)), "nobody reads");

        // Somebody reads after all: the writer ends and the pipe with it.
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(check_lines(&text) + lost, 50_000);
    }

    #[test]
    fn a_fifo_without_a_reader_is_an_error_and_does_not_hang() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(Sink::open(&To::File(path), 1, Arc::default()).is_err());
    }

    #[test]
    fn a_fifo_that_nobody_empties_is_given_up_at_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (sink, dropped) = open(&path);
        for n in 0..10_000 {
            append(&sink, 0, &format!("0000000000000000 {n}"));
        }
        assert!(!sink.flush_and_stop(Duration::from_millis(1)));
        assert!(sink.flush_and_stop(LONG), "the thread ends though nobody reads");
        assert!(dropped.load(Ordering::Relaxed) > 0);
        drop(reader);
    }

    #[test]
    fn a_full_disk_costs_records_and_nothing_else() {
        let (sink, dropped) = start(OpenOptions::new().write(true).open("/dev/full").unwrap(), 1);
        (0..1000).for_each(|n| append(&sink, 0, &format!("0 {n}")));
        assert!(sink.flush_and_stop(LONG));
        assert_eq!(dropped.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn a_record_larger_than_the_buffer_is_dropped_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let (sink, dropped) = open(&path);
        append(&sink, 0, "0 1");
        append(&sink, 0, &"x".repeat(BUFFER_BYTES_MAX));
        append(&sink, 0, "0 2");
        assert!(sink.flush_and_stop(LONG));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "0 1\n0 2\n");
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_sleeping_writer_is_woken() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (sink, _) = start(File::from(std::os::fd::OwnedFd::from(writer)), 1);
        for _ in 0..5 {
            while !sink.shared.is_asleep.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            append(&sink, 0, "0 1");
            let mut line = [0; 4];
            reader.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"0 1\n");
        }
    }

    #[test]
    fn a_rotated_file_is_left_for_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
        let (sink, _) = open(&path);
        append(&sink, 0, "0 1");
        while std::fs::metadata(&path).unwrap().len() == 0 {
            thread::yield_now();
        }
        std::fs::rename(&path, &old).unwrap();
        sink.reopen().unwrap();
        append(&sink, 0, "0 2");
        assert!(sink.flush_and_stop(LONG));
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "0 1\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "0 2\n");
    }

    /// The writer once looked for a new file only when it had a line to write, and turned every 10 ms until then.
    #[test]
    fn an_idle_sink_lets_go_of_a_rotated_file() {
        let directory = tempfile::tempdir().unwrap();
        let (sink, _) = open(&directory.path().join("access.log"));
        sink.reopen().unwrap();
        while lock(&sink.shared.reopened).is_some() || !sink.shared.is_asleep.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        assert!(sink.shared.is_idle());
    }

    #[test]
    fn a_path_that_cannot_be_reopened_keeps_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs").join("access.log");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let (sink, _) = open(&path);
        let moved = directory.path().join("moved");
        std::fs::rename(path.parent().unwrap(), &moved).unwrap();
        assert!(sink.reopen().is_err());
        append(&sink, 0, "0 1");
        assert!(sink.flush_and_stop(LONG));
        assert_eq!(std::fs::read_to_string(moved.join("access.log")).unwrap(), "0 1\n");
    }

    #[test]
    fn a_dropped_sink_still_writes() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (sink, _) = start(File::from(std::os::fd::OwnedFd::from(writer)), 1);
        append(&sink, 0, "0 1");
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "0 1\n");
    }
}
