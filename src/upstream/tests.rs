//! Who gets a request: claims about balancing, zones, slow start and ejection, under a clock and dice of the tests' own.
//!
//! Sends none; `tests/it/pools.rs` does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sticky::Stuck;
use super::{Ask, Balance, Bar, Discovery, Endpoint, Lease, Policy, Pool, Protocol, Recipe, Spec, Subset, Tried, eject};
use crate::algo::dice;
use crate::telemetry::metrics::{Metrics, Outcome};
use crate::value::{Address, Share, Whole};

const WORKERS: usize = 4;

/// A pool of endpoints `0`, `1`, … with these weights and zones.
struct Pools {
    pool: Pool,
    now: Instant,
    dice: u64,
}

impl Pools {
    fn of(balance: Balance, members: &[(u32, Option<&str>)]) -> Self {
        Self::with(Policy { balance, ..Policy::default() }, members)
    }

    fn with(policy: Policy, members: &[(u32, Option<&str>)]) -> Self {
        let spec = |(number, &(weight, zone)): (usize, &(u32, Option<&str>))| Spec {
            address: Address::parse("10.0.0.1:80").unwrap(),
            tls: None,
            protocol: Protocol::Http1,
            name: number.to_string(),
            weight,
            zone: zone.map(str::to_owned),
            priority: 0,
        };
        let recipe = Recipe {
            service: "app".to_owned(),
            connector: None,
            metrics: Metrics::new(WORKERS, &[]),
            is_probed: false,
            is_led: false,
            zone: Some("here".to_owned()),
            sticky: None,
            rules: Vec::new(),
            subset: policy.subset.map(|size| Subset { size: size.0, seed: 7 }),
        };
        let now = Instant::now();
        let pool = Pool::new(
            recipe,
            members.iter().enumerate().map(spec).collect(),
            Discovery::new(Vec::new(), None, now),
            policy,
            None,
            WORKERS,
            now,
        );
        Self { pool, now, dice: 1 }
    }

    fn pick(&mut self, worker: usize) -> Option<Lease> {
        self.pick_beside(worker, &Tried::default())
    }

    fn pick_beside(&mut self, worker: usize, tried: &Tried) -> Option<Lease> {
        let dice = dice::roll(&mut self.dice);
        self.pool.pick(&Ask { worker, now: self.now, dice, tried, stuck: Stuck::Free })
    }

    /// How many of `count` requests, over all workers, each endpoint gets if each is done before the next.
    fn shares(&mut self, count: usize) -> Vec<usize> {
        let mut shares = vec![0; self.pool.membership().members().len()];
        for request in 0..count {
            let lease = self.pick(request % WORKERS).expect("somebody may take it");
            shares[lease.endpoint().name.parse::<usize>().unwrap()] += 1;
            self.pool.settle(lease, Outcome::Ok, self.now, Duration::from_millis(1));
        }
        shares
    }

    fn endpoint(&self, number: u32) -> Arc<Endpoint> {
        Arc::clone(self.pool.membership().endpoint(number))
    }
}

const HERE: (u32, Option<&str>) = (1, Some("here"));
const THERE: (u32, Option<&str>) = (1, Some("there"));
const ANYWHERE: (u32, Option<&str>) = (1, None);

#[track_caller]
fn check_near(shares: &[usize], expected: &[usize], percent: usize) {
    let is_near = |(&share, &wanted): (&usize, &usize)| share.abs_diff(wanted) * 100 <= wanted * percent;
    assert!(shares.len() == expected.len() && shares.iter().zip(expected).all(is_near), "{shares:?}, expected {expected:?}");
}

const ALL: [Balance; 5] = [Balance::RoundRobin, Balance::LeastRequests, Balance::P2c, Balance::Ewma, Balance::Random];

#[test]
fn every_way_is_fair_among_equals_over_four_workers() {
    for balance in ALL {
        let mut pools = Pools::of(balance, &[ANYWHERE; 5]);
        check_near(&pools.shares(20_000), &[4_000; 5], 5);
    }
}

#[test]
fn weights_are_shares() {
    for balance in [Balance::RoundRobin, Balance::Random] {
        let mut pools = Pools::of(balance, &[(1, None), (2, None), (0, None), (5, None)]);
        check_near(&pools.shares(16_000), &[2_000, 4_000, 0, 10_000], 6);
    }
}

#[test]
fn requests_in_flight_are_in_proportion_to_weights() {
    for balance in [Balance::LeastRequests, Balance::P2c] {
        let mut pools = Pools::of(balance, &[(1, None), (3, None)]);
        let leases: Vec<Lease> = (0..400).map(|request| pools.pick(request % WORKERS).unwrap()).collect();
        let heavy = leases.iter().filter(|lease| lease.endpoint().name == "1").count();
        assert!((280..=320).contains(&heavy), "{balance:?}: {heavy}");
    }
}

