//! Attacks by HTTP/2: the offender is cut off, little memory goes to it, and others are served meanwhile.
//!
//! All on loopback, against a rig of this test's own.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use h2::Reason;

use crate::support::http2::{
    self as http2, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE,
    frame, head, literals,
};
use crate::support::{Client, Next, Origin, Rig, eventually};

const CALM: u32 = 11;
/// How much an attack may cost while it lasts.
const GROWTH_MAX: u64 = 8 << 20;

fn before(address: SocketAddr, settings: &str) -> Rig {
    Rig::start(&format!(
        "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{address}\"\n{settings}\n\
         [[listener.route]]\npath = \"/local\"\nrespond = {{ body = \"ok\" }}\n"
    ))
}

/// Clients as everybody has them, over both versions, that must be served all the while.
struct Others {
    is_over: Arc<AtomicBool>,
    asking: JoinHandle<usize>,
}

impl Others {
    fn start(rig: &Rig) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (until, address) = (Arc::clone(&is_over), rig.address("web"));
        let asking = std::thread::spawn(move || {
            let mut served = 0;
            let mut client = Client::tcp(address).unwrap();
            while !until.load(SeqCst) {
                assert_eq!(client.request("GET", "/local").unwrap().status, 200);
                served += 1;
                http2::run(async {
                    let mut client = http2::Http2::plain(address).await;
                    assert_eq!(client.get("/local").await.unwrap().status, 200);
                });
            }
            served
        });
        Self { is_over, asking }
    }

    fn end(self) {
        self.is_over.store(true, SeqCst);
        assert!(self.asking.join().unwrap() > 0);
    }
}

/// Has an offender its way until it is cut off. What it was told, if it was.
#[track_caller]
fn cut_off(rig: &Rig, attack: impl FnOnce(&mut Raw)) -> Option<u32> {
    let others = Others::start(rig);
    eventually("others are served", || rig.metric("attache_connections_total{listener=\"web\"}") >= 3.0);
    let held = rig.held();
    let mut raw = Raw::connect(rig.address("web"));
    attack(&mut raw);
    let told = raw.until(|frame| frame.kind == GOAWAY).and_then(|goaway| goaway.code());
    while raw.until(|_| false).is_some() {}
    let grown = rig.held().saturating_sub(held);
    others.end();
    assert!(grown <= GROWTH_MAX, "{grown} bytes more");
    eventually("nothing of it is left", || rig.metric("attache_connections{listener=\"web\"}") == 0.0);
    told
}

fn floods(rig: &Rig) -> f64 {
    rig.metric("attache_refusals_total{listener=\"web\",reason=\"flood\"}")
}

/// Sends as much as is taken.
fn pour(raw: &mut Raw, pieces: impl Iterator<Item = Vec<u8>>) {
    for piece in pieces {
        if raw.send(&piece).is_err() {
            return;
        }
    }
}

#[track_caller]
fn check_flood(what: &str, pieces: impl Iterator<Item = Vec<u8>>) {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "");
    let told = cut_off(&rig, |raw| pour(raw, pieces));
    assert!(told.is_none_or(|code| code == CALM), "{what}: {told:?}");
    assert_eq!(floods(&rig), 1.0, "{what}");
}

/// Odd numbers, as clients count streams.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

#[test]
fn requests_taken_back_by_the_thousand_are_a_flood() {
    let one = |stream| {
        let reset = frame(RST_STREAM, 0, stream, &u32::from(Reason::CANCEL).to_be_bytes());
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("/")), reset].concat()
    };
    check_flood("rapid reset", streams(5000).map(one));
}

