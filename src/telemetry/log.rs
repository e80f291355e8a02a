//! The process's own log, `[log]`: what attache itself has to say, one line each, on stderr.
//!
//! Requests are not logged here, see [`super::access`]. A stderr that nobody reads costs records, not time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::access::Format;
use super::sink::{Sink, To};
use crate::value::{Place, SourceId, Spanned};

crate::settings! {
    /// What is logged, and where to.
    pub struct Settings as "the log" {
        /// Least important message of attache itself that is logged, on stderr: `"error"`, `"warn"`, `"info"` (default), `"debug"`
        /// or `"trace"`. `ATTACHE_LOG` overrides it.
        level: Level = Level::Info,
        /// Whether and how each request is logged: `"json"`, `"common"`, `"combined"` or `"off"` (default).
        access: Access = Access::Off,
        /// Where requests are logged: `"stdout"` (default), `"stderr"` or a path. A slow or full destination never delays a
        /// request; records it does not take are dropped and counted in `attache_log_dropped_total`.
        to: Spanned<To> = Spanned::new(To::Stdout, NOWHERE),
    }
}

/// Of what is not written.
const NOWHERE: Place = Place { source: SourceId(0), start: 0, end: 0 };

impl Default for Settings {
    fn default() -> Self {
        Self { level: Level::Info, access: Access::Off, to: Spanned::new(To::Stdout, NOWHERE) }
    }
}

crate::words! {
    /// Importance of a message.
    pub enum Level as "a log level" {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
}

crate::words! {
    /// The access log's format, or none.
    pub enum Access as "a format of the access log" {
        Off = "off",
        Json = "json",
        Common = "common",
        Combined = "combined",
    }
}

impl Access {
    pub fn format(self) -> Option<Format> {
        match self {
            Self::Off => None,
            Self::Json => Some(Format::Json),
            Self::Common => Some(Format::Common),
            Self::Combined => Some(Format::Combined),
        }
    }
}

/// The log of this process. Keep it, and [`stop`](Log::stop) it last.
#[derive(Debug)]
pub struct Log {
    sink: Arc<Sink>,
    filter: reload::Handle<EnvFilter, Registry>,
    is_overridden: bool,
}

/// Starts the log of the process, once. `override_with` is the value of `ATTACHE_LOG`, if it is set; `dropped` counts what
/// stderr does not take.
pub fn init(level: Level, override_with: Option<&str>, dropped: Arc<AtomicU64>) -> Result<Log, String> {
    let sink = Sink::open(&To::Stderr, 1, dropped).map_err(|error| format!("stderr cannot be logged to: {error}"))?;
    let (log, subscriber) = build(level, override_with, sink)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())?;
    Ok(log)
}

fn build(level: Level, override_with: Option<&str>, sink: Sink) -> Result<(Log, impl Subscriber + Send + Sync + use<>), String> {
    let filter = match override_with {
        // A lone word that is no level would name a module and silence all others.
        Some(text) if text.bytes().all(|b| b.is_ascii_alphabetic()) && text.parse::<tracing::level_filters::LevelFilter>().is_err() => {
            return Err(format!("ATTACHE_LOG=\"{text}\": write error, warn, info, debug or trace"));
        }
        Some(text) => EnvFilter::try_new(text).map_err(|error| format!("ATTACHE_LOG=\"{text}\": {error}"))?,
        None => filter(level),
    };
    let sink = Arc::new(sink);
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(Lines(Arc::clone(&sink)));
    let subscriber = Registry::default().with(filter).with(lines);
    Ok((Log { sink, filter: handle, is_overridden: override_with.is_some() }, subscriber))
}

/// Below `info` only our own messages: libraries have a lot to say that helps nobody who runs attache.
fn filter(level: Level) -> EnvFilter {
    let own = match level {
        Level::Error | Level::Warn => level.word(),
        Level::Info => "warn,attache=info",
        Level::Debug => "warn,attache=debug",
        Level::Trace => "warn,attache=trace",
    };
    // It warns of each line of resolv.conf that it does not know, at each look-up.
    EnvFilter::new(format!("{own},hickory_resolver=error,hickory_net=error"))
}

impl Log {
    /// After a reload. `ATTACHE_LOG` stays stronger.
    pub fn set_level(&self, level: Level) {
        if !self.is_overridden {
            // It fails once the subscriber is gone, and then there is nothing to filter.
            let _ = self.filter.reload(filter(level));
        }
    }

    /// Writes what is there; false if stderr did not take it within `deadline`.
    pub fn stop(&self, deadline: Duration) -> bool {
        self.sink.flush_and_stop(deadline)
    }
}

