//! Metrics that programs send: over real sockets, from the first datagram to reloads and floods.
//!
//! What lines become is tested beside the code.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::exporters::{check_readable, config, value};
use crate::support::{Origin, Rig, alone, binary, eventually, free_address, refused};

fn statsd(address: impl std::fmt::Display, more: &str) -> String {
    config(&format!("from = [{{ statsd = \"{address}\", name = \"s\"{more} }}]"))
}

fn send(address: SocketAddr, lines: &str) {
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(lines.as_bytes(), address).unwrap();
}

#[track_caller]
fn becomes(rig: &Rig, series: &str, expected: f64) {
    eventually(&format!("{series} is {expected}"), || value(rig, series) == Some(expected));
}

#[test]
fn datagrams_connections_and_local_sockets_are_heard() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("statsd.sock");
    let address = free_address();
    let from = format!("from = [{{ statsd = [\"{address}\", \"unix:{}\"], name = \"s\", labels = {{ app = \"a\" }} }}]", path.display());
    let rig = Rig::start(&config(&from));
    send(address, "hits:1|c|#k:v\nhits:2|c|#k:v\n");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"hits:3|c|#k").unwrap();
    UnixDatagram::unbound().unwrap().send_to(b"hits:4|c|#k:v", &path).unwrap();
    becomes(&rig, "hits{k=\"v\",app=\"a\"}", 7.0);
    // Half a line is none until its end comes, or that of the connection.
    stream.write_all(b":v\nhits:5|c|#k:v").unwrap();
    becomes(&rig, "hits{k=\"v\",app=\"a\"}", 10.0);
    drop(stream);
    becomes(&rig, "hits{k=\"v\",app=\"a\"}", 15.0);
    send(address, "t.x:120|ms|@0.5\nnonsense\nusers:a|s\nusers:b|s\nlevel:-3|g\n");
    becomes(&rig, "t_x_count{app=\"a\"}", 2.0);
    assert_eq!((value(&rig, "t_x_bucket{app=\"a\",le=\"0.25\"}"), value(&rig, "t_x_bucket{app=\"a\",le=\"0.1\"}")), (Some(2.0), Some(0.0)));
    assert_eq!((value(&rig, "users{app=\"a\"}"), value(&rig, "level{app=\"a\"}")), (Some(2.0), Some(-3.0)));
    assert_eq!(value(&rig, "attache_statsd_malformed_total{source=\"s\",reason=\"value\"}"), Some(1.0));
    assert_eq!(value(&rig, "attache_statsd_lines_total{source=\"s\"}"), Some(10.0));
    assert_eq!(value(&rig, "attache_statsd_connections_total{source=\"s\"}"), Some(1.0));
    check_readable(&rig);
}

#[test]
fn a_line_that_is_too_long_is_skipped_and_the_next_one_is_heard() {
    let address = free_address();
    let rig = Rig::start(&statsd(format!("tcp:{address}"), ""));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("a:1|c\nlong.{}:1|c\na:2|c\n", "x".repeat(100_000)).as_bytes()).unwrap();
    becomes(&rig, "a", 3.0);
    assert_eq!(value(&rig, "attache_statsd_malformed_total{source=\"s\",reason=\"long\"}"), Some(1.0));
    assert_eq!(value(&rig, "attache_statsd_lines_total{source=\"s\"}"), Some(3.0));
}

