//! Asks the admin API of a running attache; for the command line.
//!
//! One request, one connection, blocking, with a deadline.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::proto::http1::{BodyFraming, Limits, Progress, ResponseHead, response_framing};
use crate::value::Address;

const LIMITS: Limits = Limits { header_bytes: 64 << 10, headers: 100, uri_bytes: 0 };
const BODY_MAX: u64 = 64 << 20;

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Sends `method target` and reads the answer, each wait bounded by `timeout`.
pub fn ask(address: &Address, method: &str, target: &str, timeout: Duration) -> io::Result<Answer> {
    match address {
        Address::Tcp(tcp) => {
            let stream = TcpStream::connect_timeout(tcp, timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            exchange(stream, &address.to_string(), method, target)
        }
        Address::Name(host, port) => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for tcp in (host.as_str(), *port).to_socket_addrs()? {
                match ask(&Address::Tcp(tcp), method, target, timeout) {
                    Err(error) => last = error,
                    answered => return answered,
                }
            }
            Err(last)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            exchange(stream, "localhost", method, target)
        }
    }
}

fn exchange(mut stream: impl Read + Write, host: &str, method: &str, target: &str) -> io::Result<Answer> {
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.take(BODY_MAX).read_to_end(&mut bytes)?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP; is this the admin address?");
    let mut head = ResponseHead::new();
    match head.parse(&bytes, &LIMITS) {
        Ok(Progress::Complete) => {}
        _ => return Err(broken()),
    }
    let framing = response_framing(&head, &bytes, method == "HEAD").map_err(|_| broken())?;
    let body = bytes.split_off(head.bytes);
    match framing.body {
        BodyFraming::Length(length) if (body.len() as u64) < length => Err(io::ErrorKind::UnexpectedEof.into()),
        BodyFraming::Chunked => Err(broken()),
        _ => Ok(Answer { status: head.status, body }),
    }
}
