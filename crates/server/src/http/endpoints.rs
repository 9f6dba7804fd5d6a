//! Every address of the service, with what a client may know of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::{MethodRouter, delete, get, post};
use serde_json::Value;

use super::openapi::Values::{OneOf, States, Text, Whole};
use super::openapi::{Answer, Body, Endpoint, Query, document};
use super::{
    deliveries, events, going_on, models, page, plan, segments, session, steer, stream, tasks,
    videos,
};
use crate::shared::Shared;

const LIST: &[Query] = &[
    ("after", Text, "Show those behind this one"),
    ("limit", Whole(1, videos::LIMIT_MAX as u64), "How many at most; 20 is usual"),
    ("order", OneOf(&["desc", "asc"]), "desc, the newest first, or asc"),
    ("state", States, "In these states only"),
    ("text", Text, "With this text in the prompt"),
];
const SEGMENTS: &[Query] = &[
    ("after", Whole(0, u32::MAX as u64 - 1), "Show those behind this one"),
    ("limit", Whole(1, segments::LIMIT_MAX as u64), "How many at most; 100 is usual"),
];
const VARIANT: &[Query] =
    &[("variant", OneOf(&videos::VARIANTS), "What of the film; the video where nothing is said")];
const AFTER: &[Query] =
    &[("after", Whole(0, i64::MAX as u64), "Number of the last event that is known")];

/// GET /openapi.json
async fn openapi(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let films = shared.models.default();
    Json(document(&all(), films.model(), &films.schema()))
}

/// All of them.
pub fn all() -> Vec<Endpoint> {
    [files(), service(), tasks_of_the_first_api(), videos_of_openai(), beyond()]
        .into_iter()
        .flatten()
        .collect()
}

fn files() -> Vec<Endpoint> {
    let html = Answer::Of("text/html");
    vec![
        Endpoint::new("GET", "/", "page", "The page", get(page::page)).open().gives(200, html),
        Endpoint::new("GET", "/web/{name}", "pageFile", "A file of the page", get(page::file))
            .open()
            .gives(200, Answer::Of("*/*"))
            .fails(&[404]),
        Endpoint::new("GET", "/openapi.json", "openapi", "This document", get(openapi))
            .open()
            .gives(200, Answer::Json("Anything")),
    ]
}

fn service() -> Vec<Endpoint> {
    let text = Answer::Of("text/plain");
    vec![
        Endpoint::new("GET", "/health", "health", "How the service is", get(tasks::health))
            .open()
            .gives(200, Answer::Json("Health")),
        Endpoint::new(
            "GET",
            "/health/live",
            "live",
            "Whether the server answers",
            get(|| async { "alive\n" }),
        )
        .open()
        .gives(200, text),
        Endpoint::new(
            "GET",
            "/health/ready",
            "ready",
            "Whether a job that came now would be made",
            get(super::ready),
        )
        .open()
        .gives(200, text)
        .fails(&[503]),
        Endpoint::new(
            "GET",
            "/ping",
            "ping",
            "For load balancers: 200 when a job that came now would be made, else 204",
            get(super::ping),
        )
        .open()
        .gives(200, Answer::Nothing)
        .gives(204, Answer::Nothing),
        Endpoint::new("GET", "/metrics", "metrics", "For Prometheus", get(super::metrics))
            .gives(200, Answer::Of("application/openmetrics-text")),
        Endpoint::new(
            "GET",
            "/v1/session",
            "session",
            "Whether a key is needed, and whose session this is",
            get(session::show),
        )
        .open()
        .gives(200, Answer::Json("Anything")),
        Endpoint::new(
            "POST",
            "/v1/session",
            "openSession",
            "A session for a browser, by key",
            post(session::open),
        )
        .open()
        .takes(Body::Json("SessionRequest"))
        .gives(200, Answer::Json("Anything"))
        .fails(&[400, 401, 403, 413, 415, 429]),
        Endpoint::new(
            "DELETE",
            "/v1/session",
            "closeSession",
            "End the session",
            delete(session::close),
        )
        .open()
        .gives(200, Answer::Json("Anything")),
        Endpoint::new("GET", "/v1/models", "listModels", "The models", get(models::list))
            .gives(200, Answer::Json("ModelList")),
        Endpoint::new("GET", "/v1/models/{id}", "retrieveModel", "A model", get(models::retrieve))
            .gives(200, Answer::Json("Model"))
            .fails(&[404]),
        of_a_model(
            "POST",
            "/v1/models/{id}/serve",
            "serveModel",
            "Let requests name an installed model",
            post(models::serve),
        ),
        of_a_model(
            "DELETE",
            "/v1/models/{id}/serve",
            "stopModel",
            "Let no request name it any more; it makes what it was asked for, and then it is gone",
            delete(models::stop),
        ),
        of_a_model(
            "POST",
            "/v1/models/{id}/use",
            "useModel",
            "Make it the model of requests that name none; an installed one is served then",
            post(models::choose),
        ),
    ]
}

/// What changes whether and how a model is served.
fn of_a_model(
    method: &'static str,
    path: &'static str,
    name: &'static str,
    summary: &'static str,
    handler: MethodRouter<Arc<Shared>>,
) -> Endpoint {
    Endpoint::new(method, path, name, summary, handler)
        .gives(200, Answer::Json("Model"))
        .fails(&[403, 404, 409, 507])
}

/// A film that is made out of another one.
fn out_of_another(
    path: &'static str,
    name: &'static str,
    summary: &'static str,
    body: Body,
    handler: MethodRouter<Arc<Shared>>,
) -> Endpoint {
    Endpoint::new("POST", path, name, summary, handler)
        .takes(body)
        .gives_new(Answer::Json("Video"))
        .fails(&[400, 404, 409, 413, 415, 429])
}

