//! Where a request's key is read: `"client-ip"`, `"header:x-user"`, `"path~^/user/([0-9]+)"`.
//!
//! Words only; `route` reads the key. Sources in bodies, and those of other protocols, come with what needs them.

use std::fmt;
use std::str::FromStr;

use regex::bytes::Regex;

use super::{Decode, Item, Reader, nearest};

/// One place in a request's head.
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
}

/// How a request's key is read: from the first of these places that the request has.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestKey {
    pub first: Vec<KeySource>,
}

impl Decode for RequestKey {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let first = Vec::decode(item, reader)?;
        if first.is_empty() {
            reader.error(item.place, "a key needs a source").help("write by = \"path\"");
            return None;
        }
        Some(Self { first })
    }
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
const NAMED: [&str; 4] = ["header:", "cookie:", "query:", "segment:"];
/// In the contract, and not here yet.
const LATER: [&str; 2] = ["json:", "form:"];

impl KeySource {
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
        if LATER.iter().any(|later| text.starts_with(later)) || text == "key" {
            return Err(format!("`{text}` is not supported here by this version"));
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
                match nearest(&text, PLAIN.into_iter().chain(NAMED)) {
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
            "json:/a",
            "key",
        ] {
            assert!(KeySource::parse(text).is_err(), "{text}");
        }
    }
}
