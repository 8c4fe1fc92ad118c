//! Jobs that come late.

use super::pool::Pools;
use crate::clock::Time;
use crate::ledger::door::{LateBefore, LatePlace, Result};

/// By their own index, which is read from the account's first job on.
pub const BEFORE: &str = "
    SELECT coalesce(j.claimed_at, j.run_at) FROM presswork.jobs j
    WHERE j.account = $1 AND j.state IN ('scheduled', 'ready', 'running', 'retrying')
      AND (j.priority, j.due_at, j.id) < ($2, $3, $4)
      AND j.due_at < $5 AND $6 <= coalesce(j.claimed_at, j.run_at)
    ORDER BY j.priority, j.due_at, j.id LIMIT $7";

/// What goes before a job; see [`crate::ledger::door::Backlog::late_before`].
pub async fn before(pools: &Pools, place: &LatePlace, of: &LateBefore) -> Result<Vec<Time>> {
    let query = sqlx::query_scalar(BEFORE)
        .bind(&place.account)
        .bind(place.priority.rank())
        .bind(place.due)
        .bind(place.id.0)
        .bind(of.due)
        .bind(of.tried)
        .bind(i64::from(of.most));
    pools.call(query.fetch_all(pools.planned())).await
}
