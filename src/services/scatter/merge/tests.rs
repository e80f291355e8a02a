//! Merges: exact answers for small ones, laws for all.
//!
//! Which answers there are to merge is tested where leaves are asked.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::settings::{By, Count, Fold, Mean, Order, Place, Set, Topk};
use super::*;

const ASK: Ask<'static> = Ask { query: Some(b"size=2&from=1&q=a"), boundary: 0xabc };

fn place(text: &str) -> Place {
    Place(text.split('/').skip(1).map(str::to_owned).collect())
}

fn merged(merge: &Merge, bodies: &[String]) -> Result<Merged, Misfit> {
    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut answers = Vec::new();
    for (number, (body, leaf)) in bodies.iter().zip(NAMES.iter().cycle()).enumerate() {
        let body = body.as_bytes();
        let part = merge.part(body).map_err(|reason| Misfit { answer: number, reason })?;
        answers.push(Answer { leaf, status: 200, content_type: JSON, body, part });
    }
    merge.merge(&answers, &ASK)
}

#[track_caller]
fn check(merge: &Merge, bodies: &[&str], expected: &str) {
    let bodies: Vec<String> = bodies.iter().map(|body| (*body).to_owned()).collect();
    let merged = merged(merge, &bodies).unwrap();
    assert_eq!(String::from_utf8(merged.body).unwrap(), expected);
}

#[track_caller]
fn check_misfit(merge: &Merge, bodies: &[&str], answer: usize, reason: Reason) {
    let bodies: Vec<String> = bodies.iter().map(|body| (*body).to_owned()).collect();
    assert_eq!(merged(merge, &bodies), Err(Misfit { answer, reason }));
}

