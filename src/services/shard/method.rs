//! `method` as it is written: a word, or a table of one word with its options.
//!
//! Which members a method can place keys on, it says itself once they are known.

use crate::algo::placement::{Distribution, EnvoyHash, EnvoyRing, KeyHash, Libmemcached, Method, Slots, Twemproxy};
use crate::value::{Decode, Entry, Fields, Item, Reader, Spanned, Value, Whole, nearest};
use crate::{settings, words};

/// A method in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Written(pub Method);

impl Decode for Written {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Table(table) = &item.value else {
            let word = Spanned::<String>::decode(item, reader)?;
            let nothing = Item { value: Value::Table(crate::value::Table::default()), place: item.place };
            return read(&word, &nothing, reader).map(Self);
        };
        let mut entries = table.entries.iter();
        let (Some((word, Entry { key_place, item: options, .. })), None) = (entries.next(), entries.next()) else {
            reader
                .error(item.place, "a method with options is a table with one key")
                .help("write method = { twemproxy = { hash = \"fnv1a_64\" } }");
            return None;
        };
        read(&Spanned::new(word.clone(), *key_place), options, reader).map(Self)
    }
}

fn read(word: &Spanned<String>, options: &Item, reader: &mut Reader<'_>) -> Option<Method> {
    let plain =
        |method: Method, reader: &mut Reader<'_>| Fields::of(options, "options of a method", reader)?.finish(reader).map(|()| method);
    match word.as_str() {
        "maglev" => plain(Method::Maglev, reader),
        "rendezvous" => plain(Method::Rendezvous, reader),
        "ring" => RingOptions::decode(options, reader).map(|options| Method::Ring { points: options.points.0 }),
        "jump" => plain(Method::Jump, reader),
        "slots" => SlotsOptions::decode(options, reader).map(|options| Method::Slots(Slots { ranges: options.0 })),
        "nginx" => plain(Method::Nginx, reader),
        "nginx-modulo" => plain(Method::NginxModulo, reader),
        "libketama" => plain(Method::Libketama, reader),
        "libmemcached" => LibmemcachedOptions::decode(options, reader).map(|options| {
            Method::Libmemcached(Libmemcached {
                hash: options.hash.0,
                weighted: options.weighted,
                spy: options.spy,
                signed_char: options.signed_char,
            })
        }),
        "twemproxy" => TwemproxyOptions::decode(options, reader).map(|options| {
            let distribution = match options.distribution {
                Spread::Ketama => Distribution::Ketama,
                Spread::Modula => Distribution::Modula,
            };
            Method::Twemproxy(Twemproxy { hash: options.hash.0, signed_char: options.signed_char, distribution })
        }),
        "envoy-ring" => {
            let options = EnvoyRingOptions::decode(options, reader)?;
            if options.min_size.0 > options.max_size.0 {
                let reason = format!("`min_size` is {}, which is more than `max_size`, {}", options.min_size.0, options.max_size.0);
                reader.error(word.place, reason).help("raise `max_size`");
                return None;
            }
            let hash = match options.hash {
                RingHash::XxHash => EnvoyHash::XxHash64,
                RingHash::Murmur => EnvoyHash::MurmurHash2,
            };
            Some(Method::EnvoyRing(EnvoyRing { hash, min_size: options.min_size.0.into(), max_size: options.max_size.0.into() }))
        }
        "envoy-maglev" => EnvoyMaglevOptions::decode(options, reader).map(|options| Method::EnvoyMaglev { size: options.size.0 }),
        other => {
            let note = reader.error(word.place, format!("`{other}` is not a way to place keys"));
            match nearest(other, Method::NAMES) {
                Some(known) => note.help(format!("did you mean \"{known}\"?")),
                None => note.help(format!("one of \"{}\"", Method::NAMES.join("\", \""))),
            };
            None
        }
    }
}

