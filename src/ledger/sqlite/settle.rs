//! Settle: transitions written down, each guarded by its lease's token or its version.

use std::collections::HashSet;

use sqlx::SqliteConnection;

use super::intake::audit;
use super::map::{failure, get, json, micros};
use super::media;
use super::open::told;
use super::rows::{self, Statement};
use crate::job::JobId;
use crate::ledger::door::{LedgerError, Result};
use crate::ledger::rows::{AttemptEnd, Guard, Settled, Settlement};

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
    let mut answers = vec![Settled::Stale; batch.len()];
    let mut open: Vec<usize> = (0..batch.len()).collect();
    while !open.is_empty() {
        // of one job that is in the batch twice, the second after the first
        let mut seen = HashSet::new();
        let (round, later): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|it| seen.insert(batch[*it].id));
        open = later;
        let round: Vec<(usize, &Settlement)> = round.iter().map(|it| (*it, &batch[*it])).collect();
        let done = want(conn, &round).await?;
        let done: Vec<_> = round
            .into_iter()
            .filter(|it| done.contains(&it.0))
            .collect();
        change(conn, now).await?;
        note(conn, now, &done).await?;
        for (n, _) in done {
            answers[n] = Settled::Done;
        }
    }
    Ok(answers)
}

/// Fills `want`; which of the settlements stay in it.
async fn want(
    conn: &mut SqliteConnection,
    round: &[(usize, &Settlement)],
) -> Result<HashSet<usize>> {
    run(conn, sqlx::query("DELETE FROM want")).await?;
    rows::insert(conn, ("INSERT INTO want", 17, ""), round, |row, (n, it)| {
        let t = &it.transition;
        let (token, version) = match it.guard {
            Guard::Token(token) => (Some(token), None),
            Guard::Version(version) => (None, Some(version)),
        };
        let row = row.bind(i64::try_from(*n).unwrap_or(i64::MAX));
        let row = row.bind(it.id.0).bind(token).bind(version);
        let row = row.bind(t.to.as_str()).bind(t.run_at.map(micros));
        let row = row.bind(t.reset).bind(t.attempts).bind(t.crashes);
        let row = row.bind(t.held.map(|it| it.as_str())).bind(t.cancel);
        let row = row.bind(t.failure.as_ref().map(failure).transpose()?);
        let row = row.bind(&it.fingerprint).bind(it.edit.as_deref());
        Ok(row.bind(t.archive).bind(&it.result).bind(t.admitted))
    })
    .await?;
    let guarded = "DELETE FROM want WHERE NOT EXISTS (SELECT 1 FROM jobs j
        WHERE j.id = want.id AND (j.token = want.token OR j.version = want.version))";
    run(conn, sqlx::query(guarded)).await?;
    let left = sqlx::query("SELECT json_group_array(n) FROM want")
        .fetch_one(conn)
        .await
        .map_err(told)?;
    json(get(&left, 0)?)
}

