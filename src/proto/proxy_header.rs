//! The PROXY header, versions 1 and 2: who is behind the peer.
//!
//! Believes what it reads; the listener decides whether the peer may say so. TLVs and their checksum
//! are skipped. Writes version 2 only, which says all that version 1 can.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

const V1_PREFIX: &[u8] = b"PROXY ";
/// `PROXY UNKNOWN` with CRLF.
const V1_BYTES_MIN: usize = 15;
/// The longest line of version 1, with CRLF.
const V1_BYTES_MAX: usize = 107;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;
/// Of addresses and TLVs. Senders in use write some hundred bytes; a client certificate's fields are the most.
const V2_REST_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Call again with the same bytes and more.
    Partial,
    Complete {
        /// Length of the header.
        bytes: usize,
        /// None for LOCAL, UNKNOWN and Unix sockets: use the peer.
        source: Option<SocketAddr>,
        destination: Option<SocketAddr>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// Neither signature.
    NoSignature,
    /// Version 2's signature with another version.
    BadVersion,
    BadCommand,
    /// Not TCP over IPv4 or IPv6, or of no use on a stream.
    BadFamily,
    /// A byte that has no place in a line of version 1, or a line that does not end in CRLF.
    BadLine,
    BadAddress,
    BadPort,
    /// Shorter than the addresses it announces.
    TooShort,
    TooLong,
}

impl ProxyError {
    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSignature => "proxy_no_signature",
            Self::BadVersion => "proxy_bad_version",
            Self::BadCommand => "proxy_bad_command",
            Self::BadFamily => "proxy_bad_family",
            Self::BadLine => "proxy_bad_line",
            Self::BadAddress => "proxy_bad_address",
            Self::BadPort => "proxy_bad_port",
            Self::TooShort => "proxy_too_short",
            Self::TooLong => "proxy_too_long",
        }
    }
}

/// Reads a header at the beginning of `bytes`. Starts over on each call: a header is short.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    match bytes.first() {
        None => Ok(Parsed::Partial),
        Some(b'P') => parse_v1(bytes),
        Some(_) => parse_v2(bytes),
    }
}

/// How many more bytes belong to the header that `bytes` begins at the least: so many can be read from a
/// socket without taking anything of what follows. At least one, for a header that is partial.
pub fn least_missing(bytes: &[u8]) -> usize {
    let whole = match bytes {
        [] => V1_BYTES_MIN,
        [b'P', ..] if bytes.len() < V1_BYTES_MIN => V1_BYTES_MIN,
        [b'P', .., b'\r'] => bytes.len() + 1,
        [b'P', ..] => bytes.len() + 2,
        _ => match bytes.get(V2_FIXED - 2..V2_FIXED) {
            Some(&[high, low]) => V2_FIXED + usize::from(u16::from_be_bytes([high, low])),
            _ => V2_FIXED,
        },
    };
    whole.saturating_sub(bytes.len()).max(1)
}

/// Whether all of `prefix` is there; an error as soon as something else is.
fn has_prefix(bytes: &[u8], prefix: &[u8]) -> Option<bool> {
    let len = bytes.len().min(prefix.len());
    (bytes.get(..len) == prefix.get(..len)).then_some(len == prefix.len())
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    if !has_prefix(bytes, V1_PREFIX).ok_or(ProxyError::NoSignature)? {
        return Ok(Parsed::Partial);
    }
    let rest = bytes.get(V1_PREFIX.len()..).unwrap_or_default();
    let tcp4 = has_prefix(rest, b"TCP4 ");
    let tcp6 = has_prefix(rest, b"TCP6 ");
    let unknown = has_prefix(rest, b"UNKNOWN");
    if tcp4.or(tcp6).or(unknown).is_none() {
        return Err(ProxyError::BadFamily);
    }
    if ![tcp4, tcp6, unknown].contains(&Some(true)) {
        return Ok(Parsed::Partial);
    }
    let Some(line) = v1_line(bytes)? else { return Ok(Parsed::Partial) };
    let header = line.len() + 2;
    if unknown.is_some() {
        return match line.get(b"PROXY UNKNOWN".len()) {
            None | Some(b' ') => Ok(Parsed::Complete { bytes: header, source: None, destination: None }),
            Some(_) => Err(ProxyError::BadFamily),
        };
    }
    let words = line.get(b"PROXY TCP4 ".len()..).unwrap_or_default();
    let mut words = std::str::from_utf8(words).map_err(|_| ProxyError::BadLine)?.split(' ');
    let mut next = || words.next().ok_or(ProxyError::BadLine);
    let (source, destination, source_port, destination_port) = (next()?, next()?, next()?, next()?);
    if words.next().is_some() {
        return Err(ProxyError::BadLine);
    }
    let address = if tcp4.is_some() { address::<Ipv4Addr> } else { address::<Ipv6Addr> };
    Ok(Parsed::Complete {
        bytes: header,
        source: Some(SocketAddr::new(address(source)?, port(source_port)?)),
        destination: Some(SocketAddr::new(address(destination)?, port(destination_port)?)),
    })
}

