//! Splits through the real proxy: who is in which arm, and what becomes of those whose arm has nobody.
//!
//! Shares and ranges are tested beside their code; here is that they are what requests get.

use std::net::SocketAddr;

use attache::algo::split::{Hashing, Split};

use crate::support::{Answer, Fickle, Mood, Origin, Read1, Rig, eventually};

fn text(addresses: &[SocketAddr], arms: &str, settings: &str) -> String {
    let mut pools = String::new();
    for (name, address) in ["canary", "stable", "third"].iter().zip(addresses) {
        pools.push_str(&format!("[service.{name}]\nendpoints = [\"{address}\"]\n"));
    }
    format!(
        "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"checkout\"\n\
         [service.checkout.split]\narms = {{ {arms} }}\n{settings}\n{pools}"
    )
}

fn two() -> Vec<Fickle> {
    ["canary", "stable"].map(Fickle::start).into()
}

fn addresses(fickle: &[Fickle]) -> Vec<SocketAddr> {
    fickle.iter().map(|one| one.address).collect()
}

/// The arm of each of three hundred users.
#[track_caller]
fn arms(rig: &Rig) -> Vec<String> {
    let mut client = rig.connect("web");
    let arm = |number: usize| {
        client.send(format!("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: uid=user-{number}\r\n\r\n")).unwrap();
        match client.read("GET").unwrap() {
            Read1::Answer(answer) if answer.status == 200 => answer.text(),
            other => panic!("{number}: {other:?}"),
        }
    };
    (0..300).map(arm).collect()
}

fn expected(share: u32) -> Vec<String> {
    let split = Split::new(Hashing::Own { salt: b"checkout".to_vec() }, &[Some(share), None]);
    (0..300).map(|number| ["canary", "stable"][split.arm(format!("user-{number}").as_bytes())].to_owned()).collect()
}

#[test]
fn every_user_stays_in_the_arm_that_its_key_has() {
    let services = two();
    let rig = Rig::start(&text(&addresses(&services), "canary = \"10%\", stable = \"rest\"", "by = \"cookie:uid\""));
    assert_eq!(arms(&rig), expected(100_000));
    assert_eq!(arms(&rig), expected(100_000));
    let canary = expected(100_000).iter().filter(|arm| *arm == "canary").count();
    assert!((10..60).contains(&canary), "{canary} of 300");
    let count = |arm: &str| rig.metrics(&format!("attache_split_requests_total{{service=\"checkout\",arm=\"{arm}\"}}")) as usize;
    assert_eq!((count("canary"), count("stable")), (2 * canary, 600 - 2 * canary));
}

#[test]
fn two_processes_agree_on_every_user() {
    let services = two();
    let config = text(&addresses(&services), "canary = \"30%\", stable = \"rest\"", "by = [\"cookie:uid\", \"header:x-user\"]");
    let processes = [Rig::start(&config), Rig::start(&config)];
    let mut clients = processes.each_ref().map(|rig| rig.connect("web"));
    for number in 0..2000 {
        let user = format!("user-{}", number * 7919);
        let [first, second] = clients.each_mut().map(|client| {
            client.send(format!("GET / HTTP/1.1\r\nHost: a.example\r\nX-User: {user}\r\n\r\n")).unwrap();
            match client.read("GET").unwrap() {
                Read1::Answer(answer) => answer.text(),
                other => panic!("{user}: {other:?}"),
            }
        });
        assert_eq!(first, second, "{user}");
    }
}

#[test]
fn users_of_an_arm_that_is_gone_get_the_control_arm_and_count_as_its_failures() {
    let services = two();
    let rig = Rig::start(&text(&addresses(&services), "canary = \"30%\", stable = \"rest\"", "by = \"cookie:uid\""));
    let before = arms(&rig);
    services[0].is(Mood::Gone);
    assert!(arms(&rig).iter().all(|arm| arm == "stable"));
    let missed = before.iter().filter(|arm| *arm == "canary").count() as f64;
    eventually("each is counted", || rig.metrics("attache_split_failed_over_total{service=\"checkout\",arm=\"canary\"}") >= missed);
    services[0].is(Mood::Well);
    assert_eq!(arms(&rig), before);
}

