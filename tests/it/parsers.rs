//! Laws of the parsers, on generated messages: no way of arriving changes what is read, and whatever
//! we accept, httparse and pingora-core read the same way.
//!
//! The laws themselves are in `fuzz/laws.rs`, where the fuzz targets find them.

use std::io::Cursor;
use std::ops::Range;

use attache::proto;
use attache::proto::http1::{BodyFraming, Progress, RequestHead, Target, request_framing, split_target};
use pingora_core::protocols::http::v1::server::HttpSession;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

#[path = "../../fuzz/laws.rs"]
mod laws;

const CASES: u32 = 20_000;

/// Runs `law` on what `messages` makes. The share that it accepts lies in `accepted`, in per cent, lest
/// the law hold because nothing is ever accepted, or because nothing is ever wrong.
fn check(messages: impl Strategy<Value = Vec<u8>>, accepted: Range<u32>, law: impl Fn(&[u8]) -> bool) {
    let count = std::cell::Cell::new(0);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&messages, |bytes| {
        count.set(count.get() + u32::from(law(&bytes)));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let share = count.get() * 100 / CASES;
    assert!(accepted.contains(&share), "{share} % were accepted");
}

#[test]
fn requests_read_alike_however_they_arrive_and_by_httparse() {
    check(mutated(request()), 25..90, |bytes| laws::request_head(bytes, bytes.len() % 7 + 2));
}

#[test]
fn responses_read_alike_however_they_arrive_and_by_httparse() {
    check(mutated(response()), 25..90, |bytes| laws::response_head(bytes, bytes.len() % 7 + 2));
}

#[test]
fn chunks_read_alike_however_they_arrive_and_by_httparse() {
    check(mutated(chunked_body()), 25..90, |bytes| laws::chunked(bytes, bytes.len() % 7 + 2));
}

#[test]
fn proxy_headers_read_alike_however_they_arrive() {
    check(mutated(proxy_header()), 25..90, laws::proxy_header);
}

#[test]
fn answers_of_redis_read_alike_however_they_arrive() {
    check(mutated(reply()), 25..98, laws::resp);
}

#[test]
fn pages_of_metrics_read_alike_when_they_are_written_again() {
    check(mutated(page()), 25..98, laws::exposition);
}

#[test]
fn lines_of_statsd_mean_the_same_whatever_their_values() {
    check(mutated(datagram()), 40..99, laws::statsd);
}

#[test]
fn lines_of_logs_become_json_whatever_they_are() {
    check(mutated(log_line()), 25..100, |bytes| {
        let is_line =
            laws::LOG_PARSERS.iter().filter(|parser| **parser != "text").fold(false, |is, parser| laws::log_line(parser, bytes) | is);
        laws::log_lines(bytes) | is_line
    });
}

#[test]
fn messages_of_syslog_are_the_same_however_they_arrive() {
    check(mutated(log_stream()), 25..100, |bytes| laws::log_frames(bytes, bytes.len() % 7 + 2));
}

fn log_stream() -> impl Strategy<Value = Vec<u8>> {
    let message = select(vec!["3 <bc", "12 <14>1 - - - ", "2026-01-02 a line\n", "123456789 b\n", "a\n", "40 no more than this\n", "\n"]);
    prop::collection::vec(message, 1..6).prop_map(|messages| messages.concat().into_bytes())
}

fn log_line() -> impl Strategy<Value = Vec<u8>> {
    select(vec![
        r#"{"time":"2026-01-02T03:04:05Z","level":"info","msg":"a\nb","o":{"b":[1,{}]},"n":1.5}"#,
        r#"ts=2026-01-02T03:04:05Z level=ERR msg="a \"b\" c" took=1.5 flag"#,
        r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a?b HTTP/1.0" 503 2326 "-" "curl""#,
        r#"<34>1 2003-10-11T22:14:15.003Z host su 77 ID47 [ex@1 a="1" b="x\]y"] failed"#,
        "<13>Jan  2 03:04:05 box app[12]: hello: there",
        "2016-10-06T00:17:09.669794202Z stderr F a b",
        r#"{"log":"a \"b\"\n","stream":"stdout","time":"2016-10-06T00:17:09Z"}"#,
    ])
    .prop_map(|line| line.as_bytes().to_vec())
}

fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let line = (
        select(vec!["a", "a.b-c", "a,k=v,l=w", "_e{1,1}", ""]),
        select(vec!["1", "-2.5", "+1e3", "a:b", "1:2:3", ""]),
        select(vec!["c", "g", "ms", "h", "d", "s", "x"]),
        select(vec!["", "|@0.5", "|#k:v,bare,l:w", "|@1|#k:v|T1|c:x", "|@2"]),
    );
    let line = line.prop_map(|(name, values, kind, rest)| format!("{name}:{values}|{kind}{rest}\n").into_bytes());
    prop::collection::vec(line, 1..4).prop_map(|lines| lines.concat())
}

