//! Pools under pressure: limits and queues, ejection, zones, and clients that stay with their endpoint.
//!
//! Which requests go out again is in `retries.rs`, what probes find in `health.rs`.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::support::http2_origin::Origin2;
use crate::support::{Answer, Client, Next, Origin, PATIENCE, Read1, Rig, eventually, free_address};

/// A pool named `app` behind a listener named `web`; one worker unless `process` says otherwise.
fn rig(process: &str, endpoints: &[String], settings: &str) -> Rig {
    Rig::start(&text(process, endpoints, settings))
}

fn text(process: &str, endpoints: &[String], settings: &str) -> String {
    let workers = if process.contains("workers") { "" } else { "workers = 1\n" };
    format!(
        "[process]\n{workers}{process}\n[log]\naccess = \"json\"\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n\
         [service.app]\nendpoints = [{}]\n{settings}\n",
        endpoints.join(", ")
    )
}

fn quoted(origins: &[Origin]) -> Vec<String> {
    origins.iter().map(|origin| format!("\"{}\"", origin.address)).collect()
}

/// Origins that answer with their number.
fn numbered(count: usize) -> Vec<Origin> {
    (0..count).map(|number| Origin::ok(&number.to_string())).collect()
}

/// Holds requests until it is opened.
#[derive(Default)]
struct Door {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Door {
    fn pass(&self) {
        let open = self.is_open.lock().unwrap();
        drop(self.opened.wait_timeout_while(open, PATIENCE, |is_open| !*is_open).unwrap());
    }

    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

/// Answers once the door is open.
fn held(door: &Arc<Door>) -> Origin {
    let door = Arc::clone(door);
    Origin::run(move |stream, _, _| {
        door.pass();
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_ok() { Next::Keep } else { Next::Close }
    })
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

fn asking(rig: &Rig) -> Client {
    let mut client = rig.connect("web");
    client.send(GET).unwrap();
    client
}

#[track_caller]
fn answer(client: &mut Client) -> Answer {
    match client.read("GET").unwrap() {
        Read1::Answer(answer) => answer,
        other => panic!("no answer but {other:?}"),
    }
}

#[test]
fn requests_beyond_the_limit_wait_in_order_and_beyond_the_queue_are_refused() {
    let door = Arc::default();
    let origin = held(&door);
    let rig = rig("workers = 2", &quoted(std::slice::from_ref(&origin)), "limits = { requests = 2, queue = 2, wait = \"20s\" }");
    let mut first: Vec<Client> = (0..2).map(|_| asking(&rig)).collect();
    eventually("two are with the endpoint", || origin.seen().len() == 2);
    let mut waiting: Vec<Client> = (0..2).map(|_| asking(&rig)).collect();
    eventually("two wait", || rig.admin_json("/services")[0]["waiting"] == 2);
    let refused = answer(&mut asking(&rig));
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    eventually("it is counted", || rig.metric("attache_refusals_total{listener=\"web\",reason=\"overloaded\"}") == 1.0);
    assert_eq!(origin.seen().len(), 2, "no more than two at once");
    door.open();
    for client in first.iter_mut().chain(&mut waiting) {
        assert_eq!(answer(client).status, 200);
    }
    assert_eq!(origin.seen().len(), 4);
}

#[test]
fn who_waits_too_long_is_refused_and_who_leaves_makes_room() {
    let door = Arc::default();
    let origin = held(&door);
    let rig = rig("", &quoted(std::slice::from_ref(&origin)), "limits = { requests = 1, queue = 1, wait = \"300ms\" }");
    let mut first = asking(&rig);
    eventually("one is with the endpoint", || origin.seen().len() == 1);
    assert_eq!(answer(&mut asking(&rig)).status, 503, "it waited");
    let leaver = asking(&rig);
    drop(leaver);
    // Its place in the queue is free at once, or when it is noticed.
    assert_eq!(answer(&mut asking(&rig)).status, 503);
    door.open();
    assert_eq!(answer(&mut first).status, 200);
    assert_eq!(answer(&mut asking(&rig)).status, 200);
}

#[test]
fn connections_are_limited_idle_ones_included() {
    let door = Arc::default();
    let (busy, quiet) = (held(&door), Origin::ok("quiet"));
    let endpoints = vec![format!("\"{}\"", quiet.address), format!("\"{}\"", busy.address)];
    let rig = rig("", &endpoints, "limits = { connections = 1, wait = \"20s\" }");
    assert_eq!(rig.connect("web").ask("GET", "/").unwrap().text(), "quiet");
    // The one connection there may be is idle with the first endpoint: it makes room.
    let mut first = asking(&rig);
    eventually("one is with the second endpoint", || busy.seen().len() == 1);
    let mut second = asking(&rig);
    door.open();
    assert_eq!((answer(&mut first).status, answer(&mut second).status), (200, 200));
    assert_eq!(quiet.connections(), 2, "its first connection was closed");
}

// Seen: connections that requests share held their places for as long as they were open.
#[test]
fn an_idle_connection_of_http2_makes_room_for_another_endpoint() {
    let origins = [0, 1].map(|_| {
        Origin2::run(None, |mut ask| async move {
            ask.ok("hello");
        })
    });
    let endpoints: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address)).collect();
    let rig = rig("", &endpoints, "protocol = \"h2\"\nlimits = { connections = 1, wait = \"500ms\" }");
    let mut client = rig.connect("web");
    let statuses: Vec<u16> = (0..4).map(|_| client.request("GET", "/").unwrap().status).collect();
    assert_eq!(statuses, [200; 4]);
}

#[test]
fn without_a_connection_in_time_a_request_is_refused() {
    let door = Arc::default();
    let origin = held(&door);
    let rig = rig("", &quoted(std::slice::from_ref(&origin)), "limits = { connections = 1, wait = \"200ms\" }");
    let mut first = asking(&rig);
    eventually("one is with the endpoint", || origin.seen().len() == 1);
    assert_eq!(answer(&mut asking(&rig)).status, 503);
    assert_eq!(origin.connections(), 1);
    door.open();
    assert_eq!(answer(&mut first).status, 200);
}

#[test]
fn limits_hold_over_a_reload_that_leaves_them_alone() {
    let door = Arc::default();
    let origin = held(&door);
    let endpoints = quoted(std::slice::from_ref(&origin));
    let limits = "limits = { requests = 1, queue = 0, wait = \"1s\" }";
    let rig = rig("", &endpoints, limits);
    let mut first = asking(&rig);
    eventually("one is with the endpoint", || origin.seen().len() == 1);
    rig.reloaded(&text("", &endpoints, &format!("{limits}\ntimeouts = {{ connect = \"2s\" }}")));
    assert_eq!(answer(&mut asking(&rig)).status, 503, "the first one still counts");
    door.open();
    assert_eq!(answer(&mut first).status, 200);
}

#[test]
fn an_adaptive_limit_lets_in_less_where_answers_become_slow() {
    // Does four at once in 5 ms each; the rest waits its turn.
    let slots = Arc::new((Mutex::new(4usize), Condvar::new()));
    let origin = Origin::run(move |stream, _, _| {
        let mut free = slots.1.wait_while(slots.0.lock().unwrap(), |free| *free == 0).unwrap();
        *free -= 1;
        drop(free);
        std::thread::sleep(Duration::from_millis(5));
        *slots.0.lock().unwrap() += 1;
        slots.1.notify_one();
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_ok() { Next::Keep } else { Next::Close }
    });
    let rig = rig("", &quoted(std::slice::from_ref(&origin)), "limits = { requests = 256, adaptive = true, wait = \"20s\" }");
    let limit = || rig.admin_json("/services")[0]["requests_max"].as_u64().unwrap();
    let before = limit();
    let is_over = Arc::new(AtomicBool::new(false));
    let address = rig.address("web");
    let clients: Vec<_> = (0..128)
        .map(|_| {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                let mut client = Client::tcp(address).unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(client.request("GET", "/").unwrap().status, 200);
                }
            })
        })
        .collect();
    eventually("the limit falls", || limit() < before / 2);
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
}

