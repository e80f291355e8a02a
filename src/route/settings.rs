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
        let client = some_of(fields, "client", reader);
        let header = header?.into_iter().map(|(name, pattern)| (name.0, pattern)).collect();
        Some(Self { host: host?, path: path?, method: method?, header, query: query?, cookie: cookie?, client: client? })
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
