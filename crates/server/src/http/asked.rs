//! Taking a film in, whatever API it is asked for by.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use longreel_jobs::{Artifact, ArtifactError, ArtifactName, Created, Job, JobId, NewJob};
use serde_json::{Map, Value};

use super::body::{self, Asked};
use super::models;
use super::problem::Problem;
use super::terms::Terms;
use crate::access::Caller;
use crate::code::{About, Code};
use crate::films::{Begins, Film, Films, Inputs, Refusal, Resolved};
use crate::shared::Shared;
use crate::traces;

/// A client's key for a request that it may repeat.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The body of a request that brings no files as an object: JSON, or the fields of a form.
///
/// # Errors
/// When it is neither, or is not said to be.
pub async fn object(
    shared: &Shared,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Map<String, Value>, Problem> {
    let body = body.map_err(|rejected| match rejected.status() {
        StatusCode::PAYLOAD_TOO_LARGE => body::too_long(shared.body_bytes),
        _ => Problem::new(StatusCode::BAD_REQUEST, Code::BodyIncomplete, rejected.body_text()),
    })?;
    body::small(shared, headers, Body::from(body)).await
}

/// Refuses keys that are not among these.
pub fn known_keys(wanted: &Map<String, Value>, known: &[&str]) -> Result<(), Problem> {
    let Some(key) = wanted.keys().find(|key| !known.contains(&key.as_str())) else {
        return Ok(());
    };
    let shown: String = key.chars().take(64).collect();
    let detail = format!("there is no key {shown:?} here; there are {}", known.join(", "));
    Err(Problem::new(StatusCode::BAD_REQUEST, Code::UnknownKey, detail)
        .about(About::field(shown))
        .allowed(known))
}

/// The prompt of a request, when it has one.
pub fn prompt(wanted: &Map<String, Value>) -> Result<Option<String>, Problem> {
    match wanted.get("prompt") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(prompt)) if !prompt.trim().is_empty() => {
            Ok(Some(prompt.trim().to_owned()))
        }
        Some(Value::String(_)) => Err(Problem::value("prompt", "empty", "say what the film shows")),
        Some(other) => Err(Problem::value("prompt", other, "it has to be a text")),
    }
}

/// A key that is a number, or, in a form, the text of one.
pub fn number<T: std::str::FromStr>(
    wanted: &Map<String, Value>,
    key: &str,
) -> Result<Option<T>, Problem> {
    let text = match wanted.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(value) => value.to_string(),
    };
    let shown: String = text.chars().take(64).collect();
    let refused = |_| Problem::value(key, &shown, "it has to be a number from 0 up");
    text.parse().map(Some).map_err(refused)
}

/// What is kept with a job of how its film is made.
pub(crate) fn resolved(job: &Job) -> Result<Resolved, Problem> {
    Resolved::of(job).map_err(|_| {
        let detail = "this version cannot read the video; ask for it again";
        Problem::new(StatusCode::CONFLICT, Code::JobUnreadable, detail)
    })
}

/// Takes a job in.
///
/// # Errors
/// What cannot be made, and limits.
pub async fn create(
    shared: &Arc<Shared>,
    caller: &Caller,
    asked: Asked,
    mut warnings: Vec<String>,
    headers: &HeaderMap,
) -> Result<Created, Problem> {
    let Asked { mut keys, uploads } = asked;
    let request = Value::Object(keys.clone());
    let terms = Terms::take(shared, caller, &mut keys).await?;
    let films = model(shared, &mut keys).await?;
    let film = planned(films, &keys, uploads.folder()).await?;
    warnings.splice(0..0, film.warnings.iter().cloned());
    let files = uploads.files().map(|(name, path)| File { name, source: Source::Local(path) });
    let taken = Taken { caller, terms, request, keys, begins: None, warnings, headers };
    let new = new_job(&film, taken)?;
    submit(shared, new, files.collect()).await
}

/// Plans what keys ask for. Files that they name lie in `folder`, where they are looked at.
///
/// # Errors
/// What cannot be made.
pub async fn planned(
    films: Arc<dyn Films>,
    keys: &Map<String, Value>,
    folder: Option<PathBuf>,
) -> Result<Film, Problem> {
    let (keys, inputs) = body::split(keys, folder)?;
    blocking(move || films.film(&keys, &inputs)).await
}

/// Runs what may read files where waiting is allowed.
pub(super) async fn blocking(
    plan: impl FnOnce() -> Result<Film, Refusal> + Send + 'static,
) -> Result<Film, Problem> {
    let planned = tokio::task::spawn_blocking(plan).await;
    Ok(planned.map_err(|e| Problem::internal(&e))??)
}

/// The model that is named, or the default; the name is taken out of the keys.
///
/// # Errors
/// When it is not served.
pub async fn model(
    shared: &Arc<Shared>,
    keys: &mut Map<String, Value>,
) -> Result<Arc<dyn Films>, Problem> {
    Ok(named_model(shared, keys).await?.unwrap_or_else(|| shared.models.default()))
}

/// The model that is named, if one is; the name is taken out of the keys.
///
/// # Errors
/// When it is not served.
pub async fn named_model(
    shared: &Arc<Shared>,
    keys: &mut Map<String, Value>,
) -> Result<Option<Arc<dyn Films>>, Problem> {
    match keys.remove("model") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => {
            if let Some(films) = shared.models.get(&name) {
                return Ok(Some(films));
            }
            if shared.models.anybody_may_serve
                && let Some(films) = models::serve_named(shared, &name).await?
            {
                return Ok(Some(films));
            }
            Err(no_model(shared, &name))
        }
        Some(other) => {
            let detail = format!("model is {other}; it is the name of a model");
            Err(Problem::new(StatusCode::BAD_REQUEST, Code::ModelNotFound, detail)
                .about(About::value("model", other))
                .allowed(shared.models.names()))
        }
    }
}

