//! Where a message ends, and whether another may follow on the connection.
//!
//! RFC 9112 §6.3 says how to recover from contradictions; we do not. Every recovery is a guess that
//! the next program in the chain may make differently.

use super::bytes::trim;
use super::fields::{Field, Known};
use super::head::{RequestHead, ResponseHead, Version};

/// Of all Connection values of a message. `is_nominated` looks through them once per field, so that a long
/// list is work for us and of no use to anyone.
const CONNECTION_BYTES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    None,
    /// May be 0, which differs from `None` in that the message says so.
    Length(u64),
    /// Of a length that only its end tells; so are bodies of HTTP/2 without a Content-Length.
    Chunked,
    /// Up to the end of the connection; responses only.
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingError {
    /// RFC 9112 §6.1: both Content-Length and Transfer-Encoding.
    LengthAndEncoding,
    /// RFC 9110 §8.6: several Content-Lengths that are not the same, byte for byte.
    DifferentLengths,
    /// RFC 9110 §8.6: not digits only, or more than 2^63 - 1.
    BadLength,
    /// RFC 9112 §6.1: anything but one `chunked`.
    BadEncoding,
    /// RFC 9112 §6.1: Transfer-Encoding does not exist in HTTP/1.0.
    EncodingInHttp10,
    /// More than 1 KiB of Connection values.
    ConnectionTooLarge,
}

impl RequestFraming {
    /// What is assumed of a request that could not be read: nothing follows, and nothing is kept.
    pub const UNREAD: Self = Self {
        body: BodyFraming::None,
        keep_alive: false,
        expect_continue: false,
        expect_unknown: false,
        has_upgrade: false,
        accepts_trailers: false,
        nominates: false,
    };
}

