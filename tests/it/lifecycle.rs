//! A life among other processes, as in a pod: waiting for them, ending with them, being ready once they are.
//!
//! What SIGTERM does to traffic, `engine` and `storm` test; here it is enough that the same begins.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Client, Next, Origin, Read1, Rig, binary, eventually, free_address};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A process that is killed if the test ends first.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// One that lives until it is told to end.
    fn companion() -> Self {
        Self::start(&mut Command::new("cat"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// Ends a companion, and has nothing of it left.
    fn end(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.pid()]).status().unwrap().success());
    }

    /// How it ended and what it said.
    fn output(mut self) -> (Option<i32>, String, String) {
        eventually("the process ends", || !self.is_running());
        let mut said = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut said.0).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut said.1).unwrap();
        let status = self.0.wait().unwrap();
        (status.code().or(status.signal().map(|signal| 128 + signal)), said.0, said.1)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/ready?deep=1")
}

fn wait(arguments: &[&str]) -> Process {
    Process::start(binary().arg("wait").args(arguments))
}

/// Answers 503 until it is well.
fn slow_starter() -> (Origin, Arc<AtomicBool>) {
    let is_well = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_well);
    let origin = Origin::run(move |stream, _, _| {
        let status = if flag.load(SeqCst) { "204 No Content" } else { "503 Not Yet" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\n\r\n");
        Next::Close
    });
    (origin, is_well)
}

#[test]
fn wait_returns_once_every_url_has_answered_2xx() {
    let (first, first_is_well) = slow_starter();
    let (second, second_is_well) = slow_starter();
    let mut waiting = wait(&["--url", &url(first.address), "--url", &url(second.address)]);
    eventually("it asks more than once", || first.seen().len() >= 2);
    let asked = first.seen().remove(0);
    assert_eq!(asked.line(), "GET /ready?deep=1 HTTP/1.1");
    assert_eq!(asked.header("host"), Some(&*first.address.to_string()));
    first_is_well.store(true, SeqCst);
    eventually("it asks the second one more than once", || second.seen().len() >= 2);
    assert!(waiting.is_running());
    second_is_well.store(true, SeqCst);
    assert_eq!(waiting.output(), (Some(0), String::new(), String::new()));
}

