//! A pool as it is written.
//!
//! Checks what can be seen in one pool; names of other services are not its business.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::discover::{Asked, Discover};
use crate::tls::connector::{self, Name, Trust};
use crate::upstream::discover::{Proof, Source};
use crate::upstream::{
    Balance, Policy, Protocol, SendProxy, Spec, SubsetSize, Timeouts, eject, health, hedge, leader, limits, retry, sticky,
};
use crate::value::{
    Address, Decode, Diagnostics, EndpointAddress, Fields, Grace, Item, LabelText, Place, Reader, Scheme, Spanned, Value, Whole,
};

/// The endpoints and how long to wait for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Addresses that answer, each alone or as `{ address, name, weight }`. With those that files of `discover` list.
    pub endpoints: Vec<EndpointSettings>,
    /// Where DNS is asked for more.
    pub discover: Vec<Source>,
    /// `"http/1.1"`, `"h2"`, or `"auto"`: what TLS agrees on, and HTTP/1.1 without TLS. Without TLS, `"h2"` is spoken by
    /// prior knowledge; `h2c://` before an address says so of that endpoint alone.
    pub protocol: Protocol,
    /// How to speak TLS, for the endpoints that are spoken to with it: all of them if this is written, else those
    /// with `https://`.
    pub tls: Spanned<connector::Settings>,
    /// How endpoints are treated, whoever they are.
    pub policy: Policy,
}

/// One endpoint as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSettings {
    pub address: Spanned<EndpointAddress>,
    pub transport: Transport,
    /// [`Protocol::Auto`] only where there is TLS.
    pub protocol: Protocol,
    /// Name in logs and metrics.
    pub name: Option<String>,
    /// Share of the requests relative to the others, 0 to 1000; 0 takes none.
    pub weight: u32,
    /// Where it stands: endpoints in `[process] zone` are preferred.
    pub zone: Option<String>,
}

/// How an endpoint is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    Plain,
    /// With TLS, by the name that the endpoint must prove.
    Tls(ServerName<'static>),
}

/// One endpoint before it is known what its pool says of TLS.
pub(super) struct Written {
    address: Spanned<EndpointAddress>,
    name: Option<String>,
    weight: u32,
    zone: Option<String>,
}

/// 0 takes no requests.
type Weight = Whole<0, 1000>;

impl Decode for Written {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(item.value, Value::String(_)) {
            let address = Spanned::decode(item, reader)?;
            return check_port(Self { address, name: None, weight: 1, zone: None }, reader);
        }
        let mut fields = Fields::of(item, "an endpoint as an address or", reader)?;
        let address = fields.required("address", reader);
        let name = fields.optional("name", reader);
        let weight = fields.or("weight", Whole(1) as Weight, reader);
        let zone = fields.optional("zone", reader);
        fields.finish(reader)?;
        let (address, name, weight, zone) = (address?, name?, weight?, zone?);
        let text = |text: LabelText| text.0;
        check_port(Self { address, name: name.map(text), weight: weight.0, zone: zone.map(text) }, reader)
    }
}

fn check_port(endpoint: Written, reader: &mut Reader<'_>) -> Option<Written> {
    has_port(&endpoint.address, reader.found).then_some(endpoint)
}

fn has_port(address: &Spanned<EndpointAddress>, found: &mut Diagnostics) -> bool {
    let is_zero = match &address.address {
        Address::Tcp(address) => address.port() == 0,
        Address::Name(_, port) => *port == 0,
        Address::Unix(_) => false,
    };
    if is_zero {
        found.error(address.place, "nothing answers on port 0").help("write the port that the endpoint listens on");
    }
    !is_zero
}

impl EndpointSettings {
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.value.to_string())
    }

    /// As a pool takes it.
    pub fn spec(&self) -> Spec {
        let tls = match &self.transport {
            Transport::Plain => None,
            Transport::Tls(name) => Some(name.clone()),
        };
        Spec {
            address: self.address.address.clone(),
            tls,
            protocol: self.protocol,
            name: self.label(),
            weight: self.weight,
            zone: self.zone.clone(),
            priority: 0,
        }
    }
}

impl Settings {
    /// The pool that a bare address stands for.
    pub fn of_address(address: Spanned<EndpointAddress>, found: &mut Diagnostics) -> Option<Self> {
        if !has_port(&address, found) {
            return None;
        }
        let transport = match address.scheme {
            Scheme::None | Scheme::Http | Scheme::H2c => Transport::Plain,
            Scheme::Https => Transport::Tls(own_name(&address, found)?),
        };
        let protocol = spoken(&address, &transport, Protocol::Http1);
        let tls = Spanned::new(connector::Settings::default(), address.place);
        let endpoints = vec![EndpointSettings { address, transport, protocol, name: None, weight: 1, zone: None }];
        Some(Self { endpoints, discover: Vec::new(), protocol: Protocol::Http1, tls, policy: Policy::default() })
    }

