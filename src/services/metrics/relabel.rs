//! Keeps, drops and renames series as Prometheus does with `metric_relabel_configs`.
//!
//! Only what those rules say; hashes (`hashmod`) are for those who share targets.

use std::borrow::Cow;

use regex::Regex;

use crate::proto::exposition::{Sample, plain_name};
use crate::value::{Decode, Fields, Item, Pattern, Reader, Spanned};
use crate::{settings, words};

words! {
    /// What becomes of a series.
    pub enum Action as "an action" {
        /// `target` is set to `replacement`, if the regex fits.
        Replace = "replace",
        Keep = "keep",
        Drop = "drop",
        /// Labels whose names fit are copied to names that `replacement` makes of them.
        LabelMap = "labelmap",
        LabelDrop = "labeldrop",
        LabelKeep = "labelkeep",
        Lowercase = "lowercase",
        Uppercase = "uppercase",
    }
}

settings! {
    /// As written.
    pub struct Written as "a rule" {
        /// Labels whose values are joined; `__name__` is the metric's name.
        source: Vec<String> = Vec::new(),
        separator: String = ";".to_owned(),
        /// Has to fit all of what was joined.
        regex: Spanned<String> = Spanned::new("(.*)".to_owned(), crate::value::Place::new(crate::value::SourceId(0), 0..0)),
        /// The label that is set; `$1` is what the regex found.
        target: Option<String> = None,
        replacement: String = "$1".to_owned(),
        action: Action = Action::Replace,
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    written: Written,
    regex: Regex,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Decode for Rule {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let written = Written::decode(item, reader)?;
        let needs = matches!(written.action, Action::Replace | Action::Lowercase | Action::Uppercase);
        if needs != written.target.is_some() {
            let place = Fields::of(item, "a rule", reader)?.place();
            let word = written.action.word();
            if needs {
                reader.error(place, format!("`{word}` sets a label, and nothing says which")).help("write target = \"name\"");
            } else {
                reader.error(place, format!("`{word}` sets no label")).help("remove `target`");
            }
            return None;
        }
        let parsed = Pattern::parse(&format!("^(?s:{})$", written.regex.value));
        let Pattern(regex) = reader.accept(parsed, written.regex.place, "write one such as \"http_(.*)_total\"")?;
        Some(Self { written, regex })
    }
}

const NAME: &str = "__name__";

/// `None` if it is dropped.
pub fn relabel(rules: &[Rule], mut sample: Sample) -> Option<Sample> {
    for rule in rules {
        let Written { source, separator, target, replacement, action, .. } = &rule.written;
        let value = source.iter().map(|label| get(&sample, label)).collect::<Vec<_>>().join(separator);
        match action {
            Action::Keep if !rule.regex.is_match(&value) => return None,
            Action::Drop if rule.regex.is_match(&value) => return None,
            Action::Keep | Action::Drop => {}
            Action::Replace => {
                if let (Some(captures), Some(target)) = (rule.regex.captures(&value), target) {
                    let [mut label, mut out] = [String::new(), String::new()];
                    captures.expand(&braced(target), &mut label);
                    captures.expand(&braced(replacement), &mut out);
                    // What is no name sets nothing, as in Prometheus.
                    if label == plain_name(&label, false) {
                        set(&mut sample, &label, out);
                    }
                }
            }
            Action::Lowercase | Action::Uppercase => {
                let changed = if *action == Action::Lowercase { value.to_lowercase() } else { value.to_uppercase() };
                if let Some(target) = target {
                    set(&mut sample, target, changed);
                }
            }
            Action::LabelMap => {
                let mapped: Vec<(String, String)> = sample
                    .labels
                    .iter()
                    .filter(|(name, _)| rule.regex.is_match(name))
                    .map(|(name, value)| (rule.regex.replace(name, braced(replacement).as_ref()).into_owned(), value.clone()))
                    .collect();
                for (name, value) in mapped {
                    set(&mut sample, &name, value);
                }
            }
            Action::LabelDrop => sample.labels.retain(|(name, _)| !rule.regex.is_match(name)),
            Action::LabelKeep => sample.labels.retain(|(name, _)| rule.regex.is_match(name)),
        }
    }
    (!sample.name.is_empty()).then_some(sample)
}

/// `$1_x` is the first group and `_x`, as where these rules come from; not a group of the name `1_x`.
pub(super) fn braced(replacement: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = replacement;
    while let Some((before, behind)) = rest.split_once('$') {
        let digits = behind.len() - behind.trim_start_matches(|char: char| char.is_ascii_digit()).len();
        out.push_str(before);
        if digits > 0 {
            out.push_str("${");
            out.push_str(&behind[..digits]);
            out.push('}');
        } else {
            out.push('$');
        }
        rest = &behind[digits..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn get(sample: &Sample, label: &str) -> String {
    if label == NAME {
        return format!("{}{}", sample.name, sample.suffix);
    }
    sample.labels.iter().find(|(name, _)| name == label).map_or_else(String::new, |(_, value)| value.clone())
}

fn set(sample: &mut Sample, label: &str, value: String) {
    if label == NAME {
        // Of a part of a histogram, its own end stays where it belongs.
        sample.name = value.strip_suffix(sample.suffix).map_or_else(|| value.clone(), str::to_owned);
        return;
    }
    sample.labels.retain(|(name, _)| name != label);
    if !value.is_empty() {
        sample.labels.push((label.to_owned(), value));
    }
}
