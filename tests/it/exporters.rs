//! Metrics of other programs: real servers, asked once for all who scrape, on pages that others read.
//!
//! What answers become is tested beside the code.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Answer, Authority, DataServer, Next, Origin, Postgres, Read1, Rig, eventually, free_address, has, refused};

pub fn config(metrics: &str) -> String {
    format!("[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"m\"\n[service.m.metrics]\n{metrics}\n")
}

fn scrape(rig: &Rig) -> Answer {
    rig.connect("web").ask("GET", "/metrics").unwrap()
}

#[track_caller]
fn whole(read: Read1) -> Answer {
    match read {
        Read1::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// Series with their values.
pub fn series(page: &str) -> BTreeMap<String, f64> {
    let of = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap_or(f64::NAN)));
    page.lines().filter(|line| !line.starts_with('#')).filter_map(of).collect()
}

fn names(series: &BTreeMap<String, f64>) -> BTreeSet<String> {
    series.keys().map(|name| name.split('{').next().unwrap_or_default().to_owned()).collect()
}

pub fn value(rig: &Rig, name: &str) -> Option<f64> {
    series(&scrape(rig).text()).get(name).copied()
}

/// Whether Prometheus's own client library for Python reads a page, in both formats.
#[track_caller]
pub fn check_readable(rig: &Rig) {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers-venv").join("bin/python");
    if !python.exists() {
        eprintln!("skipped: the Python peers are not installed");
        return;
    }
    for (accept, parser) in
        [("text/plain", "prometheus_client.parser"), ("application/openmetrics-text", "prometheus_client.openmetrics.parser")]
    {
        let mut client = rig.connect("web");
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")).unwrap();
        let page = whole(client.read("GET").unwrap()).text();
        let script = format!(
            "import sys\nfrom {parser} import text_string_to_metric_families as read\n\
             print(sum(len(family.samples) for family in read(sys.stdin.read())))"
        );
        let mut child = Command::new(&python).args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let count = String::from_utf8(output.stdout).unwrap().trim().parse::<usize>().unwrap_or(0);
        assert_eq!(count, series(&page).len(), "{accept}\n{page}");
    }
}

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_redis_has_the_series_that_its_exporter_gives_it() {
    let Some(redis) = DataServer::redis(&["--requirepass", "s3cret", "--maxmemory", "100mb", "--slowlog-log-slower-than", "0"]) else {
        return;
    };
    let mut stream = TcpStream::connect(redis.address).unwrap();
    stream.write_all(b"AUTH s3cret\r\nMSET a 1 b 2\r\nSETEX c 1000 1\r\nSELECT 3\r\nSET d 1\r\nGET nobody\r\nNOPE\r\nQUIT\r\n").unwrap();
    stream.read_to_string(&mut String::new()).unwrap();
    let rig = Rig::start(&config(&format!("from = [{{ redis = \"redis://:s3cret@{}\" }}]", redis.address)));
    assert_eq!(value(&rig, "redis_up"), Some(1.0));
    check_readable(&rig);
    let ours = series(&scrape(&rig).text());
    assert_eq!(
        (ours["redis_db_keys{db=\"db0\"}"], ours["redis_db_keys_expiring{db=\"db0\"}"], ours["redis_db_keys{db=\"db3\"}"]),
        (3.0, 1.0, 1.0)
    );
    assert_eq!((ours["redis_config_maxmemory"], ours["redis_errors_total{err=\"ERR\"}"]), (f64::from(100 << 20), 1.0));
    assert!(ours["redis_slowlog_length"] > 0.0 && ours["redis_commands_total{cmd=\"mset\"}"] == 1.0);
    if !has("prometheus-redis-exporter", "-version") {
        return;
    }
    let address = free_address();
    let mut exporter = Command::new("prometheus-redis-exporter");
    exporter.args([format!("-redis.addr=redis://{}", redis.address), format!("-web.listen-address={address}")]);
    exporter.args(["-redis.password=s3cret", "-redis-only-metrics"]).stdout(Stdio::null()).stderr(Stdio::null());
    let _exporter = Ends(exporter.spawn().unwrap());
    eventually("the exporter listens", || TcpStream::connect(address).is_ok());
    let theirs = series(&page_of(address));
    let ours = series(&scrape(&rig).text());
    let (wanted, have) = (names(&theirs), names(&ours));
    let missing: Vec<&String> = wanted.difference(&have).collect();
    let share = 1.0 - missing.len() as f64 / wanted.len() as f64;
    println!("{} of {} names: {:.1} %, without {missing:?}", wanted.len() - missing.len(), wanted.len(), share * 100.0);
    assert!(share >= 0.95, "{share}: {missing:?}");
    // What does not change by being looked at is the same.
    let stable = [
        "redis_db_keys{",
        "redis_db_keys_expiring{",
        "redis_config_",
        "redis_memory_max_bytes",
        "redis_evicted_keys_total",
        "redis_keyspace_",
        "redis_connected_slaves",
        "redis_rdb_",
        "redis_aof_",
        "redis_replica",
        "redis_cluster_enabled",
        "redis_pubsub",
        "redis_process_id",
        "redis_commands_total{cmd=\"mset\"}",
        "redis_commands_duration_seconds_total{cmd=\"setex\"}",
        "redis_errors_total",
        "redis_up",
    ];
    let mut compared = 0;
    for (name, value) in theirs.iter().filter(|(name, _)| stable.iter().any(|stable| name.starts_with(stable))) {
        assert_eq!(ours.get(name), Some(value), "{name}");
        compared += 1;
    }
    assert!(compared > 60, "{compared}");
}

