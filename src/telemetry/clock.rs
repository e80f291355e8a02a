//! Time for the hot path: readings, and their spelling in headers and log lines.
//!
//! Spellings are cached by the second, one cache per worker; nothing here runs on a timer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use jiff::tz::Offset;

/// Since 1970, for what people read. A clock before that is read as 1970.
pub fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

const DAYS: [&[u8; 3]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];
const MONTHS: [&[u8; 3]; 12] = [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// In UTC. Readings that no calendar has are clamped to its last second.
fn civil(unix_seconds: u64) -> DateTime {
    let second = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    Offset::UTC.to_datetime(jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX))
}

fn month(date: DateTime) -> &'static [u8; 3] {
    MONTHS[usize::from(date.month().unsigned_abs() - 1)]
}

fn put(text: &mut [u8], at: usize, part: &[u8]) {
    text[at..at + part.len()].copy_from_slice(part);
}

/// Writes exactly `digits` of them.
fn put_number(text: &mut [u8], at: usize, digits: usize, number: i16) {
    let mut rest = number.unsigned_abs();
    for slot in text[at..at + digits].iter_mut().rev() {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

fn put_time(text: &mut [u8], at: usize, date: DateTime) {
    put_number(text, at, 2, i16::from(date.hour()));
    put_number(text, at + 3, 2, i16::from(date.minute()));
    put_number(text, at + 6, 2, i16::from(date.second()));
}

/// The value of a `Date` header (IMF-fixdate, RFC 9110, 5.6.7).
#[derive(Clone, Debug)]
pub struct HttpDate {
    second: u64,
    text: [u8; 29],
}

impl HttpDate {
    pub fn new() -> Self {
        let mut date = Self { second: 0, text: *b"Thu, 01 Jan 1970 00:00:00 GMT" };
        date.spell();
        date
    }

    /// Spelled anew when the second has changed.
    pub fn refresh(&mut self, now_unix_secs: u64) -> &[u8; 29] {
        if self.second != now_unix_secs {
            self.second = now_unix_secs;
            self.spell();
        }
        &self.text
    }

    fn spell(&mut self) {
        let date = civil(self.second);
        put(&mut self.text, 0, DAYS[usize::from(date.weekday().to_monday_zero_offset().unsigned_abs())]);
        put_number(&mut self.text, 5, 2, i16::from(date.day()));
        put(&mut self.text, 8, month(date));
        put_number(&mut self.text, 12, 4, date.year());
        put_time(&mut self.text, 17, date);
    }
}

impl Default for HttpDate {
    fn default() -> Self {
        Self::new()
    }
}

/// Timestamps of log lines: `2026-01-31T23:59:59.123Z` and `31/Jan/2026:23:59:59 +0000`.
#[derive(Clone, Debug)]
pub struct Stamps {
    second: u64,
    rfc3339: [u8; 19],
    common: [u8; 26],
}

impl Stamps {
    pub fn new() -> Self {
        let mut stamps = Self { second: 0, rfc3339: *b"1970-01-01T00:00:00", common: *b"01/Jan/1970:00:00:00 +0000" };
        stamps.spell();
        stamps
    }

    /// RFC 3339 with milliseconds, in UTC.
    pub fn write_rfc3339(&mut self, since_unix: Duration, out: &mut Vec<u8>) {
        self.refresh(since_unix);
        out.extend_from_slice(&self.rfc3339);
        let mut fraction = *b".000Z";
        put_number(&mut fraction, 1, 3, since_unix.subsec_millis() as i16);
        out.extend_from_slice(&fraction);
    }

    /// As in the common log format, in UTC.
    pub fn write_common(&mut self, since_unix: Duration, out: &mut Vec<u8>) {
        self.refresh(since_unix);
        out.extend_from_slice(&self.common);
    }

    fn refresh(&mut self, since_unix: Duration) {
        if self.second != since_unix.as_secs() {
            self.second = since_unix.as_secs();
            self.spell();
        }
    }

    fn spell(&mut self) {
        let date = civil(self.second);
        put_number(&mut self.rfc3339, 0, 4, date.year());
        put_number(&mut self.rfc3339, 5, 2, i16::from(date.month()));
        put_number(&mut self.rfc3339, 8, 2, i16::from(date.day()));
        put_time(&mut self.rfc3339, 11, date);
        put_number(&mut self.common, 0, 2, i16::from(date.day()));
        put(&mut self.common, 3, month(date));
        put_number(&mut self.common, 7, 4, date.year());
        put_time(&mut self.common, 12, date);
    }
}

impl Default for Stamps {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(second: u64, http: &str, rfc3339: &str, common: &str) {
        // Through another second first, so that the cache is left.
        let (mut date, mut stamps) = (HttpDate::new(), Stamps::new());
        date.refresh(second.wrapping_add(1));
        assert_eq!(std::str::from_utf8(date.refresh(second)).unwrap(), http);
        let mut out = Vec::new();
        let at = Duration::new(second, 7_999_999);
        stamps.write_rfc3339(at, &mut out);
        out.push(b'|');
        stamps.write_common(at, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{rfc3339}|{common}"));
    }

    #[test]
    fn times_are_spelled_as_the_standards_say() {
        check(0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00.007Z", "01/Jan/1970:00:00:00 +0000");
        check(784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37.007Z", "06/Nov/1994:08:49:37 +0000");
        check(1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT", "2024-02-29T23:59:59.007Z", "29/Feb/2024:23:59:59 +0000");
    }

    #[test]
    fn an_impossible_clock_is_clamped() {
        let mut date = HttpDate::new();
        assert!(date.refresh(u64::MAX).ends_with(b" GMT"));
    }
}