/// The line without its CRLF, once that is there.
fn v1_line(bytes: &[u8]) -> Result<Option<&[u8]>, ProxyError> {
    let visible = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let end = visible.iter().position(|byte| !matches!(byte, b' '..=b'~')).unwrap_or(visible.len());
    match visible.get(end..) {
        None | Some([] | [b'\r']) if visible.len() == V1_BYTES_MAX => Err(ProxyError::TooLong),
        None | Some([] | [b'\r']) => Ok(None),
        Some([b'\r', b'\n', ..]) => Ok(visible.get(..end)),
        Some(_) => Err(ProxyError::BadLine),
    }
}

fn address<A: FromStr + Into<IpAddr>>(word: &str) -> Result<IpAddr, ProxyError> {
    word.parse::<A>().map(Into::into).map_err(|_| ProxyError::BadAddress)
}

/// Decimal without a sign or leading zeros.
fn port(word: &str) -> Result<u16, ProxyError> {
    let is_plain = word == "0" || word.starts_with(|c: char| matches!(c, '1'..='9'));
    if !is_plain {
        return Err(ProxyError::BadPort);
    }
    word.parse().map_err(|_| ProxyError::BadPort)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    has_prefix(bytes, V2_SIGNATURE).ok_or(ProxyError::NoSignature)?;
    let is_local = match bytes.get(12) {
        None => return Ok(Parsed::Partial),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(byte) if byte >> 4 != 2 => return Err(ProxyError::BadVersion),
        Some(_) => return Err(ProxyError::BadCommand),
    };
    let family = match bytes.get(13) {
        None => return Ok(Parsed::Partial),
        // The family of LOCAL is to be ignored.
        Some(_) if is_local => Family::Unspecified,
        Some(0x00) => Family::Unspecified,
        Some(0x11) => Family::Tcp4,
        Some(0x21) => Family::Tcp6,
        Some(0x31) => Family::Unix,
        Some(_) => return Err(ProxyError::BadFamily),
    };
    let Some([high, low]) = bytes.get(14..V2_FIXED) else {
        // The high byte alone may already say too much.
        return match bytes.get(14) {
            Some(high) if usize::from(*high) << 8 > V2_REST_MAX => Err(ProxyError::TooLong),
            _ => Ok(Parsed::Partial),
        };
    };
    let rest = usize::from(u16::from_be_bytes([*high, *low]));
    if rest > V2_REST_MAX {
        return Err(ProxyError::TooLong);
    }
    if rest < family.bytes() {
        return Err(ProxyError::TooShort);
    }
    let Some(addresses) = bytes.get(V2_FIXED..V2_FIXED + rest) else { return Ok(Parsed::Partial) };
    let (source, destination) = match family {
        Family::Tcp4 => split_v2::<4>(addresses).unzip(),
        Family::Tcp6 => split_v2::<16>(addresses).unzip(),
        Family::Unspecified | Family::Unix => (None, None),
    };
    Ok(Parsed::Complete { bytes: V2_FIXED + rest, source, destination })
}

