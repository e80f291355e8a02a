//! Smooth weighted round-robin, unrolled into a schedule.
//!
//! Knows nothing of endpoints or health; whoever walks the schedule skips what is sick.

/// Longest schedule. Weights are scaled down to fit, which rounds shares by at most 1 / this.
const LONGEST: i64 = 4096;

/// One full turn: indices in an order that spreads each one evenly (nginx's smooth weighted
/// round-robin: everybody gains its weight, the richest goes and pays the total).
///
/// An index of weight 0 never appears. Empty if all weights are 0.
pub fn schedule(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().fold(0, |a, &b| gcd(a, b)).max(1);
    let mut weights: Vec<i64> = weights.iter().map(|&w| i64::from(w / divisor)).collect();
    let total: i64 = weights.iter().sum();
    if total > LONGEST {
        for weight in weights.iter_mut().filter(|w| **w > 0) {
            *weight = (*weight * LONGEST / total).max(1);
        }
    }
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0i64; weights.len()];
    let mut turn = Vec::with_capacity(total as usize);
    for _ in 0..total {
        let mut richest = None;
        for (index, &weight) in weights.iter().enumerate().filter(|&(_, &w)| w > 0) {
            credit[index] += weight;
            if richest.is_none_or(|best: usize| credit[index] > credit[best]) {
                richest = Some(index);
            }
        }
        let Some(richest) = richest else { break };
        credit[richest] -= total;
        turn.push(richest as u32);
    }
    turn
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::schedule;

    #[test]
    fn a_heavy_member_is_interleaved_not_bunched() {
        assert_eq!(schedule(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(schedule(&[7, 7, 7]), [0, 1, 2]);
    }

    #[test]
    fn weight_zero_never_goes() {
        assert_eq!(schedule(&[0, 2]), [1]);
        assert!(schedule(&[0, 0]).is_empty());
        assert!(schedule(&[]).is_empty());
    }

    #[test]
    fn many_heavy_members_still_fit_and_keep_their_shares() {
        let weights: Vec<u32> = (0..1000).map(|i| 1 + i % 7).collect();
        let turn = schedule(&weights);
        assert!(turn.len() <= 5000);
        assert!((0..1000).all(|i| turn.contains(&i)));
    }
}
