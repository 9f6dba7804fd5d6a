//! A film made again with another prompt, and with whatever else is said anew.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use longreel_jobs::{Parent, Relation};
use serde_json::Value;

use super::super::asked::{self, File, Source, Taken};
use super::super::body::{self, Asked};
use super::super::problem::Problem;
use super::super::terms::Terms;
use super::super::videos;
use super::beginning::next_input;
use crate::access::Caller;
use crate::shared::Shared;

/// Of these keys one may be said, and it takes the place of the others.
const RIVALS: [&[&str]; 4] = [
    &["seconds", "num_frames"],
    &["size", "resolution"],
    &["teacache", "easycache"],
    &["image", "video"],
];

/// POST /v1/videos/{id}/remix
pub async fn remix(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let parent = shared.store.get(videos::job_id(&id)?).await?;
    let before = asked::resolved(&parent)?;
    let Asked { mut keys, uploads } =
        body::read(&shared, &headers, body, next_input(&before.request)).await?;
    let request = Value::Object(keys.clone());
    let terms = Terms::take(&shared, &caller, &mut keys).await?;
    if asked::prompt(&keys)?.is_none() {
        return Err(Problem::missing("prompt", "say what the new film shows"));
    }
    // Another model than the one before may be named.
    let films = match asked::named_model(&shared, &mut keys).await? {
        Some(films) => films,
        None => shared.models.served_of(&parent)?,
    };
    let mut merged = before.keys;
    // The other prompts belong to the old one.
    merged.remove("prompt_at");
    merged.insert("seed".into(), parent.asked.seed.into());
    for (key, value) in keys {
        let rivals = RIVALS.iter().find(|rivals| rivals.contains(&key.as_str()));
        rivals.into_iter().copied().flatten().for_each(|rival| drop(merged.remove(*rival)));
        merged.insert(key, value);
    }
    let (_, inputs) = body::split(&merged, None)?;
    let mut files = Vec::new();
    for name in asked::inputs_of(&inputs) {
        let uploaded = uploads.files().find(|(uploaded, _)| *uploaded == name);
        let source = uploaded.map_or(Source::Of(parent.id, name), |file| Source::Local(file.1));
        files.push(File { name, source });
    }
    // Those of the parent were looked at when they came.
    let all_new = files.iter().all(|file| matches!(file.source, Source::Local(_)));
    let folder = uploads.folder().filter(|_| all_new);
    let film = asked::planned(films, &merged, folder).await?;
    let warnings = film.warnings.clone();
    let taken = Taken {
        caller: &caller,
        terms,
        request,
        keys: merged,
        begins: None,
        warnings,
        headers: &headers,
    };
    let mut new = asked::new_job(&film, taken)?;
    new.parent = Some(Parent { job: parent.id, relation: Relation::Remix, segment: None });
    let created = asked::submit(&shared, new, files).await?;
    videos::created(&shared, created).await
}
