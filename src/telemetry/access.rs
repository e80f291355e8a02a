//! The access log: one line for each finished exchange.
//!
//! Field names are a contract with log pipelines. Everything a client sent is escaped, so that no request can forge a
//! line; nothing is allocated. Where the line goes is [`super::Sink`]'s business.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::clock::Stamps;

/// How a line is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One object with always the same keys; what is absent is null.
    Json,
    /// Common log format.
    Common,
    /// The same with referer and user agent.
    Combined,
}

/// How the exchange ended for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer was sent whole.
    Complete,
    /// The client left before.
    ClientGone,
    /// The answer was cut short by us or by the endpoint.
    Cut,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::Cut => "cut",
        }
    }
}

/// TLS towards the client.
#[derive(Clone, Copy, Debug)]
pub struct Tls<'a> {
    /// `TLSv1.3` and the like.
    pub version: &'a str,
    pub sni: Option<&'a str>,
}

/// One finished exchange. Byte strings are as the client sent them.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// When it ended, since 1970.
    pub time: Duration,
    /// `None` for a client on a Unix socket.
    pub client: Option<IpAddr>,
    /// Empty if the head could not be read so far; so are `target` and `protocol`.
    pub method: &'a [u8],
    pub host: Option<&'a [u8]>,
    pub target: &'a [u8],
    /// `HTTP/1.1`.
    pub protocol: &'a str,
    /// 0 if nothing was sent.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    pub duration: Duration,
    pub listener: &'a str,
    /// Empty for a listener's own service.
    pub route: &'a str,
    pub service: &'a str,
    /// Of a split that the request went through; of several, one after the other.
    pub arm: Option<&'a str>,
    /// Of a scatter: each with its outcome and milliseconds.
    pub leaves: Option<&'a str>,
    /// The last one tried.
    pub endpoint: Option<&'a str>,
    pub attempts: u32,
    pub request_id: Option<&'a [u8]>,
    /// Why attache answered itself.
    pub refusal: Option<&'a str>,
    pub user_agent: Option<&'a [u8]>,
    pub referer: Option<&'a [u8]>,
    pub tls: Option<Tls<'a>>,
    pub outcome: Outcome,
}

impl Record<'_> {
    /// Appends one line, with its end.
    pub fn write(&self, format: Format, stamps: &mut Stamps, out: &mut Vec<u8>) {
        match format {
            Format::Json => self.write_json(stamps, out),
            Format::Common => self.write_common(stamps, out),
            Format::Combined => {
                self.write_common(stamps, out);
                for text in [self.referer, self.user_agent] {
                    out.extend_from_slice(b" \"");
                    quote_common(text.unwrap_or(b"-"), out);
                    out.push(b'"');
                }
            }
        }
        out.push(b'\n');
    }

    fn write_json(&self, stamps: &mut Stamps, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ts\":\"");
        stamps.write_rfc3339(self.time, out);
        out.extend_from_slice(b"\",\"client\":\"");
        write_client(self.client, out);
        out.push(b'"');
        json_text(b",\"method\":", Some(self.method), out);
        json_text(b",\"host\":", self.host, out);
        json_text(b",\"path\":", Some(self.target), out);
        json_text(b",\"protocol\":", Some(self.protocol.as_bytes()), out);
        json_number(b",\"status\":", u64::from(self.status), out);
        json_number(b",\"bytes_in\":", self.bytes_in, out);
        json_number(b",\"bytes_out\":", self.bytes_out, out);
        let micros = u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX);
        json_number(b",\"duration_ms\":", micros / 1000, out);
        let rest = micros % 1000;
        out.extend([b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
        json_text(b",\"listener\":", Some(self.listener.as_bytes()), out);
        json_text(b",\"route\":", Some(self.route.as_bytes()), out);
        json_text(b",\"service\":", Some(self.service.as_bytes()), out);
        json_text(b",\"arm\":", self.arm.map(str::as_bytes), out);
        json_text(b",\"leaves\":", self.leaves.map(str::as_bytes), out);
        json_text(b",\"endpoint\":", self.endpoint.map(str::as_bytes), out);
        json_number(b",\"attempts\":", u64::from(self.attempts), out);
        json_text(b",\"request_id\":", self.request_id, out);
        json_text(b",\"refusal\":", self.refusal.map(str::as_bytes), out);
        json_text(b",\"user_agent\":", self.user_agent, out);
        json_text(b",\"referer\":", self.referer, out);
        json_text(b",\"tls\":", self.tls.map(|tls| tls.version.as_bytes()), out);
        json_text(b",\"sni\":", self.tls.and_then(|tls| tls.sni).map(str::as_bytes), out);
        json_text(b",\"outcome\":", Some(self.outcome.as_str().as_bytes()), out);
        out.push(b'}');
    }

    fn write_common(&self, stamps: &mut Stamps, out: &mut Vec<u8>) {
        write_client(self.client, out);
        out.extend_from_slice(b" - - [");
        stamps.write_common(self.time, out);
        out.extend_from_slice(b"] \"");
        if self.method.is_empty() {
            out.push(b'-');
        } else {
            quote_common(self.method, out);
            out.push(b' ');
            quote_common(self.target, out);
            out.push(b' ');
            quote_common(self.protocol.as_bytes(), out);
        }
        let status = u64::from(self.status);
        out.extend([b'"', b' ', digit(status / 100), digit(status / 10), digit(status), b' ']);
        write_number(self.bytes_out, out);
    }
}

fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

fn write_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = digit(rest);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_client(client: Option<IpAddr>, out: &mut Vec<u8>) {
    match client {
        Some(ip) => write!(out, "{ip}").expect("a vector takes what is written to it"),
        None => out.extend_from_slice(b"unix"),
    }
}

fn json_number(key: &[u8], number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    write_number(number, out);
}

fn json_text(key: &[u8], text: Option<&[u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    let Some(text) = text else { return out.extend_from_slice(b"null") };
    out.push(b'"');
    if text.iter().all(|&byte| is_plain(byte)) {
        out.extend_from_slice(text);
    } else {
        escape_json(text, out);
    }
    out.push(b'"');
}

/// Stands for itself in JSON and on a terminal.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

/// Valid UTF-8 stays readable; a byte outside of it becomes the character of its number.
fn escape_json(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                // C1 controls as well: terminals obey them.
                _ if character.is_control() => escape_byte(character as u8, out),
                _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        chunk.invalid().iter().for_each(|&byte| escape_byte(byte, out));
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn escape_byte(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\u00");
    out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

/// As nginx and Apache write it: `\xXX`.
fn quote_common(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        if is_plain(byte) {
            out.push(byte);
        } else {
            out.extend([b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record<'a>() -> Record<'a> {
        Record {
            time: Duration::from_millis(1_700_000_000_123),
            client: Some(IpAddr::from([192, 0, 2, 1])),
            method: b"GET",
            host: Some(b"a.example"),
            target: b"/x?y=1",
            protocol: "HTTP/1.1",
            status: 200,
            bytes_in: 0,
            bytes_out: 1234,
            duration: Duration::from_micros(12_034),
            listener: "edge",
            route: "search",
            service: "app",
            arm: Some("canary"),
            leaves: None,
            endpoint: Some("10.0.0.1:80"),
            attempts: 1,
            request_id: Some(b"abc"),
            refusal: None,
            user_agent: Some(b"curl/8"),
            referer: None,
            tls: Some(Tls { version: "TLSv1.3", sni: Some("a.example") }),
            outcome: Outcome::Complete,
        }
    }

    fn line(record: &Record<'_>, format: Format) -> String {
        let mut out = Vec::new();
        record.write(format, &mut Stamps::new(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_json_line_has_the_documented_fields() {
        assert_eq!(
            line(&record(), Format::Json),
            concat!(
                r#"{"ts":"2023-11-14T22:13:20.123Z","client":"192.0.2.1","method":"GET","host":"a.example","path":"/x?y=1","#,
                r#""protocol":"HTTP/1.1","status":200,"bytes_in":0,"bytes_out":1234,"duration_ms":12.034,"listener":"edge","#,
                r#""route":"search","service":"app","arm":"canary","leaves":null,"endpoint":"10.0.0.1:80","attempts":1,"request_id":"abc","refusal":null,"#,
                r#""user_agent":"curl/8","referer":null,"tls":"TLSv1.3","sni":"a.example","outcome":"complete"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn common_lines_are_what_log_tools_expect() {
        let common = "192.0.2.1 - - [14/Nov/2023:22:13:20 +0000] \"GET /x?y=1 HTTP/1.1\" 200 1234";
        assert_eq!(line(&record(), Format::Common), format!("{common}\n"));
        assert_eq!(line(&record(), Format::Combined), format!("{common} \"-\" \"curl/8\"\n"));
    }

    #[test]
    fn a_request_that_was_never_understood_has_a_line() {
        let record = Record { method: b"", target: b"", protocol: "", host: None, status: 0, client: None, tls: None, ..record() };
        assert_eq!(line(&record, Format::Common), "unix - - [14/Nov/2023:22:13:20 +0000] \"-\" 000 1234\n");
        let json: serde_json::Value = serde_json::from_str(&line(&record, Format::Json)).unwrap();
        assert_eq!((&json["host"], &json["client"]), (&serde_json::Value::Null, &"unix".into()));
    }

    /// What a reader of the JSON gets back.
    fn readable(bytes: &[u8]) -> String {
        let mut text = String::new();
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|&byte| char::from(byte)));
        }
        text
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_is_one_line_of_json_that_gives_it_back(
            target in proptest::collection::vec(any::<u8>(), 0..200), agent in "\\PC{0,20}", bytes in any::<u64>(),
            micros in any::<u64>(),
        ) {
            let record = Record {
                target: &target, user_agent: Some(agent.as_bytes()), bytes_out: bytes, duration: Duration::from_micros(micros), ..record()
            };
            let line = line(&record, Format::Json);
            prop_assert!(!line.trim_end_matches('\n').contains(char::is_control));
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(json["path"].as_str().unwrap(), readable(&target));
            prop_assert_eq!(json["user_agent"].as_str().unwrap(), agent);
            prop_assert_eq!(json["bytes_out"].as_u64(), Some(bytes));
        }

        #[test]
        fn no_client_forges_a_common_line(target in proptest::collection::vec(any::<u8>(), 0..200)) {
            let record = Record { target: &target, user_agent: Some(&target), ..record() };
            let line = line(&record, Format::Combined);
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.trim_end_matches('\n').bytes().all(|byte| matches!(byte, 0x20..=0x7e)));
            prop_assert_eq!(line.matches('"').count(), 6);
        }
    }
}