/// Answers 500 while it is told to, and its number otherwise.
fn failing(number: usize, fails: &Arc<AtomicBool>) -> Origin {
    let fails = Arc::clone(fails);
    Origin::run(move |stream, _, _| {
        let status = if fails.load(Ordering::Relaxed) { "500 Sorry" } else { "200 OK" };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\n{number}").unwrap();
        Next::Keep
    })
}

fn state(rig: &Rig, endpoint: usize) -> String {
    rig.admin_json("/services")[0]["endpoints"][endpoint]["state"].as_str().unwrap().to_owned()
}

#[test]
fn failures_in_a_row_eject_an_endpoint_for_a_time() {
    let fails = Arc::new(AtomicBool::new(true));
    let origins = [failing(0, &fails), Origin::ok("1"), Origin::ok("2")];
    let rig = rig("", &quoted(&origins), "eject = { consecutive = 2, for = \"1s\" }");
    let mut client = rig.connect("web");
    let statuses: Vec<u16> = (0..12).map(|_| client.request("GET", "/").unwrap().status).collect();
    assert_eq!(statuses.iter().filter(|&&status| status == 500).count(), 2, "{statuses:?}");
    assert_eq!(state(&rig, 0), "ejected");
    let endpoint = origins[0].address;
    assert_eq!(rig.metric(&format!("attache_endpoint_up{{service=\"app\",endpoint=\"{endpoint}\"}}")), 0.0);
    assert_eq!(
        rig.metric(&format!("attache_endpoint_ejections_total{{service=\"app\",endpoint=\"{endpoint}\",reason=\"consecutive\"}}")),
        1.0
    );
    // The turns of who is out are shared evenly.
    let turns: String = (0..9).map(|_| client.request("GET", "/").unwrap().text()).collect();
    assert!((4..=5).contains(&turns.matches('1').count()), "{turns}");
    fails.store(false, Ordering::Relaxed);
    eventually("it is back", || client.request("GET", "/").unwrap().text() == "0");
    assert_eq!(rig.metric(&format!("attache_endpoint_up{{service=\"app\",endpoint=\"{endpoint}\"}}")), 1.0);
}