#[test]
fn nobody_stands_in_for_the_control_arm() {
    let services = two();
    let rig = Rig::start(&text(&addresses(&services), "canary = \"50%\", stable = \"rest\"", "by = \"header:x-user\""));
    services[1].is(Mood::Gone);
    let split = Split::new(Hashing::Own { salt: b"checkout".to_vec() }, &[Some(500_000), None]);
    for number in 0..20 {
        let user = format!("user-{number}");
        let fields = format!("GET / HTTP/1.1\r\nHost: a.example\r\nX-User: {user}\r\n\r\n");
        let mut client = rig.connect("web");
        client.send(fields).unwrap();
        let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
        assert_eq!(answer.status, if split.arm(user.as_bytes()) == 0 { 200 } else { 502 }, "{user}");
    }
}

#[test]
fn a_request_may_name_its_arm_where_that_is_allowed() {
    let services = two();
    let force = "force = { header = \"x-arm\", cookie = \"arm\", query = \"arm\" }";
    let rig = Rig::start(&text(&addresses(&services), "canary = \"0%\", stable = \"rest\"", force));
    for (target, field, arm) in [
        ("/", "X-Arm: canary\r\n", "canary"),
        ("/", "Cookie: a=b; arm=canary\r\n", "canary"),
        ("/?arm=canary", "", "canary"),
        ("/?arm=nobody", "", "stable"),
        ("/", "", "stable"),
    ] {
        let mut client = rig.connect("web");
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n{field}\r\n")).unwrap();
        let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
        assert_eq!((answer.status, answer.text().as_str()), (200, arm), "{target} {field}");
    }
}

#[test]
fn a_body_goes_on_to_the_control_arm_with_its_request() {
    let services = two();
    let rig = Rig::start(&text(&addresses(&services), "canary = \"100%\", stable = \"0%\"", ""));
    services[0].is(Mood::Gone);
    let mut client = rig.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    let Read1::Answer(answer) = client.read("POST").unwrap() else { panic!("no answer") };
    // The larger arm is the control arm here, and nobody stands in for that.
    assert_eq!(answer.status, 502);
    let rig = Rig::start(&text(&addresses(&services), "canary = \"40%\", stable = \"rest\"", "force = { header = \"x-arm\" }"));
    let mut client = rig.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a.example\r\nX-Arm: canary\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    let Read1::Answer(answer) = client.read("POST").unwrap() else { panic!("no answer") };
    assert_eq!((answer.status, answer.text().as_str()), (200, "stable"));
}

#[test]
fn a_ramp_by_reload_only_gains() {
    let services = two();
    let of = |share: &str| text(&addresses(&services), &format!("canary = \"{share}\", stable = \"rest\""), "by = \"cookie:uid\"");
    let rig = Rig::start(&of("10%"));
    let mut before = arms(&rig);
    for share in ["20%", "50%", "100%"] {
        rig.reloaded(&of(share));
        let after = arms(&rig);
        assert!(before.iter().zip(&after).all(|(before, after)| before == "stable" || after == "canary"), "{share}");
        before = after;
    }
    assert!(before.iter().all(|arm| arm == "canary"));
}

/// `config/experiment.toml` as it is, but for the addresses and how often is probed.
#[test]
fn the_experiment_sample_keeps_its_promises() {
    let sample = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/experiment.toml")).unwrap();
    let services = ["canary", "stable", "stable"].map(Fickle::start);
    let [canary, first, second] = services.each_ref().map(|one| one.address.to_string());
    let text = sample
        .replace("0.0.0.0:8080", "127.0.0.1:0")
        .replace("10.0.0.9:8080", &canary)
        .replace("10.0.0.1:8080", &first)
        .replace("10.0.0.2:8080", &second)
        .replace("interval = \"2s\", timeout = \"1s\"", "interval = \"100ms\", timeout = \"100ms\"");
    let rig = Rig::start(&text);
    let split = Split::new(Hashing::Own { salt: b"checkout-2026".to_vec() }, &[Some(100_000), None]);
    let ask = |path: &str, fields: &str| {
        let mut client = rig.connect("shop");
        client.send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")).unwrap();
        let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
        assert_eq!(answer.status, 200, "{path} {fields}");
        answer.text()
    };
    for number in 0..100 {
        let expected = ["canary", "stable"][split.arm(format!("user-{number}").as_bytes())];
        assert_eq!(ask("/checkout/cart", &format!("Cookie: uid=user-{number}\r\n")), expected, "{number}");
    }
    assert_eq!(ask("/checkout/cart", "X-Arm: canary\r\n"), "canary");
    assert_eq!(ask("/", "X-Arm: canary\r\n"), "stable");
    services[0].is(Mood::Gone);
    assert_eq!(ask("/checkout/cart", "X-Arm: canary\r\n"), "stable");
}

