//! Finds the files of a source, and keeps reading those that went away until nothing more comes.
//!
//! inotify is a hint: directories are looked at every second as well, since not every file system tells, and no queue is endless.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::checkpoint::Checkpoint;
use super::tail::{Identity, Left, Tail, identity};
use crate::services::logs::{Batch, Files, Flow};

/// The files of one source.
pub(super) struct Followed {
    settings: Files,
    /// What `source` says, if not the path.
    name: Option<Arc<str>>,
    pattern: glob::Pattern,
    tails: BTreeMap<Identity, Tail>,
    /// Files at paths that cannot be read, each of which was said once.
    refused: HashSet<PathBuf>,
    inotify: Option<OwnedFd>,
    watched: HashMap<i32, PathBuf>,
    /// Renamed away from a path that is followed, with the kernel's number of that event.
    moving: HashSet<u32>,
    is_first: bool,
}

/// At once, of one source.
const FILES_MAX: usize = 1024;
/// That are read at once, and few more.
const EVENTS_MAX: usize = 4096;
/// Are read into one batch, of all files.
const BATCH_BYTES: usize = 256 << 10;
const COMPRESSED: [&str; 6] = ["gz", "bz2", "xz", "zst", "lz4", "zip"];
const EVENTS: WatchFlags =
    WatchFlags::CREATE.union(WatchFlags::MODIFY).union(WatchFlags::MOVED_FROM).union(WatchFlags::MOVED_TO).union(WatchFlags::DELETE);

pub(super) const PREFIX: &str = "file:";

fn key(identity: Identity) -> String {
    format!("{PREFIX}{}:{}", identity.0, identity.1)
}

impl Followed {
    pub(super) fn new(settings: &Files, name: Option<Arc<str>>) -> Result<Self, String> {
        let pattern = glob::Pattern::new(&settings.pattern.to_string_lossy()).map_err(|error| error.msg.to_owned())?;
        Ok(Self {
            settings: settings.clone(),
            name,
            pattern,
            tails: BTreeMap::new(),
            refused: HashSet::new(),
            // Without it, once a second has to do.
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok(),
            watched: HashMap::new(),
            moving: HashSet::new(),
            is_first: true,
        })
    }

    /// Readable when something happens.
    pub(super) fn inotify(&self) -> Option<&OwnedFd> {
        self.inotify.as_ref()
    }

    /// Looks at directories.
    pub(super) fn scan(&mut self, checkpoint: &mut Checkpoint, now: Instant) {
        let found: Vec<PathBuf> = match glob::glob(&self.settings.pattern.to_string_lossy()) {
            Ok(paths) => paths.filter_map(Result::ok).collect(),
            Err(_) => Vec::new(),
        };
        self.watch(&found);
        let mut present = HashSet::new();
        for path in found {
            if is_compressed(&path) {
                continue;
            }
            if let Some(identity) = self.meet(&path, checkpoint, now) {
                present.insert(identity);
            }
        }
        for (identity, tail) in &mut self.tails {
            tail.is_gone = !present.contains(identity);
        }
        if std::mem::take(&mut self.is_first) {
            self.look_for_lost(checkpoint, now);
            self.look_for_unseen(checkpoint, now);
        }
        self.note(checkpoint);
    }

