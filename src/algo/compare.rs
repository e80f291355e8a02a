//! Whether one group of requests fares worse than another, and whether groups are as large as they should be.
//!
//! Tells chance from a difference; what follows from one, it does not say.

use std::time::Duration;

use super::quantile::{BUCKETS, bucket, upper};

/// What was seen of one group of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    pub requests: u64,
    pub errors: u64,
    /// Requests by how long they took, in the buckets of [`super::quantile`].
    pub took: [u64; BUCKETS],
}

impl Default for Tally {
    fn default() -> Self {
        Self { requests: 0, errors: 0, took: [0; BUCKETS] }
    }
}

impl Tally {
    pub fn add(&mut self, is_error: bool, took: Duration) {
        self.requests += 1;
        self.errors += u64::from(is_error);
        self.took[bucket(took)] += 1;
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut took = [0; BUCKETS];
        for (took, (now, before)) in took.iter_mut().zip(self.took.iter().zip(&earlier.took)) {
            *took = now.saturating_sub(*before);
        }
        let requests = self.requests.saturating_sub(earlier.requests);
        // Whoever counts while others do may see an error before its request.
        Self { requests, errors: self.errors.saturating_sub(earlier.errors).min(requests), took }
    }

    /// Of one; 0 of none.
    pub fn error_share(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.errors as f64 / self.requests as f64 }
    }

    /// The time that this share of them took no longer than, at most an eighth too long; `None` of none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let timed: u64 = self.took.iter().sum();
        let wanted = ((timed as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        self.took
            .iter()
            .position(|count| {
                seen += count;
                seen >= wanted
            })
            .filter(|_| timed > 0)
            .map(upper)
    }

    /// How many took longer, of whom that is certain.
    pub fn slower_than(&self, limit: Duration) -> u64 {
        self.took.iter().skip(bucket(limit) + 1).sum()
    }
}

/// How probable it is that a group has at least `part` of `whole`, if both groups have the same share of what `part` and `other_part`
/// count. One-sided; `part` and `other_part` are at most their wholes.
///
/// Fisher's exact test (R. A. Fisher, The Logic of Inductive Inference, 1935), since what is rare is not distributed normally.
pub fn as_likely(part: u64, whole: u64, other_part: u64, other_whole: u64) -> f64 {
    debug_assert!(part <= whole && other_part <= other_whole);
    let (all, marked) = (whole + other_whole, part + other_part);
    if part == 0 || all == 0 {
        return 1.0;
    }
    let ln_choose = |n: u64, k: u64| libm::lgamma(n as f64 + 1.0) - libm::lgamma(k as f64 + 1.0) - libm::lgamma((n - k) as f64 + 1.0);
    let most = marked.min(whole);
    let mut term = (ln_choose(whole, part) + ln_choose(other_whole, marked - part) - ln_choose(all, marked)).exp();
    let mut sum = 0.0_f64;
    for drawn in part..=most {
        sum += term;
        // From one term to the next; past the mean they shrink, and the rest comes to nothing.
        let ratio = (whole - drawn) as f64 * (marked - drawn) as f64
            / ((drawn + 1) as f64 * (other_whole + drawn + 1).saturating_sub(marked) as f64);
        if ratio < 1.0 && term < sum * 1e-12 {
            break;
        }
        term *= ratio;
    }
    sum.min(1.0)
}

/// As [`as_likely`], where the other group is so large that its share is known.
pub fn as_likely_as(part: u64, whole: u64, share: f64) -> f64 {
    const LARGE: u64 = 1 << 40;
    as_likely(part, whole, (share * LARGE as f64) as u64, LARGE)
}

/// How probable it is that groups differ so much from their shares or more, by chance. Shares need not sum to one; a group without a share
/// is not looked at. 1 for fewer than two.
///
/// Pearson's chi-square test. Small where something is wrong with how groups are chosen (a sample ratio mismatch).
pub fn as_expected(observed: &[u64], shares: &[f64]) -> f64 {
    let groups = || observed.iter().zip(shares).filter(|(_, share)| **share > 0.0);
    let total: u64 = groups().map(|(count, _)| count).sum();
    let whole: f64 = groups().map(|(_, share)| share).sum();
    let freedom = groups().count().saturating_sub(1);
    if freedom == 0 || total == 0 {
        return 1.0;
    }
    let statistic = groups().map(|(&count, share)| {
        let expected = total as f64 * share / whole;
        (count as f64 - expected).powi(2) / expected
    });
    chi_square_tail(statistic.sum(), freedom)
}

