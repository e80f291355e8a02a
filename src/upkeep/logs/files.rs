//! Finds the files of a log, those of all its sources together so that none is read twice, and keeps reading those that went away until
//! nothing more comes.
//!
//! inotify is a hint: directories are looked at every second as well, since not every file system tells, and no queue is endless. What this log
//! writes itself it never reads.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use serde_json::Value;

use super::checkpoint::Checkpoint;
use super::tail::{Identity, Left, Start, Tail, identity};
use super::walk;
use crate::services::logs::{Batch, COMPRESSED, Files, Flow};

/// The files of one log.
pub(super) struct Followed {
    sources: Vec<Source>,
    tails: BTreeMap<Identity, Tail>,
    /// What this log writes.
    own: Vec<PathBuf>,
    /// Files at paths that cannot be read, each of which was said once.
    refused: HashSet<PathBuf>,
    inotify: Option<OwnedFd>,
    watched: HashMap<i32, PathBuf>,
    /// Renamed away from a path that is followed, with the kernel's number of that event.
    moving: HashSet<u32>,
    /// That went away and were read to their ends, the latest last.
    done: VecDeque<Identity>,
    /// When files were looked for last.
    looked: Option<SystemTime>,
    has_rotated: bool,
    is_full: bool,
    /// Whose turn it is to be read first.
    turn: usize,
}

struct Source {
    settings: Files,
    /// What `source` says, if not the path.
    name: Option<Arc<str>>,
    /// Nobody has looked for its files before: not in a process before this one either.
    is_new: bool,
}

/// At once.
const FILES_MAX: usize = 1024;
/// That are read at once, and few more.
const EVENTS_MAX: usize = 4096;
/// Clocks of file systems are so late.
const CLOCK_LATE: Duration = Duration::from_millis(100);
const EVENTS: WatchFlags =
    WatchFlags::CREATE.union(WatchFlags::MODIFY).union(WatchFlags::MOVED_FROM).union(WatchFlags::MOVED_TO).union(WatchFlags::DELETE);

/// In the checkpoint: how far files were taken, what was in those that were cut short before that, and whose files were looked for.
const FILE: &str = "file:";
const COPY: &str = "copy:";
const SEEN: &str = "seen:";

fn key(prefix: &str, identity: Identity) -> String {
    format!("{prefix}{}:{}", identity.0, identity.1)
}

impl Source {
    /// Whether a file at this path is one of its.
    fn finds(&self, path: &Path) -> bool {
        self.settings.finds(path)
    }

    /// Whether a file at this path was one of its.
    fn has_rotated(&self, path: &Path) -> bool {
        walk::has_rotated(&self.settings, path)
    }
}

impl Followed {
    pub(super) fn new(sources: impl Iterator<Item = (Files, Option<Arc<str>>)>, own: Vec<PathBuf>, checkpoint: &Checkpoint) -> Self {
        let sources = sources.map(|(settings, name)| {
            let is_new = checkpoint.get(&seen(&settings)).is_none();
            Source { settings, name, is_new }
        });
        Self {
            sources: sources.collect(),
            tails: BTreeMap::new(),
            own,
            refused: HashSet::new(),
            // Without it, once a second has to do.
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok(),
            watched: HashMap::new(),
            moving: HashSet::new(),
            done: VecDeque::new(),
            looked: None,
            has_rotated: false,
            is_full: false,
            turn: 0,
        }
    }

    /// Readable when something happens.
    pub(super) fn inotify(&self) -> Option<&OwnedFd> {
        self.inotify.as_ref().filter(|_| !self.sources.is_empty())
    }

