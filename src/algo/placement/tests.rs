//! Public vectors, and laws that hold for every method.
//!
//! Where real programs are there to compare with, `tests/it/placement_peers.rs` does.

use std::collections::HashSet;
use std::fmt::Write as _;

use md5::{Digest, Md5};

use super::*;
use crate::algo::dice;

fn member(name: &str, weight: u32) -> Member<'_> {
    Member { name, address: name, has_name: false, weight }
}

fn named(name: &str) -> Member<'_> {
    Member { has_name: true, ..member(name, 1) }
}

/// Who has a key, by name.
fn owner<'m>(table: &Table, members: &[Member<'m>], key: &str) -> &'m str {
    let picked = table.pick(table.hash(key.as_bytes())).expect("somebody has a weight");
    members[picked as usize].name
}

#[track_caller]
fn check(method: &Method, members: &[Member<'_>], cases: &[(&str, &str)]) {
    assert_eq!(method.check(members), Ok(()));
    let table = Table::build(method, 0, members);
    for (key, expected) in cases {
        assert_eq!(owner(&table, members, key), *expected, "{key}");
    }
}

fn every_method() -> Vec<Method> {
    vec![
        Method::Maglev,
        Method::Rendezvous,
        Method::Ring { points: 160 },
        Method::Jump,
        Method::Slots(Slots::default()),
        Method::Nginx,
        Method::NginxModulo,
        Method::Libketama,
        Method::Libmemcached(Libmemcached { hash: KeyHash::Md5, weighted: false, spy: false, signed_char: true }),
        Method::Libmemcached(Libmemcached { hash: KeyHash::Md5, weighted: true, spy: false, signed_char: true }),
        Method::Libmemcached(Libmemcached { hash: KeyHash::Md5, weighted: false, spy: true, signed_char: true }),
        Method::Twemproxy(twemproxy(KeyHash::Fnv1a64)),
        Method::Twemproxy(Twemproxy { distribution: Distribution::Modula, ..twemproxy(KeyHash::Fnv1a64) }),
        Method::EnvoyRing(EnvoyRing { hash: EnvoyHash::XxHash64, min_size: 1024, max_size: 1 << 23 }),
        Method::EnvoyRing(EnvoyRing { hash: EnvoyHash::MurmurHash2, min_size: 1024, max_size: 1 << 23 }),
        Method::EnvoyMaglev { size: 65_537 },
    ]
}

fn twemproxy(hash: KeyHash) -> Twemproxy {
    Twemproxy { hash, distribution: Distribution::Ketama, signed_char: true }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("10.0.{}.{}:80", number / 250, number % 250 + 1)).collect()
}

fn equal(names: &[String]) -> Vec<Member<'_>> {
    names.iter().map(|name| member(name, 1)).collect()
}

/// Random enough, and the same each time.
fn keys(count: usize) -> Vec<Vec<u8>> {
    let mut state = 7;
    (0..count).map(|_| dice::roll(&mut state).to_le_bytes().to_vec()).collect()
}

#[test]
fn nginx_rings_are_as_in_its_trace() {
    let names: Vec<String> = (1..=9).map(|number| format!("10.0.0.{number}:443")).collect();
    let members: Vec<Member<'_>> = names.iter().map(|name| member(name, 100)).collect();
    let trace = include_str!("nginx-trace.csv");
    let cases: Vec<(&str, &str)> = trace.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_once(',').unwrap()).collect();
    assert_eq!(cases.len(), 1001);
    check(&Method::Nginx, &members, &cases);
}

#[test]
fn nginx_rings_know_servers_as_they_are_written() {
    let two = [member("127.0.0.1:7777", 1), member("127.0.0.1:7778", 1)];
    let cases = [("/some/path", two[1].name), ("/some/longer/path", two[0].name), ("/sad/zaidoon", two[1].name), ("/g", two[0].name)];
    check(&Method::Nginx, &two, &cases);
    let without_ports = [named("a.example"), named("b.example"), named("c.example")];
    let cases = [
        ("/some/path", "c.example"),
        ("/some/longer/path", "b.example"),
        ("/g", "a.example"),
        ("/cat.gif", "b.example"),
        ("user1", "c.example"),
    ];
    check(&Method::Nginx, &without_ports, &cases);
    let ipv6 = [member("[::1]:7777", 1), member("[::1]:7778", 1), member("[::1]:7779", 1)];
    check(&Method::Nginx, &ipv6, &[("/some/path", ipv6[0].name), ("/some/longer/path", ipv6[2].name), ("user1", ipv6[2].name)]);
}

