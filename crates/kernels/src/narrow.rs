//! Singles to 16-bit floats, to the nearest, ties to even.

use crate::{DType, Weight};

impl Weight {
    /// `values` stored in `dtype` when that is `F16` or `BF16`, and as they are in any other: blocks
    /// and 8-bit floats are read, not made.
    ///
    /// # Panics
    /// When there are not as many values as the shape has.
    pub fn narrowed(shape: &[usize], values: &[f32], dtype: DType) -> Self {
        let narrow = match dtype {
            DType::F16 => f32_to_f16,
            DType::BF16 => f32_to_bf16,
            _ => return Self::from_f32(shape, values),
        };
        let bytes: Vec<u8> = values.iter().flat_map(|&v| narrow(v).to_le_bytes()).collect();
        Self::new(shape, dtype, bytes.into()).expect("as many values as the shape has")
    }
}

/// The upper half of a single. A NaN stays one though its lower half goes.
pub(crate) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    // Just below half of the last place that stays, or half where that place is odd.
    let rounding = 0x7fff + ((bits >> 16) & 1);
    (bits.wrapping_add(rounding) >> 16) as u16
}

/// IEEE half. What is too small for its exponents becomes subnormal by an addition that the processor
/// rounds, what is too large infinite.
pub(crate) fn f32_to_f16(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16) as u16 & 0x8000;
    let bits = value.to_bits() & 0x7fff_ffff;
    let half = if value.is_nan() {
        0x7e00 | (bits >> 13) & 0x3ff
    } else if bits >= 0x4780_0000 {
        0x7c00
    } else if bits < 0x3880_0000 {
        // 0.5 has its last place at 2^-24, which is that of a subnormal half.
        (f32::from_bits(bits) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        // The exponent's bias is 127 there and 15 here. A carry into the exponent is right, up to
        // infinity.
        let rebiased = bits - (112 << 23);
        (rebiased + 0xfff + ((rebiased >> 13) & 1)) >> 13
    };
    sign | half as u16
}
