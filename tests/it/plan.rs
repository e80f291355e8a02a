//! `attache plan` and dry runs: what they foretell, and that they change nothing.
//!
//! That the foretold share really moves is in `shards`.

use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Rig, binary};

fn shard(over: &str, settings: &str) -> String {
    format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:8080\"\nservice = \"cache\"\n[service.cache.shard]\nby = \"path\"\nover = [{over}]\n{settings}\n"
    )
}

const THREE: &str = "\"10.0.0.1:80\", \"10.0.0.2:80\", \"10.0.0.3:80\"";
const FOUR: &str = "\"10.0.0.1:80\", \"10.0.0.2:80\", \"10.0.0.3:80\", \"10.0.0.4:80\"";

fn planned(old: &str, new: &str, arguments: &[&str], keys: Option<&str>) -> Output {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut command = binary();
    command.arg("plan").arg(write("old.toml", old)).arg(write("new.toml", new)).args(arguments);
    if let Some(keys) = keys {
        command.arg("--keys").arg(write("keys.txt", keys));
    }
    command.output().unwrap()
}

#[track_caller]
fn json(old: &str, new: &str, keys: Option<&str>) -> Value {
    let output = planned(old, new, &["--json"], keys);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn moved(plan: &Value) -> f64 {
    plan["shards"][0]["moved"].as_f64().unwrap()
}

#[test]
fn the_order_in_the_file_moves_nothing() {
    let plan = json(&shard(THREE, ""), &shard("\"10.0.0.3:80\", \"10.0.0.1:80\", \"10.0.0.2:80\"", ""), None);
    assert_eq!(moved(&plan), 0.0);
    assert_eq!(plan["shards"][0]["matrix"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_new_member_takes_its_share_and_no_more() {
    for (method, excess) in [("maglev", 0.01), ("rendezvous", 0.002), ("nginx", 0.06)] {
        let settings = format!("method = \"{method}\"");
        let plan = json(&shard(THREE, &settings), &shard(FOUR, &settings), None);
        assert!((moved(&plan) - 0.25).abs() <= excess + 0.002, "{method}: {}", moved(&plan));
        let first = &plan["shards"][0]["matrix"][0];
        assert_eq!(first["to"], "10.0.0.4:80");
        let after: f64 =
            plan["shards"][0]["after"]["members"].as_array().unwrap().iter().map(|member| member["share"].as_f64().unwrap()).sum();
        assert!((after - 1.0).abs() < 1e-9, "{after}");
    }
}

#[test]
fn more_than_was_allowed_fails() {
    let output = planned(&shard(THREE, ""), &shard(FOUR, ""), &["--max-move", "5%"], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("of the keys of cache would move, and 5% is allowed"));
    assert_eq!(planned(&shard(THREE, ""), &shard(FOUR, ""), &["--max-move", "26%"], None).status.code(), Some(0));
    assert_eq!(planned(&shard(THREE, ""), &shard(FOUR, ""), &["--max-move", "5"], None).status.code(), Some(2));
}

#[test]
fn given_keys_count_as_often_as_they_are_there() {
    let keys = (0..50).map(|number| format!("/{number}\n")).collect::<String>() + &"/7\n".repeat(950);
    let plan = json(&shard(THREE, ""), &shard(FOUR, ""), Some(&keys));
    let given = &plan["shards"][0]["given"];
    assert_eq!((&given["keys"], &given["different"]), (&1000.into(), &50.into()));
    // Which of them move is a matter of hashing; that all are counted is not.
    let movers = given["hottest"].as_array().unwrap();
    let counted: u64 = movers.iter().map(|mover| mover["count"].as_u64().unwrap()).sum();
    let share = given["moved"].as_f64().unwrap();
    assert!(movers.len() == 10 || (share - counted as f64 / 1000.0).abs() < 1e-9, "{given}");
    assert!(movers.windows(2).all(|two| two[0]["count"].as_u64() >= two[1]["count"].as_u64()));
}

#[test]
fn another_key_another_method_and_another_name_say_what_they_cost() {
    let before = shard(THREE, "");
    assert_eq!(moved(&json(&before, &shard(THREE, "").replace("\"path\"", "\"uri\""), None)), 1.0);
    let method = moved(&json(&before, &shard(THREE, "method = \"nginx\""), None));
    assert!((0.6..0.73).contains(&method), "two thirds of the keys are elsewhere by chance: {method}");
    let renamed = before.replace("service.cache.", "service.store.").replace("service = \"cache\"", "service = \"store\"");
    let plan = json(&before, &renamed, None);
    assert!(plan["notes"][0].as_str().unwrap().contains("salt = \"cache\""), "{plan:#}");
}

#[test]
fn effects_are_told_too() {
    let old = "[process]\nworkers = 1\n[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nservice = \"10.0.0.1:80\"\n";
    let new = "[process]\nworkers = 2\n[[listener]]\nname = \"b\"\nlisten = \"127.0.0.1:2\"\nservice = \"10.0.0.1:80\"\n";
    let output = planned(old, new, &[], None);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in ["process workers changed, needs a restart", "listener b added, binds", "listener a removed, drains"] {
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
    assert_eq!(String::from_utf8_lossy(&planned(old, old, &[], None).stdout), "nothing changes\n");
    assert_eq!(planned(old, "[[listener]]\nlisten = 1\n", &[], None).status.code(), Some(1));
}

#[test]
fn a_dry_run_foretells_a_reload_and_changes_nothing() {
    let live = |over: &str| shard(over, "").replace("127.0.0.1:8080", "127.0.0.1:0");
    let rig = Rig::start(&live(THREE));
    // The watcher would reload by itself after a while, which may be over before we have asked: then once more.
    let foretold = |config: &str| {
        rig.write(config);
        let before = rig.admin_json("/status")["generation"].clone();
        let answer = rig.admin("POST", "/reload?dry_run=1");
        (answer, rig.admin_json("/status")["generation"] == before)
    };
    let mut tries = [FOUR, THREE].into_iter().cycle().take(10).map(|over| foretold(&live(over)));
    let plan = tries.find_map(|(answer, is_in_time)| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let plan: Value = serde_json::from_str(&answer.text()).unwrap();
        (is_in_time && plan["changes"].as_array().is_some_and(|changes| !changes.is_empty())).then_some(plan)
    });
    let plan = plan.expect("one of ten is in time");
    assert_eq!(plan["changes"][0]["what"], "service cache");
    assert!((plan["plan"]["shards"][0]["moved"].as_f64().unwrap() - 0.25).abs() < 0.015, "{plan:#}");
    let (refused, _) = foretold("[[listener]]\nlisten = 1\n");
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("attache.toml:"), "{}", refused.text());
    assert_eq!(rig.admin("GET", "/reload?dry_run=1").status, 405);
}
