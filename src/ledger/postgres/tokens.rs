//! The API's tokens.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::codec;
use super::pool::{Pools, explain};
use crate::clock::Time;
use crate::json::Digest;
use crate::ledger::door::Result;
use crate::ledger::rows::Audit;
use crate::token::{Grant, Token, TokenId};

fn read(row: &PgRow) -> sqlx::Result<Token> {
    let odd = |e: String| sqlx::Error::Decode(e.into());
    let id: String = row.try_get("id")?;
    let digest: Vec<u8> = row.try_get("digest")?;
    let digest = digest.try_into().map(Digest);
    let scopes: String = row.try_get("scopes")?;
    Ok(Token {
        id: id.parse().map_err(odd)?,
        name: row.try_get("name")?,
        digest: digest.map_err(|e| odd(format!("digest: {} bytes", e.len())))?,
        grant: Grant::read(&scopes, row.try_get("tenant")?).map_err(odd)?,
        created_at: row.try_get("created_at")?,
        created_by: row.try_get("created_by")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
        last_used_at: row.try_get("last_used_at")?,
    })
}

/// Asked again after a lost answer it finds its own row: the digest says so.
const ADD: &str = "
WITH added AS (
    INSERT INTO presswork.tokens
        (id, name, digest, scopes, tenant, created_at, created_by, expires_at)
    VALUES ($5, $6, $7, $8, $9, presswork.now(), $10, $11)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
),
noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    SELECT $1, $2, $3, $4, presswork.now() FROM added
)
SELECT EXISTS (SELECT FROM added)
    OR EXISTS (SELECT FROM presswork.tokens WHERE id = $5 AND digest = $7)";

/// Writes a new token down.
pub async fn add(pools: &Pools, token: &Token, audit: &Audit) -> Result<bool> {
    let query = || {
        sqlx::query_scalar(ADD)
            .bind(codec::plain(&audit.actor))
            .bind(codec::plain(&audit.action))
            .bind(audit.job.map(|it| it.0))
            .bind(codec::plain(&audit.detail))
            .bind(token.id.to_string())
            .bind(codec::plain(&token.name))
            .bind(token.digest.0.to_vec())
            .bind(token.grant.words())
            .bind(token.grant.tenant.as_deref().map(codec::plain))
            .bind(codec::plain(&token.created_by))
            .bind(token.expires_at)
            .fetch_one(pools.main())
    };
    pools.again(query).await
}

const ONE: &str = "
SELECT id, name, digest, scopes, tenant, created_at, created_by, expires_at, revoked_at, last_used_at,
       presswork.now() AS now
FROM presswork.tokens WHERE id = $1";

/// A token, and the ledger's time.
pub async fn one(pools: &Pools, id: TokenId) -> Result<Option<(Token, Time)>> {
    let query = sqlx::query(ONE).bind(id.to_string());
    let row = pools.call(query.fetch_optional(pools.main())).await?;
    let read = |row: &PgRow| Ok((read(row)?, row.try_get("now")?));
    row.as_ref().map(read).transpose().map_err(explain)
}

const ALL: &str = "
SELECT id, name, digest, scopes, tenant, created_at, created_by, expires_at, revoked_at, last_used_at
FROM presswork.tokens ORDER BY created_at DESC, id LIMIT $1";

/// Tokens, newest first.
pub async fn all(pools: &Pools, limit: u32) -> Result<Vec<Token>> {
    let query = sqlx::query(ALL).bind(i64::from(limit));
    let rows = pools.call(query.fetch_all(pools.main())).await?;
    let rows = rows.iter().map(read);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

const REVOKE: &str = "
WITH revoked AS (
    UPDATE presswork.tokens SET revoked_at = presswork.now()
    WHERE id = $5 AND revoked_at IS NULL
    RETURNING id
),
noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    SELECT $1, $2, $3, $4, presswork.now() FROM revoked
)
SELECT EXISTS (SELECT FROM revoked)";

/// Takes a token back.
pub async fn revoke(pools: &Pools, id: TokenId, audit: &Audit) -> Result<bool> {
    let query = || {
        sqlx::query_scalar(REVOKE)
            .bind(codec::plain(&audit.actor))
            .bind(codec::plain(&audit.action))
            .bind(audit.job.map(|it| it.0))
            .bind(codec::plain(&audit.detail))
            .bind(id.to_string())
            .fetch_one(pools.main())
    };
    pools.again(query).await
}

const USED: &str = "
UPDATE presswork.tokens SET last_used_at = presswork.now()
WHERE id = $1
  AND (last_used_at IS NULL OR last_used_at <= presswork.now() - interval '1 minute')";

/// A token was used.
pub async fn used(pools: &Pools, id: TokenId) -> Result<()> {
    let query = sqlx::query(USED).bind(id.to_string());
    pools.call(query.execute(pools.main())).await.map(|_| ())
}