    /// Looks at directories.
    pub(super) fn scan(&mut self, checkpoint: &mut Checkpoint, now: Instant) {
        if self.sources.is_empty() {
            return;
        }
        let (looking, before) = (SystemTime::now(), self.looked);
        // As they were left, before anything is written down.
        let left = if before.is_none() { checkpoint.all(FILE) } else { Vec::new() };
        let own = self.own();
        let found: Vec<Vec<PathBuf>> = self.sources.iter().map(|source| walk::found(&source.settings)).collect();
        self.watch(&found);
        let mut present: HashMap<Identity, Vec<PathBuf>> = HashMap::new();
        for (source, paths) in found.into_iter().enumerate() {
            for path in paths.into_iter().filter(|path| !is_compressed(path)) {
                if let Some(identity) = self.meet(&path, source, &own, checkpoint, now) {
                    present.entry(identity).or_default().push(path);
                }
            }
        }
        for (identity, tail) in &mut self.tails {
            match present.get(identity) {
                Some(paths) => tail.is_at(paths),
                None => self.has_rotated |= tail.goes(now),
            }
        }
        let since = match before {
            None => {
                self.look_for_lost(&left, checkpoint, now);
                for source in &mut self.sources {
                    if std::mem::take(&mut source.is_new) {
                        checkpoint.put(&seen(&source.settings), Some(Value::Bool(true)));
                    }
                }
                let wait = self.sources.iter().map(|source| source.settings.rotate_wait).min().unwrap_or_default();
                checkpoint.written.and_then(|written| written.checked_sub(wait))
            }
            Some(looked) => looked.checked_sub(CLOCK_LATE).filter(|_| self.has_rotated),
        };
        if let Some(since) = since {
            self.look_for_unseen(since, &left, &own, checkpoint, now);
        }
        self.has_rotated = false;
        self.looked = Some(looking);
        self.note(checkpoint);
    }

    fn own(&self) -> HashSet<Identity> {
        let there = self.own.iter().filter_map(|path| std::fs::metadata(path).ok());
        there.map(|metadata| (metadata.dev(), metadata.ino())).collect()
    }

    /// A file is at this path.
    fn meet(&mut self, path: &Path, source: usize, own: &HashSet<Identity>, checkpoint: &Checkpoint, now: Instant) -> Option<Identity> {
        let (file, identity) = self.opened(path)?;
        if self.tails.contains_key(&identity) {
            return Some(identity);
        }
        if own.contains(&identity) {
            return None;
        }
        let left = checkpoint.get(&key(FILE, identity)).and_then(|left| serde_json::from_value::<Left>(left).ok());
        let start = match left {
            Some(left) if left.fits(&file).unwrap_or(false) => left.start(),
            // Another file in its place, or cut short.
            Some(_) => Start::default(),
            // Of those that are there when nobody has looked before; what comes later is new from its beginning.
            None if self.sources[source].is_new && self.looked.is_none() && self.sources[source].settings.from_end => {
                Start::at(file.metadata().map_or(0, |metadata| metadata.len()))
            }
            None => Start::default(),
        };
        self.follow(path, file, identity, source, start, now).then_some(identity)
    }

    /// A file that can be read.
    fn opened(&mut self, path: &Path) -> Option<(File, Identity)> {
        let opened = open(path).and_then(|file| {
            let metadata = file.metadata()?;
            Ok((file, metadata))
        });
        match opened {
            Ok((file, metadata)) => {
                self.refused.remove(path);
                metadata.is_file().then(|| (file, (metadata.dev(), metadata.ino())))
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound && self.refused.len() < FILES_MAX && self.refused.insert(path.to_owned()) {
                    tracing::warn!(path = %path.display(), %error, "a log cannot be read");
                }
                None
            }
        }
    }

    /// `false` if there is no room for one more.
    fn follow(&mut self, path: &Path, file: File, identity: Identity, source: usize, start: Start, now: Instant) -> bool {
        if self.tails.len() >= FILES_MAX {
            if !std::mem::replace(&mut self.is_full, true) {
                tracing::warn!(path = %path.display(), "more than {FILES_MAX} files are not followed at once");
            }
            return false;
        }
        let Source { settings, name, .. } = &self.sources[source];
        let Ok(tail) = Tail::new(path, file, start, name.clone(), settings.rotate_wait, now) else { return false };
        self.tails.insert(identity, tail);
        true
    }

