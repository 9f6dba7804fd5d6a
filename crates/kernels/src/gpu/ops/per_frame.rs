//! Values that change from latent frame to latent frame.

use super::int;
use crate::gpu::{Arg, Array, Element};

/// [`crate::PerFrame`] for arrays: token `i` uses row `i / tokens_per_frame`, or row 0 when there is one
/// row.
#[derive(Debug, Clone, Copy)]
pub struct PerFrame<'a> {
    /// `[frames, dim]`, `f32`.
    pub values: &'a Array,
    /// Tokens that share a row.
    pub tokens_per_frame: usize,
}

impl PerFrame<'_> {
    /// Panics unless there are whole rows of `f32`, and enough.
    pub(super) fn check(&self, operation: &str, tokens: usize, dim: usize) {
        let (len, per_frame) = (self.values.len(), self.tokens_per_frame);
        let enough = len == dim || len * per_frame >= tokens * dim;
        assert!(
            self.values.element() == Element::F32 && len.is_multiple_of(dim.max(1)) && enough,
            "{operation}: {len} values by {per_frame} tokens against {tokens} tokens of {dim}"
        );
    }

    /// How many tokens share a row as an argument, 0 when all do.
    pub(super) fn tokens(&self, dim: usize) -> Arg {
        if self.values.len() == dim { Arg::Int(0) } else { int(self.tokens_per_frame) }
    }
}
