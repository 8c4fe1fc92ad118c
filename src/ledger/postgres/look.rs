//! Looking: jobs, attempts, dead letters by their error, lanes, and who did what.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use uuid::Uuid;

use super::codec::{self, finished_columns, live_columns};
use super::pool::{Pools, explain};
use crate::job::{Job, JobId};
use crate::ledger::door::Result;
use crate::ledger::filter::{Filter, Group};
use crate::ledger::rows::{Attempt, Audit, Pause};
use crate::lifecycle::State;

const JOB: &str = concat!(
    "SELECT ",
    live_columns!(),
    " FROM presswork.jobs j WHERE j.id = $1
    UNION ALL SELECT ",
    finished_columns!(),
    " FROM presswork.finished_jobs f WHERE f.id = $1 LIMIT 1"
);

/// One job, unfinished or finished.
pub async fn job(pools: &Pools, id: JobId) -> Result<Option<Job>> {
    let query = sqlx::query(JOB).bind(id.0);
    let row = pools.call(query.fetch_optional(pools.main())).await?;
    row.as_ref().map(codec::job).transpose().map_err(explain)
}

/// The job of an idempotency key.
pub async fn job_of_key(
    pools: &Pools,
    tenant: &str,
    kind: &str,
    key: &str,
) -> Result<Option<JobId>> {
    let sql = "SELECT job FROM presswork.idempotency_keys
               WHERE tenant = $1 AND kind = $2 AND key = $3";
    let query = sqlx::query_scalar(sql).bind(tenant).bind(kind).bind(key);
    let id: Option<Uuid> = pools.call(query.fetch_optional(pools.main())).await?;
    Ok(id.map(JobId))
}

const ATTEMPTS: &str = "
SELECT record FROM (
    SELECT record, n FROM presswork.attempts WHERE job = $1
    UNION ALL
    SELECT h.record, h.n FROM presswork.finished_jobs f,
        unnest(f.history) WITH ORDINALITY AS h(record, n) WHERE f.id = $1
) a ORDER BY n";

/// The attempts of a job, oldest first.
pub async fn attempts(pools: &Pools, id: JobId) -> Result<Vec<Attempt>> {
    let query = sqlx::query_scalar(ATTEMPTS).bind(id.0);
    let records: Vec<String> = pools.call(query.fetch_all(pools.main())).await?;
    let attempts = records.iter().map(|it| codec::attempt(it));
    attempts.collect::<sqlx::Result<_>>().map_err(explain)
}

/// What a filter lets through, but for states and times: `$1` to `$6`.
macro_rules! filtered {
    ($table:literal) => {
        concat!(
            "($1::text IS NULL OR ",
            $table,
            ".kind = $1) AND ($2::text IS NULL OR ",
            $table,
            ".lane = $2) AND ($3::text IS NULL OR ",
            $table,
            ".account = $3) AND ($4::text IS NULL OR ",
            $table,
            ".tenant = $4) AND ($5::text IS NULL OR (",
            $table,
            ".failure::json ->> 'code') = $5 OR strpos(",
            $table,
            ".failure::json ->> 'message', $5) > 0) AND ($6::text IS NULL OR ",
            $table,
            ".fingerprint = $6)"
        )
    };
}

/// Three branches, each cut off by itself, so that each can walk an index of its own: the
/// unfinished and the finished ones by id (their time), the dead ones by their end.
const JOBS: &str = concat!(
    "(SELECT ",
    live_columns!(),
    ", j.created_at AS told FROM presswork.jobs j
      WHERE j.state <> 'dead' AND j.state = ANY($7) AND ",
    filtered!("j"),
    " AND ($8::timestamptz IS NULL OR j.created_at < $8)
      AND ($9::timestamptz IS NULL OR $9 <= j.created_at)
      ORDER BY j.id DESC LIMIT $10)
    UNION ALL (SELECT ",
    live_columns!(),
    ", j.ended_at AS told FROM presswork.jobs j
      WHERE j.state = 'dead' AND 'dead' = ANY($7) AND ",
    filtered!("j"),
    " AND ($8::timestamptz IS NULL OR j.ended_at < $8)
      AND ($9::timestamptz IS NULL OR $9 <= j.ended_at)
      ORDER BY j.ended_at DESC, j.id DESC LIMIT $10)
    UNION ALL (SELECT ",
    finished_columns!(),
    ", f.created_at AS told FROM presswork.finished_jobs f
      WHERE f.state <> 'dead' AND f.state = ANY($7) AND ",
    filtered!("f"),
    " AND ($8::timestamptz IS NULL OR f.created_at < $8)
      AND ($9::timestamptz IS NULL OR $9 <= f.created_at)
      ORDER BY f.id DESC LIMIT $10)
    ORDER BY told DESC, id DESC LIMIT $10"
);

