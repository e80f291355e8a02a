//! Services by name, each compiled once, whoever names it.
//!
//! Carries over what did not change. Knows listeners only as places where a service may be written.

mod adapters;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use indexmap::IndexMap;

use super::compile::Inputs;
use super::{NamedPool, NamedService};
use crate::config::File;
use crate::config::listener::{self, RouteService};
use crate::services::mirror::{self, Mirror};
use crate::services::pool::{self, EndpointSettings};
use crate::services::scatter::{self, Scatter};
use crate::services::shard::{self, HotKeys, Migration, Shard};
use crate::services::split::ramp::{self, Ramp};
use crate::services::split::{self, Split};
use crate::services::{self, Service, redirect::Redirect, respond::Respond};
use crate::telemetry::metrics::SpreadMetrics;
use crate::tls::{self, Connector};
use crate::upstream::{self, Discovery, Pool, Recipe, Rule, Spec, Subset};
use crate::value::{Diagnostics, Place, ServiceRef, Spanned};

/// What endpoints are offered inside TLS, the preferred one first.
fn alpn(protocol: upstream::Protocol) -> &'static [tls::Protocol] {
    match protocol {
        upstream::Protocol::Http1 => &[tls::Protocol::Http1],
        upstream::Protocol::Http2 => &[tls::Protocol::Http2],
        upstream::Protocol::Auto => &[tls::Protocol::Http2, tls::Protocol::Http1],
    }
}

/// Every service by name, compiled once; addresses used as services join them as they turn up.
pub(super) struct Services<'a> {
    named: IndexMap<&'a str, Entry<'a>>,
    /// By the address as it is shown.
    addressed: HashMap<String, Arc<Service>>,
    pub(super) pools: Vec<NamedPool>,
    /// Whatever is no pool, as it was compiled.
    pub(super) others: Vec<NamedService>,
    /// What shards want of pools, by the pool's name.
    rules: HashMap<&'a str, Vec<Rule>>,
    /// Where this process stands.
    zone: Option<String>,
    inputs: &'a Inputs<'a>,
}

struct Entry<'a> {
    settings: &'a services::Settings,
    state: State,
    place: Place,
    is_used: bool,
}

enum State {
    Written,
    /// Its parts are looked for: whoever finds it among them has found a cycle.
    Underway,
    /// `None` where something that is wrong keeps it from serving.
    Done(Option<Arc<Service>>),
}

impl<'a> Services<'a> {
    pub(super) fn compile(file: &'a File, inputs: &'a Inputs<'a>, found: &mut Diagnostics) -> Self {
        let entry = |(name, settings): (&'a Spanned<String>, &'a services::Settings)| {
            (name.value.as_str(), Entry { settings, state: State::Written, place: name.place, is_used: false })
        };
        let mut services = Self {
            named: file.services.iter().map(entry).collect(),
            addressed: HashMap::new(),
            pools: Vec::new(),
            others: Vec::new(),
            rules: rules(file),
            zone: file.process.zone.as_ref().map(|zone| zone.0.clone()),
            inputs,
        };
        for name in file.services.keys().filter(|name| !is_service_name(name)) {
            found.error(name.place, format!("`{}` is not a name for a service", name.value)).help("use letters, digits, `-`, `_` and `.`");
        }
        // Pools first: nothing else is a part of them.
        let is_pool = |settings: &services::Settings| matches!(settings, services::Settings::Pool(_));
        for wanted in [true, false] {
            for name in file.services.iter().filter(|(_, settings)| is_pool(settings) == wanted).map(|(name, _)| name) {
                services.by_name(&name.value, name.place, found);
            }
        }
        services
    }

