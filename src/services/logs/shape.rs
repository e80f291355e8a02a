//! From entries to records as they go out: parsed, thinned, counted, renamed, redacted, written.
//!
//! Keeps nothing between two batches; what is counted, the flow keeps.

use std::borrow::Cow;
use std::sync::PoisonError;

use super::Flow;
use super::place::Hideable;
use super::settings::{Multiline, Redact, Wanted, When};
use crate::proto::logs::{self, Entry, Record, Rules, Value, plainly};

/// Bytes of the lines of a batch, and of what is made of them; the last line may go beyond.
const READ_BYTES: usize = 256 << 10;
const BATCH_BYTES: usize = 1 << 20;

/// Records that go out together, each a line of JSON.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: usize,
    /// Bytes of the lines they were made of.
    pub read: usize,
}

impl Batch {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Enough was read, or made of it, for one go.
    pub fn is_full(&self) -> bool {
        self.read >= READ_BYTES || self.bytes.len() >= BATCH_BYTES
    }

    /// One by one, each with its line end.
    pub fn records(&self) -> impl Iterator<Item = &str> {
        std::str::from_utf8(&self.bytes).unwrap_or_default().split_inclusive('\n')
    }
}

impl When {
    pub fn holds(&self, record: &Record<'_>) -> bool {
        self.0.iter().all(|(place, wanted)| {
            let Some(found) = place.of(record) else { return false };
            match wanted {
                Wanted::Any => true,
                Wanted::Exactly(text) => *text == *found,
                Wanted::Fits(pattern) => pattern.0.is_match(&found),
            }
        })
    }
}

impl Flow {
    /// How lines become entries.
    pub fn rules(&self) -> Rules<'_> {
        let settings = &self.settings;
        Rules {
            envelope: settings.parse.envelope(),
            multiline: settings.multiline.as_ref().map(Multiline::group),
            bytes_max: settings.line.value.bytes(),
        }
    }

    /// Makes a record of an entry that arrived at this time (RFC 3339), unless nobody wants it.
    pub fn take(&self, entry: &Entry<'_>, source: &str, arrived: &str, batch: &mut Batch) {
        let settings = &*self.settings;
        batch.read += entry.text.len() + 1;
        let parsed = if settings.parse.envelope().is_some() {
            settings.parse.parse_within(entry.text, entry.ts, entry.stream, arrived)
        } else {
            settings.parse.parse(entry.text, arrived)
        };
        let mut record = parsed.unwrap_or_else(|| {
            self.metrics.misread();
            let mut record = Record { msg: Some(self.without_hidden(entry.text)), ..Record::default() };
            record.ts = entry.ts.map(Cow::Borrowed);
            if !entry.stream.is_empty() {
                record.fields.push((Cow::Borrowed("stream"), Value::Text(Cow::Borrowed(entry.stream))));
            }
            record
        });
        if entry.is_cut {
            self.metrics.cut();
            record.fields.push((Cow::Borrowed("truncated"), Value::Json(Cow::Borrowed("true"))));
        }
        self.finish(record, source, arrived, batch);
    }

    /// As [`Flow::take`], of what attache itself has put into JSON.
    pub fn take_json(&self, line: &str, source: &str, arrived: &str, batch: &mut Batch) {
        batch.read += line.len() + 1;
        if let Some(record) = logs::json(line) {
            self.finish(record, source, arrived, batch);
        }
    }

    /// A line that could not be taken apart, up to the first field in it that nobody may read: who makes a line too long must not have its
    /// fields read.
    fn without_hidden<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let fields = self.settings.redact.iter().filter_map(|redact| match redact {
            Redact::Field(Hideable(place), with) => Some((place.last(), with)),
            Redact::Text(..) => None,
        });
        let found = fields.filter_map(|(name, with)| {
            let is_field = |at: &usize| text[at + name.len()..].trim_start_matches(['"', '\'', ' ', '\t']).starts_with([':', '=']);
            let at = text.match_indices(name).map(|(at, _)| at).find(is_field)?;
            Some((at + name.len(), with))
        });
        found.min_by_key(|(at, _)| *at).map_or(Cow::Borrowed(text), |(at, with)| Cow::Owned(format!("{} {with}", &text[..at])))
    }

    fn finish<'a>(&'a self, mut record: Record<'a>, source: &str, arrived: &str, batch: &mut Batch) {
        let settings = &*self.settings;
        self.redact(&mut record);
        // Before anything is left out: what is counted is what happened.
        if !settings.count.value.is_empty() {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            for (at, count) in settings.count.value.iter().enumerate().filter(|(_, count)| count.when.holds(&record)) {
                if !counts.add(at, count, &record) {
                    self.metrics.uncounted();
                }
            }
        }
        if let Some(sample) = settings.sample.iter().find(|sample| sample.when.holds(&record))
            && self.roll() % 1_000_000 >= u64::from(sample.keep.millionths())
        {
            self.metrics.sampled();
            return;
        }
        for Hideable(place) in &settings.drop {
            place.edit(&mut record, None);
        }
        if !settings.rename.is_empty() {
            record.rename(|name| settings.rename.get(name).map(|renamed| renamed.0.as_str()));
        }
        record.write(source, arrived, &mut batch.bytes);
        batch.count += 1;
    }

    /// Before anybody sees it, counts included.
    fn redact<'a>(&'a self, record: &mut Record<'a>) {
        for redact in &self.settings.redact {
            match redact {
                Redact::Field(Hideable(place), with) => place.edit(record, Some(with)),
                Redact::Text(pattern, with) => {
                    let texts = record.fields.iter_mut().map(|(_, value)| match value {
                        // What is inside of other JSON is text too.
                        Value::Text(text) => text,
                        Value::Json(text) => {
                            if let Cow::Owned(plain) = plainly(text) {
                                *text = Cow::Owned(plain);
                            }
                            text
                        }
                    });
                    for text in record.msg.iter_mut().chain(&mut record.level).chain(texts) {
                        if let Cow::Owned(replaced) = pattern.0.replace_all(text, with.as_str()) {
                            *text = Cow::Owned(replaced);
                        }
                    }
                    // A number or an object may be none any more.
                    for (_, value) in &mut record.fields {
                        if let Value::Json(Cow::Owned(text)) = value
                            && serde_json::from_str::<serde::de::IgnoredAny>(text).is_err()
                        {
                            *value = Value::Text(Cow::Owned(std::mem::take(text)));
                        }
                    }
                }
            }
        }
    }
}
