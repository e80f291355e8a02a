//! Shards through the real proxy: whose key goes where, whatever happens to its member, and what is told of it.
//!
//! Placement itself is tested beside its code; here is that it is what requests get.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use attache::algo::dice;

use crate::support::http2::{self, Http2};
use crate::support::{Answer, Client, Fickle, Load, Mood, Next, Origin, Read1, Rig, eventually, free_address};

fn text(addresses: &[SocketAddr], settings: &str, by: &str) -> String {
    let addresses: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"cache\"\n\
         [service.cache.shard]\nby = {by}\nover = [{}]\n{settings}\n",
        addresses.join(", ")
    )
}

fn addresses(fickle: &[Fickle]) -> Vec<SocketAddr> {
    fickle.iter().map(|one| one.address).collect()
}

fn three() -> Vec<Fickle> {
    ["a", "b", "c"].map(Fickle::start).into()
}

#[track_caller]
fn get(rig: &Rig, path: &str) -> Answer {
    rig.connect("web").ask("GET", path).unwrap()
}

/// Who answers each of a hundred keys; every one of them is answered.
#[track_caller]
fn owners(rig: &Rig) -> Vec<String> {
    let mut client = rig.connect("web");
    let owner = |number: usize| {
        let answer = client.request("GET", &format!("/key/{number}")).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    };
    (0..100).map(owner).collect()
}

#[test]
fn a_member_that_is_gone_moves_only_its_own_keys_and_gets_them_back() {
    let caches = three();
    let rig = Rig::start(&text(&addresses(&caches), "", "\"path\""));
    let before = owners(&rig);
    let different: HashSet<&String> = before.iter().collect();
    assert_eq!(different.len(), 3, "{before:?}");
    caches[1].is(Mood::Gone);
    let meanwhile = owners(&rig);
    for (was, is) in before.iter().zip(&meanwhile) {
        assert!(if was == "b" { is != "b" } else { is == was }, "{was} {is}");
    }
    caches[1].is(Mood::Well);
    assert_eq!(owners(&rig), before);
    let requests: f64 = rig.metrics("attache_shard_requests_total{service=\"cache\"");
    let moved = before.iter().filter(|owner| *owner == "b").count();
    assert_eq!(requests as usize, 300 + moved, "a request that goes on is sent twice");
}

