//! Copies of requests: what their endpoint gets, that nobody waits for it, and what the answers differ in.
//!
//! What is compared, and which differences mean something, is tested beside the code.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use serde_json::Value;

use crate::support::http2::{self, Http2};
use crate::support::{Client, Load, Next, Origin, Read1, Request, Rig, eventually};

fn text(to: SocketAddr, copy: &str, settings: &str) -> String {
    format!(
        "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"shop\"\n\
         [service.shop.mirror]\nto = \"{to}\"\ncopy = \"{copy}\"\n{settings}\n"
    )
}

fn copies(rig: &Rig, outcome: &str) -> f64 {
    rig.metric(&format!("attache_mirror_copies_total{{service=\"shop\",outcome=\"{outcome}\"}}"))
}

fn comparisons(rig: &Rig, outcome: &str) -> f64 {
    rig.metric(&format!("attache_mirror_comparisons_total{{service=\"shop\",outcome=\"{outcome}\"}}"))
}

fn differences(rig: &Rig) -> Value {
    rig.admin_json("/services/shop/differences")
}

/// Answers with JSON, made from the request and its number.
fn json(answer: impl Fn(&Request) -> String + Send + Sync + 'static) -> Origin {
    Origin::run(move |stream, request, _| {
        let body = answer(request);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).is_ok() { Next::Keep } else { Next::Close }
    })
}

#[test]
fn a_copy_is_its_original_with_a_mark() {
    let (to, copy) = (Origin::ok("to"), Origin::ok("copy"));
    let rig = Rig::start(&text(to.address, &copy.address.to_string(), ""));
    let mut client = rig.connect("web");
    client.send("GET /a?b=c HTTP/1.1\r\nHost: shop.example\r\nX-Own: 1\r\nX-Attache-Mirror: 7\r\n\r\n").unwrap();
    let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
    assert_eq!(answer.text(), "to");
    eventually("the copy comes", || copy.seen().len() == 1);
    let (original, copied) = (&to.seen()[0], &copy.seen()[0]);
    assert_eq!(original.header("x-attache-mirror"), None);
    assert_eq!(copied.headers("x-attache-mirror"), ["1"]);
    let unmarked: String =
        copied.head.lines().filter(|line| !line.starts_with("X-Attache-Mirror")).map(|line| format!("{line}\r\n")).collect();
    assert_eq!(unmarked, original.head);
    eventually("it is counted", || copies(&rig, "answered") == 1.0);
}

#[test]
fn what_changes_something_is_copied_only_where_that_is_meant() {
    let (to, copy) = (Origin::ok("to"), Origin::ok("copy"));
    let rig = Rig::start(&text(to.address, &copy.address.to_string(), ""));
    for (method, body) in [("POST", "hello"), ("DELETE", ""), ("PUT", "x"), ("HEAD", ""), ("OPTIONS", "")] {
        let mut client = rig.connect("web");
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())).unwrap();
        let read = client.read(method).unwrap();
        assert!(matches!(read, Read1::Answer(answer) if answer.status == 200), "{method}");
    }
    eventually("the copies come", || copy.seen().len() == 2);
    let seen = copy.seen();
    let mut lines: Vec<&str> = seen.iter().map(Request::line).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["HEAD / HTTP/1.1", "OPTIONS / HTTP/1.1"]);
    rig.reloaded(&text(to.address, &copy.address.to_string(), "methods = [\"POST\"]"));
    let mut client = rig.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").unwrap();
    eventually("the copy begins", || copy.connections() >= 2);
    client.send("2\r\nde\r\n0\r\n\r\n").unwrap();
    assert!(matches!(client.read("POST").unwrap(), Read1::Answer(_)));
    eventually("the copy comes", || copy.seen().len() == 3);
    assert_eq!((copy.seen()[2].body.as_slice(), to.seen().last().unwrap().body.as_slice()), (&b"abcde"[..], &b"abcde"[..]));
}

