//! Where the breakers stand.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::codec;
use super::pool::{Pools, explain};
use crate::ledger::door::{LedgerError, Result};
use crate::ledger::rows::Standing;

/// Those that ever opened, or counted a failure.
pub async fn all(pools: &Pools) -> Result<Vec<Standing>> {
    let sql = "SELECT scope, version, state FROM presswork.breakers ORDER BY scope";
    let rows = pools.call(sqlx::query(sql).fetch_all(pools.main())).await?;
    let read = |row: &PgRow| -> Result<Standing> {
        let state: String = row.try_get("state").map_err(explain)?;
        let breaker = serde_json::from_str(&state).map_err(|e| {
            LedgerError::Other(format!("presswork.breakers: `{state}` can't be read: {e}"))
        })?;
        Ok(Standing {
            scope: row.try_get("scope").map_err(explain)?,
            version: row.try_get("version").map_err(explain)?,
            breaker,
        })
    };
    rows.iter().map(read).collect()
}

const PUT: &str = "
INSERT INTO presswork.breakers AS b (scope, version, state, changed_at)
VALUES ($1, $2 + 1, $3, presswork.now())
ON CONFLICT (scope) DO UPDATE
SET version = excluded.version, state = excluded.state, changed_at = excluded.changed_at
WHERE b.version = $2";

/// Writes one down, unless somebody did since it was read.
pub async fn put(pools: &Pools, it: &Standing) -> Result<bool> {
    let state = serde_json::to_string(&it.breaker)
        .map_err(|e| LedgerError::Row(format!("a breaker is no JSON: {e}")))?;
    let query = sqlx::query(PUT)
        .bind(codec::plain(&it.scope))
        .bind(it.version)
        .bind(state);
    let done = pools.call(query.execute(pools.main())).await?;
    Ok(done.rows_affected() == 1)
}
