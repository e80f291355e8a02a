//! Finds routes that can never match because an earlier one takes everything they would.
//!
//! Sound but not complete: it knows hosts, paths and exact repetition, not regular expressions.

use std::collections::HashSet;

use crate::route::{HostPattern, Matchers, PathPattern};

/// Earlier routes, as far as they can hide later ones.
#[derive(Default)]
pub(super) struct Shadows {
    /// Host and path pairs of routes that ask for nothing else.
    taken: HashSet<(HostPattern, Option<String>, bool)>,
    /// Every route's predicates, for exact repetition.
    seen: HashSet<String>,
}

impl Shadows {
    /// Whether `matchers` is hidden by what was added before; adds it.
    pub(super) fn hides(&mut self, matchers: &Matchers) -> bool {
        let hosts = if matchers.host.is_empty() { vec![HostPattern::Any] } else { matchers.host.clone() };
        let paths = if matchers.path.is_empty() { vec![PathPattern::Any] } else { matchers.path.clone() };
        let is_repeated = !self.seen.insert(format!("{matchers:?}"));
        let is_covered = hosts.iter().all(|host| paths.iter().all(|path| self.covers(host, path)));
        if asks_for_host_and_path_only(matchers) {
            for host in &hosts {
                for path in &paths {
                    if let Some((text, is_tree)) = key(path) {
                        self.taken.insert((host.clone(), text, is_tree));
                    }
                }
            }
        }
        is_repeated || is_covered
    }

    fn covers(&self, host: &HostPattern, path: &PathPattern) -> bool {
        if self.taken.is_empty() {
            return false;
        }
        let wider_hosts = wider_hosts(host);
        let mut wider_paths = vec![(None, true)];
        if let Some((Some(text), is_tree)) = key(path) {
            wider_paths.push((Some(text.clone()), is_tree));
            wider_paths.push((Some(text.clone()), true));
            wider_paths.extend(text.match_indices('/').map(|(at, _)| (Some(text[..at].to_owned()), true)));
        }
        wider_hosts
            .iter()
            .any(|host| wider_paths.iter().any(|(text, is_tree)| self.taken.contains(&(host.clone(), text.clone(), *is_tree))))
    }
}

fn asks_for_host_and_path_only(matchers: &Matchers) -> bool {
    matchers.method.is_empty()
        && matchers.header.is_empty()
        && matchers.query.is_empty()
        && matchers.cookie.is_empty()
        && matchers.client.is_empty()
}

/// `(None, true)` is every path; a regular expression has no key.
fn key(path: &PathPattern) -> Option<(Option<String>, bool)> {
    match path {
        PathPattern::Any => Some((None, true)),
        PathPattern::Exact(text) => Some((Some(text.clone()), false)),
        PathPattern::Tree(text) => Some((Some(text.clone()), true)),
        PathPattern::Regex(_) => None,
    }
}

fn wider_hosts(host: &HostPattern) -> Vec<HostPattern> {
    let mut wider = vec![HostPattern::Any, host.clone()];
    if let HostPattern::Exact(name) | HostPattern::Suffix(name) = host {
        let dots = name.match_indices('.').filter(|&(at, _)| at > 0);
        wider.extend(dots.map(|(at, _)| HostPattern::Suffix(name[at..].to_owned())));
    }
    wider
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Decode, Diagnostics, Item, Place, Reader, SourceId, Sources, Text, Value};

    fn matchers(host: &str, path: &str) -> Matchers {
        let place = Place::new(SourceId(0), 0..0);
        let text = |text: &str| Item { place, value: Value::String(Text { written: text.into(), value: text.into() }) };
        let (mut found, sources) = (Diagnostics::default(), Sources::default());
        let reader = &mut Reader::new(&sources, &mut found);
        Matchers {
            host: vec![HostPattern::decode(&text(host), reader).unwrap()],
            path: vec![PathPattern::decode(&text(path), reader).unwrap()],
            ..Matchers::default()
        }
    }

    #[track_caller]
    fn check(first: (&str, &str), second: (&str, &str), hidden: bool) {
        let mut shadows = Shadows::default();
        assert!(!shadows.hides(&matchers(first.0, first.1)));
        assert_eq!(shadows.hides(&matchers(second.0, second.1)), hidden, "{first:?} before {second:?}");
    }

    #[test]
    fn a_wider_route_hides_a_narrower_one_after_it() {
        check(("*", "*"), ("a.example", "/x"), true);
        check(("a.example", "/t/*"), ("a.example", "/t/x"), true);
        check(("a.example", "/t/*"), ("a.example", "/t"), true);
        check(("*.example", "*"), ("a.b.example", "/t"), true);
        check(("a.example", "/t"), ("a.example", "/t"), true);
    }

    #[test]
    fn a_narrower_or_other_route_hides_nothing() {
        check(("a.example", "/t/x"), ("a.example", "/t/*"), false);
        check(("a.example", "*"), ("b.example", "*"), false);
        check(("*.example", "*"), ("example", "*"), false);
        check(("a.example", "/t"), ("a.example", "/t/*"), false);
        check(("a.example", "~^/t"), ("a.example", "/t"), false);
    }
}
