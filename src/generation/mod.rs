//! A compiled configuration: immutable, numbered, shared by every worker.
//!
//! Performs no I/O and knows no sockets; what the supervisor binds, it binds for addresses it reads here.

mod compile;
mod gate;
mod services;
mod shadow;
mod walk;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

pub use compile::{Inputs, compile};
pub use gate::{Gate, Permit};
pub use walk::Walk;

use crate::config::listener::{Paths, Protocol, Timeouts};
use crate::filters::{headers, rewrite};
use crate::proto::http1::Limits;
use crate::route::{Network, Table};
use crate::services::health::Health;
use crate::services::logs::Logs;
use crate::services::metrics::Metrics;
use crate::services::mirror::Mirror;
use crate::services::scatter::Scatter;
use crate::services::shard::Shard;
use crate::services::split::Split;
use crate::services::{Service, pool};
use crate::telemetry::metrics::{ListenerMetrics, RouteMetrics};
use crate::tls::Acceptor;
use crate::upstream::Pool;
use crate::value::{Address, BodyLimit};

/// One configuration, ready to serve.
pub struct Generation {
    pub number: u64,
    /// Hash of the text it was compiled from.
    pub hash: String,
    pub loaded_at: SystemTime,
    pub file: crate::config::File,
    pub listeners: Vec<Arc<Listener>>,
    by_socket: HashMap<SocketKey, Arc<Listener>>,
    /// Pools by service name, in the order of the file.
    pub pools: Vec<NamedPool>,
    /// Services that are no pools: those with names, then those that routes hold.
    pub others: Vec<NamedService>,
    /// For `/config`, as JSON: strings as they were written, secrets hidden. Text, since a tree of a thousand endpoints takes
    /// most of a kilobyte for each.
    pub document: Box<str>,
    pub warnings: Vec<String>,
}

/// A pool and the settings it came from, so that the next generation can tell whether it changed.
pub struct NamedPool {
    pub settings: Arc<pool::Settings>,
    pub pool: Arc<Pool>,
}

/// A service that is no pool. One that is written in a route goes by its listener and its route, as `edge/search`.
pub struct NamedService {
    pub name: String,
    pub service: Arc<Service>,
}

/// What a listening socket is known by across generations: its address as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey {
    pub address: Address,
    /// Tells apart sockets that all asked for any free port; 0 for every other address.
    pub ordinal: u16,
}

pub struct Listener {
    pub name: String,
    pub sockets: Vec<SocketKey>,
    pub protocol: Protocol,
    /// Which way a stream goes is seen in the first bytes of its client's own TLS.
    pub reads_hello: bool,
    /// Permissions for unix sockets.
    pub mode: Option<u32>,
    pub requires_proxy_header: bool,
    pub trust: Vec<Network>,
    pub paths: Paths,
    pub tls: Option<Arc<Acceptor>>,
    pub limits: Limits,
    pub connections_max: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams_max: u32,
    pub gate: Arc<Gate>,
    pub body: BodyLimit,
    pub timeouts: Timeouts,
    table: Table,
    routes: Vec<Route>,
    fallback: Option<Route>,
    pub metrics: Arc<ListenerMetrics>,
    /// Requests that reached no route.
    pub unrouted: Arc<RouteMetrics>,
}

pub struct Route {
    pub form: Form,
    pub service_name: String,
    service: Arc<Service>,
    pub timeout: Option<Duration>,
    pub metrics: Arc<RouteMetrics>,
}

/// What a route does to the messages that go by it. By default nothing: so are requests sent that attache makes itself.
#[derive(Default)]
pub struct Form {
    /// The route's; empty for a listener's own service.
    pub name: String,
    pub rewrite: Option<rewrite::Settings>,
    pub request_edits: headers::Edits,
    pub response_edits: headers::Edits,
}

impl std::ops::Deref for Route {
    type Target = Form;

    fn deref(&self) -> &Form {
        &self.form
    }
}

