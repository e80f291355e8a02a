//! Real programs: clients that people use, and nginx as the legacy program.
//!
//! What a program sends and expects is its own; here it is enough that attache and it get along. A program that is not
//! there is a message, not a failure.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Answer, Client, Pair, Rig, binary, eventually, has};

#[track_caller]
fn run(command: &mut Command) -> String {
    let output: Output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A program of ours that serves until dropped, by its own process id.
pub struct Served {
    child: Child,
    pub address: SocketAddr,
}

impl Served {
    /// Starts `command` on a port that was free a moment ago, and once more if somebody else was faster.
    #[track_caller]
    pub fn start(command: impl Fn(SocketAddr) -> Command) -> Self {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let child = command(address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut served = Self { child, address };
            while served.child.try_wait().unwrap().is_none() && Instant::now() < deadline {
                if Client::tcp(address).is_ok() {
                    return served;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("the program does not start");
    }

    /// `attache origin`, which tells what it was asked.
    fn echo() -> Self {
        Self::start(|address| {
            let mut command = binary();
            command.args(["origin", "--listen", &address.to_string()]);
            command
        })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// HTTPS and HTTP before one address, with a certificate for localhost that clients may verify.
struct Front {
    rig: Rig,
    ca: PathBuf,
}

impl Front {
    fn before(address: SocketAddr) -> Self {
        let directory = TempDir::new().unwrap();
        let (ca, _) = Pair::of(&["localhost"]).write(directory.path(), "tls");
        let config = format!(
            "[log]\naccess = \"json\"\nto = \"stderr\"\n[[listener]]\nname = \"https\"\nlisten = \"127.0.0.1:0\"\ntls = {{ cert = \"tls.crt\", key = \"tls.key\" }}\nservice = \"{address}\"\n\
             [[listener]]\nname = \"http\"\nlisten = \"127.0.0.1:0\"\nservice = \"{address}\"\n"
        );
        Self { rig: Rig::start_in(directory, &config), ca }
    }

    fn port(&self, listener: &str) -> u16 {
        self.rig.address(listener).port()
    }

    fn https(&self) -> String {
        format!("https://localhost:{}", self.port("https"))
    }

    fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port("http"))
    }

    /// curl, which verifies our certificate.
    fn curl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "20"]);
        command.args(["--resolve", &format!("localhost:{}:127.0.0.1", self.port("https")), "--cacert"]).arg(&self.ca);
        run(command.args(arguments))
    }
}

#[track_caller]
fn echo(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn curl_gets_along() {
    if !has("curl", "--version") {
        return;
    }
    let origin = Served::echo();
    let front = Front::before(origin.address);
    for base in [front.https(), front.http()] {
        assert_eq!(echo(&front.curl(&[&format!("{base}/a?b=c")]))["target"], "/a?b=c");
        assert_eq!(echo(&front.curl(&["--http1.0", &format!("{base}/old")]))["target"], "/old");
        assert!(front.curl(&["--http1.1", "--head", &base]).starts_with("HTTP/1.1 200 OK\r\n"));

        let sized = echo(&front.curl(&["--data", "sized", &base]));
        assert_eq!((&sized["method"], &sized["body"]), (&"POST".into(), &"sized".into()));
        let chunked = echo(&front.curl(&["--header", "Transfer-Encoding: chunked", "--data", "in chunks", &base]));
        assert_eq!(chunked["body"], "in chunks");
        let expecting = front.curl(&["--verbose", "--stderr", "-", "--header", "Expect: 100-continue", "--data", "expected", &base]);
        let is_told = expecting.contains("HTTP/1.1 100 Continue") || expecting.contains("HTTP/2 100");
        assert!(is_told && expecting.contains("\"expected\""), "{expecting}");

        // Two requests on one connection: the second needs none.
        let format = "%{num_connects} ";
        let kept = front.curl(&["--output", "/dev/null", "--output", "/dev/null", "--write-out", format, &base, &format!("{base}/2")]);
        assert_eq!(kept, "1 0 ");
        let size = front.curl(&["--output", "/dev/null", "--write-out", "%{size_download}", &format!("{base}/bytes/10000000")]);
        assert_eq!(size, "10000000");
    }
    let old_tls = echo(&front.curl(&["--tls-max", "1.2", &front.https()]));
    assert_eq!(old_tls["method"], "GET");
}

#[test]
fn curl_gets_along_over_http2() {
    if !has("curl", "--version") || !run(Command::new("curl").arg("--version")).contains("HTTP2") {
        return;
    }
    let origin = Served::echo();
    let front = Front::before(origin.address);
    for (base, choice) in [(front.https(), "--http2"), (front.http(), "--http2-prior-knowledge")] {
        let curl = |arguments: &[&str]| front.curl(&[&[choice], arguments].concat());
        assert_eq!(echo(&curl(&[&format!("{base}/a?b=c")]))["target"], "/a?b=c");
        assert!(curl(&["--head", &base]).starts_with("HTTP/2 200 \r\n"));
        assert_eq!(echo(&curl(&["--data", "sized", &base]))["body"], "sized");
        assert_eq!(curl(&["--output", "/dev/null", "--write-out", "%{size_download}", &format!("{base}/bytes/5000000")]), "5000000");
    }
    // Not by prior knowledge: this curl forgets by its second request what it knew, before nginx too.
    let (base, format) = (front.https(), "%{num_connects}%{http_version} ");
    let kept = front.curl(&["--output", "/dev/null", "--output", "/dev/null", "--write-out", format, &base, &format!("{base}/2")]);
    assert_eq!(kept, "12 02 ");
}

/// The tools of nghttp2, whose library is under curl, nginx's tests and much else.
#[test]
fn nghttp_and_h2load_get_along() {
    let origin = Served::echo();
    let front = Front::before(origin.address);
    if has("nghttp", "--version") {
        for base in [front.https(), front.http()] {
            let seen =
                run(Command::new("nghttp").args(["--verbose", "--null-out", "--no-verify-peer", &base, &format!("{base}/bytes/100000")]));
            assert_eq!(seen.matches(":status: 200").count(), 2, "{seen}");
            assert!(
                !seen.contains("GOAWAY frame <length=8, flags=0x00, stream_id=0>\n          (last_stream_id=0, error_code=PROTOCOL"),
                "{seen}"
            );
        }
    }
    if has("h2load", "--version") {
        for base in [front.https(), front.http()] {
            let seen = run(Command::new("h2load").args(["-n", "2000", "-c", "4", "-m", "50", &format!("{base}/status/200")]));
            assert!(seen.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{seen}");
        }
    }
}

#[test]
fn curl_uploads_a_file() {
    if !has("curl", "--version") {
        return;
    }
    let origin = Served::echo();
    let front = Front::before(origin.address);
    let path = front.rig.directory.path().join("upload");
    std::fs::write(&path, vec![b'u'; 8 << 20]).unwrap();
    let file = path.display().to_string();
    for extra in [&["--upload-file", &file][..], &["--header", "Transfer-Encoding: chunked", "--upload-file", &file]] {
        let mut arguments = extra.to_vec();
        let url = format!("{}/up", front.https());
        arguments.push(&url);
        let answer = echo(&front.curl(&arguments));
        assert_eq!((&answer["method"], &answer["body_bytes"]), (&"PUT".into(), &(8 << 20).into()));
    }
}

#[test]
fn openssl_s_client_gets_along() {
    if !has("openssl", "version") {
        return;
    }
    let origin = Served::echo();
    let front = Front::before(origin.address);
    let address = format!("127.0.0.1:{}", front.port("https"));
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-connect",
            &address,
            "-servername",
            "localhost",
            "-verify_return_error",
            "-ign_eof",
            version,
            "-CAfile",
        ]);
        let mut child = command.arg(&front.ca).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let request = b"GET /from-openssl HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), request).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Verify return code: 0 (ok)") && text.contains("/from-openssl"), "{text}");
        assert!(text.contains(&format!("New, {name}")) || text.contains(&format!("Protocol  : {name}")), "{text}");
    }
    for refused in ["-tls1", "-tls1_1"] {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address, refused, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(!command.stdin(Stdio::null()).output().unwrap().status.success(), "{refused} was accepted");
    }
}

