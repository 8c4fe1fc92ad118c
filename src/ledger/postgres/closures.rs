//! Closures: nothing of their scope goes. Who asks for a permit reads them in its own statement.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::codec;
use super::pool::{Pools, explain};
use crate::gate::{Cause, Closure, Scope};
use crate::ledger::door::Result;
use crate::ledger::rows::Audit;

/// The columns that a closure is read from.
macro_rules! closure_columns {
    () => {
        "c.id, c.cause, c.platform, c.account, c.tenant, c.label, c.kind, c.reason, c.actor, c.since, c.until, c.refused"
    };
}

/// A closure, from its columns.
fn closure(row: &PgRow) -> sqlx::Result<Closure> {
    let named = |column: &str| -> sqlx::Result<Option<String>> {
        let text: String = row.try_get(column)?;
        Ok(Some(text).filter(|it| !it.is_empty()))
    };
    Ok(Closure {
        spares_planned: false,
        id: row.try_get("id")?,
        cause: codec::word(row, "cause")?,
        scope: Scope {
            platform: named("platform")?,
            account: named("account")?,
            tenant: named("tenant")?,
            label: named("label")?,
            kind: named("kind")?,
        },
        reason: row.try_get("reason")?,
        actor: row.try_get("actor")?,
        since: row.try_get("since")?,
        until: row.try_get("until")?,
        refused: row.try_get("refused")?,
    })
}

/// Binds a cause and a scope as parameters 5 to 10, after those of an audit.
macro_rules! scoped {
    ($sql:expr, $audit:expr, $cause:expr, $scope:expr) => {{
        let (audit, scope): (Option<&Audit>, &Scope) = ($audit, $scope);
        let text = |it: &Option<String>| codec::plain(it.as_deref().unwrap_or(""));
        sqlx::query($sql)
            .bind(audit.map(|it| codec::plain(&it.actor)))
            .bind(audit.map(|it| codec::plain(&it.action)))
            .bind(audit.and_then(|it| it.job).map(|it| it.0))
            .bind(audit.map(|it| codec::plain(&it.detail)))
            .bind($cause.as_str())
            .bind(text(&scope.platform))
            .bind(text(&scope.account))
            .bind(text(&scope.tenant))
            .bind(text(&scope.label))
            .bind(text(&scope.kind))
    }};
}

/// One whose time is past was open: it is closed anew. What is closed already is never closed for
/// shorter, unless that is asked for.
const CLOSE: &str = concat!(
    "
WITH clock AS MATERIALIZED (SELECT presswork.now() AS now),
noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    SELECT $1, $2, $3, $4, clock.now FROM clock WHERE $1 IS NOT NULL
)
INSERT INTO presswork.closures AS c (cause, platform, account, tenant, label, kind, id, mark, reason,
                                     actor, until, since, refused)
SELECT $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, clock.now, $17 FROM clock
ON CONFLICT ON CONSTRAINT closures_scope DO UPDATE
SET reason = excluded.reason, actor = excluded.actor, refused = excluded.refused,
    id = CASE WHEN c.until <= excluded.since THEN excluded.id ELSE c.id END,
    since = CASE WHEN c.until <= excluded.since THEN excluded.since ELSE c.since END,
    until = CASE WHEN $16 OR c.until <= excluded.since THEN excluded.until
                 WHEN c.until IS NULL OR excluded.until IS NULL THEN NULL
                 ELSE greatest(c.until, excluded.until) END
RETURNING ",
    closure_columns!()
);

/// Closes a scope, and tells how it is closed then.
pub async fn close(
    pools: &Pools,
    it: &Closure,
    shorten: bool,
    audit: Option<&Audit>,
) -> Result<Closure> {
    let query = || {
        scoped!(CLOSE, audit, it.cause, &it.scope)
            .bind(it.id)
            .bind(codec::plain(&it.scope.mark()))
            .bind(codec::plain(&it.reason))
            .bind(codec::plain(&it.actor))
            .bind(it.until)
            .bind(shorten)
            .bind(it.refused.as_deref().map(codec::plain))
            .fetch_one(pools.main())
    };
    let row = pools.again(query).await?;
    closure(&row).map_err(explain)
}

const OPEN: &str = "
WITH gone AS (
    DELETE FROM presswork.closures
    WHERE cause = $5 AND platform = $6 AND account = $7 AND tenant = $8 AND label = $9 AND kind = $10
    RETURNING until
),
noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    SELECT $1, $2, $3, $4, presswork.now() FROM gone WHERE $1 IS NOT NULL
)
SELECT count(*) FROM gone WHERE until IS NULL OR presswork.now() < until";

/// Opens a scope; whether it was closed for that cause.
pub async fn open(
    pools: &Pools,
    cause: Cause,
    scope: &Scope,
    audit: Option<&Audit>,
) -> Result<bool> {
    let query = || scoped!(OPEN, audit, cause, scope).fetch_one(pools.main());
    let row = pools.again(query).await?;
    let gone: i64 = row.try_get(0).map_err(explain)?;
    Ok(0 < gone)
}

const CLOSURES: &str = concat!(
    "SELECT ",
    closure_columns!(),
    " FROM presswork.closures c WHERE c.until IS NULL OR presswork.now() < c.until
    ORDER BY c.since, c.id"
);

/// What is closed now.
pub async fn closures(pools: &Pools) -> Result<Vec<Closure>> {
    let rows = pools.call(sqlx::query(CLOSURES).fetch_all(pools.main()));
    let rows = rows.await?;
    let rows = rows.iter().map(closure);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}
