//! The models of the service, in the shape of OpenAI's list and in that of the first API.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use longreel_jobs::Scope;
use serde_json::{Value, json};

use super::problem::Problem;
use crate::access::Caller;
use crate::code::{About, Code};
use crate::films::{Films, Listed, Memory, ModelInfo};
use crate::models::{NotServed, NotStopped};
use crate::shared::{Shared, Slot};
use crate::upkeep;

/// GET /v1/models: those that requests can name, as other APIs list them, and beside them those that
/// could be served and those that could be fetched.
pub async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
) -> Result<Json<Value>, Problem> {
    let mut data = Vec::new();
    for films in shared.models.all() {
        data.push(shown(&shared, films).await?);
    }
    let names = shared.models.making_names();
    let (installed, available): (Vec<_>, Vec<_>) = catalogue(&shared)
        .await?
        .into_iter()
        .filter(|listed| !names.contains(&listed.name))
        .partition(|listed| listed.is_installed);
    let list = |of: Vec<Listed>| of.iter().map(listed).collect::<Vec<_>>();
    let mut beside = Vec::new();
    for films in shared.models.leaving() {
        beside.push(shown(&shared, films).await?);
    }
    beside.extend(list(installed));
    Ok(Json(json!({
        "object": "list",
        "data": data,
        "installed": beside,
        "available": list(available),
        "can_serve": may_serve(&shared, &caller),
        "can_stop": caller.allows(Scope::Admin),
    })))
}

/// GET /v1/models/{id}
pub async fn retrieve(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    if let Some(films) = shared.models.making(&id) {
        return Ok(Json(shown(&shared, films).await?));
    }
    match catalogue(&shared).await?.iter().find(|listed| listed.name == id) {
        Some(found) => Ok(Json(listed(found))),
        None => Err(Problem::not_found(shared.models.unknown(&id))),
    }
}

/// POST /v1/models/{id}/serve
pub async fn serve(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    // Which models a machine is to load is its operator's to say.
    if !may_serve(&shared, &caller) {
        let detail = "this key may not do that: it lacks the scope admin, and this server was not started \
                      with --serve-installed; use another key";
        return Err(Problem::new(StatusCode::FORBIDDEN, Code::ScopeMissing, detail)
            .about(About::field("scope"))
            .allowed(["admin"]));
    }
    match serve_named(&shared, &id).await? {
        Some(films) => Ok(Json(shown(&shared, films).await?)),
        None => Err(Problem::not_found(shared.models.unknown(&id))),
    }
}

/// POST /v1/models/{id}/use
pub async fn choose(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (asked, name) = (shared.clone(), id.clone());
    let chosen = tokio::task::spawn_blocking(move || asked.models.choose(&name)).await;
    if found(chosen.map_err(|e| Problem::internal(&e))?)?.is_none() {
        return Err(Problem::not_found(shared.models.unknown(&id)));
    }
    tracing::info!(model = id, "is the default now");
    // Idle workers change over.
    shared.wake();
    retrieve(State(shared), Path(id)).await
}

/// DELETE /v1/models/{id}/serve
pub async fn stop(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let (asked, name) = (shared.clone(), id.clone());
    let stopped = tokio::task::spawn_blocking(move || asked.models.stop(&name)).await;
    let films = match stopped.map_err(|e| Problem::internal(&e))? {
        Ok(films) => films,
        Err(NotStopped::Unknown) => {
            return Err(Problem::not_found(shared.models.unknown(&id)));
        }
        Err(NotStopped::IsDefault) => {
            let detail = format!(
                "the model {id:?} makes what names no model; make another one the default first \
                 (POST /v1/models/NAME/use)"
            );
            return Err(Problem::new(StatusCode::CONFLICT, Code::ModelIsDefault, detail)
                .about(About::value("model", &id)));
        }
        Err(NotStopped::File(error)) => return Err(Problem::of_file(&error)),
    };
    tracing::info!(model = id, "makes what it was asked for and nothing more");
    upkeep::let_models_go(&shared).await;
    // As it is now: one that is gone may be among those that could be served, or nowhere.
    let mut shown = shown(&shared, films).await?;
    if shared.models.making(&id).is_none() {
        shown["state"] = "stopped".into();
    }
    Ok(Json(shown))
}

