//! Leaving another service for this shard, a key at a time: each key switches at its own moment of a window.
//!
//! As mcrouter's migrations: before its moment a key is with the old service; after it, until the window ends, the settings say who is
//! asked and who is told. Moves no values; whoever misses fills.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Shard;
use crate::algo::dice;
use crate::algo::placement::Hashed;
use crate::refusal::Refusal;
use crate::services::{Asked, Body, Decision, Service, Unwanted, Way};
use crate::value::{Decode, Item, Reader, ServiceRef, Size, Spanned};
use crate::{settings, words};

settings! {
    /// `migrate`
    pub struct Settings as "a migration" {
        /// The service that is left.
        from: Spanned<ServiceRef>,
        /// How long keys take to switch, all together.
        over: Duration,
        /// When it begins. Default: when this was first loaded, which every process does at its own time.
        start: Option<Moment> = None,
        /// Who is asked for a key that has switched, until the window ends.
        read: Read = Read::NewThenOld,
        /// Who is told of it.
        write: Write = Write::Both,
        /// What a request may have for a body that both are to get. Beyond: 413.
        body: Size = Size::mib(1),
    }
}

words! {
    pub enum Read as "a way to read while keys move" {
        /// The new one, and the old one where that answers 404.
        NewThenOld = "new-then-old",
        Old = "old",
    }
}

words! {
    pub enum Write as "a way to write while keys move" {
        /// One after the other; whoever is read answers.
        Both = "both",
        New = "new",
    }
}

/// A moment in the calendar, as RFC 3339 writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub SystemTime);

impl Decode for Moment {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        if let Ok(moment) = text.parse::<jiff::Timestamp>() {
            return Some(Self(moment.into()));
        }
        reader.error(item.place, format!("`{text}` is not a moment")).help("write \"2026-01-31T12:00:00Z\"");
        None
    }
}

impl Settings {
    /// Who reads the old one never sees what only the new one was told.
    pub(super) fn check(&self, reader: &mut Reader<'_>) -> Option<()> {
        if (self.read, self.write) == (Read::Old, Write::New) {
            reader
                .error(self.from.place, "read = \"old\" with write = \"new\" would read what is not written any more")
                .help("write write = \"both\", or read = \"new-then-old\"");
            return None;
        }
        Some(())
    }
}

/// A compiled migration.
pub struct Migration {
    pub settings: Settings,
    from: Arc<Service>,
    /// When the window began, or begins.
    pub start: SystemTime,
    /// How far the window was at a moment of the clock that never jumps; negative before it begins.
    at: Instant,
    passed: f64,
}

/// Stands for the second service of two that a request goes to.
const SECOND: u32 = u32::MAX;

impl Migration {
    /// `now` and `at` are the same moment by both clocks.
    pub fn new(settings: Settings, from: Arc<Service>, start: SystemTime, now: SystemTime, at: Instant) -> Self {
        let passed = now.duration_since(start).map_or_else(|early| -early.duration().as_secs_f64(), |late| late.as_secs_f64());
        Self { settings, from, start, at, passed }
    }

    /// From 0 to 1 within the window.
    fn progress(&self, now: Instant) -> f64 {
        (self.passed + now.saturating_duration_since(self.at).as_secs_f64()) / self.settings.over.as_secs_f64()
    }

    /// Where in the window a key switches: independent of whom it belongs to.
    fn moment(key: Hashed) -> f64 {
        let mut state = key.value ^ 0x6d69_6772_6174_6521;
        (dice::roll(&mut state) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The old service's verdict, where it is its turn; `None` where it is the shard's.
    pub(super) fn decide<'g>(
        &'g self,
        shard: &'g Shard,
        key: Option<Hashed>,
        asked: &Asked<'g, '_>,
        way: &mut Way<'g>,
    ) -> Option<Decision<'g>> {
        let progress = self.progress(asked.now);
        if progress >= 1.0 {
            return None;
        }
        let has_switched = key.is_some_and(|key| Self::moment(key) < progress);
        let is_second = asked.passed.iter().any(|passed| passed.is_member(shard, SECOND));
        let (is_old, unwanted) = match (has_switched, asked.head.method, self.settings.read, self.settings.write) {
            (false, ..) => (true, Unwanted::Nothing),
            (true, b"GET" | b"HEAD", Read::Old, _) => (true, Unwanted::Nothing),
            (true, b"GET" | b"HEAD", Read::NewThenOld, _) => (is_second, if is_second { Unwanted::Nothing } else { Unwanted::Missed }),
            (true, _, _, Write::New) => (false, Unwanted::Nothing),
            (true, _, read, Write::Both) => {
                match asked.body {
                    Body::Unread => return Some(Decision::Read(self.settings.body.0)),
                    Body::TooLong => return Some(Decision::Refuse(Refusal::BodyTooLarge)),
                    Body::Is(_) => {}
                }
                // First the one whose answer nobody gets.
                let is_old = (read == Read::NewThenOld) != is_second;
                (is_old, if is_second { Unwanted::Nothing } else { Unwanted::Everything })
            }
        };
        if unwanted != Unwanted::Nothing {
            way.unwanted = Some((shard, SECOND, unwanted));
        }
        way.is_with_old = is_old;
        is_old.then(|| self.from.decide(asked, way))
    }

    pub(super) fn with_old<'g>(&'g self, asked: &Asked<'g, '_>, way: &mut Way<'g>) -> Decision<'g> {
        way.is_with_old = true;
        self.from.decide(asked, way)
    }

    pub(super) fn may_serve(&self, now: Instant) -> bool {
        self.progress(now) < 1.0 && self.from.may_serve(now)
    }
}
