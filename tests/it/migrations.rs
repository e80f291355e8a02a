//! A service that is left for a shard: who is asked and who is told while keys move.
//!
//! Windows begin in the past or the future as tests need them; nobody waits for one.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::support::{Answer, Next, Origin, Read1, Rig, free_address};

/// Keeps what is PUT, answers GET with it or 404, and says who it is.
fn store(name: &'static str) -> Origin {
    let values: Arc<Mutex<HashMap<String, Vec<u8>>>> = Arc::default();
    Origin::run(move |stream, request, _| {
        let mut words = request.line().split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap().to_owned());
        let (status, body) = match method {
            "PUT" => {
                values.lock().unwrap().insert(path, request.body.clone());
                ("200 OK", format!("{name} keeps"))
            }
            _ => match values.lock().unwrap().get(&path) {
                Some(value) => ("200 OK", format!("{name} {}", String::from_utf8_lossy(value))),
                None => ("404 Not Found", format!("{name} misses")),
            },
        };
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        Next::Keep
    })
}

fn rfc3339(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).unwrap().to_string()
}

/// A window of a thousand hours that began or begins so many hours from now.
fn config(old: &str, new: &str, hours: i64, settings: &str) -> String {
    let away = Duration::from_secs(hours.unsigned_abs() * 3600);
    let start = if hours < 0 { SystemTime::now() - away } else { SystemTime::now() + away };
    format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"cache\"\n[service.cache.shard]\nby = \"path\"\nover = [\"{new}\"]\n\
         migrate = {{ from = \"{old}\", over = \"1000h\", start = \"{}\", {settings} }}\n",
        rfc3339(start)
    )
}

#[track_caller]
fn ask(rig: &Rig, method: &str, path: &str, body: &str) -> Answer {
    let mut client = rig.connect("web");
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n{body}", body.len())).unwrap();
    match client.read(method).unwrap() {
        Read1::Answer(answer) => answer,
        other => panic!("no answer to {method} {path} but {other:?}"),
    }
}

#[track_caller]
fn text(rig: &Rig, method: &str, path: &str, body: &str) -> String {
    ask(rig, method, path, body).text()
}

/// The new one alone, beside the old one.
fn addresses(old: &Origin, new: &Origin) -> (String, String) {
    (old.address.to_string(), new.address.to_string())
}

#[test]
fn before_the_window_all_is_as_it_was_and_after_it_all_is_new() {
    let (old, new) = (store("old"), store("new"));
    let (from, to) = addresses(&old, &new);
    let rig = Rig::start(&config(&from, &to, 1, "read = \"new-then-old\""));
    assert_eq!((text(&rig, "PUT", "/a", "1"), text(&rig, "GET", "/a", "")), ("old keeps".to_owned(), "old 1".to_owned()));
    assert_eq!(new.seen().len(), 0);
    rig.reloaded(&config(&from, &to, -1001, "read = \"new-then-old\""));
    assert_eq!(text(&rig, "GET", "/a", ""), "new misses");
    assert_eq!(old.seen().len(), 2);
}

#[test]
fn keys_that_have_switched_are_asked_of_the_new_one_and_then_of_the_old_one() {
    let (old, new) = (store("old"), store("new"));
    let (from, to) = addresses(&old, &new);
    let rig = Rig::start(&config(&from, &to, 1, ""));
    assert_eq!(text(&rig, "PUT", "/a", "1"), "old keeps");
    // Nearly all have.
    rig.reloaded(&config(&from, &to, -999, "write = \"new\""));
    assert_eq!(text(&rig, "GET", "/a", ""), "old 1", "a miss of the new one");
    assert_eq!(new.seen().len(), 1);
    assert_eq!(text(&rig, "PUT", "/a", "2"), "new keeps");
    assert_eq!(text(&rig, "GET", "/a", ""), "new 2");
    let nobodys = ask(&rig, "GET", "/b", "");
    assert_eq!((nobodys.status, nobodys.text()), (404, "old misses".to_owned()));
}

