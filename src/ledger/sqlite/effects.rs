//! Steps and effects: what a re-run finds, and the single-use permit.

use std::time::Duration;

use sqlx::SqliteConnection;
use uuid::Uuid;

use super::intake::audit;
use super::map::{effect, get, json, micros, span_micros, text};
use super::media;
use super::open::told;
use crate::clock::Time;
use crate::effect::{Effect, EffectId, EffectState, Evidence, Receipt};
use crate::job::JobId;
use crate::ledger::door::Result;
use crate::ledger::rows::{Audit, Conclusion, Fence};

/// The recorded value of a step.
pub async fn step(
    conn: &mut SqliteConnection,
    job: JobId,
    revision: u32,
    name: &str,
) -> Result<Option<String>> {
    let row = sqlx::query("SELECT value FROM steps WHERE job = ? AND revision = ? AND name = ?")
        .bind(job.0)
        .bind(revision)
        .bind(name)
        .fetch_optional(conn)
        .await
        .map_err(told)?;
    row.map(|it| get(&it, 0)).transpose()
}

/// Whether the lease is the current one.
async fn is_mine(conn: &mut SqliteConnection, fence: &Fence) -> Result<bool> {
    let row = sqlx::query("SELECT 1 FROM jobs WHERE id = ? AND token = ? AND run = ?")
        .bind(fence.job.0)
        .bind(fence.token)
        .bind(fence.run)
        .fetch_optional(conn)
        .await
        .map_err(told)?;
    Ok(row.is_some())
}

/// Records a step's value; the first stays.
pub async fn record_step(
    conn: &mut SqliteConnection,
    now: i64,
    fence: &Fence,
    name: &str,
    value: &str,
) -> Result<bool> {
    if !is_mine(conn, fence).await? {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO steps (job, revision, name, value) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(fence.job.0)
    .bind(fence.revision)
    .bind(name)
    .bind(value)
    .execute(&mut *conn)
    .await
    .map_err(told)?;
    media::hold(conn, now, fence.job, value).await?;
    Ok(true)
}

async fn one(conn: &mut SqliteConnection, id: EffectId) -> Result<Option<Effect>> {
    let row = sqlx::query("SELECT * FROM effects WHERE id = ?")
        .bind(id.0)
        .fetch_optional(conn)
        .await
        .map_err(told)?;
    row.as_ref().map(effect).transpose()
}

/// Writes an effect down unless it is there. What a job from before a restore writes down for the first
/// time may have been sent after the backup: then under a key that is lost, where one is minted.
pub async fn intend(
    conn: &mut SqliteConnection,
    fence: &Fence,
    it: &Effect,
) -> Result<Option<Effect>> {
    if !is_mine(conn, fence).await? {
        return Ok(None);
    }
    sqlx::query(
        "INSERT INTO effects (id, job, revision, step, account, op, class, intent, keep, evidence, state,
             maybe_since, key_lost, content, guard_s)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, iif(since IS NULL, 'intended', 'unknown'), since,
             since IS NOT NULL AND ?9 <> 'null', ?11,
             iif(EXISTS (SELECT 1 FROM contents WHERE job = ?2 AND again), NULL, ?12)
         FROM (SELECT iif(j.created_at < m.restored_at, m.backup_at, NULL) AS since
               FROM jobs j, meta m WHERE j.id = ?2) WHERE true
         ON CONFLICT DO UPDATE SET keep = excluded.keep
         WHERE class = 'B' AND state IN ('intended', 'refused')",
    )
    .bind(it.id.0)
    .bind(it.job.0)
    .bind(it.revision)
    .bind(&it.step)
    .bind(&it.account)
    .bind(&it.op)
    .bind(it.class.as_str())
    .bind(&it.intent)
    .bind(text(&it.keep)?)
    .bind(text(&it.evidence)?)
    .bind(it.content.map(|it| it.0.to_vec()))
    .bind(it.guard_s)
    .execute(&mut *conn)
    .await
    .map_err(told)?;
    one(conn, it.id).await
}