#[test]
fn a_reload_loses_neither_what_was_counted_nor_what_comes_meanwhile() {
    let address = free_address();
    let rig = Rig::start(&statsd(address, ""));
    let mut stream = TcpStream::connect(address).unwrap();
    let sender = std::thread::spawn(move || {
        for _ in 0..2000 {
            send(address, "udp:1|c");
            stream.write_all(b"tcp:1|c\n").unwrap();
            std::thread::sleep(Duration::from_micros(200));
        }
        stream
    });
    for level in ["debug", "info", "warn", "error"] {
        rig.reloaded(&format!("{}[log]\nlevel = \"{level}\"\n", statsd(address, "")));
    }
    let mut stream = sender.join().unwrap();
    becomes(&rig, "udp", 2000.0);
    becomes(&rig, "tcp", 2000.0);
    // That the page waits otherwise is no reason to forget what was heard.
    rig.reloaded(&format!("{}timeout = \"3s\"\n", statsd(address, "")));
    assert_eq!((value(&rig, "udp"), value(&rig, "tcp")), (Some(2000.0), Some(2000.0)));
    // Other rules begin anew, by the same sockets and connections.
    rig.reloaded(&statsd(address, ", ttl = \"1h\""));
    assert_eq!(value(&rig, "udp"), None);
    send(address, "udp:1|c");
    stream.write_all(b"tcp:1|c\n").unwrap();
    becomes(&rig, "udp", 1.0);
    becomes(&rig, "tcp", 1.0);
    assert_eq!(value(&rig, "attache_statsd_connections_total{source=\"s\"}"), Some(0.0));
    // Once a reload is done that removes it, anybody may have the address.
    rig.reloaded(&config("from = [{ exec = [\"/bin/true\"] }]"));
    let _ours = (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
}

#[test]
fn an_address_that_somebody_has_is_refused_and_changes_nothing() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.toml"), statsd(format!("udp:{address}"), "")).unwrap();
    let output = binary().current_dir(directory.path()).args(["run", "-c", "a.toml"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("a.toml:6:20: error: cannot listen on udp:{address}")), "{said}");
    assert!(said.contains("another program listens there") && output.status.code() == Some(1), "{said}");
    let free = free_address();
    let rig = Rig::start(&statsd(free, ""));
    send(free, "a:1|c");
    becomes(&rig, "a", 1.0);
    assert_eq!(rig.reload(&statsd(format!("udp:{address}"), "")).status, 422);
    send(free, "a:1|c");
    becomes(&rig, "a", 2.0);
}

#[test]
fn an_address_is_heard_by_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("attache.toml");
    let check = |text: &str, expected: &str| {
        std::fs::write(&path, text).unwrap();
        let output = binary().arg("check").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(expected) && output.status.code() == Some(1), "{said}");
    };
    let with =
        |listen: &str, from: &str| format!("[[listener]]\nlisten = \"{listen}\"\nservice = \"m\"\n[service.m.metrics]\nfrom = [{from}]\n");
    let one = "{ statsd = \"127.0.0.1:8125\" }";
    check(&with("127.0.0.1:8125", one), "tcp:127.0.0.1:8125 is listened on twice");
    check(&with("127.0.0.1:9902", "{ statsd = \"127.0.0.1:9901\" }"), "it is the admin API's address");
    check(
        &with("127.0.0.1:80", &format!("{one}, {{ statsd = \"udp:127.0.0.1:8125\", name = \"b\" }}")),
        "udp:127.0.0.1:8125 is listened on twice",
    );
    check(&with("unix:/run/a", "{ statsd = \"unix:/run/a\" }"), "unix:/run/a is listened on twice");
}

#[test]
fn what_the_kernel_drops_is_counted() {
    let address = free_address();
    let rig = Rig::start(&statsd(format!("udp:{address}"), ""));
    becomes(&rig, "attache_statsd_datagrams_lost_total{source=\"s\"}", 0.0);
    // Nobody takes anything out of the buffer meanwhile.
    rig.signal("STOP");
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let padding = "x".repeat(8000);
    for _ in 0..4000 {
        let _ = sender.send_to(format!("a:1|c\n#{padding}").as_bytes(), address);
    }
    rig.signal("CONT");
    eventually("all are accounted for", || {
        let of = |name: &str| value(&rig, name).unwrap_or(0.0);
        let (heard, lost) = (of("a"), of("attache_statsd_datagrams_lost_total{source=\"s\"}"));
        heard > 0.0 && lost > 0.0 && heard + lost == 4000.0
    });
}

