//! The finished segments of films.

use serde_json::Value;
use sqlx::{Row, SqliteConnection};

use super::SqliteStore;
use super::create::{JSON_BYTES, check_text};
use super::failure::Attempted;
use super::jobs::page_size;
use super::rows::{integer, job_by_id, number, optional_json, optional_number, parsed};
use super::work::kept;
use crate::error::StoreError;
use crate::id::JobId;
use crate::job::{Job, PromptChange};
use crate::segment::{PartBytes, Segment, SegmentDone};

/// Longest prompt that is kept with a segment.
const PROMPT_BYTES: usize = 64 << 10;
/// Segments read at once.
const PAGE: u32 = 1_000;

/// A worker that begins again from an older checkpoint takes nothing back, and only a segment that
/// was never finished before shows that the job does not kill its workers.
pub(super) async fn segment_done(
    tx: &mut SqliteConnection,
    job: JobId,
    done: &SegmentDone,
    now_ms: i64,
) -> Attempted<()> {
    let frames = integer("frames", done.frames)?;
    sqlx::query(
        "UPDATE jobs SET first_frame_ms = COALESCE(first_frame_ms, ?1),
            deaths_in_row = CASE WHEN ?2 > segments_done THEN 0 ELSE deaths_in_row END,
            segments_done = MAX(segments_done, ?2), frames_done = MAX(frames_done, ?3)
         WHERE id = ?4",
    )
    .bind(now_ms)
    .bind(i64::from(done.segment) + 1)
    .bind(frames)
    .bind(job.to_string())
    .execute(&mut *tx)
    .await?;
    if let Some(PartBytes { start, end }) = done.bytes
        && end < start
    {
        let rule = "it cannot be before the start";
        return Err(StoreError::invalid("bytes.end", end, rule).into());
    }
    let part = |byte: fn(PartBytes) -> u64| done.bytes.map(|part| integer("bytes", byte(part)));
    sqlx::query(
        "INSERT INTO segments (job, segment, frames, at_ms, prompt, seed, part_start, part_end)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job, segment) DO NOTHING",
    )
    .bind(job.to_string())
    .bind(done.segment)
    .bind(frames)
    .bind(now_ms)
    .bind(kept(&done.prompt, PROMPT_BYTES))
    .bind(done.seed.to_string())
    .bind(part(|part| part.start).transpose()?)
    .bind(part(|part| part.end).transpose()?)
    .execute(&mut *tx)
    .await?;
    put_off_change(tx, job, done).await
}

/// A prompt may have been changed for a segment that was made without anybody knowing it: its server
/// was killed before it was reported. The change then holds from the next segment on.
async fn put_off_change(
    tx: &mut SqliteConnection,
    job: JobId,
    done: &SegmentDone,
) -> Attempted<()> {
    let mut job = job_by_id(&mut *tx, job).await?;
    let came_late =
        |change: &PromptChange| change.from_segment == done.segment && change.prompt != done.prompt;
    let Some(late) = job.prompts.iter().position(came_late) else { return Ok(()) };
    let next = done.segment.saturating_add(1);
    if job.prompts.get(late + 1).is_some_and(|change| change.from_segment == next) {
        job.prompts.remove(late);
    } else {
        job.prompts[late].from_segment = next;
    }
    write_prompts(tx, &mut job).await
}

/// Writes down changed prompts of a job, with a new revision.
pub(super) async fn write_prompts(tx: &mut SqliteConnection, job: &mut Job) -> Attempted<()> {
    let prompts = serde_json::json!(job.prompts).to_string();
    check_text("prompts", &prompts, 0..=JSON_BYTES)?;
    job.prompts_revision = job.prompts_revision.saturating_add(1);
    sqlx::query("UPDATE jobs SET prompts = ?, prompts_revision = ? WHERE id = ?")
        .bind(prompts)
        .bind(job.prompts_revision)
        .bind(job.id.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// Keeps the look of a segment with it.
pub(super) async fn segment_drift(
    tx: &mut SqliteConnection,
    job: JobId,
    segment: u32,
    drift: &Value,
) -> Attempted<()> {
    sqlx::query("UPDATE segments SET drift = ? WHERE job = ? AND segment = ?")
        .bind(drift.to_string())
        .bind(job.to_string())
        .bind(segment)
        .execute(tx)
        .await?;
    Ok(())
}

impl SqliteStore {
    pub(super) async fn read_segments(
        &self,
        id: JobId,
        after: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Segment>, StoreError> {
        let limit = page_size(limit, PAGE)?;
        self.explain("read the segments of a job", async {
            let rows = sqlx::query(
                "SELECT segment, frames, at_ms, prompt, seed, part_start, part_end, drift
                 FROM segments WHERE job = ? AND segment > ? ORDER BY segment LIMIT ?",
            )
            .bind(id.to_string())
            .bind(after.map_or(-1, i64::from))
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
            if rows.is_empty() {
                job_by_id(&mut *self.readers.acquire().await?, id).await?;
            }
            let segment = |row| {
                let start = optional_number(row, "part_start")?;
                let end = optional_number(row, "part_end")?;
                Ok(Segment {
                    done: SegmentDone {
                        segment: number(row, "segment")?,
                        frames: number(row, "frames")?,
                        prompt: row.try_get("prompt")?,
                        seed: parsed(row, "seed")?,
                        bytes: start.zip(end).map(|(start, end)| PartBytes { start, end }),
                    },
                    at_ms: row.try_get("at_ms")?,
                    drift: optional_json(row, "drift")?,
                })
            };
            rows.iter().map(segment).collect()
        })
        .await
    }

    pub(super) async fn read_parts(
        &self,
        id: JobId,
    ) -> Result<Vec<(u32, u64, PartBytes)>, StoreError> {
        self.explain("read the parts of a film", async {
            let rows = sqlx::query(
                "SELECT segment, frames, part_start, part_end FROM segments
                 WHERE job = ? AND part_start IS NOT NULL ORDER BY segment",
            )
            .bind(id.to_string())
            .fetch_all(&self.readers)
            .await?;
            if rows.is_empty() {
                job_by_id(&mut *self.readers.acquire().await?, id).await?;
            }
            let part = |row| {
                let bytes =
                    PartBytes { start: number(row, "part_start")?, end: number(row, "part_end")? };
                Ok((number(row, "segment")?, number(row, "frames")?, bytes))
            };
            rows.iter().map(part).collect()
        })
        .await
    }
}
