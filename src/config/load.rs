//! Reads the files of a configuration, fills in the environment and merges them into one document.
//!
//! Stops at nothing: every file is read and every mistake noted, so that one run shows them all.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use indexmap::map::Entry as Slot;
use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue};

use super::include::{is_same, named_documents};
use super::substitute::{Fault, substitute};
use crate::value::{Diagnostics, Entry, Included, Item, Place, SourceId, Sources, Table, Text, Value};

/// No configuration is this large; a log file named by mistake is.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// Files of one configuration.
const FILES_MAX: usize = 1000;
/// Past this many a file is not a configuration with mistakes in it but something else.
const SYNTAX_ERRORS_MAX: usize = 50;
const FILE_NAME: &str = "attache.toml";

/// A configuration read without mistakes.
#[derive(Debug)]
pub struct Loaded {
    pub sources: Sources,
    pub root: Table,
    /// Every file read and every directory listed.
    pub watched: Vec<PathBuf>,
    /// Sixteen hexadecimal digits over the path and the text of every file: equal when nothing changed.
    pub hash: String,
}

/// What was wrong with a configuration, and what to watch for it to become right.
#[derive(Debug)]
pub struct Failed {
    pub sources: Sources,
    pub found: Diagnostics,
    /// Includes what could not be read: it may appear.
    pub watched: Vec<PathBuf>,
    /// The document, where every file could be read and parsed: it can be searched for more mistakes.
    pub root: Option<Table>,
}

