//! Results that may stand in for asking again.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::map::{get, time};
use super::open::told;
use crate::job::JobId;
use crate::json::Digest;
use crate::ledger::door::Result;
use crate::ledger::rows::{Fence, Offered};

fn micros(age: Duration) -> i64 {
    i64::try_from(age.as_micros()).unwrap_or(i64::MAX / 2)
}

/// Offers a job's result.
pub async fn offer(
    conn: &mut SqliteConnection,
    now: i64,
    fence: &Fence,
    request: Digest,
    age: Duration,
) -> Result<bool> {
    let tenant = sqlx::query("SELECT tenant FROM jobs WHERE id = ? AND token = ? AND run = ?")
        .bind(fence.job.0)
        .bind(fence.token)
        .bind(fence.run)
        .fetch_optional(&mut *conn)
        .await
        .map_err(told)?;
    let Some(tenant) = tenant else {
        return Ok(false);
    };
    sqlx::query(
        "INSERT INTO results (tenant, request, job, at, until) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT DO NOTHING",
    )
    .bind(get::<&str, _>(&tenant, 0)?)
    .bind(&request.0[..])
    .bind(fence.job.0)
    .bind(now)
    .bind(now.saturating_add(micros(age)))
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(true)
}

/// The newest result that was offered.
pub async fn offered(
    conn: &mut SqliteConnection,
    now: i64,
    tenant: &str,
    request: Digest,
    age: Duration,
) -> Result<Option<Offered>> {
    let row = sqlx::query(
        "SELECT r.job, r.at, f.result FROM results r JOIN finished_jobs f ON f.id = r.job
         WHERE r.tenant = ? AND r.request = ? AND ? < r.at
           AND f.state = 'completed' AND f.result IS NOT NULL
         ORDER BY r.at DESC LIMIT 1",
    )
    .bind(tenant)
    .bind(&request.0[..])
    .bind(now.saturating_sub(micros(age)))
    .fetch_optional(conn)
    .await
    .map_err(told)?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Offered {
        job: JobId(get(&row, "job")?),
        at: time(get(&row, "at")?)?,
        result: get(&row, "result")?,
    }))
}
