//! Logins that are under way.

use async_trait::async_trait;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::map::{get, json, micros, text, time};
use super::open::told;
use super::store::Sqlite;
use crate::account::Sealed;
use crate::ledger::door::{Logins, Result};
use crate::oauth::begun::{Begun, Ended};

/// What is so many microseconds past is forgotten.
const KEPT: i64 = 3_600 * 1_000_000;

fn read(row: &SqliteRow) -> Result<Begun> {
    let key: Option<String> = get(row, "key")?;
    let sealed = key.zip(get(row, "verifier")?);
    Ok(Begun {
        digest: get(row, "digest")?,
        account: get(row, "account")?,
        platform: get(row, "platform")?,
        tenant: get(row, "tenant")?,
        label: get(row, "label")?,
        settings: json(get(row, "settings")?)?,
        client: get(row, "client")?,
        redirect: get(row, "redirect")?,
        verifier: sealed.map(|(key, bytes)| Sealed { key, bytes }),
        by: get(row, "begun_by")?,
        until: time(get(row, "until")?)?,
        replaces: get(row, "replaces")?,
    })
}

async fn begin(conn: &mut SqliteConnection, now: i64, it: Begun) -> Result<()> {
    sqlx::query("DELETE FROM logins WHERE until < ?")
        .bind(now - KEPT)
        .execute(&mut *conn)
        .await
        .map_err(told)?;
    sqlx::query(
        "INSERT INTO logins (digest, account, platform, tenant, label, settings, client, redirect, key,
             verifier, begun_by, until, replaces)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&it.digest)
    .bind(&it.account)
    .bind(&it.platform)
    .bind(&it.tenant)
    .bind(&it.label)
    .bind(text(&it.settings)?)
    .bind(&it.client)
    .bind(&it.redirect)
    .bind(it.verifier.as_ref().map(|it| &it.key))
    .bind(it.verifier.as_ref().map(|it| &it.bytes))
    .bind(&it.by)
    .bind(micros(it.until))
    .bind(it.replaces)
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(())
}

async fn take(conn: &mut SqliteConnection, now: i64, digest: Vec<u8>) -> Result<Option<Begun>> {
    let row = sqlx::query(
        "UPDATE logins SET taken_at = ?1 WHERE digest = ?2 AND taken_at IS NULL AND ?1 < until
         RETURNING *",
    )
    .bind(now)
    .bind(digest)
    .fetch_optional(conn)
    .await
    .map_err(told)?;
    row.as_ref().map(read).transpose()
}

async fn end(conn: &mut SqliteConnection, digest: Vec<u8>, end: Ended) -> Result<()> {
    sqlx::query("UPDATE logins SET done = ?, told = ? WHERE digest = ?")
        .bind(end.done)
        .bind(&end.told)
        .bind(digest)
        .execute(conn)
        .await
        .map_err(told)?;
    Ok(())
}

#[async_trait]
impl Logins for Sqlite {
    async fn begin_login(&self, it: &Begun) -> Result<()> {
        let it = it.clone();
        self.write(move |tx, now| Box::pin(begin(tx, now, it)))
            .await
    }

    async fn take_login(&self, digest: &[u8]) -> Result<Option<Begun>> {
        let digest = digest.to_vec();
        self.write(move |tx, now| Box::pin(take(tx, now, digest)))
            .await
    }

    async fn end_login(&self, digest: &[u8], it: &Ended) -> Result<()> {
        let (digest, it) = (digest.to_vec(), it.clone());
        self.write(move |tx, _| Box::pin(end(tx, digest, it))).await
    }

    async fn login_end(&self, digest: &[u8]) -> Result<Option<Ended>> {
        let sql = "SELECT done, told FROM logins WHERE digest = ? AND done IS NOT NULL";
        let row = sqlx::query(sql)
            .bind(digest)
            .fetch_optional(&mut *self.reader().await?)
            .await
            .map_err(told)?;
        let read = |row: SqliteRow| {
            Ok(Ended {
                done: get(&row, "done")?,
                told: get(&row, "told")?,
            })
        };
        row.map(read).transpose()
    }
}
