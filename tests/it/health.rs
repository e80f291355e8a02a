//! Probes over HTTP, TCP and TLS: who gets requests by what they find, over reloads too.
//!
//! Servers of data and gRPC are in `health_servers.rs`, elections in `leader.rs`; when exactly an endpoint turns is a unit test.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::http2_origin::Origin2;
use crate::support::{Authority, Next, Origin, Request, Rig, TlsOrigin, alone, binary, eventually, free_address, optimised};

/// An origin whose `/ready` says what it is told to; everything else says who it is.
struct Switch {
    origin: Origin,
    status: Arc<AtomicU16>,
}

impl Switch {
    fn new(name: &'static str, status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let says = Arc::clone(&status);
        let origin = Origin::run(move |stream, request, _| {
            let (status, body) = if is_probe(request) { (says.load(SeqCst), "") } else { (200, name) };
            answer(stream, status, body)
        });
        Self { origin, status }
    }

    fn say(&self, status: u16) {
        self.status.store(status, SeqCst);
    }

    fn probes(&self) -> Vec<Request> {
        self.origin.seen().into_iter().filter(is_probe).collect()
    }

    fn requests(&self) -> usize {
        self.origin.seen().iter().filter(|request| !is_probe(request)).count()
    }
}

fn is_probe(request: &Request) -> bool {
    request.line().starts_with("GET /ready")
}

fn answer(stream: &mut impl Write, status: u16, body: &str) -> Next {
    let written = write!(stream, "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    if written.is_ok() { Next::Keep } else { Next::Close }
}

/// One listener before a pool with these keys.
fn config(endpoints: &[(&str, String)], keys: &str) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|(name, address)| format!("{{ name = \"{name}\", address = \"{address}\" }}")).collect();
    format!(
        "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n\
         [service.app]\nendpoints = [{}]\n{keys}\n",
        endpoints.join(", ")
    )
}

fn named<const N: usize>(endpoints: [(&'static str, SocketAddr); N]) -> Vec<(&'static str, String)> {
    endpoints.into_iter().map(|(name, address)| (name, address.to_string())).collect()
}

/// What `/services` says of an endpoint of `app`.
fn endpoint(rig: &Rig, name: &str) -> Value {
    let services = rig.admin_json("/services");
    let app = services.as_array().unwrap().iter().find(|service| service["name"] == "app").unwrap().clone();
    app["endpoints"].as_array().unwrap().iter().find(|endpoint| endpoint["name"] == name).unwrap().clone()
}

#[track_caller]
fn until_state(rig: &Rig, name: &str, state: &str) {
    eventually(&format!("{name} is {state}"), || endpoint(rig, name)["state"] == state);
}

/// Who answers each of so many requests.
fn answers(rig: &Rig, count: usize) -> String {
    (0..count).map(|_| rig.connect("web").ask("GET", "/").unwrap().text()).collect()
}

/// Waits until an endpoint that stands alone is found to be `state`, and returns what is said of it.
#[track_caller]
fn check_alone(address: &str, keys: &str, state: &str) -> String {
    let rig = Rig::start(&config(&[("a", address.to_owned())], keys));
    check_found(&rig, state)
}

#[track_caller]
fn check_found(rig: &Rig, state: &str) -> String {
    eventually("the first probe has ended", || !endpoint(rig, "a")["checked_at"].is_null());
    let found = endpoint(rig, "a");
    assert_eq!(found["state"], state, "{found}");
    assert_eq!(found["healthy"], state == "up");
    found["detail"].as_str().unwrap_or_default().to_owned()
}

const OFTEN: &str = "interval = \"50ms\", timeout = \"50ms\"";

#[test]
fn an_endpoint_whose_probe_fails_gets_no_requests_until_it_is_well_again() {
    let (a, b) = (Switch::new("a", 200), Switch::new("b", 200));
    let keys = "health = { path = \"/ready?full=1\", interval = \"50ms\", timeout = \"50ms\" }";
    let rig = Rig::start(&config(&named([("a", a.origin.address), ("b", b.origin.address)]), keys));
    eventually("both are asked", || a.probes().len() > 1 && b.probes().len() > 1);
    assert_eq!(answers(&rig, 4), "abab");
    b.say(500);
    until_state(&rig, "b", "sick");
    assert_eq!(endpoint(&rig, "b")["detail"], "answered 500, expected 200-399");
    assert_eq!(rig.metric("attache_endpoint_up{service=\"app\",endpoint=\"b\"}"), 0.0);
    assert!(rig.metric("attache_health_checks_total{service=\"app\",endpoint=\"b\",outcome=\"failed\"}") >= 3.0);
    let before = b.requests();
    assert_eq!((answers(&rig, 6).as_str(), b.requests()), ("aaaaaa", before));
    let status = binary().arg("status").arg("--admin").arg(format!("unix:{}", rig.admin_path().display())).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.lines().any(|line| line.starts_with("  b  sick") && line.contains("(answered 500, expected 200-399)")), "{status}");
    b.say(204);
    until_state(&rig, "b", "up");
    assert!(answers(&rig, 4).contains('b'));
    assert!(rig.metric("attache_health_checks_total{service=\"app\",endpoint=\"b\",outcome=\"ok\"}") >= 3.0);
    eventually("the log says so", || rig.log().contains("well again"));
    let log = rig.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("endpoint=\"b\"")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].contains("WARN") && lines[0].contains("sick") && lines[0].contains("answered 500"), "{log}");
    assert!(lines[1].contains("INFO") && lines[1].contains("well again"), "{log}");
    for probe in a.probes() {
        assert_eq!(probe.line(), "GET /ready?full=1 HTTP/1.1");
        assert_eq!(probe.header("host"), Some(a.origin.address.to_string().as_str()));
        assert_eq!((probe.header("user-agent"), probe.header("connection")), (Some("attache-health"), Some("close")));
    }
}

