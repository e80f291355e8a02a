//! Probes as they are written.
//!
//! Knows what may be asked; how each question is asked, `upkeep` knows.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::uri::PathAndQuery;

use crate::proto::http1::check_host;
use crate::value::{Decode, Entry, Fields, Grace, Item, Place, Reader, Spanned, Value, Whole};

pub use crate::value::Login;

/// How a pool finds out which of its endpoints are well.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub probe: Probe,
    /// From one probe of an endpoint to the next, give or take a tenth.
    pub interval: Duration,
    /// For the whole probe; at most `interval`.
    pub timeout: Duration,
    /// Successes in a row that make a sick endpoint well.
    pub rise: u32,
    /// Failures in a row that make a well endpoint sick.
    pub fall: u32,
    /// Another port than requests go to.
    pub port: Option<u16>,
    /// Requests go to all endpoints when all are sick.
    pub fail_open: bool,
}

/// What an endpoint is asked, and what it must answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A GET, in the HTTP that the endpoint speaks.
    Http(HttpProbe),
    /// A connection, and nothing over it.
    Tcp,
    /// A TLS handshake, and nothing over it.
    Tls,
    /// `grpc.health.v1.Health/Check` of a service; of the server as a whole if empty.
    Grpc(String),
    /// `PING`.
    Redis(Option<Login>),
    /// `version`.
    Memcached,
    /// The greeting; with a login, `SELECT 1`.
    Mysql(Option<Login>),
    /// Whether it would let somebody in; with a login, `SELECT 1`.
    Postgres(Option<Login>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    /// With its query.
    pub path: PathAndQuery,
    /// Instead of the endpoint's address.
    pub host: Option<String>,
    pub expect: Statuses,
}

/// Statuses that are well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

impl Statuses {
    pub fn ok() -> Self {
        Self(vec![200..=200])
    }

    pub fn have(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl std::fmt::Display for Statuses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{}", range.start())?;
            if range.start() != range.end() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

/// What a final answer may have.
const STATUSES: RangeInclusive<u16> = 200..=599;

struct StatusRange(RangeInclusive<u16>);

impl Decode for StatusRange {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = match &item.value {
            Value::String(text) => text.value.clone(),
            Value::Integer(number) => number.to_string(),
            _ => {
                reader.error(item.place, format!("expected a status, found {}", item.kind())).help("write 200 or \"200-399\"");
                return None;
            }
        };
        let (from, to) = text.split_once('-').unwrap_or((&text, &text));
        let status = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        match status(from).zip(status(to)) {
            Some((from, to)) if STATUSES.contains(&from) && STATUSES.contains(&to) && from <= to => Some(Self(from..=to)),
            Some((from, to)) if from > to => {
                reader.error(item.place, format!("`{text}` begins behind its end")).help(format!("write \"{to}-{from}\""));
                None
            }
            Some(_) => {
                reader.error(item.place, format!("`{text}` is out of range")).help("200 to 599: what a final answer may have");
                None
            }
            None => {
                reader.error(item.place, format!("`{text}` is neither a status nor a range of them")).help("write 200 or \"200-399\"");
                None
            }
        }
    }
}

impl Decode for Statuses {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let ranges = Vec::<StatusRange>::decode(item, reader)?;
        if ranges.is_empty() {
            reader.error(item.place, "no status is expected, so every probe would fail").help("remove it for \"200-399\"");
            return None;
        }
        Some(Self(ranges.into_iter().map(|range| range.0).collect()))
    }
}

/// A path with its query, of printable ASCII.
pub(in crate::upstream) struct Path(pub(in crate::upstream) PathAndQuery);

impl Decode for Path {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let is_plain = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let path = PathAndQuery::try_from(text.as_str()).ok().filter(|_| is_plain);
        if path.is_none() {
            reader.error(item.place, format!("`{}` is not a path", text.escape_debug())).help("write one such as \"/ready\"");
        }
        path.map(Self)
    }
}

/// What goes into a Host.
pub(in crate::upstream) struct HostText(pub(in crate::upstream) String);

impl Decode for HostText {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        if check_host(text.as_bytes()).is_some() {
            return Some(Self(text));
        }
        reader.error(item.place, format!("`{}` is not a host", text.escape_debug())).help("write one such as \"app.internal\"");
        None
    }
}

/// `true`, for what needs to be asked nothing else.
fn asked(entry: &Entry, reader: &mut Reader<'_>) -> Option<()> {
    let is_asked = bool::decode(&entry.item, reader)?;
    if !is_asked {
        reader.error(entry.item.place, "`false` asks for nothing").help("write true, or remove the key");
    }
    is_asked.then_some(())
}

/// `true`, or a login. `make` says what of.
pub(in crate::upstream) fn login<T>(
    entry: &Entry,
    scheme: &str,
    reader: &mut Reader<'_>,
    make: impl FnOnce(Option<Login>) -> T,
) -> Option<T> {
    if !matches!(entry.item.value, Value::String(_)) {
        return asked(entry, reader).map(|()| make(None));
    }
    let text = String::decode(&entry.item, reader)?;
    let help = format!("write \"{scheme}://user:password@/database\", without what there is not");
    let login = reader.accept(Login::parse(&text, scheme), entry.item.place, &help)?;
    // Redis alone knows passwords without a name.
    if login.user.is_none() && scheme != "redis" {
        reader.error(entry.item.place, "this login names no user").help(help);
        return None;
    }
    Some(make(Some(login)))
}

