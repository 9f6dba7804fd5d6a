//! Whoever asks is told apart here, before anything is done for them: by key or session, how often
//! they call, what they may do, and whose the job is that the address names.

use std::str::FromStr;
use std::sync::Arc;

use axum::RequestExt;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use longreel_jobs::{ApiKey, Clock, JobId, KeyRefusal, Scope, StoreError, SystemClock};

use super::middleware::own_origin;
use super::problem::Problem;
use super::videos::no_video;
use crate::access::{Caller, Rate};
use crate::code::{About, Code};
use crate::shared::Shared;

const REALM: &str = "Bearer realm=\"longreel\"";

/// Lets a request through with its [`Caller`], or answers in its handler's place.
///
/// Whatever handler has `{id}` in its address can count on it that the job, if there is one, is the
/// caller's.
pub async fn admit(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match identify(&shared, request.headers()).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let rate = shared.access.count(&caller);
    let mut response = match check(&shared, &caller, rate.as_ref(), &mut request).await {
        Ok(()) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    for (name, value) in rate.iter().flat_map(Rate::headers) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// Whoever sends these headers.
///
/// # Errors
/// When a key is needed and there is none that holds.
pub async fn identify(shared: &Shared, headers: &HeaderMap) -> Result<Caller, Problem> {
    if !shared.access.needs_keys {
        return Ok(Caller::local());
    }
    if let Some(authorization) = headers.get(header::AUTHORIZATION) {
        let key = authorization.to_str().ok().and_then(bearer).ok_or_else(|| {
            let detail = "the header Authorization is not of the form Bearer KEY";
            unauthorized(Code::KeyMalformed, detail).with_header(header::WWW_AUTHENTICATE, REALM)
        })?;
        return known(shared.store.verify_key(key).await).map(Caller::with_key);
    }
    let Some(key) = shared.access.session(headers, SystemClock.now_s()) else {
        let detail = "this server wants an API key; send it as Authorization: Bearer KEY. Whoever runs \
                      the server makes one with `longreel keys create`";
        return Err(
            unauthorized(Code::KeyMissing, detail).with_header(header::WWW_AUTHENTICATE, REALM)
        );
    };
    // A browser sends the cookie along with whatever page of this host asks, on other ports too.
    own_origin(headers, &shared.access.origins)?;
    known(shared.store.check_key(key).await).map(Caller::with_key)
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, key) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// A key that the store found, or why it is refused.
///
/// # Errors
/// With status 401 for a key that does not hold.
pub fn known(found: Result<ApiKey, StoreError>) -> Result<ApiKey, Problem> {
    found.map_err(|error| match error {
        StoreError::Key(refusal) => {
            let code = match refusal {
                KeyRefusal::Unknown => Code::KeyUnknown,
                KeyRefusal::Revoked => Code::KeyRevoked,
                KeyRefusal::Expired => Code::KeyExpired,
            };
            let challenge = format!("{REALM}, error=\"invalid_token\"");
            unauthorized(code, refusal.to_string()).with_header(header::WWW_AUTHENTICATE, challenge)
        }
        error => error.into(),
    })
}

fn unauthorized(code: Code, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, code, detail)
}

async fn check(
    shared: &Shared,
    caller: &Caller,
    rate: Option<&Rate>,
    request: &mut Request,
) -> Result<(), Problem> {
    if let Some((rate, wait)) = rate.and_then(|rate| Some((rate, rate.refused_for?))) {
        let seconds = wait.as_secs_f64().ceil();
        let detail = format!(
            "this key may call {} times a minute, {} at once; call again in {seconds} s",
            rate.limit.per_minute, rate.limit.burst
        );
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, Code::RateLimited, detail)
            .limit(rate.limit.per_minute.into())
            .with_header(header::RETRY_AFTER, seconds));
    }
    let scope = scope_of(request.method(), request.uri().path());
    if !caller.allows(scope) {
        let detail = format!(
            "this key may not do that: it lacks the scope {}; use another key",
            scope_name(scope)
        );
        return Err(Problem::new(StatusCode::FORBIDDEN, Code::ScopeMissing, detail)
            .about(About::field("scope"))
            .allowed([scope_name(scope)]));
    }
    if caller.sees_only().is_none() {
        return Ok(());
    }
    // An address without parameters has none to extract.
    let Ok(params) = request.extract_parts::<RawPathParams>().await else { return Ok(()) };
    let Some((_, id)) = params.iter().find(|(name, _)| *name == "id") else { return Ok(()) };
    // What is no id is for the handler to refuse.
    let Ok(id) = JobId::from_str(id) else { return Ok(()) };
    match shared.store.get(id).await {
        Ok(job) if caller.may_touch(&job) => Ok(()),
        // Whether a job of somebody else is there is nothing to be told.
        Ok(_) | Err(StoreError::NotFound { .. }) => Err(no_video(&id.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// What a request is for. A plan is a question, though it is posted. Who may have a model served depends on
/// how the server was started too, so that its handler looks again.
fn scope_of(method: &Method, path: &str) -> Scope {
    if method.is_safe() || path == "/v1/plan" {
        Scope::JobsRead
    } else if path.starts_with("/v1/models/")
        && !(method == Method::POST && path.ends_with("/serve"))
    {
        Scope::Admin
    } else {
        Scope::JobsWrite
    }
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::JobsRead => "read",
        Scope::JobsWrite => "write",
        Scope::Admin => "admin",
    }
}

/// The caller that [`admit`] let through.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // An address that is not behind `admit` is a bug, and must not be open to all.
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::internal(&"an address knows no caller"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_clients_write_it() {
        assert_eq!(bearer("Bearer lr_x"), Some("lr_x"));
        assert_eq!(bearer("bearer  lr_x "), Some("lr_x"));
        for other in ["lr_x", "Basic bHJfeA==", "Bearer", ""] {
            assert_eq!(bearer(other), None, "{other}");
        }
    }

    #[test]
    fn looking_needs_less_than_doing() {
        assert_eq!(scope_of(&Method::GET, "/v1/videos"), Scope::JobsRead);
        assert_eq!(scope_of(&Method::HEAD, "/v1/videos"), Scope::JobsRead);
        assert_eq!(scope_of(&Method::POST, "/v1/plan"), Scope::JobsRead);
        assert_eq!(scope_of(&Method::POST, "/v1/models/demo/use"), Scope::Admin);
        assert_eq!(scope_of(&Method::POST, "/v1/models/demo/serve"), Scope::JobsWrite);
        assert_eq!(scope_of(&Method::DELETE, "/v1/models/demo/serve"), Scope::Admin);
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert_eq!(scope_of(&method, "/v1/videos"), Scope::JobsWrite);
        }
    }
}
