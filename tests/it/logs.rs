//! Logs of other programs: real files that are renamed, cut and lost, a real Redis, kills.
//!
//! What is read of a line is tested beside the code; what becomes of records, in `sinks`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Answer, DataServer, Rig, eventually, refused};

pub fn config(logs: &str) -> String {
    format!("[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"l\"\n[service.l.logs]\n{logs}\n")
}

pub fn ask(rig: &Rig, target: &str) -> Answer {
    rig.connect("web").ask("GET", target).unwrap()
}

/// What the service says last.
pub fn records(rig: &Rig) -> Vec<Value> {
    read(&ask(rig, "/").text())
}

#[track_caller]
pub fn read(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

pub fn messages(rig: &Rig) -> Vec<String> {
    records(rig).iter().map(|record| record["msg"].as_str().unwrap_or_default().to_owned()).collect()
}

pub fn append(path: &Path, text: &str) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[track_caller]
pub fn tells(rig: &Rig, wanted: &[&str]) {
    eventually("these are the records", || messages(rig) == wanted);
}

#[test]
fn lines_of_files_become_records() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.log");
    append(
        &path,
        "{\"time\":\"2026-01-02T03:04:05Z\",\"level\":\"WARN\",\"message\":\"a\",\"user\":\"u\",\"password\":\"x\",\"n\":{\"s\":500}}\n",
    );
    append(&path, "not json 4111111111111111\n\nhalf a");
    let rig = Rig::start(&config(&format!(
        "from = [{{ file = \"{}/*.log\" }}]\nparse = \"json\"\nrename = {{ user = \"login\" }}\ndrop = [\"absent\"]\n\
         redact = [{{ field = \"password\" }}, {{ regex = '\\d{{16}}', with = \"#\" }}]\n\
         count = [{{ name = \"app_lines_total\", labels = {{ level = \"/level\", s = \"/n/s\" }}, help = \"Lines.\" }}, \
         {{ name = \"app_size\", type = \"histogram\", value = \"/n/s\", buckets = [100.0, 1000.0] }}]",
        directory.path().display()
    )));
    eventually("three lines are there", || records(&rig).len() == 3);
    let found = records(&rig);
    let source = path.display().to_string();
    assert_eq!(
        found[0],
        serde_json::json!({
            "ts": "2026-01-02T03:04:05Z", "level": "warn", "msg": "a", "source": source,
            "login": "u", "password": "[redacted]", "n": { "s": 500 },
        })
    );
    assert_eq!((&found[1]["msg"], &found[2]["msg"]), (&"not json #".into(), &"".into()));
    // The rest of the line makes it one.
    append(&path, " line\n");
    eventually("it is whole", || messages(&rig).last().is_some_and(|last| last == "half a line"));
    assert_eq!(read(&ask(&rig, "/?limit=1").text()).len(), 1);
    assert_eq!(read(&ask(&rig, "/?level=warn").text()).len(), 1);
    assert_eq!((ask(&rig, "/?limit=x").status, rig.connect("web").ask("POST", "/").unwrap().status), (400, 405));
    assert_eq!(rig.metric("attache_logs_unparsed_total{service=\"l\"}"), 3.0);
    assert_eq!(rig.metric("attache_logs_records_total{service=\"l\"}"), 4.0);
    assert_eq!(rig.metric("app_lines_total{level=\"warn\",s=\"500\"}"), 1.0);
    assert_eq!(rig.metric("app_lines_total{level=\"\",s=\"\"}"), 3.0);
    assert_eq!(rig.metric("app_size_bucket{le=\"1000\"}"), 1.0);
    assert_eq!(rig.metric("app_size_bucket{le=\"100\"}"), 0.0);
}

