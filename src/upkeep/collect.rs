//! Asks programs for their metrics, when a scrape wants them: one question to each at a time.
//!
//! Makes nothing of the answers: `services::metrics` does.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::{AbortHandle, spawn_blocking};

use super::fetch;
use super::probe::line::{Line, Talk};
use super::probe::redis;
use crate::proto::resp::Reply;
use crate::services::metrics::redis::COMMANDS;
use crate::services::metrics::{Collected, Document, Page, Question, Source, documents};
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
        let (page, error) = match said {
            Ok(Ok(page)) => (page, None),
            Ok(Err(reason)) => (source.blank(), Some(reason.to_string())),
            Err(error) => (source.blank(), Some(error.to_string())),
        };
        if let Some(error) = &error {
            tracing::debug!(source = source.name, error, "no metrics");
        }
        source.publish(Collected { began, took: began.elapsed(), page, error });
    }
}

async fn collect(source: &Arc<Source>) -> Result<Page, Reason> {
    match &source.settings.question {
        Question::Redis(server) => ask_redis(source, server).await,
        Question::Memcached(server) => ask_memcached(source, server).await,
        Question::Prometheus(at, _) | Question::Json(at, _) | Question::Text(at, _) => ask_for(source, at).await,
    }
}

/// The longest answer to one command.
const REPLY_BYTES_MAX: usize = 4 << 20;

async fn ask_redis(source: &Source, server: &Server) -> Result<Page, Reason> {
    let line = Line::to(server.address.clone(), source.peer.as_ref(), source.timeout);
    let mut talk = Talk::new(line.open(Some(&[])).await?).hearing_up_to(REPLY_BYTES_MAX);
    let replies = line
        .in_time(async {
            let login = server.login.password.is_some().then_some(&server.login);
            redis::enter(&mut talk, login).await?;
            let all: Vec<u8> = COMMANDS.iter().flat_map(|words| redis::command(words)).collect();
            talk.say(&all).await?;
            let mut replies = Vec::with_capacity(COMMANDS.len());
            for _ in COMMANDS {
                replies.push(talk.hear(|bytes| Reply::parse(bytes).map_err(Reason::new)).await?);
            }
            Ok(replies)
        })
        .await?;
    talk.end();
    let mut page = source.blank();
    crate::services::metrics::redis::read(&replies, &source.settings.labels, &mut page).map_err(Reason::new)?;
    Ok(page)
}

async fn ask_memcached(source: &Source, server: &Server) -> Result<Page, Reason> {
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
    let mut page = source.blank();
    documents::memcached(&stats, &source.settings.labels, &mut page);
    Ok(page)
}

async fn ask_for(source: &Arc<Source>, at: &Document) -> Result<Page, Reason> {
    let line = Line::to(at.address.clone(), source.peer.as_ref(), source.timeout);
    let wire = line.open(Some(&[b"http/1.1"])).await?;
    let (status, body) = line.in_time(fetch::get(wire, &at.authority, &at.path, at.most)).await?;
    if status != 200 {
        return Err(Reason::new(format!("answered {status}, expected 200")));
    }
    // A long document takes longer than the next probe may wait.
    let source = Arc::clone(source);
    let read = spawn_blocking(move || {
        let (ours, mut page) = (&source.settings.labels, source.blank());
        let text = || std::str::from_utf8(&body).map_err(|_| "its answer is not UTF-8".to_owned());
        match &source.settings.question {
            Question::Prometheus(_, rules) => documents::prometheus(text()?, rules, ours, &mut page)?,
            Question::Json(_, mappings) => documents::json(&body, mappings, ours, &mut page)?,
            Question::Text(_, matches) => documents::text_matches(text()?, matches, ours, &mut page)?,
            Question::Redis(_) | Question::Memcached(_) => {}
        }
        Ok::<Page, String>(page)
    });
    read.await.map_err(|error| Reason::new(error.to_string()))?.map_err(Reason::new)
}
