//! What only the Postgres ledger promises: the driver's trap, plans, schema, durability, kill -9.

mod kit;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use presswork::job::{DEFAULT_TENANT, JobId, NewJob, Priority};
use presswork::json::Digest;
use presswork::ledger::postgres::{PgOptions, Postgres, Role, hooked};
use presswork::ledger::{
    Acceptance, AttemptEnd, Claim, Guard, Ledger, LedgerError, Run, Settled, Settlement,
};
use presswork::lifecycle::{State, Transition};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use kit::proxy::Proxy;

const SOON: Duration = Duration::from_secs(20);

fn open(url: &str, options: PgOptions) -> Postgres {
    Postgres::open(&url.into(), options).expect("the kit's URLs can be read")
}

async fn ledger() -> (Arc<Postgres>, String) {
    let url = kit::postgres::Postgres::shared().create_database().await;
    let ledger = open(&url, PgOptions::new(Role::Ledger));
    ledger.migrate().await.expect("an empty ledger migrates");
    (Arc::new(ledger), url)
}

async fn sql(url: &str, sql: &'static str) {
    let mut connection = PgConnection::connect(url).await.expect("connects");
    sqlx::raw_sql(sql)
        .execute(&mut connection)
        .await
        .expect(sql);
}

async fn count(url: &str, sql: &'static str) -> i64 {
    let mut connection = PgConnection::connect(url).await.expect("connects");
    let count = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
    count.expect(sql)
}

fn new_job(key: Option<String>) -> NewJob {
    let payload = r#"{"text":"hello\u0000"}"#;
    NewJob {
        id: JobId::mint(),
        kind: "test.job".into(),
        lane: "test".into(),
        tenant: DEFAULT_TENANT.into(),
        account: None,
        priority: Priority::Normal,
        key,
        payload: payload.into(),
        digest: Digest::of_json(payload).unwrap(),
        run_at: None,
        not_after: None,
        attempts_max: 3,
        timeout_s: 60,
        age_max_s: 86_400,
        labels: BTreeMap::from([("a".into(), "b".into())]),
        traceparent: None,
        reply_to: None,
        options: "{}".into(),
    }
}

fn new_jobs(count: usize) -> Vec<NewJob> {
    (0..count)
        .map(|_| new_job(Some(Uuid::new_v4().to_string())))
        .collect()
}

fn kinds() -> Vec<String> {
    vec!["test.job".into()]
}

fn to(state: State) -> Transition {
    Transition {
        to: state,
        run_at: None,
        attempts: 0,
        crashes: 0,
        reset: false,
        held: None,
        failure: None,
        cancel: false,
        archive: matches!(state, State::Completed | State::Cancelled),
    }
}

fn settlement(id: JobId, guard: Guard, transition: Transition) -> Settlement {
    Settlement {
        id,
        guard,
        transition,
        attempt: None,
        result: None,
        fingerprint: None,
        edit: None,
        audit: None,
    }
}

fn completed(job: &presswork::job::Job) -> Settlement {
    let began_at = job.claimed_at.expect("it was claimed");
    Settlement {
        attempt: Some(AttemptEnd {
            epoch: job.epoch,
            number: job.attempts + 1,
            run: job.run,
            host: "here".into(),
            began_at,
            ended_at: began_at,
            outcome: "completed".into(),
            failure: None,
        }),
        result: Some("{}".into()),
        ..settlement(
            job.id,
            Guard::Token(job.token.expect("it was claimed")),
            to(State::Completed),
        )
    }
}

async fn begin(ledger: &Postgres) -> Claim {
    let run = Uuid::new_v4();
    let entry = Run {
        id: run,
        host: "here".into(),
        boot: None,
        pid: 1,
        version: "0".into(),
        began_at: ledger.now().await.unwrap(),
    };
    ledger
        .begin_run(&entry, Duration::from_secs(60))
        .await
        .unwrap();
    Claim {
        run,
        generation: None,
    }
}