#[test]
fn bodies_are_copied_whole_from_every_kind_of_client() {
    let (to, copy) = (Origin::ok("to"), Origin::ok("copy"));
    // It goes another way, and asks for a key in the body before it does.
    let settings = format!("methods = [\"POST\"]\n[service.next.shard]\nby = \"json:/id\"\nover = [\"{}\"]\n", copy.address);
    // The original may go out again, so that its body is kept as well.
    let config = text(to.address, "next", &settings).replace(&format!("to = \"{}\"", to.address), "to = \"app\"");
    let retried = format!("[service.app]\nendpoints = [\"{}\"]\nretry = {{ attempts = 2, on = [\"connect\", \"reset\"] }}\n", to.address);
    let rig = Rig::start(&(config + &retried));
    let body = format!("{{\"id\": 7, \"text\": \"{}\"}}", "0123456789".repeat(50_000));
    let mut client = rig.connect("web");
    client
        .send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        .unwrap();
    assert!(matches!(client.read("POST").unwrap(), Read1::Answer(_)));
    eventually("the copy comes", || copy.seen().len() == 1);
    check_body_text(&copy.seen()[0], &body);
    let answer = http2::run(async {
        let mut client = Http2::plain(rig.address("web")).await;
        let mut request = http2::request("POST", "/");
        request.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        client.ask_with(request, &[body.as_bytes()], None).await.unwrap()
    });
    assert_eq!(answer.status, 200);
    eventually("the copy comes", || copy.seen().len() == 2);
    check_body_text(&copy.seen()[1], &body);
}

#[track_caller]
fn check_body_text(request: &Request, expected: &str) {
    assert_eq!(request.body.len(), expected.len());
    assert!(request.body == expected.as_bytes(), "the body came through changed");
}

#[test]
fn an_upload_that_a_copy_cannot_follow_goes_on_without_it() {
    let to = Origin::ok("to");
    // Takes connections and reads nothing.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap();
    let held = std::thread::spawn(move || deaf.incoming().take(1).collect::<Vec<_>>());
    let rig = Rig::start(&text(to.address, &address.to_string(), "methods = [\"PUT\"]\nbuffer = \"256KiB\""));
    let before = rig.held();
    let body = vec![b'x'; 48 << 20];
    let mut client = rig.connect("web");
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).unwrap();
    client.send(&body).unwrap();
    assert!(matches!(client.read("PUT").unwrap(), Read1::Answer(answer) if answer.status == 200));
    assert_eq!(to.seen()[0].body.len(), body.len());
    eventually("it is counted", || copies(&rig, "dropped") == 1.0);
    let grown = rig.held().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    drop(rig);
    held.join().unwrap();
}

/// Takes one upload in and counts it.
struct Taker {
    origin: Origin,
    taken: Arc<AtomicU64>,
}