#[test]
fn neither_the_last_endpoint_nor_more_than_a_share_is_ejected() {
    let fails = Arc::new(AtomicBool::new(true));
    let origins: Vec<Origin> = (0..4).map(|number| failing(number, &fails)).collect();
    let rig = rig("", &quoted(&origins), "eject = { consecutive = 1, for = \"1h\" }");
    let mut client = rig.connect("web");
    for _ in 0..40 {
        assert_eq!(client.request("GET", "/").unwrap().status, 500);
    }
    let ejected = (0..4).filter(|&endpoint| state(&rig, endpoint) == "ejected").count();
    assert_eq!(ejected, 2, "half of four");
    let alone = [failing(0, &fails)];
    let rig = self::rig("", &quoted(&alone), "eject = { consecutive = 1, for = \"1h\", max = \"100%\" }");
    assert_eq!(rig.connect("web").ask("GET", "/").unwrap().status, 500);
    assert_eq!(state(&rig, 0), "up");
}

#[test]
fn a_share_of_failures_ejects_too() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    // Every second request fails, so never two in a row.
    let flaky = Origin::run(move |stream, _, _| {
        let status = if counting.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { "500 Sorry" } else { "200 OK" };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
        Next::Keep
    });
    let origins = [flaky, Origin::ok("1")];
    let rig = rig("", &quoted(&origins), "eject = { errors_over = \"40%\", min_requests = 10, for = \"1h\" }");
    let mut client = rig.connect("web");
    for _ in 0..100 {
        client.request("GET", "/").unwrap();
    }
    assert_eq!(state(&rig, 0), "ejected");
    let count = asked.load(Ordering::Relaxed);
    assert!((10..=24).contains(&count), "{count}");
}

