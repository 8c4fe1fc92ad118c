//! The file and its connections.
//!
//! Each writing method is one `BEGIN IMMEDIATE` transaction on the one writing connection, run in a
//! task of its own: a caller that goes away can't leave it half open. Other processes (commands) may
//! write to the same file: every change compares, so order doesn't matter.

use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::{Connection, SqliteConnection, SqlitePool};
use tokio::sync::Mutex;

use super::map::micros;
use super::open::{self, told};
use super::restore;
use crate::clock::{Clock, Time};
use crate::ledger::door::{LedgerError, Result};

/// The ledger in a SQLite file.
pub struct Sqlite {
    writer: Arc<Mutex<SqliteConnection>>,
    readers: SqlitePool,
    clock: Clock,
}

/// A transaction's work. Its parameters are owned: it runs in a task of its own.
pub(super) type Work<'c, T> = BoxFuture<'c, Result<T>>;

impl Sqlite {
    /// Opens the file, and makes it and its folder where they aren't there. Doesn't migrate.
    ///
    /// # Errors
    /// When the folder or the file can't be made or opened.
    pub async fn open(path: &Path, clock: Clock) -> Result<Self> {
        let (writer, readers) = open::open(path).await?;
        Ok(Self {
            writer: Arc::new(Mutex::new(writer)),
            readers,
            clock,
        })
    }

    /// Copies the ledger, as it is at one moment, into an empty file, while others go on writing.
    ///
    /// # Errors
    /// When it can't be read, or the file can't be written.
    pub async fn copy_to(&self, file: &Path) -> Result<()> {
        restore::copy(&mut *self.reader().await?, file).await
    }

    /// One transaction, all or nothing, whatever becomes of the caller. Gives `work` the time now.
    pub(super) async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection, i64) -> Work<'c, T> + Send + 'static,
    {
        let (writer, clock) = (self.writer.clone(), self.clock.clone());
        let task = tokio::spawn(async move {
            let mut writer = writer.lock_owned().await;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await.map_err(told)?;
            let now = micros(clock.now());
            let done = work(&mut tx, now).await;
            match done {
                Ok(value) => {
                    tx.commit().await.map_err(told)?;
                    Ok(value)
                }
                Err(e) => {
                    tx.rollback().await.map_err(told)?;
                    Err(e)
                }
            }
        });
        task.await
            .map_err(|e| LedgerError::Other(format!("a transaction ended early: {e}")))?
    }

    /// A reading connection.
    pub(super) async fn reader(&self) -> Result<sqlx::pool::PoolConnection<sqlx::Sqlite>> {
        self.readers.acquire().await.map_err(told)
    }

    /// The time now, which is this host's.
    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// As [`Sqlite::now`], as it is stored.
    pub(super) fn now_micros(&self) -> i64 {
        micros(self.clock.now())
    }
}
