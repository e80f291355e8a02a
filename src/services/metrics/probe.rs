//! Sources that whoever scrapes names: `/probe?module=cache&target=10.0.0.7:6379`.
//!
//! Whom they may name, the configuration says, and what gets one in there is never theirs to say. Asks nobody.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use ipnet::IpNet;
use regex::Regex;
use tokio::sync::{Notify, Semaphore};

use super::settings::{Question, Settings, SourceSettings};
use super::{Document, Source};
use crate::tls::{self, Connector};
use crate::value::{Address, Decode, Entry, Item, Reader, Spanned, Text, Value};

/// How targets are asked, and which there may be.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleSettings {
    /// Of a target that nobody has.
    pub source: SourceSettings,
    /// For targets that name none.
    port: u16,
    allowed: Vec<Allowed>,
}

/// An entry of `targets`.
#[derive(Clone, Debug)]
enum Allowed {
    /// Addresses that are written as such. A name is none, whatever it resolves to.
    Network(IpNet, Option<u16>),
    /// Host and port.
    Pattern(Regex),
}

impl PartialEq for Allowed {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Network(network, port), Self::Network(other, other_port)) => (network, port) == (other, other_port),
            (Self::Pattern(pattern), Self::Pattern(other)) => pattern.as_str() == other.as_str(),
            _ => false,
        }
    }
}

const HOLE: &str = "{target}";
/// Stands in the hole while settings are read; `.invalid` is nobody's (RFC 6761).
const NOBODY: &str = "target.attache.invalid";
const KINDS: [&str; 7] = ["redis", "memcached", "mysql", "postgres", "prometheus", "json", "text"];
/// Targets that are asked at once: whoever scrapes could have each of thousands of them read on a thread of its own.
pub const TARGETS_ASKED_MAX: usize = 64;
/// Targets that are remembered.
const TARGETS_MAX: usize = 256;
const TARGET_BYTES_MAX: usize = 300;

impl Allowed {
    fn parse(text: &str) -> Result<Self, String> {
        let (network, port) = match text.strip_prefix('[') {
            Some(inside) => {
                let (network, port) = inside.split_once(']').ok_or_else(|| format!("`{text}` has no `]`"))?;
                (network, port.strip_prefix(':'))
            }
            None => match text.split_once('/') {
                Some((address, length)) => match length.split_once(':') {
                    Some((length, port)) => (&text[..=address.len() + length.len()], Some(port)),
                    None => (text, None),
                },
                None => return Self::pattern(text),
            },
        };
        if !network.contains('/') {
            return Self::pattern(text);
        }
        let network = network.parse().map_err(|_| format!("`{network}` is not a network"))?;
        let port = port.map(|port| port.parse().map_err(|_| format!("`{port}` is not a port"))).transpose()?;
        Ok(Self::Network(network, port))
    }

    fn pattern(text: &str) -> Result<Self, String> {
        if !text.contains(':') {
            return Err(format!("`{text}` has no port"));
        }
        // A star stays within one label of a name, so that `a-*.internal` is nobody else's.
        let pattern = text.to_ascii_lowercase().split('*').map(regex::escape).collect::<Vec<_>>().join("[^.:]*");
        Regex::new(&format!("^{pattern}$")).map(Self::Pattern).map_err(|_| format!("`{text}` is too long"))
    }

    fn has(&self, target: &Address) -> bool {
        match (self, target) {
            (Self::Network(network, port), Address::Tcp(address)) => {
                network.contains(&address.ip().to_canonical()) && port.is_none_or(|port| port == address.port())
            }
            (Self::Network(..), _) => false,
            (Self::Pattern(pattern), target) => pattern.is_match(&target.to_string()),
        }
    }
}

