//! Values as 8-bit floats (`float8_e4m3fn`) with a factor for each row, the way in which products in 8 bits
//! have both of their sides. `gpu/ops/fp8.rs` makes the same of activations on a GPU.

use rayon::prelude::*;

use crate::gemm::Shared;
use crate::{DType, Weight, quantize};

/// The largest e4m3.
const LARGEST: f32 = 448.0;
/// A row whose values are all smaller has no inverse, and becomes zeros.
const NOTHING: f32 = 1e-30;

/// The factor of a row, and what its values are multiplied by to become codes.
fn factor(row: &[f32]) -> (f32, f32) {
    let largest = row.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    (largest / LARGEST, if largest > NOTHING { LARGEST / largest } else { 0.0 })
}

impl Weight {
    /// `values` as e4m3 to the nearest, with a factor for each row of the first axis that makes its largest
    /// value the largest e4m3. A NaN stays one.
    ///
    /// # Panics
    /// When there are not as many values as the shape has.
    pub fn e4m3(shape: &[usize], values: &[f32]) -> Self {
        let rows = shape.first().copied().unwrap_or(1);
        let row = values.len() / rows.max(1);
        let mut scaled = vec![0.0; values.len()];
        let factors: Vec<f32> = scaled
            .par_chunks_mut(row.max(1))
            .zip(values.par_chunks(row.max(1)))
            .map(|(to, from)| {
                let (factor, inverse) = factor(from);
                to.iter_mut().zip(from).for_each(|(to, v)| *to = v * inverse);
                factor
            })
            .collect();
        let codes = quantize(DType::F8E4M3, &scaled);
        let weight = Self::new(shape, DType::F8E4M3, codes.into());
        let weight = weight.expect("as many values as the shape has");
        if factors.is_empty() {
            return weight;
        }
        weight.scaled(&factors).expect("one for each row")
    }
}

/// What e4m3 with a factor for each row of `inputs` values leaves of them.
pub(crate) fn rounded_rows(x: &[f32], inputs: usize) -> Vec<f32> {
    let mut rounded = Vec::with_capacity(x.len());
    let to = Shared::new(rounded.as_mut_ptr());
    x.par_chunks(inputs.max(1)).enumerate().for_each(|(n, row)| {
        let (factor, inverse) = factor(row);
        for (i, v) in row.iter().enumerate() {
            // SAFETY: each value of the vector's room is written by one row.
            unsafe { to.at(n * inputs + i).write(nearest(v * inverse) * factor) };
        }
    });
    // SAFETY: all of them were written.
    unsafe { rounded.set_len(x.len()) };
    rounded
}

/// The nearest e4m3, ties to even; at most 448 in magnitude.
#[inline(always)]
fn nearest(value: f32) -> f32 {
    let magnitude = value.abs();
    // Below 2^-6 multiples of 2^-9, which is the last place of 2^14.
    let small = (magnitude + 16384.0) - 16384.0;
    // Above it three bits behind the first.
    let bits = magnitude.to_bits();
    let normal = f32::from_bits((bits + 0x7_ffff + ((bits >> 20) & 1)) & !0xf_ffff);
    let near = if magnitude < 0.015_625 { small } else { normal.min(LARGEST) };
    if value.is_nan() { value } else { near.copysign(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between all neighbours, on both sides of every middle, and far beyond both ends.
    #[test]
    fn the_nearest_is_what_the_format_would_hold() {
        let mut values = vec![0.0, -0.0, 1e-20, 447.9, 464.0, 464.1, 1e9, f32::INFINITY];
        for code in 0u8..0x7e {
            let pair = Weight::new(&[2], DType::F8E4M3, vec![code, code + 1].into());
            let pair = pair.expect("two").to_f32();
            let middle = pair[0].midpoint(pair[1]);
            values.extend([pair[0], middle.next_down(), middle, middle.next_up()]);
        }
        values.extend(values.clone().iter().map(|v| -v));
        let codes = quantize(DType::F8E4M3, &values);
        let held = Weight::new(&[values.len()], DType::F8E4M3, codes.into()).expect("a byte each");
        for (value, held) in values.iter().zip(held.to_f32()) {
            assert_eq!(nearest(*value).to_bits(), held.to_bits(), "{value}");
        }
        assert!(nearest(f32::NAN).is_nan());
    }

    #[test]
    fn a_weights_rows_have_factors_of_their_own_and_equal_what_is_left_of_activations() {
        let values: Vec<f32> = (0..96).map(|i| ((i * 37 % 64) as f32 - 31.0) * 0.7).collect();
        // A row a million times smaller, and one of zeros.
        let row = |n: usize, by: f32| values[n * 32..][..32].iter().map(move |v| v * by);
        let values: Vec<f32> = row(0, 1.0).chain(row(1, 1e-6)).chain(row(2, 0.0)).collect();
        let weight = Weight::e4m3(&[3, 32], &values);
        assert_eq!((weight.dtype(), weight.bytes().len()), (DType::F8E4M3, 96));
        assert_eq!(weight.to_f32(), rounded_rows(&values, 32));
        for (kept, value) in weight.to_f32().iter().zip(&values) {
            let largest = if value.abs() < 1e-3 { 31.0 * 0.7e-6 } else { 32.0 * 0.7 };
            let step = (value.abs() / 16.0).max(largest / 448.0 / 1024.0);
            assert!((kept - value).abs() <= step, "{kept} for {value}");
        }
        assert!(weight.to_f32()[64..].iter().all(|&v| v == 0.0));
        let nan = Weight::e4m3(&[1, 2], &[f32::NAN, 1.0]).to_f32();
        assert!(nan[0].is_nan() && nan[1] == 1.0, "{nan:?}");
    }
}
