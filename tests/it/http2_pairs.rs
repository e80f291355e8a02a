//! Every protocol of clients with every protocol of endpoints: the same exchanges in all of them.
//!
//! What one protocol alone can do is in `engine`, `http2` and `http2_upstream`; here is what becomes of it in the other.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use crate::support::http2::{Http2, read_answer, room, run_for, send_all};
use crate::support::http2_origin::{Ask, Origin2};
use crate::support::{Client, Origin, Pair, Read1, Rig, TlsOrigin, eventually, read_head};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http1Tls,
    H2c,
    Http2,
}

use Spoken::{H2c, Http1, Http1Tls, Http2 as Http2Tls};

const ALL: [Spoken; 4] = [Http1, Http1Tls, H2c, Http2Tls];

/// Body of an answer of `size` bytes.
fn pattern(at: usize) -> u8 {
    (at % 251) as u8
}

/// An origin, and the requests that were taken from it.
enum Place {
    Http1(Origin),
    Http2(Origin2),
}

struct Server {
    _place: Place,
    address: SocketAddr,
    hung: Arc<Hung>,
}

/// Requests that are never answered.
#[derive(Default)]
struct Hung {
    asked: AtomicUsize,
    taken_back: AtomicUsize,
}

impl Server {
    fn of(spoken: Spoken) -> Self {
        let hung: Arc<Hung> = Arc::default();
        let counted = Arc::clone(&hung);
        let mut config = TlsOrigin::config(&Pair::of(&["app.internal"]), None);
        let place = match spoken {
            Http1 => Place::Http1(Origin::raw(move |mut stream, _| lines(&mut stream, &counted))),
            Http1Tls => {
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                let config = Arc::new(config);
                Place::Http1(Origin::raw(move |stream, _| {
                    let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                    lines(&mut rustls::StreamOwned::new(session, stream), &counted);
                }))
            }
            H2c | Http2Tls => {
                let tls = (spoken == Http2Tls).then_some(config);
                Place::Http2(Origin2::run(tls, move |ask| frames(ask, Arc::clone(&counted))))
            }
        };
        let address = match &place {
            Place::Http1(origin) => origin.address,
            Place::Http2(origin) => origin.address,
        };
        Self { _place: place, address, hung }
    }
}

/// Answers in HTTP/1.
fn lines(stream: &mut (impl Read + Write), hung: &Hung) {
    let mut buffer = Vec::new();
    while let Some(head) = read_head(stream, &mut buffer) {
        let target = head.split(' ').nth(1).unwrap().to_owned();
        let (path, size) = split(&target);
        let method = head.split(' ').next().unwrap();
        if path == "/early" {
            let _ = stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
            let _ = stream.read(&mut [0; 4096]);
            return;
        }
        let lower = head.to_ascii_lowercase();
        let field = |name: &str| lower.split("\r\n").find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
        let mut body = Body::default();
        let mut check = None;
        if let Some(length) = field("content-length:") {
            take(stream, &mut buffer, length.parse().unwrap(), &mut body);
        } else if field("transfer-encoding:").is_some() {
            loop {
                let line = line(stream, &mut buffer).unwrap();
                let size = usize::from_str_radix(&line, 16).unwrap();
                if size == 0 {
                    break;
                }
                take(stream, &mut buffer, size, &mut body);
                assert_eq!(self::line(stream, &mut buffer).unwrap(), "");
            }
            while let Some(trailer) = line(stream, &mut buffer).filter(|line| !line.is_empty()) {
                check = trailer.strip_prefix("x-check: ").map(str::to_owned);
            }
        }
        let sent = match path {
            "/hang" => {
                hung.asked.fetch_add(1, SeqCst);
                let _ = stream.read(&mut [0; 1]);
                hung.taken_back.fetch_add(1, SeqCst);
                return;
            }
            "/none" => stream.write_all(b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"),
            "/unmodified" => stream.write_all(b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
            "/cut" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n");
                let _ = stream.flush();
                return;
            }
            "/trailers" => {
                let check = check.unwrap_or_default();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7{check}\r\n\r\n"
                )
            }
            "/large" => {
                let piece: Vec<u8> = (0..251 << 10).map(pattern).collect();
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
                let mut left = size;
                while left > 0 && stream.write_all(&piece[..left.min(piece.len())]).is_ok() {
                    left -= left.min(piece.len());
                }
                Ok(())
            }
            _ => {
                let text = body.told(method);
                let shown = if method == "HEAD" { "" } else { &text };
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{shown}", text.len())
            }
        };
        if sent.and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

fn line(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = buffer.windows(2).position(|window| window == b"\r\n") {
            let line = buffer.drain(..at + 2).collect::<Vec<u8>>();
            return Some(String::from_utf8_lossy(&line[..at]).into_owned());
        }
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).ok().filter(|&count| count > 0)?;
        buffer.extend_from_slice(&piece[..count]);
    }
}