#[test]
fn it_takes_as_many_in_a_row_as_written_to_change_its_standing() {
    // Two failures are not three, and one success is not two; what comes after these is well.
    const SAID: [u16; 11] = [200, 500, 500, 200, 500, 500, 500, 200, 500, 200, 200];
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let origin = Origin::run(move |stream, _, _| answer(stream, SAID.get(count.fetch_add(1, SeqCst)).copied().unwrap_or(200), ""));
    let keys = "health = { path = \"/ready\", interval = \"30ms\", timeout = \"30ms\" }";
    let rig = Rig::start(&config(&named([("a", origin.address)]), keys));
    eventually("it was asked often enough", || asked.load(SeqCst) > SAID.len() + 2);
    eventually("the log says so", || rig.log().contains("well again"));
    let log = rig.log();
    assert_eq!((log.matches("sick").count(), log.matches("well again").count()), (1, 1), "{log}");
    assert_eq!(endpoint(&rig, "a")["state"], "up");
}

#[test]
fn with_everybody_sick_requests_are_refused() {
    let (a, b) = (Switch::new("a", 503), Switch::new("b", 404));
    let endpoints = named([("a", a.origin.address), ("b", b.origin.address)]);
    let rig = Rig::start(&config(&endpoints, &format!("health = {{ path = \"/ready\", {OFTEN} }}")));
    until_state(&rig, "a", "sick");
    until_state(&rig, "b", "sick");
    let answer = rig.connect("web").ask("GET", "/").unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    // The answer is there before it is counted.
    let series = "attache_refusals_total{listener=\"web\",reason=\"no_endpoint\"}";
    eventually("it is counted", || rig.metrics(series) == 1.0);
    assert_eq!((a.requests(), b.requests()), (0, 0));
}

#[test]
fn with_everybody_sick_requests_go_on_where_that_is_wanted() {
    let (a, b) = (Switch::new("a", 503), Switch::new("b", 404));
    let endpoints = named([("a", a.origin.address), ("b", b.origin.address)]);
    let rig = Rig::start(&config(&endpoints, &format!("health = {{ path = \"/ready\", fail_open = true, {OFTEN} }}")));
    until_state(&rig, "a", "sick");
    until_state(&rig, "b", "sick");
    let answers = answers(&rig, 40);
    assert!(answers.len() == 40 && answers.contains('a') && answers.contains('b'), "{answers}");
    // As soon as somebody is well, the others wait.
    b.say(200);
    until_state(&rig, "b", "up");
    assert_eq!(self::answers(&rig, 4), "bbbb");
}

