//! Where records go: standard output, a file, whoever takes them by HTTP or as syslog.
//!
//! Gives nothing up: what a sink does not take is offered again, later and later, while reading waits. Only who is told to drop drops.

mod file;
mod post;
mod syslog;

use std::io::{self, Write as _};
use std::time::Duration;

use bytes::Bytes;

use crate::algo::dice;
use crate::services::logs::{Batch, Flow, Posting, SinkSettings};
use crate::tls::Peer;
use file::Appended;
use syslog::{Messages, Told};

/// One of them.
pub(super) enum Sink {
    Stdout,
    File(Appended),
    Http(Posting, Option<Peer>),
    Otlp(Posting, Option<Peer>),
    Syslog(Told),
}

/// What became of an offer.
enum Offered {
    Taken,
    /// Not before this.
    Later(Duration),
    /// Never.
    Refused,
}

/// A batch as a sink takes it, and how much of it that has already.
enum Parcel<'b> {
    Lines(&'b [u8], usize),
    Body(Bytes),
    Messages(Messages),
}

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);

impl Sink {
    pub(super) fn new(settings: &SinkSettings, peer: Option<&Peer>) -> Self {
        match settings {
            SinkSettings::Stdout => Self::Stdout,
            SinkSettings::File(path) => Self::File(Appended::new(path)),
            SinkSettings::Http(posting) => Self::Http(posting.clone(), peer.cloned()),
            SinkSettings::Otlp(posting) => Self::Otlp(posting.clone(), peer.cloned()),
            SinkSettings::Syslog(telling) => Self::Syslog(Told::new(telling, peer)),
        }
    }

    /// Whether few records in one go cost as much as many.
    pub(super) fn is_far(&self) -> bool {
        match self {
            Self::Http(..) | Self::Otlp(..) => true,
            Self::Syslog(told) => told.is_stream(),
            Self::Stdout | Self::File(_) => false,
        }
    }

    /// Returns when they have been taken, or it was told to drop them.
    pub(super) async fn deliver(&mut self, batch: &Batch, flow: &Flow) {
        let mut pause = PAUSE_MIN;
        let mut seed = batch.bytes().len() as u64;
        let mut parcel = self.packed(batch, flow);
        let mut is_said = false;
        loop {
            let wait = match self.offer(&mut parcel, flow).await {
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
                Ok(Offered::Later(wait)) => {
                    if !std::mem::replace(&mut is_said, true) {
                        tracing::warn!(log = flow.name, ?wait, "a sink wants records later; reading waits");
                    }
                    wait.clamp(PAUSE_MIN, PAUSE_MAX)
                }
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

    fn packed<'b>(&self, batch: &'b Batch, flow: &Flow) -> Parcel<'b> {
        match self {
            Self::Stdout | Self::File(_) => Parcel::Lines(batch.bytes(), 0),
            Self::Http(posting, _) => Parcel::Body(post::compressed(posting, batch.bytes().to_vec())),
            Self::Otlp(posting, _) => Parcel::Body(post::compressed(posting, post::otlp(batch, &flow.name))),
            Self::Syslog(told) => Parcel::Messages(told.messages(batch, flow)),
        }
    }

    async fn offer(&mut self, parcel: &mut Parcel<'_>, flow: &Flow) -> Result<Offered, String> {
        let taken = |()| Offered::Taken;
        match (self, parcel) {
            (Self::Stdout, Parcel::Lines(bytes, done)) => write_out(bytes, done).map(taken).map_err(|error| error.to_string()),
            (Self::File(file), Parcel::Lines(bytes, done)) => file.append(bytes, done).map(taken).map_err(|error| error.to_string()),
            (Self::Http(posting, peer), Parcel::Body(body)) => {
                post::post(posting, peer.as_ref(), body, "application/x-ndjson").await.map_err(|reason| reason.to_string())
            }
            (Self::Otlp(posting, peer), Parcel::Body(body)) => {
                post::post(posting, peer.as_ref(), body, "application/json").await.map_err(|reason| reason.to_string())
            }
            (Self::Syslog(told), Parcel::Messages(messages)) => {
                told.tell(messages, flow).await.map(taken).map_err(|reason| reason.to_string())
            }
            // `packed` pairs them.
            _ => Ok(Offered::Taken),
        }
    }

    /// What was taken is on disk after this, where the sink is one.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync(),
            Self::Stdout | Self::Http(..) | Self::Otlp(..) | Self::Syslog(_) => Ok(()),
        }
    }
}

fn write_out(bytes: &[u8], done: &mut usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut rest = &bytes[*done..];
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