fn tasks_of_the_first_api() -> Vec<Endpoint> {
    let task = Answer::Json("Task");
    vec![
        Endpoint::new("GET", "/models/info", "modelsInfo", "The model", get(models::info))
            .gives(200, Answer::Json("ModelInfo")),
        Endpoint::new("POST", "/generate", "generate", "Ask for a film", post(tasks::generate))
            .takes(Body::JsonOrForm("TaskRequest"))
            .gives(200, task)
            .fails(&[400, 413, 415, 429]),
        Endpoint::new("GET", "/status/{id}", "status", "How far a film is", get(tasks::status))
            .gives(200, task)
            .fails(&[404]),
        Endpoint::new("GET", "/download/{id}", "download", "The film", get(tasks::download))
            .gives_file("video/mp4")
            .fails(&[404, 409, 416]),
    ]
}

fn videos_of_openai() -> Vec<Endpoint> {
    let video = Answer::Json("Video");
    vec![
        Endpoint::new("GET", "/v1/videos", "listVideos", "Videos", get(videos::list))
            .query(LIST)
            .gives(200, Answer::Json("VideoList"))
            .fails(&[400, 404]),
        Endpoint::new("POST", "/v1/videos", "createVideo", "Ask for a video", post(videos::create))
            .takes(Body::JsonOrForm("VideoRequest"))
            .gives_new(video)
            .fails(&[400, 409, 413, 415, 429]),
        Endpoint::new(
            "GET",
            "/v1/videos/{id}",
            "retrieveVideo",
            "How far a video is",
            get(videos::retrieve),
        )
        .gives(200, video)
        .fails(&[404]),
        Endpoint::new(
            "DELETE",
            "/v1/videos/{id}",
            "deleteVideo",
            "Delete a video with all its files; one in work is called off first",
            delete(videos::delete),
        )
        .gives(200, Answer::Json("VideoDeleted"))
        .fails(&[404, 409]),
        Endpoint::new(
            "GET",
            "/v1/videos/{id}/content",
            "downloadContent",
            "The video, its thumbnail or its spritesheet",
            get(videos::video_content),
        )
        .query(VARIANT)
        .gives_file("*/*")
        .fails(&[400, 404, 409, 416]),
        out_of_another(
            "/v1/videos/{id}/remix",
            "remixVideo",
            "The same with another prompt",
            Body::JsonOrForm("VideoRequest"),
            post(going_on::remix),
        ),
    ]
}

fn beyond() -> Vec<Endpoint> {
    let video = Answer::Json("Video");
    let order = |path, name, summary, handler| {
        Endpoint::new("POST", path, name, summary, handler).gives(200, video).fails(&[404, 409])
    };
    vec![
        order("/v1/videos/{id}/cancel", "cancelVideo", "Call it off", post(videos::cancel)),
        order("/v1/videos/{id}/pause", "pauseVideo", "Pause it", post(videos::pause)),
        order("/v1/videos/{id}/resume", "resumeVideo", "Let it go on", post(videos::resume)),
        order(
            "/v1/videos/{id}/steer",
            "steerVideo",
            "Another prompt for the segments to come",
            post(steer::steer),
        )
        .takes(Body::Json("SteerRequest"))
        .fails(&[400, 404, 409, 413, 415]),
        out_of_another(
            "/v1/videos/{id}/extend",
            "extendVideo",
            "A longer video that begins with this one",
            Body::Json("ExtendRequest"),
            post(going_on::extend),
        ),
        out_of_another(
            "/v1/videos/{id}/branch",
            "branchVideo",
            "A video that is another one from a segment on",
            Body::Json("BranchRequest"),
            post(going_on::branch),
        ),
        Endpoint::new("POST", "/v1/plan", "plan", "What a video would take", post(plan::plan))
            .takes(Body::JsonOrForm("VideoRequest"))
            .gives(200, Answer::Json("Plan"))
            .fails(&[400, 413, 415]),
        Endpoint::new(
            "GET",
            "/v1/videos/{id}/segments",
            "listSegments",
            "What a video is made of",
            get(segments::segments),
        )
        .query(SEGMENTS)
        .gives(200, Answer::Json("SegmentList"))
        .fails(&[400, 404]),
        Endpoint::new(
            "GET",
            "/v1/videos/{id}/events",
            "events",
            "What happens to it, as server-sent events; goes on behind Last-Event-ID",
            get(events::events),
        )
        .query(AFTER)
        .gives(200, Answer::Of("text/event-stream"))
        .gives(204, Answer::Nothing)
        .fails(&[400, 404]),
        Endpoint::new(
            "GET",
            "/v1/videos/{id}/stream.m3u8",
            "playlist",
            "HLS: plays from the first segment on, while the rest is made",
            get(stream::playlist),
        )
        .gives(200, Answer::Of("application/vnd.apple.mpegurl"))
        .fails(&[404, 409]),
        Endpoint::new(
            "GET",
            "/v1/videos/{id}/stream/{name}",
            "streamPart",
            "init.mp4, 0.m4s and so on, which the playlist names",
            get(stream::part),
        )
        .gives_file("*/*")
        .fails(&[404, 416]),
        Endpoint::new(
            "GET",
            "/v1/videos/{id}/files/{name}",
            "file",
            "A file by the name that the video lists",
            get(videos::file),
        )
        .gives_file("*/*")
        .fails(&[404, 416]),
        Endpoint::new(
            "GET",
            "/v1/videos/{id}/webhooks",
            "listWebhooks",
            "What was reported of its end, and how that went",
            get(deliveries::list),
        )
        .gives(200, Answer::Json("Anything"))
        .fails(&[404]),
    ]
}
