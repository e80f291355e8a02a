//! One question to many leaves: what the client gets, whatever becomes of them.
//!
//! How answers are merged is tested beside the code.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Answer, Next, Origin, Read1, Request, Rig, eventually, free_address, refused};

/// What a leaf does with every question.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaf {
    Ok,
    NotFound,
    Gone410,
    Fails,
    /// Answers after ten seconds.
    Slow,
    ResetsMidBody,
    NotJson,
    TooLarge,
    Dead,
}

fn start(leaf: Leaf, name: &str) -> Option<Origin> {
    let name = name.to_owned();
    let say = move |status: &str, kind: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let bytes = match leaf {
        Leaf::Ok => say("200 OK", "application/json", &format!("[\"{name}\"]")),
        Leaf::NotFound => say("404 Not Found", "text/plain", "no"),
        Leaf::Gone410 => say("410 Gone", "text/plain", "no"),
        Leaf::Fails => say("500 Internal Server Error", "text/plain", "oops"),
        Leaf::Slow => say("200 OK", "application/json", "[\"slow\"]"),
        Leaf::ResetsMidBody => b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n[1,".to_vec(),
        Leaf::NotJson => say("200 OK", "text/html", "<html>"),
        Leaf::TooLarge => say("200 OK", "application/json", &format!("[\"{}\"]", "x".repeat(100_000))),
        Leaf::Dead => return None,
    };
    Some(Origin::run(move |stream, _, _| {
        if leaf == Leaf::Slow {
            std::thread::sleep(Duration::from_secs(10));
        }
        let is_sent = stream.write_all(&bytes).is_ok();
        if is_sent && leaf != Leaf::ResetsMidBody { Next::Keep } else { Next::Close }
    }))
}

struct Search {
    rig: Rig,
    origins: Vec<Option<Origin>>,
}

impl Search {
    fn over(leaves: &[Leaf], settings: &str) -> Self {
        let origins: Vec<Option<Origin>> =
            leaves.iter().enumerate().map(|(number, leaf)| start(*leaf, &format!("leaf-{number}"))).collect();
        let mut services = String::new();
        let mut over = Vec::new();
        for (number, origin) in origins.iter().enumerate() {
            let address = origin.as_ref().map_or_else(free_address, |origin| origin.address);
            let _ = write!(services, "[service.leaf-{number}]\nendpoints = [\"{address}\"]\n");
            over.push(format!("\"leaf-{number}\""));
        }
        let rig = Rig::start(&format!(
            "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"search\"\n\
             [service.search.scatter]\nover = [{}]\n{settings}\n{services}",
            over.join(", ")
        ));
        Self { rig, origins }
    }

    fn ask(&self) -> Answer {
        self.rig.connect("web").ask("GET", "/search?q=a").unwrap()
    }
}

/// Status, `x-attache-leaves`, `x-attache-missing` and body of the answer.
#[track_caller]
fn check(leaves: &[Leaf], settings: &str, expected: (u16, Option<&str>, Option<&str>, &str)) {
    let search = Search::over(leaves, settings);
    let answer = search.ask();
    let found = (answer.status, answer.header("x-attache-leaves"), answer.header("x-attache-missing"), answer.text());
    assert_eq!((found.0, found.1, found.2, found.3.as_str()), expected, "{leaves:?} {settings}");
    let is_partial = expected.0 == 200 && expected.1.is_some();
    assert_eq!(answer.header("cache-control"), is_partial.then_some("no-store"), "{}", answer.head);
}

const CONCAT: &str = "merge = \"concat\"\ndeadline = \"400ms\"\nleaf_body = \"64KiB\"";

#[test]
fn every_outcome_of_a_leaf_has_its_answer() {
    use Leaf::{Dead, Fails, Gone410, NotFound, NotJson, Ok, ResetsMidBody, Slow, TooLarge};
    let tolerant = format!("{CONCAT}\nrequire = 1");
    check(&[Ok, Ok], CONCAT, (200, None, None, "[\"leaf-0\",\"leaf-1\"]"));
    for bad in [NotFound, Fails, ResetsMidBody, NotJson, TooLarge, Dead] {
        let leaves = Some("total=2, ok=1, failed=1, timeout=0");
        // Nobody waits for the other one, which may or may not have answered by then.
        let search = Search::over(&[Ok, bad], CONCAT);
        let answer = search.ask();
        assert_eq!((answer.status, answer.header("x-attache-missing"), answer.text().as_str()), (502, Some("leaf-1"), "bad gateway\n"));
        check(&[bad, Ok], &tolerant, (200, leaves, Some("leaf-0"), "[\"leaf-1\"]"));
    }
    for bad in [NotFound, Fails, ResetsMidBody, NotJson, TooLarge, Dead] {
        // Nor until the deadline, after which it would be 504.
        let answer = Search::over(&[Ok, Slow, bad], &CONCAT.replace("400ms", "9s")).ask();
        assert_eq!((answer.status, answer.header("x-attache-missing")), (502, Some("leaf-2")), "{bad:?}");
    }
    let late = Some("total=2, ok=1, failed=0, timeout=1");
    check(&[Ok, Slow], CONCAT, (504, late, Some("leaf-1"), "gateway timeout\n"));
    check(&[Ok, Slow], &tolerant, (200, late, Some("leaf-1"), "[\"leaf-0\"]"));
    check(&[NotFound, NotFound], CONCAT, (404, Some("total=2, ok=0, failed=2, timeout=0"), Some("leaf-0, leaf-1"), "not found\n"));
    check(&[NotFound, Gone410], &tolerant, (502, Some("total=2, ok=0, failed=2, timeout=0"), Some("leaf-0, leaf-1"), "bad gateway\n"));
    check(&[Fails, Fails], &tolerant, (502, Some("total=2, ok=0, failed=2, timeout=0"), Some("leaf-0, leaf-1"), "bad gateway\n"));
    check(&[Slow, Fails], &tolerant, (504, Some("total=2, ok=0, failed=1, timeout=1"), Some("leaf-0, leaf-1"), "gateway timeout\n"));
}

#[test]
fn long_answers_of_unknown_length_are_put_together_as_they_came() {
    let item = |number: usize| format!("\"{number}{}\"", "x".repeat(97));
    let leaf = |of: usize| {
        let body = format!("[{}]", (0..3_000).map(|number| item(of * 10_000 + number)).collect::<Vec<_>>().join(","));
        Origin::run(move |stream, _, _| {
            let mut answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in body.as_bytes().chunks(7_001) {
                let _ = write!(answer, "{:x}\r\n", chunk.len());
                answer.extend_from_slice(chunk);
                answer.extend_from_slice(b"\r\n");
            }
            answer.extend_from_slice(b"0\r\n\r\n");
            if stream.write_all(&answer).is_ok() { Next::Keep } else { Next::Close }
        })
    };
    let (one, other) = (leaf(1), leaf(2));
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"search\"\n\
         [service.search.scatter]\nover = [\"{}\", \"{}\"]\nmerge = \"concat\"\n",
        one.address, other.address
    ));
    for _ in 0..2 {
        let answer = rig.connect("web").ask("GET", "/").unwrap();
        let items: Vec<String> = (10_000..13_000).chain(20_000..23_000).map(item).collect();
        assert!(answer.text() == format!("[{}]", items.join(",")), "{}", answer.head);
    }
}

