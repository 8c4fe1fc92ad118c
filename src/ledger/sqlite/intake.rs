//! Jobs in: under their keys, all or nothing; and what couldn't be accepted.

use std::collections::BTreeMap;

use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::map::{get, micros, text};
use super::media;
use super::open::told;
use crate::content::{Reaction, Said};
use crate::job::{JobId, NewJob};
use crate::ledger::door::{LedgerError, Result, Together};
use crate::ledger::rows::{Acceptance, Audit, Quarantined, Reason};

/// Writes jobs down under their idempotency keys; what has none is known by its id.
pub async fn accept(
    conn: &mut SqliteConnection,
    now: i64,
    jobs: &[NewJob],
) -> Result<Vec<Acceptance>> {
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        refuse_nul(job)?;
        let known = match &job.key {
            Some(key) => taken(conn, job, key).await?,
            None => accepted(conn, job).await?,
        };
        answers.push(match known {
            Some(it) => it,
            None => new(conn, now, job).await?,
        });
    }
    Ok(answers)
}

/// As [`accept`], all or none.
pub async fn accept_together(
    conn: &mut SqliteConnection,
    now: i64,
    jobs: &[NewJob],
) -> Result<Together> {
    async fn run(conn: &mut SqliteConnection, sql: &'static str) -> Result<()> {
        let done = sqlx::query(sql).execute(conn).await;
        done.map(drop).map_err(told)
    }
    run(conn, "SAVEPOINT together").await?;
    // an error undoes the whole transaction
    let answers = accept(conn, now, jobs).await?;
    let refused = answers
        .iter()
        .position(|it| matches!(it, Acceptance::Conflict { .. } | Acceptance::Repeats { .. }));
    if refused.is_some() {
        run(conn, "ROLLBACK TO together").await?;
    }
    run(conn, "RELEASE together").await?;
    Ok(match refused {
        None => Together::Written(answers),
        Some(at) => Together::Refused {
            at,
            why: answers[at].clone(),
        },
    })
}

/// Postgres can't keep it, and a ledger that can would make the two differ. (Labels are kept as
/// JSON, which escapes it.)
fn refuse_nul(job: &NewJob) -> Result<()> {
    let mut maybe = [&job.account, &job.key, &job.traceparent, &job.reply_to]
        .into_iter()
        .flatten();
    let mut plain = [&*job.kind, &job.lane, &job.tenant, &job.payload].into_iter();
    if maybe.any(|it| it.contains('\0')) || plain.any(|it| it.contains('\0')) {
        return Err(LedgerError::Row("a text holds a NUL character".to_owned()));
    }
    Ok(())
}

/// The same entry, taken twice: its acknowledgement was lost.
async fn accepted(conn: &mut SqliteConnection, job: &NewJob) -> Result<Option<Acceptance>> {
    let row = sqlx::query(
        "SELECT 1 FROM jobs WHERE id = ?1 UNION ALL SELECT 1 FROM finished_jobs WHERE id = ?1",
    )
    .bind(job.id.0)
    .fetch_optional(conn)
    .await
    .map_err(told)?;
    let options = job.options.clone();
    Ok(row.map(|_| Acceptance::Same {
        id: job.id,
        options,
    }))
}

/// Takes the key for the job, or says who has it.
async fn taken(conn: &mut SqliteConnection, job: &NewJob, key: &str) -> Result<Option<Acceptance>> {
    let taken = sqlx::query(
        "INSERT INTO idempotency_keys (tenant, kind, key, job, digest, options) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT DO NOTHING",
    )
    .bind(&job.tenant)
    .bind(&job.kind)
    .bind(key)
    .bind(job.id.0)
    .bind(&job.digest.0[..])
    .bind(&job.options)
    .execute(&mut *conn)
    .await
    .map_err(told)?;
    if taken.rows_affected() == 1 {
        return Ok(None);
    }
    let row = sqlx::query("SELECT job, digest, options FROM idempotency_keys WHERE tenant = ? AND kind = ? AND key = ?")
        .bind(&job.tenant)
        .bind(&job.kind)
        .bind(key)
        .fetch_one(conn)
        .await
        .map_err(told)?;
    let id = JobId(get::<Uuid, _>(&row, 0)?);
    Ok(Some(if get::<&[u8], _>(&row, 1)? == job.digest.0 {
        Acceptance::Same {
            id,
            options: get(&row, 2)?,
        }
    } else {
        Acceptance::Conflict { id }
    }))
}

