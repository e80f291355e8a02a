//! Follows one file from where it was left, line by line, whatever its owner does to it.
//!
//! Finds no files: `files` does. Knows a file by its device, its inode and how it begins, since each of them alone is somebody else's
//! some day.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::proto::logs::{Assembler, Entry};
use crate::services::logs::{Batch, Flow};

/// Device and inode.
pub(super) type Identity = (u64, u64);

/// A file that is followed.
pub(super) struct Tail {
    pub(super) path: PathBuf,
    file: File,
    /// Its first bytes.
    head: Vec<u8>,
    /// Where to read on.
    offset: u64,
    /// Of the line that is not whole yet.
    part: Vec<u8>,
    /// Where that line begins.
    part_begins: u64,
    /// The rest of a line that was too long is skipped.
    is_skipping: bool,
    assembler: Assembler,
    /// Since when it is not where it was found any more.
    gone: Option<Instant>,
    last_news: Instant,
    /// For how long one that is gone is read.
    rotate_wait: Duration,
    /// How far it was taken when it was cut short, if that was not said yet: a copy of it may be somewhere.
    cut_short: Option<Left>,
    /// What sinks have of it ends here.
    taken: u64,
    /// The checkpoint does not say so yet, or knows another name.
    is_changed: bool,
    /// What it was told last.
    said: Option<Left>,
    /// What `source` says in its records, if not the path.
    name: Option<Arc<str>>,
}

/// Where to begin to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Start {
    pub(super) offset: u64,
    /// In the middle of a line that is nobody's.
    skips: bool,
}

impl Start {
    pub(super) fn at(offset: u64) -> Self {
        Self { offset, skips: false }
    }
}

/// Where a file was left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Left {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    head: usize,
    hash: u64,
    /// Of the last bytes before the offset.
    #[serde(default)]
    end: Option<u64>,
    /// The line at the offset was cut, and its rest is nobody's.
    #[serde(default)]
    skips: bool,
}

/// So much of its beginning tells a file from others.
const HEAD_BYTES: usize = 1024;
/// Is read at once.
const READ_BYTES: usize = 64 << 10;

impl Left {
    /// Whether this file begins as that one did, and is the same before the offset. An offset beyond its end is another file's, or one
    /// that was cut short.
    pub(super) fn fits(&self, file: &File) -> io::Result<bool> {
        let mut head = vec![0; self.head.min(HEAD_BYTES)];
        let length = read_at(file, &mut head, 0)?;
        let is_same = length == head.len() && hash(&head) == self.hash && file.metadata()?.len() >= self.offset;
        Ok(is_same && (self.end.is_none() || self.end == end_hash(file, self.offset)?))
    }

    pub(super) fn start(&self) -> Start {
        Start { offset: self.offset, skips: self.skips }
    }

    /// As [`Left::fits`], where the same inode says nothing.
    pub(super) fn is_copied_to(&self, file: &File) -> io::Result<bool> {
        Ok(self.head > 0 && self.end.is_some() && self.fits(file)?)
    }
}

/// Of what is before this place, as much as tells it from others.
fn end_hash(file: &File, offset: u64) -> io::Result<Option<u64>> {
    let mut room = [0; HEAD_BYTES];
    let room = &mut room[..(offset.min(HEAD_BYTES as u64)) as usize];
    let length = read_at(file, room, offset - room.len() as u64)?;
    Ok((length == room.len()).then(|| hash(room)))
}

fn hash(head: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(head)
}