    /// The service of this name, which is compiled now if it was not before.
    fn by_name(&mut self, name: &str, place: Place, found: &mut Diagnostics) -> Option<Arc<Service>> {
        let entry = self.named.get_mut(name)?;
        match &entry.state {
            State::Done(service) => return service.clone(),
            State::Underway => {
                found.error(place, format!("`{name}` is a part of itself")).related(entry.place, "the service").help("name another here");
                return None;
            }
            State::Written => entry.state = State::Underway,
        }
        let settings = entry.settings;
        let service = self.build(name, name, settings, found);
        if let Some(entry) = self.named.get_mut(name) {
            entry.state = State::Done(service.clone());
        }
        service
    }

    /// `salt` is what tells its keys from those of others; for most their name.
    pub(super) fn build(&mut self, name: &str, salt: &str, settings: &services::Settings, found: &mut Diagnostics) -> Option<Arc<Service>> {
        let service = Arc::new(match settings {
            services::Settings::Pool(settings) => return Some(Arc::new(Service::Pool(self.pool(name, settings, found)?))),
            services::Settings::Shard(settings) => Service::Shard(self.shard(name, salt, settings, found)?),
            services::Settings::Split(settings) => Service::Split(self.split(name, salt, settings, found)?),
            services::Settings::Mirror(settings) => Service::Mirror(self.mirror(name, settings, found)?),
            services::Settings::Scatter(settings) => Service::Scatter(self.scatter(name, settings, found)?),
            services::Settings::Respond(settings) => Service::Respond(Respond::compile(settings)),
            services::Settings::Redirect(settings) => Service::Redirect(Redirect::compile(settings)),
            services::Settings::Logs(settings) => Service::Logs(self.logs(name, settings, found)?),
            services::Settings::Metrics(settings) => Service::Metrics(self.metrics(name, settings, found)?),
            services::Settings::Health(settings) => Service::Health(self.health(name, settings, found)?),
        });
        self.others.push(NamedService { name: name.to_owned(), service: Arc::clone(&service) });
        Some(service)
    }

    fn shard(&mut self, name: &str, salt: &str, settings: &shard::Settings, found: &mut Diagnostics) -> Option<Shard> {
        let metrics = self.inputs.metrics.spread(name);
        let hot = settings.hot.as_ref().map(|hot| self.hot(name, hot.value, &metrics));
        let migration = match &settings.migrate {
            Some(migrate) => Some(self.migration(name, migrate, found)?),
            None => None,
        };
        let parts = shard::Parts { name, settings, hot, migration, metrics };
        let shard = match &settings.over.value {
            shard::Over::Members(written) => {
                let members: Vec<Option<shard::Member>> = written.iter().map(|member| self.member(name, member, found)).collect();
                Shard::over_services(parts, salt, members.into_iter().collect::<Option<_>>()?)
            }
            shard::Over::Pool(reference) => {
                let service = self.used(&reference.value, reference.place, found)?;
                let Service::Pool(pool) = &*service else {
                    found
                        .error(reference.place, format!("`{}` is no pool, so it has no endpoints to place keys on", reference.value))
                        .help(format!("write over = [\"{}\", …] to place keys on services", reference.value));
                    return None;
                };
                let rule = self.rules.get(pool.name.as_str())?.iter().position(|rule| rule.shard == name)?;
                let checked = pool.membership().check(&settings.method());
                checked.map(|()| Shard::over_pool(parts, Arc::clone(pool), rule as u16))
            }
        };
        match shard {
            Ok(shard) => Some(shard),
            Err(reason) => {
                found.error(settings.method_place(), reason).help("write method = \"maglev\"");
                None
            }
        }
    }

    fn split(&mut self, name: &str, salt: &str, settings: &split::Settings, found: &mut Diagnostics) -> Option<Split> {
        let salt = settings.salt.as_ref().map_or(salt, |salt| salt.value.0.as_str());
        let arm = |arm: &split::ArmSettings| {
            let (_, service) = self.resolve(&arm.service, found)?;
            let name_of_arm = arm.name();
            let metrics = self.inputs.metrics.arm(name, &name_of_arm);
            Some(split::Arm::new(name_of_arm, salt, service, metrics))
        };
        let arms: Vec<Option<split::Arm>> = settings.arms.value.0.iter().map(arm).collect();
        let ramp = match &settings.ramp {
            Some(ramp) => Some(self.ramp(name, settings, &ramp.value, found)?),
            None => None,
        };
        Some(Split::new(name, salt, settings, arms.into_iter().collect::<Option<_>>()?, ramp))
    }

