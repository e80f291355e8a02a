//! Finds the first route that matches, without looking at the others.
//!
//! Hosts and paths are compiled into maps; only the routes of the same host and path are compared
//! one by one. Order is the operator's: among all that match, the first in the file wins.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use regex::bytes::RegexSet;

use super::pattern::Captures;
use super::{Head, HostPattern, Matchers, PathPattern, TextPattern};

/// A compiled list of routes. Cost grows with the depth of the path, not with the number of routes.
pub struct Table {
    matchers: Vec<Matchers>,
    exact: HashMap<Box<[u8]>, Paths, FixedState>,
    /// Keyed by suffix with its leading dot.
    suffix: HashMap<Box<[u8]>, Paths, FixedState>,
    any: Paths,
}

/// The routes of one host, by path. Lists of route numbers ascend.
#[derive(Default)]
struct Paths {
    exact: HashMap<Box<[u8]>, Vec<u32>, FixedState>,
    tree: HashMap<Box<[u8]>, Vec<u32>, FixedState>,
    /// Slashes in the deepest tree: no need to look below.
    tree_depth: usize,
    regex: Option<(RegexSet, Vec<u32>)>,
    any: Vec<u32>,
    /// Gathered while building, compiled at the end.
    pending_regex: Vec<(String, u32)>,
}

/// A route that matched.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    pub route: usize,
    pub captures: Captures<'a>,
}

impl Table {
    /// The error names the route whose regular expressions cannot be compiled together.
    pub fn compile(routes: impl IntoIterator<Item = Matchers>) -> Result<Self, (usize, String)> {
        let mut table = Self { matchers: Vec::new(), exact: HashMap::default(), suffix: HashMap::default(), any: Paths::default() };
        for (index, matchers) in routes.into_iter().enumerate() {
            let number = index as u32;
            if matchers.host.is_empty() {
                table.any.add(&matchers.path, number);
            }
            for host in &matchers.host {
                match host {
                    HostPattern::Any => &mut table.any,
                    HostPattern::Exact(name) => table.exact.entry(name.as_bytes().into()).or_default(),
                    HostPattern::Suffix(name) => table.suffix.entry(name.as_bytes().into()).or_default(),
                }
                .add(&matchers.path, number);
            }
            table.matchers.push(matchers);
        }
        let every = table.exact.values_mut().chain(table.suffix.values_mut()).chain(std::iter::once(&mut table.any));
        for paths in every {
            paths.finish()?;
        }
        Ok(table)
    }

    pub fn find<'a>(&self, head: &Head<'a>) -> Option<Found<'a>> {
        let mut best = None;
        if !self.exact.is_empty() || !self.suffix.is_empty() {
            let mut lower = [0u8; 256];
            let host = lower_case(head.host, &mut lower);
            if let Some(paths) = self.exact.get(host) {
                paths.search(head, &self.matchers, &mut best);
            }
            if !self.suffix.is_empty() {
                // From the first label on: a suffix needs at least one label before it.
                for dot in memchr::memchr_iter(b'.', host).filter(|&dot| dot > 0) {
                    if let Some(paths) = self.suffix.get(&host[dot..]) {
                        paths.search(head, &self.matchers, &mut best);
                    }
                }
            }
        }
        self.any.search(head, &self.matchers, &mut best);
        let route = best? as usize;
        Some(Found { route, captures: self.captures(route, head) })
    }

    /// What a route asks for, by its number.
    pub fn matchers(&self, route: usize) -> Option<&Matchers> {
        self.matchers.get(route)
    }

    fn captures<'a>(&self, route: usize, head: &Head<'a>) -> Captures<'a> {
        let matchers = &self.matchers[route];
        let path = matchers.path.iter().find(|pattern| pattern.matches(head.compare_path));
        let mut captures = Captures::of(path, head.path);
        let host = head.host.strip_suffix(b".").unwrap_or(head.host);
        captures.host = matchers
            .host
            .iter()
            .find_map(|pattern| match pattern {
                HostPattern::Suffix(suffix) if ends_with_ignoring_case(host, suffix.as_bytes()) => Some(&host[..host.len() - suffix.len()]),
                _ => None,
            })
            .unwrap_or_default();
        captures
    }
}

impl Paths {
    fn add(&mut self, patterns: &[PathPattern], number: u32) {
        let push = |list: &mut Vec<u32>| {
            if list.last() != Some(&number) {
                list.push(number);
            }
        };
        if patterns.is_empty() {
            push(&mut self.any);
        }
        for pattern in patterns {
            match pattern {
                PathPattern::Any => push(&mut self.any),
                PathPattern::Exact(path) => push(self.exact.entry(path.as_bytes().into()).or_default()),
                PathPattern::Tree(path) => {
                    self.tree_depth = self.tree_depth.max(path.bytes().filter(|&b| b == b'/').count());
                    push(self.tree.entry(path.as_bytes().into()).or_default());
                }
                PathPattern::Regex(regex) => self.pending_regex.push((regex.as_str().to_owned(), number)),
            }
        }
    }

    fn finish(&mut self) -> Result<(), (usize, String)> {
        if self.pending_regex.is_empty() {
            return Ok(());
        }
        let (patterns, numbers): (Vec<String>, Vec<u32>) = std::mem::take(&mut self.pending_regex).into_iter().unzip();
        let set = regex::bytes::RegexSetBuilder::new(patterns)
            .unicode(false)
            .size_limit(256 << 20)
            .build()
            .map_err(|error| (numbers[0] as usize, error.to_string()))?;
        self.regex = Some((set, numbers));
        Ok(())
    }

