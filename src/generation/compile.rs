//! File to generation, or every reason why not.
//!
//! Reads nothing but what it is given, and once which authorities the machine trusts; carries over what did not change.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::services::{Services, inline_name, listener_name, route_label};
use super::shadow::Shadows;
use super::{Form, Generation, Listener, Route, SocketKey};
use crate::config::listener::{self, Protocol, ProxyProtocol, RouteService};
use crate::config::{File, Parsed};
use crate::filters::headers::Edits;
use crate::proto::http1::Limits;
use crate::route::{Matchers, Table};
use crate::services::Service;
use crate::services::split::ramp::Saved;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Acceptor, Sessions};
use crate::value::{Address, Diagnostics, EarKey, Place, Size, Sources, Spanned};

/// What a compilation starts from beside the file.
pub struct Inputs<'a> {
    pub sources: &'a Sources,
    pub hash: String,
    pub document: serde_json::Value,
    /// Certificates and keys, read before.
    pub read: &'a dyn Fn(&Path) -> std::io::Result<Arc<[u8]>>,
    pub previous: Option<&'a Generation>,
    /// How ramps were when the process before this one ended, by their split's name.
    pub kept: &'a HashMap<String, Saved>,
    pub metrics: &'a Arc<Metrics>,
    pub sessions: &'a Sessions,
    pub workers: usize,
    /// What tells this process from others of its kind: the host's name, which in a pod is the pod's.
    pub identity: String,
    pub now: SystemTime,
    /// As `now`, by the clock that never jumps.
    pub started: Instant,
}

/// `None` if there is an error in `found`, or if the file is not whole: then this looks for further
/// mistakes only. Warnings may be there either way.
pub fn compile(parsed: Parsed, inputs: &Inputs<'_>, found: &mut Diagnostics) -> Option<Generation> {
    let Parsed { file, is_whole } = parsed;
    let before = found.errors();
    let mut services = Services::compile(&file, inputs, found);
    if is_whole && file.listeners.is_empty() {
        found
            .error(None, "no [[listener]], so there is nothing to serve")
            .help("write [[listener]] with listen = \"127.0.0.1:8080\" and service = \"127.0.0.1:3000\"");
    }
    check_addresses(&file, found);
    if is_whole {
        check_purpose(&file, found);
    }
    let compiled = file.listeners.iter().map(|listener| compile_listener(listener, &mut services, inputs, found));
    let listeners: Vec<Option<Listener>> = compiled.collect();
    if !is_whole || found.errors() > before {
        return None;
    }
    services.warn_unused(found);
    let Services { pools, others, .. } = services;
    let mut listeners: Vec<Listener> = listeners.into_iter().collect::<Option<_>>()?;
    number_free_ports(&mut listeners);
    let listeners: Vec<Arc<Listener>> = listeners.into_iter().map(Arc::new).collect();
    let by_socket =
        listeners.iter().flat_map(|listener| listener.sockets.iter().map(|socket| (socket.clone(), Arc::clone(listener)))).collect();
    Some(Generation {
        number: inputs.previous.map_or(1, |previous| previous.number + 1),
        hash: inputs.hash.clone(),
        loaded_at: inputs.now,
        file,
        listeners,
        by_socket,
        pools,
        others,
        document: inputs.document.to_string().into(),
        warnings: found.one_per_line(inputs.sources),
    })
}

/// Where nothing was left out, every listener has something to answer with.
fn check_purpose(file: &File, found: &mut Diagnostics) {
    for listener in file.listeners.iter().filter(|listener| listener.service.is_none() && listener.route.is_empty()) {
        found
            .error(listener.place, "this listener has neither `service` nor routes, so it could only answer 404")
            .help("write service = \"127.0.0.1:3000\"");
    }
}

