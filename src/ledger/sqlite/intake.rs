//! Jobs in: under their keys, all or nothing; and what couldn't be accepted.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::map::{get, hex, micros, text};
use super::media;
use super::open::told;
use super::rows;
use crate::content::{Reaction, Said};
use crate::job::{JobId, NewJob};
use crate::lateness::Policy;
use crate::ledger::door::{LedgerError, Result, Together};
use crate::ledger::rows::{Acceptance, Audit, Quarantined, Reason};

/// Writes jobs down under their idempotency keys; what has none is known by its id.
pub async fn accept(
    conn: &mut SqliteConnection,
    now: i64,
    jobs: &[NewJob],
) -> Result<Vec<Acceptance>> {
    jobs.iter().try_for_each(refuse_nul)?;
    let mut answers = Vec::with_capacity(jobs.len());
    while answers.len() < jobs.len() {
        let rest = &jobs[answers.len()..];
        // what somebody else may have said already is compared with all that came before it
        let plain = rest.iter().take_while(|it| it.said.is_none()).count();
        if plain == 0 {
            answers.push(one(conn, now, &rest[0]).await?);
        } else {
            answers.extend(plainly(conn, now, &rest[..plain]).await?);
        }
    }
    Ok(answers)
}

async fn one(conn: &mut SqliteConnection, now: i64, job: &NewJob) -> Result<Acceptance> {
    let known = match &job.key {
        Some(key) => taken(conn, job, key).await?,
        None => accepted(conn, job).await?,
    };
    match known {
        Some(it) => Ok(it),
        None => new(conn, now, job).await,
    }
}

/// Jobs without anything that others may have said: those that are new, all in a few statements.
async fn plainly(
    conn: &mut SqliteConnection,
    now: i64,
    jobs: &[NewJob],
) -> Result<Vec<Acceptance>> {
    let mut known = known(conn, jobs).await?;
    let (mut keys, mut ids) = (HashMap::new(), HashSet::new());
    let mut fresh = Vec::with_capacity(jobs.len());
    for (at, job) in jobs.iter().enumerate() {
        if known.contains_key(&at) {
            continue;
        }
        // of those that are the same, the first
        let first = match &job.key {
            Some(key) => *keys.entry((&job.tenant, &job.kind, key)).or_insert(job),
            None if ids.insert(job.id) => job,
            None => {
                known.insert(at, same(job.id, true, &job.options));
                continue;
            }
        };
        if std::ptr::eq(first, job) {
            fresh.push(job);
        } else {
            let is_same = first.digest == job.digest;
            known.insert(at, same(first.id, is_same, &first.options));
        }
    }
    let keyed: Vec<(&NewJob, &String)> = fresh
        .iter()
        .filter_map(|it| Some((*it, it.key.as_ref()?)))
        .collect();
    let into = "INSERT INTO idempotency_keys (tenant, kind, key, job, digest, options)";
    rows::insert(conn, (into, 6, ""), &keyed, |row, (job, key)| {
        let row = row.bind(&job.tenant).bind(&job.kind).bind(*key);
        Ok(row
            .bind(job.id.0)
            .bind(&job.digest.0[..])
            .bind(&job.options))
    })
    .await?;
    for job in &fresh {
        media::hold(conn, now, job.id, &job.payload).await?;
    }
    insert(conn, now, &fresh).await?;
    let answer = |(at, job): (usize, &NewJob)| {
        known.remove(&at).unwrap_or(Acceptance::New {
            id: job.id,
            due: is_due(job, now),
            repeats: None,
        })
    };
    Ok(jobs.iter().enumerate().map(answer).collect())
}

