//! The OpenAI videos API, and what can be done with a film beyond it.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longreel_jobs::{
    ArtifactKind, ArtifactName, Created, Job, JobId, JobState, ListFilter, ListOrder,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::Problem;
use super::{asked, body, content, stream, view};
use crate::access::Caller;
use crate::code::{About, Code};
use crate::shared::Shared;
use crate::upkeep;

/// POST /v1/videos
pub async fn create(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let wanted = body::read(&shared, &headers, body, 0).await?;
    let taken = asked::create(&shared, &caller, wanted, Vec::new(), &headers).await?;
    created(&shared, taken).await
}

/// A job that was taken in.
pub async fn created(shared: &Shared, created: Created) -> Result<Response, Problem> {
    let status = match created {
        Created::New(_) => StatusCode::CREATED,
        Created::Known(_) => StatusCode::OK,
    };
    let job = created.into_job();
    let location = format!("/v1/videos/{}", job.id);
    Ok((status, [(header::LOCATION, location)], shown(shared, &job).await?).into_response())
}

/// A job's name as it stands in an address.
pub fn job_id(id: &str) -> Result<JobId, Problem> {
    id.parse().map_err(|_| no_video(id))
}

/// There is no video of this name, or none that the caller may know of.
pub fn no_video(id: &str) -> Problem {
    let shown: String = id.chars().take(64).collect();
    Problem::not_found(format!("there is no video {shown:?}; it may have been deleted"))
}

pub(super) async fn shown(shared: &Shared, job: &Job) -> Result<Json<Value>, Problem> {
    let position = match job.state {
        JobState::Queued => shared.store.queue_position(job.id).await?,
        _ => None,
    };
    let mut video = view::video(job, position);
    let age_ms = shared.retention.max_age_ms;
    if let Some((age_ms, finished_ms)) = age_ms.zip(job.timings.finished_ms) {
        video["expires_at"] = (finished_ms.saturating_add(age_ms) / 1000).into();
    }
    Ok(Json(video))
}

/// GET /v1/videos/{id}
pub async fn retrieve(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let job = shared.store.get(job_id(&id)?).await?;
    shown(&shared, &job).await
}

/// Films in one list where nothing is asked for, and at most.
const LIMIT: u32 = 20;
pub const LIMIT_MAX: u32 = 100;
/// What can be had of a film that is whole.
pub const VARIANTS: [&str; 3] = ["video", "thumbnail", "spritesheet"];

/// What a list is asked for.
#[derive(Debug, Deserialize)]
pub struct Listing {
    after: Option<String>,
    limit: Option<u32>,
    order: Option<String>,
    /// One or more states, with commas between them.
    state: Option<String>,
    /// What the prompt holds.
    text: Option<String>,
}

/// The states that a list is asked for.
fn states(text: &str) -> Result<Vec<JobState>, Problem> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let state = |name: &str| {
        JobState::ALL.into_iter().find(|state| state.as_str() == name).ok_or_else(|| {
            let known = JobState::ALL.map(JobState::as_str).join(", ");
            let rule = format!("it can be one or more of {known}");
            Problem::text("state", name, rule).allowed(JobState::ALL.map(JobState::as_str))
        })
    };
    names.map(state).collect()
}

/// GET /v1/videos
pub async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let rule = format!("it can be 1 to {LIMIT_MAX}");
        return Err(Problem::value("limit", limit, rule).limit(LIMIT_MAX.into()));
    }
    let order = match query.order.as_deref() {
        None | Some("desc") => ListOrder::Descending,
        Some("asc") => ListOrder::Ascending,
        Some(other) => {
            let refused = Problem::text("order", other, "it can be asc or desc");
            return Err(refused.allowed(["asc", "desc"]));
        }
    };
    // From the beginning, as many clients write it.
    let after = query.after.as_deref().filter(|after| !after.is_empty());
    let after = after.map(job_id).transpose()?;
    let states = states(query.state.as_deref().unwrap_or_default())?;
    let text = query.text.unwrap_or_default();
    let owner = caller.sees_only().map(str::to_owned);
    let filter = ListFilter { owner, model: None, after, order, limit, states, text };
    let page = shared.store.list(filter).await?;
    let mut data = Vec::with_capacity(page.jobs.len());
    for job in &page.jobs {
        data.push(shown(&shared, job).await?.0);
    }
    Ok(Json(json!({
        "object": "list",
        "first_id": page.jobs.first().map(|job| job.id),
        "last_id": page.jobs.last().map(|job| job.id),
        "has_more": page.has_more,
        "data": data,
    })))
}