#[test]
fn arrays_are_put_one_behind_the_other_as_they_are() {
    let whole = Merge::Concat(Place::default());
    check(&whole, &["[1, 2]", " [ ] ", "[ {\"a\" : 1} ]"], "[1, 2,{\"a\" : 1}]");
    check(&whole, &["[]", "[]"], "[]");
    check(
        &Merge::Concat(place("/data/hits")),
        &[r#"{"n":1,"data":{"hits":[1]}}"#, r#"{"data":{"hits":[2,3]}}"#],
        r#"{"data":{"hits":[1,2,3]}}"#,
    );
    check_misfit(&whole, &["[1]", "{"], 1, Reason::NotJson);
    check_misfit(&whole, &["[1]", "[1,]"], 1, Reason::NotJson);
    check_misfit(&whole, &["{}", "[1]"], 0, Reason::Mismatch);
    check_misfit(&Merge::Concat(place("/hits")), &[r#"{"hits":[]}"#, r#"{"hit":[]}"#], 1, Reason::Mismatch);
}

#[test]
fn means_count_as_much_as_what_they_are_of() {
    let mean = |at: &[&str], by: Option<&str>| Merge::Mean(Mean { at: at.iter().map(|at| place(at)).collect(), by: by.map(place) });
    check(&mean(&["/n", "/a/b"], None), &[r#"{"n":1,"a":{"b":2}}"#, r#"{"n":4,"a":{"b":2},"x":1}"#], r#"{"a":{"b":2.0},"n":2.5}"#);
    let weighted = mean(&["/mean"], Some("/count"));
    check(&weighted, &[r#"{"mean":10,"count":1}"#, r#"{"mean":2,"count":3}"#], r#"{"count":4,"mean":4.0}"#);
    check(&weighted, &[r#"{"mean":0,"count":0}"#], r#"{"count":0,"mean":null}"#);
    check_misfit(&weighted, &[r#"{"mean":10,"count":1}"#, r#"{"mean":2}"#], 1, Reason::Mismatch);
    check_misfit(&weighted, &[r#"{"mean":10,"count":-1}"#], 0, Reason::Mismatch);
    check_misfit(&mean(&["/n"], None), &[r#"{"n":"1"}"#], 0, Reason::Mismatch);
}

#[test]
fn answers_may_stay_apart_by_name() {
    check(&Merge::Keyed, &["[1, 2]", "{ }"], r#"{"a":[1, 2],"b":{ }}"#);
    check_misfit(&Merge::Keyed, &["1", "x"], 1, Reason::NotJson);
}

#[test]
fn objects_are_merged_deeply() {
    let bodies = [r#"{"a":1,"b":{"c":1}}"#, r#"{"b":{"d":2},"e":3}"#];
    check(&Merge::Object(OnConflict::Error), &bodies, r#"{"a":1,"b":{"c":1,"d":2},"e":3}"#);
    let conflict = [r#"{"a":1,"b":{"c":1}}"#, r#"{"a":2,"b":{"c":1}}"#, r#"{"a":3}"#];
    check_misfit(&Merge::Object(OnConflict::Error), &conflict, 1, Reason::Conflict);
    check(&Merge::Object(OnConflict::First), &conflict, r#"{"a":1,"b":{"c":1}}"#);
    check(&Merge::Object(OnConflict::Last), &conflict, r#"{"a":3,"b":{"c":1}}"#);
    check(&Merge::Object(OnConflict::Array), &conflict, r#"{"a":[1,2,3],"b":{"c":[1,1]}}"#);
    // An array of the leaf's own is one value.
    check(&Merge::Object(OnConflict::Array), &[r#"{"a":[1]}"#, r#"{"a":[2]}"#], r#"{"a":[[1],[2]]}"#);
    check_misfit(&Merge::Object(OnConflict::Last), &["{}", "[]"], 1, Reason::Mismatch);
}

#[test]
fn numbers_are_folded() {
    let sum = Merge::Fold(Fold::Sum, Vec::new());
    check(&sum, &["1", "2", "3.5"], "6.5");
    check(
        &sum,
        &[r#"{"n":1,"by":{"x":2},"unit":"s"}"#, r#"{"n":10,"by":{"y":1},"unit":"s"}"#],
        r#"{"by":{"x":2,"y":1},"n":11,"unit":"s"}"#,
    );
    check(&Merge::Fold(Fold::Max, vec![place("/n")]), &[r#"{"n":1,"x":"a"}"#, r#"{"n":7}"#, r#"{"n":3}"#], r#"{"n":7}"#);
    check(
        &Merge::Fold(Fold::Min, vec![place("/a/n"), place("/m")]),
        &[r#"{"a":{"n":1},"m":2}"#, r#"{"a":{"n":0},"m":3}"#],
        r#"{"a":{"n":0},"m":2}"#,
    );
    check(&sum, &["9223372036854775807", "1"], "9223372036854775808");
    check_misfit(&sum, &[r#"{"n":1}"#, r#"{"n":"1"}"#], 1, Reason::Mismatch);
    check_misfit(&sum, &[r#"{"u":"s"}"#, r#"{"u":"ms"}"#], 1, Reason::Conflict);
    check_misfit(&Merge::Fold(Fold::Sum, vec![place("/n")]), &[r#"{"n":1}"#, "{}"], 1, Reason::Mismatch);
}

#[test]
fn sets_keep_the_order_of_the_first_that_has_a_member() {
    let by_id = || Set { at: place("/hits"), by: Some(place("/id")) };
    let bodies = [r#"{"hits":[{"id":2,"x":1},{"id":1}]}"#, r#"{"hits":[{"id":3},{"id":2,"x":9}]}"#];
    check(&Merge::Union(by_id()), &bodies, r#"{"hits":[{"id":2,"x":1},{"id":1},{"id":3}]}"#);
    check(&Merge::Intersect(by_id()), &bodies, r#"{"hits":[{"id":2,"x":1}]}"#);
    let whole = || Set { at: Place::default(), by: None };
    check(&Merge::Union(whole()), &["[1, 2, 1]", r#"[2, {"a":1,"b":2}, {"b":2, "a":1}]"#], r#"[1,2,{"a":1,"b":2}]"#);
    check(&Merge::Intersect(whole()), &["[1,2,2,3]", "[2,3]", "[3,2]"], "[2,3]");
    check_misfit(&Merge::Union(by_id()), &[r#"{"hits":[{}]}"#], 0, Reason::Mismatch);
}

fn topk(k: Count, offset: Count) -> Merge {
    let sort = Order(vec![By { place: place("/score"), is_descending: true }, By { place: place("/id"), is_descending: false }]);
    Merge::Topk(Topk { at: Place::default(), sort, k, offset })
}

#[test]
fn the_best_rows_of_all_are_found() {
    let bodies = [r#"[{"id":1,"score":5},{"id":4,"score":1}]"#, r#"[{"id":3,"score":5},{"id":2,"score":9.5},{"id":5}]"#];
    check(&topk(Count::Fixed(2), Count::Fixed(0)), &bodies, r#"[{"id":2,"score":9.5},{"id":1,"score":5}]"#);
    check(&topk(Count::Query("size".to_owned()), Count::Query("from".to_owned())), &bodies, r#"[{"id":1,"score":5},{"id":3,"score":5}]"#);
    check(&topk(Count::Fixed(9), Count::Fixed(3)), &bodies, r#"[{"id":4,"score":1},{"id":5}]"#);
    check(&topk(Count::Fixed(0), Count::Fixed(0)), &bodies, "[]");
    check_misfit(&topk(Count::Fixed(1), Count::Fixed(0)), &["[]", "{}"], 1, Reason::Mismatch);
}

#[test]
fn lines_are_documents() {
    check(&Merge::Ndjson, &["{\"a\":1}\n{\"a\":2}", "{\n  \"b\": [1,\n 2]\n}"], "{\"a\":1}\n{\"a\":2}\n{\"b\":[1,2]}\n");
    check_misfit(&Merge::Ndjson, &["1", "1\n{"], 1, Reason::NotJson);
}

#[test]
fn parts_say_whose_they_are() {
    let expected = "--attache-0000000000000abc\r\nContent-Disposition: inline; name=\"a\"\r\nContent-Type: application/json\r\n\r\n1\r\n\
                    --attache-0000000000000abc--\r\n";
    check(&Merge::Multipart, &["1"], expected);
    check(&Merge::Bytes, &["ab", "", "c"], "abc");
}

#[test]
fn what_most_say_counts() {
    check(&Merge::Quorum, &[r#"{"a":1,"b":2}"#, "{}", r#"{ "b":2, "a":1 }"#], r#"{"a":1,"b":2}"#);
    check(&Merge::Quorum, &["1", "2"], "1");
}

#[test]
fn counters_are_added_and_gauges_stay_apart() {
    let one = "# HELP hits_total Hits.\n# TYPE hits_total counter\nhits_total{path=\"/}\\\"\"} 3\nhits_total 1\n# TYPE temp gauge\ntemp 20.5\n\
               # TYPE lat histogram\nlat_bucket{le=\"0.1\"} 1\nlat_bucket{le=\"+Inf\"} 2\nlat_sum 0.5\nlat_count 2\nwho 1\n";
    let other = "# TYPE hits_total counter\nhits_total 2 1700000000000\n# TYPE temp gauge\ntemp{room=\"x\"} 21\n\
                 # TYPE lat histogram\nlat_bucket{le=\"0.1\"} 0\nlat_bucket{le=\"+Inf\"} 5\nlat_sum 2\nlat_count 5\n";
    let expected = "# HELP hits_total Hits.\n# TYPE hits_total counter\nhits_total{path=\"/}\\\"\"} 3\nhits_total 3\n\
                    # TYPE temp gauge\ntemp{leaf=\"a\"} 20.5\ntemp{room=\"x\",leaf=\"b\"} 21\n\
                    # TYPE lat histogram\nlat_bucket{le=\"0.1\"} 1\nlat_bucket{le=\"+Inf\"} 7\nlat_sum 2.5\nlat_count 7\nwho{leaf=\"a\"} 1\n";
    check(&Merge::Prometheus, &[one, other], expected);
    check_misfit(&Merge::Prometheus, &[one, "<html>"], 1, Reason::NotMetrics);
    check_misfit(&Merge::Prometheus, &[one, "# TYPE temp counter\ntemp 1\n"], 1, Reason::Conflict);
}

fn rows() -> impl Strategy<Value = Vec<Vec<(u8, u8)>>> {
    prop::collection::vec(prop::collection::vec((0..20_u8, 0..20_u8), 0..12), 1..6)
}

fn documents(rows: &[Vec<(u8, u8)>]) -> Vec<String> {
    rows.iter().map(|rows| rows.iter().map(|(id, score)| json!({ "id": id, "score": score })).collect::<Value>().to_string()).collect()
}

proptest! {
    #[test]
    fn the_best_rows_are_those_of_the_sorted_union(rows in rows(), k in 0..20_usize, offset in 0..10_usize) {
        let bodies = documents(&rows);
        let merged = merged(&topk(Count::Fixed(k), Count::Fixed(offset)), &bodies).unwrap();
        let mut all: Vec<(u8, u8)> = rows.concat();
        all.sort_by_key(|(id, score)| (std::cmp::Reverse(*score), *id));
        let expected: Vec<Value> = all.iter().skip(offset).take(k).map(|(id, score)| json!({ "id": id, "score": score })).collect();
        prop_assert_eq!(serde_json::from_slice::<Vec<Value>>(&merged.body).unwrap(), expected);
    }

    #[test]
    fn an_intersection_is_what_all_have(rows in rows()) {
        let bodies = documents(&rows);
        let set = Set { at: Place::default(), by: Some(place("/id")) };
        let merged = merged(&Merge::Intersect(set), &bodies).unwrap();
        let ids = |rows: &[(u8, u8)]| rows.iter().map(|(id, _)| *id).collect::<std::collections::BTreeSet<u8>>();
        let common = rows.iter().map(|rows| ids(rows)).reduce(|one, other| &one & &other).unwrap();
        let found: Vec<Value> = serde_json::from_slice(&merged.body).unwrap();
        let found: std::collections::BTreeSet<u8> = found.iter().map(|row| row["id"].as_u64().unwrap() as u8).collect();
        prop_assert_eq!(found, common);
    }

    #[test]
    fn a_sum_over_shards_is_that_of_the_whole(parts in prop::collection::vec(prop::collection::btree_map("[a-e]", -1000..1000_i64, 0..5), 1..8)) {
        let bodies: Vec<String> = parts.iter().map(|part| json!(part).to_string()).collect();
        let merged = merged(&Merge::Fold(Fold::Sum, Vec::new()), &bodies).unwrap();
        let mut whole = std::collections::BTreeMap::<String, i64>::new();
        for (key, value) in parts.into_iter().flatten() {
            *whole.entry(key).or_default() += value;
        }
        prop_assert_eq!(serde_json::from_slice::<Value>(&merged.body).unwrap(), json!(whole));
    }

    #[test]
    fn concatenation_is_that_of_the_arrays(rows in rows()) {
        let bodies = documents(&rows);
        let merged = merged(&Merge::Concat(Place::default()), &bodies).unwrap();
        let expected: Vec<Value> = bodies.iter().flat_map(|body| serde_json::from_str::<Vec<Value>>(body).unwrap()).collect();
        prop_assert_eq!(serde_json::from_slice::<Vec<Value>>(&merged.body).unwrap(), expected);
    }
}
