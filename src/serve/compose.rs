//! Writes heads: what the endpoint sees of a request, what the client sees of an answer.
//!
//! In the form of HTTP/1, which a stream of HTTP/2 reads back: so no rule is written twice. Decides
//! nothing about bodies; it is told how they are framed.

use std::net::IpAddr;

use crate::filters::headers::Edits;
use crate::generation::{Form, Listener};
use crate::proto::http1::{BodyFraming, Field, Known, ResponseHead, Version, is_nominated, tokens};
use crate::refusal;
use crate::route::{Captures, Head, HeadLookup, Headers, write_ip};
use crate::services::respond::Respond;

const CRLF: &[u8] = b"\r\n";

/// Whether the connection outlives the answer, in the words of the client's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// HTTP/1.1 keeps a connection without a word; HTTP/2 has no words for it.
    Kept,
    /// HTTP/1.0 needs to hear it.
    KeptAloud,
    Closed,
}

/// What is written into a request beside what the client sent.
pub struct Forwarding<'a> {
    pub head: &'a Head<'a>,
    pub route: &'a Form,
    pub captures: &'a Captures<'a>,
    pub body: BodyFraming,
    pub expects_continue: bool,
    /// What the connection is to go on with.
    pub upgrade: Option<&'a [u8]>,
    /// What the client spoke.
    pub version: Version,
    /// The address of the peer itself, which may be a trusted proxy.
    pub peer: Option<IpAddr>,
    pub peer_is_trusted: bool,
    /// `Host` for a request that came without one.
    pub endpoint_host: &'a str,
    /// More fields of ours, each a line.
    pub ours: &'a [u8],
}

