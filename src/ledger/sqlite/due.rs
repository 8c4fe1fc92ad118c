//! What is due: by priority, then the tenants' turns, then age.

use std::sync::Arc;

use sqlx::SqliteConnection;
use uuid::Uuid;

use super::map::{get, text};
use super::open::told;
use crate::job::{JobId, Priority};
use crate::ledger::{Hint, Result};

/// A due job and its turn among those of its tenant, from 0.
struct Turn {
    turn: usize,
    run_at: i64,
    id: Uuid,
    tenant: Arc<str>,
}

/// Due jobs of a lane. Jumps from tenant to tenant over the index `jobs_due` and looks at no more
/// than `limit` jobs of each: the cost is by tenants and limit, not by the backlog.
pub async fn due(
    conn: &mut SqliteConnection,
    now: i64,
    lane: &str,
    kinds: &[String],
    limit: u32,
) -> Result<Vec<Hint>> {
    let kinds = text(&kinds)?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut hints = Vec::new();
    let mut level: Vec<Turn> = Vec::new();
    let mut head = (-1, Arc::from(""));
    while hints.len() < most {
        let next = next_head(conn, lane, &head).await?;
        // those of a lower priority take no turn before all of a higher one had theirs
        if next.as_ref().is_none_or(|it| it.0 != head.0) {
            take_turns(head.0, &mut level, &mut hints);
        }
        let Some(next) = next else { break };
        head = next;
        level.extend(first_of(conn, now, lane, &head, &kinds, limit).await?);
    }
    hints.truncate(most);
    Ok(hints)
}

fn take_turns(rank: i64, level: &mut Vec<Turn>, hints: &mut Vec<Hint>) {
    level.sort_by_key(|it| (it.turn, it.run_at, it.id));
    let priority = Priority::of_rank(i16::try_from(rank).unwrap_or(i16::MAX));
    hints.extend(level.drain(..).map(|it| Hint {
        id: JobId(it.id),
        priority,
        tenant: it.tenant,
    }));
}

/// The first priority and tenant after `head` that have a job that may be claimed, due or not.
async fn next_head(
    conn: &mut SqliteConnection,
    lane: &str,
    head: &(i64, Arc<str>),
) -> Result<Option<(i64, Arc<str>)>> {
    let row = sqlx::query(
        "SELECT priority, tenant FROM jobs
         WHERE lane = ? AND state IN ('scheduled', 'ready', 'retrying') AND (priority, tenant) > (?, ?)
         ORDER BY priority, tenant LIMIT 1",
    )
    .bind(lane)
    .bind(head.0)
    .bind(&*head.1)
    .fetch_optional(conn)
    .await
    .map_err(told)?;
    row.map(|it| Ok((get(&it, 0)?, get::<&str, _>(&it, 1)?.into())))
        .transpose()
}

/// The oldest due jobs of a priority and tenant.
async fn first_of(
    conn: &mut SqliteConnection,
    now: i64,
    lane: &str,
    (rank, tenant): &(i64, Arc<str>),
    kinds: &str,
    limit: u32,
) -> Result<Vec<Turn>> {
    let rows = sqlx::query(
        "SELECT id, run_at FROM jobs
         WHERE lane = ? AND priority = ? AND tenant = ? AND state IN ('scheduled', 'ready', 'retrying')
           AND run_at <= ? AND kind IN (SELECT value FROM json_each(?))
         ORDER BY run_at, id LIMIT ?",
    )
    .bind(lane)
    .bind(rank)
    .bind(&**tenant)
    .bind(now)
    .bind(kinds)
    .bind(limit)
    .fetch_all(conn)
    .await
    .map_err(told)?;
    let turn = |(turn, row)| {
        Ok(Turn {
            turn,
            run_at: get(row, 1)?,
            id: get(row, 0)?,
            tenant: tenant.clone(),
        })
    };
    rows.iter().enumerate().map(turn).collect()
}
