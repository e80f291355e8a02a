//! What holds for any bytes: shared by the fuzz targets and by `tests/it/parsers.rs`.
//!
//! Each law panics where it is broken, and says whether the bytes were accepted.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use regex::Regex;

use super::proto::exposition;
use super::proto::http1::{
    ChunkError, ChunkStep, ChunkedDecoder, Field, HeadError, Limits, Progress, RequestHead, ResponseHead, TrailerLimits, Version,
    check_host, compare_form, is_field_value, is_token, request_framing, response_framing, split_target, trailer_fields,
};
use super::proto::logs::{Assembler, Entry, Envelope, Frames, Grok, Group, Named, Parser, Parsers, Rules};
use super::proto::proxy_header::{self, Parsed, ProxyError};
use super::proto::resp::Reply;
use super::proto::statsd::{self, Line, Metric};

pub const LIMITS: Limits = Limits { header_bytes: 1024, headers: 12, uri_bytes: 200 };
const TRAILER_LIMITS: TrailerLimits = TrailerLimits { bytes: 100, fields: 4 };

/// Ends of reads: all at once, byte by byte, and in steps of `step`.
fn arrivals(len: usize, step: usize) -> [Vec<usize>; 3] {
    let stepped = (0..len).step_by(step.max(1)).chain([len]).collect();
    [vec![len], (0..=len).collect(), stepped]
}

/// Reads a head as the bytes arrive; how much had arrived when it ended, and with what.
fn read<H>(
    bytes: &[u8],
    arrivals: &[usize],
    head: H,
    mut parse: impl FnMut(&mut H, &[u8]) -> Result<Progress, HeadError>,
) -> Result<Option<H>, HeadError> {
    let mut head = head;
    for arrived in arrivals {
        if parse(&mut head, &bytes[..*arrived])? == Progress::Complete {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

type Pair<'a> = (&'a [u8], &'a [u8]);

pub fn pairs<'a>(fields: &[Field], bytes: &'a [u8]) -> Vec<Pair<'a>> {
    fields.iter().map(|field| (field.name.of(bytes), field.value.of(bytes))).collect()
}

fn theirs<'a>(headers: &[httparse::Header<'a>]) -> Vec<Pair<'a>> {
    headers.iter().map(|header| (header.name.as_bytes(), header.value)).collect()
}

fn minor(version: Version) -> u8 {
    match version {
        Version::Http10 => 0,
        Version::Http11 => 1,
        Version::Http2 => unreachable!("these parsers read lines"),
    }
}

pub fn request_head(bytes: &[u8], step: usize) -> bool {
    let [at_once, slowly, stepped] =
        arrivals(bytes.len(), step).map(|arrivals| read(bytes, &arrivals, RequestHead::new(), |head, bytes| head.parse(bytes, &LIMITS)));
    let seen = |head: &Result<Option<RequestHead>, HeadError>| {
        let seen = |head: &RequestHead| (head.method, head.target, head.version, head.fields.clone(), head.bytes);
        head.as_ref().map(|head| head.as_ref().map(seen)).map_err(|error| *error)
    };
    assert_eq!(seen(&at_once), seen(&slowly));
    assert_eq!(seen(&at_once), seen(&stepped));
    let Ok(Some(head)) = at_once else { return false };

    assert!(head.bytes <= LIMITS.header_bytes && head.fields.len() <= LIMITS.headers && head.target.len() <= LIMITS.uri_bytes);
    assert!(is_token(head.method.of(bytes)));
    let target = split_target(head.target.of(bytes));
    assert!(target.is_some());
    if let Some(host) = check_host(head.target.of(bytes)) {
        assert!(!host.name.is_empty());
    }
    check_compare_form(head.target.of(bytes));
    check_fields(&head.fields, bytes);
    let _ = request_framing(&head, bytes);

    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut other = httparse::Request::new(&mut headers);
    assert_eq!(other.parse(bytes), Ok(httparse::Status::Complete(head.bytes)), "{}", bytes.escape_ascii());
    assert_eq!(other.method.map(str::as_bytes), Some(head.method.of(bytes)));
    assert_eq!(other.path.map(str::as_bytes), Some(head.target.of(bytes)));
    assert_eq!(other.version, Some(minor(head.version)));
    assert_eq!(theirs(other.headers), pairs(&head.fields, bytes));
    true
}

