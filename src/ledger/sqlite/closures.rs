//! Closures: nothing of their scope goes. Who asks for a permit reads them in its own statement.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::intake;
use super::map::{get, micros, time, word};
use super::open::told;
use crate::gate::{Cause, Closure, Scope};
use crate::ledger::door::Result;
use crate::ledger::rows::Audit;

/// A closure, from its columns.
fn closure(row: &SqliteRow) -> Result<Closure> {
    let named = |column: &str| -> Result<Option<String>> {
        let text: String = get(row, column)?;
        Ok(Some(text).filter(|it| !it.is_empty()))
    };
    Ok(Closure {
        spares_planned: false,
        id: get(row, "id")?,
        cause: word(get(row, "cause")?)?,
        scope: Scope {
            platform: named("platform")?,
            account: named("account")?,
            tenant: named("tenant")?,
            label: named("label")?,
            kind: named("kind")?,
        },
        reason: get(row, "reason")?,
        actor: get(row, "actor")?,
        since: time(get(row, "since")?)?,
        until: get::<Option<i64>, _>(row, "until")?.map(time).transpose()?,
        refused: get(row, "refused")?,
    })
}

/// Closes a scope, and tells how it is closed then. One whose time is past was open: it is closed anew.
/// What is closed already is never closed for shorter, unless that is asked for.
pub async fn close(
    conn: &mut SqliteConnection,
    now: i64,
    it: &Closure,
    shorten: bool,
    audit: Option<&Audit>,
) -> Result<Closure> {
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    let row = sqlx::query(
        "INSERT INTO closures (cause, platform, account, tenant, label, kind, id, mark, reason, actor, until,
             since, refused)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?14)
         ON CONFLICT (cause, platform, account, tenant, label, kind) DO UPDATE
         SET reason = excluded.reason, actor = excluded.actor, refused = excluded.refused,
             id = iif(until <= ?12, excluded.id, id),
             since = iif(until <= ?12, excluded.since, since),
             until = CASE WHEN ?13 OR until <= ?12 THEN excluded.until
                          ELSE max(until, excluded.until) END
         RETURNING *",
    )
    .bind(it.cause.as_str())
    .bind(text(&it.scope.platform))
    .bind(text(&it.scope.account))
    .bind(text(&it.scope.tenant))
    .bind(text(&it.scope.label))
    .bind(text(&it.scope.kind))
    .bind(it.id)
    .bind(it.scope.mark())
    .bind(&it.reason)
    .bind(&it.actor)
    .bind(it.until.map(micros))
    .bind(now)
    .bind(shorten)
    .bind(&it.refused)
    .fetch_one(&mut *conn)
    .await
    .map_err(told)?;
    if let Some(audit) = audit {
        intake::audit(conn, now, audit).await?;
    }
    closure(&row)
}

/// Opens a scope; whether it was closed for that cause.
pub async fn open(
    conn: &mut SqliteConnection,
    now: i64,
    cause: Cause,
    scope: &Scope,
    audit: Option<&Audit>,
) -> Result<bool> {
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    let row = sqlx::query(
        "DELETE FROM closures
         WHERE cause = ? AND platform = ? AND account = ? AND tenant = ? AND label = ? AND kind = ?
         RETURNING until",
    )
    .bind(cause.as_str())
    .bind(text(&scope.platform))
    .bind(text(&scope.account))
    .bind(text(&scope.tenant))
    .bind(text(&scope.label))
    .bind(text(&scope.kind))
    .fetch_optional(&mut *conn)
    .await
    .map_err(told)?;
    let Some(row) = row else { return Ok(false) };
    if let Some(audit) = audit {
        intake::audit(conn, now, audit).await?;
    }
    let until: Option<i64> = get(&row, 0)?;
    Ok(until.is_none_or(|it| now < it))
}

/// What is closed now.
pub async fn closures(conn: &mut SqliteConnection, now: i64) -> Result<Vec<Closure>> {
    let sql = "SELECT * FROM closures WHERE until IS NULL OR ? < until ORDER BY since, id";
    let rows = sqlx::query(sql).bind(now).fetch_all(conn).await;
    rows.map_err(told)?.iter().map(closure).collect()
}
