//! Notices when a file of the configuration, or one that it names, changes on disk.
//!
//! Reads none of them: it says that something changed, and whoever asked loads everything again.
//!
//! Directories are watched, not files, since editors and Kubernetes replace files by renaming others over them.
//! Each symbolic link on the way to a file counts as a part of it: a mounted `ConfigMap` is swapped by renaming
//! `..data`, far from the name that was configured. A renamed directory further up, that holds no link and
//! not the file itself, goes unnoticed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::config::is_listed;

/// Files have settled when nothing happened to them for this long.
const SETTLED: Duration = Duration::from_millis(200);
/// Something that never settles, such as a certificate rewritten in a loop, is looked at after this long.
const SETTLING_MAX: Duration = Duration::from_secs(2);
/// As many links as Linux itself follows.
const LINKS_MAX: usize = 40;
/// Whatever moves while it is being looked at is looked at again, but not for ever.
const ROUNDS_MAX: usize = 8;

/// What is asked of the kernel about a directory. Neither opening nor reading nor each write: a program
/// that is busy in there must not keep this one awake. A file counts as written when its writer closes it.
const EVENTS: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Watches files until it is dropped.
pub struct Watch {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

/// Calls `on_change` on a thread of its own, once for each time that followed files changed and settled.
///
/// Follows nothing at first. `on_change` may call [`Watch::follow`].
pub fn start(on_change: impl Fn() + Send + 'static) -> io::Result<Watch> {
    let inotify = Arc::new(inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?);
    let tree = Mutex::new(Tree {
        inotify: Arc::clone(&inotify),
        wanted: Wanted::default(),
        files: BTreeMap::new(),
        watched: HashMap::new(),
        refused: HashSet::new(),
    });
    let alarm = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let shared = Arc::new(Shared { tree, inotify, alarm, is_stopping: AtomicBool::new(false) });
    let worker = thread::Builder::new().name("watch".to_owned()).spawn({
        let shared = Arc::clone(&shared);
        move || shared.run(&on_change)
    })?;
    Ok(Watch { shared, worker: Some(worker) })
}

impl Watch {
    /// Replaces what is followed. Files and directories need not exist yet; of a directory the `*.toml` in it count.
    ///
    /// A file that was followed before is compared with how it was then, so no change goes unseen between reading
    /// and following again. A new one is compared with how it is now: follow first, then read.
    pub fn follow(&self, files: &[PathBuf]) {
        let paths = files.iter().map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone())).collect();
        if lock(&self.shared.tree).follow(&paths) {
            self.shared.wake();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(worker) = self.worker.take()
            && worker.thread().id() != thread::current().id()
        {
            let _ = worker.join();
        }
    }
}

struct Shared {
    tree: Mutex<Tree>,
    inotify: Arc<OwnedFd>,
    /// Readable when the thread is to look at things without an event.
    alarm: OwnedFd,
    is_stopping: AtomicBool,
}

impl Shared {
    fn run(&self, on_change: &dyn Fn()) {
        loop {
            self.wait(None);
            self.settle();
            if self.is_stopping.load(Ordering::Acquire) {
                return;
            }
            // The lock is given back first: `on_change` may follow other files.
            let has_changed = lock(&self.tree).refresh();
            if has_changed {
                on_change();
            }
        }
    }

    fn settle(&self) {
        let deadline = Instant::now() + SETTLING_MAX;
        while !self.is_stopping.load(Ordering::Acquire) {
            let until = deadline.min(Instant::now() + SETTLED);
            if !self.wait(Some(until)) {
                return;
            }
        }
    }

    /// Waits for something that matters. `false` if nothing did until `deadline`.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() });
            let mut ready = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&self.alarm, PollFlags::IN)];
            match poll(&mut ready, timeout.as_ref()) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(_) => continue,
            }
            let is_called = ready[1].revents().contains(PollFlags::IN) && rustix::io::read(&self.alarm, &mut [0; 8]).is_ok();
            let has_event = lock(&self.tree).read_events();
            if is_called || has_event {
                return true;
            }
        }
    }

    fn wake(&self) {
        // It fails only when somebody has called already.
        let _ = rustix::io::write(&self.alarm, &1u64.to_ne_bytes());
    }
}

