//! Field lines: the header section of a head and the trailer section of a chunked body.
//!
//! Knows which names mean something to the proxy, not what they mean.

use super::bytes::{TOKEN, is, skip, skip_value, trim};
use super::head::HeadError;

/// No name is longer, whatever heads may have: HTTP/2 could not carry it on.
const NAME_BYTES_MAX: usize = 32 << 10;

/// A range of the buffer a message was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// Heads are never longer than `u32::MAX`; see `visible` in `head`.
    pub(in crate::proto) const fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// The bytes meant; none if `bytes` is not the buffer this was made for.
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    pub const fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Fields with a meaning to the proxy, recognised once while parsing, without case.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    Te,
    Trailer,
    Upgrade,
    Expect,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    /// Any other `x-forwarded-*`.
    XForwardedOther,
    XRequestId,
    Via,
    Forwarded,
    Cookie,
    Date,
    Http2Settings,
    /// Any `x-attache-*`.
    XAttache,
    Traceparent,
    UserAgent,
    Referer,
    Server,
    /// With `_` read as `-`, a field the proxy sets or that frames messages. CGI and WSGI programs
    /// cannot tell the two apart, so the caller drops this one.
    Alias,
}

impl Known {
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        match Self::exactly(name) {
            Self::Other if Self::may_be_alias(name) && name.contains(&b'_') && Self::has_alias(name) => Self::Alias,
            known => known,
        }
    }

    /// Whether a name with a hyphen that we set or frame by begins like this one.
    fn may_be_alias(name: &[u8]) -> bool {
        name.first().is_some_and(|first| matches!(first.to_ascii_lowercase(), b'c' | b'h' | b'k' | b'p' | b't' | b'x'))
    }

    fn exactly(name: &[u8]) -> Self {
        let Some(first) = name.first() else { return Self::Other };
        let first = first.to_ascii_lowercase();
        let whole = match (name.len(), first) {
            (2, b't') => Some(("te", Self::Te)),
            (3, b'v') => Some(("via", Self::Via)),
            (4, b'h') => Some(("host", Self::Host)),
            (4, b'd') => Some(("date", Self::Date)),
            (6, b'c') => Some(("cookie", Self::Cookie)),
            (6, b'e') => Some(("expect", Self::Expect)),
            (6, b's') => Some(("server", Self::Server)),
            (7, b't') => Some(("trailer", Self::Trailer)),
            (7, b'u') => Some(("upgrade", Self::Upgrade)),
            (7, b'r') => Some(("referer", Self::Referer)),
            (9, b'f') => Some(("forwarded", Self::Forwarded)),
            (10, b'c') => Some(("connection", Self::Connection)),
            (10, b'k') => Some(("keep-alive", Self::KeepAlive)),
            (10, b'u') => Some(("user-agent", Self::UserAgent)),
            (11, b't') => Some(("traceparent", Self::Traceparent)),
            (12, b'x') => Some(("x-request-id", Self::XRequestId)),
            (14, b'c') => Some(("content-length", Self::ContentLength)),
            (14, b'h') => Some(("http2-settings", Self::Http2Settings)),
            (15, b'x') => Some(("x-forwarded-for", Self::XForwardedFor)),
            (16, b'p') => Some(("proxy-connection", Self::ProxyConnection)),
            (16, b'x') => Some(("x-forwarded-host", Self::XForwardedHost)),
            (17, b't') => Some(("transfer-encoding", Self::TransferEncoding)),
            (17, b'x') => Some(("x-forwarded-proto", Self::XForwardedProto)),
            _ => None,
        };
        match whole {
            Some((spelled, known)) if name.eq_ignore_ascii_case(spelled.as_bytes()) => known,
            _ if first != b'x' => Self::Other,
            _ if starts_with(name, b"x-forwarded-") => Self::XForwardedOther,
            _ if starts_with(name, b"x-attache-") => Self::XAttache,
            _ => Self::Other,
        }
    }

    fn has_alias(name: &[u8]) -> bool {
        // Longer than every whole name above, so that cutting a long one off makes none of them.
        let mut hyphened = [0; 32];
        for (to, from) in hyphened.iter_mut().zip(name) {
            *to = if *from == b'_' { b'-' } else { *from };
        }
        let cut = hyphened.get(..name.len()).unwrap_or(&hyphened);
        !matches!(Self::exactly(cut), Self::Other | Self::UserAgent | Self::Alias)
    }
}