/// A virtual environment under `target/`, so that packages are fetched once; `None`, with a message, where they
/// cannot be had.
fn python_with(package: &str, module: &str) -> Option<PathBuf> {
    if !has("python3", "--version") {
        return None;
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("python-{module}"));
    let python = directory.join("bin/python");
    let is_there = || Command::new(&python).args(["-c", &format!("import {module}")]).output().is_ok_and(|output| output.status.success());
    if is_there() {
        return Some(python);
    }
    let mut venv = Command::new("python3");
    let has_venv = venv.args(["-m", "venv"]).arg(&directory).output().is_ok_and(|output| output.status.success());
    if has_venv {
        let mut pip = Command::new(&python);
        let _ = pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]).stdin(Stdio::null()).output();
    }
    if is_there() {
        return Some(python);
    }
    eprintln!("skipped: {package} cannot be installed into {}", directory.display());
    None
}

#[test]
fn pythons_http_client_gets_along() {
    if !has("python3", "--version") {
        return;
    }
    let origin = Served::echo();
    let front = Front::before(origin.address);
    let script = r#"
import http.client, json, ssl, sys
port, ca = int(sys.argv[1]), sys.argv[2]
connection = http.client.HTTPSConnection("localhost", port, context=ssl.create_default_context(cafile=ca), timeout=20)
for method, path, body in [("GET", "/a", None), ("POST", "/b", b"sized"), ("POST", "/c", iter([b"in ", b"chunks"])), ("HEAD", "/d", None)]:
    connection.request(method, path, body=body, encode_chunked=True)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, answer.status
    if method != "HEAD":
        seen = json.loads(text)
        assert seen["target"] == path, seen
        print(seen["body"])
"#;
    let mut python = Command::new("python3");
    let said = run(python.args(["-c", script, &front.port("https").to_string()]).arg(&front.ca));
    assert_eq!(said, "\nsized\nin chunks\n");
}

