//! Requests that go out again: for which reasons, how often, with which body; and those that are asked twice at once.
//!
//! What is counted is what origins saw. Chaos is in `chaos.rs`.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::http2::{self, Http2};
use crate::support::http2_origin::Origin2;
use crate::support::{Answer, Next, Origin, Read1, Rig, eventually, free_address};

/// A pool named `app` behind a listener named `web`, with one worker, whose turns are exact. The access log is on.
fn rig(endpoints: &[SocketAddr], settings: &str) -> Rig {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    Rig::start(&format!(
        "[process]\nworkers = 1\n[log]\naccess = \"json\"\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n\
         [service.app]\nendpoints = [{}]\n{settings}\n",
        endpoints.join(", ")
    ))
}

/// Closes the connection instead of answering, once it has read the request.
fn resetting() -> Origin {
    Origin::run(|_, _, _| Next::Close)
}

fn answering(status: u16) -> Origin {
    Origin::answering(format!("HTTP/1.1 {status} Said So\r\nContent-Length: 5\r\n\r\nhello"))
}

#[track_caller]
fn send(rig: &Rig, request: &str) -> Answer {
    let mut client = rig.connect("web");
    client.send(request).unwrap();
    match client.read(request.split(' ').next().unwrap()).unwrap() {
        Read1::Answer(answer) => answer,
        other => panic!("no answer but {other:?}"),
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nbody";
const PUT: &str = "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nbody";
const PUT_CHUNKED: &str =
    "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\nx-sum: 1\r\n\r\n";

#[test]
fn without_retry_only_a_connection_that_failed_goes_elsewhere() {
    let (bad, good) = (resetting(), Origin::ok("hello"));
    let rig = rig(&[free_address(), bad.address, good.address], "");
    assert_eq!(send(&rig, POST).status, 502, "nobody listens at the first, and the second resets");
    assert_eq!((bad.seen().len(), good.seen().len()), (1, 0));
    assert_eq!(rig.metric("attache_retries_total{service=\"app\",reason=\"connect\"}"), 1.0);
}

#[test]
fn a_reset_goes_to_another_endpoint_if_the_request_may_be_sent_twice() {
    let (bad, good) = (resetting(), Origin::ok("hello"));
    let rig = rig(&[bad.address, good.address], "retry = {}");
    assert_eq!(send(&rig, GET).status, 200);
    assert_eq!((bad.seen().len(), good.seen().len()), (1, 1));
    eventually("the log tells of both attempts", || rig.out().contains("\"attempts\":2"));
    assert_eq!(rig.metric("attache_retries_total{service=\"app\",reason=\"reset\"}"), 1.0);
    assert_eq!(send(&rig, GET).status, 200, "its turn is the second's own, after that of the detour");
    assert_eq!(send(&rig, POST).status, 502, "a POST is not sent twice");
    assert_eq!(bad.seen().iter().filter(|request| request.line().starts_with("POST")).count(), 1);
}

#[test]
fn statuses_are_tried_again_as_listed_and_the_last_one_is_passed_on() {
    let (busy, good) = (answering(503), Origin::ok("hello"));
    let one = rig(&[busy.address, good.address], "retry = {}");
    assert_eq!(send(&one, GET).text(), "hello");
    // The connection whose answer nobody wanted is good for another.
    assert_eq!(send(&one, GET).status, 200);
    assert_eq!(send(&one, GET).status, 200);
    assert_eq!((busy.seen().len(), busy.connections()), (2, 1));
    let two = rig(&[busy.address, answering(500).address], "retry = { on = [\"connect\"] }");
    assert_eq!(send(&two, GET).status, 503, "not listed");
    let (first, second) = (answering(500), answering(502));
    let three = rig(&[first.address, second.address], "retry = { attempts = 3, on = [\"5xx\"], backoff = \"1ms\" }");
    let answer = send(&three, GET);
    assert!(answer.status >= 500 && answer.text() == "hello", "{answer:?}");
    assert_eq!(first.seen().len() + second.seen().len(), 3);
}

#[test]
fn no_answer_in_time_goes_to_another_endpoint() {
    let (silent, good) = (Origin::run(|_, _, _| stall()), Origin::ok("hello"));
    let rig = rig(&[silent.address, good.address], "retry = { per_try = \"100ms\" }");
    assert_eq!(send(&rig, GET).status, 200);
    assert_eq!(rig.metric("attache_retries_total{service=\"app\",reason=\"timeout\"}"), 1.0);
    assert_eq!(
        rig.metric(&format!("attache_upstream_requests_total{{service=\"app\",endpoint=\"{}\",outcome=\"timeout\"}}", silent.address)),
        1.0
    );
}

/// Says nothing until the other side has closed.
fn stall() -> Next {
    std::thread::park_timeout(crate::support::PATIENCE);
    Next::Close
}

#[test]
fn bodies_are_sent_again_whole_in_any_framing() {
    for request in [PUT, PUT_CHUNKED] {
        let (bad, good) = (resetting(), Origin::ok("hello"));
        let rig = rig(&[bad.address, good.address], "retry = {}");
        assert_eq!(send(&rig, request).status, 200, "{request}");
        let (first, second) = (&bad.seen()[0], &good.seen()[0]);
        assert_eq!((first.body.as_slice(), second.body.as_slice()), (&b"body"[..], &b"body"[..]));
        assert_eq!(String::from_utf8_lossy(&first.raw_body), String::from_utf8_lossy(&second.raw_body));
    }
}

#[test]
fn a_body_beyond_what_is_kept_is_not_sent_again() {
    let body = "x".repeat(5000);
    let put = |length: usize| format!("PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n\r\n{}", &body[..length]);
    for (length, status) in [(4096, 200), (4097, 502)] {
        let (bad, good) = (resetting(), Origin::ok("hello"));
        let rig = rig(&[bad.address, good.address], "retry = { replay = \"4KiB\" }");
        assert_eq!(send(&rig, &put(length)).status, status, "{length}");
    }
}

#[test]
fn a_body_that_comes_slowly_is_sent_again_whole() {
    // Resets when it has the head and the first byte; the rest comes after that.
    let bad = Origin::raw(|mut stream, _| {
        let mut buffer = [0; 4096];
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\nb") {
            match std::io::Read::read(&mut stream, &mut buffer) {
                Ok(count) if count > 0 => seen.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
    });
    let good = Origin::ok("hello");
    let rig = rig(&[bad.address, good.address], "retry = {}");
    let mut client = rig.connect("web");
    client.send("PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nb").unwrap();
    eventually("it was tried again", || rig.metric("attache_retries_total{service=\"app\",reason=\"reset\"}") == 1.0);
    client.send("ody").unwrap();
    assert!(matches!(client.read("PUT").unwrap(), Read1::Answer(answer) if answer.status == 200));
    assert_eq!(good.seen()[0].body, b"body");
}

#[test]
fn bodies_in_memory_are_bounded_for_the_whole_process() {
    let (bad, good) = (resetting(), Origin::ok("hello"));
    let endpoints = format!("endpoints = [\"{}\", \"{}\"]\nretry = {{}}\n", bad.address, good.address);
    let rig = Rig::start(&format!(
        "[process]\nworkers = 1\nmax_memory_bodies = \"3B\"\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n[service.app]\n{endpoints}"
    ));
    assert_eq!(send(&rig, PUT).status, 502, "four bytes are not kept");
}

#[test]
fn the_budget_ends_a_storm_of_retries() {
    let (one, other) = (answering(503), answering(503));
    let rig = rig(&[one.address, other.address], "retry = { attempts = 2, budget = \"20%\", backoff = \"1ms\" }");
    let mut client = rig.connect("web");
    for _ in 0..500 {
        assert_eq!(client.request("GET", "/").unwrap().status, 503);
    }
    let retries = rig.metric("attache_retries_total{service=\"app\",reason=\"status\"}");
    // A fifth, the ten that anybody has, and one a second.
    assert!((50.0..=140.0).contains(&retries), "{retries}");
}

#[test]
fn attempts_are_counted_and_all_endpoints_are_asked_before_one_twice() {
    let bad: Vec<Origin> = (0..3).map(|_| resetting()).collect();
    let addresses: Vec<SocketAddr> = bad.iter().map(|origin| origin.address).collect();
    let rig = rig(&addresses, "retry = { attempts = 5, backoff = \"1ms\" }");
    assert_eq!(send(&rig, GET).status, 502);
    let mut counts: Vec<usize> = bad.iter().map(|origin| origin.seen().len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2, 2]);
}

#[test]
fn one_endpoint_alone_is_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    let origin = Origin::run(move |stream, _, _| {
        if counting.fetch_add(1, Ordering::Relaxed) == 0 {
            return Next::Close;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        Next::Keep
    });
    let rig = rig(&[origin.address], "retry = { backoff = \"1ms\" }");
    assert_eq!(send(&rig, GET).status, 200);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn the_routes_time_ends_all_attempts() {
    let silent = Origin::run(|_, _, _| stall());
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\nservice = \"app\"\ntimeout = \"300ms\"\n\
         [service.app]\nendpoints = [\"{}\"]\nretry = {{ attempts = 10, per_try = \"100ms\", backoff = \"1ms\" }}\n",
        silent.address
    ));
    assert_eq!(send(&rig, GET).status, 504);
    assert!((2..=4).contains(&silent.seen().len()), "{}", silent.seen().len());
}

#[test]
fn a_client_that_leaves_ends_the_attempts() {
    let bad = resetting();
    let rig = rig(&[bad.address], "retry = { attempts = 10, backoff = \"1h\" }");
    let mut client = rig.connect("web");
    client.send(GET).unwrap();
    eventually("the first attempt is over", || bad.seen().len() == 1);
    let listener = || rig.admin_json("/listeners")[0]["connections"].as_u64().unwrap();
    assert_eq!(listener(), 1);
    drop(client);
    eventually("its connection is gone", || listener() == 0);
    assert_eq!(bad.seen().len(), 1);
}

/// Answers at once, but for requests whose target begins with `/slow` if it is the one that is slow.
fn sometimes_slow(slow: Arc<AtomicUsize>) -> Origin {
    Origin::run(move |stream, request, _| {
        if request.line().contains("/slow") && slow.fetch_add(1, Ordering::Relaxed) == 0 {
            return stall();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        Next::Keep
    })
}

#[test]
fn a_slow_endpoint_is_overtaken_by_another() {
    let slow = Arc::new(AtomicUsize::new(0));
    let origins = [sometimes_slow(Arc::clone(&slow)), sometimes_slow(Arc::clone(&slow))];
    let rig = rig(&[origins[0].address, origins[1].address], "hedge = { after = \"50ms\" }");
    let mut client = rig.connect("web");
    assert_eq!(client.request("GET", "/slow").unwrap().text(), "hello");
    // The client's connection goes on as after any answer.
    assert_eq!(client.request("GET", "/").unwrap().text(), "hello");
    assert_eq!(rig.metric("attache_retries_total{service=\"app\",reason=\"hedge\"}"), 1.0);
    let overtaken: f64 = origins
        .iter()
        .map(|origin| {
            rig.metric(&format!("attache_upstream_requests_total{{service=\"app\",endpoint=\"{}\",outcome=\"overtaken\"}}", origin.address))
        })
        .sum();
    assert_eq!(overtaken, 1.0);
    eventually("nothing is in flight", || {
        rig.admin_json("/services")[0]["endpoints"].as_array().unwrap().iter().all(|e| e["in_flight"] == 0)
    });
}

fn late(body: &'static str) -> Origin {
    Origin::run(move |stream, request, _| {
        if request.line().contains("/slow") {
            std::thread::sleep(Duration::from_millis(400));
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        Next::Keep
    })
}

// Seen: the quick failure of the second one was the answer, though the first was about to have a good one.
#[test]
fn a_second_endpoint_that_fails_overtakes_nobody() {
    let (slow, failing) = (late("late"), answering(503));
    let rig = rig(&[slow.address, failing.address], "hedge = { after = \"50ms\" }\nbalance = \"round-robin\"");
    let answer = rig.connect("web").ask("GET", "/slow").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "late"));
    assert_eq!(rig.metric("attache_retries_total{service=\"app\",reason=\"hedge\"}"), 1.0);
}

// Seen: the cookie named the endpoint that was overtaken; and who had one was sent to another.
#[test]
fn who_is_bound_to_an_endpoint_is_bound_to_the_one_that_answered() {
    let (slow, quick) = (late("late"), Origin::ok("quick"));
    let rig = rig(&[slow.address, quick.address], "hedge = { after = \"50ms\" }\nsticky = { cookie = \"app\" }");
    let first = rig.connect("web").ask("GET", "/slow").unwrap();
    assert_eq!(first.text(), "quick");
    let ask = |cookie: &str, path: &str| {
        let mut client = rig.connect("web");
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n")).unwrap();
        match client.read("GET").unwrap() {
            Read1::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    };
    let cookie = |answer: &Answer| answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let of_quick = cookie(&first);
    (0..4).for_each(|_| assert_eq!(ask(&of_quick, "/").text(), "quick"));
    // Whose endpoint is slow waits for it.
    let of_late = (0..4).map(|_| ask("none=1", "/")).find(|answer| answer.text() == "late").map(|answer| cookie(&answer)).unwrap();
    assert_eq!(ask(&of_late, "/slow").text(), "late");
}

#[test]
fn an_answer_that_is_on_its_way_counts_when_the_first_attempt_fails() {
    let asked = Arc::new(AtomicUsize::new(0));
    let origin = |asked: &Arc<AtomicUsize>| {
        let asked = Arc::clone(asked);
        Origin::run(move |stream, _, _| {
            let is_first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            // Each waits for the other: the first fails once the second has the request, which answers after that.
            let until = if is_first { 2 } else { 3 };
            eventually("the other one is as far", || asked.load(Ordering::SeqCst) >= until);
            if is_first {
                asked.fetch_add(1, Ordering::SeqCst);
                return Next::Close;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap();
            Next::Keep
        })
    };
    let origins = [origin(&asked), origin(&asked)];
    let rig = rig(&[origins[0].address, origins[1].address], "hedge = { after = \"50ms\" }");
    assert_eq!(send(&rig, GET).text(), "hello");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn what_may_not_be_sent_twice_is_not_hedged() {
    let slow = Arc::new(AtomicUsize::new(0));
    let origins = [sometimes_slow(Arc::clone(&slow)), sometimes_slow(Arc::clone(&slow))];
    let rig = rig(&[origins[0].address, origins[1].address], "hedge = { after = \"10ms\" }\ntimeouts = { response = \"300ms\" }");
    let mut client = rig.connect("web");
    client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").unwrap();
    assert!(matches!(client.read("POST").unwrap(), Read1::Answer(answer) if answer.status == 504));
    assert_eq!(rig.metric("attache_retries_total{service=\"app\",reason=\"hedge\"}"), 0.0);
}

#[test]
fn a_quantile_needs_answers_to_know_and_then_hedges_within_its_budget() {
    let slow = Arc::new(AtomicUsize::new(1));
    let origins = [sometimes_slow(Arc::clone(&slow)), sometimes_slow(Arc::clone(&slow))];
    let rig = rig(&[origins[0].address, origins[1].address], "hedge = { after = \"p99\", budget = \"5%\" }");
    let mut client = rig.connect("web");
    for _ in 0..200 {
        assert_eq!(client.request("GET", "/").unwrap().status, 200);
    }
    slow.store(0, Ordering::Relaxed);
    assert_eq!(client.request("GET", "/slow").unwrap().status, 200);
    let hedges = rig.metric("attache_retries_total{service=\"app\",reason=\"hedge\"}");
    assert!((1.0..=30.0).contains(&hedges), "{hedges}");
}

#[test]
fn http2_endpoints_are_retried_and_hedged_alike() {
    let slow = Origin2::run(None, |ask| async move {
        std::future::pending::<()>().await;
        drop(ask);
    });
    let quick = Origin2::run(None, |mut ask| async move {
        let body = ask.body().await.unwrap_or_default();
        ask.ok(&format!("got {}", String::from_utf8_lossy(&body)));
    });
    let hedged = rig(&[slow.address, quick.address], "protocol = \"h2\"\nhedge = { after = \"50ms\" }");
    for _ in 0..4 {
        assert_eq!(send(&hedged, GET).text(), "got ");
    }
    assert!(hedged.metric("attache_retries_total{service=\"app\",reason=\"hedge\"}") >= 1.0);
    let retried = rig(&[slow.address, quick.address], "protocol = \"h2\"\nretry = { per_try = \"100ms\" }");
    for _ in 0..2 {
        assert_eq!(send(&retried, PUT).text(), "got body");
    }
    assert_eq!(retried.metric("attache_retries_total{service=\"app\",reason=\"timeout\"}"), 1.0);
}

#[test]
fn an_http2_client_is_answered_after_a_retry_with_its_body_and_trailers() {
    for is_h2 in [false, true] {
        let bad = resetting();
        let bad_h2 = Origin2::run(None, |mut ask| async move {
            let _ = ask.body().await;
            let _ = ask.trailers().await;
            ask.respond.send_reset(h2::Reason::INTERNAL_ERROR);
        });
        let good = Origin::ok("hello");
        let good_h2 = Origin2::run(None, |mut ask| async move {
            let body = ask.body().await.unwrap_or_default();
            let trailers = ask.trailers().await.and_then(|trailers| Some(trailers.get("x-sum")?.to_str().unwrap().to_owned()));
            ask.ok(&format!("{} {trailers:?}", String::from_utf8_lossy(&body)));
        });
        let (endpoints, protocol) =
            if is_h2 { ([bad_h2.address, good_h2.address], "protocol = \"h2\"\n") } else { ([bad.address, good.address], "") };
        let rig = rig(&endpoints, &format!("{protocol}retry = {{}}"));
        let address = rig.address("web");
        let answer = http2::run(async {
            let mut client = Http2::plain(address).await;
            let trailers = http::HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("1"))]);
            client.ask_with(http2::request("PUT", "/"), &[b"bo", b"dy"], Some(trailers)).await.unwrap()
        });
        assert_eq!(answer.status, 200);
        assert_eq!(rig.metric("attache_retries_total{service=\"app\",reason=\"reset\"}"), 1.0);
        if is_h2 {
            assert_eq!(answer.text(), "body Some(\"1\")");
        } else {
            assert_eq!((bad.seen()[0].body.as_slice(), good.seen()[0].body.as_slice()), (&b"body"[..], &b"body"[..]));
            assert!(good.seen()[0].raw_body.ends_with(b"0\r\nx-sum: 1\r\n\r\n"));
        }
    }
}

#[test]
fn wrong_settings_are_told_with_a_remedy() {
    let check = |settings: &str, expected: &str| {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("attache.toml");
        std::fs::write(
            &path,
            format!("[[listener]]\nlisten = \":0\"\nservice = \"app\"\n[service.app]\nendpoints = [\"a:1\"]\n{settings}\n"),
        )
        .unwrap();
        let output = crate::support::binary().arg("check").arg(&path).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && told.contains(expected), "{settings}: {told}");
    };
    check("retry = { on = [\"conect\"] }", "did you mean \"connect\"?");
    check("retry = { on = [\"200\"] }", "`200` is nothing that can be tried again");
    check("retry = { attempts = 0 }", "0 is out of range");
    check("retry = { budget = 20 }", "a share needs its sign");
    check("retry = { atempts = 2 }", "did you mean `attempts`?");
    check("hedge = { after = \"p5\" }", "`p5` does not say when to ask again");
    check("hedge = {}\nsend_proxy = \"v2\"", "`hedge` with `send_proxy`");
    check("eject = { max = \"150%\" }", "`150%` is not a share");
    check("limits = { wait = \"0s\" }", "a timeout of nothing lets nothing happen");
    check("balance = \"least_requests\"", "did you mean \"least-requests\"?");
}
