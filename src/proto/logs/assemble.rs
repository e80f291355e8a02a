//! From lines to entries: takes lines out of what a container runtime wraps them in, and puts together those that belong together.
//!
//! Reads nothing of an entry but where it begins; and no clock.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use regex::Regex;

use super::{Envelope, Peeled};

/// What may be one record.
pub struct Entry<'a> {
    pub text: &'a str,
    /// By the envelope.
    pub ts: Option<&'a str>,
    /// By the envelope: `stdout`, `stderr`; else empty.
    pub stream: &'a str,
    /// It was longer.
    pub is_cut: bool,
}

/// Of one source of lines, in their order.
#[derive(Debug, Default)]
pub struct Assembler {
    /// By stream.
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    stream: String,
    ts: Option<String>,
    text: String,
    lines: u32,
    /// The place of its first byte.
    begins: u64,
    touched: Instant,
    /// The line that is not whole yet begins here in `text`, and there in its source.
    part: Option<(usize, u64)>,
    is_cut: bool,
}

/// The rest of a line in parts comes at once, or never.
const PART_IDLE: Duration = Duration::from_secs(5);
/// A container has two; more than this are taken for one.
const STREAMS_MAX: usize = 4;

/// Lines that belong together.
#[derive(Clone, Copy)]
pub struct Group<'a> {
    /// A line that this fits begins an entry.
    pub start: &'a Regex,
    /// An entry is whole when nothing has come for so long.
    pub flush: Duration,
    /// An entry of more lines is cut into several.
    pub lines: u32,
}

/// How lines become entries.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    pub envelope: Option<Envelope>,
    pub multiline: Option<Group<'a>>,
    /// Of an entry.
    pub bytes_max: usize,
}

impl Rules<'_> {
    fn are_plain(&self) -> bool {
        self.envelope.is_none() && self.multiline.is_none()
    }
}

