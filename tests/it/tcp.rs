//! Listeners for streams of bytes: what goes in comes out, ends are ends and resets are resets.
//!
//! Who may be named in a PROXY header by clients is in `proxy_protocol.rs`; real programs are in `programs.rs`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use attache::proto::proxy_header::{self, Parsed};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Authority, Client, Next, Origin, PATIENCE, Pair, Read1, Rig, TlsOrigin, eventually, free_address, trusting_config};

/// A listener named `db` on any port. One worker, so that turns are exact.
fn stream(service: impl std::fmt::Display, rest: &str) -> String {
    format!("[process]\nworkers = 1\ndrain = \"2s\"\n[log]\naccess = \"json\"\n{}", listener("127.0.0.1:0", service, rest))
}

fn listener(address: impl std::fmt::Display, service: impl std::fmt::Display, rest: &str) -> String {
    format!("[[listener]]\nname = \"db\"\nlisten = \"{address}\"\nprotocol = \"tcp\"\nservice = \"{service}\"\n{rest}\n")
}

fn patient(socket: TcpStream) -> TcpStream {
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[track_caller]
fn dial(rig: &Rig) -> TcpStream {
    patient(TcpStream::connect(rig.address("db")).unwrap())
}

/// Everything until the end, which must be one.
#[track_caller]
fn rest(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[track_caller]
fn exactly(mut stream: impl Read, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

/// Reads until the stream is reset; what came before does not matter.
#[track_caller]
fn is_reset(mut stream: impl Read) {
    let mut piece = [0; 4096];
    let error = loop {
        match stream.read(&mut piece) {
            Ok(0) => panic!("an end instead of a reset"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
}

/// Sends back what comes, and ends when that ends.
fn echo() -> Origin {
    Origin::raw(|mut stream, _| {
        let mut other = stream.try_clone().unwrap();
        let _ = io::copy(&mut stream, &mut other);
        let _ = stream.shutdown(Shutdown::Write);
    })
}

/// Says its name at once, then as [`echo`].
fn greeter(name: &'static str) -> Origin {
    Origin::raw(move |mut stream, _| {
        stream.write_all(name.as_bytes()).unwrap();
        let mut other = stream.try_clone().unwrap();
        let _ = io::copy(&mut stream, &mut other);
    })
}

/// Hands every connection over, for tests that play both sides.
fn handed_over() -> (Origin, mpsc::Receiver<TcpStream>) {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = Origin::raw(move |stream, _| {
        let _ = tell.lock().unwrap().send(patient(stream));
    });
    (origin, told)
}

/// Both ends of one stream.
fn pair(rig: &Rig, told: &mpsc::Receiver<TcpStream>) -> (TcpStream, TcpStream) {
    let client = dial(rig);
    (client, told.recv_timeout(PATIENCE).unwrap())
}

/// The access log's last record, once there are `count`.
#[track_caller]
fn record(rig: &Rig, count: usize) -> Value {
    eventually("the stream is logged", || rig.out().lines().count() >= count);
    serde_json::from_str(rig.out().lines().last().unwrap()).unwrap()
}

#[test]
fn bytes_go_both_ways_and_are_accounted_for() {
    let origin = echo();
    let rig = Rig::start(&stream(origin.address, ""));
    let mut client = dial(&rig);
    for message in ["one", "two", "\0\u{1}three\r\n\r\n"] {
        client.write_all(message.as_bytes()).unwrap();
        exactly(&client, message);
    }
    assert_eq!(rig.metric("attache_connections{listener=\"db\"}"), 1.0);
    assert_eq!(rig.admin_json("/services")[0]["endpoints"][0]["in_flight"], 1);
    assert_eq!(rig.admin_json("/listeners")[0]["protocol"], "tcp");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&client), "");
    let record = record(&rig, 1);
    let told = ["protocol", "bytes_in", "bytes_out", "listener", "outcome", "client", "attempts"].map(|key| record[key].clone());
    let expected: [Value; 7] = ["tcp".into(), 17.into(), 17.into(), "db".into(), "complete".into(), "127.0.0.1".into(), 1.into()];
    assert_eq!(told, expected, "{record}");
    assert_eq!(record["endpoint"], origin.address.to_string());
    assert_eq!(rig.metric("attache_stream_bytes_total{listener=\"db\",direction=\"in\"}"), 17.0);
    assert_eq!(rig.metric("attache_stream_bytes_total{listener=\"db\",direction=\"out\"}"), 17.0);
    let address = origin.address;
    let attempts = format!("attache_upstream_requests_total{{service=\"{address}\",endpoint=\"{address}\",outcome=\"ok\"}}");
    assert_eq!(rig.metric(&attempts), 1.0);
    eventually("it is closed", || rig.metric("attache_connections{listener=\"db\"}") == 0.0);
    assert_eq!(rig.metric("attache_connections_total{listener=\"db\"}"), 1.0);
}

#[test]
fn the_endpoint_may_speak_first() {
    let origin = greeter("220 ready\r\n");
    let rig = Rig::start(&stream(origin.address, ""));
    exactly(&dial(&rig), "220 ready\r\n");
    // Routes that need no name wait for none.
    let rig =
        Rig::start(&stream("127.0.0.1:1", &format!("[[listener.route]]\nclient = \"127.0.0.0/8\"\nservice = \"{}\"", origin.address)));
    exactly(&dial(&rig), "220 ready\r\n");
}

#[test]
fn a_client_that_has_said_all_still_hears() {
    let (origin, told) = handed_over();
    let rig = Rig::start(&stream(origin.address, ""));
    let (mut client, mut endpoint) = pair(&rig, &told);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&endpoint), "question");
    for piece in ["an", "swer"] {
        endpoint.write_all(piece.as_bytes()).unwrap();
        exactly(&client, piece);
    }
    drop(endpoint);
    assert_eq!(rest(&client), "");
    assert_eq!(record(&rig, 1)["outcome"], "complete");
}

#[test]
fn an_endpoint_that_has_said_all_still_hears() {
    let (origin, told) = handed_over();
    let rig = Rig::start(&stream(origin.address, ""));
    let (mut client, mut endpoint) = pair(&rig, &told);
    endpoint.write_all(b"bye").unwrap();
    endpoint.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&client), "bye");
    client.write_all(b"one more ").unwrap();
    exactly(&endpoint, "one more ");
    client.write_all(b"thing").unwrap();
    drop(client);
    assert_eq!(rest(&endpoint), "thing");
    assert_eq!(record(&rig, 1)["outcome"], "complete");
}

