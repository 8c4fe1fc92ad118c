//! Steps and effects: written under the lease, concluded by the permit's number.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::codec;
use super::codec::{effect_columns, seconds};
use super::media;
use super::pool::{Pools, explain};
use crate::clock::Time;
use crate::effect::{Effect, EffectId, EffectState, Evidence, Receipt};
use crate::job::JobId;
use crate::ledger::door::{Result, Word};
use crate::ledger::rows::{Audit, Conclusion, Fence};
use crate::sabotage;

/// The recorded value of a step.
pub async fn step(pools: &Pools, job: JobId, revision: u32, name: &str) -> Result<Option<String>> {
    let sql = "SELECT value FROM presswork.steps WHERE job = $1 AND revision = $2 AND name = $3";
    let query = sqlx::query_scalar(sql)
        .bind(job.0)
        .bind(codec::int(revision))
        .bind(name);
    pools.call(query.fetch_optional(pools.planned())).await
}

/// The job's row is locked first, so that its lease can't be lost between the look and the write.
const RECORD_STEP: &str = "
WITH lease AS MATERIALIZED (
    SELECT id FROM presswork.jobs WHERE id = $1 AND token = $2 FOR SHARE
),
written AS (
    INSERT INTO presswork.steps (job, revision, name, value, at)
    SELECT id, $3, $4, $5, presswork.now() FROM lease
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM lease";

/// Records a step's value.
pub async fn record_step(pools: &Pools, fence: &Fence, name: &str, value: &str) -> Result<bool> {
    media::hold(pools, &[(fence.job, value)]).await?;
    let query = || {
        sqlx::query_scalar(RECORD_STEP)
            .bind(fence.job.0)
            .bind(fence.token)
            .bind(codec::int(fence.revision))
            .bind(name)
            .bind(value)
            .fetch_one(pools.planned())
    };
    let leases: i64 = pools.again(query).await?;
    Ok(0 < leases)
}

/// What a job from before a restore writes down for the first time may have been sent after the
/// backup: then under a key that is lost, where one is minted. So is the key of what only a send journal
/// knows; until all journals have told (the timeline), nothing is written down for the first time.
const INTEND: &str = concat!(
    "
WITH lease AS MATERIALIZED (
    SELECT id, created_at FROM presswork.jobs WHERE id = $2 AND token = $3 FOR SHARE
),
since AS MATERIALIZED (
    SELECT lease.id, CASE WHEN created_at < restored_at THEN backup_at END AS backup_at,
           t.send, t.first_at, t.at, t.run, t.receipt, t.evidence,
           CASE WHEN t.state = 'refused' AND created_at < restored_at THEN 'unknown'
                ELSE t.state END AS state
    FROM lease CROSS JOIN presswork.meta m LEFT JOIN presswork.testimony t ON t.effect = $1
    WHERE m.timeline = presswork.timeline()
),
written AS (
    INSERT INTO presswork.effects AS e (id, job, revision, step, account, op, class, state, intent,
                                   keep, evidence, maybe_since, key_lost, content, guard_s,
                                   sends, first_sent_at, permit_at, permit_run, receipt)
    SELECT $1, id, $4, $5, $6, $7, $8,
           CASE WHEN state IS NOT NULL THEN state
                WHEN backup_at IS NULL THEN 'intended' ELSE 'unknown' END,
           $9, $10, coalesce(evidence, '{}') || $11,
           CASE WHEN state IS DISTINCT FROM 'confirmed' THEN backup_at END,
           (backup_at IS NOT NULL OR coalesce(state IN ('sending', 'unknown'), false))
               AND $10 <> 'null', $12,
           CASE WHEN NOT EXISTS (SELECT FROM presswork.contents c WHERE c.job = since.id AND c.again)
                THEN $13::integer END,
           coalesce(send, 0), first_at, at, run, receipt
    FROM since
    ON CONFLICT (id) DO UPDATE SET keep = excluded.keep
        WHERE e.class = 'B' AND e.state IN ('intended', 'refused')
    RETURNING ",
    effect_columns!(),
    "
)
SELECT *, presswork.now() AS now FROM written
UNION ALL
SELECT ",
    effect_columns!(),
    ", presswork.now() AS now FROM presswork.effects e JOIN lease ON e.job = lease.id
WHERE e.id = $1 AND NOT EXISTS (SELECT FROM written)"
);

/// Writes an effect down unless it is there.
pub async fn intend(
    pools: &Pools,
    fence: &Fence,
    effect: &Effect,
) -> Result<Option<(Effect, Time)>> {
    let query = || {
        sqlx::query(INTEND)
            .bind(effect.id.0)
            .bind(fence.job.0)
            .bind(fence.token)
            .bind(codec::int(effect.revision))
            .bind(&effect.step)
            .bind(&effect.account)
            .bind(&effect.op)
            .bind(effect.class.as_str())
            .bind(&effect.intent)
            .bind(effect.keep.to_string())
            .bind(effect.evidence.iter().map(evidence).collect::<Vec<_>>())
            .bind(effect.content.map(|it| it.0.to_vec()))
            .bind(effect.guard_s.map(codec::int))
            .fetch_optional(pools.planned())
    };
    // a row that another writer committed while this statement waited for it isn't seen by this
    // statement, but by the next
    let row = match pools.again(query).await? {
        Some(row) => Some(row),
        None => pools.again(query).await?,
    };
    let read = |row: &PgRow| Ok((codec::effect(row)?, row.try_get("now")?));
    row.as_ref().map(read).transpose().map_err(explain)
}

fn evidence(it: &Evidence) -> String {
    codec::text(it)
}

/// Locks the job, then the effect, in this order everywhere: under READ COMMITTED each lock is
/// followed by another look at its condition, so of two that want the same permit one gets it.
/// None on a server whose history isn't the one that effects are permitted on, nor on another than the
/// one that this program follows: an old primary may still answer. None where a closure fits: what was
/// committed before this statement began is seen, and so is what was while it waited for the rows. That is
/// enough: a permit that began before a closure's commit is one that was given before it.
pub const PERMIT: &str = "
WITH lease AS MATERIALIZED (
    SELECT id, run, tenant, kind, labels FROM presswork.jobs WHERE id = $1 AND token = $2 FOR SHARE
),
clock AS MATERIALIZED (SELECT presswork.now() AS now, presswork.timeline() AS timeline)
UPDATE presswork.effects e
SET state = 'sending', sends = e.sends + 1, permit_at = clock.now, permit_run = lease.run,
    first_sent_at = coalesce(e.first_sent_at, clock.now), looks = 0, look_at = NULL
FROM lease JOIN presswork.workers w ON w.run = lease.run CROSS JOIN clock CROSS JOIN presswork.meta m
WHERE e.id = $3 AND e.job = lease.id AND e.state = $4 AND e.sends = $5
  AND NOT w.ended AND clock.now + $6 * interval '1 second' < w.lease_until
  AND m.timeline = clock.timeline AND clock.timeline = coalesce($7, clock.timeline)
  AND (e.guard_s IS NULL OR NOT presswork.is_said(e.account, e.content, e.id, e.guard_s))
  AND NOT presswork.is_shut($8, e.account, lease.tenant, lease.kind, lease.labels, clock.now)
  AND NOT presswork.is_sent_elsewhere(e.job, e.revision, e.account)
  AND NOT EXISTS (SELECT FROM presswork.accounts a WHERE a.name = e.account AND a.tenant <> lease.tenant)";

/// The single-use permit.
pub async fn permit(
    pools: &Pools,
    fence: &Fence,
    id: EffectId,
    from: (EffectState, u32),
    budget: Duration,
    (follows, platform): (Option<String>, Option<&str>),
) -> Result<bool> {
    // not made again by itself: whoever asks must look at the effect first
    let sql = sabotage!(PERMIT,
        "permit.compare": "AND e.state = $4 AND e.sends = $5" => "AND $4::text <> '' AND 0 <= $5::int4",
        "permit.lease": "WHERE id = $1 AND token = $2 FOR SHARE" => "WHERE id = $1 AND $2::uuid IS NOT NULL FOR SHARE",
        "permit.time": "clock.now + $6 * interval '1 second' < w.lease_until" => "0 <= $6::float8",
        "permit.content": "(e.guard_s IS NULL OR NOT presswork.is_said(e.account, e.content, e.id, e.guard_s))" => "true",
        "permit.closures": "NOT presswork.is_shut($8, e.account, lease.tenant, lease.kind, lease.labels, clock.now)" => "$8::text IS NOT DISTINCT FROM $8",
        "permit.elsewhere": "NOT presswork.is_sent_elsewhere(e.job, e.revision, e.account)" => "true",
        "permit.tenant": "a.tenant <> lease.tenant" => "false",
    );
    let query = sqlx::query(sql)
        .bind(fence.job.0)
        .bind(fence.token)
        .bind(id.0)
        .bind(from.0.as_str())
        .bind(codec::int(from.1))
        .bind(seconds(budget))
        .bind(follows)
        .bind(platform);
    let done = pools.call(query.execute(pools.planned())).await?;
    Ok(done.rows_affected() == 1)
}

const REPEATS: &str = concat!(
    "SELECT ",
    effect_columns!(),
    " FROM presswork.effects said
JOIN presswork.effects e ON e.account = ANY(ARRAY[said.account])
  AND e.content = ANY(ARRAY[said.content]) AND e.id <> said.id
WHERE said.id = $1 AND e.state IN ('sending', 'confirmed', 'unknown', 'unresolved')
  AND presswork.now() - $2 * interval '1 second' < e.permit_at
ORDER BY e.permit_at DESC LIMIT 1"
);

/// The last effect of the same account that says the same and may have happened.
pub async fn repeats(pools: &Pools, id: EffectId, within: Duration) -> Result<Option<Effect>> {
    let query = sqlx::query(REPEATS).bind(id.0).bind(seconds(within));
    let row = pools.call(query.fetch_optional(pools.planned())).await?;
    let row = row.as_ref().map(codec::effect).transpose();
    row.map_err(explain)
}

const CONCLUDE: &str = "
UPDATE presswork.effects
SET state = $3, receipt = coalesce($4, receipt), evidence = evidence || $5::text,
    look_at = presswork.now() + $6 * interval '1 second', handle = $7
WHERE id = $1 AND sends = $2 AND state = 'sending'";

/// Ends what a permit began.
pub async fn conclude(
    pools: &Pools,
    id: EffectId,
    sends: u32,
    conclusion: &Conclusion,
) -> Result<bool> {
    let query = || {
        sqlx::query(sabotage!(CONCLUDE, "conclude.send": "AND sends = $2" => "AND 0 <= $2::int4"))
            .bind(id.0)
            .bind(codec::int(sends))
            .bind(conclusion.to.as_str())
            .bind(conclusion.receipt.as_ref().map(codec::text))
            .bind(evidence(&conclusion.evidence))
            .bind(conclusion.look_in.map(seconds))
            .bind(conclusion.handle())
            .execute(pools.planned())
    };
    Ok(pools.again(query).await?.rows_affected() == 1)
}

/// Whoever says whether it happened says so of all that may have been sent.
const DECIDE: &str = "
WITH done AS (
    UPDATE presswork.effects
    SET state = $3, receipt = coalesce($4, receipt), evidence = evidence || $5::text,
        look_at = presswork.now() + $11 * interval '1 second', handle = $12,
        maybe_since = CASE WHEN $3 IN ('unknown', 'unresolved') THEN maybe_since END,
        key_lost = $3 IN ('unknown', 'unresolved') AND key_lost
    WHERE id = $1 AND state = $2 AND sends = $10
    RETURNING job
),
noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    SELECT $6, $7, coalesce($8, job), $9, presswork.now() FROM done WHERE $6 IS NOT NULL
)
SELECT count(*) FROM done";

