//! The log of the real binary: one event once, the fields of the one table, levels by HUP, JSON.

mod kit;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kit::daemon::{Daemon, Home};
use kit::port::Port;
use kit::redis::Redis;
use kit::wait;
use presswork::telemetry::fields::FIELDS;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

fn config(more: &str, port: &Port) -> String {
    format!(
        "[ledger]\nurl = \"sqlite:ledger.sqlite\"\n[api]\nlisten = \"127.0.0.1:{}\"\n{more}",
        port.number()
    )
}

fn lines(daemon: &Daemon) -> Vec<Value> {
    let log = daemon.stderr();
    let whole = &log[..log.rfind('\n').map_or(0, |it| it + 1)];
    let read = |it: &str| serde_json::from_str(it).unwrap_or_else(|e| panic!("{e}: {it}"));
    whole.lines().map(read).collect()
}

fn saying<'a>(lines: &'a [Value], what: &str) -> Vec<&'a Value> {
    let said = |it: &&Value| it["message"].as_str().is_some_and(|it| it.contains(what));
    lines.iter().filter(said).collect()
}

async fn hears(daemon: &Daemon, what: &str, times: usize) {
    let told = || format!("{times} x {what}");
    wait::until_or(told, SOON, async || {
        times <= saying(&lines(daemon), what).len()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_told_once_with_the_fields_of_the_table() {
    let (port, redis) = (Port::take(), Redis::start());
    let queue = format!(
        "[daemon]\nlog = \"debug\"\nlog_format = \"json\"\n[queue]\nurl = \"{}\"\n[lanes.a]\n[lanes.b]\n[lanes.c]\n",
        redis.url()
    );
    let home = Home::new(&config(&queue, &port));
    let daemon = home.start(&["run"]);
    hears(&daemon, "ready", 1).await;
    hears(&daemon, "the queue is filled anew", 1).await;
    let payload = r#"{"fail_times": 9, "class": "permanent", "code": "asked_once"}"#;
    let done = home
        .cli(&["enqueue", "test.job", "--payload", payload])
        .await;
    assert!(done.status.success(), "{done:?}");
    hears(&daemon, "attempt ended", 1).await;
    redis.kill9();
    hears(&daemon, "dispatch goes on from the ledger", 1).await;
    // jobs go on, by each lane's own look at the ledger
    for lane in ["a", "b", "c"] {
        let done = home.cli(&["enqueue", "test.job", "--lane", lane]).await;
        assert!(done.status.success(), "{done:?}");
    }
    hears(&daemon, "attempt ended", 4).await;
    daemon.signal("TERM");
    assert!(daemon.wait_exit(SOON).await.success());
    let lines = lines(&daemon);
    assert_eq!(saying(&lines, "dispatch goes on from the ledger").len(), 1);
    let failed: Vec<&Value> = lines
        .iter()
        .filter(|it| it.to_string().contains("asked_once"))
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(
        (&failed[0]["class"], &failed[0]["code"]),
        (&"permanent".into(), &"asked_once".into())
    );
    let known: BTreeSet<&str> = FIELDS.iter().map(|it| it.0).collect();
    for line in lines.iter().filter(|it| {
        it["target"]
            .as_str()
            .is_some_and(|it| it.starts_with("presswork"))
    }) {
        for name in line.as_object().expect("an object").keys() {
            let own = ["time", "level", "target", "message"].contains(&name.as_str());
            assert!(own || known.contains(name.as_str()), "{name} in {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hup_changes_the_level_and_a_bad_one_changes_nothing() {
    let port = Port::take();
    let at = |level: &str| {
        config(
            &format!("[daemon]\nlog = \"{level}\"\nlog_format = \"json\"\n"),
            &port,
        )
    };
    let home = Home::new(&at("warn"));
    std::fs::write(home.path().join("good.toml"), at("warn")).expect("a file");
    let daemon = home.start(&["run"]);
    let api = std::net::SocketAddr::from(([127, 0, 0, 1], port.number()));
    daemon.wait_ready(api, SOON).await;
    let run = async |times: usize| {
        let args = ["--config", "good.toml", "enqueue", "test.job", "--wait"];
        let done = home.cli(&args).await;
        assert!(done.status.success(), "{done:?}");
        assert_eq!(saying(&lines(&daemon), "attempt begins").len(), times);
    };
    run(0).await;
    assert_eq!(lines(&daemon).len(), 0, "{:?}", lines(&daemon));
    home.configure(&at("info,presswork::engine=debug"));
    let done = home.cli(&["reload"]).await;
    assert!(done.status.success(), "{done:?}");
    hears(&daemon, "was read anew", 1).await;
    run(1).await;
    home.configure(&at("debgu"));
    daemon.signal("HUP");
    hears(&daemon, "the old one holds", 1).await;
    assert_eq!(saying(&lines(&daemon), "did you mean `debug`?").len(), 1);
    run(2).await;
    home.configure(&at("error"));
    let done = home.cli(&["reload"]).await;
    assert!(done.status.success(), "{done:?}");
    run(2).await;
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .expect("our own source")
        .map(|it| it.expect("an entry").path());
    entries
        .flat_map(|it| if it.is_dir() { sources(&it) } else { vec![it] })
        .filter(|it| it.extension().is_some_and(|it| it == "rs"))
        .collect()
}

/// The fields that the source's log lines carry: what stands before the message of each.
fn fields(text: &str) -> Vec<String> {
    let code = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    let mut found = Vec::new();
    for macro_name in ["error!(", "warn!(", "info!(", "debug!(", "trace!("] {
        for (at, _) in code.match_indices(&format!("tracing::{macro_name}")) {
            let rest = &code[at + "tracing::".len() + macro_name.len()..];
            let rest = match rest.trim_start().strip_prefix("target: \"") {
                Some(named) => named.split_once("\",").map_or("", |it| it.1),
                None => rest,
            };
            // the message comes last, and begins with the first quote that no field's value has
            let head = rest.split(['"', ';']).next().unwrap_or_default();
            let named = head
                .split(',')
                .map(|it| it.trim().trim_start_matches(['%', '?']));
            let name = |it: &str| {
                it.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .next()
                    .map(str::to_owned)
            };
            found.extend(
                named
                    .filter_map(name)
                    .filter(|it| !it.is_empty() && it != "target"),
            );
        }
    }
    found
}

#[test]
fn every_line_of_the_source_uses_the_fields_of_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let known: BTreeSet<&str> = FIELDS.iter().map(|it| it.0).collect();
    assert_eq!(known.len(), FIELDS.len(), "a name is there twice");
    let mut used = BTreeSet::new();
    let mut strange = Vec::new();
    for path in sources(&root) {
        // the sandbox plays the outside: its log is its own
        if path.starts_with(root.join("sandbox")) {
            continue;
        }
        for name in fields(&std::fs::read_to_string(&path).expect("our own source")) {
            if !known.contains(name.as_str()) {
                strange.push(format!("{}: `{name}`", path.display()));
            }
            used.insert(name);
        }
    }
    assert!(strange.is_empty(), "not in FIELDS:\n{}", strange.join("\n"));
    let unused: Vec<_> = known.iter().filter(|it| !used.contains(**it)).collect();
    assert!(unused.is_empty(), "no line has {unused:?}");
    // the rule sees what it forbids
    assert_eq!(
        fields("tracing::warn!(job = %it.id, colour, ?x, \"m {y}\")"),
        ["job", "colour", "x"]
    );
    let readme = std::fs::read_to_string(root.join("../README.md")).expect("the README");
    let told = |it: &str| readme.contains(&format!("`{it}`"));
    let silent: Vec<_> = known.iter().filter(|it| !told(it)).collect();
    assert!(
        silent.is_empty(),
        "the README's list of fields has no {silent:?}"
    );
}
