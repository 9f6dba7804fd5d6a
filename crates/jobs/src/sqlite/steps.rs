//! The steps of the state machine, each with the events, deliveries and shares that go with it.

use serde_json::{Value, json};
use sqlx::SqliteConnection;

use super::SqliteStore;
use super::failure::Attempted;
use super::rows::integer;
use crate::artifact_name::{Artifact, ArtifactKind};
use crate::delivery::DeliveryEvent;
use crate::event::EventKind;
use crate::id::{DeliveryId, JobId};
use crate::job::{Job, JobError};
use crate::lease::Instead;
use crate::state::{JobState, Stop};

/// Frames that an endless film counts as when work is shared.
const ENDLESS_FRAMES: u64 = 2_000;

/// What a job still costs, in frames; at least one, so that being given a job always counts.
pub(super) fn work_left(job: &Job) -> u64 {
    let left = job.asked.frames.map(|frames| frames.saturating_sub(job.frames_done));
    left.unwrap_or(ENDLESS_FRAMES).max(1)
}

/// True when a job is not wanted any more.
pub(super) fn is_past_deadline(job: &Job, now_ms: i64) -> bool {
    job.asked.deadline_ms.is_some_and(|deadline| deadline <= now_ms)
}

/// Writes an event down. Of several reports of progress in a row the last one stays.
pub(super) async fn add_event(
    tx: &mut SqliteConnection,
    job: JobId,
    at_ms: i64,
    kind: EventKind,
    data: &Value,
) -> Attempted<()> {
    let job = job.to_string();
    let seq: i64 = sqlx::query_scalar(
        "UPDATE jobs SET last_event = last_event + 1 WHERE id = ? RETURNING last_event",
    )
    .bind(&job)
    .fetch_one(&mut *tx)
    .await?;
    if kind == EventKind::Progress {
        sqlx::query("DELETE FROM events WHERE job = ? AND seq = ? AND kind = 'progress'")
            .bind(&job)
            .bind(seq - 1)
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query("INSERT INTO events (job, seq, at_ms, kind, data) VALUES (?, ?, ?, ?, ?)")
        .bind(&job)
        .bind(seq)
        .bind(at_ms)
        .bind(kind.as_str())
        .bind(data.to_string())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// Tells readers what changed about a job that has not ended.
pub(super) async fn add_state_event(
    tx: &mut SqliteConnection,
    job: &Job,
    at_ms: i64,
) -> Attempted<()> {
    add_event(tx, job.id, at_ms, EventKind::State, &state_of(job)).await
}

fn state_of(job: &Job) -> Value {
    json!({
        "state": job.state,
        "paused": job.paused,
        "stop": job.stop,
        "prompts_revision": job.prompts_revision,
    })
}

/// Events behind the last one among which an earlier event of the same picture is looked for.
const PREVIEW_EVENTS: i64 = 256;

/// Removes the last event that told of a picture which is about to be told of again: the picture it
/// meant is gone.
pub(super) async fn forget_preview(
    tx: &mut SqliteConnection,
    job: JobId,
    data: &Value,
) -> Attempted<()> {
    sqlx::query(
        "DELETE FROM events WHERE job = ?1 AND kind = 'preview' AND data = ?2
            AND seq > (SELECT last_event FROM jobs WHERE id = ?1) - ?3",
    )
    .bind(job.to_string())
    .bind(data.to_string())
    .bind(PREVIEW_EVENTS)
    .execute(tx)
    .await?;
    Ok(())
}

/// A film that is stored holds its parts, which are kept no longer by themselves.
pub(super) async fn forget_parts(
    tx: &mut SqliteConnection,
    job: JobId,
    artifacts: &[Artifact],
) -> Attempted<()> {
    if artifacts.iter().any(|artifact| artifact.name.kind == ArtifactKind::Film) {
        sqlx::query("DELETE FROM artifacts WHERE job = ? AND name GLOB 'part-*'")
            .bind(job.to_string())
            .execute(tx)
            .await?;
    }
    Ok(())
}

/// Makes stored files known.
pub(super) async fn add_artifacts(
    tx: &mut SqliteConnection,
    job: JobId,
    artifacts: &[Artifact],
) -> Attempted<()> {
    for artifact in artifacts {
        sqlx::query(
            "INSERT INTO artifacts (job, name, size_bytes, per_segment) VALUES (?, ?, ?, ?)
             ON CONFLICT (job, name) DO UPDATE SET size_bytes = excluded.size_bytes",
        )
        .bind(job.to_string())
        .bind(artifact.name.to_string())
        .bind(integer("size_bytes", artifact.size_bytes)?)
        .bind(i64::from(artifact.name.kind.is_per_segment()))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

impl SqliteStore {
    /// The last step of a job: into a final state, with its last event and what its webhook is owed.
    pub(super) async fn finish(
        &self,
        tx: &mut SqliteConnection,
        job: &Job,
        to: JobState,
        error: Option<&JobError>,
        now_ms: i64,
    ) -> Attempted<()> {
        sqlx::query(
            "UPDATE jobs SET state = ?, finished_ms = ?, error_code = ?, error_message = ?,
                paused = 0, stop = NULL, worker = NULL, lease_token = NULL, lease_ms = NULL,
                lease_renewed_ms = NULL, lease_expires_ms = NULL
             WHERE id = ?",
        )
        .bind(to.as_str())
        .bind(now_ms)
        .bind(error.map(|error| &error.code))
        .bind(error.map(|error| &error.message))
        .bind(job.id.to_string())
        .execute(&mut *tx)
        .await?;
        let data = json!({"state": to, "error": error});
        add_event(tx, job.id, now_ms, EventKind::Done, &data).await?;
        let event = match to {
            JobState::Completed => DeliveryEvent::Completed,
            JobState::Failed => DeliveryEvent::Failed,
            _ => DeliveryEvent::Cancelled,
        };
        if let Some(url) = &job.asked.webhook_url {
            let id = DeliveryId::new(self.options.ids.id(now_ms)?);
            sqlx::query(
                "INSERT INTO deliveries (id, job, event, url, state, created_ms, next_ms)
                 VALUES (?, ?, ?, ?, 'pending', ?, ?)",
            )
            .bind(id.to_string())
            .bind(job.id.to_string())
            .bind(event.as_str())
            .bind(url)
            .bind(now_ms)
            .bind(now_ms)
            .execute(&mut *tx)
            .await?;
        }
        Ok(())
    }

    /// A running job is let go, by its worker or because that died. Where it goes is what was asked for
    /// in the meantime.
    pub(super) async fn let_go(
        &self,
        tx: &mut SqliteConnection,
        job: &Job,
        died: Option<Death<'_>>,
        now_ms: i64,
    ) -> Attempted<JobState> {
        let mut deaths_in_row = job.deaths_in_row;
        if died.is_some() {
            deaths_in_row = deaths_in_row.saturating_add(1);
            sqlx::query(
                "UPDATE jobs SET deaths = deaths + 1, deaths_in_row = deaths_in_row + 1
                 WHERE id = ?",
            )
            .bind(job.id.to_string())
            .execute(&mut *tx)
            .await?;
        }
        if job.stop == Some(Stop::Cancel) {
            self.finish(tx, job, JobState::Cancelled, None, now_ms).await?;
            return Ok(JobState::Cancelled);
        }
        let instead = died.and_then(|died| died.instead).filter(|instead| {
            job.segments_done == 0 && instead.prompts_revision == job.prompts_revision
        });
        let error = match died {
            _ if is_past_deadline(job, now_ms) => Some(deadline_error()),
            Some(died) if instead.is_none() && deaths_in_row >= self.options.max_deaths => {
                Some(died_error(job, deaths_in_row, died))
            }
            _ => None,
        };
        if let Some(error) = error {
            self.finish(tx, job, JobState::Failed, Some(&error), now_ms).await?;
            return Ok(JobState::Failed);
        }
        let paused = job.stop == Some(Stop::Pause);
        let mut now = Job { state: JobState::Queued, paused, stop: None, ..job.clone() };
        if let Some(instead) = instead {
            // While it is running: one that is not stays what it is.
            replace(tx, &mut now, instead).await?;
        }
        sqlx::query(
            "UPDATE jobs SET state = 'queued', paused = ?, stop = NULL, worker = NULL,
                lease_token = NULL, lease_ms = NULL, lease_renewed_ms = NULL,
                lease_expires_ms = NULL
             WHERE id = ?",
        )
        .bind(i64::from(paused))
        .bind(job.id.to_string())
        .execute(&mut *tx)
        .await?;
        // What the owner did not get does not count as given.
        sqlx::query("UPDATE owners SET work = MAX(0.0, work - ?) WHERE owner = ?")
            .bind(work_left(job) as f64)
            .bind(&job.asked.owner)
            .execute(&mut *tx)
            .await?;
        let mut data = state_of(&now);
        if let Some(instead) = instead {
            data["warning"] = instead.warning.clone().into();
        }
        add_event(tx, job.id, now_ms, EventKind::State, &data).await?;
        Ok(JobState::Queued)
    }
}

/// How the worker of a job died.
#[derive(Debug, Clone, Copy)]
pub(super) struct Death<'a> {
    /// What was seen.
    pub how: &'a str,
    /// Memory ran out.
    pub is_of_memory: bool,
    /// What is made instead.
    pub instead: Option<&'a Instead>,
}

impl<'a> Death<'a> {
    /// One of which no more is known than what was seen.
    pub fn new(how: &'a str) -> Self {
        Self { how, is_of_memory: false, instead: None }
    }
}

/// Puts something else in the place of what a job was asked for.
async fn replace(tx: &mut SqliteConnection, job: &mut Job, instead: &Instead) -> Attempted<()> {
    if instead.prompts != job.prompts {
        job.prompts_revision = job.prompts_revision.saturating_add(1);
    }
    sqlx::query(
        "UPDATE jobs SET resolved = ?, prompts = ?, prompts_revision = ?, deaths_in_row = 0,
            progress = NULL
         WHERE id = ?",
    )
    .bind(instead.resolved.to_string())
    .bind(json!(instead.prompts).to_string())
    .bind(job.prompts_revision)
    .bind(job.id.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

/// The error of a job that is past its deadline.
pub(super) fn deadline_error() -> JobError {
    JobError::new(
        JobError::DEADLINE_EXCEEDED,
        "the deadline passed before the film was finished; ask again with a later one or a shorter film",
    )
}

fn died_error(job: &Job, deaths: u32, died: Death<'_>) -> JobError {
    let (segment, how) = (job.segments_done, died.how);
    let times = if deaths == 1 { "once".to_owned() } else { format!("{deaths} times in a row") };
    let died_so = format!("the worker died {times} while making segment {segment}");
    if died.is_of_memory {
        let message = format!(
            "{died_so}, because memory ran out (the last time: {how}); ask for a smaller size or smaller \
             base_num_frames, use a quantised model, or give the machine more memory"
        );
        return JobError::new(JobError::OUT_OF_MEMORY, message);
    }
    JobError::new(
        JobError::WORKER_DIED,
        format!(
            "{died_so} (the last time: {how}); it may need more memory than there is: ask for a smaller \
             size or a smaller model"
        ),
    )
}
