//! Request and response heads, as spans over the read buffer.
//!
//! Does not judge what fields say to each other: see `framing` for that, and `host` for `Host`.

use super::bytes::{PATH, QUERY, TOKEN, is, skip, skip_value};
use super::fields::{Field, FieldLines, Line, Span, line_end};
use super::host::{Target, split_target};

/// Some clients end a body with a CRLF too many; this many are forgiven (RFC 9112 §2.2).
const EMPTY_LINES_MAX: u8 = 4;
/// The longest registered method, `UPDATEREDIRECTREF`, has 17.
const METHOD_BYTES_MAX: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
    /// Of requests only, which come as frames and are put together by `proto::http2`.
    Http2,
}

/// The most a head may have of each; exactly as much is still accepted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte passed to the end of the empty line.
    pub header_bytes: usize,
    pub headers: usize,
    pub uri_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Complete,
    /// Call again with the same bytes and more.
    Partial,
}

/// Why a head is refused. Whatever the cause, where the next message begins is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// More than four empty lines before a request (RFC 9112 §2.2 asks for one at least).
    TooManyEmptyLines,
    /// RFC 9112 §2.2 lets a recipient take LF for CRLF; two recipients that differ in it can be played off.
    BareLineFeed,
    /// RFC 9112 §2.2: a CR without LF is invalid.
    BareCarriageReturn,
    /// RFC 9112 §5.1: white space between name and colon must be refused.
    SpaceBeforeColon,
    /// RFC 9112 §5.2: a line that begins with white space (`obs-fold`), also the first (§2.2).
    FoldedLine,
    /// RFC 9112 §3.1: not a token, empty, or longer than 32 bytes.
    BadMethod,
    /// RFC 9112 §3.2: none of the four forms, or a byte that is neither RFC 3986's nor a browser's.
    BadTarget,
    /// RFC 9112 §3.2: a form that the method does not go with, such as `GET *`.
    MethodTarget,
    /// RFC 9112 §2.3: not `HTTP/` DIGIT `.` DIGIT, or followed by something.
    BadVersion,
    /// RFC 9110 §15.6.6: an HTTP version, but neither 1.0 nor 1.1.
    UnsupportedVersion,
    /// RFC 9110 §5.1: not a token, or a line without a colon.
    BadName,
    /// RFC 9112 §5: a line that begins with the colon.
    EmptyName,
    /// RFC 9110 §5.5: a control character.
    BadValue,
    /// RFC 9110 §15: not three digits from 100 to 599.
    BadStatus,
    /// RFC 9112 §4: a control character.
    BadReason,
    /// RFC 9110 §15.5.15.
    TargetTooLong,
    /// RFC 6585 §5.
    HeadTooLarge,
    /// RFC 6585 §5.
    TooManyHeaders,
}

impl HeadError {
    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooManyEmptyLines => "too_many_empty_lines",
            Self::BareLineFeed => "bare_line_feed",
            Self::BareCarriageReturn => "bare_carriage_return",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::FoldedLine => "folded_line",
            Self::BadMethod => "bad_method",
            Self::BadTarget => "bad_target",
            Self::MethodTarget => "method_target",
            Self::BadVersion => "bad_version",
            Self::UnsupportedVersion => "unsupported_version",
            Self::BadName => "bad_name",
            Self::EmptyName => "empty_name",
            Self::BadValue => "bad_value",
            Self::BadStatus => "bad_status",
            Self::BadReason => "bad_reason",
            Self::TargetTooLong => "target_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
        }
    }
}

/// A request's head. Spans are offsets into the bytes passed to `parse`.
#[derive(Clone, Debug)]
pub struct RequestHead {
    pub method: Span,
    pub target: Span,
    pub version: Version,
    pub fields: Vec<Field>,
    /// HTTP/2 says by a frame and not by a field that a body follows; never set by `parse`.
    pub body_follows: bool,
    /// Length of the head with the empty line, and with empty lines before it; 0 until complete.
    pub bytes: usize,
    stage: RequestStage,
}

/// Where to go on. Each stage keeps the first byte it has not judged yet.
#[derive(Clone, Copy, Debug)]
enum RequestStage {
    EmptyLines {
        at: usize,
        seen: u8,
    },
    Method {
        start: usize,
        at: usize,
    },
    /// `class` is what may come at `at`: a path's bytes or, after the question mark, a query's.
    Target {
        start: usize,
        at: usize,
        class: u8,
    },
    Version {
        start: usize,
    },
    Fields(FieldLines),
    Done,
}

