//! What only the ledger in a SQLite file promises: its file, its lock, its transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use presswork::clock::Clock;
use presswork::fair::Fair;
use presswork::gate::Shut;
use presswork::job::{JobId, NewJob, Priority};
use presswork::json::Digest;
use presswork::ledger::sqlite::Sqlite;
use presswork::ledger::{Acceptance, Claim, Guard, Ledger, LedgerError, Run, Settled, Settlement};
use presswork::lifecycle::{Event, advance};
use presswork::outcome::Outcome;
use presswork::retry::Policy;
use sqlx::{Connection, Row, SqliteConnection};
use uuid::Uuid;

const LANE: &str = "main";

fn path(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("state").join("ledger.sqlite")
}

async fn open(path: &Path) -> Sqlite {
    let ledger = Sqlite::open(path, Clock::System)
        .await
        .expect("the file is opened");
    ledger.migrate().await.expect("the file is migrated");
    ledger
}

async fn enter(ledger: &Sqlite) -> Claim {
    let run = Run {
        id: Uuid::new_v4(),
        host: "host".into(),
        boot: None,
        pid: 7,
        version: "0.1.0".into(),
        began_at: ledger.now().await.unwrap(),
    };
    ledger
        .begin_run(&run, Duration::from_secs(3_600))
        .await
        .unwrap();
    Claim {
        run: run.id,
        generation: None,
        lane: LANE.into(),
        kinds: Arc::new(["demo.work".into()]),
        concurrency: None,
        shut: Arc::default(),
        fair: Arc::default(),
    }
}

fn job(key: String) -> NewJob {
    let payload = r#"{"text":"a post of the usual length, give or take a few words, with a link"}"#;
    NewJob {
        id: JobId::mint(),
        kind: "demo.work".into(),
        lane: LANE.into(),
        tenant: "default".into(),
        account: None,
        priority: Priority::Normal,
        key: Some(key),
        payload: payload.into(),
        digest: Digest::of_bytes(payload.as_bytes()),
        run_at: None,
        not_after: None,
        late: None,
        late_after_s: None,
        attempts_max: 5,
        timeout_s: 60,
        age_max_s: 86_400,
        labels: BTreeMap::new(),
        traceparent: None,
        reply_to: None,
        options: "{}".into(),
        said: None,
    }
}

fn jobs(count: usize) -> Vec<NewJob> {
    (0..count).map(|n| job(format!("k{n}"))).collect()
}

fn completed(job: &presswork::job::Job, now: presswork::clock::Time) -> Settlement {
    let event = Event::Ended(Outcome::Completed(1.into()));
    Settlement {
        id: job.id,
        guard: Guard::Token(job.token.expect("it is claimed")),
        transition: advance(&job.facts(Policy::default()), event, now).unwrap(),
        attempt: None,
        result: Some("1".into()),
        fingerprint: None,
        edit: None,
        audit: None,
    }
}

/// Another program's look at the file.
async fn raw(path: &Path, sql: &'static str) {
    let url = format!("sqlite://{}", path.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn an_empty_file_is_migrated_and_a_newer_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    let ledger = Sqlite::open(&path, Clock::System).await.unwrap();
    let schema = ledger.schema().await.unwrap();
    assert_eq!(schema.found, 0);
    let done = ledger.migrate().await.unwrap();
    assert_eq!((done.from, done.to), (0, schema.known));
    drop(ledger);
    raw(&path, "PRAGMA user_version = 99").await;
    let ledger = Sqlite::open(&path, Clock::System).await.unwrap();
    let error = ledger.migrate().await.unwrap_err();
    assert!(
        matches!(&error, LedgerError::Schema(said) if said.contains("99")),
        "{error:?}"
    );
    assert_eq!(ledger.schema().await.unwrap().found, 99);
}

#[tokio::test]
async fn folder_and_files_are_for_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    let ledger = open(&path).await;
    ledger.accept(&jobs(1)).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let state = path.parent().unwrap();
    assert_eq!(mode(state), 0o700);
    let mut seen = 0;
    for file in std::fs::read_dir(state).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        seen += 1;
    }
    assert!(2 <= seen, "the file and its log are there");
}