/// Reads files, and directories of `*.toml` in the order of their names, into one document.
pub fn load(paths: &[PathBuf], environment: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Failed> {
    let mut loader = Loader::new(environment);
    for path in loader.list(paths) {
        loader.read(&path);
    }
    loader.finish()
}

/// Reads one document that is not in a file. Relative paths start from where `name` would be.
pub fn from_text(name: &str, text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Failed> {
    let mut loader = Loader::new(environment);
    loader.add(Path::new(name), text);
    loader.finish()
}

/// What to load when the command line names nothing.
///
/// `ATTACHE_CONFIG` may name several places, separated by colons.
pub fn default_paths(environment: &dyn Fn(&str) -> Option<String>) -> Result<Vec<PathBuf>, Failed> {
    let named = environment("ATTACHE_CONFIG").unwrap_or_default();
    let named: Vec<PathBuf> = named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    if !named.is_empty() {
        return Ok(named);
    }
    let candidates = candidates(environment);
    if let Some(present) = candidates.iter().find(|path| is_present(path)) {
        return Ok(vec![present.clone()]);
    }
    let looked: Vec<String> = candidates.iter().map(|path| format!("`{}`", path.display())).collect();
    let mut found = Diagnostics::default();
    found
        .error(None, format!("no configuration found; looked for {}", looked.join(", ")))
        .help("write one of them, name another with `-c PATH`, or set `ATTACHE_CONFIG`");
    Err(Failed { sources: Sources::default(), found, watched: candidates, root: None })
}

fn candidates(environment: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    // The XDG rules say to ignore a relative path here.
    let absolute = |name| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || absolute("HOME").map(|home| home.join(".config"));
    let user = absolute("XDG_CONFIG_HOME").or_else(home).map(|config| config.join("attache").join(FILE_NAME));
    let system = Path::new("/etc/attache").join(FILE_NAME);
    [Some(PathBuf::from(FILE_NAME)), user, Some(system)].into_iter().flatten().collect()
}

/// Where the state of a configuration is kept that names no place: what systemd gives the service, else where this user's programs keep
/// theirs, else the system's place.
pub fn state_path(paths: &[PathBuf], environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let absolute = |name| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let given =
        || environment("STATE_DIRECTORY").and_then(|paths| paths.split(':').next().map(PathBuf::from)).filter(|path| path.is_absolute());
    let user =
        || absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state"))).map(|state| state.join("attache"));
    let directory = given().or_else(user).unwrap_or_else(|| PathBuf::from("/var/lib/attache"));
    let mut named = Vec::new();
    for path in paths {
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        named.extend_from_slice(whole.as_os_str().as_encoded_bytes());
        named.push(0);
    }
    directory.join(format!("ramps-{:016x}.json", xxhash_rust::xxh3::xxh3_64(&named)))
}

/// A file that exists but cannot be read counts as present: `load` then says why it cannot be.
fn is_present(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(_) => true,
        Err(reason) => !matches!(reason.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

/// Whether a file of this name counts when its directory is named as the configuration.
///
/// Hidden files are what editors and Kubernetes (`..data`) leave beside the real ones.
pub fn is_listed(name: &OsStr) -> bool {
    !name.as_encoded_bytes().starts_with(b".") && Path::new(name).extension() == Some(OsStr::new("toml"))
}

struct Loader<'e> {
    environment: &'e dyn Fn(&str) -> Option<String>,
    sources: Sources,
    found: Diagnostics,
    /// What was read, each with the path it was read from.
    documents: Vec<(PathBuf, Included)>,
    watched: Vec<PathBuf>,
    hash: Fnv,
    /// Every file so far could be read and parsed.
    is_whole: bool,
}

impl<'e> Loader<'e> {
    fn new(environment: &'e dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            environment,
            sources: Sources::default(),
            found: Diagnostics::default(),
            documents: Vec::new(),
            watched: Vec::new(),
            hash: Fnv::new(),
            is_whole: true,
        }
    }

    fn finish(mut self) -> Result<Loaded, Failed> {
        self.include();
        let mut root = Table::default();
        for (_, document) in std::mem::take(&mut self.documents) {
            self.merge(&mut root, document.table);
        }
        if self.found.has_errors() {
            self.found.sort();
            let root = self.is_whole.then_some(root);
            return Err(Failed { sources: self.sources, found: self.found, watched: self.watched, root });
        }
        let hash = format!("{:016x}", self.hash.0);
        Ok(Loaded { sources: self.sources, root, watched: self.watched, hash })
    }

    /// Reads what the documents name. A list of endpoints may lie in a directory of configuration files: being named, it is no
    /// part of the document.
    fn include(&mut self) {
        let mut named: Vec<(PathBuf, Place)> = Vec::new();
        for (_, document) in &self.documents {
            named.extend(named_documents(&document.table, &self.sources));
        }
        if named.len() > FILES_MAX {
            self.found.error(None, format!("{} lists of endpoints, at most {FILES_MAX} are read", named.len())).help("merge some of them");
            named.truncate(FILES_MAX);
        }
        let mut seen = std::collections::HashSet::new();
        for (path, place) in named {
            if !seen.insert(path.clone()) {
                continue;
            }
            let document = match self.documents.iter().position(|(read, _)| is_same(read, &path)) {
                Some(at) if self.documents[at].1.source == place.source => {
                    self.found.error(place, "this is the file that names it").help("list the endpoints in a file of their own");
                    None
                }
                Some(at) => Some(self.documents.remove(at).1),
                None => self.read_named(&path, place),
            };
            if let Some(document) = document {
                self.sources.include(path, document);
            }
        }
    }

    /// The rest of the configuration is as whole as before, whatever is wrong with this one.
    fn read_named(&mut self, path: &Path, place: Place) -> Option<Included> {
        self.watched.push(path.to_owned());
        let is_rest_whole = std::mem::replace(&mut self.is_whole, true);
        let document = self.text(path, Some(place)).map(|text| self.parse(path, &text));
        let is_whole = std::mem::replace(&mut self.is_whole, is_rest_whole);
        document.filter(|_| is_whole)
    }

    /// The files that `paths` stand for, each once.
    fn list(&mut self, paths: &[PathBuf]) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for path in paths {
            self.watched.push(path.clone());
            // What cannot be looked at is reported when it cannot be read.
            if !path.is_dir() {
                files.push(path.clone());
                continue;
            }
            match members(path) {
                Ok(members) if members.is_empty() => {
                    self.found
                        .error(None, format!("no `*.toml` file in directory `{}`", path.display()))
                        .help("put one there; hidden files and subdirectories are not read");
                }
                Ok(members) => {
                    self.watched.extend(members.iter().cloned());
                    files.extend(members);
                }
                Err(reason) => self.unreadable("list", path, None, &reason),
            }
        }
        if files.len() > FILES_MAX {
            self.found.error(None, format!("{} files, at most {FILES_MAX} are read", files.len())).help("merge some of them");
            files.truncate(FILES_MAX);
        }
        self.refuse_repeated(&mut files);
        files
    }

    /// Every key of a file read twice would be set twice; one message says it better.
    fn refuse_repeated(&mut self, files: &mut Vec<PathBuf>) {
        let mut seen = std::collections::HashSet::new();
        files.retain(|file| {
            let Ok(real) = file.canonicalize() else { return true };
            let is_new = seen.insert(real);
            if !is_new {
                self.found
                    .error(None, format!("`{}` is named twice", file.display()))
                    .help("name each file once, itself or by its directory");
            }
            is_new
        });
    }

    /// `place` is where the file is named, if that is in a file too.
    fn unreadable(&mut self, verb: &str, path: &Path, place: Option<Place>, reason: &io::Error) {
        let help = match reason.kind() {
            io::ErrorKind::NotFound if place.is_some() => "check the path; a relative one starts from the file that names it",
            io::ErrorKind::PermissionDenied if place.is_some() => "let the user that attache runs as read it",
            _ if place.is_some() => "name a file",
            io::ErrorKind::NotFound => "check the path; a relative one starts from the working directory",
            io::ErrorKind::PermissionDenied => "let the user that attache runs as read it",
            _ => "name a file, or a directory of `*.toml` files",
        };
        self.found.error(place, format!("cannot {verb} `{}`: {reason}", path.display())).help(help);
    }

    fn read(&mut self, path: &Path) {
        if let Some(text) = self.text(path, None) {
            self.add(path, &text);
        }
    }

    fn add(&mut self, path: &Path, text: &str) {
        let document = self.parse(path, text);
        self.documents.push((path.to_owned(), document));
    }

    fn text(&mut self, path: &Path, place: Option<Place>) -> Option<String> {
        let bytes = match read_bounded(path) {
            Ok(bytes) => bytes,
            Err(reason) => {
                self.is_whole = false;
                self.unreadable("read", path, place, &reason);
                return None;
            }
        };
        if bytes.len() as u64 > FILE_BYTES_MAX {
            self.found
                .error(place, format!("`{}` is larger than {} MiB", path.display(), FILE_BYTES_MAX >> 20))
                .help("name the right file, or split it into several");
            return None;
        }
        match String::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(wrong) => {
                self.is_whole = false;
                self.not_text(path, &wrong);
                None
            }
        }
    }

    fn not_text(&mut self, path: &Path, wrong: &std::string::FromUtf8Error) {
        let at = wrong.utf8_error().valid_up_to();
        let byte = wrong.as_bytes()[at];
        // All before the first wrong byte is as it was, so its place holds in the mended text too.
        let source = self.sources.add(path, String::from_utf8_lossy(wrong.as_bytes()));
        let place = Place::new(source, at..at + char::REPLACEMENT_CHARACTER.len_utf8());
        self.found.error(place, format!("byte 0x{byte:02x} is not UTF-8")).help("save the file as UTF-8");
    }

    fn parse(&mut self, path: &Path, text: &str) -> Included {
        // Editors do not count a byte order mark as a column.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        self.hash.write(path.as_os_str().as_encoded_bytes());
        self.hash.write(text.as_bytes());
        let source = self.sources.add(path, text);
        let (document, errors) = DeTable::parse_recoverable(text);
        self.report_syntax(source, text, document.get_ref(), &errors);
        self.is_whole &= errors.iter().all(|error| error.message() == "duplicate key");
        let mut converter = Converter {
            source,
            text,
            environment: self.environment,
            found: &mut self.found,
            // Where the grammar was broken, the parser left values that nobody wrote.
            trusts_numbers: errors.is_empty(),
        };
        Included { source, table: converter.table(document.into_inner()) }
    }

    fn report_syntax(&mut self, source: SourceId, text: &str, document: &DeTable<'_>, errors: &[toml::de::Error]) {
        let mut bare = Vec::new();
        if !errors.is_empty() {
            bare_values(document, text, &mut bare);
        }
        let mut last = None;
        // All that follows an open bracket is read as its list.
        let unclosed = errors.iter().find(|error| error.message().starts_with("unclosed array,"));
        let errors_worth_telling = errors.iter().filter(|error| {
            let after = |open: usize| error.span().is_some_and(|span| span.start > open);
            let is_last = unclosed.is_some_and(|unclosed| std::ptr::eq(unclosed, *error));
            is_last || !unclosed.and_then(|unclosed| open_list(document, unclosed.span()?.start)).is_some_and(after)
        });
        let mut errors_worth_telling: Vec<_> = errors_worth_telling.collect();
        let start = |error: &toml::de::Error| error.span().map_or(text.len(), |span| span.start);
        errors_worth_telling.sort_by_key(|error| start(error));
        // The rest of a line that was misread makes no sense either.
        let mut broken_line = None;
        errors_worth_telling.retain(|error| {
            let start = start(error);
            let is_told_apart =
                bare.iter().any(|value| value.start == start || value.contains(&start)) || error.message() == "duplicate key";
            let line = Some(memchr::memchr_iter(b'\n', &text.as_bytes()[..start]).count());
            is_told_apart || std::mem::replace(&mut broken_line, line) != line
        });
        let more = errors_worth_telling.len().saturating_sub(SYNTAX_ERRORS_MAX);
        for error in errors_worth_telling.into_iter().take(SYNTAX_ERRORS_MAX) {
            let span = error.span().unwrap_or(text.len()..text.len());
            let value = bare.iter().find(|value| value.start == span.start || value.contains(&span.start));
            match value {
                // The parser tries a bare word as several kinds of number and complains about each.
                Some(value) if last == Some(value) => {}
                Some(value) => self.report_bare(source, text, value, error.message()),
                None if error.message() == "duplicate key" => self.report_duplicate(source, text, span),
                None => {
                    let note = self.found.error(Place::new(source, span.clone()), error.message());
                    if let Some(help) = syntax_help(error.message(), &text[span.start..]) {
                        note.help(help);
                    }
                }
            }
            last = value;
        }
        if more > 0 {
            let name = self.sources.file(source).path.display().to_string();
            self.found.error(None, format!("{more} more syntax errors in `{name}`")).help("is this a TOML file?");
        }
    }

    fn report_duplicate(&mut self, source: SourceId, text: &str, again: Range<usize>) {
        let place = Place::new(source, again.clone());
        let note = self.found.error(place, format!("`{}` is set twice", &text[again.clone()]));
        note.help("keep one of them");
        if let Some(first) = first_set(text, again) {
            note.related(Place::new(source, first), "first set here");
        }
    }

    /// Most often text without its quotes, of which the parser says that it is no float.
    fn report_bare(&mut self, source: SourceId, text: &str, value: &Range<usize>, message: &str) {
        let raw = text[value.clone()].trim_end();
        let place = Place::new(source, value.start..value.start + raw.len());
        if raw.is_empty() {
            self.found.error(place, "a value is missing");
            return;
        }
        if raw.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'_' | b'+' | b'-')) {
            self.found.error(place, message.trim_end_matches(", expected nothing"));
            return;
        }
        let word = raw.to_ascii_lowercase();
        let help = match word.as_str() {
            "true" | "false" => format!("write `{word}`"),
            _ if raw.contains(['"', '\\']) => "put text between quotes".to_owned(),
            _ => format!("put text between quotes: \"{raw}\""),
        };
        self.found.error(place, format!("`{raw}` is not a value")).help(help);
    }

    fn merge(&mut self, into: &mut Table, from: Table) {
        let mut merger = Merger { sources: &self.sources, found: &mut self.found, path: Vec::new() };
        merger.table(into, from);
    }
}

