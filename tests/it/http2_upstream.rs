//! HTTP/2 to endpoints: connections that requests share, and every way in which they can end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::Reason;
use serde_json::Value;

use crate::support::http2::{
    DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, Http2, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, frame, literals, read_answer,
    request, room, run,
};
use crate::support::http2_origin::{Ask, Origin2, answer, next_request, raw_origin};
use crate::support::{Answer, Client, Next, Origin, Pair, Read1, Rig, TlsOrigin, binary, eventually};

/// One worker before one endpoint, which is spoken to in HTTP/2 by prior knowledge.
fn before(address: SocketAddr) -> Rig {
    before_with(&format!("\"{address}\""), "protocol = \"h2\"")
}

fn before_with(endpoints: &str, settings: &str) -> Rig {
    Rig::start(&config(endpoints, settings))
}

fn config(endpoints: &str, settings: &str) -> String {
    format!(
        "[process]\nworkers = 1\n[log]\naccess = \"json\"\n[service.app]\nendpoints = [{endpoints}]\n{settings}\n\
         [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n"
    )
}

#[track_caller]
fn get(rig: &Rig) -> Answer {
    rig.connect("web").ask("GET", "/").unwrap()
}

/// The record of the last of `count` requests.
#[track_caller]
fn record(rig: &Rig, count: usize) -> Value {
    eventually("the request is logged", || rig.out().lines().count() >= count);
    serde_json::from_str(rig.out().lines().last().unwrap()).unwrap()
}

fn attempts(rig: &Rig, address: SocketAddr, outcome: &str) -> f64 {
    rig.metric(&format!("attache_upstream_requests_total{{service=\"app\",endpoint=\"{address}\",outcome=\"{outcome}\"}}"))
}

/// Asks for `paths` at once, over one HTTP/2 connection, and gives status and body in their order.
fn at_once(rig: &Rig, paths: &[String]) -> Vec<(u16, String)> {
    run(async {
        let client = Http2::plain(rig.address("web")).await;
        let mut asking = Vec::new();
        for path in paths {
            let (answer, _) = client.send.clone().ready().await.unwrap().send_request(request("GET", path), true).unwrap();
            asking.push(tokio::task::spawn_local(read_answer(answer)));
        }
        let mut answers = Vec::new();
        for asked in asking {
            let answer = asked.await.unwrap().unwrap();
            answers.push((answer.status, answer.text()));
        }
        answers
    })
}

fn paths(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("/{number}")).collect()
}

#[test]
fn requests_at_once_share_one_connection() {
    const COUNT: usize = 50;
    let together = Arc::new(tokio::sync::Barrier::new(COUNT));
    let origin = Origin2::run(None, move |mut ask: Ask| {
        let together = Arc::clone(&together);
        async move {
            // Nobody is answered before everybody has asked.
            together.wait().await;
            let path = ask.path().to_owned();
            ask.ok(&path);
        }
    });
    let rig = before(origin.address);
    let wanted: Vec<(u16, String)> = paths(COUNT).into_iter().map(|path| (200, path)).collect();
    assert_eq!(at_once(&rig, &paths(COUNT)), wanted);
    assert_eq!(origin.connections(), 1);
    assert_eq!(attempts(&rig, origin.address, "ok"), COUNT as f64);
}

#[test]
fn an_endpoint_gets_no_more_streams_than_it_takes() {
    let (open, most) = (Arc::new(Mutex::new(std::collections::HashMap::new())), Arc::new(AtomicUsize::new(0)));
    let seen_most = Arc::clone(&most);
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(2);
    let origin = Origin2::run_with(None, builder, move |mut ask: Ask| {
        let (open, most) = (Arc::clone(&open), Arc::clone(&seen_most));
        async move {
            {
                let mut open = open.lock().unwrap();
                let here = open.entry(ask.connection).or_insert(0);
                *here += 1;
                most.fetch_max(*here, SeqCst);
            }
            tokio::task::yield_now().await;
            *open.lock().unwrap().get_mut(&ask.connection).unwrap() -= 1;
            ask.ok("ok");
        }
    });
    let rig = before(origin.address);
    let answers = at_once(&rig, &paths(30));
    assert!(answers.iter().all(|answer| *answer == (200, "ok".to_owned())), "{answers:?}");
    assert!(most.load(SeqCst) <= 2, "{most:?}");
    assert!(origin.connections() > 1, "others are opened when one is full");
    assert_eq!(attempts(&rig, origin.address, "ok"), 30.0, "nothing was refused");
}

