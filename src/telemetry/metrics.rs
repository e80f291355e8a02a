//! Every metric, declared once, counted per worker and added up when somebody asks.
//!
//! A cell has one writer, the worker whose shard it is in, so counting is a load and a store, without a locked
//! instruction and without a cache line that another worker writes. Does not decide what to count.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram as Distribution, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, TextEncoder};

use crate::algo::compare::Tally;
use crate::algo::quantile;

/// One metric of the page: what operators read, and what the manual must list.
#[derive(Debug)]
pub struct Description {
    /// Without the `attache_` in front.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! metrics {
    ($( $constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal; )*) => {
        $( const $constant: Description = Description { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help }; )*

        /// All there are, but for `process_*`.
        pub const DESCRIPTIONS: &[Description] = &[$( $constant ),*];
    };
}

metrics! {
    BUILD_INFO = Gauge "build_info" ["version"] "Always 1; the version is a label.";
    GENERATION = Gauge "generation" [] "Number of the configuration that serves.";
    RELOADS = Counter "config_reloads_total" ["outcome"] "Attempts to load a configuration, by outcome: ok or failed.";
    RELOAD_SUCCESSFUL = Gauge "config_last_reload_successful" [] "Whether the latest attempt to load a configuration succeeded.";
    RELOAD_SECONDS = Gauge "config_last_reload_success_timestamp_seconds" [] "When a configuration was last loaded, in seconds since 1970.";
    CONNECTIONS = Gauge "connections" ["listener"] "Client connections open now.";
    CONNECTIONS_TOTAL = Counter "connections_total" ["listener"] "Client connections accepted.";
    REQUESTS = Counter "requests_total" ["listener", "route", "service", "code"] "Requests finished, by class of status (2xx), or none if nothing was sent.";
    REQUEST_SECONDS = Histogram "request_duration_seconds" ["listener", "route"] "From the first byte of a request to the last of its answer.";
    REFUSALS = Counter "refusals_total" ["listener", "reason"] "Requests that attache answered itself, by reason.";
    UPSTREAM_REQUESTS = Counter "upstream_requests_total" ["service", "endpoint", "outcome"] "Attempts at an endpoint, by outcome.";
    UPSTREAM_SECONDS = Histogram "upstream_request_duration_seconds" ["service"] "One attempt, from choosing an endpoint to the end of its answer.";
    ENDPOINT_UP = Gauge "endpoint_up" ["service", "endpoint"] "Whether an endpoint is given requests.";
    EJECTIONS = Counter "endpoint_ejections_total" ["service", "endpoint", "reason"] "Times that an endpoint was given no requests for a while, by reason: consecutive failures, or their share.";
    HEALTH_CHECKS = Counter "health_checks_total" ["service", "endpoint", "outcome"] "Probes of an endpoint, for its health and for whether it leads, by outcome: ok or failed.";
    SHARD_REQUESTS = Counter "shard_requests_total" ["service", "shard"] "Requests sent to each member of a shard, those sent again included.";
    SHARD_SPILLED = Counter "shard_spilled_total" ["service"] "Requests that went past a member since it had as many as its bound allows.";
    SHARD_HOT = Counter "shard_hot_requests_total" ["service"] "Requests that were spread since their key is hot.";
    SHARD_HOT_KEYS = Gauge "shard_hot_keys" ["service"] "Keys that are hot, as the worker counts that has most of them.";
    SPLIT_REQUESTS = Counter "split_requests_total" ["service", "arm"] "Requests sent to each arm of a split, those sent again included.";
    SPLIT_SHARE = Gauge "split_share" ["service", "arm"] "What an arm has of all requests, 0 to 1.";
    SPLIT_FAILED_OVER = Counter "split_failed_over_total" ["service", "arm"] "Requests that the control arm took since their own arm had nobody.";
    SPLIT_ERRORS = Counter "split_errors_total" ["service", "arm"] "Answers with a status of 500 or more that the users of an arm got.";
    SPLIT_SECONDS = Histogram "split_request_duration_seconds" ["service", "arm"] "From the first byte of a request to the last of its answer.";
    MIRROR_COPIES = Counter "mirror_copies_total" ["service", "outcome"] "Copies of requests, by what became of them: answered, failed, dropped (too many, nobody there, or too slow for their body), cut (so was the original).";
    MIRROR_COMPARISONS = Counter "mirror_comparisons_total" ["service", "outcome"] "Answers compared with those to copies: same, different, or skipped.";
    SCATTER_LEAVES = Counter "scatter_leaves_total" ["service", "leaf", "outcome"] "Leaves that were asked, by what became of it: ok, failed, timeout, or cancelled since no more was needed.";
    SCATTER_SECONDS = Histogram "scatter_leaf_duration_seconds" ["service", "leaf"] "From the question to the end of a leaf's answer.";
    CHECK_UP = Gauge "check_up" ["service", "check"] "Whether a check of a health report is well.";
    CHECKS = Counter "checks_total" ["service", "check", "outcome"] "Checks made for a health report, by outcome: ok or failed.";
    CHECK_SECONDS = Gauge "check_duration_seconds" ["service", "check"] "How long the latest one took.";
    LOG_RECORDS = Counter "logs_records_total" ["service"] "Records that every sink of a log has taken.";
    LOG_BYTES = Counter "logs_bytes_total" ["service"] "Bytes of those records.";
    LOG_UNREAD = Counter "logs_unparsed_total" ["service"] "Lines that no parser fitted; they are records all the same.";
    LOG_MISSING = Counter "logs_missing_total" ["service", "reason"] "What is not among the records: sampled (as was asked for), refused (by a sink that may), lost (pushed out before it was read), cut (ends of long lines).";
    LOG_TRUNCATED = Counter "logs_truncated_total" ["service"] "Files that began anew under the same inode; what was written in between may be lost.";
    LOG_UNCOUNTED = Counter "logs_uncounted_total" ["service"] "Records that a count has no room for, since they would be a series beyond its 10000.";
    LOG_ERRORS = Counter "logs_errors_total" ["service"] "Times that a source could not be read, or a sink took nothing.";
    LOG_FILES = Gauge "logs_files" ["service"] "Files that are followed.";
    LOG_LAG = Gauge "logs_lag_bytes" ["service"] "Bytes in those files that were not read yet.";
    ENDPOINTS = Gauge "endpoints" ["service"] "Endpoints that a pool has, written and found.";
    DISCOVERIES = Counter "discoveries_total" ["service", "outcome"] "Look-ups of a pool's endpoints, by outcome: ok or failed.";
    RETRIES = Counter "retries_total" ["service", "reason"] "Attempts beyond a request's first, by what went wrong before.";
    UPSTREAM_HANDSHAKES = Counter "upstream_tls_handshakes_total" ["service", "endpoint", "outcome"] "TLS handshakes with endpoints: full, resumed, failed, timeout.";
    HANDSHAKES = Counter "tls_handshakes_total" ["listener", "outcome"] "TLS handshakes with clients: full, resumed, failed, timeout.";
    CERTIFICATE_SECONDS = Gauge "certificate_expiry_timestamp_seconds" ["listener", "name"] "When a certificate expires, in seconds since 1970.";
    LOG_DROPPED = Counter "log_dropped_total" [] "Log records thrown away since their sink was slow or full.";
    STREAM_BYTES = Counter "stream_bytes_total" ["listener", "direction"] "Bytes of TCP streams, from clients (in) and to them (out).";
    ACCEPT_ERRORS = Counter "accept_errors_total" ["listener", "reason"] "Connections that could not be accepted, by reason.";
    PANICS = Counter "panics_total" [] "Bugs that ended an exchange.";
}