#[test]
fn what_is_required_decides() {
    use Leaf::{Fails, Ok};
    let with = |require: &str| format!("{CONCAT}\nrequire = {require}");
    let leaves = [Ok, Fails, Ok];
    let partial = (200, Some("total=3, ok=2, failed=1, timeout=0"), Some("leaf-1"), "[\"leaf-0\",\"leaf-2\"]");
    for enough in ["2", "\"60%\"", "{ leaves = [\"leaf-0\"] }", "{ leaves = [\"leaf-2\"], at_least = 2 }"] {
        check(&leaves, &with(enough), partial);
    }
    for much in ["3", "\"67%\"", "{ leaves = [\"leaf-1\"] }", "{ at_least = 3 }"] {
        let search = Search::over(&leaves, &with(much));
        assert_eq!(search.ask().status, 502, "{much}");
    }
    let filled = format!("{}\nfill = '[\"nobody\"]'", with("1"));
    check(&leaves, &filled, (200, partial.1, partial.2, "[\"leaf-0\",\"nobody\",\"leaf-2\"]"));
}

#[test]
fn the_soft_deadline_waits_for_no_more_than_is_required() {
    use Leaf::{Ok, Slow};
    let settings = "merge = \"concat\"\ndeadline = \"8s\"\nsoft_deadline = \"200ms\"\nrequire = 2";
    check(&[Ok, Slow, Ok], settings, (200, Some("total=3, ok=2, failed=0, timeout=1"), Some("leaf-1"), "[\"leaf-0\",\"leaf-2\"]"));
}

