//! Due, claim, settle, reclaim: the hot path.

use std::sync::Arc;

use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::intake::audit;
use super::map::{self, get, job, job_columns, micros, text};
use super::open::told;
use crate::job::{Job, JobId, Priority, Progress};
use crate::ledger::{AttemptEnd, Claim, Guard, Hint, Result, Settled, Settlement};
use crate::lifecycle::State;

/// Due jobs of a lane: by priority, then the tenants' turns, then age.
pub async fn due(
    conn: &mut SqliteConnection,
    now: i64,
    lane: &str,
    kinds: &[String],
    limit: u32,
) -> Result<Vec<Hint>> {
    let rows = sqlx::query(
        "SELECT id, priority, tenant FROM (
             SELECT id, priority, tenant, run_at,
                    row_number() OVER (PARTITION BY priority, tenant ORDER BY run_at, id) AS turn
             FROM jobs
             WHERE lane = ? AND state IN ('scheduled', 'ready', 'retrying') AND run_at <= ?
               AND kind IN (SELECT value FROM json_each(?)))
         ORDER BY priority, turn, run_at, id LIMIT ?",
    )
    .bind(lane)
    .bind(now)
    .bind(text(&kinds)?)
    .bind(limit)
    .fetch_all(conn)
    .await
    .map_err(told)?;
    let hint = |row| {
        let priority = i16::try_from(get::<i64, _>(row, 1)?).unwrap_or(i16::MAX);
        let tenant: Arc<str> = get::<&str, _>(row, 2)?.into();
        Ok(Hint {
            id: JobId(get(row, 0)?),
            priority: Priority::of_rank(priority),
            tenant,
        })
    };
    rows.iter().map(hint).collect()
}

/// Takes leases by compare-and-set.
pub async fn claim(
    conn: &mut SqliteConnection,
    now: i64,
    claim: &Claim,
    ids: &[JobId],
) -> Result<Vec<Job>> {
    if let Some(generation) = claim.generation {
        let known = sqlx::query("SELECT generation FROM meta")
            .fetch_one(&mut *conn)
            .await
            .map_err(told)?;
        if get::<i64, _>(&known, 0)? != generation {
            return Ok(Vec::new());
        }
    }
    let mut jobs = Vec::with_capacity(ids.len());
    for id in ids {
        let row = sqlx::query(concat!(
            "UPDATE jobs SET state = 'running', run = ?, token = ?, claimed_at = ?, epoch = epoch + 1, version = version + 1
             WHERE id = ? AND token IS NULL AND state IN ('scheduled', 'ready', 'retrying') AND run_at <= ?
             RETURNING ",
            job_columns!(hot)
        ))
        .bind(claim.run)
        .bind(Uuid::new_v4())
        .bind(now)
        .bind(id.0)
        .bind(now)
        .fetch_optional(&mut *conn)
        .await
        .map_err(told)?;
        if let Some(row) = row {
            jobs.push(job(&row)?);
        }
    }
    Ok(jobs)
}

/// Takes leases of due jobs, never more than `concurrency` of the lane at once.
pub async fn claim_due(
    conn: &mut SqliteConnection,
    now: i64,
    who: &Claim,
    lane: &str,
    kinds: &[String],
    limit: u32,
    concurrency: Option<u32>,
) -> Result<Vec<Job>> {
    let row = sqlx::query("SELECT count(*) FROM jobs WHERE state = 'running' AND lane = ?")
        .bind(lane)
        .fetch_one(&mut *conn)
        .await
        .map_err(told)?;
    let running = u32::try_from(get::<i64, _>(&row, 0)?).unwrap_or(u32::MAX);
    let free = concurrency.map_or(u32::MAX, |it| it.saturating_sub(running));
    let due = due(conn, now, lane, kinds, limit.min(free)).await?;
    let ids: Vec<JobId> = due.iter().map(|it| it.id).collect();
    claim(conn, now, who, &ids).await
}

/// Writes transitions, each under its guard.
pub async fn settle(
    conn: &mut SqliteConnection,
    now: i64,
    batch: &[Settlement],
) -> Result<Vec<Settled>> {
    let mut answers = Vec::with_capacity(batch.len());
    for it in batch {
        let done = change(conn, now, it).await?;
        if done {
            if let Some(attempt) = &it.attempt {
                record(conn, it.id, attempt).await?;
            }
            if let Some(why) = &it.audit {
                audit(conn, now, why).await?;
            }
        }
        answers.push(if done { Settled::Done } else { Settled::Stale });
    }
    Ok(answers)
}