impl Decode for ModuleSettings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut item = item.clone();
        let Value::Table(table) = &mut item.value else {
            reader.error(item.place, format!("expected a module in a table, found {}", item.kind()));
            return None;
        };
        let Some(targets) = table.entries.shift_remove("targets") else {
            reader
                .error(item.place, "nothing says whom this may be asked of")
                .help("write targets = [\"10.0.0.0/8:6379\", \"cache-*.internal:6379\"]");
            return None;
        };
        let kind = table.entries.iter_mut().find(|(key, _)| KINDS.contains(&key.as_str()));
        let Some((kind, Entry { item: Item { value: Value::String(Text { value, .. }), place }, .. })) = kind else {
            let kinds = KINDS.join("`, `");
            reader
                .error(item.place, "nothing says how targets are asked")
                .help(format!("write one of `{kinds}`, such as redis = \"{HOLE}\""));
            return None;
        };
        let (kind, place) = (kind.clone(), *place);
        let help = format!("write {HOLE} in place of the host and the port, such as \"{kind}://user:password@{HOLE}\"");
        if value.matches(HOLE).count() != 1 {
            reader.error(place, format!("`{HOLE}` is to be there once")).help(help);
            return None;
        }
        *value = value.replacen(HOLE, NOBODY, 1);
        // A bare address has its port with it.
        if value == NOBODY {
            *value = format!("{kind}://{NOBODY}");
        }
        let source = SourceSettings::decode(&item, reader)?;
        let Some(Address::Name(host, port)) = address(&source.question) else { return None };
        if host != NOBODY {
            reader.error(place, format!("`{HOLE}` is not where the host and the port are")).help(help);
            return None;
        }
        let port = *port;
        let written: Vec<Spanned<String>> = Vec::decode(&targets.item, reader)?;
        let help = "write \"10.0.0.0/8:6379\", \"10.0.0.0/8\" or \"cache-*.internal:6379\"";
        if written.is_empty() {
            reader.error(targets.item.place, "then nobody may be asked").help(help);
            return None;
        }
        let allowed: Vec<Option<Allowed>> = written.iter().map(|text| reader.accept(Allowed::parse(text), text.place, help)).collect();
        Some(Self { source, port, allowed: allowed.into_iter().collect::<Option<_>>()? })
    }
}

fn address(question: &Question) -> Option<&Address> {
    match question {
        Question::Redis(server) | Question::Memcached(server) | Question::Mysql(server, _) | Question::Postgres(server, _) => {
            Some(&server.address)
        }
        Question::Prometheus(at, _) | Question::Json(at, _) | Question::Text(at, _) => Some(&at.url.address),
        Question::Exec(_) | Question::Process(_) | Question::Statsd(_) => None,
    }
}

impl ModuleSettings {
    /// Host and perhaps a port, and nothing else.
    fn target(&self, text: &str) -> Option<Address> {
        if text.is_empty() || text.len() > TARGET_BYTES_MAX || text.starts_with("unix:") || text.contains(['@', '/', '?', '#', '%']) {
            return None;
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Address::Tcp((address.to_canonical(), self.port).into()));
        }
        let has_port = text.contains(':');
        match Address::parse(&if has_port { text.to_owned() } else { format!("{text}:{}", self.port) }).ok()? {
            // What is written in two ways is one, and is asked and allowed as such.
            Address::Tcp(address) => Some(Address::Tcp((address.ip().to_canonical(), address.port()).into())),
            address => Some(address),
        }
    }

    /// As if it was written.
    fn source(&self, target: &Address) -> SourceSettings {
        let mut source = SourceSettings { name: Some(target.to_string()), ..self.source.clone() };
        match &mut source.question {
            Question::Redis(server) | Question::Memcached(server) | Question::Mysql(server, _) | Question::Postgres(server, _) => {
                server.address = target.clone();
            }
            Question::Prometheus(Document { url, .. }, _)
            | Question::Json(Document { url, .. }, _)
            | Question::Text(Document { url, .. }, _) => {
                url.address = target.clone();
                url.authority = target.to_string();
            }
            Question::Exec(_) | Question::Process(_) | Question::Statsd(_) => {}
        }
        source
    }
}

/// A compiled module.
pub struct Module {
    pub name: String,
    pub settings: ModuleSettings,
    /// For who is asked inside TLS.
    pub connector: Option<Connector>,
}

/// What may be asked, and of whom it was lately.
pub struct Probes {
    page: Settings,
    modules: Vec<Module>,
    gate: Arc<Semaphore>,
    inner: Mutex<Inner>,
    /// Those that are asked have changed.
    pub changed: Notify,
}

