//! Redis Cluster's 16,384 slots, and which member has which.
//!
//! Redis Cluster specification, "Key distribution model". Hash tags are cut out before a key comes here.

use super::Member;

const SLOTS: u16 = 16_384;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slots {
    /// First and last slot of each range, and the name of its member. Empty: a range for each member, as long as its weight says, in
    /// the order of their names.
    pub ranges: Vec<(u16, u16, String)>,
}

impl Slots {
    /// Every slot has one member that there is. The error says where not.
    pub fn check(&self, members: &[Member<'_>]) -> Result<(), String> {
        if self.ranges.is_empty() {
            return Ok(());
        }
        let mut owners: Vec<Option<&str>> = vec![None; usize::from(SLOTS)];
        for (first, last, name) in &self.ranges {
            if !members.iter().any(|member| member.name == name) {
                return Err(format!("slots are given to `{name}`, which is no member"));
            }
            let Some(range) = owners.get_mut(usize::from(*first)..=usize::from(*last)) else {
                return Err(format!("{first}-{last} is not a range within 0 to {}", SLOTS - 1));
            };
            if let Some(at) = range.iter().position(Option::is_some) {
                return Err(format!("slot {} is given to `{}` and `{name}`", usize::from(*first) + at, range[at].unwrap_or_default()));
            }
            range.fill(Some(name));
        }
        match owners.iter().position(Option::is_none) {
            Some(at) => Err(format!("slot {at} is given to nobody")),
            None => Ok(()),
        }
    }

    /// Each slot's member. `known` are those with a weight, in order.
    pub fn table(&self, members: &[Member<'_>], known: &[u16]) -> Box<[u16]> {
        let mut table = vec![known[0]; usize::from(SLOTS)];
        if self.ranges.is_empty() {
            let total: u64 = known.iter().map(|index| u64::from(members[usize::from(*index)].weight)).sum();
            let (mut from, mut weight) = (0, 0);
            for index in known {
                weight += u64::from(members[usize::from(*index)].weight);
                let end = (u64::from(SLOTS) * weight / total) as usize;
                table[from..end].fill(*index);
                from = end;
            }
        }
        for (first, last, name) in &self.ranges {
            let owner = members.iter().position(|member| member.name == name);
            if let (Some(owner), Some(range)) = (owner, table.get_mut(usize::from(*first)..=usize::from(*last))) {
                range.fill(owner as u16);
            }
        }
        table.into()
    }
}
