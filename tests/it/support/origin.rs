//! A scripted origin: reads requests raw and does what it is told, byte for byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What to do with each request, in the connection that brought it.
///
/// Gets the request as it came (head and, if framed, body) and its number on this connection.
pub type Script = Arc<dyn Fn(&mut TcpStream, &Request, usize) -> Next + Send + Sync>;

/// Whether the origin goes on with this connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Keep,
    Close,
}

/// A request as the origin saw it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Request line and fields as they came, with the empty line.
    pub head: String,
    /// Body unframed.
    pub body: Vec<u8>,
    /// Chunks as they came, if it was chunked; with trailers.
    pub raw_body: Vec<u8>,
}

impl Request {
    pub fn line(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }

    pub fn headers(&self, name: &str) -> Vec<&str> {
        let fields = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).into_iter().next()
    }
}

pub struct Origin {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    connections: Arc<Mutex<usize>>,
    is_over: Arc<AtomicBool>,
}

impl Origin {
    /// Runs `script` for every request.
    pub fn run(script: impl Fn(&mut TcpStream, &Request, usize) -> Next + Send + Sync + 'static) -> Self {
        let script: Script = Arc::new(script);
        Self::listen("127.0.0.1:0", move |stream, _, seen| connection(stream, &script, seen))
    }

    /// As [`Origin::run`], at one port of every address of this machine: 127.0.0.0/8 alone has millions.
    pub fn everywhere(script: impl Fn(&mut TcpStream, &Request, usize) -> Next + Send + Sync + 'static) -> Self {
        let script: Script = Arc::new(script);
        // Where there is no IPv6, every address of IPv4.
        let address = if TcpListener::bind("[::]:0").is_ok() { "[::]:0" } else { "0.0.0.0:0" };
        Self::listen(address, move |stream, _, seen| connection(stream, &script, seen))
    }

    /// Hands every connection to `script` with its number: for what does not read a whole request
    /// before it answers. Nothing is `seen`.
    pub fn raw(script: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        Self::listen("127.0.0.1:0", move |stream, number, _| script(stream, number))
    }

    fn listen(address: &str, serve: impl Fn(TcpStream, usize, &Mutex<Vec<Request>>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        // std's queue of 128 makes a crowd wait a second for its second SYN.
        socket2::SockRef::from(&listener).listen(4096).unwrap();
        let origin =
            Self { address: listener.local_addr().unwrap(), seen: Arc::default(), connections: Arc::default(), is_over: Arc::default() };
        let serve = Arc::new(serve);
        let (seen, connections, is_over) = (Arc::clone(&origin.seen), Arc::clone(&origin.connections), Arc::clone(&origin.is_over));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let number = {
                    let mut count = connections.lock().unwrap();
                    *count += 1;
                    *count - 1
                };
                let (serve, seen) = (Arc::clone(&serve), Arc::clone(&seen));
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    serve(stream, number, &seen);
                });
            }
        });
        origin
    }

    /// Answers every request with the same bytes and keeps the connection.
    pub fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::run(move |stream, _, _| if stream.write_all(&bytes).is_ok() { Next::Keep } else { Next::Close })
    }

    /// Answers 200 with `body`.
    pub fn ok(body: &str) -> Self {
        Self::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    /// Requests seen so far, in order of arrival.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn connection(mut stream: TcpStream, script: &Script, seen: &Mutex<Vec<Request>>) {
    let mut buffer = Vec::new();
    for number in 0.. {
        let Some(request) = read_request(&mut stream, &mut buffer) else { return };
        seen.lock().unwrap().push(request.clone());
        if script(&mut stream, &request, number) == Next::Close {
            return;
        }
    }
}

/// `None` at the end of the connection, or if the request is cut.
pub(super) fn read_request(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Option<Request> {
    let mut request = Request { head: read_head(stream, buffer)?, ..Request::default() };
    // An origin that waits for no 100 reads the body as soon as it comes.
    if request.header("transfer-encoding").is_some() {
        loop {
            let line = loop {
                if let Some(at) = buffer.windows(2).position(|window| window == b"\r\n") {
                    break buffer.drain(..at + 2).collect::<Vec<u8>>();
                }
                fill(stream, buffer)?;
            };
            request.raw_body.extend_from_slice(&line);
            let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
            if size == 0 {
                loop {
                    while !buffer.windows(2).any(|window| window == b"\r\n") {
                        fill(stream, buffer)?;
                    }
                    let at = buffer.windows(2).position(|window| window == b"\r\n")?;
                    let line: Vec<u8> = buffer.drain(..at + 2).collect();
                    request.raw_body.extend_from_slice(&line);
                    if line == b"\r\n" {
                        return Some(request);
                    }
                }
            }
            while buffer.len() < size + 2 {
                fill(stream, buffer)?;
            }
            request.body.extend_from_slice(&buffer[..size]);
            request.raw_body.extend(buffer.drain(..size + 2));
        }
    }
    let length: usize = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        fill(stream, buffer)?;
    }
    request.body = buffer.drain(..length).collect();
    Some(request)
}

/// Reads a head and leaves what came behind it in `buffer`.
pub fn read_head(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..at + 4).collect();
            return Some(String::from_utf8_lossy(&head).into_owned());
        }
        fill(stream, buffer)?;
    }
}

fn fill(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 64 << 10];
    let count = stream.read(&mut piece).ok().filter(|&count| count > 0)?;
    buffer.extend_from_slice(&piece[..count]);
    Some(())
}
