//! The API of the first implementation, for clients of it: five endpoints, four states.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use longreel_jobs::ArtifactKind;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::{asked, body, videos, view};
use crate::access::Caller;
use crate::code::About;
use crate::shared::Shared;

/// Its names of sizes, and ours. 1080 is no multiple of 16.
const RESOLUTIONS: [(&str, usize, usize); 4] =
    [("480p", 848, 480), ("540p", 960, 544), ("720p", 1280, 720), ("1080p", 1920, 1088)];
/// Its names of parameters, and ours.
const NAMES: [(&str, &str); 2] = [("duration", "seconds"), ("num_inference_steps", "steps")];

/// POST /generate
pub async fn generate(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let mut wanted = body::read(&shared, &headers, body, 0).await?;
    let named = wanted.keys.get("model").and_then(Value::as_str);
    // One that is not there is refused with the rest.
    let films = named.and_then(|name| shared.models.get(name));
    let films = films.unwrap_or_else(|| shared.models.default());
    let defaults = &films.model().defaults;
    let warnings = translate(&mut wanted.keys, (defaults.width, defaults.height))?;
    let job = asked::create(&shared, &caller, wanted, warnings, &headers).await?.into_job();
    Ok(Json(view::task(&job)))
}

/// Puts its parameters into ours; what the client should know of it.
fn translate(wanted: &mut Map<String, Value>, own: (usize, usize)) -> Result<Vec<String>, Problem> {
    let mut warnings = Vec::new();
    for (theirs, ours) in NAMES {
        let Some(value) = wanted.remove(theirs) else { continue };
        if wanted.contains_key(ours) {
            let detail = format!("{theirs} and {ours} are the same parameter; keep one");
            return Err(Problem::invalid(detail).about(About::field(theirs)));
        }
        wanted.insert(ours.into(), value);
    }
    let Some(resolution) = wanted.remove("resolution").filter(|value| !value.is_null()) else {
        return Ok(warnings);
    };
    let named = resolution.as_str().map(str::to_ascii_lowercase);
    let named = RESOLUTIONS.iter().find(|row| named.as_deref() == Some(row.0));
    let Some((name, width, height)) = named else {
        let rule = "it can be 480p, 540p, 720p or 1080p";
        let refused = Problem::value("resolution", resolution, rule);
        return Err(refused.allowed(RESOLUTIONS.map(|row| row.0)));
    };
    if own.0.min(own.1) < RESOLUTIONS[0].2 {
        // A model that was never taught such sizes shows nothing of use at them.
        warnings.push(format!(
            "resolution {name} was not used: this model makes films of {}x{}",
            own.0, own.1
        ));
    } else {
        wanted.insert("size".into(), format!("{width}x{height}").into());
    }
    Ok(warnings)
}

/// GET /status/{task_id}
pub async fn status(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(view::task(&shared.store.get(videos::job_id(&id)?).await?)))
}

/// GET /download/{task_id}
pub async fn download(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = videos::job_id(&id)?;
    videos::film(shared, job, ArtifactKind::Film, &headers, Some(&format!("{job}.mp4"))).await
}

/// GET /health
pub async fn health(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let status = match &shared.slots {
        slots if !slots.is_ready() => "starting",
        slots if slots.wait_for_room() => "disk_full",
        _ => "healthy",
    };
    let films = shared.models.default();
    let model = films.model();
    Json(json!({
        "status": status,
        "model_loaded": shared.slots.is_ready(),
        "model": model.name,
        "version": model.program_version,
        "workers": shared.slots.get().into_iter().map(|slot| slot.state.as_str()).collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(asked: Value, own: (usize, usize)) -> (Value, Vec<String>) {
        let Value::Object(mut asked) = asked else { panic!("an object") };
        let warnings = translate(&mut asked, own).unwrap_or_else(|e| panic!("{e:?}"));
        (asked.into(), warnings)
    }

    #[test]
    fn its_parameters_become_ours() {
        let asked = json!({
            "prompt": "a dog", "resolution": "1080P", "duration": 2.5, "num_inference_steps": 20,
            "guidance_scale": 7.5, "fps": 24, "seed": 1,
        });
        let ours = json!({
            "prompt": "a dog", "size": "1920x1088", "seconds": 2.5, "steps": 20,
            "guidance_scale": 7.5, "fps": 24, "seed": 1,
        });
        assert_eq!(translated(asked, (960, 544)), (ours, Vec::new()));
    }

    #[test]
    fn a_small_model_keeps_its_size_and_says_so() {
        let (asked, warnings) = translated(json!({"resolution": "720p"}), (64, 64));
        assert_eq!(asked, json!({}));
        assert!(warnings[0].contains("720p") && warnings[0].contains("64x64"), "{warnings:?}");
    }

    #[test]
    fn what_it_never_knew_is_refused() {
        let mut asked = Map::from_iter([("resolution".to_owned(), json!("8k"))]);
        assert!(translate(&mut asked, (960, 544)).is_err());
        let mut asked =
            Map::from_iter([("duration".to_owned(), json!(2)), ("seconds".to_owned(), json!(3))]);
        assert!(translate(&mut asked, (960, 544)).is_err());
    }
}