#[test]
fn resets_are_passed_on() {
    let (origin, told) = handed_over();
    let rig = Rig::start(&stream(origin.address, ""));
    let (client, endpoint) = pair(&rig, &told);
    reset(client);
    is_reset(&endpoint);
    assert_eq!(record(&rig, 1)["outcome"], "client_gone");
    let (client, endpoint) = pair(&rig, &told);
    reset(endpoint);
    is_reset(&client);
    assert_eq!(record(&rig, 2)["outcome"], "cut");
    // Also behind a half that has ended well.
    let (client, endpoint) = pair(&rig, &told);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&endpoint), "");
    reset(endpoint);
    is_reset(&client);
}

/// Bytes that tell where they are.
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, piece: &mut [u8]) {
        for word in piece.as_chunks_mut::<8>().0 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *word = self.0.to_le_bytes();
        }
    }
}

const PIECE: usize = 64 << 10;

fn send(mut stream: impl Write, seed: u64, bytes: usize) -> io::Result<()> {
    let (mut pattern, mut piece) = (Pattern(seed), vec![0; PIECE]);
    for _ in 0..bytes / PIECE {
        pattern.fill(&mut piece);
        stream.write_all(&piece)?;
    }
    Ok(())
}

#[track_caller]
fn receive(mut stream: impl Read, seed: u64, bytes: usize) {
    let (mut pattern, mut expected, mut piece) = (Pattern(seed), vec![0; PIECE], vec![0; PIECE]);
    for number in 0..bytes / PIECE {
        pattern.fill(&mut expected);
        stream.read_exact(&mut piece).unwrap();
        assert!(piece == expected, "piece {number} differs");
    }
    assert_eq!(rest(stream), "", "more than was sent");
}