fn take(stream: &mut impl Read, buffer: &mut Vec<u8>, mut size: usize, body: &mut Body) {
    let held = buffer.len().min(size);
    body.add(&buffer[..held]);
    buffer.drain(..held);
    size -= held;
    let mut piece = vec![0; 64 << 10];
    while size > 0 {
        let most = size.min(piece.len());
        let count = stream.read(&mut piece[..most]).unwrap_or(0);
        if count == 0 {
            return;
        }
        body.add(&piece[..count]);
        size -= count;
    }
}

static PATTERNED: OnceLock<Vec<u8>> = OnceLock::new();

/// What came of a body: all of it if it is short.
#[derive(Default)]
struct Body {
    start: Vec<u8>,
    length: usize,
    is_patterned: bool,
}

impl Body {
    fn add(&mut self, bytes: &[u8]) {
        if self.length == 0 {
            self.is_patterned = true;
        }
        // By slices: byte by byte, a debug build takes minutes.
        let patterned = PATTERNED.get_or_init(|| (0..1 << 20).map(pattern).collect());
        for piece in bytes.chunks(512 << 10) {
            self.is_patterned &= *piece == patterned[self.length % 251..][..piece.len()];
            self.length += piece.len();
        }
        if self.start.len() < 100 {
            self.start.extend_from_slice(bytes);
        }
    }

    fn told(&self, method: &str) -> String {
        if self.length < 100 {
            return format!("{method} {}", String::from_utf8_lossy(&self.start));
        }
        format!("{method} {} {}", self.length, self.is_patterned)
    }
}

/// `/large/100` into `/large` and 100.
fn split(target: &str) -> (&str, usize) {
    match target.rsplit_once('/') {
        Some((path, size)) if !path.is_empty() => (path, size.parse().unwrap_or(0)),
        _ => (target, 0),
    }
}

/// Answers in HTTP/2.
async fn frames(mut ask: Ask, hung: Arc<Hung>) {
    let target = ask.path().to_owned();
    let (path, size) = split(&target);
    let method = ask.request.method().as_str().to_owned();
    if path == "/early" {
        let mut send = ask.head(413, &[("content-length", "3")], false);
        let _ = send.send_data(Bytes::from_static(b"big"), true);
        return;
    }
    let mut body = Body::default();
    if ask.each(|chunk| body.add(chunk)).await.is_err() {
        return;
    }
    match path {
        "/hang" => {
            hung.asked.fetch_add(1, SeqCst);
            let _ = std::future::poll_fn(|cx| ask.respond.poll_reset(cx)).await;
            hung.taken_back.fetch_add(1, SeqCst);
        }
        "/none" => drop(ask.head(204, &[("x-a", "b")], true)),
        "/unmodified" => drop(ask.head(304, &[("etag", "\"a\"")], true)),
        "/cut" => {
            let mut send = ask.head(200, &[], false);
            let _ = send.send_data(Bytes::from_static(b"hel"), false);
            // A reset throws away what was not sent yet.
            tokio::time::sleep(Duration::from_millis(50)).await;
            send.send_reset(Reason::INTERNAL_ERROR);
        }
        "/trailers" => {
            let check = ask.trailers().await.and_then(|trailers| trailers.get("x-check").cloned());
            let sum = format!("7{}", check.as_ref().map_or("", |check| check.to_str().unwrap()));
            let mut send = ask.head(200, &[("trailer", "x-sum")], false);
            send.send_data(Bytes::from_static(b"hi"), false).unwrap();
            let _ = send.send_trailers(HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_str(&sum).unwrap())]));
        }
        "/large" => {
            let piece = Bytes::from((0..251 << 10).map(pattern).collect::<Vec<u8>>());
            let mut send = ask.head(200, &[], false);
            let mut left = size;
            while left > 0 {
                let mut next = piece.slice(..left.min(piece.len()));
                left -= next.len();
                while !next.is_empty() {
                    let Ok(room) = room(&mut send, next.len()).await else { return };
                    if send.send_data(next.split_to(room.min(next.len())), false).is_err() {
                        return;
                    }
                }
            }
            let _ = send.send_data(Bytes::new(), true);
        }
        _ => {
            let text = body.told(&method);
            if method == "HEAD" {
                drop(ask.head(200, &[("content-length", &text.len().to_string())], true));
            } else {
                ask.ok(&text);
            }
        }
    }
}

