//! `presswork prove` as people run it: everything that can be broken is, on real servers and embedded,
//! and nothing is lost nor done twice; doctored evidence is seen through; and nothing outlives it.

mod kit;

use std::path::Path;
use std::time::Duration;

use kit::daemon::{Daemon, Home};
use kit::process::alive;
use kit::wait;
use serde_json::Value;

/// A proof on a machine that is ten times as slow.
const PROVEN: Duration = Duration::from_secs(3_000);
const SOON: Duration = Duration::from_secs(120);

/// Runs to the end: the exit code, and what it found.
async fn found(home: &Home, args: &[&str]) -> (Option<i32>, Value) {
    let process = home.start(args);
    let status = process.wait_exit(PROVEN).await;
    let said = process.stdout();
    let found = serde_json::from_str(&said);
    let found = found.unwrap_or_else(|e| panic!("{e}: {said}{}", process.stderr()));
    (status.code(), found)
}

fn number(found: &Value, name: &str) -> u64 {
    let number = found[name].as_u64();
    number.unwrap_or_else(|| panic!("no {name} in {found}"))
}

/// What must hold of every proof.
fn proven(code: Option<i32>, found: &Value, least: u64) {
    assert_eq!(code, Some(0), "{found:#}");
    assert_eq!(found["proven"], true, "{found:#}");
    for none in [
        "lost",
        "lost_inbox_unexplained",
        "duplicated",
        "false_confirms",
        "false_refusals",
        "limits_overstepped",
        "histories_wrong",
        "buried_wrongly",
        "quarantined",
        "stops_unclean",
    ] {
        assert_eq!(number(found, none), 0, "{none}: {found:#}");
    }
    let same = ["unknown", "unknown_explained"].map(|it| number(found, it));
    assert_eq!(same[0], same[1], "{found:#}");
    for (name, least) in [
        ("accepted", 50),
        ("acts", 10),
        ("in_flight_b", least),
        ("in_flight_c", least),
        ("acted_unanswered", 1),
        // a blow that hits nothing that runs is no blow
        ("reclaimed", 1),
        ("recoveries", 1),
    ] {
        assert!(least <= number(found, name), "{name}: {found:#}");
    }
    for what in ["recovery", "stop"] {
        let [p50, p99] = ["p50", "p99"].map(|it| number(found, &format!("{what}_ms_{it}")));
        assert!(0 < p50 && p50 <= p99, "{what}: {found:#}");
    }
}

/// Judges kept evidence again, after something in one of its files was replaced.
async fn doctored(home: &Home, file: &str, doctor: impl FnOnce(String) -> String) -> Value {
    let path = home.path().join("kept").join(file);
    let text = std::fs::read_to_string(&path).expect("it was kept");
    std::fs::write(&path, doctor(text.clone())).expect("it can be doctored");
    let (code, found) = found(home, &["--json", "prove", "--check", "kept"]).await;
    assert_eq!(code, Some(1), "{found:#}");
    assert_eq!(found["proven"], false, "{found:#}");
    std::fs::write(&path, text).expect("it can be put back");
    found
}

/// The lines of a log of acts, of an operation.
fn line_of(text: &str, op: &str) -> String {
    let op = format!("\"op\":\"{op}\"");
    let line = text.lines().find(|it| it.contains(&op));
    line.expect("there are some").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quick_proof_holds_and_doctored_evidence_doesnt() {
    let home = Home::new("");
    let args = [
        "--json",
        "prove",
        "--quick",
        "--keep",
        "kept",
        "--html",
        "report.html",
    ];
    let (code, first) = found(&home, &args).await;
    proven(code, &first, 5);
    let sorts = first["strikes"].as_object().expect("by sort");
    // the clock of a daemon's own only where there is libfaketime, and it says so
    let left_out = first["left_out"].to_string().contains("libfaketime");
    assert_eq!(sorts.len(), if left_out { 9 } else { 10 }, "{first:#}");
    let page = std::fs::read_to_string(home.path().join("report.html")).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg"));
    let (code, again) = found(&home, &["--json", "prove", "--check", "kept"]).await;
    assert_eq!(
        (code, &again),
        (Some(0), &first),
        "the same evidence, the same verdict"
    );

    // each of the three is believed against the other two
    let twice = doctored(&home, "acts.jsonl", |text| {
        let line = line_of(&text, "post.create");
        format!("{text}{line}\n")
    });
    assert_eq!(number(&twice.await, "duplicated"), 1);
    let never = doctored(&home, "acts.jsonl", |text| {
        let confirmed = line_of(&text, "status.create");
        text.replace(&format!("{confirmed}\n"), "")
    });
    assert_eq!(number(&never.await, "false_confirms"), 1);
    let refused = doctored(&home, "evidence.json", |text| {
        let (before, after) = text.split_once("\"state\": \"confirmed\"").expect("one");
        format!("{before}\"state\": \"refused\"{after}")
    });
    assert!(1 <= number(&refused.await, "false_refusals"));
    let lost = doctored(&home, "evidence.json", |text| {
        let mut evidence: Value = serde_json::from_str(&text).expect("JSON");
        let door = |told: &&Value| told["door"] == "http";
        let told = evidence["told"].as_array().expect("a list");
        let key = told.iter().find(door).expect("one")["key"].clone();
        let jobs = evidence["jobs"].as_array_mut().expect("a list");
        jobs.retain(|it| it["key"] != key);
        evidence.to_string()
    });
    assert_eq!(number(&lost.await, "lost"), 1);
}

/// What the storm was: many jobs, a hundred kills, each outage several times, 50 sends of each class that a
/// fault hit. An unoptimised daemon has no more jobs in four minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_longer_proof_survives_a_hundred_kills_and_every_outage() {
    let home = Home::new(
        "[lanes.x]\nconcurrency = 6\n[lanes.instagram]\nconcurrency = 6\n\
         [kinds.\"generate.text\"]\nresend_times = 4\n[retry]\nattempts = 6\n\
         [accounts.news]\nplatform = \"mastodon\"\nbase_url = \"https://mastodon.example\"\n\
         secret = { env = \"IT_IS_NOT_SET\" }\n",
    );
    let args = [
        "--json", "prove", "--jobs", "3000", "--blows", "kill=100", "--seed", "4",
    ];
    let (code, found) = found(&home, &args).await;
    println!("{found:#}");
    proven(code, &found, 50);
    assert_eq!(number(&found, "seed"), 4);
    assert!(100 <= number(&found["strikes"], "kill"), "{found:#}");
    // each outage is there with jobs that wait
    for measured in ["flush_recovery_ms_p99", "postgres_recovery_ms_p99"] {
        assert!(0 < number(&found, measured), "{measured}: {found:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_proof_holds() {
    let home = Home::new("");
    let args = ["--json", "prove", "--quick", "--embedded"];
    let (code, found) = found(&home, &args).await;
    proven(code, &found, 5);
    assert_eq!(number(&found, "accepted_inbox"), 0);
}

/// The children of a process, and theirs.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            let children = children.split_whitespace().map(|it| it.parse::<u32>());
            all.extend(children.flatten());
        }
        next += 1;
    }
    all
}