#[test]
fn keys_of_a_store_fail_with_its_member() {
    let stores = three();
    let rig = Rig::start(&text(&addresses(&stores), "on_down = \"fail\"", "\"path\""));
    let before = owners(&rig);
    stores[0].is(Mood::Gone);
    for (number, owner) in before.iter().enumerate() {
        let answer = get(&rig, &format!("/key/{number}"));
        assert_eq!(answer.status, if owner == "a" { 503 } else { 200 }, "{owner}");
        if owner == "a" {
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    }
    eventually("it is counted", || rig.metrics("attache_refusals_total{listener=\"web\",reason=\"shard_down\"}") > 0.0);
    stores[0].is(Mood::Well);
    assert_eq!(owners(&rig), before);
}

#[test]
fn a_member_that_probes_find_sick_is_passed_over_without_being_asked() {
    let caches = three();
    let mut config = String::from(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"cache\"\n\
         [service.cache.shard]\nby = \"path\"\nover = [\"a\", \"b\", \"c\"]\n",
    );
    for cache in &caches {
        let _ = write!(
            config,
            "[service.{}]\nendpoints = [\"{}\"]\nhealth = {{ path = \"/health\", interval = \"200ms\", timeout = \"200ms\", rise = 1, fall = 1 }}\n",
            cache.name, cache.address
        );
    }
    let rig = Rig::start(&config);
    let before = owners(&rig);
    caches[2].is(Mood::Gone);
    let is_down = || rig.admin_json("/services").to_string().contains("\"healthy\":false");
    eventually("it is found sick", is_down);
    let asked = rig.metrics("attache_upstream_requests_total{service=\"c\"");
    let meanwhile = owners(&rig);
    assert!(before.iter().zip(&meanwhile).all(|(was, is)| was == is || was == "c"));
    assert_eq!(rig.metrics("attache_upstream_requests_total{service=\"c\""), asked);
    caches[2].is(Mood::Well);
    eventually("it is back", || !is_down());
    assert_eq!(owners(&rig), before);
}

#[test]
fn with_nobody_left_the_answer_says_why() {
    let rig = Rig::start(&text(&[free_address(), free_address()], "", "\"path\""));
    assert_eq!(get(&rig, "/a").status, 502);
    eventually("it is counted", || rig.metrics("attache_refusals_total{listener=\"web\",reason=\"connect_failed\"}") == 1.0);
}

#[test]
fn a_request_without_a_key_goes_anywhere_or_nowhere() {
    let caches = three();
    let rig = Rig::start(&text(&addresses(&caches), "", "\"header:x-user\""));
    let all: HashSet<String> = owners(&rig).into_iter().collect();
    assert_eq!(all.len(), 3, "a hundred requests reach everybody");
    rig.reloaded(&text(&addresses(&caches), "keyless = \"refuse\"", "\"header:x-user\""));
    assert_eq!(get(&rig, "/").status, 400);
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\nX-User: ann\r\n\r\n").unwrap();
    assert!(matches!(client.read("GET").unwrap(), Read1::Answer(answer) if answer.status == 200));
}

/// The endpoints of one pool, then those of files; the order in which they are named is no matter.
#[test]
fn keys_lie_on_the_endpoints_of_a_pool_as_on_services() {
    let caches = three();
    let over_services = Rig::start(&text(&addresses(&caches), "", "\"path\""));
    let before = owners(&over_services);
    let endpoints: Vec<String> = caches.iter().rev().map(|cache| format!("\"{}\"", cache.address)).collect();
    let config = |pool: &str| {
        format!(
            "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"cache\"\n\
             [service.cache.shard]\nby = \"path\"\nover = {{ pool = \"caches\" }}\n[service.caches]\n{pool}\n"
        )
    };
    let rig = Rig::start(&config(&format!("endpoints = [{}]", endpoints.join(", "))));
    assert_eq!(owners(&rig), before);
    caches[0].is(Mood::Gone);
    assert!(owners(&rig).iter().zip(&before).all(|(is, was)| is == was || was == "a"));
    caches[0].is(Mood::Well);
    std::fs::write(rig.directory.path().join("endpoints.toml"), format!("endpoints = [{}]", endpoints.join(", "))).unwrap();
    rig.reloaded(&config("discover = { file = \"endpoints.toml\" }"));
    assert_eq!(owners(&rig), before);
    assert!(rig.metrics("attache_shard_requests_total{service=\"cache\"") >= 300.0);
    // Of a store, only the owner.
    rig.reloaded(&config(&format!("endpoints = [{}]", endpoints.join(", "))).replace("over =", "on_down = \"fail\"\nover ="));
    caches[0].is(Mood::Gone);
    let lost = before.iter().position(|owner| owner == "a").unwrap();
    assert_eq!(get(&rig, &format!("/key/{lost}")).status, 503);
}

/// libketama knows no names: with them or without, keys are where addresses put them.
#[test]
fn names_are_nothing_to_a_method_that_goes_by_addresses() {
    let caches = three();
    let owners_by = |over: &dyn Fn(&Fickle) -> String| {
        let over: Vec<String> = caches.iter().map(over).collect();
        owners(&Rig::start(&text(&[], "method = \"libketama\"", "\"path\"").replace("over = []", &format!("over = [{}]", over.join(", ")))))
    };
    let plain = owners_by(&|cache| format!("\"{}\"", cache.address));
    assert_eq!(owners_by(&|cache| format!("{{ address = \"{}\", name = \"{}\" }}", cache.address, cache.name)), plain);
}

#[test]
fn shards_nest_and_do_not_share_bits() {
    let names: Vec<String> = (0..4).map(|number| number.to_string()).collect();
    let caches: Vec<Fickle> = names.iter().map(Fickle::start).collect();
    let inner = |name: &str, one: usize, other: usize| {
        format!("[service.{name}.shard]\nby = \"path\"\nover = [\"{}\", \"{}\"]\n", caches[one].address, caches[other].address)
    };
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"all\"\n\
         [service.all.shard]\nby = \"path\"\nover = [\"left\", \"right\"]\n{}{}",
        inner("left", 0, 1),
        inner("right", 2, 3)
    ));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for owner in owners(&rig) {
        *counts.entry(owner).or_default() += 1;
    }
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert!(counts.values().all(|&count| count >= 10), "{counts:?}");
    // The inner one has nobody: then it is the outer one's turn.
    caches[0].is(Mood::Gone);
    caches[1].is(Mood::Gone);
    assert!(owners(&rig).iter().all(|owner| owner == "2" || owner == "3"));
}

