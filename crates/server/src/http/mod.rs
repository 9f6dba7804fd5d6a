//! The service over HTTP.

mod admission;
pub(crate) mod asked;
pub(crate) mod body;
mod content;
mod cors;
mod deliveries;
mod endpoints;
mod events;
mod going_on;
mod middleware;
mod models;
mod openapi;
mod page;
mod plan;
mod problem;
mod schemas;
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
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use longreel_jobs::{Clock, SystemClock};

use crate::code::{About, Code};
use crate::room::Room;
use crate::shared::Shared;
pub(crate) use problem::Problem;

/// Every address of the service.
pub fn router(shared: Arc<Shared>) -> Router {
    // What a browser shows before anybody says who they are, and what watches over the server, is open;
    // the rest is for callers who may: see `admission::admit`.
    let [open, admitted] = openapi::routers(endpoints::all());
    let admitted = admitted.route_layer(from_fn_with_state(shared.clone(), admission::admit));
    open.merge(admitted)
        .fallback(no_such_address)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(shared.body_bytes))
        .layer(from_fn_with_state(shared.clone(), middleware::only_this_machine))
        .layer(from_fn_with_state(shared.clone(), cors::cors))
        .layer(from_fn_with_state(shared.clone(), middleware::request_id))
        .with_state(shared)
}

/// GET /ping, as RunPod's load balancer asks: 200 when a job that came now would be made, 204 while a
/// model is loaded.
async fn ping(State(shared): State<Arc<Shared>>) -> StatusCode {
    match shared.slots.is_ready() && !shared.is_ending() {
        true => StatusCode::OK,
        false => StatusCode::NO_CONTENT,
    }
}

/// GET /health/ready: a job that came now would be made, or would wait for room on the disk only, which this server has to be
/// in service for.
async fn ready(State(shared): State<Arc<Shared>>) -> Result<&'static str, Problem> {
    if shared.is_ending() {
        let detail = "the server ends after the segments in work";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Ending, detail));
    }
    if !shared.slots.is_ready() {
        let detail = "no worker has its model loaded yet; jobs are taken and wait";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Starting, detail));
    }
    Ok("ready\n")
}

/// GET /metrics
async fn metrics(State(shared): State<Arc<Shared>>) -> Result<impl IntoResponse, Problem> {
    let counts = shared.store.counts().await?;
    let now_ms = SystemClock.now_ms();
    let room = Room::now(&shared.work);
    let text = shared.metrics.text(&counts, now_ms, &shared.slots.get(), room);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

async fn no_such_address(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed, detail)
        .about(About::value("method", method))
}
