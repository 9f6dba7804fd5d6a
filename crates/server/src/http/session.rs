//! Sessions of the page; see [`crate::access`].

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longreel_jobs::{Clock, SystemClock};
use serde_json::{Value, json};

use super::admission::{identify, known};
use super::middleware::own_origin;
use super::problem::Problem;
use super::{asked, body};
use crate::access::Caller;
use crate::code::Code;
use crate::shared::Shared;

/// GET /v1/session: whether a key is needed, and who asks.
pub async fn show(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = match identify(&shared, &headers).await {
        Ok(caller) => Some(caller),
        Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => None,
        Err(problem) => return Err(problem),
    };
    Ok(answer(&shared, caller.as_ref()))
}

/// POST /v1/session: opens one with a key.
pub async fn open(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    own_origin(&headers, &shared.access.origins)?;
    // A form could be sent here by a page of anybody, to make a visitor somebody else.
    if !body::is_json(&headers) {
        let detail =
            "send the key as JSON, {\"key\": \"lr_…\"}, with the content type application/json";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Problem::new(status, Code::UnsupportedMediaType, detail));
    }
    let sent = asked::object(&shared, &headers, sent).await?;
    let Some(Value::String(key)) = sent.get("key") else {
        return Err(Problem::missing("key", "send {\"key\": \"lr_…\"}"));
    };
    if !shared.access.needs_keys {
        return Ok(answer(&shared, Some(&Caller::local())));
    }
    let key = known(shared.store.verify_key(key.trim()).await)?;
    let cookie = shared.access.open_session(key.id, SystemClock.now_s(), is_secure(&headers));
    let session = answer(&shared, Some(&Caller::with_key(key)));
    Ok(([(header::SET_COOKIE, cookie)], session).into_response())
}

/// DELETE /v1/session: ends it.
pub async fn close(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    own_origin(&headers, &shared.access.origins)?;
    let cookie = shared.access.close_session(is_secure(&headers));
    Ok(([(header::SET_COOKIE, cookie)], answer(&shared, None)).into_response())
}

/// Whether the browser's own connection is encrypted, as a proxy in front says. Whoever says so
/// wrongly only loses the cookie.
fn is_secure(headers: &HeaderMap) -> bool {
    let proto = headers.get("x-forwarded-proto").and_then(|proto| proto.to_str().ok());
    proto.is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"))
}

fn answer(shared: &Shared, caller: Option<&Caller>) -> Response {
    let needs_keys = shared.access.needs_keys;
    let key = caller.and_then(Caller::key);
    let session = json!({
        "object": "session",
        "key_needed": needs_keys,
        "signed_in": needs_keys && caller.is_some(),
        "owner": caller.map(Caller::owner),
        "key_name": key.map(|key| &key.asked.name),
        "scopes": key.map(|key| &key.asked.scopes),
        "expires_at": key.and_then(|key| key.asked.expires_ms).map(|ms| ms / 1000),
    });
    ([(header::CACHE_CONTROL, "no-store")], Json(session)).into_response()
}
