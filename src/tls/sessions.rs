//! What TLS keeps from one generation to the next: keys of session tickets, stored sessions, self-signed certificates,
//! and the authorities that the machine trusts.
//!
//! Sessions never cross policies: a client that was let in under one listener's rules must prove itself anew under
//! another's (CVE-2025-23419). rustls itself binds a session to the server name it was made for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::connector::load_system_roots;
use super::settings::ClientAuth;
use super::store::{Served, describe};

/// TLS 1.2 clients without ticket support, which are rare; everyone else carries their own session. About 1 KiB each.
const STORED_SESSIONS_MAX: usize = 256;

/// Self-signed certificates of names that nobody serves any more.
const SELF_SIGNED_MAX: usize = 64;

const DAY_SECONDS: u64 = 24 * 3600;
const SELF_SIGNED_SECONDS: u64 = 90 * DAY_SECONDS;
/// A reload makes a new one when less than this is left, a day before its expiry would be warned of.
const SELF_SIGNED_RENEWAL_SECONDS: i64 = 15 * 24 * 3600;

/// Carried across generations; one per process.
#[derive(Debug, Default)]
pub struct Sessions {
    /// Weak, so that it is bounded by what is served: the keys of a policy die with its last acceptor.
    policies: Mutex<HashMap<Policy, Weak<Resumption>>>,
    self_signed: Mutex<Vec<(Vec<String>, Served)>>,
    system_roots: OnceLock<Arc<RootCertStore>>,
}

/// Whose sessions may be resumed by whom. Compared whole: a hash would only add a way to be wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Policy {
    pub listener: String,
    pub clients: ClientPolicy,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ClientPolicy {
    Anonymous,
    /// The bytes of the authorities' file.
    Required(Arc<[u8]>),
    Requested(Arc<[u8]>),
}

impl ClientPolicy {
    pub fn verified(auth: ClientAuth, ca: Arc<[u8]>) -> Self {
        match auth {
            ClientAuth::Require => Self::Required(ca),
            ClientAuth::Request => Self::Requested(ca),
        }
    }
}

/// Keys and store of one policy.
#[derive(Debug)]
pub(super) struct Resumption {
    pub ticketer: Arc<dyn ProducesTickets>,
    pub storage: Arc<dyn StoresServerSessions>,
}

impl Sessions {
    pub fn new() -> Self {
        Self::default()
    }

    /// The error is the random generator's.
    pub(super) fn of(&self, policy: Policy) -> Result<Arc<Resumption>, Error> {
        let mut policies = lock(&self.policies);
        if let Some(known) = policies.get(&policy).and_then(Weak::upgrade) {
            return Ok(known);
        }
        policies.retain(|_, resumption| resumption.strong_count() > 0);
        let fresh = Arc::new(Resumption { ticketer: Ticketer::new()?, storage: ServerSessionMemoryCache::new(STORED_SESSIONS_MAX) });
        policies.insert(policy, Arc::downgrade(&fresh));
        Ok(fresh)
    }

    /// Read when first asked for, and never again: a change of the machine's authorities needs a restart. The error says
    /// why there are none, and is looked at anew by the next reload.
    pub(super) fn system_roots(&self) -> Result<Arc<RootCertStore>, String> {
        if let Some(roots) = self.system_roots.get() {
            return Ok(Arc::clone(roots));
        }
        let loaded = load_system_roots()?;
        Ok(Arc::clone(self.system_roots.get_or_init(|| loaded)))
    }

    /// The same certificate for the same names as long as it is good, so that a reload does not ask people to trust another one.
    pub(super) fn self_signed(&self, names: &[String], provider: &CryptoProvider, now: i64) -> Result<Served, String> {
        let mut made = lock(&self.self_signed);
        let good_until = now.saturating_add(SELF_SIGNED_RENEWAL_SECONDS);
        made.retain(|(_, served)| served.certificate.not_after > good_until);
        if let Some((_, served)) = made.iter().find(|(known, _)| known == names) {
            return Ok(served.clone());
        }
        let served = make_self_signed(names, provider, now)?;
        if made.len() >= SELF_SIGNED_MAX {
            made.remove(0);
        }
        made.push((names.to_vec(), served.clone()));
        Ok(served)
    }
}

fn make_self_signed(names: &[String], provider: &CryptoProvider, now: i64) -> Result<Served, String> {
    // A clock before 1970 or after 2100 is wrong; the dates of a certificate must still be dates.
    let now = u64::try_from(now).unwrap_or(0).clamp(DAY_SECONDS, 4_102_444_800);
    let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let make = || {
        let mut params = rcgen::CertificateParams::new(names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "attache self-signed");
        params.not_before = at(now - DAY_SECONDS);
        params.not_after = at(now + SELF_SIGNED_SECONDS);
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        Ok((CertificateDer::from(certificate), PrivateKeyDer::Pkcs8(key.serialize_der().into())))
    };
    let (der, key) = make().map_err(|error: rcgen::Error| error.to_string())?;
    let key = CertifiedKey::from_der(vec![der.clone()], key, provider).map_err(|error| error.to_string())?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
    Ok(Served { key: Arc::new(key), certificate: describe(&parsed) })
}

/// Nothing behind these locks is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
