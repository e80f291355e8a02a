//! A document by HTTP/1.1, on a connection of its own.
//!
//! Follows no redirect and undoes no compression, since it asks for none.

use std::pin::pin;

use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::dial::Wire;
use crate::upstream::health::Reason;
use crate::value::Url;

/// The longest document that a check reads.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;
/// Of a head.
const HEADERS_MAX: usize = 200;
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// The status and the body, which may have `most` bytes; with 0, none of it is read.
pub(super) async fn get(wire: Wire, url: &Url, most: usize) -> Result<(u16, Bytes), Reason> {
    let request = Request::get(url.path.as_str())
        .header(HOST, &url.authority)
        .header(USER_AGENT, "attache-health")
        .header(ACCEPT, "*/*")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Reason::new(error.to_string()))?;
    let broken = |error: hyper::Error| Reason::new(format!("no answer: {error}"));
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(wire))
        .await
        .map_err(broken)?;
    let mut connection = pin!(connection);
    let asked = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status().as_u16();
        if most == 0 {
            return Ok((status, Bytes::new()));
        }
        let body = Limited::new(answer.into_body(), most).collect().await;
        let body = body.map_err(|error| Reason::new(format!("no whole answer of at most {most} bytes: {error}")))?;
        Ok((status, body.to_bytes()))
    };
    let mut asked = pin!(asked);
    tokio::select! {
        biased;
        answer = &mut asked => answer,
        ended = &mut connection => {
            // What has arrived can still be read.
            ended.map_err(broken)?;
            asked.await
        }
    }
}
