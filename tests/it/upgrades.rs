//! What follows a 101: `WebSockets` and other protocols, over HTTP/1.1 and HTTP/2.
//!
//! The ends are scripted here; real programs are in `programs`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http::Request;

use crate::support::http2::{Http2, room, run};
use crate::support::{Origin, Rig, eventually, read_head};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
const GRANT: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nX-Secret: 1\r\n\r\n";

fn config(endpoint: SocketAddr, route: &str, pool: &str) -> String {
    format!(
        "[process]\nworkers = 1\ndrain = \"3s\"\n[log]\naccess = \"json\"\n\
         [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n\
         [[listener.route]]\nname = \"chat\"\npath = \"/*\"\nservice = \"chat\"\n{route}\n\
         [service.chat]\nendpoints = [\"{endpoint}\"]\n{pool}\n"
    )
}

/// Reads until there are as many bytes.
fn take(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Agrees to everything and sends back what comes, until the other side is done; then says good-bye.
fn echo() -> Origin {
    Origin::raw(|mut stream, _| {
        let mut buffer = Vec::new();
        let Some(_) = read_head(&mut stream, &mut buffer) else { return };
        // In one piece with the head, as busy servers do it.
        stream.write_all(&[GRANT.as_bytes(), b"hello "].concat()).unwrap();
        let mut bytes = [0; 64 << 10];
        loop {
            if !buffer.is_empty() {
                if stream.write_all(&std::mem::take(&mut buffer)).is_err() {
                    return;
                }
                continue;
            }
            match stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => buffer.extend_from_slice(&bytes[..count]),
                Err(_) => return,
            }
        }
        let _ = stream.write_all(b"bye");
    })
}

/// A connection of a client that asked with `request`, and the head of what it was answered.
fn asked(rig: &Rig, request: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(rig.address("web")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(take(&mut stream, 1));
    }
    (stream, String::from_utf8(head).unwrap())
}

fn record(rig: &Rig) -> serde_json::Value {
    eventually("a record is written", || !rig.out().is_empty());
    serde_json::from_str(rig.out().lines().last().unwrap()).unwrap()
}

#[test]
fn bytes_pass_both_ways_until_both_sides_are_done() {
    let origin = echo();
    let rig = Rig::start(&config(origin.address, "response_headers = { remove = [\"x-secret\"], set = { x-a = \"b\" } }", ""));
    // Some clients do not wait for the answer.
    let (mut stream, head) = asked(&rig, &format!("{ASK}early "));
    assert_eq!(head, "HTTP/1.1 101 Switching Protocols\r\nx-a: b\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n");
    assert_eq!(take(&mut stream, 12), b"hello early ");
    let long = vec![b'x'; 3 << 20];
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn({
        let long = long.clone();
        move || writer.write_all(&long).unwrap()
    });
    assert!(take(&mut stream, long.len()) == long);
    sender.join().unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
    let record = record(&rig);
    assert_eq!((&record["status"], &record["outcome"]), (&101.into(), &"complete".into()));
    assert_eq!((record["bytes_in"].as_u64(), record["bytes_out"].as_u64()), (Some((3 << 20) + 6), Some((3 << 20) + 15)));
}

#[test]
fn the_endpoint_may_be_done_first() {
    let origin = Origin::raw(|mut stream, _| {
        let _ = read_head(&mut stream, &mut Vec::new());
        stream.write_all(GRANT.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"and another thing");
    });
    let rig = Rig::start(&config(origin.address, "", ""));
    let (mut stream, _) = asked(&rig, ASK);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    stream.write_all(b"and another thing").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let record = record(&rig);
    assert_eq!((&record["outcome"], &record["bytes_in"]), (&"complete".into(), &17.into()));
}

#[test]
fn the_endpoint_sees_what_was_asked_for() {
    let origin = Origin::ok("no");
    let rig = Rig::start(&config(origin.address, "", ""));
    let (mut stream, head) = asked(&rig, ASK);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(take(&mut stream, 2), b"no");
    let seen = origin.seen();
    assert_eq!((seen[0].headers("connection"), seen[0].headers("upgrade")), (vec!["Upgrade"], vec!["websocket"]));
    assert_eq!(seen[0].header("sec-websocket-key"), Some("x"));
    // Nobody switched, so the connection is one of HTTP still.
    stream.write_all(b"GET /again HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    eventually("the next request arrives", || origin.seen().len() == 2);
    assert_eq!((origin.seen()[1].header("upgrade"), origin.connections()), (None, 1));
}

#[test]
fn what_would_hide_http_is_not_asked_for() {
    let origin = Origin::ok("no");
    let rig = Rig::start(&config(origin.address, "", ""));
    for lines in [
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: websocket\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: other\r\n",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n",
    ] {
        asked(&rig, &format!("GET / HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n"));
        let seen = origin.seen().pop().unwrap();
        assert_eq!((seen.header("upgrade"), seen.header("connection")), (None, None), "{lines}");
    }
    asked(&rig, "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(origin.seen().pop().unwrap().header("upgrade"), None);
}

#[test]
fn a_101_to_something_else_is_none() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nsecret",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\nsecret",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nsecret",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\nsecret",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nsecret",
        "HTTP/1.0 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nsecret",
    ] {
        let origin = Origin::answering(answer);
        let rig = Rig::start(&config(origin.address, "", ""));
        let (_, head) = asked(&rig, ASK);
        assert!(head.starts_with("HTTP/1.1 502 "), "{answer}\n{head}");
    }
}

