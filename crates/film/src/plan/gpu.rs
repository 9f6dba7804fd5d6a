//! A film on a GPU, before it is begun.

use serde::Serialize;

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
    pub(super) fn new(gpu: &GpuFacts, need: &Need) -> Self {
        Self {
            name: gpu.name.clone(),
            free_bytes: gpu.free_bytes,
            least_bytes: need.least(),
            activation_bytes: need.activations,
            weight_bytes: need.weights,
            weights_there: need.shares(gpu.free_bytes).map(|shares| shares.resident as u64),
        }
    }
}
