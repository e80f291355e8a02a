//! TLS towards clients: certificates, client verification, and what lets a client resume across reloads. TLS towards
//! endpoints is in [`connector`].
//!
//! Moves no bytes: `serve` does the handshake with the [`ServerConfig`] made here. Watches no files either; a
//! reload compiles everything anew.

mod authority;
mod client;
pub mod connector;
mod hello;
mod pem;
mod sessions;
mod settings;
mod store;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ServerConfig, SupportedProtocolVersion};

pub use client::{ClientIdentity, client_identity};
pub use connector::{Connector, Failure, Name, Peer, Settings as ConnectorSettings};
pub use hello::{Greeted, Hello};
pub use pem::{Read, expiry};
pub use sessions::Sessions;
pub use settings::{ClientAuth, Clients, Identity, KeyPair, MinVersion, Protocol, Settings};
pub use store::{CertStore, Certificate};

use crate::value::Diagnostics;
use sessions::{ClientPolicy, Policy, Resumption};
use store::Served;

/// As many as a browser opens connections to one HTTP/1.1 host and a few more; each costs a microsecond or two.
const TICKETS_MAX: usize = 8;
/// Tickets of TLS 1.3 are used once by careful clients, and HTTP/1.1 clients like a second connection.
const TICKETS: usize = 2;

/// The provider under every TLS connection, AES-128-GCM first: with AES instructions it is the cheapest suite there is.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        // The sort is stable, so what is equal stays in the provider's order.
        provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
            CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => 1,
            _ => 2,
        });
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// TLS of one listener in one generation.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    store: Arc<CertStore>,
    certificates: Vec<Certificate>,
    client_policy: u64,
    /// Held so that [`Sessions`] knows the policy as served.
    _resumption: Arc<Resumption>,
}

impl Acceptor {
    /// Everything wrong with the files is in `found`; `None` if that keeps the listener from serving.
    ///
    /// `listener` is its name: sessions are resumed under the same name only.
    pub fn compile(
        settings: &Settings,
        listener: &str,
        read: &Read<'_>,
        sessions: &Sessions,
        found: &mut Diagnostics,
        now: SystemTime,
    ) -> Option<Self> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        let provider = provider();
        let served = identity(&settings.identity, &provider, read, sessions, found, now);
        let clients = clients(&settings.clients, &provider, read, found, now);
        let (served, (clients, verifier)) = (served?, clients?);

        let place = match &settings.identity {
            Identity::Files(pairs) => pairs.first()?.cert.place,
            Identity::SelfSigned(names) => names.place,
        };
        let mut refuse = |error: rustls::Error| {
            found.error(place, format!("TLS cannot be set up: {error}"));
        };
        let client_policy = BuildHasherDefault::<DefaultHasher>::default().hash_one(&clients);
        let resumption = sessions.of(Policy { listener: listener.to_owned(), clients }).map_err(&mut refuse).ok()?;
        let store = Arc::new(CertStore::new(&served)?);
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions(settings.min_version))
            .map_err(&mut refuse)
            .ok()?;
        let mut config = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        }
        .with_cert_resolver(Arc::clone(&store) as _);
        config.ignore_client_order = true;
        config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.word().as_bytes().to_vec()).collect();
        // Clients that speak only HTTP/1.0 say so, and a handshake without a protocol in common fails.
        if settings.alpn.contains(&Protocol::Http1) {
            config.alpn_protocols.push(b"http/1.0".to_vec());
        }
        config.ticketer = Arc::clone(&resumption.ticketer);
        config.session_storage = Arc::clone(&resumption.storage);
        config.send_tls13_tickets = TICKETS;
        config.max_tls13_tickets = TICKETS_MAX;
        // Early data can be replayed by anyone who saw it.
        config.max_early_data_size = 0;
        let certificates = served.into_iter().map(|one| one.certificate).collect();
        Some(Self { config: Arc::new(config), store, certificates, client_policy, _resumption: resumption })
    }

    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Number of the certificate that answers a name. With several certificates, SNI and Host must select the same one.
    pub fn select(&self, name: Option<&str>) -> usize {
        self.store.select(name)
    }

    /// Which clients are let in, as a number: connections that were let in under another must not go on.
    pub fn client_policy(&self) -> u64 {
        self.client_policy
    }

    /// In the order of the configuration; never empty.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }
}

fn versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    static FROM_13: [&SupportedProtocolVersion; 1] = [&TLS13];
    match min {
        MinVersion::Tls12 => &FROM_12,
        MinVersion::Tls13 => &FROM_13,
    }
}

fn identity(
    identity: &Identity,
    provider: &CryptoProvider,
    read: &Read<'_>,
    sessions: &Sessions,
    found: &mut Diagnostics,
    now: i64,
) -> Option<Vec<Served>> {
    match identity {
        Identity::Files(pairs) => store::load_all(pairs, provider, read, found, now),
        Identity::SelfSigned(names) => match sessions.self_signed(names, provider, now) {
            Ok(served) => Some(vec![served]),
            Err(reason) => {
                found.error(names.place, format!("no certificate can be made for these names: {reason}"));
                None
            }
        },
    }
}

type Verifier = Arc<dyn ClientCertVerifier>;

fn clients(
    clients: &Clients,
    provider: &Arc<CryptoProvider>,
    read: &Read<'_>,
    found: &mut Diagnostics,
    now: i64,
) -> Option<(ClientPolicy, Option<Verifier>)> {
    let Clients::Verified { ca, auth } = clients else { return Some((ClientPolicy::Anonymous, None)) };
    // Read once: what is verified against and what sessions are bound to must be the same bytes.
    let bytes = pem::bytes(ca, read, found)?;
    let roots = authority::load(ca, &bytes, authority::Signs::Clients, found, now)?;
    let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    let builder = match auth {
        ClientAuth::Require => builder,
        ClientAuth::Request => builder.allow_unauthenticated(),
    };
    match builder.build() {
        Ok(verifier) => Some((ClientPolicy::verified(*auth, bytes), Some(verifier))),
        Err(error) => {
            found.error(ca.place, format!("clients cannot be verified: {error}"));
            None
        }
    }
}
