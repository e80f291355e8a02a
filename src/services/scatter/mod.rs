//! One question to many leaves, and one answer of theirs.
//!
//! Decides whom to ask and what their answers come to. Asks nobody: `serve::fan` does.

pub mod merge;
mod settings;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use merge::{Answer, Ask, Merge, Merged, Misfit, line, vote};
pub use settings::{Each, LeafEdits, LeafSettings, Mode, Over, Require, Settings};

use super::{Asked, Body, Decision, Service};
use crate::filters::headers::Edits;
use crate::refusal::Refusal;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::LeafMetrics;
use crate::upstream::Pool;
use crate::upstream::hedge::Hedging;
use crate::value::{LeafTemplate, Template};

/// A compiled scatter.
pub struct Scatter {
    pub name: String,
    pub leaves: Leaves,
    pub mode: Mode,
    pub each: Option<Each>,
    pub merge: Merge,
    pub deadline: Duration,
    pub soft_deadline: Option<Duration>,
    pub require: Require,
    pub canary: usize,
    /// Bytes of one answer, of all, and of the request's own body.
    pub leaf_body: usize,
    pub body: u64,
    pub replay: u64,
    pub edits: Edits,
    pub path: Option<Template>,
    pub fill: Option<String>,
    pub reports: bool,
    metrics: Arc<Metrics>,
}

/// Who is asked.
pub enum Leaves {
    Services(Vec<Leaf>),
    /// Each endpoint that there is at the time.
    Pool(Arc<Service>),
}

pub struct Leaf {
    pub name: String,
    pub service: Arc<Service>,
    pub metrics: Arc<LeafMetrics>,
    /// When another replica of it is asked the same.
    pub hedging: Option<Arc<Hedging>>,
}

impl Scatter {
    /// `leaves` were resolved from the settings, in their order.
    pub fn new(name: &str, settings: &Settings, leaves: Leaves, metrics: Arc<Metrics>) -> Self {
        let LeafEdits { set, add, remove } = &settings.request_headers;
        let template = |template: &LeafTemplate| template.0.clone();
        Self {
            name: name.to_owned(),
            leaves,
            mode: settings.mode.value,
            each: settings.each.as_ref().map(|each| each.value.clone()),
            merge: match (&settings.merge, settings.mode.value) {
                (Some(merge), _) => merge.value.clone(),
                (None, Mode::Quorum) => Merge::Quorum,
                (None, _) => Merge::First,
            },
            deadline: settings.deadline,
            soft_deadline: settings.soft_deadline.as_ref().map(|soft| soft.value),
            require: settings.require.value.clone(),
            canary: settings.canary.0 as usize,
            leaf_body: settings.leaf_body.bytes(),
            body: settings.body.bytes() as u64,
            replay: settings.replay.bytes() as u64,
            edits: Edits::of(
                remove,
                set.iter().map(|(name, value)| (name, template(value))),
                add.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, template(value)))),
            ),
            path: settings.path.as_ref().map(template),
            fill: settings.fill.as_ref().map(|fill| fill.value.0.clone()),
            reports: settings.report,
            metrics,
        }
    }

    /// All leaves get the request's body, so it has to be here.
    pub fn decide<'g>(&'g self, asked: &Asked<'g, '_>) -> Decision<'g> {
        match asked.body {
            Body::Unread => Decision::Read(self.replay),
            Body::TooLong => Decision::Refuse(Refusal::BodyTooLarge),
            Body::Is(_) => Decision::Scatter(self),
        }
    }

    pub(super) fn may_serve(&self, now: Instant) -> bool {
        match &self.leaves {
            Leaves::Services(leaves) => leaves.iter().any(|leaf| leaf.service.may_serve(now)),
            Leaves::Pool(pool) => pool.may_serve(now),
        }
    }

    /// Who is asked, as things are now.
    pub fn leaf_names(&self) -> Vec<String> {
        match &self.leaves {
            Leaves::Services(leaves) => leaves.iter().map(|leaf| leaf.name.clone()).collect(),
            Leaves::Pool(service) => {
                let members = |pool: &Pool| pool.membership().members().iter().map(|member| member.endpoint.name.clone()).collect();
                pool_of(service).map(members).unwrap_or_default()
            }
        }
    }

    /// How this leaf is asked twice.
    pub fn hedging(&self, leaf: &str) -> Option<&Arc<Hedging>> {
        let Leaves::Services(leaves) = &self.leaves else { return None };
        leaves.iter().find(|known| known.name == leaf)?.hedging.as_ref()
    }

    /// What is counted of a leaf that is an endpoint.
    pub fn leaf_metrics(&self, leaf: &str) -> Arc<LeafMetrics> {
        self.metrics.leaf(&self.name, leaf)
    }

    /// Whether so many good answers are enough. `good` tells of each leaf, by its name, whether it has one.
    pub fn is_met(&self, good: &[(&str, bool)]) -> bool {
        let count = good.iter().filter(|(_, is_good)| *is_good).count();
        match &self.require {
            _ if self.mode == Mode::Race => count > 0,
            Require::All => count == good.len(),
            Require::Count(least) => count >= *least && count > 0,
            // As many as the share is of all, rounded up.
            Require::Share(share) => !share_is_missed(share.millionths(), count, good.len()) && count > 0,
            Require::Named { leaves, at_least } => {
                let has = |name: &str| good.iter().any(|(leaf, is_good)| *leaf == name && *is_good);
                count >= *at_least && count > 0 && leaves.iter().all(|leaf| has(&leaf.value))
            }
        }
    }
}

fn share_is_missed(millionths: u32, count: usize, whole: usize) -> bool {
    (count as u128) * 1_000_000 < u128::from(millionths) * whole as u128
}

/// The pool whose endpoints are leaves.
pub fn pool_of(service: &Service) -> Option<&Pool> {
    match service {
        Service::Pool(pool) => Some(pool),
        _ => None,
    }
}
