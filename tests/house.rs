//! The house rules: what the compiler does not hold us to, this file does.
//! It needs neither Redis nor Postgres, and runs in the blink of an eye.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crates that only some places may name.
const CRATES: [(&str, &[&str]); 7] = [
    ("redis", &["src/queue/"]),
    // the judge reads the ledger by itself: the engine's own door might believe what it wrote
    ("sqlx", &["src/ledger/", "src/prove/books.rs"]),
    ("reqwest", &["src/platform/"]),
    ("axum", &["src/api/", "src/sandbox/"]),
    ("clap", &["src/cli/"]),
    ("apalis", &["src/engine/lane.rs"]),
    ("apalis_core", &["src/engine/lane.rs"]),
];
/// Calls that only some places may make. (The sandbox plays the outside: it has its own clock.)
const CALLS: [(&str, &[&str]); 3] = [
    ("process::exit", &["src/main.rs"]),
    ("Utc::now(", &["src/clock.rs", "src/sandbox/"]),
    ("SystemTime::now(", &["src/clock.rs", "src/sandbox/"]),
];
/// Where a test may sleep: to look again at a level, and to be slow on request.
const SLEEPERS: [&str; 2] = ["tests/kit/wait.rs", "tests/kit/proxy.rs"];
/// In two parts, so that this file doesn't break its own rule.
const SLEEP: [&str; 2] = [concat!("sleep", "("), concat!("sleep_until", "(")];
const CRASHPOINT: &str = "crashpoint!(";
const LINES_MAX: usize = 600;

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// `src/queue/keys.rs` is `["queue", "keys"]`; `src/queue/mod.rs` is `["queue"]`.
    fn module(&self) -> Vec<String> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let path = path.trim_end_matches("/mod");
        if path == "lib" {
            vec![]
        } else {
            path.split('/').map(str::to_owned).collect()
        }
    }

    /// Its lines without the comments, which may say anything; their numbers stay.
    fn code(&self) -> String {
        let lines = self.text.lines();
        let code = lines.map(|it| if it.trim().starts_with("//") { "" } else { it });
        code.collect::<Vec<_>>().join("\n")
    }

    /// Its code without the unit tests, which stand last.
    fn production(&self) -> String {
        let code = self.code();
        if self.path.ends_with("/tests.rs") {
            return String::new();
        }
        match code.find("#[cfg(test)]\nmod tests") {
            Some(at) => code[..at].to_owned(),
            None => code,
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below the folders whose names end so.
fn files(folders: &[&str], extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = folders.iter().map(|it| root().join(it)).collect();
    while let Some(folder) = todo.pop() {
        // Not every folder has to be there.
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap();
                let path = path.to_str().unwrap().to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// For each module, its children in the order they are declared.
fn order(sources: &[Source]) -> BTreeMap<Vec<String>, Vec<String>> {
    let mut order: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for source in sources {
        for line in source.code().lines().map(str::trim) {
            let name = line.strip_suffix(';').and_then(|it| it.split_once("mod "));
            let Some((visibility, name)) = name else {
                continue;
            };
            if visibility.is_empty() || visibility.starts_with("pub") {
                let children = order.entry(source.module()).or_default();
                children.push(name.to_owned());
            }
        }
    }
    order
}

/// Every path that `source` names inside this crate, from the crate's root, with its line.
fn names(source: &Source) -> Vec<(usize, Vec<String>)> {
    let code = source.code();
    let tests = code.find("mod tests {").unwrap_or(code.len());
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            // A later `super::` of the same path, or the end of another word.
            if is_name(before) || before == ':' {
                continue;
            }
            // Who may see a thing is no dependency on them.
            if code[..at].ends_with("pub(in ") || code[..at].ends_with("pub(in crate::") {
                continue;
            }
            // Within the unit tests `super` is the file itself.
            let base = match root {
                "crate::" => vec![],
                _ if tests < at => continue,
                _ => parent(&source.module()),
            };
            let mut paths = Vec::new();
            use_tree(&code[at + root.len()..], base, &mut paths);
            found.extend(paths.into_iter().map(|path| (line_of(&code, at), path)));
        }
    }
    found
}

/// Reads `a::{b, c::d}` into `found` as `a::b` and `a::c::d`; returns what follows it. A macro is no
/// module: it is left out.
fn use_tree<'a>(text: &'a str, mut path: Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let mut text = text.trim_start();
    loop {
        if let Some(mut inner) = text.strip_prefix('{') {
            while !inner.trim_start().starts_with('}') && !inner.trim().is_empty() {
                inner = use_tree(inner, path.clone(), found).trim_start();
                // `as name`, and the comma.
                let end = inner.find([',', '}']).unwrap_or(inner.len());
                inner = inner[end..].trim_start_matches(',');
            }
            return inner.trim_start().trim_start_matches('}');
        }
        let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
        match &text[..end] {
            "super" => path.truncate(path.len().saturating_sub(1)),
            "self" | "" => {}
            name => path.push(name.to_owned()),
        }
        text = &text[end..];
        match text.strip_prefix("::") {
            Some(rest) => text = rest,
            None => break,
        }
    }
    if !text.starts_with('!') {
        found.push(path);
    }
    // A `*` is not followed by more.
    text
}

fn parent(module: &[String]) -> Vec<String> {
    module[..module.len().saturating_sub(1)].to_vec()
}

/// A module may name those declared above it. A `mod.rs` may name its children;
/// they may not name it back.
fn layer_errors(sources: &[Source]) -> Vec<String> {
    let order = order(sources);
    let mut errors = Vec::new();
    for source in sources.iter().filter(|it| it.path != "src/main.rs") {
        let from = source.module();
        // A file of unit tests stands for the `mod tests` of its parent.
        if from.last().is_some_and(|it| it == "tests") {
            continue;
        }
        for (number, to) in names(source) {
            let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if shared == from.len() {
                continue;
            }
            let siblings = order.get(&from[..shared]).cloned().unwrap_or_default();
            let place = |name: &String| siblings.iter().position(|it| it == name);
            let named = to.get(shared).and_then(place);
            if named.is_none() || named >= place(&from[shared]) {
                let (from, to) = (from.join("::"), to.join("::"));
                errors.push(format!(
                    "{}:{number}: `{from}` may not name `{to}`",
                    source.path
                ));
            }
        }
    }
    errors
}

/// Whether `code` names the crate at this place, and not a module or a part of a word.
fn names_crate(code: &str, at: usize, name: &str) -> bool {
    let before = &code[..at];
    let outer = before.strip_suffix("::").unwrap_or(before);
    let end = outer.chars().next_back().unwrap_or(' ');
    let after = &code[at + name.len()..];
    let is_use = before.trim_end().ends_with("use") && !after.starts_with(is_name);
    !is_name(end) && end != '>' && (after.starts_with("::") || is_use)
}

fn door_errors(sources: &[Source]) -> Vec<String> {
    let mut errors = Vec::new();
    for source in sources {
        let code = source.production();
        let is_home = |homes: &[&str]| homes.iter().any(|it| source.path.starts_with(it));
        for (name, homes) in CRATES {
            let named = code.match_indices(name).map(|(at, _)| at);
            for at in named.filter(|at| names_crate(&code, *at, name) && !is_home(homes)) {
                let (path, line) = (&source.path, line_of(&code, at));
                let homes = homes.join(" or ");
                errors.push(format!("{path}:{line}: `{name}` belongs in {homes}"));
            }
        }
        for (call, homes) in CALLS {
            for (at, _) in code.match_indices(call).filter(|_| !is_home(homes)) {
                let (path, line) = (&source.path, line_of(&code, at));
                let homes = homes.join(" or ");
                errors.push(format!("{path}:{line}: `{call}` belongs in {homes}"));
            }
        }
    }
    errors
}

fn form_errors(sources: &[Source]) -> Vec<String> {
    let mut errors = Vec::new();
    for source in sources {
        if !source.text.starts_with("//!") && !source.text.starts_with("#![doc") {
            errors.push(format!("{}: no `//!` line", source.path));
        }
        if LINES_MAX < source.text.lines().count() {
            errors.push(format!("{}: more than {LINES_MAX} lines", source.path));
        }
    }
    errors
}

fn stray_errors(sources: &[Source]) -> Vec<String> {
    let order = order(sources);
    let mut errors = Vec::new();
    for source in sources.iter().filter(|it| it.path != "src/main.rs") {
        let module = source.module();
        let Some(name) = module.last() else { continue };
        let siblings = order.get(&parent(&module));
        if !siblings.is_some_and(|it| it.contains(name)) {
            errors.push(format!("{}: no `mod` declares it", source.path));
        }
    }
    errors
}

fn sleep_errors(tests: &[Source]) -> Vec<String> {
    let mut errors = Vec::new();
    for source in tests.iter().filter(|it| !SLEEPERS.contains(&&*it.path)) {
        for (i, line) in source.code().lines().enumerate() {
            if SLEEP.iter().any(|it| line.contains(it)) {
                let place = format!("{}:{}", source.path, i + 1);
                errors.push(format!(
                    "{place}: a test sleeps; wait::until waits for a level"
                ));
            }
        }
    }
    errors
}

/// The comment that a script starts with says what it takes and gives.
fn script_errors(scripts: &[Source]) -> Vec<String> {
    let mut errors = Vec::new();
    for script in scripts {
        let lines = script.text.lines().skip_while(|it| it.starts_with("#!"));
        let header: Vec<&str> = lines.take_while(|it| it.starts_with("--")).collect();
        let header = header.join("\n").to_lowercase();
        for word in ["KEYS", "ARGV", "Returns"] {
            if !header.contains(&word.to_lowercase()) {
                errors.push(format!("{}: its header has no {word}", script.path));
            }
        }
    }
    errors
}

/// A test that asks for a crash at a name must know which place it gets.
fn crashpoint_errors(sources: &[Source]) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources {
        let code = source.production();
        for (at, _) in code.match_indices(CRASHPOINT) {
            let rest = code[at + CRASHPOINT.len()..].trim_start();
            let named = rest.strip_prefix('"').and_then(|it| it.split_once('"'));
            if let Some((name, _)) = named {
                let place = format!("{}:{}", source.path, line_of(&code, at));
                places.entry(name.to_owned()).or_default().push(place);
            }
        }
    }
    let twice = places.into_iter().filter(|(_, it)| it.len() > 1);
    twice
        .map(|(name, it)| format!("crash point `{name}` is in {}", it.join(" and ")))
        .collect()
}

