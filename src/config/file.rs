//! The document as a whole: what `load` found, given meaning.
//!
//! Pure data that can be compared: reading files and compiling are other modules' work.

use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;

use super::admin::Admin;
use super::listener::{Listener, RouteService};
use super::protocol;
use crate::services;
use crate::settings;
use crate::telemetry;
use crate::value::{
    Decode, Diagnostics, EarKey, Fields, Grace, Item, LabelText, Place, Reader, Size, SourceId, Sources, Spanned, Table, Value, Whole,
    nearest,
};

/// A configuration that reads well. Whether its parts fit together, compiling will say.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    pub process: Process,
    pub log: telemetry::Settings,
    pub admin: Admin,
    pub listeners: Vec<Spanned<Listener>>,
    pub services: IndexMap<Spanned<String>, services::Settings>,
}

settings! {
    /// `[process]`
    pub struct Process as "process settings" {
        /// Threads that serve. Default: CPUs available, cgroup quota counted. A change needs a restart.
        workers: Option<Workers> = None,
        /// SIGTERM: how long requests in flight may take.
        drain: Grace = Grace(Duration::from_secs(25)),
        /// SIGTERM: how long to keep accepting while `/readyz` already fails.
        lame_duck: Grace = Grace(Duration::ZERO),
        /// All bodies that are held in memory at once; what would be beyond is not held.
        max_memory_bodies: Size = Size::mib(256),
        /// Where this process stands: pools prefer endpoints with the same `zone`.
        zone: Option<LabelText> = None,
        /// A file that keeps how far ramps have come. Default: one in the place that this system has for such things.
        state: Option<Spanned<PathBuf>> = None,
    }
}

impl Default for Process {
    fn default() -> Self {
        Self {
            workers: None,
            drain: Grace(Duration::from_secs(25)),
            lame_duck: Grace(Duration::ZERO),
            max_memory_bodies: Size::mib(256),
            zone: None,
            state: None,
        }
    }
}

/// What could be read of a document.
pub struct Parsed {
    pub file: File,
    /// Nothing was left out: every part could be read.
    pub is_whole: bool,
}

impl File {
    /// Every file that the configuration names and that is read with it: certificates, keys, authorities.
    pub fn named_files(&self) -> impl Iterator<Item = &PathBuf> {
        let listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| tls.files());
        let pools = self.services.values().filter_map(|service| match service {
            services::Settings::Pool(pool) => Some(pool.tls.files()),
            services::Settings::Shard(_)
            | services::Settings::Split(_)
            | services::Settings::Mirror(_)
            | services::Settings::Scatter(_)
            | services::Settings::Respond(_)
            | services::Settings::Redirect(_)
            | services::Settings::Health(_)
            | services::Settings::Metrics(_)
            | services::Settings::Logs(_) => None,
        });
        let reports = self.every_service().filter_map(|service| match service {
            services::Settings::Health(health) => Some(health.files()),
            _ => None,
        });
        let logs = self.every_service().filter_map(|service| match service {
            services::Settings::Logs(logs) => Some(logs.files()),
            _ => None,
        });
        let pages = self.every_service().filter_map(|service| match service {
            services::Settings::Metrics(metrics) => Some(metrics.files()),
            _ => None,
        });
        listeners.chain(pools.flatten()).chain(reports.flatten()).chain(logs.flatten()).chain(pages.flatten()).map(|path| &path.value)
    }

    /// Those that have a name, and those that are written in a route.
    fn every_service(&self) -> impl Iterator<Item = &services::Settings> {
        let inline = self.listeners.iter().flat_map(|listener| &listener.route).filter_map(|route| match &route.service {
            RouteService::Inline(settings) => Some(settings),
            RouteService::Named(_) => None,
        });
        self.services.values().chain(inline)
    }

    /// Where adapters hear, beside listeners.
    pub fn ears(&self) -> impl Iterator<Item = &Spanned<EarKey>> {
        self.every_service().flat_map(services::Settings::ears)
    }

    /// Whether a split has a ramp.
    pub fn has_ramps(&self) -> bool {
        self.every_service().any(|settings| matches!(settings, services::Settings::Split(split) if split.ramp.is_some()))
    }

    /// Reads what can be read; everything that is wrong is in `found` by then.
    ///
    /// A part with a mistake is left out, so that the others can still be looked at.
    pub fn parse(root: &Table, sources: &Sources, found: &mut Diagnostics) -> Parsed {
        let before = found.errors();
        let reader = &mut Reader::new(sources, found);
        let mut fields = Fields::table(root, Place::new(SourceId(0), 0..0));
        let process = fields.or("process", Process::default(), reader).unwrap_or_default();
        let log = fields.or("log", telemetry::Settings::default(), reader).unwrap_or_default();
        let admin = fields.or("admin", Admin::default(), reader).unwrap_or_default();
        let listeners = fields.or("listener", Each::<Fitted>(Vec::new()), reader).unwrap_or(Each(Vec::new())).0;
        let listeners = listeners.into_iter().map(|listener| listener.0).collect();
        let services = fields.or("service", NamedServices::default(), reader);
        let keys_are_known = fields.finish(reader).is_some();
        // Under a misspelt `[services.…]` every one would be missing too.
        if let (Some(services), true) = (&services, keys_are_known) {
            check_references(reader, &services.0);
            admin.check_names(reader, &services.0);
        }
        let services =
            services.unwrap_or_default().0.into_iter().filter_map(|(name, service): (_, Service)| Some((name, service.0?))).collect();
        Parsed { file: Self { process, log, admin, listeners, services }, is_whole: found.errors() == before }
    }
}

