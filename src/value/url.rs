//! `"http://127.0.0.1:8080/ready"`: what attache asks for, or posts to, by itself.
//!
//! Without a login, since it is shown.

use http::Uri;
use http::uri::PathAndQuery;

use super::Address;

/// Where something is, over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub is_tls: bool,
    pub address: Address,
    /// As it was written.
    pub authority: String,
    /// With its query.
    pub path: PathAndQuery,
}

impl Url {
    /// Parses `http://HOST[:PORT][/PATH]` and `https://`.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return None,
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let address = Address::parse(&format!("{}:{port}", authority.host())).ok()?;
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Some(Self { is_tls, address, authority: authority.to_string(), path })
    }

    /// Who is asked inside TLS.
    pub fn tls_address(&self) -> Option<&Address> {
        self.is_tls.then_some(&self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn a_url_has_an_address_and_a_path() {
        let url = Url::parse("https://app.example/a?b=c").unwrap();
        assert_eq!((url.is_tls, url.address.to_string().as_str(), url.path.as_str()), (true, "app.example:443", "/a?b=c"));
        assert_eq!(Url::parse("http://[::1]:81").unwrap().path, "/");
        for text in ["", "app:80", "ftp://app/", "http://u:p@app/", "/a", "http://"] {
            assert_eq!(Url::parse(text), None, "{text}");
        }
    }
}