/// A person's, or a decision's, word on an effect.
pub async fn decide(
    pools: &Pools,
    id: EffectId,
    from: (EffectState, u32),
    conclusion: &Conclusion,
    audit: Option<&Audit>,
) -> Result<bool> {
    let query = || {
        sqlx::query_scalar(DECIDE)
            .bind(id.0)
            .bind(from.0.as_str())
            .bind(conclusion.to.as_str())
            .bind(conclusion.receipt.as_ref().map(codec::text))
            .bind(evidence(&conclusion.evidence))
            .bind(audit.map(|it| codec::plain(&it.actor)))
            .bind(audit.map(|it| codec::plain(&it.action)))
            .bind(audit.and_then(|it| it.job).map(|it| it.0))
            .bind(audit.map(|it| codec::plain(&it.detail)))
            .bind(codec::int(from.1))
            .bind(conclusion.look_in.map(seconds))
            .bind(conclusion.handle())
            .fetch_one(pools.planned())
    };
    let done: i64 = pools.again(query).await?;
    Ok(0 < done)
}

/// Adds to an effect's evidence.
pub async fn witness(pools: &Pools, id: EffectId, seen: &Evidence) -> Result<()> {
    let sql = "UPDATE presswork.effects SET evidence = evidence || $2::text WHERE id = $1";
    let query = || {
        sqlx::query(sql)
            .bind(id.0)
            .bind(evidence(seen))
            .execute(pools.planned())
    };
    pools.again(query).await.map(|_| ())
}

