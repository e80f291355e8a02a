//! `discover` of a pool as it is written: where to look for endpoints that the pool does not name.
//!
//! Looks nowhere: `upkeep` asks DNS, and a file was read together with the document that names it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::settings::Written;
use crate::upstream::discover::{Every, Question};
use crate::value::{Address, Decode, EndpointAddress, Entry, Fields, Item, Place, Reader, Spanned, Value};

/// One place to look.
pub(super) enum Discover {
    /// Somebody is asked, again and again.
    Asked(Asked),
    /// A file that lists endpoints. Read with the configuration, as a part of it.
    Listed(Vec<Written>),
}

pub(super) struct Asked {
    pub question: Question,
    pub every: Every,
    pub servers: Vec<SocketAddr>,
    /// What answers, as an endpoint would be written; `None` for SRV records, whose targets do.
    pub address: Option<Spanned<EndpointAddress>>,
    pub place: Place,
}

/// As many as /etc/resolv.conf may name.
const SERVERS_MAX: usize = 3;
const EVERY_MIN: Duration = Duration::from_secs(1);
const DNS_PORT: u16 = 53;

impl Decode for Discover {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "where to discover endpoints", reader)?;
        let sources: Vec<(&str, &Entry)> = ["dns", "srv", "file"].into_iter().filter_map(|key| Some((key, fields.take(key)?))).collect();
        let every = fields.optional::<Spanned<Every>>("every", reader);
        let servers = fields.optional::<Spanned<Vec<Server>>>("servers", reader);
        fields.finish(reader)?;
        let (every, servers) = (every?, servers?);
        let (key, entry) = match sources.as_slice() {
            [one] => *one,
            [] => {
                reader
                    .error(item.place, "this names nowhere to look")
                    .help("write dns = \"app.default.svc:8080\", srv = \"_http._tcp.app.default.svc\" or file = \"endpoints.toml\"");
                return None;
            }
            [(first, earlier), (second, later), ..] => {
                reader
                    .error(later.key_place, format!("this has one place to look, and here are `{first}` and `{second}`"))
                    .related(earlier.key_place, "the first one")
                    .help("keep one of them, or write a list: discover = [{ … }, { … }]");
                return None;
            }
        };
        if key == "file" {
            let pace = every.map(|every| ("every", every.place)).or(servers.map(|servers| ("servers", servers.place)));
            if let Some((key, place)) = pace {
                reader.error(place, format!("`{key}` is about DNS; a file is read when it changes")).help("remove it");
                return None;
            }
            return listed(&entry.item, reader).map(Self::Listed);
        }
        let every = every.map_or(Every::Ttl, |every| every.value);
        let servers = servers.map_or_else(Vec::new, |servers| servers.value);
        if servers.len() > SERVERS_MAX {
            reader.error(item.place, format!("at most {SERVERS_MAX} name servers are asked")).help("remove some of `servers`");
            return None;
        }
        let servers = servers.into_iter().map(|server| server.0).collect();
        let (question, address) = match key {
            "dns" => addresses(&entry.item, reader).map(|(question, address)| (question, Some(address)))?,
            _ => (services(&entry.item, reader)?, None),
        };
        Some(Self::Asked(Asked { question, every, servers, address, place: entry.item.place }))
    }
}

/// `dns = "app.default.svc:8080"`: a name and the port of all its addresses.
fn addresses(item: &Item, reader: &mut Reader<'_>) -> Option<(Question, Spanned<EndpointAddress>)> {
    const HELP: &str = "write a name and a port, such as \"app.default.svc:8080\"";
    let text = String::decode(item, reader)?;
    // A last dot says that no domain is to be appended. It is no part of the name that a certificate has.
    let (start, port) = text.rsplit_once(':').unwrap_or((&text, ""));
    let (text, dot) = match start.strip_suffix('.') {
        Some(start) if !port.contains('/') => (format!("{start}:{port}"), "."),
        _ => (text, ""),
    };
    let address = reader.accept(EndpointAddress::parse(&text), item.place, HELP)?;
    let (host, port) = match &address.address {
        Address::Name(_, 0) => {
            reader.error(item.place, "nothing answers on port 0").help("write the port that the endpoints listen on");
            return None;
        }
        Address::Name(host, port) => (host.clone(), *port),
        Address::Tcp(_) | Address::Unix(_) => {
            reader
                .error(item.place, format!("`{text}` is no name that DNS could be asked for"))
                .help(format!("write it as an endpoint: endpoints = [\"{text}\"]"));
            return None;
        }
    };
    Some((Question::Addresses { host: host + dot, port }, Spanned::new(address, item.place)))
}

/// `srv = "_http._tcp.app.default.svc"`: the name of SRV records, which say the ports.
fn services(item: &Item, reader: &mut Reader<'_>) -> Option<Question> {
    const HELP: &str = "write the name of SRV records alone, such as \"_http._tcp.app.default.svc\"";
    let text = String::decode(item, reader)?;
    let (bare, dot) = text.strip_suffix('.').map_or((text.as_str(), ""), |bare| (bare, "."));
    // A port makes an address of what is to be a name.
    match Address::parse(&format!("{bare}:1")) {
        Ok(Address::Name(name, _)) => Some(Question::Services { name: name + dot }),
        _ if bare.contains("://") => {
            reader
                .error(item.place, format!("`{text}` has a scheme; SRV records have none"))
                .help("for TLS write tls = {} beside `discover`");
            None
        }
        _ => {
            reader.error(item.place, format!("`{text}` is not a name")).help(HELP);
            None
        }
    }
}

/// `file = "endpoints.toml"`: `None` without a word if it could not be read, which has been said by then.
fn listed(item: &Item, reader: &mut Reader<'_>) -> Option<Vec<Written>> {
    let path = PathBuf::decode(item, reader)?;
    let sources = reader.sources;
    let document = sources.included(&path)?;
    let mut fields = Fields::table(&document.table, document.start());
    let endpoints = fields.required("endpoints", reader);
    fields.finish(reader)?;
    endpoints
}

impl Decode for Every {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(&item.value, Value::String(text) if text.value == "ttl") {
            return Some(Self::Ttl);
        }
        let pace = Duration::decode(item, reader)?;
        if pace < EVERY_MIN {
            reader.error(item.place, "nobody is asked more than once a second").help("write \"1s\" or more, or \"ttl\"");
            return None;
        }
        Some(Self::Fixed(pace))
    }
}

/// The address of a name server; the port may be left out.
struct Server(SocketAddr);

impl Decode for Server {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
        let server = text.parse::<SocketAddr>().or(bare).ok().filter(|server| server.port() != 0);
        let server = server.ok_or_else(|| format!("`{text}` is not the address of a name server"));
        reader
            .accept(server, item.place, "write an IP address, perhaps with a port: \"10.0.0.10\", \"10.0.0.10:53\", \"[::1]:53\"")
            .map(Self)
    }
}