const MANY: usize = 64 << 20;

#[test]
fn much_goes_both_ways_at_once_and_takes_little_memory() {
    let origin = Origin::raw(|stream, _| {
        let writer = patient(stream);
        let reader = writer.try_clone().unwrap();
        let reading = std::thread::spawn(move || receive(reader, 1, MANY));
        send(&writer, 2, MANY).unwrap();
        reading.join().unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let rig = Rig::start(&stream(origin.address, ""));
    let before = rig.resident();
    let client = dial(&rig);
    let writer = client.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        send(&writer, 1, MANY).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    receive(&client, 2, MANY);
    writing.join().unwrap();
    let grown = rig.resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    assert_eq!(record(&rig, 1)["bytes_out"], MANY);
    assert_eq!(rig.metric("attache_stream_bytes_total{listener=\"db\",direction=\"in\"}"), MANY as f64);
}

/// The origin writes until nobody has taken anything for a while, says how much that was, and then the rest.
#[test]
fn a_slow_reader_slows_the_writer_and_loses_nothing() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = Origin::raw(move |mut stream, _| {
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let (mut pattern, mut piece) = (Pattern(3), vec![0; PIECE]);
        let mut sent = 0;
        for _ in 0..MANY / PIECE {
            pattern.fill(&mut piece);
            let mut left = &piece[..];
            while !left.is_empty() {
                match stream.write(left) {
                    Ok(count) => {
                        sent += count;
                        left = &left[count..];
                    }
                    Err(_) => tell.lock().unwrap().send(sent).unwrap(),
                }
            }
        }
    });
    let rig = Rig::start(&stream(origin.address, ""));
    let before = rig.resident();
    let client = dial(&rig);
    let sent = told.recv_timeout(PATIENCE).unwrap();
    assert!(sent < MANY / 2, "{sent} bytes are somewhere in between");
    assert!(rig.resident().saturating_sub(before) < 4 << 20);
    receive(&client, 3, MANY);
}

#[test]
fn who_takes_nothing_for_too_long_is_cut_off() {
    let origin = Origin::raw(|stream, _| {
        let _ = send(stream, 1, MANY);
    });
    let rig = Rig::start(&stream(origin.address, "timeouts = { write = \"300ms\" }"));
    let client = dial(&rig);
    assert_eq!(record(&rig, 1)["outcome"], "client_gone");
    is_reset(&client);
}

#[test]
fn silence_ends_after_the_idle_timeout_for_both() {
    let (origin, told) = handed_over();
    let rig = Rig::start(&stream(origin.address, "timeouts = { idle = \"300ms\" }"));
    let (mut client, endpoint) = pair(&rig, &told);
    client.write_all(b"x").unwrap();
    exactly(&endpoint, "x");
    is_reset(&client);
    is_reset(&endpoint);
    assert_eq!(record(&rig, 1)["outcome"], "cut");
}

#[test]
fn a_dead_endpoint_is_passed_over() {
    let origin = greeter("here");
    let endpoints = format!("[service.app]\nendpoints = [{{ address = \"{}\", name = \"dead\" }}, \"{}\"]", free_address(), origin.address);
    let rig = Rig::start(&stream("app", &endpoints));
    for _ in 0..4 {
        exactly(&dial(&rig), "here");
    }
    let failed = rig.metric("attache_upstream_requests_total{service=\"app\",endpoint=\"dead\",outcome=\"connect_failed\"}");
    assert_eq!(failed, rig.metric("attache_retries_total{service=\"app\",reason=\"connect\"}"));
    assert!(failed >= 2.0, "{failed}");
}

#[test]
fn when_nobody_answers_the_client_is_reset() {
    let rig = Rig::start(&stream(free_address(), ""));
    is_reset(&dial(&rig));
    let record = record(&rig, 1);
    assert_eq!((&record["refusal"], &record["outcome"]), (&"connect_failed".into(), &"cut".into()), "{record}");
    assert_eq!(rig.metric("attache_refusals_total{listener=\"db\",reason=\"connect_failed\"}"), 1.0);
}

#[test]
fn one_connection_too_many_waits() {
    let origin = greeter("hello");
    let rig = Rig::start(&stream(origin.address, "limits = { connections = 1 }"));
    let first = dial(&rig);
    exactly(&first, "hello");
    let second = dial(&rig);
    second.set_nonblocking(true).unwrap();
    assert_eq!((&second).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(rig.metric("attache_connections{listener=\"db\"}"), 1.0);
    second.set_nonblocking(false).unwrap();
    drop(first);
    exactly(&second, "hello");
}

// Server names.

/// `one` and `two` answer with their names over TLS; `*.wild.example` goes to `two`, the rest to whoever says "plain".
struct Named {
    rig: Rig,
    one: TlsOrigin,
    two: TlsOrigin,
    /// What came to the listener's own service.
    plain: Arc<Mutex<Vec<Vec<u8>>>>,
    _plain: Origin,
}

impl Named {
    fn start() -> Self {
        let origin = |name: &'static str| {
            TlsOrigin::answering(
                TlsOrigin::config(&Pair::of(&[name]), None),
                if name == "one" {
                    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
                } else {
                    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo"
                },
            )
        };
        let (one, two) = (origin("one"), origin("two"));
        let plain: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let seen = Arc::clone(&plain);
        let other = Origin::raw(move |mut stream, _| {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            seen.lock().unwrap().push(bytes);
            let _ = stream.write_all(b"plain");
        });
        let route = |name: &str, sni: &str, address: SocketAddr| {
            format!("[[listener.route]]\nname = \"{name}\"\nsni = {sni}\nservice = \"{address}\"\n")
        };
        let routes = route("one", "\"One.Example\"", one.address) + &route("two", "[\"two.example\", \"*.wild.example\"]", two.address);
        let rig = Rig::start(&stream(other.address, &format!("timeouts = {{ handshake = \"10s\" }}\n{routes}")));
        Self { rig, one, two, plain, _plain: other }
    }

    /// The hello's bytes as `shape` makes them, and the handshake's rest as it comes.
    fn ask(&self, name: &str, shape: impl Fn(Vec<u8>) -> Vec<Vec<u8>>) -> String {
        let mut socket = dial(&self.rig);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut session = rustls::ClientConnection::new(trusting_config(None), name).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        for piece in shape(hello) {
            socket.write_all(&piece).unwrap();
        }
        let mut tls = rustls::StreamOwned::new(session, socket);
        tls.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = [0; 41];
        tls.read_exact(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[38..]).into_owned()
    }
}

fn whole(hello: Vec<u8>) -> Vec<Vec<u8>> {
    vec![hello]
}

/// The same message in records of `size` bytes (RFC 8446 §5.1).
fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
    let record = |piece: &[u8]| [&[0x16, 3, 1], &u16::try_from(piece.len()).unwrap().to_be_bytes()[..], piece].concat();
    hello[5..].chunks(size).flat_map(record).collect()
}

