//! Where keys lie, beside the programs that place them so: nginx, twemproxy and Envoy, all real.
//!
//! Each is asked for every key, and whoever answers says who it is. Without a program its test says so and passes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use attache::algo::placement::{Distribution, EnvoyHash, EnvoyRing, KeyHash, Member, Method, Table, Twemproxy};
use attache::algo::split::{Hashing, Split};
use tempfile::TempDir;

use crate::programs::Served;
use crate::support::{Client, Origin, Read1, Rig, eventually, free_address, has};

/// Endpoints that answer with their own number, and what they are called.
struct Endpoints {
    origins: Vec<Origin>,
    names: Vec<String>,
    weights: Vec<u32>,
}

impl Endpoints {
    fn http(weights: &[u32]) -> Self {
        Self::of(weights, (0..weights.len()).map(|number| Origin::ok(&number.to_string())).collect())
    }

    fn of(weights: &[u32], origins: Vec<Origin>) -> Self {
        let names = origins.iter().map(|origin| origin.address.to_string()).collect();
        Self { origins, names, weights: weights.to_vec() }
    }

    fn table(&self, method: &Method) -> Table {
        let member = |(name, weight): (&'_ String, &u32)| (name.clone(), *weight);
        let all: Vec<(String, u32)> = self.names.iter().zip(&self.weights).map(member).collect();
        let members: Vec<Member<'_>> =
            all.iter().map(|(name, weight)| Member { name, address: name, has_name: false, weight: *weight }).collect();
        assert_eq!(method.check(&members), Ok(()));
        Table::build(method, 0, &members)
    }

    /// Written as attache has them.
    fn over(&self) -> String {
        let member = |(name, weight): (&String, &u32)| format!("{{ address = \"{name}\", weight = {weight} }}");
        self.names.iter().zip(&self.weights).map(member).collect::<Vec<_>>().join(", ")
    }

    /// attache itself, with this method, and a key in each path or header.
    fn attache(&self, method: &str, by: &str) -> Rig {
        Rig::start(&format!(
            "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n[service.s.shard]\nby = \"{by}\"\nmethod = {method}\nover = [{}]\n",
            self.over()
        ))
    }
}

fn path(number: usize) -> String {
    format!("/some/path/{number}?version={}", number * 7919)
}

/// Who answers, by number.
#[track_caller]
fn asked(client: &mut Client, path: &str, fields: &str) -> u32 {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")).unwrap();
    match client.read("GET").unwrap() {
        Read1::Answer(answer) if answer.status == 200 => answer.text().parse().unwrap(),
        other => panic!("{path}: {other:?}"),
    }
}

#[track_caller]
fn check(what: &str, theirs: impl Fn(usize) -> u32, ours: impl Fn(usize) -> u32, count: usize) {
    let different = (0..count).filter(|&number| theirs(number) != ours(number)).count();
    println!("{what}: {} of {count} keys at the same place", count - different);
    assert_eq!(different, 0, "{what}");
}

/// nginx with this in its `http` and this in its only `server`; it lives as long as its directory.
fn nginx(http: &str, server: &str) -> (TempDir, Served) {
    let directory = TempDir::new().unwrap();
    let served = Served::start(|address| {
        let dir = directory.path().display();
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
             events {{ worker_connections 1000; }}\nhttp {{ access_log off; keepalive_requests 100000;\n\
             client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
             {http}\nserver {{ listen {address}; {server} }} }}\n"
        );
        std::fs::write(directory.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command
            .arg("-e")
            .arg(directory.path().join("error.log"))
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(directory.path().join("nginx.conf"));
        command
    });
    (directory, served)
}

#[test]
fn nginx_splits_ten_thousand_clients_as_we_do() {
    if !has("nginx", "-v") {
        return;
    }
    let (_directory, nginx) =
        nginx("split_clients \"$request_uri\" $arm { 0.5% 0; 10% 1; 33.33% 2; * 3; }", "location / { return 200 $arm; }");
    let split = Split::new(Hashing::Nginx, &[Some(5_000), Some(100_000), Some(333_300), None]);
    let mut client = Client::tcp(nginx.address).unwrap();
    let theirs: Vec<u32> = (0..10_000).map(|number| asked(&mut client, &path(number), "")).collect();
    check("split_clients", |number| theirs[number], |number| split.arm(path(number).as_bytes()) as u32, 10_000);
}

#[test]
fn nginx_places_ten_thousand_keys_where_we_do() {
    if !has("nginx", "-v") {
        return;
    }
    let endpoints = Endpoints::http(&[1, 2, 1, 3, 1]);
    for (method, word, hash) in
        [(Method::Nginx, "\"nginx\"", "hash $request_uri consistent;"), (Method::NginxModulo, "\"nginx-modulo\"", "hash $request_uri;")]
    {
        let server = |(name, weight): (&String, &u32)| format!("server {name} weight={weight};");
        let servers: Vec<String> = endpoints.names.iter().zip(&endpoints.weights).map(server).collect();
        let (_directory, nginx) = nginx(
            &format!("upstream s {{ {hash} {} keepalive 16; }}", servers.join(" ")),
            "location / { proxy_pass http://s; proxy_http_version 1.1; proxy_set_header Connection \"\"; }",
        );
        let table = endpoints.table(&method);
        let mut client = Client::tcp(nginx.address).unwrap();
        let theirs: Vec<u32> = (0..10_000).map(|number| asked(&mut client, &path(number), "")).collect();
        check(word, |number| theirs[number], |number| table.pick(table.hash(path(number).as_bytes())).unwrap(), 10_000);
        let rig = endpoints.attache(word, "uri");
        let mut client = rig.connect("web");
        let ours: Vec<u32> = (0..500).map(|number| asked(&mut client, &path(number), "")).collect();
        check("attache itself", |number| theirs[number], |number| ours[number], 500);
    }
}

/// Speaks as much of memcached as is needed to say who it is.
fn memcached(number: usize) -> Origin {
    Origin::raw(move |mut stream, _| {
        let mut buffer = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            buffer.extend_from_slice(&piece[..count]);
            while let Some(end) = buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = buffer.drain(..end + 2).collect();
                let key = line[..end].split(|&byte| byte == b' ').nth(1).unwrap_or_default();
                let value = number.to_string();
                let answer = [b"VALUE ", key, format!(" 0 {}\r\n{value}\r\nEND\r\n", value.len()).as_bytes()].concat();
                if stream.write_all(&answer).is_err() {
                    return;
                }
            }
        }
    })
}