/// What is asked, and how that is written.
pub(in crate::upstream) type Kind<'i> = (&'static str, &'i Entry);

/// Those of `kinds` that are written.
pub(in crate::upstream) fn kinds<'i>(kinds: &[&'static str], fields: &mut Fields<'i>) -> Vec<Kind<'i>> {
    kinds.iter().filter_map(|&kind| fields.take(kind).map(|entry| (kind, entry))).collect()
}

/// The one thing that is asked. `rest` is `None` if there is something unknown beside, which may be one of them misspelt.
pub(in crate::upstream) fn only<'i>(
    written: &[Kind<'i>],
    rest: Option<()>,
    place: Place,
    help: &str,
    reader: &mut Reader<'_>,
) -> Option<Kind<'i>> {
    match written {
        [kind] => Some(*kind),
        [] => {
            rest.map(|()| reader.error(place, "nothing says what endpoints are asked").help(help));
            None
        }
        [(first, earlier), (second, later), ..] => {
            reader
                .error(later.key_place, format!("endpoints are asked one thing, this has `{first}` and `{second}`"))
                .related(earlier.key_place, "the first");
            None
        }
    }
}

/// A probe that takes longer than `interval` would delay the next.
pub fn check_timeout(
    timeout: Option<&Spanned<Duration>>,
    default: Duration,
    interval: Duration,
    reader: &mut Reader<'_>,
) -> Option<Duration> {
    let Some(timeout) = timeout else { return Some(default.min(interval)) };
    if timeout.value > interval {
        reader
            .error(timeout.place, format!("a probe may take {:?}, and the next one begins after {interval:?}", timeout.value))
            .help("make `timeout` at most `interval`");
        return None;
    }
    Some(timeout.value)
}

/// An interval is no timeout, but nothing may be asked all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(pub Duration);

const SHORTEST: Duration = Duration::from_millis(10);

impl Decode for Interval {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let interval = Grace::decode(item, reader)?.0;
        if interval < SHORTEST {
            reader.error(item.place, "this asks too often").help(format!("write at least \"{}ms\"", SHORTEST.as_millis()));
            return None;
        }
        Some(Self(interval))
    }
}

const KINDS: [&str; 8] = ["path", "tcp", "tls", "grpc", "redis", "memcached", "mysql", "postgres"];
const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(3);

impl Decode for Settings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "how to probe endpoints", reader)?;
        let place = fields.place();
        let written = kinds(&KINDS, &mut fields);
        let host = fields.optional::<Spanned<HostText>>("host", reader);
        let expect = fields.optional::<Spanned<Statuses>>("expect", reader);
        let interval = fields.or("interval", Interval(INTERVAL), reader);
        let timeout = fields.optional::<Spanned<Duration>>("timeout", reader);
        let rise = fields.or("rise", Whole(2) as Whole<1, 1000>, reader);
        let fall = fields.or("fall", Whole(3) as Whole<1, 1000>, reader);
        let port = fields.optional::<Whole<1, 65535>>("port", reader);
        let fail_open = fields.or("fail_open", false, reader);
        let rest = fields.finish(reader);
        let help = format!("write one of `{}`, such as path = \"/ready\"", KINDS.join("`, `"));
        let kind = only(&written, rest, place, &help, reader);
        let ((kind, entry), host, expect) = (kind?, host?, expect?);
        let unfit = |key: &str, written: Option<Place>, reader: &mut Reader<'_>| {
            let written = written.filter(|_| kind != "path");
            written.map(|place| reader.error(place, format!("`{key}` is for probes by `path`, this one asks `{kind}`")).help("remove it"));
            written.is_none().then_some(())
        };
        let fits = unfit("host", host.as_ref().map(|host| host.place), reader);
        let fits = unfit("expect", expect.as_ref().map(|expect| expect.place), reader).and(fits);
        let probe = match kind {
            "path" => Path::decode(&entry.item, reader).map(|path| {
                let expect = expect.map_or_else(Statuses::default, |expect| expect.value);
                Probe::Http(HttpProbe { path: path.0, host: host.map(|host| host.value.0), expect })
            }),
            "tcp" => asked(entry, reader).map(|()| Probe::Tcp),
            "tls" => asked(entry, reader).map(|()| Probe::Tls),
            "grpc" => grpc_service(&entry.item, reader).map(Probe::Grpc),
            "redis" => login(entry, "redis", reader, Probe::Redis),
            "memcached" => asked(entry, reader).map(|()| Probe::Memcached),
            "mysql" => login(entry, "mysql", reader, Probe::Mysql),
            _ => login(entry, "postgres", reader, Probe::Postgres),
        };
        let interval = interval?.0;
        let timeout = check_timeout(timeout?.as_ref(), TIMEOUT, interval, reader);
        rest?;
        fits?;
        Some(Self {
            probe: probe?,
            interval,
            timeout: timeout?,
            rise: rise?.0,
            fall: fall?.0,
            port: port?.map(|port| port.0 as u16),
            fail_open: fail_open?,
        })
    }
}

/// A name as in a `.proto`, or nothing.
pub fn grpc_service(item: &Item, reader: &mut Reader<'_>) -> Option<String> {
    const BYTES_MAX: usize = 255;
    let name = String::decode(item, reader)?;
    if name.len() > BYTES_MAX || name.chars().any(char::is_control) {
        reader.error(item.place, "this is not the name of a service of gRPC").help("write one such as \"shop.Orders\", or \"\"");
        return None;
    }
    Some(name)
}
