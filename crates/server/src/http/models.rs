//! The models of the service, in the shape of OpenAI's list and in that of the first API.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::problem::Problem;
use crate::films::ModelInfo;
use crate::shared::Shared;

/// GET /v1/models
pub async fn list(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({"object": "list", "data": [shown(shared.films.model())]}))
}

/// GET /v1/models/{id}
pub async fn retrieve(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let model = shared.films.model();
    if id == model.name {
        return Ok(Json(shown(model)));
    }
    let shown: String = id.chars().take(64).collect();
    let detail =
        format!("there is no model {shown:?}; this server makes films with {:?}", model.name);
    Err(Problem::not_found(detail))
}

/// GET /models/info
pub async fn info(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let model = shared.films.model();
    Json(json!({
        "model": model.name,
        "revision": model.revision,
        "kind": model.kind,
        "defaults": defaults(model),
    }))
}

fn shown(model: &ModelInfo) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        // Checkpoints do not say when they were made.
        "created": 0,
        "owned_by": "longreel",
        "revision": model.revision,
        "kind": model.kind,
        "defaults": defaults(model),
    })
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
