//! `PostgreSQL`: whether it would let somebody in, whether somebody can ask something, and whether it leads.
//!
//! Without a login this is what `pg_isready` does: an error is an answer too, but for "not now".

use std::error::Error;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{Client, Config, NoTls, SimpleColumn, SimpleQueryMessage};

use super::line::{Line, Talk};
use crate::services::metrics::sql::{Gathering, OWN_ROWS_MAX, Rows};
use crate::upstream::health::{Login, Reason};

/// `cannot_connect_now`: it starts, it stops, or it recovers and takes nobody yet.
const CANNOT_CONNECT_NOW: &str = "57P03";
/// Version 3.0 of the protocol.
const VERSION: u32 = 3 << 16;
const NAME: &str = "attache";

/// Says who it would be, and listens to the first answer.
pub(in crate::upkeep) async fn knock(line: &Line<'_>) -> Result<(), Reason> {
    let mut talk = Talk::new(line.open(Some(&[])).await?);
    line.in_time(async {
        talk.say(&startup()).await?;
        talk.hear(answered).await?
    })
    .await
}

fn startup() -> Vec<u8> {
    let parameters = format!("user\0{NAME}\0database\0postgres\0application_name\0attache-health\0\0");
    let length = 8 + parameters.len() as u32;
    [&length.to_be_bytes(), &VERSION.to_be_bytes(), parameters.as_bytes()].concat()
}

type Answered = Result<(), Reason>;

/// Of the message at the front of `bytes`: a letter, four bytes of length, which count themselves, and what is said.
fn answered(bytes: &[u8]) -> Result<Option<(Answered, usize)>, Reason> {
    /// Of the longest first answer that anybody sends.
    const LENGTH_MAX: usize = 32 << 10;
    let Some((&[kind, a, b, c, d], rest)) = bytes.split_first_chunk::<5>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    // Authentication, an error, other versions.
    if !b"REv".contains(&kind) || !(4..=LENGTH_MAX).contains(&length) {
        return Err(Reason::new("its answer is not PostgreSQL's"));
    }
    let Some(body) = rest.get(..length - 4) else { return Ok(None) };
    let field = |letter: u8| body.split(|&byte| byte == 0).find_map(|field| field.strip_prefix(&[letter]));
    let answered = if kind == b'E' && field(b'C') == Some(CANNOT_CONNECT_NOW.as_bytes()) {
        Err(Reason::new(String::from_utf8_lossy(field(b'M').unwrap_or(b"it takes nobody now"))))
    } else {
        Ok(())
    };
    Ok(Some((answered, length + 1)))
}

pub(in crate::upkeep) async fn select(line: &Line<'_>, login: &Login) -> Result<(), Reason> {
    ask(line, login, &["SELECT 1"]).await.map(drop)
}

pub(in crate::upkeep) async fn leads(line: &Line<'_>, login: &Login) -> Result<bool, Reason> {
    match ask(line, login, &["SELECT pg_is_in_recovery()"]).await?.first().and_then(Option::as_deref) {
        Some("f") => Ok(true),
        Some("t") => Ok(false),
        _ => Err(Reason::new("it does not say whether it is in recovery")),
    }
}

/// One after the other, on one connection: of each the first value of the first row.
pub(in crate::upkeep) async fn ask(line: &Line<'_>, login: &Login, queries: &[&str]) -> Result<Vec<Option<String>>, Reason> {
    let first =
        |rows: Result<Rows, Reason>| Ok(rows?.into_iter().next().and_then(|row| row.into_iter().next()).and_then(|(_, value)| value));
    let queries: Vec<(&str, usize)> = queries.iter().map(|query| (*query, OWN_ROWS_MAX)).collect();
    rows(line, login, &queries).await?.into_iter().map(first).collect()
}

/// One after the other, on one connection: the rows of each, of which there may be so many, or why there are none.
pub(in crate::upkeep) async fn rows(
    line: &Line<'_>,
    login: &Login,
    queries: &[(&str, usize)],
) -> Result<Vec<Result<Rows, Reason>>, Reason> {
    let mut config = Config::new();
    config.application_name("attache-health");
    config.user(login.user.as_deref().unwrap_or(NAME));
    if let Some(password) = &login.password {
        config.password(password);
    }
    if let Some(database) = &login.database {
        config.dbname(database);
    }
    let wire = Bounded::new(line.open(Some(&[])).await?);
    line.in_time(async {
        let (client, connection) = config.connect_raw(wire, NoTls).await.map_err(|error| failed(&error))?;
        let mut connection = pin!(connection);
        let answer = async {
            let mut answers = Vec::with_capacity(queries.len());
            for (query, most) in queries {
                let answer = gather(&client, query, *most).await?;
                // After an error of its own, a server goes on; without one there is nobody to go on with.
                if let Err(error) = &answer
                    && error.as_db_error().is_none()
                {
                    return Err(failed(error));
                }
                answers.push(answer.map_err(|error| failed(&error)));
            }
            Ok(answers)
        };
        let answer = tokio::select! {
            biased;
            answer = answer => answer,
            ended = &mut connection => Err(ended.map_or_else(|error| failed(&error), |()| Reason::new("it closed without an answer"))),
        };
        // Without its client, the connection says goodbye and ends; else the server's log would say that somebody left in a hurry.
        drop(client);
        if answer.is_ok() {
            let _ = connection.await;
        }
        answer
    })
    .await
}

