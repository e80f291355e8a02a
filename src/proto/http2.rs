//! HTTP/2 messages in the form that HTTP/1 has here: one kind of head for everybody who decides.
//!
//! Frames, compression and streams are the `h2` crate's. What it lets through and HTTP/1 would not is
//! refused here, so that nothing gets past by the newer door.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};

use super::http1::{
    Field, HeadError, Known, Limits, RequestHead, ResponseHead, Span, TrailerLimits, Version, check_line, is_field_value, is_forbidden,
    trailer_fields,
};

/// What a client with prior knowledge sends first, as far as HTTP/1 reads it (RFC 9113 §3.4).
pub const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// A request for a WebSocket (RFC 8441), and the key for the handshake that HTTP/1 wants in its place.
pub struct WebSocket {
    key: [u8; 24],
}

impl WebSocket {
    /// The protocol's name in `:protocol` and in Upgrade.
    pub const PROTOCOL: &str = "websocket";

    /// 16 random bytes make the key (RFC 6455 §4.1).
    pub fn new(random: [u64; 2]) -> Self {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bits = u128::from(random[0]) << 64 | u128::from(random[1]);
        let mut key = [b'='; 24];
        // 128 bits are 21 digits and a third of one.
        for digit in &mut key[..21] {
            *digit = DIGITS[(bits & 63) as usize];
            bits >>= 6;
        }
        key[21] = DIGITS[((bits & 3) << 4) as usize];
        Self { key }
    }
}

/// Writes a request into `bytes` and makes `head` of it. `:authority` becomes the first Host; what else
/// names the host stands behind it for the caller to compare. Cookie crumbs become one Cookie. A CONNECT
/// for a WebSocket becomes the GET that asks for one.
///
/// After an error, `head` and `bytes` hold what was read so far. Not seen here: a fragment behind the path,
/// which `http` has cut off, for routes and endpoints alike.
pub fn read_request<B>(
    request: &Request<B>,
    body_follows: bool,
    socket: Option<&WebSocket>,
    limits: &Limits,
    head: &mut RequestHead,
    bytes: &mut Vec<u8>,
) -> Result<(), HeadError> {
    let (method, uri, fields) = (request.method().as_str(), request.uri(), request.headers());
    let method = if socket.is_some() { "GET" } else { method };
    let authority = uri.authority().map(Authority::as_str);
    let target = match (uri.path_and_query(), authority) {
        (Some(path), _) => path.as_str(),
        // CONNECT.
        (None, Some(authority)) => authority,
        (None, None) => "",
    };
    head.version = Version::Http2;
    // What follows is no body, and goes to whoever opens the socket.
    head.body_follows = body_follows && socket.is_none();
    head.method = put(method.as_bytes(), bytes);
    head.target = put(target.as_bytes(), bytes);
    bytes.push(b' ');
    check_line(method.as_bytes(), bytes, head.target, limits.uri_bytes)?;
    // The forms that only HTTP/1 has: RFC 9113 §8.3.1 gives a scheme and an authority fields of their own.
    if uri.path_and_query().is_some() && !target.starts_with('/') && target != "*" {
        return Err(HeadError::BadTarget);
    }
    if uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(HeadError::BadTarget);
    }
    if fields.len() + usize::from(authority.is_some()) > limits.headers {
        return Err(HeadError::TooManyHeaders);
    }
    if let Some(authority) = authority {
        let name = put(b"host", bytes);
        head.fields.push(Field { name, value: put(authority.as_bytes(), bytes), known: Known::Host });
    }
    let mut hosts = 0;
    let mut has_cookie = false;
    for (name, value) in fields {
        if !is_field_value(value.as_bytes()) {
            return Err(HeadError::BadValue);
        }
        let known = Known::of(name.as_str().as_bytes());
        match known {
            // The crate resets streams that have these; this line is for the day it does not.
            Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::TransferEncoding | Known::Upgrade => {
                return Err(HeadError::BadName);
            }
            // Of the handshake that HTTP/2 does not have.
            Known::ContentLength if socket.is_some() => return Err(HeadError::BadName),
            Known::Other if socket.is_some() && name == http::header::SEC_WEBSOCKET_KEY => continue,
            Known::Te if value != "trailers" => return Err(HeadError::BadValue),
            Known::Host if hosts > 0 => return Err(HeadError::BadName),
            Known::Host => hosts += 1,
            Known::Cookie if has_cookie => continue,
            Known::Cookie => {
                has_cookie = true;
                let name = put(b"cookie", bytes);
                head.fields.push(Field { name, value: put_cookie(fields, bytes)?, known });
                continue;
            }
            _ => {}
        }
        let name = put(name.as_str().as_bytes(), bytes);
        head.fields.push(Field { name, value: put(value.as_bytes(), bytes), known });
    }
    if let Some(socket) = socket {
        let ours: [(&[u8], &[u8]); 3] =
            [(b"connection", b"upgrade"), (b"upgrade", WebSocket::PROTOCOL.as_bytes()), (b"sec-websocket-key", &socket.key)];
        for (name, value) in ours {
            let known = Known::of(name);
            let name = put(name, bytes);
            head.fields.push(Field { name, value: put(value, bytes), known });
        }
    }
    head.bytes = bytes.len();
    Ok(())
}