    pub fn speaks_tls(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.transport != Transport::Plain)
            || self.discover.iter().any(|source| source.tls.is_some())
    }
}

impl Decode for Settings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "a pool", reader)?;
        let discover = fields.optional::<Spanned<Vec<Discover>>>("discover", reader);
        let endpoints = match &discover {
            Some(None) => fields.required("endpoints", reader).map(Some),
            _ => fields.optional::<Spanned<Vec<Written>>>("endpoints", reader),
        };
        let balance = fields.or("balance", Balance::RoundRobin, reader);
        let protocol = fields.optional::<Spanned<Protocol>>("protocol", reader);
        let tls = fields.optional::<Spanned<connector::Settings>>("tls", reader);
        let timeouts = fields.or("timeouts", Timeouts::default(), reader);
        let subset = fields.optional::<SubsetSize>("subset", reader);
        let eject = fields.optional::<eject::Settings>("eject", reader);
        let retry = fields.optional::<retry::Settings>("retry", reader);
        let hedge = fields.optional::<Spanned<hedge::Settings>>("hedge", reader);
        let limits = fields.optional::<limits::Settings>("limits", reader);
        let sticky = fields.optional::<sticky::Settings>("sticky", reader);
        let health = fields.optional::<Spanned<health::Settings>>("health", reader);
        let leader = fields.optional::<Spanned<leader::Settings>>("leader", reader);
        let slow_start = fields.or("slow_start", Grace(Duration::ZERO), reader);
        let send_proxy = fields.optional::<Spanned<SendProxy>>("send_proxy", reader);
        let unknown = fields.finish(reader);
        let (endpoints, discover, protocol, tls, send_proxy) = (endpoints?, discover?, protocol?, tls?, send_proxy?);
        let place = endpoints.as_ref().map(|endpoints| endpoints.place).or(discover.as_ref().map(|discover| discover.place))?;
        let is_discovered = discover.is_some();
        let mut endpoints = endpoints.map_or_else(Vec::new, |endpoints| endpoints.value);
        let asked = take_listed(discover.map_or_else(Vec::new, |discover| discover.value), &mut endpoints);
        let named = endpoints.len();
        // What DNS answers for a name is spoken to as an endpoint of that name would be.
        endpoints.extend(asked.iter().filter_map(Asked::as_written));
        let transports = match &tls {
            Some(tls) => with_tls(&endpoints, tls, reader.found),
            None => without_tls(&endpoints, reader.found),
        };
        let agreed = check_protocol(&endpoints, protocol.as_ref(), reader.found);
        let protocol_place = protocol.as_ref().map(|protocol| protocol.place);
        let protocol = protocol.map_or(Protocol::Http1, |protocol| protocol.value);
        let mut endpoints: Vec<EndpointSettings> = endpoints
            .into_iter()
            .zip(transports?)
            .map(|(Written { address, name, weight, zone }, transport)| {
                let protocol = spoken(&address, &transport, protocol);
                EndpointSettings { address, transport, protocol, name, weight, zone }
            })
            .collect();
        let asked_for = endpoints.split_off(named);
        let discover = sources(asked, asked_for, &endpoints, tls.as_ref(), protocol, reader)?;
        let spoken = || endpoints.iter().map(|endpoint| endpoint.protocol).chain(discover.iter().map(|source| source.protocol));
        let is_plain =
            endpoints.iter().all(|endpoint| endpoint.transport == Transport::Plain) && discover.iter().all(|source| source.tls.is_none());
        if let (Protocol::Auto, Some(place)) = (protocol, protocol_place)
            && is_plain
        {
            reader
                .warn(place, "`auto` is agreed on inside TLS, and no endpoint here speaks TLS: HTTP/1.1 is spoken")
                .help("write protocol = \"h2\" if the endpoints speak HTTP/2, or remove it");
        }
        if let Some(send_proxy) = send_proxy.as_ref().filter(|send_proxy| send_proxy.value != SendProxy::Off)
            && spoken().any(|protocol| protocol != Protocol::Http1)
        {
            reader
                .error(
                    send_proxy.place,
                    "`send_proxy` with HTTP/2: requests of many clients share a connection, whose header names only one",
                )
                .help("remove it, or speak HTTP/1.1 with these endpoints");
            return None;
        }
        let hedge = hedge?;
        if let (Some(send_proxy), Some(hedge)) = (send_proxy.as_ref().filter(|send_proxy| send_proxy.value != SendProxy::Off), &hedge) {
            reader
                .error(hedge.place, "`hedge` with `send_proxy`: connections that are opened in one client's name are not opened twice")
                .related(send_proxy.place, "the header")
                .help("remove one of the two");
            return None;
        }
        let send_proxy = send_proxy.map_or(SendProxy::Off, |send_proxy| send_proxy.value);
        let clean = check_endpoints(&endpoints, is_discovered, place, reader);
        let (health, leader) = (health?, leader?);
        let fit = super::probes::check(&endpoints, &discover, health.as_ref(), leader.as_ref(), send_proxy, reader.found);
        unknown.and(clean).and(agreed).and(fit)?;
        let tls = tls.unwrap_or_else(|| Spanned::new(connector::Settings::default(), place));
        let policy = Policy {
            balance: balance?,
            subset: subset?,
            timeouts: timeouts?,
            send_proxy,
            eject: eject?,
            retry: retry?,
            hedge: hedge.map(|hedge| hedge.value),
            limits: limits?,
            sticky: sticky?,
            fails_open: health.as_ref().is_some_and(|health| health.fail_open),
            health: health.map(|health| health.value),
            leader: leader.map(|leader| leader.value),
            slow_start: slow_start?.0,
        };
        Some(Self { endpoints, discover, protocol, tls, policy })
    }
}

