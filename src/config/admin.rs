//! `[admin]`: where the admin API listens, and what a process waits for before it calls itself ready.
//!
//! Binds nothing and knows no health: whether a pool may take requests, the pool says.

use indexmap::IndexMap;

use super::file::Service;
use super::listener::Listen;
use crate::services;
use crate::value::{Address, Decode, Fields, Item, Place, Reader, SourceId, Spanned, nearest};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    On {
        listen: Spanned<Address>,
        /// Pools that must have an endpoint which may take requests.
        ready: Vec<Spanned<String>>,
    },
    Off,
}

impl Admin {
    pub fn listen(&self) -> Option<&Spanned<Address>> {
        match self {
            Self::On { listen, .. } => Some(listen),
            Self::Off => None,
        }
    }

    pub fn ready(&self) -> &[Spanned<String>] {
        match self {
            Self::On { ready, .. } => ready,
            Self::Off => &[],
        }
    }

    /// Every name must be one of a pool, once: nothing else has endpoints to wait for.
    pub(super) fn check_names(&self, reader: &mut Reader<'_>, services: &IndexMap<Spanned<String>, Service>) {
        for (index, name) in self.ready().iter().enumerate() {
            let text = name.value.as_str();
            if let Some(first) = self.ready()[..index].iter().find(|earlier| *earlier == name) {
                reader.error(name.place, format!("`{text}` is named twice")).related(first.place, "the first time").help("remove one");
                continue;
            }
            match services.get(name) {
                // Wrong settings are reported elsewhere.
                Some(Service(Some(services::Settings::Pool(_)) | None)) => {}
                Some(Service(Some(_))) => {
                    let message = format!("`{text}` is no pool: it has no endpoints to wait for");
                    reader.error(name.place, message).help("name a pool, or remove it");
                }
                None => {
                    let note = reader.error(name.place, format!("there is no service `{text}`"));
                    match nearest(text, services.keys().map(|name| name.as_str())) {
                        Some(known) => note.help(format!("did you mean `{known}`?")),
                        None => note.help("name a pool that has a table [service.NAME] of its own"),
                    };
                }
            }
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self::On { listen: default_listen(), ready: Vec::new() }
    }
}

/// Nobody wrote it, so that no text can be pointed at.
fn default_listen() -> Spanned<Address> {
    let address = Address::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], 9901)));
    Spanned::new(address, Place::new(SourceId(0), 0..0))
}

impl Decode for Admin {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "admin settings", reader)?;
        let listen = fields.optional::<Listen>("listen", reader);
        let off = fields.or("off", false, reader);
        let ready = fields.optional::<Spanned<Vec<Spanned<String>>>>("ready", reader);
        fields.finish(reader)?;
        let (listen, off, ready) = (listen?, off?, ready?);
        if off {
            if let Some(ready) = ready {
                reader
                    .error(ready.place, "nobody can ask whether this process is ready: the admin API is off")
                    .help("remove one of the two");
                return None;
            }
            return Some(Self::Off);
        }
        Some(Self::On {
            listen: listen.map_or_else(default_listen, |listen| listen.0),
            ready: ready.map_or_else(Vec::new, |ready| ready.value),
        })
    }
}
