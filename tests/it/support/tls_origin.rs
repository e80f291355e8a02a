//! A scripted origin behind TLS, which remembers how every handshake went.
//!
//! Dropping a connection is a cut one: a script that means an end says so by [`goodbye`](TlsOrigin::goodbye).

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::origin::read_request;
use super::{Next, Origin, PATIENCE, Pair, Request};

/// One connection after its handshake.
pub type Talk = StreamOwned<ServerConnection, TcpStream>;

/// Connections in the order of their handshakes, with the requests that came over each.
type Seen = Vec<(Shake, Vec<Request>)>;

/// What a handshake came to.
#[derive(Clone, Debug)]
pub struct Shake {
    pub kind: HandshakeKind,
    pub version: ProtocolVersion,
    pub sni: Option<String>,
    pub alpn: Option<Vec<u8>>,
    /// Subject of the certificate that the client showed.
    pub client: Option<String>,
}

pub struct TlsOrigin {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _origin: Origin,
}

impl TlsOrigin {
    /// Runs `script` for every request.
    pub fn run(config: ServerConfig, script: impl Fn(&mut Talk, &Request, usize) -> Next + Send + Sync + 'static) -> Self {
        let config = Arc::new(config);
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let noted = Arc::clone(&seen);
        let origin = Origin::raw(move |stream, _| {
            let Some((mut talk, shake)) = shake_hands(stream, Arc::clone(&config)) else { return };
            let place = {
                let mut noted = noted.lock().unwrap();
                noted.push((shake, Vec::new()));
                noted.len() - 1
            };
            let mut buffer = Vec::new();
            for number in 0.. {
                let Some(request) = read_request(&mut talk, &mut buffer) else { return };
                noted.lock().unwrap()[place].1.push(request.clone());
                if script(&mut talk, &request, number) == Next::Close {
                    return;
                }
            }
        });
        Self { address: origin.address, seen, _origin: origin }
    }

    /// Answers every request with the same bytes and keeps the connection.
    pub fn answering(config: ServerConfig, bytes: &'static str) -> Self {
        Self::run(
            config,
            move |talk, _, _| {
                if std::io::Write::write_all(talk, bytes.as_bytes()).is_ok() { Next::Keep } else { Next::Close }
            },
        )
    }

    /// Handshakes that ended well, in their order.
    pub fn shakes(&self) -> Vec<Shake> {
        self.seen.lock().unwrap().iter().map(|(shake, _)| shake.clone()).collect()
    }

    /// Requests by connection.
    pub fn seen(&self) -> Vec<Vec<Request>> {
        self.seen.lock().unwrap().iter().map(|(_, requests)| requests.clone()).collect()
    }

    /// Presents `pair`; with `client_ca`, asks clients for a certificate and insists on it.
    pub fn config(pair: &Pair, client_ca: Option<&str>) -> ServerConfig {
        Self::config_of(pair, client_ca, true)
    }

    /// As [`TlsOrigin::config`], for programs that are older than TLS 1.3.
    pub fn old_config(pair: &Pair, client_ca: Option<&str>) -> ServerConfig {
        Self::config_of(pair, client_ca, false)
    }

    fn config_of(pair: &Pair, client_ca: Option<&str>, is_new: bool) -> ServerConfig {
        let versions: &[_] = if is_new { &[&TLS13] } else { &[&TLS12] };
        let builder = ServerConfig::builder_with_provider(attache::tls::provider()).with_protocol_versions(versions).unwrap();
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), attache::tls::provider());
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    /// Says that the end of a connection is meant.
    pub fn goodbye(talk: &mut Talk) {
        talk.conn.send_close_notify();
        let _ = talk.conn.complete_io(&mut talk.sock);
    }
}

fn shake_hands(stream: TcpStream, config: Arc<ServerConfig>) -> Option<(Talk, Shake)> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut talk = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    while talk.conn.is_handshaking() {
        // What is left to say, such as why it failed, is said by the call that fails.
        talk.conn.complete_io(&mut talk.sock).ok()?;
    }
    let client = talk.conn.peer_certificates().and_then(|chain| attache::tls::ClientIdentity::of_verified(&chain[0]));
    let shake = Shake {
        kind: talk.conn.handshake_kind()?,
        version: talk.conn.protocol_version()?,
        sni: talk.conn.server_name().map(str::to_owned),
        alpn: talk.conn.alpn_protocol().map(<[u8]>::to_vec),
        client: client.map(|identity| identity.subject),
    };
    Some((talk, shake))
}