/// What to do about a message of the parser's; `rest` is the text from where it points.
fn syntax_help(message: &str, rest: &str) -> Option<&'static str> {
    Some(match message {
        _ if message.starts_with("invalid basic string") || message.starts_with("invalid literal string") => {
            "end the text with the quote that it began with, on the same line"
        }
        _ if message.starts_with("unclosed array table") => "write two brackets on both sides: [[listener]]",
        _ if message.starts_with("unclosed array") => "close the list with `]`",
        _ if message.starts_with("invalid unquoted key") && rest.starts_with(':') => "write `key = value`; this is TOML, not YAML",
        _ if message.starts_with("invalid unquoted key") && rest.starts_with([';', '/']) => "a comment begins with `#`",
        _ if message.starts_with("key with no value") => "write `key = value`",
        _ if message.starts_with("unexpected key or value") && rest.starts_with(',') => "remove the comma; a new line ends a value",
        _ if message.starts_with("unexpected key or value") => "begin a new line",
        _ if message.contains("unicode value digits") => "write `\\\\` for a backslash, or put the text between single quotes",
        _ => return None,
    })
}

/// Where the list begins that is still open at byte `end`.
fn open_list(table: &DeTable<'_>, end: usize) -> Option<usize> {
    table.values().find_map(|value| match value.get_ref() {
        DeValue::Table(table) => open_list(table, end),
        DeValue::Array(items) => {
            let within = items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(table) => open_list(table, end),
                _ => None,
            });
            within.or_else(|| (value.span().end >= end).then_some(value.span().start))
        }
        _ => None,
    })
}

