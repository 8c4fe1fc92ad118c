//! Claims, and what was lost on the way.

use std::collections::HashMap;

use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::due::{Look, entries};
use super::map::{self, get, hex, job, job_columns, text};
use super::open::told;
use crate::job::{Job, JobId, Progress};
use crate::ledger::door::Result;
use crate::ledger::rows::Claim;

/// Takes leases by compare-and-set.
pub async fn claim(
    conn: &mut SqliteConnection,
    now: i64,
    claim: &Claim,
    ids: &[JobId],
) -> Result<Vec<Job>> {
    let room = room(conn, now, claim).await?;
    take(conn, now, claim, ids, room).await
}

/// Takes leases of due jobs.
pub async fn claim_due(
    conn: &mut SqliteConnection,
    now: i64,
    claim: &Claim,
    limit: u32,
) -> Result<Vec<Job>> {
    let room = room(conn, now, claim).await?;
    let limit = limit.min(room);
    let look = Look::at(now, &claim.kinds, &claim.shut, &claim.fair, limit)?;
    let due = look.due(conn, &claim.lane).await?;
    let ids: Vec<JobId> = due.iter().map(|it| it.id).collect();
    take(conn, now, claim, &ids, room).await
}

/// How many jobs of the lane may be taken: none by a run that is over, or for an old generation.
async fn room(conn: &mut SqliteConnection, now: i64, claim: &Claim) -> Result<u32> {
    let row = sqlx::query(
        "SELECT EXISTS (SELECT 1 FROM runs WHERE id = ?1 AND ended = 0 AND ?2 < lease_until)
                AND (?3 IS NULL OR (SELECT generation FROM meta) <= ?3)",
    )
    .bind(claim.run)
    .bind(now)
    .bind(claim.generation)
    .fetch_one(&mut *conn)
    .await
    .map_err(told)?;
    if !get::<bool, _>(&row, 0)? {
        return Ok(0);
    }
    let Some(concurrency) = claim.concurrency else {
        return Ok(u32::MAX);
    };
    let row = sqlx::query("SELECT count(*) FROM jobs WHERE state = 'running' AND lane = ?")
        .bind(&claim.lane)
        .fetch_one(conn)
        .await
        .map_err(told)?;
    let running = u32::try_from(get::<i64, _>(&row, 0)?).unwrap_or(u32::MAX);
    Ok(concurrency.saturating_sub(running))
}

async fn take(
    conn: &mut SqliteConnection,
    now: i64,
    claim: &Claim,
    ids: &[JobId],
    room: u32,
) -> Result<Vec<Job>> {
    let wanted: Vec<String> = ids.iter().map(hex).collect();
    if claim.shut.is_everything() {
        return Ok(vec![]);
    }
    // a token is 16 bytes that nobody else has
    let rows = sqlx::query(concat!(
        "UPDATE jobs SET state = 'running', run = ?1, token = randomblob(16), claimed_at = ?2, epoch = epoch + 1,
                         version = version + 1, progress = NULL
         WHERE id IN (SELECT j.id FROM json_each(?3) w CROSS JOIN jobs j ON j.id = unhex(w.value)
                      WHERE j.token IS NULL AND j.state IN ('scheduled', 'ready', 'retrying') AND j.run_at <= ?2
                        AND +j.lane = ?4 AND j.kind IN (SELECT value FROM json_each(?5))
                        AND NOT EXISTS (
                            SELECT 1 FROM json_each(?7) s
                            WHERE s.value ->> 0 IN ('', j.account) AND s.value ->> 1 IN ('', j.tenant)
                              AND s.value ->> 2 IN ('', j.kind)
                              AND (s.value ->> 3 = '' OR instr(j.labels, s.value ->> 3)
                                   OR (s.value ->> 3 = char(1) AND (j.created_at < j.due_at) IS NOT TRUE)))
                      ORDER BY w.key LIMIT ?6)
         RETURNING ",
        job_columns!(hot)
    ))
    .bind(claim.run)
    .bind(now)
    .bind(text(&wanted)?)
    .bind(&claim.lane)
    .bind(text(&claim.kinds)?)
    .bind(room)
    .bind(entries(&claim.shut)?)
    .fetch_all(conn)
    .await
    .map_err(told)?;
    // `RETURNING` keeps no order: that of the hints is priority and fairness
    let place: HashMap<JobId, usize> = ids.iter().copied().zip(0..).collect();
    let mut jobs = rows.iter().map(job).collect::<Result<Vec<_>>>()?;
    jobs.sort_by_key(|it| place.get(&it.id).copied());
    Ok(jobs)
}

