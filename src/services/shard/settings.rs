//! A shard as it is written.
//!
//! Checks what can be seen in one table; whether its members exist, compiling says.

use xxhash_rust::xxh3::xxh3_64;

use super::method::Written;
use super::migrate;
use crate::algo::placement::{self, Method, Table};
use crate::value::{Decode, Fields, Item, LabelText, Place, Reader, RequestKey, ServiceRef, Share, Spanned, Value, Whole};
use crate::{settings, words};

settings! {
    /// One key, one member.
    pub struct Settings as "a shard" {
        /// Where a request's key is read: one place, or a list of which the first counts that the request has.
        by: Spanned<RequestKey>,
        /// Services or addresses, each alone or as `{ service | address, name, weight }`; or `{ pool = "name" }` for each endpoint of a pool.
        over: Spanned<Over>,
        /// How keys are placed.
        method: Option<Spanned<Written>> = None,
        /// Services with different ones place the same key independently. Default: the service's name.
        salt: Option<LabelText> = None,
        /// What becomes of a key whose member takes no requests.
        on_down: OnDown = OnDown::Next,
        /// What becomes of a request without a key.
        keyless: Keyless = Keyless::Balance,
        /// Of the average number of requests in flight, what a member has at most before others take its keys' requests.
        bound: Option<Spanned<Bound>> = None,
        /// Keys that are asked for so often that one member alone should not answer.
        hot: Option<Spanned<Hot>> = None,
        /// A service that is left for this shard.
        migrate: Option<migrate::Settings> = None,
    }
}

words! {
    /// What becomes of a key whose member takes no requests.
    pub enum OnDown as "a way to treat members that are down" {
        /// The next in the key's own order takes it.
        Next = "next",
        /// 503.
        Fail = "fail",
    }
}

words! {
    /// What becomes of a request without a key.
    pub enum Keyless as "a way to treat requests without a key" {
        /// Any member takes it.
        Balance = "balance",
        /// 400.
        Refuse = "refuse",
    }
}

/// Whom keys are placed on.
#[derive(Clone, Debug, PartialEq)]
pub enum Over {
    Members(Vec<MemberSettings>),
    /// Each endpoint of this pool.
    Pool(Spanned<String>),
}

/// One member as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberSettings {
    pub service: Spanned<ServiceRef>,
    /// What it is known by: its place among keys goes with this. Default: its service's name or its address, as written.
    pub name: Option<String>,
    /// Share of the keys relative to the others, 0 to 1000; 0 gets none.
    pub weight: u32,
}

impl MemberSettings {
    /// Without a scheme; of a service, its name.
    fn address(&self) -> String {
        match &self.service.value {
            ServiceRef::Name(name) => name.clone(),
            ServiceRef::Address(address) => address.address.to_string(),
        }
    }

    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.service.value.to_string())
    }
}

impl Decode for Over {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(&item.value, Value::Table(_)) {
            let mut fields = Fields::of(item, "members", reader)?;
            let pool = fields.required::<Spanned<String>>("pool", reader);
            fields.finish(reader)?;
            let pool = pool?;
            reader.service_names.push(pool.clone());
            return Some(Self::Pool(pool));
        }
        let members = Vec::<MemberSettings>::decode(item, reader)?;
        if members.is_empty() {
            reader.error(item.place, "a shard needs a member").help("write over = [\"10.0.0.1:80\", \"10.0.0.2:80\"]");
            return None;
        }
        for (index, member) in members.iter().enumerate() {
            if let Some(twin) = members[..index].iter().find(|earlier| earlier.label() == member.label()) {
                reader
                    .error(member.service.place, format!("`{}` is there twice", member.label()))
                    .related(twin.service.place, "the first time")
                    .help("give one of them more weight, or another name");
                return None;
            }
        }
        Some(Self::Members(members))
    }
}

