//! Where an adapter listens: `127.0.0.1:8125`, `udp:127.0.0.1:1514`, `unix:/run/statsd.sock`.
//!
//! Binds nothing. What is said there, whoever listens knows.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Address, Decode, Item, Reader, Spanned, Value};

/// A socket that an adapter hears by; what it is known by across generations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EarKey {
    Udp(SocketAddr),
    Tcp(SocketAddr),
    UnixDatagram(PathBuf),
    UnixStream(PathBuf),
}

impl EarKey {
    /// Parses `HOST:PORT`, which is both UDP and TCP, `udp:HOST:PORT`, `tcp:HOST:PORT`, `unix:PATH` for datagrams and `unix-stream:PATH`.
    ///
    /// # Errors
    ///
    /// What was expected.
    pub fn parse(text: &str) -> Result<Vec<Self>, String> {
        if let Some(path) = text.strip_prefix("unix-stream:") {
            return if path.is_empty() { Err("`unix-stream:` needs a path".to_owned()) } else { Ok(vec![Self::UnixStream(path.into())]) };
        }
        let (transport, rest) = match text.split_once(':') {
            Some((transport @ ("udp" | "tcp"), rest)) => (Some(transport), rest),
            _ => (None, text),
        };
        let address = match Address::parse_listen(rest)? {
            Address::Tcp(address) => address,
            Address::Unix(path) if transport.is_none() => return Ok(vec![Self::UnixDatagram(path)]),
            Address::Unix(_) | Address::Name(..) => return Err(format!("`{rest}` is not an IP address with a port")),
        };
        if address.port() == 0 {
            return Err("nobody would know which port the system chose".to_owned());
        }
        Ok(match transport {
            Some("udp") => vec![Self::Udp(address)],
            Some(_) => vec![Self::Tcp(address)],
            None => vec![Self::Udp(address), Self::Tcp(address)],
        })
    }

    /// Of streams or datagrams alike.
    pub fn address(&self) -> Address {
        match self {
            Self::Udp(address) | Self::Tcp(address) => Address::Tcp(*address),
            Self::UnixDatagram(path) | Self::UnixStream(path) => Address::Unix(path.clone()),
        }
    }
}

impl fmt::Display for EarKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::UnixDatagram(path) => write!(f, "unix:{}", path.display()),
            Self::UnixStream(path) => write!(f, "unix-stream:{}", path.display()),
        }
    }
}

/// One address or a list of them; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarKeys(pub Vec<Spanned<EarKey>>);

impl Decode for EarKeys {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let written: Vec<Spanned<String>> = Vec::decode(item, reader)?;
        let help = "write \"127.0.0.1:8125\", \"udp:127.0.0.1:8125\", \"tcp:127.0.0.1:8125\" or \"unix:/run/attache/in.sock\"";
        if written.is_empty() && matches!(item.value, Value::Array(_)) {
            reader.error(item.place, "nothing says where to listen").help(help);
            return None;
        }
        let read: Vec<Option<Vec<Spanned<EarKey>>>> = written
            .iter()
            .map(|text| {
                let keys = reader.accept(EarKey::parse(text), text.place, help)?;
                Some(keys.into_iter().map(|key| Spanned::new(key, text.place)).collect())
            })
            .collect();
        Some(Self(read.into_iter().collect::<Option<Vec<_>>>()?.concat()))
    }
}

impl fmt::Display for EarKeys {
    /// The first one as it is usually written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first() {
            Some(first) => first.value.address().fmt(f),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let shown: Vec<String> = EarKey::parse(text).unwrap().iter().map(EarKey::to_string).collect();
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn one_address_may_be_several_ears() {
        check("127.0.0.1:8125", &["udp:127.0.0.1:8125", "tcp:127.0.0.1:8125"]);
        check("localhost:8125", &["udp:127.0.0.1:8125", "tcp:127.0.0.1:8125"]);
        check(":8125", &["udp:0.0.0.0:8125", "tcp:0.0.0.0:8125"]);
        check("udp:[::1]:514", &["udp:[::1]:514"]);
        check("tcp::514", &["tcp:0.0.0.0:514"]);
        check("unix:/run/a.sock", &["unix:/run/a.sock"]);
        check("unix-stream:/run/a.sock", &["unix-stream:/run/a.sock"]);
    }

    #[test]
    fn what_cannot_be_heard_by_is_refused() {
        for text in [
            "",
            "8125",
            "127.0.0.1",
            "127.0.0.1:0",
            "host:1",
            "udp:unix:/a",
            "unix:",
            "unix-stream:",
            "http://127.0.0.1:1",
            "sctp:127.0.0.1:1",
        ] {
            assert!(EarKey::parse(text).is_err(), "{text}");
        }
    }
}