/// Keys that are words, numbers, and bytes from 0x80 on.
fn memcached_key(number: usize) -> Vec<u8> {
    match number % 3 {
        0 => format!("user:{number}").into_bytes(),
        1 => format!("größe-{number}").into_bytes(),
        _ => [&[0xff, 0x80, b'x'][..], number.to_string().as_bytes(), &[0xe9]].concat(),
    }
}

/// Which server has a key, by what a proxy answers.
#[track_caller]
fn memcached_owner(stream: &mut TcpStream, key: &[u8]) -> u32 {
    stream.write_all(&[b"get ", key, b"\r\n"].concat()).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !answer.ends_with(b"END\r\n") {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0 && !answer.starts_with(b"SERVER_ERROR"), "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..count]);
    }
    let text = String::from_utf8_lossy(&answer);
    text.lines().nth(1).unwrap().parse().unwrap()
}

#[test]
fn twemproxy_places_keys_where_we_do_with_each_of_its_hashes() {
    if !has("nutcracker", "-V") {
        return;
    }
    let weights = [1, 2, 3, 1, 1];
    let endpoints = Endpoints::of(&weights, (0..weights.len()).map(memcached).collect());
    let mut pools = Vec::new();
    for hash in KeyHash::ALL {
        pools.push(Twemproxy { hash, distribution: Distribution::Ketama, signed_char: cfg!(target_arch = "x86_64") });
    }
    pools.push(Twemproxy { hash: KeyHash::Fnv1a64, distribution: Distribution::Modula, signed_char: cfg!(target_arch = "x86_64") });
    let directory = TempDir::new().unwrap();
    let addresses: Vec<SocketAddr> = pools.iter().skip(1).map(|_| free_address()).collect();
    let nutcracker = Served::start(|first| {
        let mut config = String::new();
        for (number, (pool, address)) in pools.iter().zip(std::iter::once(&first).chain(&addresses)).enumerate() {
            let distribution = if pool.distribution == Distribution::Ketama { "ketama" } else { "modula" };
            config.push_str(&format!(
                "p{number}:\n  listen: {address}\n  hash: {}\n  distribution: {distribution}\n  timeout: 5000\n  servers:\n",
                pool.hash.word()
            ));
            for (name, weight) in endpoints.names.iter().zip(weights) {
                config.push_str(&format!("   - {name}:{weight}\n"));
            }
        }
        let path = directory.path().join("nutcracker.yml");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new("nutcracker");
        command.arg("-c").arg(path).arg("-o").arg(directory.path().join("log"));
        command.args(["-a", "127.0.0.1", "-s", &free_address().port().to_string(), "-m", "16384"]);
        command
    });
    for (pool, address) in pools.iter().zip(std::iter::once(&nutcracker.address).chain(&addresses)) {
        let count = if pool.hash == KeyHash::Fnv1a64 { 10_000 } else { 1000 };
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let theirs: Vec<u32> = (0..count).map(|number| memcached_owner(&mut stream, &memcached_key(number))).collect();
        let table = endpoints.table(&Method::Twemproxy(pool.clone()));
        let ours = |number: usize| table.pick(table.hash(&memcached_key(number))).unwrap();
        check(&format!("{} {:?}", pool.hash.word(), pool.distribution), |number| theirs[number], ours, count);
    }
}

