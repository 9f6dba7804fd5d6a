//! Taking a job in: what a request may hold, the idempotency key, the limits.

use sqlx::SqliteConnection;

use super::SqliteStore;
use super::failure::Attempted;
use super::rows::{
    integer, job, job_by_id, job_query, no_job, number, optional_number, parsed, relation_name,
};
use super::steps::{add_artifacts, add_state_event};
use super::work::cut;
use crate::admission::{Limit, OwnerLimits, retry_after_ms};
use crate::artifact_name::Artifact;
use crate::error::{LimitValue, StoreError};
use crate::id::JobId;
use crate::job::{Created, Job, NewJob};

/// Longest JSON of a request, and of the drift of a film.
pub(super) const JSON_BYTES: usize = 1 << 20;
/// Longest prompt.
const PROMPT_BYTES: usize = 64 << 10;
/// Recent jobs whose time is looked at to say when a place comes free.
const RECENT_JOBS: i64 = 20;

/// A text within its length, and without the one character that not every database can keep.
pub(super) fn check_text(
    field: &'static str,
    text: &str,
    bytes: std::ops::RangeInclusive<usize>,
) -> Result<(), StoreError> {
    if text.contains('\0') {
        let rule = "a text here cannot hold the character NUL (U+0000)";
        return Err(StoreError::invalid(field, format!("{:?}", cut(text, 64)), rule));
    }
    if bytes.contains(&text.len()) {
        return Ok(());
    }
    let rule = format!("it takes {} to {} bytes", bytes.start(), bytes.end());
    Err(StoreError::invalid(field, format!("{} bytes long", text.len()), rule))
}

fn check(new: &NewJob) -> Result<(), StoreError> {
    check_text("owner", &new.owner, 1..=128)?;
    if let Some(key) = &new.idempotency_key {
        check_text("idempotency_key", key, 1..=255)?;
    }
    check_text("prompt", &new.prompt, 0..=PROMPT_BYTES)?;
    check_text("request", &new.request.to_string(), 0..=JSON_BYTES)?;
    check_text("resolved", &new.resolved.to_string(), 0..=JSON_BYTES)?;
    check_text("model", &new.model, 0..=255)?;
    check_text("model_revision", &new.model_revision, 0..=255)?;
    check_text("program_version", &new.program_version, 0..=255)?;
    if let Some(url) = &new.webhook_url {
        check_text("webhook_url", url, 1..=2048)?;
    }
    if let Some(trace) = &new.trace {
        check_text("traceparent", &trace.traceparent, 55..=55)?;
        if let Some(state) = &trace.tracestate {
            check_text("tracestate", state, 1..=512)?;
        }
    }
    Ok(())
}

impl SqliteStore {
    /// Takes a job in, under the id that was reserved for it when its files came first.
    pub(super) async fn create_job(
        &self,
        reserved: Option<JobId>,
        new: NewJob,
        inputs: &[Artifact],
    ) -> Attempted<Created> {
        check(&new)?;
        let mut tx = self.begin().await?;
        let now_ms = self.now_ms();
        if let Some(known) = known(&mut tx, &new).await? {
            return Ok(Created::Known(known));
        }
        if let Some(deadline_ms) = new.deadline_ms
            && deadline_ms <= now_ms
        {
            let rule = format!("it has to be later than now, {now_ms} ms since 1970");
            return Err(StoreError::invalid("deadline_ms", deadline_ms, rule).into());
        }
        if let Some(parent) = &new.parent {
            let there: Option<i64> = sqlx::query_scalar("SELECT seq FROM jobs WHERE id = ?")
                .bind(parent.job.to_string())
                .fetch_optional(&mut *tx)
                .await?;
            there.ok_or_else(|| no_job(parent.job))?;
        }
        self.check_limits(&mut tx, &new).await?;
        let id = match reserved {
            None => JobId::new(self.options.ids.id(now_ms)?),
            Some(id) => {
                redeem(&mut tx, id, now_ms).await?;
                id
            }
        };
        insert(&mut tx, id, &new, now_ms).await?;
        add_artifacts(&mut tx, id, inputs).await?;
        let job = job_by_id(&mut tx, id).await?;
        add_state_event(&mut tx, &job, now_ms).await?;
        tx.commit().await?;
        Ok(Created::New(Job { last_event: job.last_event + 1, ..job }))
    }

    /// Limits of an owner, its own or those of all.
    pub(super) async fn owner_limits(
        &self,
        connection: &mut SqliteConnection,
        owner: &str,
    ) -> Attempted<OwnerLimits> {
        let row = sqlx::query(
            "SELECT queued_limit, running_limit, frames_limit FROM owners
             WHERE owner = ? AND queued_limit IS NOT NULL",
        )
        .bind(owner)
        .fetch_optional(connection)
        .await?;
        let Some(row) = row else { return Ok(self.options.limits.owner) };
        Ok(OwnerLimits {
            queued: number(&row, "queued_limit")?,
            running: number(&row, "running_limit")?,
            frames: optional_number(&row, "frames_limit")?,
        })
    }