    /// Files that were renamed while nobody looked are found by their inodes, beside where they were.
    fn look_for_lost(&mut self, all: &[(String, Value)], checkpoint: &mut Checkpoint, now: Instant) {
        for (name, left) in all {
            let Ok(left) = serde_json::from_value::<Left>(left.clone()) else { continue };
            let mut numbers = name[FILE.len()..].split(':').filter_map(|number| number.parse::<u64>().ok());
            let (Some(device), Some(inode)) = (numbers.next(), numbers.next()) else { continue };
            if self.tails.contains_key(&(device, inode)) {
                continue;
            }
            // Of files that nobody wants any more, what is known stays as long as they are there.
            let Some(source) = self.sources.iter().position(|source| source.finds(&left.path) || source.has_rotated(&left.path)) else {
                if !left.path.exists() {
                    checkpoint.put(name, None);
                }
                continue;
            };
            let renamed = left.path.parent().and_then(|directory| {
                let entries = std::fs::read_dir(directory).ok()?;
                entries.filter_map(Result::ok).find(|entry| entry.ino() == inode).map(|entry| entry.path())
            });
            let opened = renamed.and_then(|path| {
                let file = open(&path).ok()?;
                (identity(&file).ok()? == (device, inode) && left.fits(&file).unwrap_or(false)).then_some((path, file))
            });
            let Some((path, file)) = opened else {
                tracing::warn!(path = %left.path.display(), "a log went away while nobody read it");
                checkpoint.put(name, None);
                continue;
            };
            self.follow(&path, file, (device, inode), source, left.start(), now);
            if let Some(tail) = self.tails.get_mut(&(device, inode)) {
                tail.goes(now);
            }
        }
    }