#[test]
fn requests_gets_along() {
    let Some(python) = python_with("requests", "requests") else { return };
    let origin = Served::echo();
    let front = Front::before(origin.address);
    let script = r#"
import requests, sys
base, ca = sys.argv[1], sys.argv[2]
session = requests.Session()
session.trust_env = False
session.verify = ca
for number in range(20):
    assert session.get(f"{base}/{number}", timeout=20).json()["target"] == f"/{number}"
assert session.post(base, data=(part for part in [b"a", b"b"]), timeout=20).json()["body"] == "ab"
assert session.post(base, files={"f": b"x" * 100000}, timeout=20).json()["body_bytes"] > 100000
assert session.get(f"{base}/status/404", timeout=20).status_code == 404
assert len(session.get(f"{base}/bytes/3000000", timeout=20).content) == 3000000
print("ok")
"#;
    assert_eq!(run(Command::new(python).args(["-c", script, &front.https()]).arg(&front.ca)), "ok\n");
}

/// Two thousand browsers, half of them over TLS: each stays in its arm over ten requests, a reload and a restart.
#[test]
fn two_thousand_cookie_jars_stay_in_their_arms() {
    let Some(python) = python_with("requests", "requests") else { return };
    let services = ["canary", "stable"].map(crate::support::Fickle::start);
    let directory = TempDir::new().unwrap();
    // A restart finds them at the same place.
    let [https, http] = [(); 2].map(|()| crate::support::free_address());
    let (ca, _) = Pair::of(&[&https.ip().to_string()]).write(directory.path(), "tls");
    let config = |more: &str| {
        let at = directory.path().display();
        format!(
            "[process]\nworkers = 2\n[[listener]]\nname = \"https\"\nlisten = \"{https}\"\ntls = {{ cert = \"{at}/tls.crt\", key = \"{at}/tls.key\" }}\nservice = \"shop\"\n\
             [[listener]]\nname = \"http\"\nlisten = \"{http}\"\nservice = \"shop\"\n\
             [service.shop.split]\narms = {{ canary = \"30%\", stable = \"rest\" }}\nissue = \"uid\"\nexpose = true\n{more}\n\
             [service.canary]\nendpoints = [\"{}\"]\n[service.stable]\nendpoints = [\"{}\"]\n",
            services[0].address, services[1].address
        )
    };
    let rig = Rig::start(&config(""));
    let script = r#"
import requests, sys
bases, ca = sys.argv[1:3], sys.argv[3]
session = requests.Session()
session.trust_env = False
session.verify = ca
jars = [requests.cookies.RequestsCookieJar() for _ in range(2000)]
arms = [None] * len(jars)
for times in (4, 3, 3):
    for _ in range(times):
        for user, jar in enumerate(jars):
            session.cookies = jar
            arm = session.get(bases[user % 2], timeout=20).headers["x-attache-arm"]
            assert arms[user] in (None, arm), f"{user} was in {arms[user]} and is in {arm}"
            arms[user] = arm
    print("done", flush=True)
    sys.stdin.readline()
for user, jar in enumerate(jars):
    (cookie,) = jar
    assert cookie.name == "uid" and len(cookie.value) == 16 and cookie.secure == (user % 2 == 0), (user, cookie)
    assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite") == "Lax", cookie
assert len({cookie.value for jar in jars for cookie in jar}) == len(jars)
print(arms.count("canary"))
"#;
    let mut command = Command::new(python);
    command.args(["-c", script]).args([format!("https://{https}"), format!("http://{http}")]);
    let mut python = command.arg(&ca).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(python.stdout.take().unwrap()).lines();
    let mut next = || said.next().expect("the script goes on").unwrap();
    let mut go_on = python.stdin.take().unwrap();
    assert_eq!(next(), "done");
    rig.reloaded(&config("salt = \"shop\""));
    writeln!(go_on).unwrap();
    assert_eq!(next(), "done");
    drop(rig);
    let _rig = Rig::start(&config(""));
    writeln!(go_on).unwrap();
    assert_eq!(next(), "done");
    writeln!(go_on).unwrap();
    let canaries: usize = next().parse().unwrap();
    assert!(python.wait().unwrap().success());
    // Six standard deviations.
    assert!((478..=722).contains(&canaries), "{canaries} of 2000");
}

