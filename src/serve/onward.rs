//! What becomes of a request whose way turns out to be closed: the next member of a shard, or none.
//!
//! Sends nothing; `exchange` does, once it knows to whom.

use crate::generation::Route;
use crate::proto::http1::{BodyFraming, RequestFraming};
use crate::refusal::Refusal;
use crate::services::shard::{OnDown, Shard};
use crate::services::{Asked, Decision, Way};

/// The body of a request that has none.
pub fn nothing_to_read(framing: &RequestFraming) -> Option<&'static [u8]> {
    (framing.body == BodyFraming::None).then_some(b"")
}

/// Members of shards that one request may find out of reach.
pub const PASSED_MAX: usize = 3;

/// Whom a request goes to that could not reach the last member on its way.
#[cold]
pub fn go_on<'g>(
    route: &'g Route,
    refusal: Refusal,
    asked: &Asked<'g, '_>,
    passed: &mut Vec<(&'g Shard, u32)>,
    way: &mut Way<'g>,
) -> Decision<'g> {
    // Where a pool chose, it has asked all that it may.
    let turn = way.steps().rev().find(|step| step.shard.on_down == OnDown::Fail || step.member.is_some());
    let Some((shard, member)) = turn.map(|step| (step.shard, step.member)) else { return Decision::Refuse(refusal) };
    let (OnDown::Next, Some(member)) = (shard.on_down, member) else { return Decision::Refuse(Refusal::ShardDown) };
    passed.push((shard, member));
    match route.decide(&Asked { passed, ..*asked }, way) {
        // Nobody is left to ask.
        Decision::Refuse(Refusal::NoEndpoint) => Decision::Refuse(refusal),
        decision => decision,
    }
}