#[test]
fn resets_that_we_are_made_to_send_are_a_flood() {
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &head("/"));
    let overflow = |stream| frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes());
    check_flood("windows that overflow", streams(5000).map(|stream| [open(stream), overflow(stream)].concat()));
    let sized = literals(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.example"), ("content-length", "1")]);
    let short = |stream| [frame(HEADERS, END_HEADERS, stream, &sized), frame(DATA, END_STREAM, stream, b"")].concat();
    check_flood("bodies that are too short", streams(5000).map(short));
    let malformed = [head("/"), literals(&[("te", "gzip")])].concat();
    check_flood("malformed requests", streams(5000).map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &malformed)));
    // These the crate takes for reasons to end the connection at the first of them.
    let empty_window = |stream| frame(WINDOW_UPDATE, 0, stream, &0u32.to_be_bytes());
    for wrong in [empty_window(1), frame(DATA, END_STREAM, 3, b""), frame(RST_STREAM, 0, 3, &[0; 4])] {
        let origin = Origin::ok("hello");
        let rig = before(origin.address, "");
        assert!(cut_off(&rig, |raw| pour(raw, [open(1), wrong].into_iter())).is_some_and(|code| code != 0));
    }
}

#[test]
fn work_is_counted_and_not_streams() {
    // Nobody gets through to this endpoint: its queue is full.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&full).listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let fill = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
    let _queued: Vec<_> = std::iter::from_fn(fill).collect();
    let rig = before(address, "limits = { streams = 20 }");
    let mut raw = Raw::connect(rig.address("web"));
    for stream in streams(20) {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("/"))).unwrap();
    }
    // Who is told that this has arrived has had its requests taken up: a reset finds them at the door.
    raw.send(&frame(PING, 0, 0, &[7; 8])).unwrap();
    raw.until(|frame| frame.kind == PING && frame.flags == http2::ACK).unwrap();
    for stream in streams(20) {
        raw.send(&frame(RST_STREAM, 0, stream, &u32::from(Reason::CANCEL).to_be_bytes())).unwrap();
    }
    // To the protocol no stream is open now, and twenty tasks still knock at the door.
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 101, &head("/"))).unwrap();
    let answer = raw.answer(101).unwrap();
    assert_eq!((answer.kind, answer.code()), (RST_STREAM, Some(Reason::REFUSED_STREAM.into())));
    assert_eq!(rig.connect("web").ask("GET", "/local").unwrap().status, 200);
}

#[test]
fn frames_of_no_use_are_a_flood() {
    const COUNT: usize = 50_000;
    const PADDED: u8 = 8;
    let repeated = |what: &str, one: Vec<u8>| check_flood(what, std::iter::repeat_n(one.repeat(100), COUNT / 100));
    repeated("SETTINGS", frame(SETTINGS, 0, 0, &[]));
    repeated("changes of SETTINGS", [frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])].concat());
    repeated("PING", frame(PING, 0, 0, &[7; 8]));
    repeated("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]));
    repeated("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()));
    repeated("unknown frames", frame(0xfa, 0, 0, &[]));
    let post = literals(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")]);
    let open = frame(HEADERS, END_HEADERS, 1, &post);
    check_flood("empty DATA", std::iter::once(open.clone()).chain(std::iter::repeat_n(frame(DATA, 0, 1, &[]).repeat(100), COUNT / 100)));
    let padding = frame(DATA, PADDED, 1, &[3, 0, 0, 0]);
    check_flood("padding", std::iter::once(open).chain(std::iter::repeat_n(padding.repeat(100), COUNT / 100)));
}

#[test]
fn a_head_without_an_end_is_a_flood() {
    let begin = frame(HEADERS, END_STREAM, 1, &head("/"));
    let fields = frame(CONTINUATION, 0, 1, &literals(&[("x-a", &"b".repeat(1000))]));
    check_flood("CONTINUATION", std::iter::once(begin.clone()).chain(std::iter::repeat_n(fields, 20_000)));
    check_flood("empty CONTINUATION", std::iter::once(begin).chain(std::iter::repeat_n(frame(CONTINUATION, 0, 1, &[]).repeat(100), 500)));
}

/// A field that the table remembers (RFC 7541 §6.2.1), then `count` times its index.
fn bomb(name: &str, value: &str, count: usize) -> Vec<u8> {
    const NEWEST: u8 = 0x80 | 0x3e;
    let mut remembered = literals(&[(name, value)]);
    remembered[0] = 0x40;
    [head("/local"), remembered, vec![NEWEST; count]].concat()
}

#[test]
fn bombs_of_small_heads_that_become_large_do_not_go_off() {
    for (name, value, count) in [("x-a", "b".repeat(3900), 16_000), ("cookie", "a".to_owned(), 15_000), ("x-a", String::new(), 15_000)] {
        let origin = Origin::ok("hello");
        let rig = before(origin.address, "");
        let told = cut_off(&rig, |raw| pour(raw, std::iter::once(frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb(name, &value, count)))));
        assert!(told.is_some_and(|code| code != 0), "{name} {count}: {told:?}");
    }
}

/// As large as they may be without being cut off, and as many as there may be.
#[test]
fn heads_at_the_limit_are_refused_and_cost_little() {
    let origin = Origin::ok("hello");
    let rig = before(origin.address, "");
    let held = rig.held();
    let mut raw = Raw::connect(rig.address("web"));
    for stream in streams(500) {
        // 39 bytes each, as the protocol counts: 58 KiB in all.
        raw.send(&frame(HEADERS, END_HEADERS, stream, &bomb("cookie", "a", 1500))).unwrap();
        let answer = raw.answer(stream).unwrap();
        assert_eq!(answer.kind, HEADERS, "{answer:?}");
    }
    let grown = rig.held().saturating_sub(held);
    assert!(grown <= GROWTH_MAX, "{grown} bytes more");
    assert_eq!(rig.metric("attache_refusals_total{listener=\"web\",reason=\"head_too_large\"}"), 500.0);
}

/// Sends without an end.
fn endless() -> Origin {
    Origin::run(|stream, _, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [&b"10000\r\n"[..], &[b'x'; 64 << 10], b"\r\n"].concat();
        while stream.write_all(&chunk).is_ok() {}
        Next::Close
    })
}

