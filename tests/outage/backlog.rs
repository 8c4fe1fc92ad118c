//! Many jobs: a backlog of any size doesn't hold up who comes first, and those that have ended don't slow
//! the next ones.

use super::*;

/// Of the waiting, or of those that have ended. `PRESSWORK_MANY=1000000`: so many, and the bounds of a
/// machine that does nothing else.
struct Many {
    jobs: u64,
    first: Duration,
    slower: f64,
}

fn many() -> Many {
    let said = std::env::var("PRESSWORK_MANY").ok();
    match said.and_then(|it| it.parse().ok()) {
        Some(jobs) => Many {
            jobs,
            first: Duration::from_secs(1),
            slower: 1.1,
        },
        None => Many {
            jobs: 50_000,
            first: Duration::from_secs(4),
            slower: 1.5,
        },
    }
}

/// Jobs of fifty tenants, written by the server itself.
fn waiting(jobs: u64, sleep_ms: u32) -> String {
    format!(
        "INSERT INTO presswork.jobs (id, kind, lane, tenant, priority, payload, created_at, run_at,
             expires_at, attempts_max, timeout_s, state)
         SELECT gen_random_uuid(), 'test.job', 'default', 'tenant-' || n % 50, 1,
             '{{\"sleep_ms\": {sleep_ms}}}', presswork.now(), presswork.now() - interval '1 hour',
             presswork.now() + interval '30 days', 3, 60, 'ready'
         FROM generate_series(1, {jobs}) AS n"
    )
}

async fn number(case: &Case, sql: &str) -> u64 {
    let said = Postgres::shared().asked(&case.stores.ledger, sql).await;
    said.parse().expect("a number")
}

async fn finished(case: &Case) -> u64 {
    number(case, "SELECT count(*)::text FROM presswork.finished_jobs").await
}

/// Bytes that Redis uses.
fn used(redis: &Redis) -> u64 {
    let told = redis.cli(&["INFO", "memory"]);
    let line = told.lines().find_map(|it| it.strip_prefix("used_memory:"));
    let bytes = line.and_then(|it| it.trim().parse().ok());
    bytes.expect("Redis tells its memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_any_size_is_begun_at_once_and_the_queue_holds_a_window_of_it() {
    let many = many();
    let mut case = Case::new().await;
    case.stores.more = "[lanes.default]\nconcurrency = 8\n".to_owned();
    let host = case.host();
    let daemon = host.run();
    host.queue_in_use(&daemon).await;
    let empty = used(&case.redis);
    daemon.signal("TERM");
    assert!(daemon.wait_exit(READY).await.success());
    sql(&case.stores.ledger, &waiting(many.jobs, 20)).await;

    let daemon = host.run();
    daemon.wait_ready(host.api, READY).await;
    let ready = Instant::now();
    wait::until("the first has ended", READY, async || {
        0 < finished(&case).await
    })
    .await;
    let first = ready.elapsed();
    wait::until("the queue is in use", READY, async || {
        let told = host.get("/readyz").await;
        told.is_ok_and(|it| it.text.contains("\"usable\":true"))
    })
    .await;
    wait::until("they go on", ENDED, async || 300 < finished(&case).await).await;
    let held = used(&case.redis).saturating_sub(empty);
    println!(
        "{} jobs wait: the first ended {} ms after the daemon was ready, Redis holds {held} bytes more",
        many.jobs,
        first.as_millis()
    );
    assert!(first < many.first, "{first:?}");
    let config = rules(&host).config;
    // 150 for each id of the window, and what a server's own books and clients move by
    let most = 150 * u64::from(config.window) + (2 << 20);
    assert!(held < most, "{held} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_have_ended_do_not_slow_the_next_ones() {
    const JOBS: u64 = 1_000;
    const ROUNDS: usize = 5;
    let many = many();
    let cases = [Case::new().await, Case::new().await];
    let hosts = cases.each_ref().map(Case::host);
    let daemons = hosts.each_ref().map(Host::run);
    for (host, daemon) in hosts.iter().zip(&daemons) {
        host.queue_in_use(daemon).await;
    }
    let round = async |case: &Case| {
        sql(&case.stores.ledger, &waiting(JOBS, 0)).await;
        let from = Instant::now();
        // not by those that have ended: to count them takes longer the more there are
        wait::until("they have ended", ENDED, async || {
            number(case, "SELECT count(*)::text FROM presswork.jobs").await == 0
        })
        .await;
        from.elapsed()
    };
    for case in &cases {
        round(case).await;
    }
    let ended = format!(
        "INSERT INTO presswork.finished_jobs
         SELECT (jsonb_populate_record(f, jsonb_build_object(
             'id', gen_random_uuid(), 'lane', 'long-ago'))).*
         FROM (SELECT f FROM presswork.finished_jobs f LIMIT 1) AS one,
             generate_series(1, {})",
        many.jobs
    );
    sql(&cases[1].stores.ledger, &ended).await;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (case, times) in cases.iter().zip(&mut times) {
            times.push(round(case).await);
        }
    }
    let [few, after] = times.map(|mut it| {
        it.sort();
        it[ROUNDS / 2]
    });
    let slower = after.as_secs_f64() / few.as_secs_f64();
    println!(
        "{JOBS} jobs took {few:?}, and {after:?} after {} others: {slower:.2} times as long",
        many.jobs
    );
    assert!(slower < many.slower, "{slower}");
}