/// Nothing that is guarded here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has to be watched for the files that are followed. All paths are free of links.
#[derive(Default, PartialEq, Eq)]
struct Wanted {
    /// Links, files, and the first part of a path that does not exist.
    names: HashSet<PathBuf>,
    /// Directories that are followed themselves.
    listed: HashSet<PathBuf>,
    /// Where all of these are.
    directories: HashMap<PathBuf, Identity>,
    /// A directory mounted in two places is watched in one: inotify would report both as the last one added.
    known: HashMap<Identity, PathBuf>,
}

/// Device and inode.
type Identity = (u64, u64);

impl Wanted {
    fn admits(&self, directory: &Path, name: &OsStr) -> bool {
        self.names.contains(&directory.join(name)) || (self.listed.contains(directory) && is_listed(name))
    }

    /// Walks to `path` as the kernel does and notes every step whose change could lead elsewhere.
    fn add(&mut self, path: &Path) {
        let mut current = PathBuf::from("/");
        let mut rest: Vec<OsString> = reversed(path);
        let mut links = 0;
        while let Some(step) = rest.pop() {
            match step.to_str() {
                Some("/") => current = PathBuf::from("/"),
                Some("..") => {
                    current.pop();
                }
                _ => {
                    let next = current.join(&step);
                    let Ok(metadata) = next.symlink_metadata() else { return self.name(&current, step) };
                    if metadata.is_dir() {
                        current = next;
                        continue;
                    }
                    self.name(&current, step);
                    links += 1;
                    let Ok(target) = fs::read_link(&next) else { return };
                    if links > LINKS_MAX {
                        return;
                    }
                    rest.extend(reversed(&target));
                }
            }
        }
        if let Some(directory) = self.directory(&current) {
            self.listed.insert(directory);
        }
    }

    fn name(&mut self, directory: &Path, name: OsString) {
        if let Some(directory) = self.directory(directory) {
            self.names.insert(directory.join(name));
        }
    }

    /// The path it is watched by. `None` if it went away meanwhile: then the next round finds out.
    fn directory(&mut self, path: &Path) -> Option<PathBuf> {
        let metadata = path.metadata().ok()?;
        let identity = (metadata.dev(), metadata.ino());
        let path = self.known.entry(identity).or_insert_with(|| path.to_owned()).clone();
        self.directories.insert(path.clone(), identity);
        Some(path)
    }
}

/// Components, the last first. A root among them stays: a link may start again from there.
fn reversed(path: &Path) -> Vec<OsString> {
    let components = path.components().rev().filter(|component| *component != Component::CurDir);
    components.map(|component| component.as_os_str().to_owned()).collect()
}

/// The followed files as they were when last looked at, and the watches that tell when to look again.
struct Tree {
    inotify: Arc<OwnedFd>,
    /// What the files were last found to need.
    wanted: Wanted,
    files: BTreeMap<PathBuf, Fingerprint>,
    /// By the kernel's number of the watch.
    watched: HashMap<i32, (PathBuf, Identity)>,
    /// Directories that could not be watched, each of which was said once.
    refused: HashSet<PathBuf>,
}

impl Tree {
    /// Whether a file that was followed before is no longer what it was.
    fn follow(&mut self, paths: &HashSet<PathBuf>) -> bool {
        self.files.retain(|path, _| paths.contains(path));
        let added: Vec<&PathBuf> = paths.iter().filter(|path| !self.files.contains_key(*path)).collect();
        self.files.extend(added.iter().map(|path| ((*path).clone(), Fingerprint::Absent)));
        self.watch();
        // Taken after the watch is set, so that nothing falls between the two.
        for path in added {
            self.files.insert(path.clone(), Fingerprint::of(path));
        }
        self.files.iter().any(|(path, before)| *before != Fingerprint::of(path))
    }

    /// Follows links to where they lead now, and says whether any file has changed.
    fn refresh(&mut self) -> bool {
        self.watch();
        let mut has_changed = false;
        for (path, before) in &mut self.files {
            let now = Fingerprint::of(path);
            has_changed |= *before != now;
            *before = now;
        }
        has_changed
    }

