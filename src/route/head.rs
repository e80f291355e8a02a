//! What is known of a request before its body: a borrowed view that every decision reads.
//!
//! Holds no bytes of its own and does no parsing; `serve` and `explain` fill it in.

use std::io::Write;
use std::net::IpAddr;

use crate::proto::http1::Field;
use crate::value::{Lookup, Variable};

/// The header fields of one message.
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    pub bytes: &'a [u8],
    pub fields: &'a [Field],
}

impl<'a> Headers<'a> {
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.fields.iter().map(move |field| (field.name.of(self.bytes), field.value.of(self.bytes)))
    }

    /// Every value of a header; `name` is compared without case.
    pub fn all(self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn first(self, name: &'a [u8]) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// Every value of a cookie (RFC 6265 §4.2.1).
    pub fn cookies<'n>(self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.all(b"cookie")
            .flat_map(|value| value.split(|&b| b == b';'))
            .filter_map(|pair| split_once(pair.trim_ascii(), b'='))
            .filter(move |(have, _)| *have == name)
            .map(|(_, value)| value)
    }
}

/// What a TLS handshake said about a connection.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// Server name the client asked for, lower case.
    pub sni: Option<String>,
    pub version: &'static str,
    /// Subject of the verified client certificate.
    pub subject: Option<String>,
}

pub struct Head<'a> {
    pub method: &'a [u8],
    /// `http` or `https`, as the client spoke it.
    pub scheme: &'static str,
    /// Host and port as received; empty if an HTTP/1.0 client sent none.
    pub authority: &'a [u8],
    /// Host alone, as received.
    pub host: &'a [u8],
    /// Path as received.
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
    /// Path with unreserved percent-encodings decoded: what routes compare.
    pub compare_path: &'a [u8],
    pub headers: Headers<'a>,
    /// The client as seen through trusted proxies; `None` on a unix socket.
    pub client: Option<IpAddr>,
    pub tls: Option<&'a TlsFacts>,
    pub request_id: &'a [u8],
    pub listener: &'a str,
}

impl<'a> Head<'a> {
    /// Every value of a query parameter, as it is written: not decoded.
    pub fn query_values(&self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.query
            .unwrap_or_default()
            .split(|&b| b == b'&')
            .map(|pair| split_once(pair, b'=').unwrap_or((pair, b"")))
            .filter(move |(have, _)| *have == name)
            .map(|(_, value)| value)
    }
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let found = memchr::memchr(at, bytes)?;
    Some((&bytes[..found], &bytes[found + 1..]))
}

/// Fills templates; `route` is the name of the route that matched.
pub struct HeadLookup<'h, 'a> {
    pub head: &'h Head<'a>,
    pub route: &'h str,
}

impl Lookup for HeadLookup<'_, '_> {
    fn write(&self, variable: &Variable, out: &mut Vec<u8>) {
        let head = self.head;
        match variable {
            Variable::ClientIp => write_ip(head.client, out),
            Variable::Host => out.extend_from_slice(head.host),
            Variable::Authority => out.extend_from_slice(head.authority),
            Variable::Path => out.extend_from_slice(head.path),
            Variable::Uri => {
                out.extend_from_slice(head.path);
                if let Some(query) = head.query {
                    out.push(b'?');
                    out.extend_from_slice(query);
                }
            }
            Variable::Query => out.extend_from_slice(head.query.unwrap_or_default()),
            Variable::Method => out.extend_from_slice(head.method),
            Variable::Scheme => out.extend_from_slice(head.scheme.as_bytes()),
            Variable::RequestId => out.extend_from_slice(head.request_id),
            Variable::Route => out.extend_from_slice(self.route.as_bytes()),
            Variable::Listener => out.extend_from_slice(head.listener.as_bytes()),
            Variable::TlsSni => out.extend_from_slice(head.tls.and_then(|t| t.sni.as_deref()).unwrap_or("").as_bytes()),
            Variable::TlsClientSubject => {
                out.extend_from_slice(head.tls.and_then(|t| t.subject.as_deref()).unwrap_or("").as_bytes());
            }
            Variable::TlsVersion => out.extend_from_slice(head.tls.map_or("", |t| t.version).as_bytes()),
            Variable::QueryValue(name) => {
                let mut pairs = head.query.unwrap_or_default().split(|&byte| byte == b'&');
                let value = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
                out.extend_from_slice(value.unwrap_or_default());
            }
            // Of leaves, whoever asks them knows.
            Variable::Leaf | Variable::LeafIndex | Variable::LeafCount | Variable::LeafItem => {}
            Variable::Header(name) => out.extend_from_slice(head.headers.first(name.as_bytes()).unwrap_or_default()),
        }
    }
}

/// Appends an address as text; `unknown` for a client without one (RFC 7239 §6.2).
pub fn write_ip(ip: Option<IpAddr>, out: &mut Vec<u8>) {
    match ip {
        // Once per request, and the general way costs a twentieth of what a request costs.
        Some(IpAddr::V4(ip)) => {
            let mut digits = itoa::Buffer::new();
            for (index, octet) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(digits.format(octet).as_bytes());
            }
        }
        Some(IpAddr::V6(ip)) => write!(out, "{ip}").expect("writing to memory does not fail"),
        None => out.extend_from_slice(b"unknown"),
    }
}
