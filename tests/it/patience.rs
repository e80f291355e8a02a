//! Clients that say how long they will wait, and clients that leave: an endpoint works for nobody.
//!
//! Resets by clients over HTTP/2 to every kind of endpoint are in `http2_pairs`.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::http2::{self, Http2, RST_STREAM};
use crate::support::http2_origin::{next_request, raw_origin};
use crate::support::{Client, Origin, Read1, Rig, eventually, read_head};

/// A listener without TLS and one with, before this service.
fn before(service: &str, settings: &str) -> Rig {
    Rig::start(&format!(
        "[process]\nworkers = 1\n[log]\naccess = \"json\"\n\
         [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{service}\"\n\
         [[listener]]\nname = \"tls\"\nlisten = \"127.0.0.1:0\"\ntls = {{ self_signed = [\"a.example\"] }}\nservice = \"{service}\"\n{settings}"
    ))
}

/// The record of the last request in the access log.
fn record(rig: &Rig, number: usize) -> serde_json::Value {
    eventually("a record is written", || rig.out().lines().count() >= number);
    serde_json::from_str(rig.out().lines().nth(number - 1).unwrap()).unwrap()
}

/// Never answers. Counts the requests that came, and the connections that ended.
struct Silent {
    origin: Origin,
    asked: Arc<AtomicUsize>,
    left: Arc<AtomicUsize>,
}

