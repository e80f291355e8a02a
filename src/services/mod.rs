//! The catalogue of things that answer requests.
//!
//! Services decide and never do: nothing here awaits, opens a socket or writes a byte.

pub mod health;
pub mod logs;
pub mod metrics;
pub mod mirror;
pub mod pool;
pub mod redirect;
pub mod respond;
pub mod scatter;
pub mod shard;
pub mod split;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::refusal::Refusal;
use crate::route::Head;
use crate::upstream::Aim;
use crate::value::{EarKey, Entry, Fields, Item, Reader, Spanned, Value, nearest};

/// Kinds that are written under a key of their own. A pool is not: the table with `endpoints` or `discover` is the pool.
pub const KINDS: &[&str] = &["shard", "split", "mirror", "scatter", "respond", "redirect", "health", "metrics", "logs"];

/// One service as it is written: exactly one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Settings {
    /// Shared with the generation: a thousand endpoints need not be written down twice.
    Pool(Arc<pool::Settings>),
    Shard(Arc<shard::Settings>),
    Split(Arc<split::Settings>),
    Mirror(Arc<mirror::Settings>),
    Scatter(Arc<scatter::Settings>),
    Respond(respond::Settings),
    Redirect(redirect::Settings),
    Health(Arc<health::Settings>),
    Metrics(Arc<metrics::Settings>),
    Logs(Arc<logs::Settings>),
}

