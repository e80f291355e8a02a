//! Patterns over hosts, paths and other text; each parses itself.
//!
//! Decides about one value at a time; `table` arranges thousands of them.

use std::fmt;

use regex::bytes::Regex;

use crate::value::{Decode, Item, Reader};

/// `"shop.example"`, `"*.shop.example"` (any number of labels before it) or `"*"`; lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Any,
    Exact(String),
    /// The part after `*`, with its dot: `.shop.example`.
    Suffix(String),
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        if lower == "*" {
            return Ok(Self::Any);
        }
        let (suffix, name) = match lower.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, lower.as_str()),
        };
        if name.contains("://") {
            return Err(format!("`{text}` has a scheme; routes match the host alone"));
        }
        if name.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(format!("`{text}` is an IPv6 address without its brackets"));
        }
        let is_ipv6 = name.starts_with('[') && name.ends_with(']') && name[1..name.len() - 1].parse::<std::net::Ipv6Addr>().is_ok();
        let is_name = !name.is_empty()
            && name.split('.').all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        if name.contains(':') && !is_ipv6 {
            return Err(format!("`{text}` has a port; routes match the host alone"));
        }
        if !is_name && !is_ipv6 {
            return Err(format!("`{text}` is not a host, `*.host` or `*`"));
        }
        Ok(if suffix { Self::Suffix(format!(".{name}")) } else { Self::Exact(name.to_owned()) })
    }
}

impl HostPattern {
    /// `host` as it came; a dot at its end is an absolute name's.
    pub fn matches(&self, host: &[u8]) -> bool {
        let host = host.strip_suffix(b".").unwrap_or(host);
        match self {
            Self::Any => true,
            Self::Exact(name) => host.eq_ignore_ascii_case(name.as_bytes()),
            Self::Suffix(suffix) => host.len() > suffix.len() && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl Decode for HostPattern {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        reader.accept(Self::parse(&text), item.place, "write \"shop.example\" or \"*.shop.example\"")
    }
}

/// `"/exact"`, `"/tree/*"`, `"~^/v[0-9]+/"` or `"*"`.
#[derive(Clone, Debug)]
pub enum PathPattern {
    Any,
    Exact(String),
    /// Everything below, and the directory itself: `/tree` for `/tree/*`. Without a trailing slash.
    Tree(String),
    Regex(Regex),
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Any) => true,
            (Self::Exact(a), Self::Exact(b)) | (Self::Tree(a), Self::Tree(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl PathPattern {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(pattern) = text.strip_prefix('~') {
            return regex(pattern).map(Self::Regex);
        }
        if text == "*" || text == "/*" {
            return Ok(Self::Any);
        }
        if !text.starts_with('/') {
            return Err(format!("`{text}` does not start with `/`"));
        }
        if text.bytes().any(|b| b <= b' ' || b >= 0x7f || b == b'?' || b == b'#') {
            return Err(format!("`{text}` holds a character that no path can hold"));
        }
        match text.strip_suffix("/*") {
            Some(tree) if !tree.contains('*') => Ok(Self::Tree(tree.to_owned())),
            None if !text.contains('*') => Ok(Self::Exact(text.to_owned())),
            _ => Err(format!("`{text}`: `*` may stand only at the end, after a slash")),
        }
    }

    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => path == exact.as_bytes(),
            Self::Tree(tree) => path.strip_prefix(tree.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(path) => f.write_str(path),
            Self::Tree(tree) => write!(f, "{tree}/*"),
            Self::Regex(regex) => write!(f, "~{regex}"),
        }
    }
}

impl Decode for PathPattern {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        reader.accept(Self::parse(&text), item.place, "write \"/exact\", \"/tree/*\" or \"~^/v[0-9]+/\"")
    }
}

/// `"*"` any value, `"text"` exactly, `"~regex"`.
#[derive(Clone, Debug)]
pub enum TextPattern {
    Any,
    Exact(String),
    Regex(Regex),
}

impl PartialEq for TextPattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Any) => true,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl TextPattern {
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => text == exact.as_bytes(),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

impl fmt::Display for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Regex(regex) => write!(f, "~{regex}"),
        }
    }
}

impl Decode for TextPattern {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        if text == "*" {
            return Some(Self::Any);
        }
        let Some(pattern) = text.strip_prefix('~') else { return Some(Self::Exact(text)) };
        reader.accept(
            regex(pattern).map(Self::Regex),
            item.place,
            "`~` begins a regular expression; write the text without it to match exactly",
        )
    }
}

/// Compiles with bounds: a pattern is the operator's, but a slip should not cost a gigabyte.
fn regex(pattern: &str) -> Result<Regex, String> {
    regex::bytes::RegexBuilder::new(pattern)
        .size_limit(1 << 20)
        .unicode(false)
        .build()
        .map_err(|error| format!("not a regular expression: {}", regex_reason(&error.to_string())))
}

/// The last line; those before it draw the pattern.
fn regex_reason(shown: &str) -> String {
    let last = shown.lines().last().unwrap_or_default().trim();
    if last.contains("size limit") { "it compiles to more than 1 MiB".to_owned() } else { last.trim_start_matches("error: ").to_owned() }
}

/// What the `*` of a matching route stood for, as raw bytes of the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Captures<'a> {
    /// The path after the tree's slash; `None` where the directory itself was asked for.
    pub path: Option<&'a [u8]>,
    /// The labels before the suffix, without the dot.
    pub host: &'a [u8],
}

impl<'a> Captures<'a> {
    /// `raw_path` may spell a tree's name with percent-encodings but has the same slashes, so the
    /// capture starts after as many slashes as the pattern has, plus one.
    pub fn of(pattern: Option<&PathPattern>, raw_path: &'a [u8]) -> Self {
        let depth = match pattern {
            Some(PathPattern::Tree(tree)) => tree.bytes().filter(|&b| b == b'/').count() + 1,
            _ => 1,
        };
        let path = memchr::memchr_iter(b'/', raw_path).nth(depth - 1).map(|at| &raw_path[at + 1..]);
        Self { path, host: b"" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_matches_itself_and_below_only() {
        let tree = PathPattern::parse("/tree/*").unwrap();
        for (path, matches) in [("/tree", true), ("/tree/", true), ("/tree/a/b", true), ("/treed", false), ("/", false)] {
            assert_eq!(tree.matches(path.as_bytes()), matches, "{path}");
        }
    }

    #[test]
    fn a_star_elsewhere_is_refused() {
        for wrong in ["/a*", "/*/b", "/a/*/*", "a", "", "/a b", "/a?b"] {
            assert!(PathPattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts_have_no_ports() {
        assert_eq!(HostPattern::parse("*.Shop.example"), Ok(HostPattern::Suffix(".shop.example".to_owned())));
        assert_eq!(HostPattern::parse("[::1]"), Ok(HostPattern::Exact("[::1]".to_owned())));
        for wrong in ["a:80", "", "a..b", "*a.example", "a.*", "http://a"] {
            assert!(HostPattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_star_is_taken_from_the_raw_path() {
        let tree = PathPattern::parse("/a/b/*").unwrap();
        assert_eq!(Captures::of(Some(&tree), b"/%61/b/c%20d/e").path, Some(&b"c%20d/e"[..]));
        assert_eq!(Captures::of(Some(&tree), b"/a/b/").path, Some(&b""[..]));
        assert_eq!(Captures::of(Some(&tree), b"/a/b").path, None);
        assert_eq!(Captures::of(None, b"/x/y").path, Some(&b"x/y"[..]));
    }
}
