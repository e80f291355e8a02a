//! The admin API: every endpoint, over TCP and a unix socket, asked well and asked badly.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::support::{Answer, Client, Origin, Read1, Rig, eventually};

const WEB: &str = "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n[service.app]\nendpoints = [{ address = \"127.0.0.1:1\", name = \"one\", weight = 3 }]\n";

/// All that may be read.
const GETS: &[&str] = &["/", "/healthz", "/readyz", "/metrics", "/status", "/config", "/listeners", "/services"];
const POSTS: &[&str] = &["/reload", "/drain", "/quit"];

fn json(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/json"));
    serde_json::from_slice(&answer.body).unwrap()
}

/// A port that was free a moment ago. The admin's own port cannot be asked for, as it is the admin API that tells ports.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Moves the admin API to TCP by a reload; tries again where somebody else took the port.
fn on_tcp(rig: &Rig, web: &str) -> SocketAddr {
    let mut address = free_port();
    eventually("the admin API moves to TCP", || {
        address = free_port();
        std::fs::write(
            rig.directory.path().join("attache.toml"),
            format!("[process]\nworkers = 2\n[admin]\nlisten = \"{address}\"\n{web}"),
        )
        .unwrap();
        rig.signal("HUP");
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while std::time::Instant::now() < patience {
            if Client::tcp(address).is_ok() {
                return true;
            }
        }
        false
    });
    address
}

#[test]
fn every_endpoint_answers() {
    let rig = Rig::start(WEB);
    assert_eq!(rig.admin("GET", "/healthz").text(), "ok\n");
    assert_eq!(rig.admin("GET", "/readyz").text(), "ready\n");

    let status = json(&rig.admin("GET", "/status"));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["generation"], &status["phase"]), (&1.into(), &"serving".into()));
    assert_eq!((&status["last_reload"]["ok"], &status["last_reload"]["errors"]), (&true.into(), &serde_json::json!([])));
    assert_eq!(status["hash"].as_str().map(str::len), Some(16));
    assert!(status["uptime"].as_f64().unwrap() >= 0.0);
    for at in [&status["loaded_at"], &status["last_reload"]["at"]] {
        assert!(at.as_str().is_some_and(|at| at.ends_with('Z')), "{at}");
    }

    let listeners = json(&rig.admin("GET", "/listeners"));
    assert_eq!((&listeners[0]["name"], &listeners[0]["protocol"], &listeners[0]["tls"]), (&"web".into(), &"http".into(), &false.into()));
    let services = json(&rig.admin("GET", "/services"));
    let endpoint = &services[0]["endpoints"][0];
    assert_eq!((&services[0]["name"], &services[0]["kind"]), (&"app".into(), &"pool".into()));
    assert_eq!((&endpoint["name"], &endpoint["weight"], &endpoint["in_flight"]), (&"one".into(), &3.into(), &0.into()));

    let document = json(&rig.admin("GET", "/config"));
    assert_eq!(document["service"]["app"]["endpoints"][0]["address"], "127.0.0.1:1");
    let metrics = rig.admin("GET", "/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.text().contains("attache_generation 1\n"));
}