#[test]
fn nodes_fetch_gets_along() {
    if !has("node", "--version") {
        return;
    }
    let origin = Served::echo();
    let front = Front::before(origin.address);
    let script = r#"
const base = process.argv[1];
const check = (fact, what) => { if (!fact) { console.error(what); process.exit(1); } };
(async () => {
    const answers = await Promise.all([...Array(50).keys()].map(n => fetch(`${base}/${n}`).then(answer => answer.json())));
    check(answers.every((answer, n) => answer.target === `/${n}`), "get");
    const body = new ReadableStream({ start(c) { c.enqueue(new TextEncoder().encode("streamed")); c.close(); } });
    const streamed = await (await fetch(base, { method: "POST", body, duplex: "half" })).json();
    check(streamed.body === "streamed", JSON.stringify(streamed));
    check((await fetch(`${base}/status/503`)).status === 503, "status");
    check((await (await fetch(`${base}/bytes/3000000`)).arrayBuffer()).byteLength === 3000000, "bytes");
    console.log("ok");
})();
"#;
    let mut node = Command::new("node");
    node.args(["-e", script, &front.https()]).env("NODE_EXTRA_CA_CERTS", &front.ca).env_remove("HTTPS_PROXY");
    // Names are looked up in whatever order; attache listens on IPv4 here.
    assert_eq!(run(node.env("NODE_OPTIONS", "--dns-result-order=ipv4first")), "ok\n");
}

