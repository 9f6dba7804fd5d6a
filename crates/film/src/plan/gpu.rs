//! A film on a GPU, before it is begun.

use serde::Serialize;

use super::{FilmPlan, ModelFacts};
use crate::device::{GpuFacts, Need};

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
    /// Bytes of weights that stay there, of which the others are brought for each pass; `None` when the
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
            weight_bytes: need.weights,
            weights_there: shares.map(|shares| shares.resident as u64),
        }
    }
}

/// What each GPU that denoises needs when the longest pass has so many tokens.
pub(super) fn need_of(plan: &FilmPlan, model: &ModelFacts, tokens: usize, kept: u64) -> Need {
    let size = [plan.request.height, plan.request.width];
    Need::of_rank(model, plan.sharing, plan.batch(tokens), size, plan.strips, kept)
}
