//! `"mysql://user:password@db:3306/shop"`: a server of data, and who attache is for it.
//!
//! Never shows a password, neither in a message nor for debugging.

use std::fmt;

use super::login::decoded;
use super::{Address, Login};

/// Where a server is, and what gets one in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub address: Address,
    pub login: Login,
    /// Its scheme said so: `rediss://`.
    pub is_tls: bool,
}

/// How addresses of one kind of server are written.
#[derive(Clone, Copy, Debug)]
pub struct ServerKind {
    pub scheme: &'static str,
    /// The same inside TLS, where that is possible.
    pub tls_scheme: Option<&'static str>,
    pub port: u16,
}

impl ServerKind {
    pub const REDIS: Self = Self { scheme: "redis", tls_scheme: Some("rediss"), port: 6379 };
    pub const MEMCACHED: Self = Self { scheme: "memcached", tls_scheme: None, port: 11211 };
    pub const MYSQL: Self = Self { scheme: "mysql", tls_scheme: None, port: 3306 };
    pub const POSTGRES: Self = Self { scheme: "postgres", tls_scheme: None, port: 5432 };

    /// Parses `HOST:PORT`, `unix:PATH`, or `SCHEME://[[USER][:PASSWORD]@]HOST[:PORT][/DATABASE]`. A host may be `unix:` with a path whose
    /// slashes are written `%2F`.
    ///
    /// # Errors
    ///
    /// What was expected, and nothing of what was there.
    pub fn parse(self, text: &str) -> Result<Server, String> {
        let nobody = Login { user: None, password: None, database: None };
        let Some((scheme, rest)) = text.split_once("://") else {
            let address = Address::parse(text).map_err(|_| self.expected())?;
            return Ok(Server { address, login: nobody, is_tls: false });
        };
        // PostgreSQL's own tools take both.
        let is_known = scheme == self.scheme || (self.scheme == "postgres" && scheme == "postgresql");
        let is_tls = self.tls_scheme == Some(scheme);
        if !is_known && !is_tls {
            return Err(self.expected());
        }
        if rest.contains(['?', '#']) {
            return Err("an address of a server has no options; `?` and `#` in a password are written `%3F` and `%23`".to_owned());
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (who, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = who.split_once(':').map_or((who, None), |(user, password)| (user, Some(password)));
        if self.scheme == "memcached" && !(who.is_empty() && database.is_empty()) {
            return Err("memcached is asked without a login; remove what is around the host and the port".to_owned());
        }
        let some = |text: &str| if text.is_empty() { Ok(None) } else { decoded(text).map(Some) };
        let login = Login { user: some(user)?, password: password.map(decoded).transpose()?, database: some(database)? };
        let address = if let Some(path) = host.strip_prefix("unix:") {
            Address::parse(&format!("unix:{}", decoded(path)?))
        } else {
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) && !host.ends_with(']');
            Address::parse(&if has_port { host.to_owned() } else { format!("{host}:{}", self.port) })
        };
        // What stands before an unescaped `@` or `/` of a password would be in the address's own error.
        let address = address.map_err(|_| format!("this names no host; {}", self.expected()))?;
        Ok(Server { address, login, is_tls })
    }

    /// What is expected, with an example.
    pub fn expected(self) -> String {
        let Self { scheme, port, .. } = self;
        format!("expected `10.0.0.1:{port}`, `unix:/run/{scheme}.sock` or `{scheme}://user:password@host:{port}/database`")
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: ServerKind, text: &str, address: &str, login: (Option<&str>, Option<&str>, Option<&str>), is_tls: bool) {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let login = Login { user: own(login.0), password: own(login.1), database: own(login.2) };
        assert_eq!(kind.parse(text), Ok(Server { address: Address::parse(address).unwrap(), login, is_tls }), "{text}");
    }

    #[test]
    fn servers_are_written_in_many_ways() {
        let nobody = (None, None, None);
        check(ServerKind::REDIS, "127.0.0.1:6379", "127.0.0.1:6379", nobody, false);
        check(ServerKind::REDIS, "unix:/run/redis.sock", "unix:/run/redis.sock", nobody, false);
        check(ServerKind::REDIS, "redis://cache", "cache:6379", nobody, false);
        check(ServerKind::REDIS, "rediss://:p%40@cache:7000/1", "cache:7000", (None, Some("p@"), Some("1")), true);
        check(ServerKind::MYSQL, "mysql://u:p@db/shop", "db:3306", (Some("u"), Some("p"), Some("shop")), false);
        check(ServerKind::MYSQL, "mysql://u@[::1]:3307", "[::1]:3307", (Some("u"), None, None), false);
        check(ServerKind::MYSQL, "mysql://u@[::1]", "[::1]:3306", (Some("u"), None, None), false);
        check(ServerKind::MYSQL, "mysql://u:@unix:%2Frun%2Fdb.sock/x", "unix:/run/db.sock", (Some("u"), Some(""), Some("x")), false);
        check(ServerKind::POSTGRES, "postgresql://u@db", "db:5432", (Some("u"), None, None), false);
    }

    #[test]
    fn what_nobody_would_use_is_refused() {
        assert!(ServerKind::MEMCACHED.parse("memcached://cache:11211").is_ok());
        let message = ServerKind::MEMCACHED.parse("memcached://u:secret@cache").unwrap_err();
        assert!(message.starts_with("memcached is asked without a login") && !message.contains("secret"), "{message}");
    }

    #[test]
    fn what_is_no_server_is_refused_without_being_repeated() {
        for text in [
            "",
            "secret",
            "http://secret",
            "mysql://u:secret/x@db",
            "mysql://u:secret@",
            "mysql://u:secret@db?ssl=1",
            "mysqls://u:secret@db",
        ] {
            let message = ServerKind::MYSQL.parse(text).unwrap_err();
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