/// Moves what files list to the endpoints that are written here; what is left asks somebody.
fn take_listed(discover: Vec<Discover>, endpoints: &mut Vec<Written>) -> Vec<Asked> {
    let mut asked = Vec::new();
    for place in discover {
        match place {
            Discover::Asked(one) => asked.push(one),
            Discover::Listed(listed) => endpoints.extend(listed),
        }
    }
    asked
}

impl Asked {
    fn as_written(&self) -> Option<Written> {
        self.address.clone().map(|address| Written { address, name: None, weight: 1, zone: None })
    }
}

/// `asked_for` are the endpoints that names in `asked` would be. Targets of SRV records prove their own names, or the one that
/// `tls` says.
fn sources(
    asked: Vec<Asked>,
    asked_for: Vec<EndpointSettings>,
    endpoints: &[EndpointSettings],
    tls: Option<&Spanned<connector::Settings>>,
    protocol: Protocol,
    reader: &mut Reader<'_>,
) -> Option<Vec<Source>> {
    let protected = endpoints.iter().chain(&asked_for).find(|endpoint| endpoint.transport != Transport::Plain).map(|one| one.address.place);
    let mut asked_for = asked_for.into_iter();
    let source = |Asked { question, every, servers, address, place }| {
        let (tls, protocol) = match (address.and_then(|_| asked_for.next()), tls) {
            (Some(endpoint), _) => match endpoint.transport {
                Transport::Plain => (None, endpoint.protocol),
                Transport::Tls(name) => (Some(Proof::Name(name)), endpoint.protocol),
            },
            (None, Some(tls)) => (Some(tls.server_name.clone().map_or(Proof::Target, |name| Proof::Name(name.0))), protocol),
            (None, None) => {
                if let Some(protected) = protected {
                    reader
                        .error(place, "is TLS meant for these targets? Another endpoint has `https://`")
                        .related(protected, "the other endpoint")
                        .help("write tls = {} for TLS to all, or give one of them a pool of its own");
                    return None;
                }
                (None, if protocol == Protocol::Auto { Protocol::Http1 } else { protocol })
            }
        };
        Some(Source { question, every, servers, tls, protocol })
    };
    let sources: Vec<Option<Source>> = asked.into_iter().map(source).collect();
    sources.into_iter().collect()
}

/// With `tls`, every endpoint is spoken to with TLS.
fn with_tls(endpoints: &[Written], tls: &Spanned<connector::Settings>, found: &mut Diagnostics) -> Option<Vec<Transport>> {
    let name = |endpoint: &Written| {
        let plain = match endpoint.address.scheme {
            Scheme::Http => Some(("`http://`", "write https://, or give endpoints without TLS a pool of their own")),
            Scheme::H2c => Some((
                "`h2c://`, which is HTTP/2 without TLS,",
                "write https:// and protocol = \"h2\", or give endpoints without TLS a pool of their own",
            )),
            Scheme::None | Scheme::Https => None,
        };
        if let Some((scheme, help)) = plain {
            found
                .error(endpoint.address.place, format!("{scheme} in a pool with `tls`"))
                .related(tls.place, "TLS for every endpoint")
                .help(help);
            return None;
        }
        match (&tls.server_name, &endpoint.address.address) {
            (Some(Name(name)), _) => Some(name.clone()),
            (None, Address::Name(..)) => own_name(&endpoint.address, found),
            // Nobody is verified, and no name is asked for.
            (None, Address::Tcp(address)) if tls.trust == Trust::Anyone => Some(ServerName::from(address.ip())),
            (None, Address::Unix(_)) if tls.trust == Trust::Anyone => Some(ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST))),
            (None, address) => {
                found
                    .error(tls.place, format!("`server_name` is required: `{address}` is no name that a certificate could be verified by"))
                    .related(endpoint.address.place, "the endpoint")
                    .help("write the name in its certificate: server_name = \"app.internal\"; an IP address, if that is what it names");
                None
            }
        }
    };
    let names: Vec<Option<ServerName<'static>>> = endpoints.iter().map(name).collect();
    names.into_iter().map(|name| name.map(Transport::Tls)).collect()
}