#[test]
fn whatever_happens_to_a_file_its_lines_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let rig = Rig::start(&config(&format!(
        "from = [{{ file = \"{}\", rotate_wait = \"2s\" }}]\ncheckpoint = \"{}\"",
        at("app.log").display(),
        at("state/checkpoint").display()
    )));
    append(&at("app.log"), "1\n");
    tells(&rig, &["1"]);
    // Renamed, with a late writer and a new file.
    let mut late = OpenOptions::new().append(true).open(at("app.log")).unwrap();
    std::fs::rename(at("app.log"), at("app.log.1")).unwrap();
    append(&at("app.log"), "3\n");
    tells(&rig, &["1", "3"]);
    late.write_all(b"2\n").unwrap();
    tells(&rig, &["1", "3", "2"]);
    // Cut short.
    File::create(at("app.log")).unwrap();
    append(&at("app.log"), "4\n");
    tells(&rig, &["1", "3", "2", "4"]);
    // Copied and cut, and grown beyond where it was before anybody looks.
    std::fs::write(at("app.log"), "other 5\nother 6\n").unwrap();
    tells(&rig, &["1", "3", "2", "4", "other 5", "other 6"]);
    eventually("both were counted", || rig.metric("attache_logs_truncated_total{service=\"l\"}") >= 2.0);
    // Gone, with a last word that has no end.
    let mut gone = OpenOptions::new().append(true).open(at("app.log")).unwrap();
    std::fs::remove_file(at("app.log")).unwrap();
    gone.write_all(b"7").unwrap();
    drop(gone);
    tells(&rig, &["1", "3", "2", "4", "other 5", "other 6", "7"]);
    // Its inode may be used again.
    append(&at("app.log"), "8\n");
    tells(&rig, &["1", "3", "2", "4", "other 5", "other 6", "7", "8"]);
    eventually("nobody holds what is gone", || rig.metric("attache_logs_files{service=\"l\"}") == 1.0);
    eventually("nothing is left to read", || rig.metric("attache_logs_lag_bytes{service=\"l\"}") == 0.0);
}

/// An inode that another file has got while nobody looked is no file that was read.
#[test]
fn an_inode_that_is_used_again_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let text = config(&format!("from = [{{ file = \"{}\" }}]\ncheckpoint = \"{}\"", at("app.log").display(), at("checkpoint").display()));
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(at("app.log")).unwrap());
    append(&at("app.log"), "1\n2\n");
    let mut rig = Rig::start(&text);
    tells(&rig, &["1", "2"]);
    let before = inode();
    rig.signal("KILL");
    rig.ended();
    // As an inode that is given away again looks: its number, nothing of its content. Longer than what was read, so that the length says nothing.
    std::fs::write(at("app.log"), "3\n4\n5\n").unwrap();
    assert_eq!(inode(), before);
    let mut rig = Rig::start(&text);
    tells(&rig, &["3", "4", "5"]);
    rig.signal("KILL");
    rig.ended();
    // And one that goes on as it was goes on.
    append(&at("app.log"), "6\n");
    let rig = Rig::start(&text);
    tells(&rig, &["6"]);
}

#[test]
fn lines_that_belong_together_are_one_record() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.log");
    append(&path, "A\n at x\n at y\nB\n");
    let rig = Rig::start(&config(&format!(
        "from = [{{ file = \"{}\" }}]\nmultiline = {{ start = \"^[A-Z]\", flush = \"500ms\" }}\nline = \"64B\"",
        path.display()
    )));
    // The last one is given when nothing follows.
    tells(&rig, &["A\n at x\n at y", "B"]);
    append(&path, &format!("C{}\n more\nD\n", "c".repeat(100)));
    eventually("it was cut", || records(&rig).iter().any(|record| record["truncated"] == true));
    eventually("and what follows is there", || messages(&rig).last().is_some_and(|last| last == "D"));
    assert!(rig.metric("attache_logs_missing_total{service=\"l\",reason=\"cut\"}") >= 1.0);
}

#[test]
fn containers_lines_are_taken_out_of_their_wrapping() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    append(
        &path,
        "2026-01-02T03:04:05.5Z stdout P {\"level\":\"er\n2026-01-02T03:04:06Z stderr F plain\n2026-01-02T03:04:05.6Z stdout F ror\",\"msg\":\"m\"}\n",
    );
    let rig = Rig::start(&config(&format!("from = [{{ file = \"{}\" }}]\nparse = [\"cri\", \"json\"]", path.display())));
    tells(&rig, &["plain", "m"]);
    let found = records(&rig);
    assert_eq!((&found[0]["ts"], &found[0]["stream"]), (&"2026-01-02T03:04:06Z".into(), &"stderr".into()));
    assert_eq!((&found[1]["ts"], &found[1]["level"]), (&"2026-01-02T03:04:05.5Z".into(), &"error".into()));
}

