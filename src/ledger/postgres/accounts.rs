//! Accounts. How one stands and its closures are one statement.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::codec;
use super::pool::{Pools, explain};
use crate::account::{Granted, Kept, Sealed, Turn};
use crate::gate::Cause;
use crate::ledger::door::{Gate, LedgerError, Result};
use crate::ledger::rows::Audit;
use crate::person::Person;

/// The columns that an account is read from.
macro_rules! account_columns {
    () => {
        "name, platform, tenant, label, settings, key, credentials, version, edition, scopes, expires_at, \
         state, why, since, held_by, held_until, created_at, created_by, client, granted_at, tries, not_before, \
         refused, person_id, person_name"
    };
}

fn read(row: &PgRow) -> sqlx::Result<Kept> {
    let settings: String = row.try_get("settings")?;
    let settings = serde_json::from_str(&settings).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    let scopes: String = row.try_get("scopes")?;
    let by: Option<Uuid> = row.try_get("held_by")?;
    let turn = by.zip(row.try_get("held_until")?);
    let client: Option<String> = row.try_get("client")?;
    let granted = match client.zip(row.try_get("granted_at")?) {
        None => None,
        Some((client, at)) => {
            let tries: i32 = row.try_get("tries")?;
            Some(Granted {
                tries: tries.unsigned_abs(),
                not_before: row.try_get("not_before")?,
                refused: row.try_get("refused")?,
                ..Granted::new(client, at)
            })
        }
    };
    let person: Option<String> = row.try_get("person_id")?;
    let person = person.zip(row.try_get("person_name")?);
    Ok(Kept {
        name: row.try_get("name")?,
        platform: row.try_get("platform")?,
        tenant: row.try_get("tenant")?,
        label: row.try_get("label")?,
        settings,
        sealed: Sealed {
            key: row.try_get("key")?,
            bytes: row.try_get("credentials")?,
        },
        version: row.try_get("version")?,
        edition: row.try_get("edition")?,
        scopes: scopes
            .split(' ')
            .map(str::to_owned)
            .filter(|it| !it.is_empty())
            .collect(),
        expires_at: row.try_get("expires_at")?,
        state: codec::word(row, "state")?,
        why: row.try_get("why")?,
        since: row.try_get("since")?,
        turn: turn.map(|(by, until)| Turn { by, until }),
        granted,
        person: person.map(|(id, name)| Person { id, name }),
        created_at: row.try_get("created_at")?,
        created_by: row.try_get("created_by")?,
    })
}

/// Binds an audit and what an account says as parameters 1 to 17.
macro_rules! bound {
    ($sql:expr, $audit:expr, $it:expr, $settings:expr) => {{
        let (audit, it): (Option<&Audit>, &Kept) = ($audit, $it);
        sqlx::query($sql)
            .bind(audit.map(|it| codec::plain(&it.actor)))
            .bind(audit.map(|it| codec::plain(&it.action)))
            .bind(audit.map(|it| codec::plain(&it.detail)))
            .bind(codec::plain(&it.name))
            .bind(codec::plain(&it.platform))
            .bind(it.tenant.as_deref().map(codec::plain))
            .bind(codec::plain(&it.label))
            .bind(codec::plain($settings))
            .bind(codec::plain(&it.sealed.key))
            .bind(&it.sealed.bytes)
            .bind(it.version)
            .bind(codec::plain(&it.scopes.join(" ")))
            .bind(it.expires_at)
            .bind(it.state.as_str())
            .bind(it.why.as_deref().map(codec::plain))
            .bind(it.turn.map(|it| it.by))
            .bind(it.turn.map(|it| it.until))
    }};
}

/// Binds what renews an account, and who it is, as the next seven parameters.
macro_rules! bound_rest {
    ($query:expr, $it:expr) => {{
        let granted: Option<&Granted> = $it.granted.as_ref();
        $query
            .bind(granted.map(|it| codec::plain(&it.client)))
            .bind(granted.map(|it| it.at))
            .bind(granted.map_or(0, |it| i32::try_from(it.tries).unwrap_or(i32::MAX)))
            .bind(granted.and_then(|it| it.not_before))
            .bind(granted.is_some_and(|it| it.refused))
            .bind($it.person.as_ref().map(|it| codec::plain(&it.id)))
            .bind($it.person.as_ref().map(|it| codec::plain(&it.name)))
    }};
}

/// Asked again after a lost answer it finds its own row: what was sealed says so.
const ADD: &str = "
WITH counted AS (
    UPDATE presswork.accounts_edition SET edition = edition + 1 RETURNING edition
),
added AS (
    INSERT INTO presswork.accounts
        (name, platform, tenant, label, settings, key, credentials, version, edition, scopes, expires_at,
         state, why, since, held_by, held_until, created_at, created_by, client, granted_at, tries,
         not_before, refused, person_id, person_name)
    SELECT $4, $5, $6, $7, $8, $9, $10, $11, edition, $12, $13, $14, $15, presswork.now(), $16, $17,
           presswork.now(), $18, $19, $20, $21, $22, $23,
           $24, $25
    FROM counted
    ON CONFLICT (name) DO NOTHING
    RETURNING name
),
noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    SELECT $1, $2, NULL, $3, presswork.now() FROM added
)
SELECT EXISTS (SELECT FROM added)
    OR EXISTS (SELECT FROM presswork.accounts WHERE name = $4 AND credentials = $10) AS done";

const ONE: &str = concat!(
    "SELECT ",
    account_columns!(),
    " FROM presswork.accounts WHERE name = $1"
);
const ALL: &str = concat!(
    "SELECT ",
    account_columns!(),
    " FROM presswork.accounts ORDER BY name"
);