/// The job that waits for what a platform does under a handle.
pub async fn job_of_handle(pools: &Pools, account: &str, handle: &str) -> Result<Option<JobId>> {
    let sql = "SELECT job FROM presswork.effects WHERE account = $1 AND handle = $2
               ORDER BY n DESC LIMIT 1";
    let query = sqlx::query_scalar(sql).bind(account).bind(handle);
    let id: Option<Uuid> = pools.call(query.fetch_optional(pools.planned())).await?;
    Ok(id.map(JobId))
}

/// Takes a handle off its effect.
pub async fn let_go(pools: &Pools, job: JobId, handle: &str, seen: &Evidence) -> Result<()> {
    let sql = "UPDATE presswork.effects SET handle = NULL, evidence = evidence || $3::text
               WHERE job = $1 AND handle = $2";
    let query = || {
        sqlx::query(sql)
            .bind(job.0)
            .bind(handle)
            .bind(evidence(seen))
            .execute(pools.planned())
    };
    pools.again(query).await.map(|_| ())
}

/// What may still be under way by an effect.
const UNDER_WAY: &str = "(e.handle IS NOT NULL OR e.state IN ('sending', 'unknown', 'unresolved'))";

/// Writes down what a call-back said. One row is written, so that locks have no order to keep.
pub async fn called_back(
    pools: &Pools,
    account: &str,
    effect: EffectId,
    said: &Word,
) -> Result<Option<JobId>> {
    let (sql, said) = match said {
        Word::Progress(it) => (
            format!(
                "UPDATE presswork.jobs j SET progress = $3 FROM presswork.effects e
                 WHERE e.id = $1 AND e.account = $2 AND {UNDER_WAY} AND j.id = ANY(ARRAY[e.job])
                 RETURNING j.id"
            ),
            codec::text(it),
        ),
        Word::End(it) => (
            format!(
                "UPDATE presswork.effects e SET told = coalesce(e.told, $3)
                 WHERE e.id = $1 AND e.account = $2 AND {UNDER_WAY} RETURNING e.job"
            ),
            it.clone(),
        ),
    };
    let query = || {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.clone()))
            .bind(effect.0)
            .bind(account)
            .bind(&said)
            .fetch_optional(pools.planned())
    };
    Ok(pools.again(query).await?.map(JobId))
}

