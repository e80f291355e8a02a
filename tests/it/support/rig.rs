//! One running attache: the real binary, its configuration in a directory of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, Client, PATIENCE, eventually};

pub struct Rig {
    pub directory: TempDir,
    child: Child,
    log: Arc<Mutex<String>>,
    out: Arc<Mutex<String>>,
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: Option<i32>,
}

/// The binary under test.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attache"));
    command.env_remove("ATTACHE_CONFIG").env_remove("ATTACHE_LOG").env_remove("ATTACHE_ADMIN");
    command
}

impl Rig {
    /// Starts with `config` and waits until it is ready. `{dir}` in the text is the rig's directory.
    /// The admin API is on a unix socket there; say nothing of `[admin]` in the text.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_in(TempDir::new().unwrap(), config)
    }

    /// As [`Rig::start`], in a directory that holds files already.
    #[track_caller]
    pub fn start_in(directory: TempDir, config: &str) -> Self {
        Self::start_with(binary(), directory, config)
    }

    /// As [`Rig::start_in`], by a command that runs attache with the arguments it is given.
    #[track_caller]
    pub fn start_with(command: Command, directory: TempDir, config: &str) -> Self {
        Self::start_command(command, directory, config, &[])
    }

    /// As [`Rig::start_in`], with more arguments to `run`.
    #[track_caller]
    pub fn start_as(directory: TempDir, config: &str, arguments: &[&str]) -> Self {
        Self::start_command(binary(), directory, config, arguments)
    }

    #[track_caller]
    fn start_command(mut command: Command, directory: TempDir, config: &str, arguments: &[&str]) -> Self {
        let path = directory.path().join("attache.toml");
        std::fs::write(&path, whole(directory.path(), config)).unwrap();
        // What one test leaves to its next process is its own.
        command.env("XDG_STATE_HOME", directory.path().join("state"));
        let mut child =
            command.arg("run").arg("-c").arg(&path).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = collect(child.stderr.take().unwrap());
        let out = collect(child.stdout.take().unwrap());
        let mut rig = Self { directory, child, log, out };
        let deadline = Instant::now() + PATIENCE;
        while !rig.is_ready() {
            if let Some(status) = rig.child.try_wait().unwrap() {
                panic!("attache ended with {status}:\n{}", rig.log());
            }
            assert!(Instant::now() < deadline, "attache is not ready:\n{}", rig.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        rig
    }

    fn is_ready(&self) -> bool {
        Client::unix(&self.admin_path())
            .ok()
            .and_then(|client| client.ask("GET", "/readyz").ok())
            .is_some_and(|answer| answer.status == 200)
    }

    pub fn admin_path(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the admin API.
    #[track_caller]
    pub fn admin(&self, method: &str, path: &str) -> Answer {
        Client::unix(&self.admin_path()).unwrap().ask(method, path).unwrap()
    }

    #[track_caller]
    pub fn admin_json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.admin("GET", path).body).unwrap()
    }

    /// Value of one series of `/metrics`, written as on the page; 0 if it is not there.
    #[track_caller]
    pub fn metric(&self, series: &str) -> f64 {
        let page = self.admin("GET", "/metrics").text();
        page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0.0)
    }

    /// Sum of all series of `/metrics` that begin so.
    #[track_caller]
    pub fn metrics(&self, series: &str) -> f64 {
        let page = self.admin("GET", "/metrics").text();
        let value = |line: &str| line.starts_with(series).then(|| line.rsplit(' ').next()?.parse::<f64>().ok())?;
        page.lines().filter_map(value).fold(0.0, |sum, value| sum + value)
    }

    /// The first address of a listener.
    #[track_caller]
    pub fn address(&self, listener: &str) -> SocketAddr {
        let listeners = self.admin_json("/listeners");
        let found =
            listeners.as_array().unwrap().iter().find(|l| l["name"] == listener).unwrap_or_else(|| panic!("no listener {listener}"));
        found["listen"][0].as_str().unwrap().parse().unwrap()
    }

    #[track_caller]
    pub fn connect(&self, listener: &str) -> Client {
        Client::tcp(self.address(listener)).unwrap()
    }

    /// Writes a configuration; the watcher will notice.
    pub fn write(&self, config: &str) {
        let path = self.directory.path().join("attache.toml");
        let beside = self.directory.path().join("attache.toml.new");
        std::fs::write(&beside, whole(self.directory.path(), config)).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    /// Writes a configuration and asks for a reload.
    #[track_caller]
    pub fn reload(&self, config: &str) -> Answer {
        self.write(config);
        self.admin("POST", "/reload")
    }

    /// As [`Rig::reload`], and it must work.
    #[track_caller]
    pub fn reloaded(&self, config: &str) -> Value {
        let answer = self.reload(config);
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// What it wrote to stdout so far: the access log.
    pub fn out(&self) -> String {
        self.out.lock().unwrap().clone()
    }

    /// Sends a signal by number or name, as `kill -NAME` takes it.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end.
    #[track_caller]
    pub fn ended(&mut self) -> Ended {
        let mut ended = None;
        eventually("attache ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        Ended { code: ended.unwrap().code() }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Descriptors it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The part of it that the process filled itself. What else is resident are pages of the program, of which a debug build
    /// brings in hundreds of kilobytes the first time that it does something, whoever asks for it.
    pub fn held(&self) -> u64 {
        self.status("RssAnon:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of attache ---\n{}", self.log());
        }
    }
}

fn whole(directory: &Path, config: &str) -> String {
    let config = config.replace("{dir}", &directory.display().to_string());
    let workers = if config.contains("[process]") { "" } else { "[process]\nworkers = 2\n" };
    format!("{workers}[admin]\nlisten = \"unix:{}\"\n{config}", directory.join("admin.sock").display())
}

/// Collects what a pipe says, on a thread that ends with the pipe.
fn collect(pipe: impl std::io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&text);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut text = sink.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}

/// What `attache check` says against a configuration; it must refuse it.
#[track_caller]
pub fn refused(config: &str) -> String {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("a.toml"), config).unwrap();
    let output = binary().current_dir(directory.path()).args(["check", "a.toml"]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}
