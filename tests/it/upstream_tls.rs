//! Endpoints behind TLS: whom to believe, what a failure says, and what is never shared.
//!
//! What a TLS stack can and cannot do is rustls's business; the settings' own mistakes are in `config.rs`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustls::{HandshakeKind, ProtocolVersion};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Authority, Next, Origin, Pair, Read1, Request, Rig, Talk, TlsOrigin, binary, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One authority and what it signed for `app.internal`.
struct Trust {
    authority: Authority,
    pair: Pair,
}

impl Trust {
    fn new() -> Self {
        let authority = Authority::new("inside");
        let pair = authority.sign("app", &["app.internal", "localhost", "127.0.0.1"]);
        Self { authority, pair }
    }

    /// A directory with the authority in `ca.crt`.
    fn directory(&self) -> TempDir {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("ca.crt"), &self.authority.cert).unwrap();
        directory
    }
}

/// One worker, so that connections and turns can be counted.
fn pool(address: impl std::fmt::Display, tls: &str) -> String {
    format!(
        "[process]\nworkers = 1\n[log]\naccess = \"json\"\n[service.app]\nendpoints = [\"{address}\"]\ntls = {{ {tls} }}\n\
         [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n"
    )
}

const BELIEVING: &str = "ca = \"{dir}/ca.crt\", server_name = \"app.internal\"";

fn get(rig: &Rig) -> (u16, String) {
    let answer = rig.connect("web").ask("GET", "/").unwrap();
    (answer.status, answer.text())
}

fn ok() -> (u16, String) {
    (200, "ok".to_owned())
}

/// The access log's last line.
fn last_record(rig: &Rig, count: usize) -> Value {
    eventually("the request is logged", || rig.out().lines().count() >= count);
    serde_json::from_str(rig.out().lines().last().unwrap()).unwrap()
}

fn handshakes(rig: &Rig, address: SocketAddr, outcome: &str) -> f64 {
    rig.metric(&format!("attache_upstream_tls_handshakes_total{{service=\"app\",endpoint=\"{address}\",outcome=\"{outcome}\"}}"))
}

/// The client learns nothing, the access log and the metrics the kind of failure, attache's own log the rest.
#[track_caller]
fn check_refused(rig: &Rig, address: SocketAddr, label: &str, reason: &str) {
    assert_eq!(get(rig), (502, "bad gateway\n".to_owned()));
    let record = last_record(rig, 1);
    assert_eq!((&record["refusal"], &record["status"]), (&label.into(), &502.into()), "{record}");
    assert_eq!(rig.metric(&format!("attache_refusals_total{{listener=\"web\",reason=\"{label}\"}}")), 1.0);
    let attempts = format!("attache_upstream_requests_total{{service=\"app\",endpoint=\"{address}\",outcome=\"tls_failed\"}}");
    assert_eq!(rig.metric(&attempts), 1.0);
    eventually(&format!("the log says `{reason}`"), || rig.log().contains(reason));
}