/// As much as there is.
fn read_at(file: &File, room: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < room.len() {
        match file.read_at(&mut room[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

pub(super) fn identity(file: &File) -> io::Result<Identity> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Tail {
    /// From there on.
    pub(super) fn new(
        path: &Path,
        file: File,
        start: Start,
        name: Option<Arc<str>>,
        rotate_wait: Duration,
        now: Instant,
    ) -> io::Result<Self> {
        let mut tail = Self {
            path: path.to_owned(),
            file,
            head: Vec::new(),
            offset: start.offset,
            part: Vec::new(),
            part_begins: start.offset,
            is_skipping: start.skips,
            assembler: Assembler::default(),
            gone: None,
            last_news: now,
            rotate_wait,
            cut_short: None,
            taken: start.offset,
            is_changed: true,
            said: None,
            name,
        };
        tail.grow_head()?;
        Ok(tail)
    }

    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads what has come, up to a bound; `false` if nothing has.
    pub(super) fn read(&mut self, flow: &Flow, room: &mut Vec<u8>, arrived: &str, now: Instant, batch: &mut Batch) -> io::Result<bool> {
        let length = self.length()?;
        // Also where it is as long as it was: it may be another text of the same length.
        if length < self.offset || !self.begins_as_before()? {
            self.begin_anew(flow, arrived, batch);
        }
        if length <= self.offset {
            let source = self.source();
            self.assembler.flush_idle(flow.rules(), now, &mut |entry: Entry<'_>| flow.take(&entry, &source, arrived, batch));
            return Ok(false);
        }
        self.grow_head()?;
        room.resize(READ_BYTES, 0);
        let count = self.file.read_at(room, self.offset)?;
        if count == 0 {
            return Ok(false);
        }
        self.last_news = now;
        self.split(flow, &room[..count], arrived, now, batch);
        Ok(true)
    }

    fn source(&self) -> String {
        self.name.as_ref().map_or_else(|| self.path.to_string_lossy().into_owned(), ToString::to_string)
    }

    fn split(&mut self, flow: &Flow, bytes: &[u8], arrived: &str, now: Instant, batch: &mut Batch) {
        let rules = flow.rules();
        let source = self.source();
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, next) = (&rest[..end], &rest[end + 1..]);
            let begins = self.part_begins;
            self.offset += end as u64 + 1;
            self.part_begins = self.offset;
            rest = next;
            if std::mem::take(&mut self.is_skipping) {
                continue;
            }
            // What a program leaves that was cut short and writes on at its old place.
            let line = if line.first() == Some(&0) { &line[line.iter().position(|byte| *byte != 0).unwrap_or(line.len())..] } else { line };
            let take = &mut |entry: Entry<'_>| flow.take(&entry, &source, arrived, batch);
            if self.part.is_empty() {
                self.assembler.bytes(rules, line, begins, now, take);
            } else {
                self.part.extend_from_slice(line);
                let whole = std::mem::take(&mut self.part);
                self.assembler.bytes(rules, &whole, begins, now, take);
            }
        }
        self.offset += rest.len() as u64;
        if self.is_skipping {
            return;
        }
        if self.part.is_empty() && rest.first() == Some(&0) {
            let zeros = rest.iter().position(|byte| *byte != 0).unwrap_or(rest.len());
            self.part_begins += zeros as u64;
            rest = &rest[zeros..];
        }
        self.part.extend_from_slice(rest);
        if self.part.len() > rules.bytes_max {
            let long = std::mem::take(&mut self.part);
            self.is_skipping = true;
            self.assembler.bytes(rules, &long, self.part_begins, now, &mut |entry: Entry<'_>| {
                flow.take(&entry, &source, arrived, batch);
            });
        }
    }

    /// Nothing more will come: what there is of a line is one.
    pub(super) fn finish(&mut self, flow: &Flow, arrived: &str, now: Instant, batch: &mut Batch) {
        let source = self.source();
        let take = &mut |entry: Entry<'_>| flow.take(&entry, &source, arrived, batch);
        let part = std::mem::take(&mut self.part);
        if !part.is_empty() {
            self.assembler.bytes(flow.rules(), &part, self.part_begins, now, take);
        }
        self.part_begins = self.offset;
        self.assembler.flush(take);
    }

    /// It was cut short, or is another one in its place.
    fn begin_anew(&mut self, flow: &Flow, arrived: &str, batch: &mut Batch) {
        flow.metrics.truncated();
        tracing::info!(log = flow.name, path = %self.path.display(), "a file begins anew");
        let now = self.last_news;
        // It is another text now, so what its end was nobody knows but for what was said of it.
        self.cut_short = self.said.take();
        self.finish(flow, arrived, now, batch);
        (self.offset, self.part_begins, self.is_skipping) = (0, 0, false);
        self.head.clear();
        (self.taken, self.is_changed) = (0, true);
    }

    fn begins_as_before(&self) -> io::Result<bool> {
        let mut room = [0; HEAD_BYTES];
        let room = &mut room[..self.head.len()];
        Ok(read_at(&self.file, room, 0)? == room.len() && *room == *self.head)
    }

    fn grow_head(&mut self) -> io::Result<()> {
        if self.head.len() < HEAD_BYTES {
            let mut room = [0; HEAD_BYTES];
            let length = read_at(&self.file, &mut room, 0)?;
            self.head.clear();
            self.head.extend_from_slice(&room[..length]);
        }
        Ok(())
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Something was read that was not given yet.
    pub(super) fn holds(&self) -> bool {
        !self.part.is_empty() || self.assembler.begins().is_some()
    }

    /// Sinks have all that was given.
    pub(super) fn commit(&mut self) {
        let read = if self.is_skipping { self.offset } else { self.part_begins };
        let given = self.assembler.begins().unwrap_or(read);
        self.is_changed |= given != self.taken;
        self.taken = given;
    }

    /// Where to go on if this ended now, what is on its way being nobody's yet; `None` if that was said already.
    pub(super) fn left(&mut self) -> Option<Left> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let left = Left {
            path: self.path.clone(),
            offset: self.taken,
            head: self.head.len(),
            hash: hash(&self.head),
            // Of what was cut short since it was read this is something else, and then it is read again.
            end: end_hash(&self.file, self.taken).ok().flatten(),
            skips: self.taken == self.offset && self.is_skipping,
        };
        self.said = Some(left.clone());
        Some(left)
    }

    /// Where it was left before it was cut short, if nobody was told.
    pub(super) fn cut_short(&mut self) -> Option<Left> {
        self.cut_short.take()
    }

    /// It is at one of these paths, which may be the one where it was.
    pub(super) fn is_at(&mut self, paths: &[PathBuf]) {
        self.gone = None;
        if let Some(path) = paths.first().filter(|_| !paths.contains(&self.path)) {
            self.path.clone_from(path);
            self.is_changed = true;
        }
    }

    /// It is nowhere where it is looked for; `true` if it was until now.
    pub(super) fn goes(&mut self, now: Instant) -> bool {
        let was_there = self.gone.is_none();
        self.gone.get_or_insert(now);
        was_there
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// It is gone, and nothing has come for long enough since.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.gone.is_some_and(|gone| now.saturating_duration_since(gone.max(self.last_news)) >= self.rotate_wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::logs::Peers;
    use crate::value::decoded;

    fn flow() -> Flow {
        let settings = Arc::new(decoded("{ from = [{ http = true }] }").unwrap());
        Flow::new("l", &settings, Peers::default(), Arc::default(), None)
    }

    /// What was read and was on its way to a sink went into the checkpoint as taken when the file was renamed.
    #[test]
    fn only_what_sinks_have_counts_whatever_becomes_of_the_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "one\ntwo").unwrap();
        let (flow, now) = (flow(), Instant::now());
        let mut tail = Tail::new(&path, File::open(&path).unwrap(), Start::default(), None, Duration::ZERO, now).unwrap();
        let mut batch = Batch::default();
        assert!(tail.read(&flow, &mut Vec::new(), "now", now, &mut batch).unwrap());
        assert_eq!((batch.len(), tail.left().map(|left| left.offset)), (1, Some(0)));
        tail.is_at(&["b".into()]);
        assert_eq!(tail.left().map(|left| left.offset), Some(0));
        tail.commit();
        // The second line has no end.
        assert_eq!(tail.left().map(|left| left.offset), Some(4));
        assert_eq!(tail.left(), None);
    }
}
