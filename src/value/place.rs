//! Where in which file a value stood.
//!
//! Does not read files: the loader gives it their text.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use super::Table;

/// Number of a file in [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u16);

/// A range of bytes in one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub source: SourceId,
    pub start: u32,
    pub end: u32,
}

impl Place {
    pub fn new(source: SourceId, span: std::ops::Range<usize>) -> Self {
        let clamp = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { source, start: clamp(span.start), end: clamp(span.end) }
    }

    pub fn span(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// One file of the configuration, or a stand-in for the command line.
#[derive(Clone, Debug)]
pub struct SourceText {
    /// As the operator named it; shown in messages.
    pub path: PathBuf,
    pub text: String,
}

/// Every file a configuration was read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<SourceText>,
    included: HashMap<PathBuf, Included>,
}

/// A document that another one names, such as a list of endpoints.
#[derive(Clone, Debug)]
pub struct Included {
    pub source: SourceId,
    pub table: Table,
}

impl Included {
    /// Where it begins, for what is missing in it.
    pub fn start(&self) -> Place {
        Place::new(self.source, 0..0)
    }
}

impl Sources {
    pub fn add(&mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> SourceId {
        let id = SourceId(u16::try_from(self.files.len()).expect("fewer than 65,536 files are read"));
        self.files.push(SourceText { path: path.into(), text: text.into() });
        id
    }

    /// Keeps a document under the path that it was named by.
    pub fn include(&mut self, path: PathBuf, document: Included) {
        self.included.insert(path, document);
    }

    /// `None` if it could not be read.
    pub fn included(&self, path: &Path) -> Option<&Included> {
        self.included.get(path)
    }

    pub fn file(&self, id: SourceId) -> &SourceText {
        &self.files[usize::from(id.0)]
    }

    pub fn iter(&self) -> impl Iterator<Item = &SourceText> {
        self.files.iter()
    }

    /// Directory that relative paths written in `id` start from.
    pub fn directory(&self, id: SourceId) -> &Path {
        self.file(id).path.parent().unwrap_or(Path::new(""))
    }

    /// Line and column, both from 1; the column counts characters.
    pub fn line_column(&self, place: Place) -> (usize, usize) {
        let text = &self.file(place.source).text;
        let mut at = (place.start as usize).min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &text[..at];
        let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    /// `path:line:column`, the form that editors jump to.
    pub fn locate(&self, place: Place) -> String {
        let (line, column) = self.line_column(place);
        format!("{}:{line}:{column}", self.file(place.source).path.display())
    }
}

/// A value and where it stood. Two are equal when their values are: moving a line changes nothing.
#[derive(Clone)]
pub struct Spanned<T> {
    pub value: T,
    pub place: Place,
}

impl<T> Spanned<T> {
    pub fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Spanned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T: Hash> Hash for Spanned<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}