fn put(part: &[u8], bytes: &mut Vec<u8>) -> Span {
    let start = bytes.len();
    bytes.extend_from_slice(part);
    Span::new(start, bytes.len())
}

/// RFC 9113 §8.2.3.
fn put_cookie(fields: &HeaderMap, bytes: &mut Vec<u8>) -> Result<Span, HeadError> {
    let start = bytes.len();
    for crumb in fields.get_all(http::header::COOKIE) {
        if !is_field_value(crumb.as_bytes()) {
            return Err(HeadError::BadValue);
        }
        // An empty one would leave white space at an end of the value.
        if crumb.is_empty() {
            continue;
        }
        if bytes.len() > start {
            bytes.extend_from_slice(b"; ");
        }
        bytes.extend_from_slice(crumb.as_bytes());
    }
    Ok(Span::new(start, bytes.len()))
}

/// An answer's head for HTTP/2, from the HTTP/1 form that all heads are composed in: a 101 is a 200 there
/// (RFC 8441 §5). `None` if it is not one after all.
pub fn response(head: &ResponseHead, bytes: &[u8]) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).ok()?;
    *response.headers_mut() = field_map(head.fields.iter().copied(), bytes, head.fields.len())?;
    if head.status == 101 {
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().remove(http::header::SEC_WEBSOCKET_ACCEPT);
    }
    Some(response)
}

/// A request for HTTP/2, from the HTTP/1 form that all heads are composed in: Host becomes `:authority`. `None` if HTTP/2 has no
/// words for it.
pub fn request(head: &RequestHead, bytes: &[u8], scheme: Scheme) -> Option<Request<()>> {
    let is_host = |field: &&Field| field.known == Known::Host;
    let host = head.fields.iter().find(is_host)?.value.of(bytes);
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(Authority::try_from(host).ok()?)
        .path_and_query(PathAndQuery::try_from(head.target.of(bytes)).ok()?);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method.of(bytes)).ok()?;
    *request.uri_mut() = uri.build().ok()?;
    let passes = |field: &Field| match field.known {
        Known::Host => false,
        // RFC 9113 §8.2.2.
        Known::Te => field.value.of(bytes).eq_ignore_ascii_case(b"trailers"),
        _ => true,
    };
    *request.headers_mut() = field_map(head.fields.iter().copied().filter(passes), bytes, head.fields.len())?;
    Some(request)
}

/// Writes an answer's head in HTTP/1's form. `is_whole`: nothing follows it. `request_is_head`: nothing could.
pub fn read_response<B>(response: &Response<B>, is_whole: bool, request_is_head: bool, lines: &mut Vec<u8>) {
    let status = response.status();
    for part in [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", status.canonical_reason().unwrap_or_default().as_bytes(), b"\r\n"] {
        lines.extend_from_slice(part);
    }
    for (name, value) in response.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    let has_body = !request_is_head && !status.is_informational() && !matches!(status.as_u16(), 204 | 304);
    if has_body && !response.headers().contains_key(http::header::CONTENT_LENGTH) {
        // HTTP/2 says by frames what HTTP/1 says here.
        let framing: &[u8] = if is_whole { b"content-length: 0\r\n" } else { b"transfer-encoding: chunked\r\n" };
        lines.extend_from_slice(framing);
    }
    lines.extend_from_slice(b"\r\n");
}

