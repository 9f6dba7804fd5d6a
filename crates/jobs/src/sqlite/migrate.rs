//! Versions of the database. Each migration is applied once, in one transaction with its number.

use sqlx::Row;

use super::SqliteStore;
use super::failure::{Attempted, Failure};
use crate::error::StoreError;

/// In order; what was released is never changed, only added to.
const MIGRATIONS: [(i64, &str); 6] = [
    (1, include_str!("../../migrations/0001_jobs.sql")),
    (2, include_str!("../../migrations/0002_keys.sql")),
    (3, include_str!("../../migrations/0003_deliveries.sql")),
    (4, include_str!("../../migrations/0004_segments.sql")),
    (5, include_str!("../../migrations/0005_instead.sql")),
    (6, include_str!("../../migrations/0006_traces.sql")),
];

pub(super) async fn check_and_migrate(store: &SqliteStore) -> Attempted<()> {
    let mut connection = store.writer.acquire().await?;
    let findings: Vec<String> =
        sqlx::query_scalar("PRAGMA quick_check(3)").fetch_all(&mut *connection).await?;
    drop(connection);
    if findings != ["ok"] {
        return Err(Failure::Unreadable(findings.join("; ")));
    }

    let mut tx = store.begin().await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS migrations (
            version INTEGER PRIMARY KEY,
            applied_ms INTEGER NOT NULL
        ) STRICT",
    )
    .execute(&mut *tx)
    .await?;
    let row = sqlx::query("SELECT COALESCE(MAX(version), 0) AS version FROM migrations")
        .fetch_one(&mut *tx)
        .await?;
    let found: i64 = row.try_get("version")?;
    let known = MIGRATIONS[MIGRATIONS.len() - 1].0;
    if found > known {
        return Err(StoreError::Newer { path: store.path.clone(), found, known }.into());
    }
    for (version, sql) in MIGRATIONS.into_iter().filter(|(version, _)| *version > found) {
        sqlx::raw_sql(sql).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO migrations (version, applied_ms) VALUES (?, ?)")
            .bind(version)
            .bind(store.now_ms())
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(())
}
