//! A host whose wall clock jumps by an hour, and runs too fast, while it works: leases are the ledger's
//! and the host's steady clock's, so nobody is taken for dead and nothing is done twice. By libfaketime.

use std::path::PathBuf;

use serde_json::json;

use crate::world::{ENDED, ended};
use crate::{Case, told};

/// libfaketime, where it is installed (`./scripts/test` does so on Debian).
fn libfaketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found = folders.map(|it| it.path().join("faketime/libfaketime.so.1"));
    found.find(|it| it.exists())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_and_drifts_takes_nobodys_jobs() {
    let Some(library) = libfaketime() else {
        println!("skipped: there is no libfaketime here (apt-get install faketime)");
        return;
    };
    let mut case = Case::new().await;
    let (wrong, right) = (case.host(), case.host());
    let clock = wrong.home.path().join("clock");
    let set = |to: &str| {
        let next = clock.with_extension("next");
        std::fs::write(&next, format!("{to}\n")).expect("a file can be written");
        std::fs::rename(&next, &clock).expect("a file can be renamed");
    };
    set("+0");
    let library = library.display().to_string();
    let file = clock.display().to_string();
    let env = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", file.as_str()),
        ("FAKETIME_NO_CACHE", "1"),
        // the steady clock stays what it is: a jump is one of the wall clock
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let moved = wrong.home.start_with(&["run"], &env);
    let steady = right.run();
    wrong.queue_in_use(&moved).await;
    right.queue_in_use(&steady).await;
    let mut sent = 0;
    for to in ["+3600", "-3600", "+0 x1.2", "+86400", "+0"] {
        // some run across the jump, for longer than a lease
        let long = case.job("test.job", json!({"sleep_ms": 4_000}));
        wrong.submit(&long).await;
        case.load(&wrong, 6).await;
        set(to);
        if to == "+86400" {
            // it really believes so
            let tomorrow = chrono::Utc::now() + chrono::TimeDelta::days(1);
            moved.signal("USR1");
            told(&moved, &tomorrow.format("%Y-%m-%dT").to_string()).await;
        }
        case.load(&right, 6).await;
        case.load(&wrong, 6).await;
        sent += 19;
        ended(&*case.ledger, sent, ENDED).await;
    }
    let found = case.all_well().await;
    assert_eq!(found.reclaimed, 0, "nobody was taken for dead: {found:?}");
    for daemon in [&moved, &steady] {
        assert!(daemon.ended().is_none(), "both live through it");
    }
}