/// The head of a request to an endpoint.
pub fn request(forwarding: &Forwarding<'_>, out: &mut Vec<u8>) {
    let Forwarding { head, route, captures, .. } = forwarding;
    let rewrite = route.rewrite.as_ref();
    out.extend_from_slice(head.method);
    out.push(b' ');
    match rewrite.and_then(|rewrite| rewrite.path.as_ref()) {
        Some(template) => template.write(captures, out),
        None => out.extend_from_slice(head.path),
    }
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    match rewrite.and_then(|rewrite| rewrite.host.as_ref()) {
        Some(template) => template.write(captures, out),
        None if head.authority.is_empty() => out.extend_from_slice(forwarding.endpoint_host.as_bytes()),
        None => out.extend_from_slice(head.authority),
    }
    out.extend_from_slice(CRLF);
    let seen = request_fields(forwarding, out);
    proxy_fields(forwarding, &seen, out);
    out.extend_from_slice(forwarding.ours);
    let lookup = HeadLookup { head, route: &route.name };
    route.request_edits.write(&lookup, out);
    match forwarding.body {
        BodyFraming::Length(length) => write_length(length, out),
        BodyFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        BodyFraming::None | BodyFraming::UntilClose => {}
    }
    if forwarding.expects_continue {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    match (forwarding.upgrade, seen.te_trailers) {
        (Some(upgrade), _) => write_upgrade(upgrade, out),
        (None, true) => out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n"),
        (None, false) => {}
    }
    out.extend_from_slice(CRLF);
}

/// What the client's fields said that decides which of ours are written.
#[derive(Default)]
struct Seen {
    te_trailers: bool,
    proto: bool,
    host: bool,
}

/// Copies what may pass, in order and spelled as it came.
fn request_fields(forwarding: &Forwarding<'_>, out: &mut Vec<u8>) -> Seen {
    let Headers { bytes, fields } = forwarding.head.headers;
    let nominations = Nominations::of(bytes, fields);
    let edits = &forwarding.route.request_edits;
    let trusted = forwarding.peer_is_trusted;
    let mut seen = Seen::default();
    for field in fields {
        let (name, value) = (field.name.of(bytes), field.value.of(bytes));
        match field.known {
            Known::Host
            | Known::ContentLength
            | Known::TransferEncoding
            | Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::Upgrade
            | Known::Http2Settings
            | Known::Expect
            | Known::Alias
            // Written anew, with what came before in front.
            | Known::XForwardedFor => continue,
            Known::Te => {
                seen.te_trailers |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
                continue;
            }
            Known::Trailer if forwarding.body != BodyFraming::Chunked => continue,
            Known::XForwardedProto | Known::XForwardedHost | Known::XForwardedOther | Known::Forwarded | Known::XRequestId | Known::XAttache
                if !trusted =>
            {
                continue;
            }
            Known::XRequestId => continue,
            _ => {}
        }
        if nominations.take(field.known, name) || edits.drops(field.known, name) {
            continue;
        }
        seen.proto |= field.known == Known::XForwardedProto;
        seen.host |= field.known == Known::XForwardedHost;
        write_field(name, value, out);
    }
    seen
}

/// The fields that say who asked, and how; after the client's, so that its own cannot come last.
fn proxy_fields(forwarding: &Forwarding<'_>, seen: &Seen, out: &mut Vec<u8>) {
    let head = forwarding.head;
    let edits = &forwarding.route.request_edits;
    let ours = |known: Known, name: &'static [u8]| !edits.drops(known, name);
    if ours(Known::XForwardedFor, b"x-forwarded-for") {
        out.extend_from_slice(b"X-Forwarded-For: ");
        if forwarding.peer_is_trusted {
            for earlier in head.headers.all(b"x-forwarded-for").filter(|value| !value.is_empty()) {
                out.extend_from_slice(earlier);
                out.extend_from_slice(b", ");
            }
        }
        write_ip(forwarding.peer, out);
        out.extend_from_slice(CRLF);
    }
    if !seen.proto && ours(Known::XForwardedProto, b"x-forwarded-proto") {
        write_field(b"X-Forwarded-Proto", head.scheme.as_bytes(), out);
    }
    if !seen.host && !head.authority.is_empty() && ours(Known::XForwardedHost, b"x-forwarded-host") {
        write_field(b"X-Forwarded-Host", head.authority, out);
    }
    if ours(Known::XRequestId, b"x-request-id") {
        write_field(b"X-Request-Id", head.request_id, out);
    }
    if ours(Known::Via, b"via") {
        // RFC 9110 §7.6.3: the version that the message came in, not the one it goes on in.
        out.extend_from_slice(match forwarding.version {
            Version::Http11 => b"Via: 1.1 attache\r\n",
            Version::Http10 => b"Via: 1.0 attache\r\n",
            Version::Http2 => b"Via: 2.0 attache\r\n",
        });
    }
}

/// Names that a message's Connection fields declare as hop-by-hop.
pub struct Nominations<'a> {
    bytes: &'a [u8],
    fields: &'a [Field],
    any: bool,
}

impl<'a> Nominations<'a> {
    pub fn of(bytes: &'a [u8], fields: &'a [Field]) -> Self {
        let plain = |token: &[u8]| token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive");
        let any = connection_tokens(bytes, fields).any(|token| !plain(token));
        Self { bytes, fields, any }
    }

    /// Whether the field ends here. What tells the endpoint who asked is not the client's to take away:
    /// that is how a request passes for one from inside.
    pub fn take(&self, known: Known, name: &[u8]) -> bool {
        let is_safe = matches!(
            known,
            Known::XForwardedProto | Known::XForwardedHost | Known::XForwardedOther | Known::Forwarded | Known::XAttache | Known::Via
        );
        self.any && !is_safe && self.names(name)
    }

    fn names(&self, name: &[u8]) -> bool {
        self.any && is_nominated(name, self.fields, self.bytes)
    }
}

fn connection_tokens<'a>(bytes: &'a [u8], fields: &'a [Field]) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(|field| field.known == Known::Connection).flat_map(move |field| tokens(field.value.of(bytes)))
}

/// An endpoint's answer for the client.
pub struct Relay<'a> {
    pub response: &'a ResponseHead,
    pub bytes: &'a [u8],
    pub edits: &'a Edits,
    pub lookup: &'a HeadLookup<'a, 'a>,
    /// How the client sees the body end.
    pub body: BodyFraming,
    /// Content-Length describes a body that is not sent (HEAD, 304).
    pub keeps_length: bool,
    pub persistence: Persistence,
    pub date: &'a [u8],
    /// Fields of ours, each a line.
    pub fields: &'a [&'a [u8]],
}

