//! Housekeeping: partitions made ahead, and what is past its keeping.

use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgPool};

use super::pool::{Pools, explain};
use super::runs::seconds;
use crate::ledger::door::{LedgerError, Result};

/// A day's jobs may be millions: a step of this takes longer than a usual call may.
const PATIENCE: &str = "SET LOCAL statement_timeout = '5min'";
const AHEAD: i32 = 7;
/// Rows that one statement deletes, and statements of one call: the rest is for the next.
const CHUNK: i64 = 5_000;
const CHUNKS_MAX: u32 = 40;
/// Days of keys that one call sweeps.
const DAYS_MAX: u32 = 400;

const DROP_DAY: &str =
    "SELECT presswork.drop_partition(presswork.now() - $1 * interval '1 second')";

/// What had no partition when it ended, with its steps and effects.
const DROP_OTHERS: &str = "
WITH gone AS (
    DELETE FROM presswork.finished_jobs_other
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM presswork.finished_jobs_other
                           WHERE archived_at < presswork.now() - $1 * interval '1 second'
                           LIMIT $2))
    RETURNING id, tenant, kind, key, archived_at
),
steps AS (DELETE FROM presswork.steps s USING gone WHERE s.job = gone.id),
effects AS (DELETE FROM presswork.effects e USING gone WHERE e.job = gone.id),
keys AS (
    UPDATE presswork.idempotency_keys k SET ended_at = gone.archived_at FROM gone
    WHERE k.tenant = gone.tenant AND k.kind = gone.kind AND k.key = gone.key AND k.job = gone.id
)
SELECT count(*) FROM gone";

/// Keys whose finished job is still there, a day's worth at a time, each day once: a settle doesn't
/// write to the keys, which made it a third slower.
const SWEEP_KEYS: &str = "
WITH span AS MATERIALIZED (
    SELECT keys_swept AS since,
           least(keys_swept + interval '1 day', presswork.now() - $1 * interval '1 second') AS upto
    FROM presswork.meta
),
gone AS (
    DELETE FROM presswork.idempotency_keys k USING presswork.finished_jobs f
    WHERE (SELECT since FROM span) <= f.archived_at AND f.archived_at < (SELECT upto FROM span)
      AND k.tenant = f.tenant AND k.kind = f.kind AND k.key = f.key AND k.job = f.id
    RETURNING 1
),
moved AS (
    UPDATE presswork.meta SET keys_swept = span.upto FROM span WHERE keys_swept < span.upto
)
SELECT (SELECT count(*) FROM gone) AS gone, since < upto AS more FROM span";

/// Keys that outlived their job's partition.
const DROP_KEYS: &str = "
WITH gone AS (
    DELETE FROM presswork.idempotency_keys
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM presswork.idempotency_keys
                           WHERE ended_at < presswork.now() - $1 * interval '1 second'
                           ORDER BY ended_at LIMIT $2))
      AND ended_at < presswork.now() - $1 * interval '1 second'
    RETURNING 1
)
SELECT count(*) FROM gone";

/// Runs that ended a week ago and hold nothing.
const DROP_RUNS: &str = "
WITH gone AS (
    DELETE FROM presswork.workers w
    WHERE w.lease_until < presswork.now() - interval '7 days'
      AND NOT EXISTS (SELECT FROM presswork.jobs j WHERE j.token IS NOT NULL AND j.run = w.run)
    RETURNING 1
)
SELECT count(*) FROM gone";

/// Makes room ahead and drops what is past its keeping; how many rows went.
pub async fn tidy(pools: &Pools, finished: Duration, keys: Duration) -> Result<u64> {
    let pool = pools.main().clone();
    // a task of its own: a caller that goes away can't leave a transaction half-open
    let task = tokio::spawn(async move { work(&pool, seconds(finished), seconds(keys)).await });
    match task.await {
        Ok(done) => done.map_err(explain),
        Err(e) => Err(LedgerError::Other(format!("tidying ended: {e}"))),
    }
}

async fn work(pool: &PgPool, finished: f64, keys: f64) -> sqlx::Result<u64> {
    let mut connection = pool.acquire().await?;
    make_room(&mut connection).await?;
    let mut gone = 0;
    for _ in 0..DAYS_MAX {
        let (keys, more) = sweep_day(&mut connection, keys).await?;
        gone += keys.unsigned_abs();
        if !more {
            break;
        }
    }
    while let Some(jobs) = drop_day(&mut connection, finished).await? {
        gone += jobs.unsigned_abs();
    }
    for (sql, keeping) in [(DROP_OTHERS, finished), (DROP_KEYS, keys)] {
        for _ in 0..CHUNKS_MAX {
            let rows: i64 = sqlx::query_scalar(sql)
                .bind(keeping)
                .bind(CHUNK)
                .fetch_one(&mut *connection)
                .await?;
            gone += rows.unsigned_abs();
            if rows < CHUNK {
                break;
            }
        }
    }
    let runs: i64 = sqlx::query_scalar(DROP_RUNS)
        .fetch_one(&mut *connection)
        .await?;
    Ok(gone + runs.unsigned_abs())
}

async fn make_room(connection: &mut PgConnection) -> sqlx::Result<()> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(PATIENCE).execute(&mut *transaction).await?;
    sqlx::query("SELECT presswork.make_partitions($1)")
        .bind(AHEAD)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// Sweeps the keys of a day; how many went, and whether there may be more.
async fn sweep_day(connection: &mut PgConnection, keys: f64) -> sqlx::Result<(i64, bool)> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(PATIENCE).execute(&mut *transaction).await?;
    let swept = sqlx::query_as(SWEEP_KEYS)
        .bind(keys)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(swept)
}

async fn drop_day(connection: &mut PgConnection, finished: f64) -> sqlx::Result<Option<i64>> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(PATIENCE).execute(&mut *transaction).await?;
    let gone: Option<i64> = sqlx::query_scalar(DROP_DAY)
        .bind(finished)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(gone)
}
