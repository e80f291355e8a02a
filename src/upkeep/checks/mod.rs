//! Makes the checks of health reports: each by itself, one at a time, whatever the others do.
//!
//! Judges nothing: `services::health` does.

mod local;
mod servers;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::AbortHandle;
use tokio::time::sleep_until;

use super::fetch;
use super::probe::line::Line;
use super::probe::{grpc, memcached};
use crate::algo::dice;
use crate::services::health::{Check, Facts, HttpQuestion, Question};
use crate::telemetry::clock;
use crate::tls;
use crate::upstream::health::Reason;
use crate::value::Address;
use local::Busy;

/// Starts it.
pub(super) fn watch(check: &Arc<Check>) -> AbortHandle {
    tokio::spawn(run(Arc::clone(check))).abort_handle()
}

async fn run(check: Arc<Check>) {
    let mut dice = clock::unix_now().as_nanos() as u64 ^ Arc::as_ptr(&check).addr() as u64;
    let busy = Busy::default();
    loop {
        let started = Instant::now();
        let found = ask(&check, &busy).await;
        let now = Instant::now();
        check.take(found, now - started, now, SystemTime::now());
        sleep_until(now.max(started + dice::jittered(&mut dice, check.interval)).into()).await;
    }
}

async fn ask(check: &Check, busy: &Busy) -> Result<Facts, Reason> {
    let line = |address: &Address| Line::to(address.clone(), check.peer.as_ref(), check.timeout);
    let nothing_more = |()| Facts::default();
    match &check.settings.question {
        Question::Tcp(address) => line(address).connect().await.map(|_| Facts::default()),
        Question::Certificate { address, days } => certificate(&line(address), *days).await,
        Question::Http(asked) => http(&line(&asked.url.address), asked, busy, check.timeout).await,
        Question::Grpc { endpoint, service } => grpc::check(&line(&endpoint.address), service).await.map(nothing_more),
        Question::Redis(asked) => servers::redis(&line(&asked.server.address), asked).await,
        Question::Memcached(address) => memcached::version(&line(address)).await.map(nothing_more),
        Question::Mysql(asked) => servers::mysql(&line(&asked.server.address), asked).await,
        Question::Postgres(asked) => servers::postgres(&line(&asked.server.address), asked).await,
        Question::File { path, max_age } => busy.file(path, *max_age, check.timeout).await,
        Question::Free { path, at_least } => busy.free(path, *at_least, check.timeout).await,
        Question::Exec(words) => local::exec(words, check.timeout).await,
    }
}

async fn http(line: &Line<'_>, asked: &HttpQuestion, busy: &Busy, time: Duration) -> Result<Facts, Reason> {
    let wire = line.open(Some(&[b"http/1.1"])).await?;
    // A body is read only where something is to hold of it.
    let most = if asked.json.is_some() { fetch::BODY_BYTES_MAX } else { 0 };
    let (status, body) = line.in_time(fetch::get(wire, &asked.url, most)).await?;
    if !asked.expect.have(status) {
        return Err(Reason::new(format!("answered {status}, expected {}", asked.expect)));
    }
    if let Some(filter) = &asked.json {
        let running = filter.clone();
        match busy.ask(time, move || Ok(running.holds(&body))).await? {
            Ok(true) => {}
            Ok(false) => return Err(Reason::new(format!("`{filter}` does not hold of its answer"))),
            Err(problem) => return Err(Reason::new(problem)),
        }
    }
    Ok(Facts { detail: Some(format!("answered {status}")), ..Facts::default() })
}

async fn certificate(line: &Line<'_>, days: u32) -> Result<Facts, Reason> {
    const DAY: i64 = 24 * 60 * 60;
    let mut wire = line.open(Some(&[])).await?;
    let expiry = wire.peer_certificate().and_then(tls::expiry).ok_or_else(|| Reason::new("it shows no certificate"))?;
    wire.say_goodbye();
    let now = i64::try_from(clock::unix_now().as_secs()).unwrap_or(i64::MAX);
    let left = (expiry - now).max(0) / DAY;
    if left < i64::from(days) {
        return Err(Reason::new(format!("its certificate is good for {left} days more, expected {days}")));
    }
    Ok(Facts { detail: Some(format!("good for {left} days")), ..Facts::default() })
}
