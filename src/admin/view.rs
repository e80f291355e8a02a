//! The JSON of the admin API: its wire contract, apart from the types that serve.
//!
//! Computes nothing that serving needs.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::supervisor::{Handle, Phase};
use crate::upstream::Pool;

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
                json!({
                    "name": member.endpoint.name,
                    "address": member.endpoint.address.to_string(),
                    "tls": member.endpoint.tls.is_some(),
                    "weight": member.weight,
                    "healthy": member.endpoint.is_open(),
                    "state": member.endpoint.state(),
                    "in_flight": member.endpoint.in_flight(),
                })
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
    Value::Array(pools.collect())
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

fn rfc3339(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)).map_or_else(|_| String::new(), |at| at.to_string())
}
