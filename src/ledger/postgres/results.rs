//! Results that may stand in for asking again.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::codec::seconds;
use super::pool::{Pools, explain};
use crate::job::JobId;
use crate::json::Digest;
use crate::ledger::door::Result;
use crate::ledger::rows::{Fence, Offered};

const OFFER: &str = "
WITH lease AS MATERIALIZED (
    SELECT id, tenant FROM presswork.jobs WHERE id = $1 AND token = $2 FOR SHARE
),
clock AS MATERIALIZED (SELECT presswork.now() AS now),
written AS (
    INSERT INTO presswork.results (tenant, request, job, at, until)
    SELECT tenant, $3, id, now, now + $4 * interval '1 second' FROM lease, clock
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM lease";

/// Offers a job's result.
pub async fn offer(pools: &Pools, fence: &Fence, request: Digest, age: Duration) -> Result<bool> {
    let query = || {
        sqlx::query_scalar(OFFER)
            .bind(fence.job.0)
            .bind(fence.token)
            .bind(request.0.to_vec())
            .bind(seconds(age))
            .fetch_one(pools.planned())
    };
    let leases: i64 = pools.again(query).await?;
    Ok(0 < leases)
}

const OFFERED: &str = "
SELECT r.job, r.at, f.result
FROM presswork.results r JOIN presswork.finished_jobs f ON f.id = ANY(ARRAY[r.job])
WHERE r.tenant = $1 AND r.request = $2 AND presswork.now() - $3 * interval '1 second' < r.at
  AND f.state = 'completed' AND f.result IS NOT NULL
ORDER BY r.at DESC LIMIT 1";

/// The newest result that was offered.
pub async fn offered(
    pools: &Pools,
    tenant: &str,
    request: Digest,
    age: Duration,
) -> Result<Option<Offered>> {
    let query = sqlx::query(OFFERED)
        .bind(tenant)
        .bind(request.0.to_vec())
        .bind(seconds(age));
    let row = pools.call(query.fetch_optional(pools.planned())).await?;
    let read = |row: &PgRow| {
        Ok(Offered {
            job: JobId(row.try_get("job")?),
            at: row.try_get("at")?,
            result: row.try_get("result")?,
        })
    };
    row.as_ref().map(read).transpose().map_err(explain)
}
