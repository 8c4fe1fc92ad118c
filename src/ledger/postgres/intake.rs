//! Intake: jobs written down under their keys, and the quarantine.

use std::collections::{HashMap, HashSet};

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::codec::{self, quarantine_columns};
use super::media;
use super::pool::{Pools, explain};
use crate::content::{Reaction, Said};
use crate::job::{JobId, NewJob};
use crate::json::Digest;
use crate::lateness::Policy;
use crate::ledger::door::{LedgerError, Result, Together};
use crate::ledger::rows::{Acceptance, Audit, Quarantined, Reason};
use crate::sabotage;

/// Keys first, in one order in every batch, so that two batches can't wait for each other; then the
/// jobs whose key is new. A job without a key is known by its id: in `jobs`, or, as its id says when
/// it was minted, in the partitions since then (`$19`).
macro_rules! accepting {
    ($end:literal) => {
        concat!(
            "
WITH clock AS MATERIALIZED (SELECT presswork.now() AS now),
want AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int2[],
                         $7::text[], $8::text[], $9::bytea[], $10::timestamptz[],
                         $11::timestamptz[], $12::int4[], $13::int4[], $14::int4[], $15::text[],
                         $16::text[], $17::text[], $18::text[], $20::bytea[], $21::bool[], $22::text[],
                         $23::int4[])
        AS w(id, kind, lane, tenant, account, priority, key, payload, digest, run_at, not_after,
             attempts_max, timeout_s, age_max_s, labels, traceparent, reply_to, options, content,
             again, late, late_after_s)
),
keyed AS (
    INSERT INTO presswork.idempotency_keys (tenant, kind, key, digest, job, options)
    SELECT tenant, kind, key, digest, id, options FROM want WHERE key IS NOT NULL
    ORDER BY tenant, kind, key
    ON CONFLICT DO NOTHING
    RETURNING job
),
made AS (
INSERT INTO presswork.jobs (id, kind, lane, tenant, account, priority, key, payload, created_at,
                            run_at, due_at, not_after, late, late_after_s, expires_at, attempts_max,
                            timeout_s, labels, traceparent, reply_to, state)
SELECT w.id, w.kind, w.lane, w.tenant, w.account, w.priority, w.key, w.payload, clock.now,
       coalesce(w.run_at, clock.now), coalesce(w.run_at, clock.now), w.not_after, w.late, w.late_after_s,
       greatest(w.run_at, clock.now) + w.age_max_s * interval '1 second',
       w.attempts_max, w.timeout_s, w.labels, w.traceparent, w.reply_to,
       CASE WHEN clock.now < w.run_at THEN 'scheduled' ELSE 'ready' END
FROM want w CROSS JOIN clock
WHERE CASE WHEN w.key IS NULL
           THEN NOT EXISTS (SELECT FROM presswork.finished_jobs f
                            WHERE f.id = w.id AND $19::timestamptz <= f.archived_at)
           ELSE w.id IN (SELECT job FROM keyed) END
ORDER BY w.id
ON CONFLICT (id) DO NOTHING
RETURNING id, state = 'ready' AS due
),
said AS (
    INSERT INTO presswork.contents (account, digest, job, at, again)
    SELECT w.account, w.content, w.id, clock.now, w.again
    FROM made JOIN want w USING (id) CROSS JOIN clock WHERE w.content IS NOT NULL
)
",
            $end
        )
    };
}

const ACCEPT: &str = accepting!("SELECT id, due FROM made");

/// All or none: where one of them isn't new, the division by zero undoes the rest.
const TOGETHER: &str =
    accepting!("SELECT id, due, 1 / ((SELECT count(*) FROM made) = $24)::int FROM made");

/// The last job that says the same for the same account within its guard's window and wasn't called off:
/// of those that aren't there already themselves.
const REPEATS: &str = "
SELECT w.n, c.job
FROM unnest($1::int4[], $2::text[], $3::bytea[], $4::int4[], $5::uuid[], $6::text[], $7::text[],
            $8::text[]) AS w(n, account, digest, within_s, id, tenant, kind, key)
