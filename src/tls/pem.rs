//! Certificate and key files: bytes to DER, or the reason why not, at the place that named the file.
//!
//! Does not open files and trusts nothing in them: whatever the bytes are, the answer is a diagnostic, never a panic.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::value::{Diagnostics, Place, Spanned};

/// How the caller hands out a file's bytes; it may have read them earlier.
pub type Read<'a> = dyn Fn(&Path) -> io::Result<Arc<[u8]>> + 'a;

/// A chain of 100 certificates is 200 KB; a bundle of every public authority is about as large.
const FILE_BYTES_MAX: usize = 4 << 20;

/// What a PEM file held.
struct Sections {
    certificates: Vec<CertificateDer<'static>>,
    keys: Vec<PrivateKeyDer<'static>>,
    has_encrypted_key: bool,
}

/// At least one certificate.
pub(super) fn certificates(path: &Spanned<PathBuf>, bytes: &[u8], found: &mut Diagnostics) -> Option<Vec<CertificateDer<'static>>> {
    let sections = sections(path, bytes, found)?;
    if !sections.certificates.is_empty() {
        return Some(sections.certificates);
    }
    let shown = path.display();
    if sections.keys.is_empty() && !sections.has_encrypted_key {
        found.error(path.place, format!("no certificate in `{shown}`")).help(missing_help(bytes, "CERTIFICATE", "x509"));
    } else {
        found
            .error(path.place, format!("`{shown}` holds a private key where a certificate is expected"))
            .help("are `cert` and `key` swapped?");
    }
    None
}

/// Exactly one private key.
pub(super) fn private_key(path: &Spanned<PathBuf>, bytes: &[u8], found: &mut Diagnostics) -> Option<PrivateKeyDer<'static>> {
    let shown = path.display();
    // Before its Base64 is looked at: the old form has headers inside that are no Base64.
    if has_encrypted_key(bytes) {
        found
            .error(path.place, format!("the private key in `{shown}` is encrypted"))
            .help(format!("decrypt it and protect the file by its permissions: openssl pkey -in {shown} -out decrypted.key"));
        return None;
    }
    let mut sections = sections(path, bytes, found)?;
    match (sections.keys.len(), sections.certificates.is_empty()) {
        (1, _) => sections.keys.pop(),
        (0, true) => {
            found.error(path.place, format!("no private key in `{shown}`")).help(missing_help(bytes, "PRIVATE KEY", "pkey"));
            None
        }
        (0, false) => {
            found
                .error(path.place, format!("`{shown}` holds a certificate where a private key is expected"))
                .help("are `cert` and `key` swapped?");
            None
        }
        (several, _) => {
            found.error(path.place, format!("{several} private keys in `{shown}`")).help("keep the one that belongs to the certificate");
            None
        }
    }
}

/// The file's bytes, if there are any.
pub(super) fn bytes(path: &Spanned<PathBuf>, read: &Read<'_>, found: &mut Diagnostics) -> Option<Arc<[u8]>> {
    let shown = path.display();
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let note = found.error(path.place, format!("cannot read `{shown}`: {error}"));
            match error.kind() {
                io::ErrorKind::NotFound => note.help("relative paths start from the directory of the file that names them"),
                io::ErrorKind::PermissionDenied => note.help("let the user that runs attache read it"),
                _ => note,
            };
            return None;
        }
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        found.error(path.place, format!("`{shown}` is empty")).help("is it still being written?");
        return None;
    }
    if bytes.len() > FILE_BYTES_MAX {
        found.error(path.place, format!("`{shown}` is too large to be a certificate or a key")).help("4 MiB are read at most");
        return None;
    }
    Some(bytes)
}

fn sections(path: &Spanned<PathBuf>, bytes: &[u8], found: &mut Diagnostics) -> Option<Sections> {
    let mut sections = Sections { certificates: Vec::new(), keys: Vec::new(), has_encrypted_key: has_encrypted_key(bytes) };
    // Editors of another system leave a byte order mark, which hides the first BEGIN line.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        match section {
            Ok((SectionKind::Certificate, der)) => sections.certificates.push(CertificateDer::from(der)),
            Ok((kind, der)) => sections.keys.extend(PrivateKeyDer::from_pem(kind, der)),
            // A second diagnostic would follow from the first.
            Err(_) if sections.has_encrypted_key => return Some(sections),
            Err(error) => {
                let shown = path.display();
                found
                    .error(path.place, format!("`{shown}` is not valid PEM: {}", pem_reason(&error)))
                    .help("is it cut off or was it edited?");
                return None;
            }
        }
    }
    Some(sections)
}

/// Our words, since the parser's show the offending bytes and those may be secret.
fn pem_reason(error: &PemError) -> &'static str {
    match error {
        PemError::MissingSectionEnd { .. } => "a section has no END line",
        PemError::IllegalSectionStart { .. } => "a BEGIN line is broken",
        PemError::Base64Decode(_) => "a section is not Base64",
        PemError::SectionTooLarge => "a section is too large",
        _ => "a section cannot be read",
    }
}

/// PKCS #8's own label, or the header of the older form.
fn has_encrypted_key(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"-----BEGIN ENCRYPTED PRIVATE KEY-----").is_some()
        || memchr::memmem::find(bytes, b"Proc-Type: 4,ENCRYPTED").is_some()
}

fn missing_help(bytes: &[u8], label: &str, openssl: &str) -> String {
    // DER starts with a long SEQUENCE.
    if bytes.starts_with(&[0x30, 0x82]) {
        return format!("it is not PEM; convert it: openssl {openssl} -inform der -in FILE -out FILE.pem");
    }
    format!("expected a line `-----BEGIN {label}-----`")
}

/// Names a certificate of a chain in a message: nothing for a lone one.
pub(super) fn ordinal(index: usize, count: usize) -> String {
    if count == 1 { "the certificate".to_owned() } else { format!("certificate {} of {count}", index + 1) }
}

/// Warns about what the calendar says of a certificate; it is used all the same, since an expired certificate that an
/// operator can see beats a listener that is gone.
pub(super) fn check_dates(what: &str, validity: &x509_parser::certificate::Validity, now: i64, place: Place, found: &mut Diagnostics) {
    const DAY: i64 = 24 * 3600;
    const SOON: i64 = 14 * DAY;
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if not_before > now {
        found.warn(place, format!("{what} is not valid before {}", date(not_before))).help("is this machine's clock right?");
    }
    if not_after < now {
        found
            .warn(place, format!("{what} expired {}", in_days((now - not_after) / DAY, " ago", "today")))
            .help("renew it; whoever verifies it refuses it");
    } else if not_after - now <= SOON {
        let left = not_after.saturating_sub(now) / DAY;
        found
            .warn(place, format!("{what} expires {}", in_days(left, " from now", "today")))
            .help(format!("renew it before {}", date(not_after)));
    }
}

pub(super) fn in_days(days: i64, direction: &str, today: &str) -> String {
    match days {
        0 => today.to_owned(),
        1 => format!("1 day{direction}"),
        _ => format!("{days} days{direction}"),
    }
}

fn date(second: i64) -> String {
    jiff::Timestamp::from_second(second).map_or_else(|_| "a date far away".to_owned(), |time| time.to_string())
}

/// When a certificate in DER expires, in seconds since 1970.
pub fn expiry(der: &[u8]) -> Option<i64> {
    x509_parser::parse_x509_certificate(der).ok().map(|(_, certificate)| certificate.validity().not_after.timestamp())
}
