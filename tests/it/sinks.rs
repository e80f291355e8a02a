//! Where records go: files and disks that are full, receivers that refuse, are slow or gone, real rsyslog, TLS.
//!
//! Where they come from is tested in `logs`.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::logs::{append, config, messages, read, records, tells};
use crate::support::{Authority, DataServer, Next, Origin, PATIENCE, Rig, TlsOrigin, binary, eventually, free_address, has, refused};

#[test]
fn sinks_that_refuse_lose_nothing() {
    static BODIES: Mutex<Vec<(String, Vec<u8>)>> = Mutex::new(Vec::new());
    let asked = AtomicUsize::new(0);
    let origin = Origin::run(move |stream, request, _| {
        let answer: &[u8] = match asked.fetch_add(1, Ordering::SeqCst) {
            0 => b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
            1 => b"HTTP/1.1 429 Slow\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
            2 => return Next::Close,
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        if answer.starts_with(b"HTTP/1.1 200") {
            BODIES.lock().unwrap().push((request.header("content-type").unwrap_or_default().to_owned(), request.body.clone()));
        }
        stream.write_all(answer).unwrap();
        Next::Keep
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.log");
    append(&path, "level=error msg=one n=5\n");
    let rig = Rig::start(&config(&format!(
        "from = [{{ file = \"{}\" }}]\nparse = \"logfmt\"\nto = [{{ http = \"http://{1}/in\", gzip = false }}, {{ otlp = \"http://{1}/v1/logs\", gzip = false }}]",
        path.display(),
        origin.address
    )));
    tells(&rig, &["one"]);
    let bodies = BODIES.lock().unwrap().clone();
    let of = |kind: &str| {
        let found: Vec<&(String, Vec<u8>)> = bodies.iter().filter(|(other, _)| other == kind).collect();
        assert_eq!(found.len(), 1, "{bodies:?}");
        String::from_utf8(found[0].1.clone()).unwrap()
    };
    assert_eq!(read(&of("application/x-ndjson"))[0]["msg"], "one");
    let otlp: Value = serde_json::from_str(&of("application/json")).unwrap();
    let record = &otlp["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    assert_eq!((&record["severityNumber"], &record["body"]["stringValue"]), (&17.into(), &"one".into()));
    assert!(record["attributes"].as_array().unwrap().iter().any(|one| one["key"] == "n" && one["value"]["intValue"] == "5"));
    assert!(rig.metric("attache_logs_errors_total{service=\"l\"}") >= 3.0);
}

#[test]
fn a_full_disk_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (path, out) = (directory.path().join("app.log"), directory.path().join("out.json"));
    append(&path, "1\n2\n");
    let to = |sink: &Path| {
        config(&format!(
            "from = [{{ file = \"{}\" }}]\nto = [{{ file = \"{}\" }}]\ncheckpoint = \"{}\"",
            path.display(),
            sink.display(),
            directory.path().join("checkpoint").display()
        ))
    };
    let rig = Rig::start(&to(Path::new("/dev/full")));
    eventually("it is said", || rig.metric("attache_logs_errors_total{service=\"l\"}") >= 2.0 && rig.log().contains("No space left"));
    assert_eq!(rig.metric("attache_logs_records_total{service=\"l\"}"), 0.0);
    append(&path, "3\n");
    // Where there is room, all of it goes there.
    rig.reloaded(&to(&out));
    eventually("all is there", || std::fs::read_to_string(&out).unwrap_or_default().lines().count() == 3);
}

#[test]
fn who_may_drop_drops_and_counts() {
    let origin = Origin::answering("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.log");
    append(&path, "1\n2\n");
    let rig = Rig::start(&config(&format!(
        "from = [{{ file = \"{}\" }}]\nto = [{{ http = \"http://{}/\", on_refused = \"drop\" }}]",
        path.display(),
        origin.address
    )));
    eventually("they are counted", || rig.metric("attache_logs_missing_total{service=\"l\",reason=\"refused\"}") == 2.0);
}

#[test]
fn posts_are_compressed_and_say_who_sends_them() {
    let origin = Origin::ok("");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.log");
    append(&path, "one\n");
    let text = config(&format!(
        "from = [{{ file = \"{}\" }}]\nto = [{{ http = \"http://{}/in?a=b\", headers = {{ authorization = \"Bearer x\" }} }}]",
        path.display(),
        origin.address
    ));
    let rig = Rig::start(&text);
    tells(&rig, &["one"]);
    let seen = origin.seen();
    let request = &seen[0];
    assert!(request.line().starts_with("POST /in?a=b "), "{}", request.head);
    assert_eq!((request.header("authorization"), request.header("content-encoding")), (Some("Bearer x"), Some("gzip")));
    let mut body = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(request.body.as_slice()), &mut body).unwrap();
    assert_eq!(read(&body)[0]["msg"], "one");
}

/// A line that somebody had not ended was cut off with what a crash leaves of ours.
#[test]
fn a_file_that_is_somebody_elses_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (path, out) = (directory.path().join("app.log"), directory.path().join("out.json"));
    append(&path, "one\n");
    std::fs::write(&out, "theirs").unwrap();
    let text = config(&format!("from = [{{ file = \"{}\" }}]\nto = [{{ file = \"{}\" }}]", path.display(), out.display()));
    let mut rig = Rig::start(&text);
    tells(&rig, &["one"]);
    rig.signal("KILL");
    rig.ended();
    append(&out, "{\"ts\":\"2026-");
    let rig = Rig::start(&text);
    tells(&rig, &["one"]);
    let written = std::fs::read_to_string(&out).unwrap();
    assert!(written.starts_with("theirs\n{") && !written.contains("2026-{") && written.lines().count() == 3, "{written}");
}

#[test]
fn what_no_sink_has_taken_is_read_again_under_any_name() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    append(&at("app.log"), "one\n");
    let to = |sink: &Path| {
        config(&format!(
            "from = [{{ file = \"{}\" }}]\nto = [{{ file = \"{}\" }}]\ncheckpoint = \"{}\"",
            at("app.log*").display(),
            sink.display(),
            at("checkpoint").display()
        ))
    };
    // Nothing is taken, so that everything is on its way.
    let mut rig = Rig::start(&to(Path::new("/dev/full")));
    eventually("it was offered", || rig.metric("attache_logs_errors_total{service=\"l\"}") >= 1.0);
    std::fs::rename(at("app.log"), at("app.log.1")).unwrap();
    rig.signal("TERM");
    rig.ended();
    let rig = Rig::start(&to(&at("out.json")));
    tells(&rig, &["one"]);
}