/// The probability that a chi-square variable with so many degrees of freedom is larger (Abramowitz and Stegun, 26.4.4 and 26.4.5).
fn chi_square_tail(statistic: f64, freedom: usize) -> f64 {
    let half = statistic / 2.0;
    let (mut term, mut tail, mut divisor) = if freedom.is_multiple_of(2) {
        let term = (-half).exp();
        (term, term, 1.0)
    } else {
        ((-half).exp() * (half / std::f64::consts::PI).sqrt() * 2.0, libm::erfc(half.sqrt()), 1.5)
    };
    for step in 0..(freedom - 1) / 2 {
        if step > 0 || freedom.is_multiple_of(2) {
            term *= half / divisor;
            divisor += 1.0;
        }
        tail += term;
    }
    tail.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_near(found: f64, expected: f64) {
        assert!((found - expected).abs() <= expected * 1e-6, "{found} is not {expected}");
    }

    #[test]
    fn fishers_test_is_exact() {
        // R: fisher.test(matrix(c(a, n1 - a, b, n2 - b), 2), alternative = "greater")$p.value, by counting combinations.
        check_near(as_likely(3, 4, 1, 4), 17.0 / 70.0);
        check_near(as_likely(4, 4, 0, 4), 1.0 / 70.0);
        check_near(as_likely(0, 4, 3, 4), 1.0);
        check_near(as_likely(1, 1, 0, 1), 0.5);
        assert!(as_likely(100, 500, 0, 4500) < 1e-90);
        assert!(as_likely(10, 500, 90, 4500) > 0.4);
        // Nothing to compare with.
        check_near(as_likely(5, 10, 0, 0), 1.0);
    }

    #[test]
    fn a_known_share_is_the_limit_of_a_large_group() {
        // At least 3 of 10 at 10 %: 1 - Σ binomial(10, k) 0.1^k 0.9^(10-k) for k below 3.
        let found = as_likely_as(3, 10, 0.1);
        assert!((found - 0.070_190_8).abs() < 1e-4, "{found}");
    }

    #[test]
    fn tails_of_chi_square_are_those_of_the_tables() {
        for (statistic, freedom, expected) in [
            (10.827_566_17, 1, 0.001),
            (13.815_510_56, 2, 0.001),
            (16.266_236_2, 3, 0.001),
            (18.466_826_95, 4, 0.001),
            (20.515_005_65, 5, 0.001),
            (148.230_359, 99, 0.001),
        ] {
            let found = chi_square_tail(statistic, freedom);
            assert!((found - expected).abs() < 1e-6, "{freedom}: {found}");
        }
        assert!(chi_square_tail(0.0, 7) > 0.999_999);
    }

    #[test]
    fn shares_that_are_not_met_are_noticed() {
        assert!(as_expected(&[1000, 9000], &[0.1, 0.9]) > 0.99);
        assert!(as_expected(&[1100, 8900], &[0.1, 0.9]) < 0.001);
        assert!(as_expected(&[500, 0, 500], &[0.5, 0.0, 0.5]) > 0.99);
        check_near(as_expected(&[5], &[1.0]), 1.0);
    }

    #[test]
    fn a_tally_knows_its_quantiles() {
        let mut tally = Tally::default();
        for millis in 1..=1000 {
            tally.add(millis % 50 == 0, Duration::from_millis(millis));
        }
        assert_eq!((tally.requests, tally.errors), (1000, 20));
        let p99 = tally.quantile(0.99).unwrap();
        assert!(p99 >= Duration::from_millis(990) && p99 <= Duration::from_millis(990) * 9 / 8, "{p99:?}");
        let slower = tally.slower_than(Duration::from_millis(500));
        assert!((430..=500).contains(&slower), "{slower}");
        assert_eq!(tally.since(&tally), Tally::default());
        assert_eq!(Tally::default().quantile(0.99), None);
    }
}
