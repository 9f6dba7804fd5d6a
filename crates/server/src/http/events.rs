//! What happens to a job, as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::sse::{Event as Sse, KeepAlive, Sse as Stream};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use longreel_jobs::{Event, EventKind, JobId};
use serde::Deserialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::watch;

use super::problem::Problem;
use super::videos::job_id;
use crate::shared::{Ending, Shared};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Events read at once.
const PAGE: u32 = 200;
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
    query: Result<Query<After>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = job_id(&id)?;
    let Query(query) = query.map_err(|e| Problem::invalid(e.body_text()))?;
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let after = last.and_then(|id| id.trim().parse().ok()).or(query.after).unwrap_or(0);
    // First listen, then look: nothing falls between the two.
    let changes = shared.live.listen();
    let current = shared.store.get(job).await?;
    if current.state.is_final() && after >= current.last_event {
        // What a browser understands as: do not come back.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let ending = shared.ending.subscribe();
    let reader =
        Reader { shared, job, after, changes, ending, ready: VecDeque::new(), is_done: false };
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

struct Reader {
    shared: Arc<Shared>,
    job: JobId,
    after: u64,
    changes: Receiver<Arc<[JobId]>>,
    ending: watch::Receiver<Ending>,
    ready: VecDeque<Event>,
    is_done: bool,
}

impl Reader {
    /// The next event; `None` after the last one, when the job is deleted, and when the server ends.
    async fn next(&mut self) -> Option<Event> {
        while !self.is_done {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.seq;
                self.is_done = event.kind == EventKind::Done;
                return Some(event);
            }
            let events = self.shared.store.events(self.job, self.after, PAGE).await.ok()?;
            self.ready.extend(events);
            if self.ready.is_empty() {
                self.wait().await?;
            }
        }
        None
    }

    /// Until there may be something new.
    async fn wait(&mut self) -> Option<()> {
        loop {
            tokio::select! {
                changes = self.changes.recv() => match changes {
                    Ok(jobs) if !jobs.contains(&self.job) => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return Some(()),
                    Err(RecvError::Closed) => return None,
                },
                _ = self.ending.wait_for(|ending| *ending == Ending::Closed) => return None,
            }
        }
    }
}
