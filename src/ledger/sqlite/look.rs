//! Looking: lists, groups, filters.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::map::{self, get, job_columns, json, micros};
use super::open::told;
use crate::job::Job;
use crate::ledger::{Audit, Filter, Group, Quarantined, Result, UNFINISHED};
use crate::lifecycle::State;

/// A page that names no limit.
const LIMIT: u32 = 100;

fn limit(filter: &Filter) -> u32 {
    if filter.limit == 0 {
        LIMIT
    } else {
        filter.limit
    }
}

/// Jobs that a filter lets through.
pub async fn jobs(conn: &mut SqliteConnection, filter: &Filter) -> Result<Vec<Job>> {
    let mut states = filter.states.clone();
    if states.is_empty() {
        states.extend(UNFINISHED);
        states.push(State::Dead);
    }
    let mut found = Vec::new();
    let hot: Vec<State> = states
        .iter()
        .copied()
        .filter(|it| !matches!(it, State::Completed | State::Cancelled))
        .collect();
    if !hot.is_empty() {
        let mut query = QueryBuilder::new(concat!(
            "SELECT ",
            job_columns!(hot),
            " FROM jobs WHERE state IN "
        ));
        narrow(&mut query, &hot, filter);
        let rows = query.build().fetch_all(&mut *conn).await.map_err(told)?;
        found.extend(rows.iter().map(map::job).collect::<Result<Vec<Job>>>()?);
    }
    let finished: Vec<State> = states
        .into_iter()
        .filter(|it| matches!(it, State::Completed | State::Cancelled))
        .collect();
    if !finished.is_empty() {
        let mut query = QueryBuilder::new(concat!(
            "SELECT ",
            job_columns!(finished),
            " FROM finished_jobs WHERE state IN "
        ));
        narrow(&mut query, &finished, filter);
        let rows = query.build().fetch_all(conn).await.map_err(told)?;
        found.extend(rows.iter().map(map::job).collect::<Result<Vec<Job>>>()?);
    }
    found.sort_by_key(|it| std::cmp::Reverse((it.ended_at.unwrap_or(it.created_at), it.id)));
    found.truncate(limit(filter) as usize);
    Ok(found)
}

/// The filter as SQL, after `state IN `.
fn narrow(query: &mut QueryBuilder<Sqlite>, states: &[State], filter: &Filter) {
    query.push("(");
    let mut list = query.separated(", ");
    for state in states {
        list.push_bind(state.as_str());
    }
    query.push(")");
    let plain = [
        ("kind", &filter.kind),
        ("lane", &filter.lane),
        ("account", &filter.account),
        ("tenant", &filter.tenant),
        ("fingerprint", &filter.fingerprint),
    ];
    for (column, value) in plain {
        if let Some(value) = value {
            query
                .push(" AND ")
                .push(column)
                .push(" = ")
                .push_bind(value.clone());
        }
    }
    if let Some(error) = &filter.error {
        query
            .push(" AND (failure ->> 'code' = ")
            .push_bind(error.clone());
        query
            .push(" OR instr(lower(failure ->> 'message'), lower(")
            .push_bind(error.clone())
            .push(")) > 0)");
    }
    if let Some(before) = filter.before {
        query
            .push(" AND coalesce(ended_at, created_at) < ")
            .push_bind(micros(before));
    }
    if let Some(after) = filter.after {
        query
            .push(" AND coalesce(ended_at, created_at) >= ")
            .push_bind(micros(after));
    }
    query
        .push(" ORDER BY coalesce(ended_at, created_at) DESC, id DESC LIMIT ")
        .push_bind(limit(filter));
}

/// Dead letters by the group of their error.
pub async fn groups(conn: &mut SqliteConnection, filter: &Filter) -> Result<Vec<Group>> {
    let mut query = QueryBuilder::new(
        "SELECT fingerprint, kind, max(failure), count(*), min(ended_at), max(ended_at) FROM (SELECT * FROM jobs WHERE state IN ",
    );
    narrow(
        &mut query,
        &[State::Dead],
        &Filter {
            limit: u32::MAX,
            ..filter.clone()
        },
    );
    query
        .push(") GROUP BY fingerprint, kind ORDER BY count(*) DESC, max(ended_at) DESC LIMIT ")
        .push_bind(limit(filter));
    let rows = query.build().fetch_all(conn).await.map_err(told)?;
    let group = |row| {
        let failure: Option<&str> = get(row, 2)?;
        Ok(Group {
            fingerprint: get::<Option<String>, _>(row, 0)?.unwrap_or_default(),
            kind: get(row, 1)?,
            failure: failure.map(json).transpose()?,
            count: get::<i64, _>(row, 3)?.unsigned_abs(),
            first: map::time(get(row, 4)?)?,
            last: map::time(get(row, 5)?)?,
        })
    };
    rows.iter().map(group).collect()
}

/// What is in quarantine, newest first.
pub async fn quarantined(
    conn: &mut SqliteConnection,
    kind: Option<&str>,
    limit: u32,
) -> Result<Vec<Quarantined>> {
    let rows = sqlx::query(
        "SELECT * FROM quarantine WHERE ?1 IS NULL OR kind = ?1 ORDER BY at DESC, id DESC LIMIT ?2",
    )
    .bind(kind)
    .bind(limit)
    .fetch_all(conn)
    .await
    .map_err(told)?;
    rows.iter().map(map::quarantined).collect()
}

/// Who did what, newest first.
pub async fn audits(
    conn: &mut SqliteConnection,
    job: Option<crate::job::JobId>,
    limit: u32,
) -> Result<Vec<Audit>> {
    let rows =
        sqlx::query("SELECT * FROM audit WHERE ?1 IS NULL OR job = ?1 ORDER BY seq DESC LIMIT ?2")
            .bind(job.map(|it| it.0))
            .bind(limit)
            .fetch_all(conn)
            .await
            .map_err(told)?;
    rows.iter().map(map::audit).collect()
}

/// Drops what is past its keeping: finished jobs with all that belongs to them, then keys.
pub async fn tidy(
    conn: &mut SqliteConnection,
    finished_before: i64,
    keys_before: i64,
) -> Result<u64> {
    let mut gone = 0;
    for table in ["attempts", "steps", "effects"] {
        let sql = format!(
            "DELETE FROM {table} WHERE job IN (SELECT id FROM finished_jobs WHERE ended_at < ?)"
        );
        // the names are the three above
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(finished_before)
            .execute(&mut *conn)
            .await
            .map_err(told)?;
    }
    let done = sqlx::query("DELETE FROM finished_jobs WHERE ended_at < ?")
        .bind(finished_before)
        .execute(&mut *conn)
        .await;
    gone += done.map_err(told)?.rows_affected();
    let done = sqlx::query("DELETE FROM idempotency_keys WHERE ended_at < ?")
        .bind(keys_before)
        .execute(&mut *conn)
        .await;
    gone += done.map_err(told)?.rows_affected();
    // a run that is long dead and holds nothing
    sqlx::query("DELETE FROM runs WHERE lease_until < ? AND id NOT IN (SELECT run FROM jobs WHERE state = 'running')")
        .bind(finished_before)
        .execute(conn)
        .await
        .map_err(told)?;
    Ok(gone)
}
