//! In what two answers differ.
//!
//! Looks at one pair; which differences mean something, `differences` knows from many.

use serde_json::Value;

use super::pointer::Pointer;
use super::settings::Compare;

/// An answer as far as it is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// All of the body is here.
    pub is_whole: bool,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `status`, `header NAME`, `body`, or a place in JSON with `*` for any index.
    pub path: String,
    /// What each has there, in short and without secrets.
    pub primary: String,
    pub candidate: String,
}

/// Differences that are looked for in one pair; more would say the same.
const FOUND_MAX: usize = 100;
/// Of a value that is shown.
const SHOWN_MAX: usize = 200;
const ABSENT: &str = "(absent)";

/// Why two answers were not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incomparable;

/// What differs. An error if what is to be compared is not all here.
pub fn compare(rules: &Compare, primary: &Seen, candidate: &Seen) -> Result<Vec<Difference>, Incomparable> {
    let mut found = Vec::new();
    if rules.status && primary.status != candidate.status {
        found.push(Difference { path: "status".to_owned(), primary: primary.status.to_string(), candidate: candidate.status.to_string() });
    }
    for name in &rules.headers {
        let name = name.0.to_ascii_lowercase();
        let of = |seen: &Seen| {
            let values: Vec<&str> = seen.fields.iter().filter(|(field, _)| *field == name).map(|(_, value)| value.as_str()).collect();
            if values.is_empty() { ABSENT.to_owned() } else { values.join(", ") }
        };
        let (ours, theirs) = (of(primary), of(candidate));
        if ours != theirs {
            let shown = |text: &str| if is_secret(&name) { HIDDEN.to_owned() } else { short(text) };
            found.push(Difference { path: format!("header {name}"), primary: shown(&ours), candidate: shown(&theirs) });
        }
    }
    // Where answers mean different things, so do their bodies.
    if rules.json && primary.status == candidate.status {
        match (primary.json()?, candidate.json()?) {
            (Some(ours), Some(theirs)) => {
                let mut walk = Walk { rules, path: Vec::new(), found: &mut found };
                walk.compare(Some(&ours), Some(&theirs));
            }
            (None, None) => {}
            (ours, theirs) => {
                let of = |json: Option<Value>| if json.is_some() { "JSON" } else { "not JSON" }.to_owned();
                found.push(Difference { path: "body".to_owned(), primary: of(ours), candidate: of(theirs) });
            }
        }
    }
    found.truncate(FOUND_MAX);
    Ok(found)
}

impl Seen {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// `None` if it is none.
    fn json(&self) -> Result<Option<Value>, Incomparable> {
        let kind = self.field("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_json = kind == "application/json" || kind.ends_with("+json");
        if !is_json {
            return Ok(None);
        }
        if !self.is_whole || self.field("content-encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(Incomparable);
        }
        Ok(serde_json::from_slice(&self.body).ok())
    }
}

struct Walk<'a> {
    rules: &'a Compare,
    path: Vec<String>,
    found: &'a mut Vec<Difference>,
}

