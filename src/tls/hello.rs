//! The name that a client asks for in the first bytes of a TLS connection that is not ours to end.
//!
//! Judges nothing else of it, and changes no byte: whoever gets them next does the handshake.

use std::io::Read as _;

use rustls::server::Acceptor;

/// What the bytes so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeted {
    /// Nothing yet: it may be TLS, and its hello is not whole.
    Partial,
    /// The name asked for, in lower case; `None` if there is none, or this is no TLS.
    Asked(Option<String>),
}

/// A hello while it arrives.
#[derive(Default)]
pub struct Hello {
    acceptor: Acceptor,
    /// Bytes that the acceptor has.
    taken: usize,
}

/// RFC 8446 §5.1: a record of the handshake, of any version of TLS (SSL 2 knew no names).
const BEGINNING: &[u8] = &[0x16, 0x03];

impl Hello {
    /// `bytes` are all there are since the beginning, and more than at the last call.
    pub fn read(&mut self, bytes: &[u8]) -> Greeted {
        // At once, since whoever does not speak TLS may have said all it has to say for now.
        if !bytes.iter().zip(BEGINNING).all(|(byte, expected)| byte == expected) {
            return Greeted::Asked(None);
        }
        loop {
            let mut rest = bytes.get(self.taken..).unwrap_or_default();
            if rest.is_empty() {
                return Greeted::Partial;
            }
            match self.acceptor.read_tls(&mut rest.by_ref()) {
                Ok(count) if count > 0 => self.taken += count,
                _ => return Greeted::Asked(None),
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return Greeted::Asked(accepted.client_hello().server_name().map(str::to_ascii_lowercase)),
                Err(_) => return Greeted::Asked(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;
    use crate::tls::provider;

    fn hello(name: &'static str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut session = ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap();
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same handshake message in records of `size` bytes.
    fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
        let records = hello[5..].chunks(size);
        records.flat_map(|piece| [&[0x16, 3, 1], &(piece.len() as u16).to_be_bytes()[..], piece].concat()).collect()
    }

    fn named(name: &str) -> Greeted {
        Greeted::Asked(Some(name.to_owned()))
    }

    #[test]
    fn a_name_is_found_however_it_arrives() {
        let whole = hello("A.Example");
        assert_eq!(Hello::default().read(&whole), named("a.example"));
        assert_eq!(Hello::default().read(&[&whole[..], b"and more"].concat()), named("a.example"));
        for bytes in [whole.clone(), fragmented(&whole, 1), fragmented(&whole, 100)] {
            let mut hello = Hello::default();
            for end in 0..bytes.len() {
                assert_eq!(hello.read(&bytes[..end]), Greeted::Partial, "{end} of {}", bytes.len());
            }
            assert_eq!(hello.read(&bytes), named("a.example"));
        }
    }

    #[test]
    fn what_asks_for_no_name_is_known_as_soon_as_possible() {
        for bytes in [&b"G"[..], b"\x16G", b"\x16\x03\x01\0\x05hello", b"\x16\x03\x01\xff\xff", b"\x80\x2e\x01\x03\x01"] {
            assert_eq!(Hello::default().read(bytes), Greeted::Asked(None), "{}", bytes.escape_ascii());
        }
        assert_eq!(Hello::default().read(&hello("192.0.2.1")), Greeted::Asked(None));
        assert_eq!(Hello::default().read(b"\x16\x03\x01"), Greeted::Partial);
    }
}
