//! Asks endpoints how they are, and which of them leads: who is asked when.
//!
//! Judges no answer: `upstream::health` and `upstream::leader` do.

pub(super) mod grpc;
pub(super) mod http1;
mod http2;
pub(super) mod line;
pub(super) mod memcached;
pub(super) mod mysql;
pub(super) mod postgres;
pub(super) mod redis;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use crate::algo::dice;
use crate::telemetry::clock;
use crate::upstream::health::{self, Probe, Reason};
use crate::upstream::leader::{self, Election, Question, Said};
use crate::upstream::{Endpoint, EndpointId, Membership, Pool, Protocol};
use line::Line;

/// Probes of one pool at once, for each of the two things that may be asked. More wait, so that a thousand endpoints that are
/// all gone do not use up the process's descriptors.
const FLYING_MAX: usize = 256;
/// Between the first probes of two endpoints, at most.
const STEP_MAX: Duration = Duration::from_millis(10);

/// Starts what `pool` wants to know of its endpoints.
pub(super) fn watch(pool: &Arc<Pool>) -> Vec<AbortHandle> {
    let now = Instant::now();
    let mut tasks = Vec::new();
    let mut begin = |purpose| tasks.push(tokio::spawn(Rounds::new(Arc::clone(pool), purpose).run()).abort_handle());
    match &pool.policy.health {
        Some(_) => begin(Purpose::Health),
        None => health::forget(pool, now),
    }
    match &pool.policy.leader {
        Some(_) => {
            leader::begin(pool, now);
            begin(Purpose::Leader(Election::default()));
        }
        None => leader::forget(pool, now),
    }
    // The pool that this one takes the place of may have barred somebody since this one counted.
    pool.recount();
    tasks
}

/// What is asked over and over.
enum Purpose {
    Health,
    Leader(Election),
}

/// What one probe came to.
enum Found {
    Health(Result<(), Reason>),
    Leader(Said),
}

/// All probes of one purpose in one pool: at most one at a time for each member.
struct Rounds {
    pool: Arc<Pool>,
    purpose: Purpose,
    interval: Duration,
    /// As it was last looked at.
    membership: Option<Arc<Membership>>,
    members: HashMap<EndpointId, Watched>,
    /// Who is asked next. Those who left stay in here until their time.
    due: BinaryHeap<Reverse<(Instant, EndpointId)>>,
    flying: JoinSet<Found>,
    flyers: HashMap<Id, (EndpointId, Instant)>,
    dice: u64,
}

struct Watched {
    endpoint: Arc<Endpoint>,
    flying: Option<AbortHandle>,
}

impl Rounds {
    fn new(pool: Arc<Pool>, purpose: Purpose) -> Self {
        let policy = &pool.policy;
        let interval = match purpose {
            Purpose::Health => policy.health.as_ref().map(|health| health.interval),
            Purpose::Leader(_) => policy.leader.as_ref().map(|leader| leader.interval),
        };
        Self {
            interval: interval.expect("only what a pool asks for is started"),
            dice: clock::unix_now().as_nanos() as u64 ^ u64::from(std::process::id()) << 32,
            pool,
            purpose,
            membership: None,
            members: HashMap::new(),
            due: BinaryHeap::new(),
            flying: JoinSet::new(),
            flyers: HashMap::new(),
        }
    }

