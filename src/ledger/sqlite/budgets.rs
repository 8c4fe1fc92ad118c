//! What is used of budgets: read, and written by compare-and-set.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::intake;
use super::map::{get, json, micros, text, time};
use super::open::told;
use crate::budget::{Change, Counted, Key};
use crate::clock::Time;
use crate::ledger::door::Result;
use crate::ledger::rows::Audit;

const ONE: &str = "SELECT name, whose, version, uses FROM budgets WHERE name = ? AND whose = ?";

/// What is used; a part that isn't there begins empty.
pub async fn read(
    conn: &mut SqliteConnection,
    now: i64,
    keys: &[Key],
) -> Result<(Vec<Counted>, Time)> {
    let mut all = Vec::with_capacity(keys.len());
    for key in keys {
        sqlx::query(
            "INSERT INTO budgets (name, whose, changed_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(&key.name)
        .bind(&key.whose)
        .bind(now)
        .execute(&mut *conn)
        .await
        .map_err(told)?;
        let query = sqlx::query(ONE).bind(&key.name).bind(&key.whose);
        all.push(counted(&query.fetch_one(&mut *conn).await.map_err(told)?)?);
    }
    Ok((all, time(now)?))
}

/// Every part that anything was ever counted in.
pub async fn all(conn: &mut SqliteConnection) -> Result<Vec<Counted>> {
    let sql = "SELECT name, whose, version, uses FROM budgets ORDER BY name, whose";
    let rows = sqlx::query(sql).fetch_all(conn).await.map_err(told)?;
    rows.iter().map(counted).collect()
}

fn counted(row: &SqliteRow) -> Result<Counted> {
    Ok(Counted {
        key: Key {
            name: get(row, "name")?,
            whose: get(row, "whose")?,
        },
        version: get(row, "version")?,
        uses: json(get(row, "uses")?)?,
    })
}

/// Writes all of them if each still has the version that it was read with.
pub async fn write(conn: &mut SqliteConnection, now: i64, all: &[Counted]) -> Result<Option<Time>> {
    for it in all {
        let query = sqlx::query(ONE).bind(&it.key.name).bind(&it.key.whose);
        let row = query.fetch_optional(&mut *conn).await.map_err(told)?;
        let found = row.as_ref().map(counted).transpose()?;
        if found.is_none_or(|found| found.version != it.version) {
            return Ok(None);
        }
    }
    for it in all {
        sqlx::query(
            "UPDATE budgets SET version = version + 1, uses = ?, changed_at = ?
             WHERE name = ? AND whose = ?",
        )
        .bind(text(&it.uses)?)
        .bind(now)
        .bind(&it.key.name)
        .bind(&it.key.whose)
        .execute(&mut *conn)
        .await
        .map_err(told)?;
    }
    Ok(Some(time(now)?))
}

/// Changes a budget.
pub async fn change(conn: &mut SqliteConnection, now: i64, it: Change, audit: Audit) -> Result<()> {
    sqlx::query(
        "INSERT INTO budget_changes (name, most, reason, actor, at, until) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (name) DO UPDATE
         SET most = excluded.most, reason = excluded.reason, actor = excluded.actor, at = excluded.at,
             until = excluded.until",
    )
    .bind(&it.name)
    .bind(i64::try_from(it.most).unwrap_or(i64::MAX))
    .bind(&it.reason)
    .bind(&audit.actor)
    .bind(now)
    .bind(it.until.map(micros))
    .execute(&mut *conn)
    .await
    .map_err(told)?;
    intake::audit(conn, now, &audit).await
}

/// Takes a change back.
pub async fn restore(
    conn: &mut SqliteConnection,
    now: i64,
    name: String,
    audit: Audit,
) -> Result<bool> {
    let gone = sqlx::query("DELETE FROM budget_changes WHERE name = ?")
        .bind(&name)
        .execute(&mut *conn)
        .await
        .map_err(told)?;
    if gone.rows_affected() == 0 {
        return Ok(false);
    }
    intake::audit(conn, now, &audit).await?;
    Ok(true)
}

/// What was changed and isn't past.
pub async fn changes(conn: &mut SqliteConnection, now: i64) -> Result<Vec<Change>> {
    let sql = "SELECT * FROM budget_changes WHERE until IS NULL OR ? < until ORDER BY name";
    let rows = sqlx::query(sql)
        .bind(now)
        .fetch_all(conn)
        .await
        .map_err(told)?;
    let change = |row: &SqliteRow| -> Result<Change> {
        Ok(Change {
            name: get(row, "name")?,
            most: u64::try_from(get::<i64, _>(row, "most")?).unwrap_or(0),
            reason: get(row, "reason")?,
            actor: get(row, "actor")?,
            at: time(get(row, "at")?)?,
            until: get::<Option<i64>, _>(row, "until")?.map(time).transpose()?,
        })
    };
    rows.iter().map(change).collect()
}