#[test]
fn the_name_in_the_hello_chooses_and_tls_ends_at_the_endpoint() {
    let named = Named::start();
    assert_eq!(named.ask("one.example", whole), "one");
    assert_eq!(named.ask("two.example", whole), "two");
    assert_eq!(named.ask("deep.in.WILD.example", whole), "two");
    assert_eq!(named.one.shakes()[0].sni.as_deref(), Some("one.example"));
    assert_eq!(named.two.shakes().len(), 2);
    let record = record(&named.rig, 3);
    assert_eq!((&record["host"], &record["route"], &record["tls"]), (&"deep.in.wild.example".into(), &"two".into(), &Value::Null));
}

#[test]
fn a_hello_may_come_in_fragments_and_single_bytes() {
    let named = Named::start();
    for size in [1, 50, 1000] {
        assert_eq!(named.ask("one.example", |hello| whole(fragmented(&hello, size))), "one", "records of {size}");
    }
    assert_eq!(named.ask("two.example", |hello| hello.chunks(1).map(<[u8]>::to_vec).collect()), "two");
    assert_eq!(named.ask("two.example", |hello| fragmented(&hello, 100).chunks(1).map(<[u8]>::to_vec).collect()), "two");
    // What follows the hello in one packet is the endpoint's as well.
    assert_eq!(named.one.shakes().len(), 3);
}