#[test]
fn a_redis_inside_tls_has_to_be_who_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("redis");
    let (cert, key) = authority.sign("cache", &["cache.internal"]).write(directory.path(), "redis");
    std::fs::write(directory.path().join("ca.crt"), &authority.cert).unwrap();
    // Two free ports need not be of one address, and this server has one for both.
    let (address, ca) = (free_address(), directory.path().join("ca.crt"));
    let (port, [cert, key, ca]) = (address.port().to_string(), [&cert, &key, &ca].map(|path| path.to_str().unwrap()));
    let tls = ["--tls-port", &port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "no"];
    let Some(_redis) = DataServer::redis(&[&tls[..], &["--requirepass", "s3cret", "--bind", "0.0.0.0"]].concat()) else { return };
    eventually("it listens inside TLS", || TcpStream::connect(address).is_ok());
    let from = |tls: &str| config(&format!("from = [{{ redis = \"rediss://:s3cret@{address}\", tls = {{ ca = \"{ca}\"{tls} }} }}]"));
    let rig = Rig::start(&from(", server_name = \"cache.internal\""));
    assert_eq!(value(&rig, "redis_up"), Some(1.0));
    rig.reloaded(&from(", server_name = \"other.internal\""));
    assert_eq!(value(&rig, "redis_up"), Some(0.0));
}

