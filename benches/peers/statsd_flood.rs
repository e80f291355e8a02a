//! Sends statsd to an address, as fast as it goes or at a rate, for `attache` to be measured against.
//!
//! Counts what it sent; what was heard, and what was lost, the page of metrics says.
//!
//! `statsd_flood 127.0.0.1:8125 --seconds 5 --lines 10 --series 1000 [--rate LINES] [--tcp]`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool of the bench")]

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| arguments[at + 1].parse().unwrap())
    };
    let (seconds, lines, series, rate) = (option("--seconds", 5), option("--lines", 10), option("--series", 1000), option("--rate", 0));
    let kinds = ["c", "g", "ms", "c|@0.5"];
    let line = |number: u64| {
        let kind = kinds[(number % 4) as usize];
        format!("app.request.{}:{}|{kind}|#host:web-{},zone:b\n", number % series, number % 997, number % 7)
    };
    // Prepared, so that what is measured is not this.
    let payloads: Vec<Vec<u8>> = (0..series * 7 * 4 / lines.min(series))
        .map(|datagram| (0..lines).map(|at| line(datagram * lines + at)).collect::<String>().into_bytes())
        .collect();
    let mut stream = arguments.iter().any(|argument| argument == "--tcp").then(|| TcpStream::connect(&arguments[0]).unwrap());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(&arguments[0]).unwrap();
    let began = Instant::now();
    let (mut datagrams, mut failed) = (0_u64, 0_u64);
    while began.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..32 {
            let payload = &payloads[(datagrams % payloads.len() as u64) as usize];
            let sent = match &mut stream {
                Some(stream) => stream.write_all(payload).is_ok(),
                None => socket.send(payload).is_ok(),
            };
            failed += u64::from(!sent);
            datagrams += 1;
        }
        if rate > 0 {
            let due = Duration::from_secs_f64((datagrams * lines) as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!("{} lines in {datagrams} writes, {failed} failed, {:.0} lines/s", datagrams * lines, (datagrams * lines) as f64 / took);
}
