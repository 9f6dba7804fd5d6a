//! Jobs as those see them who ask for films.

use async_trait::async_trait;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::SqliteStore;
use super::create::{check_text, unfinished_child};
use super::failure::Attempted;
use super::rows::{integer, job, job_by_id, job_query, json, named, no_job, number, parsed};
use super::segments::write_prompts;
use super::steps::{add_state_event, is_past_deadline};
use crate::admission::OwnerLimits;
use crate::artifact_name::Artifact;
use crate::error::StoreError;
use crate::event::{Changes, Event, EventKind};
use crate::id::JobId;
use crate::job::{Created, Job, ListFilter, ListOrder, NewJob, Page, PromptChange};
use crate::retention::Removed;
use crate::segment::{PartBytes, Segment};
use crate::state::{JobState, Stop};
use crate::store::JobStore;

/// Prompt changes of one job.
const MAX_PROMPT_CHANGES: usize = 10_000;
/// How long files may be on their way before their job is asked for.
const RESERVED_MS: i64 = 3_600_000;
/// Longest text that is searched for.
const TEXT_BYTES: usize = 1 << 10;
/// Events looked through by one call of `changes`.
const CHANGES_AT_ONCE: i64 = 10_000;

/// A page size in its range, `default` for 0.
pub(super) fn page_size(limit: u32, max: u32) -> Result<i64, StoreError> {
    match limit {
        0 => Ok(20),
        limit if limit <= max => Ok(limit.into()),
        limit => Err(StoreError::invalid("limit", limit, format!("it can be 1 to {max}"))),
    }
}

fn refused(job: &Job, action: &'static str, fix: &'static str) -> StoreError {
    StoreError::NotAllowed { job: job.id, state: job.state, action, fix }
}

/// A job that can still be made to wait or go on.
fn check_open(job: &Job, action: &'static str) -> Result<(), StoreError> {
    if job.state.is_final() {
        let way_out = match job.state {
            JobState::Completed => "it has ended; extend it, or branch it",
            _ => "it has ended; ask for a new one, or remix it",
        };
        return Err(refused(job, action, way_out));
    }
    if job.stop == Some(Stop::Cancel) {
        return Err(refused(job, action, "it is being cancelled; ask for a new one"));
    }
    Ok(())
}

/// Sets what is asked of a job and tells readers, when that changes anything.
async fn mark(
    tx: &mut SqliteConnection,
    job: Job,
    paused: bool,
    stop: Option<Stop>,
    now_ms: i64,
) -> Attempted<Job> {
    if job.paused == paused && job.stop == stop {
        return Ok(job);
    }
    sqlx::query("UPDATE jobs SET paused = ?, stop = ? WHERE id = ?")
        .bind(i64::from(paused))
        .bind(stop.map(Stop::as_str))
        .bind(job.id.to_string())
        .execute(&mut *tx)
        .await?;
    let job = Job { paused, stop, ..job };
    add_state_event(tx, &job, now_ms).await?;
    Ok(Job { last_event: job.last_event + 1, ..job })
}

/// Deletes a job that does not run; its files are owed to a removal.
pub(super) async fn delete_rows(tx: &mut SqliteConnection, id: JobId) -> Attempted<Removed> {
    let rows = sqlx::query("SELECT name FROM artifacts WHERE job = ? ORDER BY name")
        .bind(id.to_string())
        .fetch_all(&mut *tx)
        .await?;
    let artifacts = rows.iter().map(|row| parsed(row, "name")).collect::<Attempted<_>>()?;
    sqlx::query("DELETE FROM jobs WHERE id = ?").bind(id.to_string()).execute(&mut *tx).await?;
    sqlx::query("INSERT OR IGNORE INTO removals (job, due_ms) VALUES (?, 0)")
        .bind(id.to_string())
        .execute(&mut *tx)
        .await?;
    Ok(Removed { job: id, artifacts })
}

#[async_trait]
impl JobStore for SqliteStore {
    async fn create(&self, new: NewJob) -> Result<Created, StoreError> {
        self.explain("take a job in", self.create_job(None, new, &[])).await
    }

    async fn reserve(&self) -> Result<JobId, StoreError> {
        self.explain("reserve a job", async {
            let mut tx = self.begin().await?;
            let now_ms = self.now_ms();
            let id = JobId::new(self.options.ids.id(now_ms)?);
            sqlx::query("INSERT INTO removals (job, due_ms) VALUES (?, ?)")
                .bind(id.to_string())
                .bind(now_ms.saturating_add(RESERVED_MS))
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(id)
        })
        .await
    }

    async fn create_reserved(
        &self,
        id: JobId,
        new: NewJob,
        inputs: Vec<Artifact>,
    ) -> Result<Created, StoreError> {
        self.explain("take a job in", self.create_job(Some(id), new, &inputs)).await
    }

