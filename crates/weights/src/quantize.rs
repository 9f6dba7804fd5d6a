//! A model written again in fewer bits.
//!
//! The matrices of the blocks are quantised; norms, biases, modulation tables, embeddings, the first and the
//! last layer stay as they are in the source, bit by bit where the target's container has their format. One
//! tensor is in memory at a time: sizes are known from shapes, so the header is written first.

pub(crate) mod choose;
mod folder;
mod gguf;
mod safetensors;
mod write;

use std::fmt;
use std::path::Path;

use longreel_kernels::DType;
use serde::Serialize;

use crate::WeightsError;
use crate::names::Component;

/// What the matrices become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// 8 bits and a half for each 32 values, in GGUF.
    Q8_0,
    /// 4 bits with scales and mins for each 32 values, in GGUF; `q5_0` where rows are no multiple of 256.
    Q4K,
    /// 8-bit floats (`e4m3`) with one scale for each matrix, in safetensors, as ComfyUI scales them.
    Fp8,
}

impl Target {
    /// The ending of a file of it.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Q8_0 | Self::Q4K => "gguf",
            Self::Fp8 => "safetensors",
        }
    }

    /// What a matrix may become, the first that its rows fit.
    fn formats(self) -> &'static [DType] {
        match self {
            Self::Q8_0 => &[DType::Q8_0],
            // As llama.cpp does where a row is no whole number of blocks.
            Self::Q4K => &[DType::Q4K, DType::Q5_0],
            Self::Fp8 => &[DType::F8E4M3],
        }
    }

    /// The format of a matrix whose rows have `row` values; `None` keeps it.
    fn format(self, row: usize) -> Option<DType> {
        let mut formats = self.formats().iter().copied();
        formats.find(|format| row > 0 && row.is_multiple_of(format.block_len()))
    }

    /// Values of the shortest row that can be written.
    fn shortest_row(self) -> usize {
        self.formats().iter().map(|format| format.block_len()).min().unwrap_or(1)
    }
}

impl fmt::Display for Target {
    /// As `--to` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
            Self::Fp8 => "fp8",
        })
    }
}

/// Which networks are quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantizedPart {
    /// The transformer.
    Transformer,
    /// The text encoder.
    TextEncoder,
}

impl QuantizedPart {
    fn component(self) -> Component {
        match self {
            Self::Transformer => Component::Transformer,
            Self::TextEncoder => Component::TextEncoder,
        }
    }
}

/// What became of one tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuantizedTensor {
    /// `transformer` or `text encoder`.
    pub part: &'static str,
    /// Its canonical name.
    pub name: String,
    /// The format in the source.
    pub from: &'static str,
    /// The format that is written.
    pub to: &'static str,
    /// Its values.
    pub values: u64,
    /// The root of the squared differences over that of the squares; 0 where it is kept.
    pub relative_l2: f64,
}

/// All tensors together.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Quantized {
    /// Tensors that were quantised.
    pub quantized: usize,
    /// Tensors that were kept.
    pub kept: usize,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Bytes of what was written.
    pub bytes: u64,
    /// As of one tensor, over all values of the quantised ones.
    pub relative_l2: f64,
}

/// Writes the model at `source` again with the matrices of `parts` in `target`: into a folder, which is a
/// whole model then (what is not quantised is linked or copied), or, when `out` ends as a file of the target
/// does, into a file with the transformer alone. `told` hears of each tensor.
///
/// # Errors
/// When the source is incomplete, holds values that are no numbers, or `out` is there or cannot be written.
pub fn quantize_model(
    source: &Path,
    target: Target,
    parts: &[QuantizedPart],
    out: &Path,
    told: &mut dyn FnMut(&QuantizedTensor),
) -> Result<Quantized, WeightsError> {
    let plan = folder::plan(source, target, parts, out)?;
    folder::write(plan, told)
}

/// Bytes that [`quantize_model`] would write, for a look at the disk before.
///
/// # Errors
/// As [`quantize_model`].
pub fn quantized_bytes(
    source: &Path,
    target: Target,
    parts: &[QuantizedPart],
    out: &Path,
) -> Result<u64, WeightsError> {
    folder::plan(source, target, parts, out).map(|plan| plan.bytes())
}
