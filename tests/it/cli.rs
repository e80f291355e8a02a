//! The command line: every verb, what it prints and how it exits.
//!
//! What the verbs do to traffic is tested elsewhere; here it is enough that they reach the right process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Client, Next, Origin, Rig, TlsOrigin, binary, eventually};

fn config(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Serves "ok" on a free port.
const GOOD: &str = "[admin]\noff = true\n[[listener]]\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\nrespond = { body = \"ok\" }\n";
/// Reads well; its certificate is not used by anybody.
const WARNS: &str = "[service.lonely]\nendpoints = [\"127.0.0.1:1\"]\n";

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn said(output: &Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a verb that ends by itself, in a directory where no configuration is found by accident.
fn run(arguments: &[&str]) -> Said {
    let nowhere = tempfile::tempdir().unwrap();
    said(&isolated(nowhere.path()).args(arguments).output().unwrap())
}

fn isolated(directory: &Path) -> Command {
    let mut command = binary();
    command.current_dir(directory).env("HOME", directory).env_remove("XDG_CONFIG_HOME").stdin(Stdio::null());
    command
}

#[track_caller]
fn check_exit(arguments: &[&str], code: i32, on_stderr: &str) {
    let said = run(arguments);
    assert_eq!(said.code, Some(code), "{arguments:?}\n{}{}", said.out, said.err);
    assert!(said.err.contains(on_stderr), "{arguments:?} said:\n{}", said.err);
}

/// A verb that serves until it is told to end.
struct Running {
    child: Child,
    address: std::net::SocketAddr,
}

impl Running {
    /// Starts and reads on until a line holds `before` and, after it, an address.
    #[track_caller]
    fn start(mut command: Command, before: &str) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut greeting = String::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("ended without an address:\n{greeting}")).unwrap();
            greeting.push_str(&line);
            greeting.push('\n');
            if let Some((_, after)) = line.split_once(before) {
                let end = after.find(['"', ' ', '/']).unwrap_or(after.len());
                break after[..end].replace("localhost", "127.0.0.1").parse().unwrap();
            }
        };
        // Nobody may block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap().success());
    }

    #[track_caller]
    fn ended(&mut self) -> Option<i32> {
        let mut ended = None;
        eventually("the process ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn wrong_usage_exits_2() {
    check_exit(&["--no-such-flag"], 2, "--no-such-flag");
    check_exit(&["no-such-verb"], 2, "no-such-verb");
    check_exit(&["run", "-c"], 2, "--config");
    check_exit(&["check", "--stict"], 2, "--strict");
    check_exit(&["proxy", "--from", ":8443"], 2, "--to");
    check_exit(&["proxy", "--from", "app:80", "--to", ":1"], 2, "listen on an IP address");
    check_exit(&["proxy", "--from", ":0", "--to", "127.0.0.1"], 2, "no port");
    check_exit(&["proxy", "--from", ":0", "--to", "https://app.example/path"], 2, "has a path");
    check_exit(&["origin", "--listen", "127.0.0.1:port"], 2, "not a port");
    check_exit(&["wait", "--timeout", "30"], 2, "30s");
    check_exit(&["reload", "--admin", "nowhere"], 2, "no port");
}

#[test]
fn help_and_version_exit_0_and_go_to_stdout() {
    for arguments in [&["--help"][..], &["help"], &["run", "--help"], &["--version"], &["version"]] {
        let said = run(arguments);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(said.out.contains("attache"), "{arguments:?}: {}", said.out);
    }
    assert_eq!(run(&["version"]).out, format!("attache {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn check_says_path_line_and_column_of_every_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let path = config(
        directory.path(),
        "a.toml",
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"web\"\nlimts = {}\n\n[log]\nlevel = \"loud\"\n",
    );
    let said = run(&["check", &path]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    for place in [format!("{path}:4:1"), format!("{path}:7:9")] {
        assert!(said.err.contains(&place), "{place} is not in\n{}", said.err);
    }
    assert!(said.err.contains("did you mean `limits`?"), "{}", said.err);
}

#[test]
fn check_strict_takes_warnings_for_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = config(directory.path(), "a.toml", &format!("{GOOD}{WARNS}"));
    let said = run(&["check", &path]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "configuration ok\n"));
    assert!(said.err.contains(&format!("{path}:7:10")) && said.err.contains("nobody uses"), "{}", said.err);
    assert_eq!(run(&["check", "--strict", &path]).code, Some(1));
}

#[test]
fn check_takes_files_and_directories_as_one_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let first = config(directory.path(), "one.toml", "[admin]\noff = true\n[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"a\"\n");
    config(directory.path(), "more/10.toml", "[service.a]\nendpoints = [\"127.0.0.1:1\"]\n");
    config(directory.path(), "more/20.toml", "[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"a\"\n");
    config(directory.path(), "more/ignored.txt", "not TOML");
    let more = directory.path().join("more").display().to_string();
    assert_eq!(run(&["check", "--strict", &first, &more]).code, Some(0));
    let said = run(&["check", &first]);
    assert!(said.code == Some(1) && said.err.contains("there is no service `a`"), "{}", said.err);
    let twice = run(&["check", &more, &config(directory.path(), "twice.toml", "[service.a]\nendpoints = [\"127.0.0.1:2\"]\n")]);
    assert!(twice.code == Some(1) && twice.err.contains("twice.toml:2:1") && twice.err.contains("set twice"), "{}", twice.err);
    check_exit(&["check", "/no/such/file.toml"], 1, "/no/such/file.toml");
}