pub fn response_head(bytes: &[u8], step: usize) -> bool {
    let [at_once, slowly, stepped] =
        arrivals(bytes.len(), step).map(|arrivals| read(bytes, &arrivals, ResponseHead::new(), |head, bytes| head.parse(bytes, &LIMITS)));
    let seen = |head: &Result<Option<ResponseHead>, HeadError>| {
        let seen = |head: &ResponseHead| (head.version, head.status, head.reason, head.fields.clone(), head.bytes);
        head.as_ref().map(|head| head.as_ref().map(seen)).map_err(|error| *error)
    };
    assert_eq!(seen(&at_once), seen(&slowly));
    assert_eq!(seen(&at_once), seen(&stepped));
    let Ok(Some(head)) = at_once else { return false };

    assert!(head.bytes <= LIMITS.header_bytes && head.fields.len() <= LIMITS.headers);
    assert!((100..=599).contains(&head.status));
    check_fields(&head.fields, bytes);
    let _ = response_framing(&head, bytes, false);

    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut other = httparse::Response::new(&mut headers);
    assert_eq!(other.parse(bytes), Ok(httparse::Status::Complete(head.bytes)), "{}", bytes.escape_ascii());
    assert_eq!(other.version, Some(minor(head.version)));
    assert_eq!(other.code, Some(head.status));
    // httparse reads a reason with bytes beyond ASCII as none.
    let reason = Some(head.reason.of(bytes)).filter(|reason| reason.is_ascii()).unwrap_or_default();
    assert_eq!(other.reason.map(str::as_bytes), Some(reason));
    assert_eq!(theirs(other.headers), pairs(&head.fields, bytes));
    true
}

fn check_fields(fields: &[Field], bytes: &[u8]) {
    for (name, value) in pairs(fields, bytes) {
        assert!(is_token(name) && is_field_value(value));
    }
}

