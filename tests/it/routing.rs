//! Which route takes a request, and what it does to it.
//!
//! Through the whole proxy for what operators write; the compiled table against a plain search for
//! what they might write.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Answer, Client, Origin, Read1, Rig};

/// A proxy whose routes answer with their names.
struct Routes(Rig);

impl Routes {
    /// Each route is a name and its predicates, one line of TOML each.
    #[track_caller]
    fn new(routes: &[(&str, &str)], listener: &str) -> Self {
        let mut config = format!("[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n{listener}\n");
        for (name, predicates) in routes {
            write!(config, "[[listener.route]]\nname = \"{name}\"\n{predicates}\nrespond = {{ body = \"{name}\" }}\n").unwrap();
        }
        Self(Rig::start(&config))
    }

    #[track_caller]
    fn ask(&self, line: &str, fields: &str) -> Answer {
        let mut client = self.0.connect("web");
        client.send(format!("{line} HTTP/1.1\r\n{fields}\r\n")).unwrap();
        let Read1::Answer(answer) = client.read(line.split(' ').next().unwrap()).unwrap() else { panic!("no answer to {line}") };
        answer
    }

    /// `route` takes the request; "404" if none does.
    #[track_caller]
    fn check(&self, line: &str, fields: &str, route: &str) {
        let fields = if fields.to_ascii_lowercase().contains("host:") { fields.to_owned() } else { format!("Host: a.example\r\n{fields}") };
        let answer = self.ask(line, &fields);
        let taken = if answer.status == 404 { "404".to_owned() } else { answer.text() };
        assert_eq!(taken, route, "{line} {fields:?}");
    }
}

#[test]
fn hosts_match_whole_or_by_suffix_whatever_their_case_and_port() {
    let routes = Routes::new(
        &[
            ("exact", "host = \"shop.example\""),
            ("suffix", "host = \"*.shop.example\""),
            ("list", "host = [\"One.example\", \"*.two.example\"]"),
            ("address", "host = \"[::1]\""),
            ("deep", "host = \"*.a.b.example\""),
            ("shallow", "host = \"*.b.example\""),
        ],
        "",
    );
    for (host, route) in [
        ("shop.example", "exact"),
        ("SHOP.Example", "exact"),
        ("shop.example:8443", "exact"),
        ("shop.example.", "exact"),
        ("shop.example.:80", "exact"),
        ("a.shop.example", "suffix"),
        ("A.b.Shop.Example:1", "suffix"),
        ("a.shop.example.", "suffix"),
        ("one.example", "list"),
        ("x.one.example", "404"),
        ("x.two.example", "list"),
        ("two.example", "404"),
        ("xshop.example", "404"),
        ("shop.example.org", "404"),
        ("shop", "404"),
        ("[::1]", "address"),
        ("[::1]:80", "address"),
        ("[::2]", "404"),
        ("x.a.b.example", "deep"),
        ("a.b.example", "shallow"),
        ("x.c.b.example", "shallow"),
    ] {
        routes.check("GET /", &format!("Host: {host}\r\n"), route);
    }
    let long = format!("{}.shop.example", ["a"; 110].join("."));
    routes.check("GET /", &format!("Host: {long}\r\n"), "suffix");
}

#[test]
fn a_request_without_a_host_matches_routes_without_one() {
    let routes =
        Routes::new(&[("host", "host = [\"a.example\", \"*.a.example\"]"), ("star", "host = \"*\"\npath = \"/star\""), ("rest", "")], "");
    for (path, route) in [("/star", "star"), ("/", "rest")] {
        let mut client = routes.0.connect("web");
        client.send(format!("GET {path} HTTP/1.0\r\n\r\n")).unwrap();
        let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
        assert_eq!(answer.text(), route);
    }
}

