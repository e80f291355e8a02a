//! The whole decision about one request: head → route → service → verdict.
//!
//! Synchronous, without sockets and without side effects, so that everything that wants to know
//! where a request goes can ask the code that sends it there.

use super::{Listener, Route};
use crate::refusal::Refusal;
use crate::route::{Captures, Head};
use crate::services::{Asked, Decision, Service, Way};

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
        let (route, captures) = self.find(head);
        let decision = route.map_or(Decision::Refuse(Refusal::NoRoute), |route| route.service.decide(asked, way));
        Walk { route, captures, decision }
    }
}

impl Listener {
    /// The route that takes a request, if one does, and what its stars stand for.
    #[inline]
    pub fn find<'a>(&self, head: &Head<'a>) -> (Option<&Route>, Captures<'a>) {
        let found = self.table.find(head);
        let captures = found.map_or_else(|| Captures::of(None, head.path), |found| found.captures);
        (found.map(|found| &self.routes[found.route]).or(self.fallback.as_ref()), captures)
    }

    /// Every route with the first of its predicates that does not hold, in order. The first without one is where the walk goes.
    pub fn reasons<'g>(&'g self, head: &Head<'_>) -> impl Iterator<Item = (&'g Route, Option<String>)> {
        let why_not = |index: usize| self.table.matchers(index).and_then(|matchers| matchers.why_not(head));
        let reasons: Vec<Option<String>> = (0..self.routes.len()).map(why_not).collect();
        self.routes.iter().zip(reasons)
    }
}

impl Route {
    /// Who answers.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Asks the services once more, now that more is known: a body was read, or somebody could not be reached.
    pub fn decide<'g>(&'g self, asked: &Asked<'g, '_>, way: &mut Way<'g>) -> Decision<'g> {
        way.clear();
        self.service.decide(asked, way)
    }
}
