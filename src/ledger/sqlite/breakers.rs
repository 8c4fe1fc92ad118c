//! Where the breakers stand.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::map::get;
use super::open::told;
use crate::ledger::door::{LedgerError, Result};
use crate::ledger::rows::Standing;

/// Those that ever opened, or counted a failure.
pub async fn all(conn: &mut SqliteConnection) -> Result<Vec<Standing>> {
    let sql = "SELECT scope, version, state FROM breakers ORDER BY scope";
    let rows = sqlx::query(sql).fetch_all(conn).await.map_err(told)?;
    let read = |row: &SqliteRow| -> Result<Standing> {
        let state: String = get(row, 2)?;
        let breaker = serde_json::from_str(&state)
            .map_err(|e| LedgerError::Other(format!("breakers: `{state}` can't be read: {e}")))?;
        Ok(Standing {
            scope: get(row, 0)?,
            version: get(row, 1)?,
            breaker,
        })
    };
    rows.iter().map(read).collect()
}

/// Writes one down, unless somebody did since it was read.
pub async fn put(conn: &mut SqliteConnection, now: i64, it: &Standing) -> Result<bool> {
    let state = serde_json::to_string(&it.breaker)
        .map_err(|e| LedgerError::Row(format!("a breaker is no JSON: {e}")))?;
    let sql = "INSERT INTO breakers (scope, version, state, changed_at) VALUES (?1, ?2 + 1, ?3, ?4)
        ON CONFLICT (scope) DO UPDATE
        SET version = excluded.version, state = excluded.state, changed_at = excluded.changed_at
        WHERE breakers.version = ?2";
    let query = sqlx::query(sql)
        .bind(&it.scope)
        .bind(it.version)
        .bind(state)
        .bind(now);
    Ok(query.execute(conn).await.map_err(told)?.rows_affected() == 1)
}