fn starts_with(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// One line, without the white space around its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Span,
    pub value: Span,
    pub known: Known,
}

/// Reads field lines up to the empty line, from where it stopped last time.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldLines {
    /// The next byte to look at.
    at: usize,
    line: usize,
    place: InLine,
}

#[derive(Clone, Copy, Debug)]
enum InLine {
    Start,
    Name,
    /// After the colon, which stands at this offset.
    Value(usize),
}

pub(super) enum Line {
    Field(Field),
    /// The empty line; the section ends at this offset.
    End(usize),
    Partial,
}

impl FieldLines {
    pub(super) const fn starting_at(at: usize) -> Self {
        Self { at, line: at, place: InLine::Start }
    }

    /// `has_room` says whether one more field may be taken.
    #[inline]
    pub(super) fn next(&mut self, bytes: &[u8], has_room: bool) -> Result<Line, HeadError> {
        loop {
            match self.place {
                InLine::Start => {
                    let Some(first) = bytes.get(self.at) else { return Ok(Line::Partial) };
                    match first {
                        b'\r' => return Ok(line_end(bytes, self.at)?.map_or(Line::Partial, Line::End)),
                        b'\n' => return Err(HeadError::BareLineFeed),
                        b' ' | b'\t' => return Err(HeadError::FoldedLine),
                        b':' => return Err(HeadError::EmptyName),
                        byte if !is(*byte, TOKEN) => return Err(HeadError::BadName),
                        _ if !has_room => return Err(HeadError::TooManyHeaders),
                        _ => {
                            self.line = self.at;
                            self.place = InLine::Name;
                        }
                    }
                }
                InLine::Name => {
                    self.at = skip(bytes, self.at, TOKEN);
                    match bytes.get(self.at) {
                        None => return Ok(Line::Partial),
                        Some(b':') if self.at - self.line > NAME_BYTES_MAX => return Err(HeadError::HeadTooLarge),
                        Some(b':') => {
                            self.place = InLine::Value(self.at);
                            self.at += 1;
                        }
                        Some(b' ' | b'\t') => return Err(HeadError::SpaceBeforeColon),
                        Some(b'\n') => return Err(HeadError::BareLineFeed),
                        Some(_) => return Err(HeadError::BadName),
                    }
                }
                InLine::Value(colon) => {
                    self.at = skip_value(bytes, self.at);
                    match bytes.get(self.at) {
                        None => return Ok(Line::Partial),
                        Some(b'\r') => {}
                        Some(b'\n') => return Err(HeadError::BareLineFeed),
                        Some(_) => return Err(HeadError::BadValue),
                    }
                    let Some(next_line) = line_end(bytes, self.at)? else { return Ok(Line::Partial) };
                    let name = Span::new(self.line, colon);
                    let value = trimmed(bytes, colon + 1, self.at);
                    self.at = next_line;
                    self.place = InLine::Start;
                    return Ok(Line::Field(Field { name, value, known: Known::of(name.of(bytes)) }));
                }
            }
        }
    }
}

/// What follows the CR at `at`: the offset after its LF, or nothing yet.
#[inline]
pub(super) fn line_end(bytes: &[u8], at: usize) -> Result<Option<usize>, HeadError> {
    match bytes.get(at + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some(at + 2)),
        Some(_) => Err(HeadError::BareCarriageReturn),
    }
}