fn with_filter<'q>(
    sql: &'static str,
    filter: &'q Filter,
) -> Query<'q, sqlx::Postgres, PgArguments> {
    let states = filter.let_through().into_iter().map(State::as_str);
    let states: Vec<&str> = states.collect();
    sqlx::query(sql)
        .bind(&filter.kind)
        .bind(&filter.lane)
        .bind(&filter.account)
        .bind(&filter.tenant)
        .bind(&filter.error)
        .bind(&filter.fingerprint)
        .bind(states)
        .bind(filter.before)
        .bind(filter.after)
        .bind(i64::from(filter.most()))
}

/// Jobs that a filter lets through.
pub async fn jobs(pools: &Pools, filter: &Filter) -> Result<Vec<Job>> {
    let query = with_filter(JOBS, filter);
    let rows = pools.call(query.fetch_all(pools.main())).await?;
    let rows = rows.iter().map(codec::job);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

const GROUPS: &str = concat!(
    "SELECT coalesce(j.fingerprint, '') AS fingerprint, j.kind,
            (array_agg(j.failure ORDER BY j.ended_at DESC))[1] AS failure, count(*) AS count,
            min(j.ended_at) AS first, max(j.ended_at) AS last
    FROM presswork.jobs j
    WHERE j.state = 'dead' AND (cardinality($7::text[]) = 0 OR 'dead' = ANY($7)) AND ",
    filtered!("j"),
    " AND ($8::timestamptz IS NULL OR j.ended_at < $8)
      AND ($9::timestamptz IS NULL OR $9 <= j.ended_at)
    GROUP BY coalesce(j.fingerprint, ''), j.kind
    ORDER BY count DESC, last DESC LIMIT $10"
);

/// Dead letters by the group of their error.
pub async fn groups(pools: &Pools, filter: &Filter) -> Result<Vec<Group>> {
    let query = with_filter(GROUPS, filter);
    let rows = pools.call(query.fetch_all(pools.main())).await?;
    let read = |row: &PgRow| {
        let count: i64 = row.try_get("count")?;
        Ok(Group {
            fingerprint: row.try_get("fingerprint")?,
            kind: row.try_get("kind")?,
            failure: codec::optional_json(row, "failure")?,
            count: count.unsigned_abs(),
            first: row.try_get("first")?,
            last: row.try_get("last")?,
        })
    };
    let rows = rows.iter().map(read);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

/// Jobs by lane and state.
pub async fn counts(pools: &Pools) -> Result<BTreeMap<(String, State), u64>> {
    let sql = "SELECT lane, state, count(*) AS count FROM presswork.jobs GROUP BY lane, state";
    let rows = pools.call(sqlx::query(sql).fetch_all(pools.main())).await?;
    let read = |row: &PgRow| {
        let count: i64 = row.try_get("count")?;
        let state = codec::word(row, "state")?;
        Ok(((row.try_get("lane")?, state), count.unsigned_abs()))
    };
    let rows = rows.iter().map(read);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

/// Lanes that are paused.
pub async fn paused(pools: &Pools) -> Result<Vec<Pause>> {
    let query = sqlx::query("SELECT lane, reason, by, at FROM presswork.lanes ORDER BY lane");
    let rows = pools.call(query.fetch_all(pools.main())).await?;
    let rows = rows.iter().map(codec::pause);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

const PAUSE: &str = "
WITH noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    VALUES ($1, $2, $3, $4, presswork.now())
)
INSERT INTO presswork.lanes (lane, reason, by, at) VALUES ($5, $6, $7, $8)
ON CONFLICT (lane) DO UPDATE
SET reason = excluded.reason, by = excluded.by, at = excluded.at";

const RESUME: &str = "
WITH noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    VALUES ($1, $2, $3, $4, presswork.now())
)
DELETE FROM presswork.lanes WHERE lane = $5";

/// Pauses a lane or lets it go on.
pub async fn pause(pools: &Pools, lane: &str, pause: Option<&Pause>, audit: &Audit) -> Result<()> {
    let query = || {
        let query = sqlx::query(if pause.is_some() { PAUSE } else { RESUME })
            .bind(codec::plain(&audit.actor))
            .bind(codec::plain(&audit.action))
            .bind(audit.job.map(|it| it.0))
            .bind(codec::plain(&audit.detail))
            .bind(codec::plain(lane));
        let query = match pause {
            None => query,
            Some(it) => query
                .bind(codec::plain(&it.reason))
                .bind(codec::plain(&it.by))
                .bind(it.at),
        };
        query.execute(pools.main())
    };
    pools.again(query).await.map(|_| ())
}

/// Who did what, newest first.
pub async fn audit(pools: &Pools, job: Option<JobId>, limit: u32) -> Result<Vec<Audit>> {
    let sql = "SELECT actor, action, job, detail, at FROM presswork.audit
               WHERE $1::uuid IS NULL OR job = $1 ORDER BY n DESC LIMIT $2";
    let query = sqlx::query(sql)
        .bind(job.map(|it| it.0))
        .bind(i64::from(limit));
    let rows = pools.call(query.fetch_all(pools.main())).await?;
    let rows = rows.iter().map(codec::audit);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}
