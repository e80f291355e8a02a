//! Times what a keep-alive exchange computes, piece by piece: heads, the walk, edits, chunks, counting, picking an endpoint.
//!
//! Calls what production calls, and makes no system call; what those cost, `benches/peers` measures, and how many
//! instructions a whole exchange takes, `tests/it/instructions.rs`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on should say where")]

mod placement;
mod split;

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime};

use attache::algo::dice;
use attache::config::{self, File};
use attache::generation::{Generation, Inputs, Listener, Walk, compile};
use attache::proto::http1::{
    BodyFraming, ChunkStep, ChunkedDecoder, Limits, Progress, RequestHead, ResponseHead, Target, TrailerLimits, Version, check_host,
    compare_form, request_framing, response_framing, split_target, write_chunk_header,
};
use attache::refusal::Refusal;
use attache::route::{Head, HeadLookup, Headers};
use attache::serve::compose::{self, Forwarding, Persistence, Relay};
use attache::services::{Asked, Body, Way};
use attache::telemetry::{Metrics, Stamps, access, metrics};
use attache::tls::Sessions;
use attache::upstream::sticky::Stuck;
use attache::upstream::{Ask, Lease, Tried};
use attache::value::Diagnostics;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// What curl sends.
const SMALL: &[u8] = b"GET /some/path?with=query HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

/// What a browser sends, about 1 KB.
const BROWSER: &[u8] = b"GET /some/path?colour=brown&size=43&sort=price HTTP/1.1\r\n\
    Host: shop.example\r\n\
    Connection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"130\", \"Google Chrome\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-User: ?1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Referer: https://shop.example/catalogue/shoes?page=2&from=https%3A%2F%2Fsearch.example%2F%3Fq%3Dbrown%2Bshoes\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=light; consent=granted; basket=3f2a9c5e; seen=17,42,99\r\n\
    If-None-Match: W/\"5f3c-18b2e0a7d40\"\r\n\
    \r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: origin/1.0\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    Content-Length: 100\r\n\
    Cache-Control: private, max-age=0\r\n\
    ETag: W/\"64-q3Zt\"\r\n\
    Vary: Accept-Encoding\r\n\
    \r\n";

/// The listener's own.
const LIMITS: Limits = Limits { header_bytes: 64 << 10, headers: 100, uri_bytes: 16 << 10 };

const PLAIN: &str = "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"127.0.0.1:1\"\n";

const EDITED: &str = r#"
[[listener]]
name = "web"
listen = "127.0.0.1:0"

[[listener.route]]
name = "edited"
path = "/some/*"
service = "127.0.0.1:1"
rewrite = { path = "/v2/*" }
request_headers = { remove = ["cookie"], set = { x-client = "{client_ip}", accept = "*/*" }, add = { x-route = "{route}" } }
response_headers = { remove = ["server"], set = { cache-control = "no-store" } }
"#;

/// A path for each route; the one that [`SMALL`] and [`BROWSER`] ask for is the last.
fn routes(count: usize) -> String {
    let mut text = "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n".to_owned();
    for number in 1..count {
        write!(text, "[[listener.route]]\npath = \"/service/{number}/*\"\nservice = \"127.0.0.1:1\"\n").unwrap();
    }
    text + "[[listener.route]]\npath = \"/some/*\"\nservice = \"127.0.0.1:1\"\n"
}

fn generation(text: &str) -> Generation {
    let loaded = config::from_text("<bench>", text, &|_| None).unwrap();
    let mut found = Diagnostics::default();
    let parsed = File::parse(&loaded.root, &loaded.sources, &mut found);
    let inputs = Inputs {
        sources: &loaded.sources,
        hash: String::new(),
        document: serde_json::Value::Null,
        read: &|_| Err(std::io::ErrorKind::NotFound.into()),
        previous: None,
        kept: &std::collections::HashMap::new(),
        metrics: &Metrics::new(1, Refusal::LABELS),
        sessions: &Sessions::new(),
        workers: 1,
        identity: String::new(),
        now: SystemTime::UNIX_EPOCH,
        started: Instant::now(),
    };
    compile(parsed, &inputs, &mut found).unwrap()
}

fn parsed(bytes: &[u8]) -> RequestHead {
    let mut request = RequestHead::new();
    assert_eq!(request.parse(bytes, &LIMITS), Ok(Progress::Complete));
    request
}

/// What the walk sees of a request that passed every check.
fn head_of<'a>(request: &'a RequestHead, bytes: &'a [u8]) -> Head<'a> {
    let Some(Target::Origin { path, query }) = split_target(request.target.of(bytes)) else { unreachable!("a target with a path") };
    Head {
        method: request.method.of(bytes),
        scheme: "http",
        authority: b"shop.example",
        host: b"shop.example",
        path,
        query,
        compare_path: path,
        headers: Headers { bytes, fields: &request.fields },
        client: Some(CLIENT),
        tls: None,
        request_id: b"0123456789abcdef0123456789abcdef",
        listener: "web",
    }
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 101, 234));

