//! Where a request's key is read: `"client-ip"`, `"header:x-user"`, `"path~^/user/([0-9]+)"`.
//!
//! Words only; `route` reads the key. That of Redis and memcached is no word yet.

use std::fmt;
use std::str::FromStr;

use regex::bytes::Regex;

use super::{Decode, Fields, Item, Reader, Size, Spanned, Value, nearest};
use crate::settings;

/// One place in a request.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    Path,
    /// Path and query.
    Uri,
    Host,
    Method,
    ClientIp,
    /// Bits of an IPv4 address; of an IPv6 address, twice as many.
    ClientNetwork(u8),
    Header(String),
    Cookie(String),
    Query(String),
    /// Of the path, counted from 1.
    Segment(u16),
    /// What the first group captures.
    PathCapture(Capture),
    TlsName,
    TlsClient,
    /// What a JSON pointer (RFC 6901) finds in the body.
    Json(String),
    /// A field of a form in the body.
    Form(String),
}

/// How a request's key is read.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestKey {
    /// The first that a request has all of counts; one with several sources is their values with a NUL in between, which no value has.
    pub first: Vec<Vec<KeySource>>,
    /// Only what is between these two counts, if anything is: Redis's hash tags.
    pub tag: Option<(u8, u8)>,
    /// Letters of ASCII are made small.
    pub lower: bool,
    /// What of a query counts, where `uri` is the key.
    pub query: Query,
    /// So much of a body is read for it, at most.
    pub body: Size,
}

/// What of a query is part of a key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// `None`: whatever is not dropped.
    pub keep: Option<Vec<Parameter>>,
    pub drop: Vec<Parameter>,
    /// The order of parameters does not matter.
    pub sort: bool,
}

/// The name of a parameter, or the beginning of one and `*`.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter(pub String);

impl Parameter {
    pub fn fits(&self, name: &[u8]) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning.as_bytes()),
            None => name == self.0.as_bytes(),
        }
    }
}

impl Query {
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    pub fn counts(&self, name: &[u8]) -> bool {
        let is_kept = self.keep.as_ref().is_none_or(|keep| keep.iter().any(|parameter| parameter.fits(name)));
        is_kept && !self.drop.iter().any(|parameter| parameter.fits(name))
    }
}

/// Of a body, where nothing is written.
const BODY: Size = Size::kib(64);
/// What a request's body is held in memory for may be no more than this.
const BODY_MAX: Size = Size::mib(16);

impl RequestKey {
    /// From the first of these places.
    pub fn of(sources: Vec<KeySource>) -> Self {
        let first = sources.into_iter().map(|source| vec![source]).collect();
        Self { first, tag: None, lower: false, query: Query::default(), body: BODY }
    }

    /// A source that needs the body, if there is one.
    pub fn in_body(&self) -> Option<&KeySource> {
        self.first.iter().flatten().find(|source| source.is_in_body())
    }
}

/// The parts of a place in JSON that begins with a slash (RFC 6901 §4).
pub fn json_parts(place: &str) -> Vec<String> {
    place.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
}

impl Decode for RequestKey {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Table(table) = &item.value else {
            let first = alternatives(item, reader)?;
            return Some(Self { first, ..Self::of(Vec::new()) });
        };
        let mut fields = Fields::table(table, item.place);
        let first = fields.take("first");
        let join = fields.take("join");
        let tag = fields.optional::<Tag>("tag", reader);
        let lower = fields.or("lower", false, reader);
        let query = fields.optional::<Spanned<QuerySettings>>("query", reader);
        let body = fields.or("body", Spanned::new(BODY, item.place), reader);
        fields.finish(reader)?;
        let first = match (first, join) {
            (Some(first), None) => alternatives(&first.item, reader)?,
            (None, Some(join)) => vec![joined(&join.item, reader)?],
            (Some(first), Some(join)) => {
                reader
                    .error(join.key_place, "`first` and `join` together")
                    .related(first.key_place, "the other")
                    .help("write first = [{ join = […] }, …]");
                return None;
            }
            (None, None) => {
                reader.error(item.place, "this key has no source").help("write first = [\"path\"], or join = [\"host\", \"path\"]");
                return None;
            }
        };
        let (query, body) = (query?, body?);
        if let Some(query) = query.as_ref().filter(|_| !first.iter().flatten().any(|source| *source == KeySource::Uri)) {
            reader.error(query.place, "`query` says what of `uri` counts, and this key has no `uri`").help("write \"uri\" for \"path\"");
            return None;
        }
        if body.value > BODY_MAX || body.value == Size(0) {
            reader.error(body.place, format!("`{}` is out of range", body.value)).help(format!("\"1B\" to \"{BODY_MAX}\""));
            return None;
        }
        let query =
            query.map(|query| query.value).map_or_else(Query::default, |QuerySettings { keep, drop, sort }| Query { keep, drop, sort });
        Some(Self { first, tag: tag?.map(|tag| tag.0), lower: lower?, query, body: body.value })
    }
}