#[test]
fn without_a_name_the_listeners_service_gets_every_byte() {
    let named = Named::start();
    let mut session = rustls::ClientConnection::new(trusting_config(None), ServerName::try_from("192.0.2.1").unwrap()).unwrap();
    let mut nameless = Vec::new();
    session.write_tls(&mut nameless).unwrap();
    let mut other = Vec::new();
    let elsewhere = ServerName::try_from("elsewhere.example").unwrap();
    rustls::ClientConnection::new(trusting_config(None), elsewhere).unwrap().write_tls(&mut other).unwrap();
    // Of a hello that never ends, what fits is forwarded, and then the rest.
    let endless = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 100_000]].concat();
    let cases = [
        nameless,
        other,
        endless,
        b"G".to_vec(),
        b"\x16garbage".to_vec(),
        b"\x16\x03\x01\0\x05hello".to_vec(),
        b"\x16\x03".to_vec(),
        Vec::new(),
    ];
    for bytes in cases {
        let mut client = dial(&named.rig);
        client.write_all(&bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&client), "plain");
        assert!(*named.plain.lock().unwrap().last().unwrap() == bytes, "{}", bytes.escape_ascii());
    }
}

#[test]
fn who_belongs_nowhere_or_says_too_little_is_reset() {
    let origin = echo();
    let rig = Rig::start(&format!(
        "[process]\nworkers = 1\n[log]\naccess = \"json\"\n[[listener]]\nname = \"db\"\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\ntimeouts = {{ handshake = \"300ms\" }}\n\
         [[listener.route]]\nsni = \"a.example\"\nservice = \"{}\"\n",
        origin.address
    ));
    for (number, (bytes, refusal)) in
        [(&b"hello"[..], "no_route"), (b"\x16\x03\x01", "header_timeout"), (b"", "header_timeout")].iter().enumerate()
    {
        let mut client = dial(&rig);
        client.write_all(bytes).unwrap();
        is_reset(&client);
        assert_eq!(record(&rig, number + 1)["refusal"], *refusal);
    }
    assert_eq!(rig.metric("attache_refusals_total{listener=\"db\",reason=\"no_route\"}"), 1.0);
    assert_eq!(origin.connections(), 0);
}

// TLS that ends here, or begins here.

fn over_tls(rig: &Rig, name: &str) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    crate::support::handshake(rig.address("db"), name, trusting_config(None)).unwrap()
}

#[test]
fn tls_may_end_here() {
    let (own, named) = (greeter("own"), greeter("named"));
    let routes = format!(
        "tls = {{ self_signed = [\"a.example\", \"b.example\"] }}\n[[listener.route]]\nname = \"b\"\nsni = \"b.example\"\nservice = \"{}\"",
        named.address
    );
    let rig = Rig::start(&stream(own.address, &routes));
    for (name, says) in [("a.example", "own"), ("b.example", "named")] {
        let mut tls = over_tls(&rig, name);
        assert_eq!(tls.conn.alpn_protocol(), None);
        exactly(&mut tls, says);
        tls.write_all(b"ping").unwrap();
        exactly(&mut tls, "ping");
        // The end of TLS is the end of the stream, both ways.
        tls.conn.send_close_notify();
        tls.conn.complete_io(&mut tls.sock).unwrap();
        assert_eq!(rest(&mut tls), "");
    }
    let record = record(&rig, 2);
    let told = ["sni", "tls", "route", "outcome"].map(|key| record[key].as_str().unwrap_or_default().to_owned());
    assert_eq!(told, ["b.example", "TLSv1.3", "b", "complete"], "{record}");
}