/// What its own test prints of a million keys.
#[test]
fn libketama_places_a_million_keys_as_its_test_does() {
    let servers: [(&str, u32); 8] = [
        ("10.0.1.1:11211", 600),
        ("10.0.1.2:11211", 300),
        ("10.0.1.3:11211", 200),
        ("10.0.1.4:11211", 350),
        ("10.0.1.5:11211", 1000),
        ("10.0.1.6:11211", 800),
        ("10.0.1.7:11211", 950),
        ("10.0.1.8:11211", 100),
    ];
    let members = servers.map(|(name, weight)| member(name, weight));
    let points = ketama::libketama(&members);
    let table = Table::build(&Method::Libketama, 0, &members);
    // What went well is an error without a text, on a line of its own.
    let mut printed = String::from("\n");
    let mut digest = Md5::new();
    for number in 0..1_000_000 {
        let mut digits = itoa::Buffer::new();
        let key = table.hash(digits.format(number).as_bytes());
        let place = points.find(key.value as u32);
        let owner = usize::from(points.at(place));
        assert_eq!(table.pick(key), Some(owner as u32));
        let _ = writeln!(printed, "{} {} {}", key.value, points.value(place), members[owner].name);
        if printed.len() > 1 << 16 {
            digest.update(&printed);
            printed.clear();
        }
    }
    digest.update(&printed);
    let hex = digest.finalize().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    assert_eq!(hex, "5672b131391f5aa2b280936aec1eea74");
}

#[test]
fn hashes_of_twemproxy_are_what_its_tests_say() {
    let apple = [
        ("one_at_a_time", 2_297_466_611),
        ("md5", 3_195_025_439),
        ("crc16", 3_662_830_516),
        ("crc32", 10_542),
        ("crc32a", 2_838_417_488),
        ("fnv1_64", 473_199_127),
        ("fnv1a_64", 1_488_911_807),
        ("fnv1_32", 67_176_023),
        ("fnv1a_32", 280_767_167),
        ("hsieh", 3_738_850_110),
        ("murmur", 4_142_305_122),
        ("jenkins", 1_442_444_624),
    ];
    assert_eq!(apple.map(|(word, _)| word), KeyHash::NAMES);
    for (word, expected) in apple {
        assert_eq!(KeyHash::parse(word).unwrap().of(b"apple", true), expected, "{word}");
    }
}

#[test]
fn only_some_hashes_care_whether_char_is_signed() {
    let differ = |hash: &KeyHash| hash.of("Käse".as_bytes(), true) != hash.of("Käse".as_bytes(), false);
    let differing: Vec<&str> = KeyHash::ALL.iter().filter(|hash| differ(hash)).map(|hash| hash.word()).collect();
    // hsieh would with a last byte from 0x80 on that is the third of its word.
    assert_eq!(differing, ["one_at_a_time", "fnv1_64", "fnv1a_64", "fnv1_32", "fnv1a_32"]);
    assert!(KeyHash::Hsieh.of(b"ab\xff", true) != KeyHash::Hsieh.of(b"ab\xff", false));
    assert!(KeyHash::ALL.iter().all(|hash| hash.of(b"cheese", true) == hash.of(b"cheese", false)));
}

#[test]
fn twemproxy_rings_are_as_derived() {
    let servers = [named("server1"), named("server2"), named("server3"), named("server4")];
    let method = Method::Twemproxy(twemproxy(KeyHash::Fnv1a64));
    let cases =
        [("apple", "server1"), ("foo", "server1"), ("bar", "server4"), ("user1", "server3"), ("key:1000", "server4"), ("a", "server3")];
    check(&method, &servers, &cases);
    let hosts = [member("10.0.1.1:11211", 1), member("10.0.1.2:11211", 2), member("10.0.1.3:11211", 3)];
    let cases = [("apple", hosts[0].name), ("foo", hosts[2].name), ("bar", hosts[1].name), ("user1", hosts[2].name)];
    check(&method, &hosts, &cases);
    let points = ketama::twemproxy(&hosts);
    let count = |member: u16| (0..points.len()).filter(|&place| points.at(place) == member).count();
    assert_eq!([count(0), count(1), count(2)], [80, 160, 240]);
}

