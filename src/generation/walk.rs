//! The whole decision about one request: head → route → service → verdict.
//!
//! Synchronous, without sockets and without side effects, so that everything that wants to know
//! where a request goes can ask the code that sends it there.

use super::{Listener, Route};
use crate::refusal::Refusal;
use crate::route::{Captures, Head};
use crate::services::Decision;

/// Where a request goes, and by which way it got there.
pub struct Walk<'g, 'a> {
    pub route: Option<&'g Route>,
    pub captures: Captures<'a>,
    pub decision: Decision<'g>,
}

impl Listener {
    pub fn walk<'g, 'a>(&'g self, head: &Head<'a>) -> Walk<'g, 'a> {
        let found = self.table.find(head);
        let captures = found.map_or_else(|| Captures::of(None, head.path), |found| found.captures);
        let route = found.map(|found| &self.routes[found.route]).or(self.fallback.as_ref());
        let decision = route.map_or(Decision::Refuse(Refusal::NoRoute), |route| route.service.decide());
        Walk { route, captures, decision }
    }
}