#[test]
fn paths_match_exactly_by_tree_or_by_expression() {
    let routes = Routes::new(
        &[
            ("exact", "path = \"/exact\""),
            ("root", "path = \"/\""),
            ("tree", "path = \"/tree/*\""),
            ("regex", "path = \"~^/v[0-9]+/\""),
            ("ends", "path = \"~[.]png$\""),
            ("list", "path = [\"/one\", \"/two/*\", \"~^/three\"]"),
            ("deep", "path = \"/a/b/c/d/*\""),
            ("space", "path = \"/with%20space\""),
        ],
        "",
    );
    for (path, route) in [
        ("/exact", "exact"),
        ("/exact?a=b", "exact"),
        ("/exact/", "404"),
        ("/exactly", "404"),
        ("/Exact", "404"),
        ("/%65xact", "exact"),
        ("/", "root"),
        ("/?", "root"),
        ("//", "404"),
        ("/tree", "tree"),
        ("/tree/", "tree"),
        ("/tree/a/b?c", "tree"),
        ("/trees", "404"),
        ("/tre", "404"),
        ("/v1/x", "regex"),
        ("/v12/", "regex"),
        ("/v/", "404"),
        ("/x/v1/", "404"),
        ("/x/y.png", "ends"),
        ("/x/y.png?z", "ends"),
        ("/x/y.pngs", "404"),
        ("/one", "list"),
        ("/two", "list"),
        ("/two/x", "list"),
        ("/threesome", "list"),
        ("/a/b/c/d", "deep"),
        ("/a/b/c/d/e/f", "deep"),
        ("/a/b/c", "404"),
        ("/with%20space", "space"),
    ] {
        routes.check(&format!("GET {path}"), "", route);
    }
    routes.check("GET http://a.example/tree/x", "", "tree");
    routes.check("GET http://a.example", "", "root");
}

#[test]
fn methods_match_as_they_are_written() {
    let routes =
        Routes::new(&[("read", "method = [\"GET\", \"OPTIONS\"]"), ("post", "method = \"POST\""), ("own", "method = \"PURGE\"")], "");
    for (method, route) in
        [("GET", "read"), ("OPTIONS", "read"), ("POST", "post"), ("PURGE", "own"), ("PUT", "404"), ("get", "404"), ("GETS", "404")]
    {
        routes.check(&format!("{method} /"), "", route);
    }
    // HEAD is a method of its own, and its answer has no body to tell the route by.
    assert_eq!(routes.ask("HEAD /", "Host: a\r\n").status, 404);
    routes.check("OPTIONS *", "", "read");
}

#[test]
fn headers_queries_and_cookies_match_any_exact_or_expression() {
    let routes = Routes::new(
        &[
            ("any", "header = { X-Any = \"*\" }"),
            ("exact", "header = { x-exact = \"yes\" }"),
            ("regex", "header = { user-agent = \"~^curl/[0-9]\" }"),
            ("both", "header = { x-a = \"1\", x-b = \"2\" }"),
            ("q-any", "query = { debug = \"*\" }"),
            ("q-exact", "query = { mode = \"fast\" }"),
            ("q-regex", "query = { id = \"~^[0-9]+$\" }"),
            ("c-any", "cookie = { session = \"*\" }"),
            ("c-exact", "cookie = { plan = \"gold\" }"),
            ("c-regex", "cookie = { flag = \"~^b\" }"),
        ],
        "",
    );
    for (target, fields, route) in [
        ("/", "x-any: 1\r\n", "any"),
        ("/", "X-ANY:\r\n", "any"),
        ("/", "X-Exact: yes\r\n", "exact"),
        ("/", "X-Exact: Yes\r\n", "404"),
        ("/", "X-Exact: yes!\r\n", "404"),
        ("/", "X-Exact: no\r\nX-Exact: yes\r\n", "exact"),
        ("/", "User-Agent: curl/8\r\n", "regex"),
        ("/", "User-Agent: not curl/8\r\n", "404"),
        ("/", "X-A: 1\r\n", "404"),
        ("/", "X-A: 1\r\nX-B: 2\r\n", "both"),
        ("/?debug", "", "q-any"),
        ("/?a&debug=&b", "", "q-any"),
        ("/?xdebug=1", "", "404"),
        ("/?Debug=1", "", "404"),
        ("/?mode=fast", "", "q-exact"),
        ("/?mode=slow&mode=fast", "", "q-exact"),
        ("/?mode=fastest", "", "404"),
        ("/?id=12", "", "q-regex"),
        ("/?id=a", "", "404"),
        ("/", "Cookie: session=x\r\n", "c-any"),
        ("/", "Cookie: a=b; plan=gold; c=d\r\n", "c-exact"),
        ("/", "Cookie: a=b\r\nCookie: plan=gold\r\n", "c-exact"),
        ("/", "Cookie: plan=golden\r\n", "404"),
        ("/", "Cookie: xplan=gold\r\n", "404"),
        ("/", "Cookie: flag=bc\r\n", "c-regex"),
        ("/", "Cookie: flag=cb\r\n", "404"),
    ] {
        routes.check(&format!("GET {target}"), fields, route);
    }
}