#[test]
fn points_of_ketama_are_quarters_of_a_digest() {
    let points = ketama::twemproxy(&[named("server1")]);
    let values: HashSet<u32> = (0..points.len()).map(|place| points.value(place)).collect();
    assert!(values.contains(&3_853_726_576) && values.contains(&2_667_054_752), "of server1-8");
}

#[test]
fn jump_and_slots_are_as_published() {
    assert_eq!((jump(1, 60), jump(2, 60)), (55, 46));
    assert_eq!(hashes::crc16(b"123456789"), 0x31c3);
    let slots = Table::build(&Method::Slots(Slots::default()), 0, &[member("a", 1)]);
    assert_eq!(slots.hash(b"123456789").value % 16_384, 12_739);
    assert_eq!(slots.hash(b"foo").value % 16_384, 12_182);
}

#[test]
fn an_order_names_everybody_once_and_begins_with_the_owner() {
    let names = names(200);
    for count in [1, 2, 7, 200] {
        let members = equal(&names[..count]);
        for method in every_method() {
            let table = Table::build(&method, 3, &members);
            for key in keys(50) {
                let hashed = table.hash(&key);
                let order: Vec<u32> = table.order(hashed).collect();
                let different: HashSet<&u32> = order.iter().collect();
                assert_eq!((order.len(), different.len()), (count, count), "{method:?}");
                assert_eq!(order.first().copied(), table.pick(hashed), "{method:?}");
            }
        }
    }
}

#[test]
fn nobody_gets_keys_without_a_weight() {
    let members = [member("a", 1), member("b", 0), member("c", 2)];
    let nobody = [member("a", 0)];
    for method in every_method() {
        let table = Table::build(&method, 3, &members);
        for key in keys(200) {
            let mut order: Vec<u32> = table.order(table.hash(&key)).collect();
            order.sort_unstable();
            assert_eq!(order, [0, 2], "{method:?}");
        }
        let empty = Table::build(&method, 3, &nobody);
        assert_eq!((empty.pick(empty.hash(b"x")), empty.order(empty.hash(b"x")).count()), (None, 0), "{method:?}");
        assert_eq!(Table::build(&method, 3, &[]).pick(Hashed { value: 1, length: 1 }), None, "{method:?}");
    }
}

#[test]
fn the_order_in_the_file_never_matters_to_own_methods() {
    let names = names(20);
    let members = equal(&names);
    let mut turned = members.clone();
    turned.reverse();
    turned.swap(3, 11);
    // Where the originals do not care either.
    let orderless = |method: &&Method| !matches!(method, Method::NginxModulo);
    for method in every_method().iter().filter(orderless).filter(|method| !matches!(method, Method::EnvoyRing(_))) {
        let (one, other) = (Table::build(method, 5, &members), Table::build(method, 5, &turned));
        for key in keys(2000) {
            let names = |table: &Table, members: &[Member<'_>]| -> Vec<String> {
                table.order(table.hash(&key)).take(4).map(|index| members[index as usize].name.to_owned()).collect()
            };
            assert_eq!(names(&one, &members), names(&other, &turned), "{method:?}");
        }
    }
}

#[test]
fn only_keys_of_the_one_who_left_move() {
    let names = names(10);
    let members = equal(&names);
    for (method, excess) in [(Method::Rendezvous, 0.0), (Method::Ring { points: 160 }, 0.0), (Method::Nginx, 0.0), (Method::Maglev, 0.01)] {
        let before = Table::build(&method, 1, &members);
        for gone in 0..members.len() {
            let fewer: Vec<Member<'_>> =
                members.iter().enumerate().filter(|(index, _)| *index != gone).map(|(_, member)| *member).collect();
            let after = Table::build(&method, 1, &fewer);
            let keys = keys(20_000);
            let moved = keys.iter().filter(|key| {
                let old = members[before.pick(before.hash(key)).unwrap() as usize].name;
                old != members[gone].name && old != fewer[after.pick(after.hash(key)).unwrap() as usize].name
            });
            let moved = moved.count() as f64 / keys.len() as f64;
            assert!(moved <= excess, "{method:?}: {moved}");
        }
    }
}

