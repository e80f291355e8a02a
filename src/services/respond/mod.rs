//! A fixed answer.
//!
//! Does not write it: framing and connection fields are `serve`'s.

use indexmap::IndexMap;

use crate::route::is_token;
use crate::settings;
use crate::value::{Reader, Spanned, Template};

settings! {
    /// What to answer.
    pub struct Settings as "an answer" {
        /// 200 to 599.
        status: Spanned<u16> = default_status(),
        body: String = String::new(),
        /// Values may use variables, as in `request_headers`.
        headers: IndexMap<Spanned<String>, Template> = IndexMap::new(),
    }
}

fn default_status() -> Spanned<u16> {
    Spanned::new(200, crate::value::Place::new(crate::value::SourceId(0), 0..0))
}

pub struct Respond {
    pub status: u16,
    pub body: Vec<u8>,
    pub headers: Vec<(Box<[u8]>, Template)>,
}

const OURS: &[&str] = &["connection", "content-length", "transfer-encoding", "keep-alive", "upgrade", "trailer", "te", "date"];

impl Respond {
    pub fn compile(settings: &Settings, reader: &mut Reader<'_>) -> Option<Self> {
        let status = settings.status.value;
        let mut clean = Some(());
        if !(200..=599).contains(&status) {
            reader.error(settings.status.place, format!("{status} is not a final status")).help("200 to 599");
            clean = None;
        }
        if matches!(status, 204 | 304) && !settings.body.is_empty() {
            reader.error(settings.status.place, format!("an answer with status {status} has no body")).help("remove `body`");
            clean = None;
        }
        for name in settings.headers.keys() {
            if !is_token(name.as_bytes()) {
                reader.error(name.place, format!("`{}` is not a header's name", name.value));
                clean = None;
            } else if OURS.contains(&name.to_ascii_lowercase().as_str()) {
                reader.error(name.place, format!("`{}` is written by attache itself", name.value));
                clean = None;
            }
        }
        let headers = settings.headers.iter().map(|(name, value)| (name.as_bytes().into(), value.clone())).collect();
        clean.map(|()| Self { status, body: settings.body.clone().into_bytes(), headers })
    }
}