/// Two inserts after a cancelled `begin`, both acknowledged; how many there are in the end.
async fn rows_after_a_cancelled_begin(options: PgPoolOptions) -> i64 {
    let url = kit::postgres::Postgres::shared().create_database().await;
    sql(&url, "CREATE TABLE leak (v integer)").await;
    let (proxy, slow) = Proxy::before(&url);
    let pool: PgPool = options.max_connections(1).connect(&slow).await.unwrap();
    let taken = pool.acquire().await.unwrap();
    drop(taken);
    // what follows a release takes its round trips before the line gets slow
    sqlx::query("SELECT 1").execute(&pool).await.unwrap();
    kit::wait::until("the connection to be back", SOON, || async {
        pool.num_idle() == 1
    })
    .await;
    proxy.drip(60);
    let begun = tokio::time::timeout(Duration::from_millis(150), pool.begin()).await;
    assert!(begun.is_err(), "the line is too fast for this test");
    drop(begun);
    proxy.heal();
    for _ in 0..2 {
        let insert = sqlx::query("INSERT INTO leak VALUES (1)").execute(&pool);
        assert_eq!(insert.await.unwrap().rows_affected(), 1);
    }
    drop(pool);
    drop(proxy);
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()
                 AND backend_type = 'client backend'";
    kit::wait::until("the server to see it go", SOON, || async {
        count(&url, sql).await == 0
    })
    .await;
    count(&url, "SELECT count(*) FROM leak").await
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_are_there_after_a_cancelled_begin() {
    let bare = PgPoolOptions::new().test_before_acquire(false);
    let lost = rows_after_a_cancelled_begin(bare).await;
    assert_eq!(
        lost, 0,
        "sqlx no longer leaks the transaction: drop the hook"
    );
    let kept = rows_after_a_cancelled_begin(hooked(PgPoolOptions::new())).await;
    assert_eq!(kept, 2);
}

/// The plans that the server used since `from`, of the statements that contain `mark`.
fn plans(server: &kit::postgres::Postgres, from: usize, mark: &str) -> Vec<String> {
    let log = std::fs::read_to_string(server.log()).unwrap();
    let plans = log[from..].split("  plan:\n").skip(1);
    let plans = plans.filter(|it| it.contains(mark)).map(str::to_owned);
    plans.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hot_path_uses_its_indexes() {
    let server = kit::postgres::Postgres::start_with(&[
        ("shared_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        // the worst case: what the planner knows is from before the backlog
        ("autovacuum", "off"),
    ]);
    let url = server.create_database().await;
    let ledger = open(&url, PgOptions::new(Role::Ledger));
    ledger.migrate().await.unwrap();
    sql(&url, "ANALYZE presswork.jobs").await;
    for stale in [true, false] {
        for _ in 0..24 {
            let mut jobs = new_jobs(1_000);
            for (i, job) in jobs.iter_mut().enumerate() {
                job.tenant = format!("tenant-{}", i % 7);
            }
            ledger.accept(&jobs).await.unwrap();
        }
        if !stale {
            sql(&url, "ANALYZE presswork.jobs").await;
        }
        let from = std::fs::read_to_string(server.log()).unwrap().len();
        let claim = begin(&ledger).await;
        // more than five times: then a plan for all parameters may be taken
        for _ in 0..8 {
            let hints = ledger.due("test", &kinds(), 500).await.unwrap();
            assert_eq!(hints.len(), 500);
            let tenants: HashSet<_> = hints.iter().take(7).map(|it| it.tenant.clone()).collect();
            assert_eq!(tenants.len(), 7, "turns between tenants");
            let ids: Vec<_> = hints.iter().map(|it| it.id).collect();
            let jobs = ledger.claim(&claim, &ids).await.unwrap();
            assert_eq!(jobs.iter().map(|it| it.id).collect::<Vec<_>>(), ids);
            let batch: Vec<_> = jobs.iter().map(completed).collect();
            let settled = ledger.settle(&batch).await.unwrap();
            assert!(settled.iter().all(|it| *it == Settled::Done));
        }
        for (mark, index) in [
            ("head AS (", "jobs_due"),
            ("free AS MATERIALIZED", "jobs_pkey"),
            ("gone AS (", "jobs_pkey"),
        ] {
            let plans = plans(&server, from, mark);
            assert!(8 <= plans.len(), "{mark}: {} plans", plans.len());
            for plan in plans {
                assert!(
                    plan.contains(index) && !plan.contains("Seq Scan on jobs"),
                    "stale: {stale}\n{plan}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_or_a_changed_schema_is_refused() {
    let (ledger, url) = ledger().await;
    let schema = ledger.schema().await.unwrap();
    assert_eq!(schema.found, schema.known);
    sql(
        &url,
        "INSERT INTO presswork.migrations VALUES (999, 'x', 'x')",
    )
    .await;
    assert_eq!(ledger.schema().await.unwrap().found, 999);
    let error = ledger.migrate().await.unwrap_err();
    assert!(matches!(error, LedgerError::Schema(_)), "{error:?}");
    assert!(error.to_string().contains("version 999"), "{error}");
    sql(
        &url,
        "DELETE FROM presswork.migrations WHERE version = 999;
         UPDATE presswork.migrations SET checksum = 'x' WHERE version = 1",
    )
    .await;
    let error = ledger.migrate().await.unwrap_err();
    assert!(matches!(error, LedgerError::Schema(_)), "{error:?}");
    let empty = kit::postgres::Postgres::shared().create_database().await;
    let empty = open(&empty, PgOptions::new(Role::Cli));
    assert_eq!(empty.schema().await.unwrap().found, 0);
    let error = empty.counts().await.unwrap_err();
    assert!(error.to_string().contains("presswork migrate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn four_migrate_at_once_and_one_does_it() {
    let url = kit::postgres::Postgres::shared().create_database().await;
    let each = (0..4).map(|_| {
        let ledger = open(&url, PgOptions::new(Role::Ledger));
        tokio::spawn(async move { ledger.migrate().await })
    });
    let mut did = 0;
    for it in each.collect::<Vec<_>>() {
        let migrated = it.await.unwrap().unwrap();
        assert!(0 < migrated.to);
        did += usize::from(migrated.from == 0);
    }
    assert_eq!(did, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_lose_writes_is_told() {
    let server =
        kit::postgres::Postgres::start_with(&[("fsync", "off"), ("full_page_writes", "off")]);
    let url = server.create_database().await;
    sql(
        &url,
        "ALTER ROLE postgres SET synchronous_commit = off;
         ALTER ROLE postgres SET statement_timeout = 0",
    )
    .await;
    let bouncer = PgOptions {
        pgbouncer: true,
        ..PgOptions::new(Role::Ledger)
    };
    let concerns = open(&url, bouncer).concerns().await.unwrap();
    let told: Vec<_> = concerns
        .iter()
        .map(|it| (it.setting.as_str(), it.fatal))
        .collect();
    assert_eq!(
        told,
        [
            ("fsync", true),
            ("full_page_writes", true),
            ("synchronous_commit", true),
            ("statement_timeout", false),
        ]
    );
    let (durable, _) = ledger().await;
    assert_eq!(durable.concerns().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_accept_the_same_keys_and_each_is_one_job() {
    let (ledger, url) = ledger().await;
    let keys: Vec<String> = (0..200).map(|it| format!("key-{it}")).collect();
    let tasks = (0..8).map(|task: usize| {
        let (ledger, mut keys) = (ledger.clone(), keys.clone());
        // each in another order
        keys.rotate_left(task * 25);
        if task % 2 == 1 {
            keys.reverse();
        }
        tokio::spawn(async move {
            let jobs: Vec<_> = keys.iter().map(|it| new_job(Some(it.clone()))).collect();
            let answers = ledger.accept(&jobs).await.unwrap();
            keys.into_iter().zip(answers).collect::<Vec<_>>()
        })
    });
    let (mut new, mut ids) = (0, HashMap::<String, HashSet<JobId>>::new());
    for task in tasks.collect::<Vec<_>>() {
        for (key, answer) in task.await.unwrap() {
            let id = match answer {
                Acceptance::New { id, due } => {
                    assert!(due);
                    new += 1;
                    id
                }
                Acceptance::Same { id, .. } => id,
                Acceptance::Conflict { .. } => panic!("{key} has one payload"),
            };
            ids.entry(key).or_default().insert(id);
        }
    }
    assert_eq!((new, ids.len()), (200, 200));
    assert!(ids.values().all(|it| it.len() == 1));
    assert_eq!(
        count(&url, "SELECT count(*) FROM presswork.jobs").await,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn opposite_batches_settle_without_a_deadlock_told() {
    let (ledger, _) = ledger().await;
    let jobs = new_jobs(300);
    ledger.accept(&jobs).await.unwrap();
    let tasks = (0..6).map(|task| {
        let ledger = ledger.clone();
        let mut ids: Vec<_> = jobs.iter().map(|it| it.id).collect();
        if task % 2 == 1 {
            ids.reverse();
        }
        tokio::spawn(async move {
            let cancel = |it: &JobId| settlement(*it, Guard::Version(0), to(State::Cancelled));
            let batch: Vec<_> = ids.iter().map(cancel).collect();
            ledger.settle(&batch).await.unwrap()
        })
    });
    let mut done = 0;
    for task in tasks.collect::<Vec<_>>() {
        let settled = task.await.unwrap();
        done += settled.iter().filter(|it| **it == Settled::Done).count();
    }
    assert_eq!(done, 300, "each exactly once");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_no_acknowledged_job() {
    let server = kit::postgres::Postgres::start();
    let url = server.create_database().await;
    let ledger = Arc::new(open(&url, PgOptions::new(Role::Ledger)));
    ledger.migrate().await.unwrap();
    let mut acknowledged: Vec<JobId> = Vec::new();
    for round in 1..=3 {
        let (sent, mut told) = tokio::sync::mpsc::unbounded_channel();
        let writers = (0..4).map(|_| {
            let (ledger, sent) = (ledger.clone(), sent.clone());
            tokio::spawn(async move {
                loop {
                    let jobs = new_jobs(20);
                    match ledger.accept(&jobs).await {
                        Ok(_) => sent.send(jobs).expect("somebody listens"),
                        Err(e) => break assert!(e.is_away(), "{e:?}"),
                    }
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        drop(sent);
        for _ in 0..30 * round {
            let jobs = told.recv().await.expect("writers write until the kill");
            acknowledged.extend(jobs.iter().map(|it| it.id));
        }
        server.kill9();
        for writer in writers {
            writer.await.unwrap();
        }
        while let Some(jobs) = told.recv().await {
            acknowledged.extend(jobs.iter().map(|it| it.id));
        }
        server.restart();
        kit::wait::until("the ledger to be back", SOON, || async {
            ledger.now().await.is_ok()
        })
        .await;
        for id in &acknowledged {
            assert!(ledger.job(*id).await.unwrap().is_some(), "{id} was lost");
        }
    }
    println!(
        "{} acknowledged jobs, none lost in 3 kills",
        acknowledged.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_network_is_away_in_bounded_time() {
    let (_, url) = ledger().await;
    let (proxy, through) = Proxy::before(&url);
    let options = PgOptions {
        call_timeout: Duration::from_millis(1_500),
        connect_timeout: Duration::from_millis(1_000),
        ..PgOptions::new(Role::Ledger)
    };
    let ledger = open(&through, options);
    ledger.now().await.unwrap();
    proxy.black_hole();
    for _ in 0..2 {
        let asked = Instant::now();
        let error = ledger.accept(&new_jobs(1)).await.unwrap_err();
        assert!(error.is_away(), "{error:?}");
        assert!(asked.elapsed() < Duration::from_secs(5));
    }
    proxy.heal();
    kit::wait::until("it to work again", SOON, || async {
        ledger.accept(&new_jobs(1)).await.is_ok()
    })
    .await;
    proxy.refuse();
    assert!(ledger.now().await.unwrap_err().is_away());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_row_is_told_and_nothing_is_written() {
    let (ledger, url) = ledger().await;
    let mut jobs = new_jobs(3);
    jobs[1].account = Some("a\0b".into());
    let error = ledger.accept(&jobs).await.unwrap_err();
    assert!(matches!(error, LedgerError::Row(_)), "{error:?}");
    let rows = "SELECT (SELECT count(*) FROM presswork.jobs)
                     + (SELECT count(*) FROM presswork.idempotency_keys)";
    assert_eq!(count(&url, rows).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_a_key_is_taken_once_though_its_job_has_ended() {
    let (ledger, _) = ledger().await;
    let jobs = [new_job(None)];
    let id = jobs[0].id;
    let same = [Acceptance::Same {
        id,
        options: "{}".into(),
    }];
    let new = [Acceptance::New { id, due: true }];
    assert_eq!(ledger.accept(&jobs).await.unwrap(), new);
    assert_eq!(ledger.accept(&jobs).await.unwrap(), same);
    let cancel = settlement(id, Guard::Version(0), to(State::Cancelled));
    assert_eq!(ledger.settle(&[cancel]).await.unwrap(), [Settled::Done]);
    assert_eq!(ledger.accept(&jobs).await.unwrap(), same);
    assert_eq!(
        ledger.job(id).await.unwrap().unwrap().state,
        State::Cancelled
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn history_without_a_partition_is_kept_moved_and_dropped_in_time() {
    let (ledger, url) = ledger().await;
    let day = Duration::from_secs(86_400);
    sql(&url, "UPDATE presswork.meta SET shift = '20 days'").await;
    let jobs = new_jobs(5);
    ledger.accept(&jobs).await.unwrap();
    let claim = begin(&ledger).await;
    let ids: Vec<_> = jobs.iter().map(|it| it.id).collect();
    let claimed = ledger.claim(&claim, &ids).await.unwrap();
    let batch: Vec<_> = claimed.iter().map(completed).collect();
    ledger.settle(&batch).await.unwrap();
    let other = "SELECT count(*) FROM presswork.finished_jobs_other";
    assert_eq!(count(&url, other).await, 5, "no partition that far ahead");
    ledger.tidy(day * 30, day * 30).await.unwrap();
    assert_eq!(count(&url, other).await, 0, "moved into its day");
    assert_eq!(ledger.attempts(ids[0]).await.unwrap().len(), 1);
    assert_eq!(
        ledger.job(ids[0]).await.unwrap().unwrap().state,
        State::Completed
    );
    sql(&url, "UPDATE presswork.meta SET shift = '52 days'").await;
    let gone = ledger.tidy(day * 30, day * 40).await.unwrap();
    assert!(5 <= gone, "{gone}");
    assert!(ledger.job(ids[0]).await.unwrap().is_none());
    let key = jobs[0].key.as_deref().unwrap();
    let known = ledger.job_of_key(DEFAULT_TENANT, "test.job", key);
    assert_eq!(
        known.await.unwrap(),
        Some(ids[0]),
        "keys have their own keeping"
    );
    sql(&url, "UPDATE presswork.meta SET shift = '61 days'").await;
    assert!(5 <= ledger.tidy(day * 30, day * 40).await.unwrap());
    let known = ledger.job_of_key(DEFAULT_TENANT, "test.job", key);
    assert_eq!(known.await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_without_prepared_statements() {
    let (_, url) = ledger().await;
    let options = PgOptions {
        pgbouncer: true,
        ..PgOptions::new(Role::Ledger)
    };
    let ledger = open(&url, options);
    ledger.accept(&new_jobs(10)).await.unwrap();
    let claim = begin(&ledger).await;
    let kinds = kinds();
    let claimed = ledger.claim_due(&claim, "test", &kinds, 10, Some(4));
    assert_eq!(claimed.await.unwrap().len(), 4);
    let more = ledger.claim_due(&claim, "test", &kinds, 10, Some(6));
    assert_eq!(more.await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_leaves_nothing_half_done() {
    let (ledger, url) = ledger().await;
    ledger.accept(&new_jobs(200)).await.unwrap();
    let claim = begin(&ledger).await;
    for micros in (50..3_000).step_by(50) {
        let wait = Duration::from_micros(micros);
        let kinds = kinds();
        let call = ledger.claim_due(&claim, "test", &kinds, 1, Some(50));
        let _ = tokio::time::timeout(wait, call).await;
        let _ = tokio::time::timeout(wait, ledger.accept(&new_jobs(2))).await;
    }
    let idle = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    kit::wait::until("no transaction to be open", SOON, || async {
        count(&url, idle).await == 0
    })
    .await;
    let before = count(&url, "SELECT count(*) FROM presswork.jobs").await;
    ledger.accept(&new_jobs(20)).await.unwrap();
    let running = "SELECT count(*) FROM presswork.jobs WHERE token IS NOT NULL";
    assert!(count(&url, running).await <= 50);
    let after = count(&url, "SELECT count(*) FROM presswork.jobs").await;
    assert!(before + 20 <= after);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_jobs_go_through() {
    const ALL: usize = 20_000;
    const BATCH: usize = 500;
    let (ledger, _) = ledger().await;
    let jobs = new_jobs(ALL);
    let told = |what: &str, since: Instant| {
        let rate = ALL as f64 / since.elapsed().as_secs_f64();
        println!("{what}: {rate:.0} rows/s");
    };
    let since = Instant::now();
    each(jobs.chunks(BATCH).map(<[_]>::to_vec), |it| {
        let ledger = ledger.clone();
        async move { assert_eq!(ledger.accept(&it).await.unwrap().len(), BATCH) }
    })
    .await;
    told("accept", since);
    let claim = begin(&ledger).await;
    let since = Instant::now();
    let claimed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let ids: Vec<_> = jobs.iter().map(|it| it.id).collect();
    each(ids.chunks(BATCH).map(<[_]>::to_vec), |it| {
        let (ledger, claim, claimed) = (ledger.clone(), claim.clone(), claimed.clone());
        async move {
            let jobs = ledger.claim(&claim, &it).await.unwrap();
            claimed.lock().unwrap().push(jobs);
        }
    })
    .await;
    told("claim", since);
    let batches = std::mem::take(&mut *claimed.lock().unwrap());
    let since = Instant::now();
    each(batches.into_iter(), |it| {
        let ledger = ledger.clone();
        async move {
            let batch: Vec<_> = it.iter().map(completed).collect();
            let settled = ledger.settle(&batch).await.unwrap();
            assert!(settled.iter().all(|it| *it == Settled::Done));
        }
    })
    .await;
    told("settle", since);
    assert!(ledger.counts().await.unwrap().is_empty());
    for id in ids.iter().step_by(997) {
        assert_eq!(ledger.attempts(*id).await.unwrap().len(), 1);
    }
}

/// Four at a time.
async fn each<T, F>(batches: impl Iterator<Item = T>, work: impl Fn(T) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = tokio::task::JoinSet::new();
    for batch in batches {
        if 4 <= tasks.len() {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(work(batch));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}
