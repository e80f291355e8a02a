//! Targets that whoever scrapes names: real servers, and everything that is refused.
//!
//! Which targets a list allows is tested beside the code.

use crate::exporters::{check_readable, config, series};
use crate::support::{Answer, Authority, DataServer, Origin, Rig, TlsOrigin, refused};

fn ask(rig: &Rig, query: &str) -> Answer {
    rig.connect("web").ask("GET", &format!("/probe?{query}")).unwrap()
}

#[test]
fn one_module_asks_many_servers() {
    let arguments = ["--requirepass", "s3cret"];
    let (Some(one), Some(two)) = (DataServer::redis(&arguments), DataServer::redis(&arguments)) else { return };
    let rig = Rig::start(&config("probe = { cache = { redis = \"redis://:s3cret@{target}\", targets = [\"127.0.0.0/8\"] } }"));
    for server in [&one, &two] {
        let found = series(&ask(&rig, &format!("module=cache&target={}", server.address)).text());
        assert_eq!((found["redis_up"], found["probe_success"], found["redis_process_id"]), (1.0, 1.0, f64::from(server.pid())));
        assert!(found["probe_duration_seconds"] > 0.0);
    }
    let encoded = ask(&rig, &format!("module=cache&target={}", one.address.to_string().replace(':', "%3A")));
    assert_eq!(series(&encoded.text())["redis_up"], 1.0);
    let gone = series(&ask(&rig, &format!("target={}&module=cache", crate::support::free_address())).text());
    assert_eq!((gone["redis_up"], gone["probe_success"]), (0.0, 0.0));
    assert!(!rig.admin("GET", "/config").text().contains("s3cret"));
    // Without `from`, other paths are a page with nothing on it.
    assert_eq!(rig.connect("web").ask("GET", "/metrics").unwrap().text(), "");
    check_readable(&rig);
}

#[test]
fn who_may_not_be_asked_is_not() {
    let origin = Origin::ok("x 1\n");
    let rig = Rig::start(&config(&format!(
        "probe = {{ net = {{ prometheus = \"http://{{target}}/metrics\", targets = [\"10.0.0.0/8:{port}\"] }},\n\
         names = {{ prometheus = \"http://{{target}}/m?x=1\", targets = \"localhost:*\" }} }}",
        port = origin.address.port()
    )));
    let (address, port) = (origin.address, origin.address.port());
    for (query, status, said) in [
        (format!("module=net&target={address}"), 403, "may not ask that target"),
        // A name is no address, whatever it resolves to.
        (format!("module=net&target=localhost:{port}"), 403, "may not ask that target"),
        (format!("module=net&target=u:p@10.0.0.1:{port}"), 400, "without a login"),
        (format!("module=net&target=http://10.0.0.1:{port}"), 400, "without a login"),
        (format!("module=net&target=10.0.0.1:{port}/x"), 400, "without a login"),
        (format!("module=net&target=10.0.0.1:{port}%2F..%2Fx"), 400, "without a login"),
        ("module=net".to_owned(), 400, "a target is HOST or HOST:PORT"),
        (format!("target={address}"), 400, "say which module"),
        (format!("module=other&target={address}"), 404, "known are net, names"),
    ] {
        let answer = ask(&rig, &query);
        assert!(answer.status == status && answer.text().contains(said), "{query}: {} {}", answer.status, answer.text());
    }
    assert!(origin.seen().is_empty());
    let found = series(&ask(&rig, &format!("module=names&target=localhost:{port}")).text());
    assert_eq!((found["x"], found["probe_success"]), (1.0, 1.0));
    let seen = origin.seen();
    assert_eq!((seen[0].line(), seen[0].header("host")), ("GET /m?x=1 HTTP/1.1", Some(format!("localhost:{port}").as_str())));
    let rest = rig.connect("web").ask("POST", &format!("/probe?module=names&target=localhost:{port}")).unwrap();
    assert_eq!((rest.status, origin.seen().len()), (405, 1));
}

#[test]
fn a_target_is_asked_once_for_all_that_want_it() {
    let origin = Origin::ok("x 1\n");
    let module = "probe = { m = { prometheus = \"http://{target}/\", targets = \"127.0.0.0/8\" } }\nmin_interval = \"1h\"";
    let rig = Rig::start(&config(module));
    let query = format!("module=m&target={}", origin.address);
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..5).map(|_| scope.spawn(|| series(&ask(&rig, &query).text())["x"])).collect();
        assert!(askers.into_iter().all(|asker| asker.join().unwrap() == 1.0));
    });
    // A reload that changes nothing about it keeps what it said.
    rig.reloaded(&format!("{}[log]\nlevel = \"debug\"\n", config(module)));
    assert_eq!(series(&ask(&rig, &query).text())["x"], 1.0);
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn a_target_inside_tls_proves_its_own_name() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("probes");
    std::fs::write(directory.path().join("ca.crt"), &authority.cert).unwrap();
    let origin = TlsOrigin::answering(
        TlsOrigin::config(&authority.sign("localhost", &["localhost"]), None),
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nx 1\n",
    );
    let port = origin.address.port();
    let text =
        "probe = { m = { prometheus = \"https://{target}/\", tls = { ca = \"ca.crt\" }, targets = [\"localhost:*\", \"127.0.0.1:*\"] } }";
    let rig = Rig::start_in(directory, &config(text));
    assert_eq!(series(&ask(&rig, &format!("module=m&target=localhost:{port}")).text())["probe_success"], 1.0);
    assert_eq!(series(&ask(&rig, &format!("module=m&target=127.0.0.1:{port}")).text())["probe_success"], 0.0);
}

#[track_caller]
fn check_wrong(module: &str, expected: &str) {
    let said = refused(&config(&format!("probe = {{ m = {{ {module} }} }}")));
    assert!(said.contains(expected), "{said}");
}

#[test]
fn wrong_modules_are_told_with_a_remedy() {
    check_wrong("redis = \"{target}\"", "nothing says whom this may be asked of");
    check_wrong("redis = \"{target}\", targets = []", "then nobody may be asked");
    check_wrong("redis = \"{target}\", targets = \"host\"", "`host` has no port");
    check_wrong("redis = \"{target}\", targets = \"10.0.0.0/40\"", "`10.0.0.0/40` is not a network");
    check_wrong("redis = \"{target}\", targets = \"10.0.0.0/8:x\"", "`x` is not a port");
    check_wrong("redis = \"127.0.0.1:1\", targets = \"10.0.0.0/8\"", "`{target}` is to be there once");
    check_wrong("json = \"http://a/{target}\", map = [], targets = \"10.0.0.0/8\"", "`{target}` is not where the host and the port are");
    check_wrong("exec = [\"x\"], targets = \"10.0.0.0/8\"", "nothing says how targets are asked");
    check_wrong("mysql = \"mysql://{target}\", targets = \"10.0.0.0/8\"", "nobody can ask it anything without a login");
}
