//! Opens TLS connections as fast as the other end lets it: the load of the handshake cases.
//!
//! Verifies no certificate, since its own work must not be what limits a run.
//!
//! `handshakes ADDRESS full|resumed CONNECTIONS SECONDS` prints `ready` after one full handshake per connection,
//! waits for a line, works, and prints JSON. So whoever started it can take CPU time from exactly there.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

mod answer;

const REQUEST: &[u8] = b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// A server may send several tickets on each connection; one is used by the next.
const TICKETS_MAX: usize = 8;
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Tally {
    full: u64,
    resumed: u64,
    errors: u64,
    error: Option<String>,
    cipher: String,
    latencies_us: Vec<u64>,
}

#[derive(Clone)]
struct Target {
    address: SocketAddr,
    connector: TlsConnector,
}

impl Target {
    /// Connects, shakes hands, asks once and closes. Tickets come before the answer, so they are kept by then.
    async fn visit(&self) -> io::Result<(HandshakeKind, String)> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a valid name");
        let mut tls = self.connector.connect(name, stream).await?;
        tls.write_all(REQUEST).await?;
        let mut received = Vec::with_capacity(1024);
        while answer::length(&received)?.is_none_or(|length| received.len() < length) {
            if tls.read_buf(&mut received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        tls.shutdown().await?;
        let (_, session) = tls.get_ref();
        let kind = session.handshake_kind().expect("the handshake is over");
        let cipher = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
        Ok((kind, cipher.unwrap_or_default()))
    }

    async fn visit_until(&self, end: Instant, tally: &RefCell<Tally>) {
        while Instant::now() < end {
            let start = Instant::now();
            let outcome = tokio::time::timeout(PATIENCE, self.visit()).await.unwrap_or_else(|late| Err(late.into()));
            let mut tally = tally.borrow_mut();
            match outcome {
                Ok((kind, cipher)) => {
                    *if kind == HandshakeKind::Resumed { &mut tally.resumed } else { &mut tally.full } += 1;
                    tally.latencies_us.push(start.elapsed().as_micros() as u64);
                    tally.cipher = cipher;
                }
                Err(error) => {
                    tally.errors += 1;
                    tally.error.get_or_insert(error.to_string());
                }
            }
        }
    }
}

/// TLS 1.3 with X25519 and nothing else, so that every proxy does the same work.
fn connector(resumption: Resumption) -> TlsConnector {
    let provider = CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider knows TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified))
        .with_no_client_auth();
    config.resumption = resumption;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn percentile(sorted: &[u64], share: f64) -> Option<u64> {
    sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1))).copied()
}

async fn run(address: SocketAddr, is_resuming: bool, connections: usize, time: Duration) -> io::Result<()> {
    let resumption = || if is_resuming { Resumption::in_memory_sessions(TICKETS_MAX) } else { Resumption::disabled() };
    // Each has its own tickets, as different clients would.
    let targets: Vec<Target> = (0..connections).map(|_| Target { address, connector: connector(resumption()) }).collect();
    for target in &targets {
        target.visit().await?;
    }
    writeln!(io::stdout(), "ready")?;
    io::stdin().read_line(&mut String::new())?;

    let tally = Rc::new(RefCell::new(Tally::default()));
    let start = Instant::now();
    let work = LocalSet::new();
    for target in targets {
        let tally = Rc::clone(&tally);
        work.spawn_local(async move { target.visit_until(start + time, &tally).await });
    }
    work.await;
    let seconds = start.elapsed().as_secs_f64();

    let mut tally = tally.borrow_mut();
    tally.latencies_us.sort_unstable();
    let line = serde_json::json!({
        "full": tally.full,
        "resumed": tally.resumed,
        "errors": tally.errors,
        "error": tally.error,
        "cipher": tally.cipher,
        "seconds": seconds,
        "p50_us": percentile(&tally.latencies_us, 0.50),
        "p99_us": percentile(&tally.latencies_us, 0.99),
        "p999_us": percentile(&tally.latencies_us, 0.999),
    });
    writeln!(io::stdout(), "{line}")
}

fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: handshakes ADDRESS full|resumed CONNECTIONS SECONDS");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, kind @ ("full" | "resumed"), connections, seconds] = &args.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
        return Err(usage());
    };
    let address = address.parse().map_err(|_| usage())?;
    let connections = connections.parse().map_err(|_| usage())?;
    let seconds = seconds.parse().map_err(|_| usage())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(address, *kind == "resumed", connections, Duration::from_secs_f64(seconds)))
}
