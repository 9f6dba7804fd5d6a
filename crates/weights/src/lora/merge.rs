//! Adding a change to a tensor.

use longreel_kernels::Weight;
use rayon::prelude::*;

use crate::container::{Format, StoredTensor};

/// A change with its weight, ready to be added. Its shape fits the tensor's.
#[derive(Debug, Clone)]
pub(crate) struct Delta(Kind);

#[derive(Debug, Clone)]
enum Kind {
    /// `factor * up * down` on rows of `columns` values.
    LowRank { down: StoredTensor, up: StoredTensor, columns: usize, factor: f32 },
    /// `factor * tensor`.
    Full { tensor: StoredTensor, factor: f32 },
}

impl Delta {
    pub fn low_rank(down: StoredTensor, up: StoredTensor, columns: usize, factor: f32) -> Self {
        Self(Kind::LowRank { down, up, columns, factor })
    }

    pub fn full(tensor: StoredTensor, factor: f32) -> Self {
        Self(Kind::Full { tensor, factor })
    }

    /// Adds itself to the flattened tensor.
    pub fn add_to(&self, target: &mut [f32]) {
        match &self.0 {
            Kind::Full { tensor, factor } => {
                for (t, d) in target.iter_mut().zip(values(tensor)) {
                    *t += factor * d;
                }
            }
            Kind::LowRank { down, up, columns, factor } => {
                let (down, up) = (values(down), values(up));
                let rank = down.len() / (*columns).max(1);
                let rows = target.par_chunks_mut((*columns).max(1));
                rows.zip(up.par_chunks(rank.max(1))).for_each(|(row, up)| {
                    // One value of `up` against a row of `down`: contiguous, so it is vectorised.
                    for (u, down) in up.iter().zip(down.chunks_exact(*columns)) {
                        let u = u * factor;
                        row.iter_mut().zip(down).for_each(|(t, d)| *t += u * d);
                    }
                });
            }
        }
    }
}

/// The values of a tensor. Opening a LoRA has refused formats that have none.
pub(super) fn values(tensor: &StoredTensor) -> Vec<f32> {
    match &tensor.format {
        Format::Known(dtype) => Weight::new(&tensor.shape, *dtype, tensor.bytes.to_bytes())
            .map(|weight| weight.to_f32())
            .unwrap_or_default(),
        Format::Other(_) => vec![],
    }
}
