//! The house rules as assertions: what compilers and lints do not say of this tree.
//!
//! Reads the tree as text and knows no Rust beyond comments and literals; what it cannot see is left to review.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use attache::refusal::Refusal;
use attache::telemetry::metrics::DESCRIPTIONS;

use crate::support::binary;

/// First-level modules that wait for something. The others compute.
const ASYNC: &[&str] = &["cli", "admin", "supervisor", "serve", "upkeep", "dial"];

/// Files that name pingora's types; few, since its next version will change them.
const PINGORA: &[&str] = &[];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &[
    "manager",
    "handler",
    "helper",
    "helpers",
    "util",
    "utils",
    "common",
    "misc",
    "info",
    "data",
    "context",
    "backend",
    "middleware",
    "plugin",
];

/// Macros of `value` that Rust exports at the root of the crate.
const VALUE_MACROS: &[&str] = &["settings", "words"];

const LONG: usize = 500;

/// Files over [`LONG`] lines, and why they are better whole.
const LONG_FILES: &[(&str, &str)] = &[
    ("src/config/load.rs", "reading and merging in one pass; half of it is tests"),
    ("src/proto/http1/head.rs", "one parser for two kinds of heads; half of it is tests"),
    ("src/supervisor/watch.rs", "one mechanism; most of it is tests of what editors and mounts do"),
    ("src/telemetry/metrics.rs", "every metric is declared once, beside the cells that count it"),
    ("tests/it/discovery.rs", "one claim after another about who is found"),
    ("tests/it/config.rs", "one table of mistakes after another"),
    ("tests/it/engine.rs", "one claim after another about one engine"),
    ("tests/it/health.rs", "one claim after another about probes"),
    ("tests/it/http2_pairs.rs", "one table, with the origins and the clients that it is for"),
    ("tests/it/http2_upstream.rs", "one claim after another about one protocol"),
    ("tests/it/logs.rs", "one claim after another about what lines become"),
    ("tests/it/pools.rs", "one claim after another about pools under pressure"),
    ("tests/it/programs.rs", "one program after another"),
    ("tests/it/reload.rs", "one claim after another about one act"),
    ("tests/it/routing.rs", "one claim after another about one table"),
    ("tests/it/scatters.rs", "one claim after another about what becomes of leaves"),
    ("tests/it/shards.rs", "one claim after another about whose key goes where"),
    ("tests/it/sinks.rs", "one claim after another about who takes records"),
    ("tests/it/storm.rs", "one storm, its clients and the ends it may have"),
    ("tests/it/strictness.rs", "one table for each clause of one section"),
    ("tests/it/tcp.rs", "one claim after another about one relay"),
    ("tests/it/tidy.rs", "one rule after another"),
    ("tests/it/upstream_tls.rs", "one claim after another about one transport"),
    ("src/tls/tests.rs", "one table of handshakes against one acceptor"),
];

/// Dependencies that do one job together share a comment, but no more than this many.
const SHARED_REASON_MAX: usize = 3;

struct Source {
    /// Relative to the project.
    path: String,
    text: String,
    /// The text without comments and literals, line for line.
    code: String,
}

impl Source {
    /// The first-level module that the file belongs to.
    fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").expect("a file of src");
        inside.split(['/', '.']).next().expect("a path has a first part")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files_below(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, extension, found);
        } else if path.extension().is_some_and(|have| have == extension) {
            found.push(path);
        }
    }
}

fn sources(directory: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    files_below(&root().join(directory), "rs", &mut paths);
    paths.sort();
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root()).unwrap().display().to_string();
        Source { path, code: code_of(&text), text }
    };
    paths.into_iter().map(source).collect()
}

