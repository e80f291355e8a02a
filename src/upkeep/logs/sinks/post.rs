//! Batches of records in a POST: as lines, or as OTLP.
//!
//! Keeps no connection: a batch has time.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Request;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Offered;
use crate::services::logs::{Batch, Posting};
use crate::tls::Peer;
use crate::upkeep::probe::line::Line;
use crate::upstream::health::Reason;

/// Of an answer to a post, of which nothing is wanted.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

pub(super) fn compressed(posting: &Posting, body: Vec<u8>) -> Bytes {
    if !posting.gzip {
        return body.into();
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // A vector takes whatever is written.
    let written = encoder.write_all(&body).and_then(|()| encoder.finish());
    written.unwrap_or_default().into()
}

pub(super) async fn post(posting: &Posting, peer: Option<&Peer>, body: &Bytes, kind: &str) -> Result<Offered, Reason> {
    let line = Line::to(posting.url.address.clone(), peer, posting.timeout);
    let wire = line.open(Some(&[b"http/1.1"])).await?;
    let broken = |error: hyper::Error| Reason::new(format!("no answer: {error}"));
    let mut request = Request::post(posting.url.path.as_str())
        .header(HOST, &posting.url.authority)
        .header(USER_AGENT, "attache")
        .header(CONTENT_TYPE, kind);
    if posting.gzip {
        request = request.header(CONTENT_ENCODING, "gzip");
    }
    for (name, value) in &posting.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(body.clone())).map_err(|error| Reason::new(error.to_string()))?;
    let (status, later, body, connection) = line
        .in_time(async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await.map_err(broken)?;
            let connection = tokio::spawn(connection);
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status().as_u16();
            let later = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
            Ok((status, later, answer.into_body(), connection))
        })
        .await?;
    // Whether it comes to its end or not, the status counts.
    let _ = timeout(ANSWER_WITHIN, Limited::new(body, ANSWER_BYTES_MAX).collect()).await;
    connection.abort();
    match status {
        200..300 => Ok(Offered::Taken),
        429 | 503 if later.is_some() => Ok(Offered::Later(later.unwrap_or_default())),
        408 | 425 | 429 => Err(Reason::new(format!("answered {status}"))),
        400..500 if posting.drops_refused => Ok(Offered::Refused),
        status => Err(Reason::new(format!("answered {status}"))),
    }
}

/// Records as OTLP has them in JSON: `opentelemetry-proto`, `collector/logs/v1`.
pub(super) fn otlp(batch: &Batch, name: &str) -> Vec<u8> {
    let resource = json!({ "attributes": [{ "key": "service.name", "value": { "stringValue": name } }] });
    let mut out =
        format!("{{\"resourceLogs\":[{{\"resource\":{resource},\"scopeLogs\":[{{\"scope\":{{\"name\":\"attache\"}},\"logRecords\":[")
            .into_bytes();
    // One by one: as a whole they would take many times their room.
    for (at, record) in batch.records().enumerate() {
        out.extend_from_slice(if at > 0 { b"," } else { b"" });
        // A vector takes whatever is written.
        let _ = serde_json::to_writer(&mut out, &otlp_record(record));
    }
    out.extend_from_slice(b"]}]}]}");
    out
}

fn otlp_record(record: &str) -> Value {
    // Nested deeper than anybody reads, it goes as text.
    let Ok(Value::Object(mut record)) = serde_json::from_str(record) else { return json!({ "body": { "stringValue": record } }) };
    let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    let nanos = text(record.remove("ts")).and_then(|ts| ts.parse::<jiff::Timestamp>().ok()).map(|ts| ts.as_nanosecond().to_string());
    let level = text(record.remove("level"));
    let number = match level.as_deref() {
        Some("trace") => 1,
        Some("debug") => 5,
        Some("info") => 9,
        Some("warn") => 13,
        Some("error") => 17,
        Some("fatal") => 21,
        _ => 0,
    };
    let msg = record.remove("msg").map_or(json!({ "stringValue": "" }), any_value);
    let attributes: Vec<Value> = record.into_iter().map(|(key, value)| json!({ "key": key, "value": any_value(value) })).collect();
    json!({
        "timeUnixNano": nanos.clone().unwrap_or_else(|| "0".to_owned()),
        "observedTimeUnixNano": nanos.unwrap_or_else(|| "0".to_owned()),
        "severityNumber": number,
        "severityText": level.unwrap_or_default(),
        "body": msg,
        "attributes": attributes,
    })
}

fn any_value(value: Value) -> Value {
    match value {
        Value::String(text) => json!({ "stringValue": text }),
        Value::Bool(truth) => json!({ "boolValue": truth }),
        Value::Number(number) if number.is_i64() => json!({ "intValue": number.to_string() }),
        Value::Number(number) => json!({ "doubleValue": number }),
        Value::Null => json!({}),
        Value::Array(values) => json!({ "arrayValue": { "values": values.into_iter().map(any_value).collect::<Vec<_>>() } }),
        Value::Object(map) => {
            let values: Vec<Value> = map.into_iter().map(|(key, value)| json!({ "key": key, "value": any_value(value) })).collect();
            json!({ "kvlistValue": { "values": values } })
        }
    }
}