/// Each line that can be taken away is taken away in one place, and no test names one: what catches it
/// must be an invariant.
fn sabotage_errors(sources: &[Source], tests: &[Source]) -> Vec<String> {
    const HOME: &str = "src/sabotage.rs";
    let quoted = |source: &Source, name: &str| source.text.matches(&format!("\"{name}\"")).count();
    let mut errors = Vec::new();
    for (name, _) in presswork::sabotage::LINES {
        let elsewhere = sources.iter().filter(|it| it.path != HOME);
        let places: usize = elsewhere.map(|it| quoted(it, name)).sum();
        if places != 1 {
            errors.push(format!("{HOME}: `{name}` is taken away in {places} places"));
        }
        let named = tests.iter().filter(|it| 0 < quoted(it, name));
        errors.extend(named.map(|it| format!("{}: names the sabotage {name}", it.path)));
    }
    errors
}

/// Each point of the list below `heading` ends in the name of a test that is there.
fn promise_errors(page: &Source, heading: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let Some((_, section)) = page.text.split_once(&format!("\n{heading}\n")) else {
        return vec![format!("{}: no section `{heading}`", page.path)];
    };
    let section = section.split("\n## ").next().unwrap_or_default();
    let points = section.split("\n- ").skip(1).map(|it| {
        let lines = it.lines().map(str::trim);
        let point: Vec<&str> = lines.take_while(|it| !it.is_empty()).collect();
        point.join(" ")
    });
    let points: Vec<String> = points.collect();
    if points.is_empty() {
        return vec![format!("{}: nothing under `{heading}`", page.path)];
    }
    let held = |point: &String| {
        let name = point.trim_end_matches(['.', ')']).strip_suffix('`');
        let name = name.and_then(|it| it.rsplit('`').next());
        name.and_then(|it| it.rsplit("::").next())
            .is_some_and(|it| tests.contains(it))
    };
    let bare = points.iter().filter(|it| !held(it));
    bare.map(|it| format!("{}: no test holds: {it}", page.path))
        .collect()
}

