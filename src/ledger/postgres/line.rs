//! Where a job stands in its lane's line, and how fast that goes: for people who wonder.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::dispatch::{by_weight, claimable, clock, going, shut_columns, step, waits, within};
use super::pool::{Pools, explain};
use crate::fair::Fair;
use crate::gate::Shut;
use crate::job::Job;
use crate::ledger::door::Result;
use crate::ledger::rows::{LINE_MAX, Line, PACE};

/// The due jobs of an account that may go, in their order.
macro_rules! theirs {
    () => {
        concat!(
            "j.lane = $1 AND j.run_at <= (SELECT now FROM clock) AND j.kind = ANY($2)
              AND j.priority = going.priority AND j.tenant = going.tenant
              AND coalesce(j.account, '') = going.account AND ",
            claimable!(),
            within!()
        )
    };
}

/// As what is due is found: from account to account over its index, and of each no more jobs than have
/// their turn before this one's (`mine`). What was completed is looked at from the oldest on.
const LINE: &str = concat!(
    "WITH RECURSIVE ",
    clock!(),
    "
    head AS (
        (SELECT j.priority, j.tenant, coalesce(j.account, '') AS account FROM presswork.jobs j
         WHERE j.lane = $1 AND ",
    claimable!(),
    "    ORDER BY j.priority, j.tenant, coalesce(j.account, '') LIMIT 1)
        UNION ALL
        SELECT next.priority, next.tenant, next.account FROM head CROSS JOIN LATERAL (
            SELECT j.priority, j.tenant, coalesce(j.account, '') AS account FROM presswork.jobs j
            WHERE j.lane = $1 AND (j.priority, j.tenant, coalesce(j.account, ''))
                  > (head.priority, head.tenant, head.account) AND ",
    claimable!(),
    "       ORDER BY j.priority, j.tenant, coalesce(j.account, '') LIMIT 1) next
    ),",
    going!(),
    "
    late AS MATERIALIZED (
        SELECT coalesce(max(going.priority), 0) AS priority FROM going CROSS JOIN LATERAL (
            SELECT j.run_at FROM presswork.jobs j
            WHERE ",
    theirs!(),
    "       ORDER BY j.run_at, j.id LIMIT 1) one
        WHERE one.run_at <= (SELECT now FROM clock) - $4 * interval '1 second'
    ),
    level AS MATERIALIZED (
        SELECT going.*, ",
    step!(),
    " AS step,
               CASE WHEN going.priority <= (SELECT priority FROM late) THEN 0
                    ELSE going.priority END AS level
        FROM going
    ),
    mine AS MATERIALIZED (
        SELECT count(*) * (SELECT ",
    step!(),
    " FROM (SELECT $11::int2 AS priority, $12::text AS tenant, $13::text AS account) going)
                   AS starts,
               CASE WHEN $11 <= (SELECT priority FROM late) THEN 0 ELSE $11 END AS level
        FROM (
            SELECT j.id
            FROM (SELECT $11::int2 AS priority, $12::text AS tenant, $13::text AS account) going,
                 presswork.jobs j
            WHERE (j.run_at, j.id) < ($14, $15) AND ",
    theirs!(),
    "       LIMIT $3) one
    ),
    before AS (
        SELECT one.id FROM mine CROSS JOIN level going CROSS JOIN LATERAL (
            SELECT j.id, j.run_at,
                   (row_number() OVER (ORDER BY j.run_at, j.id) - 1) * going.step AS starts
            FROM presswork.jobs j
            WHERE ",
    theirs!(),
    "       ORDER BY j.run_at, j.id
            LIMIT CASE WHEN going.level < mine.level THEN $3
                       ELSE mine.starts / going.step + 1 END) one
        WHERE going.level <= mine.level
          AND (going.level < mine.level OR one.starts < mine.starts
               OR (one.starts = mine.starts AND (one.run_at, one.id) < ($14, $15)))
        LIMIT $3
    ),
    ended AS (
        SELECT f.lane = $1 AND f.state = 'completed' AS is_one, f.archived_at
        FROM presswork.finished_jobs f
        WHERE (SELECT now FROM clock) - $16 * interval '1 second' < f.archived_at LIMIT $3
    )
    SELECT (SELECT count(*) FROM before) AS before, count(*) FILTER (WHERE is_one) AS completed,
           extract(epoch FROM CASE
               WHEN count(*) < $3
               THEN (SELECT now FROM clock) - min(archived_at) FILTER (WHERE is_one)
               ELSE max(archived_at) - min(archived_at) END)::float8 AS span
    FROM ended"
);

/// Where a job stands in its lane's line. Rarely asked, and still by the connections that scan no table:
/// to the planner a scan of all that has finished looks cheap, since it is to end early.
pub async fn line(
    pools: &Pools,
    job: &Job,
    kinds: &[String],
    shut: &Shut,
    fair: &Fair,
) -> Result<Line> {
    let query = sqlx::query(LINE)
        .bind(&job.lane)
        .bind(kinds)
        .bind(i64::from(LINE_MAX) + 1)
        .bind(waits(fair, &job.lane));
    let query = shut_columns(by_weight(query, fair), shut)
        .bind(job.priority.rank())
        .bind(&job.tenant)
        .bind(job.account.as_deref().unwrap_or_default())
        .bind(job.run_at)
        .bind(job.id.0)
        .bind(PACE.as_secs_f64());
    let row = pools.call(query.fetch_one(pools.planned())).await?;
    read(&row).map_err(explain)
}

fn read(row: &PgRow) -> sqlx::Result<Line> {
    let count = |name: &str| row.try_get::<i64, _>(name).map(i64::unsigned_abs);
    let span: Option<f64> = row.try_get("span")?;
    Ok(Line {
        before: count("before")?,
        completed: count("completed")?,
        span: Duration::try_from_secs_f64(span.unwrap_or_default()).unwrap_or_default(),
    })
}