    /// Files that came and were renamed while nobody looked: they are called as ours are and a little more, and have been written to since
    /// then. What went away before, and was read, is known no more either. A copy of one that was read and cut short goes on where that
    /// was left.
    fn look_for_unseen(
        &mut self,
        since: SystemTime,
        left: &[(String, Value)],
        own: &HashSet<Identity>,
        checkpoint: &Checkpoint,
        now: Instant,
    ) {
        let copied: Vec<Left> = left
            .iter()
            .map(|(_, left)| left.clone())
            .chain(checkpoint.all(COPY).into_iter().chain(checkpoint.all(FILE)).map(|(_, left)| left))
            .filter_map(|left| serde_json::from_value(left).ok())
            .collect();
        let directories: HashSet<PathBuf> = self.watched.values().cloned().chain(self.directories()).collect();
        for entry in directories.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().filter_map(Result::ok) {
            let path = entry.path();
            let Some(source) = self.sources.iter().position(|source| source.has_rotated(&path)) else { continue };
            if is_compressed(&path) || self.sources.iter().any(|source| source.finds(&path)) {
                continue;
            }
            let is_new = entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|written| written >= since);
            if !is_new {
                continue;
            }
            let Some((file, identity)) = self.opened(&path) else { continue };
            if self.tails.contains_key(&identity) || own.contains(&identity) || self.done.contains(&identity) {
                continue;
            }
            let start = copied.iter().filter(|left| left.is_copied_to(&file).unwrap_or(false)).map(Left::start).max().unwrap_or_default();
            self.follow(&path, file, identity, source, start, now);
            if let Some(tail) = self.tails.get_mut(&identity) {
                tail.goes(now);
            }
        }
    }

    /// Has it written down which files there are, and how far sinks have them: one that is renamed and not read when this process is killed
    /// could not be found again.
    fn note(&mut self, checkpoint: &mut Checkpoint) {
        for (identity, tail) in &mut self.tails {
            if let Some(left) = tail.cut_short() {
                checkpoint.put(&key(COPY, *identity), serde_json::to_value(left).ok());
            }
            if let Some(left) = tail.left() {
                checkpoint.put(&key(FILE, *identity), serde_json::to_value(left).ok());
            }
        }
    }

    /// Where files are that have no wildcard before their names.
    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        let patterns = self.sources.iter().filter_map(|source| source.settings.pattern.parent());
        patterns.filter(|directory| !directory.to_string_lossy().contains(['*', '?', '['])).map(Path::to_owned)
    }

    fn watch(&mut self, found: &[Vec<PathBuf>]) {
        let Some(inotify) = &self.inotify else { return };
        let wanted: HashSet<PathBuf> =
            found.iter().flatten().filter_map(|path| path.parent()).map(Path::to_owned).chain(self.directories()).collect();
        self.watched.retain(|watch, directory| {
            let stays = wanted.contains(directory);
            if !stays {
                // It may be gone already, which is as well.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            stays
        });
        let known: HashSet<PathBuf> = self.watched.values().cloned().collect();
        for directory in wanted.into_iter().filter(|directory| !known.contains(directory)).take(FILES_MAX) {
            if let Ok(watch) = inotify::add_watch(inotify, &directory, EVENTS) {
                self.watched.insert(watch, directory);
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
            let flags = event.events();
            if flags.contains(ReadFlags::IGNORED) {
                // The directory is gone, and the watch with it. Another one may be there.
                self.watched.remove(&event.wd());
                has_moved = true;
                continue;
            }
            let Some(directory) = self.watched.get(&event.wd()) else { continue };
            let Some(name) = event.file_name() else { continue };
            let path = directory.join(OsStr::from_bytes(name.to_bytes()));
            if flags.contains(ReadFlags::MOVED_FROM) {
                if let Some(source) = self.sources.iter().position(|source| source.finds(&path)) {
                    self.moving.insert(event.cookie());
                    self.has_rotated = true;
                    renamed.push((event.cookie(), source, None));
                }
            } else if flags.contains(ReadFlags::MOVED_TO)
                && self.moving.remove(&event.cookie())
                && let Some((_, _, to)) = renamed.iter_mut().find(|(cookie, ..)| *cookie == event.cookie())
            {
                *to = Some(path);
            }
            has_moved |= !flags.contains(ReadFlags::MODIFY);
        }
        self.inotify = Some(inotify);
        // One that came and was renamed between two looks is read under its new name.
        let own = if renamed.is_empty() { HashSet::new() } else { self.own() };
        for (_, source, path) in renamed {
            let Some(path) = path else { continue };
            let is_known = |identity: &Identity| self.tails.contains_key(identity) || self.done.contains(identity);
            if open(&path).and_then(|file| identity(&file)).is_ok_and(|identity| !is_known(&identity))
                && let Some(identity) = self.meet(&path, source, &own, checkpoint, now)
                && let Some(tail) = self.tails.get_mut(&identity)
            {
                tail.goes(now);
            }
        }
        self.note(checkpoint);
        if self.moving.len() > FILES_MAX {
            self.moving.clear();
        }
        has_moved
    }

    /// Reads into a batch, of those that went away first, since their lines are older, and of the others in turns; `true` if there may be
    /// more.
    pub(super) fn read(&mut self, flow: &Flow, room: &mut Vec<u8>, arrived: &str, now: Instant, batch: &mut Batch) -> bool {
        let mut order: Vec<Identity> = self.tails.iter().filter(|(_, tail)| tail.is_gone()).map(|(identity, _)| *identity).collect();
        let gone = order.len();
        order.extend(self.tails.iter().filter(|(_, tail)| !tail.is_gone()).map(|(identity, _)| *identity));
        if order.len() > gone {
            self.turn = (self.turn + 1) % (order.len() - gone);
            order[gone..].rotate_left(self.turn);
        }
        let mut has_more = false;
        for identity in order {
            if batch.is_full() {
                return true;
            }
            let Some(tail) = self.tails.get_mut(&identity) else { continue };
            match tail.read(flow, room, arrived, now, batch) {
                Ok(true) => has_more = true,
                Ok(false) => {
                    if tail.is_over(now) {
                        tail.finish(flow, arrived, now, batch);
                    }
                }
                Err(error) => {
                    flow.metrics.failed();
                    if self.refused.len() < FILES_MAX && self.refused.insert(tail.path.clone()) {
                        tracing::warn!(log = flow.name, path = %tail.path.display(), %error, "a log cannot be read");
                    }
                }
            }
        }
        has_more
    }

    /// Sinks have all that was read.
    pub(super) fn commit(&mut self, checkpoint: &mut Checkpoint, now: Instant) {
        self.tails.retain(|identity, tail| {
            let is_over = tail.is_over(now) && !tail.holds() && tail.length().is_ok_and(|length| length <= tail.offset());
            if is_over {
                checkpoint.put(&key(FILE, *identity), None);
                if checkpoint.get(&key(COPY, *identity)).is_some() {
                    checkpoint.put(&key(COPY, *identity), None);
                }
                self.done.push_back(*identity);
            }
            tail.commit();
            !is_over
        });
        while self.done.len() > FILES_MAX {
            self.done.pop_front();
        }
        self.is_full &= self.tails.len() >= FILES_MAX;
        self.note(checkpoint);
    }

    /// How many there are, and how much of them is not read yet.
    pub(super) fn standing(&self) -> (u64, u64) {
        let lag = self.tails.values().map(|tail| tail.length().map_or(0, |length| length.saturating_sub(tail.offset()))).sum();
        (self.tails.len() as u64, lag)
    }
}

fn seen(settings: &Files) -> String {
    format!("{SEEN}{}", settings.pattern.display())
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
