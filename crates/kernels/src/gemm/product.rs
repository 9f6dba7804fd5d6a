//! `C = A W^T` with a weight in its stored format, and what is done with each row of C.

use std::ops::Range;

use rayon::prelude::*;

use super::dots::{self, DOT_ROWS};
use super::matrix::Packed;
use super::{DEPTH, Matrix, Segment, Tile, panel_offset, with_scratch};
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Rows of A in one block: with `DEPTH` values each they stay in the second cache while all panels of
/// the task pass by.
const BLOCK_ROWS: usize = 48;
/// Rows and columns of one task at most.
const TASK_ROWS: usize = 1024;
const TASK_COLUMNS: usize = 1024;
/// Products up to this many multiplications are not worth waking another thread.
pub(super) const SERIAL: usize = 1 << 16;
/// A task below this many multiplications is not split further.
const TASK: usize = 1 << 20;

/// What becomes of the sums, by rows. Implement `row` as `#[inline(always)]`.
pub(crate) trait Finish: Sync {
    /// Takes the sums of `columns` of row `row`.
    ///
    /// # Safety
    /// `sums` points at `columns.len()` values; the CPU has the features of `S`; no two calls get
    /// the same value.
    unsafe fn row<S: Simd>(&self, row: usize, columns: Range<usize>, sums: *const f32);
}

/// Multiplies the rows of `a` (`[rows, inputs]`) with `matrix` and hands each result to `finish`.
pub(crate) fn multiply<F: Finish>(a: &[f32], matrix: &Matrix, finish: &F) {
    let (n, k) = (matrix.outputs(), matrix.inputs());
    if n == 0 || a.is_empty() {
        return;
    }
    let rows = a.len() / k;
    let isa = Isa::current();
    // Dots sum in another order than panels. A matrix that has its panels always uses them, so that a
    // row's result does not depend on how many there are: the VAE's streams count on it.
    let packed = matrix.packed(isa);
    if packed.is_none() && rows <= DOT_ROWS {
        return dots::multiply(isa, a, rows, matrix, finish);
    }

    let serial = rows * n * k <= SERIAL;
    let (block_rows, block_columns) = split(isa, rows, n, k, serial);
    let row_tasks = rows.div_ceil(block_rows);
    let tasks = row_tasks * n.div_ceil(block_columns);
    let task = |index: usize| {
        let (m0, n0) = (index % row_tasks * block_rows, index / row_tasks * block_columns);
        let rows = m0..(m0 + block_rows).min(rows);
        let columns = n0..(n0 + block_columns).min(n);
        let wide = columns.len().next_multiple_of(isa.tile_columns());
        let fresh = if packed.is_none() { DEPTH } else { 0 };
        let sums = if k > DEPTH { rows.len() } else { BLOCK_ROWS.min(rows.len()) };
        let lengths = [sums * wide, wide * fresh, isa.tile_columns() * fresh];
        with_scratch(lengths, |[sums, b_block, converted]| {
            let buffers = Buffers { sums, b_block, converted };
            dispatch(isa, Block { a, matrix, packed, rows, columns, buffers, finish });
        });
    };
    if serial {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// How many tasks a piece of work should be cut into, if it is large enough: several for each thread,
/// so that none waits long for the last.
pub(crate) fn wanted_tasks() -> usize {
    match rayon::current_num_threads() {
        1 => 1,
        threads => 4 * threads,
    }
}

/// The rows and columns of one task: large enough that packing W is a small part of the work, small
/// enough that there are several tasks for each thread.
fn split(isa: Isa, rows: usize, n: usize, k: usize, serial: bool) -> (usize, usize) {
    let (mut m, mut w) = (TASK_ROWS.min(rows), TASK_COLUMNS.min(n));
    let wanted = if serial { 1 } else { wanted_tasks() };
    while rows.div_ceil(m) * n.div_ceil(w) < wanted && m * w * k > TASK {
        if w > 256 || (m <= 192 && w > 64) {
            w = w.div_ceil(2);
        } else if m > 24 {
            m = m.div_ceil(2);
        } else {
            break;
        }
    }
    // Even parts in whole tiles.
    let m = rows.div_ceil(rows.div_ceil(m)).next_multiple_of(isa.tile_rows(n));
    let w = n.div_ceil(n.div_ceil(w)).next_multiple_of(isa.tile_columns());
    (m, w)
}

struct Buffers<'a> {
    /// `[rows, columns in whole panels]`; as many rows as one block has where `k` is one block.
    sums: &'a mut [f32],
    /// Panels of one block of W, when they are not kept.
    b_block: &'a mut [f32],
    /// `[NR, DEPTH]` values of W as `f32`.
    converted: &'a mut [f32],
}

/// One rectangle of C.
struct Block<'a, F> {
    a: &'a [f32],
    matrix: &'a Matrix,
    packed: Option<&'a Packed>,
    rows: Range<usize>,
    columns: Range<usize>,
    buffers: Buffers<'a>,
    finish: &'a F,
}

impl<F: Finish> Kernel for Block<'_, F> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { a, matrix, packed, rows, columns, buffers, finish } = self;
        let k = matrix.inputs();
        let panels = columns.start / S::NR..columns.end.div_ceil(S::NR);
        let all_panels = matrix.outputs().div_ceil(S::NR);
        let c_row = panels.len() * S::NR;
        let all_sums = buffers.sums.as_mut_ptr();
        for k0 in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - k0);
            // SAFETY: the buffers have the sizes given at their fields, the packed panels those of
            // `panel_offset`, and A and W their shapes. Rectangles of C do not overlap.
            unsafe {
                let b = match packed {
                    Some(packed) => {
                        let offset = panel_offset(k0, depth, all_panels, panels.start, S::NR);
                        packed.values.as_slice()[offset..].as_ptr()
                    }
                    None => {
                        let to = buffers.b_block.as_mut_ptr();
                        let converted = &mut *buffers.converted;
                        matrix.pack_block::<S>(panels.clone(), k0, depth, to, converted);
                        to.cast_const()
                    }
                };
                for m0 in rows.clone().step_by(BLOCK_ROWS) {
                    let block = m0..(m0 + BLOCK_ROWS).min(rows.end);
                    // Where one block of `k` is all, the sums of all blocks of rows take turns in
                    // one place.
                    let sums = all_sums.add(if k > DEPTH { (m0 - rows.start) * c_row } else { 0 });
                    for panel in 0..panels.len() {
                        let first = (panels.start + panel) * S::NR;
                        let vectors = if columns.end - first <= S::LANES { 1 } else { 2 };
                        let b = b.add(panel * depth * S::NR);
                        for r in (0..block.len()).step_by(S::rows(vectors)) {
                            let a = a.as_ptr().add((m0 + r) * k + k0);
                            let c = sums.add(r * c_row + panel * S::NR);
                            let tile = Tile {
                                segments: &[Segment { a, b }],
                                depth,
                                a_row: k,
                                c,
                                c_row,
                                accumulate: k0 > 0,
                            };
                            S::tile((block.len() - r).min(S::rows(vectors)), vectors, &tile);
                        }
                    }
                    // While the sums are still near.
                    if k0 + depth == k {
                        for (r, row) in block.enumerate() {
                            finish.row::<S>(row, columns.clone(), sums.add(r * c_row));
                        }
                    }
                }
            }
        }
    }
}
