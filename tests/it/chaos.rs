//! Endpoints that stall, reset, fail, flap and vanish under a steady load: clients do not notice, endpoints are not
//! asked much more often than clients ask, and who is well gets its share.
//!
//! Claims are about counts and not about times, but for how soon who returns is asked again. Bounded in `make test`; `ATTACHE_SOAK_SECONDS` makes the storm as long
//! as one likes.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Client, Fickle, Lateness, Load, Mood, PATIENCE, Report, Rig, alone, eventually, measured};

/// Requests a second.
const RATE: u32 = 1000;
/// How long the storm lasts if nobody says otherwise.
const STORM: Duration = Duration::from_secs(15);
/// A trouble begins with every so many requests...
const TROUBLE_EVERY: usize = 1000;
/// ... and lasts for as many as this: at most two endpoints are bad at a time.
const TROUBLE_LASTS: usize = 1500;
/// Of a trouble that comes and goes, each part.
const FLAP: usize = 150;
/// Per cent of a fair share, where it is a matter of turns.
const EXACT: (f64, f64) = (95.0, 105.0);
/// Where it is a matter of chance: more than five standard deviations.
const CHANCE: (f64, f64) = (75.0, 125.0);
/// Where latencies decide. On a machine that is late now and then those of equals differ, and who was slow is avoided for
/// seconds: an even split is not what such a policy promises. An answer counts for at most ten milliseconds and eight times
/// what is usual, which is forty times as much here, so that one stall costs two seconds for each factor of e in it, or seven
/// and a half: the run has to be longer than that.
const NOBODY_LEFT_OUT: (f64, f64) = (5.0, 350.0);
/// Without a soak.
const FAIRNESS: Duration = Duration::from_secs(3);
/// With one, or where who was slow is avoided: it adds nothing to know a share any better.
const FAIRNESS_MOST: Duration = Duration::from_secs(10);

const RETRY: &str = "retry = { attempts = 3, on = [\"connect\", \"reset\", \"timeout\", \"500\", \"503\"], per_try = \"250ms\" }\n";
const EJECT: &str = "eject = { consecutive = 5, for = \"500ms\" }\n";

const HEALTH: &str = "health = { path = \"/health\", interval = \"200ms\", timeout = \"150ms\", rise = 2, fall = 2 }\n";
/// `rise` times `interval`, with the tenth that an interval may be off.
const RISES_WITHIN: Duration = Duration::from_millis(440);

fn soak() -> Option<Duration> {
    std::env::var("ATTACHE_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs)
}

fn requests_in(time: Duration) -> usize {
    (f64::from(RATE) * time.as_secs_f64()) as usize
}

fn five() -> Vec<Fickle> {
    (0..5).map(|number| Fickle::start(number.to_string())).collect()
}

/// Four workers before the endpoints, which may be any.
fn pool<'a>(endpoints: impl IntoIterator<Item = (&'a str, String)>, settings: &str) -> Rig {
    let endpoints = endpoints.into_iter().fold(String::new(), |mut text, (name, address)| {
        let _ = write!(text, "{{ name = \"{name}\", address = \"{address}\" }}, ");
        text
    });
    let config = format!(
        "[process]\nworkers = 4\n[service.app]\nendpoints = [{endpoints}]\n{settings}\n\
         [[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n"
    );
    Rig::start_with(measured().0, TempDir::new().unwrap(), &config)
}

fn of(endpoints: &[Fickle]) -> impl Iterator<Item = (&str, String)> {
    endpoints.iter().map(|endpoint| (endpoint.name.as_str(), endpoint.address.to_string()))
}

fn load(rig: &Rig, count: usize) -> Load {
    let address = rig.address("web");
    Load::start(RATE, count, move || Client::tcp(address))
}

/// All that came of a pool's attempts, those included that reached nobody.
fn attempts(rig: &Rig) -> f64 {
    rig.metrics("attache_upstream_requests_total{service=\"app\"")
}

fn say(what: &str, rig: &Rig, report: &Report) {
    println!(
        "{what}: {} answers and {} failures in {:.1?}, {} attempts, {} retries, {} ejections; the slowest took {:?}",
        report.answered(),
        report.failures.len(),
        report.took,
        attempts(rig),
        rig.metrics("attache_retries_total{service=\"app\""),
        rig.metrics("attache_endpoint_ejections_total{service=\"app\""),
        report.slowest
    );
}