/// Which of these jobs are there already, by their place in the batch.
async fn known(conn: &mut SqliteConnection, jobs: &[NewJob]) -> Result<HashMap<usize, Acceptance>> {
    let keys = jobs
        .iter()
        .map(|it| Some((&it.tenant, &it.kind, it.key.as_ref()?)));
    let keys = text(&keys.collect::<Vec<_>>())?;
    let keyed = sqlx::query(
        "SELECT w.key, k.job, k.digest, k.options FROM json_each(?) w CROSS JOIN idempotency_keys k
             ON k.tenant = w.value ->> 0 AND k.kind = w.value ->> 1 AND k.key = w.value ->> 2
         WHERE w.type = 'array'",
    )
    .bind(keys)
    .fetch_all(&mut *conn)
    .await
    .map_err(told)?;
    let ids = jobs.iter().map(|it| it.key.is_none().then(|| hex(&it.id)));
    let ids = text(&ids.collect::<Vec<_>>())?;
    let unkeyed = sqlx::query(
        "SELECT w.key FROM json_each(?) w
         WHERE w.type = 'text' AND (EXISTS (SELECT 1 FROM jobs WHERE id = unhex(w.value))
             OR EXISTS (SELECT 1 FROM finished_jobs WHERE id = unhex(w.value)))",
    )
    .bind(ids)
    .fetch_all(conn)
    .await
    .map_err(told)?;
    let at = |row: &SqliteRow| Ok(usize::try_from(get::<i64, _>(row, 0)?).unwrap_or(usize::MAX));
    let mut known = HashMap::new();
    for row in &keyed {
        let (at, id) = (at(row)?, JobId(get(row, 1)?));
        let is_same = get::<&[u8], _>(row, 2)? == jobs[at].digest.0;
        known.insert(at, same(id, is_same, get(row, 3)?));
    }
    for row in &unkeyed {
        let at = at(row)?;
        known.insert(at, same(jobs[at].id, true, &jobs[at].options));
    }
    Ok(known)
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
    let is_same = get::<&[u8], _>(&row, 1)? == job.digest.0;
    Ok(Some(same(JobId(get(&row, 0)?), is_same, get(&row, 2)?)))
}

/// The answer to a key, or an id, that is known.
fn same(id: JobId, is_same: bool, options: &str) -> Acceptance {
    match is_same {
        true => Acceptance::Same {
            id,
            options: options.to_owned(),
        },
        false => Acceptance::Conflict { id },
    }
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
    insert(conn, now, &[job]).await?;
    let (id, due) = (job.id, is_due(job, now));
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

fn is_due(job: &NewJob, now: i64) -> bool {
    job.run_at.is_none_or(|it| micros(it) <= now)
}

/// Enters jobs.
async fn insert(conn: &mut SqliteConnection, now: i64, jobs: &[&NewJob]) -> Result<()> {
    let into = "INSERT INTO jobs (id, kind, lane, tenant, account, priority, key, payload, created_at, run_at,
        due_at, not_after, late, late_after_s, expires_at, attempts_max, timeout_s, labels, traceparent,
        reply_to, state)";
    rows::insert(conn, (into, 21, ""), jobs, |row, job| {
        let run_at = job.run_at.map_or(now, micros);
        let expires_at = run_at.max(now) + i64::from(job.age_max_s) * 1_000_000;
        let state = if is_due(job, now) {
            "ready"
        } else {
            "scheduled"
        };
        let row = row.bind(job.id.0).bind(&job.kind).bind(&job.lane);
        let row = row.bind(&job.tenant).bind(&job.account);
        let row = row.bind(job.priority.rank()).bind(&job.key);
        let row = row.bind(&*job.payload).bind(now).bind(run_at);
        let row = row.bind(run_at).bind(job.not_after.map(micros));
        let row = row.bind(job.late.map(Policy::as_str));
        let row = row.bind(job.late_after_s).bind(expires_at);
        let row = row.bind(job.attempts_max).bind(job.timeout_s);
        let row = row.bind(text(&job.labels)?).bind(&job.traceparent);
        Ok(row.bind(&job.reply_to).bind(state))
    })
    .await
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
