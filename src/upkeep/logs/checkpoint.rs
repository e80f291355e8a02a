//! How far sources were taken by all sinks, written down.
//!
//! A file of lines of JSON, of which the last one about a source counts; written anew, and renamed, when it has grown. What a crash cut
//! short is no line. Knows nothing of what the places mean.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::services::logs::FRESH;

/// What is known of all sources, and where it is written down.
pub(super) struct Checkpoint {
    positions: Arc<Mutex<BTreeMap<String, Value>>>,
    kept: Option<Kept>,
    lines: Vec<u8>,
    /// When a process before this one wrote something down last.
    pub(super) written: Option<SystemTime>,
}

struct Kept {
    path: PathBuf,
    file: File,
    /// Appended since it was written anew.
    grown: usize,
    synced: Instant,
    is_dirty: bool,
}

#[derive(Serialize, Deserialize)]
struct Line {
    source: String,
    /// `None`: it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Value>,
}

/// Of what may have been read of files that not everybody may read.
pub(super) const FILE_MODE: u32 = 0o640;
const GROWN_MAX: usize = 256 << 10;
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Longer files are no checkpoints.
const BYTES_MAX: u64 = 64 << 20;

impl Checkpoint {
    /// In memory, if there is no path; `positions` are what a process that goes on knows already.
    pub(super) fn open(path: Option<&Path>, positions: Arc<Mutex<BTreeMap<String, Value>>>, now: Instant) -> io::Result<Self> {
        let mut written = None;
        let kept = match path {
            Some(path) => {
                written = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
                let mut known = positions.lock().unwrap_or_else(PoisonError::into_inner);
                if known.is_empty() {
                    *known = read(path)?;
                }
                let file = write_anew(path, &known)?;
                Some(Kept { path: path.to_owned(), file, grown: 0, synced: now, is_dirty: false })
            }
            None => None,
        };
        Ok(Self { positions, kept, lines: Vec::new(), written })
    }

    pub(super) fn get(&self, source: &str) -> Option<Value> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner).get(source).cloned()
    }

    /// All whose names begin so.
    pub(super) fn all(&self, beginning: &str) -> Vec<(String, Value)> {
        let positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        positions.iter().filter(|(source, _)| source.starts_with(beginning)).map(|(source, at)| (source.clone(), at.clone())).collect()
    }

    /// `None` where there is nothing to go back to any more. Written down by the next commit.
    pub(super) fn put(&mut self, source: &str, at: Option<Value>) {
        if self.kept.is_some() {
            let line = Line { source: source.to_owned(), at: at.clone() };
            // A map of strings and numbers is always JSON.
            if serde_json::to_writer(&mut self.lines, &line).is_ok() {
                self.lines.push(b'\n');
            }
        }
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        match at {
            Some(at) => positions.insert(source.to_owned(), at),
            None => positions.remove(source),
        };
    }

    /// Writes down what was put. A kill loses nothing of it; the machine's own end may, back to the last [`Checkpoint::sync`].
    pub(super) fn commit(&mut self) -> io::Result<()> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        if !self.lines.is_empty() {
            kept.file.write_all(&self.lines)?;
            kept.grown += self.lines.len();
            kept.is_dirty = true;
            self.lines.clear();
        }
        if kept.grown > GROWN_MAX {
            kept.file = write_anew(&kept.path, &self.positions.lock().unwrap_or_else(PoisonError::into_inner))?;
            kept.grown = 0;
        }
        Ok(())
    }

    /// Has it safe on disk. What sinks have had better be so before.
    pub(super) fn sync(&mut self, now: Instant) -> io::Result<()> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        kept.file.sync_data()?;
        (kept.synced, kept.is_dirty) = (now, false);
        Ok(())
    }

    pub(super) fn is_sync_due(&self, now: Instant) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.is_dirty && now.saturating_duration_since(kept.synced) >= SYNC_INTERVAL)
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<String, Value>> {
    let mut positions = BTreeMap::new();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > BYTES_MAX => return Err(io::Error::other("it is too long for a checkpoint")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(positions),
        Err(error) => return Err(error),
    }
    let bytes = std::fs::read(path)?;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        // Cut short by a crash; the line before it about the same source counts.
        let Ok(Line { source, at }) = serde_json::from_slice(line) else { continue };
        match at {
            Some(at) => positions.insert(source, at),
            None => positions.remove(&source),
        };
    }
    Ok(positions)
}

/// The file under its name, opened at its end.
fn write_anew(path: &Path, positions: &BTreeMap<String, Value>) -> io::Result<File> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(FRESH);
    let fresh = path.with_file_name(name);
    let mut lines = Vec::new();
    for (source, at) in positions {
        serde_json::to_writer(&mut lines, &Line { source: source.clone(), at: Some(at.clone()) })?;
        lines.push(b'\n');
    }
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(FILE_MODE).open(&fresh)?;
    file.write_all(&lines)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn opened(path: &Path) -> Checkpoint {
        Checkpoint::open(Some(path), Arc::default(), Instant::now()).unwrap()
    }

    #[test]
    fn what_was_committed_is_known_after_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/checkpoint");
        let mut checkpoint = opened(&path);
        checkpoint.put("a", Some(json!(1)));
        checkpoint.put("b", Some(json!(1)));
        checkpoint.commit().unwrap();
        checkpoint.put("a", Some(json!({"offset": 2})));
        checkpoint.put("b", None);
        checkpoint.commit().unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"source\":\"a\",\"at\":{\"off").unwrap();
        let checkpoint = opened(&path);
        assert_eq!((checkpoint.get("a"), checkpoint.get("b")), (Some(json!({"offset": 2})), None));
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint");
        let mut checkpoint = opened(&path);
        for offset in 0..20_000 {
            checkpoint.put("file:1:2", Some(json!({"offset": offset})));
            checkpoint.commit().unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= GROWN_MAX as u64 + 100);
        assert_eq!(opened(&path).get("file:1:2"), Some(json!({"offset": 19_999})));
    }
}
