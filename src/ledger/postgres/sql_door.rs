//! The SQL door: envelopes that producers committed by `presswork.enqueue` (migrations/postgres/0004).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::pool::Pools;
use crate::inbox::{Entry, Inbox, InboxError, Result};
use crate::job::JobId;
use crate::ledger::door::LedgerError;

/// At most so many entries are moved by one call, whatever was asked for.
const MOST: u32 = 1_000;
/// A call stops moving when its answer has this many bytes.
const BYTES: i64 = 16 * 1024 * 1024;

/// The run's own rows, then free ones that no other daemon is just taking, the oldest first. Two parts:
/// the rows that the second one takes aren't the run's for the first one yet.
const TAKE: &str = "
WITH mine AS MATERIALIZED (
    SELECT id, seq, envelope FROM presswork.intake WHERE run = $1 AND slot = $2
),
free AS MATERIALIZED (
    SELECT id, seq, octet_length(envelope) AS size FROM presswork.intake
    WHERE run IS NULL ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED
),
few AS MATERIALIZED (
    SELECT id FROM (SELECT id, sum(size) OVER (ORDER BY seq) - size AS before FROM free) AS summed
    WHERE before < $4 - (SELECT coalesce(sum(octet_length(envelope)), 0) FROM mine)
),
taken AS (
    UPDATE presswork.intake i SET run = $1, slot = $2 FROM few WHERE i.id = few.id
    RETURNING i.id, i.seq, i.envelope
)
SELECT id, envelope FROM (SELECT * FROM mine UNION ALL SELECT * FROM taken) AS whole ORDER BY seq";

const DONE: &str =
    "DELETE FROM presswork.intake WHERE run = $1 AND slot = $2 AND id = ANY($3::uuid[])";
const HOLDERS: &str = "SELECT DISTINCT run, slot FROM presswork.intake WHERE run IS NOT NULL";
const WAITING: &str = "SELECT count(*) FROM presswork.intake WHERE run IS NULL";

/// Makes the role of producers and gives it its one right, where that isn't so yet: the last part of the
/// migration, which may not have been allowed to. For who may make roles.
///
/// # Panics
/// Never: a test shows that the migration ends in it.
pub fn producers_role() -> &'static str {
    let migration = include_str!("../../../migrations/postgres/0004_sql_door.sql");
    let at = migration.rfind("DO $$").expect("it ends in it");
    migration[at..].trim_end()
}

/// The rows that producers committed.
struct SqlDoor(Arc<Pools>);

/// The SQL door of a ledger.
pub fn inbox(pools: Arc<Pools>) -> Arc<dyn Inbox> {
    Arc::new(SqlDoor(pools))
}

fn away(error: LedgerError) -> InboxError {
    InboxError(match error {
        LedgerError::Away(why) => why,
        other => other.to_string(),
    })
}

fn entry(row: &PgRow) -> sqlx::Result<Entry> {
    Ok(Entry {
        id: JobId(row.try_get("id")?),
        bytes: row.try_get::<String, _>("envelope")?.into_bytes(),
    })
}

fn holder(row: &PgRow) -> sqlx::Result<(Uuid, u32)> {
    let slot: i32 = row.try_get("slot")?;
    Ok((row.try_get("run")?, slot.unsigned_abs()))
}

fn slot_of(slot: u32) -> i32 {
    i32::try_from(slot).unwrap_or(i32::MAX)
}

#[async_trait]
impl Inbox for SqlDoor {
    fn door(&self) -> &'static str {
        "sql"
    }

    fn is_durable(&self) -> bool {
        true
    }

    async fn arrived(&self) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    async fn take(&self, run: Uuid, slot: u32, most: u32) -> Result<Vec<Entry>> {
        let query = sqlx::query(TAKE)
            .bind(run)
            .bind(slot_of(slot))
            .bind(i64::from(most.min(MOST)))
            .bind(BYTES);
        let rows = self.0.call(query.fetch_all(self.0.main()));
        let rows = rows.await.map_err(away)?;
        let entries: sqlx::Result<_> = rows.iter().map(entry).collect();
        entries.map_err(|e| InboxError(e.to_string()))
    }

    async fn done(&self, run: Uuid, slot: u32, entries: &[Entry]) -> Result<()> {
        let ids: Vec<Uuid> = entries.iter().map(|it| it.id.0).collect();
        let query = sqlx::query(DONE).bind(run).bind(slot_of(slot)).bind(ids);
        let gone = self.0.call(query.execute(self.0.main()));
        gone.await.map(drop).map_err(away)
    }

    async fn holders(&self) -> Result<Vec<(Uuid, u32)>> {
        let rows = sqlx::query(HOLDERS).fetch_all(self.0.main());
        let rows = self.0.call(rows).await.map_err(away)?;
        let holders: sqlx::Result<_> = rows.iter().map(holder).collect();
        holders.map_err(|e| InboxError(e.to_string()))
    }

    async fn waiting(&self) -> Result<u64> {
        let count = sqlx::query_scalar(WAITING).fetch_one(self.0.main());
        let count: i64 = self.0.call(count).await.map_err(away)?;
        Ok(count.unsigned_abs())
    }

    /// A receipt's place is in Redis: whoever enqueues by SQL has the job's id already.
    async fn reply(&self, _token: &str, _receipt: &str) -> Result<()> {
        Ok(())
    }
}