/// One listener before an endpoint with TLS and a certificate of `tls.crt`.
fn before_tls(directory: TempDir, address: SocketAddr, more: &str) -> Rig {
    Rig::start_in(
        directory,
        &format!(
            "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n[service.app]\nendpoints = [\"{address}\"]\n\
             tls = {{ ca = \"tls.crt\", server_name = \"localhost\"{more} }}\n"
        ),
    )
}

#[test]
fn openssl_s_server_gets_along() {
    if !has("openssl", "version") {
        return;
    }
    for version in ["-tls1_2", "-tls1_3"] {
        for asks in [false, true] {
            let directory = TempDir::new().unwrap();
            let (cert, key) = Pair::of(&["localhost"]).write(directory.path(), "tls");
            let server = Served::start(|address| {
                let mut command = Command::new("openssl");
                command.args(["s_server", "-www", version, "-accept", &address.to_string(), "-cert"]).arg(&cert).arg("-key").arg(&key);
                if asks {
                    command.args(["-Verify", "1", "-verify_return_error", "-CAfile"]).arg(&cert);
                }
                command
            });
            let more = if asks { ", cert = \"tls.crt\", key = \"tls.key\"" } else { "" };
            let rig = before_tls(directory, server.address, more);
            for round in 0..3 {
                let answer = rig.connect("web").ask("GET", "/").unwrap();
                assert!(answer.status == 200 && answer.text().contains("Cipher"), "{version} {asks} {round}: {}", answer.text());
            }
            // It ends each connection, and without a certificate it ends the first before an answer.
            let series =
                format!("attache_upstream_tls_handshakes_total{{service=\"app\",endpoint=\"{}\",outcome=\"resumed\"}}", server.address);
            assert!(rig.metric(&series) >= 1.0, "{version} {asks}: nothing was resumed");
        }
    }
}

#[test]
fn nginx_may_be_an_origin_behind_tls() {
    let directory = TempDir::new().unwrap();
    let (cert, key) = Pair::of(&["localhost"]).write(directory.path(), "tls");
    let tls = format!("ssl_certificate {}; ssl_certificate_key {};", cert.display(), key.display());
    let Some(nginx) = nginx_with(directory.path(), " ssl", &tls) else { return };
    let rig = before_tls(directory, nginx.address, "");
    let mut client = rig.connect("web");
    let large = "0123456789".repeat(300_000);
    // More requests than it answers on one connection.
    for _ in 0..12 {
        check_body(&client.request("GET", "/large").unwrap(), &large);
    }
    assert_eq!(client.request("GET", "/ssi/index.html").unwrap().text(), "from a part and whole");
    // Without a length: whole, since nginx ends TLS before the connection.
    client.send("GET /old HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
    assert!(matches!(client.read("GET").unwrap(), crate::support::Read1::Answer(answer) if answer.status == 200));
    let handshakes = |outcome: &str| {
        let series =
            format!("attache_upstream_tls_handshakes_total{{service=\"app\",endpoint=\"{}\",outcome=\"{outcome}\"}}", nginx.address);
        rig.metric(&series)
    };
    assert!(handshakes("resumed") >= 1.0 && handshakes("failed") == 0.0);
}

/// It ends connections after a few requests, with a GOAWAY that requests on their way may cross.
#[test]
fn nginx_may_be_an_origin_in_http2() {
    let tls = |directory: &Path| {
        let (cert, key) = Pair::of(&["localhost"]).write(directory, "tls");
        format!("ssl_certificate {}; ssl_certificate_key {};", cert.display(), key.display())
    };
    for (listen, settings) in [(" http2", "protocol = \"h2\""), (" ssl http2", "protocol = \"auto\"\ntls = { insecure = true }")] {
        let directory = TempDir::new().unwrap();
        let server = if listen.contains("ssl") { tls(directory.path()) } else { String::new() };
        let Some(nginx) = nginx_with(directory.path(), listen, &server) else { return };
        let rig = Rig::start(&format!(
            "[process]\nworkers = 1\n[service.app]\nendpoints = [\"{}\"]\n{settings}\n\
             [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n",
            nginx.address
        ));
        let large = "0123456789".repeat(300_000);
        let ask = |path: &str| Client::tcp(rig.address("web")).unwrap().ask("GET", path).unwrap();
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..6 {
                            assert_eq!(ask("/ssi/index.html").text(), "from a part and whole");
                        }
                        check_body(&ask("/large"), &large);
                    })
                })
                .collect();
            for asked in asking {
                asked.join().unwrap();
            }
        });
        assert_eq!(Client::tcp(rig.address("web")).unwrap().ask("HEAD", "/large").unwrap().header("content-length"), Some("3000000"));
        let log = std::fs::read_to_string(directory.path().join("access.log")).unwrap();
        assert!(log.lines().all(|line| line.contains("HTTP/2.0")), "{log}");
    }
}

