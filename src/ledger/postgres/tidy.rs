//! Housekeeping: partitions made ahead, and what is past its keeping.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;

use super::codec::seconds;
use super::connections::Opening;
use super::pool::{Pools, explain, is_cancelled};
use crate::budget;
use crate::content::Guard;
use crate::ledger::door::Result;
use crate::ledger::rows::CALLS_KEPT;

/// A call begins no statement after this long: the rest is for the next call.
const BUDGET: Duration = Duration::from_secs(15);
/// A call is over after this long, whatever the server does.
const LIMIT: Duration = Duration::from_secs(25);
/// Making partitions may move what had none.
const PATIENCE: &str = "SET LOCAL statement_timeout = '20s'";
const AHEAD: i32 = 7;
/// Rows that one statement deletes.
const CHUNK: i64 = 5_000;
/// Pages of a partition that one statement is done with: some ten thousand jobs.
const PAGES: i64 = 500;
/// Keys of jobs that ended in so much time are swept by one statement at first. After a quick one it
/// is twice as much, after a slow one half.
const SPAN: f64 = 600.0;
const SPANS: std::ops::RangeInclusive<f64> = 1.0..=86_400.0;
const QUICK: Duration = Duration::from_millis(200);
const SLOW: Duration = Duration::from_secs(2);

const DROP_PAGES: &str =
    "SELECT presswork.drop_partition(presswork.now() - $1 * interval '1 second', $2)";

/// What had no partition when it ended, with its steps, effects and holds of media.
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
holds AS (DELETE FROM presswork.media_holds h USING gone WHERE h.job = gone.id),
keys AS (
    UPDATE presswork.idempotency_keys k SET ended_at = gone.archived_at FROM gone
    WHERE k.tenant = gone.tenant AND k.kind = gone.kind AND k.key = gone.key AND k.job = gone.id
)
SELECT count(*) FROM gone";

/// Keys whose finished job is still there, `$2` seconds' worth at a time, each time once: a settle
/// doesn't write to the keys, which made it a third slower.
const SWEEP_KEYS: &str = "
WITH span AS MATERIALIZED (
    SELECT keys_swept AS since,
           least(keys_swept + $2 * interval '1 second',
                 presswork.now() - $1 * interval '1 second') AS upto
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
SELECT (SELECT count(*) FROM gone) AS gone, upto = since + $2 * interval '1 second' AS more
FROM span";

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

/// Rows of a table whose time is more than `$1` seconds ago, the oldest first, at most `$2`.
macro_rules! older {
    ($table:literal, $time:literal) => {
        concat!(
            "WITH gone AS (
    DELETE FROM presswork.",
            $table,
            "
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM presswork.",
            $table,
            " WHERE ",
            $time,
            " < presswork.now() - $1 * interval '1 second' ORDER BY ",
            $time,
            " LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM gone"
        )
    };
}

/// Results that are offered no longer, `$1` seconds ago.
const DROP_RESULTS: &str = older!("results", "until");

/// What was said `$1` seconds ago, which no guard asks for any more.
const DROP_CONTENTS: &str = older!("contents", "at");

/// Closures whose time was past `$1` seconds ago.
const DROP_CLOSURES: &str = older!("closures", "until");

/// Parts of budgets that nothing was counted in for `$1` seconds.
const DROP_BUDGETS: &str = older!("budgets", "changed_at");

/// Changes of budgets whose time was past `$1` seconds ago.
const DROP_CHANGES: &str = older!("budget_changes", "until");

/// Call-backs that were taken `$1` seconds ago.
const DROP_CALLS: &str = older!("calls", "at");

/// What send journals told `$1` seconds ago of effects that no job has come to.
const DROP_TESTIMONY: &str = older!("testimony", "at");

/// A job that is older than that, waiting included, has been seen by a person.
const TESTIMONY: Duration = Duration::from_secs(90 * 86_400);

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
    let (finished, keys) = (seconds(finished), seconds(keys));
    let until = Instant::now() + BUDGET;
    let opening = pools.main().opening();
    pools
        .apart(pools.main(), LIMIT, move |connection| {
            Box::pin(async move {
                work(connection, &opening, until, finished, keys)
                    .await
                    .map_err(explain)
            })
        })
        .await
}

async fn work(
    connection: &mut PgConnection,
    opening: &Opening,
    until: Instant,
    finished: f64,
    keys: f64,
) -> sqlx::Result<u64> {
    make_room(connection, opening).await?;
    let mut gone = sweep_keys(connection, opening, until, keys).await?;
    while Instant::now() < until {
        let jobs: Option<i64> = sqlx::query_scalar(DROP_PAGES)
            .bind(finished)
            .bind(PAGES)
            .fetch_one(opening.alone(connection))
            .await?;
        let Some(jobs) = jobs else { break };
        gone += jobs;
    }
    for (sql, keeping) in [
        (DROP_OTHERS, finished),
        (DROP_KEYS, keys),
        (DROP_RESULTS, 0.0),
        (DROP_CLOSURES, 0.0),
        (DROP_CHANGES, 0.0),
        (DROP_BUDGETS, seconds(budget::KEPT)),
        (DROP_TESTIMONY, seconds(TESTIMONY)),
        (
            DROP_CONTENTS,
            seconds(Duration::from_secs(Guard::WITHIN_MAX_S)),
        ),
        (DROP_CALLS, seconds(CALLS_KEPT)),
    ] {
        while Instant::now() < until {
            let rows: i64 = sqlx::query_scalar(sql)
                .bind(keeping)
                .bind(CHUNK)
                .fetch_one(opening.alone(connection))
                .await?;
            gone += rows;
            if rows < CHUNK {
                break;
            }
        }
    }
    let runs = sqlx::query_scalar(DROP_RUNS).fetch_one(opening.alone(connection));
    let runs: i64 = runs.await?;
    Ok((gone + runs).unsigned_abs())
}

async fn make_room(connection: &mut PgConnection, opening: &Opening) -> sqlx::Result<()> {
    let mut transaction = opening.begin(connection).await?;
    sqlx::raw_sql(PATIENCE).execute(transaction.on()).await?;
    sqlx::query("SELECT presswork.make_partitions($1)")
        .bind(AHEAD)
        .execute(transaction.on())
        .await?;
    transaction.commit().await
}

/// Sweeps the keys of jobs that are still there; how many went.
async fn sweep_keys(
    connection: &mut PgConnection,
    opening: &Opening,
    until: Instant,
    keys: f64,
) -> sqlx::Result<i64> {
    let (mut gone, mut span) = (0, SPAN);
    while Instant::now() < until {
        let began = Instant::now();
        let swept = sqlx::query_as(SWEEP_KEYS)
            .bind(keys)
            .bind(span)
            .fetch_one(opening.alone(connection))
            .await;
        let more = match swept {
            Ok((rows, more)) => {
                let rows: i64 = rows;
                gone += rows;
                more
            }
            // given up by the server: nothing of it was done, and it was too much at once
            Err(e) if *SPANS.start() < span && is_cancelled(&e) => true,
            Err(e) => return Err(e),
        };
        if !more {
            break;
        }
        span = match began.elapsed() {
            it if it < QUICK => (span * 2.0).min(*SPANS.end()),
            it if SLOW < it => (span / 2.0).max(*SPANS.start()),
            _ => span,
        };
    }
    Ok(gone)
}
