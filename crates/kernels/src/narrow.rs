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

/// `values` as bf16 in the order of bytes that files have, two of `to` for each.
pub(crate) fn to_bf16_bytes(values: &[f32], to: &mut [u8]) {
    assert_eq!(to.len(), 2 * values.len(), "to_bf16_bytes: sizes");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has the feature, as just found.
        return unsafe { to_bf16_bytes_avx2(values, to) };
    }
    to_bf16_bytes_plain(values, to);
}

/// The same body compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn to_bf16_bytes_avx2(values: &[f32], to: &mut [u8]) {
    to_bf16_bytes_plain(values, to);
}

#[inline(always)]
fn to_bf16_bytes_plain(values: &[f32], to: &mut [u8]) {
    for (to, value) in to.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *to = f32_to_bf16(*value).to_le_bytes();
    }
}

/// The upper half of a single. A NaN stays one though its lower half goes.
#[inline(always)]
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
