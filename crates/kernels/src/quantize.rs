//! `f32` to stored formats of fewer bits: the other direction of [`crate::dequantize`].
//!
//! `q8_0` and `q5_0` are rounded as ggml rounds them, to the bit. `q4_k` has many encodings of one block; the
//! one taken here is the nearest of a search, by the squared error, without weighting any value.

use rayon::prelude::*;

use crate::narrow::f32_to_f16;
use crate::{DType, dequantize};

/// Values that one task converts; a multiple of every block.
const TASK: usize = 1 << 16;

/// `values` in `dtype`, little-endian.
///
/// # Panics
/// When the values do not fill whole blocks, or `dtype` is none of `F8E4M3`, `Q8_0`, `Q5_0` and `Q4K`.
pub fn quantize(dtype: DType, values: &[f32]) -> Vec<u8> {
    let len = dtype.byte_len(values.len());
    let len =
        len.unwrap_or_else(|| panic!("quantize: {} values in {}", values.len(), dtype.name()));
    let mut bytes = vec![0; len];
    let task_bytes = TASK / dtype.block_len() * dtype.block_bytes();
    let tasks = bytes.par_chunks_mut(task_bytes).zip(values.par_chunks(TASK));
    tasks.for_each(|(bytes, values)| convert(dtype, values, bytes));
    bytes
}

fn convert(dtype: DType, values: &[f32], bytes: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has the features, as just found.
        unsafe { convert_avx2(dtype, values, bytes) };
        return;
    }
    convert_plainly(dtype, values, bytes);
}

/// The same body compiled for AVX2, with the same bits: Rust contracts nothing by itself.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn convert_avx2(dtype: DType, values: &[f32], bytes: &mut [u8]) {
    convert_plainly(dtype, values, bytes);
}

#[inline(always)]
fn convert_plainly(dtype: DType, values: &[f32], bytes: &mut [u8]) {
    match dtype {
        DType::F8E4M3 => {
            for (b, v) in bytes.iter_mut().zip(values) {
                *b = f32_to_f8_e4m3(*v);
            }
        }
        DType::Q8_0 => blocks::<34, 32>(bytes, values, q8_0),
        DType::Q5_0 => blocks::<22, 32>(bytes, values, q5_0),
        DType::Q4K => blocks::<144, 256>(bytes, values, q4_k),
        other => panic!("quantize: {} is read, not made", other.name()),
    }
}

#[inline(always)]
fn blocks<const BYTES: usize, const VALUES: usize>(
    bytes: &mut [u8],
    values: &[f32],
    f: impl Fn(&[f32; VALUES], &mut [u8; BYTES]),
) {
    let bytes = bytes.as_chunks_mut::<BYTES>().0;
    // A loop and not `for_each`: its closure would be compiled apart, without the caller's instructions.
    for (b, v) in bytes.iter_mut().zip(values.as_chunks::<VALUES>().0) {
        f(v, b);
    }
}

/// `float8_e4m3fn`, to the nearest, ties to even; what is too large becomes the largest, 448, as the format has
/// no infinity.
#[inline(always)]
fn f32_to_f8_e4m3(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    if value.is_nan() {
        return sign | 0x7f;
    }
    let magnitude = value.abs();
    let code = if magnitude < 2f32.powi(-6) {
        // Subnormal: multiples of 2^-9; the eighth of them is the first normal number.
        (magnitude * 512.0).round_ties_even() as u32
    } else {
        let bits = magnitude.to_bits();
        // The exponent's bias is 127 there and 7 here; a carry into the exponent is right.
        let rebiased = bits - (120 << 23);
        ((rebiased + 0x7_ffff + ((rebiased >> 20) & 1)) >> 20).min(0x7e)
    };
    sign | code as u8
}

fn put_half(block: &mut [u8], at: usize, value: f32) -> f32 {
    let bytes = f32_to_f16(value).to_le_bytes();
    block[at..at + 2].copy_from_slice(&bytes);
    let mut back = [0.0];
    dequantize(DType::F16, &bytes, &mut back);
    back[0]
}

#[inline(always)]
fn q8_0(values: &[f32; 32], block: &mut [u8; 34]) {
    let largest = values.iter().fold(0f32, |a, v| a.max(v.abs()));
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    put_half(block, 0, d);
    for (b, v) in block[2..].iter_mut().zip(values) {
        *b = (v * inverse).round() as i8 as u8;
    }
}

#[inline(always)]
fn q5_0(values: &[f32; 32], block: &mut [u8; 22]) {
    // The value with the largest magnitude becomes -16, the end with one step more.
    let largest = values.iter().fold(0f32, |a, v| if v.abs() > a.abs() { *v } else { a });
    let d = largest / -16.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    put_half(block, 0, d);
    let q = |v: f32| (v * inverse + 16.5).clamp(0.0, 31.0) as u32;
    let mut fifth = 0u32;
    for j in 0..16 {
        let (low, high) = (q(values[j]), q(values[j + 16]));
        block[6 + j] = (low & 15) as u8 | ((high & 15) << 4) as u8;
        fifth |= (low >> 4) << j | (high >> 4) << (j + 16);
    }
    block[2..6].copy_from_slice(&fifth.to_le_bytes());
}