/// Trailers for HTTP/2, from lines as [`trailer_fields`] takes them.
pub fn trailers(lines: &[u8]) -> Option<HeaderMap> {
    field_map(trailer_fields(lines), lines, 0)
}

fn field_map(fields: impl Iterator<Item = Field>, bytes: &[u8], count: usize) -> Option<HeaderMap> {
    let mut map = HeaderMap::try_with_capacity(count).ok()?;
    for field in fields {
        match field.known {
            // What HTTP/1 says about its connection, HTTP/2 says in frames (RFC 9113 §8.2.2).
            Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::TransferEncoding | Known::Upgrade => continue,
            _ => {}
        }
        let name = HeaderName::from_bytes(field.name.of(bytes)).ok()?;
        map.try_append(name, HeaderValue::from_bytes(field.value.of(bytes)).ok()?).ok()?;
    }
    Some(map)
}

/// Writes trailers that came in a frame as lines, as they stand behind a last chunk, under the rules that hold there.
pub fn read_trailers(trailers: &HeaderMap, limits: &TrailerLimits, lines: &mut Vec<u8>) -> Result<(), HeadError> {
    if trailers.len() > limits.fields {
        return Err(HeadError::TooManyHeaders);
    }
    for (name, value) in trailers {
        if is_forbidden(Known::of(name.as_str().as_bytes())) {
            return Err(HeadError::BadName);
        }
        if !is_field_value(value.as_bytes()) {
            return Err(HeadError::BadValue);
        }
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    if lines.len() > limits.bytes { Err(HeadError::HeadTooLarge) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::proto::http1::Progress;

    const LIMITS: Limits = Limits { header_bytes: 1 << 16, headers: 10, uri_bytes: 20 };

    /// What is made of a request: method, target and fields, one a line.
    fn read(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<String, HeadError> {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut head, mut bytes) = (RequestHead::new(), Vec::new());
        read_request(&request.body(()).unwrap(), false, None, &LIMITS, &mut head, &mut bytes)?;
        assert_eq!(head.version, Version::Http2);
        let text = |span: Span| String::from_utf8(span.of(&bytes).to_vec()).unwrap();
        let mut lines = format!("{} {}", text(head.method), text(head.target));
        for field in &head.fields {
            assert_eq!(field.known, Known::of(field.name.of(&bytes)));
            lines.extend(["\n", &text(field.name), ": ", &text(field.value)]);
        }
        Ok(lines)
    }

    #[test]
    fn a_request_reads_as_if_it_had_come_in_lines() {
        let seen = read("GET", "https://a.example/b?c=d", &[("x-a", "1"), ("x-b", ""), ("x-a", "2")]);
        assert_eq!(seen.unwrap(), "GET /b?c=d\nhost: a.example\nx-a: 1\nx-a: 2\nx-b: ");
        assert_eq!(read("GET", "/", &[("host", "a.example")]).unwrap(), "GET /\nhost: a.example");
        assert_eq!(read("OPTIONS", "*", &[]).unwrap(), "OPTIONS *");
        assert_eq!(read("CONNECT", "a.example:443", &[]).unwrap(), "CONNECT a.example:443\nhost: a.example:443");
    }

    #[test]
    fn crumbs_become_one_cookie() {
        let crumbs = [("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("cookie", "c=3")];
        assert_eq!(read("GET", "/", &crumbs).unwrap(), "GET /\ncookie: a=1; b=2; c=3\nx-a: 1");
        assert_eq!(read("GET", "/", &[("cookie", "a=1")]).unwrap(), "GET /\ncookie: a=1");
        let empty = [("cookie", ""), ("cookie", "a=1"), ("cookie", ""), ("cookie", "b=2"), ("cookie", "")];
        assert_eq!(read("GET", "/", &empty).unwrap(), "GET /\ncookie: a=1; b=2");
        assert_eq!(read("GET", "/", &[("cookie", ""), ("cookie", "")]).unwrap(), "GET /\ncookie: ");
    }

    #[test]
    fn what_lines_could_not_carry_is_refused() {
        let check = |method: &str, uri: &str, fields: &[(&str, &str)], wanted| {
            assert_eq!(read(method, uri, fields), Err(wanted), "{method} {uri} {fields:?}");
        };
        for value in [" a", "a ", "\ta"] {
            check("GET", "/", &[("x-a", value)], HeadError::BadValue);
            check("GET", "/", &[("cookie", "a=1"), ("cookie", value)], HeadError::BadValue);
        }
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
            check("GET", "/", &[(name, "a")], HeadError::BadName);
        }
        check("GET", "/", &[("te", "gzip")], HeadError::BadValue);
        check("GET", "/", &[("host", "a"), ("host", "a")], HeadError::BadName);
        check("GET", "ftp://a.example/", &[], HeadError::BadTarget);
        check("GET", "/a\"b", &[], HeadError::BadTarget);
        check("GET", "/%4", &[], HeadError::BadTarget);
        check("GET", "*", &[], HeadError::MethodTarget);
        check(&"A".repeat(33), "/", &[], HeadError::BadMethod);
    }

    proptest! {
        /// Nothing comes in by this door that could not have come in lines, and it reads the same.
        #[test]
        fn what_is_accepted_lines_could_have_carried(
            method in "[A-Z]{1,4}|[!-~]{1,4}",
            path in "/[a-z]{0,3}[ -~]{0,4}|[!-~]{1,4}",
            fields in vec(("[a-z]{1,3}|cookie|host|te|[!-~]{1,3}", "[a-z]{0,3}|[ -~\t]{0,4}|trailers"), 0..4),
        ) {
            let mut request = Request::builder().method(method.as_bytes()).uri(path);
            for (name, value) in &fields {
                request = request.header(name, value);
            }
            // What the crate's own types refuse does not get here.
            let Ok(request) = request.body(()) else { return Ok(()) };
            let (mut head, mut bytes) = (RequestHead::new(), Vec::new());
            if read_request(&request, false, None, &LIMITS, &mut head, &mut bytes).is_err() {
                return Ok(());
            }
            let mut text = [head.method.of(&bytes), b" ", head.target.of(&bytes), b" HTTP/1.1\r\n"].concat();
            for field in &head.fields {
                text.extend([field.name.of(&bytes), b": ", field.value.of(&bytes), b"\r\n"].concat());
            }
            text.extend_from_slice(b"\r\n");
            let mut lines = RequestHead::new();
            prop_assert_eq!(lines.parse(&text, &LIMITS), Ok(Progress::Complete), "{}", text.escape_ascii());
            prop_assert_eq!((lines.method.of(&text), lines.target.of(&text)), (head.method.of(&bytes), head.target.of(&bytes)));
            let seen = |head: &RequestHead, bytes: &[u8]| {
                head.fields.iter().map(|field| (field.name.of(bytes).to_vec(), field.value.of(bytes).to_vec(), field.known)).collect::<Vec<_>>()
            };
            prop_assert_eq!(seen(&lines, &text), seen(&head, &bytes));
        }
    }

    #[test]
    fn limits_hold_on_both_sides() {
        let path = format!("/{}", "a".repeat(19));
        assert!(read("GET", &path, &[]).is_ok());
        assert_eq!(read("GET", &format!("{path}a"), &[]), Err(HeadError::TargetTooLong));
        let fields: Vec<(String, &str)> = (0..10).map(|number| (format!("x-{number}"), "")).collect();
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert!(read("GET", "/", &fields).is_ok());
        // `:authority` counts, as Host does.
        assert_eq!(read("GET", "http://a/", &fields), Err(HeadError::TooManyHeaders));
        assert!(read("GET", "/", &[("cookie", "a=1"); 10]).is_ok());
        assert_eq!(read("GET", "/", &[("cookie", "a=1"); 11]), Err(HeadError::TooManyHeaders));
    }

    #[test]
    fn an_answer_loses_what_is_about_its_connection() {
        let text = b"HTTP/1.1 200 OK\r\nX-A: b\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nx-a: c\r\n\r\n";
        let mut head = ResponseHead::new();
        head.parse(text, &Limits { header_bytes: 1 << 10, headers: 10, uri_bytes: 0 }).unwrap();
        let response = response(&head, text).unwrap();
        let fields: Vec<(&str, &[u8])> = response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!((response.status().as_u16(), fields), (200, vec![("x-a", &b"b"[..]), ("x-a", b"c")]));
    }

    /// What is made of a composed request: `:method`, the URI and fields, one a line.
    fn written(text: &str) -> Option<String> {
        let mut head = RequestHead::new();
        head.parse(text.as_bytes(), &Limits { uri_bytes: 100, ..LIMITS }).unwrap();
        let request = request(&head, text.as_bytes(), Scheme::HTTP)?;
        let fields = request.headers().iter().map(|(name, value)| format!("\n{name}: {}", value.to_str().unwrap()));
        let fields: Vec<String> = fields.collect();
        Some(format!("{} {}{}", request.method(), request.uri(), fields.concat()))
    }

    #[test]
    fn a_request_loses_what_is_about_its_connection() {
        let text = "POST /a?b=c HTTP/1.1\r\nHost: a.example:81\r\nCookie: a=1; b=2\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\
                    TE: trailers\r\nConnection: TE\r\n\r\n";
        let wanted = "POST http://a.example:81/a?b=c\ncookie: a=1; b=2\nexpect: 100-continue\nte: trailers";
        assert_eq!(written(text).unwrap(), wanted);
        assert_eq!(written("GET / HTTP/1.1\r\nHost: [::1]:80\r\nTE: gzip\r\n\r\n").unwrap(), "GET http://[::1]:80/");
        assert_eq!(written("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").unwrap(), "OPTIONS http://a*");
    }

    #[test]
    fn an_answer_says_in_lines_where_it_ends() {
        let check = |status: u16, length: Option<&str>, is_whole: bool, is_head: bool| {
            let mut response = Response::builder().status(status).header("x-a", "b");
            if let Some(length) = length {
                response = response.header("content-length", length);
            }
            let mut lines = Vec::new();
            read_response(&response.body(()).unwrap(), is_whole, is_head, &mut lines);
            String::from_utf8(lines).unwrap().replace("\r\n", "|")
        };
        assert_eq!(check(200, None, false, false), "HTTP/1.1 200 OK|x-a: b|transfer-encoding: chunked||");
        assert_eq!(check(200, None, true, false), "HTTP/1.1 200 OK|x-a: b|content-length: 0||");
        assert_eq!(check(200, Some("5"), false, false), "HTTP/1.1 200 OK|x-a: b|content-length: 5||");
        assert_eq!(check(200, None, true, true), "HTTP/1.1 200 OK|x-a: b||");
        assert_eq!(check(204, None, true, false), "HTTP/1.1 204 No Content|x-a: b||");
        assert_eq!(check(304, Some("5"), true, false), "HTTP/1.1 304 Not Modified|x-a: b|content-length: 5||");
        assert_eq!(check(103, None, false, false), "HTTP/1.1 103 Early Hints|x-a: b||");
        assert_eq!(check(299, None, true, true), "HTTP/1.1 299 |x-a: b||");
    }

    #[test]
    fn trailers_go_into_lines_and_back() {
        let limits = TrailerLimits { bytes: 100, fields: 2 };
        let check = |fields: &[(&'static str, &'static str)]| {
            let map: HeaderMap =
                fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
            let mut lines = Vec::new();
            read_trailers(&map, &limits, &mut lines)?;
            assert_eq!(trailers(&lines).unwrap(), map);
            Ok(String::from_utf8(lines).unwrap())
        };
        assert_eq!(check(&[("x-a", "1"), ("x-b", "")]), Ok("x-a: 1\r\nx-b: \r\n".to_owned()));
        assert_eq!(check(&[("content-length", "1")]), Err(HeadError::BadName));
        assert_eq!(check(&[("x-a", " 1")]), Err(HeadError::BadValue));
        assert_eq!(check(&[("x-a", "1"), ("x-b", "1"), ("x-c", "1")]), Err(HeadError::TooManyHeaders));
    }
}