/// Nested a little.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let bulk = prop::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| {
        let mut out = format!("${}\r\n", bytes.len()).into_bytes();
        out.extend_from_slice(&bytes);
        out.extend_from_slice(b"\r\n");
        out
    });
    let number = any::<i32>().prop_map(|number| format!(":{number}\r\n").into_bytes());
    let line = select(vec!["+OK\r\n", "-ERR no\r\n", "$-1\r\n", "*0\r\n"]).prop_map(|line| line.as_bytes().to_vec());
    prop_oneof![bulk, number, line].prop_recursive(3, 12, 4, |inner| {
        prop::collection::vec(inner, 0..4).prop_map(|items| {
            let mut out = format!("*{}\r\n", items.len()).into_bytes();
            out.extend(items.concat());
            out
        })
    })
}

fn page() -> impl Strategy<Value = Vec<u8>> {
    let line = (
        select(vec!["a_total", "h_bucket", "h_sum", "x:y", "_"]),
        select(vec!["", "{}", "{a=\"b\"}", "{le=\"+Inf\",a=\"\\\"\\\\\\n}\"}", "{a=\"\",}"]),
        select(vec!["1", "-2.5e3", "NaN", "+Inf", "0 1700000000"]),
    )
        .prop_map(|(name, labels, value)| format!("{name}{labels} {value}\n"));
    let comment = select(vec!["# TYPE h histogram\n", "# TYPE a_total counter\n", "# HELP a_total x\\ny\n", "# note\n", "\n"]);
    let lines = prop::collection::vec(prop_oneof![3 => line, 1 => comment.prop_map(str::to_owned)], 1..6);
    lines.prop_map(|lines| lines.concat().into_bytes())
}

#[test]
fn pingora_reads_what_we_accept_as_we_do() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    check(mutated(request_with_body()), 15..90, |bytes| runtime.block_on(pingora_agrees(bytes)));
}

/// Whether both accepted. Pingora may refuse what we accept; where it does not, it sees the same request.
async fn pingora_agrees(bytes: &[u8]) -> bool {
    let mut head = RequestHead::new();
    if head.parse(bytes, &laws::LIMITS) != Ok(Progress::Complete) {
        return false;
    }
    let Ok(framing) = request_framing(&head, bytes) else { return false };
    let mut session = HttpSession::new(Box::new(Cursor::new(bytes.to_vec())));
    if !matches!(session.read_request().await, Ok(Some(_))) {
        return false;
    }
    let shown = bytes.escape_ascii();
    let theirs = session.req_header();
    assert_eq!(theirs.method.as_str().as_bytes(), head.method.of(bytes), "{shown}");
    assert_eq!(theirs.raw_path(), head.target.of(bytes), "{shown}");
    match split_target(head.target.of(bytes)).expect("accepted targets have a form") {
        Target::Origin { path, query } | Target::Absolute { path, query, .. } => {
            assert_eq!(theirs.uri.path().as_bytes(), path, "{shown}");
            assert_eq!(theirs.uri.query().map(str::as_bytes), query, "{shown}");
        }
        // The whole target was compared above.
        Target::Authority(_) | Target::Asterisk => {}
    }
    // They keep the order of equal names only.
    let mut their_fields: Vec<_> = theirs.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes())).collect();
    their_fields.sort_by(|a, b| a.0.cmp(&b.0));
    let lower = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
    let mut our_fields: Vec<_> = laws::pairs(&head.fields, bytes).into_iter().map(|(name, value)| (lower(name), value)).collect();
    our_fields.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(their_fields, our_fields, "{shown}");

    let rest = &bytes[head.bytes..];
    let ours = match framing.body {
        BodyFraming::None => Ok(Some(Vec::new())),
        BodyFraming::Length(length) => Ok(rest.get(..length as usize).map(<[u8]>::to_vec)),
        BodyFraming::Chunked => laws::read_chunked(rest, &[rest.len()]).map(|body| body.map(|body| body.data)),
        BodyFraming::UntilClose => unreachable!("no request ends by closing"),
    };
    match (read_body(&mut session).await, ours) {
        (Some(theirs), Ok(ours)) => assert_eq!(Some(theirs), ours, "{shown}"),
        // One of us refuses the body, or they miss the rest of it.
        (Some(_), Err(_)) | (None, _) => return false,
    }
    true
}

