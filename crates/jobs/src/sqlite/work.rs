//! Jobs as workers see them.

use async_trait::async_trait;
use serde_json::Value;
use sqlx::SqliteConnection;

use super::SqliteStore;
use super::create::{JSON_BYTES, check_text};
use super::failure::Attempted;
use super::rows::{job_by_id, job_by_lease};
use super::segments::{segment_done, segment_drift};
use super::steps::{
    Death, add_artifacts, add_event, add_state_event, forget_parts, forget_preview,
    is_past_deadline,
};
use crate::error::StoreError;
use crate::event::{EventKind, WorkerEvent};
use crate::job::{Job, JobError, Progress};
use crate::lease::{Completion, HandBack, Lease, LeaseRequest, Leased, Orders, Proceed, Renewal};
use crate::state::{JobState, Stop};
use crate::store::WorkStore;

/// Longest data of one event.
const EVENT_BYTES: usize = 64 << 10;
/// Longest message of an error, and longest reason of a death.
const MESSAGE_BYTES: usize = 4 << 10;

/// What a program said, as it can be kept: at most `bytes` long, and without NUL.
pub(super) fn kept(text: &str, bytes: usize) -> String {
    cut(text, bytes).replace('\0', " ")
}

/// Cut at a character, at most `bytes` long.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Keeps the lease, and with it the lease's owner from losing the job.
async fn keep(tx: &mut SqliteConnection, lease: &Lease, now_ms: i64) -> Attempted<i64> {
    let expires_ms = sqlx::query_scalar(
        "UPDATE jobs SET lease_renewed_ms = ?1, lease_expires_ms = ?1 + lease_ms
         WHERE id = ?2 AND lease_token = ?3 RETURNING lease_expires_ms",
    )
    .bind(now_ms)
    .bind(lease.job.to_string())
    .bind(&lease.token)
    .fetch_optional(tx)
    .await?;
    Ok(expires_ms.ok_or(StoreError::LeaseLost { job: lease.job })?)
}

async fn report(
    tx: &mut SqliteConnection,
    lease: &Lease,
    progress: &Progress,
    now_ms: i64,
) -> Attempted<()> {
    let data = serde_json::json!(progress);
    sqlx::query("UPDATE jobs SET progress = ? WHERE id = ?")
        .bind(data.to_string())
        .bind(lease.job.to_string())
        .execute(&mut *tx)
        .await?;
    add_event(tx, lease.job, now_ms, EventKind::Progress, &data).await
}

fn orders(job: &Job, prompts_revision: u32, expires_ms: i64, now_ms: i64) -> Orders {
    let proceed = match job.stop {
        Some(Stop::Cancel) => Proceed::Stop,
        _ if is_past_deadline(job, now_ms) => Proceed::Stop,
        Some(Stop::Pause) => Proceed::Pause,
        None => Proceed::GoOn,
    };
    let prompts = (job.prompts_revision != prompts_revision).then(|| job.prompts.clone());
    Orders { proceed, prompts_revision: job.prompts_revision, prompts, expires_ms }
}

impl SqliteStore {
    async fn lease_next(&self, request: &LeaseRequest) -> Attempted<Option<Leased>> {
        let mut tx = self.begin().await?;
        let now_ms = self.now_ms();
        self.take_back_expired(&mut tx, now_ms).await?;
        let Some(job) = self.choose(&mut tx, &request.models, now_ms).await? else {
            // What was taken back stays so.
            tx.commit().await?;
            return Ok(None);
        };
        let token = self.options.ids.token()?;
        let expires_ms = now_ms.saturating_add(request.duration_ms);
        sqlx::query(
            "UPDATE jobs SET state = 'running', worker = ?, lease_token = ?, lease_ms = ?,
                lease_renewed_ms = ?, lease_expires_ms = ?, attempts = attempts + 1,
                started_ms = COALESCE(started_ms, ?)
             WHERE id = ? AND state = 'queued'",
        )
        .bind(&request.worker)
        .bind(&token)
        .bind(request.duration_ms)
        .bind(now_ms)
        .bind(expires_ms)
        .bind(now_ms)
        .bind(job.id.to_string())
        .execute(&mut *tx)
        .await?;
        let running = Job { state: JobState::Running, ..job };
        add_state_event(&mut tx, &running, now_ms).await?;
        let job = job_by_id(&mut tx, running.id).await?;
        tx.commit().await?;
        Ok(Some(Leased { lease: Lease { job: job.id, token }, job, expires_ms }))
    }

    async fn append_events(
        &self,
        lease: &Lease,
        events: &[WorkerEvent],
        prompts_revision: u32,
    ) -> Attempted<Orders> {
        let mut tx = self.begin().await?;
        let now_ms = self.now_ms();
        let expires_ms = keep(&mut tx, lease, now_ms).await?;
        for event in events {
            match event {
                WorkerEvent::Progress(progress) => {
                    report(&mut tx, lease, progress, now_ms).await?;
                    continue;
                }
                WorkerEvent::SegmentDone(done) => {
                    segment_done(&mut tx, lease.job, done, now_ms).await?;
                }
                WorkerEvent::Preview { artifact, .. } => {
                    add_artifacts(&mut tx, lease.job, &[*artifact]).await?;
                }
                WorkerEvent::Stored(artifact) => {
                    add_artifacts(&mut tx, lease.job, &[*artifact]).await?;
                }
                WorkerEvent::Drift { segment, drift } => {
                    segment_drift(&mut tx, lease.job, *segment, drift).await?;
                }
            }
            if let Some((kind, data)) = event.told() {
                if kind == EventKind::Preview {
                    forget_preview(&mut tx, lease.job, &data).await?;
                }
                add_event(&mut tx, lease.job, now_ms, kind, &data).await?;
            }
        }
        let job = job_by_lease(&mut tx, lease).await?;
        tx.commit().await?;
        Ok(orders(&job, prompts_revision, expires_ms, now_ms))
    }
}