impl Decode for MemberSettings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(item.value, Value::String(_)) {
            return Some(Self { service: Spanned::decode(item, reader)?, name: None, weight: 1 });
        }
        let mut fields = Fields::of(item, "a member as a name, an address or", reader)?;
        let service = fields.optional::<Spanned<ServiceRef>>("service", reader);
        let address = fields.optional::<Spanned<ServiceRef>>("address", reader);
        let name = fields.optional::<LabelText>("name", reader);
        let weight = fields.or("weight", Whole(1) as Whole<0, 1000>, reader);
        let place = fields.place();
        fields.finish(reader)?;
        let service = match (service?, address?) {
            (Some(service), None) | (None, Some(service)) => service,
            (Some(_), Some(other)) => {
                reader.error(other.place, "a member is a service or an address, this is both").help("keep one");
                return None;
            }
            (None, None) => {
                reader.error(place, "this member is nobody").help("write service = \"name\" or address = \"10.0.0.1:80\"");
                return None;
            }
        };
        Some(Self { service, name: name?.map(|name| name.0), weight: weight?.0 })
    }
}

/// `"125%"`: more than all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound(pub u32);

impl Decode for Bound {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let help = "write a share of the average, from \"101%\" to \"1000%\"";
        let Value::String(text) = &item.value else {
            reader.error(item.place, format!("expected a share, found {}", item.kind())).help(help);
            return None;
        };
        let digits = text.value.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let bound = digits.and_then(|digits| digits.parse().ok()).filter(|bound| (101..=1000).contains(bound));
        if bound.is_none() {
            reader.error(item.place, format!("`{}` is not a bound", text.value)).help(help);
        }
        bound.map(Self)
    }
}

settings! {
    #[derive(Copy, Eq)]
    pub struct Hot as "what keys are hot" {
        /// Of the recent requests; a key with more is hot.
        share: HotShare,
        /// Members that its reads go to, its own the first.
        replicas: Whole<2, 64> = Whole(2),
    }
}

/// 0.5 % to 50 %: rarer keys cannot be told from each other with the memory there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotShare(pub Share);

impl Decode for HotShare {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let share = Share::decode(item, reader)?;
        if !(0.005..=0.5).contains(&share.fraction()) {
            reader.error(item.place, format!("`{share}` is out of range")).help("\"0.5%\" to \"50%\"");
            return None;
        }
        Some(Self(share))
    }
}

impl Settings {
    /// What no field can tell alone.
    pub fn checked(self, reader: &mut Reader<'_>) -> Option<Self> {
        if let Some(migrate) = &self.migrate {
            migrate.check(reader)?;
        }
        let elsewhere = [("bound", self.bound.as_ref().map(|bound| bound.place)), ("hot", self.hot.as_ref().map(|hot| hot.place))];
        for (key, place) in elsewhere {
            if let (OnDown::Fail, Some(place)) = (self.on_down, place) {
                reader
                    .error(
                        place,
                        format!("`{key}` sends requests to other members, and on_down = \"fail\" says that these do not have the key"),
                    )
                    .help("remove one of the two");
                return None;
            }
        }
        Some(self)
    }

    pub fn method(&self) -> Method {
        self.method.as_ref().map_or(Method::Maglev, |method| method.value.0.clone())
    }

    /// Where the method is written, or else what it places keys on.
    pub fn method_place(&self) -> Place {
        self.method.as_ref().map_or(self.over.place, |method| method.place)
    }

    /// What tells its keys from those of other services; `name` if nothing is written.
    pub fn salt(&self, name: &str) -> u64 {
        xxh3_64(self.salt.as_ref().map_or(name, |salt| salt.0.as_str()).as_bytes())
    }

    /// Where keys are placed, if services are the members.
    pub(super) fn table(&self, members: &[MemberSettings], salt: u64) -> Result<Table, String> {
        let labels: Vec<String> = members.iter().map(MemberSettings::label).collect();
        let addresses: Vec<String> = members.iter().map(MemberSettings::address).collect();
        let has_name = |member: &MemberSettings| member.name.is_some() || matches!(member.service.value, ServiceRef::Name(_));
        let placed: Vec<placement::Member<'_>> = members
            .iter()
            .zip(labels.iter().zip(&addresses))
            .map(|(member, (name, address))| placement::Member { name, address, has_name: has_name(member), weight: member.weight })
            .collect();
        let method = self.method();
        method.check(&placed)?;
        Ok(Table::build(&method, salt, &placed))
    }
}
