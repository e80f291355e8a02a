//! Paths that a pattern finds, and what those are called that were renamed.
//!
//! Follows symbolic links, and none that leads back to where it came from.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::services::logs::Files;

/// Things that are looked at below a pattern with `**`.
const ENTRIES_MAX: usize = 1 << 20;
/// Paths that are found.
const PATHS_MAX: usize = 1 << 16;

/// Files, and whatever else is there.
pub(super) fn found(files: &Files) -> Vec<PathBuf> {
    let pattern = files.pattern.to_string_lossy();
    if !pattern.contains("**") {
        return glob::glob(&pattern).map_or_else(|_| Vec::new(), |paths| paths.filter_map(Result::ok).take(PATHS_MAX).collect());
    }
    let is_plain = |part: &Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let root: PathBuf = files.pattern.components().take_while(is_plain).collect();
    // As the paths are written that are compared.
    let is_here = root.as_os_str().is_empty();
    let entries = WalkDir::new(if is_here { Path::new(".") } else { &root }).follow_links(true).sort_by_file_name();
    let entries = entries.into_iter().take(ENTRIES_MAX).filter_map(Result::ok).map(DirEntry::into_path);
    let paths = entries.map(|path| if is_here { path.strip_prefix(".").map(Path::to_owned).unwrap_or(path) } else { path });
    paths.filter(|path| files.finds(path)).take(PATHS_MAX).collect()
}

/// Whether a file at this path was one that the pattern finds, by what logrotate and its kin call those that were renamed: `.1`,
/// `-20260102`, `.old`.
pub(super) fn has_rotated(files: &Files, path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else { return false };
    name.rmatch_indices(['.', '-']).any(|(at, _)| {
        let (base, ending) = (&name[..at], &name[at + 1..]);
        let is_number = ending.starts_with(|first: char| first.is_ascii_digit())
            && ending.chars().all(|char| char.is_ascii_digit() || matches!(char, '.' | '-' | '_' | ':' | 'T'));
        (is_number || ending == "old") && files.finds(&path.with_file_name(base))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, path: &str, wanted: bool) {
        let files = Files { pattern: pattern.into(), from_end: false, rotate_wait: Duration::ZERO };
        assert_eq!(has_rotated(&files, Path::new(path)), wanted, "{path}");
    }

    #[test]
    fn files_that_were_renamed_are_told_by_their_names() {
        for name in ["app.log.1", "app.log-20260102", "app.log.2026-01-02T03:04", "app.log-20260102.2", "app.log.old"] {
            check("/a/app.log", &format!("/a/{name}"), true);
            check("/a/*.log", &format!("/a/{name}"), true);
        }
        for name in ["app.log", "app.log-out.json", "app.log.pos", "app.log.", "app.log.1x", "b/app.log.1"] {
            check("/a/app.log", &format!("/a/{name}"), false);
        }
        check("/var/log/syslog", "/var/log/syslog-ng.log", false);
    }

    #[test]
    fn links_that_lead_back_end() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("l/s/t")).unwrap();
        std::fs::create_dir(at("o")).unwrap();
        for (to, link) in [("..", "l/s/up"), (".", "l/s/here"), ("../../o", "l/s/other")] {
            std::os::unix::fs::symlink(to, at(link)).unwrap();
        }
        for file in ["l/a.log", "l/s/t/b.log", "o/c.log", "l/s/no"] {
            std::fs::write(at(file), "").unwrap();
        }
        let found = |pattern: &str| {
            let files = Files { pattern: at(pattern), from_end: false, rotate_wait: Duration::ZERO };
            found(&files).iter().map(|path| path.strip_prefix(directory.path()).unwrap().display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("l/**/*.log"), ["l/a.log", "l/s/other/c.log", "l/s/t/b.log"]);
        assert_eq!(found("l/*.log"), ["l/a.log"]);
    }
}