CROSS JOIN LATERAL (
    SELECT c.job FROM presswork.contents c
    WHERE c.account = w.account AND c.digest = w.digest AND c.job <> w.id
      AND presswork.now() - w.within_s * interval '1 second' < c.at
      AND (EXISTS (SELECT FROM presswork.jobs j WHERE j.id = c.job AND j.state <> 'dead')
           OR EXISTS (SELECT FROM presswork.finished_jobs f
                      WHERE f.id = c.job AND f.state = 'completed' AND c.at <= f.archived_at))
    ORDER BY c.at DESC, c.job DESC LIMIT 1
) c
WHERE NOT EXISTS (SELECT FROM presswork.idempotency_keys k
                  WHERE k.tenant = w.tenant AND k.kind = w.kind AND k.key = w.key)
  AND NOT EXISTS (SELECT FROM presswork.contents own WHERE own.account = w.account
                  AND own.digest = w.digest AND own.job = w.id)";

/// In a statement of its own: it sees what was committed while the first one waited for it.
const KNOWN: &str = "
SELECT w.n, k.job, k.digest, k.options
FROM unnest($1::int4[], $2::text[], $3::text[], $4::text[]) AS w(n, tenant, kind, key)
JOIN presswork.idempotency_keys k ON k.tenant = ANY(ARRAY[w.tenant])
  AND k.kind = ANY(ARRAY[w.kind]) AND k.key = ANY(ARRAY[w.key])";

/// A key may be swept between the two statements: then the batch is written again, so often at most.
const TRIES: u32 = 3;

type Key<'a> = (&'a str, &'a str, &'a str);

fn key_of(job: &NewJob) -> Option<Key<'_>> {
    Some((&job.tenant, &job.kind, job.key.as_deref()?))
}

/// Writes jobs down; see [`crate::ledger::door::Ledger::accept`].
pub async fn accept(pools: &Pools, jobs: &[NewJob]) -> Result<Vec<Acceptance>> {
    let mut answers: HashMap<usize, Acceptance> = HashMap::with_capacity(jobs.len());
    for round in 0..TRIES {
        let open: Vec<usize> = (0..jobs.len())
            .filter(|it| !answers.contains_key(it))
            .collect();
        if open.is_empty() {
            break;
        }
        write(pools, jobs, &open, round == 0, &mut answers).await?;
        known(pools, jobs, &mut answers).await?;
    }
    let answers = (0..jobs.len()).map(|it| answers.remove(&it));
    answers
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| LedgerError::Away("keys were being swept; try again".to_owned()))
}

/// Writes those of `open` that are the first of their key, or of their id, in the batch; `apart`: and
/// the first to say what they say, so that the others find them when they are written.
async fn write(
    pools: &Pools,
    jobs: &[NewJob],
    open: &[usize],
    apart: bool,
    answers: &mut HashMap<usize, Acceptance>,
) -> Result<()> {
    let (mut keys, mut ids, mut words) = (HashSet::new(), HashSet::new(), HashSet::new());
    let (mut first, mut later) = (Vec::with_capacity(open.len()), HashSet::new());
    for at in open {
        let job = &jobs[*at];
        let fresh_key = key_of(job).is_none_or(|it| keys.insert(it));
        if !fresh_key || !ids.insert(job.id) {
            continue;
        }
        if apart && !guarded(job).is_none_or(|it| words.insert((&job.account, it.digest))) {
            later.insert(*at);
        } else {
            first.push(*at);
        }
    }
    let repeats = repeats(pools, jobs, &first).await?;
    first.retain(|at| {
        let refuses = |it: &Said| it.guard.reaction == Reaction::Refuse;
        let refused = repeats
            .get(at)
            .filter(|_| guarded(&jobs[*at]).is_some_and(refuses));
        if let Some(id) = refused {
            answers.insert(*at, Acceptance::Repeats { id: *id });
        }
        refused.is_none()
    });
    let batch: Vec<&NewJob> = first.iter().map(|it| &jobs[*it]).collect();
    let texts: Vec<_> = batch.iter().map(|it| (it.id, &*it.payload)).collect();
    media::hold(pools, &texts).await?;
    let rows = pools
        .again(|| insert(ACCEPT, &batch).fetch_all(pools.planned()))
        .await?;
    let due = due(&rows)?;
    for at in first {
        let id = jobs[at].id;
        if let Some(due) = due.get(&id.0) {
            let (due, repeats) = (*due, repeats.get(&at).copied());
            answers.insert(at, Acceptance::New { id, due, repeats });
        }
    }
    // of the others, what has no key is known by its id: the same entry, taken twice
    for at in open {
        let job = &jobs[*at];
        if job.key.is_none() && !later.contains(at) {
            answers.entry(*at).or_insert_with(|| Acceptance::Same {
                id: job.id,
                options: job.options.clone(),
            });
        }
    }
    Ok(())
}