async fn read_body(session: &mut HttpSession) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(bytes) = session.read_body_bytes().await.ok()? {
        body.extend_from_slice(&bytes);
    }
    Some(body)
}

/// What heads are made of, wrong now and then.
fn request() -> impl Strategy<Value = Vec<u8>> {
    (request_line(), fields(0..6), body()).prop_map(|(line, fields, body)| [line, fields, b"\r\n".to_vec(), body].concat())
}

fn request_with_body() -> impl Strategy<Value = Vec<u8>> {
    let framed = prop_oneof![
        2 => Just(Vec::new()),
        3 => body().prop_map(|body| [format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat()),
        3 => chunked_body().prop_map(|body| [b"Transfer-Encoding: chunked\r\n\r\n".to_vec(), body].concat()),
        1 => (select(&["5", "05", "5, 5", "+5", ""][..]), body()).prop_map(|(length, body)| {
            [format!("content-length: {length}\r\nContent-Length: 5\r\n\r\n").as_bytes(), &body].concat()
        }),
        1 => chunked_body().prop_map(|body| [b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), body].concat()),
    ];
    (request_line(), fields(0..4), framed).prop_map(|(line, fields, framed)| {
        let end = if framed.is_empty() { "\r\n" } else { "" };
        [&line[..], b"Host: a\r\n", &fields, end.as_bytes(), &framed].concat()
    })
}

fn request_line() -> impl Strategy<Value = Vec<u8>> {
    let plain = (select(&["GET", "POST", "HEAD", "M-SEARCH", "get", "x!#$"][..]), target(), version());
    let paired = select(&[("CONNECT", "a:443"), ("CONNECT", "[::1]:1"), ("OPTIONS", "*")][..]);
    let odd = (paired, version()).prop_map(|((method, target), version)| (method, target.to_owned(), version));
    let line = prop_oneof![9 => plain, 1 => odd];
    (prop_oneof![9 => Just(""), 1 => Just("\r\n")], line)
        .prop_map(|(before, (method, target, version))| format!("{before}{method} {target} {version}\r\n").into_bytes())
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "/[a-zA-Z0-9._~!$&'()*+,;=:@/?-]{0,20}",
        2 => "(/(%[0-9A-Fa-f]{2}|a){0,4}){1,3}",
        2 => "/[a-z\\[\\]]{0,5}\\?[a-z?=\\[\\]{}|^`\\\\]{0,10}",
        2 => "(http|https|HTTP)://(a|b\\.c|127\\.0\\.0\\.1)(:80)?(/[a-z/]{0,5})?(\\?[a-z]{0,3})?",
    ]
}

fn version() -> impl Strategy<Value = &'static str> {
    prop_oneof![8 => Just("HTTP/1.1"), 2 => Just("HTTP/1.0")]
}

fn fields(count: Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let known = select(
        &[
            "Host: b",
            "Connection: close",
            "connection: keep-alive, x",
            "Expect: 100-continue",
            "Upgrade: x",
            "TE: trailers",
            "x_forwarded_for: a",
        ][..],
    );
    let field = prop_oneof![
        6 => "[a-zA-Z!#$%&'*+.^_`|~-]{1,12}:[ \t]{0,2}[!-~]{0,6}[ \t]{0,2}[!-~]{0,12}[ \t]{0,2}".prop_map(String::into_bytes),
        1 => "[a-z]{1,3}: \u{e9}{0,2}".prop_map(String::into_bytes),
        2 => known.prop_map(|field| field.as_bytes().to_vec()),
    ];
    prop::collection::vec(field, count).prop_map(|fields| fields.into_iter().flat_map(|field| [field, b"\r\n".to_vec()].concat()).collect())
}

