//! The real binary, killed, stopped, panicking or failing at each crash point, and what is left of
//! its jobs: each ends once, and each effect happens once, by the sandbox's own log.

#![cfg(feature = "crashpoints")]

mod kit;
#[path = "storm/checker.rs"]
mod checker;
#[path = "crash/cuts.rs"]
mod cuts;
#[path = "crash/points.rs"]
mod points;
#[path = "storm/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use checker::{Found, Wanted, check};
use futures_util::StreamExt;
use kit::daemon::Daemon;
use kit::postgres::Postgres;
use kit::redis::Redis;
use kit::wait;
use points::{AT_START, BLUESKY, Door, GENERATE, MASTODON, POINTS, TOLD, Work, in_the_sources};
use presswork::ledger::Ledger;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use world::{ENDED, Host, Outside, READY, Stores, ended, envelope};

/// Cases that run at once.
const AT_ONCE: usize = 3;

fn jobs(work: Work) -> Vec<(Wanted, Value)> {
    let kinds = ["test.job", "post.mastodon", "post.bluesky", "generate.text"];
    match work {
        Work::Steps => {
            let one = |n| envelope(n, "test.job", json!({"snooze_ms": 100}), "");
            (1..4).map(one).collect()
        }
        Work::Kind(kind) => vec![envelope(1, kind, json!({}), "")],
        Work::Mixed | Work::Left => {
            let one = |(n, kind): (usize, &&'static str)| envelope(n, kind, json!({}), "");
            kinds.iter().enumerate().map(one).collect()
        }
    }
}

/// The stores of one case, and the sandbox.
struct Case {
    stores: Stores,
    redis: Option<Redis>,
    outside: Outside,
    ledger: Arc<dyn Ledger>,
    _folder: Option<TempDir>,
}

impl Case {
    async fn on_servers() -> Self {
        // an inbox that forgot what it took would be no door
        let redis = Redis::start_durable();
        let url = Postgres::shared().create_database().await;
        let stores = Stores::new(&url, &redis.url());
        Self {
            ledger: stores.ledger().await,
            stores,
            redis: Some(redis),
            outside: Outside::new().await,
            _folder: None,
        }
    }

    async fn of(door: Door) -> Self {
        let case = Self::on_servers().await;
        if let (Door::Alone, Some(redis)) = (door, &case.redis) {
            redis.kill9();
        }
        case
    }

    /// A SQLite file and the queue in memory. The file is there once a daemon has made it.
    async fn embedded() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.sqlite");
        let stores = Stores::new(&format!("sqlite:{}", path.display()), "memory:");
        let ledger = stores.ledger().await;
        ledger.migrate().await.expect("the ledger's schema is made");
        Self {
            ledger,
            stores,
            redis: None,
            outside: Outside::new().await,
            _folder: Some(folder),
        }
    }

    fn host(&self) -> Host {
        Host::new(&self.stores, &self.outside.url)
    }

    fn push(&self, jobs: &[(Wanted, Value)]) {
        let redis = self.redis.as_ref().expect("only servers have an inbox");
        for (_, envelope) in jobs {
            redis.cli(&["RPUSH", "presswork:inbox", &envelope.to_string()]);
        }
    }

    async fn check(&self, jobs: &[(Wanted, Value)]) -> Found {
        let wanted: Vec<Wanted> = jobs.iter().map(|it| it.0.clone()).collect();
        check(&*self.ledger, &wanted, &self.outside.acts().await).await
    }
}

fn said(point: &str, action: &str) -> String {
    format!("crashpoint {point}: {action}")
}

/// Waits until a daemon has done at `point` what it was told to.
async fn hit(daemon: &Daemon, point: &str, action: &str) {
    let said = said(point, action);
    let what = || format!("{said}; the daemon said:\n{}", end_of(&daemon.stderr()));
    wait::until_or(what, ENDED, async || {
        let hit = daemon.stderr().contains(&said);
        assert!(
            hit || daemon.ended().is_none(),
            "it ended before {said}:\n{}",
            end_of(&daemon.stderr())
        );
        hit
    })
    .await;
}

fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// Killed at a point, started again: all jobs end as they should have.
async fn killed_at(case: &Case, point: &str, door: Door, work: Work) {
    let jobs = jobs(work);
    let host = case.host();
    let at_start = AT_START.contains(&point);
    if work == Work::Left {
        leave(case, &host, door, &jobs).await;
    } else if at_start && door == Door::Inbox {
        case.push(&jobs);
    }
    let daemon = host.run_to(point, "kill");
    let is_there = work == Work::Left || at_start;
    if !is_there {
        bring(case, &host, &daemon, door, &jobs).await;
    }
    hit(&daemon, point, "kill").await;
    let status = daemon.wait_exit(READY).await;
    assert!(!status.success(), "{point}: {status}");

    let again = host.run();
    if door != Door::Inbox {
        // its producer heard nothing, so it asks again with the same key
        for (n, (_, envelope)) in jobs.iter().enumerate() {
            let told = host.submit(envelope).await;
            match point {
                // the first one killed it: before or after it was written down
                "intake.before_commit" if n == 0 => assert_eq!(told, StatusCode::CREATED),
                "intake.after_commit" if n == 0 => assert_eq!(told, StatusCode::OK),
                _ => {}
            }
        }
    }
    ended(&*case.ledger, jobs.len(), ENDED).await;
    let found = case.check(&jobs).await;
    assert!(found.reclaimed <= jobs.len(), "{point}: {found:?}");
    assert_eq!(
        found.states.get("completed"),
        Some(&jobs.len()),
        "{point}: {found:?}"
    );
    if TOLD.contains(&point) && work == GENERATE {
        // the host's journal knew: nothing had left, or what had been answered
        assert_eq!(found.acts, jobs.len(), "{point}: {found:?}");
    }
    drop(again);
    println!("{point} {work:?}: killed, and all is well: {found:?}");
}

/// Leaves what a daemon that was killed amid its jobs leaves.
async fn leave(case: &Case, host: &Host, door: Door, jobs: &[(Wanted, Value)]) {
    let daemon = host.run_to("runner.before_handler", "kill");
    bring(case, host, &daemon, door, jobs).await;
    hit(&daemon, "runner.before_handler", "kill").await;
    daemon.wait_exit(READY).await;
}

/// Waits until jobs are dispatched as they should be at this door.
async fn in_use(host: &Host, daemon: &Daemon, door: Door) {
    match door {
        Door::Alone => daemon.wait_ready(host.api, READY).await,
        Door::Inbox | Door::Http => host.queue_in_use(daemon).await,
    }
}

