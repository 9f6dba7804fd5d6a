//! What a film is made of, segment by segment: those that are done, and those that are planned.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use longreel_film::{FilmPlan, PlannedSegment};
use longreel_jobs::{ArtifactKind, ArtifactName, Job, JobState, Segment};
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::Problem;
use super::videos::job_id;
use crate::films::Resolved;
use crate::shared::Shared;
use crate::steering::steered;

/// Segments in one answer where nothing is asked for, and at most.
const LIMIT: u32 = 100;
pub const LIMIT_MAX: u32 = 500;
/// Bytes of prompts in one answer; beyond them the rest is another answer's.
const PROMPT_BYTES: usize = 4 << 20;

/// Which segments are asked for.
#[derive(Debug, Deserialize)]
pub struct Asked {
    /// The segment before the first one.
    after: Option<u32>,
    limit: Option<u32>,
}

/// GET /v1/videos/{id}/segments
pub async fn segments(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let id = job_id(&id)?;
    let Query(asked) = query?;
    let limit = asked.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::value("limit", limit, format!("it can be 1 to {LIMIT_MAX}"))
            .limit(LIMIT_MAX.into()));
    }
    let first = match asked.after {
        None => 0,
        Some(after) => after
            .checked_add(1)
            .ok_or_else(|| Problem::value("after", after, "no film has so many segments"))?,
    };
    let end = first.saturating_add(limit);
    let job = shared.store.get(id).await?;
    let request = Resolved::of(&job).map_err(|error| Problem::internal(&error))?.request;
    // With another model or version than it was planned with, only what is made is known.
    let film = steered(&shared, &job, request).await.ok();
    let plan = film.as_ref().map(|film| &film.plan);
    let done = shared.store.segments(id, asked.after, limit).await?;
    let pictures = pictures(&shared, &job).await?;
    let frames = frames_before(&shared, &job, plan, first).await?;
    let next = done.last().map_or(first, |segment| segment.done.segment.saturating_add(1));
    // What is not done when a film has ended is not made any more.
    let plan = plan.filter(|_| !job.state.is_final());
    // One more than is shown says whether there are more.
    let planned = (next..end.saturating_add(1))
        .map_while(|number| Some((number, plan?.planned(number as usize)?)));

    let mut shown = Shown { job: &job, pictures: &pictures, frames, prompts: 0, data: Vec::new() };
    let mut has_more = next == end && end < job.segments_done;
    for segment in &done {
        has_more |= !shown.done(segment);
    }
    for (number, segment) in planned {
        has_more |= has_more || number >= end || !shown.planned(number, &segment);
    }
    Ok(Json(json!({"object": "list", "data": shown.data, "has_more": has_more})))
}

/// Frames of the film before segment `first`, made or planned.
async fn frames_before(
    shared: &Shared,
    job: &Job,
    plan: Option<&FilmPlan>,
    first: u32,
) -> Result<u64, Problem> {
    let Some(last) = first.checked_sub(1) else { return Ok(0) };
    if last < job.segments_done {
        let found = shared.store.segments(job.id, last.checked_sub(1), 1).await?;
        return Ok(found.first().map_or(0, |segment| segment.done.frames));
    }
    // A video that is extended puts its own frames before what is planned.
    let planned = |segment: u32| plan?.first_frame(segment as usize);
    let made = match job.segments_done {
        0 => 0,
        done => planned(done).unwrap_or(job.frames_done),
    };
    let planned = planned(first).unwrap_or(made).saturating_sub(made);
    Ok(job.frames_done.saturating_add(planned))
}

/// By segment: its picture, and whether another film can branch from it.
async fn pictures(
    shared: &Shared,
    job: &Job,
) -> Result<HashMap<u32, (Option<ArtifactName>, bool)>, Problem> {
    let mut pictures = HashMap::<u32, (Option<ArtifactName>, bool)>::new();
    for artifact in shared.store.artifacts(job.id).await? {
        match artifact.name.kind {
            ArtifactKind::Preview(n) => pictures.entry(n).or_default().0 = Some(artifact.name),
            ArtifactKind::Checkpoint(n) => pictures.entry(n).or_default().1 = true,
            _ => {}
        }
    }
    Ok(pictures)
}

/// Segments as clients see them.
struct Shown<'a> {
    job: &'a Job,
    pictures: &'a HashMap<u32, (Option<ArtifactName>, bool)>,
    /// Of the film, before the segment that is next.
    frames: u64,
    /// Bytes of the prompts that are shown.
    prompts: usize,
    data: Vec<Value>,
}

impl Shown<'_> {
    /// Shows a finished segment; false when there is no room.
    fn done(&mut self, segment: &Segment) -> bool {
        let done = &segment.done;
        let frames = done.frames.saturating_sub(self.frames);
        let shown = self.shown(done.segment, frames, &done.prompt, done.seed, "done");
        let Some(mut shown) = shown else { return false };
        shown["drift"] = segment.drift.clone().unwrap_or_default();
        shown["done_at_ms"] = segment.at_ms.into();
        self.data.push(shown);
        true
    }

    /// Shows a segment that is not finished; false when there is no room.
    fn planned(&mut self, number: u32, segment: &PlannedSegment<'_>) -> bool {
        let in_work = self.job.state == JobState::Running && number == self.job.segments_done;
        let state = if in_work { "running" } else { "waiting" };
        let shown = self.shown(number, segment.frames, segment.prompt, segment.seed, state);
        let is_shown = shown.is_some();
        self.data.extend(shown);
        is_shown
    }

    fn shown(
        &mut self,
        number: u32,
        frames: u64,
        prompt: &str,
        seed: u64,
        state: &str,
    ) -> Option<Value> {
        self.prompts = self.prompts.saturating_add(prompt.len());
        if self.prompts > PROMPT_BYTES && !self.data.is_empty() {
            return None;
        }
        let (picture, can_branch) = self.pictures.get(&number).copied().unwrap_or_default();
        let address = |name: ArtifactName| format!("/v1/videos/{}/files/{name}", self.job.id);
        let first_frame = self.frames;
        self.frames = self.frames.saturating_add(frames);
        Some(json!({
            "object": "video.segment",
            "segment": number,
            "first_frame": first_frame,
            "frames": frames,
            "prompt": prompt,
            "seed": seed,
            "state": state,
            "thumbnail": picture.map(address),
            "drift": null,
            "done_at_ms": null,
            "can_branch": can_branch,
        }))
    }
}
