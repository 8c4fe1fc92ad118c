//! Settle: transitions written down, each guarded by its lease's token or its version.

use sqlx::SqliteConnection;

use super::intake::audit;
use super::map::{failure, get, micros};
use super::media;
use super::open::told;
use crate::job::JobId;
use crate::ledger::door::{LedgerError, Result};
use crate::ledger::rows::{AttemptEnd, Guard, Settled, Settlement};
use crate::lifecycle::State;

/// Writes transitions, each under its guard.
pub async fn settle(
    conn: &mut SqliteConnection,
    now: i64,
    batch: &[Settlement],
) -> Result<Vec<Settled>> {
    if let Some(it) = batch.iter().find(|it| !it.transition.is_sound()) {
        let said = format!("job {}: no sound transition: {:?}", it.id, it.transition);
        return Err(LedgerError::Row(said));
    }
    let mut answers = Vec::with_capacity(batch.len());
    for it in batch {
        let done = change(conn, now, it).await?;
        if done {
            for text in [it.result.as_deref(), it.edit.as_deref()]
                .into_iter()
                .flatten()
            {
                media::hold(conn, now, it.id, text).await?;
            }
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
    // a job that goes on running (somebody asked to cancel it) keeps its lease; a revive (`reset`)
    // renews the age that the kind allows and lifts a `not_after` that is past: else what is brought
    // back after it expired would expire at once
    let running = t.to == State::Running;
    let dead = t.to == State::Dead;
    let row = sqlx::query(
        "UPDATE jobs SET
             state = CASE WHEN ?1 IN ('completed', 'cancelled') THEN 'dead' ELSE ?1 END,
             run_at = coalesce(?2, run_at),
             attempts = CASE WHEN ?3 THEN 0 ELSE attempts + ?4 END,
             crashes = ?5,
             held = ?6, cancel = ?7 OR (cancel AND NOT ?3 AND ?1 <> 'dead'),
             failure = coalesce(?8, failure), fingerprint = coalesce(?9, fingerprint),
             run = CASE WHEN ?10 THEN run END, token = CASE WHEN ?10 THEN token END,
             claimed_at = CASE WHEN ?10 THEN claimed_at END,
             ended_at = CASE WHEN ?11 THEN coalesce(ended_at, ?12) END,
             payload = coalesce(?13, payload), revision = revision + (?13 IS NOT NULL),
             expires_at = CASE WHEN ?3 THEN max(expires_at, ?12 + expires_at - created_at) ELSE expires_at END,
             not_after = CASE WHEN ?3 AND not_after <= ?12 THEN NULL ELSE not_after END,
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
    .bind(t.failure.as_ref().map(failure).transpose()?)
    .bind(&it.fingerprint)
    .bind(running)
    .bind(dead || t.archive)
    .bind(now)
    .bind(it.edit.as_deref())
    .bind(it.id.0)
    .bind(token)
    .bind(version)
    .fetch_optional(&mut *conn)
    .await
    .map_err(told)?;
    let Some(row) = row else { return Ok(false) };
    let key: Option<String> = get(&row, 2)?;
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
             version, failure, fingerprint, result, ended_at, archived_at)
         SELECT id, kind, lane, tenant, account, priority, key, payload, revision, created_at, run_at,
             not_after, expires_at, attempts_max, timeout_s, labels, traceparent, reply_to, ?, attempts, crashes, epoch,
             version, failure, fingerprint, ?, ended_at, ?
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
    .bind(it.failure.as_ref().map(failure).transpose()?)
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(())
}