/// Who is bad, and how, once so many requests have been answered.
struct Script {
    changes: Vec<(usize, usize, Mood)>,
}

impl Script {
    /// One trouble after another; the last one is over before the requests are.
    fn new(requests: usize) -> Self {
        let mut changes = Vec::new();
        for number in 0.. {
            let begins = number * TROUBLE_EVERY;
            let ends = begins + TROUBLE_LASTS;
            if ends >= requests {
                break;
            }
            // Twice as far each time, so that troubles that overlap are not neighbours'.
            let (endpoint, moods) = (number * 2 % 5, [Mood::Stalling, Mood::Resetting, Mood::Failing, Mood::Gone]);
            let turn = |(from, to, mood)| [(from, endpoint, mood), (to, endpoint, Mood::Well)];
            if let Some(&mood) = moods.get((number + number / 5) % 5) {
                changes.extend(turn((begins, ends, mood)));
            } else {
                changes.extend((begins..ends).step_by(2 * FLAP).flat_map(|at| turn((at, at + FLAP, Mood::Gone))));
            }
        }
        changes.sort_by_key(|&(at, ..)| at);
        Self { changes }
    }

    fn play(self, load: &Load, endpoints: &[Fickle]) {
        for (at, endpoint, mood) in self.changes {
            load.reaches(at);
            endpoints[endpoint].is(mood);
        }
    }
}

#[test]
fn at_most_two_are_bad_at_a_time() {
    let mut moods = [Mood::Well; 5];
    let mut seen = Vec::new();
    for (_, endpoint, mood) in Script::new(100_000).changes {
        moods[endpoint] = mood;
        assert!(moods.iter().filter(|&&mood| mood != Mood::Well).count() <= 2);
        if !seen.contains(&(endpoint, mood)) {
            seen.push((endpoint, mood));
        }
    }
    assert_eq!((moods, seen.len()), ([Mood::Well; 5], 25), "each has had each trouble, and all are well");
}

/// Returns the pool as the storm has left it.
#[track_caller]
fn check_storm(settings: &str) -> Rig {
    let endpoints = five();
    let rig = pool(of(&endpoints), settings);
    let requests = requests_in(soak().unwrap_or(STORM));
    let storm = load(&rig, requests);
    Script::new(requests).play(&storm, &endpoints);
    let report = storm.end();
    say("storm", &rig, &report);
    let asked: Vec<usize> = endpoints.iter().map(Fickle::asked).collect();
    println!("endpoints were asked {asked:?} times; {}", report.few_failures());
    assert_eq!(report.answered() + report.failures.len(), requests);
    assert!(report.failures.len() * 1000 <= requests, "{} failures:\n{}", report.failures.len(), report.few_failures());
    let attempts = attempts(&rig);
    assert!(attempts <= 1.2 * requests as f64, "{attempts} attempts for {requests} requests");
    // Somebody has to ask for one who was ejected to be let in again.
    let client = &mut rig.connect("web");
    eventually("all take requests again", || {
        assert_eq!(client.request("GET", "/").unwrap().status, 200);
        rig.metrics("attache_endpoint_up{service=\"app\"") == 5.0
    });
    let calm = load(&rig, requests_in(FAIRNESS)).end();
    say("calm", &rig, &calm);
    assert!(calm.failures.is_empty(), "{}", calm.few_failures());
    check_shares("after the storm", &calm, EXACT);
    rig
}

#[test]
fn clients_do_not_notice_endpoints_that_come_and_go() {
    let _alone = alone();
    let rig = check_storm(&format!("{RETRY}{EJECT}"));
    assert!(rig.metrics("attache_endpoint_ejections_total{service=\"app\"") >= 5.0, "that was no storm");
}

#[test]
fn clients_do_not_notice_endpoints_that_are_probed_and_come_and_go() {
    let _alone = alone();
    let rig = check_storm(&format!("{RETRY}{EJECT}{HEALTH}"));
    assert!(rig.metrics("attache_health_checks_total{service=\"app\"") >= 100.0, "they were probed");
}

