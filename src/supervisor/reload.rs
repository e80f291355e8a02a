//! Reload: assemble → stage → publish → retire. All of it happens, or none.
//!
//! Everything that can fail comes before the swap.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::sockets::{AdminChange, Staged};
use super::{Assembled, Failed, Supervisor, assemble};
use crate::config::{self, Change};
use crate::explain::{self, Plan};
use crate::generation::{Generation, Listener, NamedPool};
use crate::services::split::Split;
use crate::telemetry::metrics::CertificateExpiry;
use crate::telemetry::{Access, Metrics, Settings, Sink};
use crate::upkeep::Followed;

/// How long a reload waits for removed sockets to be closed; usually a fraction of it.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// How the last reload went; the start counts as the first.
#[derive(Clone, Debug)]
pub struct LastReload {
    pub ok: bool,
    pub at: SystemTime,
    pub errors: Vec<String>,
}

impl LastReload {
    pub fn first(at: SystemTime) -> Self {
        Self { ok: true, at, errors: Vec::new() }
    }
}

/// What a reload came to.
#[derive(Clone, Debug)]
pub enum Reloaded {
    Done { generation: u64, changes: Vec<Change>, warnings: Vec<String> },
    Refused { errors: Vec<String> },
}

/// What a reload would do.
#[derive(Debug)]
pub struct Planned {
    /// Of the configuration that serves, and goes on.
    pub generation: u64,
    pub plan: Plan,
    pub warnings: Vec<String>,
}

impl Supervisor {
    /// Reads the configuration as a reload would, and lets go of it again.
    pub(super) fn plan(&self) -> Result<Planned, Vec<String>> {
        let serving = self.handle.live.pin();
        let planned = match assemble(&self.origin, &self.carried, Some(&serving)) {
            Ok(assembled) => {
                let mut plan = explain::plan(&serving, &assembled.generation, None);
                plan.changes.extend(renewed_certificates(&serving, &assembled.generation));
                Ok(Planned { generation: serving.number, plan, warnings: assembled.generation.warnings })
            }
            Err(failed) => Err(failed.found.one_per_line(&failed.sources)),
        };
        // Series of what was only looked at.
        self.carried.metrics.retain_live();
        planned
    }

    /// Reads the configuration again and serves it, or says why not and changes nothing.
    pub(super) async fn reload(&mut self, reason: &str) -> Reloaded {
        let previous = self.handle.live.pin();
        let reloaded = match assemble(&self.origin, &self.carried, Some(&previous)) {
            Ok(assembled) => self.swap(assembled, &previous).await,
            Err(failed) => {
                let Failed { sources, found, watched } = *failed;
                // The broken file may name new ones: watch those too, so that mending one is noticed.
                self.follow(&watched, &previous);
                Reloaded::Refused { errors: found.one_per_line(&sources) }
            }
        };
        let at = SystemTime::now();
        let last = match &reloaded {
            Reloaded::Done { generation, changes, .. } => {
                tracing::info!(generation, reason, changes = changes.len(), "reloaded");
                LastReload { ok: true, at, errors: Vec::new() }
            }
            Reloaded::Refused { errors } => {
                self.carried.metrics.reload_failed();
                for error in errors {
                    tracing::error!(reason, "reload refused: {error}");
                }
                LastReload { ok: false, at, errors: errors.clone() }
            }
        };
        *self.handle.state.last_reload.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = last;
        reloaded
    }

    /// A file was touched, which need not mean that it says anything new.
    pub(super) async fn reload_if_changed(&mut self) {
        let previous = self.handle.live.pin();
        let is_same =
            assemble(&self.origin, &self.carried, Some(&previous)).is_ok_and(|assembled| assembled.generation.hash == previous.hash);
        if !is_same || !self.handle.last_reload().ok {
            self.reload("change of a file").await;
        }
    }

    async fn swap(&mut self, assembled: Assembled, previous: &Arc<Generation>) -> Reloaded {
        let Assembled { generation, sources, mut found, watched } = assembled;
        let (log, before) = (&generation.file.log, &previous.file.log);
        let sink = if log.to == before.to && (log.access == Access::Off) == (before.access == Access::Off) {
            None
        } else {
            match open_sink(log, self.crew.count(), &self.carried.metrics) {
                Ok(sink) => Some(sink),
                Err(error) => {
                    found.error(log.to.place, format!("cannot open the access log: {error}"));
                    return Reloaded::Refused { errors: found.one_per_line(&sources) };
                }
            }
        };
        // Last of all that can fail, since new sockets let clients in.
        let Some(staged) = self.sockets.stage(&generation, self.crew.count(), &mut found) else {
            return Reloaded::Refused { errors: found.one_per_line(&sources) };
        };
        let mut changes = config::changes(&previous.file, &generation.file);
        changes.extend(renewed_certificates(previous, &generation));
        let warnings = generation.warnings.clone();
        let generation = Arc::new(generation);
        self.handle.live.publish(Arc::clone(&generation));
        let old_sink = sink.and_then(|sink| self.access.sink.swap(sink));
        self.apply_sockets(&generation, staged).await;
        self.crew.refresh().await;
        if let Some(old) = old_sink {
            // Nobody writes to it any more.
            old.flush_and_stop(Duration::from_secs(1));
        }
        if let Some(watch) = &self.watch {
            watch.follow(&watched);
        }
        self.note_generation(&generation);
        self.sockets.ears.closed(tokio::time::Instant::now() + CLOSING_MAX).await;
        Reloaded::Done { generation: generation.number, changes, warnings }
    }

