//! Housekeeping: what is past its keeping, dropped in pieces so small that no beat waits for long.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::map::{get, hex, text};
use super::open::told;
use crate::budget;
use crate::content::Guard;
use crate::job::JobId;
use crate::ledger::door::Result;
use crate::ledger::rows::CALLS_KEPT;

/// A call of `tidy` begins nothing more after this long: the rest is for the next call.
pub const BUDGET: Duration = Duration::from_secs(10);
/// Rows that one transaction deletes at most: a few milliseconds on the writing connection.
pub const CHUNK: u32 = 500;

/// Finished jobs that went into the history before `before`, oldest first: so many that they and all
/// that belongs to them fit a chunk, but one at least (see [`drop_jobs`]).
pub async fn past(conn: &mut SqliteConnection, before: i64) -> Result<Vec<JobId>> {
    let rows = sqlx::query(
        "SELECT id, 1 + (SELECT count(*) FROM attempts WHERE job = f.id)
                      + (SELECT count(*) FROM steps WHERE job = f.id)
                      + (SELECT count(*) FROM effects WHERE job = f.id)
                      + (SELECT count(*) FROM media_holds WHERE job = f.id)
         FROM finished_jobs f WHERE archived_at < ? ORDER BY archived_at LIMIT ?",
    )
    .bind(before)
    .bind(CHUNK)
    .fetch_all(conn)
    .await
    .map_err(told)?;
    let (mut ids, mut sum) = (Vec::new(), 0);
    for row in &rows {
        sum += get::<i64, _>(row, 1)?;
        if i64::from(CHUNK) < sum && !ids.is_empty() {
            break;
        }
        ids.push(JobId(get(row, 0)?));
    }
    Ok(ids)
}

/// Drops at most a chunk of what belongs to these jobs, and then the jobs where all of it went; how
/// many jobs. What one job has too much of goes in several calls.
pub async fn drop_jobs(conn: &mut SqliteConnection, ids: &[JobId]) -> Result<u64> {
    let ids = text(&ids.iter().map(hex).collect::<Vec<_>>())?;
    let mut left = u64::from(CHUNK);
    for sql in [
        "DELETE FROM attempts WHERE (job, epoch) IN (SELECT job, epoch FROM attempts
         WHERE job IN (SELECT unhex(value) FROM json_each(?)) LIMIT ?)",
        "DELETE FROM steps WHERE (job, revision, name) IN (SELECT job, revision, name FROM steps
         WHERE job IN (SELECT unhex(value) FROM json_each(?)) LIMIT ?)",
        "DELETE FROM effects WHERE seq IN (SELECT seq FROM effects
         WHERE job IN (SELECT unhex(value) FROM json_each(?)) LIMIT ?)",
        "DELETE FROM media_holds WHERE (digest, job) IN (SELECT digest, job FROM media_holds
         WHERE job IN (SELECT unhex(value) FROM json_each(?)) LIMIT ?)",
    ] {
        left = left.saturating_sub(delete(conn, sql, &ids, left).await?);
    }
    if left == 0 {
        return Ok(0);
    }
    let jobs =
        "DELETE FROM finished_jobs WHERE id IN (SELECT unhex(value) FROM json_each(?) LIMIT ?)";
    delete(conn, jobs, &ids, left).await
}

async fn delete(
    conn: &mut SqliteConnection,
    sql: &'static str,
    ids: &str,
    most: u64,
) -> Result<u64> {
    let done = sqlx::query(sql)
        .bind(ids)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .execute(conn)
        .await
        .map_err(told)?;
    Ok(done.rows_affected())
}

/// What was said so long ago (µs) no guard asks for any more.
#[expect(clippy::cast_possible_wrap, reason = "30 days")]
const SAID: i64 = Guard::WITHIN_MAX_S as i64 * 1_000_000;

/// Drops at most a chunk of the keys whose job ended before `before`, one of the results that are
/// offered no longer, one of what was said too long ago for any guard, and one of the call-backs that were
/// taken long ago; how many, and whether there may be more.
pub async fn drop_small(conn: &mut SqliteConnection, before: i64, now: i64) -> Result<(u64, bool)> {
    let (mut gone, mut more) = (0, false);
    let kept = i64::try_from(CALLS_KEPT.as_micros()).unwrap_or(i64::MAX);
    let counted = i64::try_from(budget::KEPT.as_micros()).unwrap_or(i64::MAX);
    for (sql, before) in [
        (
            "DELETE FROM idempotency_keys WHERE (tenant, kind, key) IN
                 (SELECT tenant, kind, key FROM idempotency_keys WHERE ended_at < ? LIMIT ?)",
            before,
        ),
        (
            "DELETE FROM results WHERE (tenant, request, job) IN
                 (SELECT tenant, request, job FROM results WHERE until < ? LIMIT ?)",
            now,
        ),
        (
            "DELETE FROM closures WHERE id IN (SELECT id FROM closures WHERE until < ? LIMIT ?)",
            now,
        ),
        (
            "DELETE FROM budget_changes WHERE name IN
                 (SELECT name FROM budget_changes WHERE until < ? LIMIT ?)",
            now,
        ),
        (
            "DELETE FROM budgets WHERE (name, whose) IN
                 (SELECT name, whose FROM budgets WHERE changed_at < ? LIMIT ?)",
            now.saturating_sub(counted),
        ),
        (
            "DELETE FROM contents WHERE (account, digest, job) IN
                 (SELECT account, digest, job FROM contents WHERE at < ? LIMIT ?)",
            now.saturating_sub(SAID),
        ),
        (
            "DELETE FROM calls WHERE (account, id) IN
                 (SELECT account, id FROM calls WHERE at < ? LIMIT ?)",
            now.saturating_sub(kept),
        ),
    ] {
        let done = sqlx::query(sql)
            .bind(before)
            .bind(CHUNK)
            .execute(&mut *conn)
            .await
            .map_err(told)?;
        gone += done.rows_affected();
        more |= done.rows_affected() == u64::from(CHUNK);
    }
    Ok((gone, more))
}

/// Drops at most a chunk of the runs whose lease was past before `before` and that hold nothing.
pub async fn drop_runs(conn: &mut SqliteConnection, before: i64) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM runs WHERE id IN
             (SELECT id FROM runs WHERE lease_until < ?
              AND id NOT IN (SELECT run FROM jobs WHERE state = 'running') LIMIT ?)",
    )
    .bind(before)
    .bind(CHUNK)
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(done.rows_affected())
}