#[test]
fn an_endpoint_that_returns_is_asked_as_soon_as_probes_say_so() {
    let _alone = alone();
    let endpoints = five();
    let rig = pool(of(&endpoints), &format!("{RETRY}{HEALTH}"));
    let lateness = Lateness::watch();
    let load = load(&rig, requests_in(Duration::from_secs(6)));
    endpoints[2].is(Mood::Gone);
    let is_up = || rig.metric("attache_endpoint_up{service=\"app\",endpoint=\"2\"}") == 1.0;
    eventually("probes find out that it is gone", || !is_up());
    let (asked, probed) = (endpoints[2].asked(), endpoints[2].probed());
    endpoints[2].is(Mood::Well);
    let returned = Instant::now();
    while endpoints[2].asked() == asked {
        assert!(returned.elapsed() < PATIENCE, "nobody asks it");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = returned.elapsed();
    let probes = endpoints[2].probed() - probed;
    let report = load.end();
    let late = lateness.end();
    say("returned", &rig, &report);
    println!("asked {took:?} after its return, on a machine {late:?} late, after {probes} probes");
    assert!(report.failures.is_empty(), "{} failures:\n{}", report.failures.len(), report.few_failures());
    assert!(probes >= 2, "one success does not make it well");
    assert!(took <= RISES_WITHIN + Duration::from_secs(1) + late * 4, "{took:?}");
}

/// Nobody's share is beyond these per cent of a fair one.
#[track_caller]
fn check_shares(what: &str, report: &Report, (least, most): (f64, f64)) {
    let fair = report.answered() as f64 / 5.0;
    let shares: Vec<usize> = (0..5).map(|number| report.answers.get(&number.to_string()).copied().unwrap_or(0)).collect();
    let percent = |share: Option<&usize>| *share.unwrap() as f64 / fair * 100.0;
    let (smallest, largest) = (percent(shares.iter().min()), percent(shares.iter().max()));
    println!("{what}: shares {shares:?}, {smallest:.1} % to {largest:.1} % of a fair one");
    assert!(smallest >= least && largest <= most, "{what}: {shares:?}");
}

#[track_caller]
fn check_fairness(balance: &str, bounds: (f64, f64), least: Duration) {
    let _alone = alone();
    let endpoints = five();
    let rig = pool(of(&endpoints), &format!("balance = \"{balance}\"\n"));
    let report = load(&rig, requests_in(soak().map_or(least, |soak| soak.min(FAIRNESS_MOST)))).end();
    say(balance, &rig, &report);
    assert!(report.failures.is_empty(), "{}", report.few_failures());
    check_shares(balance, &report, bounds);
}

#[test]
fn turns_are_fair_over_four_workers() {
    check_fairness("round-robin", EXACT, FAIRNESS);
}

#[test]
fn the_dice_are_fair_over_four_workers() {
    check_fairness("random", CHANCE, FAIRNESS);
}

#[test]
fn the_better_of_two_is_fair_over_four_workers() {
    check_fairness("p2c", CHANCE, FAIRNESS);
}

#[test]
fn the_fewest_requests_leave_nobody_out() {
    check_fairness("least-requests", CHANCE, FAIRNESS);
}

#[test]
fn the_sooner_of_two_leaves_nobody_out() {
    check_fairness("ewma", NOBODY_LEFT_OUT, FAIRNESS_MOST);
}

/// Four that stay, and one that `kill` kills in the middle.
#[track_caller]
fn check_killed(four: &[Fickle], fifth: String, kill: impl FnOnce()) {
    let rig = pool(of(four).chain([("4", fifth)]), &format!("{RETRY}{EJECT}"));
    let requests = requests_in(Duration::from_secs(4));
    let load = load(&rig, requests);
    load.reaches(requests / 2);
    kill();
    let report = load.end();
    say("killed", &rig, &report);
    assert!(report.failures.is_empty(), "{} failures:\n{}", report.failures.len(), report.few_failures());
    let last = report.answers["4"];
    assert!(last > requests / 20 && last < requests / 5, "it was asked until it was killed, {last} times");
}

#[test]
fn no_request_fails_when_an_endpoint_resets_all_and_is_gone() {
    let _alone = alone();
    let mut four = five();
    let fifth = four.pop().unwrap();
    check_killed(&four, fifth.address.to_string(), || fifth.is(Mood::Gone));
}

#[test]
fn no_request_fails_when_the_process_of_an_endpoint_is_killed() {
    let _alone = alone();
    let mut four = five();
    four.truncate(4);
    let respond = "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\npath = \"/*\"\nrespond = { body = \"4\" }\n";
    let fifth = Rig::start_with(measured().0, TempDir::new().unwrap(), respond);
    check_killed(&four, fifth.address("web").to_string(), || fifth.signal("KILL"));
}