impl Assembler {
    /// A line as it came, without its end; `begins` is where, in its source.
    pub fn bytes(&mut self, rules: Rules<'_>, line: &[u8], begins: u64, now: Instant, take: &mut impl FnMut(Entry<'_>)) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_cut = line.len() > rules.bytes_max;
        let mut kept = &line[..line.len().min(rules.bytes_max)];
        // Not within a character.
        if is_cut
            && let Err(error) = std::str::from_utf8(kept)
            && error.error_len().is_none()
        {
            kept = &kept[..error.valid_up_to()];
        }
        // Nearly always, and sooner told.
        let text = std::str::from_utf8(kept).map_or_else(|_| String::from_utf8_lossy(kept), Cow::Borrowed);
        self.line(rules, &text, is_cut, begins, now, take);
    }

    fn line(&mut self, rules: Rules<'_>, line: &str, is_cut: bool, begins: u64, now: Instant, take: &mut impl FnMut(Entry<'_>)) {
        if rules.are_plain() {
            take(Entry { text: line, ts: None, stream: "", is_cut });
            return;
        }
        let peeled = rules.envelope.and_then(|envelope| envelope.peel(line));
        let (text, ts, stream, is_partial) = match peeled {
            Some(peeled) => (peeled.text, peeled.ts, peeled.stream, peeled.is_partial),
            None => (Cow::Borrowed(line), None, Cow::Borrowed(""), false),
        };
        let known = self.pending.iter().position(|pending| pending.stream == stream);
        let is_begin = |text: &str| rules.multiline.is_none_or(|multiline| multiline.start.is_match(text));
        let Some(at) = known else {
            self.begin(Peeled { text, ts, stream, is_partial }, is_cut, rules, begins, now, take);
            return;
        };
        let pending = &mut self.pending[at];
        pending.touched = now;
        let room = rules.bytes_max.saturating_sub(pending.text.len() + 1);
        match pending.part {
            Some(_) => push_within(&mut pending.text, &text, room, &mut pending.is_cut),
            None if is_begin(&text) || pending.lines >= rules.multiline.map_or(1, |multiline| multiline.lines) => {
                let whole = self.pending.remove(at);
                whole.give(take);
                self.begin(Peeled { text, ts, stream, is_partial }, is_cut, rules, begins, now, take);
                return;
            }
            None => {
                pending.lines += 1;
                pending.text.push('\n');
                if is_partial {
                    pending.part = Some((pending.text.len(), begins));
                }
                push_within(&mut pending.text, &text, room, &mut pending.is_cut);
            }
        }
        if is_partial {
            return;
        }
        // The line is whole now, and tells whether it began a record.
        let Some((from, begins)) = pending.part.take() else { return };
        if rules.multiline.is_none() {
            self.pending.remove(at).give(take);
        } else if from > 0 && is_begin(&pending.text[from..]) {
            let text = pending.text.split_off(from);
            pending.text.pop();
            let begun = Pending {
                stream: pending.stream.clone(),
                ts: pending.ts.clone(),
                text,
                lines: 1,
                begins,
                touched: now,
                part: None,
                is_cut,
            };
            std::mem::replace(pending, begun).give(take);
        }
    }

    /// A line that goes on with nothing: a whole one if nothing can follow.
    fn begin(&mut self, line: Peeled<'_>, is_cut: bool, rules: Rules<'_>, begins: u64, now: Instant, take: &mut impl FnMut(Entry<'_>)) {
        let Peeled { text, ts, stream, is_partial } = line;
        if !is_partial && rules.multiline.is_none() {
            take(Entry { text: &text, ts: ts.as_deref(), stream: &stream, is_cut });
            return;
        }
        if self.pending.len() >= STREAMS_MAX {
            self.flush(take);
        }
        self.pending.push(Pending {
            stream: stream.into_owned(),
            ts: ts.map(Cow::into_owned),
            text: text.into_owned(),
            lines: 1,
            begins,
            touched: now,
            part: is_partial.then_some((0, begins)),
            is_cut,
        });
    }

    /// Gives what nothing was added to for a while.
    pub fn flush_idle(&mut self, rules: Rules<'_>, now: Instant, take: &mut impl FnMut(Entry<'_>)) {
        let mut at = 0;
        while at < self.pending.len() {
            let pending = &self.pending[at];
            let flush = rules.multiline.map_or(PART_IDLE, |multiline| multiline.flush);
            let flush = if pending.part.is_some() { flush.max(PART_IDLE) } else { flush };
            if now.saturating_duration_since(pending.touched) >= flush {
                let mut pending = self.pending.remove(at);
                pending.is_cut |= pending.part.is_some();
                pending.give(take);
            } else {
                at += 1;
            }
        }
    }

    /// Gives whatever there is: nothing will follow.
    pub fn flush(&mut self, take: &mut impl FnMut(Entry<'_>)) {
        for pending in self.pending.drain(..) {
            pending.give(take);
        }
    }

    /// Where the first thing begins that was not given yet.
    pub fn begins(&self) -> Option<u64> {
        self.pending.iter().map(|pending| pending.begins).min()
    }
}

impl Pending {
    fn give(self, take: &mut impl FnMut(Entry<'_>)) {
        take(Entry { text: &self.text, ts: self.ts.as_deref(), stream: &self.stream, is_cut: self.is_cut });
    }
}

fn push_within(text: &mut String, more: &str, room: usize, is_cut: &mut bool) {
    let mut end = room.min(more.len());
    while !more.is_char_boundary(end) {
        end -= 1;
    }
    text.push_str(&more[..end]);
    *is_cut |= end < more.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(start: &Regex) -> Group<'_> {
        Group { start, flush: Duration::from_secs(1), lines: 3 }
    }

    #[track_caller]
    fn check(rules: Rules<'_>, lines: &[&str], given: &[&str], left: &[&str]) {
        let (mut assembler, mut found, now) = (Assembler::default(), Vec::new(), Instant::now());
        for (at, line) in lines.iter().enumerate() {
            assembler.line(rules, line, false, at as u64, now, &mut |entry| found.push(entry.text.to_owned()));
        }
        assert_eq!(found, given, "given at once");
        found.clear();
        assembler.flush(&mut |entry| found.push(entry.text.to_owned()));
        assert_eq!(found, left, "given at the end");
        assert_eq!(assembler.begins(), None);
    }

