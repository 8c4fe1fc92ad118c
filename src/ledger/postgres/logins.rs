//! Logins that are under way.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::codec;
use super::pool::{Pools, explain};
use crate::account::Sealed;
use crate::ledger::door::{LedgerError, Result};
use crate::oauth::begun::{Begun, Ended};

const BEGIN: &str = "
WITH past AS (
    DELETE FROM presswork.logins WHERE until < presswork.now() - interval '1 hour'
)
INSERT INTO presswork.logins (digest, account, platform, tenant, label, settings, client, redirect, key,
                              verifier, begun_by, until, replaces)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

const TAKE: &str = "
UPDATE presswork.logins SET taken_at = presswork.now()
WHERE digest = $1 AND taken_at IS NULL AND presswork.now() < until
RETURNING digest, account, platform, tenant, label, settings, client, redirect, key, verifier, begun_by, until,
    replaces";

fn read(row: &PgRow) -> sqlx::Result<Begun> {
    let settings: String = row.try_get("settings")?;
    let settings = serde_json::from_str(&settings).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    let key: Option<String> = row.try_get("key")?;
    let sealed = key.zip(row.try_get("verifier")?);
    Ok(Begun {
        digest: row.try_get("digest")?,
        account: row.try_get("account")?,
        platform: row.try_get("platform")?,
        tenant: row.try_get("tenant")?,
        label: row.try_get("label")?,
        settings,
        client: row.try_get("client")?,
        redirect: row.try_get("redirect")?,
        verifier: sealed.map(|(key, bytes)| Sealed { key, bytes }),
        by: row.try_get("begun_by")?,
        until: row.try_get("until")?,
        replaces: row.try_get("replaces")?,
    })
}

/// Writes a login down.
pub async fn begin(pools: &Pools, it: &Begun) -> Result<()> {
    let settings = serde_json::to_string(&it.settings)
        .map_err(|e| LedgerError::Row(format!("an account's settings are no JSON: {e}")))?;
    let query = sqlx::query(BEGIN)
        .bind(&it.digest)
        .bind(codec::plain(&it.account))
        .bind(codec::plain(&it.platform))
        .bind(it.tenant.as_deref().map(codec::plain))
        .bind(codec::plain(&it.label))
        .bind(codec::plain(&settings))
        .bind(codec::plain(&it.client))
        .bind(codec::plain(&it.redirect))
        .bind(it.verifier.as_ref().map(|it| codec::plain(&it.key)))
        .bind(it.verifier.as_ref().map(|it| &it.bytes))
        .bind(codec::plain(&it.by))
        .bind(it.until)
        .bind(it.replaces);
    let done = pools.call(query.execute(pools.main()));
    done.await.map(|_| ())
}

/// Takes a login, once and in time.
pub async fn take(pools: &Pools, digest: &[u8]) -> Result<Option<Begun>> {
    let query = sqlx::query(TAKE).bind(digest);
    let row = pools.call(query.fetch_optional(pools.main()));
    let row = row.await?;
    row.as_ref().map(read).transpose().map_err(explain)
}

/// Says how it ended.
pub async fn end(pools: &Pools, digest: &[u8], it: &Ended) -> Result<()> {
    let sql = "UPDATE presswork.logins SET done = $2, told = $3 WHERE digest = $1";
    let query = sqlx::query(sql).bind(digest).bind(it.done);
    let query = query.bind(codec::plain(&it.told));
    let done = pools.call(query.execute(pools.main()));
    done.await.map(|_| ())
}

/// How it ended.
pub async fn ended(pools: &Pools, digest: &[u8]) -> Result<Option<Ended>> {
    let sql = "SELECT done, told FROM presswork.logins WHERE digest = $1 AND done IS NOT NULL";
    let query = sqlx::query(sql).bind(digest);
    let row = pools.call(query.fetch_optional(pools.main()));
    let read = |row: PgRow| {
        Ok(Ended {
            done: row.try_get("done")?,
            told: row.try_get("told")?,
        })
    };
    row.await?.map(read).transpose().map_err(explain)
}
