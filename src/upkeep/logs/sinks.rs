//! Where records go: standard output, a file, whoever takes them by HTTP.
//!
//! Gives nothing up: what a sink does not take is offered again, later and later, while reading waits. Only who is told to drop drops.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Request;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::algo::dice;
use crate::services::logs::{Batch, Flow, Posting, SinkSettings};
use crate::upkeep::probe::line::Line;
use crate::upstream::health::Reason;

/// One of them.
pub(super) enum Sink {
    Stdout,
    File(Appended),
    Http(Posting),
    Otlp(Posting),
}

/// What became of an offer.
enum Offered {
    Taken,
    /// Not before this.
    Later(Duration),
    /// Never.
    Refused,
}

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Of an answer to a post, of which nothing is wanted.
const ANSWER_BYTES_MAX: usize = 64 << 10;

impl Sink {
    pub(super) fn new(settings: &SinkSettings) -> Self {
        match settings {
            SinkSettings::Stdout => Self::Stdout,
            SinkSettings::File(path) => Self::File(Appended::new(path)),
            SinkSettings::Http(posting) => Self::Http(posting.clone()),
            SinkSettings::Otlp(posting) => Self::Otlp(posting.clone()),
        }
    }

    /// Whether few records in one go cost as much as many.
    pub(super) fn is_far(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Otlp(_))
    }

    /// Returns when they have been taken, or it was told to drop them.
    pub(super) async fn deliver(&mut self, batch: &Batch, flow: &Flow) {
        let mut pause = PAUSE_MIN;
        let mut seed = batch.bytes().len() as u64;
        // How much of it a file has already.
        let mut done = 0;
        let posted = match self {
            Self::Stdout | Self::File(_) => None,
            Self::Http(posting) => Some(compressed(posting, batch.bytes().to_vec())),
            Self::Otlp(posting) => Some(compressed(posting, otlp(batch, &flow.name).into_bytes())),
        };
        let mut is_said = false;
        loop {
            let offered = match (&mut *self, &posted) {
                (Self::Stdout, _) => {
                    write_out(&batch.bytes()[done..], &mut done).map(|()| Offered::Taken).map_err(|error| error.to_string())
                }
                (Self::File(file), _) => file.append(batch.bytes(), &mut done).map(|()| Offered::Taken).map_err(|error| error.to_string()),
                (Self::Http(posting), Some(body)) => post(posting, body, "application/x-ndjson").await.map_err(|reason| reason.to_string()),
                (Self::Otlp(posting), Some(body)) => post(posting, body, "application/json").await.map_err(|reason| reason.to_string()),
                (Self::Http(_) | Self::Otlp(_), None) => return,
            };
            let wait = match offered {
                Ok(Offered::Taken) => {
                    if is_said {
                        tracing::info!(log = flow.name, "a sink takes records again");
                    }
                    return;
                }
                Ok(Offered::Refused) => {
                    flow.metrics.dropped(batch.len() as u64);
                    tracing::warn!(log = flow.name, records = batch.len(), "a sink refuses records for good; they are dropped");
                    return;
                }
                Ok(Offered::Later(wait)) => wait.clamp(PAUSE_MIN, PAUSE_MAX),
                Err(error) => {
                    if !std::mem::replace(&mut is_said, true) {
                        tracing::warn!(log = flow.name, error, "a sink does not take records; reading waits");
                    }
                    pause
                }
            };
            flow.metrics.failed();
            pause = (pause * 2).min(PAUSE_MAX);
            tokio::time::sleep(dice::jittered(&mut seed, wait)).await;
        }
    }

    /// What was taken is on disk after this, where the sink is one.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync(),
            Self::Stdout | Self::Http(_) | Self::Otlp(_) => Ok(()),
        }
    }
}

fn write_out(bytes: &[u8], done: &mut usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut rest = bytes;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                *done += count;
                rest = &rest[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

/// A file that grows. Whoever renames it gets a new one.
pub(super) struct Appended {
    path: PathBuf,
    file: Option<File>,
    looked: Instant,
}

/// Whether it is still where it was is looked at so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Appended {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, looked: Instant::now() }
    }

    /// From `done` on, which grows with what was written: a full disk may take a part.
    fn append(&mut self, bytes: &[u8], done: &mut usize) -> io::Result<()> {
        if self.looked.elapsed() >= LOOK_INTERVAL && *done == 0 {
            self.looked = Instant::now();
            let there = std::fs::metadata(&self.path).ok().map(|there| (there.dev(), there.ino()));
            let ours = self.file.as_ref().and_then(|file| file.metadata().ok()).map(|ours| (ours.dev(), ours.ino()));
            if there != ours {
                self.file = None;
            }
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(opened(&self.path)?),
        };
        while *done < bytes.len() {
            match file.write(&bytes[*done..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => *done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}

/// At its end. A line that a crash cut short goes: it comes again.
fn opened(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        // A pipe, or a terminal: nothing of it can be taken back.
        return OpenOptions::new().append(true).open(path);
    }
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut room = vec![0; 64 << 10];
    let length = end;
    while end > 0 {
        let begin = end.saturating_sub(room.len() as u64);
        let count = (end - begin) as usize;
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut room[..count])?;
        if let Some(at) = memchr::memrchr(b'\n', &room[..count]) {
            end = begin + at as u64 + 1;
            break;
        }
        end = begin;
    }
    if end == length {
        return Ok(file);
    }
    let mut begins = vec![0; RECORD_BEGINS.len().min((length - end) as usize)];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut begins)?;
    if RECORD_BEGINS.starts_with(&begins) {
        file.set_len(end)?;
    } else {
        // Somebody else's line: it is ended instead.
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// So does every record begin, and what a crash left of one.
const RECORD_BEGINS: &[u8] = b"{\"ts\":\"";

fn compressed(posting: &Posting, body: Vec<u8>) -> Bytes {
    if !posting.gzip {
        return body.into();
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // A vector takes whatever is written.
    let written = encoder.write_all(&body).and_then(|()| encoder.finish());
    written.unwrap_or_default().into()
}

async fn post(posting: &Posting, body: &Bytes, kind: &str) -> Result<Offered, Reason> {
    let line = Line::to(posting.url.address.clone(), None, posting.timeout);
    let wire = line.open(None).await?;
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
    line.in_time(async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status().as_u16();
        let later = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        // Whether it comes to its end or not, the status counts.
        let _ = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        connection.abort();
        match status {
            200..300 => Ok(Offered::Taken),
            429 | 503 if later.is_some() => Ok(Offered::Later(later.unwrap_or_default())),
            408 | 425 | 429 => Err(Reason::new(format!("answered {status}"))),
            400..500 if posting.drops_refused => Ok(Offered::Refused),
            status => Err(Reason::new(format!("answered {status}"))),
        }
    })
    .await
}

/// Records as OTLP has them in JSON: `opentelemetry-proto`, `collector/logs/v1`.
fn otlp(batch: &Batch, name: &str) -> String {
    let records: Vec<Value> = batch.records().map(otlp_record).collect();
    json!({ "resourceLogs": [{
        "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": name } }] },
        "scopeLogs": [{ "scope": { "name": "attache" }, "logRecords": records }],
    }] })
    .to_string()
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
