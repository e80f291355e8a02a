//! A health report as it is written: what is checked, how often, and what is expected.
//!
//! Knows what may be asked; how each question is asked, `upkeep` knows.

use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;

use crate::settings;
use crate::tls::ConnectorSettings;
use crate::upstream::health::{Interval, Statuses, check_timeout, grpc_service};
use crate::value::{
    Address, Choice, Decode, EndpointAddress, Entry, Fields, Item, Jq, Key, Reader, Scheme, Server, ServerKind, Share, Size, Spanned, Url,
    Value, Whole,
};
use crate::words;

settings! {
    /// What is reported, and how often it is looked at.
    pub struct Settings as "a health report" {
        /// By name; up to 64.
        checks: Spanned<Checks>,
        /// From one check to the next of the same name, give or take a tenth.
        interval: Interval = Interval(Duration::from_secs(2)),
        /// For one check. Default: 1s, or the interval if that is shorter.
        timeout: Option<Spanned<Duration>> = None,
        /// Successes in a row that end a failure.
        rise: Whole<1, 1000> = Whole(2),
        /// Failures in a row that are one.
        fall: Whole<1, 1000> = Whole(3),
    }
}

/// By name, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Checks(pub IndexMap<String, CheckSettings>);

/// One check.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSettings {
    pub question: Question,
    /// Without it nobody is ready; else the report is degraded when it fails.
    pub critical: bool,
    /// For this check alone.
    pub interval: Option<Duration>,
    pub timeout: Option<Spanned<Duration>>,
    pub rise: Option<u32>,
    pub fall: Option<u32>,
    /// For whoever is asked inside TLS.
    pub tls: Option<Spanned<ConnectorSettings>>,
}

/// What is asked, and what must be answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Whether it accepts connections.
    Tcp(Address),
    /// Whether a certificate is good for so many days more.
    Certificate {
        address: Address,
        days: u32,
    },
    Http(Box<HttpQuestion>),
    /// `grpc.health.v1.Health/Check` of a service; of the server if empty.
    Grpc {
        endpoint: EndpointAddress,
        service: String,
    },
    Redis(Box<ServerQuestion>),
    Memcached(Address),
    Mysql(Box<ServerQuestion>),
    Postgres(Box<ServerQuestion>),
    /// Whether a file is there, and was written to lately.
    File {
        path: PathBuf,
        max_age: Option<Duration>,
    },
    /// Whether a file system has room.
    Free {
        path: PathBuf,
        at_least: Room,
    },
    /// Whether a program ends with 0.
    Exec(Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpQuestion {
    pub url: Url,
    pub expect: Statuses,
    /// What must hold of the answer, which is JSON then.
    pub json: Option<Jq>,
}

/// What is asked of a server of data.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerQuestion {
    pub server: Server,
    /// SQL.
    pub query: Option<String>,
    /// The first value of the first row.
    pub expect: Option<String>,
    pub role: Option<Role>,
    /// How far a replica may be behind.
    pub max_lag: Option<Duration>,
}

/// How much must be free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Room {
    Share(Share),
    Bytes(u64),
}

words! {
    /// What a server is among others with the same data.
    pub enum Role as "a role" {
        /// Takes writes.
        Primary = "primary",
        /// Follows another one.
        Replica = "replica",
    }
}

const CHECKS_MAX: usize = 64;

impl Decode for Checks {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let checks = IndexMap::<Name, CheckSettings>::decode(item, reader)?;
        if checks.is_empty() || checks.len() > CHECKS_MAX {
            reader
                .error(item.place, format!("a report has 1 to {CHECKS_MAX} checks, this has {}", checks.len()))
                .help("write checks = { web = { http = \"http://127.0.0.1:8080/ready\" } }");
            return None;
        }
        Some(Self(checks.into_iter().map(|(name, check)| (name.0, check)).collect()))
    }
}

/// A check's name, which is a label of metrics and a part of a path.
#[derive(PartialEq, Eq, Hash)]
struct Name(String);

impl Key for Name {
    fn read(name: Spanned<String>, reader: &mut Reader<'_>) -> Option<Self> {
        let is_plain = !name.value.is_empty()
            && name.value.len() <= 128
            && name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !is_plain {
            reader.error(name.place, format!("`{}` is not a name for a check", name.value)).help("use letters, digits, `-`, `_` and `.`");
            return None;
        }
        Some(Self(name.value))
    }
}

const KINDS: Choice<'_> = Choice {
    kinds: &["tcp", "certificate", "http", "grpc", "redis", "memcached", "mysql", "postgres", "file", "free", "exec"],
    rule: "a check asks one thing, this has",
    missing: "nothing says what is checked",
    example: "http = \"http://127.0.0.1:8080/ready\"",
};