#[test]
fn a_body_goes_on_with_its_request() {
    let caches = three();
    drop(caches);
    let echo = Origin::run(|stream, request, _| {
        let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        let _ =
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", request.body.len(), String::from_utf8_lossy(&request.body));
        assert_eq!(length, request.body.len());
        Next::Keep
    });
    let rig = Rig::start(&text(&[free_address(), echo.address], "", "\"path\""));
    for number in 0..20 {
        let mut client = rig.connect("web");
        client.send(format!("POST /{number} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello")).unwrap();
        assert!(matches!(client.read("POST").unwrap(), Read1::Answer(answer) if answer.status == 200 && answer.text() == "hello"));
    }
}

/// Says what it got.
fn teller(name: &'static str) -> Origin {
    Origin::run(move |stream, request, _| {
        let body = format!("{name} {}", String::from_utf8_lossy(&request.body));
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        Next::Keep
    })
}

#[track_caller]
fn post(rig: &Rig, fields: &str, body: &str) -> Answer {
    let mut client = rig.connect("web");
    client.send(format!("POST /x HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}")).unwrap();
    match client.read("POST").unwrap() {
        Read1::Answer(answer) => answer,
        other => panic!("no answer but {other:?}"),
    }
}

#[test]
fn keys_in_bodies_are_read_and_the_bodies_arrive_whole() {
    let tellers = [teller("a"), teller("b"), teller("c")];
    let addresses: Vec<SocketAddr> = tellers.iter().map(|teller| teller.address).collect();
    let rig = Rig::start(&text(&addresses, "keyless = \"refuse\"", "{ first = [\"json:/user/id\", \"form:user\"], body = \"1KiB\" }"));
    let owner = |answer: &Answer| answer.text().split(' ').next().unwrap().to_owned();
    let mut seen = HashSet::new();
    for user in 0..20 {
        let body = format!("{{\"user\": {{\"id\": \"u{user}\"}}}}");
        let plain = post(&rig, &format!("Content-Length: {}\r\n", body.len()), &body);
        assert_eq!((plain.status, plain.text().split_once(' ').unwrap().1), (200, body.as_str()));
        let halves = body.split_at(body.len() / 2);
        let chunks = format!("{:x}\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n", halves.0.len(), halves.0, halves.1.len(), halves.1);
        let chunked = post(&rig, "Transfer-Encoding: chunked\r\n", &chunks);
        assert_eq!(owner(&chunked), owner(&plain));
        let form = format!("x=1&user=u{user}");
        let form = post(&rig, &format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", form.len()), &form);
        assert_eq!(owner(&form), owner(&plain), "the same key, wherever it was");
        seen.insert(owner(&plain));
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(post(&rig, "Content-Length: 2\r\n", "{}").status, 400, "no key");
    assert_eq!(post(&rig, "Transfer-Encoding: chunked\r\n", "zz\r\n").status, 400, "broken");
    let long = format!("{{\"user\": {{\"id\": \"u1\"}}, \"more\": \"{}\"}}", "x".repeat(2000));
    assert_eq!(post(&rig, &format!("Content-Length: {}\r\n", long.len()), &long).status, 400, "too long for a key");
    assert_eq!(post(&rig, "Transfer-Encoding: chunked\r\n", &format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len())).status, 400);
    rig.reloaded(&text(&addresses, "", "{ first = [\"json:/user/id\"], body = \"1KiB\" }"));
    let whole = post(&rig, "Transfer-Encoding: chunked\r\n", &format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len()));
    assert_eq!((whole.status, whole.text().len()), (200, long.len() + 2), "what was read of it first goes out first");
}