/// nginx as somebody's old origin: static files, chunked answers and connections that it closes when it likes.
fn nginx(directory: &Path) -> Option<Served> {
    nginx_with(directory, "", "")
}

/// As [`nginx`], with more behind `listen` and in its server.
fn nginx_with(directory: &Path, listen: &str, server: &str) -> Option<Served> {
    if !has("nginx", "-v") {
        return None;
    }
    let root = directory.join("root");
    std::fs::create_dir_all(root.join("ssi")).unwrap();
    std::fs::write(root.join("large"), "0123456789".repeat(300_000)).unwrap();
    std::fs::write(root.join("ssi/part"), "from a part").unwrap();
    std::fs::write(root.join("ssi/index.html"), "<!--#include virtual=\"part\" --> and whole").unwrap();
    let nginx = Served::start(|address| {
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log {dir}/access.log; types {{ text/html html; text/plain txt; }} default_type text/plain;\n\
               client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
               uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
               gzip on; gzip_min_length 1; gzip_types text/plain; gzip_http_version 1.0; gzip_proxied any;\n\
               server {{ listen {address}{listen}; root {root}; {server}\n\
                 keepalive_timeout 1s; keepalive_requests 5;\n\
                 location /ssi/ {{ ssi on; }}\n\
                 location /close/ {{ keepalive_timeout 0; alias {root}/; }}\n\
                 location /old {{ chunked_transfer_encoding off; gzip on; alias {root}/large; }} }} }}\n",
            dir = directory.display(),
            root = root.display(),
        );
        std::fs::write(directory.join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-e").arg(directory.join("error.log")).arg("-c").arg(directory.join("nginx.conf")).arg("-p").arg(directory);
        command
    });
    Some(nginx)
}

/// Says what is wrong with a large body without printing it.
#[track_caller]
fn check_body(answer: &Answer, expected: &str) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text() == expected, "{} bytes of {}, or other ones", answer.body.len(), expected.len());
}

