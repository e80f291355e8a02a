//! What answers become, line by line.
//!
//! Real servers are asked in `tests/it/exporters.rs`.

use super::relabel::{Rule, relabel};
use super::settings::{Mapping, Match};
use super::*;
use crate::proto::exposition::{self, Sample};
use crate::proto::resp::Reply;
use crate::value::{Decode, decoded};

fn lines(page: &Page) -> Vec<String> {
    page.write(Format::Text).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// Reads a value of TOML.
pub(super) fn decode<T: Decode>(text: &str) -> T {
    decoded(text).unwrap_or_else(|found| panic!("{found}"))
}

#[test]
fn a_page_is_written_as_scrapers_read_it() {
    let mut page = Page::new(10);
    page.add(About::counter("a_total", "Back\\slash\nand line"), &[("x", "q\"\\\n")], 1.5);
    page.add(About::gauge("b:c", ""), &[] as &[(&str, &str)], f64::INFINITY);
    page.add(About::gauge("9 b", ""), &[("é", "é")], f64::NAN);
    page.add_part(About { name: "h", kind: Kind::Histogram, help: "" }, "_bucket", &[("le", "+Inf")], 3.0);
    assert_eq!(
        page.write(Format::Text),
        "# HELP a_total Back\\\\slash\\nand line\n# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\"} 1.5\n\
         # TYPE b:c gauge\nb:c +Inf\n# TYPE __b gauge\n__b{_=\"é\"} NaN\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 3\n"
    );
    let open = page.write(Format::OpenMetrics);
    assert!(open.starts_with("# HELP a Back\\\\slash\\nand line\n# TYPE a counter\na_total{") && open.ends_with("# EOF\n"), "{open}");
}

#[test]
fn what_is_too_much_or_there_twice_is_counted() {
    let mut page = Page::new(2);
    for value in ["a", "a", "b", "c", "d"] {
        page.add(About::gauge("x", ""), &[("v", value)], 1.0);
    }
    assert_eq!((page.len(), page.twice, page.left_out), (2, 1, 2));
}

fn relabelled(rules: &str, line: &str) -> Option<String> {
    let rules: Vec<Rule> = decode(rules);
    let mut page = Page::new(10);
    exposition::read(line, |sample: Sample| {
        if let Some(sample) = relabel(&rules, sample) {
            page.add_part(About { name: &sample.name, kind: sample.kind, help: "" }, sample.suffix, &sample.labels, sample.value);
        }
    })
    .unwrap();
    lines(&page).first().cloned()
}

#[test]
fn rules_keep_drop_and_rename() {
    let line = "http_requests_total{code=\"200\",path=\"/a/7\"} 3";
    let check = |rules: &str, expected: Option<&str>| assert_eq!(relabelled(rules, line).as_deref(), expected, "{rules}");
    check("[]", Some("http_requests_total{code=\"200\",path=\"/a/7\"} 3"));
    check("[{ source = [\"code\"], regex = \"2..\", action = \"drop\" }]", None);
    check("[{ source = [\"code\"], regex = \"2.\", action = \"drop\" }]", Some(line));
    check("[{ source = [\"__name__\"], regex = \"http_.*\", action = \"keep\" }]", Some(line));
    check(
        "[{ source = [\"__name__\"], regex = \"http_(.*)\", target = \"__name__\" }]",
        Some("requests_total{code=\"200\",path=\"/a/7\"} 3"),
    );
    check(
        "[{ source = [\"code\", \"path\"], regex = \"(.)..;/(.).*\", target = \"k\", replacement = \"$1xx_$2\" }]",
        Some("http_requests_total{code=\"200\",path=\"/a/7\",k=\"2xx_a\"} 3"),
    );
    check("[{ regex = \"p.*\", action = \"labeldrop\" }]", Some("http_requests_total{code=\"200\"} 3"));
    check("[{ regex = \"p.*\", action = \"labelkeep\" }]", Some("http_requests_total{path=\"/a/7\"} 3"));
    check(
        "[{ regex = \"(c)ode\", action = \"labelmap\", replacement = \"${1}_\" }]",
        Some("http_requests_total{code=\"200\",path=\"/a/7\",c_=\"200\"} 3"),
    );
    check(
        "[{ source = [\"path\"], target = \"path\", action = \"uppercase\" }]",
        Some("http_requests_total{code=\"200\",path=\"/A/7\"} 3"),
    );
    check(
        "[{ source = [\"code\"], regex = \"(2)(.*)\", target = \"c$1_x\", replacement = \"$2\" }]",
        Some("http_requests_total{code=\"200\",path=\"/a/7\",c2_x=\"00\"} 3"),
    );
    // What is no name is not set.
    check("[{ source = [\"code\"], target = \"$1_x\" }]", Some(line));
    check("[{ source = [\"code\"], target = \"path\", replacement = \"\" }]", Some("http_requests_total{code=\"200\"} 3"));
}

#[test]
fn pages_of_others_keep_what_they_are() {
    let text = "# HELP h Time.\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_sum 3.5\nh_count 2 1700000000000\n# EOF\nx{ a = \"1\" , b=\"}\\\"\" , } NaN\n";
    let mut page = Page::new(10);
    let ours = [("job".to_owned(), "us".to_owned()), ("a".to_owned(), "ours".to_owned())];
    documents::prometheus(text, &[], &ours, &mut page).unwrap();
    let written = page.write(Format::Text);
    assert!(written.starts_with("# HELP h Time.\n# TYPE h histogram\nh_bucket{le=\"1\",job=\"us\",a=\"ours\"} 2\n"), "{written}");
    assert!(written.ends_with("# TYPE x untyped\nx{exported_a=\"1\",b=\"}\\\"\",job=\"us\",a=\"ours\"} NaN\n"), "{written}");
    let error = documents::prometheus("a 1\n<html>\n", &[], &[], &mut page).unwrap_err();
    assert_eq!(error, "line 2 of its page is no metric");
}

#[test]
fn json_becomes_series() {
    let document =
        br#"{"queues":[{"name":"a","depth":3,"idle":true},{"name":"b","depth":"4.5"}],"at":"2026-01-01T00:00:00Z","state":"up"}"#;
    let mappings: Vec<Mapping> = decode(
        r#"[{ name = "depth", each = ".queues[]", value = ".depth", labels = { queue = ".name" } },
            { name = "idle", each = ".queues[]", value = ".idle", labels = { queue = ".name" } },
            { name = "at_seconds", value = ".at | fromdateiso8601" },
            { name = "up", value = 'if .state == "up" then 1 else 0 end' },
            { name = "none", value = ".nothing" }]"#,
    );
    let mut page = Page::new(100);
    documents::json(document, &mappings, &[], &mut page).unwrap();
    assert_eq!(lines(&page), ["depth{queue=\"a\"} 3", "depth{queue=\"b\"} 4.5", "idle{queue=\"a\"} 1", "at_seconds 1767225600", "up 1"]);
    let error = documents::json(b"[1]", &mappings, &[], &mut page).unwrap_err();
    assert!(error.starts_with("`depth`: "), "{error}");
}