#[test]
fn clients_match_by_network_as_far_as_their_peer_is_trusted() {
    let table = [("ten", "client = [\"10.0.0.0/8\", \"2001:db8::/32\"]"), ("home", "client = \"127.0.0.1\"")];
    let trusting = Routes::new(&table, "trust = [\"127.0.0.0/8\", \"192.168.0.0/16\"]");
    for (fields, route) in [
        ("", "home"),
        ("X-Forwarded-For: 10.1.2.3\r\n", "ten"),
        ("X-Forwarded-For: 2001:db8::1\r\n", "ten"),
        ("X-Forwarded-For: 10.1.2.3, 192.168.0.1\r\n", "ten"),
        ("X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-For: 192.168.0.1\r\n", "ten"),
        ("X-Forwarded-For: 10.1.2.3, 8.8.8.8\r\n", "404"),
        ("X-Forwarded-For: 8.8.8.8, 10.1.2.3\r\n", "ten"),
        ("X-Forwarded-For: 10.1.2.3, nonsense\r\n", "home"),
        // As proxies on a socket for both families write it.
        ("X-Forwarded-For: ::ffff:10.1.2.3\r\n", "ten"),
        ("X-Forwarded-For: 10.1.2.3, ::ffff:192.168.0.1\r\n", "ten"),
    ] {
        trusting.check("GET /", fields, route);
    }
    let wary = Routes::new(&table, "");
    wary.check("GET /", "X-Forwarded-For: 10.1.2.3\r\n", "home");
}

#[test]
fn the_first_route_in_the_file_wins() {
    let routes = Routes::new(
        &[
            ("regex", "path = \"~^/a/first\""),
            ("any-host", "path = \"/a/x\""),
            ("suffix", "host = \"*.example\"\npath = \"/a/*\"\nmethod = \"POST\""),
            ("exact-host", "host = \"a.example\"\npath = \"/a/*\""),
            ("exact-path", "host = \"a.example\"\npath = \"/a/y\""),
            ("tree", "path = \"/a/*\""),
            ("late", "host = \"a.example\"\npath = \"/b\"\nheader = { x = \"1\" }"),
            ("all", "path = \"*\"\nmethod = [\"GET\", \"PUT\"]"),
            ("never", "host = \"a.example\"\npath = \"/b\""),
        ],
        "",
    );
    for (line, fields, route) in [
        ("GET /a/first", "", "regex"),
        ("GET /a/x", "", "any-host"),
        ("POST /a/z", "", "suffix"),
        ("GET /a/z", "", "exact-host"),
        ("GET /a/y", "", "exact-host"),
        ("GET /a/y", "Host: b.example\r\n", "tree"),
        ("POST /a/y", "Host: b\r\n", "tree"),
        ("GET /b", "X: 1\r\n", "late"),
        ("GET /b", "", "all"),
        ("POST /b", "", "never"),
        ("POST /c", "", "404"),
    ] {
        routes.check(line, fields, route);
    }
}