impl Default for RequestHead {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestHead {
    pub const fn new() -> Self {
        Self {
            method: Span { start: 0, end: 0 },
            target: Span { start: 0, end: 0 },
            version: Version::Http11,
            fields: Vec::new(),
            body_follows: false,
            bytes: 0,
            stage: RequestStage::EmptyLines { at: 0, seen: 0 },
        }
    }

    /// Ready for the next head; keeps the memory of `fields`.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::new() };
    }

    /// Goes on where the last call stopped. The outcome does not depend on how the bytes arrived, and is an
    /// error as soon as the byte that makes it one is there. After an error, `clear` comes first.
    pub fn parse(&mut self, bytes: &[u8], limits: &Limits) -> Result<Progress, HeadError> {
        let visible = visible(bytes, limits);
        match self.advance(visible, limits)? {
            Progress::Partial if visible.len() < bytes.len() => Err(HeadError::HeadTooLarge),
            progress => Ok(progress),
        }
    }

    fn advance(&mut self, bytes: &[u8], limits: &Limits) -> Result<Progress, HeadError> {
        loop {
            match self.stage {
                RequestStage::EmptyLines { at, seen } => match bytes.get(at) {
                    None => return Ok(Progress::Partial),
                    Some(b'\n') => return Err(HeadError::BareLineFeed),
                    Some(b'\r') if seen == EMPTY_LINES_MAX => return Err(HeadError::TooManyEmptyLines),
                    Some(b'\r') => {
                        let Some(at) = line_end(bytes, at)? else { return Ok(Progress::Partial) };
                        self.stage = RequestStage::EmptyLines { at, seen: seen + 1 };
                    }
                    Some(_) => self.stage = RequestStage::Method { start: at, at },
                },
                RequestStage::Method { start, at } => {
                    let end = skip(bytes, at, TOKEN);
                    if end - start > METHOD_BYTES_MAX {
                        return Err(HeadError::BadMethod);
                    }
                    match bytes.get(end) {
                        None => {
                            self.stage = RequestStage::Method { start, at: end };
                            return Ok(Progress::Partial);
                        }
                        Some(b' ') if end > start => {
                            self.method = Span::new(start, end);
                            self.stage = RequestStage::Target { start: end + 1, at: end + 1, class: PATH };
                        }
                        Some(_) => return Err(HeadError::BadMethod),
                    }
                }
                RequestStage::Target { start, at, mut class } => {
                    let (reached, is_whole) = read_target(bytes, start, at, &mut class, limits.uri_bytes)?;
                    if !is_whole {
                        self.stage = RequestStage::Target { start, at: reached, class };
                        return Ok(Progress::Partial);
                    }
                    self.target = Span::new(start, reached);
                    self.stage = RequestStage::Version { start: reached + 1 };
                }
                RequestStage::Version { start } => {
                    let Some((minor, end)) = read_version(bytes, start)? else { return Ok(Progress::Partial) };
                    match bytes.get(end) {
                        None => return Ok(Progress::Partial),
                        Some(b'\r') => {}
                        Some(b'\n') => return Err(HeadError::BareLineFeed),
                        Some(_) => return Err(HeadError::BadVersion),
                    }
                    let Some(fields) = line_end(bytes, end)? else { return Ok(Progress::Partial) };
                    self.version = minor.ok_or(HeadError::UnsupportedVersion)?;
                    check_target(self.method.of(bytes), self.target.of(bytes))?;
                    self.stage = RequestStage::Fields(FieldLines::starting_at(fields));
                }
                RequestStage::Fields(mut lines) => {
                    let end = read_fields(&mut lines, &mut self.fields, bytes, limits.headers)?;
                    self.stage = RequestStage::Fields(lines);
                    let Some(end) = end else { return Ok(Progress::Partial) };
                    self.bytes = end;
                    self.stage = RequestStage::Done;
                }
                RequestStage::Done => return Ok(Progress::Complete),
            }
        }
    }
}

