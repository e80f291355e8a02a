//! Highest random weight: every key has its own order of all members, and each member its share of all keys.
//!
//! Thaler and Ravishankar, 1996; weighted as by Schindelhauer and Schomaker, 2005. A member that goes takes only its own keys with
//! it. Hashes nothing: keys and members come as numbers that are random enough.

use super::dice;

/// The smaller, the more a member is preferred for a key. Exact for weights: shares are in their proportion.
pub fn distance(key: u64, member: u64, weight: u32) -> f64 {
    -draw(key, member).ln() / f64::from(weight)
}

/// As [`distance`], among members of equal weight: the same order, without a logarithm.
pub fn even_distance(key: u64, member: u64) -> f64 {
    -draw(key, member)
}

/// Between 0 and 1, and neither.
fn draw(key: u64, member: u64) -> f64 {
    let mut state = key ^ member.rotate_left(32);
    // 53 bits fill a double; never 0, whose logarithm is none.
    ((dice::roll(&mut state) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERS: [(u64, u32); 4] = [(0x1111_2222, 1), (0x3333_4444, 1), (0x5555_6666, 2), (0x7777_8888, 4)];

    fn owner(key: u64, members: &[(u64, u32)]) -> u64 {
        let distance = |&(member, weight): &(u64, u32)| distance(key, member, weight);
        members.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap().0
    }

    #[test]
    fn shares_are_in_proportion_to_weights() {
        let mut state = 1;
        let owners: Vec<u64> = (0..100_000).map(|_| owner(dice::roll(&mut state), &MEMBERS)).collect();
        for (member, weight) in MEMBERS {
            let share = owners.iter().filter(|&&owner| owner == member).count() as f64 / owners.len() as f64;
            assert!((share - f64::from(weight) / 8.0).abs() < 0.01, "{member:x}: {share}");
        }
    }

    #[test]
    fn equal_members_have_the_same_order_without_logarithms() {
        let mut state = 3;
        for _ in 0..1000 {
            let key = dice::roll(&mut state);
            let mut by_distance = MEMBERS.map(|(member, _)| member);
            let mut by_draw = by_distance;
            by_distance.sort_by(|one, other| distance(key, *one, 3).total_cmp(&distance(key, *other, 3)));
            by_draw.sort_by(|one, other| even_distance(key, *one).total_cmp(&even_distance(key, *other)));
            assert_eq!(by_distance, by_draw);
        }
    }

    #[test]
    fn removing_a_member_moves_only_its_own_keys() {
        let mut state = 2;
        for _ in 0..10_000 {
            let key = dice::roll(&mut state);
            let before = owner(key, &MEMBERS);
            let after = owner(key, &MEMBERS[1..]);
            assert!(before == after || before == MEMBERS[0].0);
        }
    }
}