    /// The previous generation's ramp if nothing about it changed; else one that goes on where that one was.
    fn ramp(&self, name: &str, split: &split::Settings, settings: &ramp::Settings, found: &mut Diagnostics) -> Option<Arc<Ramp>> {
        let Inputs { read, sessions, now, started, previous, workers, kept, .. } = *self.inputs;
        let at = ramp::Moment { now: started, wall: now };
        let arms: Vec<(String, Option<u32>)> = split.arms.value.0.iter().map(split::ArmSettings::name).zip(split.shares()).collect();
        let known = previous.and_then(|generation| generation.split(name)).and_then(Split::ramp);
        if let Some(same) = known.filter(|known| known.settings == *settings && known.arms == arms) {
            return Some(Arc::clone(same));
        }
        let peer = match &settings.notify {
            Some(hook) if hook.value.0.is_tls => {
                let connector = Connector::compile(&tls::ConnectorSettings::default(), hook.place, &[], read, sessions, found, now)?;
                let host = hook.value.0.address.host();
                match tls::Name::parse(&host) {
                    Ok(name) => Some(connector.peer(name.0)),
                    Err(reason) => {
                        found.error(hook.place, reason);
                        return None;
                    }
                }
            }
            _ => None,
        };
        let saved = known.map(|known| known.saved(at)).or_else(|| kept.get(name).cloned());
        Some(Arc::new(Ramp::new(settings.clone(), arms, peer, workers, saved.as_ref(), at)))
    }

    fn mirror(&mut self, name: &str, settings: &mirror::Settings, found: &mut Diagnostics) -> Option<Mirror> {
        let to = self.resolve(&settings.to, found);
        let copy = self.resolve(&settings.copy, found);
        let comparing = match &settings.compare {
            Some(compare) => Some(self.comparing(name, &compare.value, found)?),
            None => None,
        };
        let copies = mirror::Copies::new(name, settings, copy?, self.inputs.metrics.mirror(name), comparing, self.inputs.started);
        Some(Mirror::new(name, settings, to?, copies))
    }

    /// What was found stays, unless what is compared changed.
    fn comparing(&mut self, name: &str, rules: &mirror::Compare, found: &mut Diagnostics) -> Option<mirror::Comparing> {
        let control = match &rules.control {
            Some(control) => Some(self.resolve(control, found)?.1),
            None => None,
        };
        let known = self.inputs.previous.and_then(|generation| generation.mirror(name)).and_then(|mirror| mirror.copies.comparing.as_ref());
        let differences = known.filter(|known| known.rules == *rules).map(|known| Arc::clone(&known.differences));
        Some(mirror::Comparing { rules: rules.clone(), control, differences: differences.unwrap_or_default() })
    }

    fn scatter(&mut self, name: &str, settings: &scatter::Settings, found: &mut Diagnostics) -> Option<Scatter> {
        let leaves = match &settings.over.value {
            scatter::Over::Services(written) => {
                let leaves: Vec<Option<scatter::Leaf>> = written
                    .iter()
                    .map(|leaf| {
                        let (_, service) = self.resolve(&leaf.service, found)?;
                        let label = leaf.label();
                        let metrics = self.inputs.metrics.leaf(name, &label);
                        let hedging = settings.hedge.as_ref().map(|hedge| self.hedging(name, &label, &hedge.value));
                        Some(scatter::Leaf { name: label, service, metrics, hedging })
                    })
                    .collect();
                scatter::Leaves::Services(leaves.into_iter().collect::<Option<_>>()?)
            }
            scatter::Over::Pool(reference) => {
                let (_, service) = self.resolve(reference, found)?;
                if scatter::pool_of(&service).is_none() {
                    found
                        .error(reference.place, format!("`{}` is no pool, so it has no endpoints to ask", reference.value))
                        .help(format!("write over = [\"{}\", …] to ask services", reference.value));
                    return None;
                }
                scatter::Leaves::Pool(service)
            }
        };
        Some(Scatter::new(name, settings, leaves, Arc::clone(self.inputs.metrics)))
    }

