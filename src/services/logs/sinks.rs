//! Sinks as they are written.
//!
//! Opens none and asks none: `upkeep::logs` does.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;

use super::settings::{Word, is_second};
use crate::tls::ConnectorSettings;
use crate::value::{Address, Choice, Decode, EarKey, Fields, Item, Place, Reader, Spanned, Url, Value};

/// Where records go.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkSettings {
    Stdout,
    File(PathBuf),
    Http(Posting),
    Otlp(Posting),
    Syslog(Telling),
}

/// Whom batches of records are posted to.
#[derive(Clone, Debug, PartialEq)]
pub struct Posting {
    pub url: Url,
    pub headers: Vec<(String, String)>,
    pub gzip: bool,
    pub timeout: Duration,
    /// What it refuses for good is dropped and counted; else it is tried again for ever.
    pub drops_refused: bool,
    pub tls: Option<Spanned<ConnectorSettings>>,
    pub place: Spanned<()>,
}

/// Who is told records as syslog.
#[derive(Clone, Debug, PartialEq)]
pub struct Telling {
    pub transport: Transport,
    pub address: Address,
    pub timeout: Duration,
    pub tls: Option<Spanned<ConnectorSettings>>,
    pub place: Spanned<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP, or datagrams of a unix socket.
    Datagrams,
    /// TCP, or a stream of a unix socket.
    Stream,
    /// A stream inside TLS.
    Tls,
}

impl Telling {
    /// Parses `tcp:HOST:PORT`, which a bare `HOST:PORT` is too, `udp:HOST:PORT`, `tls:HOST:PORT`, `unix:PATH` for datagrams and
    /// `unix-stream:PATH`.
    ///
    /// # Errors
    ///
    /// What was expected.
    fn parse(text: &str) -> Result<(Transport, Address), String> {
        if let Some(path) = text.strip_prefix("unix-stream:") {
            return Ok((Transport::Stream, Address::parse(&format!("unix:{path}"))?));
        }
        let (transport, rest) = match text.split_once(':') {
            Some(("udp", rest)) => (Transport::Datagrams, rest),
            Some(("tcp", rest)) => (Transport::Stream, rest),
            Some(("tls", rest)) => (Transport::Tls, rest),
            Some(("unix", path)) => return Ok((Transport::Datagrams, Address::parse(&format!("unix:{path}"))?)),
            _ => (Transport::Stream, text),
        };
        match Address::parse(rest)? {
            Address::Unix(_) => Err(format!("`{rest}` is no host with a port")),
            address => Ok((transport, address)),
        }
    }

    /// Whether this is who listens there.
    pub fn is_heard_by(&self, ear: &EarKey) -> bool {
        match (ear, self.transport, &self.address) {
            (EarKey::Udp(ear), Transport::Datagrams, Address::Tcp(told)) | (EarKey::Tcp(ear), Transport::Stream, Address::Tcp(told)) => {
                ear == told || (ear.port() == told.port() && ear.ip().is_unspecified() && told.ip().is_loopback())
            }
            (EarKey::UnixDatagram(ear), Transport::Datagrams, Address::Unix(told))
            | (EarKey::UnixStream(ear), Transport::Stream, Address::Unix(told)) => ear == told,
            _ => false,
        }
    }
}

impl fmt::Display for Telling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match (self.transport, &self.address) {
            (Transport::Datagrams, Address::Unix(_)) => "",
            (Transport::Stream, Address::Unix(path)) => return write!(f, "unix-stream:{}", path.display()),
            (Transport::Datagrams, _) => "udp:",
            (Transport::Stream, _) => "tcp:",
            (Transport::Tls, _) => "tls:",
        };
        write!(f, "{transport}{}", self.address)
    }
}

const SINKS: Choice<'_> = Choice {
    kinds: &["file", "http", "otlp", "syslog"],
    rule: "a sink is one thing, this is",
    missing: "nothing says where records go",
    example: "file = \"/var/log/app.json\"",
};

