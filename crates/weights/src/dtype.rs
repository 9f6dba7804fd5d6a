//! The formats that weights can be converted to when they are loaded.

use longreel_kernels::DType;
use serde::{Deserialize, Serialize};

/// A plain format for the matrices of a network in memory. Norms, biases and tables are `f32` always,
/// as are all sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightDtype {
    /// 4 bytes a value; nothing is lost.
    F32,
    /// 2 bytes a value.
    F16,
    /// 2 bytes a value.
    Bf16,
}

impl From<WeightDtype> for DType {
    fn from(dtype: WeightDtype) -> Self {
        match dtype {
            WeightDtype::F32 => Self::F32,
            WeightDtype::F16 => Self::F16,
            WeightDtype::Bf16 => Self::BF16,
        }
    }
}

impl std::fmt::Display for WeightDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}