/// A log of a file to a sink, written down.
fn to(directory: &Path, sink: &str) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    config(&format!("from = [{{ file = \"{}\" }}]\nto = [{sink}]\ncheckpoint = \"{}\"", at("app.log"), at("checkpoint")))
}

/// Numbered lines.
fn lines(from: usize, until: usize) -> String {
    (from..until).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "line {number:06} {}", "x".repeat(80));
        text
    })
}

/// Which of the first `count` lines are there how often.
#[track_caller]
fn each_once<'a>(count: usize, found: impl Iterator<Item = &'a str>) {
    let mut times = vec![0; count];
    for msg in found {
        let number: usize = msg.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{msg}"));
        times[number] += 1;
    }
    let wrong: Vec<(usize, i32)> = times.into_iter().enumerate().filter(|(_, times)| *times != 1).take(10).collect();
    assert!(wrong.is_empty(), "not once: {wrong:?} …");
}

/// A disk that takes a part of what it is given: that part is not written again when there is room.
#[test]
fn what_a_full_disk_took_is_not_written_twice() {
    let directory = TempDir::new().unwrap();
    let disk = directory.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = "mount -t tmpfs -o size=256k none \"$0\" && ";
    let unshare = |rest: &str| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &format!("{mount}{rest}")]).arg(&disk);
        command
    };
    if !unshare("true").output().is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: no disk may be mounted here");
    }
    let mut command = unshare("head -c 200000 /dev/zero > \"$0/filler\" && exec \"$@\"");
    command.arg(binary().get_program()).env_remove("ATTACHE_CONFIG").env_remove("ATTACHE_LOG").env_remove("ATTACHE_ADMIN");
    append(&directory.path().join("app.log"), &lines(0, 500));
    let text = to(directory.path(), &format!("{{ file = \"{}\" }}", disk.join("out.json").display()));
    let rig = Rig::start_with(command, directory, &text);
    // As the process sees it: the disk is nobody else's.
    let seen = |name: &str| Path::new(&format!("/proc/{}/root", rig.pid())).join(disk.strip_prefix("/").unwrap()).join(name);
    let out = || std::fs::read_to_string(seen("out.json")).unwrap_or_default();
    eventually("it is full", || rig.metric("attache_logs_errors_total{service=\"l\"}") >= 2.0 && rig.log().contains("No space left"));
    let part = out().len();
    assert!(part > 1000 && !out().ends_with('\n'), "it took a part: {part}");
    std::fs::remove_file(seen("filler")).unwrap();
    eventually("all is there", || out().lines().count() == 500);
    each_once(500, read(&out()).iter().map(|record| record["msg"].as_str().unwrap()));
}