#[test]
fn the_configuration_is_found_in_its_default_places() {
    let directory = tempfile::tempdir().unwrap();
    let none = said(&isolated(directory.path()).arg("check").output().unwrap());
    assert_eq!(none.code, Some(i32::from(!Path::new("/etc/attache/attache.toml").exists())), "{}", none.err);

    let broken = |name: &str| format!("# {name}\nunknown = 1\n");
    config(directory.path(), "xdg/attache/attache.toml", &broken("xdg"));
    let xdg = || {
        let mut command = isolated(directory.path());
        command.arg("check").env("XDG_CONFIG_HOME", directory.path().join("xdg"));
        command
    };
    let said_by = |command: &mut Command| said(&command.output().unwrap()).err;
    assert!(said_by(&mut xdg()).contains("xdg/attache/attache.toml:2:1"));
    config(directory.path(), ".config/attache/attache.toml", &broken("home"));
    assert!(said_by(isolated(directory.path()).arg("check")).contains(".config/attache/attache.toml:2:1"));
    config(directory.path(), "attache.toml", &broken("here"));
    let here = said_by(&mut xdg());
    assert!(here.contains("attache.toml:2:1") && !here.contains("xdg"), "{here}");
    let named = config(directory.path(), "named.toml", &broken("named"));
    let also = config(directory.path(), "also.toml", &broken("also"));
    let both = said_by(xdg().env("ATTACHE_CONFIG", format!("{named}:{also}")));
    assert!(both.contains("named.toml:2:1") && both.contains("also.toml:2:1"), "{both}");
}

#[test]
fn run_exits_1_when_it_cannot_start() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let path = config(directory.path(), "a.toml", &GOOD.replace(":0", &format!(":{port}")));
    for arguments in [&["run", "-c", &path][..], &["-c", &path]] {
        let said = run(arguments);
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(said.err.contains(&format!("{path}:4:10")) && said.err.contains("cannot listen on"), "{}", said.err);
    }
    check_exit(&["run"], 1, "ATTACHE_CONFIG");
    check_exit(&["run", "-c", &config(directory.path(), "b.toml", "# A key too many\n\n\nbogus = 1\n")], 1, "b.toml:4:1");
    check_exit(&["proxy", "--from", &format!("127.0.0.1:{port}"), "--to", "127.0.0.1:1"], 1, "cannot listen on");
    check_exit(&["origin", "--listen", &format!("127.0.0.1:{port}")], 1, "cannot listen on");
}

#[test]
fn run_ends_with_0_when_everything_was_answered() {
    for signal in ["TERM", "INT"] {
        let mut rig =
            Rig::start("[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\nrespond = { body = \"ok\" }\n");
        assert_eq!(rig.connect("web").ask("GET", "/").unwrap().text(), "ok");
        rig.signal(signal);
        assert_eq!(rig.ended().code, Some(0), "{signal}");
    }
}

#[test]
fn run_ends_with_3_when_the_drain_deadline_cuts_something_off() {
    let origin = Origin::run(|stream, _, _| {
        // Never answers; ends with the connection.
        let _ = std::io::Read::read(stream, &mut [0]);
        Next::Close
    });
    let mut rig = Rig::start(&format!(
        "[process]\nworkers = 1\ndrain = \"300ms\"\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{}\"\n",
        origin.address
    ));
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the request is with the origin", || origin.seen().len() == 1);
    rig.signal("TERM");
    assert_eq!(rig.ended().code, Some(3));
}

