//! Paths as routes compare them.
//!
//! Never rewrites a path: what is forwarded stays as it came. What another program might resolve to a
//! different resource than we matched is refused instead.

use std::borrow::Cow;

/// Why a path cannot be compared safely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// A segment `.` or `..`, also with parameters: `/..;a/` climbs in servlet containers.
    DotSegment,
    /// `%2e`: no client writes it but to hide a dot segment.
    EncodedDot,
    /// `%2f`: one segment or two, depending on who reads it.
    EncodedSlash,
    /// `%5c`: a slash to some programs.
    EncodedBackslash,
    Backslash,
    /// Raw or as `%00`: ends the path for programs in C.
    Nul,
    /// A `%` without two hexadecimal digits.
    BadEscape,
}

impl PathError {
    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DotSegment => "dot_segment",
            Self::EncodedDot => "encoded_dot",
            Self::EncodedSlash => "encoded_slash",
            Self::EncodedBackslash => "encoded_backslash",
            Self::Backslash => "backslash",
            Self::Nul => "nul",
            Self::BadEscape => "bad_escape",
        }
    }
}

/// The path with unreserved characters decoded and other escapes in upper case (RFC 3986 §6.2.2);
/// borrowed if it was so already.
pub fn compare_form(path: &[u8]) -> Result<Cow<'_, [u8]>, PathError> {
    if path.split(|byte| *byte == b'/').any(is_dots) {
        return Err(PathError::DotSegment);
    }
    let Some(first) = memchr::memchr3(b'%', b'\\', 0, path) else { return Ok(Cow::Borrowed(path)) };
    let (plain, mut rest) = path.split_at(first);
    let mut compared = Vec::with_capacity(path.len());
    compared.extend_from_slice(plain);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\\' => return Err(PathError::Backslash),
            0 => return Err(PathError::Nul),
            b'%' => {
                let [high, low, after @ ..] = rest else { return Err(PathError::BadEscape) };
                rest = after;
                match hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low) {
                    None => return Err(PathError::BadEscape),
                    Some(b'.') => return Err(PathError::EncodedDot),
                    Some(b'/') => return Err(PathError::EncodedSlash),
                    Some(b'\\') => return Err(PathError::EncodedBackslash),
                    Some(0) => return Err(PathError::Nul),
                    Some(byte @ (b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'~')) => compared.push(byte),
                    Some(_) => compared.extend_from_slice(&[b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]),
                }
            }
            byte => compared.push(*byte),
        }
    }
    Ok(if compared == path { Cow::Borrowed(path) } else { Cow::Owned(compared) })
}

/// One dot or two, and then nothing or parameters, whose `;` may be escaped.
fn is_dots(segment: &[u8]) -> bool {
    let Some(rest) = segment.strip_prefix(b".") else { return false };
    let rest = rest.strip_prefix(b".").unwrap_or(rest);
    matches!(rest, [] | [b';', ..] | [b'%', b'3', b'B' | b'b', ..])
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_compare_form_is_borrowed() {
        for path in
            ["", "/", "/a/b", "/a..b", "/...", "/.a", "/..a/", "/a.", "/a../", "/a%20b", "/%E2%82%AC", "/a;b=..", "//", "/.%20", "/.a;."]
        {
            assert!(matches!(compare_form(path.as_bytes()), Ok(Cow::Borrowed(same)) if same == path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn only_unreserved_characters_are_decoded() {
        check("/%61dmin", Ok("/admin"));
        check("/%41%5A%7a%30%39%2d%5f%7E", Ok("/AZz09-_~"));
        check("/%2a%3b%3F%23%25%7f%c3", Ok("/%2A%3B%3F%23%25%7F%C3"));
        check("/%2561", Ok("/%2561"));
        check("/a%20%62", Ok("/a%20b"));
    }

    #[test]
    fn dot_segments_are_refused() {
        for path in [".", "..", "/.", "/..", "/./a", "/../a", "/a/..", "/a/./b", "/..;/", "/.;a=b/c", "/a/..;", "/..%3b/", "/..%3Ba"] {
            check(path, Err(PathError::DotSegment));
        }
    }

    #[test]
    fn what_others_read_differently_is_refused() {
        for path in ["/%2e%2e/", "/.%2e", "/%2E", "/a%2eb"] {
            check(path, Err(PathError::EncodedDot));
        }
        check("/a%2fb", Err(PathError::EncodedSlash));
        check("/a%2Fb", Err(PathError::EncodedSlash));
        check("/a%5cb", Err(PathError::EncodedBackslash));
        check("/a%5C", Err(PathError::EncodedBackslash));
        check("/a\\b", Err(PathError::Backslash));
        check("/a%00", Err(PathError::Nul));
        check("/a\0", Err(PathError::Nul));
        for path in ["/%", "/%6", "/%6g", "/%g6", "/%%61", "/%+1"] {
            check(path, Err(PathError::BadEscape));
        }
    }

    fn check(path: &str, wanted: Result<&str, PathError>) {
        assert_eq!(compare_form(path.as_bytes()), wanted.map(|path| path.as_bytes().into()), "{path}");
    }
}