settings! {
    pub struct QuerySettings as "what of a query counts" {
        /// These parameters alone: names, or beginnings of names and `*`.
        keep: Option<Vec<Parameter>> = None,
        /// All but these.
        drop: Vec<Parameter> = Vec::new(),
        /// Whatever their order.
        sort: bool = false,
    }
}

impl Decode for Parameter {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        String::decode(item, reader).map(Self)
    }
}

/// Two characters.
struct Tag((u8, u8));

impl Decode for Tag {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        if let [open, close] = *text.as_bytes() {
            return Some(Self((open, close)));
        }
        reader.error(item.place, format!("`{text}` is not a pair of characters")).help("write tag = \"{}\"");
        None
    }
}

fn alternatives(item: &Item, reader: &mut Reader<'_>) -> Option<Vec<Vec<KeySource>>> {
    let items = match &item.value {
        Value::Array(items) => items.as_slice(),
        _ => std::slice::from_ref(item),
    };
    if items.is_empty() {
        reader.error(item.place, "a key needs a source").help("write by = \"client-ip\"");
        return None;
    }
    let alternative = |item: &Item| {
        let Value::Table(table) = &item.value else { return KeySource::decode(item, reader).map(|source| vec![source]) };
        let mut fields = Fields::table(table, item.place);
        let join = fields.take("join");
        fields.finish(reader)?;
        let Some(join) = join else {
            reader.error(item.place, "a part of a list of sources is one, or { join = […] }");
            return None;
        };
        joined(&join.item, reader)
    };
    let read: Vec<Option<Vec<KeySource>>> = items.iter().map(alternative).collect();
    read.into_iter().collect()
}

fn joined(item: &Item, reader: &mut Reader<'_>) -> Option<Vec<KeySource>> {
    let sources = Vec::<KeySource>::decode(item, reader)?;
    if sources.is_empty() {
        reader.error(item.place, "a key needs a source").help("write join = [\"host\", \"path\"]");
        return None;
    }
    Some(sources)
}

/// A regular expression with a group.
#[derive(Clone, Debug)]
pub struct Capture(pub Regex);

impl PartialEq for Capture {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

const PLAIN: [&str; 7] = ["path", "uri", "host", "method", "client-ip", "tls:sni", "tls:client"];
/// Kinds that are followed by a name or a number.
const NAMED: [&str; 6] = ["header:", "cookie:", "query:", "segment:", "json:", "form:"];

impl KeySource {
    /// Whether the head is not enough.
    pub fn is_in_body(&self) -> bool {
        matches!(self, Self::Json(_) | Self::Form(_))
    }

