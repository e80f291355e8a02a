//! What a request's head must be beside well-formed, before anybody decides where it goes.
//!
//! Judges and answers nobody; which door the head came in by makes no difference but where it must.

use crate::config::listener::Paths;
use crate::generation::Listener;
use crate::proto::http1::{
    BodyFraming, FramingError, Known, RequestFraming, RequestHead, Target, Version, check_host, compare_form, request_framing, split_target,
};
use crate::refusal::Refusal;
use crate::route::TlsFacts;
use crate::value::BodyLimit;

/// What is known of a request once its head has passed every check.
pub struct Checked<'a> {
    pub framing: RequestFraming,
    pub authority: &'a [u8],
    pub host: &'a [u8],
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
}

/// What a client's connection said before its first request; nothing of one without TLS.
#[derive(Clone, Copy)]
pub struct Handshake<'a> {
    pub facts: Option<&'a TlsFacts>,
    /// As [`crate::tls::Acceptor::client_policy`] was then.
    pub policy: u64,
}

/// Everything about a head that its grammar does not say (CONFIG "HTTP strictness").
pub fn check<'a>(
    request: &RequestHead,
    bytes: &'a [u8],
    listener: &Listener,
    handshake: Handshake<'_>,
    compare_path: &mut Vec<u8>,
) -> Result<Checked<'a>, Refusal> {
    let framing = request_framing(request, bytes).map_err(|error| match error {
        FramingError::EncodingInHttp10
        | FramingError::LengthAndEncoding
        | FramingError::DifferentLengths
        | FramingError::BadLength
        | FramingError::BadEncoding => Refusal::BadFraming,
        FramingError::ConnectionTooLarge => Refusal::HeadTooLarge,
    })?;
    let target = split_target(request.target.of(bytes)).ok_or(Refusal::BadHead)?;
    let host_field = only_host(request, bytes, handshake.facts.is_some())?;
    let host_field = match (host_field, request.version) {
        (Some(host), _) => host,
        (None, Version::Http10) => b"",
        (None, Version::Http11 | Version::Http2) => return Err(Refusal::BadHost),
    };
    if request.method.of(bytes) == b"CONNECT" {
        return Err(Refusal::MethodRefused);
    }
    let (authority, path, query) = match target {
        Target::Origin { path, query } => (host_field, path, query),
        Target::Absolute { scheme, authority, path, query } => {
            // RFC 9112 §3.2.2: the target wins; disagreement is somebody being misled.
            if !host_field.is_empty() && !is_same_authority(scheme, host_field, authority) {
                return Err(Refusal::HostMismatch);
            }
            // RFC 9112 §3.2.4: this is how a proxy is asked for `*`.
            let is_about_server =
                request.method.of(bytes) == b"OPTIONS" && query.is_none() && request.target.of(bytes).ends_with(authority);
            (authority, if is_about_server { b"*" } else { path }, query)
        }
        Target::Asterisk if request.method.of(bytes) == b"OPTIONS" => (host_field, &b"*"[..], None),
        Target::Asterisk | Target::Authority(_) => return Err(Refusal::BadHead),
    };
    let host = if authority.is_empty() { authority } else { check_host(authority).ok_or(Refusal::BadHost)?.name.of(authority) };
    if listener.paths == Paths::Strict {
        let compared = compare_form(path).map_err(|_| Refusal::BadPath)?;
        if let std::borrow::Cow::Owned(compared) = compared {
            compare_path.extend_from_slice(&compared);
        }
    }
    if framing.expect_unknown {
        return Err(Refusal::ExpectationUnknown);
    }
    if let (BodyLimit::Bytes(most), BodyFraming::Length(length)) = (listener.body, framing.body)
        && length > most
    {
        return Err(Refusal::BodyTooLarge);
    }
    if is_misdirected(listener, handshake, host) {
        return Err(Refusal::Misdirected);
    }
    Ok(Checked { framing, authority, host, path, query })
}

/// `a.example` and `a.example:80` are one authority of `http` (RFC 3986 §6.2.3).
fn is_same_authority(scheme: &[u8], a: &[u8], b: &[u8]) -> bool {
    let default: &[u8] = if scheme.eq_ignore_ascii_case(b"https") { b":443" } else { b":80" };
    let bare = |authority: &'_ [u8]| authority.strip_suffix(default).or(authority.strip_suffix(b":")).unwrap_or(authority).len();
    a[..bare(a)].eq_ignore_ascii_case(&b[..bare(b)])
}

/// The one Host field; two are refused, none is for the caller to judge. In HTTP/2 the first of two is
/// `:authority`, and the other must agree with it (RFC 9113 §8.3.1).
fn only_host<'a>(request: &RequestHead, bytes: &'a [u8], is_tls: bool) -> Result<Option<&'a [u8]>, Refusal> {
    let mut hosts = request.fields.iter().filter(|field| field.known == Known::Host).map(|field| field.value.of(bytes));
    let first = hosts.next();
    match (first, hosts.next()) {
        (Some(authority), Some(host)) if request.version == Version::Http2 => {
            let scheme: &[u8] = if is_tls { b"https" } else { b"http" };
            if !is_same_authority(scheme, authority, host) {
                return Err(Refusal::HostMismatch);
            }
        }
        (_, Some(_)) => return Err(Refusal::BadHost),
        (_, None) => {}
    }
    if first.is_some_and(<[u8]>::is_empty) { Err(Refusal::BadHost) } else { Ok(first) }
}

/// RFC 9110 §7.4: the handshake vouched for one certificate's names, the request asks for another's;
/// or the listener has other clients to let in since the handshake.
fn is_misdirected(listener: &Listener, handshake: Handshake<'_>, host: &[u8]) -> bool {
    let (Some(acceptor), Some(facts)) = (&listener.tls, handshake.facts) else { return false };
    if acceptor.client_policy() != handshake.policy {
        return true;
    }
    if acceptor.certificates().len() < 2 || facts.sni.is_none() || host.is_empty() {
        return false;
    }
    let host = std::str::from_utf8(host).ok();
    acceptor.select(host) != acceptor.select(facts.sni.as_deref())
}
