//! Jobs that come late.

use async_trait::async_trait;

use super::map::{get, micros, time};
use super::open::told;
use super::store::Sqlite;
use crate::clock::Time;
use crate::ledger::door::{Backlog, LateBefore, LatePlace, Result};

#[async_trait]
impl Backlog for Sqlite {
    async fn late_before(&self, place: &LatePlace, of: &LateBefore) -> Result<Vec<Time>> {
        let rows = sqlx::query(
            "SELECT coalesce(claimed_at, run_at) FROM jobs INDEXED BY jobs_late
             WHERE account = ?1 AND state IN ('scheduled', 'ready', 'running', 'retrying')
               AND (priority, due_at, id) < (?2, ?3, ?4)
               AND due_at < ?5 AND ?6 <= coalesce(claimed_at, run_at)
             ORDER BY priority, due_at, id LIMIT ?7",
        )
        .bind(&place.account)
        .bind(place.priority.rank())
        .bind(micros(place.due))
        .bind(place.id.0)
        .bind(micros(of.due))
        .bind(micros(of.tried))
        .bind(of.most)
        .fetch_all(&mut *self.reader().await?)
        .await
        .map_err(told)?;
        rows.iter().map(|row| time(get(row, 0)?)).collect()
    }
}