#[test]
fn statuses_may_be_chosen() {
    let origin = Switch::new("a", 404);
    let expecting = |expect: &str| format!("health = {{ path = \"/ready\", expect = {expect} }}");
    let address = origin.origin.address.to_string();
    assert_eq!(check_alone(&address, &expecting("[200, \"400-404\"]"), "up"), "");
    assert_eq!(check_alone(&address, &expecting("[200, \"400-403\"]"), "sick"), "answered 404, expected 200, 400-403");
}

#[test]
fn a_host_may_be_written() {
    let origin = Switch::new("a", 200);
    check_alone(&origin.origin.address.to_string(), "health = { path = \"/ready\", host = \"app.internal\" }", "up");
    assert_eq!(origin.probes()[0].header("host"), Some("app.internal"));
}

#[test]
fn what_goes_wrong_is_told() {
    let silent = Origin::raw(|stream, _| {
        let mut buffer = Vec::new();
        let mut stream = stream;
        while crate::support::read_head(&mut stream, &mut buffer).is_some() {}
    });
    let check = |address: SocketAddr, detail: &str| {
        let said = check_alone(&address.to_string(), "health = { path = \"/ready\", timeout = \"200ms\" }", "sick");
        assert!(said.starts_with(detail), "{said}, not {detail}");
    };
    check(silent.address, "no answer within 200ms");
    check(free_address(), "cannot connect: Connection refused");
    check(Origin::answering("SSH-2.0-x\r\n").address, "its answer is not HTTP");
    let closing = Origin::run(|_, _, _| Next::Close);
    check(closing.address, "it closed without an answer");
    let cut = Origin::run(|stream, _, _| {
        let _ = stream.write_all(b"HTTP/1.1 200");
        Next::Close
    });
    check(cut.address, "it closed in the middle of its answer");
    let endless = Origin::run(|stream, _, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(&[&[b'a'; 8000][..], b": b\r\n"].concat()).is_ok() {}
        Next::Close
    });
    check(endless.address, "its answer is not HTTP");
}

#[test]
fn an_interim_answer_is_not_the_answer() {
    let origin = Origin::answering("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
    check_alone(&origin.address.to_string(), "health = { path = \"/ready\", expect = 204 }", "up");
}

#[test]
fn a_connection_may_be_all_that_is_asked() {
    let origin = Origin::ok("");
    assert_eq!(check_alone(&origin.address.to_string(), "health = { tcp = true }", "up"), "");
    let said = check_alone(&free_address().to_string(), "health = { tcp = true }", "sick");
    assert!(said.starts_with("cannot connect"), "{said}");
    assert!(origin.seen().is_empty());
}

#[test]
fn another_port_may_be_asked() {
    let (serving, asked) = (Origin::ok("a"), Switch::new("", 500));
    let keys = format!("health = {{ path = \"/ready\", port = {} }}", asked.origin.address.port());
    assert_eq!(check_alone(&serving.address.to_string(), &keys, "sick"), "answered 500, expected 200-399");
    assert_eq!(asked.probes()[0].header("host"), Some(asked.origin.address.to_string().as_str()));
}

#[test]
fn unix_sockets_are_asked_too() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let hosts: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&hosts);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let head = crate::support::read_head(&mut stream, &mut Vec::new()).unwrap_or_default();
            seen.lock().unwrap().push(head);
            answer(&mut stream, 200, "");
        }
    });
    let rig = Rig::start_in(directory, &config(&[("a", format!("unix:{}", path.display()))], "health = { path = \"/ready\" }"));
    assert_eq!(check_found(&rig, "up"), "");
    assert!(hosts.lock().unwrap()[0].contains("\r\nHost: localhost\r\n"));
}

