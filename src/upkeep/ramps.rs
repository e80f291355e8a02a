//! Has ramps go on when it is time, writes down how far they have come, and tells whoever wants to know.
//!
//! Judges nothing: `services::split::ramp` does.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until, timeout};

use super::kept::Keeper;
use super::probe::http1;
use crate::dial::{self, Opening};
use crate::services::Service;
use crate::services::split::Split;
use crate::services::split::ramp::{Event, Moment, Ramp};

/// Starts the ramp of a split, if it has one.
pub(super) fn watch(service: &Arc<Service>, keeper: &Arc<Keeper>) -> Option<AbortHandle> {
    let Service::Split(split) = &**service else { return None };
    let ramp = Arc::clone(split.ramp()?);
    // It may have gone on while this generation was compiled.
    split.follow();
    Some(tokio::spawn(run(Arc::clone(service), ramp, Arc::clone(keeper))).abort_handle())
}

async fn run(service: Arc<Service>, ramp: Arc<Ramp>, keeper: Arc<Keeper>) {
    let Service::Split(split) = &*service else { return };
    loop {
        let at = Moment::read();
        for event in split.turn(at) {
            note(split, &ramp, &event, at);
        }
        keep_if_changed(split, &ramp, &keeper, at);
        tokio::select! {
            () = sleep_until(ramp.next(at).into()) => {}
            () = ramp.steered.notified() => {
                let at = Moment::read();
                for event in ramp.take_orders() {
                    note(split, &ramp, &event, at);
                }
            }
        }
    }
}

fn keep_if_changed(split: &Split, ramp: &Ramp, keeper: &Keeper, at: Moment) {
    if ramp.has_changed() {
        keeper.put(&split.name, ramp.saved(at));
    }
}

fn note(split: &Split, ramp: &Arc<Ramp>, event: &Event, at: Moment) {
    let (service, arm) = (&split.name, &ramp.settings.arm.value.0);
    let share = f64::from(ramp.share()) / 1e6;
    match event {
        Event::Stepped(_) => tracing::info!(service, arm, share, "the ramp goes on"),
        Event::Done => tracing::info!(service, arm, share, "the ramp is done"),
        Event::Paused => tracing::info!(service, arm, share, "the ramp is paused"),
        Event::Resumed => tracing::info!(service, arm, share, "the ramp is resumed"),
        Event::Aborted(reason) => tracing::warn!(service, arm, share, reason, "the ramp is aborted"),
        Event::Mismatch(probability) => {
            tracing::warn!(service, probability, "users are not distributed as the shares say, and chance is not why");
        }
    }
    if ramp.settings.notify.is_some() {
        let body = message(split, ramp, event, at).to_string();
        let (name, ramp) = (split.name.clone(), Arc::clone(ramp));
        tokio::spawn(async move { tell(&name, &ramp, &body).await });
    }
}

fn message(split: &Split, ramp: &Ramp, event: &Event, at: Moment) -> serde_json::Value {
    let view = ramp.view(at);
    serde_json::json!({
        "event": event.word(),
        "service": split.name,
        "arm": ramp.settings.arm.value.0,
        "phase": view.phase.word(),
        "step": view.step + 1,
        "steps": ramp.settings.steps.value.len(),
        "share": f64::from(view.share) / 1e6,
        "reason": view.reason,
        "probability": if let Event::Mismatch(probability) = event { Some(*probability) } else { None },
        "at": jiff::Timestamp::try_from(at.wall).map(|at| at.to_string()).unwrap_or_default(),
    })
}

/// Messages on their way, of all ramps; beyond that they wait for each other.
static TELLING: Semaphore = Semaphore::const_new(16);
const TELL_ATTEMPTS: u32 = 3;
const TELL_MAX: Duration = Duration::from_secs(5);
const TELL_AGAIN: Duration = Duration::from_secs(2);

async fn tell(service: &str, ramp: &Ramp, body: &str) {
    let Ok(_turn) = TELLING.acquire().await else { return };
    for attempt in 1..=TELL_ATTEMPTS {
        match timeout(TELL_MAX, post(ramp, body)).await.unwrap_or_else(|_| Err(format!("no answer within {TELL_MAX:?}"))) {
            Ok(200..=299) => return,
            Ok(status) => tracing::warn!(service, attempt, status, "whoever is told of the ramp did not want to know"),
            Err(reason) => tracing::warn!(service, attempt, reason, "cannot tell of the ramp"),
        }
        if attempt < TELL_ATTEMPTS {
            sleep(TELL_AGAIN).await;
        }
    }
}

async fn post(ramp: &Ramp, body: &str) -> Result<u16, String> {
    let Some(hook) = &ramp.settings.notify else { return Err("there is nobody to tell".to_owned()) };
    let hook = &hook.value.0;
    let opening = Opening { greeting: &[], alpn: None, timeout: TELL_MAX, seat: None };
    let mut wire = dial::dial(&hook.address, ramp.peer.as_ref(), opening).await.map_err(|error| format!("cannot connect: {error:?}"))?;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: attache\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        hook.path,
        hook.authority,
        body.len()
    );
    wire.write_all(head.as_bytes()).await.map_err(|error| error.to_string())?;
    http1::ask(wire, body.as_bytes()).await.map_err(|reason| reason.as_str().to_owned())
}
