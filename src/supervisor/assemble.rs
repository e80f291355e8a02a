//! Read, parse and compile: from paths to a generation, or to every reason why there is none.
//!
//! Binds nothing and publishes nothing, so that `check` can call it too.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::config::{self, File};
use crate::generation::{self, Generation, Inputs};
use crate::telemetry::Metrics;
use crate::tls::Sessions;
use crate::upkeep::kept;
use crate::value::{Diagnostics, Sources};

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    Paths(Vec<PathBuf>),
    /// Made up by the command line; shown under a name in angle brackets.
    Text {
        name: String,
        text: String,
    },
}

impl Origin {
    /// Where it is written down how far ramps have come: where the file says, or else where this system keeps such things, under a name
    /// that other configurations do not have.
    pub(super) fn state(&self, file: &File) -> Option<PathBuf> {
        match (&file.process.state, self) {
            (Some(path), _) => Some(path.value.clone()),
            (None, Self::Paths(paths)) => Some(config::state_path(paths, &|name| std::env::var(name).ok())),
            (None, Self::Text { .. }) => None,
        }
    }
}

/// What outlives a generation and is lent to the next.
pub struct Carried {
    pub metrics: Arc<Metrics>,
    pub sessions: Sessions,
    pub workers: usize,
}

pub struct Assembled {
    pub generation: Generation,
    pub sources: Sources,
    /// Warnings.
    pub found: Diagnostics,
    /// Every file the configuration was read from, and every file it names.
    pub watched: Vec<PathBuf>,
}

pub struct Failed {
    pub sources: Sources,
    pub found: Diagnostics,
    pub watched: Vec<PathBuf>,
}

pub fn assemble(origin: &Origin, carried: &Carried, previous: Option<&Generation>) -> Result<Assembled, Box<Failed>> {
    let environment = |name: &str| std::env::var(name).ok();
    let loaded = match origin {
        Origin::Paths(paths) => config::load(paths, &environment),
        Origin::Text { name, text } => config::from_text(name, text, &environment),
    };
    let config::Loaded { sources, root, mut watched, hash } = loaded.map_err(|failed| Box::new(also_parsed(failed)))?;
    let mut found = Diagnostics::default();
    let parsed = File::parse(&root, &sources, &mut found);
    let named = read_named(&parsed.file);
    watched.extend(named.keys().cloned());
    let kept = match (previous, origin.state(&parsed.file)) {
        (None, Some(path)) if parsed.file.has_ramps() => kept::read(&path).unwrap_or_else(|reason| {
            let message = format!("how far ramps had come cannot be read from `{}`: {reason}", path.display());
            found.warn(None, message).help("they begin anew; remove the file, or mend it");
            HashMap::new()
        }),
        _ => HashMap::new(),
    };
    let inputs = Inputs {
        sources: &sources,
        hash: hash_with(&hash, &named),
        document: root.to_json(),
        read: &|path| read_again(&named, path),
        previous,
        kept: &kept,
        metrics: &carried.metrics,
        sessions: &carried.sessions,
        workers: carried.workers,
        identity: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        now: SystemTime::now(),
        started: Instant::now(),
    };
    let compiled = generation::compile(parsed, &inputs, &mut found);
    found.sort();
    match compiled {
        Some(generation) => Ok(Assembled { generation, sources, found, watched }),
        None => Err(Box::new(Failed { sources, found, watched })),
    }
}

/// What could be read is searched for further mistakes, so that one run shows all there are.
fn also_parsed(failed: config::Failed) -> Failed {
    let config::Failed { sources, mut found, watched, root } = failed;
    if let Some(root) = root {
        let mut further = Diagnostics::default();
        File::parse(&root, &sources, &mut further);
        found.extend_elsewhere(further);
        found.sort();
    }
    Failed { sources, found, watched }
}

type Named = HashMap<PathBuf, io::Result<Arc<[u8]>>>;

/// A certificate chain or a key is a few kilobytes; what is far larger is something else.
const NAMED_FILE_MAX: u64 = 4 << 20;

fn read_named(file: &File) -> Named {
    file.named_files().map(|path| (path.clone(), read_bounded(path))).collect()
}

fn read_bounded(path: &Path) -> io::Result<Arc<[u8]>> {
    use std::io::Read;
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(NAMED_FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > NAMED_FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
    }
    Ok(bytes.into())
}

fn read_again(named: &Named, path: &Path) -> io::Result<Arc<[u8]>> {
    match named.get(path) {
        Some(Ok(bytes)) => Ok(Arc::clone(bytes)),
        Some(Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// The text's hash and that of every named file, so that a renewed certificate is a new configuration.
fn hash_with(text: &str, named: &Named) -> String {
    let mut files: Vec<_> = named.iter().collect();
    files.sort_by_key(|(path, _)| *path);
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(text.as_bytes());
    for (path, bytes) in files {
        add(path.as_os_str().as_encoded_bytes());
        if let Ok(bytes) = bytes {
            add(bytes);
        }
    }
    format!("{hash:016x}")
}