#[test]
fn a_changed_log_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.log");
    let out = directory.path().join("out.json");
    append(&path, "1\n2\n");
    let to =
        |more: &str| config(&format!("from = [{{ file = \"{}\" }}]\nto = [{{ file = \"{}\" }}]\n{more}", path.display(), out.display()));
    let rig = Rig::start(&to(""));
    let lines = || std::fs::read_to_string(&out).unwrap_or_default().lines().count();
    eventually("both are out", || lines() == 2);
    rig.reloaded(&to("drop = [\"x\"]"));
    append(&path, "3\n");
    eventually("the third is out", || lines() >= 3);
    let written = read(&std::fs::read_to_string(&out).unwrap());
    assert_eq!(written.iter().map(|record| record["msg"].as_str().unwrap()).collect::<Vec<_>>(), ["1", "2", "3"]);
    // Whoever renames what is written gets a new file.
    std::fs::rename(&out, directory.path().join("out.1")).unwrap();
    eventually("there is a new one", || {
        append(&path, "x\n");
        out.exists()
    });
}

/// Numbered lines through renames and kills, as the whole suite has them longer in `soak`.
#[test]
fn kills_and_renames_lose_nothing() {
    let lines: usize = std::env::var("ATTACHE_LOG_LINES").ok().and_then(|lines| lines.parse().ok()).unwrap_or(300_000);
    let (rotations, kills) = if lines > 1_000_000 { (100, 20) } else { (15, 5) };
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let text = config(&format!(
        "from = [{{ file = \"{}\", rotate_wait = \"10s\" }}]\nto = [{{ file = \"{}\" }}]\ncheckpoint = \"{}\"",
        at("app.log").display(),
        at("out.json").display(),
        at("checkpoint").display()
    ));
    let mut rig = Rig::start(&text);
    let path = at("app.log");
    let (mut next, mut killed) = (0, 0);
    for rotation in 0..rotations {
        let until = lines * (rotation + 1) / rotations;
        while next < until {
            let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
            let end = (next + 5000).min(until);
            let block: String =
                (next..end).map(|number| format!("line {number} of a program that says what it does, again and again\n")).collect();
            file.write_all(block.as_bytes()).unwrap();
            next = end;
        }
        if killed < kills && rotation * kills / rotations >= killed {
            killed += 1;
            // In the middle of it, wherever that is.
            let written = || std::fs::metadata(at("out.json")).map_or(0, |metadata| metadata.len());
            let before = written();
            eventually("it writes", || written() != before || before > 0);
            rig.signal("KILL");
            rig.ended();
            // It is renamed while nobody looks.
            std::fs::rename(&path, at(&format!("app.log.{rotation}"))).unwrap();
            rig = Rig::start(&text);
        } else {
            std::fs::rename(&path, at(&format!("app.log.{rotation}"))).unwrap();
        }
    }
    let patience = std::time::Instant::now() + Duration::from_secs(if lines > 1_000_000 { 600 } else { 30 });
    let (mut seen, mut known): (BTreeMap<usize, usize>, u64) = Default::default();
    while seen.len() < lines && std::time::Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(500));
        let length = std::fs::metadata(at("out.json")).unwrap().len();
        // It is read when it has come to rest, which it has if more is missing than is on its way.
        if std::mem::replace(&mut known, length) != length {
            continue;
        }
        seen.clear();
        let written = std::fs::read_to_string(at("out.json")).unwrap();
        // The last line may be on its way.
        for line in written.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let number = record["msg"].as_str().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            *seen.entry(number).or_default() += 1;
        }
    }
    let lost: Vec<usize> = (0..lines).filter(|number| !seen.contains_key(number)).collect();
    let twice: usize = seen.values().map(|count| count - 1).sum();
    eprintln!("{lines} lines, {rotations} renames, {killed} kills: {} lost, {twice} twice", lost.len());
    assert!(lost.is_empty(), "{} lost: {:?} …", lost.len(), &lost[..lost.len().min(10)]);
    // Of one batch each, at most.
    assert!(twice <= killed * 5000, "{twice} twice");
}

