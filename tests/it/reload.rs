//! Reloads: each takes effect at once and as a whole, or not at all, and nobody notices but by the answers.
//!
//! The watcher has tests of its own; here a reload is asked for by signal or by the admin API.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustls::HandshakeKind;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Answer, Client, Next, Origin, Pair, Read1, Rig, binary, eventually, free_address, handshake, trusting_config};

/// A listener whose every answer is `body`.
fn saying(name: &str, address: impl std::fmt::Display, body: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\nlisten = \"{address}\"\nservice = \"{name}\"\n[service.{name}.respond]\nbody = \"{body}\"\n")
}

/// The same over TLS, with the certificate `{dir}/CERT.crt`.
fn saying_tls(name: &str, address: impl std::fmt::Display, body: &str, cert: &str) -> String {
    let tls = format!("tls = {{ cert = \"{{dir}}/{cert}.crt\", key = \"{{dir}}/{cert}.key\" }}\nservice = \"{name}\"\n");
    saying(name, address, body).replacen(&format!("service = \"{name}\"\n"), &tls, 1)
}

fn said(address: SocketAddr) -> String {
    Client::tcp(address).unwrap().ask("GET", "/").unwrap().text()
}

/// The body and whether the connection may be used again.
fn next(client: &mut Client) -> (String, bool) {
    let answer = client.request("GET", "/").unwrap();
    (answer.text(), answer.header("connection") != Some("close"))
}

fn generation(rig: &Rig) -> u64 {
    rig.admin_json("/status")["generation"].as_u64().unwrap()
}

/// `what kind effect` of each change, sorted.
fn changes(answer: &Value) -> Vec<String> {
    let one = |change: &Value| ["what", "kind", "effect"].map(|key| change[key].as_str().unwrap().to_owned()).join(" | ");
    let mut changes: Vec<_> = answer["changes"].as_array().unwrap().iter().map(one).collect();
    changes.sort();
    changes
}

