//! What attache takes of the machine: bodies of any length in constant memory, idle connections for
//! little, and nothing lost to a bug.
//!
//! Figures are of an optimised binary where one was built (`cargo build --profile quick`); of the
//! test's own build only generous bounds are asked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Client, Rig, alone, eventually, measured, raise_open_files, trusting_config};

/// Of a length that no buffer has, so that a byte that is lost or doubled moves all that follow.
const PATTERN: usize = 65_521;
const MIB: u64 = 1 << 20;

fn pattern() -> Vec<u8> {
    let mut state = 1_u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..PATTERN).map(next).collect()
}

/// Bytes `0..length` of the endless pattern.
fn write_pattern(to: &mut impl Write, pattern: &[u8], length: u64, is_chunked: bool) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let piece = &pattern[..PATTERN.min(usize::try_from(left).unwrap_or(PATTERN))];
        if is_chunked {
            write!(to, "{:x}\r\n", piece.len())?;
        }
        to.write_all(piece)?;
        if is_chunked {
            to.write_all(b"\r\n")?;
        }
        left -= piece.len() as u64;
    }
    if is_chunked { to.write_all(b"0\r\n\r\n") } else { Ok(()) }
}

/// Reads a body and compares it to the pattern. Its length, or where it is wrong.
fn read_pattern(from: &mut impl BufRead, pattern: &[u8], length: Option<u64>) -> Result<u64, String> {
    let mut at = 0;
    let mut compare = |from: &mut dyn BufRead, mut left: u64| -> Result<(), String> {
        while left > 0 {
            let available = from.fill_buf().map_err(|error| format!("at {at}: {error}"))?;
            let place = (at % PATTERN as u64) as usize;
            let count = available.len().min(PATTERN - place).min(usize::try_from(left).unwrap_or(usize::MAX));
            if count == 0 {
                return Err(format!("cut short at {at}"));
            }
            if available[..count] != pattern[place..place + count] {
                return Err(format!("wrong after {at}"));
            }
            from.consume(count);
            at += count as u64;
            left -= count as u64;
        }
        Ok(())
    };
    if let Some(length) = length {
        compare(from, length)?;
        return Ok(at);
    }
    loop {
        let mut line = String::new();
        from.read_line(&mut line).map_err(|error| error.to_string())?;
        let size = u64::from_str_radix(line.trim_end(), 16).map_err(|_| format!("not a chunk: {line:?}"))?;
        compare(from, size)?;
        line.clear();
        from.read_line(&mut line).map_err(|error| error.to_string())?;
        if line != "\r\n" {
            return Err(format!("no end of a chunk: {line:?}"));
        }
        if size == 0 {
            return Ok(at);
        }
    }
}

/// Head without its last line, and what of it frames the body.
fn read_head(from: &mut impl BufRead) -> Option<(String, Option<u64>)> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if &head[before..] == "\r\n" {
            break;
        }
    }
    let field =
        |name: &str| head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(|value| value.trim().to_owned()));
    let length = if field("transfer-encoding:").is_some() {
        None
    } else {
        Some(field("content-length:").map_or(0, |length| length.parse().unwrap()))
    };
    Some((head, length))
}

/// Takes uploads and says what they were; `/sized/N` and `/chunked/N` are downloads.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let pattern = pattern();
                let mut from = BufReader::with_capacity(64 << 10, stream.try_clone().unwrap());
                let mut to = stream;
                while let Some((head, length)) = read_head(&mut from) {
                    let target = head.split(' ').nth(1).unwrap().to_owned();
                    let mut parts = target.trim_start_matches('/').split('/');
                    let (way, size) = (parts.next().unwrap(), parts.next().and_then(|size| size.parse().ok()).unwrap_or(0));
                    let written = match way {
                        "sized" => write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")
                            .and_then(|()| write_pattern(&mut to, &pattern, size, false)),
                        "chunked" => to
                            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                            .and_then(|()| write_pattern(&mut to, &pattern, size, true)),
                        _ => {
                            let told = match read_pattern(&mut from, &pattern, length) {
                                Ok(length) => format!("{length} bytes"),
                                Err(why) => why,
                            };
                            write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{told}", told.len())
                        }
                    };
                    if written.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn upload(address: SocketAddr, pattern: &[u8], length: u64, is_chunked: bool) {
    let mut to = TcpStream::connect(address).unwrap();
    let framing = if is_chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {length}") };
    write!(to, "POST /up HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{framing}\r\n\r\n").unwrap();
    write_pattern(&mut to, pattern, length, is_chunked).unwrap();
    let mut answer = String::new();
    to.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&format!("\r\n{length} bytes")), "{answer}");
}

fn download(address: SocketAddr, pattern: &[u8], length: u64, is_chunked: bool) {
    let mut to = TcpStream::connect(address).unwrap();
    write!(to, "GET /{}/{length} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", if is_chunked { "chunked" } else { "sized" }).unwrap();
    let mut from = BufReader::with_capacity(64 << 10, to);
    let (head, framing) = read_head(&mut from).unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && framing.is_none() == is_chunked, "{head}");
    assert_eq!(read_pattern(&mut from, pattern, framing), Ok(length));
}