/// Groups of one `q4_k` block.
const GROUPS: usize = 8;
/// Steps of a value within its group.
const STEPS: f32 = 15.0;

/// Eight groups of 32, each `scale * q - min` with q from 0 to 15; scales and mins in 6 bits of a half each.
#[inline(always)]
fn q4_k(values: &[f32; 256], block: &mut [u8; 144]) {
    let groups = values.as_chunks::<32>().0;
    let mut fits = [(0f32, 0f32); GROUPS];
    for (fit, group) in fits.iter_mut().zip(groups) {
        *fit = nearest(group);
    }
    let largest = |of: fn(&(f32, f32)) -> f32| fits.iter().map(of).fold(0f32, f32::max);
    let d = put_half(block, 0, largest(|fit| fit.0) / 63.0);
    let dmin = put_half(block, 2, largest(|fit| fit.1) / 63.0);
    let six_bits = |value: f32, unit: f32| match unit > 0.0 {
        true => (value / unit).round().clamp(0.0, 63.0) as u8,
        false => 0,
    };
    let mut codes = [(0u8, 0u8); GROUPS];
    for (code, (scale, min)) in codes.iter_mut().zip(fits) {
        *code = (six_bits(scale, d), six_bits(min, dmin));
    }
    pack_scales(&codes, &mut block[4..16]);
    let mut q = [0u8; 256];
    for ((q, group), (scale, min)) in q.as_chunks_mut::<32>().0.iter_mut().zip(groups).zip(codes) {
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (q, v) in q.iter_mut().zip(group) {
            *q = if scale > 0.0 { step(v + min, 1.0 / scale) as u8 } else { 0 };
        }
    }
    for (pair, q) in q.as_chunks::<64>().0.iter().enumerate() {
        for l in 0..32 {
            block[16 + 32 * pair + l] = q[l] | q[l + 32] << 4;
        }
    }
}

/// The nearest step, from 0 to 15. Adding and taking away 1.5 * 2^23 rounds to a whole number, ties to even,
/// on any processor in two additions.
#[inline(always)]
fn step(value: f32, inverse: f32) -> f32 {
    const WHOLE: f32 = 12_582_912.0;
    ((value * inverse).clamp(0.0, STEPS) + WHOLE) - WHOLE
}

/// Sums over a group, in eight lanes.
#[inline(always)]
fn sum(lanes: [f32; 8]) -> f64 {
    lanes.iter().map(|v| f64::from(*v)).sum()
}

/// Scale and min with which a group's values are nearest: for several widths of the steps the values are
/// rounded, then scale and min are the least squares for what they were rounded to.
#[inline(always)]
fn nearest(group: &[f32; 32]) -> (f32, f32) {
    let low = group.iter().fold(0f32, |a, v| a.min(*v));
    let high = group.iter().fold(f32::NEG_INFINITY, |a, v| a.max(*v));
    if high <= low {
        return (0.0, -low);
    }
    let lanes = group.as_chunks::<8>().0;
    let (mut v_lanes, mut vv_lanes) = ([0f32; 8], [0f32; 8]);
    for values in lanes {
        for (l, v) in values.iter().enumerate() {
            v_lanes[l] += v;
            vv_lanes[l] += v * v;
        }
    }
    let (v, vv, n) = (sum(v_lanes), sum(vv_lanes), group.len() as f64);
    let mut best = ((high - low) / STEPS, -low);
    let mut least = f64::INFINITY;
    for wider in 0..24 {
        // A few values may lie beyond the ends when the others get finer steps for it.
        let inverse = (STEPS + 0.15 * (wider as f32 - 6.0)) / (high - low);
        let (mut q_lanes, mut qq_lanes, mut qv_lanes) = ([0f32; 8], [0f32; 8], [0f32; 8]);
        for values in lanes {
            let mut q = [0f32; 8];
            for l in 0..8 {
                q[l] = step(values[l] - low, inverse);
            }
            for l in 0..8 {
                q_lanes[l] += q[l];
                qq_lanes[l] += q[l] * q[l];
                qv_lanes[l] += q[l] * values[l];
            }
        }
        let (q, qq, qv) = (sum(q_lanes), sum(qq_lanes), sum(qv_lanes));
        let determinant = n * qq - q * q;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (n * qv - q * v) / determinant;
        let mut min = (q * qv - qq * v) / determinant;
        if min < 0.0 {
            (scale, min) = (qv / qq, 0.0);
        }
        // The sum of (scale * q - min - v)^2.
        let error =
            scale * scale * qq + n * min * min + vv - 2.0 * scale * (min * q + qv) + 2.0 * min * v;
        if scale > 0.0 && error < least {
            (best, least) = ((scale as f32, min as f32), error);
        }
    }
    best
}