    /// Until it is aborted; probes in flight end with it.
    async fn run(mut self) {
        let pool = Arc::clone(&self.pool);
        loop {
            // From here on no change is missed, and those before are seen by looking.
            let mut changed = pin!(pool.changed.notified());
            changed.as_mut().enable();
            self.meet(Instant::now());
            self.start_due(Instant::now());
            let next = self.due.peek().filter(|_| self.flying.len() < FLYING_MAX).map(|Reverse((at, _))| *at);
            tokio::select! {
                biased;
                Some(landed) = self.flying.join_next_with_id() => self.land(landed, Instant::now()),
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now).into()), if next.is_some() => {}
                () = changed => {}
            }
        }
    }

    /// Takes in who joined and who left.
    fn meet(&mut self, now: Instant) {
        let membership = Arc::clone(&self.pool.membership());
        if self.membership.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &membership)) {
            return;
        }
        let ids: HashSet<EndpointId> = membership.members().iter().map(|member| member.endpoint.id).collect();
        self.members.retain(|id, watched| {
            let stays = ids.contains(id);
            if let (false, Some(flying)) = (stays, &watched.flying) {
                flying.abort();
            }
            stays
        });
        let joined: Vec<&Arc<Endpoint>> = membership
            .members()
            .iter()
            .map(|member| &member.endpoint)
            .filter(|endpoint| !self.members.contains_key(&endpoint.id))
            .collect();
        let step = STEP_MAX.min(self.interval / u32::try_from(joined.len()).unwrap_or(u32::MAX).max(1));
        for (number, endpoint) in (0u32..).zip(joined) {
            // One after another; and whoever was asked a moment ago, under the configuration before, has its time.
            let spread = now + step * number;
            let due = self.asked_last(endpoint).map_or(spread, |at| spread.max(at + self.jittered()));
            self.due.push(Reverse((due, endpoint.id)));
            self.members.insert(endpoint.id, Watched { endpoint: Arc::clone(endpoint), flying: None });
        }
        self.membership = Some(membership);
    }

    fn asked_last(&self, endpoint: &Endpoint) -> Option<Instant> {
        let health = endpoint.health();
        let last = match self.purpose {
            Purpose::Health => &health.last,
            Purpose::Leader(_) => &health.claim.last,
        };
        last.as_ref().map(|finding| finding.at)
    }

    /// The interval, give or take a tenth: endpoints that are asked at the same time by everybody suffer at the same time.
    fn jittered(&mut self) -> Duration {
        dice::jittered(&mut self.dice, self.interval)
    }

    fn start_due(&mut self, now: Instant) {
        while self.flying.len() < FLYING_MAX
            && let Some(&Reverse((at, id))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            let Some(watched) = self.members.get_mut(&id) else { continue };
            let (pool, endpoint) = (Arc::clone(&self.pool), Arc::clone(&watched.endpoint));
            let started = match self.purpose {
                Purpose::Health => self.flying.spawn(async move { Found::Health(ask_health(&pool, &endpoint).await) }),
                Purpose::Leader(_) => self.flying.spawn(async move { Found::Leader(ask_leader(&pool, &endpoint).await) }),
            };
            self.flyers.insert(started.id(), (id, now));
            watched.flying = Some(started);
        }
    }

    /// Hands on what a probe found, and says when the next one is.
    fn land(&mut self, landed: Result<(Id, Found), JoinError>, now: Instant) {
        let (task, found) = match landed {
            Ok((task, found)) => (task, Some(found)),
            Err(error) => (error.id(), None),
        };
        let Some((id, started)) = self.flyers.remove(&task) else { return };
        let due = now.max(started + self.jittered());
        let Some(watched) = self.members.get_mut(&id) else { return };
        watched.flying = None;
        self.due.push(Reverse((due, id)));
        let endpoint = &watched.endpoint;
        match (found, &mut self.purpose) {
            (Some(Found::Health(result)), _) => {
                if let Some(settings) = &self.pool.policy.health {
                    settings.judge(&self.pool, endpoint, result, now);
                }
            }
            (Some(Found::Leader(said)), Purpose::Leader(election)) => election.take(&self.pool, endpoint, said, now),
            // A bug of ours, which the hook has counted, says nothing of the endpoint.
            (None, _) | (Some(Found::Leader(_)), Purpose::Health) => {}
        }
    }
}

async fn ask_health(pool: &Pool, endpoint: &Endpoint) -> Result<(), Reason> {
    let Some(settings) = &pool.policy.health else { return Ok(()) };
    let line = Line::new(pool, endpoint, settings.port, settings.timeout)?;
    match &settings.probe {
        Probe::Tcp => line.connect().await.map(drop),
        Probe::Tls => line.shake_hands().await,
        Probe::Http(http) => {
            get(&line, endpoint.protocol, http).await?.map_err(|status| Reason::new(format!("answered {status}, expected {}", http.expect)))
        }
        Probe::Grpc(service) => grpc::check(&line, service).await,
        Probe::Redis(login) => redis::ping(&line, login.as_ref()).await,
        Probe::Memcached => memcached::version(&line).await,
        Probe::Mysql(None) => mysql::greeting(&line).await,
        Probe::Mysql(Some(login)) => mysql::select(&line, login).await,
        Probe::Postgres(None) => postgres::knock(&line).await,
        Probe::Postgres(Some(login)) => postgres::select(&line, login).await,
    }
}

async fn ask_leader(pool: &Pool, endpoint: &Endpoint) -> Said {
    let Some(settings) = &pool.policy.leader else { return Said::Follows };
    let asked = async {
        let line = Line::new(pool, endpoint, settings.port, settings.timeout)?;
        match &settings.question {
            Question::Http(http) => Ok(get(&line, endpoint.protocol, http).await?.is_ok()),
            Question::Redis(login) => redis::leads(&line, login.as_ref()).await,
            Question::Postgres(login) => postgres::leads(&line, login).await,
        }
    };
    match asked.await {
        Ok(true) => Said::Leads,
        Ok(false) => Said::Follows,
        Err(reason) => Said::Nothing(reason),
    }
}

/// A GET in whatever HTTP the endpoint speaks. `Ok(Err(status))` for an answer that is none of those expected.
async fn get(line: &Line<'_>, protocol: Protocol, probe: &health::HttpProbe) -> Result<Result<(), u16>, Reason> {
    let wire = line.open(None).await?;
    let is_http2 = match protocol {
        Protocol::Http1 => false,
        Protocol::Http2 => true,
        Protocol::Auto => wire.has_chosen_http2(),
    };
    let host = probe.host.clone().unwrap_or_else(|| line.host());
    let status = if is_http2 {
        line.in_time(http2::get(wire, line.scheme(), &host, &probe.path)).await?
    } else {
        line.in_time(http1::get(wire, &host, &probe.path)).await?
    };
    Ok(if probe.expect.have(status) { Ok(()) } else { Err(status) })
}
