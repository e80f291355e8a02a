//! HTTP/2 from clients: the same exchanges as over HTTP/1, in another form.
//!
//! Endpoints here speak HTTP/1.1, so each of these is a translation too.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request};

use crate::support::http2::{
    self as http2, END_HEADERS, END_STREAM, HEADERS, Http2, PREFACE, RST_STREAM, Raw, SETTINGS, frame, literals, read_answer, request, run,
    send_all,
};
use crate::support::{Client, Next, Origin, Pair, Rig, eventually};

/// A listener before one endpoint, with further settings of the listener.
fn before(address: SocketAddr, settings: &str) -> Rig {
    Rig::start(&format!(
        "[process]\nworkers = 1\n[log]\naccess = \"json\"\n\
         [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{address}\"\n{settings}\n"
    ))
}

/// Answers with what it was asked: request line and body.
fn echo() -> Origin {
    Origin::run(|stream, request, _| {
        let body = format!("{} {}", request.line(), String::from_utf8_lossy(&request.body));
        let body = if request.line().starts_with("HEAD") { "" } else { &body };
        let length = if body.is_empty() { 7 } else { body.len() };
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        Next::Keep
    })
}

/// The record of the last request in the access log.
fn record(rig: &Rig) -> serde_json::Value {
    eventually("a record is written", || !rig.out().is_empty());
    serde_json::from_str(rig.out().lines().last().unwrap()).unwrap()
}

#[test]
fn requests_pass_with_their_fields_and_their_bodies() {
    let origin = echo();
    let rig = before(origin.address, "");
    run(async {
        let mut client = Http2::plain(rig.address("web")).await;
        let answer = client.get("/a?b=c").await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, "GET /a?b=c HTTP/1.1 ".to_owned()));
        assert_eq!((answer.header("content-length"), answer.header("connection")), (Some("20"), None));
        assert!(answer.header("date").is_some());
        let answer = client.ask(request("HEAD", "/")).await.unwrap();
        assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, Some("7"), 0));
        let sized = Request::post("http://a.example/sized").header("content-length", "5").body(()).unwrap();
        assert_eq!(client.ask_with(sized, &[b"he", b"llo"], None).await.unwrap().text(), "POST /sized HTTP/1.1 hello");
        assert_eq!(client.ask_with(request("POST", "/"), &[b"he", b"llo"], None).await.unwrap().text(), "POST / HTTP/1.1 hello");
        assert_eq!(client.ask(request("POST", "/none")).await.unwrap().text(), "POST /none HTTP/1.1 ");
        let none = Request::post("http://a.example/").header("content-length", "0").body(()).unwrap();
        assert_eq!(client.ask(none).await.unwrap().text(), "POST / HTTP/1.1 ");
    });
    let seen = origin.seen();
    let framing = |number: usize| (seen[number].header("content-length"), seen[number].header("transfer-encoding"));
    assert_eq!(framing(0), (None, None));
    assert_eq!(framing(2), (Some("5"), None));
    assert_eq!(framing(3), (None, Some("chunked")));
    assert_eq!(framing(4), (None, None));
    assert_eq!(framing(5), (Some("0"), None));
    assert_eq!((seen[0].headers("host"), seen[0].header("via")), (vec!["a.example"], Some("2.0 attache")));
    assert_eq!(seen[0].header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(origin.connections(), 1, "whole exchanges leave a connection that can be used again");
    assert_eq!(record(&rig)["protocol"], "HTTP/2.0");
    assert_eq!(rig.metric("attache_connections_total{listener=\"web\"}"), 1.0);
}

