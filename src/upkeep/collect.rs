//! Asks programs for their metrics, when a scrape wants them: one question to each at a time.
//!
//! Makes nothing of the answers: `services::metrics` does.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::task::{AbortHandle, spawn_blocking};

use super::probe::line::{Line, Talk};
use super::probe::{mysql, postgres, redis};
use super::{Lingering, fetch, processes, program, statsd};
use crate::proto::resp::Reply;
use crate::services::metrics::process::{self, Table};
use crate::services::metrics::sql::Rows;
use crate::services::metrics::{self, Collected, Document, Page, Printed, Probes, Program, Query, Question, Source, documents, sql};
use crate::upstream::health::Reason;
use crate::value::Server;

/// Starts it.
pub(super) fn watch(source: &Arc<Source>) -> AbortHandle {
    tokio::spawn(run(Arc::clone(source))).abort_handle()
}

async fn run(source: Arc<Source>) {
    loop {
        source.wanted.notified().await;
        let began = Instant::now();
        // By itself, so that a bug of ours is its error and not the end of all answers.
        let collecting = Arc::clone(&source);
        let said = tokio::spawn(async move { collect(&collecting).await }).await;
        let (page, table, error) = match said {
            Ok(Ok((page, table))) => (page, table, None),
            Ok(Err(reason)) => (source.blank(began), None, Some(reason.to_string())),
            Err(error) => (source.blank(began), None, Some(error.to_string())),
        };
        if let Some(error) = &error {
            tracing::debug!(source = source.name, error, "no metrics");
        }
        source.publish(Collected { began, took: began.elapsed(), page, table, error });
    }
}

/// Starts it for those that whoever scrapes names.
pub(super) fn watch_named(probes: &Arc<Probes>) -> AbortHandle {
    let probes = Arc::clone(probes);
    tokio::spawn(async move {
        let mut works: Vec<(Arc<Source>, Lingering)> = Vec::new();
        loop {
            let sources = probes.sources();
            works.retain(|(known, _)| sources.iter().any(|stays| Arc::ptr_eq(stays, known)));
            for source in sources {
                if works.iter().all(|(known, _)| !Arc::ptr_eq(known, &source)) {
                    let work = Lingering(watch(&source));
                    works.push((source, work));
                }
            }
            probes.changed.notified().await;
        }
    })
    .abort_handle()
}

async fn collect(source: &Arc<Source>) -> Result<(Page, Option<Table>), Reason> {
    let said = match &source.settings.question {
        Question::Redis(server) => ask_redis(source, server).await,
        Question::Memcached(server) => ask_memcached(source, server).await,
        Question::Mysql(server, queries) => ask_mysql(source, server, queries).await,
        Question::Postgres(server, queries) => ask_postgres(source, server, queries).await,
        Question::Prometheus(at, _) | Question::Json(at, _) | Question::Text(at, _) => ask_for(source, at).await,
        Question::Exec(program) => ask_program(source, program).await,
        Question::Statsd(_) => ask_heard(source).await,
        Question::Process(settings) => return look_at_processes(source, settings).await,
    };
    said.map(|page| (page, None))
}

/// Nobody is asked: it was said before. On another thread, since there may be much of it.
async fn ask_heard(source: &Arc<Source>) -> Result<Page, Reason> {
    filled(source, |source, page| {
        if let Some(heard) = &source.heard {
            heard.lost(statsd::lost(&heard.sockets()));
            heard.write(&source.settings.labels, page, Instant::now());
        }
        Ok(())
    })
    .await
}

/// A page that is filled on another thread, since a long answer takes longer to read than the next probe may wait.
async fn filled(
    source: &Arc<Source>,
    fill: impl FnOnce(&Source, &mut Page) -> Result<(), String> + Send + 'static,
) -> Result<Page, Reason> {
    let source = Arc::clone(source);
    let filling = spawn_blocking(move || {
        let mut page = source.blank(Instant::now());
        fill(&source, &mut page).map(|()| page)
    });
    filling.await.map_err(|error| Reason::new(error.to_string()))?.map_err(Reason::new)
}

