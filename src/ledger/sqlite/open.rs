//! Opening the file, bringing its schema up to date, and transactions that no caller can break.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Row, SqlitePool};

use crate::ledger::door::{LedgerError, Result};
use crate::ledger::rows::{Migrated, Schema};

/// Forward only; a file's number is its place in the list, from 1.
const MIGRATIONS: [&str; 11] = [
    include_str!("../../../migrations/sqlite/0001_ledger.sql"),
    include_str!("../../../migrations/sqlite/0002_media.sql"),
    include_str!("../../../migrations/sqlite/0003_closures.sql"),
    include_str!("../../../migrations/sqlite/0004_breakers.sql"),
    include_str!("../../../migrations/sqlite/0005_tokens.sql"),
    include_str!("../../../migrations/sqlite/0006_budgets.sql"),
    include_str!("../../../migrations/sqlite/0007_accounts.sql"),
    include_str!("../../../migrations/sqlite/0008_oauth.sql"),
    include_str!("../../../migrations/sqlite/0009_late.sql"),
    include_str!("../../../migrations/sqlite/0010_planned.sql"),
    include_str!("../../../migrations/sqlite/0011_persons.sql"),
];

/// The newest version that this program knows.
pub const KNOWN: i64 = MIGRATIONS.len() as i64;

/// Rows that a statement gives before somebody has to take them: of a claim, all.
const ROWS: usize = 1_000;

/// Settlements on their way into the tables: of one batch, gone with its transaction. On the writer's own
/// connection.
const WANT: &str = "CREATE TEMP TABLE want (
    n INTEGER PRIMARY KEY, id BLOB, token BLOB, version INTEGER, state TEXT, run_at INTEGER, reset INTEGER,
    attempts INTEGER, crashes INTEGER, held TEXT, cancel INTEGER, failure TEXT, fingerprint TEXT,
    payload TEXT, archive INTEGER, result TEXT, admitted INTEGER)";

/// A writer that finds the file locked by another process waits this long.
const BUSY: Duration = Duration::from_secs(5);

/// What sqlx says, in the ledger's words.
pub fn told(error: sqlx::Error) -> LedgerError {
    match &error {
        sqlx::Error::Database(e) => {
            let primary = e
                .code()
                .and_then(|it| it.parse::<u32>().ok())
                .map(|it| it & 0xff);
            match primary {
                // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL
                Some(5..=10 | 13..=15) => LedgerError::Away(e.to_string()),
                // TOOBIG, CONSTRAINT, MISMATCH
                Some(18..=20) => LedgerError::Row(e.to_string()),
                _ => LedgerError::Other(e.to_string()),
            }
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => {
            LedgerError::Away(error.to_string())
        }
        sqlx::Error::Encode(_) => LedgerError::Row(error.to_string()),
        _ => LedgerError::Other(error.to_string()),
    }
}

/// How the file is opened.
pub fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY)
        .foreign_keys(true)
        .pragma("temp_store", "memory")
        .pragma("cache_size", "-16384")
}

/// Makes folder and file, for their owner only, and opens the writer and a few readers.
pub async fn open(path: &Path) -> Result<(SqliteConnection, SqlitePool)> {
    let away = |e: std::io::Error| LedgerError::Away(format!("{}: {e}", path.display()));
    if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(away)?;
    }
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(away)?;
    let mut writer = options(path)
        .row_buffer_size(ROWS)
        .connect()
        .await
        .map_err(told)?;
    let want = sqlx::raw_sql(WANT).execute(&mut writer).await;
    want.map_err(told)?;
    let readers = SqlitePoolOptions::new()
        .max_connections(4)
        .acquire_timeout(BUSY)
        .connect_with(options(path))
        .await
        .map_err(told)?;
    Ok((writer, readers))
}

/// The file's version, and the program's.
pub async fn schema(conn: &mut SqliteConnection) -> Result<Schema> {
    let row = sqlx::query("PRAGMA user_version")
        .fetch_one(conn)
        .await
        .map_err(told)?;
    let found = row.try_get::<i64, _>(0).map_err(told)?;
    Ok(Schema {
        found,
        known: KNOWN,
        // one daemon has the file: nothing is upgraded under another
        oldest: found,
    })
}

/// Applies what is missing, within the caller's transaction.
pub async fn migrate(conn: &mut SqliteConnection) -> Result<Migrated> {
    let Schema { found, known, .. } = schema(conn).await?;
    if known < found {
        return Err(LedgerError::Schema(format!(
            "the ledger's schema is version {found}, this program knows up to {known}: install the newer Presswork again"
        )));
    }
    let done = usize::try_from(found).unwrap_or(0);
    for sql in &MIGRATIONS[done..] {
        sqlx::raw_sql(*sql)
            .execute(&mut *conn)
            .await
            .map_err(told)?;
    }
    let version = format!("PRAGMA user_version = {known}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(version))
        .execute(conn)
        .await
        .map_err(told)?;
    Ok(Migrated {
        from: found,
        to: known,
    })
}