#[test]
fn tls_clients_choose_by_alpn() {
    let origin = echo();
    let rig = before(origin.address, "tls = { self_signed = [\"localhost\"] }");
    run(async {
        let mut client = Http2::tls(rig.address("web"), "localhost").await;
        let request = Request::get("https://localhost/").body(()).unwrap();
        assert_eq!(client.ask(request).await.unwrap().text(), "GET / HTTP/1.1 ");
    });
    assert_eq!(origin.seen()[0].header("x-forwarded-proto"), Some("https"));
    // Who says nothing of protocols speaks HTTP/1.
    assert_eq!(Client::tls(rig.address("web"), "localhost").unwrap().ask("GET", "/").unwrap().status, 200);
}

#[test]
fn a_listener_may_keep_to_http1() {
    let rig = before("127.0.0.1:1".parse().unwrap(), "tls = { self_signed = [\"localhost\"], alpn = [\"http/1.1\"] }");
    let mut config = (*crate::support::trusting_config(None)).clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let session = crate::support::handshake(rig.address("web"), "localhost", Arc::new(config)).unwrap();
    assert_eq!(session.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    for status in ["204 No Content", "304 Not Modified"] {
        let origin = Origin::answering(format!("HTTP/1.1 {status}\r\nX-A: b\r\n\r\n"));
        let rig = before(origin.address, "");
        let mut raw = Raw::connect(rig.address("web"));
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &http2::head("/"))).unwrap();
        let answer = raw.answer(1).unwrap();
        assert_eq!((answer.kind, answer.flags & END_STREAM), (HEADERS, END_STREAM), "{status}");
    }
}

#[test]
fn trailers_pass_both_ways() {
    let origin =
        Origin::answering("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n");
    let rig = before(origin.address, "");
    run(async {
        let mut client = Http2::plain(rig.address("web")).await;
        let post = Request::post("http://a.example/").header("te", "trailers").header("trailer", "x-check").body(()).unwrap();
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-check"), http::HeaderValue::from_static("5"))]);
        let answer = client.ask_with(post, &[b"hello"], Some(trailers)).await.unwrap();
        assert_eq!((answer.text(), answer.header("trailer")), ("hi".to_owned(), Some("X-Sum")));
        assert_eq!(answer.trailers.unwrap()["x-sum"], "7");
    });
    let seen = &origin.seen()[0];
    assert_eq!((seen.header("te"), seen.header("trailer")), (Some("trailers"), Some("x-check")));
    assert!(String::from_utf8_lossy(&seen.raw_body).ends_with("0\r\nx-check: 5\r\n\r\n"), "{:?}", seen.raw_body);
}