/// The head of a final answer.
pub fn response(relay: &Relay<'_>, out: &mut Vec<u8>) {
    let Relay { response, bytes, .. } = *relay;
    status_line(response, bytes, out);
    let nominations = Nominations::of(bytes, &response.fields);
    let mut has_date = false;
    let mut length_written = false;
    for field in &response.fields {
        let (name, value) = (field.name.of(bytes), field.value.of(bytes));
        match field.known {
            Known::TransferEncoding
            | Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::Upgrade
            | Known::Http2Settings
            | Known::Te => continue,
            Known::ContentLength if !relay.keeps_length || length_written => continue,
            Known::ContentLength => length_written = true,
            Known::Trailer if relay.body != BodyFraming::Chunked => continue,
            _ => {}
        }
        if nominations.names(name) || relay.edits.drops(field.known, name) {
            continue;
        }
        has_date |= field.known == Known::Date;
        write_field(name, value, out);
    }
    relay.edits.write(relay.lookup, out);
    for lines in relay.fields {
        out.extend_from_slice(lines);
    }
    if !has_date && !relay.edits.drops(Known::Date, b"date") {
        write_field(b"Date", relay.date, out);
    }
    match relay.body {
        BodyFraming::Length(length) => write_length(length, out),
        BodyFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        BodyFraming::None | BodyFraming::UntilClose => {}
    }
    finish(relay.persistence, out);
}

/// The head of an interim answer (1xx), which has no body and says nothing about the connection.
pub fn interim(response: &ResponseHead, bytes: &[u8], out: &mut Vec<u8>) {
    status_line(response, bytes, out);
    let nominations = Nominations::of(bytes, &response.fields);
    for field in &response.fields {
        let name = field.name.of(bytes);
        if !is_hop(field.known) && !nominations.names(name) {
            write_field(name, field.value.of(bytes), out);
        }
    }
    out.extend_from_slice(CRLF);
}

/// The head of a 101, whose end is the beginning of something else.
/// `ours` are fields of our own, each a line.
pub fn switching(response: &ResponseHead, bytes: &[u8], edits: &Edits, lookup: &HeadLookup<'_, '_>, ours: &[&[u8]], out: &mut Vec<u8>) {
    status_line(response, bytes, out);
    let nominations = Nominations::of(bytes, &response.fields);
    for field in &response.fields {
        let name = field.name.of(bytes);
        if !is_hop(field.known) && !nominations.names(name) && !edits.drops(field.known, name) {
            write_field(name, field.value.of(bytes), out);
        }
    }
    edits.write(lookup, out);
    for lines in ours {
        out.extend_from_slice(lines);
    }
    for field in response.fields.iter().filter(|field| field.known == Known::Upgrade) {
        write_upgrade(field.value.of(bytes), out);
    }
    out.extend_from_slice(CRLF);
}

fn write_upgrade(protocols: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"Connection: Upgrade\r\n");
    write_field(b"Upgrade", protocols, out);
}

/// What an answer without a body says about its connection only.
fn is_hop(known: Known) -> bool {
    matches!(
        known,
        Known::TransferEncoding
            | Known::ContentLength
            | Known::Connection
            | Known::KeepAlive
            | Known::Upgrade
            | Known::ProxyConnection
            | Known::Http2Settings
            | Known::Te
            | Known::Trailer
    )
}

fn status_line(response: &ResponseHead, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_status(response.status, out);
    out.push(b' ');
    out.extend_from_slice(response.reason.of(bytes));
    out.extend_from_slice(CRLF);
}

/// A fixed answer, head and body.
pub struct Fixed<'a> {
    pub respond: &'a Respond,
    pub lookup: &'a HeadLookup<'a, 'a>,
    pub edits: &'a Edits,
    /// More fields of ours, each a line.
    pub ours: &'a [u8],
}

