//! The schema: embedded migrations, applied under a lock, and the question whether Postgres is
//! durable.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::connections::{Opened, Opening};
use super::pool::{Pools, explain};
use crate::json::Digest;
use crate::ledger::door::{LedgerError, Result};
use crate::ledger::rows::{Concern, Migrated, Schema};

/// A step of the schema. Forward only: a file that was released is never changed.
///
/// Hosts are upgraded one after the other, so a step should only add to what there is, in a way that
/// programs of the last release don't notice, and keep their version as its `oldest`. What they use is
/// taken away by a step of the release after.
struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
    /// The oldest version whose program works with the ledger after it.
    oldest: i64,
}

const MIGRATIONS: [Migration; 14] = [
    Migration {
        version: 1,
        name: "jobs",
        sql: include_str!("../../../migrations/postgres/0001_jobs.sql"),
        oldest: 1,
    },
    Migration {
        version: 2,
        name: "effects_and_runs",
        sql: include_str!("../../../migrations/postgres/0002_effects_and_runs.sql"),
        oldest: 2,
    },
    Migration {
        version: 3,
        name: "media",
        sql: include_str!("../../../migrations/postgres/0003_media.sql"),
        oldest: 3,
    },
    Migration {
        version: 4,
        name: "sql_door",
        sql: include_str!("../../../migrations/postgres/0004_sql_door.sql"),
        oldest: 4,
    },
    // a program of the version before would give permits though the scope is closed
    Migration {
        version: 5,
        name: "closures",
        sql: include_str!("../../../migrations/postgres/0005_closures.sql"),
        oldest: 5,
    },
    Migration {
        version: 6,
        name: "breakers",
        sql: include_str!("../../../migrations/postgres/0006_breakers.sql"),
        oldest: 5,
    },
    Migration {
        version: 7,
        name: "tokens",
        sql: include_str!("../../../migrations/postgres/0007_tokens.sql"),
        oldest: 5,
    },
    // a program of the version before would send without counting
    Migration {
        version: 8,
        name: "budgets",
        sql: include_str!("../../../migrations/postgres/0008_budgets.sql"),
        oldest: 8,
    },
    // a program of the version before can't read why such an account is closed
    Migration {
        version: 9,
        name: "accounts",
        sql: include_str!("../../../migrations/postgres/0009_accounts.sql"),
        oldest: 9,
    },
    // a program of the version before wouldn't let an account go on that was refused and then renewed
    Migration {
        version: 10,
        name: "oauth",
        sql: include_str!("../../../migrations/postgres/0010_oauth.sql"),
        oldest: 10,
    },
    // a program of the version before would send for its own account what was sent for another one
    Migration {
        version: 11,
        name: "fallbacks",
        sql: include_str!("../../../migrations/postgres/0011_fallbacks.sql"),
        oldest: 11,
    },
    Migration {
        version: 12,
        name: "late",
        sql: include_str!("../../../migrations/postgres/0012_late.sql"),
        oldest: 11,
    },
    // a program of the version before keeps no places, and takes none that it wasn't allowed before
    Migration {
        version: 13,
        name: "planned",
        sql: include_str!("../../../migrations/postgres/0013_planned.sql"),
        oldest: 11,
    },
    // a program of the version before compares no persons, as it did before
    Migration {
        version: 14,
        name: "persons",
        sql: include_str!("../../../migrations/postgres/0014_persons.sql"),
        oldest: 11,
    },
];

/// A ledger whose steps were applied before they said this has no such column.
macro_rules! oldest {
    () => {
        "coalesce((to_jsonb(migrations) ->> 'oldest')::bigint, version) AS oldest"
    };
}

/// The newest version that this program knows.
pub const KNOWN: i64 = MIGRATIONS[MIGRATIONS.len() - 1].version;
/// Another migration is waited for so long; a statement of ours may take so long.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

