//! Slow clients and scarce resources: who takes too long is gone in time, and nobody else notices.
//!
//! Claims about time allow for what the machine itself is late.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Client, Lateness, Next, Origin, Read1, Rig, alone, eventually, raise_open_files};

const SLOW: usize = 500;
/// The deadline that the slow clients run into.
const DEADLINE: Duration = Duration::from_secs(2);
/// How much earlier or later they may be gone.
const MARGIN: Duration = Duration::from_secs(1);

/// A client as everybody has it, and how long it waits for its answers.
struct Normal {
    is_over: Arc<AtomicBool>,
    asking: JoinHandle<Vec<Duration>>,
    lateness: Lateness,
}

impl Normal {
    fn start(address: SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let asking = std::thread::spawn(move || {
            let mut client = Client::tcp(address).unwrap();
            let mut took = Vec::new();
            while !until.load(SeqCst) {
                let asked = Instant::now();
                assert_eq!(client.request("GET", "/normal").unwrap().status, 200);
                took.push(asked.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            took
        });
        Self { is_over, asking, lateness: Lateness::watch() }
    }

    fn check(self) {
        self.is_over.store(true, SeqCst);
        let mut took = self.asking.join().unwrap();
        let late = self.lateness.end();
        took.sort();
        let p99 = took[took.len() * 99 / 100];
        println!("a normal client's {} requests: p50 {:?}, p99 {p99:?}, on a machine {late:?} late", took.len(), took[took.len() / 2]);
        assert!(p99 < Duration::from_millis(50) + late, "p99 {p99:?}");
    }
}

/// Connections that cost the test no thread.
struct Crowd {
    streams: Vec<(TcpStream, Option<Duration>)>,
    since: Instant,
}

impl Crowd {
    fn connect(address: SocketAddr, first: &[u8]) -> Self {
        assert!(raise_open_files(4096));
        let since = Instant::now();
        let streams = (0..SLOW).map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(first).unwrap();
            stream.set_nonblocking(true).unwrap();
            (stream, None)
        });
        let crowd = Self { streams: streams.collect(), since };
        println!("{SLOW} clients have connected within {:?}", since.elapsed());
        crowd
    }

