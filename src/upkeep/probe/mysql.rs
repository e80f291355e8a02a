//! `MySQL` and its kin: the greeting alone, or a login and `SELECT 1`.
//!
//! Who only listens to the greeting leaves without a word, and the server counts an aborted connect.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, IoError, OptsBuilder, Value};

use super::line::{Line, Talk};
use crate::services::metrics::sql::{Gathering, Rows};
use crate::upstream::health::{Login, Reason};
use crate::value::Address;

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

/// By a library, which connects by itself.
pub(in crate::upkeep) async fn connect(line: &Line<'_>, login: &Login) -> Result<Conn, Reason> {
    let options = OptsBuilder::default()
        .user(login.user.clone())
        .pass(login.password.clone())
        .db_name(login.database.clone())
        // It would find out the server's own socket and connect once more, by that.
        .prefer_socket(false);
    let options = match &line.address {
        Address::Tcp(address) => options.ip_or_hostname(address.ip().to_string()).tcp_port(address.port()),
        Address::Name(name, port) => options.ip_or_hostname(name.clone()).tcp_port(*port),
        Address::Unix(path) => options.socket(Some(path.display().to_string())),
    };
    Conn::new(options).await.map_err(failed)
}

pub(in crate::upkeep) fn failed(error: mysql_async::Error) -> Reason {
    match error {
        mysql_async::Error::Server(error) => Reason::new(format!("error {}: {}", error.code, error.message)),
        mysql_async::Error::Io(IoError::Io(error)) => Reason::new(format!("no connection: {error}")),
        error => Reason::new(error.to_string()),
    }
}

/// Of a query; `None` is NULL.
pub(in crate::upkeep) async fn rows(connection: &mut Conn, query: &str, most: usize) -> Result<Rows, Reason> {
    let mut gathering = Gathering::of(most);
    let mut answer = connection.query_iter(query).await.map_err(failed)?;
    while let Some(row) = answer.next().await.map_err(failed)? {
        let names: Vec<String> = row.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
        let row = names.into_iter().zip(row.unwrap_raw().iter().map(|value| value.as_ref().and_then(text))).collect();
        gathering.push(row).map_err(Reason::new)?;
    }
    Ok(gathering.rows)
}

/// As the server writes it; `None` for NULL.
pub(in crate::upkeep) fn text(value: &Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        value => Some(value.as_sql(true).trim_matches('\'').to_owned()),
    }
}

pub(in crate::upkeep) async fn select(line: &Line<'_>, login: &Login) -> Result<(), Reason> {
    line.in_time(async {
        let mut connection = connect(line, login).await?;
        connection.query_drop("SELECT 1").await.map_err(failed)?;
        connection.disconnect().await.map_err(failed)
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
