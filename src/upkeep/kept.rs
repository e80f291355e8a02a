//! What a process leaves to the next one: how far its ramps have come.
//!
//! A small file, written whole under another name and then renamed, so that there is never half of one. Knows nothing of ramps but how
//! they are written down.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::services::split::ramp::Saved;

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    version: u32,
    /// By the split's name.
    ramps: BTreeMap<String, Saved>,
}

const VERSION: u32 = 1;
/// A ramp takes a few hundred bytes.
const BYTES_MAX: u64 = 16 << 20;

/// Reads what was left; nothing where there is no file. The error says what is wrong with it.
pub fn read(path: &Path) -> Result<HashMap<String, Saved>, String> {
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(error.to_string()),
    };
    if length > BYTES_MAX {
        return Err("it is too long".to_owned());
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let document: Document = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if document.version != VERSION {
        return Err(format!("its version is {}, not {VERSION}", document.version));
    }
    Ok(document.ramps.into_iter().collect())
}

/// Writes the file whenever something in it changes.
#[derive(Default)]
pub(super) struct Keeper {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    path: Option<PathBuf>,
    ramps: BTreeMap<String, Saved>,
}

impl Keeper {
    /// These ramps are kept from now on, and in this file. Without ramps there is no need for one.
    pub(super) fn follow(&self, path: Option<PathBuf>, ramps: BTreeMap<String, Saved>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let had_any = !inner.ramps.is_empty() && inner.path == path;
        inner.path = path;
        inner.ramps = ramps;
        if had_any || !inner.ramps.is_empty() {
            inner.write();
        }
    }

    pub(super) fn put(&self, name: &str, saved: Saved) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.ramps.insert(name.to_owned(), saved);
        inner.write();
    }
}

impl Inner {
    fn write(&self) {
        let Some(path) = &self.path else { return };
        if let Err(error) = write(path, &Document { version: VERSION, ramps: self.ramps.clone() }) {
            tracing::warn!(path = %path.display(), %error, "cannot keep the state of ramps; a restart would begin them anew");
        }
    }
}

fn write(path: &Path, document: &Document) -> std::io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(document)?)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::split::ramp::Phase;

    fn saved(step: usize) -> Saved {
        let reason = Some("\"by hand\"".to_owned());
        Saved {
            arm: "canary".to_owned(),
            steps: vec![10_000, 500_000],
            phase: Phase::Aborted,
            step,
            spent: 1.5,
            at: 1_764_000_000.25,
            reason,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/state.json");
        assert_eq!(read(&path), Ok(HashMap::new()));
        let keeper = Keeper::default();
        keeper.follow(Some(path.clone()), BTreeMap::new());
        assert!(!path.exists());
        keeper.follow(Some(path.clone()), BTreeMap::from([("checkout".to_owned(), saved(0))]));
        keeper.put("checkout", saved(1));
        assert_eq!(read(&path), Ok(HashMap::from([("checkout".to_owned(), saved(1))])));
        // Whoever removes the last ramp means it.
        keeper.follow(Some(path.clone()), BTreeMap::new());
        assert_eq!(read(&path), Ok(HashMap::new()));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        std::fs::write(&path, "{\"version\":1,\"ramps\":{").unwrap();
        assert!(read(&path).is_err());
        std::fs::write(&path, "{\"version\":2,\"ramps\":{}}").unwrap();
        assert_eq!(read(&path), Err("its version is 2, not 1".to_owned()));
    }
}
