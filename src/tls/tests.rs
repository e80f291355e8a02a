//! The claims of `tls`, with certificates made in memory and handshakes that never touch a socket.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::Resumption as ClientResumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection};

use super::*;
use crate::value::{Decode as _, Item, Reader, Sources};

const DAY: u64 = 24 * 3600;
/// 2026-01-01.
const NOW: u64 = 1_767_225_600;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// An authority, and what it signs.
struct Authority {
    der: CertificateDer<'static>,
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

struct Pair {
    cert: String,
    key: String,
}

fn at(second: u64) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(NOW - 10 * DAY);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = at(NOW + 10_000 * DAY);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().clone(), pem: certificate.pem(), issuer: rcgen::Issuer::new(params, key) }
    }

    fn sign(&self, names: &[&str]) -> Pair {
        self.sign_until(names, NOW + 365 * DAY)
    }

    fn sign_until(&self, names: &[&str], not_after: u64) -> Pair {
        let mut params = at(not_after);
        let named: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        params.subject_alt_names = rcgen::CertificateParams::new(named).unwrap().subject_alt_names;
        self.sign_params(&params)
    }

    fn sign_params(&self, params: &rcgen::CertificateParams) -> Pair {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { cert: certificate.pem(), key: key.serialize_pem() }
    }

    fn client(&self, common_name: &str) -> Pair {
        let mut params = at(NOW + 365 * DAY);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Example, Inc.");
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        self.sign_params(&params)
    }
}

/// Files that exist only for the test.
#[derive(Default)]
struct Files(HashMap<String, Vec<u8>>);

impl Files {
    fn with(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.insert(path.to_owned(), bytes.into());
        self
    }

    fn pair(self, name: &str, pair: &Pair) -> Self {
        self.with(&format!("{name}.crt"), pair.cert.as_str()).with(&format!("{name}.key"), pair.key.as_str())
    }

    fn read(&self, path: &Path) -> io::Result<Arc<[u8]>> {
        let bytes = self.0.get(path.to_str().unwrap()).ok_or(io::ErrorKind::NotFound)?;
        Ok(bytes.as_slice().into())
    }
}

fn decode(source: &str) -> (Option<Settings>, Diagnostics) {
    let mut sources = Sources::default();
    sources.add("t.toml", source);
    let mut found = Diagnostics::default();
    let document = toml::Value::Table(source.parse().unwrap());
    let settings = Settings::decode(&Item::of_toml(&document, source), &mut Reader::new(&sources, &mut found));
    (settings, found)
}

#[track_caller]
fn settings(source: &str) -> Settings {
    let (settings, found) = decode(source);
    assert!(found.is_empty(), "{found:?}");
    settings.unwrap()
}

fn try_compile(source: &str, files: &Files) -> (Option<Acceptor>, Diagnostics) {
    let mut found = Diagnostics::default();
    let read = |path: &Path| files.read(path);
    let acceptor = Acceptor::compile(&settings(source), "edge", &read, &Sessions::new(), &mut found, now());
    (acceptor, found)
}

#[track_caller]
fn compile_in(source: &str, files: &Files, listener: &str, sessions: &Sessions) -> Acceptor {
    let mut found = Diagnostics::default();
    let read = |path: &Path| files.read(path);
    let acceptor = Acceptor::compile(&settings(source), listener, &read, sessions, &mut found, now());
    assert!(found.is_empty(), "{found:?}");
    acceptor.unwrap()
}

/// The message and its help contain `parts`, it stands where `at` stands, and nothing is served.
#[track_caller]
fn check_refused(source: &str, files: &Files, at: &str, parts: &[&str]) {
    let (acceptor, found) = try_compile(source, files);
    assert!(acceptor.is_none(), "{parts:?}");
    check_found(&found, source, at, parts);
}

#[track_caller]
fn check_warned(source: &str, files: &Files, at: &str, parts: &[&str]) {
    let (acceptor, found) = try_compile(source, files);
    assert!(acceptor.is_some() && !found.has_errors(), "{found:?}");
    check_found(&found, source, at, parts);
}

