//! What a keep-alive exchange costs in instructions, against the figures in `benches/hot_path/instructions.toml`.
//!
//! Time depends on the machine and its mood, instructions hardly do: callgrind counts those of the one worker for a few
//! and for many exchanges, one after another on one connection, and the difference is free of starting and ending. The
//! kernel's are not in it. Says nothing of how fast they run: `benches/peers` does.
//!
//! How far figures can be trusted: sixteen counts, four of them beside six busy loops on two processors, lay within 0.1 %
//! of each other for `plain` and `chunked`, and 0.6 % for `tls` and `upload`. Seeds of hash maps, addresses and timers
//! are in that.
//!
//! Processors differ less than one would think: valgrind shows every program one with AVX2 at most and without AVX-512,
//! on machines that have it too, and aws-lc, memchr and glibc choose their code by that. What a processor lacks is
//! missing there as well. Without glibc's copies by ERMS or AVX, `plain` moved by 0.1 and 0.6 %; without AES
//! instructions `tls` took two thirds more, so such processors are left alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Client, Origin, Read1, Rig, alone, has, optimised};

/// Exchanges in the two runs. The few are enough for every buffer and cache to be warm.
const FEW: u64 = 200;
const MANY: u64 = 1200;
/// How much more than the committed figure passes, in percent. As much less is worth a word.
const TOLERANCE: f64 = 5.0;
/// What disturbs one count does not disturb the next.
const TRIES: usize = 3;
/// Set to write what was counted into the file.
const ACCEPT: &str = "ATTACHE_ACCEPT_INSTRUCTIONS";
const FILE: &str = "benches/hot_path/instructions.toml";

/// One kind of exchange: its name in the file, and who says what.
struct Exchange {
    name: &'static str,
    tls: bool,
    request: Vec<u8>,
    answer: Vec<u8>,
}

fn get() -> Vec<u8> {
    b"GET /some/path?with=query HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n".to_vec()
}

fn hundred_bytes() -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n{}", "x".repeat(100)).into_bytes()
}

#[test]
fn a_plain_exchange_costs_what_it_did() {
    check(&Exchange { name: "plain", tls: false, request: get(), answer: hundred_bytes() });
}

/// Sixteen fields, as browsers send them, and an answer with as many as a framework writes.
#[test]
fn a_browsers_exchange_costs_what_it_did() {
    let request = b"GET /some/path?colour=brown&size=43&sort=price HTTP/1.1\r\n\
        Host: shop.example\r\n\
        Connection: keep-alive\r\n\
        sec-ch-ua: \"Chromium\";v=\"131\", \"Not_A Brand\";v=\"24\"\r\n\
        sec-ch-ua-mobile: ?0\r\n\
        sec-ch-ua-platform: \"Linux\"\r\n\
        Upgrade-Insecure-Requests: 1\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\n\
        Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
        Sec-Fetch-Site: same-origin\r\n\
        Sec-Fetch-Mode: navigate\r\n\
        Sec-Fetch-User: ?1\r\n\
        Sec-Fetch-Dest: document\r\n\
        Referer: https://shop.example/some/other/path\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\n\
        Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
        Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=yes\r\n\r\n";
    let answer = format!(
        "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 08:00:00 GMT\r\nServer: app\r\nContent-Type: text/html; charset=utf-8\r\n\
         Content-Length: 100\r\nCache-Control: private, max-age=0\r\nETag: \"5f3c-1a2b3c4d5e6f7\"\r\nVary: Accept-Encoding\r\n\
         X-Frame-Options: SAMEORIGIN\r\nX-Content-Type-Options: nosniff\r\n\r\n{}",
        "x".repeat(100)
    );
    check(&Exchange { name: "browser", tls: false, request: request.to_vec(), answer: answer.into_bytes() });
}

#[test]
fn an_exchange_over_tls_costs_what_it_did() {
    check(&Exchange { name: "tls", tls: true, request: get(), answer: hundred_bytes() });
}

