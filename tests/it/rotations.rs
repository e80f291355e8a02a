//! What becomes of files that are renamed, copied, cut and found again, over restarts and reloads: each line once.
//!
//! The long run of kills and renames is in `logs`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tempfile::TempDir;

use crate::logs::{append, config, messages, read, tells};
use crate::support::{Next, Origin, Rig, eventually, refused};

/// A directory with files, and a log whose sink is a file there.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        append(&self.at(name), text);
    }

    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.at(from), self.at(to)).unwrap();
    }

    /// `{at}` is this directory.
    fn config(&self, from: &str) -> String {
        let text = format!("from = [{from}]\nto = [{{ file = \"{{at}}/state/out.json\" }}]\ncheckpoint = \"{{at}}/state/checkpoint\"");
        config(&text.replace("{at}", self.0.path().to_str().unwrap()))
    }

    fn start(&self, from: &str) -> Rig {
        let rig = Rig::start(&self.config(from));
        eventually("files were looked for", || {
            self.at("state/checkpoint").exists() && rig.metric("attache_logs_files{service=\"l\"}") >= 0.0
        });
        rig
    }

    /// All that was ever written to the sink.
    fn told(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.at("state/out.json")).unwrap_or_default();
        read(&text).iter().map(|record| record["msg"].as_str().unwrap_or_default().to_owned()).collect()
    }

    #[track_caller]
    fn tells(&self, wanted: &[&str]) {
        eventually(&format!("{wanted:?} is told"), || self.told() == wanted);
    }

    /// Nothing but that comes, even if everything is looked at once more.
    #[track_caller]
    fn tells_no_more_than(&self, rig: &Rig, wanted: &[&str]) {
        self.append("mark.log", "mark\n");
        let text = self.config("{ file = \"{at}/app.log\" }, { file = \"{at}/mark.log\" }");
        rig.reloaded(&text);
        eventually("the mark is told", || self.told().iter().any(|told| told == "mark"));
        let told: Vec<String> = self.told().into_iter().filter(|told| told != "mark").collect();
        assert_eq!(told, wanted);
    }
}

fn ended(mut rig: Rig) {
    rig.signal("TERM");
    rig.ended();
}

const APP: &str = "{ file = \"{at}/app.log\" }";

#[test]
fn two_sources_of_one_directory_share_no_line() {
    let place = Place::new();
    let both = "{ file = \"{at}/a.log\", name = \"A\" }, { file = \"{at}/b.log\", name = \"B\" }, { file = \"{at}/*.log\" }";
    place.append("a.log", "a1\n");
    place.append("b.log", "b1\n");
    let rig = place.start(both);
    eventually("both are told", || place.told().len() == 2);
    ended(rig);
    place.append("a.log", "a2\n");
    place.append("c.log", "c1\n");
    place.append("b.log", "b2\n");
    let rig = place.start(both);
    eventually("the rest is told", || place.told().len() >= 5);
    let mut told: Vec<(String, String)> = read(&std::fs::read_to_string(place.at("state/out.json")).unwrap())
        .iter()
        .map(|record| (record["msg"].as_str().unwrap().to_owned(), record["source"].as_str().unwrap().to_owned()))
        .collect();
    told.sort();
    let c = place.at("c.log").display().to_string();
    let pair = |msg: &str, source: &str| (msg.to_owned(), source.to_owned());
    assert_eq!(told, [pair("a1", "A"), pair("a2", "A"), pair("b1", "B"), pair("b2", "B"), pair("c1", &c)]);
    // What nobody wants any more is left alone.
    rig.reloaded(&place.config("{ file = \"{at}/a.log\", name = \"A\" }"));
    eventually("the log has changed", || rig.metric("attache_logs_files{service=\"l\"}") == 1.0);
    place.append("b.log", "b3\n");
    place.append("a.log", "a3\n");
    eventually("what is wanted is told", || place.told().iter().any(|told| told == "a3"));
    assert!(!place.told().iter().any(|told| told == "b3"));
}

/// It read its own output, which begins with the name of its source, after a restart.
#[test]
fn what_is_called_alike_is_not_read() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    append(Path::new(&at("app.log")), "one\n");
    let text = config(&format!(
        "from = [{{ file = \"{}\" }}]\nto = [{{ file = \"{}\" }}]\ncheckpoint = \"{}\"",
        at("app.log"),
        at("app.log-2"),
        at("app.log.1")
    ));
    for _ in 0..2 {
        let rig = Rig::start(&text);
        append(Path::new(&at("app.log")), "more\n");
        eventually("it is read", || messages(&rig).contains(&"more".to_owned()));
        ended(rig);
    }
    let written = std::fs::read_to_string(at("app.log-2")).unwrap();
    assert_eq!(written.lines().count(), 3, "{written}");
    assert!(refused(&text.replace("app.log-2", "app.log.1")).contains("records are written to this file"));
}

