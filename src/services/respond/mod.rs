//! A fixed answer.
//!
//! Does not write it: framing and connection fields are `serve`'s.

use indexmap::IndexMap;

use crate::proto::http1::is_token;
use crate::settings;
use crate::value::{Key, Lookup, Reader, Spanned, Template, Whole};

settings! {
    /// What to answer.
    pub struct Settings as "an answer" {
        /// 200 to 599.
        status: Whole<200, 599> = Whole(200),
        body: Option<Spanned<String>> = None,
        /// Values may use variables, as in `request_headers`.
        headers: IndexMap<Name, Template> = IndexMap::new(),
    }
}

/// The name of a field that an answer may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(String);

impl Key for Name {
    fn read(name: Spanned<String>, reader: &mut Reader<'_>) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        if !is_token(name.as_bytes()) {
            reader.error(name.place, format!("`{}` is not a header's name", name.value)).help("use letters, digits and `-`");
            return None;
        }
        if OURS.contains(&lower.as_str()) {
            reader.error(name.place, format!("`{}` is written by attache itself", name.value)).help("remove it");
            return None;
        }
        Some(Self(lower))
    }
}

pub struct Respond {
    pub status: u16,
    pub body: Vec<u8>,
    pub headers: Vec<(Box<[u8]>, Template)>,
}

const OURS: &[&str] = &["connection", "content-length", "transfer-encoding", "keep-alive", "upgrade", "trailer", "te", "date"];

impl Settings {
    /// What no field can tell alone.
    pub fn checked(self, reader: &mut Reader<'_>) -> Option<Self> {
        let status = self.status.0;
        if let (204 | 304, Some(body)) = (status, self.body.as_ref().filter(|body| !body.is_empty())) {
            reader.error(body.place, format!("an answer with status {status} has no body")).help("remove `body`");
            return None;
        }
        Some(self)
    }
}

impl Respond {
    /// Its fields by name, filled in.
    pub fn fields(&self, lookup: &impl Lookup) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let value = |template: &Template| {
            let mut out = Vec::new();
            template.write(lookup, &mut out);
            text(&out)
        };
        self.headers.iter().map(|(name, template)| (text(name), value(template))).collect()
    }

    pub fn compile(settings: &Settings) -> Self {
        let body = settings.body.as_ref().map(|body| body.value.clone().into_bytes());
        let headers = settings.headers.iter().map(|(name, value)| (name.0.as_bytes().into(), value.clone()));
        // The range fits.
        Self { status: settings.status.0 as u16, body: body.unwrap_or_default(), headers: headers.collect() }
    }
}