    async fn check_limits(&self, tx: &mut SqliteConnection, new: &NewJob) -> Attempted<()> {
        let limits = self.owner_limits(tx, &new.owner).await?;
        if let Some(max) = limits.frames
            && new.frames.is_none_or(|frames| frames > max)
        {
            let value = new.frames.map_or(LimitValue::Endless, LimitValue::Number);
            let error =
                StoreError::LimitReached { limit: Limit::Frames, value, max, retry_after_ms: None };
            return Err(error.into());
        }
        let row = sqlx::query(
            "SELECT
                (SELECT COUNT(*) FROM jobs WHERE state = 'queued') AS queued,
                (SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND owner = ?1) AS own_queued,
                (SELECT COUNT(*) FROM jobs WHERE state = 'running') AS running,
                (SELECT COUNT(*) FROM jobs WHERE state = 'running' AND owner = ?1) AS own_running",
        )
        .bind(&new.owner)
        .fetch_one(&mut *tx)
        .await?;
        let (limit, would_be, max, running) = {
            let all = number::<u64>(&row, "queued")? + 1;
            let own = number::<u64>(&row, "own_queued")? + 1;
            if own > limits.queued {
                (Limit::OwnerQueued, own, limits.queued, number(&row, "own_running")?)
            } else if all > self.options.limits.queue_length {
                (
                    Limit::QueueLength,
                    all,
                    self.options.limits.queue_length,
                    number(&row, "running")?,
                )
            } else {
                return Ok(());
            }
        };
        let durations: Vec<i64> = sqlx::query_scalar(
            "SELECT finished_ms - started_ms FROM jobs INDEXED BY jobs_finished
             WHERE finished_ms IS NOT NULL AND state = 'completed'
             ORDER BY finished_ms DESC LIMIT ?",
        )
        .bind(RECENT_JOBS)
        .fetch_all(&mut *tx)
        .await?;
        let error = StoreError::LimitReached {
            limit,
            value: LimitValue::Number(would_be),
            max,
            retry_after_ms: Some(retry_after_ms(&durations, running)),
        };
        Err(error.into())
    }
}

/// Takes a reservation, so that the files under it are not removed any more.
async fn redeem(tx: &mut SqliteConnection, id: JobId, now_ms: i64) -> Attempted<()> {
    // One that is due may be being removed at this moment.
    let redeemed = sqlx::query("DELETE FROM removals WHERE job = ? AND due_ms > ?")
        .bind(id.to_string())
        .bind(now_ms)
        .execute(tx)
        .await?;
    if redeemed.rows_affected() == 0 {
        return Err(StoreError::NotFound { what: "reservation", id: id.to_string() }.into());
    }
    Ok(())
}

/// The job that the same request made before.
async fn known(tx: &mut SqliteConnection, new: &NewJob) -> Attempted<Option<Job>> {
    let Some(key) = &new.idempotency_key else { return Ok(None) };
    let row = sqlx::query(job_query!("WHERE owner = ? AND idempotency_key = ?"))
        .bind(&new.owner)
        .bind(key)
        .fetch_optional(tx)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let known = job(&row)?;
    // What the program makes of a request (defaults, a drawn seed) may differ from call to call.
    if known.asked.request == new.request && known.asked.parent == new.parent {
        return Ok(Some(known));
    }
    Err(StoreError::IdempotencyConflict { key: key.clone(), job: known.id }.into())
}

async fn insert(tx: &mut SqliteConnection, id: JobId, new: &NewJob, now_ms: i64) -> Attempted<()> {
    let frames = new.frames.map(|frames| integer("frames", frames)).transpose()?;
    sqlx::query(
        "INSERT INTO jobs (
            id, owner, idempotency_key, state, prompt, request, resolved, seed, model,
            model_revision, program_version, priority, frames, parent, relation, parent_segment,
            webhook_url, deadline_ms, traceparent, tracestate, created_ms
         ) VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(id.to_string())
    .bind(&new.owner)
    .bind(&new.idempotency_key)
    .bind(&new.prompt)
    .bind(new.request.to_string())
    .bind(new.resolved.to_string())
    // A seed is any 64 bits, SQLite's integers are signed.
    .bind(new.seed.to_string())
    .bind(&new.model)
    .bind(&new.model_revision)
    .bind(&new.program_version)
    .bind(new.priority)
    .bind(frames)
    .bind(new.parent.map(|parent| parent.job.to_string()))
    .bind(new.parent.map(|parent| relation_name(parent.relation)))
    .bind(new.parent.and_then(|parent| parent.segment))
    .bind(&new.webhook_url)
    .bind(new.deadline_ms)
    .bind(new.trace.as_ref().map(|trace| &trace.traceparent))
    .bind(new.trace.as_ref().and_then(|trace| trace.tracestate.as_ref()))
    .bind(now_ms)
    .execute(tx)
    .await?;
    Ok(())
}

/// A job that is not finished and needs the files of this one. A remix needs only its parameters.
pub(super) async fn unfinished_child(
    tx: &mut SqliteConnection,
    id: JobId,
) -> Attempted<Option<JobId>> {
    let row = sqlx::query(
        "SELECT id FROM jobs WHERE parent = ? AND relation <> 'remix'
            AND state IN ('queued', 'running') LIMIT 1",
    )
    .bind(id.to_string())
    .fetch_optional(tx)
    .await?;
    row.map(|row| parsed(&row, "id")).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_out_of_its_length_is_named_with_both() {
        let error = check_text("owner", "", 1..=128).unwrap_err().to_string();
        assert_eq!(error, "owner is 0 bytes long; it takes 1 to 128 bytes");
    }
}
