//! What may not allocate, since it is done for every request.
//!
//! A binary of its own: the allocator that counts is the whole program's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use attache::config::{self, File};
use attache::generation::{Generation, Inputs, compile};
use attache::proto::http1::{Limits, Progress, RequestHead};
use attache::refusal::Refusal;
use attache::route::{Head, Headers};
use attache::services::{Asked, Body, Way};
use attache::telemetry::Metrics;
use attache::tls::Sessions;
use attache::value::Diagnostics;

const REQUEST: &[u8] = b"GET /checkout/cart HTTP/1.1\r\nHost: shop.example\r\nCookie: theme=dark; uid=4711-ann; lang=en\r\n\r\n";

fn generation(text: &str) -> Generation {
    let Ok(loaded) = config::from_text("<test>", text, &|_| None) else { panic!("the text is wrong") };
    let mut found = Diagnostics::default();
    let parsed = File::parse(&loaded.root, &loaded.sources, &mut found);
    let metrics: Arc<Metrics> = Metrics::new(1, Refusal::LABELS);
    let inputs = Inputs {
        sources: &loaded.sources,
        hash: String::new(),
        document: serde_json::Value::Null,
        read: &|_| Err(std::io::ErrorKind::NotFound.into()),
        previous: None,
        kept: &HashMap::new(),
        metrics: &metrics,
        sessions: &Sessions::new(),
        workers: 1,
        identity: String::new(),
        now: SystemTime::UNIX_EPOCH,
        started: Instant::now(),
    };
    compile(parsed, &inputs, &mut found).unwrap()
}

/// Allocations of a thousand decisions and of what is counted with them.
fn allocations(services: &str) -> u64 {
    let generation = generation(&format!("[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"checkout\"\n{services}"));
    let listener = &generation.listeners[0];
    let mut request = RequestHead::new();
    let limits = Limits { header_bytes: 1 << 16, headers: 100, uri_bytes: 1 << 14 };
    assert!(matches!(request.parse(REQUEST, &limits), Ok(Progress::Complete)));
    let head = Head {
        method: b"GET",
        scheme: "http",
        authority: b"shop.example",
        host: b"shop.example",
        path: b"/checkout/cart",
        query: None,
        compare_path: b"/checkout/cart",
        headers: Headers { bytes: REQUEST, fields: &request.fields },
        client: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        tls: None,
        request_id: b"0123456789abcdef",
        listener: "web",
    };
    let now = Instant::now();
    let mut keys = Vec::new();
    let mut decide = || {
        let mut way = Way::new(std::mem::take(&mut keys));
        let asked = Asked { head: &head, now, worker: 0, dice: 7, body: Body::Is(b""), passed: &[] };
        assert!(listener.walk(&asked, &mut way).route.is_some());
        way.sent(0, now);
        way.finished(0, 200, Duration::from_millis(3));
        keys = way.into_keys();
    };
    // Whatever is made once.
    decide();
    allocation_counter::measure(|| (0..1000).for_each(|_| decide())).count_total
}

const ARMS: &str = "[service.canary]\nendpoints = [\"127.0.0.1:1\"]\n[service.stable]\nendpoints = [\"127.0.0.1:2\"]\n";

#[test]
fn a_split_allocates_nothing_where_the_request_has_its_key() {
    let split =
        "[service.checkout.split]\narms = { canary = \"10%\", stable = \"rest\" }\nby = \"cookie:uid\"\nforce = { header = \"x-arm\" }\n";
    assert_eq!(allocations(&format!("{split}{ARMS}")), 0);
    let more = "issue = \"uid\"\nonly = { cookie = { theme = \"*\" } }\nsticky = \"arm\"\n\
                ramp = { arm = \"canary\", steps = [\"5%\", \"50%\"], every = \"10m\", abort = { errors_over = \"2%\" } }\n";
    assert_eq!(allocations(&format!("{split}{more}{ARMS}")), 0);
}

#[test]
fn a_mirror_allocates_nothing_where_it_does_not_copy() {
    let mirror = "[service.checkout.mirror]\nto = \"stable\"\ncopy = \"canary\"\nshare = \"0%\"\nby = \"cookie:uid\"\n";
    assert_eq!(allocations(&format!("{mirror}{ARMS}")), 0);
}

#[test]
fn allocations_are_seen() {
    // Otherwise none of the others would mean anything.
    let split = "[service.checkout.split]\narms = { canary = \"10%\", stable = \"rest\" }\n";
    let nested = "[service.stable.split]\narms = { a = \"10%\", canary = \"rest\" }\n[service.a]\nendpoints = [\"127.0.0.1:1\"]\n";
    let rest = "[service.canary]\nendpoints = [\"127.0.0.1:1\"]\n";
    assert!(allocations(&format!("{split}{nested}{rest}")) > 0, "a second step on the way is on the heap");
}
