//! Questions to DNS: addresses of a name, SRV records and the addresses of their targets.
//!
//! Remembers nothing. Each look-up reads /etc/resolv.conf and /etc/hosts anew, so that a change of either is noticed, and
//! nothing is answered from a cache that holds an answer for longer than it holds.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::upstream::discover::{Answer, Family, Found, Question, Source, weights};

/// As many as resolv.conf may name. All of them are asked at once and the first answer counts: one that is dead costs nothing,
/// nor does one that has only errors to tell.
const SERVERS_MAX: usize = 3;
/// Of servers that the configuration names.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// An answer about one kind of addresses does not wait for longer for the other one.
const OTHER_FAMILY_MAX: Duration = Duration::from_secs(1);
/// /etc/hosts says nothing of how long it holds.
const HOSTS_TTL: Duration = Duration::from_secs(30);
/// Targets of SRV records that are asked for at once.
const TARGETS_AT_ONCE: usize = 16;
/// Targets of one answer; the others are left out.
const TARGETS_MAX: usize = 1024;

/// The error says why nothing was found.
pub(super) async fn look_up(source: &Source) -> Result<Answer, String> {
    match &source.question {
        Question::Addresses { host, port } => {
            let addresses = addresses_of(host, &source.servers).await.map_err(|silence| silence.reason("addresses"))?;
            let host = host.trim_end_matches('.').to_owned();
            let found = |ip: IpAddr| Found { address: SocketAddr::new(ip, *port), weight: 1, priority: 0, host: host.clone() };
            let unheard = addresses.unheard.map(|family| (host.clone(), family)).into_iter().collect();
            Ok(Answer { found: addresses.ips.into_iter().map(found).collect(), ttl: addresses.ttl, unheard })
        }
        Question::Services { name } => services_of(name, &source.servers).await,
    }
}

/// Addresses of one name; there is at least one.
struct Addresses {
    ips: Vec<IpAddr>,
    ttl: Duration,
    /// Of this kind nothing could be heard.
    unheard: Option<Family>,
}

/// Why there is no answer.
enum Silence {
    /// The server says that the name has none.
    Nothing { exists: bool },
    /// It says nothing, or nothing that can be believed.
    Failed(String),
}

impl Silence {
    fn reason(self, what: &str) -> String {
        match self {
            Self::Nothing { exists: true } => format!("the name has no {what}"),
            Self::Nothing { exists: false } => "the name does not exist".to_owned(),
            Self::Failed(reason) => reason,
        }
    }
}

impl From<NetError> for Silence {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NoError => Self::Nothing { exists: true },
                ResponseCode::NXDomain => Self::Nothing { exists: false },
                code => Self::Failed(refused(code)),
            },
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Failed(refused(code)),
            NetError::Timeout => Self::Failed("no answer in time".to_owned()),
            NetError::Io(error) => Self::Failed(format!("cannot ask: {error}")),
            other => Self::Failed(other.to_string()),
        }
    }
}

fn refused(code: ResponseCode) -> String {
    format!("the name server answers with an error: {code}")
}

async fn addresses_of(host: &str, servers: &[SocketAddr]) -> Result<Addresses, Silence> {
    if servers.is_empty()
        && let Some(addresses) = from_hosts(host)
    {
        return Ok(addresses);
    }
    let (resolver, names) = Resolver::new(servers, host)?;
    let mut silence = Silence::Nothing { exists: false };
    for name in names {
        silence = match resolver.addresses(&name).await {
            Err(nothing @ Silence::Nothing { .. }) => nothing,
            // Not on to the next name after a failure: whoever has that name in another domain is somebody else.
            other => return other,
        };
    }
    Err(silence)
}

/// As the C library does it, a name in /etc/hosts is taken as it is written there.
fn from_hosts(host: &str) -> Option<Addresses> {
    let hosts = Hosts::from_system().ok()?;
    let name = Name::from_ascii(host).ok()?;
    let lookup = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind));
    let ips: Vec<IpAddr> =
        [lookup(RecordType::A), lookup(RecordType::AAAA)].iter().flatten().flat_map(|lookup| ips(lookup.answers())).collect();
    (!ips.is_empty()).then_some(Addresses { ips, ttl: HOSTS_TTL, unheard: None })
}

