//! TLS towards endpoints: whom to believe, who we are, and what lets a connection resume an earlier one.
//!
//! Moves no bytes: `dial` does the handshake with the [`Peer`] made here.

mod failure;
mod settings;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

pub use failure::Failure;
pub use settings::{Name, Settings, Trust};

use super::settings::Protocol;
use super::{Read, Sessions, authority, pem, provider, store};
use crate::value::{Diagnostics, Place};

/// Tickets kept for one endpoint, so that as many new connections at once resume. A few KiB each, with its certificates.
const SESSIONS_MAX: usize = 8;

/// TLS of one pool in one generation.
#[derive(Debug)]
pub struct Connector {
    config: ClientConfig,
    identity: Arc<Identity>,
}

/// An endpoint as TLS knows it: the name it must prove, and everything that its connections were made under.
///
/// Has sessions of its own, so that whoever shares a `Peer` shares sessions, and nobody else does.
#[derive(Clone, Debug)]
pub struct Peer {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    identity: Arc<Identity>,
}

/// What a connection is made under: another identity's connections and sessions must not be used. Compared whole, a hash
/// would only add a way to be wrong.
#[derive(PartialEq, Eq)]
struct Identity {
    believed: Believed,
    /// Bytes of the certificate's file and of the key's.
    client: Option<[Arc<[u8]>; 2]>,
    alpn: Vec<Protocol>,
}

#[derive(PartialEq, Eq)]
enum Believed {
    /// Read once, so it cannot change.
    System,
    /// The bytes of the file.
    Authorities(Arc<[u8]>),
    Anyone,
}

/// Says nothing: there is a key inside.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl Connector {
    /// Everything wrong with the files is in `found`; `None` if that keeps the pool from serving.
    ///
    /// `place` is where TLS is asked for; `alpn` is what is offered inside it, the preferred one first.
    pub fn compile(
        settings: &Settings,
        place: Place,
        alpn: &[Protocol],
        read: &Read<'_>,
        sessions: &Sessions,
        found: &mut Diagnostics,
        now: SystemTime,
    ) -> Option<Self> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        let provider = provider();
        let trusted = trusted(&settings.trust, place, read, sessions, found, now);
        let client = settings.client.as_ref().map(|pair| {
            let served = store::load(pair, &provider, read, found, now)?;
            Some((served.key, [read(&pair.cert).ok()?, read(&pair.key).ok()?]))
        });
        let (believed, verifier) = trusted?;
        let (resolver, client) = match client {
            None => (None, None),
            Some(loaded) => {
                let (key, bytes) = loaded?;
                (Some(Arc::new(SingleCertAndKey::from(key))), Some(bytes))
            }
        };
        let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12]);
        let builder = match versions {
            // `dangerous` is rustls's word for a verifier that is handed in; only `Trust::Anyone` is.
            Ok(builder) => builder.dangerous().with_custom_certificate_verifier(verifier),
            Err(error) => {
                found.error(place, format!("TLS cannot be set up: {error}"));
                return None;
            }
        };
        let mut config = match resolver {
            Some(resolver) => builder.with_client_cert_resolver(resolver),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.word().as_bytes().to_vec()).collect();
        // Early data can be replayed by anyone who saw it.
        config.enable_early_data = false;
        Some(Self { config, identity: Arc::new(Identity { believed, client, alpn: alpn.to_vec() }) })
    }

    /// Whether both make the same of an endpoint.
    pub fn is_as(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// An endpoint under this name, with no sessions yet.
    pub fn peer(&self, name: ServerName<'static>) -> Peer {
        let mut config = self.config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Peer { config: Arc::new(config), name, identity: Arc::clone(&self.identity) }
    }
}

impl Peer {
    /// Whether `connector` would make the same of an endpoint of this name.
    pub fn is_as(&self, connector: &Connector, name: &ServerName<'_>) -> bool {
        self.name == *name && self.identity == connector.identity
    }

    /// Whether both stand for the same, known by the same; or neither is anybody.
    pub fn are_alike(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (Some(one), Some(other)) => one.name == other.name && one.identity == other.identity,
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }
}

type Verifier = Arc<dyn ServerCertVerifier>;

fn trusted(
    trust: &Trust,
    place: Place,
    read: &Read<'_>,
    sessions: &Sessions,
    found: &mut Diagnostics,
    now: i64,
) -> Option<(Believed, Verifier)> {
    let (believed, roots, place) = match trust {
        Trust::Anyone => return Some((Believed::Anyone, Arc::new(Credulous))),
        Trust::System => match sessions.system_roots() {
            Ok(roots) => (Believed::System, roots, place),
            Err(reason) => {
                found.error(place, format!("this machine names no authorities to trust: {reason}")).help(
                    "name them: tls = { ca = \"ca.crt\" } in the pool, or SSL_CERT_FILE in the environment; or install ca-certificates",
                );
                return None;
            }
        },
        Trust::Authorities(ca) => {
            // Read once: what is verified against and what connections are bound to must be the same bytes.
            let bytes = pem::bytes(ca, read, found)?;
            let roots = authority::load(ca, &bytes, authority::Signs::Endpoints, found, now)?;
            (Believed::Authorities(bytes), roots, ca.place)
        }
    };
    match WebPkiServerVerifier::builder_with_provider(roots, provider()).build() {
        Ok(verifier) => Some((believed, verifier)),
        Err(error) => {
            found.error(place, format!("endpoints cannot be verified: {error}"));
            None
        }
    }
}

/// The authorities that this machine trusts. The error says why there are none.
pub(super) fn load_system_roots() -> Result<Arc<RootCertStore>, String> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Machines have certificates that nobody can use among good ones.
    let (usable, _) = roots.add_parsable_certificates(loaded.certs);
    match (usable, loaded.errors.first()) {
        (0, Some(error)) => Err(error.to_string()),
        (0, None) => Err("none are installed".to_owned()),
        _ => Ok(Arc::new(roots)),
    }
}

/// Believes any certificate, and looks at no signature: `insecure = true`.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