impl Generation {
    /// The shard of this name.
    pub fn shard(&self, name: &str) -> Option<&Shard> {
        self.others.iter().filter(|other| other.name == name).find_map(|other| match &*other.service {
            Service::Shard(shard) => Some(shard),
            _ => None,
        })
    }

    /// The scatter of this name.
    pub fn scatter(&self, name: &str) -> Option<&Scatter> {
        self.others.iter().filter(|other| other.name == name).find_map(|other| match &*other.service {
            Service::Scatter(scatter) => Some(scatter),
            _ => None,
        })
    }

    pub fn splits(&self) -> impl Iterator<Item = &Split> {
        self.others.iter().filter_map(|other| match &*other.service {
            Service::Split(split) => Some(split),
            _ => None,
        })
    }

    /// The split of this name.
    pub fn split(&self, name: &str) -> Option<&Split> {
        self.splits().find(|split| split.name == name)
    }

    /// The mirror of this name.
    pub fn mirror(&self, name: &str) -> Option<&Mirror> {
        self.others.iter().filter(|other| other.name == name).find_map(|other| match &*other.service {
            Service::Mirror(mirror) => Some(mirror),
            _ => None,
        })
    }

    /// The health report of this name.
    pub fn health(&self, name: &str) -> Option<&Health> {
        self.healths().find(|health| health.name == name)
    }

    pub fn healths(&self) -> impl Iterator<Item = &Health> {
        self.others.iter().filter_map(|other| match &*other.service {
            Service::Health(health) => Some(health),
            _ => None,
        })
    }

    /// The page of metrics of this name.
    pub fn metrics(&self, name: &str) -> Option<&Metrics> {
        self.pages().find(|metrics| metrics.name == name)
    }

    /// Pages of metrics.
    pub fn pages(&self) -> impl Iterator<Item = &Metrics> {
        self.others.iter().filter_map(|other| match &*other.service {
            Service::Metrics(metrics) => Some(metrics),
            _ => None,
        })
    }

    /// The log of this name.
    pub fn log(&self, name: &str) -> Option<&Logs> {
        self.logs().find(|log| log.name == name)
    }

    pub fn logs(&self) -> impl Iterator<Item = &Logs> {
        self.others.iter().filter_map(|other| match &*other.service {
            Service::Logs(logs) => Some(logs),
            _ => None,
        })
    }

    /// Splits with ramps.
    pub fn ramped(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.others
            .iter()
            .map(|other| &other.service)
            .filter(|service| matches!(&***service, Service::Split(split) if split.ramp().is_some()))
    }

    pub fn listener_at(&self, socket: &SocketKey) -> Option<&Arc<Listener>> {
        self.by_socket.get(socket)
    }

    /// Pools of `[admin] ready` in which no endpoint may take requests now.
    pub fn waits_for(&self, now: Instant) -> impl Iterator<Item = &str> {
        let names = self.file.admin.ready().iter().map(|name| name.value.as_str());
        names.filter(move |name| !self.pools.iter().any(|named| named.pool.name == *name && named.pool.is_ready(now)))
    }
}

impl Listener {
    pub fn route_names(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| route.name.as_str())
    }
}

/// The generation that serves now.
pub struct Live {
    current: ArcSwap<Generation>,
    /// Number of `current`; read per request, so that the `Arc` is touched only when it changed.
    number: AtomicU64,
}

impl Live {
    pub fn new(first: Arc<Generation>) -> Self {
        Self { number: AtomicU64::new(first.number), current: ArcSwap::new(first) }
    }

    /// From here on every new request sees `next`.
    pub fn publish(&self, next: Arc<Generation>) {
        debug_assert!(next.number > self.number(), "generations are numbered upwards");
        let number = next.number;
        self.current.store(next);
        self.number.store(number, Ordering::Release);
    }

    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    pub fn pin(&self) -> Arc<Generation> {
        self.current.load_full()
    }
}
