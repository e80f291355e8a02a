//! Changes the path or the host that the endpoint sees.
//!
//! Routes have matched by then: a rewrite never changes which route is taken.

use crate::route::Captures;
use crate::settings;
use crate::value::{Decode, Item, Reader};

settings! {
    /// What the endpoint sees instead of what the client asked for.
    pub struct Settings as "a rewrite" {
        /// New path; a `*` at its end is what the route's `*` matched. The query stays.
        path: Option<PathTemplate> = None,
        /// New Host header; `*` is what the `*` of the route's host matched.
        host: Option<HostTemplate> = None,
    }
}

/// `/v2/*` or `/fixed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    before: String,
    has_star: bool,
}

impl Decode for PathTemplate {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let (before, has_star) = match text.strip_suffix('*') {
            Some(before) => (before, true),
            None => (text.as_str(), false),
        };
        let printable = before.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'?');
        if !before.starts_with('/') || before.contains('*') || !printable {
            reader.error(item.place, format!("`{text}` is not a path to rewrite to")).help("write \"/v2/*\" or \"/fixed\"");
            return None;
        }
        Some(Self { before: before.to_owned(), has_star })
    }
}

impl PathTemplate {
    /// Appends the new path.
    pub fn write(&self, captures: &Captures<'_>, out: &mut Vec<u8>) {
        let before = self.before.as_bytes();
        match (self.has_star, captures.path) {
            (false, _) => out.extend_from_slice(before),
            (true, Some(rest)) => {
                out.extend_from_slice(before);
                out.extend_from_slice(rest);
            }
            // `/tree` asked for itself: no slash came in, so none goes out.
            (true, None) => match before.strip_suffix(b"/") {
                Some(b"") | None => out.extend_from_slice(before),
                Some(directory) => out.extend_from_slice(directory),
            },
        }
    }
}

/// `inner.example` or `*.inner.example`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTemplate {
    has_star: bool,
    after: String,
}

impl Decode for HostTemplate {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let (has_star, after) = match text.strip_prefix('*') {
            Some(after) => (true, after),
            None => (false, text.as_str()),
        };
        let fits = (after.starts_with('.') || !has_star)
            && !after.is_empty()
            && after.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
        if !fits {
            reader.error(item.place, format!("`{text}` is not a host")).help("write \"inner.example\" or \"*.inner.example\"");
            return None;
        }
        Some(Self { has_star, after: after.to_owned() })
    }
}

impl HostTemplate {
    pub fn write(&self, captures: &Captures<'_>, out: &mut Vec<u8>) {
        if self.has_star {
            out.extend_from_slice(captures.host);
        }
        let after = if self.has_star && captures.host.is_empty() { &self.after[1..] } else { &self.after };
        out.extend_from_slice(after.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: &str, has_star: bool, capture: Option<&str>, expected: &str) {
        let template = PathTemplate { before: before.to_owned(), has_star };
        let mut out = Vec::new();
        template.write(&Captures { path: capture.map(str::as_bytes), host: b"" }, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn the_star_carries_over() {
        check("/v2/", true, Some("a/b"), "/v2/a/b");
        check("/v2/", true, Some(""), "/v2/");
        check("/v2/", true, None, "/v2");
        check("/", true, None, "/");
        check("/fixed", false, Some("a"), "/fixed");
    }
}
