//! The predicates of a route, as they are written.
//!
//! The service and the edits of a route are not here: `config` puts them together.

use indexmap::IndexMap;
use ipnet::IpNet;

use super::pattern::{HostPattern, PathPattern, TextPattern};
use crate::proto::http1::is_token;
use crate::value::{Decode, Fields, Item, Key, Reader, Spanned};

/// Every predicate must hold; one that is not written always does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matchers {
    /// Any of these hosts.
    pub host: Vec<HostPattern>,
    /// Any of these paths.
    pub path: Vec<PathPattern>,
    /// Any of these methods, case-sensitive.
    pub method: Vec<Method>,
    /// Each header has a value that fits.
    pub header: IndexMap<Spanned<String>, TextPattern>,
    /// Each query parameter has a value that fits, compared as written.
    pub query: IndexMap<Spanned<String>, TextPattern>,
    /// Each cookie has a value that fits.
    pub cookie: IndexMap<Spanned<String>, TextPattern>,
    /// Any of these server names, asked for by the client's TLS. Of streams only.
    pub sni: Vec<ServerNamePattern>,
    /// The client's address, seen through trusted proxies, is in one of these networks.
    pub client: Vec<Network>,
}

impl Matchers {
    /// Takes the predicates out of a route's table.
    pub fn take(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let host = some_of(fields, "host", reader);
        let path = some_of(fields, "path", reader);
        let method = some_of(fields, "method", reader);
        let header = fields.or("header", IndexMap::<HeaderName, _>::new(), reader);
        let query = fields.or("query", IndexMap::new(), reader);
        let cookie = fields.or("cookie", IndexMap::new(), reader);
        let sni = some_of(fields, "sni", reader);
        let client = some_of(fields, "client", reader);
        let header = header?.into_iter().map(|(name, pattern)| (name.0, pattern)).collect();
        Some(Self { host: host?, path: path?, method: method?, header, query: query?, cookie: cookie?, sni: sni?, client: client? })
    }

    /// The same for a stream, whose only host is the server name that its TLS asks for.
    #[must_use]
    pub fn of_stream(&self) -> Self {
        Self { host: self.sni.iter().map(|name| name.0.clone()).collect(), client: self.client.clone(), ..Self::default() }
    }
}

/// A list that is empty when not written; written and empty, it would match nothing, which nobody means.
fn some_of<T: Decode>(fields: &mut Fields<'_>, key: &'static str, reader: &mut Reader<'_>) -> Option<Vec<T>> {
    let Some(written) = fields.optional::<Spanned<Vec<T>>>(key, reader)? else { return Some(Vec::new()) };
    if written.value.is_empty() {
        reader.error(written.place, format!("`{key}` is empty, so the route could never match")).help("remove the key to match any");
        return None;
    }
    Some(written.value)
}

/// `"db.example"` or `"*.db.example"`: what TLS can ask for, which is no address (RFC 6066 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNamePattern(HostPattern);

impl Decode for ServerNamePattern {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let pattern = HostPattern::decode(item, reader)?;
        let is_address = |name: &str| name.starts_with('[') || name.parse::<std::net::Ipv4Addr>().is_ok();
        match &pattern {
            // It could mean any name, or any client.
            HostPattern::Any => {
                reader.error(item.place, "`*` names nobody").help("leave `sni` out to match every client, with or without a name");
                None
            }
            HostPattern::Exact(name) if is_address(name) => {
                reader.error(item.place, format!("`{name}` is an address, which TLS never asks for as a name")).help("write a name");
                None
            }
            HostPattern::Exact(_) | HostPattern::Suffix(_) => Some(Self(pattern)),
        }
    }
}

/// Compared in lower case.
#[derive(PartialEq, Eq, Hash)]
struct HeaderName(Spanned<String>);

impl Key for HeaderName {
    fn read(name: Spanned<String>, reader: &mut Reader<'_>) -> Option<Self> {
        if !is_token(name.as_bytes()) {
            reader.error(name.place, format!("`{}` is not a header's name", name.value)).help("use letters, digits and `-`");
            return None;
        }
        Some(Self(Spanned::new(name.value.to_ascii_lowercase(), name.place)))
    }
}

/// A method is a token and case-sensitive (RFC 9110 §9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(pub String);

impl Decode for Method {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        if !is_token(text.as_bytes()) {
            reader.error(item.place, format!("`{text}` is not a method")).help("write \"GET\", or a list such as [\"GET\", \"HEAD\"]");
            return None;
        }
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            reader
                .error(item.place, format!("methods are case-sensitive and `{text}` has lower-case letters"))
                .help(format!("write \"{}\"", text.to_ascii_uppercase()));
            return None;
        }
        Some(Self(text))
    }
}

/// `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl Decode for Network {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
        match parsed {
            Ok(network) if network.addr() == network.network() => Some(Self(network)),
            Ok(network) => {
                reader.error(item.place, format!("`{text}` has bits set beyond its prefix")).help(format!("write \"{}\"", network.trunc()));
                None
            }
            Err(_) => {
                reader.error(item.place, format!("`{text}` is not a network")).help("write \"10.0.0.0/8\" or \"192.0.2.7\"");
                None
            }
        }
    }
}