impl Fixed<'_> {
    pub fn write(&self, method: &[u8], persistence: Persistence, date: &[u8], out: &mut Vec<u8>) {
        let Self { respond, lookup, edits, ours } = *self;
        own_status_line(respond.status, out);
        for (name, value) in &respond.headers {
            if edits.drops(Known::of(name), name) {
                continue;
            }
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            value.write(lookup, out);
            out.extend_from_slice(CRLF);
        }
        edits.write(lookup, out);
        out.extend_from_slice(ours);
        own_end(respond.status, &respond.body, method, persistence, date, out);
    }
}

/// An answer of attache's own with a field or two.
pub struct Own<'a> {
    pub status: u16,
    /// Whole fields, each with its CRLF.
    pub fields: &'a [u8],
    pub body: &'a [u8],
}

impl Own<'_> {
    pub fn write(&self, method: &[u8], persistence: Persistence, date: &[u8], out: &mut Vec<u8>) {
        own_status_line(self.status, out);
        out.extend_from_slice(self.fields);
        own_end(self.status, self.body, method, persistence, date, out);
    }
}

/// The head of an answer of attache's own whose body is still to come, framed like this.
pub fn own_head(status: u16, fields: &[u8], body: BodyFraming, persistence: Persistence, date: &[u8], out: &mut Vec<u8>) {
    own_status_line(status, out);
    out.extend_from_slice(fields);
    write_field(b"Date", date, out);
    if body == BodyFraming::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    finish(persistence, out);
}

fn own_status_line(status: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_status(status, out);
    out.push(b' ');
    out.extend_from_slice(refusal::reason(status).as_bytes());
    out.extend_from_slice(CRLF);
}

fn own_end(status: u16, body: &[u8], method: &[u8], persistence: Persistence, date: &[u8], out: &mut Vec<u8>) {
    write_field(b"Date", date, out);
    // RFC 9110 §8.6: no Content-Length in a 204; in a 304 it would describe the body not sent.
    let has_body = !matches!(status, 204 | 304);
    if has_body {
        write_length(body.len() as u64, out);
    }
    finish(persistence, out);
    if has_body && method != b"HEAD" {
        out.extend_from_slice(body);
    }
}

fn finish(persistence: Persistence, out: &mut Vec<u8>) {
    out.extend_from_slice(match persistence {
        Persistence::Kept => b"\r\n",
        Persistence::KeptAloud => b"Connection: keep-alive\r\n\r\n",
        Persistence::Closed => b"Connection: close\r\n\r\n",
    });
}

pub fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(CRLF);
}

fn write_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: ");
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(CRLF);
}

fn write_status(status: u16, out: &mut Vec<u8>) {
    let digit = |n: u16| b'0' + (n % 10) as u8;
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status)]);
}

/// How the client's version sees a body of this framing: HTTP/1.0 knows no chunks.
pub fn client_body(from_endpoint: BodyFraming, client: Version) -> BodyFraming {
    match (from_endpoint, client) {
        (BodyFraming::Chunked | BodyFraming::UntilClose, Version::Http11 | Version::Http2) => BodyFraming::Chunked,
        (BodyFraming::Chunked | BodyFraming::UntilClose, Version::Http10) => BodyFraming::UntilClose,
        (framing, _) => framing,
    }
}

/// The client's address seen through trusted proxies: the last in X-Forwarded-For that is not one.
pub fn client_ip(listener: &Listener, peer: Option<IpAddr>, headers: Headers<'_>) -> (Option<IpAddr>, bool) {
    if listener.trust.is_empty() {
        return (peer, false);
    }
    let is_trusted = |ip: &IpAddr| listener.trust.iter().any(|network| network.0.contains(ip));
    let Some(peer) = peer.filter(is_trusted) else { return (peer, false) };
    let mut client = peer;
    // At most as many hops as a head has room for; each is looked at once, from the right.
    let values: Vec<&[u8]> = headers.all(b"x-forwarded-for").flat_map(tokens).collect();
    for value in values.into_iter().rev() {
        let parsed = std::str::from_utf8(value).ok().and_then(|text| text.parse::<IpAddr>().ok());
        let Some(ip) = parsed.map(|ip| ip.to_canonical()) else { break };
        client = ip;
        if !is_trusted(&ip) {
            break;
        }
    }
    (Some(client), true)
}