fn errors(answer: &Answer) -> String {
    assert_eq!(answer.status, 422, "{}", answer.text());
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    answer["errors"].as_array().unwrap().iter().map(|error| error.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn post_reload_answers_with_the_new_generation_and_what_changed() {
    let rig = Rig::start(&saying("web", "127.0.0.1:0", "one"));
    let answer = rig.reloaded(&saying("web", "127.0.0.1:0", "two"));
    assert_eq!(answer["generation"], 2);
    assert_eq!(changes(&answer), ["service web | changed | in place"]);
    assert_eq!((generation(&rig), said(rig.address("web"))), (2, "two".to_owned()));
}

#[test]
fn sighup_reloads() {
    let rig = Rig::start(&saying("web", "127.0.0.1:0", "one"));
    rig.write(&saying("web", "127.0.0.1:0", "two"));
    rig.signal("HUP");
    eventually("the new generation serves", || said(rig.address("web")) == "two");
    assert!(generation(&rig) >= 2);
    eventually("the log says so", || rig.log().contains("reloaded"));
}

#[test]
fn a_reload_without_a_change_is_a_new_generation_all_the_same() {
    let config = saying("web", "127.0.0.1:0", "one");
    let rig = Rig::start(&config);
    let answer = rig.reloaded(&config);
    assert_eq!((answer["generation"].as_u64(), changes(&answer).len()), (Some(2), 0));
}

#[test]
fn a_broken_configuration_changes_nothing_and_is_told_of_everywhere() {
    let rig = Rig::start(&saying("web", "127.0.0.1:0", "one"));
    let mut kept = rig.connect("web");
    next(&mut kept);
    let broken = saying("web", "127.0.0.1:0", "two").replace("body", "bodi");
    let said_no = errors(&rig.reload(&broken));
    assert!(said_no.contains("attache.toml:") && said_no.contains("bodi"), "{said_no}");
    assert_eq!(next(&mut kept), ("one".to_owned(), true));
    let status = rig.admin_json("/status");
    assert_eq!((&status["generation"], &status["last_reload"]["ok"]), (&Value::from(1), &Value::from(false)));
    assert!(status["last_reload"]["errors"][0].as_str().unwrap().contains("bodi"));
    assert!(rig.metric("attache_config_reloads_total{outcome=\"failed\"}") >= 1.0);
    assert_eq!(rig.metric("attache_config_last_reload_successful").to_bits(), 0.0_f64.to_bits());
    eventually("the log says why", || rig.log().contains("reload refused") && rig.log().contains("bodi"));
    rig.reloaded(&saying("web", "127.0.0.1:0", "three"));
    assert_eq!(rig.admin_json("/status")["last_reload"]["ok"], true);
    assert_eq!(rig.metric("attache_config_last_reload_successful").to_bits(), 1.0_f64.to_bits());
    assert_eq!(next(&mut kept), ("three".to_owned(), true));
}

#[test]
fn routes_endpoints_weights_and_limits_change_under_a_kept_connection() {
    let (a, b) = (Origin::ok("a"), Origin::ok("b"));
    let config = |endpoints: &str, rest: &str| {
        format!(
            "[service.app]\nendpoints = [{endpoints}]\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n{rest}"
        )
    };
    let weighted = |a_weight: u32, b_weight: u32| {
        let endpoint = |origin: &Origin, weight| format!("{{ address = \"{}\", weight = {weight} }}", origin.address);
        config(&format!("{}, {}", endpoint(&a, a_weight), endpoint(&b, b_weight)), "")
    };
    let rig = Rig::start(&config(&format!("\"{}\"", a.address), ""));
    let mut kept = rig.connect("web");
    assert_eq!(next(&mut kept).0, "a");
    rig.reloaded(&config(&format!("\"{}\"", b.address), ""));
    assert_eq!(next(&mut kept).0, "b");
    rig.reloaded(&weighted(1, 0));
    let answers: String = (0..4).map(|_| next(&mut kept).0).collect();
    assert_eq!(answers, "aaaa");
    rig.reloaded(&weighted(3, 1));
    let mut answers: Vec<_> = (0..8).map(|_| next(&mut kept).0).collect();
    answers.sort();
    assert_eq!(answers.concat(), "aaaaaabb");
    rig.reloaded(&config(&format!("\"{}\"", a.address), "[[listener.route]]\npath = \"/\"\nrespond = { body = \"route\" }\n"));
    assert_eq!(next(&mut kept).0, "route");
    rig.reloaded(&config(&format!("\"{}\"", a.address), "[listener.limits]\nheader_bytes = \"1KiB\"\nuri_bytes = \"1KiB\"\n"));
    kept.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "x".repeat(2000))).unwrap();
    let Read1::Answer(answer) = kept.read("GET").unwrap() else { panic!("no answer") };
    assert_eq!(answer.status, 431);
}

#[test]
fn timeouts_change_under_a_kept_connection() {
    let slow = Origin::run(|_, _, _| {
        std::thread::sleep(Duration::from_secs(5));
        Next::Close
    });
    let config = |timeout: &str| {
        format!(
            "[service.app]\nendpoints = [\"{}\"]\ntimeouts = {{ response = \"{timeout}\" }}\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n",
            slow.address
        )
    };
    let rig = Rig::start(&config("60s"));
    let mut kept = rig.connect("web");
    rig.reloaded(&config("100ms"));
    assert_eq!(kept.request("GET", "/").unwrap().status, 504);
}

