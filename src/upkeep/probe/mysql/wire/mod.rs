//! The client's side of `MySQL`'s protocol, version 10: a login, and queries whose rows are text.
//!
//! Every number that a server sends is checked before anything is made of it. (The crate `mysql_async` 0.37 reserves room for as many columns as
//! a server says it has, and 2^44 of them end the process.) Sends nothing.

use aws_lc_rs::digest::{self, Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;

use crate::value::Login;

/// A packet of this length goes on in the next one: longer than anything that is wanted.
const LENGTH_MAX: usize = 0xff_ffff;
/// Of one answer; no table of a server may have more.
pub const COLUMNS_MAX: u64 = 4096;
/// What follows the greeting and the name of its method, in bytes.
const NONCE_BYTES: usize = 20;

const OK: u8 = 0x00;
const MORE: u8 = 0x01;
const FILE: u8 = 0xfb;
const END: u8 = 0xfe;
const ERROR: u8 = 0xff;
const PROTOCOL: u8 = 10;
/// `utf8mb4_general_ci`.
const COLLATION: u8 = 45;

/// What a client can, and what it wants.
mod can {
    pub(super) const LONG_PASSWORD: u32 = 1;
    pub(super) const LONG_FLAG: u32 = 1 << 2;
    pub(super) const CONNECT_WITH_DATABASE: u32 = 1 << 3;
    pub(super) const PROTOCOL_41: u32 = 1 << 9;
    pub(super) const TRANSACTIONS: u32 = 1 << 13;
    pub(super) const SECURE_CONNECTION: u32 = 1 << 15;
    pub(super) const MULTI_RESULTS: u32 = 1 << 17;
    pub(super) const PLUGIN_AUTH: u32 = 1 << 19;
}

/// One packet: its number and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub number: u8,
    pub said: Vec<u8>,
}

impl Packet {
    /// The one at the front of `bytes` with its length, if all of it is there.
    ///
    /// # Errors
    ///
    /// When it is longer than `most`.
    pub fn parse(bytes: &[u8], most: usize) -> Result<Option<(Self, usize)>, &'static str> {
        let Some((&[a, b, c, number], rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        if length > most.min(LENGTH_MAX - 1) {
            return Err("its answer is too long");
        }
        Ok(rest.get(..length).map(|said| (Self { number, said: said.to_vec() }, 4 + length)))
    }

    /// # Errors
    ///
    /// When it is too long for one.
    pub fn write(number: u8, said: &[u8]) -> Result<Vec<u8>, &'static str> {
        if said.len() >= LENGTH_MAX {
            return Err("a query that long cannot be asked");
        }
        let [a, b, c, ..] = (said.len() as u32).to_le_bytes();
        Ok([&[a, b, c, number], said].concat())
    }
}

/// How one proves to be somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Native,
    CachingSha2,
    /// The server looks at the other end of the socket.
    Socket,
}

impl Method {
    fn of(name: &[u8]) -> Result<Self, String> {
        match name {
            b"mysql_native_password" => Ok(Self::Native),
            b"caching_sha2_password" => Ok(Self::CachingSha2),
            b"auth_socket" | b"unix_socket" => Ok(Self::Socket),
            other => Err(format!("it asks for `{}`, which attache cannot", String::from_utf8_lossy(other))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Socket => "auth_socket",
        }
    }

    fn prove(self, password: &str, nonce: &[u8]) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        match self {
            Self::Native => {
                let once = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[password.as_bytes()]);
                let twice = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[&once]);
                mixed(&once, &hash(&SHA1_FOR_LEGACY_USE_ONLY, &[nonce, &twice]))
            }
            Self::CachingSha2 => {
                let once = hash(&SHA256, &[password.as_bytes()]);
                let twice = hash(&SHA256, &[&once]);
                mixed(&once, &hash(&SHA256, &[&twice, nonce]))
            }
            Self::Socket => Vec::new(),
        }
    }
}

/// A login under way.
#[derive(Debug)]
pub struct Entry {
    password: String,
    nonce: Vec<u8>,
    method: Method,
    /// Nobody listens between, so a password may be told as it is.
    is_socket: bool,
}

/// What comes next in a login.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    In,
    Listen,
    Say(Vec<u8>),
}