    /// Has each send a byte a second, and close nothing, until nothing of them is left in attache
    /// either. When they were told, when the last was forgotten, and what they were told.
    fn until_gone(mut self, byte: Option<u8>, rig: &Rig, others: f64) -> Gone {
        let mut seconds = 1;
        let mut told = Vec::new();
        let mut tell = |(stream, gone): &mut (TcpStream, Option<Duration>), now: Duration, byte: Option<u8>| {
            if let Some(byte) = byte {
                let _ = stream.write_all(&[byte]);
            }
            if gone.is_none() {
                let mut piece = [0; 1024];
                match stream.read(&mut piece) {
                    Ok(0) => *gone = Some(now),
                    Ok(count) if told.len() < 64 => told.extend_from_slice(&piece[..count]),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => *gone = Some(now),
                }
            }
        };
        loop {
            let now = self.since.elapsed();
            assert!(now < DEADLINE + Duration::from_secs(20), "some are still there");
            let is_time = now.as_secs() >= seconds;
            seconds += u64::from(is_time);
            self.streams.iter_mut().for_each(|one| tell(one, now, byte.filter(|_| is_time)));
            if self.streams.iter().all(|(_, gone)| gone.is_some()) && open_connections(rig) <= others {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let gone = || self.streams.iter().filter_map(|(_, gone)| *gone);
        Gone { first: gone().min().unwrap(), last: gone().max().unwrap(), forgotten: self.since.elapsed(), told }
    }
}

struct Gone {
    first: Duration,
    last: Duration,
    forgotten: Duration,
    told: Vec<u8>,
}

#[track_caller]
fn check_gone_in_time(gone: &Gone) {
    let Gone { first, last, forgotten, .. } = gone;
    println!("told between {first:?} and {last:?}, forgotten after {forgotten:?}");
    assert!(
        *first + MARGIN >= DEADLINE && *forgotten <= DEADLINE + MARGIN,
        "told between {first:?} and {last:?}, forgotten after {forgotten:?}"
    );
}

/// `{origin}` as service, an answer of our own for `/normal`.
fn config(timeouts: &str, rest: &str) -> String {
    format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n{rest}\n[listener.timeouts]\n{timeouts}\n\
         [[listener.route]]\npath = \"/normal\"\nrespond = {{ body = \"ok\" }}\n"
    )
}

fn open_connections(rig: &Rig) -> f64 {
    rig.metric("attache_connections{listener=\"web\"}")
}

#[test]
fn clients_that_send_a_header_byte_a_second_are_gone_at_the_deadline() {
    let _alone = alone();
    let rig = Rig::start(&config("header = \"2s\"", ""));
    let normal = Normal::start(rig.address("web"));
    let gone = Crowd::connect(rig.address("web"), b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ").until_gone(Some(b'x'), &rig, 1.0);
    normal.check();
    check_gone_in_time(&gone);
    assert!(gone.told.starts_with(b"HTTP/1.1 408 "));
    assert!(rig.metric("attache_refusals_total{listener=\"web\",reason=\"header_timeout\"}") >= SLOW as f64);
}

#[test]
fn clients_that_shake_hands_a_byte_a_second_are_gone_at_the_deadline() {
    let _alone = alone();
    let tls = "tls = { self_signed = [\"localhost\"] }\n[[listener]]\nname = \"plain\"\nlisten = \"127.0.0.2:0\"";
    let rig = Rig::start(&config("handshake = \"2s\"", "").replacen(
        "listen = \"127.0.0.1:0\"\n",
        &format!("listen = \"127.0.0.1:0\"\nservice = \"127.0.0.1:9\"\ntimeouts = {{ handshake = \"2s\" }}\n{tls}\n"),
        1,
    ));
    let normal = Normal::start(rig.address("plain"));
    // The start of a ClientHello of 512 bytes.
    let gone = Crowd::connect(rig.address("web"), &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).until_gone(Some(0), &rig, 0.0);
    normal.check();
    check_gone_in_time(&gone);
}

#[test]
fn clients_whose_body_stands_still_are_gone_at_the_deadline() {
    let _alone = alone();
    let origin = Origin::ok("never");
    let rig = Rig::start(&config("body = \"2s\"", &format!("service = \"{}\"", origin.address)));
    let normal = Normal::start(rig.address("web"));
    let gone =
        Crowd::connect(rig.address("web"), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf").until_gone(None, &rig, 1.0);
    normal.check();
    check_gone_in_time(&gone);
    assert!(gone.told.starts_with(b"HTTP/1.1 408 "));
    assert!(origin.seen().is_empty(), "no half request is taken for a whole one");
}

#[test]
fn a_body_that_moves_may_take_longer_than_the_deadline() {
    let origin = Origin::ok("taken");
    let rig = Rig::start(&config("body = \"2s\"", &format!("service = \"{}\"", origin.address)));
    let mut client = rig.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n").unwrap();
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(400));
        client.send("x").unwrap();
    }
    assert!(matches!(client.read("POST").unwrap(), Read1::Answer(answer) if answer.status == 200));
}

#[test]
fn clients_that_stop_reading_are_gone_at_the_deadline() {
    let _alone = alone();
    assert!(raise_open_files(4096));
    // Each client's deadline begins when all buffers on the way to it are full.
    let moved = Arc::new(Mutex::new(Instant::now()));
    let mark = Arc::clone(&moved);
    let origin = Origin::run(move |stream, _, _| {
        let piece = [b'x'; 64 << 10];
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while stream.write_all(&piece).is_ok() {
            *mark.lock().unwrap() = Instant::now();
        }
        Next::Close
    });
    let rig = Rig::start(&config("write = \"2s\"", &format!("service = \"{}\"", origin.address)));
    let address = rig.address("web");
    let normal = Normal::start(address);
    let since = Instant::now();
    let mut clients: Vec<TcpStream> = (0..SLOW)
        .map(|_| {
            // So little that the kernel does not read in the client's place.
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            socket.connect(&address.into()).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let connected = since.elapsed();
    eventually("all are served", || open_connections(&rig) >= SLOW as f64);
    eventually("all are gone", || open_connections(&rig) <= 1.0);
    let gone = since.elapsed();
    let full = moved.lock().unwrap().duration_since(since);
    println!(
        "{SLOW} clients connected within {connected:?}, full after {full:?}, gone after {gone:?}; {} KiB resident",
        rig.resident() >> 10
    );
    normal.check();
    assert!(gone + MARGIN >= DEADLINE && gone <= full + DEADLINE + MARGIN, "full after {full:?}, gone after {gone:?}");
    let mut rest = Vec::new();
    let ended = clients[0].read_to_end(&mut rest);
    assert_eq!(ended.err().map(|error| error.kind()), Some(io::ErrorKind::ConnectionReset), "the kernel keeps nothing for it either");
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 80; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_attache")]);
    let rig = Rig::start_with(command, TempDir::new().unwrap(), &config("", ""));
    let address = rig.address("web");
    let mut first = Client::tcp(address).unwrap();
    assert_eq!(first.request("GET", "/normal").unwrap().status, 200);
    let crowd: Vec<_> = (0..150).map(|_| TcpStream::connect(address).unwrap()).collect();
    eventually("the log says so", || rig.log().contains("cannot accept"));
    assert_eq!(first.request("GET", "/normal").unwrap().status, 200, "who is in is served");
    let mut waiting = Client::tcp(address).unwrap();
    waiting.send("GET /normal HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    drop(crowd);
    assert!(matches!(waiting.read("GET").unwrap(), Read1::Answer(answer) if answer.status == 200), "who waited is served");
    assert_eq!(Client::tcp(address).unwrap().ask("GET", "/normal").unwrap().status, 200);
    let counted = || rig.metric("attache_accept_errors_total{listener=\"web\",reason=\"files\"}");
    eventually("the errors are counted", || counted() >= 1.0);
    assert!(rig.log().matches("cannot accept").count() < 20, "the log is not flooded");
}

fn is_answered(client: &mut Client, within: Duration) -> bool {
    client.socket().set_read_timeout(Some(within)).unwrap();
    matches!(client.read("GET"), Ok(Read1::Answer(answer)) if answer.status == 200)
}

#[track_caller]
fn check_connection_limit(limit: usize, listen: &str) {
    let text = format!(
        "[[listener]]\nname = \"web\"\nlisten = {listen}\n[listener.limits]\nconnections = {limit}\n[[listener.route]]\npath = \"/*\"\nrespond = {{ body = \"ok\" }}\n"
    );
    let rig = Rig::start(&text);
    let listeners = rig.admin_json("/listeners");
    let addresses: Vec<SocketAddr> =
        listeners[0]["listen"].as_array().unwrap().iter().map(|address| address.as_str().unwrap().parse().unwrap()).collect();
    let connect = |index: usize| {
        let mut client = Client::tcp(addresses[index % addresses.len()]).unwrap();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        client
    };
    let mut inside: Vec<_> = (0..limit).map(connect).collect();
    for client in &mut inside {
        assert!(is_answered(client, Duration::from_secs(10)));
    }
    let mut outside: Vec<_> = (0..4).map(connect).collect();
    for client in &mut outside {
        assert!(!is_answered(client, Duration::from_millis(100)), "nobody is let in beyond the limit");
    }
    assert_eq!(open_connections(&rig).to_bits(), (limit as f64).to_bits());
    // One goes, one comes, whichever worker's door it stands at.
    for _ in 0..4 {
        drop(inside.pop());
        let mut is_in = None;
        eventually("one more is let in", || {
            is_in = outside.iter_mut().position(|client| is_answered(client, Duration::from_millis(20)));
            is_in.is_some()
        });
        inside.push(outside.remove(is_in.unwrap()));
        for client in &mut outside {
            assert!(!is_answered(client, Duration::from_millis(20)), "one at a time");
        }
    }
}

#[test]
fn a_listener_has_at_most_as_many_connections_as_its_limit() {
    for limit in [1, 2, 10] {
        check_connection_limit(limit, "\"127.0.0.1:0\"");
    }
}

#[test]
fn the_limit_is_one_for_all_addresses_of_a_listener() {
    check_connection_limit(2, "[\"127.0.0.1:0\", \"127.0.0.2:0\"]");
}
