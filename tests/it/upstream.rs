//! Who gets the next request, and by which kind of socket.
//!
//! What happens when an endpoint misbehaves is in `engine.rs`.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};

use crate::support::{Client, Next, Origin, Read1, Rig, read_head};

/// Origins that answer with their number.
fn numbered(count: usize) -> Vec<Origin> {
    (0..count)
        .map(|number| {
            Origin::run(move |stream, _, _| {
                let body = number.to_string();
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
                Next::Keep
            })
        })
        .collect()
}

/// A proxy with one worker, whose turns are exact.
fn balanced(origins: &[Origin], weights: &[u32]) -> Rig {
    let endpoints: Vec<String> =
        origins.iter().zip(weights).map(|(origin, weight)| format!("{{ address = \"{}\", weight = {weight} }}", origin.address)).collect();
    Rig::start(&format!(
        "[process]\nworkers = 1\n[service.app]\nendpoints = [{}]\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n",
        endpoints.join(", ")
    ))
}

fn turns(rig: &Rig, count: usize) -> String {
    let mut client = rig.connect("web");
    (0..count).map(|_| client.request("GET", "/").unwrap().text()).collect()
}

#[test]
fn endpoints_take_turns() {
    let origins = numbered(3);
    let rig = balanced(&origins, &[1, 1, 1]);
    assert_eq!(turns(&rig, 9), "012012012");
    // Turns belong to the pool and not to a connection.
    let fresh: String = (0..6).map(|_| rig.connect("web").ask("GET", "/").unwrap().text()).collect();
    assert_eq!(fresh, "012012");
    assert_eq!(origins.iter().map(|origin| origin.seen().len()).collect::<Vec<_>>(), [5, 5, 5]);
}

#[test]
fn weights_are_shares_and_spread() {
    let origins = numbered(3);
    let rig = balanced(&origins, &[5, 1, 1]);
    assert_eq!(turns(&rig, 14), "00102000010200");
    let rig = balanced(&origins, &[2, 0, 4]);
    let seen = turns(&rig, 30);
    assert_eq!((seen.matches('0').count(), seen.matches('1').count(), seen.matches('2').count()), (10, 0, 20));
}

#[test]
fn nobody_to_ask_is_503() {
    let origins = numbered(1);
    let rig = balanced(&origins, &[0]);
    let answer = rig.connect("web").ask("GET", "/").unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
}

#[test]
fn workers_share_fairly() {
    let origins = numbered(4);
    let endpoints: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address)).collect();
    let rig = Rig::start(&format!(
        "[service.app]\nendpoints = [{}]\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n",
        endpoints.join(", ")
    ));
    for _ in 0..100 {
        rig.connect("web").ask("GET", "/").unwrap();
    }
    // Each worker's own turns are exact, so two workers differ by one request each at most.
    for origin in &origins {
        assert!((23..=27).contains(&origin.seen().len()), "{}", origin.seen().len());
    }
}

/// An origin on a unix socket that answers with the `Host` it saw.
fn on_unix_socket(path: &std::path::Path) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(path).unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                let mut stream = stream;
                let mut buffer = Vec::new();
                while let Some(head) = read_head(&mut stream, &mut buffer) {
                    let length: usize =
                        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |length| length.parse().unwrap());
                    let mut body = std::mem::take(&mut buffer);
                    while body.len() < length {
                        let mut piece = [0; 4096];
                        let count = stream.read(&mut piece).unwrap();
                        body.extend_from_slice(&piece[..count]);
                    }
                    seen.lock().unwrap().push(head);
                    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
                    stream.write_all(&body).unwrap();
                }
            });
        }
    });
    heads
}

#[test]
fn an_endpoint_may_be_a_unix_socket() {
    let directory = tempfile::TempDir::new().unwrap();
    let heads = on_unix_socket(&directory.path().join("app.sock"));
    let rig = Rig::start_in(directory, "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"unix:{dir}/app.sock\"\n");
    let mut client = rig.connect("web");
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        assert!(matches!(client.read("POST").unwrap(), Read1::Answer(answer) if answer.text() == "hello"));
    }
    client.send("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(matches!(client.read("GET").unwrap(), Read1::Answer(answer) if answer.status == 200));
    let heads = heads.lock().unwrap();
    assert!(heads[0].contains("Host: a.example\r\n") && heads[3].contains("Host: localhost\r\n"), "{heads:?}");
}

#[test]
fn a_unix_socket_that_is_not_there_is_502() {
    let rig = Rig::start("[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"unix:{dir}/none.sock\"\n");
    assert_eq!(rig.connect("web").ask("GET", "/").unwrap().status, 502);
}

#[test]
fn a_listener_may_be_a_unix_socket() {
    let origin = Origin::ok("hello");
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"unix:{{dir}}/web.sock\"\nmode = \"0660\"\ntrust = [\"0.0.0.0/0\"]\nservice = \"{}\"\n",
        origin.address
    ));
    let path = rig.directory.path().join("web.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let mut client = Client::unix(&path).unwrap();
    for _ in 0..3 {
        assert_eq!(client.request("GET", "/").unwrap().text(), "hello");
    }
    // It has no address, so no network holds it.
    assert_eq!(origin.seen()[0].headers("x-forwarded-for"), ["unknown"]);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n\r\n").unwrap();
    assert!(matches!(client.read("GET").unwrap(), Read1::Answer(answer) if answer.status == 200));
    assert!(client.is_closed());
    assert_eq!(origin.seen().last().unwrap().headers("x-forwarded-for"), ["unknown"]);
}
