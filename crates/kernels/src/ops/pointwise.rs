//! Value by value.

use crate::spans::{self, narrow_bytes};
use std::ops::Range;

use rayon::prelude::*;

use super::PerFrame;
use super::per_frame::OnGpu;
use crate::Tensor;
use crate::gpu::{Element, GpuError, ops as body};
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Values of one task: enough work to be worth handing to a thread.
pub(super) const PIECE: usize = 1 << 14;

/// Calls `body(offset, piece)` on pieces of `x`, in parallel when there are several.
pub(super) fn for_each_piece(x: &mut [f32], body: impl Fn(usize, &mut [f32]) + Sync) {
    if x.len() <= PIECE {
        body(0, x);
    } else {
        x.par_chunks_mut(PIECE).enumerate().for_each(|(i, piece)| body(i * PIECE, piece));
    }
}

/// Calls `body(first_row, rows)` on groups of whole rows of `dim` values, in parallel when there are
/// several groups.
pub(super) fn for_each_rows(x: &mut [f32], dim: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = (PIECE / dim.max(1)).max(1);
    if x.len() <= rows * dim {
        if !x.is_empty() {
            body(0, x);
        }
    } else {
        x.par_chunks_mut(rows * dim).enumerate().for_each(|(i, piece)| body(i * rows, piece));
    }
}

/// Calls `body(rows)` on groups of rows of `dim` values, in parallel when there are several groups.
pub(super) fn for_row_groups(rows: usize, dim: usize, body: impl Fn(Range<usize>) + Sync) {
    let group = (PIECE / dim.max(1)).max(1);
    if rows <= group {
        body(0..rows);
    } else {
        (0..rows.div_ceil(group))
            .into_par_iter()
            .for_each(|i| body(i * group..((i + 1) * group).min(rows)));
    }
}

/// `x += gate * y`, the gate by latent frame (1 without one). Both `[rows, dim]`.
pub fn gate_residual(x: &mut Tensor, y: &Tensor, gate: Option<PerFrame<'_>>) {
    let _span = spans::begin("pointwise", || (0.0, 2 * x.bytes() + y.bytes()));
    assert_eq!(x.shape(), y.shape(), "gate_residual: shapes");
    let dim = *x.shape().last().expect("gate_residual: a tensor without axes");
    if let Some(gate) = &gate {
        gate.check("gate_residual", x.len() / dim.max(1), dim);
    }
    if let Some(array) = x.array_mut() {
        let gpu = array.gpu().clone();
        let gate = gate.as_ref().map(|gate| gate.on(&gpu));
        body::gate_residual(array, &y.array_on(&gpu), dim, gate.as_ref().map(OnGpu::body));
        return spans::settle(&gpu);
    }
    let isa = Isa::current();
    for_each_rows(x.data_mut(), dim, |first, rows| {
        for (i, row) in rows.chunks_exact_mut(dim).enumerate() {
            let y = &y.data()[(first + i) * dim..][..dim];
            let gate = gate.as_ref().map(|gate| gate.row(first + i));
            dispatch(isa, AddGated { x: row, y, gate });
        }
    });
}

/// `x *= y`, value by value.
pub fn mul_inplace(x: &mut Tensor, y: &Tensor) {
    let _span = spans::begin("pointwise", || (0.0, 2 * x.bytes() + y.bytes()));
    assert_eq!(x.shape(), y.shape(), "mul_inplace: shapes");
    if let Some(array) = x.array_mut() {
        let gpu = array.gpu().clone();
        body::mul_inplace(array, &y.array_on(&gpu));
        return spans::settle(&gpu);
    }
    let y = y.data();
    for_each_piece(x.data_mut(), |at, x| {
        x.iter_mut().zip(&y[at..]).for_each(|(x, y)| *x *= y);
    });
}

/// `x += gate * y` for one row.
struct AddGated<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
    gate: Option<&'a [f32]>,
}

impl Kernel for AddGated<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (x, y, len) = (self.x.as_mut_ptr(), self.y.as_ptr(), self.x.len());
        let mut at = 0;
        while at < len {
            let n = (len - at).min(S::LANES);
            // SAFETY: all rows have `len` values and `at + n <= len`.
            unsafe {
                let (a, b) = (S::load_n(x.add(at), n), S::load_n(y.add(at), n));
                let v = match self.gate {
                    Some(gate) => S::fma(S::load_n(gate.as_ptr().add(at), n), b, a),
                    None => S::add(a, b),
                };
                S::store_n(x.add(at), n, v);
            }
            at += n;
        }
    }
}

