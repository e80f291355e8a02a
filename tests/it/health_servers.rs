//! Probes of real servers: Redis, memcached, `MariaDB`, `PostgreSQL`, gRPC; and elections that two of them hold.
//!
//! What is asked, and what is taken for an answer; whom requests go to then is in `health.rs` and `leader.rs`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::http2_origin::{Ask, Origin2};
use crate::support::{DataServer, PATIENCE, Postgres, Rig, eventually, free_address};

/// A pool of streams, with these keys.
fn config(endpoints: &[(&str, SocketAddr)], keys: &str) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|(name, address)| format!("{{ name = \"{name}\", address = \"{address}\" }}")).collect();
    format!(
        "[[listener]]\nname = \"data\"\nprotocol = \"tcp\"\nlisten = \"127.0.0.1:0\"\nservice = \"data\"\n\
         [service.data]\nendpoints = [{}]\n{keys}\n",
        endpoints.join(", ")
    )
}

fn endpoint(rig: &Rig, name: &str) -> Value {
    let services = rig.admin_json("/services");
    services[0]["endpoints"].as_array().unwrap().iter().find(|endpoint| endpoint["name"] == name).unwrap().clone()
}

fn leaders(rig: &Rig) -> Vec<String> {
    let services = rig.admin_json("/services");
    let endpoints = services[0]["endpoints"].as_array().unwrap().clone();
    endpoints.iter().filter(|endpoint| endpoint["leads"] == true).map(|endpoint| endpoint["name"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn until_leader(rig: &Rig, expected: &[&str]) {
    eventually(&format!("{expected:?} leads"), || leaders(rig) == expected);
}

/// A second would do on a quiet machine; the first finding decides.
const PATIENT: &str = "interval = \"10s\", timeout = \"10s\"";
const OFTEN: &str = "interval = \"100ms\"";

/// What the first probe finds: `up`, or `sick` and why.
#[track_caller]
fn check(address: SocketAddr, health: &str, state: &str, detail: &str) {
    let rig = Rig::start(&config(&[("a", address)], &format!("health = {{ {health}, {PATIENT} }}")));
    eventually("the first probe has ended", || !endpoint(&rig, "a")["checked_at"].is_null());
    let found = endpoint(&rig, "a");
    let said = found["detail"].as_str().unwrap_or_default();
    assert!(found["state"] == state && said.starts_with(detail) && said.is_empty() == detail.is_empty(), "{found}");
    for place in [rig.log(), rig.admin("GET", "/services").text(), rig.admin("GET", "/config").text()] {
        assert!(!place.contains("s3cret") && !place.contains("p@ss") && !place.contains("p%40ss"), "{place}");
    }
}

/// A server that listens somewhere and says one thing.
fn saying(first: bool, bytes: &'static [u8]) -> crate::support::Origin {
    crate::support::Origin::raw(move |mut stream, _| {
        if !first {
            let _ = stream.read(&mut [0; 1024]);
        }
        let _ = stream.write_all(bytes);
        let _ = stream.read(&mut [0; 1024]);
    })
}

#[test]
fn redis_is_well_if_it_answers_or_wants_a_password() {
    let Some(open) = DataServer::redis(&[]) else { return };
    check(open.address, "redis = true", "up", "");
    let Some(locked) = DataServer::redis(&["--requirepass", "s3cret"]) else { return };
    check(locked.address, "redis = true", "up", "");
    check(locked.address, "redis = \"redis://:s3cret@\"", "up", "");
    check(locked.address, "redis = \"redis://default:s3cret@\"", "up", "");
    check(locked.address, "redis = \"redis://:wrong@\"", "sick", "answered `-WRONGPASS");
    check(free_address(), "redis = true", "sick", "cannot connect");
}

#[test]
fn redis_that_may_not_answer_is_not_well() {
    let nowhere = free_address();
    let master = format!("{} {}", nowhere.ip(), nowhere.port());
    let Some(orphan) = DataServer::redis(&["--replicaof", &master, "--replica-serve-stale-data", "no"]) else { return };
    check(orphan.address, "redis = true", "sick", "answered `-MASTERDOWN");
    // A dataset that takes long to load takes long to make.
    let loading = saying(false, b"-LOADING Redis is loading the dataset in memory\r\n");
    check(loading.address, "redis = true", "sick", "answered `-LOADING Redis is loading the dataset in memory`");
}

/// One command, inline.
fn redis(address: SocketAddr, command: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap_or_default();
    line.trim().to_owned()
}

#[test]
fn writes_follow_the_master_of_redis_when_it_changes() {
    let Some(mut one) = DataServer::redis(&[]) else { return };
    let Some(two) = DataServer::redis(&["--replicaof", &format!("{} {}", one.address.ip(), one.address.port())]) else { return };
    let keys = format!("leader = {{ redis = true, {OFTEN}, timeout = \"100ms\" }}");
    let rig = Rig::start(&config(&[("one", one.address), ("two", two.address)], &keys));
    until_leader(&rig, &["one"]);
    let through = rig.address("data");
    assert_eq!(redis(through, "SET place one"), "+OK");
    assert_eq!(endpoint(&rig, "two")["state"], "follower");
    one.stop();
    until_leader(&rig, &[]);
    assert_eq!(redis(two.address, "REPLICAOF NO ONE"), "+OK");
    until_leader(&rig, &["two"]);
    assert_eq!(redis(through, "SET place two"), "+OK");
    assert_eq!(redis(two.address, "EXISTS place"), ":1");
}

#[test]
fn a_master_of_redis_may_be_deposed_while_it_lives() {
    let (Some(one), Some(two)) = (DataServer::redis(&["--requirepass", "s3cret"]), DataServer::redis(&["--requirepass", "s3cret"])) else {
        return;
    };
    let keys = format!("leader = {{ redis = \"redis://:s3cret@\", {OFTEN}, timeout = \"100ms\" }}");
    let rig = Rig::start(&config(&[("one", one.address)], &keys));
    until_leader(&rig, &["one"]);
    rig.reloaded(&config(&[("one", one.address), ("two", two.address)], &keys));
    // Both are masters, and the second one began last.
    until_leader(&rig, &["two"]);
    eventually("the dispute is told", || rig.log().contains("two endpoints claim to lead"));
    let mut stream = TcpStream::connect(two.address).unwrap();
    let (ip, port) = (one.address.ip(), one.address.port());
    stream.write_all(format!("AUTH s3cret\r\nREPLICAOF {ip} {port}\r\n").as_bytes()).unwrap();
    until_leader(&rig, &["one"]);
    assert!(!rig.log().contains("s3cret"));
}

#[test]
fn memcached_is_well_if_it_says_its_version() {
    let Some(server) = DataServer::memcached() else { return };
    check(server.address, "memcached = true", "up", "");
    check(saying(false, b"ERROR\r\n").address, "memcached = true", "sick", "answered `ERROR`");
}

#[test]
fn mysql_is_well_if_it_greets_or_lets_us_in() {
    let statements = "CREATE USER 'probe'@'%' IDENTIFIED BY 'p@ss/word';\nCREATE DATABASE shop;\nGRANT SELECT ON shop.* TO 'probe'@'%';\n";
    let Some(server) = DataServer::mariadb(statements) else { return };
    let login = |database: &str| format!("mysql = \"mysql://probe:p%40ss%2Fword@/{database}\"");
    check(server.address, "mysql = true", "up", "");
    check(server.address, &login(""), "up", "");
    check(server.address, &login("shop"), "up", "");
    check(server.address, &login("mysql"), "sick", "error 1044: Access denied");
    check(server.address, "mysql = \"mysql://probe:s3cret@/\"", "sick", "error 1045: Access denied");
    check(saying(true, b"SSH-2.0-OpenSSH\r\n").address, "mysql = true", "sick", "its greeting is not MySQL's");
    let blocked = b"\x0d\0\0\0\xff\x69\x04Host 'x' is".get(..).unwrap();
    check(saying(true, blocked).address, "mysql = true", "sick", "error 1129: Host 'x' i");
    check(free_address(), &login(""), "sick", "cannot connect: Connection refused");
}

#[test]
fn a_login_leaves_mysql_without_an_aborted_connect() {
    let statements = "CREATE USER 'probe'@'%' IDENTIFIED BY 'p@ss/word';\n";
    let Some(server) = DataServer::mariadb(statements) else { return };
    check(server.address, "mysql = \"mysql://probe:p%40ss%2Fword@\"", "up", "");
    // The one that may be there is who waited for the server to listen.
    assert!(server.log().matches("Aborted connection").count() <= 1, "{}", server.log());
}

#[test]
fn postgres_is_well_if_it_takes_anybody() {
    let Some(postgres) = Postgres::find() else { return };
    let server = postgres.start(false, &[]);
    let login = |database: &str| format!("postgres = \"postgres://probe:p%40ss%2Fword@/{database}\"");
    // As pg_isready: who we would be does not matter.
    check(server.address, "postgres = true", "up", "");
    check(server.address, &login("postgres"), "up", "");
    check(server.address, &login("nowhere"), "sick", "database \"nowhere\" does not exist (3D000)");
    check(
        server.address,
        "postgres = \"postgres://probe:s3cret@/postgres\"",
        "sick",
        "password authentication failed for user \"probe\" (28P01)",
    );
    assert!(!server.log().contains("unexpected EOF"), "{}", server.log());
    check(saying(false, b"HTTP/1.1 400\r\n").address, "postgres = true", "sick", "its answer is not PostgreSQL's");
}

#[test]
fn postgres_that_takes_nobody_now_is_not_well() {
    let Some(postgres) = Postgres::find() else { return };
    let server = postgres.start(true, &["hot_standby=off"]);
    check(server.address, "postgres = true", "sick", "the database system is");
    check(server.address, "postgres = \"postgres://probe:p%40ss%2Fword@/postgres\"", "sick", "the database system is");
}

#[test]
fn the_primary_of_postgres_leads() {
    let Some(postgres) = Postgres::find() else { return };
    let (mut one, two) = (postgres.start(false, &[]), postgres.start(true, &[]));
    let keys = "leader = { postgres = \"postgres://probe:p%40ss%2Fword@/postgres\", interval = \"500ms\", timeout = \"500ms\" }";
    let rig = Rig::start(&config(&[("one", one.address), ("two", two.address)], keys));
    until_leader(&rig, &["one"]);
    eventually("the standby says that it follows", || {
        endpoint(&rig, "two")["detail"].is_null() && !endpoint(&rig, "two")["checked_at"].is_null()
    });
    one.stop();
    until_leader(&rig, &[]);
    postgres.promote(&two);
    until_leader(&rig, &["two"]);
}

/// The health service of grpcio, told what to say.
struct Grpc {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    address: SocketAddr,
}

impl Grpc {
    fn start() -> Option<Self> {
        let python = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers-venv").join("bin/python");
        if !Command::new(&python).args(["-c", "import grpc_health.v1"]).output().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: `.ci/setup test` did not make {}", python.display());
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/peers/health_server.py");
        let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening ").unwrap().trim().parse().unwrap();
        Some(Self { child, said, address })
    }

    fn set(&mut self, status: &str, service: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(format!("{status} {service}\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert_eq!(line, "set\n");
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn grpc_is_well_if_the_service_is_serving() {
    let Some(mut server) = Grpc::start() else { return };
    check(server.address, "grpc = \"\"", "up", "");
    check(server.address, "grpc = \"shop.Orders\"", "sick", "it does not know this service (grpc-status 5)");
    server.set("NOT_SERVING", "shop.Orders");
    check(server.address, "grpc = \"shop.Orders\"", "sick", "NOT_SERVING");
    server.set("SERVING", "shop.Orders");
    check(server.address, "grpc = \"shop.Orders\"", "up", "");
    server.set("NOT_SERVING", "");
    check(server.address, "grpc = \"\"", "sick", "NOT_SERVING");
}

#[test]
fn what_is_no_answer_of_grpc_is_not_well() {
    let answering = |status: u16, fields: &'static [(&'static str, &'static str)]| {
        Origin2::run(None, move |mut ask: Ask| async move {
            ask.head(status, fields, true);
        })
    };
    let unimplemented = answering(200, &[("content-type", "application/grpc"), ("grpc-status", "12")]);
    check(unimplemented.address, "grpc = \"\"", "sick", "it does not implement grpc.health.v1 (grpc-status 12)");
    check(answering(404, &[]).address, "grpc = \"\"", "sick", "answered 404, which is no gRPC");
    check(answering(200, &[]).address, "grpc = \"\"", "sick", "its answer has no grpc-status");
    check(answering(200, &[("grpc-status", "0")]).address, "grpc = \"\"", "sick", "its answer is no HealthCheckResponse");
    check(crate::support::Origin::ok("").address, "grpc = \"\"", "sick", "no answer over HTTP/2");
}
