//! When a request goes out again, and how often.
//!
//! Settings and the rules that need no request at hand; what was sent and whether it can be sent again, `serve` knows.

use std::time::Duration;

use crate::settings;
use crate::value::{Decode, Item, Reader, Share, Size, Whole, nearest};

settings! {
    /// How requests go out again; `retry = {}` has all the defaults.
    pub struct Settings as "how to retry" {
        /// Attempts in all, the first one included.
        attempts: Whole<1, 10> = Whole(2),
        /// What is tried again: `"connect"` (no connection: any request, since none was sent), `"reset"` (closed before an
        /// answer), `"timeout"`, and statuses, `"503"` or `"5xx"`. But for `connect`, only requests that are idempotent.
        on: Vec<On> = vec![On::Connect, On::Reset, On::Status(503)],
        /// Of the requests, so many may be tried again; a few more for services with few requests.
        budget: Share = Share::percent(20),
        /// How long one attempt may take to connect, and then until the head of its answer; beyond, the next one.
        per_try: Option<Duration> = None,
        /// The longest body that is kept to be sent again.
        replay: Size = Size::kib(64),
        /// Before the second attempt, at most so long; doubled for each further one, and shortened by chance.
        backoff: Duration = Duration::from_millis(25),
    }
}

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Connect,
    Reset,
    Timeout,
    Status(u16),
    /// Every status from 500.
    ServerError,
}

const WORDS: [&str; 4] = ["connect", "reset", "timeout", "5xx"];

impl Decode for On {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        match text.as_str() {
            "connect" => return Some(Self::Connect),
            "reset" => return Some(Self::Reset),
            "timeout" => return Some(Self::Timeout),
            "5xx" => return Some(Self::ServerError),
            _ => {}
        }
        if let Some(status) = text.parse::<u16>().ok().filter(|status| text.len() == 3 && (400..=599).contains(status)) {
            return Some(Self::Status(status));
        }
        let note = reader.error(item.place, format!("`{text}` is nothing that can be tried again"));
        match nearest(&text, WORDS) {
            Some(word) => note.help(format!("did you mean \"{word}\"?")),
            None => note.help("one of \"connect\", \"reset\", \"timeout\", \"5xx\", or a status such as \"503\""),
        };
        None
    }
}

impl Settings {
    pub fn has(&self, on: On) -> bool {
        self.on.contains(&on)
    }

    pub fn has_status(&self, status: u16) -> bool {
        self.on.iter().any(|on| match on {
            On::Status(wanted) => *wanted == status,
            On::ServerError => (500..=599).contains(&status),
            On::Connect | On::Reset | On::Timeout => false,
        })
    }
}
