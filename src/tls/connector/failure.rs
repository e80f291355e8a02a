//! Why a TLS connection to an endpoint did not come about, in words that somebody can act on.
//!
//! Decides nothing: a failure is a refusal for the client and the metrics, and a sentence for the log.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use crate::refusal::Refusal;
use crate::tls::pem::in_days;

/// What went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    pub refusal: Refusal,
    /// For the log: may show what is in the endpoint's certificate.
    pub reason: String,
}

impl Failure {
    /// Of a handshake that ended in `error`.
    pub fn of_handshake(error: &io::Error) -> Self {
        match (library_error(error), error.kind()) {
            (Some(error), _) => Self::of(error),
            (None, io::ErrorKind::UnexpectedEof) => {
                Self::other("it closed in the middle of the handshake; does it speak TLS on this port?".to_owned())
            }
            (None, _) => Self::other(error.to_string()),
        }
    }

    /// Of a handshake that ended well, with an endpoint that must speak HTTP/2 and said nothing of it.
    pub fn without_http2() -> Self {
        Self::other("it did not agree to HTTP/2 (ALPN `h2`): set the pool's `protocol` to \"auto\" or \"http/1.1\"".to_owned())
    }

    /// Of the end of a connection instead of an answer: in TLS 1.3 the handshake is over before the endpoint says what it
    /// makes of our certificate.
    pub fn of_first_read(error: &io::Error) -> Option<Self> {
        let Error::AlertReceived(alert) = library_error(error)? else { return None };
        Some(Self::of_alert(*alert)).filter(|failure| failure.refusal == Refusal::TlsClientCertificate)
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            Error::InvalidMessage(_) => Self::other(format!("it does not speak TLS on this port ({error})")),
            Error::PeerIncompatible(_) => Self::other(format!("it has nothing in common with us: {error}")),
            Error::NoApplicationProtocol => Self::other("it speaks none of the protocols offered".to_owned()),
            _ => Self::other(error.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        const DAY: u64 = 24 * 3600;
        let days = |from: u64, to: u64| i64::try_from(to.saturating_sub(from) / DAY).unwrap_or(i64::MAX);
        let (refusal, reason) = match error {
            CertificateError::UnknownIssuer => (
                Refusal::TlsUnknownIssuer,
                "unknown issuer: its certificate comes from none of the authorities that are trusted, or misses one in between".to_owned(),
            ),
            CertificateError::Expired => (Refusal::TlsCertificateExpired, "its certificate expired".to_owned()),
            CertificateError::ExpiredContext { time, not_after } => {
                let since = in_days(days(not_after.as_secs(), time.as_secs()), " ago", "today");
                (Refusal::TlsCertificateExpired, format!("its certificate expired {since}"))
            }
            CertificateError::NotValidYet => (Refusal::TlsCertificateExpired, "its certificate is not valid yet".to_owned()),
            CertificateError::NotValidYetContext { time, not_before } => {
                let until = in_days(days(time.as_secs(), not_before.as_secs()), " from now", "later today");
                (Refusal::TlsCertificateExpired, format!("its certificate becomes valid {until}; is this machine's clock right?"))
            }
            CertificateError::NotValidForName => {
                (Refusal::TlsWrongName, "its certificate is not valid for the name it is known by".to_owned())
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let names = if presented.is_empty() { "nobody".to_owned() } else { presented.join(", ") };
                (Refusal::TlsWrongName, format!("its certificate is not valid for name `{}`, it names {names}", expected.to_str()))
            }
            // The usual `openssl req -x509` makes one that says it is an authority, and then it is no endpoint's (RFC 5280).
            CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => (
                Refusal::TlsBadCertificate,
                "its certificate is an authority's own; make one for the endpoint, with basicConstraints CA:FALSE".to_owned(),
            ),
            error => (Refusal::TlsBadCertificate, format!("its certificate cannot be used: {error}")),
        };
        Self { refusal, reason }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        let reason = match alert {
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
                "it asked for a client certificate: name one by `cert` and `key`".to_owned()
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => format!("it does not accept our client certificate ({alert:?})"),
            // What older versions say of a missing certificate as well.
            AlertDescription::HandshakeFailure => {
                return Self::other("it refused the handshake: no cipher in common, or it asks for a client certificate".to_owned());
            }
            AlertDescription::UnrecognisedName => return Self::other("it does not know the name it was asked for".to_owned()),
            AlertDescription::NoApplicationProtocol => return Self::other("it speaks none of the protocols offered".to_owned()),
            alert => return Self::other(format!("it refused the handshake ({alert:?})")),
        };
        Self { refusal: Refusal::TlsClientCertificate, reason }
    }

    fn other(reason: String) -> Self {
        Self { refusal: Refusal::TlsFailed, reason }
    }
}

fn library_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}
