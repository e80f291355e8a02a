//! How HTTP/2 connections end: with the process, with their listener, when nobody asks any more. And what a
//! reload is to those that stay.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::http2::{
    self as http2, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, Raw, SETTINGS, frame, read_answer, request, run, run_for,
};
use crate::support::{Next, Origin, Rig, eventually};

/// A listener before one endpoint, with further settings of the listener.
fn before(address: SocketAddr, settings: &str) -> Rig {
    Rig::start(&format!(
        "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{address}\"\n{settings}\n"
    ))
}

#[test]
fn a_process_that_ends_says_so_and_loses_no_request() {
    let (begun, may_end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (tell, wait) = (Arc::clone(&begun), Arc::clone(&may_end));
    let origin = Origin::run(move |stream, _, _| {
        tell.store(true, SeqCst);
        while !wait.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        Next::Keep
    });
    let mut rig = before(origin.address, "");
    let mut raw = Raw::connect(rig.address("web"));
    let mut idle = Raw::connect(rig.address("web"));
    assert_eq!(idle.next().unwrap().unwrap().kind, SETTINGS);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &http2::head("/"))).unwrap();
    eventually("the endpoint has the request", || begun.load(SeqCst));
    rig.signal("TERM");
    let goaway = raw.until(|frame| frame.kind == GOAWAY).unwrap();
    assert_eq!((goaway.code(), &goaway.payload[..4]), (Some(0), &[0x7f, 0xff, 0xff, 0xff][..]));
    // What was on its way before the client knew is served too.
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &http2::head("/2"))).unwrap();
    let ping = raw.until(|frame| frame.kind == http2::PING && frame.flags == 0).unwrap();
    raw.send(&frame(http2::PING, http2::ACK, 0, &ping.payload)).unwrap();
    let last = raw.until(|frame| frame.kind == GOAWAY).unwrap();
    assert_eq!(last.payload[..4], [0, 0, 0, 3]);
    assert!(rig.is_running());
    may_end.store(true, SeqCst);
    let mut whole = 0;
    while raw.until(|frame| frame.kind == http2::DATA && frame.flags == END_STREAM).is_some() {
        whole += 1;
    }
    assert_eq!(whole, 2);
    assert_eq!(idle.until(|frame| frame.kind == GOAWAY).unwrap().code(), Some(0));
    assert_eq!(idle.until(|_| false), None);
    assert_eq!(rig.ended().code, Some(0));
}

#[test]
fn a_listener_that_goes_away_tells_its_clients() {
    let config = |rest: &str| {
        format!("[[listener]]\nname = \"one\"\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\nrespond = {{ body = \"ok\" }}\n{rest}")
    };
    let other = "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.2:0\"\n[[listener.route]]\nrespond = { body = \"ok\" }\n";
    let rig = Rig::start(&config(other));
    let mut raw = Raw::connect(rig.address("web"));
    assert_eq!(raw.next().unwrap().unwrap().kind, SETTINGS);
    rig.reloaded(&config(""));
    assert_eq!(raw.until(|frame| frame.kind == GOAWAY).unwrap().code(), Some(0));
    assert_eq!(raw.until(|_| false), None, "closed, though the client confirms nothing");
}

#[test]
fn the_newest_generation_decides_on_old_connections() {
    let saying = |body: &str| {
        format!("[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"a\"\n[service.a.respond]\nbody = \"{body}\"\n")
    };
    let rig = Rig::start(&saying("one"));
    run(async {
        let mut client = Http2::plain(rig.address("web")).await;
        assert_eq!(client.get("/").await.unwrap().text(), "one");
        rig.reloaded(&saying("two"));
        assert_eq!(client.get("/").await.unwrap().text(), "two");
    });
}

