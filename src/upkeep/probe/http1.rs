//! A request over HTTP/1.1, and the status that comes back.
//!
//! Reads no body: the head says it all.

use http::uri::PathAndQuery;

use super::line::Talk;
use crate::dial::Wire;
use crate::proto::http1::{Limits, Progress, ResponseHead};
use crate::upstream::health::Reason;

pub(super) const AGENT: &str = "attache-health";

const LIMITS: Limits = Limits { header_bytes: 32 << 10, headers: 200, uri_bytes: 0 };
/// Interim answers to one request.
const INTERIM_MAX: u32 = 8;

pub(super) async fn get(wire: Wire, host: &str, path: &PathAndQuery) -> Result<u16, Reason> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    ask(wire, request.as_bytes()).await
}

/// The status of the answer to a request, or to the rest of one.
pub(in crate::upkeep) async fn ask(wire: Wire, request: &[u8]) -> Result<u16, Reason> {
    let mut talk = Talk::new(wire);
    talk.say(request).await?;
    for _ in 0..=INTERIM_MAX {
        let status = talk.hear(status).await?;
        if status >= 200 {
            talk.end();
            return Ok(status);
        }
    }
    Err(Reason::new("too many interim answers"))
}

/// Of the head at the front of `bytes`, if all of it is there.
fn status(bytes: &[u8]) -> Result<Option<(u16, usize)>, Reason> {
    let mut head = ResponseHead::new();
    match head.parse(bytes, &LIMITS) {
        Ok(Progress::Partial) => Ok(None),
        Ok(Progress::Complete) => Ok(Some((head.status, head.bytes))),
        Err(error) => Err(Reason::new(format!("its answer is not HTTP ({})", error.as_str()))),
    }
}
