//! Filters over JSON in the language of jq, as jaq understands it.
//!
//! Reads no file and no input but the document that it is given.

use std::fmt;
use std::sync::Arc;

use jaq_core::data::JustLut;
use jaq_core::load::{Arena, File, Loader, lex};
use jaq_core::{Compiler, Ctx, Filter, Vars, load, unwrap_valr};
use jaq_json::Val;

use super::{Decode, Item, Reader};

/// A compiled filter; equal to another one that is written alike.
#[derive(Clone)]
pub struct Jq {
    text: String,
    filter: Arc<Filter<JustLut<Val>>>,
}

impl Jq {
    /// # Errors
    ///
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let functions = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let arena = Arena::default();
        let modules = Loader::new(definitions).load(&arena, File { code: text, path: () });
        let modules = modules.map_err(|errors| errors.first().map_or_else(String::new, |(_, error)| misread(error)))?;
        let filter = Compiler::default().with_funs(functions).compile(modules).map_err(|errors| {
            let first = errors.first().and_then(|(_, errors)| errors.first());
            first.map_or_else(String::new, |(name, undefined)| format!("there is no {} `{name}`", undefined.as_str()))
        })?;
        Ok(Self { text: text.to_owned(), filter: Arc::new(filter) })
    }

    /// What it makes of a document, one by one.
    pub fn run(&self, document: Val) -> impl Iterator<Item = Result<Val, String>> + '_ {
        let context = Ctx::<JustLut<Val>>::new(&self.filter.lut, Vars::new([]));
        self.filter.id.run((context, document)).map(unwrap_valr).map(|value| value.map_err(|error| error.to_string()))
    }

    /// Whether what it makes first of a document is neither `false` nor `null`.
    ///
    /// # Errors
    ///
    /// When this is no JSON, or the filter fails.
    pub fn holds(&self, document: &[u8]) -> Result<bool, String> {
        match self.run(read(document)?).next() {
            Some(Ok(value)) => Ok(!matches!(value, Val::Null | Val::Bool(false))),
            Some(Err(error)) => Err(error),
            None => Ok(false),
        }
    }
}

/// A document; nested no deeper than 128, since values are walked by recursion.
///
/// # Errors
///
/// When this is no JSON.
pub fn read(document: &[u8]) -> Result<Val, String> {
    serde_json::from_slice(document).map_err(|error| format!("its answer is no JSON: {error}"))
}

fn misread(error: &load::Error<&str>) -> String {
    match error {
        load::Error::Io(_) => "it asks for a module, and there are none".to_owned(),
        load::Error::Lex(errors) => errors.first().map_or_else(String::new, |(expected, found): &lex::Error<&str>| {
            format!("expected {} at `{}`", expected.as_str(), start(found))
        }),
        load::Error::Parse(errors) => {
            errors.first().map_or_else(String::new, |(expected, found)| format!("expected {} at `{}`", expected.as_str(), start(found)))
        }
    }
}

fn start(text: &str) -> String {
    const CHARS_MAX: usize = 20;
    if text.is_empty() { "the end".to_owned() } else { text.chars().take(CHARS_MAX).collect() }
}

impl PartialEq for Jq {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Jq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Jq").field(&self.text).finish()
    }
}

impl fmt::Display for Jq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Decode for Jq {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let parsed = Self::parse(&text).map_err(|problem| format!("this is no filter of jq: {problem}"));
        reader.accept(parsed, item.place, "write one such as '.status == \"ok\"'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, document: &str, expected: Result<bool, &str>) {
        let held = Jq::parse(filter).unwrap().holds(document.as_bytes());
        assert_eq!(held.as_ref().map_err(String::as_str).copied(), expected, "{filter} of {document}");
    }

    #[test]
    fn a_filter_holds_or_does_not() {
        check(".status == \"ok\"", r#"{"status":"ok"}"#, Ok(true));
        check(".status == \"ok\"", r#"{"status":"no"}"#, Ok(false));
        check(".status == \"ok\"", "{}", Ok(false));
        check(".a.b | length > 1", r#"{"a":{"b":[1,2]}}"#, Ok(true));
        check(".name | test(\"^v[0-9]\")", r#"{"name":"v3"}"#, Ok(true));
        check(".[] | select(. > 3)", "[1]", Ok(false));
        check(".at | fromdateiso8601 > 0", r#"{"at":"2026-01-01T00:00:00Z"}"#, Ok(true));
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let told = |filter: &str| Jq::parse(filter).map(drop).unwrap_err();
        assert_eq!(told(".a |"), "expected term at `the end`");
        assert_eq!(told("(.a"), "expected closing parenthesis at `the end`");
        assert_eq!(told(".a | nope"), "there is no filter `nope`");
        assert_eq!(told("include \"x\"; ."), "it asks for a module, and there are none");
        assert!(Jq::parse(".a.b").unwrap().holds(b"{\"a\":1}").is_err());
        assert!(Jq::parse(".").unwrap().holds(b"<html>").unwrap_err().starts_with("its answer is no JSON"));
        let deep = "[".repeat(200_000);
        assert!(Jq::parse(".").unwrap().holds(deep.as_bytes()).is_err());
    }
}
