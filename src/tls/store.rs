//! Server name → certificate: an exact name, then a wildcard, then the first.
//!
//! Does not know TLS handshakes but for the one trait that rustls asks through; built once, never changed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::pem::{self, Read, check_dates, ordinal};
use super::settings::KeyPair;
use crate::value::{Diagnostics, Place, Spanned};

/// What browsers accept, and rustls with them.
const RSA_BITS_MIN: usize = 2048;

/// What the outside may know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its first name: DNS or IP address, else its common name.
    pub name: String,
    /// Host names it answers, lower case, wildcards as `*.example`.
    pub hosts: Vec<String>,
    /// Unix seconds.
    pub not_after: i64,
    /// Serial number in hexadecimal: tells a renewed certificate from the one before.
    pub serial: String,
}

/// A certificate that can be served, with what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub key: Arc<CertifiedKey>,
    pub certificate: Certificate,
}

/// Never empty.
#[derive(Debug)]
pub struct CertStore {
    keys: Vec<Arc<CertifiedKey>>,
    exact: HashMap<Box<str>, usize>,
    /// Keys without their `*.`.
    wildcard: HashMap<Box<str>, usize>,
}

impl CertStore {
    /// `None` if there is nothing to serve.
    pub(super) fn new(served: &[Served]) -> Option<Self> {
        if served.is_empty() {
            return None;
        }
        let mut store = Self { keys: Vec::with_capacity(served.len()), exact: HashMap::new(), wildcard: HashMap::new() };
        for (index, one) in served.iter().enumerate() {
            store.keys.push(Arc::clone(&one.key));
            for host in &one.certificate.hosts {
                match host.strip_prefix("*.") {
                    Some(parent) => store.wildcard.entry(parent.into()).or_insert(index),
                    None => store.exact.entry(host.as_str().into()).or_insert(index),
                };
            }
        }
        Some(store)
    }

    /// Number of the certificate that answers a name; a request whose SNI and Host select differently is misdirected (421).
    pub fn select(&self, name: Option<&str>) -> usize {
        name.and_then(|name| self.find(name)).unwrap_or(0)
    }

    fn find(&self, name: &str) -> Option<usize> {
        // A name written in full ends in a dot (RFC 1034, 3.1).
        let name = name.strip_suffix('.').unwrap_or(name);
        if !name.bytes().any(|b| b.is_ascii_uppercase()) {
            return self.find_lower(name);
        }
        // No DNS name is longer than 253 bytes.
        let mut lower = [0; 253];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name.as_bytes());
        lower.make_ascii_lowercase();
        self.find_lower(std::str::from_utf8(lower).ok()?)
    }

    fn find_lower(&self, name: &str) -> Option<usize> {
        if let Some(&index) = self.exact.get(name) {
            return Some(index);
        }
        let (label, parent) = name.split_once('.')?;
        if label.is_empty() {
            return None;
        }
        self.wildcard.get(parent).copied()
    }

    #[cfg(test)]
    pub(super) fn leaf(&self, index: usize) -> CertificateDer<'static> {
        self.keys[index].cert[0].clone()
    }
}

impl ResolvesServerCert for CertStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.keys.get(self.select(hello.server_name())).cloned()
    }
}

/// Loads every pair; `None` if any of them cannot be served.
pub(super) fn load_all(
    pairs: &[KeyPair],
    provider: &CryptoProvider,
    read: &Read<'_>,
    found: &mut Diagnostics,
    now: i64,
) -> Option<Vec<Served>> {
    let loaded: Vec<Option<Served>> = pairs.iter().map(|pair| load(pair, provider, read, found, now)).collect();
    let served: Vec<Served> = loaded.into_iter().collect::<Option<_>>()?;
    warn_of_shadows(&served, pairs, found);
    Some(served)
}

pub(super) fn load(pair: &KeyPair, provider: &CryptoProvider, read: &Read<'_>, found: &mut Diagnostics, now: i64) -> Option<Served> {
    let chain = pem::bytes(&pair.cert, read, found).and_then(|bytes| pem::certificates(&pair.cert, &bytes, found));
    let key = pem::bytes(&pair.key, read, found).and_then(|bytes| pem::private_key(&pair.key, &bytes, found));
    let chain = chain?;
    let parsed = parse_chain(&chain, &pair.cert, found);
    let (parsed, key) = (parsed?, key?);

    let place = pair.cert.place;
    let leaf = parsed.first()?;
    refuse_short_rsa(leaf, place, found)?;
    // The library's own reason is one sentence for every cause.
    let Ok(signing) = provider.key_provider.load_private_key(key) else {
        found
            .error(pair.key.place, format!("the private key in `{}` cannot be used", pair.key.display()))
            .help("use an ECDSA key (P-256, P-384), an Ed25519 key, or an RSA key of 2048 bits or more");
        return None;
    };

    let key = CertifiedKey::new(chain.clone(), signing);
    match key.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            report_mismatch(&key, pair, found);
            return None;
        }
        Err(error) => {
            found.error(place, format!("the certificate in `{}` cannot be used: {error}", pair.cert.display()));
            return None;
        }
    }

    for (index, one) in parsed.iter().enumerate() {
        check_dates(&ordinal(index, parsed.len()), one.validity(), now, place, found);
    }
    warn_of_disorder(&parsed, place, found);
    Some(Served { key: Arc::new(key), certificate: describe(leaf) })
}

