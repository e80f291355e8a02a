//! What becomes of a request whose way turns out to be closed: the next member of a shard, or none.
//!
//! Sends nothing; `exchange` does, once it knows to whom.

use crate::generation::Route;
use crate::proto::http1::{BodyFraming, RequestFraming};
use crate::refusal::Refusal;
use crate::services::shard::{OnDown, Shard};
use crate::services::{Asked, Body, Decision, Unwanted, Way};

/// The body of a request that has none.
pub fn nothing_to_read(framing: &RequestFraming) -> Body<'static> {
    if framing.body == BodyFraming::None { Body::Is(b"") } else { Body::Unread }
}

/// Nothing is wrong with the request itself, but there is nobody for it.
pub fn is_of_way(refusal: Refusal) -> bool {
    use Refusal::{ConnectFailed, ConnectTimeout, EndpointReset, KeyMissing, NoEndpoint, ShardDown};
    matches!(refusal, ConnectFailed | ConnectTimeout | EndpointReset | KeyMissing | NoEndpoint | ShardDown)
}

/// Members of shards that one request may find out of reach.
pub const PASSED_MAX: usize = 3;

/// Whom a request goes to that could not reach the last member on its way, or whose answer nobody wanted: then there is no refusal.
#[cold]
pub fn go_on<'g>(
    route: &'g Route,
    refusal: Option<Refusal>,
    asked: &Asked<'g, '_>,
    passed: &mut Vec<(&'g Shard, u32)>,
    way: &mut Way<'g>,
) -> Decision<'g> {
    // Of a service whose answer nobody gets, failing to answer is no more.
    if let Some((shard, member, unwanted)) = way.unwanted
        && (refusal.is_none() || unwanted == Unwanted::Everything)
    {
        passed.push((shard, member));
        return route.decide(&Asked { passed, ..*asked }, way);
    }
    let refusal = refusal.unwrap_or(Refusal::NoEndpoint);
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