#[test]
fn heads_and_bodies_are_translated() {
    let origin = Origin2::run(None, |mut ask: Ask| async move {
        let body = ask.body().await.unwrap();
        let mut text = format!("{} {} {:?}", ask.request.method(), ask.request.uri(), String::from_utf8(body).unwrap());
        let mut fields: Vec<_> = ask.request.headers().iter().collect();
        fields.sort_by_key(|(name, _)| name.as_str());
        for (name, value) in fields {
            if !matches!(name.as_str(), "x-request-id" | "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host") {
                text.push_str(&format!("\n{name}: {}", value.to_str().unwrap()));
            }
        }
        ask.ok(&text);
    });
    let rig = before(origin.address);
    let mut client = rig.connect("web");
    let mut check = |request: &str, wanted: &str| {
        client.send(request).unwrap();
        let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
        assert_eq!((answer.status, answer.text().as_str()), (200, wanted));
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    };
    check(
        "GET /a?b=c HTTP/1.1\r\nHost: a.example:81\r\nCookie: a=1; b=2\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-Kept: 1\r\n\r\n",
        "GET http://a.example:81/a?b=c \"\"\ncookie: a=1; b=2\nvia: 1.1 attache\nx-kept: 1",
    );
    check(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers, gzip\r\nConnection: TE\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "POST http://a/ \"hello\"\nte: trailers\nvia: 1.1 attache",
    );
    check("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "PUT http://a/ \"hello\"\ncontent-length: 5\nvia: 1.1 attache");
    check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS http://a* \"\"\nvia: 1.1 attache");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn interim_answers_pass_and_expectations_are_met() {
    let origin = raw_origin(&[], |mut raw, _| {
        let stream = next_request(&mut raw).unwrap();
        for status in ["100", "103"] {
            raw.send(&frame(HEADERS, END_HEADERS, stream, &literals(&[(":status", status)]))).unwrap();
        }
        // The body waits for the first of them.
        let body = raw.until(|frame| frame.kind == DATA).unwrap();
        assert_eq!(body.payload, b"hello");
        raw.send(&answer(stream, "200", "ok")).unwrap();
        raw.until(|_| false);
    });
    let rig = before(origin.address);
    let mut client = rig.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").unwrap();
    let mut next = || match client.read_any("POST").unwrap() {
        Read1::Answer(answer) => (answer.status, answer.text()),
        other => panic!("{other:?}"),
    };
    assert_eq!((next().0, next().0), (100, 103));
    client.send("hello").unwrap();
    assert!(matches!(client.read("POST").unwrap(), Read1::Answer(answer) if answer.text() == "ok"));
}

#[test]
fn interim_answers_without_end_are_no_answer() {
    let origin = raw_origin(&[], |mut raw, _| {
        let stream = next_request(&mut raw).unwrap();
        let interim = frame(HEADERS, END_HEADERS, stream, &literals(&[(":status", "103")]));
        let _ = raw.send(&interim.repeat(40));
        raw.until(|_| false);
    });
    let rig = before(origin.address);
    assert_eq!(get(&rig).status, 502);
    assert_eq!(record(&rig, 1)["refusal"], "broken_response");
}

/// What an endpoint's behaviour towards the first connection comes to, if later ones are answered.
struct Case {
    name: &'static str,
    first: fn(&mut Raw, u32),
    method: &'static str,
    body: &'static str,
    status: u16,
    refusal: Value,
    attempts: u64,
}

#[test]
fn a_request_goes_out_again_only_if_nobody_acted_on_it() {
    fn refuse(raw: &mut Raw, stream: u32) {
        let _ = raw.send(&frame(RST_STREAM, 0, stream, &7u32.to_be_bytes()));
        raw.until(|_| false);
    }
    /// The last stream it acted on is none.
    fn leave(raw: &mut Raw, _: u32) {
        let _ = raw.send(&frame(GOAWAY, 0, 0, &[0; 8]));
        raw.until(|_| false);
    }
    fn reset(raw: &mut Raw, stream: u32) {
        let _ = raw.send(&frame(RST_STREAM, 0, stream, &2u32.to_be_bytes()));
        raw.until(|_| false);
    }
    fn close(_: &mut Raw, _: u32) {}
    fn babble(raw: &mut Raw, _: u32) {
        let _ = raw.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    }
    let case = |name, first, method, body, status, refusal: Option<&str>, attempts| Case {
        name,
        first,
        method,
        body,
        status,
        refusal: refusal.map_or(Value::Null, Into::into),
        attempts,
    };
    for case in [
        case("refused", refuse, "GET", "", 200, None, 2),
        case("refused post", refuse, "POST", "", 200, None, 2),
        // The body is on its way, and there is no other copy of it.
        case("refused body", refuse, "POST", "hello", 502, Some("endpoint_reset"), 1),
        case("goaway", leave, "POST", "", 200, None, 2),
        case("reset", reset, "GET", "", 502, Some("endpoint_reset"), 1),
        // A new connection did not die of old age.
        case("closed", close, "GET", "", 502, Some("endpoint_reset"), 1),
        case("babble", babble, "GET", "", 502, Some("broken_response"), 1),
    ] {
        let first = case.first;
        let origin = raw_origin(&[], move |mut raw, number| {
            while let Some(stream) = next_request(&mut raw) {
                if number == 0 {
                    first(&mut raw, stream);
                    return;
                }
                let _ = raw.send(&answer(stream, "200", "ok"));
            }
        });
        let rig = before(origin.address);
        let mut client = rig.connect("web");
        client.send(format!("{} / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{}", case.method, case.body.len(), case.body)).unwrap();
        let Read1::Answer(answer) = client.read(case.method).unwrap() else { panic!("{}: no answer", case.name) };
        let record = record(&rig, 1);
        assert_eq!(
            (answer.status, &record["refusal"], &record["attempts"]),
            (case.status, &case.refusal, &case.attempts.into()),
            "{}",
            case.name
        );
    }
}

/// An endpoint that refuses everything is not asked for ever.
#[test]
fn refusals_are_repeated_a_few_times_only() {
    let origin = raw_origin(&[], |mut raw, _| {
        while let Some(stream) = next_request(&mut raw) {
            let _ = raw.send(&frame(RST_STREAM, 0, stream, &7u32.to_be_bytes()));
        }
    });
    let rig = before(origin.address);
    assert_eq!(get(&rig).status, 502);
    let record = record(&rig, 1);
    assert_eq!((&record["refusal"], &record["attempts"]), (&"endpoint_reset".into(), &9.into()));
}

#[test]
fn a_connection_that_died_while_idle_is_replaced() {
    let may_close = Arc::new(AtomicBool::new(false));
    let closes = Arc::clone(&may_close);
    let origin = raw_origin(&[], move |mut raw, number| {
        while let Some(stream) = next_request(&mut raw) {
            // The second request on the first connection is never answered.
            if number == 0 && closes.load(SeqCst) {
                return;
            }
            let _ = raw.send(&answer(stream, "200", "ok"));
            closes.store(true, SeqCst);
        }
    });
    let rig = before(origin.address);
    assert_eq!(get(&rig).status, 200);
    assert_eq!(get(&rig).status, 200);
    assert_eq!((origin.connections(), record(&rig, 2)["attempts"].clone()), (2, 2.into()));

    // What must not be done twice is not.
    may_close.store(false, SeqCst);
    let origin = raw_origin(&[], move |mut raw, _| {
        let mut is_second = false;
        while let Some(stream) = next_request(&mut raw) {
            if is_second {
                return;
            }
            is_second = true;
            let _ = raw.send(&answer(stream, "200", "ok"));
        }
    });
    let rig = before(origin.address);
    assert_eq!(get(&rig).status, 200);
    assert_eq!(rig.connect("web").ask("POST", "/").unwrap().status, 502);
}

#[test]
fn a_connection_on_which_nothing_comes_in_time_is_not_used_again() {
    let origin = raw_origin(&[], |mut raw, number| {
        let mut count = 0;
        while let Some(stream) = next_request(&mut raw) {
            count += 1;
            // The first connection falls silent, and stays open.
            if number > 0 || count == 1 {
                let _ = raw.send(&answer(stream, "200", "ok"));
            }
        }
    });
    let rig = before_with(&format!("\"{}\"", origin.address), "protocol = \"h2\"\ntimeouts = { response = \"500ms\" }");
    assert_eq!([(); 4].map(|()| get(&rig).status), [200, 504, 200, 200]);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn streams_before_the_end_are_finished_and_new_ones_go_elsewhere() {
    let origin = raw_origin(&[], |mut raw, number| {
        let first = next_request(&mut raw).unwrap();
        if number > 0 {
            raw.send(&answer(first, "200", "new")).unwrap();
            raw.until(|_| false);
            return;
        }
        let second = next_request(&mut raw).unwrap();
        raw.send(&frame(GOAWAY, 0, 0, &[first.to_be_bytes(), [0; 4]].concat())).unwrap();
        assert_eq!(second, first + 2);
        // The other one is served by now, over another connection.
        std::thread::sleep(std::time::Duration::from_millis(50));
        raw.send(&answer(first, "200", "old")).unwrap();
        raw.until(|_| false);
    });
    let rig = before(origin.address);
    let mut answers: Vec<String> = at_once(&rig, &paths(2)).into_iter().map(|(_, body)| body).collect();
    answers.sort();
    assert_eq!((answers, origin.connections()), (vec!["new".to_owned(), "old".to_owned()], 2));
}

#[test]
fn a_bad_stream_leaves_its_neighbours_alone() {
    let origin = raw_origin(&[], |mut raw, _| {
        let mut waiting = None;
        while let Some(stream) = next_request(&mut raw) {
            let Some(first) = waiting else {
                waiting = Some(stream);
                continue;
            };
            match stream {
                3 => raw.send(&frame(RST_STREAM, 0, stream, &2u32.to_be_bytes())).unwrap(),
                // A field that must not be there, and then a body of another length than was said.
                5 => raw.send(&frame(HEADERS, END_HEADERS, stream, &literals(&[(":status", "200"), ("connection", "close")]))).unwrap(),
                7 => {
                    raw.send(&frame(HEADERS, END_HEADERS, stream, &literals(&[(":status", "200"), ("content-length", "9")]))).unwrap();
                    raw.send(&frame(DATA, END_STREAM, stream, b"short")).unwrap();
                }
                _ => raw.send(&[answer(stream, "200", "last"), answer(first, "200", "first")].concat()).unwrap(),
            }
        }
    });
    let rig = before(origin.address);
    run(async {
        let mut client = Http2::plain(rig.address("web")).await;
        let (first, _) = client.send.clone().ready().await.unwrap().send_request(request("GET", "/first"), true).unwrap();
        eventually_async("the first one is there", || origin.connections() == 1).await;
        for wanted in [502, 502] {
            assert_eq!(client.get("/").await.unwrap().status, wanted);
        }
        let error = client.get("/").await.unwrap_err();
        assert!(error.is_reset(), "cut short: {error}");
        assert_eq!(client.get("/").await.unwrap().text(), "last");
        assert_eq!(read_answer(first).await.unwrap().text(), "first");
    });
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_request_taken_back_is_reset_at_the_endpoint() {
    let resets: Arc<Mutex<Vec<u32>>> = Arc::default();
    let asked: Arc<AtomicUsize> = Arc::default();
    let (noted, asking) = (Arc::clone(&resets), Arc::clone(&asked));
    let origin = raw_origin(&[], move |mut raw, _| {
        while let Ok(Some(frame)) = raw.next() {
            if frame.kind == HEADERS {
                asking.fetch_add(1, SeqCst);
            }
            if frame.kind == RST_STREAM {
                noted.lock().unwrap().push(frame.code().unwrap());
            }
        }
    });
    let rig = before(origin.address);
    run(async {
        let client = Http2::plain(rig.address("web")).await;
        let (answer, mut stream) = client.send.clone().ready().await.unwrap().send_request(request("GET", "/"), true).unwrap();
        tokio::task::spawn_blocking({
            let address = rig.address("web");
            move || {
                // A client of HTTP/1 that is gone is one that reset its connection.
                let mut gone = Client::tcp(address).unwrap();
                gone.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                // Before, there would be nothing to take back.
                eventually("both are with the endpoint", || asked.load(SeqCst) == 2);
                socket2::SockRef::from(gone.socket()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
        })
        .await
        .unwrap();
        stream.send_reset(Reason::CANCEL);
        drop((answer, stream));
        eventually_async("both are reset", || resets.lock().unwrap().len() == 2).await;
    });
    assert_eq!(*resets.lock().unwrap(), [u32::from(Reason::CANCEL); 2]);
}

async fn eventually_async(what: &str, check: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while !check() {
        assert!(std::time::Instant::now() < deadline, "this did not become true: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// More of them than a connection's window of the usual size has room for.
#[test]
fn clients_that_take_nothing_hold_up_nobody_else() {
    let origin = Origin2::run(None, |mut ask: Ask| async move {
        if ask.path() == "/quick" {
            return ask.ok("ok");
        }
        let mut send = ask.head(200, &[], false);
        let piece = Bytes::from(vec![b'x'; 16 << 10]);
        loop {
            let Ok(room) = room(&mut send, piece.len()).await else { return };
            if send.send_data(piece.slice(..room.min(piece.len())), false).is_err() {
                return;
            }
        }
    });
    let rig = before(origin.address);
    run(async {
        let client = Http2::plain(rig.address("web")).await;
        let mut held = Vec::new();
        for _ in 0..40 {
            let (answer, _) = client.send.clone().ready().await.unwrap().send_request(request("GET", "/endless"), true).unwrap();
            held.push(answer.await.unwrap());
        }
        let mut other = Http2::plain(rig.address("web")).await;
        for _ in 0..20 {
            assert_eq!(other.get("/quick").await.unwrap().text(), "ok");
        }
    });
    assert_eq!(origin.connections(), 1);
}

#[test]
fn an_idle_connection_is_closed_with_a_word() {
    let last: Arc<Mutex<Vec<Frame>>> = Arc::default();
    let noted = Arc::clone(&last);
    let origin = raw_origin(&[], move |mut raw, _| {
        let stream = next_request(&mut raw).unwrap();
        raw.send(&answer(stream, "200", "ok")).unwrap();
        while let Ok(Some(frame)) = raw.next() {
            noted.lock().unwrap().push(frame);
        }
    });
    let rig = before_with(&format!("\"{}\"", origin.address), "protocol = \"h2\"\ntimeouts = { idle = \"200ms\" }");
    assert_eq!(get(&rig).status, 200);
    eventually("it says goodbye", || last.lock().unwrap().iter().any(|frame| frame.kind == GOAWAY && frame.code() == Some(0)));
}

#[test]
fn an_endpoint_that_leaves_keeps_its_streams_and_no_connection() {
    let may_answer = Arc::new(AtomicBool::new(false));
    let is_over = Arc::new(AtomicBool::new(false));
    let (answers, over) = (Arc::clone(&may_answer), Arc::clone(&is_over));
    let origin = raw_origin(&[], move |mut raw, _| {
        let stream = next_request(&mut raw).unwrap();
        raw.send(&frame(HEADERS, END_HEADERS, stream, &literals(&[(":status", "200")]))).unwrap();
        eventually("the endpoint has left", || answers.load(SeqCst));
        raw.send(&frame(DATA, END_STREAM, stream, b"late")).unwrap();
        raw.until(|frame| frame.kind == GOAWAY).unwrap();
        over.store(true, SeqCst);
    });
    let other = Origin::ok("other");
    let rig = before(origin.address);
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the answer begins", || rig.admin_json("/services").to_string().contains("\"in_flight\":1"));
    rig.reloaded(&config(&format!("\"{}\"", other.address), ""));
    may_answer.store(true, SeqCst);
    assert!(matches!(client.read("GET").unwrap(), Read1::Answer(answer) if answer.text() == "late"));
    eventually("the connection is closed", || is_over.load(SeqCst));
    assert_eq!(get(&rig).text(), "other");
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_a_502_for_everybody_who_waits() {
    let rig = before(crate::support::free_address());
    let answers = at_once(&rig, &paths(20));
    assert!(answers.iter().all(|(status, _)| *status == 502), "{answers:?}");
}

#[test]
fn an_endpoint_that_speaks_http1_is_no_http2_endpoint() {
    let origin = Origin::run(|stream, _, _| {
        let _ = std::io::Write::write_all(stream, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        Next::Keep
    });
    let rig = before(origin.address);
    assert_eq!(get(&rig).status, 502);
    assert_eq!(record(&rig, 1)["refusal"], "broken_response");
}

/// `app.internal` without authorities.
fn tls_config(alpn: &[&[u8]]) -> rustls::ServerConfig {
    let mut config = TlsOrigin::config(&Pair::of(&["app.internal"]), None);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

#[test]
fn tls_must_agree_to_http2_or_may() {
    let http2 = |alpn: &[&[u8]]| Origin2::run(Some(tls_config(alpn)), |mut ask: Ask| async move { ask.ok("http2") });
    let http1 = |alpn: &[&[u8]]| TlsOrigin::answering(tls_config(alpn), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhttp1");
    let ask = |address: SocketAddr, protocol: &str| {
        let rig = before_with(&format!("\"{address}\""), &format!("protocol = \"{protocol}\"\ntls = {{ insecure = true }}"));
        let answer = get(&rig);
        // And once more, over what is there already.
        assert_eq!(get(&rig).text(), answer.text());
        (answer.text(), record(&rig, 1)["refusal"].clone(), rig.log())
    };
    let both: &[&[u8]] = &[b"h2", b"http/1.1"];
    let origin = http2(both);
    assert_eq!((ask(origin.address, "h2").0, ask(origin.address, "auto").0), ("http2".to_owned(), "http2".to_owned()));
    assert_eq!(origin.connections(), 2);
    let origin = http1(&[b"http/1.1"]);
    assert_eq!(ask(origin.address, "auto").0, "http1");
    assert_eq!(ask(origin.address, "h2").1, "tls_failed");
    // It knows nothing of ALPN.
    let origin = http1(&[]);
    assert_eq!(ask(origin.address, "auto").0, "http1");
    let (_, refusal, log) = ask(origin.address, "h2");
    assert_eq!(refusal, "tls_failed");
    assert!(log.contains("it did not agree to HTTP/2"), "{log}");
}

#[test]
fn a_scheme_speaks_for_one_endpoint() {
    let http2 = Origin2::run(None, |mut ask: Ask| async move { ask.ok("http2") });
    let http1 = Origin::ok("http1");
    let rig = before_with(&format!("\"h2c://{}\", \"{}\"", http2.address, http1.address), "");
    let mut answers = [get(&rig).text(), get(&rig).text()];
    answers.sort();
    assert_eq!(answers, ["http1", "http2"]);
    assert_eq!(rig.admin_json("/services").to_string().matches("h2c://").count(), 1);
}

#[test]
fn mistakes_have_a_place_and_a_remedy() {
    let check = |endpoints: &str, settings: &str, message: &str, remedy: &str| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("attache.toml");
        std::fs::write(&path, config(endpoints, settings)).unwrap();
        let output = binary().args(["check", "--strict"]).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{endpoints} {settings}");
        assert!(text.contains(message) && text.contains(remedy) && text.contains("attache.toml:"), "{text}");
    };
    check("\"h2c://a:1\"", "tls = {}", "in a pool with `tls`", "protocol = \"h2\"");
    check("\"h2c://a:1\"", "protocol = \"http/1.1\"", "the pool says HTTP/1.1", "remove `protocol`");
    check("\"a:1\"", "protocol = \"auto\"", "no endpoint here speaks TLS", "protocol = \"h2\"");
    check("\"a:1\"", "protocol = \"h3\"", "`h3` is not a protocol of endpoints", "h2");
}

/// Streams are bounded by what the endpoint says first, however late that is.
#[test]
fn nobody_overtakes_the_endpoints_settings() {
    let origin = Origin::raw(|stream, _| {
        let Some(mut raw) = Raw::accept(stream) else { return };
        let first = next_request(&mut raw).unwrap();
        // MAX_CONCURRENT_STREAMS = 1.
        raw.send(&frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1])).unwrap();
        raw.send(&answer(first, "200", "ok")).unwrap();
        let mut is_open = false;
        while let Ok(Some(got)) = raw.next() {
            match got.kind {
                HEADERS => {
                    assert!(!std::mem::replace(&mut is_open, true));
                    raw.send(&answer(got.stream, "200", "ok")).unwrap();
                    is_open = false;
                }
                WINDOW_UPDATE | SETTINGS => {}
                _ => {}
            }
        }
    });
    let rig = before(origin.address);
    let answers = at_once(&rig, &paths(10));
    assert!(answers.iter().all(|answer| *answer == (200, "ok".to_owned())), "{answers:?}");
    assert_eq!(attempts(&rig, origin.address, "ok"), 10.0);
}

/// A call as gRPC makes it.
fn call(path: &str, timeout: Option<&str>) -> http::Request<()> {
    let mut call =
        http::Request::post(format!("http://a.example{path}")).header("content-type", "application/grpc").header("te", "trailers");
    if let Some(timeout) = timeout {
        call = call.header("grpc-timeout", timeout);
    }
    call.body(()).unwrap()
}

#[test]
fn calls_of_grpc_pass_and_their_errors_are_grpcs() {
    let origin = Origin2::run(None, |mut ask: Ask| async move {
        if ask.path() == "/hang" {
            let _ = std::future::poll_fn(|cx| ask.respond.poll_reset(cx)).await;
            return;
        }
        let message = ask.body().await.unwrap();
        let mut send = ask.head(200, &[("content-type", "application/grpc")], false);
        send.send_data(message.into(), false).unwrap();
        let status = [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))];
        let _ = send.send_trailers(http::HeaderMap::from_iter(status));
    });
    let rig = before(origin.address);
    run(async {
        let mut client = Http2::plain(rig.address("web")).await;
        let answer = client.ask_with(call("/", Some("1H")), &[b"message"], None).await.unwrap();
        assert_eq!(
            (answer.status, answer.text(), answer.trailers.unwrap()["grpc-status"].to_str().unwrap()),
            (200, "message".to_owned(), "0")
        );
        let answer = client.ask_with(call("/hang", Some("50m")), &[b"message"], None).await.unwrap();
        assert_eq!((answer.status, answer.header("grpc-status"), answer.header("grpc-message")), (200, Some("4"), Some("gateway timeout")));
        assert_eq!((answer.header("content-type"), answer.trailers.is_none()), (Some("application/grpc"), true));
    });
    assert_eq!(record(&rig, 2)["refusal"], "route_timeout");
    let rig = before(crate::support::free_address());
    run(async {
        let mut client = Http2::plain(rig.address("web")).await;
        let answer = client.ask_with(call("/", None), &[b"message"], None).await.unwrap();
        assert_eq!((answer.status, answer.header("grpc-status"), answer.text()), (200, Some("14"), String::new()));
        // Others read a status of HTTP.
        assert_eq!(client.get("/").await.unwrap().status, 502);
    });
}