#[test]
fn tls_that_is_cut_short_looks_cut_short() {
    let (origin, told) = handed_over();
    let rig = Rig::start(&stream(origin.address, "tls = { self_signed = [\"a.example\"] }"));
    let mut tls = over_tls(&rig, "a.example");
    let endpoint = told.recv_timeout(PATIENCE).unwrap();
    tls.write_all(b"half of").unwrap();
    drop(tls);
    is_reset(&endpoint);
    let mut tls = over_tls(&rig, "a.example");
    reset(told.recv_timeout(PATIENCE).unwrap());
    assert!(tls.read(&mut [0]).is_err(), "an end");
}

#[test]
fn endpoints_may_be_behind_tls() {
    let authority = Authority::new("inside");
    let origin = TlsOrigin::run(TlsOrigin::config(&authority.sign("db", &["db.internal"]), None), |talk, _, _| {
        talk.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        TlsOrigin::goodbye(talk);
        Next::Close
    });
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("ca.crt"), &authority.cert).unwrap();
    let pool =
        format!("[service.app]\nendpoints = [\"{}\"]\ntls = {{ ca = \"{{dir}}/ca.crt\", server_name = \"db.internal\" }}", origin.address);
    let rig = Rig::start_in(directory, &stream("app", &pool));
    let mut client = dial(&rig);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(rest(&client), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let shake = &origin.shakes()[0];
    assert_eq!((shake.sni.as_deref(), &shake.alpn), (Some("db.internal"), &None));
    assert_eq!(origin.seen()[0][0].line(), "GET / HTTP/1.1");
}

#[test]
fn an_endpoint_that_cannot_prove_its_name_gets_no_stream() {
    let origin = TlsOrigin::answering(TlsOrigin::config(&Pair::of(&["other.internal"]), None), "");
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("ca.crt"), Authority::new("inside").cert).unwrap();
    let pool =
        format!("[service.app]\nendpoints = [\"{}\"]\ntls = {{ ca = \"{{dir}}/ca.crt\", server_name = \"db.internal\" }}", origin.address);
    let rig = Rig::start_in(directory, &stream("app", &pool));
    is_reset(&dial(&rig));
    assert_eq!(record(&rig, 1)["refusal"], "tls_unknown_issuer");
}

// PROXY headers towards endpoints.

/// Reads a header, and leaves what follows.
fn header(stream: &mut impl Read) -> (Vec<u8>, Parsed) {
    let mut bytes = Vec::new();
    loop {
        match proxy_header::parse(&bytes).unwrap() {
            Parsed::Partial => {
                let held = bytes.len();
                bytes.resize(held + proxy_header::least_missing(&bytes), 0);
                let count = stream.read(&mut bytes[held..]).unwrap();
                assert!(count > 0, "the end of {}", bytes.escape_ascii());
                bytes.truncate(held + count);
            }
            parsed @ Parsed::Complete { .. } => return (bytes, parsed),
        }
    }
}

fn announcing(address: SocketAddr) -> String {
    format!("[service.app]\nendpoints = [\"{address}\"]\nsend_proxy = \"v2\"")
}

#[test]
fn endpoints_are_told_who_the_client_is() {
    let (origin, told) = handed_over();
    let rig = Rig::start(&stream("app", &announcing(origin.address)));
    let (mut client, mut endpoint) = pair(&rig, &told);
    client.write_all(b"hello").unwrap();
    let (bytes, parsed) = header(&mut endpoint);
    let (source, destination) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    assert_eq!(parsed, Parsed::Complete { bytes: 28, source: Some(source), destination: Some(destination) });
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let expected = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &[127, 0, 0, 1, 127, 0, 0, 1][..], &ports].concat();
    assert_eq!(bytes, expected);
    exactly(&endpoint, "hello");
}

