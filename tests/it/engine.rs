//! Exchanges between scripted ends: how answers are framed, what connections live through, and what
//! every limit and timeout does.
//!
//! What is refused for its grammar is in `strictness.rs`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Answer, Client, Next, Origin, Read1, Rig, eventually, read_head};

/// A proxy before one endpoint; `settings` are further lines of the listener.
///
/// It has one worker, since each keeps connections to endpoints of its own and tests count them.
fn before(address: SocketAddr, settings: &str) -> Rig {
    Rig::start(&format!(
        "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{address}\"\n{settings}\n"
    ))
}

/// The same with a pool, so that its settings can be said.
fn before_pool(endpoints: &[SocketAddr], pool: &str, listener: &str) -> Rig {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    Rig::start(&format!(
        "[process]\nworkers = 1\n[service.app]\nendpoints = [{}]\n{pool}\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n{listener}\n",
        endpoints.join(", ")
    ))
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

#[track_caller]
fn answer(client: &mut Client, method: &str) -> Answer {
    match client.read(method).unwrap() {
        Read1::Answer(answer) => answer,
        other => panic!("no answer but {other:?}"),
    }
}

#[track_caller]
fn ask(rig: &Rig, request: impl AsRef<[u8]>, method: &str) -> Answer {
    let mut client = rig.connect("web");
    client.send(request).unwrap();
    answer(&mut client, method)
}

/// Asks with `method` and `version`; both connections must serve a second request if `keeps`.
#[track_caller]
fn check_framing(origin_says: &'static str, method: &str, version: &str, keeps: bool) -> Answer {
    let origin = Origin::answering(origin_says);
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    let request = format!("{method} / HTTP/{version}\r\nHost: a.example\r\n\r\n");
    client.send(&request).unwrap();
    let first = answer(&mut client, method);
    if keeps {
        client.send(&request).unwrap();
        let mut second = answer(&mut client, method);
        second.head.clone_from(&first.head);
        assert_eq!(first, second);
        assert_eq!(origin.connections(), 1, "the endpoint's connection was used again");
    } else {
        assert!(client.is_closed());
    }
    first
}

#[test]
fn a_sized_answer_stays_sized() {
    let says = "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nhello";
    let seen = check_framing(says, "GET", "1.1", true);
    assert!(seen.head.starts_with("HTTP/1.1 200 Fine\r\n"));
    assert_eq!((seen.text().as_str(), seen.headers("content-length"), seen.header("transfer-encoding")), ("hello", vec!["5"], None));
    assert_eq!((seen.headers("x-a"), seen.headers("set-cookie"), seen.headers("date").len()), (vec!["1", "2"], vec!["a", "b"], 1));
    assert_eq!(check_framing(says, "GET", "1.0", false).text(), "hello");
    let seen = check_framing("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: then\r\n\r\n", "GET", "1.1", true);
    assert_eq!((seen.headers("content-length"), seen.headers("date")), (vec!["0"], vec!["then"]));
    let seen = check_framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\nhello", "GET", "1.1", true);
    assert_eq!(seen.headers("content-length"), ["5"]);
    assert_eq!(check_framing("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET", "1.1", true).status, 200);
}

#[test]
fn a_chunked_answer_stays_chunked_with_its_trailers() {
    let says = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Sum\r\n\r\n3;a=b\r\nhel\r\n02\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n";
    let seen = check_framing(says, "GET", "1.1", true);
    assert_eq!((seen.text().as_str(), seen.trailers.as_str()), ("hello", "X-Sum: 1\r\n"));
    assert_eq!(
        (seen.headers("transfer-encoding"), seen.header("content-length"), seen.header("trailer")),
        (vec!["chunked"], None, Some("X-Sum"))
    );
    let seen = check_framing(says, "GET", "1.0", false);
    assert_eq!((seen.text().as_str(), seen.header("transfer-encoding"), seen.header("trailer")), ("hello", None, None));
    assert_eq!(seen.header("connection"), Some("close"));
    let empty = check_framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET", "1.1", true);
    assert!(empty.body.is_empty());
}

#[test]
fn an_answer_that_ends_with_its_connection_is_chunked_or_does_so_again() {
    for version in ["1.1", "1.0"] {
        let origin = Origin::run(|stream, _, _| {
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhel").unwrap();
            stream.write_all(b"lo").unwrap();
            Next::Close
        });
        let rig = before(origin.address, "");
        let mut client = rig.connect("web");
        for _ in 0..2 {
            client.send(format!("GET / HTTP/{version}\r\nHost: a.example\r\n\r\n")).unwrap();
            let seen = answer(&mut client, "GET");
            assert_eq!((seen.text().as_str(), seen.header("content-length")), ("hello", None));
            if version == "1.0" {
                assert_eq!((seen.header("transfer-encoding"), seen.header("connection")), (None, Some("close")));
                assert!(client.is_closed());
                break;
            }
            assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
        }
    }
}

#[test]
fn answers_that_have_no_body_have_none_whatever_they_say() {
    let seen = check_framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", "1.1", true);
    assert_eq!(seen.headers("content-length"), ["5"]);
    let seen = check_framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", "1.1", true);
    assert_eq!(seen.header("content-length"), None);
    check_framing("HTTP/1.1 200 OK\r\n\r\n", "HEAD", "1.1", true);
    check_framing("HTTP/1.1 204 No Content\r\n\r\n", "GET", "1.1", true);
    check_framing("HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", "GET", "1.1", true);
    let seen = check_framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "GET", "1.1", true);
    assert_eq!(seen.headers("content-length"), ["5"]);
    let seen = check_framing("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HEAD", "1.1", true);
    assert_eq!(seen.header("content-length"), None);
}

