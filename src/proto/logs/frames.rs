//! Where a message of a stream begins and ends: with its length before it (RFC 6587 §3.4.1) or a line end behind it.
//!
//! Reads nothing: who reads puts bytes in, and may leave in the middle of a message.

/// What came of a stream, less the messages that were taken from it.
#[derive(Debug)]
pub struct Frames {
    buffer: Vec<u8>,
    /// What is before this was taken.
    at: usize,
    /// Of a message that was too long, this is still to come.
    skip: Skip,
    has_lengths: bool,
    bytes_max: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Skip {
    Nothing,
    Octets(usize),
    Line,
}

/// A longer count of octets is none.
const COUNT_DIGITS_MAX: usize = 8;
/// What is read at once.
const READ_BYTES: usize = 16 << 10;

impl Frames {
    /// Messages with their lengths before them, or lines, as each begins. Of one that is longer than `bytes_max`, one byte more is
    /// given, which says that it was cut.
    pub fn messages(bytes_max: usize) -> Self {
        Self { buffer: Vec::new(), at: 0, skip: Skip::Nothing, has_lengths: true, bytes_max }
    }

    /// Lines only.
    pub fn lines(bytes_max: usize) -> Self {
        Self { has_lengths: false, ..Self::messages(bytes_max) }
    }

    /// Where to put what comes next.
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.reserve(READ_BYTES);
        &mut self.buffer
    }

    /// The next message that is whole, without a line end; with nothing more to come, call [`Frames::rest`].
    pub fn message(&mut self) -> Option<&[u8]> {
        self.skipped();
        let rest = &self.buffer[self.at..];
        if self.skip != Skip::Nothing || rest.is_empty() {
            return None;
        }
        let (start, length) = match self.count(rest) {
            Count::Unknown => return None,
            Count::Of(digits, length) => (digits + 1, length),
            Count::Line => match memchr::memchr(b'\n', rest) {
                Some(end) => {
                    let from = self.at;
                    self.at += end + 1;
                    return Some(&self.buffer[from..from + end.min(self.bytes_max + 1)]);
                }
                None if rest.len() > self.bytes_max => {
                    let from = self.at;
                    self.at = self.buffer.len();
                    self.skip = Skip::Line;
                    return Some(&self.buffer[from..=from + self.bytes_max]);
                }
                None => return None,
            },
        };
        let kept = length.min(self.bytes_max + 1);
        if rest.len() < start + kept {
            return None;
        }
        let from = self.at + start;
        self.at = from + kept;
        if length > kept {
            self.skip = Skip::Octets(length - kept);
        }
        let message = &self.buffer[from..from + kept];
        Some(message.strip_suffix(b"\n").unwrap_or(message))
    }

    /// What is left at the end of a stream: a line without its end, or the beginning of a message. Empty if nothing is.
    pub fn rest(&mut self) -> &[u8] {
        self.skipped();
        let rest = &self.buffer[self.at..];
        let start = match self.count(rest) {
            Count::Of(digits, _) => digits + 1,
            Count::Unknown | Count::Line => 0,
        };
        &rest[start..]
    }

    fn skipped(&mut self) {
        let rest = &self.buffer[self.at..];
        match self.skip {
            Skip::Nothing => {}
            Skip::Octets(octets) => {
                let there = octets.min(rest.len());
                self.at += there;
                self.skip = if there == octets { Skip::Nothing } else { Skip::Octets(octets - there) };
            }
            Skip::Line => match memchr::memchr(b'\n', rest) {
                Some(end) => {
                    self.at += end + 1;
                    self.skip = Skip::Nothing;
                }
                None => self.at = self.buffer.len(),
            },
        }
    }

    fn count(&self, rest: &[u8]) -> Count {
        if !self.has_lengths || !rest.first().is_some_and(|first| (b'1'..=b'9').contains(first)) {
            return Count::Line;
        }
        let Some(digits) = rest.iter().take(COUNT_DIGITS_MAX + 1).position(|byte| !byte.is_ascii_digit()) else {
            return if rest.len() > COUNT_DIGITS_MAX { Count::Line } else { Count::Unknown };
        };
        let length = std::str::from_utf8(&rest[..digits]).ok().and_then(|digits| digits.parse().ok());
        match length {
            // A message begins with its priority; a line may begin with a number.
            Some(length) if rest[digits] == b' ' => match rest.get(digits + 1) {
                Some(b'<') => Count::Of(digits, length),
                Some(_) => Count::Line,
                None => Count::Unknown,
            },
            // Such as a year.
            _ => Count::Line,
        }
    }
}

/// How a message begins.
enum Count {
    /// It is not all there.
    Unknown,
    /// So many digits, and octets behind them and a space.
    Of(usize, usize),
    Line,
}

#[cfg(test)]
mod tests {
    use super::Frames;

    #[track_caller]
    fn check(text: &str, wanted: &[&str], rest: &str) {
        for step in [1, 2, 3, 5, 1000] {
            let (mut frames, mut found) = (Frames::messages(8), Vec::new());
            for piece in text.as_bytes().chunks(step) {
                frames.room().extend_from_slice(piece);
                while let Some(message) = frames.message() {
                    found.push(String::from_utf8(message.to_vec()).unwrap());
                }
            }
            assert_eq!((found.iter().map(String::as_str).collect::<Vec<_>>(), frames.rest()), (wanted.to_vec(), rest.as_bytes()), "{step}");
        }
    }

    #[test]
    fn messages_have_lengths_or_line_ends() {
        check("3 <bc2 <e\nf\n", &["<bc", "<e", "", "f"], "");
        check("a\n\n3 <\nc10 items\n", &["a", "", "<\nc", "10 items"], "");
        check("2 <\n2026-01\n123456789\n", &["<", "2026-01", "123456789"], "");
        check("1234567890 x\n", &["123456789"], "");
        check("12345", &[], "12345");
        check("5 <b", &[], "<b");
        check("5 ", &[], "5 ");
        check("no end", &[], "no end");
    }

    #[test]
    fn of_long_ones_one_byte_more_is_given() {
        check("12 <23456789abcx\n", &["<23456789", "x"], "");
        check("123456789abc\nx\n", &["123456789", "x"], "");
        check("aaaaaaaaaaaaaaa", &["aaaaaaaaa"], "");
    }
}
