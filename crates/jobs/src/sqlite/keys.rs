//! API keys.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use tokio::time::timeout;

use super::SqliteStore;
use super::create::check_text;
use super::failure::Attempted;
use super::rows::{json, optional_number, parsed};
use crate::error::StoreError;
use crate::id::KeyId;
use crate::key::{
    ApiKey, ApiKeySecret, IssuedKey, KeyRefusal, NewKey, RateLimit, equal_in_constant_time,
};
use crate::store::KeyStore;

/// How exactly the last use of a key is kept; finer would make a write of each call.
const LAST_USED_STEP_MS: i64 = 60_000;

/// How long a call waits to have its key's use noted.
const NOTE_PATIENCE: Duration = Duration::from_millis(250);

fn key(row: &SqliteRow) -> Attempted<ApiKey> {
    let per_minute = optional_number(row, "per_minute")?;
    let burst = optional_number(row, "burst")?;
    Ok(ApiKey {
        id: parsed(row, "id")?,
        asked: NewKey {
            name: row.try_get("name")?,
            owner: row.try_get("owner")?,
            scopes: json(row, "scopes")?,
            rate_limit: per_minute
                .zip(burst)
                .map(|(per_minute, burst)| RateLimit { per_minute, burst }),
            expires_ms: row.try_get("expires_ms")?,
        },
        prefix: row.try_get("prefix")?,
        created_ms: row.try_get("created_ms")?,
        revoked_ms: row.try_get("revoked_ms")?,
        last_used_ms: row.try_get("last_used_ms")?,
    })
}

fn check(new: &NewKey) -> Result<(), StoreError> {
    check_text("name", &new.name, 1..=128)?;
    check_text("owner", &new.owner, 1..=128)?;
    if new.scopes.is_empty() {
        return Err(StoreError::invalid("scopes", "empty", "a key needs at least one scope"));
    }
    if let Some(RateLimit { per_minute, burst }) = new.rate_limit
        && (per_minute == 0 || burst == 0)
    {
        let value = format!("{per_minute} a minute, {burst} at once");
        return Err(StoreError::invalid("rate_limit", value, "both have to be 1 or more"));
    }
    Ok(())
}

impl SqliteStore {
    /// A key that was found, if it still holds; its use is noted.
    async fn admit(&self, found: Option<ApiKey>) -> Attempted<ApiKey> {
        let mut key = found.ok_or(KeyRefusal::Unknown)?;
        let now_ms = self.now_ms();
        if key.revoked_ms.is_some() {
            return Err(KeyRefusal::Revoked.into());
        }
        if key.asked.expires_ms.is_some_and(|expires| expires <= now_ms) {
            return Err(KeyRefusal::Expired.into());
        }
        let is_noted = key
            .last_used_ms
            .is_some_and(|last| (0..LAST_USED_STEP_MS).contains(&now_ms.saturating_sub(last)));
        if is_noted {
            return Ok(key);
        }
        let note = async {
            let mut writer = self.writer.acquire().await?;
            sqlx::query("UPDATE api_keys SET last_used_ms = ? WHERE id = ?")
                .bind(now_ms)
                .bind(key.id.to_string())
                .execute(&mut *writer)
                .await
        };
        // Noted in passing: who calls does not queue for long behind those who write, and is not
        // turned away because a disk is full or locked.
        if let Ok(Ok(_)) = timeout(NOTE_PATIENCE, note).await {
            key.last_used_ms = Some(now_ms);
        }
        Ok(key)
    }
}

#[async_trait]
impl KeyStore for SqliteStore {
    async fn create_key(&self, mut new: NewKey) -> Result<IssuedKey, StoreError> {
        check(&new)?;
        new.scopes.sort_unstable();
        new.scopes.dedup();
        self.explain("make an API key", async {
            let now_ms = self.now_ms();
            let id = KeyId::new(self.options.ids.id(now_ms)?);
            let secret = ApiKeySecret::new(self.options.ids.secret()?);
            let mut tx = self.begin().await?;
            sqlx::query(
                "INSERT INTO api_keys
                    (id, name, owner, prefix, hash, scopes, per_minute, burst, created_ms, expires_ms)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(id.to_string())
            .bind(&new.name)
            .bind(&new.owner)
            .bind(secret.prefix())
            .bind(secret.hash().to_vec())
            .bind(serde_json::json!(new.scopes).to_string())
            .bind(new.rate_limit.map(|limit| limit.per_minute))
            .bind(new.rate_limit.map(|limit| limit.burst))
            .bind(now_ms)
            .bind(new.expires_ms)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            let prefix = secret.prefix().to_owned();
            let key = ApiKey {
                id,
                asked: new,
                prefix,
                created_ms: now_ms,
                revoked_ms: None,
                last_used_ms: None,
            };
            Ok(IssuedKey { key, secret })
        })
        .await
    }

    async fn verify_key(&self, secret: &str) -> Result<ApiKey, StoreError> {
        self.explain("check an API key", async {
            let secret = ApiKeySecret::parse(secret).ok_or(KeyRefusal::Unknown)?;
            let hash = secret.hash();
            // Found by what is no secret, then compared without telling by its time how much fits.
            let rows = sqlx::query("SELECT * FROM api_keys WHERE prefix = ?")
                .bind(secret.prefix())
                .fetch_all(&self.readers)
                .await?;
            let mut found = None;
            for row in &rows {
                let known: Vec<u8> = row.try_get("hash")?;
                if equal_in_constant_time(&known, &hash) {
                    found = Some(key(row)?);
                }
            }
            self.admit(found).await
        })
        .await
    }

    async fn check_key(&self, id: KeyId) -> Result<ApiKey, StoreError> {
        self.explain("check an API key", async {
            let row = sqlx::query("SELECT * FROM api_keys WHERE id = ?")
                .bind(id.to_string())
                .fetch_optional(&self.readers)
                .await?;
            self.admit(row.as_ref().map(key).transpose()?).await
        })
        .await
    }

    async fn list_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        self.explain("list API keys", async {
            let rows = sqlx::query("SELECT * FROM api_keys ORDER BY id DESC")
                .fetch_all(&self.readers)
                .await?;
            rows.iter().map(key).collect()
        })
        .await
    }

    async fn revoke_key(&self, id: KeyId) -> Result<ApiKey, StoreError> {
        self.explain("revoke an API key", async {
            let mut tx = self.begin().await?;
            let row = sqlx::query(
                "UPDATE api_keys SET revoked_ms = COALESCE(revoked_ms, ?) WHERE id = ? RETURNING *",
            )
            .bind(self.now_ms())
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await?;
            let row =
                row.ok_or_else(|| StoreError::NotFound { what: "key", id: id.to_string() })?;
            tx.commit().await?;
            key(&row)
        })
        .await
    }
}