#[test]
fn lines_are_posted_and_sampled() {
    let rig = Rig::start(&config(
        "from = [{ http = true }]\nparse = [\"json\", \"text\"]\nsample = [{ when = { level = \"debug\" }, keep = \"0%\" }]",
    ));
    let mut client = rig.connect("web");
    let body = "{\"level\":\"debug\",\"msg\":\"a\"}\n{\"level\":\"info\",\"msg\":\"b\"}\r\nc";
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())).unwrap();
    let crate::support::Read1::Answer(answer) = client.read("POST").unwrap() else { panic!("no answer") };
    assert_eq!(answer.status, 204);
    // Whoever is told so finds them.
    assert_eq!(messages(&rig), ["b", "c"]);
    assert_eq!(records(&rig)[0]["source"], "http 127.0.0.1");
    assert_eq!(rig.metric("attache_logs_missing_total{service=\"l\",reason=\"sampled\"}"), 1.0);
    let services = rig.admin_json("/services");
    assert!(services.as_array().unwrap().iter().any(|one| one["kind"] == "logs" && one["sources"][0] == "http"), "{services}");
}

#[test]
fn fields_are_renamed_and_hidden_wherever_they_are() {
    let rig = Rig::start(&config(
        "from = [{ http = true }]\nparse = \"json\"\nrename = { text = \"msg\", user = \"login\", when = \"ts\" }\ndrop = [\"/http/headers/cookie\", \"tmp\"]\nredact = [{ field = \"/user/password\" }, { field = \"token\", with = \"-\" }]",
    ));
    let body = r#"{"when":"2026-01-02T03:04:05Z","text":"a","tmp":1,"token":"t","user":{"name":"n","password":"p"},"http":{"headers":{"cookie":"c","host":"h"}}}"#;
    let mut client = rig.connect("web");
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())).unwrap();
    let crate::support::Read1::Answer(answer) = client.read("POST").unwrap() else { panic!("no answer") };
    assert_eq!(answer.status, 204);
    let wanted = r#"{"ts":"2026-01-02T03:04:05Z","msg":"a","source":"http 127.0.0.1","token":"-","login":{"name":"n","password":"[redacted]"},"http":{"headers":{"host":"h"}}}"#;
    assert_eq!(ask(&rig, "/").text().trim_end(), wanted);
}

#[test]
fn who_follows_is_told_what_comes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.log");
    append(&path, "{\"level\":\"info\",\"msg\":\"one\"}\n");
    let text = config(&format!("from = [{{ file = \"{}\" }}]\nparse = \"json\"", path.display()));
    let rig = Rig::start(&text);
    tells(&rig, &["one"]);
    let follow = |target: &str| {
        let mut stream = std::net::TcpStream::connect(rig.address("web")).unwrap();
        stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        stream
    };
    let until = |stream: &mut std::net::TcpStream, said: &mut String, wanted: &str| {
        let mut room = [0; 1024];
        while !said.contains(wanted) {
            let count = std::io::Read::read(stream, &mut room).unwrap();
            assert!(count > 0, "it ended: {said}");
            said.push_str(&String::from_utf8_lossy(&room[..count]));
        }
    };
    let (mut all, mut errors) = (follow("/?follow=1"), follow("/?follow=1&level=error"));
    let (mut said, mut few) = (String::new(), String::new());
    until(&mut all, &mut said, "one");
    until(&mut errors, &mut few, "\r\n\r\n");
    append(&path, "{\"level\":\"info\",\"msg\":\"two\"}\n{\"level\":\"error\",\"msg\":\"three\"}\n");
    until(&mut all, &mut said, "three");
    until(&mut errors, &mut few, "three");
    assert!(said.contains("two") && !few.contains("one") && !few.contains("two"), "{said} {few}");
    assert!(said.contains("application/x-ndjson") && said.contains("Transfer-Encoding: chunked"), "{said}");
    // Over HTTP/1.0 and to who asks for no body, as well.
    assert_eq!(rig.connect("web").ask("HEAD", "/?follow=1").unwrap().status, 200);
    // A log that is written otherwise ends it, as a whole.
    rig.reloaded(&text.replace("parse = \"json\"", "parse = [\"json\", \"text\"]"));
    until(&mut all, &mut said, "\r\n0\r\n\r\n");
}