#[test]
fn proxy_tls_is_a_laptops_whole_set_up() {
    let origin = Origin::ok("legacy");
    let mut command = binary();
    command.args(["proxy", "--from", "127.0.0.1:0", "--to", &origin.address.to_string(), "--tls"]);
    let mut proxy = Running::start(command, "address=\"");
    let answer = Client::tls(proxy.address, "localhost").unwrap().ask("GET", "/").unwrap();
    assert_eq!((answer.status, answer.text()), (200, "legacy".to_owned()));
    assert_eq!(origin.seen()[0].header("x-forwarded-proto"), Some("https"));
    proxy.signal("TERM");
    assert_eq!(proxy.ended(), Some(0));
}

#[test]
fn proxy_believes_an_https_endpoint_as_far_as_this_machine_does() {
    let directory = tempfile::tempdir().unwrap();
    let pair = crate::support::Pair::of(&["localhost"]);
    let (cert, _) = pair.write(directory.path(), "tls");
    let origin = TlsOrigin::answering(TlsOrigin::config(&pair, None), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let mut command = binary();
    command.env("SSL_CERT_FILE", cert).env_remove("SSL_CERT_DIR");
    command.args(["proxy", "--from", "127.0.0.1:0", "--to", &format!("https://localhost:{}", origin.address.port())]);
    let proxy = Running::start(command, "address=\"");
    assert_eq!(Client::tcp(proxy.address).unwrap().ask("GET", "/").unwrap().text(), "ok");
}

#[test]
fn proxy_says_what_to_try_once_it_listens() {
    let mut command = binary();
    command.args(["proxy", "--from", "127.0.0.1:0", "--to", "127.0.0.1:1", "--tls"]);
    // The last part of its hint.
    let proxy = Running::start(command, "try: curl -k https://");
    assert!(Client::tcp(proxy.address).is_ok());
}

#[test]
fn origin_answers_with_what_it_was_asked() {
    let mut command = binary();
    command.args(["origin", "--listen", "127.0.0.1:0"]);
    let mut origin = Running::start(command, "http://");
    let mut client = Client::tcp(origin.address).unwrap();
    client.send("POST /a?b HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nContent-Length: 2\r\n\r\nhi").unwrap();
    let crate::support::Read1::Answer(answer) = client.read("POST").unwrap() else { panic!("no answer") };
    let echo: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&echo["method"], &echo["target"], &echo["body"]), (&"POST".into(), &"/a?b".into(), &"hi".into()));
    assert_eq!(echo["headers"][1], serde_json::json!(["X-One", "1"]));
    assert_eq!(client.request("GET", "/status/418").unwrap().status, 418);
    assert_eq!(client.request("GET", "/status/204").unwrap().body, b"");
    assert_eq!(client.request("GET", "/bytes/100000").unwrap().body.len(), 100_000);
    let before = Instant::now();
    assert_eq!(client.request("GET", "/delay/100").unwrap().status, 200);
    assert!(before.elapsed() >= Duration::from_millis(100));
    assert_eq!(client.request("HEAD", "/").unwrap().status, 200);

    // Told to end, it still answers who is connected, and ends when they are gone.
    origin.signal("TERM");
    assert_eq!(client.request("GET", "/still").unwrap().status, 200);
    drop(client);
    assert_eq!(origin.ended(), Some(0));
}

#[test]
fn origin_on_a_unix_socket_takes_its_file_along() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("origin.sock");
    let mut child = binary().arg("origin").arg("--listen").arg(format!("unix:{}", path.display())).stderr(Stdio::null()).spawn().unwrap();
    eventually("the socket is there", || Client::unix(&path).is_ok());
    assert_eq!(Client::unix(&path).unwrap().ask("GET", "/").unwrap().status, 200);
    assert!(Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!path.exists());
}

/// Runs a verb that asks `rig`.
fn ask(rig: &Rig, arguments: &[&str]) -> Said {
    said(&binary().args(arguments).arg("--admin").arg(format!("unix:{}", rig.admin_path().display())).output().unwrap())
}

const WEB: &str =
    "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n[service.app]\nendpoints = [\"127.0.0.1:1\"]\n";

