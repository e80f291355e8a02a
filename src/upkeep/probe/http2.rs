//! One request over HTTP/2, on a connection of its own.
//!
//! Looks into no body; gRPC does, with what is here.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use h2::client::Builder;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, Uri};

use super::http1::AGENT;
use crate::dial::Wire;
use crate::upstream::health::Reason;

/// Of the fields of an answer, as HTTP/2 counts them.
const HEADER_LIST_BYTES: u32 = 32 << 10;
/// Of a body, where one is read.
const BODY_BYTES_MAX: usize = 64 << 10;

/// A request without its body.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) scheme: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a PathAndQuery,
    pub(super) fields: &'a [(&'static str, &'static str)],
}

/// What came back.
pub(super) struct Answer {
    pub(super) head: Response<()>,
    pub(super) body: Bytes,
    pub(super) trailers: HeaderMap,
}

pub(super) async fn get(wire: Wire, scheme: &str, host: &str, path: &PathAndQuery) -> Result<u16, Reason> {
    let ask = Ask { method: Method::GET, scheme, host, path, fields: &[("accept", "*/*")] };
    Ok(exchange(wire, ask, None, false).await?.head.status().as_u16())
}

/// Sends a request and takes in its answer; without the body unless `reads_body`.
pub(super) async fn exchange(wire: Wire, ask: Ask<'_>, body: Option<Bytes>, reads_body: bool) -> Result<Answer, Reason> {
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(HEADER_LIST_BYTES).max_concurrent_streams(0).initial_max_send_streams(1);
    let (send, connection) = builder.handshake::<_, Bytes>(wire).await.map_err(|error| broken(&error))?;
    let mut connection = pin!(connection);
    let talk = async move {
        let mut send = send.ready().await.map_err(|error| broken(&error))?;
        let (response, mut stream) = send.send_request(request(&ask)?, body.is_none()).map_err(|error| broken(&error))?;
        if let Some(body) = body {
            stream.send_data(body, true).map_err(|error| broken(&error))?;
        }
        let (parts, mut incoming) = response.await.map_err(|error| broken(&error))?.into_parts();
        let head = Response::from_parts(parts, ());
        let mut body = BytesMut::new();
        let mut trailers = HeaderMap::new();
        if reads_body {
            while let Some(piece) = incoming.data().await {
                let piece = piece.map_err(|error| broken(&error))?;
                if body.len() + piece.len() > BODY_BYTES_MAX {
                    return Err(Reason::new("its answer is too long"));
                }
                // Only fails on a stream that has ended, which the next read tells.
                let _ = incoming.flow_control().release_capacity(piece.len());
                body.extend_from_slice(&piece);
            }
            trailers = incoming.trailers().await.map_err(|error| broken(&error))?.unwrap_or_default();
        }
        Ok(Answer { head, body: body.freeze(), trailers })
    };
    tokio::select! {
        biased;
        answer = talk => answer,
        ended = &mut connection => Err(match ended {
            Ok(()) => Reason::new("it closed without an answer"),
            Err(error) => broken(&error),
        }),
    }
}

fn request(ask: &Ask<'_>) -> Result<Request<()>, Reason> {
    let uri = Uri::builder().scheme(ask.scheme).authority(ask.host).path_and_query(ask.path.clone()).build();
    let mut request = Request::builder().method(ask.method.clone()).uri(uri.map_err(|error| Reason::new(error.to_string()))?);
    for (name, value) in [("user-agent", AGENT)].iter().chain(ask.fields) {
        request = request.header(*name, *value);
    }
    request.body(()).map_err(|error| Reason::new(error.to_string()))
}

fn broken(error: &h2::Error) -> Reason {
    Reason::new(format!("no answer over HTTP/2: {error}"))
}