/// Writes jobs down, all or none; see [`crate::ledger::door::Ledger::accept_together`].
pub async fn accept_together(pools: &Pools, jobs: &[NewJob]) -> Result<Together> {
    let mut answers: HashMap<usize, Acceptance> = HashMap::with_capacity(jobs.len());
    for _ in 0..TRIES {
        let open = (0..jobs.len()).filter(|it| !answers.contains_key(it));
        let open: Vec<usize> = open.collect();
        let repeats = repeats(pools, jobs, &open).await?;
        for at in &open {
            let refuses = |it: &Said| it.guard.reaction == Reaction::Refuse;
            if let Some(id) = repeats.get(at)
                && guarded(&jobs[*at]).is_some_and(refuses)
            {
                let (at, why) = (*at, Acceptance::Repeats { id: *id });
                return Ok(Together::Refused { at, why });
            }
        }
        let batch: Vec<&NewJob> = open.iter().map(|it| &jobs[*it]).collect();
        if let Some(due) = write_together(pools, &batch).await? {
            for at in open {
                let id = jobs[at].id;
                let (due, repeats) = (due[&id.0], repeats.get(&at).copied());
                answers.insert(at, Acceptance::New { id, due, repeats });
            }
            let all = (0..jobs.len()).filter_map(|it| answers.remove(&it));
            return Ok(Together::Written(all.collect()));
        }
        known(pools, jobs, &mut answers).await?;
        let mut refused: Vec<usize> = answers.keys().copied().collect();
        refused.retain(|it| matches!(answers[it], Acceptance::Conflict { .. }));
        if let Some((at, why)) = refused
            .into_iter()
            .min()
            .and_then(|it| answers.remove_entry(&it))
        {
            return Ok(Together::Refused { at, why });
        }
    }
    Err(LedgerError::Away(
        "keys were being swept; try again".to_owned(),
    ))
}

/// Which of them are due; nothing where one isn't new, and then none is written.
async fn write_together(pools: &Pools, batch: &[&NewJob]) -> Result<Option<HashMap<Uuid, bool>>> {
    if batch.is_empty() {
        return Ok(Some(HashMap::new()));
    }
    let texts: Vec<_> = batch.iter().map(|it| (it.id, &*it.payload)).collect();
    media::hold(pools, &texts).await?;
    let count = i64::try_from(batch.len()).unwrap_or(i64::MAX);
    let insert = || async move {
        let insert = insert(TOGETHER, batch).bind(count);
        match insert.fetch_all(pools.planned()).await {
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("22012") => Ok(Vec::new()),
            done => done,
        }
    };
    let due = due(&pools.again(insert).await?)?;
    // none at all: nobody divided, but nothing was written either
    Ok((due.len() == batch.len()).then_some(due))
}

/// What a job says, where a guard looks and its producer doesn't know that it was said before.
fn guarded(job: &NewJob) -> Option<&Said> {
    job.said.as_ref().filter(|it| !it.again)
}

