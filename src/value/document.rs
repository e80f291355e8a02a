//! The merged document: TOML values that remember where they stood and how they were written.
//!
//! Knows TOML's shapes but no key of ours; [`super::Fields`] gives them meaning.

use indexmap::IndexMap;

use super::Place;

#[derive(Clone, Debug)]
pub struct Item {
    pub value: Value,
    pub place: Place,
}

#[derive(Clone, Debug)]
pub enum Value {
    String(Text),
    Integer(i64),
    Float(f64),
    Bool(bool),
    /// A TOML date; no setting takes one, but it must have a name in messages.
    Datetime(String),
    Array(Vec<Item>),
    Table(Table),
}

/// A string before and after `${NAME}` was replaced.
///
/// `/config` shows `written`, so what the environment holds never leaves the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub written: String,
    pub value: String,
}

/// Keys in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub entries: IndexMap<String, Entry>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key_place: Place,
    pub item: Item,
}

impl Item {
    /// What it is, in the operator's words.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::String(_) => "a string",
            Value::Integer(_) => "a number",
            Value::Float(_) => "a decimal number",
            Value::Bool(_) => "true or false",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// As JSON with strings as they were written, for `/config` and for the source hash.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::String(text) => Json::String(hide_password(&text.written)),
            Value::Integer(n) => Json::from(*n),
            Value::Float(x) => Json::from(*x),
            Value::Bool(b) => Json::Bool(*b),
            Value::Datetime(text) => Json::String(text.clone()),
            Value::Array(items) => Json::Array(items.iter().map(Item::to_json).collect()),
            Value::Table(table) => table.to_json(),
        }
    }

    /// As [`Item::to_json`], of what is written under `key`.
    fn to_json_under(&self, key: &str) -> serde_json::Value {
        match &self.value {
            Value::String(_) if SECRETS.contains(&key) => serde_json::Value::String("***".to_owned()),
            _ => self.to_json(),
        }
    }
}

#[cfg(test)]
impl Item {
    /// For tests below the reading of files. Gives every string the place of its first appearance.
    pub fn of_toml(value: &toml::Value, source: &str) -> Self {
        use super::{Place, SourceId};
        let place_of = |text: &str| {
            let start = source.find(text).unwrap_or(0);
            Place::new(SourceId(0), start..start + text.len())
        };
        match value {
            toml::Value::String(text) => {
                Self { place: place_of(&format!("\"{text}\"")), value: Value::String(Text { written: text.clone(), value: text.clone() }) }
            }
            toml::Value::Array(items) => {
                Self { place: place_of("["), value: Value::Array(items.iter().map(|one| Self::of_toml(one, source)).collect()) }
            }
            toml::Value::Table(entries) => {
                let entry = |(key, value): (&String, &toml::Value)| {
                    (key.clone(), Entry { key_place: place_of(key), item: Self::of_toml(value, source) })
                };
                Self { place: place_of(source), value: Value::Table(Table { entries: entries.iter().map(entry).collect() }) }
            }
            toml::Value::Integer(number) => Self { place: place_of(&number.to_string()), value: Value::Integer(*number) },
            toml::Value::Float(number) => Self { place: place_of(&number.to_string()), value: Value::Float(*number) },
            toml::Value::Boolean(is_true) => Self { place: place_of(&is_true.to_string()), value: Value::Bool(*is_true) },
            toml::Value::Datetime(_) => unreachable!("no setting is a date"),
        }
    }
}

/// Keys whose text is nobody else's business.
const SECRETS: [&str; 1] = ["secret"];

impl Table {
    pub fn to_json(&self) -> serde_json::Value {
        let pairs = self.entries.iter().map(|(key, entry)| (key.clone(), entry.item.to_json_under(key)));
        serde_json::Value::Object(pairs.collect())
    }
}

/// `scheme://user:secret@host` with the secret struck out.
fn hide_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let Some((user, _)) = authority.rsplit_once('@') else { return text.to_owned() };
    let Some((name, _)) = user.split_once(':') else { return text.to_owned() };
    format!("{scheme}://{name}:***{}", &rest[user.len()..])
}

/// Reads a value of TOML, for tests; the error has every mistake.
#[cfg(test)]
pub fn decoded<T: super::Decode>(text: &str) -> Result<T, String> {
    let mut found = super::Diagnostics::default();
    let mut sources = super::Sources::default();
    sources.add("a.toml", text);
    let document: toml::Table = format!("x = {text}").parse().expect("TOML");
    let value = T::decode(&Item::of_toml(&document["x"], text), &mut super::Reader::new(&sources, &mut found));
    value.ok_or_else(|| format!("{:?}", found.iter().collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::hide_password;

    #[test]
    fn a_password_in_an_address_is_struck_out() {
        assert_eq!(hide_password("mysql://u:p@h/db"), "mysql://u:***@h/db");
        assert_eq!(hide_password("http://h/a@b:c"), "http://h/a@b:c");
        assert_eq!(hide_password("plain"), "plain");
    }
}
