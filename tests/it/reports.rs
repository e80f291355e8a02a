//! Health reports over real servers: what is checked, what is answered, and what a reload keeps.
//!
//! How findings are judged is tested beside the code.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Answer, Authority, DataServer, Origin, Postgres, Rig, TlsOrigin, eventually, free_address, refused};

fn config(checks: &str) -> String {
    format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\npath = \"/health/*\"\nservice = \"h\"\n\
         [service.h.health]\ninterval = \"400ms\"\n{checks}\n"
    )
}

fn ask(rig: &Rig, path: &str) -> Answer {
    rig.connect("web").ask("GET", path).unwrap()
}

fn report(rig: &Rig) -> Value {
    serde_json::from_str(&ask(rig, "/health/").text()).unwrap()
}

/// How a check named `it` stands once it was made, and what it says.
#[track_caller]
fn check(written: &str, status: &str, said: &str) {
    // The first finding decides, and on a busy machine it may take its time.
    let rig = Rig::start(&config(&format!("checks = {{ it = {{ {written}, interval = \"20s\", timeout = \"20s\" }} }}")));
    eventually("the first check was made", || report(&rig)["checks"]["it"]["status"] != "starting");
    let found = report(&rig);
    let it = &found["checks"]["it"];
    let text = |name: &str| it[name].as_str().unwrap_or_default().to_owned();
    let says = format!("{}{}", text("reason"), text("detail"));
    let is_said = if said == "*" { says.contains(" % free, ") } else { says.starts_with(said) && said.is_empty() == says.is_empty() };
    assert!(it["status"] == status && is_said, "{written}: {it}");
    assert_eq!(ask(&rig, "/health/ready").status, if status == "ok" { 200 } else { 503 });
    assert_eq!(ask(&rig, "/health/checks/it").status, if status == "ok" { 200 } else { 503 });
    for place in [rig.log(), found.to_string(), rig.admin("GET", "/config").text(), rig.admin("GET", "/services").text()] {
        assert!(!place.contains("s3cret") && !place.contains("p@ss") && !place.contains("p%40ss"), "{place}");
    }
}

#[test]
fn programs_and_their_answers_are_checked() {
    let ok = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\n{\"status\":\"ok\",\"parts\":[1,2,3]}");
    let chunked = Origin::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n");
    let sick = Origin::answering("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let at = |origin: &Origin| format!("http = \"http://{}/ready\"", origin.address);
    check(&at(&ok), "ok", "answered 200");
    check(&format!("{}, json = '.status == \"ok\" and (.parts | length) == 3'", at(&ok)), "ok", "answered 200");
    check(&format!("{}, json = '.status == \"no\"'", at(&ok)), "failing", "`.status == \"no\"` does not hold of its answer");
    check(&format!("{}, json = '.a == 1'", at(&chunked)), "ok", "answered 200");
    check(&format!("{}, json = '.'", at(&sick)), "failing", "answered 503, expected 200-399");
    check(&format!("{}, expect = [503]", at(&sick)), "ok", "answered 503");
    let request = ok.seen().into_iter().next().unwrap();
    assert_eq!((request.line(), request.header("host")), ("GET /ready HTTP/1.1", Some(ok.address.to_string().as_str())));
    let nobody = free_address();
    check(&format!("http = \"http://{nobody}/\""), "failing", "cannot connect");
    check(&format!("tcp = \"{}\"", ok.address), "ok", "");
    check(&format!("tcp = \"{nobody}\""), "failing", "cannot connect");
}

#[test]
fn certificates_are_checked_before_they_expire() {
    let authority = Authority::new("root");
    let directory = tempfile::tempdir().unwrap();
    let pair = authority.sign_between("app", &["app.test"], 2020..2030);
    let origin = TlsOrigin::answering(TlsOrigin::config(&pair, None), "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"up\":true}");
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, &authority.cert).unwrap();
    let tls = format!("tls = {{ ca = {ca:?}, server_name = \"app.test\" }}");
    let address = origin.address;
    check(&format!("certificate = \"{address}\", {tls}"), "ok", "good for ");
    check(&format!("certificate = \"{address}\", days = 3650, {tls}"), "failing", "its certificate is good for ");
    check(&format!("certificate = \"{address}\""), "failing", "no TLS: ");
    check(&format!("http = \"https://{address}/\", json = '.up', {tls}"), "ok", "answered 200");
}

