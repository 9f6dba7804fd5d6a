//! A film on a GPU, before it is begun.

use longreel_sampling::kept_rows;
use serde::Serialize;

use super::cache::step_cache_bytes;
use super::{FilmPlan, ModelFacts, causal};
use crate::device::{GpuFacts, Need};
use crate::error::PlanError;
use crate::estimate::tokens_per_frame;

/// A film on a GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GpuPlan {
    /// Its name.
    pub name: String,
    /// Bytes of its memory that are free.
    pub free_bytes: u64,
    /// Bytes that the film takes at least.
    pub least_bytes: u64,
    /// Bytes that everything but weights takes.
    pub activation_bytes: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Bytes of weights that stay there; the others are brought for each pass, or for each prompt. `None` when the
    /// film does not fit.
    pub weights_there: Option<u64>,
}

impl GpuPlan {
    /// Of a device that denoises, and of one that decodes where that is another one.
    pub(super) fn new(gpu: &GpuFacts, need: &Need, decoder: Option<Need>) -> Self {
        let decoder_fits = decoder.is_none_or(|need| need.shares(gpu.free_bytes).is_some());
        let shares = need.shares(gpu.free_bytes).filter(|_| decoder_fits);
        Self {
            name: gpu.name.clone(),
            free_bytes: gpu.free_bytes,
            least_bytes: need.least().max(decoder.map_or(0, |need| need.least())),
            activation_bytes: need.activations,
            weight_bytes: need.weights(),
            weights_there: shares.map(|shares| shares.resident as u64),
        }
    }
}

/// What each GPU that denoises needs.
pub(super) fn need(plan: &FilmPlan, model: &ModelFacts) -> Result<Need, PlanError> {
    let tokens = longest_tokens(plan, model)?;
    let kept = kept_bytes(plan, model, tokens)?;
    let size = [plan.request.height, plan.request.width];
    let batch = plan.batch(tokens);
    Ok(Need::of_rank(model, plan.sharing, batch, size, plan.strips, kept))
}

/// Tokens of the longest pass.
pub(super) fn longest_tokens(plan: &FilmPlan, model: &ModelFacts) -> Result<usize, PlanError> {
    let request = &plan.request;
    let mut frames = 0;
    for (segment, _) in plan.kinds_of_segments() {
        let rows = kept_rows(&plan.timetable(&segment)?, plan.keeping);
        frames = rows.iter().map(|row| row.run.len()).fold(frames, usize::max);
    }
    Ok(frames * tokens_per_frame(&model.transformer, request.height, request.width))
}

/// Bytes of what passes of up to `tokens` tokens leave for later ones, on all devices together.
fn kept_bytes(plan: &FilmPlan, model: &ModelFacts, tokens: usize) -> Result<u64, PlanError> {
    let keys = causal::summary(plan, model)?.map_or(0, |kept| kept.bytes);
    Ok(keys + step_cache_bytes(plan, model, tokens))
}