/// The inner error is the server's; with the outer one, nothing more is wanted of it.
async fn gather(client: &Client, query: &str, most: usize) -> Result<Result<Rows, tokio_postgres::Error>, Reason> {
    let mut gathering = Gathering::of(most);
    let mut messages = match client.simple_query_raw(query).await {
        Ok(messages) => pin!(messages),
        Err(error) => return Ok(Err(error)),
    };
    while let Some(message) = messages.next().await {
        let row = match message {
            Ok(SimpleQueryMessage::Row(row)) => row,
            Ok(_) => continue,
            Err(error) => return Ok(Err(error)),
        };
        let value = |(index, column): (usize, &SimpleColumn)| (column.name().to_owned(), row.get(index).map(str::to_owned));
        gathering.push(row.columns().iter().enumerate().map(value).collect()).map_err(Reason::new)?;
    }
    Ok(Ok(gathering.rows))
}

fn failed(error: &tokio_postgres::Error) -> Reason {
    let is_bound =
        |error: &(dyn Error + 'static)| error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::FileTooLarge);
    match error.as_db_error() {
        Some(error) => Reason::new(format!("{} ({})", error.message(), error.code().code())),
        None if error.source().is_some_and(is_bound) => Reason::new("its answers are too long"),
        None => Reason::new(error.to_string()),
    }
}

/// All that is read on one connection: twice what rows may have, since their heads and other tables come with them.
const BYTES_MAX: usize = 32 << 20;

/// A stream that ends before a message which is too long: the library would make room for all of it.
struct Bounded<S> {
    stream: S,
    left: usize,
    /// Of the message that comes: its letter and its length, as much as is there.
    head: [u8; HEAD_BYTES],
    heard: usize,
    /// Of the message that comes, behind its head.
    body: usize,
}

/// A letter, and four bytes of length, which count themselves.
const HEAD_BYTES: usize = 5;

impl<S> Bounded<S> {
    fn new(stream: S) -> Self {
        Self { stream, left: BYTES_MAX, head: [0; HEAD_BYTES], heard: 0, body: 0 }
    }

    fn count(&mut self, mut bytes: &[u8]) -> Option<()> {
        self.left = self.left.checked_sub(bytes.len())?;
        while let Some((&first, rest)) = bytes.split_first() {
            if self.body > 0 {
                let skipped = self.body.min(bytes.len());
                self.body -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[self.heard] = first;
            self.heard += 1;
            bytes = rest;
            if self.heard == HEAD_BYTES {
                let [_, a, b, c, d] = self.head;
                // A length below 4 is refused by who reads it.
                self.body = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                self.heard = 0;
                if self.body > self.left + bytes.len() {
                    return None;
                }
            }
        }
        Some(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let counted = self.count(&buffer.filled()[before..]);
        Poll::Ready(counted.ok_or_else(|| io::ErrorKind::FileTooLarge.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind], &(4 + body.len() as u32).to_be_bytes()[..], body].concat()
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<Result<(), &str>>) {
        let found = answered(bytes).map(|found| found.map(|(answered, _)| answered));
        let expected = expected.map(|expected| expected.map_err(Reason::new));
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn anything_but_not_now_is_well() {
        check(&message(b'R', &[0, 0, 0, 10]), Some(Ok(())));
        check(&message(b'E', b"SFATAL\0C28000\0Mno pg_hba.conf entry\0\0"), Some(Ok(())));
        let starting = message(b'E', b"SFATAL\0C57P03\0Mthe database system is starting up\0\0");
        check(&starting, Some(Err("the database system is starting up")));
        for length in 0..starting.len() {
            check(&starting[..length], None);
        }
    }

    #[test]
    fn what_others_say_is_no_answer() {
        for other in [&b"HTTP/1.1 400"[..], b"-ERR unknown", &message(b'R', &vec![0; 40_000]), &[b'R', 0, 0, 0, 3]] {
            assert!(answered(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_message_is_refused_by_its_head_and_many_by_their_sum() {
        let short = message(b'D', &vec![0; 1 << 20]);
        let most = BYTES_MAX / short.len();
        for piece in [1000, 4099] {
            let mut wire = Bounded::new(());
            let mut long = message(b'R', &[]);
            long[1..].copy_from_slice(&0x7fff_fff0_u32.to_be_bytes());
            assert!(short.chunks(piece).all(|piece| wire.count(piece).is_some()));
            assert_eq!(wire.count(&long[..4]), Some(()));
            assert_eq!(wire.count(&long[4..]), None);
        }
        let mut wire = Bounded::new(());
        assert!((0..most).all(|_| wire.count(&short).is_some()));
        assert_eq!(wire.count(&short), None);
    }
}