/// The single-use permit.
pub async fn permit(
    conn: &mut SqliteConnection,
    now: i64,
    fence: &Fence,
    id: EffectId,
    (state, sends): (EffectState, u32),
    (budget, platform): (Duration, Option<&str>),
) -> Result<bool> {
    let budget = i64::try_from(budget.as_micros()).unwrap_or(i64::MAX / 2);
    let given = sqlx::query(
        "UPDATE effects SET state = 'sending', sends = sends + 1, permit_at = ?1, permit_run = ?2,
             first_sent_at = coalesce(first_sent_at, ?1), looks = 0, look_at = NULL
         WHERE id = ?3 AND job = ?4 AND state = ?5 AND sends = ?6
           AND EXISTS (SELECT 1 FROM jobs WHERE id = ?4 AND token = ?7 AND run = ?2)
           AND EXISTS (SELECT 1 FROM runs WHERE id = ?2 AND ended = 0 AND lease_until > ?8)
           AND (guard_s IS NULL OR NOT EXISTS (
               SELECT 1 FROM effects o WHERE o.account = effects.account AND o.content = effects.content
                   AND o.id <> effects.id AND o.state IN ('sending', 'confirmed', 'unknown', 'unresolved')
                   AND o.permit_at > ?1 - effects.guard_s * 1000000))
           AND NOT EXISTS (
               SELECT 1 FROM closures c JOIN jobs j ON j.id = ?4
               WHERE (c.until IS NULL OR ?1 < c.until)
                 AND (c.platform = '' OR c.platform = ?9) AND (c.account = '' OR c.account = effects.account)
                 AND (c.tenant = '' OR c.tenant = j.tenant) AND (c.kind = '' OR c.kind = j.kind)
                 AND (c.mark = '' OR instr(j.labels, c.mark)))
           AND NOT EXISTS (
               SELECT 1 FROM effects o WHERE o.job = effects.job AND o.revision = effects.revision
                   AND o.account <> effects.account AND o.state <> 'intended')
           AND NOT EXISTS (
               SELECT 1 FROM accounts a JOIN jobs j ON j.id = ?4
               WHERE a.name = effects.account AND a.tenant <> j.tenant)",
    )
    .bind(now)
    .bind(fence.run)
    .bind(id.0)
    .bind(fence.job.0)
    .bind(state.as_str())
    .bind(sends)
    .bind(fence.token)
    .bind(now.saturating_add(budget))
    .bind(platform)
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(given.rows_affected() == 1)
}

/// The last effect of the same account that says the same and may have happened.
pub async fn repeats(
    conn: &mut SqliteConnection,
    now: i64,
    id: EffectId,
    within: Duration,
) -> Result<Option<Effect>> {
    let row = sqlx::query(
        "SELECT o.* FROM effects e
         JOIN effects o ON o.account = e.account AND o.content = e.content AND o.id <> e.id
         WHERE e.id = ? AND o.state IN ('sending', 'confirmed', 'unknown', 'unresolved') AND o.permit_at > ?
         ORDER BY o.permit_at DESC LIMIT 1",
    )
    .bind(id.0)
    .bind(now.saturating_sub(span_micros(within)))
    .fetch_optional(conn)
    .await
    .map_err(told)?;
    row.as_ref().map(effect).transpose()
}

/// Ends what permit number `sends` began.
pub async fn conclude(
    conn: &mut SqliteConnection,
    now: i64,
    id: EffectId,
    sends: u32,
    it: &Conclusion,
) -> Result<bool> {
    let Some(before) = one(conn, id)
        .await?
        .filter(|e| e.state == EffectState::Sending && e.sends == sends)
    else {
        return Ok(false);
    };
    change(conn, now, before, it).await?;
    Ok(true)
}

/// A person's, or a decision's, word.
pub async fn decide(
    conn: &mut SqliteConnection,
    now: i64,
    id: EffectId,
    from: (EffectState, u32),
    it: &Conclusion,
    why: Option<&Audit>,
) -> Result<bool> {
    let Some(before) = one(conn, id).await?.filter(|e| (e.state, e.sends) == from) else {
        return Ok(false);
    };
    change(conn, now, before, it).await?;
    if !matches!(it.to, EffectState::Unresolved | EffectState::Unknown) {
        // whoever says whether it happened says so of all that may have been sent
        sqlx::query("UPDATE effects SET maybe_since = NULL, key_lost = 0 WHERE id = ?")
            .bind(id.0)
            .execute(&mut *conn)
            .await
            .map_err(told)?;
    }
    if let Some(why) = why {
        audit(conn, now, why).await?;
    }
    Ok(true)
}

