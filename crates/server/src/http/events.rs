//! What happens to a job, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::sse::{Event as Sse, KeepAlive, Sse as Stream};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use longreel_jobs::Event;
use serde::Deserialize;

use super::problem::Problem;
use super::videos::job_id;
use crate::access::Caller;
use crate::live::Follower;
use crate::shared::Shared;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// A comment is sent this often, so that nobody on the way takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where a reader goes on.
#[derive(Debug, Deserialize)]
pub struct After {
    /// The number of the last event it has.
    after: Option<u64>,
}

/// GET /v1/videos/{id}/events
pub async fn events(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    caller: Caller,
    query: Result<Query<After>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = job_id(&id)?;
    let Query(query) = query?;
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let after = last.and_then(|id| id.trim().parse().ok()).or(query.after).unwrap_or(0);
    let current = shared.store.get(job).await?;
    if current.state.is_final() && after >= current.last_event {
        // What a browser understands as: do not come back.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let key = caller.key().map(|key| key.id);
    let reader = Follower::new(&shared, job, after, key);
    let stream = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(written(&event)), reader))
    });
    Ok(Stream::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn written(event: &Event) -> Sse {
    let data = serde_json::json!({"at_ms": event.at_ms, "data": event.data});
    Sse::default().id(event.seq.to_string()).event(event.kind.as_str()).data(data.to_string())
}