#[test]
fn trailers_that_frame_or_route_end_the_stream() {
    let origin = echo();
    let rig = before(origin.address, "");
    for (name, value) in [("content-length", "5"), ("host", "b.example"), ("x-forwarded-for", "10.0.0.1"), ("x-a", " b")] {
        let mut raw = Raw::connect(rig.address("web"));
        let post = literals(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")]);
        raw.send(&frame(HEADERS, END_HEADERS, 1, &post)).unwrap();
        raw.send(&frame(http2::DATA, 0, 1, b"hello")).unwrap();
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &literals(&[(name, value)]))).unwrap();
        let answer = raw.answer(1).unwrap();
        assert_eq!((answer.kind, answer.code()), (RST_STREAM, Some(Reason::PROTOCOL_ERROR.into())), "{name}: {value:?}");
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn interim_answers_pass_and_expectations_are_met() {
    let origin = Origin::raw(|mut stream, _| {
        let mut buffer = Vec::new();
        let head = crate::support::read_head(&mut stream, &mut buffer).unwrap();
        assert!(head.contains("Expect: 100-continue"), "{head}");
        assert!(buffer.is_empty(), "the body waits");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    });
    let rig = before(origin.address, "");
    run(async {
        let client = Http2::plain(rig.address("web")).await;
        let post = Request::post("http://a.example/").header("expect", "100-continue").header("content-length", "5").body(()).unwrap();
        let (mut answer, mut stream) = client.send.clone().ready().await.unwrap().send_request(post, false).unwrap();
        let early = std::future::poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(early.status(), 100);
        stream.send_data(Bytes::from_static(b"hello"), true).unwrap();
        let answer = read_answer(answer).await.unwrap();
        assert_eq!((answer.status, answer.text(), answer.interim), (200, "ok".to_owned(), vec![103]));
    });
}

#[test]
fn a_request_taken_back_ends_at_the_endpoint_too() {
    let gone = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&gone);
    let origin = Origin::raw(move |mut stream, _| {
        let mut buffer = Vec::new();
        let head = crate::support::read_head(&mut stream, &mut buffer).unwrap();
        if head.starts_with("GET /begun") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").unwrap();
        }
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        counted.fetch_add(1, SeqCst);
    });
    let rig = before(origin.address, "");
    run(async {
        let client = Http2::plain(rig.address("web")).await;
        let ready = || async { client.send.clone().ready().await.unwrap() };
        // Before an answer, in the middle of one, and in the middle of the request.
        let (answer, mut stream) = ready().await.send_request(request("GET", "/"), true).unwrap();
        stream.send_reset(Reason::CANCEL);
        drop((answer, stream));
        let (answer, mut stream) = ready().await.send_request(request("GET", "/begun"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        stream.send_reset(Reason::CANCEL);
        let (_answer, mut stream) = ready().await.send_request(request("POST", "/"), false).unwrap();
        stream.send_data(Bytes::from_static(b"he"), false).unwrap();
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(50))).await.unwrap();
        stream.send_reset(Reason::CANCEL);
        let rig = &rig;
        let wait = async {
            while gone.load(SeqCst) < 3 && rig.out().lines().count() < 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        wait.await;
    });
    eventually("every record is written", || rig.out().lines().count() >= 3);
    assert!(rig.out().lines().all(|line| line.contains("client_gone")), "{}", rig.out());
}

#[test]
fn a_request_taken_back_at_once_reaches_no_endpoint() {
    let origin = echo();
    let rig = before(origin.address, "");
    let mut raw = Raw::connect(rig.address("web"));
    assert_eq!(raw.next().unwrap().unwrap().kind, SETTINGS);
    let reset = |stream| frame(RST_STREAM, 0, stream, &u32::from(Reason::CANCEL).to_be_bytes());
    let one = |stream| [frame(HEADERS, END_HEADERS | END_STREAM, stream, &http2::head("/")), reset(stream)].concat();
    raw.send(&(0..20).flat_map(|number| one(2 * number + 1)).collect::<Vec<u8>>()).unwrap();
    eventually("every record is written", || rig.out().lines().count() == 20);
    assert!(rig.out().lines().all(|line| line.contains("client_gone")), "{}", rig.out());
    assert_eq!(origin.connections(), 0);
}

#[test]
fn an_answer_cut_short_is_reset_and_never_completed() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\nx\r\n",
    ] {
        let origin = Origin::run(move |stream, _, _| {
            let _ = stream.write_all(answer.as_bytes());
            Next::Close
        });
        let rig = before(origin.address, "");
        run(async {
            let client = Http2::plain(rig.address("web")).await;
            let (answer, _) = client.send.clone().ready().await.unwrap().send_request(request("GET", "/"), true).unwrap();
            let mut body = answer.await.unwrap().into_body();
            let mut read = Vec::new();
            let error = loop {
                match body.data().await.expect("a cut is no end") {
                    Ok(chunk) => read.extend_from_slice(&chunk),
                    Err(error) => break error,
                }
            };
            assert_eq!((error.reason(), error.is_remote()), (Some(Reason::INTERNAL_ERROR), true));
            assert_eq!(read, b"hel", "what came is the client's");
        });
        assert_eq!(record(&rig)["outcome"], "cut");
    }
}

#[test]
fn an_answer_until_the_end_of_its_connection_is_whole() {
    let origin = Origin::run(|stream, _, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello");
        Next::Close
    });
    let rig = before(origin.address, "");
    run(async { assert_eq!(Http2::plain(rig.address("web")).await.get("/").await.unwrap().text(), "hello") });
}