/// No film can be asked for by that model.
fn no_model(shared: &Shared, name: &str) -> Problem {
    let detail = shared.models.unknown(name);
    Problem::new(StatusCode::BAD_REQUEST, Code::ModelNotFound, detail)
        .about(About::value("model", name))
        .allowed(shared.models.names())
}

/// How a film was asked for.
pub struct Taken<'a> {
    /// By whom.
    pub caller: &'a Caller,
    /// Under which terms.
    pub terms: Terms,
    /// As it came.
    pub request: Value,
    /// See [`Resolved::keys`].
    pub keys: Map<String, Value>,
    /// What it begins with of another film.
    pub begins: Option<Begins>,
    /// What the client should know.
    pub warnings: Vec<String>,
    /// Those of the request.
    pub headers: &'a HeaderMap,
}

/// The job of a film.
///
/// # Errors
/// An idempotency key that cannot be kept.
pub fn new_job(film: &Film, taken: Taken<'_>) -> Result<NewJob, Problem> {
    let model = &film.model;
    let idempotency_key = match taken.headers.get(IDEMPOTENCY_KEY).map(|key| key.to_str()) {
        None => None,
        Some(Ok(key)) => Some(key.to_owned()),
        Some(Err(_)) => {
            return Err(Problem::invalid("Idempotency-Key is not plain ASCII; use a UUID")
                .about(About::field("Idempotency-Key")));
        }
    };
    let wanted = film.plan.request();
    let prompt = wanted.prompts.first().map_or("", |p| p.prompt.as_str()).to_owned();
    let resolved = Resolved {
        request: wanted.clone(),
        keys: taken.keys,
        begins: taken.begins,
        command: film.command.clone(),
        expected_seconds: film.plan.summary().expected_seconds,
        warnings: taken.warnings,
    };
    Ok(NewJob {
        idempotency_key,
        resolved: serde_json::to_value(resolved).map_err(|e| Problem::internal(&e))?,
        seed: wanted.seed,
        model: model.name.clone(),
        model_revision: model.revision.clone(),
        program_version: model.program_version.clone(),
        frames: film.plan.summary().frames,
        priority: taken.terms.priority,
        deadline_ms: taken.terms.deadline_ms(),
        webhook_url: taken.terms.webhook_url,
        trace: traces::asked_in(taken.headers),
        ..NewJob::new(taken.caller.owner(), prompt, taken.request)
    })
}

/// A file that is stored with a job.
pub struct File {
    /// As what.
    pub name: ArtifactName,
    /// From where.
    pub source: Source,
}

/// Where a file comes from.
pub enum Source {
    /// A file on this machine.
    Local(PathBuf),
    /// A file of another job.
    Of(JobId, ArtifactName),
}

/// Stores the files of a job, then takes it in, so that no worker sees it without them.
///
/// # Errors
/// Limits, a model that is gone since it was named, and a store that fails. What was stored is removed.
pub async fn submit(
    shared: &Arc<Shared>,
    new: NewJob,
    files: Vec<File>,
) -> Result<Created, Problem> {
    if files.is_empty() {
        return take_in(shared, new, None).await;
    }
    let id = shared.store.reserve().await?;
    let created = match store(shared, id, files).await {
        Ok(stored) => take_in(shared, new, Some((id, stored))).await,
        Err(error) => Err(error.into()),
    };
    if !matches!(created, Ok(Created::New(_)))
        && let Err(error) = shared.artifacts.delete_job(id).await
    {
        // The reservation runs out and they go then.
        tracing::warn!(%error, "files of a job that was not taken in are left for now");
    }
    created
}

/// Takes a job in, under the id that was reserved for its files, unless nothing makes its film any more: a
/// model may have made its last one and be gone since the request named it.
async fn take_in(
    shared: &Arc<Shared>,
    new: NewJob,
    reserved: Option<(JobId, Vec<Artifact>)>,
) -> Result<Created, Problem> {
    let all = shared.clone();
    // To its end also when the client goes away meanwhile: the model has to stay for as long.
    let taken = tokio::spawn(async move {
        let _stay = all.models.stay().await;
        if all.models.making(&new.model).is_none() {
            return Err(no_model(&all, &new.model));
        }
        let created = match reserved {
            None => all.store.create(new).await?,
            Some((id, stored)) => all.store.create_reserved(id, new, stored).await?,
        };
        all.wake();
        Ok(created)
    });
    taken.await.map_err(|e| Problem::internal(&e))?
}

async fn store(
    shared: &Shared,
    id: JobId,
    files: Vec<File>,
) -> Result<Vec<Artifact>, ArtifactError> {
    let mut stored = Vec::with_capacity(files.len());
    for File { name, source } in files {
        stored.push(match source {
            Source::Local(path) => shared.artifacts.put_file(id, name, &path).await?,
            Source::Of(job, of) => shared.artifacts.copy((job, of), (id, name)).await?,
        });
    }
    Ok(stored)
}

/// The names of the files that a film is made from, as stored with its job.
pub fn inputs_of(inputs: &Inputs) -> Vec<ArtifactName> {
    let paths = [&inputs.image, &inputs.end_image, &inputs.video];
    paths.into_iter().flatten().filter_map(|path| path.to_str()?.parse().ok()).collect()
}
