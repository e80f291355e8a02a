//! Answers of a Redis: RESP2, as much as a client of a few commands needs.
//!
//! Nested no deeper than those commands are: what a server sends must not use up the stack. (The crate `redis-protocol` 6.0 recurses as deep as it
//! is told to.) Sends nothing.

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Array(Vec<Reply>),
    Null,
}

const DEPTH_MAX: usize = 8;
/// Of an array: more than `CONFIG GET *` has.
const ITEMS_MAX: usize = 65_536;

impl Reply {
    /// The answer at the front of `bytes` with its length, if all of it is there.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, &'static str> {
        Self::nested(bytes, 0)
    }

    pub fn text(&self) -> Option<String> {
        match self {
            Self::Simple(text) => Some(text.clone()),
            Self::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Integer(number) => Some(number.to_string()),
            Self::Error(_) | Self::Array(_) | Self::Null => None,
        }
    }

    pub fn items(&self) -> &[Self] {
        if let Self::Array(items) = self { items } else { &[] }
    }

    fn nested(bytes: &[u8], depth: usize) -> Result<Option<(Self, usize)>, &'static str> {
        let Some((line, mut length)) = line(bytes) else { return Ok(None) };
        let Some((&kind, rest)) = line.split_first() else { return Err("its answer is no RESP") };
        let text = || String::from_utf8_lossy(rest).into_owned();
        let number =
            || std::str::from_utf8(rest).ok().and_then(|text| text.parse::<i64>().ok()).ok_or("its answer has no number where one belongs");
        let reply = match kind {
            b'+' => Self::Simple(text()),
            b'-' => Self::Error(text()),
            b':' => Self::Integer(number()?),
            b'$' | b'*' if number()? < 0 => Self::Null,
            b'$' => {
                let count = usize::try_from(number()?).map_err(|_| "its answer is too long")?;
                let Some(body) = length.checked_add(count).and_then(|end| bytes.get(length..end)) else { return Ok(None) };
                if bytes.len() < length + count + 2 {
                    return Ok(None);
                }
                length += count + 2;
                Self::Bulk(body.to_vec())
            }
            b'*' => {
                let count = usize::try_from(number()?).ok().filter(|&count| count <= ITEMS_MAX).ok_or("its answer has too many parts")?;
                if depth >= DEPTH_MAX {
                    return Err("its answer is nested too deeply");
                }
                let mut items = Vec::new();
                for _ in 0..count {
                    let Some((item, size)) = Self::nested(&bytes[length..], depth + 1)? else { return Ok(None) };
                    length += size;
                    items.push(item);
                }
                Self::Array(items)
            }
            _ => return Err("its answer is no RESP"),
        };
        Ok(Some((reply, length)))
    }
}

/// A line without its end, and its length with it.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memmem::find(bytes, b"\r\n")?;
    Some((&bytes[..end], end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_answers_are_read_and_parts_waited_for() {
        let bytes = b"*3\r\n$3\r\na\r\n\r\n:-5\r\n*2\r\n$-1\r\n+OK\r\nrest";
        let expected = Reply::Array(vec![
            Reply::Bulk(b"a\r\n".to_vec()),
            Reply::Integer(-5),
            Reply::Array(vec![Reply::Null, Reply::Simple("OK".to_owned())]),
        ]);
        let length = bytes.len() - 4;
        assert_eq!(Reply::parse(bytes), Ok(Some((expected, length))));
        for end in 0..length {
            assert_eq!(Reply::parse(&bytes[..end]), Ok(None), "{end}");
        }
        assert_eq!(Reply::parse(b"-ERR no\r\n"), Ok(Some((Reply::Error("ERR no".to_owned()), 9))));
    }

    #[test]
    fn what_is_none_is_refused() {
        let deep = b"*1\r\n".repeat(100_000);
        for bytes in [&b"HTTP/1.1 400\r\n"[..], b"\r\n", b"$x\r\n", b"*99999999\r\n", &deep] {
            assert!(Reply::parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(20)]));
        }
    }
}