fn envoy() -> Option<PathBuf> {
    let found = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers-venv").join("bin/envoy");
    if found.exists() {
        return Some(found);
    }
    eprintln!("skipped: no Envoy among the peers");
    None
}

#[test]
fn envoy_places_ten_thousand_keys_where_we_do() {
    let Some(envoy) = envoy() else { return };
    let endpoints = Endpoints::http(&[1, 2, 1, 3, 1]);
    let ring = |hash| Method::EnvoyRing(EnvoyRing { hash, min_size: 1024, max_size: 1 << 23 });
    let cases = [
        (Method::EnvoyMaglev { size: 65_537 }, "\"envoy-maglev\"", "MAGLEV", "{}"),
        (ring(EnvoyHash::XxHash64), "\"envoy-ring\"", "RING_HASH", "{hash_function: XX_HASH}"),
        (ring(EnvoyHash::MurmurHash2), "{ envoy-ring = { hash = \"murmur_hash_2\" } }", "RING_HASH", "{hash_function: MURMUR_HASH_2}"),
    ];
    let directory = TempDir::new().unwrap();
    let others: Vec<SocketAddr> = cases.iter().skip(1).map(|_| free_address()).collect();
    let served = Served::start(|first| {
        let addresses: Vec<SocketAddr> = std::iter::once(first).chain(others.iter().copied()).collect();
        let path = directory.path().join("envoy.yaml");
        std::fs::write(&path, envoy_config(&endpoints, &cases, &addresses)).unwrap();
        let mut command = Command::new(&envoy);
        command.arg("-c").arg(path).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "off"]);
        command
    });
    for ((method, word, ..), address) in cases.iter().zip(std::iter::once(&served.address).chain(&others)) {
        let table = endpoints.table(method);
        let key = |number: usize| format!("user-{}", number * 7919);
        eventually("it listens", || Client::tcp(*address).is_ok());
        let mut client = Client::tcp(*address).unwrap();
        let theirs: Vec<u32> = (0..10_000).map(|number| asked(&mut client, "/", &format!("X-Key: {}\r\n", key(number)))).collect();
        check(word, |number| theirs[number], |number| table.pick(table.hash(key(number).as_bytes())).unwrap(), 10_000);
        let rig = endpoints.attache(word, "header:x-key");
        let mut client = rig.connect("web");
        let ours: Vec<u32> = (0..500).map(|number| asked(&mut client, "/", &format!("X-Key: {}\r\n", key(number)))).collect();
        check("attache itself", |number| theirs[number], |number| ours[number], 500);
    }
}

fn envoy_config(endpoints: &Endpoints, cases: &[(Method, &str, &str, &str)], addresses: &[SocketAddr]) -> String {
    let mut listeners = String::new();
    let mut clusters = String::new();
    for (number, ((_, _, policy, ring), address)) in cases.iter().zip(addresses).enumerate() {
        listeners.push_str(&format!(
            "  - address: {{socket_address: {{address: {}, port_value: {}}}}}\n    filter_chains:\n    - filters:\n      - name: http\n        typed_config:\n          \
             \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: s\n          \
             route_config: {{virtual_hosts: [{{name: s, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{cluster: c{number}, hash_policy: [{{header: {{header_name: x-key}}}}]}}}}]}}]}}\n          \
             http_filters: [{{name: router, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]\n",
            address.ip(),
            address.port()
        ));
        let ring = if *policy == "RING_HASH" { format!("    ring_hash_lb_config: {ring}\n") } else { String::new() };
        clusters.push_str(&format!(
            "  - name: c{number}\n    type: STATIC\n    lb_policy: {policy}\n{ring}    load_assignment: {{cluster_name: c{number}, endpoints: [{{lb_endpoints: [\n"
        ));
        for (origin, weight) in endpoints.origins.iter().zip(&endpoints.weights) {
            let port = origin.address.port();
            clusters.push_str(&format!(
                "      {{load_balancing_weight: {weight}, endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}},\n"
            ));
        }
        clusters.push_str("    ]}]}\n");
    }
    format!("static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}")
}