/// Eight 6-bit scales and mins in twelve bytes, as `dequantize` unpacks them.
fn pack_scales(codes: &[(u8, u8); GROUPS], packed: &mut [u8]) {
    for (j, (scale, min)) in codes.iter().enumerate() {
        if j < 4 {
            packed[j] |= scale;
            packed[j + 4] |= min;
        } else {
            packed[j + 4] = (scale & 15) | (min & 15) << 4;
            packed[j - 4] |= scale >> 4 << 6;
            packed[j] |= min >> 4 << 6;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values as weights have them, from a fixed sequence: sums of uniform ones, with a few outliers.
    fn weights(count: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..count)
            .map(|i| {
                let v = (0..6).map(|_| uniform()).sum::<f32>() * 0.03;
                if i % 997 == 0 { v * 8.0 } else { v }
            })
            .collect()
    }

    fn back(dtype: DType, values: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; values.len()];
        dequantize(dtype, &quantize(dtype, values), &mut out);
        out
    }

    fn relative_error(dtype: DType, values: &[f32]) -> f64 {
        let square = |v: f64| v * v;
        let off: f64 =
            back(dtype, values).iter().zip(values).map(|(a, b)| square(f64::from(a - b))).sum();
        (off / values.iter().map(|v| square(f64::from(*v))).sum::<f64>()).sqrt()
    }

    #[test]
    fn every_8_bit_float_comes_back_and_others_go_to_the_nearest() {
        for code in 0..=u8::MAX {
            let mut value = [0.0];
            dequantize(DType::F8E4M3, &[code], &mut value);
            if value[0].is_finite() {
                assert_eq!(f32_to_f8_e4m3(value[0]), code, "{code:#04x} is {}", value[0]);
            }
        }
        let positive: Vec<f32> =
            back(DType::F8E4M3, &(0..100_000).map(|i| i as f32 * 0.0047).collect::<Vec<_>>());
        let mut all: Vec<f32> = (0..0x7f_u8)
            .map(|code| {
                let mut value = [0.0];
                dequantize(DType::F8E4M3, &[code], &mut value);
                value[0]
            })
            .collect();
        all.sort_by(f32::total_cmp);
        for (i, found) in positive.iter().enumerate() {
            let value = i as f32 * 0.0047;
            let least = all.iter().map(|v| (v - value).abs()).fold(f32::INFINITY, f32::min);
            assert_eq!((found - value).abs(), least, "{value} became {found}");
        }
        assert_eq!(back(DType::F8E4M3, &[1e9, -1e9, 464.0]), [448.0, -448.0, 448.0]);
        assert!(back(DType::F8E4M3, &[f32::NAN])[0].is_nan());
    }

    #[test]
    fn errors_are_those_that_the_formats_are_known_for() {
        let values = weights(1 << 18);
        for (dtype, least, most) in [
            (DType::Q8_0, 0.003, 0.008),
            (DType::Q5_0, 0.03, 0.06),
            (DType::Q4K, 0.05, 0.08),
            (DType::F8E4M3, 0.02, 0.04),
        ] {
            // 8-bit floats are scaled to their range by whoever stores them.
            let scaled: Vec<f32> = values.iter().map(|v| v * 500.0).collect();
            let found = relative_error(dtype, &scaled);
            assert!((least..most).contains(&found), "{}: {found}", dtype.name());
        }
    }

    #[test]
    fn odd_blocks_stay_finite_and_zero_stays_zero() {
        for dtype in [DType::Q8_0, DType::Q5_0, DType::Q4K, DType::F8E4M3] {
            assert!(back(dtype, &[0.0; 256]).iter().all(|v| *v == 0.0), "{}", dtype.name());
            for value in [1.0, -1.0, 300.0, 1e-3] {
                let same = back(dtype, &[value; 256]);
                // An 8-bit float below 2^-6 has steps of 2^-9.
                let least = if dtype == DType::F8E4M3 { 0.001 } else { 0.0 };
                let near = |v: &f32| (v - value).abs() <= (0.04 * value.abs()).max(least);
                assert!(same.iter().all(near), "{} {value}: {}", dtype.name(), same[0]);
            }
            let mut one = [0.0; 256];
            one[17] = -2.0;
            let found = back(dtype, &one);
            assert!((found[17] + 2.0).abs() < 0.05, "{}: {}", dtype.name(), found[17]);
        }
    }

    #[test]
    fn what_tasks_share_out_is_what_one_would_do() {
        let values = weights(TASK * 2 + 256);
        for dtype in [DType::Q8_0, DType::Q4K] {
            let whole = quantize(dtype, &values);
            let parts: Vec<u8> =
                values.chunks(256).flat_map(|part| quantize(dtype, part)).collect();
            assert!(whole == parts, "{}", dtype.name());
        }
    }
}
