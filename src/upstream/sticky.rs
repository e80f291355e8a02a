//! The same client, the same endpoint: by a cookie of ours, or by a key that its requests have.
//!
//! A cookie names an endpoint without telling which: only we can make one. A key has its own order of endpoints, and who had
//! to move because one was sick stays where it is. Reads no request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::{hmac, rand};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Aim, EndpointId};
use crate::value::{Decode, Fields, Item, Reader, RequestKey, Spanned};

#[derive(Clone, Debug, PartialEq)]
pub enum Settings {
    Cookie {
        name: String,
        /// How long a browser keeps it; `None` until it is closed.
        ttl: Option<Duration>,
        /// What cookies are signed with; `None` for a secret of this process.
        secret: Option<String>,
    },
    Key {
        by: RequestKey,
        /// How long somebody who moved stays there without a request.
        ttl: Duration,
    },
}

/// For who moved, where nothing is written.
const TTL: Duration = Duration::from_secs(3600);
/// A secret that can be guessed is none.
const SECRET_MIN: usize = 16;

impl Decode for Settings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "how to be sticky", reader)?;
        let cookie = fields.optional::<Spanned<String>>("cookie", reader);
        let by = fields.optional::<Spanned<RequestKey>>("by", reader);
        let ttl = fields.optional("ttl", reader);
        let secret = fields.optional::<Spanned<String>>("secret", reader);
        let place = fields.place();
        fields.finish(reader)?;
        let (cookie, by, ttl, secret) = (cookie?, by?, ttl?, secret?);
        match (cookie, by) {
            (Some(cookie), None) => {
                if cookie.is_empty() || !cookie.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
                    let help = "use letters, digits, `-`, `_` and `.`";
                    reader.error(cookie.place, format!("`{}` is not a name for a cookie", cookie.value)).help(help);
                    return None;
                }
                if let Some(secret) = secret.as_ref().filter(|secret| secret.len() < SECRET_MIN) {
                    reader
                        .error(secret.place, format!("a secret needs at least {SECRET_MIN} bytes"))
                        .help("openssl rand -hex 16 makes one");
                    return None;
                }
                Some(Self::Cookie { name: cookie.value, ttl, secret: secret.map(|secret| secret.value) })
            }
            (None, Some(by)) => {
                if let Some(source) = by.in_body() {
                    reader
                        .error(by.place, format!("`{source}` needs the body, and an endpoint is chosen by the head alone"))
                        .help("place keys by a shard: [service.NAME.shard] by = …, over = { pool = \"…\" }");
                    return None;
                }
                if let Some(secret) = secret {
                    reader.error(secret.place, "`secret` signs cookies, and `by` needs none").help("remove it");
                    return None;
                }
                Some(Self::Key { by: by.value, ttl: ttl.unwrap_or(TTL) })
            }
            (Some(cookie), Some(by)) => {
                reader
                    .error(by.place, "sticky by a cookie or by a key, not by both")
                    .related(cookie.place, "the cookie")
                    .help("remove one");
                None
            }
            (None, None) => {
                reader.error(place, "sticky by what?").help("write sticky = { cookie = \"attache\" } or { by = \"client-ip\" }");
                None
            }
        }
    }
}

/// An endpoint's name in a cookie.
pub type Token = [u8; 22];

/// What a request brings with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck<'a> {
    /// Nothing: it may go anywhere.
    Free,
    /// A cookie's value.
    Token(&'a [u8]),
    /// The hash of its key.
    Key(u64),
    /// A shard has said whom it is meant for.
    Aimed(Aim),
    /// It is meant for this one and no other.
    Only(EndpointId),
}

/// What outlives a reload that leaves `sticky` alone.
pub struct Sticky {
    /// Signs tokens; `None` for keys.
    key: Option<hmac::Key>,
    moved: Moved,
}

/// Keys whose own endpoint was sick when they came, and where they are now.
#[derive(Default)]
struct Moved {
    /// So that nobody takes the lock while nobody has moved.
    count: AtomicUsize,
    by_key: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    places: HashMap<u64, (EndpointId, Instant)>,
    /// When those that are over were last looked for.
    swept: Option<Instant>,
}

/// All are looked at no more often: whoever chooses the keys must not make every request do so.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// More are not remembered: they go back to their own endpoint when it is well.
const MOVED_MAX: usize = 1 << 16;

static PROCESS_SECRET: OnceLock<[u8; 32]> = OnceLock::new();

/// Unpredictable, and the same for as long as the process lives.
fn process_secret() -> &'static [u8; 32] {
    PROCESS_SECRET.get_or_init(|| {
        let mut secret = [0; 32];
        // Without random numbers there would be no TLS either.
        rand::fill(&mut secret).expect("the system has random numbers");
        secret
    })
}