#[test]
fn a_certificate_replaced_under_its_name_is_served_from_the_next_handshake_on() {
    let directory = TempDir::new().unwrap();
    let (one, two) = (Pair::of(&["a.example"]), Pair::of(&["a.example"]));
    one.write(directory.path(), "site");
    let config = saying_tls("web", "127.0.0.1:0", "hello", "site");
    let rig = Rig::start_in(directory, &config);
    let served = || {
        let session = handshake(rig.address("web"), "a.example", trusting_config(None)).unwrap();
        session.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let before = served();
    let mut kept = Client::tls(rig.address("web"), "a.example").unwrap();
    two.write(rig.directory.path(), "site");
    rig.reloaded(&config);
    let after = served();
    assert_ne!(before, after);
    eventually("the change is told", || rig.log().contains("changes=1"));
    assert_eq!(next(&mut kept), ("hello".to_owned(), true), "the old connection lives on");
    std::fs::write(rig.directory.path().join("site.key"), &one.key).unwrap();
    let said_no = errors(&rig.reload(&config));
    assert!(said_no.contains("site."), "a key that does not match is refused: {said_no}");
    assert_eq!(served(), after);
}

#[test]
fn a_session_from_before_a_reload_is_resumed_after_it() {
    let directory = TempDir::new().unwrap();
    Pair::of(&["a.example"]).write(directory.path(), "site");
    let rig = Rig::start_in(directory, &saying_tls("web", "127.0.0.1:0", "one", "site"));
    let config = trusting_config(None);
    let kind = || {
        let mut session = handshake(rig.address("web"), "a.example", Arc::clone(&config)).unwrap();
        session.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").unwrap();
        // Tickets come with the answer.
        session.read_to_end(&mut Vec::new()).unwrap();
        session.conn.handshake_kind()
    };
    assert_eq!(kind(), Some(HandshakeKind::Full));
    rig.reloaded(&saying_tls("web", "127.0.0.1:0", "two", "site"));
    assert_eq!(kind(), Some(HandshakeKind::Resumed));
    Pair::of(&["a.example"]).write(rig.directory.path(), "site");
    rig.reloaded(&saying_tls("web", "127.0.0.1:0", "two", "site"));
    assert_eq!(kind(), Some(HandshakeKind::Resumed), "also after a renewed certificate");
}

#[test]
fn a_listener_is_added_and_removed_and_added_again() {
    let (web, extra) = (free_address(), free_address());
    let one = saying("web", web, "web");
    let both = format!("{one}{}", saying("extra", extra, "extra"));
    let rig = Rig::start(&one);
    // Only now: later the watcher may be sooner than we are, and what it did is no change any more.
    assert!(changes(&rig.reloaded(&both)).contains(&"listener extra | added | binds".to_owned()));
    rig.reloaded(&one);
    for _ in 0..5 {
        rig.reloaded(&both);
        assert_eq!(said(extra), "extra");
        rig.reloaded(&one);
        assert_eq!(Client::tcp(extra).err().map(|error| error.kind()), Some(std::io::ErrorKind::ConnectionRefused));
    }
    assert_eq!(said(web), "web");
}

#[test]
fn a_kept_connection_of_a_removed_listener_gets_one_more_answer() {
    let (web, extra) = (free_address(), free_address());
    let one = saying("web", web, "web");
    let rig = Rig::start(&format!("{one}{}", saying("extra", extra, "extra")));
    let mut kept = Client::tcp(extra).unwrap();
    let mut idle = Client::tcp(extra).unwrap();
    assert_eq!((next(&mut kept), next(&mut idle)), (("extra".to_owned(), true), ("extra".to_owned(), true)));
    assert!(changes(&rig.reloaded(&one)).contains(&"listener extra | removed | drains".to_owned()));
    assert_eq!(next(&mut kept), ("extra".to_owned(), false));
    assert!(kept.is_closed());
    assert!(idle.is_closed(), "an idle one is closed without an answer, after a while");
}

#[test]
fn a_port_moves_from_one_listener_to_another() {
    let (here, there) = (free_address(), free_address());
    let rig = Rig::start(&format!("{}{}", saying("a", here, "a"), saying("b", there, "b")));
    let mut kept = Client::tcp(here).unwrap();
    assert_eq!(next(&mut kept), ("a".to_owned(), true));
    rig.reloaded(&format!("{}{}", saying("a", there, "a"), saying("b", here, "b")));
    assert_eq!((said(here), said(there)), ("b".to_owned(), "a".to_owned()));
    assert_eq!(next(&mut kept), ("b".to_owned(), true), "the connection goes with its port");
}

#[test]
fn a_port_turns_to_tls_and_back() {
    let address = free_address();
    let directory = TempDir::new().unwrap();
    Pair::of(&["a.example"]).write(directory.path(), "site");
    let rig = Rig::start_in(directory, &saying("plain", address, "plain"));
    let mut kept = Client::tcp(address).unwrap();
    let mut idle = Client::tcp(address).unwrap();
    assert_eq!(next(&mut kept), ("plain".to_owned(), true));
    next(&mut idle);
    rig.reloaded(&saying_tls("secret", address, "secret", "site"));
    assert_eq!(next(&mut kept), ("plain".to_owned(), false), "no plain connection is served what is meant for TLS");
    assert!(idle.is_closed());
    let mut kept = Client::tls(address, "a.example").unwrap();
    assert_eq!(next(&mut kept), ("secret".to_owned(), true));
    rig.reloaded(&saying("plain", address, "plain"));
    assert_eq!(next(&mut kept), ("secret".to_owned(), false));
    assert_eq!(said(address), "plain");
}

#[test]
fn a_listener_moves_to_an_overlapping_address() {
    let specific = free_address();
    let wide = format!("0.0.0.0:{}", specific.port());
    let rig = Rig::start(&saying("web", specific, "one"));
    rig.reloaded(&saying("web", &wide, "two"));
    assert_eq!(said(specific), "two");
    rig.reloaded(&saying("web", specific, "three"));
    assert_eq!(said(specific), "three");
}

#[test]
fn a_port_that_is_taken_makes_the_whole_reload_fail() {
    let (web, fresh) = (free_address(), free_address());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::start(&saying("web", web, "one"));
    let files = rig.open_files();
    let config = format!(
        "{}{}{}{}",
        saying("web", web, "two"),
        saying("fresh", fresh, "fresh"),
        saying("taken", taken.local_addr().unwrap(), "taken"),
        saying("socket", "unix:{dir}/web.sock", "socket"),
    );
    let said_no = errors(&rig.reload(&config));
    assert!(said_no.contains("cannot listen on") && said_no.contains("in use"), "{said_no}");
    assert_eq!((said(web), generation(&rig)), ("one".to_owned(), 1));
    assert!(Client::tcp(fresh).is_err(), "nothing of the refused configuration listens");
    assert!(!rig.directory.path().join("web.sock").exists());
    eventually("no socket is left open", || rig.open_files() <= files);
    drop(taken);
    rig.reloaded(&config);
    assert_eq!((said(web), said(fresh)), ("two".to_owned(), "fresh".to_owned()));
}

#[test]
fn a_socket_whose_owner_takes_nobody_in_is_taken_all_the_same() {
    let rig = Rig::start(&saying("web", "127.0.0.1:0", "hello"));
    let address = socket2::SockAddr::unix(rig.directory.path().join("busy.sock")).unwrap();
    let socket = || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let owner = socket();
    owner.bind(&address).unwrap();
    owner.listen(0).unwrap();
    let mut queue = Vec::new();
    loop {
        let next = socket();
        next.set_nonblocking(true).unwrap();
        if next.connect(&address).is_err() {
            break;
        }
        queue.push(next);
    }
    let config = format!("{}{}", saying("web", "127.0.0.1:0", "hello"), saying("busy", "unix:{dir}/busy.sock", "busy"));
    let said_no = errors(&rig.reload(&config));
    assert!(said_no.contains("cannot listen on") && said_no.contains("in use"), "{said_no}");
    assert_eq!(rig.admin("GET", "/readyz").status, 200);
}

#[test]
fn the_access_log_changes_its_format_and_its_place() {
    let config = |log: &str| format!("[log]\n{log}\n{}", saying("web", "127.0.0.1:0", "hello"));
    let rig = Rig::start(&config("access = \"off\""));
    let mut kept = rig.connect("web");
    next(&mut kept);
    rig.reloaded(&config("access = \"json\""));
    next(&mut kept);
    eventually("a record in JSON", || rig.out().lines().filter(|line| line.starts_with('{')).count() == 1);
    rig.reloaded(&config("access = \"common\""));
    next(&mut kept);
    eventually("a record in the common format", || rig.out().lines().filter(|line| line.contains("\"GET / HTTP/1.1\" 200")).count() == 1);
    rig.reloaded(&config("access = \"common\"\nto = \"{dir}/access.log\""));
    next(&mut kept);
    let log = || std::fs::read_to_string(rig.directory.path().join("access.log")).unwrap_or_default();
    eventually("a record in the file", || log().lines().count() == 1);
    let said_no = errors(&rig.reload(&config("access = \"common\"\nto = \"{dir}/none/access.log\"")));
    assert!(said_no.contains("access log"), "{said_no}");
    next(&mut kept);
    eventually("the old file goes on", || log().lines().count() == 2);
    rig.reloaded(&config("access = \"off\""));
    next(&mut kept);
    assert_eq!((log().lines().count(), rig.out().lines().count()), (2, 2));
}

#[test]
fn the_admin_address_changes() {
    let (first, second) = (free_address(), free_address());
    let wide = format!("0.0.0.0:{}", second.port());
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("attache.toml");
    let write = |admin: &str| {
        let text = format!("[admin]\nlisten = \"{admin}\"\n{}", saying("web", "127.0.0.1:0", "one"));
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &path).unwrap();
    };
    write(&first.to_string());
    let mut child = binary().arg("run").arg("-c").arg(&path).stderr(std::process::Stdio::null()).spawn().unwrap();
    let ready = |address| Client::tcp(address).and_then(|client| client.ask("GET", "/readyz")).is_ok_and(|answer| answer.status == 200);
    eventually("the first address answers", || ready(first));
    write(&second.to_string());
    assert_eq!(Client::tcp(first).unwrap().ask("POST", "/reload").unwrap().status, 200);
    eventually("the second address answers", || ready(second));
    eventually("the first is closed", || Client::tcp(first).is_err());
    write(&wide);
    assert_eq!(Client::tcp(second).unwrap().ask("POST", "/reload").unwrap().status, 200, "addresses may overlap");
    eventually("it still answers", || ready(second));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_number_of_workers_is_said_to_need_a_restart() {
    let config = |workers: u32| format!("[process]\nworkers = {workers}\n{}", saying("web", "127.0.0.1:0", "one"));
    let rig = Rig::start(&config(1));
    assert_eq!(changes(&rig.reloaded(&config(2))), ["process workers | changed | needs a restart"]);
    assert_eq!(said(rig.address("web")), "one");
}

#[test]
fn a_request_in_flight_ends_on_the_generation_it_began_with() {
    let (tell, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let old = Origin::run(move |stream, _, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nold").unwrap();
        told.lock().unwrap().recv().unwrap();
        stream.write_all(b"est").unwrap();
        Next::Keep
    });
    let config = |service: &str, tag: &str| {
        format!(
            "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\npath = \"/*\"\nservice = \"{service}\"\nresponse_headers = {{ set = {{ x-tag = \"{tag}\" }} }}\n"
        )
    };
    let fresh = Origin::ok("new");
    let rig = Rig::start(&config(&old.address.to_string(), "one"));
    let mut kept = rig.connect("web");
    kept.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the origin has it", || old.seen().len() == 1);
    rig.reloaded(&config(&fresh.address.to_string(), "two"));
    assert_eq!(rig.connect("web").ask("GET", "/").unwrap().text(), "new");
    tell.send(()).unwrap();
    let Read1::Answer(answer) = kept.read("GET").unwrap() else { panic!("no answer") };
    assert_eq!((answer.text().as_str(), answer.header("x-tag")), ("oldest", Some("one")));
    let answer = kept.request("GET", "/").unwrap();
    assert_eq!((answer.text().as_str(), answer.header("x-tag")), ("new", Some("two")));
}

#[test]
fn connections_of_untouched_listeners_outlive_fifty_reloads() {
    let (web, other) = (free_address(), free_address());
    let directory = TempDir::new().unwrap();
    Pair::of(&["a.example"]).write(directory.path(), "site");
    let secure = free_address();
    let config = |round: usize| {
        let mut config = format!("{}{}", saying("web", web, "web"), saying_tls("secure", secure, "secure", "site"));
        if round % 2 == 1 {
            let _ = write!(config, "{}", saying("other", other, &round.to_string()));
        }
        config
    };
    let rig = Rig::start_in(directory, &config(0));
    let mut plain = Client::tcp(web).unwrap();
    let mut tls = Client::tls(secure, "a.example").unwrap();
    for round in 1..=50 {
        rig.reloaded(&config(round));
        assert_eq!(next(&mut plain), ("web".to_owned(), true), "round {round}");
        assert_eq!(next(&mut tls), ("secure".to_owned(), true), "round {round}");
    }
}

#[test]
fn reloads_leak_neither_memory_nor_descriptors() {
    let directory = TempDir::new().unwrap();
    Pair::of(&["a.example"]).write(directory.path(), "site");
    let origin = Origin::ok("hello");
    let (secure, web) = (free_address(), free_address());
    let config = |round: usize| {
        let mut config = saying_tls("secure", secure, &round.to_string(), "site");
        let _ = write!(config, "[[listener]]\nname = \"web\"\nlisten = \"{web}\"\nservice = \"{}\"\n", origin.address);
        for route in 0..200 {
            let _ = write!(config, "[[listener.route]]\npath = \"/{round}/{route}/*\"\nrespond = {{ body = \"{route}\" }}\n");
        }
        config
    };
    let rig = Rig::start_in(directory, &config(0));
    // One connection of each of many generations stays: it must not keep its generation.
    let mut kept = Vec::new();
    let mut marks = Vec::new();
    for round in 1..=300 {
        rig.reloaded(&config(round));
        if round % 5 == 0 && round <= 50 {
            kept.push(Client::tcp(web).unwrap());
        }
        for client in &mut kept {
            if round % 50 == 0 {
                assert_eq!(next(client), ("hello".to_owned(), true));
            }
        }
        if round == 50 || round == 300 {
            marks.push((rig.resident(), rig.open_files()));
        }
    }
    let [(resident, files), (resident_after, files_after)] = marks[..] else { unreachable!("two marks") };
    let grown = resident_after.saturating_sub(resident);
    println!("resident {} KiB after 50 reloads, {} KiB more after 300; {files} and {files_after} descriptors", resident >> 10, grown >> 10);
    assert!(grown < 4 << 20, "grown by {grown} bytes");
    assert!(files_after <= files + 4, "{files} descriptors became {files_after}");
}

#[test]
fn a_second_process_on_the_same_port_does_not_start() {
    let address = free_address();
    let rig = Rig::start(&saying("web", address, "first"));
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("attache.toml");
    let admin = format!("[admin]\nlisten = \"unix:{}\"\n", directory.path().join("admin.sock").display());
    std::fs::write(&path, format!("{admin}{}", saying("web", address, "second"))).unwrap();
    let output = binary().arg("run").arg("-c").arg(&path).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("cannot listen on") && told.contains(&address.to_string()), "{told}");
    for _ in 0..20 {
        assert_eq!(said(address), "first");
    }
    assert_eq!(generation(&rig), 1);
}

#[test]
fn the_permissions_of_a_unix_socket_change_in_place() {
    use std::os::unix::fs::PermissionsExt as _;
    let config = |mode: &str| saying("web", "unix:{dir}/web.sock", "hello").replacen("service", &format!("mode = \"{mode}\"\nservice"), 1);
    let rig = Rig::start(&config("0600"));
    let path = rig.directory.path().join("web.sock");
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    rig.reloaded(&config("0666"));
    assert_eq!(mode(), 0o666);
    assert_eq!(Client::unix(&path).unwrap().ask("GET", "/").unwrap().text(), "hello");
}