#[test]
fn leaves_are_asked_at_the_same_time() {
    let slow: Vec<Origin> = (0..20)
        .map(|number| {
            Origin::run(move |stream, _, _| {
                std::thread::sleep(Duration::from_millis(300));
                let body = format!("[{number}]");
                let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
                if stream.write_all(format!("{head}{body}").as_bytes()).is_ok() { Next::Keep } else { Next::Close }
            })
        })
        .collect();
    let addresses: Vec<String> = slow.iter().map(|origin| format!("\"{}\"", origin.address)).collect();
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"search\"\n\
         [service.search.scatter]\nover = {{ pool = \"leaves\" }}\nmerge = \"concat\"\n[service.leaves]\nendpoints = [{}]\n",
        addresses.join(", ")
    ));
    let began = Instant::now();
    let answer = rig.connect("web").ask("GET", "/").unwrap();
    // One after the other, they would take six seconds.
    assert!(began.elapsed() < Duration::from_secs(4));
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!((answer.status, answer.text()), (200, format!("[{}]", expected.join(","))));
    assert!(slow.iter().all(|origin| origin.seen().len() == 1), "each endpoint is asked once");
}

#[test]
fn whoever_asks_for_the_head_alone_gets_that_of_the_answer() {
    let search = Search::over(&[Leaf::Ok, Leaf::Ok], CONCAT);
    let mut client = search.rig.connect("web");
    let head = client.request("HEAD", "/").unwrap();
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("19"), 0));
    assert_eq!(client.request("GET", "/").unwrap().text().len(), 19);
}

#[test]
fn the_first_good_answer_wins_a_race() {
    use Leaf::{Dead, Fails, Ok, Slow};
    let race = "mode = \"race\"\ndeadline = \"5s\"";
    check(&[Slow, Fails, Ok, Dead], race, (200, None, None, "[\"leaf-2\"]"));
    check(&[Fails, Dead], race, (502, Some("total=2, ok=0, failed=2, timeout=0"), Some("leaf-0, leaf-1"), "bad gateway\n"));
}

#[test]
fn what_most_say_is_the_answer_of_a_quorum() {
    let say = |body: &'static str| {
        Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    };
    for (bodies, status, expected) in
        [([r#"{"v":1}"#, r#"{"v":2}"#, r#"{ "v": 1 }"#], 200, r#"{"v":1}"#), (["1", "2", "3"], 502, "bad gateway\n")]
    {
        let origins = bodies.map(say);
        let over: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address)).collect();
        let rig = Rig::start(&format!(
            "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n\
             [service.s.scatter]\nover = [{}]\nmode = \"quorum\"\n",
            over.join(", ")
        ));
        let answer = rig.connect("web").ask("GET", "/").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (status, expected));
    }
}

/// Answers with what it was asked.
fn echo() -> Origin {
    Origin::run(|stream, request, _| {
        let body = serde_json::json!([{ "line": request.line(), "body": String::from_utf8_lossy(&request.body) }]).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).is_ok() { Next::Keep } else { Next::Close }
    })
}

#[test]
fn items_are_asked_one_by_one_of_the_shard_that_has_them() {
    let origins = [echo(), echo(), echo()];
    let over: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address)).collect();
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"docs-of\"\n\
         [service.docs-of.scatter]\nover = [\"docs\"]\nmode = \"each\"\neach = \"query:ids\"\nmerge = \"concat\"\n\
         [service.docs.shard]\nby = \"query:ids\"\nover = [{}]\n",
        over.join(", ")
    ));
    let items: Vec<String> = (0..30).map(|number| format!("doc-{}", number * 7)).collect();
    let answer = rig.connect("web").ask("GET", &format!("/docs?x=1&ids={}&y=2&ids=last", items.join(","))).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let found: Vec<Value> = serde_json::from_slice(&answer.body).unwrap();
    let lines: Vec<&str> = found.iter().map(|item| item["line"].as_str().unwrap()).collect();
    let expected: Vec<String> =
        items.iter().map(String::as_str).chain(["last"]).map(|item| format!("GET /docs?x=1&ids={item}&y=2 HTTP/1.1")).collect();
    assert_eq!(lines, expected, "in the order of the list");
    assert!(origins.iter().all(|origin| !origin.seen().is_empty()), "spread over the shard");
    for wrong in ["/docs", "/docs?ids=", &format!("/docs?ids={}", vec!["a"; 1001].join(","))] {
        assert_eq!(rig.connect("web").ask("GET", wrong).unwrap().status, 400, "{}", &wrong[..wrong.len().min(20)]);
    }
}

