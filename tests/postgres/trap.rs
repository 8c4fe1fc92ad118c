//! The driver and the network: a dropped call, a silent line, PgBouncer.

use super::*;

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
async fn a_dropped_call_leaves_nothing_half_done() {
    let (ledger, url) = ledger().await;
    ledger.accept(&new_jobs(200)).await.unwrap();
    let claim = at_most(50, &begin(&ledger).await);
    for micros in (50..3_000).step_by(50) {
        let wait = Duration::from_micros(micros);
        let call = ledger.claim_due(&claim, 1);
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
async fn it_works_without_prepared_statements() {
    let (_, url) = ledger().await;
    let url = format!("{url}?pgbouncer=true");
    let ledger = open(&url, PgOptions::new(Role::Ledger));
    ledger.accept(&new_jobs(10)).await.unwrap();
    let claim = begin(&ledger).await;
    let (four, six) = (at_most(4, &claim), at_most(6, &claim));
    assert_eq!(ledger.claim_due(&four, 10).await.unwrap().len(), 4);
    assert_eq!(ledger.claim_due(&six, 10).await.unwrap().len(), 2);
}

/// The transaction's task ends with the caller's patience, its connection is closed, and the lane's
/// lock is free again; nothing is left half done.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_peer_vanishes_ends_and_frees_the_lane() {
    let (ledger, url) = ledger().await;
    ledger.accept(&new_jobs(20)).await.unwrap();
    let (proxy, through) = Proxy::before(&url);
    let options = PgOptions {
        max_connections: 1,
        call_timeout: Duration::from_millis(1_500),
        connect_timeout: Duration::from_millis(1_000),
        ..PgOptions::new(Role::Ledger)
    };
    let vanishing = open(&through, options);
    let claim = at_most(5, &begin(&vanishing).await);
    assert_eq!(vanishing.claim_due(&claim, 1).await.unwrap().len(), 1);
    proxy.black_hole();
    let ids: Vec<_> = ledger
        .due("test", &kinds(), &Shut::default(), &Fair::default(), 3)
        .await
        .unwrap();
    let ids: Vec<_> = ids.iter().map(|it| it.id).collect();
    for _ in 0..2 {
        let asked = Instant::now();
        let due = vanishing.claim_due(&claim, 1).await.unwrap_err();
        let named = vanishing.claim(&claim, &ids).await.unwrap_err();
        assert!(due.is_away() && named.is_away(), "{due:?}, {named:?}");
        assert!(asked.elapsed() < Duration::from_secs(8));
    }
    let other = at_most(5, &begin(&ledger).await);
    kit::wait::until("the lane to be free", SOON, || async {
        ledger.claim_due(&other, 9).await.is_ok()
    })
    .await;
    assert_eq!(ledger.running("test").await.unwrap().len(), 5);
    proxy.heal();
    kit::wait::until("it to claim again", SOON, || async {
        vanishing.claim_due(&claim, 1).await.is_ok()
    })
    .await;
    assert_eq!(ledger.running("test").await.unwrap().len(), 5);
}
