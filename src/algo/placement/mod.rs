//! Where keys belong: each of a set of members has its share of all keys, and each key its own order of all members.
//!
//! A pure function of the members and the key, so that every process agrees. Who is down is not known here: whoever asks goes on
//! along the key's order. Methods of other programs place keys exactly where those do.

pub mod choose;
mod envoy;
pub(super) mod hashes;
mod ketama;
mod maglev;
mod nginx;
mod order;
mod points;
mod slots;
#[cfg(test)]
mod tests;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
use xxhash_rust::xxh64::xxh64;

pub use envoy::{EnvoyHash, EnvoyRing};
pub use hashes::KeyHash;
pub use ketama::{Distribution, Libmemcached, Twemproxy};
pub use order::Order;
pub use slots::Slots;

use maglev::Maglev;
use nginx::Modulo;
use points::{Points, WidePoints};

/// How keys are placed. Whatever changes where a key belongs is in here, or is a member's.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", 2016; 65,537 places.
    Maglev,
    /// As `algo::rendezvous` says.
    Rendezvous,
    /// Karger et al., "Consistent Hashing and Random Trees", 1997; so many points for each unit of weight.
    Ring {
        points: u32,
    },
    /// Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014. Only the last member may go without moving the
    /// keys of others.
    Jump,
    /// Redis Cluster's: CRC-16 of the key, modulo 16,384.
    Slots(Slots),
    /// `hash … consistent` of nginx.
    Nginx,
    /// `hash …` of nginx without that.
    NginxModulo,
    /// libketama of 2007.
    Libketama,
    Libmemcached(Libmemcached),
    Twemproxy(Twemproxy),
    EnvoyRing(EnvoyRing),
    /// `size` is a prime.
    EnvoyMaglev {
        size: u32,
    },
}

/// One member, as placing sees it.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// What it is known by: its name, else its address as written.
    pub name: &'a str,
    /// As written, without a scheme.
    pub address: &'a str,
    pub has_name: bool,
    /// Share of the keys relative to the others; 0 gets none.
    pub weight: u32,
}

/// What of a key decides its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    pub value: u64,
    /// Bytes of the key; one method hashes it again with something in front.
    pub length: u32,
}

/// A method applied to members. Looking up never allocates for up to 128 members, nor for the first of any number.
pub struct Table {
    salt: u64,
    hash: Hash,
    /// Members with a weight, by name.
    known: Box<[u16]>,
    places: Places,
}

/// What makes a number of a key.
#[derive(Clone, Copy, Debug)]
enum Hash {
    Salted,
    Crc16,
    Crc32,
    Xx64,
    Key {
        hash: KeyHash,
        signed_char: bool,
    },
    /// Everything goes to the only member.
    Nothing,
}

enum Places {
    Nowhere,
    Maglev(Maglev),
    Rendezvous(Box<[(u64, u32, u16)]>),
    Points(Points),
    WidePoints(WidePoints),
    /// By number, so many.
    Jump(Box<[u16]>),
    Slots(Box<[u16]>),
    Modulo(Modulo),
}

/// More would not fit the tables.
pub const MEMBERS_MAX: usize = u16::MAX as usize;
/// Points of one ring.
const POINTS_MAX: u64 = 1 << 23;
/// Places of `maglev`: a prime, of some hundred times as many as there usually are members.
const MAGLEV_SIZE: u32 = 65_537;

impl Method {
    pub const NAMES: [&str; 12] = [
        "maglev",
        "rendezvous",
        "ring",
        "jump",
        "slots",
        "nginx",
        "nginx-modulo",
        "libketama",
        "libmemcached",
        "twemproxy",
        "envoy-ring",
        "envoy-maglev",
    ];