/// Running jobs whose owner is dead, or no longer names them.
pub async fn lost(conn: &mut SqliteConnection, now: i64, limit: u32) -> Result<Vec<Job>> {
    let rows = sqlx::query(concat!(
        "WITH lost AS MATERIALIZED (
             SELECT j.id AS lost_id FROM jobs j LEFT JOIN runs r ON r.id = j.run
             WHERE j.state = 'running'
               AND (r.id IS NULL OR r.ended = 1 OR r.lease_until < ?1
                    OR (j.claimed_at < r.named_at AND hex(j.id) NOT IN (SELECT value FROM json_each(r.named))))
             LIMIT ?2)
         SELECT ",
        job_columns!(hot),
        " FROM jobs WHERE id IN (SELECT lost_id FROM lost) ORDER BY id"
    ))
    .bind(now)
    .bind(limit)
    .fetch_all(conn)
    .await
    .map_err(told)?;
    rows.iter().map(job).collect()
}

/// Waiting jobs that are too old.
pub async fn expired(conn: &mut SqliteConnection, now: i64, limit: u32) -> Result<Vec<Job>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        job_columns!(hot),
        " FROM jobs WHERE state IN ('waiting', 'scheduled', 'ready', 'retrying', 'held')
            AND min(expires_at, coalesce(not_after, expires_at)) < ? LIMIT ?"
    ))
    .bind(now)
    .bind(limit)
    .fetch_all(conn)
    .await
    .map_err(told)?;
    rows.iter().map(job).collect()
}

/// How far running attempts are.
pub async fn progress(
    conn: &mut SqliteConnection,
    batch: &[(JobId, Uuid, Progress)],
) -> Result<()> {
    for (id, token, progress) in batch {
        sqlx::query("UPDATE jobs SET progress = ? WHERE id = ? AND token = ?")
            .bind(text(progress)?)
            .bind(id.0)
            .bind(token)
            .execute(&mut *conn)
            .await
            .map_err(told)?;
    }
    Ok(())
}

/// The running jobs of a lane and their runs.
pub async fn running(conn: &mut SqliteConnection, lane: &str) -> Result<Vec<(JobId, Uuid)>> {
    let rows = sqlx::query("SELECT id, run FROM jobs WHERE state = 'running' AND lane = ?")
        .bind(lane)
        .fetch_all(conn)
        .await
        .map_err(told)?;
    rows.iter()
        .map(|row| Ok((JobId(get(row, 0)?), row.try_get(1).map_err(told)?)))
        .collect()
}

/// One job, unfinished or finished.
pub async fn one(conn: &mut SqliteConnection, id: JobId) -> Result<Option<Job>> {
    let hot = sqlx::query(concat!(
        "SELECT ",
        job_columns!(hot),
        " FROM jobs WHERE id = ?"
    ))
    .bind(id.0)
    .fetch_optional(&mut *conn)
    .await
    .map_err(told)?;
    if let Some(row) = hot {
        return map::job(&row).map(Some);
    }
    let finished = sqlx::query(concat!(
        "SELECT ",
        job_columns!(finished),
        " FROM finished_jobs WHERE id = ?"
    ))
    .bind(id.0)
    .fetch_optional(conn)
    .await
    .map_err(told)?;
    finished.as_ref().map(map::job).transpose()
}
