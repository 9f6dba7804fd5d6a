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
        sum_in(
            dtype,
            self.tensors.iter().map(|named| InFile {
                name: &named.name,
                shape: &named.stored.shape,
                format: &named.stored.format,
                bytes: named.stored.bytes.len() as u64,
            }),
        )
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|t| t.stored.values() as u64).sum()
    }
}

/// A tensor as a file has it.
pub(crate) struct InFile<'a> {
    /// Canonical.
    pub name: &'a str,
    pub shape: &'a [usize],
    pub format: &'a Format,
    pub bytes: u64,
}

/// Bytes of tensors in the format that `dtype` makes of them, and of those of them that have to be converted for it.
pub(crate) fn sum_in<'a>(
    dtype: WeightDtype,
    tensors: impl Iterator<Item = InFile<'a>>,
) -> (u64, u64) {
    let wanted = DType::from(dtype);
    let bytes = |tensor: InFile<'_>| {
        let kept = dtype == WeightDtype::Fp8 && !is_matrix(Component::Transformer, tensor.name);
        if kept || *tensor.format == Format::Known(wanted) {
            return (tensor.bytes, 0);
        }
        let values: u64 = tensor.shape.iter().map(|&n| n as u64).product();
        // With the factors of the rows.
        let rows = tensor.shape.first().copied().unwrap_or(1) as u64;
        let factors = if dtype == WeightDtype::Fp8 { 4 * rows } else { 0 };
        let bytes = values * wanted.block_bytes() as u64 + factors;
        (bytes, bytes)
    };
    let sum = |(all, made): (u64, u64), (bytes, new): (u64, u64)| (all + bytes, made + new);
    tensors.map(bytes).fold((0, 0), sum)
}