#[test]
fn a_listeners_service_takes_what_no_route_does() {
    let origin = Origin::ok("service");
    let routes = Routes::new(&[("a", "path = \"/a\"")], &format!("service = \"{}\"", origin.address));
    routes.check("GET /a", "", "a");
    routes.check("GET /b", "", "service");
    let bare = Routes::new(&[("a", "path = \"/a\"")], "");
    let mut client = bare.0.connect("web");
    for _ in 0..2 {
        let answer = client.request("GET", "/b").unwrap();
        assert_eq!((answer.status, answer.header("connection")), (404, None));
    }
    client.send("HEAD /b HTTP/1.1\r\nHost: a\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(matches!(client.read("HEAD").unwrap(), Read1::Answer(answer) if answer.status == 404));
    assert!(matches!(client.read("GET").unwrap(), Read1::Answer(answer) if answer.text() == "a"));
}

/// A proxy with one route before `origin`.
fn with_route(origin: &Origin, route: &str) -> Rig {
    Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\nname = \"it\"\nservice = \"{}\"\n{route}\n",
        origin.address
    ))
}

#[track_caller]
fn send(rig: &Rig, line: &str, fields: &str) -> Answer {
    let mut client = rig.connect("web");
    client.send(format!("{line} HTTP/1.1\r\n{fields}\r\n")).unwrap();
    match client.read(line.split(' ').next().unwrap()).unwrap() {
        Read1::Answer(answer) => answer,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn a_rewrite_changes_what_the_endpoint_sees() {
    let origin = Origin::ok("");
    let check = |route: &str, target: &str, host: &str, line: &str, new_host: &str| {
        let rig = with_route(&origin, route);
        assert_eq!(send(&rig, &format!("GET {target}"), &format!("Host: {host}\r\n")).status, 200, "{route}");
        let seen = origin.seen().last().unwrap().clone();
        assert_eq!((seen.line(), seen.headers("host")), (format!("GET {line} HTTP/1.1").as_str(), vec![new_host]), "{route}");
        assert_eq!(seen.headers("x-forwarded-host"), [host]);
    };
    let tree = "path = \"/v1/*\"\nrewrite = { path = \"/v2/*\" }";
    check(tree, "/v1/a/b?c=d", "a.example", "/v2/a/b?c=d", "a.example");
    check(tree, "/v1/a%20b/%41", "a.example", "/v2/a%20b/%41", "a.example");
    check(tree, "/%761/x", "a.example", "/v2/x", "a.example");
    check(tree, "/v1/", "a.example", "/v2/", "a.example");
    check(tree, "/v1", "a.example", "/v2", "a.example");
    check(tree, "/v1?q", "a.example", "/v2?q", "a.example");
    check("path = \"/v1/*\"\nrewrite = { path = \"/*\" }", "/v1/a", "a", "/a", "a");
    check("path = \"/v1/*\"\nrewrite = { path = \"/*\" }", "/v1", "a", "/", "a");
    check("rewrite = { path = \"/base/*\" }", "/a/b", "a", "/base/a/b", "a");
    check("path = \"/a\"\nrewrite = { path = \"/fixed\" }", "/a?b", "a", "/fixed?b", "a");
    check("rewrite = { host = \"inner.example\" }", "/", "a.example:8080", "/", "inner.example");
    let hosts = "host = \"*.shop.example\"\nrewrite = { host = \"*.inner.example\" }";
    check(hosts, "/", "a.b.shop.example", "/", "a.b.inner.example");
    check(hosts, "/", "a.SHOP.example:80", "/", "a.inner.example");
    check(hosts, "/", "a.shop.example.", "/", "a.inner.example");
}

#[test]
fn headers_are_set_added_and_removed_on_both_ways() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nServer: secret\r\nX-Old: 1\r\nX-Old: 2\r\nX-More: 1\r\nX-Gone: 1\r\nDate: then\r\nContent-Length: 2\r\n\r\nok",
    );
    let rig = with_route(
        &origin,
        concat!(
            "request_headers = { set = { x-old = \"new\", X-Who = \"{client_ip} {host} {authority} {path} {uri} {query} {method} {scheme} {route} {listener}\", ",
            "x-id = \"{request_id}\", x-braces = \"{{}}\", x-from = \"{header.x-from}!\" }, add = { x-more = [\"2\", \"3\"] }, remove = [\"cookie\", \"X-GONE\", \"x-forwarded-for\", \"Via\"] }\n",
            "response_headers = { set = { x-old = \"new {status-free}\", x-path = \"{path}\", date = \"now\" }, add = { x-more = \"2\" }, remove = [\"server\", \"x-gone\"] }",
        )
        .replace(" {status-free}", "")
        .as_str(),
    );
    let answer =
        send(&rig, "GET /p%41?q=1", "Host: a.example:81\r\nX-Old: 1\r\nx-OLD: 2\r\nX-More: 1\r\nCookie: a\r\nX-Gone: 1\r\nX-From: me\r\n");
    let seen = origin.seen()[0].clone();
    assert_eq!((seen.headers("x-old"), seen.headers("x-more")), (vec!["new"], vec!["1", "2", "3"]));
    assert_eq!(seen.header("x-who"), Some("127.0.0.1 a.example a.example:81 /p%41 /p%41?q=1 q=1 GET http it web"));
    assert_eq!(
        (seen.header("x-id"), seen.header("x-braces"), seen.header("x-from")),
        (seen.header("x-request-id"), Some("{}"), Some("me!"))
    );
    for gone in ["cookie", "x-gone", "x-forwarded-for", "via"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert_eq!((answer.headers("x-old"), answer.headers("x-more"), answer.headers("date")), (vec!["new"], vec!["1", "2"], vec!["now"]));
    assert_eq!((answer.header("server"), answer.header("x-gone"), answer.header("x-path")), (None, None, Some("/p%41")));
}

#[test]
fn edits_hold_for_trailers_too() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Gone: 1\r\nServer: secret\r\n\r\n",
    );
    let rig = with_route(
        &origin,
        concat!(
            "request_headers = { set = { x-user = \"{tls.client.subject}\" }, add = { x-more = \"2\" }, remove = [\"x-gone\"] }\n",
            "response_headers = { remove = [\"server\", \"x-gone\"] }",
        ),
    );
    let mut client = rig.connect("web");
    let trailers = "X-USER: CN=admin\r\nX_User: CN=admin\r\nX-Sum: 1\r\nx-more: 1\r\nX-Gone: 1\r\n";
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{trailers}\r\n")).unwrap();
    let Read1::Answer(answer) = client.read("POST").unwrap() else { panic!("no answer") };
    assert_eq!((answer.text().as_str(), answer.trailers.as_str()), ("ok", "X-Sum: 1\r\n"));
    let seen = origin.seen()[0].clone();
    assert_eq!(String::from_utf8_lossy(&seen.raw_body), "2\r\nhi\r\n0\r\nX-Sum: 1\r\nx-more: 1\r\n\r\n");
}