#[async_trait]
impl WorkStore for SqliteStore {
    async fn lease(&self, request: LeaseRequest) -> Result<Option<Leased>, StoreError> {
        check_text("worker", &request.worker, 1..=128)?;
        if !(1_000..=3_600_000).contains(&request.duration_ms) {
            let rule = "it can be 1000 to 3600000 ms";
            return Err(StoreError::invalid("duration_ms", request.duration_ms, rule));
        }
        if request.models.len() > 1_000 {
            return Err(StoreError::invalid("models", request.models.len(), "at most 1000"));
        }
        self.explain("lease a job", self.lease_next(&request)).await
    }

    async fn renew(&self, lease: &Lease, renewal: Renewal) -> Result<Orders, StoreError> {
        self.explain("renew a lease", async {
            let mut tx = self.begin().await?;
            let now_ms = self.now_ms();
            let expires_ms = keep(&mut tx, lease, now_ms).await?;
            if let Some(progress) = &renewal.progress {
                report(&mut tx, lease, progress, now_ms).await?;
            }
            let job = job_by_lease(&mut tx, lease).await?;
            tx.commit().await?;
            Ok(orders(&job, renewal.prompts_revision, expires_ms, now_ms))
        })
        .await
    }

    async fn append(
        &self,
        lease: &Lease,
        events: Vec<WorkerEvent>,
        prompts_revision: u32,
    ) -> Result<Orders, StoreError> {
        for event in &events {
            if let WorkerEvent::Drift { drift, .. } = event {
                check_text("drift", &drift.to_string(), 0..=EVENT_BYTES)?;
            }
        }
        self.explain("add events", self.append_events(lease, &events, prompts_revision)).await
    }

    async fn complete(&self, lease: &Lease, completion: Completion) -> Result<Job, StoreError> {
        let drift = completion.drift.as_ref().map(Value::to_string);
        if let Some(drift) = &drift {
            check_text("drift", drift, 0..=JSON_BYTES)?;
        }
        self.explain("complete a job", async {
            let mut tx = self.begin().await?;
            let job = job_by_lease(&mut tx, lease).await?;
            forget_parts(&mut tx, lease.job, &completion.artifacts).await?;
            add_artifacts(&mut tx, lease.job, &completion.artifacts).await?;
            sqlx::query("UPDATE jobs SET drift = COALESCE(?, drift) WHERE id = ?")
                .bind(drift)
                .bind(lease.job.to_string())
                .execute(&mut *tx)
                .await?;
            self.finish(&mut tx, &job, JobState::Completed, None, self.now_ms()).await?;
            let job = job_by_id(&mut tx, lease.job).await?;
            tx.commit().await?;
            Ok(job)
        })
        .await
    }

    async fn fail(&self, lease: &Lease, error: JobError) -> Result<Job, StoreError> {
        check_text("code", &error.code, 1..=64)?;
        let error = JobError::new(error.code, kept(&error.message, MESSAGE_BYTES));
        self.explain("fail a job", async {
            let mut tx = self.begin().await?;
            let job = job_by_lease(&mut tx, lease).await?;
            self.finish(&mut tx, &job, JobState::Failed, Some(&error), self.now_ms()).await?;
            let job = job_by_id(&mut tx, lease.job).await?;
            tx.commit().await?;
            Ok(job)
        })
        .await
    }

    async fn hand_back(&self, lease: &Lease, how: HandBack) -> Result<Job, StoreError> {
        if let HandBack::OutOfMemory { instead: Some(instead), .. } = &how {
            check_text("resolved", &instead.resolved.to_string(), 0..=JSON_BYTES)?;
            check_text("warning", &instead.warning, 0..=MESSAGE_BYTES)?;
        }
        self.explain("hand a job back", async {
            let mut tx = self.begin().await?;
            let job = job_by_lease(&mut tx, lease).await?;
            let (reason, is_of_memory, instead) = match &how {
                HandBack::Stopped => (None, false, None),
                HandBack::Died { reason } => (Some(reason), false, None),
                HandBack::OutOfMemory { reason, instead } => (Some(reason), true, instead.as_ref()),
            };
            let seen = reason.map(|reason| kept(reason, MESSAGE_BYTES));
            let died = seen.as_deref().map(|how| Death { how, is_of_memory, instead });
            self.let_go(&mut tx, &job, died, self.now_ms()).await?;
            let job = job_by_id(&mut tx, lease.job).await?;
            tx.commit().await?;
            Ok(job)
        })
        .await
    }
}
