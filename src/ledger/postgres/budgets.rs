//! What is used of budgets: read, and written by compare-and-set.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::codec;
use super::pool::{Pools, explain};
use crate::budget::{Counted, Key};
use crate::clock::Time;
use crate::ledger::door::Result;
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
