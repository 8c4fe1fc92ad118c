//! The daemon's runs: their leases, and what they must notice.

use std::time::Duration;

use sqlx::SqliteConnection;
use uuid::Uuid;

use super::closures::closures;
use super::map::{self, get, micros, span_micros, text};
use super::open::told;
use crate::clock::Time;
use crate::job::JobId;
use crate::ledger::door::Result;
use crate::ledger::rows::{Control, Generation, Run};

/// Enters a run, or renews the entry of one that began before.
pub async fn begin(
    conn: &mut SqliteConnection,
    now: i64,
    run: &Run,
    lease: Duration,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO runs (id, host, boot, pid, version, began_at, lease_until, beat_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until",
    )
    .bind(run.id)
    .bind(&run.host)
    .bind(&run.boot)
    .bind(run.pid)
    .bind(&run.version)
    .bind(micros(run.began_at))
    .bind(now.saturating_add(span_micros(lease)))
    .bind(now)
    .execute(conn)
    .await
    .map_err(told)?;
    Ok(())
}

/// Renews a run's lease and names its jobs. The list was made after the beat before this returned:
/// that beat's time is the one at which it proves an absence.
pub async fn beat(
    conn: &mut SqliteConnection,
    now: i64,
    run: Uuid,
    jobs: &[String],
    lease: Duration,
) -> Result<Option<i64>> {
    let until = now.saturating_add(span_micros(lease));
    let done = sqlx::query("UPDATE runs SET named_at = beat_at, beat_at = ?, named = ?, lease_until = ? WHERE id = ? AND ended = 0")
        .bind(now)
        .bind(text(&jobs)?)
        .bind(until)
        .bind(run)
        .execute(conn)
        .await
        .map_err(told)?;
    Ok((done.rows_affected() == 1).then_some(until))
}

/// The runs whose lease isn't past.
pub async fn live(conn: &mut SqliteConnection, now: i64) -> Result<Vec<Run>> {
    let sql = "SELECT * FROM runs WHERE ended = 0 AND lease_until >= ? ORDER BY began_at";
    let rows = sqlx::query(sql).bind(now).fetch_all(conn).await;
    rows.map_err(told)?.iter().map(map::run).collect()
}

/// When a run's lease ends.
pub async fn lease(conn: &mut SqliteConnection, run: Uuid) -> Result<Option<Time>> {
    let row = sqlx::query("SELECT lease_until FROM runs WHERE id = ? AND ended = 0").bind(run);
    let row = row.fetch_optional(conn).await.map_err(told)?;
    row.map(|it| map::time(get(&it, 0)?)).transpose()
}

/// What a daemon must notice within a second.
pub async fn control(conn: &mut SqliteConnection, now: i64, run: Uuid) -> Result<Control> {
    let cancels =
        sqlx::query("SELECT id FROM jobs WHERE state = 'running' AND run = ? AND cancel = 1")
            .bind(run);
    let cancels = cancels.fetch_all(&mut *conn).await.map_err(told)?;
    let paused = sqlx::query("SELECT lane FROM lanes ORDER BY lane")
        .fetch_all(&mut *conn)
        .await
        .map_err(told)?;
    let cancels = cancels.iter().map(|row| Ok(JobId(get(row, 0)?)));
    Ok(Control {
        cancels: cancels.collect::<Result<_>>()?,
        paused: paused
            .iter()
            .map(|row| get(row, 0))
            .collect::<Result<_>>()?,
        closures: closures(conn, now).await?,
        generation: generation(conn).await?.number,
        live: u32::try_from(live(conn, now).await?.len()).unwrap_or(u32::MAX),
    })
}

/// The queue's generation.
pub async fn generation(conn: &mut SqliteConnection) -> Result<Generation> {
    let row = sqlx::query("SELECT generation, server FROM meta").fetch_one(conn);
    let row = row.await.map_err(told)?;
    Ok(Generation {
        number: get(&row, 0)?,
        server: get(&row, 1)?,
    })
}

/// Counts the generation on from `from`: `None` when somebody else did.
pub async fn next(conn: &mut SqliteConnection, from: i64, server: &str) -> Result<Option<i64>> {
    let sql = "UPDATE meta SET generation = generation + 1, server = ? WHERE generation = ?";
    let next = sqlx::query(sql).bind(server).bind(from).execute(conn).await;
    let counted = next.map_err(told)?.rows_affected() == 1;
    Ok(counted.then_some(from + 1))
}