#[test]
fn what_a_balancer_in_front_said_is_passed_on() {
    let (origin, told) = handed_over();
    let settings = format!(
        "proxy_protocol = \"require\"\ntls = {{ self_signed = [\"a.example\"], alpn = \"http/1.1\" }}\n{}",
        announcing(origin.address)
    );
    let rig = Rig::start(&stream("app", &settings));
    let mut socket = dial(&rig);
    socket.write_all(b"PROXY TCP6 2001:db8::1 2001:db8::2 1000 443\r\n").unwrap();
    let name = ServerName::try_from("a.example").unwrap();
    let mut config = (*trusting_config(None)).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut tls = rustls::StreamOwned::new(rustls::ClientConnection::new(Arc::new(config), name).unwrap(), socket);
    tls.write_all(b"hello").unwrap();
    let mut endpoint = told.recv_timeout(PATIENCE).unwrap();
    let (bytes, parsed) = header(&mut endpoint);
    let expected = (Some("[2001:db8::1]:1000".parse().unwrap()), Some("[2001:db8::2]:443".parse().unwrap()));
    assert!(matches!(parsed, Parsed::Complete { source, destination, .. } if (source, destination) == expected), "{parsed:?}");
    assert!(bytes.ends_with(b"\x01\0\x08http/1.1\x02\0\x09a.example"), "{}", bytes.escape_ascii());
    exactly(&endpoint, "hello");
}

#[test]
fn a_client_without_an_address_is_announced_as_local() {
    let (origin, told) = handed_over();
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"db\"\nlisten = \"unix:{{dir}}/db.sock\"\nprotocol = \"tcp\"\nservice = \"app\"\n{}",
        announcing(origin.address)
    ));
    let mut client = Client::unix(&rig.directory.path().join("db.sock")).unwrap();
    client.send("hello").unwrap();
    let mut endpoint = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(header(&mut endpoint).0, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    exactly(&endpoint, "hello");
}

