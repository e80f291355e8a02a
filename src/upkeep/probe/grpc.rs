//! `grpc.health.v1.Health/Check`: what a server of gRPC says of itself or of one of its services.
//!
//! Knows the two messages of that one call, and no more of protobuf than they take.

use bytes::{BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};

use super::http2::{self, Ask};
use super::line::Line;
use crate::upstream::health::Reason;

const PATH: &str = "/grpc.health.v1.Health/Check";
const SERVING: u64 = 1;

pub(in crate::upkeep) async fn check(line: &Line<'_>, service: &str) -> Result<(), Reason> {
    let wire = line.open(Some(&[b"h2"])).await?;
    if wire.is_tls() && !wire.has_chosen_http2() {
        return Err(Reason::new("it did not agree to HTTP/2 (ALPN), which gRPC takes"));
    }
    let host = line.host();
    let path = PathAndQuery::from_static(PATH);
    let fields = &[("content-type", "application/grpc"), ("te", "trailers")];
    let ask = Ask { method: Method::POST, scheme: line.scheme(), host: &host, path: &path, fields };
    let answer = line.in_time(http2::exchange(wire, ask, Some(question(service)), true)).await?;
    let status = answer.head.status().as_u16();
    if status != 200 {
        return Err(Reason::new(format!("answered {status}, which is no gRPC")));
    }
    // An answer without a message has its status in the head.
    let trailers = if answer.trailers.is_empty() { answer.head.headers() } else { &answer.trailers };
    check_status(trailers)?;
    match serving_status(&answer.body) {
        Some(SERVING) => Ok(()),
        Some(0) => Err(Reason::new("UNKNOWN")),
        Some(2) => Err(Reason::new("NOT_SERVING")),
        Some(3) => Err(Reason::new("SERVICE_UNKNOWN")),
        Some(other) => Err(Reason::new(format!("serving status {other}"))),
        None => Err(Reason::new("its answer is no HealthCheckResponse")),
    }
}

fn check_status(trailers: &HeaderMap) -> Result<(), Reason> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => Ok(()),
        "" => Err(Reason::new("its answer has no grpc-status")),
        "5" => Err(Reason::new("it does not know this service (grpc-status 5)")),
        "12" => Err(Reason::new("it does not implement grpc.health.v1 (grpc-status 12)")),
        status => Err(Reason::new(format!("grpc-status {status} {}", text("grpc-message")))),
    }
}

/// `HealthCheckRequest { service }`, as one message of a stream.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

/// `status` of the one `HealthCheckResponse` in `body`; `None` if it is none.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (&[is_compressed, a, b, c, d], mut message) = body.split_first_chunk::<5>()?;
    if is_compressed != 0 || message.len() != u32::from_be_bytes([a, b, c, d]) as usize {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_message_of_protobuf() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(question(&"x".repeat(200))[5..8], [0x0a, 0xc8, 1]);
    }

    #[test]
    fn an_answer_may_hold_what_is_not_known_yet() {
        let framed = |message: &[u8]| [&[0, 0, 0, 0, message.len() as u8], message].concat();
        assert_eq!(serving_status(&framed(&[0x08, 1])), Some(1));
        assert_eq!(serving_status(&framed(&[])), Some(0));
        assert_eq!(serving_status(&framed(&[0x12, 1, b'x', 0x08, 2, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8])), Some(2));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for wrong in [
            &[][..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 0, 0, 0, 1, 8],
            &[0, 0, 0, 0, 2, 0x12, 9],
            &[0, 0, 0, 0, 2, 0x0b, 0],
            &[0, 0, 0, 0, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
            &[0, 255, 255, 255, 255],
        ] {
            assert_eq!(serving_status(wrong), None, "{wrong:?}");
        }
    }
}