#[test]
fn syslog_is_heard_in_every_way() {
    let directory = tempfile::tempdir().unwrap();
    let (address, socket, stream) = (crate::support::free_address(), directory.path().join("log"), directory.path().join("stream"));
    let out = directory.path().join("out.json");
    let text = config(&format!(
        "from = [{{ syslog = [\"{address}\", \"unix:{}\", \"unix-stream:{}\"] }}]\nparse = \"syslog\"\nto = [{{ file = \"{}\" }}]",
        socket.display(),
        stream.display(),
        out.display()
    ));
    let mut rig = Rig::start(&text);
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"<11>Jan  2 03:04:05 box app[1]: by udp\n", address).unwrap();
    tells(&rig, &["by udp"]);
    assert_eq!((&records(&rig)[0]["level"], &records(&rig)[0]["source"]), (&"error".into(), &"syslog 127.0.0.1".into()));
    let local = std::os::unix::net::UnixDatagram::unbound().unwrap();
    local.send_to(b"<14>1 - - app - - - by datagram", &socket).unwrap();
    tells(&rig, &["by udp", "by datagram"]);
    let mut tcp = std::net::TcpStream::connect(address).unwrap();
    // Both ways of telling where one ends, cut where it hurts.
    for piece in ["<14>1 - - - - - - one\n2", "1 <14>1 - - - - - - two\n<14>1 - - - - - - thr", "ee\n2026-01-02T03:04:05Z box app: four\n"]
    {
        tcp.write_all(piece.as_bytes()).unwrap();
        tcp.flush().unwrap();
    }
    let mut unix = std::os::unix::net::UnixStream::connect(&stream).unwrap();
    tells(&rig, &["by udp", "by datagram", "one", "two", "three", "four"]);
    unix.write_all(b"<14>1 - - - - - - by stream\n").unwrap();
    tells(&rig, &["by udp", "by datagram", "one", "two", "three", "four", "by stream"]);
    // Sockets stay over a reload, and what waits in them is heard.
    rig.reloaded(&text.replace("parse = \"syslog\"", "parse = [\"syslog\", \"text\"]"));
    udp.send_to(b"<14>1 - - - - - - after", address).unwrap();
    eventually("it is heard again", || messages(&rig).contains(&"after".to_owned()));
    // What was brought is out before the end.
    udp.send_to(b"<14>1 - - - - - - last", address).unwrap();
    eventually("it is heard", || messages(&rig).contains(&"last".to_owned()));
    rig.signal("TERM");
    rig.ended();
    let written = std::fs::read_to_string(&out).unwrap();
    assert_eq!(written.lines().count(), 9, "{written}");
    assert!(!socket.exists() && !stream.exists());
}

/// Connections that say nothing kept everybody else out.
#[test]
fn whoever_is_silent_for_longest_makes_room() {
    let address = crate::support::free_address();
    let rig = Rig::start(&config(&format!("from = [{{ syslog = \"tcp:{address}\" }}]\nparse = \"syslog\"")));
    let connect = || std::net::TcpStream::connect(address).unwrap();
    let mut first = connect();
    let silent: Vec<_> = (0..260).map(|_| connect()).collect();
    connect().write_all(b"<14>1 - - - - - - honest\n").unwrap();
    tells(&rig, &["honest"]);
    first.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    assert_eq!(std::io::Read::read(&mut first, &mut [0]).unwrap(), 0, "it was the first to be silent");
    assert!(rig.metric("attache_logs_errors_total{service=\"l\"}") >= 1.0);
    drop(silent);
}