#[test]
fn a_body_where_none_may_be_is_not_taken_for_the_next_answer() {
    for (says, method) in [
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", "GET"),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", "GET"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HEAD"),
    ] {
        let origin = Origin::answering(says);
        let rig = before(origin.address, "");
        let mut client = rig.connect("web");
        for asked in 1..=3 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n")).unwrap();
            assert!(answer(&mut client, method).body.is_empty());
            assert_eq!(origin.connections(), asked, "{says}");
        }
    }
}

#[test]
fn interim_answers_pass_to_those_who_know_them() {
    let says = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: X-B\r\nX-B: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let origin = Origin::answering(says);
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    for _ in 0..2 {
        client.send(GET).unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let Read1::Answer(answer) = client.read_any("GET").unwrap() else { panic!("no answer") };
            seen.push(answer);
        }
        assert_eq!(seen.iter().map(|answer| answer.status).collect::<Vec<_>>(), [100, 103, 200]);
        assert_eq!((seen[1].header("link"), seen[1].header("x-b"), seen[1].header("connection")), (Some("</a.css>"), None, None));
    }
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.0\r\n\r\n").unwrap();
    let Read1::Answer(answer) = client.read_any("GET").unwrap() else { panic!("no answer") };
    assert_eq!(answer.status, 200);
}

#[test]
fn a_switch_of_protocols_that_nobody_asked_for_is_a_broken_answer() {
    for request in [GET, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"] {
        let origin = Origin::answering("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nsecret");
        let rig = before(origin.address, "");
        let seen = ask(&rig, request, "GET");
        assert_eq!(seen.status, 502);
        assert!(!seen.text().contains("secret"));
    }
}

#[test]
fn an_interim_answer_that_frames_a_body_is_a_broken_answer() {
    let many = format!("Connection: {}\r\n", "a,".repeat(1000));
    for field in ["Transfer-Encoding: chunked\r\n", many.as_str()] {
        let origin = Origin::answering(format!("HTTP/1.1 103 Early Hints\r\n{field}\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        let rig = before(origin.address, "");
        assert_eq!(ask(&rig, GET, "GET").status, 502, "{field}");
    }
}

#[test]
fn an_endpoint_that_frames_an_interim_answer_is_not_asked_again_there() {
    let says = "HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let origin = Origin::answering(says);
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    for connections in 1..=2 {
        client.send(GET).unwrap();
        assert_eq!(answer(&mut client, "GET").text(), "ok");
        assert_eq!(origin.connections(), connections);
    }
}

#[test]
fn endless_interim_answers_are_a_broken_answer() {
    let origin = Origin::answering("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000));
    let rig = before(origin.address, "");
    assert_eq!(ask(&rig, GET, "GET").status, 502);
}

const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn the_endpoint_says_whether_to_continue() {
    let origin = Origin::raw(|mut stream, _| {
        let mut buffer = Vec::new();
        let Some(head) = read_head(&mut stream, &mut buffer) else { return };
        assert!(head.contains("Expect: 100-continue\r\n") && buffer.is_empty());
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
        stream.write_all(&body).unwrap();
    });
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    client.send(EXPECTING).unwrap();
    let Read1::Answer(interim) = client.read_any("POST").unwrap() else { panic!("no answer") };
    assert_eq!(interim.status, 100);
    client.send("hello").unwrap();
    assert_eq!(answer(&mut client, "POST").text(), "hello");
}

#[test]
fn an_endpoint_that_answers_instead_of_saying_continue_is_heard() {
    let origin = Origin::raw(|mut stream, _| {
        let mut buffer = Vec::new();
        while read_head(&mut stream, &mut buffer).is_some() {
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").unwrap();
        }
    });
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    client.send(EXPECTING).unwrap();
    let seen = answer(&mut client, "POST");
    // Whether the body still comes is the client's choice, so the connection is of no more use.
    assert_eq!((seen.status, seen.text().as_str(), seen.header("connection")), (403, "no", Some("close")));
    assert!(client.is_closed());
}

#[test]
fn a_client_that_does_not_wait_for_continue_need_not() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    client.send(format!("{EXPECTING}hello{GET}")).unwrap();
    assert_eq!((answer(&mut client, "POST").status, answer(&mut client, "GET").status), (200, 200));
    assert_eq!(origin.seen()[0].body, b"hello");
    // HTTP/1.0 cannot expect, and nothing can be expected of no body.
    for request in [
        "POST / HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nok",
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    ] {
        assert_eq!(ask(&rig, request, "GET").status, 200);
        assert_eq!(origin.seen().last().unwrap().header("expect"), None);
    }
}

#[test]
fn local_answers_do_not_ask_for_the_body() {
    let origin = Origin::ok("");
    let rig = before(
        origin.address,
        "limits = { body = \"4B\" }\n[[listener.route]]\npath = \"/r\"\nrespond = { body = \"hi\" }\n[[listener.route]]\nservice = \"127.0.0.1:1\"",
    );
    for (path, status) in [("/r", 413), ("/", 413)] {
        let mut client = rig.connect("web");
        client.send(EXPECTING.replace(" / ", &format!(" {path} "))).unwrap();
        let Read1::Answer(seen) = client.read_any("POST").unwrap() else { panic!("no answer") };
        assert_eq!((seen.status, seen.header("connection")), (status, Some("close")));
        assert!(client.is_closed());
    }
    let mut client = rig.connect("web");
    client.send(EXPECTING.replace(" / ", " /r ").replace("Length: 5", "Length: 4")).unwrap();
    let Read1::Answer(seen) = client.read_any("POST").unwrap() else { panic!("no answer") };
    assert_eq!((seen.status, seen.text().as_str()), (200, "hi"));
    assert!(client.is_closed());
    assert!(origin.seen().is_empty());
}

#[test]
fn other_expectations_are_not_met() {
    let origin = Origin::ok("");
    let rig = before(origin.address, "");
    for value in ["200-ok", "100-continue, x", "x=y", "100-continu"] {
        assert_eq!(ask(&rig, format!("GET / HTTP/1.1\r\nHost: a\r\nExpect: {value}\r\n\r\n"), "GET").status, 417, "{value}");
    }
    assert!(origin.seen().is_empty());
    assert_eq!(ask(&rig, EXPECTING.replace("100-continue", "100-Continue") + "hello", "POST").status, 200);
}

#[test]
fn http_1_0_keeps_a_connection_only_if_asked() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "[[listener.route]]\npath = \"/local\"\nrespond = { body = \"hi\" }");
    for path in ["/", "/local", "/none"] {
        let mut client = rig.connect("web");
        for _ in 0..3 {
            client.send(format!("GET {path} HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")).unwrap();
            assert_eq!(answer(&mut client, "GET").header("connection"), Some("keep-alive"));
        }
        client.send(format!("GET {path} HTTP/1.0\r\n\r\n")).unwrap();
        assert_eq!(answer(&mut client, "GET").header("connection"), Some("close"));
        assert!(client.is_closed());
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn http_1_1_keeps_a_connection_unless_told() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "[[listener.route]]\npath = \"/local\"\nrespond = { body = \"hi\" }");
    for path in ["/", "/local"] {
        for value in ["close", "Close", "keep-alive, close", "x, close"] {
            let mut client = rig.connect("web");
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
            assert_eq!(answer(&mut client, "GET").header("connection"), None);
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: {value}\r\n\r\n")).unwrap();
            assert_eq!(answer(&mut client, "GET").header("connection"), Some("close"));
            assert!(client.is_closed());
        }
    }
    assert_eq!(origin.connections(), 1, "what the client does is no matter of the endpoint's connection");
}

