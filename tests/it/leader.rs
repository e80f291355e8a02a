//! Pools with a leader: who gets the requests while the lead moves.
//!
//! The endpoints elect their leader themselves; here they only say what they are told to, but for Redis and `PostgreSQL`,
//! which are in `health_servers.rs`.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};

use serde_json::Value;

use crate::support::{Client, Next, Origin, Read1, Rig, eventually};

/// An origin that says whether it leads: 200, 503, or nothing at all.
struct Candidate {
    origin: Origin,
    says: Arc<AtomicU16>,
}

const NOTHING: u16 = 0;

impl Candidate {
    fn new(name: &'static str, status: u16) -> Self {
        let says = Arc::new(AtomicU16::new(status));
        let status = Arc::clone(&says);
        let origin = Origin::run(move |stream, request, _| {
            let is_asked = request.line().starts_with("GET /leader ");
            let (status, body) = if is_asked { (status.load(SeqCst), "") } else { (200, name) };
            if status == NOTHING {
                return Next::Close;
            }
            let _ = write!(stream, "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            Next::Keep
        });
        Self { origin, says }
    }

    fn say(&self, status: u16) {
        self.says.store(status, SeqCst);
    }
}

fn config(candidates: &[(&str, &Candidate)], keys: &str) -> String {
    let endpoints: Vec<String> =
        candidates.iter().map(|(name, one)| format!("{{ name = \"{name}\", address = \"{}\" }}", one.origin.address)).collect();
    format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n[service.app]\nendpoints = [{}]\n{keys}\n",
        endpoints.join(", ")
    )
}

const OFTEN: &str = "leader = { path = \"/leader\", interval = \"50ms\", timeout = \"50ms\", wait = \"0s\" }";

fn endpoint(rig: &Rig, name: &str) -> Value {
    let services = rig.admin_json("/services");
    services[0]["endpoints"].as_array().unwrap().iter().find(|endpoint| endpoint["name"] == name).unwrap().clone()
}

/// Everybody who leads.
fn leaders(rig: &Rig) -> Vec<String> {
    let services = rig.admin_json("/services");
    let endpoints = services[0]["endpoints"].as_array().unwrap().clone();
    let names = endpoints.iter().filter(|endpoint| endpoint["leads"] == true).map(|endpoint| endpoint["name"].as_str().unwrap().to_owned());
    names.collect()
}

#[track_caller]
fn until_leader(rig: &Rig, expected: &[&str]) {
    eventually(&format!("{expected:?} leads"), || leaders(rig) == expected);
}

fn answers(rig: &Rig, count: usize) -> String {
    (0..count).map(|_| rig.connect("web").ask("GET", "/").unwrap().text()).collect()
}

#[test]
fn only_the_leader_gets_requests_and_they_follow_it() {
    let (a, b) = (Candidate::new("a", 200), Candidate::new("b", 503));
    let rig = Rig::start(&config(&[("a", &a), ("b", &b)], OFTEN));
    until_leader(&rig, &["a"]);
    assert_eq!(answers(&rig, 6), "aaaaaa");
    assert_eq!(endpoint(&rig, "b")["state"], "follower");
    a.say(503);
    b.say(200);
    until_leader(&rig, &["b"]);
    assert_eq!(answers(&rig, 6), "bbbbbb");
    assert_eq!(rig.metric("attache_endpoint_up{service=\"app\",endpoint=\"a\"}"), 0.0);
    assert!(!rig.log().contains("two endpoints"), "{}", rig.log());
}

#[test]
fn nobody_gets_requests_before_it_is_known_who_leads() {
    let (a, b) = (Candidate::new("a", 503), Candidate::new("b", NOTHING));
    let rig = Rig::start(&config(&[("a", &a), ("b", &b)], OFTEN));
    assert_eq!(rig.connect("web").ask("GET", "/").unwrap().status, 503);
    eventually("both were asked", || !endpoint(&rig, "a")["checked_at"].is_null() && !endpoint(&rig, "b")["checked_at"].is_null());
    assert_eq!(leaders(&rig), [""; 0]);
    assert_eq!(endpoint(&rig, "b")["detail"], "it closed without an answer");
    assert_eq!(rig.connect("web").ask("GET", "/").unwrap().status, 503);
}

#[test]
fn of_two_that_claim_to_lead_the_last_one_does() {
    let (a, b) = (Candidate::new("a", 200), Candidate::new("b", 503));
    let rig = Rig::start(&config(&[("a", &a), ("b", &b)], OFTEN));
    until_leader(&rig, &["a"]);
    b.say(200);
    until_leader(&rig, &["b"]);
    eventually("the dispute is told", || rig.log().contains("two endpoints claim to lead"));
    let asked = a.origin.seen().len();
    eventually("a goes on claiming", || a.origin.seen().len() > asked + 5);
    assert_eq!(leaders(&rig), ["b"]);
    assert_eq!(rig.log().matches("two endpoints claim to lead").count(), 1);
}

