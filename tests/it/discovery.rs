//! Endpoints that DNS and files name: who is found, who stays when nobody answers, and who notices nothing of it.
//!
//! Bounds and weights are tested beside their arithmetic; here a real name server answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Authority, Dns, Next, Origin, Rig, TlsOrigin, binary, eventually, free_address};

/// Answers with the address that was connected to, and counts connections by it.
struct Everywhere {
    origin: Origin,
    connections: Arc<Mutex<BTreeMap<String, usize>>>,
    /// Requests for `/slow` wait for this.
    is_released: Arc<AtomicBool>,
}

impl Everywhere {
    fn new() -> Self {
        let (connections, is_released): (Arc<Mutex<BTreeMap<String, usize>>>, Arc<AtomicBool>) = Default::default();
        let (counts, released) = (Arc::clone(&connections), Arc::clone(&is_released));
        let origin = Origin::everywhere(move |stream, request, number| {
            let ip = stream.local_addr().unwrap().ip().to_canonical().to_string();
            if number == 0 {
                *counts.lock().unwrap().entry(ip.clone()).or_default() += 1;
            }
            if request.line().starts_with("GET /slow") {
                eventually("the slow request is let go", || released.load(Ordering::Relaxed));
            }
            match write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{ip}", ip.len()) {
                Ok(()) => Next::Keep,
                Err(_) => Next::Close,
            }
        });
        Self { origin, connections, is_released }
    }

    fn port(&self) -> u16 {
        self.origin.address.port()
    }

    fn connections(&self, ip: &str) -> usize {
        self.connections.lock().unwrap().get(ip).copied().unwrap_or_default()
    }
}

/// A pool with these keys behind one worker, whose turns are exact.
fn pool(keys: &str) -> String {
    format!("[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n[service.app]\n{keys}\n")
}

/// `app.test` at the origin's port, asked for once a second.
fn asking(dns: &Dns, origin: &Everywhere) -> String {
    pool(&format!("discover = {{ dns = \"app.test:{}\", every = \"1s\", servers = [\"{}\"] }}", origin.port(), dns.address))
}

fn service(rig: &Rig) -> Value {
    rig.admin_json("/services")[0].clone()
}

/// Names of the pool's endpoints without their ports, in order.
fn members(rig: &Rig) -> Vec<String> {
    let service = service(rig);
    let name = |endpoint: &Value| endpoint["name"].as_str().unwrap().rsplit_once(':').unwrap().0.to_owned();
    let mut names: Vec<String> = service["endpoints"].as_array().unwrap().iter().map(name).collect();
    names.sort();
    names
}

#[track_caller]
fn has_members(rig: &Rig, expected: &[&str]) {
    eventually(&format!("the endpoints are {expected:?}"), || members(rig) == expected);
}