/// Two listeners cannot share an address or a name; neither may take the admin's address.
fn check_addresses(file: &File, found: &mut Diagnostics) {
    let heard: Vec<(&Spanned<EarKey>, Address)> = file.ears().map(|ear| (ear, ear.value.address())).collect();
    let mut addresses: HashMap<&Address, Place> = HashMap::new();
    let mut names: HashMap<&str, Place> = HashMap::new();
    if let Some(admin) = file.admin.listen() {
        addresses.insert(&admin.value, admin.place);
    }
    let mut datagrams: HashMap<&EarKey, Place> = HashMap::new();
    for listener in &file.listeners {
        if listener.listen.value.is_empty() {
            found.error(listener.listen.place, "a listener needs an address").help("write listen = \"127.0.0.1:8080\"");
        }
        for listen in &listener.listen.value {
            // Port 0 asks the system for any free one.
            if matches!(listen.0.value, Address::Tcp(address) if address.port() == 0) {
                continue;
            }
            if let Some(first) = addresses.insert(&listen.0.value, listen.0.place) {
                report_twice(listen.0.place, first, &listen.0.value, found);
            }
        }
        if let Some(name) = &listener.name
            && let Some(first) = names.insert(&name.value.0, name.place)
        {
            found.error(name.place, format!("two listeners are named `{}`", name.value.0)).related(first, "the first one");
        }
    }
    for (ear, address) in &heard {
        // Only streams meet there; a path is one file, whatever comes by it.
        let first = match ear.value {
            EarKey::Udp(_) => datagrams.insert(&ear.value, ear.place),
            EarKey::Tcp(_) | EarKey::UnixDatagram(_) | EarKey::UnixStream(_) => addresses.insert(address, ear.place),
        };
        if let Some(first) = first {
            report_twice(ear.place, first, &ear.value, found);
        }
    }
}

fn report_twice(place: Place, first: Place, what: &impl std::fmt::Display, found: &mut Diagnostics) {
    let note = found.error(place, format!("{what} is listened on twice"));
    if first.end > 0 {
        note.related(first, "the first time");
    } else {
        note.help("it is the admin API's address; set [admin] listen to another");
    }
}

/// Sockets on port 0 differ only by their order in the file.
fn number_free_ports(listeners: &mut [Listener]) {
    let mut next: HashMap<Address, u16> = HashMap::new();
    for socket in listeners.iter_mut().flat_map(|listener| &mut listener.sockets) {
        if matches!(socket.address, Address::Tcp(address) if address.port() == 0) {
            let ordinal = next.entry(socket.address.clone()).or_default();
            socket.ordinal = *ordinal;
            *ordinal += 1;
        }
    }
}

fn compile_listener(
    written: &Spanned<listener::Listener>,
    services: &mut Services<'_>,
    inputs: &Inputs<'_>,
    found: &mut Diagnostics,
) -> Option<Listener> {
    let addresses: Vec<Address> = written.listen.iter().map(|listen| listen.0.value.clone()).collect();
    let name = listener_name(written);
    addresses.first()?;
    if let (Some(mode), false) = (&written.mode, addresses.iter().any(|a| matches!(a, Address::Unix(_)))) {
        found.error(mode.place, "`mode` is for unix sockets and this listener has none").help("remove it");
    }
    let limits = compile_limits(&written.limits, found);
    let tls = written.tls.as_ref().map(|tls| Acceptor::compile(&tls.value, &name, inputs.read, inputs.sessions, found, inputs.now));
    let fallback = written.service.as_ref().map(|reference| {
        let (service_name, service) = services.resolve(reference, found)?;
        check_kind(written.protocol, &service_name, &service, reference.place, found)?;
        Some(Route { metrics: inputs.metrics.route(&name, "", &service_name), form: Form::default(), service_name, service, timeout: None })
    });
    let matchers: Vec<Matchers> = written
        .route
        .iter()
        .map(|route| match written.protocol {
            Protocol::Http => route.matchers.clone(),
            Protocol::Tcp => route.matchers.of_stream(),
        })
        .collect();
    let reads_hello = written.protocol == Protocol::Tcp && tls.is_none() && matchers.iter().any(|matchers| !matchers.host.is_empty());
    let routes = compile_routes(written, &matchers, services, inputs, found);
    let table = match Table::compile(matchers) {
        Ok(table) => Some(table),
        Err((index, reason)) => {
            found.error(written.route[index].place, format!("its paths cannot be compiled together with the others: {reason}"));
            None
        }
    };
    Some(Listener {
        protocol: written.protocol,
        reads_hello,
        mode: written.mode.as_ref().map(|mode| mode.0),
        requires_proxy_header: written.proxy_protocol == ProxyProtocol::Require,
        trust: written.trust.clone(),
        paths: written.paths,
        tls: tls.map(|acceptor| acceptor.map(Arc::new).ok_or(())).transpose().ok()?,
        limits,
        connections_max: written.limits.connections.0 as usize,
        streams_max: written.limits.streams.0,
        gate: inputs.previous.and_then(|g| g.listeners.iter().find(|l| l.name == name)).map_or_else(Arc::default, |l| Arc::clone(&l.gate)),
        body: written.limits.body,
        timeouts: written.timeouts,
        table: table?,
        routes: routes?,
        fallback: fallback.map(|route| route.ok_or(())).transpose().ok()?,
        metrics: inputs.metrics.listener(&name),
        unrouted: inputs.metrics.route(&name, "", ""),
        sockets: addresses.into_iter().map(|address| SocketKey { address, ordinal: 0 }).collect(),
        name,
    })
}

