//! Files to one merged document: all the reading a configuration does itself.
//!
//! Gives no key a meaning. Certificates and other files that the document names are read elsewhere.

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use indexmap::map;
use toml::de::{DeInteger, DeTable, DeValue};

use crate::value::{Diagnostics, Entry, Item, Place, SourceId, Sources, Table, Text, Value};

/// A configuration as it was found.
pub struct Loaded {
    pub sources: Sources,
    pub root: Table,
    /// Every file that was read and every directory that was listed.
    pub watched: Vec<PathBuf>,
    /// Stable over processes and machines: 64 bits of FNV-1a over paths and texts, in hexadecimal.
    pub hash: String,
}

/// What was wrong, and what to watch for it to be mended.
pub struct Failed {
    pub sources: Sources,
    pub found: Diagnostics,
    pub watched: Vec<PathBuf>,
}

/// Larger files are something else by mistake.
const FILE_MAX: u64 = 16 << 20;
/// More files than this is a wrong directory.
const FILES_MAX: usize = 10_000;

/// What the environment holds under a name.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Reads and merges files and directories of `*.toml`, in the order given.
pub fn load(paths: &[PathBuf], environment: &Environment<'_>) -> Result<Loaded, Failed> {
    let mut loader = Loader::new(environment);
    for path in paths {
        loader.path(path);
    }
    loader.finish()
}

/// Reads one text that is no file; relative paths in it start from the working directory.
pub fn from_text(name: &str, text: &str, environment: &Environment<'_>) -> Result<Loaded, Failed> {
    let mut loader = Loader::new(environment);
    loader.text(Path::new(name), text);
    loader.finish()
}

/// Where a configuration is looked for when none is named. The error says where that was.
pub fn default_paths() -> Result<Vec<PathBuf>, String> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(paths) = variable("ATTACHE_CONFIG") {
        return Ok(std::env::split_paths(&paths).collect());
    }
    let home = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")));
    let mut places = vec![PathBuf::from("attache.toml")];
    places.extend(home.map(|home| home.join("attache/attache.toml")));
    places.push(PathBuf::from("/etc/attache/attache.toml"));
    if let Some(found) = places.iter().find(|place| place.exists()) {
        return Ok(vec![found.clone()]);
    }
    let looked = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ");
    Err(format!("no configuration: looked for {looked}; name one with -c PATH or ATTACHE_CONFIG"))
}

struct Loader<'e> {
    sources: Sources,
    found: Diagnostics,
    root: Table,
    watched: Vec<PathBuf>,
    hash: u64,
    environment: &'e Environment<'e>,
}

impl<'e> Loader<'e> {
    fn new(environment: &'e Environment<'e>) -> Self {
        Self {
            sources: Sources::default(),
            found: Diagnostics::default(),
            root: Table::default(),
            watched: Vec::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            environment,
        }
    }

    fn path(&mut self, path: &Path) {
        self.watched.push(path.to_owned());
        if !path.is_dir() {
            return self.file(path);
        }
        match toml_files(path) {
            Ok(files) if files.is_empty() => {
                self.found
                    .error(None, format!("{}: no *.toml in this directory", path.display()))
                    .help("put a configuration there, or name a file");
            }
            Ok(files) => {
                for file in files {
                    self.watched.push(file.clone());
                    self.file(&file);
                }
            }
            Err(error) => self.unreadable(path, &error.to_string()),
        }
    }

    fn file(&mut self, path: &Path) {
        match read(path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => self.text(path, &text),
                Err(error) => {
                    let at = error.utf8_error().valid_up_to();
                    self.unreadable(path, &format!("not UTF-8 at byte {at}"));
                }
            },
            Err(error) => self.unreadable(path, &error.to_string()),
        }
    }

    fn unreadable(&mut self, path: &Path, reason: &str) {
        let help = if path.exists() { "make it readable for this user" } else { "check the path" };
        self.found.error(None, format!("{}: cannot be read: {reason}", path.display())).help(help);
    }

    fn text(&mut self, path: &Path, text: &str) {
        for bytes in [path.as_os_str().as_encoded_bytes(), text.as_bytes()] {
            for &byte in bytes.iter().chain(&[0]) {
                self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        let source = self.sources.add(path, text);
        let (document, errors) = DeTable::parse_recoverable(text);
        let is_broken = !errors.is_empty();
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            self.found.error(Place::new(source, span), error.message().to_owned());
        }
        // What could not be parsed would only be complained about twice.
        if is_broken {
            return;
        }
        let mut reader = Reader { source, text, found: &mut self.found, environment: self.environment };
        let table = reader.table(document.get_ref());
        merge(&mut self.root, table, &mut self.found);
    }

    fn finish(mut self) -> Result<Loaded, Failed> {
        let Self { sources, root, watched, hash, .. } = self;
        if self.found.has_errors() {
            self.found.sort();
            return Err(Failed { sources, found: self.found, watched });
        }
        Ok(Loaded { sources, root, watched, hash: format!("{hash:016x}") })
    }
}

