//! Placing keys: how long a table takes to make, a key to be found in it, and a walk through a shard altogether.
//!
//! Memory is in unit tests, which it does not vary in.

use std::hint::black_box;
use std::time::Instant;

use attache::algo::dice;
use attache::algo::placement::{Distribution, EnvoyHash, EnvoyRing, KeyHash, Member, Method, Table, Twemproxy};
use attache::algo::topk::TopKeys;
use attache::services::{Asked, Body, Way};
use criterion::Criterion;

use super::{SMALL, generation, head_of, parsed};

fn methods() -> Vec<Method> {
    vec![
        Method::Maglev,
        Method::Rendezvous,
        Method::Ring { points: 160 },
        Method::Jump,
        Method::Nginx,
        Method::NginxModulo,
        Method::Twemproxy(Twemproxy { hash: KeyHash::Fnv1a64, distribution: Distribution::Ketama, signed_char: true }),
        Method::EnvoyRing(EnvoyRing { hash: EnvoyHash::XxHash64, min_size: 1024, max_size: 1 << 23 }),
        Method::EnvoyMaglev { size: 65_537 },
    ]
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("10.0.{}.{}:80", number / 250, number % 250 + 1)).collect()
}

fn members(names: &[String]) -> Vec<Member<'_>> {
    names.iter().map(|name| Member { name, address: name, has_name: false, weight: 1 }).collect()
}

pub fn placement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("placement");
    for method in methods() {
        for count in [10, 1000] {
            let names = names(count);
            let table = Table::build(&method, 0, &members(&names));
            let mut state = 1;
            let keys: Vec<_> = (0..4096).map(|_| table.hash(&dice::roll(&mut state).to_le_bytes())).collect();
            let mut next = 0;
            group.bench_function(format!("pick/{}/{count}", method.name()), |bencher| {
                bencher.iter(|| {
                    next = (next + 1) % keys.len();
                    table.pick(black_box(keys[next]))
                });
            });
        }
        let names = names(1000);
        let all = members(&names);
        group.bench_function(format!("build/{}/1000", method.name()), |bencher| bencher.iter(|| Table::build(&method, 0, black_box(&all))));
    }
    let mut top = TopKeys::new(1000);
    let mut state = 1;
    group.bench_function("count a key", |bencher| {
        bencher.iter(|| {
            // Half of them of a hundred keys, half of any number.
            let roll = dice::roll(&mut state);
            let key = if roll & 1 == 0 { roll >> 32 & 63 } else { roll };
            top.add(key, b"/some/path/of/usual/length");
        });
    });
    group.finish();
    through_shards(criterion);
}

/// From the head to the endpoint: the route, the key, its hash, the member.
fn through_shards(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard");
    let request = parsed(SMALL);
    let head = head_of(&request, SMALL);
    for (name, by) in
        [("path", "\"path\""), ("header", "\"header:user-agent\""), ("query", "\"query:with\""), ("regex", "'path~^/some/(.*)'")]
    {
        let over: Vec<String> = names(100).iter().map(|name| format!("\"{name}\"")).collect();
        let generation = generation(&format!(
            "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"s\"\n[service.s.shard]\nby = {by}\nover = [{}]\n",
            over.join(", ")
        ));
        let listener = &generation.listeners[0];
        let mut keys = Vec::new();
        let now = Instant::now();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut way = Way::new(std::mem::take(&mut keys));
                let asked = Asked { head: black_box(&head), now, worker: 0, dice: 7, body: Body::Is(b""), passed: &[] };
                let is_found = listener.walk(&asked, &mut way).route.is_some();
                keys = way.into_keys();
                is_found
            });
        });
    }
    group.finish();
}
