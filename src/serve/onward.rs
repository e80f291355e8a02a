//! What becomes of a request whose way turns out to be closed: the next member of a shard, the control arm of a split, or none.
//!
//! Sends nothing; `exchange` does, once it knows to whom.

use crate::proto::http1::{BodyFraming, RequestFraming};
use crate::refusal::Refusal;
use crate::services::shard::OnDown;
use crate::services::split::Split;
use crate::services::{Asked, Body, Decision, Passed, Service, Step, Unwanted, Way};

/// The body of a request that has none.
pub fn nothing_to_read(framing: &RequestFraming) -> Body<'static> {
    if framing.body == BodyFraming::None { Body::Is(b"") } else { Body::Unread }
}

/// Nothing is wrong with the request itself, but there is nobody for it.
pub fn is_of_way(refusal: Refusal) -> bool {
    use Refusal::{ConnectFailed, ConnectTimeout, EndpointReset, KeyMissing, NoEndpoint, ShardDown};
    matches!(refusal, ConnectFailed | ConnectTimeout | EndpointReset | KeyMissing | NoEndpoint | ShardDown)
}

/// Members and arms that one request may find out of reach.
pub const PASSED_MAX: usize = 3;

/// Whom a request goes to that could not reach the last member on its way, or whose answer nobody wanted: then there is no refusal.
#[cold]
pub fn go_on<'g>(
    service: &'g Service,
    refusal: Option<Refusal>,
    asked: &Asked<'g, '_>,
    passed: &mut Vec<Passed<'g>>,
    way: &mut Way<'g>,
) -> Decision<'g> {
    // Of a service whose answer nobody gets, failing to answer is no more.
    if let Some((shard, member, unwanted)) = way.unwanted
        && (refusal.is_none() || unwanted == Unwanted::Everything)
    {
        passed.push(Passed::Member(shard, member));
        way.clear();
        return service.decide(&Asked { passed, ..*asked }, way);
    }
    let refusal = refusal.unwrap_or(Refusal::NoEndpoint);
    let mut refusal_of_way = refusal;
    let turn = way.steps().rev().find_map(|step| match step {
        Step::Shard(step) if step.shard.on_down == OnDown::Fail => {
            refusal_of_way = Refusal::ShardDown;
            None
        }
        // Whoever has no other member to ask leaves nothing to a shard above it, but an arm that is down is down.
        Step::Shard(_) if refusal_of_way == Refusal::ShardDown => None,
        // Where a pool chose, it has asked all that it may.
        Step::Shard(step) => step.member.map(|member| Passed::Member(step.shard, member)),
        Step::Split(step) => Split::passed(step),
        Step::Mirror(_) => None,
    });
    let Some(turn) = turn else { return Decision::Refuse(refusal_of_way) };
    passed.push(turn);
    way.clear();
    match service.decide(&Asked { passed, ..*asked }, way) {
        // Nobody is left to ask.
        Decision::Refuse(Refusal::NoEndpoint) => Decision::Refuse(refusal),
        decision => decision,
    }
}