impl Taker {
    fn start() -> Self {
        let taken = Arc::<AtomicU64>::default();
        let count = Arc::clone(&taken);
        let origin = Origin::raw(move |mut stream, _| {
            let mut buffer = vec![0; 256 << 10];
            let mut left = None;
            let mut head = Vec::new();
            while left != Some(0) {
                let read = stream.read(&mut buffer).unwrap_or(0);
                if read == 0 {
                    return;
                }
                let body = if let Some(left) = &mut left {
                    *left -= read as u64;
                    read as u64
                } else {
                    head.extend_from_slice(&buffer[..read]);
                    let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
                    let body = (head.len() - end - 4) as u64;
                    left = Some(UPLOAD - body);
                    body
                };
                count.fetch_add(body, SeqCst);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        });
        Self { origin, taken }
    }
}

const UPLOAD: u64 = 1 << 30;

/// As fast as both can take it in: then nothing of it is lost, and it is never in memory.
#[test]
fn a_gibibyte_is_mirrored_within_a_mebibyte() {
    let (to, copy) = (Taker::start(), Taker::start());
    let rig = Rig::start(&text(to.origin.address, &copy.origin.address.to_string(), "methods = [\"PUT\"]\nbuffer = \"1MiB\""));
    let mut client = rig.connect("web");
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {UPLOAD}\r\n\r\n")).unwrap();
    let piece = vec![b'x'; 128 << 10];
    let mut sent = 0;
    let mut most = 0;
    while sent < UPLOAD {
        client.send(&piece).unwrap();
        sent += piece.len() as u64;
        // The slower of the two sets the pace, less than the buffer ahead.
        eventually("both follow", || sent - to.taken.load(SeqCst).min(copy.taken.load(SeqCst)) <= 512 << 10);
        if sent.is_multiple_of(64 << 20) {
            most = most.max(rig.held());
        }
    }
    assert!(matches!(client.read("PUT").unwrap(), Read1::Answer(answer) if answer.status == 200));
    eventually("the copy is answered", || copies(&rig, "answered") == 1.0);
    assert_eq!((to.taken.load(SeqCst), copy.taken.load(SeqCst)), (UPLOAD, UPLOAD));
    assert!(most < 16 << 20, "{most} bytes in memory");
}

#[test]
fn an_original_that_is_cut_cuts_its_copy() {
    let (to, copy) = (Origin::ok("to"), Origin::ok("copy"));
    let rig = Rig::start(&text(to.address, &copy.address.to_string(), "methods = [\"PUT\"]"));
    let mut client = rig.connect("web");
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").unwrap();
    eventually("the copy begins", || copy.connections() == 1);
    drop(client);
    eventually("it is counted", || copies(&rig, "cut") == 1.0);
    assert!(copy.seen().is_empty(), "a part of a request is none");
}

#[test]
fn nobody_notices_copies_that_are_dead_slow_or_lost() {
    let to = Origin::ok("to");
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = Origin::run(|stream, _, _| {
        std::thread::sleep(Duration::from_millis(300));
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").is_ok() { Next::Keep } else { Next::Close }
    });
    let nobody = crate::support::free_address();
    for copy in [nobody, slow.address, deaf.local_addr().unwrap()] {
        let rig = Rig::start(&text(to.address, &copy.to_string(), "timeout = \"1s\"\nin_flight = 50"));
        let address = rig.address("web");
        let report = Load::start(500, 1000, move || Client::tcp(address)).end();
        assert!(report.failures.is_empty(), "{copy}: {}", report.few_failures());
        assert_eq!(report.answers.get("to"), Some(&1000));
        eventually("each copy is counted", || {
            ["answered", "failed", "dropped", "cut"].map(|outcome| copies(&rig, outcome)).iter().sum::<f64>() == 1000.0
        });
    }
}

#[test]
fn seeded_differences_are_all_found_and_noise_is_not_reported() {
    let count = Arc::<AtomicU64>::default();
    let of = |candidate: bool| {
        let count = Arc::clone(&count);
        json(move |request| {
            let number = count.fetch_add(1, SeqCst);
            let id: u64 = request.line().split(['/', ' ', '?']).nth(2).unwrap().parse().unwrap();
            let price = if candidate && id % 10 == 3 { 99 } else { 10 };
            let missing = if candidate && id == 17 { "" } else { ",\"stock\":5" };
            let word = if candidate && id.is_multiple_of(2) { "\"two\"" } else { "2" };
            let token = if candidate { "tok-b" } else { "tok-a" };
            format!(
                "{{\"at\":{number},\"coin\":{},\"items\":[{{\"price\":{price}}},{{\"price\":1}}],\"word\":{word},\"tags\":[{}],\"auth\":{{\"access_token\":\"{token}\"}}{missing}}}",
                attache::algo::dice::roll(&mut number.clone()) >> 63,
                if candidate { "\"a\",\"b\"" } else { "\"b\",\"a\"" }
            )
        })
    };
    let (to, copy, control) = (of(false), of(true), of(false));
    let settings =
        format!("compare = {{ headers = [\"content-type\"], json = true, unordered = [\"/tags\"], control = \"{}\" }}", control.address);
    let rig = Rig::start(&text(to.address, &copy.address.to_string(), &settings));
    let mut client = rig.connect("web");
    for id in 0..400 {
        client.send(format!("GET /{id}?token=hidden&page={id} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
        assert!(matches!(client.read("GET").unwrap(), Read1::Answer(answer) if answer.status == 200));
    }
    eventually("all are compared", || differences(&rig)["compared"] == 400);
    let found = differences(&rig);
    let mut paths: Vec<&str> = found["differences"].as_array().unwrap().iter().map(|place| place["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/auth/access_token", "/items/*/price", "/stock", "/word"], "{found}");
    let noise: Vec<&str> = found["noise"].as_array().unwrap().iter().map(|place| place["path"].as_str().unwrap()).collect();
    assert!(noise.contains(&"/at"), "{found}");
    let stock = found["differences"].as_array().unwrap().iter().find(|place| place["path"] == "/stock").unwrap();
    assert_eq!((&stock["different"], &stock["noise"]), (&1.into(), &0.into()));
    let example = &stock["examples"][0];
    assert_eq!(
        (&example["request"], &example["primary"], &example["candidate"]),
        (&"GET /17?token=***&page=17".into(), &"5".into(), &"(absent)".into())
    );
    assert!(!found.to_string().contains("tok-") && !found.to_string().contains("hidden"), "{found}");
    assert_eq!((comparisons(&rig, "different"), comparisons(&rig, "skipped")), (400.0, 0.0));
    // What was found outlives a reload that changes nothing about it.
    rig.reloaded(&text(to.address, &copy.address.to_string(), &format!("{settings}\ntimeout = \"5s\"")));
    assert_eq!(differences(&rig)["compared"], 400);
}

#[test]
fn answers_that_are_missing_or_too_long_are_not_compared() {
    let to = json(|_| format!("[{}0]", "0,".repeat(1000)));
    let copy = json(|_| "[]".to_owned());
    let settings = "compare = { json = true, body = \"1KiB\" }";
    let rig = Rig::start(&text(to.address, &copy.address.to_string(), settings));
    assert_eq!(rig.connect("web").ask("GET", "/").unwrap().status, 200);
    eventually("it is counted", || comparisons(&rig, "skipped") == 1.0);
    rig.reloaded(&text(to.address, &crate::support::free_address().to_string(), settings));
    assert_eq!(rig.connect("web").ask("GET", "/").unwrap().status, 200);
    eventually("it is counted", || comparisons(&rig, "skipped") == 2.0);
    assert_eq!(differences(&rig)["compared"], 0);
}

#[test]
fn a_share_is_copied_and_of_a_user_all_or_nothing() {
    let (to, copy) = (Origin::ok("to"), Origin::ok("copy"));
    let rig = Rig::start(&text(to.address, &copy.address.to_string(), "share = \"30%\"\nby = \"query:user\""));
    let mut client = rig.connect("web");
    for number in 0..300 {
        assert_eq!(client.request("GET", &format!("/?user={}", number % 100)).unwrap().status, 200);
    }
    eventually("copies come to rest", || {
        let users: std::collections::BTreeMap<String, usize> =
            copy.seen().iter().fold(std::collections::BTreeMap::new(), |mut users, request| {
                *users.entry(request.line().to_owned()).or_default() += 1;
                users
            });
        (15..=45).contains(&users.len()) && users.values().all(|&count| count == 3)
    });
}

#[test]
fn a_mirror_is_told_and_what_is_wrong_with_it() {
    let (to, copy) = (Origin::ok("to"), Origin::ok("copy"));
    let rig = Rig::start(&text(to.address, &copy.address.to_string(), ""));
    let step = rig.admin_json("/explain?url=http://a.example/")["way"][0].clone();
    assert_eq!((&step["kind"], &step["copy"], &step["share"]), (&"mirror".into(), &copy.address.to_string().into(), &1.0.into()));
    let services = rig.admin_json("/services");
    let mirror = services.as_array().unwrap().iter().find(|service| service["kind"] == "mirror").unwrap().clone();
    assert_eq!((&mirror["name"], &mirror["to"]), (&"shop".into(), &to.address.to_string().into()));
    assert!(differences(&rig)["detail"].as_str().unwrap().contains("compare = "));
    assert_eq!(rig.admin("GET", "/services/none/differences").status, 404);
    for (mirror, says) in [
        ("to = \"app\"", "missing key `copy`"),
        ("to = \"app\"\ncopy = \"nobody\"", "nobody"),
        ("to = \"app\"\ncopy = \"s\"", "`s` is a part of itself"),
        ("to = \"app\"\ncopy = \"app\"\nmethods = []", "nothing would be copied"),
        ("to = \"app\"\ncopy = \"app\"\ncompare = { status = false }", "`compare` compares nothing"),
        ("to = \"app\"\ncopy = \"app\"\ncompare = { ignore = [\"/a\"] }", "parts of JSON, which is not compared"),
        ("to = \"app\"\ncopy = \"app\"\ncompare = { json = true, ignore = [\"a\"] }", "`a` does not begin with a slash"),
        ("to = \"app\"\ncopy = \"app\"\nshare = 5", "a share needs its sign"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n[service.s.mirror]\n{mirror}\n[service.app]\nendpoints = [\"127.0.0.1:1\"]\n"
        );
        std::fs::write(directory.path().join("a.toml"), text).unwrap();
        let output = crate::support::binary().current_dir(directory.path()).args(["check", "a.toml"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(says), "{said}");
    }
}
