//! Sends the client elsewhere.
//!
//! The address is a template over the request; nothing is looked up.

use crate::settings;
use crate::value::{Place, Reader, SourceId, Spanned, Template};

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
    pub to: Template,
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
}