/// Upper bounds in nanoseconds, inclusive; what is above the last counts for `+Inf` alone.
const BOUNDS_NANOS: [u64; 14] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

macro_rules! outcomes {
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[$variant_meta:meta])* $variant:ident = $word:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[$variant_meta])* $variant, )* }

        impl $name {
            const WORDS: &[&str] = &[$( $word ),*];
            const COUNT: usize = Self::WORDS.len();

            /// The label's value.
            pub fn as_str(self) -> &'static str {
                Self::WORDS[self as usize]
            }
        }
    };
}

outcomes! {
    /// How an attempt at an endpoint ended.
    pub enum Outcome {
        /// An answer with a status below 500.
        Ok = "ok",
        /// An answer with a status of 500 or more.
        Status5xx = "status_5xx",
        ConnectFailed = "connect_failed",
        ConnectTimeout = "connect_timeout",
        /// Connected, and then no TLS: the refusal tells why.
        TlsFailed = "tls_failed",
        /// Closed or reset before its answer began.
        Reset = "reset",
        /// No answer in time.
        Timeout = "timeout",
        /// An answer that is no HTTP, or was cut short.
        Broken = "broken",
        /// The time that the route or the client gives the whole exchange was over first, which need not be the endpoint's fault.
        OutOfTime = "out_of_time",
        /// Another endpoint, asked the same, answered first.
        Overtaken = "overtaken",
        /// The client left first, which says nothing of the endpoint.
        ClientGone = "client_gone",
    }
}

outcomes! {
    /// Why an endpoint gets no requests for a while.
    pub enum Ejection {
        /// Failures in a row.
        Consecutive = "consecutive",
        ErrorShare = "error_share",
    }
}

outcomes! {
    /// How a look-up of endpoints ended.
    pub enum Discovery {
        Ok = "ok",
        /// What was known before is kept.
        Failed = "failed",
    }
}

outcomes! {
    /// What an attempt is repeated for.
    pub enum Retry {
        Connect = "connect",
        Reset = "reset",
        Timeout = "timeout",
        /// A status that the pool's `retry.on` lists.
        Status = "status",
        /// The first attempt is slow; it goes on meanwhile.
        Hedge = "hedge",
    }
}

outcomes! {
    /// How a TLS handshake with a client or an endpoint ended.
    pub enum Handshake {
        Full = "full",
        Resumed = "resumed",
        Failed = "failed",
        Timeout = "timeout",
    }
}

outcomes! {
    /// Why a connection could not be accepted.
    pub enum AcceptError {
        /// Out of file descriptors.
        Files = "files",
        /// Out of kernel memory.
        Memory = "memory",
        /// The client left while it waited.
        Aborted = "aborted",
        Other = "other",
    }
}

outcomes! {
    /// Which way bytes of a stream go.
    pub enum Direction {
        /// From the client to an endpoint.
        In = "in",
        Out = "out",
    }
}

impl AcceptError {
    pub fn of(error: &io::Error) -> Self {
        use rustix::io::Errno;
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE) => Self::Files,
            Some(Errno::NOBUFS | Errno::NOMEM) => Self::Memory,
            Some(Errno::CONNABORTED | Errno::CONNRESET) => Self::Aborted,
            _ => Self::Other,
        }
    }
}

/// Written by one worker, read by whoever renders the page.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, n: u64) {
        // Nobody else writes here, so nothing is lost between the two.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
struct Histogram {
    /// Not cumulative; the last one is `+Inf`.
    buckets: [Cell; BOUNDS_NANOS.len() + 1],
    /// Wraps after 584 years.
    nanos: Cell,
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // No branch to predict wrongly; the compiler makes vector instructions of it.
        let bucket: usize = BOUNDS_NANOS.iter().map(|&bound| usize::from(nanos > bound)).sum();
        self.buckets[bucket].add(1);
        self.nanos.add(nanos);
    }
}

/// One shard per worker, made when the worker first counts: of 10,000 routes most are idle, and a shard made by its own
/// worker lies in memory that this worker uses.
#[derive(Debug)]
struct Shards<T>(Box<[OnceLock<Box<Padded<T>>>]>);

/// Two lines, as processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T> Shards<T> {
    fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| OnceLock::new()).collect())
    }

    /// Runs `count` on the worker's own shard. An unknown worker counts nothing: better than two writers.
    fn with(&self, worker: usize, make: impl FnOnce() -> T, count: impl FnOnce(&T)) {
        debug_assert!(worker < self.0.len(), "worker {worker} of {}", self.0.len());
        if let Some(slot) = self.0.get(worker) {
            count(&slot.get_or_init(|| Box::new(Padded(make()))).0);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|slot| slot.get().map(|shard| &shard.0))
    }

    fn sum(&self, cell: impl Fn(&T) -> &Cell) -> u64 {
        self.iter().fold(0, |sum, shard| sum.wrapping_add(cell(shard).get()))
    }
}

/// `1xx` to `5xx`, and nothing sent.
const CODES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Debug, Default)]
struct RouteShard {
    codes: [Cell; CODES.len()],
    duration: Histogram,
}

/// Requests of one route, or of a listener's own service.
#[derive(Debug)]
pub struct RouteMetrics {
    shards: Shards<RouteShard>,
}

impl RouteMetrics {
    /// `status` is what was sent to the client; 0 if nothing was.
    pub fn finished(&self, worker: usize, status: u16, duration: Duration) {
        let class = usize::from(status / 100);
        let class = if class < CODES.len() { class } else { 0 };
        self.shards.with(worker, RouteShard::default, |shard| {
            shard.codes[class].add(1);
            shard.duration.observe(duration);
        });
    }
}

#[derive(Debug)]
struct ListenerShard {
    opened: Cell,
    closed: Cell,
    handshakes: [Cell; Handshake::COUNT],
    accept_errors: [Cell; AcceptError::COUNT],
    stream_bytes: [Cell; Direction::COUNT],
    refusals: Box<[Cell]>,
}

/// Connections of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    reasons: &'static [&'static str],
    shards: Shards<ListenerShard>,
}

impl ListenerMetrics {
    pub fn opened(&self, worker: usize) {
        self.count(worker, |shard| &shard.opened);
    }

    pub fn closed(&self, worker: usize) {
        self.count(worker, |shard| &shard.closed);
    }

