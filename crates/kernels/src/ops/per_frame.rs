//! Values that change from latent frame to latent frame.

use std::sync::Arc;

use crate::Tensor;
use crate::gpu::ops as body;
use crate::gpu::{Element, Gpu};
use crate::tensor::Held;

/// One row of values for each latent frame, or a single row for all: `values` is `[frames, dim]`.
/// Token `i` uses row `i / tokens_per_frame`, or row 0 when `frames` is 1.
#[derive(Debug, Clone, Copy)]
pub struct PerFrame<'a> {
    /// `[frames, dim]`.
    pub values: &'a Tensor,
    /// Tokens that share a row.
    pub tokens_per_frame: usize,
}

impl PerFrame<'_> {
    /// The row of token `token`.
    #[inline(always)]
    pub(crate) fn row(&self, token: usize) -> &[f32] {
        let dim = self.values.dim(1);
        let frame = if self.values.dim(0) == 1 { 0 } else { token / self.tokens_per_frame };
        &self.values.data()[frame * dim..(frame + 1) * dim]
    }

    /// The values on a GPU.
    pub(super) fn on(&self, gpu: &Arc<Gpu>) -> OnGpu<'_> {
        let values = self.values.array_as(gpu, Element::F32);
        OnGpu { values, tokens_per_frame: self.tokens_per_frame }
    }

    /// That the rows are as wide as the tokens, and enough.
    pub(crate) fn check(&self, operation: &str, tokens: usize, dim: usize) {
        let (frames, per_frame) = (self.values.dim(0), self.tokens_per_frame);
        assert!(
            self.values.dim(1) == dim && (frames == 1 || frames * per_frame >= tokens),
            "{operation}: {:?} values by {per_frame} tokens against {tokens} tokens of {dim}",
            self.values.shape()
        );
    }
}

/// [`PerFrame`] on a GPU.
pub(super) struct OnGpu<'a> {
    values: Held<'a>,
    tokens_per_frame: usize,
}

impl OnGpu<'_> {
    /// As the bodies of operations take it.
    pub fn body(&self) -> body::PerFrame<'_> {
        body::PerFrame { values: &self.values, tokens_per_frame: self.tokens_per_frame }
    }
}

/// Shift and scale after a norm: `norm(x) * (1 + scale) + shift`, by latent frame.
#[derive(Debug, Clone, Copy)]
pub struct Modulation<'a> {
    /// Added.
    pub shift: PerFrame<'a>,
    /// Multiplied, as `1 + scale`.
    pub scale: PerFrame<'a>,
}
