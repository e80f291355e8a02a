//! Every clause of CONFIG "HTTP strictness", by raw bytes, on both sides of its edge.
//!
//! A refusal is one answer, the end of the connection, and an origin that never had the request.
//! How the grammar is read in detail is `parsers.rs`'s; here it is the whole proxy that must hold.

use std::io::Write;

use crate::support::{Client, Next, Origin, Pair, Read1, Request, Rig};

/// A proxy before an origin that answers 200 to whatever reaches it.
struct Bench {
    origin: Origin,
    rig: Rig,
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

impl Bench {
    fn new() -> Self {
        Self::with("")
    }

    /// `settings` are further lines of the listener.
    fn with(settings: &str) -> Self {
        Self::before(Origin::answering(OK), settings)
    }

    fn before(origin: Origin, settings: &str) -> Self {
        let rig =
            Rig::start(&format!("[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{}\"\n{settings}\n", origin.address));
        Self { origin, rig }
    }

    /// Sends `bytes`; there is one answer with `status`, then the end, and the origin saw nothing.
    #[track_caller]
    fn refuses(&self, status: u16, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let shown = bytes.escape_ascii().to_string();
        let shown = &shown[..shown.len().min(400)];
        let before = self.origin.seen().len();
        let mut client = self.rig.connect("web");
        client.send(bytes).unwrap();
        let Read1::Answer(answer) = client.read("").unwrap() else { panic!("no answer to {shown}") };
        assert_eq!(answer.status, status, "{shown}");
        assert_eq!(answer.header("connection"), Some("close"), "{shown}");
        assert!(client.is_closed(), "one answer and the end: {shown}");
        let seen = self.origin.seen();
        assert_eq!(seen.len(), before, "the origin saw {:?} of {shown}", seen.last());
    }

