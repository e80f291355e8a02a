//! A file that grows.
//!
//! Renames none: who does gets a new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::upkeep::logs::checkpoint::FILE_MODE;

pub(in crate::upkeep::logs) struct Appended {
    path: PathBuf,
    file: Option<File>,
    looked: Instant,
}

/// Whether it is still where it was is looked at so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Appended {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, looked: Instant::now() }
    }

    /// From `done` on, which grows with what was written: a full disk may take a part.
    pub(super) fn append(&mut self, bytes: &[u8], done: &mut usize) -> io::Result<()> {
        if self.looked.elapsed() >= LOOK_INTERVAL && *done == 0 {
            self.looked = Instant::now();
            let there = std::fs::metadata(&self.path).ok().map(|there| (there.dev(), there.ino()));
            let ours = self.file.as_ref().and_then(|file| file.metadata().ok()).map(|ours| (ours.dev(), ours.ino()));
            if there != ours {
                self.file = None;
            }
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(opened(&self.path)?),
        };
        while *done < bytes.len() {
            match file.write(&bytes[*done..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => *done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}

/// At its end. A line that a crash cut short goes: it comes again.
fn opened(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        // A pipe, or a terminal: nothing of it can be taken back, and nobody waits until somebody reads it.
        return OpenOptions::new().append(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    }
    let mut file = OpenOptions::new().create(true).read(true).append(true).mode(FILE_MODE).open(path)?;
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut room = vec![0; 64 << 10];
    let length = end;
    while end > 0 {
        let begin = end.saturating_sub(room.len() as u64);
        let count = (end - begin) as usize;
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut room[..count])?;
        if let Some(at) = memchr::memrchr(b'\n', &room[..count]) {
            end = begin + at as u64 + 1;
            break;
        }
        end = begin;
    }
    if end == length {
        return Ok(file);
    }
    let mut begins = vec![0; RECORD_BEGINS.len().min((length - end) as usize)];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut begins)?;
    if RECORD_BEGINS.starts_with(&begins) {
        file.set_len(end)?;
    } else {
        // Somebody else's line: it is ended instead.
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// So does every record begin, and what a crash left of one.
const RECORD_BEGINS: &[u8] = b"{\"ts\":\"";
