//! Jobs that were scheduled for a time, and what waits beside them.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::codec::optional_word;
use super::pool::{Pools, explain};
use crate::job::JobId;
use crate::lateness::Terms;
use crate::ledger::door::Result;
use crate::ledger::planned::{Askers, KEPT_FOR, LOOKED_AT, Planned, Waiting};

/// The predicate of the indexes `jobs_planned_..`, word for word, and the time that is asked for.
macro_rules! planned {
    () => {
        "j.created_at < j.due_at AND j.state IN ('scheduled', 'ready', 'running', 'retrying')
          AND (SELECT now FROM clock) - $2 * interval '1 second' < j.due_at
          AND j.due_at < (SELECT now FROM clock) + $3 * interval '1 second'"
    };
}

/// What has sent something has taken its place.
macro_rules! not_sent {
    ($job:literal) => {
        concat!(
            " AND ((SELECT now FROM clock) < ",
            $job,
            ".due_at OR NOT EXISTS (SELECT FROM presswork.effects e WHERE e.job = ",
            $job,
            ".id AND 0 < e.sends))"
        )
    };
}

macro_rules! clock {
    () => {
        "WITH clock AS MATERIALIZED (SELECT presswork.now() AS now) "
    };
}

const OF_ACCOUNT: &str = concat!(
    clock!(),
    "SELECT j.id, j.due_at FROM presswork.jobs j
    WHERE j.account = $5 AND j.kind = ANY($1) AND ($6::text IS NULL OR j.tenant = $6) AND ",
    planned!(),
    not_sent!("j"),
    " ORDER BY j.due_at, j.id LIMIT $4"
);

/// Of each kind by itself, so that it goes by the index.
const OF_KINDS: &str = concat!(
    clock!(),
    "SELECT one.id, one.due_at FROM unnest($1::text[]) AS k(kind) CROSS JOIN LATERAL (
        SELECT j.id, j.due_at, j.account, j.tenant FROM presswork.jobs j
        WHERE j.kind = k.kind AND ",
    planned!(),
    "   ORDER BY j.due_at, j.id LIMIT $7) one
    WHERE ($5::text[] IS NULL OR one.account = ANY($5)) AND ($6::text IS NULL OR one.tenant = $6)",
    not_sent!("one"),
    " ORDER BY one.due_at, one.id LIMIT $4"
);

/// Nobody knows how many there are: the connections that may scan a table are asked.
const BACKLOG: &str = "
SELECT j.id, j.kind, j.tenant, j.account, j.state = 'held' AS held, j.run_at,
    CASE WHEN j.created_at < j.due_at THEN j.due_at END AS wanted_at,
    coalesce(j.due_at, CASE WHEN j.epoch <= 1 THEN j.run_at END) AS due, j.not_after, j.late,
    j.late_after_s,
    (SELECT min(coalesce(e.first_sent_at, e.permit_at, e.maybe_since,
            CASE WHEN 0 < e.sends OR e.state <> 'intended' THEN to_timestamp(0) END))
     FROM presswork.effects e WHERE e.job = j.id) AS begun
FROM presswork.jobs j
WHERE j.kind = ANY($1) AND j.state IN ('scheduled', 'ready', 'retrying', 'held')
ORDER BY j.run_at, j.id LIMIT $2";

fn planned(row: &PgRow) -> sqlx::Result<Planned> {
    Ok(Planned {
        job: JobId(row.try_get("id")?),
        at: row.try_get("due_at")?,
    })
}

fn waiting(row: &PgRow) -> sqlx::Result<Waiting> {
    Ok(Waiting {
        job: JobId(row.try_get("id")?),
        kind: row.try_get("kind")?,
        tenant: row.try_get("tenant")?,
        account: row.try_get("account")?,
        held: row.try_get("held")?,
        run_at: row.try_get("run_at")?,
        wanted_at: row.try_get("wanted_at")?,
        terms: Terms {
            due: row.try_get("due")?,
            not_after: row.try_get("not_after")?,
            late: optional_word(row, "late")?,
            late_after_s: row
                .try_get::<Option<i32>, _>("late_after_s")?
                .map(i32::unsigned_abs),
        },
        begun: row.try_get("begun")?,
    })
}

/// The jobs that a place is kept for.
pub async fn nearest(
    pools: &Pools,
    of: &Askers,
    ahead: Duration,
    limit: u32,
) -> Result<Vec<Planned>> {
    let one = match of.accounts.as_deref() {
        Some([one]) => Some(one),
        _ => None,
    };
    let look = || {
        let query = sqlx::query(match one {
            Some(_) => OF_ACCOUNT,
            None => OF_KINDS,
        });
        let query = query
            .bind(&of.kinds)
            .bind(KEPT_FOR.as_secs_f64())
            .bind(ahead.as_secs_f64())
            .bind(i64::from(limit));
        let query = match one {
            Some(one) => query.bind(one).bind(&of.tenant),
            None => query
                .bind(&of.accounts)
                .bind(&of.tenant)
                .bind(i64::from(LOOKED_AT)),
        };
        query.fetch_all(pools.planned())
    };
    let rows = pools.again(look).await?;
    let rows = rows.iter().map(planned);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

/// What waits for its turn, its time or a person.
pub async fn backlog(pools: &Pools, kinds: &[String], limit: u32) -> Result<Vec<Waiting>> {
    let asked = sqlx::query(BACKLOG).bind(kinds).bind(i64::from(limit));
    let rows = pools.call(asked.fetch_all(pools.main())).await?;
    let rows = rows.iter().map(waiting);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}
