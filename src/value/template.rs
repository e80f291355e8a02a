//! Text with holes: `"https://{host}{uri}"`, filled in per request.
//!
//! The holes are a closed set, checked when the configuration is read; a request cannot add one.

use super::{Decode, Item, Reader, nearest};

macro_rules! variables {
    ($( $(#[$meta:meta])* $variant:ident = $name:literal ),* $(,)?) => {
        /// What may stand between braces.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Variable {
            $( $(#[$meta])* $variant, )*
            /// `{header.NAME}`: a header of the request as it came; lower case.
            Header(String),
            /// `{query.NAME}`: the first value of a parameter as it came, not decoded.
            QueryValue(String),
        }

        impl Variable {
            const NAMES: &[&str] = &[$( $name ),*];

            fn parse(text: &str) -> Option<Self> {
                if let Some(name) = text.strip_prefix("header.") {
                    let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
                    return fits.then(|| Self::Header(name.to_ascii_lowercase()));
                }
                if let Some(name) = text.strip_prefix("query.") {
                    let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b"&=#{}".contains(&b));
                    return fits.then(|| Self::QueryValue(name.to_owned()));
                }
                match text {
                    $( $name => Some(Self::$variant), )*
                    _ => None,
                }
            }
        }
    };
}

variables! {
    /// Address of the client, seen through trusted proxies.
    ClientIp = "client_ip",
    /// Host of the request without its port, lower case as received.
    Host = "host",
    /// Host with its port, as received.
    Authority = "authority",
    /// Path as received, without the query.
    Path = "path",
    /// Path and query as received.
    Uri = "uri",
    /// Query without its question mark; empty if there is none.
    Query = "query",
    Method = "method",
    /// `http` or `https`, as the client spoke it.
    Scheme = "scheme",
    /// The request's `X-Request-Id`.
    RequestId = "request_id",
    /// Name of the route that matched; empty for a listener's own service.
    Route = "route",
    /// Name of the listener.
    Listener = "listener",
    /// Server name the client asked for in its TLS handshake.
    TlsSni = "tls.sni",
    /// Subject of the client's verified certificate.
    TlsClientSubject = "tls.client.subject",
    /// `TLSv1.3` and the like.
    TlsVersion = "tls.version",
    /// Name of the leaf that is asked. Of a scatter only, as the three below.
    Leaf = "leaf",
    /// Its place among the leaves, from 0.
    LeafIndex = "leaf.index",
    LeafCount = "leaf.count",
    /// What it is asked for, of a list.
    LeafItem = "item",
}

impl Variable {
    /// Whether it says something only where a scatter asks its leaves.
    fn is_leafs(&self) -> bool {
        matches!(self, Self::Leaf | Self::LeafIndex | Self::LeafCount | Self::LeafItem)
    }
}

/// A parsed template. Equal when written alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Hole(Variable),
}

/// Fills holes.
pub trait Lookup {
    /// Appends the variable's value to `out`; nothing if it has none.
    fn write(&self, variable: &Variable, out: &mut Vec<u8>);
}

impl Template {
    /// `{{` and `}}` stand for braces. The error names the hole that is unknown or unfinished.
    pub fn parse(text: &str) -> Result<Self, String> {
        let template = Self::parse_for_leaves(text)?;
        let is_leafs = |part: &Part| matches!(part, Part::Hole(variable) if variable.is_leafs());
        if template.parts.iter().any(is_leafs) {
            return Err("`{leaf}`, `{leaf.index}`, `{leaf.count}` and `{item}` are for what a scatter asks its leaves".to_owned());
        }
        Ok(template)
    }

    /// As [`Template::parse`], where there are leaves.
    pub fn parse_for_leaves(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            if rest[at + 1..].starts_with(brace) {
                literal.push_str(brace);
                rest = &rest[at + 2..];
                continue;
            }
            if brace == "}" {
                return Err("`}` without `{`; write `}}` for a brace".to_owned());
            }
            let Some(end) = rest[at..].find('}') else {
                return Err("`{` without `}`; write `{{` for a brace".to_owned());
            };
            let name = &rest[at + 1..at + end];
            let Some(variable) = Variable::parse(name) else {
                return Err(match nearest(name, Variable::NAMES.iter().copied()) {
                    Some(known) => format!("unknown variable `{{{name}}}`; did you mean `{{{known}}}`?"),
                    None => format!(
                        "unknown variable `{{{name}}}`; known are {{{}}}, {{header.NAME}} and {{query.NAME}}",
                        Variable::NAMES.join("} {")
                    ),
                });
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Hole(variable));
            rest = &rest[at + end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts })
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub fn literal(text: &str) -> Self {
        Self { parts: vec![Part::Text(text.to_owned())] }
    }

    /// Whether every filled-in text begins so.
    pub fn begins_with(&self, text: &str) -> bool {
        matches!(self.parts.first(), Some(Part::Text(first)) if first.starts_with(text))
    }

    /// Appends the filled-in text to `out`.
    pub fn write(&self, lookup: &impl Lookup, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Hole(variable) => lookup.write(variable, out),
            }
        }
    }
}

impl Decode for Template {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        decoded(item, reader, Self::parse)
    }
}

/// A template of what a scatter asks its leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafTemplate(pub Template);

impl Decode for LeafTemplate {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        decoded(item, reader, Template::parse_for_leaves).map(Self)
    }
}

fn decoded(item: &Item, reader: &mut Reader<'_>, parse: impl Fn(&str) -> Result<Template, String>) -> Option<Template> {
    let text = String::decode(item, reader)?;
    if let Some(wrong) = text.bytes().find(|&b| b < 0x20 && b != b'\t' || b == 0x7f) {
        reader.error(item.place, format!("byte 0x{wrong:02x} cannot stand in a header")).help("remove it; a header is one line");
        return None;
    }
    match parse(&text) {
        Ok(template) => Some(template),
        Err(reason) => {
            reader.error(item.place, reason).help("variables stand in braces, such as {host}; {{ and }} stand for braces");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Lookup for Fixed {
        fn write(&self, variable: &Variable, out: &mut Vec<u8>) {
            out.extend_from_slice(match variable {
                Variable::Host => b"a.example",
                Variable::Header(name) if name == "x-a" => b"1",
                _ => b"?",
            });
        }
    }

    #[track_caller]
    fn check(template: &str, filled: &str) {
        let mut out = Vec::new();
        Template::parse(template).unwrap().write(&Fixed, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), filled);
    }

    #[test]
    fn holes_are_filled_and_braces_doubled() {
        check("https://{host}/{header.x-a}", "https://a.example/1");
        check("{{host}}", "{host}");
        check("", "");
    }

    #[test]
    fn an_unknown_hole_is_an_error_with_a_suggestion() {
        assert!(Template::parse("{hots}").unwrap_err().contains("`{host}`"));
        assert!(Template::parse("{").is_err());
        assert!(Template::parse("}").is_err());
    }
}