#[test]
fn a_client_that_waits_to_be_told_is_told() {
    let teller = teller("a");
    let rig = Rig::start(&text(&[teller.address], "", "\"json:/id\""));
    let mut client = rig.connect("web");
    client.send("POST /x HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 8\r\n\r\n").unwrap();
    assert!(matches!(client.read_any("POST").unwrap(), Read1::Answer(answer) if answer.status == 100));
    client.send("{\"id\":1}").unwrap();
    assert!(matches!(client.read_any("POST").unwrap(), Read1::Answer(answer) if answer.status == 200 && answer.text() == "a {\"id\":1}"));
    assert_eq!(teller.seen()[0].header("expect"), None);
    // Of a body that is too long for a key, nothing is read: whether it is wanted, the endpoint says.
    let mut client = rig.connect("web");
    client.send("POST /x HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n").unwrap();
    client.send(vec![b'x'; 100_000]).unwrap();
    assert!(matches!(client.read("POST").unwrap(), Read1::Answer(answer) if answer.status == 200));
    assert_eq!(teller.seen()[1].header("expect"), Some("100-continue"));
}

#[test]
fn keys_in_bodies_over_http2_are_the_same() {
    let tellers = [teller("a"), teller("b"), teller("c")];
    let addresses: Vec<SocketAddr> = tellers.iter().map(|teller| teller.address).collect();
    let rig = Rig::start(&text(&addresses, "", "\"json:/id\""));
    let web = rig.address("web");
    http2::run(async {
        let mut client = Http2::plain(web).await;
        for id in 0..10 {
            let body = format!("{{\"id\":{id}}}");
            let one = post(&rig, &format!("Content-Length: {}\r\n", body.len()), &body);
            let other = client.ask_with(http2::request("POST", "/x"), &[body.as_bytes()], None).await.unwrap();
            assert_eq!((other.status, other.text()), (200, one.text()));
        }
    });
}

/// A request that never ends holds nobody but itself.
#[test]
fn a_body_that_does_not_come_is_given_up() {
    let teller = teller("a");
    let config = text(&[teller.address], "", "\"json:/id\"")
        .replace("service = \"cache\"\n", "service = \"cache\"\ntimeouts = { body = \"300ms\" }\n");
    let rig = Rig::start(&config);
    let mut client = rig.connect("web");
    client.send("POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 8\r\n\r\n{\"id").unwrap();
    assert!(matches!(client.read("POST").unwrap(), Read1::Answer(answer) if answer.status == 408));
    assert_eq!(teller.seen().len(), 0);
}

/// Answers after a moment, and knows how many waited at once.
struct Slow {
    origin: Origin,
    peak: Arc<AtomicUsize>,
}

fn slow(moment: Duration) -> Slow {
    let (now, peak) = (AtomicUsize::new(0), Arc::<AtomicUsize>::default());
    let most = Arc::clone(&peak);
    let origin = Origin::run(move |stream, _, _| {
        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        std::thread::sleep(moment);
        now.fetch_sub(1, SeqCst);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
        Next::Keep
    });
    Slow { origin, peak }
}

