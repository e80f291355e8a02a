//! `[listener.tls]`: what the operator may write, checked into a form that cannot contradict itself.
//!
//! Opens no file; [`super::Acceptor::compile`] does, through its caller.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::value::{Decode, Item, Reader, Spanned};

crate::settings! {
    /// As written. [`Settings`] is what is left once the keys agree with each other.
    pub struct Written as "TLS" {
        /// Certificate chain in PEM, the server's own certificate first. Needs `key`.
        cert: Option<Spanned<PathBuf>> = None,
        /// Private key of `cert` in PEM, not encrypted.
        key: Option<Spanned<PathBuf>> = None,
        /// More certificates, chosen by the name that the client asks for (exact names, then wildcards). The first one,
        /// or `cert` if it is given, answers unknown names.
        certificates: Vec<KeyPair> = Vec::new(),
        /// Certificate authorities in PEM that client certificates must come from (mutual TLS). Off by default.
        client_ca: Option<Spanned<PathBuf>> = None,
        /// `"require"` (default) refuses clients without a certificate; `"request"` lets them in unnamed. Needs `client_ca`.
        client_auth: Option<Spanned<ClientAuth>> = None,
        /// Oldest TLS version: `"1.2"` (default) or `"1.3"`.
        min_version: MinVersion = MinVersion::Tls12,
        /// Application protocols offered, the preferred one first. Default `["h2", "http/1.1"]`.
        alpn: Option<Vec<Protocol>> = None,
        /// Development: makes a certificate for these names and addresses at start. Stands instead of `cert`.
        self_signed: Option<Spanned<Vec<String>>> = None,
    }
}

crate::settings! {
    /// A certificate chain and the private key of its first certificate.
    pub struct KeyPair as "a certificate with its key" {
        /// Certificate chain in PEM, the server's own certificate first.
        cert: Spanned<PathBuf>,
        /// Private key in PEM, not encrypted.
        key: Spanned<PathBuf>,
    }
}

crate::words! {
    /// What happens to a client without a certificate.
    pub enum ClientAuth as "a way to authenticate clients" {
        /// Its handshake fails.
        Require = "require",
        /// It is let in without an identity; a certificate that does not verify still fails.
        Request = "request",
    }
}

crate::words! {
    /// Oldest TLS version accepted.
    pub enum MinVersion as "a TLS version" {
        Tls12 = "1.2",
        Tls13 = "1.3",
    }
}

crate::words! {
    /// What is spoken inside TLS.
    pub enum Protocol as "a protocol for ALPN" {
        Http2 = "h2",
        Http1 = "http/1.1",
    }
}

/// TLS of one listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub identity: Identity,
    pub clients: Clients,
    pub min_version: MinVersion,
    pub alpn: Vec<Protocol>,
}

/// What the listener proves itself with.
#[derive(Clone, Debug, PartialEq)]
pub enum Identity {
    /// Never empty; the first answers unknown names.
    Files(Vec<KeyPair>),
    /// Never empty.
    SelfSigned(Spanned<Vec<String>>),
}

/// What clients prove themselves with.
#[derive(Clone, Debug, PartialEq)]
pub enum Clients {
    Anonymous,
    Verified { ca: Spanned<PathBuf>, auth: ClientAuth },
}

impl Settings {
    /// Every file named, to be read and watched.
    pub fn files(&self) -> impl Iterator<Item = &Spanned<PathBuf>> {
        let pairs = match &self.identity {
            Identity::Files(pairs) => pairs.as_slice(),
            Identity::SelfSigned(_) => &[],
        };
        let ca = match &self.clients {
            Clients::Verified { ca, .. } => Some(ca),
            Clients::Anonymous => None,
        };
        pairs.iter().flat_map(|pair| [&pair.cert, &pair.key]).chain(ca)
    }
}

impl Decode for Settings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let written = Written::decode(item, reader)?;
        let alpn = written.alpn.unwrap_or_else(|| vec![Protocol::Http2, Protocol::Http1]);
        let clients = clients(written.client_ca, written.client_auth, reader);
        let short_form = short_form(written.cert, written.key, reader);
        let identity = identity(item, short_form?, written.certificates, written.self_signed, reader);
        Some(Self { identity: identity?, clients: clients?, min_version: written.min_version, alpn })
    }
}

fn clients(ca: Option<Spanned<PathBuf>>, auth: Option<Spanned<ClientAuth>>, reader: &mut Reader<'_>) -> Option<Clients> {
    match (ca, auth) {
        (Some(ca), auth) => Some(Clients::Verified { ca, auth: auth.map_or(ClientAuth::Require, |auth| auth.value) }),
        (None, None) => Some(Clients::Anonymous),
        (None, Some(auth)) => {
            reader
                .error(auth.place, "`client_auth` without `client_ca` verifies nobody")
                .help("name the authorities that clients' certificates come from: client_ca = \"ca.crt\"");
            None
        }
    }
}

#[expect(clippy::option_option, reason = "absent and wrong are two different answers")]
pub(super) fn short_form(
    cert: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    reader: &mut Reader<'_>,
) -> Option<Option<KeyPair>> {
    match (cert, key) {
        (Some(cert), Some(key)) => Some(Some(KeyPair { cert, key })),
        (None, None) => Some(None),
        (Some(cert), None) => {
            reader.error(cert.place, "`cert` without `key`").help("name the certificate's private key: key = \"tls.key\"");
            None
        }
        (None, Some(key)) => {
            reader.error(key.place, "`key` without `cert`").help("name the key's certificate: cert = \"tls.crt\"");
            None
        }
    }
}

fn identity(
    item: &Item,
    short_form: Option<KeyPair>,
    certificates: Vec<KeyPair>,
    self_signed: Option<Spanned<Vec<String>>>,
    reader: &mut Reader<'_>,
) -> Option<Identity> {
    let pairs: Vec<KeyPair> = short_form.into_iter().chain(certificates).collect();
    match (pairs.first(), self_signed) {
        (Some(_), None) => Some(Identity::Files(pairs)),
        (None, Some(names)) => self_signed_names(names, reader).map(Identity::SelfSigned),
        (Some(pair), Some(names)) => {
            reader
                .error(names.place, "`self_signed` beside a certificate from a file")
                .related(pair.cert.place, "the certificate")
                .help("keep one of the two");
            None
        }
        (None, None) => {
            reader
                .error(item.place, "TLS without a certificate")
                .help("write cert = \"tls.crt\" and key = \"tls.key\", or self_signed = [\"localhost\"] while developing");
            None
        }
    }
}

fn self_signed_names(names: Spanned<Vec<String>>, reader: &mut Reader<'_>) -> Option<Spanned<Vec<String>>> {
    if names.is_empty() {
        reader.error(names.place, "`self_signed` names nobody").help("write self_signed = [\"localhost\"]");
        return None;
    }
    if let Some(wrong) = names.iter().find(|name| !is_certifiable(name)) {
        reader
            .error(names.place, format!("`{wrong}` is neither a host name nor an IP address"))
            .help("write names such as \"localhost\", \"*.test\" or \"127.0.0.1\"");
        return None;
    }
    Some(names)
}

/// What a certificate can name: an IP address, or a host name whose first label may be `*`.
fn is_certifiable(name: &str) -> bool {
    let host = name.strip_prefix("*.").unwrap_or(name);
    let is_label =
        |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && host.split('.').all(is_label))
}