#[test]
fn ten_kilobytes_in_chunks_cost_what_they_did() {
    let chunk = format!("400\r\n{}\r\n", "y".repeat(1024));
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(10));
    check(&Exchange { name: "chunked", tls: false, request: get(), answer: answer.into_bytes() });
}

#[test]
fn an_upload_of_64_kib_costs_what_it_did() {
    let mut request = b"POST /up HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 65536\r\n\r\n".to_vec();
    request.resize(request.len() + (64 << 10), b'z');
    check(&Exchange { name: "upload", tls: false, request, answer: hundred_bytes() });
}

/// Counts one kind of exchange and compares.
#[track_caller]
fn check(exchange: &Exchange) {
    let _alone = alone();
    if !has("valgrind", "--version") || !has_the_instructions() {
        return;
    }
    // One profile, since another one optimises otherwise.
    let Some(binary) = optimised(&["quick"]) else {
        eprintln!("skipped: no optimised binary as new as its sources; build one with `cargo build --profile quick`");
        return;
    };
    let rustc = rustc_of(&binary);
    if std::env::var_os(ACCEPT).is_some() {
        let mut counts: Vec<u64> = (0..TRIES).map(|_| per_exchange(&binary, exchange)).collect();
        counts.sort_unstable();
        let instructions = counts[TRIES / 2];
        accept(exchange.name, Figure { instructions, rustc });
        println!("{}: {instructions} instructions, written to {FILE}", exchange.name);
        return;
    }
    let figures = figures();
    let Some(committed) = figures.get(std::env::consts::ARCH) else {
        eprintln!("skipped: {FILE} has no figures for {}; set {ACCEPT}=1 to add them", std::env::consts::ARCH);
        return;
    };
    let committed = committed.get(exchange.name).unwrap_or_else(|| panic!("{FILE} has no `{}`; set {ACCEPT}=1 to add it", exchange.name));
    let growth = |counted: u64| (counted as f64 / committed.instructions as f64 - 1.0) * 100.0;
    let mut least = u64::MAX;
    for _ in 0..TRIES {
        let counted = per_exchange(&binary, exchange);
        least = least.min(counted);
        if growth(least) <= TOLERANCE {
            break;
        }
        println!("{}: {counted} instructions, {:+.1} %", exchange.name, growth(counted));
    }
    let told = format!("{}: {least} instructions, {:+.1} % to the {} of {FILE}", exchange.name, growth(least), committed.instructions);
    let compiler = if rustc == committed.rustc {
        String::new()
    } else {
        format!("\nthat figure is of {}, this one of {rustc}, which may be why", committed.rustc)
    };
    assert!(
        growth(least) <= TOLERANCE,
        "{told}, and {TOLERANCE} % is allowed{compiler}\nto accept it: {ACCEPT}=1 cargo test --test it instructions"
    );
    println!("{told}{compiler}");
    if growth(least) < -TOLERANCE {
        println!("{}: the figure can be lowered: {ACCEPT}=1 cargo test --test it instructions", exchange.name);
    }
}

/// Instructions of the worker for one exchange.
fn per_exchange(binary: &Path, exchange: &Exchange) -> u64 {
    let (few, many) = (by_thread(binary, exchange, FEW), by_thread(binary, exchange, MANY));
    let grown = many.iter().map(|(thread, many)| many.saturating_sub(few.get(thread).copied().unwrap_or(0)));
    // Of all threads, the worker is the only one that has more to do.
    grown.max().expect("a process has threads") / (MANY - FEW)
}