impl Entry {
    /// From the server's first packet to the client's.
    ///
    /// # Errors
    ///
    /// Why it will not do.
    pub fn begin(greeting: &[u8], login: &Login, is_socket: bool) -> Result<(Self, Vec<u8>), String> {
        const OTHER: &str = "its greeting is not MySQL's";
        let rest = match greeting.split_first() {
            Some((&PROTOCOL, rest)) => rest,
            Some((&ERROR, error)) => return Err(said(error)),
            _ => return Err(OTHER.to_owned()),
        };
        let parsed = || {
            let (_version, rest) = until_nul(rest)?;
            let (_thread, rest) = rest.split_at_checked(4)?;
            let (first, rest) = rest.split_at_checked(8)?;
            let (&[_, a, b, _, _, _, c, d, _], rest) = rest.split_first_chunk::<9>()?;
            let (_reserved, rest) = rest.split_at_checked(10)?;
            let (second, rest) = rest.split_at_checked(NONCE_BYTES - 8)?;
            Some((u32::from_le_bytes([a, b, c, d]), [first, second].concat(), rest.strip_prefix(&[0]).unwrap_or(rest)))
        };
        let (theirs, nonce, name) = parsed().ok_or(OTHER)?;
        let needed = can::PROTOCOL_41 | can::SECURE_CONNECTION;
        if theirs & needed != needed {
            return Err("it is of a version before 4.1".to_owned());
        }
        let wanted = can::LONG_PASSWORD | can::LONG_FLAG | can::TRANSACTIONS | can::MULTI_RESULTS | can::PLUGIN_AUTH;
        let database = login.database.as_deref().filter(|_| theirs & can::CONNECT_WITH_DATABASE != 0);
        let ours = needed | (wanted & theirs) | if database.is_some() { can::CONNECT_WITH_DATABASE } else { 0 };
        // Of a method that is unknown here the user may need another, which the server says then.
        let method = Method::of(name.strip_suffix(&[0]).unwrap_or(name)).unwrap_or(Method::Native);
        let entry = Self { password: login.password.clone().unwrap_or_default(), nonce, method, is_socket };

        let mut said = Vec::new();
        said.extend_from_slice(&ours.to_le_bytes());
        said.extend_from_slice(&(LENGTH_MAX as u32).to_le_bytes());
        said.push(COLLATION);
        said.extend_from_slice(&[0; 23]);
        said.extend_from_slice(login.user.as_deref().unwrap_or_default().as_bytes());
        said.push(0);
        let proof = method.prove(&entry.password, &entry.nonce);
        said.push(proof.len() as u8);
        said.extend_from_slice(&proof);
        if let Some(database) = database {
            said.extend_from_slice(database.as_bytes());
            said.push(0);
        }
        if ours & can::PLUGIN_AUTH != 0 {
            said.extend_from_slice(method.name().as_bytes());
            said.push(0);
        }
        Ok((entry, said))
    }

    /// What is said to what the server says next.
    ///
    /// # Errors
    ///
    /// Why it does not let one in.
    pub fn go_on(&mut self, heard: &[u8]) -> Result<Next, String> {
        const KNOWN: u8 = 3;
        const UNKNOWN: u8 = 4;
        const ASK_FOR_KEY: u8 = 2;
        match heard {
            [OK, ..] => Ok(Next::In),
            [ERROR, error @ ..] => Err(said(error)),
            [END] => Err("it asks for a password as of before 4.1".to_owned()),
            [END, rest @ ..] => {
                let (name, nonce) = until_nul(rest).unwrap_or((rest, &[]));
                self.method = Method::of(name)?;
                self.nonce = nonce.strip_suffix(&[0]).unwrap_or(nonce).to_vec();
                Ok(Next::Say(self.method.prove(&self.password, &self.nonce)))
            }
            [MORE, KNOWN] if self.method == Method::CachingSha2 => Ok(Next::Listen),
            [MORE, UNKNOWN] if self.method == Method::CachingSha2 => {
                Ok(Next::Say(if self.is_socket { self.plain() } else { vec![ASK_FOR_KEY] }))
            }
            [MORE, key @ ..] if self.method == Method::CachingSha2 => self.sealed(key).map(Next::Say),
            _ => Err("its answer to a login is not MySQL's".to_owned()),
        }
    }

    fn plain(&self) -> Vec<u8> {
        [self.password.as_bytes(), &[0]].concat()
    }

    /// For the holder of that key only, and for this connection only.
    fn sealed(&self, key: &[u8]) -> Result<Vec<u8>, String> {
        const NO_KEY: &str = "its key is none";
        let key = SubjectPublicKeyInfoDer::from_pem_slice(key).map_err(|_| NO_KEY)?;
        let key = PublicEncryptingKey::from_der(&key).map_err(|_| NO_KEY)?;
        let key = OaepPublicEncryptingKey::new(key).map_err(|_| NO_KEY)?;
        if self.nonce.is_empty() {
            return Err(NO_KEY.to_owned());
        }
        let salted: Vec<u8> = self.plain().iter().zip(self.nonce.iter().cycle()).map(|(byte, salt)| byte ^ salt).collect();
        let mut sealed = vec![0; key.ciphertext_size()];
        let length = key.encrypt(&OAEP_SHA1_MGF1SHA1, &salted, &mut sealed, None).map_err(|_| "its key is too short")?.len();
        sealed.truncate(length);
        Ok(sealed)
    }
}

