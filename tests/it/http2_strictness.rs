//! CONFIG "HTTP strictness" and the limits, for HTTP/2: what is refused, by raw frames.
//!
//! Whether the crate or attache refuses is no claim here; that nothing gets past both is.

use std::io::Write as _;
use std::net::SocketAddr;

use h2::Reason;
use http::Request;

use crate::support::http2::{self as http2, END_HEADERS, END_STREAM, HEADERS, Http2, RST_STREAM, Raw, frame, literals, request, run};
use crate::support::{Next, Origin, Rig};

/// A listener before one endpoint, with further settings of the listener.
fn before(address: SocketAddr, settings: &str) -> Rig {
    Rig::start(&format!(
        "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{address}\"\n{settings}\n"
    ))
}

fn echo() -> Origin {
    Origin::run(|stream, request, _| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", request.line().len(), request.line());
        Next::Keep
    })
}

/// Status of a request for `fields`, or the code of its reset.
fn verdict(rig: &Rig, fields: &[(&str, &str)]) -> Result<String, u32> {
    let mut raw = Raw::connect(rig.address("web"));
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &literals(fields))).unwrap();
    let answer = raw.answer(1).unwrap();
    if let Some(code) = answer.code() {
        return Err(code);
    }
    assert_eq!(answer.kind, HEADERS);
    Ok(status(&answer.payload))
}

/// The status at the front of a field block: indexed, or a literal behind an indexed name (RFC 7541 §6).
fn status(block: &[u8]) -> String {
    const INDEXED: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
    match block {
        [at @ 0x88..=0x8e, ..] => INDEXED[usize::from(at - 0x88)].to_owned(),
        [0x48 | 0x08, 3, a, b, c, ..] => String::from_utf8(vec![*a, *b, *c]).unwrap(),
        // Huffman: digits have five bits for 0, 1 and 2, six for the others.
        [0x48 | 0x08, 0x82 | 0x83, code @ ..] => huffman_digits(code),
        _ => panic!("no status: {block:?}"),
    }
}

fn huffman_digits(code: &[u8]) -> String {
    let bits = code.iter().take(3).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    let mut left = 24;
    let mut digits = String::new();
    while digits.len() < 3 {
        let five = bits >> (left - 5) & 31;
        if five < 3 {
            digits.push(char::from(b'0' + five as u8));
            left -= 5;
        } else {
            let six = bits >> (left - 6) & 63;
            digits.push(char::from(b'3' + (six - 0b01_1001) as u8));
            left -= 6;
        }
    }
    digits
}

/// `fields` behind a good request's pseudo-header fields.
fn with<'a>(fields: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")], fields].concat()
}

/// A good request's pseudo-header fields, but for one.
fn instead<'a>(name: &'a str, value: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    with(&[])
        .into_iter()
        .filter_map(|(have, was)| if have == name { value.map(|value| (name, value)) } else { Some((have, was)) })
        .collect()
}