fn response() -> impl Strategy<Value = Vec<u8>> {
    let line = (version(), 100..600u16, "( [ -~\t\u{e9}]{0,12})?");
    (line, fields(0..6), body()).prop_map(|((version, status, reason), fields, body)| {
        [format!("{version} {status}{reason}\r\n").into_bytes(), fields, b"\r\n".to_vec(), body].concat()
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..20)
}

fn chunked_body() -> impl Strategy<Value = Vec<u8>> {
    let chunk =
        (prop::collection::vec(any::<u8>(), 1..40), "0{0,2}", prop_oneof![4 => Just(""), 1 => Just(";a=b"), 1 => Just(";a=\"b c\"")]);
    let chunk =
        chunk.prop_map(|(data, zeros, extension)| [format!("{zeros}{:x}{extension}\r\n", data.len()).as_bytes(), &data, b"\r\n"].concat());
    let trailers = prop_oneof![3 => Just(Vec::new()), 1 => "[a-z]{1,5}: [!-~]{0,5}\r\n".prop_map(String::into_bytes)];
    (prop::collection::vec(chunk, 0..4), select(&["0", "000", "0;x"][..]), trailers, body())
        .prop_map(|(chunks, last, trailers, after)| [&chunks.concat()[..], last.as_bytes(), b"\r\n", &trailers, b"\r\n", &after].concat())
}

fn proxy_header() -> impl Strategy<Value = Vec<u8>> {
    let ports = || (any::<u16>(), any::<u16>());
    let tcp4 = (any::<[u8; 4]>(), any::<[u8; 4]>(), ports()).prop_map(|(source, destination, (from, to))| {
        let (source, destination) = (std::net::Ipv4Addr::from(source), std::net::Ipv4Addr::from(destination));
        format!("PROXY TCP4 {source} {destination} {from} {to}\r\n").into_bytes()
    });
    let tcp6 = (any::<[u8; 16]>(), any::<[u8; 16]>(), ports()).prop_map(|(source, destination, (from, to))| {
        let (source, destination) = (std::net::Ipv6Addr::from(source), std::net::Ipv6Addr::from(destination));
        format!("PROXY TCP6 {source} {destination} {from} {to}\r\n").into_bytes()
    });
    let unknown = "PROXY UNKNOWN( [ -~]{0,20})?\r\n".prop_map(String::into_bytes);
    let kind = select(&[(0x21u8, 0x11u8), (0x21, 0x21), (0x21, 0x31), (0x21, 0x00), (0x20, 0x00)][..]);
    let version_2 = (kind, prop::collection::vec(any::<u8>(), 0..260)).prop_map(|((command, family), rest)| {
        [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &(rest.len() as u16).to_be_bytes(), &rest].concat()
    });
    (prop_oneof![tcp4, tcp6, unknown, version_2], body()).prop_map(|(header, after)| [header, after].concat())
}

/// Half of the messages as they are; the others with up to three bytes flipped, put in or taken out.
fn mutated(messages: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = prop_oneof![
        2 => any::<u8>().prop_map(Change::Flip),
        6 => select(&b"\r\n\0 :\t,;%[0\x7f\x80"[..]).prop_map(Change::Insert),
        1 => Just(Change::Remove),
        1 => Just(Change::Cut),
    ];
    let changes = prop_oneof![Just(Vec::new()), prop::collection::vec((any::<prop::sample::Index>(), change), 1..4)];
    (messages, changes).prop_map(|(mut bytes, changes)| {
        for (place, change) in changes {
            if bytes.is_empty() {
                break;
            }
            let place = place.index(bytes.len());
            match change {
                Change::Flip(bits) => bytes[place] ^= bits,
                Change::Insert(byte) => bytes.insert(place, byte),
                Change::Remove => _ = bytes.remove(place),
                Change::Cut => bytes.truncate(place),
            }
        }
        bytes
    })
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Flip(u8),
    Insert(u8),
    Remove,
    Cut,
}