/// Brings the jobs to a daemon that may die of them.
async fn bring(case: &Case, host: &Host, daemon: &Daemon, door: Door, jobs: &[(Wanted, Value)]) {
    in_use(host, daemon, door).await;
    match door {
        Door::Inbox => case.push(jobs),
        Door::Http | Door::Alone => {
            for (_, envelope) in jobs {
                // no answer is an answer, too: it died of it
                let _ = host.post(envelope.to_string()).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_point_nothing_is_lost_or_done_twice() {
    let cases = POINTS.iter().map(|(point, door, work)| async move {
        let case = Case::of(*door).await;
        killed_at(&case, point, *door, *work).await;
    });
    let mut cases = futures_util::stream::iter(cases).buffer_unordered(AT_ONCE);
    while cases.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_on_the_embedded_stores_nothing_is_lost_or_done_twice() {
    let points = POINTS.iter().filter(|(point, door, work)| {
        is_embedded(point, *door)
            && matches!(*work, MASTODON | Work::Mixed | Work::Steps | Work::Left)
    });
    let cases = points.map(|(point, _, work)| async move {
        let case = Case::embedded().await;
        killed_at(&case, point, Door::Http, *work).await;
    });
    let mut cases = futures_util::stream::iter(cases).buffer_unordered(AT_ONCE);
    while cases.next().await.is_some() {}
}

/// The embedded stores have no inbox, and a queue that is never away.
fn is_embedded(point: &str, door: Door) -> bool {
    !point.starts_with("inbox.") && door != Door::Alone
}

/// A call to a store fails at a point, before or after it was done: it is made again, or its job is,
/// and nobody notices but the log.
async fn failing_at(case: &Case, point: &str, nth: usize, door: Door, work: Work) {
    let jobs = match work {
        Work::Kind(_) => jobs(Work::Mixed),
        work => jobs(work),
    };
    let host = case.host();
    if work == Work::Left {
        leave(case, &host, door, &jobs).await;
    }
    let armed = format!("{point}:{nth}:error");
    let env = [("PRESSWORK_CRASH", armed.as_str())];
    let daemon = host.home.start_with(&["run"], &env);
    in_use(&host, &daemon, door).await;
    // one after another, so that each point is passed as often as there are jobs
    for (n, job) in jobs.iter().enumerate() {
        match (work, door) {
            (Work::Left, Door::Inbox) => break,
            (_, Door::Inbox) => case.push(std::slice::from_ref(job)),
            (Work::Left, _) => drop(host.submit(&job.1).await),
            (_, Door::Http | Door::Alone) => {
                let told = host.submit(&job.1).await;
                // its producer was told to send it again: it was, or wasn't, written down before
                let again = point == "intake.after_commit" && n + 1 == nth;
                let expected = match again {
                    true => StatusCode::OK,
                    false => StatusCode::CREATED,
                };
                assert_eq!(told, expected, "{point}: job {n}");
            }
        }
        if work != Work::Left {
            ended(&*case.ledger, n + 1, ENDED).await;
        }
    }
    let found = survived(case, &host, &daemon, &jobs, (point, "error")).await;
    let charged = checker::by_key(&*case.ledger).await;
    let charged: u32 = charged.iter().map(|it| it.attempts).sum();
    assert_eq!(charged, 0, "{point}: a store that fails is no job's fault");
    println!("{point} hit {nth}: failed, and all is well: {found:?}");
}

/// What a daemon that lives on leaves of what happened to it at a point: all jobs completed.
async fn survived(
    case: &Case,
    host: &Host,
    daemon: &Daemon,
    jobs: &[(Wanted, Value)],
    (point, action): (&str, &str),
) -> Found {
    hit(daemon, point, action).await;
    ended(&*case.ledger, jobs.len(), ENDED).await;
    let found = case.check(jobs).await;
    let completed = found.states.get("completed");
    assert_eq!(completed, Some(&jobs.len()), "{point}: {found:?}");
    assert!(daemon.ended().is_none(), "{point}: the daemon died of it");
    daemon.wait_ready(host.api, READY).await;
    found
}

/// The points that can fail, each once.
fn seams() -> Vec<(&'static str, Door, Work)> {
    let can_fail = in_the_sources();
    let mut points: Vec<_> = POINTS.into_iter().filter(|it| can_fail[it.0]).collect();
    points.dedup_by_key(|it| it.0);
    points
}

/// What a dead daemon held is taken back all at once: that point is passed once.
fn hit_of(work: Work, nth: usize) -> usize {
    match work {
        Work::Left => 1,
        _ => nth,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_at_any_seam_loses_and_doubles_nothing() {
    let cases = seams().into_iter().zip([1, 3].into_iter().cycle());
    let cases = cases.map(|((point, door, work), nth)| async move {
        let case = Case::of(door).await;
        failing_at(&case, point, hit_of(work, nth), door, work).await;
    });
    let mut cases = futures_util::stream::iter(cases).buffer_unordered(AT_ONCE);
    while cases.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_stores_that_fail_at_any_seam_lose_and_double_nothing() {
    let points = seams().into_iter().filter(|it| is_embedded(it.0, it.1));
    let cases = points.map(|(point, _, work)| async move {
        let case = Case::embedded().await;
        failing_at(&case, point, hit_of(work, 2), Door::Http, work).await;
    });
    let mut cases = futures_util::stream::iter(cases).buffer_unordered(AT_ONCE);
    while cases.next().await.is_some() {}
}

/// A daemon that sleeps past its lease, and wakes when another one has done its work: what it writes
/// late is refused, what it sends late is the same send.
async fn stopped_at(point: &str, work: Work) {
    let case = Case::on_servers().await;
    let (sleeper, other) = (case.host(), case.host());
    let jobs = jobs(work);
    let asleep = sleeper.run_to(point, "stop");
    bring(&case, &sleeper, &asleep, Door::Inbox, &jobs).await;
    hit(&asleep, point, "stop").await;
    let awake = other.run();
    awake.wait_ready(other.api, READY).await;
    ended(&*case.ledger, jobs.len(), ENDED).await;
    let before = case.check(&jobs).await;

    asleep.signal("CONT");
    let late = [
        "claim.after_commit",
        "effect.after_permit",
        "effect.after_response",
        "settle.before_commit",
    ];
    if late.contains(&point) {
        let what = || {
            format!(
                "{point}: it is told that it is late:\n{}",
                end_of(&asleep.stderr())
            )
        };
        wait::until_or(what, ENDED, async || {
            asleep.stderr().contains("late settle refused")
        })
        .await;
    }
    asleep.wait_ready(sleeper.api, READY).await;
    // whatever it was about to do, it has done it when it has worked on something new
    let (wanted, more) = envelope(900, "test.job", json!({}), "");
    sleeper.submit(&more).await;
    let mut all = jobs;
    all.push((wanted, more));
    ended(&*case.ledger, all.len(), ENDED).await;
    let after = case.check(&all).await;
    assert_eq!(
        after.states.get("completed"),
        Some(&all.len()),
        "{point}: {after:?}"
    );
    // a text is paid for at most once a send, and the late send was counted before it was made
    let generated = usize::from(matches!(work, GENERATE | Work::Mixed));
    assert!(
        after.acts <= before.acts + generated,
        "{point}: {before:?}, then {after:?}"
    );
    println!("{point} {work:?}: stopped past its lease, and all is well: {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_slept_past_its_lease_does_nothing_twice() {
    let points = [
        ("claim.before_commit", Work::Mixed),
        ("claim.after_commit", Work::Mixed),
        ("effect.after_permit", MASTODON),
        ("effect.after_permit", BLUESKY),
        ("effect.after_permit", GENERATE),
        ("effect.after_response", MASTODON),
        ("settle.before_commit", BLUESKY),
        ("settle.after_commit", Work::Mixed),
    ];
    let cases = points.map(|(point, work)| stopped_at(point, work));
    let mut cases = futures_util::stream::iter(cases).buffer_unordered(AT_ONCE);
    while cases.next().await.is_some() {}
}

/// A panic inside the daemon: the loop that died is started again, and its jobs are taken back.
async fn panicking_at(point: &str, work: Work) {
    let case = Case::on_servers().await;
    let host = case.host();
    let jobs = jobs(work);
    let daemon = host.run_to(point, "panic");
    host.queue_in_use(&daemon).await;
    match point.starts_with("intake.") {
        true => {
            for (_, envelope) in &jobs {
                host.submit(envelope).await;
            }
        }
        false => case.push(&jobs),
    }
    let found = survived(&case, &host, &daemon, &jobs, (point, "panic")).await;
    println!("{point} {work:?}: panicked, and all is well: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_anywhere_leaves_no_job_behind() {
    let points = [
        ("intake.before_commit", Work::Mixed),
        ("inbox.after_commit", Work::Mixed),
        ("claim.before_commit", Work::Mixed),
        ("claim.after_commit", Work::Mixed),
        ("runner.before_handler", Work::Mixed),
        ("effect.after_permit", MASTODON),
        ("effect.after_response", BLUESKY),
        ("settle.before_commit", Work::Mixed),
        ("settle.before_release", Work::Mixed),
    ];
    let cases = points.map(|(point, work)| panicking_at(point, work));
    let mut cases = futures_util::stream::iter(cases).buffer_unordered(AT_ONCE);
    while cases.next().await.is_some() {}
}

/// Each name of the table is really hit, or its case above fails; and the table has every name, and
/// every seam can fail.
#[test]
fn no_crash_point_is_left_out() {
    let mut there = in_the_sources();
    // a put that is killed at each point is in tests/media.rs, on the store alone; uploads need a
    // bucket: tests/upload/killed.rs; only a lost answer leads to a look: tests/lost
    let elsewhere = ["media.", "upload.", "reconciler."];
    there.retain(|it, _| !elsewhere.iter().any(|of| it.starts_with(of)));
    let tried: BTreeMap<String, bool> = POINTS
        .iter()
        .map(|(name, ..)| {
            let no_call = [
                "runner.before_handler",
                "settle.before_release",
                "journal.before_answer",
                "journal.after_answer",
            ];
            ((*name).to_owned(), !no_call.contains(name))
        })
        .collect();
    assert_eq!(tried, there);
}

/// A name that nobody hits must not pass for one that was survived.
async fn never_hit(action: &str) {
    let case = Case::embedded().await;
    let host = case.host();
    let daemon = host.run_to("no.such_point", action);
    daemon.wait_ready(host.api, READY).await;
    daemon.signal("TERM");
    daemon.wait_exit(Duration::from_secs(30)).await;
    hit(&daemon, "no.such_point", action).await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "crashpoint no.such_point: kill")]
async fn a_point_that_is_never_hit_is_noticed() {
    never_hit("kill").await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "crashpoint no.such_point: error")]
async fn a_point_that_never_fails_is_noticed() {
    never_hit("error").await;
}
