//! Where in a record something is that settings speak of: to look at it, to take it out, or to have something else stand there.
//!
//! Decides nothing of that: `shape` does.

use std::borrow::Cow;

use crate::proto::logs::{LEVELS, MESSAGES, Record, Value, edited};
use crate::value::{Decode, Item, Reader, json_parts};

/// Where something is in a record: a name, or a JSON pointer (RFC 6901) into a field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldPlace {
    name: String,
    within: Vec<String>,
}

impl FieldPlace {
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, within) = if text.starts_with('/') {
            let mut parts = json_parts(text).into_iter();
            (parts.next().unwrap_or_default(), parts.collect())
        } else {
            (text.to_owned(), Vec::new())
        };
        if name.is_empty() { Err(format!("`{}` names no field", text.escape_debug())) } else { Ok(Self { name, within }) }
    }

    /// The last of its names.
    pub fn last(&self) -> &str {
        self.within.last().unwrap_or(&self.name)
    }

    /// Takes out what is there, or has something else stand there.
    pub fn edit<'r>(&'r self, record: &mut Record<'r>, with: Option<&'r str>) {
        if !self.within.is_empty() {
            let with = with.map(|with| serde_json::Value::from(with).to_string());
            for (_, value) in record.fields.iter_mut().filter(|(name, _)| *name == self.name) {
                if let Value::Json(text) = value
                    && let Some(edited) = edited(text, &self.within, with.as_deref())
                {
                    *text = Cow::Owned(edited);
                }
            }
            return;
        }
        let own = if LEVELS.contains(&self.name.as_str()) {
            &mut record.level
        } else if MESSAGES.contains(&self.name.as_str()) {
            &mut record.msg
        } else {
            &mut None
        };
        *own = own.take().and_then(|_| with.map(Cow::Borrowed));
        match with {
            None => record.fields.retain(|(name, _)| *name != self.name),
            Some(with) => record
                .fields
                .iter_mut()
                .filter(|(name, _)| *name == self.name)
                .for_each(|(_, value)| *value = Value::Text(Cow::Borrowed(with))),
        }
    }

    /// What is there: text as it is, anything else as JSON.
    pub fn of<'r>(&self, record: &'r Record<'_>) -> Option<Cow<'r, str>> {
        let is_own = |names: &[&str]| names.contains(&self.name.as_str());
        let own = match self.name.as_str() {
            "ts" => record.ts.as_deref(),
            "level" => record.level.as_deref(),
            "msg" => record.msg.as_deref(),
            // What is called so in a line may have become one of these.
            name if record.fields.iter().any(|(field, _)| field == name) => None,
            _ if is_own(&LEVELS) => record.level.as_deref(),
            _ if is_own(&MESSAGES) => record.msg.as_deref(),
            _ => None,
        };
        if let Some(own) = own.filter(|_| self.within.is_empty()) {
            return Some(Cow::Borrowed(own));
        }
        let (_, value) = record.fields.iter().find(|(name, _)| *name == self.name)?;
        match value {
            Value::Text(text) if self.within.is_empty() => Some(Cow::Borrowed(text)),
            Value::Json(text) if self.within.is_empty() => Some(Cow::Borrowed(text)),
            Value::Text(_) => None,
            Value::Json(text) => {
                let document: serde_json::Value = serde_json::from_str(text).ok()?;
                let found = self.within.iter().try_fold(&document, |at, part| match at {
                    serde_json::Value::Object(map) => map.get(part),
                    serde_json::Value::Array(list) => list.get(part.parse::<usize>().ok()?),
                    _ => None,
                })?;
                Some(Cow::Owned(found.as_str().map_or_else(|| found.to_string(), str::to_owned)))
            }
        }
    }
}

/// A place that may be left out or redacted: every record has a `ts` and a `source`.
#[derive(Clone, Debug, PartialEq)]
pub struct Hideable(pub FieldPlace);

impl Decode for Hideable {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let place = FieldPlace::decode(item, reader)?;
        if place.within.is_empty() && matches!(place.name.as_str(), "ts" | "source") {
            reader.error(item.place, format!("every record has `{}`", place.name)).help("remove this");
            return None;
        }
        Some(Self(place))
    }
}

impl Decode for FieldPlace {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        reader.accept(Self::parse(&text), item.place, "write \"level\", or \"/http/status\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lead_into_fields() {
        let record = Record {
            level: Some("info".into()),
            fields: vec![("http".into(), Value::Json("{\"status\":[200,\"x\"]}".into()))],
            ..Record::default()
        };
        let get = |place: &str| FieldPlace::parse(place).unwrap().of(&record).map(Cow::into_owned);
        assert_eq!(get("/level").as_deref(), Some("info"));
        assert_eq!(get("/http/status/0").as_deref(), Some("200"));
        assert_eq!(get("/http/status/1").as_deref(), Some("x"));
        assert_eq!(get("/http/other"), None);
        assert!(FieldPlace::parse("/").is_err() && FieldPlace::parse("").is_err());
    }
}
