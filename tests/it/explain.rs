//! `attache explain` and `/explain`: what they say is what happens.
//!
//! The running proxy is asked the same as explain, ten thousand times.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Output;

use attache::algo::dice;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Client, Origin, Read1, Rig, binary};

/// Routes of every kind over nested shards, pools, answers and redirects; `origins` say who they are.
fn config(origins: &[SocketAddr]) -> String {
    let [a, b, c, d, fallback] = origins else { panic!("five origins") };
    format!(
        r#"
[[listener]]
name = "web"
listen = "127.0.0.1:0"
service = "{fallback}"

[[listener.route]]
name = "host"
host = ["shop.example", "*.shop.example"]
path = "/a/*"
service = "nested"

[[listener.route]]
name = "post"
method = ["POST", "PUT"]
service = "by-user"
rewrite = {{ path = "/rewritten" }}

[[listener.route]]
name = "beta"
header = {{ x-beta = "~^y" }}
query = {{ v = "2" }}
redirect = {{ to = "https://{{host}}/beta", status = 307 }}

[[listener.route]]
name = "paid"
cookie = {{ plan = "*" }}
path = ["/b/*", "~^/[0-9]+$"]
service = "store"

[[listener.route]]
name = "network"
client = ["10.0.0.0/8"]
respond = {{ status = 200, body = "inside" }}

[[listener.route]]
name = "gone"
path = "/c"
respond = {{ status = 410 }}

[service.nested.shard]
by = {{ join = ["host", "segment:2"] }}
keyless = "refuse"
over = ["left", {{ address = "{c}", weight = 2 }}]

[service.left.shard]
by = ["query:id", "path"]
method = "rendezvous"
over = ["{a}", "{b}"]

[service.by-user.shard]
by = ["header:x-user", "cookie:uid"]
keyless = "refuse"
over = {{ pool = "users" }}

[service.users]
endpoints = ["{a}", "{b}", "{d}"]

[service.store.shard]
by = "uri"
on_down = "fail"
method = "nginx"
over = ["{c}", "{d}"]
"#
    )
}

/// Words that some of the routes ask for.
struct Made {
    method: &'static str,
    host: &'static str,
    target: String,
    fields: Vec<String>,
}

fn made(state: &mut u64) -> Made {
    let mut one_of = |words: &[&'static str]| words[(dice::roll(state) % words.len() as u64) as usize];
    let host = one_of(&["shop.example", "www.shop.example", "other.example", "SHOP.example:80"]);
    let method = one_of(&["GET", "GET", "POST", "PUT", "DELETE"]);
    let path = one_of(&["/a", "/a/1", "/a/2/x", "/b", "/b/y", "/c", "/77", "/", "/%61/3", "/z/../y"]);
    let query = one_of(&["", "", "?id=1", "?v=2", "?id=2&v=2", "?v=3"]);
    let mut fields = Vec::new();
    for choices in
        [["", "X-Beta: yes", "X-Beta: no"], ["", "Cookie: plan=gold; uid=7", "Cookie: uid=8"], ["", "X-User: ann", "X-User: bob"]]
    {
        let field = one_of(&choices);
        if !field.is_empty() {
            fields.push(field.to_owned());
        }
    }
    Made { method, host, target: format!("{path}{query}"), fields }
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "%{byte:02x}");
        out
    })
}