#[test]
fn an_endpoint_that_wants_to_close_is_let_go() {
    for says in ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"] {
        let origin = Origin::answering(says);
        let rig = before(origin.address, "");
        let mut client = rig.connect("web");
        for asked in 1..=3 {
            assert_eq!(client.request("GET", "/").unwrap().header("connection"), None);
            assert_eq!(origin.connections(), asked);
        }
    }
    let origin = Origin::answering("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok");
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    for _ in 0..3 {
        client.request("GET", "/").unwrap();
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::run(|stream, request, _| {
        let body = format!("{} {}", request.line(), String::from_utf8_lossy(&request.body));
        let sent = if request.line().starts_with("HEAD") { "" } else { &body };
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{sent}", body.len()).unwrap();
        Next::Keep
    });
    let rig = before(origin.address, "[[listener.route]]\npath = \"/local\"\nrespond = { body = \"local\" }");
    let mut bytes = String::new();
    let mut wanted = Vec::new();
    for number in 0..12 {
        let path = format!("/{number}");
        match number % 6 {
            1 => bytes += &format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
            2 => bytes += &format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"),
            3 => bytes += &format!("PUT {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            4 => bytes += "POST /local HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            _ => bytes += &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"),
        }
        wanted.push(match number % 6 {
            1 => ("POST", format!("POST {path} HTTP/1.1 hello")),
            2 => ("HEAD", String::new()),
            3 => ("PUT", format!("PUT {path} HTTP/1.1 hello")),
            4 => ("POST", "local".to_owned()),
            _ => ("GET", format!("GET {path} HTTP/1.1 ")),
        });
    }
    let mut client = rig.connect("web");
    client.send(&bytes).unwrap();
    for (method, body) in &wanted {
        assert_eq!(&answer(&mut client, method).text(), body);
    }
    // Byte by byte, and with a last request that ends the connection.
    let mut client = rig.connect("web");
    for byte in bytes.as_bytes() {
        client.send([*byte]).unwrap();
    }
    client.send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /after HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    for (method, body) in &wanted {
        assert_eq!(&answer(&mut client, method).text(), body);
    }
    assert_eq!(answer(&mut client, "GET").text(), "GET /last HTTP/1.1 ");
    assert!(client.is_closed());
    assert!(!origin.seen().iter().any(|request| request.line().contains("/after")));
}

#[test]
fn many_pipelined_requests_fill_no_buffer_for_good() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    let mut sender = client.socket().try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for _ in 0..2000 {
            sender.write_all(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(50)).as_bytes()).unwrap();
        }
    });
    for _ in 0..2000 {
        assert_eq!(answer(&mut client, "GET").text(), "hello");
    }
    sending.join().unwrap();
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_client_that_has_sent_all_it_has_is_answered() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "[[listener.route]]\npath = \"/local\"\nrespond = { body = \"hi\" }");
    for path in ["/", "/local", "/none"] {
        let mut client = rig.connect("web");
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(2)).unwrap();
        client.finish_sending();
        assert_eq!((answer(&mut client, "GET").status, answer(&mut client, "GET").status), (200, 200));
        assert!(client.is_closed());
    }
}