/// Which of these jobs say what another one says, by their place in the batch.
async fn repeats(pools: &Pools, jobs: &[NewJob], first: &[usize]) -> Result<HashMap<usize, JobId>> {
    let asked = first.iter().filter_map(|at| {
        let (job, said) = (&jobs[*at], guarded(&jobs[*at])?);
        Some((
            i32::try_from(*at).ok()?,
            job,
            said,
            said.guard.looks_back_s()?,
        ))
    });
    let asked: Vec<_> = asked.collect();
    if asked.is_empty() {
        return Ok(HashMap::new());
    }
    fn each<A, T>(asked: &[A], column: impl Fn(&A) -> T) -> Vec<T> {
        asked.iter().map(column).collect()
    }
    let query = sqlx::query(REPEATS)
        .bind(each(&asked, |it| it.0))
        .bind(each(&asked, |it| it.1.account.clone()))
        .bind(each(&asked, |it| it.2.digest.0.to_vec()))
        .bind(each(&asked, |it| codec::int(it.3)))
        .bind(each(&asked, |it| it.1.id.0))
        .bind(each(&asked, |it| it.1.tenant.clone()))
        .bind(each(&asked, |it| it.1.kind.clone()))
        .bind(each(&asked, |it| it.1.key.clone()));
    let rows = pools.call(query.fetch_all(pools.planned())).await?;
    let read = |row: &PgRow| {
        let at: i32 = row.try_get("n")?;
        Ok((
            usize::try_from(at).unwrap_or(usize::MAX),
            JobId(row.try_get("job")?),
        ))
    };
    rows.iter()
        .map(read)
        .collect::<sqlx::Result<_>>()
        .map_err(explain)
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn due(rows: &[PgRow]) -> Result<HashMap<Uuid, bool>> {
    let due = rows
        .iter()
        .map(|row| Ok((row.try_get("id")?, row.try_get("due")?)));
    due.collect::<sqlx::Result<_>>().map_err(explain)
}

fn insert<'q>(sql: &'static str, batch: &[&NewJob]) -> Query<'q> {
    fn each<T>(batch: &[&NewJob], column: impl Fn(&NewJob) -> T) -> Vec<T> {
        batch.iter().map(|it| column(it)).collect()
    }
    let oldest = batch.iter().filter(|it| it.key.is_none());
    let oldest = oldest.map(|it| minted(it.id)).min();
    sqlx::query(sql)
        .bind(each(batch, |it| it.id.0))
        .bind(each(batch, |it| it.kind.clone()))
        .bind(each(batch, |it| it.lane.clone()))
        .bind(each(batch, |it| it.tenant.clone()))
        .bind(each(batch, |it| it.account.clone()))
        .bind(each(batch, |it| it.priority.rank()))
        .bind(each(batch, |it| it.key.clone()))
        .bind(each(batch, |it| it.payload.to_string()))
        .bind(each(batch, |it| it.digest.0.to_vec()))
        .bind(each(batch, |it| it.run_at))
        .bind(each(batch, |it| it.not_after))
        .bind(each(batch, |it| codec::int(it.attempts_max)))
        .bind(each(batch, |it| codec::int(it.timeout_s)))
        .bind(each(batch, |it| codec::int(it.age_max_s)))
        .bind(each(batch, |it| codec::text(&it.labels)))
        .bind(each(batch, |it| it.traceparent.clone()))
        .bind(each(batch, |it| it.reply_to.clone()))
        .bind(each(batch, |it| it.options.clone()))
        .bind(oldest.unwrap_or_default())
        .bind(each(batch, |it| {
            it.said.as_ref().map(|it| it.digest.0.to_vec())
        }))
        .bind(each(batch, |it| {
            it.said.as_ref().is_some_and(|it| it.again)
        }))
        .bind(each(batch, |it| it.late.map(Policy::as_str)))
        .bind(each(batch, |it| it.late_after_s.map(codec::int)))
}

/// No job can have ended before its id was minted, give or take a day of the clocks' difference.
fn minted(id: JobId) -> crate::clock::Time {
    let (seconds, _) = id.0.get_timestamp().map_or((0, 0), |it| it.to_unix());
    let seconds = i64::try_from(seconds).unwrap_or(0).saturating_sub(86_400);
    crate::clock::Time::from_timestamp(seconds, 0).unwrap_or_default()
}

/// Answers those whose key was there already.
async fn known(
    pools: &Pools,
    jobs: &[NewJob],
    answers: &mut HashMap<usize, Acceptance>,
) -> Result<()> {
    let open = (0..jobs.len()).filter(|it| !answers.contains_key(it));
    let open: Vec<(usize, Key<'_>)> = open
        .filter_map(|it| Some((it, key_of(&jobs[it])?)))
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    let numbers = open.iter().filter_map(|it| i32::try_from(it.0).ok());
    let query = sqlx::query(KNOWN)
        .bind(numbers.collect::<Vec<_>>())
        .bind(open.iter().map(|it| it.1.0.to_owned()).collect::<Vec<_>>())
        .bind(open.iter().map(|it| it.1.1.to_owned()).collect::<Vec<_>>())
        .bind(open.iter().map(|it| it.1.2.to_owned()).collect::<Vec<_>>());
    let rows = pools.call(query.fetch_all(pools.main())).await?;
    for row in &rows {
        let (at, digest, id, options) = key_row(row).map_err(explain)?;
        let answer = match jobs.get(at) {
            Some(job) if job.digest == digest || sabotage!("intake.digest") => {
                Acceptance::Same { id, options }
            }
            _ => Acceptance::Conflict { id },
        };
        answers.insert(at, answer);
    }
    Ok(())
}

fn key_row(row: &PgRow) -> sqlx::Result<(usize, Digest, JobId, String)> {
    let at: i32 = row.try_get("n")?;
    let digest: [u8; 32] = row.try_get("digest")?;
    let job = JobId(row.try_get("job")?);
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    Ok((at, Digest(digest), job, row.try_get("options")?))
}

const QUARANTINE: &str = "
INSERT INTO presswork.quarantine (id, door, at, reason, message, kind, bytes)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[], $5::text[],
                     $6::text[], $7::bytea[]) AS w(id, door, at, reason, message, kind, bytes)