#[test]
fn text_becomes_series() {
    let status = "Active connections: 2 \nserver accepts handled requests\n 7 7 9 \nReading: 0 Writing: 1 Waiting: 1 \n";
    let matches: Vec<Match> = decode(
        r#"[{ name = "nginx_active", regex = 'Active connections: (?<value>\d+)' },
            { name = "nginx_connections", regex = '(?<state>Reading|Writing|Waiting): (?<value>\d+)' },
            { name = "nginx_requests_total", regex = '\n \d+ \d+ (?<value>\d+)', type = "counter", labels = { of = "it" } }]"#,
    );
    let mut page = Page::new(100);
    documents::text_matches(status, &matches, &[], &mut page).unwrap();
    let expected = [
        "nginx_active 2",
        "nginx_connections{state=\"Reading\"} 0",
        "nginx_connections{state=\"Writing\"} 1",
        "nginx_connections{state=\"Waiting\"} 1",
        "nginx_requests_total{of=\"it\"} 9",
    ];
    assert_eq!(lines(&page), expected);
    assert_eq!(documents::text_matches("?", &matches, &[], &mut page).unwrap_err(), "`nginx_active` fits nowhere in its answer");
    // What one does not find is no reason not to have what others do.
    let mut page = Page::new(100);
    documents::text_matches("Reading: 5", &matches, &[], &mut page).unwrap();
    assert_eq!((lines(&page), page.unmatched), (vec!["nginx_connections{state=\"Reading\"} 5".to_owned()], 2));
}

