//! Reads a request's key where the configuration says.
//!
//! Makes no number of it: whoever asked hashes it. Reads no body either: whoever asked does that too, and asks again.

use std::io::Write as _;
use std::net::IpAddr;

use super::{Head, write_ip};
use crate::value::{KeySource, Query, RequestKey};

/// Where a request's key was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was appended.
    Here,
    Nowhere,
    /// It may be in the body, of which at most so many bytes are to be read first.
    InBody(u64),
}

/// Appends the key. `body` is the whole of it if it was read, and nothing if there is none or too much.
pub fn find(key: &RequestKey, head: &Head<'_>, body: Option<&[u8]>, out: &mut Vec<u8>) -> Found {
    let start = out.len();
    'alternatives: for sources in &key.first {
        out.truncate(start);
        for (index, source) in sources.iter().enumerate() {
            if index > 0 {
                out.push(0);
            }
            if source.is_in_body() && body.is_none() {
                out.truncate(start);
                return Found::InBody(key.body.0);
            }
            if read(source, key, head, body.unwrap_or_default(), out).is_none() {
                continue 'alternatives;
            }
        }
        if key.lower {
            out[start..].make_ascii_lowercase();
        }
        if let Some(tag) = key.tag {
            cut_to_tag(tag, start, out);
        }
        return Found::Here;
    }
    out.truncate(start);
    Found::Nowhere
}

/// Redis Cluster specification, "Hash tags": from the first opening character to the first closing one behind it, unless nothing is
/// in between.
fn cut_to_tag((open, close): (u8, u8), start: usize, out: &mut Vec<u8>) {
    let key = &out[start..];
    let Some(opened) = memchr::memchr(open, key) else { return };
    let Some(length) = memchr::memchr(close, &key[opened + 1..]).filter(|&length| length > 0) else { return };
    out.truncate(start + opened + 1 + length);
    out.drain(start..=start + opened);
}

/// An empty value is none.
fn read(source: &KeySource, key: &RequestKey, head: &Head<'_>, body: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let present = |value: &&[u8]| !value.is_empty();
    match source {
        KeySource::Path => out.extend_from_slice(head.compare_path),
        KeySource::Uri => {
            out.extend_from_slice(head.path);
            match head.query {
                Some(query) if key.query.is_plain() => {
                    out.push(b'?');
                    out.extend_from_slice(query);
                }
                Some(query) => write_query(&key.query, query, out),
                None => {}
            }
        }
        KeySource::Host => {
            let start = out.len();
            out.extend_from_slice(Some(head.host).filter(present)?);
            out[start..].make_ascii_lowercase();
        }
        KeySource::Method => out.extend_from_slice(head.method),
        KeySource::ClientIp => write_ip(Some(head.client?), out),
        KeySource::ClientNetwork(bits) => write_ip(Some(network(head.client?, *bits)), out),
        KeySource::Header(name) => out.extend_from_slice(head.headers.first(name.as_bytes()).filter(present)?),
        KeySource::Cookie(name) => out.extend_from_slice(head.headers.cookies(name.as_bytes()).find(present)?),
        KeySource::Query(name) => out.extend_from_slice(head.query_values(name.as_bytes()).find(present)?),
        KeySource::Segment(number) => {
            let mut segments = head.compare_path.split(|&byte| byte == b'/').skip(1);
            out.extend_from_slice(segments.nth(usize::from(*number) - 1).filter(present)?);
        }
        KeySource::PathCapture(capture) => {
            let captures = capture.0.captures(head.compare_path)?;
            out.extend_from_slice(captures.get(1).map(|group| group.as_bytes()).filter(present)?);
        }
        KeySource::TlsName => out.extend_from_slice(head.tls?.sni.as_ref().map(String::as_bytes).filter(present)?),
        KeySource::TlsClient => out.extend_from_slice(head.tls?.subject.as_ref().map(String::as_bytes).filter(present)?),
        KeySource::Json(pointer) => write_json(pointer, plain(head, body)?, out)?,
        KeySource::Form(name) => write_form_field(name, form(head, body)?, out)?,
    }
    Some(())
}

/// The parameters that count, in the order in which they are compared.
fn write_query(query: &Query, written: &[u8], out: &mut Vec<u8>) {
    let name = |pair: &[u8]| memchr::memchr(b'=', pair).map_or(pair.len(), |end| end);
    let counting = written.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty() && query.counts(&pair[..name(pair)]));
    let mut write = |pair: &[u8], number: usize| {
        out.push(if number == 0 { b'?' } else { b'&' });
        out.extend_from_slice(pair);
    };
    if query.sort {
        let mut sorted: Vec<&[u8]> = counting.collect();
        // By name only: values of one name mean something in their order.
        sorted.sort_by(|one, other| one[..name(one)].cmp(&other[..name(other)]));
        sorted.iter().enumerate().for_each(|(number, pair)| write(pair, number));
    } else {
        counting.enumerate().for_each(|(number, pair)| write(pair, number));
    }
}