    /// What is known of a leaf's answers stays, unless what is asked about them changed.
    fn hedging(&self, scatter: &str, leaf: &str, settings: &upstream::hedge::Settings) -> Arc<upstream::hedge::Hedging> {
        let Inputs { previous, workers, started, .. } = *self.inputs;
        let known = previous.and_then(|generation| generation.scatter(scatter)).and_then(|scatter| scatter.hedging(leaf));
        let known = known.filter(|known| known.is_as(settings)).map(Arc::clone);
        known.unwrap_or_else(|| Arc::new(upstream::hedge::Hedging::new(settings, workers, started)))
    }

    fn member(&mut self, shard: &str, written: &shard::MemberSettings, found: &mut Diagnostics) -> Option<shard::Member> {
        let (_, service) = self.resolve(&written.service, found)?;
        let name = written.label();
        let metrics = self.inputs.metrics.shard(shard, &name);
        Some(shard::Member { name, weight: written.weight, service, metrics, in_flight: AtomicU32::new(0) })
    }

    /// One that says no start goes on where the same one was.
    fn migration(&mut self, name: &str, settings: &shard::migrate::Settings, found: &mut Diagnostics) -> Option<Migration> {
        let (_, from) = self.resolve(&settings.from, found)?;
        let Inputs { previous, now, started, .. } = *self.inputs;
        let known = previous.and_then(|generation| generation.shard(name)).and_then(|shard| shard.migration.as_ref());
        let known = known.filter(|known| known.settings == *settings).map(|known| known.start);
        let start = settings.start.map(|start| start.0).or(known).unwrap_or(now);
        Some(Migration::new(settings.clone(), from, start, now, started))
    }

    /// What is known of hot keys stays, unless what is asked about them changed.
    fn hot(&self, name: &str, settings: shard::Hot, metrics: &Arc<SpreadMetrics>) -> Arc<HotKeys> {
        let Inputs { previous, workers, started, .. } = *self.inputs;
        let known = previous.and_then(|generation| generation.shard(name)).and_then(|shard| shard.hot.as_ref());
        let known = known.filter(|known| known.settings == settings).cloned();
        known.unwrap_or_else(|| Arc::new(HotKeys::new(settings, workers, Arc::clone(metrics), started)))
    }

    /// The previous generation's pool if nothing about it changed; else a new one that shares the
    /// endpoints that stayed, with their connections and counts.
    fn pool(&mut self, name: &str, settings: &Arc<pool::Settings>, found: &mut Diagnostics) -> Option<Arc<Pool>> {
        let recipe = self.recipe(name, settings, found)?;
        let previous = self.inputs.previous.and_then(|g| g.pools.iter().find(|named| named.pool.name == name));
        let specs: Vec<Spec> = settings.endpoints.iter().map(EndpointSettings::spec).collect();
        let pool = match previous {
            Some(named) if named.settings == *settings && named.pool.is_made_as(&recipe, &specs) => Arc::clone(&named.pool),
            _ => {
                let previous = previous.map(|named| &*named.pool);
                let known = previous.map(Pool::discovery);
                let discovery = Discovery::new(settings.discover.clone(), known, self.inputs.started);
                let Inputs { workers, started, .. } = *self.inputs;
                Arc::new(Pool::new(recipe, specs, discovery, settings.policy.clone(), previous, workers, started))
            }
        };
        self.pools.push(NamedPool { settings: Arc::clone(settings), pool: Arc::clone(&pool) });
        Some(pool)
    }