#[test]
fn a_request_that_never_ends_is_answered_with_400_and_one_that_never_began_is_not() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "");
    for partial in [
        "G",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ] {
        let mut client = rig.connect("web");
        client.send(partial).unwrap();
        client.finish_sending();
        assert_eq!(answer(&mut client, "GET").status, 400, "{partial:?}");
        assert!(client.is_closed());
    }
    for blank in ["", "\r\n", "\r\n\r\n", "\r"] {
        let mut client = rig.connect("web");
        client.send(blank).unwrap();
        client.finish_sending();
        assert!(client.is_closed(), "{blank:?}");
        // The line that old clients put behind a body.
        let mut client = rig.connect("web");
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{blank}")).unwrap();
        client.finish_sending();
        assert_eq!(answer(&mut client, "POST").status, 200);
        assert!(client.is_closed(), "{blank:?}");
    }
    assert_eq!(origin.seen().len(), 4);
}

/// An upload that the other side does not read to its end; whoever sends it reads no answer before.
#[track_caller]
fn check_refused_upload(rig: &Rig, path: &str, framing: &str, status: u16) {
    const LENGTH: usize = 6 << 20;
    let mut client = rig.connect("web");
    let fields = match framing {
        "sized" => format!("Content-Length: {LENGTH}\r\n"),
        _ => "Transfer-Encoding: chunked\r\n".to_owned(),
    };
    client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).unwrap();
    let piece = vec![b'x'; 1 << 16];
    for _ in 0..LENGTH >> 16 {
        if framing == "chunked" {
            client.send("10000\r\n").unwrap();
        }
        client.send(&piece).unwrap();
        if framing == "chunked" {
            client.send("\r\n").unwrap();
        }
    }
    let seen = answer(&mut client, "POST");
    assert_eq!(seen.status, status, "{path} {framing}");
    // What the kernel took of the body before the answer came may have been all of it.
    match seen.header("connection") {
        Some(value) => assert!(value == "close" && client.is_closed()),
        None => assert_eq!(client.request("POST", path).unwrap().status, status),
    }
}

#[test]
fn an_early_answer_arrives_though_the_body_is_not_read() {
    let origin = Origin::raw(|mut stream, number| {
        let mut buffer = Vec::new();
        let Some(_) = read_head(&mut stream, &mut buffer) else { return };
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").unwrap();
        // Closes at once, or reads on without end.
        while number % 2 == 0 && stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {}
    });
    let rig = before(
        origin.address,
        "limits = { body = \"100MiB\" }\n[[listener.route]]\npath = \"/local\"\nrespond = { status = 403 }\n[[listener.route]]\npath = \"/moved\"\nredirect = { to = \"/x\" }",
    );
    for _ in 0..2 {
        for framing in ["sized", "chunked"] {
            check_refused_upload(&rig, "/", framing, 403);
            check_refused_upload(&rig, "/local", framing, 403);
            check_refused_upload(&rig, "/moved", framing, 308);
        }
    }
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "limits = { body = \"1MiB\" }");
    for framing in ["sized", "chunked"] {
        check_refused_upload(&rig, "/", framing, 413);
    }
}

#[test]
fn a_short_unread_body_does_not_cost_the_connection() {
    let origin = Origin::ok("hello");
    let rig = before(
        origin.address,
        "[[listener.route]]\npath = \"/local\"\nrespond = { body = \"hi\" }\n[[listener.route]]\nhost = \"nowhere\"\nservice = \"127.0.0.1:1\"",
    );
    let mut client = rig.connect("web");
    client.send("POST /local HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: ").unwrap();
    assert_eq!(answer(&mut client, "POST").text(), "hi");
    assert_eq!(client.request("GET", "/").unwrap().text(), "hello");
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn both_bodies_flow_at_once() {
    const LENGTH: usize = 8 << 20;
    let origin = Origin::raw(|mut stream, _| {
        let mut buffer = Vec::new();
        let Some(head) = read_head(&mut stream, &mut buffer) else { return };
        let framing = if head.contains("chunked") { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {LENGTH}") };
        // One request is all it can tell from its body.
        write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n{framing}\r\n\r\n").unwrap();
        stream.write_all(&buffer).unwrap();
        let mut piece = vec![0; 1 << 16];
        loop {
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(count) => stream.write_all(&piece[..count]).unwrap(),
            }
        }
    });
    let rig = before(origin.address, "");
    for framing in [format!("Content-Length: {LENGTH}"), "Transfer-Encoding: chunked".to_owned()] {
        let mut client = rig.connect("web");
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")).unwrap();
        let mut sender = client.socket().try_clone().unwrap();
        let is_chunked = framing.contains("chunked");
        let sent: Vec<u8> = (0..LENGTH).map(|at| (at / 7 % 251) as u8).collect();
        let copy = sent.clone();
        let sending = std::thread::spawn(move || {
            for piece in copy.chunks(10_007) {
                if is_chunked {
                    write!(sender, "{:x}\r\n", piece.len()).unwrap();
                }
                sender.write_all(piece).unwrap();
                if is_chunked {
                    sender.write_all(b"\r\n").unwrap();
                }
            }
            if is_chunked {
                sender.write_all(b"0\r\n\r\n").unwrap();
            }
        });
        let seen = answer(&mut client, "POST");
        sending.join().unwrap();
        assert!(seen.status == 200 && seen.body == sent, "{framing}: {} of {LENGTH} bytes", seen.body.len());
    }
}

#[test]
fn an_answer_flows_while_it_is_made() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::raw(move |mut stream, _| {
        let mut buffer = Vec::new();
        let Some(_) = read_head(&mut stream, &mut buffer) else { return };
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").unwrap();
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(b"5\r\nworld\r\n0\r\n\r\n").unwrap();
    });
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    client.send(GET).unwrap();
    let mut seen = Vec::new();
    let mut socket = client.socket();
    while !seen.ends_with(b"5\r\nhello\r\n") {
        let mut piece = [0; 1024];
        let count = socket.read(&mut piece).unwrap();
        assert!(count > 0);
        seen.extend_from_slice(&piece[..count]);
    }
    go.send(()).unwrap();
    assert!(matches!(socket.read(&mut [0; 1024]), Ok(count) if count > 0));
}

