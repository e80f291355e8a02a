//! Real peers of gRPC and WebSocket, in Python: attache between a client and a server that know nothing of it.
//!
//! What they try, and what must come of it, stands in `peers/*.py`; here they are only put on both sides of attache.
//! Without the Python that `.ci/setup test` makes, the tests say so and pass.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::{Pair, Rig, raise_open_files};

/// attache holds two for each of a thousand connections.
const OPEN_FILES: u64 = 4096;

/// `None`, with a message, where it could not be made.
fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers-venv").join("bin/python");
    let mut import = Command::new(&python);
    if import.args(["-c", "import grpc, websockets"]).output().is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    eprintln!("skipped: `.ci/setup test` did not make {}", python.display());
    None
}

fn script(python: &Path, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/peers").join(name)).stdin(Stdio::null());
    command
}

/// A server that runs until dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts on a port of its own choice, which it prints.
    #[track_caller]
    fn start(python: &Path, name: &str) -> Self {
        let mut child = script(python, name).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening ").and_then(|rest| rest.trim_end().parse().ok());
        Self { address: address.unwrap_or_else(|| panic!("{name} does not start: {line:?}")), child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One listener before an endpoint. `listener` and `service` are more lines of their tables.
fn before(address: SocketAddr, listener: &str, service: &str) -> Rig {
    let directory = TempDir::new().unwrap();
    Pair::of(&["localhost"]).write(directory.path(), "tls");
    let config = format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n{listener}\n\
         [service.app]\nendpoints = [\"{address}\"]\n{service}\n"
    );
    Rig::start_in(directory, &config)
}

/// How a client reaches attache.
enum Transport {
    Plain,
    Tls,
}

/// Every case of `NAME_client.py`, through attache, to `NAME_server.py`.
#[track_caller]
fn check(name: &str, transport: &Transport, service: &str) {
    let Some(python) = python() else { return };
    assert!(raise_open_files(OPEN_FILES), "{OPEN_FILES} open files are not allowed here");
    let server = Server::start(&python, &format!("{name}_server.py"));
    let listener = match transport {
        Transport::Plain => "",
        Transport::Tls => "tls = { cert = \"tls.crt\", key = \"tls.key\" }",
    };
    let rig = before(server.address, listener, service);
    check_client(&rig, &python, name, transport, &["all"]);
}

/// Each case that `name`'s client is asked for, and none that it failed.
#[track_caller]
fn check_client(rig: &Rig, python: &Path, name: &str, transport: &Transport, cases: &[&str]) {
    let mut client = script(python, &format!("{name}_client.py"));
    client.args(["--target", &rig.address("web").to_string()]).args(cases.iter().flat_map(|case| ["--case", case]));
    if let Transport::Tls = transport {
        client.arg("--ca").arg(rig.directory.path().join("tls.crt"));
    }
    let output = client.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> = said.lines().filter(|line| !line.starts_with("ok ")).collect();
    let is_fine = output.status.success() && failed.is_empty() && said.lines().count() >= cases.len();
    assert!(is_fine, "{}\n{}\n{}", output.status, failed.join("\n"), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn grpc_gets_through_by_prior_knowledge() {
    check("grpc", &Transport::Plain, "protocol = \"h2\"");
}

#[test]
fn grpc_gets_through_from_tls() {
    check("grpc", &Transport::Tls, "protocol = \"h2\"");
}

/// A client of gRPC understands a status of gRPC, and little else.
#[test]
fn a_grpc_client_is_told_that_no_endpoint_is_there() {
    let Some(python) = python() else { return };
    let rig = before(crate::support::free_address(), "", "protocol = \"h2\"");
    check_client(&rig, &python, "grpc", &Transport::Plain, &["unavailable"]);
}

#[test]
fn websockets_get_through() {
    check("websocket", &Transport::Plain, "");
}

#[test]
fn websockets_get_through_from_tls() {
    check("websocket", &Transport::Tls, "");
}

/// asyncio cannot half-close TLS, so that this is plain only, and not among all cases.
#[test]
fn an_upgrade_may_be_closed_in_one_direction() {
    let Some(python) = python() else { return };
    let server = Server::start(&python, "websocket_server.py");
    let rig = before(server.address, "", "");
    check_client(&rig, &python, "websocket", &Transport::Plain, &["upgrade_half_close"]);
}
