//! A split as it is written.
//!
//! Checks what can be seen in one table; whether its arms exist, compiling says.

use std::time::Duration;

use super::ramp;
use crate::algo::split::{BUCKETS, Hashing};
use crate::route::Matchers;
use crate::settings;
use crate::value::{
    Decode, Entry, Fields, Item, KeySource, LabelText, Reader, RequestKey, ServiceRef, Share, Spanned, Text, Value, nearest,
};

settings! {
    /// Shares of requests.
    pub struct Settings as "a split" {
        /// Services or addresses with their shares. One may have `"rest"`; without one, shares are 100 % together.
        arms: Spanned<Arms>,
        /// Where a request's key is read, which decides its arm: one place, or a list of which the first counts that the request has. A
        /// request without a key goes anywhere.
        by: Option<Spanned<RequestKey>> = None,
        /// Splits with different ones are independent of each other. Default: the service's name.
        salt: Option<Spanned<LabelText>> = None,
        /// Places keys as another program does.
        compat: Option<Spanned<Compat>> = None,
        /// Requests that are divided; all others go to the control arm. Written as in a route.
        only: Option<Only> = None,
        /// Where a request may name its arm.
        force: Option<Spanned<Force>> = None,
        /// An id for whoever has no key: a cookie's name, or a table.
        issue: Option<Spanned<Cookie>> = None,
        /// A cookie that keeps whoever has it in the arm that it names.
        sticky: Option<Spanned<Cookie>> = None,
        /// How an arm grows.
        ramp: Option<Spanned<ramp::Settings>> = None,
        /// Tell the arm: to the client in `x-attache-arm`, to the endpoint there and in `x-attache-bucket`.
        expose: bool = false,
    }
}

/// In the order of the file, which decides where an arm grows.
#[derive(Clone, Debug, PartialEq)]
pub struct Arms(pub Vec<ArmSettings>);

#[derive(Clone, Debug, PartialEq)]
pub struct ArmSettings {
    pub service: Spanned<ServiceRef>,
    /// Millionths; `None` for the rest.
    pub share: Option<u32>,
}

impl ArmSettings {
    pub fn name(&self) -> String {
        self.service.value.to_string()
    }
}

/// More would be a mistake.
const ARMS_MAX: usize = 256;

impl Decode for Arms {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let help = "write arms = { canary = \"10%\", stable = \"rest\" }";
        let Value::Table(table) = &item.value else {
            reader.error(item.place, format!("expected arms in a table, found {}", item.kind())).help(help);
            return None;
        };
        let mut arms = Vec::with_capacity(table.entries.len());
        let mut rest = None;
        for (name, Entry { key_place, item, .. }) in &table.entries {
            let service = Spanned::decode(
                &Item { value: Value::String(Text { written: name.clone(), value: name.clone() }), place: *key_place },
                reader,
            );
            let share = match &item.value {
                Value::String(text) if text.value == "rest" => {
                    if let Some(first) = rest.replace(item.place) {
                        reader.error(item.place, "two arms cannot both have the rest").related(first, "the first one");
                        return None;
                    }
                    None
                }
                _ => Some(Share::decode(item, reader)?.millionths()),
            };
            arms.push(ArmSettings { service: service?, share });
        }
        if arms.is_empty() || arms.len() > ARMS_MAX {
            reader.error(item.place, format!("a split has 1 to {ARMS_MAX} arms, this has {}", arms.len())).help(help);
            return None;
        }
        let total: u64 = arms.iter().filter_map(|arm| arm.share).map(u64::from).sum();
        let percent = total as f64 / 10_000.0;
        if total > u64::from(BUCKETS) {
            reader.error(item.place, format!("shares sum to {percent}%, more than 100%")).help("make one of them smaller");
            return None;
        }
        if rest.is_none() && total < u64::from(BUCKETS) {
            reader.error(item.place, format!("shares sum to {percent}%, expected 100%")).help("give one arm \"rest\" instead of a share");
            return None;
        }
        Some(Self(arms))
    }
}

/// Which requests are divided.
#[derive(Clone, Debug, PartialEq)]
pub struct Only(pub Matchers);

impl Decode for Only {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "which requests are divided", reader)?;
        let matchers = Matchers::take(&mut fields, reader);
        fields.finish(reader)?;
        let matchers = matchers?;
        if !matchers.sni.is_empty() {
            reader.error(item.place, "`sni` is for streams; requests have a `host`").help("write host = \"…\"");
            return None;
        }
        if matchers == Matchers::default() {
            reader.error(item.place, "`only` says nothing that a request could have").help("write only = { header = { x-beta = \"*\" } }");
            return None;
        }
        Some(Self(matchers))
    }
}

/// A cookie that a split sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Cookie {
    pub name: String,
    /// How long a browser keeps it.
    pub ttl: Duration,
    /// Only for HTTPS; by default where the request came over it.
    pub secure: Option<bool>,
}