#[test]
fn items_of_a_body_are_asked_one_by_one() {
    let origin = echo();
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n\
         [service.s.scatter]\nover = [\"{}\"]\nmode = \"each\"\neach = \"json:/ids\"\nmerge = \"concat\"\n",
        origin.address
    ));
    let body = r#"{"ids": [1, "two"], "lang": "en"}"#;
    let mut client = rig.connect("web");
    client.send(format!("POST /docs HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())).unwrap();
    let Read1::Answer(answer) = client.read("POST").unwrap() else { panic!("no answer") };
    let found: Vec<Value> = serde_json::from_slice(&answer.body).unwrap();
    let bodies: Vec<&str> = found.iter().map(|item| item["body"].as_str().unwrap()).collect();
    assert_eq!(bodies, [r#"{"ids":[1],"lang":"en"}"#, r#"{"ids":["two"],"lang":"en"}"#]);
    // The connection is as good as new.
    assert_eq!(client.request("GET", "/docs").unwrap().status, 400);
}

#[test]
fn each_leaf_is_asked_in_its_own_words() {
    let origins = [echo(), echo()];
    let over: Vec<String> = origins
        .iter()
        .enumerate()
        .map(|(number, origin)| format!("{{ service = \"{}\", name = \"part-{number}\" }}", origin.address))
        .collect();
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n\
         [service.s.scatter]\nover = [{}]\nmerge = \"concat\"\npath = \"/part/{{leaf.index}}?term={{query.q}}\"\n\
         request_headers = {{ set = {{ x-leaf = \"{{leaf}} {{leaf.index}}/{{leaf.count}}\" }}, remove = [\"cookie\"] }}\n",
        over.join(", ")
    ));
    let mut client = rig.connect("web");
    client
        .send("POST /search?q=a%20b HTTP/1.1\r\nHost: shop.example\r\nCookie: a=b\r\nX-Leaf: mine\r\nX-Hop: 1\r\nConnection: x-leaf, x-hop\r\nAccept-Encoding: gzip\r\nRange: bytes=0-1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .unwrap();
    let Read1::Answer(answer) = client.read("POST").unwrap() else { panic!("no answer") };
    assert_eq!(answer.status, 200, "{}", answer.text());
    for (number, origin) in origins.iter().enumerate() {
        let seen: &Request = &origin.seen()[0];
        assert_eq!(seen.line(), format!("POST /part/{number}?term=a%20b HTTP/1.1"));
        assert_eq!(seen.headers("x-leaf"), [format!("part-{number} {number}/2")]);
        assert_eq!(
            (seen.header("host"), seen.header("content-length"), seen.body.as_slice()),
            (Some("shop.example"), Some("3"), &b"abc"[..])
        );
        for name in ["cookie", "accept-encoding", "range", "transfer-encoding", "connection", "x-hop"] {
            assert_eq!(seen.header(name), None, "{name}");
        }
        assert!(seen.header("x-request-id").is_some());
    }
}

#[test]
fn scatters_nest() {
    let leaves = [Origin::ok("1"), Origin::ok("2"), Origin::ok("4"), Origin::ok("8")];
    let [a, b, c, d] = leaves.each_ref().map(|leaf| leaf.address);
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"all\"\n\
         [service.all.scatter]\nover = [\"left\", \"right\"]\nmerge = \"keyed\"\n\
         [service.left.scatter]\nover = [\"{a}\", \"{b}\"]\nmerge = \"sum\"\n\
         [service.right.scatter]\nover = [\"{c}\", \"{d}\"]\nmerge = \"sum\"\n"
    ));
    let answer = rig.connect("web").ask("GET", "/").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"left":3,"right":12}"#));
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[test]
fn lines_go_out_as_leaves_answer() {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let slow = Origin::run(move |stream, _, _| {
        // Not before the client has the other one's line.
        let _ = told.lock().unwrap().recv_timeout(Duration::from_secs(20));
        let is_sent = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"b\": 2}").is_ok();
        if is_sent { Next::Keep } else { Next::Close }
    });
    let fast = Origin::ok("{\"a\":\n 1}");
    let nobody = free_address();
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n\
         [service.s.scatter]\nover = [\"{}\", \"{}\", {{ service = \"{nobody}\", name = \"gone\" }}]\nmerge = \"ndjson\"\nrequire = 2\ndeadline = \"30s\"\n",
        slow.address, fast.address
    ));
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut socket = client.socket().try_clone().unwrap();
    let mut came = Vec::new();
    let mut piece = [0; 1024];
    while !came.windows(7).any(|window| window == b"{\"a\":1}") {
        let count = std::io::Read::read(&mut socket, &mut piece).unwrap();
        assert!(count > 0, "it ended: {}", String::from_utf8_lossy(&came));
        came.extend_from_slice(&piece[..count]);
    }
    tell.send(()).unwrap();
    while !came.ends_with(b"0\r\n\r\n") {
        let count = std::io::Read::read(&mut socket, &mut piece).unwrap();
        assert!(count > 0, "it ended: {}", String::from_utf8_lossy(&came));
        came.extend_from_slice(&piece[..count]);
    }
    let text = String::from_utf8(came).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"), "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(lines, ["{\"a\":1}", "{\"b\": 2}", "{\"_leaves\":{\"missing\":[\"gone\"],\"total\":3}}"]);
    // The connection goes on.
    tell.send(()).unwrap();
    assert_eq!(client.request("GET", "/").unwrap().status, 200);
}

