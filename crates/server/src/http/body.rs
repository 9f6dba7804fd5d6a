//! Bodies of requests: JSON or a form, with the pictures and videos in it.
//!
//! Files never become a part of what is kept as the request. They go to a folder of their own, a piece
//! at a time, and the request names them: `"image": {"name": "input-00000000.png", "sha256": …}`; so
//! two requests are the same when their files are.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::{Stream, StreamExt, TryStreamExt};
use longreel_jobs::ArtifactName;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::problem::Problem;
use super::uploads::{Role, Uploads, VIDEO_BYTES};
use crate::code::{About, Code};
use crate::films::Inputs;
use crate::shared::Shared;

/// Longest JSON, with pictures as `data:` URLs in it.
const JSON_BYTES: usize = 32 << 20;
/// Longest form: a video and two pictures.
const FORM_BYTES: u64 = VIDEO_BYTES + (256 << 20);
/// How long the rest of a request that is refused may take to come.
const DRAIN_TIME: Duration = Duration::from_secs(30);

/// What a client asks for.
pub struct Asked {
    /// The keys of its request.
    pub keys: Map<String, Value>,
    /// The files that came with it.
    pub uploads: Uploads,
}

/// Reads a request that may bring files, which are named from number `first` on.
///
/// # Errors
/// A body that is neither JSON nor a form, is too long, or files that cannot be used.
pub async fn read(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
    first: u32,
) -> Result<Asked, Problem> {
    let mut uploads = Uploads::new(shared, first);
    let (kind, body) = (kind(headers)?, Pieces::of(body));
    let read = async {
        match kind {
            Kind::Json => json(&whole(body.clone(), JSON_BYTES.max(shared.body_bytes)).await?),
            Kind::Form(boundary) => {
                form(body.clone(), boundary, Some(&mut uploads), shared.body_bytes).await
            }
        }
    };
    let keys = match read.await {
        Ok(keys) => keys,
        Err(problem) => {
            body.drain().await;
            return Err(problem);
        }
    };
    let (mut kept, mut text_bytes, mut files) = (Map::new(), 0, Vec::new());
    for (key, value) in keys {
        match Role::of(&key) {
            Some(role) => files.push((role, key, value)),
            None => {
                text_bytes += key.len() + value.to_string().len();
                kept.insert(key, value);
            }
        }
    }
    // Numbered in one order, whatever the order of the keys.
    files.sort_by_key(|(role, ..)| *role);
    for (role, key, value) in files {
        uploads.take_value(&shared.fetcher, role, &key, value).await?;
    }
    if text_bytes > shared.body_bytes {
        return Err(too_long(shared.body_bytes));
    }
    uploads.check().await?;
    kept.extend(uploads.described());
    Ok(Asked { keys: kept, uploads })
}

/// Reads a request that brings no files.
///
/// # Errors
/// A body that is neither JSON nor a form, or is too long.
pub async fn small(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<Map<String, Value>, Problem> {
    let (kind, body) = (kind(headers)?, Pieces::of(body));
    match kind {
        Kind::Json => json(&whole(body, shared.body_bytes).await?),
        Kind::Form(boundary) => form(body, boundary, None, shared.body_bytes).await,
    }
}

/// A body, which can be read on after a reader has had enough of it.
#[derive(Clone)]
struct Pieces(Arc<Mutex<BodyDataStream>>);

impl Pieces {
    fn of(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body.into_data_stream())))
    }

    /// Reads what is left and does nothing with it. A client that is still sending takes a connection
    /// that is closed before its end for one that broke, and never sees why it was refused.
    async fn drain(mut self) {
        let mut bytes = 0;
        let rest = async {
            while let Some(Ok(piece)) = self.next().await {
                bytes += piece.len() as u64;
                if bytes > FORM_BYTES {
                    return;
                }
            }
        };
        let _ = timeout(DRAIN_TIME, rest).await;
    }
}

impl Stream for Pieces {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_next(context)
    }
}

/// The keys without those that name files, and the files.
///
/// # Errors
/// A picture and a video to begin with.
pub fn split(
    keys: &Map<String, Value>,
    folder: Option<PathBuf>,
) -> Result<(Map<String, Value>, Inputs), Problem> {
    let mut inputs = Inputs { folder, ..Inputs::default() };
    let mut kept = Map::new();
    for (key, value) in keys {
        let name = |value: &Value| value.get("name")?.as_str()?.parse::<ArtifactName>().ok();
        match Role::of(key) {
            None => {
                kept.insert(key.clone(), value.clone());
            }
            Some(role) => {
                let path = name(value).map(|name| PathBuf::from(name.to_string()));
                *match role {
                    Role::Image => &mut inputs.image,
                    Role::EndImage => &mut inputs.end_image,
                    Role::Video => &mut inputs.video,
                } = path;
            }
        }
    }
    if inputs.image.is_some() && inputs.video.is_some() {
        let detail = "image and video are both something to begin with; keep one";
        return Err(Problem::invalid(detail).about(About::field("video")));
    }
    Ok((kept, inputs))
}