#[test]
fn a_leader_that_answers_nothing_leads_until_the_second_time() {
    let (a, b) = (Candidate::new("a", 200), Candidate::new("b", 503));
    let rig = Rig::start(&config(&[("a", &a), ("b", &b)], OFTEN));
    until_leader(&rig, &["a"]);
    a.say(NOTHING);
    until_leader(&rig, &[]);
    eventually("the log says so", || rig.log().contains("nobody leads any more"));
    assert!(rig.metric("attache_health_checks_total{service=\"app\",endpoint=\"a\",outcome=\"failed\"}") >= 2.0);
    assert_eq!(rig.connect("web").ask("GET", "/").unwrap().status, 503);
    a.say(200);
    until_leader(&rig, &["a"]);
}

#[test]
fn a_reload_keeps_the_leader() {
    let (a, b, c) = (Candidate::new("a", 200), Candidate::new("b", 503), Candidate::new("c", 503));
    let once = OFTEN.replace("interval = \"50ms\"", "interval = \"1h\"");
    let rig = Rig::start(&config(&[("a", &a), ("b", &b)], &once));
    until_leader(&rig, &["a"]);
    rig.reloaded(&config(&[("a", &a), ("b", &b), ("c", &c)], &once));
    assert_eq!((leaders(&rig).as_slice(), answers(&rig, 6).as_str()), (&["a".to_owned()][..], "aaaaaa"));
    eventually("c was asked", || !endpoint(&rig, "c")["checked_at"].is_null());
    assert_eq!(leaders(&rig), ["a"]);
    assert_eq!(answers(&rig, 6), "aaaaaa");
}

#[test]
fn without_an_election_everybody_gets_requests() {
    let (a, b) = (Candidate::new("a", 200), Candidate::new("b", 503));
    let rig = Rig::start(&config(&[("a", &a), ("b", &b)], OFTEN));
    until_leader(&rig, &["a"]);
    rig.reloaded(&config(&[("a", &a), ("b", &b)], ""));
    eventually("b may again", || endpoint(&rig, "b")["state"] == "up");
    assert!(answers(&rig, 4).contains('b'));
    rig.reloaded(&config(&[("a", &a), ("b", &b)], OFTEN));
    until_leader(&rig, &["a"]);
    assert_eq!(answers(&rig, 6), "aaaaaa");
}

#[test]
fn a_leader_that_is_sick_gets_nothing() {
    let (a, b) = (Candidate::new("a", 200), Candidate::new("b", 503));
    let keys = format!("{OFTEN}\nhealth = {{ path = \"/ready\", expect = 201, interval = \"50ms\", timeout = \"50ms\" }}");
    let rig = Rig::start(&config(&[("a", &a), ("b", &b)], &keys));
    until_leader(&rig, &["a"]);
    eventually("a is sick", || endpoint(&rig, "a")["state"] == "sick");
    assert_eq!(rig.connect("web").ask("GET", "/").unwrap().status, 503);
}

#[test]
fn requests_wait_for_the_next_leader_instead_of_failing() {
    let (a, b) = (Candidate::new("a", 503), Candidate::new("b", 503));
    let keys = "leader = { path = \"/leader\", interval = \"50ms\", timeout = \"50ms\", wait = \"15s\" }";
    let rig = Rig::start(&config(&[("a", &a), ("b", &b)], keys));
    let mut waiting: Vec<Client> = (0..20).map(|_| rig.connect("web")).collect();
    for client in &mut waiting {
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    }
    let mut posting = rig.connect("web");
    posting.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nbody").unwrap();
    eventually("both were asked more than once", || [&a, &b].iter().all(|one| one.origin.seen().len() > 2));
    b.say(200);
    for client in &mut waiting {
        assert!(matches!(client.read("GET").unwrap(), Read1::Answer(answer) if answer.text() == "b"));
    }
    assert!(
        matches!(posting.read("POST").unwrap(), Read1::Answer(answer) if answer.text() == "b"),
        "nothing was sent, so anything may wait"
    );
    assert_eq!(rig.metric("attache_refusals_total{listener=\"web\",reason=\"no_endpoint\"}"), 0.0);
}

// Seen: who waited before a reload was not told of the leader that was found after it.
#[test]
fn who_waits_for_a_leader_goes_on_waiting_over_a_reload() {
    let (a, b) = (Candidate::new("a", 503), Candidate::new("b", 503));
    let keys = "leader = { path = \"/leader\", interval = \"50ms\", timeout = \"50ms\", wait = \"15s\" }";
    let candidates = [("a", &a), ("b", &b)];
    let rig = Rig::start(&config(&candidates, keys));
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let begun = "attache_connections{listener=\"web\"}";
    eventually("it waits", || rig.metric(begun) == 1.0);
    rig.reloaded(&config(&candidates, &format!("{keys}\nbalance = \"random\"")));
    let asked = a.origin.seen().len();
    eventually("they are asked again", || a.origin.seen().len() > asked + 1);
    b.say(200);
    assert!(matches!(client.read("GET").unwrap(), Read1::Answer(answer) if answer.text() == "b"));
}

#[test]
fn who_waits_for_a_leader_in_vain_is_refused() {
    let a = Candidate::new("a", 503);
    let keys = "leader = { path = \"/leader\", interval = \"50ms\", timeout = \"50ms\", wait = \"200ms\" }";
    let rig = Rig::start(&config(&[("a", &a)], keys));
    let answer = rig.connect("web").ask("GET", "/").unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
}