/// What is in compare form stays as it is.
fn check_compare_form(path: &[u8]) {
    if let Ok(once) = compare_form(path) {
        let twice = compare_form(&once).expect("what was clean is clean");
        assert_eq!(once, twice);
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    pub data: Vec<u8>,
    pub trailers: Vec<u8>,
    /// Of the encoded body.
    pub bytes: usize,
}

/// `None` if the bytes end before the body.
pub fn read_chunked(bytes: &[u8], arrivals: &[usize]) -> Result<Option<Body>, ChunkError> {
    let mut decoder = ChunkedDecoder::new(TRAILER_LIMITS);
    let mut data = Vec::new();
    let mut at = 0;
    for arrived in arrivals {
        loop {
            let input = &bytes[at..*arrived];
            match decoder.next(input)? {
                ChunkStep::Data { consumed, data: len } => {
                    assert!(len > 0);
                    data.extend_from_slice(&input[consumed..consumed + len]);
                    at += consumed + len;
                }
                ChunkStep::More { consumed } => {
                    at += consumed;
                    break;
                }
                ChunkStep::End { consumed, trailers } => {
                    assert!(trailers.end + 2 == consumed && decoder.is_done());
                    return Ok(Some(Body { data, trailers: input[trailers].to_vec(), bytes: at + consumed }));
                }
            }
        }
    }
    Ok(None)
}

pub fn chunked(bytes: &[u8], step: usize) -> bool {
    let [at_once, slowly, stepped] = arrivals(bytes.len(), step).map(|arrivals| read_chunked(bytes, &arrivals));
    assert_eq!(at_once, slowly);
    assert_eq!(at_once, stepped);
    let Ok(Some(body)) = at_once else { return false };
    assert!(body.bytes >= body.data.len() + body.trailers.len() + 5);

    let section = [&body.trailers[..], b"\r\n"].concat();
    let mut headers = [httparse::EMPTY_HEADER; 8];
    let (end, other) = httparse::parse_headers(&section, &mut headers).expect("httparse agrees").unwrap();
    assert_eq!(end, section.len());
    let fields: Vec<_> = trailer_fields(&body.trailers).collect();
    assert_eq!(theirs(other), pairs(&fields, &body.trailers));
    check_sizes(bytes, &body);
    true
}

/// Follows the chunks once more, with httparse reading each size.
fn check_sizes(bytes: &[u8], body: &Body) {
    let mut rest = &bytes[..body.bytes];
    let mut data = Vec::new();
    loop {
        // httparse wants extensions to be ASCII.
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(rest) else {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            assert!(line.contains(&b';'), "{}", rest.escape_ascii());
            return;
        };
        let size = size as usize;
        data.extend_from_slice(&rest[line..line + size]);
        if size == 0 {
            break;
        }
        rest = &rest[line + size + 2..];
    }
    assert_eq!(data, body.data);
}

pub fn proxy_header(bytes: &[u8]) -> bool {
    let at_once = proxy_header::parse(bytes);
    let slowly = (0..=bytes.len()).map(|len| proxy_header::parse(&bytes[..len])).find(|parsed| *parsed != Ok(Parsed::Partial));
    assert_eq!(at_once, slowly.unwrap_or(Ok::<_, ProxyError>(Parsed::Partial)));
    match at_once {
        Ok(Parsed::Complete { bytes: len, source, destination }) => {
            assert!(len <= bytes.len());
            assert_eq!(source.is_some(), destination.is_some());
            // Whoever reads what is missing at the least never reads beyond the header.
            for partial in 0..len {
                let missing = proxy_header::least_missing(&bytes[..partial]);
                assert!((1..=len - partial).contains(&missing), "{missing} after {partial} of {len}");
            }
            true
        }
        _ => false,
    }
}

/// What is whole stays so whatever follows, and no beginning of it is whole.
pub fn resp(bytes: &[u8]) -> bool {
    let Ok(Some((reply, len))) = Reply::parse(bytes) else { return false };
    assert_eq!(Reply::parse(&bytes[..len]), Ok(Some((reply, len))));
    for end in (0..len).step_by((len / 16).max(1)) {
        assert_eq!(Reply::parse(&bytes[..end]), Ok(None), "{end} of {len}");
    }
    true
}

/// A page that is written again reads the same, but for the spelling of its numbers.
pub fn exposition(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let read = |text: &str| {
        let mut samples = Vec::new();
        exposition::read(text, |sample| samples.push(sample)).map(|()| samples)
    };
    let Ok(first) = read(text) else { return false };
    for sample in &first {
        // Names of labels that nobody can have are written as others.
        if sample.labels.iter().any(|(name, _)| exposition::plain_name(name, false) != *name) {
            continue;
        }
        let mut line = format!("{}{}", sample.name, sample.suffix);
        exposition::write_labels(&sample.labels, &mut line);
        line.push(' ');
        exposition::write_value(sample.value, &mut line);
        let again = read(&line).expect("what we write can be read");
        let [again] = again.as_slice() else { panic!("{line:?} is {again:?}") };
        assert_eq!(format!("{}{}", again.name, again.suffix), format!("{}{}", sample.name, sample.suffix), "{line:?}");
        assert_eq!(again.labels, sample.labels, "{line:?}");
        assert!(again.value == sample.value || (again.value.is_nan() && sample.value.is_nan()), "{line:?}");
    }
    !first.is_empty()
}

/// Lines of a datagram: what is read of one is in it, and what is around its values says what they are, whatever they are.
pub fn statsd(bytes: &[u8]) -> bool {
    let mut is_any = false;
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(Line::Metric(metric)) = statsd::read(line) else { continue };
        is_any = true;
        let Metric { name, values, rate, tags, name_tags, .. } = metric;
        assert!(!name.is_empty() && rate > 0.0 && rate <= 1.0 && values.iter().count() > 0);
        assert!(statsd::pairs(tags, b':').chain(statsd::pairs(name_tags, b'=')).all(|(name, value)| !name.is_empty() && !value.is_empty()));
        assert!(values.iter().all(|value| statsd::number(value).is_none_or(f64::is_finite)));
        let (start, end) = statsd::values_at(line).expect("a metric has values");
        assert_eq!(&line[start..end], values.0);
        let other = [&line[..start], b"7", &line[end..]].concat();
        if other.len() > statsd::LINE_BYTES_MAX {
            continue;
        }
        let Ok(Line::Metric(other)) = statsd::read(&other) else { panic!("{}", line.escape_ascii()) };
        assert_eq!(Metric { values, ..other }, metric);
    }
    is_any
}

/// Parsers of lines by a name; what has settings has some that let it read much.
pub const LOG_PARSERS: [&str; 8] = ["json", "logfmt", "combined", "syslog", "text", "csv", "regex", "grok"];

static COMPILED: LazyLock<Vec<Parsers>> = LazyLock::new(|| {
    let parser = |word: &&str| match *word {
        "csv" => Parser::Csv(["ts", "level", "msg", "msg"].map(str::to_owned).to_vec(), b','),
        "regex" => {
            let regex = Regex::new(r"^(?<ts>\S+) (?<level>\w*) ?(?<source>[^ ]*)(?<msg>.*)$").expect("a regex");
            Parser::Pattern(Named::regex(regex).expect("names"))
        }
        "grok" => {
            let grok = Grok::expand("%{SYSLOGTIMESTAMP:ts} %{SYSLOGPROG}: %{GREEDYDATA:msg}", |_| None).expect("known patterns");
            let regex = Regex::new(&grok.regex).expect("a regex");
            Parser::Pattern(Named::grok(&grok, regex).expect("names"))
        }
        word => Parser::of_word(word).expect("a parser"),
    };
    LOG_PARSERS.iter().map(|word| Parsers(vec![parser(word)])).collect()
});