impl Silent {
    fn new() -> Self {
        let (asked, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (ask, leave) = (Arc::clone(&asked), Arc::clone(&left));
        let origin = Origin::raw(move |mut stream, _| {
            if read_head(&mut stream, &mut Vec::new()).is_some() {
                ask.fetch_add(1, SeqCst);
                let _ = stream.read_to_end(&mut Vec::new());
                leave.fetch_add(1, SeqCst);
            }
        });
        Self { origin, asked, left }
    }

    /// As [`Silent::new`] over HTTP/2: what ends are streams.
    fn h2() -> Self {
        let (asked, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (ask, leave) = (Arc::clone(&asked), Arc::clone(&left));
        let origin = raw_origin(&[], move |mut raw, _| {
            while next_request(&mut raw).is_some() {
                ask.fetch_add(1, SeqCst);
                if raw.until(|frame| frame.kind == RST_STREAM).is_some() {
                    leave.fetch_add(1, SeqCst);
                }
            }
        });
        Self { origin, asked, left }
    }

    fn has_asked(&self, number: usize) {
        eventually("the request is with the endpoint", || self.asked.load(SeqCst) == number);
    }

    fn has_lost(&self, number: usize) {
        eventually("the request is taken back", || self.left.load(SeqCst) == number);
    }
}

fn get(timeout: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.example\r\nX-Request-Timeout: {timeout}\r\n\r\n")
}

#[track_caller]
fn answer(client: &mut Client) -> crate::support::Answer {
    match client.read("GET").unwrap() {
        Read1::Answer(answer) => answer,
        other => panic!("no answer but {other:?}"),
    }
}

/// 504 with its reason in the log, over both protocols.
#[track_caller]
fn check_timed_out(route: &str, timeout: &str) {
    let silent = Silent::new();
    let rig = before(&silent.origin.address.to_string(), "");
    let address = silent.origin.address;
    rig.reloaded(&format!(
        "[process]\nworkers = 1\n[log]\naccess = \"json\"\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n\
         [[listener.route]]\nservice = \"{address}\"\n{route}\n"
    ));
    let mut client = rig.connect("web");
    client.send(get(timeout)).unwrap();
    assert_eq!(answer(&mut client).status, 504);
    let web = rig.address("web");
    let second = http2::run(async {
        let mut request = http2::request("GET", "/");
        request.headers_mut().insert("x-request-timeout", timeout.parse().unwrap());
        Http2::plain(web).await.ask(request).await.unwrap()
    });
    assert_eq!(second.status, 504);
    for number in [1, 2] {
        assert_eq!(record(&rig, number)["refusal"], "route_timeout");
    }
    silent.has_lost(2);
}

#[test]
fn a_client_may_shorten_the_routes_timeout() {
    check_timed_out("timeout = \"1h\"", "100ms");
    check_timed_out("timeout = \"1h\"", "0.1");
}

#[test]
fn a_client_cannot_lengthen_the_routes_timeout() {
    check_timed_out("timeout = \"100ms\"", "1h");
    check_timed_out("timeout = \"100ms\"", "nonsense");
}

#[test]
fn a_client_gives_a_timeout_where_the_route_has_none() {
    check_timed_out("", "100ms");
}

#[test]
fn what_a_client_says_of_time_goes_on_as_it_came() {
    let origin = Origin::ok("hello");
    let rig = before(&origin.address.to_string(), "");
    for timeout in ["30s", "30.50", "0", "0s", "soon", "366d", "1 s", "-1", ""] {
        let mut client = rig.connect("web");
        client.send(get(timeout)).unwrap();
        assert_eq!(answer(&mut client).text(), "hello", "{timeout:?}");
        let seen = origin.seen().pop().unwrap();
        assert!(seen.head.contains(&format!("X-Request-Timeout: {timeout}\r\n")), "{timeout:?}: {}", seen.head);
    }
}

fn request() -> &'static str {
    "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
}

/// How a client may end its connection.
#[derive(Clone, Copy, Debug)]
enum Leave {
    /// As a program that ends.
    Close,
    /// What is seen of that at first.
    HalfClose,
    Reset,
}

#[track_caller]
fn check_taken_back(rig: &Rig, silent: &Silent, number: usize, mut client: Client, leave: Leave) {
    client.send(request()).unwrap();
    silent.has_asked(number);
    match leave {
        Leave::Close => drop(client),
        Leave::HalfClose => {
            client.finish_sending();
            silent.has_lost(number);
            assert!(client.is_closed(), "an answer that will not come is not waited for");
        }
        Leave::Reset => {
            socket2::SockRef::from(client.socket()).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
        }
    }
    silent.has_lost(number);
    let record = record(rig, number);
    assert_eq!((&record["outcome"], &record["status"]), (&"client_gone".into(), &0.into()), "{leave:?}");
}

#[test]
fn an_endpoint_that_never_answers_is_let_go_of_when_its_client_has_left() {
    for (silent, scheme) in [(Silent::new(), ""), (Silent::h2(), "h2c://")] {
        let rig = before(&format!("{scheme}{}", silent.origin.address), "");
        let mut number = 0;
        for leave in [Leave::Close, Leave::HalfClose, Leave::Reset] {
            number += 1;
            check_taken_back(&rig, &silent, number, rig.connect("web"), leave);
            number += 1;
            // Without TLS's own good-bye.
            check_taken_back(&rig, &silent, number, Client::tls(rig.address("tls"), "a.example").unwrap(), leave);
        }
        let page = rig.admin("GET", "/metrics").text();
        let count: f64 = page
            .lines()
            .filter(|line| line.starts_with("attache_upstream_requests_total{") && line.contains("client_gone"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        assert_eq!(count, 6.0, "{page}");
    }
}

#[test]
fn a_client_of_http2_that_resets_or_leaves_takes_its_request_back() {
    for (silent, scheme) in [(Silent::new(), ""), (Silent::h2(), "h2c://")] {
        let rig = before(&format!("{scheme}{}", silent.origin.address), "");
        let web = rig.address("web");
        let ask = async |connection: &Http2| {
            let mut send = connection.send.clone().ready().await.unwrap();
            send.send_request(http2::request("GET", "/"), true).unwrap()
        };
        let asked = async |number: usize| {
            while silent.asked.load(SeqCst) < number {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        http2::run(async {
            let connection = Http2::plain(web).await;
            let (_answer, mut stream) = ask(&connection).await;
            asked(1).await;
            stream.send_reset(h2::Reason::CANCEL);
            while silent.left.load(SeqCst) < 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let leaving = Http2::plain(web).await;
            let _asked = ask(&leaving).await;
            asked(2).await;
            leaving.connection.abort();
        });
        silent.has_lost(2);
        for number in [1, 2] {
            assert_eq!(record(&rig, number)["outcome"], "client_gone");
        }
    }
}

#[test]
fn a_half_closed_client_of_a_quick_endpoint_gets_its_answers() {
    let origin = Origin::ok("hello");
    let rig = before(&origin.address.to_string(), "");
    let mut client = rig.connect("web");
    client.send(request().repeat(3)).unwrap();
    client.finish_sending();
    for _ in 0..3 {
        assert_eq!(answer(&mut client).text(), "hello");
    }
    assert!(client.is_closed());
    let mut uploading = rig.connect("web");
    uploading.send("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").unwrap();
    uploading.finish_sending();
    assert_eq!(answer(&mut uploading).text(), "hello");
}

/// The client that is given up meanwhile shows that the time is over.
fn give_up(rig: &Rig, address: SocketAddr) {
    let mut client = Client::tcp(address).unwrap();
    client.send("GET /hang HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    client.finish_sending();
    assert!(client.is_closed());
    eventually("it is given up", || rig.out().contains("client_gone"));
}

#[test]
fn once_its_answer_has_begun_a_half_closed_client_gets_all_of_it() {
    let may_end = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&may_end);
    let origin = Origin::raw(move |mut stream, _| {
        let Some(head) = read_head(&mut stream, &mut Vec::new()) else { return };
        if head.starts_with("GET /hang") {
            let _ = stream.read_to_end(&mut Vec::new());
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
        eventually("it may end", || flag.load(SeqCst));
        let _ = stream.write_all(b"llo");
    });
    let rig = before(&origin.address.to_string(), "");
    let web = rig.address("web");
    let mut client = Client::tcp(web).unwrap();
    client.send(request()).unwrap();
    client.finish_sending();
    give_up(&rig, web);
    may_end.store(true, SeqCst);
    assert_eq!(answer(&mut client).text(), "hello");
}

/// Whoever still sends its request has not left.
#[test]
fn a_request_that_never_ends_is_no_client_that_left() {
    let silent = Silent::new();
    let rig = before(&silent.origin.address.to_string(), "");
    let mut client = rig.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhell").unwrap();
    client.finish_sending();
    assert_eq!(answer(&mut client).status, 400);
    assert_eq!(record(&rig, 1)["refusal"], "incomplete");
}