#[derive(Default)]
struct Inner {
    /// With when each was last wanted, in askings.
    sources: HashMap<(usize, Address), (Arc<Source>, u64)>,
    askings: u64,
}

/// Why nobody is asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    NoModule,
    UnknownModule(String),
    NoTarget,
    NotAllowed,
    /// It cannot be the name of who is asked inside TLS.
    Unnameable(String),
}

impl Refused {
    pub fn status(&self) -> u16 {
        match self {
            Self::NoModule | Self::NoTarget | Self::Unnameable(_) => 400,
            Self::UnknownModule(_) => 404,
            Self::NotAllowed => 403,
        }
    }

    pub fn text(&self) -> String {
        match self {
            Self::NoModule => "say which module, such as ?module=NAME&target=HOST:PORT".to_owned(),
            Self::UnknownModule(known) => format!("there is no such module; known are {known}"),
            Self::NoTarget => "a target is HOST or HOST:PORT, without a login, a scheme or a path".to_owned(),
            Self::NotAllowed => "this module may not ask that target; its `targets` say whom".to_owned(),
            Self::Unnameable(reason) => reason.clone(),
        }
    }
}

impl Probes {
    pub fn new(page: &Settings, modules: Vec<Module>) -> Self {
        Self {
            page: page.clone(),
            modules,
            gate: Arc::new(Semaphore::new(TARGETS_ASKED_MAX)),
            inner: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Whether `other` would ask the same. Who is asked inside TLS may have another certificate to show.
    pub fn is_as(&self, other: &Self) -> bool {
        let rules = |probes: &Self| (probes.page.timeout, probes.page.min_interval, probes.page.max_series);
        rules(self) == rules(other) && self.page.probe == other.page.probe && self.modules.iter().all(|module| module.connector.is_none())
    }

    /// Who is to be asked.
    ///
    /// # Errors
    ///
    /// Why nobody is.
    pub fn source(&self, module: Option<&str>, target: Option<&str>) -> Result<Arc<Source>, Refused> {
        let name = module.ok_or(Refused::NoModule)?;
        let known = || self.modules.iter().map(|module| module.name.as_str()).collect::<Vec<_>>().join(", ");
        let (index, module) =
            self.modules.iter().enumerate().find(|(_, module)| module.name == name).ok_or_else(|| Refused::UnknownModule(known()))?;
        let target = target.and_then(|text| module.settings.target(text)).ok_or(Refused::NoTarget)?;
        if !module.settings.allowed.iter().any(|allowed| allowed.has(&target)) {
            return Err(Refused::NotAllowed);
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.askings += 1;
        let now = inner.askings;
        let key = (index, target);
        if let Some((source, used)) = inner.sources.get_mut(&key) {
            *used = now;
            return Ok(Arc::clone(source));
        }
        let peer = match &module.connector {
            Some(connector) => {
                let written = module.settings.source.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
                let name = match written {
                    Some(name) => name.0.clone(),
                    None => tls::Name::parse(&key.1.host()).map_err(Refused::Unnameable)?.0,
                };
                Some(connector.peer(name))
            }
            None => None,
        };
        let source = Source::new(&self.page, &module.settings.source(&key.1), peer);
        let source = Arc::new(source.behind(Arc::clone(&self.gate)));
        if inner.sources.len() >= TARGETS_MAX
            && let Some(oldest) = inner.sources.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            inner.sources.remove(&oldest);
        }
        inner.sources.insert(key, (Arc::clone(&source), now));
        drop(inner);
        self.changed.notify_one();
        Ok(source)
    }

    /// Those that may be asked now.
    pub fn sources(&self) -> Vec<Arc<Source>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sources.values().map(|(source, _)| Arc::clone(source)).collect()
    }
}

/// By name.
pub type Modules = IndexMap<Spanned<String>, ModuleSettings>;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::tests::decode;
    use super::super::{Collected, Wait};
    use super::*;

    fn probes(module: &str) -> Probes {
        let settings: Settings = decode(&format!("{{ from = [], probe = {{ m = {module} }} }}"));
        let modules =
            settings.probe.iter().map(|(name, settings)| Module { name: name.value.clone(), settings: settings.clone(), connector: None });
        Probes::new(&settings, modules.collect())
    }