#[test]
fn every_kind_of_exchange_works_over_tls() {
    let trust = Trust::new();
    let origin = TlsOrigin::run(TlsOrigin::config(&trust.pair, None), |talk: &mut Talk, request: &Request, _| {
        let body = match request.line() {
            line if line.starts_with("HEAD") => return keep(talk, b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
            line if line.starts_with("GET /large") => vec![b'x'; 5 << 20],
            line if line.starts_with("GET /chunks") => {
                return keep(talk, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n");
            }
            _ => request.body.clone(),
        };
        keep(talk, &[format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat())
    });
    let rig = Rig::start_in(trust.directory(), &pool(origin.address, BELIEVING));
    let mut client = rig.connect("web");
    let large = vec![b'u'; 3 << 20];
    client
        .send([format!("POST /up HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n", large.len()).as_bytes(), &large].concat())
        .unwrap();
    assert!(matches!(client.read("POST").unwrap(), Read1::Answer(answer) if answer.body == large));
    client
        .send("PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        .unwrap();
    assert!(matches!(client.read("PUT").unwrap(), Read1::Answer(answer) if answer.text() == "hello"));
    assert_eq!(client.request("GET", "/large").unwrap().body.len(), 5 << 20);
    let chunked = client.request("GET", "/chunks").unwrap();
    assert_eq!((chunked.text(), chunked.trailers.as_str()), ("abc".to_owned(), "X-Sum: 1\r\n"));
    assert_eq!(client.request("HEAD", "/").unwrap().header("content-length"), Some("7"));
    // All on one connection, by the name that was asked for; towards the client there is no TLS.
    let shakes = origin.shakes();
    assert_eq!((shakes.len(), shakes[0].sni.as_deref(), shakes[0].version), (1, Some("app.internal"), ProtocolVersion::TLSv1_3));
    assert_eq!(shakes[0].alpn.as_deref(), Some(&b"http/1.1"[..]));
    let seen = &origin.seen()[0][0];
    assert_eq!((seen.header("host"), seen.header("x-forwarded-proto")), (Some("a.example"), Some("http")));
    assert_eq!(handshakes(&rig, origin.address, "full"), 1.0);
}

fn keep(talk: &mut Talk, bytes: &[u8]) -> Next {
    if talk.write_all(bytes).is_ok() { Next::Keep } else { Next::Close }
}

#[test]
fn an_answer_that_overtakes_its_upload_arrives() {
    let trust = Trust::new();
    let config = Arc::new(TlsOrigin::config(&trust.pair, None));
    let origin = Origin::raw(move |stream, _| {
        let mut talk = rustls::StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), stream);
        let mut buffer = Vec::new();
        if crate::support::read_head(&mut talk, &mut buffer).is_some() {
            let _ = talk.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
            let _ = talk.read(&mut [0; 1024]);
        }
    });
    let rig = Rig::start_in(trust.directory(), &pool(origin.address, BELIEVING));
    let mut client = rig.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nfirst").unwrap();
    assert!(matches!(client.read("POST").unwrap(), Read1::Answer(answer) if answer.status == 413 && answer.text() == "big"));
}

#[test]
fn a_certificate_of_nobody_we_know_is_refused() {
    let trust = Trust::new();
    let stranger = Authority::new("stranger").sign("app", &["app.internal"]);
    let origin = TlsOrigin::answering(TlsOrigin::config(&stranger, None), OK);
    let rig = Rig::start_in(trust.directory(), &pool(origin.address, BELIEVING));
    check_refused(&rig, origin.address, "tls_unknown_issuer", "unknown issuer");
    assert_eq!(handshakes(&rig, origin.address, "failed"), 1.0);
    assert!(origin.seen().iter().all(Vec::is_empty), "nothing was sent to a stranger");
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let trust = Trust::new();
    let other = trust.authority.sign("other", &["other.internal"]);
    let origin = TlsOrigin::answering(TlsOrigin::config(&other, None), OK);
    let rig = Rig::start_in(trust.directory(), &pool(origin.address, BELIEVING));
    check_refused(&rig, origin.address, "tls_wrong_name", "not valid for name `app.internal`, it names DnsName(\"other.internal\")");
}

/// What `openssl req -x509` makes.
#[test]
fn a_certificate_of_an_authority_is_no_endpoints_own() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["app.internal".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pair = Pair { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() };
    let origin = TlsOrigin::answering(TlsOrigin::config(&pair, None), OK);
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("ca.crt"), &pair.cert).unwrap();
    let rig = Rig::start_in(directory, &pool(origin.address, BELIEVING));
    check_refused(&rig, origin.address, "tls_bad_certificate", "make one for the endpoint, with basicConstraints CA:FALSE");
}

#[test]
fn a_certificate_out_of_its_time_is_refused() {
    let trust = Trust::new();
    for (years, reason) in [(2001..2002, "its certificate expired "), (2090..2091, "its certificate becomes valid ")] {
        let pair = trust.authority.sign_between("app", &["app.internal"], years);
        let origin = TlsOrigin::answering(TlsOrigin::config(&pair, None), OK);
        let rig = Rig::start_in(trust.directory(), &pool(origin.address, BELIEVING));
        check_refused(&rig, origin.address, "tls_certificate_expired", reason);
    }
}

#[test]
fn an_endpoint_without_tls_is_refused() {
    let trust = Trust::new();
    let plain = Origin::answering("HTTP/1.1 400 Bad Request\r\n\r\n");
    // An HTTP server reads a head before it answers; this one answers anything.
    let chatty = Origin::raw(|mut stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.read(&mut [0; 4096]);
    });
    let closing = Origin::raw(|mut stream, _| drop(stream.read(&mut [0; 4096])));
    for (address, reason) in
        [(chatty.address, "it does not speak TLS on this port"), (closing.address, "it closed in the middle of the handshake")]
    {
        let rig = Rig::start_in(trust.directory(), &pool(address, BELIEVING));
        check_refused(&rig, address, "tls_failed", reason);
    }
    assert!(plain.seen().is_empty());
}

