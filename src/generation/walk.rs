//! The whole decision about one request: head → route → service → verdict.
//!
//! Synchronous, without sockets and without side effects, so that everything that wants to know
//! where a request goes can ask the code that sends it there.

use super::{Listener, Route};
use crate::refusal::Refusal;
use crate::route::Captures;
use crate::services::{Asked, Decision, Way};

/// Where a request goes, and by which way it got there.
pub struct Walk<'g, 'a> {
    pub route: Option<&'g Route>,
    pub captures: Captures<'a>,
    pub decision: Decision<'g>,
}

impl Listener {
    /// The way from the route to the verdict is written to `way`.
    pub fn walk<'g, 'a>(&'g self, asked: &Asked<'g, 'a>, way: &mut Way<'g>) -> Walk<'g, 'a> {
        let head = asked.head;
        let found = self.table.find(head);
        let captures = found.map_or_else(|| Captures::of(None, head.path), |found| found.captures);
        let route = found.map(|found| &self.routes[found.route]).or(self.fallback.as_ref());
        let decision = route.map_or(Decision::Refuse(Refusal::NoRoute), |route| route.service.decide(asked, way));
        Walk { route, captures, decision }
    }
}

impl Route {
    /// Asks the services once more, now that more is known: a body was read, or somebody could not be reached.
    pub fn decide<'g>(&'g self, asked: &Asked<'g, '_>, way: &mut Way<'g>) -> Decision<'g> {
        way.clear();
        self.service.decide(asked, way)
    }
}
