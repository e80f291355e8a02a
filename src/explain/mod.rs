//! Why a request would go where it goes, and what another configuration would change: the code that serves, asked without a client.
//!
//! Sends nothing and counts nothing.

mod plan;
mod request;

use std::net::IpAddr;
use std::time::{Duration, Instant};

pub use plan::{Balance, Given, Move, Mover, Moves, Plan, Share, plan};
pub use request::{Asked, Wrong};
use serde::Serialize;

use crate::algo::split::BUCKETS;
use crate::config::listener::Protocol;
use crate::generation::{Generation, Listener, Route, Walk};
use crate::proto::http1::{BodyFraming, Version};
use crate::refusal::Refusal;
use crate::route::{Head, HeadLookup, Headers};
use crate::serve::check::{Checked, Handshake, check};
use crate::serve::compose::{self, Forwarding};
use crate::services::shard::{self, Members, OnDown};
use crate::services::{self, Body, Decision, Unwanted, Way, mirror, split};
use crate::upstream::{Aim, Pool, sticky};

/// One request, explained.
#[derive(Debug, Serialize)]
pub struct Explanation {
    pub method: String,
    pub url: String,
    pub client: IpAddr,
    pub listener: ListenerPart,
    /// In the order of the file; none if the request is refused before.
    pub routes: Vec<RoutePart>,
    /// The route that won; none of `routes` if it is the listener's own service.
    pub route: Option<String>,
    /// From the route's service to whoever answers.
    pub way: Vec<Step>,
    /// What a migration makes of this request.
    pub migration: Option<String>,
    pub verdict: Verdict,
    /// What an endpoint is sent.
    pub sends: Option<Sends>,
    /// What is done to its answer.
    pub answer: Option<Edits>,
    pub timeouts: Vec<Timeout>,
}

#[derive(Debug, Serialize)]
pub struct ListenerPart {
    pub name: String,
    pub listen: Vec<String>,
    pub tls: bool,
    /// Others that such a request could come to.
    pub others: Vec<String>,
    /// What about the URL it does not have.
    pub note: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct RoutePart {
    pub name: String,
    /// `won`, `lost`, or `not asked` behind the one that won.
    pub outcome: &'static str,
    /// Why it lost.
    pub why: Option<String>,
}

/// One service on the way.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Step {
    Shard {
        service: String,
        method: &'static str,
        /// Without one, any member.
        key: Option<String>,
        hash: u64,
        /// Whom it goes to; where that is not whom the key belongs to, the first of `order` is.
        member: Option<String>,
        /// The first in the key's order.
        order: Vec<String>,
        on_down: &'static str,
        /// Members that share the key's reads, if it is hot.
        spread: u32,
    },
    Split {
        service: String,
        /// Without one, any arm.
        key: Option<String>,
        arm: String,
        /// Whose request it is, where `arm` only helps out.
        instead_of: Option<String>,
        because: &'static str,
        arms: Vec<ArmPart>,
    },
    Mirror {
        service: String,
        /// Whom a copy goes to, if this request is copied.
        copy: Option<String>,
        /// Of the requests that could be.
        share: f64,
    },
    Pool {
        service: String,
        balance: &'static str,
        /// What binds the request to one endpoint.
        bound_by: Option<String>,
        endpoints: Vec<EndpointPart>,
    },
}

#[derive(Debug, Serialize)]
pub struct ArmPart {
    pub name: String,
    /// Of all, 0 to 1.
    pub share: f64,
}