/// Writes a job down, unless its account's guard refuses what it says.
async fn new(conn: &mut SqliteConnection, now: i64, job: &NewJob) -> Result<Acceptance> {
    let said = job.said.as_ref();
    let repeats = match said.filter(|it| !it.again) {
        Some(it) => repeats(conn, now, job, it).await?,
        None => None,
    };
    let refuses = said.is_some_and(|it| it.guard.reaction == Reaction::Refuse);
    if let Some(id) = repeats.filter(|_| refuses) {
        if let Some(key) = &job.key {
            // it was taken for a job that there won't be
            sqlx::query("DELETE FROM idempotency_keys WHERE tenant = ? AND kind = ? AND key = ?")
                .bind(&job.tenant)
                .bind(&job.kind)
                .bind(key)
                .execute(conn)
                .await
                .map_err(told)?;
        }
        return Ok(Acceptance::Repeats { id });
    }
    media::hold(conn, now, job.id, &job.payload).await?;
    if let Some(it) = said {
        sqlx::query(
            "INSERT INTO contents (account, digest, job, at, again) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(&job.account)
        .bind(&it.digest.0[..])
        .bind(job.id.0)
        .bind(now)
        .bind(it.again)
        .execute(&mut *conn)
        .await
        .map_err(told)?;
    }
    let due = insert(conn, now, job).await?;
    let id = job.id;
    Ok(Acceptance::New { id, due, repeats })
}

/// The last job that says the same for the same account within its guard's window, and wasn't called
/// off.
async fn repeats(
    conn: &mut SqliteConnection,
    now: i64,
    job: &NewJob,
    said: &Said,
) -> Result<Option<JobId>> {
    let Some(within_s) = said.guard.looks_back_s() else {
        return Ok(None);
    };
    let row = sqlx::query(
        "SELECT c.job FROM contents c WHERE c.account = ? AND c.digest = ? AND c.at > ?
             AND (EXISTS (SELECT 1 FROM jobs j WHERE j.id = c.job AND j.state <> 'dead')
                  OR EXISTS (SELECT 1 FROM finished_jobs f WHERE f.id = c.job AND f.state = 'completed'))
         ORDER BY c.at DESC, c.job DESC LIMIT 1",
    )
    .bind(&job.account)
    .bind(&said.digest.0[..])
    .bind(now.saturating_sub(i64::from(within_s) * 1_000_000))
    .fetch_optional(conn)
    .await
    .map_err(told)?;
    row.map(|it| Ok(JobId(get(&it, 0)?))).transpose()
}

/// Enters a job; whether it is due at once.
async fn insert(conn: &mut SqliteConnection, now: i64, job: &NewJob) -> Result<bool> {
    let run_at = job.run_at.map_or(now, micros);
    let due = run_at <= now;
    let expires_at = run_at.max(now) + i64::from(job.age_max_s) * 1_000_000;
    sqlx::query(
        "INSERT INTO jobs (id, kind, lane, tenant, account, priority, key, payload, created_at, run_at, not_after,
             expires_at, attempts_max, timeout_s, labels, traceparent, reply_to, state)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(job.id.0)
    .bind(&job.kind)
    .bind(&job.lane)
    .bind(&job.tenant)
    .bind(&job.account)
    .bind(job.priority.rank())
    .bind(&job.key)
    .bind(&*job.payload)
    .bind(now)
    .bind(run_at)
    .bind(job.not_after.map(micros))
    .bind(expires_at)
    .bind(job.attempts_max)
    .bind(job.timeout_s)
    .bind(text(&job.labels)?)
    .bind(&job.traceparent)
    .bind(&job.reply_to)
    .bind(if due { "ready" } else { "scheduled" })
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(due)
}

/// Keeps what couldn't be accepted.
pub async fn quarantine(conn: &mut SqliteConnection, entries: &[Quarantined]) -> Result<()> {
    for entry in entries {
        sqlx::query(
            "INSERT INTO quarantine (id, door, at, reason, message, kind, bytes) VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT DO NOTHING",
        )
        .bind(entry.id.0)
        .bind(&entry.door)
        .bind(micros(entry.at))
        .bind(entry.reason.as_str())
        .bind(&entry.message)
        .bind(&entry.kind)
        .bind(&entry.bytes)
        .execute(&mut *conn)
        .await
        .map_err(told)?;
    }
    Ok(())
}

/// Gives an entry another reason, if it still has this one.
pub async fn requarantine(
    conn: &mut SqliteConnection,
    from: Reason,
    entry: &Quarantined,
) -> Result<bool> {
    let changed =
        sqlx::query("UPDATE quarantine SET reason = ?, message = ? WHERE id = ? AND reason = ?")
            .bind(entry.reason.as_str())
            .bind(&entry.message)
            .bind(entry.id.0)
            .bind(from.as_str())
            .execute(conn)
            .await
            .map_err(told)?;
    Ok(0 < changed.rows_affected())
}

/// Takes an entry out of the quarantine.
pub async fn unquarantine(
    conn: &mut SqliteConnection,
    now: i64,
    id: JobId,
    why: &Audit,
) -> Result<bool> {
    let gone = sqlx::query("DELETE FROM quarantine WHERE id = ?")
        .bind(id.0)
        .execute(&mut *conn)
        .await
        .map_err(told)?;
    if gone.rows_affected() == 0 {
        return Ok(false);
    }
    audit(conn, now, why).await?;
    Ok(true)
}

/// Writes down who did what.
pub async fn audit(conn: &mut SqliteConnection, now: i64, audit: &Audit) -> Result<()> {
    sqlx::query("INSERT INTO audit (at, actor, action, job, detail) VALUES (?, ?, ?, ?, ?)")
        .bind(now)
        .bind(&audit.actor)
        .bind(&audit.action)
        .bind(audit.job.map(|it| it.0))
        .bind(&audit.detail)
        .execute(conn)
        .await
        .map_err(told)?;
    Ok(())
}

/// The jobs of a lane and state, counted.
pub async fn counts(
    conn: &mut SqliteConnection,
) -> Result<BTreeMap<(String, crate::lifecycle::State), u64>> {
    let rows = sqlx::query("SELECT lane, state, count(*) FROM jobs GROUP BY lane, state")
        .fetch_all(conn)
        .await
        .map_err(told)?;
    rows.iter()
        .map(|row| {
            let state = super::map::word(row.try_get(1).map_err(told)?)?;
            Ok(((get(row, 0)?, state), get::<i64, _>(row, 2)?.unsigned_abs()))
        })
        .collect()
}