ORDER BY id
ON CONFLICT (id) DO NOTHING";

/// Keeps what couldn't be accepted.
pub async fn quarantine(pools: &Pools, entries: &[Quarantined]) -> Result<()> {
    fn each<T>(entries: &[Quarantined], column: impl Fn(&Quarantined) -> T) -> Vec<T> {
        entries.iter().map(column).collect()
    }
    let query = || {
        sqlx::query(QUARANTINE)
            .bind(each(entries, |it| it.id.0))
            .bind(each(entries, |it| codec::plain(&it.door)))
            .bind(each(entries, |it| it.at))
            .bind(each(entries, |it| it.reason.as_str()))
            .bind(each(entries, |it| codec::plain(&it.message)))
            .bind(each(entries, |it| it.kind.as_deref().map(codec::plain)))
            .bind(each(entries, |it| it.bytes.clone()))
            .execute(pools.main())
    };
    pools.again(query).await.map(|_| ())
}

/// What is in quarantine.
pub async fn quarantined(
    pools: &Pools,
    kind: Option<&str>,
    limit: u32,
) -> Result<Vec<Quarantined>> {
    let sql = concat!(
        "SELECT ",
        quarantine_columns!(),
        " FROM presswork.quarantine WHERE $1::text IS NULL OR kind = $1
        ORDER BY at DESC, id DESC LIMIT $2"
    );
    let query = sqlx::query(sql).bind(kind).bind(i64::from(limit));
    let rows = pools.call(query.fetch_all(pools.main())).await?;
    let rows = rows.iter().map(codec::quarantined);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

/// One entry of the quarantine.
pub async fn quarantined_one(pools: &Pools, id: JobId) -> Result<Option<Quarantined>> {
    let sql = concat!(
        "SELECT ",
        quarantine_columns!(),
        " FROM presswork.quarantine WHERE id = $1"
    );
    let query = sqlx::query(sql).bind(id.0);
    let row = pools.call(query.fetch_optional(pools.main())).await?;
    let row = row.as_ref().map(codec::quarantined).transpose();
    row.map_err(explain)
}

/// A statement a kind: each reads just what it gives, whatever else lies there.
const OF_KINDS: &str = "
SELECT q.id FROM unnest($1::text[]) AS k(kind) CROSS JOIN LATERAL (
    SELECT id FROM presswork.quarantine
    WHERE reason = 'unknown_kind' AND kind = k.kind ORDER BY at, id LIMIT $2
) q LIMIT $2";

/// Entries whose kind was unknown and is one of these.
pub async fn quarantined_kinds(pools: &Pools, kinds: &[String], limit: u32) -> Result<Vec<JobId>> {
    let query = sqlx::query_scalar(OF_KINDS)
        .bind(kinds)
        .bind(i64::from(limit));
    let ids: Vec<Uuid> = pools.call(query.fetch_all(pools.main())).await?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// Gives an entry another reason, if it still has this one.
pub async fn requarantine(pools: &Pools, from: Reason, entry: &Quarantined) -> Result<bool> {
    let sql = "UPDATE presswork.quarantine SET reason = $3, message = $4
               WHERE id = $1 AND reason = $2";
    let query = || {
        sqlx::query(sql)
            .bind(entry.id.0)
            .bind(from.as_str())
            .bind(entry.reason.as_str())
            .bind(codec::plain(&entry.message))
            .execute(pools.main())
    };
    Ok(0 < pools.again(query).await?.rows_affected())
}

const UNQUARANTINE: &str = "
WITH gone AS (DELETE FROM presswork.quarantine WHERE id = $1 RETURNING id),
noted AS (INSERT INTO presswork.audit (actor, action, job, detail, at)
          SELECT $2, $3, $4, $5, presswork.now() FROM gone)
SELECT count(*) FROM gone";

/// Takes an entry out of the quarantine.
pub async fn unquarantine(pools: &Pools, id: JobId, audit: &Audit) -> Result<bool> {
    let query = || {
        sqlx::query_scalar(UNQUARANTINE)
            .bind(id.0)
            .bind(codec::plain(&audit.actor))
            .bind(codec::plain(&audit.action))
            .bind(audit.job.unwrap_or(id).0)
            .bind(codec::plain(&audit.detail))
            .fetch_one(pools.main())
    };
    let gone: i64 = pools.again(query).await?;
    Ok(0 < gone)
}