/// Far more than may be held goes through, at the pace of a client that takes its time.
#[test]
fn lines_are_passed_on_and_not_held() {
    const LINES: usize = 40_000;
    let many = || {
        Origin::run(|stream, _, _| {
            let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000));
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n", line.len() * LINES);
            let is_sent = stream.write_all(head.as_bytes()).is_ok() && (0..LINES).all(|_| stream.write_all(line.as_bytes()).is_ok());
            if is_sent { Next::Keep } else { Next::Close }
        })
    };
    let leaves = [many(), many()];
    let rig = Rig::start(&format!(
        "[process]\nworkers = 1\nmax_memory_bodies = \"1MiB\"\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n\
         [service.s.scatter]\nover = [\"{}\", \"{}\"]\nmerge = \"ndjson\"\ndeadline = \"5m\"\nleaf_body = \"2KiB\"\n",
        leaves[0].address, leaves[1].address
    ));
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let held = rig.held();
    let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
    let text = answer.text();
    assert_eq!((text.lines().count(), text.lines().filter(|line| line.starts_with("{\"text\":\"x")).count()), (2 * LINES, 2 * LINES));
    assert!(held.max(rig.held()) < 16 << 20, "{held} bytes");
}

#[test]
fn lines_that_are_too_few_are_cut() {
    use Leaf::{Ok, Slow};
    let search = Search::over(&[Ok, Slow], "merge = \"ndjson\"\ndeadline = \"400ms\"");
    let mut client = search.rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    match client.read("GET") {
        Err(_) => {}
        Result::Ok(Read1::Answer(answer)) => panic!("it looks whole: {}", answer.text()),
        Result::Ok(_) => {}
    }
    // Nothing was sent, so that a refusal can be.
    let search = Search::over(&[Leaf::Fails, Leaf::Dead], "merge = \"ndjson\"\nrequire = 1");
    let answer = search.ask();
    assert_eq!((answer.status, answer.header("x-attache-missing")), (502, Some("leaf-0, leaf-1")));
}

#[test]
fn a_replica_is_asked_when_another_one_is_slow() {
    let slow = start(Leaf::Slow, "slow").unwrap();
    let fast = start(Leaf::Ok, "fast").unwrap();
    let other = start(Leaf::Ok, "other").unwrap();
    let rig = Rig::start(&format!(
        "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n\
         [service.s.scatter]\nover = [\"part\", \"{}\"]\nmerge = \"concat\"\ndeadline = \"8s\"\nreport = true\n\
         hedge = {{ after = \"50ms\", budget = \"100%\" }}\n[service.part]\nendpoints = [\"{}\", \"{}\"]\n",
        other.address, slow.address, fast.address
    ));
    let mut hedged = 0;
    for _ in 0..4 {
        let answer = rig.connect("web").ask("GET", "/").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "[\"fast\",\"other\"]"));
        hedged += usize::from(answer.header("x-attache-leaves").unwrap().ends_with(", hedged=1"));
    }
    assert_eq!(hedged, 2, "every second one has the slow one's turn");
}