/// Browsers keep no cookie for longer (RFC 6265bis §5.5).
const TTL_MAX: Duration = Duration::from_secs(400 * 86400);
const TTL: Duration = Duration::from_secs(365 * 86400);

impl Decode for Cookie {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let (name, ttl, secure) = if matches!(item.value, Value::Table(_)) {
            let mut fields = Fields::of(item, "a cookie of a split", reader)?;
            let name = fields.required::<Spanned<String>>("cookie", reader);
            let ttl = fields.optional::<Spanned<Duration>>("ttl", reader);
            let secure = fields.optional::<bool>("secure", reader);
            fields.finish(reader)?;
            (name?, ttl?, secure?)
        } else {
            (Spanned::<String>::decode(item, reader)?, None, None)
        };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            let help = "use letters, digits, `-`, `_` and `.`";
            reader.error(name.place, format!("`{}` is not a name for a cookie", name.value)).help(help);
            return None;
        }
        if let Some(ttl) = ttl.as_ref().filter(|ttl| ttl.value > TTL_MAX || ttl.value < Duration::from_secs(1)) {
            reader.error(ttl.place, "a browser keeps a cookie for whole seconds, and for 400 days at most").help("\"1s\" to \"400d\"");
            return None;
        }
        Some(Self { name: name.value, ttl: ttl.map_or(TTL, |ttl| ttl.value), secure })
    }
}

settings! {
    /// Where a request may name its arm: the first of these that it has.
    pub struct Force as "where an arm may be named" {
        header: Option<LabelText> = None,
        cookie: Option<LabelText> = None,
        query: Option<LabelText> = None,
        /// Must follow the arm's name, with a colon between them: `canary:SECRET`.
        secret: Option<Spanned<String>> = None,
    }
}

/// A secret that can be guessed is none.
const SECRET_MIN: usize = 16;

/// Another program's way to place keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Compat(pub Hashing);

settings! {
    pub struct LaunchDarklyOptions as "options of `launchdarkly`" {
        /// The flag's key, with `salt`.
        flag: Option<LabelText> = None,
        salt: Option<LabelText> = None,
        /// In place of both.
        seed: Option<Spanned<String>> = None,
    }
}

settings! {
    pub struct GrowthBookOptions as "options of `growthbook2`" {
        /// The experiment's seed.
        seed: LabelText,
    }
}

settings! {
    pub struct UnleashOptions as "options of `unleash`" {
        /// The group, which by default is the feature's name.
        group: LabelText,
    }
}

const NAMES: [&str; 4] = ["nginx", "launchdarkly", "growthbook2", "unleash"];

impl Decode for Compat {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let bytes = |text: LabelText| text.0.into_bytes();
        let (word, place, options) = match &item.value {
            Value::Table(table) if table.entries.len() == 1 => {
                let (word, entry) = table.entries.first()?;
                (word.clone(), entry.key_place, entry.item.clone())
            }
            Value::Table(_) => {
                reader
                    .error(item.place, "a program with options is a table with one key")
                    .help("write compat = { growthbook2 = { seed = \"checkout\" } }");
                return None;
            }
            _ => {
                (String::decode(item, reader)?, item.place, Item { value: Value::Table(crate::value::Table::default()), place: item.place })
            }
        };
        let hashing = match word.as_str() {
            "nginx" => {
                Fields::of(&options, "options of `nginx`", reader)?.finish(reader)?;
                Hashing::Nginx
            }
            "launchdarkly" => {
                let LaunchDarklyOptions { flag, salt, seed } = LaunchDarklyOptions::decode(&options, reader)?;
                let prefix = match (flag, salt, seed) {
                    (Some(flag), Some(salt), None) => format!("{}.{}", flag.0, salt.0),
                    (None, None, Some(seed)) => seed.value,
                    _ => {
                        reader
                            .error(place, "`launchdarkly` needs a flag with its salt, or a seed")
                            .help("write compat = { launchdarkly = { flag = \"checkout\", salt = \"…\" } }");
                        return None;
                    }
                };
                Hashing::LaunchDarkly { prefix: prefix.into_bytes() }
            }
            "growthbook2" => Hashing::GrowthBook2 { seed: bytes(GrowthBookOptions::decode(&options, reader)?.seed) },
            "unleash" => Hashing::Unleash { group: bytes(UnleashOptions::decode(&options, reader)?.group) },
            other => {
                let note = reader.error(place, format!("`{other}` is not a program that keys can be placed as"));
                match nearest(other, NAMES) {
                    Some(known) => note.help(format!("did you mean \"{known}\"?")),
                    None => note.help(format!("one of \"{}\"", NAMES.join("\", \""))),
                };
                return None;
            }
        };
        Some(Self(hashing))
    }
}