async fn look_at_processes(source: &Arc<Source>, settings: &process::Settings) -> Result<(Page, Option<Table>), Reason> {
    match source.known.age(Instant::now()) {
        Some(age) if age <= process::LONGEST => tokio::time::sleep(process::SHORTEST.saturating_sub(age)).await,
        // There is nothing to compare with yet.
        _ => {
            look(source, settings).await?;
            tokio::time::sleep(process::SHORTEST).await;
        }
    }
    let (page, table) = look(source, settings).await?;
    Ok((page, Some(table)))
}

async fn look(source: &Arc<Source>, settings: &process::Settings) -> Result<(Page, Table), Reason> {
    let (source, settings) = (Arc::clone(source), settings.clone());
    let looking = spawn_blocking(move || {
        let mut page = source.blank(Instant::now());
        let table = source.known.take(processes::read(&settings)?, &source.settings.labels, &mut page);
        Ok((page, table))
    });
    looking.await.map_err(|error| Reason::new(error.to_string()))?.map_err(|error: String| Reason::new(error))
}

/// The longest answer to one command.
const REPLY_BYTES_MAX: usize = 4 << 20;

async fn ask_redis(source: &Arc<Source>, server: &Server) -> Result<Page, Reason> {
    let line = Line::to(server.address.clone(), source.peer.as_ref(), source.timeout);
    let mut talk = Talk::new(line.open(Some(&[])).await?).hearing_up_to(REPLY_BYTES_MAX);
    let replies = line
        .in_time(async {
            let login = server.login.password.is_some().then_some(&server.login);
            redis::enter(&mut talk, login).await?;
            let all: Vec<u8> = metrics::redis::COMMANDS.iter().flat_map(|words| redis::command(words)).collect();
            talk.say(&all).await?;
            let mut replies = Vec::with_capacity(metrics::redis::COMMANDS.len());
            for _ in metrics::redis::COMMANDS {
                replies.push(talk.hear(|bytes| Reply::parse(bytes).map_err(Reason::new)).await?);
            }
            Ok(replies)
        })
        .await?;
    talk.end();
    filled(source, move |source, page| metrics::redis::read(&replies, &source.settings.labels, page)).await
}

async fn ask_memcached(source: &Arc<Source>, server: &Server) -> Result<Page, Reason> {
    let line = Line::to(server.address.clone(), None, source.timeout);
    let mut talk = Talk::new(line.open(Some(&[])).await?).hearing_up_to(REPLY_BYTES_MAX);
    let stats = line
        .in_time(async {
            talk.say(b"stats\r\n").await?;
            let mut stats = String::new();
            loop {
                let line = talk.line().await?;
                if line == "END" {
                    return Ok(stats);
                }
                if !line.starts_with("STAT ") || stats.len() > REPLY_BYTES_MAX {
                    return Err(Reason::new(format!("answered `{line}`")));
                }
                stats.push_str(&line);
                stats.push('\n');
            }
        })
        .await?;
    filled(source, move |source, page| {
        documents::memcached(&stats, &source.settings.labels, page);
        Ok(())
    })
    .await
}

async fn ask_for(source: &Arc<Source>, at: &Document) -> Result<Page, Reason> {
    let line = Line::to(at.url.address.clone(), source.peer.as_ref(), source.timeout);
    let wire = line.open(Some(&[b"http/1.1"])).await?;
    let (status, body) = line.in_time(fetch::get(wire, &at.url, at.most)).await?;
    if status != 200 {
        return Err(Reason::new(format!("answered {status}, expected 200")));
    }
    read(source, body).await
}

async fn ask_program(source: &Arc<Source>, program: &Program) -> Result<Page, Reason> {
    let ended = program::run(&program.words, source.timeout, program.most).await?;
    match ended.failure {
        Some(how) => Err(Reason::new(how)),
        None if ended.is_cut => Err(Reason::new("it prints too much")),
        None => read(source, ended.said.into()).await,
    }
}

