//! Splitting: what the choice of an arm costs, from the head to the arm.
//!
//! That it allocates nothing is tested in `tests/allocations.rs`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use attache::services::{Asked, Body, Way};
use criterion::Criterion;

use super::{generation, head_of, parsed};

const REQUEST: &[u8] = b"GET /some/path?with=query HTTP/1.1\r\nHost: shop.example\r\nCookie: theme=dark; uid=4711-ann; lang=en\r\n\r\n";

pub fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    let request = parsed(REQUEST);
    let head = head_of(&request, REQUEST);
    let arms = "[service.a]\nendpoints = [\"127.0.0.1:1\"]\n[service.b]\nendpoints = [\"127.0.0.1:2\"]\n";
    let split = "[service.s.split]\narms = { a = \"10%\", b = \"rest\" }\nby = \"cookie:uid\"\n";
    let ramp = "ramp = { arm = \"a\", steps = [\"5%\", \"50%\"], every = \"10m\", abort = { errors_over = \"2%\" } }\n";
    // What it adds is the difference to the first.
    for (name, services) in [
        ("without", "[service.s]\nendpoints = [\"127.0.0.1:1\"]\n".to_owned()),
        ("by a cookie", format!("{split}{arms}")),
        ("by a cookie, with a ramp", format!("{split}{ramp}{arms}")),
        ("by chance", format!("[service.s.split]\narms = {{ a = \"10%\", b = \"rest\" }}\n{arms}")),
    ] {
        let generation = generation(&format!("[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n{services}"));
        let listener = &generation.listeners[0];
        let mut keys = Vec::new();
        let now = Instant::now();
        let mut dice = 7_u64;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut way = Way::new(std::mem::take(&mut keys));
                dice = dice.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let asked = Asked { head: black_box(&head), now, worker: 0, dice, body: Body::Is(b""), passed: &[] };
                let is_found = listener.walk(&asked, &mut way).route.is_some();
                way.sent(0, now);
                way.finished(0, 200, Duration::from_millis(3));
                keys = way.into_keys();
                is_found
            });
        });
    }
    group.finish();
}