/// Whoever is told that the log has changed is the log.
#[test]
fn streams_go_on_over_a_reload_in_the_middle_of_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let (address, other, path) = (crate::support::free_address(), crate::support::free_address(), directory.path().join("stream"));
    let text = |ears: &str, keep: u32| {
        config(&format!(
            "from = [{{ syslog = [{ears}\"unix-stream:{}\"] }}, {{ stdin = true }}]\nparse = [\"syslog\", \"text\"]\nkeep = {keep}",
            path.display()
        ))
    };
    let (both, one) = (format!("\"tcp:{address}\", \"tcp:{other}\", "), format!("\"tcp:{address}\", "));
    let mut command = crate::support::binary();
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdin(reader);
    let rig = Rig::start_with(command, tempfile::tempdir().unwrap(), &text(&both, 100));
    let mut tcp = std::net::TcpStream::connect(address).unwrap();
    let mut gone = std::net::TcpStream::connect(other).unwrap();
    let mut unix = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut stdin = writer;
    for (stream, begin) in [
        (&mut tcp as &mut dyn std::io::Write, "<14>1 - - - - - - a whole one\n26 <14>1 - - - - - - half"),
        (&mut gone, "x\n"),
        (&mut unix, "<11>begun "),
        (&mut stdin, "by std"),
    ] {
        stream.write_all(begin.as_bytes()).unwrap();
    }
    eventually("what is whole is told", || messages(&rig).len() == 2);
    for keep in [101, 102] {
        rig.reloaded(&text(&one, keep));
        eventually("the log has changed", || rig.log().matches("reloaded").count() >= keep as usize - 100);
        tcp.write_all(b"w").unwrap();
    }
    // Nobody hears by this any more.
    gone.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    assert_eq!(std::io::Read::read(&mut gone, &mut [0]).unwrap(), 0);
    for (stream, end) in [(&mut tcp as &mut dyn std::io::Write, "ay"), (&mut unix, "before\n"), (&mut stdin, "in\n")] {
        stream.write_all(end.as_bytes()).unwrap_or_else(|error| panic!("{end}: {error}"));
    }
    eventually("each is whole", || messages(&rig).len() == 5);
    let told = messages(&rig);
    for wanted in ["a whole one", "halfwway", "begun before", "by stdin"] {
        assert!(told.iter().any(|told| told == wanted), "{wanted}: {told:?}");
    }
}

#[test]
fn standard_input_is_read_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out.json");
    let mut command = crate::support::binary();
    command.stdin(std::process::Stdio::piped());
    let text = config(&format!("from = [{{ stdin = true }}]\nto = [{{ file = \"{}\" }}]", out.display()));
    let file = directory.path().join("attache.toml");
    std::fs::write(&file, text).unwrap();
    let mut child =
        command.args(["run", "-c"]).arg(&file).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo\nthree").unwrap();
    let lines = || std::fs::read_to_string(&out).unwrap_or_default();
    eventually("all three are out, also the one without an end", || lines().lines().count() == 3);
    assert_eq!(read(&lines())[2]["source"], "stdin");
    let killed = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success() && child.wait().unwrap().success());
}

#[test]
fn slow_commands_are_told_once() {
    let Some(server) = DataServer::redis(&["--slowlog-log-slower-than", "0", "--slowlog-max-len", "64"]) else { return };
    let mut text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/redis-slowlog.toml")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    for (written, here) in [
        ("0.0.0.0:8080", "127.0.0.1:0"),
        ("redis://:${REDIS_PASSWORD:-}@127.0.0.1:6379", server.address.to_string().as_str()),
        ("/var/lib/attache/redis-slowlog", directory.path().join("slow").to_str().unwrap()),
    ] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let told = |rig: &Rig| -> Vec<Value> { read(&rig.connect("slow").ask("GET", "/").unwrap().text()) };
    let say = |words: &str| {
        let mut stream = std::net::TcpStream::connect(server.address).unwrap();
        stream.write_all(format!("{words}\r\n").as_bytes()).unwrap();
        let mut room = [0; 64];
        std::io::Read::read(&mut stream, &mut room).unwrap();
    };
    let mut rig = Rig::start(&text);
    say("SET mark one");
    let marked = |rig: &Rig, mark: &str| told(rig).iter().filter(|record| record["msg"] == format!("SET mark {mark}")).count();
    eventually("it is told", || marked(&rig, "one") == 1);
    let record = told(&rig).into_iter().find(|record| record["msg"] == "SET mark one").unwrap();
    assert_eq!((&record["level"], &record["command"]), (&"warn".into(), &"set".into()));
    assert!(record["duration_seconds"].is_number() && record["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{record}");
    // A kill repeats nothing that sinks had, and finds what came meanwhile.
    rig.signal("KILL");
    rig.ended();
    say("SET mark two");
    let rig = Rig::start(&text);
    eventually("the second is told", || marked(&rig, "two") == 1);
    assert_eq!(marked(&rig, "one"), 0);
    // What is pushed out between two looks is counted.
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    let many = "PING\r\n".repeat(1000);
    stream.write_all(many.as_bytes()).unwrap();
    eventually("the rest is counted", || rig.metrics("attache_logs_missing_total{service=\"redis-slowlog\",reason=\"lost\"}") > 800.0);
}

