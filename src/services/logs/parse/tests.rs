//! Lines of every kind, and what is read of them.

use proptest::prelude::*;

use crate::proto::logs::{Envelope, Grok, Parsers, json};
use crate::value::decoded;

const NOW: &str = "2026-01-05T00:00:00Z";

#[track_caller]
fn check(parse: &str, line: &str, wanted: &str) {
    let parsers = decoded::<Parsers>(parse).unwrap();
    let mut out = Vec::new();
    let record = parsers.parse(line, NOW).unwrap_or_else(|| panic!("{parse} does not fit {line}"));
    record.write("s", NOW, &mut out);
    let written = String::from_utf8(out).unwrap();
    let written = written.strip_prefix("{\"ts\":\"").unwrap().replacen(",\"source\":\"s\"", "", 1);
    assert_eq!(written.trim_end().trim_end_matches('}'), wanted.trim_end_matches('}'), "{line}");
}

#[track_caller]
fn check_unfit(parse: &str, line: &str) {
    assert_eq!(decoded::<Parsers>(parse).unwrap().parse(line, NOW), None, "{line}");
}

#[test]
fn json_moves_what_is_nested() {
    check(
        "\"json\"",
        r#" {"time":"2026-01-02T03:04:05Z","severity":"WARNING","message":"a\nb","n":1.50,"big":12345678901234567890,"o":{"b" : [1,{}]},"x":null,"n":2} "#,
        r#"2026-01-02T03:04:05Z","level":"warn","msg":"a\nb","big":12345678901234567890,"o":{"b" : [1,{}]},"x":null,"n":2"#,
    );
    check("\"json\"", r#"{"t":1767323045,"level":30,"msg":"m"}"#, r#"2026-01-02T03:04:05Z","level":"info","msg":"m""#);
    // What is no time and no text stays what it is.
    check("\"json\"", r#"{"ts":"soon","msg":{"a":1}}"#, r#"2026-01-05T00:00:00Z","ts_":"soon","msg_":{"a":1}"#);
    for line in ["", "[1]", "x", "{", r#"{"a":}"#, r#"{"a":1} x"#, "{\"a\":\"\u{1}\"}"] {
        check_unfit("\"json\"", line);
    }
    // However deep it is, it is not descended into.
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(json(&deep).map(|record| record.fields.len()), Some(1));
}

#[test]
fn logfmt_has_keys_and_values() {
    check(
        "\"logfmt\"",
        r#"ts=2026-01-02T03:04:05Z level=ERR msg="a \"b\" c" took=1.5 flag zip=007 empty="" "#,
        r#"2026-01-02T03:04:05Z","level":"error","msg":"a \"b\" c","took":1.5,"flag":true,"zip":"007","empty":"""#,
    );
    for line in ["", "no pairs here", "a=\"open", "a=\"b\"c", "=x", "a=\"\\", "a=\"\\é", "\"a\"=1"] {
        check_unfit("\"logfmt\"", line);
    }
}

#[test]
fn access_logs_are_read() {
    let line = r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a?b HTTP/1.0" 503 2326"#;
    let common = r#"2000-10-10T20:55:36Z","level":"error","msg":"GET /a?b HTTP/1.0","client":"127.0.0.1","user":"frank","method":"GET","path":"/a?b","protocol":"HTTP/1.0","status":503,"bytes":2326"#;
    check("\"combined\"", line, common);
    check(
        "\"common\"",
        &format!(r#"{line} "http://x/" "curl \"q\"" 0.003"#),
        &format!(r#"{common},"referer":"http://x/","agent":"curl \"q\"","rest":"0.003""#),
    );
    check(
        "\"combined\"",
        r#"::1 - - [10/Oct/2000:13:55:36 -0700] "\x16\x03\x01" 400 - "-" "-""#,
        r#"2000-10-10T20:55:36Z","level":"warn","msg":"\u0016\u0003\u0001","client":"::1","status":400"#,
    );
    for line in [
        "",
        "a b c",
        r#"1 - - [10/Oct/2000:13:55:36 -0700] "GET" 0200 1"#,
        r#"1 - - [10/Oct/2000:13:55:36 -0700] "GET" 99 1"#,
        r#"1 - - [x] "GET" 200 1"#,
        r#"1 - - [10/Oct/2000:13:55:36 -0700] "GET"#,
    ] {
        check_unfit("\"combined\"", line);
    }
}

#[test]
fn syslog_is_read_in_both_forms() {
    check(
        "\"syslog\"",
        "<34>1 2003-10-11T22:14:15.003Z mymachine.example su 77 ID47 [ex@1 a=\"1\" b=\"x\\]\\\"y\"][e2] \u{feff}'su root' failed",
        r#"2003-10-11T22:14:15.003Z","level":"fatal","msg":"'su root' failed","facility":"auth","host":"mymachine.example","app":"su","pid":77,"msgid":"ID47","ex@1.a":"1","ex@1.b":"x]\"y""#,
    );
    check("\"syslog\"", "<14>1 - - - - - -", r#"2026-01-05T00:00:00Z","level":"info","msg":"","facility":"user""#);
    check(
        "\"syslog\"",
        "<13>Jan  2 03:04:05 box app[12]: hello: there",
        r#"2026-01-02T03:04:05Z","level":"info","msg":"hello: there","facility":"user","host":"box","app":"app","pid":12"#,
    );
    check("\"syslog\"", "Dec 31 03:04:05 box cron: ran", r#"2025-12-31T03:04:05Z","msg":"ran","host":"box","app":"cron""#);
    check("\"syslog\"", "2026-01-02T03:04:05+00:00 box app: x", r#"2026-01-02T03:04:05+00:00","msg":"x","host":"box","app":"app""#);
    check("\"syslog\"", "<11>no time at all", r#"2026-01-05T00:00:00Z","level":"error","msg":"no time at all","facility":"user""#);
    for line in ["", "plain text", "<999>x", "<1>1 soon - - - - -", "<1>1 - - - - - [open a=\"b", "Jan é 03:04:05 x"] {
        check_unfit("\"syslog\"", line);
    }
}

#[test]
fn patterns_have_names() {
    check(
        r"{ regex = '^(?<level>\w+) (?<took>\d+)ms (?<msg>.*)$' }",
        "WARN 12ms it is late",
        r#"2026-01-05T00:00:00Z","level":"warn","msg":"it is late","took":12"#,
    );
    check(
        r"{ grok = '%{IP:client} %{WORD:method} %{URIPATHPARAM:path} %{NUMBER:bytes:int} %{ID:id}', patterns = { ID = '[a-z]{3}' } }",
        "10.0.0.1 GET /a/b?c=d 12 xyz",
        r#"2026-01-05T00:00:00Z","msg":"10.0.0.1 GET /a/b?c=d 12 xyz","client":"10.0.0.1","method":"GET","path":"/a/b?c=d","bytes":12,"id":"xyz""#,
    );
    check(
        "{ grok = '%{COMBINEDAPACHELOG}' }",
        r#"::1 - bob [10/Oct/2000:13:55:36 -0700] "GET /a HTTP/1.1" 200 5 "http://x/" "curl""#,
        r#"2000-10-10T20:55:36Z","msg":"::1 - bob [10/Oct/2000:13:55:36 -0700] \"GET /a HTTP/1.1\" 200 5 \"http://x/\" \"curl\"","clientip":"::1","ident":"-","auth":"bob","verb":"GET","request":"/a","httpversion":1.1,"response":200,"bytes":5,"referrer":"\"http://x/\"","agent":"\"curl\"""#,
    );
    check_unfit(r"{ regex = '^(?<n>\d+)$' }", "x");
    for (written, wanted) in [
        ("{ regex = '(' }", "this is no regex"),
        ("{ regex = 'a' }", "no group of this regex has a name"),
        ("{ grok = '%{NUMBR:a}' }", "there is no pattern `NUMBR`"),
        ("{ grok = '%{A:a}', patterns = { A = '%{A}' } }", "made of itself"),
        ("{ grok = '%{IP' }", "has no `}`"),
        ("{ regex = '(?<a>a)', patterns = { A = 'a' } }", "`patterns` is for `grok`"),
        ("\"jsn\"", "did you mean \\\"json\\\""),
        ("[\"json\", \"cri\"]", "comes first"),
        ("[]", "this has 0"),
        ("{ csv = [] }", "every column needs a name"),
        ("{ csv = ['a'], separator = ';;' }", "one character"),
        ("{ csv = ['a'], regex = 'a' }", "a parser is one thing"),
    ] {
        let error = decoded::<Parsers>(written).unwrap_err();
        assert!(error.contains(wanted), "{written}: {error}");
    }
}

#[test]
fn every_known_pattern_is_a_regex() {
    for name in Grok::known() {
        assert!(decoded::<Parsers>(&format!("{{ grok = '%{{{name}:it}}' }}")).is_ok(), "{name}");
    }
}

#[test]
fn csv_has_as_many_columns_as_names() {
    let parse = "{ csv = ['ts', 'level', 'msg', 'n'], separator = ';' }";
    check(parse, "2026-01-02T03:04:05Z;info;\"a \"\"b\"\"; c\";5", r#"2026-01-02T03:04:05Z","level":"info","msg":"a \"b\"; c","n":5"#);
    for line in ["a;b;c", "a;b;c;d;e", "\"a;b;c;d", "\"a\"x;b;c;d"] {
        check_unfit(parse, line);
    }
}

#[test]
fn the_first_that_fits_counts() {
    let parse = "[\"json\", \"logfmt\", \"text\"]";
    check(parse, "{\"a\":1}", r#"2026-01-05T00:00:00Z","a":1"#);
    check(parse, "a=1", r#"2026-01-05T00:00:00Z","a":1"#);
    check(parse, "plain", r#"2026-01-05T00:00:00Z","msg":"plain""#);
}

#[test]
fn envelopes_are_taken_off() {
    let peeled = |envelope: Envelope, line: &'static str| {
        envelope.peel(line).map(|peeled| (peeled.text.into_owned(), peeled.stream.into_owned(), peeled.is_partial))
    };
    let own = |text: &str, stream: &str, is_partial: bool| Some((text.to_owned(), stream.to_owned(), is_partial));
    assert_eq!(peeled(Envelope::Cri, "2016-10-06T00:17:09.669794202Z stderr F a b"), own("a b", "stderr", false));
    assert_eq!(peeled(Envelope::Cri, "2016-10-06T00:17:09.669794202Z stdout P:x  a"), own(" a", "stdout", true));
    assert_eq!(peeled(Envelope::Cri, "2016-10-06T00:17:09.669794202Z stdout F"), own("", "stdout", false));
    assert_eq!(peeled(Envelope::Cri, "now stdout F x"), None);
    assert_eq!(
        peeled(Envelope::Docker, r#"{"log":"a \"b\"\n","stream":"stdout","time":"2016-10-06T00:17:09Z"}"#),
        own("a \"b\"", "stdout", false)
    );
    assert_eq!(peeled(Envelope::Docker, r#"{"log":"part","stream":"stdout"}"#), own("part", "stdout", true));
    assert_eq!(peeled(Envelope::Docker, r#"{"stream":"stdout"}"#), None);
    let parsers = decoded::<Parsers>("[\"cri\", \"json\"]").unwrap();
    let record = parsers.parse_within("{\"msg\":\"m\"}", Some("2016-10-06T00:17:09Z"), "stdout", NOW).unwrap();
    assert_eq!((record.ts.as_deref(), record.msg.as_deref()), (Some("2016-10-06T00:17:09Z"), Some("m")));
    assert_eq!(parsers.parse_within("plain", None, "stdout", NOW), None);
}

fn any_line() -> impl Strategy<Value = String> {
    prop_oneof![
        ".*",
        r#"[{}\[\]":,\\a-z0-9 ]{0,40}"#,
        r#"[a-z]{1,3}=("[a-z\\"]*"|[a-z0-9.]*)( [a-z=" \\]*)?"#,
        r"(<[0-9]{1,3}>)?1? ?[A-Z][a-z]{2} [ 0-9]{2} [0-9:]{8} [a-z]* [a-z\[\]:]* .*",
        r#"[0-9.]* - - \[[0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[0-9:]{8} [+-][0-9]{4}\] "[A-Z /\\"]*" [0-9-]{1,4} [0-9-]{1,4}.*"#,
    ]
}

proptest! {
    /// Whatever a line is, what becomes of it is one line that is one JSON object whose names differ.
    #[test]
    fn records_are_json(line in any_line()) {
        for written in ["\"json\"", "\"logfmt\"", "\"combined\"", "\"syslog\"", "\"text\"", "{ regex = '(?<source>[a-z]+)(?<ts>.*)' }", "{ csv = ['msg', 'msg', 'level'] }"] {
            let parsers = decoded::<Parsers>(written).unwrap();
            let Some(record) = parsers.parse(&line, NOW) else { continue };
            let mut out = Vec::new();
            record.write("s", NOW, &mut out);
            prop_assert_eq!(memchr::memchr(b'\n', &out), Some(out.len() - 1));
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&out).unwrap();
            let names = serde_json::from_slice::<Names>(&out).unwrap().0;
            prop_assert_eq!(object.len(), names);
            let ts: Result<jiff::Timestamp, _> = object["ts"].as_str().unwrap().parse();
            prop_assert!(ts.is_ok());
        }
        for envelope in [Envelope::Cri, Envelope::Docker] {
            let _ = envelope.peel(&line);
        }
    }

    /// What was JSON has the same values afterwards.
    #[test]
    fn json_keeps_its_values(values in proptest::collection::btree_map("[a-d]{1,2}", ".{0,8}", 0..6)) {
        let line = serde_json::to_string(&values).unwrap();
        let record = json(&line).unwrap();
        let mut out = Vec::new();
        record.write("s", NOW, &mut out);
        let read: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&out).unwrap();
        for (name, value) in &values {
            prop_assert_eq!(read[name].as_str(), Some(value.as_str()));
        }
    }
}

/// How many members an object has, the same one twice counted twice.
struct Names(usize);

impl<'de> serde::Deserialize<'de> for Names {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> serde::de::Visitor<'de> for Count {
            type Value = Names;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Names, M::Error> {
                let mut count = 0;
                while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Names(count))
            }
        }
        deserializer.deserialize_map(Count)
    }
}