#[track_caller]
fn check_found(found: &Diagnostics, source: &str, at: &str, parts: &[&str]) {
    let fits = found.iter().any(|one| {
        let text = format!("{} ({})", one.message, one.help.as_deref().unwrap_or(""));
        parts.iter().all(|part| text.contains(part)) && one.place.is_some_and(|place| source[place.span()].contains(at))
    });
    assert!(fits, "{parts:?} at {at} not in {found:#?}");
}

const ONE: &str = r#"
cert = "a.crt"
key = "a.key"
"#;

// What may be written.

#[track_caller]
fn check_wrong(source: &str, at: &str, parts: &[&str]) {
    let (settings, found) = decode(source);
    assert!(settings.is_none());
    check_found(&found, source, at, parts);
}

#[test]
fn keys_that_contradict_each_other_are_refused_where_they_stand() {
    check_wrong(r#"cert = "a.crt""#, "a.crt", &["`cert` without `key`", "key = "]);
    check_wrong(r#"key = "a.key""#, "a.key", &["`key` without `cert`", "cert = "]);
    check_wrong("self_signed = [\"a\"]\nclient_auth = \"request\"", "request", &["without `client_ca`"]);
    check_wrong("cert = \"a.crt\"\nkey = \"a.key\"\nself_signed = [\"a\"]", "[", &["`self_signed` beside a certificate"]);
    check_wrong("certificates = [{ cert = \"a.crt\", key = \"a.key\" }]\nself_signed = [\"a\"]", "[", &["beside"]);
    check_wrong("min_version = \"1.2\"", "min_version", &["without a certificate", "self_signed"]);
    check_wrong("certificates = []", "certificates", &["without a certificate"]);
    check_wrong("self_signed = []", "[", &["names nobody"]);
    check_wrong("self_signed = [\"no spaces\"]", "[", &["`no spaces` is neither"]);
}

#[test]
fn words_are_checked() {
    check_wrong("self_signed = [\"a\"]\nmin_version = \"1.1\"", "1.1", &["`1.1` is not a TLS version"]);
    check_wrong("self_signed = [\"a\"]\nalpn = [\"http/2\"]", "http/2", &["is not a protocol"]);
    check_wrong("certificates = [{ cert = \"a.crt\" }]", "", &["missing key `key`"]);
}

#[test]
fn defaults_are_the_documented_ones() {
    let settings = settings("cert = \"a.crt\"\nkey = \"a.key\"\nclient_ca = \"ca.crt\"");
    assert_eq!((settings.min_version, settings.alpn.as_slice()), (MinVersion::Tls12, [Protocol::Http2, Protocol::Http1].as_slice()));
    assert!(matches!(settings.clients, Clients::Verified { auth: ClientAuth::Require, .. }));
}

#[test]
fn every_file_is_listed_and_the_short_form_is_first() {
    let settings = settings(
        r#"
certificates = [{ cert = "b.crt", key = "b.key" }]
cert = "a.crt"
key = "a.key"
client_ca = "ca.crt"
"#,
    );
    let files: Vec<_> = settings.files().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(files, ["a.crt", "a.key", "b.crt", "b.key", "ca.crt"]);
}

// What may be in the files.

#[test]
fn a_file_that_cannot_be_used_is_reported_at_its_path() {
    let pair = Authority::new("ca").sign(&["a.example"]);
    let good = || Files::default().pair("a", &pair);
    check_refused(ONE, &Files::default(), "a.crt", &["cannot read `a.crt`", "not found"]);
    check_refused(ONE, &good().with("a.crt", " \n"), "a.crt", &["is empty"]);
    check_refused(ONE, &good().with("a.crt", "hello"), "a.crt", &["no certificate in `a.crt`", "-----BEGIN CERTIFICATE-----"]);
    check_refused(ONE, &good().with("a.key", "hello"), "a.key", &["no private key in `a.key`", "-----BEGIN PRIVATE KEY-----"]);
    check_refused(ONE, &good().with("a.crt", b"\x30\x82\x01\x00".as_slice()), "a.crt", &["no certificate", "-inform der"]);
    check_refused(ONE, &good().with("a.key", format!("{0}{0}", pair.key)), "a.key", &["2 private keys"]);
    check_refused(ONE, &good().with("a.crt", &pair.cert[..200]), "a.crt", &["no END line"]);
    check_refused(ONE, &good().with("a.crt", vec![b'x'; 5 << 20]), "a.crt", &["too large"]);
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check_refused(ONE, &good().with("a.crt", not_der), "a.crt", &["cannot be parsed"]);
    let not_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    check_refused(ONE, &good().with("a.key", not_key), "a.key", &["cannot be used", "ECDSA"]);
    let not_base64 = "-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----\n";
    check_refused(ONE, &good().with("a.key", not_base64), "a.key", &["not Base64"]);
}

#[test]
fn both_files_of_a_pair_are_reported_in_one_pass() {
    let (_, found) = try_compile(ONE, &Files::default());
    assert_eq!(found.errors(), 2);
}

#[test]
fn swapped_files_are_named() {
    let pair = Authority::new("ca").sign(&["a.example"]);
    let files = Files::default().with("a.crt", pair.key.as_str()).with("a.key", pair.cert.as_str());
    check_refused(ONE, &files, "a.crt", &["holds a private key", "swapped"]);
    check_refused(ONE, &files, "a.key", &["holds a certificate", "swapped"]);
}

#[test]
fn one_file_may_hold_both() {
    let pair = Authority::new("ca").sign(&["a.example"]);
    let both = format!("{}{}", pair.key, pair.cert);
    let files = Files::default().with("a.pem", both);
    assert!(try_compile("cert = \"a.pem\"\nkey = \"a.pem\"", &files).0.is_some());
}

#[test]
fn a_byte_order_mark_and_carriage_returns_do_no_harm() {
    let pair = Authority::new("ca").sign(&["a.example"]);
    let odd = format!("\u{feff}{}", pair.cert.replace('\n', "\r\n"));
    let files = Files::default().pair("a", &pair).with("a.crt", odd);
    assert!(try_compile(ONE, &files).0.is_some());
}

#[test]
fn an_encrypted_key_comes_with_the_command_that_decrypts_it() {
    let pair = Authority::new("ca").sign(&["a.example"]);
    let new = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    for key in [new, old] {
        let files = Files::default().pair("a", &pair).with("a.key", key);
        check_refused(ONE, &files, "a.key", &["is encrypted", "openssl pkey -in a.key"]);
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let authority = Authority::new("ca");
    let (one, other) = (authority.sign(&["a.example"]), authority.sign(&["a.example"]));
    let files = Files::default().pair("a", &one).with("a.key", other.key);
    check_refused(ONE, &files, "a.key", &["does not belong to the certificate in `a.crt`"]);
}

#[test]
fn a_chain_written_root_first_is_refused() {
    let authority = Authority::new("ca");
    let pair = authority.sign(&["a.example"]);
    let files = Files::default().pair("a", &pair).with("a.crt", format!("{}{}", authority.pem, pair.cert));
    check_refused(ONE, &files, "a.crt", &["out of order", "certificate 2 belongs to the key"]);
}

#[test]
fn a_chain_with_a_stranger_is_a_warning_and_a_good_one_is_none() {
    let authority = Authority::new("ca");
    let pair = authority.sign(&["a.example"]);
    let chain = |with: &Authority| Files::default().pair("a", &pair).with("a.crt", format!("{}{}", pair.cert, with.pem));
    check_warned(ONE, &chain(&Authority::new("stranger")), "a.crt", &["certificate 1 is not issued by certificate 2"]);
    assert!(try_compile(ONE, &chain(&authority)).1.is_empty());
}

#[test]
fn dates_warn_and_serve() {
    let authority = Authority::new("ca");
    let files = |not_after| Files::default().pair("a", &authority.sign_until(&["a.example"], not_after));
    check_warned(ONE, &files(NOW - 3 * DAY), "a.crt", &["expired 3 days ago"]);
    check_warned(ONE, &files(NOW - 1), "a.crt", &["expired today"]);
    check_warned(ONE, &files(NOW + 1), "a.crt", &["expires today"]);
    check_warned(ONE, &files(NOW + 14 * DAY), "a.crt", &["expires 14 days from now"]);
    assert!(try_compile(ONE, &files(NOW + 14 * DAY + 1)).1.is_empty());

    let mut future = at(NOW + 365 * DAY);
    future.not_before = rcgen::date_time_ymd(2026, 6, 1);
    let files = Files::default().pair("a", &authority.sign_params(&future));
    check_warned(ONE, &files, "a.crt", &["not valid before 2026-06-01", "clock"]);
}

/// `openssl req -x509 -newkey rsa:1024 -nodes -subj /CN=short.example -days 7300`; its key is thrown away.
const SHORT_RSA: &str = "\
-----BEGIN CERTIFICATE-----
MIICDDCCAXWgAwIBAgIUJrxnR60oL8oEzplUsu6IT6tH7r0wDQYJKoZIhvcNAQEL
BQAwGDEWMBQGA1UEAwwNc2hvcnQuZXhhbXBsZTAeFw0yNjExMjEwMDM0MDRaFw00
NjExMTYwMDM0MDRaMBgxFjAUBgNVBAMMDXNob3J0LmV4YW1wbGUwgZ8wDQYJKoZI
hvcNAQEBBQADgY0AMIGJAoGBAOi9pYShMuHxEKRpoKPv4MM0m4C7ZQF48aiuwBv+
xe4t56yJ0Ew7A81Qs5yJjyCUqMvI4lvc3+OJdcajnyVS1yQeDWoSmoQhK/Laj87R
tWpRjw10nm0aNqTU36/aHPoMRvB7CV3SgCpcSQRuf6iNWLkZ2sFNaPD7Af9adjzs
mE/3AgMBAAGjUzBRMB0GA1UdDgQWBBRxNl8E4cMDU0neTB8esPKQidTDtTAfBgNV
HSMEGDAWgBRxNl8E4cMDU0neTB8esPKQidTDtTAPBgNVHRMBAf8EBTADAQH/MA0G
CSqGSIb3DQEBCwUAA4GBAJTq0+8Kn6oFVPuU2H7zGpmsuU3gDGuijNcF2X8ue7S6
jJpJ1g+Bm/OtZGorhvnld2HqD8vkXE1NQ/WxXeGcGRSRyiltW+BqgglH298M4ika
3+kzA2NBcRVbKJP1wMODG/vUKdVcnI/uSEZtQ+w0fT9ZO2XMgLAnD1pyvGGPxQ2q
-----END CERTIFICATE-----
";

#[test]
fn a_short_rsa_key_is_refused_with_its_length() {
    let files = Files::default().pair("a", &Authority::new("ca").sign(&["a.example"])).with("a.crt", SHORT_RSA);
    check_refused(ONE, &files, "a.crt", &["1024 bits is too short", "2048"]);
}

#[test]
fn an_authority_that_is_none_is_refused() {
    let authority = Authority::new("ca");
    let pair = authority.sign(&["a.example"]);
    let source = "cert = \"a.crt\"\nkey = \"a.key\"\nclient_ca = \"ca.crt\"";
    let files = |ca: &str| Files::default().pair("a", &pair).with("ca.crt", ca);
    let mut leaf = at(NOW + 365 * DAY);
    leaf.is_ca = rcgen::IsCa::ExplicitNoCa;
    check_refused(source, &files(&authority.sign_params(&leaf).cert), "ca.crt", &["no usable authority"]);
    check_refused(source, &files(&pair.cert), "ca.crt", &["no usable authority"]);
    check_refused(source, &files(&pair.key), "ca.crt", &["holds a private key"]);
    check_refused(source, &files("nothing"), "ca.crt", &["no certificate in"]);
    check_refused(source, &Files::default().pair("a", &pair), "ca.crt", &["cannot read"]);
    let one_of_two = format!("{}{}", authority.pem, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    check_warned(source, &files(&one_of_two), "ca.crt", &["certificate 2 of 2", "cannot be used as an authority"]);
}

#[test]
fn hostile_files_never_panic() {
    let pair = Authority::new("ca").sign(&["a.example", "10.0.0.1"]);
    let good = Files::default().pair("a", &pair);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let der = CertificateDer::from(pem_body(&pair.cert));
    let key = pem_body(&pair.key);
    for round in 0..2000 {
        let mut cert = der.to_vec();
        let mut key = key.clone();
        for _ in 0..=random(4) {
            let target = if round % 2 == 0 { &mut cert } else { &mut key };
            if random(3) == 0 {
                target.truncate(random(target.len()).max(1));
            } else {
                let index = random(target.len());
                target[index] = random(256) as u8;
            }
        }
        let source = "cert = \"a.crt\"\nkey = \"a.key\"\nclient_ca = \"a.crt\"";
        let files = Files::default().with("a.crt", pem("CERTIFICATE", &cert)).with("a.key", pem("PRIVATE KEY", &key));
        drop(try_compile(source, &files));

        // The same damage one layer up, and plain noise.
        let mut text = pair.cert.clone().into_bytes();
        for _ in 0..=random(8) {
            let index = random(text.len());
            text[index] = random(256) as u8;
        }
        drop(try_compile(ONE, &Files(good.0.clone()).with("a.crt", text)));
        let noise: Vec<u8> = (0..random(300)).map(|_| random(256) as u8).collect();
        drop(try_compile(ONE, &Files::default().with("a.crt", noise.clone()).with("a.key", noise.clone())));
        drop(ClientIdentity::of_verified(&noise));
        drop(ClientIdentity::of_verified(&cert));
    }
}

fn pem_body(pem: &str) -> Vec<u8> {
    use rustls::pki_types::pem::{PemObject as _, SectionKind};
    <(SectionKind, Vec<u8>)>::from_pem_slice(pem.as_bytes()).unwrap().1
}

fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut body = String::new();
    for chunk in der.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0_u32, |bits, (i, &b)| bits | u32::from(b) << (16 - 8 * i));
        for i in 0..4 {
            let letter = char::from(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63]);
            body.push(if i <= chunk.len() { letter } else { '=' });
        }
    }
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

// Which certificate answers.

fn several() -> Acceptor {
    let authority = Authority::new("ca");
    let files = Files::default()
        .pair("a", &authority.sign(&["a.example", "10.0.0.1"]))
        .pair("b", &authority.sign(&["*.example", "deep.x.example"]))
        .pair("c", &authority.sign(&["B.Example", "10.0.0.2"]));
    let source =
        r#"certificates = [{ cert = "a.crt", key = "a.key" }, { cert = "b.crt", key = "b.key" }, { cert = "c.crt", key = "c.key" }]"#;
    compile_in(source, &files, "edge", &Sessions::new())
}

#[test]
fn names_select_exactly_then_by_wildcard_then_the_first() {
    let acceptor = several();
    let select = |name: &str| acceptor.select(Some(name));
    assert_eq!(select("a.example"), 0);
    assert_eq!(select("b.example"), 2, "an exact name wins over a wildcard in an earlier certificate");
    assert_eq!(select("z.example"), 1);
    assert_eq!(select("y.z.example"), 0, "a wildcard stands for exactly one label");
    assert_eq!(select("deep.x.example"), 1);
    assert_eq!(select("example"), 0);
    assert_eq!(select(".example"), 0);
    assert_eq!(select("Z.EXAMPLE"), 1);
    assert_eq!(select("b.example."), 2);
    assert_eq!(select("10.0.0.2"), 0, "an address is never SNI, so Host must select what no SNI selects");
    assert_eq!(select(&"X".repeat(1000)), 0);
    assert_eq!(select(""), 0);
    assert_eq!(acceptor.select(None), 0);
}

#[test]
fn a_certificate_is_known_by_its_first_name() {
    let acceptor = several();
    let names: Vec<_> = acceptor.certificates().iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a.example", "*.example", "b.example"]);
    assert_eq!(acceptor.certificates()[0].not_after, (NOW + 365 * DAY).cast_signed());
}

#[test]
fn a_common_name_counts_only_without_alternative_names() {
    let authority = Authority::new("ca");
    let named = |names: &[&str]| {
        let mut params = rcgen::CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "cn.example");
        let files = Files::default().pair("a", &authority.sign_params(&params));
        compile_in(ONE, &files, "edge", &Sessions::new()).certificates()[0].clone()
    };
    assert_eq!((named(&[]).name.as_str(), named(&[]).hosts), ("cn.example", vec!["cn.example".to_owned()]));
    assert_eq!((named(&["10.0.0.1"]).name.as_str(), named(&["10.0.0.1"]).hosts), ("10.0.0.1", vec![]));
}