    fn recipe(&self, name: &str, settings: &pool::Settings, found: &mut Diagnostics) -> Option<Recipe> {
        let Inputs { read, sessions, now, metrics, identity, .. } = self.inputs;
        let connector = if settings.speaks_tls() {
            Some(Connector::compile(&settings.tls, settings.tls.place, alpn(settings.protocol), read, sessions, found, *now)?)
        } else {
            None
        };
        Some(Recipe {
            service: name.to_owned(),
            connector,
            metrics: Arc::clone(metrics),
            is_probed: settings.policy.health.is_some(),
            is_led: settings.policy.leader.is_some(),
            zone: self.zone.clone(),
            sticky: None,
            rules: self.rules.get(name).cloned().unwrap_or_default(),
            subset: settings.policy.subset.map(|size| Subset { size: size.0, seed: upstream::sticky::hash(name, identity.as_bytes()) }),
        })
    }

    /// The service a reference stands for, and the name it goes by in metrics.
    pub(super) fn resolve(&mut self, reference: &Spanned<ServiceRef>, found: &mut Diagnostics) -> Option<(String, Arc<Service>)> {
        match &reference.value {
            ServiceRef::Name(name) => Some((name.clone(), self.used(name, reference.place, found)?)),
            ServiceRef::Address(address) => {
                let name = address.to_string();
                if let Some(service) = self.addressed.get(&name) {
                    return Some((name, Arc::clone(service)));
                }
                let settings = Arc::new(pool::Settings::of_address(Spanned::new(address.clone(), reference.place), found)?);
                let service = Arc::new(Service::Pool(self.pool(&name, &settings, found)?));
                self.addressed.insert(name.clone(), Arc::clone(&service));
                Some((name, service))
            }
        }
    }

    /// As [`Services::by_name`], for somebody who uses it. One that is missing was reported while the file was parsed.
    fn used(&mut self, name: &str, place: Place, found: &mut Diagnostics) -> Option<Arc<Service>> {
        self.named.get_mut(name)?.is_used = true;
        self.by_name(name, place, found)
    }

    pub(super) fn warn_unused(&self, found: &mut Diagnostics) {
        for (name, entry) in self.named.iter().filter(|(_, entry)| !entry.is_used) {
            found.warn(entry.place, format!("nobody uses the service `{name}`")).help("name it in a route or a listener, or remove it");
        }
    }
}

/// What shards want of pools: every one that places keys on endpoints has a rule there.
fn rules(file: &File) -> HashMap<&str, Vec<Rule>> {
    let named = file.services.iter().map(|(name, settings)| (name.value.clone(), name.value.as_str(), settings));
    let inline = file.listeners.iter().flat_map(|listener| {
        listener.route.iter().enumerate().filter_map(move |(index, route)| match &route.service {
            RouteService::Inline(settings) => Some((inline_name(listener, index, route), settings.word(), settings)),
            RouteService::Named(_) => None,
        })
    });
    let mut rules: HashMap<&str, Vec<Rule>> = HashMap::new();
    for (shard, salt, settings) in named.chain(inline) {
        if let services::Settings::Shard(settings) = settings
            && let shard::Over::Pool(pool) = &settings.over.value
        {
            let rule = Rule { shard, method: settings.method(), salt: settings.salt(salt) };
            rules.entry(pool.value.as_str()).or_default().push(rule);
        }
    }
    rules
}

/// What a service that is written in a route goes by where services are counted.
pub(super) fn inline_name(listener: &listener::Listener, index: usize, route: &listener::Route) -> String {
    format!("{}/{}", listener_name(listener), route_label(index, route))
}

/// Empty if it has neither a name nor an address, which is reported.
pub(super) fn listener_name(listener: &listener::Listener) -> String {
    let first = || listener.listen.first().map_or_else(String::new, |listen| listen.0.to_string());
    listener.name.as_ref().map_or_else(first, |name| name.value.0.clone())
}

pub(super) fn route_label(index: usize, route: &listener::Route) -> String {
    route.name.as_ref().map_or_else(|| (index + 1).to_string(), |name| name.value.0.clone())
}

fn is_service_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