fn is_empty(folder: &Path) -> bool {
    let mut left = std::fs::read_dir(folder).expect("a folder of ours");
    left.next().is_none()
}

/// An embedded proof in the middle of its work, with its folder below `tmp`, and all its processes.
async fn at_work(home: &Home) -> (Daemon, Vec<u32>) {
    let tmp = home.path().join("tmp");
    std::fs::create_dir_all(&tmp).expect("a folder can be made");
    let tmp = tmp.to_str().expect("a path of ours").to_owned();
    let process = home.start_with(
        &["prove", "--embedded", "--quick"],
        &[("TMPDIR", tmp.as_str())],
    );
    wait::until("it is at work", SOON, async || {
        process.stderr().contains("blows, seed")
    })
    .await;
    let family = family(process.pid());
    // itself, the sandbox, the daemon, and the shell that cleans up
    assert!(4 <= family.len(), "{family:?}");
    (process, family)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_it() {
    let home = Home::new("");
    for (signal, code) in [("INT", Some(130)), ("KILL", None)] {
        let (process, family) = at_work(&home).await;
        process.signal(signal);
        assert_eq!(process.wait_exit(SOON).await.code(), code, "{signal}");
        let gone = async || !family.iter().any(|it| alive(*it));
        wait::until("its processes are gone", SOON, gone).await;
        let tmp = home.path().join("tmp");
        wait::until("its folder is gone", SOON, async || is_empty(&tmp)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blows_that_arent_there_are_told_with_what_was_meant() {
    let home = Home::new("");
    for (args, told) in [
        (
            &["--blows", "kil=3"][..],
            "unknown sort `kil`; did you mean `kill`?",
        ),
        (&["--blows", "kill"], "write SORT=N"),
        (
            &["--blows", "stop=2,kill=many"],
            "`kill` wants a number from 0 to 5000",
        ),
        (
            &["--embedded", "--blows", "flush=3"],
            "there is no server to break",
        ),
    ] {
        let process = home.start(&[&["prove", "--quick"], args].concat());
        assert_eq!(process.wait_exit(SOON).await.code(), Some(2), "{args:?}");
        let said = process.stderr();
        assert!(said.contains(told), "{args:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cant_be_run_is_told_apart_from_what_is_not_proven() {
    let home = Home::new("");
    let missing = [
        "prove",
        "--quick",
        "--redis-server",
        "/nowhere/redis-server",
    ];
    let process = home.start(&missing);
    assert_eq!(process.wait_exit(SOON).await.code(), Some(5));
    assert!(
        process.stderr().contains("/nowhere/redis-server"),
        "{}",
        process.stderr()
    );
    home.configure("[lanes.x]\nroom = \"many\"\n");
    let process = home.start(&["prove", "--quick", "--embedded"]);
    assert_eq!(process.wait_exit(SOON).await.code(), Some(2));
    assert!(
        process.stderr().contains("lanes.x.room"),
        "{}",
        process.stderr()
    );
    let process = home.start(&["prove", "--check", "nowhere"]);
    assert_eq!(process.wait_exit(SOON).await.code(), Some(5));
}