    /// The error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned()).ok_or_else(|| format!("`{text}` needs a name"));
        match text {
            "path" => return Ok(Self::Path),
            "uri" => return Ok(Self::Uri),
            "host" => return Ok(Self::Host),
            "method" => return Ok(Self::Method),
            "client-ip" => return Ok(Self::ClientIp),
            "tls:sni" => return Ok(Self::TlsName),
            "tls:client" => return Ok(Self::TlsClient),
            _ => {}
        }
        if let Some(bits) = text.strip_prefix("client-ip/") {
            let bits = number(bits).filter(|bits| (1..=32).contains(bits));
            return bits.map(Self::ClientNetwork).ok_or_else(|| format!("`{text}` needs a number of bits from 1 to 32"));
        }
        if let Some(name) = text.strip_prefix("header:") {
            return fit(named(name)?, "header", is_token_byte).map(|name| Self::Header(name.to_ascii_lowercase()));
        }
        if let Some(name) = text.strip_prefix("cookie:") {
            // What a Cookie field could not tell apart.
            return fit(named(name)?, "cookie", |byte| byte.is_ascii_graphic() && !b";=".contains(&byte)).map(Self::Cookie);
        }
        if let Some(name) = text.strip_prefix("query:") {
            return named(name).map(Self::Query);
        }
        if let Some(digits) = text.strip_prefix("segment:") {
            return number(digits)
                .filter(|&number| number > 0)
                .map(Self::Segment)
                .ok_or_else(|| format!("`{text}` needs a number, from 1"));
        }
        if let Some(pattern) = text.strip_prefix("path~") {
            let regex = Regex::new(pattern).map_err(|error| format!("`{pattern}` is no regular expression: {error}"))?;
            if regex.captures_len() < 2 {
                return Err(format!("`{pattern}` has no group to take the key from"));
            }
            return Ok(Self::PathCapture(Capture(regex)));
        }
        if let Some(pointer) = text.strip_prefix("json:") {
            if !pointer.starts_with('/') {
                return Err(format!("`{text}` needs a JSON pointer, such as \"json:/user/id\""));
            }
            return Ok(Self::Json(pointer.to_owned()));
        }
        if let Some(name) = text.strip_prefix("form:") {
            return named(name).map(Self::Form);
        }
        if text == "key" {
            return Err("`key` is of Redis and memcached, which this version does not speak".to_owned());
        }
        Err(format!("`{text}` is not a place to read a key"))
    }
}

/// Digits alone: `parse` would take a sign.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A name that no request could have would be no key of any.
fn fit(name: String, what: &str, is_fit: impl Fn(u8) -> bool) -> Result<String, String> {
    if name.bytes().all(is_fit) { Ok(name) } else { Err(format!("`{name}` is not the name of a {what}")) }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("path"),
            Self::Uri => f.write_str("uri"),
            Self::Host => f.write_str("host"),
            Self::Method => f.write_str("method"),
            Self::ClientIp => f.write_str("client-ip"),
            Self::ClientNetwork(bits) => write!(f, "client-ip/{bits}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Segment(number) => write!(f, "segment:{number}"),
            Self::PathCapture(Capture(regex)) => write!(f, "path~{regex}"),
            Self::TlsName => f.write_str("tls:sni"),
            Self::TlsClient => f.write_str("tls:client"),
            Self::Json(pointer) => write!(f, "json:{pointer}"),
            Self::Form(name) => write!(f, "form:{name}"),
        }
    }
}

impl Decode for KeySource {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        match Self::parse(&text) {
            Ok(source) => Some(source),
            Err(reason) => {
                let note = reader.error(item.place, reason);
                // Somebody who wrote the kind knows it.
                let is_known = NAMED.iter().any(|kind| text.starts_with(kind));
                match nearest(&text, PLAIN.into_iter().chain(NAMED)).filter(|_| !is_known) {
                    Some(known) => note.help(format!("did you mean \"{known}\"?")),
                    None => note.help("such as \"client-ip\", \"header:x-user\", \"cookie:uid\", \"query:id\" or \"path\""),
                };
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::KeySource;

    #[test]
    fn sources_print_as_they_parse() {
        for text in [
            "path",
            "uri",
            "host",
            "method",
            "client-ip",
            "client-ip/24",
            "header:x-user",
            "cookie:uid",
            "query:id",
            "segment:2",
            "path~^/u/([0-9]+)",
            "tls:sni",
            "tls:client",
            "json:/user/id",
            "form:id",
        ] {
            assert_eq!(KeySource::parse(text).map(|source| source.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for text in [
            "",
            "ip",
            "header:",
            "cookie:",
            "segment:0",
            "segment:x",
            "client-ip/0",
            "client-ip/33",
            "path~(",
            "path~^/a",
            "json:",
            "json:a",
            "form:",
            "key",
        ] {
            assert!(KeySource::parse(text).is_err(), "{text}");
        }
    }
}