#[test]
fn a_redirect_by_path_stays_on_its_host() {
    let rig = Rig::start(concat!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n",
        "[[listener.route]]\nhost = \"path.example\"\nredirect = { to = \"{path}/\" }\n",
        "[[listener.route]]\nhost = \"uri.example\"\nredirect = { to = \"{uri}\" }\n",
        "[[listener.route]]\nhost = \"slash.example\"\nredirect = { to = \"/{header.x-to}\" }\n",
        "[[listener.route]]\nhost = \"cdn.example\"\nredirect = { to = \"//cdn.example{uri}\" }\n",
        "[[listener.route]]\nredirect = { to = \"https://{host}{uri}\" }\n",
    ));
    let location = |host: &str, target: &str| {
        let answer = send(&rig, &format!("GET {target}"), &format!("Host: {host}\r\nX-To: /evil.example\r\n"));
        answer.header("location").unwrap().to_owned()
    };
    assert_eq!(location("path.example", "/a"), "/a/");
    // RFC 3986 section 4.2: two slashes begin a host.
    assert_eq!(location("path.example", "//evil.example"), "/.//evil.example/");
    assert_eq!(location("uri.example", "///evil.example?a"), "/.///evil.example?a");
    assert_eq!(location("slash.example", "/"), "/.//evil.example");
    assert_eq!(location("cdn.example", "//a"), "//cdn.example//a");
    assert_eq!(location("a.example", "//b"), "https://a.example//b");
}