#[test]
fn files_room_and_programs_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("beat");
    check(&format!("file = {path:?}"), "failing", "No such file or directory");
    std::fs::write(&path, "").unwrap();
    check(&format!("file = {path:?}, max_age = \"1h\""), "ok", "written to ");
    std::fs::File::options().append(true).open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    check(&format!("file = {path:?}, max_age = \"1h\""), "failing", "was written to ");
    let room = directory.path();
    check(&format!("free = {room:?}, at_least = \"1B\""), "ok", "*");
    check(&format!("free = {room:?}, at_least = \"100%\""), "failing", "*");
    check("exec = [\"/bin/sh\", \"-c\", \"echo fine; echo more\"]", "ok", "fine");
    check("exec = [\"/bin/sh\", \"-c\", \"echo broken; exit 3\"]", "failing", "ended with 3: broken");
    check("exec = [\"/nowhere/program\"]", "failing", "cannot start it");
    check("exec = [\"/bin/sh\", \"-c\", \"yes | head -c 1000000\"]", "ok", "y");
}

#[test]
fn a_program_that_does_not_end_is_ended_with_all_that_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    let checks = format!("checks = {{ it = {{ exec = [\"/bin/sh\", \"-c\", {script:?}], timeout = \"300ms\", interval = \"1h\" }} }}");
    let rig = Rig::start(&config(&checks));
    eventually("it takes too long", || report(&rig)["checks"]["it"]["reason"] == "did not end within 300ms");
    let child = std::fs::read_to_string(&pid).unwrap();
    eventually("its child is gone", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        // Somebody has to wait for it, and that is not us.
        stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
    });
}

#[test]
fn redis_is_asked_for_its_role() {
    let Some(primary) = DataServer::redis(&["--requirepass", "s3cret", "--masterauth", "s3cret"]) else { return };
    let of = format!("{} {}", primary.address.ip(), primary.address.port());
    let Some(replica) = DataServer::redis(&["--replicaof", &of, "--masterauth", "s3cret"]) else { return };
    let orphan = DataServer::redis(&["--replicaof", &format!("127.0.0.1 {}", free_address().port())]).unwrap();
    let at = primary.address;
    check(&format!("redis = \"redis://:s3cret@{at}\", role = \"primary\""), "ok", "");
    check(&format!("redis = \"redis://:s3cret@{at}\", role = \"replica\""), "failing", "is a primary, expected a replica");
    check(&format!("redis = \"{at}\""), "ok", "");
    check(&format!("redis = \"redis://:wrong@{at}\""), "failing", "answered `-WRONGPASS");
    check(&format!("redis = \"{}\"", orphan.address), "failing", "its link to the primary is down");
    let rig = Rig::start(&config(&format!(
        "checks = {{ one = {{ redis = \"redis://:s3cret@{at}\" }}, two = {{ redis = \"{}\", max_lag = \"60s\" }} }}",
        replica.address
    )));
    eventually("both are well", || ask(&rig, "/health/").status == 200);
    eventually("roles are told", || {
        let roles = (ask(&rig, "/health/role/primary").status, ask(&rig, "/health/role/replica?max_lag=1m").status);
        roles == (200, 200) && report(&rig)["checks"]["two"]["role"] == "replica"
    });
    drop(primary);
    eventually("nobody is primary", || ask(&rig, "/health/role/primary").status == 503);
}

#[test]
fn memcached_is_asked_for_its_version() {
    let Some(server) = DataServer::memcached() else { return };
    check(&format!("memcached = \"{}\"", server.address), "ok", "");
}