/// What is read of a line is written as one line that is one JSON object, with a time, and no name twice.
pub fn log_line(parser: &str, bytes: &[u8]) -> bool {
    const NOW: &str = "2026-01-05T00:00:00Z";
    let at = LOG_PARSERS.iter().position(|word| *word == parser).expect("a parser");
    let line = String::from_utf8_lossy(bytes);
    // Lines have no ends in them, but for those that are put together.
    let Some(record) = COMPILED[at].parse(&line, NOW) else { return false };
    let mut out = Vec::new();
    record.write("s", NOW, &mut out);
    assert_eq!(memchr::memchr(b'\n', &out), Some(out.len() - 1), "{parser}");
    match serde_json::from_slice::<Members>(&out) {
        Ok(Members(members)) => {
            let text = |name: &str| members.iter().find(|(member, _)| member == name).and_then(|(_, value)| value.as_str());
            let ts = text("ts").expect("a time");
            assert!(ts.parse::<jiff::Timestamp>().is_ok(), "{parser}: {ts}");
            assert_eq!(text("source"), Some("s"), "{parser}");
            let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|two| two[0] != two[1]), "{parser}: {names:?}");
        }
        // What is nested deeper than readers go, or larger than they count, was moved as it is.
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("recursion limit") || said.contains("out of range"), "{parser}: {error}: {}", out.escape_ascii());
        }
    }
    true
}

/// Of an object, in their order, the same one twice counted twice.
struct Members(Vec<(String, serde_json::Value)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> serde::de::Visitor<'de> for All {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Members, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// Of an entry, where they are to be cut.
const SHORT: usize = 16;

static BEGINS: LazyLock<Regex> = LazyLock::new(|| Regex::new("^[A-Z{]").expect("a regex"));

/// Whatever belongs together, of lines that are not too long nothing is lost and nothing is told twice; and nothing grows
/// beyond what it may.
pub fn log_lines(bytes: &[u8]) -> bool {
    let now = Instant::now();
    let group = Group { start: &BEGINS, flush: Duration::from_secs(1), lines: 3 };
    let given = |rules: Rules<'_>| {
        let (mut assembler, mut given) = (Assembler::default(), Vec::new());
        let mut take = |entry: Entry<'_>| given.push((entry.text.to_owned(), entry.is_cut));
        for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            assembler.bytes(rules, line, at as u64, now, &mut take);
        }
        assembler.flush(&mut take);
        assert_eq!(assembler.begins(), None);
        given
    };
    let written: Vec<String> = bytes
        .split(|byte| *byte == b'\n')
        .map(|line| String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned())
        .collect();
    for multiline in [None, Some(group)] {
        let whole = given(Rules { envelope: None, multiline, bytes_max: bytes.len() * 3 + 1 });
        assert!(whole.iter().all(|(_, is_cut)| !is_cut));
        assert_eq!(whole.into_iter().map(|(text, _)| text).collect::<Vec<_>>().join("\n"), written.join("\n"));
        for envelope in [None, Some(Envelope::Cri), Some(Envelope::Docker)] {
            // A byte that is no character becomes one of three.
            let is_bounded = |(text, _): &(String, bool)| text.len() <= 3 * SHORT + 3;
            assert!(given(Rules { envelope, multiline, bytes_max: SHORT }).iter().all(is_bounded));
        }
    }
    let line = String::from_utf8_lossy(bytes.split(|byte| *byte == b'\n').next().unwrap_or_default());
    [Envelope::Cri, Envelope::Docker].into_iter().any(|envelope| envelope.peel(&line).is_some())
}

/// However a stream arrives, the same messages are in it, and none is longer than it may be.
pub fn log_frames(bytes: &[u8], step: usize) -> bool {
    let told = |arrivals: &[usize], mut frames: Frames| {
        let (mut told, mut at) = (Vec::new(), 0);
        for &arrived in arrivals {
            frames.room().extend_from_slice(&bytes[at..arrived]);
            at = arrived;
            while let Some(message) = frames.message() {
                assert!(message.len() <= SHORT + 1);
                told.push(message.to_vec());
            }
        }
        (told, frames.rest().to_vec())
    };
    for kind in [Frames::messages, Frames::lines] {
        let [at_once, slowly, stepped] = arrivals(bytes.len(), step).map(|arrivals| told(&arrivals, kind(SHORT)));
        assert_eq!(at_once, slowly);
        assert_eq!(at_once, stepped);
    }
    // Nothing of lines is lost.
    let (mut lines, rest) = told(&[bytes.len()], Frames::lines(SHORT));
    lines.push(rest);
    let written: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(|line| line[..line.len().min(SHORT + 1)].to_vec()).collect();
    assert!(
        lines == written
            || (lines.len() == written.len() + 1 && lines.last().is_some_and(Vec::is_empty) && lines[..written.len()] == written)
    );
    bytes.first().is_some_and(u8::is_ascii_digit)
}
