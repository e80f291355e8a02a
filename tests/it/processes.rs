//! Who runs on this machine: real processes, on pages of metrics and in the table of `/topz`.
//!
//! Sums over readings are tested beside the code.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::exporters::{check_readable, config, series, value};
use crate::support::{Answer, Read1, Rig, eventually};

/// Waits until it is killed, without anybody else.
const STOPPED: &str = "kill -STOP $$";

/// A process with a name of its own that is busy, or waits.
struct Program {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Program {
    fn start(name: &str, script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::copy(std::fs::canonicalize("/bin/sh").unwrap(), &path).unwrap();
        let mut command = Command::new(&path);
        command.args(["-c", script, "s3cret"]).stdin(Stdio::null()).stdout(Stdio::null());
        Self { child: command.spawn().unwrap(), _directory: directory }
    }

    fn busy(name: &str) -> Self {
        Self::start(name, "while :; do :; done")
    }

    fn pid(&self) -> i64 {
        i64::from(self.child.id())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn asked(rig: &Rig, target: &str, accept: &str) -> Answer {
    let mut client = rig.connect("web");
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")).unwrap();
    match client.read("GET").unwrap() {
        Read1::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn table(rig: &Rig, query: &str) -> Vec<Value> {
    let answer = asked(rig, &format!("/topz?format=json{query}"), "*/*");
    let document: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error} {}", answer.text()));
    document["processes"].as_array().unwrap().clone()
}

fn of_pid(rows: &[Value], pid: i64) -> Option<&Value> {
    rows.iter().find(|row| row["pid"] == pid)
}

#[test]
fn who_is_busy_is_at_the_top() {
    let busy = Program::busy("busy-burner");
    let rig = Rig::start(&config("from = [{ process = { top = 1000 } }]"));
    // Others may be as busy meanwhile.
    eventually("it is among those that take most", || {
        let rows = table(&rig, "");
        let Some(row) = of_pid(&rows, busy.pid()) else { return false };
        let place = rows.iter().position(|other| other["pid"] == busy.pid()).unwrap();
        row["cpu"].as_f64().unwrap() > 0.1 && place < 10
    });
    let rows = table(&rig, "&sort=memory");
    let resident: Vec<u64> = rows.iter().map(|row| row["resident_bytes"].as_u64().unwrap()).collect();
    assert!(resident.is_sorted_by(|a, b| a >= b) && resident[0] > 0, "{resident:?}");
    let ours = of_pid(&rows, i64::from(rig.pid())).unwrap();
    assert!(ours["fds"].as_u64().unwrap() > 3 && ours["threads"].as_u64().unwrap() > 1, "{ours}");
    assert_eq!((ours.get("command"), ours["name"].as_str()), (None, Some("attache")));
}

#[test]
fn what_a_name_has_used_stays_when_its_process_ends() {
    let rig = Rig::start(&config("from = [{ process = true }]"));
    let busy = Program::busy("busy-brief");
    let of = |name: &str| value(&rig, &format!("processes_{name}{{name=\"busy-brief\"}}"));
    eventually("it has used some", || of("cpu_seconds_total").is_some_and(|seconds| seconds > 0.1));
    assert_eq!((of("count"), of("threads")), (Some(1.0), Some(1.0)));
    let used = of("cpu_seconds_total").unwrap();
    drop(busy);
    let found = series(&rig.connect("web").ask("GET", "/metrics").unwrap().text());
    assert!(found["processes_cpu_seconds_total{name=\"busy-brief\"}"] >= used);
    assert_eq!(found["processes_count{name=\"busy-brief\"}"], 0.0);
    assert!(found["machine_memory_bytes"] > 1e6 && found["machine_load1"] >= 0.0 && found["processes"] > 1.0, "{found:?}");
    check_readable(&rig);
}

#[test]
fn people_programs_and_curl_get_what_they_can_read() {
    let odd = Program::start("<b>&odd", STOPPED);
    let _waits = Program::start("sleeper", STOPPED);
    let rig = Rig::start(&config("from = [{ process = { top = 1000, command = true } }]"));
    let page = asked(&rig, "/topz?sort=fds", "text/html,application/xhtml+xml");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    let text = page.text();
    assert!(!text.contains("<script") && !text.contains("<b>") && text.contains("aria-current=\"true\">Descriptors"), "{text}");
    drop(odd);
    assert_eq!(asked(&rig, "/topz", "application/json").header("content-type"), Some("application/json"));
    let plain = asked(&rig, "/topz", "*/*");
    assert_eq!(plain.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(plain.text().lines().any(|line| line.contains(" sleeper ") && line.contains("$$ s3cret")), "{}", plain.text());
    // Only who is told to shows command lines.
    rig.reloaded(&config("from = [{ process = { top = 1000 } }]"));
    for shape in ["json", "html", "text"] {
        assert!(!asked(&rig, &format!("/topz?format={shape}"), "*/*").text().contains("s3cret"), "{shape}");
    }
    assert_eq!((asked(&rig, "/topz?sort=name", "*/*").status, asked(&rig, "/topz?format=xml", "*/*").status), (400, 400));
}

#[test]
fn a_proc_that_is_none_is_an_error_of_its_source() {
    let rig = Rig::start(&config("from = [{ process = { proc = \"/nowhere\" }, name = \"p\" }]"));
    assert_eq!(value(&rig, "attache_source_up{source=\"p\"}"), Some(0.0));
    let answer = asked(&rig, "/topz", "*/*");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("/nowhere"), "{}", answer.text());
}

#[test]
fn the_sample_of_topz_keeps_its_promises() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/topz.toml")).unwrap();
    assert!(text.contains("0.0.0.0:9256"));
    let rig = Rig::start(&text.replace("0.0.0.0:9256", "127.0.0.1:0"));
    let ask = |path: &str| rig.connect("topz").ask("GET", path).unwrap();
    let document: Value = serde_json::from_slice(&ask("/topz?format=json").body).unwrap();
    let rows = document["processes"].as_array().unwrap();
    assert!(!rows.is_empty() && rows.len() <= 20, "{document}");
    assert!(series(&ask("/metrics").text()).contains_key("processes_cpu_seconds_total{name=\"attache\"}"));
    assert_eq!(ask("/other").status, 404);
}