    #[test]
    fn lines_are_entries() {
        let rules = Rules { envelope: None, multiline: None, bytes_max: 100 };
        check(rules, &["a", "", "b"], &["a", "", "b"], &[]);
    }

    #[test]
    fn lines_that_begin_nothing_go_on() {
        let start = Regex::new("^[A-Z]").unwrap();
        let rules = Rules { envelope: None, multiline: Some(group(&start)), bytes_max: 100 };
        check(rules, &["A", " b", " c", "D", "E", " f"], &["A\n b\n c", "D"], &["E\n f"]);
        // No more than three lines each.
        check(rules, &["A", "1", "2", "3", "4"], &["A\n1\n2"], &["3\n4"]);
        check(rules, &[" stray", "A"], &[" stray"], &["A"]);
    }

    #[test]
    fn parts_of_a_line_are_put_together_by_stream() {
        let rules = Rules { envelope: Some(Envelope::Cri), multiline: None, bytes_max: 100 };
        let line = |stream: &str, tag: &str, text: &str| format!("2026-01-02T03:04:05.1Z {stream} {tag} {text}");
        let lines = [line("stdout", "P", "he"), line("stderr", "F", "other"), line("stdout", "P", "ll"), line("stdout", "F", "o")];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        check(rules, &lines, &["other", "hello"], &[]);
        let start = Regex::new("^[A-Z]").unwrap();
        let rules = Rules { multiline: Some(group(&start)), ..rules };
        let lines = [line("stdout", "F", "A"), line("stdout", "P", "B"), line("stdout", "F", "C"), line("stdout", "F", " d")];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        check(rules, &lines, &["A"], &["BC\n d"]);
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let start = Regex::new("^[A-Z]").unwrap();
        let rules = Rules { envelope: None, multiline: Some(group(&start)), bytes_max: 8 };
        check(rules, &["A", " éééééé", "B"], &["A\n éé"], &["B"]);
    }

    #[test]
    fn a_group_ends_when_nothing_follows() {
        let start = Regex::new("^[A-Z]").unwrap();
        let rules = Rules { envelope: None, multiline: Some(group(&start)), bytes_max: 100 };
        let (mut assembler, mut found, now) = (Assembler::default(), 0, Instant::now());
        assembler.line(rules, "A", false, 7, now, &mut |_| found += 1);
        assembler.flush_idle(rules, now + Duration::from_millis(999), &mut |_| found += 1);
        assert_eq!((found, assembler.begins()), (0, Some(7)));
        assembler.flush_idle(rules, now + Duration::from_secs(1), &mut |_| found += 1);
        assert_eq!((found, assembler.begins()), (1, None));
    }

    #[test]
    fn a_part_without_an_end_is_given_after_a_while() {
        let rules = Rules { envelope: Some(Envelope::Cri), multiline: None, bytes_max: 100 };
        let (mut assembler, mut found, now) = (Assembler::default(), Vec::new(), Instant::now());
        let mut take = |entry: Entry<'_>| found.push((entry.text.to_owned(), entry.is_cut));
        assembler.line(rules, "2026-01-02T03:04:05Z stderr P half", false, 7, now, &mut take);
        assembler.flush_idle(rules, now + Duration::from_secs(4), &mut take);
        assert_eq!(assembler.begins(), Some(7));
        assembler.flush_idle(rules, now + PART_IDLE, &mut take);
        assert_eq!((found, assembler.begins()), (vec![("half".to_owned(), true)], None));
    }

    /// A restart went on in the middle of the line.
    #[test]
    fn a_record_of_parts_begins_where_its_first_part_does() {
        let start = Regex::new("^[A-Z]").unwrap();
        let rules = Rules { envelope: Some(Envelope::Cri), multiline: Some(group(&start)), bytes_max: 100 };
        let (mut assembler, now) = (Assembler::default(), Instant::now());
        for (begins, line) in [(0, "F A"), (50, "P B"), (100, "F b")] {
            assembler.line(rules, &format!("2026-01-02T03:04:05Z stdout {line}"), false, begins, now, &mut |_| {});
        }
        assert_eq!(assembler.begins(), Some(50));
    }
}