    pub fn handshake(&self, worker: usize, outcome: Handshake) {
        self.count(worker, |shard| &shard.handshakes[outcome as usize]);
    }

    pub fn accept_error(&self, worker: usize, reason: AcceptError) {
        self.count(worker, |shard| &shard.accept_errors[reason as usize]);
    }

    /// So many bytes of a stream went that way.
    pub fn streamed(&self, worker: usize, direction: Direction, bytes: u64) {
        self.add(worker, bytes, |shard| &shard.stream_bytes[direction as usize]);
    }

    /// `reason` is an index into the reasons given to [`Metrics::new`].
    pub fn refused(&self, worker: usize, reason: usize) {
        debug_assert!(reason < self.reasons.len());
        if reason < self.reasons.len() {
            self.count(worker, |shard| &shard.refusals[reason]);
        }
    }

    /// Open now.
    pub fn connections(&self) -> u64 {
        // What was closed is read first, so that a connection in between is not counted below zero.
        let closed = self.shards.sum(|shard| &shard.closed);
        self.shards.sum(|shard| &shard.opened).saturating_sub(closed)
    }

    fn count(&self, worker: usize, cell: impl FnOnce(&ListenerShard) -> &Cell) {
        self.add(worker, 1, cell);
    }

    fn add(&self, worker: usize, number: u64, cell: impl FnOnce(&ListenerShard) -> &Cell) {
        let make = || ListenerShard {
            opened: Cell::default(),
            closed: Cell::default(),
            handshakes: Default::default(),
            accept_errors: Default::default(),
            stream_bytes: Default::default(),
            refusals: self.reasons.iter().map(|_| Cell::default()).collect(),
        };
        self.shards.with(worker, make, |shard| cell(shard).add(number));
    }
}

#[derive(Debug, Default)]
struct EndpointShard {
    outcomes: [Cell; Outcome::COUNT],
    handshakes: [Cell; Handshake::COUNT],
}

/// Attempts at one endpoint, and whether it is up.
#[derive(Debug)]
pub struct EndpointMetrics {
    is_up: AtomicU8,
    /// Rare, and counted by whoever comes to it.
    ejections: [AtomicU64; Ejection::COUNT],
    /// Probes that were answered as hoped, and those that were not. Counted by the one thread that asks.
    checks: [AtomicU64; 2],
    shards: Shards<EndpointShard>,
}

impl EndpointMetrics {
    pub fn attempt(&self, worker: usize, outcome: Outcome) {
        self.shards.with(worker, EndpointShard::default, |shard| shard.outcomes[outcome as usize].add(1));
    }

    pub fn handshake(&self, worker: usize, outcome: Handshake) {
        self.shards.with(worker, EndpointShard::default, |shard| shard.handshakes[outcome as usize].add(1));
    }

    pub fn ejected(&self, reason: Ejection) {
        self.ejections[reason as usize].fetch_add(1, Relaxed);
    }

    /// A probe ended.
    pub fn checked(&self, is_ok: bool) {
        self.checks[usize::from(!is_ok)].fetch_add(1, Relaxed);
    }

    /// True until said otherwise: without health checks an endpoint is up.
    pub fn set_up(&self, is_up: bool) {
        self.is_up.store(u8::from(is_up), Relaxed);
    }
}

#[derive(Debug, Default)]
struct ServiceShard {
    duration: Histogram,
    retries: [Cell; Retry::COUNT],
}

/// Attempts of one service.
#[derive(Debug)]
pub struct ServiceMetrics {
    endpoints: AtomicU64,
    /// Rare, and counted by whoever looked.
    discoveries: [AtomicU64; Discovery::COUNT],
    shards: Shards<ServiceShard>,
}

impl ServiceMetrics {
    /// One attempt took this long.
    pub fn attempted(&self, worker: usize, duration: Duration) {
        self.shards.with(worker, ServiceShard::default, |shard| shard.duration.observe(duration));
    }

    pub fn retried(&self, worker: usize, reason: Retry) {
        self.shards.with(worker, ServiceShard::default, |shard| shard.retries[reason as usize].add(1));
    }

    pub fn discovered(&self, outcome: Discovery) {
        self.discoveries[outcome as usize].fetch_add(1, Relaxed);
    }

    pub fn set_endpoints(&self, count: usize) {
        self.endpoints.store(count as u64, Relaxed);
    }
}

/// What one member of a shard gets.
#[derive(Debug)]
pub struct ShardMetrics {
    sent: Shards<Cell>,
}

impl ShardMetrics {
    pub fn sent(&self, worker: usize) {
        self.sent.with(worker, Cell::default, |cell| cell.add(1));
    }
}

#[derive(Debug, Default)]
struct ArmShard {
    sent: Cell,
    failed_over: Cell,
    errors: Cell,
    duration: Histogram,
    /// What tells how the arm fares.
    compared: Cell,
    failed: Cell,
    took: Took,
}

/// Finer than what is shown.
#[derive(Debug)]
struct Took([Cell; quantile::BUCKETS]);

impl Default for Took {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Cell::default()))
    }
}

/// What one arm of a split gets.
#[derive(Debug)]
pub struct ArmMetrics {
    /// Millionths.
    share: AtomicU64,
    shards: Shards<ArmShard>,
}

impl ArmMetrics {
    /// In millionths.
    pub fn set_share(&self, share: u32) {
        self.share.store(u64::from(share), Relaxed);
    }

    pub fn sent(&self, worker: usize) {
        self.shards.with(worker, ArmShard::default, |shard| shard.sent.add(1));
    }

    /// A user of this arm got this status; 0 is none. `is_compared`: it tells how the arm fares.
    pub fn finished(&self, worker: usize, status: u16, took: Duration, is_compared: bool) {
        self.shards.with(worker, ArmShard::default, |shard| {
            shard.duration.observe(took);
            if status >= 500 {
                shard.errors.add(1);
            }
            if is_compared {
                shard.compared.add(1);
                shard.took.0[quantile::bucket(took)].add(1);
                if status >= 500 {
                    shard.failed.add(1);
                }
            }
        });
    }

    /// How the arm has fared since the process began. A request that had to go elsewhere is an error of the arm that had nobody for it.
    pub fn tally(&self) -> Tally {
        let missed = self.shards.sum(|shard| &shard.failed_over);
        let mut tally = Tally {
            requests: self.shards.sum(|shard| &shard.compared) + missed,
            errors: self.shards.sum(|shard| &shard.failed) + missed,
            ..Tally::default()
        };
        for (bucket, count) in tally.took.iter_mut().enumerate() {
            *count = self.shards.sum(|shard| &shard.took.0[bucket]);
        }
        tally
    }

    /// A request of this arm went to the control arm.
    pub fn failed_over(&self, worker: usize) {
        self.shards.with(worker, ArmShard::default, |shard| shard.failed_over.add(1));
    }
}

outcomes! {
    /// What became of a copy of a request.
    pub enum Copied {
        /// Whatever the answer was.
        Answered = "answered",
        /// There is none.
        Failed = "failed",
        /// There were too many copies or nobody to copy to, or too much of a body waited.
        Dropped = "dropped",
        /// The original was not whole.
        Cut = "cut",
    }
}