#[test]
fn connections_are_used_again_on_both_sides() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    for number in 0..10 {
        let seen = match number % 3 {
            0 => client.request("GET", "/").unwrap(),
            1 => {
                client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").unwrap();
                answer(&mut client, "POST")
            }
            _ => {
                client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").unwrap();
                answer(&mut client, "POST")
            }
        };
        assert_eq!(seen.text(), "hello");
    }
    assert_eq!((origin.connections(), origin.seen().len()), (1, 10));
}

#[test]
fn an_idle_connection_to_an_endpoint_ages() {
    let origin = Origin::ok("hello");
    let rig = before_pool(&[origin.address], "timeouts = { idle = \"50ms\" }", "");
    let mut client = rig.connect("web");
    eventually("a connection was too old to be used again", || {
        client.request("GET", "/").unwrap();
        let before = origin.connections();
        let waited = Instant::now();
        eventually("the time is over", || waited.elapsed() > Duration::from_millis(60));
        client.request("GET", "/").unwrap();
        origin.connections() > before
    });
}

#[test]
fn an_endpoint_that_drops_idle_connections_costs_nobody_a_get() {
    // Answers, then closes without a word.
    let origin = Origin::run(|stream, _, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        Next::Close
    });
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    for method in ["GET", "HEAD", "GET", "OPTIONS", "DELETE"] {
        for _ in 0..10 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
            assert_eq!(answer(&mut client, method).status, 200);
        }
    }
}

/// An endpoint that takes a second request on a connection and closes without an answer.
fn fickle() -> Origin {
    Origin::run(|stream, _, number| {
        if number == 1 {
            return Next::Close;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        Next::Keep
    })
}

#[test]
fn what_may_have_happened_is_not_sent_twice() {
    for body in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "Content-Length: 0\r\n\r\n", "\r\n"]
    {
        let origin = fickle();
        let rig = before(origin.address, "");
        let mut client = rig.connect("web");
        assert_eq!(client.request("GET", "/").unwrap().status, 200);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}")).unwrap();
        assert_eq!(answer(&mut client, "POST").status, 502);
        assert_eq!(origin.seen().iter().filter(|request| request.line().starts_with("POST")).count(), 1);
    }
}

#[test]
fn a_get_is_sent_once_more_when_a_used_connection_dies() {
    let origin = fickle();
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    assert_eq!((client.request("GET", "/").unwrap().status, client.request("GET", "/").unwrap().status), (200, 200));
    assert_eq!(origin.seen().len(), 3);
    // On a connection of its own nothing was idle, and nothing is repeated.
    let origin = Origin::run(|_, _, _| Next::Close);
    let rig = before(origin.address, "");
    assert_eq!(ask(&rig, GET, "GET").status, 502);
    assert_eq!(origin.seen().len(), 1);
}

/// As [`fickle`], for bodies whose beginning was read by the time the connection turned out dead.
#[test]
fn a_body_that_was_begun_is_not_sent_from_its_middle() {
    for body in ["0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"] {
        let origin = fickle();
        let rig = before(origin.address, "");
        let mut client = rig.connect("web");
        client.request("GET", "/").unwrap();
        client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).unwrap();
        assert_eq!(answer(&mut client, "PUT").status, 502);
    }
}

#[test]
fn surplus_bytes_are_nobodys_answer() {
    for surplus in ["x", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", "\r\n"] {
        let origin = Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{surplus}"));
        let rig = before(origin.address, "");
        let mut client = rig.connect("web");
        for asked in 1..=5 {
            assert_eq!(client.request("GET", "/").unwrap().text(), "ok");
            assert_eq!(origin.connections(), asked, "{surplus:?}");
        }
    }
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n0\r\n\r\n");
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    for asked in 1..=5 {
        assert_eq!((client.request("GET", "/").unwrap().text().as_str(), origin.connections()), ("ok", asked));
    }
}