#[tokio::test]
async fn what_was_accepted_is_there_after_a_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    let batch = jobs(3);
    open(&path).await.accept(&batch).await.unwrap();
    let ledger = open(&path).await;
    for job in &batch {
        let found = ledger.job(job.id).await.unwrap().expect("it is there");
        assert_eq!(found.payload, job.payload);
    }
    let answers = ledger.accept(&batch[..1]).await.unwrap();
    assert_eq!(
        answers,
        [Acceptance::Same {
            id: batch[0].id,
            options: "{}".into()
        }]
    );
}

/// Two handles on one file are what two processes have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handles_never_share_a_job() {
    const JOBS: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    let handles = [Arc::new(open(&path).await), Arc::new(open(&path).await)];
    handles[0].accept(&jobs(JOBS)).await.unwrap();
    let mut tasks = vec![];
    for ledger in handles.iter().cycle().take(6) {
        let (ledger, claim) = (ledger.clone(), enter(ledger).await);
        tasks.push(tokio::spawn(async move {
            let mut mine = vec![];
            loop {
                let hints = ledger
                    .due(
                        LANE,
                        &["demo.work".into()],
                        &Shut::default(),
                        &Fair::default(),
                        20,
                    )
                    .await
                    .unwrap();
                if hints.is_empty() {
                    return mine;
                }
                let ids: Vec<JobId> = hints.iter().map(|it| it.id).collect();
                mine.extend(ledger.claim(&claim, &ids).await.unwrap());
            }
        }));
    }
    let mut taken = BTreeSet::new();
    for task in tasks {
        for job in task.await.unwrap() {
            assert!(taken.insert(job.id), "two have the same job");
        }
    }
    assert_eq!(taken.len(), JOBS);
}

/// A caller may be dropped at any point: what it began is finished or undone, never left open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_caller_leaves_no_open_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    let (ledger, other) = (open(&path).await, open(&path).await);
    let mut sent = vec![];
    for turn in 0..40u64 {
        let batch: Vec<NewJob> = (0..50).map(|n| job(format!("{turn}/{n}"))).collect();
        let patience = Duration::from_micros(turn * 150);
        let done = tokio::time::timeout(patience, ledger.accept(&batch)).await;
        drop(done);
        sent.push(batch);
        // the other process isn't locked out
        other.accept(&[job(format!("other {turn}"))]).await.unwrap();
    }
    // this waits for whatever still runs
    ledger.accept(&[job("last".into())]).await.unwrap();
    for batch in sent {
        let mut there = 0;
        for job in &batch {
            there += usize::from(ledger.job(job.id).await.unwrap().is_some());
        }
        assert!(
            there == 0 || there == batch.len(),
            "{there} of a batch were written"
        );
    }
}

/// Printed, not asserted: how fast depends on the disk. `cargo test --test sqlite -- --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_jobs_go_through() {
    const JOBS: usize = 10_000;
    const BATCH: usize = 500;
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&path(&folder)).await;
    let claim = enter(&ledger).await;
    let all = jobs(JOBS);
    let began = Instant::now();
    for batch in all.chunks(BATCH) {
        ledger.accept(batch).await.unwrap();
    }
    let accepted = began.elapsed();
    let mut done = 0;
    loop {
        let jobs = ledger.claim_due(&claim, 500).await.unwrap();
        if jobs.is_empty() {
            break;
        }
        let now = ledger.now().await.unwrap();
        let batch: Vec<Settlement> = jobs.iter().map(|job| completed(job, now)).collect();
        let settled = ledger.settle(&batch).await.unwrap();
        assert!(settled.iter().all(|it| *it == Settled::Done));
        done += batch.len();
    }
    assert_eq!(done, JOBS);
    assert!(ledger.counts().await.unwrap().is_empty());
    let all = began.elapsed();
    let rate = |took: Duration| JOBS as f64 / took.as_secs_f64();
    println!(
        "accept {:.0}/s; accept + claim + settle {:.0}/s",
        rate(accepted),
        rate(all)
    );
}

