//! Where something listens or answers: `10.0.0.1:80`, `app:8080`, `unix:/run/app.sock`.
//!
//! Names are kept as names; resolving one is `dial`'s work.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::{Decode, Item, Reader, Spanned};

/// One address that can be connected to or listened on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    /// A host name and a port, resolved when dialled.
    Name(String, u16),
    Unix(PathBuf),
}

impl Address {
    /// Parses an address without a scheme. The error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("`unix:` needs a path".to_owned());
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        if text.is_empty() {
            return Err("an address cannot be empty".to_owned());
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("`{text}` is a port without a host"));
        }
        if text.parse::<IpAddr>().is_ok() || (text.starts_with('[') && text.ends_with(']')) {
            return Err(format!("`{text}` has no port"));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("`{text}` has no port"));
        };
        let Ok(port) = port.parse::<u16>() else {
            return Err(format!("`{port}` is not a port, 0 to 65535"));
        };
        if !is_host_name(host) {
            return Err(format!("`{host}` is not a host name"));
        }
        Ok(Self::Name(host.to_ascii_lowercase(), port))
    }

    /// Its name or IP address; of a unix socket `localhost`.
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.ip().to_string(),
            Self::Name(host, _) => host.clone(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    /// Parses an address to listen on: no names but `localhost`, and `:80` for every interface.
    pub fn parse_listen(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Err(format!("`{text}` has a scheme; an address to listen on has none"));
        }
        // One colon: an IPv6 address without its brackets starts with two.
        if let Some(port) = text.strip_prefix(':').filter(|port| !port.contains(':')) {
            return Self::parse_listen(&format!("0.0.0.0:{port}"));
        }
        match Self::parse(text)? {
            Self::Name(host, port) if host == "localhost" => Ok(Self::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))),
            Self::Name(host, _) => Err(format!("`{host}` is a name; listen on an IP address")),
            address => Ok(address),
        }
    }
}

/// RFC 1123 letters, digits, hyphens and dots; underscores too, as container networks use them.
/// A name whose last label is all digits is an IP address written wrongly (WHATWG URL, "ends in a number").
fn is_host_name(host: &str) -> bool {
    let labels_fit = host.split('.').all(|label| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    let last_is_number = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    labels_fit && host.len() <= 253 && !last_is_number
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What was written before an endpoint's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Nothing: the pool's settings say how the endpoint is spoken to.
    None,
    Http,
    Https,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
}

/// Where an endpoint answers, as it is written: an address, perhaps with a scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointAddress {
    pub scheme: Scheme,
    pub address: Address,
}

impl EndpointAddress {
    /// The error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Address::parse(text).map(|address| Self { scheme: Scheme::None, address });
        };
        let (scheme, port) = match scheme {
            "http" => (Scheme::Http, 80),
            "https" => (Scheme::Https, 443),
            "h2c" => (Scheme::H2c, 80),
            _ => return Err(format!("`{scheme}://` is not a scheme of an endpoint")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('/') {
            return Err(format!("`{text}` has a path; an address is a host and a port"));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = Address::parse(&if has_port { authority.to_owned() } else { format!("{authority}:{port}") })?;
        match address {
            Address::Unix(_) => Err(format!("`{text}` has a scheme; a unix socket has none")),
            address => Ok(Self { scheme, address }),
        }
    }
}

/// With `https://` and `h2c://`, which tell two endpoints apart; `http://` says what is meant anyway.
impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Https => f.write_str("https://")?,
            Scheme::H2c => f.write_str("h2c://")?,
            Scheme::None | Scheme::Http => {}
        }
        self.address.fmt(f)
    }
}

impl Decode for EndpointAddress {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let help = "write \"10.0.0.1:8080\", \"app:8080\", \"https://app.example\" or \"unix:/run/app.sock\"";
        reader.accept(Self::parse(&text), item.place, help)
    }
}

/// Wherever a service is expected: the name of one, or an address that stands for a pool of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceRef {
    Name(String),
    Address(EndpointAddress),
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Decode for ServiceRef {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        // Service names hold no colon and every address has one.
        if text.contains(':') {
            return EndpointAddress::decode(item, reader).map(Self::Address);
        }
        if text.is_empty() {
            reader
                .error(item.place, "a service's name cannot be empty")
                .help("write a service's name, or an address such as \"127.0.0.1:8080\"");
            return None;
        }
        reader.service_names.push(Spanned::new(text.clone(), item.place));
        Some(Self::Name(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_parse() {
        for text in ["10.0.0.1:80", "[::1]:8080", "unix:/run/app.sock", "app.default.svc:8080"] {
            assert_eq!(EndpointAddress::parse(text).map(|a| a.to_string()).as_deref(), Ok(text));
        }
        for (text, printed) in [
            ("http://app", "app:80"),
            ("https://app/", "https://app:443"),
            ("https://App:8443", "https://app:8443"),
            ("https://[::1]", "https://[::1]:443"),
            ("h2c://App", "h2c://app:80"),
        ] {
            assert_eq!(EndpointAddress::parse(text).map(|a| a.to_string()).as_deref(), Ok(printed));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1:",
            "10.0.0.1:99999",
            "unix:",
            "a b:80",
            "10.0.0.999:80",
            "h2c://unix:/a",
            "http://a/b",
            "https://unix:/a",
            "https://",
        ] {
            assert!(EndpointAddress::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listening_takes_no_names() {
        assert_eq!(Address::parse_listen(":80").map(|a| a.to_string()).as_deref(), Ok("0.0.0.0:80"));
        assert_eq!(Address::parse_listen("localhost:80").map(|a| a.to_string()).as_deref(), Ok("127.0.0.1:80"));
        assert!(Address::parse_listen("app:80").is_err());
    }
}
