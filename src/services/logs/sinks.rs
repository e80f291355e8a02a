//! Sinks as they are written.
//!
//! Opens none and asks none: `upkeep::logs` does.

use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;

use super::settings::{Word, is_second};
use crate::value::{Choice, Decode, Fields, Item, Place, Reader, Spanned, Url, Value};

/// Where records go.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkSettings {
    Stdout,
    File(PathBuf),
    Http(Posting),
    Otlp(Posting),
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
    pub place: Place,
}

const SINKS: Choice<'_> = Choice {
    kinds: &["file", "http", "otlp"],
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
                    .help("write \"stdout\", { file = \"…\" } or { http = \"http://…\" }");
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
        fields.finish(reader)?;
        let (kind, entry) = SINKS.only(&kinds, place, reader)?;
        let (headers, gzip, timeout, refused) = (headers?, gzip?, timeout?, refused?);
        if kind == "file" {
            let of_posts = [
                headers.as_ref().map(|it| ("headers", it.place)),
                gzip.as_ref().map(|it| ("gzip", it.place)),
                timeout.as_ref().map(|it| ("timeout", it.place)),
                refused.as_ref().map(|it| ("on_refused", it.place)),
            ];
            if let Some((key, place)) = of_posts.into_iter().flatten().next() {
                reader.error(place, format!("`{key}` is for `http` and `otlp`, this is `file`")).help("remove it");
                return None;
            }
            return PathBuf::decode(&entry.item, reader).map(Self::File);
        }
        let text = String::decode(&entry.item, reader)?;
        let Some(url) = Url::parse(&text) else {
            reader.error(entry.item.place, format!("`{text}` is not a URL to post to")).help("write \"http://127.0.0.1:8080/logs\"");
            return None;
        };
        if url.is_tls {
            reader.error(entry.item.place, "records cannot be posted inside TLS by this version").help("write http://");
            return None;
        }
        let headers = headers.map_or_else(Vec::new, |headers| headers.value.into_iter().map(|(name, value)| (name.0, value)).collect());
        for (name, value) in &headers {
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() || http::HeaderValue::from_str(value).is_err() {
                reader.error(place, format!("`{}` is no header", name.escape_debug())).help("write headers = { x-key = \"…\" }");
                return None;
            }
        }
        let posting = Posting {
            url,
            headers,
            gzip: gzip.is_none_or(|gzip| gzip.value),
            timeout: timeout.map_or(Duration::from_secs(10), |timeout| timeout.value),
            drops_refused: is_second(refused, ["retry", "drop"], reader)?,
            place: entry.item.place,
        };
        Some(if kind == "http" { Self::Http(posting) } else { Self::Otlp(posting) })
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
        }
    }
}
