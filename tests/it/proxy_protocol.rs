//! Listeners that are told who the client is by a PROXY header.
//!
//! The header's grammar is tested where it is read; here it comes over sockets, in pieces and before
//! TLS.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::{Client, Origin, PATIENCE, Read1, Rig, trusting_config};

fn rig(origin: &Origin, settings: &str) -> Rig {
    Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nproxy_protocol = \"require\"\nservice = \"{}\"\n{settings}\n",
        origin.address
    ))
}

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\r\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &length, rest].concat()
}

fn v2_tcp4(extensions: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&[192, 0, 2, 1, 198, 51, 100, 1, 3, 232, 1, 187], extensions].concat())
}

/// `header` and a request in one write; the origin hears of `client`.
#[track_caller]
fn check(origin: &Origin, rig: &Rig, header: &[u8], client: &str) {
    let mut connection = rig.connect("web");
    connection.send([header, REQUEST, REQUEST].concat()).unwrap();
    for _ in 0..2 {
        assert!(matches!(connection.read("GET").unwrap(), Read1::Answer(answer) if answer.status == 200), "{}", header.escape_ascii());
        assert_eq!(origin.seen().last().unwrap().headers("x-forwarded-for"), [client], "{}", header.escape_ascii());
    }
}

#[test]
fn both_versions_name_the_client() {
    let origin = Origin::ok("hello");
    let rig = rig(&origin, "");
    check(&origin, &rig, V1, "192.0.2.1");
    check(&origin, &rig, b"PROXY TCP6 2001:db8::1 2001:db8::2 1000 443\r\n", "2001:db8::1");
    check(&origin, &rig, &v2_tcp4(b""), "192.0.2.1");
    check(&origin, &rig, &v2_tcp4(&[4, 0, 3, 0, 0, 0]), "192.0.2.1");
    check(&origin, &rig, &v2_tcp4(&[0; 4000]), "192.0.2.1");
    let addresses = [&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 16], &[3, 232, 1, 187]].concat();
    check(&origin, &rig, &v2(0x21, 0x21, &addresses), "2001:db8::1");
    // An IPv4 address in the clothes of IPv6 is an IPv4 address.
    check(&origin, &rig, b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1000 443\r\n", "192.0.2.1");
}

#[test]
fn who_knows_nothing_says_so_and_the_peer_is_the_client() {
    let origin = Origin::ok("hello");
    let rig = rig(&origin, "");
    check(&origin, &rig, b"PROXY UNKNOWN\r\n", "127.0.0.1");
    check(&origin, &rig, b"PROXY UNKNOWN ffff:f::1 ffff:f::2 65535 65535\r\n", "127.0.0.1");
    check(&origin, &rig, &v2(0x20, 0x00, b""), "127.0.0.1");
    check(&origin, &rig, &v2(0x20, 0x11, &[192, 0, 2, 1, 198, 51, 100, 1, 3, 232, 1, 187]), "127.0.0.1");
    check(&origin, &rig, &v2(0x21, 0x00, b""), "127.0.0.1");
}

#[test]
fn a_header_may_come_in_single_bytes() {
    let origin = Origin::ok("hello");
    let rig = rig(&origin, "");
    for header in [V1.to_vec(), b"PROXY UNKNOWN\r\n".to_vec(), v2_tcp4(b""), v2_tcp4(&[0; 40]), v2(0x20, 0, b"")] {
        let mut client = rig.connect("web");
        for byte in [&header, REQUEST].concat() {
            client.send([byte]).unwrap();
        }
        assert!(matches!(client.read("GET").unwrap(), Read1::Answer(answer) if answer.status == 200), "{}", header.escape_ascii());
    }
}

#[test]
fn without_a_header_there_is_no_connection() {
    let origin = Origin::ok("hello");
    let rig = rig(&origin, "timeouts = { handshake = \"300ms\" }");
    for bytes in [
        REQUEST,
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY\r\n",
        b"PROXY TCP4 192.0.2.1\r\n\r\n\r\n\r\n\r\n",
        b"PROXY TCP4 192.0.2.300 198.51.100.1 1000 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\nGET / HTTP/1.1\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.1 1000 443\r\n",
        b"proxy TCP4 192.0.2.1 198.51.100.1 1000 443\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c............",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04....GET / HTTP/1.1\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\x16\x03\x01\x02\x00\x01",
        // Never whole: the time of a handshake ends it.
        b"PROXY TCP4 192.0.2.1 ",
        b"P",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c....",
        b"",
    ] {
        let mut client = rig.connect("web");
        client.send(bytes).unwrap();
        assert!(client.is_closed(), "{}", bytes.escape_ascii());
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn a_second_header_is_no_request() {
    let origin = Origin::ok("hello");
    let rig = rig(&origin, "");
    let mut client = rig.connect("web");
    client.send([V1, V1, REQUEST].concat()).unwrap();
    assert!(matches!(client.read("").unwrap(), Read1::Answer(answer) if answer.status == 400));
    assert!(client.is_closed());
    assert!(origin.seen().is_empty());
}

#[test]
fn a_header_where_none_is_wanted_is_no_request() {
    let origin = Origin::ok("hello");
    let rig = Rig::start(&format!("[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{}\"\n", origin.address));
    for header in [V1.to_vec(), v2_tcp4(b"")] {
        let mut client = rig.connect("web");
        client.send([&header, REQUEST].concat()).unwrap();
        assert!(matches!(client.read("").unwrap(), Read1::Answer(answer) if answer.status == 400));
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn the_client_it_names_is_the_one_that_routes_and_trust_see() {
    let origin = Origin::ok("hello");
    let rig = rig(&origin, "trust = [\"192.0.2.0/24\"]\n[[listener.route]]\nclient = \"203.0.113.0/24\"\nrespond = { body = \"known\" }");
    let ask = |header: &str| {
        let mut client = rig.connect("web");
        client.send(format!("{header}GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n")).unwrap();
        let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
        answer.text()
    };
    assert_eq!(ask("PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\r\n"), "known");
    assert_eq!(ask("PROXY TCP4 203.0.113.9 198.51.100.1 1000 443\r\n"), "known");
    assert_eq!(ask("PROXY TCP4 192.0.3.1 198.51.100.1 1000 443\r\n"), "hello");
    assert_eq!(origin.seen()[0].headers("x-forwarded-for"), ["192.0.3.1"]);
}

#[test]
fn tls_begins_behind_the_header() {
    let origin = Origin::ok("hello");
    let rig = rig(&origin, "tls = { self_signed = [\"localhost\"] }");
    for header in [V1.to_vec(), v2_tcp4(&[0; 100])] {
        for in_pieces in [false, true] {
            let stream = TcpStream::connect(rig.address("web")).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
            let mut session = rustls::ClientConnection::new(trusting_config(None), name).unwrap();
            // The header and the first bytes of TLS in one packet, or each byte in its own.
            let mut first = header.clone();
            session.write_tls(&mut first).unwrap();
            let mut sender = &stream;
            for piece in first.chunks(if in_pieces { 1 } else { first.len() }) {
                sender.write_all(piece).unwrap();
            }
            let mut tls = rustls::StreamOwned::new(session, stream);
            tls.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            tls.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
            let seen = origin.seen().last().unwrap().clone();
            assert_eq!((seen.headers("x-forwarded-for"), seen.headers("x-forwarded-proto")), (vec!["192.0.2.1"], vec!["https"]));
        }
    }
    assert!(Client::tls(rig.address("web"), "localhost").is_err(), "TLS without the header");
}
