//! What a film would take, with nothing queued.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use longreel_film::PlanSummary;
use serde_json::{Value, json};

use super::asked;
use super::body::{self, Asked};
use super::problem::Problem;
use super::terms::Terms;
use crate::access::Caller;
use crate::shared::Shared;

/// Stands for a prompt that is not written yet; what a film takes does not depend on it.
const ANY_PROMPT: &str = "any prompt";

/// POST /v1/plan
pub async fn plan(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let Asked { mut keys, uploads } = body::read(&shared, &headers, body, 0).await?;
    // They change nothing of the plan, and are refused here as they would be with the film.
    Terms::take(&shared, &caller, &mut keys).await?;
    let films = asked::model(&shared, &mut keys).await?;
    // Longer prompts take a language model's time, and change nothing of what the film takes.
    keys.remove("enhance_prompt");
    if keys.get("prompt").is_none_or(|prompt| prompt.as_str().is_some_and(|p| p.trim().is_empty()))
    {
        keys.insert("prompt".into(), ANY_PROMPT.into());
    }
    let known = films.schema();
    let film = asked::planned(films, &keys, uploads.folder()).await?;
    let mut shown = shown(&film.model.name, film.plan.summary(), &known);
    let frames = (0..film.plan.segments().unwrap_or(1))
        .map_while(|segment| film.plan.first_frame(segment))
        .take(LISTED_SEGMENTS);
    shown["first_frames"] = frames.collect();
    let request = film.plan.request();
    let [width, height] = request.film_size();
    shown["film_size"] = format!("{width}x{height}").into();
    shown["film_fps"] = request.film_fps().into();
    shown["warnings"] = film.warnings.into();
    shown["command"] = film.command.into();
    Ok(Json(shown))
}

/// Segments whose place is listed.
const LISTED_SEGMENTS: usize = 1_000;

/// `known` is the schema of what can be asked for: what only whoever starts the server can change is not offered.
fn shown(model: &str, summary: &PlanSummary, known: &Value) -> Value {
    let savings = summary.savings.iter().filter_map(|saving| {
        let (flag, value) = saving.option.split_once(' ').unwrap_or((&saving.option, "true"));
        let key = flag.trim_start_matches("--").replace('-', "_");
        known["properties"].get(&key)?;
        Some(json!({
            "key": key,
            "value": value,
            "what": saving.what,
            "expected_seconds": summary.expected_seconds * saving.time_share,
        }))
    });
    json!({
        "object": "plan",
        "model": model,
        "size": format!("{}x{}", summary.width, summary.height),
        "segments": summary.segments,
        "frames": summary.frames,
        "film_seconds": summary.film_seconds,
        "window_latents": summary.window_latents,
        "tokens": summary.tokens,
        "rows": summary.rows,
        "forwards": summary.forwards,
        "total_flops": summary.total_flops,
        "memory_bytes": summary.memory_bytes,
        "finish_bytes": summary.finish.as_ref().map_or(0, |finish| finish.added_bytes),
        "disk_bytes": summary.disk_bytes,
        "expected_seconds": summary.expected_seconds,
        "savings": savings.collect::<Vec<_>>(),
    })
}