#[test]
fn a_certificate_that_is_never_chosen_is_a_warning() {
    let authority = Authority::new("ca");
    let source = "cert = \"a.crt\"\nkey = \"a.key\"\ncertificates = [{ cert = \"b.crt\", key = \"b.key\" }]";
    let files = |names: &[&str]| Files::default().pair("a", &authority.sign(&["a.example"])).pair("b", &authority.sign(names));
    check_warned(source, &files(&["a.example"]), "b.crt", &["never chosen", "all its names"]);
    check_warned(source, &files(&["10.0.0.1"]), "b.crt", &["never chosen", "names no host"]);
    assert!(try_compile(source, &files(&["a.example", "b.example"])).1.is_empty());
}

// Handshakes.

#[derive(Debug)]
struct FixedTime;

impl rustls::time_provider::TimeProvider for FixedTime {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(NOW)))
    }
}

fn client(authority: &Authority, identity: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(FixedTime))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::Pkcs8(pem_body(&pair.key).into());
            builder.with_client_auth_cert(vec![pem_body(&pair.cert).into()], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = ClientResumption::in_memory_sessions(16);
    Arc::new(config)
}

/// With time standing still at [`NOW`], so that client certificates made for then are valid.
fn frozen(acceptor: &Acceptor) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(&acceptor.config());
    config.time_provider = Arc::new(FixedTime);
    Arc::new(config)
}

