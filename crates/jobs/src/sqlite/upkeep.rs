//! What is done from time to time.

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection};

use super::SqliteStore;
use super::failure::Attempted;
use super::jobs::delete_rows;
use super::rows::{integer, job, job_query, number, parsed};
use super::steps::{Death, deadline_error};
use crate::error::StoreError;
use crate::id::JobId;
use crate::retention::{Counts, Removed, Retention, Swept, SweptReason};
use crate::state::JobState;
use crate::store::UpkeepStore;

/// Jobs deleted by one call of `retire`, so that it does not keep others from writing.
const RETIRED_AT_ONCE: usize = 100;

/// Ended jobs that nothing unfinished is made from, the first to end first.
const RETIRABLE: &str = "FROM jobs WHERE finished_ms IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM jobs AS child WHERE child.parent = jobs.id AND child.relation <> 'remix'
            AND child.state IN ('queued', 'running'))";

impl SqliteStore {
    /// Takes jobs back whose lease has run out.
    pub(super) async fn take_back_expired(
        &self,
        tx: &mut SqliteConnection,
        now_ms: i64,
    ) -> Attempted<Vec<Swept>> {
        // Renewed in the future: the clock has jumped back, and the lease would last longer than
        // anybody meant.
        sqlx::query(
            "UPDATE jobs SET lease_renewed_ms = ?1, lease_expires_ms = ?1 + lease_ms
             WHERE state = 'running' AND lease_renewed_ms > ?1",
        )
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
        let rows = sqlx::query(job_query!(
            "WHERE state = 'running' AND lease_expires_ms <= ? ORDER BY seq"
        ))
        .bind(now_ms)
        .fetch_all(&mut *tx)
        .await?;
        let mut swept = Vec::new();
        for row in &rows {
            let job = job(row)?;
            let died = Some(Death::new("it did not renew its lease in time"));
            let state = self.let_go(tx, &job, died, now_ms).await?;
            swept.push(Swept { job: job.id, reason: SweptReason::LeaseExpired, state });
        }
        Ok(swept)
    }

    async fn retire_in(
        &self,
        tx: &mut SqliteConnection,
        retention: Retention,
        now_ms: i64,
    ) -> Attempted<Vec<Removed>> {
        let mut removed = Vec::new();
        if let Some(max_age_ms) = retention.max_age_ms {
            let sql = format!(
                "SELECT id {RETIRABLE} AND finished_ms <= ? ORDER BY finished_ms, seq LIMIT ?"
            );
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(now_ms.saturating_sub(max_age_ms.max(0)))
                .bind(RETIRED_AT_ONCE as i64)
                .fetch_all(&mut *tx)
                .await?;
            for row in &rows {
                removed.push(delete_rows(tx, parsed(row, "id")?).await?);
            }
        }
        if let Some(max) = retention.max_total_bytes {
            let max = integer("max_total_bytes", max).unwrap_or(i64::MAX);
            let mut total = total_bytes(tx).await?;
            if total <= max {
                return Ok(removed);
            }
            let sql = format!(
                "SELECT id, bytes FROM (
                    SELECT id, finished_ms, seq,
                        (SELECT COALESCE(SUM(size_bytes), 0) FROM artifacts WHERE job = jobs.id)
                            AS bytes
                    {RETIRABLE}
                 ) WHERE bytes > 0 ORDER BY finished_ms, seq LIMIT ?"
            );
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(RETIRED_AT_ONCE.saturating_sub(removed.len()) as i64)
                .fetch_all(&mut *tx)
                .await?;
            for row in &rows {
                if total <= max {
                    break;
                }
                total -= row.try_get::<i64, _>("bytes")?;
                removed.push(delete_rows(tx, parsed(row, "id")?).await?);
            }
        }
        Ok(removed)
    }
}

async fn total_bytes(connection: &mut SqliteConnection) -> Attempted<i64> {
    // TOTAL, not SUM, which fails when sizes add up beyond an integer.
    let row = sqlx::query("SELECT CAST(TOTAL(size_bytes) AS INTEGER) AS total FROM artifacts")
        .fetch_one(connection)
        .await?;
    Ok(row.try_get("total")?)
}