#[test]
fn what_a_redis_says_has_its_usual_names() {
    let info = "# Server\r\nredis_version:7.0.15\r\nserver_time_usec:1700000010500000\r\nuptime_in_seconds:10\r\nlatest_fork_usec:250\r\n\
                used_memory:1024\r\nused_memory_human:1.00K\r\nexpired_keys:5\r\nrdb_last_bgsave_status:ok\r\naof_last_write_status:err\r\n\
                role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:3\r\n\
                slave0:ip=10.0.0.2,port=6379,state=online,offset=70,lag=1\r\ncmdstat_get:calls=2,usec=500,rejected_calls=0,failed_calls=1\r\n\
                errorstat_ERR:count=4\r\nlatency_percentiles_usec_get:p50=1.5,p99.9=9\r\ndb0:keys=3,expires=1,avg_ttl=1500\r\n";
    let text = |text: &str| Reply::Bulk(text.as_bytes().to_vec());
    let config = Reply::Array(["databases", "2", "maxmemory", "100", "dir", "/"].map(text).to_vec());
    let slowest = Reply::Array(vec![Reply::Array(vec![Reply::Integer(7), Reply::Integer(1_700_000_000), Reply::Integer(12_500)])]);
    let latency =
        Reply::Array(vec![Reply::Array(vec![text("fork"), Reply::Integer(1_700_000_000), Reply::Integer(20), Reply::Integer(30)])]);
    let replies = [text(info), config, Reply::Integer(9), slowest, latency];
    let mut page = Page::new(1000);
    redis::read(&replies, &[("site".to_owned(), "a".to_owned())], &mut page).unwrap();
    let lines = lines(&page);
    for expected in [
        "redis_start_time_seconds{site=\"a\"} 1700000000",
        "redis_latest_fork_seconds{site=\"a\"} 0.00025",
        "redis_memory_used_bytes{site=\"a\"} 1024",
        "redis_expired_keys_total{site=\"a\"} 5",
        "redis_rdb_last_bgsave_status{site=\"a\"} 1",
        "redis_aof_last_write_status{site=\"a\"} 0",
        "redis_master_link_up{master_host=\"10.0.0.1\",master_port=\"6379\",site=\"a\"} 1",
        "redis_master_last_io_seconds_ago{master_host=\"10.0.0.1\",master_port=\"6379\",site=\"a\"} 3",
        "redis_connected_slave_lag_seconds{slave_ip=\"10.0.0.2\",slave_port=\"6379\",slave_state=\"online\",site=\"a\"} 1",
        "redis_commands_duration_seconds_total{cmd=\"get\",site=\"a\"} 0.0005",
        "redis_errors_total{err=\"ERR\",site=\"a\"} 4",
        "redis_latency_percentiles_usec{cmd=\"get\",quantile=\"99.9\",site=\"a\"} 9",
        "redis_latency_percentiles_usec_count{cmd=\"get\",site=\"a\"} 2",
        "redis_db_keys{db=\"db0\",site=\"a\"} 3",
        "redis_db_keys{db=\"db1\",site=\"a\"} 0",
        "redis_db_avg_ttl_seconds{db=\"db0\",site=\"a\"} 1.5",
        "redis_config_maxmemory{site=\"a\"} 100",
        "redis_slowlog_length{site=\"a\"} 9",
        "redis_slowlog_last_id{site=\"a\"} 7",
        "redis_last_slow_execution_duration_seconds{site=\"a\"} 0.0125",
        "redis_latency_spike_duration_seconds{event_name=\"fork\",site=\"a\"} 0.02",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} is not in\n{}", lines.join("\n"));
    }
    assert!(!lines.iter().any(|line| line.contains("human") || line.contains("redis_version{")), "{}", lines.join("\n"));
    let refused = [Reply::Error("NOAUTH Authentication required.".to_owned()), Reply::Null, Reply::Null, Reply::Null, Reply::Null];
    assert_eq!(redis::read(&refused, &[], &mut page), Err("answered `NOAUTH Authentication required.`".to_owned()));
}