/// What of `bytes` may belong to the head. Looking no further makes the outcome independent of how
/// much has arrived, and keeps offsets in 32 bits.
fn visible<'a>(bytes: &'a [u8], limits: &Limits) -> &'a [u8] {
    bytes.get(..limits.header_bytes.min(u32::MAX as usize)).unwrap_or(bytes)
}

/// Judges what `parse` would have refused of a request line; for messages that have none. `bytes` holds the
/// target, at `target`, with a space behind it.
pub(in crate::proto) fn check_line(method: &[u8], bytes: &[u8], target: Span, uri_bytes_max: usize) -> Result<(), HeadError> {
    if skip(method, 0, TOKEN) != method.len() || method.is_empty() || method.len() > METHOD_BYTES_MAX {
        return Err(HeadError::BadMethod);
    }
    let start = target.start as usize;
    let (end, is_whole) = read_target(bytes, start, start, &mut { PATH }, uri_bytes_max)?;
    if !is_whole || end != target.end as usize {
        return Err(HeadError::BadTarget);
    }
    check_target(method, target.of(bytes))
}

/// How far the target is known to be well-formed, and whether a space ends it there.
#[inline]
fn read_target(bytes: &[u8], start: usize, from: usize, class: &mut u8, bytes_max: usize) -> Result<(usize, bool), HeadError> {
    match bytes.get(start) {
        None => return Ok((from, false)),
        Some(b'/' | b'*' | b'[') => {}
        Some(byte) if byte.is_ascii_alphanumeric() => {}
        Some(b'\n') => return Err(HeadError::BareLineFeed),
        Some(_) => return Err(HeadError::BadTarget),
    }
    let mut at = from;
    loop {
        at = skip_to_escape(bytes, at, *class);
        match bytes.get(at) {
            _ if at - start > bytes_max => return Err(HeadError::TargetTooLong),
            None => return Ok((at, false)),
            Some(b' ') => return Ok((at, true)),
            // The first one; a query holds more of them.
            Some(b'?') => *class = QUERY,
            Some(b'%') => {
                for place in [at + 1, at + 2] {
                    match bytes.get(place) {
                        None => return Ok((at, false)),
                        Some(byte) if byte.is_ascii_hexdigit() => {}
                        Some(_) => return Err(HeadError::BadTarget),
                    }
                }
                at += 3;
            }
            // `GET /` without a version is HTTP/0.9.
            Some(b'\r') => return Err(HeadError::BadVersion),
            Some(b'\n') => return Err(HeadError::BareLineFeed),
            Some(_) => return Err(HeadError::BadTarget),
        }
    }
}

#[inline]
fn skip_to_escape(bytes: &[u8], from: usize, class: u8) -> usize {
    let run = bytes.get(from..).unwrap_or_default();
    from + run.iter().position(|byte| *byte == b'%' || !is(*byte, class)).unwrap_or(run.len())
}

/// The version (`None` if it is not one of ours) and where it ends; nothing if more bytes are needed.
#[inline]
fn read_version(bytes: &[u8], start: usize) -> Result<Option<(Option<Version>, usize)>, HeadError> {
    const LEN: usize = b"HTTP/1.1".len();
    let given = bytes.get(start..).unwrap_or_default();
    match given.get(..LEN) {
        Some(b"HTTP/1.1") => return Ok(Some((Some(Version::Http11), start + LEN))),
        Some(b"HTTP/1.0") => return Ok(Some((Some(Version::Http10), start + LEN))),
        _ => {}
    }
    for (byte, wanted) in given.iter().zip(b"HTTP/0.0") {
        match wanted {
            b'0' if byte.is_ascii_digit() => {}
            _ if byte == wanted => {}
            _ => return Err(HeadError::BadVersion),
        }
    }
    Ok((given.len() >= LEN).then_some((None, start + LEN)))
}

/// RFC 9112 §3.2: `CONNECT` takes an authority and nothing else does; `*` is for `OPTIONS`.
fn check_target(method: &[u8], target: &[u8]) -> Result<(), HeadError> {
    let is_connect = method == b"CONNECT";
    if target.first() == Some(&b'/') {
        return if is_connect { Err(HeadError::MethodTarget) } else { Ok(()) };
    }
    match split_target(target) {
        None => Err(HeadError::BadTarget),
        Some(Target::Authority(_)) if is_connect => Ok(()),
        Some(Target::Absolute { .. }) if !is_connect => Ok(()),
        Some(Target::Asterisk) if method == b"OPTIONS" => Ok(()),
        Some(_) => Err(HeadError::MethodTarget),
    }
}

