//! Sends the client elsewhere.
//!
//! The address is a template over the request; nothing is looked up.

use crate::settings;
use crate::value::{Decode, Item, Lookup, Reader, Template, Value};

settings! {
    /// Where to.
    pub struct Settings as "a redirect" {
        /// Value of `Location`, such as `"https://{host}{uri}"`.
        to: Location,
        /// 301, 302, 303, 307 or 308. 308 keeps the method and may be cached.
        status: Status = Status(308),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location(pub Template);

impl Decode for Location {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let template = Template::decode(item, reader)?;
        if template.is_empty() {
            reader.error(item.place, "a redirect to nowhere").help("write \"https://{host}{uri}\" or \"/new\"");
            return None;
        }
        Some(Self(template))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Decode for Status {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        match item.value {
            Value::Integer(status @ (301 | 302 | 303 | 307 | 308)) => Some(Self(status as u16)),
            Value::Integer(status) => {
                reader.error(item.place, format!("{status} is not a redirect")).help("301, 302, 303, 307 or 308");
                None
            }
            _ => {
                reader
                    .error(item.place, format!("expected a status, found {}", item.kind()))
                    .help("301, 302, 303, 307 or 308, without quotes");
                None
            }
        }
    }
}

pub struct Redirect {
    to: Template,
    pub status: u16,
}

impl Redirect {
    pub fn compile(settings: &Settings) -> Self {
        Self { to: settings.to.0.clone(), status: settings.status.0 }
    }

    /// Appends the value of `Location`.
    pub fn write(&self, lookup: &impl Lookup, out: &mut Vec<u8>) {
        let start = out.len();
        self.to.write(lookup, out);
        // RFC 3986 §4.2: two slashes begin a host, and to browsers a backslash is one. Which host that
        // is, the request must not say where the template has none.
        if matches!(out.get(start..), Some([b'/', b'/' | b'\\', ..])) && !self.to.begins_with("//") {
            out.splice(start..start, *b"/.");
        }
    }
}
