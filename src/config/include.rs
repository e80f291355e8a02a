//! Documents that a document names: lists of endpoints.
//!
//! Reads no file; `load` does.

use std::path::{Path, PathBuf};

use crate::value::{Item, Place, Sources, Table, Value};

/// Every `discover = { file = "…" }` of a pool: the path, as its settings will ask for it, and where it is written.
pub(super) fn named_documents(document: &Table, sources: &Sources) -> Vec<(PathBuf, Place)> {
    let Some(Value::Table(services)) = document.entries.get("service").map(|entry| &entry.item.value) else { return Vec::new() };
    let mut named = Vec::new();
    for service in services.entries.values() {
        let Value::Table(service) = &service.item.value else { continue };
        let places: &[Item] = match service.entries.get("discover").map(|entry| &entry.item) {
            Some(Item { value: Value::Array(places), .. }) => places,
            Some(place) => std::slice::from_ref(place),
            None => continue,
        };
        named.extend(places.iter().filter_map(|place| file(place, sources)));
    }
    named
}

fn file(discover: &Item, sources: &Sources) -> Option<(PathBuf, Place)> {
    let Value::Table(discover) = &discover.value else { return None };
    let Item { value: Value::String(text), place } = &discover.entries.get("file")?.item else { return None };
    (!text.value.is_empty()).then(|| (sources.directory(place.source).join(&text.value), *place))
}

/// Whether two paths lead to the same file.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().ok().zip(other.canonicalize().ok()).is_some_and(|(one, other)| one == other)
}