#[test]
fn a_handshake_that_hangs_takes_no_longer_than_connecting_may() {
    let trust = Trust::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let rig = Rig::start_in(trust.directory(), &pool(address, BELIEVING).replace("tls =", "timeouts = { connect = \"200ms\" }\ntls ="));
    let began = Instant::now();
    assert_eq!(get(&rig).0, 504);
    assert!((Duration::from_millis(190)..Duration::from_secs(10)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(last_record(&rig, 1)["refusal"], "connect_timeout");
    assert_eq!(handshakes(&rig, address, "timeout"), 1.0);
}

#[test]
fn an_endpoint_that_asks_who_we_are_is_told() {
    let (trust, clients) = (Trust::new(), Authority::new("clients"));
    let (alice, mallory) = (clients.sign("alice", &["alice"]), Authority::new("others").sign("mallory", &["mallory"]));
    for config in [TlsOrigin::config, TlsOrigin::old_config] {
        let origin = TlsOrigin::answering(config(&trust.pair, Some(&clients.cert)), OK);
        let directory = trust.directory();
        alice.write(directory.path(), "alice");
        let with = format!("{BELIEVING}, cert = \"{{dir}}/alice.crt\", key = \"{{dir}}/alice.key\"");
        let rig = Rig::start_in(directory, &pool(origin.address, &with));
        assert_eq!(get(&rig), ok());
        assert_eq!(origin.shakes()[0].client.as_deref(), Some("CN=alice"));

        let rig = Rig::start_in(trust.directory(), &pool(origin.address, BELIEVING));
        check_refused(&rig, origin.address, "tls_client_certificate", "it asked for a client certificate");

        let directory = trust.directory();
        mallory.write(directory.path(), "alice");
        let rig = Rig::start_in(directory, &pool(origin.address, &with));
        check_refused(&rig, origin.address, "tls_client_certificate", "it does not accept our client certificate (UnknownCA)");
    }
}

#[test]
fn insecure_believes_anybody_and_warns() {
    let anybody = Pair::of(&["nobody.example"]);
    let origin = TlsOrigin::answering(TlsOrigin::config(&anybody, None), OK);
    let rig = Rig::start(&pool(origin.address, "insecure = true"));
    assert_eq!(get(&rig), ok());
    assert_eq!(origin.shakes()[0].sni, None);
    assert!(rig.admin_json("/status")["warnings"][0].as_str().unwrap().contains("no certificate is verified"));
    let path = rig.directory.path().join("attache.toml");
    let check = |strict: &[&str]| binary().arg("check").args(strict).arg(&path).output().unwrap().status.success();
    assert!(check(&[]) && !check(&["--strict"]));
}

/// One without a name of an authority is its own.
#[test]
fn a_self_signed_certificate_may_be_its_own_authority() {
    let own = Pair::of(&["app.internal"]);
    let origin = TlsOrigin::answering(TlsOrigin::config(&own, None), OK);
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("ca.crt"), &own.cert).unwrap();
    assert_eq!(get(&Rig::start_in(directory, &pool(origin.address, BELIEVING))), ok());
}

#[test]
fn an_https_address_is_verified_by_what_stands_in_it() {
    let trust = Trust::new();
    let origin = TlsOrigin::answering(TlsOrigin::config(&trust.pair, None), OK);
    let port = origin.address.port();
    let directory = trust.directory();
    let authorities = directory.path().join("ca.crt");
    let mut command = binary();
    command.env("SSL_CERT_FILE", &authorities).env_remove("SSL_CERT_DIR");
    let listener =
        |name: &str, service: &str| format!("[[listener]]\nname = \"{name}\"\nlisten = \"127.0.0.1:0\"\nservice = \"{service}\"\n");
    let text = [
        listener("name", &format!("https://localhost:{port}")),
        listener("ip", &format!("https://127.0.0.1:{port}")),
        listener("wrong", &format!("https://127.0.0.2:{port}")),
        listener("plain", &format!("127.0.0.1:{port}")),
    ];
    let rig = Rig::start_with(command, directory, &text.concat());
    let status = |listener: &str| rig.connect(listener).ask("GET", "/").unwrap().status;
    assert_eq!(["name", "ip", "plain"].map(status), [200, 200, 502]);
    assert_eq!(origin.shakes().iter().map(|shake| shake.sni.as_deref()).collect::<Vec<_>>(), [Some("localhost"), None]);
    let services = rig.admin_json("/services");
    assert_eq!((&services[0]["name"], &services[0]["endpoints"][0]["tls"]), (&format!("https://localhost:{port}").into(), &true.into()));
}

#[test]
fn no_authorities_on_the_machine_is_a_mistake_with_a_place() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("a.toml"), "[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"https://app.example\"\n").unwrap();
    let mut command = binary();
    command.current_dir(directory.path()).env("SSL_CERT_FILE", directory.path().join("none")).env_remove("SSL_CERT_DIR");
    let output = command.args(["check", "a.toml"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("a.toml:3:11: error: this machine names no authorities to trust: ") && said.contains("SSL_CERT_FILE"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));
}

/// An origin that ends each connection politely, so that the next request needs a new one.
fn ending(config: rustls::ServerConfig) -> TlsOrigin {
    TlsOrigin::run(config, |talk, _, _| {
        let _ = talk.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        TlsOrigin::goodbye(talk);
        Next::Close
    })
}

#[test]
fn new_connections_resume_the_session_also_after_a_reload_that_changes_nothing() {
    let trust = Trust::new();
    for config in [TlsOrigin::config, TlsOrigin::old_config] {
        let origin = ending(config(&trust.pair, None));
        let text = pool(origin.address, BELIEVING);
        let rig = Rig::start_in(trust.directory(), &text);
        assert_eq!((get(&rig), get(&rig)), (ok(), ok()));
        rig.reloaded(&format!("# the same\n{text}"));
        assert_eq!(get(&rig), ok());
        let kinds: Vec<_> = origin.shakes().iter().map(|shake| shake.kind).collect();
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
        assert_eq!((handshakes(&rig, origin.address, "full"), handshakes(&rig, origin.address, "resumed")), (1.0, 2.0));
    }
}

#[test]
fn a_changed_authority_counts_at_once_and_for_idle_connections() {
    let trust = Trust::new();
    let origin = TlsOrigin::answering(TlsOrigin::config(&trust.pair, None), OK);
    let rig = Rig::start_in(trust.directory(), &pool(origin.address, BELIEVING));
    let ca = rig.directory.path().join("ca.crt");
    let reload = || -> Value { serde_json::from_slice(&rig.admin("POST", "/reload").body).unwrap() };
    assert_eq!((get(&rig), get(&rig)), (ok(), ok()));
    // Nothing changed: the idle connection stays.
    assert_eq!(reload()["changes"], serde_json::json!([]));
    assert_eq!((get(&rig), origin.shakes().len()), (ok(), 1));
    std::fs::write(&ca, Authority::new("another").cert).unwrap();
    assert_eq!(reload()["changes"][0]["what"], "certificates of service app");
    assert_eq!((get(&rig).0, origin.shakes().len()), (502, 1));
    // Believed again, but nothing of before is used: neither the connection nor its session.
    std::fs::write(&ca, &trust.authority.cert).unwrap();
    reload();
    assert_eq!(get(&rig), ok());
    assert_eq!(origin.shakes().iter().map(|shake| shake.kind).collect::<Vec<_>>(), [HandshakeKind::Full; 2]);
    // A broken file changes nothing.
    std::fs::write(&ca, "").unwrap();
    assert_eq!(rig.admin("POST", "/reload").status, 422);
    assert_eq!((get(&rig), origin.shakes().len()), (ok(), 2));
}

#[test]
fn a_renewed_client_certificate_is_noticed_and_shown_by_new_connections() {
    let (trust, clients) = (Trust::new(), Authority::new("clients"));
    let origin = TlsOrigin::answering(TlsOrigin::config(&trust.pair, Some(&clients.cert)), OK);
    let directory = trust.directory();
    clients.sign("old", &["old"]).write(directory.path(), "me");
    let with = format!("{BELIEVING}, cert = \"{{dir}}/me.crt\", key = \"{{dir}}/me.key\"");
    let rig = Rig::start_in(directory, &pool(origin.address, &with));
    assert_eq!(get(&rig), ok());
    clients.sign("new", &["new"]).write(rig.directory.path(), "me");
    eventually("the watcher sees the new certificate", || rig.admin_json("/status")["generation"] != 1);
    assert_eq!(get(&rig), ok());
    let shown: Vec<_> = origin.shakes().into_iter().filter_map(|shake| shake.client).collect();
    assert_eq!(shown, ["CN=old", "CN=new"]);
}

#[test]
fn requests_do_not_notice_that_certificates_are_renewed() {
    let (trust, clients) = (Trust::new(), Authority::new("clients"));
    let origin = TlsOrigin::answering(TlsOrigin::config(&trust.pair, Some(&clients.cert)), OK);
    let directory = trust.directory();
    clients.sign("me", &["me"]).write(directory.path(), "me");
    let with = format!("{BELIEVING}, cert = \"{{dir}}/me.crt\", key = \"{{dir}}/me.key\"");
    let rig = Rig::start_in(directory, &pool(origin.address, &with).replace("workers = 1", "workers = 2"));
    let is_over = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        let asking = || {
            let mut client = rig.connect("web");
            let mut answered = 0;
            while !is_over.load(Ordering::Relaxed) {
                client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").unwrap();
                let read = client.read("POST").unwrap();
                assert!(matches!(&read, Read1::Answer(answer) if answer.status == 200), "{read:?}");
                answered += 1;
            }
            answered
        };
        let clients_asking: Vec<_> = (0..4).map(|_| scope.spawn(asking)).collect();
        for renewal in 0..10 {
            clients.sign(&format!("me-{renewal}"), &["me"]).write(rig.directory.path(), "me");
            assert_eq!(rig.admin("POST", "/reload").status, 200);
        }
        is_over.store(true, Ordering::Relaxed);
        clients_asking.into_iter().map(|client| client.join().unwrap()).sum::<usize>()
    });
    assert_eq!((get(&rig), answered > 0), (ok(), true));
    assert!(origin.shakes().iter().any(|shake| shake.client.as_deref() == Some("CN=me-9")));
}

