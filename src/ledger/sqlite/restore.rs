//! The ledger as a file: copied for a backup, and made to know that it was restored from one.

use std::path::Path;

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::intake::audit;
use super::map::{get, micros, text};
use super::open::{options, told};
use crate::clock::Clock;
use crate::effect::{Evidence, restored};
use crate::ledger::door::{LedgerError, Result};
use crate::ledger::rows::{Audit, GENERATIONS_SKIPPED, Restored};

/// Copies what a reader sees at one moment.
pub async fn copy(conn: &mut SqliteConnection, file: &Path) -> Result<()> {
    let Some(file) = file.to_str() else {
        let said = format!("{} is no UTF-8: choose another folder", file.display());
        return Err(LedgerError::Other(said));
    };
    let done = sqlx::query("VACUUM INTO ?").bind(file).execute(conn).await;
    done.map(|_| ()).map_err(told)
}

/// Makes a restored file know that it was: runs are over, and what they ran is put back; the queue is
/// filled anew. Unless nothing ran since the backup, whatever wasn't confirmed by then may have been
/// sent, and what waited for its kind may have been accepted. All of it or nothing; the file is whole
/// and closed when this returns.
///
/// # Errors
/// When the file is damaged, or can't be written.
pub async fn renew(file: &Path, it: &Restored, clock: &Clock) -> Result<()> {
    let mut conn = options(file).connect().await.map_err(told)?;
    let said = sqlx::query("PRAGMA quick_check(1)").fetch_one(&mut conn);
    let said: String = get(&said.await.map_err(told)?, 0)?;
    if said != "ok" {
        return Err(LedgerError::Other(format!("the ledger is damaged: {said}")));
    }
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(told)?;
    let now = micros(clock.now());
    sqlx::query("UPDATE runs SET ended = 1, lease_until = min(lease_until, ?), named = '[]'")
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(told)?;
    let freed = sqlx::query(
        "UPDATE jobs SET state = 'ready', run = NULL, token = NULL, claimed_at = NULL, progress = NULL,
             version = version + 1
         WHERE state = 'running'",
    )
    .execute(&mut *tx)
    .await
    .map_err(told)?;
    sqlx::query("UPDATE meta SET generation = generation + ?, server = NULL")
        .bind(GENERATIONS_SKIPPED)
        .execute(&mut *tx)
        .await
        .map_err(told)?;
    let doubted = match it.nothing_ran {
        true => 0,
        false => doubt(&mut tx, now, it).await?,
    };
    let freed = freed.rows_affected();
    let detail = format!(
        "{}; {freed} running jobs were put back, {doubted} effects may have been sent since",
        it.detail
    );
    let why = Audit {
        actor: it.actor.clone(),
        action: "restore".to_owned(),
        job: None,
        detail,
        at: it.backup_at,
    };
    audit(&mut tx, now, &why).await?;
    tx.commit().await.map_err(told)?;
    conn.close().await.map_err(told)
}

/// Marks what may have been done since the backup; how many effects. A handle (class B) may have been
/// replaced since: nothing that is read through it clears.
async fn doubt(conn: &mut SqliteConnection, now: i64, it: &Restored) -> Result<u64> {
    let evidence = Evidence::new(it.backup_at, restored(it.backup_at));
    let doubted = sqlx::query(
        "UPDATE effects SET state = iif(state = 'unresolved', state, 'unknown'),
             maybe_since = min(coalesce(maybe_since, ?1), ?1), key_lost = key_lost OR class = 'B',
             evidence = json_insert(evidence, '$[#]', json(?2))
         WHERE state <> 'confirmed' AND job IN (SELECT id FROM jobs)",
    )
    .bind(micros(it.backup_at))
    .bind(text(&evidence)?)
    .execute(&mut *conn)
    .await
    .map_err(told)?;
    sqlx::query(
        "UPDATE meta SET backup_at = min(coalesce(backup_at, ?1), ?1),
             restored_at = 1 + max(coalesce(restored_at, ?1), ?1, ?2,
                                   (SELECT coalesce(max(created_at), 0) FROM jobs))",
    )
    .bind(micros(it.backup_at))
    .bind(now)
    .execute(&mut *conn)
    .await
    .map_err(told)?;
    sqlx::query(
        "UPDATE quarantine SET reason = 'refused', message = message || ?
         WHERE reason = 'unknown_kind'",
    )
    .bind(it.parked())
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(doubted.rows_affected())
}
