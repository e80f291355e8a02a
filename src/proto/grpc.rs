//! What attache must know of gRPC to speak for an endpoint: which requests are its, how long they may take, and what an error looks
//! like.
//!
//! Looks into no message: those are the endpoints' business.

use std::time::Duration;

/// Status codes of gRPC that attache itself answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Unknown = 2,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Status {
    /// As clients translate a status of HTTP (gRPC, `http-grpc-status-mapping.md`).
    pub const fn of_http(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

/// Whether a Content-Type is gRPC's; gRPC-Web's is not, which is HTTP like any other.
pub fn is_content_type(value: &[u8]) -> bool {
    const KIND: &[u8] = b"application/grpc";
    let Some((kind, rest)) = value.split_at_checked(KIND.len()) else { return false };
    kind.eq_ignore_ascii_case(KIND) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// `grpc-timeout`: up to eight digits and a unit. `None` if it is something else.
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_a_unit_and_at_most_eight_digits() {
        for (text, wanted) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("1", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
        ] {
            assert_eq!(timeout(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn only_grpc_is_grpc() {
        for (text, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_content_type(text.as_bytes()), wanted, "{text}");
        }
    }
}