/// A receiver that takes its time, and then does not answer at all: reading waits, and everything arrives.
#[test]
fn a_slow_receiver_loses_nothing() {
    static BODIES: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let asked = AtomicUsize::new(0);
    let origin = Origin::run(move |stream, request, _| {
        if asked.fetch_add(1, Ordering::SeqCst) == 1 {
            // Longer than anybody waits for.
            std::thread::sleep(Duration::from_secs(2));
            return Next::Close;
        }
        std::thread::sleep(Duration::from_millis(200));
        BODIES.lock().unwrap().push(request.body.clone());
        // Whoever asked may be gone.
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
        Next::Keep
    });
    let directory = TempDir::new().unwrap();
    append(&directory.path().join("app.log"), &lines(0, 20_000));
    let sink = format!("{{ http = \"http://{}/in\", gzip = false, timeout = \"1s\" }}", origin.address);
    let rig = Rig::start(&to(directory.path(), &sink));
    eventually("reading waits", || rig.metric("attache_logs_lag_bytes{service=\"l\"}") > 500_000.0);
    let text = || BODIES.lock().unwrap().iter().map(|body| String::from_utf8(body.clone()).unwrap()).collect::<String>();
    eventually("everything arrives", || text().lines().count() >= 20_000);
    each_once(20_000, read(&text()).iter().map(|record| record["msg"].as_str().unwrap()));
    assert!(rig.metric("attache_logs_errors_total{service=\"l\"}") >= 1.0, "one took too long");
    assert_eq!(rig.metrics("attache_logs_missing_total{service=\"l\""), 0.0);
}

/// Whether the answer ends or not, it was taken.
#[test]
fn an_answer_without_an_end_is_one() {
    let origin = Origin::run(|stream, _, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok");
        std::thread::sleep(Duration::from_secs(3));
        Next::Close
    });
    let directory = TempDir::new().unwrap();
    append(&directory.path().join("app.log"), "one\n");
    let rig = Rig::start(&to(directory.path(), &format!("{{ http = \"http://{}/\", timeout = \"1s\" }}", origin.address)));
    tells(&rig, &["one"]);
    assert_eq!(origin.seen().len(), 1);
}

/// A sink that takes nothing is mended by a reload: what was heard meanwhile goes to the new one.
#[test]
fn what_was_heard_goes_to_the_sink_that_is_mended() {
    let directory = TempDir::new().unwrap();
    let (address, out) = (free_address(), directory.path().join("out.json"));
    let text = |sink: &str| config(&format!("from = [{{ syslog = \"tcp:{address}\" }}]\nparse = \"syslog\"\nto = [{sink}]"));
    let rig = Rig::start(&text(&format!("{{ http = \"http://{}/\" }}", free_address())));
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    // More than are taken into one batch, and more than may wait.
    let sent: String = (0..20_000).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "<14>1 - - - - - - line {number:06} {}", "x".repeat(80));
        text
    });
    stream.write_all(sent.as_bytes()).unwrap();
    eventually("it is refused", || rig.metric("attache_logs_errors_total{service=\"l\"}") >= 1.0);
    rig.reloaded(&text(&format!("{{ file = \"{}\" }}", out.display())));
    let written = || std::fs::read_to_string(&out).unwrap_or_default();
    eventually("all of it is there", || written().lines().count() >= 20_000);
    each_once(20_000, read(&written()).iter().map(|record| record["msg"].as_str().unwrap()));
    assert_eq!(rig.metrics("attache_logs_missing_total{service=\"l\""), 0.0);
}

/// Ended by its own process id.
struct Rsyslog {
    child: Child,
    heard: PathBuf,
}

