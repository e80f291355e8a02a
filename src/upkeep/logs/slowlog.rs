//! Slow commands of a Redis, each told once.
//!
//! Never resets its log: others may read it. What was pushed out of it before anybody looked is counted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::proto::resp::Reply;
use crate::tls::Peer;
use crate::upkeep::probe::line::{Line, TOO_LONG, Talk};
use crate::upkeep::probe::redis;
use crate::upstream::health::Reason;
use crate::value::Server;

/// How far its log was read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Of the process: identities begin anew with another one.
    run_id: String,
    /// The next one.
    next: i64,
}

/// What there was to tell.
pub(super) struct Found {
    /// Lines of JSON, the oldest first.
    pub(super) lines: Vec<String>,
    /// Were pushed out unread.
    pub(super) lost: u64,
    pub(super) seen: Seen,
    /// More than half of the log was new: it is better looked at sooner.
    pub(super) is_fast: bool,
}

const TIMEOUT: Duration = Duration::from_secs(5);
/// Of an answer.
const REPLY_BYTES_MAX: usize = 16 << 20;
/// Its log may be longer, but not be read at once.
pub(super) const ENTRIES_MAX: i64 = 10_000;

/// `most` entries, which become fewer where those are too long to be read.
pub(super) async fn look(server: &Server, peer: Option<&Peer>, seen: &Seen, most: &mut i64) -> Result<Found, Reason> {
    loop {
        match ask(server, peer, seen, *most).await {
            Err(reason) if reason.as_str() == TOO_LONG && *most > 1 => *most /= 2,
            found => return found,
        }
    }
}

async fn ask(server: &Server, peer: Option<&Peer>, seen: &Seen, most: i64) -> Result<Found, Reason> {
    let line = Line::to(server.address.clone(), peer, TIMEOUT);
    let mut talk = Talk::new(line.open(Some(&[])).await?).hearing_up_to(REPLY_BYTES_MAX);
    let most = most.to_string();
    let (info, entries) = line
        .in_time(async {
            let login = server.login.password.is_some().then_some(&server.login);
            redis::enter(&mut talk, login).await?;
            let mut all = redis::command(&["INFO", "server"]);
            all.extend(redis::command(&["SLOWLOG", "GET", &most]));
            talk.say(&all).await?;
            let info = talk.hear(|bytes| Reply::parse(bytes).map_err(Reason::new)).await?;
            let entries = talk.hear(|bytes| Reply::parse(bytes).map_err(Reason::new)).await?;
            Ok((info, entries))
        })
        .await?;
    talk.end();
    read(&info, &entries, seen)
}

fn read(info: &Reply, entries: &Reply, seen: &Seen) -> Result<Found, Reason> {
    let info = info.text().ok_or_else(|| Reason::new("it does not say who it is"))?;
    let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().trim().to_owned();
    let Reply::Array(entries) = entries else {
        return Err(Reason::new(format!("its slow commands cannot be read: {}", entries.text().unwrap_or_default())));
    };
    // The newest is first. One that cannot be read is not there.
    let mut read: Vec<(i64, String)> = entries.iter().filter_map(entry).collect();
    read.reverse();
    let newest = read.last().map(|(id, _)| *id);
    let is_other = seen.run_id != run_id || newest.is_some_and(|newest| newest + 1 < seen.next);
    let next = if is_other { 0 } else { seen.next };
    let has_been_read = !seen.run_id.is_empty();
    let oldest = read.first().map(|(id, _)| *id);
    let lost = match oldest {
        // What was before the first look is nobody's loss; what another process pushed out is.
        Some(oldest) if has_been_read && oldest > next => (oldest - next) as u64,
        _ => 0,
    };
    let total = read.len();
    let lines: Vec<String> = read.into_iter().filter(|(id, _)| *id >= next).map(|(_, line)| line).collect();
    let is_fast = lines.len() * 2 > total.max(16);
    let next = newest.map_or(next, |newest| newest + 1);
    Ok(Found { lines, lost, seen: Seen { run_id, next }, is_fast })
}

/// Its number, and what it says as JSON.
fn entry(reply: &Reply) -> Option<(i64, String)> {
    let Reply::Array(parts) = reply else { return None };
    let number = |at: usize| match parts.get(at)? {
        Reply::Integer(number) => Some(*number),
        other => other.text()?.parse().ok(),
    };
    let text = |at: usize| parts.get(at).and_then(Reply::text);
    let (id, at, micros) = (number(0)?, number(1)?, number(2)?);
    let Some(Reply::Array(words)) = parts.get(3) else { return None };
    let words: Vec<String> = words.iter().filter_map(Reply::text).collect();
    let mut line = serde_json::json!({
        "time": jiff::Timestamp::from_second(at).ok()?.to_string(),
        "level": "warn",
        "msg": words.join(" "),
        "id": id,
        "duration_seconds": micros as f64 / 1e6,
        "command": words.first().map(|word| word.to_ascii_lowercase()),
    });
    for (name, at) in [("client", 4), ("client_name", 5)] {
        if let Some(text) = text(at).filter(|text| !text.is_empty()) {
            line[name] = text.into();
        }
    }
    Some((id, line.to_string()))
}