/// Keys beside the kind, and the kinds that they are for.
const OPTIONS: [(&str, &[&str]); 10] = [
    ("expect", &["http", "mysql", "postgres"]),
    ("json", &["http"]),
    ("days", &["certificate"]),
    ("name", &["grpc"]),
    ("query", &["mysql", "postgres"]),
    ("role", &["redis", "mysql", "postgres"]),
    ("max_lag", &["redis", "mysql", "postgres"]),
    ("max_age", &["file"]),
    ("at_least", &["free"]),
    ("tls", &["certificate", "http", "grpc", "redis"]),
];

impl Decode for CheckSettings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "a check", reader)?;
        let place = fields.place();
        let kinds = KINDS.take(&mut fields);
        let options = Options(OPTIONS.iter().filter_map(|&(key, _)| Some((key, fields.take(key)?))).collect());
        let critical = fields.or("critical", true, reader);
        let interval = fields.optional::<Interval>("interval", reader);
        let timeout = fields.optional::<Spanned<Duration>>("timeout", reader);
        let rise = fields.optional::<Whole<1, 1000>>("rise", reader);
        let fall = fields.optional::<Whole<1, 1000>>("fall", reader);
        fields.finish(reader)?;
        let (kind, entry) = KINDS.only(&kinds, place, reader)?;
        options.fit(kind, reader)?;
        Some(Self {
            question: question(kind, &entry.item, &options, reader)?,
            critical: critical?,
            interval: interval?.map(|interval| interval.0),
            timeout: timeout?,
            rise: rise?.map(|rise| rise.0),
            fall: fall?.map(|fall| fall.0),
            tls: options.get("tls", reader)?,
        })
    }
}

/// What is written beside the kind.
struct Options<'i>(Vec<(&'static str, &'i Entry)>);

impl Options<'_> {
    #[expect(clippy::option_option, reason = "absent and wrong are two different answers")]
    fn get<T: Decode>(&self, key: &str, reader: &mut Reader<'_>) -> Option<Option<T>> {
        let written = self.0.iter().find(|(written, _)| *written == key);
        written.map_or(Some(None), |(_, entry)| T::decode(&entry.item, reader).map(Some))
    }

    fn fit(&self, kind: &str, reader: &mut Reader<'_>) -> Option<()> {
        let unfit = self.0.iter().find_map(|(key, entry)| {
            let (_, kinds) = OPTIONS.iter().find(|(known, _)| known == key)?;
            (!kinds.contains(&kind)).then_some((key, entry, kinds))
        });
        let Some((key, entry, kinds)) = unfit else { return Some(()) };
        reader
            .error(entry.key_place, format!("`{key}` is for checks of `{}`, this one is of `{kind}`", kinds.join("`, `")))
            .help("remove it");
        None
    }
}

fn question(kind: &str, item: &Item, options: &Options<'_>, reader: &mut Reader<'_>) -> Option<Question> {
    match kind {
        "tcp" => address(item, reader).map(Question::Tcp),
        "certificate" => {
            let address = address(item, reader);
            let days = options.get::<Whole<0, 3650>>("days", reader)?.map_or(0, |days| days.0);
            Some(Question::Certificate { address: address?, days })
        }
        "http" => http(item, options, reader).map(Box::new).map(Question::Http),
        "grpc" => {
            let endpoint = EndpointAddress::decode(item, reader);
            let service = options.get::<GrpcService>("name", reader)?;
            Some(Question::Grpc { endpoint: endpoint?, service: service.map_or_else(String::new, |service| service.0) })
        }
        "redis" => server(ServerKind::REDIS, item, options, reader).map(Question::Redis),
        "memcached" => written(ServerKind::MEMCACHED, item, reader).map(|server| Question::Memcached(server.address)),
        "mysql" => server(ServerKind::MYSQL, item, options, reader).map(Question::Mysql),
        "postgres" => server(ServerKind::POSTGRES, item, options, reader).map(Question::Postgres),
        "file" => {
            let path = PathBuf::decode(item, reader);
            let max_age = options.get::<Duration>("max_age", reader)?;
            Some(Question::File { path: path?, max_age })
        }
        "free" => {
            let path = PathBuf::decode(item, reader)?;
            let Some(at_least) = options.get::<Room>("at_least", reader)? else {
                reader.error(item.place, "nothing says how much must be free").help("write at_least = \"10%\", or \"1GiB\"");
                return None;
            };
            Some(Question::Free { path, at_least })
        }
        _ => program(item, reader).map(Question::Exec),
    }
}

fn address(item: &Item, reader: &mut Reader<'_>) -> Option<Address> {
    let text = String::decode(item, reader)?;
    reader.accept(Address::parse(&text), item.place, "write \"10.0.0.1:8080\", \"app:8080\" or \"unix:/run/app.sock\"")
}

fn http(item: &Item, options: &Options<'_>, reader: &mut Reader<'_>) -> Option<HttpQuestion> {
    let text = String::decode(item, reader)?;
    let (expect, json) = (options.get::<Statuses>("expect", reader)?, options.get::<Jq>("json", reader)?);
    let parsed = Url::parse(&text).map(|url| HttpQuestion { url, expect: expect.unwrap_or_default(), json });
    if parsed.is_none() {
        // Not what it is: it may come from the environment, and hold a password.
        reader
            .error(item.place, "this is not a URL that can be asked for; a URL has no login")
            .help("write \"http://127.0.0.1:8080/ready\", or https://");
    }
    parsed
}

