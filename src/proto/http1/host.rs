//! Who a request is for: `Host`, and the four forms of a target.
//!
//! Does not compare the two; a route's caller does, since it knows the listener.

use std::net::Ipv6Addr;

use super::bytes::{HOST, PATH, QUERY, is};
use super::fields::Span;

/// The longest name DNS can carry, with its last dot.
const NAME_BYTES_MAX: usize = 254;

/// A checked `uri-host [":" port]`, as spans of what was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// With the brackets of an IPv6 address, and with a last dot if there was one.
    pub name: Span,
    /// The digits; empty in `host:` as in `host`.
    pub port: Span,
    pub number: Option<u16>,
}

/// Checks `uri-host [":" port]` (RFC 9110 §7.2, RFC 3986 §3.2).
///
/// Stricter than the grammar: letters, digits, `-`, `.`, `_`, `~`, with no empty label but a last one.
/// Escapes and sub-delimiters stand in no name that resolves, and programs disagree on what they mean;
/// a comma is how two joined `Host` fields look. IP literals are IPv6 without a zone.
pub fn check_host(value: &[u8]) -> Option<HostPort> {
    let name_len = if value.first()? == &b'[' {
        let len = value.iter().position(|byte| *byte == b']')? + 1;
        let literal = std::str::from_utf8(value.get(1..len - 1)?).ok()?;
        literal.parse::<Ipv6Addr>().ok()?;
        len
    } else {
        let len = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
        is_name(value.get(..len)?).then_some(len)?
    };
    let port = match value.get(name_len..)? {
        [] => Span::new(name_len, name_len),
        [b':', ..] => Span::new(name_len + 1, value.len()),
        _ => return None,
    };
    let number = if port.is_empty() { None } else { Some(port_number(port.of(value))?) };
    Some(HostPort { name: Span::new(0, name_len), port, number })
}

fn is_name(name: &[u8]) -> bool {
    let labels = name.strip_suffix(b".").unwrap_or(name);
    let mut before = b'.';
    for byte in labels {
        if !is(*byte, HOST) || (*byte == b'.' && before == b'.') {
            return false;
        }
        before = *byte;
    }
    // Also false where there is no label at all.
    before != b'.' && name.len() <= NAME_BYTES_MAX
}

/// 0 to 65535 in at most five digits.
fn port_number(digits: &[u8]) -> Option<u16> {
    let digits = digits.len().le(&5).then_some(digits)?;
    let number = digits.iter().try_fold(0u32, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0')))?;
    u16::try_from(number).ok()
}

/// The forms of a request target (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Origin {
        path: &'a [u8],
        query: Option<&'a [u8]>,
    },
    /// `http` and `https` only. An absent path reads as `/`.
    Absolute {
        scheme: &'a [u8],
        authority: &'a [u8],
        path: &'a [u8],
        query: Option<&'a [u8]>,
    },
    /// Host and port, for `CONNECT`.
    Authority(&'a [u8]),
    Asterisk,
}

/// Tells the forms apart. The bytes of an origin-form are taken as the head's parser left them; the
/// other forms are checked whole: an authority by `check_host`, so that it never holds a user.
pub fn split_target(target: &[u8]) -> Option<Target<'_>> {
    match target {
        b"*" => return Some(Target::Asterisk),
        [b'/', ..] => {
            let (path, query) = split_query(target);
            return Some(Target::Origin { path, query });
        }
        _ => {}
    }
    let Some((scheme, rest)) = split_scheme(target) else {
        return check_host(target)?.number.map(|_| Target::Authority(target));
    };
    let (authority, rest) = rest.split_at(rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len()));
    check_host(authority)?;
    let (path, query) = split_query(rest);
    let is_clean = path.iter().all(|byte| is(*byte, PATH)) && query.unwrap_or_default().iter().all(|byte| is(*byte, QUERY));
    is_clean.then_some(Target::Absolute { scheme, authority, path: if path.is_empty() { b"/" } else { path }, query })
}

fn split_query(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'?') {
        Some(mark) => (path.get(..mark).unwrap_or_default(), path.get(mark + 1..)),
        None => (path, None),
    }
}

