//! The store in a SQLite file: no server to start, several processes at once.
//!
//! Readers never wait (write-ahead log). Writers take the database's write lock at their beginning
//! (`BEGIN IMMEDIATE`), so that what a transaction has read still holds when it writes; within a
//! process they queue for the one writing connection instead of competing for that lock. A commit is
//! on the disk before the call returns.

mod choose;
mod create;
mod deliveries;
mod failure;
mod jobs;
mod keys;
mod migrate;
mod rows;
mod segments;
mod steps;
mod upkeep;
mod work;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::pool::PoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Sqlite, SqlitePool, Transaction};

use crate::error::StoreError;
use crate::store::StoreOptions;
use failure::{Attempted, explain};

/// Connections that read at once.
const READERS: u32 = 4;
/// A writer that had to queue this long within its own process gives up.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(60);

/// A [`crate::Store`] in a SQLite file on a local disk.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    path: PathBuf,
    readers: SqlitePool,
    writer: SqlitePool,
    options: StoreOptions,
}

impl SqliteStore {
    /// Opens a database, or makes it, checks it and brings it to this program's version.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Newer`], [`StoreError::Locked`],
    /// [`StoreError::Unusable`], [`StoreError::Invalid`] for options out of their range.
    pub async fn open(path: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        check_options(&options)?;
        let path = path.as_ref().to_path_buf();
        let busy = Duration::from_millis(options.busy_timeout_ms);
        let connect = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(busy)
            .disable_statement_logging();
        let pool = |connections| {
            PoolOptions::<Sqlite>::new()
                .max_connections(connections)
                .acquire_timeout(QUEUE_TIMEOUT.max(busy))
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                // A disk that is full makes SQLite end a transaction by itself, and sqlx goes on to count it
                // as open: such a connection can begin nothing any more.
                .before_acquire(|connection, _| {
                    Box::pin(async move { Ok(!connection.is_in_transaction()) })
                })
                .connect_lazy_with(connect.clone())
        };
        let store = Self { path, readers: pool(READERS), writer: pool(1), options };
        let started = Instant::now();
        loop {
            match store.explain("open the database", migrate::check_and_migrate(&store)).await {
                // SQLite does not wait by itself while another process switches a new file to the
                // write-ahead log.
                Err(StoreError::Locked { .. }) if started.elapsed() < busy => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error),
                Ok(()) => return Ok(store),
            }
        }
    }

    /// Ends all connections after what they are doing. A store that is dropped without it loses
    /// nothing.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// What the store was opened with.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    fn now_ms(&self) -> i64 {
        self.options.clock.now_ms()
    }

    /// Begins to write. What is not committed is undone when the transaction is dropped.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    /// Names the database and what was tried in errors.
    async fn explain<T>(
        &self,
        action: &'static str,
        work: impl Future<Output = Attempted<T>> + Send,
    ) -> Result<T, StoreError> {
        work.await.map_err(|f| explain(f, action, &self.path, self.options.busy_timeout_ms))
    }
}

fn check_options(options: &StoreOptions) -> Result<(), StoreError> {
    let at_least_one = |field, value: u64| {
        if value == 0 {
            return Err(StoreError::invalid(field, value, "it has to be 1 or more"));
        }
        Ok(())
    };
    at_least_one("limits.queue_length", options.limits.queue_length)?;
    at_least_one("limits.owner.queued", options.limits.owner.queued)?;
    at_least_one("limits.owner.running", options.limits.owner.running)?;
    at_least_one("max_deaths", options.max_deaths.into())?;
    at_least_one("share_half_life_ms", options.share_half_life_ms.max(0) as u64)?;
    at_least_one("backoff.max_attempts", options.backoff.max_attempts.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{JobStore, ListFilter, NewJob};

    #[tokio::test]
    async fn a_full_disk_is_an_error_that_says_so_and_work_goes_on_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.db");
        let store = SqliteStore::open(&path, StoreOptions::default()).await.unwrap();
        // SQLite gives the same error for a file that may not grow as for a disk that is full.
        let may_grow_to = async |pages: &'static str| {
            sqlx::query(pages).execute(&store.writer).await.unwrap();
        };
        may_grow_to("PRAGMA max_page_count = 60").await;
        let film = || NewJob::new("ann", "p".repeat(60_000), serde_json::json!({}));
        let mut taken = 0;
        let error = loop {
            match store.create(film()).await {
                Ok(_) => taken += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
        assert!(error.is_transient(), "{error}");
        let jobs = async || store.list(ListFilter::default()).await.unwrap().jobs.len();
        assert_eq!(jobs().await, taken);
        may_grow_to("PRAGMA max_page_count = 6000").await;
        store.create(film()).await.unwrap();
        assert_eq!(jobs().await, taken + 1);
    }
}