/// Without `tls`, each address says for itself. Where some say `https://`, the others must say that they do not mean it:
/// a forgotten scheme would send in the clear what its neighbours protect.
fn without_tls(endpoints: &[Written], found: &mut Diagnostics) -> Option<Vec<Transport>> {
    let protected = endpoints.iter().find(|endpoint| endpoint.address.scheme == Scheme::Https);
    let transport = |endpoint: &Written| match (endpoint.address.scheme, protected) {
        (Scheme::Https, _) => own_name(&endpoint.address, found).map(Transport::Tls),
        (Scheme::None, Some(protected)) if !matches!(endpoint.address.address, Address::Unix(_)) => {
            found
                .error(endpoint.address.place, format!("is TLS meant for `{}`? Another endpoint has `https://`", endpoint.address.value))
                .related(protected.address.place, "the other endpoint")
                .help("write https:// or http:// before it");
            None
        }
        (Scheme::None | Scheme::Http | Scheme::H2c, _) => Some(Transport::Plain),
    };
    let transports: Vec<Option<Transport>> = endpoints.iter().map(transport).collect();
    transports.into_iter().collect()
}

/// What an endpoint is spoken to in, in a pool of this protocol.
fn spoken(address: &EndpointAddress, transport: &Transport, protocol: Protocol) -> Protocol {
    match (address.scheme, transport, protocol) {
        (Scheme::H2c, ..) => Protocol::Http2,
        (_, Transport::Plain, Protocol::Auto) => Protocol::Http1,
        (_, _, protocol) => protocol,
    }
}

/// `h2c://` beside a protocol that was written is one thing or the other.
fn check_protocol(endpoints: &[Written], protocol: Option<&Spanned<Protocol>>, found: &mut Diagnostics) -> Option<()> {
    let Some(protocol) = protocol.filter(|protocol| protocol.value == Protocol::Http1) else { return Some(()) };
    let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.address.scheme == Scheme::H2c) else { return Some(()) };
    found
        .error(endpoint.address.place, "`h2c://` is HTTP/2, and the pool says HTTP/1.1")
        .related(protocol.place, "the protocol")
        .help("write http:// before the address, or remove `protocol`");
    None
}

/// What stands in the address: its name; or its IP address, which few certificates name.
fn own_name(address: &Spanned<EndpointAddress>, found: &mut Diagnostics) -> Option<ServerName<'static>> {
    let parsed = match &address.address {
        Address::Tcp(tcp) => Ok(Name(ServerName::from(tcp.ip()))),
        Address::Name(host, _) => Name::parse(host),
        Address::Unix(_) => Err(format!("`{}` has no name that a certificate could be verified by", address.value)),
    };
    match parsed {
        Ok(name) => Some(name.0),
        Err(reason) => {
            found.error(address.place, reason).help("name it in the pool: tls = { server_name = \"app.internal\" }");
            None
        }
    }
}

fn check_endpoints(endpoints: &[EndpointSettings], is_discovered: bool, place: Place, reader: &mut Reader<'_>) -> Option<()> {
    let mut clean = Some(());
    if is_discovered {
        // There may be others now or later.
    } else if endpoints.is_empty() {
        reader.error(place, "a pool needs an endpoint").help("write endpoints = [\"10.0.0.1:8080\"]");
        clean = None;
    } else if endpoints.iter().all(|endpoint| endpoint.weight == 0) {
        reader.warn(place, "every endpoint has weight 0, so every request is refused with 503");
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let twin = endpoints[..index].iter().find(|earlier| earlier.label() == endpoint.label());
        if let Some(twin) = twin {
            reader
                .error(endpoint.address.place, format!("endpoint `{}` is there twice", endpoint.label()))
                .related(twin.address.place, "the first one")
                .help("give one of them more weight, or another name");
            clean = None;
        }
    }
    clean
}