impl FramingError {
    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LengthAndEncoding => "length_and_encoding",
            Self::DifferentLengths => "different_lengths",
            Self::BadLength => "bad_length",
            Self::BadEncoding => "bad_encoding",
            Self::EncodingInHttp10 => "encoding_in_http10",
            Self::ConnectionTooLarge => "connection_too_large",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFraming {
    pub body: BodyFraming,
    /// By version and Connection.
    pub keep_alive: bool,
    /// The client may wait for `100 Continue`.
    pub expect_continue: bool,
    /// An expectation that is not ours to meet: 417 (RFC 9110 §10.1.1).
    pub expect_unknown: bool,
    /// An Upgrade field that Connection names, not in HTTP/1.0.
    pub has_upgrade: bool,
    /// `TE: trailers`.
    pub accepts_trailers: bool,
    /// Connection names fields beyond the ones it always may: ask `is_nominated` while forwarding.
    pub nominates: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFraming {
    pub body: BodyFraming,
    /// By version, Connection and the body's end.
    pub keep_alive: bool,
    /// As for requests.
    pub nominates: bool,
}

pub fn request_framing(head: &RequestHead, bytes: &[u8]) -> Result<RequestFraming, FramingError> {
    let said = Said::by(&head.fields, bytes)?;
    let body = match said.body(head.version)? {
        Some(body) => body,
        None if head.body_follows => BodyFraming::Chunked,
        None => BodyFraming::None,
    };
    Ok(RequestFraming {
        body,
        keep_alive: said.keep_alive(head.version),
        // RFC 9110 §10.1.1: a 1.0 client cannot mean it.
        expect_continue: said.expect_continue && head.version != Version::Http10,
        expect_unknown: said.expect_unknown,
        has_upgrade: said.upgrade && said.connection_upgrade && head.version != Version::Http10,
        accepts_trailers: said.te_trailers,
        nominates: said.nominates,
    })
}

/// `request_is_head`: the request's method was HEAD.
pub fn response_framing(head: &ResponseHead, bytes: &[u8], request_is_head: bool) -> Result<ResponseFraming, FramingError> {
    let said = Said::by(&head.fields, bytes)?;
    let keep_alive = said.keep_alive(head.version);
    let nominates = said.nominates;
    // RFC 9110 §8.6, RFC 9112 §6.1: neither field may be here. A length is ignored, but the sender may
    // believe in it, so nothing is read from this connection again.
    if matches!(head.status, 100..=199 | 204) {
        if said.encodings > 0 {
            return Err(FramingError::BadEncoding);
        }
        let is_empty = matches!(said.length, Length::Absent | Length::Is(0, _));
        return Ok(ResponseFraming { body: BodyFraming::None, keep_alive: keep_alive && is_empty, nominates });
    }
    let body = said.body(head.version)?;
    Ok(match body {
        // These say how long the body would have been.
        _ if request_is_head || head.status == 304 => ResponseFraming { body: BodyFraming::None, keep_alive, nominates },
        Some(body) => ResponseFraming { body, keep_alive, nominates },
        None => ResponseFraming { body: BodyFraming::UntilClose, keep_alive: false, nominates },
    })
}

/// What the fields of a head say about its framing, before judging.
#[derive(Default)]
struct Said<'a> {
    length: Length<'a>,
    encodings: usize,
    is_chunked: bool,
    close: bool,
    connection_keep_alive: bool,
    connection_upgrade: bool,
    nominates: bool,
    upgrade: bool,
    expect_continue: bool,
    expect_unknown: bool,
    te_trailers: bool,
}

#[derive(Clone, Copy, Default)]
enum Length<'a> {
    #[default]
    Absent,
    Is(u64, &'a [u8]),
    Wrong(FramingError),
}

impl<'a> Said<'a> {
    fn by(fields: &[Field], bytes: &'a [u8]) -> Result<Self, FramingError> {
        let mut said = Self::default();
        let mut connection_bytes = 0;
        for field in fields {
            let value = field.value.of(bytes);
            match field.known {
                Known::ContentLength => said.length = said.length.and(value),
                Known::TransferEncoding => {
                    said.encodings += 1;
                    said.is_chunked = value.eq_ignore_ascii_case(b"chunked");
                }
                Known::Connection => {
                    connection_bytes += value.len();
                    if connection_bytes > CONNECTION_BYTES_MAX {
                        return Err(FramingError::ConnectionTooLarge);
                    }
                    tokens(value).for_each(|token| said.connection(token));
                }
                Known::Upgrade => said.upgrade = true,
                Known::Expect if value.eq_ignore_ascii_case(b"100-continue") => said.expect_continue = true,
                Known::Expect => said.expect_unknown = true,
                Known::Te => said.te_trailers |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers")),
                _ => {}
            }
        }
        Ok(said)
    }

    fn connection(&mut self, token: &[u8]) {
        match token.len() {
            5 if token.eq_ignore_ascii_case(b"close") => self.close = true,
            10 if token.eq_ignore_ascii_case(b"keep-alive") => self.connection_keep_alive = true,
            7 if token.eq_ignore_ascii_case(b"upgrade") => self.connection_upgrade = true,
            2 if token.eq_ignore_ascii_case(b"te") => {}
            _ => self.nominates = true,
        }
    }

    fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version != Version::Http10 || self.connection_keep_alive)
    }

    fn body(&self, version: Version) -> Result<Option<BodyFraming>, FramingError> {
        match (self.encodings, self.length) {
            (0, Length::Absent) => Ok(None),
            (0, Length::Is(length, _)) => Ok(Some(BodyFraming::Length(length))),
            (0, Length::Wrong(error)) => Err(error),
            (_, Length::Is(..) | Length::Wrong(_)) => Err(FramingError::LengthAndEncoding),
            _ if version == Version::Http10 => Err(FramingError::EncodingInHttp10),
            (1, Length::Absent) if self.is_chunked => Ok(Some(BodyFraming::Chunked)),
            _ => Err(FramingError::BadEncoding),
        }
    }
}