impl Settings {
    /// What no field can tell alone.
    pub fn checked(self, reader: &mut Reader<'_>) -> Option<Self> {
        if let (Some(compat), Some(salt)) = (&self.compat, &self.salt) {
            reader
                .error(salt.place, "`salt` is for our own way to place keys, and `compat` says how another program does")
                .related(compat.place, "`compat`");
            return None;
        }
        let resolution = self.compat.as_ref().map_or(1, |compat| compat.value.0.resolution());
        let too_fine = self.arms.value.0.iter().find(|arm| arm.share.is_some_and(|share| share % resolution != 0));
        if let Some(arm) = too_fine {
            let least = f64::from(resolution) / 10_000.0;
            reader
                .error(arm.service.place, format!("that program tells shares apart by {least}%"))
                .help(format!("write a multiple of \"{least}%\""));
            return None;
        }
        if let Some(force) = &self.force {
            if let Force { header: None, cookie: None, query: None, .. } = force.value {
                reader.error(force.place, "`force` names no place").help("write force = { header = \"x-arm\" }");
                return None;
            }
            if let Some(secret) = force.secret.as_ref().filter(|secret| secret.len() < SECRET_MIN) {
                reader
                    .error(secret.place, format!("a secret needs at least {SECRET_MIN} bytes"))
                    .help("write \"${ARM_SECRET}\" and set that to something random, such as `openssl rand -base64 24` prints");
                return None;
            }
        }
        if let (Some(issue), Some(sticky)) = (&self.issue, &self.sticky)
            && issue.name == sticky.name
        {
            reader
                .error(sticky.place, format!("the cookie `{}` cannot hold an id and an arm", sticky.name))
                .related(issue.place, "the id")
                .help("write another name");
            return None;
        }
        if let Some(ramp) = &self.ramp {
            self.check_ramp(ramp, resolution, reader)?;
        }
        Some(self)
    }

    /// Whether the arm that grows has a place to grow into.
    fn check_ramp(&self, ramp: &Spanned<ramp::Settings>, resolution: u32, reader: &mut Reader<'_>) -> Option<()> {
        ramp.check(reader)?;
        let arms = &self.arms.value.0;
        let name = &ramp.arm.value.0;
        let Some(arm) = arms.iter().find(|arm| arm.name() == *name) else {
            let note = reader.error(ramp.arm.place, format!("`{name}` is not an arm of this split"));
            let names: Vec<String> = arms.iter().map(ArmSettings::name).collect();
            match nearest(name, names.iter().map(String::as_str)) {
                Some(known) => note.help(format!("did you mean \"{known}\"?")),
                None => note.help(format!("one of \"{}\"", names.join("\", \""))),
            };
            return None;
        };
        if arm.share.is_none() {
            reader.error(ramp.arm.place, format!("`{name}` has the rest, which others grow into")).help("name another arm");
            return None;
        }
        if arms.iter().all(|arm| arm.share.is_some()) {
            reader
                .error(ramp.place, "no arm has the rest, so there is nothing to grow into")
                .help("give one arm \"rest\" instead of a share");
            return None;
        }
        let others: u32 = arms.iter().filter(|other| other.name() != *name).filter_map(|arm| arm.share).sum();
        for step in &ramp.steps.value {
            let share = step.value.millionths();
            if share > BUCKETS - others {
                let most = f64::from(BUCKETS - others) / 10_000.0;
                reader.error(step.place, format!("the other arms leave {most}%")).help(format!("write at most \"{most}%\""));
                return None;
            }
            if !share.is_multiple_of(resolution) {
                let least = f64::from(resolution) / 10_000.0;
                reader
                    .error(step.place, format!("that program tells shares apart by {least}%"))
                    .help(format!("write a multiple of \"{least}%\""));
                return None;
            }
        }
        Some(())
    }

    /// As written: millionths, `None` for the rest.
    pub fn shares(&self) -> Vec<Option<u32>> {
        self.arms.value.0.iter().map(|arm| arm.share).collect()
    }

    /// Where keys are read: an id that was issued counts where nothing else does.
    pub fn key(&self) -> Option<RequestKey> {
        let issued = self.issue.as_ref().map(|issue| KeySource::Cookie(issue.name.clone()));
        match (&self.by, issued) {
            (None, issued) => issued.map(|source| RequestKey::of(vec![source])),
            (Some(by), None) => Some(by.value.clone()),
            (Some(by), Some(source)) => {
                let mut key = by.value.clone();
                if !key.first.contains(&vec![source.clone()]) {
                    key.first.push(vec![source]);
                }
                Some(key)
            }
        }
    }

    /// `name` is the salt where nothing is written.
    pub fn hashing(&self, name: &str) -> Hashing {
        match &self.compat {
            Some(compat) => compat.value.0.clone(),
            None => Hashing::Own { salt: self.salt.as_ref().map_or(name, |salt| salt.value.0.as_str()).as_bytes().to_vec() },
        }
    }
}
