//! The pod of `deploy/`, run for real: HTTPS from outside, a changed `ConfigMap` and the end, all under load.
//!
//! Needs podman, root and a static binary (`make static`); says so where one is missing. podman knows no native sidecars,
//! so here the sidecar is one container among others, and `podman pod stop` ends all of them at the same moment.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use tempfile::TempDir;

use crate::support::{Client, Read1, eventually};

/// podman with storage, network state and settings of its own, gone with the test.
struct Podman {
    directory: TempDir,
    pod: String,
}

/// Limits that a restricted machine can still grant; no systemd is asked for anything.
const CONTAINERS_CONF: &str = "[containers]\ndefault_ulimits = [\"nofile=1000:1000\", \"nproc=1000:1000\"]\n\
    [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";

impl Podman {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("containers.conf"), CONTAINERS_CONF).unwrap();
        let pod = format!("attache-test-{}", std::process::id());
        Self { directory, pod }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(self.directory.path().join("storage"))
            .arg("--runroot")
            .arg(self.directory.path().join("run"))
            .args(arguments)
            .env("CONTAINERS_CONF", self.directory.path().join("containers.conf"))
            .env("STORAGE_DRIVER", "vfs")
            .stdin(Stdio::null());
        command
    }

    fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        let output: Output = self.command(arguments).output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|error| panic!("podman {arguments:?}: {error}"))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The access log of the load is long and says one thing over and over.
            let log = self.try_run(&["logs", &format!("{}-attache", self.pod)]).unwrap_or_else(|error| error);
            let own: Vec<&str> = log.lines().filter(|line| !line.contains("\"status\":200")).collect();
            eprintln!("--- log of the sidecar ---\n{}", own.join("\n"));
        }
        let _ = self.try_run(&["pod", "rm", "--force", "--time", "0", &self.pod]);
        let _ = self.try_run(&["rmi", "--all", "--force"]);
        // Layers that podman has mounted would keep the directory busy.
        let _ = self.command(&["unmount", "--all"]).output();
    }
}

/// The static binary that goes into the image, where `make static` leaves it.
fn static_binary() -> Option<PathBuf> {
    let built = std::env::var_os("ATTACHE_STATIC").map(PathBuf::from);
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("static/image/attache");
    built.into_iter().chain([image]).find(|path| path.is_file())
}

/// Why the test cannot run here, if so.
fn missing() -> Option<String> {
    if static_binary().is_none() {
        return Some("no static binary; build one with `make static`".to_owned());
    }
    let probe = Podman::new();
    probe.try_run(&["info"]).err().map(|error| format!("podman does not work here: {}", error.lines().next().unwrap_or_default()))
}

/// A configuration as a mounted `ConfigMap` lays it out: the file is a link through `..data` to a dated directory,
/// and a change is one rename of `..data`.
struct ConfigMap {
    directory: PathBuf,
    version: usize,
}

impl ConfigMap {
    fn new(directory: PathBuf, text: &str) -> Self {
        std::fs::create_dir(&directory).unwrap();
        let mut map = Self { directory, version: 0 };
        map.swap(text);
        symlink("..data/attache.toml", map.directory.join("attache.toml")).unwrap();
        map
    }

    fn swap(&mut self, text: &str) {
        self.version += 1;
        let name = format!("..2026_01_01_{}", self.version);
        std::fs::create_dir(self.directory.join(&name)).unwrap();
        std::fs::write(self.directory.join(&name).join("attache.toml"), text).unwrap();
        symlink(&name, self.directory.join("..data_tmp")).unwrap();
        std::fs::rename(self.directory.join("..data_tmp"), self.directory.join("..data")).unwrap();
        if self.version > 1 {
            std::fs::remove_dir_all(self.directory.join(format!("..2026_01_01_{}", self.version - 1))).unwrap();
        }
    }
}

/// The manifest of `deploy/`, with the sidecar as a container among others, its configuration in a directory of this
/// machine, and free ports of this machine in the place of the pod's own: `podman pod stop` takes a pod's network down
/// at once, while Kubernetes does so last.
fn manifest(pod: &str, config: &Path, [https, legacy, admin]: [u16; 3]) -> (String, String) {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/pod.yaml")).unwrap();
    let replaced = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "deploy/pod.yaml has no `{from}`");
        text.replace(from, to)
    };
    let text = replaced(&replaced(&text, "8443", &https.to_string()), "8080", &legacy.to_string());
    let (config_map, manifest) = text.split_once("---\n").unwrap();
    let settings = config_map.split_once("attache.toml: |\n").unwrap().1;
    let settings: String = settings.lines().map(|line| line.trim_start_matches("    ").to_owned() + "\n").collect();
    let host_path = format!("hostPath:\n        path: {}\n        type: Directory\n", config.display());
    let changes = [
        ("  containers:\n", ""),
        ("  initContainers:\n", "  hostNetwork: true\n  containers:\n"),
        ("      restartPolicy: Always\n", ""),
        (&format!("      ports:\n        - name: https\n          containerPort: {https}\n"), ""),
        ("name: legacy\n  labels:", &format!("name: {pod}\n  labels:")),
        ("IfNotPresent", "Never"),
        ("configMap:\n        name: attache\n", &host_path),
    ];
    let manifest = changes.iter().fold(manifest.to_owned(), |manifest, (from, to)| replaced(&manifest, from, to));
    (format!("[admin]\nlisten = \"127.0.0.1:{admin}\"\n{settings}"), manifest)
}