// Seen: an answer that was cut short for its client's sake counted as a reset of the endpoint's.
#[test]
fn clients_cannot_eject_an_endpoint_by_their_own_time_or_their_own_mistakes() {
    let endless = |_: usize| {
        Origin::run(|stream, _, _| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel").unwrap();
            // Until the other end is closed.
            let _ = stream.read(&mut [0; 64]);
            Next::Close
        })
    };
    let origins = [endless(0), endless(1)];
    let rig = rig("", &quoted(&origins), "eject = { consecutive = 1, for = \"1h\" }");
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: 100ms\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ] {
        for _ in 0..2 {
            let mut client = rig.connect("web");
            client.send(request).unwrap();
            let _ = client.read("GET");
        }
    }
    eventually("nothing is in flight", || {
        rig.admin_json("/services")[0]["endpoints"].as_array().unwrap().iter().all(|endpoint| endpoint["in_flight"] == 0)
    });
    assert_eq!([state(&rig, 0), state(&rig, 1)], ["up", "up"]);
}

#[test]
fn ejection_outlives_a_reload() {
    let fails = Arc::new(AtomicBool::new(true));
    let origins = [failing(0, &fails), Origin::ok("1")];
    let settings = "eject = { consecutive = 1, for = \"1h\" }";
    let rig = rig("", &quoted(&origins), settings);
    let mut client = rig.connect("web");
    (0..4).for_each(|_| drop(client.request("GET", "/").unwrap()));
    assert_eq!(state(&rig, 0), "ejected");
    rig.reloaded(&text("", &quoted(&origins), &format!("{settings}\nbalance = \"random\"")));
    assert_eq!(state(&rig, 0), "ejected");
    (0..20).for_each(|_| assert_eq!(client.request("GET", "/").unwrap().text(), "1"));
}

#[test]
fn ones_own_zone_is_preferred_while_enough_of_it_serves() {
    let fails = Arc::new(AtomicBool::new(false));
    let origins = [failing(0, &fails), failing(1, &fails), Origin::ok("2")];
    let endpoint = |number: usize, zone: &str| format!("{{ address = \"{}\", zone = \"{zone}\" }}", origins[number].address);
    let endpoints = vec![endpoint(0, "a"), endpoint(1, "a"), endpoint(2, "b")];
    let rig = rig("zone = \"a\"", &endpoints, "eject = { consecutive = 1, for = \"1h\", max = \"100%\" }");
    let mut client = rig.connect("web");
    let turns: String = (0..10).map(|_| client.request("GET", "/").unwrap().text()).collect();
    assert_eq!(turns, "0101010101");
    fails.store(true, Ordering::Relaxed);
    (0..4).for_each(|_| drop(client.request("GET", "/").unwrap()));
    let turns: String = (0..10).map(|_| client.request("GET", "/").unwrap().text()).collect();
    assert_eq!(turns, "2222222222", "nobody of the own zone is left");
}

#[test]
fn a_subset_of_a_large_pool_serves_and_the_others_stand_in() {
    let fails = Arc::new(AtomicBool::new(false));
    let origins: Vec<Origin> = (0..8).map(|number| failing(number, &fails)).collect();
    let rig = rig("", &quoted(&origins), "subset = 3\neject = { consecutive = 1, for = \"1h\", max = \"40%\" }");
    let mut client = rig.connect("web");
    let mut asked = || {
        let turns: String = (0..60).map(|_| client.request("GET", "/").unwrap().text()).collect();
        let mut digits: Vec<char> = turns.chars().collect();
        digits.sort_unstable();
        digits.dedup();
        digits
    };
    let subset = asked();
    assert_eq!(subset.len(), 3, "{subset:?}");
    assert_eq!(asked(), subset);
    fails.store(true, Ordering::Relaxed);
    let _ = asked();
    fails.store(false, Ordering::Relaxed);
    let others = asked();
    assert!(others.iter().any(|digit| !subset.contains(digit)), "{subset:?} {others:?}");
}

