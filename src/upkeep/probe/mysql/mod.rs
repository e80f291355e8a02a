//! `MySQL` and its kin: the greeting alone, or a login and `SELECT 1`.
//!
//! Who only listens to the greeting leaves without a word, and the server counts an aborted connect.

mod wire;

use super::line::{Line, Talk};
use crate::services::metrics::sql::{Gathering, Rows};
use crate::upstream::health::{Login, Reason};
use crate::value::Address;
use wire::{Answer, Entry, Next, Packet, Part, QUIT};

/// The server speaks first: what it is, or why it will not.
pub(in crate::upkeep) async fn greeting(line: &Line<'_>) -> Result<(), Reason> {
    let mut talk = Talk::new(line.open(Some(&[])).await?);
    line.in_time(talk.hear(greeted)).await?
}

type Greeted = Result<(), Reason>;

/// Of the packet at the front of `bytes`: three bytes of length, a number, and what is said.
fn greeted(bytes: &[u8]) -> Result<Option<(Greeted, usize)>, Reason> {
    const ERROR: u8 = 0xff;
    const PROTOCOL: u8 = 10;
    /// Of the longest first packet that anybody sends.
    const LENGTH_MAX: usize = 4096;
    let Some((&[a, b, c, number], rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes([a, b, c, 0]) as usize;
    if number != 0 || length == 0 || length > LENGTH_MAX {
        return Err(Reason::new("its greeting is not MySQL's"));
    }
    let Some(packet) = rest.get(..length) else { return Ok(None) };
    let greeted = match packet {
        [PROTOCOL, ..] => Ok(()),
        [ERROR, a, b, message @ ..] => {
            let code = u16::from_le_bytes([*a, *b]);
            Err(Reason::new(format!("error {code}: {}", String::from_utf8_lossy(message))))
        }
        _ => Err(Reason::new("its greeting is not MySQL's")),
    };
    Ok(Some((greeted, 4 + length)))
}

/// A server that let us in.
pub(in crate::upkeep) struct Session {
    talk: Talk,
    /// Of the packet that is next, whoever sends it.
    number: u8,
    /// What is left of [`ANSWER_BYTES_MAX`].
    left: usize,
}

/// The longest answer to one query, all its packets together.
const ANSWER_BYTES_MAX: usize = 16 << 20;

impl Session {
    pub(in crate::upkeep) async fn open(line: &Line<'_>, login: &Login) -> Result<Self, Reason> {
        let talk = Talk::new(line.open(Some(&[])).await?).hearing_up_to(ANSWER_BYTES_MAX);
        let mut session = Self { talk, number: 0, left: ANSWER_BYTES_MAX };
        let greeting = session.hear().await?;
        let (mut entry, mut said) = Entry::begin(&greeting, login, matches!(line.address, Address::Unix(_))).map_err(Reason::new)?;
        loop {
            session.say(&said).await?;
            said = loop {
                let heard = session.hear().await?;
                match entry.go_on(&heard).map_err(Reason::new)? {
                    Next::In => return Ok(session),
                    Next::Listen => {}
                    Next::Say(said) => break said,
                }
            };
        }
    }

    async fn say(&mut self, said: &[u8]) -> Result<(), Reason> {
        let packet = Packet::write(self.number, said).map_err(Reason::new)?;
        self.number = self.number.wrapping_add(1);
        self.talk.say(&packet).await
    }

    async fn hear(&mut self) -> Result<Vec<u8>, Reason> {
        let most = self.left;
        let packet = self.talk.hear(|bytes| Packet::parse(bytes, most).map_err(Reason::new)).await?;
        if packet.number != self.number {
            return Err(Reason::new("its packets are out of order"));
        }
        self.number = self.number.wrapping_add(1);
        self.left = most.checked_sub(packet.said.len() + HEAD_BYTES).ok_or_else(|| Reason::new("its answer is too long"))?;
        Ok(packet.said)
    }

    /// Of a query's first result, of which there may be so many; `None` is NULL.
    pub(in crate::upkeep) async fn rows(&mut self, query: &str, most: usize) -> Result<Rows, Reason> {
        (self.number, self.left) = (0, ANSWER_BYTES_MAX);
        self.say(&wire::query(query)).await?;
        let mut gathering = Gathering::of(most);
        let mut answer = Answer::default();
        loop {
            let packet = self.hear().await?;
            match answer.take(&packet).map_err(Reason::new)? {
                Part::Row(row) if answer.results == 0 => {
                    gathering.push(answer.columns.iter().cloned().zip(row).collect()).map_err(Reason::new)?;
                }
                Part::Row(_) | Part::None => {}
                Part::Last => return Ok(gathering.rows),
            }
        }
    }

    /// Else the server counts somebody who left without a word.
    pub(in crate::upkeep) async fn end(mut self) -> Result<(), Reason> {
        self.number = 0;
        self.say(QUIT).await?;
        self.talk.end();
        Ok(())
    }
}

/// In front of each packet.
const HEAD_BYTES: usize = 4;

pub(in crate::upkeep) async fn select(line: &Line<'_>, login: &Login) -> Result<(), Reason> {
    line.in_time(async {
        let mut session = Session::open(line, login).await?;
        session.rows("SELECT 1", 1).await?;
        session.end().await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<Result<(), &str>>) {
        let found = greeted(bytes).map(|found| found.map(|(greeted, _)| greeted));
        let expected = expected.map(|expected| expected.map_err(Reason::new));
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn a_greeting_is_well_and_an_error_is_not() {
        check(&[2, 0, 0, 0, 10, b'8'], Some(Ok(())));
        check(&[7, 0, 0, 0, 0xff, 0x69, 0x04, b'H', b'o', b's', b't'], Some(Err("error 1129: Host")));
        check(&[2, 0, 0, 0, 10], None);
        check(&[2, 0, 0], None);
    }

    #[test]
    fn what_others_say_first_is_no_greeting() {
        for other in [&b"SSH-2.0-OpenSSH"[..], b"220 mail\r\n", b"-ERR", &[1, 0, 0, 1, 10], &[0, 0, 0, 0, 10]] {
            assert!(greeted(other).is_err(), "{other:?}");
        }
    }
}
