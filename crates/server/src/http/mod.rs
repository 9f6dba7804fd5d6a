//! The service over HTTP.

mod admission;
mod asked;
mod body;
mod content;
mod cors;
mod deliveries;
mod events;
mod going_on;
mod middleware;
mod models;
mod page;
mod plan;
mod problem;
mod segments;
mod session;
mod steer;
mod stream;
mod tasks;
mod terms;
mod uploads;
mod videos;
pub mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use crate::shared::Shared;
use problem::Problem;

/// Every address of the service.
pub fn router(shared: Arc<Shared>) -> Router {
    // What a browser shows before anybody says who they are, and what watches over the server.
    let open = Router::new()
        .route("/", get(page::page))
        .route("/web/{name}", get(page::file))
        .route("/health", get(tasks::health))
        .route("/health/live", get(|| async { "alive\n" }))
        .route("/health/ready", get(ready))
        .route("/v1/session", get(session::show).post(session::open).delete(session::close));
    // The rest is for callers who may: see `admission::admit`.
    let admitted = Router::new()
        .route("/models/info", get(models::info))
        .route("/generate", post(tasks::generate))
        .route("/status/{id}", get(tasks::status))
        .route("/download/{id}", get(tasks::download))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{id}", get(models::retrieve))
        .route("/v1/videos", get(videos::list).post(videos::create))
        .route("/v1/videos/{id}", get(videos::retrieve).delete(videos::delete))
        .route("/v1/videos/{id}/content", get(videos::video_content))
        .route("/v1/videos/{id}/files/{name}", get(videos::file))
        .route("/v1/videos/{id}/segments", get(segments::segments))
        .route("/v1/videos/{id}/stream.m3u8", get(stream::playlist))
        .route("/v1/videos/{id}/stream/{name}", get(stream::part))
        .route("/v1/videos/{id}/events", get(events::events))
        .route("/v1/videos/{id}/webhooks", get(deliveries::list))
        .route("/v1/videos/{id}/cancel", post(videos::cancel))
        .route("/v1/videos/{id}/pause", post(videos::pause))
        .route("/v1/videos/{id}/resume", post(videos::resume))
        .route("/v1/videos/{id}/steer", post(steer::steer))
        .route("/v1/videos/{id}/remix", post(going_on::remix))
        .route("/v1/videos/{id}/extend", post(going_on::extend))
        .route("/v1/videos/{id}/branch", post(going_on::branch))
        .route("/v1/plan", post(plan::plan))
        .route_layer(from_fn_with_state(shared.clone(), admission::admit));
    open.merge(admitted)
        .fallback(no_such_address)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(shared.body_bytes))
        .layer(from_fn_with_state(shared.clone(), middleware::only_this_machine))
        .layer(from_fn_with_state(shared.clone(), cors::cors))
        .layer(from_fn(middleware::request_id))
        .with_state(shared)
}

/// GET /health/ready: a job that came now would be made.
async fn ready(State(shared): State<Arc<Shared>>) -> Result<&'static str, Problem> {
    if shared.is_ending() {
        let detail = "the server ends after the segments in work";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ending", detail));
    }
    if !shared.slots.is_ready() {
        let detail = "no worker has its model loaded yet; jobs are taken and wait";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", detail));
    }
    Ok("ready\n")
}

async fn no_such_address(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