/// Files of a directory, by name. Subdirectories are left alone, sockets and the like too.
fn members(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut members = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        let path = entry.path();
        // A link that leads nowhere counts: that a file is missing must be said.
        let is_file = path.metadata().map_or(true, |metadata| metadata.is_file());
        if is_listed(&entry.file_name()) && is_file {
            members.push(path);
        }
    }
    members.sort();
    Ok(members)
}

/// Reads one byte more than allowed, so that the caller can tell; a size in advance would not do for pipes.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where the values without quotes and brackets stand: numbers, dates, true and false, and what was meant as text.
fn bare_values(table: &DeTable<'_>, text: &str, found: &mut Vec<Range<usize>>) {
    for value in table.values() {
        bare_value(value, text, found);
    }
}

fn bare_value(value: &Spanned<DeValue<'_>>, text: &str, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => bare_values(table, text, found),
        DeValue::Array(items) => items.iter().for_each(|item| bare_value(item, text, found)),
        _ if text[value.span()].starts_with(['"', '\'']) => {}
        _ => found.push(value.span()),
    }
}

/// Where the key that stands again at `again` was set first.
///
/// The parser does not tell. But with the second key under a name of its own both end up in one table,
/// so a second parse finds the first beside it.
fn first_set(text: &str, again: Range<usize>) -> Option<Range<usize>> {
    const OWN_NAME: &str = "attache-duplicate";
    let renamed = [&text[..again.start], OWN_NAME, &text[again.end..]].concat();
    let at = again.start;

    let alone = [&text[again], " = 0"].concat();
    let alone = DeTable::parse(&alone).ok()?;
    let (document, _) = DeTable::parse_recoverable(&renamed);
    sibling(document.get_ref(), at, alone.get_ref().keys().next()?.get_ref())
}

/// In the table with a key at byte `at`: where the key called `name` stands.
fn sibling(table: &DeTable<'_>, at: usize, name: &str) -> Option<Range<usize>> {
    if table.keys().any(|key| key.span().start == at) {
        return table.get_key_value(name).map(|(key, _)| key.span());
    }
    table.values().find_map(|value| sibling_below(value.get_ref(), at, name))
}

fn sibling_below(value: &DeValue<'_>, at: usize, name: &str) -> Option<Range<usize>> {
    match value {
        DeValue::Table(table) => sibling(table, at, name),
        DeValue::Array(items) => items.iter().find_map(|item| sibling_below(item.get_ref(), at, name)),
        _ => None,
    }
}

/// From the parser's tree to ours.
struct Converter<'c> {
    source: SourceId,
    text: &'c str,
    environment: &'c dyn Fn(&str) -> Option<String>,
    found: &'c mut Diagnostics,
    trusts_numbers: bool,
}

impl Converter<'_> {
    fn table(&mut self, table: DeTable<'_>) -> Table {
        let entries = table.into_iter().map(|(key, value)| {
            let key_place = Place::new(self.source, key.span());
            (key.into_inner().into_owned(), Entry { key_place, item: self.item(value) })
        });
        Table { entries: entries.collect() }
    }

    fn array(&mut self, items: DeArray<'_>) -> Vec<Item> {
        items.into_iter().map(|item| self.item(item)).collect()
    }

    fn item(&mut self, spanned: Spanned<DeValue<'_>>) -> Item {
        let span = spanned.span();
        let place = Place::new(self.source, span.clone());
        let value = match spanned.into_inner() {
            DeValue::String(written) => Value::String(self.string(written.into_owned(), span)),
            DeValue::Integer(digits) => Value::Integer(self.integer(&digits, place)),
            DeValue::Float(digits) => Value::Float(self.float(digits.as_str(), place)),
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(value) => Value::Datetime(value.to_string()),
            DeValue::Array(items) => Value::Array(self.array(items)),
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Item { value, place }
    }

    fn string(&mut self, written: String, span: Range<usize>) -> Text {
        if !written.contains('$') {
            return Text { value: written.clone(), written };
        }
        let mut faults = Vec::new();
        let value = substitute(&written, self.environment, &mut faults);
        for fault in faults {
            let place = Place::new(self.source, narrow(self.text, &span, &written, &fault));
            self.found.error(place, fault.message).help(fault.help);
        }
        Text { written, value }
    }

    fn integer(&mut self, digits: &DeInteger<'_>, place: Place) -> i64 {
        let value = i64::from_str_radix(digits.as_str(), digits.radix());
        if value.is_err() {
            self.out_of_range(place, &format!("whole numbers go from {} to {}", i64::MIN, i64::MAX));
        }
        value.unwrap_or_default()
    }

    fn float(&mut self, digits: &str, place: Place) -> f64 {
        let value: f64 = digits.parse().unwrap_or_default();
        if value.is_infinite() && !digits.ends_with("inf") {
            self.out_of_range(place, "write `inf` if no limit is meant");
        }
        value
    }

    fn out_of_range(&mut self, place: Place, help: &str) {
        if self.trusts_numbers {
            let written = &self.text[place.span()];
            self.found.error(place, format!("{written} is out of range")).help(help);
        }
    }
}