fn compile_limits(written: &listener::Limits, found: &mut Diagnostics) -> Limits {
    let head = written.header_bytes.0;
    if let Some(uri) = written.uri_bytes.as_ref().filter(|uri| uri.value == Size(0) || uri.value > head) {
        found.error(uri.place, format!("`{}` is out of range", uri.value)).help(format!("\"1B\" to \"{head}\", which is `header_bytes`"));
    }
    let uri = written.uri_bytes.as_ref().map_or(Size::kib(16).min(head), |uri| uri.value);
    Limits { header_bytes: head.bytes(), headers: written.headers.0 as usize, uri_bytes: uri.bytes() }
}

/// A stream of bytes can go to a pool; everything else answers requests.
fn check_kind(protocol: Protocol, name: &str, service: &Service, place: Place, found: &mut Diagnostics) -> Option<()> {
    let kind = match (protocol, service) {
        (Protocol::Http, _) | (Protocol::Tcp, Service::Pool(_)) => return Some(()),
        (Protocol::Tcp, Service::Shard(_)) => "a shard",
        (Protocol::Tcp, Service::Split(_)) => "a split",
        (Protocol::Tcp, Service::Mirror(_)) => "a mirror",
        (Protocol::Tcp, Service::Scatter(_)) => "a scatter",
        (Protocol::Tcp, Service::Respond(_)) => "an answer",
        (Protocol::Tcp, Service::Redirect(_)) => "a redirect",
        (Protocol::Tcp, Service::Health(_)) => "a health report",
        (Protocol::Tcp, Service::Metrics(_)) => "a page of metrics",
        (Protocol::Tcp, Service::Logs(_)) => "a log",
    };
    found
        .error(place, format!("`{name}` is {kind}, and a listener with protocol = \"tcp\" has no requests to answer"))
        .help("name a pool, or an address such as \"10.0.0.1:5432\"");
    None
}

fn compile_routes(
    listener: &listener::Listener,
    matchers: &[Matchers],
    services: &mut Services<'_>,
    inputs: &Inputs<'_>,
    found: &mut Diagnostics,
) -> Option<Vec<Route>> {
    let written = &listener.route;
    let mut shadows = Shadows::default();
    let mut names: HashMap<&str, Place> = HashMap::new();
    let mut routes = Vec::with_capacity(written.len());
    for (index, (route, matchers)) in written.iter().zip(matchers).enumerate() {
        if let Some(name) = &route.name
            && let Some(first) = names.insert(&name.value.0, name.place)
        {
            found.error(name.place, format!("two routes are named `{}`", name.value.0)).related(first, "the first one");
        }
        if shadows.hides(matchers) {
            found.warn(route.place, "this route can never match: an earlier one takes all it would").help("move it up or remove it");
        }
        let compiled = compile_route(route, index, listener, services, inputs, found);
        // In place, only answers can be written, and whoever wrote one has been told.
        let checked = match &route.service {
            RouteService::Named(reference) => compiled
                .filter(|route| check_kind(listener.protocol, &route.service_name, &route.service, reference.place, found).is_some()),
            RouteService::Inline(_) => compiled,
        };
        routes.push(checked);
    }
    routes.into_iter().collect()
}

fn compile_route(
    written: &listener::Route,
    index: usize,
    listener: &listener::Listener,
    services: &mut Services<'_>,
    inputs: &Inputs<'_>,
    found: &mut Diagnostics,
) -> Option<Route> {
    let resolved = match &written.service {
        RouteService::Named(reference) => services.resolve(reference, found),
        RouteService::Inline(settings) => {
            let kind = settings.word();
            services.build(&inline_name(listener, index, written), kind, settings, found).map(|service| (kind.to_owned(), service))
        }
    };
    let edits = |settings: &Option<_>| settings.as_ref().map_or_else(Edits::default, Edits::compile);
    let (service_name, service) = resolved?;
    let name = route_label(index, written);
    Some(Route {
        metrics: inputs.metrics.route(&listener_name(listener), &name, &service_name),
        service_name,
        service,
        timeout: written.timeout,
        form: Form {
            name,
            rewrite: written.rewrite.clone(),
            request_edits: edits(&written.request_headers),
            response_edits: edits(&written.response_headers),
        },
    })
}