#[test]
fn a_broken_answer_is_502_and_nothing_of_it_is_seen() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\nX-Secret: 1\r\n\r\n", "y".repeat(300 << 10));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-Secret: 1\r\n".repeat(1100));
    let length = "Content-Length: 6\r\n\r\nsecret";
    let cases = [
        "secret".to_owned(),
        "\r\n".to_owned(),
        "\0\0\0\0".to_owned(),
        format!("HTTP/1.1 20 OK\r\n{length}"),
        format!("HTTP/1.1 2000 OK\r\n{length}"),
        format!("HTTP/1.1 099 OK\r\n{length}"),
        format!("HTTP/1.1 600 OK\r\n{length}"),
        format!("HTTP/1.1  200 OK\r\n{length}"),
        format!("HTTP/1.1 abc OK\r\n{length}"),
        format!("HTTP/2 200 OK\r\n{length}"),
        format!("HTTP/2.0 200 OK\r\n{length}"),
        format!("http/1.1 200 OK\r\n{length}"),
        format!("ICY 200 OK\r\n{length}"),
        format!("HTTP/1.1 200 O\0K\r\n{length}"),
        format!(" HTTP/1.1 200 OK\r\n{length}"),
        format!("HTTP/1.1 200 OK\n{length}"),
        format!("HTTP/1.1 200 OK\r\nX-Secret: 1\n{length}"),
        format!("HTTP/1.1 200 OK\r\nX-Secret: 1\r2\r\n{length}"),
        format!("HTTP/1.1 200 OK\r\nX-Secret : 1\r\n{length}"),
        format!("HTTP/1.1 200 OK\r\nX-Secret: 1\r\n 2\r\n{length}"),
        format!("HTTP/1.1 200 OK\r\n: 1\r\n{length}"),
        format!("HTTP/1.1 200 OK\r\nX-Secret\r\n{length}"),
        format!("HTTP/1.1 200 OK\r\nX-Secret: a\0b\r\n{length}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{length}"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n{length}"),
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nsecret".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: +6\r\n\r\nsecret".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nsecret".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 6, 6\r\n\r\nsecret".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nsecret".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n6\r\nsecret\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n6\r\nsecret\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecret\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecret\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nX-Secret: 1\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nX-Secret: 1\r\n".to_owned(),
        "HTTP/1.1 200".to_owned(),
        String::new(),
        long,
        many,
    ];
    let says = Arc::new(std::sync::Mutex::new(String::new()));
    let script = Arc::clone(&says);
    let origin = Origin::run(move |stream, _, _| {
        let _ = stream.write_all(script.lock().unwrap().as_bytes());
        Next::Close
    });
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    for case in cases {
        says.lock().unwrap().clone_from(&case);
        client.send(GET).unwrap();
        let seen = answer(&mut client, "GET");
        let shown: String = case.chars().take(100).collect();
        assert_eq!(seen.status, 502, "{shown:?}");
        assert!(
            !seen.text().contains("secret") && seen.header("x-secret").is_none() && !seen.head.contains("127.0.0.1"),
            "{shown:?}: {seen:?}"
        );
    }
}

/// An address where nobody listens: a port that was ours a moment ago.
fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_dead_endpoint_is_502_and_a_live_one_takes_its_requests() {
    let dead = dead();
    let rig = before(dead, "");
    let mut client = rig.connect("web");
    for _ in 0..2 {
        assert_eq!(client.request("GET", "/").unwrap().status, 502, "the client's connection outlives it");
    }
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    assert_eq!(answer(&mut client, "POST").status, 502);
    let origin = Origin::ok("hello");
    let rig = before_pool(&[dead, origin.address], "", "");
    for _ in 0..10 {
        assert_eq!(ask(&rig, GET, "GET").status, 200);
        assert_eq!(ask(&rig, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST").status, 200);
    }
    let rig = before_pool(&[dead, self::dead(), origin.address], "", "");
    for _ in 0..10 {
        assert_eq!(ask(&rig, GET, "GET").status, 200);
    }
}

#[test]
fn a_connection_that_does_not_stand_in_time_is_504() {
    // A full accept queue: the kernel drops what else comes.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue does not fill");
    }
    let rig = before_pool(&[address], "timeouts = { connect = \"200ms\" }", "");
    assert_eq!(ask(&rig, GET, "GET").status, 504);
    let origin = Origin::ok("hello");
    let rig = before_pool(&[address, origin.address], "timeouts = { connect = \"200ms\" }", "");
    for _ in 0..3 {
        assert_eq!(ask(&rig, GET, "GET").status, 200);
    }
}

/// Reads requests and says nothing until the other side goes; counts those who went.
fn silent() -> (Origin, Arc<AtomicUsize>) {
    let gone = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&gone);
    let origin = Origin::run(move |stream, _, _| {
        while matches!(stream.read(&mut [0; 1024]), Ok(count) if count > 0) {}
        counted.fetch_add(1, Ordering::Relaxed);
        Next::Close
    });
    (origin, gone)
}

#[test]
fn an_answer_that_does_not_come_in_time_is_504() {
    let (origin, gone) = silent();
    let rig = before_pool(&[origin.address], "timeouts = { response = \"200ms\" }", "");
    let mut client = rig.connect("web");
    assert_eq!(client.request("GET", "/").unwrap().status, 504);
    assert_eq!(client.request("GET", "/").unwrap().status, 504, "the client's connection outlives it");
    eventually("the endpoint is let go", || gone.load(Ordering::Relaxed) == 2);
    let rig = before(origin.address, &format!("[[listener.route]]\ntimeout = \"200ms\"\nservice = \"{}\"", origin.address));
    assert_eq!(ask(&rig, GET, "GET").status, 504);
    eventually("the endpoint is let go", || gone.load(Ordering::Relaxed) == 3);
}

#[test]
fn a_stream_of_events_outlives_the_routes_timeout() {
    let is_due = Arc::new(AtomicBool::new(false));
    let due = Arc::clone(&is_due);
    let origin = Origin::run(move |stream, _, _| {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .unwrap();
        eventually("the second event is due", || due.load(Ordering::Relaxed));
        stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").unwrap();
        Next::Keep
    });
    let rig = before(origin.address, &format!("[[listener.route]]\ntimeout = \"200ms\"\nservice = \"{}\"", origin.address));
    let mut client = rig.connect("web");
    let asked = Instant::now();
    client.send(GET).unwrap();
    eventually("the timeout has passed", || asked.elapsed() > Duration::from_millis(400));
    is_due.store(true, Ordering::Relaxed);
    let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("cut") };
    assert_eq!(answer.text(), "firstsecond");
}