#[test]
fn every_way_to_balance_serves_and_avoids_who_is_out() {
    for balance in ["round-robin", "least-requests", "p2c", "ewma", "random"] {
        let mut endpoints = quoted(&[]);
        let origins = numbered(3);
        endpoints.extend(quoted(&origins));
        endpoints.push(format!("\"{}\"", free_address()));
        let rig = rig("", &endpoints, &format!("balance = \"{balance}\"\neject = {{ consecutive = 1, for = \"1h\" }}"));
        let mut client = rig.connect("web");
        let turns: String = (0..300).map(|_| client.request("GET", "/").unwrap().text()).collect();
        // Who was slow once is asked less for a while; how much less is the machine's mood.
        let least = if balance == "ewma" { 1 } else { 50 };
        for number in ["0", "1", "2"] {
            assert!((least..=300).contains(&turns.matches(number).count()), "{balance}: {turns}");
        }
        assert_eq!(state(&rig, 3), "ejected", "{balance}");
    }
}

/// The cookie of an answer, as a client sends it back.
fn cookie(answer: &Answer) -> Option<String> {
    answer.header("set-cookie").map(|field| field.split(';').next().unwrap().to_owned())
}

fn ask_with(rig: &Rig, fields: &str) -> Answer {
    let mut client = rig.connect("web");
    client.send(format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")).unwrap();
    answer(&mut client)
}

#[test]
fn a_cookie_keeps_a_client_with_its_endpoint_over_reloads_and_changes() {
    let origins = numbered(4);
    let settings = "sticky = { cookie = \"attache\", ttl = \"1h\" }";
    let rig = rig("workers = 2", &quoted(&origins[..3]), settings);
    let clients: Vec<(String, String)> = (0..9)
        .map(|_| {
            let first = ask_with(&rig, "");
            (cookie(&first).expect("a cookie"), first.text())
        })
        .collect();
    let field = ask_with(&rig, "").header("set-cookie").unwrap().to_owned();
    for part in ["; Path=/", "; HttpOnly", "; SameSite=Lax", "; Max-Age=3600"] {
        assert!(field.contains(part), "{field}");
    }
    assert!(!field.contains("127.0.0.1") && !field.contains("Secure"), "{field}");
    let mut seen: Vec<&str> = clients.iter().map(|(_, endpoint)| endpoint.as_str()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, ["0", "1", "2"], "new clients are balanced");
    let check = |what: &str| {
        for (cookie, endpoint) in &clients {
            let again = ask_with(&rig, &format!("Cookie: a=b; {cookie}\r\n"));
            assert_eq!((&again.text(), again.header("set-cookie")), (endpoint, None), "{what}");
        }
    };
    check("as before");
    rig.reloaded(&text("workers = 2", &quoted(&origins), &format!("{settings}\nbalance = \"p2c\"")));
    check("after a reload with one endpoint more");
    let forged = ask_with(&rig, "Cookie: attache=AAAAAAAAAAAAAAAAAAAAAA\r\n");
    assert!(cookie(&forged).is_some(), "a cookie that nobody gave is none");
}

#[test]
fn who_had_to_move_stays_moved() {
    for (sticky, is_cookie) in [("{ cookie = \"attache\" }", true), ("{ by = \"header:x-user\" }", false)] {
        let fails = Arc::new(AtomicBool::new(false));
        let origins: Vec<Origin> = (0..3).map(|number| failing(number, &fails)).collect();
        let rig = rig("", &quoted(&origins), &format!("sticky = {sticky}\neject = {{ consecutive = 1, for = \"1s\", max = \"34%\" }}"));
        let mut field = "X-User: ann\r\n".to_owned();
        let mut ask = || {
            let answer = ask_with(&rig, &field);
            if let Some(cookie) = cookie(&answer) {
                field = format!("X-User: ann\r\nCookie: {cookie}\r\n");
            }
            answer
        };
        let home = ask().text();
        assert_eq!(ask().text(), home);
        fails.store(true, Ordering::Relaxed);
        assert_eq!(ask().status, 500, "{is_cookie}");
        fails.store(false, Ordering::Relaxed);
        let moved = ask().text();
        assert_ne!(moved, home, "its endpoint is out");
        let home: usize = home.parse().unwrap();
        eventually("its endpoint is back", || {
            ask_with(&rig, "X-User: bob\r\n");
            ask_with(&rig, "X-User: eve\r\n");
            ask_with(&rig, "");
            state(&rig, home) == "up"
        });
        assert_eq!(ask().text(), moved);
    }
}

#[test]
fn a_key_goes_to_the_same_endpoint_in_every_process() {
    let origins = numbered(5);
    let settings = "sticky = { by = [\"query:none\", \"header:x-user\", \"client-ip\"] }";
    let one = rig("workers = 2", &quoted(&origins), settings);
    let mut reversed = quoted(&origins);
    reversed.reverse();
    let other = rig("", &reversed, settings);
    let mut counts = [0; 5];
    for user in 0..100 {
        let field = format!("X-User: user-{user}\r\n");
        let place = ask_with(&one, &field).text();
        assert_eq!(ask_with(&other, &field).text(), place);
        counts[place.parse::<usize>().unwrap()] += 1;
    }
    assert!(counts.iter().all(|&count| count >= 5), "{counts:?}");
    let place = ask_with(&one, "").text();
    assert_eq!(ask_with(&other, "").text(), place, "the next source: the address");
}

#[test]
fn a_drained_endpoint_keeps_its_clients_and_gets_no_new_ones() {
    let origins = numbered(2);
    let settings = "sticky = { cookie = \"attache\" }";
    let rig = rig("", &quoted(&origins), settings);
    let first = ask_with(&rig, "");
    let (home, cookie) = (first.text(), cookie(&first).unwrap());
    let weighted = |number: usize| {
        let weight = u8::from(home != number.to_string());
        format!("{{ address = \"{}\", weight = {weight} }}", origins[number].address)
    };
    rig.reloaded(&text("", &[weighted(0), weighted(1)], settings));
    assert_eq!(ask_with(&rig, &format!("Cookie: {cookie}\r\n")).text(), home);
    for _ in 0..6 {
        assert_ne!(ask_with(&rig, "").text(), home);
    }
}

#[test]
fn an_endpoint_that_comes_back_begins_slowly() {
    let fails = Arc::new(AtomicBool::new(true));
    let origins = [failing(0, &fails), Origin::ok("1")];
    let rig = rig("", &quoted(&origins), "slow_start = \"1h\"\neject = { consecutive = 1, for = \"1s\" }");
    let mut client = rig.connect("web");
    (0..4).for_each(|_| drop(client.request("GET", "/").unwrap()));
    assert_eq!(state(&rig, 0), "ejected");
    fails.store(false, Ordering::Relaxed);
    eventually("it is back", || {
        client.request("GET", "/").unwrap();
        state(&rig, 0) == "warming"
    });
    let turns: String = (0..400).map(|_| client.request("GET", "/").unwrap().text()).collect();
    let share = turns.matches('0').count();
    // A tenth of its share at first, where its share is a half.
    assert!((1..=80).contains(&share), "{share}");
}

#[test]
fn wrong_settings_are_told_with_a_remedy() {
    let check = |settings: &str, expected: &str| {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("attache.toml");
        std::fs::write(&path, text("", &["\"a:1\"".to_owned()], settings)).unwrap();
        let output = crate::support::binary().arg("check").arg(&path).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && told.contains(expected), "{settings}: {told}");
    };
    check("sticky = {}", "sticky by what?");
    check("sticky = { cookie = \"a b\" }", "`a b` is not a name for a cookie");
    check("sticky = { cookie = \"a\", by = \"path\" }", "sticky by a cookie or by a key, not by both");
    check("sticky = { cookie = \"a\", secret = \"short\" }", "a secret needs at least 16 bytes");
    check("sticky = { by = \"clientip\" }", "did you mean \"client-ip\"?");
    check("sticky = { by = \"json:/user\" }", "`json:/user` needs the body, and an endpoint is chosen by the head alone");
    check("sticky = { by = \"header:x user\" }", "`x user` is not the name of a header");
    check("sticky = { by = \"cookie:a;b\" }", "`a;b` is not the name of a cookie");
    check("sticky = { by = \"segment:+1\" }", "`segment:+1` needs a number, from 1");
    check("sticky = { by = \"client-ip/+8\" }", "`client-ip/+8` needs a number of bits");
    check("sticky = { by = [] }", "a key needs a source");
}
