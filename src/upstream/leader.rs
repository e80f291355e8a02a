//! Which endpoint leads, by what each says of itself.
//!
//! Asks nobody and reads no clock; `upkeep` does. Elects nobody either: the endpoints did, and this finds out whom.

use std::time::{Duration, Instant};

use super::health::settings::{HostText, Interval, Path, check_timeout, kinds, login, only};
use super::health::{Finding, HttpProbe, Login, Reason, Statuses};
use super::{Bar, Endpoint, Member, Pool};
use crate::value::{Decode, Fields, Grace, Item, Reader, Spanned, Value, Whole};

/// How a pool finds out which of its endpoints leads.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub question: Question,
    /// From one question to an endpoint to the next, give or take a tenth.
    pub interval: Duration,
    /// For the whole answer; at most `interval`.
    pub timeout: Duration,
    /// How long a request may wait for a leader where there is none.
    pub wait: Duration,
    /// Another port than requests go to.
    pub port: Option<u16>,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// A GET; who leads answers 200.
    Http(HttpProbe),
    /// `ROLE`: `master`.
    Redis(Option<Login>),
    /// Whether it is in recovery, as followers are.
    Postgres(Login),
}

/// Failures in a row after which a leader is thought to have gone.
const FALL: u32 = 2;

const KINDS: [&str; 3] = ["path", "redis", "postgres"];
const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_secs(5);

impl Decode for Settings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "how to find the leader", reader)?;
        let place = fields.place();
        let written = kinds(&KINDS, &mut fields);
        let host = fields.optional::<Spanned<HostText>>("host", reader);
        let interval = fields.or("interval", Interval(INTERVAL), reader);
        let timeout = fields.optional::<Spanned<Duration>>("timeout", reader);
        let wait = fields.or("wait", Grace(WAIT), reader);
        let port = fields.optional::<Whole<1, 65535>>("port", reader);
        let rest = fields.finish(reader);
        let kind = only(&written, rest, place, "write path = \"/leader\", redis = true or postgres = \"…\"", reader);
        let ((kind, entry), host) = (kind?, host?);
        if let Some(host) = host.as_ref().filter(|_| kind != "path") {
            reader.error(host.place, format!("`host` is for elections by `path`, this one asks `{kind}`")).help("remove it");
            return None;
        }
        let question = match kind {
            "path" => Path::decode(&entry.item, reader)
                .map(|path| Question::Http(HttpProbe { path: path.0, host: host.map(|host| host.value.0), expect: Statuses::ok() })),
            "redis" => login(entry, "redis", reader, Question::Redis),
            _ if !matches!(entry.item.value, Value::String(_)) => {
                reader
                    .error(entry.item.place, "who leads is asked in SQL, and that takes a login")
                    .help("write \"postgres://user:password@/database\"");
                None
            }
            _ => login(entry, "postgres", reader, |login| login.map(Question::Postgres)).flatten(),
        };
        let interval = interval?.0;
        let timeout = check_timeout(timeout?.as_ref(), TIMEOUT, interval, reader);
        rest?;
        Some(Self { question: question?, interval, timeout: timeout?, wait: wait?.0, port: port?.map(|port| port.0 as u16) })
    }
}

/// What an endpoint said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Leads,
    Follows,
    /// Nothing that tells.
    Nothing(Reason),
}

/// What is known of one endpoint's claim to lead.
#[derive(Debug, Default)]
pub struct Claim {
    /// When it began to claim, if it does.
    since: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    pub last: Option<Finding>,
}

impl Claim {
    fn take(&mut self, said: Said, now: Instant) {
        match said {
            Said::Leads => {
                self.since.get_or_insert(now);
                self.failures = 0;
            }
            Said::Follows => {
                self.since = None;
                self.failures = 0;
            }
            Said::Nothing(_) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= FALL {
                    self.since = None;
                }
            }
        }
        let result = if let Said::Nothing(reason) = said { Err(reason) } else { Ok(()) };
        self.last = Some(Finding { at: now, result });
    }

    /// Claims are ordered by this, the best one last: what was said just now counts more than what is still remembered, and
    /// who began to claim last has most likely been told to.
    fn rank(&self) -> Option<(bool, Instant)> {
        self.since.map(|since| (self.failures == 0, since))
    }
}

/// An election of one pool, for as long as its probes go on.
#[derive(Default)]
pub struct Election {
    /// That two claim to lead was said already.
    is_disputed: bool,
}

