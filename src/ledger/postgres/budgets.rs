//! What is used of budgets: read, and written by compare-and-set.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::codec;
use super::pool::{Pools, explain};
use crate::budget::{Change, Counted, Key};
use crate::clock::Time;
use crate::ledger::door::Result;
use crate::ledger::rows::Audit;
use crate::sabotage;

const MAKE: &str = "
INSERT INTO presswork.budgets (name, whose, changed_at)
SELECT w.name, w.whose, presswork.now() FROM unnest($1::text[], $2::text[]) AS w(name, whose)
ORDER BY w.name, w.whose ON CONFLICT DO NOTHING";

const READ: &str = "
SELECT b.name, b.whose, b.version, b.uses
FROM unnest($1::text[], $2::text[]) AS w(name, whose)
     JOIN presswork.budgets b ON b.name = ANY(ARRAY[w.name]) AND b.whose = ANY(ARRAY[w.whose])";

/// What is used; a part that isn't there begins empty.
pub async fn read(pools: &Pools, keys: &[Key]) -> Result<(Vec<Counted>, Time)> {
    let names: Vec<&str> = keys.iter().map(|it| &*it.name).collect();
    let whose: Vec<&str> = keys.iter().map(|it| &*it.whose).collect();
    let look = || {
        sqlx::query(READ)
            .bind(&names)
            .bind(&whose)
            .fetch_all(pools.planned())
    };
    let mut rows = pools.again(look).await?;
    if rows.len() < keys.len() {
        let make = || {
            sqlx::query(MAKE)
                .bind(&names)
                .bind(&whose)
                .execute(pools.planned())
        };
        pools.again(make).await?;
        rows = pools.again(look).await?;
    }
    let now = || sqlx::query_scalar("SELECT presswork.now()").fetch_one(pools.planned());
    let now = pools.again(now).await?;
    let counted = rows.iter().map(counted);
    Ok((counted.collect::<sqlx::Result<_>>().map_err(explain)?, now))
}

/// Every part that anything was ever counted in.
pub async fn all(pools: &Pools) -> Result<Vec<Counted>> {
    let sql = "SELECT name, whose, version, uses FROM presswork.budgets ORDER BY name, whose";
    let rows = pools.call(sqlx::query(sql).fetch_all(pools.main())).await?;
    let counted = rows.iter().map(counted);
    counted.collect::<sqlx::Result<_>>().map_err(explain)
}

fn counted(row: &PgRow) -> sqlx::Result<Counted> {
    Ok(Counted {
        key: Key {
            name: row.try_get("name")?,
            whose: row.try_get("whose")?,
        },
        version: row.try_get("version")?,
        uses: codec::json(row, "uses")?,
    })
}

/// The rows are locked in the order of their keys, so that two that write the same can't wait for each other;
/// and a lock that was waited for is followed by another look at the row, so the versions that are compared
/// are those of the last commit.
const WRITE: &str = "
WITH w AS MATERIALIZED (
    SELECT name, whose, version, uses
    FROM unnest($1::text[], $2::text[], $3::int8[], $4::text[]) AS w(name, whose, version, uses)
),
locked AS MATERIALIZED (
    SELECT b.name, b.whose, b.version FROM presswork.budgets b
         JOIN w ON b.name = ANY(ARRAY[w.name]) AND b.whose = ANY(ARRAY[w.whose])
    ORDER BY b.name, b.whose FOR UPDATE OF b
),
same AS MATERIALIZED (
    SELECT count(*) = (SELECT count(*) FROM w) AS holds
    FROM locked l JOIN w ON l.name = w.name AND l.whose = w.whose AND l.version = w.version
),
written AS (
    UPDATE presswork.budgets b
    SET version = b.version + 1, uses = w.uses, changed_at = presswork.now()
    FROM w, same
    WHERE b.name = ANY(ARRAY[w.name]) AND b.whose = ANY(ARRAY[w.whose]) AND same.holds
)
SELECT CASE WHEN holds THEN presswork.now() END AS now FROM same";

/// Writes all of them if each still has the version that it was read with.
pub async fn write(pools: &Pools, counted: &[Counted]) -> Result<Option<Time>> {
    let uses = counted.iter().map(|it| codec::text(&it.uses));
    // not made again by itself: it may have been committed, and then counts twice
    let sql = sabotage!(WRITE, "budget.compare": "l.version = w.version" => "0 <= w.version");
    let query = sqlx::query_scalar(sql)
        .bind(counted.iter().map(|it| &*it.key.name).collect::<Vec<_>>())
        .bind(counted.iter().map(|it| &*it.key.whose).collect::<Vec<_>>())
        .bind(counted.iter().map(|it| it.version).collect::<Vec<_>>())
        .bind(uses.collect::<Vec<_>>());
    pools.call(query.fetch_one(pools.planned())).await
}

const CHANGE: &str = "
WITH noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    VALUES ($1, $2, NULL, $3, presswork.now())
)
INSERT INTO presswork.budget_changes AS b (name, most, reason, actor, at, until)
VALUES ($4, $5, $6, $1, presswork.now(), $7)
ON CONFLICT (name) DO UPDATE
SET most = excluded.most, reason = excluded.reason, actor = excluded.actor, at = excluded.at,
    until = excluded.until";

/// Changes a budget.
pub async fn change(pools: &Pools, it: &Change, audit: &Audit) -> Result<()> {
    let query = || {
        sqlx::query(CHANGE)
            .bind(codec::plain(&audit.actor))
            .bind(codec::plain(&audit.action))
            .bind(codec::plain(&audit.detail))
            .bind(codec::plain(&it.name))
            .bind(i64::try_from(it.most).unwrap_or(i64::MAX))
            .bind(codec::plain(&it.reason))
            .bind(it.until)
            .execute(pools.main())
    };
    pools.again(query).await.map(|_| ())
}

const RESTORE: &str = "
WITH gone AS (DELETE FROM presswork.budget_changes WHERE name = $4 RETURNING name),
noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    SELECT $1, $2, NULL, $3, presswork.now() FROM gone
)
SELECT count(*) FROM gone";

/// Takes a change back.
pub async fn restore(pools: &Pools, name: &str, audit: &Audit) -> Result<bool> {
    let query = || {
        sqlx::query_scalar(RESTORE)
            .bind(codec::plain(&audit.actor))
            .bind(codec::plain(&audit.action))
            .bind(codec::plain(&audit.detail))
            .bind(codec::plain(name))
            .fetch_one(pools.main())
    };
    let gone: i64 = pools.again(query).await?;
    Ok(0 < gone)
}

/// What was changed and isn't past.
pub async fn changes(pools: &Pools) -> Result<Vec<Change>> {
    let sql = "SELECT name, most, reason, actor, at, until FROM presswork.budget_changes
               WHERE until IS NULL OR presswork.now() < until ORDER BY name";
    let rows = pools.call(sqlx::query(sql).fetch_all(pools.main())).await?;
    let change = |row: &PgRow| -> sqlx::Result<Change> {
        Ok(Change {
            name: row.try_get("name")?,
            most: u64::try_from(row.try_get::<i64, _>("most")?).unwrap_or(0),
            reason: row.try_get("reason")?,
            actor: row.try_get("actor")?,
            at: row.try_get("at")?,
            until: row.try_get("until")?,
        })
    };
    rows.iter()
        .map(change)
        .collect::<sqlx::Result<_>>()
        .map_err(explain)
}