/// The scans that a daemon makes every second must not grow with the backlog: each walks an index.
#[tokio::test]
async fn what_is_due_and_lost_and_expired_is_found_by_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    drop(open(&path).await);
    let url = format!("sqlite://{}", path.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let scans = [
        (
            "jobs_due",
            "SELECT priority, tenant FROM jobs WHERE lane = 'x' AND state IN ('scheduled', 'ready', 'retrying')
             AND (priority, tenant) > (0, 'x') ORDER BY priority, tenant, coalesce(account, '') LIMIT 1",
        ),
        (
            "jobs_due (lane=? AND priority=? AND tenant=? AND <expr>>?)",
            "SELECT priority, tenant FROM jobs WHERE lane = 'x' AND state IN ('scheduled', 'ready', 'retrying')
             AND priority = 1 AND tenant = 'x' AND coalesce(account, '') > 'x'
             ORDER BY coalesce(account, '') LIMIT 1",
        ),
        (
            "jobs_due (lane=? AND priority=? AND tenant=? AND <expr>=? AND run_at<?)",
            "SELECT id, run_at FROM jobs WHERE lane = 'x' AND priority = 1 AND tenant = 'x'
             AND coalesce(account, '') = 'x' AND state IN ('scheduled', 'ready', 'retrying') AND run_at <= 7 ORDER BY run_at, id LIMIT 9",
        ),
        ("jobs_running", "SELECT count(*) FROM jobs WHERE state = 'running' AND lane = 'x'"),
        (
            "jobs_old",
            "SELECT id FROM jobs WHERE state IN ('waiting', 'scheduled', 'ready', 'retrying', 'held')
             AND min(expires_at, coalesce(not_after, expires_at)) < 7 LIMIT 9",
        ),
    ];
    for (index, sql) in scans {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let rows = sqlx::query(explain)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let plan: Vec<String> = rows.iter().map(|it| it.get("detail")).collect();
        let plan = plan.join("; ");
        assert!(plan.contains(index), "{index}: {plan}");
        assert!(
            !plan.contains("TEMP B-TREE"),
            "{index} gives the order: {plan}"
        );
    }
}

/// More than a transaction takes, and one job with more steps than that; meanwhile the run beats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn housekeeping_goes_in_pieces_and_takes_all() {
    const JOBS: usize = 1_200;
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    let ledger = Arc::new(open(&path).await);
    let claim = enter(&ledger).await;
    ledger.accept(&jobs(JOBS)).await.unwrap();
    let now = ledger.now().await.unwrap();
    let all = ledger.claim_due(&claim, 2_000).await.unwrap();
    let many = &all[0];
    let fence = presswork::ledger::Fence {
        job: many.id,
        revision: many.revision,
        token: many.token.unwrap(),
        run: claim.run,
    };
    assert!(ledger.record_step(&fence, "first", "1").await.unwrap());
    raw(
        &path,
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1300)
         INSERT INTO steps (job, revision, name, value) SELECT job, 0, n, '1' FROM steps, n",
    )
    .await;
    let batch: Vec<Settlement> = all.iter().map(|job| completed(job, now)).collect();
    ledger.settle(&batch).await.unwrap();
    let tidied = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.tidy(Duration::ZERO, Duration::ZERO).await.unwrap() }
    });
    let mut longest = Duration::ZERO;
    while !tidied.is_finished() {
        let asked = Instant::now();
        let lease = Duration::from_secs(60);
        assert!(ledger.beat(claim.run, &[], lease).await.unwrap().is_some());
        longest = longest.max(asked.elapsed());
    }
    println!("the longest beat took {longest:?}");
    // as many jobs and as many keys
    assert_eq!(tidied.await.unwrap(), 2 * JOBS as u64);
    let url = format!("sqlite://{}", path.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let left = "SELECT (SELECT count(*) FROM steps) + (SELECT count(*) FROM finished_jobs)
                     + (SELECT count(*) FROM idempotency_keys)";
    let left: i64 = sqlx::query_scalar(left)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, 0);
    assert_eq!(ledger.live_runs().await.unwrap().len(), 1, "it still beats");
}
