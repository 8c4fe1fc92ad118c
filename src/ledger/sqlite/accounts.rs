//! Accounts. How one stands and its closures are one transaction.

use async_trait::async_trait;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::closures;
use super::intake::audit as note;
use super::map::{get, json, maybe_time, micros, text, time, word};
use super::open::told;
use super::store::Sqlite;
use crate::account::{Granted, Kept, Sealed, State, Turn};
use crate::gate::{Cause, Closure, Scope};
use crate::ledger::door::{Accounts, Gate, Result};
use crate::ledger::rows::Audit;
use crate::person::Person;

fn read(row: &SqliteRow) -> Result<Kept> {
    let scopes: &str = get(row, "scopes")?;
    let by: Option<Uuid> = get(row, "held_by")?;
    let turn = by.zip(maybe_time(get(row, "held_until")?)?);
    let client: Option<String> = get(row, "client")?;
    let granted = match client.zip(maybe_time(get(row, "granted_at")?)?) {
        None => None,
        Some((client, at)) => Some(Granted {
            tries: get(row, "tries")?,
            not_before: maybe_time(get(row, "not_before")?)?,
            refused: get(row, "refused")?,
            ..Granted::new(client, at)
        }),
    };
    let person: Option<String> = get(row, "person_id")?;
    let person = person.zip(get(row, "person_name")?);
    Ok(Kept {
        name: get(row, "name")?,
        platform: get(row, "platform")?,
        tenant: get(row, "tenant")?,
        label: get(row, "label")?,
        settings: json(get(row, "settings")?)?,
        sealed: Sealed {
            key: get(row, "key")?,
            bytes: get(row, "credentials")?,
        },
        version: get(row, "version")?,
        edition: get(row, "edition")?,
        scopes: scopes
            .split(' ')
            .map(str::to_owned)
            .filter(|it| !it.is_empty())
            .collect(),
        expires_at: maybe_time(get(row, "expires_at")?)?,
        state: word(get(row, "state")?)?,
        why: get(row, "why")?,
        since: time(get(row, "since")?)?,
        turn: turn.map(|(by, until)| Turn { by, until }),
        granted,
        person: person.map(|(id, name)| Person { id, name }),
        created_at: time(get(row, "created_at")?)?,
        created_by: get(row, "created_by")?,
    })
}

/// Counts a write.
async fn counted(conn: &mut SqliteConnection) -> Result<i64> {
    let sql = "UPDATE accounts_edition SET edition = edition + 1 RETURNING edition";
    let row = sqlx::query(sql).fetch_one(conn).await.map_err(told)?;
    get(&row, 0)
}

async fn one(conn: &mut SqliteConnection, name: &str) -> Result<Option<Kept>> {
    let query = sqlx::query("SELECT * FROM accounts WHERE name = ?").bind(name);
    let row = query.fetch_optional(conn).await.map_err(told)?;
    row.as_ref().map(read).transpose()
}

async fn add(conn: &mut SqliteConnection, now: i64, it: Kept, audit: Audit) -> Result<bool> {
    // asked again after a lost answer it finds its own row
    if let Some(found) = one(conn, &it.name).await? {
        return Ok(found.sealed == it.sealed);
    }
    let (edition, granted) = (counted(conn).await?, it.granted.as_ref());
    sqlx::query(
        "INSERT INTO accounts (name, platform, tenant, label, settings, key, credentials, version, edition,
             scopes, expires_at, state, why, since, held_by, held_until, created_at, created_by, client,
             granted_at, tries, not_before, refused, person_id, person_name)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?14, ?17, ?18, ?19,
                 ?20, ?21, ?22, ?23, ?24)",
    )
    .bind(&it.name)
    .bind(&it.platform)
    .bind(&it.tenant)
    .bind(&it.label)
    .bind(text(&it.settings)?)
    .bind(&it.sealed.key)
    .bind(&it.sealed.bytes)
    .bind(it.version)
    .bind(edition)
    .bind(it.scopes.join(" "))
    .bind(it.expires_at.map(micros))
    .bind(it.state.as_str())
    .bind(&it.why)
    .bind(now)
    .bind(it.turn.map(|it| it.by))
    .bind(it.turn.map(|it| micros(it.until)))
    .bind(&it.created_by)
    .bind(granted.map(|it| &it.client))
    .bind(granted.map(|it| micros(it.at)))
    .bind(granted.map_or(0, |it| it.tries))
    .bind(granted.and_then(|it| it.not_before).map(micros))
    .bind(granted.is_some_and(|it| it.refused))
    .bind(it.person.as_ref().map(|it| &it.id))
    .bind(it.person.as_ref().map(|it| &it.name))
    .execute(&mut *conn)
    .await
    .map_err(told)?;
    note(conn, now, &audit).await?;
    Ok(true)
}