impl Rsyslog {
    /// Writes what it hears by UDP and TCP as JSON. `None` where there is none.
    fn start(directory: &Path, udp: SocketAddr, tcp: SocketAddr) -> Option<Self> {
        if !has("rsyslogd", "-v") {
            return None;
        }
        let at = |name: &str| directory.join(name).display().to_string();
        let property = |(name, outname): (&str, &str)| format!("property(name=\"{name}\" outname=\"{outname}\" format=\"jsonf\")");
        let fields = [
            ("syslogseverity-text", "severity"),
            ("syslogfacility-text", "facility"),
            ("hostname", "host"),
            ("app-name", "app"),
            ("procid", "pid"),
            ("inputname", "by"),
            ("msg", "msg"),
        ]
        .map(property)
        .join(" constant(value=\",\") ");
        let conf = format!(
            "global(workDirectory=\"{}\" maxMessageSize=\"64k\")\nmodule(load=\"imudp\")\nmodule(load=\"imtcp\")\n\
             input(type=\"imudp\" address=\"{}\" port=\"{}\")\ninput(type=\"imtcp\" address=\"{}\" port=\"{}\")\n\
             template(name=\"json\" type=\"list\") {{ constant(value=\"{{\") {fields} constant(value=\"}}\\n\") }}\n\
             action(type=\"omfile\" file=\"{}\" template=\"json\")\n",
            directory.display(),
            udp.ip(),
            udp.port(),
            tcp.ip(),
            tcp.port(),
            at("heard.json"),
        );
        std::fs::write(at("rsyslog.conf"), conf).unwrap();
        let mut command = Command::new("rsyslogd");
        command.args(["-n", "-f", &at("rsyslog.conf"), "-i", &at("rsyslog.pid")]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let rsyslog = Self { child, heard: directory.join("heard.json") };
        eventually("rsyslog hears", || std::net::TcpStream::connect(tcp).is_ok());
        Some(rsyslog)
    }

    fn heard(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.heard).unwrap_or_default();
        // It may be in the middle of a line.
        read(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn rsyslog_is_told_everything() {
    let directory = TempDir::new().unwrap();
    let (udp, tcp) = (free_address(), free_address());
    let Some(rsyslog) = Rsyslog::start(directory.path(), udp, tcp) else { return };
    append(
        &directory.path().join("app.log"),
        "{\"time\":\"2026-01-02T03:04:05Z\",\"level\":\"error\",\"msg\":\"it \\\"broke\\\" é\",\"app\":\"shop\",\"pid\":12,\"host\":\"box\"}\nplain\n",
    );
    let text = to(directory.path(), &format!("{{ syslog = \"tcp:{tcp}\" }}, {{ syslog = \"udp:{udp}\" }}"));
    let rig = Rig::start(&text.replace("to = ", "parse = [\"json\", \"text\"]\nto = "));
    eventually("it heard both by both", || rsyslog.heard().len() == 4);
    for by in ["imtcp", "imudp"] {
        let told: Vec<Value> = rsyslog.heard().into_iter().filter(|told| told["by"] == by).collect();
        let header = |told: &Value| ["severity", "facility", "host", "app", "pid"].map(|name| told[name].as_str().unwrap().to_owned());
        assert_eq!(header(&told[0]), ["err", "user", "box", "shop", "12"], "{by}");
        assert_eq!((&header(&told[1])[0], &header(&told[1])[3]), (&"notice".to_owned(), &"l".to_owned()), "{by}");
        let record: Value = serde_json::from_str(told[0]["msg"].as_str().unwrap().trim()).unwrap();
        assert_eq!(record, records(&rig)[0], "{by}");
    }
}

#[test]
fn rsyslog_is_told_when_it_is_back() {
    let directory = TempDir::new().unwrap();
    let (udp, tcp) = (free_address(), free_address());
    append(&directory.path().join("app.log"), &lines(0, 5_000));
    let rig = Rig::start(&to(directory.path(), &format!("{{ syslog = \"{tcp}\" }}")));
    eventually("it is missed", || rig.metric("attache_logs_errors_total{service=\"l\"}") >= 1.0);
    let Some(rsyslog) = Rsyslog::start(directory.path(), udp, tcp) else { return };
    eventually("it heard everything", || rsyslog.heard().len() >= 5_000);
    let told: Vec<Value> = rsyslog.heard().iter().map(|told| serde_json::from_str(told["msg"].as_str().unwrap().trim()).unwrap()).collect();
    each_once(5_000, told.iter().map(|record| record["msg"].as_str().unwrap()));
}

#[test]
fn datagrams_are_kept_until_somebody_hears() {
    let directory = TempDir::new().unwrap();
    let (path, udp) = (directory.path().join("dev-log"), free_address());
    append(&directory.path().join("app.log"), &lines(0, 3));
    let rig = Rig::start(&to(directory.path(), &format!("{{ syslog = \"unix:{}\" }}, {{ syslog = \"udp:{udp}\" }}", path.display())));
    eventually("nobody is there", || rig.metric("attache_logs_errors_total{service=\"l\"}") >= 2.0);
    let heard = |receive: &dyn Fn(&mut [u8]) -> usize| {
        let mut room = vec![0; 70_000];
        let length = receive(&mut room);
        let message = String::from_utf8(room[..length].to_vec()).unwrap();
        let (header, record) = message.split_once(" - - - ").unwrap();
        assert!(header.starts_with("<13>1 2") && header.ends_with(" l"), "{header}");
        serde_json::from_str::<Value>(record).map(|record| record["msg"].as_str().unwrap().to_owned()).ok()
    };
    let local = UnixDatagram::bind(&path).unwrap();
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    let told: Vec<String> = (0..3).filter_map(|_| heard(&|room| local.recv(room).unwrap())).collect();
    each_once(3, told.iter().map(String::as_str));
    // What nobody heard by UDP is said again: the first is what the refusal is about.
    let socket = UdpSocket::bind(udp).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let told: Vec<String> = (0..3).filter_map(|_| heard(&|room| socket.recv(room).unwrap())).collect();
    each_once(3, told.iter().map(String::as_str));
    // One that is too long is cut within a character of no more than it has to be, and counted.
    append(&directory.path().join("app.log"), &format!("{}\n", "é".repeat(50_000)));
    let mut room = vec![0; 70_000];
    let length = socket.recv(&mut room).unwrap();
    assert!((64_990..=65_000).contains(&length) && std::str::from_utf8(&room[..length]).is_ok(), "{length}");
    eventually("it is counted", || rig.metric("attache_logs_missing_total{service=\"l\",reason=\"cut\"}") >= 1.0);
}

/// Whoever closes before it has read everything is told again.
#[test]
fn a_stream_counts_when_it_was_read_to_its_end() {
    let directory = TempDir::new().unwrap();
    append(&directory.path().join("app.log"), &lines(0, 100));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::start(&to(directory.path(), &format!("{{ syslog = \"{}\" }}", listener.local_addr().unwrap())));
    let (mut first, _) = listener.accept().unwrap();
    let mut room = [0; 1000];
    first.read_exact(&mut room).unwrap();
    drop(first);
    let (mut second, _) = listener.accept().unwrap();
    let mut all = String::new();
    second.read_to_string(&mut all).unwrap();
    assert_eq!(rig.metric("attache_logs_records_total{service=\"l\"}"), 0.0, "it may still not have been understood");
    drop(second);
    eventually("it is believed", || rig.metric("attache_logs_records_total{service=\"l\"}") == 100.0);
    // Each has its length before it.
    let (mut rest, mut told) = (all.as_str(), Vec::new());
    while let Some((length, behind)) = rest.split_once(' ') {
        let (message, behind) = behind.split_at(length.parse().unwrap());
        let record: Value = serde_json::from_str(message.split_once(" - - - ").unwrap().1).unwrap();
        told.push(record["msg"].as_str().unwrap().to_owned());
        rest = behind;
    }
    assert_eq!(rest, "");
    each_once(100, told.iter().map(String::as_str));
}

/// Posts over TLS, and syslog through one attache that ends TLS to another log, which hears.
#[test]
fn receivers_inside_tls_have_to_be_who_they_are() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new("authority of the test");
    let pair = authority.sign("logs", &["localhost", "127.0.0.1"]);
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, &authority.cert).unwrap();
    let (cert, key) = pair.write(directory.path(), "logs");
    append(&directory.path().join("app.log"), "one\n");
    let origin = TlsOrigin::answering(TlsOrigin::config(&pair, None), "HTTP/1.1 204 No Content\r\n\r\n");
    let ear = free_address();
    let receiver = Rig::start(&format!(
        "[[listener]]\nname = \"tls\"\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\ntls = {{ cert = \"{}\", key = \"{}\" }}\nservice = \"ear\"\n\
         [service.ear]\nendpoints = [\"{ear}\"]\n{}",
        cert.display(),
        key.display(),
        config(&format!("from = [{{ syslog = \"tcp:{ear}\" }}]\nparse = \"syslog\""))
    ));
    let port = receiver.address("tls").port();
    let sinks = |tls: &str| {
        format!(
            "{{ http = \"https://localhost:{}/in\"{tls} }}, {{ otlp = \"https://localhost:{}/v1/logs\"{tls} }}, {{ syslog = \"tls:localhost:{port}\"{tls} }}",
            origin.address.port(),
            origin.address.port()
        )
    };
    let rig = Rig::start(&to(directory.path(), &sinks("")));
    eventually("nobody believes it", || rig.metric("attache_logs_errors_total{service=\"l\"}") >= 1.0 && rig.log().contains("no TLS"));
    assert!(origin.seen().iter().all(Vec::is_empty), "nothing was said");
    rig.reloaded(&to(directory.path(), &sinks(&format!(", tls = {{ ca = \"{}\" }}", ca.display()))));
    tells(&rig, &["one"]);
    let lines: Vec<String> = origin.seen().concat().iter().map(|request| request.line().to_owned()).collect();
    assert_eq!(lines, ["POST /in HTTP/1.1", "POST /v1/logs HTTP/1.1"]);
    assert_eq!(origin.shakes()[0].alpn.as_deref(), Some(&b"http/1.1"[..]));
    eventually("the other has it", || messages(&receiver).len() == 1);
    let record: Value = serde_json::from_str(&messages(&receiver)[0]).unwrap();
    assert_eq!((&record["msg"], &records(&receiver)[0]["app"]), (&"one".into(), &"l".into()));
    // The authority's file is watched: another one makes another log of it, which goes on.
    let reloads = || rig.metric("attache_config_reloads_total{outcome=\"ok\"}");
    let before = reloads();
    std::fs::write(&ca, Authority::new("another").cert).unwrap();
    eventually("it is noticed", || reloads() > before);
    // What is written before the log has changed is still taken.
    let mut written = 1;
    eventually("it counts", || {
        append(&directory.path().join("app.log"), "more\n");
        written += 1;
        rig.log().matches("no TLS").count() >= 2
    });
    std::fs::write(&ca, &authority.cert).unwrap();
    eventually("all of it is told", || messages(&rig).len() == written);
}

#[test]
fn slow_commands_are_read_inside_tls() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new("authority of the test");
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, &authority.cert).unwrap();
    let (cert, key) = authority.sign("redis", &["localhost", "127.0.0.1"]).write(directory.path(), "redis");
    let address = free_address();
    let (port, cert, key, ca) = (address.port().to_string(), cert.to_str().unwrap(), key.to_str().unwrap(), ca.to_str().unwrap());
    let tls = ["--tls-port", &port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "no"];
    let slow = ["--bind", "0.0.0.0", "--slowlog-log-slower-than", "0"];
    let Some(_redis) = DataServer::redis(&[&tls[..], &slow].concat()) else { return };
    let rig = Rig::start(&config(&format!(
        "from = [{{ redis_slowlog = \"rediss://{address}\", interval = \"100ms\", tls = {{ ca = \"{ca}\", server_name = \"localhost\" }} }}]"
    )));
    eventually("they are told", || records(&rig).iter().any(|record| record["command"] == "info"));
}

