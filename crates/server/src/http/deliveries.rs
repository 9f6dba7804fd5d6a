//! What became of a film's webhook.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use longreel_jobs::DeliveryFilter;
use serde_json::{Value, json};

use super::problem::Problem;
use super::videos::job_id;
use crate::shared::Shared;

/// GET /v1/videos/{id}/webhooks
pub async fn list(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let job = job_id(&id)?;
    // A job that is not there is told apart from one without a webhook.
    shared.store.get(job).await?;
    let filter = DeliveryFilter { job: Some(job), ..DeliveryFilter::default() };
    let mut data = Vec::new();
    for delivery in shared.store.list_deliveries(filter).await? {
        let attempts = shared.store.delivery_log(delivery.id).await?;
        let attempts: Vec<Value> = attempts
            .into_iter()
            .map(|attempt| {
                json!({
                    "number": attempt.number,
                    "at_ms": attempt.at_ms,
                    "status": attempt.outcome.status,
                    "error": attempt.outcome.error,
                    "duration_ms": attempt.outcome.duration_ms,
                    "retry_after_ms": attempt.outcome.retry_after_ms,
                })
            })
            .collect();
        let is_owed = delivery.state == longreel_jobs::DeliveryState::Pending;
        data.push(json!({
            "id": delivery.id,
            "object": "webhook.delivery",
            "event": delivery.event,
            "url": delivery.url,
            "state": delivery.state,
            "created_ms": delivery.created_ms,
            "next_ms": is_owed.then_some(delivery.next_ms),
            "attempts": attempts,
        }));
    }
    Ok(Json(json!({"object": "list", "data": data})))
}