/// A body that is longer than `bytes`.
pub fn too_long(bytes: usize) -> Problem {
    let detail = format!(
        "the body is longer than {bytes} bytes; shorten the prompt, and send files as a form \
         (multipart/form-data)"
    );
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, Code::BodyTooLarge, detail).limit(bytes as u64)
}

enum Kind {
    Json,
    Form(String),
}

/// Whether a request is said to be JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    matches!(kind(headers), Ok(Kind::Json))
}

fn kind(headers: &HeaderMap) -> Result<Kind, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok());
    let content_type = content_type.unwrap_or_default();
    match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(Kind::Json),
        "multipart/form-data" => {
            multer::parse_boundary(content_type).map(Kind::Form).map_err(|e| broken(&e))
        }
        other => {
            let detail = format!("the content type is {other:?}; send JSON as application/json");
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Err(Problem::new(status, Code::UnsupportedMediaType, detail)
                .about(About::value("Content-Type", other))
                .allowed(["application/json", "multipart/form-data"]))
        }
    }
}

async fn whole(mut pieces: Pieces, limit: usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| {
            Problem::new(StatusCode::BAD_REQUEST, Code::BodyIncomplete, e.to_string())
        })?;
        if bytes.len() + piece.len() > limit {
            return Err(too_long(limit));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn json(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::invalid("the body has to be a JSON object, such as {\"prompt\": …}")),
        Err(error) => {
            let detail = format!("the body is not JSON: {error}");
            Err(Problem::new(StatusCode::BAD_REQUEST, Code::InvalidJson, detail))
        }
    }
}

fn broken(error: &multer::Error) -> Problem {
    if let multer::Error::StreamSizeExceeded { limit }
    | multer::Error::FieldSizeExceeded { limit, .. } = error
    {
        let detail = format!("the form is longer than {limit} bytes; send less, or smaller files");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, Code::BodyTooLarge, detail)
            .limit(*limit);
    }
    let detail = format!("the form cannot be read: {error}");
    Problem::new(StatusCode::BAD_REQUEST, Code::InvalidForm, detail)
}

/// Every value of a form is a text, and a key that is there many times a list. Files go to `uploads`.
async fn form(
    body: Pieces,
    boundary: String,
    mut uploads: Option<&mut Uploads>,
    most_text: usize,
) -> Result<Map<String, Value>, Problem> {
    let limit = if uploads.is_some() { FORM_BYTES } else { most_text as u64 };
    let limits = multer::SizeLimit::new().whole_stream(limit);
    let constraints = multer::Constraints::new().size_limit(limits);
    let pieces = body.map_err(|e| e.to_string());
    let mut fields = multer::Multipart::with_constraints(pieces, boundary, constraints);
    let (mut object, mut text_bytes) = (Map::new(), 0);
    while let Some(mut field) = fields.next_field().await.map_err(|e| broken(&e))? {
        let name = field.name().unwrap_or_default().trim_end_matches("[]").to_owned();
        if field.file_name().is_some() {
            let (Some(role), Some(uploads)) = (Role::of(&name), uploads.as_deref_mut()) else {
                let detail = format!(
                    "{name} is a file; files are taken as image (or input_reference), end_image and \
                     video"
                );
                return Err(Problem::new(StatusCode::BAD_REQUEST, Code::FileNotTaken, detail)
                    .about(About::field(name))
                    .allowed(["image", "end_image", "video"]));
            };
            let mut file = uploads.begin(role, &name).await?;
            while let Some(piece) = field.chunk().await.map_err(|e| broken(&e))? {
                file.write(&piece).await?;
            }
            uploads.end(file).await?;
            continue;
        }
        let mut text = Vec::new();
        // A picture may come as a text too.
        let most = if Role::of(&name).is_some() { JSON_BYTES.max(most_text) } else { most_text };
        while let Some(piece) = field.chunk().await.map_err(|e| broken(&e))? {
            text_bytes += piece.len();
            if text_bytes > most {
                return Err(too_long(most));
            }
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8(text).map_err(|_| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                Code::InvalidForm,
                format!("{name} is not UTF-8 text; a file needs a file name in the form"),
            )
        })?;
        // `input_reference[image_url]` is how some clients write an object.
        let (name, text) = match name.split_once('[') {
            Some((outer, inner)) => {
                let inner = inner.trim_end_matches(']').to_owned();
                (outer.to_owned(), Value::Object(Map::from_iter([(inner, text.into())])))
            }
            None => (name, Value::from(text)),
        };
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
