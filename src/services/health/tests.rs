//! How checks are judged and reports read.
//!
//! What real servers answer is tested in `tests/it/reports.rs`.

use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::*;
use crate::route::{Head, Headers};
use crate::value::{Address, Login, Server, Spanned};

const SECOND: Duration = Duration::from_secs(1);

fn question() -> ServerQuestion {
    let login = Login { user: Some("u".to_owned()), password: Some("s3cret".to_owned()), database: None };
    let server = Server { address: Address::parse("127.0.0.1:3306").unwrap(), login, is_tls: false };
    ServerQuestion { server, query: None, expect: None, role: None, max_lag: None }
}

fn check(name: &str, critical: bool) -> Arc<Check> {
    check_of(name, critical, Question::Mysql(Box::new(question())))
}

fn check_of(name: &str, critical: bool, question: Question) -> Arc<Check> {
    let settings = CheckSettings { question, critical, interval: None, timeout: None, rise: None, fall: None, tls: None };
    let report = Settings {
        checks: Spanned::new(
            settings::Checks(std::iter::once((name.to_owned(), settings.clone())).collect()),
            crate::value::Place::new(crate::value::SourceId(0), 0..0),
        ),
        interval: health::Interval(2 * SECOND),
        timeout: None,
        rise: crate::value::Whole(2),
        fall: crate::value::Whole(3),
    };
    Arc::new(Check::new("db", name, &report, &settings, None, Arc::default()))
}

#[expect(clippy::unnecessary_wraps, reason = "stands where `bad` does")]
fn good(role: Role, lag: Option<u64>) -> Result<Facts, Reason> {
    Ok(Facts { role: Some(role), lag: lag.map(Duration::from_secs), detail: None })
}

fn bad() -> Result<Facts, Reason> {
    Err(Reason::new("error 1040: Too many connections"))
}

fn report(health: &Health, path: &str, query: Option<&str>, now: Instant) -> (u16, String) {
    let head = Head {
        method: b"GET",
        scheme: "http",
        authority: b"a",
        host: b"a",
        path: path.as_bytes(),
        query: query.map(str::as_bytes),
        compare_path: path.as_bytes(),
        headers: Headers { bytes: b"", fields: &[] },
        client: None,
        tls: None,
        request_id: b"",
        listener: "",
    };
    let report = health.report(&head, now);
    (report.status, String::from_utf8(report.body).unwrap())
}

fn word(health: &Health, now: Instant) -> (u16, String) {
    let (status, body) = report(health, "/", None, now);
    let body: Value = serde_json::from_str(&body).unwrap();
    (status, body["status"].as_str().unwrap().to_owned())
}

#[track_caller]
fn expect(health: &Health, now: Instant, status: u16, expected: &str) {
    assert_eq!(word(health, now), (status, expected.to_owned()));
}

#[test]
fn findings_count_as_often_as_they_have_to() {
    let (db, now) = (check("db", true), Instant::now());
    let health = Health::new("h", vec![Arc::clone(&db)]);
    expect(&health, now, 503, "starting");
    let find = |found| db.take(found, SECOND, now, SystemTime::now());
    find(good(Role::Primary, None));
    expect(&health, now, 200, "ok");
    find(bad());
    find(bad());
    expect(&health, now, 200, "ok");
    find(bad());
    expect(&health, now, 503, "failing");
    let (_, body) = report(&health, "/health/checks/db", None, now);
    assert!(body.contains("error 1040: Too many connections") && !body.contains("s3cret"), "{body}");
    assert_eq!(report(&health, "/ready", None, now), (503, "failing\ndb failing: error 1040: Too many connections\n".to_owned()));
    find(good(Role::Primary, None));
    expect(&health, now, 503, "failing");
    find(good(Role::Primary, None));
    expect(&health, now, 200, "ok");
    assert_eq!(report(&health, "/live", None, now), (200, "ok\n".to_owned()));
}

#[test]
fn what_is_old_is_not_believed() {
    let (db, now) = (check("db", true), Instant::now());
    let health = Health::new("h", vec![Arc::clone(&db)]);
    db.take(good(Role::Primary, None), SECOND, now, SystemTime::now());
    expect(&health, now + 6 * SECOND, 200, "ok");
    expect(&health, now + 7 * SECOND, 503, "stale");
    assert_eq!(report(&health, "/role/primary", None, now + 7 * SECOND).0, 503);
}

#[test]
fn what_is_not_critical_only_degrades() {
    let (db, cache, now) = (check("db", true), check("cache", false), Instant::now());
    let health = Health::new("h", vec![Arc::clone(&db), Arc::clone(&cache)]);
    db.take(good(Role::Primary, None), SECOND, now, SystemTime::now());
    expect(&health, now, 200, "degraded");
    cache.take(bad(), SECOND, now, SystemTime::now());
    expect(&health, now, 200, "degraded");
    assert_eq!(report(&health, "/x/checks/cache", None, now).0, 503);
    cache.take(good(Role::Primary, None), SECOND, now, SystemTime::now());
    cache.take(good(Role::Primary, None), SECOND, now, SystemTime::now());
    expect(&health, now, 200, "ok");
    assert_eq!(report(&health, "/checks/nope", None, now).0, 404);
}