/// What a header tells of the client's connection beside its ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extensions<'a> {
    /// The protocol that was agreed on inside TLS.
    pub alpn: Option<&'a [u8]>,
    /// The name that TLS asked for.
    pub authority: Option<&'a [u8]>,
}

const PP2_TYPE_ALPN: u8 = 0x01;
const PP2_TYPE_AUTHORITY: u8 = 0x02;
/// Longer ones are left out. Neither a name (RFC 1035: 253) nor a protocol (RFC 7301: 255) is.
const EXTENSION_MAX: usize = 255;

/// Appends a header of version 2. `ends` are the client's address and the one it connected to; without them the header says
/// LOCAL, and whoever reads it takes us for the client.
pub fn write_v2(ends: Option<(SocketAddr, SocketAddr)>, extensions: Extensions<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(V2_SIGNATURE);
    let Some((source, destination)) = ends else { return out.extend_from_slice(&[0x20, 0x00, 0, 0]) };
    let (source_ip, destination_ip) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let both_v4 = match (source_ip, destination_ip) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Some([source.octets(), destination.octets()]),
        _ => None,
    };
    let family = if both_v4.is_some() { Family::Tcp4 } else { Family::Tcp6 };
    let extensions = [(PP2_TYPE_ALPN, extensions.alpn), (PP2_TYPE_AUTHORITY, extensions.authority)];
    let told = || extensions.iter().filter_map(|&(kind, value)| Some((kind, value.filter(|value| value.len() <= EXTENSION_MAX)?)));
    let rest = family.bytes() + told().map(|(_, value)| 3 + value.len()).sum::<usize>();
    out.extend_from_slice(&[0x21, if both_v4.is_some() { 0x11 } else { 0x21 }]);
    out.extend_from_slice(&(rest as u16).to_be_bytes());
    match both_v4 {
        Some(octets) => out.extend(octets.as_flattened()),
        None => out.extend([source_ip, destination_ip].map(in_v6).as_flattened()),
    }
    out.extend([source, destination].map(|end| end.port().to_be_bytes()).as_flattened());
    for (kind, value) in told() {
        out.push(kind);
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    }
}

fn in_v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[derive(Clone, Copy)]
enum Family {
    Unspecified,
    Tcp4,
    Tcp6,
    Unix,
}

impl Family {
    const fn bytes(self) -> usize {
        match self {
            Self::Unspecified => 0,
            Self::Tcp4 => 2 * 4 + 4,
            Self::Tcp6 => 2 * 16 + 4,
            Self::Unix => 2 * 108,
        }
    }
}