fn split_scheme(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let (scheme, rest) = target.split_at_checked(target.iter().position(|byte| *byte == b':')?)?;
    let is_http = scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https");
    is_http.then_some((scheme, rest.strip_prefix(b"://")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_with_an_optional_port() {
        check("a", Some(("a", None)));
        check("shop.example", Some(("shop.example", None)));
        check("shop.example.:8080", Some(("shop.example.", Some(8080))));
        check("under_score~.x-y:0", Some(("under_score~.x-y", Some(0))));
        check("127.0.0.1:65535", Some(("127.0.0.1", Some(65535))));
        check("a:", Some(("a", None)));
        check("a:00080", Some(("a", Some(80))));
        check("[::1]", Some(("[::1]", None)));
        check("[2001:db8::1.2.3.4]:443", Some(("[2001:db8::1.2.3.4]", Some(443))));
        check("[::1]:", Some(("[::1]", None)));
    }

    #[test]
    fn what_is_not_a_host_and_a_port_is_refused() {
        let wrong = [
            "",
            ":80",
            ".",
            "..",
            ".a",
            "a..b",
            "a b",
            " a",
            "a,b",
            "u@a",
            "u:p@a",
            "a:b",
            "a:65536",
            "a:000080",
            "a:-1",
            "a:+1",
            "a:80:80",
            "a:80 ",
            "a/b",
            "a?b",
            "a#b",
            "a%41",
            "a;b",
            "a\\b",
            "a\0",
            "\u{e9}",
            "[",
            "[]",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]80",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "[1.2.3.4]",
            "[::g]",
            "[::1]:x",
            "]",
        ];
        for value in wrong {
            check(value, None);
        }
    }

    #[test]
    fn a_name_is_no_longer_than_dns_can_carry() {
        let name = format!("{}.", ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join("."));
        assert_eq!(name.len(), 254);
        check(&name, Some((&name, None)));
        check(&format!("a{name}"), None);
    }

    fn check(value: &str, wanted: Option<(&str, Option<u16>)>) {
        let parsed = check_host(value.as_bytes());
        let seen = parsed.map(|host| (host.name.of(value.as_bytes()), host.number));
        assert_eq!(seen, wanted.map(|(name, port)| (name.as_bytes(), port)), "{value:?}");
        if let Some(host) = parsed {
            assert_eq!(host.port.is_empty(), host.number.is_none(), "{value:?}");
        }
    }

    #[test]
    fn targets_have_four_forms() {
        let origin = |path, query| Some(Target::Origin { path, query });
        check_target("/", origin(b"/", None));
        check_target("/a?b?c", origin(b"/a", Some(b"b?c")));
        check_target("//a/?", origin(b"//a/", Some(b"")));
        check_target("/http://a/", origin(b"/http://a/", None));
        check_target("*", Some(Target::Asterisk));
        check_target("a:443", Some(Target::Authority(b"a:443")));
        check_target("[::1]:443", Some(Target::Authority(b"[::1]:443")));
        let absolute = |scheme, authority, path, query| Some(Target::Absolute { scheme, authority, path, query });
        check_target("http://a/b?c", absolute(b"http", b"a", b"/b", Some(b"c")));
        check_target("HTTPS://a:1", absolute(b"HTTPS", b"a:1", b"/", None));
        check_target("http://a/[b]?{\\}", absolute(b"http", b"a", b"/[b]", Some(b"{\\}")));
        check_target("http://[::1]?q", absolute(b"http", b"[::1]", b"/", Some(b"q")));
    }

    #[test]
    fn no_other_target_is_one() {
        let wrong = [
            "",
            "**",
            "a",
            "a:",
            "a/b",
            "http:",
            "http:/a",
            "http://",
            "http:///a",
            "http://?",
            "http://u@a/",
            "http://a/{b}",
            "http://a/b\\",
            "http://a/b?\"",
            "http://[::1/",
            "ftp://a/",
            "httpss://a/",
            "http://a b/",
            "http://a:x/",
            "?a",
            "[::1]",
            "u@a:443",
            "a:443/",
        ];
        for target in wrong {
            check_target(target, None);
        }
    }

    fn check_target(target: &str, wanted: Option<Target<'_>>) {
        assert_eq!(split_target(target.as_bytes()), wanted, "{target:?}");
    }
}