    async fn get(&self, id: JobId) -> Result<Job, StoreError> {
        self.explain("read a job", async {
            job_by_id(&mut *self.readers.acquire().await?, id).await
        })
        .await
    }

    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        let limit = page_size(filter.limit, 100)?;
        check_text("text", &filter.text, 0..=TEXT_BYTES)?;
        let mut query = QueryBuilder::<Sqlite>::new(job_query!("WHERE TRUE"));
        if let Some(owner) = &filter.owner {
            query.push(" AND owner = ").push_bind(owner);
        }
        if let Some(model) = &filter.model {
            query.push(" AND model = ").push_bind(model);
        }
        if !filter.states.is_empty() {
            query.push(" AND state IN (");
            let mut list = query.separated(", ");
            // Each once, however often it was named.
            for state in JobState::ALL.into_iter().filter(|state| filter.states.contains(state)) {
                list.push_bind(state.as_str());
            }
            query.push(")");
        }
        if !filter.text.is_empty() {
            let literal = filter.text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
            query.push(" AND prompt LIKE ").push_bind(format!("%{literal}%"));
            query.push(" ESCAPE '\\'");
        }
        let (comparison, order) = match filter.order {
            ListOrder::Descending => (" AND id < ", " ORDER BY id DESC LIMIT "),
            ListOrder::Ascending => (" AND id > ", " ORDER BY id LIMIT "),
        };
        if let Some(after) = filter.after {
            query.push(comparison).push_bind(after.to_string());
        }
        query.push(order).push_bind(limit + 1);
        self.explain("list jobs", async {
            let rows = query.build().fetch_all(&self.readers).await?;
            let has_more = rows.len() as i64 > limit;
            let jobs = rows.iter().take(limit as usize).map(job).collect::<Attempted<_>>()?;
            Ok(Page { jobs, has_more })
        })
        .await
    }

    async fn queue_position(&self, id: JobId) -> Result<Option<u64>, StoreError> {
        self.explain("look at the queue", async {
            let row = sqlx::query(
                "SELECT state = 'queued' AND paused = 0 AS waits,
                    (SELECT COUNT(*) FROM jobs AS other INDEXED BY jobs_waiting
                     WHERE other.state = 'queued' AND other.paused = 0
                        AND (other.priority > jobs.priority
                            OR other.priority = jobs.priority AND other.seq < jobs.seq)) AS before
                 FROM jobs WHERE id = ?",
            )
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?
            .ok_or_else(|| no_job(id))?;
            let waits: i64 = row.try_get("waits")?;
            Ok(if waits == 0 { None } else { Some(number(&row, "before")?) })
        })
        .await
    }

    async fn cancel(&self, id: JobId) -> Result<Job, StoreError> {
        self.explain("cancel a job", async {
            let mut tx = self.begin().await?;
            let now_ms = self.now_ms();
            let job = job_by_id(&mut tx, id).await?;
            let job = match job.state {
                JobState::Queued => {
                    self.finish(&mut tx, &job, JobState::Cancelled, None, now_ms).await?;
                    job_by_id(&mut tx, id).await?
                }
                JobState::Running => mark(&mut tx, job, false, Some(Stop::Cancel), now_ms).await?,
                JobState::Cancelled => job,
                JobState::Completed | JobState::Failed => {
                    return Err(
                        refused(&job, "cancelled", "it has ended; delete it instead").into()
                    );
                }
            };
            tx.commit().await?;
            Ok(job)
        })
        .await
    }

    async fn pause(&self, id: JobId) -> Result<Job, StoreError> {
        self.explain("pause a job", async {
            let mut tx = self.begin().await?;
            let job = job_by_id(&mut tx, id).await?;
            check_open(&job, "paused")?;
            let running = job.state == JobState::Running;
            let stop = running.then_some(Stop::Pause);
            let job = mark(&mut tx, job, !running, stop, self.now_ms()).await?;
            tx.commit().await?;
            Ok(job)
        })
        .await
    }

    async fn resume(&self, id: JobId) -> Result<Job, StoreError> {
        self.explain("resume a job", async {
            let mut tx = self.begin().await?;
            let job = job_by_id(&mut tx, id).await?;
            check_open(&job, "resumed")?;
            let job = mark(&mut tx, job, false, None, self.now_ms()).await?;
            tx.commit().await?;
            Ok(job)
        })
        .await
    }

    async fn steer(&self, id: JobId, change: PromptChange) -> Result<Job, StoreError> {
        self.explain("change a prompt", async {
            let mut tx = self.begin().await?;
            let now_ms = self.now_ms();
            let mut job = job_by_id(&mut tx, id).await?;
            check_open(&job, "steered")?;
            if is_past_deadline(&job, now_ms) {
                return Err(refused(&job, "steered", "its deadline has passed").into());
            }
            // The worker of a running job is in the first segment that is not done.
            let begun = u32::from(job.state == JobState::Running);
            let first_open = job.segments_done.saturating_add(begun);
            let from_segment = change.from_segment;
            if from_segment < first_open {
                let error = StoreError::SegmentBegun { job: id, from_segment, first_open };
                return Err(error.into());
            }
            job.prompts.retain(|known| known.from_segment != from_segment);
            job.prompts.push(change);
            job.prompts.sort_by_key(|known| known.from_segment);
            if job.prompts.len() > MAX_PROMPT_CHANGES {
                let rule = format!("a film takes {MAX_PROMPT_CHANGES} changes; branch it to go on");
                return Err(StoreError::invalid("prompts", job.prompts.len(), rule).into());
            }
            write_prompts(&mut tx, &mut job).await?;
            add_state_event(&mut tx, &job, now_ms).await?;
            tx.commit().await?;
            Ok(Job { last_event: job.last_event + 1, ..job })
        })
        .await
    }

    async fn delete(&self, id: JobId) -> Result<Removed, StoreError> {
        self.explain("delete a job", async {
            let mut tx = self.begin().await?;
            let job = job_by_id(&mut tx, id).await?;
            if job.state == JobState::Running {
                return Err(refused(&job, "deleted", "cancel it first").into());
            }
            if let Some(child) = unfinished_child(&mut tx, id).await? {
                return Err(StoreError::NeededBy { job: id, child }.into());
            }
            let removed = delete_rows(&mut tx, id).await?;
            tx.commit().await?;
            Ok(removed)
        })
        .await
    }

    async fn events(&self, id: JobId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        if limit == 0 || limit > 1000 {
            return Err(StoreError::invalid("limit", limit, "it can be 1 to 1000"));
        }
        // Beyond what SQLite can count there is no event.
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        self.explain("read events", async {
            let rows = sqlx::query(
                "SELECT events.seq, at_ms, kind, data FROM events
                 WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?",
            )
            .bind(id.to_string())
            .bind(after)
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
            if rows.is_empty() {
                // Nothing new, or nothing at all?
                job_by_id(&mut *self.readers.acquire().await?, id).await?;
            }
            let event = |row| {
                Ok(Event {
                    seq: number(row, "seq")?,
                    at_ms: row.try_get("at_ms")?,
                    kind: named(row, "kind", EventKind::from_name)?,
                    data: json(row, "data")?,
                })
            };
            rows.iter().map(event).collect()
        })
        .await
    }

    async fn artifacts(&self, id: JobId) -> Result<Vec<Artifact>, StoreError> {
        self.explain("list the artifacts of a job", async {
            let rows =
                sqlx::query("SELECT name, size_bytes FROM artifacts WHERE job = ? ORDER BY name")
                    .bind(id.to_string())
                    .fetch_all(&self.readers)
                    .await?;
            if rows.is_empty() {
                job_by_id(&mut *self.readers.acquire().await?, id).await?;
            }
            let artifact = |row| {
                Ok(Artifact { name: parsed(row, "name")?, size_bytes: number(row, "size_bytes")? })
            };
            rows.iter().map(artifact).collect()
        })
        .await
    }

    async fn segments(
        &self,
        id: JobId,
        after: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Segment>, StoreError> {
        self.read_segments(id, after, limit).await
    }

    async fn parts(&self, id: JobId) -> Result<Vec<(u32, u64, PartBytes)>, StoreError> {
        self.read_parts(id).await
    }

    async fn changes(&self, cursor: Option<i64>) -> Result<Changes, StoreError> {
        self.explain("look for new events", async {
            let Some(cursor) = cursor else {
                let row = sqlx::query("SELECT COALESCE(MAX(id), 0) AS last FROM events")
                    .fetch_one(&self.readers)
                    .await?;
                return Ok(Changes { jobs: Vec::new(), cursor: row.try_get("last")? });
            };
            let rows = sqlx::query("SELECT id, job FROM events WHERE id > ? ORDER BY id LIMIT ?")
                .bind(cursor)
                .bind(CHANGES_AT_ONCE)
                .fetch_all(&self.readers)
                .await?;
            let mut jobs =
                rows.iter().map(|row| parsed(row, "job")).collect::<Attempted<Vec<_>>>()?;
            jobs.sort_unstable();
            jobs.dedup();
            let cursor = rows.last().map_or(Ok(cursor), |row| row.try_get("id"))?;
            Ok(Changes { jobs, cursor })
        })
        .await
    }

    async fn set_owner_limits(
        &self,
        owner: &str,
        limits: Option<OwnerLimits>,
    ) -> Result<(), StoreError> {
        check_text("owner", owner, 1..=128)?;
        let column = |field, value: Option<u64>| match value {
            Some(0) => Err(StoreError::invalid(field, 0, "it has to be 1 or more")),
            value => value.map(|value| integer(field, value)).transpose(),
        };
        let queued = column("queued", limits.map(|limits| limits.queued))?;
        let running = column("running", limits.map(|limits| limits.running))?;
        let frames = column("frames", limits.and_then(|limits| limits.frames))?;
        self.explain("set limits of an owner", async {
            let mut tx = self.begin().await?;
            sqlx::query(
                "INSERT INTO owners (owner, queued_limit, running_limit, frames_limit)
                 VALUES (?, ?, ?, ?)
                 ON CONFLICT (owner) DO UPDATE SET queued_limit = excluded.queued_limit,
                    running_limit = excluded.running_limit, frames_limit = excluded.frames_limit",
            )
            .bind(owner)
            .bind(queued)
            .bind(running)
            .bind(frames)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }
}