/// Has the installed model of that name served; `None` when there is none.
///
/// # Errors
/// When it cannot be used.
pub async fn serve_named(
    shared: &Arc<Shared>,
    name: &str,
) -> Result<Option<Arc<dyn Films>>, Problem> {
    let (asked, name) = (shared.clone(), name.to_owned());
    let served = tokio::task::spawn_blocking(move || asked.models.serve(&name)).await;
    let served = found(served.map_err(|e| Problem::internal(&e))?)?;
    if let Some(films) = &served {
        tracing::info!(model = films.model().name, "is served");
    }
    Ok(served)
}

fn found<T>(served: Result<T, NotServed>) -> Result<Option<T>, Problem> {
    match served {
        Ok(served) => Ok(Some(served)),
        Err(NotServed::Unknown) => Ok(None),
        Err(NotServed::Unusable(why)) => {
            Err(Problem::new(StatusCode::CONFLICT, Code::ModelUnusable, why))
        }
        Err(NotServed::File(error)) => Err(Problem::of_file(&error)),
    }
}

fn may_serve(shared: &Shared, caller: &Caller) -> bool {
    shared.models.anybody_may_serve || caller.allows(Scope::Admin)
}

async fn catalogue(shared: &Shared) -> Result<Vec<Listed>, Problem> {
    let catalogue = shared.models.catalogue();
    let listed = tokio::task::spawn_blocking(move || catalogue.list()).await;
    listed.map_err(|e| Problem::internal(&e))
}

fn listed(listed: &Listed) -> Value {
    let mut shown = json!({
        "id": listed.name,
        "object": "model",
        "created": 0,
        "owned_by": "longreel",
        "state": if listed.is_installed { "installed" } else { "available" },
        "kind": listed.kind,
        "memory": memory(listed.memory),
    });
    for (key, value) in
        [("revision", &listed.revision), ("problem", &listed.problem), ("pull", &listed.pull)]
    {
        if let Some(value) = value {
            shown[key] = value.as_str().into();
        }
    }
    shown
}

fn memory(memory: Memory) -> Value {
    json!({
        "bytes": memory.needed,
        "available_bytes": memory.available,
        "fits": memory.fits(),
        "on_gpu": memory.on_gpu,
    })
}

/// GET /models/info
pub async fn info(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let films = shared.models.default();
    let model = films.model();
    Json(json!({
        "model": model.name,
        "revision": model.revision,
        "kind": model.kind,
        "defaults": defaults(model),
    }))
}

async fn shown(shared: &Shared, films: Arc<dyn Films>) -> Result<Value, Problem> {
    let (model, offers) = (films.model().clone(), films.offers());
    let needed = tokio::task::spawn_blocking(move || films.memory()).await;
    let needed = needed.map_err(|e| Problem::internal(&e))?;
    let is_loaded = |slot: &&Slot| slot.is_ready() && slot.model.as_deref() == Some(&*model.name);
    Ok(json!({
        "id": model.name,
        "object": "model",
        // Checkpoints do not say when they were made.
        "created": 0,
        "owned_by": "longreel",
        "revision": model.revision,
        "kind": model.kind,
        "defaults": defaults(&model),
        "is_default": shared.models.default().model().name == model.name,
        "workers": shared.slots.get().iter().filter(is_loaded).count(),
        "enhance_prompt": offers.enhances_prompts,
        "upscaler": offers.upscaler,
        "state": if shared.models.get(&model.name).is_some() { "served" } else { "leaving" },
        "memory": memory(needed),
    }))
}

fn defaults(model: &ModelInfo) -> Value {
    let defaults = &model.defaults;
    json!({
        "size": format!("{}x{}", defaults.width, defaults.height),
        "num_frames": defaults.num_frames,
        "base_num_frames": defaults.base_num_frames,
        "overlap_history": defaults.overlap_history,
        "fps": defaults.fps,
        "steps": defaults.steps,
        "guidance_scale": defaults.guidance_scale,
        "guidance_interval": defaults.guidance_interval,
        "shift": defaults.flow_shift,
        "negative_prompt": defaults.negative_prompt,
    })
}
