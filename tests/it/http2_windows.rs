//! Bodies over HTTP/2: whole, at the pace of the slower side, and never held in memory.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Request;

use crate::support::http2::{Http2, read_answer, request, room, run, run_for};
use crate::support::{Origin, Rig, eventually};

/// A listener before one endpoint, with further settings of the listener.
fn before(address: SocketAddr, settings: &str) -> Rig {
    Rig::start(&format!(
        "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{address}\"\n{settings}\n"
    ))
}

#[test]
fn large_bodies_pass_whole_both_ways() {
    const SIZE: usize = 100 << 20;
    let origin = Origin::raw(|mut stream, _| {
        let mut buffer = Vec::new();
        let head = crate::support::read_head(&mut stream, &mut buffer).unwrap();
        if head.starts_with("POST") {
            let (mut read, mut piece) = (buffer.len(), vec![0; 256 << 10]);
            while read < SIZE {
                read += stream.read(&mut piece).unwrap();
            }
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{read}", read.to_string().len());
            return;
        }
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        let piece: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
        for _ in 0..SIZE >> 20 {
            let _ = stream.write_all(&piece);
        }
        let _ = stream.read(&mut [0]);
    });
    let rig = before(origin.address, "");
    let resident = rig.resident();
    run_for(Duration::from_secs(120), async {
        let mut client = Http2::plain(rig.address("web")).await;
        let post = Request::post("http://a.example/").header("content-length", SIZE).body(()).unwrap();
        let piece = vec![7; 1 << 20];
        let answer = client.ask_with(post, &vec![&piece[..]; SIZE >> 20], None).await.unwrap();
        assert_eq!(answer.text(), SIZE.to_string());
        let answer = client.get("/").await.unwrap();
        assert_eq!(answer.body.len(), SIZE);
        assert!(answer.body.chunks(1 << 20).all(|piece| piece.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8)));
    });
    let grown = rig.resident().saturating_sub(resident);
    assert!(grown < 16 << 20, "{grown} bytes more");
}

/// How much an endpoint can send, or a client, while the other side takes nothing.
fn until_blocked(mut write: impl FnMut() -> bool, sent: &AtomicUsize) {
    while write() {
        sent.fetch_add(64 << 10, SeqCst);
    }
}

fn settles(what: &str, sent: &AtomicUsize) -> usize {
    let mut before = 0;
    let mut same = 0;
    eventually(what, || {
        let now = sent.load(SeqCst);
        same = if now == before { same + 1 } else { 0 };
        before = now;
        std::thread::sleep(Duration::from_millis(20));
        same > 25
    });
    before
}

/// What kernels hold between two sockets on one machine, generously.
const KERNEL: usize = 16 << 20;

#[test]
fn a_slow_client_slows_its_endpoint_and_no_memory_fills() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let origin = Origin::raw(move |mut stream, _| {
        crate::support::read_head(&mut stream, &mut Vec::new()).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [&b"10000\r\n"[..], &[b'x'; 64 << 10], b"\r\n"].concat();
        until_blocked(|| stream.write_all(&chunk).is_ok(), &counted);
    });
    let rig = before(origin.address, "");
    let resident = rig.resident();
    run_for(Duration::from_secs(60), async {
        // The connection's window has room for more than one stream's.
        let mut builder = h2::client::Builder::new();
        let mut client = Http2::plain_with(rig.address("web"), builder.initial_connection_window_size(1 << 20)).await;
        let (answer, _stream) = client.send.clone().ready().await.unwrap().send_request(request("GET", "/endless"), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let held = tokio::task::spawn_blocking({
            let sent = Arc::clone(&sent);
            move || settles("the endpoint is slowed", &sent)
        });
        let held = held.await.unwrap();
        assert!(held < KERNEL, "{held} bytes are somewhere");
        // Another stream of the same connection is not held up by it.
        assert_eq!(client.get("/..").await.unwrap().status, 400);
        // And it goes on when the client does.
        let mut read = 0;
        while read < 2 * KERNEL {
            let chunk = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(chunk.len()).unwrap();
            read += chunk.len();
        }
    });
    let grown = rig.resident().saturating_sub(resident);
    assert!(grown < 8 << 20, "{grown} bytes more");
}

#[test]
fn a_slow_endpoint_slows_its_client() {
    let may_read = Arc::new(AtomicBool::new(false));
    let reads = Arc::clone(&may_read);
    let origin = Origin::raw(move |mut stream, _| {
        crate::support::read_head(&mut stream, &mut Vec::new()).unwrap();
        while !reads.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut piece = vec![0; 256 << 10];
        while !piece.starts_with(b"0\r\n\r\n") && !piece.windows(7).any(|window| window == b"\r\n0\r\n\r\n") {
            piece.fill(1);
            if stream.read(&mut piece).unwrap() == 0 {
                return;
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    });
    let rig = before(origin.address, "");
    let sent = Arc::new(AtomicUsize::new(0));
    run_for(Duration::from_secs(60), async {
        let client = Http2::plain(rig.address("web")).await;
        let (answer, mut stream) = client.send.clone().ready().await.unwrap().send_request(request("POST", "/"), false).unwrap();
        let counted = Arc::clone(&sent);
        let sending = tokio::task::spawn_local(async move {
            let piece = Bytes::from(vec![1; 16 << 10]);
            for _ in 0..2 * KERNEL / piece.len() {
                let mut left = piece.clone();
                while !left.is_empty() {
                    let room = room(&mut stream, left.len()).await.unwrap();
                    stream.send_data(left.split_to(room.min(left.len())), false).unwrap();
                }
                counted.fetch_add(piece.len(), SeqCst);
            }
            stream.send_data(Bytes::new(), true).unwrap();
        });
        let held = tokio::task::spawn_blocking({
            let sent = Arc::clone(&sent);
            move || settles("the client is slowed", &sent)
        });
        let held = held.await.unwrap();
        assert!(held < KERNEL, "{held} bytes are somewhere");
        may_read.store(true, SeqCst);
        assert_eq!(read_answer(answer).await.unwrap().status, 200);
        sending.await.unwrap();
    });
}

#[test]
fn slow_bodies_are_refused_and_slow_readers_reset() {
    let origin = Origin::ok("hello");
    let rig = before(
        origin.address,
        "[listener.timeouts]\nbody = \"200ms\"\nwrite = \"200ms\"\n[[listener.route]]\npath = \"/long\"\nrespond = { body = \"hello\" }",
    );
    run(async {
        let client = Http2::plain(rig.address("web")).await;
        let (answer, mut stream) = client.send.clone().ready().await.unwrap().send_request(request("POST", "/"), false).unwrap();
        stream.send_data(Bytes::from_static(b"he"), false).unwrap();
        assert_eq!(read_answer(answer).await.unwrap().status, 408);
        // Without a window, no byte of a body.
        let mut builder = h2::client::Builder::new();
        let client = Http2::plain_with(rig.address("web"), builder.initial_window_size(0)).await;
        let (answer, _stream) = client.send.clone().ready().await.unwrap().send_request(request("GET", "/long"), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
    });
}