#[test]
fn a_hostile_page_is_bounded() {
    let mut text = String::new();
    for number in 0..200_000 {
        text.push_str("x{n=\"");
        text.push_str(&number.to_string());
        text.push_str("\"} NaN\n");
    }
    text.extend(["y{n=\"", &"z".repeat(1 << 20), "\"} 1\n"]);
    let mut page = Page::new(10_000);
    documents::prometheus(&text, &[], &[], &mut page).unwrap();
    assert_eq!((page.len(), page.left_out), (10_000, 190_001));
}

/// A page with a label twice is refused by Prometheus as a whole.
#[test]
fn a_label_is_on_a_series_once() {
    let check = |labels: &[(&str, &str)], expected: &str| {
        let mut page = Page::new(10);
        page.add(About::gauge("x", ""), labels, 1.0);
        assert_eq!(lines(&page), [format!("x{{{expected}}} 1")]);
    };
    check(&[("app", "theirs"), ("app", "ours")], "exported_app=\"theirs\",app=\"ours\"");
    check(&[("x-y", "1"), ("x.y", "2")], "exported_x_y=\"1\",x_y=\"2\"");
    let twice = "exported_exported_app=\"a\",exported_app=\"b\",app=\"ours\"";
    check(&[("app", "a"), ("exported_app", "b"), ("app", "ours")], twice);
    check(&[("exported_app", "b"), ("app", "a"), ("app", "ours")], "exported_app=\"b\",exported_exported_app=\"a\",app=\"ours\"");
    check(&[("a", "1"), ("a", "2"), ("a", "3")], "exported_a=\"1\",exported_exported_a=\"2\",a=\"3\"");
    check(&[("__name__", "y")], "exported___name__=\"y\"");
}

#[test]
fn pages_of_others_have_no_label_twice_and_not_too_many() {
    let read = |line: &str| documents::prometheus(line, &[], &[], &mut Page::new(10));
    assert_eq!(read("a{x=\"1\",x=\"2\"} 1"), Err("line 1 of its page has the label `x` twice".to_owned()));
    let labels = |count: usize| (0..count).map(|number| format!("l{number}=\"\"")).collect::<Vec<_>>().join(",");
    assert_eq!(read(&format!("a{{{}}} 1", labels(256))), Ok(()));
    assert_eq!(read(&format!("a{{{}}} 1", labels(257))), Err("line 1 of its page has more than 256 labels".to_owned()));
}

#[test]
fn what_is_escaped_in_a_line_for_people_is_read_once() {
    let mut page = Page::new(10);
    documents::prometheus("# HELP a b\\\\n\\n\\x\na 1\n", &[], &[], &mut page).unwrap();
    assert!(page.write(Format::Text).starts_with("# HELP a b\\\\n\\n\\\\x\n"), "{}", page.write(Format::Text));
}

/// A line for people of eight megabytes was copied for each of a million series.
#[test]
fn a_long_line_for_people_costs_nothing_for_each_series() {
    let mut text = format!("# HELP x {}\n", "h".repeat(8 << 20));
    text.push_str(&"x 1\n".repeat(100_000));
    let mut page = Page::new(10);
    documents::prometheus(&text, &[], &[], &mut page).unwrap();
    assert_eq!((page.len(), page.twice), (1, 99_999));
    assert!(page.write(Format::Text).len() < 5000);
}

#[test]
fn what_takes_too_long_to_read_is_given_up() {
    let mut page = Page::new(10).until(Instant::now());
    assert_eq!(documents::prometheus("x 1\n", &[], &[], &mut page), Err("what it says takes too long to read".to_owned()));
    let info = Reply::Bulk(b"redis_version:7\r\n".to_vec());
    let replies = [info, Reply::Null, Reply::Null, Reply::Null, Reply::Null];
    assert!(redis::read(&replies, &[], &mut Page::new(10).until(Instant::now())).is_err());
}