/// Two addresses and two ports, one after the other; TLVs may follow.
fn split_v2<const N: usize>(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (ports, _) = rest.split_first_chunk::<4>()?;
    let [a, b, c, d] = *ports;
    Some((
        SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes([a, b])),
        SocketAddr::new(IpAddr::from(*destination), u16::from_be_bytes([c, d])),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(bytes: usize, addresses: Option<(&str, &str)>) -> Parsed {
        let parse = |text: &str| text.parse().expect("an address");
        let (source, destination) = addresses.map(|(source, destination)| (parse(source), parse(destination))).unzip();
        Parsed::Complete { bytes, source, destination }
    }

    /// The outcome for the header with a request after it, and `Partial` for all that is shorter.
    fn check_accepted(header: &[u8], addresses: Option<(&str, &str)>) {
        let followed = [header, b"GET /"].concat();
        assert_eq!(parse(&followed), Ok(complete(header.len(), addresses)), "{}", header.escape_ascii());
        for len in 0..header.len() {
            assert_eq!(parse(&header[..len]), Ok(Parsed::Partial), "{}", header[..len].escape_ascii());
        }
    }

    /// Refused, and not before the last byte.
    fn check_refused(header: &[u8], error: ProxyError) {
        assert_eq!(parse(header), Err(error), "{}", header.escape_ascii());
        assert_eq!(parse(&header[..header.len() - 1]), Ok(Parsed::Partial), "{}", header.escape_ascii());
        let followed = [header, b"\r\n\0more"].concat();
        assert_eq!(parse(&followed), Err(error), "{}", followed.escape_ascii());
    }

    #[test]
    fn version_1_names_two_addresses() {
        check_accepted(b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n", Some(("192.0.2.1:56324", "10.0.0.1:443")));
        check_accepted(b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", Some(("255.255.255.255:65535", "0.0.0.0:0")));
        check_accepted(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", Some(("[2001:db8::1]:1", "[::1]:2")));
    }

    #[test]
    fn version_1_may_know_nothing() {
        check_accepted(b"PROXY UNKNOWN\r\n", None);
        check_accepted(b"PROXY UNKNOWN anything at all\r\n", None);
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 16));
        assert_eq!(longest.len(), V1_BYTES_MAX);
        check_accepted(longest.as_bytes(), None);
        let longer = format!("PROXY UNKNOWN {}", "f".repeat(V1_BYTES_MAX - 14));
        check_refused(longer.as_bytes(), ProxyError::TooLong);
    }

    #[test]
    fn version_1_is_refused_at_the_first_wrong_byte() {
        check_refused(b"PROXX", ProxyError::NoSignature);
        check_refused(b"PROXY\t", ProxyError::NoSignature);
        check_refused(b"PROXY tcp4"[..7].as_ref(), ProxyError::BadFamily);
        check_refused(b"PROXY TCP5", ProxyError::BadFamily);
        check_refused(b"PROXY UDP4"[..8].as_ref(), ProxyError::BadFamily);
        check_refused(b"PROXY UNKNOWNX\r\n", ProxyError::BadFamily);
        check_refused(b"PROXY TCP4 192.0.2.1\n", ProxyError::BadLine);
        check_refused(b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\rx", ProxyError::BadLine);
        check_refused(b"PROXY UNKNOWN \xff", ProxyError::BadLine);
        check_refused(b"PROXY TCP4 192.0.2.1\t", ProxyError::BadLine);
    }

    #[test]
    fn version_1_is_exact() {
        let wrong = [
            ("TCP4 192.0.2.1 10.0.0.1 1", ProxyError::BadLine),
            ("TCP4 192.0.2.1 10.0.0.1 1 2 3", ProxyError::BadLine),
            ("TCP4 192.0.2.1 10.0.0.1 1 2 ", ProxyError::BadLine),
            ("TCP4  192.0.2.1 10.0.0.1 1 2", ProxyError::BadLine),
            ("TCP4  10.0.0.1 1 2", ProxyError::BadAddress),
            ("TCP4 192.0.2.256 10.0.0.1 1 2", ProxyError::BadAddress),
            ("TCP4 192.0.2.01 10.0.0.1 1 2", ProxyError::BadAddress),
            ("TCP4 ::1 ::1 1 2", ProxyError::BadAddress),
            ("TCP6 192.0.2.1 10.0.0.1 1 2", ProxyError::BadAddress),
            ("TCP6 [::1] ::1 1 2", ProxyError::BadAddress),
            ("TCP6 fe80::1%eth0 ::1 1 2", ProxyError::BadAddress),
            ("TCP4 192.0.2.1 10.0.0.1 65536 2", ProxyError::BadPort),
            ("TCP4 192.0.2.1 10.0.0.1 1 02", ProxyError::BadPort),
            ("TCP4 192.0.2.1 10.0.0.1 +1 2", ProxyError::BadPort),
            ("TCP4 192.0.2.1 10.0.0.1 -1 2", ProxyError::BadPort),
            ("TCP4 192.0.2.1 10.0.0.1 1 x", ProxyError::BadPort),
        ];
        for (line, error) in wrong {
            check_refused(format!("PROXY {line}\r\n").as_bytes(), error);
        }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        [V2_SIGNATURE, &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
    }

    const TCP4: &[u8] = &[192, 0, 2, 1, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb];

    #[test]
    fn version_2_names_two_addresses() {
        let addresses = Some(("192.0.2.1:56324", "10.0.0.1:443"));
        check_accepted(&v2(0x21, 0x11, TCP4), addresses);
        check_accepted(&v2(0x21, 0x11, &[TCP4, b"\x04\0\x02\0\0"].concat()), addresses);
        check_accepted(&v2(0x21, 0x11, &[TCP4, &[0; V2_REST_MAX - 12]].concat()), addresses);
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
        check_accepted(&v2(0x21, 0x21, &v6), Some(("[::1]:3", "[::2]:4")));
    }

    #[test]
    fn version_2_may_mean_the_peer() {
        check_accepted(&v2(0x20, 0x00, b""), None);
        check_accepted(&v2(0x20, 0x11, TCP4), None);
        check_accepted(&v2(0x20, 0xff, b"x"), None);
        check_accepted(&v2(0x21, 0x00, b"tlv"), None);
        check_accepted(&v2(0x21, 0x31, &[b'/'; 216]), None);
    }

    #[test]
    fn version_2_is_refused_at_the_first_wrong_byte() {
        check_refused(b"\r\n\r\n\0\r\nQUIT\r", ProxyError::NoSignature);
        check_refused(b"\r\nG", ProxyError::NoSignature);
        let start = |rest: &[u8]| [V2_SIGNATURE, rest].concat();
        check_refused(&start(b"\x11"), ProxyError::BadVersion);
        check_refused(&start(b"\x31"), ProxyError::BadVersion);
        check_refused(&start(b"\x22"), ProxyError::BadCommand);
        for family in [0x10, 0x12, 0x22, 0x32, 0x41, 0x01] {
            check_refused(&start(&[0x21, family]), ProxyError::BadFamily);
        }
        check_refused(&start(b"\x21\x11\0\x0b"), ProxyError::TooShort);
        check_refused(&start(b"\x21\x21\0\x23"), ProxyError::TooShort);
        check_refused(&start(b"\x21\x31\0\xd7"), ProxyError::TooShort);
        check_refused(&start(b"\x20\0\x11"), ProxyError::TooLong);
        check_refused(&start(b"\x20\0\x10\x01"), ProxyError::TooLong);
    }

    fn written(ends: Option<(&str, &str)>, extensions: Extensions<'_>) -> Vec<u8> {
        let parse = |text: &str| text.parse().expect("an address");
        let mut out = Vec::new();
        write_v2(ends.map(|(source, destination)| (parse(source), parse(destination))), extensions, &mut out);
        out
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let v4 = Some(("192.0.2.1:56324", "10.0.0.1:443"));
        assert_eq!(written(v4, Extensions::default()), v2(0x21, 0x11, TCP4));
        let told = Extensions { alpn: Some(b"h2"), authority: Some(b"a.example") };
        assert_eq!(written(v4, told), v2(0x21, 0x11, &[TCP4, b"\x01\0\x02h2\x02\0\x09a.example"].concat()));
        check_accepted(&written(v4, told), v4);
        let v6 = Some(("[2001:db8::1]:1", "[::1]:65535"));
        check_accepted(&written(v6, told), v6);
        // What a dual socket makes of IPv4 is IPv4, unless the other end is not.
        assert_eq!(written(Some(("[::ffff:192.0.2.1]:56324", "10.0.0.1:443")), Extensions::default()), v2(0x21, 0x11, TCP4));
        check_accepted(&written(Some(("192.0.2.1:1", "[::1]:2")), told), Some(("[::ffff:192.0.2.1]:1", "[::1]:2")));
        assert_eq!(written(None, told), v2(0x20, 0, b""));
        let long = [b'a'; EXTENSION_MAX + 1];
        assert_eq!(written(v4, Extensions { alpn: Some(&long), authority: Some(&long[1..]) }).len(), 16 + 12 + 3 + EXTENSION_MAX);
    }

    #[test]
    fn what_begins_otherwise_is_no_header() {
        for bytes in [&b"G"[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\n", b"proxy"] {
            assert_eq!(parse(bytes), Err(ProxyError::NoSignature));
        }
        assert_eq!(parse(b""), Ok(Parsed::Partial));
    }
}