outcomes! {
    /// What became of a leaf that was asked.
    pub enum LeafOutcome {
        Ok = "ok",
        /// Its answer was none that could be used.
        Failed = "failed",
        /// There was none in time.
        Timeout = "timeout",
        /// It was not needed any more.
        Cancelled = "cancelled",
    }
}

#[derive(Debug, Default)]
struct LeafShard {
    outcomes: [Cell; LeafOutcome::COUNT],
    duration: Histogram,
}

/// What one check of a health report finds.
#[derive(Debug, Default)]
pub struct CheckMetrics {
    /// Somebody makes it; else it is not on the page, though whoever made it may hold this a moment longer.
    is_made: AtomicU8,
    is_well: AtomicU8,
    /// That were good, and that failed.
    made: [AtomicU64; 2],
    nanos: AtomicU64,
}

impl CheckMetrics {
    /// Whether somebody makes it from now on.
    pub fn set_made(&self, is_made: bool) {
        self.is_made.store(u8::from(is_made), Relaxed);
    }

    /// One was made; `is_well` is what all so far come to.
    pub fn found(&self, is_good: bool, is_well: bool, took: Duration) {
        self.is_well.store(u8::from(is_well), Relaxed);
        self.made[usize::from(!is_good)].fetch_add(1, Relaxed);
        self.nanos.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// What a log does.
#[derive(Debug, Default)]
pub struct LogMetrics {
    records: AtomicU64,
    bytes: AtomicU64,
    misread: AtomicU64,
    /// By [`LOG_REASONS`].
    missing: [AtomicU64; 4],
    truncated: AtomicU64,
    uncounted: AtomicU64,
    errors: AtomicU64,
    files: AtomicU64,
    lag: AtomicU64,
}

const LOG_REASONS: [&str; 4] = ["sampled", "refused", "lost", "cut"];

impl LogMetrics {
    pub fn sent(&self, records: u64, bytes: u64) {
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// No parser fitted.
    pub fn misread(&self) {
        self.misread.fetch_add(1, Relaxed);
    }

    pub fn sampled(&self) {
        self.missing[0].fetch_add(1, Relaxed);
    }

    /// A sink that may has refused them for good.
    pub fn dropped(&self, records: u64) {
        self.missing[1].fetch_add(records, Relaxed);
    }

    /// Nobody read them in time.
    pub fn lost(&self, records: u64) {
        self.missing[2].fetch_add(records, Relaxed);
    }

    /// A line was too long.
    pub fn cut(&self) {
        self.missing[3].fetch_add(1, Relaxed);
    }

    /// A file began anew.
    pub fn truncated(&self) {
        self.truncated.fetch_add(1, Relaxed);
    }

    /// A count has no room for its series.
    pub fn uncounted(&self) {
        self.uncounted.fetch_add(1, Relaxed);
    }

    pub fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// So many files, with so many bytes unread.
    pub fn stands(&self, files: u64, lag: u64) {
        self.files.store(files, Relaxed);
        self.lag.store(lag, Relaxed);
    }
}

/// What one leaf of a scatter is asked.
#[derive(Debug)]
pub struct LeafMetrics {
    shards: Shards<LeafShard>,
}

impl LeafMetrics {
    pub fn finished(&self, worker: usize, outcome: LeafOutcome, took: Duration) {
        self.shards.with(worker, LeafShard::default, |shard| {
            shard.outcomes[outcome as usize].add(1);
            shard.duration.observe(took);
        });
    }
}

outcomes! {
    /// What a comparison of two answers came to.
    pub enum Compared {
        Same = "same",
        Different = "different",
        /// One of them is missing, or not all of it was kept.
        Skipped = "skipped",
    }
}

/// What a mirror does.
#[derive(Debug, Default)]
pub struct MirrorMetrics {
    copies: [AtomicU64; Copied::COUNT],
    comparisons: [AtomicU64; Compared::COUNT],
}

impl MirrorMetrics {
    pub fn copied(&self, outcome: Copied) {
        self.copies[outcome as usize].fetch_add(1, Relaxed);
    }

    pub fn compared(&self, outcome: Compared) {
        self.comparisons[outcome as usize].fetch_add(1, Relaxed);
    }
}

#[derive(Debug, Default)]
struct SpreadShard {
    spilled: Cell,
    spread: Cell,
    hot_keys: AtomicU64,
}

/// What one shard does to spread its load.
#[derive(Debug)]
pub struct SpreadMetrics {
    shards: Shards<SpreadShard>,
}

impl SpreadMetrics {
    /// A request went past a member that had too many.
    pub fn spilled(&self, worker: usize) {
        self.shards.with(worker, SpreadShard::default, |shard| shard.spilled.add(1));
    }

    /// A request of a hot key was spread.
    pub fn spread(&self, worker: usize) {
        self.shards.with(worker, SpreadShard::default, |shard| shard.spread.add(1));
    }

    pub fn set_hot_keys(&self, worker: usize, count: u64) {
        self.shards.with(worker, SpreadShard::default, |shard| shard.hot_keys.store(count, Relaxed));
    }
}

/// Series by their labels. The page shows them in this order.
type Series<K, T> = Mutex<HashMap<K, Arc<T>>>;

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    workers: usize,
    reasons: &'static [&'static str],
    routes: Series<(String, String, String), RouteMetrics>,
    listeners: Series<String, ListenerMetrics>,
    endpoints: Series<(String, String), EndpointMetrics>,
    services: Series<String, ServiceMetrics>,
    shards: Series<(String, String), ShardMetrics>,
    spreads: Series<String, SpreadMetrics>,
    arms: Series<(String, String), ArmMetrics>,
    mirrors: Series<String, MirrorMetrics>,
    leaves: Series<(String, String), LeafMetrics>,
    checks: Series<(String, String), CheckMetrics>,
    logs: Series<String, LogMetrics>,
    certificates: Mutex<Vec<CertificateExpiry>>,
    generation: AtomicU64,
    reloads: [AtomicU64; 2],
    last_reload_successful: AtomicU64,
    last_success_unix: AtomicI64,
    log_dropped: Arc<AtomicU64>,
    panics: AtomicU64,
    process: ProcessCollector,
}

/// When one certificate of one listener expires.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateExpiry {
    pub listener: String,
    pub name: String,
    pub unix_seconds: i64,
}

