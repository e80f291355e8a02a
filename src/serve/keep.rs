//! Keeps an answer as it passes: the beginning of one to compare, or all of a leaf's, for which there must be room.
//!
//! Of an answer in lines it keeps none that is whole; those go on.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::pieces::Pieces;
use super::tape::Permits;
use super::watched::Watch;
use crate::proto::http1::{Known, ResponseHead};
use crate::services::mirror::Seen;

/// A body whose length is not known is kept in blocks of this size, so that what one gives back the next can have.
const BLOCK: usize = 16 << 10;

/// Keeps what is compared or merged of an answer.
pub struct Keep {
    seen: Seen,
    /// Full blocks of a body whose length is not known; what follows them is in `seen.body` until all is put together.
    blocks: Vec<Vec<u8>>,
    /// Bytes kept, in blocks or not.
    kept: usize,
    most: usize,
    is_longer: bool,
    /// For answers that are of no use unless they are whole: room for them.
    permits: Option<Permits>,
    gave_up: Option<&'static str>,
    /// Where whole lines go at once, of an answer that comes in lines.
    lines: Option<Rc<Pieces>>,
    comes_in_lines: bool,
}

impl Keep {
    /// The beginning of a body, and no more than `most` bytes.
    pub fn new(most: usize) -> Self {
        Self {
            seen: Seen::default(),
            blocks: Vec::new(),
            kept: 0,
            most,
            is_longer: false,
            permits: None,
            gave_up: None,
            lines: None,
            comes_in_lines: false,
        }
    }

    /// As [`Keep::new`], for an answer that ends where it is too long, or where there is no room for it.
    pub fn strict(most: usize, permits: Permits, lines: Option<Rc<Pieces>>) -> Self {
        Self { permits: Some(permits), lines, ..Self::new(most) }
    }

    /// Why the answer was ended, in a word.
    pub fn gave_up(&self) -> Option<&'static str> {
        self.gave_up
    }

    /// What was kept.
    pub fn into_seen(mut self) -> Seen {
        self.put_together();
        self.seen
    }

    /// What was kept of a strict one, and its room.
    pub fn into_parts(mut self) -> (Seen, Permits) {
        self.put_together();
        (self.seen, self.permits.expect("a strict one"))
    }

    /// An answer that was not sent by anybody.
    pub fn take(&mut self, status: u16, fields: Vec<(String, String)>, body: &[u8]) {
        self.restart(Seen { status, fields, body: Vec::new(), is_whole: false });
        // Who looks at it sees why it ended.
        let _ = self.passed(body);
        self.finish();
    }

    /// An answer begins, instead of any before.
    pub fn begin(&mut self, response: &ResponseHead, bytes: &[u8]) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let fields = response.fields.iter().filter(|field| field.known != Known::Connection);
        let fields = fields.map(|field| (text(field.name.of(bytes)).to_ascii_lowercase(), text(field.value.of(bytes)))).collect();
        self.restart(Seen { status: response.status, fields, body: Vec::new(), is_whole: false });
        let has = |name: &str, one_of: &[&str]| {
            let value = self.seen.fields.iter().find(|(have, _)| have == name).map_or("", |(_, value)| value.as_str());
            one_of.contains(&value.split(';').next().unwrap_or_default().trim())
        };
        self.comes_in_lines = self.lines.is_some()
            && (200..300).contains(&response.status)
            && has("content-type", &["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"])
            && has("content-encoding", &["", "identity"]);
        self.expect();
    }

    /// All of the answer has passed.
    pub fn finish(&mut self) {
        self.seen.is_whole = !self.is_longer;
    }

    fn restart(&mut self, seen: Seen) {
        self.forget();
        self.seen = seen;
        self.is_longer = false;
    }

    fn forget(&mut self) {
        self.seen.body = Vec::new();
        self.blocks.clear();
        self.kept = 0;
        if let Some(permits) = &mut self.permits {
            permits.give_back();
        }
    }

    /// Takes room for a body whose length is known, before any of it is read.
    fn expect(&mut self) {
        let length = self.seen.fields.iter().find(|(name, _)| name == "content-length").and_then(|(_, length)| length.parse::<u64>().ok());
        let (Some(length), false) = (length, self.permits.is_none() || self.comes_in_lines) else { return };
        match usize::try_from(length) {
            Ok(length) if length <= self.most => self.make_room(length),
            _ => self.give_up("too_large"),
        }
    }

    /// A body, or a block of it, of exactly this size: what a vector grows by itself would be nobody's.
    fn make_room(&mut self, size: usize) {
        if self.permits.as_mut().is_none_or(|permits| permits.take(size as u64)) {
            self.seen.body.reserve_exact(size);
        } else {
            self.give_up("no_memory");
        }
    }

    fn give_up(&mut self, reason: &'static str) {
        self.is_longer = true;
        self.forget();
        self.gave_up = self.permits.is_some().then_some(reason);
    }

    fn keep(&mut self, mut data: &[u8]) {
        if self.kept + data.len() > self.most {
            self.give_up("too_large");
        }
        while !data.is_empty() && !self.is_longer {
            let body = &mut self.seen.body;
            let fitting = data.len().min(body.capacity() - body.len());
            body.extend_from_slice(&data[..fitting]);
            self.kept += fitting;
            data = &data[fitting..];
            if !data.is_empty() {
                if !self.seen.body.is_empty() {
                    self.blocks.push(std::mem::take(&mut self.seen.body));
                }
                self.make_room(BLOCK.min(self.most));
            }
        }
    }

    /// Makes one body of the blocks. For this moment it is there twice.
    fn put_together(&mut self) {
        if self.blocks.is_empty() {
            return;
        }
        let mut whole = Vec::with_capacity(self.kept);
        let last = std::mem::take(&mut self.seen.body);
        for block in self.blocks.drain(..).chain([last]) {
            whole.extend_from_slice(&block);
        }
        self.seen.body = whole;
    }

    /// Has whole lines go on, and keeps what is left: the beginning of one, however much came at once.
    fn hand_on(&mut self, mut data: &[u8]) {
        if self.kept > 0 {
            let Some(end) = memchr::memchr(b'\n', data).map(|end| end + 1) else { return self.keep(data) };
            self.keep(&data[..end]);
            if self.is_longer {
                return;
            }
            self.put_together();
            let line = std::mem::take(&mut self.seen.body);
            self.add(&line);
            drop(line);
            self.forget();
            data = &data[end..];
        }
        let end = memchr::memrchr(b'\n', data).map_or(0, |end| end + 1);
        self.add(&data[..end]);
        if self.gave_up.is_none() {
            self.keep(&data[end..]);
        }
    }

    fn add(&mut self, lines: &[u8]) {
        if let Some(pieces) = &self.lines
            && pieces.add(lines).is_err()
        {
            self.gave_up = Some("not_json");
        }
    }
}

impl Watch for Keep {
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        match &self.lines {
            Some(lines) if self.comes_in_lines => lines.poll_room(cx),
            _ => Poll::Ready(()),
        }
    }

    fn passed(&mut self, data: &[u8]) -> io::Result<()> {
        if self.comes_in_lines {
            self.hand_on(data);
        } else {
            self.keep(data);
        }
        if self.gave_up.is_some() { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }
}