#[test]
fn clients_without_a_window_are_reset_and_hold_little() {
    const STREAMS: u32 = 100;
    let origin = endless();
    let rig = before(origin.address, "[listener.timeouts]\nwrite = \"1s\"\nidle = \"2s\"");
    let others = Others::start(&rig);
    eventually("others are served", || rig.metric("attache_connections_total{listener=\"web\"}") >= 3.0);
    let held = rig.held();
    let mut raw = Raw::connect(rig.address("web"));
    raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).unwrap();
    for stream in streams(STREAMS) {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("/"))).unwrap();
    }
    let (mut begun, mut reset, mut grown) = (0, 0, 0);
    while reset < STREAMS {
        let frame = raw.until(|frame| matches!(frame.kind, HEADERS | RST_STREAM | DATA)).expect("each is told");
        assert_ne!(frame.kind, DATA);
        begun += u32::from(frame.kind == HEADERS);
        reset += u32::from(frame.kind == RST_STREAM);
        if begun == STREAMS {
            grown = grown.max(rig.held().saturating_sub(held));
        }
    }
    others.end();
    assert_eq!(begun, STREAMS);
    assert!(grown <= GROWTH_MAX, "{grown} bytes more");
    assert_eq!(raw.until(|frame| frame.kind == GOAWAY).unwrap().code(), Some(0), "nothing is left to do");
}

#[test]
fn clients_that_read_nothing_are_cut_off_and_hold_little() {
    const STREAMS: u32 = 100;
    let origin = endless();
    let rig = before(origin.address, "[listener.timeouts]\nwrite = \"1s\"");
    let mut other = rig.connect("web");
    let mut is_served = || other.request("GET", "/local").unwrap().status == 200;
    assert!(is_served());
    let held = rig.held();
    let mut raw = Raw::connect(rig.address("web"));
    // All the window there is, and not a byte read.
    raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])).unwrap();
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &0x7f00_0000u32.to_be_bytes())).unwrap();
    for stream in streams(STREAMS) {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("/"))).unwrap();
    }
    eventually("every request is at the endpoint", || is_served() && origin.seen().len() == STREAMS as usize);
    let mut grown = 0;
    eventually("it is cut off", || {
        grown = grown.max(rig.held().saturating_sub(held));
        assert!(is_served());
        rig.metric("attache_connections{listener=\"web\"}") == 1.0
    });
    assert!(grown <= GROWTH_MAX, "{grown} bytes more");
}
