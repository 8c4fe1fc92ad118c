//! Media: what is stored, which jobs hold it, and what URLs led to.

use std::time::Duration;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::map::{get, text, time};
use super::open::told;
use crate::job::JobId;
use crate::json::Digest;
use crate::ledger::door::{LedgerError, Result};
use crate::ledger::rows::{Fetched, Stored};
use crate::reference::named_in;

fn digest(row: &SqliteRow, column: &str) -> Result<Digest> {
    let bytes: Vec<u8> = get(row, column)?;
    let odd = |_| LedgerError::Other(format!("a row that this program can't read: {column}"));
    bytes.try_into().map(Digest).map_err(odd)
}

fn read(row: &SqliteRow) -> Result<Stored> {
    let names = (get(row, "place")?, get(row, "mime")?);
    let pixels = (get(row, "width")?, get(row, "height")?);
    Stored::of_columns(digest(row, "digest")?, names, get(row, "size")?, pixels)
        .map_err(|e| LedgerError::Other(format!("a row that this program can't read: {e}")))
}

/// Holds what a text names for its job, within the transaction that writes the text.
pub async fn hold(conn: &mut SqliteConnection, now: i64, job: JobId, text: &str) -> Result<()> {
    for named in named_in(text) {
        touched(conn, now, named).await?;
        sqlx::query("INSERT INTO media_holds (digest, job) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(&named.0[..])
            .bind(job.0)
            .execute(&mut *conn)
            .await
            .map_err(told)?;
    }
    Ok(())
}

/// Writes down that media are stored.
pub async fn keep(conn: &mut SqliteConnection, now: i64, it: &Stored) -> Result<Stored> {
    let row = sqlx::query(
        "INSERT INTO media (digest, place, mime, size, width, height, at, touched_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)
         ON CONFLICT (digest) DO UPDATE SET touched_at = excluded.touched_at
         RETURNING *",
    )
    .bind(&it.digest.0[..])
    .bind(&it.place)
    .bind(&it.mime)
    .bind(i64::try_from(it.size).unwrap_or(i64::MAX))
    .bind(it.pixels.map(|it| it.width))
    .bind(it.pixels.map(|it| it.height))
    .bind(now)
    .fetch_one(conn)
    .await
    .map_err(told)?;
    read(&row)
}

/// What is stored under a digest, its grace anew.
pub async fn touched(
    conn: &mut SqliteConnection,
    now: i64,
    digest: Digest,
) -> Result<Option<Stored>> {
    let row = sqlx::query("UPDATE media SET touched_at = ? WHERE digest = ? RETURNING *")
        .bind(now)
        .bind(&digest.0[..])
        .fetch_optional(conn)
        .await
        .map_err(told)?;
    row.as_ref().map(read).transpose()
}

/// What is stored under these digests.
pub async fn stored(conn: &mut SqliteConnection, digests: &[Digest]) -> Result<Vec<Stored>> {
    let digests: Vec<String> = digests.iter().map(Digest::hex).collect();
    let rows =
        sqlx::query("SELECT * FROM media WHERE digest IN (SELECT unhex(value) FROM json_each(?))")
            .bind(text(&digests)?)
            .fetch_all(conn)
            .await
            .map_err(told)?;
    rows.iter().map(read).collect()
}

/// The media that a job holds.
pub async fn held(conn: &mut SqliteConnection, job: JobId) -> Result<Vec<Digest>> {
    let rows = sqlx::query("SELECT digest FROM media_holds WHERE job = ? ORDER BY digest")
        .bind(job.0)
        .fetch_all(conn)
        .await
        .map_err(told)?;
    rows.iter().map(|row| digest(row, "digest")).collect()
}

/// Forgets media that no job holds. (A hold is written with its job and dropped with it.)
pub async fn free(
    conn: &mut SqliteConnection,
    now: i64,
    grace: Duration,
    limit: u32,
) -> Result<Vec<Stored>> {
    let grace = i64::try_from(grace.as_micros()).unwrap_or(i64::MAX / 2);
    let rows = sqlx::query(
        "DELETE FROM media WHERE digest IN
             (SELECT digest FROM media m WHERE touched_at < ?
              AND NOT EXISTS (SELECT 1 FROM media_holds h WHERE h.digest = m.digest)
              ORDER BY touched_at LIMIT ?)
         RETURNING *",
    )
    .bind(now.saturating_sub(grace))
    .bind(limit)
    .fetch_all(conn)
    .await
    .map_err(told)?;
    rows.iter().map(read).collect()
}

/// Writes down what a URL led to.
pub async fn keep_fetched(conn: &mut SqliteConnection, now: i64, it: &Fetched) -> Result<bool> {
    let done = sqlx::query(
        "INSERT OR REPLACE INTO media_fetched (url, landed, digest, etag, last_modified, at)
         SELECT ?, ?, digest, ?, ?, ? FROM media WHERE digest = ?",
    )
    .bind(&it.url.0[..])
    .bind(&it.landed.0[..])
    .bind(&it.etag)
    .bind(&it.last_modified)
    .bind(now)
    .bind(&it.media.0[..])
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(done.rows_affected() == 1)
}

/// What a URL led to.
pub async fn fetched(conn: &mut SqliteConnection, url: Digest) -> Result<Option<Fetched>> {
    let row = sqlx::query("SELECT * FROM media_fetched WHERE url = ?")
        .bind(&url.0[..])
        .fetch_optional(conn)
        .await
        .map_err(told)?;
    let read = |row: &SqliteRow| {
        Ok(Fetched {
            url: digest(row, "url")?,
            landed: digest(row, "landed")?,
            media: digest(row, "digest")?,
            etag: get(row, "etag")?,
            last_modified: get(row, "last_modified")?,
            at: time(get(row, "at")?)?,
        })
    };
    row.as_ref().map(read).transpose()
}