async fn read(source: &Arc<Source>, document: Bytes) -> Result<Page, Reason> {
    filled(source, move |source, page| {
        let ours = &source.settings.labels;
        let text = || std::str::from_utf8(&document).map_err(|_| "its answer is not UTF-8".to_owned());
        match &source.settings.question {
            Question::Prometheus(_, rules) | Question::Exec(Program { printed: Printed::Page(rules), .. }) => {
                documents::prometheus(text()?, rules, ours, page)
            }
            Question::Json(_, mappings) | Question::Exec(Program { printed: Printed::Json(mappings), .. }) => {
                documents::json(&document, mappings, ours, page)
            }
            Question::Text(_, matches) | Question::Exec(Program { printed: Printed::Text(matches), .. }) => {
                documents::text_matches(text()?, matches, ours, page)
            }
            Question::Redis(_)
            | Question::Memcached(_)
            | Question::Mysql(..)
            | Question::Postgres(..)
            | Question::Process(_)
            | Question::Statsd(_) => Ok(()),
        }
    })
    .await
}

async fn ask_mysql(source: &Arc<Source>, server: &Server, queries: &[Query]) -> Result<Page, Reason> {
    let line = Line::to(server.address.clone(), None, source.timeout);
    let (status, variables, replica, tables, asked) = line
        .in_time(async {
            let mut session = mysql::Session::open(&line, &server.login).await?;
            let status = session.rows(sql::MYSQL[0], sql::OWN_ROWS_MAX).await?;
            let variables = session.rows(sql::MYSQL[1], sql::OWN_ROWS_MAX).await?;
            let mut replica = Vec::new();
            for query in sql::MYSQL_REPLICA {
                // Of another version, or not for everybody.
                let Ok(rows) = session.rows(query, sql::OWN_ROWS_MAX).await else { continue };
                replica = rows;
                break;
            }
            let mut tables = Vec::with_capacity(sql::MYSQL_TABLES.len());
            for table in &sql::MYSQL_TABLES {
                // Not every version has every table.
                tables.push(session.rows(table.sql, sql::OWN_ROWS_MAX).await.unwrap_or_default());
            }
            let mut asked = Vec::with_capacity(queries.len());
            for query in queries {
                let rows = session.rows(&query.sql, source.max_series).await;
                asked.push(rows.map_err(|reason| Reason::new(format!("`{}`: {reason}", query.name.0)))?);
            }
            session.end().await?;
            Ok((status, variables, replica, tables, asked))
        })
        .await?;
    filled(source, move |source, page| {
        let ours = &source.settings.labels;
        sql::mysql(&status, &variables, &replica, ours, page);
        for (table, rows) in sql::MYSQL_TABLES.iter().zip(&tables) {
            table.read(rows, ours, page);
        }
        read_queries(source, &asked, page);
        Ok(())
    })
    .await
}

async fn ask_postgres(source: &Arc<Source>, server: &Server, queries: &[Query]) -> Result<Page, Reason> {
    let line = Line::to(server.address.clone(), None, source.timeout);
    let own = sql::POSTGRES.iter().map(|table| (table.sql, sql::OWN_ROWS_MAX));
    let asked: Vec<(&str, usize)> = own.chain(queries.iter().map(|query| (query.sql.as_str(), source.max_series))).collect();
    let mut answers = postgres::rows(&line, &server.login, &asked).await?.into_iter();
    let mut tables = Vec::with_capacity(sql::POSTGRES.len());
    for (table, rows) in sql::POSTGRES.iter().zip(&mut answers) {
        // Not every version has every table, and not everybody may look at it.
        if let Err(reason) = &rows {
            tracing::debug!(source = source.name, table = table.name, %reason, "a table cannot be read");
        }
        tables.push(rows.unwrap_or_default());
    }
    let named = |(query, rows): (&Query, Result<Rows, Reason>)| rows.map_err(|reason| Reason::new(format!("`{}`: {reason}", query.name.0)));
    let asked = queries.iter().zip(answers).map(named).collect::<Result<Vec<Rows>, Reason>>()?;
    filled(source, move |source, page| {
        for (table, rows) in sql::POSTGRES.iter().zip(&tables) {
            table.read(rows, &source.settings.labels, page);
        }
        read_queries(source, &asked, page);
        Ok(())
    })
    .await
}

fn read_queries(source: &Source, asked: &[Rows], page: &mut Page) {
    if let Question::Mysql(_, queries) | Question::Postgres(_, queries) = &source.settings.question {
        for (query, rows) in queries.iter().zip(asked) {
            sql::query(query, rows, &source.settings.labels, page);
        }
    }
}