#[test]
fn a_role_is_told_by_the_status() {
    let (db, now) = (check("db", true), Instant::now());
    let health = Health::new("h", vec![Arc::clone(&db)]);
    let statuses = |query| (report(&health, "/h/role/primary", None, now).0, report(&health, "/h/role/replica", query, now).0);
    assert_eq!(statuses(None), (503, 503));
    db.take(good(Role::Primary, None), SECOND, now, SystemTime::now());
    assert_eq!(statuses(None), (200, 503));
    db.take(good(Role::Replica, Some(4)), SECOND, now, SystemTime::now());
    assert_eq!(statuses(None), (503, 200));
    assert_eq!(statuses(Some("max_lag=5s")), (503, 200));
    assert_eq!(statuses(Some("max_lag=3s")), (503, 503));
    assert_eq!(statuses(Some("max_lag=long")), (503, 400));
    // One failure is not enough to be failing, and so to be nothing in particular.
    db.take(bad(), SECOND, now, SystemTime::now());
    assert_eq!(statuses(None), (503, 200));
}

#[test]
fn what_is_expected_of_a_server_decides() {
    let judge = |role, max_lag: Option<u64>, facts: Result<Facts, Reason>| {
        let question = ServerQuestion { role, max_lag: max_lag.map(Duration::from_secs), ..question() };
        question.judge(&facts.unwrap()).map_err(|reason| reason.to_string())
    };
    assert_eq!(judge(None, None, good(Role::Replica, None)), Ok(()));
    assert_eq!(judge(Some(Role::Primary), None, good(Role::Replica, None)), Err("is a replica, expected a primary".to_owned()));
    assert_eq!(judge(Some(Role::Primary), None, Ok(Facts::default())), Err("does not say which role it has".to_owned()));
    assert_eq!(judge(None, Some(5), good(Role::Replica, Some(5))), Ok(()));
    assert_eq!(judge(None, Some(5), good(Role::Replica, Some(9))), Err("is 9 s behind, expected 5 s at most".to_owned()));
    assert_eq!(judge(None, Some(5), good(Role::Replica, None)), Err("does not say how far behind it is".to_owned()));
    assert_eq!(judge(None, Some(5), good(Role::Primary, None)), Ok(()));
    let question = ServerQuestion { expect: Some("1".to_owned()), ..question() };
    assert_eq!(question.check(Some("1")), Ok(()));
    assert_eq!(question.check(Some("2")).unwrap_err().as_str(), "answered `2`, expected `1`");
    assert!(question.check(None).is_err());
}

#[test]
fn a_server_that_cannot_be_asked_shows_no_secret() {
    assert!(!format!("{:?}", question()).contains("s3cret"));
}

#[test]
fn a_check_may_be_called_as_another_end_of_a_path() {
    let (live, now) = (check("live", true), Instant::now());
    let health = Health::new("h", vec![live]);
    let (status, body) = report(&health, "/health/checks/live", None, now);
    assert!(status == 503 && body.contains("starting"), "{body}");
    assert_eq!(report(&health, "/health/live", None, now).0, 200);
    assert_eq!(report(&health, "/health/checks/ready", None, now).0, 503);
}

/// It had none after one answer that was missed, whatever `fall` is.
#[test]
fn a_server_has_its_role_as_long_as_it_is_well() {
    let (db, now) = (check("db", true), Instant::now());
    let health = Health::new("h", vec![Arc::clone(&db)]);
    let find = |found| db.take(found, SECOND, now, SystemTime::now());
    find(good(Role::Primary, None));
    find(bad());
    find(bad());
    assert_eq!(report(&health, "/role/primary", None, now).0, 200);
    find(bad());
    assert_eq!(report(&health, "/role/primary", None, now).0, 503);
}

#[test]
fn a_server_that_says_that_its_role_is_another_one_has_that_at_once() {
    let asked = ServerQuestion { role: Some(Role::Primary), ..question() };
    let (db, now) = (check_of("db", true, Question::Mysql(Box::new(asked))), Instant::now());
    let health = Health::new("h", vec![Arc::clone(&db)]);
    let find = |found| db.take(found, SECOND, now, SystemTime::now());
    find(good(Role::Primary, None));
    find(good(Role::Replica, None));
    let roles = ["/role/primary", "/role/replica"].map(|path| report(&health, path, None, now).0);
    assert_eq!(roles, [503, 200]);
    find(good(Role::Replica, None));
    find(good(Role::Replica, None));
    expect(&health, now, 503, "failing");
}
