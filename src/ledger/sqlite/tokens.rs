//! The API's tokens.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::intake::audit as note;
use super::map::{get, maybe_time, micros, odd, time, word};
use super::open::told;
use crate::clock::Time;
use crate::json::Digest;
use crate::ledger::door::Result;
use crate::ledger::rows::Audit;
use crate::token::{Grant, Token, TokenId};

/// A use is written down once in so many microseconds.
const USED_EVERY: i64 = 60 * 1_000_000;

fn read(row: &SqliteRow) -> Result<Token> {
    let digest: &[u8] = get(row, "digest")?;
    Ok(Token {
        id: word(get(row, "id")?)?,
        name: get(row, "name")?,
        digest: digest
            .try_into()
            .map(Digest)
            .map_err(|e| odd("digest", e))?,
        grant: Grant::read(get(row, "scopes")?, get(row, "tenant")?)
            .map_err(|e| odd("scope", e))?,
        created_at: time(get(row, "created_at")?)?,
        created_by: get(row, "created_by")?,
        expires_at: maybe_time(get(row, "expires_at")?)?,
        revoked_at: maybe_time(get(row, "revoked_at")?)?,
        last_used_at: maybe_time(get(row, "last_used_at")?)?,
    })
}

/// Writes a new token down.
pub async fn add(
    conn: &mut SqliteConnection,
    now: i64,
    token: &Token,
    audit: &Audit,
) -> Result<bool> {
    let added = sqlx::query(
        "INSERT INTO tokens (id, name, digest, scopes, tenant, created_at, created_by, expires_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(token.id.to_string())
    .bind(&token.name)
    .bind(&token.digest.0[..])
    .bind(token.grant.words())
    .bind(&token.grant.tenant)
    .bind(now)
    .bind(&token.created_by)
    .bind(token.expires_at.map(micros))
    .execute(&mut *conn)
    .await
    .map_err(told)?;
    let added = added.rows_affected() == 1;
    if added {
        note(conn, now, audit).await?;
    }
    Ok(added)
}

/// A token, and the ledger's time.
pub async fn one(
    conn: &mut SqliteConnection,
    now: i64,
    id: TokenId,
) -> Result<Option<(Token, Time)>> {
    let row = sqlx::query("SELECT * FROM tokens WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await
        .map_err(told)?;
    row.map(|it| Ok((read(&it)?, time(now)?))).transpose()
}

/// Tokens, newest first.
pub async fn all(conn: &mut SqliteConnection, limit: u32) -> Result<Vec<Token>> {
    let rows = sqlx::query("SELECT * FROM tokens ORDER BY created_at DESC, id LIMIT ?")
        .bind(limit)
        .fetch_all(conn)
        .await
        .map_err(told)?;
    rows.iter().map(read).collect()
}

/// Takes a token back.
pub async fn revoke(
    conn: &mut SqliteConnection,
    now: i64,
    id: TokenId,
    audit: &Audit,
) -> Result<bool> {
    let revoked =
        sqlx::query("UPDATE tokens SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL")
            .bind(now)
            .bind(id.to_string())
            .execute(&mut *conn)
            .await
            .map_err(told)?;
    let revoked = revoked.rows_affected() == 1;
    if revoked {
        note(conn, now, audit).await?;
    }
    Ok(revoked)
}

/// A token was used.
pub async fn used(conn: &mut SqliteConnection, now: i64, id: TokenId) -> Result<()> {
    sqlx::query(
        "UPDATE tokens SET last_used_at = ?
         WHERE id = ? AND (last_used_at IS NULL OR last_used_at <= ?)",
    )
    .bind(now)
    .bind(id.to_string())
    .bind(now - USED_EVERY)
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(())
}
