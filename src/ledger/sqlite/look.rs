//! Looking: lists, groups, filters.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::intake;
use super::map::{self, get, job_columns, json, micros};
use super::open::told;
use crate::job::{Job, JobId};
use crate::ledger::door::Result;
use crate::ledger::filter::{Filter, Group};
use crate::ledger::rows::{Attempt, Audit, Pause, Quarantined};
use crate::lifecycle::State;

/// Where jobs of some states are, and the time that tells their age.
#[derive(PartialEq)]
enum Shelf {
    Unfinished,
    Dead,
    Finished,
}

impl Shelf {
    fn of(state: State) -> Self {
        match state {
            State::Completed | State::Cancelled => Self::Finished,
            State::Dead => Self::Dead,
            _ => Self::Unfinished,
        }
    }

    fn time(&self) -> &'static str {
        match self {
            Self::Dead => "ended_at",
            Self::Unfinished | Self::Finished => "created_at",
        }
    }

    fn select(&self) -> &'static str {
        match self {
            Self::Unfinished | Self::Dead => {
                concat!("SELECT ", job_columns!(hot), " FROM jobs WHERE ")
            }
            Self::Finished => {
                concat!(
                    "SELECT ",
                    job_columns!(finished),
                    " FROM finished_jobs WHERE "
                )
            }
        }
    }
}

/// The job of an idempotency key, of a tenant and a kind.
pub async fn job_of_key(
    conn: &mut SqliteConnection,
    (tenant, kind, key): (&str, &str, &str),
) -> Result<Option<JobId>> {
    let sql = "SELECT job FROM idempotency_keys WHERE tenant = ? AND kind = ? AND key = ?";
    let row = sqlx::query(sql).bind(tenant).bind(kind).bind(key);
    let row = row.fetch_optional(conn).await.map_err(told)?;
    row.map(|it| Ok(JobId(get(&it, 0)?))).transpose()
}

/// The attempts of a job, oldest first.
pub async fn attempts(conn: &mut SqliteConnection, id: JobId) -> Result<Vec<Attempt>> {
    let rows = sqlx::query("SELECT * FROM attempts WHERE job = ? ORDER BY epoch").bind(id.0);
    let rows = rows.fetch_all(conn).await.map_err(told)?;
    rows.iter().map(map::attempt).collect()
}

/// Jobs that a filter lets through.
pub async fn jobs(conn: &mut SqliteConnection, filter: &Filter) -> Result<Vec<Job>> {
    let states = filter.let_through();
    let mut found: Vec<Job> = Vec::new();
    for shelf in [Shelf::Unfinished, Shelf::Dead, Shelf::Finished] {
        let here = states.iter().copied().filter(|it| Shelf::of(*it) == shelf);
        let states: Vec<State> = here.collect();
        if states.is_empty() {
            continue;
        }
        let mut query = QueryBuilder::new(shelf.select());
        narrow(&mut query, &states, shelf.time(), filter);
        let rows = query.build().fetch_all(&mut *conn).await.map_err(told)?;
        for row in &rows {
            found.push(map::job(row)?);
        }
    }
    let age = |it: &Job| match it.state {
        State::Dead => it.ended_at.unwrap_or(it.created_at),
        _ => it.created_at,
    };
    found.sort_by_key(|it| std::cmp::Reverse((age(it), it.id)));
    found.truncate(filter.most() as usize);
    Ok(found)
}

/// The filter as SQL, after `WHERE`. The states are words of the program, written out so that the
/// partial indexes are found.
fn narrow(query: &mut QueryBuilder<Sqlite>, states: &[State], time: &str, filter: &Filter) {
    let words: Vec<String> = states.iter().map(|it| format!("'{it}'")).collect();
    query.push(format!("state IN ({})", words.join(", ")));
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
            .push(" OR instr(failure ->> 'message', ")
            .push_bind(error.clone())
            .push(") > 0)");
    }
    if let Some(before) = filter.before {
        query
            .push(format!(" AND {time} < "))
            .push_bind(micros(before));
    }
    if let Some(after) = filter.after {
        query
            .push(format!(" AND {time} >= "))
            .push_bind(micros(after));
    }
    query
        .push(format!(" ORDER BY {time} DESC, id DESC LIMIT "))
        .push_bind(filter.most());
}

/// Dead letters by the group of their error.
pub async fn groups(conn: &mut SqliteConnection, filter: &Filter) -> Result<Vec<Group>> {
    let mut query = QueryBuilder::new(
        "SELECT fingerprint, kind, max(failure), count(*), min(ended_at), max(ended_at) FROM (SELECT * FROM jobs WHERE ",
    );
    narrow(
        &mut query,
        &[State::Dead],
        "ended_at",
        &Filter {
            limit: u32::MAX,
            ..filter.clone()
        },
    );
    query
        .push(") GROUP BY fingerprint, kind ORDER BY count(*) DESC, max(ended_at) DESC LIMIT ")
        .push_bind(filter.most());
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

/// Entries whose kind was unknown and is one of these, the oldest of a kind first.
pub async fn quarantined_kinds(
    conn: &mut SqliteConnection,
    kinds: &[String],
    limit: u32,
) -> Result<Vec<JobId>> {
    let mut ids = Vec::new();
    for kind in kinds {
        let room = i64::from(limit) - i64::try_from(ids.len()).unwrap_or(i64::MAX);
        let rows = sqlx::query(
            "SELECT id FROM quarantine WHERE reason = 'unknown_kind' AND kind = ? ORDER BY at, id LIMIT ?",
        )
        .bind(kind)
        .bind(room.max(0))
        .fetch_all(&mut *conn)
        .await
        .map_err(told)?;
        for row in &rows {
            ids.push(JobId(get(row, 0)?));
        }
    }
    Ok(ids)
}

/// Who did what, newest first.
pub async fn audits(
    conn: &mut SqliteConnection,
    job: Option<JobId>,
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

/// Lanes that are paused.
pub async fn paused(conn: &mut SqliteConnection) -> Result<Vec<Pause>> {
    let rows = sqlx::query("SELECT * FROM lanes ORDER BY lane").fetch_all(conn);
    rows.await.map_err(told)?.iter().map(map::pause).collect()
}

/// Pauses a lane or lets it go on.
pub async fn pause(
    conn: &mut SqliteConnection,
    now: i64,
    lane: &str,
    pause: Option<&Pause>,
    audit: &Audit,
) -> Result<()> {
    let change = match pause {
        Some(it) => {
            sqlx::query("INSERT OR REPLACE INTO lanes (lane, reason, by, at) VALUES (?, ?, ?, ?)")
                .bind(lane)
                .bind(&it.reason)
                .bind(&it.by)
                .bind(micros(it.at))
        }
        None => sqlx::query("DELETE FROM lanes WHERE lane = ?").bind(lane),
    };
    change.execute(&mut *conn).await.map_err(told)?;
    intake::audit(conn, now, audit).await
}