/// A revive (`reset`) renews the age that the kind allows and lifts a `not_after` that is past: else what is
/// brought back after it expired would expire at once. What a person admits is done however late it is, or is
/// late from the time that it is put to. A job that goes on running (somebody asked to cancel
/// it) keeps its lease.
async fn change(conn: &mut SqliteConnection, now: i64) -> Result<()> {
    let keys = "UPDATE idempotency_keys SET ended_at = ?1 WHERE (tenant, kind, key) IN
        (SELECT j.tenant, j.kind, j.key FROM want w CROSS JOIN jobs j ON j.id = w.id
         WHERE w.archive AND j.key IS NOT NULL)";
    run(conn, sqlx::query(keys).bind(now)).await?;
    // out of the hot table, into the history
    let archived = "INSERT INTO finished_jobs (id, kind, lane, tenant, account, priority, key, payload, revision,
            created_at, run_at, not_after, expires_at, attempts_max, timeout_s, labels, traceparent, reply_to,
            state, attempts, crashes, epoch, version, failure, fingerprint, result, ended_at, archived_at)
        SELECT j.id, kind, lane, tenant, account, priority, key, coalesce(w.payload, j.payload),
            revision + (w.payload IS NOT NULL), created_at, coalesce(w.run_at, j.run_at), not_after, expires_at,
            attempts_max, timeout_s, labels, traceparent, reply_to, w.state,
            CASE WHEN w.reset THEN 0 ELSE j.attempts + w.attempts END, w.crashes, epoch, j.version + 1,
            coalesce(w.failure, j.failure), coalesce(w.fingerprint, j.fingerprint), w.result,
            coalesce(ended_at, ?1), ?1
        FROM want w CROSS JOIN jobs j ON j.id = w.id WHERE w.archive";
    run(conn, sqlx::query(archived).bind(now)).await?;
    let gone = "DELETE FROM jobs WHERE id IN (SELECT id FROM want WHERE archive)";
    run(conn, sqlx::query(gone)).await?;
    let stay = "UPDATE jobs SET
            state = w.state,
            run_at = coalesce(w.run_at, jobs.run_at),
            attempts = CASE WHEN w.reset THEN 0 ELSE jobs.attempts + w.attempts END,
            crashes = w.crashes,
            held = w.held,
            cancel = w.cancel OR (jobs.cancel AND NOT w.reset AND w.state <> 'dead'),
            failure = coalesce(w.failure, jobs.failure),
            fingerprint = coalesce(w.fingerprint, jobs.fingerprint),
            run = CASE WHEN w.state = 'running' THEN run END,
            token = CASE WHEN w.state = 'running' THEN jobs.token END,
            claimed_at = CASE WHEN w.state = 'running' THEN claimed_at END,
            ended_at = CASE WHEN w.state = 'dead' THEN coalesce(ended_at, ?1) END,
            payload = coalesce(w.payload, jobs.payload),
            revision = revision + (w.payload IS NOT NULL),
            expires_at = CASE WHEN w.reset THEN max(expires_at, ?1 + expires_at - created_at)
                WHEN w.admitted AND w.state = 'scheduled' THEN max(expires_at, w.run_at + expires_at - created_at)
                ELSE expires_at END,
            due_at = CASE WHEN w.admitted AND w.state = 'scheduled' THEN w.run_at ELSE due_at END,
            late = CASE WHEN w.admitted AND w.state = 'ready' THEN 'publish' ELSE late END,
            not_after = CASE WHEN w.reset AND not_after <= ?1 THEN NULL ELSE not_after END,
            version = jobs.version + 1
        FROM want w WHERE jobs.id = w.id AND NOT w.archive";
    run(conn, sqlx::query(stay).bind(now)).await
}

/// What belongs to the settlements that were written: the media they name, their attempts, who did it.
async fn note(conn: &mut SqliteConnection, now: i64, done: &[(usize, &Settlement)]) -> Result<()> {
    for (_, it) in done {
        let texts = [it.result.as_deref(), it.edit.as_deref()];
        for text in texts.into_iter().flatten() {
            media::hold(conn, now, it.id, text).await?;
        }
    }
    let attempts = done
        .iter()
        .filter_map(|(_, it)| Some((it.id, it.attempt.as_ref()?)));
    let attempts: Vec<(JobId, &AttemptEnd)> = attempts.collect();
    let into = "INSERT INTO attempts (job, epoch, number, run, host, began_at, ended_at, outcome, failure)";
    let statement = (into, 9, "ON CONFLICT DO NOTHING");
    rows::insert(conn, statement, &attempts, |row, (job, it)| {
        let row = row.bind(job.0).bind(it.epoch).bind(it.number).bind(it.run);
        let row = row.bind(&it.host).bind(micros(it.began_at));
        let row = row.bind(micros(it.ended_at)).bind(&it.outcome);
        Ok(row.bind(it.failure.as_ref().map(failure).transpose()?))
    })
    .await?;
    for why in done.iter().filter_map(|(_, it)| it.audit.as_ref()) {
        audit(conn, now, why).await?;
    }
    Ok(())
}

async fn run(conn: &mut SqliteConnection, statement: Statement<'_>) -> Result<()> {
    statement.execute(conn).await.map(drop).map_err(told)
}