#[test]
fn tls_listeners_show_their_certificates() {
    let rig = Rig::start(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\ntls = { self_signed = [\"a.example\"] }\nservice = \"127.0.0.1:1\"\n",
    );
    let listeners = rig.admin_json("/listeners");
    assert_eq!(listeners[0]["tls"], true);
    assert_eq!(listeners[0]["certificates"][0]["names"], serde_json::json!(["a.example"]));
}

#[test]
fn values_from_the_environment_stay_hidden() {
    let directory = tempfile::tempdir().unwrap();
    // The variable is one that every process has.
    let rig = Rig::start_in(directory, &format!("{WEB}[[listener]]\nname = \"${{PATH}}\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n"));
    let document = rig.admin("GET", "/config").text();
    assert!(document.contains("${PATH}") && !document.contains(&std::env::var("PATH").unwrap()), "{document}");
}

#[test]
fn the_secret_of_cookies_stays_hidden() {
    let rig = Rig::start(&format!("{WEB}[service.app.sticky]\ncookie = \"app\"\nsecret = \"0123456789abcdef\"\n"));
    let document = rig.admin("GET", "/config").text();
    assert!(document.contains("\"secret\": \"***\"") && !document.contains("0123456789abcdef"), "{document}");
}

#[test]
fn get_changes_nothing_and_the_wrong_method_is_told_the_right_one() {
    let mut rig = Rig::start(WEB);
    rig.write(&format!("{WEB}[[listener]]\nname = \"late\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n"));
    eventually("the file's change has been served", || rig.admin_json("/listeners").as_array().unwrap().len() == 2);
    let before = rig.admin_json("/status")["generation"].clone();
    for path in POSTS {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let answer = rig.admin(method, path);
            assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method} {path}");
        }
    }
    for path in &GETS[1..] {
        let answer = rig.admin("POST", path);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "POST {path}");
    }
    assert_eq!(rig.admin_json("/status")["generation"], before);
    assert!(rig.is_running());
    assert_eq!(rig.admin("GET", "/readyz").status, 200);
}

#[test]
fn a_web_page_cannot_change_anything() {
    let mut rig = Rig::start(WEB);
    for path in POSTS {
        // What a browser sends on behalf of any page, without asking first.
        let request = format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1:9901\r\nOrigin: https://a.example\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(send(&rig, request.as_bytes()), Some(403), "{path}");
    }
    assert!(rig.is_running());
    assert_eq!(rig.admin("GET", "/readyz").status, 200);
}

#[test]
fn head_is_get_without_the_body_and_queries_are_no_part_of_a_path() {
    let rig = Rig::start(WEB);
    for path in GETS {
        let (get, head) = (rig.admin("GET", path), rig.admin("HEAD", path));
        assert_eq!((get.status, head.status, head.body.len()), (200, 200, 0), "{path}");
        assert_eq!(get.header("content-type"), head.header("content-type"), "{path}");
        assert_eq!(rig.admin("GET", &format!("{path}?a=b")).status, 200, "{path}");
    }
}

#[test]
fn an_unknown_path_is_told_the_known_ones() {
    let rig = Rig::start(WEB);
    for path in ["/nothing", "/Status", "/status/", "//status", "/explained"] {
        let answer = rig.admin("GET", path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.text().contains("/status"), "{}", answer.text());
    }
}

#[test]
fn reload_answers_with_changes_or_with_errors() {
    let rig = Rig::start(WEB);
    let done = rig.reload(&WEB.replace("weight = 3", "weight = 4"));
    assert_eq!(done.status, 200);
    assert!(json(&done)["generation"].as_u64() >= Some(2));
    let same = json(&rig.admin("POST", "/reload"));
    assert_eq!(same["changes"], serde_json::json!([]));

    let before = rig.admin_json("/status")["generation"].clone();
    let refused = rig.reload(&WEB.replace("service = \"app\"", "servise = \"app\""));
    assert_eq!(refused.status, 422);
    let errors = json(&refused)["errors"].clone();
    assert!(errors[0].as_str().unwrap().contains("attache.toml:"), "{errors}");
    let status = rig.admin_json("/status");
    assert_eq!((&status["generation"], &status["last_reload"]["ok"]), (&before, &false.into()));
    assert_eq!(status["last_reload"]["errors"], errors);
    assert_eq!(rig.metric("attache_config_last_reload_successful"), 0.0);
}

#[test]
fn drain_and_quit_end_the_process() {
    let origin = Origin::ok("ok");
    let mut rig = Rig::start(&WEB.replace("127.0.0.1:1", &origin.address.to_string()));
    assert_eq!(rig.connect("web").ask("GET", "/").unwrap().status, 200);
    assert_eq!(rig.admin("POST", "/drain").status, 202);
    eventually("not ready any more", || rig.admin("GET", "/readyz").status == 503);
    assert_eq!(rig.admin("GET", "/readyz").text(), "draining\n");
    assert_eq!(rig.admin("GET", "/healthz").status, 200);
    assert_eq!(rig.admin("POST", "/quit").status, 202);
    assert_eq!(rig.ended().code, Some(0));
}