/// A body that is there and not coded.
fn plain<'b>(head: &Head<'_>, body: &'b [u8]) -> Option<&'b [u8]> {
    let coding = head.headers.first(b"content-encoding").unwrap_or(b"identity");
    (!body.is_empty() && coding.eq_ignore_ascii_case(b"identity")).then_some(body)
}

/// A body that is a form, or does not say that it is something else.
fn form<'b>(head: &Head<'_>, body: &'b [u8]) -> Option<&'b [u8]> {
    const FORM: &[u8] = b"application/x-www-form-urlencoded";
    let is_form = |kind: &[u8]| kind.split(|&byte| byte == b';').next().is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(FORM));
    plain(head, body).filter(|_| head.headers.first(b"content-type").is_none_or(is_form))
}

/// What is no one value is no key.
fn write_json(pointer: &str, body: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    match document.pointer(pointer)? {
        serde_json::Value::String(text) => out.extend_from_slice(Some(text.as_bytes()).filter(|text| is_value(text))?),
        number @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
            write!(out, "{number}").expect("writing to memory does not fail");
        }
        _ => return None,
    }
    Some(())
}

/// WHATWG URL, "application/x-www-form-urlencoded parsing": the first field of this name, decoded.
fn write_form_field(wanted: &str, body: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    for pair in body.split(|&byte| byte == b'&') {
        let (name, value) = pair.split_at(memchr::memchr(b'=', pair).unwrap_or(pair.len()));
        write_decoded(name, out);
        let is_wanted = out[start..] == *wanted.as_bytes();
        out.truncate(start);
        if is_wanted {
            write_decoded(value.strip_prefix(b"=").unwrap_or(value), out);
            if is_value(&out[start..]) {
                return Some(());
            }
            out.truncate(start);
        }
    }
    None
}

/// A NUL would be taken for the end of a part of a key.
fn is_value(text: &[u8]) -> bool {
    !text.is_empty() && memchr::memchr(0, text).is_none()
}

/// As in queries and forms: `+` is a space, `%41` is an `A`.
pub fn write_decoded(text: &[u8], out: &mut Vec<u8>) {
    let digit = |at: usize| text.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'+', ..) => out.push(b' '),
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            _ => out.push(byte),
        }
        at += 1;
    }
}