#[test]
fn files_are_named_and_begun_as_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.log");
    append(&path, "old\n");
    let rig = Rig::start(&config(&format!("from = [{{ file = \"{}\", start = \"end\", name = \"app\" }}]\nkeep = 2", path.display())));
    eventually("it is followed", || rig.metric("attache_logs_files{service=\"l\"}") == 1.0);
    append(&path, "1\n2\n3\n");
    tells(&rig, &["2", "3"]);
    assert_eq!(records(&rig)[0]["source"], "app");
    assert_eq!(rig.metric("attache_logs_records_total{service=\"l\"}"), 3.0);
}

#[test]
fn what_is_wrong_is_said() {
    let check_wrong = |logs: &str, wanted: &str| {
        let said = refused(&config(logs));
        assert!(said.contains(wanted), "{wanted}: {said}");
    };
    check_wrong("from = []", "a log has 1 to 64 sources, this has 0");
    check_wrong("from = [{ file = \"/a[\" }]", "this is no pattern");
    check_wrong("from = [{ file = \"/a\", redis_slowlog = \"a\" }]", "a source is one thing");
    check_wrong("from = [{ redis_slowlog = \"127.0.0.1\", start = \"end\" }]", "`start` is for `file`");
    check_wrong("from = [{ file = \"/a\", interval = \"1s\" }]", "`interval` is for `redis_slowlog`");
    check_wrong("from = [{ syslog = \"127.0.0.1\" }]", "127.0.0.1");
    check_wrong(
        "from = [{ file = \"/a/*.log\" }]\nto = [{ file = \"/a/out.log\" }]",
        "this finds `/a/out.log`, which this log writes itself",
    );
    check_wrong(
        "from = [{ http = true }]\ncheckpoint = \"/a/c\"\n[service.m.logs]\nfrom = [{ http = true }]\ncheckpoint = \"/a/c\"",
        "has the same checkpoint",
    );
    check_wrong(
        "from = [{ http = true }]\ncount = [{ name = \"a\" }]\n[service.m.logs]\nfrom = [{ http = true }]\ncount = [{ name = \"a\" }]",
        "counts something by the name `a`",
    );
    check_wrong("from = [{ http = true }]\ndrop = [\"ts\"]", "every record has `ts`");
    check_wrong("from = [{ http = true }]\nredact = [{ field = \"/source\" }]", "every record has `source`");
    check_wrong("from = [{ http = true }]\nrename = { msg = \"message\" }", "`msg` has this name in every record");
    check_wrong("from = [{ http = true }]\nrename = { a = \"\" }", "this name is empty");
    check_wrong("from = [{ stdin = false }]", "`stdin = false` is no source");
    check_wrong("from = [{ file = \"/a\" }, { file = \"/a\" }]", "this is read twice");
    check_wrong("from = [{ http = true }]\nto = [\"stderr\"]", "`stderr` is no sink");
    check_wrong("from = [{ http = true }]\nto = [{ file = \"/a\", gzip = true }]", "`gzip` is for `http` and `otlp`");
    check_wrong("from = [{ http = true }]\nto = [{ http = \"x\" }]", "this is not a URL to post to");
    check_wrong("from = [{ http = true }]\nparse = \"jsn\"", "did you mean \"json\"?");
    check_wrong("from = [{ http = true }]\nline = \"1B\"", "`1B` is out of range");
    check_wrong("from = [{ http = true }]\nredact = [{ field = \"a\", regex = \"b\" }]", "one thing is redacted at a time");
    check_wrong("from = [{ http = true }]\nmultiline = { start = \"(\" }", "this is no regex");
    check_wrong("from = [{ http = true }]\ncount = [{ name = \"attache_x\" }]", "could be taken for one of attache's own metrics");
    check_wrong("from = [{ http = true }]\ncount = [{ name = \"a\", type = \"histogram\" }]", "a histogram needs a value");
    check_wrong("from = [{ http = true }]\ncount = [{ name = \"a\" }, { name = \"a\" }]", "two counts are called `a`");
}