/// Blanks comments and the inside of literals; lines stay where they are.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let close = format!("\"{}", "#".repeat(hashes));
            let start = hashes + 2;
            rest[start..].find(&close).map_or(rest.len(), |end| start + end + close.len())
        } else if first == '"' {
            string_length(rest)
        } else if first == '\'' {
            char_length(rest)
        } else {
            0
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..skipped].chars().filter(|&c| c == '\n'));
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// How many hashes open the raw string that starts here.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// 0 for a lifetime.
fn char_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3.min(text.len())..].find('\'').map_or(0, |end| end + 4),
        Some(_) => chars.next().filter(|&(_, c)| c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// Words of `code`: letters, digits and `_`.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// First names of every path that starts at the root of the crate: `crate::a::b`, `crate::{a::b, c}`.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let after = &code[at + "crate::".len()..];
        let name = |text: &str| words(text).next().unwrap_or_default().to_owned();
        let Some(group) = after.strip_prefix('{') else {
            found.push((line, name(after)));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (end, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    found.push((line, name(&group[start..end])));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.push((line, name(&group[start..end])));
                    start = end + 1;
                }
                _ => {}
            }
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// Modules in the order of `src/lib.rs`, highest first.
fn module_order() -> Vec<String> {
    let text = read("src/lib.rs");
    text.lines().filter_map(|line| Some(line.strip_prefix("pub mod ")?.trim_end_matches(';').to_owned())).collect()
}

#[track_caller]
fn none(what: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{what}:\n  {}", offenders.join("\n  "));
}

/// Every place where `wrong` says something is amiss with a line of code.
fn lines_where<'s>(sources: impl IntoIterator<Item = &'s Source>, wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in source.code.lines().enumerate().filter(|(_, line)| wrong(line)) {
            found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
        }
    }
    found
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = "a // b\n\"c\\\"d\" 'e' '\\'' '\\n' 'f r#\"g\"h\"# /* i */ j";
    assert_eq!(words(&code_of(text)).collect::<Vec<_>>(), ["a", "f", "j"]);
    let group = "use crate::{a::{b, c}, d};\ncrate::e::f";
    assert_eq!(imports(group), [(1, "a".to_owned()), (1, "d".to_owned()), (2, "e".to_owned())]);
}

/// There is no cycle, then: every import goes down one list.
#[test]
fn modules_import_only_from_modules_below_them() {
    let order = module_order();
    let rank: BTreeMap<&str, usize> = order.iter().enumerate().map(|(rank, name)| (name.as_str(), rank)).collect();
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|source| !["src/lib.rs", "src/main.rs"].contains(&source.path.as_str())) {
        let module = source.module();
        let Some(&own) = rank.get(module) else {
            wrong.push(format!("{}: `{module}` is not in src/lib.rs", source.path));
            continue;
        };
        for (line, import) in imports(&source.code) {
            let import = if VALUE_MACROS.contains(&import.as_str()) { "value" } else { import.as_str() };
            match rank.get(import) {
                Some(&theirs) if theirs >= own => {}
                Some(_) => wrong.push(format!("{}:{line}: `{module}` imports `{import}`, which stands above it", source.path)),
                None => wrong.push(format!("{}:{line}: `crate::{import}` is no module", source.path)),
            }
        }
    }
    none("imports against the order of src/lib.rs", &wrong);
}

/// Else a path could leave its first-level module unseen.
#[test]
fn super_stays_within_its_first_level_module() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let depth = source.path.split('/').filter(|part| !["src", "mod.rs", "lib.rs", "main.rs"].contains(part)).count();
        let tests_from = source.code.find("mod tests {").unwrap_or(usize::MAX);
        for (at, _) in source.code.match_indices("super::").filter(|(at, _)| !source.code[..*at].ends_with("super::")) {
            let climbs = source.code[at..].split("::").take_while(|part| *part == "super").count();
            if climbs >= depth + usize::from(at > tests_from) {
                wrong.push(format!("{}:{}", source.path, source.code[..at].matches('\n').count() + 1));
            }
        }
    }
    none("write crate:: to name another module", &wrong);
}

#[test]
fn only_the_outer_layers_await() {
    let sources = sources("src");
    let inner = sources.iter().filter(|source| !ASYNC.contains(&source.module()));
    let found = lines_where(inner, |line| line.contains(".await") || words(line).any(|word| word == "async"));
    none("waiting where only deciding is allowed", &found);
}

#[test]
fn pingora_stays_where_it_is_expected() {
    let sources = sources("src");
    let others = sources.iter().filter(|source| !PINGORA.contains(&source.path.as_str()));
    let found = lines_where(others, |line| words(line).any(|word| word.starts_with("pingora")));
    none("pingora's types", &found);
}

#[test]
fn errors_have_types() {
    let found = lines_where(&sources("src"), |line| words(line).any(|word| word == "anyhow") || line.contains("Box<dyn Error"));
    none("errors that say nothing of what can go wrong", &found);
}

#[test]
fn only_the_command_line_prints_and_nothing_but_it_sleeps() {
    let sources = sources("src");
    // The command line prints through `out` and `say`, which survive a reader that has gone away.
    let prints = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    none("printing", &lines_where(&sources, |line| prints.iter().any(|print| line.contains(print))));
    let others = sources.iter().filter(|source| source.module() != "cli");
    none("sleeping threads", &lines_where(others, |line| line.contains("thread::sleep")));
}

