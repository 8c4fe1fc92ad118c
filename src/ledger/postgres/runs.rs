//! Runs of the daemon: their leases, and what they must notice.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::codec;
use super::codec::seconds;
use super::pool::{Pools, explain};
use super::promotion::note_fork;
use crate::clock::Time;
use crate::job::JobId;
use crate::ledger::door::Result;
use crate::ledger::rows::{Control, Generation, Run};

const BEGIN: &str = "
INSERT INTO presswork.workers (run, host, boot, pid, version, began_at, lease_until, heard)
VALUES ($1, $2, $3, $4, $5, $6, presswork.now() + $7 * interval '1 second', presswork.timeline())
ON CONFLICT (run) DO NOTHING";

/// Enters a run.
pub async fn begin_run(pools: &Pools, run: &Run, lease: Duration) -> Result<()> {
    let query = sqlx::query(BEGIN)
        .bind(run.id)
        .bind(codec::plain(&run.host))
        .bind(run.boot.as_deref().map(codec::plain))
        .bind(codec::int(run.pid))
        .bind(codec::plain(&run.version))
        .bind(run.began_at)
        .bind(seconds(lease));
    pools.call(query.execute(pools.main())).await.map(|_| ())
}

/// Before the first beat on a promoted standby overwrites the last one that it knows of, that is noted.
const BEAT: &str = concat!(
    "WITH found AS (",
    note_fork!(),
    ")
UPDATE presswork.workers w
SET lease_until = clock.now + $3 * interval '1 second', jobs = $2,
    before_at = w.beat_at, beat_at = clock.now
FROM (SELECT presswork.now() AS now) clock
WHERE run = $1 AND NOT ended
RETURNING lease_until"
);

/// Renews a run's lease.
pub async fn beat(
    pools: &Pools,
    run: Uuid,
    jobs: &[JobId],
    lease: Duration,
) -> Result<Option<Time>> {
    let jobs: Vec<Uuid> = jobs.iter().map(|it| it.0).collect();
    let query = sqlx::query_scalar(BEAT)
        .bind(run)
        .bind(jobs)
        .bind(seconds(lease));
    pools.call(query.fetch_optional(pools.planned())).await
}

const END: &str = "
UPDATE presswork.workers
SET ended = true, lease_until = least(lease_until, presswork.now()), jobs = '{}',
    ended_on = presswork.timeline()
WHERE run = $1 AND NOT ended";

/// Ends a run's lease at once, for good.
pub async fn end_run(pools: &Pools, run: Uuid) -> Result<()> {
    let query = sqlx::query(END).bind(run);
    pools.call(query.execute(pools.main())).await.map(|_| ())
}

/// The runs whose lease isn't past.
pub async fn live_runs(pools: &Pools) -> Result<Vec<Run>> {
    let sql = "SELECT run, host, boot, pid, version, began_at FROM presswork.workers
               WHERE NOT ended AND presswork.now() < lease_until ORDER BY began_at, run";
    let rows = pools.call(sqlx::query(sql).fetch_all(pools.main())).await?;
    let rows = rows.iter().map(codec::run);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

/// When a run's lease ends.
pub async fn lease(pools: &Pools, run: Uuid) -> Result<Option<Time>> {
    let sql = "SELECT lease_until FROM presswork.workers WHERE run = $1 AND NOT ended";
    let query = sqlx::query_scalar(sql).bind(run);
    pools.call(query.fetch_optional(pools.main())).await
}

const CONTROL: &str = "
SELECT ARRAY(SELECT id FROM presswork.jobs
             WHERE cancel AND token IS NOT NULL AND run = $1 ORDER BY id) AS cancels,
       ARRAY(SELECT lane FROM presswork.lanes ORDER BY lane) AS paused,
       ARRAY(SELECT json_build_object(
                 'id', id, 'cause', cause, 'reason', reason, 'actor', actor, 'since', since, 'until', until,
                 'scope', json_build_object(
                     'platform', nullif(platform, ''), 'account', nullif(account, ''),
                     'tenant', nullif(tenant, ''), 'label', nullif(label, ''), 'kind', nullif(kind, '')))::text
             FROM presswork.closures WHERE until IS NULL OR presswork.now() < until
             ORDER BY since, id) AS closures,
       generation,
       (SELECT count(*)::int4 FROM presswork.workers
        WHERE NOT ended AND presswork.now() < lease_until) AS live
FROM presswork.meta";

/// What a daemon must notice within a second.
pub async fn control(pools: &Pools, run: Uuid) -> Result<Control> {
    let read = |row: &PgRow| {
        let cancels: Vec<Uuid> = row.try_get("cancels")?;
        let closures: Vec<String> = row.try_get("closures")?;
        let closures = closures.iter().map(|it| codec::read_json("closures", it));
        Ok(Control {
            cancels: cancels.into_iter().map(JobId).collect(),
            paused: row.try_get("paused")?,
            closures: closures.collect::<sqlx::Result<_>>()?,
            generation: row.try_get("generation")?,
            live: u32::try_from(row.try_get::<i32, _>("live")?).unwrap_or(0),
        })
    };
    let query = sqlx::query(CONTROL).bind(run);
    let row = pools.call(query.fetch_one(pools.main())).await?;
    read(&row).map_err(explain)
}

/// The queue's generation.
pub async fn generation(pools: &Pools) -> Result<Generation> {
    let sql = "SELECT generation, generation_server FROM presswork.meta";
    let row = pools.call(sqlx::query(sql).fetch_one(pools.main())).await?;
    let read = |row: &PgRow| {
        Ok(Generation {
            number: row.try_get("generation")?,
            server: row.try_get("generation_server")?,
        })
    };
    read(&row).map_err(explain)
}

const NEXT_GENERATION: &str = "
UPDATE presswork.meta SET generation = generation + 1, generation_server = $2
WHERE generation = $1
RETURNING generation";

/// Counts the generation on.
pub async fn next_generation(pools: &Pools, from: i64, server: &str) -> Result<Option<i64>> {
    let query = sqlx::query_scalar(NEXT_GENERATION)
        .bind(from)
        .bind(codec::plain(server));
    pools.call(query.fetch_optional(pools.main())).await
}