    /// A file is at this path.
    fn meet(&mut self, path: &Path, checkpoint: &Checkpoint, now: Instant) -> Option<Identity> {
        let file = match open(path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound && self.refused.insert(path.to_owned()) {
                    tracing::warn!(path = %path.display(), %error, "a log cannot be read");
                }
                return None;
            }
        };
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return None;
        }
        self.refused.remove(path);
        let identity = identity(&file).ok()?;
        if let Some(tail) = self.tails.get_mut(&identity) {
            tail.moved(path);
            return Some(identity);
        }
        if self.tails.len() >= FILES_MAX {
            if self.refused.insert(path.to_owned()) {
                tracing::warn!(path = %path.display(), "more than {FILES_MAX} files are not followed at once");
            }
            return None;
        }
        let left = checkpoint.get(&key(identity)).and_then(|left| serde_json::from_value::<Left>(left).ok());
        let offset = match left {
            Some(left) if left.fits(&file).unwrap_or(false) => left.offset,
            // Another file in its place, or cut short.
            Some(_) => 0,
            // Of those that are there at the start; what comes later is new from its beginning.
            None if self.is_first && self.settings.from_end => file.metadata().map_or(0, |metadata| metadata.len()),
            None => 0,
        };
        self.tails.insert(identity, Tail::new(path, file, offset, self.name.clone(), now).ok()?);
        Some(identity)
    }

    /// Files that were renamed while nobody looked are found by their inodes, beside where they were.
    fn look_for_lost(&mut self, checkpoint: &mut Checkpoint, now: Instant) {
        for (source, left) in checkpoint.all(PREFIX) {
            let Ok(left) = serde_json::from_value::<Left>(left) else { continue };
            let mut numbers = source[PREFIX.len()..].split(':').filter_map(|number| number.parse::<u64>().ok());
            let (Some(device), Some(inode)) = (numbers.next(), numbers.next()) else { continue };
            if self.tails.contains_key(&(device, inode)) || !self.is_mine(&left.path) {
                continue;
            }
            let renamed = left.path.parent().and_then(|directory| {
                let entries = std::fs::read_dir(directory).ok()?;
                entries.filter_map(Result::ok).find(|entry| entry.ino() == inode).map(|entry| entry.path())
            });
            let opened = renamed.and_then(|path| {
                let file = open(&path).ok()?;
                let is_same = identity(&file).ok()? == (device, inode) && left.fits(&file).unwrap_or(false);
                is_same.then_some(())?;
                Tail::new(&path, file, left.offset, self.name.clone(), now).ok()
            });
            let Some(mut tail) = opened else {
                tracing::warn!(path = %left.path.display(), "a log went away while nobody read it");
                checkpoint.put(&source, None);
                continue;
            };
            tail.is_gone = true;
            self.tails.insert((device, inode), tail);
        }
    }

    /// Files that came and were renamed while nobody looked: they are called as ours are and a little more, and have been written to since
    /// the last that is known. What went away before then, and was read, is known no more either.
    fn look_for_unseen(&mut self, checkpoint: &Checkpoint, now: Instant) {
        let Some(since) = checkpoint.written.and_then(|written| written.checked_sub(self.settings.rotate_wait)) else { return };
        let renamed = format!("{}[.-]*", self.settings.pattern.to_string_lossy());
        let Ok(paths) = glob::glob(&renamed) else { return };
        for path in paths.filter_map(Result::ok).filter(|path| !is_compressed(path)) {
            let is_new = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).is_ok_and(|written| written >= since);
            if is_new
                && let Some(identity) = self.meet(&path, checkpoint, now)
                && let Some(tail) = self.tails.get_mut(&identity)
            {
                tail.is_gone = true;
            }
        }
    }

    /// Has it written down which files there are, and how far sinks have them: one that is renamed and not read when this process is killed
    /// could not be found again.
    fn note(&mut self, checkpoint: &mut Checkpoint) {
        for (identity, tail) in &mut self.tails {
            if let Some(left) = tail.left() {
                checkpoint.put(&key(*identity), serde_json::to_value(left).ok());
            }
        }
    }

    fn is_mine(&self, path: &Path) -> bool {
        let beside = self.settings.pattern.parent();
        self.pattern.matches_path(path) || path.parent().is_some_and(|directory| beside == Some(directory))
    }

    fn watch(&mut self, found: &[PathBuf]) {
        let Some(inotify) = &self.inotify else { return };
        let own = self.settings.pattern.parent().filter(|directory| !directory.to_string_lossy().contains(['*', '?', '[']));
        let wanted: HashSet<&Path> = found.iter().filter_map(|path| path.parent()).chain(own).collect();
        self.watched.retain(|watch, directory| {
            let stays = wanted.contains(directory.as_path());
            if !stays {
                // It may be gone already, which is as well.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            stays
        });
        let known: HashSet<PathBuf> = self.watched.values().cloned().collect();
        for directory in wanted.into_iter().filter(|directory| !known.contains(*directory)).take(FILES_MAX) {
            if let Ok(watch) = inotify::add_watch(inotify, directory, EVENTS) {
                self.watched.insert(watch, directory.to_owned());
            }
        }
    }

    /// Reads what inotify has to say; `true` if files came, went or were renamed.
    pub(super) fn hear(&mut self, checkpoint: &mut Checkpoint, now: Instant) -> bool {
        let Some(inotify) = self.inotify.take() else { return false };
        let mut has_moved = false;
        let mut room = [MaybeUninit::uninit(); 16 << 10];
        let mut events = inotify::Reader::new(&inotify, &mut room);
        let mut renamed = Vec::new();
        // Whoever writes beside our files may be faster than this is read; what is left is read next time.
        for count in 0.. {
            if count >= EVENTS_MAX && events.is_buffer_empty() {
                break;
            }
            let Ok(event) = events.next() else { break };
            let Some(directory) = self.watched.get(&event.wd()) else { continue };
            let Some(name) = event.file_name() else { continue };
            let path = directory.join(OsStr::from_bytes(name.to_bytes()));
            let flags = event.events();
            if flags.contains(ReadFlags::MOVED_FROM) && self.pattern.matches_path(&path) {
                self.moving.insert(event.cookie());
            } else if flags.contains(ReadFlags::MOVED_TO) && self.moving.remove(&event.cookie()) {
                renamed.push(path);
            }
            has_moved |= !flags.contains(ReadFlags::MODIFY);
        }
        self.inotify = Some(inotify);
        // One that came and was renamed between two looks is read under its new name.
        for path in renamed {
            let is_new = open(&path).and_then(|file| identity(&file)).is_ok_and(|identity| !self.tails.contains_key(&identity));
            if is_new
                && let Some(identity) = self.meet(&path, checkpoint, now)
                && let Some(tail) = self.tails.get_mut(&identity)
            {
                tail.is_gone = true;
            }
        }
        self.note(checkpoint);
        if self.moving.len() > FILES_MAX {
            self.moving.clear();
        }
        has_moved
    }

    /// Reads into a batch, of those that went away first, since their lines are older; `true` if there may be more.
    pub(super) fn read(&mut self, flow: &Flow, room: &mut Vec<u8>, arrived: &str, now: Instant, batch: &mut Batch) -> bool {
        let mut order: Vec<Identity> = self.tails.iter().filter(|(_, tail)| tail.is_gone).map(|(identity, _)| *identity).collect();
        order.extend(self.tails.iter().filter(|(_, tail)| !tail.is_gone).map(|(identity, _)| *identity));
        let mut has_more = false;
        for identity in order {
            if batch.read >= BATCH_BYTES {
                return true;
            }
            let Some(tail) = self.tails.get_mut(&identity) else { continue };
            match tail.read(flow, room, arrived, now, batch) {
                Ok(true) => has_more = true,
                Ok(false) => {
                    let is_over = tail.is_gone && now.saturating_duration_since(tail.last_news) >= self.settings.rotate_wait;
                    if is_over {
                        tail.finish(flow, arrived, now, batch);
                    }
                }
                Err(error) => {
                    flow.metrics.failed();
                    tracing::debug!(path = %tail.path.display(), %error, "a log cannot be read");
                }
            }
        }
        has_more
    }

    /// Sinks have all that was read.
    pub(super) fn commit(&mut self, checkpoint: &mut Checkpoint, now: Instant) {
        let wait = self.settings.rotate_wait;
        self.tails.retain(|identity, tail| {
            let is_over = tail.is_gone
                && now.saturating_duration_since(tail.last_news) >= wait
                && !tail.holds()
                && tail.length().is_ok_and(|length| length <= tail.offset());
            if is_over {
                checkpoint.put(&key(*identity), None);
            }
            tail.commit();
            !is_over
        });
        self.note(checkpoint);
    }

    /// How many there are, and how much of them is not read yet.
    pub(super) fn standing(&self) -> (u64, u64) {
        let lag = self.tails.values().map(|tail| tail.length().map_or(0, |length| length.saturating_sub(tail.offset()))).sum();
        (self.tails.len() as u64, lag)
    }
}

/// Without waiting, whatever it is: a pipe would have somebody write first.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| COMPRESSED.iter().any(|known| ending == OsStr::new(known)))
}

/// How long to sleep when nothing happens.
pub(super) const SCAN_INTERVAL: Duration = Duration::from_secs(1);