#[test]
fn the_turns_of_who_is_out_are_shared_evenly() {
    for balance in ALL {
        let mut pools = Pools::of(balance, &[ANYWHERE; 5]);
        for sick in [1, 2] {
            pools.pool.bar(&pools.endpoint(sick), Bar::Sick);
        }
        check_near(&pools.shares(30_000), &[10_000, 0, 0, 10_000, 10_000], 5);
        pools.pool.readmit(&pools.endpoint(1), Bar::Sick, pools.now);
        assert!(pools.shares(1_000)[1] > 0, "{balance:?}");
    }
}

#[test]
fn the_same_dice_choose_the_same() {
    for balance in ALL {
        let (mut one, mut other) = (Pools::of(balance, &[ANYWHERE; 7]), Pools::of(balance, &[ANYWHERE; 7]));
        assert_eq!(one.shares(100), other.shares(100));
    }
}

#[test]
fn who_was_tried_is_asked_again_only_if_there_is_nobody_else() {
    for balance in ALL {
        let mut pools = Pools::of(balance, &[ANYWHERE; 3]);
        let mut tried = Tried::default();
        let mut names: Vec<String> = (0..3)
            .map(|_| {
                let lease = pools.pick_beside(0, &tried).unwrap();
                tried.add(lease.endpoint().id);
                lease.endpoint().name.clone()
            })
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["0", "1", "2"], "{balance:?}");
        assert!(pools.pick_beside(0, &tried).is_some(), "{balance:?}");
    }
}

#[test]
fn when_all_are_out_nobody_is_asked_unless_the_pool_fails_open() {
    for balance in ALL {
        for fails_open in [false, true] {
            let mut pools = Pools::with(Policy { balance, fails_open, ..Policy::default() }, &[ANYWHERE; 2]);
            for number in [0, 1] {
                pools.pool.bar(&pools.endpoint(number), Bar::Sick);
            }
            assert_eq!((pools.pick(0).is_some(), pools.pool.is_ready(pools.now)), (fails_open, false), "{balance:?}");
        }
    }
}

#[test]
fn zones_share_in_proportion_once_too_little_of_the_own_one_is_open() {
    let mut pools = Pools::of(Balance::RoundRobin, &[HERE, HERE, HERE, HERE, THERE]);
    check_near(&pools.shares(4_000), &[1_000, 1_000, 1_000, 1_000, 0], 0);
    pools.pool.bar(&pools.endpoint(0), Bar::Sick);
    // Three of four are 75 %, and 71 % are enough.
    assert_eq!(pools.shares(3_000)[4], 0);
    pools.pool.bar(&pools.endpoint(1), Bar::Sick);
    // Two of four are 70 % of enough.
    check_near(&pools.shares(10_000)[4..], &[3_000], 10);
}

#[test]
fn a_subset_is_asked_alone_and_moves_with_nobody_else() {
    let policy = Policy { subset: Some(Whole(4)), ..Policy::default() };
    let asked = |members: usize| {
        let mut pools = Pools::with(policy.clone(), &vec![ANYWHERE; members]);
        let shares = pools.shares(400);
        (0..members).filter(|&number| shares[number] > 0).collect::<Vec<_>>()
    };
    let (before, after) = (asked(20), asked(21));
    assert_eq!((before.len(), after.len()), (4, 4));
    assert!(before.iter().filter(|number| after.contains(number)).count() >= 3, "one more endpoint takes one place at most");
}

#[test]
fn a_crowded_zone_gives_some_away() {
    let mut pools = Pools::of(Balance::LeastRequests, &[HERE, THERE]);
    let leases: Vec<Lease> = (0..60).map(|_| pools.pick(0).unwrap()).collect();
    let here = leases.iter().filter(|lease| lease.endpoint().name == "0").count();
    assert!((36..=44).contains(&here), "about two thirds: {here}");
}

#[test]
fn the_slow_one_of_idle_endpoints_is_avoided() {
    for balance in [Balance::LeastRequests, Balance::P2c, Balance::Ewma] {
        let mut pools = Pools::of(balance, &[ANYWHERE; 5]);
        for number in 0..5u32 {
            let waited = Duration::from_millis(if number == 3 { 20 } else { 2 });
            let endpoint = pools.endpoint(number);
            (0..20).for_each(|_| pools.pool.answered(0, &endpoint, 200, waited, pools.now));
        }
        let shares = pools.shares(10_000);
        assert!(shares[3] <= 50, "{balance:?}: {shares:?}");
        pools.now += Duration::from_secs(120);
        for number in [0, 1, 2, 4] {
            pools.pool.answered(0, &pools.endpoint(number), 200, Duration::from_millis(2), pools.now);
        }
        assert!(pools.shares(1_000)[3] > 0, "{balance:?}: it is tried again");
    }
}

#[test]
fn requests_count_as_long_as_they_take_for_p2c() {
    let mut pools = Pools::of(Balance::P2c, &[ANYWHERE; 2]);
    for (number, millis) in [(0, 20), (1, 2)] {
        let endpoint = pools.endpoint(number);
        (0..100).for_each(|_| pools.pool.answered(0, &endpoint, 200, Duration::from_millis(millis), pools.now));
    }
    let leases: Vec<Lease> = (0..44).map(|_| pools.pick(0).unwrap()).collect();
    let slow = leases.iter().filter(|lease| lease.endpoint().name == "0").count();
    assert!((4..=8).contains(&slow), "about one for every seven: {slow}");
}