impl<'a> Length<'a> {
    /// Repeating a length is harmless and happens; writing it in another way is neither.
    fn and(self, value: &'a [u8]) -> Self {
        match (self, parse_length(value)) {
            (Self::Wrong(error), _) => Self::Wrong(error),
            (_, None) => Self::Wrong(FramingError::BadLength),
            (Self::Absent, Some(length)) => Self::Is(length, value),
            (Self::Is(_, before), Some(_)) if before == value => self,
            (Self::Is(..), Some(_)) => Self::Wrong(FramingError::DifferentLengths),
        }
    }
}

fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let length = value.iter().try_fold(0u64, |length, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })?;
    i64::try_from(length).is_ok().then_some(length)
}

/// Whether a Connection field names `name`, which is then for this hop only (RFC 9110 §7.6.1).
pub fn is_nominated(name: &[u8], fields: &[Field], bytes: &[u8]) -> bool {
    let connections = fields.iter().filter(|field| field.known == Known::Connection);
    connections.flat_map(|field| tokens(field.value.of(bytes))).any(|token| token.eq_ignore_ascii_case(name))
}

/// The elements of a comma-separated list (RFC 9110 §5.6.1); empty ones are skipped. Knows no quoted strings.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Progress};
    use super::*;
    use BodyFraming::{Chunked, Length, None as NoBody, UntilClose};

    const LIMITS: Limits = Limits { header_bytes: 4096, headers: 20, uri_bytes: 100 };

    fn request(version: &str, fields: &str) -> Result<RequestFraming, FramingError> {
        let bytes = format!("POST / HTTP/{version}\r\n{fields}\r\n");
        let mut head = RequestHead::new();
        assert_eq!(head.parse(bytes.as_bytes(), &LIMITS), Ok(Progress::Complete), "{bytes}");
        request_framing(&head, bytes.as_bytes())
    }

    fn response(line: &str, fields: &str, is_head: bool) -> Result<ResponseFraming, FramingError> {
        let bytes = format!("HTTP/{line}\r\n{fields}\r\n");
        let mut head = ResponseHead::new();
        assert_eq!(head.parse(bytes.as_bytes(), &LIMITS), Ok(Progress::Complete), "{bytes}");
        response_framing(&head, bytes.as_bytes(), is_head)
    }

    fn check_body(fields: &str, wanted: Result<BodyFraming, FramingError>) {
        assert_eq!(request("1.1", fields).map(|framing| framing.body), wanted, "{fields}");
        let of_response = response("1.1 200", fields, false).map(|framing| framing.body);
        let wanted = if wanted == Ok(NoBody) { Ok(UntilClose) } else { wanted };
        assert_eq!(of_response, wanted, "{fields}");
    }

    #[test]
    fn a_length_is_digits() {
        check_body("", Ok(NoBody));
        check_body("content-length: 0\r\n", Ok(Length(0)));
        check_body("Content-Length:\t5 \r\n", Ok(Length(5)));
        check_body("Content-Length: 005\r\n", Ok(Length(5)));
        check_body("content-length: 9223372036854775807\r\n", Ok(Length(i64::MAX as u64)));
        let wrong =
            ["", "+5", "-5", "0x5", "5 5", "5, 5", "5,", "5;", "5.0", "5a", "\u{0665}", "9223372036854775808", "18446744073709551616"];
        for value in wrong {
            check_body(&format!("content-length: {value}\r\n"), Err(FramingError::BadLength));
        }
        check_body(&format!("content-length: {}\r\n", "9".repeat(400)), Err(FramingError::BadLength));
    }

    #[test]
    fn only_the_same_length_may_be_repeated() {
        check_body("content-length: 5\r\nContent-Length: 5\r\ncontent-length: 5\r\n", Ok(Length(5)));
        check_body("content-length: 5\r\ncontent-length: 6\r\n", Err(FramingError::DifferentLengths));
        check_body("content-length: 5\r\ncontent-length: 05\r\n", Err(FramingError::DifferentLengths));
        check_body("content-length: 5\r\ncontent-length: 6\r\ncontent-length: 5\r\n", Err(FramingError::DifferentLengths));
        check_body("content-length: 5\r\ncontent-length: x\r\n", Err(FramingError::BadLength));
        check_body("content-length: x\r\ncontent-length: 5\r\n", Err(FramingError::BadLength));
    }

    #[test]
    fn an_encoding_is_one_chunked() {
        check_body("transfer-encoding: chunked\r\n", Ok(Chunked));
        check_body("Transfer-Encoding:  CHUNKED\t\r\n", Ok(Chunked));
        let wrong = [
            "",
            "chunked, chunked",
            "gzip, chunked",
            "chunked, gzip",
            "xchunked",
            "chunkedx",
            "chunked;q=1",
            "chunked,",
            ",chunked",
            "identity",
            "\"chunked\"",
        ];
        for value in wrong {
            check_body(&format!("transfer-encoding: {value}\r\n"), Err(FramingError::BadEncoding));
        }
        check_body("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", Err(FramingError::BadEncoding));
        check_body("transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", Err(FramingError::BadEncoding));
    }

    #[test]
    fn length_and_encoding_exclude_each_other() {
        check_body("content-length: 5\r\ntransfer-encoding: chunked\r\n", Err(FramingError::LengthAndEncoding));
        check_body("transfer-encoding: chunked\r\ncontent-length: 5\r\n", Err(FramingError::LengthAndEncoding));
        check_body("transfer-encoding: x\r\ncontent-length: x\r\n", Err(FramingError::LengthAndEncoding));
        check_body("content-length: 0\r\ntransfer-encoding: chunked\r\n", Err(FramingError::LengthAndEncoding));
    }

    #[test]
    fn http_1_0_knows_no_encoding() {
        assert_eq!(request("1.0", "transfer-encoding: chunked\r\n"), Err(FramingError::EncodingInHttp10));
        assert_eq!(response("1.0 200", "transfer-encoding: chunked\r\n", false), Err(FramingError::EncodingInHttp10));
        assert_eq!(response("1.0 200", "transfer-encoding: chunked\r\n", true), Err(FramingError::EncodingInHttp10));
    }

    #[test]
    fn some_responses_have_no_body_whatever_they_say() {
        for (line, is_head) in [("1.1 304", false), ("1.1 200", true), ("1.1 204", false), ("1.1 100", false), ("1.1 199", false)] {
            let framing = response(line, "", is_head).expect(line);
            assert_eq!((framing.body, framing.keep_alive), (NoBody, true), "{line}");
        }
        for (line, is_head) in [("1.1 304", false), ("1.1 200", true)] {
            for fields in ["content-length: 5\r\n", "transfer-encoding: chunked\r\n"] {
                let framing = response(line, fields, is_head).expect(line);
                assert_eq!((framing.body, framing.keep_alive), (NoBody, true), "{line}");
            }
            let both = "content-length: 5\r\ntransfer-encoding: chunked\r\n";
            assert_eq!(response(line, both, is_head), Err(FramingError::LengthAndEncoding), "{line}");
        }
    }

    #[test]
    fn a_length_where_none_may_be_ends_the_connection() {
        for line in ["1.1 204", "1.1 101"] {
            let said = |fields| response(line, fields, false).map(|framing| (framing.body, framing.keep_alive));
            assert_eq!(said("content-length: 0\r\n"), Ok((NoBody, true)), "{line}");
            assert_eq!(said("content-length: 5\r\n"), Ok((NoBody, false)), "{line}");
            assert_eq!(said("content-length: x\r\n"), Ok((NoBody, false)), "{line}");
            assert_eq!(said("transfer-encoding: chunked\r\n"), Err(FramingError::BadEncoding), "{line}");
        }
    }

    #[test]
    fn a_connection_is_kept_by_version_and_token() {
        let cases = [
            ("1.1", "", true),
            ("1.1", "connection: close\r\n", false),
            ("1.1", "connection: keep-alive, CLOSE\r\n", false),
            ("1.1", "connection: keep-alive\r\nconnection: close\r\n", false),
            ("1.1", "connection: closed\r\n", true),
            ("1.1", "connection: \"close\"\r\n", true),
            ("1.0", "", false),
            ("1.0", "connection: Keep-Alive\r\n", true),
            ("1.0", "connection: x, ,keep-alive\r\n", true),
            ("1.0", "connection: keep-alive, close\r\n", false),
        ];
        for (version, fields, kept) in cases {
            assert_eq!(request(version, fields).map(|framing| framing.keep_alive), Ok(kept), "{version} {fields}");
            let fields = format!("{fields}content-length: 0\r\n");
            let framing = response(&format!("{version} 200"), &fields, false);
            assert_eq!(framing.map(|framing| framing.keep_alive), Ok(kept), "{version} {fields}");
        }
        assert_eq!(response("1.1 200", "", false).map(|framing| framing.keep_alive), Ok(false));
    }

    #[test]
    fn the_one_expectation_is_100_continue() {
        let said = |version, fields| request(version, fields).map(|framing| (framing.expect_continue, framing.expect_unknown));
        assert_eq!(said("1.1", ""), Ok((false, false)));
        assert_eq!(said("1.1", "expect: 100-Continue\r\n"), Ok((true, false)));
        assert_eq!(said("1.0", "expect: 100-continue\r\n"), Ok((false, false)));
        assert_eq!(said("1.1", "expect: 100-continue, x\r\n"), Ok((false, true)));
        assert_eq!(said("1.1", "expect:\r\n"), Ok((false, true)));
        assert_eq!(said("1.1", "expect: 100-continue\r\nexpect: x\r\n"), Ok((true, true)));
    }

    #[test]
    fn an_upgrade_needs_field_token_and_version() {
        let said = |version, fields| request(version, fields).map(|framing| framing.has_upgrade);
        assert_eq!(said("1.1", "upgrade: websocket\r\nconnection: keep-alive, Upgrade\r\n"), Ok(true));
        assert_eq!(said("1.1", "upgrade: websocket\r\n"), Ok(false));
        assert_eq!(said("1.1", "connection: upgrade\r\n"), Ok(false));
        assert_eq!(said("1.0", "upgrade: websocket\r\nconnection: upgrade\r\n"), Ok(false));
    }

    #[test]
    fn connection_names_what_is_for_this_hop() {
        let framing = request("1.1", "connection: close, te, upgrade, keep-alive\r\nte: gzip, Trailers\r\n").expect("valid");
        assert!(framing.accepts_trailers && !framing.nominates);
        let bytes = b"GET / HTTP/1.1\r\nConnection: a ,, X-B\r\nConnection: c\r\n\r\n";
        let mut head = RequestHead::new();
        assert_eq!(head.parse(bytes, &LIMITS), Ok(Progress::Complete));
        assert!(request_framing(&head, bytes).expect("valid").nominates);
        for (name, nominated) in [("a", true), ("x-b", true), ("C", true), ("b", false), ("", false), ("x-b,", false)] {
            assert_eq!(is_nominated(name.as_bytes(), &head.fields, bytes), nominated, "{name}");
        }
    }

    #[test]
    fn connection_names_no_more_than_fits() {
        let half = "a".repeat(CONNECTION_BYTES_MAX / 2);
        let fits = format!("connection: {half}\r\nconnection: {half}\r\ncontent-length: 0\r\n");
        assert!(request("1.1", &fits).is_ok() && response("1.1 200", &fits, false).is_ok());
        let beyond = format!("connection: {half}\r\nconnection: {half}\r\nconnection: ,\r\n");
        assert_eq!(request("1.1", &beyond), Err(FramingError::ConnectionTooLarge));
        assert_eq!(response("1.1 204", &beyond, false), Err(FramingError::ConnectionTooLarge));
    }

    #[test]
    fn lists_skip_what_is_empty() {
        let seen: Vec<_> = tokens(b" a,b ,\t, c d ,").collect();
        assert_eq!(seen, [&b"a"[..], b"b", b"c d"]);
        assert_eq!(tokens(b"").count(), 0);
    }
}
