//! Reads a request's key where the configuration says.
//!
//! Looks at the head only, and makes no number of it: whoever asked hashes it.

use std::net::IpAddr;

use super::{Head, write_ip};
use crate::value::{KeySource, RequestKey};

/// Where a request's key was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was appended.
    Here,
    Nowhere,
    /// It may be in the body, of which at most so many bytes are to be read first.
    InBody(u64),
}

/// Appends the key. `body` is the whole of it, where that was read.
pub fn find(key: &RequestKey, head: &Head<'_>, _body: Option<&[u8]>, out: &mut Vec<u8>) -> Found {
    if read(&key.first, head, out) { Found::Here } else { Found::Nowhere }
}

/// Appends the key from the first source that the request has. `false` if it has none of them.
pub fn read(sources: &[KeySource], head: &Head<'_>, out: &mut Vec<u8>) -> bool {
    sources.iter().any(|source| read_one(source, head, out).is_some())
}

/// An empty value is none.
fn read_one(source: &KeySource, head: &Head<'_>, out: &mut Vec<u8>) -> Option<()> {
    let present = |value: &&[u8]| !value.is_empty();
    let text = |value: Option<&String>| value.map(|text| text.as_bytes().to_vec());
    match source {
        KeySource::Path => out.extend_from_slice(head.compare_path),
        KeySource::Uri => {
            out.extend_from_slice(head.path);
            if let Some(query) = head.query {
                out.push(b'?');
                out.extend_from_slice(query);
            }
        }
        KeySource::Host => out.extend(Some(head.host).filter(present)?.to_ascii_lowercase()),
        KeySource::Method => out.extend_from_slice(head.method),
        KeySource::ClientIp => write_ip(Some(head.client?), out),
        KeySource::ClientNetwork(bits) => write_ip(Some(network(head.client?, *bits)), out),
        KeySource::Header(name) => out.extend_from_slice(head.headers.first(name.as_bytes()).filter(present)?),
        KeySource::Cookie(name) => out.extend_from_slice(head.headers.cookies(name.as_bytes()).find(present)?),
        KeySource::Query(name) => out.extend_from_slice(head.query_values(name.as_bytes()).find(present)?),
        KeySource::Segment(number) => {
            let mut segments = head.compare_path.split(|&byte| byte == b'/').skip(1);
            out.extend_from_slice(segments.nth(usize::from(*number) - 1).filter(present)?);
        }
        KeySource::PathCapture(capture) => {
            let captures = capture.0.captures(head.compare_path)?;
            out.extend_from_slice(captures.get(1).map(|group| group.as_bytes()).filter(present)?);
        }
        KeySource::TlsName => out.extend(text(head.tls.and_then(|tls| tls.sni.as_ref()))?),
        KeySource::TlsClient => out.extend(text(head.tls.and_then(|tls| tls.subject.as_ref()))?),
    }
    Some(())
}

/// The address with only its first bits: `bits` of an IPv4 address, twice as many of an IPv6 address, as providers give them out.
fn network(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(128 - 2 * u32::from(bits)).unwrap_or(0)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::{Limits, Progress, RequestHead};
    use crate::route::Headers;

    const REQUEST: &[u8] =
        b"GET /users/42/cart?id=7&empty=&id=8 HTTP/1.1\r\nHost: Shop.Example\r\nX-User: ann\r\nCookie: a=1; uid=bob\r\n\r\n";

    #[track_caller]
    fn check(sources: &[&str], expected: Option<&str>) {
        let mut request = RequestHead::new();
        let limits = Limits { header_bytes: 4096, headers: 10, uri_bytes: 4096 };
        assert_eq!(request.parse(REQUEST, &limits), Ok(Progress::Complete));
        let head = Head {
            method: b"GET",
            scheme: "http",
            authority: b"Shop.Example",
            host: b"Shop.Example",
            path: b"/users/42/cart",
            query: Some(b"id=7&empty=&id=8"),
            compare_path: b"/users/42/cart",
            headers: Headers { bytes: REQUEST, fields: &request.fields },
            client: Some(IpAddr::from([192, 0, 2, 77])),
            tls: None,
            request_id: b"",
            listener: "web",
        };
        let sources: Vec<KeySource> = sources.iter().map(|text| KeySource::parse(text).unwrap()).collect();
        let mut key = Vec::new();
        let found = read(&sources, &head, &mut key);
        assert_eq!(found.then(|| String::from_utf8(key).unwrap()).as_deref(), expected, "{sources:?}");
    }

    #[test]
    fn keys_are_read_where_they_are() {
        check(&["path"], Some("/users/42/cart"));
        check(&["uri"], Some("/users/42/cart?id=7&empty=&id=8"));
        check(&["host"], Some("shop.example"));
        check(&["method"], Some("GET"));
        check(&["client-ip"], Some("192.0.2.77"));
        check(&["client-ip/24"], Some("192.0.2.0"));
        check(&["header:x-user"], Some("ann"));
        check(&["cookie:uid"], Some("bob"));
        check(&["query:id"], Some("7"));
        check(&["segment:2"], Some("42"));
        check(&["path~^/users/([0-9]+)"], Some("42"));
    }

    #[test]
    fn the_first_source_that_is_there_counts() {
        check(&["header:none", "query:empty", "segment:4", "cookie:uid", "path"], Some("bob"));
        check(&["header:none", "tls:sni", "path~^/x/(.)"], None);
    }

    #[test]
    fn a_network_is_twice_as_long_in_ipv6() {
        let ip = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        assert_eq!(network(ip, 24), "2001:db8:1::".parse::<IpAddr>().unwrap());
        assert_eq!(network(ip, 32), "2001:db8:1:2::".parse::<IpAddr>().unwrap());
        assert_eq!(network(IpAddr::from([10, 1, 2, 3]), 32), IpAddr::from([10, 1, 2, 3]));
    }
}
