//! `"postgres://user:password@/db"`: who attache is for a server of data.
//!
//! Never shows a password, neither in a message nor for debugging. Where the server is, the endpoint says.

use std::fmt;

/// A user and what proves it. Each part may be left out where the server does without.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: Option<String>,
}

impl Login {
    /// Parses `SCHEME://[USER][:PASSWORD]@[/DATABASE]`. The error says what was expected, and nothing of what was there.
    pub fn parse(text: &str, scheme: &str) -> Result<Self, String> {
        let rest = text.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
        let rest = rest.ok_or_else(|| format!("expected an address that begins with `{scheme}://`"))?;
        if rest.contains(['?', '#']) {
            return Err("a login has no options; `?` and `#` in a password are written `%3F` and `%23`".to_owned());
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let Some((who, host)) = authority.rsplit_once('@') else {
            return Err("a login ends in `@`; `/` in a password is written `%2F`".to_owned());
        };
        if !host.is_empty() {
            return Err("nothing may stand between `@` and `/`: the endpoints say where the server is".to_owned());
        }
        let (user, password) = match who.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (who, None),
        };
        let some = |text: &str| if text.is_empty() { Ok(None) } else { decoded(text).map(Some) };
        Ok(Self { user: some(user)?, password: password.map(decoded).transpose()?, database: some(database)? })
    }
}

/// Resolves `%2F` and its kin. No control characters: none of the protocols could carry a NUL.
pub(super) fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = behind;
            continue;
        }
        let digit = |at: usize| char::from(*behind.get(at)?).to_digit(16);
        let byte = digit(0).zip(digit(1)).map(|(high, low)| (high * 16 + low) as u8);
        bytes.push(byte.ok_or("`%` is written `%25`")?);
        rest = &behind[2..];
    }
    let text = String::from_utf8(bytes).map_err(|_| "a login is UTF-8".to_owned())?;
    if text.chars().any(char::is_control) { Err("a login holds no control characters".to_owned()) } else { Ok(text) }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.password.as_ref().map(|_| "***");
        f.debug_struct("Login").field("user", &self.user).field("password", &hidden).field("database", &self.database).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, user: Option<&str>, password: Option<&str>, database: Option<&str>) {
        let own = |text: Option<&str>| text.map(str::to_owned);
        assert_eq!(Login::parse(text, "mysql"), Ok(Login { user: own(user), password: own(password), database: own(database) }), "{text}");
    }

    #[test]
    fn every_part_may_be_left_out() {
        check("mysql://u:p@/db", Some("u"), Some("p"), Some("db"));
        check("mysql://u@", Some("u"), None, None);
        check("mysql://:p@", None, Some("p"), None);
        check("mysql://u:@/", Some("u"), Some(""), None);
        check("mysql://u:p%2F%40%25:q@x@/", Some("u"), Some("p/@%:q@x"), None);
    }

    #[test]
    fn what_is_no_login_is_refused_without_being_repeated() {
        for text in [
            "",
            "secret",
            "redis://u:secret@",
            "mysql://u:secret",
            "mysql://u:secret/x@/db",
            "mysql://u:secret@host/db",
            "mysql://u:secret@/db?ssl=1",
            "mysql://u:secret%@/db",
            "mysql://u:secret%0g@/db",
            "mysql://u:secret%00@/db",
            "mysql://u:secret%ff@/db",
        ] {
            let message = Login::parse(text, "mysql").unwrap_err();
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = format!("{:?}", Login::parse("mysql://u:secret@/db", "mysql"));
        assert!(shown.contains("***") && !shown.contains("secret"), "{shown}");
    }
}
