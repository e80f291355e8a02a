//! Sends the client elsewhere.
//!
//! The address is a template over the request; nothing is looked up.

use crate::settings;
use crate::value::{Lookup, Place, Reader, SourceId, Spanned, Template};

settings! {
    /// Where to.
    pub struct Settings as "a redirect" {
        /// Value of `Location`, such as `"https://{host}{uri}"`.
        to: Template,
        /// 301, 302, 303, 307 or 308. 308 keeps the method and may be cached.
        status: Spanned<u16> = Spanned::new(308, Place::new(SourceId(0), 0..0)),
    }
}

pub struct Redirect {
    to: Template,
    pub status: u16,
}

impl Redirect {
    pub fn compile(settings: &Settings, reader: &mut Reader<'_>) -> Option<Self> {
        let status = settings.status.value;
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            reader.error(settings.status.place, format!("{status} is not a redirect")).help("301, 302, 303, 307 or 308");
            return None;
        }
        Some(Self { to: settings.to.clone(), status })
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