/// The names of the tests in a file.
fn tests_of(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in source.code().lines().map(str::trim) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        if is_test && let Some((_, rest)) = line.split_once("fn ") {
            found.extend(rest.split(['(', '<']).next().map(str::to_owned));
            is_test = false;
        }
    }
    found
}

fn check(errors: Vec<String>) {
    assert!(errors.is_empty(), "\n{}\n", errors.join("\n"));
}

#[test]
fn layers_point_down() {
    check(layer_errors(&files(&["src"], "rs")));
}

/// Files that may name nothing of the engine, or it and they could be wrong together.
fn stranger_errors(sources: &[Source]) -> Vec<String> {
    const STRANGERS: [&str; 5] = [
        "src/sandbox/",
        "src/prove/check",
        "src/prove/faults.rs",
        "src/prove/outside.rs",
        "src/prove/books.rs",
    ];
    let strange = |it: &&Source| STRANGERS.iter().any(|at| it.path.starts_with(at));
    let mut errors = Vec::new();
    for source in sources.iter().filter(strange) {
        for (line, to) in names(source) {
            let home = &source.module()[0];
            if to.first() != Some(home) {
                let (path, to) = (&source.path, to.join("::"));
                errors.push(format!("{path}:{line}: names `{to}`"));
            }
        }
    }
    errors
}

