//! Logins as a server checks them, and answers that end nobody.
//!
//! Real servers are asked in `tests/it/exporters.rs`.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey};

use super::*;

const NONCE: &[u8; NONCE_BYTES] = b"abcdefghijklmnopqrst";

fn greeting(method: &str) -> Vec<u8> {
    let caps = u32::MAX.to_le_bytes();
    let head = [&[PROTOCOL][..], b"8.4.0\0", &[1, 0, 0, 0], &NONCE[..8], &[0], &caps[..2], &[45, 2, 0], &caps[2..], &[21], &[0; 10]];
    [&head.concat()[..], &NONCE[8..], &[0], method.as_bytes(), &[0]].concat()
}

fn entry(method: &str, is_socket: bool) -> (Entry, Vec<u8>) {
    let login = Login { user: Some("u".to_owned()), password: Some("s3cret".to_owned()), database: Some("shop".to_owned()) };
    Entry::begin(&greeting(method), &login, is_socket).unwrap()
}

/// As a server does it, which keeps the password hashed twice.
#[track_caller]
fn check_proof(method: &str, algorithm: &'static Algorithm, nonce_first: bool) {
    let (_, said) = entry(method, false);
    let behind = said[32..].strip_prefix(b"u\0").unwrap();
    let (proof, rest) = behind[1..].split_at(usize::from(behind[0]));
    assert_eq!(rest, format!("shop\0{method}\0").as_bytes());
    let kept = hash(algorithm, &[&hash(algorithm, &[b"s3cret"])]);
    let salt = if nonce_first { hash(algorithm, &[NONCE, &kept]) } else { hash(algorithm, &[&kept, NONCE]) };
    assert_eq!(hash(algorithm, &[&mixed(proof, &salt)]), kept);
}

#[test]
fn a_server_knows_the_password_by_its_proof() {
    check_proof("mysql_native_password", &SHA1_FOR_LEGACY_USE_ONLY, true);
    check_proof("caching_sha2_password", &SHA256, false);
}

#[test]
fn a_password_that_a_server_has_not_cached_goes_to_its_key_only_or_through_a_socket() {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let der = AsDer::<PublicKeyX509Der<'_>>::as_der(&key.public_key()).unwrap();
    let pem = pem_of(der.as_ref());
    let (mut entry, _) = entry("caching_sha2_password", false);
    assert_eq!(entry.go_on(&[MORE, 4]), Ok(Next::Say(vec![2])));
    let Ok(Next::Say(sealed)) = entry.go_on(&[&[MORE], pem.as_bytes()].concat()) else { panic!("it says nothing") };
    let key = OaepPrivateDecryptingKey::new(key).unwrap();
    let mut room = vec![0; key.min_output_size()];
    let opened = key.decrypt(&OAEP_SHA1_MGF1SHA1, &sealed, &mut room, None).unwrap();
    assert_eq!(mixed(opened, NONCE), b"s3cret\0");
    assert_eq!(entry.go_on(&[OK, 0, 0, 2, 0, 0, 0]), Ok(Next::In));
    let (mut entry, _) = self::entry("caching_sha2_password", true);
    assert_eq!(entry.go_on(&[MORE, 4]), Ok(Next::Say(b"s3cret\0".to_vec())));
}

fn pem_of(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let bits = three.iter().chain([&0, &0]).take(3).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for at in 0..4 {
            text.push(if at <= three.len() { char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]) } else { '=' });
        }
    }
    format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
}

#[test]
fn a_server_may_ask_for_another_proof_but_for_no_password_in_plain() {
    let (mut entry, _) = entry("sha256_password", false);
    let switch = |method: &str| [&[END], method.as_bytes(), &[0], NONCE, &[0]].concat();
    let expected = Method::Native.prove("s3cret", NONCE);
    assert_eq!(entry.go_on(&switch("mysql_native_password")), Ok(Next::Say(expected)));
    for refused in [&switch("mysql_clear_password")[..], &[END], &[MORE, 4], &[], b"\xff\x15\x04#28000Access denied"] {
        assert!(entry.go_on(refused).is_err(), "{refused:?}");
    }
    assert_eq!(entry.go_on(b"\xff\x15\x04#28000Access denied"), Err("error 1045: Access denied".to_owned()));
}

#[test]
fn greetings_of_others_are_none() {
    let login = Login { user: None, password: None, database: None };
    let whole = greeting("mysql_native_password");
    for end in 0..whole.len() - "mysql_native_password\0".len() - 1 {
        assert!(Entry::begin(&whole[..end], &login, false).is_err(), "{end}");
    }
    assert_eq!(Entry::begin(b"\xff\x69\x04Host is blocked", &login, false).unwrap_err(), "error 1129: Host is blocked");
}

fn column(name: &str) -> Vec<u8> {
    let parts = ["def", "", "t", "t", name, name];
    parts.iter().flat_map(|part| std::iter::once(part.len() as u8).chain(part.bytes())).chain([12; 13]).collect()
}

const END_OF: &[u8] = &[END, 0, 0, 2, 0];
const END_AND_MORE: &[u8] = &[END, 0, 0, 10, 0];

#[test]
fn rows_are_read_and_so_are_results_after_them() {
    let mut answer = Answer::default();
    for packet in [&[2], &column("a")[..], &column("b"), END_OF] {
        assert_eq!(answer.take(packet), Ok(Part::None));
    }
    assert_eq!(answer.columns, ["a", "b"]);
    assert_eq!(answer.take(b"\x011\xfb"), Ok(Part::Row(vec![Some("1".to_owned()), None])));
    assert!(answer.take(b"\x011").is_err());
    assert_eq!((answer.take(END_AND_MORE), answer.results), (Ok(Part::None), 1));
    assert_eq!((answer.take(&[OK, 0, 0, 2, 0, 0, 0]), answer.results), (Ok(Part::Last), 2));
    assert_eq!(answer.take(b"\xff\x7a\x04#42S02no table"), Err("error 1146: no table".to_owned()));
}

/// A process was ended by this: 2^44 columns in the first result, or in one that follows another.
#[test]
fn nobody_has_that_many_columns() {
    let many = [&[0xfe][..], &(1u64 << 44).to_le_bytes()].concat();
    let mut second = Answer::default();
    assert_eq!(second.take(&[OK, 0, 0, 8, 0]), Ok(Part::None));
    for mut answer in [Answer::default(), second] {
        assert_eq!(answer.take(&many), Err("it answers with 17592186044416 columns, 4096 are the most".to_owned()));
    }
    assert_eq!(Answer::default().take(&[0xfc, 0, 16]), Ok(Part::None));
    assert!(Answer::default().take(&[0xfc, 1, 16]).is_err());
    assert!(Answer::default().take(&[FILE, b'/']).is_err());
    // A length of 2^64 in a row.
    let mut answer = Answer { state: State::Rows, columns: vec!["a".to_owned()], results: 0 };
    assert!(answer.take(&[0xfe, 255, 255, 255, 255, 255, 255, 255, 255, 1]).is_err());
}

#[test]
fn packets_are_waited_for_unless_they_are_too_long() {
    let bytes = Packet::write(3, b"abc").unwrap();
    assert_eq!(Packet::parse(&bytes, 3), Ok(Some((Packet { number: 3, said: b"abc".to_vec() }, 7))));
    assert_eq!(Packet::parse(&bytes[..6], 3), Ok(None));
    assert!(Packet::parse(&bytes, 2).is_err());
    assert!(Packet::parse(&[255, 255, 255, 0], usize::MAX).is_err());
}