#[test]
fn only_the_status_of_a_url_matters() {
    for answer in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        "HTTP/1.1 299 Fine\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 201 Created\r\n\r\n",
    ] {
        // Neither goes on nor closes.
        let origin = Origin::raw(move |mut stream, _| {
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_eq!(wait(&["--url", &url(origin.address)]).output().0, Some(0), "{answer:?}");
    }
}

#[test]
fn wait_gives_up_with_the_last_reason() {
    // On a busy machine the last question may come too late to be answered.
    let check = |address: SocketAddr, reason: &str| {
        eventually(reason, || {
            let (code, out, said) = wait(&["--timeout", "250ms", "--url", &url(address), "--", "echo", "never"]).output();
            assert_eq!((code, out.as_str()), (Some(1), ""), "{said}");
            said.contains(&url(address)) && said.contains(reason)
        });
    };
    check(free_address(), "Connection refused");
    for (answer, reason) in [
        ("HTTP/1.1 503 Not Yet\r\n\r\n", "answers 503"),
        ("HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n", "answers 302"),
        ("HTTP/1.1 404 Not Found\r\n\r\n", "answers 404"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (&"HTTP/1.1 100 Continue\r\n\r\n".repeat(100), "not HTTP"),
        ("", "closed without an answer"),
        ("HTTP/1.1 200 O", "closed without an answer"),
    ] {
        let answer = answer.to_owned();
        let origin = Origin::run(move |stream, _, _| {
            let _ = stream.write_all(answer.as_bytes());
            Next::Close
        });
        check(origin.address, reason);
    }
    let silent = Origin::raw(|mut stream, _| drop(stream.read_to_end(&mut Vec::new())));
    check(silent.address, "no answer in time");
    // Something comes all the time, and never all of it.
    let endless = Origin::raw(|mut stream, _| {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        while !matches!(stream.read(&mut [0; 1000]), Ok(0)) && stream.write_all(b"x").is_ok() {}
    });
    check(endless.address, "no answer in time");
}

#[test]
fn wait_becomes_the_command() {
    let origin = Origin::answering(OK);
    let waiting = wait(&["--url", &url(origin.address), "--", "sh", "-c", "echo $$ \"$1\"; echo oops >&2; exit 7", "sh", "one two"]);
    let pid = waiting.pid();
    assert_eq!(waiting.output(), (Some(7), format!("{pid} one two\n"), "oops\n".to_owned()));

    // Signals reach the program, and nobody has changed what they do.
    let mut waiting = wait(&["--url", &url(origin.address), "--", "sh", "-c", "echo up; exec cat"]);
    let mut up = [0; 3];
    waiting.0.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    waiting.signal("TERM");
    assert_eq!(waiting.output().0, Some(128 + 15));
}

#[test]
fn wait_becomes_the_command_once_attache_is_ready_too() {
    let rig = Rig::start("[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"127.0.0.1:1\"\n");
    let admin = format!("unix:{}", rig.admin_path().display());
    assert_eq!(wait(&["--admin", &admin, "--", "echo", "ready"]).output(), (Some(0), "ready\n".to_owned(), String::new()));
    let (code, said, _) = wait(&["--admin", "unix:/no/such.sock", "--timeout", "0s", "--", "echo", "ready"]).output();
    assert_eq!((code, said.as_str()), (Some(1), ""));
}

#[test]
fn a_command_that_cannot_be_executed_is_a_failure() {
    let origin = Origin::answering(OK);
    for (command, reason) in [("/no/such/program", "No such file"), ("/etc/passwd", "Permission denied"), ("", "No such file")] {
        let (code, said, why) = wait(&["--url", &url(origin.address), "--", command, "argument"]).output();
        assert_eq!((code, said.as_str()), (Some(1), ""));
        assert!(why.contains(&format!("cannot run {command}: ")) && why.contains(reason), "{why}");
    }
}

#[test]
fn wait_ends_when_it_is_told_to() {
    for signal in ["TERM", "INT"] {
        let (origin, _) = slow_starter();
        let waiting = wait(&["--url", &url(origin.address), "--", "echo", "never"]);
        eventually("it waits", || origin.seen().len() >= 2);
        waiting.signal(signal);
        let (code, said, why) = waiting.output();
        assert_eq!((code, said.as_str()), (Some(1), ""));
        assert!(why.contains("told to end"), "{why}");
    }
}

#[test]
fn wrong_usage_is_told_from_failure() {
    let check = |arguments: &[&str], reason: &str| {
        let Output { status, stderr, .. } = binary().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert!(status.code() == Some(2) && said.contains(reason), "{arguments:?}: {status}, {said}");
    };
    check(&["wait", "--url", "https://app/"], "only http://");
    check(&["wait", "--url", "app:80"], "only http://");
    check(&["wait", "--url", "http://app:port/"], "http://HOST:PORT/PATH");
    check(&["wait", "--url", "http://app/#x"], "http://HOST:PORT/PATH");
    check(&["wait", "--url", "http://app/", "-c", "attache.toml"], "--config");
    check(&["wait", "echo"], "echo");
    for pid in ["0", "-1", "2147483648", "init", ""] {
        check(&["run", &format!("--exit-with={pid}")], "number of a process");
        check(&["proxy", "--from", ":0", "--to", ":1", &format!("--exit-with={pid}")], "number of a process");
    }
}

/// Before an origin that answers a request only when it is told to.
fn before(origin: &Origin, drain: &str, companion: &Process) -> Rig {
    let config = format!(
        "[process]\nworkers = 1\ndrain = \"{drain}\"\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{}\"\n",
        origin.address
    );
    Rig::start_as(TempDir::new().unwrap(), &config, &["--exit-with", &companion.pid()])
}

/// Answers once `may` is set. How many requests have come is in the counter.
fn patient(may: &Arc<AtomicBool>) -> (Origin, Arc<AtomicUsize>) {
    let (may, asked) = (Arc::clone(may), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    let origin = Origin::run(move |stream, _, _| {
        count.fetch_add(1, SeqCst);
        eventually("it may answer", || may.load(SeqCst));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        Next::Keep
    });
    (origin, asked)
}

#[test]
fn attache_ends_with_the_process_it_was_given_and_finishes_what_is_in_flight() {
    let may = Arc::new(AtomicBool::new(false));
    let (origin, asked) = patient(&may);
    let companion = Process::companion();
    let mut rig = before(&origin, "25s", &companion);
    let address = rig.address("web");
    let mut client = Client::tcp(address).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("a request is in flight", || asked.load(SeqCst) == 1);
    assert_eq!(rig.admin("GET", "/readyz").status, 200);

    let pid = companion.pid();
    companion.end();
    eventually("nobody else is let in", || Client::tcp(address).is_err());
    assert_eq!(rig.admin("GET", "/readyz").text(), "draining\n");
    assert!(rig.is_running());
    may.store(true, SeqCst);
    let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
    assert_eq!(answer.text(), "done");
    assert_eq!(rig.ended().code, Some(0));
    assert!(rig.log().contains(&format!("the process to exit with has ended pid={pid}")), "{}", rig.log());
}

#[test]
fn the_drain_deadline_holds_for_that_end_too() {
    let (origin, asked) = patient(&Arc::default());
    let companion = Process::companion();
    let mut rig = before(&origin, "200ms", &companion);
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("a request is in flight", || asked.load(SeqCst) == 1);
    companion.end();
    assert_eq!(rig.ended().code, Some(3));
}

#[test]
fn a_process_that_stays_after_draining_stays_no_longer_than_its_companion() {
    let origin = Origin::ok("");
    let companion = Process::companion();
    let mut rig = before(&origin, "25s", &companion);
    let address = rig.address("web");
    assert_eq!(rig.admin("POST", "/drain").status, 202);
    eventually("nothing is accepted any more", || Client::tcp(address).is_err());
    assert!(rig.is_running());
    companion.end();
    assert_eq!(rig.ended().code, Some(0));
}

#[test]
fn signals_end_a_process_with_a_companion_as_any_other() {
    let origin = Origin::ok("");
    let companion = Process::companion();
    let mut rig = before(&origin, "25s", &companion);
    rig.signal("TERM");
    assert_eq!(rig.ended().code, Some(0));
}

fn config(directory: &Path, text: &str) -> String {
    let path = directory.join("attache.toml");
    std::fs::write(&path, format!("[admin]\noff = true\n{text}")).unwrap();
    path.display().to_string()
}

const WEB: &str = "[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"127.0.0.1:1\"\n";

#[test]
fn a_process_that_is_gone_cannot_be_lived_with() {
    let directory = TempDir::new().unwrap();
    let path = config(directory.path(), WEB);
    let companion = Process::companion();
    let pid = companion.pid();
    companion.end();
    for arguments in [&["run", "-c", &path][..], &["-c", &path], &["proxy", "--from", "127.0.0.1:0", "--to", "127.0.0.1:1"]] {
        let (code, _, said) = Process::start(binary().args(arguments).args(["--exit-with", &pid])).output();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("cannot exit with process {pid}: there is no such process")), "{said}");
    }
}

/// Between its end and the moment that its parent asks how it went.
#[test]
fn a_process_that_has_just_ended_has_ended() {
    let directory = TempDir::new().unwrap();
    let path = config(directory.path(), WEB);
    let mut companion = Process::companion();
    drop(companion.0.stdin.take());
    // The end of its output comes with its own.
    companion.0.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
    let (code, _, said) = Process::start(binary().args(["run", "-c", &path, "--exit-with", &companion.pid()])).output();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_proxy_without_a_file_ends_with_its_companion_too() {
    let companion = Process::companion();
    let mut proxy =
        Process::start(binary().args(["proxy", "--from", "127.0.0.1:0", "--to", "127.0.0.1:1", "--exit-with", &companion.pid()]));
    let mut said = [0; 1];
    proxy.0.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert!(proxy.is_running());
    companion.end();
    assert_eq!(proxy.output().0, Some(0));
}

/// Two pools, each with an endpoint of this weight.
fn two_pools(ready: &str, app: u32, web: u32) -> String {
    format!(
        "ready = {ready}\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"web\"\n\
         [[listener.route]]\npath = \"/app\"\nservice = \"app\"\n\
         [service.app]\nendpoints = [{{ address = \"127.0.0.1:1\", weight = {app} }}]\n\
         [service.web]\nendpoints = [{{ address = \"127.0.0.1:1\", weight = {web} }}]\n"
    )
}

#[test]
fn readiness_waits_for_named_pools() {
    let rig = Rig::start(&two_pools("[\"web\", \"app\"]", 1, 1));
    let readiness = || {
        let answer = rig.admin("GET", "/readyz");
        (answer.status, answer.text())
    };
    assert_eq!(readiness(), (200, "ready\n".to_owned()));
    for (app, web, waits_for) in [(0, 1, "app"), (1, 0, "web"), (0, 0, "web, app")] {
        rig.reloaded(&two_pools("[\"web\", \"app\"]", app, web));
        assert_eq!(readiness(), (503, format!("waiting for {waits_for}\n")));
    }
    assert_eq!(rig.admin("GET", "/healthz").status, 200);
    assert_eq!(rig.admin_json("/status")["phase"], "serving");
    let admin = format!("unix:{}", rig.admin_path().display());
    let (code, _, said) = wait(&["--admin", &admin, "--timeout", "200ms"]).output();
    assert!(code == Some(1) && said.contains("not ready: waiting for web, app"), "{said}");
    let output = binary().args(["healthcheck", "--ready", "--admin", &admin]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));

    // Not named, not waited for; and no socket is bound anew for that.
    let changed = rig.reloaded(&two_pools("\"web\"", 0, 1));
    assert_eq!(readiness(), (200, "ready\n".to_owned()));
    let change = changed["changes"].as_array().unwrap().iter().find(|change| change["what"] == "admin").unwrap();
    assert_eq!(change["effect"], "in place");
    rig.reloaded(&two_pools("[]", 0, 0));
    assert_eq!(readiness(), (200, "ready\n".to_owned()));
    assert_eq!(rig.admin_json("/config")["admin"]["ready"], serde_json::json!([]));
    rig.signal("TERM");
}

#[test]
fn names_that_readiness_waits_for_are_checked() {
    let services = "[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n[[listener.route]]\npath = \"/hi\"\nservice = \"hello\"\n\
                    [service.app]\nendpoints = [\"127.0.0.1:1\"]\n[service.hello.respond]\nbody = \"hi\"\n";
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("attache.toml");
    let check = |admin: &str, rest: &str, wanted: &[&str]| {
        std::fs::write(&path, format!("[admin]\n{admin}\n{rest}")).unwrap();
        let Output { status, stderr, .. } = binary().args(["check", "--strict"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(status.success(), wanted.is_empty(), "{admin}: {said}");
        for part in wanted {
            assert!(said.contains(part), "{admin}: `{part}` is not in\n{said}");
        }
    };
    check("ready = [\"app\"]", services, &[]);
    check("ready = \"app\"", services, &[]);
    check("ready = [\"app\", \"ap\"]", services, &["attache.toml:2:17", "there is no service `ap`", "did you mean `app`?"]);
    check("ready = [\"127.0.0.1:1\"]", services, &["attache.toml:2:10", "there is no service", "a table [service.NAME] of its own"]);
    check("ready = [\"\"]", services, &["attache.toml:2:10", "there is no service"]);
    check("ready = [\"hello\"]", services, &["attache.toml:2:10", "`hello` is no pool", "name a pool"]);
    check("ready = [\"app\", \"app\"]", services, &["attache.toml:2:17", "`app` is named twice"]);
    check("ready = [1]", services, &["attache.toml:2:10", "expected a string"]);
    check("redy = [\"app\"]", services, &["attache.toml:2:1", "did you mean `ready`?"]);
    check("ready = [\"app\"]\noff = true", services, &["attache.toml:2:9", "the admin API is off"]);
    // To be waited for is no use.
    let unused = "[service.spare]\nendpoints = [\"127.0.0.1:1\"]\n";
    check("ready = [\"spare\"]", &format!("{services}{unused}"), &["nobody uses the service `spare`"]);
    // A pool with a mistake of its own is still one.
    let broken = "[service.spare]\nendpoints = [\"127.0.0.1:1\"]\nbalanc = 1\n";
    check("ready = [\"spare\"]", &format!("{services}{broken}"), &["did you mean `balance`?"]);
}