#[test]
fn the_judge_and_the_outside_are_strangers() {
    check(stranger_errors(&files(&["src"], "rs")));
}

#[test]
fn each_door_has_its_keeper() {
    check(door_errors(&files(&["src"], "rs")));
}

#[test]
fn every_file_says_what_it_is_and_stays_small() {
    check(form_errors(&files(
        &["src", "tests", "benches", "fuzz"],
        "rs",
    )));
}

#[test]
fn every_file_is_declared() {
    check(stray_errors(&files(&["src"], "rs")));
}

#[test]
fn no_test_sleeps() {
    check(sleep_errors(&files(&["tests"], "rs")));
}

#[test]
fn every_script_says_what_it_takes_and_gives() {
    check(script_errors(&files(&["src"], "lua")));
}

#[test]
fn each_crashpoint_has_a_name_of_its_own() {
    check(crashpoint_errors(&files(&["src"], "rs")));
}

#[test]
fn each_sabotage_is_in_one_place_and_in_no_test() {
    check(sabotage_errors(
        &files(&["src"], "rs"),
        &files(&["tests"], "rs"),
    ));
}

/// `## Invariants` in ARCHITECTURE.md has to be there; `## Promises` in the README, if it is.
#[test]
fn every_promise_names_a_test_that_exists() {
    let tests = files(&["src", "tests"], "rs");
    let tests: BTreeSet<String> = tests.iter().flat_map(tests_of).collect();
    let page = |path: &str| Source {
        path: path.to_owned(),
        text: fs::read_to_string(root().join(path)).unwrap_or_default(),
    };
    let mut errors = promise_errors(&page("ARCHITECTURE.md"), "## Invariants", &tests);
    let readme = page("README.md");
    if readme.text.contains("\n## Promises\n") {
        errors.extend(promise_errors(&readme, "## Promises", &tests));
    }
    check(errors);
}