#[test]
fn mysql_that_is_killed_hung_or_read_only_is_told() {
    let grants = "CREATE USER 'probe'@'%' IDENTIFIED BY 's3cret'; GRANT SELECT, READ_ONLY ADMIN, SLAVE MONITOR ON *.* TO 'probe'@'%';";
    let grants = grants.replace("; ", ";\n");
    let Some(mut server) = DataServer::mariadb(&format!("{grants}\n")) else { return };
    let at = format!("mysql://probe:s3cret@{}/mysql", server.address);
    check(&format!("mysql = \"{at}\", query = \"SELECT 1\", expect = 1"), "ok", "");
    check(&format!("mysql = \"{at}\", query = \"SELECT 1\", expect = 2"), "failing", "answered `1`, expected `2`");
    check(&format!("mysql = \"{at}\", query = \"SELECT nope\""), "failing", "error 1054: ");
    check(&format!("mysql = \"{}\"", at.replace("s3cret", "wrong")), "failing", "error 1045: Access denied");
    check(&format!("mysql = \"{}\"", server.address), "ok", "");
    let rig = Rig::start(&config(&format!("checks = {{ db = {{ mysql = \"{at}\", query = \"SELECT 1\" }} }}")));
    eventually("it is well", || ask(&rig, "/health/role/primary").status == 200);
    execute(&server, "SET GLOBAL read_only = 1");
    eventually("it is no primary", || ask(&rig, "/health/role/primary").status == 503);
    eventually("it is a replica", || (ask(&rig, "/health/").status, ask(&rig, "/health/role/replica").status) == (200, 200));
    execute(&server, "SET GLOBAL read_only = 0");
    eventually("it is primary again", || ask(&rig, "/health/role/primary").status == 200);
    signal(server.pid(), "STOP");
    eventually("it hangs", || ask(&rig, "/health/").status == 503);
    assert_eq!(report(&rig)["checks"]["db"]["reason"], "no answer within 400ms");
    signal(server.pid(), "CONT");
    eventually("it is back", || ask(&rig, "/health/").status == 200);
    server.stop();
    eventually("it is gone", || ask(&rig, "/health/ready").text().starts_with("failing\ndb failing: cannot connect: Connection refused"));
    assert!(rig.metric("attache_check_up{service=\"h\",check=\"db\"}") == 0.0);
    assert!(!rig.log().contains("s3cret"));
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

fn execute(server: &DataServer, statement: &str) {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "-h", &server.address.ip().to_string(), "-P", &server.address.port().to_string()]);
    let done = client.args(["-uprobe", "-ps3cret", "-e", statement]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn postgres_is_asked_with_a_password_that_it_keeps_hashed() {
    let Some(postgres) = Postgres::find() else { return };
    let primary = postgres.start(false, &[]);
    let at = format!("postgres://probe:p%40ss%2Fword@{}/postgres", primary.address);
    check(&format!("postgres = \"{at}\", query = \"SELECT 'x'\", expect = \"x\", role = \"primary\""), "ok", "");
    check(&format!("postgres = \"{at}\", role = \"replica\""), "failing", "is a primary, expected a replica");
    check(&format!("postgres = \"{at}\", query = \"SELECT nope\""), "failing", "column \"nope\" does not exist");
    check(&format!("postgres = \"{}\"", primary.address), "ok", "");
}

/// It has replayed all that it has, and so was never behind.
#[test]
fn a_replica_of_postgres_that_is_cut_off_falls_behind() {
    let Some(postgres) = Postgres::find() else { return };
    let mut primary = postgres.start(false, &[]);
    let replica = postgres.replica(&primary);
    let at = format!("postgres://probe:p%40ss%2Fword@{}/postgres", replica.address);
    let rig = Rig::start(&config(&format!("checks = {{ db = {{ postgres = \"{at}\" }} }}")));
    postgres.execute(&primary, "CREATE TABLE a (b int)");
    let is_near = || ask(&rig, "/health/role/replica?max_lag=1s").status == 200;
    eventually("it has replayed that", is_near);
    // Of who says nothing there is nothing to replay.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(is_near(), "{}", report(&rig));
    primary.stop();
    eventually("it is behind", || ask(&rig, "/health/role/replica?max_lag=1s").status == 503);
    assert_eq!(ask(&rig, "/health/role/replica").status, 200);
}

#[test]
fn a_reload_keeps_what_was_found_and_asks_no_sooner() {
    let origin = Origin::ok("x");
    let once = format!("web = {{ http = \"http://{}/\", interval = \"1h\", timeout = \"9s\" }}", origin.address);
    let rig = Rig::start(&config(&format!("checks = {{ {once} }}")));
    eventually("it was asked", || report(&rig)["checks"]["web"]["status"] == "ok");
    rig.reloaded(&config(&format!("checks = {{ {once}, more = {{ tcp = \"{}\" }} }}", origin.address)));
    let found = report(&rig);
    assert_eq!(found["checks"]["web"]["status"], "ok", "{found}");
    eventually("the other one was made", || report(&rig)["checks"]["more"]["status"] == "ok");
    assert_eq!(origin.seen().len(), 1);
    rig.reloaded(&config(&format!("checks = {{ more = {{ tcp = \"{}\" }} }}", origin.address)));
    let series = "attache_check_up{service=\"h\",check=\"web\"}";
    eventually("its series is gone", || !rig.admin("GET", "/metrics").text().contains(series));
    assert_eq!(ask(&rig, "/health/checks/web").status, 404);
}

#[test]
fn reports_are_read_and_nothing_else() {
    let rig = Rig::start(&config("checks = { it = { exec = [\"/bin/true\"] } }"));
    eventually("it is well", || ask(&rig, "/health/").status == 200);
    let answer = ask(&rig, "/health/");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!((answer.header("cache-control"), answer.header("x-attache-health")), (Some("no-store"), Some("ok")));
    let refused = rig.connect("web").ask("DELETE", "/health/").unwrap();
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
    let mut client = rig.connect("web");
    let head = client.request("HEAD", "/health/").unwrap();
    assert_eq!((head.status, head.text().as_str()), (200, ""));
    assert_eq!((ask(&rig, "/health/live").text(), ask(&rig, "/health/role/primary").status), ("ok\n".to_owned(), 404));
    let view = rig.admin_json("/services");
    assert_eq!((&view[0]["kind"], &view[0]["checks"]["it"]["status"]), (&Value::from("health"), &Value::from("ok")));
}

#[track_caller]
fn check_wrong(written: &str, expected: &str) {
    let said = refused(&format!("[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"h\"\n[service.h.health]\n{written}\n"));
    assert!(said.contains(expected), "{said}");
}

#[test]
fn wrong_checks_are_told_with_a_remedy() {
    let one = |check: &str| format!("checks = {{ it = {{ {check} }} }}");
    check_wrong("", "missing key `checks`");
    check_wrong("checks = {}", "a report has 1 to 64 checks, this has 0");
    check_wrong(&one(""), "nothing says what is checked");
    check_wrong(&one("tcp = \"a:1\", redis = \"a:1\""), "a check asks one thing, this has `tcp` and `redis`");
    check_wrong(&one("http = \"127.0.0.1:80\""), "this is not a URL that can be asked for; a URL has no login");
    check_wrong(&one("http = \"http://a/\", json = '.a |'"), "this is no filter of jq: expected term at `the end`");
    check_wrong(&one("tcp = \"a:1\", json = '.'"), "`json` is for checks of `http`, this one is of `tcp`");
    check_wrong(&one("mysql = \"mysql://u:s3cret/x@a\""), "this names no host");
    check_wrong(&one("mysql = \"a:3306\", query = \"SELECT 1\""), "nobody can ask it anything without a login");
    check_wrong(&one("redis = \"a:1\", role = \"master\""), "`master` is not a role");
    check_wrong(&one("redis = \"a:1\", tls = {}"), "what is asked is not spoken to with TLS");
    check_wrong(&one("free = \"/\""), "nothing says how much must be free");
    check_wrong(&one("tcp = \"a:1\", timeout = \"5s\""), "a probe may take 5s, and the next one begins after 2s");
    check_wrong("checks = { \"a b\" = { tcp = \"a:1\" } }", "`a b` is not a name for a check");
    check_wrong(&one("exec = []"), "this names no program");
    check_wrong(&one("certificate = \"a\""), "`a` has no port");
}

/// Whoever polls is answered from memory, whatever hangs.
#[test]
fn whoever_asks_waits_for_nobody() {
    let hung = Origin::raw(|_stream, _| std::thread::sleep(Duration::from_secs(3600)));
    let rig = Rig::start(&config(&format!("checks = {{ web = {{ http = \"http://{}/\" }} }}", hung.address)));
    eventually("it hangs", || report(&rig)["checks"]["web"]["reason"] == "no answer within 400ms");
    let mut client = rig.connect("web");
    for _ in 0..200 {
        assert_eq!(client.request("GET", "/health/").unwrap().status, 503);
    }
    // One at a time, and each of them ends.
    assert!(hung.connections() >= 1);
    assert!(rig.open_files() < 100, "{}", rig.open_files());
}

#[test]
fn a_filter_that_never_ends_holds_nobody_up() {
    let origin = Origin::ok("{}");
    let rig = Rig::start(&config(&format!(
        "checks = {{ endless = {{ http = \"http://{0}/\", json = \"def f: f; f\" }}, web = {{ http = \"http://{0}/\" }} }}",
        origin.address
    )));
    eventually("one is well", || ask(&rig, "/health/checks/web").status == 200);
    eventually("one is not", || report(&rig)["checks"]["endless"]["reason"] == "the last question has not been answered yet");
    assert_eq!(ask(&rig, "/health/checks/web").status, 200);
}

/// The sample, with a server of the test's own.
#[test]
fn the_sample_of_a_mysql_keeps_its_promises() {
    let statements = "CREATE USER 'health'@'%' IDENTIFIED BY 's3cret';\n";
    let Some(mut server) = DataServer::mariadb(statements) else { return };
    let mut text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/mysql-health.toml")).unwrap();
    for (written, here) in [
        ("0.0.0.0:8080", "127.0.0.1:0"),
        ("${DB_PASSWORD:-}", "s3cret"),
        ("127.0.0.1:3306", server.address.to_string().as_str()),
        ("/var/lib/mysql", "/"),
        ("interval = \"2s\"", "interval = \"400ms\""),
        ("timeout = \"1s\"", "timeout = \"400ms\""),
    ] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let rig = Rig::start(&text);
    let status = |path: &str| rig.connect("health").ask("GET", path).unwrap().status;
    eventually("it is well", || (status("/"), status("/ready"), status("/role/primary")) == (200, 200, 200));
    signal(server.pid(), "STOP");
    eventually("it hangs", || (status("/"), status("/role/primary")) == (503, 503));
    signal(server.pid(), "CONT");
    eventually("it is back", || status("/") == 200);
    server.stop();
    eventually("it is gone", || status("/") == 503);
}
