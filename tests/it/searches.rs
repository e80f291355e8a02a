//! The book's two searches, as the samples have them: over a small corpus on disk, served by leaves that read it.
//!
//! What is right, a search of the whole corpus says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Answer, Next, Origin, Request, Rig, free_address};

const CORPUS: [(&str, &str); 9] = [
    ("pets", "cat dog cat bird cat fish dog cat cat"),
    ("kinds", "dog cat mammal bird"),
    ("farm", "cow dog sheep cow"),
    ("sea", "fish whale fish"),
    ("sky", "bird bird eagle"),
    ("home", "cat sofa cat"),
    ("city", "dog pigeon bird"),
    ("myth", "dragon cat dog"),
    ("zoo", "whale cat eagle dog bird cat"),
];

/// Writes a part of the corpus into a directory of its own.
fn written(part: impl Fn(usize) -> bool) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (_, (name, text)) in CORPUS.iter().enumerate().filter(|(number, _)| part(*number)) {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

/// How often each document has a word.
fn scores(directory: &Path, word: &str) -> BTreeMap<String, usize> {
    let documents = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let score = |path: &Path| std::fs::read_to_string(path).unwrap().split_whitespace().filter(|other| *other == word).count();
    let scored = documents.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), score(&path)));
    scored.filter(|(_, score)| *score > 0).collect()
}

fn parameter(request: &Request, name: &str) -> Option<String> {
    let target = request.line().split(' ').nth(1)?;
    let pairs = target.split_once('?')?.1.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(have, _)| *have == name).map(|(_, value)| value.to_owned())
}

/// A leaf that answers from what is in its directory.
fn leaf(directory: TempDir, answer: fn(BTreeMap<String, usize>) -> Value) -> Origin {
    Origin::run(move |stream, request, _| {
        let word = parameter(request, "word").unwrap_or_default();
        let body = answer(scores(directory.path(), &word)).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).is_ok() { Next::Keep } else { Next::Close }
    })
}

fn sample(name: &str) -> String {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap();
    text.replace("0.0.0.0:8080", "127.0.0.1:0")
}

#[track_caller]
fn ask(rig: &Rig, target: &str) -> Answer {
    rig.connect("root").ask("GET", target).unwrap()
}

fn has_all(words: &[&str]) -> BTreeSet<String> {
    let has = |text: &str| words.iter().all(|word| text.split_whitespace().any(|other| other == *word));
    CORPUS.iter().filter(|(_, text)| has(text)).map(|(name, _)| (*name).to_owned()).collect()
}

#[test]
fn words_are_looked_up_at_the_same_time_and_documents_have_all_of_them() {
    let names = |scores: BTreeMap<String, usize>| scores.into_keys().collect::<Value>();
    let leaves: Vec<Origin> = (0..3).map(|_| leaf(written(|_| true), names)).collect();
    let mut text = sample("search-root.toml");
    for (number, leaf) in leaves.iter().enumerate() {
        text = text.replace(&format!("10.0.0.{}:8080", number + 1), &leaf.address.to_string());
    }
    let rig = Rig::start(&text);
    let check = |rig: &Rig, words: &[&str]| {
        let answer = ask(rig, &format!("/search?word={}", words.join(",")));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let found: BTreeSet<String> = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(found, has_all(words), "{words:?}");
    };
    let questions: [&[&str]; 6] = [&["cat"], &["cat", "dog"], &["cat", "dog", "bird"], &["cow", "whale"], &["nothing"], &["bird", "eagle"]];
    for words in questions {
        check(&rig, words);
    }
    let asked: Vec<usize> = leaves.iter().map(|leaf| leaf.seen().len()).collect();
    assert!(asked.iter().filter(|count| **count > 0).count() > 1, "{asked:?}");
    // One leaf less: its words are looked up elsewhere.
    let rig = Rig::start(&text.replace(&leaves[0].address.to_string(), &free_address().to_string()));
    for words in questions {
        check(&rig, words);
    }
}

#[test]
fn the_best_of_all_parts_are_found_and_what_is_missing_is_said() {
    let hits = |scores: BTreeMap<String, usize>| {
        let hits: Vec<Value> = scores.into_iter().map(|(id, score)| serde_json::json!({ "id": id, "score": score })).collect();
        serde_json::json!({ "hits": hits, "took": 3 })
    };
    // Two replicas of each part.
    let leaves: Vec<[Origin; 2]> = (0..3).map(|part| [(); 2].map(|()| leaf(written(|number| number % 3 == part), hits))).collect();
    let with = |gone: Option<usize>| {
        let mut text = sample("search-shards.toml");
        for (part, replicas) in leaves.iter().enumerate() {
            for (replica, origin) in replicas.iter().enumerate() {
                let address = if gone == Some(part) { free_address() } else { origin.address };
                text = text.replace(&format!("10.0.{replica}.{}:8080", part + 1), &address.to_string());
            }
        }
        Rig::start(&text)
    };
    let best = |word: &str, size: usize, gone: Option<usize>| {
        let parts: Vec<TempDir> = (0..3).filter(|part| gone != Some(*part)).map(|part| written(move |number| number % 3 == part)).collect();
        let mut all: Vec<(String, usize)> = parts.iter().flat_map(|part| scores(part.path(), word)).collect();
        all.sort_by(|(one, first), (other, second)| second.cmp(first).then(one.cmp(other)));
        let hits: Vec<Value> = all.into_iter().take(size).map(|(id, score)| serde_json::json!({ "id": id, "score": score })).collect();
        serde_json::json!({ "hits": hits })
    };
    for gone in [None, Some(1)] {
        let rig = with(gone);
        for (word, size) in [("cat", 3), ("dog", 10), ("bird", 1), ("nothing", 5), ("whale", 2)] {
            let answer = ask(&rig, &format!("/search?word={word}&size={size}"));
            assert_eq!(answer.status, 200, "{}", answer.text());
            let found: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(found, best(word, size, gone), "{word} {gone:?}");
            assert_eq!(answer.header("x-attache-missing"), gone.map(|_| "part-1"));
        }
    }
    let parts: Vec<String> =
        leaves.iter().flatten().flat_map(Origin::seen).filter_map(|seen| seen.header("x-part").map(str::to_owned)).collect();
    assert!(parts.contains(&"2/3".to_owned()), "{parts:?}");
}
