//! Another prompt for the segments of a film that are not begun yet.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use longreel_film::FilmRequest;
use longreel_jobs::{Job, JobState, PromptChange, StoreError};
use serde_json::Value;

use super::problem::Problem;
use super::{asked, videos};
use crate::code::{About, Code};
use crate::films::Resolved;
use crate::shared::Shared;
use crate::steering::with_changes;

/// How often the next segment is looked up anew when it is begun in the meantime.
const TRIES: usize = 8;

/// POST /v1/videos/{id}/steer
pub async fn steer(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let id = videos::job_id(&id)?;
    let wanted = asked::object(&shared, &headers, body).await?;
    asked::known_keys(&wanted, &["prompt", "from_segment"])?;
    let Some(prompt) = asked::prompt(&wanted)? else {
        return Err(Problem::missing("prompt", "say what the film shows from there on"));
    };
    let from_segment = asked::number(&wanted, "from_segment")?;
    let mut left = TRIES;
    let job = loop {
        let job = shared.store.get(id).await?;
        let resolved = asked::resolved(&job)?;
        let open = first_open(&job, &resolved);
        let change =
            PromptChange { from_segment: from_segment.unwrap_or(open), prompt: prompt.clone() };
        // Of one that has ended the store says so.
        if !job.state.is_final() {
            check(&shared, &job, resolved.request, open, &change).await?;
        }
        match shared.store.steer(id, change).await {
            // It was begun since.
            Err(StoreError::SegmentBegun { .. }) if left > 0 && from_segment.is_none() => {
                left -= 1;
            }
            steered => break steered?,
        }
    };
    videos::shown(&shared, &job).await
}

/// The first segment that is not begun, nor taken over from another film.
fn first_open(job: &Job, resolved: &Resolved) -> u32 {
    let begun = job.segments_done.saturating_add(u32::from(job.state == JobState::Running));
    begun.max(resolved.begins.map_or(0, |begins| begins.segments))
}

/// Whether the film has that segment, and can be made with that prompt.
async fn check(
    shared: &Arc<Shared>,
    job: &Job,
    request: FilmRequest,
    first_open: u32,
    change: &PromptChange,
) -> Result<(), Problem> {
    if change.from_segment < first_open {
        let from_segment = change.from_segment;
        return Err(StoreError::SegmentBegun { job: job.id, from_segment, first_open }.into());
    }
    let mut changes = job.prompts.clone();
    changes.retain(|known| known.from_segment != change.from_segment);
    changes.push(change.clone());
    changes.sort_by_key(|change| change.from_segment);
    let film = with_changes(shared.models.of(job)?, request, changes).await?;
    let Some(count) = film.plan.segments() else { return Ok(()) };
    if (change.from_segment as usize) < count {
        return Ok(());
    }
    if first_open as usize >= count {
        let detail = format!(
            "all {count} segments of video {} are begun; branch it, or extend it when it is completed",
            job.id
        );
        return Err(Problem::new(StatusCode::CONFLICT, Code::SegmentBegun, detail)
            .about(About::value("from_segment", change.from_segment)));
    }
    let last = count - 1;
    let rule = format!("the film has {count} segments, so it can be at most {last}");
    Err(Problem::value("from_segment", change.from_segment, rule).limit(last as u64))
}