#[track_caller]
fn check_wrong(source: &str, expected: &str) {
    let said = refused(&config(&format!("from = [{{ {source} }}]")));
    assert!(said.contains(expected), "{said}");
}

#[test]
fn wrong_settings_are_told_with_a_remedy() {
    let mapping = |rule: &str| format!("statsd = \"127.0.0.1:8125\", mapping = [{{ {rule} }}]");
    check_wrong("statsd = \"host:8125\"", "`host` is a name; listen on an IP address");
    check_wrong("statsd = \"127.0.0.1:0\"", "nobody would know which port the system chose");
    check_wrong("statsd = []", "nothing says where to listen");
    check_wrong("statsd = \"unix-stream:/run/a\"", "statsd comes by UDP, TCP and unix datagrams");
    check_wrong("redis = \"a:1\", mapping = []", "`mapping` is for `statsd`, this is `redis`");
    check_wrong("redis = \"a:1\", ttl = \"1s\"", "`ttl` is for `statsd`, this is `redis`");
    check_wrong("redis = \"a:1\", buckets = [1]", "`buckets` is for `statsd`, this is `redis`");
    check_wrong(&mapping("name = \"a\""), "nothing says which names are meant");
    check_wrong(&mapping("match = \"a\", regex = \"a\", name = \"a\""), "a mapping has `match` or `regex`, this has both");
    check_wrong(&mapping("regex = \"(\", name = \"a\""), "this is no regex");
    check_wrong(&mapping("match = \"a\""), "nothing says what these names become");
    check_wrong(&mapping("match = \"a\", drop = true, name = \"b\""), "what is dropped needs no name");
    check_wrong("statsd = \"127.0.0.1:8125\", buckets = [1, 1]", "each bucket's bound is above the one before");
    check_wrong("statsd = \"127.0.0.1:8125\", buckets = []", "a histogram has 1 to 100 buckets, this has 0");
    check_wrong("statsd = \"127.0.0.1:8125\", buckets = [\"a\"]", "expected a number, found a string");
    check_wrong("process = false", "processes are looked at or left out");
    check_wrong("process = { tops = 3 }", "unknown key `tops`");
}

/// Probes of endpoints have a thread of their own.
#[test]
fn a_flood_delays_no_probe() {
    const INTERVAL: Duration = Duration::from_millis(100);
    let _alone = alone();
    let address = free_address();
    let origin = Origin::ok("");
    let rig = Rig::start(&format!(
        "{}\n[service.app]\nendpoints = [\"{}\"]\nhealth = {{ path = \"/\", interval = \"100ms\", timeout = \"100ms\" }}\n[[listener]]\nname = \"app\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n",
        statsd(format!("udp:{address}"), ""),
        origin.address
    ));
    let probes = || rig.metrics("attache_health_checks_total{service=\"app\"");
    eventually("it is probed", || probes() >= 1.0);
    let is_over = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let (socket, lines) = (UdpSocket::bind("127.0.0.1:0").unwrap(), "a.b.c:1|c|#k:v\n".repeat(50));
            while !is_over.load(SeqCst) {
                socket.send_to(lines.as_bytes(), address).unwrap();
            }
        }
    });
    let (began, before) = (Instant::now(), probes());
    let lines = |least: f64| value(&rig, "attache_statsd_lines_total{source=\"s\"}") >= Some(least);
    eventually("many lines came", || began.elapsed() > Duration::from_secs(2) && lines(100_000.0));
    let (made, took) = (probes() - before, began.elapsed());
    is_over.store(true, SeqCst);
    flood.join().unwrap();
    // A tenth more than the interval is usual, and this machine has others to wait for.
    let least = took.div_duration_f64(INTERVAL) / 4.0;
    assert!(made >= least, "{made} probes in {took:?}, at least {least}");
    assert_eq!(rig.metrics("attache_endpoint_up{service=\"app\""), 1.0);
}
