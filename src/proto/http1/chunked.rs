//! Chunked bodies (RFC 9112 §7.1).
//!
//! Keeps no body bytes: it says which of the caller's bytes are data. Extensions are read past and
//! forgotten, since the body is framed anew on the way out.

use std::ops::Range;

use super::bytes::{VALUE, is};
use super::fields::{Field, FieldLines, Known, Line};
use super::head::HeadError;

/// RFC 9112 §7.1.1 asks for a bound on all extensions of a message: nobody uses them but to waste our time.
pub const CHUNK_EXTENSION_BYTES_MAX: u32 = 16 << 10;
/// Leading zeros included.
const SIZE_DIGITS_MAX: u8 = 16;

/// What ends the data; trailer lines and an empty line must follow.
pub const LAST_CHUNK: &[u8] = b"0\r\n";
/// The most a trailer section may have of each.
#[derive(Clone, Copy, Debug)]
pub struct TrailerLimits {
    /// Of the lines, without the empty one.
    pub bytes: usize,
    pub fields: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkStep {
    /// Skip `consumed`; then `data` bytes, at least one, are body. The caller consumes both.
    Data { consumed: usize, data: usize },
    /// Consume these, and come back with more bytes after the ones that are left.
    More { consumed: usize },
    /// The body has ended. Consume `consumed` in all; `trailers` are the raw lines in `input`, each
    /// with its CRLF, without the empty line.
    End { consumed: usize, trailers: Range<usize> },
}

/// Why a body is refused. What was forwarded of it stays incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// A line without digits.
    EmptySize,
    /// Something that is no hexadecimal digit: a sign, `0x`, white space.
    BadSize,
    /// More than sixteen digits or 2^63 - 1.
    SizeTooLarge,
    /// A control character in an extension.
    BadExtension,
    ExtensionsTooLarge,
    /// A line of a size that does not end in CRLF.
    BadLineEnd,
    /// Data that is longer or shorter than its chunk.
    BadDataEnd,
    BadTrailer(HeadError),
    TrailersTooLarge,
    TooManyTrailers,
    /// RFC 9110 §6.5.1: a field that frames or routes has no place here.
    ForbiddenTrailer,
}

impl ChunkError {
    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EmptySize => "chunk_size_empty",
            Self::BadSize => "chunk_size_bad",
            Self::SizeTooLarge => "chunk_size_too_large",
            Self::BadExtension => "chunk_extension_bad",
            Self::ExtensionsTooLarge => "chunk_extensions_too_large",
            Self::BadLineEnd => "chunk_line_end_bad",
            Self::BadDataEnd => "chunk_data_end_bad",
            Self::BadTrailer(_) => "trailer_bad",
            Self::TrailersTooLarge => "trailers_too_large",
            Self::TooManyTrailers => "too_many_trailers",
            Self::ForbiddenTrailer => "trailer_forbidden",
        }
    }
}

/// Reads one chunked body, from where it stopped last time.
#[derive(Clone, Debug)]
pub struct ChunkedDecoder {
    limits: TrailerLimits,
    extension_bytes: u32,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
    },
    SizeLineFeed {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCarriageReturn,
    DataLineFeed,
    /// Nothing of the section is consumed before all of it is there.
    Trailers {
        lines: FieldLines,
        seen: usize,
    },
    Done,
}

impl ChunkedDecoder {
    pub const fn new(limits: TrailerLimits) -> Self {
        Self { limits, extension_bytes: 0, stage: Stage::Size { size: 0, digits: 0 } }
    }

    pub const fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// Looks at `input`, the bytes not consumed yet, and says what comes first.
    pub fn next(&mut self, input: &[u8]) -> Result<ChunkStep, ChunkError> {
        let mut at = 0;
        loop {
            match self.stage {
                Stage::Data { left } => {
                    let data = input.len().saturating_sub(at).min(usize::try_from(left).unwrap_or(usize::MAX));
                    if data == 0 {
                        return Ok(ChunkStep::More { consumed: at });
                    }
                    let left = left - data as u64;
                    self.stage = if left == 0 { Stage::DataCarriageReturn } else { Stage::Data { left } };
                    return Ok(ChunkStep::Data { consumed: at, data });
                }
                Stage::Trailers { .. } => return self.trailers(input, at),
                Stage::Done => return Ok(ChunkStep::End { consumed: at, trailers: at..at }),
                Stage::DataCarriageReturn if input.get(at..).is_some_and(|rest| rest.starts_with(b"\r\n")) => {
                    self.stage = Stage::Size { size: 0, digits: 0 };
                    at += 2;
                }
                Stage::Size { digits: 0, .. } if let Some((size, line)) = plain_size(input.get(at..).unwrap_or_default()) => {
                    self.stage = Stage::Data { left: size };
                    at += line;
                }
                _ => {
                    let Some(byte) = input.get(at) else { return Ok(ChunkStep::More { consumed: at }) };
                    self.stage = self.after(*byte)?;
                    at += 1;
                }
            }
        }
    }

