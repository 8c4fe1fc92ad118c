//! Jobs that come late.

use async_trait::async_trait;

use super::Postgres;
use crate::clock::Time;
use crate::ledger::door::{Backlog, LateBefore, LatePlace, Result};

/// By their own index, which is read from the account's first job on.
pub(super) const BEFORE: &str = "
    SELECT coalesce(j.claimed_at, j.run_at) FROM presswork.jobs j
    WHERE j.account = $1 AND j.state IN ('scheduled', 'ready', 'running', 'retrying')
      AND (j.priority, j.due_at, j.id) < ($2, $3, $4)
      AND j.due_at < $5 AND $6 <= coalesce(j.claimed_at, j.run_at)
    ORDER BY j.priority, j.due_at, j.id LIMIT $7";

#[async_trait]
impl Backlog for Postgres {
    async fn late_before(&self, place: &LatePlace, of: &LateBefore) -> Result<Vec<Time>> {
        let query = sqlx::query_scalar(BEFORE)
            .bind(&place.account)
            .bind(place.priority.rank())
            .bind(place.due)
            .bind(place.id.0)
            .bind(of.due)
            .bind(of.tried)
            .bind(i64::from(of.most));
        self.pools.call(query.fetch_all(self.pools.planned())).await
    }
}