#[test]
fn who_refuses_work_counts_as_slow() {
    let mut pools = Pools::of(Balance::Ewma, &[ANYWHERE; 2]);
    for (number, status) in [(0, 429), (1, 200)] {
        let endpoint = pools.endpoint(number);
        pools.pool.answered(0, &endpoint, status, Duration::from_millis(5), pools.now);
    }
    assert_eq!(pools.shares(100), [0, 100]);
}

#[test]
fn what_comes_back_gets_more_and_more() {
    let slow_start = Duration::from_secs(100);
    for balance in ALL {
        let mut pools = Pools::with(Policy { balance, slow_start, ..Policy::default() }, &[ANYWHERE; 2]);
        pools.pool.bar(&pools.endpoint(0), Bar::Sick);
        pools.pool.readmit(&pools.endpoint(0), Bar::Sick, pools.now);
        let at_first = pools.shares(2_000)[0];
        pools.now += Duration::from_secs(50);
        let half_way = pools.shares(2_000)[0];
        pools.now += Duration::from_secs(51);
        let at_last = pools.shares(2_000)[0];
        assert!(at_first < half_way && half_way < at_last, "{balance:?}: {at_first} {half_way} {at_last}");
        check_near(&[at_last], &[1_000], 10);
    }
}

/// A pool that ejects after two failures for ten seconds.
fn ejecting(members: usize, max: Share) -> Pools {
    ejecting_among(&vec![ANYWHERE; members], max)
}

fn ejecting_among(members: &[(u32, Option<&str>)], max: Share) -> Pools {
    let eject = eject::Settings { consecutive: Whole(2), errors_over: None, min_requests: Whole(20), r#for: Duration::from_secs(10), max };
    Pools::with(Policy { eject: Some(eject), ..Policy::default() }, members)
}

fn fail(pools: &Pools, number: u32) {
    for _ in 0..2 {
        pools.pool.settle(Lease::take(&pools.endpoint(number), 0), Outcome::Reset, pools.now, Duration::ZERO);
    }
}

#[test]
fn an_ejection_takes_longer_each_time_and_is_forgotten_in_good_times() {
    let mut pools = ejecting(2, Share::percent(50));
    for seconds in [10, 20, 30] {
        fail(&pools, 0);
        assert!(pools.endpoint(0).has(Bar::Ejected));
        pools.now += Duration::from_secs(seconds - 1);
        assert_eq!(pools.shares(4)[0], 0, "{seconds}");
        pools.now += Duration::from_secs(1);
        assert_eq!(pools.shares(4)[0], 2, "{seconds}");
    }
    pools.now += Duration::from_secs(100);
    fail(&pools, 0);
    pools.now += Duration::from_secs(10);
    assert_eq!(pools.shares(4)[0], 2);
}

#[test]
fn ejections_stop_at_the_share_and_before_the_last() {
    for (members, max, expected) in [(4, 50, 2), (5, 50, 2), (3, 10, 1), (3, 100, 2), (1, 100, 0)] {
        let pools = ejecting(members, Share::percent(max));
        (0..members as u32).for_each(|number| fail(&pools, number));
        let ejected = (0..members as u32).filter(|&number| pools.endpoint(number).has(Bar::Ejected)).count();
        assert_eq!(ejected, expected, "{members} members, {max} %");
    }
}

// Seen: tiers of whom nobody is open were not looked at, so that nobody noticed that an ejection was over.
#[test]
fn an_ejection_ends_where_another_zone_serves_meanwhile() {
    let mut pools = ejecting_among(&[HERE, THERE], Share::percent(50));
    fail(&pools, 0);
    assert_eq!(pools.shares(4), [0, 4]);
    pools.now += Duration::from_secs(10);
    assert_eq!(pools.shares(4), [4, 0]);
}

#[test]
fn a_pool_is_ready_when_its_ejections_are_over_without_a_request() {
    let pools = ejecting(2, Share::percent(50));
    fail(&pools, 0);
    pools.pool.bar(&pools.endpoint(1), Bar::Sick);
    assert!(!pools.pool.is_ready(pools.now));
    assert!(pools.pool.is_ready(pools.now + Duration::from_secs(10)));
}

#[test]
fn who_left_says_nothing_of_the_endpoint() {
    let pools = ejecting(2, Share::percent(50));
    for outcome in [Outcome::ClientGone, Outcome::Overtaken, Outcome::OutOfTime] {
        for _ in 0..5 {
            pools.pool.settle(Lease::take(&pools.endpoint(0), 0), outcome, pools.now, Duration::ZERO);
        }
    }
    assert!(pools.endpoint(0).is_open());
}

#[test]
fn a_success_in_between_begins_the_row_anew() {
    let pools = ejecting(2, Share::percent(50));
    for outcome in [Outcome::Reset, Outcome::Ok, Outcome::Reset, Outcome::Ok, Outcome::Status5xx] {
        pools.pool.settle(Lease::take(&pools.endpoint(0), 0), outcome, pools.now, Duration::ZERO);
    }
    assert!(pools.endpoint(0).is_open());
}