#[test]
fn a_routes_timeout_cuts_an_answer_that_has_begun() {
    for version in ["1.1", "1.0"] {
        let origin = Origin::run(|stream, _, _| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").unwrap();
            while matches!(stream.read(&mut [0; 1024]), Ok(count) if count > 0) {}
            Next::Close
        });
        let rig = before(dead(), &format!("[[listener.route]]\ntimeout = \"300ms\"\nservice = \"{}\"", origin.address));
        let mut client = rig.connect("web");
        client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n")).unwrap();
        assert!(matches!(client.read("GET").unwrap(), Read1::Cut(_)));
    }
}

#[test]
fn an_endpoint_that_falls_silent_in_an_answer_is_cut_off() {
    let origin = Origin::run(|stream, _, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").unwrap();
        while matches!(stream.read(&mut [0; 1024]), Ok(count) if count > 0) {}
        Next::Close
    });
    let rig = before_pool(&[origin.address], "timeouts = { idle = \"200ms\" }", "");
    let mut client = rig.connect("web");
    client.send(GET).unwrap();
    assert_eq!(client.read("GET").unwrap(), Read1::Cut(b"hello".to_vec()));
}

#[test]
fn a_client_that_resets_takes_its_request_along() {
    let (origin, gone) = silent();
    let rig = before(origin.address, "");
    for (number, request) in [GET, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"].into_iter().enumerate() {
        let mut client = rig.connect("web");
        client.send(request).unwrap();
        eventually("the endpoint has it", || origin.seen().len() == number + 1);
        socket2::SockRef::from(client.socket()).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        eventually("the endpoint is let go", || gone.load(Ordering::Relaxed) == number + 1);
    }
}

#[test]
fn a_body_has_a_limit() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "limits = { body = \"1KiB\" }");
    let sized = |length: usize| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    let chunked = |length: usize| {
        let chunks = "1\r\nx\r\n".repeat(length);
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
    };
    let one_chunk = |length: usize| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length))
    };
    for (length, status) in [(1023, 200), (1024, 200), (1025, 413), (100_000, 413)] {
        for request in [sized(length), chunked(length), one_chunk(length)] {
            let seen = ask(&rig, &request, "POST");
            assert_eq!(seen.status, status, "{length}");
            assert_eq!(seen.header("connection").is_some(), status == 413);
        }
    }
    assert_eq!(origin.seen().len(), 6, "no request that was too long was whole");
}

#[test]
fn a_head_has_limits() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "limits = { header_bytes = \"2KiB\", headers = 10, uri_bytes = \"1KiB\" }");
    let check = |request: &str, status: u16| {
        let mut client = rig.connect("web");
        client.send(request).unwrap();
        let seen = answer(&mut client, "GET");
        assert_eq!(seen.status, status, "{} bytes", request.len());
        assert_eq!(seen.header("connection").is_some(), status != 200);
        assert!(status == 200 || client.is_closed());
    };
    for (length, status) in [(1023, 200), (1024, 200), (1025, 414), (2000, 414), (9000, 414), (100_000, 414)] {
        check(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length - 1)), status);
    }
    for (length, status) in [(2047, 200), (2048, 200), (2049, 431), (5000, 431), (100_000, 431)] {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        check(&format!("{start}{}\r\n\r\n", "y".repeat(length - start.len() - 4)), status);
    }
    for (count, status) in [(9, 200), (10, 200), (11, 431), (50, 431)] {
        check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1)), status);
    }
    // A head that never ends is refused before it does.
    check(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(4000)), 431);
    check(&format!("GET / HTTP/1.1\r\n{}", "y".repeat(4000)), 431);
}

#[test]
fn the_usual_limits_are_those_of_the_manual() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "");
    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    for (request, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat((16 << 10) - 1)), 200),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(16 << 10)), 414),
        (format!("{start}{}\r\n\r\n", "y".repeat((64 << 10) - start.len() - 4)), 200),
        (format!("{start}{}\r\n\r\n", "y".repeat((64 << 10) - start.len() - 3)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(99)), 200),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100)), 431),
    ] {
        assert_eq!(ask(&rig, &request, "GET").status, status, "{} bytes", request.len());
    }
}

#[test]
fn a_head_that_takes_too_long_is_408() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "timeouts = { header = \"300ms\" }");
    for partial in ["G", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut client = rig.connect("web");
        let started = Instant::now();
        client.send(partial).unwrap();
        let seen = answer(&mut client, "GET");
        assert_eq!((seen.status, seen.header("connection")), (408, Some("close")));
        assert!(started.elapsed() >= Duration::from_millis(290));
        assert!(client.is_closed());
    }
    // Bytes that keep coming do not put it off.
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nX: ").unwrap();
    let mut sender = client.socket().try_clone().unwrap();
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    let trickle =
        std::thread::spawn(move || while is_over.recv_timeout(Duration::from_millis(10)).is_err() && sender.write_all(b"y").is_ok() {});
    assert_eq!(answer(&mut client, "GET").status, 408);
    let _ = over.send(());
    trickle.join().unwrap();
    // The time of one request is not the next one's.
    let mut client = rig.connect("web");
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(600) {
        assert_eq!(client.request("GET", "/").unwrap().status, 200);
    }
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "timeouts = { idle = \"200ms\" }");
    let mut client = rig.connect("web");
    assert!(client.is_closed());
    let mut client = rig.connect("web");
    assert_eq!(client.request("GET", "/").unwrap().status, 200);
    assert!(client.is_closed());
}