#[test]
fn a_body_of_any_length_passes_in_constant_memory() {
    let _alone = alone();
    let (command, is_optimised) = measured();
    let is_soaking = std::env::var_os("ATTACHE_SOAK_SECONDS").is_some();
    let length = if is_optimised || is_soaking { 1024 * MIB } else { 256 * MIB };
    let text = format!("[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{}\"\n", origin());
    let rig = Rig::start_with(command, TempDir::new().unwrap(), &text);
    let (address, pattern) = (rig.address("web"), pattern());
    let both = |length| {
        for is_chunked in [false, true] {
            let began = Instant::now();
            upload(address, &pattern, length, is_chunked);
            let up = began.elapsed();
            download(address, &pattern, length, is_chunked);
            let down = began.elapsed().checked_sub(up).unwrap();
            if length > MIB {
                println!("{} MiB {}: up in {up:.2?}, down in {down:.2?}", length / MIB, if is_chunked { "chunked" } else { "sized" });
            }
        }
    };
    both(MIB);
    let before = rig.resident();
    let is_over = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(SeqCst) {
                most = most.max(rig.resident());
                std::thread::sleep(Duration::from_millis(20));
            }
            most
        });
        both(length);
        is_over.store(true, SeqCst);
        watching.join().unwrap()
    });
    let grown = most.saturating_sub(before);
    println!("{} KiB resident, at most {} KiB more while {} MiB passed", before >> 10, grown >> 10, length / MIB * 4);
    assert!(grown <= 2 * MIB, "grown by {grown} bytes");
}

const ONE_WORKER: &str = "[process]\nworkers = 1\n";

#[test]
fn an_idle_process_is_small() {
    let text = format!("{ONE_WORKER}[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{}\"\n", origin());
    let (mut is_optimised, mut ships) = (false, false);
    // The kernel maps code in windows of 64 KiB, and where these begin in the program differs from start to start, by a twentieth of all.
    let mut starts: Vec<(u64, u64)> = (0..5)
        .map(|_| {
            let command;
            (command, is_optimised) = measured();
            ships = Path::new(command.get_program()).parent().is_some_and(|directory| directory.ends_with("release"));
            let rig = Rig::start_with(command, TempDir::new().unwrap(), &text);
            let fresh = rig.resident();
            rig.connect("web").ask("GET", "/sized/10").unwrap();
            (fresh, rig.resident())
        })
        .collect();
    starts.sort_unstable();
    let (fresh, used) = starts[2];
    println!("idle: {} KiB resident, {} KiB after a request; {} to {} KiB", fresh >> 10, used >> 10, starts[0].0 >> 10, starts[4].0 >> 10);
    // What is linked for measuring while one works lies less densely than what ships.
    let most = match (ships, is_optimised) {
        (true, _) => 11_000_000,
        (false, true) => 13_000_000,
        (false, false) => 60_000_000,
    };
    assert!(fresh <= most, "{fresh} bytes");
}

/// Resident bytes for each of many idle connections that have had an answer.
fn idle_cost(rig: &Rig, count: usize, connect: impl Fn() -> Client) -> u64 {
    // What the first connections bring into memory is not theirs.
    drop((0..100).map(|_| asked(connect())).collect::<Vec<_>>());
    eventually("the first are gone", || rig.metric("attache_connections{listener=\"web\"}") <= 0.0);
    let before = rig.resident();
    let kept: Vec<Client> = (0..count).map(|_| asked(connect())).collect();
    let full = rig.resident();
    // Memory that requests need is given back after a lull.
    let mut least = full;
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        least = least.min(rig.resident());
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{count} idle connections: {} KiB before, {} KiB at most, {} KiB when idle", before >> 10, full >> 10, least >> 10);
    drop(kept);
    least.saturating_sub(before) / count as u64
}

fn asked(mut client: Client) -> Client {
    assert_eq!(client.request("GET", "/").unwrap().status, 200);
    client
}

fn idle_rig(tls: &str) -> (Rig, usize, bool) {
    let (command, is_optimised) = measured();
    let count = if is_optimised { 5000 } else { 1000 };
    assert!(raise_open_files(count as u64 * 2 + 1000), "too few open files are allowed");
    let text = format!(
        "{ONE_WORKER}[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n{tls}\n[[listener.route]]\npath = \"/*\"\nrespond = {{ body = \"ok\" }}\n"
    );
    (Rig::start_with(command, TempDir::new().unwrap(), &text), count, is_optimised)
}

#[test]
fn an_idle_plain_connection_costs_two_kibibytes() {
    let _alone = alone();
    let (rig, count, is_optimised) = idle_rig("");
    let address = rig.address("web");
    let each = idle_cost(&rig, count, || Client::tcp(address).unwrap());
    println!("{each} bytes each (plain)");
    assert!(each <= if is_optimised { 2048 } else { 6 << 10 }, "{each} bytes each");
}

#[test]
fn an_idle_tls_connection_costs_fourteen_kibibytes() {
    let _alone = alone();
    let (rig, count, is_optimised) = idle_rig("tls = { self_signed = [\"localhost\"] }");
    let address = rig.address("web");
    let config = trusting_config(None);
    let each = idle_cost(&rig, count, || Client::tls_with(address, "localhost", Arc::clone(&config)).unwrap());
    println!("{each} bytes each (TLS)");
    assert!(each <= if is_optimised { 14 << 10 } else { 28 << 10 }, "{each} bytes each");
}

/// Runs in a process of its own: a panic hook is everybody's.
#[test]
fn a_panic_is_counted() {
    const INSIDE: &str = "ATTACHE_TEST_PANIC";
    if std::env::var_os(INSIDE).is_some() {
        let metrics = attache::telemetry::Metrics::new(1, &[]);
        attache::telemetry::panics::watch(Arc::clone(&metrics));
        let caught = std::panic::catch_unwind(|| assert_eq!(1, std::hint::black_box(2), "a bug"));
        assert!(caught.is_err());
        let page = String::from_utf8(metrics.render()).unwrap();
        assert!(page.contains("attache_panics_total 1"), "{page}");
        return;
    }
    let output =
        Command::new(std::env::current_exe().unwrap()).args(["--exact", "memory::a_panic_is_counted"]).env(INSIDE, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
