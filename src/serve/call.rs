//! One request as every attempt at it sees it: what is sent, and under which conditions.
//!
//! Shared and never written, so that two attempts may run at once. Its client is the job's.

use std::cell::Cell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::buffer::Buffers;
use super::compose::{self, Forwarding};
use super::pump::Pump;
use super::side::{Far, Side};
use super::worker::Worker;
use crate::generation::{Form, Listener, Route};
use crate::proto::http1::{BodyFraming, RequestFraming, Span, Version};
use crate::proto::{grpc, request_timeout};
use crate::route::key::{self, Found};
use crate::route::{Captures, Head, Headers};
use crate::upstream::hedge::Hedging;
use crate::upstream::sticky::{self, Stuck};
use crate::upstream::{Aim, Endpoint, EndpointId, Pool};
use crate::value::Address;

#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub worker: &'a Rc<Worker>,
    pub listener: &'a Listener,
    pub head: &'a Head<'a>,
    pub route: &'a Form,
    pub captures: &'a Captures<'a>,
    pub framing: &'a RequestFraming,
    pub version: Version,
    /// What the connection is to go on with, if the endpoint agrees.
    pub upgrade: Option<&'a [u8]>,
    /// The address of the peer itself, which may be a trusted proxy.
    pub peer: Option<IpAddr>,
    pub peer_is_trusted: bool,
    /// When the whole exchange must be over.
    pub deadline: Option<Instant>,
    /// What services on the way tell an endpoint: fields, each a line.
    pub told: &'a [u8],
    /// Whom a shard means among a pool's endpoints.
    pub aim: Option<Aim>,
    /// Its client was told to go on already.
    pub is_continued: bool,
    /// No other endpoint will do.
    pub only: Option<EndpointId>,
    /// It is asked once, whatever the pool says.
    pub is_single: bool,
    /// How it is asked twice, instead of what the pool says; and how often it was, is counted there.
    pub hedging: Option<(&'a Hedging, &'a Cell<u32>)>,
}

impl<'a> Call<'a> {
    /// What binds the request to an endpoint of `pool`.
    pub fn stuck(&self, pool: &Pool) -> Stuck<'a> {
        if let Some(aim) = self.aim {
            return Stuck::Aimed(aim);
        }
        if let Some(only) = self.only {
            return Stuck::Only(only);
        }
        match &pool.policy.sticky {
            None => Stuck::Free,
            Some(sticky::Settings::Cookie { name, .. }) => {
                self.head.headers.cookies(name.as_bytes()).next().map_or(Stuck::Free, Stuck::Token)
            }
            Some(sticky::Settings::Key { by, .. }) => {
                let mut key = Vec::new();
                if key::find(by, self.head, Some(b""), &mut key) == Found::Here {
                    Stuck::Key(sticky::hash(&pool.name, &key))
                } else {
                    Stuck::Free
                }
            }
        }
    }

    /// How a second endpoint is asked.
    pub fn hedging<'p>(&self, pool: &'p Pool) -> Option<&'p Hedging>
    where
        'a: 'p,
    {
        self.hedging.map(|(hedging, _)| hedging).or(pool.hedging.as_deref())
    }

    /// The field that binds the client to this endpoint from now on; empty where it is none.
    pub fn set_cookie(&self, pool: &Pool, endpoint: &Endpoint) -> Vec<u8> {
        let Some((name, token, ttl)) = pool.cookie(endpoint) else { return Vec::new() };
        let mut field = format!("Set-Cookie: {name}={}; Path=/; HttpOnly; SameSite=Lax", String::from_utf8_lossy(&token));
        if let Some(ttl) = ttl {
            let _ = write!(field, "; Max-Age={}", ttl.as_secs().max(1));
        }
        if self.head.scheme == "https" {
            field.push_str("; Secure");
        }
        field.push_str("\r\n");
        field.into_bytes()
    }

    /// Buffers for a connection to an endpoint.
    pub fn stock(&self) -> Rc<Buffers> {
        Rc::clone(&self.worker.stock)
    }

    /// RFC 9110 §9.2.2.
    pub fn is_idempotent(&self) -> bool {
        matches!(self.head.method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
    }

    /// Nothing is lost if it has to be sent twice.
    pub fn is_harmless(&self) -> bool {
        self.is_idempotent() && self.framing.body == BodyFraming::None
    }

    /// Writes the request's head.
    pub fn write_head<E: Far>(&self, endpoint: &Endpoint, out: &mut Vec<u8>) {
        let endpoint_host = match &endpoint.address {
            Address::Unix(_) => "localhost".to_owned(),
            address if self.head.authority.is_empty() => address.to_string(),
            _ => String::new(),
        };
        compose::request(
            &Forwarding {
                head: self.head,
                route: self.route,
                captures: self.captures,
                body: self.framing.body,
                // RFC 9110 §10.1.1: not without a body.
                expects_continue: self.framing.expect_continue && !self.is_continued && self.framing.body != BodyFraming::None,
                upgrade: self.upgrade.filter(|_| E::SWITCHES),
                version: self.version,
                peer: self.peer,
                peer_is_trusted: self.peer_is_trusted,
                endpoint_host: &endpoint_host,
                ours: self.told,
            },
            out,
        );
    }

    /// What moves its body from the client to an endpoint.
    pub fn upload<S: Side, E: Far>(&self) -> Pump<'a> {
        Pump::new(S::decoder(self.framing.body), E::encoder(self.framing.body), self.listener.body.most(), &self.route.request_edits)
    }
}

/// When the whole exchange must be over: by the route, or sooner if the client says so.
pub fn deadline(route: &Route, head: &Head<'_>, version: Version, started: Instant) -> Option<Instant> {
    let grpc = match version {
        Version::Http2 if is_grpc(head.headers) => head.headers.first(b"grpc-timeout").and_then(grpc::timeout),
        _ => None,
    };
    let timeouts = [route.timeout, grpc, client_timeout(head.headers)];
    timeouts.into_iter().flatten().min().and_then(|timeout| started.checked_add(timeout))
}

fn client_timeout(headers: Headers<'_>) -> Option<Duration> {
    const NAME: &[u8] = request_timeout::NAME;
    // Looked for in every request and rarely there: lengths are compared before anything is read.
    let is_it = |name: Span| name.len() == NAME.len() && name.of(headers.bytes).eq_ignore_ascii_case(NAME);
    let field = headers.fields.iter().find(|field| is_it(field.name))?;
    request_timeout::parse(field.value.of(headers.bytes))
}

pub fn is_grpc(headers: Headers<'_>) -> bool {
    headers.first(b"content-type").is_some_and(grpc::is_content_type)
}