/// A page of another program's, less what is around it.
fn page_of(address: std::net::SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn a_mysql_has_the_series_that_its_exporter_gives_it() {
    let statements = "CREATE USER 'probe'@'%' IDENTIFIED BY 's3cret';\nGRANT PROCESS, SLAVE MONITOR, SELECT ON *.* TO 'probe'@'%';\n";
    let Some(server) = DataServer::mariadb(statements) else { return };
    let sql = "SELECT 'new' AS state, 7 AS count, 1.5 AS value UNION SELECT 'old', 2, NULL";
    let rig = Rig::start(&config(&format!(
        "from = [{{ mysql = \"mysql://probe:s3cret@{}/\", query = [{{ name = \"app_orders\", sql = \"{sql}\", labels = [\"state\"] }}] }}]",
        server.address
    )));
    let ours = series(&scrape(&rig).text());
    assert_eq!((ours["mysql_up"], ours["app_orders_count{state=\"old\"}"], ours["app_orders{state=\"new\"}"]), (1.0, 2.0, 1.5));
    assert!(
        ours["mysql_global_status_commands_total{command=\"show_status\"}"] >= 1.0 && ours["mysql_global_variables_max_connections"] > 1.0
    );
    check_readable(&rig);
    let endless = "SELECT a.table_name, b.table_name FROM information_schema.columns a, information_schema.columns b";
    let many = |most: u32| {
        format!(
            "max_series = {most}\nfrom = [{{ mysql = \"mysql://probe:s3cret@{}/\", query = [{{ name = \"a\", sql = \"{endless}\" }}] }}]\n[log]\nlevel = \"debug\"",
            server.address
        )
    };
    rig.reloaded(&config(&many(5)));
    assert_eq!(value(&rig, "mysql_up"), Some(0.0));
    eventually("the log says why", || rig.log().contains("it has more than 5 rows"));
    rig.reloaded(&config(&format!("from = [{{ mysql = \"mysql://probe:wrong@{}/\" }}]", server.address)));
    assert_eq!(value(&rig, "mysql_up"), Some(0.0));
    if !has("prometheus-mysqld-exporter", "--version") {
        return;
    }
    let address = free_address();
    let mut exporter = Command::new("prometheus-mysqld-exporter");
    exporter.arg(format!("--web.listen-address={address}")).env("DATA_SOURCE_NAME", format!("probe:s3cret@({})/", server.address));
    let _exporter = Ends(exporter.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    eventually("the exporter listens", || TcpStream::connect(address).is_ok());
    let theirs: BTreeMap<String, f64> = series(&page_of(address)).into_iter().filter(|(name, _)| name.starts_with("mysql_")).collect();
    let missing: Vec<&String> = theirs.keys().filter(|name| !ours.contains_key(*name)).collect();
    let share = 1.0 - missing.len() as f64 / theirs.len() as f64;
    println!("{} of {} series: {:.1} %, without {missing:?}", theirs.len() - missing.len(), theirs.len(), share * 100.0);
    assert!(share >= 0.95, "{share}: {missing:?}");
    let variables = theirs.iter().filter(|(name, _)| name.starts_with("mysql_global_variables_"));
    let other: Vec<_> = variables.filter(|(name, value)| ours.get(*name).is_some_and(|ours| ours != *value)).collect();
    // Those that tell of the session that asks, or of the moment.
    assert!(other.len() <= 5, "{other:?}");
}

#[test]
fn a_postgres_says_how_it_is() {
    let Some(postgres) = Postgres::find() else { return };
    let server = postgres.start(false, &[]);
    let login = format!("postgres://probe:p%40ss%2Fword@{}/postgres", server.address);
    let rig = Rig::start(&config(&format!(
        "from = [{{ postgres = \"{login}\", query = [{{ name = \"answer\", sql = \"SELECT 42 AS value, 'x' AS of\", labels = [\"of\"] }}] }}]"
    )));
    let found = series(&scrape(&rig).text());
    assert_eq!((found["pg_up"], found["answer{of=\"x\"}"], found["pg_replication_is_replica"]), (1.0, 42.0, 0.0));
    assert!(found["pg_database_size_bytes{datname=\"postgres\"}"] > 1e6 && found["pg_settings_max_connections"] > 1.0, "{found:?}");
    assert!(found.keys().any(|name| name.starts_with("pg_stat_database_xact_commit{datid=") && name.contains("datname=\"postgres\"")));
    assert!(found.keys().any(|name| name.starts_with("pg_stat_activity_count{")) && found.contains_key("pg_stat_bgwriter_buffers_alloc"));
    check_readable(&rig);
    // A query of a whole table is given up, and says so; the server's own tables may be longer than that.
    let endless = "SELECT generate_series(1, 1000000000) AS value";
    rig.reloaded(&config(&format!(
        "max_series = 5\nfrom = [{{ postgres = \"{login}\", name = \"p\", query = [{{ name = \"a\", sql = \"{endless}\" }}] }}]\n[log]\nlevel = \"debug\""
    )));
    assert_eq!(value(&rig, "pg_up"), Some(0.0));
    eventually("the log says why", || rig.log().contains("it has more than 5 rows"));
    rig.reloaded(&config(&format!("from = [{{ postgres = \"{login}\", query = [{{ name = \"a\", sql = \"SELECT nope\" }}] }}]")));
    assert_eq!(value(&rig, "pg_up"), Some(0.0));
}

#[test]
fn what_a_program_prints_becomes_metrics() {
    let rig = Rig::start(&config(
        "timeout = \"3s\"\nfrom = [\n\
         { exec = [\"/bin/sh\", \"-c\", \"echo 'x 1'\"] },\n\
         { exec = [\"/bin/echo\", '{\"y\":2}'], map = [{ name = \"y\", value = \".y\" }] },\n\
         { exec = [\"/usr/bin/printf\", \"load: 3\"], name = \"p\", match = [{ name = \"z\", regex = 'load: (?<value>.)' }] },\n\
         { exec = [\"/bin/echo\", \"long 1\"], name = \"long\", body = \"3B\" },\n\
         { exec = [\"/bin/false\"] },\n{ exec = [\"/bin/sleep\", \"1000\"] }]",
    ));
    let found = series(&scrape(&rig).text());
    assert_eq!((found["x"], found["y"], found["z"]), (1.0, 2.0, 3.0));
    let up = |name: &str| found[&format!("attache_source_up{{source=\"{name}\"}}")];
    assert_eq!(up("long"), 0.0);
    assert_eq!((up("exec /bin/sh"), up("p"), up("exec /bin/false"), up("exec /bin/sleep")), (1.0, 1.0, 0.0, 0.0));
}

#[test]
fn a_redis_that_is_gone_is_down_and_others_are_there() {
    let gone = free_address();
    let Some(memcached) = DataServer::memcached() else { return };
    let mut stream = TcpStream::connect(memcached.address).unwrap();
    stream.write_all(b"set a 0 0 1\r\n1\r\nget a\r\nget b\r\nquit\r\n").unwrap();
    stream.read_to_string(&mut String::new()).unwrap();
    let rig =
        Rig::start(&config(&format!("from = [{{ redis = \"{gone}\", name = \"gone\" }}, {{ memcached = \"{}\" }}]", memcached.address)));
    let found = series(&scrape(&rig).text());
    assert_eq!((found["redis_up"], found["memcached_up"]), (0.0, 1.0));
    assert_eq!((found["attache_source_up{source=\"gone\"}"], found["attache_source_errors_total{source=\"gone\"}"]), (0.0, 1.0));
    let of = |status: &str| found[&format!("memcached_commands_total{{command=\"get\",status=\"{status}\"}}")];
    assert_eq!((of("hit"), of("miss"), found["memcached_current_items"]), (1.0, 1.0, 1.0));
    check_readable(&rig);
}

#[test]
fn documents_become_metrics() {
    let json = Origin::ok("{\"queues\":[{\"n\":\"a\",\"depth\":\"3\"}]}");
    let text = Origin::ok("Active connections: 2 ");
    let page = "# TYPE app_total counter\napp_total{host=\"x\"} 5\nnoise 1\n";
    let page = Origin::answering(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{page}\r\n0\r\n\r\n", page.len()));
    let sick = Origin::answering("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    let rig = Rig::start(&config(&format!(
        "from = [\n{{ json = \"http://{}/\", map = [{{ name = \"depth\", each = \".queues[]\", value = \".depth\", labels = {{ queue = \".n\" }} }}] }},\n\
         {{ text = \"http://{}/status\", match = [{{ name = \"active\", regex = 'connections: (?<value>\\d+)' }}] }},\n\
         {{ prometheus = \"http://{}/metrics\", labels = {{ app = \"a\" }}, relabel = [{{ source = [\"__name__\"], regex = \"noise\", action = \"drop\" }}] }},\n\
         {{ prometheus = \"http://{}/metrics\", name = \"sick\" }}]",
        json.address, text.address, page.address, sick.address
    )));
    let found = series(&scrape(&rig).text());
    assert_eq!((found["depth{queue=\"a\"}"], found["active"], found["app_total{host=\"x\",app=\"a\"}"]), (3.0, 2.0, 5.0));
    assert!(!found.contains_key("noise") && found["attache_source_up{source=\"sick\"}"] == 0.0, "{found:?}");
    assert_eq!(text.seen()[0].line(), "GET /status HTTP/1.1");
    check_readable(&rig);
    let refused = rig.connect("web").ask("POST", "/").unwrap();
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn the_status_page_of_nginx_becomes_metrics() {
    if !has("nginx", "-v") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let address = free_address();
    let at = directory.path().display();
    let text = format!(
        "daemon off; pid {at}/pid; error_log stderr crit; events {{}} http {{ access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; \
         fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s; server {{ listen {address}; location / {{ stub_status; }} }} }}"
    );
    std::fs::write(directory.path().join("nginx.conf"), text).unwrap();
    let mut nginx = Command::new("nginx");
    nginx.args(["-e", "stderr", "-p"]).arg(directory.path()).arg("-c").arg(directory.path().join("nginx.conf"));
    let _nginx = Ends(nginx.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    eventually("nginx listens", || TcpStream::connect(address).is_ok());
    let rig = Rig::start(&config(&format!(
        "from = [{{ text = \"http://{address}/\", match = [\n\
         {{ name = \"nginx_connections_active\", regex = 'Active connections: (?<value>\\d+)' }},\n\
         {{ name = \"nginx_connections\", regex = '(?<state>Reading|Writing|Waiting): (?<value>\\d+)' }},\n\
         {{ name = \"nginx_requests_total\", type = \"counter\", regex = '\\n \\d+ \\d+ (?<value>\\d+)' }}] }}]"
    )));
    let first = value(&rig, "nginx_requests_total").unwrap();
    let found = series(&scrape(&rig).text());
    assert_eq!((found["nginx_requests_total"], found["nginx_connections{state=\"Writing\"}"]), (first + 1.0, 1.0));
}

/// A page that takes its time.
fn slow(time: Duration) -> Origin {
    Origin::run(move |stream, _, _| {
        std::thread::sleep(time);
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nx 1\n").is_ok() { Next::Keep } else { Next::Close }
    })
}

#[test]
fn ten_who_scrape_at_once_are_one_who_asks() {
    let origin = slow(Duration::from_secs(2));
    let rig = Rig::start(&config(&format!("from = [{{ prometheus = \"http://{}/\" }}]", origin.address)));
    std::thread::scope(|scope| {
        let scrapers: Vec<_> = (0..10).map(|_| scope.spawn(|| value(&rig, "x"))).collect();
        assert!(scrapers.into_iter().all(|scraper| scraper.join().unwrap() == Some(1.0)));
    });
    assert_eq!(origin.seen().len(), 1);
    assert_eq!(value(&rig, "x"), Some(1.0));
    assert_eq!(origin.seen().len(), 2);
}

#[test]
fn a_scrape_survives_a_reload() {
    let origin = slow(Duration::from_millis(800));
    let from = |more: &str| config(&format!("from = [{{ prometheus = \"http://{}/\"{more} }}]", origin.address));
    let rig = Rig::start(&from(""));
    std::thread::scope(|scope| {
        let scraper = scope.spawn(|| value(&rig, "x"));
        eventually("it is asked", || origin.connections() == 1);
        rig.reloaded(&from(", labels = { a = \"b\" }"));
        assert_eq!(scraper.join().unwrap(), Some(1.0));
    });
    assert_eq!(value(&rig, "x{a=\"b\"}"), Some(1.0));
}

#[test]
fn who_scrapes_often_gets_what_there_is() {
    let origin = Origin::ok("x 1\n");
    let from = format!("from = [{{ prometheus = \"http://{}/\" }}]\nmin_interval = \"1h\"", origin.address);
    let rig = Rig::start(&config(&from));
    assert!((0..5).all(|_| value(&rig, "x") == Some(1.0)));
    assert_eq!(origin.seen().len(), 1);
    // A reload keeps it, and other rules ask anew.
    rig.reloaded(&format!("{}[log]\nlevel = \"debug\"\n", config(&from)));
    assert_eq!((value(&rig, "x"), origin.seen().len()), (Some(1.0), 1));
    rig.reloaded(&config(&from.replace("1h", "2h")));
    assert_eq!((value(&rig, "x"), origin.seen().len()), (Some(1.0), 2));
}

#[test]
fn the_scraper_says_how_long_it_waits() {
    let hung = Origin::raw(|_stream, _| std::thread::sleep(Duration::from_secs(3600)));
    let quick = Origin::ok("x 1\n");
    let rig = Rig::start(&config(&format!(
        "from = [{{ prometheus = \"http://{}/\", name = \"hung\" }}, {{ prometheus = \"http://{}/\", name = \"quick\" }}]\ntimeout = \"1h\"",
        hung.address, quick.address
    )));
    let began = Instant::now();
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Prometheus-Scrape-Timeout-Seconds: 3\r\nConnection: close\r\n\r\n").unwrap();
    let found = series(&whole(client.read("GET").unwrap()).text());
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!((found["x"], found["attache_source_up{source=\"quick\"}"], found["attache_source_up{source=\"hung\"}"]), (1.0, 1.0, 0.0));
}

#[test]
fn pages_are_compressed_for_who_can_read_that() {
    let origin = Origin::ok(&(0..500).map(|number| format!("metric_with_a_name{{n=\"{number}\"}} 1\n")).collect::<String>());
    let rig = Rig::start(&config(&format!("from = [{{ prometheus = \"http://{}/\" }}]", origin.address)));
    let mut client = rig.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n").unwrap();
    let answer = whole(client.read("GET").unwrap());
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let mut page = String::new();
    flate2::read::GzDecoder::new(answer.body.as_slice()).read_to_string(&mut page).unwrap();
    assert!(series(&page).len() > 500 && answer.body.len() < page.len() / 3);
}

#[test]
fn too_many_series_are_left_out_and_counted() {
    let origin = Origin::ok(&(0..5000).map(|number| format!("m{{n=\"{number}\"}} 1\n")).collect::<String>());
    let rig = Rig::start(&config(&format!("max_series = 100\nfrom = [{{ prometheus = \"http://{}/\", name = \"o\" }}]", origin.address)));
    let found = series(&scrape(&rig).text());
    assert_eq!(found.keys().filter(|name| name.starts_with("m{")).count(), 100);
    assert_eq!(found["attache_source_series_left_out{source=\"o\"}"], 4900.0);
    // More than a document may be is no answer.
    rig.reloaded(&config(&format!("from = [{{ prometheus = \"http://{}/\", name = \"o\", body = \"1KiB\" }}]", origin.address)));
    assert_eq!(value(&rig, "attache_source_up{source=\"o\"}"), Some(0.0));
}

#[test]
fn the_sample_of_a_redis_keeps_its_promises() {
    let Some(redis) = DataServer::redis(&["--requirepass", "s3cret"]) else { return };
    let mut text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/redis-metrics.toml")).unwrap();
    let address = redis.address.to_string();
    for (written, here) in [("0.0.0.0:9121", "127.0.0.1:0"), ("${REDIS_PASSWORD:-}", "s3cret"), ("127.0.0.1:6379", &address)] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let rig = Rig::start(&text);
    let page = rig.connect("metrics").ask("GET", "/metrics").unwrap().text();
    assert_eq!(series(&page)["redis_up"], 1.0);
    assert!(!rig.admin("GET", "/config").text().contains("s3cret"));
    assert_eq!(rig.connect("metrics").ask("GET", "/other").unwrap().status, 404);
}

#[track_caller]
fn check_wrong(written: &str, expected: &str) {
    let said = refused(&config(written));
    assert!(said.contains(expected), "{said}");
}

#[test]
fn wrong_sources_are_told_with_a_remedy() {
    let one = |source: &str| format!("from = [{{ {source} }}]");
    check_wrong("", "missing key `from`");
    check_wrong("from = []", "a page has 1 to 64 sources, this has 0");
    check_wrong(&one(""), "nothing says who is asked");
    check_wrong(&one("redis = \"a:1\", memcached = \"a:1\""), "a source is one thing, this is `redis` and `memcached`");
    check_wrong(&one("json = \"http://a/\""), "nothing says what becomes a metric");
    check_wrong(&one("json = \"http://a/\", map = [{ name = \"a b\", value = \".\" }]"), "`a b` is not a name for a metric");
    check_wrong(&one("json = \"http://a/\", map = [{ name = \"a\", value = \".[\" }]"), "this is no filter of jq");
    check_wrong(&one("text = \"http://a/\", match = [{ name = \"a\", regex = \"(\" }]"), "this is no regex");
    check_wrong(&one("text = \"http://a/\", match = [{ name = \"a\", regex = \"x\" }]"), "no group of this regex is called `value`");
    check_wrong(&one("redis = \"a:1\", map = []"), "`map` is for `json` and `exec`, this is `redis`");
    check_wrong(&one("redis = \"a:1\", body = \"1MiB\""), "`body` is for documents, this is `redis`");
    check_wrong(&one("mysql = \"a:1\""), "nobody can ask it anything without a login");
    check_wrong(&one("redis = \"a:1\", query = []"), "`query` is for `mysql` and `postgres`, this is `redis`");
    check_wrong(&one("exec = [\"x\"], map = [], match = []"), "a program prints one thing");
    check_wrong(&one("prometheus = \"a:1\""), "this is not a URL that can be asked for; a URL has no login");
    let said = refused(&config(&one("prometheus = \"http://user:${CARGO_PKG_NAME}@a/\"")));
    assert!(said.contains("a URL has no login") && !said.contains("user:attache"), "{said}");
    check_wrong(&one("prometheus = \"http://a/\", relabel = [{ action = \"replace\" }]"), "`replace` sets a label, and nothing says which");
    check_wrong(&one("prometheus = \"http://a/\", relabel = [{ action = \"drop\", target = \"x\" }]"), "`drop` sets no label");
    check_wrong(&one("redis = \"a:1\", labels = { \"a-b\" = \"x\" }"), "`a-b` is not a name for a label");
    check_wrong(&one("statsd = \"127.0.0.1:8125\", labels = { le = \"x\" }"), "`le` is what tells parts of histograms and summaries apart");
    check_wrong("from = [{ redis = \"a:1\" }, { redis = \"b:1\" }]", "two sources of `redis` whose series nobody could tell apart");
    check_wrong("from = [{ prometheus = \"http://a/\" }, { prometheus = \"http://a/\" }]", "two sources are called `prometheus http://a/`");
}