#[test]
fn jump_adds_a_tenth_member_without_moving_others() {
    let names: Vec<String> = (0..11).map(|number| format!("cache-{number}")).collect();
    let (before, after) = (equal(&names[..10]), equal(&names));
    let (old, new) = (Table::build(&Method::Jump, 1, &before), Table::build(&Method::Jump, 1, &after));
    for key in keys(5000) {
        let (from, to) = (before[old.pick(old.hash(&key)).unwrap() as usize].name, after[new.pick(new.hash(&key)).unwrap() as usize].name);
        assert!(from == to || to == "cache-10", "{from} {to}");
    }
}

/// Shares of a million keys.
fn shares(method: &Method, members: &[Member<'_>]) -> Vec<f64> {
    let table = Table::build(method, 9, members);
    let mut counts = vec![0_u32; members.len()];
    let mut state = 11;
    for _ in 0..1_000_000 {
        let key = table.hash(&dice::roll(&mut state).to_le_bytes());
        counts[table.pick(key).unwrap() as usize] += 1;
    }
    counts.iter().map(|&count| f64::from(count) / 1e6).collect()
}

#[test]
fn a_hundred_members_are_nearly_equal() {
    let names = names(100);
    let members = equal(&names);
    for (method, most) in [(Method::Maglev, 1.04), (Method::Ring { points: 160 }, 1.25), (Method::Jump, 1.04)] {
        let peak = shares(&method, &members).into_iter().fold(0.0, f64::max) * 100.0;
        assert!(peak <= most, "{method:?}: {peak}");
    }
}

#[test]
fn shares_are_as_the_weights() {
    let weights = [1, 2, 3, 10, 0, 4];
    let names = names(weights.len());
    let members: Vec<Member<'_>> = names.iter().zip(weights).map(|(name, weight)| member(name, weight)).collect();
    for method in
        [Method::Maglev, Method::Rendezvous, Method::EnvoyMaglev { size: 65_537 }, Method::NginxModulo, Method::Slots(Slots::default())]
    {
        for (share, weight) in shares(&method, &members).into_iter().zip(weights) {
            let wanted = f64::from(weight) / 20.0;
            assert!((share - wanted).abs() <= 0.02 * wanted.max(0.05), "{method:?}: {share} for {wanted}");
        }
    }
}

#[test]
fn tables_are_as_small_as_promised() {
    let names = names(1000);
    let members = equal(&names);
    let bytes = |method: &Method| Table::build(method, 0, &members).bytes();
    assert!(bytes(&Method::Maglev) <= 135_000, "{}", bytes(&Method::Maglev));
    assert!(bytes(&Method::Nginx) <= 1_300_000);
    assert!(bytes(&Method::Ring { points: 160 }) <= 1_300_000);
}

#[test]
fn two_salts_place_independently() {
    let names = names(4);
    let members = equal(&names);
    let (one, other) = (Table::build(&Method::Maglev, 1, &members), Table::build(&Method::Maglev, 2, &members));
    let keys = keys(40_000);
    let same = keys.iter().filter(|key| one.pick(one.hash(key)) == other.pick(other.hash(key))).count();
    assert!((same as f64 / 40_000.0 - 0.25).abs() < 0.02, "{same}");
}

#[test]
fn what_cannot_be_placed_is_refused() {
    let refused = |method: Method, members: &[Member<'_>], part: &str| {
        let reason = method.check(members).unwrap_err();
        assert!(reason.contains(part), "{reason}");
    };
    let two = [member("a", 1), member("b", 2)];
    refused(Method::Jump, &two, "`b` has weight 2");
    refused(Method::EnvoyMaglev { size: 100 }, &two, "prime");
    refused(Method::Ring { points: 10_000 }, &[member("a", 1000)], "too many");
    let slots = |ranges: &[(u16, u16, &str)]| {
        Method::Slots(Slots { ranges: ranges.iter().map(|(from, to, name)| (*from, *to, (*name).to_owned())).collect() })
    };
    refused(slots(&[(0, 16_382, "a")]), &two, "slot 16383 is given to nobody");
    refused(slots(&[(0, 16_383, "c")]), &two, "`c`, which is no member");
    refused(slots(&[(0, 9000, "a"), (9000, 16_383, "b")]), &two, "slot 9000 is given to `a` and `b`");
    assert_eq!(slots(&[(0, 8191, "a"), (8192, 16_383, "b")]).check(&two), Ok(()));
}
