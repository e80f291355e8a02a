//! Lines of statsd, with the tags that `DogStatsD` and Influx added: what each part is.
//!
//! Copies nothing and adds nothing up. What a name becomes, `services::metrics` decides.

use std::fmt;

/// What a line counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Counter,
    Gauge,
    /// In milliseconds.
    Timer,
    /// `h` and `d`: whatever it is measured in.
    Histogram,
    Set,
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Line<'a> {
    Metric(Metric<'a>),
    /// An event or a service check, which is no metric.
    Ignored,
}

/// `NAME[,TAGS]:VALUE[:VALUE…]|TYPE[|@RATE][|#TAGS]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric<'a> {
    pub name: &'a [u8],
    /// `k=v,k2=v2`, behind the name.
    pub name_tags: &'a [u8],
    pub values: Values<'a>,
    pub kind: Kind,
    /// Above 0, at most 1.
    pub rate: f64,
    /// `k:v,k2:v2`, at the end.
    pub tags: &'a [u8],
}

/// One or several, with colons between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Values<'a>(pub &'a [u8]);

/// Why a line is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Name,
    Value,
    Type,
    Rate,
    Long,
    /// The name is one of another type already.
    Conflict,
}

impl Wrong {
    pub const ALL: [Self; 6] = [Self::Name, Self::Value, Self::Type, Self::Rate, Self::Long, Self::Conflict];

    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Value => "value",
            Self::Type => "type",
            Self::Rate => "rate",
            Self::Long => "long",
            Self::Conflict => "conflict",
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The longest line; a datagram may have many.
pub const LINE_BYTES_MAX: usize = 8 << 10;

/// Where the values of a line are, if it has any. What is around them is the same in every line of one series.
pub fn values_at(line: &[u8]) -> Option<(usize, usize)> {
    let start = memchr::memchr(b':', line)? + 1;
    let end = start + memchr::memchr(b'|', &line[start..])?;
    Some((start, end))
}

/// Reads one line, without its end.
///
/// # Errors
///
/// Which part is wrong.
pub fn read(line: &[u8]) -> Result<Line<'_>, Wrong> {
    if line.starts_with(b"_e{") || line.starts_with(b"_sc|") {
        return Ok(Line::Ignored);
    }
    if line.len() > LINE_BYTES_MAX {
        return Err(Wrong::Long);
    }
    let (start, end) = values_at(line).ok_or(Wrong::Value)?;
    let (named, values) = (&line[..start - 1], Values(&line[start..end]));
    let (name, name_tags) = match memchr::memchr(b',', named) {
        Some(at) => (&named[..at], &named[at + 1..]),
        None => (named, &[][..]),
    };
    if name.is_empty() || name.contains(&b'|') {
        return Err(Wrong::Name);
    }
    let mut parts = line[end + 1..].split(|byte| *byte == b'|');
    let kind = match parts.next() {
        Some(b"c") => Kind::Counter,
        Some(b"g") => Kind::Gauge,
        Some(b"ms") => Kind::Timer,
        Some(b"h" | b"d") => Kind::Histogram,
        Some(b"s") => Kind::Set,
        _ => return Err(Wrong::Type),
    };
    let mut metric = Metric { name, name_tags, values, kind, rate: 1.0, tags: &[] };
    for part in parts {
        match part.split_first() {
            Some((b'@', rate)) => {
                metric.rate = number(rate).filter(|rate| *rate > 0.0 && *rate <= 1.0).ok_or(Wrong::Rate)?;
            }
            Some((b'#', tags)) => metric.tags = tags,
            // A time, or where the sender runs: series have neither. And what newer protocols may add.
            _ => {}
        }
    }
    Ok(Line::Metric(metric))
}

impl<'a> Values<'a> {
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|byte| *byte == b':')
    }
}

/// Names and values of tags; those without a value say nothing that a label could.
pub fn pairs(tags: &[u8], between: u8) -> impl Iterator<Item = (&[u8], &[u8])> {
    tags.split(|byte| *byte == b',').filter_map(move |tag| {
        let at = memchr::memchr(between, tag)?;
        let (name, value) = (&tag[..at], &tag[at + 1..]);
        (!name.is_empty() && !value.is_empty()).then_some((name, value))
    })
}

/// A number as people and programs write it; not infinite, and not none.
pub fn number(text: &[u8]) -> Option<f64> {
    // Most are short whole numbers.
    if (1..=15).contains(&text.len()) && text.iter().all(u8::is_ascii_digit) {
        return Some(text.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0')) as f64);
    }
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Result<(&str, &str, Kind, f64, &str, &str), Wrong>) {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        let read = read(line.as_bytes()).map(|line| match line {
            Line::Metric(Metric { name, name_tags, values, kind, rate, tags }) => {
                (text(name), text(values.0), kind, rate, text(name_tags), text(tags))
            }
            Line::Ignored => panic!("{line:?}"),
        });
        assert_eq!(read, expected, "{line}");
    }

    #[test]
    fn lines_of_every_dialect_are_read() {
        check("a.b:1|c", Ok(("a.b", "1", Kind::Counter, 1.0, "", "")));
        check("a:-1.5|g", Ok(("a", "-1.5", Kind::Gauge, 1.0, "", "")));
        check("a:1:2:3|ms|@0.1", Ok(("a", "1:2:3", Kind::Timer, 0.1, "", "")));
        check("a:1|h|#k:v,k2:v:2|T1656581400|c:ci-1", Ok(("a", "1", Kind::Histogram, 1.0, "", "k:v,k2:v:2")));
        check("a:1|d|#k:v|@0.5", Ok(("a", "1", Kind::Histogram, 0.5, "", "k:v")));
        check("a,k=v,k2=v2:u|s", Ok(("a", "u", Kind::Set, 1.0, "k=v,k2=v2", "")));
        assert_eq!(read(b"_e{1,1}:a|b"), Ok(Line::Ignored));
        assert_eq!(read(b"_sc|a|0"), Ok(Line::Ignored));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_part() {
        for (line, wrong) in [
            ("", Wrong::Value),
            ("a", Wrong::Value),
            ("a:1", Wrong::Value),
            ("a|c", Wrong::Value),
            (":1|c", Wrong::Name),
            (",k=v:1|c", Wrong::Name),
            ("a|b:1|c", Wrong::Name),
            ("a:1|", Wrong::Type),
            ("a:1|x", Wrong::Type),
            ("a:1|c|@0", Wrong::Rate),
            ("a:1|c|@2", Wrong::Rate),
            ("a:1|c|@x", Wrong::Rate),
        ] {
            check(line, Err(wrong));
        }
        assert_eq!(read(&vec![b'a'; LINE_BYTES_MAX + 1]), Err(Wrong::Long));
    }

    #[test]
    fn numbers_are_finite() {
        for (text, expected) in
            [("12", Some(12.0)), ("+1e3", Some(1e3)), ("-.5", Some(-0.5)), ("999999999999999", Some(999_999_999_999_999.0))]
        {
            assert_eq!(number(text.as_bytes()), expected, "{text}");
        }
        for text in ["", "inf", "NaN", "1e999", "1_0", " 1", "0x1"] {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
        let tags: Vec<_> = pairs(b"a:b,c,:d,e:,f:g:h", b':').collect();
        assert_eq!(tags, [(&b"a"[..], &b"b"[..]), (b"f", b"g:h")]);
    }
}
