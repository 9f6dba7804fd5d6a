//! A network among a model's files.

use longreel_kernels::DType;

use crate::container::{Format, MappedFile};
use crate::dtype::WeightDtype;
use crate::names::{Component, Named};
use crate::quantize::choose::is_matrix;

/// One network of a model: its sizes and where its tensors lie.
#[derive(Debug, Clone)]
pub(crate) struct Part<C> {
    pub config: C,
    pub tensors: Vec<Named>,
    pub files: Vec<MappedFile>,
    pub label: String,
}

impl<C> Part<C> {
    /// Bytes of all tensors in the files.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.stored.bytes.len() as u64).sum()
    }

    /// Bytes of all tensors in the format that `dtype` makes of them, and of those of them that have to be
    /// converted for it.
    pub fn bytes_in(&self, dtype: WeightDtype) -> (u64, u64) {
        let wanted = DType::from(dtype);
        let bytes = |named: &Named| {
            let (values, stored) = (named.stored.values() as u64, named.stored.bytes.len() as u64);
            let kept = dtype == WeightDtype::Fp8 && !is_matrix(Component::Transformer, &named.name);
            if kept || named.stored.format == Format::Known(wanted) {
                return (stored, 0);
            }
            // With the factors of the rows.
            let rows = named.stored.shape.first().copied().unwrap_or(1) as u64;
            let factors = if dtype == WeightDtype::Fp8 { 4 * rows } else { 0 };
            let bytes = values * wanted.block_bytes() as u64 + factors;
            (bytes, bytes)
        };
        let sum = |(all, made): (u64, u64), (bytes, new): (u64, u64)| (all + bytes, made + new);
        self.tensors.iter().map(bytes).fold((0, 0), sum)
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|t| t.stored.values() as u64).sum()
    }
}