#[test]
fn every_test_runs() {
    let sources: Vec<Source> = sources("src").into_iter().chain(sources("tests")).collect();
    none(
        "tests that do not run",
        &lines_where(&sources, |line| line.contains("#[ignore") || line.contains("cfg_attr(") && line.contains("ignore")),
    );
}

#[test]
fn every_file_says_what_it_is_for() {
    let sources: Vec<Source> = sources("src").into_iter().chain(sources("tests")).collect();
    let silent = sources.iter().filter(|source| !source.text.starts_with("//!"));
    none("files without a first line of `//!`", &silent.map(|source| source.path.clone()).collect::<Vec<_>>());
}

#[test]
fn names_of_modules_say_something() {
    let sources: Vec<Source> = sources("src").into_iter().chain(sources("tests")).collect();
    let empty = sources.iter().filter(|source| source.path.split(['/', '.']).any(|part| EMPTY_NAMES.contains(&part)));
    none("empty names", &empty.map(|source| source.path.clone()).collect::<Vec<_>>());
}

#[test]
fn long_files_have_a_reason_and_reasons_a_long_file() {
    let sources: Vec<Source> = sources("src").into_iter().chain(sources("tests")).collect();
    let long: BTreeSet<&str> =
        sources.iter().filter(|source| source.text.lines().count() > LONG).map(|source| source.path.as_str()).collect();
    let listed: BTreeSet<&str> = LONG_FILES.iter().map(|(path, _)| *path).collect();
    let unlisted: Vec<String> = long.difference(&listed).map(|path| (*path).to_owned()).collect();
    none(&format!("files over {LONG} lines; split them, or give LONG_FILES a reason"), &unlisted);
    let outdated: Vec<String> = listed.difference(&long).map(|path| (*path).to_owned()).collect();
    none("LONG_FILES lists what is not long any more", &outdated);
    assert!(LONG_FILES.iter().all(|(_, reason)| !reason.is_empty()));
}

#[test]
fn every_dependency_has_a_reason() {
    let text = read("Cargo.toml");
    let mut is_inside = false;
    let mut since_reason = usize::MAX;
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            is_inside = line.ends_with("dependencies]");
            since_reason = usize::MAX;
        } else if line.starts_with('#') {
            since_reason = 0;
        } else if line.trim().is_empty() {
            since_reason = usize::MAX;
        } else if is_inside {
            since_reason = since_reason.saturating_add(1);
            if since_reason > SHARED_REASON_MAX {
                wrong.push(format!("Cargo.toml:{}: {line}", number + 1));
            }
        }
    }
    none("dependencies without a comment that says what for", &wrong);
}

#[test]
fn labels_and_names_are_unique() {
    let labels: BTreeSet<_> = Refusal::LABELS.iter().collect();
    assert_eq!(labels.len(), Refusal::LABELS.len(), "two refusals share a label");
    let names: BTreeSet<_> = DESCRIPTIONS.iter().map(|description| description.name).collect();
    assert_eq!(names.len(), DESCRIPTIONS.len(), "two metrics share a name");
}

#[test]
fn every_metric_is_in_the_manual_and_the_manual_has_no_other() {
    let readme = read("README.md");
    let documented: BTreeSet<String> = words(&readme).filter_map(|word| word.strip_prefix("attache_")).map(str::to_owned).collect();
    let declared: BTreeSet<String> = DESCRIPTIONS.iter().map(|description| description.name.to_owned()).collect();
    let of_sources = attache::services::metrics::ABOUT_SOURCES.iter().chain(&attache::services::metrics::statsd::ABOUT);
    let of_sources = of_sources.filter_map(|about| about.name.strip_prefix("attache_"));
    let declared: BTreeSet<String> = declared.into_iter().chain(of_sources.map(str::to_owned)).collect();
    none("metrics that README.md does not list", &declared.difference(&documented).cloned().collect::<Vec<_>>());
    none("metrics in README.md that do not exist", &documented.difference(&declared).cloned().collect::<Vec<_>>());
    let unlabelled = DESCRIPTIONS.iter().filter(|description| {
        let labels = if description.labels.is_empty() { String::new() } else { format!("{{{}}}", description.labels.join(",")) };
        !readme.contains(&format!("`attache_{}{labels}`", description.name))
    });
    none("metrics whose labels README.md does not list", &unlabelled.map(|d| d.name.to_owned()).collect::<Vec<_>>());
}