#[derive(Debug, Serialize)]
pub struct EndpointPart {
    pub name: String,
    pub address: String,
    /// `up`, or why not; `unknown` outside of the process that serves.
    pub state: &'static str,
    pub weight: u32,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Verdict {
    /// `endpoint` if it is known before the turn comes.
    Forward {
        service: String,
        endpoint: Option<String>,
    },
    Respond {
        status: u16,
    },
    Redirect {
        status: u16,
        to: String,
    },
    Refuse {
        status: u16,
        reason: &'static str,
        phrase: &'static str,
    },
    /// All of these are asked; in mode `each`, the one is, once for each item.
    Scatter {
        service: String,
        mode: &'static str,
        leaves: Vec<String>,
    },
    /// attache says what it knows of these.
    Report {
        service: String,
        of: Vec<String>,
    },
    /// The key is in a body, and none was given.
    Body {
        most: u64,
    },
}

/// A head as it goes out, and how it differs from what came.
#[derive(Debug, Serialize)]
pub struct Sends {
    pub line: String,
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Edits {
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Timeout {
    pub name: &'static str,
    pub seconds: f64,
}

/// Members of a key's order that are shown: whom it belongs to, and the next two.
const SHOWN: usize = 3;

/// Explains what `generation` would do. `is_serving`: it does, and knows who is up.
pub fn explain(generation: &Generation, asked: &Asked, is_serving: bool) -> Result<Explanation, Wrong> {
    let (listener, others) = asked.listener(generation)?;
    let bytes = asked.bytes();
    let parsed = Asked::parsed(&bytes, listener);
    let facts = asked.facts(listener);
    let mut compare_path = Vec::new();
    let handshake = Handshake { facts: facts.as_ref(), policy: listener.tls.as_ref().map_or(0, |tls| tls.client_policy()) };
    let checked =
        parsed.as_ref().map_err(|refusal| *refusal).and_then(|request| check(request, &bytes, listener, handshake, &mut compare_path));
    let mut explanation = Explanation {
        method: asked.method.clone(),
        url: asked.url.clone(),
        client: asked.client,
        listener: ListenerPart {
            name: listener.name.clone(),
            listen: listener.sockets.iter().map(|socket| socket.address.to_string()).collect(),
            tls: listener.tls.is_some(),
            others,
            note: note(asked, listener),
        },
        routes: Vec::new(),
        route: None,
        way: Vec::new(),
        migration: None,
        verdict: Verdict::Respond { status: 0 },
        sends: None,
        answer: None,
        timeouts: Vec::new(),
    };
    let (Ok(request), Ok(checked)) = (&parsed, &checked) else {
        explanation.verdict = refused(checked.err().unwrap_or(Refusal::BadHead));
        return Ok(explanation);
    };
    let headers = Headers { bytes: &bytes, fields: &request.fields };
    let Checked { authority, host, path, query, .. } = *checked;
    let head = Head {
        method: asked.method.as_bytes(),
        scheme: if listener.tls.is_some() { "https" } else { "http" },
        authority,
        host,
        path,
        query,
        compare_path: if compare_path.is_empty() { path } else { &compare_path },
        headers,
        client: Some(asked.client),
        tls: facts.as_ref(),
        request_id: b"-",
        listener: &listener.name,
    };
    let mut way = Way::default();
    let now = Instant::now();
    let body = match &asked.body {
        Some(body) => Body::Is(body),
        None if checked.framing.body == BodyFraming::None => Body::Is(b""),
        None => Body::Unread,
    };
    let Walk { route, captures, decision } =
        listener.walk(&services::Asked { head: &head, now, worker: 0, dice: 0, body, passed: &[] }, &mut way);
    explanation.routes = routes(listener, &head, route);
    explanation.route = route.map(|route| route.name.clone());
    explanation.way = way
        .steps()
        .map(|step| match step {
            services::Step::Shard(step) => shard_of(step, &way, &decision, now),
            services::Step::Split(step) => split_of(step, &way),
            services::Step::Mirror(step) => mirror_of(step),
        })
        .collect();
    explanation.migration = migration(&way);
    explanation.verdict = verdict(&decision, route, &head, now);
    if let (Decision::Forward(pool, _), Some(route)) = (&decision, route) {
        explanation.way.push(pool_of(pool, is_serving));
        let told = way.told(head.scheme == "https");
        let forwarding = Forwarding {
            head: &head,
            route,
            captures: &captures,
            body: checked.framing.body,
            expects_continue: false,
            upgrade: None,
            version: Version::Http11,
            peer: Some(asked.client),
            peer_is_trusted: false,
            endpoint_host: "",
            ours: &told.to_endpoint,
        };
        explanation.sends = Some(sends(&forwarding, &bytes));
        explanation.timeouts = timeouts(route, pool);
    }
    explanation.answer = route.map(|route| answer(route, &head)).filter(|edits| !edits.added.is_empty() || !edits.removed.is_empty());
    Ok(explanation)
}

fn note(asked: &Asked, listener: &Listener) -> Option<String> {
    let spoken = if listener.tls.is_some() { "https" } else { "http" };
    (asked.scheme != spoken).then(|| format!("it speaks {spoken}: {} is what something before it has", asked.scheme))
}

fn refused(refusal: Refusal) -> Verdict {
    Verdict::Refuse { status: refusal.status().code(), reason: refusal.label(), phrase: refusal.phrase() }
}

fn routes(listener: &Listener, head: &Head<'_>, winner: Option<&Route>) -> Vec<RoutePart> {
    let mut is_over = false;
    let part = |(route, why): (&Route, Option<String>)| {
        let has_won = !is_over && winner.is_some_and(|winner| std::ptr::eq(winner, route));
        let outcome = match (is_over, has_won) {
            (true, _) => "not asked",
            (false, true) => "won",
            (false, false) => "lost",
        };
        is_over |= has_won;
        RoutePart { name: route.name.clone(), outcome, why: why.filter(|_| outcome == "lost") }
    };
    listener.reasons(head).map(part).collect()
}

/// A key's parts are apart by a NUL.
fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key).replace('\0', " + ")
}

fn split_of(step: &split::Step<'_>, way: &Way<'_>) -> Step {
    let split = step.split;
    let name = |arm: u16| split.arms[usize::from(arm)].name.clone();
    let part = |(arm, share): (&split::Arm, u32)| ArmPart { name: arm.name.clone(), share: f64::from(share) / f64::from(BUCKETS) };
    Step::Split {
        service: split.name.clone(),
        key: step.key.as_ref().map(|key| shown(&way.keys[key.clone()])),
        arm: name(step.arm),
        instead_of: step.instead_of.map(name),
        because: step.because.word(),
        arms: split.arms.iter().zip(split.shares()).map(part).collect(),
    }
}

fn mirror_of(step: &mirror::Step<'_>) -> Step {
    let mirror = step.mirror;
    Step::Mirror {
        service: mirror.name.clone(),
        copy: step.is_copied.then(|| mirror.copies.copy_name.clone()),
        share: f64::from(mirror.share) / f64::from(BUCKETS),
    }
}

fn shard_of(step: &shard::Step<'_>, way: &Way<'_>, decision: &Decision<'_>, now: Instant) -> Step {
    let shard = step.shard;
    let member = match (&shard.over, step.member, decision) {
        (Members::Services { members, .. }, Some(member), _) => Some(members[member as usize].name.clone()),
        (Members::Pool { .. }, _, Decision::Forward(pool, Some(aim))) => aimed(pool, *aim, now),
        _ => None,
    };
    Step::Shard {
        service: shard.name.clone(),
        method: shard.method.name(),
        key: step.key.as_ref().map(|key| shown(&way.keys[key.clone()])),
        hash: step.hashed.value,
        member,
        order: if step.key.is_some() { shard.first_members(step.hashed, SHOWN) } else { Vec::new() },
        on_down: if shard.on_down == OnDown::Next { "next" } else { "fail" },
        spread: step.spread,
    }
}

fn migration(way: &Way<'_>) -> Option<String> {
    let who = if way.is_with_old { "the old service" } else { "the new one" };
    match way.unwanted {
        Some((.., Unwanted::Missed)) => Some(format!("{who} is asked, and the old service if it answers 404")),
        Some((.., Unwanted::Everything)) => Some(format!("{who} is told first, and the other one answers")),
        Some((.., Unwanted::Nothing)) | None => way.is_with_old.then(|| format!("{who} answers")),
    }
}

fn aimed(pool: &Pool, aim: Aim, now: Instant) -> Option<String> {
    pool.aimed(aim, now).map(|endpoint| endpoint.name.clone())
}

fn pool_of(pool: &Pool, is_serving: bool) -> Step {
    let bound_by = pool.policy.sticky.as_ref().map(|sticky| match sticky {
        sticky::Settings::Cookie { name, .. } => format!("cookie {name}"),
        sticky::Settings::Key { by, .. } => by
            .first
            .iter()
            .map(|sources| sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(" + "))
            .collect::<Vec<_>>()
            .join(" or "),
    });
    let membership = pool.membership();
    let endpoints = membership.members().iter().map(|member| EndpointPart {
        name: member.endpoint.name.clone(),
        address: member.endpoint.address.to_string(),
        state: if is_serving { member.endpoint.state() } else { "unknown" },
        weight: member.weight,
    });
    Step::Pool { service: pool.name.clone(), balance: pool.policy.balance.word(), bound_by, endpoints: endpoints.collect() }
}

fn verdict(decision: &Decision<'_>, route: Option<&Route>, head: &Head<'_>, now: Instant) -> Verdict {
    match decision {
        Decision::Forward(pool, aim) => {
            let membership = pool.membership();
            let only = match membership.members() {
                [only] => Some(only.endpoint.name.clone()),
                _ => None,
            };
            Verdict::Forward { service: pool.name.clone(), endpoint: aim.and_then(|aim| aimed(pool, aim, now)).or(only) }
        }
        Decision::Answer(respond) => Verdict::Respond { status: respond.status },
        Decision::Redirect(redirect) => {
            let mut to = Vec::new();
            redirect.write(&HeadLookup { head, route: route.map_or("", |route| &route.name) }, &mut to);
            Verdict::Redirect { status: redirect.status, to: String::from_utf8_lossy(&to).into_owned() }
        }
        Decision::Refuse(refusal) => refused(*refusal),
        Decision::Report(adapter) => Verdict::Report { service: adapter.name().to_owned(), of: adapter.parts() },
        Decision::Read(most) => Verdict::Body { most: *most },
        Decision::Scatter(scatter) => {
            let leaves = scatter.leaf_names();
            Verdict::Scatter { service: scatter.name.clone(), mode: scatter.mode.word(), leaves }
        }
    }
}

fn sends(forwarding: &Forwarding<'_>, came: &[u8]) -> Sends {
    let mut out = Vec::new();
    compose::request(forwarding, &mut out);
    let lines = |head: &[u8]| -> Vec<String> {
        String::from_utf8_lossy(head).split("\r\n").skip(1).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let (came, goes) = (lines(came), lines(&out));
    let line = String::from_utf8_lossy(&out).split("\r\n").next().unwrap_or_default().to_owned();
    // Its value is a new one each time.
    let goes: Vec<String> =
        goes.into_iter().map(|line| if line.starts_with("X-Request-Id: ") { "X-Request-Id: …".to_owned() } else { line }).collect();
    Sends {
        line,
        added: goes.iter().filter(|line| !came.contains(line)).cloned().collect(),
        removed: came.iter().filter(|line| !goes.contains(line)).cloned().collect(),
    }
}

fn answer(route: &Route, head: &Head<'_>) -> Edits {
    let mut out = Vec::new();
    route.response_edits.write(&HeadLookup { head, route: &route.name }, &mut out);
    let added: Vec<String> = String::from_utf8_lossy(&out).split("\r\n").filter(|line| !line.is_empty()).map(str::to_owned).collect();
    let is_anew = |name: &String| added.iter().any(|line| line.split_once(':').is_some_and(|(other, _)| other == name));
    let removed = route.response_edits.dropped().filter(|name| !is_anew(name)).collect();
    Edits { added, removed }
}

fn timeouts(route: &Route, pool: &Pool) -> Vec<Timeout> {
    let per_try = pool.policy.retry.as_ref().and_then(|retry| retry.per_try);
    let all: [(&'static str, Option<Duration>); 5] = [
        ("route", route.timeout),
        ("per try", per_try),
        ("connect", Some(pool.policy.timeouts.connect)),
        ("response", Some(pool.policy.timeouts.response)),
        ("idle", Some(pool.policy.timeouts.idle)),
    ];
    all.into_iter().filter_map(|(name, timeout)| Some(Timeout { name, seconds: timeout?.as_secs_f64() })).collect()
}

/// Listeners that speak HTTP.
fn http(generation: &Generation) -> impl Iterator<Item = &Listener> {
    generation.listeners.iter().map(|listener| &**listener).filter(|listener| listener.protocol == Protocol::Http)
}