    fn asked(probes: &Probes, target: &str) -> Result<String, Refused> {
        probes.source(Some("m"), Some(target)).map(|source| address(&source.settings.question).unwrap().to_string())
    }

    #[test]
    fn only_who_is_allowed_is_asked() {
        let probes = probes(
            "{ redis = \"redis://:s@{target}\", targets = [\"10.0.0.0/8:6379\", \"fd00::/8\", \"[fe80::/10]:1\", \"cache-*.internal:6379\"] }",
        );
        for (target, expected) in [
            ("10.1.2.3", "10.1.2.3:6379"),
            ("10.1.2.3:6379", "10.1.2.3:6379"),
            ("::ffff:10.1.2.3", "10.1.2.3:6379"),
            ("[::ffff:10.1.2.3]:6379", "10.1.2.3:6379"),
            ("fd00::1", "[fd00::1]:6379"),
            ("[fd00::1]:7", "[fd00::1]:7"),
            ("[fe80::1]:1", "[fe80::1]:1"),
            ("cache-a.internal", "cache-a.internal:6379"),
            ("CACHE-a.internal:6379", "cache-a.internal:6379"),
        ] {
            assert_eq!(asked(&probes, target), Ok(expected.to_owned()), "{target}");
        }
        for target in
            ["10.1.2.3:6380", "11.0.0.1", "localhost", "cache-a.evil.internal", "cache-a.internal.evil:6379", "fe80::1", "10.0.0.1.nip.io"]
        {
            assert_eq!(asked(&probes, target), Err(Refused::NotAllowed), "{target}");
        }
        for target in [
            "",
            "u:p@10.0.0.1",
            "redis://10.0.0.1",
            "10.0.0.1/x",
            "10.0.0.1?x",
            "unix:/run/a",
            "010.0.0.1",
            "10.0.0.1:x",
            "0x0a000001",
            "a b",
        ] {
            let refused = asked(&probes, target);
            assert!(matches!(refused, Err(Refused::NoTarget | Refused::NotAllowed)), "{target} {refused:?}");
        }
        assert_eq!(probes.source(Some("n"), Some("10.0.0.1")).err(), Some(Refused::UnknownModule("m".to_owned())));
    }

    #[test]
    fn no_more_targets_are_asked_at_once_than_a_bound() {
        let (probes, now) = (probes("{ memcached = \"{target}\", targets = \"10.0.0.0/8\" }"), Instant::now());
        let source = |number: usize| probes.source(Some("m"), Some(&format!("10.0.0.{number}"))).unwrap();
        for number in 0..TARGETS_ASKED_MAX {
            assert!(matches!(source(number).ask(now), Err(Wait::News(_))), "{number}");
        }
        assert!(matches!(source(200).ask(now), Err(Wait::Crowd)));
        // Who is asked already may be waited for.
        assert!(matches!(source(0).ask(now), Err(Wait::News(_))));
        let page = source(0).blank(now);
        source(0).publish(Collected { began: now, took: Duration::ZERO, page, table: None, error: None });
        assert!(matches!(source(200).ask(now), Err(Wait::News(_))));
        assert!(matches!(source(201).ask(now), Err(Wait::Crowd)));
    }

    #[test]
    fn the_oldest_targets_are_forgotten() {
        let probes = probes("{ memcached = \"{target}\", targets = \"10.0.0.0/8\" }");
        let first = probes.source(Some("m"), Some("10.0.0.1")).unwrap();
        for number in 0..TARGETS_MAX {
            probes.source(Some("m"), Some("10.0.0.1")).unwrap();
            probes.source(Some("m"), Some(&format!("10.1.{}.{}", number / 250, number % 250))).unwrap();
        }
        assert_eq!(probes.sources().len(), TARGETS_MAX);
        assert!(Arc::ptr_eq(&first, &probes.source(Some("m"), Some("10.0.0.1")).unwrap()));
        let names: Vec<String> = probes.sources().iter().map(|source| source.name.clone()).collect();
        assert!(!names.contains(&"10.1.0.0:11211".to_owned()));
    }
}