#[test]
fn every_refusal_is_in_the_manual() {
    let readme = read("README.md");
    let missing = Refusal::LABELS.iter().filter(|label| !readme.contains(&format!("`{label}`")));
    none("refusals that README.md does not list", &missing.map(|label| (*label).to_owned()).collect::<Vec<_>>());
}

/// Keys of every `settings!` table: what the manual must explain.
fn settings_keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for source in sources("src") {
        for block in source.code.split("settings! {").skip(1) {
            let Some((_, fields)) = block.split_once("as ") else { continue };
            let Some((fields, _)) = fields.split_once("\n    }") else { continue };
            let field = |line: &str| {
                let (name, _) = line.trim().split_once(": ")?;
                name.chars().all(|c| c.is_ascii_lowercase() || c == '_').then(|| name.to_owned())
            };
            keys.extend(fields.lines().filter_map(field));
        }
    }
    keys
}

#[test]
fn every_setting_is_in_the_manual() {
    let readme = read("README.md");
    let keys = settings_keys();
    assert!(keys.contains("listen") && keys.contains("lame_duck") && keys.len() > 30, "settings are not found any more: {keys:?}");
    let missing = keys.iter().filter(|key| !readme.contains(&format!("`{key}`")));
    none("settings that README.md does not explain", &missing.cloned().collect::<Vec<_>>());
}

#[test]
fn every_verb_is_in_the_manual() {
    let help = String::from_utf8(binary().arg("--help").output().unwrap().stdout).unwrap();
    let verbs = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let verbs: Vec<&str> = verbs.filter_map(|line| line.split_whitespace().next()).filter(|verb| *verb != "help").collect();
    assert!(verbs.contains(&"run"), "{help}");
    let readme = read("README.md");
    let missing = verbs.iter().filter(|verb| !readme.contains(&format!("attache {verb}")));
    none("verbs that README.md does not show", &missing.map(|verb| (*verb).to_owned()).collect::<Vec<_>>());
}

/// Checks a configuration as strictly as `attache check` can.
#[track_caller]
fn check(what: &str, path: &Path) {
    let output = binary().args(["check", "--strict"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{what}:\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_sample_compiles_without_a_warning_and_is_in_the_manual() {
    let readme = read("README.md");
    let mut samples = Vec::new();
    files_below(&root().join("config"), "toml", &mut samples);
    // Named by samples, and checked with them.
    samples.retain(|sample| !sample.starts_with(root().join("config/lists")));
    assert!(samples.len() > 3, "{samples:?}");
    for sample in samples {
        let name = sample.strip_prefix(root()).unwrap().display().to_string();
        check(&name, &sample);
        assert!(readme.contains(&name), "README.md does not mention {name}");
    }
}

/// What manifests bring as a file to mount.
#[test]
fn every_configuration_of_deploy_compiles_and_its_manifest_is_in_the_manual() {
    let directory = tempfile::tempdir().unwrap();
    let readme = read("README.md");
    let mut manifests = Vec::new();
    files_below(&root().join("deploy"), "yaml", &mut manifests);
    for manifest in manifests {
        let name = manifest.strip_prefix(root()).unwrap().display().to_string();
        let text = read(&name);
        let after = text.split_once("attache.toml: |\n").unwrap_or_else(|| panic!("{name} has no configuration")).1;
        let lines = after.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
        let settings: Vec<&str> = lines.map(|line| line.trim_start_matches("    ")).collect();
        let path = directory.path().join("attache.toml");
        std::fs::write(&path, settings.join("\n")).unwrap();
        check(&name, &path);
        assert!(readme.contains(&name), "README.md does not mention {name}");
    }
}

/// What the manual shows as TOML can be copied into a file. Certificates it names are there.
#[test]
fn every_example_in_the_manual_compiles() {
    let directory = tempfile::tempdir().unwrap();
    let authority = crate::support::Authority::new("examples");
    std::fs::write(directory.path().join("ca.crt"), &authority.cert).unwrap();
    for name in ["tls", "shop", "other"] {
        crate::support::Pair::of(&[&format!("{name}.example")]).write(directory.path(), name);
    }
    let readme = read("README.md");
    let examples: Vec<&str> = readme.split("```toml\n").skip(1).map(|after| after.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 2, "the examples are not found any more");
    for example in examples {
        let path = directory.path().join("attache.toml");
        std::fs::write(&path, example).unwrap();
        check(example, &path);
    }
}