#[inline]
fn trimmed(bytes: &[u8], start: usize, end: usize) -> Span {
    let padded = bytes.get(start..end).unwrap_or_default();
    if let [b' ', b'!'..=b'~', .., b'!'..=b'~'] = padded {
        // As nearly everybody writes it.
        return Span::new(start + 1, end);
    }
    let before = padded.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let value = start + before;
    Span::new(value, value + trim(padded).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_whatever_their_case() {
        check("host", Known::Host);
        check("HOST", Known::Host);
        check("Content-Length", Known::ContentLength);
        check("tRANSFER-eNCODING", Known::TransferEncoding);
        check("connection", Known::Connection);
        check("Keep-Alive", Known::KeepAlive);
        check("Proxy-Connection", Known::ProxyConnection);
        check("TE", Known::Te);
        check("Trailer", Known::Trailer);
        check("Upgrade", Known::Upgrade);
        check("Expect", Known::Expect);
        check("X-Forwarded-For", Known::XForwardedFor);
        check("X-Forwarded-Proto", Known::XForwardedProto);
        check("X-Forwarded-Host", Known::XForwardedHost);
        check("X-Request-ID", Known::XRequestId);
        check("Via", Known::Via);
        check("Forwarded", Known::Forwarded);
        check("Cookie", Known::Cookie);
        check("Date", Known::Date);
        check("HTTP2-Settings", Known::Http2Settings);
        check("traceparent", Known::Traceparent);
        check("User-Agent", Known::UserAgent);
        check("Referer", Known::Referer);
        check("Server", Known::Server);
    }

    #[test]
    fn families_are_known_by_how_they_begin() {
        check("X-Forwarded-Port", Known::XForwardedOther);
        check("x-forwarded-", Known::XForwardedOther);
        check("x-forwarded-fox", Known::XForwardedOther);
        check("x-forwarded", Known::Other);
        check("X-Attache-Arm", Known::XAttache);
        check("x-attache-", Known::XAttache);
        check("x-attache", Known::Other);
    }

    #[test]
    fn a_near_miss_is_another_name() {
        for name in ["", "hos", "hosts", "hast", "content-lengt", "content-lengthy", "x-request-i", "vie", "accept"] {
            check(name, Known::Other);
        }
    }

    #[test]
    fn underscores_make_aliases_of_what_we_set_or_frame_by() {
        for name in ["Content_Length", "transfer_encoding", "X_Forwarded_For", "x-forwarded_for", "x_attache_arm", "x_request_id"] {
            check(name, Known::Alias);
        }
        for name in ["keep_alive", "proxy_connection", "http2_settings", "x_forwarded_something-that-is-longer-than-any-name"] {
            check(name, Known::Alias);
        }
        // Nothing is set or framed by these.
        for name in ["user_agent", "x_real_ip", "_host", "host_", "content__length", "_", "x_forwarded"] {
            check(name, Known::Other);
        }
    }

    fn check(name: &str, known: Known) {
        assert_eq!(Known::of(name.as_bytes()), known, "{name}");
    }

    #[test]
    fn a_name_that_http2_could_not_carry_is_too_long() {
        let with = |length| [vec![b'a'; length], b": 1\r\n\r\n".to_vec()].concat();
        assert!(matches!(FieldLines::starting_at(0).next(&with(NAME_BYTES_MAX), true), Ok(Line::Field(_))));
        assert!(matches!(FieldLines::starting_at(0).next(&with(NAME_BYTES_MAX + 1), true), Err(HeadError::HeadTooLarge)));
    }

    #[test]
    fn a_span_of_another_buffer_is_empty() {
        let span = Span { start: 2, end: 4 };
        assert_eq!(span.of(b"abcd"), b"cd");
        assert_eq!(span.of(b"abc"), b"");
        assert_eq!(Span { start: 4, end: 2 }.of(b"abcdef"), b"");
        assert_eq!((span.len(), Span { start: 4, end: 2 }.len()), (2, 0));
        assert!(Span::default().is_empty());
    }
}