#[test]
fn the_api_moves_to_tcp_and_can_be_switched_off() {
    let rig = Rig::start(WEB);
    let path = rig.admin_path();
    let address = on_tcp(&rig, WEB);
    for path in GETS {
        assert_eq!(Client::tcp(address).unwrap().ask("GET", path).unwrap().status, 200, "{path}");
    }
    eventually("the unix socket is gone", || !path.exists());
    let mut kept = Client::tcp(address).unwrap();
    for _ in 0..3 {
        assert_eq!(kept.request("GET", "/healthz").unwrap().status, 200);
    }
    std::fs::write(rig.directory.path().join("attache.toml"), format!("[process]\nworkers = 2\n[admin]\noff = true\n{WEB}")).unwrap();
    rig.signal("HUP");
    eventually("nobody listens there", || Client::tcp(address).is_err());
}

#[test]
fn the_unix_socket_is_closed_to_strangers() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::start(WEB);
    assert_eq!(std::fs::metadata(rig.admin_path()).unwrap().permissions().mode() & 0o777, 0o660);
}

/// Sends bytes and returns the status they are answered with; `None` for a closed connection.
fn send(rig: &Rig, bytes: &[u8]) -> Option<u16> {
    let mut client = Client::unix(&rig.admin_path()).unwrap();
    // The answer may come, and the connection close, before all is sent.
    let _ = client.send(bytes);
    match client.read("GET").unwrap() {
        Read1::Answer(answer) => Some(answer.status),
        Read1::Closed | Read1::Cut(_) => None,
    }
}

#[test]
fn hostile_requests_are_refused_and_take_nothing_down() {
    let rig = Rig::start(WEB);
    let large = |what: &str| format!("GET /{what} HTTP/1.1\r\nHost: a\r\n");
    assert_eq!(send(&rig, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), Some(400));
    assert_eq!(send(&rig, b"nonsense\r\n\r\n"), Some(400));
    assert_eq!(send(&rig, b"GET /status HTTP/1.1\nHost: a\n\n"), Some(400));
    assert_eq!(
        send(&rig, b"POST /drain HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        Some(400)
    );
    assert_eq!(send(&rig, b"POST /drain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), Some(400));
    assert_eq!(send(&rig, b"POST /drain HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n"), Some(413));
    assert_eq!(send(&rig, large(&"a".repeat(20 << 10)).as_bytes()), Some(414));
    assert_eq!(send(&rig, (large("") + "X: " + &"b".repeat(128 << 10)).as_bytes()), Some(431));
    assert_eq!(send(&rig, (large("") + &"X: y\r\n".repeat(1000)).as_bytes()), Some(431));
    assert_eq!(rig.admin("GET", "/readyz").status, 200);
}

#[test]
fn many_slow_clients_do_not_keep_a_probe_out() {
    let rig = Rig::start(WEB);
    let slow: Vec<Client> = (0..600)
        .map(|_| {
            let mut client = Client::unix(&rig.admin_path()).unwrap();
            client.send("GET /sta").unwrap();
            client
        })
        .collect();
    let before = std::time::Instant::now();
    assert_eq!(rig.admin("GET", "/readyz").status, 200);
    assert!(before.elapsed() < std::time::Duration::from_secs(5), "{:?}", before.elapsed());
    drop(slow);
}

/// A body that ended early once passed for a whole one, and half a request reloaded.
#[test]
fn half_a_request_asks_for_nothing() {
    let rig = Rig::start(WEB);
    for part in ["", "GET", "POST /reload HTTP/1.1\r\nHost: a\r\n", "POST /reload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"] {
        let mut client = UnixStream::connect(rig.admin_path()).unwrap();
        client.write_all(part.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0, "{part}");
    }
    assert_eq!(rig.admin_json("/status")["generation"], 1);
}

#[test]
fn a_client_that_does_not_wait_for_its_answer_harms_nobody() {
    let rig = Rig::start(WEB);
    for _ in 0..100 {
        Client::unix(&rig.admin_path()).unwrap().send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    assert_eq!(rig.admin("GET", "/status").status, 200);
}
