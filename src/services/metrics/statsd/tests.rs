//! What lines become, and that no number of them takes more than it may.
//!
//! Sockets are in `tests/it/statsd.rs`.

use super::super::Format;
use super::super::settings::{Settings as Written, SourceSettings};
use super::super::tests::decode;
use super::*;
use crate::services::metrics::Question;

fn heard_with(more: &str, max_series: usize) -> Heard {
    let page: Written = decode(&format!("{{ from = [{{ statsd = \"127.0.0.1:8125\"{more} }}] }}"));
    let SourceSettings { question: Question::Statsd(settings), .. } = page.from.value[0].clone() else { panic!("{page:?}") };
    Heard::new(&settings, max_series)
}

fn written(heard: &Heard, now: Instant) -> Vec<String> {
    let mut page = Page::new(usize::MAX);
    heard.write(&[], &mut page, now);
    page.write(Format::Text).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[track_caller]
fn check(more: &str, lines: &str, expected: &[&str]) {
    let (heard, now) = (heard_with(more, 100), Instant::now());
    heard.hear(lines.as_bytes(), now);
    assert_eq!(written(&heard, now), expected, "{lines}");
}

#[test]
fn every_type_adds_up() {
    check("", "a.b-c:1|c\na.b-c:2.5|c|@0.5\n", &["a_b_c 6"]);
    check("", "g:5|g\ng:+2|g\ng:-3|g\nh:-3|g\r\n", &["g 4", "h -3"]);
    check("", "s:a|s\ns:b|s\ns:a|s\ns:a:c|s", &["s 3"]);
    let buckets = ", buckets = [0.1, 1]";
    let histogram = ["t_bucket{le=\"0.1\"} 1", "t_bucket{le=\"1\"} 3", "t_bucket{le=\"+Inf\"} 4", "t_sum 3.6", "t_count 4"];
    check(buckets, "t:100|ms\nt:500:1000|ms\nt:2000|ms\n", &histogram);
    check(buckets, "t:0.1:0.5:1:2|h\n", &histogram);
    check(buckets, "t:2|d|@0.25\n", &["t_bucket{le=\"0.1\"} 0", "t_bucket{le=\"1\"} 0", "t_bucket{le=\"+Inf\"} 4", "t_sum 8", "t_count 4"]);
}

#[test]
fn tags_are_labels_in_any_order_and_dialect() {
    check("", "a:1|c|#k:v,z:w\na:1|c|#z:w,k:v\na,z=w,k=v:1|c|T1656581400\na:1|c|@1|#k:v,z:w|c:ci-9\n", &["a{k=\"v\",z=\"w\"} 4"]);
    check("", "a:1|c|#bare,e:,le:x,k-k:\"\n", &["a{exported_le=\"x\",k_k=\"\\\"\"} 1"]);
}

#[test]
fn the_first_mapping_that_fits_says_what_a_name_becomes() {
    let mapping = ", mapping = [{ match = \"api.*.request.*\", name = \"api_$2_total\", labels = { method = \"$1\" } },\n\
        { match = \"api.noise.*\", drop = true }, { regex = \"api\\\\.(.+)\", name = \"rest\", labels = { of = \"$1\" }, help = \"The rest.\" }]";
    check(mapping, "api.get.request.ok:1|c|#method:other,x:y\n", &["api_ok_total{method=\"get\",x=\"y\"} 1"]);
    check(mapping, "api.a.b.request.ok:1|c\napi.noise.a:1|c\nplain.one:1|g\n", &["rest{of=\"a.b.request.ok\"} 1", "plain_one 1"]);
    let heard = heard_with(mapping, 100);
    heard.hear(b"api.noise.a:1|c\napi.noise.a:1|c\n", Instant::now());
    assert_eq!((heard.counts().dropped, heard.counts().lines), (2, 2));
}

#[test]
fn what_is_wrong_is_counted_by_its_part_and_changes_nothing_else() {
    let (heard, now) = (heard_with("", 100), Instant::now());
    heard.hear(b"a:1|c\na:x|c\na:-1|c\na:1|g\nb|c\n:1|c\nb:1|q\nb:1|c|@9\n_e{1,1}:a|b\n_sc|a|0\n\n", now);
    let counts = heard.counts();
    let of = |wrong: Wrong| counts.malformed[Wrong::ALL.iter().position(|known| *known == wrong).unwrap()];
    assert_eq!([Wrong::Value, Wrong::Conflict, Wrong::Name, Wrong::Type, Wrong::Rate, Wrong::Long].map(of), [3, 1, 1, 1, 1, 0]);
    assert_eq!((counts.ignored, counts.lines), (2, 10));
    assert_eq!(written(&heard, now), ["a 1"]);
    // Names that a histogram's lines have are not others', in either order.
    heard.hear(b"t:1|ms\nt_count:1|c\nu_sum:1|c\nu:1|ms\n", now);
    assert_eq!(heard.counts().malformed[5], 3);
}

#[test]
fn series_beyond_the_bound_are_left_out_until_others_go() {
    let (heard, now) = (heard_with(", ttl = \"10s\"", 2), Instant::now());
    heard.hear(b"a:1|c\nb:1|c\nc:1|c\nc:1|c\n", now);
    assert_eq!((written(&heard, now).len(), heard.counts().left_out), (2, 2));
    let later = now + Duration::from_secs(6);
    heard.hear(b"b:1|c\n", later);
    let last = now + Duration::from_secs(10);
    heard.hear(b"c:1|c\n", last);
    assert_eq!(written(&heard, last), ["c 1", "b 2"]);
    // What was forgotten begins anew.
    heard.hear(b"a:1|c\n", last + Duration::from_secs(10));
    assert_eq!(written(&heard, last + Duration::from_secs(10)), ["a 1"]);
}

#[test]
fn values_of_sets_are_bounded_and_forgotten_after_a_while() {
    let (heard, now) = (heard_with("", 10), Instant::now());
    for number in 0..=SET_VALUES_MAX {
        heard.hear(format!("s:{number}|s\n").as_bytes(), now);
    }
    assert_eq!((written(&heard, now), heard.counts().left_out), (vec![format!("s {SET_VALUES_MAX}")], 1));
    assert_eq!(written(&heard, now + SET_WINDOW), ["s 0"]);
    heard.hear(b"s:a|s", now + SET_WINDOW);
    assert_eq!(written(&heard, now + SET_WINDOW), ["s 1"]);
}

#[test]
fn labels_are_bounded() {
    let (heard, now) = (heard_with("", 10), Instant::now());
    let many = (0..=LABELS_MAX).map(|number| format!("k{number}:v")).collect::<Vec<_>>().join(",");
    let long = "v".repeat(LABEL_BYTES_MAX + 1);
    heard.hear(format!("a:1|c|#{many}\na:1|c|#k:{long}\n{}:1|c\n", "n".repeat(NAME_BYTES_MAX + 1)).as_bytes(), now);
    assert_eq!((written(&heard, now).len(), heard.counts().malformed[4]), (0, 3));
}

#[test]
fn what_is_remembered_of_lines_is_bounded() {
    let (heard, now) = (heard_with("", 1), Instant::now());
    for number in 0..3 * WRITTEN_MIN {
        heard.hear(format!("a:1|c|T{number}\n").as_bytes(), now);
    }
    assert!(heard.lock().written.len() <= WRITTEN_MIN);
    assert_eq!(written(&heard, now), [format!("a {}", 3 * WRITTEN_MIN)]);
}

/// Each was looked for among the names of all: minutes, during which nobody was heard.
#[test]
fn series_that_go_together_take_no_longer_than_alone() {
    const MANY: usize = 200_000;
    let (heard, now) = (heard_with(", ttl = \"1s\"", MANY), Instant::now());
    for number in 0..MANY {
        heard.hear(format!("a{number}:1|g").as_bytes(), now);
    }
    let began = Instant::now();
    assert!(written(&heard, now + Duration::from_secs(2)).is_empty());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // And their names are free again.
    heard.hear(b"a1:1|ms", now + Duration::from_secs(2));
    assert_eq!(heard.counts().malformed.iter().sum::<u64>(), 0);
}

#[test]
fn what_is_malformed_makes_no_series() {
    let (heard, now) = (heard_with("", 1), Instant::now());
    heard.hear(b"a:x|c\nb:-1|c\nc:|g\nd:y|ms\ne:1|c", now);
    assert_eq!((written(&heard, now), heard.counts().malformed[1]), (vec!["e 1".to_owned()], 4));
}

#[test]
fn no_rate_stands_for_more_than_a_million() {
    check("", "a:1|c|@0.000000001\n", &["a 1000000"]);
}

#[test]
fn a_tag_that_is_a_label_of_ours_goes_by_another_name() {
    let (heard, now) = (heard_with("", 10), Instant::now());
    heard.hear(b"a:1|c|#site:x\na:2|c|#site:y\n", now);
    let mut page = Page::new(10);
    heard.write(&[("site".to_owned(), "us".to_owned())], &mut page, now);
    let page = page.write(Format::Text);
    assert!(page.contains("a{exported_site=\"x\",site=\"us\"} 1\na{exported_site=\"y\",site=\"us\"} 2\n"), "{page}");
}