fn ips(records: &[Record]) -> impl Iterator<Item = IpAddr> {
    records.iter().filter_map(|record| record.data.ip_addr())
}

async fn services_of(name: &str, servers: &[SocketAddr]) -> Result<Answer, String> {
    let reason = |silence: Silence| silence.reason("SRV records");
    let (resolver, names) = Resolver::new(servers, name).map_err(reason)?;
    let mut silence = Silence::Nothing { exists: false };
    for name in names {
        match resolver.ask(&name, RecordType::SRV).await {
            Ok(lookup) => return resolver.targets(&lookup).await,
            Err(nothing @ Silence::Nothing { .. }) => silence = nothing,
            Err(failed) => return Err(reason(failed)),
        }
    }
    Err(reason(silence))
}

/// One SRV record.
struct Service {
    priority: u16,
    weight: u16,
    port: u16,
    /// Ends with a dot.
    target: String,
}

/// One for each server: asked together, the library would take the first error for the answer.
#[derive(Clone)]
struct Resolver(Vec<TokioResolver>);

impl Resolver {
    /// With the names to ask for, one after another as long as they have no records.
    fn new(servers: &[SocketAddr], name: &str) -> Result<(Self, Vec<String>), Silence> {
        let (servers, mut options, search) = if servers.is_empty() {
            let (config, options) = system_conf::read_system_conf()
                .map_err(|error| Silence::Failed(format!("/etc/resolv.conf names nobody to ask: {}", described(&error))))?;
            let search: Vec<String> = match (config.search(), config.domain()) {
                ([], domain) => domain.into_iter().map(Name::to_ascii).collect(),
                (domains, _) => domains.iter().map(Name::to_ascii).collect(),
            };
            (config.name_servers().to_vec(), options, search)
        } else {
            let mut options = ResolverOpts::default();
            options.timeout = TIMEOUT;
            options.attempts = ATTEMPTS;
            (servers.iter().copied().map(server).collect(), options, Vec::new())
        };
        // For the resolver it is a number of attempts after the first.
        options.attempts = options.attempts.saturating_sub(1);
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        let names = candidates(name, &search, options.ndots);
        let resolver = |server: NameServerConfig| {
            let config = ResolverConfig::from_name_servers(vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options.clone()).build()
        };
        let resolvers: Result<Vec<TokioResolver>, NetError> = servers.into_iter().take(SERVERS_MAX).map(resolver).collect();
        Ok((Self(resolvers?), names))
    }