impl Settings {
    /// Reads `[service.NAME]`.
    pub fn named(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        use crate::value::Decode;
        let Value::Table(table) = &item.value else {
            reader.error(item.place, format!("expected a service in a table, found {}", item.kind()));
            return None;
        };
        let kinds: Vec<(&'static str, &Entry)> = KINDS
            .iter()
            .filter_map(|&kind| table.entries.get(kind).map(|entry| (kind, entry)))
            // How a pool's endpoints are asked has the same name.
            .filter(|(kind, entry)| *kind != "health" || table.entries.len() == 1 || has_checks(&entry.item))
            .collect();
        match kinds.as_slice() {
            [] => {
                let misspelt = table.entries.iter().find_map(|(key, entry)| Some((key, entry, nearest(key, KINDS.iter().copied())?)));
                if let (Some((key, entry, kind)), false) =
                    (misspelt, ["endpoints", "discover"].iter().any(|key| table.entries.contains_key(*key)))
                {
                    reader.error(entry.key_place, format!("unknown key `{key}`")).help(format!("did you mean `{kind}`?"));
                    return None;
                }
                pool::Settings::decode(item, reader).map(Arc::new).map(Self::Pool)
            }
            [(kind, entry)] => {
                let mut fields = Fields::table(table, item.place);
                fields.take(kind);
                let settings = Self::kind(kind, &entry.item, reader);
                fields.finish(reader)?;
                settings
            }
            [(first, entry), (second, other), ..] => {
                reader
                    .error(other.key_place, format!("a service has one kind, this has `{first}` and `{second}`"))
                    .related(entry.key_place, "the first kind");
                None
            }
        }
    }

    /// Takes an inline service out of another table, such as a route's.
    pub fn inline(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Option<Self>> {
        let mut found: Option<(&'static str, &Entry)> = None;
        for &kind in KINDS {
            let Some(entry) = fields.take(kind) else { continue };
            if let Some((first, earlier)) = found {
                reader
                    .error(entry.key_place, format!("a route has one service, this has `{first}` and `{kind}`"))
                    .related(earlier.key_place, "the first service");
                return None;
            }
            found = Some((kind, entry));
        }
        match found {
            Some((kind, entry)) => Self::kind(kind, &entry.item, reader).map(Some),
            None => Some(None),
        }
    }

    /// Sockets that it hears by, which the supervisor binds and `upkeep` is given.
    pub fn ears(&self) -> Vec<&Spanned<EarKey>> {
        match self {
            Self::Pool(_)
            | Self::Shard(_)
            | Self::Split(_)
            | Self::Mirror(_)
            | Self::Scatter(_)
            | Self::Respond(_)
            | Self::Redirect(_)
            | Self::Health(_) => Vec::new(),
            Self::Logs(logs) => logs.ears().collect(),
            Self::Metrics(metrics) => metrics.ears().collect(),
        }
    }

    /// Its kind, as it is written.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pool(_) => "pool",
            Self::Shard(_) => "shard",
            Self::Split(_) => "split",
            Self::Mirror(_) => "mirror",
            Self::Scatter(_) => "scatter",
            Self::Respond(_) => "respond",
            Self::Redirect(_) => "redirect",
            Self::Health(_) => "health",
            Self::Metrics(_) => "metrics",
            Self::Logs(_) => "logs",
        }
    }

    fn kind(kind: &str, item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        use crate::value::Decode;
        match kind {
            "shard" => shard::Settings::decode(item, reader)?.checked(reader).map(Arc::new).map(Self::Shard),
            "split" => split::Settings::decode(item, reader)?.checked(reader).map(Arc::new).map(Self::Split),
            "mirror" => mirror::Settings::decode(item, reader)?.checked(reader).map(Arc::new).map(Self::Mirror),
            "scatter" => scatter::Settings::decode(item, reader)?.checked(reader).map(Arc::new).map(Self::Scatter),
            "health" => health::Settings::decode(item, reader)?.checked(reader).map(Arc::new).map(Self::Health),
            "metrics" => metrics::Settings::decode(item, reader)?.checked(item.place, reader).map(Arc::new).map(Self::Metrics),
            "logs" => logs::Settings::decode(item, reader)?.checked(reader).map(Arc::new).map(Self::Logs),
            "respond" => respond::Settings::decode(item, reader)?.checked(reader).map(Self::Respond),
            _ => redirect::Settings::decode(item, reader).map(Self::Redirect),
        }
    }
}

fn has_checks(item: &Item) -> bool {
    matches!(&item.value, Value::Table(table) if table.entries.contains_key("checks"))
}

/// A compiled service.
pub enum Service {
    Pool(pool::Pool),
    Shard(shard::Shard),
    Split(split::Split),
    Mirror(mirror::Mirror),
    Scatter(scatter::Scatter),
    Respond(respond::Respond),
    Redirect(redirect::Redirect),
    Health(health::Health),
    Metrics(metrics::Metrics),
    Logs(logs::Logs),
}

/// A service's verdict on one request.
pub enum Decision<'g> {
    /// Send it to an endpoint of this pool; to whom there, if a shard says so.
    Forward(&'g pool::Pool, Option<Aim>),
    Answer(&'g respond::Respond),
    /// Ask many, and make one answer of theirs.
    Scatter(&'g scatter::Scatter),
    Redirect(&'g redirect::Redirect),
    /// Say what an adapter knows.
    Report(Adapter<'g>),
    Refuse(Refusal),
    /// It depends on the body: read no more than so many bytes of it, and ask again.
    Read(u64),
}

/// Who tells tools about a program, in their own language.
pub enum Adapter<'g> {
    Health(&'g health::Health),
    Metrics(&'g metrics::Metrics),
    Logs(&'g logs::Logs),
}

impl Adapter<'_> {
    pub fn name(&self) -> &str {
        match self {
            Self::Health(health) => &health.name,
            Self::Metrics(metrics) => &metrics.name,
            Self::Logs(logs) => &logs.name,
        }
    }

    /// What it looks at.
    pub fn parts(&self) -> Vec<String> {
        match self {
            Self::Health(health) => health.checks.iter().map(|check| check.name.clone()).collect(),
            Self::Metrics(metrics) => metrics.sources.iter().map(|source| source.name.clone()).collect(),
            Self::Logs(logs) => logs.flow.settings.from.value.iter().map(logs::SourceSettings::label).collect(),
        }
    }
}

/// What an adapter answers.
#[derive(Debug)]
pub struct Report {
    pub status: u16,
    /// Names and values.
    pub fields: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Report {
    /// To whoever wants to change something.
    pub fn of_method() -> Self {
        let fields = vec![("Content-Type", "text/plain".to_owned()), ("Allow", "GET, HEAD".to_owned())];
        Self { status: 405, fields, body: b"use GET\n".to_vec() }
    }
}

/// What a decision depends on beside the services themselves.
pub struct Asked<'g, 'a> {
    pub head: &'a Head<'a>,
    pub now: Instant,
    /// Who asks: workers know different keys to be hot.
    pub worker: usize,
    /// 64 random bits.
    pub dice: u64,
    pub body: Body<'a>,
    /// Who could not be reached just now.
    pub passed: &'a [Passed<'g>],
}

/// A part of a service that cannot be reached, or whose answer was not wanted.
#[derive(Clone, Copy)]
pub enum Passed<'g> {
    Member(&'g shard::Shard, u32),
    Arm(&'g split::Split, u16),
}

impl Passed<'_> {
    fn is_member(&self, shard: &shard::Shard, member: u32) -> bool {
        matches!(*self, Self::Member(other, passed) if std::ptr::eq(other, shard) && passed == member)
    }

    fn is_arm(&self, split: &split::Split, arm: u16) -> bool {
        matches!(*self, Self::Arm(other, passed) if std::ptr::eq(other, split) && passed == arm)
    }
}

/// What is known of a request's body.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    Unread,
    /// All of it; empty if there is none.
    Is(&'a [u8]),
    /// More than was to be read.
    TooLong,
}

impl<'a> Body<'a> {
    /// For who reads keys: a body that is too long has none.
    fn read(self) -> Option<&'a [u8]> {
        match self {
            Self::Unread => None,
            Self::Is(body) => Some(body),
            Self::TooLong => Some(b""),
        }
    }
}

/// Which answers a client does not get, since another service is to be asked then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unwanted {
    #[default]
    Nothing,
    /// 404.
    Missed,
    Everything,
}

impl Unwanted {
    pub fn is(self, status: u16) -> bool {
        match self {
            Self::Nothing => false,
            Self::Missed => status == 404,
            Self::Everything => true,
        }
    }
}

/// Fields that services on the way add, each a line.
#[derive(Debug, Default)]
pub struct Told {
    pub to_endpoint: Vec<u8>,
    pub to_client: Vec<u8>,
}

/// The way from a route's service to the verdict: whom each service on it chose that chooses.
#[derive(Default)]
pub struct Way<'g> {
    /// Most have one step or none.
    first: Option<Step<'g>>,
    more: Vec<Step<'g>>,
    /// Keys that were found, one behind the other.
    pub keys: Vec<u8>,
    /// Who asks another service after such an answer, and what it is to be told then.
    pub unwanted: Option<(&'g shard::Shard, u32, Unwanted)>,
    /// A migration has the old service answer.
    pub is_with_old: bool,
    /// A mirror on it has the request copied.
    pub is_copied: bool,
}

/// One choice on the way.
pub enum Step<'g> {
    Shard(shard::Step<'g>),
    Split(split::Step<'g>),
    Mirror(mirror::Step<'g>),
}

impl<'g> Way<'g> {
    /// `keys` is room for keys, empty.
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, ..Self::default() }
    }

    pub fn into_keys(mut self) -> Vec<u8> {
        self.keys.clear();
        self.keys
    }

    /// A request goes this way, and is with whom it passes until the way is cleared. `false` if there is nobody else for it.
    pub fn sent(&mut self, worker: usize, now: Instant) -> bool {
        let Self { first, more, keys, .. } = self;
        let mut has_others = false;
        for step in first.iter_mut().chain(more) {
            match step {
                Step::Shard(step) => {
                    has_others = true;
                    step.shard.sent(step, keys, worker, now);
                }
                Step::Split(step) => {
                    has_others |= split::Split::passed(step).is_some();
                    step.split.sent(step, keys, worker);
                }
                Step::Mirror(_) => {}
            }
        }
        has_others
    }

    /// What splits on the way say of their arms.
    pub fn told(&self, is_secure: bool) -> Told {
        let mut told = Told::default();
        for step in self.steps() {
            if let Step::Split(step) = step {
                step.tell(&self.keys, is_secure, &mut told);
            }
        }
        told
    }

    /// The arm that a split chose; of several splits, one after the other.
    pub fn arm(&self) -> Option<Cow<'g, str>> {
        let mut arms = self.steps().filter_map(|step| match step {
            Step::Split(step) => Some(step.name()),
            Step::Shard(_) | Step::Mirror(_) => None,
        });
        let first = arms.next()?;
        Some(arms.fold(Cow::Borrowed(first), |all, arm| Cow::Owned(format!("{all}, {arm}"))))
    }

    /// Who has the request copied.
    pub fn mirrors(&self) -> impl Iterator<Item = &'g mirror::Mirror> {
        self.steps().filter_map(|step| match step {
            Step::Mirror(step) if step.is_copied => Some(step.mirror),
            _ => None,
        })
    }

    /// An answer was sent with this status; 0 if none was.
    pub fn finished(&self, worker: usize, status: u16, took: Duration) {
        for step in self.steps() {
            if let Step::Split(step) = step {
                step.finished(worker, status, took);
            }
        }
    }

    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &Step<'g>> {
        self.first.iter().chain(&self.more)
    }

    fn push(&mut self, step: Step<'g>) {
        match &self.first {
            None => self.first = Some(step),
            Some(_) => self.more.push(step),
        }
    }

    /// Which answers this shard has no use for.
    fn unwanted_of(&self, shard: &shard::Shard) -> Unwanted {
        self.unwanted.filter(|(other, ..)| std::ptr::eq(*other, shard)).map_or(Unwanted::Nothing, |(.., unwanted)| unwanted)
    }

    pub fn clear(&mut self) {
        self.unwanted = None;
        self.is_with_old = false;
        self.is_copied = false;
        self.back(0);
        self.keys.clear();
    }

    /// Where it is now, for [`Way::back`].
    fn mark(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    fn back(&mut self, mark: usize) {
        self.more.truncate(mark.saturating_sub(1));
        if mark == 0 {
            self.first = None;
        }
    }
}

impl Service {
    pub fn decide<'g>(&'g self, asked: &Asked<'g, '_>, way: &mut Way<'g>) -> Decision<'g> {
        match self {
            Self::Pool(pool) => Decision::Forward(pool, None),
            Self::Shard(shard) => shard.decide(asked, way),
            Self::Split(split) => split.decide(asked, way),
            Self::Mirror(mirror) => mirror.decide(asked, way),
            Self::Scatter(scatter) => scatter.decide(asked),
            Self::Respond(respond) => Decision::Answer(respond),
            Self::Redirect(redirect) => Decision::Redirect(redirect),
            Self::Health(health) => Decision::Report(Adapter::Health(health)),
            Self::Metrics(metrics) => Decision::Report(Adapter::Metrics(metrics)),
            Self::Logs(logs) => logs.decide(asked),
        }
    }

    /// Its kind, as it is written.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pool(_) => "pool",
            Self::Shard(_) => "shard",
            Self::Split(_) => "split",
            Self::Mirror(_) => "mirror",
            Self::Scatter(_) => "scatter",
            Self::Respond(_) => "respond",
            Self::Redirect(_) => "redirect",
            Self::Health(_) => "health",
            Self::Metrics(_) => "metrics",
            Self::Logs(_) => "logs",
        }
    }

    /// Whether somebody below may take a request, or is about to be known.
    pub fn may_serve(&self, now: Instant) -> bool {
        match self {
            Self::Pool(pool) => pool.may_serve(now),
            Self::Shard(shard) => shard.may_serve(now),
            Self::Split(split) => split.may_serve(now),
            Self::Mirror(mirror) => mirror.may_serve(now),
            Self::Scatter(scatter) => scatter.may_serve(now),
            Self::Respond(_) | Self::Redirect(_) | Self::Health(_) | Self::Metrics(_) | Self::Logs(_) => true,
        }
    }
}
