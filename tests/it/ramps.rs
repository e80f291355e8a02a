//! Arms that grow by themselves, and are taken back: through the real proxy, over reloads and restarts.
//!
//! What is a difference and what is chance is tested beside the code, under a clock that is turned by hand.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Client, Fickle, Load, Read1, Rig, binary, eventually};

/// `kept` holds the state file. The canary is a split of its own: `failing` of its requests fail.
fn text(kept: &TempDir, stable: &Fickle, ramp: &str, failing: &str) -> String {
    format!(
        "[process]\nworkers = 2\nstate = \"{}/state.json\"\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"checkout\"\n\
         [service.checkout.split]\narms = {{ canary = \"1%\", stable = \"rest\" }}\nby = \"cookie:uid\"\n\
         [service.checkout.split.ramp]\narm = \"canary\"\n{ramp}\n\
         [service.canary.split]\narms = {{ bad = \"{failing}\", good = \"rest\" }}\n\
         [service.bad.respond]\nstatus = 500\n[service.good.respond]\nbody = \"canary\"\n\
         [service.stable]\nendpoints = [\"{}\"]\n",
        kept.path().display(),
        stable.address
    )
}

fn ramp(rig: &Rig) -> Value {
    rig.admin_json("/services/checkout/ramp")
}

/// The users of two hundred that are in the canary.
fn canaries(rig: &Rig) -> Vec<usize> {
    let mut client = rig.connect("web");
    let mut is_canary = |number: &usize| {
        client.send(format!("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: uid=user-{number}\r\n\r\n")).unwrap();
        match client.read("GET").unwrap() {
            Read1::Answer(answer) if answer.status == 200 => answer.text() == "canary",
            other => panic!("{number}: {other:?}"),
        }
    };
    (0..200).filter(|number| is_canary(number)).collect()
}

fn split_verb(rig: &Rig, arguments: &[&str]) -> Output {
    let admin = format!("unix:{}", rig.admin_path().display());
    binary().args(["split", "checkout", "--admin", &admin]).args(arguments).output().unwrap()
}

