//! Errors as clients get them: `application/problem+json` (RFC 9457) with a stable `code`.

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longreel_jobs::{ArtifactError, Limit, StoreError};
use serde_json::json;

use crate::fetch::FetchError;
use crate::films::Refusal;

/// What went wrong with a request.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of this status, stable code, and text that says what is wrong and what to do.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), headers: Vec::new() }
    }

    /// A value that cannot be taken.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", detail)
    }

    /// There is nothing of this name.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// Something of ours failed. The client is told that it did, the log what.
    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        let detail = "the server failed; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// Its code and what it says, for those who are not answered over HTTP.
    pub fn in_words(&self) -> String {
        format!("{}: {}", self.code, self.detail)
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
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
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
            // Where clients of the videos API look.
            "error": {"code": self.code, "message": self.detail},
        });
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
            Self::new(StatusCode::BAD_REQUEST, refusal.code, refusal.detail)
        } else {
            Self::internal(&refusal.detail)
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let detail = error.to_string();
        let conflict = |code| Self::new(StatusCode::CONFLICT, code, detail.clone());
        match error {
            StoreError::NotFound { .. } => Self::not_found(detail),
            StoreError::Invalid { .. } => Self::invalid(detail),
            StoreError::LimitReached { limit: Limit::Frames, .. } => {
                Self::new(StatusCode::BAD_REQUEST, "limit_reached", detail)
            }
            StoreError::LimitReached { limit, retry_after_ms, .. } => {
                // The owner asked for too much; the queue of all is full whoever asks.
                let (status, code) = match limit {
                    Limit::QueueLength => (StatusCode::SERVICE_UNAVAILABLE, "queue_full"),
                    _ => (StatusCode::TOO_MANY_REQUESTS, "limit_reached"),
                };
                let problem = Self::new(status, code, detail);
                match retry_after_ms {
                    Some(ms) => problem.with_header(header::RETRY_AFTER, ms.div_ceil(1_000)),
                    None => problem,
                }
            }
            StoreError::IdempotencyConflict { .. } => conflict("idempotency_conflict"),
            StoreError::NotAllowed { .. } => conflict("not_allowed_in_state"),
            StoreError::SegmentBegun { .. } => conflict("segment_begun"),
            StoreError::NeededBy { .. } => conflict("needed_by_another"),
            StoreError::Locked { .. } => {
                tracing::error!(%error, "a request failed");
                let detail = "the database is busy; try again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
                    .with_header(header::RETRY_AFTER, 1)
            }
            StoreError::DiskFull { .. } => {
                tracing::error!(%error, "a request failed");
                let detail = "the server has no room on its disk; nothing is lost, try again later";
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", detail)
            }
            error => Self::internal(&error),
        }
    }
}

impl From<FetchError> for Problem {
    fn from(error: FetchError) -> Self {
        let code = match &error {
            FetchError::Address { .. } => "invalid_value",
            FetchError::Private { .. } => "address_not_allowed",
            FetchError::Unreachable { .. } | FetchError::Status { .. } => "address_unreachable",
            FetchError::TooLarge { .. } => "file_too_large",
        };
        Self::new(StatusCode::BAD_REQUEST, code, error.to_string())
    }
}

impl From<ArtifactError> for Problem {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::NotFound { .. } => Self::not_found(error.to_string()),
            error => Self::internal(&error),
        }
    }
}
