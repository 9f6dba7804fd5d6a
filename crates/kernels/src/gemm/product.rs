//! `C = A W^T` with a weight in its stored format, and what is done with each row of C.

use std::ops::Range;

use rayon::prelude::*;

use super::dots::{self, DOT_ROWS};
use super::matrix::Packed;
use super::{DEPTH, Matrix, OfPairs, OfSingles, Segment, Terms, Tile, panel_offset, with_scratch};
use crate::simd::{Isa, Kernel, PairKernel, Pairs, Simd, dispatch, dispatch_pairs};

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

/// What is multiplied. Sums are `f32` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// On the processor `f32`: activations as they are, weights as they are stored. On a GPU what its activations
    /// are.
    #[default]
    F32,
    /// Both sides rounded to bf16 on a processor where that is twice as fast ([`Isa::has_pairs`]); elsewhere as
    /// `F32`.
    Bf16,
    /// 8-bit floats: what is multiplied with a weight in e4m3 becomes that too, with a factor for each row. A GPU
    /// from Ada on multiplies them at twice the rate of bf16; the processor rounds in the same way and is not
    /// faster. Of layers alone; attention takes it as `F32`.
    Fp8,
}

impl Products {
    /// Whether this processor multiplies pairs of bf16 for it.
    pub fn are_pairs(self) -> bool {
        self.of_pairs(Isa::current())
    }

    /// Whether `isa` multiplies pairs for it.
    pub(crate) fn of_pairs(self, isa: Isa) -> bool {
        self == Self::Bf16 && isa.has_pairs()
    }
}

/// Multiplies the rows of `a` (`[rows, inputs]`) with `matrix` and hands each result to `finish`.
pub(crate) fn multiply<F: Finish>(a: &[f32], matrix: &Matrix, products: Products, finish: &F) {
    let (n, k) = (matrix.outputs(), matrix.inputs());
    if n == 0 || a.is_empty() {
        return;
    }
    let rows = a.len() / k;
    let isa = Isa::current();
    // Dots sum in another order than panels. A matrix that has its panels always uses them, so that a
    // row's result does not depend on how many there are: the VAE's streams count on it.
    let pairs = products.of_pairs(isa);
    let packed = if pairs { None } else { matrix.packed(isa) };
    if packed.is_none() && !pairs && rows <= DOT_ROWS {
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
        let deepest = deepest(k, pairs);
        let sums = if k > deepest { rows.len() } else { BLOCK_ROWS.min(rows.len()) };
        let places = deepest / if pairs { 2 } else { 1 };
        let fresh = if packed.is_none() { places } else { 0 };
        let converted = if packed.is_none() { isa.tile_columns() * deepest } else { 0 };
        let narrowed = if pairs { BLOCK_ROWS * places } else { 0 };
        let lengths = [sums * wide, wide * fresh, converted, narrowed];
        with_scratch(lengths, |[sums, b_block, converted, narrowed]| {
            let buffers = Buffers { sums, b_block, converted, narrowed };
            let block = Block { a, matrix, packed, rows, columns, buffers, finish };
            match pairs {
                true => dispatch_pairs(isa, block),
                false => dispatch(isa, block),
            }
        });
    };
    if serial {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Values of `k` in one block. Of pairs it takes twice as many to be as long at it, and up to four times as many
/// are better in one block than in two that put sums down between them.
fn deepest(k: usize, pairs: bool) -> usize {
    match pairs {
        false => DEPTH,
        true if k <= 4 * DEPTH => 4 * DEPTH,
        true => 2 * DEPTH,
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
    /// `[NR, values of a panel's depth]` of W as `f32`.
    converted: &'a mut [f32],
    /// `[BLOCK_ROWS, DEPTH]` pairs of A, where it is those that are multiplied.
    narrowed: &'a mut [f32],
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
        // SAFETY: the caller vouches for the features.
        unsafe { self.rectangle::<S, OfSingles>() }
    }
}

impl<F: Finish> PairKernel for Block<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Pairs>(self) {
        // SAFETY: the caller vouches for the features.
        unsafe { self.rectangle::<S, OfPairs>() }
    }
}

impl<F: Finish> Block<'_, F> {
    #[inline(always)]
    unsafe fn rectangle<S: Simd, T: Terms<S>>(self) {
        let Self { a, matrix, packed, rows, columns, buffers, finish } = self;
        let k = matrix.inputs();
        let panels = columns.start / S::NR..columns.end.div_ceil(S::NR);
        let all_panels = matrix.outputs().div_ceil(S::NR);
        let c_row = panels.len() * S::NR;
        let all_sums = buffers.sums.as_mut_ptr();
        let deepest = deepest(k, T::VALUES == 2);
        for k0 in (0..k).step_by(deepest) {
            let depth = deepest.min(k - k0);
            let places = depth.div_ceil(T::VALUES);
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
                        matrix.pack_block::<S, T>(panels.clone(), k0, depth, to, converted);
                        to.cast_const()
                    }
                };
                for m0 in rows.clone().step_by(BLOCK_ROWS) {
                    let block = m0..(m0 + BLOCK_ROWS).min(rows.end);
                    let from = a.as_ptr().add(m0 * k + k0);
                    let narrowed = buffers.narrowed.as_mut_ptr();
                    let (from, a_row) = T::rows(from, k, block.len(), depth, narrowed);
                    // Where one block of `k` is all, the sums of all blocks of rows take turns in
                    // one place.
                    let sums =
                        all_sums.add(if k > deepest { (m0 - rows.start) * c_row } else { 0 });
                    for panel in 0..panels.len() {
                        let first = (panels.start + panel) * S::NR;
                        let vectors = if columns.end - first <= S::LANES { 1 } else { 2 };
                        let b = b.add(panel * places * S::NR);
                        for r in (0..block.len()).step_by(S::rows(vectors)) {
                            let a = from.add(r * a_row);
                            let c = sums.add(r * c_row + panel * S::NR);
                            let tile = Tile {
                                segments: &[Segment { a, b }],
                                depth: places,
                                a_row,
                                c,
                                c_row,
                                accumulate: k0 > 0,
                            };
                            T::tile((block.len() - r).min(S::rows(vectors)), vectors, &tile);
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