/// Keys of a Zipf distribution with exponent 1, in an order that a seed says.
fn zipf(keys: usize, draws: usize) -> Vec<usize> {
    let mut ends = Vec::with_capacity(keys);
    let mut sum = 0.0;
    for rank in 1..=keys {
        sum += 1.0 / rank as f64;
        ends.push(sum);
    }
    let mut state = 5;
    let mut draw = || {
        let at = (dice::roll(&mut state) >> 11) as f64 / (1_u64 << 53) as f64 * sum;
        ends.partition_point(|&end| end < at).min(keys - 1)
    };
    (0..draws).map(|_| draw()).collect()
}

/// The most requests that any of twenty shards had at once, while 200 clients asked all the time: ten would be the average.
fn peak_of_200(settings: &str) -> usize {
    let shards: Vec<Slow> = (0..20).map(|_| slow(Duration::from_millis(60))).collect();
    let addresses: Vec<SocketAddr> = shards.iter().map(|shard| shard.origin.address).collect();
    let rig = Rig::start(&text(&addresses, settings, "\"path\""));
    let web = rig.address("web");
    let keys = Arc::new(zipf(10_000, 4000));
    let next = Arc::new(AtomicUsize::new(0));
    let client = |_| {
        let (keys, next) = (Arc::clone(&keys), Arc::clone(&next));
        std::thread::spawn(move || {
            let mut client = Client::tcp(web).unwrap();
            for _ in 0..20 {
                let key = keys[next.fetch_add(1, SeqCst)];
                assert_eq!(client.request("GET", &format!("/{key}")).unwrap().status, 200);
            }
        })
    };
    let clients: Vec<_> = (0..200).map(client).collect();
    for client in clients {
        client.join().unwrap();
    }
    if settings.contains("bound") {
        assert!(rig.metric("attache_shard_spilled_total{service=\"cache\"}") > 100.0);
    }
    shards.iter().map(|shard| shard.peak.load(SeqCst)).max().unwrap()
}

/// Research goal: 1.30 times the average for a bound of 125 %, which is rounded up.
#[test]
fn bounded_load_keeps_the_busiest_shard_near_the_average() {
    let (bounded, plain) = (peak_of_200("bound = \"125%\""), peak_of_200(""));
    println!("of 200 requests on 20 shards the busiest had {bounded} with a bound of 125 %, and {plain} without");
    assert!(plain >= 20, "{plain}");
    assert!(bounded <= 13, "{bounded}");
}

