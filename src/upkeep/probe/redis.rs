//! `PING` and `ROLE`: whether a Redis is well, and whether it is the one that takes writes.
//!
//! Understands no more of RESP than these answers take.

use super::line::{Line, Talk};
use crate::upstream::health::{Login, Reason};

/// `+PONG` is well, and so is who first wants a password. Who still loads, or lost its master, says so in other errors.
pub(in crate::upkeep) async fn ping(line: &Line<'_>, login: Option<&Login>) -> Result<(), Reason> {
    let mut talk = open(line).await?;
    line.in_time(async {
        enter(&mut talk, login).await?;
        talk.say(b"*1\r\n$4\r\nPING\r\n").await?;
        let answer = talk.line().await?;
        if answer == "+PONG" || is_locked(&answer) { Ok(()) } else { Err(said(&answer)) }
    })
    .await
}

/// As [`ping`], and what it says of its replication; `None` if that is not for everybody.
pub(in crate::upkeep) async fn well_and_info(line: &Line<'_>, login: Option<&Login>) -> Result<Option<String>, Reason> {
    let mut talk = open(line).await?;
    line.in_time(async {
        enter(&mut talk, login).await?;
        talk.say(b"*1\r\n$4\r\nPING\r\n").await?;
        let answer = talk.line().await?;
        if is_locked(&answer) {
            return Ok(None);
        }
        if answer != "+PONG" {
            return Err(said(&answer));
        }
        talk.say(b"*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n").await?;
        let head = talk.line().await?;
        let Some(length) = head.strip_prefix('$').and_then(|length| length.parse::<usize>().ok()) else { return Ok(None) };
        talk.hear(|bytes| {
            let text = bytes.get(..length).map(|text| String::from_utf8_lossy(text).into_owned());
            Ok(text.map(|text| (Some(text), length)))
        })
        .await
    })
    .await
}

/// Whether it is a master.
pub(in crate::upkeep) async fn leads(line: &Line<'_>, login: Option<&Login>) -> Result<bool, Reason> {
    let mut talk = open(line).await?;
    line.in_time(async {
        enter(&mut talk, login).await?;
        talk.say(b"*1\r\n$4\r\nROLE\r\n").await?;
        let array = talk.line().await?;
        if !array.starts_with('*') {
            return Err(said(&array));
        }
        talk.line().await?;
        let role = talk.line().await?;
        match role.as_str() {
            "master" => Ok(true),
            "slave" | "sentinel" => Ok(false),
            _ => Err(said(&role)),
        }
    })
    .await
}

async fn open(line: &Line<'_>) -> Result<Talk, Reason> {
    Ok(Talk::new(line.open(Some(&[])).await?))
}

pub(in crate::upkeep) async fn enter(talk: &mut Talk, login: Option<&Login>) -> Result<(), Reason> {
    let Some(auth) = login.and_then(auth) else { return Ok(()) };
    talk.say(&auth).await?;
    let answer = talk.line().await?;
    if answer == "+OK" { Ok(()) } else { Err(said(&answer)) }
}

/// A password that is empty is none, where nobody is named: it comes from a variable of the environment that is not set.
fn auth(login: &Login) -> Option<Vec<u8>> {
    let (user, password) = (login.user.as_deref(), login.password.as_deref().unwrap_or_default());
    if user.is_none() && password.is_empty() {
        return None;
    }
    let words: Vec<&str> = std::iter::once("AUTH").chain(user).chain([password]).collect();
    Some(command(&words))
}

pub(in crate::upkeep) fn command(words: &[&str]) -> Vec<u8> {
    let mut command = Vec::new();
    for line in std::iter::once(format!("*{}", words.len())).chain(words.iter().map(|word| format!("${}\r\n{word}", word.len()))) {
        command.extend_from_slice(line.as_bytes());
        command.extend_from_slice(b"\r\n");
    }
    command
}

fn is_locked(answer: &str) -> bool {
    answer.starts_with("-NOAUTH")
}

fn said(answer: &str) -> Reason {
    Reason::new(format!("answered `{answer}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `redis://:${REDIS_PASSWORD}@cache` of which nobody said the password.
    #[test]
    fn an_empty_password_of_nobody_is_none() {
        let of = |user: Option<&str>, password: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            auth(&Login { user: own(user), password: own(password), database: None })
        };
        assert_eq!((of(None, Some("")), of(None, None)), (None, None));
        assert_eq!(of(None, Some("p")), Some(command(&["AUTH", "p"])));
        assert_eq!(of(Some("u"), Some("")), Some(command(&["AUTH", "u", ""])));
    }

    #[test]
    fn a_command_counts_bytes() {
        assert_eq!(command(&["AUTH", "é"]), "*2\r\n$4\r\nAUTH\r\n$2\r\né\r\n".as_bytes());
    }
}