impl Metrics {
    /// `reasons` are the labels of refusals, counted by their index.
    pub fn new(workers: usize, reasons: &'static [&'static str]) -> Arc<Self> {
        Arc::new(Self {
            workers,
            reasons,
            routes: Mutex::default(),
            listeners: Mutex::default(),
            endpoints: Mutex::default(),
            services: Mutex::default(),
            shards: Mutex::default(),
            arms: Mutex::default(),
            mirrors: Mutex::default(),
            leaves: Mutex::default(),
            checks: Mutex::default(),
            logs: Mutex::default(),
            spreads: Mutex::default(),
            certificates: Mutex::default(),
            generation: AtomicU64::new(0),
            reloads: Default::default(),
            last_reload_successful: AtomicU64::new(0),
            last_success_unix: AtomicI64::new(0),
            log_dropped: Arc::default(),
            panics: AtomicU64::new(0),
            process: ProcessCollector::for_self(),
        })
    }

    /// Same labels, same series, across generations.
    pub fn route(&self, listener: &str, route: &str, service: &str) -> Arc<RouteMetrics> {
        let key = (listener.to_owned(), route.to_owned(), service.to_owned());
        series(&self.routes, key, || RouteMetrics { shards: Shards::new(self.workers) })
    }

    pub fn listener(&self, listener: &str) -> Arc<ListenerMetrics> {
        let make = || ListenerMetrics { reasons: self.reasons, shards: Shards::new(self.workers) };
        series(&self.listeners, listener.to_owned(), make)
    }

    pub fn endpoint(&self, service: &str, endpoint: &str) -> Arc<EndpointMetrics> {
        let make = || EndpointMetrics {
            is_up: AtomicU8::new(1),
            ejections: Default::default(),
            checks: Default::default(),
            shards: Shards::new(self.workers),
        };
        series(&self.endpoints, (service.to_owned(), endpoint.to_owned()), make)
    }

    pub fn service(&self, service: &str) -> Arc<ServiceMetrics> {
        let make = || ServiceMetrics { endpoints: AtomicU64::new(0), discoveries: Default::default(), shards: Shards::new(self.workers) };
        series(&self.services, service.to_owned(), make)
    }

    /// One member of the shard `service`.
    pub fn shard(&self, service: &str, member: &str) -> Arc<ShardMetrics> {
        series(&self.shards, (service.to_owned(), member.to_owned()), || ShardMetrics { sent: Shards::new(self.workers) })
    }

    pub fn arm(&self, service: &str, arm: &str) -> Arc<ArmMetrics> {
        series(&self.arms, (service.to_owned(), arm.to_owned()), || ArmMetrics {
            share: AtomicU64::new(0),
            shards: Shards::new(self.workers),
        })
    }

    /// One leaf of the scatter `service`.
    pub fn leaf(&self, service: &str, leaf: &str) -> Arc<LeafMetrics> {
        series(&self.leaves, (service.to_owned(), leaf.to_owned()), || LeafMetrics { shards: Shards::new(self.workers) })
    }

    /// One check of the health report `service`.
    pub fn check(&self, service: &str, check: &str) -> Arc<CheckMetrics> {
        series(&self.checks, (service.to_owned(), check.to_owned()), CheckMetrics::default)
    }

    pub fn log(&self, service: &str) -> Arc<LogMetrics> {
        series(&self.logs, service.to_owned(), LogMetrics::default)
    }

    pub fn mirror(&self, service: &str) -> Arc<MirrorMetrics> {
        series(&self.mirrors, service.to_owned(), MirrorMetrics::default)
    }

    pub fn spread(&self, service: &str) -> Arc<SpreadMetrics> {
        series(&self.spreads, service.to_owned(), || SpreadMetrics { shards: Shards::new(self.workers) })
    }

    /// Takes series off the page that nobody outside holds any more. Called after a generation has retired.
    pub fn retain_live(&self) {
        fn retain<K: Eq + Hash, T>(series: &Series<K, T>) {
            let mut series = lock(series);
            series.retain(|_, one| Arc::strong_count(one) > 1);
            series.shrink_to_fit();
        }
        retain(&self.routes);
        retain(&self.listeners);
        retain(&self.endpoints);
        retain(&self.services);
        retain(&self.shards);
        retain(&self.spreads);
        retain(&self.arms);
        retain(&self.mirrors);
        retain(&self.leaves);
        retain(&self.checks);
        retain(&self.logs);
    }

    /// Replaces all that were known.
    pub fn set_certificates(&self, certificates: Vec<CertificateExpiry>) {
        *lock(&self.certificates) = certificates;
    }

    /// A configuration was loaded and serves.
    pub fn reloaded(&self, generation: u64, now_unix_secs: u64) {
        self.generation.store(generation, Relaxed);
        self.reloads[0].fetch_add(1, Relaxed);
        self.last_reload_successful.store(1, Relaxed);
        self.last_success_unix.store(i64::try_from(now_unix_secs).unwrap_or(i64::MAX), Relaxed);
    }

    /// A configuration could not be loaded; the one before goes on serving.
    pub fn reload_failed(&self) {
        self.reloads[1].fetch_add(1, Relaxed);
        self.last_reload_successful.store(0, Relaxed);
    }

    pub fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// Where sinks count what they throw away.
    pub fn log_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.log_dropped)
    }

    /// The page, in Prometheus' text format 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut page = Page::default();
        self.collect_process(&mut page);
        self.collect_listeners(&mut page);
        self.collect_routes(&mut page);
        self.collect_upstream(&mut page);
        let mut families = page.families();
        families.extend(self.process.collect());
        let mut text = Vec::with_capacity(16 << 10);
        // It fails on a family without a series or a name, which `families` does not make.
        let encoded = TextEncoder::new().encode(&families, &mut text);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        text
    }

    fn collect_process(&self, page: &mut Page) {
        page.add(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        page.add(&GENERATION, &[], self.generation.load(Relaxed) as f64);
        page.add(&RELOADS, &["ok"], self.reloads[0].load(Relaxed) as f64);
        page.add(&RELOADS, &["failed"], self.reloads[1].load(Relaxed) as f64);
        page.add(&RELOAD_SUCCESSFUL, &[], self.last_reload_successful.load(Relaxed) as f64);
        page.add(&RELOAD_SECONDS, &[], self.last_success_unix.load(Relaxed) as f64);
        page.add(&LOG_DROPPED, &[], self.log_dropped.load(Relaxed) as f64);
        page.add(&PANICS, &[], self.panics.load(Relaxed) as f64);
        // Two certificates may share their first name; the one that ends first is the one to watch.
        let mut earliest: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        let certificates = lock(&self.certificates);
        for one in certificates.iter() {
            let at = earliest.entry((&one.listener, &one.name)).or_insert(one.unix_seconds);
            *at = one.unix_seconds.min(*at);
        }
        for ((listener, name), at) in earliest {
            page.add(&CERTIFICATE_SECONDS, &[listener, name], at as f64);
        }
    }

    fn collect_listeners(&self, page: &mut Page) {
        for (listener, metrics) in sorted(&self.listeners) {
            let listener = listener.as_str();
            page.add(&CONNECTIONS, &[listener], metrics.connections() as f64);
            page.add(&CONNECTIONS_TOTAL, &[listener], metrics.shards.sum(|shard| &shard.opened) as f64);
            for (index, reason) in metrics.reasons.iter().enumerate() {
                page.add_if_any(&REFUSALS, &[listener, reason], metrics.shards.sum(|shard| &shard.refusals[index]));
            }
            for (index, outcome) in Handshake::WORDS.iter().enumerate() {
                page.add_if_any(&HANDSHAKES, &[listener, outcome], metrics.shards.sum(|shard| &shard.handshakes[index]));
            }
            for (index, direction) in Direction::WORDS.iter().enumerate() {
                page.add_if_any(&STREAM_BYTES, &[listener, direction], metrics.shards.sum(|shard| &shard.stream_bytes[index]));
            }
            for (index, reason) in AcceptError::WORDS.iter().enumerate() {
                page.add_if_any(&ACCEPT_ERRORS, &[listener, reason], metrics.shards.sum(|shard| &shard.accept_errors[index]));
            }
        }
    }

    fn collect_routes(&self, page: &mut Page) {
        // A route that was given another service is two series of requests but one of durations.
        let mut durations: BTreeMap<(String, String), Total> = BTreeMap::new();
        for ((listener, route, service), metrics) in sorted(&self.routes) {
            for (index, code) in CODES.iter().enumerate() {
                let count = metrics.shards.sum(|shard| &shard.codes[index]);
                page.add_if_any(&REQUESTS, &[&listener, &route, &service, code], count);
            }
            let total = durations.entry((listener, route)).or_default();
            metrics.shards.iter().for_each(|shard| total.add(&shard.duration));
        }
        for ((listener, route), total) in durations {
            page.add_histogram(&REQUEST_SECONDS, &[&listener, &route], &total);
        }
    }

    fn collect_upstream(&self, page: &mut Page) {
        for ((service, endpoint), metrics) in sorted(&self.endpoints) {
            page.add(&ENDPOINT_UP, &[&service, &endpoint], f64::from(metrics.is_up.load(Relaxed)));
            for (index, reason) in Ejection::WORDS.iter().enumerate() {
                page.add_if_any(&EJECTIONS, &[&service, &endpoint, reason], metrics.ejections[index].load(Relaxed));
            }
            for (index, outcome) in ["ok", "failed"].iter().enumerate() {
                page.add_if_any(&HEALTH_CHECKS, &[&service, &endpoint, outcome], metrics.checks[index].load(Relaxed));
            }
            for (index, outcome) in Outcome::WORDS.iter().enumerate() {
                let count = metrics.shards.sum(|shard| &shard.outcomes[index]);
                page.add_if_any(&UPSTREAM_REQUESTS, &[&service, &endpoint, outcome], count);
            }
            for (index, outcome) in Handshake::WORDS.iter().enumerate() {
                let count = metrics.shards.sum(|shard| &shard.handshakes[index]);
                page.add_if_any(&UPSTREAM_HANDSHAKES, &[&service, &endpoint, outcome], count);
            }
        }
        for ((service, member), metrics) in sorted(&self.shards) {
            page.add(&SHARD_REQUESTS, &[&service, &member], metrics.sent.sum(|cell| cell) as f64);
        }
        for ((service, arm), metrics) in sorted(&self.arms) {
            page.add(&SPLIT_SHARE, &[&service, &arm], metrics.share.load(Relaxed) as f64 / 1e6);
            page.add(&SPLIT_REQUESTS, &[&service, &arm], metrics.shards.sum(|shard| &shard.sent) as f64);
            let mut total = Total::default();
            metrics.shards.iter().for_each(|shard| total.add(&shard.duration));
            page.add(&SPLIT_ERRORS, &[&service, &arm], metrics.shards.sum(|shard| &shard.errors) as f64);
            page.add_histogram(&SPLIT_SECONDS, &[&service, &arm], &total);
            page.add_if_any(&SPLIT_FAILED_OVER, &[&service, &arm], metrics.shards.sum(|shard| &shard.failed_over));
        }
        for (service, metrics) in sorted(&self.logs) {
            page.add(&LOG_RECORDS, &[&service], metrics.records.load(Relaxed) as f64);
            page.add(&LOG_BYTES, &[&service], metrics.bytes.load(Relaxed) as f64);
            page.add(&LOG_UNREAD, &[&service], metrics.misread.load(Relaxed) as f64);
            for (reason, missing) in LOG_REASONS.iter().zip(&metrics.missing) {
                page.add(&LOG_MISSING, &[&service, reason], missing.load(Relaxed) as f64);
            }
            page.add(&LOG_TRUNCATED, &[&service], metrics.truncated.load(Relaxed) as f64);
            page.add(&LOG_UNCOUNTED, &[&service], metrics.uncounted.load(Relaxed) as f64);
            page.add(&LOG_ERRORS, &[&service], metrics.errors.load(Relaxed) as f64);
            page.add(&LOG_FILES, &[&service], metrics.files.load(Relaxed) as f64);
            page.add(&LOG_LAG, &[&service], metrics.lag.load(Relaxed) as f64);
        }
        for ((service, check), metrics) in sorted(&self.checks).into_iter().filter(|(_, metrics)| metrics.is_made.load(Relaxed) == 1) {
            page.add(&CHECK_UP, &[&service, &check], f64::from(metrics.is_well.load(Relaxed)));
            page.add(&CHECK_SECONDS, &[&service, &check], metrics.nanos.load(Relaxed) as f64 / 1e9);
            for (index, outcome) in ["ok", "failed"].iter().enumerate() {
                page.add_if_any(&CHECKS, &[&service, &check, outcome], metrics.made[index].load(Relaxed));
            }
        }
        for (service, metrics) in sorted(&self.mirrors) {
            for (index, outcome) in Copied::WORDS.iter().enumerate() {
                page.add(&MIRROR_COPIES, &[&service, outcome], metrics.copies[index].load(Relaxed) as f64);
            }
            for (index, outcome) in Compared::WORDS.iter().enumerate() {
                page.add(&MIRROR_COMPARISONS, &[&service, outcome], metrics.comparisons[index].load(Relaxed) as f64);
            }
        }
        for ((service, leaf), metrics) in sorted(&self.leaves) {
            for (index, outcome) in LeafOutcome::WORDS.iter().enumerate() {
                page.add(&SCATTER_LEAVES, &[&service, &leaf, outcome], metrics.shards.sum(|shard| &shard.outcomes[index]) as f64);
            }
            let mut total = Total::default();
            metrics.shards.iter().for_each(|shard| total.add(&shard.duration));
            page.add_histogram(&SCATTER_SECONDS, &[&service, &leaf], &total);
        }
        for (service, metrics) in sorted(&self.spreads) {
            page.add_if_any(&SHARD_SPILLED, &[&service], metrics.shards.sum(|shard| &shard.spilled));
            page.add_if_any(&SHARD_HOT, &[&service], metrics.shards.sum(|shard| &shard.spread));
            if let Some(most) = metrics.shards.iter().map(|shard| shard.hot_keys.load(Relaxed)).max() {
                page.add(&SHARD_HOT_KEYS, &[&service], most as f64);
            }
        }
        for (service, metrics) in sorted(&self.services) {
            let mut total = Total::default();
            metrics.shards.iter().for_each(|shard| total.add(&shard.duration));
            page.add_histogram(&UPSTREAM_SECONDS, &[&service], &total);
            page.add(&ENDPOINTS, &[&service], metrics.endpoints.load(Relaxed) as f64);
            for (index, outcome) in Discovery::WORDS.iter().enumerate() {
                page.add_if_any(&DISCOVERIES, &[&service, outcome], metrics.discoveries[index].load(Relaxed));
            }
            for (index, reason) in Retry::WORDS.iter().enumerate() {
                page.add_if_any(&RETRIES, &[&service, reason], metrics.shards.sum(|shard| &shard.retries[index]));
            }
        }
    }
}