/// What a client saw of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    status: u16,
    length: Option<String>,
    body: Vec<u8>,
    trailers: String,
    is_cut: bool,
}

/// A request's body.
#[derive(Clone, Copy)]
enum Sent {
    None,
    /// Content-Length is said.
    Sized(&'static [u8]),
    /// It is not, and trailers follow if there are any.
    Streamed(&'static [&'static [u8]], &'static str),
    /// Sized, of the pattern.
    Large(usize),
    /// Less than was said, and then nothing.
    Begun(usize),
}

fn ask(address: SocketAddr, spoken: Spoken, method: &str, path: &str, sent: Sent) -> Seen {
    match spoken {
        Http1 | Http1Tls => ask_in_lines(address, spoken, method, path, sent),
        H2c | Http2Tls => run_for(Duration::from_secs(120), ask_in_frames(address, spoken, method, path, sent)),
    }
}

fn connect(address: SocketAddr, spoken: Spoken) -> Client {
    if spoken == Http1 { Client::tcp(address).unwrap() } else { Client::tls(address, "localhost").unwrap() }
}

fn ask_in_lines(address: SocketAddr, spoken: Spoken, method: &str, path: &str, sent: Sent) -> Seen {
    let mut client = connect(address, spoken);
    let head = format!("{method} {path} HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nConnection: TE\r\n");
    match sent {
        Sent::None => client.send(format!("{head}\r\n")).unwrap(),
        Sent::Sized(body) => client.send([format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()).unwrap(),
        Sent::Begun(size) => client.send(format!("{head}Content-Length: {size}\r\n\r\nbegun")).unwrap(),
        Sent::Streamed(pieces, trailers) => {
            client.send(format!("{head}Trailer: x-check\r\nTransfer-Encoding: chunked\r\n\r\n")).unwrap();
            for piece in pieces {
                client.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).unwrap();
            }
            let trailers = if trailers.is_empty() { String::new() } else { format!("x-check: {trailers}\r\n") };
            client.send(format!("0\r\n{trailers}\r\n")).unwrap();
        }
        Sent::Large(size) => {
            client.send(format!("{head}Content-Length: {size}\r\n\r\n")).unwrap();
            let piece: Vec<u8> = (0..251 << 10).map(pattern).collect();
            let mut left = size;
            while left > 0 {
                client.send(&piece[..left.min(piece.len())]).unwrap();
                left -= left.min(piece.len());
            }
        }
    }
    match client.read(method).unwrap() {
        Read1::Answer(answer) => Seen {
            status: answer.status,
            length: answer.header("content-length").map(str::to_owned),
            body: answer.body,
            trailers: answer.trailers.trim().to_ascii_lowercase(),
            is_cut: false,
        },
        Read1::Cut(_) | Read1::Closed => Seen { is_cut: true, ..Seen::default() },
    }
}

async fn connect2(address: SocketAddr, spoken: Spoken) -> Http2 {
    if spoken == H2c { Http2::plain(address).await } else { Http2::tls(address, "localhost").await }
}

fn head2(spoken: Spoken, method: &str, path: &str, length: Option<usize>) -> Request<()> {
    let scheme = if spoken == H2c { "http" } else { "https" };
    let mut request = Request::builder().method(method).uri(format!("{scheme}://a.example{path}")).header("te", "trailers");
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    request.body(()).unwrap()
}

async fn ask_in_frames(address: SocketAddr, spoken: Spoken, method: &str, path: &str, sent: Sent) -> Seen {
    let client = connect2(address, spoken).await;
    let length = match sent {
        Sent::None | Sent::Streamed(..) => None,
        Sent::Sized(body) => Some(body.len()),
        Sent::Large(size) | Sent::Begun(size) => Some(size),
    };
    let is_whole = matches!(sent, Sent::None | Sent::Sized(b""));
    let request = head2(spoken, method, path, length);
    let (answer, mut stream) = client.send.clone().ready().await.unwrap().send_request(request, is_whole).unwrap();
    let (pieces, trailers): (Vec<Bytes>, _) = match sent {
        Sent::None => (Vec::new(), None),
        Sent::Sized(body) => (vec![Bytes::from_static(body)], None),
        Sent::Streamed(pieces, trailers) => {
            let fields = [(HeaderName::from_static("x-check"), HeaderValue::from_static(trailers))];
            let trailers = (!trailers.is_empty()).then(|| HeaderMap::from_iter(fields));
            (pieces.iter().map(|piece| Bytes::from_static(piece)).collect(), trailers)
        }
        Sent::Large(size) => {
            let piece = Bytes::from((0..251 << 10).map(pattern).collect::<Vec<u8>>());
            let starts = (0..size).step_by(piece.len());
            (starts.map(|start| piece.slice(..piece.len().min(size - start))).collect(), None)
        }
        Sent::Begun(_) => (Vec::new(), None),
    };
    let sending = tokio::task::spawn_local(async move {
        match sent {
            Sent::None | Sent::Sized(b"") => {}
            Sent::Begun(_) => {
                let _ = stream.send_data(Bytes::from_static(b"begun"), false);
                std::future::pending::<()>().await;
            }
            _ => drop(send_all(&mut stream, pieces, trailers).await),
        }
    });
    let seen = match read_answer(answer).await {
        Ok(answer) => Seen {
            status: answer.status,
            length: answer.header("content-length").map(str::to_owned),
            trailers: answer.trailers.iter().flatten().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect(),
            body: answer.body,
            is_cut: false,
        },
        Err(error) => {
            assert!(error.is_reset(), "{error}");
            Seen { is_cut: true, ..Seen::default() }
        }
    };
    sending.abort();
    seen
}

/// A listener with and one without TLS, before all four servers.
fn rig(servers: &[Server]) -> Rig {
    let mut config = "[process]\nworkers = 1\n[log]\naccess = \"json\"\n".to_owned();
    for (number, (server, spoken)) in servers.iter().zip(ALL).enumerate() {
        let settings = match spoken {
            Http1 => "",
            Http1Tls => "protocol = \"auto\"\ntls = { insecure = true }",
            H2c => "protocol = \"h2\"",
            Http2Tls => "protocol = \"auto\"\ntls = { insecure = true }",
        };
        config.push_str(&format!("[service.s{number}]\nendpoints = [\"{}\"]\n{settings}\n", server.address));
        for (listener, tls) in [("plain", ""), ("tls", "tls = { self_signed = [\"localhost\"] }")] {
            config.push_str(&format!(
                "[[listener]]\nname = \"{listener}{number}\"\nlisten = \"127.0.0.1:0\"\nservice = \"s{number}\"\n{tls}\n"
            ));
        }
    }
    Rig::start(&config)
}

/// Runs `check` for each pair, in the order client, endpoint.
fn each(check: impl Fn(&Rig, SocketAddr, Spoken, Spoken, &Server)) {
    let servers: Vec<Server> = ALL.into_iter().map(Server::of).collect();
    let rig = rig(&servers);
    for client in ALL {
        for (number, server) in servers.iter().enumerate() {
            let listener = if matches!(client, Http1 | H2c) { "plain" } else { "tls" };
            check(&rig, rig.address(&format!("{listener}{number}")), client, ALL[number], server);
        }
    }
}

/// Method, path, body; status, body or else the pattern, trailers.
type Case = (&'static str, &'static str, Sent, u16, Option<&'static [u8]>, &'static str);

#[test]
fn requests_and_answers_pass_between_every_pair() {
    const LARGE: usize = 3 << 20;
    let patterned = |size: usize| (0..size).map(pattern).collect::<Vec<u8>>();
    let cases: &[Case] = &[
        ("GET", "/", Sent::None, 200, Some(b"GET "), ""),
        ("POST", "/", Sent::None, 200, Some(b"POST "), ""),
        ("POST", "/", Sent::Sized(b"hello"), 200, Some(b"POST hello"), ""),
        ("POST", "/", Sent::Sized(b""), 200, Some(b"POST "), ""),
        ("POST", "/", Sent::Streamed(&[b"he", b"llo"], ""), 200, Some(b"POST hello"), ""),
        ("POST", "/trailers", Sent::Streamed(&[b"hello"], "5"), 200, Some(b"hi"), "x-sum: 75"),
        ("GET", "/trailers", Sent::None, 200, Some(b"hi"), "x-sum: 7"),
        ("HEAD", "/", Sent::None, 200, Some(b""), ""),
        ("GET", "/none", Sent::None, 204, Some(b""), ""),
        ("GET", "/unmodified", Sent::None, 304, Some(b""), ""),
        ("POST", "/", Sent::Large(LARGE), 200, Some(b"POST 3145728 true"), ""),
        ("GET", "/large/3145728", Sent::None, 200, None, ""),
        ("POST", "/early", Sent::Begun(100_000), 413, Some(b"big"), ""),
    ];
    each(|_, address, client, endpoint, _| {
        for (method, path, sent, status, body, trailers) in cases {
            let seen = ask(address, client, method, path, *sent);
            let what = format!("{method} {path}, {client:?} to {endpoint:?}");
            let body = body.map_or_else(|| patterned(LARGE), <[u8]>::to_vec);
            assert!(
                seen.body == body,
                "{what}: {} bytes, {:?}",
                seen.body.len(),
                String::from_utf8_lossy(&seen.body[..seen.body.len().min(50)])
            );
            assert_eq!((seen.status, seen.trailers.as_str(), seen.is_cut), (*status, *trailers, false), "{what}");
            if *method == "HEAD" {
                assert_eq!(seen.length.as_deref(), Some("5"), "{what}");
            }
        }
    });
}

#[test]
fn an_answer_cut_short_is_never_whole_to_any_client() {
    each(|rig, address, client, endpoint, _| {
        let records = rig.out().lines().count();
        assert!(ask(address, client, "GET", "/cut", Sent::None).is_cut, "{client:?} to {endpoint:?}");
        eventually("it is logged", || rig.out().lines().count() > records);
        assert!(rig.out().lines().last().unwrap().contains("\"outcome\":\"cut\""), "{}", rig.out());
    });
}

#[test]
fn a_client_that_leaves_takes_its_request_back_everywhere() {
    each(|rig, address, client, endpoint, server| {
        let (asked, before) = (server.hung.asked.load(SeqCst), server.hung.taken_back.load(SeqCst));
        let records = rig.out().lines().count();
        // Of one that leaves while it is still being passed on, the endpoint may never hear.
        let is_asked = || server.hung.asked.load(SeqCst) > asked;
        match client {
            Http1 | Http1Tls => {
                let mut client = connect(address, client);
                client.send("GET /hang HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
                eventually("it is asked", is_asked);
                // Of the end of its sending one would have to wait whether it is one of leaving; of a reset not.
                socket2::SockRef::from(client.socket()).set_linger(Some(Duration::ZERO)).unwrap();
            }
            H2c | Http2Tls => run_for(Duration::from_secs(60), async {
                let connection = connect2(address, client).await;
                let request = head2(client, "GET", "/hang", None);
                let (answer, mut stream) = connection.send.clone().ready().await.unwrap().send_request(request, true).unwrap();
                while !is_asked() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                stream.send_reset(Reason::CANCEL);
                drop((answer, stream));
                while rig.out().lines().count() <= records {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }),
        }
        eventually(&format!("{client:?} to {endpoint:?}: it is taken back"), || server.hung.taken_back.load(SeqCst) > before);
        eventually("it is logged", || rig.out().lines().count() > records);
        assert!(rig.out().lines().last().unwrap().contains("client_gone"), "{}", rig.out());
    });
}

/// From lines to frames, and from frames to frames; from frames to lines is in `http2`.
#[test]
fn bodies_of_100_mib_pass_in_little_memory() {
    const SIZE: usize = 100 << 20;
    let servers: Vec<Server> = ALL.into_iter().map(Server::of).collect();
    let rig = rig(&servers);
    for (client, number, listener) in [(Http1, 2, "plain2"), (Http2Tls, 3, "tls3")] {
        let address = rig.address(listener);
        let what = format!("{client:?} to {:?}", ALL[number]);
        // Warm, so that what is kept for good is there.
        assert_eq!(ask(address, client, "GET", "/", Sent::None).status, 200);
        let resident = rig.resident();
        let up = ask(address, client, "POST", "/", Sent::Large(SIZE));
        assert_eq!(String::from_utf8_lossy(&up.body), format!("POST {SIZE} true"), "{what}");
        let down = ask(address, client, "GET", &format!("/large/{SIZE}"), Sent::None);
        let mut body = Body::default();
        body.add(&down.body);
        assert_eq!(body.told("GET"), format!("GET {SIZE} true"), "{what}");
        let grown = rig.resident().saturating_sub(resident);
        assert!(grown < 16 << 20, "{what}: {grown} bytes more");
    }
}