async fn change(conn: &mut SqliteConnection, now: i64, it: &Settlement) -> Result<bool> {
    let t = &it.transition;
    let (token, version) = match it.guard {
        Guard::Token(token) => (Some(token), None),
        Guard::Version(version) => (None, Some(version)),
    };
    // a job that goes on running (somebody asked to cancel it) keeps its lease
    let running = t.to == State::Running;
    let dead = t.to == State::Dead;
    let row = sqlx::query(
        "UPDATE jobs SET
             state = CASE WHEN ?1 IN ('completed', 'cancelled') THEN 'dead' ELSE ?1 END,
             run_at = coalesce(?2, run_at),
             attempts = CASE WHEN ?3 THEN 0 ELSE attempts + ?4 END,
             crashes = CASE WHEN ?3 THEN 0 ELSE crashes + ?5 END,
             held = ?6, cancel = ?7 OR (cancel AND NOT ?3 AND ?1 <> 'dead'),
             expires_at = CASE WHEN ?3 THEN max(expires_at, ?12 + (expires_at - created_at)) ELSE expires_at END,
             not_after = CASE WHEN ?3 AND not_after <= ?12 THEN NULL ELSE not_after END,
             failure = coalesce(?8, failure), fingerprint = coalesce(?9, fingerprint),
             run = CASE WHEN ?10 THEN run END, token = CASE WHEN ?10 THEN token END,
             claimed_at = CASE WHEN ?10 THEN claimed_at END, progress = CASE WHEN ?10 THEN progress END,
             ended_at = CASE WHEN ?11 THEN coalesce(ended_at, ?12) END,
             payload = coalesce(?13, payload), revision = revision + (?13 IS NOT NULL),
             version = version + 1
         WHERE id = ?14 AND (token = ?15 OR version = ?16)
         RETURNING tenant, kind, key",
    )
    .bind(t.to.as_str())
    .bind(t.run_at.map(micros))
    .bind(t.reset)
    .bind(t.attempts)
    .bind(t.crashes)
    .bind(t.held.map(|it| it.as_str()))
    .bind(t.cancel)
    .bind(t.failure.as_ref().map(text).transpose()?)
    .bind(&it.fingerprint)
    .bind(running)
    .bind(dead || t.archive)
    .bind(now)
    .bind(it.edit.as_ref().map(|(payload, _)| payload.to_string()))
    .bind(it.id.0)
    .bind(token)
    .bind(version)
    .fetch_optional(&mut *conn)
    .await
    .map_err(told)?;
    let Some(row) = row else { return Ok(false) };
    let key: Option<String> = get(&row, 2)?;
    if let (Some(key), Some((_, digest))) = (&key, &it.edit) {
        sqlx::query(
            "UPDATE idempotency_keys SET digest = ? WHERE tenant = ? AND kind = ? AND key = ?",
        )
        .bind(&digest.0[..])
        .bind(get::<&str, _>(&row, 0)?)
        .bind(get::<&str, _>(&row, 1)?)
        .bind(key)
        .execute(&mut *conn)
        .await
        .map_err(told)?;
    }
    if t.archive {
        archive(conn, now, it).await?;
        if let Some(key) = &key {
            sqlx::query("UPDATE idempotency_keys SET ended_at = ? WHERE tenant = ? AND kind = ? AND key = ?")
                .bind(now)
                .bind(get::<&str, _>(&row, 0)?)
                .bind(get::<&str, _>(&row, 1)?)
                .bind(key)
                .execute(conn)
                .await
                .map_err(told)?;
        }
    }
    Ok(true)
}

/// Out of the hot table, into the history.
async fn archive(conn: &mut SqliteConnection, now: i64, it: &Settlement) -> Result<()> {
    sqlx::query(
        "INSERT INTO finished_jobs (id, kind, lane, tenant, account, priority, key, payload, revision, created_at, run_at,
             not_after, expires_at, attempts_max, timeout_s, labels, traceparent, reply_to, state, attempts, crashes, epoch,
             version, failure, fingerprint, result, ended_at)
         SELECT id, kind, lane, tenant, account, priority, key, payload, revision, created_at, run_at,
             not_after, expires_at, attempts_max, timeout_s, labels, traceparent, reply_to, ?, attempts, crashes, epoch,
             version, failure, fingerprint, ?, ?
         FROM jobs WHERE id = ?",
    )
    .bind(it.transition.to.as_str())
    .bind(&it.result)
    .bind(now)
    .bind(it.id.0)
    .execute(&mut *conn)
    .await
    .map_err(told)?;
    sqlx::query("DELETE FROM jobs WHERE id = ?")
        .bind(it.id.0)
        .execute(conn)
        .await
        .map_err(told)?;
    Ok(())
}

async fn record(conn: &mut SqliteConnection, id: JobId, it: &AttemptEnd) -> Result<()> {
    sqlx::query(
        "INSERT INTO attempts (job, epoch, number, run, host, began_at, ended_at, outcome, failure)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(id.0)
    .bind(it.epoch)
    .bind(it.number)
    .bind(it.run)
    .bind(&it.host)
    .bind(micros(it.began_at))
    .bind(micros(it.ended_at))
    .bind(&it.outcome)
    .bind(it.failure.as_ref().map(text).transpose()?)
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(())
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

/// An id as [`lost`] compares it.
pub fn hex(id: &JobId) -> String {
    id.0.simple()
        .encode_upper(&mut Uuid::encode_buffer())
        .to_owned()
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
