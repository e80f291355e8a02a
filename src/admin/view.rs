//! The JSON of the admin API: its wire contract, apart from the types that serve.
//!
//! Computes nothing that serving needs.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::algo::split::BUCKETS;
use crate::services::Service;
use crate::services::mirror::{Example, Mirror, Reported};
use crate::services::scatter::{Leaves, Scatter};
use crate::services::shard::{Members, Shard};
use crate::services::split::ramp::{Moment, Ramp, Summary};
use crate::services::split::{Arm, Split};
use crate::supervisor::{Handle, Phase};
use crate::upstream::health::Finding;
use crate::upstream::{Bar, Endpoint, Member, Policy, Pool};

pub(super) fn status(handle: &Handle) -> Value {
    let generation = handle.live.pin();
    let last = handle.last_reload();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": generation.number,
        "hash": generation.hash,
        "loaded_at": rfc3339(generation.loaded_at),
        "last_reload": { "ok": last.ok, "at": rfc3339(last.at), "errors": last.errors },
        "uptime": SystemTime::now().duration_since(handle.started).unwrap_or_default().as_secs_f64(),
        "phase": match handle.phase() {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::LameDuck => "lame-duck",
            Phase::Draining => "draining",
        },
        "warnings": generation.warnings,
    })
}

pub(super) fn listeners(handle: &Handle) -> Value {
    let generation = handle.live.pin();
    let listeners = generation.listeners.iter().map(|listener| {
        let addresses: Vec<String> =
            listener.sockets.iter().map(|key| handle.local_address(key).unwrap_or_else(|| key.address.to_string())).collect();
        let certificates: Vec<Value> = listener
            .tls
            .iter()
            .flat_map(|tls| tls.certificates())
            .map(|certificate| json!({ "name": certificate.name, "names": certificate.hosts, "not_after": certificate.not_after, "serial": certificate.serial }))
            .collect();
        json!({
            "name": listener.name,
            "listen": addresses,
            "protocol": listener.protocol.word(),
            "tls": listener.tls.is_some(),
            "certificates": certificates,
            "connections": listener.metrics.connections(),
            "routes": listener.route_names().collect::<Vec<_>>(),
        })
    });
    Value::Array(listeners.collect())
}

pub(super) fn services(handle: &Handle) -> Value {
    let generation = handle.live.pin();
    let pools = generation.pools.iter().map(|named| {
        let endpoints: Vec<Value> = named
            .pool
            .membership()
            .members()
            .iter()
            .map(|member| {
                let mut endpoint = json!({
                    "name": member.endpoint.name,
                    "address": member.endpoint.address.to_string(),
                    "tls": member.endpoint.tls.is_some(),
                    "weight": member.weight,
                    "healthy": member.endpoint.is_open(),
                    "state": member.endpoint.state(),
                    "in_flight": member.endpoint.in_flight(),
                });
                if let Value::Object(fields) = &mut endpoint {
                    fields.extend(probed(&member.endpoint, &named.pool.policy));
                }
                endpoint
            })
            .collect();
        let mut pool = json!({
            "name": named.pool.name,
            "kind": "pool",
            "balance": named.settings.policy.balance.word(),
            "endpoints": endpoints,
            "discovered": discovered(&named.pool),
        });
        if let Some(admission) = &named.pool.admission {
            let (inside, waiting, most) = admission.counts();
            pool["in_flight"] = inside.into();
            pool["waiting"] = waiting.into();
            pool["requests_max"] = most.into();
        }
        pool
    });
    let now = Instant::now();
    let others = generation.others.iter().map(|other| match &*other.service {
        Service::Shard(shard) => shard_of(shard, now),
        Service::Split(split) => split_of(split, now),
        Service::Mirror(mirror) => mirror_of(mirror, now),
        Service::Scatter(scatter) => scatter_of(scatter, now),
        Service::Logs(logs) => {
            let sources: Vec<String> = logs.flow.settings.from.value.iter().map(crate::services::logs::SourceSettings::label).collect();
            let sinks: Vec<&str> = logs.flow.settings.to.iter().map(crate::services::logs::SinkSettings::word).collect();
            json!({ "name": other.name, "kind": "logs", "sources": sources, "sinks": sinks })
        }
        Service::Metrics(metrics) => {
            let sources: Vec<&str> = metrics.sources.iter().map(|source| source.name.as_str()).collect();
            json!({ "name": other.name, "kind": "metrics", "sources": sources })
        }
        Service::Health(health) => {
            let mut view = health.view(now);
            view["name"] = other.name.clone().into();
            view["kind"] = "health".into();
            view
        }
        service => json!({ "name": other.name, "kind": service.word() }),
    });
    Value::Array(pools.chain(others).collect())
}