const IS_THERE: &str = "SELECT to_regclass('presswork.migrations') IS NOT NULL";
const APPLIED: &str = concat!(
    "SELECT version, checksum, ",
    oldest!(),
    " FROM presswork.migrations ORDER BY version"
);
const NEWEST: &str = concat!(
    "SELECT coalesce(max(version), 0) AS version, coalesce(max(oldest), 0) AS oldest FROM (",
    "SELECT version, ",
    oldest!(),
    " FROM presswork.migrations) AS applied"
);
/// Of the transaction, as PgBouncer wants it.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('presswork.migrations', 0))";
/// Not `IF NOT EXISTS`: that asks for the right to make schemas even where an owner made this one.
const HAS_HOME: &str = "SELECT to_regnamespace('presswork') IS NOT NULL";
const HOME: &str = "CREATE SCHEMA presswork";
const NOTES: &str = "
CREATE TABLE IF NOT EXISTS presswork.migrations (
    version    bigint PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE presswork.migrations ADD COLUMN IF NOT EXISTS oldest bigint";

/// The store's version and the program's.
///
/// # Errors
/// When the ledger can't be read.
pub async fn schema(pools: &Pools) -> Result<Schema> {
    let found = pools
        .call(async {
            let mut connection = pools.main().pool().acquire().await?;
            let mut transaction = pools.main().opening().begin(&mut connection).await?;
            let found = found(&mut transaction).await?;
            transaction.commit().await?;
            Ok(found)
        })
        .await?;
    Ok(found)
}

async fn found(transaction: &mut Opened<'_>) -> sqlx::Result<Schema> {
    let mut schema = Schema {
        found: 0,
        known: KNOWN,
        oldest: 0,
    };
    let there: bool = sqlx::query_scalar(IS_THERE)
        .fetch_one(transaction.on())
        .await?;
    if there {
        let row = sqlx::query(NEWEST).fetch_one(transaction.on()).await?;
        schema.found = row.try_get("version")?;
        schema.oldest = row.try_get("oldest")?;
    }
    Ok(schema)
}

/// Brings the schema up to date, in one transaction.
///
/// # Errors
/// [`LedgerError::Schema`] when the store is newer, or what was applied isn't what is known here.
pub async fn migrate(pools: &Pools) -> Result<Migrated> {
    let before = schema(pools).await?.found;
    if KNOWN <= before {
        // nothing to do, and no right to make tables is needed to find that out
        let connections = pools.main();
        let mut connection = connections.pool().acquire().await.map_err(explain)?;
        let transaction = connections.opening().begin(&mut connection).await;
        let mut transaction = transaction.map_err(explain)?;
        compare(&mut transaction).await?;
        transaction.commit().await.map_err(explain)?;
        return Ok(Migrated {
            from: before,
            to: before,
        });
    }
    let opening = pools.main().opening();
    let apply = pools.apart(pools.main(), PATIENCE, |it| Box::pin(apply(it, opening)));
    apply.await
}

async fn apply(connection: &mut PgConnection, opening: Opening) -> Result<Migrated> {
    let mut transaction = opening.begin(connection).await.map_err(explain)?;
    let millis = PATIENCE.as_millis();
    let patience =
        format!("SET LOCAL statement_timeout = {millis}; SET LOCAL lock_timeout = {millis}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(patience))
        .execute(transaction.on())
        .await
        .map_err(explain)?;
    execute(&mut transaction, LOCK).await?;
    let home: bool = sqlx::query_scalar(HAS_HOME)
        .fetch_one(transaction.on())
        .await
        .map_err(explain)?;
    if !home {
        execute(&mut transaction, HOME).await?;
    }
    execute(&mut transaction, NOTES).await?;
    compare(&mut transaction).await?;
    let from = found(&mut transaction).await.map_err(explain)?.found;
    for migration in MIGRATIONS.iter().filter(|it| from < it.version) {
        let said = |e| match explain(e) {
            LedgerError::Row(it) | LedgerError::Other(it) | LedgerError::Schema(it) => {
                let Migration { version, name, .. } = migration;
                LedgerError::Other(format!("migration {version} ({name}) failed: {it}"))
            }
            away => away,
        };
        sqlx::raw_sql(migration.sql)
            .execute(transaction.on())
            .await
            .map_err(said)?;
        let note = "INSERT INTO presswork.migrations (version, name, checksum, oldest) VALUES ($1, $2, $3, $4)";
        sqlx::query(note)
            .bind(migration.version)
            .bind(migration.name)
            .bind(checksum(migration))
            .bind(migration.oldest)
            .execute(transaction.on())
            .await
            .map_err(said)?;
    }
    transaction.commit().await.map_err(explain)?;
    Ok(Migrated { from, to: KNOWN })
}

async fn execute(transaction: &mut Opened<'_>, sql: &'static str) -> Result<()> {
    let done = sqlx::raw_sql(sql).execute(transaction.on()).await;
    done.map(|_| ()).map_err(explain)
}

fn checksum(migration: &Migration) -> String {
    Digest::of_bytes(migration.sql.as_bytes()).hex()
}

/// What was applied must be what is known here, or leave this program able to work.
async fn compare(transaction: &mut Opened<'_>) -> Result<()> {
    let rows = sqlx::query(APPLIED)
        .fetch_all(transaction.on())
        .await
        .map_err(explain)?;
    for row in rows {
        let version: i64 = row.try_get("version").map_err(explain)?;
        let applied: String = row.try_get("checksum").map_err(explain)?;
        let oldest: i64 = row.try_get("oldest").map_err(explain)?;
        match MIGRATIONS.iter().find(|it| it.version == version) {
            None if oldest <= KNOWN => {}
            None => return Err(newer(version)),
            Some(known) if checksum(known) != applied => {
                return Err(LedgerError::Schema(format!(
                    "migration {version} ({}) was applied with other contents than this program's; use the release that made the ledger, or a newer one",
                    known.name
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn newer(version: i64) -> LedgerError {
    LedgerError::Schema(format!(
        "the ledger's schema has version {version}, and this program knows only {KNOWN}: install the newer presswork that made it, or restore an older ledger"
    ))
}

const SETTINGS: &str = "
SELECT current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('server_version_num')::integer AS version,
       current_setting('synchronous_standby_names') AS standby_names,
       (SELECT count(*) FROM pg_stat_replication) AS standbys,
       pg_is_in_recovery() AS recovery";

/// What stands against calling this Postgres durable.
///
/// # Errors
/// When it can't be asked.
pub async fn concerns(pools: &Pools) -> Result<Vec<Concern>> {
    let row = pools
        .call(sqlx::query(SETTINGS).fetch_one(pools.main()))
        .await?;
    let text = |name: &str| row.try_get::<String, _>(name).map_err(explain);
    let mut concerns = Vec::new();
    let mut concern = |setting: &str, fatal, message: String| {
        concerns.push(Concern {
            setting: setting.to_owned(),
            message,
            fatal,
        });
    };
    for (setting, why) in [
        (
            "fsync",
            "a crash of the machine may lose or corrupt everything",
        ),
        (
            "full_page_writes",
            "a page torn by a crash can't be repaired",
        ),
    ] {
        if text(setting)? != "on" {
            concern(
                setting,
                true,
                format!("{setting} is off and must be on: {why}"),
            );
        }
    }
    let commit = text("synchronous_commit")?;
    if matches!(commit.as_str(), "off" | "local") {
        let message = format!(
            "synchronous_commit is {commit} for this role and must be on: what was acknowledged could be lost (ALTER ROLE ... SET synchronous_commit = on)"
        );
        concern("synchronous_commit", true, message);
    } else if commit == "remote_write" {
        let message = "synchronous_commit is remote_write: a standby that crashes right after a failover may lose what was acknowledged; on is safer";
        concern("synchronous_commit", false, message.to_owned());
    }
    if row.try_get("recovery").map_err(explain)? {
        let message = "this server is a standby (in recovery): it can't be written to; name the primary in the URL";
        concern("pg_is_in_recovery", true, message.to_owned());
    }
    // whoever may not see more still sees that they are there
    let standbys: i64 = row.try_get("standbys").map_err(explain)?;
    if 0 < standbys && text("standby_names")?.trim().is_empty() {
        let message = format!(
            "{standbys} standby(s) follow this server and none has to have what is committed: when one of them takes over, jobs that were acknowledged in the last moments may be missing, which is told (what was sent isn't sent again); name one in synchronous_standby_names where that is too much"
        );
        concern("synchronous_standby_names", false, message);
    }
    if let Some(host) = pools.unproven() {
        let message = format!(
            "nothing proves that {host} is the ledger, and who is on the way may read what is sent: end the URL in ?sslmode=verify-full, with &sslrootcert=PATH for a CA of your own"
        );
        concern("sslmode", false, message);
    }
    if row.try_get::<i32, _>("version").map_err(explain)? < 140_000 {
        let message = "this PostgreSQL is older than 14, the oldest that Presswork is tested with";
        concern("server_version", false, message.to_owned());
    }
    Ok(concerns)
}