#[test]
fn what_is_wrong_with_sinks_is_said() {
    let check_wrong = |to: &str, wanted: &str| {
        let said = refused(&config(&format!("from = [{{ syslog = \"127.0.0.1:1514\" }}]\nto = [{to}]")));
        assert!(said.contains(wanted), "{wanted}: {said}");
    };
    check_wrong("{ syslog = \"127.0.0.1\" }", "`127.0.0.1` has no port");
    check_wrong("{ syslog = \"udp:unix:/dev/log\" }", "is no host with a port");
    check_wrong("{ syslog = \"unix:\" }", "`unix:` needs a path");
    check_wrong("{ syslog = \"a:1\", gzip = true }", "`gzip` is for `http` and `otlp`, this is `syslog`");
    check_wrong("{ file = \"/a\", tls = {} }", "`tls` is for `http`, `otlp` and `syslog`, this is `file`");
    check_wrong("{ syslog = \"a:1\", tls = {} }", "this sink is not spoken to with TLS");
    check_wrong("{ http = \"http://a/\", tls = {} }", "this sink is not spoken to with TLS");
    check_wrong("{ syslog = \"tls:a:1\", tls = { ca = \"/none\" } }", "/none");
    for told in ["udp:127.0.0.1:1514", "127.0.0.1:1514"] {
        check_wrong(&format!("{{ syslog = \"{told}\" }}"), "which this log tells itself");
    }
}
