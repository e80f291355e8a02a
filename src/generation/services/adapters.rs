//! Adapters: health reports, pages of metrics, logs. What they have found stays, where nothing about them changed.
//!
//! Asks nobody and opens nothing; who is asked inside TLS is made ready here.

use std::sync::Arc;

use super::super::compile::Inputs;
use super::Services;
use crate::services::Service;
use crate::services::health::{self, Check, Health, Question};
use crate::services::logs::{self, Flow, Logs, Peers, SinkSettings};
use crate::services::metrics::probe::Module;
use crate::services::metrics::{self, Metrics, Probes, Source};
use crate::tls::{self, Connector};
use crate::value::{Address, Diagnostics, Place, Spanned};

impl Services<'_> {
    /// What a check has found stays, as long as it is written the same.
    pub(super) fn health(&self, name: &str, settings: &health::Settings, found: &mut Diagnostics) -> Option<Health> {
        let known = self.inputs.previous.and_then(|generation| generation.health(name));
        let compiled: Vec<Option<Arc<Check>>> = settings
            .checks
            .value
            .0
            .iter()
            .map(|(check, written)| {
                let peer = match written.question.tls_address() {
                    Some(address) => {
                        let alpn: &[tls::Protocol] = match written.question {
                            Question::Grpc { .. } => &[tls::Protocol::Http2],
                            Question::Http(_) => &[tls::Protocol::Http1],
                            _ => &[],
                        };
                        Some(self.peer(written.tls.as_ref(), address, alpn, settings.checks.place, found)?)
                    }
                    None => None,
                };
                let metrics = self.inputs.metrics.check(name, check);
                let new = Check::new(name, check, settings, written, peer, metrics);
                let same = known.and_then(|known| known.check(check)).filter(|known| known.is_as(&new));
                Some(same.map_or_else(|| Arc::new(new), Arc::clone))
            })
            .collect();
        Some(Health::new(name, compiled.into_iter().collect::<Option<_>>()?))
    }

    /// What a source said last stays, as long as it is written the same.
    pub(super) fn metrics(&self, name: &str, settings: &metrics::Settings, found: &mut Diagnostics) -> Option<Metrics> {
        let known = self.inputs.previous.and_then(|generation| generation.metrics(name));
        let compiled: Vec<Option<Arc<Source>>> = settings
            .from
            .value
            .iter()
            .map(|written| {
                let peer = match written.question.tls_address() {
                    Some(address) => Some(self.peer(written.tls.as_ref(), address, &[], written.place, found)?),
                    None => None,
                };
                let new = Source::new(settings, written, peer);
                Some(match known.and_then(|known| known.source(&new.name)) {
                    Some(same) if same.is_as(&new) => Arc::clone(same),
                    Some(other) => Arc::new(new.heir_of(other)),
                    None => Arc::new(new),
                })
            })
            .collect();
        let probes = if settings.probe.is_empty() { None } else { Some(self.probes(settings, known, found)?) };
        Some(Metrics::new(name, settings, compiled.into_iter().collect::<Option<_>>()?, probes))
    }

    pub(super) fn probes(&self, settings: &metrics::Settings, known: Option<&Metrics>, found: &mut Diagnostics) -> Option<Arc<Probes>> {
        let Inputs { read, sessions, now, .. } = *self.inputs;
        let default = tls::ConnectorSettings::default();
        let modules: Vec<Option<Module>> = settings
            .probe
            .iter()
            .map(|(name, written)| {
                let connector = if written.source.question.tls_address().is_some() {
                    let (tls, place) = written.source.tls.as_ref().map_or((&default, name.place), |tls| (&tls.value, tls.place));
                    Some(Connector::compile(tls, place, &[], read, sessions, found, now)?)
                } else {
                    None
                };
                Some(Module { name: name.value.clone(), settings: written.clone(), connector })
            })
            .collect();
        let new = Probes::new(settings, modules.into_iter().collect::<Option<_>>()?);
        let same = known.and_then(|known| known.probes.as_ref()).filter(|known| known.is_as(&new));
        Some(same.map_or_else(|| Arc::new(new), Arc::clone))
    }

    /// What a log has read stays, as long as it is written the same; how far it has come, in any case.
    pub(super) fn logs(&self, name: &str, settings: &Arc<logs::Settings>, found: &mut Diagnostics) -> Option<Logs> {
        if let Some(checkpoint) = &settings.checkpoint {
            let same = self.others.iter().find_map(|other| match &*other.service {
                Service::Logs(logs) => {
                    logs.flow.settings.checkpoint.as_ref().filter(|other| other.value == checkpoint.value).map(|_| &other.name)
                }
                _ => None,
            });
            if let Some(other) = same {
                found.error(checkpoint.place, format!("`{other}` has the same checkpoint")).help("give each log a file of its own");
                return None;
            }
        }
        let reads_stdin = |settings: &logs::Settings| settings.from.value.iter().any(|source| source.origin == logs::Origin::Stdin);
        if reads_stdin(settings)
            && let Some(other) =
                self.others.iter().find(|other| matches!(&*other.service, Service::Logs(logs) if reads_stdin(&logs.flow.settings)))
        {
            found.error(settings.from.place, format!("`{}` reads standard input", other.name)).help("read it in one log");
            return None;
        }
        // Two families of one name would make the page one that nobody can read.
        for count in &settings.count.value {
            let counts = |logs: &Logs| logs.flow.settings.count.value.iter().any(|other| other.name.value == count.name.value);
            let same = self.others.iter().find(|other| matches!(&*other.service, Service::Logs(logs) if counts(logs)));
            if let Some(other) = same {
                let message = format!("`{}` counts something by the name `{}`", other.name, count.name.value.0);
                found.error(count.name.place, message).help("give each count a name of its own");
                return None;
            }
        }
        let peers = self.peers_of_log(settings, found)?;
        let known = self.inputs.previous.and_then(|generation| generation.log(name)).map(|log| &log.flow);
        let flow = match known {
            Some(same) if same.is_as(settings, &peers) => Arc::clone(same),
            _ => Arc::new(Flow::new(name, settings, peers, self.inputs.metrics.log(name), known.map(|known| &**known))),
        };
        Some(Logs { name: name.to_owned(), flow })
    }

    fn peers_of_log(&self, settings: &logs::Settings, found: &mut Diagnostics) -> Option<Peers> {
        let mut peer = |tls, address: Option<&Address>, alpn, place| match address {
            Some(address) => self.peer(tls, address, alpn, place, found).map(Some),
            None => Some(None),
        };
        let sources: Vec<_> =
            settings.from.value.iter().map(|source| peer(source.tls.as_ref(), source.tls_address(), &[], source.place)).collect();
        let sinks: Vec<_> = settings
            .to
            .iter()
            .map(|sink| {
                let alpn: &[tls::Protocol] = if matches!(sink, SinkSettings::Syslog(_)) { &[] } else { &[tls::Protocol::Http1] };
                peer(sink.tls(), sink.tls_address(), alpn, sink.place().unwrap_or(settings.from.place))
            })
            .collect();
        Some(Peers { sources: sources.into_iter().collect::<Option<_>>()?, sinks: sinks.into_iter().collect::<Option<_>>()? })
    }

    /// Who is asked inside TLS.
    pub(super) fn peer(
        &self,
        written: Option<&Spanned<tls::ConnectorSettings>>,
        address: &Address,
        alpn: &[tls::Protocol],
        place: Place,
        found: &mut Diagnostics,
    ) -> Option<tls::Peer> {
        let Inputs { read, sessions, now, .. } = *self.inputs;
        let default = tls::ConnectorSettings::default();
        let (settings, place) = written.map_or((&default, place), |tls| (&tls.value, tls.place));
        let connector = Connector::compile(settings, place, alpn, read, sessions, found, now)?;
        let name = match &settings.server_name {
            Some(name) => name.0.clone(),
            None => match tls::Name::parse(&address.host()) {
                Ok(name) => name.0,
                Err(reason) => {
                    found.error(place, reason).help("write tls = { server_name = \"app.internal\" }");
                    return None;
                }
            },
        };
        Some(connector.peer(name))
    }
}