fn split_of(split: &Split, now: Instant) -> Value {
    let shares = split.shares();
    let arm = |(arm, share): (&Arm, u32)| json!({ "name": arm.name, "share": fraction(share), "healthy": arm.service.may_serve(now) });
    let arms: Vec<Value> = split.arms.iter().zip(shares).map(arm).collect();
    json!({
        "name": split.name,
        "kind": "split",
        "control": split.arms[usize::from(split.control)].name,
        "arms": arms,
        "ramp": split.ramp().map(|ramp| ramp_of(split, ramp)),
    })
}

/// Of millionths.
fn fraction(share: u32) -> f64 {
    f64::from(share) / f64::from(BUCKETS)
}

/// How the ramp of a split is getting on. `None` if there is no such split, an empty object if it has no ramp.
pub(super) fn ramp(handle: &Handle, name: &str) -> Option<Value> {
    let generation = handle.live.pin();
    let split = generation.split(name)?;
    Some(split.ramp().map_or_else(|| json!({}), |ramp| ramp_of(split, ramp)))
}

fn ramp_of(split: &Split, ramp: &Ramp) -> Value {
    let at = Moment::read();
    let view = ramp.view(at);
    let seconds = |duration: Duration| duration.as_secs_f64();
    let summary = |summary: &Summary| json!({ "requests": summary.requests, "errors": summary.errors, "p99": summary.p99.map(seconds) });
    json!({
        "arm": ramp.settings.arm.value.0,
        "phase": view.phase.word(),
        "step": view.step + 1,
        "steps": ramp.settings.steps.value.iter().map(|step| fraction(step.value.millionths())).collect::<Vec<_>>(),
        "share": fraction(view.share),
        "every": seconds(ramp.settings.every),
        "next_in": view.left.map(seconds),
        "windows": view.judged,
        "bad_windows": view.bad,
        "reason": view.reason,
        "last_window": view.last.as_ref().map(|last| json!({
            "at": rfc3339(last.at),
            "arm": summary(&last.arm),
            "control": summary(&last.control),
            "complaint": last.complaint,
        })),
        "keys": split.arms.iter().map(|arm| arm.name.as_str()).zip(ramp.census.counts(split.arms.len())).collect::<HashMap<_, _>>(),
        "mismatch": ramp.mismatch(&split.shares()),
    })
}

fn scatter_of(scatter: &Scatter, now: Instant) -> Value {
    let leaves: Vec<Value> = match &scatter.leaves {
        Leaves::Services(leaves) => {
            leaves.iter().map(|leaf| json!({ "name": leaf.name, "healthy": leaf.service.may_serve(now) })).collect()
        }
        Leaves::Pool(_) => scatter.leaf_names().into_iter().map(|name| json!({ "name": name })).collect(),
    };
    json!({ "name": scatter.name, "kind": "scatter", "mode": scatter.mode.word(), "leaves": leaves })
}

fn mirror_of(mirror: &Mirror, now: Instant) -> Value {
    json!({
        "name": mirror.name,
        "kind": "mirror",
        "to": mirror.to_name,
        "copy": mirror.copies.copy_name,
        "share": fraction(mirror.share),
        "in_flight": mirror.copies.in_flight(),
        "compares": mirror.copies.comparing.is_some(),
        "healthy": mirror.to.may_serve(now),
        "copy_healthy": mirror.copies.copy.may_serve(now),
    })
}

/// In what answers to copies differ. `None` if there is no such mirror.
pub(super) fn differences(handle: &Handle, name: &str) -> Option<Value> {
    let generation = handle.live.pin();
    let mirror = generation.mirror(name)?;
    let Some(comparing) = &mirror.copies.comparing else {
        return Some(
            json!({ "service": name, "compared": 0, "detail": "write compare = { status = true, json = true } in this mirror", "differences": [], "noise": [] }),
        );
    };
    let report = comparing.differences.report();
    let example = |example: &Example| json!({ "at": rfc3339(example.at), "request": example.request, "primary": example.primary, "candidate": example.candidate });
    let (real, noise): (Vec<&Reported>, Vec<&Reported>) = report.places.iter().partition(|place| place.is_real);
    let real: Vec<Value> = real
        .iter()
        .map(|place| {
            let examples: Vec<Value> = place.examples.iter().map(example).collect();
            json!({ "path": place.path, "different": place.different, "noise": place.noise, "examples": examples })
        })
        .collect();
    let noise: Vec<Value> =
        noise.iter().map(|place| json!({ "path": place.path, "different": place.different, "noise": place.noise })).collect();
    Some(json!({
        "service": name,
        "compared": report.compared,
        "controlled": report.controlled,
        "untracked": report.elsewhere,
        "differences": real,
        "noise": noise,
    }))
}