fn sample(path: &str, text: &str) -> Source {
    Source {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

#[test]
fn the_layer_rule_catches_what_it_forbids() {
    let sources = [
        sample("src/lib.rs", "pub mod low;\npub mod high;\n"),
        sample(
            "src/low.rs",
            "use crate::high::Thing;\n// crate::high is fine in a comment\ncrate::log!(1);\n",
        ),
        sample("src/high/mod.rs", "pub mod a;\npub mod b;\nuse a::A;\n"),
        sample(
            "src/high/a.rs",
            "use super::b::B;\nuse crate::low::Low;\nuse super::super::low::Low;\n",
        ),
        sample(
            "src/high/b.rs",
            "use super::a::A;\nuse super::LIST;\nuse crate::{\n    low::{Low, self},\n    high::{a::A as Other, Thing},\n};\n",
        ),
    ];
    let expected = [
        "src/low.rs:1: `low` may not name `high::Thing`",
        "src/high/a.rs:1: `high::a` may not name `high::b::B`",
        "src/high/b.rs:3: `high::b` may not name `high::Thing`",
        "src/high/b.rs:2: `high::b` may not name `high::LIST`",
    ];
    assert_eq!(layer_errors(&sources), expected);
}

#[test]
fn the_door_rule_catches_what_it_forbids() {
    let sources = [
        sample("src/queue/redis.rs", "use redis::Client;\n"),
        sample("src/queue/mod.rs", "use sqlx;\n"),
        sample(
            "src/engine/relay.rs",
            "use crate::queue::redis::Keys;\nfn a() { ::redis::cmd(); }\nlet t = Utc::now();\n\
             let i = Instant::now();\n#[cfg(test)]\nmod tests {\n    use sqlx::PgPool;\n}\n",
        ),
        sample("src/engine/lane.rs", "use apalis_core::Worker;\n"),
    ];
    let expected = [
        "src/queue/mod.rs:1: `sqlx` belongs in src/ledger/ or src/prove/books.rs",
        "src/engine/relay.rs:2: `redis` belongs in src/queue/",
        "src/engine/relay.rs:3: `Utc::now(` belongs in src/clock.rs or src/sandbox/",
    ];
    assert_eq!(door_errors(&sources), expected);
}

#[test]
fn the_other_rules_catch_what_they_forbid() {
    let long = "//! Long\n".repeat(LINES_MAX + 1);
    let sources = [
        sample("src/lib.rs", "#![doc = \"x\"]\nmod a;\n"),
        sample("src/a.rs", &long),
        sample(
            "src/b.rs",
            "fn b() { crashpoint!(\"x\"); }\ncrashpoint!(\n    \"x\"\n);\n",
        ),
    ];
    let form = ["src/a.rs: more than 600 lines", "src/b.rs: no `//!` line"];
    assert_eq!(form_errors(&sources), form);
    assert_eq!(stray_errors(&sources), ["src/b.rs: no `mod` declares it"]);
    let twice = ["crash point `x` is in src/b.rs:1 and src/b.rs:2"];
    assert_eq!(crashpoint_errors(&sources), twice);

    let sleeper = format!("time::{}1);", SLEEP[0]);
    let tests = [
        sample("tests/a.rs", &sleeper),
        sample(SLEEPERS[0], &sleeper),
    ];
    let slept = ["tests/a.rs:1: a test sleeps; wait::until waits for a level"];
    assert_eq!(sleep_errors(&tests), slept);

    let header = "#!lua flags=allow-oom\n-- KEYS: 1 the lane\n-- ARGV: none\n";
    let whole = sample("a.lua", &format!("{header}-- Returns: nothing\n"));
    let half = sample("b.lua", &format!("{header}return 1 -- returns\n"));
    assert_eq!(
        script_errors(&[whole, half]),
        ["b.lua: its header has no Returns"]
    );
}

#[test]
fn the_promise_rule_catches_what_it_forbids() {
    let tests = tests_of(&sample(
        "tests/a.rs",
        "#[tokio::test]\n#[should_panic]\nasync fn held() {}\nfn helper() {}\n",
    ));
    assert_eq!(tests, ["held"]);
    let tests = tests.into_iter().collect();
    let text = "# A\n\n## Invariants\n\n- One, long\n  and wide: `a::held`\n- Two: `helper`\n\
                - Three\n\nText.\n\n## More\n\n- Four\n";
    let page = sample("A.md", text);
    let expected = [
        "A.md: no test holds: Two: `helper`",
        "A.md: no test holds: Three",
    ];
    assert_eq!(promise_errors(&page, "## Invariants", &tests), expected);
    let missing = promise_errors(&page, "## Promises", &tests);
    assert_eq!(missing, ["A.md: no section `## Promises`"]);
}