/// DELETE /v1/videos/{id}
pub async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let job = job_id(&id)?;
    shared.store.delete(job).await?;
    upkeep::remove_files(&shared, job).await;
    Ok(Json(json!({"id": job, "object": "video.deleted", "deleted": true})))
}

/// A job that was given an order, which its worker hears of now.
async fn ordered(shared: &Shared, job: Job) -> Result<Json<Value>, Problem> {
    shared.wake();
    shown(shared, &job).await
}

/// POST /v1/videos/{id}/cancel
pub async fn cancel(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let job = upkeep::cancel(&shared, job_id(&id)?).await?;
    shown(&shared, &job).await
}

/// POST /v1/videos/{id}/pause
pub async fn pause(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    ordered(&shared, shared.store.pause(job_id(&id)?).await?).await
}

/// POST /v1/videos/{id}/resume
pub async fn resume(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    ordered(&shared, shared.store.resume(job_id(&id)?).await?).await
}

/// Which content is asked for.
#[derive(Debug, Deserialize)]
pub struct Variant {
    variant: Option<String>,
}

/// GET /v1/videos/{id}/content
pub async fn video_content(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    query: Result<Query<Variant>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let kind = match query.variant.as_deref() {
        None | Some("video") => ArtifactKind::Film,
        Some("thumbnail") => ArtifactKind::Thumbnail,
        Some("spritesheet") => ArtifactKind::Spritesheet,
        Some(other) => {
            let rule = "it can be video, thumbnail or spritesheet";
            return Err(Problem::text("variant", other, rule).allowed(VARIANTS));
        }
    };
    film(shared, job_id(&id)?, kind, &headers, None).await
}

/// A file that is there when the film is whole. Of a film that ended before, the film as far as it was made.
pub async fn film(
    shared: Arc<Shared>,
    job: JobId,
    kind: ArtifactKind,
    headers: &HeaderMap,
    download: Option<&str>,
) -> Result<Response, Problem> {
    let Job { state, artifacts, .. } = shared.store.get(job).await?;
    if state != JobState::Completed {
        if state.is_final()
            && kind == ArtifactKind::Film
            && let Some(so_far) = stream::so_far(&shared, job).await?
        {
            return content::respond_with(shared, job, so_far, headers, download);
        }
        let detail = match state.is_final() {
            true => format!("video {job} is {state} and has no film"),
            false => format!("video {job} is {state}; its film is there when it is completed"),
        };
        return Err(Problem::new(StatusCode::CONFLICT, Code::NotCompleted, detail)
            .about(About::value("state", state)));
    }
    // In whichever form it was stored.
    let stored = artifacts.iter().find(|artifact| artifact.name.kind == kind);
    let stored = stored.ok_or_else(|| {
        Problem::not_found(format!("video {job} was stored without what is asked for"))
    })?;
    content::respond(shared, job, stored.name, headers, download).await
}

/// GET /v1/videos/{id}/files/{name}: one of the files that events and [`view::video`] name.
pub async fn file(
    State(shared): State<Arc<Shared>>,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = job_id(&id)?;
    // Names are of a fixed set, so that no text from a client becomes a path.
    let name = name.parse::<ArtifactName>().map_err(|e| Problem::not_found(e.to_string()))?;
    content::respond(shared, job, name, &headers, None).await
}
