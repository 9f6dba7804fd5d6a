//! The number formats a checkpoint may store.

/// A storage format of weights. Block formats are GGUF's (ggml-common.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 8-bit float, 4 exponent bits, no infinity (`float8_e4m3fn`).
    F8E4M3,
    /// 8-bit float, 5 exponent bits (`float8_e5m2`).
    F8E5M2,
    /// GGUF Q8_0: 32 values, one f16 scale.
    Q8_0,
    /// GGUF Q5_0: 32 values, one f16 scale.
    Q5_0,
    /// GGUF Q4_0: 32 values, one f16 scale.
    Q4_0,
    /// GGUF Q6_K: 256 values.
    Q6K,
    /// GGUF Q5_K: 256 values.
    Q5K,
    /// GGUF Q4_K: 256 values.
    Q4K,
}

impl DType {
    /// Values in one block; 1 for plain formats.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::Q8_0 | Self::Q5_0 | Self::Q4_0 => 32,
            Self::Q6K | Self::Q5K | Self::Q4K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::Q8_0 => 34,
            Self::Q5_0 => 22,
            Self::Q4_0 => 18,
            Self::Q6K => 210,
            Self::Q5K => 176,
            Self::Q4K => 144,
        }
    }

    /// Bytes for `values` values, or `None` when they do not fill whole blocks or overflow.
    pub fn byte_len(self, values: usize) -> Option<usize> {
        let block = self.block_len();
        values.is_multiple_of(block).then(|| (values / block).checked_mul(self.block_bytes()))?
    }

    /// The name shown to people, as the field writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F8E4M3 => "f8_e4m3",
            Self::F8E5M2 => "f8_e5m2",
            Self::Q8_0 => "q8_0",
            Self::Q5_0 => "q5_0",
            Self::Q4_0 => "q4_0",
            Self::Q6K => "q6_k",
            Self::Q5K => "q5_k",
            Self::Q4K => "q4_k",
        }
    }
}
