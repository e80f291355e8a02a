//! Optimised binaries, where somebody built one: figures of a debug build say little.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use super::binary;

/// The binary that figures are of, and whether it is optimised.
pub fn measured() -> (Command, bool) {
    if let Some(path) = optimised(&["release", "quick"]) {
        return (Command::new(path), true);
    }
    println!("no optimised binary as new as its sources: figures are of a debug build");
    (binary(), !cfg!(debug_assertions))
}

/// The first of these profiles' binaries that is not older than the sources. Tests build none, since
/// that takes minutes; `.ci/test` does.
pub fn optimised(profiles: &[&str]) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_attache")).parent()?.parent()?;
    let sources = newest(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))?;
    let built = profiles.iter().map(|profile| target.join(profile).join("attache"));
    built.into_iter().find(|binary| changed(binary).is_some_and(|changed| changed >= sources))
}

/// When the youngest file below `directory` changed.
fn newest(directory: &Path) -> Option<SystemTime> {
    let paths = std::fs::read_dir(directory).ok()?.map_while(Result::ok).map(|entry| entry.path());
    paths.filter_map(|path| if path.is_dir() { newest(&path) } else { changed(&path) }).max()
}

fn changed(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}
