//! Draws diagnostics for a terminal: where, what, the line itself, what to do.
//!
//! Does not print; whoever has a stream does.

use std::fmt::Write as _;
use std::ops::Range;

use annotate_snippets::renderer::{DEFAULT_EMPHASIS_STYLE, DEFAULT_ERROR_STYLE, DEFAULT_HELP_STYLE, DEFAULT_WARNING_STYLE, Style};
use annotate_snippets::{Annotation, AnnotationKind, Element, Group, Level, Renderer, Snippet};

use crate::value::{Diagnostic, Diagnostics, Place, Severity, Sources};

/// Longer lines are cut at both sides of what is pointed at.
const WIDTH: usize = 160;

/// All diagnostics with their excerpts, and a last line that counts them. Empty if there are none.
///
/// What comes from files is freed of control characters: reading a message must not steer the terminal.
pub fn render(sources: &Sources, found: &Diagnostics, colour: bool) -> String {
    let mut out = String::new();
    for diagnostic in found.iter() {
        heading(&mut out, sources, diagnostic, colour);
        excerpts(&mut out, sources, diagnostic, colour);
        if let Some(help) = &diagnostic.help {
            let _ = writeln!(out, "{}: {}", paint("help", DEFAULT_HELP_STYLE, colour), visible(help));
        }
        out.push('\n');
    }
    if !found.is_empty() {
        out += &summary(found);
        out.push('\n');
    }
    out
}

/// `PATH:LINE:COLUMN: error: MESSAGE`, which editors and other tools know how to follow.
fn heading(out: &mut String, sources: &Sources, diagnostic: &Diagnostic, colour: bool) {
    if let Some(place) = diagnostic.place {
        let _ = write!(out, "{}: ", visible(&sources.locate(place)));
    }
    let kind = match diagnostic.severity {
        Severity::Error => paint("error", DEFAULT_ERROR_STYLE, colour),
        Severity::Warning => paint("warning", DEFAULT_WARNING_STYLE, colour),
    };
    let message = paint(&visible(&diagnostic.message), DEFAULT_EMPHASIS_STYLE, colour);
    let _ = writeln!(out, "{kind}: {message}");
}

