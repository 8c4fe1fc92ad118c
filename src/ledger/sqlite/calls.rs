//! Work that platforms go on with: whose it is, when it is known what became of it, and the call-backs
//! that were taken.

use sqlx::SqliteConnection;

use super::effects::witness;
use super::map::{get, text};
use super::open::told;
use crate::effect::{EffectId, Evidence};
use crate::job::JobId;
use crate::ledger::door::{Result, Word};

/// The job that waits for what a platform does under a handle.
pub async fn job_of_handle(
    conn: &mut SqliteConnection,
    account: &str,
    handle: &str,
) -> Result<Option<JobId>> {
    let row = sqlx::query(
        "SELECT job FROM effects WHERE account = ? AND handle = ? ORDER BY seq DESC LIMIT 1",
    )
    .bind(account)
    .bind(handle)
    .fetch_optional(conn)
    .await
    .map_err(told)?;
    row.map(|it| Ok(JobId(get(&it, 0)?))).transpose()
}

/// Takes a handle off its effect.
pub async fn let_go(
    conn: &mut SqliteConnection,
    job: JobId,
    handle: &str,
    seen: &Evidence,
) -> Result<()> {
    let row =
        sqlx::query("UPDATE effects SET handle = NULL WHERE job = ? AND handle = ? RETURNING id")
            .bind(job.0)
            .bind(handle)
            .fetch_optional(&mut *conn)
            .await
            .map_err(told)?;
    match row {
        Some(row) => witness(conn, EffectId(get(&row, 0)?), seen).await,
        None => Ok(()),
    }
}

/// Writes down what a call-back said.
pub async fn called_back(
    conn: &mut SqliteConnection,
    account: &str,
    effect: EffectId,
    said: &Word,
) -> Result<Option<JobId>> {
    let job = sqlx::query(
        "SELECT job FROM effects WHERE id = ? AND account = ?
           AND (handle IS NOT NULL OR state IN ('sending', 'unknown', 'unresolved'))",
    )
    .bind(effect.0)
    .bind(account)
    .fetch_optional(&mut *conn)
    .await
    .map_err(told)?;
    let Some(job) = job.map(|it| Ok(JobId(get(&it, 0)?))).transpose()? else {
        return Ok(None);
    };
    let written = match said {
        Word::Progress(it) => sqlx::query("UPDATE jobs SET progress = ? WHERE id = ?")
            .bind(text(it)?)
            .bind(job.0)
            .execute(conn),
        Word::End(it) => sqlx::query("UPDATE effects SET told = coalesce(told, ?) WHERE id = ?")
            .bind(it)
            .bind(effect.0)
            .execute(conn),
    };
    written.await.map_err(told)?;
    Ok(Some(job))
}

/// Whether a call-back was taken before.
pub async fn heard(conn: &mut SqliteConnection, account: &str, id: &str) -> Result<bool> {
    let row = sqlx::query("SELECT 1 FROM calls WHERE account = ? AND id = ?")
        .bind(account)
        .bind(id)
        .fetch_optional(conn)
        .await
        .map_err(told)?;
    Ok(row.is_some())
}

/// Writes down that a call-back was taken.
pub async fn hear(conn: &mut SqliteConnection, now: i64, account: &str, id: &str) -> Result<()> {
    sqlx::query("INSERT INTO calls (account, id, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(account)
        .bind(id)
        .bind(now)
        .execute(conn)
        .await
        .map_err(told)?;
    Ok(())
}