#[test]
fn reload_says_what_changed_or_why_nothing_did() {
    let rig = Rig::start(WEB);
    rig.write(&WEB.replace("127.0.0.1:1\"", "127.0.0.1:2\""));
    let done = ask(&rig, &["reload"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.out.starts_with("generation "), "{}", done.out);

    rig.write(&WEB.replace("service = \"app\"", "service = \"ap\""));
    let refused = ask(&rig, &["reload"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("attache.toml:") && refused.err.contains("did you mean `app`?"), "{}", refused.err);
    assert!(refused.err.contains("nothing was changed"), "{}", refused.err);
    assert!(ask(&rig, &["status"]).out.contains("was refused"));
}

#[test]
fn status_shows_listeners_and_services() {
    let rig = Rig::start(WEB);
    let status = ask(&rig, &["status"]);
    assert_eq!(status.code, Some(0), "{}", status.err);
    let address = rig.address("web").to_string();
    for part in ["serving", "generation 1", "listener web", &address, "service app", "127.0.0.1:1"] {
        assert!(status.out.contains(part), "`{part}` is not in\n{}", status.out);
    }
}

#[test]
fn the_admin_address_is_read_from_the_configuration() {
    let rig = Rig::start(WEB);
    let path = rig.directory.path().join("attache.toml").display().to_string();
    let asked = |arguments: &[&str]| said(&binary().args(arguments).output().unwrap());
    assert_eq!(asked(&["healthcheck", "-c", &path]).code, Some(0));
    assert_eq!(said(&binary().arg("healthcheck").env("ATTACHE_CONFIG", &path).output().unwrap()).code, Some(0));
    let address = format!("unix:{}", rig.admin_path().display());
    assert_eq!(said(&binary().arg("healthcheck").env("ATTACHE_ADMIN", &address).output().unwrap()).code, Some(0));

    // A mistake that the running process refused must not make it look dead.
    rig.write(&WEB.replace("service = \"app\"", "service = \"ap\"\nbogus = 1"));
    assert_eq!(asked(&["healthcheck", "-c", &path]).code, Some(0));
    // Where not even that much can be read, a question goes to the default address, a command to nobody.
    rig.write("[[listener");
    let question = asked(&["status", "-c", &path]);
    assert!(question.code == Some(0) || question.err.contains("cannot ask 127.0.0.1:9901"), "{}", question.err);
    let command = asked(&["reload", "-c", &path]);
    assert!(command.code == Some(1) && command.err.contains("--admin"), "{}", command.err);
}

#[test]
fn wait_and_healthcheck_tell_ready_from_alive_from_gone() {
    let mut rig = Rig::start(&format!("[process]\nworkers = 1\nlame_duck = \"60s\"\n{WEB}"));
    assert_eq!(ask(&rig, &["wait"]).code, Some(0));
    assert_eq!(ask(&rig, &["healthcheck"]).code, Some(0));
    assert_eq!(ask(&rig, &["healthcheck", "--ready"]).code, Some(0));

    assert_eq!(ask(&rig, &["drain"]).code, Some(0));
    eventually("it is not ready any more", || ask(&rig, &["healthcheck", "--ready"]).code == Some(1));
    assert_eq!(ask(&rig, &["healthcheck"]).code, Some(0), "alive though not ready");
    let waited = ask(&rig, &["wait", "--timeout", "200ms"]);
    assert!(waited.code == Some(1) && waited.err.contains("draining"), "{}", waited.err);

    rig.signal("TERM");
    assert_eq!(rig.ended().code, Some(0));
    let gone = ask(&rig, &["healthcheck"]);
    assert!(gone.code == Some(1) && gone.err.contains("cannot ask"), "{}", gone.err);
    assert_eq!(ask(&rig, &["wait", "--timeout", "0s"]).code, Some(1));
    for verb in ["reload", "drain", "status"] {
        assert_eq!(ask(&rig, &[verb]).code, Some(1), "{verb}");
    }
}

#[test]
fn drain_finishes_and_stays_until_told_to_end() {
    let mut rig = Rig::start(WEB);
    let address = rig.address("web");
    assert_eq!(ask(&rig, &["drain"]).code, Some(0));
    eventually("nothing is accepted any more", || Client::tcp(address).is_err());
    assert!(rig.is_running());
    assert_eq!(ask(&rig, &["healthcheck"]).code, Some(0));
    assert_eq!(rig.admin("POST", "/quit").status, 202);
    assert_eq!(rig.ended().code, Some(0));
}