#[track_caller]
fn steered(rig: &Rig, arguments: &[&str]) -> String {
    let output = split_verb(rig, arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_arm_grows_by_the_clock_and_nobody_leaves_it() {
    let (kept, stable) = (TempDir::new().unwrap(), Fickle::start("stable"));
    let rig = Rig::start(&text(&kept, &stable, "steps = [\"5%\", \"20%\", \"60%\"]\nevery = \"300ms\"", "0%"));
    let mut before = Vec::new();
    let mut is_done = false;
    while !is_done {
        is_done = ramp(&rig)["phase"] == "done";
        let now = canaries(&rig);
        assert!(before.iter().all(|user| now.contains(user)), "{before:?} {now:?}");
        before = now;
    }
    assert!((90..=150).contains(&before.len()), "{} of 200", before.len());
    assert_eq!(ramp(&rig)["share"], 0.6);
    assert_eq!(rig.metric("attache_split_share{service=\"checkout\",arm=\"canary\"}"), 0.6);
}

/// The Show of the issue: from the moment when a fifth of the canary's answers are errors.
#[test]
fn an_arm_that_fails_is_taken_back_in_two_windows_and_nobody_else_notices() {
    let (kept, stable) = (TempDir::new().unwrap(), Fickle::start("stable"));
    let settings = "steps = [\"50%\", \"60%\"]\nevery = \"1h\"\n\
                    abort = { errors_over = \"2%\", p99_over = \"10s\", min_requests = 100, window = \"1s\" }";
    let rig = Rig::start(&text(&kept, &stable, settings, "0%"));
    let address = rig.address("web");
    let load = Load::start(400, 6000, move || Client::tcp(address));
    eventually("a good window", || ramp(&rig)["windows"].as_u64() >= Some(1));
    assert_eq!(ramp(&rig)["bad_windows"], 0);
    rig.reloaded(&text(&kept, &stable, settings, "20%"));
    let mut seen = Vec::new();
    eventually("it is taken back", || {
        let now = ramp(&rig);
        seen.push(now["bad_windows"].clone());
        now["phase"] == "aborted"
    });
    // A window that was half good when the errors began is none of the two.
    let after = ramp(&rig);
    assert_eq!((&after["bad_windows"], &after["share"]), (&2.into(), &0.0.into()), "{after} {seen:?}");
    assert!(after["reason"].as_str().unwrap().contains("errors"), "{after}");
    assert!(canaries(&rig).is_empty());
    let report = load.end();
    let errors = rig.metrics("attache_split_errors_total{service=\"checkout\",arm=\"canary\"}") as usize;
    assert!(report.failures.iter().all(|failure| failure.starts_with("HTTP/1.1 500")), "{}", report.few_failures());
    assert_eq!(report.failures.len(), errors, "only what the canary said itself");
    assert!(rig.log().contains("the ramp is aborted"), "{}", rig.log());
}

#[test]
fn how_far_a_ramp_has_come_outlives_reloads_and_restarts() {
    let (kept, stable) = (TempDir::new().unwrap(), Fickle::start("stable"));
    let settings = "steps = [\"5%\", \"50%\"]\nevery = \"1h\"";
    let config = text(&kept, &stable, settings, "0%");
    let rig = Rig::start(&config);
    let first = canaries(&rig);
    assert!(steered(&rig, &["--step"]).contains("step 2 of 2 (5% 50%)"));
    let second = canaries(&rig);
    assert!(first.iter().all(|user| second.contains(user)) && second.len() > first.len());
    rig.reloaded(&config.replace("by = \"cookie:uid\"", "by = \"cookie:uid\"\nexpose = true"));
    assert_eq!(canaries(&rig), second);
    // Another step at the end of it: nobody has to go back.
    rig.reloaded(&config.replace("[\"5%\", \"50%\"]", "[\"5%\", \"10%\", \"50%\", \"80%\"]"));
    assert_eq!((canaries(&rig), &ramp(&rig)["step"]), (second.clone(), &3.into()));
    rig.reloaded(&config);
    let is_kept = || std::fs::read_to_string(kept.path().join("state.json")).is_ok_and(|text| text.contains("\"step\": 1"));
    eventually("it is written down", is_kept);
    drop(rig);
    let rig = Rig::start(&config);
    assert_eq!((canaries(&rig), &ramp(&rig)["step"]), (second, &2.into()));
    assert!(steered(&rig, &["--abort"]).contains("aborted"));
    assert!(canaries(&rig).is_empty());
    eventually("it is written down", || std::fs::read_to_string(kept.path().join("state.json")).unwrap().contains("\"aborted\""));
    drop(rig);
    let rig = Rig::start(&config);
    assert!(canaries(&rig).is_empty());
    assert_eq!(ramp(&rig)["phase"], "aborted");
    assert!(steered(&rig, &["--resume"]).contains("running"));
    assert_eq!(ramp(&rig)["share"], 0.5);
}

#[test]
fn a_state_that_cannot_be_read_is_said_and_a_ramp_begins_anew() {
    let (kept, stable) = (TempDir::new().unwrap(), Fickle::start("stable"));
    std::fs::write(kept.path().join("state.json"), "{\"version\":1,").unwrap();
    let rig = Rig::start(&text(&kept, &stable, "steps = [\"5%\"]\nevery = \"1h\"", "0%"));
    assert!(rig.log().contains("how far ramps had come cannot be read"), "{}", rig.log());
    assert_eq!(ramp(&rig)["share"], 0.05);
}

#[test]
fn orders_that_make_no_sense_are_refused_with_a_reason() {
    let (kept, stable) = (TempDir::new().unwrap(), Fickle::start("stable"));
    let rig = Rig::start(&text(&kept, &stable, "steps = [\"5%\", \"50%\"]\nevery = \"1h\"", "0%"));
    for (method, path, status, says) in [
        ("POST", "/services/checkout/ramp?resume", 409, "paused or aborted"),
        ("POST", "/services/checkout/ramp?step=3", 409, "no such step"),
        ("POST", "/services/checkout/ramp?step=0", 400, "send {"),
        ("POST", "/services/checkout/ramp?dance", 400, "send {"),
        ("POST", "/services/checkout/ramp", 400, "send {"),
        ("POST", "/services/canary/ramp?pause", 409, "has no ramp"),
        ("POST", "/services/stable/ramp?pause", 404, "there is no split `stable`"),
        ("GET", "/services/stable/ramp", 404, "there is no split `stable`"),
        ("PUT", "/services/checkout/ramp", 405, "use GET or POST"),
    ] {
        let answer = rig.admin(method, path);
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(answer.text().contains(says), "{method} {path}: {}", answer.text());
    }
    let output = split_verb(&rig, &["--resume"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "attache: only a ramp that is paused or aborted can be resumed\n");
    assert_eq!(split_verb(&rig, &["--resume", "--abort"]).status.code(), Some(2));
    // Each way to say it.
    let post = |body: &str| {
        let mut client = Client::unix(&rig.admin_path()).unwrap();
        client.send(format!("POST /services/checkout/ramp HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())).unwrap();
        match client.read("POST").unwrap() {
            Read1::Answer(answer) => (answer.status, serde_json::from_slice::<Value>(&answer.body).unwrap()["phase"].clone()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(post("{\"pause\": true}"), (200, "paused".into()));
    assert_eq!(post("\"resume\""), (200, "running".into()));
    assert_eq!(post("{\"step\": 2}"), (200, "running".into()));
    assert_eq!(post("abort"), (200, "aborted".into()));
}

#[test]
fn whoever_wants_to_know_is_told_of_every_step() {
    let (kept, stable) = (TempDir::new().unwrap(), Fickle::start("stable"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hook = listener.local_addr().unwrap();
    let told = std::thread::spawn(move || {
        let mut told = Vec::new();
        // The first attempt is turned away, and made again.
        for (number, connection) in listener.incoming().take(4).enumerate() {
            let mut connection = connection.unwrap();
            connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut bytes = Vec::new();
            let mut piece = [0; 4096];
            let body = loop {
                let count = connection.read(&mut piece).unwrap();
                assert!(count > 0, "it ended early: {}", String::from_utf8_lossy(&bytes));
                bytes.extend_from_slice(&piece[..count]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n")
                    && serde_json::from_str::<Value>(body).is_ok()
                {
                    assert!(head.starts_with("POST /ramps?team=a HTTP/1.1\r\n"), "{head}");
                    break body.to_owned();
                }
            };
            let status = if number == 0 { "503 Service Unavailable" } else { "204 No Content" };
            connection.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
            told.push(serde_json::from_str::<Value>(&body).unwrap());
        }
        told
    });
    let settings = format!("steps = [\"5%\", \"50%\"]\nevery = \"1h\"\nnotify = \"http://{hook}/ramps?team=a\"");
    let rig = Rig::start(&text(&kept, &stable, &settings, "0%"));
    steered(&rig, &["--pause"]);
    eventually("the first attempt is turned away", || rig.log().contains("did not want to know"));
    steered(&rig, &["--step"]);
    steered(&rig, &["--abort"]);
    let told = told.join().unwrap();
    let mut events: Vec<&str> = told.iter().map(|told| told["event"].as_str().unwrap()).collect();
    assert_eq!(events[0], "paused");
    events.sort_unstable();
    assert_eq!(events, ["aborted", "paused", "paused", "stepped"]);
    let aborted = told.iter().find(|told| told["event"] == "aborted").unwrap();
    assert_eq!((&aborted["service"], &aborted["arm"], &aborted["reason"]), (&"checkout".into(), &"canary".into(), &"by hand".into()));
}