#[test]
fn a_copy_of_what_was_read_is_not_read_again() {
    let place = Place::new();
    let copy = || {
        std::fs::copy(place.at("app.log"), place.at("app.log.1")).unwrap();
        File::create(place.at("app.log")).unwrap();
    };
    place.append("app.log", "1\n2\n");
    let rig = place.start(APP);
    place.tells(&["1", "2"]);
    copy();
    eventually("it was seen", || rig.metric("attache_logs_truncated_total{service=\"l\"}") == 1.0);
    // Over a reload, over a restart, and where it happens meanwhile.
    rig.reloaded(&place.config("{ file = \"{at}/app.log\", rotate_wait = \"6s\" }"));
    place.append("app.log", "3\n");
    place.tells(&["1", "2", "3"]);
    ended(rig);
    let rig = place.start(APP);
    place.append("app.log", "4\n");
    place.tells(&["1", "2", "3", "4"]);
    ended(rig);
    place.append("app.log", "5\n");
    std::fs::remove_file(place.at("app.log.1")).unwrap();
    copy();
    place.append("app.log", "6\n");
    let rig = place.start(APP);
    // The fifth is nowhere but in the copy.
    eventually("both are told", || place.told().len() >= 6);
    place.tells_no_more_than(&rig, if place.told()[4] == "5" { &["1", "2", "3", "4", "5", "6"] } else { &["1", "2", "3", "4", "6", "5"] });
}

#[test]
fn a_quiet_file_that_is_renamed_has_its_late_writer_heard() {
    let place = Place::new();
    place.append("app.log", "one\n");
    let mut late = OpenOptions::new().append(true).open(place.at("app.log")).unwrap();
    let rig = place.start("{ file = \"{at}/app.log\", rotate_wait = \"1500ms\" }");
    place.tells(&["one"]);
    // Longer than it is waited for.
    std::thread::sleep(Duration::from_millis(1700));
    place.rename("app.log", "app.log.1");
    place.append("app.log", "new\n");
    place.tells(&["one", "new"]);
    late.write_all(b"late\n").unwrap();
    place.tells(&["one", "new", "late"]);
    ended(rig);
}

/// The directory was not looked at while a sink took nothing.
#[test]
fn renames_while_a_sink_takes_nothing_lose_nothing() {
    let is_open = std::sync::Arc::new(AtomicBool::new(false));
    let origin = Origin::run({
        let is_open = std::sync::Arc::clone(&is_open);
        move |stream, _, _| {
            let status = if is_open.load(SeqCst) { "204 No Content" } else { "500 No" };
            let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
            Next::Keep
        }
    });
    let place = Place::new();
    place.append("app.log", "one\n");
    let sink = format!("to = [{{ http = \"http://{}/\" }}, ", origin.address);
    let rig = Rig::start(&place.config(APP).replace("to = [", &sink));
    eventually("it is refused", || rig.metric("attache_logs_errors_total{service=\"l\"}") >= 1.0);
    // Faster than anybody looks, and then beyond what is kept.
    for number in 0..4 {
        for older in (1..=number).rev() {
            place.rename(&format!("app.log.{older}"), &format!("app.log.{}", older + 1));
        }
        place.rename("app.log", "app.log.1");
        place.append("app.log", &format!("gen{number}\n"));
    }
    eventually("all are known", || rig.metric("attache_logs_files{service=\"l\"}") == 5.0);
    std::fs::remove_file(place.at("app.log.4")).unwrap();
    is_open.store(true, SeqCst);
    eventually("all are told", || place.told().len() >= 5);
    let mut told = place.told();
    told.sort();
    assert_eq!(told, ["gen0", "gen1", "gen2", "gen3", "one"]);
}

#[test]
fn the_end_is_where_it_was_when_nobody_had_looked_before() {
    let place = Place::new();
    let from = "{ file = \"{at}/*.log\", start = \"end\" }";
    place.append("app.log", "before\n");
    let rig = place.start(from);
    eventually("it is followed", || rig.metric("attache_logs_files{service=\"l\"}") == 1.0);
    place.append("app.log", "a\n");
    place.tells(&["a"]);
    ended(rig);
    place.append("app.log", "b\n");
    place.rename("app.log", "app.log.1");
    place.append("app.log", "c\n");
    let rig = place.start(from);
    eventually("all of it is told", || place.told().len() >= 3);
    let mut told = place.told();
    told.sort();
    assert_eq!(told, ["a", "b", "c"]);
    ended(rig);
}

#[test]
fn what_a_pattern_finds_is_within_its_directory() {
    let place = Place::new();
    let text = config(&format!(
        "from = [{{ file = \"{}\" }}]\nto = [{{ file = \"{}\" }}]",
        place.at("*.log").display(),
        place.at("below/out.log").display()
    ));
    let rig = Rig::start(&text);
    place.append("app.log", "one\n");
    tells(&rig, &["one"]);
    let said = refused(&text.replace("below/out.log", "out.log"));
    assert!(said.contains("which this log writes itself"), "{said}");
}