    /// What the first of the servers says that has an answer, be it that there is nothing.
    async fn ask(&self, name: &str, kind: RecordType) -> Result<Lookup, Silence> {
        let name = Name::from_ascii(name).map_err(|error| Silence::Failed(error.to_string()))?;
        let mut asking = JoinSet::new();
        for resolver in &self.0 {
            let (resolver, name) = (resolver.clone(), name.clone());
            asking.spawn(async move { resolver.lookup(name, kind).await });
        }
        let mut failed = Silence::Failed("nobody is there to be asked".to_owned());
        while let Some(heard) = asking.join_next().await {
            // A panic has been counted.
            let Ok(heard) = heard else { continue };
            match heard.map_err(Silence::from) {
                Ok(lookup) if lookup.answers().iter().any(|record| record.record_type() == kind) => return Ok(lookup),
                Ok(_) => return Err(Silence::Nothing { exists: true }),
                Err(nothing @ Silence::Nothing { .. }) => return Err(nothing),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn family(&self, name: &str, family: Family) -> (Family, Result<Addresses, Silence>) {
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        let asked = self.ask(name, kind).await;
        let heard = |lookup: Lookup| Addresses { ips: ips(lookup.answers()).collect(), ttl: least_ttl(lookup.answers()), unheard: None };
        (family, asked.map(heard))
    }

    /// Asks for both kinds of addresses, and is content with one.
    async fn addresses(&self, name: &str) -> Result<Addresses, Silence> {
        let (mut four, mut six) = (pin!(self.family(name, Family::V4)), pin!(self.family(name, Family::V6)));
        let ((first_family, first), mut other, other_family) = tokio::select! {
            heard = &mut four => (heard, six, Family::V6),
            heard = &mut six => (heard, four, Family::V4),
        };
        let second = match &first {
            // It exists in no way at all.
            Err(Silence::Nothing { exists: false }) => return first,
            Ok(_) => match timeout(OTHER_FAMILY_MAX, &mut other).await {
                Ok((_, second)) => second,
                Err(_) => Err(Silence::Failed("no answer in time".to_owned())),
            },
            Err(_) => other.await.1,
        };
        match (first, second) {
            (Ok(mut first), Ok(second)) => {
                first.ips.extend(second.ips);
                Ok(Addresses { ttl: first.ttl.min(second.ttl), ..first })
            }
            (Ok(heard), Err(Silence::Failed(_))) => Ok(Addresses { unheard: Some(other_family), ..heard }),
            (Err(Silence::Failed(_)), Ok(heard)) => Ok(Addresses { unheard: Some(first_family), ..heard }),
            (Ok(heard), Err(Silence::Nothing { .. })) | (Err(Silence::Nothing { .. }), Ok(heard)) => Ok(heard),
            (_, Err(missing @ Silence::Nothing { exists: false })) => Err(missing),
            (Err(failed @ Silence::Failed(_)), Err(_)) | (Err(_), Err(failed)) => Err(failed),
        }
    }

    /// What an answer with SRV records comes to.
    async fn targets(&self, lookup: &Lookup) -> Result<Answer, String> {
        let services = services(lookup.answers());
        if services.is_empty() {
            return Err("its SRV record says that the service is not offered".to_owned());
        }
        // Most servers send the addresses along.
        let mut known = sent_along(lookup.additionals());
        known.retain(|name, _| services.iter().any(|service| service.target == *name));
        let mut missing: Vec<String> =
            services.iter().map(|service| service.target.clone()).filter(|target| !known.contains_key(target)).collect();
        missing.sort();
        missing.dedup();
        let mut unheard = Vec::new();
        let mut failure = None;
        for (target, heard) in self.all(missing).await {
            let host = target.trim_end_matches('.');
            match heard {
                Ok(addresses) => {
                    unheard.extend(addresses.unheard.map(|family| (host.to_owned(), family)));
                    known.insert(target, addresses);
                }
                Err(Silence::Nothing { .. }) => {}
                Err(Silence::Failed(reason)) => {
                    unheard.extend([Family::V4, Family::V6].map(|family| (host.to_owned(), family)));
                    failure = Some(reason);
                }
            }
        }
        let found = found(&services, &known);
        if found.is_empty() {
            return Err(failure.unwrap_or_else(|| "no target of its SRV records has an address".to_owned()));
        }
        let ttl = known.values().map(|addresses| addresses.ttl).fold(least_ttl(lookup.answers()), Duration::min);
        Ok(Answer { found, ttl, unheard })
    }

    async fn all(&self, names: Vec<String>) -> Vec<(String, Result<Addresses, Silence>)> {
        let mut names = names.into_iter();
        let mut asking = JoinSet::new();
        let mut heard = Vec::new();
        loop {
            while asking.len() < TARGETS_AT_ONCE
                && let Some(name) = names.next()
            {
                let resolver = self.clone();
                asking.spawn(async move {
                    let addresses = resolver.addresses(&name).await;
                    (name, addresses)
                });
            }
            match asking.join_next().await {
                Some(Ok(one)) => heard.push(one),
                // A panic, which has been counted.
                Some(Err(_)) => {}
                None => return heard,
            }
        }
    }
}

/// By UDP, and by TCP what does not fit.
fn server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

fn described(error: &NetError) -> String {
    match error {
        NetError::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// What a name may stand for, each with its last dot: with fewer than `ndots` dots, in the domains to search first.
fn candidates(name: &str, search: &[String], ndots: usize) -> Vec<String> {
    if name.ends_with('.') {
        return vec![name.to_owned()];
    }
    let itself = format!("{name}.");
    let within = search.iter().map(|domain| match domain.trim_end_matches('.') {
        "" => itself.clone(),
        domain => format!("{name}.{domain}."),
    });
    let is_itself_first = name.matches('.').count() >= ndots;
    let mut names: Vec<String> = Vec::new();
    let all = is_itself_first.then(|| itself.clone()).into_iter().chain(within).chain([itself.clone()]);
    for candidate in all {
        if !names.contains(&candidate) {
            names.push(candidate);
        }
    }
    names
}

/// Aliases on the way count too.
fn least_ttl(records: &[Record]) -> Duration {
    Duration::from_secs(records.iter().map(|record| u64::from(record.ttl)).min().unwrap_or_default())
}

/// The target "." means that the service is not offered.
fn services(records: &[Record]) -> Vec<Service> {
    let service = |record: &Record| match &record.data {
        RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => {
            let mut target = srv.target.to_lowercase();
            target.set_fqdn(true);
            Some(Service { priority: srv.priority, weight: srv.weight, port: srv.port, target: target.to_ascii() })
        }
        _ => None,
    };
    records.iter().filter_map(service).take(TARGETS_MAX).collect()
}

fn sent_along(records: &[Record]) -> HashMap<String, Addresses> {
    let mut known: HashMap<String, Addresses> = HashMap::new();
    for record in records {
        let Some(ip) = record.data.ip_addr() else { continue };
        let mut name = record.name.to_lowercase();
        name.set_fqdn(true);
        let ttl = Duration::from_secs(u64::from(record.ttl));
        let addresses = known.entry(name.to_ascii()).or_insert(Addresses { ips: Vec::new(), ttl, unheard: None });
        addresses.ips.push(ip);
        addresses.ttl = addresses.ttl.min(ttl);
    }
    known
}

/// Each address of a target has the weight of its record.
fn found(services: &[Service], known: &HashMap<String, Addresses>) -> Vec<Found> {
    let mut by_priority: HashMap<u16, Vec<&Service>> = HashMap::new();
    for service in services {
        by_priority.entry(service.priority).or_default().push(service);
    }
    let mut found = Vec::new();
    for services in by_priority.into_values() {
        let written: Vec<u16> = services.iter().map(|service| service.weight).collect();
        for (service, weight) in services.into_iter().zip(weights(&written)) {
            let Some(addresses) = known.get(&service.target) else { continue };
            let host = service.target.trim_end_matches('.');
            found.extend(addresses.ips.iter().map(|&ip| Found {
                address: SocketAddr::new(ip, service.port),
                weight,
                priority: service.priority,
                host: host.to_owned(),
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, search: &[&str], ndots: usize, expected: &[&str]) {
        let search: Vec<String> = search.iter().map(|domain| (*domain).to_owned()).collect();
        assert_eq!(candidates(name, &search, ndots), expected);
    }

    #[test]
    fn a_short_name_is_searched_for_first() {
        check(
            "app.default",
            &["default.svc.local", "local."],
            5,
            &["app.default.default.svc.local.", "app.default.local.", "app.default."],
        );
    }

    #[test]
    fn a_name_with_enough_dots_is_asked_for_first() {
        check("app.example", &["local"], 1, &["app.example.", "app.example.local."]);
        check("app", &["local"], 1, &["app.local.", "app."]);
        check("app", &["local"], 0, &["app.", "app.local."]);
    }

    #[test]
    fn a_name_that_ends_with_a_dot_is_asked_for_as_it_is() {
        check("app.", &["local"], 5, &["app."]);
    }

    #[test]
    fn a_search_for_nothing_adds_nothing() {
        check("app", &[".", "local"], 1, &["app.", "app.local."]);
        check("app", &[], 1, &["app."]);
    }
}
