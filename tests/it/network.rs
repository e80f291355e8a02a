//! Faults of the network, with real packets: endpoints that nothing comes back from, that are far away, that lose what
//! they are sent, and partitions that heal.
//!
//! Each endpoint is a process in a network namespace of its own, linked to attache's by a pair of interfaces; nothing
//! leaves them. Needs root, and says so where it is not.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Client, Load, Report, Rig, alone, eventually, has, measured};

/// Requests a second.
const RATE: u32 = 500;
const TIME: Duration = Duration::from_secs(4);

/// How an endpoint is reached.
#[derive(Clone, Copy)]
enum Reach {
    Near,
    /// Through a wire that takes so many milliseconds each way, and loses so many per cent of what it is given.
    Wire(u32, u32),
}

/// Namespaces that vanish with it: attache's, and one for each endpoint.
struct Net {
    name: String,
    spaces: Vec<String>,
    wires: Vec<Child>,
}

impl Net {
    /// `None` where this machine has none for us; says why.
    fn new(paths: &[Reach]) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let needs_wire = paths.iter().any(|path| matches!(path, Reach::Wire(..)));
        if !has("ip", "-V") || needs_wire && !has("python3", "--version") {
            return None;
        }
        sweep();
        let name = format!("attache-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut net = Self { name, spaces: Vec::new(), wires: Vec::new() };
        let here = net.here();
        if let Err(why) = net.space(&here) {
            eprintln!("skipped: no network namespaces here: {why}");
            return None;
        }
        for (number, path) in paths.iter().enumerate() {
            let there = net.there(number);
            net.space(&there).unwrap();
            match *path {
                Reach::Near => pair((&here, &format!("to{number}")), (&there, "back")),
                Reach::Wire(delay, loss) => net.wire(number, delay, loss),
            }
            let (near, far) = (format!("10.0.{number}.1/24"), format!("10.0.{number}.2/24"));
            ip(&["-n", &here, "addr", "add", &near, "dev", &format!("to{number}")]).unwrap();
            ip(&["-n", &there, "addr", "add", &far, "dev", "back"]).unwrap();
        }
        Some(net)
    }

    fn here(&self) -> String {
        format!("{}-here", self.name)
    }

