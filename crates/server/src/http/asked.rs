//! Taking a film in, whatever API it is asked for by.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::stream;
use longreel_film::Length;
use longreel_jobs::{Created, NewJob};
use serde_json::{Map, Value};

use super::problem::Problem;
use super::terms::Terms;
use crate::access::Caller;
use crate::films::Resolved;
use crate::shared::Shared;

/// A client's key for a request that it may repeat.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The body of a request as an object: JSON, or the fields of a form.
///
/// # Errors
/// When it is neither, or is not said to be.
pub async fn object(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Map<String, Value>, Problem> {
    let content_type = content_type(headers);
    let body = body.map_err(|rejected| match rejected.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = "the body is longer than this server takes; shorten the prompt".to_owned();
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
        }
        _ => Problem::new(StatusCode::BAD_REQUEST, "body_incomplete", rejected.body_text()),
    });
    match essence(content_type).as_str() {
        "application/json" => json(&body?),
        "multipart/form-data" => form(content_type, body?).await,
        other => {
            let detail = format!("the content type is {other:?}; send JSON as application/json");
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Err(Problem::new(status, "unsupported_media_type", detail))
        }
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()).unwrap_or_default()
}

/// A content type without its parameters.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a request is said to be JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    essence(content_type(headers)) == "application/json"
}

fn json(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::invalid("the body has to be a JSON object, such as {\"prompt\": …}")),
        Err(error) => {
            let detail = format!("the body is not JSON: {error}");
            Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_json", detail))
        }
    }
}

/// Every value of a form is a text, and a key that is there many times a list.
async fn form(content_type: &str, body: Bytes) -> Result<Map<String, Value>, Problem> {
    let broken = |error| {
        let detail = format!("the form cannot be read: {error}");
        Problem::new(StatusCode::BAD_REQUEST, "invalid_form", detail)
    };
    let boundary = multer::parse_boundary(content_type).map_err(broken)?;
    let body = stream::once(async { Ok::<_, Infallible>(body) });
    let mut fields = multer::Multipart::new(body, boundary);
    let mut object = Map::new();
    while let Some(field) = fields.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().trim_end_matches("[]").to_owned();
        if field.file_name().is_some() {
            let detail =
                format!("{name}: files are not taken yet; describe the film in the prompt");
            return Err(Problem::new(StatusCode::BAD_REQUEST, "files_not_supported", detail));
        }
        let text = Value::from(field.text().await.map_err(broken)?);
        match object.get_mut(&name) {
            None => {
                object.insert(name, text);
            }
            Some(Value::Array(texts)) => texts.push(text),
            Some(first) => *first = Value::Array(vec![first.take(), text]),
        }
    }
    Ok(object)
}

/// Takes a job in.
///
/// # Errors
/// What cannot be made, and limits.
pub async fn create(
    shared: &Arc<Shared>,
    caller: &Caller,
    mut asked: Map<String, Value>,
    mut warnings: Vec<String>,
    headers: &HeaderMap,
) -> Result<Created, Problem> {
    let model = shared.films.model();
    let key = match headers.get(IDEMPOTENCY_KEY).map(|key| key.to_str()) {
        None => None,
        Some(Ok(key)) => Some(key.to_owned()),
        Some(Err(_)) => {
            return Err(Problem::invalid("Idempotency-Key is not plain ASCII; use a UUID"));
        }
    };
    let request = Value::Object(asked.clone());
    let terms = Terms::take(shared, caller, &mut asked).await?;
    if let Some(wanted) = asked.remove("model").filter(|wanted| !wanted.is_null())
        && wanted.as_str() != Some(&model.name)
    {
        let detail = format!(
            "model is {wanted}; this server makes films with {:?} alone, name that or leave it out",
            model.name
        );
        return Err(Problem::new(StatusCode::BAD_REQUEST, "model_not_found", detail));
    }
    let films = shared.films.clone();
    let film = tokio::task::spawn_blocking(move || films.film(&asked))
        .await
        .map_err(|e| Problem::internal(&e))??;
    warnings.extend(film.warnings);
    let frames = match film.request.length {
        Length::Frames(frames) => Some(frames),
        Length::Endless => None,
    };
    let prompt = film.request.prompts.first().map_or("", |p| p.prompt.as_str()).to_owned();
    let seed = film.request.seed;
    let resolved = Resolved {
        request: film.request,
        command: film.command,
        expected_seconds: film.expected_seconds,
        warnings,
    };
    let new = NewJob {
        idempotency_key: key,
        resolved: serde_json::to_value(resolved).map_err(|e| Problem::internal(&e))?,
        seed,
        model: model.name.clone(),
        model_revision: model.revision.clone(),
        program_version: model.program_version.clone(),
        frames,
        priority: terms.priority,
        deadline_ms: terms.deadline_ms(),
        webhook_url: terms.webhook_url,
        ..NewJob::new(caller.owner(), prompt, request)
    };
    let created = shared.store.create(new).await?;
    shared.wake();
    Ok(created)
}