/// Of a hundred thousand commands, all were looked through for each.
#[test]
fn a_redis_of_many_commands_is_read_in_time() {
    let lines = |number: u32| format!("latency_percentiles_usec_{number}:p50=1\r\ndb{number}:keys=1\r\n");
    let info = (0..100_000).map(lines).collect::<Vec<_>>().concat();
    let replies = [Reply::Bulk(info.into_bytes()), Reply::Null, Reply::Null, Reply::Null, Reply::Null];
    let mut page = Page::new(1000).until(Instant::now() + Duration::from_secs(20));
    assert_eq!(redis::read(&replies, &[], &mut page), Ok(()));
    assert_eq!(page.len(), 1000);
}

fn source(written: &str, page: &str) -> Source {
    let settings: Settings = decode(&format!("{{ from = [{written}]{page} }}"));
    Source::new(&settings, &settings.from.value[0], None)
}

fn said(source: &Source, page: impl FnOnce(&mut Page)) -> Arc<Collected> {
    let began = Instant::now();
    let mut collected = Collected { began, took: Duration::ZERO, page: source.blank(began), table: None, error: None };
    page(&mut collected.page);
    Arc::new(collected)
}

#[test]
fn no_source_speaks_for_another_one() {
    let liar = Arc::new(source("{ prometheus = \"http://a:1/\", name = \"liar\" }", ""));
    let redis = Arc::new(source("{ redis = \"b:1\", name = \"r\" }", ""));
    let lies = said(&liar, |page| {
        documents::prometheus("redis_up 1\nattache_source_up{source=\"r\"} 1\nx 1\n", &[], &[], page).unwrap();
    });
    let page = Metrics::page(&[(liar, Some(lies)), (redis, None)], Instant::now());
    let lines = lines(&page);
    assert!(lines.contains(&"redis_up 0".to_owned()) && lines.contains(&"attache_source_up{source=\"r\"} 0".to_owned()), "{lines:?}");
    assert!(lines.contains(&"attache_source_series_twice{source=\"liar\"} 2".to_owned()), "{lines:?}");
}

/// It stayed 0, for each of them has its series once.
#[test]
fn series_that_another_source_has_are_counted() {
    let two = ["a", "b"].map(|name| Arc::new(source(&format!("{{ prometheus = \"http://{name}:1/\", name = \"{name}\" }}"), "")));
    let all: Vec<_> = two
        .into_iter()
        .map(|source| {
            let said = said(&source, |page| documents::prometheus("x 1\ny 1\n", &[], &[], page).unwrap());
            (source, Some(said))
        })
        .collect();
    let lines = lines(&Metrics::page(&all, Instant::now()));
    for (name, twice) in [("a", 0), ("b", 2)] {
        let expected = format!("attache_source_series_twice{{source=\"{name}\"}} {twice}");
        assert!(lines.contains(&expected), "{expected} {lines:?}");
    }
}

#[test]
fn what_was_heard_stays_when_a_page_waits_longer() {
    let statsd = "{ statsd = \"127.0.0.1:8125\" }";
    let known = source(statsd, ", max_series = 1");
    let heard = |source: &Source, line: &[u8]| {
        let heard = source.heard.as_ref().unwrap();
        heard.hear(line, Instant::now());
        let mut page = source.blank(Instant::now());
        heard.write(&[], &mut page, Instant::now());
        lines(&page)
    };
    assert_eq!(heard(&known, b"a:1|c\nb:1|c"), ["a 1"]);
    let heir = source(statsd, ", timeout = \"3s\", max_series = 2").heir_of(&known);
    assert!(!heir.is_as(&known));
    // Not before it is followed.
    assert_eq!(heard(&heir, b"a:1|c\nb:1|c"), ["a 2"]);
    heir.heard.as_ref().unwrap().set_max_series(heir.max_series);
    assert_eq!(heard(&heir, b"b:1|c"), ["a 2", "b 1"]);
    let other = source("{ statsd = \"127.0.0.1:8125\", ttl = \"1m\" }", "").heir_of(&heir);
    assert_eq!(heard(&other, b"b:1|c"), ["b 1"]);
}