#[test]
fn a_leaf_that_has_somebody_else_to_ask_does() {
    let live = Origin::ok("[1]");
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n\
         [service.s.scatter]\nover = [\"split\", \"shard\"]\nmerge = \"concat\"\n\
         [service.split.split]\narms = {{ \"{0}\" = \"99.9%\", \"{1}\" = \"rest\" }}\n\
         [service.shard.shard]\nby = \"path\"\nover = [\"{0}\", \"{1}\"]\n",
        free_address(),
        live.address
    ));
    for number in 0..8 {
        let mut client = rig.connect("web");
        client.send(format!("PUT /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")).unwrap();
        let Read1::Answer(answer) = client.read("PUT").unwrap() else { panic!("no answer") };
        assert_eq!((answer.status, answer.text().as_str()), (200, "[1,1]"), "{number}");
    }
    assert!(live.seen().iter().all(|seen| seen.body == b"hi"));
}

#[test]
fn a_canary_that_fails_spares_the_others() {
    use Leaf::{Fails, Ok};
    let settings = format!("{CONCAT}\nrequire = 1\ncanary = 1");
    let search = Search::over(&[Fails, Ok, Ok], &settings);
    let answer = search.ask();
    assert_eq!((answer.status, answer.header("x-attache-leaves")), (502, Some("total=3, ok=0, failed=1, timeout=0, cancelled=2")));
    assert!(search.origins[1].as_ref().unwrap().seen().is_empty());
    check(&[Ok, Fails, Ok], &settings, (200, Some("total=3, ok=2, failed=1, timeout=0"), Some("leaf-1"), "[\"leaf-0\",\"leaf-2\"]"));
}

#[test]
fn how_each_leaf_fared_is_told_where_that_is_wanted() {
    use Leaf::{Fails, Ok};
    let search = Search::over(&[Ok, Fails], "merge = \"keyed\"\nrequire = 1\nreport = true\n[log]\naccess = \"json\"");
    let answer = search.ask();
    let timing = answer.header("server-timing").unwrap().to_owned();
    assert!(timing.starts_with("leaf-0;dur=") && timing.contains("leaf-1;dur=") && timing.ends_with(";desc=\"status\""), "{timing}");
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&body["leaf-0"], &body["_leaves"][1]["reason"]), (&serde_json::json!(["leaf-0"]), &"status".into()));
    eventually("leaves are counted", || {
        search.rig.metric("attache_scatter_leaves_total{service=\"search\",leaf=\"leaf-1\",outcome=\"failed\"}") == 1.0
    });
    eventually("it is logged", || {
        search.rig.out().contains("\"leaves\":\"leaf-0 ok ") && search.rig.out().contains(", leaf-1 failed (status) ")
    });
    let step = search.rig.admin_json("/explain?url=http://a.example/");
    assert_eq!(step["verdict"]["leaves"], serde_json::json!(["leaf-0", "leaf-1"]));
    let refused = Search::over(&[Fails], "merge = \"keyed\"");
    refused.ask();
    eventually("the refusal is counted", || refused.rig.metric("attache_refusals_total{listener=\"web\",reason=\"leaves_failed\"}") == 1.0);
}

#[test]
fn answers_are_held_only_as_far_as_there_is_room() {
    let large = Arc::new(format!("[\"{}\"]", "x".repeat(600 << 10)));
    let leaves: Vec<Origin> = (0..8)
        .map(|_| {
            let large = Arc::clone(&large);
            Origin::run(move |stream, _, _| {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", large.len());
                let is_sent = stream.write_all(head.as_bytes()).is_ok() && stream.write_all(large.as_bytes()).is_ok();
                if is_sent { Next::Keep } else { Next::Close }
            })
        })
        .collect();
    let over: Vec<String> = leaves.iter().map(|leaf| format!("\"{}\"", leaf.address)).collect();
    let text = |settings: &str| {
        format!(
            "[process]\nworkers = 1\nmax_memory_bodies = \"3MiB\"\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n\
             [service.s.scatter]\nover = [{}]\nmerge = \"concat\"\nrequire = 1\n{settings}\n",
            over.join(", ")
        )
    };
    let rig = Rig::start(&text("body = \"2MiB\""));
    for _ in 0..3 {
        let answer = rig.connect("web").ask("GET", "/").unwrap();
        assert_eq!((answer.status, answer.header("x-attache-leaves")), (200, Some("total=8, ok=3, failed=5, timeout=0")));
    }
    // Of the process, more than of a request.
    rig.reloaded(&text(""));
    let answer = rig.connect("web").ask("GET", "/").unwrap();
    assert_eq!((answer.status, answer.header("x-attache-leaves")), (200, Some("total=8, ok=5, failed=3, timeout=0")));
}

