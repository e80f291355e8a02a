//! Files of certificate authorities: which of them may vouch for others.
//!
//! Verifies nobody; [`super::Acceptor`] and [`super::Connector`] do, with the roots made here.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

use super::pem;
use crate::value::{Diagnostics, Place, Spanned};

/// Whom the authorities vouch for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Signs {
    Clients,
    Endpoints,
}

/// At least one authority.
pub(super) fn load(path: &Spanned<PathBuf>, bytes: &[u8], signs: Signs, found: &mut Diagnostics, now: i64) -> Option<Arc<RootCertStore>> {
    let authorities = pem::certificates(path, bytes, found)?;
    let count = authorities.len();
    let mut roots = RootCertStore::empty();
    for (index, der) in authorities.into_iter().enumerate() {
        let which = pem::ordinal(index, count);
        if !is_usable(&which, &der, signs, path.place, found, now) || roots.add(der).is_err() {
            found.warn(path.place, format!("{which} in `{}` cannot be used as an authority", path.display()));
        }
    }
    if roots.is_empty() {
        let whose = match signs {
            Signs::Clients => "clients'",
            Signs::Endpoints => "endpoints'",
        };
        found
            .error(path.place, format!("no usable authority in `{}`", path.display()))
            .help(format!("name the certificate of the authority that signs {whose} certificates"));
        return None;
    }
    Some(Arc::new(roots))
}

/// A server's or a client's certificate must not become an authority by a copying mistake: whoever holds its key could
/// then name themselves anything. webpki does not look at this for the roots it is given.
fn is_usable(which: &str, der: &[u8], signs: Signs, place: Place, found: &mut Diagnostics, now: i64) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return false };
    pem::check_dates(which, parsed.validity(), now, place, found);
    // An endpoint that signed its own certificate has no other authority; its key opens no more than its own pool.
    if signs == Signs::Endpoints && parsed.subject() == parsed.issuer() {
        return true;
    }
    match parsed.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        // Roots older than version 3 had no extensions; a later one without it is no authority (RFC 5280, 4.2.1.9).
        Ok(None) => parsed.version() != X509Version::V3,
        Err(_) => false,
    }
}
