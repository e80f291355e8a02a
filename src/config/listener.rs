//! A listener and its routes as they are written.
//!
//! Composed of each feature's settings; compiling them is `generation`'s work.

use std::time::Duration;

use crate::filters::{headers, rewrite};
use crate::route::{Matchers, Network};
use crate::services;
use crate::tls;
use crate::value::{Address, BodyLimit, Decode, Fields, Item, Label, Reader, ServiceRef, Size, Spanned, Whole};
use crate::{settings, words};

settings! {
    /// `[[listener]]`
    pub struct Listener as "a listener" or its parts {
        /// Name in logs and metrics. Default: its first address.
        name: Option<Label> = None,
        /// `"0.0.0.0:8443"`, `":80"`, `"[::]:80"`, `"unix:/path"`, or a list of them.
        listen: Spanned<Vec<Listen>>,
        /// Permissions of a unix socket, octal. Default: what the umask leaves.
        mode: Option<Spanned<Mode>> = None,
        /// What is spoken: `"http"`, or `"tcp"` for streams of bytes.
        protocol: Protocol = Protocol::Http,
        /// Answers what no route matches. Without it: 404.
        service: Option<Spanned<ServiceRef>> = None,
        /// `"require"` where a balancer in front says who the client is (PROXY v1 and v2).
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off,
        /// Peers whose `X-Forwarded-*` and `Forwarded` are kept; others' are replaced.
        trust: Vec<Network> = Vec::new(),
        /// `"raw"` lets ambiguous paths through unread: dot segments, encoded slashes.
        paths: Paths = Paths::Strict,
        tls: Option<Spanned<tls::Settings>> = None,
        limits: Limits = Limits::default(),
        timeouts: Timeouts = Timeouts::default(),
        /// The first that matches wins, in file order.
        route: Vec<Spanned<Route>> = Vec::new(),
    }
}

words! {
    pub enum Protocol as "a protocol that this version has" {
        Http = "http",
        /// Streams of bytes to and from an endpoint, whatever they mean.
        Tcp = "tcp",
    }
}

words! {
    pub enum ProxyProtocol as "a way to treat PROXY headers" {
        Off = "off",
        Require = "require",
    }
}

words! {
    pub enum Paths as "a way to treat paths" {
        /// Ambiguous paths are refused with 400.
        Strict = "strict",
        Raw = "raw",
    }
}

settings! {
    /// Bounds on what one listener takes in.
    pub struct Limits as "limits" {
        /// Open connections. Beyond: not accepted until one closes.
        connections: Whole<1, { u32::MAX }> = Whole(20_000),
        /// One request's head. Beyond: 431.
        header_bytes: HeadSize = HeadSize(Size::kib(64)),
        /// Fields in one head. Beyond: 431.
        headers: Whole<1, 1000> = Whole(100),
        /// The request target. Beyond: 414. Default: 16 KiB, or `header_bytes` if that is less.
        uri_bytes: Option<Spanned<Size>> = None,
        /// One request's body. Beyond: 413.
        body: BodyLimit = BodyLimit::None,
        /// Requests at once on one HTTP/2 connection. More are refused in a way that lets the client ask again.
        streams: Whole<1, 10_000> = Whole(128),
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: Whole(20_000),
            header_bytes: HeadSize(Size::kib(64)),
            headers: Whole(100),
            uri_bytes: None,
            body: BodyLimit::None,
            streams: Whole(128),
        }
    }
}

settings! {
    /// How long a listener waits for its clients.
    #[derive(Copy, Eq)]
    pub struct Timeouts as "timeouts" {
        /// PROXY header and TLS handshake together. Beyond: closed.
        handshake: Duration = Duration::from_secs(10),
        /// From the first byte of a request to the end of its head. Beyond: 408 and closed.
        header: Duration = Duration::from_secs(10),
        /// Between two requests. Beyond: closed. On a TCP listener, how long a stream may carry nothing either way;
        /// then the default is an hour.
        idle: Duration = Duration::from_secs(75),
        /// Between two reads of a request body. Beyond: 408.
        body: Duration = Duration::from_secs(60),
        /// A client that reads nothing for so long is cut off. On a TCP listener this goes for both sides, and the default
        /// is an hour: a reader of rows may well pause.
        write: Duration = Duration::from_secs(60),
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { handshake: seconds(10), header: seconds(10), idle: seconds(75), body: seconds(60), write: seconds(60) }
    }
}

