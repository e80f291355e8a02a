//! Upgrades (RFC 9110 §7.8): from HTTP/1.1 to something that only its two ends understand.
//!
//! Knows which may pass, not what they are.

use super::fields::{Field, Known};
use super::framing::tokens;

/// What a request asks to go on with: the value of its one Upgrade field, if that may pass.
///
/// HTTP/2 and TLS may not: who let them through would be blind to all that follows on the connection
/// (RFC 9113 §3.1 has withdrawn the first).
pub fn wanted<'a>(fields: &[Field], bytes: &'a [u8]) -> Option<&'a [u8]> {
    let mut upgrades = fields.iter().filter(|field| field.known == Known::Upgrade);
    let (Some(upgrade), None) = (upgrades.next(), upgrades.next()) else { return None };
    if fields.iter().any(|field| field.known == Known::Http2Settings) {
        return None;
    }
    let value = upgrade.value.of(bytes);
    let passes = |protocol: &[u8]| !starts_with(protocol, b"h2") && !starts_with(protocol, b"tls") && !starts_with(protocol, b"http/");
    (tokens(value).next().is_some() && tokens(value).all(passes)).then_some(value)
}

/// Whether a 101 is an answer to what was `wanted`.
pub fn is_granted(fields: &[Field], bytes: &[u8], wanted: &[u8]) -> bool {
    let values = |known| fields.iter().filter(move |field| field.known == known).flat_map(|field| tokens(field.value.of(bytes)));
    let mut granted = values(Known::Upgrade).peekable();
    let is_named = values(Known::Connection).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    is_named && granted.peek().is_some() && granted.all(|one| tokens(wanted).any(|wanted| wanted.eq_ignore_ascii_case(one)))
}

fn starts_with(protocol: &[u8], prefix: &[u8]) -> bool {
    protocol.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Progress, RequestHead, ResponseHead};
    use super::*;

    const LIMITS: Limits = Limits { header_bytes: 4096, headers: 20, uri_bytes: 100 };

    #[track_caller]
    fn check_wanted(lines: &str, passes: Option<&str>) {
        let bytes = format!("GET / HTTP/1.1\r\nConnection: upgrade\r\n{lines}\r\n");
        let mut head = RequestHead::new();
        assert_eq!(head.parse(bytes.as_bytes(), &LIMITS), Ok(Progress::Complete), "{bytes}");
        assert_eq!(wanted(&head.fields, bytes.as_bytes()), passes.map(str::as_bytes), "{lines}");
    }

    #[test]
    fn what_hides_http_or_encryption_does_not_pass() {
        check_wanted("Upgrade: websocket\r\n", Some("websocket"));
        check_wanted("Upgrade: a/1, b\r\n", Some("a/1, b"));
        for lines in [
            "",
            "Upgrade:\r\n",
            "Upgrade: ,\r\n",
            "Upgrade: h2c\r\n",
            "Upgrade: websocket, H2C\r\n",
            "Upgrade: TLS/1.3\r\n",
            "Upgrade: HTTP/2.0\r\n",
            "Upgrade: a\r\nUpgrade: b\r\n",
            "Upgrade: websocket\r\nHTTP2-Settings: AAMAAABk\r\n",
        ] {
            check_wanted(lines, None);
        }
    }

    #[track_caller]
    fn check_granted(lines: &str, is_right: bool) {
        let bytes = format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n");
        let mut head = ResponseHead::new();
        assert_eq!(head.parse(bytes.as_bytes(), &LIMITS), Ok(Progress::Complete), "{bytes}");
        assert_eq!(is_granted(&head.fields, bytes.as_bytes(), b"websocket, other"), is_right, "{lines}");
    }

    #[test]
    fn only_what_was_asked_for_is_granted() {
        check_granted("Connection: Upgrade\r\nUpgrade: WebSocket\r\n", true);
        check_granted("Connection: keep-alive, upgrade\r\nUpgrade: other\r\n", true);
        check_granted("Connection: Upgrade\r\n", false);
        check_granted("Upgrade: websocket\r\n", false);
        check_granted("Connection: Upgrade\r\nUpgrade: h2c\r\n", false);
        check_granted("Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", false);
        check_granted("", false);
    }
}
