//! `tls` of a pool: what the operator may write, checked into a form that cannot contradict itself.
//!
//! Opens no file. Which endpoints it is for, the pool knows.

use std::path::PathBuf;

use rustls::pki_types::ServerName;

use crate::tls::KeyPair;
use crate::tls::settings::short_form;
use crate::value::{Decode, Item, Reader, Spanned};

crate::settings! {
    /// As written. [`Settings`] is what is left once the keys agree with each other.
    pub struct Written as "TLS to endpoints" {
        /// Certificate authorities in PEM that the endpoints' certificates must come from. Default: those that this
        /// machine trusts.
        ca: Option<Spanned<PathBuf>> = None,
        /// Name that the endpoints' certificates must have, and that is asked for (SNI). Default: the name in each address.
        /// Required where an address has none.
        server_name: Option<Name> = None,
        /// Certificate chain in PEM that attache shows to endpoints that ask for one, its own first. Needs `key`.
        cert: Option<Spanned<PathBuf>> = None,
        /// Private key of `cert` in PEM, not encrypted.
        key: Option<Spanned<PathBuf>> = None,
        /// `true` believes any certificate, so that whoever is in between can read and change everything.
        insecure: Option<Spanned<bool>> = None,
    }
}

/// TLS of one pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub trust: Trust,
    pub server_name: Option<Name>,
    /// What attache shows to endpoints that ask who it is.
    pub client: Option<KeyPair>,
}

/// Whose word is taken for who an endpoint is.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Trust {
    /// Those that this machine trusts.
    #[default]
    System,
    /// Only those in this file.
    Authorities(Spanned<PathBuf>),
    /// Nobody is asked.
    Anyone,
}

/// What a certificate can be valid for: a host name, or an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub ServerName<'static>);

impl Name {
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = ServerName::try_from(text.to_ascii_lowercase());
        parsed.map(Self).map_err(|_| format!("`{text}` is neither a host name nor an IP address"))
    }
}

impl Decode for Name {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        reader.accept(Self::parse(&text), item.place, "write one name in the endpoint's certificate, such as \"app.internal\"")
    }
}

impl Settings {
    /// Every file named, to be read and watched.
    pub fn files(&self) -> impl Iterator<Item = &Spanned<PathBuf>> {
        let ca = match &self.trust {
            Trust::Authorities(ca) => Some(ca),
            Trust::System | Trust::Anyone => None,
        };
        ca.into_iter().chain(self.client.iter().flat_map(|pair| [&pair.cert, &pair.key]))
    }
}

impl Decode for Settings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let written = Written::decode(item, reader)?;
        let client = short_form(written.cert, written.key, reader);
        let trust = trust(written.ca, written.insecure, reader);
        Some(Self { trust: trust?, server_name: written.server_name, client: client? })
    }
}

fn trust(ca: Option<Spanned<PathBuf>>, insecure: Option<Spanned<bool>>, reader: &mut Reader<'_>) -> Option<Trust> {
    match (ca, insecure.filter(|insecure| insecure.value)) {
        (None, None) => Some(Trust::System),
        (Some(ca), None) => Some(Trust::Authorities(ca)),
        (None, Some(insecure)) => {
            reader
                .warn(insecure.place, "no certificate is verified, so whoever is in between can read and change everything")
                .help("name the authority that signs the endpoints' certificates instead: ca = \"ca.crt\"");
            Some(Trust::Anyone)
        }
        (Some(ca), Some(insecure)) => {
            reader
                .error(insecure.place, "`insecure = true` beside `ca`: nothing would be verified")
                .related(ca.place, "the authorities")
                .help("keep one of the two");
            None
        }
    }
}