    /// Looks where the paths lead and watches that, until both agree: a link may move in between.
    fn watch(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut wanted = Wanted::default();
            for path in self.files.keys() {
                wanted.add(path);
            }
            if !self.adopt(wanted) {
                return;
            }
        }
    }

    /// Whether anything had to change.
    fn adopt(&mut self, wanted: Wanted) -> bool {
        // Until here events of new names were not let through, so a change of names asks for another look too.
        let mut has_changed = self.wanted != wanted;
        self.wanted = wanted;
        let Self { inotify, wanted: Wanted { directories, .. }, watched, refused, .. } = self;
        watched.retain(|watch, (path, identity)| {
            let stays = directories.get(path) == Some(identity);
            if !stays {
                has_changed = true;
                // It may be gone already, which is as well.
                let _ = inotify::remove_watch(&*inotify, *watch);
            }
            stays
        });
        let held: HashSet<&PathBuf> = watched.values().map(|(path, _)| path).collect();
        let missing: Vec<_> = directories.iter().filter(|(path, _)| !held.contains(path)).collect();
        for (path, identity) in missing {
            match inotify::add_watch(&*inotify, path, EVENTS) {
                Ok(watch) => {
                    has_changed = true;
                    refused.remove(path);
                    watched.insert(watch, (path.clone(), *identity));
                }
                Err(reason) => {
                    if refused.insert(path.clone()) {
                        tracing::warn!(path = %path.display(), %reason, "cannot watch a directory; changes in it need SIGHUP");
                    }
                }
            }
        }
        has_changed
    }

    /// Reads what the kernel has to say, and whether any of it matters.
    fn read_events(&mut self) -> bool {
        let mut matters = false;
        let mut buffer = [MaybeUninit::uninit(); 4 << 10];
        let inotify = Arc::clone(&self.inotify);
        let mut events = inotify::Reader::new(&*inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => matters = true,
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    matters |= self.admits(event.wd(), event.events(), name);
                }
                Err(Errno::INTR) => {}
                Err(_) => return matters,
            }
        }
    }

    fn admits(&mut self, watch: i32, events: ReadFlags, name: Option<&OsStr>) -> bool {
        let Some((directory, _)) = self.watched.get(&watch) else { return false };
        let matters = name.is_none_or(|name| self.wanted.admits(directory, name));
        if events.contains(ReadFlags::IGNORED) {
            // The directory is gone, and the watch with it.
            self.watched.remove(&watch);
        }
        matters
    }
}

/// Tells whether a file is the one it was, without reading it.
#[derive(PartialEq, Eq)]
enum Fingerprint {
    /// Missing, or behind a directory that may not be searched.
    Absent,
    /// The mode and owner count: what could not be read may have become readable.
    File { identity: Identity, bytes: u64, modified: (i64, i64), access: (u32, u32, u32) },
    /// Names of what a configuration would be read from; hidden files come and go with editors.
    Directory(Vec<OsString>),
}