/// Why the latest look-up failed; empty if it did not.
fn error(rig: &Rig) -> String {
    service(rig)["discovered"][0]["error"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn fails(rig: &Rig, reason: &str) {
    eventually(&format!("a look-up fails: {reason}"), || error(rig).contains(reason));
}

fn get(rig: &Rig) -> String {
    let answer = rig.connect("web").ask("GET", "/").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// Who answered how many of so many requests.
fn shares(rig: &Rig, requests: usize) -> BTreeMap<String, usize> {
    let mut client = rig.connect("web");
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        *shares.entry(client.request("GET", "/").unwrap().text()).or_default() += 1;
    }
    shares
}

#[test]
fn both_kinds_of_addresses_are_endpoints() {
    let Some(dns) = Dns::start(&["--local-ttl=3600"]) else { return };
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let origin = Everywhere::new();
    dns.say(&[("app.test", "127.0.0.2"), ("app.test", "127.0.0.3"), ("app.test", "::1")]);
    let rig = Rig::start(&asking(&dns, &origin));
    has_members(&rig, &["127.0.0.2", "127.0.0.3", "[::1]"]);
    let shares = shares(&rig, 30);
    assert_eq!(shares, [("127.0.0.2", 10), ("127.0.0.3", 10), ("::1", 10)].map(|(ip, count)| (ip.to_owned(), count)).into());
    assert_eq!(rig.metric(r#"attache_endpoints{service="app"}"#), 3.0);
    assert!(rig.metric(r#"attache_discoveries_total{service="app",outcome="ok"}"#) >= 1.0);
}

#[test]
fn a_change_is_seen_when_the_ttl_is_over() {
    let Some(dns) = Dns::start(&["--local-ttl=1"]) else { return };
    let origin = Everywhere::new();
    dns.say(&[("app.test", "127.0.0.2")]);
    let discover = format!("discover = {{ dns = \"app.test:{}\", servers = [\"{}\"] }}", origin.port(), dns.address);
    let rig = Rig::start(&pool(&discover));
    has_members(&rig, &["127.0.0.2"]);
    dns.say(&[("app.test", "127.0.0.3")]);
    has_members(&rig, &["127.0.0.3"]);
    assert_eq!(get(&rig), "127.0.0.3");
}

/// An answer that holds for an hour is asked for again when the configuration says so, and no cache stands in between.
#[test]
fn a_fixed_pace_does_not_wait_for_the_ttl() {
    let Some(dns) = Dns::start(&["--local-ttl=3600"]) else { return };
    let origin = Everywhere::new();
    dns.say(&[("app.test", "127.0.0.2")]);
    let rig = Rig::start(&asking(&dns, &origin));
    has_members(&rig, &["127.0.0.2"]);
    dns.say(&[("app.test", "127.0.0.3")]);
    has_members(&rig, &["127.0.0.3"]);
}

#[test]
fn written_and_found_endpoints_stand_side_by_side() {
    let Some(dns) = Dns::start(&["--local-ttl=3600"]) else { return };
    let origin = Everywhere::new();
    // What is written wins over what is found at the same address.
    dns.say(&[("app.test", "127.0.0.2"), ("app.test", "127.0.0.3")]);
    let port = origin.port();
    let endpoints = format!("endpoints = [\"127.0.0.1:{port}\", {{ address = \"127.0.0.2:{port}\", weight = 2 }}]");
    let rig = Rig::start(&format!("{}{endpoints}\n", asking(&dns, &origin)));
    has_members(&rig, &["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    assert_eq!(shares(&rig, 40)["127.0.0.2"], 20);
}

#[test]
fn the_last_good_answer_outlives_the_server_and_a_reload() {
    let Some(mut dns) = Dns::start(&["--local-ttl=1"]) else { return };
    let origin = Everywhere::new();
    dns.say(&[("app.test", "127.0.0.2")]);
    let config = asking(&dns, &origin);
    let rig = Rig::start(&config);
    has_members(&rig, &["127.0.0.2"]);

    dns.say(&[]);
    fails(&rig, "the name does not exist");
    assert_eq!((members(&rig), get(&rig)), (vec!["127.0.0.2".to_owned()], "127.0.0.2".to_owned()));
    eventually("the first failure is logged", || rig.log().contains("cannot discover endpoints"));

    dns.say(&[("app.test", "127.0.0.2")]);
    eventually("it is found again", || error(&rig).is_empty());
    eventually("that is logged", || rig.log().contains("discovers endpoints again"));

    dns.stop();
    eventually("nobody is there to be asked", || !error(&rig).is_empty());
    assert_eq!(get(&rig), "127.0.0.2");
    // Another pool with the same `discover`.
    rig.reloaded(&format!("{config}timeouts = {{ response = \"5s\" }}\n"));
    assert_eq!((members(&rig), get(&rig)), (vec!["127.0.0.2".to_owned()], "127.0.0.2".to_owned()));
    assert_eq!(origin.connections("127.0.0.2"), 1, "connections are kept over a reload");
    assert!(rig.metric(r#"attache_discoveries_total{service="app",outcome="failed"}"#) >= 2.0);

    dns.restart(&["--local-ttl=1"]);
    dns.say(&[("app.test", "127.0.0.3")]);
    has_members(&rig, &["127.0.0.3"]);
}

#[test]
fn a_server_that_refuses_takes_nobody_away() {
    let Some(mut dns) = Dns::start(&["--host-record=app.example,127.0.0.2"]) else { return };
    let origin = Everywhere::new();
    let rig = Rig::start(&asking(&dns, &origin).replace("app.test", "app.example"));
    has_members(&rig, &["127.0.0.2"]);
    dns.restart(&[]);
    fails(&rig, "answers with an error");
    assert_eq!((members(&rig), get(&rig)), (vec!["127.0.0.2".to_owned()], "127.0.0.2".to_owned()));
}

#[test]
fn a_server_that_never_answers_keeps_nobody_from_starting() {
    let silent = UdpSocket::bind(free_address()).unwrap();
    let origin = Everywhere::new();
    let port = origin.port();
    let keys = format!(
        "endpoints = [\"127.0.0.1:{port}\"]\ndiscover = {{ dns = \"app.test:{port}\", servers = [\"{}\"] }}",
        silent.local_addr().unwrap()
    );
    let rig = Rig::start(&pool(&keys));
    assert_eq!(get(&rig), "127.0.0.1");
    fails(&rig, "no answer in time");
    assert_eq!(get(&rig), "127.0.0.1");
}

#[test]
fn servers_that_are_dead_or_refuse_are_made_up_for_by_another() {
    let Some(dns) = Dns::start(&["--host-record=app.example,127.0.0.2"]) else { return };
    let Some(refusing) = Dns::start(&[]) else { return };
    let silent = UdpSocket::bind(free_address()).unwrap();
    let origin = Everywhere::new();
    let one = format!("servers = [\"{}\"]", dns.address);
    let three = format!("servers = [\"{}\", \"{}\", \"{}\"]", silent.local_addr().unwrap(), refusing.address, dns.address);
    let rig = Rig::start(&asking(&dns, &origin).replace("app.test", "app.example").replace(&one, &three));
    has_members(&rig, &["127.0.0.2"]);
}

/// Far more than fits into a datagram.
#[test]
fn two_hundred_records_are_two_hundred_endpoints() {
    let Some(dns) = Dns::start(&["--local-ttl=3600"]) else { return };
    let origin = Everywhere::new();
    let addresses: Vec<String> = (1..=200).map(|last| format!("127.0.1.{last}")).collect();
    dns.say(&addresses.iter().map(|address| ("app.test", address.as_str())).collect::<Vec<_>>());
    let rig = Rig::start(&asking(&dns, &origin));
    eventually("all are found", || members(&rig).len() == 200);
    let shares = shares(&rig, 400);
    assert!(addresses.iter().all(|address| shares.get(address) == Some(&2)), "{shares:?}");
}

fn srv(dns: &Dns) -> String {
    pool(&format!("discover = {{ srv = \"_http._tcp.app.test\", every = \"1s\", servers = [\"{}\"] }}", dns.address))
}

#[test]
fn srv_records_say_weights_and_who_waits_for_the_others_to_go() {
    let Some(mut dns) = Dns::start(&["--local-ttl=1"]) else { return };
    let origin = Everywhere::new();
    let record = |target: &str, priority: u16, weight: u16| {
        format!("--srv-host=_http._tcp.app.test,{target}.test,{},{priority},{weight}", origin.port())
    };
    dns.say(&[("a.test", "127.0.0.2"), ("b.test", "127.0.0.3"), ("c.test", "127.0.0.4")]);
    let last = record("c", 20, 0);
    dns.restart(&["--local-ttl=1", &record("a", 10, 3), &record("b", 10, 1), &last]);
    let rig = Rig::start(&srv(&dns));
    has_members(&rig, &["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    assert_eq!(shares(&rig, 40), [("127.0.0.2".to_owned(), 30), ("127.0.0.3".to_owned(), 10)].into());
    dns.restart(&["--local-ttl=1", &last]);
    has_members(&rig, &["127.0.0.4"]);
    assert_eq!(get(&rig), "127.0.0.4");
    // Without a target: the service is not offered.
    dns.restart(&["--srv-host=_http._tcp.app.test"]);
    fails(&rig, "not offered");
    assert_eq!((members(&rig), get(&rig)), (vec!["127.0.0.4".to_owned()], "127.0.0.4".to_owned()));
}

#[test]
fn who_stays_keeps_its_connections_when_others_come_and_go() {
    let Some(dns) = Dns::start(&["--local-ttl=1"]) else { return };
    let origin = Everywhere::new();
    let stay = [("app.test", "127.0.0.2"), ("app.test", "127.0.0.3")];
    dns.say(&stay);
    let rig = Rig::start(&asking(&dns, &origin));
    has_members(&rig, &["127.0.0.2", "127.0.0.3"]);
    let mut client = rig.connect("web");
    let mut ask = || (0..6).for_each(|_| assert_eq!(client.request("GET", "/").unwrap().status, 200));
    ask();
    for _ in 0..2 {
        dns.say(&[stay[0], stay[1], ("app.test", "127.0.0.4")]);
        has_members(&rig, &["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
        ask();
        dns.say(&stay);
        has_members(&rig, &["127.0.0.2", "127.0.0.3"]);
        ask();
    }
    assert_eq!(["127.0.0.2", "127.0.0.3"].map(|ip| origin.connections(ip)), [1, 1]);
    assert_eq!(origin.connections("127.0.0.4"), 2, "whoever comes back is a new one");
    eventually("series of who is gone are gone", || !rig.admin("GET", "/metrics").text().contains("127.0.0.4"));
}

#[test]
fn a_request_in_flight_outlives_its_endpoint() {
    let Some(dns) = Dns::start(&["--local-ttl=1"]) else { return };
    let origin = Everywhere::new();
    dns.say(&[("app.test", "127.0.0.2")]);
    let rig = Rig::start(&asking(&dns, &origin));
    has_members(&rig, &["127.0.0.2"]);
    let client = rig.connect("web");
    let slow = std::thread::spawn(move || client.ask("GET", "/slow").unwrap());
    eventually("the request is on its way", || origin.connections("127.0.0.2") == 1);
    dns.say(&[("app.test", "127.0.0.3")]);
    has_members(&rig, &["127.0.0.3"]);
    assert_eq!(get(&rig), "127.0.0.3");
    origin.is_released.store(true, Ordering::Relaxed);
    let answer = slow.join().unwrap();
    assert_eq!((answer.status, answer.text()), (200, "127.0.0.2".to_owned()));
}

/// What an endpoint proves is the name that was asked for.
#[test]
fn found_endpoints_prove_the_name_that_was_asked_for() {
    let Some(mut dns) = Dns::start(&[]) else { return };
    let authority = Authority::new("inside");
    let config = TlsOrigin::config(&authority.sign("app", &["app.test"]), None);
    let origin = TlsOrigin::answering(config, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let port = origin.address.port();
    dns.say(&[("app.test", "127.0.0.1"), ("b.test", "127.0.0.1")]);
    let record = format!("--srv-host=_https._tcp.test,app.test,{port}");
    dns.restart(&[&record]);
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("ca.crt"), &authority.cert).unwrap();
    let servers = format!("servers = [\"{}\"]", dns.address);
    let by = |discover: &str| pool(&format!("tls = {{ ca = \"ca.crt\" }}\ndiscover = {{ {discover}, {servers} }}"));
    let rig = Rig::start_in(directory, &by(&format!("dns = \"app.test:{port}\"")));
    has_members(&rig, &["127.0.0.1"]);
    assert_eq!(get(&rig), "ok");
    for (discover, status) in [
        (format!("dns = \"b.test:{port}\""), 502),
        ("srv = \"_https._tcp.test\"".to_owned(), 200),
        (format!("dns = \"app.test.:{port}\""), 200),
    ] {
        rig.reloaded(&by(&discover));
        has_members(&rig, &["127.0.0.1"]);
        assert_eq!(rig.connect("web").ask("GET", "/").unwrap().status, status, "{discover}");
    }
    assert_eq!(origin.shakes().first().unwrap().sni.as_deref(), Some("app.test"));
}

/// Runs attache with files of its own in the places of /etc/resolv.conf and /etc/hosts. `None` where that is not allowed.
fn with_own_etc(directory: &Path) -> Option<Command> {
    let mount = "mount --bind \"$0/resolv.conf\" /etc/resolv.conf && mount --bind \"$0/hosts\" /etc/hosts && ";
    let unshare = |rest: &str| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &format!("{mount}{rest}")]).arg(directory);
        command
    };
    if !unshare("true").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: files may not be mounted here");
        return None;
    }
    let mut command = unshare("exec \"$@\"");
    command.arg(binary().get_program()).env_remove("ATTACHE_CONFIG").env_remove("ATTACHE_LOG").env_remove("ATTACHE_ADMIN");
    Some(command)
}

#[test]
fn the_machines_own_settings_are_followed() {
    let server = |ip| std::net::SocketAddr::new(ip, 53);
    let directory = TempDir::new().unwrap();
    let resolv_conf =
        |dns: &Dns| format!("nameserver {}\nsearch one.test two.test\noptions ndots:2 timeout:1 attempts:1 unknown\n", dns.address.ip());
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("resolv.conf", "");
    write("hosts", "127.0.0.9 written\n");
    let Some(command) = with_own_etc(directory.path()) else { return };
    let Some(dns) = Dns::start_at(server(free_address().ip()), &["--local-ttl=1"]) else { return };
    write("resolv.conf", &resolv_conf(&dns));
    // With one dot of two, both domains are searched before the name itself is asked for; the first has it not.
    dns.say(&[("app.sub.two.test", "127.0.0.2"), ("app.sub", "127.0.0.8")]);
    let origin = Everywhere::new();
    let port = origin.port();
    let discover = |name: &str| pool(&format!("discover = {{ dns = \"{name}:{port}\", every = \"1s\" }}"));
    let rig = Rig::start_with(command, TempDir::new().unwrap(), &discover("app.sub"));
    has_members(&rig, &["127.0.0.2"]);
    rig.reloaded(&discover("app.sub."));
    has_members(&rig, &["127.0.0.8"]);
    rig.reloaded(&discover("written"));
    has_members(&rig, &["127.0.0.9"]);
    rig.reloaded(&discover("app.sub"));
    has_members(&rig, &["127.0.0.2"]);
    // Another server from now on.
    let Some(other) = Dns::start_at(server(free_address().ip()), &["--local-ttl=1"]) else { return };
    other.say(&[("app.sub.one.test", "127.0.0.3")]);
    write("resolv.conf", &resolv_conf(&other));
    has_members(&rig, &["127.0.0.3"]);
    assert!(!rig.log().contains("resolv.conf"), "options for others are no concern");
}

/// A pool of what `endpoints.toml` lists.
fn listed(origin: &Everywhere, endpoints: &[&str]) -> String {
    let port = origin.port();
    let endpoint = |text: &&str| match text.split_once('*') {
        Some((ip, weight)) => format!("    {{ address = \"{ip}:{port}\", weight = {weight} }},\n"),
        None => format!("    \"{text}:{port}\",\n"),
    };
    format!("endpoints = [\n{}]\n", endpoints.iter().map(endpoint).collect::<String>())
}

struct Listed {
    rig: Rig,
    origin: Everywhere,
}

impl Listed {
    fn start(endpoints: &[&str]) -> Self {
        let (origin, directory) = (Everywhere::new(), TempDir::new().unwrap());
        std::fs::write(directory.path().join("endpoints.toml"), listed(&origin, endpoints)).unwrap();
        Self { rig: Rig::start_in(directory, &pool("discover = { file = \"endpoints.toml\" }")), origin }
    }

    fn write(&self, text: &str) {
        let path = self.rig.directory.path().join("endpoints.toml");
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    fn list(&self, endpoints: &[&str]) {
        self.write(&listed(&self.origin, endpoints));
    }
}

#[test]
fn a_file_of_endpoints_is_watched() {
    let pool = Listed::start(&["127.0.0.2", "127.0.0.3"]);
    let rig = &pool.rig;
    assert_eq!(members(rig), ["127.0.0.2", "127.0.0.3"]);
    let mut client = rig.connect("web");
    let mut ask = || (0..6).for_each(|_| assert_eq!(client.request("GET", "/").unwrap().status, 200));
    ask();
    pool.list(&["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    has_members(rig, &["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    ask();
    pool.list(&["127.0.0.2*3", "127.0.0.4"]);
    has_members(rig, &["127.0.0.2", "127.0.0.4"]);
    assert_eq!(shares(rig, 40), [("127.0.0.2".to_owned(), 30), ("127.0.0.4".to_owned(), 10)].into());
    ask();
    assert_eq!(["127.0.0.2", "127.0.0.4"].map(|ip| pool.origin.connections(ip)), [1, 1], "who stays keeps its connections");
    let outcomes = rig
        .metric(&format!(r#"attache_upstream_requests_total{{service="app",endpoint="127.0.0.2:{}",outcome="ok"}}"#, pool.origin.port()));
    assert!(outcomes > 30.0, "counts go on: {outcomes}");
}

#[test]
fn a_mistake_in_a_file_of_endpoints_is_refused_at_its_place() {
    let pool = Listed::start(&["127.0.0.2"]);
    pool.write("endpoints = [\"127.0.0.3:80\", { adress = \"127.0.0.4:80\" }]\nweight = 1\n");
    eventually("it is refused", || pool.rig.admin_json("/status")["last_reload"]["ok"] == false);
    let errors = pool.rig.admin_json("/status")["last_reload"]["errors"].to_string();
    assert!(errors.contains("endpoints.toml:1:32: error: unknown key `adress`"), "{errors}");
    assert!(errors.contains("endpoints.toml:2:1: error: unknown key `weight`"), "{errors}");
    assert_eq!((members(&pool.rig), get(&pool.rig)), (vec!["127.0.0.2".to_owned()], "127.0.0.2".to_owned()));
    pool.list(&["127.0.0.3"]);
    has_members(&pool.rig, &["127.0.0.3"]);
    std::fs::remove_file(pool.rig.directory.path().join("endpoints.toml")).unwrap();
    eventually("that is refused", || pool.rig.admin_json("/status")["last_reload"]["ok"] == false);
    assert_eq!(get(&pool.rig), "127.0.0.3");
}

#[test]
fn an_empty_list_of_endpoints_is_503() {
    let pool = Listed::start(&["127.0.0.2"]);
    pool.list(&[]);
    has_members(&pool.rig, &[]);
    assert_eq!(pool.rig.connect("web").ask("GET", "/").unwrap().status, 503);
    pool.list(&["127.0.0.3"]);
    has_members(&pool.rig, &["127.0.0.3"]);
    assert_eq!(get(&pool.rig), "127.0.0.3");
}

/// Beside the configuration in its directory, where it would be read as a part of it.
#[test]
fn a_file_of_endpoints_may_lie_among_the_configuration() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("a.toml", &pool("discover = [{ file = \"endpoints.toml\" }, { file = \"more.toml\" }]"));
    write("endpoints.toml", "endpoints = [\"127.0.0.2:80\"]\n");
    write("more.toml", "endpoints = [\"${IP:-127.0.0.3}:80\"]\n");
    let check = || binary().args(["check", "--strict"]).arg(directory.path()).output().unwrap();
    let output = check();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    write("more.toml", "endpoints = [\"127.0.0.2:80\"]\n");
    let said = String::from_utf8(check().stderr).unwrap();
    assert!(said.contains("more.toml:1:14: error: endpoint `127.0.0.2:80` is there twice"), "{said}");
}

#[test]
fn status_shows_what_was_found_and_why_not() {
    let Some(dns) = Dns::start(&["--local-ttl=1"]) else { return };
    let origin = Everywhere::new();
    dns.say(&[("app.test", "127.0.0.2")]);
    let rig = Rig::start(&asking(&dns, &origin));
    has_members(&rig, &["127.0.0.2"]);
    let status = || {
        let output = binary().args(["status", "--admin"]).arg(format!("unix:{}", rig.admin_path().display())).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(status().contains(&format!("discovers dns app.test:{}  1 found at 20", origin.port())), "{}", status());
    dns.say(&[]);
    fails(&rig, "the name does not exist");
    assert!(status().contains("now failing: the name does not exist"), "{}", status());
}