/// Instructions of each thread of a process that served `count` exchanges.
fn by_thread(binary: &Path, exchange: &Exchange, count: u64) -> BTreeMap<String, u64> {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("callgrind.out");
    let mut command = Command::new("valgrind");
    // Whatever chooses other code for the same work.
    for name in ["VALGRIND_OPTS", "GLIBC_TUNABLES", "OPENSSL_ia32cap", "ATTACHE_CONFIG", "ATTACHE_LOG", "ATTACHE_ADMIN"] {
        command.env_remove(name);
    }
    command.args(["--tool=callgrind", "--separate-threads=yes"]).arg(format!("--callgrind-out-file={}", out.display())).arg(binary);
    let origin = Origin::answering(exchange.answer.clone());
    let tls = if exchange.tls { "tls = { self_signed = [\"localhost\"] }\n" } else { "" };
    let text =
        format!("[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{}\"\n{tls}", origin.address);
    let mut rig = Rig::start_with(command, directory, &text);
    let address = rig.address("web");
    let mut client = if exchange.tls { Client::tls(address, "localhost") } else { Client::tcp(address) }.unwrap();
    for _ in 0..count {
        client.send(&exchange.request).unwrap();
        let read = client.read("GET").unwrap();
        assert!(matches!(&read, Read1::Answer(answer) if answer.status == 200), "{read:?}");
    }
    assert_eq!(origin.connections(), 1, "a keep-alive exchange");
    drop(client);
    rig.signal("TERM");
    assert_eq!(rig.ended().code, Some(0), "{}", rig.log());
    totals(rig.directory.path())
}

/// What callgrind wrote of each thread, in files named `callgrind.out-NN`.
fn totals(directory: &Path) -> BTreeMap<String, u64> {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let totals = files.filter_map(|path| {
        let (_, thread) = path.file_name()?.to_str()?.split_once("callgrind.out-")?;
        let text = std::fs::read_to_string(&path).unwrap();
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "))?;
        Some((thread.to_owned(), total.trim().parse().unwrap()))
    });
    totals.collect()
}

/// Whether this processor has what the figures are of: without vector instructions, libraries choose other code.
fn has_the_instructions() -> bool {
    #[cfg(target_arch = "x86_64")]
    if !(std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("aes")) {
        eprintln!("skipped: the figures are of a processor with AVX2 and AES");
        return false;
    }
    true
}

/// What rustc writes into everything it links.
fn rustc_of(binary: &Path) -> String {
    let bytes = std::fs::read(binary).unwrap();
    let at = memchr::memmem::find(&bytes, b"rustc version ").expect("rustc signs what it links");
    let told = bytes[at..].split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(told).into_owned()
}

/// What an exchange may cost, and the compiler that this was counted with.
struct Figure {
    instructions: u64,
    rustc: String,
}

/// By architecture and name of the exchange.
type Figures = BTreeMap<String, BTreeMap<String, Figure>>;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE)
}

fn figures() -> Figures {
    let document: toml::Table = std::fs::read_to_string(path()).unwrap().parse().unwrap();
    let figure = |value: &toml::Value| Figure {
        instructions: value["instructions"].as_integer().unwrap().try_into().unwrap(),
        rustc: value["rustc"].as_str().unwrap().to_owned(),
    };
    let of_architecture =
        |value: &toml::Value| value.as_table().unwrap().iter().map(|(name, value)| (name.clone(), figure(value))).collect();
    document.iter().map(|(architecture, value)| (architecture.clone(), of_architecture(value))).collect()
}

const HEADING: &str = "\
# Instructions of the worker for one keep-alive exchange, profile `quick`; tests/it/instructions.rs compares them.
# It also writes this file: ATTACHE_ACCEPT_INSTRUCTIONS=1 cargo test --test it instructions
";

/// Writes the figure into the file.
fn accept(name: &str, figure: Figure) {
    let mut figures = figures();
    figures.entry(std::env::consts::ARCH.to_owned()).or_default().insert(name.to_owned(), figure);
    let mut text = HEADING.to_owned();
    for (architecture, figures) in figures {
        text += &format!("\n[{architecture}]\n");
        for (name, Figure { instructions, rustc }) in figures {
            text += &format!("{name} = {{ instructions = {instructions}, rustc = \"{rustc}\" }}\n");
        }
    }
    std::fs::write(path(), text).unwrap();
}