impl Election {
    /// Takes in what `endpoint` said, and lets `pool` know if another one leads now.
    pub fn take(&mut self, pool: &Pool, endpoint: &Endpoint, said: Said, now: Instant) {
        endpoint.metrics.checked(!matches!(said, Said::Nothing(_)));
        let is_repeated = said == Said::Leads && endpoint.health().claim.since.is_some();
        let reason = if let Said::Nothing(reason) = &said { Some(reason.clone()) } else { None };
        endpoint.health().claim.take(said, now);
        let membership = pool.membership();
        let leader = leader(membership.members());
        let before = membership.members().iter().map(|member| &member.endpoint).find(|endpoint| !endpoint.has(Bar::Follower));
        let (service, name) = (&pool.name, &endpoint.name);
        match (before, leader) {
            (Some(before), Some(leader)) if before.id == leader.id => {}
            (None, None) => {}
            (_, Some(leader)) => tracing::info!(service, endpoint = leader.name, "leads"),
            (Some(before), None) => {
                let reason = reason.as_ref().map_or("it says that it does not", Reason::as_str);
                tracing::warn!(service, endpoint = before.name, reason, "nobody leads any more");
            }
        }
        // Who leads now may have begun a moment ago; that the other still says so when it is asked again is no accident.
        let is_disputed = is_repeated && leader.is_some_and(|leader| leader.id != endpoint.id);
        if is_disputed && !self.is_disputed {
            let leader = leader.map(|leader| leader.name.as_str());
            tracing::warn!(service, endpoint = name, leader, "two endpoints claim to lead; the one that began to last does");
        }
        // Of several, only the leader's own answers say nothing of a dispute.
        let is_alone = membership.members().iter().filter(|member| member.endpoint.health().claim.since.is_some()).count() < 2;
        self.is_disputed = (self.is_disputed || is_disputed) && !is_alone;
        install(pool, membership.members(), leader, now);
    }
}

/// Bars everybody but `leader`; first of all those that led, so that two never do.
fn install(pool: &Pool, members: &[Member], leader: Option<&Endpoint>, now: Instant) {
    for member in members.iter().filter(|member| leader.is_none_or(|leader| leader.id != member.endpoint.id)) {
        pool.bar(&member.endpoint, Bar::Follower);
    }
    if let Some(leader) = leader {
        pool.readmit(leader, Bar::Follower, now);
    }
}

fn leader(members: &[Member]) -> Option<&Endpoint> {
    let rank = |endpoint: &Endpoint| endpoint.health().claim.rank();
    let ranked = members.iter().filter_map(|member| rank(&member.endpoint).map(|rank| (rank, &*member.endpoint)));
    ranked.max_by_key(|(rank, _)| *rank).map(|(_, endpoint)| endpoint)
}

/// Bars whoever is not known to lead, when the questions begin.
pub fn begin(pool: &Pool, now: Instant) {
    let membership = pool.membership();
    install(pool, membership.members(), leader(membership.members()), now);
}

/// Nobody asks who leads any more: everybody may.
pub fn forget(pool: &Pool, now: Instant) {
    for member in pool.membership().members() {
        member.endpoint.health().claim = Claim::default();
        pool.readmit(&member.endpoint, Bar::Follower, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Who leads after each moment, of as many candidates as `said` has lines: `L` leads, `F` follows, `-` nothing.
    #[track_caller]
    fn check(said: &[&str], expected: &str) {
        let start = Instant::now();
        let mut claims: Vec<Claim> = said.iter().map(|_| Claim::default()).collect();
        let mut leaders = String::new();
        for moment in 0..expected.len() {
            for (number, (claim, said)) in claims.iter_mut().zip(said).enumerate() {
                let said = match said.as_bytes()[moment] {
                    b'L' => Said::Leads,
                    b'F' => Said::Follows,
                    _ => Said::Nothing(Reason::new("no")),
                };
                // One after another, as they are asked.
                claim.take(said, start + SECOND * moment as u32 + SECOND / 10 * number as u32);
            }
            let ranked = claims.iter().enumerate().filter_map(|(number, claim)| claim.rank().map(|rank| (rank, number)));
            leaders.push(ranked.max().map_or('.', |(_, number)| char::from(b'a' + number as u8)));
        }
        assert_eq!(leaders, expected, "{said:?}");
    }

    #[test]
    fn who_says_so_leads() {
        check(&["FFF", "FFF"], "...");
        check(&["FLLF", "FFFL"], ".aab");
        check(&["---", "---"], "...");
    }

    #[test]
    fn of_two_the_one_that_began_last_leads() {
        check(&["LLLL", "FLLF"], "abba");
        check(&["FLLL", "LLLL"], "baaa");
    }

    #[test]
    fn a_leader_that_is_not_heard_leads_until_the_second_time() {
        check(&["L-L-L--L", "FFFFFFFF"], "aaaaaa.a");
    }

    #[test]
    fn a_leader_that_is_not_heard_gives_way_to_one_that_is() {
        check(&["L-", "FL"], "ab");
        // Even to one that began before it.
        check(&["FL-L", "LLLL"], "baba");
    }
}