#[test]
fn a_proxy_header_of_nobody_goes_first_where_endpoints_expect_one() {
    let origin = Origin::raw(|mut stream, _| {
        let mut header = [0; 16];
        let is_local = std::io::Read::read_exact(&mut stream, &mut header).is_ok() && header[12..14] == [0x20, 0];
        let rest = u16::from_be_bytes([header[14], header[15]]);
        let _ = std::io::Read::read_exact(&mut stream, &mut vec![0; rest.into()]);
        crate::support::read_head(&mut stream, &mut Vec::new());
        answer(&mut stream, if is_local { 200 } else { 500 }, "");
    });
    assert_eq!(check_alone(&origin.address.to_string(), "send_proxy = \"v2\"\nhealth = { path = \"/ready\" }", "up"), "");
}

#[test]
fn tls_is_as_strict_for_probes_as_for_requests() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let origin = TlsOrigin::answering(
        TlsOrigin::config(&authority.sign("app", &["app.internal"]), None),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    let check = |ca: &Authority, health: &str, state: &str| {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("ca.crt"), &ca.cert).unwrap();
        let keys = format!("tls = {{ ca = \"ca.crt\", server_name = \"app.internal\" }}\nhealth = {health}");
        let rig = Rig::start_in(directory, &config(&named([("a", origin.address)]), &keys));
        check_found(&rig, state)
    };
    for health in ["{ tls = true }", "{ path = \"/ready\" }", "{ tcp = true }"] {
        assert_eq!(check(&authority, health, "up"), "", "{health}");
    }
    for health in ["{ tls = true }", "{ path = \"/ready\" }"] {
        let said = check(&stranger, health, "sick");
        assert!(said.starts_with("no TLS: unknown issuer"), "{said}");
    }
    // A connection is a connection, whoever answers.
    check(&stranger, "{ tcp = true }", "up");
    assert_eq!(origin.seen().iter().filter(|requests| !requests.is_empty()).count(), 1);
}

#[test]
fn http2_endpoints_are_asked_over_http2() {
    let authority = Authority::new("ours");
    let status = Arc::new(AtomicU16::new(200));
    let script = || {
        let says = Arc::clone(&status);
        move |mut ask: crate::support::http2_origin::Ask| {
            let status = says.load(SeqCst);
            async move {
                let fields = ask.request.headers();
                let is_ours = ask.path() == "/ready" && fields.get("user-agent").is_some_and(|agent| agent == "attache-health");
                ask.head(if is_ours { status } else { 400 }, &[], true);
            }
        }
    };
    let tls = TlsOrigin::config(&authority.sign("app", &["app.internal"]), None);
    let (plain, behind_tls) = (Origin2::run(None, script()), Origin2::run(Some(tls), script()));
    let check = |address: SocketAddr, keys: &str, state: &str| {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("ca.crt"), &authority.cert).unwrap();
        let keys = format!("{keys}\nhealth = {{ path = \"/ready\" }}");
        let rig = Rig::start_in(directory, &config(&named([("a", address)]), &keys));
        check_found(&rig, state)
    };
    let tls = "tls = { ca = \"ca.crt\", server_name = \"app.internal\" }";
    for (said, state, detail) in [(200, "up", ""), (503, "sick", "answered 503, expected 200-399")] {
        status.store(said, SeqCst);
        assert_eq!(check(plain.address, "protocol = \"h2\"", state), detail);
        assert_eq!(check(behind_tls.address, &format!("protocol = \"h2\"\n{tls}"), state), detail);
        assert_eq!(check(behind_tls.address, &format!("protocol = \"auto\"\n{tls}"), state), detail);
    }
    let said = check(Origin::ok("").address, "protocol = \"h2\"", "sick");
    assert!(said.starts_with("no answer over HTTP/2"), "{said}");
}

