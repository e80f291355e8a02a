//! Wrong configurations, as somebody who writes a first one makes them: each mistake is said once, where it is, with a remedy.
//!
//! Syntax and merging are tested beside the loader; here whole files go through the binary.

use crate::support::binary;

/// Runs `check` on a file and compares what it says: `LINE:COLUMN: message` and, after an arrow, the remedy.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.toml"), text).unwrap();
    let output = binary().current_dir(directory.path()).args(["check", "a.toml"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let mut found: Vec<String> = Vec::new();
    for line in said.lines() {
        if let Some(error) = line.strip_prefix("a.toml:") {
            found.push(error.replace(" error:", ""));
        } else if let (Some(help), Some(last)) = (line.strip_prefix("help: "), found.last_mut()) {
            last.push_str(" -> ");
            last.push_str(help);
        }
    }
    assert_eq!(found, expected, "\n{said}");
    assert_eq!(output.status.code(), Some(i32::from(!expected.is_empty())), "\n{said}");
}

/// What follows `[[listener]]` and its address, which are the first two lines.
#[track_caller]
fn check_listener(rest: &str, expected: &[&str]) {
    check(&format!("[[listener]]\nlisten = \"127.0.0.1:0\"\n{rest}"), expected);
}

/// A pool's keys, from line 5.
#[track_caller]
fn check_pool(keys: &str, expected: &[&str]) {
    check_listener(&format!("service = \"app\"\n[service.app]\n{keys}"), expected);
}

/// A route's keys, from line 4.
#[track_caller]
fn check_route(keys: &str, expected: &[&str]) {
    check_listener(&format!("[[listener.route]]\n{keys}"), expected);
}

/// The default of `uri_bytes` was taken for a wrong one that stood on line 1.
#[test]
fn a_small_head_needs_no_smaller_uri_written() {
    check_listener("service = \"a:1\"\n[listener.limits]\nheader_bytes = \"4KiB\"\n", &[]);
    check_listener(
        "service = \"a:1\"\n[listener.limits]\nheader_bytes = \"4KiB\"\nuri_bytes = \"5KiB\"\n",
        &["6:13: `5KiB` is out of range -> \"1B\" to \"4KiB\", which is `header_bytes`"],
    );
}

/// The first two hid the others until they were mended.
#[test]
fn one_mistake_of_a_listener_hides_no_other() {
    check_listener(
        "servce = \"a:1\"\n\
         tls = { cert = \"no.crt\", key = \"no.key\" }\n\
         limits = { connections = 0, headers = 1001 }\n\
         [[listener.route]]\n\
         respond = { status = 99, headers = { date = \"x\" } }\n\
         request_headers = { remove = [\"te\"], set = { \"x y\" = \"{nope\" } }\n",
        &[
            "3:1: unknown key `servce` -> did you mean `service`?",
            "4:16: cannot read `no.crt`: No such file or directory (os error 2) -> \
             relative paths start from the directory of the file that names them",
            "4:32: cannot read `no.key`: No such file or directory (os error 2) -> \
             relative paths start from the directory of the file that names them",
            "5:26: 0 is out of range -> 1 to 4294967295",
            "5:39: 1001 is out of range -> 1 to 1000",
            "7:22: 99 is out of range -> 200 to 599",
            "7:38: `date` is written by attache itself -> remove it",
            "8:31: `te` belongs to the connection and cannot be edited -> remove it; attache writes it as the message needs",
            "8:46: `x y` is not a header's name -> use letters, digits and `-`",
            "8:54: `{` without `}`; write `{{` for a brace -> \
             variables stand in braces, such as {host}; {{ and }} stand for braces",
        ],
    );
}

/// Every request was answered with 408 or 504.
#[test]
fn no_timeout_is_zero_but_a_wait_at_the_end_may_be() {
    const REFUSED: &str = "a timeout of nothing lets nothing happen -> write a longer one, or remove the key for the default";
    for key in ["handshake", "header", "idle", "body", "write"] {
        let place = format!("4:{}: {REFUSED}", 17 + key.len());
        check_listener(&format!("service = \"a:1\"\ntimeouts = {{ {key} = \"0s\" }}\n"), &[&place]);
    }
    check_pool("endpoints = [\"a:1\"]\ntimeouts = { connect = \"0ms\" }\n", &[&format!("6:24: {REFUSED}")]);
    check_route("service = \"a:1\"\ntimeout = \"0s\"\n", &[&format!("5:11: {REFUSED}")]);
    check("[process]\ndrain = \"0s\"\nlame_duck = \"0s\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"a:1\"\n", &[]);
    check_route("service = \"a:1\"\ntimeout = \"9999h\"\n", &["5:11: `9999h` is longer than a year -> write at most \"365d\""]);
}

#[test]
fn keys_of_later_versions_are_told_from_misspelt_ones() {
    for protocol in ["redis", "memcached"] {
        check_listener(
            &format!("service = \"a:1\"\nprotocol = \"{protocol}\"\n"),
            &[&format!("4:12: \"{protocol}\" is not supported by this version -> write \"http\" or \"tcp\"")],
        );
    }
}

/// A TCP listener's keys, from line 4.
#[track_caller]
fn check_stream(rest: &str, expected: &[&str]) {
    check_listener(&format!("protocol = \"tcp\"\n{rest}"), expected);
}

#[test]
fn streams_have_no_requests() {
    let about = |place: &str, key: &str, help: &str| {
        format!("{place}: `{key}` is about HTTP requests; a listener with protocol = \"tcp\" has none -> {help}")
    };
    check_stream(
        "service = \"a:1\"\npaths = \"raw\"\ntrust = [\"10.0.0.0/8\"]\nlimits = { headers = 5, body = \"1KiB\" }\ntimeouts = { header = \"1s\" }\n",
        &[
            &about("5:1", "paths", "remove it"),
            &about("6:1", "trust", "remove it"),
            &about("7:12", "headers", "remove it"),
            &about("7:25", "body", "remove it"),
            &about("8:14", "header", "remove it"),
        ],
    );
    let told_apart = "remove it; streams are told apart by `sni` and `client`";
    check_stream(
        "[[listener.route]]\nsni = \"a.example\"\npath = \"/x\"\ntimeout = \"1s\"\nrequest_headers = { remove = [\"x\"] }\nservice = \"a:1\"\n\
         [[listener.route]]\nhost = \"a.example\"\nservice = \"a:1\"\n",
        &[
            &about("6:1", "path", told_apart),
            &about("7:1", "timeout", told_apart),
            &about("8:1", "request_headers", told_apart),
            &about("11:1", "host", "write sni = […]"),
        ],
    );
    check_stream(
        "[[listener.route]]\nrespond = { body = \"no\" }\n",
        &[&about("5:1", "respond", "write service = \"10.0.0.1:5432\", or the name of a pool")],
    );
}

#[test]
fn streams_go_to_pools_only() {
    let help = "name a pool, or an address such as \"10.0.0.1:5432\"";
    let says = |place: &str, name: &str, kind: &str| {
        format!("{place}: `{name}` is {kind}, and a listener with protocol = \"tcp\" has no requests to answer -> {help}")
    };
    check_stream(
        "service = \"no\"\n[[listener.route]]\nsni = \"a.example\"\nservice = \"away\"\n\
         [service.no.respond]\nbody = \"no\"\n[service.away.redirect]\nto = \"https://a.example\"\n",
        &[&says("4:11", "no", "an answer"), &says("7:11", "away", "a redirect")],
    );
}

#[test]
fn server_names_are_names_and_of_streams() {
    check_stream(
        "[[listener.route]]\nsni = [\"10.0.0.1\", \"[::1]\", \"*\"]\nservice = \"a:1\"\n[[listener.route]]\nsni = []\nservice = \"a:1\"\n",
        &[
            "5:8: `10.0.0.1` is an address, which TLS never asks for as a name -> write a name",
            "5:20: `[::1]` is an address, which TLS never asks for as a name -> write a name",
            "5:29: `*` names nobody -> leave `sni` out to match every client, with or without a name",
            "8:7: `sni` is empty, so the route could never match -> remove the key to match any",
        ],
    );
    check_route(
        "sni = \"a.example\"\nservice = \"a:1\"\n",
        &["4:1: `sni` is for listeners with protocol = \"tcp\"; this one speaks HTTP, whose requests name their host -> write host = […]"],
    );
    check_pool("endpoints = [\"a:1\"]\nsend_proxy = \"v1\"\n", &["6:14: `v1` is not a way to send PROXY headers -> did you mean \"v2\"?"]);
}

#[test]
fn a_misspelt_key_is_not_missing_as_well() {
    check_pool("endpoint = [\"a:1\"]\n", &["5:1: unknown key `endpoint` -> did you mean `endpoints`?"]);
    check_pool("", &["4:1: missing key `endpoints` -> write endpoints = … here"]);
    check_listener("service = \"app\"\n[services.app]\n", &["4:2: unknown key `services` -> did you mean `service`?"]);
    check_listener(
        "service = \"app\"\n[service]\nendpoints = [\"a:1\"]\n",
        &["5:1: this stands in [service], which has no name -> every service has a name: [service.NAME]"],
    );
}

#[test]
fn a_value_of_another_kind_has_a_remedy() {
    check(
        "[[listener]]\nlisten = 8080\nservice = \"a:1\"\n",
        &["2:10: expected a string, found a number -> put it between quotes: \"8080\""],
    );
    check(
        "[process]\nworkers = \"2\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"a:1\"\n",
        &["2:11: expected a whole number, found a string -> write digits alone, without quotes or a decimal point"],
    );
    check(
        "[log]\nlevel = \"INFO\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"a:1\"\n",
        &["2:9: `INFO` is not a log level -> did you mean \"info\"?"],
    );
}

#[test]
fn addresses_and_hosts_say_what_they_lack() {
    const LISTEN: &str = "write \"0.0.0.0:8443\", \":80\", \"[::]:80\" or \"unix:/path\"";
    for (address, problem) in [
        ("", "an address cannot be empty"),
        ("8080", "`8080` is a port without a host"),
        ("[::1]", "`[::1]` has no port"),
        ("http://0.0.0.0:80", "`http://0.0.0.0:80` has a scheme; an address to listen on has none"),
        ("app:80", "`app` is a name; listen on an IP address"),
    ] {
        let text = format!("[[listener]]\nlisten = \"{address}\"\nservice = \"a:1\"\n");
        check(&text, &[&format!("2:10: {problem} -> {LISTEN}")]);
    }
    check_route(
        "host = [\"https://a.example\", \"a.example:443\", \"::1\"]\nservice = \"a:1\"\n",
        &[
            "4:9: `https://a.example` has a scheme; routes match the host alone -> write \"shop.example\" or \"*.shop.example\"",
            "4:30: `a.example:443` has a port; routes match the host alone -> write \"shop.example\" or \"*.shop.example\"",
            "4:47: `::1` is an IPv6 address without its brackets -> write \"shop.example\" or \"*.shop.example\"",
        ],
    );
}

#[test]
fn a_name_is_a_line_of_text() {
    const HELP: &str = "write a short word, or remove the key for the default";
    check_listener("name = \"\"\nservice = \"a:1\"\n", &[&format!("3:8: a name cannot be empty -> {HELP}")]);
    check_listener("name = \"a\\n\"\nservice = \"a:1\"\n", &[&format!("3:8: a name cannot hold control characters -> {HELP}")]);
}

/// Both were written, one after the other.
#[test]
fn a_header_is_set_once_whatever_its_case() {
    check_route(
        "service = \"a:1\"\nresponse_headers = { set = { x-a = \"1\", X-A = \"2\" } }\n",
        &["5:41: `X-A` is set twice -> keep one of them"],
    );
}

/// Five messages told of what followed the bracket, and one of these was to quote a key.
#[test]
fn one_slip_of_syntax_is_one_mistake() {
    check("[[listener]]\nlisten = [\":0\"\nservice = \"a:1\"\n", &["3:16: unclosed array, expected `]` -> close the list with `]`"]);
    check(
        "listen: \":0\"\n",
        &["1:7: invalid unquoted key, expected letters, numbers, `-`, `_` -> write `key = value`; this is TOML, not YAML"],
    );
    check("; note\n", &["1:1: invalid unquoted key, expected letters, numbers, `-`, `_` -> a comment begins with `#`"]);
}

/// Binding would have said it, but `check` binds nothing.
#[test]
fn the_path_of_a_unix_socket_fits_the_system() {
    let path = |length: usize| format!("[[listener]]\nservice = \"a:1\"\nlisten = \"unix:/{}\"\n", "s".repeat(length - 1));
    check(&path(107), &[]);
    check(
        &path(108),
        &["3:10: a unix socket's path has at most 107 bytes, this has 108 -> choose a shorter one, such as \"unix:/run/attache/web.sock\""],
    );
}

#[test]
fn tls_to_endpoints_says_what_it_needs() {
    const NAME: &str = "write the name in its certificate: server_name = \"app.internal\"; an IP address, if that is what it names";
    let required =
        |address: &str| format!("6:7: `server_name` is required: `{address}` is no name that a certificate could be verified by -> {NAME}");
    for address in ["10.0.0.1:443", "https://10.0.0.1", "[::1]:443", "unix:/run/app.sock"] {
        let shown = address.replace("https://10.0.0.1", "10.0.0.1:443");
        check_pool(&format!("endpoints = [\"a:1\", \"{address}\"]\ntls = {{}}\n"), &[&required(&shown)]);
    }
    for name in ["app.internal:443", "", "*.internal", "a b"] {
        let expected = format!(
            "6:23: `{name}` is neither a host name nor an IP address -> write one name in the endpoint's certificate, such as \"app.internal\""
        );
        check_pool(&format!("endpoints = [\"10.0.0.1:1\"]\ntls = {{ server_name = \"{name}\" }}\n"), &[&expected]);
    }
    check_pool(
        "endpoints = [\"a:1\"]\ntls = { cert = \"c.crt\" }\n",
        &["6:16: `cert` without `key` -> name the certificate's private key: key = \"tls.key\""],
    );
    check_pool(
        "endpoints = [\"a:1\"]\ntls = { key = \"c.key\", sni = \"a\" }\n",
        &["6:24: unknown key `sni` -> known keys here: `ca`, `server_name`, `cert`, `key`, `insecure`"],
    );
    check_pool(
        "endpoints = [\"a:1\"]\ntls = { ca = \"ca.crt\", insecure = true }\n",
        &["6:35: `insecure = true` beside `ca`: nothing would be verified -> keep one of the two"],
    );
    check_pool(
        "endpoints = [\"a:1\"]\ntls = { ca = \"ca.crt\" }\n",
        &["6:14: cannot read `ca.crt`: No such file or directory (os error 2) -> \
           relative paths start from the directory of the file that names them"],
    );
}

#[test]
fn a_scheme_is_not_forgotten_beside_https() {
    check_pool(
        "endpoints = [\"https://a:1\", \"b:1\", \"http://c:1\"]\n",
        &["5:29: is TLS meant for `b:1`? Another endpoint has `https://` -> write https:// or http:// before it"],
    );
    check_pool(
        "endpoints = [\"http://a:1\"]\ntls = {}\n",
        &["5:14: `http://` in a pool with `tls` -> write https://, or give endpoints without TLS a pool of their own"],
    );
    check_pool(
        "endpoints = [\"http://a:1\", \"b\"]\n",
        &["5:28: `b` has no port -> write \"10.0.0.1:8080\", \"app:8080\", \"https://app.example\" or \"unix:/run/app.sock\""],
    );
    check_listener("service = \"https://a:0\"\n", &["3:11: nothing answers on port 0 -> write the port that the endpoint listens on"]);
}

#[test]
fn a_place_to_discover_endpoints_is_one_and_whole() {
    let nowhere = "write dns = \"app.default.svc:8080\", srv = \"_http._tcp.app.default.svc\" or file = \"endpoints.toml\"";
    check_pool("discover = {}\n", &[&format!("5:12: this names nowhere to look -> {nowhere}")]);
    check_pool(
        "discover = { dns = \"a:1\", srv = \"b\" }\n",
        &["5:27: this has one place to look, and here are `dns` and `srv` -> \
           keep one of them, or write a list: discover = [{ … }, { … }]"],
    );
    check_pool("discover = [{ dns = \"a:1\" }, { srv = \"_http._tcp.b.\", every = \"5s\" }]\nendpoints = []\n", &[]);
    check_pool("discover = { dsn = \"a:1\" }\n", &["5:14: unknown key `dsn` -> did you mean `dns`?"]);
    check_pool(
        "discover = { file = \"no.toml\" }\n",
        &[
            "5:21: cannot read `no.toml`: No such file or directory (os error 2) -> check the path; a relative one starts from the file that names it",
        ],
    );
    check_pool(
        "discover = { file = \"a.toml\" }\n",
        &["5:21: this is the file that names it -> list the endpoints in a file of their own"],
    );
    check_pool(
        "discover = { file = \"a.toml\", every = \"5s\" }\n",
        &[
            "5:21: this is the file that names it -> list the endpoints in a file of their own",
            "5:39: `every` is about DNS; a file is read when it changes -> remove it",
        ],
    );
}

#[test]
fn what_dns_is_asked_for_is_a_name() {
    let dns = "write a name and a port, such as \"app.default.svc:8080\"";
    check_pool(
        "discover = { dns = \"10.0.0.1:80\" }\n",
        &["5:20: `10.0.0.1:80` is no name that DNS could be asked for -> write it as an endpoint: endpoints = [\"10.0.0.1:80\"]"],
    );
    check_pool("discover = { dns = \"app\" }\n", &[&format!("5:20: `app` has no port -> {dns}")]);
    check_pool("discover = { dns = \"app.:80\" }\n", &[]);
    check_pool("discover = { dns = \"app:0\" }\n", &["5:20: nothing answers on port 0 -> write the port that the endpoints listen on"]);
    check_pool(
        "discover = { srv = \"app:80\" }\n",
        &["5:20: `app:80` is not a name -> write the name of SRV records alone, such as \"_http._tcp.app.default.svc\""],
    );
    check_pool(
        "discover = { srv = \"https://app\" }\n",
        &["5:20: `https://app` has a scheme; SRV records have none -> for TLS write tls = {} beside `discover`"],
    );
    check_pool(
        "discover = { dns = \"a:1\", every = \"500ms\" }\n",
        &["5:35: nobody is asked more than once a second -> write \"1s\" or more, or \"ttl\""],
    );
    check_pool(
        "discover = { dns = \"a:1\", servers = [\"b:53\", \"::1\", \"10.0.0.1:5353\"] }\n",
        &["5:38: `b:53` is not the address of a name server -> \
         write an IP address, perhaps with a port: \"10.0.0.10\", \"10.0.0.10:53\", \"[::1]:53\""],
    );
}

#[test]
fn a_scheme_is_not_forgotten_beside_what_is_discovered() {
    check_pool(
        "discover = { dns = \"https://a\" }\nendpoints = [\"b:1\"]\n",
        &["6:14: is TLS meant for `b:1`? Another endpoint has `https://` -> write https:// or http:// before it"],
    );
    check_pool(
        "discover = { srv = \"_http._tcp.a\" }\nendpoints = [\"https://b:1\"]\n",
        &["5:20: is TLS meant for these targets? Another endpoint has `https://` -> \
         write tls = {} for TLS to all, or give one of them a pool of its own"],
    );
    check_pool(
        "discover = { dns = \"http://a\" }\ntls = {}\n",
        &["5:20: `http://` in a pool with `tls` -> write https://, or give endpoints without TLS a pool of their own"],
    );
}

/// Mistakes in files are found by what reads listeners' certificates too.
#[test]
fn a_client_certificate_belongs_to_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (crate::support::Pair::of(&["one"]), crate::support::Pair::of(&["other"]));
    one.write(directory.path(), "one");
    other.write(directory.path(), "other");
    let text = "[[listener]]\nlisten = \"127.0.0.1:0\"\nservice = \"app\"\n[service.app]\nendpoints = [\"a:1\"]\n\
                tls = { ca = \"one.key\", cert = \"one.crt\", key = \"other.key\" }\n";
    std::fs::write(directory.path().join("a.toml"), text).unwrap();
    let output = binary().current_dir(directory.path()).args(["check", "a.toml"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("a.toml:6:14: error: `one.key` holds a private key where a certificate is expected"), "{said}");
    assert!(said.contains("a.toml:6:49: error: the private key in `other.key` does not belong to the certificate in `one.crt`"), "{said}");
}

#[test]
fn a_probe_asks_one_thing_that_can_be_asked() {
    let pool = |keys: &str, expected: &[&str]| check_pool(&format!("endpoints = [\"10.0.0.1:80\"]\n{keys}\n"), expected);
    pool("health = { path = \"/ready\", tcp = true }", &["6:29: endpoints are asked one thing, this has `path` and `tcp`"]);
    pool(
        "health = { interval = \"1s\" }",
        &["6:10: nothing says what endpoints are asked -> \
           write one of `path`, `tcp`, `tls`, `grpc`, `redis`, `memcached`, `mysql`, `postgres`, such as path = \"/ready\""],
    );
    pool("health = { pth = \"/ready\" }", &["6:12: unknown key `pth` -> did you mean `path`?"]);
    pool("health = { tcp = false }", &["6:18: `false` asks for nothing -> write true, or remove the key"]);
    pool("health = { path = \"ready\" }", &["6:19: `ready` is not a path -> write one such as \"/ready\""]);
    pool("health = { path = \"/a b\" }", &["6:19: `/a b` is not a path -> write one such as \"/ready\""]);
    pool("health = { path = \"/\", host = \"a b\" }", &["6:31: `a b` is not a host -> write one such as \"app.internal\""]);
    pool("health = { tcp = true, expect = 200 }", &["6:33: `expect` is for probes by `path`, this one asks `tcp` -> remove it"]);
    pool("health = { tcp = true, fall = 0 }", &["6:31: 0 is out of range -> 1 to 1000"]);
    pool("health = { tcp = true, interval = \"0s\" }", &["6:35: this asks too often -> write at least \"10ms\""]);
    pool(
        "health = { tcp = true, interval = \"1s\", timeout = \"2s\" }",
        &["6:51: a probe may take 2s, and the next one begins after 1s -> make `timeout` at most `interval`"],
    );
    pool("health = { tcp = true, interval = \"1s\" }", &[]);
}

#[test]
fn statuses_that_a_probe_expects_are_ranges_of_statuses() {
    let expect = |expect: &str, expected: &[&str]| {
        check_pool(&format!("endpoints = [\"10.0.0.1:80\"]\nhealth = {{ path = \"/\", expect = {expect} }}\n"), expected);
    };
    for fine in ["200", "\"200\"", "[200, \"300-399\", 599]", "\"200-599\""] {
        expect(fine, &[]);
    }
    let range = "200 to 599: what a final answer may have";
    expect("199", &[&format!("6:33: `199` is out of range -> {range}")]);
    expect("[200, \"400-600\"]", &[&format!("6:39: `400-600` is out of range -> {range}")]);
    expect("\"399-200\"", &["6:33: `399-200` begins behind its end -> write \"200-399\""]);
    expect("\"2xx\"", &["6:33: `2xx` is neither a status nor a range of them -> write 200 or \"200-399\""]);
    expect("[]", &["6:33: no status is expected, so every probe would fail -> remove it for \"200-399\""]);
}

#[test]
fn a_probe_fits_its_endpoints() {
    check_pool(
        "endpoints = [\"https://10.0.0.1:443\", \"http://10.0.0.2:80\"]\nhealth = { tls = true }\n",
        &["6:10: `10.0.0.2:80` is not spoken to with TLS, so there is no handshake to try -> write tcp = true, or give the pool `tls`"],
    );
    // Seen: endpoints that are still to be found were not thought of, and each of them was sick for ever.
    check_pool(
        "discover = { dns = \"app:80\" }\nhealth = { tls = true }\n",
        &[
            "6:10: what `dns app:80` finds is not spoken to with TLS, so there is no handshake to try -> write tcp = true, or give the pool `tls`",
        ],
    );
    check_pool(
        "discover = { srv = \"_mysql._tcp.db\" }\ntls = {}\nhealth = { mysql = \"mysql://u:p@\" }\n",
        &["7:10: a login to MySQL cannot be tried inside TLS -> write mysql = true"],
    );
    check_pool(
        "endpoints = [\"unix:/run/app.sock\"]\nhealth = { tcp = true, port = 81 }\n",
        &["6:10: `port` cannot be had of `unix:/run/app.sock`, which is a unix socket -> \
           remove `port`, or give that endpoint a pool of its own"],
    );
    check_pool(
        "endpoints = [\"https://10.0.0.1:443\"]\nhealth = { mysql = \"mysql://u:p@\" }\n",
        &["6:10: a login to MySQL cannot be tried inside TLS -> write mysql = true"],
    );
    check_pool(
        "endpoints = [\"10.0.0.1:80\"]\nsend_proxy = \"v2\"\nhealth = { mysql = \"mysql://u:p@\" }\n",
        &["7:10: a login to MySQL cannot be tried behind a PROXY header -> write mysql = true"],
    );
    check_pool(
        "endpoints = [\"10.0.0.1:80\"]\nleader = { path = \"/leader\" }\nhealth = { tcp = true, fail_open = true }\n",
        &["7:10: `fail_open` where one endpoint leads: what is meant for the leader would go to others -> remove one of the two"],
    );
}

#[test]
fn a_login_is_whole_and_its_password_is_not_repeated() {
    let login = |key: &str, text: &str, message: &str, scheme: &str| {
        let help = format!("write \"{scheme}://user:password@/database\", without what there is not");
        check_pool(
            &format!("endpoints = [\"10.0.0.1:80\"]\nhealth = {{ {key} = \"{text}\" }}\n"),
            &[&format!("6:{}: {message} -> {help}", 15 + key.len())],
        );
    };
    login("postgres", "s3cret", "expected an address that begins with `postgres://`", "postgres");
    login("mysql", "mysql://u:s3cret@10.0.0.1/db", "nothing may stand between `@` and `/`: the endpoints say where the server is", "mysql");
    login("mysql", "mysql://:s3cret@/db", "this login names no user", "mysql");
    login("redis", "redis://u:s3/cret@", "a login ends in `@`; `/` in a password is written `%2F`", "redis");
}

#[test]
fn a_leader_is_known_in_one_way() {
    let pool = |keys: &str, expected: &[&str]| check_pool(&format!("endpoints = [\"10.0.0.1:80\"]\n{keys}\n"), expected);
    pool(
        "leader = { wait = \"1s\" }",
        &["6:10: nothing says what endpoints are asked -> write path = \"/leader\", redis = true or postgres = \"…\""],
    );
    pool("leader = { path = \"/\", redis = true }", &["6:24: endpoints are asked one thing, this has `path` and `redis`"]);
    pool(
        "leader = { postgres = true }",
        &["6:23: who leads is asked in SQL, and that takes a login -> write \"postgres://user:password@/database\""],
    );
    pool("leader = { redis = true, host = \"a\" }", &["6:33: `host` is for elections by `path`, this one asks `redis` -> remove it"]);
    pool(
        "leader = { redis = true, timeout = \"2s\" }",
        &["6:36: a probe may take 2s, and the next one begins after 1s -> make `timeout` at most `interval`"],
    );
    pool("leader = { path = \"/leader\", port = 8008, wait = \"0s\" }", &[]);
}