#[test]
fn what_decided_the_arm_is_told() {
    let services = two();
    let settings = "by = \"cookie:uid\"\nforce = { header = \"x-arm\" }";
    let rig = Rig::start(&text(&addresses(&services), "canary = \"10%\", stable = \"rest\"", settings));
    let step = |header: &str| rig.admin_json(&format!("/explain?url=http://a.example/&header={header}"))["way"][0].clone();
    let forced = step("x-arm:%20canary");
    assert_eq!((&forced["kind"], &forced["arm"], &forced["because"]), (&"split".into(), &"canary".into(), &"forced".into()));
    let keyed = step("cookie:%20uid=user-1");
    assert_eq!((&keyed["arm"], &keyed["key"]), (&expected(100_000)[1].as_str().into(), &"user-1".into()));
    assert_eq!(keyed["arms"][0], serde_json::json!({ "name": "canary", "share": 0.1 }));
    let services = rig.admin_json("/services");
    let split = services.as_array().unwrap().iter().find(|service| service["kind"] == "split").unwrap().clone();
    assert_eq!((&split["name"], &split["control"]), (&"checkout".into(), &"stable".into()));
}

#[track_caller]
fn check_wrong(split: &str, expected: &str) {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n[service.s.split]\n{split}\n\
         [service.a]\nendpoints = [\"127.0.0.1:1\"]\n[service.b]\nendpoints = [\"127.0.0.1:2\"]\n"
    );
    std::fs::write(directory.path().join("a.toml"), text).unwrap();
    let output = crate::support::binary().current_dir(directory.path()).args(["check", "a.toml"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(expected), "{said}");
}

#[test]
fn wrong_splits_are_told_with_a_remedy() {
    check_wrong("arms = { a = \"10%\", b = \"80%\" }", "a.toml:5:8: error: shares sum to 90%, expected 100%");
    check_wrong("arms = { a = \"50%\", b = \"50.0001%\" }", "a.toml:5:8: error: shares sum to 100.0001%, more than 100%");
    check_wrong("arms = { a = \"rest\", b = \"rest\" }", "a.toml:5:26: error: two arms cannot both have the rest");
    check_wrong("arms = { a = 10, b = \"rest\" }", "a.toml:5:14: error: a share needs its sign");
    check_wrong("arms = {}", "a split has 1 to 256 arms, this has 0");
    check_wrong("arms = [\"a\"]", "write arms = { canary = \"10%\", stable = \"rest\" }");
    check_wrong("arms = { a = \"10%\", missing = \"rest\" }", "missing");
    check_wrong("arms = { a = \"10%\", s = \"rest\" }", "`s` is a part of itself");
    check_wrong("arms = { a = \"0.5%\", b = \"rest\" }\ncompat = { unleash = { group = \"g\" } }", "write a multiple of \"1%\"");
    check_wrong("arms = { a = \"10%\", b = \"rest\" }\ncompat = \"launchdarkly\"", "needs a flag with its salt, or a seed");
    check_wrong("arms = { a = \"10%\", b = \"rest\" }\ncompat = \"growthbok2\"", "did you mean \"growthbook2\"?");
    check_wrong("arms = { a = \"10%\", b = \"rest\" }\ncompat = \"nginx\"\nsalt = \"x\"", "a.toml:7:8: error: `salt` is for our own way");
    check_wrong("arms = { a = \"10%\", b = \"rest\" }\nforce = {}", "`force` names no place");
    check_wrong("arms = { a = \"10%\", b = \"rest\" }\nby = \"cokie:uid\"", "cokie");
    let with = |settings: &str| format!("arms = {{ a = \"10%\", b = \"rest\" }}\n{settings}");
    check_wrong(&with("only = {}"), "`only` says nothing that a request could have");
    check_wrong(&with("only = { sni = \"a\" }"), "requests have a `host`");
    check_wrong(&with("force = { header = \"x-arm\", secret = \"short\" }"), "a secret needs at least 16 bytes");
    check_wrong(&with("issue = \"a\"\nsticky = \"a\""), "cannot hold an id and an arm");
    check_wrong(&with("issue = { cookie = \"a\", ttl = \"500ms\" }"), "\"1s\" to \"400d\"");
    let ramp = |settings: &str| with(&format!("ramp = {{ arm = \"a\", every = \"1m\", {settings} }}"));
    check_wrong(&ramp("steps = []"), "a ramp has 1 to 100 steps, this has 0");
    check_wrong(&ramp("steps = [\"10%\", \"5%\"]"), "5% comes after 10%, so it would send users back");
    check_wrong(&ramp("steps = [\"0%\"]"), "a step of nothing is none");
    check_wrong(&ramp("steps = [\"10%\"], abort = {}"), "`abort` says nothing that would end the ramp");
    check_wrong(&ramp("steps = [\"10%\"], abort = { p99_over = \"fast\" }"), "neither a factor nor a duration");
    check_wrong(&ramp("steps = [\"10%\"], abort = { p99_over = \"0.5x\" }"), "not a factor from 1 to 1000");
    check_wrong(&ramp("steps = [\"10%\"], notify = \"ftp://a/\""), "not a URL that can be posted to");
    check_wrong(&ramp("steps = [\"10%\"], on_abort = \"stop\""), "\"zero\", \"hold\"");
    check_wrong(&with("ramp = { arm = \"b\", every = \"1m\", steps = [\"10%\"] }"), "`b` has the rest, which others grow into");
    check_wrong(&with("ramp = { arm = \"c\", every = \"1m\", steps = [\"10%\"] }"), "`c` is not an arm of this split");
    check_wrong("arms = { a = \"10%\", b = \"90%\" }\nramp = { arm = \"a\", every = \"1m\", steps = [\"10%\"] }", "no arm has the rest");
}

/// The answer to one request with these fields.
#[track_caller]
fn ask(rig: &Rig, fields: &str) -> Answer {
    let mut client = rig.connect("web");
    client.send(format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")).unwrap();
    match client.read("GET").unwrap() {
        Read1::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_has_no_key_is_given_one_and_stays() {
    let services = two();
    let rig = Rig::start(&text(&addresses(&services), "canary = \"50%\", stable = \"rest\"", "issue = \"uid\""));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let first = ask(&rig, "");
        let cookie = first.header("set-cookie").expect("an id").to_owned();
        let (id, attributes) = cookie.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax");
        let second = ask(&rig, &format!("Cookie: {id}\r\n"));
        assert_eq!((second.text(), second.header("set-cookie")), (first.text(), None));
        assert!(seen.insert(id.to_owned()), "{id} twice");
    }
    // What a client made up is a key too, and is not replaced.
    assert_eq!(ask(&rig, "Cookie: uid=ann\r\n").header("set-cookie"), None);
}

#[test]
fn an_issued_cookie_is_as_it_is_written() {
    let services = two();
    let settings = "by = \"header:x-user\"\nissue = { cookie = \"id\", ttl = \"1h\", secure = true }";
    let rig = Rig::start(&text(&addresses(&services), "canary = \"50%\", stable = \"rest\"", settings));
    let cookie = ask(&rig, "").header("set-cookie").unwrap().to_owned();
    assert!(cookie.starts_with("id=") && cookie.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
    assert_eq!(ask(&rig, "X-User: ann\r\n").header("set-cookie"), None);
}

#[test]
fn an_arm_is_told_where_that_is_wanted() {
    let services = two();
    let echo = Origin::ok("canary");
    let settings = "by = \"cookie:uid\"\nforce = { header = \"x-arm\" }\nexpose = true";
    let addresses = [echo.address, addresses(&services)[1]];
    let rig = Rig::start(&text(&addresses, "canary = \"50%\", stable = \"rest\"", settings));
    assert_eq!(ask(&rig, "X-Arm: canary\r\n").header("x-attache-arm"), Some("canary"));
    assert_eq!(ask(&rig, "X-Arm: stable\r\nX-Attache-Arm: canary\r\n").header("x-attache-arm"), Some("stable"));
    services[1].is(Mood::Gone);
    let refused = ask(&rig, "X-Arm: stable\r\n");
    assert_eq!((refused.status, refused.header("x-attache-arm")), (502, Some("stable")));
    eventually("errors are the arm's", || rig.metrics("attache_split_errors_total{service=\"checkout\",arm=\"stable\"}") >= 1.0);
    assert!(rig.metrics("attache_split_request_duration_seconds_count{service=\"checkout\",arm=\"canary\"}") >= 1.0);
}

#[test]
fn only_those_that_are_meant_are_divided() {
    let services = two();
    let settings = "by = \"cookie:uid\"\nonly = { header = { x-beta = \"*\" } }\nforce = { header = \"x-arm\" }";
    let rig = Rig::start(&text(&addresses(&services), "canary = \"100%\", stable = \"rest\"", settings));
    assert_eq!(ask(&rig, "Cookie: uid=ann\r\n").text(), "stable");
    assert_eq!(ask(&rig, "Cookie: uid=ann\r\nX-Beta: yes\r\n").text(), "canary");
    assert_eq!(ask(&rig, "X-Arm: canary\r\n").text(), "canary");
}

#[test]
fn whoever_names_an_arm_may_have_to_know_a_secret() {
    let services = two();
    let settings = "force = { header = \"x-arm\", secret = \"correct-horse-battery\" }";
    let rig = Rig::start(&text(&addresses(&services), "canary = \"0%\", stable = \"rest\"", settings));
    for (named, arm) in [
        ("canary", "stable"),
        ("canary:", "stable"),
        ("canary:correct-horse-batterz", "stable"),
        ("canarycorrect-horse-battery", "stable"),
        ("correct-horse-battery", "stable"),
        ("canary:correct-horse-battery", "canary"),
    ] {
        assert_eq!(ask(&rig, &format!("X-Arm: {named}\r\n")).text(), arm, "{named}");
    }
    assert!(!rig.admin("GET", "/config").text().contains("horse"));
}

#[test]
fn a_cookie_keeps_whoever_has_it_in_its_arm() {
    let services = two();
    let of = |share: &str, more: &str| {
        let settings = format!("by = \"header:x-user\"\nsticky = {{ cookie = \"arm\", ttl = \"1h\" }}\n{more}");
        text(&addresses(&services), &format!("canary = \"{share}\", stable = \"rest\""), &settings)
    };
    let rig = Rig::start(&of("100%", ""));
    let first = ask(&rig, "X-User: ann\r\n");
    let cookie = first.header("set-cookie").expect("a cookie").to_owned();
    let (arm, attributes) = cookie.split_once("; ").unwrap();
    assert!(arm.starts_with("arm=canary."), "{cookie}");
    assert_eq!((first.text().as_str(), attributes), ("canary", "Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"));
    rig.reloaded(&of("1%", ""));
    // Another user by its key, and the same by its cookie; and nobody is told twice.
    let held = ask(&rig, &format!("X-User: bob\r\nCookie: {arm}\r\n"));
    assert_eq!((held.text().as_str(), held.header("set-cookie")), ("canary", None));
    // An arm that has nobody any more, or another experiment: free.
    rig.reloaded(&of("0%", ""));
    let freed = ask(&rig, &format!("X-User: bob\r\nCookie: {arm}\r\n"));
    assert!(freed.text() == "stable" && freed.header("set-cookie").unwrap().starts_with("arm=stable."), "{}", freed.head);
    rig.reloaded(&of("1%", "salt = \"another\""));
    assert!(ask(&rig, &format!("X-User: bob\r\nCookie: {arm}\r\n")).header("set-cookie").is_some());
}