fn shake(
    client: &Arc<ClientConfig>,
    acceptor: &Acceptor,
    name: &'static str,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(Arc::clone(client), ServerName::try_from(name).unwrap()).unwrap();
    let mut server = ServerConnection::new(frozen(acceptor)).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() || server.wants_write() {
        bytes.clear();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok((client, server))
}

#[track_caller]
fn kind(client: &Arc<ClientConfig>, acceptor: &Acceptor) -> HandshakeKind {
    shake(client, acceptor, "a.example").unwrap().1.handshake_kind().unwrap()
}

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

fn one_file(authority: &Authority) -> Files {
    Files::default().pair("a", &authority.sign(&["a.example", "b.example"])).with("ca.crt", authority.pem.as_str())
}

const REQUIRE: &str = "cert = \"a.crt\"\nkey = \"a.key\"\nclient_ca = \"ca.crt\"";
const REQUEST: &str = "cert = \"a.crt\"\nkey = \"a.key\"\nclient_ca = \"ca.crt\"\nclient_auth = \"request\"";

#[test]
fn the_protocol_is_the_first_of_ours_that_the_client_has() {
    let authority = Authority::new("ca");
    let agreed = |source: &str| {
        let acceptor = compile_in(source, &one_file(&authority), "edge", &Sessions::new());
        let (_, server) = shake(&client(&authority, None, BOTH), &acceptor, "a.example").unwrap();
        server.alpn_protocol().unwrap().to_vec()
    };
    assert_eq!(agreed(&format!("{ONE}alpn = [\"http/1.1\"]")), b"http/1.1");
    assert_eq!(agreed(&format!("{ONE}alpn = [\"http/1.1\", \"h2\"]")), b"http/1.1");
    let acceptor = compile_in(ONE, &one_file(&authority), "edge", &Sessions::new());
    let (_, server) = shake(&client(&authority, None, BOTH), &acceptor, "a.example").unwrap();
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(server.negotiated_cipher_suite().map(|suite| suite.suite()), Some(CipherSuite::TLS13_AES_128_GCM_SHA256));
    assert_eq!(client_identity(&server), None);
}

#[test]
fn sessions_resume_across_a_reload() {
    let authority = Authority::new("ca");
    let files = one_file(&authority);
    let sessions = Sessions::new();
    let before = compile_in(ONE, &files, "edge", &sessions);
    // A renewed certificate does not end sessions.
    let after = compile_in(ONE, &one_file(&authority), "edge", &sessions);
    for version in [&TLS13, &TLS12] {
        let client = client(&authority, None, &[version]);
        assert_ne!(kind(&client, &before), HandshakeKind::Resumed);
        assert_eq!(kind(&client, &after), HandshakeKind::Resumed, "{version:?}");
    }
}

#[test]
fn sessions_do_not_cross_server_names() {
    let authority = Authority::new("ca");
    let acceptor = compile_in(ONE, &one_file(&authority), "edge", &Sessions::new());
    let client = client(&authority, None, BOTH);
    assert_ne!(kind(&client, &acceptor), HandshakeKind::Resumed);
    let (_, server) = shake(&client, &acceptor, "b.example").unwrap();
    assert_ne!(server.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn sessions_do_not_cross_client_policies_or_listeners() {
    let authority = Authority::new("ca");
    let sessions = Sessions::new();
    let files = one_file(&authority);
    let other_ca = one_file(&authority).with("ca.crt", format!("{}{}", authority.pem, Authority::new("other").pem));
    let acceptors = [
        compile_in(ONE, &files, "edge", &sessions),
        compile_in(ONE, &files, "inner", &sessions),
        compile_in(REQUEST, &files, "edge", &sessions),
        compile_in(REQUIRE, &files, "edge", &sessions),
        compile_in(REQUIRE, &other_ca, "edge", &sessions),
    ];
    let alice = authority.client("alice");
    for (i, from) in acceptors.iter().enumerate() {
        for (j, to) in acceptors.iter().enumerate() {
            for version in [&TLS13, &TLS12] {
                let client = client(&authority, Some(&alice), &[version]);
                kind(&client, from);
                assert_eq!(kind(&client, to) == HandshakeKind::Resumed, i == j, "{i} to {j} {version:?}");
            }
        }
    }
}

#[test]
fn a_policy_is_forgotten_with_its_last_acceptor() {
    let authority = Authority::new("ca");
    let (sessions, files) = (Sessions::new(), one_file(&authority));
    let client = client(&authority, None, BOTH);
    kind(&client, &compile_in(ONE, &files, "edge", &sessions));
    assert_ne!(kind(&client, &compile_in(ONE, &files, "edge", &sessions)), HandshakeKind::Resumed);
}

#[test]
fn a_required_certificate_is_required_and_names_the_client() {
    let authority = Authority::new("ca");
    let acceptor = compile_in(REQUIRE, &one_file(&authority), "edge", &Sessions::new());
    for version in [&TLS13, &TLS12] {
        let stranger = Authority::new("stranger").client("mallory");
        assert!(shake(&client(&authority, None, &[version]), &acceptor, "a.example").is_err());
        assert!(shake(&client(&authority, Some(&stranger), &[version]), &acceptor, "a.example").is_err());
        let alice = client(&authority, Some(&authority.client("alice")), &[version]);
        for _ in 0..2 {
            let (_, server) = shake(&alice, &acceptor, "a.example").unwrap();
            let identity = client_identity(&server).unwrap();
            assert_eq!(identity.subject, "CN=alice,O=Example\\, Inc.", "a resumed client keeps its name");
        }
    }
}

#[test]
fn a_requested_certificate_may_be_missing_but_not_wrong() {
    let authority = Authority::new("ca");
    let acceptor = compile_in(REQUEST, &one_file(&authority), "edge", &Sessions::new());
    let stranger = Authority::new("stranger").client("mallory");
    let (_, server) = shake(&client(&authority, None, BOTH), &acceptor, "a.example").unwrap();
    assert_eq!(client_identity(&server), None);
    assert!(shake(&client(&authority, Some(&stranger), BOTH), &acceptor, "a.example").is_err());
    assert!(shake(&client(&authority, Some(&authority.client("alice")), BOTH), &acceptor, "a.example").is_ok());
}

#[test]
fn a_client_cannot_smuggle_bytes_into_its_name() {
    let authority = Authority::new("ca");
    let name = |common: &str| ClientIdentity::of_verified(&pem_body(&authority.client(common).cert)).unwrap().subject;
    assert_eq!(name("a\r\nx: y"), "CN=a\\0D\\0Ax: y,O=Example\\, Inc.");
    assert_eq!(name("é"), "CN=\\C3\\A9,O=Example\\, Inc.");
    assert_eq!(name(" a,CN=root "), "CN=\\ a\\,CN\\=root\\ ,O=Example\\, Inc.");
}

#[test]
fn tls_1_2_is_refused_where_1_3_is_the_least() {
    let authority = Authority::new("ca");
    let source = format!("{ONE}\nmin_version = \"1.3\"");
    let acceptor = compile_in(&source, &one_file(&authority), "edge", &Sessions::new());
    assert!(shake(&client(&authority, None, &[&TLS12]), &acceptor, "a.example").is_err());
    assert!(shake(&client(&authority, None, &[&TLS13]), &acceptor, "a.example").is_ok());
}

// Self-signed.

#[test]
fn a_self_signed_certificate_stays_the_same_across_reloads() {
    let sessions = Sessions::new();
    let make = |source: &str, now: SystemTime| {
        let mut found = Diagnostics::default();
        let acceptor = Acceptor::compile(&settings(source), "edge", &|_| unreachable!(), &sessions, &mut found, now).unwrap();
        assert!(found.is_empty());
        acceptor.store.leaf(0)
    };
    let source = "self_signed = [\"localhost\", \"*.test\", \"127.0.0.1\"]";
    let first = make(source, now());
    assert_eq!(make(source, now() + Duration::from_secs(60 * DAY)), first);
    assert_ne!(make("self_signed = [\"other.test\"]", now()), first);
    assert_ne!(make(source, now() + Duration::from_secs(80 * DAY)), first, "renewed before it expires");
}

#[test]
fn a_self_signed_certificate_is_one_that_clients_accept() {
    let mut found = Diagnostics::default();
    let source = settings("self_signed = [\"localhost\", \"127.0.0.1\"]");
    let acceptor = Acceptor::compile(&source, "edge", &|_| unreachable!(), &Sessions::new(), &mut found, now()).unwrap();
    let der = acceptor.store.leaf(0);
    let trust = Authority { der, pem: String::new(), issuer: Authority::new("unused").issuer };
    assert!(shake(&client(&trust, None, BOTH), &acceptor, "localhost").is_ok());
    assert!(shake(&client(&trust, None, BOTH), &acceptor, "127.0.0.1").is_ok());
    assert!(shake(&client(&trust, None, BOTH), &acceptor, "elsewhere.test").is_err());
    assert_eq!(acceptor.certificates()[0].hosts, ["localhost"]);
}