#[inline]
fn read_fields(lines: &mut FieldLines, fields: &mut Vec<Field>, bytes: &[u8], max: usize) -> Result<Option<usize>, HeadError> {
    loop {
        match lines.next(bytes, fields.len() < max)? {
            Line::Field(field) => fields.push(field),
            Line::End(end) => return Ok(Some(end)),
            Line::Partial => return Ok(None),
        }
    }
}

/// A response's head. Spans are offsets into the bytes passed to `parse`.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    pub version: Version,
    /// 100 to 599.
    pub status: u16,
    /// Often empty.
    pub reason: Span,
    pub fields: Vec<Field>,
    /// Length of the head with the empty line; 0 until complete.
    pub bytes: usize,
    stage: ResponseStage,
}

#[derive(Clone, Copy, Debug)]
enum ResponseStage {
    Status,
    Reason { start: usize, at: usize },
    Fields(FieldLines),
    Done,
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self::new()
    }
}

impl ResponseHead {
    pub const fn new() -> Self {
        Self {
            version: Version::Http11,
            status: 0,
            reason: Span { start: 0, end: 0 },
            fields: Vec::new(),
            bytes: 0,
            stage: ResponseStage::Status,
        }
    }

    /// Ready for the next head; keeps the memory of `fields`.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::new() };
    }

    /// Goes on where the last call stopped. `uri_bytes` of the limits does not apply.
    pub fn parse(&mut self, bytes: &[u8], limits: &Limits) -> Result<Progress, HeadError> {
        let visible = visible(bytes, limits);
        match self.advance(visible, limits)? {
            Progress::Partial if visible.len() < bytes.len() => Err(HeadError::HeadTooLarge),
            progress => Ok(progress),
        }
    }

    fn advance(&mut self, bytes: &[u8], limits: &Limits) -> Result<Progress, HeadError> {
        loop {
            match self.stage {
                ResponseStage::Status => {
                    let Some((version, end)) = read_version(bytes, 0)? else { return Ok(Progress::Partial) };
                    match bytes.get(end) {
                        None => return Ok(Progress::Partial),
                        Some(b' ') => self.version = version.ok_or(HeadError::UnsupportedVersion)?,
                        Some(_) => return Err(HeadError::BadVersion),
                    }
                    let Some(status) = read_status(bytes, end + 1)? else { return Ok(Progress::Partial) };
                    self.status = status;
                    let start = match bytes.get(end + 4) {
                        None => return Ok(Progress::Partial),
                        Some(b' ') => end + 5,
                        // RFC 9112 §4 wants the space before an empty reason too; many leave it out.
                        Some(b'\r') => end + 4,
                        Some(b'\n') => return Err(HeadError::BareLineFeed),
                        Some(_) => return Err(HeadError::BadStatus),
                    };
                    self.stage = ResponseStage::Reason { start, at: start };
                }
                ResponseStage::Reason { start, at } => {
                    let end = skip_value(bytes, at);
                    self.stage = ResponseStage::Reason { start, at: end };
                    match bytes.get(end) {
                        None => return Ok(Progress::Partial),
                        Some(b'\r') => {}
                        Some(b'\n') => return Err(HeadError::BareLineFeed),
                        Some(_) => return Err(HeadError::BadReason),
                    }
                    let Some(fields) = line_end(bytes, end)? else { return Ok(Progress::Partial) };
                    self.reason = Span::new(start, end);
                    self.stage = ResponseStage::Fields(FieldLines::starting_at(fields));
                }
                ResponseStage::Fields(mut lines) => {
                    let end = read_fields(&mut lines, &mut self.fields, bytes, limits.headers)?;
                    self.stage = ResponseStage::Fields(lines);
                    let Some(end) = end else { return Ok(Progress::Partial) };
                    self.bytes = end;
                    self.stage = ResponseStage::Done;
                }
                ResponseStage::Done => return Ok(Progress::Complete),
            }
        }
    }
}

