//! What is asked for metrics and means harm, or is broken: it is down, and nobody else notices.
//!
//! Real bytes; what single messages are worth is tested beside the code.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::exporters::{config, value};
use crate::support::{Origin, Rig, eventually};

/// A source that is asked twice is down twice, and the other one is up.
#[track_caller]
fn check_down(source: &str, up: &str) -> Rig {
    let other = Origin::ok("well 1\n");
    let other_is = format!("{{ prometheus = \"http://{}/\", name = \"other\" }}", other.address);
    let rig = Rig::start(&config(&format!("min_interval = \"1ms\"\nfrom = [{source}, {other_is}]\n[log]\nlevel = \"debug\"")));
    for _ in 0..2 {
        assert_eq!((value(&rig, up), value(&rig, "well")), (Some(0.0), Some(1.0)));
    }
    rig
}

/// Lets anybody in, and says this to every query.
fn mysql(answer: &'static [u8]) -> Origin {
    fn packet(number: u8, said: &[u8]) -> Vec<u8> {
        [&[said.len() as u8, 0, 0, number], said].concat()
    }
    fn heard(stream: &mut TcpStream) -> Option<()> {
        let mut head = [0; 4];
        stream.read_exact(&mut head).ok()?;
        stream.read_exact(&mut vec![0; usize::from(head[0]) | usize::from(head[1]) << 8]).ok()
    }
    Origin::raw(move |mut stream, _| {
        let greeting =
            b"\x0a8.0.30\0\x01\0\0\0abcdefgh\0\xff\xa7\x21\x02\0\x0a\0\x15\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0mysql_native_password\0";
        let _ = stream.write_all(&packet(0, greeting));
        if heard(&mut stream).is_some() {
            let _ = stream.write_all(&packet(2, b"\0\0\0\x02\0\0\0"));
        }
        while heard(&mut stream).is_some() {
            let _ = stream.write_all(&packet(1, answer));
        }
    })
}

/// The process ended: room for that many columns was to be had at once.
#[test]
fn a_mysql_of_too_many_columns_is_down() {
    let server = mysql(b"\xfe\0\0\0\0\0\x10\0\0");
    let rig = check_down(&format!("{{ mysql = \"mysql://u:p@{}/\" }}", server.address), "mysql_up");
    assert!(rig.log().contains("it answers with 17592186044416 columns, 4096 are the most"), "{}", rig.log());
}

/// Memory grew by all that it sent: of one message with a length of two gigabytes.
#[test]
fn a_postgres_of_an_endless_message_is_down() {
    let server = Origin::raw(|mut stream, _| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"R\x7f\xff\xff\xf0");
        while stream.write_all(&[b'x'; 65_536]).is_ok() {}
    });
    let rig = check_down(&format!("{{ postgres = \"postgres://u:p@{}/\" }}", server.address), "pg_up");
    assert!(rig.log().contains("its answers are too long"), "{}", rig.log());
}

/// Whether a check of a health report on the same thread is made meanwhile, which takes milliseconds.
fn check_answers_meanwhile(source: &str, busy: impl Fn(&Rig) + Sync) {
    let web = Origin::ok("x");
    let health = format!(
        "[[listener]]\nname = \"h\"\nlisten = \"127.0.0.1:0\"\nservice = \"h\"\n[service.h.health]\ninterval = \"100ms\"\n\
         checks = {{ web = {{ http = \"http://{}/\" }} }}\n",
        web.address
    );
    let rig = Rig::start(&format!("{}{health}", config(&format!("timeout = \"30s\"\nfrom = [{source}]"))));
    eventually("the check is made", || web.seen().len() > 1);
    let mut longest = Duration::ZERO;
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| busy(&rig));
        let (mut last, mut count) = (Instant::now(), web.seen().len());
        while !asks.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
            if web.seen().len() > count {
                (last, count) = (Instant::now(), web.seen().len());
            }
            longest = longest.max(last.elapsed());
        }
    });
    assert!(longest < Duration::from_secs(2), "nobody was asked for {longest:?}");
}

/// The only thread of probes looked through all of INFO for each of its names.
#[test]
fn a_redis_of_many_names_keeps_nobody_else_waiting() {
    let lines = |number: u32| format!("latency_percentiles_usec_{number}:p50=1\r\ndb{number}:keys=1\r\n");
    let info = (0..60_000).map(lines).collect::<Vec<_>>().concat();
    let answer = format!("${}\r\n{info}\r\n*0\r\n:0\r\n*0\r\n*0\r\n", info.len());
    let server = Origin::raw(move |mut stream, _| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(answer.as_bytes());
        let _ = stream.read(&mut [0; 1024]);
    });
    check_answers_meanwhile(&format!("{{ redis = \"{}\" }}", server.address), |rig| {
        assert_eq!(value(rig, "redis_up"), Some(1.0));
    });
}