/// In name order, without hidden ones: a mounted `ConfigMap` keeps its machinery in `..data`.
fn toml_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension() == Some(OsStr::new("toml")) && path.is_file() {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(io::Error::other(format!("more than {FILES_MAX} files")));
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 16 MiB"));
    }
    Ok(bytes)
}

/// Turns one file's parsed text into our document.
struct Reader<'a> {
    source: SourceId,
    text: &'a str,
    found: &'a mut Diagnostics,
    environment: &'a Environment<'a>,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>) -> Table {
        let mut entries = indexmap::IndexMap::new();
        for (key, value) in table {
            let key_place = Place::new(self.source, key.span());
            let item = self.item(value.get_ref(), value.span());
            entries.insert(key.get_ref().to_string(), Entry { key_place, item });
        }
        Table { entries }
    }

    fn item(&mut self, value: &DeValue<'_>, span: Range<usize>) -> Item {
        let place = Place::new(self.source, span);
        let value = match value {
            DeValue::String(text) => Value::String(self.string(text, place)),
            DeValue::Integer(number) => Value::Integer(self.integer(number, place)),
            DeValue::Float(number) => Value::Float(number.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(date) => Value::Datetime(date.to_string()),
            DeValue::Array(items) => Value::Array(items.iter().map(|item| self.item(item.get_ref(), item.span())).collect()),
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Item { value, place }
    }

    fn integer(&mut self, number: &DeInteger<'_>, place: Place) -> i64 {
        let digits = number.as_str().replace('_', "");
        i64::from_str_radix(&digits, number.radix()).unwrap_or_else(|_| {
            self.found.error(place, format!("{digits} is too large a number"));
            0
        })
    }

    fn string(&mut self, written: &str, place: Place) -> Text {
        let mut value = String::new();
        let mut rest = written;
        while let Some(at) = rest.find('$') {
            value.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("$$") {
                value.push('$');
                rest = after;
            } else if let Some(inside) = rest.strip_prefix("${") {
                let Some(end) = inside.find('}') else {
                    self.found.error(self.within(place, rest), "`${` without `}`").help("write `$$` for a dollar sign");
                    return Text { written: written.to_owned(), value };
                };
                let whole = &rest[..end + 3];
                if let Some(found) = self.variable(&inside[..end], self.within(place, whole)) {
                    value.push_str(&found);
                }
                rest = &inside[end + 1..];
            } else {
                value.push('$');
                rest = &rest[1..];
            }
        }
        value.push_str(rest);
        Text { written: written.to_owned(), value }
    }

    /// `NAME` or `NAME:-default`; the default also stands in for an empty variable, as in the shell.
    fn variable(&mut self, inside: &str, place: Place) -> Option<String> {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            self.found
                .error(place, format!("`{name}` is not a name for an environment variable"))
                .help("write ${NAME} or ${NAME:-default}; `$$` for a dollar sign");
            return None;
        }
        let found = (self.environment)(name);
        match (found, default) {
            (Some(found), None) => Some(found),
            (Some(found), Some(_)) if !found.is_empty() => Some(found),
            (_, Some(default)) => Some(default.to_owned()),
            (None, None) => {
                self.found
                    .error(place, format!("the environment variable `{name}` is not set"))
                    .help(format!("set it, or give a default: ${{{name}:-default}}"));
                None
            }
        }
    }

    /// Where `part` stands inside a string, if the string is written without escapes.
    fn within(&self, place: Place, part: &str) -> Place {
        let shown = self.text.get(place.span()).unwrap_or_default();
        match shown.find(part) {
            Some(at) => Place::new(place.source, place.start as usize + at..place.start as usize + at + part.len()),
            None => place,
        }
    }
}

/// Tables merge, arrays of tables append; anything else twice is an error that names both places.
fn merge(into: &mut Table, from: Table, found: &mut Diagnostics) {
    for (key, entry) in from.entries {
        match into.entries.entry(key) {
            map::Entry::Vacant(free) => {
                free.insert(entry);
            }
            map::Entry::Occupied(mut taken) => {
                let key = taken.key().clone();
                let there = taken.get_mut();
                match (&mut there.item.value, entry.item.value) {
                    (Value::Table(there), Value::Table(table)) => merge(there, table, found),
                    (Value::Array(there), Value::Array(items)) if are_tables(there) && are_tables(&items) => there.extend(items),
                    _ => {
                        found
                            .error(entry.key_place, format!("`{key}` is set twice"))
                            .related(there.key_place, "the first time")
                            .help("keep one of them");
                    }
                }
            }
        }
    }
}

fn are_tables(items: &[Item]) -> bool {
    items.iter().all(|item| matches!(item.value, Value::Table(_)))
}