    /// Sends `bytes`; the request comes through. Returns it as the origin saw it.
    #[track_caller]
    fn takes(&self, bytes: impl AsRef<[u8]>) -> Request {
        let bytes = bytes.as_ref();
        let shown = bytes.escape_ascii().to_string();
        let before = self.origin.seen().len();
        let mut client = self.rig.connect("web");
        client.send(bytes).unwrap();
        let read = client.read("").unwrap();
        assert!(matches!(&read, Read1::Answer(answer) if answer.status == 200), "{shown}\n{read:?}");
        let seen = self.origin.seen();
        assert_eq!(seen.len(), before + 1, "{shown}");
        seen.last().unwrap().clone()
    }
}

/// A request with these further lines (each with its CRLF) and this body.
fn post(fields: &str, body: &str) -> String {
    format!("POST /p HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}")
}

fn get(fields: &str) -> String {
    format!("GET /g HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

#[test]
fn a_length_is_digits_and_said_in_one_way() {
    let bench = Bench::new();
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 6\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 05\r\n",
        "Content-Length: 5\r\nX: y\r\ncontent-length: 50\r\n",
        "Content-Length: 5\r\nContent-Length:\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5,6\r\n",
        "Content-Length: 5,\r\n",
        "Content-Length:\r\n",
        "Content-Length: \t \r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: -0\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5h\r\n",
        "Content-Length: five\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: 5e0\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \"5\"\r\n",
        "Content-Length: 5;\r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 18446744073709551621\r\n",
        "Content-Length: 100000000000000000000000000000000000005\r\n",
    ] {
        bench.refuses(400, post(fields, "hello"));
        // The same where a body is not expected.
        bench.refuses(400, get(fields) + "hello");
    }
    for fields in
        ["Content-Length: 5\r\n", "content-LENGTH:5\r\n", "Content-Length:\t5\t \r\n", "Content-Length: 5\r\nContent-Length: 5\r\n"]
    {
        let seen = bench.takes(post(fields, "hello"));
        assert_eq!((seen.headers("content-length"), seen.body.as_slice()), (vec!["5"], &b"hello"[..]), "{fields}");
    }
    assert_eq!(bench.takes(post("Content-Length: 0\r\n", "")).header("content-length"), Some("0"));
    let seen = bench.takes(get("Content-Length: 5\r\n") + "hello");
    assert_eq!(seen.body, b"hello", "a body keeps its framing whatever the method");
}

#[test]
fn an_encoding_is_chunked_and_nothing_else() {
    let bench = Bench::new();
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    for value in [
        "xchunked",
        "chunkedx",
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "chunked,identity",
        "identity",
        "identity, chunked",
        "gzip",
        "gzip, chunked",
        "chunked;a=b",
        "chunked ;",
        "\"chunked\"",
        "'chunked'",
        "\x0bchunked",
        "chunked\x0b",
        "chun ked",
        "",
        "chunke",
        "chunked\0",
        "\x0cchunked",
        "chunked\u{a0}",
        "deflate",
        "trailers",
        "x",
        "chunked\t,",
    ] {
        bench.refuses(400, post(&format!("Transfer-Encoding: {value}\r\n"), chunks));
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 15\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: x\r\nTransfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
    ] {
        bench.refuses(400, post(fields, chunks));
    }
    for value in ["chunked", "Chunked", "CHUNKED", " \tchunked\t "] {
        let seen = bench.takes(post(&format!("Transfer-Encoding:{value}\r\n"), chunks));
        assert_eq!((seen.headers("transfer-encoding"), seen.header("content-length")), (vec!["chunked"], None), "{value:?}");
        assert_eq!(seen.body, b"hello");
    }
}

#[test]
fn http_1_0_has_no_transfer_encoding() {
    let bench = Bench::new();
    for fields in
        ["Transfer-Encoding: chunked\r\n", "Transfer-Encoding: identity\r\n", "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n"]
    {
        bench.refuses(400, format!("POST / HTTP/1.0\r\nHost: a.example\r\n{fields}\r\n5\r\nhello\r\n0\r\n\r\n"));
    }
    let seen = bench.takes("POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(seen.body, b"hello");
}

#[test]
fn a_line_ends_with_cr_lf() {
    let bench = Bench::new();
    for bytes in [
        "GET / HTTP/1.1\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n\n",
        "GET / HTTP/1.1\nHost: a.example\n\n",
        "GET / HTTP/1.1\rHost: a.example\r\r",
        "GET / HTTP/1.1\r\nHost: a.example\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX: y\rz\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\r\n",
        "GET / HTTP/1.1\r\r\nHost: a.example\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET /\r\n\r\n",
        "GET /\n\n",
        "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ] {
        bench.refuses(400, bytes);
    }
    // RFC 9112 §2.2: an empty line before a request is let pass.
    bench.takes("\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
}

#[test]
fn no_line_is_folded_and_no_space_precedes_a_colon() {
    let bench = Bench::new();
    for bytes in [
        "GET / HTTP/1.1\r\n Host: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\n\tX: y\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\n z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\n\tz\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX: y\r\n \r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n \r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\t: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX : y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n:\r\n\r\n",
    ] {
        bench.refuses(400, bytes);
    }
    let seen = bench.takes(get("X:y\r\nEmpty:\r\nTabs:\t\ta\tb \t\r\n"));
    assert_eq!((seen.header("x"), seen.header("empty"), seen.header("tabs")), (Some("y"), Some(""), Some("a\tb")));
}

#[test]
fn a_byte_that_has_no_place_is_refused() {
    let bench = Bench::new();
    let put = |before: &str, byte: u8, after: &str| [before.as_bytes(), &[byte], after.as_bytes()].concat();
    let end = " HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for byte in [0, 1, 8, 0x0b, 0x0c, 0x1b, 0x1f, 0x7f, 0x80, 0xa0, 0xff, b' ', b'\t'] {
        bench.refuses(400, put("GET / HTTP/1.1\r\nHost: a.example\r\nX-", byte, "a: y\r\n\r\n"));
        bench.refuses(400, put("GET / HTTP/1.1\r\nHost: a.example\r\n", byte, "X-a: y\r\n\r\n"));
        bench.refuses(400, put("GET / HTTP/1.1\r\nHost: a.example\r\nX-a", byte, ": y\r\n\r\n"));
        bench.refuses(400, put("G", byte, "ET / HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        bench.refuses(400, put("", byte, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        bench.refuses(400, put("GET", byte, " / HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        bench.refuses(400, put("GET /a", byte, &format!("b{end}")));
        bench.refuses(400, put("GET /a?b", byte, &format!("c{end}")));
        bench.refuses(400, put("GET ", byte, &format!("/{end}")));
        bench.refuses(400, put("GET /", byte, end));
        bench.refuses(400, put("GET / HTTP/1.1", byte, "\r\nHost: a.example\r\n\r\n"));
    }
    for byte in [0, 1, 8, 0x0b, 0x0c, 0x1b, 0x1f, 0x7f] {
        bench.refuses(400, put("GET / HTTP/1.1\r\nHost: a.example\r\nX: a", byte, "b\r\n\r\n"));
        bench.refuses(400, put("GET / HTTP/1.1\r\nHost: a.example\r\nX:", byte, "\r\n\r\n"));
        bench.refuses(400, put("GET / HTTP/1.1\r\nHost: a", byte, ".example\r\n\r\n"));
    }
    for byte in [b' ', b'\t', 0x80, 0xa0, 0xff, b'"', b'\\', b'<', b'{', b','] {
        bench.takes(put("GET / HTTP/1.1\r\nHost: a.example\r\nX: a", byte, "b\r\n\r\n"));
    }
    for byte in b"()<>@,;\\\"/[]?={}" {
        bench.refuses(400, put("GET / HTTP/1.1\r\nHost: a.example\r\nX", *byte, "a: y\r\n\r\n"));
        bench.refuses(400, put("GE", *byte, "T / HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    }
    for byte in b"!#$%&'*+-.^_`|~" {
        bench.takes(put("GET / HTTP/1.1\r\nHost: a.example\r\nX", *byte, "a: y\r\n\r\n"));
        bench.takes(put("GE", *byte, "T / HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    }
}

#[test]
fn targets_hold_what_uris_hold_and_what_browsers_leave_raw() {
    let bench = Bench::new();
    let request = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    for target in ["/a#b", "/a?b#c", "/a\"", "/a<", "/a>", "/a?\"", "/a?<", "/a?>", "/a\\b", "/a{", "/a}", "/a|", "/a^", "/a`"] {
        bench.refuses(400, request(target));
    }
    for target in
        ["/%", "/%4", "/%4g", "/%g4", "/?%", "/?a=%zz", "a", "a/b", "**", "*", "?a", "http:/a", "http://", "ftp://a.example/", "//%"]
    {
        bench.refuses(400, request(target));
    }
    for target in ["/", "//", "/?", "/??", "/a-._~!$&'()*+,;=:@b", "/a[0]", "/a?b[]=c&d={e}|f^g`h\\i", "/%41%7e%20?%00", "/?a=http://b/c"] {
        assert_eq!(bench.takes(request(target)).line(), format!("GET {target} HTTP/1.1"));
    }
    bench.refuses(400, "OPTIONS ** HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(bench.takes("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n").line(), "OPTIONS * HTTP/1.1");
}

#[test]
fn versions_are_1_0_and_1_1() {
    let bench = Bench::new();
    for version in
        ["http/1.1", "HTTP/1", "HTTP/1.", "HTTP/1.11", "HTTP/11", "HTTP/ 1.1", "HTTP/1.1 x", "HTTPS/1.1", "HTTP/x.y", "HTTP-1.1", ""]
    {
        bench.refuses(400, format!("GET / {version}\r\nHost: a.example\r\n\r\n"));
    }
    for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0"] {
        bench.refuses(505, format!("GET / {version}\r\nHost: a.example\r\n\r\n"));
    }
    // The beginning of HTTP/2, but not at the beginning.
    bench.refuses(505, "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}

#[test]
fn there_is_one_host_and_it_is_a_host_and_a_port() {
    let bench = Bench::new();
    let with = |hosts: &str| format!("GET / HTTP/1.1\r\n{hosts}X: y\r\n\r\n");
    for hosts in ["", "Host: a.example\r\nHost: a.example\r\n", "Host: a.example\r\nhost: b.example\r\n", "Host: a.example\r\nHost:\r\n"] {
        bench.refuses(400, with(hosts));
    }
    for host in [
        "",
        " ",
        "user@a.example",
        "user:password@a.example",
        "@a.example",
        "a.example/",
        "a.example/path",
        "a.example,b.example",
        "a.example, b.example",
        "a.example b.example",
        "a.example\tb",
        "a.example:x",
        "a.example:-1",
        "a.example:+80",
        "a.example:65536",
        "a.example:80:80",
        "a.example:8 0",
        ":80",
        "http://a.example",
        "a.example?b",
        "a.example#b",
        "a.example\\b",
        "a..example",
        ".a.example",
        "[::1",
        "::1",
        "[::1]a",
        "[::g]",
        "[]",
        "a.example:80/",
        "a%2eexample",
        "<a>",
        "\"a\"",
        "a\u{e9}",
        "a'b",
        "a;b",
        "*",
        "a=b",
        "a.example:0x50",
    ] {
        bench.refuses(400, with(&format!("Host: {host}\r\n")));
    }
    for host in [
        "a.example",
        "A.Example",
        "a.example:80",
        "a.example:65535",
        "a.example:0",
        "a.example.",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:80",
        "a_b-c",
        "localhost",
    ] {
        assert_eq!(bench.takes(with(&format!("Host: {host}\r\n"))).headers("host"), [host]);
    }
    // HTTP/1.0 knew no Host, but two are two, and a wrong one is wrong.
    let seen = bench.takes("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(seen.headers("host"), [bench.origin.address.to_string()]);
    bench.refuses(400, "GET / HTTP/1.0\r\nHost: a.example\r\nHost: b.example\r\n\r\n");
    bench.refuses(400, "GET / HTTP/1.0\r\nHost: u@a.example\r\n\r\n");
}

#[test]
fn an_absolute_target_agrees_with_its_host() {
    let bench = Bench::new();
    let request = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\n{host}\r\n");
    for (target, host) in [
        ("http://a.example/", "Host: b.example\r\n"),
        ("http://a.example/", "Host: a.example:8080\r\n"),
        ("http://a.example:8080/", "Host: a.example\r\n"),
        ("http://a.example/", ""),
        ("http://a.example/", "Host:\r\n"),
        ("http://u@a.example/", "Host: a.example\r\n"),
        ("http://u:p@a.example/", "Host: a.example\r\n"),
        ("http://a.example:x/", "Host: a.example\r\n"),
        ("http://a.example/../b", "Host: a.example\r\n"),
        ("http:///a", "Host: a.example\r\n"),
        ("ftp://a.example/", "Host: a.example\r\n"),
        ("a.example:80", "Host: a.example\r\n"),
        ("http://a.example/a\\b", "Host: a.example\r\n"),
    ] {
        bench.refuses(400, request(target, host));
    }
    for (target, host, line) in [
        ("http://a.example/b?c", "a.example", "GET /b?c HTTP/1.1"),
        ("HTTP://A.example/b", "a.example", "GET /b HTTP/1.1"),
        ("http://a.example", "a.example", "GET / HTTP/1.1"),
        ("http://a.example:80/", "a.example:80", "GET / HTTP/1.1"),
        ("https://a.example/", "a.example", "GET / HTTP/1.1"),
        ("http://a.example?b[]={c}", "a.example", "GET /?b[]={c} HTTP/1.1"),
        ("http://[::1]:80/b", "[::1]:80", "GET /b HTTP/1.1"),
    ] {
        let seen = bench.takes(request(target, &format!("Host: {host}\r\n")));
        assert_eq!(seen.line(), line);
        assert_eq!(seen.headers("host").len(), 1);
        assert!(seen.header("host").unwrap().eq_ignore_ascii_case(host));
    }
    // The scheme's own port is no difference; the target's spelling goes on.
    for (target, host, sent) in
        [("http://a.example:80/", "a.example", "a.example:80"), ("https://a.example/", "a.example:443", "a.example")]
    {
        assert_eq!(bench.takes(request(target, &format!("Host: {host}\r\n"))).headers("host"), [sent]);
    }
    // RFC 9112 §3.2.4.
    assert_eq!(bench.takes("OPTIONS http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n").line(), "OPTIONS * HTTP/1.1");
    assert_eq!(bench.takes("OPTIONS http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n").line(), "OPTIONS / HTTP/1.1");
    // A tunnel is nobody's business here.
    bench.refuses(405, "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n");
    bench.refuses(400, "CONNECT / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    bench.refuses(400, "CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n\r\n");
}

#[test]
fn a_chunk_is_a_size_and_its_data_and_nothing_more() {
    let bench = Bench::new();
    for body in [
        // Sizes.
        "\r\nhello\r\n0\r\n\r\n",
        ";a=b\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\t5\r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "5,\r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "8000000000000000\r\nhello\r\n0\r\n\r\n",
        "00000000000000000000005\r\nhello\r\n0\r\n\r\n",
        // Ends of lines.
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\r\n",
        // More or less data than was said.
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "5\r\nhel\r\n0\r\n\r\n",
        // Extensions.
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "5;a\n\r\nhello\r\n0\r\n\r\n",
        // The last chunk and trailers.
        "5\r\nhello\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5\r\nhello\r\n0\r\n X: y\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\n\r\n",
        "5\r\nhello\r\n0\r\nX\0: y\r\n\r\n",
        "5\r\nhello\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n0\r\nHost: b.example\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
        "5\r\nhello\r\n0\r\nX_Forwarded_For: 1.2.3.4\r\n\r\n",
    ] {
        bench.refuses(400, post("Transfer-Encoding: chunked\r\n", body));
    }
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000));
    bench.refuses(400, post("Transfer-Encoding: chunked\r\n", &long));
    for (body, data) in [
        ("0\r\n\r\n", ""),
        ("00\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("05\r\nhello\r\n000\r\n\r\n", "hello"),
        ("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"),
        ("5;name=\"value\"\r\nhello\r\n0;last\r\n\r\n", "hello"),
        ("5;a;b=c\r\nhello\r\n0\r\n\r\n", "hello"),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
    ] {
        let seen = bench.takes(post("Transfer-Encoding: chunked\r\n", body));
        assert_eq!(seen.body, data.as_bytes(), "{body:?}");
        assert!(!String::from_utf8_lossy(&seen.raw_body).contains(';'), "extensions end here");
    }
    let seen = bench.takes(post("Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"));
    assert!(seen.raw_body.ends_with(b"0\r\nX-Sum: 1\r\n\r\n"));
    assert_eq!(seen.header("trailer"), Some("X-Sum"));
}

#[test]
fn a_bad_chunk_after_good_ones_never_becomes_a_whole_request() {
    let bench = Bench::new();
    let mut client = bench.rig.connect("web");
    client.send(post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n")).unwrap();
    crate::support::eventually("the origin is connected", || bench.origin.connections() == 1);
    client.send("x\r\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let Read1::Answer(answer) = client.read("").unwrap() else { panic!("no answer") };
    assert_eq!(answer.status, 400);
    assert!(client.is_closed());
    assert!(bench.origin.seen().is_empty());
}

#[test]
fn what_follows_a_refusal_is_not_a_request() {
    let bench = Bench::new();
    let second = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";
    bench.refuses(400, post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{second}")));
    bench.refuses(400, post("Content-Length: 5\r\nContent-Length: 0\r\n", second));
    bench.refuses(400, post("Transfer-Encoding: chunked\r\n", &format!("0\r\n\n{second}")));
    bench.refuses(400, format!("GET / HTTP/1.1\r\nHost: a.example\r\nX : y\r\n\r\n{second}"));
    bench.refuses(400, format!("GET / HTTP/1.1\r\n\r\n{second}"));
    bench.refuses(400, format!("GET /../ HTTP/1.1\r\nHost: a.example\r\n\r\n{second}"));
    // A body that looks like a request is a body.
    let seen = bench.takes(post(&format!("Content-Length: {}\r\n", second.len()), second));
    assert_eq!(seen.body, second.as_bytes());
}

#[test]
fn fields_of_one_hop_go_no_further() {
    let bench = Bench::new();
    let seen = bench.takes(get(concat!(
        "Connection: keep-alive, X-One, x-two\r\nConnection: X-Three\r\nX-One: 1\r\nx-TWO: 2\r\nX-Three: 3\r\nX-Four: 4\r\n",
        "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip, trailers;q=0.5\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Trailer: X-Sum\r\n",
    )));
    for name in
        ["x-one", "x-two", "x-three", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings", "trailer", "transfer-encoding"]
    {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert!(!seen.headers("connection").iter().any(|value| value.to_ascii_lowercase().contains("x-")));
    assert_eq!(seen.header("x-four"), Some("4"));
    let seen = bench.takes(get("TE: trailers, deflate;q=0.5\r\nConnection: TE\r\n"));
    assert_eq!((seen.headers("te"), seen.headers("connection")), (vec!["trailers"], vec!["TE"]));
    let seen = bench.takes(get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"));
    assert_eq!((seen.header("upgrade"), seen.header("http2-settings"), seen.header("connection")), (None, None, None));
    let seen = bench.takes(get("Connection: close, X-A\r\nX-A: 1\r\n"));
    assert_eq!((seen.header("connection"), seen.header("x-a")), (None, None));
    let seen = bench.takes(post("Connection: Trailer\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"));
    assert_eq!(seen.header("trailer"), None);
}

#[test]
fn a_nomination_harms_neither_framing_nor_our_own_fields() {
    for trust in ["", "trust = [\"127.0.0.0/8\"]"] {
        let bench = Bench::with(trust);
        let nominated =
            "Host, Content-Length, Transfer-Encoding, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Request-Id, Via, Connection";
        let fields = format!(
            "Connection: {nominated}\r\nContent-Length: 5\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b.example\r\nX-Request-Id: mine\r\n"
        );
        let seen = bench.takes(post(&fields, "hello"));
        assert_eq!(
            (seen.headers("host"), seen.headers("content-length"), seen.body.as_slice()),
            (vec!["a.example"], vec!["5"], &b"hello"[..])
        );
        let said = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"].map(|name| seen.headers(name));
        if trust.is_empty() {
            assert_eq!(said, [vec!["127.0.0.1"], vec!["http"], vec!["a.example"]]);
        } else {
            assert_eq!(said, [vec!["10.0.0.1, 127.0.0.1"], vec!["https"], vec!["b.example"]]);
        }
        assert_eq!((seen.headers("x-request-id").len(), seen.headers("via")), (1, vec!["1.1 attache"]));
        let seen = bench.takes(post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"));
        assert_eq!((seen.headers("transfer-encoding"), seen.body.as_slice()), (vec!["chunked"], &b"hello"[..]));
    }
}

#[test]
fn fields_of_one_hop_come_no_further_on_the_way_back() {
    let bench = Bench::before(
        Origin::answering(concat!(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-One\r\nX-One: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n",
            "TE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nTrailer: X-Sum\r\nContent-Length: 2\r\nContent-Length: 2\r\nX-Two: 2\r\n\r\nok",
        )),
        "",
    );
    let answer = bench.rig.connect("web").ask("GET", "/").unwrap();
    for name in ["connection", "x-one", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings", "trailer", "transfer-encoding"]
    {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!((answer.headers("content-length"), answer.header("x-two"), answer.text()), (vec!["2"], Some("2"), "ok".to_owned()));
}

#[test]
fn a_nomination_on_the_way_back_does_not_harm_framing_either() {
    let bench = Bench::before(
        Origin::answering("HTTP/1.1 200 OK\r\nConnection: Content-Length, Date\r\nDate: then\r\nContent-Length: 2\r\n\r\nok"),
        "",
    );
    let answer = bench.rig.connect("web").ask("GET", "/").unwrap();
    assert_eq!((answer.headers("content-length"), answer.headers("date").len()), (vec!["2"], 1));
    assert_ne!(answer.header("date"), Some("then"));
}

#[test]
fn a_stranger_cannot_say_who_asked() {
    let bench = Bench::new();
    let seen = bench.takes(get(concat!(
        "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n",
        "X-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /x\r\nForwarded: for=1.2.3.4\r\nX-Request-Id: mine\r\nX-Attache-Arm: b\r\nx-attache-x: y\r\n",
        "Via: 1.0 before\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    )));
    assert_eq!(seen.headers("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.headers("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.headers("x-forwarded-host"), ["a.example"]);
    for name in ["x-forwarded-port", "x-forwarded-prefix", "forwarded", "x-attache-arm", "x-attache-x"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    let id = seen.headers("x-request-id");
    assert!(id.len() == 1 && id[0] != "mine" && id[0].len() == 32);
    assert_eq!(seen.headers("via"), ["1.0 before", "1.1 attache"]);
    assert_eq!(seen.headers("traceparent"), ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]);
    let another = bench.takes(get(""));
    assert_ne!(another.header("x-request-id"), Some(id[0]));
    let seen = bench.takes("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((seen.headers("via"), seen.header("x-forwarded-host")), (vec!["1.0 attache"], None));
}

#[test]
fn a_trusted_peer_can() {
    let bench = Bench::with("trust = [\"127.0.0.0/8\"]");
    let seen = bench.takes(get(concat!(
        "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8, 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: real.example\r\n",
        "X-Forwarded-Port: 1\r\nForwarded: for=1.2.3.4\r\nX-Request-Id: mine\r\nX-Attache-Arm: b\r\n",
    )));
    assert_eq!(seen.headers("x-forwarded-for"), ["1.2.3.4, 5.6.7.8, 9.9.9.9, 127.0.0.1"]);
    assert_eq!(seen.headers("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.headers("x-forwarded-host"), ["real.example"]);
    assert_eq!(seen.headers("x-forwarded-port"), ["1"]);
    assert_eq!(seen.headers("forwarded"), ["for=1.2.3.4"]);
    assert_eq!(seen.headers("x-request-id"), ["mine"]);
    assert_eq!(seen.headers("x-attache-arm"), ["b"]);
    let seen = bench.takes(get(""));
    assert_eq!(seen.headers("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.headers("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.headers("x-forwarded-host"), ["a.example"]);
    assert_eq!(seen.headers("x-request-id").len(), 1);
    // Trust in others is no trust in this one.
    let bench = Bench::with("trust = [\"10.0.0.0/8\"]");
    assert_eq!(bench.takes(get("X-Forwarded-For: 1.2.3.4\r\nX-Attache-Arm: b\r\n")).headers("x-forwarded-for"), ["127.0.0.1"]);
}

#[test]
fn a_name_with_underscores_does_not_pass_for_one_of_ours() {
    for trust in ["", "trust = [\"127.0.0.0/8\"]\n"] {
        let origin = Origin::answering(OK);
        let address = origin.address;
        let edits = format!(
            "{trust}[[listener.route]]\nservice = \"{address}\"\nrequest_headers = {{ set = {{ x-user-id = \"{{client_ip}}\", user-agent = \"us\" }}, remove = [\"x-secret-key\"] }}"
        );
        let bench = Bench::before(origin, &edits);
        let aliases = [
            "X_Forwarded_For",
            "x_forwarded-for",
            "X-Forwarded_For",
            "X_Forwarded_Proto",
            "X_Forwarded_Host",
            "X_Request_Id",
            "X_Attache_Arm",
            "X-Attache_Arm",
            "Content_Length",
            "Transfer_Encoding",
            "X_User_Id",
            "X-User_Id",
            "X_Secret_Key",
            "User_Agent",
        ];
        let fields: String = aliases.iter().map(|name| format!("{name}: 9\r\n")).collect();
        let seen = bench.takes(get(&(fields + "X_Other: 1\r\nUnder_Score: 2\r\n")));
        for name in aliases {
            assert_eq!(seen.header(name), None, "{name}");
        }
        assert_eq!((seen.header("x_other"), seen.header("under_score")), (Some("1"), Some("2")));
        assert_eq!((seen.headers("x-user-id"), seen.headers("user-agent")), (vec!["127.0.0.1"], vec!["us"]));
    }
}

#[test]
fn a_path_that_two_programs_read_differently_is_refused() {
    let bench = Bench::new();
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let ambiguous = [
        "/..",
        "/../",
        "/a/../b",
        "/a/..",
        "/.",
        "/./",
        "/a/./b",
        "/%2e",
        "/%2E%2E/",
        "/.%2e/",
        "/%2e./",
        "/a%2ftc",
        "/a%2Fb",
        "/a%5cb",
        "/a%5C",
        "/%00",
        "/a%00b",
        "/..;/a",
        "/a/..;x=y/b",
        "/a%2e",
        "/../?q",
        "/a/..?q=1",
        "//../",
    ];
    for path in ambiguous {
        bench.refuses(400, request(path));
    }
    bench.refuses(400, request("/a\\b"));
    bench.refuses(400, request("/\\..\\a"));
    bench.refuses(400, request("http://a.example/a/../b"));
    for path in [
        "/...",
        "/.a",
        "/a.",
        "/a..b",
        "/..a",
        "/a..",
        "/%252e%252e/",
        "/a?b=../c",
        "/a?%2e%2e%2f",
        "/a%20b",
        "/;a",
        "//a//b",
        "/%E2%82%AC",
    ] {
        assert_eq!(bench.takes(request(path)).line(), format!("GET {path} HTTP/1.1"));
    }
    let raw = Bench::with("paths = \"raw\"");
    for path in ambiguous {
        assert_eq!(raw.takes(request(path)).line(), format!("GET {path} HTTP/1.1"));
    }
}

#[test]
fn routes_compare_decoded_paths_and_the_bytes_stay_as_they_came() {
    let origin = Origin::answering(OK);
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\npath = [\"/admin/*\", \"/~a-b_c\"]\nservice = \"{}\"\n",
        origin.address
    ));
    let ask = |target: &str| rig.connect("web").ask("GET", target).unwrap().status;
    for path in ["/admin/x", "/%61dmin/x", "/a%64%6D%69n/%78?%61", "/%7ea%2Db%5fc"] {
        assert_eq!(ask(path), 200, "{path}");
        assert_eq!(origin.seen().last().unwrap().line(), format!("GET {path} HTTP/1.1"));
    }
    for path in ["/%2561dmin/x", "/Admin/x", "/admin%20/x", "/%41dmin/x"] {
        assert_eq!(ask(path), 404, "{path}");
    }
}

#[test]
fn server_name_and_host_agree_where_there_are_several_certificates() {
    let origin = Origin::ok("hello");
    let directory = tempfile::TempDir::new().unwrap();
    Pair::of(&["a.example", "also-a.example"]).write(directory.path(), "a");
    Pair::of(&["b.example"]).write(directory.path(), "b");
    let rig = Rig::start_in(
        directory,
        &format!(
            "[[listener]]\nname = \"two\"\nlisten = \"127.0.0.1:0\"\nservice = \"{0}\"\n[listener.tls]\ncertificates = [{{ cert = \"a.crt\", key = \"a.key\" }}, {{ cert = \"b.crt\", key = \"b.key\" }}]\n\
             [[listener]]\nname = \"one\"\nlisten = \"127.0.0.1:0\"\nservice = \"{0}\"\n[listener.tls]\ncert = \"a.crt\"\nkey = \"a.key\"\n",
            origin.address
        ),
    );
    for (listener, sni, host, status) in [
        ("two", "a.example", "a.example", 200),
        ("two", "a.example", "A.EXAMPLE:443", 200),
        ("two", "a.example", "also-a.example", 200),
        ("two", "b.example", "b.example", 200),
        ("two", "a.example", "b.example", 421),
        ("two", "b.example", "a.example", 421),
        ("two", "b.example", "unknown.example", 421),
        ("one", "a.example", "b.example", 200),
    ] {
        let mut client = Client::tls(rig.address(listener), sni).unwrap();
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
        let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
        assert_eq!(answer.status, status, "{listener} {sni} {host}");
    }
}

/// The origin writes `bytes` and closes; the client asks with `version` and must see a cut after `body`.
#[track_caller]
fn check_cut(bytes: &'static str, version: &str, body: &str) {
    let origin = Origin::run(move |stream, _, _| {
        stream.write_all(bytes.as_bytes()).unwrap();
        Next::Close
    });
    let bench = Bench::before(origin, "");
    let mut client = bench.rig.connect("web");
    client.send(format!("GET / HTTP/{version}\r\nHost: a.example\r\n\r\n")).unwrap();
    match client.read("GET").unwrap() {
        Read1::Cut(seen) => assert!(String::from_utf8_lossy(&seen).contains(body), "{bytes:?}: {}", seen.escape_ascii()),
        other => panic!("{bytes:?}: {other:?}"),
    }
}

#[test]
fn an_answer_cut_short_is_cut_short_to_the_client() {
    check_cut("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "1.1", "hello");
    check_cut("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "1.0", "hello");
    check_cut("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "1.1", "");
    check_cut("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", "1.1", "");
    check_cut("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "1.1", "");
    check_cut("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n", "1.1", "");
    check_cut("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n", "1.1", "");
    // Close-delimited for a client of HTTP/1.0: only a reset tells it.
    check_cut("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "1.0", "");
}

#[test]
fn what_came_of_a_cut_answer_is_passed_on() {
    for head in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let origin = Origin::run(move |stream, _, _| {
            write!(stream, "HTTP/1.1 200 OK\r\nX-From: origin\r\n{head}").unwrap();
            Next::Close
        });
        let bench = Bench::before(origin, "");
        let mut client = bench.rig.connect("web");
        client.send(get("")).unwrap();
        let mut seen = Vec::new();
        // An end without a last chunk, or with bytes missing.
        let _ = std::io::Read::read_to_end(&mut client.socket(), &mut seen);
        let seen = String::from_utf8_lossy(&seen);
        assert!(seen.starts_with("HTTP/1.1 200 OK\r\n") && seen.contains("X-From: origin\r\n") && seen.contains("hello"), "{seen:?}");
        assert!(!seen.ends_with("0\r\n\r\n"), "{seen:?}");
    }
}
