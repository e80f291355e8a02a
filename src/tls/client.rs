//! Who a verified client is: the subject of its certificate, as text that is safe in a header and in a log.
//!
//! Verifies nothing; rustls did, before there was a connection to ask.

use std::fmt::Write as _;

use rustls::ServerConnection;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// A client that proved to hold the key of a certificate from `client_ca`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// As in RFC 2253: the most specific part first, `CN=alice,O=Example`. Printable ASCII; everything else is `\XX`.
    pub subject: String,
}

impl ClientIdentity {
    /// `None` if it is no certificate. Only meaningful for one that was verified.
    pub fn of_verified(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self { subject: subject(certificate.subject()) })
    }
}

/// `None` for a client that showed no certificate.
pub fn client_identity(connection: &ServerConnection) -> Option<ClientIdentity> {
    ClientIdentity::of_verified(connection.peer_certificates()?.first()?)
}

fn subject(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        for (index, attribute) in part.iter().enumerate() {
            let separator = if index == 0 { "," } else { "+" };
            if !text.is_empty() {
                text.push_str(separator);
            }
            write_attribute(attribute, &mut text);
        }
    }
    text
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, text: &mut String) {
    let oid = attribute.attr_type().to_id_string();
    let name = match oid.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        other => other,
    };
    text.push_str(name);
    text.push('=');
    let value = attribute.as_slice();
    for (index, &byte) in value.iter().enumerate() {
        let is_edge = index == 0 || index + 1 == value.len();
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'=' => text.extend(['\\', char::from(byte)]),
            b' ' if is_edge => text.push_str("\\ "),
            b'#' if index == 0 => text.push_str("\\#"),
            0x20..=0x7e => text.push(char::from(byte)),
            _ => write!(text, "\\{byte:02X}").expect("a string takes what is written to it"),
        }
    }
}
