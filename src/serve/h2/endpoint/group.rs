//! The connections that a worker has with each endpoint, and who may open another.
//!
//! An [`EndpointId`] stands for one TLS identity as well, so that what was made under one is never used under another. Dials
//! nothing: `connect` does, one at a time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Notify;

use super::connection::{Connection, Place};
use crate::refusal::Refusal;
use crate::upstream::EndpointId;

/// Connections with one endpoint; requests that find no room in them wait.
const CONNECTIONS_MAX: usize = 64;

/// All of a worker's.
#[derive(Default)]
pub struct Connections {
    by_endpoint: RefCell<HashMap<EndpointId, Rc<Group>, foldhash::fast::FixedState>>,
}

impl Connections {
    pub fn with(&self, endpoint: EndpointId) -> Rc<Group> {
        Rc::clone(self.by_endpoint.borrow_mut().entry(endpoint).or_default())
    }

    /// Has connections end with their last stream that belong to an endpoint that is no more.
    pub fn sweep(&self, is_known: impl Fn(EndpointId) -> bool) {
        self.by_endpoint.borrow_mut().retain(|&endpoint, group| {
            let is_known = is_known(endpoint);
            if !is_known {
                group.retire();
            }
            is_known
        });
    }

    /// Ends one connection to any of these endpoints that carries nothing, to make room for another. It closes in a moment.
    pub fn evict(&self, mut endpoints: impl Iterator<Item = EndpointId>) -> bool {
        let by_endpoint = self.by_endpoint.borrow();
        endpoints.any(|endpoint| by_endpoint.get(&endpoint).is_some_and(|group| group.evict()))
    }

    /// No connection is here to be swept.
    pub fn is_empty(&self) -> bool {
        self.by_endpoint.borrow().values().all(|group| group.members.borrow().is_empty())
    }
}

/// Those with one endpoint.
#[derive(Default)]
pub struct Group {
    /// That may take streams.
    members: RefCell<Vec<Rc<Connection>>>,
    /// Whoever waits for room, or for the dial that is going on.
    room: Notify,
    is_dialling: Cell<bool>,
    /// Dials that failed, and how the last one did.
    failed: Cell<(u64, Option<Refusal>)>,
    /// What TLS agreed on last: nobody can share a connection then, and nobody waits for one.
    is_http1: Cell<bool>,
}

impl Group {
    /// A place on a connection with room. `is_certain`: not on an idle one that may be at its end, for a request that cannot
    /// be sent twice.
    pub fn take(self: &Rc<Self>, is_certain: bool, now: Instant) -> Option<Place> {
        let mut members = self.members.borrow_mut();
        members.retain(|connection| connection.is_usable(now));
        let found = members.iter().find(|connection| connection.has_room() && (!is_certain || connection.is_silent_for_certain()))?;
        Some(Place::new(found, self))
    }

    pub fn add(self: &Rc<Self>, connection: &Rc<Connection>) -> Place {
        self.members.borrow_mut().push(Rc::clone(connection));
        Place::new(connection, self)
    }

    /// No new streams on this one.
    pub fn remove(&self, connection: &Rc<Connection>) {
        self.members.borrow_mut().retain(|member| !Rc::ptr_eq(member, connection));
        // There may be room for another.
        self.room.notify_one();
    }

    fn evict(&self) -> bool {
        let mut members = self.members.borrow_mut();
        let idle = members.iter().position(|connection| connection.is_idle());
        idle.map(|idle| members.remove(idle).retire()).is_some()
    }

    fn retire(&self) {
        for connection in self.members.borrow_mut().drain(..) {
            connection.retire();
        }
    }

    /// The right to dial, if nobody has it, and if there is no connection whose room will be known in a moment.
    pub fn dial(self: &Rc<Self>) -> Option<Dialling> {
        if self.is_http1.get() {
            return Some(Dialling { group: Rc::clone(self), is_alone: false });
        }
        let members = self.members.borrow();
        if self.is_dialling.get() || members.len() >= CONNECTIONS_MAX || members.iter().any(|connection| !connection.has_settings()) {
            return None;
        }
        self.is_dialling.set(true);
        Some(Dialling { group: Rc::clone(self), is_alone: true })
    }

    pub fn failures(&self) -> u64 {
        self.failed.get().0
    }

    /// How a dial failed since there were so many failures.
    pub fn failure_since(&self, failures: u64) -> Option<Refusal> {
        let (now, refusal) = self.failed.get();
        refusal.filter(|_| now != failures)
    }

    /// Returns when it is worth to look again.
    pub async fn changed(&self) {
        self.room.notified().await;
    }

    /// Room for one more.
    pub(super) fn has_room(&self) {
        self.room.notify_one();
    }

    /// Room for many, or none for anybody.
    pub(super) fn has_changed(&self) {
        self.room.notify_waiters();
    }
}

/// The right to dial; given back when dropped, however the dial ends.
pub struct Dialling {
    group: Rc<Group>,
    is_alone: bool,
}

impl Dialling {
    pub fn agreed_on_http1(self, is_http1: bool) {
        self.group.is_http1.set(is_http1);
    }

    /// Whoever waited for this dial need not try again.
    pub fn failed(self, refusal: Refusal) {
        let (count, _) = self.group.failed.get();
        self.group.failed.set((count + 1, Some(refusal)));
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if self.is_alone {
            self.group.is_dialling.set(false);
            self.group.has_changed();
        }
    }
}