/// Whether a call-back was taken before.
pub async fn heard(pools: &Pools, account: &str, id: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM presswork.calls WHERE account = $1 AND id = $2)";
    let query = sqlx::query_scalar(sql).bind(account).bind(id);
    pools.call(query.fetch_one(pools.planned())).await
}

/// Writes down that a call-back was taken.
pub async fn hear(pools: &Pools, account: &str, id: &str) -> Result<()> {
    let sql = "INSERT INTO presswork.calls VALUES ($1, $2, presswork.now()) ON CONFLICT DO NOTHING";
    let query = || {
        sqlx::query(sql)
            .bind(account)
            .bind(id)
            .execute(pools.planned())
    };
    pools.again(query).await.map(|_| ())
}

const LOOKS_DUE: &str = concat!(
    "
UPDATE presswork.effects e
SET looks = e.looks + 1, look_at = presswork.now() + $2 * interval '1 second'
FROM (
    SELECT id FROM presswork.effects
    WHERE state = 'unknown' AND look_at <= presswork.now()
    ORDER BY look_at LIMIT $1 FOR UPDATE SKIP LOCKED
) due
WHERE e.id = due.id
RETURNING ",
    effect_columns!()
);

/// Takes the unknown effects whose next look is due.
pub async fn looks_due(pools: &Pools, limit: u32, hold: Duration) -> Result<Vec<Effect>> {
    // not made again by itself: what was taken is looked at after its hold
    let query = sqlx::query(LOOKS_DUE)
        .bind(i64::from(limit))
        .bind(seconds(hold));
    let rows = pools.call(query.fetch_all(pools.main())).await?;
    let rows = rows.iter().map(codec::effect);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

const IS_ANOTHERS: &str = "
SELECT EXISTS (
    SELECT FROM presswork.effects
    WHERE account = $1 AND state = 'confirmed' AND $2 <= permit_at AND op = $3 AND id <> $4
      AND 0 < position($5 IN receipt)
)";

/// Whether another effect has this remote id for its own.
pub async fn is_anothers(
    pools: &Pools,
    effect: &Effect,
    remote_id: &str,
    since: Time,
) -> Result<bool> {
    let query = sqlx::query_scalar(IS_ANOTHERS)
        .bind(&effect.account)
        .bind(since)
        .bind(&effect.op)
        .bind(effect.id.0)
        .bind(Receipt::naming(remote_id));
    let found = pools.call(query.fetch_one(pools.planned())).await?;
    Ok(found && !sabotage!("judge.anothers"))
}

/// The effects of which a run holds the last permit without a known answer.
pub async fn sending(pools: &Pools, run: Uuid) -> Result<Vec<Effect>> {
    let sql = concat!(
        "SELECT ",
        effect_columns!(),
        " FROM presswork.effects e WHERE e.permit_run = $1 AND e.state = 'sending' ORDER BY e.n"
    );
    let query = sqlx::query(sql).bind(run);
    let rows = pools.call(query.fetch_all(pools.planned())).await?;
    let rows = rows.iter().map(codec::effect);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

/// The effects of a job, in the order they were written down.
pub async fn effects(pools: &Pools, job: JobId) -> Result<Vec<Effect>> {
    let sql = concat!(
        "SELECT ",
        effect_columns!(),
        " FROM presswork.effects e WHERE e.job = $1 ORDER BY e.n"
    );
    let query = sqlx::query(sql).bind(job.0);
    let rows = pools.call(query.fetch_all(pools.planned())).await?;
    let rows = rows.iter().map(codec::effect);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}
