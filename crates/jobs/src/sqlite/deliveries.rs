//! Webhook deliveries.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::SqliteStore;
use super::failure::Attempted;
use super::jobs::page_size;
use super::rows::{named, number, optional_number, parsed};
use super::work::kept;
use crate::delivery::{
    Delivery, DeliveryAttempt, DeliveryEvent, DeliveryFilter, DeliveryLease, DeliveryOutcome,
    DeliveryState,
};
use crate::error::StoreError;
use crate::id::DeliveryId;
use crate::store::DeliveryStore;

/// Longest error of an attempt.
const ERROR_BYTES: usize = 1 << 10;

fn delivery(row: &SqliteRow) -> Attempted<Delivery> {
    Ok(Delivery {
        id: parsed(row, "id")?,
        job: parsed(row, "job")?,
        event: named(row, "event", DeliveryEvent::from_name)?,
        url: row.try_get("url")?,
        state: named(row, "state", DeliveryState::from_name)?,
        created_ms: row.try_get("created_ms")?,
        next_ms: row.try_get("next_ms")?,
        attempts: number(row, "attempts")?,
        last_status: optional_number(row, "last_status")?,
    })
}

fn attempt(row: &SqliteRow) -> Attempted<DeliveryAttempt> {
    Ok(DeliveryAttempt {
        number: number(row, "number")?,
        at_ms: row.try_get("at_ms")?,
        outcome: DeliveryOutcome {
            status: optional_number(row, "status")?,
            error: row.try_get("error")?,
            duration_ms: number(row, "duration_ms")?,
            retry_after_ms: optional_number(row, "retry_after_ms")?,
        },
    })
}

/// A number of milliseconds as SQLite keeps it; what is too long to keep is as long as can be kept.
fn millis(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl SqliteStore {
    async fn take_due(&self, limit: i64, duration_ms: i64) -> Attempted<Vec<DeliveryLease>> {
        let mut tx = self.begin().await?;
        let now_ms = self.now_ms();
        // A time further ahead than any wait was set before the clock jumped back.
        let rows = sqlx::query(
            "SELECT * FROM deliveries WHERE state = 'pending'
                AND (lease_token IS NULL AND (next_ms <= ?1 OR next_ms > ?2)
                    OR lease_token IS NOT NULL
                        AND (leased_ms + lease_ms <= ?1 OR leased_ms - lease_ms > ?1))
             ORDER BY next_ms, id LIMIT ?3",
        )
        .bind(now_ms)
        .bind(now_ms.saturating_add(millis(self.options.backoff.ceiling_ms)))
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?;
        let mut taken = Vec::new();
        for row in &rows {
            let delivery = delivery(row)?;
            let token = self.options.ids.token()?;
            sqlx::query(
                "UPDATE deliveries SET lease_token = ?, lease_ms = ?, leased_ms = ? WHERE id = ?",
            )
            .bind(&token)
            .bind(duration_ms)
            .bind(now_ms)
            .bind(delivery.id.to_string())
            .execute(&mut *tx)
            .await?;
            taken.push(DeliveryLease { delivery, token });
        }
        tx.commit().await?;
        Ok(taken)
    }

    async fn record(
        &self,
        lease: &DeliveryLease,
        outcome: &DeliveryOutcome,
    ) -> Attempted<DeliveryState> {
        let id = lease.delivery.id.to_string();
        let mut tx = self.begin().await?;
        let now_ms = self.now_ms();
        let row = sqlx::query("SELECT attempts FROM deliveries WHERE id = ? AND lease_token = ?")
            .bind(&id)
            .bind(&lease.token)
            .fetch_optional(&mut *tx)
            .await?;
        let row = row.ok_or_else(|| StoreError::DeliveryLeaseLost { delivery: id.clone() })?;
        let attempts = number::<u32>(&row, "attempts")?.saturating_add(1);
        let backoff = self.options.backoff;
        let state = if outcome.is_delivered() {
            DeliveryState::Delivered
        } else if outcome.is_gone() || attempts >= backoff.max_attempts {
            DeliveryState::GivenUp
        } else {
            DeliveryState::Pending
        };
        let asked = outcome.retry_after_ms.unwrap_or(0).min(backoff.ceiling_ms);
        let wait_ms = millis(backoff.wait_ms(attempts).max(asked));
        sqlx::query(
            "UPDATE deliveries SET state = ?, attempts = ?, last_status = ?, next_ms = ?,
                lease_token = NULL, lease_ms = NULL, leased_ms = NULL
             WHERE id = ?",
        )
        .bind(state.as_str())
        .bind(attempts)
        .bind(outcome.status)
        .bind(now_ms.saturating_add(wait_ms))
        .bind(&id)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO delivery_attempts
                (delivery, number, at_ms, status, error, duration_ms, retry_after_ms)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&id)
        .bind(attempts)
        .bind(now_ms)
        .bind(outcome.status)
        .bind(outcome.error.as_deref().map(|error| kept(error, ERROR_BYTES)))
        .bind(millis(outcome.duration_ms))
        .bind(outcome.retry_after_ms.map(millis))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(state)
    }
}

#[async_trait]
impl DeliveryStore for SqliteStore {
    async fn take_deliveries(
        &self,
        limit: u32,
        duration_ms: i64,
    ) -> Result<Vec<DeliveryLease>, StoreError> {
        let limit = page_size(limit, 100)?;
        if !(1_000..=3_600_000).contains(&duration_ms) {
            let rule = "it can be 1000 to 3600000 ms";
            return Err(StoreError::invalid("duration_ms", duration_ms, rule));
        }
        self.explain("take webhook deliveries", self.take_due(limit, duration_ms)).await
    }

    async fn record_delivery(
        &self,
        lease: &DeliveryLease,
        outcome: DeliveryOutcome,
    ) -> Result<DeliveryState, StoreError> {
        self.explain("record a webhook delivery", self.record(lease, &outcome)).await
    }

    async fn list_deliveries(&self, filter: DeliveryFilter) -> Result<Vec<Delivery>, StoreError> {
        let limit = page_size(filter.limit, 100)?;
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM deliveries WHERE TRUE");
        if let Some(job) = filter.job {
            query.push(" AND job = ").push_bind(job.to_string());
        }
        if let Some(state) = filter.state {
            query.push(" AND state = ").push_bind(state.as_str());
        }
        if let Some(after) = filter.after {
            query.push(" AND id < ").push_bind(after.to_string());
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(limit);
        self.explain("list webhook deliveries", async {
            let rows = query.build().fetch_all(&self.readers).await?;
            rows.iter().map(delivery).collect()
        })
        .await
    }

    async fn delivery_log(&self, id: DeliveryId) -> Result<Vec<DeliveryAttempt>, StoreError> {
        self.explain("read the log of a delivery", async {
            let there: Option<i64> =
                sqlx::query_scalar("SELECT attempts FROM deliveries WHERE id = ?")
                    .bind(id.to_string())
                    .fetch_optional(&self.readers)
                    .await?;
            there.ok_or_else(|| StoreError::NotFound { what: "delivery", id: id.to_string() })?;
            let rows =
                sqlx::query("SELECT * FROM delivery_attempts WHERE delivery = ? ORDER BY number")
                    .bind(id.to_string())
                    .fetch_all(&self.readers)
                    .await?;
            rows.iter().map(attempt).collect()
        })
        .await
    }
}