/// The `${…}` itself where the file has the string as it reads, the whole string where escapes moved things.
fn narrow(text: &str, span: &Range<usize>, written: &str, fault: &Fault) -> Range<usize> {
    let raw = &text[span.clone()];
    let quotes = if raw.starts_with("\"\"\"") || raw.starts_with("'''") { 3 } else { 1 };
    let Some(inside) = raw.get(quotes..raw.len().saturating_sub(quotes)) else { return span.clone() };
    // TOML drops a line end right after the opening quotes of a string of several lines.
    let Some(dropped) = inside.len().checked_sub(written.len()) else { return span.clone() };
    if !inside.ends_with(written) || !matches!(&inside[..dropped], "" | "\n" | "\r\n") {
        return span.clone();
    }
    let first = span.start + quotes + dropped;
    first + fault.span.start..first + fault.span.end
}

/// Adds one file's tree to the whole.
struct Merger<'m> {
    sources: &'m Sources,
    found: &'m mut Diagnostics,
    /// Keys from the root, for messages.
    path: Vec<String>,
}

impl Merger<'_> {
    fn table(&mut self, into: &mut Table, from: Table) {
        for (key, second) in from.entries {
            match into.entries.entry(key) {
                Slot::Vacant(slot) => {
                    slot.insert(second);
                }
                Slot::Occupied(mut slot) => {
                    self.path.push(slot.key().clone());
                    self.entry(slot.get_mut(), second);
                    self.path.pop();
                }
            }
        }
    }

    fn entry(&mut self, first: &mut Entry, second: Entry) {
        let both_append = self.appends(&first.item) && self.appends(&second.item);
        let kinds = (first.item.kind(), second.item.kind());
        match (&mut first.item.value, second.item.value) {
            (Value::Table(into), Value::Table(from)) => self.table(into, from),
            (Value::Array(into), Value::Array(from)) if both_append => into.extend(from),
            _ => self.refuse(first.key_place, second.key_place, kinds),
        }
    }

    fn refuse(&mut self, first: Place, second: Place, kinds: (&str, &str)) {
        let key = self.path.join(".");
        let message = if kinds.0 == kinds.1 {
            format!("`{key}` is set twice")
        } else {
            format!("`{key}` is set twice, here to {} and before to {}", kinds.1, kinds.0)
        };
        self.found.error(second, message).related(first, "first set here").help("keep one of them");
    }

    /// Whether it was written as `[[name]]`. `[{ … }, { … }]` reads as complete and is never added to.
    fn appends(&self, item: &Item) -> bool {
        let Value::Array(items) = &item.value else { return false };
        let text = &self.sources.file(item.place.source).text;
        let is_header = text.get(item.place.span()).is_some_and(|written| written.starts_with("[["));
        // `[[1], [2]]` starts alike, but holds no tables.
        is_header && items.iter().all(|item| matches!(item.value, Value::Table(_)))
    }
}