/// Status and body, as explain foretells them.
fn foretold(explained: &Value) -> (u64, String) {
    let verdict = &explained["verdict"];
    let status = verdict["status"].as_u64();
    match verdict["kind"].as_str().unwrap() {
        "forward" => (200, verdict["endpoint"].as_str().unwrap_or_else(|| panic!("{explained:#}")).to_owned()),
        "respond" if explained["route"] == "network" => (200, "inside".to_owned()),
        "respond" | "redirect" => (status.unwrap(), String::new()),
        "refuse" => (status.unwrap(), format!("{}\n", verdict["phrase"].as_str().unwrap())),
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_explained_is_what_happens() {
    let origins: Vec<Origin> = (0..5)
        .map(|_| {
            Origin::run(|stream, _, _| {
                use std::io::Write as _;
                let name = stream.local_addr().unwrap().to_string();
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                crate::support::Next::Keep
            })
        })
        .collect();
    let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
    let rig = Rig::start(&config(&addresses));
    let (web, admin) = (rig.address("web"), rig.admin_path());
    let threads: Vec<_> = (0..4_u64)
        .map(|seed| {
            let admin = admin.clone();
            std::thread::spawn(move || {
                let mut state = seed;
                let mut proxy = Client::tcp(web).unwrap();
                let mut kinds = std::collections::BTreeMap::<String, usize>::new();
                for _ in 0..2500 {
                    let Made { method, host, target, fields } = made(&mut state);
                    let mut query = format!("method={method}&url={}", encoded(&format!("http://{host}{target}")));
                    for field in &fields {
                        let _ = write!(query, "&header={}", encoded(field));
                    }
                    let explained = Client::unix(&admin).unwrap().ask("GET", &format!("/explain?{query}")).unwrap();
                    assert_eq!(explained.status, 200, "{query}: {}", explained.text());
                    let explained: Value = serde_json::from_str(&explained.text()).unwrap();
                    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
                    proxy.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).unwrap();
                    let Read1::Answer(answer) = proxy.read(method).unwrap() else { panic!("no answer to {method} {target}") };
                    assert_eq!(
                        (u64::from(answer.status), answer.text()),
                        foretold(&explained),
                        "{method} {host}{target} {fields}{explained:#}"
                    );
                    if answer.header("connection") == Some("close") {
                        proxy = Client::tcp(web).unwrap();
                    }
                    *kinds.entry(explained["route"].as_str().unwrap_or("none").to_owned()).or_default() += 1;
                }
                kinds
            })
        })
        .collect();
    for thread in threads {
        let kinds = thread.join().unwrap();
        assert_eq!(kinds.len(), 7, "every route was taken: {kinds:?}");
    }
}

fn explained(config: &str, arguments: &[&str]) -> Output {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("attache.toml");
    std::fs::write(&path, config).unwrap();
    binary().args(["explain", "-c"]).arg(path).args(arguments).output().unwrap()
}

const SHOP: &str = "[[listener]]\nname = \"edge\"\nlisten = \"127.0.0.1:8080\"\n\
    [[listener.route]]\nname = \"cart\"\npath = \"/cart/*\"\nmethod = \"GET\"\nservice = \"cart\"\ntimeout = \"30s\"\n\
    request_headers = { set = { x-path = \"{path}\" }, remove = [\"cookie\"] }\nresponse_headers = { remove = [\"server\"] }\n\
    [service.cart.shard]\nby = \"header:x-user\"\nover = [\"10.0.0.1:80\", \"10.0.0.2:80\"]\n";

#[track_caller]
fn told(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_text_tells_the_whole_story_in_eighty_columns() {
    let text = told(&explained(SHOP, &["GET http://shop.example/cart/7", "-H", "X-User: ann", "-H", "Cookie: a=b", "--from", "192.0.2.7"]));
    for part in [
        "GET http://shop.example/cart/7 from 192.0.2.7",
        "edge (127.0.0.1:8080)",
        "cart: yes",
        "key \"ann\"",
        "; next 10.0.0.",
        "+ x-path: /cart/7",
        "+ X-Forwarded-For: 192.0.2.7",
        "- Cookie: a=b",
        "- server",
        "route 30 s",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn losing_routes_say_why() {
    let lost = told(&explained(SHOP, &["POST http://shop.example/cart/7"]));
    assert!(lost.contains("cart: no, method is POST, not GET") && lost.contains("404 not found (no_route)"), "{lost}");
    let bad = told(&explained(SHOP, &["http://shop.example/cart/../x"]));
    assert!(bad.contains("400 ambiguous path (bad_path)"), "{bad}");
    let json: Value = serde_json::from_str(&told(&explained(SHOP, &["GET", "http://shop.example/x", "--json"]))).unwrap();
    assert_eq!(json["routes"][0]["why"], "path is /x, not /cart/*");
}

#[test]
fn what_stands_before_a_listener_may_speak_otherwise() {
    let text = told(&explained(SHOP, &["GET https://shop.example/cart/7"]));
    assert!(text.contains("it speaks http: https is what something before it has") && text.contains("cart: yes"), "{text}");
}

#[test]
fn a_key_in_a_body_needs_the_body() {
    let config = SHOP.replace("header:x-user", "json:/id");
    let without = told(&explained(&config, &["GET http://shop.example/cart/7", "-H", "Content-Length: 10"]));
    assert!(without.contains("say what they are with --body"), "{without}");
    let with = told(&explained(&config, &["GET http://shop.example/cart/7", "--body", "{\"id\": 7}"]));
    assert!(with.contains("key \"7\""), "{with}");
}

#[test]
fn wrong_questions_are_told_apart_from_wrong_configurations() {
    for (arguments, part) in [
        (&["/cart"][..], "is not a URL"),
        (&["ftp://shop.example/"], "neither http nor https"),
        (&["G T http://shop.example/"], "write a method and a URL"),
        (&["http://shop.example/", "-H", "nonsense"], "is not a header"),
        (&["http://shop.example/", "--listener", "none"], "no listener for HTTP is named `none`; there is edge"),
        (&["http://shop.example/", "--from", "nobody"], "invalid"),
    ] {
        let output = explained(SHOP, arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    let wrong = explained("[[listener]]\nlisten = 1\n", &["http://shop.example/"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("attache.toml:2:10"));
}

#[test]
fn the_admin_api_refuses_what_it_does_not_understand() {
    let rig = Rig::start(SHOP.replace("127.0.0.1:8080", "127.0.0.1:0").as_str());
    for (query, part) in [
        ("", "no url="),
        ("?url=x", "is not a URL"),
        ("?url=http%3A%2F%2Fa%2F&from=x", "not an address"),
        ("?uri=x", "unknown parameter `uri`"),
    ] {
        let answer = rig.admin("GET", &format!("/explain{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text().contains(part), "{query}: {}", answer.text());
    }
    let answer = rig.admin("GET", "/explain?url=http%3A%2F%2Fa%2Fcart%2F1&header=x-user:+ann");
    let told: Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!((&told["verdict"]["kind"], &told["way"][1]["endpoints"][0]["state"]), (&"forward".into(), &"up".into()), "{told:#}");
}