async fn change(
    conn: &mut SqliteConnection,
    now: i64,
    before: Effect,
    it: &Conclusion,
) -> Result<()> {
    let receipt = it
        .receipt
        .as_ref()
        .or(before.receipt.as_ref())
        .map(text)
        .transpose()?;
    let mut evidence = before.evidence;
    evidence.push(it.evidence.clone());
    let look_at = it.look_in.map(|wait| now.saturating_add(span_micros(wait)));
    sqlx::query(
        "UPDATE effects SET state = ?, receipt = ?, evidence = ?, look_at = ?, handle = ? WHERE id = ?",
    )
    .bind(it.to.as_str())
    .bind(receipt)
    .bind(text(&evidence)?)
    .bind(look_at)
    .bind(it.handle())
    .bind(before.id.0)
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(())
}

/// Adds to an effect's evidence.
pub async fn witness(conn: &mut SqliteConnection, id: EffectId, seen: &Evidence) -> Result<()> {
    let row = sqlx::query("SELECT evidence FROM effects WHERE id = ?")
        .bind(id.0)
        .fetch_optional(&mut *conn)
        .await
        .map_err(told)?;
    let Some(row) = row else { return Ok(()) };
    let mut evidence: Vec<Evidence> = json(get(&row, 0)?)?;
    evidence.push(seen.clone());
    sqlx::query("UPDATE effects SET evidence = ? WHERE id = ?")
        .bind(text(&evidence)?)
        .bind(id.0)
        .execute(conn)
        .await
        .map_err(told)?;
    Ok(())
}

/// Takes the unknown effects whose next look is due.
pub async fn looks_due(
    conn: &mut SqliteConnection,
    now: i64,
    limit: u32,
    hold: Duration,
) -> Result<Vec<Effect>> {
    let rows = sqlx::query(
        "UPDATE effects SET looks = looks + 1, look_at = ? WHERE id IN
             (SELECT id FROM effects WHERE state = 'unknown' AND look_at <= ? ORDER BY look_at LIMIT ?)
         RETURNING *",
    )
    .bind(now.saturating_add(span_micros(hold)))
    .bind(now)
    .bind(limit)
    .fetch_all(conn)
    .await
    .map_err(told)?;
    rows.iter().map(effect).collect()
}

/// Whether another effect has this remote id for its own.
pub async fn is_anothers(
    conn: &mut SqliteConnection,
    it: &Effect,
    remote_id: &str,
    since: Time,
) -> Result<bool> {
    let row = sqlx::query(
        "SELECT 1 FROM effects WHERE account = ? AND state = 'confirmed' AND permit_at >= ? AND op = ?
             AND id <> ? AND instr(receipt, ?)",
    )
    .bind(&it.account)
    .bind(micros(since))
    .bind(&it.op)
    .bind(it.id.0)
    .bind(Receipt::naming(remote_id))
    .fetch_optional(conn)
    .await
    .map_err(told)?;
    Ok(row.is_some())
}

/// The effects of which a run holds the last permit without a known answer.
pub async fn sending(conn: &mut SqliteConnection, run: Uuid) -> Result<Vec<Effect>> {
    let rows = sqlx::query(
        "SELECT * FROM effects WHERE permit_run = ? AND state = 'sending' ORDER BY seq",
    )
    .bind(run)
    .fetch_all(conn)
    .await
    .map_err(told)?;
    rows.iter().map(effect).collect()
}

/// The effects of a job, in order.
pub async fn of_job(conn: &mut SqliteConnection, job: JobId) -> Result<Vec<Effect>> {
    let rows = sqlx::query("SELECT * FROM effects WHERE job = ? ORDER BY seq")
        .bind(job.0)
        .fetch_all(conn)
        .await
        .map_err(told)?;
    rows.iter().map(effect).collect()
}