impl Walk<'_> {
    fn compare(&mut self, ours: Option<&Value>, theirs: Option<&Value>) {
        let is_named = |pointers: &[Pointer], path: &[String]| pointers.iter().any(|pointer| pointer.covers(path));
        if self.found.len() >= FOUND_MAX || is_named(&self.rules.ignore, &self.path) {
            return;
        }
        match (ours, theirs) {
            (Some(Value::Object(ours)), Some(Value::Object(theirs))) => {
                for key in ours.keys().chain(theirs.keys().filter(|key| !ours.contains_key(*key))) {
                    self.below(key.clone(), |walk| walk.compare(ours.get(key), theirs.get(key)));
                }
            }
            (Some(Value::Array(ours)), Some(Value::Array(theirs))) => {
                let is_unordered = self.rules.unordered.iter().any(|pointer| pointer.is(&self.path));
                if is_unordered {
                    let (ours, theirs) = (self.sorted(ours), self.sorted(theirs));
                    self.items(&ours, &theirs);
                } else {
                    self.items(&ours.iter().collect::<Vec<_>>(), &theirs.iter().collect::<Vec<_>>());
                }
            }
            (Some(Value::Number(one)), Some(Value::Number(other))) if one != other => {
                let near = match (one.as_f64(), other.as_f64()) {
                    (Some(one), Some(other)) => (one - other).abs() <= self.rules.tolerance.fraction() * one.abs().max(other.abs()),
                    _ => false,
                };
                if !near {
                    self.differ(ours, theirs);
                }
            }
            (ours, theirs) if ours == theirs => {}
            (ours, theirs) => self.differ(ours, theirs),
        }
    }

    fn items(&mut self, ours: &[&Value], theirs: &[&Value]) {
        for index in 0..ours.len().max(theirs.len()) {
            self.below(index.to_string(), |walk| walk.compare(ours.get(index).copied(), theirs.get(index).copied()));
        }
    }

    /// In an order that says nothing of where they were, nor of what is ignored in them.
    fn sorted<'v>(&self, items: &'v [Value]) -> Vec<&'v Value> {
        let mut path = self.path.clone();
        path.push("*".to_owned());
        let mut keyed: Vec<(String, &Value)> = items.iter().map(|item| (self.pruned(item, &mut path).to_string(), item)).collect();
        keyed.sort_by(|(one, _), (other, _)| one.cmp(other));
        keyed.into_iter().map(|(_, item)| item).collect()
    }

    fn pruned(&self, value: &Value, path: &mut Vec<String>) -> Value {
        if self.rules.ignore.iter().any(|pointer| pointer.covers(path)) {
            return Value::Null;
        }
        let mut below = |key: String, value: &Value| {
            path.push(key);
            let pruned = self.pruned(value, path);
            path.pop();
            pruned
        };
        match value {
            Value::Object(fields) => Value::Object(fields.iter().map(|(key, value)| (key.clone(), below(key.clone(), value))).collect()),
            Value::Array(items) => Value::Array(items.iter().map(|item| below("*".to_owned(), item)).collect()),
            other => other.clone(),
        }
    }

    fn below(&mut self, part: String, look: impl FnOnce(&mut Self)) {
        self.path.push(part);
        look(self);
        self.path.pop();
    }

    fn differ(&mut self, ours: Option<&Value>, theirs: Option<&Value>) {
        let is_hidden = self.path.iter().any(|part| is_secret(part));
        let shown = |value: Option<&Value>| match value {
            None => ABSENT.to_owned(),
            Some(_) if is_hidden => HIDDEN.to_owned(),
            Some(value) => short(&redacted(value).to_string()),
        };
        let is_index = |part: &String| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let path = self.path.iter().fold(String::new(), |mut path, part| {
            path.push('/');
            let plain = || part.replace('~', "~0").replace('/', "~1");
            path.push_str(&if is_index(part) { "*".to_owned() } else { plain() });
            path
        });
        let path = if path.is_empty() { "/".to_owned() } else { path };
        self.found.push(Difference { path: short(&path), primary: shown(ours), candidate: shown(theirs) });
    }
}

pub(super) const HIDDEN: &str = "***";

/// Whether what goes by this name is nobody's business.
pub(super) fn is_secret(name: &str) -> bool {
    const PARTS: [&str; 11] =
        ["password", "passwd", "secret", "token", "authorization", "cookie", "apikey", "api-key", "api_key", "credential", "session"];
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part))
}

