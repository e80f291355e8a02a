//! Sources as they are written.
//!
//! Opens none: `upkeep::logs` does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::settings::is_second;
use crate::tls::ConnectorSettings;
use crate::value::{Address, Choice, Decode, EarKeys, Fields, Grace, Item, Place, Reader, Server, ServerKind, Spanned};

/// Where lines come from.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    pub origin: Origin,
    /// What `source` says in records. Default: the path, or who sent it.
    pub name: Option<String>,
    pub tls: Option<Spanned<ConnectorSettings>>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    File(Files),
    /// Slow commands of a Redis.
    Slowlog(Server, Duration),
    Stdin,
    /// What programs send to these sockets.
    Syslog(EarKeys),
    /// Lines that clients post to the service.
    Http,
}

/// Files that are followed.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// A path, which may have `*`, `?`, `[…]` and `**`.
    pub pattern: PathBuf,
    /// What is not known yet is read from its end on.
    pub from_end: bool,
    /// For how long a file that went away is still read.
    pub rotate_wait: Duration,
}

/// Endings of files that are left alone.
pub const COMPRESSED: [&str; 6] = ["gz", "bz2", "xz", "zst", "lz4", "zip"];

const SOURCES: Choice<'_> = Choice {
    kinds: &["file", "redis_slowlog", "syslog", "stdin", "http"],
    rule: "a source is one thing, this is",
    missing: "nothing says where lines come from",
    example: "file = \"/var/log/app/*.log\"",
};

impl Decode for SourceSettings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "a source of logs", reader)?;
        let place = fields.place();
        let kinds = SOURCES.take(&mut fields);
        let start = fields.optional::<Spanned<String>>("start", reader);
        let rotate_wait = fields.optional::<Spanned<Grace>>("rotate_wait", reader);
        let interval = fields.optional::<Spanned<Duration>>("interval", reader);
        let name = fields.optional::<String>("name", reader);
        let tls = fields.optional::<Spanned<ConnectorSettings>>("tls", reader);
        fields.finish(reader)?;
        let (kind, entry) = SOURCES.only(&kinds, place, reader)?;
        let (start, rotate_wait, interval) = (start?, rotate_wait?, interval?);
        let of_files = start.as_ref().map(|start| ("start", start.place)).or(rotate_wait.as_ref().map(|wait| ("rotate_wait", wait.place)));
        if let (Some((key, place)), true) = (of_files, kind != "file") {
            reader.error(place, format!("`{key}` is for `file`, this is `{kind}`")).help("remove it");
            return None;
        }
        if let (Some(interval), true) = (&interval, kind != "redis_slowlog") {
            reader.error(interval.place, format!("`interval` is for `redis_slowlog`, this is `{kind}`")).help("remove it");
            return None;
        }
        let origin = match kind {
            "file" => {
                let pattern = PathBuf::decode(&entry.item, reader)?;
                let valid = glob::Pattern::new(&pattern.to_string_lossy()).map_err(|error| format!("this is no pattern: {}", error.msg));
                reader.accept(valid, entry.item.place, "write \"/var/log/app/*.log\"")?;
                if pattern.extension().is_some_and(|ending| COMPRESSED.iter().any(|known| ending == *known)) {
                    reader.error(entry.item.place, "what is compressed is not read").help("read it before it is compressed");
                    return None;
                }
                let rotate_wait = rotate_wait.map_or(Duration::from_secs(5), |wait| wait.value.0);
                let from_end = is_second(start, ["beginning", "end"], reader)?;
                Origin::File(Files { pattern, from_end, rotate_wait })
            }
            "redis_slowlog" => {
                let text = String::decode(&entry.item, reader)?;
                let server = reader.accept(ServerKind::REDIS.parse(&text), entry.item.place, "remove what does not belong there")?;
                Origin::Slowlog(server, interval.map_or(Duration::from_secs(1), |interval| interval.value))
            }
            "syslog" => Origin::Syslog(EarKeys::decode(&entry.item, reader)?),
            word => {
                if !bool::decode(&entry.item, reader)? {
                    reader.error(entry.item.place, format!("`{word} = false` is no source")).help("remove it");
                    return None;
                }
                if word == "stdin" { Origin::Stdin } else { Origin::Http }
            }
        };
        let source = Self { origin, name: name?, tls: tls?, place };
        if let (Some(tls), None) = (&source.tls, source.tls_address()) {
            reader.error(tls.place, "this source is not spoken to with TLS").help("remove `tls`, or write rediss://");
            return None;
        }
        Some(source)
    }
}

impl SourceSettings {
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| match &self.origin {
            Origin::File(files) => format!("file {}", files.pattern.display()),
            Origin::Slowlog(server, _) => format!("redis_slowlog {server}"),
            Origin::Stdin => "stdin".to_owned(),
            Origin::Syslog(ears) => format!("syslog {ears}"),
            Origin::Http => "http".to_owned(),
        })
    }

    /// Who is asked inside TLS.
    pub fn tls_address(&self) -> Option<&Address> {
        match &self.origin {
            Origin::Slowlog(server, _) => server.is_tls.then_some(&server.address),
            Origin::File(_) | Origin::Stdin | Origin::Syslog(_) | Origin::Http => None,
        }
    }
}

/// `*` is within one part of a path.
const MATCHING: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

impl Files {
    /// Whether a file at this path is wanted.
    pub fn finds(&self, path: &Path) -> bool {
        glob::Pattern::new(&self.pattern.to_string_lossy()).is_ok_and(|pattern| pattern.matches_path_with(path, MATCHING))
    }
}
