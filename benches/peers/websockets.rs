//! Sends WebSocket messages and waits for their echo: the load of the WebSocket case.
//!
//! Each connection has one message on its way. Looks into no frame that comes back: its length says that it is whole.
//!
//! `websockets ADDRESS CONNECTIONS SECONDS` prints JSON.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ASK: &[u8] = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const MESSAGE_BYTES: usize = 100;

/// A masked binary frame (RFC 6455 §5.2), as clients send them.
fn frame() -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | MESSAGE_BYTES as u8, 1, 2, 3, 4];
    frame.resize(frame.len() + MESSAGE_BYTES, b'x');
    frame
}

async fn converse(address: String, end: Instant) -> io::Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(ASK).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(io::Error::other("the upgrade was refused"));
    }
    let frame = frame();
    let mut echo = vec![0; frame.len()];
    let mut messages = 0;
    while Instant::now() < end {
        stream.write_all(&frame).await?;
        stream.read_exact(&mut echo).await?;
        messages += 1;
    }
    Ok(messages)
}

fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: websockets ADDRESS CONNECTIONS SECONDS");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, connections, seconds] = &args[..] else { return Err(usage()) };
    let connections: usize = connections.parse().map_err(|_| usage())?;
    let time = Duration::from_secs_f64(seconds.parse().map_err(|_| usage())?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start = Instant::now();
    let (mut messages, mut errors) = (0, 0);
    runtime.block_on(async {
        let running: Vec<_> = (0..connections).map(|_| tokio::spawn(converse(address.clone(), start + time))).collect();
        for one in running {
            match one.await {
                Ok(Ok(count)) => messages += count,
                _ => errors += 1,
            }
        }
    });
    let line = serde_json::json!({ "messages": messages, "errors": errors, "seconds": start.elapsed().as_secs_f64() });
    writeln!(io::stdout(), "{line}")
}