fn series<K: Eq + Hash, T>(series: &Series<K, T>, key: K, make: impl FnOnce() -> T) -> Arc<T> {
    Arc::clone(lock(series).entry(key).or_insert_with(|| Arc::new(make())))
}

/// A copy, so that the lock is not held while the page is written.
fn sorted<K: Clone + Ord + Hash, T>(series: &Series<K, T>) -> Vec<(K, Arc<T>)> {
    let mut all: Vec<_> = lock(series).iter().map(|(key, one)| (key.clone(), Arc::clone(one))).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

/// Nothing behind these locks is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A histogram summed over workers.
#[derive(Default)]
struct Total {
    buckets: [u64; BOUNDS_NANOS.len() + 1],
    nanos: u64,
}

impl Total {
    fn add(&mut self, shard: &Histogram) {
        for (sum, cell) in self.buckets.iter_mut().zip(&shard.buckets) {
            *sum += cell.get();
        }
        self.nanos = self.nanos.wrapping_add(shard.nanos.get());
    }
}

/// Families in the making.
#[derive(Default)]
struct Page {
    series: HashMap<&'static str, Vec<Metric>>,
}

impl Page {
    fn add(&mut self, description: &Description, labels: &[&str], value: f64) {
        let mut metric = metric(description, labels);
        match description.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                debug_assert_eq!(description.kind, Kind::Gauge);
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.series.entry(description.name).or_default().push(metric);
    }

    /// What never happened is left out: with 10,000 routes, zeros would be most of the page.
    fn add_if_any(&mut self, description: &Description, labels: &[&str], count: u64) {
        if count > 0 {
            self.add(description, labels, count as f64);
        }
    }

    fn add_histogram(&mut self, description: &Description, labels: &[&str], total: &Total) {
        debug_assert_eq!(description.kind, Kind::Histogram);
        let mut seen = 0;
        let mut buckets = Vec::with_capacity(BOUNDS_NANOS.len());
        for (&bound, &count) in BOUNDS_NANOS.iter().zip(&total.buckets) {
            seen += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound as f64 / 1e9);
            bucket.set_cumulative_count(seen);
            buckets.push(bucket);
        }
        // Not counted apart, so that `+Inf` and the count cannot differ.
        let count = seen + total.buckets[BOUNDS_NANOS.len()];
        if count == 0 {
            return;
        }
        let mut distribution = Distribution::default();
        distribution.set_bucket(buckets);
        distribution.set_sample_count(count);
        distribution.set_sample_sum(total.nanos as f64 / 1e9);
        let mut metric = metric(description, labels);
        metric.set_histogram(distribution);
        self.series.entry(description.name).or_default().push(metric);
    }

    /// In the order of the table.
    fn families(mut self) -> Vec<MetricFamily> {
        let mut families = Vec::with_capacity(DESCRIPTIONS.len());
        for description in DESCRIPTIONS {
            let Some(series) = self.series.remove(description.name) else { continue };
            let mut family = MetricFamily::default();
            family.set_name(format!("attache_{}", description.name));
            family.set_help(description.help.to_owned());
            family.set_field_type(match description.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            family.set_metric(series);
            families.push(family);
        }
        families
    }
}

fn metric(description: &Description, labels: &[&str]) -> Metric {
    debug_assert_eq!(description.labels.len(), labels.len(), "{}", description.name);
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(description.labels.iter().zip(labels).map(pair).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const REASONS: &[&str] = &["no_route", "bad_request"];

    fn page(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).unwrap()
    }

    #[track_caller]
    fn check(metrics: &Metrics, line: &str) {
        let page = page(metrics);
        assert!(page.lines().any(|one| one == line), "{line} not in\n{page}");
    }

    fn used() -> Arc<Metrics> {
        let metrics = Metrics::new(2, REASONS);
        let listener = metrics.listener("edge");
        for worker in [0, 1] {
            listener.opened(worker);
            listener.refused(worker, 1);
            listener.handshake(worker, Handshake::Resumed);
            listener.accept_error(worker, AcceptError::Files);
            listener.streamed(worker, Direction::In, 10);
            metrics.route("edge", "a", "app").finished(worker, 200, Duration::from_micros(500));
            metrics.endpoint("app", "10.0.0.1:80").attempt(worker, Outcome::Ok);
            metrics.endpoint("app", "10.0.0.1:80").checked(true);
            metrics.endpoint("app", "10.0.0.1:80").handshake(worker, Handshake::Full);
            metrics.endpoint("app", "10.0.0.1:80").ejected(Ejection::Consecutive);
            metrics.shard("cache", "cache-0").sent(worker);
            metrics.spread("cache").spilled(worker);
            metrics.arm("checkout", "canary").sent(worker);
            metrics.arm("checkout", "canary").failed_over(worker);
            metrics.arm("checkout", "canary").finished(worker, 500, Duration::ZERO, true);
            metrics.mirror("app").copied(Copied::Answered);
            metrics.leaf("search", "leaf-0").finished(worker, LeafOutcome::Ok, Duration::ZERO);
            metrics.log("app-log").sent(1, 1);
            metrics.check("db-health", "db").set_made(true);
            metrics.check("db-health", "db").found(true, true, Duration::from_millis(2));
            metrics.mirror("app").compared(Compared::Same);
            metrics.spread("cache").spread(worker);
            metrics.spread("cache").set_hot_keys(worker, 1 + worker as u64);
            metrics.service("app").attempted(worker, Duration::from_millis(3));
            metrics.service("app").retried(worker, Retry::Connect);
            metrics.service("app").discovered(Discovery::Ok);
            metrics.service("app").set_endpoints(3);
        }
        // Another worker closes what the first opened.
        listener.closed(1);
        metrics.set_certificates(vec![CertificateExpiry {
            listener: "edge".into(),
            name: "a.example".into(),
            unix_seconds: 1_800_000_000,
        }]);
        metrics.reloaded(3, 1_700_000_000);
        metrics
    }

    #[test]
    fn workers_are_added_up() {
        let metrics = used();
        check(&metrics, r#"attache_connections{listener="edge"} 1"#);
        check(&metrics, r#"attache_connections_total{listener="edge"} 2"#);
        check(&metrics, r#"attache_requests_total{listener="edge",route="a",service="app",code="2xx"} 2"#);
        check(&metrics, r#"attache_request_duration_seconds_bucket{listener="edge",route="a",le="0.0005"} 2"#);
        check(&metrics, r#"attache_request_duration_seconds_sum{listener="edge",route="a"} 0.001"#);
        check(&metrics, r#"attache_refusals_total{listener="edge",reason="bad_request"} 2"#);
        check(&metrics, r#"attache_tls_handshakes_total{listener="edge",outcome="resumed"} 2"#);
        check(&metrics, r#"attache_accept_errors_total{listener="edge",reason="files"} 2"#);
        check(&metrics, r#"attache_upstream_requests_total{service="app",endpoint="10.0.0.1:80",outcome="ok"} 2"#);
        check(&metrics, r#"attache_upstream_tls_handshakes_total{service="app",endpoint="10.0.0.1:80",outcome="full"} 2"#);
        check(&metrics, r#"attache_upstream_request_duration_seconds_count{service="app"} 2"#);
        check(&metrics, r#"attache_endpoint_up{service="app",endpoint="10.0.0.1:80"} 1"#);
        check(&metrics, r#"attache_shard_requests_total{service="cache",shard="cache-0"} 2"#);
        check(&metrics, r#"attache_shard_spilled_total{service="cache"} 2"#);
        check(&metrics, r#"attache_shard_hot_keys{service="cache"} 2"#);
        check(&metrics, r#"attache_endpoints{service="app"} 3"#);
        check(&metrics, r#"attache_discoveries_total{service="app",outcome="ok"} 2"#);
        check(&metrics, r#"attache_retries_total{service="app",reason="connect"} 2"#);
        check(&metrics, r#"attache_certificate_expiry_timestamp_seconds{listener="edge",name="a.example"} 1800000000"#);
        check(&metrics, "attache_generation 3");
        check(&metrics, r#"attache_config_reloads_total{outcome="ok"} 1"#);
        check(&metrics, "attache_config_last_reload_success_timestamp_seconds 1700000000");
    }

    #[test]
    fn a_failed_reload_keeps_the_generation() {
        let metrics = used();
        metrics.reload_failed();
        check(&metrics, "attache_generation 3");
        check(&metrics, "attache_config_last_reload_successful 0");
        check(&metrics, r#"attache_config_reloads_total{outcome="failed"} 1"#);
    }

    #[test]
    fn every_described_metric_reaches_the_page_and_nothing_else() {
        let page = page(&used());
        let shown: HashSet<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        for description in DESCRIPTIONS {
            assert!(shown.contains(format!("attache_{}", description.name).as_str()), "{}", description.name);
            assert!(!description.help.is_empty());
            assert_eq!(description.name.ends_with("_total"), description.kind == Kind::Counter, "{}", description.name);
        }
        let foreign: Vec<_> = shown.iter().filter(|name| !name.starts_with("attache_") && !name.starts_with("process_")).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        for name in ["open_fds", "max_fds", "start_time_seconds", "resident_memory_bytes", "cpu_seconds_total", "threads"] {
            assert!(shown.contains(format!("process_{name}").as_str()), "{name}");
        }
    }

    #[test]
    fn every_line_of_the_page_parses() {
        let metrics = used();
        metrics.route("a\"b\\c\nd", "é", "{}").finished(0, 99, Duration::MAX);
        for line in page(&metrics).lines() {
            if line.starts_with("# ") {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
            assert!(name == series || series.ends_with("\"}"), "{line}");
        }
    }

    #[test]
    fn a_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        for (index, &bound) in BOUNDS_NANOS.iter().enumerate() {
            for (nanos, expected) in [(bound - 1, index), (bound, index), (bound + 1, index + 1)] {
                let histogram = Histogram::default();
                histogram.observe(Duration::from_nanos(nanos));
                assert_eq!(histogram.buckets[expected].get(), 1, "{nanos}");
            }
        }
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_in_its_count() {
        let metrics = Metrics::new(3, REASONS);
        let route = metrics.route("edge", "a", "app");
        for i in 0..1000_u64 {
            route.finished((i % 3) as usize, 200, Duration::from_micros(i * i * 37));
        }
        let page = page(&metrics);
        let values: Vec<f64> = page
            .lines()
            .filter(|line| line.starts_with("attache_request_duration_seconds_bucket"))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect();
        assert_eq!(values.len(), BOUNDS_NANOS.len() + 1);
        assert!(values.is_sorted());
        assert_eq!(values.last(), Some(&1000.0));
        assert!(page.contains("le=\"+Inf\"} 1000\n"));
        assert!(page.contains("attache_request_duration_seconds_count{listener=\"edge\",route=\"a\"} 1000\n"));
    }

    #[test]
    fn a_route_with_two_services_has_one_histogram() {
        let metrics = Metrics::new(1, REASONS);
        metrics.route("edge", "a", "old").finished(0, 200, Duration::ZERO);
        metrics.route("edge", "a", "new").finished(0, 200, Duration::ZERO);
        check(&metrics, r#"attache_request_duration_seconds_count{listener="edge",route="a"} 2"#);
    }

    #[test]
    fn statuses_are_counted_by_class() {
        let metrics = Metrics::new(1, REASONS);
        let route = metrics.route("e", "r", "s");
        for status in [0, 99, 101, 299, 302, 499, 503, 600, u16::MAX] {
            route.finished(0, status, Duration::ZERO);
        }
        for (code, count) in [("none", 4), ("1xx", 1), ("2xx", 1), ("3xx", 1), ("4xx", 1), ("5xx", 1)] {
            check(&metrics, &format!(r#"attache_requests_total{{listener="e",route="r",service="s",code="{code}"}} {count}"#));
        }
    }

    #[test]
    fn series_stay_across_generations_and_leave_when_nobody_holds_them() {
        let metrics = Metrics::new(1, REASONS);
        let held = metrics.route("e", "held", "s");
        metrics.route("e", "held", "s").finished(0, 200, Duration::ZERO);
        metrics.route("e", "gone", "s").finished(0, 200, Duration::ZERO);
        metrics.retain_live();
        assert!(Arc::ptr_eq(&held, &metrics.route("e", "held", "s")));
        check(&metrics, r#"attache_requests_total{listener="e",route="held",service="s",code="2xx"} 1"#);
        assert!(!page(&metrics).contains("gone"));
    }

    #[test]
    fn ten_thousand_routes_are_affordable() {
        assert!(size_of::<Padded<RouteShard>>() <= 256);
        assert!(size_of::<OnceLock<Box<Padded<RouteShard>>>>() <= 16);
    }

    #[test]
    fn nothing_is_lost_while_the_page_is_read() {
        let metrics = Metrics::new(2, REASONS);
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let route = metrics.route("e", "r", "s");
                scope.spawn(move || (0..50_000).for_each(|_| route.finished(worker, 200, Duration::ZERO)));
            }
            for _ in 0..20 {
                page(&metrics);
            }
        });
        check(&metrics, r#"attache_requests_total{listener="e",route="r",service="s",code="2xx"} 100000"#);
    }
}