fn parse_chain<'c>(
    chain: &'c [CertificateDer<'static>],
    path: &Spanned<PathBuf>,
    found: &mut Diagnostics,
) -> Option<Vec<X509Certificate<'c>>> {
    let mut parsed = Vec::with_capacity(chain.len());
    for (index, der) in chain.iter().enumerate() {
        let Ok(([], one)) = X509Certificate::from_der(der) else {
            let which = ordinal(index, chain.len());
            found.error(path.place, format!("{which} in `{}` cannot be parsed", path.display())).help("is it an X.509 certificate?");
            return None;
        };
        parsed.push(one);
    }
    Some(parsed)
}

fn refuse_short_rsa(leaf: &X509Certificate<'_>, place: Place, found: &mut Diagnostics) -> Option<()> {
    if let Ok(PublicKey::RSA(key)) = leaf.public_key().parsed()
        && key.key_size() < RSA_BITS_MIN
    {
        found
            .error(place, format!("an RSA key of {} bits is too short", key.key_size()))
            .help("make a new certificate with an ECDSA P-256 key, or with RSA of 2048 bits or more");
        return None;
    }
    Some(())
}

/// The usual cause is a chain written root first, so look for the key's owner further down.
fn report_mismatch(key: &CertifiedKey, pair: &KeyPair, found: &mut Diagnostics) {
    let owner = (1..key.cert.len()).find(|&index| {
        let mut rotated = key.clone();
        rotated.cert.swap(0, index);
        rotated.keys_match().is_ok()
    });
    let shown = pair.cert.display();
    if let Some(index) = owner {
        let message = format!("the chain in `{shown}` is out of order: its certificate {} belongs to the key", index + 1);
        found.error(pair.cert.place, message).help("write the key's own certificate first, then the one that signed it, and so on");
        return;
    }
    found
        .error(pair.key.place, format!("the private key in `{}` does not belong to the certificate in `{shown}`", pair.key.display()))
        .related(pair.cert.place, "the certificate")
        .help("did only one of the two files change?");
}

fn warn_of_disorder(parsed: &[X509Certificate<'_>], place: Place, found: &mut Diagnostics) {
    let broken = parsed.windows(2).position(|two| two[0].issuer().as_raw() != two[1].subject().as_raw());
    if let Some(index) = broken {
        let (this, next) = (index + 1, index + 2);
        found
            .warn(place, format!("the chain is out of order: certificate {this} is not issued by certificate {next}"))
            .help("write the key's own certificate first, then the one that signed it, and so on; leave out what does not belong");
    }
}

/// A certificate whose every name is taken is never chosen, which nobody writes on purpose.
fn warn_of_shadows(served: &[Served], pairs: &[KeyPair], found: &mut Diagnostics) {
    let mut owner: HashMap<&str, usize> = HashMap::new();
    for (index, (one, pair)) in served.iter().zip(pairs).enumerate() {
        let mut is_reachable = index == 0;
        for host in &one.certificate.hosts {
            is_reachable |= *owner.entry(host).or_insert(index) == index;
        }
        if is_reachable {
            continue;
        }
        let place = pair.cert.place;
        match one.certificate.hosts.first().and_then(|host| owner.get(host.as_str())) {
            Some(&first) => found
                .warn(place, format!("`{}` is never chosen: an earlier certificate has all its names", pair.cert.display()))
                .related(pairs[first].cert.place, "the earlier certificate"),
            None => found.warn(place, format!("`{}` is never chosen: it names no host", pair.cert.display())),
        };
    }
}

/// Names in the subject alternative names; the common name counts only where there are none at all (RFC 6125, 6.4.4).
pub(super) fn describe(leaf: &X509Certificate<'_>) -> Certificate {
    let mut hosts = Vec::new();
    let mut names = Vec::new();
    let alternative = leaf.subject_alternative_name().ok().flatten();
    for general in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        match general {
            GeneralName::DNSName(name) => {
                let name = name.to_ascii_lowercase();
                names.push(name.clone());
                hosts.push(name);
            }
            GeneralName::IPAddress(bytes) => names.extend(ip(bytes).map(|ip| ip.to_string())),
            _ => {}
        }
    }
    let common = leaf.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    if alternative.is_none()
        && let Some(common) = common
    {
        hosts.push(common.to_ascii_lowercase());
    }
    // An address never arrives as SNI, so as a Host it must select what no SNI selects: the first.
    hosts.retain(|host| host.is_ascii() && !host.is_empty() && host.parse::<IpAddr>().is_err());
    let name = names.into_iter().next().or_else(|| common.map(str::to_owned)).unwrap_or_default();
    let serial = leaf.tbs_certificate.raw_serial_as_string();
    Certificate { name, hosts, not_after: leaf.validity().not_after.timestamp(), serial }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