#[test]
fn an_answer_may_come_before_the_request_has_ended() {
    let origin = Origin::raw(|mut stream, _| {
        crate::support::read_head(&mut stream, &mut Vec::new()).unwrap();
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let rig = before(origin.address, "");
    let mut raw = Raw::connect(rig.address("web"));
    let post = literals(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")]);
    raw.send(&frame(HEADERS, END_HEADERS, 1, &post)).unwrap();
    raw.send(&frame(http2::DATA, 0, 1, b"hello")).unwrap();
    assert_eq!(raw.answer(1).unwrap().kind, HEADERS);
    let data = raw.answer(1).unwrap();
    assert_eq!((data.kind, data.flags, &data.payload[..]), (http2::DATA, END_STREAM, &b"no\n"[..]));
    // RFC 9113 §8.1: the client need not send the rest.
    let reset = raw.answer(1).unwrap();
    assert_eq!((reset.kind, reset.code()), (RST_STREAM, Some(Reason::NO_ERROR.into())));
}

#[test]
fn streams_are_served_at_once_and_the_limit_is_told() {
    const COUNT: usize = 50;
    let together = Arc::new(Barrier::new(COUNT));
    let origin = Origin::run(move |stream, request, _| {
        // Nobody is answered before everybody has asked.
        together.wait();
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", request.line().len(), request.line());
        Next::Keep
    });
    let rig = before(origin.address, &format!("limits = {{ streams = {COUNT} }}"));
    run(async {
        let client = Http2::plain(rig.address("web")).await;
        let mut asking = Vec::new();
        for number in 0..COUNT {
            let (answer, _) = client.send.clone().ready().await.unwrap().send_request(request("GET", &format!("/{number}")), true).unwrap();
            asking.push(tokio::task::spawn_local(read_answer(answer)));
        }
        for (number, answer) in asking.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap().unwrap().text(), format!("GET /{number} HTTP/1.1"));
        }
    });
    let mut raw = Raw::connect(rig.address("web"));
    let settings = raw.until(|frame| frame.kind == SETTINGS).unwrap();
    assert!(settings.payload.chunks(6).any(|pair| pair == [0, 3, 0, 0, 0, COUNT as u8]), "{settings:?}");
}

#[test]
fn a_request_for_another_certificates_host_is_misdirected() {
    let directory = tempfile::TempDir::new().unwrap();
    Pair::of(&["a.example"]).write(directory.path(), "a");
    Pair::of(&["b.example"]).write(directory.path(), "b");
    let rig = Rig::start_in(
        directory,
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n\
         tls = { certificates = [{ cert = \"a.crt\", key = \"a.key\" }, { cert = \"b.crt\", key = \"b.key\" }] }\n\
         [[listener.route]]\nrespond = { body = \"ok\" }\n",
    );
    run(async {
        let mut client = Http2::tls(rig.address("web"), "a.example").await;
        let ask = |host: &str| Request::get(format!("https://{host}/")).body(()).unwrap();
        assert_eq!(client.ask(ask("a.example")).await.unwrap().status, 200);
        assert_eq!(client.ask(ask("b.example")).await.unwrap().status, 421);
        // It is one stream's trouble.
        assert_eq!(client.ask(ask("a.example")).await.unwrap().status, 200);
    });
}

#[test]
fn both_versions_are_told_apart_however_their_bytes_arrive() {
    let origin = echo();
    let rig = before(origin.address, "[listener.timeouts]\nheader = \"300ms\"\nhandshake = \"300ms\"");
    // HTTP/1 is answered as soon as its request is whole, whatever it begins with.
    for method in ["P", "PR", "PRI", "PRIX", "POST", "PUT", "PATCH"] {
        assert_eq!(rig.connect("web").ask(method, "/").unwrap().text(), format!("{method} / HTTP/1.1 "));
    }
    let mut raw = Raw::silent(rig.address("web"));
    for byte in [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_HEADERS | END_STREAM, 1, &http2::head("/"))].concat() {
        raw.send(&[byte]).unwrap();
    }
    assert_eq!(raw.answer(1).unwrap().kind, HEADERS);
    // What is neither.
    for (sent, status) in
        [("PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", "505"), ("PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"), ("PRI", "408"), ("PRI * HT", "408")]
    {
        let mut client = rig.connect("web");
        client.send(sent).unwrap();
        let crate::support::Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("{sent:?}") };
        assert_eq!(answer.status.to_string(), status, "{sent:?}");
    }
    // Not as a second request.
    let mut client = rig.connect("web");
    client.request("GET", "/").unwrap();
    client.send(PREFACE).unwrap();
    assert!(matches!(client.read("GET").unwrap(), crate::support::Read1::Answer(answer) if answer.status == 505));
    // A preface that is not gone on with, and one that goes wrong behind its first line.
    for sent in [&PREFACE[..16], &PREFACE[..23], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx"] {
        let mut raw = Raw::silent(rig.address("web"));
        raw.send(sent).unwrap();
        assert_eq!(raw.until(|frame| frame.kind == HEADERS), None);
    }
    eventually("none of them is left", || rig.metric("attache_connections{listener=\"web\"}") <= 1.0);
}

#[test]
fn edits_and_answers_of_our_own_hold_for_both_versions() {
    let origin = echo();
    let rig = before(
        origin.address,
        &format!(
            "[[listener.route]]\npath = \"/edited\"\nservice = \"{}\"\n\
             request_headers = {{ set = {{ x-by = \"{{client_ip}}\" }}, remove = [\"x-gone\"] }}\n\
             response_headers = {{ set = {{ x-seen = \"{{path}}\" }}, remove = [\"date\"] }}\n\
             [[listener.route]]\npath = \"/there\"\nredirect = {{ to = \"https://{{host}}{{uri}}\" }}\n\
             [[listener.route]]\npath = \"/own\"\nrespond = {{ status = 418, body = \"tea\", headers = {{ x-pot = \"{{method}}\" }} }}\n",
            origin.address
        ),
    );
    run(async {
        let mut client = Http2::plain(rig.address("web")).await;
        let edited = Request::get("http://a.example/edited").header("x-gone", "1").body(()).unwrap();
        let answer = client.ask(edited).await.unwrap();
        assert_eq!((answer.header("x-seen"), answer.header("date")), (Some("/edited"), None));
        let answer = client.get("/there").await.unwrap();
        assert_eq!((answer.status, answer.header("location")), (308, Some("https://a.example/there")));
        let answer = client.get("/own").await.unwrap();
        assert_eq!((answer.status, answer.header("x-pot"), answer.text()), (418, Some("GET"), "tea".to_owned()));
        assert_eq!(client.ask(request("HEAD", "/own")).await.unwrap().header("content-length"), Some("3"));
    });
    let seen = origin.seen();
    assert_eq!((seen[0].header("x-by"), seen[0].header("x-gone")), (Some("127.0.0.1"), None));
}

#[test]
fn a_long_body_of_nobodys_is_not_waited_for() {
    let origin = echo();
    let rig = before(origin.address, "[[listener.route]]\npath = \"/own\"\nrespond = { body = \"ok\" }");
    run(async {
        let client = Http2::plain(rig.address("web")).await;
        let (answer, mut stream) = client.send.clone().ready().await.unwrap().send_request(request("POST", "/own"), false).unwrap();
        assert_eq!(read_answer(answer).await.unwrap().text(), "ok");
        assert!(send_all(&mut stream, vec![Bytes::from(vec![0; 1 << 20])], None).await.is_err(), "it was told to stop");
    });
}
