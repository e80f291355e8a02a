//! Endpoints that are found rather than written: where to look, what is known, and when to look again.
//!
//! Asks nobody; `upkeep` does, and tells the pool what it heard.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::ServerName;

use super::{Protocol, Spec};
use crate::algo::dice;
use crate::value::Address;

/// An answer of DNS is not believed for longer, whatever it says of itself: a mistake in a zone ends some day.
const TTL_MAX: Duration = Duration::from_secs(3600);
/// Nobody is asked more often, whatever the answer says.
const TTL_MIN: Duration = Duration::from_secs(1);
/// Between two attempts after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Endpoints of one source; a message of DNS holds about as many addresses. The rest of a larger answer is left out.
const FOUND_MAX: usize = 4096;
/// As a written weight.
const WEIGHT_MAX: u32 = 1000;

/// One place to look for endpoints of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub question: Question,
    pub every: Every,
    /// Who is asked; empty for those that /etc/resolv.conf names.
    pub servers: Vec<SocketAddr>,
    /// `None` speaks to what is found without TLS.
    pub tls: Option<Proof>,
    /// [`Protocol::Auto`] only where there is TLS.
    pub protocol: Protocol,
}

/// What DNS is asked for. A name that ends with a dot is asked for as it is; to others, domains may be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Addresses of a name, all at one port.
    Addresses { host: String, port: u16 },
    /// SRV records.
    Services { name: String },
}

/// How long an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// As long as it says.
    Ttl,
    Fixed(Duration),
}

/// The name that TLS must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    Name(ServerName<'static>),
    /// The one whose address it is: the target of an SRV record.
    Target,
}

/// One endpoint as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub address: SocketAddr,
    /// Share of the requests, 1 to 1000.
    pub weight: u32,
    pub priority: u16,
    /// Whose address it is, without the last dot.
    pub host: String,
}

/// What a source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Never empty.
    pub found: Vec<Found>,
    /// How long it holds, by its own word.
    pub ttl: Duration,
    /// Hosts of which one kind of addresses could not be heard: what was known of that is kept.
    pub unheard: Vec<(String, Family)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// What is known from one source.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The last good answer; empty until there was one.
    pub found: Vec<Found>,
    /// When that was.
    pub at: Option<SystemTime>,
    /// Why the latest look-up failed.
    pub error: Option<String>,
    /// Look-ups that failed since one succeeded.
    failures: u32,
    next: Instant,
}

/// What a look-up changed about a source, for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    None,
    FirstFailure,
    Recovered,
}

/// When an answer came and how chance has it, for one look-up.
#[derive(Clone, Copy)]
pub struct Moment {
    pub now: Instant,
    pub wall: SystemTime,
    pub dice: u32,
    /// The same for the whole life of the process: where endpoints stand in the order of turns. Thousands of sidecars that
    /// are told the same must not all begin with the same endpoint.
    pub seed: u64,
}

/// Where a pool's endpoints are looked for, and what came of it.
#[derive(Default)]
pub struct Discovery {
    sources: Vec<Source>,
    /// One for each source.
    progress: Mutex<Vec<Progress>>,
    is_looked_up: AtomicBool,
}

impl Source {
    /// `None` if its host is no name that TLS could prove.
    fn spec(&self, found: &Found) -> Option<Spec> {
        let tls = match &self.tls {
            None => None,
            Some(Proof::Name(name)) => Some(name.clone()),
            Some(Proof::Target) => Some(ServerName::try_from(found.host.clone()).ok()?),
        };
        Some(Spec {
            address: Address::Tcp(found.address),
            tls,
            protocol: self.protocol,
            name: found.address.to_string(),
            weight: found.weight,
            zone: None,
            priority: found.priority,
        })
    }

