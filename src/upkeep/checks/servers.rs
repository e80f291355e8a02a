//! Asks servers of data: whether they answer, which role they have, and how far behind they are.
//!
//! Requires nothing of the answers: the question's own judgement does.

use std::time::Duration;

use crate::services::health::{Facts, Role, ServerQuestion};
use crate::services::metrics::sql::{MYSQL_REPLICA, OWN_ROWS_MAX};
use crate::upkeep::probe::line::Line;
use crate::upkeep::probe::{mysql, postgres, redis};
use crate::upstream::health::{Login, Reason};

const SELECT: &str = "SELECT 1";

pub(super) async fn redis(line: &Line<'_>, asked: &ServerQuestion) -> Result<Facts, Reason> {
    let login = &asked.server.login;
    let login = login.password.is_some().then_some(login);
    let Some(info) = redis::well_and_info(line, login).await? else { return Ok(Facts::default()) };
    let value = |name: &str| info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'));
    let role = match value("role") {
        Some("master") => Some(Role::Primary),
        Some("slave") => Some(Role::Replica),
        _ => None,
    };
    if role == Some(Role::Replica) && value("master_link_status") != Some("up") {
        return Err(Reason::new("its link to the primary is down"));
    }
    let lag = value("master_last_io_seconds_ago").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    Ok(Facts { role, lag, detail: None })
}

pub(super) async fn mysql(line: &Line<'_>, asked: &ServerQuestion) -> Result<Facts, Reason> {
    let login = &asked.server.login;
    if login.user.is_none() {
        return mysql::greeting(line).await.map(|()| Facts::default());
    }
    line.in_time(async {
        let mut session = mysql::Session::open(line, login).await?;
        let facts = mysql_facts(&mut session, asked).await?;
        session.end().await?;
        Ok(facts)
    })
    .await
}

async fn mysql_facts(session: &mut mysql::Session, asked: &ServerQuestion) -> Result<Facts, Reason> {
    let query = asked.query.as_deref().unwrap_or(SELECT);
    let rows = session.rows(query, OWN_ROWS_MAX).await?;
    asked.check(rows.first().and_then(|row| row.first()).and_then(|(_, value)| value.as_deref()))?;
    let read_only = session.rows("SELECT @@global.read_only", 1).await?;
    let is_writable = read_only.first().and_then(|row| row.first()).is_some_and(|(_, value)| matches!(value.as_deref(), Some("0" | "OFF")));
    let role = if is_writable { Role::Primary } else { Role::Replica };
    let mut lag = None;
    if role == Role::Replica {
        // Of MySQL 8.0.22 and MariaDB 10.5.1, and of those before. Without the privilege nobody says how far behind it is.
        for query in MYSQL_REPLICA {
            let Ok(rows) = session.rows(query, OWN_ROWS_MAX).await else { continue };
            let behind = |(name, value): &(String, Option<String>)| {
                ["Seconds_Behind_Source", "Seconds_Behind_Master"].contains(&name.as_str()).then(|| value.clone()).flatten()
            };
            let seconds = rows.first().and_then(|row| row.iter().find_map(behind));
            lag = seconds.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
            break;
        }
    }
    Ok(Facts { role: Some(role), lag, detail: None })
}

/// Whether it replays a primary's log; and of when the latest of that is, unless somebody sends it more and it has replayed all: a replica
/// that is cut off has replayed all that it has, too.
const RECOVERY: &str = "SELECT pg_is_in_recovery()";
const LAG: &str = "SELECT CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() \
                   AND EXISTS (SELECT 1 FROM pg_stat_wal_receiver) THEN 0 \
                   ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END";

pub(super) async fn postgres(line: &Line<'_>, asked: &ServerQuestion) -> Result<Facts, Reason> {
    let login: &Login = &asked.server.login;
    if login.user.is_none() {
        return postgres::knock(line).await.map(|()| Facts::default());
    }
    let query = asked.query.as_deref().unwrap_or(SELECT);
    let answers = postgres::ask(line, login, &[query, RECOVERY, LAG]).await?;
    let [first, recovers, lag] = answers.as_slice() else { return Err(Reason::new("it does not answer every question")) };
    asked.check(first.as_deref())?;
    let role = match recovers.as_deref() {
        Some("f") => Some(Role::Primary),
        Some("t") => Some(Role::Replica),
        _ => None,
    };
    let lag = lag.as_deref().and_then(|seconds| seconds.parse().ok()).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Ok(Facts { role, lag: lag.filter(|_| role == Some(Role::Replica)), detail: None })
}
