//! What is wrong with a configuration, where, and what to do about it.
//!
//! Does not render: `cli::render` draws excerpts, `admin` sends JSON.

use super::{Place, Sources};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// One message for the operator. Fragments are lower case without a full stop.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    /// Missing only where no text exists to point at, such as a file that cannot be read.
    pub place: Option<Place>,
    /// Other places that matter, each with the part it plays.
    pub related: Vec<(Place, String)>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    pub fn related(&mut self, place: Place, role: impl Into<String>) -> &mut Self {
        self.related.push((place, role.into()));
        self
    }

    /// `path:line:column: error: message (help)` on one line.
    pub fn one_line(&self, sources: &Sources) -> String {
        let place = self.place.map(|p| format!("{}: ", sources.locate(p))).unwrap_or_default();
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let help = self.help.as_ref().map(|h| format!(" ({h})")).unwrap_or_default();
        format!("{place}{kind}: {}{help}", self.message)
    }
}

/// Everything found so far; collecting never stops at the first.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
}

impl Diagnostics {
    pub fn error(&mut self, place: impl Into<Option<Place>>, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Error, place.into(), message.into())
    }

    pub fn warn(&mut self, place: impl Into<Option<Place>>, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Severity::Warning, place.into(), message.into())
    }

    fn push(&mut self, severity: Severity, place: Option<Place>, message: String) -> &mut Diagnostic {
        self.items.push(Diagnostic { severity, message, place, related: Vec::new(), help: None });
        self.items.last_mut().expect("an item was just pushed")
    }

    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|d| d.severity == Severity::Error)
    }

    pub fn errors(&self) -> usize {
        self.items.iter().filter(|d| d.severity == Severity::Error).count()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter()
    }

    pub fn extend(&mut self, other: Diagnostics) {
        self.items.extend(other.items);
    }

    /// Takes over what `other` says of places that nothing was said of yet: a value that is known to be
    /// wrong makes further complaints about it that help nobody.
    pub fn extend_elsewhere(&mut self, other: Diagnostics) {
        let overlaps = |a: Place, b: Place| a.source == b.source && a.start < b.end && b.start < a.end;
        let known: Vec<Place> = self.items.iter().filter_map(|d| d.place).collect();
        let is_new = |d: &Diagnostic| d.place.is_none_or(|place| !known.iter().any(|&known| overlaps(place, known)));
        self.items.extend(other.items.into_iter().filter(is_new));
    }

    /// In the order of the files, the way a person works through them.
    pub fn sort(&mut self) {
        self.items.sort_by_key(|d| d.place);
    }

    pub fn one_per_line(&self, sources: &Sources) -> Vec<String> {
        self.items.iter().map(|d| d.one_line(sources)).collect()
    }
}