#[test]
fn redirects_point_where_they_say() {
    let rig = Rig::start(concat!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n",
        "[[listener.route]]\npath = \"/old/*\"\nredirect = { to = \"/new\", status = 302 }\nresponse_headers = { set = { x-a = \"1\" } }\n",
        "[[listener.route]]\nredirect = { to = \"https://{host}{uri}\" }\n",
    ));
    let answer = send(&rig, "GET /old/x", "Host: a\r\n");
    assert_eq!(
        (answer.status, answer.headers("location"), answer.header("x-a"), answer.text().as_str()),
        (302, vec!["/new"], Some("1"), "")
    );
    let answer = send(&rig, "GET /a%20b?c=d", "Host: a.example:80\r\n");
    assert_eq!((answer.status, answer.headers("location")), (308, vec!["https://a.example/a%20b?c=d"]));
    assert_eq!(answer.header("content-length"), Some("0"));
    let mut client = rig.connect("web");
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nokHEAD /y HTTP/1.1\r\nHost: a\r\n\r\nGET /z HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    for (method, location) in [("POST", "https://a/x"), ("HEAD", "https://a/y"), ("GET", "https://a/z")] {
        assert!(matches!(client.read(method).unwrap(), Read1::Answer(answer) if answer.header("location") == Some(location)));
    }
}

#[test]
fn fixed_answers_are_answers() {
    let rig = Rig::start(concat!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n",
        "[[listener.route]]\npath = \"/204\"\nrespond = { status = 204 }\n",
        "[[listener.route]]\npath = \"/304\"\nrespond = { status = 304 }\n",
        "[[listener.route]]\npath = \"/empty\"\nrespond = {}\n",
        "[[listener.route]]\nrespond = { status = 418, body = \"short\", headers = { content-type = \"text/plain\", x-path = \"{path}\" } }\n",
        "response_headers = { set = { x-a = \"1\" }, remove = [\"x-b\"] }\n",
    ));
    let mut client = rig.connect("web");
    for method in ["GET", "HEAD", "POST"] {
        client.send(format!("{method} /x HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
        let Read1::Answer(answer) = client.read(method).unwrap() else { panic!("no answer") };
        assert_eq!((answer.status, answer.header("content-length")), (418, Some("5")));
        assert_eq!(answer.text(), if method == "HEAD" { "" } else { "short" });
        assert_eq!(
            (answer.header("content-type"), answer.header("x-path"), answer.header("x-a")),
            (Some("text/plain"), Some("/x"), Some("1"))
        );
        assert_eq!(answer.headers("date").len(), 1);
    }
    for (path, status, length) in [("/204", 204, None), ("/304", 304, None), ("/empty", 200, Some("0"))] {
        let answer = client.request("GET", path).unwrap();
        assert_eq!((answer.status, answer.header("content-length"), answer.header("transfer-encoding")), (status, length, None));
    }
}

#[test]
fn ten_thousand_routes_are_routes() {
    let mut config = "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n".to_owned();
    for number in 0..10_000 {
        let predicate = match number % 4 {
            0 => format!("host = \"h{number}.example\""),
            1 => format!("host = \"*.h{number}.example\"\npath = \"/x/*\""),
            2 => format!("path = \"/p/{number}\""),
            _ => format!("path = \"/t/{number}/*\""),
        };
        write!(config, "[[listener.route]]\n{predicate}\nrespond = {{ body = \"{number}\" }}\n").unwrap();
    }
    let rig = Rig::start(&config);
    let mut client = rig.connect("web");
    let mut check = |host: &str, path: &str, body: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
        let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
        assert_eq!(if answer.status == 404 { "404".to_owned() } else { answer.text() }, body, "{host} {path}");
    };
    check("h0.example", "/", "0");
    check("h9996.example", "/", "9996");
    check("a.h9997.example", "/x/y", "9997");
    check("a.h9997.example", "/", "404");
    check("a", "/p/9998", "9998");
    check("a", "/t/9999/z", "9999");
    check("a", "/t/10000", "404");
}

