//! `${NAME}` and `${NAME:-default}` in the strings of a document.
//!
//! Does not read the environment itself: whoever loads says where names are looked up.

use std::ops::Range;

/// What is wrong with one `${…}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Bytes of the string, from its first character.
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) help: String,
}

const HELP: &str = "write `${NAME}` or `${NAME:-default}`, or `$${` for the characters `${`";

/// Fills in every `${…}` and turns `$$` into `$`. Any other `$` stays: regular expressions end in one.
///
/// What cannot be filled in is left out of the text and noted in `faults`.
pub(super) fn substitute(text: &str, environment: &dyn Fn(&str) -> Option<String>, faults: &mut Vec<Fault>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(dollar) = text[at..].find('$').map(|found| at + found) {
        filled.push_str(&text[at..dollar]);
        let rest = &text[dollar..];
        if rest.starts_with("$$") {
            filled.push('$');
            at = dollar + 2;
        } else if rest.starts_with("${") {
            let length = rest.find('}').map_or(rest.len(), |brace| brace + 1);
            match expand(&rest[..length], environment) {
                Ok(value) => filled.push_str(&value),
                Err((message, help)) => faults.push(Fault { span: dollar..dollar + length, message, help }),
            }
            at = dollar + length;
        } else {
            filled.push('$');
            at = dollar + 1;
        }
    }
    filled.push_str(&text[at..]);
    filled
}

/// The value of one `${…}`, or a message and a remedy.
fn expand(hole: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, (String, String)> {
    let Some(inside) = hole.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else {
        return Err(("`${` without `}`".to_owned(), HELP.to_owned()));
    };
    let name_length = inside.bytes().take_while(|&b| b.is_ascii_alphanumeric() || b == b'_').count();
    let (name, rest) = inside.split_at(name_length);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err((format!("`{hole}` does not start with the name of a variable"), HELP.to_owned()));
    }
    let value = environment(name);
    if rest.is_empty() {
        return value.ok_or_else(|| unset(name));
    }
    let Some(default) = rest.strip_prefix(":-") else {
        return Err((format!("`{rest}` after `{name}` is not understood"), HELP.to_owned()));
    };
    // The first `}` ends a hole, so an inner one would end the outer one too early without a word.
    if default.replace("$$", "").contains("${") {
        return Err((format!("the default of `{name}` holds another `${{`"), "a default is plain text".to_owned()));
    }
    // As the shell does: `:-` minds empty values too.
    Ok(value.filter(|value| !value.is_empty()).unwrap_or_else(|| default.replace("$$", "$")))
}

fn unset(name: &str) -> (String, String) {
    let message = format!("environment variable `{name}` is not set");
    (message, format!("set it, or give it a default: `${{{name}:-…}}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("app".to_owned()),
            "_P1" => Some("$$80".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[track_caller]
    fn check(text: &str, filled: &str) {
        let mut faults = Vec::new();
        assert_eq!(substitute(text, &environment, &mut faults), filled);
        assert_eq!(faults, []);
    }

    #[track_caller]
    fn check_faults(text: &str, expected: &[(&str, &str)]) {
        let mut faults = Vec::new();
        substitute(text, &environment, &mut faults);
        let found: Vec<_> = faults.iter().map(|f| (&text[f.span.clone()], f.message.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn names_are_replaced_wherever_they_stand() {
        check("${HOST}", "app");
        check("http://${HOST}:8080/${HOST}", "http://app:8080/app");
        check("é${HOST}é", "éappé");
    }

    #[test]
    fn what_comes_from_the_environment_is_not_read_again() {
        check("${_P1}", "$$80");
    }

    #[test]
    fn a_default_stands_in_for_unset_and_for_empty() {
        check("${HOST:-x}", "app");
        check("${NONE:-x}", "x");
        check("${EMPTY:-x}", "x");
        check("${EMPTY}", "");
        check("${NONE:-}", "");
        check("${NONE:-a:-b$$}", "a:-b$");
    }

    #[test]
    fn a_dollar_without_a_brace_is_a_dollar() {
        check("^/a$", "^/a$");
        check("$HOST $ 5", "$HOST $ 5");
        check("$$ $${HOST}", "$ ${HOST}");
        check("$$$${HOST}", "$${HOST}");
        check("$$${HOST}", "$app");
    }

    #[test]
    fn every_wrong_hole_is_reported() {
        check_faults(
            "a ${NONE} é ${} ${1A} ${HOST:=x} ${HOST ${HOST}",
            &[
                ("${NONE}", "environment variable `NONE` is not set"),
                ("${}", "`${}` does not start with the name of a variable"),
                ("${1A}", "`${1A}` does not start with the name of a variable"),
                ("${HOST:=x}", "`:=x` after `HOST` is not understood"),
                ("${HOST ${HOST}", "` ${HOST` after `HOST` is not understood"),
            ],
        );
        check_faults("a ${HOST", &[("${HOST", "`${` without `}`")]);
        check_faults("${NONE:-${HOST}}", &[("${NONE:-${HOST}", "the default of `NONE` holds another `${`")]);
    }
}
