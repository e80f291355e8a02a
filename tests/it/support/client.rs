//! A raw client: sends bytes as they are, reads answers strictly.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::PATIENCE;

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub struct Client {
    stream: Box<dyn Stream>,
    tcp: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// One whole answer, its body unframed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Status line and fields as they came.
    pub head: String,
    pub body: Vec<u8>,
    /// Trailer fields as they came.
    pub trailers: String,
}

/// What came instead of, or as, an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read1 {
    Answer(Answer),
    /// The connection ended before a byte.
    Closed,
    /// The connection ended inside an answer.
    Cut(Vec<u8>),
}

impl Answer {
    /// First value of a field, compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).into_iter().next()
    }

    pub fn headers(&self, name: &str) -> Vec<&str> {
        let fields = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let tcp = stream.try_clone()?;
        Ok(Self { stream: Box::new(stream), tcp: Some(tcp), buffer: Vec::new() })
    }

    pub fn unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: Box::new(stream), tcp: None, buffer: Vec::new() })
    }

    /// TLS that believes any certificate.
    pub fn tls(address: SocketAddr, server_name: &str) -> io::Result<Self> {
        Self::tls_with(address, server_name, super::trusting::trusting_config(None))
    }

    pub fn tls_with(address: SocketAddr, server_name: &str, config: std::sync::Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let tcp = stream.try_clone()?;
        let name = rustls::pki_types::ServerName::try_from(server_name.to_owned()).map_err(io::Error::other)?;
        let session = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = rustls::StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream: Box::new(stream), tcp: Some(tcp), buffer: Vec::new() })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        self.tcp.as_ref().expect("a TCP client").shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// The socket, for what needs one.
    pub fn socket(&self) -> &TcpStream {
        self.tcp.as_ref().expect("a TCP client")
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 << 10];
        let count = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(count)
    }

    /// Reads one answer to `method`. Interim answers are skipped.
    pub fn read(&mut self, method: &str) -> io::Result<Read1> {
        loop {
            let read = self.read_any(method)?;
            match &read {
                Read1::Answer(answer) if (100..200).contains(&answer.status) && answer.status != 101 => {}
                _ => return Ok(read),
            }
        }
    }

    /// Reads one answer, interim ones too.
    pub fn read_any(&mut self, method: &str) -> io::Result<Read1> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            match self.fill() {
                Ok(0) if self.buffer.is_empty() => return Ok(Read1::Closed),
                Ok(0) => return Ok(Read1::Cut(std::mem::take(&mut self.buffer))),
                Ok(_) => {}
                Err(error) if self.buffer.is_empty() && is_reset(&error) => return Ok(Read1::Closed),
                Err(error) if is_reset(&error) => return Ok(Read1::Cut(std::mem::take(&mut self.buffer))),
                Err(error) => return Err(error),
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        let status = head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status line: {head:?}"));
        let mut answer = Answer { status, head, body: Vec::new(), trailers: String::new() };
        if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
            return Ok(Read1::Answer(answer));
        }
        let is_whole = if answer.header("transfer-encoding").is_some() {
            self.read_chunks(&mut answer)?
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length && self.fill_or_end()? {}
            let length = length.min(self.buffer.len());
            let is_whole = answer.header("content-length").unwrap().parse::<usize>().unwrap() == length;
            answer.body = self.buffer.drain(..length).collect();
            is_whole
        } else {
            // Until the end; a reset is a cut.
            loop {
                match self.fill() {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if is_reset(&error) => return Ok(Read1::Cut(std::mem::take(&mut self.buffer))),
                    Err(error) => return Err(error),
                }
            }
            answer.body = std::mem::take(&mut self.buffer);
            true
        };
        Ok(if is_whole { Read1::Answer(answer) } else { Read1::Cut(answer.body) })
    }

    fn fill_or_end(&mut self) -> io::Result<bool> {
        match self.fill() {
            Ok(count) => Ok(count > 0),
            Err(error) if is_reset(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Ok(Some(line));
            }
            if !self.fill_or_end()? {
                return Ok(None);
            }
        }
    }

    fn read_chunks(&mut self, answer: &mut Answer) -> io::Result<bool> {
        loop {
            let Some(line) = self.line()? else { return Ok(false) };
            let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
            if size == 0 {
                loop {
                    let Some(line) = self.line()? else { return Ok(false) };
                    if line.is_empty() {
                        return Ok(true);
                    }
                    answer.trailers.push_str(&line);
                    answer.trailers.push_str("\r\n");
                }
            }
            while self.buffer.len() < size + 2 {
                if !self.fill_or_end()? {
                    return Ok(false);
                }
            }
            answer.body.extend_from_slice(&self.buffer[..size]);
            assert_eq!(&self.buffer[size..size + 2], b"\r\n", "a chunk ends with CRLF");
            self.buffer.drain(..size + 2);
        }
    }

    /// Sends a request without a body and reads its answer, which must come.
    pub fn ask(mut self, method: &str, target: &str) -> io::Result<Answer> {
        self.request(method, target)
    }

    /// As [`Client::ask`], on a connection that stays.
    pub fn request(&mut self, method: &str, target: &str) -> io::Result<Answer> {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"))?;
        match self.read(method)? {
            Read1::Answer(answer) => Ok(answer),
            other => Err(io::Error::other(format!("no answer but {other:?}"))),
        }
    }

    /// Whether the other side has closed, by an end or a reset, and nothing was left to read.
    pub fn is_closed(&mut self) -> bool {
        match self.fill() {
            Ok(0) => self.buffer.is_empty(),
            Ok(_) => false,
            Err(error) => is_reset(&error),
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted
    )
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