#[test]
fn a_reload_keeps_what_was_found() {
    let (a, b, c) = (Switch::new("a", 500), Switch::new("b", 200), Switch::new("c", 200));
    let keys = "health = { path = \"/ready\", interval = \"1h\" }";
    let rig = Rig::start(&config(&named([("a", a.origin.address), ("b", b.origin.address)]), keys));
    until_state(&rig, "a", "sick");
    eventually("b was asked", || !endpoint(&rig, "b")["checked_at"].is_null());
    // It would say otherwise now, but is not asked before its time.
    a.say(200);
    let checked_at = endpoint(&rig, "a")["checked_at"].clone();
    rig.reloaded(&config(&named([("a", a.origin.address), ("b", b.origin.address), ("c", c.origin.address)]), keys));
    assert_eq!((endpoint(&rig, "a")["state"].as_str(), &endpoint(&rig, "a")["checked_at"]), (Some("sick"), &checked_at));
    until_state(&rig, "c", "up");
    let answers = answers(&rig, 10);
    assert!(answers.contains('b') && answers.contains('c') && !answers.contains('a'), "{answers}");
    assert_eq!((a.probes().len(), b.probes().len(), c.probes().len()), (1, 1, 1));
}

/// Serves at once, and answers probes once the gate is open.
fn late(gate: &Arc<(Mutex<bool>, Condvar)>) -> Origin {
    let held = Arc::clone(gate);
    Origin::run(move |stream, request, _| {
        if is_probe(request) {
            let (is_open, opened) = &*held;
            drop(opened.wait_while(is_open.lock().unwrap(), |is_open| !*is_open).unwrap());
        }
        answer(stream, 200, "b")
    })
}

#[test]
fn who_joins_a_pool_that_serves_gets_nothing_before_its_first_probe() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let late = late(&gate);
    let a = Switch::new("a", 200);
    let keys = "health = { path = \"/ready\", interval = \"1h\", timeout = \"1h\" }";
    let rig = Rig::start(&config(&named([("a", a.origin.address)]), keys));
    eventually("a was asked", || !endpoint(&rig, "a")["checked_at"].is_null());
    rig.reloaded(&config(&named([("a", a.origin.address), ("b", late.address)]), keys));
    assert_eq!(endpoint(&rig, "b")["state"], "unproven");
    eventually("b is being asked", || late.seen().len() == 1);
    assert_eq!((answers(&rig, 10).as_str(), late.seen().len()), ("aaaaaaaaaa", 1));
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    until_state(&rig, "b", "up");
    assert!(answers(&rig, 4).contains('b'));
    eventually("the log says so", || rig.log().contains("well, and takes requests from now on"));
}

// Seen: requests were refused until the first probe of the new endpoint had ended.
#[test]
fn a_reload_that_replaces_everybody_refuses_nobody() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let late = late(&gate);
    let a = Switch::new("a", 200);
    let keys = "health = { path = \"/ready\", interval = \"1h\", timeout = \"1h\" }";
    let rig = Rig::start(&config(&named([("a", a.origin.address)]), keys));
    rig.reloaded(&config(&named([("b", late.address)]), keys));
    assert_eq!((answers(&rig, 2).as_str(), endpoint(&rig, "b")["state"].as_str()), ("bb", Some("unproven")));
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    until_state(&rig, "b", "up");
}

#[test]
fn who_joins_and_is_sick_gets_nothing() {
    let (a, b) = (Switch::new("a", 200), Switch::new("b", 500));
    let keys = "health = { path = \"/ready\", interval = \"1h\" }";
    let rig = Rig::start(&config(&named([("a", a.origin.address)]), keys));
    rig.reloaded(&config(&named([("a", a.origin.address), ("b", b.origin.address)]), keys));
    until_state(&rig, "b", "sick");
    assert_eq!((answers(&rig, 6).as_str(), b.requests()), ("aaaaaa", 0));
}

#[test]
fn without_health_nobody_is_sick() {
    let (a, b) = (Switch::new("a", 500), Switch::new("b", 200));
    let endpoints = named([("a", a.origin.address), ("b", b.origin.address)]);
    let rig = Rig::start(&config(&endpoints, "health = { path = \"/ready\", interval = \"1h\" }"));
    until_state(&rig, "a", "sick");
    rig.reloaded(&config(&endpoints, ""));
    until_state(&rig, "a", "up");
    assert_eq!(rig.metric("attache_endpoint_up{service=\"app\",endpoint=\"a\"}"), 1.0);
    assert!(endpoint(&rig, "a").get("checked_at").is_none());
    assert!(answers(&rig, 4).contains('a'));
    // And what was found before counts for nothing.
    a.say(200);
    rig.reloaded(&config(&endpoints, "health = { path = \"/ready\", interval = \"1h\" }"));
    eventually("a is asked again", || a.probes().len() == 2 && !endpoint(&rig, "a")["checked_at"].is_null());
    assert_eq!(endpoint(&rig, "a")["state"], "up");
}