/// The address with only its first bits: `bits` of an IPv4 address, twice as many of an IPv6 address, as providers give them out.
fn network(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(128 - 2 * u32::from(bits)).unwrap_or(0)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::{Limits, Progress, RequestHead};
    use crate::route::Headers;

    const REQUEST: &[u8] =
        b"GET /users/42/cart?id=7&empty=&id=8&utm_source=x HTTP/1.1\r\nHost: Shop.Example\r\nX-User: Ann\r\nCookie: a=1; uid=bob\r\n";

    /// The key of a request with these fields and this body.
    fn key_of(key: &RequestKey, fields: &str, body: Option<&[u8]>) -> Option<String> {
        let bytes = [REQUEST, fields.as_bytes(), b"\r\n"].concat();
        let mut request = RequestHead::new();
        let limits = Limits { header_bytes: 4096, headers: 10, uri_bytes: 4096 };
        assert_eq!(request.parse(&bytes, &limits), Ok(Progress::Complete));
        let head = Head {
            method: b"GET",
            scheme: "http",
            authority: b"Shop.Example",
            host: b"Shop.Example",
            path: b"/users/42/cart",
            query: Some(b"id=7&empty=&id=8&utm_source=x"),
            compare_path: b"/users/42/cart",
            headers: Headers { bytes: &bytes, fields: &request.fields },
            client: Some(IpAddr::from([192, 0, 2, 77])),
            tls: None,
            request_id: b"",
            listener: "web",
        };
        let mut found = b"before".to_vec();
        match find(key, &head, body, &mut found) {
            Found::Here => Some(String::from_utf8(found).unwrap().strip_prefix("before").unwrap().to_owned()),
            Found::Nowhere => {
                assert_eq!(found, b"before");
                None
            }
            Found::InBody(_) => Some("in the body".to_owned()),
        }
    }

    fn of(sources: &[&str]) -> RequestKey {
        RequestKey::of(sources.iter().map(|text| KeySource::parse(text).unwrap()).collect())
    }

    fn joined(sources: &[&str]) -> RequestKey {
        let key = of(sources);
        RequestKey { first: vec![key.first.concat()], ..key }
    }

    #[track_caller]
    fn check(sources: &[&str], expected: Option<&str>) {
        assert_eq!(key_of(&of(sources), "", Some(b"")).as_deref(), expected, "{sources:?}");
    }

    #[test]
    fn keys_are_read_where_they_are() {
        check(&["path"], Some("/users/42/cart"));
        check(&["uri"], Some("/users/42/cart?id=7&empty=&id=8&utm_source=x"));
        check(&["host"], Some("shop.example"));
        check(&["method"], Some("GET"));
        check(&["client-ip"], Some("192.0.2.77"));
        check(&["client-ip/24"], Some("192.0.2.0"));
        check(&["header:x-user"], Some("Ann"));
        check(&["cookie:uid"], Some("bob"));
        check(&["query:id"], Some("7"));
        check(&["segment:2"], Some("42"));
        check(&["path~^/users/([0-9]+)"], Some("42"));
    }

    #[test]
    fn the_first_source_that_is_there_counts() {
        check(&["header:none", "query:empty", "segment:4", "cookie:uid", "path"], Some("bob"));
        check(&["header:none", "tls:sni", "path~^/x/(.)"], None);
    }

    #[test]
    fn a_network_is_twice_as_long_in_ipv6() {
        let ip = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        assert_eq!(network(ip, 24), "2001:db8:1::".parse::<IpAddr>().unwrap());
        assert_eq!(network(ip, 32), "2001:db8:1:2::".parse::<IpAddr>().unwrap());
        assert_eq!(network(IpAddr::from([10, 1, 2, 3]), 32), IpAddr::from([10, 1, 2, 3]));
    }

    #[test]
    fn joined_keys_need_all_their_parts_and_keep_them_apart() {
        assert_eq!(key_of(&joined(&["host", "header:x-user"]), "", None).as_deref(), Some("shop.example\0Ann"));
        assert_eq!(key_of(&joined(&["host", "header:none"]), "", None), None);
        let two = joined(&["header:a", "header:b"]);
        assert_ne!(key_of(&two, "A: x\r\nB: yz\r\n", None), key_of(&two, "A: xy\r\nB: z\r\n", None));
    }

    #[test]
    fn a_tag_is_what_counts_if_there_is_one() {
        let tagged = RequestKey { tag: Some((b'{', b'}')), ..of(&["header:k"]) };
        for (key, expected) in [
            ("{user1}.following", "user1"),
            ("a{user1}b", "user1"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("foo{bar", "foo{bar"),
            ("foo}bar{", "foo}bar{"),
        ] {
            assert_eq!(key_of(&tagged, &format!("K: {key}\r\n"), None).as_deref(), Some(expected), "{key}");
        }
    }

    #[test]
    fn letters_are_made_small_where_that_is_asked_for() {
        let small = RequestKey { lower: true, ..of(&["header:x-user"]) };
        assert_eq!(key_of(&small, "", None).as_deref(), Some("ann"));
    }

    #[test]
    fn a_query_counts_as_far_as_it_is_kept() {
        let parameters = |names: &[&str]| names.iter().map(|name| crate::value::Parameter((*name).to_owned())).collect::<Vec<_>>();
        let with = |query: Query| key_of(&RequestKey { query, ..of(&["uri"]) }, "", None).unwrap();
        let dropped = Query { drop: parameters(&["utm_*", "empty"]), ..Query::default() };
        assert_eq!(with(dropped), "/users/42/cart?id=7&id=8");
        assert_eq!(with(Query { keep: Some(parameters(&["empty"])), ..Query::default() }), "/users/42/cart?empty=");
        assert_eq!(with(Query { keep: Some(Vec::new()), ..Query::default() }), "/users/42/cart");
        assert_eq!(with(Query { sort: true, ..Query::default() }), "/users/42/cart?empty=&id=7&id=8&utm_source=x");
    }

    #[test]
    fn a_body_is_asked_for_only_when_its_turn_comes() {
        assert_eq!(key_of(&of(&["header:x-user", "json:/id"]), "", None).as_deref(), Some("Ann"));
        assert_eq!(key_of(&of(&["json:/id", "path"]), "", None).as_deref(), Some("in the body"));
        assert_eq!(key_of(&of(&["json:/id", "path"]), "", Some(b"")).as_deref(), Some("/users/42/cart"));
        assert_eq!(key_of(&joined(&["path", "form:id"]), "", None).as_deref(), Some("in the body"));
    }

    #[test]
    fn values_in_json_are_found_by_pointer() {
        let body = br#"{"user": {"id": "u1", "n": 7.5, "ok": true, "none": null, "list": [1, "two"], "a/b": "slash", "empty": "", "nul": "a\u0000"}}"#;
        let find = |pointer: &str| key_of(&of(&[pointer]), "", Some(body));
        for (pointer, expected) in [("id", "u1"), ("n", "7.5"), ("ok", "true"), ("list/1", "two"), ("a~1b", "slash")] {
            assert_eq!(find(&format!("json:/user/{pointer}")).as_deref(), Some(expected), "{pointer}");
        }
        for pointer in ["none", "list", "empty", "nul", "missing"] {
            assert_eq!(find(&format!("json:/user/{pointer}")), None, "{pointer}");
        }
        assert_eq!(key_of(&of(&["json:/a"]), "", Some(b"{\"a\": 1")), None, "broken");
        assert_eq!(key_of(&of(&["json:/a"]), "Content-Encoding: gzip\r\n", Some(b"{\"a\": 1}")), None, "coded");
    }

    #[test]
    fn fields_of_forms_are_decoded() {
        let find = |kind: &str| key_of(&of(&["form:a b"]), kind, Some(b"x=1&a+b=&a%20b=J%C3%B6rg+S.&a+b=2"));
        assert_eq!(find("").as_deref(), Some("Jörg S."));
        assert_eq!(find("Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n").as_deref(), Some("Jörg S."));
        assert_eq!(find("Content-Type: text/plain\r\n"), None);
    }
}