/// Three digits from 100 to 599, judged as they come.
#[inline]
fn read_status(bytes: &[u8], start: usize) -> Result<Option<u16>, HeadError> {
    let mut status = 0;
    for place in 0..3 {
        match bytes.get(start + place) {
            None => return Ok(None),
            Some(b'0' | b'6'..=b'9') if place == 0 => return Err(HeadError::BadStatus),
            Some(digit @ b'0'..=b'9') => status = status * 10 + u16::from(digit - b'0'),
            Some(_) => return Err(HeadError::BadStatus),
        }
    }
    Ok(Some(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use HeadError as E;

    const LIMITS: Limits = Limits { header_bytes: 4096, headers: 4, uri_bytes: 24 };

    /// A line of a request, and the whole head if that is accepted.
    fn request(bytes: &[u8], limits: &Limits) -> Result<Option<RequestHead>, HeadError> {
        let mut head = RequestHead::new();
        Ok(match head.parse(bytes, limits)? {
            Progress::Complete => Some(head),
            Progress::Partial => None,
        })
    }

    /// Refused with the last byte given, whether the bytes came at once or one by one.
    fn check_refused(bytes: impl AsRef<[u8]>, error: HeadError) {
        let bytes = bytes.as_ref();
        assert_eq!(request(bytes, &LIMITS).map(|_| ()), Err(error), "{}", bytes.escape_ascii());
        let mut head = RequestHead::new();
        for len in 0..bytes.len() {
            assert_eq!(head.parse(&bytes[..len], &LIMITS), Ok(Progress::Partial), "{}", bytes[..len].escape_ascii());
        }
        assert_eq!(head.parse(bytes, &LIMITS), Err(error), "{}", bytes.escape_ascii());
        let followed = [bytes, b"\r\n a\n\0 \r\n\r\n"].concat();
        assert_eq!(request(&followed, &LIMITS).map(|_| ()), Err(error), "{}", followed.escape_ascii());
    }

    fn check_accepted(bytes: &[u8], method: &str, target: &str, fields: &[(&str, &str)]) {
        let followed = [bytes, b"\0body"].concat();
        let mut slowly = RequestHead::new();
        for len in 0..bytes.len() {
            assert_eq!(slowly.parse(&bytes[..len], &LIMITS), Ok(Progress::Partial), "{}", bytes[..len].escape_ascii());
        }
        assert_eq!(slowly.parse(bytes, &LIMITS), Ok(Progress::Complete));
        let at_once = request(&followed, &LIMITS).expect("accepted").expect("complete");
        for head in [slowly, at_once] {
            assert_eq!(head.method.of(bytes), method.as_bytes());
            assert_eq!(head.target.of(bytes), target.as_bytes());
            assert_eq!(head.bytes, bytes.len());
            let seen: Vec<_> = head.fields.iter().map(|field| (field.name.of(bytes), field.value.of(bytes))).collect();
            let wanted: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn a_head_is_a_line_and_fields() {
        check_accepted(b"GET / HTTP/1.1\r\n\r\n", "GET", "/", &[]);
        let bytes = b"M-SEARCH /a?b=%2F HTTP/1.0\r\nHost: a\r\nX:\r\ny_z:\t a \t b\xff\t \r\nCookie:c\r\n\r\n";
        let mut head = RequestHead::new();
        assert_eq!(head.parse(bytes, &LIMITS), Ok(Progress::Complete));
        assert_eq!(head.version, Version::Http10);
        let seen: Vec<_> = head.fields.iter().map(|field| (field.name.of(bytes), field.value.of(bytes), field.known)).collect();
        let wanted = [
            (&b"Host"[..], &b"a"[..], super::super::Known::Host),
            (b"X", b"", super::super::Known::Other),
            (b"y_z", b"a \t b\xff", super::super::Known::Other),
            (b"Cookie", b"c", super::super::Known::Cookie),
        ];
        assert_eq!(seen, wanted);
    }

    #[test]
    fn a_head_can_be_used_again() {
        let mut head = RequestHead::new();
        for _ in 0..2 {
            assert_eq!(head.parse(b"GET / HTTP/1.0\r\na: b\r\n\r\nGET", &LIMITS), Ok(Progress::Complete));
            // Asking again changes nothing.
            assert_eq!(head.parse(b"GET / HTTP/1.0\r\na: b\r\n\r\nGET", &LIMITS), Ok(Progress::Complete));
            assert_eq!((head.fields.len(), head.bytes, head.version), (1, 24, Version::Http10));
            let capacity = head.fields.capacity();
            head.clear();
            assert_eq!((head.fields.len(), head.bytes, head.method.len()), (0, 0, 0));
            assert_eq!(head.fields.capacity(), capacity);
        }
        assert_eq!(head.parse(b"", &LIMITS), Ok(Progress::Partial));
    }

    #[test]
    fn four_empty_lines_are_forgiven() {
        check_accepted(b"\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", "GET", "/", &[]);
        check_refused("\r\n\r\n\r\n\r\n\r", E::TooManyEmptyLines);
        check_refused("\n", E::BareLineFeed);
        check_refused("\r\n\n", E::BareLineFeed);
        check_refused("\rG", E::BareCarriageReturn);
    }

    #[test]
    fn a_method_is_a_token_of_at_most_32_bytes() {
        let longest = "M".repeat(32);
        check_accepted(format!("{longest} / HTTP/1.1\r\n\r\n").as_bytes(), &longest, "/", &[]);
        check_refused(format!("{longest}M"), E::BadMethod);
        for start in ["G\0", " ", "\t", "G\t", "G:", "G/", "\u{16}", "\u{e9}"] {
            let first_wrong = start.bytes().take(2).collect::<Vec<_>>();
            let len = if start == "\u{e9}" { 1 } else { first_wrong.len() };
            check_refused(&start.as_bytes()[..len], E::BadMethod);
        }
        check_refused("GET\r", E::BadMethod);
    }

    #[test]
    fn a_target_holds_what_rfc_3986_lists_and_what_browsers_leave_raw() {
        for target in ["/-._~!$&'()*+,;=:@", "//?/?a&b", "/%00%fF", "/azAZ09", "/a[0]", "/?[]{}|^`\\", "/?%41\\?{"] {
            let limits = Limits { uri_bytes: target.len(), ..LIMITS };
            assert!(request(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes(), &limits).is_ok_and(|head| head.is_some()), "{target}");
            check_accepted(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes(), "GET", target, &[]);
        }
        for byte in (0..=255u8).filter(|byte| b"\0\t\"#<>\x7f".contains(byte) || *byte >= 0x80) {
            check_refused([b"GET /", &[byte][..]].concat(), E::BadTarget);
            check_refused([b"GET /?a=", &[byte][..]].concat(), E::BadTarget);
        }
        for byte in b"\\^`{|}" {
            check_refused([b"GET /a", &[*byte][..]].concat(), E::BadTarget);
            check_refused([b"GET http://a/", &[*byte][..]].concat(), E::BadTarget);
        }
        for target in ["/%g", "/%0g", "/%%", "/%0 ", "/% "] {
            check_refused(format!("GET {target}"), E::BadTarget);
        }
        for target in [" ", "?", "\t", "%", ":", "-", "]"] {
            check_refused(format!("GET {target}"), E::BadTarget);
        }
        check_refused("GET /\n", E::BareLineFeed);
        check_refused("GET \n", E::BareLineFeed);
        check_refused("GET /\r", E::BadVersion);
    }

    #[test]
    fn a_target_has_a_form_that_goes_with_its_method() {
        check_accepted(b"OPTIONS * HTTP/1.1\r\n\r\n", "OPTIONS", "*", &[]);
        check_accepted(b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n", "CONNECT", "[::1]:443", &[]);
        check_accepted(b"GET http://[::1]:80/a?b HTTP/1.1\r\n\r\n", "GET", "http://[::1]:80/a?b", &[]);
        for line in ["GET *", "GET a:443", "CONNECT /", "CONNECT http://a/", "CONNECT *"] {
            check_refused(format!("{line} HTTP/1.1\r\n"), E::MethodTarget);
        }
        for target in ["a", "**", "http://u@a/", "http:/a", "ftp://a/", "http://a..b/"] {
            check_refused(format!("GET {target} HTTP/1.1\r\n"), E::BadTarget);
        }
    }

    #[test]
    fn a_version_is_1_0_or_1_1() {
        for line in ["HTTP/1.1 ", "HTTP/1.10", "HTTP/11", "h", " ", "HTTp", "HTTP/x", "HTTP/1,", "HTTP/1.x", "HTTP/2.0 ", "\r"] {
            check_refused(format!("GET / {line}"), E::BadVersion);
        }
        for version in ["0.9", "1.2", "2.0", "9.9"] {
            check_refused(format!("GET / HTTP/{version}\r\n"), E::UnsupportedVersion);
        }
        // The preface of HTTP/2, if a caller lets it come here.
        check_refused("PRI * HTTP/2.0\r\n", E::UnsupportedVersion);
        check_refused("GET / HTTP/1.1\n", E::BareLineFeed);
        check_refused("GET / HTTP/1.1\r\r", E::BareCarriageReturn);
    }

    #[test]
    fn names_are_tokens_right_before_a_colon() {
        let line = "GET / HTTP/1.1\r\n";
        let cases = [
            (" ", E::FoldedLine),
            ("\t", E::FoldedLine),
            ("a: b\r\n ", E::FoldedLine),
            (":", E::EmptyName),
            ("a ", E::SpaceBeforeColon),
            ("a\t", E::SpaceBeforeColon),
            ("a\r", E::BadName),
            ("a\n", E::BareLineFeed),
            ("\n", E::BareLineFeed),
            ("\rx", E::BareCarriageReturn),
            ("a\0", E::BadName),
            ("\0", E::BadName),
            ("a(", E::BadName),
            ("\"", E::BadName),
            ("a\x7f", E::BadName),
        ];
        for (start, error) in cases {
            check_refused(format!("{line}{start}"), error);
        }
        check_refused(b"GET / HTTP/1.1\r\n\xe9", E::BadName);
    }

    #[test]
    fn values_hold_no_controls_but_tabs() {
        for byte in (0..=255u8).filter(|byte| !matches!(byte, b'\r' | b'\n')) {
            for before in ["", "1234567", "12345678", "1234567890"] {
                let bytes = [b"GET / HTTP/1.1\r\na:", before.as_bytes(), &[byte]].concat();
                match byte {
                    b'\t' | b' '..=b'~' | 0x80.. => assert!(request(&bytes, &LIMITS).is_ok_and(|head| head.is_none())),
                    _ => check_refused(bytes, E::BadValue),
                }
            }
        }
        check_refused("GET / HTTP/1.1\r\na: b\n", E::BareLineFeed);
        check_refused("GET / HTTP/1.1\r\na: b\rc", E::BareCarriageReturn);
        check_refused("GET / HTTP/1.1\r\na: b\r\r", E::BareCarriageReturn);
    }

    #[test]
    fn limits_are_inclusive() {
        let target = "/".repeat(24);
        check_accepted(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes(), "GET", &target, &[]);
        check_refused(format!("GET {target}/"), E::TargetTooLong);
        check_refused(format!("GET {}%41", "/".repeat(22)), E::TargetTooLong);
        check_accepted(b"GET / HTTP/1.1\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n", "GET", "/", &[("a", ""), ("b", ""), ("c", ""), ("d", "")]);
        check_refused("GET / HTTP/1.1\r\na:\r\nb:\r\nc:\r\nd:\r\ne", E::TooManyHeaders);
        let whole = b"GET / HTTP/1.1\r\na: b\r\n\r\n";
        for (header_bytes, fits) in [(whole.len() - 1, false), (whole.len(), true), (whole.len() + 1, true)] {
            let limits = Limits { header_bytes, ..LIMITS };
            let accepted = request(whole, &limits).map(|head| head.is_some());
            assert_eq!(accepted, if fits { Ok(true) } else { Err(E::HeadTooLarge) });
        }
        // As soon as it cannot fit, and no sooner.
        let limits = Limits { header_bytes: 20, ..LIMITS };
        assert_eq!(request(&whole[..20], &limits).map(|head| head.is_some()), Ok(false));
        assert_eq!(request(&whole[..21], &limits).map(|head| head.is_some()), Err(E::HeadTooLarge));
    }

    #[test]
    fn a_head_byte_by_byte_costs_no_more_than_its_length() {
        let limits = Limits { header_bytes: 1 << 20, headers: 100, uri_bytes: 1 << 20 };
        let long = "a".repeat(400_000);
        let bytes = format!("GET /{long} HTTP/1.1\r\na: {long}\r\n\r\n");
        let mut head = RequestHead::new();
        // Quadratic work would be 10^11 steps.
        for len in 0..bytes.len() {
            assert_eq!(head.parse(&bytes.as_bytes()[..len], &limits), Ok(Progress::Partial));
        }
        assert_eq!(head.parse(bytes.as_bytes(), &limits), Ok(Progress::Complete));
    }

    #[test]
    fn fewer_bytes_than_before_are_waited_out() {
        let mut head = RequestHead::new();
        assert_eq!(head.parse(b"GET / HTTP/1.1\r\na: b", &LIMITS), Ok(Progress::Partial));
        assert_eq!(head.parse(b"GET", &LIMITS), Ok(Progress::Partial));
        assert_eq!(head.parse(b"", &LIMITS), Ok(Progress::Partial));
    }

    fn check_response(bytes: &[u8], wanted: Result<(u16, &str, usize), HeadError>) {
        let mut slowly = ResponseHead::new();
        let early = bytes.len() - 1;
        for len in 0..=early {
            assert_eq!(slowly.parse(&bytes[..len], &LIMITS), Ok(Progress::Partial), "{}", bytes[..len].escape_ascii());
        }
        let slow = slowly.parse(bytes, &LIMITS).map(|_| slowly);
        let mut quickly = ResponseHead::new();
        let quick = quickly.parse(&[bytes, b"\0"].concat(), &LIMITS).map(|_| quickly);
        for seen in [slow, quick] {
            let seen = seen.as_ref().map(|head| (head.status, head.reason.of(bytes), head.fields.len())).map_err(|error| *error);
            assert_eq!(seen, wanted.map(|(status, reason, fields)| (status, reason.as_bytes(), fields)), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_status_line_is_version_status_and_reason() {
        check_response(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n", Ok((200, "OK", 1)));
        check_response(b"HTTP/1.0 100 \r\n\r\n", Ok((100, "", 0)));
        check_response(b"HTTP/1.1 599\r\n\r\n", Ok((599, "", 0)));
        check_response("HTTP/1.1 404 Not\t \u{e9} \r\n\r\n".as_bytes(), Ok((404, "Not\t \u{e9} ", 0)));
        for line in
            ["HTTP/1.1 0", "HTTP/1.1 6", "HTTP/1.1  ", "HTTP/1.1 20x", "HTTP/1.1 20 ", "HTTP/1.1 2000", "HTTP/1.1 +", "HTTP/1.1 20\r"]
        {
            check_response(line.as_bytes(), Err(E::BadStatus));
        }
        for line in ["\r", "\n", "h", "HTTP/1.1\r", "HTTP/1.1\t", "HTTP/1.10", "HTTP/x", "ICY"[..1].as_ref(), " "] {
            check_response(line.as_bytes(), Err(E::BadVersion));
        }
        check_response(b"HTTP/2.0 ", Err(E::UnsupportedVersion));
        check_response(b"HTTP/1.1 200 O\0", Err(E::BadReason));
        check_response(b"HTTP/1.1 200 OK\n", Err(E::BareLineFeed));
        check_response(b"HTTP/1.1 200\n", Err(E::BareLineFeed));
        check_response(b"HTTP/1.1 200\rx", Err(E::BareCarriageReturn));
    }

    #[test]
    fn fields_of_responses_are_as_strict() {
        let cases =
            [(" ", E::FoldedLine), ("a ", E::SpaceBeforeColon), ("a: \0", E::BadValue), (":", E::EmptyName), ("a: b\n", E::BareLineFeed)];
        for (start, error) in cases {
            check_response(format!("HTTP/1.1 200 OK\r\n{start}").as_bytes(), Err(error));
        }
        check_response(b"HTTP/1.1 200 OK\r\na:\r\nb:\r\nc:\r\nd:\r\ne", Err(E::TooManyHeaders));
        let limits = Limits { header_bytes: 18, ..LIMITS };
        assert_eq!(ResponseHead::new().parse(b"HTTP/1.1 200 O\r\n\r\n", &limits), Ok(Progress::Complete));
        assert_eq!(ResponseHead::new().parse(b"HTTP/1.1 200 OK\r\n\r\n", &limits), Err(E::HeadTooLarge));
        let mut head = ResponseHead::new();
        assert_eq!(head.parse(b"HTTP/1.0 204 A\r\na:b\r\n\r\n", &LIMITS), Ok(Progress::Complete));
        head.clear();
        assert_eq!((head.fields.len(), head.bytes, head.status), (0, 0, 0));
    }
}