    /// Lowers `best` to the first route here that matches and precedes it.
    fn search(&self, head: &Head<'_>, matchers: &[Matchers], best: &mut Option<u32>) {
        let path = head.compare_path;
        let mut try_list = |list: &[u32]| {
            let mut candidates = list.iter().take_while(|&&number| best.is_none_or(|b| number < b));
            let first = candidates.find(|&&number| matchers[number as usize].the_rest_matches(head)).copied();
            if first.is_some() {
                *best = first;
            }
        };
        if let Some(list) = self.exact.get(path) {
            try_list(list);
        }
        if !self.tree.is_empty() {
            if let Some(list) = self.tree.get(path) {
                try_list(list);
            }
            for slash in memchr::memchr_iter(b'/', path).take(self.tree_depth + 1) {
                if let Some(list) = self.tree.get(&path[..slash]) {
                    try_list(list);
                }
            }
        }
        if let Some((set, numbers)) = &self.regex {
            // Numbers ascend with the patterns, so the first match is the lowest.
            for pattern in &set.matches(path) {
                try_list(&numbers[pattern..=pattern]);
            }
        }
        try_list(&self.any);
    }
}

impl Matchers {
    /// Everything but host and path, which the maps have settled.
    fn the_rest_matches(&self, head: &Head<'_>) -> bool {
        self.fits_method(head)
            && self.header.iter().all(|(name, pattern)| fits(pattern, head.headers.all(name.as_bytes())))
            && self.query.iter().all(|(name, pattern)| fits(pattern, head.query_values(name.as_bytes())))
            && self.cookie.iter().all(|(name, pattern)| fits(pattern, head.headers.cookies(name.as_bytes())))
            && self.fits_client(head)
    }

    /// Whether every predicate holds.
    pub fn fit(&self, head: &Head<'_>) -> bool {
        (self.host.is_empty() || self.host.iter().any(|pattern| pattern.matches(head.host)))
            && (self.path.is_empty() || self.path.iter().any(|pattern| pattern.matches(head.compare_path)))
            && self.the_rest_matches(head)
    }

    fn fits_method(&self, head: &Head<'_>) -> bool {
        self.method.is_empty() || self.method.iter().any(|method| method.0.as_bytes() == head.method)
    }

    fn fits_client(&self, head: &Head<'_>) -> bool {
        self.client.is_empty() || head.client.is_some_and(|ip| self.client.iter().any(|network| network.0.contains(&ip)))
    }

    /// The first predicate that does not hold, for people: what there is, and what was wanted. `None` if all of them hold.
    pub fn why_not(&self, head: &Head<'_>) -> Option<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let wanted = |patterns: Vec<String>| patterns.join(" or ");
        if !self.host.is_empty() && !self.host.iter().any(|pattern| pattern.matches(head.host)) {
            let patterns = self.host.iter().map(ToString::to_string).collect();
            return Some(format!("host is {}, not {}", text(head.host), wanted(patterns)));
        }
        if !self.path.is_empty() && !self.path.iter().any(|pattern| pattern.matches(head.compare_path)) {
            let patterns = self.path.iter().map(ToString::to_string).collect();
            return Some(format!("path is {}, not {}", text(head.compare_path), wanted(patterns)));
        }
        if !self.fits_method(head) {
            let methods = self.method.iter().map(|method| method.0.clone()).collect();
            return Some(format!("method is {}, not {}", text(head.method), wanted(methods)));
        }
        let first = |name: &str, kind: &str, pattern: &TextPattern, values: &mut dyn Iterator<Item = &[u8]>| {
            let mut values = values.peekable();
            let came = values.peek().map_or_else(|| "missing".to_owned(), |value| text(value));
            (!fits(pattern, &mut values)).then(|| format!("{kind} {name} is {came}, not {pattern}"))
        };
        let headers =
            self.header.iter().filter_map(|(name, pattern)| first(name, "header", pattern, &mut head.headers.all(name.as_bytes())));
        let queries =
            self.query.iter().filter_map(|(name, pattern)| first(name, "query", pattern, &mut head.query_values(name.as_bytes())));
        let cookies =
            self.cookie.iter().filter_map(|(name, pattern)| first(name, "cookie", pattern, &mut head.headers.cookies(name.as_bytes())));
        if let Some(reason) = headers.chain(queries).chain(cookies).next() {
            return Some(reason);
        }
        if !self.fits_client(head) {
            let networks = self.client.iter().map(|network| network.0.to_string()).collect();
            let came = head.client.map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
            return Some(format!("client is {came}, not in {}", wanted(networks)));
        }
        None
    }
}

/// Whether any of these values fits.
fn fits<'v>(pattern: &TextPattern, mut values: impl Iterator<Item = &'v [u8]>) -> bool {
    values.any(|value| pattern.matches(value))
}

/// Hosts longer than any name (RFC 1035: 253) match no exact or suffix pattern.
fn lower_case<'b>(host: &[u8], buffer: &'b mut [u8; 256]) -> &'b [u8] {
    let Some(lower) = buffer.get_mut(..host.len()) else { return b"" };
    lower.copy_from_slice(host);
    lower.make_ascii_lowercase();
    // A trailing dot says "absolute name" and is the same host.
    lower.strip_suffix(b".").unwrap_or(lower)
}

fn ends_with_ignoring_case(host: &[u8], suffix: &[u8]) -> bool {
    host.len() > suffix.len() && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
}