    /// Tells workers and admin about sockets that came and went.
    pub(super) async fn apply_sockets(&mut self, generation: &Arc<Generation>, staged: Staged) {
        let (fresh, gone, admin) = self.sockets.commit(staged);
        for fresh in fresh {
            if let Some(listener) = generation.listener_at(&fresh.key) {
                self.crew.listen(&fresh.key, fresh.sockets, listener).await;
            }
        }
        let mut closing = Vec::with_capacity(gone.len());
        for key in gone {
            let closed = self.crew.retire(&key).await;
            closing.push((key, closed));
        }
        // An admin API whose thread is gone cannot be told.
        let _ = match admin {
            AdminChange::Kept => Ok(()),
            AdminChange::Closed => self.admin.send(None).await,
            AdminChange::Opened(socket) => self.admin.send(Some(socket)).await,
        };
        *self.handle.state.local.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = self.sockets.local_addresses();
        // Whoever is told that a reload is done may rely on it: what was removed is closed, and can be
        // bound again. A queue that waits for room is not waited for.
        let until = tokio::time::Instant::now() + CLOSING_MAX;
        for (key, mut closed) in closing {
            if tokio::time::timeout_at(until, closed.recv()).await.is_err() {
                self.sockets.note_closing(key, closed);
            }
        }
    }

    /// What metrics and the log say from now on.
    pub(super) fn note_generation(&self, generation: &Generation) {
        if let Some(log) = &self.log {
            log.set_level(generation.file.log.level);
        }
        let metrics = &self.carried.metrics;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        metrics.reloaded(generation.number, now);
        let expiries = generation.listeners.iter().flat_map(|listener| {
            let certificates = listener.tls.iter().flat_map(|tls| tls.certificates());
            certificates.map(|certificate| CertificateExpiry {
                listener: listener.name.clone(),
                name: certificate.name.clone(),
                unix_seconds: certificate.not_after,
            })
        });
        metrics.set_certificates(expiries.collect());
        generation.pools.iter().for_each(|named| named.pool.recount());
        generation.splits().for_each(Split::publish);
        self.upkeep.follow(Followed {
            pools: generation.pools.iter().map(|named| Arc::clone(&named.pool)).collect(),
            checks: generation.healths().flat_map(|health| &health.checks).map(Arc::clone).collect(),
            sources: generation.pages().flat_map(|page| &page.sources).map(Arc::clone).collect(),
            probes: generation.pages().filter_map(|page| page.probes.clone()).collect(),
            ears: self.sockets.ears.all(),
            flows: generation.logs().map(|log| Arc::clone(&log.flow)).collect(),
            ramped: generation.ramped().cloned().collect(),
            state: self.origin.state(&generation.file),
        });
        metrics.retain_live();
    }

    fn follow(&mut self, watched: &[std::path::PathBuf], previous: &Generation) {
        let Some(watch) = &self.watch else { return };
        let all: Vec<_> = watched.iter().chain(previous.file.named_files()).cloned().collect();
        watch.follow(&all);
    }
}

/// Certificates that changed where nothing in the text did.
fn renewed_certificates(old: &Generation, new: &Generation) -> Vec<Change> {
    let serials =
        |listener: &Listener| listener.tls.iter().flat_map(|tls| tls.certificates()).map(|c| c.serial.clone()).collect::<Vec<_>>();
    let settings = |generation: &Generation, name: &str| {
        let at = generation.listeners.iter().position(|listener| listener.name == name)?;
        Some((generation.file.listeners.get(at)?.tls.clone(), serials(generation.listeners.get(at)?)))
    };
    let names = new.listeners.iter().map(|listener| &listener.name);
    let renewed = names.filter(|name| match (settings(old, name), settings(new, name)) {
        (Some((old_tls, old)), Some((new_tls, new))) => old_tls == new_tls && old != new,
        _ => false,
    });
    let listeners = renewed.map(|name| format!("certificates of listener {name}"));
    let same = |new: &NamedPool| old.pools.iter().find(|old| old.pool.name == new.pool.name && old.settings == new.settings);
    let pools = new.pools.iter().filter(|new| same(new).is_some_and(|old| !Arc::ptr_eq(&old.pool, &new.pool)));
    let services = pools.map(|named| format!("certificates of service {}", named.pool.name));
    listeners.chain(services).map(|what| Change { what, kind: "changed", effect: "in place" }).collect()
}

/// The access log's sink; none while nothing is logged.
pub(super) fn open_sink(settings: &Settings, workers: usize, metrics: &Metrics) -> std::io::Result<Option<Arc<Sink>>> {
    if settings.access == Access::Off {
        return Ok(None);
    }
    Sink::open(&settings.to.value, workers, metrics.log_dropped()).map(|sink| Some(Arc::new(sink)))
}