    /// One byte of what stands around the data.
    fn after(&mut self, byte: u8) -> Result<Stage, ChunkError> {
        match (self.stage, byte) {
            (Stage::Size { digits: 0, .. }, b'\r' | b'\n' | b';') => Err(ChunkError::EmptySize),
            (Stage::Size { size, .. } | Stage::Extension { size }, b'\r') => Ok(Stage::SizeLineFeed { size }),
            (Stage::Size { .. } | Stage::Extension { .. }, b'\n') => Err(ChunkError::BadLineEnd),
            (Stage::Size { size, .. }, b';') => Ok(Stage::Extension { size }),
            (Stage::Size { size, digits }, byte) => {
                let digit = (byte as char).to_digit(16).ok_or(ChunkError::BadSize)?;
                // The top four bits go out, and the next one is the sign in programs that use i64.
                if digits == SIZE_DIGITS_MAX || size >> 59 != 0 {
                    return Err(ChunkError::SizeTooLarge);
                }
                Ok(Stage::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
            }
            (Stage::Extension { size }, byte) => {
                if !is(byte, VALUE) {
                    return Err(ChunkError::BadExtension);
                }
                self.extension_bytes += 1;
                if self.extension_bytes > CHUNK_EXTENSION_BYTES_MAX {
                    return Err(ChunkError::ExtensionsTooLarge);
                }
                Ok(Stage::Extension { size })
            }
            (Stage::SizeLineFeed { size: 0 }, b'\n') => Ok(Stage::Trailers { lines: FieldLines::starting_at(0), seen: 0 }),
            (Stage::SizeLineFeed { size }, b'\n') => Ok(Stage::Data { left: size }),
            (Stage::SizeLineFeed { .. }, _) => Err(ChunkError::BadLineEnd),
            (Stage::DataCarriageReturn, b'\r') => Ok(Stage::DataLineFeed),
            (Stage::DataLineFeed, b'\n') => Ok(Stage::Size { size: 0, digits: 0 }),
            (Stage::DataCarriageReturn | Stage::DataLineFeed, _) => Err(ChunkError::BadDataEnd),
            // Not framing: `next` takes these elsewhere.
            (stage @ (Stage::Data { .. } | Stage::Trailers { .. } | Stage::Done), _) => Ok(stage),
        }
    }

    fn trailers(&mut self, input: &[u8], start: usize) -> Result<ChunkStep, ChunkError> {
        let Stage::Trailers { mut lines, mut seen } = self.stage else { return Ok(ChunkStep::More { consumed: start }) };
        let arrived = input.get(start..).unwrap_or_default();
        let bytes_max = self.limits.bytes.min(u32::MAX as usize - 2) + 2;
        let section = arrived.get(..bytes_max).unwrap_or(arrived);
        loop {
            match lines.next(section, seen < self.limits.fields).map_err(of_trailer)? {
                Line::Field(field) if is_forbidden(field.known) => return Err(ChunkError::ForbiddenTrailer),
                Line::Field(_) => seen += 1,
                Line::End(end) => {
                    self.stage = Stage::Done;
                    return Ok(ChunkStep::End { consumed: start + end, trailers: start..start + end - 2 });
                }
                Line::Partial if section.len() < arrived.len() => return Err(ChunkError::TrailersTooLarge),
                Line::Partial => {
                    self.stage = Stage::Trailers { lines, seen };
                    return Ok(ChunkStep::More { consumed: start });
                }
            }
        }
    }
}

/// The size in a line that is all there and has nothing but digits, with the length of the line: what
/// nearly every line is. `None` leaves the judgement to [`ChunkedDecoder::after`]; so does the last chunk.
#[inline]
fn plain_size(bytes: &[u8]) -> Option<(u64, usize)> {
    // Fewer digits than could overflow.
    const DIGITS_MAX: usize = 8;
    let mut size = 0;
    for (at, byte) in bytes.iter().take(DIGITS_MAX + 1).enumerate() {
        match (*byte as char).to_digit(16) {
            Some(digit) => size = size << 4 | u64::from(digit),
            None => return (size > 0 && bytes[at..].starts_with(b"\r\n")).then_some((size, at + 2)),
        }
    }
    None
}

fn of_trailer(error: HeadError) -> ChunkError {
    match error {
        HeadError::TooManyHeaders => ChunkError::TooManyTrailers,
        error => ChunkError::BadTrailer(error),
    }
}

/// Whatever frames, routes or is trusted because the proxy sets it.
pub(in crate::proto) const fn is_forbidden(known: Known) -> bool {
    match known {
        Known::Other | Known::Date | Known::Server | Known::UserAgent | Known::Referer | Known::Via => false,
        Known::Host
        | Known::ContentLength
        | Known::TransferEncoding
        | Known::Connection
        | Known::KeepAlive
        | Known::ProxyConnection
        | Known::Te
        | Known::Trailer
        | Known::Upgrade
        | Known::Expect
        | Known::XForwardedFor
        | Known::XForwardedProto
        | Known::XForwardedHost
        | Known::XForwardedOther
        | Known::XRequestId
        | Known::Forwarded
        | Known::Cookie
        | Known::Http2Settings
        | Known::XAttache
        | Known::Traceparent
        | Known::Alias => true,
    }
}

/// The fields of a section that `ChunkStep::End` gave; spans are offsets into it.
pub fn trailer_fields(section: &[u8]) -> impl Iterator<Item = Field> {
    let mut lines = FieldLines::starting_at(0);
    std::iter::from_fn(move || match lines.next(section, true) {
        Ok(Line::Field(field)) => Some(field),
        _ => None,
    })
}

/// Writes the line before `len` bytes of data. Nothing for 0, which would end the body.
pub fn write_chunk_header(len: usize, out: &mut Vec<u8>) {
    if len == 0 {
        return;
    }
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        let digit = (len >> (place * 4)) as u8 & 0xf;
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TrailerLimits = TrailerLimits { bytes: 20, fields: 2 };

    /// Body, trailers and how much was left, read all at once and byte by byte.
    fn check(bytes: &str, wanted: Result<(&str, &str, usize), ChunkError>) {
        let all: Vec<usize> = vec![bytes.len()];
        let single: Vec<usize> = (1..=bytes.len()).collect();
        for arrivals in [all, single] {
            let seen = read(bytes.as_bytes(), &arrivals);
            let wanted = wanted.map(|(body, trailers, left)| Some((body.as_bytes().to_vec(), trailers.as_bytes().to_vec(), left)));
            assert_eq!(seen, wanted, "{bytes:?}");
        }
    }

    fn check_partial(bytes: &str) {
        assert_eq!(read(bytes.as_bytes(), &[bytes.len()]), Ok(None), "{bytes:?}");
    }

    type Whole = Option<(Vec<u8>, Vec<u8>, usize)>;

    fn read(bytes: &[u8], arrivals: &[usize]) -> Result<Whole, ChunkError> {
        let mut decoder = ChunkedDecoder::new(LIMITS);
        let mut body = Vec::new();
        let mut at = 0;
        for arrived in arrivals {
            loop {
                let input = &bytes[at..*arrived];
                match decoder.next(input)? {
                    ChunkStep::Data { consumed, data } => {
                        body.extend_from_slice(&input[consumed..consumed + data]);
                        at += consumed + data;
                    }
                    ChunkStep::More { consumed } => {
                        at += consumed;
                        break;
                    }
                    ChunkStep::End { consumed, trailers } => {
                        assert!(decoder.is_done());
                        return Ok(Some((body, input[trailers].to_vec(), bytes.len() - at - consumed)));
                    }
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn chunks_are_put_together() {
        check("0\r\n\r\n", Ok(("", "", 0)));
        check("5\r\nhello\r\n0\r\n\r\n", Ok(("hello", "", 0)));
        check("5\r\nhello\r\n0006\r\n world\r\n0000\r\n\r\n", Ok(("hello world", "", 0)));
        check("A\r\n0123456789\r\na\r\n\r\n0\r\n\r\nxxx\r\n0\r\n\r\n", Ok(("0123456789\r\n0\r\n\r\nxxx", "", 0)));
    }

    #[test]
    fn what_follows_the_body_is_left() {
        // Byte by byte the end is seen before the rest arrives.
        assert_eq!(read(b"0\r\n\r\nGET /", &[10]), Ok(Some((vec![], vec![], 5))));
        for bytes in
            ["", "5", "5\r", "5\r\n", "5\r\nhell", "5\r\nhello", "5\r\nhello\r", "5\r\nhello\r\n", "0\r\n", "0\r\n\r", "0\r\na: b\r\n"]
        {
            check_partial(bytes);
        }
    }

    #[test]
    fn a_size_is_hexadecimal_digits_and_nothing_else() {
        for bytes in ["\r\n", ";a\r\n", "\n"] {
            check(bytes, Err(ChunkError::EmptySize));
        }
        for bytes in [" 5\r\n", "5 \r\n", "5\t;a\r\n", "+5\r\n", "-5\r\n", "0x5\r\n", "5g\r\n", "5_0\r\n", "5,5\r\n", "\0", "\u{665}"] {
            check(bytes, Err(ChunkError::BadSize));
        }
    }

    #[test]
    fn a_size_fits_in_63_bits_and_16_digits() {
        check_partial("7fffffffffffffff\r\nx");
        check_partial("0000000000000001\r\nx");
        check("8000000000000000\r\n", Err(ChunkError::SizeTooLarge));
        check("ffffffffffffffff\r\n", Err(ChunkError::SizeTooLarge));
        check("00000000000000001\r\n", Err(ChunkError::SizeTooLarge));
        check("10000000000000000\r\n", Err(ChunkError::SizeTooLarge));
    }

    #[test]
    fn lines_and_data_end_in_crlf() {
        for bytes in ["5\nhello\r\n", "5;a\nhello", "5\rhello", "5\r\r\n", "0\n\r\n", "5;a\rb\r\n"] {
            check(bytes, Err(ChunkError::BadLineEnd));
        }
        for bytes in ["5\r\nhello0\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhello\r0\r\n", "5\r\nhello!\r\n", "5\r\nhell\r\n0\r\n"] {
            check(bytes, Err(ChunkError::BadDataEnd));
        }
        for bytes in ["0\r\n\n", "0\r\na: b\n\r\n"] {
            check(bytes, Err(ChunkError::BadTrailer(HeadError::BareLineFeed)));
        }
        check("0\r\n\rx", Err(ChunkError::BadTrailer(HeadError::BareCarriageReturn)));
    }

    #[test]
    fn extensions_are_skipped_within_bounds() {
        check("5;a=b;c=\"d;\t\u{e9}\"\r\nhello\r\n0;x\r\n\r\n", Ok(("hello", "", 0)));
        for bytes in ["5;\0\r\n", "5;a\x7f", "5;\x0b"] {
            check(bytes, Err(ChunkError::BadExtension));
        }
        let half = "x".repeat(CHUNK_EXTENSION_BYTES_MAX as usize / 2);
        check(&format!("1;{half}\r\na\r\n0;{half}\r\n\r\n"), Ok(("a", "", 0)));
        check(&format!("1;{half}\r\na\r\n0;{half}x\r\n\r\n"), Err(ChunkError::ExtensionsTooLarge));
    }

    #[test]
    fn trailers_are_checked_like_headers() {
        check("0\r\na: b\r\nc:\r\n\r\n", Ok(("", "a: b\r\nc:\r\n", 0)));
        check("1\r\nx\r\n0\r\nDate: b\r\n\r\n", Ok(("x", "Date: b\r\n", 0)));
        let wrong = [
            ("a : b\r\n\r\n", HeadError::SpaceBeforeColon),
            (" a: b\r\n\r\n", HeadError::FoldedLine),
            ("a: b\r\n c\r\n\r\n", HeadError::FoldedLine),
            (": b\r\n\r\n", HeadError::EmptyName),
            ("a\r\n\r\n", HeadError::BadName),
            ("a: \0\r\n\r\n", HeadError::BadValue),
        ];
        for (section, error) in wrong {
            check(&format!("0\r\n{section}"), Err(ChunkError::BadTrailer(error)));
        }
        for name in [
            "Content-Length",
            "transfer-encoding",
            "host",
            "connection",
            "trailer",
            "te",
            "x-forwarded-for",
            "x-attache-a",
            "content_length",
        ] {
            let section = format!("0\r\n{name}:\r\n\r\n");
            check(&section, Err(ChunkError::ForbiddenTrailer));
        }
    }

    #[test]
    fn trailers_have_limits() {
        check("0\r\na: 012345678901234\r\n\r\n", Ok(("", "a: 012345678901234\r\n", 0)));
        check("0\r\na: 0123456789012345\r\n\r\n", Err(ChunkError::TrailersTooLarge));
        check("0\r\na:\r\nb:\r\n\r\n", Ok(("", "a:\r\nb:\r\n", 0)));
        check("0\r\na:\r\nb:\r\nc:\r\n\r\n", Err(ChunkError::TooManyTrailers));
    }

    #[test]
    fn fields_of_trailers_can_be_read_again() {
        let section = b"Grpc-Status: 0\r\nDate: x\r\n";
        let seen: Vec<_> = trailer_fields(section).map(|field| (field.name.of(section), field.value.of(section), field.known)).collect();
        assert_eq!(seen, [(&b"Grpc-Status"[..], &b"0"[..], Known::Other), (b"Date", b"x", Known::Date)]);
        assert_eq!(trailer_fields(b"").count(), 0);
    }

    #[test]
    fn headers_of_chunks_are_written_as_they_are_read() {
        for (len, wanted) in
            [(0, ""), (1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (0xabc_def, "abcdef\r\n"), (usize::MAX, "ffffffffffffffff\r\n")]
        {
            let mut out = Vec::new();
            write_chunk_header(len, &mut out);
            assert_eq!(out, wanted.as_bytes(), "{len}");
        }
    }
}