#[test]
fn who_is_gone_is_asked_no_more() {
    let (a, b) = (Switch::new("a", 200), Switch::new("b", 200));
    let keys = format!("health = {{ path = \"/ready\", {OFTEN} }}");
    let rig = Rig::start(&config(&named([("a", a.origin.address), ("b", b.origin.address)]), &keys));
    eventually("both are asked", || a.probes().len() > 1 && b.probes().len() > 1);
    rig.reloaded(&config(&named([("a", a.origin.address)]), &keys));
    let (asked, gone) = (a.probes().len(), b.probes().len());
    eventually("a is asked again and again", || a.probes().len() > asked + 5);
    // One may have been on its way.
    assert!(b.probes().len() <= gone + 1, "{} more", b.probes().len() - gone);
}

/// What the figures are of.
const MANY: usize = 1000;

#[test]
fn a_thousand_endpoints_are_asked_one_after_another_and_cost_little() {
    let _alone = alone();
    let mut command = optimised(&["release", "quick"]).map_or_else(binary, std::process::Command::new);
    // What is freed is given back at once, so that what is resident is what is held.
    command.env("MIMALLOC_PURGE_DELAY", "0");
    let arrivals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let is_counting = Arc::new(AtomicBool::new(true));
    let (times, counts) = (Arc::clone(&arrivals), Arc::clone(&is_counting));
    let origin = Origin::raw(move |mut stream, _| {
        if counts.load(SeqCst) {
            times.lock().unwrap().push(Instant::now());
        }
        if crate::support::read_head(&mut stream, &mut Vec::new()).is_some() {
            answer(&mut stream, 200, "");
        }
    });
    let names: Vec<String> = (0..=MANY).map(|number| format!("endpoint-{number}")).collect();
    let pool = |count: usize| {
        let endpoints: Vec<(&str, String)> = names[..count].iter().map(|name| (name.as_str(), origin.address.to_string())).collect();
        config(&endpoints, "health = { path = \"/ready\" }")
    };
    let rig = Rig::start_with(command, TempDir::new().unwrap(), &pool(1));
    // What the first reloads bring into memory is not the endpoints'.
    for _ in 0..3 {
        rig.reloaded(&(pool(1) + "# again"));
        rig.reloaded(&pool(1));
    }
    eventually("the first is asked", || !arrivals.lock().unwrap().is_empty());
    arrivals.lock().unwrap().clear();
    let before = rig.resident();
    rig.reloaded(&pool(MANY + 1));
    eventually("all are asked", || arrivals.lock().unwrap().len() >= MANY);
    is_counting.store(false, SeqCst);
    // Before anybody asks the admin API, whose answer is as large.
    let after = rig.resident();
    until_state(&rig, &names[MANY], "up");
    let mut arrivals = arrivals.lock().unwrap().clone();
    arrivals.sort_unstable();
    let first = arrivals[0];
    let mut tenths = vec![0_usize; 1];
    for at in &arrivals {
        let tenth = (at.duration_since(first).as_millis() / 100) as usize;
        tenths.resize(tenths.len().max(tenth + 1), 0);
        tenths[tenth] += 1;
    }
    let most = tenths.iter().max().unwrap();
    let each = after.saturating_sub(before) / MANY as u64;
    println!(
        "{} probes in {} ms, at most {most} within 100 ms",
        arrivals.len(),
        arrivals[arrivals.len() - 1].duration_since(first).as_millis()
    );
    println!("{MANY} endpoints: {} KiB before, {} KiB after, {each} bytes each", before >> 10, after >> 10);
    // Ten are meant; a machine that stands still for a moment has some catching up to do.
    assert!(*most <= 100, "{tenths:?}");
    assert!(each <= 3 << 10, "{each} bytes each");
}