#[test]
fn requests_of_two_clients_share_no_announced_connection() {
    let sources: Arc<Mutex<Vec<Option<SocketAddr>>>> = Arc::default();
    let seen = Arc::clone(&sources);
    let origin = Origin::raw(move |mut stream, _| {
        let (_, Parsed::Complete { source, .. }) = header(&mut stream) else { return };
        seen.lock().unwrap().push(source);
        let mut buffer = Vec::new();
        while crate::support::read_head(&mut stream, &mut buffer).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let rig = Rig::start(&format!(
        "[process]\nworkers = 1\n[[listener]]\nname = \"db\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n{}",
        announcing(origin.address)
    ));
    let mut clients = [rig.connect("db"), rig.connect("db")];
    for _ in 0..2 {
        for client in &mut clients {
            assert_eq!(client.request("GET", "/").unwrap().text(), "ok");
            assert_eq!(*sources.lock().unwrap().last().unwrap(), Some(client.socket().local_addr().unwrap()));
        }
    }
}

// Reloads and the end.

#[test]
fn a_stream_outlives_reloads_of_everything_around_it() {
    let (first, second) = (greeter("first"), greeter("second"));
    let place = free_address();
    let around = |service: SocketAddr, rest: &str| format!("[process]\ndrain = \"300ms\"\nworkers = 1\n{}", listener(place, service, rest));
    let rig = Rig::start(&around(first.address, ""));
    let mut client = patient(TcpStream::connect(place).unwrap());
    exactly(&client, "first");
    rig.reloaded(&around(second.address, "limits = { connections = 10 }\ntimeouts = { idle = \"1h\" }"));
    rig.reloaded(&around(second.address, "[[listener.route]]\nclient = \"10.0.0.0/8\"\nservice = \"127.0.0.1:1\""));
    client.write_all(b"still here").unwrap();
    exactly(&client, "still here");
    exactly(&patient(TcpStream::connect(place).unwrap()), "second");
}

#[test]
fn streams_of_a_listener_that_is_gone_have_the_drain_time_to_finish() {
    let origin = greeter("hello");
    let place = free_address();
    let other = "[[listener]]\nname = \"other\"\nlisten = \"127.0.0.1:0\"\nservice = \"127.0.0.1:1\"\n";
    let process = |drain: &str| format!("[process]\ndrain = \"{drain}\"\nworkers = 1\n[log]\naccess = \"json\"\n{other}");
    let with = |drain: &str| format!("{}{}", process(drain), listener(place, origin.address, ""));
    let rig = Rig::start(&with("1h"));
    let connect = || patient(TcpStream::connect(place).unwrap());
    let mut client = connect();
    exactly(&client, "hello");
    rig.reloaded(&process("1h"));
    assert!(TcpStream::connect(place).is_err());
    client.write_all(b"go on").unwrap();
    exactly(&client, "go on");
    drop(client);
    assert_eq!(record(&rig, 1)["outcome"], "complete");
    rig.reloaded(&with("1h"));
    let client = connect();
    exactly(&client, "hello");
    rig.reloaded(&process("300ms"));
    is_reset(&client);
    assert_eq!(record(&rig, 2)["outcome"], "cut");
    // Another protocol is another listener.
    rig.reloaded(&with("300ms"));
    let client = connect();
    exactly(&client, "hello");
    rig.reloaded(&with("300ms").replace("protocol = \"tcp\"\n", ""));
    is_reset(&client);
}

#[test]
fn requests_that_were_kept_waiting_by_a_change_to_streams_are_answered() {
    let (web, db) = (Origin::ok("hello"), greeter("stream"));
    let place = free_address();
    let http = listener(place, web.address, "").replace("protocol = \"tcp\"\n", "");
    let rig = Rig::start(&format!("[process]\nworkers = 1\n{http}"));
    let mut kept = Client::tcp(place).unwrap();
    assert_eq!(kept.request("GET", "/").unwrap().text(), "hello");
    rig.reloaded(&format!("[process]\nworkers = 1\n{}", listener(place, db.address, "")));
    let last = kept.request("GET", "/").unwrap();
    assert_eq!((last.text().as_str(), last.header("connection")), ("hello", Some("close")));
    exactly(&patient(TcpStream::connect(place).unwrap()), "stream");
}

#[test]
fn the_process_waits_for_streams_to_end() {
    let (origin, told) = handed_over();
    let mut rig = Rig::start(&stream(origin.address, "").replace("\"2s\"", "\"1h\""));
    let address = rig.address("db");
    let (mut client, mut endpoint) = pair(&rig, &told);
    // Whoever still gets in while we try to is hung up on by the endpoint.
    drop(told);
    rig.signal("TERM");
    eventually("nobody new is let in", || TcpStream::connect(address).is_err());
    client.write_all(b"last words").unwrap();
    exactly(&endpoint, "last words");
    endpoint.write_all(b"farewell").unwrap();
    drop(endpoint);
    assert!(rig.is_running());
    assert_eq!(rest(&client), "farewell");
    drop(client);
    assert_eq!(rig.ended().code, Some(0));
}

#[test]
fn streams_are_cut_at_the_drain_deadline_and_logged() {
    let (origin, told) = handed_over();
    let mut rig = Rig::start(&stream(origin.address, "").replace("\"2s\"", "\"300ms\""));
    let (client, endpoint) = pair(&rig, &told);
    rig.signal("TERM");
    is_reset(&client);
    is_reset(&endpoint);
    assert_eq!(rig.ended().code, Some(3));
    assert_eq!(record(&rig, 1)["outcome"], "cut");
}

#[test]
fn plain_http_listeners_know_nothing_of_streams() {
    let origin = Origin::ok("hello");
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nprotocol = \"http\"\nservice = \"{}\"\n",
        origin.address
    ));
    assert_eq!(rig.admin_json("/listeners")[0]["protocol"], "http");
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(matches!(client.read("GET").unwrap(), Read1::Answer(answer) if answer.text() == "hello"));
}