/// FNV-1a: short, and the same on every machine and in every version, which `std`'s hasher is not.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Ends with a byte that no text holds, so that moving text between files changes the hash.
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Decode, Reader};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    fn environment(name: &str) -> Option<String> {
        (name == "HOST").then(|| "app".to_owned())
    }

    fn directory(files: &[(&str, &str)]) -> TempDir {
        let directory = TempDir::new().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    fn load_directory(files: &[(&str, &str)]) -> (TempDir, Result<Loaded, Failed>) {
        let directory = directory(files);
        let result = load(&[directory.path().to_owned()], &environment);
        (directory, result)
    }

    /// Messages with the directory's name taken out, each followed by its related places.
    fn lines(directory: &TempDir, result: &Result<Loaded, Failed>) -> Vec<String> {
        let Err(failed) = result else { return Vec::new() };
        let path = directory.path().display().to_string();
        let mut lines = failed.found.one_per_line(&failed.sources);
        for (line, diagnostic) in lines.iter_mut().zip(failed.found.iter()) {
            for (place, role) in &diagnostic.related {
                *line = format!("{line}; {}: {role}", failed.sources.locate(*place));
            }
            *line = line.replace(&format!("{path}/"), "").replace(&path, "DIR");
        }
        lines
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let (directory, result) = load_directory(files);
        assert_eq!(lines(&directory, &result), expected);
    }

    #[track_caller]
    fn check_json(files: &[(&str, &str)], expected: &str) {
        let (directory, result) = load_directory(files);
        assert_eq!(lines(&directory, &result), [""; 0]);
        assert_eq!(result.unwrap().root.to_json().to_string(), expected);
    }

    #[test]
    fn files_of_a_directory_are_merged_in_the_order_of_their_names() {
        check_json(
            &[
                ("20.toml", "[[listener]]\nname = 'c'\n[service.b]\nx = 1\n"),
                ("10.toml", "[[listener]]\nname = 'a'\n[[listener]]\nname = 'b'\n[service.a]\nx = 1\n"),
                (".hidden.toml", "]["),
                ("notes.txt", "]["),
                ("30.toml", "[service.a]\ny = 2\n"),
            ],
            r#"{"listener":[{"name":"a"},{"name":"b"},{"name":"c"}],"service":{"a":{"x":1,"y":2},"b":{"x":1}}}"#,
        );
    }

    #[test]
    fn what_was_read_and_listed_is_watched() {
        let directory = directory(&[("b.toml", ""), ("a.toml", ""), ("x", "")]);
        fs::create_dir(directory.path().join("sub.toml")).unwrap();
        let loaded = load(&[directory.path().to_owned()], &environment).unwrap();
        let at = |name| directory.path().join(name);
        assert_eq!(loaded.watched, [directory.path().to_owned(), at("a.toml"), at("b.toml")]);
    }

    #[test]
    fn a_mounted_config_map_is_read_once() {
        let directory = directory(&[]);
        let at = |name| directory.path().join(name);
        fs::create_dir(at("..2026_1")).unwrap();
        fs::write(at("..2026_1/attache.toml"), "[[a]]").unwrap();
        symlink("..2026_1", at("..data")).unwrap();
        symlink("..data/attache.toml", at("attache.toml")).unwrap();
        let loaded = load(&[directory.path().to_owned()], &environment).unwrap();
        assert_eq!(loaded.root.to_json().to_string(), r#"{"a":[{}]}"#);
    }

    #[test]
    fn several_paths_are_merged_in_the_order_given() {
        let directory = directory(&[("b.toml", "[[x]]\nn = 1"), ("a.toml", "[[x]]\nn = 2")]);
        let paths = ["b.toml", "a.toml"].map(|name| directory.path().join(name));
        let loaded = load(&paths, &environment).unwrap();
        assert_eq!(loaded.root.to_json().to_string(), r#"{"x":[{"n":1},{"n":2}]}"#);
    }

    #[test]
    fn a_file_named_twice_is_an_error() {
        let directory = directory(&[("a.toml", "a = 1")]);
        let result =
            load(&[directory.path().to_owned(), directory.path().join("../.").join(directory.path()).join("a.toml")], &environment);
        let expected = "error: `a.toml` is named twice (name each file once, itself or by its directory)";
        assert_eq!(lines(&directory, &result), [expected]);
    }

    #[test]
    fn a_key_set_twice_in_one_file_names_both_places() {
        check(
            &[("a.toml", "a = 1\n[[l]]\na = 1\nb = { a = 1 }\n\"a\" = 2\n[t]\n[l.c]\n[t]\n[u]\nv = { w = 1, w = 2 }\n")],
            &[
                "a.toml:5:1: error: `\"a\"` is set twice (keep one of them); a.toml:3:1: first set here",
                "a.toml:8:2: error: `t` is set twice (keep one of them); a.toml:6:2: first set here",
                "a.toml:10:14: error: `w` is set twice (keep one of them); a.toml:10:7: first set here",
            ],
        );
        check(
            &[("a.toml", "[a]\nb.c = 1\n[a.b]\nd = 1\n")],
            &["a.toml:3:4: error: `b` is set twice (keep one of them); a.toml:2:1: first set here"],
        );
    }

    #[test]
    fn a_key_set_in_two_files_names_both_places() {
        check(
            &[
                ("a.toml", "workers = 1\n[service.x]\nlist = [1]\nkind = 1\n[[listener]]\n"),
                ("b.toml", "listener = [{ a = 1 }]\nworkers = 1\n[service.x]\nlist = [2]\nkind = {}\n"),
            ],
            &[
                "b.toml:1:1: error: `listener` is set twice (keep one of them); a.toml:5:3: first set here",
                "b.toml:2:1: error: `workers` is set twice (keep one of them); a.toml:1:1: first set here",
                "b.toml:4:1: error: `service.x.list` is set twice (keep one of them); a.toml:3:1: first set here",
                "b.toml:5:1: error: `service.x.kind` is set twice, here to a table and before to a number \
                 (keep one of them); a.toml:4:1: first set here",
            ],
        );
    }

    #[test]
    fn only_lists_of_tables_under_headers_append() {
        let twice = "b.toml:1:1: error: `x` is set twice (keep one of them); a.toml:1:1: first set here";
        check(&[("a.toml", "x = [[1], [2]]"), ("b.toml", "x = [[1]]")], &[twice]);
        check(&[("a.toml", "x = [{}]"), ("b.toml", "x = [{}]")], &[twice]);
        check(&[("a.toml", "x = []"), ("b.toml", "x = []")], &[twice]);
        check_json(&[("a.toml", "[[ x ]]"), ("b.toml", "[[\"x\"]]")], r#"{"x":[{},{}]}"#);
    }

    #[test]
    fn all_errors_of_all_files_are_reported_at_once() {
        check(
            &[
                ("a.toml", "a = \nb = nope\nc = '${NONE}'\n"),
                ("b.toml", "[x\ny = 99999999999999999999\n"),
                ("c.toml", "z = 9223372036854775808\nc = 1\n"),
            ],
            &[
                "a.toml:1:5: error: a value is missing",
                "a.toml:2:5: error: `nope` is not a value (put text between quotes: \"nope\")",
                "a.toml:3:6: error: environment variable `NONE` is not set (set it, or give it a default: `${NONE:-…}`)",
                "b.toml:1:3: error: unclosed table, expected `]`",
                "c.toml:1:5: error: 9223372036854775808 is out of range \
                 (whole numbers go from -9223372036854775808 to 9223372036854775807)",
                "c.toml:2:1: error: `c` is set twice, here to a number and before to a string (keep one of them); \
                 a.toml:3:1: first set here",
            ],
        );
    }

    #[test]
    fn numbers_may_have_any_radix_and_underscores() {
        check_json(
            &[("a.toml", "a = 0xff\nb = 0o17\nc = 0b11\nd = 1_000\ne = +5\nf = -9223372036854775808\ng = 1_0.5e1")],
            r#"{"a":255,"b":15,"c":3,"d":1000,"e":5,"f":-9223372036854775808,"g":105.0}"#,
        );
        check(&[("a.toml", "a = 1e999")], &["a.toml:1:5: error: 1e999 is out of range (write `inf` if no limit is meant)"]);
    }

    #[test]
    fn strings_keep_what_was_written_beside_what_it_became() {
        let loaded = from_text("x", "a = 'http://${HOST}:${PORT:-80}/$$1$'\n'${HOST}' = 1", &environment).unwrap();
        let Value::String(text) = &loaded.root.entries["a"].item.value else { panic!("a is a string") };
        assert_eq!(text.written, "http://${HOST}:${PORT:-80}/$$1$");
        assert_eq!(text.value, "http://app:80/$1$");
        assert!(loaded.root.entries.contains_key("${HOST}"), "keys are left alone");
    }

    #[test]
    fn an_unset_variable_is_pointed_at_where_escapes_allow() {
        for (written, place) in [
            ("'é${N}'", "1:7"),
            ("\"ab${N}\"", "1:8"),
            (r#""\t${N}""#, "1:5"),
            ("'''\na\n${N}'''", "3:1"),
            ("\"\"\"${N}\"\"\"", "1:8"),
            ("\"\"\"\\\n  ${N}\"\"\"", "1:5"),
            ("[{ x = ['${N}'] }]", "1:14"),
        ] {
            let expected =
                format!("a.toml:{place}: error: environment variable `N` is not set (set it, or give it a default: `${{N:-…}}`)");
            check(&[("a.toml", &format!("a = {written}"))], &[&expected]);
        }
    }

    #[test]
    fn a_relative_path_starts_from_its_own_file() {
        let directory = directory(&[("a.toml", "a = 'x.pem'\nb = '/x.pem'")]);
        let loaded = load(&[directory.path().join("a.toml")], &environment).unwrap();
        let mut found = Diagnostics::default();
        let mut reader = Reader::new(&loaded.sources, &mut found);
        let mut decode = |key: &str| PathBuf::decode(&loaded.root.entries[key].item, &mut reader);
        assert_eq!(decode("a"), Some(directory.path().join("x.pem")));
        assert_eq!(decode("b"), Some(PathBuf::from("/x.pem")));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        check(
            &[("a.toml", "\u{feff}a = '${N}'")],
            &["a.toml:1:6: error: environment variable `N` is not set (set it, or give it a default: `${N:-…}`)"],
        );
    }

    #[test]
    fn line_ends_may_be_those_of_windows() {
        check_json(&[("a.toml", "a = 1\r\n[b]\r\nc = '''\r\nx'''\r\n")], r#"{"a":1,"b":{"c":"x"}}"#);
        check(&[("a.toml", "a = 1\r\na = 2\r\n")], &["a.toml:2:1: error: `a` is set twice (keep one of them); a.toml:1:1: first set here"]);
    }

    #[test]
    fn a_value_without_quotes_is_one_mistake() {
        let quoted = |raw: &str| format!("`{raw}` is not a value (put text between quotes: \"{raw}\")");
        for (text, place, expected) in [
            ("a = nope", "1:5", quoted("nope")),
            ("a = [10s, 0.0.0.0:80 ]", "1:6", quoted("10s")),
            ("a = ./x # y", "1:5", quoted("./x")),
            ("a = 10%", "1:5", quoted("10%")),
            ("a = True", "1:5", "`True` is not a value (write `true`)".to_owned()),
            ("a = b\"", "1:5", "`b\"` is not a value (put text between quotes)".to_owned()),
            ("a = ", "1:5", "a value is missing".to_owned()),
            ("a = 08", "1:5", "unexpected leading zero".to_owned()),
            ("a = { b = 1", "1:12", "unclosed inline table, expected `}`".to_owned()),
        ] {
            let failed = from_text("x", text, &environment).unwrap_err();
            assert_eq!(failed.found.one_per_line(&failed.sources)[0], format!("x:{place}: error: {expected}"));
            assert_eq!(failed.found.errors(), 1 + usize::from(text.contains("0.0")));
        }
    }

    #[test]
    fn an_empty_file_is_an_empty_table() {
        check_json(&[("a.toml", ""), ("b.toml", "# nothing\n")], "{}");
    }

    #[test]
    fn a_directory_without_files_is_an_error() {
        check(
            &[("a.txt", "")],
            &["error: no `*.toml` file in directory `DIR` (put one there; hidden files and subdirectories are not read)"],
        );
    }

    #[test]
    fn a_missing_file_does_not_hide_the_mistakes_of_others() {
        let directory = directory(&[("b.toml", "a = ")]);
        let paths = ["a.toml", "b.toml"].map(|name| directory.path().join(name));
        let result = load(&paths, &environment);
        assert_eq!(
            lines(&directory, &result),
            [
                "error: cannot read `a.toml`: No such file or directory (os error 2) \
                 (check the path; a relative one starts from the working directory)",
                "b.toml:1:5: error: a value is missing",
            ]
        );
        assert_eq!(result.unwrap_err().watched, paths);
    }

    #[test]
    fn bytes_that_are_no_text_are_pointed_at() {
        let directory = directory(&[]);
        fs::write(directory.path().join("a.toml"), b"a = 1\nb = '\xe9'\n").unwrap();
        let result = load(&[directory.path().to_owned()], &environment);
        assert_eq!(lines(&directory, &result), ["a.toml:2:6: error: byte 0xe9 is not UTF-8 (save the file as UTF-8)"]);
    }

    #[test]
    fn a_file_may_have_the_limit_and_no_more() {
        let limit = FILE_BYTES_MAX as usize;
        check(&[("a.toml", &format!("#{}", "-".repeat(limit - 1)))], &[]);
        check(
            &[("a.toml", &format!("#{}", "-".repeat(limit)))],
            &["error: `a.toml` is larger than 16 MiB (name the right file, or split it into several)"],
        );
    }

    #[test]
    fn a_file_of_nonsense_is_not_quoted_in_full() {
        let (directory, result) = load_directory(&[("a.toml", &"!\n".repeat(60))]);
        let lines = lines(&directory, &result);
        assert_eq!(lines.len(), SYNTAX_ERRORS_MAX + 1);
        assert_eq!(lines[0], "error: 10 more syntax errors in `a.toml` (is this a TOML file?)");
    }

    #[test]
    fn the_hash_changes_with_any_text_and_only_then() {
        let hash = |name: &str, text: &str| from_text(name, text, &environment).unwrap().hash;
        assert_eq!(hash("a", "a = 1"), hash("a", "a = 1"));
        assert_ne!(hash("a", "a = 1"), hash("a", "a = 2"));
        assert_ne!(hash("a", ""), hash("b", ""));
        // The hash is shown to people who compare machines, so it may not change with the version.
        assert_eq!(hash("attache.toml", "a = 1\n"), "f0a64b84ca73fd8c");
    }

    #[test]
    fn the_first_default_place_that_exists_is_taken() {
        let home = directory(&[]);
        let file = home.path().join("attache").join(FILE_NAME);
        let environment = |name: &str| (name == "XDG_CONFIG_HOME").then(|| home.path().display().to_string());
        let failed = default_paths(&environment).unwrap_err();
        let expected = format!(
            "error: no configuration found; looked for `attache.toml`, `{}`, `/etc/attache/attache.toml` \
             (write one of them, name another with `-c PATH`, or set `ATTACHE_CONFIG`)",
            file.display()
        );
        assert_eq!(failed.found.one_per_line(&failed.sources), [expected]);

        fs::create_dir(home.path().join("attache")).unwrap();
        fs::write(&file, "").unwrap();
        assert_eq!(default_paths(&environment).unwrap(), [file]);
    }

    #[test]
    fn the_home_directory_stands_in_for_the_xdg_one() {
        let environment = |name: &str| match name {
            "HOME" => Some("/home/u".to_owned()),
            "XDG_CONFIG_HOME" => Some("relative".to_owned()),
            _ => None,
        };
        let expected = ["attache.toml", "/home/u/.config/attache/attache.toml", "/etc/attache/attache.toml"].map(PathBuf::from);
        assert_eq!(candidates(&environment), expected);
    }

    #[test]
    fn the_environment_may_name_the_configuration() {
        let named = |value: &'static str| move |name: &str| (name == "ATTACHE_CONFIG").then(|| value.to_owned());
        assert_eq!(default_paths(&named("/a.toml:b")).unwrap(), [PathBuf::from("/a.toml"), PathBuf::from("b")]);
        assert!(default_paths(&named("")).is_err());
    }

    #[test]
    fn nesting_has_a_limit() {
        for text in [
            format!("{} = 1", vec!["a"; 100_000].join(".")),
            format!("[{}]", vec!["a"; 100_000].join(".")),
            format!("a = {}", "[".repeat(100_000)),
            format!("a = {}", "{a=".repeat(100_000)),
        ] {
            assert!(from_text("x", &text, &environment).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd_to_read(parts in vec(select(ODDITIES), 0..40)) {
            if let Err(failed) = from_text("x", &parts.concat(), &environment) {
                prop_assert!(failed.found.has_errors());
                prop_assert_eq!(failed.found.one_per_line(&failed.sources).len(), failed.found.errors());
            }
        }
    }

    const ODDITIES: &[&str] = &[
        "a",
        "b",
        "é",
        "値",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\t",
        "=",
        " = ",
        ".",
        ",",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "\"",
        "'",
        "\"\"\"",
        "'''",
        "\\",
        "\\u00e9",
        "\\\n",
        "#",
        "1",
        "0x",
        "-",
        "_",
        "e9",
        "inf",
        "true",
        "2026-01-01",
        "${",
        "${HOST}",
        "${a:-é}",
        "$$",
        "\0",
        "\u{feff}",
        "a = 1\n",
        "[a]\n",
        "[[a]]\n",
        "a.b = '${N}'\n",
    ];
}