fn written(kind: ServerKind, item: &Item, reader: &mut Reader<'_>) -> Option<Server> {
    let text = String::decode(item, reader)?;
    reader.accept(kind.parse(&text), item.place, "remove what does not belong there")
}

fn server(kind: ServerKind, item: &Item, options: &Options<'_>, reader: &mut Reader<'_>) -> Option<Box<ServerQuestion>> {
    let server = written(kind, item, reader);
    let (query, expect) = (options.get("query", reader)?, options.get::<Text>("expect", reader)?);
    let (role, max_lag) = (options.get("role", reader)?, options.get("max_lag", reader)?);
    let server = server?;
    let asks = query.is_some() || expect.is_some() || role.is_some() || max_lag.is_some();
    // Redis alone knows passwords without a name, and answers without either.
    if asks && server.login.user.is_none() && kind.scheme != "redis" {
        let scheme = kind.scheme;
        reader
            .error(item.place, "nobody can ask it anything without a login")
            .help(format!("write \"{scheme}://user:password@host/database\""));
        return None;
    }
    Some(Box::new(ServerQuestion { server, query, expect: expect.map(|expect| expect.0), role, max_lag }))
}

/// A value of SQL, as text: `"ok"` or `1`.
struct Text(String);

impl Decode for Text {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        match &item.value {
            Value::Integer(number) => Some(Self(number.to_string())),
            _ => String::decode(item, reader).map(Self),
        }
    }
}

struct GrpcService(String);

impl Decode for GrpcService {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        grpc_service(item, reader).map(Self)
    }
}

impl Decode for Room {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        match &item.value {
            Value::String(text) if text.value.ends_with('%') => Share::decode(item, reader).map(Self::Share),
            _ => Size::decode(item, reader).map(|size| Self::Bytes(size.0)),
        }
    }
}

fn program(item: &Item, reader: &mut Reader<'_>) -> Option<Vec<String>> {
    let words = Vec::<String>::decode(item, reader)?;
    if words.first().is_none_or(String::is_empty) {
        reader.error(item.place, "this names no program").help("write exec = [\"/usr/local/bin/check\", \"argument\"]");
        return None;
    }
    Some(words)
}

impl Settings {
    /// What no field can tell alone.
    pub fn checked(self, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fits = true;
        for check in self.checks.value.0.values() {
            let interval = check.interval.unwrap_or(self.interval.0);
            let timeout = check.timeout.as_ref().or(self.timeout.as_ref());
            fits &= check_timeout(timeout, TIMEOUT, interval, reader).is_some();
            let question = &check.question;
            if let Some(tls) = check.tls.as_ref().filter(|_| !question.is_tls()) {
                reader.error(tls.place, "what is asked is not spoken to with TLS").help("remove `tls`, or write https:// or rediss://");
                fits = false;
            }
        }
        fits.then_some(self)
    }

    /// For how long one check may take.
    pub fn timeout(&self, check: &CheckSettings) -> Duration {
        let timeout = check.timeout.as_ref().or(self.timeout.as_ref()).map(|timeout| timeout.value);
        timeout.unwrap_or(TIMEOUT).min(check.interval.unwrap_or(self.interval.0))
    }

    /// Files that are read with the configuration.
    pub fn files(&self) -> impl Iterator<Item = &Spanned<PathBuf>> {
        self.checks.value.0.values().filter_map(|check| check.tls.as_ref()).flat_map(|tls| tls.value.files())
    }
}

const TIMEOUT: Duration = Duration::from_secs(1);

impl Question {
    /// In a word, as it is written.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Certificate { .. } => "certificate",
            Self::Http(_) => "http",
            Self::Grpc { .. } => "grpc",
            Self::Redis(_) => "redis",
            Self::Memcached(_) => "memcached",
            Self::Mysql(_) => "mysql",
            Self::Postgres(_) => "postgres",
            Self::File { .. } => "file",
            Self::Free { .. } => "free",
            Self::Exec(_) => "exec",
        }
    }

    /// Who is asked inside TLS.
    pub fn is_tls(&self) -> bool {
        self.tls_address().is_some()
    }

    pub fn tls_address(&self) -> Option<&Address> {
        match self {
            Self::Certificate { address, .. } => Some(address),
            Self::Http(http) => http.url.tls_address(),
            Self::Grpc { endpoint, .. } => (endpoint.scheme == Scheme::Https).then_some(&endpoint.address),
            Self::Redis(asked) => asked.server.is_tls.then_some(&asked.server.address),
            _ => None,
        }
    }

    /// Whether the answer says which role a server has.
    pub fn tells_role(&self) -> bool {
        match self {
            Self::Redis(_) => true,
            Self::Mysql(asked) | Self::Postgres(asked) => asked.server.login.user.is_some(),
            _ => false,
        }
    }
}