const REQUESTS: [(&str, &[u8]); 2] = [("small", SMALL), ("browser", BROWSER)];

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for (name, bytes) in REQUESTS {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut request = RequestHead::new();
        group.bench_function(format!("request/{name}"), |bencher| {
            bencher.iter(|| {
                request.clear();
                request.parse(black_box(bytes), &LIMITS)
            });
        });
    }
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    let mut response = ResponseHead::new();
    group.bench_function("response", |bencher| {
        bencher.iter(|| {
            response.clear();
            response.parse(black_box(RESPONSE), &LIMITS)
        });
    });
    group.finish();
}

/// What is asked of a head beyond its grammar: framing, target, host, path.
fn judge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("judge");
    for (name, bytes) in REQUESTS {
        let request = parsed(bytes);
        group.bench_function(format!("request/{name}"), |bencher| {
            bencher.iter(|| {
                let bytes = black_box(bytes);
                let framing = request_framing(&request, bytes).unwrap();
                let Some(Target::Origin { path, .. }) = split_target(request.target.of(bytes)) else { unreachable!("as in `head_of`") };
                let is_plain = compare_form(path).unwrap().len() == path.len();
                let host = check_host(request.fields[0].value.of(bytes)).unwrap();
                (framing, is_plain, host.name)
            });
        });
    }
    let mut response = ResponseHead::new();
    assert_eq!(response.parse(RESPONSE, &LIMITS), Ok(Progress::Complete));
    group.bench_function("response", |bencher| {
        bencher.iter(|| response_framing(&response, black_box(RESPONSE), false));
    });
    group.finish();
}

fn walk_of<'g: 'a, 'a>(listener: &'g Listener, head: &'a Head<'a>) -> Walk<'g, 'a> {
    let asked = Asked { head, now: black_box(Instant::now()), worker: 0, dice: 0, body: Body::Is(b""), passed: &[] };
    listener.walk(&asked, &mut Way::default())
}

fn walk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("walk");
    let request = parsed(SMALL);
    let head = head_of(&request, SMALL);
    for count in [1, 10, 10_000] {
        let generation = generation(&routes(count));
        let listener = &generation.listeners[0];
        assert!(walk_of(listener, &head).route.is_some());
        let name = if count == 1 { "1 route".to_owned() } else { format!("{count} routes") };
        group.bench_function(name, |bencher| {
            bencher.iter(|| walk_of(listener, black_box(&head)).route.is_some());
        });
    }
    group.finish();
}

fn request_to_endpoint(listener: &Listener, head: &Head<'_>, out: &mut Vec<u8>) {
    let walk = walk_of(listener, head);
    let forwarding = Forwarding {
        head,
        route: walk.route.unwrap(),
        captures: &walk.captures,
        body: BodyFraming::None,
        expects_continue: false,
        upgrade: None,
        version: Version::Http11,
        peer: Some(CLIENT),
        peer_is_trusted: false,
        endpoint_host: "",
        ours: b"",
    };
    out.clear();
    compose::request(black_box(&forwarding), out);
}

fn response_to_client(listener: &Listener, head: &Head<'_>, response: &ResponseHead, out: &mut Vec<u8>) {
    let route = walk_of(listener, head).route.unwrap();
    let relay = Relay {
        response,
        bytes: RESPONSE,
        edits: &route.response_edits,
        lookup: &HeadLookup { head, route: &route.name },
        body: BodyFraming::Length(100),
        keeps_length: false,
        persistence: Persistence::Kept,
        date: b"Sun, 06 Nov 1994 08:49:37 GMT",
        fields: &[],
    };
    out.clear();
    compose::response(black_box(&relay), out);
}

/// The heads that are written, with and without edits. Includes a walk, which finds the edits.
fn write_heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compose");
    let mut out = Vec::with_capacity(4 << 10);
    let mut response = ResponseHead::new();
    assert_eq!(response.parse(RESPONSE, &LIMITS), Ok(Progress::Complete));
    for (kind, text) in [("plain", PLAIN), ("edited", EDITED)] {
        let generation = generation(text);
        let listener = &generation.listeners[0];
        for (name, bytes) in REQUESTS {
            let request = parsed(bytes);
            let head = head_of(&request, bytes);
            group.bench_function(format!("request/{name}/{kind}"), |bencher| {
                bencher.iter(|| request_to_endpoint(listener, &head, &mut out));
            });
        }
        let request = parsed(SMALL);
        let head = head_of(&request, SMALL);
        group.bench_function(format!("response/{kind}"), |bencher| {
            bencher.iter(|| response_to_client(listener, &head, &response, &mut out));
        });
    }
    group.finish();
}

