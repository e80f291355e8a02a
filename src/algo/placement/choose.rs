//! Whom of a key's order a request goes to: its own member, unless that is down, the key is hot, or the member has too many already.
//!
//! Bounded loads: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016. Counts nothing itself.

/// How a choice is made.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whether another member may take the place of one that is down.
    pub or_next: bool,
    /// So many of the first that are up share the key's requests; 1 unless it is hot.
    pub spread: u32,
    /// 64 random bits, for whom of those it is.
    pub dice: u64,
    /// In per cent of the average: who has more takes no more.
    pub bound: Option<u32>,
}

/// What a choice asks of the members.
pub trait Members {
    /// Whether it may take a request.
    fn is_up(&self, member: u32) -> bool;
    fn in_flight(&self, member: u32) -> u32;
    fn weight(&self, member: u32) -> u32;
    /// All there are.
    fn count(&self) -> u32;
}

/// Who it is, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub member: u32,
    /// Somebody before had too many.
    pub is_spilled: bool,
}

/// With fewer requests for each member there is nothing to even out.
const FEW: u64 = 4;

/// `None` if nobody may take it.
pub fn choose(order: impl Iterator<Item = u32>, rules: Rules, members: &impl Members) -> Option<Choice> {
    let mut skip = if rules.spread > 1 { (rules.dice >> 32) % u64::from(rules.spread) } else { 0 };
    let mut load = None;
    let mut wanted = None;
    for member in order {
        if !members.is_up(member) {
            if rules.or_next {
                continue;
            }
            return None;
        }
        if skip > 0 {
            wanted = wanted.or(Some(member));
            skip -= 1;
            continue;
        }
        let Some(bound) = rules.bound else { return Some(Choice { member, is_spilled: false }) };
        // Nobody has so few while all together have enough.
        if u64::from(members.in_flight(member)) < FEW {
            return Some(Choice { member, is_spilled: load.is_some() });
        }
        let is_spilled = load.is_some();
        let (in_flight, weight) = *load.get_or_insert_with(|| {
            let up = (0..members.count()).filter(|&member| members.weight(member) > 0 && members.is_up(member));
            up.fold((0, 0), |(in_flight, weight), member| {
                (in_flight + u64::from(members.in_flight(member)), weight + u64::from(members.weight(member)))
            })
        });
        if in_flight < FEW * u64::from(members.count())
            || u64::from(members.in_flight(member)) < slots(bound, in_flight, members.weight(member), weight)
        {
            return Some(Choice { member, is_spilled });
        }
        wanted = wanted.or(Some(member));
    }
    // Somebody is always below the average; but counts change while they are looked at.
    wanted.map(|member| Choice { member, is_spilled: false })
}

/// How many requests a member may have.
fn slots(bound: u32, in_flight: u64, weight: u32, all: u64) -> u64 {
    (u64::from(bound) * (in_flight + 1) * u64::from(weight)).div_ceil(100 * all.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Some3 {
        in_flight: Vec<u32>,
        down: Vec<u32>,
        weights: Vec<u32>,
    }

    impl Members for Some3 {
        fn is_up(&self, member: u32) -> bool {
            !self.down.contains(&member)
        }

        fn in_flight(&self, member: u32) -> u32 {
            self.in_flight[member as usize]
        }

        fn weight(&self, member: u32) -> u32 {
            self.weights[member as usize]
        }

        fn count(&self) -> u32 {
            self.in_flight.len() as u32
        }
    }

    const PLAIN: Rules = Rules { or_next: true, spread: 1, dice: 0, bound: None };

    #[track_caller]
    fn check(in_flight: [u32; 3], down: &[u32], rules: Rules, expected: Option<(u32, bool)>) {
        let members = Some3 { in_flight: in_flight.to_vec(), down: down.to_vec(), weights: vec![1, 1, 1] };
        let choice = choose([0, 1, 2].into_iter(), rules, &members);
        assert_eq!(choice.map(|choice| (choice.member, choice.is_spilled)), expected);
    }

    #[test]
    fn a_key_is_with_its_own_member_or_the_next_that_is_up() {
        check([9, 0, 0], &[], PLAIN, Some((0, false)));
        check([0, 0, 0], &[0, 1], PLAIN, Some((2, false)));
        check([0, 0, 0], &[0, 1, 2], PLAIN, None);
        check([0, 0, 0], &[0], Rules { or_next: false, ..PLAIN }, None);
    }

    #[test]
    fn who_has_too_many_passes_on_along_the_order() {
        let bounded = Rules { bound: Some(125), ..PLAIN };
        // 12 in flight: ⌈1.25 · 13 / 3⌉ = 6 each.
        check([5, 4, 3], &[], bounded, Some((0, false)));
        check([6, 3, 3], &[], bounded, Some((1, true)));
        check([6, 6, 0], &[], bounded, Some((2, true)));
        // Fewer than four for each: nothing is evened out.
        check([9, 1, 1], &[], bounded, Some((0, false)));
        // Who is down has no part in the average: ⌈1.25 · 15 / 2⌉ = 10.
        check([9, 0, 5], &[1], bounded, Some((0, false)));
        check([10, 0, 5], &[1], bounded, Some((2, true)));
    }

    #[test]
    fn slots_are_in_proportion_to_weights() {
        let members = Some3 { in_flight: vec![12, 4, 4], down: Vec::new(), weights: vec![3, 1, 1] };
        // ⌈1.25 · 21 · 3 / 5⌉ = 16.
        let choice = choose([0, 1, 2].into_iter(), Rules { bound: Some(125), ..PLAIN }, &members);
        assert_eq!(choice, Some(Choice { member: 0, is_spilled: false }));
    }

    #[test]
    fn hot_keys_are_spread_over_the_first_that_are_up() {
        let of = |dice: u64, down: &[u32]| {
            let members = Some3 { in_flight: vec![0; 3], down: down.to_vec(), weights: vec![1; 3] };
            choose([0, 1, 2].into_iter(), Rules { spread: 2, dice: dice << 32, ..PLAIN }, &members).map(|choice| choice.member)
        };
        assert_eq!((of(0, &[]), of(1, &[]), of(2, &[])), (Some(0), Some(1), Some(0)));
        assert_eq!((of(0, &[0]), of(1, &[0])), (Some(1), Some(2)));
        assert_eq!((of(0, &[0, 1]), of(1, &[0, 1])), (Some(2), Some(2)));
    }
}