#[test]
fn a_body_that_stops_coming_is_408() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "timeouts = { body = \"300ms\" }");
    for start in [
        "Content-Length: 10\r\n\r\n",
        "Content-Length: 10\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let mut client = rig.connect("web");
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{start}")).unwrap();
        let seen = answer(&mut client, "POST");
        assert_eq!((seen.status, seen.header("connection")), (408, Some("close")), "{start:?}");
        assert!(client.is_closed());
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    for (framing, version) in
        [("Content-Length: 1073741824", "1.1"), ("Transfer-Encoding: chunked", "1.1"), ("Transfer-Encoding: chunked", "1.0")]
    {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let origin = Origin::run(move |stream, _, _| {
            write!(stream, "HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").unwrap();
            let piece =
                if framing.contains("chunked") { [b"10000\r\n", &[b'x'; 1 << 16][..], b"\r\n"].concat() } else { vec![b'x'; 1 << 16] };
            while stream.write_all(&piece).is_ok() {}
            told.store(true, Ordering::Relaxed);
            Next::Close
        });
        let rig = before(origin.address, "timeouts = { write = \"300ms\" }");
        let mut client = rig.connect("web");
        client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n")).unwrap();
        eventually("the endpoint is let go", || over.load(Ordering::Relaxed));
        // Whatever it finds when it reads again, it is no whole answer.
        assert!(matches!(client.read("GET").unwrap(), Read1::Cut(_)), "{framing} {version}");
    }
}

#[test]
fn a_slow_reader_that_reads_is_served_to_the_end() {
    const LENGTH: usize = 4 << 20;
    let origin = Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n{}", "x".repeat(LENGTH)));
    let rig = before(origin.address, "timeouts = { write = \"500ms\" }");
    let mut client = rig.connect("web");
    client.send(GET).unwrap();
    let mut read = 0;
    let mut piece = vec![0; 64 << 10];
    while read < LENGTH {
        let count = client.socket().read(&mut piece).unwrap();
        assert!(count > 0, "cut off after {read}");
        read += count;
        let pause = Instant::now();
        eventually("a while has passed", || pause.elapsed() > Duration::from_millis(5));
    }
}

#[test]
fn an_answer_that_overtakes_an_endless_upload_is_heard() {
    let origin = Origin::raw(|mut stream, _| {
        let mut buffer = Vec::new();
        let Some(_) = read_head(&mut stream, &mut buffer) else { return };
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").unwrap();
        let mut piece = vec![0; 1 << 18];
        while matches!(stream.read(&mut piece), Ok(count) if count > 0) {}
    });
    let rig = before(origin.address, "");
    let mut client = rig.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n").unwrap();
    let mut sender = client.socket().try_clone().unwrap();
    let sending = std::thread::spawn(move || while sender.write_all(&[b'x'; 1 << 16]).is_ok() {});
    let seen = answer(&mut client, "POST");
    assert_eq!((seen.status, seen.header("connection")), (403, Some("close")));
    drop(client.socket().shutdown(std::net::Shutdown::Both));
    sending.join().unwrap();
}

#[test]
fn long_bodies_pass_through_tls_both_ways() {
    const LENGTH: usize = 8 << 20;
    let origin = Origin::run(|stream, request, _| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()).unwrap();
        stream.write_all(&request.body).unwrap();
        Next::Keep
    });
    let rig = before(origin.address, "tls = { self_signed = [\"localhost\"] }");
    let mut client = Client::tls(rig.address("web"), "localhost").unwrap();
    let body: Vec<u8> = (0..LENGTH).map(|at| (at / 3 % 253) as u8).collect();
    for _ in 0..2 {
        client.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LENGTH}\r\n\r\n")).unwrap();
        client.send(&body).unwrap();
        assert!(answer(&mut client, "POST").body == body);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_cut_answer_looks_cut_through_tls() {
    for (says, version) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "1.1"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "1.1"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "1.0"),
    ] {
        let origin = Origin::run(|stream, _, _| {
            stream.write_all(says.as_bytes()).unwrap();
            Next::Close
        });
        let rig = before(origin.address, "tls = { self_signed = [\"localhost\"] }");
        let mut client = Client::tls(rig.address("web"), "localhost").unwrap();
        client.send(format!("GET / HTTP/{version}\r\nHost: localhost\r\n\r\n")).unwrap();
        assert!(matches!(client.read("GET").unwrap(), Read1::Cut(_)), "{says:?} {version}");
    }
}

#[test]
fn a_client_of_tls_that_does_not_read_is_cut_off_too() {
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let origin = Origin::run(move |stream, _, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n").unwrap();
        while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
        told.store(true, Ordering::Relaxed);
        Next::Close
    });
    let rig = before(origin.address, "tls = { self_signed = [\"localhost\"] }\ntimeouts = { write = \"300ms\" }");
    let mut client = Client::tls(rig.address("web"), "localhost").unwrap();
    client.send(GET).unwrap();
    eventually("the endpoint is let go", || over.load(Ordering::Relaxed));
}

#[test]
fn interim_answers_that_nobody_reads_stop_the_endpoint() {
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let origin = Origin::run(move |stream, _, _| {
        let interim = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(250_000));
        let sent = stream.write_all(interim.repeat(30).as_bytes());
        let ended = sent.is_err() || !matches!(stream.read(&mut [0; 1024]), Ok(count) if count > 0);
        told.store(ended, Ordering::Relaxed);
        Next::Close
    });
    let rig = before(origin.address, "timeouts = { write = \"300ms\" }");
    let mut client = rig.connect("web");
    socket2::SockRef::from(client.socket()).set_recv_buffer_size(4096).unwrap();
    client.send(GET).unwrap();
    eventually("the endpoint is let go", || over.load(Ordering::Relaxed));
}