#[test]
fn the_table_finds_what_a_plain_search_finds() {
    let config = Config { cases: 3000, failure_persistence: None, ..Config::default() };
    let found = std::cell::Cell::new(0);
    let outcome = TestRunner::new(config).run(
        &(prop::collection::vec(a_route(), 1..12), prop::collection::vec(a_head(), 1..8)),
        |(routes, heads)| {
            found.set(found.get() + model::check(&routes, &heads));
            Ok(())
        },
    );
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert!(found.get() > 3000, "too few requests matched anything: {}", found.get());
}

fn a_route() -> impl Strategy<Value = model::Route> {
    let host = select(&["*", "a", "b", "x.a", "*.a", "*.x.a", "*.b"][..]);
    let path = select(&["*", "/", "/a", "/a/*", "/a/b", "/a/b/*", "/b/*", "~^/a", "~b$", "~/"][..]);
    let method = select(&["GET", "POST"][..]);
    (prop::collection::vec(host, 0..3), prop::collection::vec(path, 0..3), prop::option::of(method), any::<bool>())
        .prop_map(|(hosts, paths, method, header)| model::Route { hosts, paths, method, header })
}

fn a_head() -> impl Strategy<Value = model::Head> {
    let host = select(&["a", "A", "b", "x.a", "y.a", "z.x.a", "X.b.", "", "aa", "c", "x.A."][..]);
    let path = select(&["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b", "/b/a", "/c/b", "//", "/a//b", "*"][..]);
    (host, path, select(&["GET", "POST", "PUT"][..]), any::<bool>()).prop_map(|(host, path, method, header)| model::Head {
        host,
        path,
        method,
        header,
    })
}

/// Routes as anybody would search them: one by one, in order.
mod model {
    use attache::proto::http1::{Limits, Progress, RequestHead};
    use attache::route::{Head as RouteHead, Headers, HostPattern, Matchers, Method, PathPattern, Table, TextPattern};
    use attache::value::{Place, SourceId, Spanned};

    #[derive(Clone, Debug)]
    pub struct Route {
        pub hosts: Vec<&'static str>,
        pub paths: Vec<&'static str>,
        pub method: Option<&'static str>,
        pub header: bool,
    }

    #[derive(Clone, Debug)]
    pub struct Head {
        pub host: &'static str,
        pub path: &'static str,
        pub method: &'static str,
        pub header: bool,
    }