#[test]
fn pools_of_one_address_share_nothing_but_the_address() {
    let (trust, clients) = (Trust::new(), Authority::new("clients"));
    let origin = TlsOrigin::run(TlsOrigin::config(&trust.pair, Some(&clients.cert)), |talk, _, _| {
        let client = talk.conn.peer_certificates().and_then(|chain| attache::tls::ClientIdentity::of_verified(&chain[0])).unwrap();
        let (name, body) = (talk.conn.server_name().unwrap_or("nobody").to_owned(), client.subject);
        let body = format!("{body} asks for {name}");
        keep(talk, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    });
    let directory = trust.directory();
    let mut text = "[process]\nworkers = 1\n".to_owned();
    for (name, server_name) in [("alice", "app.internal"), ("bob", "app.internal"), ("carol", "localhost")] {
        clients.sign(name, &[name]).write(directory.path(), name);
        text.push_str(&format!(
            "[[listener]]\nname = \"{name}\"\nlisten = \"127.0.0.1:0\"\nservice = \"{name}\"\n[service.{name}]\nendpoints = [\"{}\"]\n\
             tls = {{ ca = \"{{dir}}/ca.crt\", server_name = \"{server_name}\", cert = \"{{dir}}/{name}.crt\", key = \"{{dir}}/{name}.key\" }}\n",
            origin.address
        ));
    }
    let rig = Rig::start_in(directory, &text);
    for _ in 0..3 {
        for (name, server_name) in [("alice", "app.internal"), ("bob", "app.internal"), ("carol", "localhost")] {
            let said = rig.connect(name).ask("GET", "/").unwrap().text();
            assert_eq!(said, format!("CN={name} asks for {server_name}"));
        }
    }
    let kinds: Vec<_> = origin.shakes().iter().map(|shake| shake.kind).collect();
    assert_eq!(kinds, [HandshakeKind::Full; 3], "each has one connection, and none resumed another's session");
}

/// Answers before it reads the request, ends the handshake when told to, and tells when its tickets are sent.
fn late_with_tickets(mut config: rustls::ServerConfig) -> (Origin, mpsc::Sender<()>, mpsc::Receiver<()>) {
    config.send_half_rtt_data = true;
    let config = Arc::new(config);
    let (go_on, may_go_on) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let may_go_on = Mutex::new(may_go_on);
    let origin = Origin::raw(move |mut stream, _| {
        let mut session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        while !session.wants_write() {
            session.read_tls(&mut stream).unwrap();
            session.process_new_packets().unwrap();
        }
        session.writer().write_all(OK.as_bytes()).unwrap();
        while session.wants_write() {
            session.write_tls(&mut stream).unwrap();
        }
        if may_go_on.lock().unwrap().recv().is_err() {
            return;
        }
        let mut talk = rustls::StreamOwned::new(session, stream);
        let mut buffer = Vec::new();
        // With the first head, which is answered, comes the end of the handshake.
        let _ = crate::support::read_head(&mut talk, &mut buffer);
        talk.flush().unwrap();
        tell.send(()).unwrap();
        while crate::support::read_head(&mut talk, &mut buffer).is_some() {
            talk.write_all(OK.as_bytes()).unwrap();
        }
    });
    (origin, go_on, told)
}

/// Tickets make the socket readable, which would once have meant that the connection is of no use.
#[test]
fn session_tickets_leave_an_idle_connection_usable() {
    let trust = Trust::new();
    for method in ["GET", "DELETE", "POST"] {
        let (origin, go_on, told) = late_with_tickets(TlsOrigin::config(&trust.pair, None));
        let rig = Rig::start_in(trust.directory(), &pool(origin.address, BELIEVING));
        let mut client = rig.connect("web");
        assert_eq!(client.request(method, "/").unwrap().text(), "ok");
        go_on.send(()).unwrap();
        told.recv().unwrap();
        drop(go_on);
        assert_eq!(client.request(method, "/").unwrap().text(), "ok");
        assert_eq!(origin.connections(), 1);
    }
}

#[test]
fn an_idle_connection_with_an_end_or_with_data_is_not_used() {
    let trust = Trust::new();
    for is_end in [true, false] {
        let origin = TlsOrigin::run(TlsOrigin::config(&trust.pair, None), move |talk, _, _| {
            talk.write_all(OK.as_bytes()).unwrap();
            talk.flush().unwrap();
            if is_end {
                talk.conn.send_close_notify();
            } else {
                talk.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").unwrap();
            }
            talk.flush().unwrap();
            Next::Keep
        });
        let rig = Rig::start_in(trust.directory(), &pool(origin.address, BELIEVING));
        let mut client = rig.connect("web");
        for round in 1..=3 {
            // Must not be sent twice, so it is not sent where nobody may be.
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").unwrap();
            assert!(matches!(client.read("POST").unwrap(), Read1::Answer(answer) if answer.status == 200 && answer.text() == "ok"));
            // What follows the answer may come a moment later than the answer.
            eventually("the connection was looked at", || origin.seen().iter().map(Vec::len).sum::<usize>() == round);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(origin.seen().iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    }
}

/// Anybody on the way can send a FIN; only the endpoint can end TLS.
#[test]
fn an_answer_that_ends_with_its_connection_is_whole_only_if_tls_ended() {
    let trust = Trust::new();
    let origin = TlsOrigin::run(TlsOrigin::config(&trust.pair, None), |talk, request, _| {
        let _ = talk.write_all(b"HTTP/1.1 200 OK\r\n\r\nsome of it");
        let _ = talk.flush();
        if request.line().starts_with("GET /whole") {
            TlsOrigin::goodbye(talk);
        }
        Next::Close
    });
    let rig = Rig::start_in(trust.directory(), &pool(origin.address, BELIEVING));
    assert_eq!(rig.connect("web").ask("GET", "/whole").unwrap().text(), "some of it");
    for (count, version) in [(2, "1.1"), (3, "1.0")] {
        let mut client = rig.connect("web");
        client.send(format!("GET /cut HTTP/{version}\r\nHost: a\r\n\r\n")).unwrap();
        let read = client.read("GET");
        assert!(matches!(read, Ok(Read1::Cut(_))), "{read:?}");
        assert_eq!(last_record(&rig, count)["outcome"], "cut");
    }
}

#[test]
fn another_endpoint_stands_in_for_one_that_cannot_be_believed() {
    let trust = Trust::new();
    let good = TlsOrigin::answering(TlsOrigin::config(&trust.pair, None), OK);
    let bad = TlsOrigin::answering(TlsOrigin::config(&Pair::of(&["app.internal"]), None), OK);
    let text =
        pool(good.address, BELIEVING).replace(&format!("\"{}\"", good.address), &format!("\"{}\", \"{}\"", bad.address, good.address));
    let rig = Rig::start_in(trust.directory(), &text);
    for _ in 0..4 {
        assert_eq!(get(&rig), ok());
    }
    assert!(rig.metric("attache_retries_total{service=\"app\",reason=\"connect\"}") >= 1.0);
}

#[test]
fn tls_works_over_a_unix_socket() {
    let trust = Trust::new();
    let origin = TlsOrigin::answering(TlsOrigin::config(&trust.pair, None), OK);
    let directory = trust.directory();
    let listener = std::os::unix::net::UnixListener::bind(directory.path().join("app.sock")).unwrap();
    let address = origin.address;
    // Hands each connection on, byte for byte.
    std::thread::spawn(move || {
        for inner in listener.incoming().map_while(Result::ok) {
            let outer = std::net::TcpStream::connect(address).unwrap();
            let (mut up, mut down) = ((inner.try_clone().unwrap(), outer.try_clone().unwrap()), (outer, inner));
            std::thread::spawn(move || std::io::copy(&mut up.0, &mut up.1));
            std::thread::spawn(move || std::io::copy(&mut down.0, &mut down.1));
        }
    });
    let rig = Rig::start_in(directory, &pool("unix:{dir}/app.sock", BELIEVING));
    assert_eq!((get(&rig), get(&rig), origin.shakes().len()), (ok(), ok(), 1));
}
