//! Asks where a pool's endpoints are, and when it is time, asks again.
//!
//! Keeps no endpoint and judges no answer: `upstream::Pool` does.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep_until, timeout};

use super::dns;
use crate::algo::dice;
use crate::telemetry::clock;
use crate::upstream::Pool;
use crate::upstream::discover::{Answer, Moment, Source};

/// Look-ups at once, of all pools.
static LOOK_UPS: Semaphore = Semaphore::const_new(64);
/// A look-up may ask for several names, each several times. It is over by then.
const LOOK_UP_MAX: Duration = Duration::from_secs(30);

/// Starts looking for endpoints of `pool`.
pub(super) fn watch(pool: &Arc<Pool>) -> Vec<AbortHandle> {
    let sources = 0..pool.discovery().sources().len();
    sources.map(|source| tokio::spawn(follow(Arc::clone(pool), source)).abort_handle()).collect()
}

async fn follow(pool: Arc<Pool>, source: usize) {
    let seed = seed();
    let mut rolls = seed ^ clock::unix_now().as_nanos() as u64 ^ (source as u64) << 32;
    loop {
        sleep_until(pool.discovery().next(source).into()).await;
        let answer = look_up(pool.discovery().sources()[source].clone()).await;
        let dice = dice::roll(&mut rolls) as u32;
        pool.discovered(source, answer, Moment { now: Instant::now(), wall: std::time::SystemTime::now(), dice, seed });
    }
}

/// The error says why nothing was found.
async fn look_up(source: Source) -> Result<Answer, String> {
    let Ok(_turn) = LOOK_UPS.acquire().await else { return Err("the process is ending".to_owned()) };
    // In a task of its own: an answer that the resolver has a bug with must not be the last one. It ends with the set.
    let mut looking = JoinSet::new();
    looking.spawn(async move { dns::look_up(&source).await });
    match timeout(LOOK_UP_MAX, looking.join_next()).await {
        Ok(Some(Ok(answer))) => answer,
        Ok(_) => Err("the answer could not be read".to_owned()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Of this process.
fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let mut state = clock::unix_now().as_nanos() as u64 ^ u64::from(std::process::id()) << 32;
        dice::roll(&mut state)
    })
}