settings! {
    pub struct RingOptions as "options of `ring`" {
        /// For each unit of weight.
        points: Whole<1, 10_000> = Whole(160),
    }
}

settings! {
    pub struct LibmemcachedOptions as "options of `libmemcached`" {
        /// What keys are hashed by, in twemproxy's words.
        hash: HashWord = HashWord(KeyHash::OneAtATime),
        /// `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED`: points and keys by MD5. Weights other than 1 ask for it too.
        weighted: bool = false,
        /// `MEMCACHED_BEHAVIOR_KETAMA_COMPAT_SPY`.
        spy: bool = false,
        /// Bytes from 0x80 on count as negative, as they do in C on x86; not so on ARM.
        signed_char: bool = true,
    }
}

settings! {
    pub struct TwemproxyOptions as "options of `twemproxy`" {
        /// The pool's `hash`.
        hash: HashWord = HashWord(KeyHash::Fnv1a64),
        /// The pool's `distribution`.
        distribution: Spread = Spread::Ketama,
        /// Bytes from 0x80 on count as negative, as they do in C on x86; not so on ARM.
        signed_char: bool = true,
    }
}

words! {
    pub enum Spread as "a distribution of twemproxy's" {
        Ketama = "ketama",
        Modula = "modula",
    }
}

settings! {
    pub struct EnvoyRingOptions as "options of `envoy-ring`" {
        /// `hash_function`.
        hash: RingHash = RingHash::XxHash,
        /// `minimum_ring_size`.
        min_size: Whole<1, 8_388_608> = Whole(1024),
        /// `maximum_ring_size`.
        max_size: Whole<1, 8_388_608> = Whole(8_388_608),
    }
}

words! {
    pub enum RingHash as "a hash of Envoy's rings" {
        XxHash = "xx_hash",
        Murmur = "murmur_hash_2",
    }
}

settings! {
    pub struct EnvoyMaglevOptions as "options of `envoy-maglev`" {
        /// `table_size`, a prime.
        size: Whole<3, 5_000_011> = Whole(65_537),
    }
}

/// A hash in twemproxy's words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HashWord(pub KeyHash);

impl Decode for HashWord {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let word = String::decode(item, reader)?;
        if let Some(hash) = KeyHash::parse(&word) {
            return Some(Self(hash));
        }
        let note = reader.error(item.place, format!("`{word}` is not a hash of keys"));
        match nearest(&word, KeyHash::NAMES) {
            Some(known) => note.help(format!("did you mean \"{known}\"?")),
            None => note.help(format!("one of \"{}\"", KeyHash::NAMES.join("\", \""))),
        };
        None
    }
}

/// `{ cache-0 = "0-8191", cache-1 = ["8192-16000", "16001-16383"] }`; empty for even ranges.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotsOptions(pub Vec<(u16, u16, String)>);

impl Decode for SlotsOptions {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let by_member = indexmap::IndexMap::<Spanned<String>, Vec<Range>>::decode(item, reader)?;
        let ranges = by_member
            .into_iter()
            .flat_map(|(name, ranges)| ranges.into_iter().map(move |Range(first, last)| (first, last, name.value.clone())));
        Some(Self(ranges.collect()))
    }
}

/// `"0-8191"`, or one slot alone.
struct Range(u16, u16);

impl Decode for Range {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        let slot =
            |digits: &str| digits.parse::<u16>().ok().filter(|&slot| slot < SLOTS && digits.bytes().all(|byte| byte.is_ascii_digit()));
        match (slot(first), slot(last)) {
            (Some(first), Some(last)) if first <= last => Some(Self(first, last)),
            _ => {
                reader.error(item.place, format!("`{text}` is not a range of slots")).help(format!(
                    "write \"0-{}\", within 0 to {}",
                    SLOTS / 2 - 1,
                    SLOTS - 1
                ));
                None
            }
        }
    }
}

/// As in Redis Cluster.
const SLOTS: u16 = 16_384;
