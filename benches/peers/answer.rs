//! Finds the end of an answer, for the load generators beside it.
//!
//! Knows only answers with a `Content-Length`: the origin of the bench gives no others.

use std::io;

const HEAD_END: &[u8] = b"\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 ";

/// How many bytes head and body have together, once the head is complete.
pub fn length(received: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = memchr::memmem::find(received, HEAD_END) else { return Ok(None) };
    let head = &received[..end];
    if !head.starts_with(OK) {
        return Err(io::Error::other(String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned()));
    }
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    };
    let body = String::from_utf8_lossy(head).lines().find_map(field).ok_or_else(|| io::Error::other("an answer without Content-Length"))?;
    Ok(Some(end + HEAD_END.len() + body))
}
