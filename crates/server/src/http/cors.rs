//! What browsers want to hear before they let pages of other origins call (CORS). Cookies are never
//! taken along: such a page sends a key.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::shared::Shared;

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
const ASKED: &str = "authorization, content-type, idempotency-key, last-event-id, range, traceparent, \
    tracestate, x-request-id";
const SHOWN: &str = "accept-ranges, content-disposition, content-range, etag, location, ratelimit, \
    ratelimit-policy, retry-after, x-request-id";
/// Seconds that a browser may remember the answer for.
const REMEMBERED: &str = "7200";

/// Answers questions of browsers, and says with each answer whose pages may read it.
pub async fn cors(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let origins = &shared.access.origins;
    if origins.is_empty() {
        return next.run(request).await;
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let is_allowed =
        origin.as_ref().and_then(|o| o.to_str().ok()).is_some_and(|origin| origins.allow(origin));
    let is_question = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_question && is_allowed {
        let headers = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, ASKED),
            (header::ACCESS_CONTROL_MAX_AGE, REMEMBERED),
        ];
        (StatusCode::NO_CONTENT, headers).into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    // The answer differs by origin, and so must what is remembered of it on the way.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin.filter(|_| is_allowed) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let shown = HeaderValue::from_static(SHOWN);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
    }
    response
}
