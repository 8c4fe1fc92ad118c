//! Jobs that were scheduled for a time, and what waits beside them.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::map::{get, maybe_time, span_micros, text, time, word};
use super::open::told;
use super::store::Sqlite;
use crate::job::JobId;
use crate::lateness::Terms;
use crate::ledger::door::{Places, Result};
use crate::ledger::planned::{Askers, KEPT_FOR, LOOKED_AT, Planned, Waiting};

/// The predicate of the indexes `jobs_planned_..`, word for word, and the time that is asked for.
macro_rules! planned {
    () => {
        "created_at < due_at AND state IN ('scheduled', 'ready', 'running', 'retrying') AND ?1 < due_at AND due_at < ?2"
    };
}

/// What has sent something has taken its place.
macro_rules! not_sent {
    () => {
        " AND (?3 < due_at OR NOT EXISTS (SELECT 1 FROM effects e WHERE e.job = jobs.id AND 0 < e.sends))"
    };
}

const OF_ACCOUNT: &str = concat!(
    "SELECT id, due_at FROM jobs INDEXED BY jobs_planned_account
     WHERE account = ?5 AND kind IN (SELECT value FROM json_each(?6)) AND (?7 IS NULL OR tenant = ?7) AND ",
    planned!(),
    not_sent!(),
    " ORDER BY due_at, id LIMIT ?4"
);

const OF_KIND: &str = concat!(
    "SELECT id, due_at FROM (
         SELECT id, due_at, account, tenant FROM jobs INDEXED BY jobs_planned_kind
         WHERE kind = ?5 AND ",
    planned!(),
    "    ORDER BY due_at, id LIMIT ?8) AS jobs
     WHERE (?6 IS NULL OR account IN (SELECT value FROM json_each(?6))) AND (?7 IS NULL OR tenant = ?7)",
    not_sent!(),
    " ORDER BY due_at, id LIMIT ?4"
);

const BACKLOG: &str = "
SELECT id, kind, tenant, account, state = 'held', run_at,
    CASE WHEN created_at < due_at THEN due_at END,
    coalesce(due_at, CASE WHEN epoch <= 1 THEN run_at END), not_after, late, late_after_s,
    (SELECT min(coalesce(e.first_sent_at, e.permit_at, e.maybe_since,
            CASE WHEN 0 < e.sends OR e.state <> 'intended' THEN 0 END))
     FROM effects e WHERE e.job = jobs.id) FROM jobs
WHERE kind IN (SELECT value FROM json_each(?)) AND state IN ('scheduled', 'ready', 'retrying', 'held')
ORDER BY run_at, id LIMIT ?";

fn planned(row: &SqliteRow) -> Result<Planned> {
    Ok(Planned {
        job: JobId(get(row, 0)?),
        at: time(get(row, 1)?)?,
    })
}

fn waiting(row: &SqliteRow) -> Result<Waiting> {
    Ok(Waiting {
        job: JobId(get(row, 0)?),
        kind: get(row, 1)?,
        tenant: get(row, 2)?,
        account: get(row, 3)?,
        held: get(row, 4)?,
        run_at: time(get(row, 5)?)?,
        wanted_at: maybe_time(get(row, 6)?)?,
        terms: Terms {
            due: maybe_time(get(row, 7)?)?,
            not_after: maybe_time(get(row, 8)?)?,
            late: get::<Option<&str>, _>(row, 9)?.map(word).transpose()?,
            late_after_s: get(row, 10)?,
        },
        begun: maybe_time(get(row, 11)?)?,
    })
}

/// Those of a kind; by their account, where `of` has one.
async fn look(
    conn: &mut SqliteConnection,
    now: i64,
    (of, kind): (&Askers, Option<&str>),
    ahead: Duration,
    limit: u32,
) -> Result<Vec<Planned>> {
    let query = sqlx::query(match kind {
        None => OF_ACCOUNT,
        Some(_) => OF_KIND,
    });
    let query = query
        .bind(now.saturating_sub(span_micros(KEPT_FOR)))
        .bind(now.saturating_add(span_micros(ahead)))
        .bind(now)
        .bind(limit);
    let accounts = of.accounts.as_ref();
    let query = match kind {
        None => query
            .bind(accounts.and_then(|it| it.first()))
            .bind(text(&of.kinds)?)
            .bind(&of.tenant),
        Some(kind) => query
            .bind(kind)
            .bind(accounts.map(text).transpose()?)
            .bind(&of.tenant)
            .bind(LOOKED_AT),
    };
    let rows = query.fetch_all(conn).await.map_err(told)?;
    rows.iter().map(planned).collect()
}

#[async_trait]
impl Places for Sqlite {
    async fn planned(&self, of: &Askers, ahead: Duration, limit: u32) -> Result<Vec<Planned>> {
        let (mut conn, now) = (self.reader().await?, self.now_micros());
        if of.accounts.as_ref().is_some_and(|it| it.len() == 1) {
            return look(&mut conn, now, (of, None), ahead, limit).await;
        }
        let mut all = Vec::new();
        for kind in &of.kinds {
            all.extend(look(&mut conn, now, (of, Some(kind)), ahead, limit).await?);
        }
        all.sort_by_key(|it| (it.at, it.job));
        all.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(all)
    }

    async fn backlog(&self, kinds: &[String], limit: u32) -> Result<Vec<Waiting>> {
        let query = sqlx::query(BACKLOG).bind(text(&kinds)?).bind(limit);
        let rows = query.fetch_all(&mut *self.reader().await?).await;
        rows.map_err(told)?.iter().map(waiting).collect()
    }
}