/// `x - y`, value by value, in the form of [`narrowed`].
pub fn difference(x: &Tensor, y: &Tensor) -> Tensor {
    let _span = spans::begin("pointwise", || (0.0, x.bytes() + y.bytes() + narrow_bytes(x)));
    assert_eq!(x.shape(), y.shape(), "difference: shapes");
    if let Some(array) = x.array() {
        let y = y.array_as(array.gpu(), array.element());
        let out = body::combine(&[(1.0, array), (-1.0, &y)], array.gpu().compute());
        spans::settle(array.gpu());
        return Tensor::from_array(x.shape(), out);
    }
    let mut out = x.clone();
    let y = y.data();
    for_each_piece(out.data_mut(), |at, x| {
        x.iter_mut().zip(&y[at..]).for_each(|(x, y)| *x -= y);
    });
    out
}

/// How far `x` is from `before`, beside the size of that: the mean of |x - before| through the mean of
/// |before|.
///
/// # Errors
/// As [`change`].
pub fn relative_change(x: &Tensor, before: &Tensor) -> Result<f64, GpuError> {
    let [change, size] = change(x, before)?;
    Ok(change / size)
}

/// Whether no value is infinite or not a number.
///
/// # Errors
/// As [`change`].
pub fn all_finite(x: &Tensor) -> Result<bool, GpuError> {
    if x.array().is_none() {
        return Ok(x.data().iter().all(|x| x.is_finite()));
    }
    // What is infinite, or no number, has no difference to itself.
    let [change, _] = change(x, x)?;
    Ok(change == 0.0)
}

/// The means of |x - before| and of |before|. Sums are f64 on the host; on a GPU f32 by block, and nothing else comes
/// back from there.
///
/// # Errors
/// What went wrong on the GPU, in this or before.
pub fn change(x: &Tensor, before: &Tensor) -> Result<[f64; 2], GpuError> {
    let _span = spans::begin("pointwise", || (0.0, x.bytes() + before.bytes()));
    assert_eq!(x.shape(), before.shape(), "change: shapes");
    let sums = match x.array() {
        Some(array) => body::change(array, &before.array_as(array.gpu(), array.element()))?,
        None => {
            let (x, before) = (x.data(), before.data());
            let change = x.iter().zip(before).map(|(&x, &b)| f64::from((x - b).abs())).sum();
            [change, before.iter().map(|&b| f64::from(b.abs())).sum()]
        }
    };
    let count = x.len().max(1) as f64;
    Ok(sums.map(|sum| sum / count))
}

/// Every value held between `least` and `most`.
pub fn clamp_inplace(x: &mut Tensor, least: f32, most: f32) {
    let _span = spans::begin("pointwise", || (0.0, 2 * x.bytes()));
    if let Some(array) = x.array_mut() {
        body::clamp_inplace(array, least, most);
        return spans::settle(array.gpu());
    }
    for_each_piece(x.data_mut(), |_, x| {
        x.iter_mut().for_each(|x| *x = x.clamp(least, most));
    });
}

/// Adds the one row of `row`, `[1, dim]`, to each row of `x`, `[rows, dim]`.
pub fn add_row(x: &mut Tensor, row: &Tensor) {
    let _span = spans::begin("pointwise", || (0.0, 2 * x.bytes()));
    assert!(
        row.shape() == [1, x.dim(1)],
        "add_row: {:?} to the rows of {:?}",
        row.shape(),
        x.shape()
    );
    if let Some(array) = x.array_mut() {
        let gpu = array.gpu().clone();
        body::add_row(array, &row.array_on(&gpu));
        return spans::settle(&gpu);
    }
    let row = row.data();
    for_each_rows(x.data_mut(), row.len(), |_, rows| {
        for x in rows.chunks_exact_mut(row.len()) {
            x.iter_mut().zip(row).for_each(|(x, r)| *x += r);
        }
    });
}

/// The values in the form that matrix products of this device are fed with: on a GPU what it
/// computes in, on the host as they are.
pub fn narrowed(x: Tensor) -> Tensor {
    let element = x.array().map(|array| array.gpu().compute());
    as_element(x, element)
}

/// The values in the form that sums along a film are kept in: `f32`, wherever they are.
pub fn widened(x: Tensor) -> Tensor {
    as_element(x, Some(Element::F32))
}

/// The values of a GPU as an element.
fn as_element(x: Tensor, element: Option<Element>) -> Tensor {
    let (Some(array), Some(element)) = (x.array(), element) else { return x };
    if array.element() == element {
        return x;
    }
    let _span = spans::begin("pointwise", || (0.0, x.bytes() + x.len() * element.bytes()));
    let other = body::convert(array, element);
    spans::settle(array.gpu());
    Tensor::from_array(x.shape(), other)
}