impl Sticky {
    pub fn new(settings: &Settings) -> Self {
        let key = match settings {
            Settings::Cookie { secret, .. } => {
                let secret = secret.as_ref().map_or(process_secret().as_slice(), |secret| secret.as_bytes());
                Some(hmac::Key::new(hmac::HMAC_SHA256, secret))
            }
            Settings::Key { .. } => None,
        };
        Self { key, moved: Moved::default() }
    }

    /// The name of an endpoint of a service in cookies; `None` where there are none.
    pub fn token(&self, service: &str, endpoint: &str) -> Option<Token> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        context.update(service.as_bytes());
        context.update(b"\0");
        context.update(endpoint.as_bytes());
        Some(spelled(context.sign().as_ref()))
    }

    /// Where a key is now, if it had to move.
    pub fn moved(&self, key: u64, now: Instant) -> Option<EndpointId> {
        if self.moved.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let by_key = self.moved.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        by_key.places.get(&key).filter(|(_, until)| *until > now).map(|&(endpoint, _)| endpoint)
    }

    /// From now on, and for `ttl` after its last request, a key is there.
    pub fn moves(&self, key: u64, endpoint: EndpointId, ttl: Duration, now: Instant) {
        let mut by_key = self.moved.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let Places { places, swept } = &mut *by_key;
        let is_full = places.len() >= MOVED_MAX && !places.contains_key(&key);
        if is_full && swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY) {
            places.retain(|_, (_, until)| *until > now);
            *swept = Some(now);
        }
        if places.len() < MOVED_MAX || places.contains_key(&key) {
            places.insert(key, (endpoint, now + ttl));
        }
        self.moved.count.store(places.len(), Ordering::Relaxed);
    }
}

/// The hash of a key, different for each service.
pub fn hash(service: &str, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, xxh3_64_with_seed(service.as_bytes(), 0))
}

/// 132 bits in letters that a cookie may have (RFC 4648 §5).
fn spelled(signature: &[u8]) -> Token {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut token = [0; 22];
    for (index, letter) in token.iter_mut().enumerate() {
        let bit = index * 6;
        let pair = u16::from_be_bytes([signature[bit / 8], signature[bit / 8 + 1]]);
        *letter = LETTERS[usize::from(pair >> (10 - bit % 8)) & 63];
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::KeySource;

    fn cookie(secret: &str) -> Sticky {
        Sticky::new(&Settings::Cookie { name: "a".to_owned(), ttl: None, secret: Some(secret.to_owned()) })
    }

    #[test]
    fn a_token_depends_on_secret_service_and_endpoint_and_tells_none() {
        let sticky = cookie("0123456789abcdef");
        let token = sticky.token("app", "10.0.0.1:80").unwrap();
        assert_eq!(cookie("0123456789abcdef").token("app", "10.0.0.1:80"), Some(token));
        for other in
            [sticky.token("app", "10.0.0.2:80"), sticky.token("api", "10.0.0.1:80"), cookie("another secret").token("app", "10.0.0.1:80")]
        {
            assert_ne!(other, Some(token));
        }
        assert!(token.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
    }

    #[test]
    fn a_token_is_spelled_as_rfc_4648_says() {
        // "Hello, World!" in base64url is SGVsbG8sIFdvcmxkIQ.
        assert_eq!(&spelled(b"Hello, World!\0\0\0\0\0")[..17], b"SGVsbG8sIFdvcmxkI");
    }

    #[test]
    fn those_beyond_what_is_remembered_get_in_when_others_are_over_and_not_by_a_look_at_all_for_each() {
        let sticky = Sticky::new(&Settings::Key { by: RequestKey::of(vec![KeySource::ClientIp]), ttl: TTL });
        let (now, there) = (Instant::now(), EndpointId::of_test(7));
        (0..MOVED_MAX as u64).for_each(|key| sticky.moves(key, there, TTL, now));
        let swept = |key: u64, at: Instant| {
            sticky.moves(key, there, TTL, at);
            sticky.moved.by_key.lock().unwrap().swept
        };
        let beyond = MOVED_MAX as u64;
        assert_eq!([swept(beyond, now), swept(beyond + 1, now + SWEEP_EVERY / 2)], [Some(now); 2]);
        assert_eq!(sticky.moved(beyond, now), None);
        assert_eq!(swept(beyond, now + TTL), Some(now + TTL));
        assert_eq!(sticky.moved(beyond, now + TTL), Some(there));
    }

    #[test]
    fn who_moved_stays_for_a_time_after_the_last_request() {
        let sticky = Sticky::new(&Settings::Key { by: RequestKey::of(vec![KeySource::ClientIp]), ttl: TTL });
        let (now, there) = (Instant::now(), EndpointId::of_test(7));
        assert_eq!(sticky.moved(1, now), None);
        sticky.moves(1, there, TTL, now);
        assert_eq!(sticky.moved(1, now + TTL / 2), Some(there));
        assert_eq!((sticky.moved(1, now + TTL), sticky.moved(2, now)), (None, None));
    }
}