#[test]
fn nginx_is_a_legacy_program_like_many() {
    let directory = TempDir::new().unwrap();
    let Some(nginx) = nginx(directory.path()) else { return };
    let front = Front::before(nginx.address);
    let address = front.rig.address("https");
    let mut client = Client::tls(address, "localhost").unwrap();
    let large = "0123456789".repeat(300_000);
    // More requests than it answers on one connection: it closes, and nobody notices.
    for _ in 0..23 {
        check_body(&client.request("GET", "/large").unwrap(), &large);
    }
    // Chunked, and without a length until the end of the connection.
    assert_eq!(client.request("GET", "/ssi/index.html").unwrap().text(), "from a part and whole");
    for path in ["/close/large", "/large"] {
        check_body(&client.request("GET", path).unwrap(), &large);
    }
    client.send("GET /old HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
    let crate::support::Read1::Answer(zipped) = client.read("GET").unwrap() else { panic!("no answer") };
    assert_eq!((zipped.status, zipped.header("content-encoding")), (200, Some("gzip")));
    assert!(zipped.header("content-length").is_none() && zipped.body.len() > 1000);

    let mut client = Client::tls(address, "localhost").unwrap();
    assert_eq!(client.request("GET", "/nothing").unwrap().status, 404);
    assert_eq!(client.request("HEAD", "/large").unwrap().header("content-length"), Some("3000000"));
    client.send("GET /large HTTP/1.1\r\nHost: a\r\nRange: bytes=10-19\r\n\r\n").unwrap();
    let crate::support::Read1::Answer(part) = client.read("GET").unwrap() else { panic!("no answer") };
    assert_eq!((part.status, part.text()), (206, "0123456789".to_owned()));
}

/// nginx closes idle connections after a second: requests that come just then must not fail.
#[test]
fn connections_that_nginx_closes_while_idle_fail_nobody() {
    let directory = TempDir::new().unwrap();
    let Some(nginx) = nginx(directory.path()) else { return };
    let front = Front::before(nginx.address);
    let address = front.rig.address("http");
    let clients: Vec<_> = (0..16)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = Client::tcp(address).unwrap();
                for round in 0..4 {
                    let answer = client.request("GET", "/ssi/part").unwrap();
                    assert_eq!((answer.status, answer.text().as_str()), (200, "from a part"), "client {number}, round {round}");
                    // Around the moment at which the origin has had enough; this pause is the test.
                    std::thread::sleep(Duration::from_millis(990 + number));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn sslyze_finds_nothing_worth_fixing() {
    let Some(python) = python_with("sslyze", "sslyze") else { return };
    let origin = Served::echo();
    let front = Front::before(origin.address);
    let report = front.rig.directory.path().join("sslyze.json");
    let mut command = Command::new(python);
    let scans = [
        "sslv2",
        "sslv3",
        "tlsv1",
        "tlsv1_1",
        "tlsv1_2",
        "tlsv1_3",
        "heartbleed",
        "openssl_ccs",
        "compression",
        "reneg",
        "early_data",
        "robot",
    ];
    command
        .args(["-m", "sslyze"])
        .args(scans.map(|scan| format!("--{scan}")))
        .arg("--json_out")
        .arg(&report)
        .arg("--mozilla_config=disable");
    let target = format!("localhost:{}{{127.0.0.1}}", front.port("https"));
    let output = command.arg(&target).stdin(Stdio::null()).output().unwrap();
    let text = std::fs::read_to_string(&report).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let report: Value = serde_json::from_str(&text).unwrap();
    let scan = &report["server_scan_results"][0];
    assert_eq!(scan["scan_status"], "COMPLETED", "{scan}");
    let result = |name: &str| &scan["scan_result"][name]["result"];

    for (version, is_offered) in
        [("ssl_2_0", false), ("ssl_3_0", false), ("tls_1_0", false), ("tls_1_1", false), ("tls_1_2", true), ("tls_1_3", true)]
    {
        let accepted = &result(&format!("{version}_cipher_suites"))["accepted_cipher_suites"];
        assert_eq!(accepted.as_array().is_some_and(|suites| !suites.is_empty()), is_offered, "{version}: {accepted}");
        for suite in accepted.as_array().into_iter().flatten() {
            let name = suite["cipher_suite"]["name"].as_str().unwrap();
            assert!(!["CBC", "RC4", "3DES", "NULL", "EXPORT", "MD5"].iter().any(|weak| name.contains(weak)), "{name}");
            assert!(name.contains("_ECDHE_") || version == "tls_1_3", "{name} has no forward secrecy");
        }
    }
    assert_eq!(result("heartbleed")["is_vulnerable_to_heartbleed"], false);
    assert_eq!(result("openssl_ccs_injection")["is_vulnerable_to_ccs_injection"], false);
    assert_eq!(result("tls_compression")["supports_compression"], false);
    assert_eq!(result("session_renegotiation")["is_vulnerable_to_client_renegotiation_dos"], false);
    assert_eq!(result("session_renegotiation")["supports_secure_renegotiation"], true);
    assert_eq!(result("tls_1_3_early_data")["supports_early_data"], false);
    let robot = result("robot")["robot_result"].as_str().unwrap();
    assert!(robot.starts_with("NOT_VULNERABLE"), "{robot}");
    eventually("it serves on", || front.rig.admin("GET", "/readyz").status == 200);
}

#[test]
fn nginx_believes_our_proxy_header() {
    let directory = TempDir::new().unwrap();
    let server = "location = /who { return 200 \"$proxy_protocol_addr $proxy_protocol_port\"; }";
    // It listens for HTTP before it listens for headers, so what waits until it is there sends one.
    let Some(nginx) = nginx_with(directory.path(), " proxy_protocol", server) else { return };
    let pool = format!("[service.app]\nendpoints = [\"{}\"]\nsend_proxy = \"v2\"\n", nginx.address);
    let listener = |name: &str, protocol: &str| {
        format!("[[listener]]\nname = \"{name}\"\nlisten = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\nservice = \"app\"\n")
    };
    let rig = Rig::start_in(directory, &format!("{pool}{}{}", listener("web", "http"), listener("db", "tcp")));
    for name in ["web", "db"] {
        let mut client = rig.connect(name);
        let port = client.socket().local_addr().unwrap().port();
        for _ in 0..2 {
            assert_eq!(client.request("GET", "/who").unwrap().text(), format!("127.0.0.1 {port}"), "{name}");
        }
    }
}

#[test]
fn haproxy_believes_our_proxy_header() {
    if !has("haproxy", "-v") {
        return;
    }
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("haproxy.cfg");
    let haproxy = Served::start(|address| {
        let text = format!(
            "global\n maxconn 100\ndefaults\n mode http\n timeout client 20s\n timeout server 20s\n timeout connect 5s\n\
             frontend web\n bind {address} accept-proxy\n\
             http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port] %[fc_pp_authority]\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&config);
        command
    });
    let settings = format!(
        "[[listener]]\nname = \"db\"\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\ntls = {{ self_signed = [\"a.example\"] }}\nservice = \"app\"\n\
         [service.app]\nendpoints = [\"{}\"]\nsend_proxy = \"v2\"\n",
        haproxy.address
    );
    let rig = Rig::start_in(directory, &settings);
    let mut client = Client::tls(rig.address("db"), "a.example").unwrap();
    let port = client.socket().local_addr().unwrap().port();
    assert_eq!(client.request("GET", "/").unwrap().text(), format!("127.0.0.1 {port} a.example"));
}

#[test]
fn curl_and_nginx_speak_tls_through_a_listener_that_only_reads_the_name() {
    if !has("curl", "--version") {
        return;
    }
    let directory = TempDir::new().unwrap();
    let (cert, key) = Pair::of(&["shop.example"]).write(directory.path(), "tls");
    let tls = format!("ssl_certificate {}; ssl_certificate_key {};", cert.display(), key.display());
    let Some(nginx) = nginx_with(directory.path(), " ssl", &tls) else { return };
    let rig = Rig::start_in(
        directory,
        &format!(
            "[[listener]]\nname = \"edge\"\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n\
             [[listener.route]]\nsni = \"*.example\"\nservice = \"{}\"\n",
            nginx.address
        ),
    );
    let port = rig.address("edge").port();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "20", "--cacert"]).arg(&cert);
    curl.args(["--resolve", &format!("shop.example:{port}:127.0.0.1"), &format!("https://shop.example:{port}/large")]);
    assert!(run(&mut curl) == "0123456789".repeat(300_000));
}

#[test]
fn redis_works_through_a_stream() {
    if !has("redis-server", "--version") || !has("redis-cli", "--version") {
        return;
    }
    let directory = TempDir::new().unwrap();
    let redis = Served::start(|address| {
        let mut command = Command::new("redis-server");
        command.args(["--save", "", "--bind", "127.0.0.1", "--port", &address.port().to_string(), "--dir"]).arg(directory.path());
        command
    });
    let listener = format!("[[listener]]\nname = \"db\"\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"{}\"\n", redis.address);
    let rig = Rig::start(&listener);
    let cli = |arguments: &[&str]| {
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &rig.address("db").port().to_string()]);
        run(command.args(arguments)).trim().to_owned()
    };
    let value = "v".repeat(100_000);
    assert_eq!(cli(&["SET", "key", &value]), "OK");
    assert_eq!(cli(&["GET", "key"]), value);
}