#[async_trait]
impl UpkeepStore for SqliteStore {
    async fn sweep(&self) -> Result<Vec<Swept>, StoreError> {
        self.explain("take back what has run out", async {
            let mut tx = self.begin().await?;
            let now_ms = self.now_ms();
            let mut swept = self.take_back_expired(&mut tx, now_ms).await?;
            let rows = sqlx::query(job_query!(
                "INDEXED BY jobs_by_deadline
                 WHERE state = 'queued' AND deadline_ms IS NOT NULL AND deadline_ms <= ?
                 ORDER BY seq"
            ))
            .bind(now_ms)
            .fetch_all(&mut *tx)
            .await?;
            let reason = SweptReason::DeadlinePassed;
            for row in &rows {
                let job = job(row)?;
                let error = deadline_error();
                self.finish(&mut tx, &job, JobState::Failed, Some(&error), now_ms).await?;
                swept.push(Swept { job: job.id, reason, state: JobState::Failed });
            }
            tx.commit().await?;
            Ok(swept)
        })
        .await
    }

    async fn worker_gone(&self, worker: &str) -> Result<Vec<Swept>, StoreError> {
        self.explain("take back what a worker held", async {
            let mut tx = self.begin().await?;
            let now_ms = self.now_ms();
            let rows =
                sqlx::query(job_query!("WHERE state = 'running' AND worker = ? ORDER BY seq"))
                    .bind(worker)
                    .fetch_all(&mut *tx)
                    .await?;
            let mut swept = Vec::new();
            for row in &rows {
                let job = job(row)?;
                let died = Some(Death::new("it is gone"));
                let state = self.let_go(&mut tx, &job, died, now_ms).await?;
                swept.push(Swept { job: job.id, reason: SweptReason::WorkerGone, state });
            }
            tx.commit().await?;
            Ok(swept)
        })
        .await
    }

    async fn retire(&self, retention: Retention) -> Result<Vec<Removed>, StoreError> {
        self.explain("retire old jobs", async {
            let mut tx = self.begin().await?;
            let removed = self.retire_in(&mut tx, retention, self.now_ms()).await?;
            tx.commit().await?;
            Ok(removed)
        })
        .await
    }

    async fn pending_removals(&self) -> Result<Vec<JobId>, StoreError> {
        self.explain("look for files to remove", async {
            let rows =
                sqlx::query("SELECT job FROM removals WHERE due_ms <= ? ORDER BY job LIMIT 1000")
                    .bind(self.now_ms())
                    .fetch_all(&self.readers)
                    .await?;
            rows.iter().map(|row| parsed(row, "job")).collect()
        })
        .await
    }

    async fn removal_done(&self, job: JobId) -> Result<(), StoreError> {
        self.explain("note removed files", async {
            let mut tx = self.begin().await?;
            sqlx::query("DELETE FROM removals WHERE job = ?")
                .bind(job.to_string())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.explain("count jobs", async {
            let row = sqlx::query(
                "SELECT
                    (SELECT COUNT(*) FROM jobs WHERE state = 'queued') AS queued,
                    (SELECT COUNT(*) FROM jobs INDEXED BY jobs_waiting
                     WHERE state = 'queued' AND paused = 1) AS paused,
                    (SELECT COUNT(*) FROM jobs WHERE state = 'running') AS running,
                    (SELECT COUNT(*) FROM jobs WHERE state = 'completed') AS completed,
                    (SELECT COUNT(*) FROM jobs WHERE state = 'failed') AS failed,
                    (SELECT COUNT(*) FROM jobs WHERE state = 'cancelled') AS cancelled,
                    (SELECT created_ms FROM jobs WHERE seq = (
                        SELECT MIN(seq) FROM jobs INDEXED BY jobs_waiting
                        WHERE state = 'queued' AND paused = 0)) AS oldest_waiting_ms,
                    (SELECT COUNT(*) FROM deliveries WHERE state = 'pending')
                        AS pending_deliveries",
            )
            .fetch_one(&self.readers)
            .await?;
            Ok(Counts {
                queued: number(&row, "queued")?,
                paused: number(&row, "paused")?,
                running: number(&row, "running")?,
                completed: number(&row, "completed")?,
                failed: number(&row, "failed")?,
                cancelled: number(&row, "cancelled")?,
                oldest_waiting_ms: row.try_get("oldest_waiting_ms")?,
                pending_deliveries: number(&row, "pending_deliveries")?,
            })
        })
        .await
    }

    async fn total_artifact_bytes(&self) -> Result<u64, StoreError> {
        self.explain("add up artifacts", async {
            let total = total_bytes(&mut *self.readers.acquire().await?).await?;
            Ok(u64::try_from(total).unwrap_or(0))
        })
        .await
    }
}