#[test]
fn a_reset_is_passed_on() {
    let origin = Origin::raw(|mut stream, _| {
        let _ = read_head(&mut stream, &mut Vec::new());
        stream.write_all(GRANT.as_bytes()).unwrap();
        let _ = stream.read(&mut [0; 3]);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let rig = Rig::start(&config(origin.address, "", ""));
    let (mut stream, _) = asked(&rig, ASK);
    stream.write_all(b"go!").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(record(&rig)["outcome"], "cut");
}

#[test]
fn neither_the_routes_time_nor_reloads_end_it_but_silence_does() {
    let origin = echo();
    let text = config(origin.address, "timeout = \"300ms\"", "timeouts = { idle = \"2s\" }");
    let rig = Rig::start(&text);
    let (mut stream, _) = asked(&rig, ASK);
    assert_eq!(take(&mut stream, 6), b"hello ");
    rig.reloaded(&text.replace("300ms", "299ms"));
    std::thread::sleep(Duration::from_millis(400));
    rig.reloaded(&format!("{text}[service.other]\nendpoints = [\"127.0.0.1:1\"]\n"));
    stream.write_all(b"still").unwrap();
    assert_eq!(take(&mut stream, 5), b"still");
    // Silence ends it, with an end that reads as one.
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_draining_process_ends_it_politely_and_in_time() {
    let origin = echo();
    let mut rig = Rig::start(&config(origin.address, "", ""));
    let (mut stream, _) = asked(&rig, ASK);
    assert_eq!(take(&mut stream, 6), b"hello ");
    rig.signal("TERM");
    stream.write_all(b"not yet").unwrap();
    assert_eq!(take(&mut stream, 7), b"not yet");
    assert_eq!(stream.read(&mut [0; 3]).unwrap(), 0, "an end and no reset");
    assert_eq!(rig.ended().code, Some(0));
}

fn socket_request(path: &str) -> Request<()> {
    let mut request = Request::builder().method("CONNECT").uri(format!("http://a.example{path}"));
    request = request.header("sec-websocket-version", "13").header("sec-websocket-protocol", "chat");
    let mut request = request.body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    request
}

#[test]
fn a_websocket_over_http2_is_one_over_http1_for_the_endpoint() {
    let origin = Origin::raw(|mut stream, _| {
        let mut buffer = Vec::new();
        let head = read_head(&mut stream, &mut buffer).unwrap();
        assert!(head.starts_with("GET /chat?a HTTP/1.1\r\nHost: a.example\r\n"), "{head}");
        for line in ["Connection: Upgrade", "Upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-protocol: chat"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is missing in {head}");
        }
        let key = head.split("\r\n").find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        assert!(key.len() == 24 && key.ends_with("=="), "{key}");
        stream.write_all(GRANT.replace("X-Secret", "Sec-WebSocket-Accept").as_bytes()).unwrap();
        let mut piece = [0; 5];
        stream.read_exact(&mut piece).unwrap();
        stream.write_all(&piece).unwrap();
        assert_eq!(stream.read(&mut piece).unwrap(), 0, "the client is done");
        stream.write_all(b"bye").unwrap();
    });
    let rig = Rig::start(&config(origin.address, "", ""));
    run(async {
        let client = Http2::plain(rig.address("web")).await;
        let mut send = client.send.clone().ready().await.unwrap();
        while !send.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (answer, mut stream) = send.send_request(socket_request("/chat?a"), false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers().get("sec-websocket-accept")), (200, None));
        assert_eq!((answer.headers().get("upgrade"), answer.headers().get("connection")), (None, None));
        room(&mut stream, 5).await.unwrap();
        stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let mut body = answer.into_body();
        let mut heard = Vec::new();
        while heard.len() < 5 {
            let piece = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            heard.extend_from_slice(&piece);
        }
        assert_eq!(heard, b"hello");
        stream.send_data(Bytes::new(), true).unwrap();
        let mut rest = Vec::new();
        while let Some(piece) = body.data().await {
            // An end is an end, and no reset.
            rest.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(rest, b"bye");
    });
    let record = record(&rig);
    assert_eq!((&record["status"], &record["protocol"]), (&101.into(), &"HTTP/2.0".into()));
}

#[test]
fn over_http2_only_a_101_opens_a_socket() {
    for (status, wanted) in [("200 OK", 502), ("403 Forbidden", 403), ("302 Found", 302)] {
        let origin = Origin::answering(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno"));
        let rig = Rig::start(&config(origin.address, "", ""));
        run(async {
            let mut client = Http2::plain(rig.address("web")).await;
            assert_eq!(client.ask(socket_request("/chat")).await.unwrap().status, wanted, "{status}");
        });
    }
}

#[test]
fn other_protocols_over_http2_are_refused_like_any_connect() {
    let origin = Origin::ok("no");
    let rig = Rig::start(&config(origin.address, "", ""));
    run(async {
        let mut client = Http2::plain(rig.address("web")).await;
        let mut request = socket_request("/chat");
        request.extensions_mut().insert(h2::ext::Protocol::from_static("connect-udp"));
        let status = client.ask(request).await.unwrap().status;
        assert!(matches!(status, 400 | 405), "{status}");
    });
    assert!(origin.seen().is_empty());
}
