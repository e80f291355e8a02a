//! What a listener's protocol makes of its other keys: some mean nothing to it, some have another default.
//!
//! Looks at the document, since settings do not tell what was written from what is a default.

use std::time::Duration;

use super::listener::{Listener, Protocol};
use crate::services;
use crate::value::{Entry, Item, Reader, Spanned, Table, Value};

/// How long a stream may carry nothing, and how long a side may take nothing. What is silent here is often meant to be:
/// pooled connections, subscriptions.
const STREAM_SILENCE: Duration = Duration::from_secs(3600);

/// Keys that speak of requests, by the table they stand in.
const OF_REQUESTS: &[(&str, &[&str])] = &[
    ("", &["trust", "paths"]),
    ("limits", &["header_bytes", "headers", "uri_bytes", "body", "streams"]),
    ("timeouts", &["header", "body"]),
];
/// The same of a route.
const OF_REQUESTS_IN_ROUTES: &[&str] =
    &["host", "path", "method", "header", "query", "cookie", "timeout", "rewrite", "request_headers", "response_headers"];

/// Reports what does not go together in `written`, which reads as `listener`, and fits the defaults to the protocol.
pub(super) fn fit(written: &Item, listener: &mut Listener, reader: &mut Reader<'_>) {
    let Value::Table(table) = &written.value else { return };
    match listener.protocol {
        Protocol::Http => refuse_sni(table, reader),
        Protocol::Tcp => {
            refuse_keys_of_requests(table, reader);
            fit_to_streams(table, listener);
        }
    }
}

fn refuse_sni(listener: &Table, reader: &mut Reader<'_>) {
    for entry in routes(listener).filter_map(|route| route.entries.get("sni")) {
        reader
            .error(entry.key_place, "`sni` is for listeners with protocol = \"tcp\"; this one speaks HTTP, whose requests name their host")
            .help("write host = […]");
    }
}

fn refuse_keys_of_requests(listener: &Table, reader: &mut Reader<'_>) {
    for (name, keys) in OF_REQUESTS {
        let table = if name.is_empty() { Some(listener) } else { below(listener, name) };
        for (key, entry) in keys.iter().filter_map(|&key| Some((key, table?.entries.get(key)?))) {
            refuse(key, entry, "remove it", reader);
        }
    }
    for route in routes(listener) {
        for (key, entry) in OF_REQUESTS_IN_ROUTES.iter().filter_map(|&key| Some((key, route.entries.get(key)?))) {
            let help = if key == "host" { "write sni = […]" } else { "remove it; streams are told apart by `sni` and `client`" };
            refuse(key, entry, help, reader);
        }
        for (key, entry) in services::KINDS.iter().filter_map(|&key| Some((key, route.entries.get(key)?))) {
            refuse(key, entry, "write service = \"10.0.0.1:5432\", or the name of a pool", reader);
        }
    }
}

fn refuse(key: &str, entry: &Entry, help: &str, reader: &mut Reader<'_>) {
    reader.error(entry.key_place, format!("`{key}` is about HTTP requests; a listener with protocol = \"tcp\" has none")).help(help);
}

fn fit_to_streams(written: &Table, listener: &mut Listener) {
    let is_written = |table: &str, key: &str| below(written, table).is_some_and(|table| table.entries.contains_key(key));
    if !is_written("timeouts", "idle") {
        listener.timeouts.idle = STREAM_SILENCE;
    }
    if !is_written("timeouts", "write") {
        listener.timeouts.write = STREAM_SILENCE;
    }
    // Nobody knows what is spoken inside, and a handshake fails where nothing is in common.
    if let Some(Spanned { value: tls, .. }) = &mut listener.tls
        && !is_written("tls", "alpn")
    {
        tls.alpn = Vec::new();
    }
}

fn below<'t>(table: &'t Table, key: &str) -> Option<&'t Table> {
    match &table.entries.get(key)?.item.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

fn routes(listener: &Table) -> impl Iterator<Item = &Table> {
    let written = listener.entries.get("route").map(|entry| &entry.item);
    let items = match written.map(|item| &item.value) {
        Some(Value::Array(items)) => items.as_slice(),
        _ => written.map_or(&[][..], std::slice::from_ref),
    };
    items.iter().filter_map(|item| match &item.value {
        Value::Table(table) => Some(table),
        _ => None,
    })
}
