//! Real servers of data on ports of their own, with what they keep in directories that vanish.
//!
//! None of them is asked for by name anywhere else: each ends with its own process. Without a program, its tests say so and pass.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{eventually, free_address, has};

/// A server that runs until dropped.
pub struct DataServer {
    pub address: SocketAddr,
    directory: TempDir,
    child: Child,
}

impl DataServer {
    #[track_caller]
    fn start(directory: TempDir, address: SocketAddr, mut command: Command) -> Self {
        let log = fs::File::create(directory.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut server = Self { address, directory, child: command.spawn().unwrap() };
        eventually("the server listens", || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended:\n{}", server.log());
            TcpStream::connect(address).is_ok()
        });
        server
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.path().join("log")).unwrap()).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Redis with these arguments besides its address.
    #[track_caller]
    pub fn redis(arguments: &[&str]) -> Option<Self> {
        if !has("redis-server", "--version") {
            return None;
        }
        let directory = TempDir::new().unwrap();
        let address = free_address();
        let mut command = Command::new("redis-server");
        command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string(), "--save", ""]);
        command.args(["--dir", directory.path().to_str().unwrap(), "--repl-diskless-sync-delay", "0"]).args(arguments);
        Some(Self::start(directory, address, command))
    }

    #[track_caller]
    pub fn memcached() -> Option<Self> {
        if !has("memcached", "-V") {
            return None;
        }
        let address = free_address();
        let mut command = Command::new("memcached");
        command.args(["-l", &address.ip().to_string(), "-p", &address.port().to_string(), "-U", "0", "-m", "8"]);
        if is_root() {
            command.args(["-u", "root"]);
        }
        Some(Self::start(TempDir::new().unwrap(), address, command))
    }

    /// `MariaDB` that has run these statements.
    #[track_caller]
    pub fn mariadb(statements: &str) -> Option<Self> {
        if !has("mariadbd", "--version") {
            return None;
        }
        let directory = TempDir::new().unwrap();
        let address = free_address();
        let data = directory.path().join("data");
        let user: &[&str] = if is_root() { &["--user=root"] } else { &[] };
        let mut install = Command::new("mariadb-install-db");
        install.arg("--no-defaults").arg(format!("--datadir={}", data.display())).args(user);
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        let installed = install.output().unwrap();
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let init = directory.path().join("init.sql");
        fs::write(&init, statements).unwrap();
        let mut command = Command::new("mariadbd");
        command.arg("--no-defaults").arg(format!("--datadir={}", data.display())).args(user);
        command.arg(format!("--socket={}", directory.path().join("sock").display()));
        command.arg(format!("--pid-file={}", directory.path().join("pid").display()));
        command.args([format!("--bind-address={}", address.ip()), format!("--port={}", address.port())]);
        command.arg(format!("--init-file={}", init.display())).args(["--innodb-buffer-pool-size=8M", "--skip-log-bin", "--log-warnings=2"]);
        Some(Self::start(directory, address, command))
    }

    /// `PostgreSQL` as [`Postgres`] made it, with these settings.
    fn postgres(bin: &Path, directory: TempDir, settings: &[&str]) -> Self {
        let address = free_address();
        let mut command = unprivileged(&bin.join("postgres"));
        command.arg("-D").arg(directory.path().join("data")).args(["-p", &address.port().to_string()]);
        command.args(["-c", &format!("listen_addresses={}", address.ip()), "-c", "unix_socket_directories=", "-c", "fsync=off"]);
        command.args(["-c", "shared_buffers=8MB", "-c", "log_min_messages=warning"]);
        command.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let server = Self::start(directory, address, command);
        // It takes connections a moment before it lets anybody in.
        let is_hidden = settings.contains(&"hot_standby=off");
        eventually("PostgreSQL is ready", || is_hidden || server.log().contains("ready to accept"));
        server
    }
}

impl Drop for DataServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Nobody's number on Debian and most others; `PostgreSQL` will not run as root.
const NOBODY: u32 = 65534;

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir("/").env("LC_ALL", "C");
    command
}

/// `PostgreSQL`'s programs. Debian keeps them off the path, where something else may be.
pub struct Postgres {
    bin: PathBuf,
}

impl Postgres {
    pub fn find() -> Option<Self> {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().map_while(Result::ok);
        let bin = versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists());
        if bin.is_none() {
            eprintln!("skipped: PostgreSQL is not installed");
        }
        bin.map(|bin| Self { bin })
    }

    /// An empty cluster that lets `probe` in with the password `p@ss/word`. A `standby` waits for a primary that never comes,
    /// and is in recovery until it is promoted.
    #[track_caller]
    pub fn start(&self, is_standby: bool, settings: &[&str]) -> DataServer {
        let directory = TempDir::new().unwrap();
        let password = directory.path().join("password");
        fs::write(&password, "p@ss/word").unwrap();
        if is_root() {
            // A directory of a test is its user's alone.
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            chown(&password, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = directory.path().join("data");
        let mut initdb = unprivileged(&self.bin.join("initdb"));
        initdb.arg("-D").arg(&data).args(["-U", "probe", "-A", "scram-sha-256", "-N", "--no-locale", "-E", "UTF8"]);
        let made = initdb.arg(format!("--pwfile={}", password.display())).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        if is_standby {
            let signal = data.join("standby.signal");
            fs::File::create(&signal).unwrap().flush().unwrap();
            if is_root() {
                chown(&signal, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        DataServer::postgres(&self.bin, directory, settings)
    }

    /// A copy that replays what `primary` does, as long as that is there.
    #[track_caller]
    pub fn replica(&self, primary: &DataServer) -> DataServer {
        let directory = TempDir::new().unwrap();
        if is_root() {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut copy = self.client("pg_basebackup", primary);
        copy.arg("-D").arg(directory.path().join("data")).args(["-R", "-X", "stream", "-c", "fast"]);
        let made = copy.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        DataServer::postgres(&self.bin, directory, &[])
    }

    #[track_caller]
    pub fn execute(&self, server: &DataServer, statement: &str) {
        let done = self.client("psql", server).args(["-d", "postgres", "-c", statement]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn client(&self, program: &str, server: &DataServer) -> Command {
        let mut command = unprivileged(&self.bin.join(program));
        command.args(["-h", &server.address.ip().to_string(), "-p", &server.address.port().to_string(), "-U", "probe"]);
        command.env("PGPASSWORD", "p@ss/word");
        command
    }

    /// Ends a standby's recovery.
    #[track_caller]
    pub fn promote(&self, server: &DataServer) {
        let mut promote = unprivileged(&self.bin.join("pg_ctl"));
        let done = promote.arg("promote").arg("-D").arg(server.directory.path().join("data")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    }
}