    /// As it is written in the configuration.
    pub fn name(&self) -> &'static str {
        let index = match self {
            Self::Maglev => 0,
            Self::Rendezvous => 1,
            Self::Ring { .. } => 2,
            Self::Jump => 3,
            Self::Slots(_) => 4,
            Self::Nginx => 5,
            Self::NginxModulo => 6,
            Self::Libketama => 7,
            Self::Libmemcached(_) => 8,
            Self::Twemproxy(_) => 9,
            Self::EnvoyRing(_) => 10,
            Self::EnvoyMaglev { .. } => 11,
        };
        Self::NAMES[index]
    }

    /// Whether keys can be placed on these members so. The error says why not.
    pub fn check(&self, members: &[Member<'_>]) -> Result<(), String> {
        if members.len() > MEMBERS_MAX {
            return Err(format!("{} members are too many: at most {MEMBERS_MAX}", members.len()));
        }
        let weight: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
        let most_points = |points: u64| {
            let reason = || format!("{points} points are too many for a ring: at most {POINTS_MAX}; make the weights smaller");
            if points > POINTS_MAX { Err(reason()) } else { Ok(()) }
        };
        match self {
            Self::Ring { points } => most_points(weight * u64::from(*points)),
            Self::Nginx => most_points(weight * nginx::POINTS),
            Self::Jump => match members.iter().find(|member| member.weight != members[0].weight || member.weight == 0) {
                Some(member) => Err(format!("`jump` knows no weights, and `{}` has weight {}", member.name, member.weight)),
                None => Ok(()),
            },
            Self::Slots(slots) => slots.check(members),
            Self::Libketama | Self::Libmemcached(_) | Self::Twemproxy(_)
                if weight > 0 && self.points(members).is_some_and(|points| points.len() == 0) =>
            {
                Err(format!("with these weights `{}` gives no member a point on its ring", self.name()))
            }
            Self::EnvoyMaglev { size } if !is_prime(*size) => Err(format!("the size of `envoy-maglev` is a prime, and {size} is not one")),
            Self::EnvoyMaglev { size } if members.len() > *size as usize => {
                Err(format!("`envoy-maglev` of size {size} has no room for {} members", members.len()))
            }
            _ => Ok(()),
        }
    }

    /// The ring, where there is one of 32 bits.
    fn points(&self, members: &[Member<'_>]) -> Option<Points> {
        Some(match self {
            Self::Ring { points } => ring(*points, members),
            Self::Nginx => nginx::points(members),
            Self::Libketama => ketama::libketama(members),
            Self::Libmemcached(settings) => settings.points(members),
            Self::Twemproxy(settings) if settings.distribution == Distribution::Ketama => ketama::twemproxy(members),
            _ => return None,
        })
    }

    fn hash(&self, members: &[Member<'_>]) -> Hash {
        match self {
            Self::Maglev | Self::Rendezvous | Self::Ring { .. } | Self::Jump => Hash::Salted,
            Self::Slots(_) => Hash::Crc16,
            Self::Nginx | Self::NginxModulo => Hash::Crc32,
            Self::Libketama => Hash::Key { hash: KeyHash::Md5, signed_char: true },
            Self::Libmemcached(settings) => settings.hash(members),
            Self::Twemproxy(_) if members.len() == 1 => Hash::Nothing,
            Self::Twemproxy(settings) => Hash::Key { hash: settings.hash, signed_char: settings.signed_char },
            Self::EnvoyRing(_) | Self::EnvoyMaglev { .. } => Hash::Xx64,
        }
    }
}

impl Table {
    /// Members that [`Method::check`] would refuse are placed as well as they can be. Keys of own methods are salted; those of other
    /// programs' are as they are there.
    pub fn build(method: &Method, salt: u64, members: &[Member<'_>]) -> Self {
        let members = &members[..members.len().min(MEMBERS_MAX)];
        let mut known: Vec<u16> = (0..members.len()).filter(|&index| members[index].weight > 0).map(|index| index as u16).collect();
        let by_name = |index: &u16| members[usize::from(*index)].name;
        known.sort_by(|one, other| by_name(one).cmp(by_name(other)));
        let places = if known.is_empty() { Places::Nowhere } else { places(method, members, &known) };
        Self { salt, hash: method.hash(members), known: known.into(), places }
    }

    pub fn hash(&self, key: &[u8]) -> Hashed {
        let value = match self.hash {
            Hash::Salted => xxh3_64_with_seed(key, self.salt),
            Hash::Crc16 => hashes::crc16(key).into(),
            Hash::Crc32 => crc32fast::hash(key).into(),
            Hash::Xx64 => xxh64(key, 0),
            Hash::Key { .. } if key.is_empty() => 0,
            Hash::Key { hash, signed_char } => hash.of(key, signed_char).into(),
            Hash::Nothing => 0,
        };
        Hashed { value, length: key.len() as u32 }
    }

    /// The member that a key belongs to, by its place among those that the table was built of. `None` if nobody has a weight.
    pub fn pick(&self, key: Hashed) -> Option<u32> {
        let member = match &self.places {
            Places::Nowhere => return None,
            Places::Maglev(maglev) => maglev.at(key.value),
            Places::Points(points) => points.at(points.find(key.value as u32)),
            Places::WidePoints(points) => points.at(points.find(key.value)),
            Places::Jump(members) => members[jump(key.value, members.len() as u32) as usize],
            Places::Slots(slots) => slots[(key.value % slots.len() as u64) as usize],
            Places::Rendezvous(_) | Places::Modulo(_) => return self.order(key).next(),
        };
        Some(member.into())
    }

    /// Every member with a weight, each once; the first is what [`Table::pick`] says.
    pub fn order(&self, key: Hashed) -> Order<'_> {
        Order::new(self, key)
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        let places = match &self.places {
            Places::Nowhere => 0,
            Places::Maglev(maglev) => maglev.bytes(),
            Places::Rendezvous(members) => size_of_val(&**members),
            Places::Points(points) => points.bytes(),
            Places::WidePoints(points) => points.bytes(),
            Places::Jump(members) | Places::Slots(members) => size_of_val(&**members),
            Places::Modulo(modulo) => modulo.bytes(),
        };
        size_of::<Self>() + size_of_val(&*self.known) + places
    }
}

fn places(method: &Method, members: &[Member<'_>], known: &[u16]) -> Places {
    let member = |index: &u16| &members[usize::from(*index)];
    if let Some(points) = method.points(members).filter(|points| points.len() > 0) {
        return Places::Points(points);
    }
    match method {
        Method::Rendezvous => {
            Places::Rendezvous(known.iter().map(|index| (xxh3_64(member(index).name.as_bytes()), member(index).weight, *index)).collect())
        }
        Method::Jump => Places::Jump(numbered(members, known).into()),
        Method::Slots(slots) => Places::Slots(slots.table(members, &numbered(members, known))),
        Method::NginxModulo => Places::Modulo(Modulo::rehashing(members)),
        Method::Twemproxy(settings) if settings.distribution == Distribution::Modula => Places::Modulo(ketama::modula(members)),
        Method::EnvoyRing(settings) => Places::WidePoints(settings.points(members)),
        Method::EnvoyMaglev { size } => Places::Maglev(envoy::maglev(*size, members, known)),
        // Also a ring that nobody has a point on.
        _ => {
            let turn = |index: &u16| {
                let name = member(index).name.as_bytes();
                let (offset, skip) = (xxh3_64(name), xxh3_64_with_seed(name, 1));
                maglev::Turns::new(*index, offset, skip, member(index).weight.into(), MAGLEV_SIZE)
            };
            Places::Maglev(Maglev::fill(MAGLEV_SIZE, known.iter().map(turn).collect(), maglev::Retry::Mixed))
        }
    }
}

/// Of `known`, by name, where numbers count as numbers: `cache-9` comes before `cache-10`, or a tenth member would move keys of others.
fn numbered(members: &[Member<'_>], known: &[u16]) -> Vec<u16> {
    let mut numbered = known.to_vec();
    numbered.sort_by(|one, other| by_number(members[usize::from(*one)].name, members[usize::from(*other)].name));
    numbered
}

fn by_number(one: &str, other: &str) -> std::cmp::Ordering {
    let (mut one_rest, mut other_rest) = (one.as_bytes(), other.as_bytes());
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    while let (Some(first), Some(second)) = (one_rest.first(), other_rest.first()) {
        let (ones, others) = (digits(one_rest), digits(other_rest));
        let (compared, taken) = if ones > 0 && others > 0 {
            let significant = |text: &[u8]| text.iter().position(|&byte| byte != b'0').map_or(Vec::new(), |at| text[at..].to_vec());
            let (number, than) = (significant(&one_rest[..ones]), significant(&other_rest[..others]));
            (number.len().cmp(&than.len()).then_with(|| number.cmp(&than)), (ones, others))
        } else {
            (first.cmp(second), (1, 1))
        };
        if compared.is_ne() {
            return compared;
        }
        (one_rest, other_rest) = (&one_rest[taken.0..], &other_rest[taken.1..]);
    }
    one_rest.len().cmp(&other_rest.len()).then_with(|| one.cmp(other))
}

/// A ring of our own: points of equal value belong to the first by name.
fn ring(points: u32, members: &[Member<'_>]) -> Points {
    let mut all = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let count = u64::from(member.weight) * u64::from(points);
        all.extend((0..count).map(|number| ((xxh3_64_with_seed(member.name.as_bytes(), number) >> 32) as u32, index as u16)));
    }
    all.sort_by(|(one, of), (other, than)| {
        one.cmp(other).then_with(|| members[usize::from(*of)].name.cmp(members[usize::from(*than)].name))
    });
    Points::sorted(&all)
}

/// The bucket of a key among `buckets`, of which there is at least one.
fn jump(mut key: u64, buckets: u32) -> u32 {
    let (mut bucket, mut next) = (0, 0_i64);
    while next < i64::from(buckets) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1_i64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
    }
    bucket as u32
}

fn is_prime(number: u32) -> bool {
    let divides = |divisor: u32| number.is_multiple_of(divisor);
    number > 1 && !(2..=number.isqrt()).any(divides)
}