impl Fingerprint {
    fn of(path: &Path) -> Self {
        let Ok(metadata) = path.metadata() else { return Self::Absent };
        if metadata.is_dir() {
            let entries = path.read_dir().into_iter().flatten().flatten();
            let mut names: Vec<OsString> = entries.map(|entry| entry.file_name()).filter(|name| is_listed(name)).collect();
            names.sort();
            return Self::Directory(names);
        }
        Self::File {
            identity: (metadata.dev(), metadata.ino()),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            access: (metadata.mode(), metadata.uid(), metadata.gid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, create_dir_all, read, remove_dir_all, remove_file, rename, write};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
    use tempfile::TempDir;

    /// Long enough for a change to settle and be told on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(10);
    /// Long enough that a change would have been told on a quiet one.
    const QUIET: Duration = Duration::from_millis(300);

    struct Fixture {
        directory: TempDir,
        watch: Watch,
        fired: Receiver<()>,
    }

    impl Fixture {
        fn new() -> Self {
            let (sender, fired) = channel();
            let watch = start(move || sender.send(()).unwrap_or_default()).unwrap();
            Self { directory: TempDir::new().unwrap(), watch, fired }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn follow(&self, names: &[&str]) {
            self.watch.follow(&names.iter().map(|name| self.at(name)).collect::<Vec<_>>());
        }

        /// After something that happens at once or not at all.
        #[track_caller]
        fn fires_once(&self) {
            assert_eq!(self.fired.recv_timeout(PATIENCE), Ok(()), "a change is told");
            self.is_quiet();
        }

        /// After several steps, between which a busy machine may pause long enough to tell of each.
        #[track_caller]
        fn fires(&self) {
            assert_eq!(self.fired.recv_timeout(PATIENCE), Ok(()), "a change is told");
            while self.fired.recv_timeout(QUIET).is_ok() {}
        }

        #[track_caller]
        fn is_quiet(&self) {
            assert_eq!(self.fired.recv_timeout(QUIET), Err(RecvTimeoutError::Timeout), "nothing is told");
        }
    }

    /// A fixture that follows one file which holds the letter `a`.
    fn following(name: &str) -> Fixture {
        let fixture = Fixture::new();
        write(fixture.at(name), "a").unwrap();
        fixture.follow(&[name]);
        fixture
    }

    #[test]
    fn an_edit_in_place_is_told_each_time() {
        let fixture = following("a.toml");
        write(fixture.at("a.toml"), "ab").unwrap();
        fixture.fires();
        write(fixture.at("a.toml"), "abc").unwrap();
        fixture.fires();
    }

    #[test]
    fn a_file_renamed_over_another_is_told_each_time() {
        let fixture = following("a.toml");
        for _ in 0..2 {
            write(fixture.at("new"), "a").unwrap();
            rename(fixture.at("new"), fixture.at("a.toml")).unwrap();
            fixture.fires_once();
        }
    }

    #[test]
    fn a_swapped_config_map_is_told_each_time() {
        let fixture = Fixture::new();
        let publish = |version: &str| {
            create_dir(fixture.at(version)).unwrap();
            write(fixture.at(version).join("attache.toml"), "a").unwrap();
            symlink(version, fixture.at("..data_tmp")).unwrap();
            rename(fixture.at("..data_tmp"), fixture.at("..data")).unwrap();
        };
        publish("..1");
        symlink("..data/attache.toml", fixture.at("attache.toml")).unwrap();
        fixture.follow(&["attache.toml"]);
        for (old, new) in [("..1", "..2"), ("..2", "..3")] {
            publish(new);
            remove_dir_all(fixture.at(old)).unwrap();
            fixture.fires_once();
        }
        write(fixture.at("..3/attache.toml"), "ab").unwrap();
        fixture.fires();
    }

    #[test]
    fn absolute_links_and_linked_directories_are_followed() {
        let fixture = Fixture::new();
        for release in ["1", "2"] {
            create_dir_all(fixture.at(release).join("conf")).unwrap();
            write(fixture.at(release).join("conf/a.toml"), "a").unwrap();
        }
        symlink(fixture.at("1"), fixture.at("current")).unwrap();
        fixture.follow(&["current/conf/../conf/a.toml"]);
        symlink(fixture.at("2"), fixture.at("next")).unwrap();
        rename(fixture.at("next"), fixture.at("current")).unwrap();
        fixture.fires_once();
        write(fixture.at("1/conf/a.toml"), "ab").unwrap();
        fixture.is_quiet();
        write(fixture.at("2/conf/a.toml"), "ab").unwrap();
        fixture.fires();
    }

    #[test]
    fn other_files_and_readers_are_no_concern() {
        let fixture = following("a.toml");
        write(fixture.at("b.toml"), "b").unwrap();
        rename(fixture.at("b.toml"), fixture.at("c.toml")).unwrap();
        read(fixture.at("a.toml")).unwrap();
        fixture.is_quiet();
    }

    #[test]
    fn whoever_is_busy_beside_the_file_wakes_nobody() {
        let fixture = following("a.toml");
        write(fixture.at("page.html"), "a").unwrap();
        fixture.is_quiet();
        let mut log = fs::File::create(fixture.at("access.log")).unwrap();
        fixture.is_quiet();
        lock(&fixture.watch.shared.tree).read_events();
        for _ in 0..10 {
            io::Write::write_all(&mut log, b"a line").unwrap();
            read(fixture.at("page.html")).unwrap();
        }
        let mut ready = [PollFd::new(&fixture.watch.shared.inotify, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut ready, Some(&now)), Ok(0), "the kernel has nothing to say");
    }

    #[test]
    fn opening_for_writing_without_writing_is_no_change() {
        let fixture = following("a.toml");
        drop(fs::OpenOptions::new().append(true).open(fixture.at("a.toml")).unwrap());
        fixture.is_quiet();
    }

    #[test]
    fn a_file_that_goes_and_comes_back_is_told_twice() {
        let fixture = following("a.toml");
        remove_file(fixture.at("a.toml")).unwrap();
        fixture.fires_once();
        write(fixture.at("a.toml"), "a").unwrap();
        fixture.fires();
    }

    #[test]
    fn a_file_that_becomes_readable_is_told() {
        let fixture = following("a.toml");
        fs::set_permissions(fixture.at("a.toml"), PermissionsExt::from_mode(0o400)).unwrap();
        fixture.fires_once();
    }

    #[test]
    fn a_file_may_appear_below_directories_that_do_not_exist_yet() {
        let fixture = Fixture::new();
        fixture.follow(&["x/y/a.toml"]);
        create_dir(fixture.at("x")).unwrap();
        fixture.is_quiet();
        create_dir(fixture.at("x/y")).unwrap();
        write(fixture.at("x/y/a.toml"), "a").unwrap();
        fixture.fires();
    }

    #[test]
    fn a_directory_may_be_replaced() {
        let fixture = Fixture::new();
        let make = |name: &str| {
            create_dir(fixture.at(name)).unwrap();
            write(fixture.at(name).join("a.toml"), "a").unwrap();
        };
        make("conf");
        fixture.follow(&["conf/a.toml"]);
        remove_dir_all(fixture.at("conf")).unwrap();
        make("conf");
        write(fixture.at("conf/a.toml"), "ab").unwrap();
        fixture.fires();
        make("new");
        rename(fixture.at("conf"), fixture.at("old")).unwrap();
        rename(fixture.at("new"), fixture.at("conf")).unwrap();
        fixture.fires();
        write(fixture.at("old/a.toml"), "abc").unwrap();
        fixture.is_quiet();
        write(fixture.at("conf/a.toml"), "abc").unwrap();
        fixture.fires();
    }

    #[test]
    fn of_a_directory_the_names_that_count_are_followed() {
        let fixture = Fixture::new();
        create_dir(fixture.at("conf.d")).unwrap();
        fixture.follow(&["conf.d"]);
        write(fixture.at("conf.d/.a.toml.swp"), "").unwrap();
        write(fixture.at("conf.d/4913"), "").unwrap();
        fixture.is_quiet();
        write(fixture.at("conf.d/a.toml"), "").unwrap();
        fixture.fires_once();
        remove_file(fixture.at("conf.d/a.toml")).unwrap();
        fixture.fires_once();
    }

    #[test]
    fn following_other_files_forgets_the_first() {
        let fixture = following("a.toml");
        write(fixture.at("b.toml"), "b").unwrap();
        fixture.follow(&["b.toml"]);
        write(fixture.at("a.toml"), "ab").unwrap();
        fixture.is_quiet();
        write(fixture.at("b.toml"), "bc").unwrap();
        fixture.fires();
    }

    #[test]
    fn following_the_same_again_loses_no_change() {
        let fixture = following("a.toml");
        write(fixture.at("a.toml"), "ab").unwrap();
        fixture.follow(&["a.toml"]);
        fixture.fires();
    }

    #[test]
    fn what_never_settles_is_told_in_the_end() {
        let fixture = following("a.toml");
        let started = Instant::now();
        let mut text = String::new();
        let pause = SETTLED / 4;
        while fixture.fired.recv_timeout(pause).is_err() {
            assert!(started.elapsed() < PATIENCE, "a change is told");
            text.push('x');
            write(fixture.at("a.toml"), &text).unwrap();
        }
    }

    #[test]
    fn links_in_a_circle_end_somewhere() {
        let fixture = Fixture::new();
        symlink("b", fixture.at("a")).unwrap();
        symlink("a", fixture.at("b")).unwrap();
        fixture.follow(&["a/x.toml"]);
        remove_file(fixture.at("b")).unwrap();
        create_dir(fixture.at("b")).unwrap();
        write(fixture.at("b/x.toml"), "x").unwrap();
        fixture.fires();
    }

    #[test]
    fn the_call_may_follow_other_files() {
        let directory = TempDir::new().unwrap();
        let (first, second) = (directory.path().join("a"), directory.path().join("b"));
        write(&first, "a").unwrap();
        write(&second, "b").unwrap();
        let (sender, fired) = channel();
        let shared: Arc<Mutex<Option<Watch>>> = Arc::default();
        let watch = start({
            let (shared, second) = (Arc::clone(&shared), second.clone());
            move || {
                if let Some(watch) = lock(&shared).as_ref() {
                    watch.follow(std::slice::from_ref(&second));
                }
                let _ = sender.send(());
            }
        });
        let watch = watch.unwrap();
        watch.follow(std::slice::from_ref(&first));
        *lock(&shared) = Some(watch);
        write(&first, "ab").unwrap();
        assert_eq!(fired.recv_timeout(PATIENCE), Ok(()));
        write(&second, "bc").unwrap();
        assert_eq!(fired.recv_timeout(PATIENCE), Ok(()));
        let watch = lock(&shared).take();
        drop(watch);
    }

    #[test]
    fn dropping_the_watch_ends_its_thread() {
        let Fixture { watch, fired, .. } = following("a.toml");
        drop(watch);
        assert_eq!(fired.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
    }
}