#[test]
fn both_are_told_and_whoever_is_read_answers() {
    let (old, new) = (store("old"), store("new"));
    let (from, to) = addresses(&old, &new);
    let rig = Rig::start(&config(&from, &to, -999, "read = \"old\""));
    assert_eq!(text(&rig, "PUT", "/a", "1"), "old keeps");
    assert_eq!(text(&rig, "GET", "/a", ""), "old 1");
    assert_eq!(new.seen().len(), 1, "it was told, and not asked");
    assert_eq!(new.seen()[0].body, b"1");
    rig.reloaded(&config(&from, &to, -999, "read = \"new-then-old\""));
    assert_eq!(text(&rig, "PUT", "/a", "2"), "new keeps");
    assert_eq!(text(&rig, "GET", "/a", ""), "new 2");
    assert_eq!(old.seen().iter().filter(|request| request.line().starts_with("PUT")).count(), 2);
}

#[test]
fn whoever_is_only_told_may_be_gone() {
    let new = store("new");
    let rig = Rig::start(&config(&free_address().to_string(), &new.address.to_string(), -999, ""));
    assert_eq!(text(&rig, "PUT", "/a", "1"), "new keeps");
    assert_eq!(text(&rig, "GET", "/a", ""), "new 1");
}

#[test]
fn reads_go_to_the_old_one_while_nobody_is_at_the_new_one() {
    let old = store("old");
    let to = free_address().to_string();
    let rig = Rig::start(&config(&old.address.to_string(), &to, 1, ""));
    assert_eq!(text(&rig, "PUT", "/a", "1"), "old keeps");
    rig.reloaded(&config(&old.address.to_string(), &to, -999, ""));
    assert_eq!(text(&rig, "GET", "/a", ""), "old 1");
}

#[test]
fn a_body_that_is_too_long_for_both_is_refused() {
    let (old, new) = (store("old"), store("new"));
    let (from, to) = addresses(&old, &new);
    let rig = Rig::start(&config(&from, &to, -999, "body = \"1KiB\""));
    assert_eq!(ask(&rig, "PUT", "/a", &"x".repeat(2000)).status, 413);
    assert_eq!(text(&rig, "PUT", "/a", &"x".repeat(1000)), "new keeps");
    assert_eq!((old.seen().len(), new.seen().len()), (1, 1));
}

#[test]
fn each_key_switches_at_its_own_moment_and_stays() {
    let (old, new) = (store("old"), store("new"));
    let (from, to) = addresses(&old, &new);
    let asked = |hours: i64| -> Vec<bool> {
        let rig = Rig::start(&config(&from, &to, hours, "write = \"new\""));
        let mut client = rig.connect("web");
        let has_switched = |number: usize| {
            client.send(format!("PUT /{number} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx")).unwrap();
            matches!(client.read("PUT").unwrap(), Read1::Answer(answer) if answer.text() == "new keeps")
        };
        (0..400).map(has_switched).collect()
    };
    let (early, late) = (asked(-250), asked(-600));
    let share = |switched: &[bool]| switched.iter().filter(|switched| **switched).count() as f64 / switched.len() as f64;
    assert!((share(&early) - 0.25).abs() < 0.1 && (share(&late) - 0.6).abs() < 0.1, "{} {}", share(&early), share(&late));
    assert!(early.iter().zip(&late).all(|(early, late)| !early || *late), "nobody goes back");
}

#[test]
fn a_migration_without_a_start_goes_on_over_reloads() {
    let (old, new) = (store("old"), store("new"));
    let (from, to) = addresses(&old, &new);
    let without = config(&from, &to, 1, "read = \"old\"").split("start = ").next().unwrap().to_owned() + "read = \"old\" }\n";
    let rig = Rig::start(&without);
    assert_eq!(text(&rig, "PUT", "/a", "1"), "old keeps", "it has just begun");
    rig.reloaded(&without.replace("by = \"path\"", "by = \"path\"\nkeyless = \"refuse\""));
    assert_eq!(text(&rig, "GET", "/a", ""), "old 1");
}

#[test]
fn migrations_that_lose_writes_are_refused() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("attache.toml");
    let check = |text: &str, part: &str| {
        std::fs::write(&path, text).unwrap();
        let output = crate::support::binary().arg("check").arg(&path).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains(part), "{text}: {told}");
    };
    check(&config("10.0.0.1:80", "10.0.0.2:80", 1, "read = \"old\", write = \"new\""), "would read what is not written");
    check(&config("cache", "10.0.0.2:80", 1, ""), "is a part of itself");
    check(&config("10.0.0.1:80", "10.0.0.2:80", 1, "").replace("start = \"2", "start = \"x2"), "is not a moment");
}
