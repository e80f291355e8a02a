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