/// Ports that were free a moment ago, all at the same time.
fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// Clients that ask over and over until the pod is gone.
struct Load {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
    since: Instant,
}

impl Load {
    /// Half of the clients keep their connections, half come anew each time.
    fn start(address: SocketAddr) -> Self {
        let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let since = Instant::now();
        let client = |keeps: bool| {
            let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
            std::thread::spawn(move || ask_on(address, keeps, since, &is_over, &answered))
        };
        let clients = (0..8).map(|number| client(number % 2 == 0)).collect();
        Self { is_over, answered, clients, since }
    }

    #[track_caller]
    fn goes_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("the load goes on", || self.answered.load(Ordering::Relaxed) > before + 100);
    }

    /// How many requests were answered, and what failed.
    fn finish(self) -> (usize, Vec<String>) {
        self.is_over.store(true, Ordering::Relaxed);
        let failures = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (self.answered.load(Ordering::Relaxed), failures)
    }
}

/// A connection that cannot be made means that the pod is gone, and a kept one may end between two requests. Anything
/// else that is no whole 200 is a failure.
fn ask_on(address: SocketAddr, keeps: bool, since: Instant, is_over: &AtomicBool, answered: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let came = Instant::now();
        let Ok(mut client) = Client::tls(address, "localhost") else { return failures };
        for number in 0.. {
            if client.send("GET /bytes/5000 HTTP/1.1\r\nHost: localhost\r\n\r\n").is_err() && number > 0 {
                break;
            }
            let must_close = match client.read("GET") {
                Ok(Read1::Answer(answer)) if answer.status == 200 && answer.body.len() == 5000 => {
                    answered.fetch_add(1, Ordering::Relaxed);
                    answer.header("connection") == Some("close")
                }
                Ok(Read1::Closed) if number > 0 => true,
                other => {
                    failures.push(format!(
                        "after {:?}, request {number} of a connection that came {:?} before: {other:?}",
                        since.elapsed(),
                        came.elapsed()
                    ));
                    true
                }
            };
            if must_close || !keeps || is_over.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    failures
}

#[test]
fn the_pod_serves_https_reloads_and_ends_without_losing_a_request() {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let podman = Podman::new();
    let place = podman.directory.path();

    // The image as `deploy/` has it.
    let context = place.join("image");
    std::fs::create_dir(&context).unwrap();
    std::fs::copy(static_binary().unwrap(), context.join("attache")).unwrap();
    let containerfile = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/Containerfile");
    podman.run(&["build", "--format", "docker", "-f", containerfile, "-t", "localhost/attache:latest", &context.display().to_string()]);

    // HTTPS from outside.
    let ports: [u16; 3] = free_ports();
    let address = SocketAddr::from(([127, 0, 0, 1], ports[0]));
    let config = place.join("config");
    let (settings, manifest) = manifest(&podman.pod, &config, ports);
    let mut map = ConfigMap::new(config, &settings);
    std::fs::write(place.join("pod.yaml"), manifest).unwrap();
    podman.run(&["kube", "play", &place.join("pod.yaml").display().to_string()]);
    let sidecar = format!("{}-attache", podman.pod);
    eventually("the sidecar is ready", || podman.try_run(&["exec", &sidecar, "/attache", "healthcheck", "--ready"]).is_ok());
    let answer = Client::tls(address, "localhost").unwrap().ask("GET", "/from/outside").unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("\"/from/outside\""), "{}", answer.text());
    assert!(podman.run(&["inspect", "--format", "{{.Config.User}}", &sidecar]).contains("65532"));

    // A changed ConfigMap under load. The file watcher notices; nobody sends a signal.
    let load = Load::start(address);
    load.goes_on();
    let route = "\n[[listener.route]]\npath = \"/changed\"\nrespond = { body = \"changed\" }\n";
    for round in 0..5 {
        let is_there = round % 2 == 0;
        map.swap(&if is_there { format!("{settings}{route}") } else { settings.clone() });
        eventually("the changed configuration serves", || {
            let answer = Client::tls(address, "localhost").unwrap().ask("GET", "/changed").unwrap();
            (answer.text() == "changed") == is_there
        });
        load.goes_on();
    }
    map.swap(&format!("{settings}[[listener]]\nlisten = 1\n"));
    eventually("a broken one is refused", || podman.run(&["exec", &sidecar, "/attache", "status"]).contains("was refused"));
    podman.run(&["exec", &sidecar, "/attache", "healthcheck"]);
    load.goes_on();

    // The end under load.
    let stopping = load.since.elapsed();
    podman.run(&["pod", "stop", "--time", "30", &podman.pod]);
    let stopped = load.since.elapsed();
    let (answered, failures) = load.finish();
    assert!(failures.is_empty(), "{} of {answered} failed; stopping from {stopping:?} to {stopped:?}: {failures:#?}", failures.len());
    let code = podman.run(&["inspect", "--format", "{{.State.ExitCode}}", &sidecar]);
    assert_eq!(code.trim(), "0", "the sidecar ended by itself, with everything answered");
    eprintln!("{answered} requests through 6 changed configurations and the end, 0 failed");
}