async fn put(
    conn: &mut SqliteConnection,
    now: i64,
    (was, it): (Kept, Kept),
    audit: Option<Audit>,
) -> Result<Option<i64>> {
    let (edition, granted) = (counted(conn).await?, it.granted.as_ref());
    let done = sqlx::query(
        "UPDATE accounts
         SET platform = ?1, tenant = ?2, label = ?3, settings = ?4, key = ?5, credentials = ?6, version = ?7,
             edition = ?8, scopes = ?9, expires_at = ?10, why = ?12, held_by = ?13, held_until = ?14,
             since = iif(state = ?11, since, ?15), state = ?11,
             client = ?18, granted_at = ?19, tries = ?20, not_before = ?21, refused = ?22,
             person_id = ?23, person_name = ?24
         WHERE name = ?16 AND edition = ?17",
    )
    .bind(&it.platform)
    .bind(&it.tenant)
    .bind(&it.label)
    .bind(text(&it.settings)?)
    .bind(&it.sealed.key)
    .bind(&it.sealed.bytes)
    .bind(it.version)
    .bind(edition)
    .bind(it.scopes.join(" "))
    .bind(it.expires_at.map(micros))
    .bind(it.state.as_str())
    .bind(&it.why)
    .bind(it.turn.map(|it| it.by))
    .bind(it.turn.map(|it| micros(it.until)))
    .bind(now)
    .bind(&it.name)
    .bind(was.edition)
    .bind(granted.map(|it| &it.client))
    .bind(granted.map(|it| micros(it.at)))
    .bind(granted.map_or(0, |it| it.tries))
    .bind(granted.and_then(|it| it.not_before).map(micros))
    .bind(granted.is_some_and(|it| it.refused))
    .bind(it.person.as_ref().map(|it| &it.id))
    .bind(it.person.as_ref().map(|it| &it.name))
    .execute(&mut *conn)
    .await
    .map_err(told)?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    let Gate { close, open } = Gate::between(&was, &it);
    for cause in open {
        closures::open(conn, now, cause, &Scope::of_account(&it.name), None).await?;
    }
    if let Some(cause) = close {
        let actor = audit.as_ref().map_or("presswork", |it| it.actor.as_str());
        let why = it.why.as_deref().unwrap_or_default();
        let closure = Closure::new(cause, Scope::of_account(&it.name), (actor, why), time(now)?);
        closures::close(conn, now, &closure, true, None).await?;
    }
    if let Some(audit) = audit {
        note(conn, now, &audit).await?;
    }
    Ok(Some(edition))
}

async fn remove(conn: &mut SqliteConnection, now: i64, name: String, audit: Audit) -> Result<bool> {
    let Some(was) = one(conn, &name).await? else {
        return Ok(false);
    };
    counted(conn).await?;
    sqlx::query("DELETE FROM accounts WHERE name = ?")
        .bind(&name)
        .execute(&mut *conn)
        .await
        .map_err(told)?;
    closures::open(
        conn,
        now,
        Cause::Credentials,
        &Scope::of_account(&name),
        None,
    )
    .await?;
    if was.state == State::Paused {
        closures::open(conn, now, Cause::Stop, &Scope::of_account(&name), None).await?;
    }
    note(conn, now, &audit).await?;
    Ok(true)
}

#[async_trait]
impl Accounts for Sqlite {
    async fn add_account(&self, it: &Kept, audit: &Audit) -> Result<bool> {
        let (it, audit) = (it.clone(), audit.clone());
        self.write(move |tx, now| Box::pin(add(tx, now, it, audit)))
            .await
    }

    async fn account(&self, name: &str) -> Result<Option<Kept>> {
        one(&mut *self.reader().await?, name).await
    }

    async fn accounts(&self) -> Result<Vec<Kept>> {
        let rows = sqlx::query("SELECT * FROM accounts ORDER BY name")
            .fetch_all(&mut *self.reader().await?)
            .await
            .map_err(told)?;
        rows.iter().map(read).collect()
    }

    async fn put_account(
        &self,
        was: &Kept,
        it: &Kept,
        audit: Option<&Audit>,
    ) -> Result<Option<i64>> {
        let (both, audit) = ((was.clone(), it.clone()), audit.cloned());
        self.write(move |tx, now| Box::pin(put(tx, now, both, audit)))
            .await
    }

    async fn remove_account(&self, name: &str, audit: &Audit) -> Result<bool> {
        let (name, audit) = (name.to_owned(), audit.clone());
        self.write(move |tx, now| Box::pin(remove(tx, now, name, audit)))
            .await
    }

    async fn accounts_edition(&self) -> Result<i64> {
        let row = sqlx::query("SELECT edition FROM accounts_edition")
            .fetch_one(&mut *self.reader().await?)
            .await
            .map_err(told)?;
        get(&row, 0)
    }
}
