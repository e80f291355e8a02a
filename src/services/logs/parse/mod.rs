//! Parsers as they are written.
//!
//! Reads no line: `proto::logs` does.

use indexmap::IndexMap;

use super::settings::Word;
use crate::proto::logs::{Grok, GrokError, Named, Parser, Parsers};
use crate::value::{self, Decode, Fields, Item, Pattern, Reader, nearest};

const WORDS: [&str; 7] = ["json", "logfmt", "combined", "syslog", "cri", "docker", "text"];
const TABLES: value::Choice<'_> = value::Choice {
    kinds: &["regex", "grok", "csv"],
    rule: "a parser is one thing, this is",
    missing: "nothing says how lines are read",
    example: "regex = '^(?<level>\\w+) (?<msg>.*)$'",
};
const PARSERS_MAX: usize = 32;

impl Decode for Parser {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if let value::Value::String(_) = &item.value {
            let text = String::decode(item, reader)?;
            return Self::of_word(&text).or_else(|| {
                let near = nearest(&text, WORDS);
                let help = near.map_or_else(|| format!("one of {}", WORDS.join(", ")), |word| format!("did you mean \"{word}\"?"));
                reader.error(item.place, format!("`{}` is no parser", text.escape_debug())).help(help);
                None
            });
        }
        let mut fields = Fields::of(item, "a parser", reader)?;
        let place = fields.place();
        let kinds = TABLES.take(&mut fields);
        let patterns = fields.take("patterns");
        let separator = fields.take("separator");
        fields.finish(reader)?;
        let (kind, entry) = TABLES.only(&kinds, place, reader)?;
        for (key, written, wanted) in [("patterns", patterns, "grok"), ("separator", separator, "csv")] {
            if let Some(entry) = written.filter(|_| kind != wanted) {
                reader.error(entry.key_place, format!("`{key}` is for `{wanted}`, this is `{kind}`")).help("remove it");
                return None;
            }
        }
        match kind {
            "regex" => {
                let text = String::decode(&entry.item, reader)?;
                reader.accept(named(&text), entry.item.place, "write one such as '^(?<level>\\w+) (?<msg>.*)$'").map(Self::Pattern)
            }
            "grok" => {
                let text = String::decode(&entry.item, reader)?;
                let own = patterns.map_or(Some(IndexMap::new()), |entry| IndexMap::<Word, String>::decode(&entry.item, reader))?;
                reader.accept(grok(&text, &own), entry.item.place, "write one such as \"%{IP:client} %{WORD:method}\"").map(Self::Pattern)
            }
            _ => {
                let columns = Vec::<String>::decode(&entry.item, reader)?;
                let separator = separator.map_or(Some(",".to_owned()), |entry| String::decode(&entry.item, reader))?;
                let &[separator] = separator.as_bytes() else {
                    reader.error(place, "a separator is one character of ASCII").help("write separator = \";\"");
                    return None;
                };
                if columns.is_empty() || columns.iter().any(String::is_empty) {
                    reader.error(entry.item.place, "every column needs a name").help("write csv = [\"ts\", \"level\", \"msg\"]");
                    return None;
                }
                Some(Self::Csv(columns, separator))
            }
        }
    }
}

fn named(text: &str) -> Result<Named, String> {
    let Pattern(regex) = Pattern::parse(text)?;
    Named::regex(regex).ok_or_else(|| "no group of this regex has a name".to_owned())
}

fn grok(text: &str, own: &IndexMap<Word, String>) -> Result<Named, String> {
    let expanded = Grok::expand(text, |name| own.get(name).map(String::as_str)).map_err(|error| {
        let near = match &error {
            GrokError::Unknown(name) => nearest(name, own.keys().map(|name| name.0.as_str()).chain(Grok::known().map(|name| name as &str))),
            GrokError::Unclosed | GrokError::TooDeep(_) => None,
        };
        format!("{error}{}", near.map_or_else(String::new, |near| format!("; did you mean `{near}`?")))
    })?;
    let Pattern(regex) = Pattern::parse(&expanded.regex)?;
    Named::grok(&expanded, regex).ok_or_else(|| "nothing in this pattern has a name".to_owned())
}

impl Decode for Parsers {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let parsers = match &item.value {
            value::Value::Array(items) => {
                let parsers: Vec<Option<Parser>> = items.iter().map(|item| Parser::decode(item, reader)).collect();
                parsers.into_iter().collect::<Option<Vec<_>>>()?
            }
            _ => vec![Parser::decode(item, reader)?],
        };
        if parsers.is_empty() || parsers.len() > PARSERS_MAX {
            reader
                .error(item.place, format!("a list of parsers has 1 to {PARSERS_MAX}, this has {}", parsers.len()))
                .help("write parse = \"json\"");
            return None;
        }
        if parsers.iter().skip(1).any(|parser| matches!(parser, Parser::Envelope(_))) {
            reader.error(item.place, "what lines are wrapped in comes first").help("write parse = [\"cri\", \"json\"]");
            return None;
        }
        Some(Self(parsers))
    }
}

#[cfg(test)]
mod tests;
