//! The document as a whole: what `load` found, given meaning.
//!
//! Pure data that can be compared: reading files and compiling are other modules' work.

use std::time::Duration;

use indexmap::IndexMap;

use super::listener::Listener;
use crate::services;
use crate::settings;
use crate::telemetry;
use crate::value::{Address, Decode, Diagnostics, Fields, Item, Place, Reader, SourceId, Sources, Spanned, Table};

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
        workers: Option<Spanned<u32>> = None,
        /// SIGTERM: how long requests in flight may take.
        drain: Duration = Duration::from_secs(25),
        /// SIGTERM: how long to keep accepting while `/readyz` already fails.
        lame_duck: Duration = Duration::ZERO,
    }
}

impl Default for Process {
    fn default() -> Self {
        Self { workers: None, drain: Duration::from_secs(25), lame_duck: Duration::ZERO }
    }
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    On(Spanned<Address>),
    Off,
}

impl Default for Admin {
    fn default() -> Self {
        let address = Address::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], 9901)));
        Self::On(Spanned::new(address, Place::new(SourceId(0), 0..0)))
    }
}

impl Decode for Admin {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "admin settings", reader)?;
        let listen = fields.optional::<super::listener::Listen>("listen", reader);
        let off = fields.or("off", false, reader);
        fields.finish(reader)?;
        match (listen?, off?) {
            (_, true) => Some(Self::Off),
            (Some(listen), false) => Some(Self::On(listen.0)),
            (None, false) => Some(Self::default()),
        }
    }
}

const WORKERS_MAX: u32 = 1024;

impl File {
    /// `None` if anything is wrong; everything that is wrong is in `found` by then.
    pub fn parse(root: &Table, sources: &Sources, found: &mut Diagnostics) -> Option<Self> {
        let start = Place::new(SourceId(0), 0..0);
        let reader = &mut Reader { sources, found };
        let mut fields = Fields::table(root, start);
        let process = fields.or("process", Process::default(), reader);
        let log = fields.or("log", telemetry::Settings::default(), reader);
        let admin = fields.or("admin", Admin::default(), reader);
        let listeners = fields.or::<Vec<Spanned<Listener>>>("listener", Vec::new(), reader);
        let services = fields.or::<IndexMap<Spanned<String>, Service>>("service", IndexMap::new(), reader);
        fields.finish(reader)?;
        let process = process?;
        if let Some(workers) = process.workers.as_ref().filter(|workers| !(1..=WORKERS_MAX).contains(&workers.value)) {
            reader.error(workers.place, format!("{} workers", workers.value)).help(format!("1 to {WORKERS_MAX}, or remove the key"));
            return None;
        }
        let services = services?.into_iter().map(|(name, service)| (name, service.0)).collect();
        Some(Self { process, log: log?, admin: admin?, listeners: listeners?, services })
    }
}

struct Service(services::Settings);

impl Decode for Service {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        services::Settings::named(item, reader).map(Self)
    }
}