#[test]
fn malformed_requests_are_refused() {
    let origin = echo();
    let rig = before(origin.address, "");
    let malformed = Err(Reason::PROTOCOL_ERROR.into());
    let bad = Ok("400".to_owned());
    assert_eq!(verdict(&rig, &with(&[])), Ok("200".to_owned()));
    for (name, value) in [
        ("connection", "close"),
        ("keep-alive", "1"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("content-length", "x"),
        ("content-length", "5"),
        (":status", "200"),
        (":path", "/b"),
    ] {
        assert_eq!(verdict(&rig, &with(&[(name, value)])), malformed, "{name}: {value}");
    }
    for (name, value) in [("x-a", " b"), ("x-a", "b "), ("x-a", "\tb"), ("cookie", "a=b "), ("host", "b.example"), ("host", "a.example:81")]
    {
        assert_eq!(verdict(&rig, &with(&[(name, value)])), bad, "{name}: {value:?}");
    }
    for name in [":method", ":scheme", ":path"] {
        assert_eq!(verdict(&rig, &instead(name, None)), malformed, "no {name}");
    }
    // Control characters, upper case, and bytes that no name has, break the compression's contract with the crate.
    for (name, value) in [("x-a", "b\0"), ("x-a", "b\r\nx-b: c"), ("x-a", "b\n"), ("X-A", "b"), ("x a", "b"), ("x:a", "b"), ("", "b")] {
        assert!(verdict(&rig, &with(&[(name, value)])).is_err(), "{name:?}: {value:?}");
    }
    for (name, value) in [
        (":path", "*"),
        (":path", "a"),
        (":path", "http://b.example/"),
        (":path", "/a\"b"),
        (":path", "/%zz"),
        (":path", "/../a"),
        (":path", "/%2e"),
        (":scheme", "ftp"),
        (":authority", "u@a.example"),
        (":authority", "a.example:x"),
        (":authority", "a,b"),
        (":method", "AVERYLONGMETHODTHATNOBODYHASEVERREGISTERED"),
    ] {
        let verdict = verdict(&rig, &instead(name, Some(value)));
        assert!(verdict == bad || verdict == malformed, "{name}: {value}: {verdict:?}");
    }
    for (name, value) in [(":path", ""), (":path", "/a b"), (":path", "/a\0"), (":authority", ""), (":method", "G T"), (":method", "")] {
        let verdict = verdict(&rig, &instead(name, Some(value)));
        assert!(verdict.is_err() || verdict == bad, "{name}: {value:?}: {verdict:?}");
    }
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn the_host_is_the_authority_and_one_of_the_two_is_needed() {
    let origin = echo();
    let rig = before(origin.address, "");
    let ok = Ok("200".to_owned());
    assert_eq!(verdict(&rig, &with(&[("host", "a.example")])), ok);
    assert_eq!(verdict(&rig, &with(&[("host", "A.Example:80")])), ok);
    let mut only_host = instead(":authority", None);
    assert_eq!(verdict(&rig, &only_host), Ok("400".to_owned()));
    only_host.push(("host", "b.example"));
    assert_eq!(verdict(&rig, &only_host), ok);
    only_host.push(("host", "b.example"));
    assert_eq!(verdict(&rig, &only_host), Ok("400".to_owned()));
    let seen = origin.seen();
    assert_eq!(seen.iter().map(|request| request.headers("host")).collect::<Vec<_>>(), [["a.example"], ["a.example"], ["b.example"]]);
    assert_eq!(verdict(&rig, &[(":method", "CONNECT"), (":authority", "a.example:443")]), Ok("405".to_owned()));
}

/// HTTP/1 refuses it; here it is gone before anybody decides by it.
#[test]
fn a_fragment_reaches_nobody() {
    let origin = echo();
    let rig = before(origin.address, "");
    assert_eq!(verdict(&rig, &instead(":path", Some("/a?b#/../c"))), Ok("200".to_owned()));
    assert_eq!(origin.seen()[0].line(), "GET /a?b HTTP/1.1");
}

#[test]
fn cookie_crumbs_are_put_together() {
    let origin = echo();
    let rig = before(origin.address, "");
    assert_eq!(verdict(&rig, &with(&[("cookie", "a=1"), ("x-a", "b"), ("cookie", "b=2"), ("cookie", "c=3")])), Ok("200".to_owned()));
    assert_eq!(origin.seen()[0].headers("cookie"), ["a=1; b=2; c=3"]);
}

#[test]
fn limits_hold() {
    let origin = echo();
    let limits = "limits = { headers = 10, header_bytes = \"2KiB\", uri_bytes = \"20B\", body = \"10B\" }";
    let rig = before(origin.address, limits);
    let fields = |count: usize| vec![("x-a", "b"); count];
    let crumbs = |count: usize| vec![("cookie", "a=b"); count];
    // `:authority` is one of them.
    assert_eq!(verdict(&rig, &with(&fields(9))), Ok("200".to_owned()));
    assert_eq!(verdict(&rig, &with(&fields(10))), Ok("431".to_owned()));
    assert_eq!(verdict(&rig, &with(&crumbs(9))), Ok("200".to_owned()));
    assert_eq!(verdict(&rig, &with(&crumbs(10))), Ok("431".to_owned()));
    assert_eq!(verdict(&rig, &with(&[("x-a", &"b".repeat(1500))])), Ok("200".to_owned()));
    assert_eq!(verdict(&rig, &with(&[("x-a", &"b".repeat(2100))])), Ok("431".to_owned()));
    assert_eq!(verdict(&rig, &instead(":path", Some(&format!("/{}", "a".repeat(19))))), Ok("200".to_owned()));
    assert_eq!(verdict(&rig, &instead(":path", Some(&format!("/{}", "a".repeat(20))))), Ok("414".to_owned()));
    run(async {
        let mut client = Http2::plain(rig.address("web")).await;
        let sized = |length: usize| Request::post("http://a.example/").header("content-length", length).body(()).unwrap();
        assert_eq!(client.ask_with(sized(10), &[b"0123456789"], None).await.unwrap().status, 200);
        assert_eq!(client.ask_with(sized(11), &[b"0123456789a"], None).await.unwrap().status, 413);
        assert_eq!(client.ask_with(request("POST", "/"), &[b"0123456789"], None).await.unwrap().status, 200);
        assert_eq!(client.ask_with(request("POST", "/"), &[b"01234567", b"89a"], None).await.unwrap().status, 413);
    });
}

#[test]
fn a_body_that_differs_from_its_length_reaches_nobody_whole() {
    let origin = echo();
    let rig = before(origin.address, "");
    for (length, body) in [("5", "hell"), ("5", "hello!")] {
        let mut raw = Raw::connect(rig.address("web"));
        let post = [&instead(":method", Some("POST"))[..], &[("content-length", length)]].concat();
        raw.send(&frame(HEADERS, END_HEADERS, 1, &literals(&post))).unwrap();
        raw.send(&frame(http2::DATA, END_STREAM, 1, body.as_bytes())).unwrap();
        let answer = raw.answer(1).unwrap();
        assert_eq!((answer.kind, answer.code()), (RST_STREAM, Some(Reason::PROTOCOL_ERROR.into())));
    }
    assert!(origin.seen().is_empty());
}
