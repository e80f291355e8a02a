//! What a new configuration changes, in the operator's words.
//!
//! Compares settings, not text: moving a comment changes nothing.

use super::File;
use super::file::Process;

/// One difference and what it does to traffic.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// Such as `listener edge` or `service app`.
    pub what: String,
    /// `added`, `removed` or `changed`.
    pub kind: &'static str,
    pub effect: &'static str,
}

const IN_PLACE: &str = "in place";
const BINDS: &str = "binds";
const DRAINS: &str = "drains";
const REBINDS: &str = "binds and drains";
const RESTART: &str = "needs a restart";

/// In the order of the new file; what went away comes last.
pub fn changes(old: &File, new: &File) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut push = |what: String, kind, effect| changes.push(Change { what, kind, effect });
    if old.process.workers != new.process.workers {
        push("process workers".to_owned(), "changed", RESTART);
    }
    let in_place = |process: &Process| Process { workers: None, ..process.clone() };
    if in_place(&old.process) != in_place(&new.process) {
        push("process".to_owned(), "changed", IN_PLACE);
    }
    if old.log != new.log {
        push("log".to_owned(), "changed", IN_PLACE);
    }
    if old.admin != new.admin {
        let effect = if old.admin.listen() == new.admin.listen() { IN_PLACE } else { REBINDS };
        push("admin".to_owned(), "changed", effect);
    }
    let name = |listener: &super::listener::Listener| {
        let first = || listener.listen.first().map_or_else(String::new, |listen| listen.0.to_string());
        listener.name.as_ref().map_or_else(first, |name| name.value.0.clone())
    };
    for listener in &new.listeners {
        match old.listeners.iter().find(|other| name(other) == name(listener)) {
            None => push(format!("listener {}", name(listener)), "added", BINDS),
            Some(other) if other.listen != listener.listen => push(format!("listener {}", name(listener)), "changed", REBINDS),
            Some(other) if other != listener => push(format!("listener {}", name(listener)), "changed", IN_PLACE),
            Some(_) => {}
        }
    }
    for (service, settings) in &new.services {
        match old.services.get(service) {
            None => push(format!("service {}", service.value), "added", IN_PLACE),
            Some(other) if other != settings => push(format!("service {}", service.value), "changed", IN_PLACE),
            Some(_) => {}
        }
    }
    for listener in old.listeners.iter().filter(|l| !new.listeners.iter().any(|other| name(other) == name(l))) {
        push(format!("listener {}", name(listener)), "removed", DRAINS);
    }
    for service in old.services.keys().filter(|service| !new.services.contains_key(*service)) {
        push(format!("service {}", service.value), "removed", IN_PLACE);
    }
    changes
}