fn shard_of(shard: &Shard, now: Instant) -> Value {
    let members: Vec<Value> = match &shard.over {
        Members::Services { members, .. } => members
            .iter()
            .map(|member| json!({ "name": member.name, "weight": member.weight, "healthy": member.service.may_serve(now) }))
            .collect(),
        Members::Pool { pool, .. } => {
            let membership = pool.membership();
            let member =
                |member: &Member| json!({ "name": member.endpoint.name, "weight": member.weight, "healthy": member.endpoint.is_open() });
            membership.members().iter().map(member).collect()
        }
    };
    let pool = match &shard.over {
        Members::Pool { pool, .. } => Some(pool.name.as_str()),
        Members::Services { .. } => None,
    };
    json!({
        "name": shard.name,
        "kind": "shard",
        "method": shard.method.name(),
        "pool": pool,
        "on_down": shard.on_down.word(),
        "members": members,
    })
}

/// Keys that are shown, at most: those that were asked for most.
const HOT_MAX: usize = 100;

/// The most frequent keys of a shard. `None` if there is no such shard.
pub(super) fn hot(handle: &Handle, name: &str) -> Option<Value> {
    let generation = handle.live.pin();
    let shard = generation.shard(name)?;
    let Some(hot) = &shard.hot else {
        return Some(json!({ "service": name, "counted": false, "detail": "write hot = { share = \"1%\" } in this shard", "keys": [] }));
    };
    let (frequent, total) = hot.frequent();
    let share = |count: u64| if total == 0 { 0.0 } else { count as f64 / total as f64 };
    let keys: Vec<Value> = frequent
        .iter()
        .take(HOT_MAX)
        .map(|key| {
            json!({
                "key": String::from_utf8_lossy(&key.text),
                "requests": key.count,
                "share": share(key.count),
                "error": share(key.error),
                "hot": key.is_hot,
                "members": shard.first_members(key.hashed, hot.settings.replicas.0 as usize),
            })
        })
        .collect();
    Some(json!({
        "service": name,
        "counted": true,
        "requests": total,
        "hot_share": hot.settings.share.0.fraction(),
        "replicas": hot.settings.replicas.0,
        "keys": keys,
    }))
}

/// What each place to look for endpoints said, and why the latest look-up failed.
fn discovered(pool: &Pool) -> Value {
    let discovery = pool.discovery();
    let progress = discovery.progress();
    let sources = discovery.sources().iter().zip(&progress).map(|(source, progress)| {
        json!({
            "source": source.to_string(),
            "at": progress.at.map(rfc3339),
            "found": progress.found.len(),
            "error": progress.error,
        })
    });
    Value::Array(sources.collect())
}

/// What probes found, where there are any: when the latest ended, why it failed if it did, and whether it leads.
fn probed(endpoint: &Endpoint, policy: &Policy) -> Map<String, Value> {
    let mut fields = Map::new();
    let health = endpoint.health();
    let findings = [policy.health.as_ref().map(|_| &health.last), policy.leader.as_ref().map(|_| &health.claim.last)];
    if policy.health.is_some() || policy.leader.is_some() {
        let findings: Vec<&Finding> = findings.into_iter().flatten().flatten().collect();
        let at = findings.iter().map(|finding| finding.at).max();
        let at = at.and_then(|at| SystemTime::now().checked_sub(at.elapsed()));
        let reason = findings.iter().find_map(|finding| finding.result.as_ref().err());
        fields.insert("checked_at".to_owned(), at.map_or(Value::Null, |at| rfc3339(at).into()));
        fields.insert("detail".to_owned(), reason.map_or(Value::Null, |reason| reason.as_str().into()));
    }
    if policy.leader.is_some() {
        fields.insert("leads".to_owned(), (!endpoint.has(Bar::Follower)).into());
    }
    fields
}

fn rfc3339(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)).map_or_else(|_| String::new(), |at| at.to_string())
}