/// Longest head of a request: no less than an ordinary browser sends, no more than memory is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSize(pub Size);

impl Decode for HeadSize {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let size = Size::decode(item, reader)?;
        if !(Size::kib(1)..=Size::mib(1)).contains(&size) {
            reader.error(item.place, format!("`{size}` is out of range")).help("\"1KiB\" to \"1MiB\"");
            return None;
        }
        Some(Self(size))
    }
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen(pub Spanned<Address>);

impl Decode for Listen {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let help = "write \"0.0.0.0:8443\", \":80\", \"[::]:80\" or \"unix:/path\"";
        let address = match reader.accept(Address::parse_listen(&text), item.place, help)? {
            // A relative socket path starts where other relative paths do.
            Address::Unix(path) => Address::Unix(reader.sources.directory(item.place.source).join(path)),
            address => address,
        };
        if let Address::Unix(path) = &address
            && path.as_os_str().len() > SOCKET_PATH_MAX
        {
            let length = path.as_os_str().len();
            reader
                .error(item.place, format!("a unix socket's path has at most {SOCKET_PATH_MAX} bytes, this has {length}"))
                .help("choose a shorter one, such as \"unix:/run/attache/web.sock\"");
            return None;
        }
        Some(Self(Spanned::new(address, item.place)))
    }
}

/// What fits into `sockaddr_un` with its last zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Permissions in octal, as `chmod` takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Decode for Mode {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let mode = u32::from_str_radix(&text, 8).ok().filter(|&mode| mode <= 0o777 && text.len() >= 3);
        if mode.is_none() {
            reader.error(item.place, format!("`{text}` is not a mode")).help("write it in octal, such as \"0660\"");
        }
        mode.map(Self)
    }
}

/// `[[listener.route]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Name in logs and metrics. Default: its number in the file, from 1.
    pub name: Option<Label>,
    pub matchers: Matchers,
    pub service: RouteService,
    /// Whole exchange. Default: none.
    pub timeout: Option<Duration>,
    pub rewrite: Option<rewrite::Settings>,
    pub request_headers: Option<headers::Settings>,
    pub response_headers: Option<headers::Settings>,
}

/// A route's service: by name or address, or written in place.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteService {
    Named(Spanned<ServiceRef>),
    Inline(services::Settings),
}

impl Decode for Route {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "a route", reader)?;
        let name = fields.optional::<Label>("name", reader);
        let matchers = Matchers::take(&mut fields, reader);
        let named = fields.optional::<Spanned<ServiceRef>>("service", reader);
        let inline = services::Settings::inline(&mut fields, reader);
        let timeout = fields.optional("timeout", reader);
        let rewrite = fields.optional("rewrite", reader);
        let request_headers = fields.optional("request_headers", reader);
        let response_headers = fields.optional("response_headers", reader);
        let place = fields.place();
        fields.finish(reader)?;
        let service = match (named?, inline?) {
            (Some(named), None) => RouteService::Named(named),
            (None, Some(inline)) => RouteService::Inline(inline),
            (Some(named), Some(_)) => {
                reader.error(named.place, "a route has one service, this has `service` and one in place").help("keep one");
                return None;
            }
            (None, None) => {
                reader.error(place, "this route has no service").help("write service = \"name\", or respond = { … }");
                return None;
            }
        };
        Some(Self {
            name: name?,
            matchers: matchers?,
            service,
            timeout: timeout?,
            rewrite: rewrite?,
            request_headers: request_headers?,
            response_headers: response_headers?,
        })
    }
}
