//! The models of the service, in the shape of OpenAI's list and in that of the first API.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::problem::Problem;
use crate::films::{Films, ModelInfo};
use crate::shared::{Shared, Slot};

/// GET /v1/models
pub async fn list(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Problem> {
    let mut data = Vec::new();
    for films in shared.models.all() {
        data.push(shown(&shared, films.clone()).await?);
    }
    Ok(Json(json!({"object": "list", "data": data})))
}

/// GET /v1/models/{id}
pub async fn retrieve(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    match shared.models.get(&id) {
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
    match chosen.map_err(|e| Problem::internal(&e))? {
        Ok(true) => {
            tracing::info!(model = id, "is the default now");
            // Idle workers change over.
            shared.wake();
            retrieve(State(shared), Path(id)).await
        }
        Ok(false) => Err(Problem::not_found(shared.models.unknown(&id))),
        Err(error) => Err(Problem::of_file(&error)),
    }
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
    let memory = tokio::task::spawn_blocking(move || films.memory()).await;
    let memory = memory.map_err(|e| Problem::internal(&e))?;
    let is_loaded = |slot: &&Slot| slot.is_ready() && slot.model.as_deref() == Some(&*model.name);
    let fits = memory.needed.zip(memory.available).map(|(needed, available)| needed <= available);
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
        "memory": {"bytes": memory.needed, "available_bytes": memory.available, "fits": fits},
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
        "shift": defaults.flow_shift,
        "negative_prompt": defaults.negative_prompt,
    })
}