fn hash(algorithm: &'static Algorithm, parts: &[&[u8]]) -> Vec<u8> {
    let mut context = digest::Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}

fn mixed(one: &[u8], other: &[u8]) -> Vec<u8> {
    one.iter().zip(other).map(|(one, other)| one ^ other).collect()
}

/// The command that asks a query.
pub fn query(text: &str) -> Vec<u8> {
    [b"\x03", text.as_bytes()].concat()
}

/// The command that ends a session.
pub const QUIT: &[u8] = &[1];

/// An answer, packet by packet.
#[derive(Debug, Default)]
pub struct Answer {
    state: State,
    /// Of the result that comes now.
    pub columns: Vec<String>,
    /// The results that are over, of which a call of a procedure has more than one.
    pub results: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Head,
    Columns(u64),
    EndOfColumns,
    Rows,
}

/// What one packet of an answer is.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Of the columns, in their order; `None` is NULL.
    Row(Vec<Option<String>>),
    /// Nothing yet.
    None,
    Last,
}

impl Answer {
    /// # Errors
    ///
    /// What the server says is wrong, or what is wrong with what it says.
    pub fn take(&mut self, packet: &[u8]) -> Result<Part, String> {
        const OTHER: &str = "its answer to a query is not MySQL's";
        if let [ERROR, error @ ..] = packet {
            return Err(said(error));
        }
        match (self.state, packet) {
            (State::Head, [OK, rest @ ..]) => {
                let status = || {
                    let (_rows, rest) = number(rest)?;
                    let (_id, rest) = number(rest)?;
                    rest.split_first_chunk::<2>().map(|(status, _)| *status)
                };
                Ok(self.ended(status().ok_or(OTHER)?))
            }
            (State::Head, [FILE, ..]) => Err("it asks for a file".to_owned()),
            (State::Head, _) => {
                let (count, _) = number(packet).ok_or(OTHER)?;
                if !(1..=COLUMNS_MAX).contains(&count) {
                    return Err(format!("it answers with {count} columns, {COLUMNS_MAX} are the most"));
                }
                self.columns.clear();
                self.state = State::Columns(count);
                Ok(Part::None)
            }
            (State::Columns(left), _) => {
                // Its catalog, schema, table and that table's own name stand before the name.
                let mut rest = packet;
                for _ in 0..4 {
                    rest = text(rest).ok_or(OTHER)?.1;
                }
                self.columns.push(String::from_utf8_lossy(text(rest).ok_or(OTHER)?.0).into_owned());
                self.state = if left == 1 { State::EndOfColumns } else { State::Columns(left - 1) };
                Ok(Part::None)
            }
            (State::EndOfColumns, [END, _, _, _, _]) => {
                self.state = State::Rows;
                Ok(Part::None)
            }
            (State::EndOfColumns, _) => Err(OTHER.to_owned()),
            (State::Rows, [END, _, _, a, b]) => Ok(self.ended([*a, *b])),
            (State::Rows, _) => {
                let mut rest = packet;
                let mut row = Vec::with_capacity(self.columns.len());
                for _ in 0..self.columns.len() {
                    if let [FILE, behind @ ..] = rest {
                        row.push(None);
                        rest = behind;
                    } else {
                        let (value, behind) = text(rest).ok_or(OTHER)?;
                        row.push(Some(String::from_utf8_lossy(value).into_owned()));
                        rest = behind;
                    }
                }
                Ok(Part::Row(row))
            }
        }
    }

    fn ended(&mut self, status: [u8; 2]) -> Part {
        const MORE_RESULTS: u16 = 1 << 3;
        self.results += 1;
        self.state = State::Head;
        if u16::from_le_bytes(status) & MORE_RESULTS == 0 { Part::Last } else { Part::None }
    }
}

/// What an error says, behind its first byte.
fn said(error: &[u8]) -> String {
    let Some((&code, message)) = error.split_first_chunk::<2>() else { return "it says that there is an error".to_owned() };
    let message = if message.first() == Some(&b'#') { message.get(6..).unwrap_or_default() } else { message };
    format!("error {}: {}", u16::from_le_bytes(code), String::from_utf8_lossy(message))
}

fn until_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// A number in as many bytes as it needs, and what is behind it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let width = match first {
        0..=0xfa => return Some((u64::from(first), rest)),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        FILE | ERROR => return None,
    };
    let (digits, rest) = rest.split_at_checked(width)?;
    Some((digits.iter().rev().fold(0, |number, digit| number << 8 | u64::from(*digit)), rest))
}

/// A text with its length before it, and what is behind it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests;