#[test]
fn reloads_under_load_fail_no_request() {
    let origin = Origin::ok("hello");
    let config = |turn: usize| {
        format!(
            "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{}\"\n\
             [[listener.route]]\npath = \"/turn\"\nrespond = {{ body = \"{turn}\" }}\n",
            origin.address
        )
    };
    let rig = Rig::start(&config(0));
    let address = rig.address("web");
    let is_over = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&is_over);
    let load = std::thread::spawn(move || {
        run_for(Duration::from_secs(60), async move {
            let mut asking = Vec::new();
            for number in 0..4 {
                let client = Http2::plain(address).await;
                for _ in 0..10 {
                    let (until, send) = (Arc::clone(&until), client.send.clone());
                    asking.push(tokio::task::spawn_local(async move {
                        let mut served = 0;
                        while !until.load(SeqCst) {
                            let path = if served % 2 == 0 { "/turn" } else { "/echo" };
                            let (answer, _) = send.clone().ready().await.unwrap().send_request(request("GET", path), true).unwrap();
                            assert_eq!(read_answer(answer).await.unwrap().status, 200, "client {number}");
                            served += 1;
                        }
                        served
                    }));
                }
                std::mem::forget(client.connection);
            }
            let mut served = 0;
            for one in asking {
                served += one.await.unwrap();
            }
            served
        })
    });
    for turn in 1..20 {
        rig.reloaded(&config(turn));
    }
    is_over.store(true, SeqCst);
    assert!(load.join().unwrap() > 40);
}

#[test]
fn idle_connections_are_ended_politely() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "[listener.timeouts]\nidle = \"200ms\"");
    let mut raw = Raw::connect(rig.address("web"));
    assert_eq!(raw.until(|frame| frame.kind == GOAWAY).unwrap().code(), Some(0));
    assert_eq!(raw.until(|_| false), None);
    // A request in flight is not idleness.
    let origin = Origin::run(|stream, _, _| {
        std::thread::sleep(Duration::from_millis(600));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        Next::Keep
    });
    let rig = before(origin.address, "[listener.timeouts]\nidle = \"200ms\"");
    run(async { assert_eq!(Http2::plain(rig.address("web")).await.get("/").await.unwrap().text(), "ok") });
}

/// What goes wrong for clients that ask without a pause while the process ends: nothing. A request that GOAWAY
/// says was not seen is asked elsewhere; every other one is answered whole.
#[test]
fn the_end_under_load_loses_no_request() {
    let origin = Origin::ok("hello");
    let mut rig = before(origin.address, "");
    let address = rig.address("web");
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let load = std::thread::spawn(move || {
        run_for(Duration::from_secs(60), async move {
            let mut asking = Vec::new();
            for _ in 0..4 {
                let client = Http2::plain(address).await;
                for _ in 0..10 {
                    let (counted, send) = (Arc::clone(&counted), client.send.clone());
                    asking.push(tokio::task::spawn_local(async move {
                        loop {
                            let Ok(mut ready) = send.clone().ready().await else { return };
                            let Ok((answer, _)) = ready.send_request(request("GET", "/"), true) else { return };
                            match read_answer(answer).await {
                                Ok(answer) => assert_eq!(answer.text(), "hello"),
                                // Not processed, by the peer's word.
                                Err(error) => {
                                    assert!(
                                        error.is_remote() && error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR),
                                        "{error:?}"
                                    );
                                    return;
                                }
                            }
                            counted.fetch_add(1, SeqCst);
                        }
                    }));
                }
            }
            for one in asking {
                one.await.unwrap();
            }
        });
    });
    eventually("the load is on", || served.load(SeqCst) > 500);
    rig.signal("TERM");
    assert_eq!(rig.ended().code, Some(0));
    load.join().unwrap();
}

#[test]
fn a_process_that_ends_waits_until_answers_are_taken() {
    const COUNT: usize = 100;
    let body = "x".repeat(30_000);
    let origin = Origin::run(move |stream, _, _| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        Next::Keep
    });
    let mut rig = before(origin.address, "");
    let mut raw = Raw::narrow(rig.address("web"));
    raw.send(&frame(http2::WINDOW_UPDATE, 0, 0, &(16u32 << 20).to_be_bytes())).unwrap();
    for number in 0..COUNT as u32 {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * number, &http2::head("/"))).unwrap();
    }
    eventually("every request was answered by the endpoint", || origin.seen().len() == COUNT);
    rig.signal("TERM");
    // Longer than a connection without anything to say would stay.
    std::thread::sleep(Duration::from_secs(3));
    let mut whole = 0;
    while let Some(last) = raw.until(|frame| frame.kind == http2::DATA && frame.flags & END_STREAM != 0) {
        assert_eq!(last.kind, http2::DATA);
        whole += 1;
    }
    assert_eq!((whole, rig.ended().code), (COUNT, Some(0)));
}