/// Every name of a service that anything mentions must be one.
fn check_references(reader: &mut Reader<'_>, services: &IndexMap<Spanned<String>, Service>) {
    for reference in std::mem::take(&mut reader.service_names) {
        if services.contains_key(&reference) {
            continue;
        }
        let name = &reference.value;
        let note = reader.error(reference.place, format!("there is no service `{name}`"));
        match nearest(name, services.keys().map(|name| name.as_str())) {
            Some(known) => note.help(format!("did you mean `{known}`?")),
            None => note.help(format!("write [service.{name}], or an address such as \"127.0.0.1:8080\"")),
        };
    }
}

/// A listener with what its protocol makes of it.
struct Fitted(Spanned<Listener>);

impl Decode for Fitted {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut listener = Spanned::<Listener>::decode(item, reader)?;
        protocol::fit(item, &mut listener.value, reader);
        Some(Self(listener))
    }
}

/// Those of a list that can be read.
struct Each<T>(Vec<T>);

impl<T: Decode> Decode for Each<T> {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        match &item.value {
            Value::Array(items) => Some(Self(items.iter().filter_map(|item| T::decode(item, reader)).collect())),
            _ => T::decode(item, reader).map(|one| Self(vec![one])),
        }
    }
}

/// `[process] workers`.
pub type Workers = Whole<1, 1024>;

/// `[service.NAME]`, each.
#[derive(Default)]
struct NamedServices(IndexMap<Spanned<String>, Service>);

impl Decode for NamedServices {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let help = "every service has a name: [service.NAME]";
        let Value::Table(table) = &item.value else {
            reader.error(item.place, format!("expected services by name, found {}", item.kind())).help(help);
            return None;
        };
        if let Some(entry) = table.entries.values().find(|entry| !matches!(entry.item.value, Value::Table(_))) {
            reader.error(entry.key_place, "this stands in [service], which has no name").help(help);
            return None;
        }
        IndexMap::decode(item, reader).map(Self)
    }
}

/// `None` where the settings are wrong: the name is still one that may be mentioned.
pub(super) struct Service(pub(super) Option<services::Settings>);

impl Decode for Service {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self(services::Settings::named(item, reader)))
    }
}
