//! Errors as clients get them: `application/problem+json` (RFC 9457) with a stable `code`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longreel_jobs::{ArtifactError, Limit, StoreError, is_no_room};
use serde_json::json;

use crate::code::{About, Code};
use crate::fetch::FetchError;
use crate::films::Refusal;

/// What went wrong with a request.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: Code,
    detail: String,
    about: Box<About>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of this status, stable code, and text that says what is wrong and what to do.
    pub fn new(status: StatusCode, code: Code, detail: impl Into<String>) -> Self {
        let (detail, about) = (detail.into(), Box::default());
        Self { status, code, detail, about, headers: Vec::new() }
    }

    /// A request that cannot be taken as it is.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::InvalidValue, detail)
    }

    /// A value that cannot be taken, and what it has to be.
    pub fn value(field: &str, value: impl std::fmt::Display, rule: impl std::fmt::Display) -> Self {
        let about = About::value(field, &value);
        Self::invalid(format!("{field} is {value}; {rule}")).about(about)
    }

    /// A text that cannot be taken, cut to what is worth showing, and what it has to be.
    pub fn text(field: &str, text: &str, rule: impl std::fmt::Display) -> Self {
        let shown: String = text.chars().take(64).collect();
        let about = About::value(field, &shown);
        Self::invalid(format!("{field} is {shown:?}; {rule}")).about(about)
    }

    /// A value that has to be there, and what it is for.
    pub fn missing(field: &str, rule: &str) -> Self {
        Self::invalid(format!("{field} is missing; {rule}")).about(About::field(field))
    }

    /// There is nothing of this name.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, detail)
    }

    /// Something of ours failed. The client is told that it did, the log what.
    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        let detail = "the server failed; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, detail)
    }

    /// There is no room for something on the disk. The log is told what.
    pub fn no_room(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "there is no room");
        let detail = "the server has no room on its disk; nothing is lost, try again later";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, Code::DiskFull, detail)
    }

    /// A file of ours that could not be read or written.
    pub fn of_file(error: &std::io::Error) -> Self {
        if is_no_room(error) { Self::no_room(error) } else { Self::internal(error) }
    }

    /// Its code and what it says, for those who are not answered over HTTP.
    pub fn in_words(&self) -> String {
        format!("{}: {}", self.code.name(), self.detail)
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The same, with what it is about as data.
    pub fn about(self, about: impl Into<Box<About>>) -> Self {
        Self { about: about.into(), ..self }
    }

    /// The same, with the most that is taken.
    pub fn limit(mut self, limit: u64) -> Self {
        self.about.limit = Some(limit);
        self
    }

    /// The same, with what would be taken.
    pub fn allowed<T: ToString>(mut self, allowed: impl IntoIterator<Item = T>) -> Self {
        self.about.allowed = allowed.into_iter().map(|value| value.to_string()).collect();
        self
    }

    /// The same with a header.
    pub fn with_header(mut self, name: HeaderName, value: impl ToString) -> Self {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.headers.push((name, value));
        }
        self
    }

    /// The answer, with the id of the request it is for.
    pub fn respond(&self, request_id: &str) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "code": self.code.name(),
            "detail": self.detail,
            "request_id": request_id,
            // Where clients of the videos API look.
            "error": {"code": self.code.name(), "message": self.detail},
        });
        self.about.write(&mut body);
        let retry_after = self.headers.iter().find(|(name, _)| name == header::RETRY_AFTER);
        if let Some(seconds) = retry_after.and_then(|(_, s)| s.to_str().ok()?.parse::<u64>().ok()) {
            body["retry_after"] = seconds.into();
        }
        let mut response = (self.status, Json(body)).into_response();
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
        for (name, value) in &self.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

/// Only carries the problem to [`super::middleware`], which knows the request's id and writes it.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        if refusal.is_clients {
            Self::new(StatusCode::BAD_REQUEST, refusal.code, refusal.detail).about(refusal.about)
        } else {
            Self::internal(&refusal.detail)
        }
    }
}

/// What stands behind the question mark and cannot be read.
impl From<QueryRejection> for Problem {
    fn from(rejected: QueryRejection) -> Self {
        let text = rejected.body_text();
        let what = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        let problem = Self::invalid(format!("the query cannot be read: {what}"));
        match what.split_once(": ") {
            Some((field, _)) => problem.about(About::field(field)),
            None => problem,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let detail = error.to_string();
        let conflict = |code| Self::new(StatusCode::CONFLICT, code, detail.clone());
        match error {
            StoreError::NotFound { .. } => Self::not_found(detail),
            StoreError::Invalid { field, value, .. } => {
                Self::invalid(detail).about(About::value(field, value))
            }
            StoreError::LimitReached { limit: Limit::Frames, value, max, .. } => {
                Self::new(StatusCode::BAD_REQUEST, Code::LimitReached, detail)
                    .about(About::value("num_frames", value))
                    .limit(max)
            }
            StoreError::LimitReached { limit, retry_after_ms, max, .. } => {
                // The owner asked for too much; the queue of all is full whoever asks.
                let (status, code) = match limit {
                    Limit::QueueLength => (StatusCode::SERVICE_UNAVAILABLE, Code::QueueFull),
                    _ => (StatusCode::TOO_MANY_REQUESTS, Code::LimitReached),
                };
                let problem = Self::new(status, code, detail).limit(max);
                match retry_after_ms {
                    Some(ms) => problem.with_header(header::RETRY_AFTER, ms.div_ceil(1_000)),
                    None => problem,
                }
            }
            StoreError::IdempotencyConflict { .. } => conflict(Code::IdempotencyConflict),
            StoreError::NotAllowed { state, .. } => {
                conflict(Code::NotAllowedInState).about(About::value("state", state))
            }
            StoreError::SegmentBegun { from_segment, first_open, .. } => {
                conflict(Code::SegmentBegun)
                    .about(About::value("from_segment", from_segment))
                    .allowed([first_open])
            }
            StoreError::NeededBy { .. } => conflict(Code::NeededByAnother),
            StoreError::Locked { .. } => {
                tracing::error!(%error, "a request failed");
                let detail = "the database is busy; try again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Busy, detail)
                    .with_header(header::RETRY_AFTER, 1)
            }
            StoreError::DiskFull { .. } => Self::no_room(&error),
            error => Self::internal(&error),
        }
    }
}

impl From<FetchError> for Problem {
    fn from(error: FetchError) -> Self {
        let (code, of) = match &error {
            FetchError::Address { url, .. } => (Code::InvalidValue, url),
            FetchError::Private { host } => (Code::AddressNotAllowed, host),
            FetchError::Unreachable { host, .. } | FetchError::Status { host, .. } => {
                (Code::AddressUnreachable, host)
            }
            FetchError::TooLarge { host, .. } => (Code::FileTooLarge, host),
        };
        let about = About { value: Some(of.clone()), ..About::default() };
        let problem = Self::new(StatusCode::BAD_REQUEST, code, error.to_string()).about(about);
        match error {
            FetchError::TooLarge { limit_bytes, .. } => problem.limit(limit_bytes),
            _ => problem,
        }
    }
}

impl From<ArtifactError> for Problem {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::NotFound { .. } => Self::not_found(error.to_string()),
            ArtifactError::DiskFull { .. } => Self::no_room(&error),
            error => Self::internal(&error),
        }
    }
}
