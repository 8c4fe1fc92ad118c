//! The schema, its partitions, and whether the server is durable.

use super::*;

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
    sql(&url, "ALTER ROLE postgres SET synchronous_commit = off").await;
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
        ]
    );
    let (durable, _) = ledger().await;
    assert_eq!(durable.concerns().await.unwrap(), []);
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
async fn a_key_may_go_before_its_job_does() {
    let (ledger, url) = ledger().await;
    let day = Duration::from_secs(86_400);
    let jobs = new_jobs(3);
    ledger.accept(&jobs).await.unwrap();
    let cancel = |it: &NewJob| settlement(it.id, Guard::Version(0), to(State::Cancelled));
    ledger.settle(&[cancel(&jobs[0])]).await.unwrap();
    let keys = "SELECT count(*) FROM presswork.idempotency_keys";
    sql(&url, "UPDATE presswork.meta SET shift = '4 days'").await;
    ledger.settle(&[cancel(&jobs[1])]).await.unwrap();
    sql(&url, "UPDATE presswork.meta SET shift = '6 days'").await;
    assert_eq!(ledger.tidy(day * 30, day * 5).await.unwrap(), 1);
    assert_eq!(count(&url, keys).await, 2);
    assert_eq!(ledger.tidy(day * 30, day * 5).await.unwrap(), 0);
    sql(&url, "UPDATE presswork.meta SET shift = '12 days'").await;
    assert_eq!(ledger.tidy(day * 30, day * 5).await.unwrap(), 1);
    assert!(ledger.job(jobs[0].id).await.unwrap().is_some());
    // the third has not ended
    assert_eq!(count(&url, keys).await, 1);
}

/// A statement that was prepared before a newer program added a column would be refused by the server from
/// then on ("cached plan must not change result type"), had it asked for all columns of the table.
#[test]
fn statements_name_the_columns_that_they_want() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ledger/postgres");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let of_a_table = |it: &&str| {
            let it = it.replace("count(*)", "");
            let returned = it
                .split_once("RETURNING ")
                .is_some_and(|it| it.1.contains('*'));
            it.contains("* FROM presswork.") || it.contains("e.*") || returned
        };
        let all: Vec<&str> = text.lines().filter(of_a_table).collect();
        assert!(all.is_empty(), "{}: {all:#?}", path.display());
    }
}