/// `length` bytes in chunks of `size`.
fn chunked(length: usize, size: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..length / size {
        write_chunk_header(size, &mut body);
        body.resize(body.len() + size, b'x');
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    body
}

/// Length of the body.
fn decode(body: &[u8]) -> usize {
    let mut decoder = ChunkedDecoder::new(TrailerLimits { bytes: 16 << 10, fields: 100 });
    let (mut at, mut length) = (0, 0);
    loop {
        match decoder.next(&body[at..]).unwrap() {
            ChunkStep::Data { consumed, data } => {
                at += consumed + data;
                length += data;
            }
            ChunkStep::End { .. } => return length,
            ChunkStep::More { .. } => unreachable!("the body is whole"),
        }
    }
}

fn chunks(criterion: &mut Criterion) {
    const BODY: usize = 64 << 10;
    let mut group = criterion.benchmark_group("decode 64 KiB");
    for (name, size) in [("chunks of 64 B", 64), ("chunks of 1 KiB", 1 << 10), ("chunks of 16 KiB", 16 << 10)] {
        let body = chunked(BODY, size);
        assert_eq!(decode(&body), BODY);
        group.bench_function(name, |bencher| bencher.iter(|| decode(black_box(&body))));
    }
    group.finish();
}

/// What happens once per exchange beside messages: a lease, the counts, the record of the log.
fn account(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("account");
    let generation = generation(PLAIN);
    let pool = &generation.pools[0].pool;
    let took = Duration::from_micros(730);
    group.bench_function("lease", |bencher| {
        let (now, tried) = (Instant::now(), Tried::default());
        bencher.iter(|| {
            let lease = pool.pick(&Ask { worker: 0, now, dice: black_box(7), tried: &tried, stuck: Stuck::Free }).unwrap();
            pool.settle(lease, metrics::Outcome::Ok, now, black_box(took));
        });
    });
    let request = parsed(SMALL);
    let head = head_of(&request, SMALL);
    let route = walk_of(&generation.listeners[0], &head).route.unwrap();
    group.bench_function("metrics", |bencher| {
        bencher.iter(|| {
            route.metrics.finished(0, 200, black_box(took));
            pool.metrics.attempted(0, black_box(took));
        });
    });
    let record = access::Record {
        time: Duration::from_millis(1_760_000_000_123),
        client: Some(CLIENT),
        method: b"GET",
        host: Some(b"shop.example"),
        target: b"/some/path?with=query",
        protocol: "HTTP/1.1",
        status: 200,
        bytes_in: 0,
        bytes_out: 100,
        duration: took,
        listener: "web",
        route: "",
        service: "127.0.0.1:1",
        arm: None,
        leaves: None,
        endpoint: Some("127.0.0.1:1"),
        attempts: 1,
        request_id: Some(head.request_id),
        refusal: None,
        user_agent: Some(b"curl/8.5.0"),
        referer: None,
        tls: None,
        outcome: access::Outcome::Complete,
    };
    let (mut stamps, mut out) = (Stamps::new(), Vec::with_capacity(1 << 10));
    group.bench_function("access record, JSON", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(&record).write(access::Format::Json, &mut stamps, &mut out);
        });
    });
    group.finish();
}

/// A pool of so many endpoints, all of them known and some of them busy, as it would be under load.
fn pool(balance: &str, count: usize) -> Generation {
    let addresses: Vec<String> = (0..count).map(|number| format!("\"10.{}.{}.1:80\"", number / 250, number % 250)).collect();
    generation(&format!(
        "[service.app]\nbalance = \"{balance}\"\nendpoints = [{}]\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n",
        addresses.join(", ")
    ))
}

/// Whose turn it is, in small pools and in large ones.
fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for balance in ["round-robin", "random", "p2c", "ewma", "least-requests"] {
        for count in [1, 5, 100, 1000] {
            let generation = pool(balance, count);
            let pool = &generation.pools[0].pool;
            let (now, tried) = (Instant::now(), Tried::default());
            let mut seed = 7;
            let mut one = || pool.pick(&Ask { worker: 0, now, dice: dice::roll(&mut seed), tried: &tried, stuck: Stuck::Free }).unwrap();
            let busy: Vec<Lease> = (0..count).map(|_| one()).collect();
            for (number, lease) in busy.iter().enumerate() {
                pool.answered(0, lease.endpoint(), 200, Duration::from_micros(1000 + number as u64 % 100), now);
            }
            group.bench_function(format!("{balance}/{count}"), |bencher| bencher.iter(|| one().withdraw()));
            busy.into_iter().for_each(Lease::withdraw);
        }
    }
    group.finish();
}

/// Short, since what is compared are nanoseconds: longer runs only meet more of what else the machine does.
fn settings() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(50)
}

criterion_group! {
    name = hot_path;
    config = settings();
    targets = parse, judge, walk, write_heads, chunks, account, pick, placement::placement, split::split
}
criterion_main!(hot_path);