/// A write that changes nothing counts, too: who asks reads once too often.
const PUT: &str = "
WITH clock AS MATERIALIZED (SELECT presswork.now() AS now),
counted AS (
    UPDATE presswork.accounts_edition SET edition = edition + 1 RETURNING edition
),
put AS (
    UPDATE presswork.accounts a
    SET platform = $5, tenant = $6, label = $7, settings = $8, key = $9, credentials = $10, version = $11,
        edition = counted.edition, scopes = $12, expires_at = $13, state = $14, why = $15,
        held_by = $16, held_until = $17,
        client = $22, granted_at = $23, tries = $24, not_before = $25, refused = $26,
        person_id = $27, person_name = $28,
        since = CASE WHEN a.state = $14 THEN a.since ELSE clock.now END
    FROM clock, counted
    WHERE a.name = $4 AND a.edition = $18
    RETURNING a.name, a.edition
),
noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    SELECT $1, $2, NULL, $3, clock.now FROM put, clock WHERE $1 IS NOT NULL
),
opened AS (
    DELETE FROM presswork.closures c USING put
    WHERE c.cause = ANY ($19) AND c.account = put.name
      AND c.platform = '' AND c.tenant = '' AND c.label = '' AND c.kind = ''
),
closed AS (
    INSERT INTO presswork.closures AS c (cause, platform, account, tenant, label, kind, id, mark, reason,
                                         actor, since)
    SELECT $20, '', put.name, '', '', '', $21, '', coalesce($15, ''), coalesce($1, 'presswork'), clock.now
    FROM put, clock WHERE $20 IS NOT NULL
    ON CONFLICT ON CONSTRAINT closures_scope DO UPDATE
    SET reason = excluded.reason, actor = excluded.actor, until = NULL,
        id = CASE WHEN c.until <= excluded.since THEN excluded.id ELSE c.id END,
        since = CASE WHEN c.until <= excluded.since THEN excluded.since ELSE c.since END
)
SELECT edition FROM put";

const REMOVE: &str = "
WITH counted AS (
    UPDATE presswork.accounts_edition SET edition = edition + 1
),
gone AS (
    DELETE FROM presswork.accounts WHERE name = $4 RETURNING name, state
),
opened AS (
    DELETE FROM presswork.closures c USING gone
    WHERE (c.cause = 'credentials' OR (c.cause = 'stop' AND gone.state = 'paused'))
      AND c.account = gone.name AND c.platform = '' AND c.tenant = '' AND c.label = '' AND c.kind = ''
),
noted AS (
    INSERT INTO presswork.audit (actor, action, job, detail, at)
    SELECT $1, $2, NULL, $3, presswork.now() FROM gone
)
SELECT EXISTS (SELECT FROM gone)";

fn settings(it: &Kept) -> Result<String> {
    serde_json::to_string(&it.settings)
        .map_err(|e| LedgerError::Row(format!("an account's settings are no JSON: {e}")))
}

/// Writes a new account down.
pub async fn add(pools: &Pools, it: &Kept, audit: &Audit) -> Result<bool> {
    let settings = settings(it)?;
    let query = || {
        let query = bound!(ADD, Some(audit), it, &settings).bind(codec::plain(&it.created_by));
        bound_rest!(query, it).fetch_one(pools.main())
    };
    let row = pools.again(query).await?;
    row.try_get("done").map_err(explain)
}

/// One account.
pub async fn one(pools: &Pools, name: &str) -> Result<Option<Kept>> {
    let query = sqlx::query(ONE).bind(codec::plain(name));
    let row = pools.call(query.fetch_optional(pools.main()));
    let row = row.await?;
    row.as_ref().map(read).transpose().map_err(explain)
}

/// All of them, by name.
pub async fn all(pools: &Pools) -> Result<Vec<Kept>> {
    let query = sqlx::query(ALL).fetch_all(pools.main());
    let rows = pools.call(query).await?;
    let rows = rows.iter().map(read);
    rows.collect::<sqlx::Result<_>>().map_err(explain)
}

/// Writes an account, unless somebody did since it was read.
pub async fn put(
    pools: &Pools,
    was: &Kept,
    it: &Kept,
    audit: Option<&Audit>,
) -> Result<Option<i64>> {
    let settings = settings(it)?;
    let Gate { close, open } = Gate::between(was, it);
    let open: Vec<&str> = open.into_iter().map(Cause::as_str).collect();
    let query = || {
        let query = bound!(PUT, audit, it, &settings)
            .bind(was.edition)
            .bind(&open)
            .bind(close.map(Cause::as_str))
            .bind(Uuid::new_v4());
        bound_rest!(query, it).fetch_optional(pools.main())
    };
    let row = pools.again(query).await?;
    let edition = row.map(|it| it.try_get("edition")).transpose();
    edition.map_err(explain)
}

/// Forgets an account.
pub async fn remove(pools: &Pools, name: &str, audit: &Audit) -> Result<bool> {
    let query = || {
        sqlx::query_scalar(REMOVE)
            .bind(codec::plain(&audit.actor))
            .bind(codec::plain(&audit.action))
            .bind(codec::plain(&audit.detail))
            .bind(codec::plain(name))
            .fetch_one(pools.main())
    };
    pools.again(query).await
}

/// Another number after each change.
pub async fn edition(pools: &Pools) -> Result<i64> {
    let sql = "SELECT edition FROM presswork.accounts_edition";
    let query = sqlx::query_scalar(sql).fetch_one(pools.main());
    pools.call(query).await
}
