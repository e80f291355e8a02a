//! A real name server, dnsmasq, that says what a test wants.
//!
//! Answers from a file of hosts, read again when it is told to; SRV records are arguments, so that they need a new start.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{eventually, free_address, has};

pub struct Dns {
    pub address: SocketAddr,
    directory: TempDir,
    child: Option<Child>,
}

impl Dns {
    /// `None` where there is no dnsmasq, which is said.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_at(free_address(), arguments)
    }

    pub fn start_at(address: SocketAddr, arguments: &[&str]) -> Option<Self> {
        if !has("dnsmasq", "--version") {
            return None;
        }
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("hosts"), "").unwrap();
        let mut dns = Self { address, directory, child: None };
        dns.restart(arguments);
        Some(dns)
    }

    /// Ends, if it runs, and starts again with other arguments. Names below `test` that it does not know do not exist; about
    /// others it refuses to say anything.
    pub fn restart(&mut self, arguments: &[&str]) {
        self.stop();
        let hosts = self.directory.path().join("hosts");
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--pid-file="]);
        command.args(["--log-facility=-", "--user=root", "--local=/test/"]);
        command.arg(format!("--port={}", self.address.port())).arg(format!("--listen-address={}", self.address.ip()));
        command.arg(format!("--addn-hosts={}", hosts.display())).args(arguments);
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        // Before, a signal would end it.
        eventually("the name server listens", || TcpStream::connect(self.address).is_ok());
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// From now on these names have these addresses, and no others have any.
    pub fn say(&self, hosts: &[(&str, &str)]) {
        let lines: String = hosts.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        std::fs::write(self.directory.path().join("hosts"), lines).unwrap();
        if let Some(child) = &self.child {
            let status = Command::new("kill").arg("-HUP").arg(child.id().to_string()).status().unwrap();
            assert!(status.success());
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}