#[test]
fn a_hot_key_is_found_and_its_reads_are_spread() {
    let caches: Vec<Fickle> = (0..5).map(|number| Fickle::start(number.to_string())).collect();
    let config = text(&addresses(&caches), "hot = { share = \"3%\", replicas = 2 }", "\"path\"");
    let rig = Rig::start(&config);
    let home = get(&rig, "/hot").text();
    let mut client = rig.connect("web");
    let mut state = 3;
    let mut hot = Vec::new();
    // One of twenty requests is for the hot key; the others are for as many keys.
    for number in 0..1200 {
        let is_hot = number % 20 == 0;
        let path = if is_hot { "/hot".to_owned() } else { format!("/{}", dice::roll(&mut state)) };
        let answer = client.request("GET", &path).unwrap();
        if is_hot {
            hot.push(answer.text());
        }
    }
    let late: HashSet<&String> = hot[30..].iter().collect();
    assert_eq!(late.len(), 2, "{hot:?}");
    assert!(late.contains(&home), "its own member is one of the two: {home}, {hot:?}");
    let told = rig.admin_json("/services/cache/hot");
    assert_eq!((&told["keys"][0]["key"], &told["keys"][0]["hot"]), (&"/hot".into(), &true.into()), "{told}");
    let share = told["keys"][0]["share"].as_f64().unwrap();
    assert!((0.03..0.08).contains(&share), "{share}");
    assert_eq!(told["keys"][0]["members"].as_array().map(Vec::len), Some(2));
    assert!(rig.metric("attache_shard_hot_requests_total{service=\"cache\"}") > 10.0);
    // Writes stay at home.
    client.send("PUT /hot HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    assert!(matches!(client.read("PUT").unwrap(), Read1::Answer(answer) if answer.text() == home));
    // What was counted stays over a reload that leaves this alone.
    rig.reloaded(&config.replace("workers = 1", "workers = 1\ndrain = \"24s\""));
    assert_eq!(rig.admin_json("/services/cache/hot")["keys"][0]["key"], "/hot");
    assert_eq!(rig.admin("GET", "/services/nobody/hot").status, 404);
}

#[test]
fn a_new_shard_under_load_costs_nothing_and_moves_what_was_planned() {
    let caches: Vec<Fickle> = (0..4).map(|number| Fickle::start(number.to_string())).collect();
    let all = addresses(&caches);
    // Maglev moves one key in a hundred or so between those that stay.
    let method = "method = \"rendezvous\"";
    let (before, after) = (text(&all[..3], method, "\"path\""), text(&all, method, "\"path\""));
    let rig = Rig::start(&before);
    let was = owners(&rig);
    let web = rig.address("web");
    let load = Load::start(500, 1500, move || Client::tcp(web));
    load.reaches(300);
    let beside = tempfile::TempDir::new().unwrap();
    let written = [("old.toml", &before), ("new.toml", &after)].map(|(name, text)| {
        let path = beside.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let planned = crate::support::binary().arg("plan").args(&written).arg("--json").output().unwrap();
    let moved = serde_json::from_slice::<serde_json::Value>(&planned.stdout).unwrap()["shards"][0]["moved"].as_f64().unwrap();
    rig.reloaded(&after);
    let report = load.end();
    assert!(report.failures.is_empty(), "{}", report.few_failures());
    let is = owners(&rig);
    assert!(was.iter().zip(&is).all(|(was, is)| was == is || is == "3"), "nothing moves between those that stay, of a hundred");
    let mut client = rig.connect("web");
    let sample = 2000;
    let taken = (0..sample).filter(|number| client.request("GET", &format!("/other/{number}")).unwrap().text() == "3").count();
    let taken = taken as f64 / f64::from(sample);
    assert!((taken - moved).abs() < 0.04, "{taken} of the keys are at the new one, and {moved} were to move");
}

/// `config/sharded-cache.toml` as it is, but for the addresses and how often is probed.
#[test]
fn the_sample_of_a_sharded_cache_keeps_its_promises() {
    let sample = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/sharded-cache.toml")).unwrap();
    let mut config = sample.replace("0.0.0.0:8080", "127.0.0.1:0").replace("\"2s\", timeout = \"1s\"", "\"200ms\", timeout = \"200ms\"");
    // Two replicas of each cache answer with its number.
    let caches: Vec<[Fickle; 2]> = (0..3).map(|cache| [0, 1].map(|_| Fickle::start(cache.to_string()))).collect();
    for (cache, replicas) in caches.iter().enumerate() {
        for (replica, fickle) in replicas.iter().enumerate() {
            config = config.replace(&format!("10.0.{replica}.{}:8080", cache + 1), &fickle.address.to_string());
        }
    }
    let rig = Rig::start(&config.replace("name = \"cache\"", "name = \"web\""));
    let before = owners(&rig);
    assert_eq!(before.iter().collect::<HashSet<_>>().len(), 3);
    let web = rig.address("web");
    let load = Load::start(300, 1500, move || Client::tcp(web));
    load.reaches(100);
    caches[1][0].is(Mood::Gone);
    assert_eq!(owners(&rig), before, "a replica is missed by nobody");
    caches[1][1].is(Mood::Gone);
    let meanwhile = owners(&rig);
    assert!(before.iter().zip(&meanwhile).all(|(was, is)| if was == "1" { is != "1" } else { is == was }), "{meanwhile:?}");
    caches[1][0].is(Mood::Well);
    caches[1][1].is(Mood::Well);
    let is_back = || !rig.admin_json("/services").to_string().contains("\"healthy\":false");
    eventually("probes find it well", is_back);
    assert_eq!(owners(&rig), before);
    let report = load.end();
    assert!(report.failures.is_empty(), "{}", report.few_failures());
}

#[track_caller]
fn refused(services: &str, part: &str) {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("attache.toml");
    std::fs::write(&path, format!("[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n{services}")).unwrap();
    let output = crate::support::binary().arg("check").arg(&path).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{services}: {told}");
    assert!(told.contains(part), "{services}: {told}");
}

#[test]
fn wrong_shards_are_told_with_a_remedy() {
    let shard = |settings: &str| format!("[service.s.shard]\n{settings}");
    let over = "over = [\"10.0.0.1:80\", \"10.0.0.2:80\"]";
    refused(&shard("by = \"path\"\nover = [\"s\"]"), "`s` is a part of itself");
    refused(
        "[service.s.shard]\nby = \"path\"\nover = [\"t\"]\n[service.t.shard]\nby = \"host\"\nover = [\"s\", \"10.0.0.1:80\"]",
        "is a part of itself",
    );
    refused(&shard("by = \"path\"\nover = [\"10.0.0.1:80\", \"10.0.0.1:80\"]"), "`10.0.0.1:80` is there twice");
    refused(&shard("by = \"path\"\nover = []"), "a shard needs a member");
    refused(&shard(&format!("by = \"pth\"\n{over}")), "did you mean \"path\"?");
    refused(&shard(&format!("by = []\n{over}")), "a key needs a source");
    refused(&shard(&format!("by = \"path\"\n{over}\nmethod = \"maglv\"")), "did you mean \"maglev\"?");
    refused(&shard(&format!("by = \"path\"\n{over}\nmethod = {{ twemproxy = {{ hash = \"fnv1a_65\" }} }}")), "did you mean \"fnv1a_64\"?");
    refused(&shard(&format!("by = \"path\"\n{over}\nmethod = {{ maglev = {{ size = 3 }} }}")), "unknown key `size`");
    refused(
        &shard("by = \"path\"\nover = [{ address = \"10.0.0.1:80\", weight = 2 }, \"10.0.0.2:80\"]\nmethod = \"jump\""),
        "knows no weights",
    );
    refused(
        &shard(&format!("by = \"path\"\n{over}\nmethod = {{ slots = {{ \"10.0.0.1:80\" = \"0-100\" }} }}")),
        "slot 101 is given to nobody",
    );
    refused(&shard(&format!("by = \"path\"\n{over}\nbound = \"90%\"")), "is not a bound");
    refused(&shard(&format!("by = \"path\"\n{over}\nbound = \"125%\"\non_down = \"fail\"")), "on_down");
    refused(&shard(&format!("by = \"path\"\n{over}\nhot = {{ share = \"0.1%\" }}")), "out of range");
    refused(&shard(&format!("by = {{ join = [\"host\", \"path\"], first = [\"path\"] }}\n{over}")), "`first` and `join` together");
    refused(&shard(&format!("by = {{ first = [\"path\"], query = {{ sort = true }} }}\n{over}")), "this key has no `uri`");
    refused(&shard("by = \"path\"\nover = { pool = \"t\" }"), "there is no service `t`");
    refused("[service.s.shard]\nby = \"path\"\nover = { pool = \"t\" }\n[service.t.respond]\nstatus = 200", "`t` is no pool");
    refused(&shard(&format!("by = \"key\"\n{over}")), "Redis and memcached");
}

#[test]
fn streams_have_no_requests_to_shard() {
    refused(
        "[[listener]]\nlisten = \"127.0.0.1:1\"\nprotocol = \"tcp\"\nservice = \"s\"\n[service.s.shard]\nby = \"client-ip\"\nover = [\"10.0.0.1:80\"]",
        "is a shard",
    );
}