fn paint(text: &str, style: Style, colour: bool) -> String {
    if colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

fn summary(found: &Diagnostics) -> String {
    let errors = found.errors();
    let warnings = found.iter().count() - errors;
    let count = |n: usize, word: &str| match n {
        0 => None,
        1 => Some(format!("1 {word}")),
        _ => Some(format!("{n} {word}s")),
    };
    [count(errors, "error"), count(warnings, "warning")].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The lines that a diagnostic points at; its own first, without a path since the heading has it.
fn excerpts(out: &mut String, sources: &Sources, diagnostic: &Diagnostic, colour: bool) {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut lines: Vec<Line<'_>> = Vec::new();
    let own = diagnostic.place.map(|place| (place, None));
    let related = diagnostic.related.iter().map(|(place, role)| (*place, Some(role.as_str())));
    for (place, role) in own.into_iter().chain(related) {
        match lines.iter_mut().find(|line| line.holds(sources, place)) {
            Some(line) => line.marks.push((place, role)),
            None => lines.push(Line::around(sources, place, role)),
        }
    }
    if lines.is_empty() {
        return;
    }
    let snippets =
        lines.iter().enumerate().map(|(index, line)| Element::from(line.snippet(sources, index > 0 || diagnostic.place.is_none())));
    let group = Group::with_level(level).elements(snippets);
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let drawn = renderer.term_width(WIDTH).render(&[group]);
    for line in drawn.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// One line of a source and what is marked in it.
struct Line<'d> {
    /// The place it was found by, and the bytes of the line without its end.
    place: Place,
    span: Range<usize>,
    marks: Vec<(Place, Option<&'d str>)>,
}

impl<'d> Line<'d> {
    fn around(sources: &Sources, place: Place, role: Option<&'d str>) -> Self {
        let text = &sources.file(place.source).text;
        let at = boundary(text, place.start as usize);
        let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
        let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
        Self { place, span: start..end, marks: vec![(place, role)] }
    }

    fn holds(&self, sources: &Sources, place: Place) -> bool {
        let text = &sources.file(place.source).text;
        let at = boundary(text, place.start as usize);
        place.source == self.place.source && self.span.start <= at && at <= self.span.end
    }

    fn snippet(&self, sources: &Sources, names_path: bool) -> Snippet<'d, Annotation<'d>> {
        let file = sources.file(self.place.source);
        let text = file.text[self.span.clone()].trim_end_matches('\r');
        let (number, _) = sources.line_column(self.place);
        let path = names_path.then(|| visible(&file.path.display().to_string()));
        let marks = self.marks.iter().map(|(place, role)| {
            let kind = if role.is_some() { AnnotationKind::Context } else { AnnotationKind::Primary };
            kind.span(self.within(text, *place)).label(role.map(visible))
        });
        Snippet::source(visible(text)).line_start(number).path(path).annotations(marks)
    }

    /// Bytes of the line as it is shown. What goes on in later lines ends with the first.
    fn within(&self, text: &str, place: Place) -> Range<usize> {
        let shown = |at: u32| visible(&text[..boundary(text, (at as usize).saturating_sub(self.span.start))]).len();
        let start = shown(place.start);
        start..shown(place.end).max(start)
    }
}

/// The nearest place at or before `at` where a character starts.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The text without characters that act on a terminal or that hide what stands there. Tabs stay: they are drawn as spaces.
fn visible(text: &str) -> String {
    text.chars().map(|c| if acts(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn acts(c: char) -> bool {
    let is_invisible = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    c != '\t' && (c.is_control() || is_invisible)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::SourceId;
    use proptest::prelude::*;

    /// Marks the first `needle` in the text.
    fn place(source: SourceId, text: &str, needle: &str) -> Place {
        let start = text.find(needle).unwrap();
        Place::new(source, start..start + needle.len())
    }

    #[track_caller]
    fn check(text: &str, needle: &str, expected: &str) {
        let mut sources = Sources::default();
        let source = sources.add("a.toml", text);
        let mut found = Diagnostics::default();
        found.error(place(source, text, needle), "wrong");
        assert_eq!(render(&sources, &found, false), format!("{expected}\n1 error\n"));
    }

    #[test]
    fn everything_has_its_place() {
        let mut sources = Sources::default();
        let (first, second) = ("a = 1\nb = 2\n", "# c\n\na = 3\n");
        let (a, b) = (sources.add("a.toml", first), sources.add("conf.d/b.toml", second));
        let mut found = Diagnostics::default();
        found.error(None, "cannot read `c.toml`").help("check the path");
        found.error(place(b, second, "a"), "`a` is set twice").related(place(a, first, "a"), "first set here").help("keep one of them");
        found.warn(place(a, first, "2"), "few");
        found.error(place(a, first, "b"), "the same").related(place(a, first, "1"), "as this").related(place(a, first, "2"), "and this");
        assert_eq!(
            render(&sources, &found, false),
            "\
error: cannot read `c.toml`
help: check the path

conf.d/b.toml:3:1: error: `a` is set twice
  |
3 | a = 3
  | ^
  |
 ::: a.toml:1:1
  |
1 | a = 1
  | - first set here
help: keep one of them

a.toml:2:5: warning: few
  |
2 | b = 2
  |     ^

a.toml:2:1: error: the same
  |
2 | b = 2
  | ^   - and this
  |
 ::: a.toml:1:5
  |
1 | a = 1
  |     - as this

3 errors, 1 warning
"
        );
    }

    #[test]
    fn nothing_found_is_nothing_said() {
        assert_eq!(render(&Sources::default(), &Diagnostics::default(), true), "");
    }

    #[test]
    fn tabs_and_wide_characters_leave_the_caret_where_it_belongs() {
        check("\tk = \"é\t値\" # x\n", "値", "a.toml:1:9: error: wrong\n  |\n1 |     k = \"é    値\" # x\n  |               ^^\n");
        check("a = 'é' # x\r\n", "x", "a.toml:1:11: error: wrong\n  |\n1 | a = 'é' # x\n  |           ^\n");
    }

    #[test]
    fn a_table_over_several_lines_is_shown_by_its_first() {
        check("a = [\n  1,\n  2,\n]\n", "[\n  1,\n  2,\n]", "a.toml:1:5: error: wrong\n  |\n1 | a = [\n  |     ^\n");
    }

    #[test]
    fn the_end_of_a_file_is_a_place() {
        for (text, expected) in [
            ("", "a.toml:1:1: error: wrong\n  |\n1 |\n  | ^\n"),
            ("a = 1\n", "a.toml:2:1: error: wrong\n  |\n2 |\n  | ^\n"),
            ("a = é", "a.toml:1:6: error: wrong\n  |\n1 | a = é\n  |      ^\n"),
        ] {
            let mut sources = Sources::default();
            let source = sources.add("a.toml", text);
            let mut found = Diagnostics::default();
            found.error(Place::new(source, text.len()..text.len()), "wrong");
            assert_eq!(render(&sources, &found, false), format!("{expected}\n1 error\n"));
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_mark() {
        let text = format!("k = \"{}HERE{}\"", "a".repeat(300), "b".repeat(300));
        let (before, after) = ("a".repeat(73), "b".repeat(73));
        let caret = " ".repeat(76);
        check(&text, "HERE", &format!("a.toml:1:306: error: wrong\n  |\n1 | ...{before}HERE{after}...\n  | {caret}^^^^\n"));
    }

    #[test]
    fn control_characters_are_replaced() {
        check(
            "a = '\u{1b}[31m\u{202e}\u{9b}\u{200b}' # x",
            "x",
            "a.toml:1:18: error: wrong\n  |\n1 | a = '�[31m���' # x\n  |                  ^\n",
        );
    }

    #[test]
    fn colours_are_put_around_what_matters() {
        let mut sources = Sources::default();
        let source = sources.add("a.toml", "a = 1");
        let mut found = Diagnostics::default();
        found.warn(place(source, "a = 1", "1"), "few").help("more");
        assert_eq!(
            render(&sources, &found, true).replace('\u{1b}', "E"),
            "\
a.toml:1:5: E[1mE[33mwarningE[0m: E[1mfewE[0m
  E[1mE[94m|E[0m
E[1mE[94m1E[0m E[1mE[94m|E[0m a = 1
  E[1mE[94m|E[0m     E[1mE[33m^E[0m
E[1mE[96mhelpE[0m: more

1 warning
"
        );
    }

    #[test]
    fn messages_and_paths_are_freed_of_control_characters_too() {
        let mut sources = Sources::default();
        let source = sources.add("a\u{1b}.toml", "a = 1");
        let mut found = Diagnostics::default();
        found.error(place(source, "a = 1", "1"), "b\u{7}\nc").help("d\r");
        let expected = "a�.toml:1:5: error: b��c\n  |\n1 | a = 1\n  |     ^\nhelp: d�\n\n1 error\n";
        assert_eq!(render(&sources, &found, false), expected);
    }

    proptest! {
        #[test]
        fn no_text_and_no_place_is_too_odd_to_draw(text in "(\\PC|\\s|\u{1b}|値){0,400}", start in 0_usize..900, length in 0_usize..900, other in 0_usize..900) {
            let mut sources = Sources::default();
            let source = sources.add("a.toml", text);
            let mut found = Diagnostics::default();
            found.error(Place::new(source, start..start + length), "wrong").related(Place::new(source, other..other), "here");
            let drawn = render(&sources, &found, false);
            prop_assert!(drawn.chars().all(|c| c == '\n' || !acts(c)), "{drawn:?}");
        }
    }
}