fn redacted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let hide = |(key, value): (&String, &Value)| {
                (key.clone(), if is_secret(key) { Value::String(HIDDEN.to_owned()) } else { redacted(value) })
            };
            Value::Object(fields.iter().map(hide).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(redacted).collect()),
        other => other.clone(),
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{LabelText, Share, Size};

    fn rules() -> Compare {
        Compare {
            status: true,
            headers: vec![LabelText("Content-Type".to_owned())],
            json: true,
            ignore: Vec::new(),
            tolerance: Share::percent(0),
            unordered: Vec::new(),
            control: None,
            body: Size::kib(256),
        }
    }

    fn pointer(text: &str) -> Pointer {
        Pointer::of(text)
    }

    fn json(body: &str) -> Seen {
        let fields = vec![("content-type".to_owned(), "application/json; charset=utf-8".to_owned())];
        Seen { status: 200, fields, body: body.as_bytes().to_vec(), is_whole: true }
    }

    #[track_caller]
    fn check(rules: &Compare, ours: &str, theirs: &str, expected: &[(&str, &str, &str)]) {
        let found = compare(rules, &json(ours), &json(theirs)).unwrap();
        let found: Vec<(&str, &str, &str)> =
            found.iter().map(|found| (found.path.as_str(), found.primary.as_str(), found.candidate.as_str())).collect();
        assert_eq!(found, expected, "{ours} {theirs}");
    }

    #[test]
    fn json_is_compared_by_what_it_means() {
        let rules = rules();
        check(&rules, r#"{"a": 1, "b": [1, 2]}"#, r#"{"b":[1,2],"a":1}"#, &[]);
        check(&rules, r#"{"a": 1}"#, r#"{"a": 2, "b": null}"#, &[("/a", "1", "2"), ("/b", ABSENT, "null")]);
        check(&rules, r#"{"a": [{"p": 1}, {"p": 2}]}"#, r#"{"a": [{"p": 1}, {"p": 3}]}"#, &[("/a/*/p", "2", "3")]);
        check(&rules, "[1, 2]", "[1]", &[("/*", "2", ABSENT)]);
        check(&rules, "1", "\"1\"", &[("/", "1", "\"1\"")]);
        check(&rules, "{", "{}", &[("body", "not JSON", "JSON")]);
    }

    #[test]
    fn what_is_ignored_is_not_looked_at() {
        let rules = Compare { ignore: vec![pointer("/at"), pointer("/items/*/id")], ..rules() };
        check(
            &rules,
            r#"{"at": 1, "items": [{"id": 1, "n": 1}]}"#,
            r#"{"at": {"x": 2}, "items": [{"id": 2, "n": 2}]}"#,
            &[("/items/*/n", "1", "2")],
        );
        check(&rules, r#"{"at": 1}"#, "{}", &[]);
    }

    #[test]
    fn numbers_may_be_near() {
        let rules = Compare { tolerance: Share::percent(1), ..rules() };
        check(&rules, "[100, 1.0, 0]", "[101, 1.005, 0.0]", &[]);
        check(&rules, "[100, 0]", "[102, 1]", &[("/*", "100", "102"), ("/*", "0", "1")]);
    }

    #[test]
    fn order_matters_only_where_it_does() {
        let unordered = Compare { unordered: vec![pointer("/tags"), pointer("/items")], ignore: vec![pointer("/items/*/at")], ..rules() };
        check(&unordered, r#"{"tags": ["a", "b"]}"#, r#"{"tags": ["b", "a"]}"#, &[]);
        check(
            &rules(),
            r#"{"tags": ["a", "b"]}"#,
            r#"{"tags": ["b", "a"]}"#,
            &[("/tags/*", "\"a\"", "\"b\""), ("/tags/*", "\"b\"", "\"a\"")],
        );
        let (ours, theirs) =
            (r#"{"items": [{"at": 1, "n": 1}, {"at": 2, "n": 2}]}"#, r#"{"items": [{"at": 0, "n": 2}, {"at": 9, "n": 1}]}"#);
        check(&unordered, ours, theirs, &[]);
        check(
            &unordered,
            r#"{"tags": ["a", "b"]}"#,
            r#"{"tags": ["b", "c"]}"#,
            &[("/tags/*", "\"a\"", "\"b\""), ("/tags/*", "\"b\"", "\"c\"")],
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let rules = Compare { headers: vec![LabelText("set-cookie".to_owned())], ..rules() };
        check(&rules, r#"{"access_token": "a"}"#, r#"{"access_token": "b"}"#, &[("/access_token", HIDDEN, HIDDEN)]);
        check(&rules, r#"{"credentials": {"user": 1}}"#, r#"{"credentials": {"user": 2}}"#, &[("/credentials/user", HIDDEN, HIDDEN)]);
        check(&rules, r#"{"a": {"password": "x"}}"#, r#"{"a": 1}"#, &[("/a", r#"{"password":"***"}"#, "1")]);
        let with = |cookie: &str| Seen { fields: vec![("set-cookie".to_owned(), cookie.to_owned())], ..json("{}") };
        let found = compare(&rules, &with("a=1"), &with("a=2")).unwrap();
        assert_eq!((found[0].path.as_str(), found[0].primary.as_str()), ("header set-cookie", HIDDEN));
    }

    #[test]
    fn status_and_headers_count_whatever_the_body_is() {
        let other = Seen { status: 500, fields: Vec::new(), body: b"oops".to_vec(), is_whole: true };
        let found = compare(&rules(), &json("{}"), &other).unwrap();
        let paths: Vec<&str> = found.iter().map(|found| found.path.as_str()).collect();
        assert_eq!(paths, ["status", "header content-type"]);
    }

    #[test]
    fn what_is_not_all_here_is_not_compared() {
        let part = Seen { is_whole: false, ..json("{\"a\":") };
        assert_eq!(compare(&rules(), &part, &json("{}")), Err(Incomparable));
        let mut packed = json("{}");
        packed.fields.push(("content-encoding".to_owned(), "gzip".to_owned()));
        assert_eq!(compare(&rules(), &json("{}"), &packed), Err(Incomparable));
        assert_eq!(compare(&Compare { json: false, ..rules() }, &part, &json("{}")), Ok(Vec::new()));
    }
}