    /// Whether both look for the same in the same place, however often.
    fn asks_as(&self, other: &Self) -> bool {
        self.question == other.question && self.servers == other.servers
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.question {
            Question::Addresses { host, port } => write!(f, "dns {host}:{port}"),
            Question::Services { name } => write!(f, "srv {name}"),
        }
    }
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl Discovery {
    /// Begins with what `previous` knows from the same sources, so that a reload empties no pool.
    pub fn new(sources: Vec<Source>, previous: Option<&Self>, now: Instant) -> Self {
        let known = previous.map(|previous| (&previous.sources, previous.progress()));
        let progress = |source: &Source| {
            let known = known.as_ref().and_then(|(sources, progress)| {
                let index = sources.iter().position(|other| other.asks_as(source))?;
                Some((sources[index].every == source.every, &progress[index]))
            });
            match known {
                Some((is_same_pace, progress)) => {
                    let next = if is_same_pace { progress.next } else { now };
                    Progress { next, ..progress.clone() }
                }
                None => Progress { found: Vec::new(), at: None, error: None, failures: 0, next: now },
            }
        };
        let progress: Vec<Progress> = sources.iter().map(progress).collect();
        let is_looked_up = AtomicBool::new(progress.iter().all(Progress::is_looked_up));
        Self { sources, progress: Mutex::new(progress), is_looked_up }
    }

    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// In the order of the sources.
    pub fn progress(&self) -> Vec<Progress> {
        self.lock().clone()
    }

    /// When the source is to be asked again.
    pub fn next(&self, source: usize) -> Instant {
        self.lock()[source].next
    }

    /// Every source has answered once, or failed to.
    pub fn is_looked_up(&self) -> bool {
        self.sources.is_empty() || self.is_looked_up.load(Ordering::Relaxed)
    }

    /// What was found, each address once.
    pub fn specs(&self) -> Vec<Spec> {
        let progress = self.lock();
        let specs = self
            .sources
            .iter()
            .zip(progress.iter())
            .flat_map(|(source, progress)| progress.found.iter().filter_map(|found| source.spec(found)));
        let mut seen = std::collections::HashSet::new();
        specs.filter(|spec| seen.insert(spec.address.clone())).collect()
    }

    /// Takes in what a source said, or why it said nothing: then the last good answer stays.
    pub(super) fn take_in(&self, source: usize, answer: Result<Answer, String>, moment: Moment) -> News {
        let every = self.sources[source].every;
        let mut all = self.lock();
        let progress = &mut all[source];
        let news = match answer {
            Ok(answer) => {
                let pause = early(every.holds(answer.ttl), moment.dice);
                let has_recovered = progress.failures > 0;
                *progress = Progress {
                    found: completed(answer, &progress.found, moment.seed),
                    at: Some(moment.wall),
                    error: None,
                    failures: 0,
                    next: moment.now + pause,
                };
                if has_recovered { News::Recovered } else { News::None }
            }
            Err(reason) => {
                progress.failures = progress.failures.saturating_add(1);
                progress.error = Some(reason);
                progress.next = moment.now + early(every.backoff(progress.failures), moment.dice);
                if progress.failures == 1 { News::FirstFailure } else { News::None }
            }
        };
        if all.iter().all(Progress::is_looked_up) {
            self.is_looked_up.store(true, Ordering::Relaxed);
        }
        news
    }

    /// Nothing behind this lock is left half done by a panic.
    fn lock(&self) -> MutexGuard<'_, Vec<Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn is_looked_up(&self) -> bool {
        self.at.is_some() || self.error.is_some()
    }
}

impl Every {
    fn holds(self, ttl: Duration) -> Duration {
        match self {
            Self::Ttl => ttl.clamp(TTL_MIN, TTL_MAX),
            Self::Fixed(pace) => pace,
        }
    }

    /// Until the next attempt after so many failures: 1 s, 2 s, 4 s and so on, or the usual pace if that is shorter.
    fn backoff(self, failures: u32) -> Duration {
        let doubled = TTL_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX);
        match self {
            Self::Ttl => doubled,
            Self::Fixed(pace) => doubled.min(pace),
        }
    }
}

/// Up to a tenth less, so that many processes which heard the same answer do not ask again at once. Never more: an answer must
/// not be held for longer than it holds.
fn early(pause: Duration, dice: u32) -> Duration {
    pause.mul_f64(1.0 - 0.1 * f64::from(dice) / f64::from(u32::MAX))
}

