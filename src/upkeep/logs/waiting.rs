//! What others than files bring, from when it comes until sinks have it.
//!
//! Hears nothing itself: `heard` does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::checkpoint::Checkpoint;
use super::slowlog;
use crate::proto::logs::{Assembler, Entry};
use crate::services::logs::{Batch, Flow};

/// What others than files bring.
pub(super) struct Arrived {
    pub(super) source: Arc<str>,
    /// Lines of one stream belong together.
    pub(super) stream: u64,
    pub(super) what: What,
    /// Of the bytes that may wait.
    pub(super) _held: OwnedSemaphorePermit,
}

pub(super) enum What {
    /// One line, without its end.
    Line(Vec<u8>),
    /// Whole documents, and whom to tell that sinks have them.
    Posted(Vec<u8>, oneshot::Sender<()>),
    /// Of a Redis, and how far that is.
    Slow(Vec<String>, String, slowlog::Seen),
}

/// A line that is nowhere else.
pub(super) struct Heard {
    pub(super) source: Arc<str>,
    pub(super) stream: u64,
    pub(super) line: Vec<u8>,
}

/// What is on its way: posts that are too long for one batch, and who is to be told when sinks have a batch.
#[derive(Default)]
pub(super) struct Waiting {
    post: Option<Post>,
    told: Vec<oneshot::Sender<()>>,
    seen: Vec<(String, slowlog::Seen)>,
    /// Lines since the last that sinks have, which nobody would bring again.
    pub(super) heard: Vec<Heard>,
}

/// Of which some lines were taken.
struct Post {
    source: Arc<str>,
    lines: Vec<u8>,
    at: usize,
    assembler: Assembler,
    taken: oneshot::Sender<()>,
    _held: OwnedSemaphorePermit,
}

/// By what lines come from, and which stream of it.
pub(super) type Assemblers = HashMap<(Arc<str>, u64), Assembler>;

impl Waiting {
    pub(super) fn take(&mut self, arrived: Arrived, flow: &Flow, assemblers: &mut Assemblers, at: &str, now: Instant, batch: &mut Batch) {
        let Arrived { source, stream, what, _held: held } = arrived;
        match what {
            What::Line(line) => self.line(Heard { source, stream, line }, flow, assemblers, at, now, batch),
            // Who was told that it was not taken says it again.
            What::Posted(_, taken) if taken.is_closed() => {}
            What::Posted(lines, taken) => {
                self.post = Some(Post { source, lines, at: 0, assembler: Assembler::default(), taken, _held: held });
                self.give(flow, at, now, batch);
            }
            What::Slow(lines, name, seen) => {
                for line in lines {
                    flow.take_json(&line, &source, at, batch);
                }
                self.seen.push((name, seen));
            }
        }
    }

    pub(super) fn line(&mut self, heard: Heard, flow: &Flow, assemblers: &mut Assemblers, at: &str, now: Instant, batch: &mut Batch) {
        let Heard { source, stream, line } = &heard;
        let assembler = assemblers.entry((Arc::clone(source), *stream)).or_default();
        assembler.bytes(flow.rules(), line, 0, now, &mut |entry: Entry<'_>| flow.take(&entry, source, at, batch));
        self.heard.push(heard);
    }

    /// Has a batch take of the post what it has room for; `false` if there is none.
    pub(super) fn give(&mut self, flow: &Flow, at: &str, now: Instant, batch: &mut Batch) -> bool {
        let Some(mut post) = self.post.take() else { return false };
        let rules = flow.rules();
        while post.at < post.lines.len() && !batch.is_full() {
            let rest = &post.lines[post.at..];
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            post.at += end + 1;
            if end > 0 || rules.multiline.is_some() {
                post.assembler.bytes(rules, &rest[..end], 0, now, &mut |entry: Entry<'_>| flow.take(&entry, &post.source, at, batch));
            }
        }
        if post.at < post.lines.len() {
            self.post = Some(post);
            return true;
        }
        post.assembler.flush(&mut |entry| flow.take(&entry, &post.source, at, batch));
        self.told.push(post.taken);
        true
    }

    pub(super) fn has_more(&self) -> bool {
        self.post.is_some()
    }

    pub(super) fn commit(&mut self, checkpoint: &mut Checkpoint) {
        self.heard.clear();
        for (name, seen) in self.seen.drain(..) {
            checkpoint.put(&name, serde_json::to_value(seen).ok());
        }
    }

    pub(super) fn tell(&mut self) {
        for told in self.told.drain(..) {
            // It may have gone.
            let _ = told.send(());
        }
    }
}