    impl Route {
        fn takes(&self, head: &Head) -> bool {
            let host = head.host.to_ascii_lowercase();
            let host = host.strip_suffix('.').unwrap_or(&host);
            let fits_host = |pattern: &&str| match pattern.strip_prefix("*.") {
                Some(suffix) => host.strip_suffix(suffix).is_some_and(|before| before.len() > 1 && before.ends_with('.')),
                None => *pattern == "*" || *pattern == host,
            };
            let fits_path = |pattern: &&str| match (pattern.strip_prefix('~'), pattern.strip_suffix("/*")) {
                (Some(regex), _) => regex::Regex::new(regex).unwrap().is_match(head.path),
                (None, Some(tree)) => head.path == tree || head.path.starts_with(&format!("{tree}/")),
                (None, None) => *pattern == "*" || *pattern == head.path,
            };
            (self.hosts.is_empty() || self.hosts.iter().any(fits_host))
                && (self.paths.is_empty() || self.paths.iter().any(fits_path))
                && self.method.is_none_or(|method| method == head.method)
                && (!self.header || head.header)
        }

        fn matchers(&self) -> Matchers {
            let hosts = self.hosts.iter().map(|host| match host.strip_prefix('*') {
                Some("") => HostPattern::Any,
                Some(suffix) => HostPattern::Suffix(suffix.to_owned()),
                None => HostPattern::Exact((*host).to_owned()),
            });
            let paths = self.paths.iter().map(|path| match (path.strip_prefix('~'), path.strip_suffix("/*")) {
                (Some(regex), _) => PathPattern::Regex(regex::bytes::Regex::new(regex).unwrap()),
                (None, Some(tree)) => PathPattern::Tree(tree.to_owned()),
                (None, None) if *path == "*" => PathPattern::Any,
                (None, None) => PathPattern::Exact((*path).to_owned()),
            });
            let mut matchers = Matchers { host: hosts.collect(), path: paths.collect(), ..Matchers::default() };
            matchers.method.extend(self.method.map(|method| Method(method.to_owned())));
            if self.header {
                matchers.header.insert(Spanned::new("x-h".to_owned(), Place::new(SourceId(0), 0..0)), TextPattern::Exact("1".to_owned()));
            }
            matchers
        }
    }

    /// How many of `heads` matched, with both searches agreeing on all.
    pub fn check(routes: &[Route], heads: &[Head]) -> usize {
        let table = Table::compile(routes.iter().map(Route::matchers)).unwrap();
        let mut matched = 0;
        for head in heads {
            let bytes = format!("GET / HTTP/1.1\r\nX-H: {}\r\n\r\n", u8::from(head.header));
            let mut parsed = RequestHead::new();
            let limits = Limits { header_bytes: 1000, headers: 10, uri_bytes: 100 };
            assert_eq!(parsed.parse(bytes.as_bytes(), &limits), Ok(Progress::Complete));
            let found = table.find(&RouteHead {
                method: head.method.as_bytes(),
                scheme: "http",
                authority: head.host.as_bytes(),
                host: head.host.as_bytes(),
                path: head.path.as_bytes(),
                query: None,
                compare_path: head.path.as_bytes(),
                headers: Headers { bytes: bytes.as_bytes(), fields: &parsed.fields },
                client: None,
                tls: None,
                request_id: b"",
                listener: "",
            });
            let wanted = routes.iter().position(|route| route.takes(head));
            assert_eq!(found.map(|found| found.route), wanted, "{head:?} in {routes:#?}");
            matched += usize::from(wanted.is_some());
        }
        matched
    }
}

#[test]
fn tls_facts_fill_templates() {
    let origin = Origin::ok("");
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\ntls = {{ self_signed = [\"localhost\"] }}\n[[listener.route]]\nservice = \"{}\"\n\
         request_headers = {{ set = {{ x-tls = \"{{tls.sni}} {{tls.version}} {{scheme}} [{{tls.client.subject}}]\" }} }}\n",
        origin.address
    ));
    Client::tls(rig.address("web"), "localhost").unwrap().ask("GET", "/").unwrap();
    assert_eq!(origin.seen()[0].header("x-tls"), Some("localhost TLSv1.3 https []"));
}