impl Decode for SinkSettings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if let Value::String(_) = &item.value {
            let text = String::decode(item, reader)?;
            if text != "stdout" {
                reader
                    .error(item.place, format!("`{text}` is no sink"))
                    .help("write \"stdout\", { file = \"…\" }, { http = \"http://…\" } or { syslog = \"tcp:…\" }");
                return None;
            }
            return Some(Self::Stdout);
        }
        let mut fields = Fields::of(item, "a sink", reader)?;
        let place = fields.place();
        let kinds = SINKS.take(&mut fields);
        let headers = fields.optional::<Spanned<IndexMap<Word, String>>>("headers", reader);
        let gzip = fields.optional::<Spanned<bool>>("gzip", reader);
        let timeout = fields.optional::<Spanned<Duration>>("timeout", reader);
        let refused = fields.optional::<Spanned<String>>("on_refused", reader);
        let tls = fields.optional::<Spanned<ConnectorSettings>>("tls", reader);
        fields.finish(reader)?;
        let (kind, entry) = SINKS.only(&kinds, place, reader)?;
        let (headers, gzip, timeout, refused, tls) = (headers?, gzip?, timeout?, refused?, tls?);
        let posts: &[&str] = &["http", "otlp"];
        let far: &[&str] = &["http", "otlp", "syslog"];
        let written = [
            ("headers", headers.as_ref().map(|it| it.place), posts, "`http` and `otlp`"),
            ("gzip", gzip.as_ref().map(|it| it.place), posts, "`http` and `otlp`"),
            ("on_refused", refused.as_ref().map(|it| it.place), posts, "`http` and `otlp`"),
            ("timeout", timeout.as_ref().map(|it| it.place), far, "`http`, `otlp` and `syslog`"),
            ("tls", tls.as_ref().map(|it| it.place), far, "`http`, `otlp` and `syslog`"),
        ];
        for (key, written, kinds, listed) in written {
            if let Some(place) = written.filter(|_| !kinds.contains(&kind)) {
                reader.error(place, format!("`{key}` is for {listed}, this is `{kind}`")).help("remove it");
                return None;
            }
        }
        let place = Spanned::new((), entry.item.place);
        let timeout = timeout.map_or(Duration::from_secs(10), |timeout| timeout.value);
        let sink = match kind {
            "file" => Self::File(PathBuf::decode(&entry.item, reader)?),
            "syslog" => {
                let text = String::decode(&entry.item, reader)?;
                let help = "write \"tcp:logs.internal:514\", \"tls:logs.internal:6514\", \"udp:127.0.0.1:514\" or \"unix:/dev/log\"";
                let (transport, address) = reader.accept(Telling::parse(&text), entry.item.place, help)?;
                Self::Syslog(Telling { transport, address, timeout, tls, place })
            }
            _ => {
                let text = String::decode(&entry.item, reader)?;
                let Some(url) = Url::parse(&text) else {
                    reader
                        .error(entry.item.place, "this is not a URL to post to, which has no login")
                        .help("write \"http://127.0.0.1:8080/logs\"");
                    return None;
                };
                let headers = headers.map_or_else(Vec::new, |it| it.value.into_iter().map(|(name, value)| (name.0, value)).collect());
                for (name, value) in &headers {
                    if http::HeaderName::from_bytes(name.as_bytes()).is_err() || http::HeaderValue::from_str(value).is_err() {
                        reader
                            .error(place.place, format!("`{}` is no header", name.escape_debug()))
                            .help("write headers = { x-key = \"…\" }");
                        return None;
                    }
                }
                let gzip = gzip.is_none_or(|gzip| gzip.value);
                let drops_refused = is_second(refused, ["retry", "drop"], reader)?;
                let posting = Posting { url, headers, gzip, timeout, drops_refused, tls, place };
                if kind == "http" { Self::Http(posting) } else { Self::Otlp(posting) }
            }
        };
        if let (Some(tls), None) = (sink.tls(), sink.tls_address()) {
            reader.error(tls.place, "this sink is not spoken to with TLS").help("remove `tls`, or write https:// or tls:");
            return None;
        }
        Some(sink)
    }
}

impl SinkSettings {
    /// In a word, as it is written.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File(_) => "file",
            Self::Http(_) => "http",
            Self::Otlp(_) => "otlp",
            Self::Syslog(_) => "syslog",
        }
    }

    /// Who is asked inside TLS.
    pub fn tls_address(&self) -> Option<&Address> {
        match self {
            Self::Http(posting) | Self::Otlp(posting) => posting.url.tls_address(),
            Self::Syslog(telling) => (telling.transport == Transport::Tls).then_some(&telling.address),
            Self::Stdout | Self::File(_) => None,
        }
    }

    pub fn tls(&self) -> Option<&Spanned<ConnectorSettings>> {
        match self {
            Self::Http(posting) | Self::Otlp(posting) => posting.tls.as_ref(),
            Self::Syslog(telling) => telling.tls.as_ref(),
            Self::Stdout | Self::File(_) => None,
        }
    }

    /// Where it is written, for those that may be asked inside TLS.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Http(posting) | Self::Otlp(posting) => Some(posting.place.place),
            Self::Syslog(telling) => Some(telling.place.place),
            Self::Stdout | Self::File(_) => None,
        }
    }
}
