//! What is used of budgets: read, and written by compare-and-set.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::map::{get, json, text, time};
use super::open::told;
use crate::budget::{Counted, Key};
use crate::clock::Time;
use crate::ledger::door::Result;

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
