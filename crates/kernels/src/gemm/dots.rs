//! Products of few rows: dot products along the weight's own rows, which need no packing.

use std::ops::Range;

use rayon::prelude::*;

use super::product::{Finish, SERIAL};
use super::{Matrix, with_scratch};
use crate::DType;
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Up to this many rows dot products beat packing.
pub(super) const DOT_ROWS: usize = 32;
/// Weight rows, and activation rows, whose products are summed at once.
const W_ROWS: usize = 2;
const A_ROWS: usize = 4;
/// Weight values of one task.
const TASK_VALUES: usize = 1 << 15;

pub(super) fn multiply<F: Finish>(isa: Isa, a: &[f32], rows: usize, matrix: &Matrix, finish: &F) {
    let (n, k) = (matrix.outputs(), matrix.inputs());
    let columns = (TASK_VALUES / k).clamp(W_ROWS, 64).next_multiple_of(W_ROWS);
    let task = |index: usize| {
        let columns = index * columns..((index + 1) * columns).min(n);
        with_scratch([rows * columns.len(), W_ROWS * k], |[sums, converted]| {
            dispatch(isa, Dots { a, rows, matrix, columns, sums, converted, finish });
        });
    };
    if rows * n * k <= SERIAL {
        (0..n.div_ceil(columns)).for_each(task);
    } else {
        (0..n.div_ceil(columns)).into_par_iter().for_each(task);
    }
}

struct Dots<'a, F> {
    a: &'a [f32],
    rows: usize,
    matrix: &'a Matrix,
    columns: Range<usize>,
    /// `[rows, columns]`.
    sums: &'a mut [f32],
    /// `[W_ROWS, k]`.
    converted: &'a mut [f32],
    finish: &'a F,
}

impl<F: Finish> Kernel for Dots<'_, F> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { a, rows, matrix, columns, sums, converted, finish } = self;
        let k = matrix.inputs();
        for (i, column) in columns.clone().enumerate().step_by(W_ROWS) {
            let pair = (columns.end - column).min(W_ROWS);
            let w: [*const f32; W_ROWS] = std::array::from_fn(|j| {
                // A missing second row repeats the first.
                let j = j.min(pair - 1);
                matrix.in_place(DType::F32, 1, column + j, 0).unwrap_or_else(|| {
                    let row = &mut converted[j * k..(j + 1) * k];
                    matrix.convert(column + j, 0, row);
                    row.as_ptr()
                })
            });
            let mut m = 0;
            // SAFETY: rows of A and W have `k` values.
            unsafe {
                let mut keep = |m: usize, found: &[[f32; W_ROWS]]| {
                    for (r, found) in found.iter().enumerate() {
                        for (j, value) in found.iter().enumerate().take(pair) {
                            sums[(m + r) * columns.len() + i + j] = *value;
                        }
                    }
                };
                while m + A_ROWS <= rows {
                    let a: [_; A_ROWS] = std::array::from_fn(|r| a.as_ptr().add((m + r) * k));
                    keep(m, &dots::<S, A_ROWS>(a, w, k));
                    m += A_ROWS;
                }
                while m < rows {
                    keep(m, &dots::<S, 1>([a.as_ptr().add(m * k)], w, k));
                    m += 1;
                }
            }
        }
        for row in 0..rows {
            // SAFETY: a row of sums holds the columns; tasks have columns of their own.
            unsafe {
                let sums = sums.as_ptr().add(row * columns.len());
                finish.row::<S>(row, columns.clone(), sums);
            }
        }
    }
}

// Plain indices: with iterators the sums do not always stay in registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn dots<S: Simd, const R: usize>(
    a: [*const f32; R],
    w: [*const f32; W_ROWS],
    k: usize,
) -> [[f32; W_ROWS]; R] {
    // SAFETY: the caller vouches for `k` values behind every pointer.
    unsafe {
        let mut sums = [[S::splat(0.0); W_ROWS]; R];
        let mut at = 0;
        while at < k {
            let n = (k - at).min(S::LANES);
            let mut columns = [S::splat(0.0); W_ROWS];
            for j in 0..W_ROWS {
                columns[j] = S::load_n(w[j].add(at), n);
            }
            for r in 0..R {
                let value = S::load_n(a[r].add(at), n);
                for j in 0..W_ROWS {
                    sums[r][j] = S::fma(value, columns[j], sums[r][j]);
                }
            }
            at += S::LANES;
        }
        let mut found = [[0.0; W_ROWS]; R];
        for r in 0..R {
            for j in 0..W_ROWS {
                found[r][j] = S::sum(sums[r][j]);
            }
        }
        found
    }
}