struct Lines(Arc<Sink>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;
    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

/// Gets one event at a time, whole.
struct Line<'a>(&'a Sink);

impl io::Write for Line<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        self.0.append(0, |out| {
            // A message may quote what a stranger sent; it must not become a second line or move the cursor.
            out.extend(text.iter().map(|&byte| if byte.is_ascii_control() { b' ' } else { byte }));
            out.push(b'\n');
        });
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Decode as _, Diagnostics, Entry, Item, Reader, Sources, Table, Text, Value};

    const LONG: Duration = Duration::from_secs(60);

    /// What is logged by `say` comes back as lines.
    fn logged(level: Level, override_with: Option<&str>, say: impl FnOnce(&Log)) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let sink = Sink::open(&To::File(path.clone()), 1, Arc::default()).unwrap();
        let (log, subscriber) = build(level, override_with, sink).unwrap();
        tracing::subscriber::with_default(subscriber, || say(&log));
        assert!(log.stop(LONG));
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_message_is_one_line_with_time_level_and_fields() {
        let lines = logged(Level::Info, None, |_| tracing::info!(generation = 3, "serving"));
        let parts: Vec<_> = lines[0].split_whitespace().collect();
        assert_eq!(parts[1..], ["INFO", "serving", "generation=3"]);
        assert!(parts[0].parse::<jiff::Timestamp>().is_ok(), "{}", parts[0]);
    }

    #[test]
    fn a_quoted_stranger_forges_no_line() {
        let lines = logged(Level::Info, None, |_| tracing::warn!(path = %"/\r\n2026 ERROR \x1b[2J", "odd\nrequest"));
        assert_eq!(lines.len(), 1);
        assert!(!lines[0].contains(char::is_control));
    }

    #[test]
    fn the_level_is_obeyed_and_can_be_changed() {
        let lines = logged(Level::Warn, None, |log| {
            tracing::info!("one");
            log.set_level(Level::Debug);
            tracing::debug!("two");
            log.set_level(Level::Error);
            tracing::warn!("three");
        });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with("two"));
    }

    #[test]
    fn libraries_stay_quiet_below_warnings() {
        let lines = logged(Level::Trace, None, |_| {
            tracing::info!(target: "h2", "chatter");
            tracing::warn!(target: "h2", "trouble");
            tracing::trace!("detail");
        });
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn the_environment_is_stronger_than_the_configuration() {
        let lines = logged(Level::Trace, Some("error"), |log| {
            log.set_level(Level::Trace);
            tracing::warn!("no");
            tracing::error!("yes");
        });
        assert_eq!(lines.len(), 1);
        for wrong in ["attache=loud", "loud"] {
            let sink = Sink::open(&To::Stderr, 1, Arc::default()).unwrap();
            assert!(build(Level::Info, Some(wrong), sink).is_err_and(|error| error.contains("ATTACHE_LOG")), "{wrong}");
        }
    }

    fn decode(pairs: &[(&str, &str)]) -> (Option<Settings>, Diagnostics) {
        let mut sources = Sources::default();
        sources.add("/etc/attache/a.toml", "");
        let mut found = Diagnostics::default();
        let string = |text: &str| Value::String(Text { written: text.to_owned(), value: text.to_owned() });
        let entry = |text: &str| Entry { key_place: NOWHERE, item: Item { value: string(text), place: NOWHERE } };
        let entries = pairs.iter().map(|(key, text)| ((*key).to_owned(), entry(text))).collect();
        let item = Item { value: Value::Table(Table { entries }), place: NOWHERE };
        (Settings::decode(&item, &mut Reader::new(&sources, &mut found)), found)
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        assert_eq!(decode(&[]).0, Some(Settings::default()));
    }

    #[test]
    fn destinations_are_streams_or_paths_beside_the_file_that_names_them() {
        let to = |text| decode(&[("to", text)]).0.map(|settings| settings.to.value);
        assert_eq!(to("stderr"), Some(To::Stderr));
        assert_eq!(to("access.log"), Some(To::File("/etc/attache/access.log".into())));
        assert_eq!(to("/var/log/a.log"), Some(To::File("/var/log/a.log".into())));
        assert_eq!(to(""), None);
    }

    #[test]
    fn unknown_words_are_refused() {
        assert!(decode(&[("level", "warning")]).1.has_errors());
        assert!(decode(&[("access", "clf")]).1.has_errors());
        assert!(decode(&[("path", "x")]).1.has_errors());
    }
}