#[test]
fn whoever_leaves_is_not_asked_for() {
    let slow = Origin::run(|stream, _, _| {
        std::thread::sleep(Duration::from_millis(800));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]");
        Next::Close
    });
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n[service.s.scatter]\nover = [\"{}\"]\nmerge = \"concat\"\n",
        slow.address
    ));
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the leaf is asked", || !slow.seen().is_empty());
    drop(client);
    eventually("its request is given up", || rig.metrics("attache_upstream_requests_total") == 1.0);
}

#[track_caller]
fn check_wrong(scatter: &str, expected: &str) {
    let text = format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n[service.s.scatter]\n{scatter}\n\
         [service.a]\nendpoints = [\"127.0.0.1:1\"]\n[service.b]\nrespond = {{ status = 200 }}\n"
    );
    let said = refused(&text);
    assert!(said.contains(expected), "{said}");
}

#[test]
fn wrong_scatters_are_told_with_a_remedy() {
    let with = |settings: &str| format!("over = [\"a\", \"b\"]\n{settings}");
    check_wrong("merge = \"concat\"", "missing key `over`");
    check_wrong("over = []\nmerge = \"concat\"", "a scatter has 1 to 1000 leaves, this has 0");
    check_wrong("over = [\"a\", \"a\"]\nmerge = \"concat\"", "two leaves are called `a`");
    check_wrong("over = [\"a\", \"s\"]\nmerge = \"concat\"", "`s` is a part of itself");
    check_wrong("over = { pool = \"b\" }\nmerge = \"concat\"", "`b` is no pool");
    check_wrong(&with(""), "nothing says how the answers become one");
    check_wrong(&with("merge = \"conkat\""), "did you mean \"concat\"?");
    check_wrong(&with("merge = \"avg\""), "`avg` needs to know of what");
    check_wrong(&with("merge = { avg = { at = \"/n\", by = \"n\" } }"), "`n` does not begin with a slash");
    check_wrong(&with("merge = \"topk\""), "`topk` needs an order");
    check_wrong(&with("merge = { topk = { sort = \"/score down\" } }"), "`down` is neither `asc` nor `desc`");
    check_wrong(&with("merge = { keyed = \"/a\" }"), "`keyed` takes no options");
    check_wrong(&with("merge = { concat = \"hits\" }"), "`hits` does not begin with a slash");
    check_wrong(&with("mode = \"race\"\nmerge = \"concat\""), "one answer counts as it is");
    check_wrong(&with("mode = \"each\"\nmerge = \"concat\""), "needs to know the items");
    check_wrong(&with("mode = \"each\"\neach = \"query:ids\"\nmerge = \"concat\""), "items are asked of one service, this has 2");
    check_wrong(&with("each = \"query:ids\"\nmerge = \"concat\""), "`each` is for mode = \"each\", this is \"all\"");
    check_wrong(&with("merge = \"concat\"\nrequire = 3"), "3 leaves are required, and there are 2");
    check_wrong(&with("merge = \"concat\"\nrequire = { leaves = [\"c\"] }"), "`c` is none of the leaves");
    check_wrong(&with("merge = \"concat\"\nfill = \"{\""), "this is no JSON");
    check_wrong(&with("merge = \"concat\"\nfill = \"{}\""), "this does not fit what it is merged with (mismatch)");
    check_wrong(&with("merge = \"concat\"\nsoft_deadline = \"5s\""), "the soft deadline is not before the deadline");
    check_wrong("over = { pool = \"a\" }\nmerge = \"concat\"\nhedge = {}", "each endpoint of the pool is a leaf");
    check_wrong(&with("merge = \"concat\"\npath = \"/{leef}\""), "unknown variable `{leef}`");
    let text = "[[listener]]\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\nservice = \"127.0.0.1:1\"\nrequest_headers = { set = { x = \"{leaf}\" } }\n";
    assert!(refused(text).contains("are for what a scatter asks its leaves"));
}
