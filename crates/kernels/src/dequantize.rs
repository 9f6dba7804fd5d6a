//! Conversion of stored weights to `f32`, exact to the last bit.
//!
//! Plain formats are widened by shifting their bits into place and scaling by a power of two, which
//! has no branches and so vectorises. Block formats follow ggml (`ggml-quants.c`,
//! `dequantize_row_*`) in the order of their operations, so the values agree bit by bit.

use crate::DType;

/// Converts the little-endian bytes of whole blocks to `f32`.
///
/// `bytes.len()` must be exactly `dtype.byte_len(out.len())`. Any bytes are valid: those that stand
/// for no number become NaN.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(dtype.byte_len(out.len()), Some(bytes.len()), "dequantize: {dtype:?} sizes");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has the features, as just found.
        unsafe { convert_avx2(dtype, bytes, out) };
        return;
    }
    convert(dtype, bytes, out);
}

/// The same body compiled for AVX2. Rust never contracts `a * b - c` into a fused operation by
/// itself, so the bits are those of the plain build.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn convert_avx2(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    convert(dtype, bytes, out);
}

#[inline(always)]
fn convert(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => each::<4>(bytes, out, f32::from_le_bytes),
        DType::F16 => each::<2>(bytes, out, |b| f16_to_f32(u16::from_le_bytes(b))),
        DType::BF16 => {
            each::<2>(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
        }
        DType::F8E4M3 => each::<1>(bytes, out, |[b]| f8_e4m3_to_f32(b)),
        DType::F8E5M2 => each::<1>(bytes, out, |[b]| f16_to_f32(u16::from(b) << 8)),
        DType::Q8_0 => blocks::<34, 32>(bytes, out, q8_0),
        DType::Q5_0 => blocks::<22, 32>(bytes, out, q5_0),
        DType::Q4_0 => blocks::<18, 32>(bytes, out, q4_0),
        DType::Q6K => blocks::<210, 256>(bytes, out, q6_k),
        DType::Q5K => blocks::<176, 256>(bytes, out, q5_k),
        DType::Q4K => blocks::<144, 256>(bytes, out, q4_k),
    }
}

#[inline(always)]
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], f: impl Fn([u8; N]) -> f32) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *o = f(*b);
    }
}

#[inline(always)]
fn blocks<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    f: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    for (b, o) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<VALUES>().0) {
        f(b, o);
    }
}

/// IEEE half to single. The magnitude's bits, moved to single's places, read as a number 2^112 too
/// small, subnormals included; infinities and NaN then get the full exponent back.
#[inline(always)]
fn f16_to_f32(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff);
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
    let special = if magnitude >= 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | (u32::from(half & 0x8000) << 16))
}

/// `float8_e4m3fn` to single by the same way; its only special value is NaN at all ones.
#[inline(always)]
fn f8_e4m3_to_f32(byte: u8) -> f32 {
    let magnitude = u32::from(byte & 0x7f);
    let scaled = f32::from_bits(magnitude << 20) * f32::from_bits((127 + 120) << 23);
    let special = if magnitude == 0x7f { 0x7fc0_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | (u32::from(byte & 0x80) << 24))
}

#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// A scale, then 32 signed bytes.
#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (o, q) in out.iter_mut().zip(&block[2..]) {
        *o = f32::from(*q as i8) * d;
    }
}

/// A scale, 32 fifth bits, then nibbles: the low ones are the first half.
#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for j in 0..16 {
        let q = block[6 + j];
        let low = i32::from(q & 15) | ((high >> j << 4) & 16) as i32;
        let upper = i32::from(q >> 4) | ((high >> (j + 12)) & 16) as i32;
        out[j] = (low - 16) as f32 * d;
        out[j + 16] = (upper - 16) as f32 * d;
    }
}

/// A scale, then nibbles: the low ones are the first half.
#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for j in 0..16 {
        let q = block[2 + j];
        out[j] = (i32::from(q & 15) - 8) as f32 * d;
        out[j + 16] = (i32::from(q >> 4) - 8) as f32 * d;
    }
}

/// The 6-bit scale and minimum of group `j` (0 to 7) among the twelve packed bytes.
#[inline(always)]
fn scale_min_k4(j: usize, packed: &[u8]) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (
            (packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4),
            (packed[j + 4] >> 4) | (packed[j] >> 6 << 4),
        )
    };
    (f32::from(scale), f32::from(min))
}

/// Eight groups of 32 with a 6-bit scale and minimum each.
#[inline(always)]
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (packed, nibbles) = (&block[4..16], &block[16..]);
    for (pair, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let qs = &nibbles[pair * 32..][..32];
        let (low, high) = (scale_min_k4(2 * pair, packed), scale_min_k4(2 * pair + 1, packed));
        let (d1, m1) = (d * low.0, dmin * low.1);
        let (d2, m2) = (d * high.0, dmin * high.1);
        for l in 0..32 {
            out[l] = d1 * f32::from(qs[l] & 15) - m1;
            out[l + 32] = d2 * f32::from(qs[l] >> 4) - m2;
        }
    }
}

/// Q4_K with a fifth bit for each value.
#[inline(always)]
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (packed, fifth, nibbles) = (&block[4..16], &block[16..48], &block[48..]);
    for (pair, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let qs = &nibbles[pair * 32..][..32];
        let (low, high) = (scale_min_k4(2 * pair, packed), scale_min_k4(2 * pair + 1, packed));
        let (d1, m1) = (d * low.0, dmin * low.1);
        let (d2, m2) = (d * high.0, dmin * high.1);
        for l in 0..32 {
            let (bit1, bit2) = ((fifth[l] >> (2 * pair)) & 1, (fifth[l] >> (2 * pair + 1)) & 1);
            out[l] = d1 * f32::from((qs[l] & 15) + 16 * bit1) - m1;
            out[l + 32] = d2 * f32::from((qs[l] >> 4) + 16 * bit2) - m2;
        }
    }
}

/// Sixteen groups of 16 with a signed 8-bit scale each; four low bits and two high bits a value.
#[inline(always)]
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let low = &block[half * 64..][..64];
        let high = &block[128 + half * 32..][..32];
        let scales = &block[192 + half * 8..][..8];
        let scale = |i: usize| d * f32::from(scales[i] as i8);
        for l in 0..32 {
            let group = l / 16;
            let q =
                |bits: u8, shift: u32| f32::from((bits | ((high[l] >> shift) & 3) << 4) as i8 - 32);
            out[l] = scale(group) * q(low[l] & 15, 0);
            out[l + 32] = scale(group + 2) * q(low[l + 32] & 15, 2);
            out[l + 64] = scale(group + 4) * q(low[l] >> 4, 4);
            out[l + 96] = scale(group + 6) * q(low[l + 32] >> 4, 6);
        }
    }
}
