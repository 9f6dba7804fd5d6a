//! The formats that weights can be converted to when they are loaded.

use longreel_kernels::{DType, Products};
use serde::{Deserialize, Serialize};

/// A format for the matrices of a network in memory. Norms, biases and tables are `f32` always, as are all
/// sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightDtype {
    /// 4 bytes a value; nothing is lost.
    F32,
    /// 2 bytes a value.
    F16,
    /// 2 bytes a value. A transformer's blocks multiply bf16 then, where the processor has that.
    Bf16,
    /// A byte a value and a factor a row (`e4m3`), for the matrices of the transformer's blocks, whose products
    /// are of 8-bit floats then; everything else stays as it is in the files.
    Fp8,
}

impl From<WeightDtype> for DType {
    fn from(dtype: WeightDtype) -> Self {
        match dtype {
            WeightDtype::F32 => Self::F32,
            WeightDtype::F16 => Self::F16,
            WeightDtype::Bf16 => Self::BF16,
            WeightDtype::Fp8 => Self::F8E4M3,
        }
    }
}

/// What the layers and the attention of a transformer's blocks multiply with weights of this format.
impl From<WeightDtype> for Products {
    fn from(dtype: WeightDtype) -> Self {
        match dtype {
            WeightDtype::F32 | WeightDtype::F16 => Self::F32,
            WeightDtype::Bf16 => Self::Bf16,
            WeightDtype::Fp8 => Self::Fp8,
        }
    }
}

impl std::fmt::Display for WeightDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        })
    }
}