/// The answer with what was `known` of what could not be heard, each address once and in an order of this process's own that
/// stays as it is: name servers turn their answers around, and turns must not begin anew each time.
fn completed(answer: Answer, known: &[Found], seed: u64) -> Vec<Found> {
    let Answer { mut found, unheard, .. } = answer;
    let is_unheard = |one: &&Found| {
        let family = Family::of(one.address.ip());
        unheard.iter().any(|(host, silent)| *host == one.host && *silent == family)
    };
    found.extend(known.iter().filter(is_unheard).cloned());
    // The preferred one of those with the same address stays.
    found.sort_by(|a, b| a.priority.cmp(&b.priority).then_with(|| b.weight.cmp(&a.weight)));
    let mut seen = std::collections::HashSet::new();
    found.retain(|one| seen.insert(one.address));
    found.sort_by_cached_key(|one| (one.priority, place(one.address, seed), one.address));
    found.truncate(FOUND_MAX);
    found
}

fn place(address: SocketAddr, seed: u64) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let mut state = seed ^ (ip as u64) ^ ((ip >> 64) as u64).rotate_left(17) ^ u64::from(address.port()).rotate_left(48);
    dice::roll(&mut state)
}

/// Weights of SRV records with one priority, as a pool takes them.
///
/// Where all are 0 nobody is preferred. Beside others, 0 means a very small chance (RFC 2782), which 1 beside 1000 is.
pub fn weights(written: &[u16]) -> Vec<u32> {
    let most = written.iter().copied().max().map_or(0, u32::from);
    if most == 0 {
        return vec![1; written.len()];
    }
    let is_scaled = most > WEIGHT_MAX || written.contains(&0);
    let weight = |&written: &u16| if is_scaled { (u32::from(written) * WEIGHT_MAX / most).max(1) } else { u32::from(written) };
    written.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn moment(now: Instant) -> Moment {
        Moment { now, wall: SystemTime::UNIX_EPOCH, dice: 0, seed: 7 }
    }

    fn source(host: &str, every: Every) -> Source {
        let question = Question::Addresses { host: host.to_owned(), port: 80 };
        Source { question, every, servers: Vec::new(), tls: None, protocol: Protocol::Http1 }
    }

    fn found(address: &str) -> Found {
        Found { address: address.parse().expect("an address"), weight: 1, priority: 0, host: "app".to_owned() }
    }

    fn answer(addresses: &[&str]) -> Answer {
        Answer { found: addresses.iter().map(|address| found(address)).collect(), ttl: 5 * SECOND, unheard: Vec::new() }
    }

    fn names(discovery: &Discovery) -> Vec<String> {
        let mut names: Vec<String> = discovery.specs().into_iter().map(|spec| spec.name).collect();
        names.sort();
        names
    }

    #[test]
    fn weights_that_fit_stay_as_they_are() {
        assert_eq!(weights(&[1, 3, 1000]), [1, 3, 1000]);
        assert!(weights(&[]).is_empty());
    }

    #[test]
    fn weights_beyond_a_thousand_keep_their_proportion() {
        assert_eq!(weights(&[1001, 2002]), [500, 1000]);
        assert_eq!(weights(&[u16::MAX, 1]), [1000, 1]);
    }

    #[test]
    fn records_that_all_weigh_nothing_share_evenly() {
        assert_eq!(weights(&[0, 0, 0]), [1, 1, 1]);
    }

    #[test]
    fn a_weight_of_0_beside_others_is_a_very_small_chance() {
        assert_eq!(weights(&[0, 1]), [1, 1000]);
        assert_eq!(weights(&[0, 10, 20]), [1, 500, 1000]);
    }

    #[test]
    fn a_ttl_has_bounds() {
        for (ttl, holds) in [(0, 1), (1, 1), (2, 2), (3600, 3600), (3601, 3600), (86_400, 3600)] {
            assert_eq!(Every::Ttl.holds(ttl * SECOND), holds * SECOND, "{ttl}");
        }
        assert_eq!(Every::Fixed(30 * SECOND).holds(SECOND), 30 * SECOND);
    }

    #[test]
    fn failures_double_the_pause_up_to_a_bound() {
        let pauses = |every: Every| [1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|failures| every.backoff(failures).as_secs());
        assert_eq!(pauses(Every::Ttl), [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pauses(Every::Fixed(5 * SECOND)), [1, 2, 4, 5, 5, 5, 5, 5]);
    }

    #[test]
    fn an_answer_is_renewed_up_to_a_tenth_early_and_never_late() {
        assert_eq!(early(10 * SECOND, 0), 10 * SECOND);
        assert_eq!(early(10 * SECOND, u32::MAX), 9 * SECOND);
    }

    #[test]
    fn the_last_good_answer_stays() {
        let now = Instant::now();
        let discovery = Discovery::new(vec![source("app", Every::Ttl)], None, now);
        assert!(!discovery.is_looked_up());
        assert_eq!(discovery.take_in(0, Ok(answer(&["10.0.0.1:80"])), moment(now)), News::None);
        assert!(discovery.is_looked_up());
        assert_eq!(discovery.next(0), now + 5 * SECOND);
        assert_eq!(discovery.take_in(0, Err("no answer in time".to_owned()), moment(now)), News::FirstFailure);
        assert_eq!(discovery.take_in(0, Err("no answer in time".to_owned()), moment(now)), News::None);
        assert_eq!((names(&discovery), discovery.next(0)), (vec!["10.0.0.1:80".to_owned()], now + 2 * SECOND));
        assert_eq!(discovery.progress()[0].error.as_deref(), Some("no answer in time"));
        assert_eq!(discovery.take_in(0, Ok(answer(&["10.0.0.2:80"])), moment(now)), News::Recovered);
        assert_eq!(names(&discovery), ["10.0.0.2:80"]);
    }

    #[test]
    fn a_first_failure_ends_the_wait_for_a_first_answer() {
        let now = Instant::now();
        let discovery = Discovery::new(vec![source("a", Every::Ttl), source("b", Every::Ttl)], None, now);
        discovery.take_in(0, Ok(answer(&["10.0.0.1:80"])), moment(now));
        assert!(!discovery.is_looked_up());
        discovery.take_in(1, Err("the name does not exist".to_owned()), moment(now));
        assert!(discovery.is_looked_up());
    }

    #[test]
    fn what_was_known_of_what_could_not_be_heard_is_kept() {
        let now = Instant::now();
        let discovery = Discovery::new(vec![source("app", Every::Ttl)], None, now);
        discovery.take_in(0, Ok(answer(&["10.0.0.1:80", "[::1]:80"])), moment(now));
        let partial = Answer { unheard: vec![("app".to_owned(), Family::V6)], ..answer(&["10.0.0.2:80"]) };
        discovery.take_in(0, Ok(partial), moment(now));
        assert_eq!(names(&discovery), ["10.0.0.2:80", "[::1]:80"]);
    }

    #[test]
    fn an_answer_that_was_turned_around_is_the_same() {
        let (now, addresses) = (Instant::now(), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
        let discovery = Discovery::new(vec![source("app", Every::Ttl)], None, now);
        discovery.take_in(0, Ok(answer(&addresses)), moment(now));
        let before = discovery.specs();
        discovery.take_in(0, Ok(answer(&[addresses[2], addresses[0], addresses[1], addresses[2]])), moment(now));
        assert_eq!(discovery.specs(), before);
    }

    #[test]
    fn processes_begin_with_different_endpoints() {
        let addresses = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"];
        let first = |seed: u64| completed(answer(&addresses), &[], seed)[0].address;
        let firsts: std::collections::HashSet<SocketAddr> = (0..100).map(first).collect();
        assert_eq!(firsts.len(), addresses.len());
    }

    #[test]
    fn another_generation_goes_on_with_what_is_known() {
        let now = Instant::now();
        let before = Discovery::new(vec![source("a", Every::Ttl), source("b", Every::Ttl)], None, now);
        before.take_in(0, Ok(answer(&["10.0.0.1:80"])), moment(now));
        before.take_in(1, Ok(answer(&["10.0.0.2:80"])), moment(now));
        let later = now + SECOND;
        let after = Discovery::new(vec![source("c", Every::Ttl), source("b", Every::Ttl)], Some(&before), later);
        assert_eq!((names(&after), after.next(0), after.next(1)), (vec!["10.0.0.2:80".to_owned()], later, now + 5 * SECOND));
        assert!(!after.is_looked_up());
        // Another pace is kept from now on.
        let after = Discovery::new(vec![source("b", Every::Fixed(SECOND))], Some(&before), later);
        assert_eq!((names(&after), after.next(0)), (vec!["10.0.0.2:80".to_owned()], later));
        assert!(after.is_looked_up());
    }
}
