//! A request that somebody made up: `GET https://shop.example/cart`.
//!
//! Becomes the bytes that a client would send, and is read from them as any other.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use super::http;
use crate::generation::{Generation, Listener};
use crate::proto::http1::{Progress, RequestHead, is_token};
use crate::refusal::Refusal;
use crate::route::TlsFacts;
use crate::value::Address;

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub url: String,
    pub scheme: &'static str,
    authority: String,
    target: String,
    headers: Vec<(String, String)>,
    pub client: IpAddr,
    /// By name; `None` for the first that fits the URL.
    pub wanted: Option<String>,
    pub body: Option<Vec<u8>>,
}

/// Why nothing can be explained, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong(pub String);

impl Asked {
    pub fn new(method: &str, url: &str) -> Result<Self, Wrong> {
        if !is_token(method.as_bytes()) {
            return Err(Wrong(format!("`{method}` is not a method; write it as in 'GET https://shop.example/cart'")));
        }
        let help = "write a whole one, as in 'GET https://shop.example/cart'";
        let Some((scheme, rest)) = url.split_once("://") else { return Err(Wrong(format!("`{url}` is not a URL: {help}"))) };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => "http",
            "https" => "https",
            _ => return Err(Wrong(format!("`{scheme}` is neither http nor https: {help}"))),
        };
        // What stands behind `#` stays with the client.
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.is_empty() {
            return Err(Wrong(format!("`{url}` has no host: {help}")));
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        if !target.bytes().chain(authority.bytes()).all(|byte| byte.is_ascii_graphic()) {
            return Err(Wrong(format!("`{url}` has spaces or characters beyond ASCII; encode them with %")));
        }
        Ok(Self {
            method: method.to_owned(),
            url: url.to_owned(),
            scheme,
            authority: authority.to_owned(),
            target,
            headers: Vec::new(),
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            wanted: None,
            body: None,
        })
    }

    /// `name: value`.
    pub fn header(&mut self, line: &str) -> Result<(), Wrong> {
        let Some((name, value)) = line.split_once(':').filter(|(name, _)| is_token(name.as_bytes())) else {
            return Err(Wrong(format!("`{line}` is not a header; write it as in 'x-user: ann'")));
        };
        self.headers.push((name.to_owned(), value.trim().to_owned()));
        Ok(())
    }

    /// The listener that such a request would come to, and others that it could.
    pub(super) fn listener<'g>(&self, generation: &'g Generation) -> Result<(&'g Listener, Vec<String>), Wrong> {
        let names = || http(generation).map(|listener| listener.name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(wanted) = &self.wanted {
            let found = http(generation).find(|listener| listener.name == *wanted);
            let wrong = || Wrong(format!("no listener for HTTP is named `{wanted}`; there is {}", names()));
            return found.map(|found| (found, Vec::new())).ok_or_else(wrong);
        }
        let port = self.authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let port = port.unwrap_or(if self.scheme == "https" { 443 } else { 80 });
        let has_port = |listener: &&Listener| {
            listener.sockets.iter().any(|socket| matches!(&socket.address, Address::Tcp(address) if address.port() == port))
        };
        // A scheme or a port that no listener has is one of something before it, more often than not.
        let fits_scheme = |listener: &&Listener| listener.tls.is_some() == (self.scheme == "https");
        let narrowed = |listeners: Vec<&'g Listener>, fits: &dyn Fn(&&Listener) -> bool| {
            let fitting: Vec<&Listener> = listeners.iter().copied().filter(|listener| fits(listener)).collect();
            if fitting.is_empty() { listeners } else { fitting }
        };
        let chosen = narrowed(narrowed(http(generation).collect(), &fits_scheme), &has_port);
        let Some((first, others)) = chosen.split_first() else {
            return Err(Wrong("no listener speaks HTTP".to_owned()));
        };
        Ok((first, others.iter().map(|listener| listener.name.clone()).collect()))
    }

    /// As a client would send it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            let _ = write!(text, "Host: {}\r\n", self.authority);
        }
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if let Some(body) = &self.body
            && !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            let _ = write!(text, "Content-Length: {}\r\n", body.len());
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    /// The head in these bytes.
    pub(super) fn parsed(bytes: &[u8], listener: &Listener) -> Result<RequestHead, Refusal> {
        let mut request = RequestHead::new();
        match request.parse(bytes, &listener.limits) {
            Ok(Progress::Complete) => Ok(request),
            Ok(Progress::Partial) => Err(Refusal::BadHead),
            Err(error) => Err(crate::serve::refusal_of(error)),
        }
    }

    /// What its TLS would say.
    pub(super) fn facts(&self, listener: &Listener) -> Option<TlsFacts> {
        let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        let host = self.authority.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(&*self.authority, |(host, _)| host);
        listener.tls.as_ref().map(|_| TlsFacts { sni: Some(host.to_ascii_lowercase()), version: "1.3", subject: None })
    }
}