    fn there(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    fn space(&mut self, name: &str) -> Result<(), String> {
        ip(&["netns", "add", name])?;
        self.spaces.push(name.to_owned());
        ip(&["-n", name, "link", "set", "lo", "up"])
    }

    /// Two pairs, and between them a space where a program passes frames on as it is told.
    fn wire(&mut self, number: usize, delay: u32, loss: u32) {
        let (here, there, between) = (self.here(), self.there(number), format!("{}-{number}-wire", self.name));
        self.space(&between).unwrap();
        pair((&here, &format!("to{number}")), (&between, "one"));
        pair((&between, "other"), (&there, "back"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/peers/wire.py");
        let mut command = inside(&between, "python3");
        command.arg(script).args(["one", "other", &delay.to_string(), &loss.to_string()]);
        let mut wire = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let out = wire.stdout.take().unwrap();
        self.wires.push(wire);
        BufReader::new(out).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
    }

    /// A program in an endpoint's space that answers with its number.
    fn endpoint(&self, number: usize) -> Rig {
        let config = format!(
            "[[listener]]\nname = \"web\"\nlisten = \"10.0.{number}.2:80\"\n[[listener.route]]\npath = \"/*\"\nrespond = {{ body = \"{number}\" }}\n"
        );
        Rig::start_with(attache_in(&self.there(number)), TempDir::new().unwrap(), &config)
    }

    /// attache before `count` endpoints, reached through a unix socket, which no namespace hides.
    fn proxy(&self, count: usize, settings: &str) -> Rig {
        let endpoints: Vec<String> =
            (0..count).map(|number| format!("{{ name = \"{number}\", address = \"10.0.{number}.2:80\" }}")).collect();
        let config = format!(
            "[service.app]\nendpoints = [{}]\n{settings}\n\
             [[listener]]\nname = \"web\"\nlisten = \"unix:{{dir}}/web.sock\"\nservice = \"app\"\n",
            endpoints.join(", ")
        );
        Rig::start_with(attache_in(&self.here()), TempDir::new().unwrap(), &config)
    }

    /// From now on nothing comes back from an endpoint, and nobody is told.
    fn cut_off(&self, number: usize) {
        ip(&["-n", &self.there(number), "route", "add", "blackhole", &format!("10.0.{number}.1/32")]).unwrap();
    }

    fn heal(&self, number: usize) {
        ip(&["-n", &self.there(number), "route", "del", "blackhole", &format!("10.0.{number}.1/32")]).unwrap();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for wire in &mut self.wires {
            let _ = wire.kill();
            let _ = wire.wait();
        }
        for space in &self.spaces {
            let _ = ip(&["netns", "del", space]);
        }
    }
}

/// Removes the spaces of tests that were killed and could not.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.map_while(Result::ok).filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix("attache-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another test may have been quicker.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// Links two spaces.
fn pair((one, one_name): (&str, &str), (other, other_name): (&str, &str)) {
    ip(&["link", "add", one_name, "netns", one, "type", "veth", "peer", "name", other_name, "netns", other]).unwrap();
    ip(&["-n", one, "link", "set", one_name, "up"]).unwrap();
    ip(&["-n", other, "link", "set", other_name, "up"]).unwrap();
}

fn inside(space: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space]).arg(program);
    command
}

fn attache_in(space: &str) -> Command {
    inside(space, measured().0.get_program())
}

fn load(rig: &Rig, time: Duration) -> Load {
    let path = rig.directory.path().join("web.sock");
    Load::start(RATE, (f64::from(RATE) * time.as_secs_f64()) as usize, move || Client::unix(&path))
}

fn shares(report: &Report, count: usize) -> Vec<usize> {
    (0..count).map(|number| report.answers.get(&number.to_string()).copied().unwrap_or(0)).collect()
}

fn say(what: &str, rig: &Rig, report: &Report, count: usize) {
    println!(
        "{what}: shares {:?}, {} failures, {} attempts, {} retries; the slowest took {:?}",
        shares(report, count),
        report.failures.len(),
        rig.metrics("attache_upstream_requests_total{service=\"app\""),
        rig.metrics("attache_retries_total{service=\"app\""),
        report.slowest
    );
}

#[track_caller]
fn check_nothing_failed(report: &Report) {
    assert!(report.failures.is_empty(), "{} failures:\n{}", report.failures.len(), report.few_failures());
}

const RETRY: &str = "retry = { attempts = 3, on = [\"connect\", \"reset\", \"timeout\"], per_try = \"250ms\" }\n";
const EJECT: &str = "eject = { consecutive = 5, for = \"1s\" }\n";

#[test]
fn requests_go_elsewhere_while_nothing_comes_back_from_an_endpoint() {
    let _alone = alone();
    let Some(net) = Net::new(&[Reach::Near; 3]) else { return };
    let _endpoints: Vec<Rig> = (0..3).map(|number| net.endpoint(number)).collect();
    net.cut_off(2);
    let rig = net.proxy(3, &format!("{RETRY}{EJECT}"));
    let report = load(&rig, TIME).end();
    say("black hole", &rig, &report, 3);
    check_nothing_failed(&report);
    assert_eq!(shares(&report, 3)[2], 0);
    assert!(rig.metrics("attache_upstream_requests_total{service=\"app\",endpoint=\"2\",outcome=\"connect_timeout\"") >= 5.0);
}

#[test]
fn an_endpoint_behind_a_partition_that_heals_gets_its_share_again() {
    let _alone = alone();
    let Some(net) = Net::new(&[Reach::Near; 3]) else { return };
    let _endpoints: Vec<Rig> = (0..3).map(|number| net.endpoint(number)).collect();
    let rig = net.proxy(3, &format!("{RETRY}{EJECT}"));
    let requests = (f64::from(RATE) * TIME.as_secs_f64()) as usize;
    let torn = load(&rig, TIME);
    torn.reaches(requests / 4);
    // What is on its way gets no answer, and connections that stood go silent.
    net.cut_off(1);
    torn.reaches(requests / 4 * 3);
    net.heal(1);
    let report = torn.end();
    say("partition", &rig, &report, 3);
    check_nothing_failed(&report);
    let timed_out =
        |outcome| rig.metrics(&format!("attache_upstream_requests_total{{service=\"app\",endpoint=\"1\",outcome=\"{outcome}\""));
    assert!(timed_out("timeout") >= 1.0 && timed_out("timeout") + timed_out("connect_timeout") >= 5.0, "old connections and new ones");
    let client = &mut Client::unix(&rig.directory.path().join("web.sock")).unwrap();
    eventually("all take requests again", || {
        assert_eq!(client.request("GET", "/").unwrap().status, 200);
        rig.metrics("attache_endpoint_up{service=\"app\"") == 3.0
    });
    let report = load(&rig, TIME / 2).end();
    say("healed", &rig, &report, 3);
    check_nothing_failed(&report);
    let fair = report.answered() as f64 / 3.0;
    assert!(shares(&report, 3).iter().all(|&share| (share as f64 / fair - 1.0).abs() <= 0.05), "{:?}", shares(&report, 3));
}

#[test]
fn an_endpoint_far_away_gets_few_requests_where_latency_decides() {
    let _alone = alone();
    let Some(net) = Net::new(&[Reach::Near, Reach::Near, Reach::Near, Reach::Wire(100, 0)]) else { return };
    let _endpoints: Vec<Rig> = (0..4).map(|number| net.endpoint(number)).collect();
    let rig = net.proxy(4, "balance = \"ewma\"\n");
    let report = load(&rig, TIME).end();
    say("far away", &rig, &report, 4);
    check_nothing_failed(&report);
    let far = shares(&report, 4)[3];
    assert!(far > 0 && far * 20 < report.answered(), "{far} of {}", report.answered());
    assert!(report.slowest >= Duration::from_millis(200), "it is far away: {:?}", report.slowest);
}

#[test]
fn no_request_fails_where_packets_get_lost() {
    let _alone = alone();
    let Some(net) = Net::new(&[Reach::Near, Reach::Near, Reach::Wire(0, 5)]) else { return };
    let _endpoints: Vec<Rig> = (0..3).map(|number| net.endpoint(number)).collect();
    let rig = net.proxy(3, &format!("{RETRY}{EJECT}"));
    let report = load(&rig, TIME).end();
    say("loss", &rig, &report, 3);
    check_nothing_failed(&report);
    let attempts = rig.metrics("attache_upstream_requests_total{service=\"app\"");
    assert!(attempts <= 1.2 * report.answered() as f64, "{attempts} attempts");
    assert!(shares(&report, 3)[2] > 0, "TCP mends most of it");
}
